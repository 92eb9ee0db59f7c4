//! [`Keys`]: the dedup keys of one segment, wherever they are.
//!
//! Not here: whether what a hash leads to is the key (`look`).
//!
//! | the segment | its keys |
//! | --- | --- |
//! | has no footer | in a table in memory, filled by appends, or by the scan at open |
//! | has one | in two sections of its file, of which the filter is read when it is first needed |
//! | has one, and no section, or a bad block in it | in a table again, filled by walking its batches |
//!
//! The entries are searched in place: hashes are uniform, so the block is found by interpolation,
//! within one or two reads of 4 KiB.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, Block, DedupEntry, FilterLine, Identity, PAGE, SectionKind,
    SectionRef, dedup_bytes, filter_lines, has_key, put_key,
};
use crate::fs::{Disk, DiskFile};
use crate::id::Offset;
use crate::log::core::{Log, Mode};
use crate::log::dedup::hash_of;
use crate::log::dedup::table::Table;
use crate::log::scan::{Run, bad_sector, image, scan};
use crate::log::segment::{Segment, read_block};
use crate::log::unpack::{Unpackable, unpack};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// A segment's offsets reach so far above its base, where it has keys: a batch that goes beyond
/// begins another one, so that the deltas of its keys are numbers of 32 bits.
const DELTA_MAX: u64 = 1 << 31;
/// A block that was not found by interpolation after so many reads is looked for by halves: hashes
/// that are not uniform are no keys of ours.
const INTERPOLATED_MAX: u32 = 8;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// While there is no footer. Lock rank: leaf.
    table: RwLock<Table>,
    /// How many are in the table. Stored by who holds the writer lock, read by it too; relaxed.
    count: AtomicU64,
    /// Of a file with a footer, once it was needed. Empty where it has no entries.
    filter: OnceLock<Filter>,
    /// In place of sections that are not there, or are damaged.
    walked: OnceLock<Table>,
    /// Of a file without a footer: some of its batches are compressed, and this is what they need.
    hidden: OnceLock<Hidden>,
    /// A file with a footer, while it is looked into. Lock rank: leaf.
    file: Mutex<Option<Arc<dyn DiskFile>>>,
}

#[derive(Debug)]
enum Filter {
    Lines(Vec<FilterLine>),
    /// It cannot be read: every key may be there.
    Unknown,
}

/// A section's block is damaged, or there is no section.
struct Damaged;

/// Keys lie in batches that cannot be decompressed: nobody can tell whether one is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hidden {
    NotBuilt { feature: &'static str },
    OutOfMemory,
}

impl Segment {
    fn hidden(&self, hidden: Hidden) -> Error {
        match hidden {
            Hidden::NotBuilt { feature } => Error::MissingFeature { feature },
            Hidden::OutOfMemory => {
                let cause = std::io::ErrorKind::OutOfMemory.into();
                Error::io("decompress batches of", &self.path, cause)
            }
        }
    }
}

impl Keys {
    /// Takes the keys over that were found in the segment's file.
    pub(crate) fn fill(&self, found: Result<Table, Hidden>) {
        let table = found.unwrap_or_else(|hidden| {
            // Set once, at open.
            let _ = self.hidden.set(hidden);
            Table::default()
        });
        self.count.store(table.len() as u64, Ordering::Relaxed);
        *self.table.write() = table;
    }

    /// Enters keys. With the writer locked.
    pub(super) fn enter(&self, entries: impl Iterator<Item = DedupEntry>) {
        let mut table = self.table.write();
        for entry in entries {
            table.insert(entry);
        }
        self.count.store(table.len() as u64, Ordering::Relaxed);
    }

    /// The same of the keys that were found in a batch. With the writer locked.
    pub(crate) fn enter_all(&self, found: Result<Table, Hidden>) {
        match found {
            Ok(found) => self.enter(found.entries().copied()),
            Err(hidden) => drop(self.hidden.set(hidden)),
        }
    }

    /// The entries of a hash, if `is_open` still holds once they cannot go.
    pub(super) fn find_in_memory(
        &self,
        hash: u64,
        is_open: impl FnOnce() -> bool,
        found: &mut Vec<DedupEntry>,
    ) -> bool {
        let table = self.table.read();
        let open = is_open();
        if open {
            found.extend_from_slice(table.find(hash));
        }
        open
    }

