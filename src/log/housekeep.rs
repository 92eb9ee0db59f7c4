//! What a log needs done that no caller waits for: seals, syncs by interval, slots when idle,
//! and what retention lets go (`retain`).
//!
//! Not here: the thread that calls this (`broker`).

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Durability, IDLE_SLOT_AFTER};
use crate::error::Result;
use crate::id::{Incarnation, Offset};
use crate::log::core::Log;
use crate::log::segment::Segment;
use crate::sync::Mutex;
use crate::sync::atomic::{Ordering, fence};
use crate::trace;

/// When a log wants to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is more to be done.
    AtOnce,
    /// When it says so.
    WhenTold,
    /// After this long at the latest.
    Within(Duration),
}

/// What the last look saw. Lock rank: leaf.
#[derive(Debug)]
pub(crate) struct Watch(Mutex<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    end: Offset,
    /// When the end was first seen there.
    since: Option<Duration>,
    synced_at: Option<Duration>,
    /// What the newest slot says is durable.
    slot: Offset,
    /// Files that begin below it have been told of.
    told: Offset,
}

impl Watch {
    pub(crate) fn new(slot: Offset) -> Self {
        let (end, told) = (Offset::ZERO, Offset::ZERO);
        Self(Mutex::new(Seen { end, since: None, synced_at: None, slot, told }))
    }
}

impl Log {
    /// Does what is due at `now`, a time that never goes back; of what takes long only a part.
    /// After an error the log halted, or there is no room; it says when to try again all the same.
    pub(crate) fn housekeep(&self, now: Duration) -> (Next, Result<()>) {
        // Cleared before the look: whoever urges after it is looked at again.
        self.urged.swap(false, Ordering::AcqRel);
        self.tell_rolls();
        if self.latch.check().is_err() {
            return (Next::WhenTold, Ok(()));
        }
        // One at a time: 1. a busy log has always another one; 2. what is too much of it would
        // never go, and nobody would look at any other log.
        let sealed = self.seal_one();
        // After a seal there is one more that may go, by size. And where a seal fails: on a full
        // disk this is what makes room.
        let kept = if let Ok(false) = sealed { Ok(()) } else { self.retain() };
        // Whether or not the seal succeeded: 1. a full disk has no room for a file's sections; 2.
        // appends go on in what the next file has; 3. nothing syncs them; 4. a power cut takes
        // them.
        let synced = self.sync_if_due(now);
        self.plan_retention();
        let kept = kept.and_then(|()| self.retain_if_due());
        match (sealed, synced) {
            (Ok(true), synced) => (Next::AtOnce, synced.and(kept)),
            // What retention failed at is tried again at a time of its own.
            (Ok(false), Ok(Some(within))) => (Next::Within(within), kept),
            (Ok(false), Ok(None)) if self.rests() => (Next::WhenTold, kept),
            (Ok(false), Ok(None)) => (Next::Within(IDLE_SLOT_AFTER), kept),
            (Err(error), Ok(Some(within))) => {
                (Next::Within(within.min(IDLE_SLOT_AFTER)), Err(error))
            }
            (Err(error), _) | (_, Err(error)) => (Next::Within(IDLE_SLOT_AFTER), Err(error)),
        }
    }

    /// The same until there is nothing more to be done at once.
    pub(crate) fn housekeep_all(&self, now: Duration) -> (Next, Result<()>) {
        loop {
            match self.housekeep(now) {
                (Next::AtOnce, Ok(())) => {}
                ended => return ended,
            }
        }
    }

    /// Tells which files were begun since the last look: a roll itself holds the writer lock, under
    /// which nothing of the application's is called.
    fn tell_rolls(&self) {
        if !cfg!(feature = "tracing") {
            return;
        }
        let list = self.segments();
        let told = self.watch.0.lock().told;
        let ours = |s: &&Arc<Segment>| s.base >= told && s.trusted_from == s.first_position;
        for segment in list.iter().filter(ours) {
            trace::event!(
                INFO,
                topic = %self.place.topic,
                partition = self.place.partition().get(),
                base_offset = segment.base.get(),
                "a segment was begun"
            );
            self.watch.0.lock().told = segment.base.next();
        }
    }

    /// Lets the next append tell the housekeeper; false if one has come already.
    ///
    /// While the log is looked at again by itself, appends need not tell anybody, which saves each
    /// of them a wake-up. The flag and the end are a Dekker pair with `Partition::append`: it
    /// stores the end, fences, loads the flag; this stores the flag, fences, loads the end.
    fn rests(&self) -> bool {
        self.queued.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.end_offset() == self.watch.0.lock().end {
            return true;
        }
        self.queued.store(true, Ordering::Release);
        false
    }

    /// `None`: nothing is unsynced, and the slot says so.
    fn sync_if_due(&self, now: Duration) -> Result<Option<Duration>> {
        let end = self.end_offset();
        let mut seen = *self.watch.0.lock();
        if seen.end != end || seen.since.is_none() {
            (seen.end, seen.since) = (end, Some(now));
        }
        let idle = seen.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let mut wait = None;
        match self.options.durability {
            // Whoever waits for an append syncs it; this is for those that nobody waits for.
            Durability::Fsync => self.sync_to(end)?,
            Durability::Interval(interval) => {
                // Counted from when everything was last seen durable: an append that comes right
                // after a look is not told of, so the looks go on at this interval until the log
                // rests.
                let last = *seen.synced_at.get_or_insert(now);
                let past = now.saturating_sub(last);
                let due = self.durable_offset() < end && past >= interval;
                if due {
                    self.sync_to(end)?;
                }
                if due || self.durable_offset() >= end {
                    seen.synced_at = Some(now);
                    wait = Some(interval);
                } else {
                    wait = Some(interval.saturating_sub(past));
                }
            }
            // Not promised, but cheap while the log rests, and who reads beside us sees it then.
            Durability::Os if idle >= IDLE_SLOT_AFTER => self.sync_to(end)?,
            Durability::Os => {}
        }
        let durable = self.durable_offset();
        if idle < IDLE_SLOT_AFTER {
            let rest = IDLE_SLOT_AFTER.saturating_sub(idle);
            wait = Some(wait.map_or(rest, |w: Duration| w.min(rest)));
        } else {
            // At rest: the next append tells.
            wait = wait.filter(|_| durable < end);
        }
        if idle >= IDLE_SLOT_AFTER && durable > seen.slot {
            self.write_idle_slot()?;
            seen.slot = durable;
        }
        *self.watch.0.lock() = seen;
        Ok(wait)
    }

    /// Says in the newest file what is durable, with a sync of its own: appends rest.
    fn write_idle_slot(&self) -> Result<()> {
        let _turn = self.turn.take();
        // Not before: it may have waited for a close, after which nothing is written.
        self.latch.check()?;
        let list = self.segments();
        let Some(newest) = list.last() else { return Ok(()) };
        let Some(file) = newest.held_file(self.disk.as_ref())? else { return Ok(()) };
        self.write_slot(newest, file.as_ref(), self.start_offset(), Incarnation::new(0))?;
        // Through the commit, where a sync of this file may be going on.
        self.sync_now()
    }
}
