//! What the bytes of one segment say: its batches, in runs with damage between them.
//!
//! Not here: what follows from it. `recover` decides where the log ends, `verify` reports.
//!
//! A scan looks at every byte and trusts none, but it decompresses nothing, which would make an
//! open slow, and fail without the codec: a run is a row of batches, each of which verifies
//! (header, payload, identity), has an offset not below the end of the one before, and an epoch not
//! below it (I2, I3). After a batch that does not, the next one that does is looked for, in 8-byte
//! steps, and begins a new run.

use crate::error::{Error, Result};
use crate::format::{
    BatchHeader, DATA_START, EpochEntry, Footer, Identity, PAGE, SLOT_POSITIONS, SegmentError,
    SegmentHeader, Slot, find_next,
};
use crate::fs::{Disk, DiskFile, MapAccess, Mapping, OpenMode, View, read_exact_at};
use crate::id::{Generation, LeaderEpoch, Offset};
use crate::log::core::Mode;
use crate::log::index::MemoryIndex;
use crate::log::producers::{Numbered, ProducerTable, opening_section};
use crate::log::read::check_batch;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a whole segment is not part of the log that it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// Of this log, under the name of another segment: copied or exchanged. What it says of the
    /// log is true; what it holds is sought under its own name.
    Misnamed,
    /// Copied from another partition, topic or store.
    OfAnotherLog,
}

/// On every Unix.
const EIO: i32 = 5;
/// The pages before the batches.
const HEAD_BYTES: usize = 3 * PAGE;
const _: () = assert!(HEAD_BYTES as u64 == DATA_START);

/// A file as found: what its pages outside the batches say.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) base: Offset,
    pub(crate) generation: Generation,
    pub(crate) bytes: u64,
    /// `None`: damaged, or of another log.
    pub(crate) header: Option<SegmentHeader>,
    /// It does not belong where it lies.
    pub(crate) stray: Option<Stray>,
    /// Features of the header that this version does not know.
    pub(crate) incompatible: Option<u32>,
    /// The slots that verify, the newer one first.
    pub(crate) slots: Vec<Slot>,
    /// Which of the two pages hold something that is no slot of this file.
    pub(crate) damaged_slots: [bool; 2],
    pub(crate) footer: Option<Footer>,
    /// The disk gave back header and slots, good or bad.
    pub(crate) head_readable: bool,
    /// Where the first batch is. With the header damaged: behind what can be read of the section
    /// that the file may begin with.
    first_position: u64,
}

impl Found {
    /// Reads a file's header, slots and footer. Errors are of the disk only: damage is `None`.
    pub(crate) fn read(
        path: PathBuf,
        base: Offset,
        generation: Generation,
        file: &dyn DiskFile,
        identity: &Identity,
    ) -> io::Result<Self> {
        let bytes = file.len()?;
        let mut head = [0; HEAD_BYTES];
        let (head_bytes, head_readable) = read_some_at(file, &mut head)?;
        let decoded = SegmentHeader::decode(head.get(..head_bytes.min(PAGE)).unwrap_or_default());
        let incompatible = match decoded {
            Err(SegmentError::Incompatible { bits }) => Some(bits),
            Err(SegmentError::Version { found }) => Some(found),
            _ => None,
        };
        // A whole header says which file this is, whatever its name and its folder say.
        let stray = decoded.ok().and_then(|found| {
            let named = (found.base_offset, found.generation) == (base, generation);
            match (found.identity() == *identity, named) {
                (true, true) => None,
                (true, false) => Some(Stray::Misnamed),
                (false, _) => Some(Stray::OfAnotherLog),
            }
        });
        let header = decoded.ok().filter(|_| stray != Some(Stray::OfAnotherLog));
        let (base, generation) =
            header.map_or((base, generation), |found| (found.base_offset, found.generation));
        let mut slots = Vec::new();
        let mut damaged_slots = [false; 2];
        for (position, damaged) in SLOT_POSITIONS.into_iter().zip(&mut damaged_slots) {
            let page = usize::try_from(position).ok().and_then(|at| head.get(at..at + PAGE));
            match Slot::decode(page.unwrap_or_default(), identity) {
                Ok(slot) if slot.generation == generation => slots.push(slot),
                _ => *damaged = true,
            }
        }
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.sequence));
        let footer = read_footer(file, bytes, identity)?
            .filter(|footer| footer.base_offset == base && footer.generation == generation);
        let first_position = header.map_or_else(
            || opening_section(file, identity, u64::MAX).end_position,
            |header| header.first_position,
        );
        Ok(Self {
            path,
            base,
            generation,
            bytes,
            header,
            stray,
            incompatible,
            slots,
            damaged_slots,
            footer,
            head_readable,
            first_position,
        })
    }

    /// The file, opened again: a log may have more of them than a process may hold open.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        disk.open(&self.path, OpenMode::Read).map_err(|e| Error::io("open", &self.path, e))
    }

    /// The kind, from the header or, where that is damaged, from a slot or the footer.
    pub(crate) fn kind(&self) -> Option<crate::format::SegmentKind> {
        self.header
            .map(|header| header.kind)
            .or_else(|| self.slots.first().map(|slot| slot.kind))
            .or_else(|| self.footer.as_ref().map(|footer| footer.kind))
    }

    /// Where the first batch is.
    pub(crate) fn first_position(&self) -> u64 {
        self.first_position.min(self.bytes.max(DATA_START))
    }
}

