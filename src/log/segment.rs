//! One segment: a file of batches covering the offsets from its base on, and what is known of it.
//!
//! Not here: appending to it (`writer`), choosing when to begin the next (`roll`), walking its
//! batches for a reader (`read`).
//!
//! Invariants
//!   1. Bytes below `end_position` are batches of offsets below `end`; they are never rewritten
//!      (I1). A cut lowers `clip`, never `end_position`: views stay true, readers stop earlier.
//!   2. At most one segment of a log is written to, and it is the newest one.
//!   3. The file is held open only while it may have unsynced bytes; a sealed segment has a
//!      mapping, which needs no descriptor.
//! Threads   the log's writer publishes; everyone reads. Atomics: `end` and `end_position` are
//!           stored with Release after the bytes they cover, and loaded with Acquire.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use crate::config::Reads;
use crate::error::{Error, Result};
use crate::format::{
    Block, Entry, EpochEntry, Footer, Identity, OffsetEntry, PAGE, ProducerEntry, SLOT_POSITIONS,
    SectionKind, SectionRef, SegmentKind, Slot, TimeEntry, decode_block,
};
use crate::fs::{Disk, DiskFile, MapAccess, Mapping, OpenMode, View, read_exact_at};
use crate::id::{Generation, Incarnation, Offset};
use crate::log::dedup::Keys;
use crate::log::handles::Handles;
use crate::log::index::MemoryIndex;
use crate::log::pins::{Maker, Maps};
use crate::log::scan::copied;
use crate::log::verified::Verified;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock, lock_while};

/// `clip` of a segment that was not cut.
const NOT_CUT: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    pub(crate) generation: Generation,
    pub(crate) kind: SegmentKind,
    /// Where the first batch is.
    pub(crate) first_position: u64,
    pub(crate) path: PathBuf,
    /// The offset after the last published batch.
    end: AtomicU64,
    /// The position after the last published batch.
    end_position: AtomicU64,
    /// Offsets from here on are void: a later generation took over. Lowered by a cut.
    clip: AtomicU64,
    /// From this position on the bytes were written, or verified, by this process.
    pub(crate) trusted_from: u64,
    pub(crate) verified: Verified,
    /// Something in it was found damaged: from then on it is not mapped, and each batch is checked
    /// at each read. Set with the mappings locked.
    is_suspect: AtomicBool,
    /// Set once, when sealed.
    footer: OnceLock<Footer>,
    /// While there is no footer. Lock rank: leaf.
    pub(crate) index: RwLock<MemoryIndex>,
    /// The dedup keys of its records, in a topic with a window.
    pub(crate) keys: Keys,
    /// While it may have unsynced bytes. Lock rank: leaf.
    file: Mutex<HeldFile>,
    /// Lock rank: leaf.
    map: Mutex<Maps>,
    /// Counts for the footer, as of the roll or the scan. Lock rank: leaf.
    pub(crate) totals: Mutex<Totals>,
    /// Of the slot written last; the next one goes to the other page.
    pub(crate) slot_sequence: AtomicU64,
    /// Whether the file may still be made longer; held while it is. Lock rank: leaf.
    growth: Mutex<Growth>,
    handles: Arc<Handles>,
    /// Copies, where mappings do not show what is written to the file.
    pub(crate) reads: Reads,
}

/// The file of a segment, as far as it is held.
///
/// | state | it may have unsynced bytes | who wants to write or sync |
/// | --- | --- | --- |
/// | `Open` | yes | uses the descriptor |
/// | `Parked` | yes | opens it again: the descriptor was needed elsewhere |
/// | `Released` | no | opens it for the time being; a sync has nothing to do |
#[derive(Debug)]
enum HeldFile {
    Open(Arc<dyn DiskFile>),
    Parked,
    Released,
}

/// What a file has behind its batches.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    /// How far appends may go, if they still may.
    given: u64,
    /// The file gets its footer, or has one.
    ended: bool,
}

/// What became of bytes that were to be given to appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    Now,
    /// Appends have gone on without, or nothing is appended any more.
    Elsewhere,
}

/// What a footer counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) append_time: i64,
}

impl Totals {
    pub(crate) const NONE: Totals =
        Totals { records: 0, batches: 0, max_timestamp: i64::MIN, append_time: i64::MIN };
}

