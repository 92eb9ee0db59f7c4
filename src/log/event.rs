//! Publish and wake: a sleeper never misses what was published, and publishing costs one fence
//! and one load while nobody sleeps.
//!
//! The two sides are a Dekker pair. Publisher: store the new end, `SeqCst` fence, load the count
//! of sleepers. Sleeper: raise the count, `SeqCst` fence, load the end once more, sleep. Whichever
//! fence comes first in the total order, at least one side sees the other's store: either the
//! publisher finds a sleeper and wakes it, or the sleeper finds the new end and does not sleep.
//!
//! Threads   an [`Event`] belongs to one sleeping side (a consumer) and may be registered with many
//!           [`Watchers`] (its partitions); anyone may notify it.

use std::sync::Arc;
use std::time::Instant;

use crate::sync::atomic::{AtomicUsize, Ordering, fence};
use crate::sync::{Condvar, Mutex};

/// What one consumer sleeps on: a counter that every notification raises.
#[derive(Debug, Default)]
pub(crate) struct Event {
    /// Lock rank: leaf.
    count: Mutex<u64>,
    raised: Condvar,
}

impl Event {
    /// The counter, to be read before the last look and given to [`Event::wait`].
    pub(crate) fn ticket(&self) -> u64 {
        *self.count.lock()
    }

    /// Raises the counter and wakes the sleepers.
    pub(crate) fn notify(&self) {
        *self.count.lock() += 1;
        self.raised.notify_all();
    }

    /// Sleeps until the counter has left `ticket` or the deadline has passed (`None`: for ever).
    /// False at the deadline.
    pub(crate) fn wait(&self, ticket: u64, deadline: Option<Instant>) -> bool {
        let mut count = self.count.lock();
        while *count == ticket {
            match deadline {
                None => self.raised.wait(&mut count),
                Some(at) => {
                    if self.raised.wait_until(&mut count, at).timed_out() {
                        return *count != ticket;
                    }
                }
            }
        }
        true
    }
}

/// Who wants to know when a log moves.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// How many registered events have a sleeper, or are about to. Raised by the sleeper before
    /// its last look, read by the publisher after its store: see the Dekker pair above.
    sleepers: AtomicUsize,
    /// Lock rank: leaf.
    events: Mutex<Vec<Arc<Event>>>,
}

impl Watchers {
    /// Registers an event for as long as the guard lives. The caller looks once more *after* this
    /// and only then waits.
    pub(crate) fn sleep(self: &Arc<Self>, event: &Arc<Event>) -> Sleeper {
        self.events.lock().push(Arc::clone(event));
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Sleeper { watchers: Arc::clone(self), event: Arc::clone(event) }
    }

    /// To be called after the store of what moved. Costs a fence and a load if nobody sleeps.
    #[inline]
    pub(crate) fn moved(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.notify();
        }
    }

    #[cold]
    fn notify(&self) {
        // Notified outside the lock: a woken consumer at once deregisters, which takes it.
        let events: Vec<_> = self.events.lock().clone();
        for event in events {
            event.notify();
        }
    }
}

/// A registration; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Sleeper {
    watchers: Arc<Watchers>,
    event: Arc<Event>,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.watchers.sleepers.fetch_sub(1, Ordering::Relaxed);
        let mut events = self.watchers.events.lock();
        if let Some(at) = events.iter().position(|event| Arc::ptr_eq(event, &self.event)) {
            events.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    #[test]
    fn a_deadline_that_passed_ends_the_wait() {
        let event = Event::default();
        let ticket = event.ticket();
        assert!(!event.wait(ticket, Some(Instant::now())));
        event.notify();
        assert!(event.wait(ticket, Some(Instant::now())));
    }

    #[test]
    fn a_sleeper_never_misses_what_was_published() {
        const ROUNDS: u64 = 20_000;
        let watchers = Arc::new(Watchers::default());
        let end = Arc::new(AtomicU64::new(0));
        let publisher = {
            let (watchers, end) = (Arc::clone(&watchers), Arc::clone(&end));
            thread::spawn(move || {
                for round in 1..=ROUNDS {
                    end.store(round, Ordering::Release);
                    watchers.moved();
                }
            })
        };
        let event = Arc::new(Event::default());
        let mut seen = 0;
        while seen < ROUNDS {
            let ticket = event.ticket();
            let _sleeper = watchers.sleep(&event);
            let now = end.load(Ordering::Acquire);
            if now == seen {
                // A lost wake-up would hang here for ever.
                event.wait(ticket, None);
            }
            seen = end.load(Ordering::Acquire);
        }
        publisher.join().expect("the publisher does not panic");
        assert_eq!(watchers.sleepers.load(Ordering::Relaxed), 0);
        assert!(watchers.events.lock().is_empty());
    }
}
