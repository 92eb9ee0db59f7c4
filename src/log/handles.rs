//! How many descriptors and mappings the logs of a broker hold at once.
//!
//! Not here: opening and mapping (`segment`).
//!
//! Files that are appended to are held open while they may have unsynced bytes, and sealed files
//! stay mapped once they were read. A store has more of both than a process may hold (1,024
//! descriptors, 65,530 mappings by default on Linux), so the ones held longest are given up; who
//! needs one again opens or maps it again.
//!
//! Invariants
//!   1. A file with unsynced bytes is closed only while it is mapped. The mapping keeps its inode
//!      in memory, and with it a write-back error that nobody has seen yet: who opens the file
//!      again is told of it by the next sync (`errseq_sample` in the kernel's lib/errseq.c).
//!      Without a mapping the inode could go, and the error with it.
//!   2. A mapping that is appended through is never given up.
//! Threads   any; the lists are locked for moments, and nothing is closed under their lock.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::config::{FILES_HELD_MAX, KEYS_FILES_HELD_MAX, MAPPINGS_HELD_MAX};
use crate::log::segment::Segment;
use crate::sync::Mutex;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Handles {
    files: Held,
    mappings: Held,
    /// Sealed files that dedup keys are looked for in.
    keys: Held,
}

/// Segments that hold something, the one that has held it longest first. Some may have given it up
/// by themselves since.
#[derive(Debug)]
struct Held {
    most: usize,
    /// Lock rank: leaf.
    segments: Mutex<VecDeque<Weak<Segment>>>,
}

impl Default for Handles {
    fn default() -> Self {
        Self::new(FILES_HELD_MAX, MAPPINGS_HELD_MAX)
    }
}

impl Handles {
    pub(crate) fn new(files_most: usize, mappings_most: usize) -> Self {
        let held = |most| Held { most, segments: Mutex::default() };
        let keys = held(KEYS_FILES_HELD_MAX);
        Self { files: held(files_most), mappings: held(mappings_most), keys }
    }

    /// A segment holds its file from now on.
    pub(crate) fn holds_file(&self, segment: &Arc<Segment>) {
        for longest in self.files.add(segment) {
            longest.park_file();
        }
    }

    /// A segment holds its file for its dedup keys.
    pub(crate) fn holds_keys(&self, segment: &Arc<Segment>) {
        for longest in self.keys.add(segment) {
            longest.keys.close_file();
        }
    }

    /// A segment was mapped by a reader.
    pub(crate) fn holds_mapping(&self, segment: &Arc<Segment>) {
        for longest in self.mappings.add(segment) {
            longest.release_read_mapping();
        }
    }
}

impl Held {
    /// Adds one; returns those that have to give up theirs.
    fn add(&self, segment: &Arc<Segment>) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.lock();
        segments.push_back(Arc::downgrade(segment));
        let surplus = segments.len().saturating_sub(self.most);
        segments.drain(..surplus).filter_map(|segment| segment.upgrade()).collect()
    }
}
