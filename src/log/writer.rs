//! Appending: one writer, three ways to the page cache.
//!
//! Not here: beginning and ending files (`roll`, `cut`), making bytes durable (`commit`), who may
//! append and what is acknowledged (`partition`), compressing (`body`), which is done before the
//! lock is taken.
//!
//! | durability, batch | way | why |
//! | --- | --- | --- |
//! | `Fsync`, or blocks cannot be reserved | `pwrite` | a mapped page is write-protected by every sync, and a store may fault |
//! | `Os`, `Interval`, small | stores through the mapping | no system call, one copy |
//! | `Os`, `Interval`, large | `pwrite` | it copies faster than stores fault |
//!
//! Invariants
//!   1. A batch's base offset is the LEO at its append (I2), its epoch not below the last (I3).
//!   2. Bytes are published after they are whole; what a failed write left is taken back before
//!      the lock is released, or the log halts.
//!   3. No allocation, and no system call but the one `pwrite`, while a file has room.
//! Threads   under the log's `writer` lock.

use std::io;
use std::sync::Arc;

use crate::config::{
    Compression, Durability, GROWTH_BYTES_MAX, GROWTH_BYTES_MIN, GROWTH_FACTOR,
    MAPPED_BATCH_BYTES_MAX, ZEROED_AT_ONCE,
};
use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_BYTES, BatchStamp, PAGE, Record, RecordError, measure};
use crate::fs::{DiskFile, MapWriter, write_all_at};
use crate::id::{Generation, LeaderEpoch, Offset, ProducerId};
use crate::log::ahead::{Pace, Prepared, in_large_pages};
use crate::log::body::{Body, Plain};
use crate::log::core::{Log, Mode, load};
use crate::log::dedup::{Duplicates, Point};
use crate::log::epochs::EpochTable;
use crate::log::index::MemoryIndex;
use crate::log::producers::{Noted, Numbered, ProducerIdentity, ProducerTable, Verdict};
use crate::log::segment::{Segment, Totals};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

/// An append that comes to a page which is not there yet populates so many bytes. Half of what is
/// populated ahead: it soon is where somebody else does the same, and both wait for each other.
const POPULATE_BYTES: u64 = 2 << 20;
/// A scratch buffer that grew beyond this for one large batch is given back.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// What only the holder of the writer lock may touch.
#[derive(Debug)]
pub(crate) struct Writer {
    /// The file being written; made by the first append after open.
    pub(crate) active: Option<Active>,
    /// The newest segment, to go on in when there is no active one yet.
    pub(crate) resume: Option<Arc<Segment>>,
    /// The newest file cannot be gone on in: the first append begins with a cut at the LEO.
    pub(crate) cut_first: bool,
    /// Whether appends are taken.
    pub(crate) state: WriterState,
    /// The next offset to be written: the LEO.
    pub(crate) next: Offset,
    /// Of the last batch; the next one's is not below it.
    pub(crate) append_time: i64,
    /// By how much the file grows next: little for a log that is seldom written to, much for a
    /// busy one, also at the beginning of its later files.
    pub(crate) growth: u64,
    pub(crate) generation: Generation,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) epochs: EpochTable,
    /// As of the LEO.
    pub(crate) producers: ProducerTable,
    /// Where records were cut off in this life of the log, in that order: who appended before may
    /// ask for what is gone. Each cut is a file, made and synced: there are few.
    pub(crate) cuts: Vec<Offset>,
    /// How many those are.
    pub(crate) cuts_made: u32,
    /// A file that the next roll begins in, if there is one already.
    pub(crate) prepared: Option<Prepared>,
    /// Files that a cut voided whole, to be removed once it is on the medium.
    pub(crate) voids: Vec<std::path::PathBuf>,
    /// What the last look ahead saw of the syncs.
    pub(crate) pace: Pace,
    pub(crate) scratch: Vec<u8>,
}

/// Whether appends are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriterState {
    Open,
    /// A cut is being made: they wait until it is.
    Cutting,
    /// They are refused.
    Closing,
}

/// The file that appends go to.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) map: MapWriter,
    /// Where the next batch goes.
    pub(crate) position: u64,
    pub(crate) reach: Reach,
    /// From this position on somebody is to look ahead; beyond every position once they were told.
    pub(crate) look_at: u64,
    pub(crate) last_entry: Option<u64>,
    pub(crate) totals: Totals,
}

