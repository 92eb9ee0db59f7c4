//! Writing good batches over damaged ones, from another replica that holds them.
//!
//! Not here: what is damaged (`inspect`), whose batches are taken (`partition`).
//!
//! Published bytes are never rewritten (I1), but these are not what was published: what is written
//! is what was, byte for byte, at the same place. A crash on the way leaves a batch that is
//! damaged, as it was before.
//!
//! Nobody looks at the bytes meanwhile: where damage was found the file is not mapped any more,
//! readers get copies, and while a view of before lives nothing is written.
//!
//! Where a whole file is missing, or its end, they go to a file of their own.
//!
//! What was not known because of the damage is known again: who numbered the batches, and which
//! epochs began with them.
//!
//! Threads   any; takes the log's turn, so that no file is cut, sealed or deleted meanwhile.

use std::sync::Arc;

use crate::config::GROWTH_BYTES_MIN;
use crate::error::{Error, Result};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, DATA_START, SectionKind, SegmentKind, encode_section,
};
use crate::fs::{DiskFile, write_all_at};
use crate::id::{LeaderEpoch, Offset};
use crate::log::chunk::Chunk;
use crate::log::core::{Log, load};
use crate::log::dedup::keys_in;
use crate::log::index::MemoryIndex;
use crate::log::inspect::{Hole, HolePlace, Room};
use crate::log::producers::{Numbered, Verdict};
use crate::log::read::check_batch;
use crate::log::roll::{Beginning, data_limit};
use crate::log::scan::scan;
use crate::log::segment::Segment;
use crate::log::writer::{Active, WriterState};

/// The name of a file that is to take the place of another one.
const IN_PLACE: &str = "gap.prepared";

/// What became of batches that were to be written over damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patched {
    /// They are there, and synced.
    Written,
    /// They are not what was there, or have no place: nothing was changed.
    DoNotFit,
    /// The file lacks its end: they have to be written to one of their own.
    BelongElsewhere,
    /// Not now: views look into the file, or another look is needed.
    Later,
}

impl Log {
    /// Writes whole batches of another replica where a hole begins, which then begins behind them.
    ///
    /// # Errors
    /// Of the disk. After a sync that failed the log has halted.
    pub(crate) fn patch(&self, hole: &mut Hole, row: &[u8]) -> Result<Patched> {
        self.must_be_writable()?;
        let HolePlace::In(room) = &mut hole.place else { return Ok(Patched::DoNotFit) };
        let Some(_turn) = self.turn.take_while(|| !self.latch.is_set()) else {
            return self.latch.check().map(|()| Patched::DoNotFit);
        };
        let segment = Arc::clone(&room.segment);
        let is_listed = self.segments().iter().any(|listed| Arc::ptr_eq(listed, &segment));
        if !is_listed || segment.clip() < hole.end || hole.first < self.start_offset() {
            // It went meanwhile, or part of it was cut off, or it is appended to again.
            return Ok(Patched::Later);
        }
        let Some(batches) = self.batches_that_fit(hole.first, hole.end, room, row) else {
            // 1. Files are copied; 2. the power fails, and of one its last page is gone, of the
            // next one nothing: the end is known, and the page has no place.
            let is_last = segment.end() <= hole.end
                && room.position + room.bytes >= segment.end_position()
                && room.header.is_none();
            let is_short = is_last && row.len() as u64 > room.bytes;
            if !is_short || !self.is_left_to_the_next(&segment)? {
                return Ok(Patched::DoNotFit);
            }
            segment.cut(hole.first);
            hole.place = HolePlace::Nowhere;
            return Ok(Patched::BelongElsewhere);
        };
        let Some(file) = self.write_over(&segment, room.position, row)? else {
            return Ok(Patched::Later);
        };
        self.sync_segment(&segment, file.as_ref())?;
        room.bytes -= row.len() as u64;
        room.position += row.len() as u64;
        room.header = None;
        self.learn(&segment, &batches);
        if let Some(last) = batches.last() {
            hole.first = last.next_offset();
        }
        Ok(Patched::Written)
    }

