//! Fetching: from an offset, the batches that follow it, verified, as views.
//!
//! Not here: how far a consumer may read (`partition` gives the limit), what a position out of
//! range leads to (`client`).
//!
//! What this process appended, or an open scanned, is trusted. Anything older is checked, header
//! and payload, the first time it is read, and remembered. A bad batch is never handed out: the
//! fetch ends before it, and the next one tells exactly which offsets cannot be read.
//!
//! A fetch has either batches as they lie in the file or such as were compressed (`unpack`): where
//! one kind follows the other it ends. Who copies a log gets all of them as they lie there.
//!
//! Threads   any; one cursor belongs to one reader.

use std::ops::Range;
use std::sync::Arc;

use crate::config::{READ_AHEAD_PIECE_BYTES, Reads};
use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Identity, find_next};
use crate::fs::View;
use crate::id::Offset;
use crate::log::chunk::Chunk;
use crate::log::core::Log;
use crate::log::segment::Segment;
use crate::log::unpack::{Unpackable, Unpacked, unpack};

/// Where a reader is: an offset, and the place in a file that goes with it.
#[derive(Clone, Debug)]
pub(crate) struct ReadCursor {
    offset: Offset,
    hint: Option<Hint>,
    /// Compressed batches are handed out as they are.
    stored: bool,
}

/// Where a log has what comes next.
#[derive(Clone, Debug)]
struct Hint {
    /// Which log: the address of one that outlives the cursor's owner.
    log: usize,
    segment: Arc<Segment>,
    position: u64,
}

impl ReadCursor {
    pub(crate) fn at(offset: Offset) -> Self {
        Self { offset, hint: None, stored: false }
    }

    /// For who takes the batches over, and does not look into them.
    pub(crate) fn stored_at(offset: Offset) -> Self {
        Self { stored: true, ..Self::at(offset) }
    }

    pub(crate) fn offset(&self) -> Offset {
        self.offset
    }
}