/// What a segment is made of, as `recover` or `roll` knows it.
pub(crate) struct Parts {
    pub(crate) base: Offset,
    pub(crate) generation: Generation,
    pub(crate) kind: SegmentKind,
    pub(crate) first_position: u64,
    pub(crate) path: PathBuf,
    pub(crate) end: Offset,
    pub(crate) end_position: u64,
    pub(crate) trusted_from: u64,
    pub(crate) footer: Option<Footer>,
    pub(crate) index: MemoryIndex,
    pub(crate) totals: Totals,
    pub(crate) slot_sequence: u64,
    pub(crate) handles: Arc<Handles>,
    /// The most that readers may ask for.
    pub(crate) reads: Reads,
}

impl Segment {
    pub(crate) fn new(parts: Parts) -> Self {
        let footer = OnceLock::new();
        if let Some(found) = parts.footer {
            // A new cell is empty.
            let _ = footer.set(found);
        }
        Self {
            base: parts.base,
            generation: parts.generation,
            kind: parts.kind,
            first_position: parts.first_position,
            path: parts.path,
            end: AtomicU64::new(parts.end.get()),
            end_position: AtomicU64::new(parts.end_position),
            clip: AtomicU64::new(NOT_CUT),
            trusted_from: parts.trusted_from,
            verified: Verified::default(),
            is_suspect: AtomicBool::new(false),
            footer,
            index: RwLock::new(parts.index),
            keys: Keys::default(),
            file: Mutex::new(HeldFile::Released),
            map: Mutex::default(),
            totals: Mutex::new(parts.totals),
            slot_sequence: AtomicU64::new(parts.slot_sequence),
            growth: Mutex::default(),
            handles: parts.handles,
            reads: parts.reads,
        }
    }

    /// The offset after the last readable one.
    pub(crate) fn end(&self) -> Offset {
        let end = self.end.load(Ordering::Acquire).min(self.clip.load(Ordering::Acquire));
        Offset::checked(end).unwrap_or(Offset::MAX)
    }

    /// Offsets from here on are void, if any are.
    pub(crate) fn clip(&self) -> Offset {
        Offset::checked(self.clip.load(Ordering::Acquire)).unwrap_or(Offset::MAX)
    }

    /// The position after the last published batch, cut or not.
    pub(crate) fn end_position(&self) -> u64 {
        self.end_position.load(Ordering::Acquire)
    }

    pub(crate) fn handles(&self) -> &Handles {
        &self.handles
    }

    pub(crate) fn footer(&self) -> Option<&Footer> {
        self.footer.get()
    }

    /// The writer has published up to here.
    #[inline]
    pub(crate) fn publish(&self, end: Offset, end_position: u64) {
        self.end_position.store(end_position, Ordering::Release);
        self.end.store(end.get(), Ordering::Release);
    }

    /// Voids the offsets from `clip` on.
    pub(crate) fn cut(&self, clip: Offset) {
        self.clip.fetch_min(clip.get(), Ordering::AcqRel);
    }

    /// The segment got its footer: its index is in the file now.
    pub(crate) fn sealed(&self, footer: Footer) {
        if self.footer.set(footer).is_ok() {
            *self.index.write() = MemoryIndex::default();
            self.keys.clear();
        }
    }

    /// Makes the file longer, unless its growth has ended. One at a time: 1. one finds the file
    /// short; 2. another makes it longer, and a batch is written there; 3. the first sets a length
    /// that the batch lies beyond.
    pub(crate) fn grow(
        &self,
        is_of_use: impl Fn() -> bool,
        grow: impl FnOnce() -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let growth = lock_while(&self.growth, is_of_use).ok_or_else(gave_up)?;
        if growth.ended { Ok(()) } else { grow() }
    }

    /// Does something to the bytes from `from` up to `to` and gives them to appends, unless they
    /// have them already, or the file ends. Appends wait meanwhile, if they are that near.
    pub(crate) fn give(
        &self,
        (from, to): (u64, u64),
        prepare: impl FnOnce() -> std::io::Result<()>,
    ) -> std::io::Result<Given> {
        let mut growth = self.growth.lock();
        if growth.ended || growth.given != from {
            return Ok(Given::Elsewhere);
        }
        prepare()?;
        growth.given = to;
        Ok(Given::Now)
    }

    /// How far appends may go. For one that needs the file up to `needed`, which then is given at
    /// least up to `to`.
    ///
    /// Waits for what is being done to bytes that are about to be given, and takes the rest before
    /// anything is done to that: 1. blocks ahead are being zeroed; 2. an append writes a batch
    /// there; 3. the zeros would come after it.
    pub(crate) fn take_given(
        &self,
        is_of_use: impl Fn() -> bool,
        (needed, to): (u64, u64),
    ) -> std::io::Result<u64> {
        let mut growth = lock_while(&self.growth, is_of_use).ok_or_else(gave_up)?;
        if growth.given < needed {
            growth.given = to;
        }
        Ok(growth.given)
    }