    /// Writes the batches of another replica to a file of their own, where one is missing or its
    /// end is: as many of them as one file takes. `next` gives those from an offset on, as long as
    /// there are any. Returns up to where there are now.
    ///
    /// The commit point is the rename. The file says that it takes the place of others there: the
    /// missing one may be found again.
    ///
    /// # Errors
    /// Of the disk. After a sync that failed the log has halted.
    pub(crate) fn fill_gap(
        &self,
        (first, end): (Offset, Offset),
        next: &mut dyn FnMut(Offset) -> Option<Chunk>,
    ) -> Result<Offset> {
        self.must_be_writable()?;
        let Some(_turn) = self.turn.take_while(|| !self.latch.is_set()) else { return Ok(first) };
        if !self.is_gap(first, end) {
            return Ok(first);
        }
        let Some(mut chunk) = next(first) else { return Ok(first) };
        let producers = self.producers_at(first)?;
        let identity = &self.place.identity;
        let opening = encode_section(SectionKind::Producers, &producers.rows(), identity);
        let generation = {
            let mut writer = self.writer.lock();
            writer.generation = writer.generation.next();
            writer.generation
        };
        let beginning = Beginning {
            base: first,
            generation,
            kind: SegmentKind::Rewritten,
            durable: load(&self.durable).min(first),
            catching_up: self.is_catching_up(),
            growth: 0,
        };
        let path = self.place.dir.join(IN_PLACE);
        let failed = |doing, e| Error::io(doing, &path, e);
        let file = self.create_prepared(&path)?;
        let first_position = DATA_START + opening.len() as u64;
        let limit = data_limit(self.segment_bytes(), first_position, chunk.view.len() as u64);
        let segment = self
            .write_head(file.as_ref(), &beginning, (first_position, limit), &opening)
            .map_err(|e| failed("write", e))?;
        let mut batches = Vec::new();
        loop {
            for batch in chunk.batches() {
                let at = segment.end();
                let fits = segment.end_position() + batch.len() as u64 <= limit;
                let header = BatchHeader::decode(batch, identity).ok().filter(|header| {
                    let is_next = header.base_offset == at && header.next_offset() <= end;
                    is_next && fits && check_batch(header, batch, identity).is_ok()
                });
                let Some(header) = header else { break };
                write_all_at(file.as_ref(), batch, segment.end_position())
                    .map_err(|e| failed("write", e))?;
                self.take_in(&segment, &header, batch);
                batches.push(header);
            }
            if segment.end() >= end || segment.end() < chunk.next {
                break;
            }
            match next(segment.end()) {
                Some(more) => chunk = more,
                None => break,
            }
        }
        if batches.is_empty() {
            return Ok(first);
        }
        self.seal_apart(&segment, file.as_ref())?;
        self.disk.rename(&path, &segment.path).map_err(|e| failed("rename", e))?;
        self.sync_folder(&self.place.dir)?;
        self.change_segments(|list| {
            // Behind one of which nothing is left but its beginning.
            let at = list.partition_point(|other| other.base <= segment.base);
            list.insert(at, Arc::clone(&segment));
        });
        self.learn(&segment, &batches);
        Ok(segment.end())
    }

    /// Whether no file holds any of these.
    fn is_gap(&self, first: Offset, end: Offset) -> bool {
        let list = self.segments();
        let holds = |segment: &Arc<Segment>| segment.base < end && first < segment.end();
        first >= self.start_offset() && end <= self.end_offset() && !list.iter().any(holds)
    }

    /// A batch was written to the end of a file that nobody knows yet.
    fn take_in(&self, segment: &Segment, header: &BatchHeader, batch: &[u8]) {
        let position = segment.end_position();
        let mut totals = segment.totals.lock();
        totals.records += u64::from(header.record_count);
        totals.batches += 1;
        totals.max_timestamp = totals.max_timestamp.max(header.max_timestamp);
        totals.append_time = totals.append_time.max(header.append_time);
        let mut index = segment.index.write();
        if MemoryIndex::is_due(index.last_position(), position) {
            let (offset, time) = (header.base_offset, header.append_time);
            index.push(offset, time, position, totals.max_timestamp);
        }
        if !self.dedup.window.is_off() {
            let identity = &self.place.identity;
            let runs = scan(batch, position, identity, header.base_offset, Offset::MAX).runs;
            segment.keys.enter_all(keys_in(identity, (batch, position), segment.base, &runs));
        }
        segment.publish(header.next_offset(), position + batch.len() as u64);
    }