/// What lies at a position of a window.
enum Found {
    /// A batch, good as far as it was to be checked.
    Batch(BatchHeader),
    /// A good header whose batch reaches beyond the window.
    Longer(BatchHeader),
    /// Damage; with the batch's own length, if its header is good.
    Bad(&'static str, Option<BatchHeader>),
    /// The window ends here.
    End,
}

impl Log {
    /// The batches from the cursor on, below `upto`, at most `bytes_max` unless the first is
    /// larger; `None` at `upto`. Moves the cursor behind them.
    ///
    /// # Errors
    /// `OffsetOutOfRange` below the log start or above the end; `Corrupt` where the next offset
    /// cannot be read, and the cursor stays; `Halted` above the durable offset of a halted log.
    pub(crate) fn read(
        &self,
        cursor: &mut ReadCursor,
        upto: Offset,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<Option<Chunk>> {
        let offset = cursor.offset;
        match self.read_at(cursor, upto, bytes_max, reads) {
            // The segment went while it was looked for: that is no damage.
            Err(Error::Corrupt(_) | Error::Io(_)) if offset < self.start_offset() => {
                Err(Error::out_of_range(offset, self.start_offset(), upto))
            }
            read => read,
        }
    }

    fn read_at(
        &self,
        cursor: &mut ReadCursor,
        upto: Offset,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<Option<Chunk>> {
        let offset = cursor.offset;
        let (start, end) = (self.start_offset(), self.end_offset());
        if offset < start || offset > end {
            return Err(Error::out_of_range(offset, start, upto));
        }
        // Of a halted log nothing above the last good sync is served (I9), also where the high
        // watermark was beyond it before.
        let halted = self.latch.is_halted();
        let served = if halted { upto.min(self.durable_offset()) } else { upto };
        if offset >= served {
            return if halted && offset < upto {
                self.latch.check().map(|()| None)
            } else {
                Ok(None)
            };
        }
        let upto = served;
        let here = std::ptr::from_ref(self).addr();
        let is_of_use = |hint: &Hint| hint.log == here && offset < hint.segment.end();
        let hint = cursor.hint.take().filter(is_of_use);
        let goes_on = hint.is_some() && reads == Reads::Mapped;
        let (segment, position, start) = if let Some(Hint { segment, position, .. }) = hint {
            (segment, position, Start::Exact)
        } else {
            let segment = self.segment_of(offset)?;
            let position =
                segment.position_before(self.disk.as_ref(), &self.place.identity, offset)?;
            (segment, position, Start::Indexed)
        };
        let bytes_max = match self.read_ahead.is_behind(&segment, position) {
            Some(bytes) if goes_on => bytes.min(bytes_max),
            _ => bytes_max,
        };
        let stored = cursor.stored;
        let walk = Walk { log: self, segment: &segment, offset, upto, bytes_max, reads, stored };
        let (chunk, next_position) = match walk.run(position, start)? {
            // An index that points behind its target would skip records: walk from the start.
            Walked::TooFar => match walk.run(segment.first_position, Start::Exact)? {
                Walked::TooFar => (None, position),
                Walked::Done(chunk, next_position) => (chunk, next_position),
            },
            Walked::Done(chunk, next_position) => (chunk, next_position),
        };
        if let Some(chunk) = &chunk {
            debug_assert!(chunk.next > offset);
            if goes_on && chunk.stored_bytes >= READ_AHEAD_PIECE_BYTES / 2 {
                self.wish_ahead(&segment, next_position);
            }
            cursor.offset = chunk.next;
            cursor.hint = Some(Hint { log: here, segment, position: next_position });
        }
        Ok(chunk)
    }

    /// The segment that holds `offset`, or the damage that does.
    fn segment_of(&self, offset: Offset) -> Result<Arc<Segment>> {
        let list = self.segments();
        let after = list.partition_point(|segment| segment.base <= offset);
        let missing_end = list.get(after).map_or(self.end_offset(), |next| next.base);
        let Some(segment) = after.checked_sub(1).and_then(|i| list.get(i)) else {
            let what = "a segment file is missing";
            return Err(self.place.corrupt(offset, missing_end, &self.place.dir, 0, what));
        };
        if offset < segment.end() {
            return Ok(Arc::clone(segment));
        }
        let what = "the batches are damaged or missing";
        let position = segment.end_position();
        Err(self.place.corrupt(offset, missing_end, &segment.path, position, what))
    }
}

/// How far the position that a walk begins at can be relied on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// No batch before it holds the offset.
    Exact,
    /// An index said so, which is derived data: the first batch has to be at or before the offset.
    Indexed,
}

/// What a walk came to.
enum Walked {
    /// The index pointed behind its target.
    TooFar,
    /// A chunk, if there was one, and the position behind it.
    Done(Option<Chunk>, u64),
}

/// One fetch within one segment.
struct Walk<'a> {
    log: &'a Log,
    segment: &'a Arc<Segment>,
    offset: Offset,
    upto: Offset,
    bytes_max: usize,
    reads: Reads,
    /// Compressed batches are like any other.
    stored: bool,
}

impl Walk<'_> {
    /// Walks from the batch at `position` to the one that holds the offset, and collects from
    /// there on. Returns the chunk and the position behind it.
    fn run(&self, position: u64, from: Start) -> Result<Walked> {
        let identity = &self.log.place.identity;
        let limit = self.upto.min(self.segment.end());
        let mut checks = Checks::of(self.segment);
        let (mut window, mut whole) = self.window(position, self.bytes_max)?;
        let mut start = position;
        let mut at = 0;
        // Of the chunk: where it begins in the window, and its end.
        let mut begun: Option<usize> = None;
        let mut next = self.offset;
        // What its batches take without their codec; 0 unless they are compressed.
        let mut unpacked = 0;
        let mut unsure = from == Start::Indexed && position != self.segment.first_position;
        // The end of the batch before: what follows damage lies at or above it.
        let mut expected = if from == Start::Exact && position != self.segment.first_position {
            self.offset
        } else {
            self.segment.base
        };
        loop {
            let here = start + at as u64;
            match self.look((&window, whole), at, here, &mut checks) {
                Found::Batch(header) if header.base_offset >= limit => break,
                Found::Batch(header) => {
                    if header.next_offset() > self.offset {
                        if unsure && header.base_offset > self.offset {
                            return Ok(Walked::TooFar);
                        }
                        let compressed = header.is_compressed() && !self.stored;
                        if begun.is_some() && compressed != (unpacked > 0) {
                            break;
                        }
                        begun.get_or_insert(at);
                        if compressed {
                            unpacked += header.unpacked_bytes();
                        }
                        next = header.next_offset();
                    }
                    unsure = false;
                    expected = header.next_offset();
                    at += header.batch_bytes();
                    if begun.is_some_and(|from| (at - from).max(unpacked) >= self.bytes_max) {
                        break;
                    }
                }
                Found::Longer(_) | Found::End | Found::Bad(..) if begun.is_some() => break,
                Found::Longer(header) => {
                    let bytes = header.batch_bytes().max(self.bytes_max);
                    ((window, whole), start, at) = (self.window(here, bytes)?, here, 0);
                }
                Found::End if here < self.segment.end_position() => {
                    ((window, whole), start, at) = (self.window(here, self.bytes_max)?, here, 0);
                }
                Found::End => break,
                Found::Bad(what, header) => {
                    if unsure {
                        return Ok(Walked::TooFar);
                    }
                    let bad = Bad { position: here, what, header, expected };
                    let resume = self.behind_damage(&bad, identity)?;
                    ((window, whole), start, at) =
                        (self.window(resume, self.bytes_max)?, resume, 0);
                }
            }
        }
        let end_position = start + at as u64;
        let Some(from) = begun else {
            return Ok(Walked::Done(None, end_position));
        };
        if unpacked > 0 {
            return self.unpack(&window, from..at, start);
        }
        let chunk = window.slice(from..at).map(|view| Chunk {
            view,
            stored_bytes: at - from,
            from: self.offset,
            next,
        });
        debug_assert!(chunk.is_some(), "a chunk lies within its window");
        Ok(Walked::Done(chunk, end_position))
    }

