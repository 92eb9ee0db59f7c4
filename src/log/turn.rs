//! Taking turns at work that syncs: sealing, cutting, trimming, closing.
//!
//! A flag and a condition variable instead of a held lock: whoever has the turn may wait for the
//! disk, and nobody who only wants to look is kept out.

use crate::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Lock rank: leaf.
    taken: Mutex<bool>,
    freed: Condvar,
}

impl Turn {
    /// Waits until nobody has the turn, and takes it.
    pub(crate) fn take(&self) -> TurnGuard<'_> {
        let mut taken = self.taken.lock();
        while *taken {
            self.freed.wait(&mut taken);
        }
        *taken = true;
        TurnGuard { turn: self }
    }
}

/// The turn; dropping it passes it on.
#[derive(Debug)]
pub(crate) struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        *self.turn.taken.lock() = false;
        self.turn.freed.notify_one();
    }
}
