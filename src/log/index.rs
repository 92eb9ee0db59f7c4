//! The sparse index of one segment while it has no footer: offsets and times to positions.
//!
//! Not here: the same index once sealed, which is two sections of the file (`seal` writes them,
//! `segment` searches them in place).
//!
//! Invariants
//!   1. An entry points at the first byte of a published batch, and offsets and positions both
//!      rise. An index may miss entries; it never points past the published end.
//! Threads   the writer adds, readers look up; one short lock, taken by the writer only when an
//!           entry is due.

use crate::config::INDEX_INTERVAL_BYTES;
use crate::format::{OffsetEntry, TimeEntry};
use crate::id::Offset;

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryIndex {
    offsets: Vec<OffsetEntry>,
    times: Vec<TimeEntry>,
}

impl MemoryIndex {
    /// True if a batch at `position` should get an entry.
    #[inline]
    pub(crate) fn is_due(last_entry: Option<u64>, position: u64) -> bool {
        last_entry.is_none_or(|last| position >= last + INDEX_INTERVAL_BYTES)
    }

    /// Adds an entry for the batch of `offset`; `max_timestamp` is the largest of the segment so
    /// far, so that times rise although records' timestamps need not.
    pub(crate) fn push(
        &mut self,
        offset: Offset,
        append_time: i64,
        position: u64,
        max_timestamp: i64,
    ) {
        self.offsets.push(OffsetEntry { offset, position });
        self.times.push(TimeEntry { append_time, max_timestamp, offset });
    }

    /// The entries of a later part of the same segment, before which the largest timestamp was
    /// `max_timestamp`.
    pub(crate) fn extend(&mut self, later: &MemoryIndex, max_timestamp: i64) {
        self.offsets.extend_from_slice(&later.offsets);
        self.times.extend(later.times.iter().map(|entry| TimeEntry {
            max_timestamp: entry.max_timestamp.max(max_timestamp),
            ..*entry
        }));
    }

    /// The position of the last entry.
    pub(crate) fn last_position(&self) -> Option<u64> {
        self.offsets.last().map(|entry| entry.position)
    }

    /// The position of the last indexed batch that begins at or before `offset`.
    pub(crate) fn position_before(&self, offset: Offset) -> Option<u64> {
        let after = self.offsets.partition_point(|entry| entry.offset <= offset);
        after.checked_sub(1).map(|i| self.offsets[i].position)
    }

    pub(crate) fn offsets(&self) -> &[OffsetEntry] {
        &self.offsets
    }

    pub(crate) fn times(&self) -> &[TimeEntry] {
        &self.times
    }

    /// An index read back from its sections, cut where the log ends.
    pub(crate) fn from_entries(offsets: Vec<OffsetEntry>, times: Vec<TimeEntry>) -> Self {
        Self { offsets, times }
    }
}
