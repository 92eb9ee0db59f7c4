//! Appending: one writer, three ways to the page cache.
//!
//! Not here: beginning and ending files (`roll`, `cut`), making bytes durable (`commit`), who may
//! append and what is acknowledged (`partition`), compressing (`body`), which is done before the
//! lock is taken, and room for what is appended (`room`).
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

use crate::config::{Compression, Durability, GROWTH_BYTES_MIN, MAPPED_BATCH_BYTES_MAX};
use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_BYTES, BatchStamp, Record, RecordError};
use crate::fs::{DiskFile, MapWriter, write_all_at};
use crate::id::{Generation, LeaderEpoch, Offset, ProducerId};
use crate::log::ahead::{Pace, Prepared};
use crate::log::body::{Body, Plain};
use crate::log::core::{Log, load};
use crate::log::dedup::{Duplicates, Point};
use crate::log::epochs::EpochTable;
use crate::log::index::MemoryIndex;
use crate::log::producers::{Noted, Numbered, ProducerIdentity, ProducerTable, Verdict};
use crate::log::segment::{Segment, Totals};
use crate::sync::atomic::Ordering;

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
    pub(crate) cuts: usize,
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
            prepared: None,
            voids: Vec::new(),
            pace: Pace::default(),
            scratch: Vec::new(),
        }
    }

    /// What an append comes to of whose records all were there before.
    pub(crate) fn nothing_appended(&self, now: Point) -> Appended {
        Appended {
            base: now.offset,
            end: now.offset,
            append_time: now.append_time,
            epoch: self.epoch,
            cuts: self.cuts.len(),
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
}

impl Active {
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
        let appended = self.append_locked(&mut writer, origin, body, now);
        drop(writer);
        if appended.is_err() {
            self.tell_halt();
        }
        appended
    }

    /// True if the log still holds what was appended to it, deleted since or not: it was not cut
    /// off. The offsets of what was may have been given again, and deleted: a look at the log would
    /// take the later records for these.
    #[inline]
    pub(crate) fn holds(&self, appended: &Appended) -> bool {
        self.cut_count.load(Ordering::Acquire) == appended.cuts || self.still_holds(appended)
    }

    #[cold]
    fn still_holds(&self, appended: &Appended) -> bool {
        let writer = self.writer.lock();
        let since = writer.cuts.get(appended.cuts..).unwrap_or_default();
        since.iter().all(|&at| at >= appended.end)
    }

    /// The sequence of the last record that a producer has here, and the end of its batch.
    pub(crate) fn last_sequence(&self, id: ProducerId) -> Option<(u64, Offset)> {
        let writer = self.writer.lock();
        writer.producers.last_sequence(id).zip(writer.producers.last_end(id))
    }

    /// Appends at the time `now`, which is not below the last one's.
    #[expect(clippy::inline_always, reason = "measured: 60 instructions more without")]
    #[inline(always)]
    pub(crate) fn append_locked(
        &self,
        writer: &mut Writer,
        origin: Origin<'_>,
        body: &impl Body,
        now: i64,
    ) -> Result<Appended> {
        if !self.role.may_append() {
            return self.not_leader();
        }
        let numbered = match origin {
            Origin::Own => Numbered::NOT,
            Origin::Producer(producer) => Numbered {
                id: producer.id,
                epoch: producer.epoch,
                base_sequence: writer.next_sequence(producer)?,
                records: body.records(),
            },
        };
        let (bytes, cuts) = (body.bytes(), writer.cuts.len());
        let Writer { active, next, append_time, epoch, epochs, producers, scratch, .. } = writer;
        let Some(active) = active.as_mut() else { return Err(Error::Closed) };
        let base = *next;
        let end = base.plus(body.records());
        let stamp = BatchStamp {
            leader_epoch: *epoch,
            base_offset: base,
            append_time: now,
            synced: load(&self.durable).min(self.role.synced()).min(base),
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
    #[expect(clippy::inline_always, reason = "measured, as `append_locked`")]
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
