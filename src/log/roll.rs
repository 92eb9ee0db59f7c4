//! Beginning a file: the next segment of a log, or the first.
//!
//! Not here: the file's end (`seal`), a file that begins where the log was cut (`cut`).
//!
//! The order, and what a crash between two steps leaves:
//!   1. `next.prepared` is created, allocated, and given its header and slots. Crash: a file that
//!      does not end in `.log`, which the next roll replaces.
//!   2. It is renamed. Crash: the name, with or without the bytes behind it. Nothing in it was
//!      acknowledged as durable; without a header, or empty, it is void.
//!   3. Appends go to it. The next sync first does the old file, then this one, then the folder;
//!      only then does the durable offset pass its base.
//! Its slots say what was durable when it was made, not its base: the pages of a new file can
//! reach the medium before those of the old one.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Durability, INDEX_INTERVAL_BYTES, UNSEALED_BYTES_MAX, UNSEALED_MAX};
use crate::error::{Error, Result};
use crate::format::{
    DATA_START, Identity, PAGE, SectionKind, SegmentHeader, SegmentKind, Slot, encode_section,
    entries_per_block, segment_file,
};
use crate::format::{OffsetEntry, TimeEntry};
use crate::fs::{DiskFile, MapAccess, MapWriter, OpenMode, write_all_at};
use crate::id::{Generation, Incarnation, Offset};
use crate::log::ahead::Prepared;
use crate::log::commit::Pending;
use crate::log::core::{Log, load};
use crate::log::index::MemoryIndex;
use crate::log::room::by_less_if_full;
use crate::log::segment::{Parts, Segment, Totals};
use crate::log::writer::{Active, Reach, Writer};
use crate::sync::atomic::Ordering;

/// The name of a file that is not a segment yet.
pub(crate) const PREPARED: &str = "next.prepared";

/// How a new file begins.
pub(crate) struct Beginning {
    pub(crate) base: Offset,
    pub(crate) generation: Generation,
    pub(crate) kind: SegmentKind,
    pub(crate) durable: Offset,
    pub(crate) catching_up: bool,
    /// How many bytes it has at first, at least.
    pub(crate) growth: u64,
}

impl Beginning {
    /// Header and slots of a file whose first batch is at a position, and whose batches may reach
    /// up to another.
    pub(crate) fn head(
        &self,
        identity: &Identity,
        (first_position, capacity): (u64, u64),
        log_start: Offset,
        created: i64,
    ) -> Vec<u8> {
        let header = SegmentHeader {
            incompat: 0,
            ro_compat: 0,
            topic: identity.topic(),
            salt: identity.salt(),
            partition: identity.partition(),
            base_offset: self.base,
            generation: self.generation,
            kind: self.kind,
            covered_end: self.base,
            first_position,
            capacity,
            created,
        };
        let slot = Slot {
            sequence: 1,
            durable: self.durable,
            durable_position: first_position,
            log_start,
            catching_up: self.catching_up,
            clean_mark: Incarnation::new(0),
            generation: self.generation,
            kind: self.kind,
        };
        let mut head = header.encode().to_vec();
        head.extend_from_slice(&Slot { sequence: 0, ..slot }.encode(identity));
        head.extend_from_slice(&slot.encode(identity));
        head
    }
}

impl Active {
    /// A mapped file, to append to at its segment's end.
    fn new(segment: Arc<Segment>, file: Arc<dyn DiskFile>, map: MapWriter, reach: Reach) -> Self {
        segment.set_given(reach.allocated);
        segment.hold_file(file);
        segment.hold_mapping(Arc::clone(map.mapping()));
        let last_entry = segment.index.read().last_position();
        let totals = *segment.totals.lock();
        Active {
            position: segment.end_position(),
            segment,
            map,
            reach,
            look_at: u64::MAX,
            last_entry,
            totals,
        }
    }
}

impl Log {
    /// How many segments behind the active one lack a footer.
    pub(crate) fn unsealed_behind(&self, writer: &Writer) -> usize {
        let active = writer.active.as_ref().map(|active| &active.segment);
        let unsealed = self.segments();
        unsealed
            .iter()
            .rev()
            .take_while(|s| s.footer().is_none())
            .filter(|s| active.is_none_or(|a| !Arc::ptr_eq(a, s)))
            .count()
    }