/// How far a file that is appended to reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// The file itself.
    pub(crate) length: u64,
    /// Of it, what appends may use; the rest may be being zeroed.
    pub(crate) allocated: u64,
    /// Pages below it can be stored to without a fault.
    pub(crate) populated: u64,
    /// How far batches may reach: beyond it lie the sections.
    pub(crate) data_limit: u64,
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// The offset of the first record that was written; the others follow without a gap.
    pub(crate) base: Offset,
    /// The offset after the last one's; as `base` if none was written.
    pub(crate) end: Offset,
    pub(crate) append_time: i64,
    pub(crate) epoch: LeaderEpoch,
    /// How often the log had been cut before.
    pub(crate) cuts: u32,
    /// Where each record is, if some of them were there before.
    pub(crate) duplicates: Option<Arc<Duplicates>>,
}

/// Whose a batch is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin<'a> {
    /// Of the log's own user, who knows what is in it: it is not numbered.
    Own,
    /// Numbered by the log in the name of a producer.
    Producer(&'a ProducerIdentity),
}

/// Whether a batch can be written now.
enum Room {
    Here,
    /// As many segments lack a footer as may: one is to be sealed first.
    SealFirst,
    /// The log goes on in a new generation.
    CutFirst,
}

impl Writer {
    pub(crate) fn new(next: Offset, epochs: EpochTable, generation: Generation) -> Self {
        Self {
            active: None,
            resume: None,
            cut_first: false,
            state: WriterState::Open,
            next,
            append_time: 0,
            growth: GROWTH_BYTES_MIN,
            generation,
            epoch: epochs.latest(),
            epochs,
            producers: ProducerTable::default(),
            cuts: Vec::new(),
            cuts_made: 0,
            prepared: None,
            voids: Vec::new(),
            pace: Pace::default(),
            scratch: Vec::new(),
        }
    }

    /// Makes the active file reach far enough for `bytes` more; what is new reads as zeros.
    #[cold]
    fn grow(&mut self, log: &Log, bytes: u64) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let needed = active.position + bytes;
        if needed <= active.reach.length {
            // Whoever looks ahead was too late.
            let more = if log.may_zero() { ZEROED_AT_ONCE as u64 } else { active.reach.length };
            let given = active.segment.take_given(needed, active.reach.length.min(needed + more));
            active.set_allocated(given);
            return Ok(());
        }
        let file = active.segment.writable_file(log.disk.as_ref())?;
        by_less_if_full(&mut self.growth, |growth| {
            let grown = in_large_pages(active.reach.length, growth);
            let wanted = needed.max(grown).next_multiple_of(PAGE as u64);
            let end = wanted.min(active.reach.data_limit.max(needed));
            let from = active.reach.length;
            let grown = active.segment.grow(|| log.lengthen(file.as_ref(), (from, end)));
            grown.map_err(|e| Error::io("grow", &active.segment.path, e))?;
            active.reaches(end);
            Ok(())
        })?;
        self.growth = next_growth(self.growth);
        Ok(())
    }

    /// What an append comes to of whose records all were there before.
    pub(crate) fn nothing_appended(&self, now: Point) -> Appended {
        Appended {
            base: now.offset,
            end: now.offset,
            append_time: now.append_time,
            epoch: self.epoch,
            cuts: self.cuts_made,
            duplicates: None,
        }
    }

    /// The sequence that the next record of a producer gets. With the lock held, so that they
    /// follow one another as the batches do.
    #[inline]
    fn next_sequence(&self, producer: &ProducerIdentity) -> Result<u64> {
        producer.check()?;
        self.producers
            .next_sequence(producer.id, producer.epoch)
            .map_err(|fenced| producer.fenced_by(fenced.by))
    }

    /// Beside the batch, and those before it, there is to be room for their dedup keys.
    #[inline]
    fn needed(&self, log: &Log, bytes: u64) -> u64 {
        if log.dedup.window.is_off() {
            return bytes;
        }
        self.active.as_ref().map_or(bytes, |active| {
            let segment = &active.segment;
            bytes + segment.keys.room(segment.base.distance_to(self.next))
        })
    }

    fn room(&mut self, log: &Log, bytes: u64) -> Result<Room> {
        if self.cut_first {
            return Ok(Room::CutFirst);
        }
        if self.active.is_none()
            && let Some(segment) = self.resume.take()
        {
            match log.resume(&segment) {
                Ok(active) => self.active = Some(active),
                Err(error) => {
                    self.resume = Some(segment);
                    return Err(error);
                }
            }
        }
        let mut needed = self.needed(log, bytes);
        let fits = |active: &Active| active.position + needed <= active.reach.data_limit;
        if let Some(active) = &mut self.active
            && !fits(active)
            && active.position == active.segment.first_position
        {
            // A batch larger than a segment gets one of its own, and an empty one becomes that: a
            // file begun at the same base in the same generation would take the name of this one.
            log.widen(active, bytes)?;
        }
        if !self.active.as_ref().is_some_and(fits) {
            if log.unsealed_behind(self) >= log.unsealed_max() {
                return Ok(Room::SealFirst);
            }
            log.roll(self, bytes)?;
            needed = self.needed(log, bytes);
        }
        if let Some(active) = &self.active
            && active.position + needed > active.reach.allocated
        {
            self.grow(log, needed)?;
        }
        Ok(Room::Here)
    }
}