    /// The compressed batches at `range` of a window, which begins at `start` in the file.
    #[cold]
    fn unpack(&self, window: &View, range: Range<usize>, start: u64) -> Result<Walked> {
        let row = window.bytes().get(range.clone()).unwrap_or_default();
        let position = start + range.start as u64;
        let path = &self.segment.path;
        match unpack(row) {
            Ok(Unpacked { view, next, stored_bytes }) => {
                let chunk = Chunk { view, stored_bytes, from: self.offset, next };
                Ok(Walked::Done(Some(chunk), position + stored_bytes as u64))
            }
            Err(Unpackable::Damaged(what)) => {
                let first = BatchHeader::decode_trusted(row).map(|header| header.next_offset());
                let end = first.unwrap_or(self.segment.end()).min(self.segment.end());
                let end = end.max(self.offset.next());
                Err(self.log.place.corrupt(self.offset, end, path, position, what))
            }
            Err(Unpackable::NotBuilt { feature }) => Err(Error::MissingFeature { feature }),
            Err(Unpackable::OutOfMemory) => {
                let cause = std::io::ErrorKind::OutOfMemory.into();
                Err(Error::io("decompress records of", path, cause))
            }
        }
    }

    /// What lies there, and whether the medium gave all of it back.
    fn window(&self, position: u64, bytes: usize) -> Result<(View, bool)> {
        // A header at least, so that a tiny limit cannot stall the walk.
        let bytes = bytes.max(BATCH_HEADER_BYTES);
        self.segment.whole_window(self.log.disk.as_ref(), position, bytes, self.reads)
    }

    /// What lies at `at` in the window, which is `here` in the file.
    #[inline]
    fn look(
        &self,
        (window, whole): (&View, bool),
        at: usize,
        here: u64,
        checks: &mut Checks<'_>,
    ) -> Found {
        let identity = &self.log.place.identity;
        let bytes = window.bytes().get(at..).unwrap_or_default();
        if bytes.is_empty() {
            return Found::End;
        }
        let in_file = self.segment.end_position().saturating_sub(here);
        if (bytes.len() as u64) < in_file.min(BATCH_HEADER_BYTES as u64) {
            return Found::End;
        }
        let trusted = whole && checks.cover(here);
        let decoded = if trusted {
            BatchHeader::decode_trusted(bytes)
        } else {
            BatchHeader::decode(bytes, identity)
        };
        let header = match decoded {
            Ok(header) => header,
            Err(error) => return Found::Bad(batch_damage(error), None),
        };
        let length = header.batch_bytes();
        if length as u64 > in_file {
            return Found::Bad("a batch reaches beyond the end", None);
        }
        // Whoever is only passed by on the way to the offset is not checked.
        let passed = header.next_offset() <= self.offset;
        if length > bytes.len() {
            return Found::Longer(header);
        }
        if !trusted && !passed {
            if let Err(what) = check_batch(&header, bytes, identity) {
                return Found::Bad(what, Some(header));
            }
            checks.add(here, here + length as u64);
        }
        Found::Batch(header)
    }