    /// How many segments behind the active one may lack a footer.
    pub(crate) fn unsealed_max(&self) -> usize {
        match self.options.durability {
            Durability::Fsync => 1,
            Durability::Interval(_) | Durability::Os => {
                let waiting = UNSEALED_BYTES_MAX / self.segment_bytes();
                usize::try_from(waiting).unwrap_or(usize::MAX).clamp(1, UNSEALED_MAX)
            }
        }
    }

    /// Begins the next segment at the LEO, large enough for a batch of `bytes`. After an error
    /// nothing has changed.
    #[cold]
    pub(crate) fn roll(&self, writer: &mut Writer, bytes: u64) -> Result<()> {
        let beginning = Beginning {
            base: writer.next,
            generation: writer.generation,
            kind: SegmentKind::Rolled,
            durable: load(&self.durable).min(writer.next),
            catching_up: self.is_catching_up(),
            growth: writer.growth,
        };
        let first = self.segments().is_empty();
        if first {
            self.make_folders()?;
        }
        writer.producers.retain(|id| self.producers.may_append(id));
        self.counters.knows(&writer.producers);
        let rows = writer.producers.rows();
        let opening = encode_section(SectionKind::Producers, &rows, &self.place.identity);
        let needed = DATA_START + opening.len() as u64 + bytes;
        let fits = |prepared: &mut Prepared| needed <= prepared.reach.data_limit;
        let (active, prepared) = if let Some(prepared) = writer.prepared.take_if(fits) {
            (self.begin_in(prepared, (&beginning, bytes), &opening)?, self.ahead_path())
        } else {
            let begun = by_less_if_full(&mut writer.growth, |growth| {
                self.begin(&Beginning { growth, ..beginning }, bytes, &opening)
            });
            (begun?, self.place.dir.join(PREPARED))
        };
        let name = self.place.dir.join(segment_file(beginning.base, beginning.generation));
        if let Err(e) = self.disk.rename(&prepared, &name) {
            return Err(Error::io("rename", &prepared, e));
        }
        let folders = if first { self.folders() } else { vec![self.place.dir.clone()] };
        self.install(writer, active, folders);
        Ok(())
    }

    /// Makes a file under the name of a prepared one, with header, slots and opening section.
    pub(crate) fn begin(
        &self,
        beginning: &Beginning,
        bytes: u64,
        opening: &[u8],
    ) -> Result<Active> {
        let first_position = DATA_START + opening.len() as u64;
        let data_limit = data_limit(self.segment_bytes(), first_position, bytes);
        let prepared = self.place.dir.join(PREPARED);
        let file = self.create_prepared(&prepared)?;
        let failed = |doing, e| Error::io(doing, &prepared, e);

        let wanted = (first_position + bytes).max(beginning.growth).next_multiple_of(PAGE as u64);
        let length = wanted.min(data_limit);
        self.lengthen(file.as_ref(), (0, length)).map_err(|e| failed("grow", e))?;
        let at = (first_position, data_limit);
        let segment = self
            .write_head(file.as_ref(), beginning, at, opening)
            .map_err(|e| failed("write", e))?;
        // The rest is given to appends by who looks ahead, who may zero it first.
        let allocated = (first_position + bytes).next_multiple_of(PAGE as u64);
        let allocated = if self.may_zero() { allocated.min(length) } else { length };
        self.open_active(segment, file, (length, allocated), data_limit)
            .map_err(|e| failed("map", e))
    }

    /// Begins in a file that was prepared for it.
    fn begin_in(
        &self,
        prepared: Prepared,
        (beginning, bytes): (&Beginning, u64),
        opening: &[u8],
    ) -> Result<Active> {
        let Prepared { map, mut reach } = prepared;
        let first_position = DATA_START + opening.len() as u64;
        // The sections of this one are larger by what it begins with.
        let limit = data_limit(self.segment_bytes(), first_position, bytes);
        reach.data_limit = reach.data_limit.min(limit);
        let path = self.ahead_path();
        let file =
            self.disk.open(&path, OpenMode::ReadWrite).map_err(|e| Error::io("open", &path, e))?;
        let segment = self
            .write_head(file.as_ref(), beginning, (first_position, reach.data_limit), opening)
            .map_err(|e| Error::io("write", &path, e))?;
        let mut active = Active::new(segment, file, map, reach);
        if reach.allocated < first_position {
            // What the file begins with is written: it is not to be zeroed.
            active.segment.set_given(first_position);
            active.set_allocated(first_position);
        }
        Ok(active)
    }

