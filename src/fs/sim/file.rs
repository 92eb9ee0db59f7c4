//! A simulated file: what its page cache shows, what its medium holds, and what lies between.
//!
//! Not here: names (`tree`), calls and faults (`disk`).
//!
//! A pending write holds the *whole sectors* it touched as they were after it. So a sector of a
//! crashed file is as it was at some moment, never a mixture that no moment had, and keeping a
//! later write of a sector implies the earlier ones there, as on a real disk.
//!
//! Invariants
//!   1. Nothing in a cache or medium lies beyond its length: it would come back when it grows.
//!   2. Unless `diverged`, the medium with all pending changes applied is the cache.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::blocks::Blocks;
use super::loss::{Loss, PendingKind};
use super::page::{Pages, SECTOR_BYTES};
use crate::fs::heap::PAGE_BYTES;
use crate::fs::map::DiskShare;

const SECTOR: u64 = SECTOR_BYTES as u64;
const PAGE: u64 = PAGE_BYTES as u64;

/// A change that no sync has confirmed.
#[derive(Clone, Debug)]
pub(super) struct PendingChange {
    /// Its place among all changes of the disk.
    pub(super) seq: u64,
    pub(super) change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Whole sectors, from the one of this number on.
    Write { sector: u64, bytes: Arc<[u8]> },
    /// The length.
    Len { from: u64, to: u64 },
}

impl PendingChange {
    pub(super) fn kind(&self) -> PendingKind {
        match &self.change {
            Change::Write { bytes, .. } => {
                PendingKind::Data { sectors: (bytes.len() / SECTOR_BYTES) as u64 }
            }
            Change::Len { .. } => PendingKind::Len,
        }
    }
}

/// A file, with or without a name.
#[derive(Clone, Default)]
pub(super) struct FileNode {
    cache: Pages,
    cache_len: u64,
    medium: Pages,
    medium_len: u64,
    pub(super) pending: Vec<PendingChange>,
    /// A failed sync dropped changes: the cache shows what the medium will never get.
    diverged: bool,
    blocks: Blocks,
    /// End of what was ever allocated: what is lost below reads as zeros, not as stale bytes.
    allocated_to: u64,
    /// Sectors that cannot be read.
    bad: BTreeSet<u64>,
    /// Mappings of it that may still be in use.
    pub(super) mappings: Vec<DiskShare>,
    /// How many names it has.
    pub(super) links: u64,
    /// How many handles it has.
    pub(super) opens: u64,
}

