//! What a log is at this moment: its files, what is held open, when it was last appended to.
//!
//! Not here: what it has done since the open (`counters`), which files views hold (`pins`).
//!
//! Threads   any. No lock is taken that is held during I/O: a log whose disk hangs is looked at
//!           like any other.

use crate::format::PAGE;
use crate::id::Offset;
use crate::log::core::Log;
use crate::log::segment::Segment;

/// See [`Log::figures`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) segments: u64,
    pub(crate) bytes_on_disk: u64,
    pub(crate) mappings: u64,
    pub(crate) descriptors: u64,
    pub(crate) append_time: Option<i64>,
    /// The offset after the last whole batch in the files. Of a read-only look: also what is not
    /// known to be durable.
    pub(crate) seen_end: Offset,
    /// How many producers the log knows.
    pub(crate) producers: u64,
    pub(crate) halted: bool,
}

impl Log {
    pub(crate) fn figures(&self) -> Figures {
        let list = self.segments();
        let count = |which: fn(&Segment) -> bool| list.iter().filter(|s| which(s)).count() as u64;
        Figures {
            segments: list.len() as u64,
            bytes_on_disk: list.iter().map(|segment| self.bytes_of(segment)).sum(),
            mappings: count(|segment| segment.with_maps(|maps| maps.held().is_some())),
            descriptors: count(Segment::has_open_file),
            append_time: self
                .counters
                .append_time()
                .or_else(|| list.iter().rev().find_map(|segment| segment.append_time())),
            seen_end: list.last().map_or(self.end_offset(), |s| s.end().max(self.end_offset())),
            producers: self.counters.known_producers(),
            halted: self.latch.is_halted(),
        }
    }

    /// The length of a segment's file.
    fn bytes_of(&self, segment: &Segment) -> u64 {
        // Only a file that is neither full nor being written to has to be asked for.
        let asked = || self.disk.stat(&segment.path).map(|stat| stat.bytes).ok();
        segment.known_bytes().or_else(asked).unwrap_or_else(|| segment.end_position())
    }
}

impl Segment {
    /// The length of the file, where it is known without asking the disk.
    pub(crate) fn known_bytes(&self) -> Option<u64> {
        match self.footer() {
            Some(footer) => {
                let pages = footer.sections.iter().map(|s| u64::from(s.blocks)).sum::<u64>() + 1;
                Some(footer.data_end.next_multiple_of(PAGE as u64) + pages * PAGE as u64)
            }
            None => self.with_maps(|maps| maps.held().and_then(|map| map.growing_to())),
        }
    }

    /// When its last batch was appended, as of the roll or the open.
    pub(crate) fn append_time(&self) -> Option<i64> {
        Some(self.totals.lock().append_time).filter(|time| *time != i64::MIN)
    }
}