    /// Whether no key with one of these hashes was entered at an offset delta or behind it. False
    /// too unless `is_open` holds while they cannot go: a seal says first that there is a footer,
    /// and then empties the table.
    pub(super) fn has_none_since(
        &self,
        mut hashes: impl Iterator<Item = u64>,
        delta: u64,
        is_open: impl FnOnce() -> bool,
    ) -> bool {
        let table = self.table.read();
        let since = |entry: &DedupEntry| u64::from(entry.offset_delta) >= delta;
        is_open() && !hashes.any(|hash| table.find(hash).iter().any(since))
    }

    /// How many bytes of the file are for its sections, if the next batch begins `delta` above the
    /// base.
    #[inline]
    pub(crate) fn room(&self, delta: u64) -> u64 {
        let count = self.count.load(Ordering::Relaxed);
        // More than any file has.
        if delta > DELTA_MAX { u64::from(u32::MAX) << 16 } else { dedup_bytes(count) }
    }

    /// The segment's offsets end `delta` above its base now.
    pub(crate) fn cut(&self, delta: u64) {
        self.table.write().cut(delta);
    }

    /// The file has a footer: what is in memory is not looked at any more.
    pub(crate) fn clear(&self) {
        *self.table.write() = Table::default();
    }

    /// Whether every key is known.
    pub(crate) fn are_known(&self) -> bool {
        self.hidden.get().is_none()
    }

    /// What the two sections hold of a segment whose offsets end `delta` above its base.
    pub(crate) fn entries(&self, delta: u64) -> (Vec<DedupEntry>, Vec<FilterLine>) {
        let table = self.table.read();
        let below = |entry: &&DedupEntry| u64::from(entry.offset_delta) < delta;
        let entries: Vec<_> = table.entries().filter(below).copied().collect();
        let lines = usize::try_from(filter_lines(entries.len() as u64)).unwrap_or(0);
        let mut filter = vec![FilterLine::default(); lines];
        for entry in &entries {
            put_key(&mut filter, entry.hash);
        }
        (entries, filter)
    }
}

/// The keys in `bytes`, which lie at `start` in a segment's file, and in which a scan found these
/// runs. The batches were verified by it.
pub(crate) fn keys_in(
    identity: &Identity,
    (bytes, start): (&[u8], u64),
    base: Offset,
    runs: &[Run],
) -> Result<Table, Hidden> {
    let mut table = Table::default();
    for run in runs {
        let mut position = run.position;
        while position < run.end_position {
            let at = usize::try_from(position - start).unwrap_or(usize::MAX);
            let here = bytes.get(at..).unwrap_or_default();
            let Ok(header) = BatchHeader::decode_trusted(here) else { break };
            let batch = here.get(..header.batch_bytes()).unwrap_or_default();
            let unpacked = match header.is_compressed().then(|| unpack(batch)).transpose() {
                Ok(unpacked) => unpacked.map(|unpacked| unpacked.view),
                Err(Unpackable::NotBuilt { feature }) => return Err(Hidden::NotBuilt { feature }),
                Err(Unpackable::OutOfMemory) => return Err(Hidden::OutOfMemory),
                // Whoever reads it is told of the damage: it has no records, so no keys.
                Err(Unpackable::Damaged(_)) => {
                    position += header.batch_bytes() as u64;
                    continue;
                }
            };
            let payload = match &unpacked {
                Some(view) => view.bytes().get(BATCH_HEADER_BYTES..),
                None => header.payload(batch),
            };
            let payload = payload.unwrap_or_default();
            for record in header.records(payload).flatten() {
                let delta = base.distance_to(header.base_offset) + u64::from(record.offset_delta);
                if let Some(key) = record.dedup_key
                    && let Some(entry) = entry(hash_of(identity, key), delta, position)
                {
                    table.insert(entry);
                }
            }
            position += header.batch_bytes() as u64;
        }
    }
    Ok(table)
}

/// The entry of a key, if its numbers are such as a segment can have.
pub(super) fn entry(hash: u64, delta: u64, position: u64) -> Option<DedupEntry> {
    let offset_delta = u32::try_from(delta).ok()?;
    let place = u32::try_from(position / 8).ok()?;
    Some(DedupEntry { hash, offset_delta, place })
}

impl Segment {
    /// The file, held open until too many others are.
    pub(super) fn keys_file(self: &Arc<Self>, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        if let Some(file) = &*self.keys.file.lock() {
            return Ok(Arc::clone(file));
        }
        let file = self.file(disk)?;
        *self.keys.file.lock() = Some(Arc::clone(&file));
        self.handles().holds_keys(self);
        Ok(file)
    }
}

