//! Dedup keys: whether a record was written before, and where.
//!
//! Not here: the bytes of the index (`format::dedup`), writing it (`seal`), and what a producer is
//! told (`client`).
//!
//! | file | what |
//! | --- | --- |
//! | `window` | which of the earlier records count (pure) |
//! | `table` | the keys of one file in memory (pure) |
//! | `keys` | the keys of a segment: in memory until it is sealed, then in its file |
//! | `look` | looking for keys, before the writer lock |
//! | `append` | deciding under it, and what an append then says of each record |
//!
//! A key is looked for from the newest segment to the oldest that the window reaches, and the
//! newest record that has it counts: a window that holds an older one holds this one too. What is
//! found is read, and its own bytes decide.
//!
//! A look goes without a lock, so it speaks of what was there when it began: of all offsets below
//! [`Index::entered`], as it was then. Under the writer lock only what was entered since is looked
//! at, and that is nothing unless somebody else appends too. A hash that is found there is looked
//! for again, without the lock. A cut, or a file that is taken up again, changes what lies below,
//! and is counted: a look of before is made again.
//!
//! Invariants
//!   1. Every record below `entered` with a dedup key is in the keys of its segment.
//!   2. A segment's keys may name records that are not there any more, and never miss one that is.
//! Threads   any looks; who holds the writer lock enters keys.

mod append;
mod keys;
mod look;
mod table;
mod window;

pub(crate) use append::{Duplicates, Placed};
pub(crate) use keys::{Keys, keys_in};
pub(crate) use window::{Point, Window};

use crate::config::DedupWindow;
use crate::format::Identity;
use crate::id::Offset;
use crate::log::core::load;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What a log knows of its dedup keys besides those of its segments.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) window: Window,
    /// The keys of every record below it are entered. Stored with the writer locked, after them
    /// (Release); loaded before a look (Acquire).
    entered: AtomicU64,
    /// How often what lies below `entered` changed. Raised with the writer locked, after `entered`
    /// was lowered (Release); loaded before it (Acquire).
    changes: AtomicU64,
}

impl Index {
    /// Of a log whose keys are entered up to its end.
    pub(crate) fn new(window: DedupWindow, end: Offset) -> Self {
        Self {
            window: Window::new(window),
            entered: AtomicU64::new(end.get()),
            changes: AtomicU64::new(0),
        }
    }

    /// The keys of every record below `end` are entered. With the writer locked.
    pub(crate) fn enter_to(&self, end: Offset) {
        self.entered.store(end.get(), Ordering::Release);
    }

    /// Everything from `at` on was cut off. With the writer locked.
    pub(crate) fn cut(&self, at: Offset) {
        self.entered.store(at.get(), Ordering::Release);
        self.changed();
    }

    /// What was looked at before is to be looked at again. With the writer locked.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn entered(&self) -> Offset {
        load(&self.entered)
    }
}

#[cfg(test)]
thread_local! {
    /// What tests leave of a hash, so that keys collide.
    pub(crate) static HASH_MASK: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}

#[inline]
fn hash_of(identity: &Identity, key: &[u8]) -> u64 {
    let hash = identity.key_hash(key);
    #[cfg(test)]
    let hash = hash & HASH_MASK.get();
    hash
}