    /// Writes header, slots and opening section of a file whose first batch is at a position, and
    /// whose batches may reach up to another.
    pub(crate) fn write_head(
        &self,
        file: &dyn DiskFile,
        beginning: &Beginning,
        (first_position, data_limit): (u64, u64),
        opening: &[u8],
    ) -> std::io::Result<Arc<Segment>> {
        let at = (first_position, data_limit);
        let (start, created) = (self.start_offset(), self.clock.now_ms());
        let mut head = beginning.head(&self.place.identity, at, start, created);
        head.extend_from_slice(opening);
        write_all_at(file, &head, 0)?;
        let path = self.place.dir.join(segment_file(beginning.base, beginning.generation));
        Ok(Arc::new(Segment::new(Parts {
            base: beginning.base,
            generation: beginning.generation,
            kind: beginning.kind,
            first_position,
            path,
            end: beginning.base,
            end_position: first_position,
            trusted_from: first_position,
            footer: None,
            index: MemoryIndex::default(),
            totals: Totals::NONE,
            slot_sequence: 1,
            handles: Arc::clone(&self.handles),
            reads: self.options.reads(),
        })))
    }

    /// What a file that is appended to is mapped for.
    pub(crate) fn map_access(&self) -> MapAccess {
        if self.writes_mapped(1) { MapAccess::Write } else { MapAccess::Read }
    }

    /// Maps a file for appending at its segment's end. It is `length` long, of which appends may
    /// use what is `allocated`.
    pub(crate) fn open_active(
        &self,
        segment: Arc<Segment>,
        file: Arc<dyn DiskFile>,
        (length, allocated): (u64, u64),
        data_limit: u64,
    ) -> std::io::Result<Active> {
        let position = segment.end_position();
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let first = size(segment.first_position);
        let mut map = file.map(size(data_limit), first, size(position), self.map_access())?;
        map.set_allocated(size(allocated));
        let reach = Reach { length, allocated, populated: position, data_limit };
        Ok(Active::new(segment, file, map, reach))
    }

    /// Makes room in an empty file for a batch of `bytes`, which is larger than a segment.
    #[cold]
    pub(crate) fn widen(&self, active: &mut Active, bytes: u64) -> Result<()> {
        let segment = Arc::clone(&active.segment);
        let file = segment.writable_file(self.disk.as_ref())?;
        let data_limit = data_limit(self.segment_bytes(), segment.first_position, bytes);
        *active = self
            .open_active(segment, file, (active.reach.length, active.reach.allocated), data_limit)
            .map_err(|e| Error::io("map", &active.segment.path, e))?;
        active.look_at = 0;
        Ok(())
    }

    /// Goes on in the newest segment of before the open: what lies behind its last batch, a
    /// closing footer for one, is cut off first.
    #[cold]
    pub(crate) fn resume(&self, old: &Arc<Segment>) -> Result<Active> {
        let failed = |doing, e| Error::io(doing, &old.path, e);
        // Read before the file is cut: the closing footer's sections hold it.
        let index = self.index_of(old)?;
        let keys = self.keys_of(old)?;
        let file = self.disk.open(&old.path, OpenMode::ReadWrite).map_err(|e| failed("open", e))?;
        let end_position = old.end_position();
        // From here on the closing footer may be gone.
        self.marked.store(false, Ordering::Release);
        if file.len().map_err(|e| failed("stat", e))? != end_position {
            file.set_len(end_position).map_err(|e| failed("cut", e))?;
        }
        let segment = Arc::new(Segment::new(Parts {
            base: old.base,
            generation: old.generation,
            kind: old.kind,
            first_position: old.first_position,
            path: old.path.clone(),
            end: old.end(),
            end_position,
            trusted_from: old.trusted_from.min(end_position),
            footer: None,
            index,
            totals: *old.totals.lock(),
            slot_sequence: old.slot_sequence.load(Ordering::Acquire),
            handles: Arc::clone(&self.handles),
            reads: self.options.reads(),
        }));
        segment.verified.take_over(&old.verified);
        segment.take_views_of(old);
        segment.keys.fill(keys);
        let data_limit = data_limit(self.segment_bytes(), old.first_position, 0).max(end_position);
        let mut active = self
            .open_active(segment, file, (end_position, end_position), data_limit)
            .map_err(|e| failed("map", e))?;
        // Looked at by the first append, which grows it.
        active.look_at = 0;
        self.change_segments(|list| {
            if let Some(last) = list.last_mut() {
                *last = Arc::clone(&active.segment);
            }
        });
        // A look may have begun that finds the old one, of whose file the sections are gone.
        self.dedup.changed();
        // Its name may never have been synced: 1. a roll renames the new file; 2. the process dies
        // before an append to it is synced; 3. this open finds the name in the cache and goes on
        // in the file. Without the folders an append could be acknowledged here whose file a power
        // cut takes away.
        let folders = self.folders();
        self.commit.add(Pending { segment: Arc::clone(&active.segment), folders });
        Ok(active)
    }