/// As many bytes as the file has, from its start, and whether all could be read; blocks that could
/// not are left zero.
fn read_some_at(file: &dyn DiskFile, buf: &mut [u8]) -> io::Result<(usize, bool)> {
    let bytes = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(buf.len());
    let (head, _) = buf.split_at_mut(bytes);
    let whole = read_exact_at(file, head, 0).is_ok() || salvage(file, head, 0)? == 0;
    Ok((bytes, whole))
}

fn read_footer(file: &dyn DiskFile, bytes: u64, identity: &Identity) -> io::Result<Option<Footer>> {
    let Some(position) = bytes.checked_sub(PAGE as u64).filter(|&p| p >= DATA_START) else {
        return Ok(None);
    };
    let mut page = [0; PAGE];
    match read_exact_at(file, &mut page, position) {
        Ok(()) => {}
        // Bad, or cut off meanwhile by a live broker that this one looks at from beside.
        Err(e) if is_bad_sector(&e) || e.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    }
    let footer = Footer::decode(&page, identity).ok();
    Ok(footer.filter(|footer| footer.data_end <= position && footer.data_end >= DATA_START))
}

/// True for the error of a sector that cannot be read.
pub(crate) fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EIO)
}

/// The error of a file of which the disk did not give a block back.
pub(crate) fn bad_sector(path: &Path) -> Error {
    Error::io("read", path, io::Error::from_raw_os_error(EIO))
}

/// Reads block by block; a block that cannot be read is left zero, which no checksum accepts.
/// Returns where the last of those ends, 0 if there is none.
fn salvage(file: &dyn DiskFile, buf: &mut [u8], position: u64) -> io::Result<u64> {
    let mut done = 0;
    let mut unreadable_to = 0;
    while done < buf.len() {
        let at = position + done as u64;
        let to_boundary = PAGE - usize::try_from(at % PAGE as u64).unwrap_or(0);
        let block = to_boundary.min(buf.len() - done);
        let part = &mut buf[done..done + block];
        match read_exact_at(file, part, at) {
            Ok(()) => {}
            Err(e) if is_bad_sector(&e) => {
                part.fill(0);
                unreadable_to = at + block as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => part.fill(0),
            Err(e) => return Err(e),
        }
        done += block;
    }
    Ok(unreadable_to)
}

/// Part of a file in memory of its own, with unreadable blocks as zeros.
pub(crate) fn copied_image(file: &dyn DiskFile, position: u64, bytes: usize) -> io::Result<View> {
    copied(file, position, bytes).map(|image| image.view)
}

/// The same, which says whether there are such blocks.
pub(crate) fn copied(file: &dyn DiskFile, position: u64, bytes: usize) -> io::Result<Image> {
    let mut unreadable_to = 0;
    let map = Mapping::copied(bytes, |buf| match read_exact_at(file, buf, position) {
        Ok(()) => Ok(()),
        Err(e) if is_bad_sector(&e) || e.kind() == io::ErrorKind::UnexpectedEof => {
            unreadable_to = salvage(file, buf, position)?;
            Ok(())
        }
        Err(e) => Err(e),
    })?;
    let view = map.view(0, bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Image { view, unreadable_to })
}

/// The bytes of a file.
pub(crate) struct Image {
    pub(crate) view: View,
    /// Where in the file the last block ends that the disk did not give back, and which is zeros
    /// here; 0 if there is none.
    pub(crate) unreadable_to: u64,
}

impl Image {
    /// The same without its first bytes.
    pub(crate) fn without(self, bytes: u64) -> Self {
        let length = self.view.len();
        let from = usize::try_from(bytes).unwrap_or(usize::MAX).min(length);
        match self.view.slice(from..length) {
            Some(view) => Self { view, ..self },
            None => self,
        }
    }

    /// The position, a multiple of 8, behind which the file it is of, from `start` on, holds
    /// nothing: neither anything but zeros nor a block that the disk did not give back.
    pub(crate) fn kept_to(&self, start: u64) -> u64 {
        let written = start + written_bytes(self.view.bytes()) as u64;
        written.max(self.unreadable_to).next_multiple_of(8)
    }
}

/// A whole file from `position` on: mapped where nobody else can be writing to it.
pub(crate) fn image(
    file: &dyn DiskFile,
    position: u64,
    file_bytes: u64,
    mode: Mode,
) -> io::Result<Image> {
    let end = usize::try_from(file_bytes).unwrap_or(usize::MAX);
    let start = usize::try_from(position).unwrap_or(usize::MAX).min(end);
    if mode == Mode::ReadWrite && end > start {
        let writer = file.map(end, start, end, MapAccess::Read)?;
        let map = writer.mapping();
        if map.populate_read(start, end - start).is_ok()
            && let Some(view) = map.view(start, end - start)
        {
            return Ok(Image { view, unreadable_to: 0 });
        }
    }
    copied(file, position, end - start)
}

/// How many bytes there are before what is nothing but zeros to the end.
pub(crate) fn written_bytes(bytes: &[u8]) -> usize {
    // From the end in pieces that are compared at once: files are allocated far ahead.
    const PIECE: usize = 256;
    let (pieces, rest) = bytes.as_chunks::<PIECE>();
    let last = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte != 0).map(|at| at + 1);
    if let Some(end) = last(rest) {
        return pieces.len() * PIECE + end;
    }
    let piece = pieces.iter().rposition(|piece| *piece != [0; PIECE]);
    piece.map_or(0, |at| at * PIECE + last(&pieces[at]).unwrap_or(0))
}