impl Keys {
    /// Closes the file, if it was opened for these.
    pub(crate) fn close_file(&self) {
        let file = self.file.lock().take();
        drop(file);
    }
}

impl Log {
    /// The entries of a hash in a segment's keys, by offset.
    pub(super) fn entries_of(
        &self,
        segment: &Arc<Segment>,
        hash: u64,
        found: &mut Vec<DedupEntry>,
    ) -> Result<()> {
        if let Some(hidden) = segment.keys.hidden.get() {
            return Err(segment.hidden(*hidden));
        }
        let is_open = || segment.footer().is_none();
        if is_open() && segment.keys.find_in_memory(hash, is_open, found) {
            return Ok(());
        }
        if let Some(walked) = segment.keys.walked.get() {
            found.extend_from_slice(walked.find(hash));
            return Ok(());
        }
        let filter = match segment.keys.filter.get() {
            Some(filter) => filter,
            None => self.read_filter(segment)?,
        };
        if let Filter::Lines(lines) = filter
            && !has_key(lines, hash)
        {
            return Ok(());
        }
        let begun = found.len();
        if self.search(segment, hash, found)?.is_err() {
            found.truncate(begun);
            found.extend_from_slice(self.walk(segment)?.find(hash));
        }
        Ok(())
    }

    #[cold]
    fn read_filter<'a>(&self, segment: &'a Arc<Segment>) -> Result<&'a Filter> {
        let (disk, identity) = (self.disk.as_ref(), &self.place.identity);
        let lines = segment.section_entries::<FilterLine>(disk, identity, SectionKind::DedupFilter);
        let keys = segment.footer().and_then(|footer| footer.section(SectionKind::Dedup));
        let filter = match (lines?, keys) {
            (Some(lines), Some(keys)) if lines.len() as u64 == filter_lines(keys.entries) => {
                Filter::Lines(lines)
            }
            _ => Filter::Unknown,
        };
        // Another thread may have been first, with the same.
        Ok(segment.keys.filter.get_or_init(|| filter))
    }

    /// The entries of a hash, from the section.
    fn search(
        &self,
        segment: &Arc<Segment>,
        hash: u64,
        found: &mut Vec<DedupEntry>,
    ) -> Result<Result<(), Damaged>> {
        let Some(section) = segment.footer().and_then(|f| f.section(SectionKind::Dedup)) else {
            return Ok(Err(Damaged));
        };
        if section.entries == 0 {
            return Ok(Ok(()));
        }
        let file = segment.keys_file(self.disk.as_ref())?;
        let search = Search { file: file.as_ref(), section, identity: &self.place.identity, hash };
        Ok(search.run(found))
    }

    /// The keys of a file whose sections are no good, from its batches.
    #[cold]
    pub(super) fn walk<'a>(&self, segment: &'a Arc<Segment>) -> Result<&'a Table> {
        if let Some(walked) = segment.keys.walked.get() {
            return Ok(walked);
        }
        let (start, clip) = (segment.first_position, segment.clip());
        let file = segment.file(self.disk.as_ref())?;
        let image = image(file.as_ref(), start, segment.end_position(), Mode::ReadOnly)
            .map_err(|e| Error::io("read", &segment.path, e))?;
        if image.unreadable_to > 0 {
            // Another time it may be readable, and have the key.
            return Err(bad_sector(&segment.path));
        }
        let (identity, bytes) = (&self.place.identity, image.view.bytes());
        let runs = scan(bytes, start, identity, segment.base, clip).runs;
        let table = keys_in(identity, (bytes, start), segment.base, &runs)
            .map_err(|hidden| segment.hidden(hidden))?;
        Ok(segment.keys.walked.get_or_init(|| table))
    }

    /// The keys of a segment that is to be gone on in.
    pub(crate) fn keys_of(&self, segment: &Arc<Segment>) -> Result<Result<Table, Hidden>> {
        if self.dedup.window.is_off() {
            return Ok(Ok(Table::default()));
        }
        if segment.footer().is_none() {
            let hidden = segment.keys.hidden.get();
            return Ok(hidden.map_or_else(|| Ok(segment.keys.table.read().clone()), |h| Err(*h)));
        }
        let (disk, identity) = (self.disk.as_ref(), &self.place.identity);
        let kind = SectionKind::Dedup;
        let Some(entries) = segment.section_entries::<DedupEntry>(disk, identity, kind)? else {
            return match self.walk(segment) {
                Err(Error::MissingFeature { feature }) => Ok(Err(Hidden::NotBuilt { feature })),
                walked => Ok(Ok(walked?.clone())),
            };
        };
        let mut table = Table::default();
        for entry in entries {
            table.insert(entry);
        }
        Ok(Ok(table))
    }
}