    /// Makes a new segment the active one.
    pub(crate) fn install(
        &self,
        writer: &mut Writer,
        active: Active,
        folders: Vec<std::path::PathBuf>,
    ) {
        self.marked.store(false, Ordering::Release);
        if let Some(old) = writer.active.take() {
            *old.segment.totals.lock() = old.totals;
        }
        let segment = Arc::clone(&active.segment);
        self.commit.add(Pending { segment: Arc::clone(&segment), folders });
        self.change_segments(|list| list.push(segment));
        writer.active = Some(active);
        writer.set_look(self.writes_mapped(1));
        // The old one is to be sealed.
        self.urge();
    }

    pub(crate) fn create_prepared(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let failed = |e| Error::io("create", path, e);
        match self.disk.open(path, OpenMode::CreateNew) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // Left by a failed roll, or by a crash.
                self.disk.remove_file(path).map_err(failed)?;
                self.disk.open(path, OpenMode::CreateNew).map_err(failed)
            }
            other => other.map_err(failed),
        }
    }

    /// The folders of a log's first segment. That they exist already does not mean that they are
    /// on the medium, so the first sync does all of them either way.
    pub(crate) fn make_folders(&self) -> Result<()> {
        for folder in self.folders().iter().rev() {
            match self.disk.create_dir(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", folder, e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// How far batches may reach in a file whose first one is at `first_position`: its share of
/// the capacity goes to the sections and the footer. A batch of `bytes` always fits.
pub(crate) fn data_limit(segment_bytes: u64, first_position: u64, bytes: u64) -> u64 {
    let for_data = segment_bytes.saturating_sub(beside_data(segment_bytes, first_position));
    for_data.max(first_position + bytes).next_multiple_of(PAGE as u64)
}

/// What the sections and the footer take of a file.
fn beside_data(segment_bytes: u64, first_position: u64) -> u64 {
    let entries = segment_bytes.div_ceil(INDEX_INTERVAL_BYTES);
    let blocks = |per_block: usize| entries.div_ceil(per_block as u64);
    // One block for the leader epochs, one page for the footer.
    let pages =
        blocks(entries_per_block::<OffsetEntry>()) + blocks(entries_per_block::<TimeEntry>()) + 2;
    // And as much for the producers as the file begins with.
    let pages = pages + (first_position - DATA_START) / PAGE as u64;
    pages * PAGE as u64
}

/// The other way: what `segment_bytes` gives such a limit. Where a page more or less gives the
/// same, the rounder number, as people choose those. `limit` is at most the largest that there
/// can be.
pub(crate) fn segment_bytes_for(limit: u64, first_position: u64) -> u64 {
    let mut least = limit;
    // The sections of what was added are a hundredth of it: it settles at once.
    loop {
        let next = limit + beside_data(least, first_position);
        if next <= least {
            break;
        }
        least = next;
    }
    let nearby = (0..4).map(|pages| least + pages * PAGE as u64);
    let same = nearby.filter(|bytes| data_limit(*bytes, first_position, 0) == limit);
    same.max_by_key(|bytes| bytes.trailing_zeros()).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

    #[test]
    fn the_size_of_a_segment_follows_from_its_limit() {
        let sizes = [SEGMENT_BYTES_MIN, 96 << 10, 1 << 20, 5_000_000, 64 << 20, SEGMENT_BYTES_MAX];
        for bytes in sizes {
            for first_position in [DATA_START, DATA_START + 3 * PAGE as u64] {
                let limit = data_limit(bytes, first_position, 0);
                let found = segment_bytes_for(limit, first_position);
                assert_eq!(data_limit(found, first_position, 0), limit);
                if bytes.is_power_of_two() {
                    assert_eq!(found, bytes);
                }
            }
        }
    }
}
