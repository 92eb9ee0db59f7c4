//! Batches checked before a reader comes to them, on another core.
//!
//! Not here: what a check is, and the same done by the fetch itself (`read`).
//!
//! A check takes about as long as a reader takes to look at what it got. One that goes on where its
//! last fetch ended, over batches that nobody has checked yet, has the next ones checked meanwhile:
//! a [`Stretch`] of the file, piece by piece, each remembered as soon as it is done. A fetch that
//! catches up with it ends there, with less than was asked for, unless it would end with almost
//! nothing; then it checks for itself.
//!
//! What is found bad here is not told: the stretch ends, and the fetch that comes to it finds it
//! again. So nothing depends on this thread; where it is busy, or there is none, fetches check.
//!
//! Threads   readers wish; one at a time works, the one that looks ahead for appends too, which it
//!           does first.

use std::sync::Arc;

use crate::config::{FETCH_BYTES, READ_AHEAD_BYTES, READ_AHEAD_PIECE_BYTES, Reads};
use crate::format::{BatchHeader, Identity};
use crate::log::core::Log;
use crate::log::read::check_batch;
use crate::log::segment::Segment;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// Somebody works, or was asked to. Stored under the lock; read without it by fetches, which
    /// lose nothing but time by a stale value.
    busy: AtomicBool,
    /// Lock rank: leaf.
    wished: Mutex<Option<Stretch>>,
}

/// A part of a file that is to be checked.
#[derive(Clone, Debug)]
struct Stretch {
    segment: Arc<Segment>,
    from: u64,
    to: u64,
}

impl Stretch {
    fn is(&self, other: &Stretch) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment) && (self.from, self.to) == (other.from, other.to)
    }
}

impl ReadAhead {
    /// Wishes for a stretch instead of the one before. True if nobody works, and somebody is to be
    /// asked.
    fn wish(&self, stretch: Stretch) -> bool {
        let mut wished = self.wished.lock();
        let before = wished.replace(stretch);
        let ask = !self.busy.swap(true, Ordering::Relaxed);
        drop(wished);
        // Its file may be unmapped with it: not under the lock.
        drop(before);
        ask
    }

    /// What to do next; `None` ends the work.
    fn next(&self) -> Option<Stretch> {
        let wished = self.wished.lock();
        self.busy.store(wished.is_some(), Ordering::Relaxed);
        wished.clone()
    }

    /// A stretch is done up to `to`, or as far as it can be, unless something else was wished for
    /// meanwhile.
    fn done(&self, stretch: &Stretch, to: Option<u64>) {
        let mut wished = self.wished.lock();
        if let Some(now) = wished.as_mut().filter(|now| now.is(stretch)) {
            match to {
                Some(to) if to < now.to => now.from = to,
                // What is let go of here the caller has a share of.
                _ => *wished = None,
            }
        }
    }

    /// How much of what follows a position is checked already, or a little, if the rest is being
    /// checked; `None` if it is not.
    pub(crate) fn is_behind(&self, segment: &Arc<Segment>, position: u64) -> Option<usize> {
        if !self.busy.load(Ordering::Relaxed) {
            return None;
        }
        let checked = segment.verified.checked_until(position);
        let wished = self.wished.lock();
        let stretch = wished.as_ref().filter(|of| Arc::ptr_eq(&of.segment, segment))?;
        let bytes = usize::try_from(checked - position).unwrap_or(usize::MAX);
        (stretch.from..stretch.to).contains(&checked).then_some(bytes.max(READ_AHEAD_PIECE_BYTES))
    }
}

impl Log {
    /// A reader goes on, and will come to `position` next: has what lies there checked, if somebody
    /// can and it was not yet.
    pub(crate) fn wish_ahead(&self, segment: &Arc<Segment>, position: u64) {
        let Some(housekeeper) = &self.housekeeper else { return };
        let end = segment.trusted_from.min(segment.end_position());
        if position >= end || segment.reads != Reads::Mapped {
            return;
        }
        let from = segment.verified.checked_until(position);
        let to = end.min(position + READ_AHEAD_BYTES);
        // Not for a little at a time: whoever does it is woken for it.
        if from < to.min(position + READ_AHEAD_BYTES / 2) {
            let stretch = Stretch { segment: Arc::clone(segment), from, to };
            if self.read_ahead.wish(stretch) {
                housekeeper.read_ahead(&self.place.identity);
            }
        }
    }

    /// Checks what was wished for, or a part of it. True if there may be more: others have their
    /// turn first.
    pub(crate) fn read_ahead(&self) -> bool {
        let Some(stretch) = self.read_ahead.next() else { return false };
        let working = Working(&self.read_ahead);
        let to = self.check_ahead(&stretch);
        self.read_ahead.done(&stretch, to);
        drop(working);
        true
    }

    /// Checks batches of a stretch, and returns where it stopped; `None` at one that is not good.
    fn check_ahead(&self, Stretch { segment, from, to }: &Stretch) -> Option<u64> {
        let from = segment.verified.checked_until(*from);
        let bytes = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX).min(FETCH_BYTES);
        // What the medium does not give back is for the fetch that comes to it.
        let window = segment.mapped_window(self.disk.as_ref(), from, bytes).ok().flatten()?;
        let mut at = 0;
        while let Some(rest) = window.bytes().get(at..).filter(|rest| !rest.is_empty()) {
            let position = from + at as u64;
            // A fetch that has caught up may have checked some itself.
            let mut end = segment.verified.checked_until(position);
            if end == position {
                end += good_batches(rest, &self.place.identity) as u64;
                if end == position {
                    // Perhaps it only ends behind the window: then it is for the next time.
                    break;
                }
                segment.verified.insert(position, end);
            }
            at = usize::try_from(end - from).unwrap_or(usize::MAX);
        }
        let end = from + at as u64;
        (at > 0 || end >= *to).then_some(end)
    }
}

/// That somebody works. After a panic nobody does: fetches check for themselves, and the next wish
/// asks again.
struct Working<'a>(&'a ReadAhead);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let wished = self.0.wished.lock().take();
            self.0.busy.store(false, Ordering::Relaxed);
            drop(wished);
        }
    }
}

/// How many bytes the good batches take that `bytes` begin with, up to the size of a piece.
fn good_batches(bytes: &[u8], identity: &Identity) -> usize {
    let mut at = 0;
    while at < READ_AHEAD_PIECE_BYTES
        && let Some(rest) = bytes.get(at..)
        && let Ok(header) = BatchHeader::decode(rest, identity)
        && header.batch_bytes() <= rest.len()
        && check_batch(&header, rest, identity).is_ok()
    {
        at += header.batch_bytes();
    }
    at
}
