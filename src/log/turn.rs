//! Taking turns at work that syncs: sealing, cutting, trimming, closing.
//!
//! A flag and a condition variable instead of a held lock: whoever has the turn may wait for the
//! disk, and nobody who only wants to look is kept out. In the order of arrival: else whoever seals
//! one file after the other would have the turn again before anybody who waits for it has woken.

use crate::sync::{Condvar, Mutex};

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
        self.turn.queue.lock().served += 1;
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
}
