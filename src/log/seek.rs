//! From a time to an offset.
//!
//! Not here: from an offset to a position (`read`).

use crate::config::{FETCH_BYTES, Reads};
use crate::error::{Error, Result};
use crate::format::TimeEntry;
use crate::id::Offset;
use crate::log::core::Log;
use crate::log::read::ReadCursor;
use crate::log::segment::Segment;

impl Log {
    /// The first offset below `upto` whose record has a timestamp of `timestamp` or later.
    ///
    /// Records' timestamps need not rise: what is sought is the first in offset order. Indexes only
    /// tell where it cannot be yet.
    pub(crate) fn offset_at(
        &self,
        timestamp: i64,
        upto: Offset,
        reads: Reads,
    ) -> Result<Option<Offset>> {
        for segment in self.segments().iter() {
            let too_old = segment.footer().is_some_and(|footer| footer.max_timestamp < timestamp);
            if too_old || segment.end() <= self.start_offset() {
                continue;
            }
            let from = self.earliest_candidate(segment, timestamp)?.max(self.start_offset());
            let end = segment.end().min(upto);
            let mut cursor = ReadCursor::at(from);
            while cursor.offset() < end {
                let chunk = match self.read(&mut cursor, end, FETCH_BYTES, reads) {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => break,
                    // Retention has passed it: what is sought lies above, if anywhere.
                    Err(Error::OffsetOutOfRange(range)) if range.start > cursor.offset() => {
                        cursor = ReadCursor::at(range.start);
                        continue;
                    }
                    // What cannot be read is not what is sought.
                    Err(error) => match error.corruption() {
                        Some(corruption) => {
                            cursor = ReadCursor::at(corruption.end);
                            continue;
                        }
                        None => return Err(error),
                    },
                };
                if let Some(hit) = chunk.records().find(|record| record.timestamp >= timestamp) {
                    return Ok(Some(hit.offset));
                }
            }
        }
        Ok(None)
    }

    /// An offset of the segment that no record with that timestamp lies below.
    fn earliest_candidate(&self, segment: &Segment, timestamp: i64) -> Result<Offset> {
        let older = |times: &[TimeEntry]| {
            let after = times.partition_point(|entry| entry.max_timestamp < timestamp);
            // The entry's maximum covers its own batch and everything before it.
            after.checked_sub(1).and_then(|i| times.get(i)).map(|entry| entry.offset)
        };
        let known = if segment.footer().is_none() {
            older(segment.index.read().times())
        } else {
            let times = segment.sealed_index(self.disk.as_ref(), &self.place.identity)?;
            times.and_then(|index| older(index.times()))
        };
        Ok(known.unwrap_or(segment.base))
    }
}
