//! Taking turns at work that syncs: sealing, cutting, trimming, closing.
//!
//! A flag and a condition variable instead of a held lock: whoever has the turn may wait for the
//! disk, and nobody who only wants to look is kept out. In the order of arrival: else whoever seals
//! one file after the other would have the turn again before anybody who waits for it has woken.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

/// How long who would rather not wait does so before it looks again.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Lock rank: leaf.
    queue: Mutex<Queue>,
    freed: Condvar,
}

/// Numbers are given out as at a counter.
#[derive(Debug, Default)]
struct Queue {
    next: u64,
    served: u64,
    /// Numbers of those who did not wait so long.
    gone: BTreeSet<u64>,
}

impl Queue {
    /// The next one's turn, of those who still wait.
    fn pass_on(&mut self) {
        self.served += 1;
        while self.gone.remove(&self.served) {
            self.served += 1;
        }
    }
}

impl Turn {
    /// Waits until nobody who came before has the turn, and takes it.
    pub(crate) fn take(&self) -> TurnGuard<'_> {
        let mut queue = self.queue.lock();
        let number = queue.next;
        queue.next += 1;
        while queue.served != number {
            self.freed.wait(&mut queue);
        }
        TurnGuard { turn: self }
    }

    /// The same, for as long as the wait is of use: whoever has the turn may be in a call of a disk
    /// that hangs.
    pub(crate) fn take_while(&self, is_of_use: impl Fn() -> bool) -> Option<TurnGuard<'_>> {
        let mut queue = self.queue.lock();
        let number = queue.next;
        queue.next += 1;
        while queue.served != number {
            if !is_of_use() {
                queue.gone.insert(number);
                return None;
            }
            self.freed.wait_until(&mut queue, Instant::now() + PATIENCE);
        }
        Some(TurnGuard { turn: self })
    }

    /// How many have the turn, or wait for it.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> u64 {
        let queue = self.queue.lock();
        queue.next - queue.served
    }
}

/// The turn; dropping it passes it on.
#[derive(Debug)]
pub(crate) struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.turn.queue.lock().pass_on();
        // Whose number it is, is not known here; there are never many.
        self.turn.freed.notify_all();
    }
}

#[cfg(all(test, not(plimsoll_model)))]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_in_the_order_of_arrival() {
        let turn = Turn::default();
        let order = Mutex::new(Vec::new());
        let (turn, order) = (&turn, &order);
        thread::scope(|scope| {
            let first = turn.take();
            for name in 1..4 {
                scope.spawn(move || {
                    let _turn = turn.take();
                    order.lock().expect("no panic").push(name);
                });
                while turn.queued() <= name {
                    thread::yield_now();
                }
            }
            drop(first);
            // At once again, before any of them is awake.
            let _turn = turn.take();
            order.lock().expect("no panic").push(4);
        });
        assert_eq!(*order.lock().expect("no panic"), [1, 2, 3, 4]);
    }

    #[test]
    fn who_gives_up_is_passed_over() {
        let turn = Turn::default();
        let first = turn.take();
        assert!(turn.take_while(|| false).is_none());
        assert!(turn.take_while(|| false).is_none());
        drop(first);
        drop(turn.take_while(|| false).expect("nobody has it"));
        drop(turn.take());
    }
}