    /// How far appends may go.
    pub(crate) fn given(&self) -> u64 {
        self.growth.lock().given
    }

    /// For who holds the writer lock: appends may go so far, whoever was about to give what.
    pub(crate) fn set_given(&self, given: u64) {
        self.growth.lock().given = given;
    }

    /// From here on the file is neither made longer nor written to by who looks ahead.
    pub(crate) fn end_growth(&self) {
        self.growth.lock().ended = true;
    }

    /// Keeps the file open, as it gets bytes that are not synced.
    pub(crate) fn hold_file(self: &Arc<Self>, file: Arc<dyn DiskFile>) {
        *self.file.lock() = HeldFile::Open(file);
        self.handles.holds_file(self);
    }

    /// Closes the file to spare its descriptor, if it is mapped: see `handles`.
    pub(crate) fn park_file(&self) {
        if self.map.lock().held().is_none() {
            return;
        }
        let mut file = self.file.lock();
        if matches!(*file, HeldFile::Open(_)) {
            // Closed when the last one who uses it is done.
            let closed = std::mem::replace(&mut *file, HeldFile::Parked);
            drop(file);
            drop(closed);
        }
    }

    /// Whether a descriptor is held.
    pub(crate) fn has_open_file(&self) -> bool {
        matches!(*self.file.lock(), HeldFile::Open(_))
    }

    /// Gives the descriptor back for good. Only when nothing in the file is unsynced.
    pub(crate) fn release_file(&self) {
        *self.file.lock() = HeldFile::Released;
    }

    /// The file, if there may be something to sync in it.
    pub(crate) fn held_file(
        self: &Arc<Self>,
        disk: &dyn Disk,
    ) -> Result<Option<Arc<dyn DiskFile>>> {
        match &*self.file.lock() {
            HeldFile::Open(file) => return Ok(Some(Arc::clone(file))),
            HeldFile::Released => return Ok(None),
            HeldFile::Parked => {}
        }
        let file = self.open_to_write(disk)?;
        self.hold_file(Arc::clone(&file));
        Ok(Some(file))
    }

    /// The file, to write to.
    pub(crate) fn writable_file(self: &Arc<Self>, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        match self.held_file(disk)? {
            Some(file) => Ok(file),
            None => self.open_to_write(disk),
        }
    }

    fn open_to_write(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        disk.open(&self.path, OpenMode::ReadWrite).map_err(|e| Error::io("open", &self.path, e))
    }

    pub(crate) fn hold_mapping(&self, map: Arc<Mapping>) {
        self.map.lock().hold(map, Maker::Writer);
    }

    /// The mapping, if there is one.
    pub(crate) fn held_mapping(&self) -> Option<Arc<Mapping>> {
        self.map.lock().held().cloned()
    }

    /// Lets go of the mapping; views that look into it keep it alive.
    pub(crate) fn release_mapping(&self) {
        let map = self.map.lock().shed();
        // Unmapping takes time for a large file: not under the lock.
        drop(map);
    }

    /// Lets go of a mapping that a reader made, unless the file is appended to through another one.
    pub(crate) fn release_read_mapping(&self) {
        let map = self.map.lock().shed_of(Maker::Reader);
        drop(map);
    }

    /// A look at the mappings, which does not count as a share of one.
    pub(crate) fn with_maps<T>(&self, look: impl FnOnce(&Maps) -> T) -> T {
        look(&self.map.lock())
    }