impl FileNode {
    /// A file as if it had been there for ever.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let mut file = Self::default();
        file.cache.write(0, bytes);
        file.cache_len = bytes.len() as u64;
        file.blocks.take(0..file.cache_len);
        file.medium = file.cache.clone();
        file.medium_len = file.cache_len;
        file
    }

    pub(super) fn len(&self) -> u64 {
        self.cache_len
    }

    /// How many bytes at `position` a read of at most `bytes` gets; `None` if a sector is bad.
    pub(super) fn readable(&self, position: u64, bytes: usize) -> Option<usize> {
        let bytes = (bytes as u64).min(self.cache_len.saturating_sub(position));
        let sectors = position / SECTOR..(position + bytes).div_ceil(SECTOR);
        if bytes > 0 && self.bad.range(sectors).next().is_some() {
            return None;
        }
        usize::try_from(bytes).ok()
    }

    pub(super) fn read(&self, position: u64, buf: &mut [u8]) {
        self.cache.read(position, buf);
    }

    /// The whole file.
    pub(super) fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.cache_len).unwrap_or(0)];
        self.cache.read(0, &mut bytes);
        bytes
    }

    /// Takes over what was stored through mappings since the last time.
    pub(super) fn harvest(&mut self, seq: &mut u64) {
        if self.mappings.is_empty() {
            return;
        }
        let mappings = std::mem::take(&mut self.mappings);
        for (index, mapping) in mappings.iter().enumerate() {
            let Some(region) = mapping.map().sim() else { continue };
            region.take_stores(|start, data| {
                let position = start as u64;
                let inside = self.cache_len.saturating_sub(position).min(data.len() as u64);
                let data = &data[..usize::try_from(inside).unwrap_or(0)];
                if data.is_empty() {
                    return;
                }
                self.put(position, data, seq);
                for (other, mapping) in mappings.iter().map(DiskShare::map).enumerate() {
                    if other != index
                        && let Some(region) = mapping.sim()
                    {
                        region.mirror(|| mapping.readable(), start, data);
                    }
                }
            });
        }
        // One of ours is the last: nobody can store through it any more.
        self.mappings =
            mappings.into_iter().filter(|share| Arc::strong_count(share.map()) > 1).collect();
    }

    /// Writes into the page cache.
    pub(super) fn write(&mut self, position: u64, data: &[u8], seq: &mut u64) {
        if data.is_empty() {
            return;
        }
        self.harvest(seq);
        let end = position + data.len() as u64;
        let from = self.cache_len;
        self.cache_len = from.max(end);
        self.put(position, data, seq);
        if end > from {
            self.push(Change::Len { from, to: end }, seq);
        }
        self.mirror(position, data);
    }

    fn put(&mut self, position: u64, data: &[u8], seq: &mut u64) {
        let end = position + data.len() as u64;
        self.cache.write(position, data);
        self.blocks.take(position..end);
        // A drive gives a sector that is written as a whole another place.
        for sector in position.div_ceil(SECTOR)..end / SECTOR {
            self.bad.remove(&sector);
        }
        let sectors = position / SECTOR..end.div_ceil(SECTOR);
        let image = if sectors.start * SECTOR == position && sectors.end * SECTOR == end {
            Arc::from(data)
        } else {
            let bytes = usize::try_from((sectors.end - sectors.start) * SECTOR).unwrap_or(0);
            let mut image: Arc<[u8]> = std::iter::repeat_n(0, bytes).collect();
            self.cache.read(sectors.start * SECTOR, Arc::make_mut(&mut image));
            image
        };
        self.push(Change::Write { sector: sectors.start, bytes: image }, seq);
    }

    fn push(&mut self, change: Change, seq: &mut u64) {
        self.pending.push(PendingChange { seq: *seq, change });
        *seq += 1;
    }

    fn mirror(&self, position: u64, data: &[u8]) {
        let Ok(start) = usize::try_from(position) else { return };
        for mapping in self.mappings.iter().map(DiskShare::map) {
            if let Some(region) = mapping.sim() {
                region.mirror(|| mapping.readable(), start, data);
            }
        }
    }

    /// How many new blocks of a range it would take.
    pub(super) fn blocks_missing(&self, range: Range<u64>) -> u64 {
        self.blocks.missing(range)
    }

    /// How many blocks it takes.
    pub(super) fn blocks_taken(&self) -> u64 {
        self.blocks.taken()
    }

    pub(super) fn allocate(&mut self, from: u64, bytes: u64, seq: &mut u64) {
        let end = from + bytes;
        self.blocks.take(from..end);
        self.allocated_to = self.allocated_to.max(end);
        if end > self.cache_len {
            let from = self.cache_len;
            self.cache_len = end;
            self.push(Change::Len { from, to: end }, seq);
        }
    }

    pub(super) fn set_len(&mut self, to: u64, seq: &mut u64) {
        self.harvest(seq);
        let from = self.cache_len;
        if to == from {
            return;
        }
        self.cache_len = to;
        if to < from {
            self.cache.cut(to);
            self.blocks.cut(to);
            self.allocated_to = self.allocated_to.min(to);
            self.bad.retain(|sector| sector * SECTOR < to);
            self.hide_beyond(to, from);
        }
        self.push(Change::Len { from, to }, seq);
    }

    /// Zeroes in the mappings what was cut off.
    fn hide_beyond(&self, to: u64, from: u64) {
        for mapping in self.mappings.iter().map(DiskShare::map) {
            let end = from.min(mapping.len() as u64);
            let zeros = vec![0; usize::try_from(end.saturating_sub(to)).unwrap_or(0)];
            assert!(
                zeros.is_empty() || (mapping.readable().end as u64) <= to,
                "published bytes of a mapped file were cut off, at {to}"
            );
            if let (Some(region), Ok(start)) = (mapping.sim(), usize::try_from(to)) {
                region.mirror(|| mapping.readable(), start, &zeros);
            }
        }
    }

    /// Moves everything to the medium.
    pub(super) fn sync(&mut self, seq: &mut u64) {
        self.harvest(seq);
        if self.diverged {
            let pending = std::mem::take(&mut self.pending);
            self.apply(&pending, |_, _| true, |_, _| None);
        } else {
            self.medium = self.cache.clone();
            self.medium_len = self.cache_len;
            self.pending.clear();
        }
    }

    /// A sync that failed: of the pending writes the first `reached` got to the medium, the others
    /// never will, as the cache takes them for clean. Lengths stay pending.
    pub(super) fn fail_sync(&mut self, reached: impl FnOnce(usize) -> usize, seq: &mut u64) {
        self.harvest(seq);
        let (writes, lengths): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| matches!(pending.change, Change::Write { .. }));
        self.diverged |= !writes.is_empty();
        let reached = reached(writes.len()).min(writes.len());
        for pending in &writes[..reached] {
            if let Change::Write { sector, bytes } = &pending.change {
                self.medium.write(sector * SECTOR, bytes);
            }
        }
        self.pending = lengths;
    }

    /// The file after a power cut. `index` gives a change its number in the loss.
    pub(super) fn after_crash(&self, loss: &Loss, index: impl Fn(u64) -> usize) -> FileNode {
        let mut file = FileNode {
            medium: self.medium.clone(),
            medium_len: self.medium_len,
            blocks: self.blocks.clone(),
            allocated_to: self.allocated_to,
            bad: self.bad.clone(),
            ..FileNode::default()
        };
        let old_len = self.medium_len.max(self.allocated_to);
        file.apply(
            &self.pending,
            |pending, sector| loss.keeps(index(pending.seq), pending.kind(), sector),
            |pending, sector| {
                let Change::Write { sector: first, .. } = pending.change else { return None };
                let beyond = (first + sector) * SECTOR >= old_len;
                if beyond { loss.garbage(index(pending.seq), sector) } else { None }
            },
        );
        file.cache = file.medium.clone();
        file.cache_len = file.medium_len;
        file.blocks.cut(file.cache_len);
        file
    }

    /// Applies those of the changes, and of their sectors, that `keeps` says.
    fn apply(
        &mut self,
        changes: &[PendingChange],
        keeps: impl Fn(&PendingChange, u64) -> bool,
        garbage: impl Fn(&PendingChange, u64) -> Option<u8>,
    ) {
        // A file's metadata is journaled in order: a length that was kept means that every cut
        // before it was kept too, else bytes that were cut off would come back.
        let last_len = changes
            .iter()
            .rposition(|c| matches!(c.change, Change::Len { .. }) && keeps(c, 0))
            .map_or(0, |last| last + 1);
        for (place, pending) in changes.iter().enumerate() {
            match &pending.change {
                Change::Write { sector, bytes } => {
                    let (sectors, _) = bytes.as_chunks::<SECTOR_BYTES>();
                    for (number, bytes) in (0..).zip(sectors) {
                        let position = (sector + number) * SECTOR;
                        if keeps(pending, number) {
                            self.medium.write(position, bytes);
                        } else if let Some(stale) = garbage(pending, number) {
                            self.medium.write(position, &[stale; SECTOR_BYTES]);
                        }
                    }
                }
                Change::Len { from, to } => {
                    let cut_first = to < from && place < last_len;
                    if cut_first {
                        self.medium.cut(*to);
                    }
                    if cut_first || keeps(pending, 0) {
                        self.medium_len = *to;
                    }
                }
            }
        }
        self.medium.cut(self.medium_len);
    }

    /// The file as its page cache has it, for a process that starts anew.
    pub(super) fn after_kill(&self) -> FileNode {
        FileNode { mappings: Vec::new(), opens: 0, ..self.clone() }
    }

    /// Flips a bit, on the medium and in the cache alike; `false` beyond the end.
    pub(super) fn flip_bit(&mut self, position: u64, bit: u8) -> bool {
        if position >= self.cache_len {
            return false;
        }
        let mut byte = [0];
        self.cache.read(position, &mut byte);
        self.cache.write(position, &[byte[0] ^ (1 << (bit % 8))]);
        if position < self.medium_len {
            self.medium.read(position, &mut byte);
            self.medium.write(position, &[byte[0] ^ (1 << (bit % 8))]);
        }
        true
    }

    /// Makes the sector of a position unreadable.
    pub(super) fn spoil(&mut self, position: u64) {
        self.bad.insert(position / SECTOR);
    }

    /// Whether all of a mapped range can be read; `None` if it reaches beyond the file's pages.
    pub(super) fn can_populate(&self, range: Range<u64>) -> Option<bool> {
        // Whole pages are brought in.
        let pages = range.start / PAGE * PAGE..range.end.div_ceil(PAGE) * PAGE;
        if pages.end > self.cache_len.div_ceil(PAGE) * PAGE {
            return None;
        }
        Some(self.bad.range(pages.start / SECTOR..pages.end / SECTOR).next().is_none())
    }

    /// Copies the cache into new memory.
    pub(super) fn fill(&self, memory: &mut [u8]) {
        self.cache.for_each_below(memory.len() as u64, |position, page| {
            let Ok(start) = usize::try_from(position) else { return };
            let bytes = page.len().min(memory.len() - start);
            memory[start..start + bytes].copy_from_slice(&page[..bytes]);
        });
    }

    /// Mixes what can be seen of the file into a hash.
    pub(super) fn hash_into(&self, hash: u64) -> u64 {
        let hash = self.cache.hash_into(super::page::mix(hash, self.cache_len));
        self.bad.iter().fold(hash, |hash, sector| super::page::mix(hash, *sector))
    }
}
