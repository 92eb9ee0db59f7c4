//! The first failure of a log, remembered: everything after it is refused with that cause.
//!
//! | state | appends | syncs | reads |
//! | --- | --- | --- | --- |
//! | open | yes | yes | to the high watermark |
//! | halted (a sync failed, or a write left bytes that could not be taken back) | `Halted` | `Halted` | to the durable offset |
//! | closed (the broker closed, or the topic was deleted) | `Closed` | `Closed` | as before |
//! | refused at open (its files are of a newer version, or are no files) | the cause | the cause | the cause: nothing was read of it |
//!
//! Threads   set by whoever fails, read by everyone. The cause is written before the flag
//!           (Release), so who sees the flag (Acquire) finds the cause.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Latch {
    set: AtomicBool,
    /// Lock rank: leaf.
    cause: Mutex<Option<Error>>,
}

impl Latch {
    /// `Ok` while nothing failed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.set.load(Ordering::Acquire) { Err(self.cause()) } else { Ok(()) }
    }

    /// True once anything was.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// True once a failure (not a close) was remembered.
    pub(crate) fn is_halted(&self) -> bool {
        self.set.load(Ordering::Acquire) && matches!(self.cause(), Error::Halted { .. })
    }

    /// True if nothing was ever done with this log.
    pub(crate) fn is_refused(&self) -> bool {
        let acts = |cause| matches!(cause, Error::Halted { .. } | Error::Closed);
        self.set.load(Ordering::Acquire) && !acts(self.cause())
    }

    /// Remembers `first` as what halted the log, unless something already did; returns the error
    /// that callers get from now on.
    pub(crate) fn halt(&self, first: Error) -> Error {
        self.latch(Error::Halted { first: Arc::new(first) })
    }

    /// Nothing is done with this log at all, for this reason.
    pub(crate) fn refuse(&self, why: Error) {
        self.latch(why);
    }

    /// No more appends: the handle is closed.
    pub(crate) fn close(&self) {
        self.latch(Error::Closed);
    }

    fn latch(&self, error: Error) -> Error {
        let mut cause = self.cause.lock();
        let error = cause.get_or_insert(error).clone();
        self.set.store(true, Ordering::Release);
        error
    }

    fn cause(&self) -> Error {
        self.cause.lock().clone().unwrap_or(Error::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_stays() {
        let latch = Latch::default();
        assert!(latch.check().is_ok());
        latch.halt(Error::ReadOnly);
        latch.close();
        latch.halt(Error::Closed);
        let Err(Error::Halted { first }) = latch.check() else { panic!("not halted") };
        assert!(matches!(*first, Error::ReadOnly));
        assert!(latch.is_halted());
    }

    #[test]
    fn refused_is_neither_halted_nor_closed() {
        let latch = Latch::default();
        assert!(!latch.is_refused());
        latch.refuse(Error::ReadOnly);
        latch.close();
        assert!(matches!(latch.check(), Err(Error::ReadOnly)));
        assert!(latch.is_refused() && !latch.is_halted());
    }

    #[test]
    fn closed_is_not_halted() {
        let latch = Latch::default();
        latch.close();
        assert!(matches!(latch.check(), Err(Error::Closed)));
        assert!(!latch.is_halted() && !latch.is_refused());
    }
}