    /// Whether something in it was found damaged.
    pub(crate) fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Acquire)
    }

    /// Something in it was found damaged. Readers get copies from now on, each of them checked:
    /// what is damaged may be written again, and nobody may look at bytes that change.
    pub(crate) fn suspect(&self) {
        let _maps = self.map.lock();
        self.is_suspect.store(true, Ordering::Release);
    }

    /// Lets go of the mapping for good. True if nobody looks into one any more; nobody will, as the
    /// segment is suspect. Not for one that is appended to.
    pub(crate) fn is_unmapped(&self) -> bool {
        debug_assert!(self.is_suspect());
        self.release_mapping();
        !self.map.lock().are_viewed()
    }

    /// This one takes the place of another segment of the same file, and its views.
    pub(crate) fn take_views_of(&self, old: &Segment) {
        old.release_mapping();
        let mut old_maps = old.map.lock();
        self.map.lock().inherit(&mut old_maps);
        self.is_suspect.fetch_or(old.is_suspect(), Ordering::AcqRel);
    }

    /// The mappings that were let go of and that others hold.
    pub(crate) fn take_shed(&self) -> Vec<Weak<Mapping>> {
        self.map.lock().take_shed()
    }

    /// The file, opened to read unless it is open.
    pub(crate) fn file(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        if let HeldFile::Open(file) = &*self.file.lock() {
            return Ok(Arc::clone(file));
        }
        disk.open(&self.path, OpenMode::Read).map_err(|e| Error::io("open", &self.path, e))
    }

    /// The mapping, made if there is none yet; `None` if it is not to be mapped.
    fn mapping(self: &Arc<Self>, disk: &dyn Disk) -> Result<Option<Arc<Mapping>>> {
        let held = || {
            let maps = self.map.lock();
            if self.is_suspect() { None } else { maps.held().cloned() }
        };
        if let Some(map) = held() {
            return Ok(Some(map));
        }
        if self.is_suspect() {
            return Ok(None);
        }
        let file = self.file(disk)?;
        let mut maps = self.map.lock();
        if self.is_suspect() {
            return Ok(None);
        }
        if let Some(map) = maps.held() {
            return Ok(Some(Arc::clone(map)));
        }
        let end = usize::try_from(self.end_position()).unwrap_or(usize::MAX);
        let first = usize::try_from(self.first_position).unwrap_or(usize::MAX);
        let writer = file
            .map(end, first.min(end), end, MapAccess::Read)
            .map_err(|e| Error::io("map", &self.path, e))?;
        let map = Arc::clone(writer.mapping());
        maps.hold(Arc::clone(&map), Maker::Reader);
        drop(maps);
        self.handles.holds_mapping(self);
        Ok(Some(map))
    }

    /// The bytes from `position` on, at most `bytes_max` of them, made present: copied, where that
    /// is asked for, or mappings do not show what is written. Where the medium cannot give some of
    /// them back they read as zeros, which no checksum accepts.
    pub(crate) fn window(
        self: &Arc<Self>,
        disk: &dyn Disk,
        position: u64,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<View> {
        self.whole_window(disk, position, bytes_max, reads).map(|(view, _)| view)
    }

    /// The same, and whether the medium gave all of it back. Only then may bytes be taken for what
    /// they were before: 1. a batch is appended, and is trusted; 2. its pages are evicted, and the
    /// medium does not give one back; 3. unchecked, its zeros would be served.
    pub(crate) fn whole_window(
        self: &Arc<Self>,
        disk: &dyn Disk,
        position: u64,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<(View, bool)> {
        let bytes = self.available(position, bytes_max);
        if (reads, self.reads) == (Reads::Mapped, Reads::Mapped)
            && let Some(view) = self.mapped_window(disk, position, bytes)?
        {
            return Ok((view, true));
        }
        let image = copied(self.file(disk)?.as_ref(), position, bytes)
            .map_err(|e| Error::io("read", &self.path, e))?;
        Ok((image.view, image.unreadable_to == 0))
    }

    /// The same where the mapping can show them all; else `None`.
    pub(crate) fn mapped_window(
        self: &Arc<Self>,
        disk: &dyn Disk,
        position: u64,
        bytes_max: usize,
    ) -> Result<Option<View>> {
        let bytes = self.available(position, bytes_max);
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let Some(map) = self.mapping(disk)? else { return Ok(None) };
        let present = map.populate_read(start, bytes).is_ok();
        Ok(if present { map.view(start, bytes) } else { None })
    }

    /// How many bytes of batches there are from `position` on, at most so many.
    fn available(&self, position: u64, bytes_max: usize) -> usize {
        let available = self.end_position().saturating_sub(position);
        usize::try_from(available).unwrap_or(usize::MAX).min(bytes_max)
    }

    /// The position of a batch at or before `offset` from which to walk on, from the index.
    /// A bad index block only costs a longer walk.
    pub(crate) fn position_before(
        &self,
        disk: &dyn Disk,
        identity: &Identity,
        offset: Offset,
    ) -> Result<u64> {
        let indexed = match self.footer() {
            None => self.index.read().position_before(offset),
            Some(footer) => match footer.section(SectionKind::Offsets) {
                None => None,
                Some(section) => {
                    let file = self.file(disk)?;
                    search_offsets(file.as_ref(), section, identity, offset)
                }
            },
        };
        let within = indexed.filter(|&position| {
            position >= self.first_position && position < self.end_position() && position % 8 == 0
        });
        Ok(within.unwrap_or(self.first_position))
    }

    /// All the entries of a section; `None` if there is none, or a block of it is damaged.
    pub(crate) fn section_entries<E: Entry>(
        &self,
        disk: &dyn Disk,
        identity: &Identity,
        kind: SectionKind,
    ) -> Result<Option<Vec<E>>> {
        let Some(section) = self.footer().and_then(|footer| footer.section(kind)) else {
            return Ok(None);
        };
        let file = self.file(disk)?;
        let mut entries = Vec::new();
        for index in 0..section.blocks {
            let mut page = [0; PAGE];
            match read_block::<E>(file.as_ref(), section, kind, index, identity, &mut page) {
                Some(block) => entries.extend(block.iter()),
                None => return Ok(None),
            }
        }
        Ok(Some(entries))
    }

    /// The leader epochs known at the end of this segment.
    pub(crate) fn sealed_epochs(
        &self,
        disk: &dyn Disk,
        identity: &Identity,
    ) -> Result<Option<Vec<EpochEntry>>> {
        self.section_entries(disk, identity, SectionKind::Epochs)
    }

    /// The producers known at the end of this segment.
    pub(crate) fn sealed_producers(
        &self,
        disk: &dyn Disk,
        identity: &Identity,
    ) -> Result<Option<Vec<ProducerEntry>>> {
        self.section_entries(disk, identity, SectionKind::Producers)
    }

    /// The sparse index, read back from its sections.
    pub(crate) fn sealed_index(
        &self,
        disk: &dyn Disk,
        identity: &Identity,
    ) -> Result<Option<MemoryIndex>> {
        let offsets = self.section_entries::<OffsetEntry>(disk, identity, SectionKind::Offsets)?;
        let times = self.section_entries::<TimeEntry>(disk, identity, SectionKind::Times)?;
        Ok(offsets.zip(times).map(|(offsets, times)| MemoryIndex::from_entries(offsets, times)))
    }

    /// The append time of the first batch, from the first block of the time index; `None` if that
    /// is damaged.
    pub(crate) fn sealed_first_append_time(
        &self,
        disk: &dyn Disk,
        identity: &Identity,
    ) -> Option<i64> {
        let kind = SectionKind::Times;
        let section = self.footer()?.section(kind)?;
        let file = self.file(disk).ok()?;
        let mut page = [0; PAGE];
        let block = read_block::<TimeEntry>(file.as_ref(), section, kind, 0, identity, &mut page)?;
        block.get(0).map(|entry| entry.append_time)
    }

    /// The slot to be written next, and its number is taken.
    pub(crate) fn next_slot(
        &self,
        durable: Offset,
        log_start: Offset,
        clean_mark: Incarnation,
        catching_up: bool,
    ) -> Slot {
        let sequence = self.slot_sequence.fetch_add(1, Ordering::AcqRel) + 1;
        Slot {
            sequence,
            durable,
            // Only known, and only of use, where the slot speaks of the file's end.
            durable_position: if durable == self.end() { self.end_position() } else { 0 },
            log_start,
            catching_up,
            clean_mark,
            generation: self.generation,
            kind: self.kind,
        }
    }
}

/// Where the slot with this sequence number goes: the two pages take turns.
pub(crate) fn slot_position(sequence: u64) -> u64 {
    if sequence.is_multiple_of(2) { SLOT_POSITIONS[0] } else { SLOT_POSITIONS[1] }
}

/// Reads block `index` of a section; `None` if it cannot be read or does not verify.
pub(crate) fn read_block<'a, E: Entry>(
    file: &dyn DiskFile,
    section: &SectionRef,
    kind: SectionKind,
    index: u32,
    identity: &Identity,
    page: &'a mut [u8; PAGE],
) -> Option<Block<'a, E>> {
    let position = section.position.checked_add(u64::from(index) * PAGE as u64)?;
    read_exact_at(file, page, position).ok()?;
    decode_block::<E>(page, kind, index, identity).ok()
}

/// Binary search over the blocks of an offset index, in the file. `None` at a bad block.
fn search_offsets(
    file: &dyn DiskFile,
    section: &SectionRef,
    identity: &Identity,
    offset: Offset,
) -> Option<u64> {
    let (mut low, mut high) = (0, section.blocks);
    let mut best = None;
    let mut page = [0; PAGE];
    while low < high {
        let middle = low.midpoint(high);
        let kind = SectionKind::Offsets;
        let block: Block<'_, OffsetEntry> =
            read_block(file, section, kind, middle, identity, &mut page)?;
        let after = block.partition_point(|entry| entry.offset <= offset);
        if after == 0 {
            high = middle;
        } else {
            best = block.get(after - 1).map(|entry| entry.position);
            if after < block.len() {
                break;
            }
            low = middle + 1;
        }
    }
    best
}

/// Somebody else is at the file, and does not return.
fn gave_up() -> std::io::Error {
    std::io::Error::other("the log halted meanwhile")
}