/// A row of good batches.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) position: u64,
    pub(crate) end_position: u64,
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    pub(crate) records: u64,
    pub(crate) batches: u64,
    /// How many of them are compressed: their records were not looked at.
    pub(crate) compressed: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) append_time: i64,
    /// The largest `synced` of its batches.
    pub(crate) synced: Offset,
    pub(crate) index: MemoryIndex,
    pub(crate) epochs: Vec<EpochEntry>,
    /// Those that numbered its batches.
    pub(crate) producers: ProducerTable,
}

/// What a segment holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    pub(crate) runs: Vec<Run>,
}

/// Scans `bytes`, which lie at `start` in the file, for the batches of a log from `base` on and
/// below `clip`.
pub(crate) fn scan(
    bytes: &[u8],
    start: u64,
    identity: &Identity,
    base: Offset,
    clip: Offset,
) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    let mut next = base;
    let mut epoch = LeaderEpoch::new(0);
    // True while `at` continues the last run.
    let mut continues = false;
    loop {
        let here = bytes.get(at..).unwrap_or_default();
        let (found, resume) = match BatchHeader::decode(here, identity) {
            Ok(header) if header.base_offset >= clip => break,
            Ok(header) if check_batch(&header, here, identity).is_err() => {
                // Its length is known good: go on behind it, not inside it, where a record may
                // hold bytes that look like a batch.
                (None, at.saturating_add(header.batch_bytes()))
            }
            Ok(header) if header.base_offset >= next && header.leader_epoch >= epoch => {
                (Some(header), 0)
            }
            Ok(_) | Err(_) => (None, at.saturating_add(8)),
        };
        let Some(header) = found else {
            continues = false;
            let Some((position, _)) = find_next(bytes, resume, identity, next) else { break };
            at = position;
            continue;
        };
        let position = start + at as u64;
        let end_position = position + header.batch_bytes() as u64;
        if !continues {
            scan.runs.push(Run::at(position, &header));
            continues = true;
        }
        if let Some(run) = scan.runs.last_mut() {
            run.push(&header, position, end_position);
        }
        next = header.next_offset();
        epoch = header.leader_epoch;
        at += header.batch_bytes();
    }
    scan
}

impl Run {
    fn at(position: u64, header: &BatchHeader) -> Self {
        Self {
            position,
            end_position: position,
            first: header.base_offset,
            next: header.base_offset,
            records: 0,
            batches: 0,
            compressed: 0,
            max_timestamp: i64::MIN,
            append_time: i64::MIN,
            synced: Offset::ZERO,
            index: MemoryIndex::default(),
            epochs: Vec::new(),
            producers: ProducerTable::default(),
        }
    }

    fn push(&mut self, header: &BatchHeader, position: u64, end_position: u64) {
        self.end_position = end_position;
        self.next = header.next_offset();
        self.records += u64::from(header.record_count);
        self.batches += 1;
        self.compressed += u64::from(header.is_compressed());
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.append_time = self.append_time.max(header.append_time);
        self.synced = self.synced.max(header.synced);
        if let Some(numbered) = Numbered::of(header) {
            self.producers.note(&numbered, header.base_offset);
        }
        if MemoryIndex::is_due(self.index.last_position(), position) {
            let (offset, append_time) = (header.base_offset, header.append_time);
            self.index.push(offset, append_time, position, self.max_timestamp);
        }
        if self.epochs.last().is_none_or(|last| last.epoch < header.leader_epoch) {
            self.epochs.push(EpochEntry { epoch: header.leader_epoch, start: header.base_offset });
        }
    }
}