/// A search for the entries of a hash in the blocks of a section.
struct Search<'a> {
    file: &'a dyn DiskFile,
    section: &'a SectionRef,
    identity: &'a Identity,
    hash: u64,
}

/// Where the first block that is not below the hash may be: from one block up to another, and the
/// hashes that bound them.
struct Range {
    from: u32,
    to: u32,
    low: u64,
    high: u64,
}

impl Range {
    /// The block that a hash lies in, if those between are uniform.
    fn guess(&self, hash: u64) -> u32 {
        let blocks = u128::from(self.to - self.from);
        let above = u128::from(hash.saturating_sub(self.low));
        let span = u128::from(self.high.saturating_sub(self.low)) + 1;
        let guessed = u32::try_from(above * blocks / span).unwrap_or(u32::MAX);
        self.from.saturating_add(guessed).min(self.to - 1)
    }
}

impl Search<'_> {
    fn block<'p>(
        &self,
        index: u32,
        page: &'p mut [u8; PAGE],
    ) -> Result<Block<'p, DedupEntry>, Damaged> {
        let kind = SectionKind::Dedup;
        let block = read_block(self.file, self.section, kind, index, self.identity, page);
        block.filter(|block| block.len() > 0).ok_or(Damaged)
    }

    fn run(&self, found: &mut Vec<DedupEntry>) -> Result<(), Damaged> {
        let mut page = [0; PAGE];
        let mut range = Range { from: 0, to: self.section.blocks, low: 0, high: u64::MAX };
        let mut reads = 0;
        while range.from < range.to {
            reads += 1;
            let index = if reads > INTERPOLATED_MAX {
                range.from.midpoint(range.to)
            } else {
                range.guess(self.hash)
            };
            let block = self.block(index, &mut page)?;
            let below = block.partition_point(|entry| entry.hash < self.hash);
            if below == block.len() {
                range.from = index + 1;
                range.low = block.get(below - 1).map_or(self.hash, |entry| entry.hash);
            } else if below == 0 && index > range.from {
                // The block before may end with the same hash.
                range.to = index;
                range.high = block.get(0).map_or(self.hash, |entry| entry.hash);
            } else if self.take(&block, found) {
                return self.take_from(index + 1, found);
            } else {
                return Ok(());
            }
        }
        // All blocks before are below the hash. The first hash of this one is known.
        if range.high == self.hash { self.take_from(range.from, found) } else { Ok(()) }
    }

    /// The entries of the hash in a block; true if the next one may have more.
    fn take(&self, block: &Block<'_, DedupEntry>, found: &mut Vec<DedupEntry>) -> bool {
        let start = block.partition_point(|entry| entry.hash < self.hash);
        let end = block.partition_point(|entry| entry.hash <= self.hash);
        found.extend((start..end).filter_map(|at| block.get(at)));
        end == block.len()
    }

    fn take_from(&self, from: u32, found: &mut Vec<DedupEntry>) -> Result<(), Damaged> {
        let mut page = [0; PAGE];
        for index in from..self.section.blocks {
            if !self.take(&self.block(index, &mut page)?, found) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1. A file is compared with; 2. it is sealed, which empties the table; 3. what was in it
    /// seems not to be there.
    #[test]
    fn keys_do_not_go_while_it_is_asked_whether_the_file_is_open() {
        let keys = Keys::default();
        keys.enter([entry(5, 3, 16_384).expect("it fits")].into_iter());
        let cannot_go = |open| {
            assert!(keys.table.try_write().is_none(), "the table can be emptied");
            open
        };
        let (mut found, none) = (Vec::new(), [6, 7].into_iter());
        assert!(keys.find_in_memory(5, || cannot_go(true), &mut found) && found.len() == 1);
        assert!(keys.has_none_since(none.clone(), 0, || cannot_go(true)));
        assert!(!keys.has_none_since(none, 0, || cannot_go(false)), "its keys are in the file");
        assert!(!keys.has_none_since([6, 5].into_iter(), 3, || cannot_go(true)));
        assert!(keys.has_none_since([6, 5].into_iter(), 4, || cannot_go(true)));
    }
}