    /// Where the next good batch is, if the damage ends at or before the offset; else the error
    /// that names the damage.
    fn behind_damage(&self, bad: &Bad, identity: &Identity) -> Result<u64> {
        // A batch with a good header tells its own length: the search goes on behind it, not
        // inside, where a record may hold bytes that look like a batch.
        let skip = bad.header.as_ref().map_or(8, BatchHeader::batch_bytes);
        let at_least = bad.header.as_ref().map_or(bad.expected, BatchHeader::next_offset);
        let rest = self.segment.end_position().saturating_sub(bad.position);
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let image = self.segment.window(self.log.disk.as_ref(), bad.position, rest, self.reads)?;
        let found = find_next(image.bytes(), skip, identity, at_least);
        let damage_end = match (&bad.header, &found) {
            (Some(header), _) => header.next_offset(),
            (None, Some((_, next))) => next.base_offset,
            (None, None) => self.segment.end(),
        };
        match found {
            Some((at, _)) if damage_end <= self.offset => Ok(bad.position + at as u64),
            _ => {
                let end = damage_end.min(self.segment.end()).max(self.offset.next());
                let (path, place) = (&self.segment.path, &self.log.place);
                Err(place.corrupt(self.offset, end, path, bad.position, bad.what))
            }
        }
    }
}

/// Which bytes of a segment need no check, and which were checked by this walk. Both are kept here
/// for the walk's time, so that it takes the lock that they are under once or twice, and not for
/// each batch.
struct Checks<'a> {
    segment: &'a Segment,
    /// Asked for already: all from the walk's beginning up to here is checked.
    known_to: u64,
    added: (u64, u64),
    /// Nothing of the segment is taken for what it was before.
    is_suspect: bool,
}

impl<'a> Checks<'a> {
    fn of(segment: &'a Segment) -> Self {
        let is_suspect = segment.is_suspect();
        Self { segment, known_to: 0, added: (0, 0), is_suspect }
    }

    /// True if the batch at this position needs no check.
    #[inline]
    fn cover(&mut self, position: u64) -> bool {
        if self.is_suspect {
            return false;
        }
        if position >= self.segment.trusted_from || position < self.known_to {
            return true;
        }
        // Right behind what was just checked by this walk, nothing else was by one before it, or it
        // is found out at the next walk.
        if position == self.added.1 {
            return false;
        }
        self.known_to = self.segment.verified.checked_until(position);
        position < self.known_to
    }

    /// Remembers that a batch was checked.
    #[inline]
    fn add(&mut self, from: u64, to: u64) {
        if from == self.added.1 {
            self.added.1 = to;
        } else {
            self.give();
            self.added = (from, to);
        }
    }

    fn give(&self) {
        let (from, to) = self.added;
        self.segment.verified.insert(from, to);
    }
}

impl Drop for Checks<'_> {
    fn drop(&mut self) {
        self.give();
    }
}

/// A batch that cannot be handed out.
struct Bad {
    position: u64,
    what: &'static str,
    /// If the header is good.
    header: Option<BatchHeader>,
    /// The offset that the batch before ends at.
    expected: Offset,
}

/// Checks a batch whole: its payload against the checksum, and that its records can be walked.
/// Those of a compressed one are checked by whoever decompresses it.
pub(crate) fn check_batch(
    header: &BatchHeader,
    batch: &[u8],
    identity: &Identity,
) -> Result<(), &'static str> {
    header.check_payload(batch, identity).map_err(batch_damage)?;
    let payload = header.payload(batch).ok_or("a batch reaches beyond the end")?;
    if header.is_compressed() {
        return Ok(());
    }
    header.records(payload).check().map_err(|_| "a record cannot be decoded")
}

/// What a person reads of a batch that was refused.
pub(crate) fn batch_damage(error: BatchError) -> &'static str {
    match error {
        BatchError::Empty => "zeros where a batch should be",
        BatchError::Short { .. } => "a batch is cut short",
        BatchError::BadMagic => "something else where a batch should be",
        BatchError::HeaderCrc => "a batch header fails its checksum",
        BatchError::PayloadCrc => "a batch fails its checksum",
        BatchError::Limit { .. } => "a batch has a length above the limit",
        BatchError::Unknown => "a batch uses features of a newer version",
        BatchError::Inconsistent(_) => "a batch header contradicts itself",
    }
}