impl Active {
    /// The file is `end` long, and appends may use all of it.
    fn reaches(&mut self, end: u64) {
        self.reach.length = end;
        // What was cut off is not there any more.
        self.reach.populated = self.reach.populated.min(end);
        self.segment.set_given(end);
        self.set_allocated(end);
    }

    /// Appends may go that far now.
    pub(crate) fn set_allocated(&mut self, end: u64) {
        self.reach.allocated = end;
        self.map.set_allocated(usize::try_from(end).unwrap_or(usize::MAX));
    }

    /// Makes the pages of the next `bytes` present and writable; an error here is an error, where
    /// a store to an absent page would be a signal.
    #[cold]
    fn populate(&mut self, bytes: u64) -> Result<()> {
        let from = self.populate_from();
        let end = (self.position + bytes).max(from + POPULATE_BYTES).min(self.reach.allocated);
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let length = usize::try_from(end - from).unwrap_or(0);
        self.map
            .populate_write(start, length)
            .map_err(|e| Error::io("populate", &self.segment.path, e))?;
        self.reach.populated = end;
        Ok(())
    }

    /// The batch at the tail was written: counts it and gives it to readers.
    #[inline]
    pub(crate) fn publish(&mut self, written: &Written, end: Offset) {
        let position = self.position;
        self.totals.records += written.records;
        self.totals.batches += 1;
        self.totals.max_timestamp = self.totals.max_timestamp.max(written.max_timestamp);
        self.totals.append_time = written.append_time;
        if MemoryIndex::is_due(self.last_entry, position) {
            self.enter(written, position);
        }
        self.position += written.bytes;
        self.map.publish(usize::try_from(self.position).unwrap_or(usize::MAX));
        self.segment.publish(end, self.position);
    }

    #[cold]
    fn enter(&mut self, written: &Written, position: u64) {
        let max_timestamp = self.totals.max_timestamp;
        self.segment.index.write().push(written.base, written.append_time, position, max_timestamp);
        self.last_entry = Some(position);
    }
}

/// What the counts and the index need to know of a batch.
pub(crate) struct Written {
    pub(crate) base: Offset,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) append_time: i64,
    pub(crate) max_timestamp: i64,
}