    /// Writes over what is damaged in a file, unless somebody looks at it. One that is appended to
    /// is left to the next one first: appends go through a mapping.
    fn write_over(
        &self,
        segment: &Arc<Segment>,
        position: u64,
        row: &[u8],
    ) -> Result<Option<Arc<dyn DiskFile>>> {
        segment.suspect();
        let file = segment.writable_file(self.disk.as_ref())?;
        // Once it is left nobody begins to append to it.
        if !self.is_left_to_the_next(segment)? || !segment.is_unmapped() {
            return Ok(None);
        }
        write_all_at(file.as_ref(), row, position)
            .map_err(|e| Error::io("mend a batch of", &segment.path, e))?;
        Ok(Some(file))
    }

    /// Goes on in the next file, if this is the one that is appended to. False if that cannot be
    /// now.
    fn is_left_to_the_next(&self, segment: &Arc<Segment>) -> Result<bool> {
        // No more than is usual may lack a footer.
        while self.seal_oldest()? {}
        let mut writer = self.writer.lock();
        let is_active = |active: &Active| Arc::ptr_eq(&active.segment, segment);
        if writer.active.as_ref().is_some_and(is_active) {
            if writer.state != WriterState::Open {
                return Ok(false);
            }
            writer.growth = GROWTH_BYTES_MIN;
            self.roll(&mut writer, 0)?;
        }
        Ok(true)
    }

    /// The headers of a row of batches, if they can be what was there.
    fn batches_that_fit(
        &self,
        first: Offset,
        end: Offset,
        room: &Room,
        row: &[u8],
    ) -> Option<Vec<BatchHeader>> {
        let (mut rest, mut next, mut epoch) = (row, first, room.epochs.0);
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let header = BatchHeader::decode(rest, &self.place.identity).ok()?;
            check_batch(&header, rest, &self.place.identity).ok()?;
            let fits = header.base_offset == next && header.leader_epoch >= epoch;
            (next, epoch) = (header.next_offset(), header.leader_epoch);
            rest = rest.get(header.batch_bytes()..).filter(|_| fits)?;
            batches.push(header);
        }
        let bytes = row.len() as u64;
        let whole = next == end && (bytes == room.bytes || !room.exact);
        let is_part = next < end && bytes < room.bytes;
        let fits = bytes <= room.bytes && (whole || is_part) && epoch <= room.epochs.1;
        // Where the header is good it says what was there: else the histories differ, or the
        // header of other damage lies.
        let same =
            room.header.as_ref().is_none_or(|own| row.get(..BATCH_HEADER_BYTES) == Some(own));
        (fits && same && !batches.is_empty()).then_some(batches)
    }

    /// What follows from batches that could not be read when the log was opened.
    fn learn(&self, segment: &Segment, batches: &[BatchHeader]) {
        let mut writer = self.writer.lock();
        let mut unknown = self.damage_at_open.lock();
        let is_unknown = |header: &BatchHeader| {
            let (base, next) = (header.base_offset, header.next_offset());
            unknown.iter().any(|&(first, end)| first <= base && next <= end)
        };
        if segment.footer().is_none() {
            let mut totals = segment.totals.lock();
            for header in batches.iter().filter(|header| is_unknown(header)) {
                totals.records += u64::from(header.record_count);
                totals.batches += 1;
                totals.max_timestamp = totals.max_timestamp.max(header.max_timestamp);
                totals.append_time = totals.append_time.max(header.append_time);
            }
        }
        if let Some((from, to)) = batches.first().zip(batches.last()) {
            let (from, to) = (from.base_offset, to.next_offset());
            // What is left of each on either side.
            let split = |&(first, end): &(Offset, Offset)| {
                [(first, end.min(from)), (first.max(to), end)].into_iter().filter(|(a, b)| a < b)
            };
            *unknown = unknown.iter().flat_map(split).collect();
        }
        drop(unknown);
        for header in batches {
            let epoch: LeaderEpoch = header.leader_epoch;
            writer.epochs.learn(epoch, header.base_offset);
            if let Some(numbered) = Numbered::of(header)
                && matches!(writer.producers.judge(&numbered), Ok(Verdict::Append))
            {
                writer.producers.note(&numbered, header.base_offset);
            }
        }
    }
}
