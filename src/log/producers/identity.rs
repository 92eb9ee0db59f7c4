//! Who appends: [`ProducerIdentity`], and [`LiveProducers`], which knows who may.
//!
//! Not here: the numbers of a producer's records, which are a partition's matter (`table`); names
//! and their epochs on the medium (`broker`).
//!
//! An anonymous producer has an id that no other ever gets, from the incarnation of the volume and
//! a count. It lives as long as its handle. Nobody can come back as one that is gone, so that
//! its rows may go at any time; those of one that lives never do. A named one keeps its id, and its
//! rows, over restarts; each holder of the name has a higher epoch than the one before.
//!
//! Threads   any.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Fenced, Result};
use crate::fs::ForkMark;
use crate::id::{Incarnation, ProducerEpoch, ProducerId};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, Ordering};

/// How many anonymous producers a broker may have at a time.
const ANONYMOUS_MAX: usize = 65_536;
/// The bits of an anonymous id that count the producers of one incarnation.
const COUNT_BITS: u32 = 32;
/// And those that tell the incarnation.
const INCARNATION_BITS: u32 = 30;
const _: () = assert!(1 << (COUNT_BITS + INCARNATION_BITS) == ProducerId::NAMED_BIT);

/// Who appends.
#[derive(Debug)]
pub(crate) struct ProducerIdentity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Anonymous(Arc<LiveProducers>),
    Named(Arc<Name>),
}

/// A name, and the epoch of whoever holds it.
#[derive(Debug)]
struct Name {
    name: Arc<str>,
    /// Stored by the broker, with the change durable, before the new holder has its handle. Read by
    /// appends under the lock of a log's writer: whoever takes that lock later sees it, and what
    /// took it before is in the table that the new holder reads.
    epoch: AtomicU32,
}

impl ProducerIdentity {
    /// Refuses a holder whose name somebody else has taken since.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        match &self.kind {
            Kind::Anonymous(_) => Ok(()),
            Kind::Named(name) => {
                let current = name.epoch.load(Ordering::Acquire);
                if current == self.epoch.get() {
                    Ok(())
                } else {
                    Err(self.fenced_by(ProducerEpoch::new(current)))
                }
            }
        }
    }

    /// The error of a holder that was fenced.
    #[cold]
    pub(crate) fn fenced_by(&self, current: ProducerEpoch) -> Error {
        let name = match &self.kind {
            Kind::Anonymous(_) => Arc::from(""),
            Kind::Named(name) => Arc::clone(&name.name),
        };
        let (epoch, current) = (self.epoch.get(), current.get());
        Error::ProducerFenced(Box::new(Fenced { name, epoch, current }))
    }
}

impl Drop for ProducerIdentity {
    fn drop(&mut self) {
        if let Kind::Anonymous(producers) = &self.kind
            // The child's copy of the lock may be locked for ever.
            && !producers.fork.is_forked()
        {
            producers.state.lock().live.remove(&self.id);
        }
    }
}

/// The producers of a broker that may append: those with a name, and those without one that have
/// not been dropped.
#[derive(Debug)]
pub(crate) struct LiveProducers {
    fork: Arc<ForkMark>,
    /// Lock rank: leaf.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    first: u64,
    made: u64,
    live: HashSet<ProducerId>,
    names: HashMap<ProducerId, Arc<Name>>,
}

#[cfg(test)]
impl Default for LiveProducers {
    fn default() -> Self {
        Self::of_tests(Incarnation::new(1))
    }
}

#[cfg(test)]
impl LiveProducers {
    /// With one mark for all of them: tests open a million logs, and a mark is a mapping.
    pub(crate) fn of_tests(incarnation: Incarnation) -> Self {
        static FORK: std::sync::OnceLock<Arc<ForkMark>> = std::sync::OnceLock::new();
        Self::new(incarnation, Arc::clone(FORK.get_or_init(|| Arc::new(ForkMark::new()))))
    }
}

impl LiveProducers {
    pub(crate) fn new(incarnation: Incarnation, fork: Arc<ForkMark>) -> Self {
        let producers = Self { fork, state: Mutex::default() };
        producers.count_from(incarnation);
        producers
    }

    /// Takes ids from this incarnation. Before any was given.
    pub(crate) fn count_from(&self, incarnation: Incarnation) {
        let of_incarnation = incarnation.get() & ((1 << INCARNATION_BITS) - 1);
        let mut state = self.state.lock();
        debug_assert_eq!(state.made, 0);
        state.first = of_incarnation << COUNT_BITS;
    }

    /// What the ids of anonymous producers are taken from.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.state.lock().first >> COUNT_BITS)
    }

    /// A producer that nobody was before.
    ///
    /// # Errors
    /// `InvalidConfig` with too many of them.
    pub(crate) fn make(self: &Arc<Self>) -> Result<ProducerIdentity> {
        let mut state = self.state.lock();
        if state.live.len() >= ANONYMOUS_MAX {
            let why = "at most 65,536 without a name at a time: share them, their calls take &self";
            return Err(Error::invalid_config("producers", why));
        }
        if state.made >> COUNT_BITS != 0 {
            let why = "at most 4,294,967,296 until the broker is opened again";
            return Err(Error::invalid_config("producers", why));
        }
        let id = ProducerId::new(state.first + state.made);
        state.made += 1;
        state.live.insert(id);
        Ok(ProducerIdentity {
            id,
            epoch: ProducerEpoch::default(),
            kind: Kind::Anonymous(Arc::clone(self)),
        })
    }

    /// The holder of a name as of an epoch, whose change is durable: a holder of an older one is
    /// fenced.
    pub(crate) fn hold(
        &self,
        id: ProducerId,
        epoch: ProducerEpoch,
        name: &str,
    ) -> ProducerIdentity {
        debug_assert!(id.is_named());
        let mut state = self.state.lock();
        let held = state.names.entry(id).or_insert_with(|| {
            Arc::new(Name { name: Arc::from(name), epoch: AtomicU32::new(epoch.get()) })
        });
        held.epoch.fetch_max(epoch.get(), Ordering::AcqRel);
        ProducerIdentity { id, epoch, kind: Kind::Named(Arc::clone(held)) }
    }

    /// The name is gone, and whoever held it is fenced.
    pub(crate) fn end(&self, id: ProducerId) {
        if let Some(name) = self.state.lock().names.remove(&id) {
            name.epoch.store(u32::MAX, Ordering::Release);
        }
    }

    /// True if something may still be appended as this producer: then its row stays.
    pub(crate) fn may_append(&self, id: ProducerId) -> bool {
        let state = self.state.lock();
        state.names.contains_key(&id) || state.live.contains(&id)
    }
}