impl Log {
    /// Appends records of the log's own user: see [`Log::append_of`].
    pub(crate) fn append(&self, records: &[Record<'_>]) -> Result<Appended> {
        self.append_of(Origin::Own, records, Compression::None)
    }

    /// Appends the records as one batch, all or nothing, and publishes them: they are in the
    /// page cache then, not on the medium. Compressed, if that makes the batch smaller.
    pub(crate) fn append_of(
        &self,
        origin: Origin<'_>,
        records: &[Record<'_>],
        compression: Compression,
    ) -> Result<Appended> {
        let plain = Plain::new(records)?;
        if self.deduplicates(records) {
            return self.append_once(origin, &plain, compression);
        }
        if compression != Compression::None
            && let Some(packed) = plain.pack(compression, self.clock.as_ref())?
        {
            return self.append_body(origin, &packed);
        }
        self.append_body(origin, &plain)
    }

    #[inline]
    fn append_body(&self, origin: Origin<'_>, body: &impl Body) -> Result<Appended> {
        let mut writer = self.writer_with_room(body.bytes())?;
        let now = self.clock.now_ms().max(writer.append_time);
        let appended = self.append_inline(&mut writer, origin, body, now);
        drop(writer);
        if appended.is_err() {
            self.tell_halt();
        }
        appended
    }

    /// True if the log still holds what was appended to it, deleted since or not: it was not cut
    /// off. The offsets of what was may have been given again, and deleted: a look at the log would
    /// take the later records for these.
    pub(crate) fn holds(&self, appended: &Appended) -> bool {
        let writer = self.writer.lock();
        let since = writer.cuts.get(appended.cuts as usize..).unwrap_or_default();
        since.iter().all(|&at| at >= appended.end)
    }

    /// The sequence of the last record that a producer has here, and the end of its batch.
    pub(crate) fn last_sequence(&self, id: ProducerId) -> Option<(u64, Offset)> {
        let writer = self.writer.lock();
        writer.producers.last_sequence(id).zip(writer.producers.last_end(id))
    }

    /// Makes sure that a batch of these records can be written where blocks are reserved ahead.
    pub(crate) fn make_room(&self, records: &[Record<'_>]) -> Result<()> {
        let bytes = measure(records).map_err(refused)?;
        self.writer_with_room(bytes).map(drop)
    }

    /// The writer, locked, with room for a batch of so many bytes; 0 if nothing is to be written.
    #[inline]
    pub(crate) fn writer_with_room(&self, bytes: usize) -> Result<MutexGuard<'_, Writer>> {
        if self.mode == Mode::ReadOnly {
            return Err(Error::ReadOnly);
        }
        loop {
            let mut writer = self.writer.lock();
            match writer.state {
                WriterState::Open => {}
                WriterState::Closing => return Err(Error::Closed),
                WriterState::Cutting => {
                    drop(writer);
                    drop(self.turn.take());
                    continue;
                }
            }
            self.latch.check()?;
            if bytes == 0 {
                return Ok(writer);
            }
            match writer.room(self, bytes as u64)? {
                Room::Here => return Ok(writer),
                Room::SealFirst => {
                    drop(writer);
                    self.seal_one()?;
                }
                Room::CutFirst => {
                    drop(writer);
                    self.cut_first()?;
                }
            }
        }
    }

    /// Appends at the time `now`, which is not below the last one's.
    #[inline(never)]
    pub(crate) fn append_locked(
        &self,
        writer: &mut Writer,
        origin: Origin<'_>,
        body: &impl Body,
        now: i64,
    ) -> Result<Appended> {
        self.append_inline(writer, origin, body, now)
    }

    /// The same, compiled into its caller.
    #[expect(clippy::inline_always, reason = "measured: 60 instructions more without")]
    #[inline(always)]
    fn append_inline(
        &self,
        writer: &mut Writer,
        origin: Origin<'_>,
        body: &impl Body,
        now: i64,
    ) -> Result<Appended> {
        let numbered = match origin {
            Origin::Own => Numbered::NOT,
            Origin::Producer(producer) => Numbered {
                id: producer.id,
                epoch: producer.epoch,
                base_sequence: writer.next_sequence(producer)?,
                records: body.records(),
            },
        };
        let (bytes, cuts) = (body.bytes(), writer.cuts_made);
        let Writer { active, next, append_time, epoch, epochs, producers, scratch, .. } = writer;
        let Some(active) = active.as_mut() else { return Err(Error::Closed) };
        let base = *next;
        let end = base.plus(body.records());
        let stamp = BatchStamp {
            leader_epoch: *epoch,
            base_offset: base,
            append_time: now,
            synced: load(&self.durable).min(base),
            producer_id: numbered.id,
            producer_epoch: numbered.epoch,
            base_sequence: numbered.base_sequence,
        };
        let identity = &self.place.identity;
        self.store(active, scratch, bytes, |out| body.encode(&stamp, identity, out))?;
        let written = Written {
            base,
            bytes: bytes as u64,
            records: body.records(),
            append_time: now,
            max_timestamp: body.max_timestamp(now),
        };
        active.publish(&written, end);
        if active.position >= active.look_at {
            active.look_at = u64::MAX;
            self.ask_ahead();
        }
        self.counters.appended(active, written.records, written.bytes, now);
        if body.saved_bytes() > 0 {
            self.counters.saved(active, body.saved_bytes());
        }
        epochs.note(*epoch, base);
        if numbered.id != ProducerId::NONE {
            debug_assert_eq!(producers.judge(&numbered), Ok(Verdict::Append), "I7: once each");
            if producers.note(&numbered, base) == Noted::Anew {
                self.counters.knows(producers);
            }
        }
        *append_time = now;
        *next = end;
        self.leo.store(end.get(), Ordering::Release);
        let epoch = *epoch;
        Ok(Appended { base, end, append_time: now, epoch, cuts, duplicates: None })
    }

    /// Writes a batch of `bytes` at the tail, in whichever of the three ways: `write` is given the
    /// place for it.
    #[expect(clippy::inline_always, reason = "measured, as `append_inline`")]
    #[inline(always)]
    pub(crate) fn store(
        &self,
        active: &mut Active,
        scratch: &mut Vec<u8>,
        bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        if self.writes_mapped(bytes) {
            if active.position + bytes as u64 > active.reach.populated {
                active.populate(bytes as u64)?;
            }
            let start = usize::try_from(active.position).unwrap_or(usize::MAX);
            write(active.map.reserve(start, bytes));
            return Ok(());
        }
        scratch.resize(bytes, 0);
        write(scratch);
        let file = active.segment.writable_file(self.disk.as_ref())?;
        let written = write_all_at(file.as_ref(), scratch, active.position);
        if scratch.capacity() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
        written.map_err(|error| self.take_back(active, file.as_ref(), error))
    }

    /// True if a batch of this size goes through the mapping.
    #[inline]
    pub(crate) fn writes_mapped(&self, bytes: usize) -> bool {
        self.options.durability != Durability::Fsync
            && self.options.allocates
            && self.options.coherent
            && bytes <= MAPPED_BATCH_BYTES_MAX
    }

    /// A write failed, and part of it may be in the page cache: a whole batch even, which an open
    /// would take for one that was acknowledged. Its header is zeroed, or on a full disk, where
    /// even that may find no room, the file is cut before it; where both fail, what became of the
    /// batch is unknown and the log halts.
    #[cold]
    fn take_back(&self, active: &mut Active, file: &dyn DiskFile, error: io::Error) -> Error {
        let failure = Error::io("write", &active.segment.path, error);
        if write_all_at(file, &[0; BATCH_HEADER_BYTES], active.position).is_ok() {
            return failure;
        }
        match file.set_len(active.position) {
            Ok(()) => {
                active.reaches(active.position);
                failure
            }
            Err(_) => self.halt_untold(failure),
        }
    }
}

/// Grows a file, or begins one, by `growth`; by the least where the disk has not as much: its last
/// room is for what is appended.
pub(crate) fn by_less_if_full<T>(
    growth: &mut u64,
    mut grow: impl FnMut(u64) -> Result<T>,
) -> Result<T> {
    match grow(*growth) {
        Err(Error::StorageFull(_)) if *growth > GROWTH_BYTES_MIN => {
            *growth = GROWTH_BYTES_MIN;
            grow(*growth)
        }
        grown => grown,
    }
}

/// By how much a file grows that has grown by so much.
pub(crate) fn next_growth(growth: u64) -> u64 {
    growth.saturating_mul(GROWTH_FACTOR).min(GROWTH_BYTES_MAX)
}

/// Why a batch was refused, in the caller's terms.
pub(crate) fn refused(error: RecordError) -> Error {
    let too_large = |what, bytes: usize| Error::RecordTooLarge {
        what,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
    };
    match error {
        RecordError::Empty => Error::InvalidBatch { why: "it has no records" },
        RecordError::RecordTooLarge { bytes } => too_large("a record", bytes),
        RecordError::KeyTooLarge { bytes } => too_large("a key", bytes),
        RecordError::DedupKeyTooLarge { bytes } => too_large("a dedup key", bytes),
        RecordError::HeadersTooLarge { bytes } => too_large("the headers of a record", bytes),
        RecordError::BatchTooLarge { bytes } => too_large("a batch", bytes),
        RecordError::DedupWithoutSource => {
            Error::InvalidBatch { why: "a record's dedup key is to be its key, and it has none" }
        }
        // The others are found when reading.
        _ => Error::InvalidBatch { why: "a record cannot be encoded" },
    }
}
