//! Sections: tables of fixed-width entries in blocks of 4 KiB, each block with its own checksum.
//!
//! Not here: filling and searching them (`log`), which sections a file has (`footer`), the
//! entries of the dedup keys (`dedup`).
//!
//! ```text
//! section := block*                    every block but the last is full
//! block   := block_header entry* zero*
//! ```
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 4 | crc | of bytes 4..4096, seeded with the identity | |
//! | 4 | 2 | kind | 1 offsets, 2 times, 3 epochs, 4 producers, 5 dedup keys, 7 their filter | crc |
//! | 6 | 2 | entries | in this block | crc |
//! | 8 | 4 | index | of the block in its section, from 0 | crc |
//! | 12 | 4 | zero | | crc |
//! | 16 | 4080 | entries | and zeros | crc |
//!
//! | entry | bytes | fields |
//! | --- | --- | --- |
//! | offsets | 16 | offset u64, position u64 |
//! | times | 24 | `append_time` i64, `max_timestamp` i64, offset u64 |
//! | epochs | 16 | epoch u32, zero u32, start offset u64 |
//! | producers | 32 | id u64, `next_sequence` u64, `base_offset` u64, records u32, epoch u32 |
//! | dedup keys, their filter | 16, 64 | see `dedup` |
//!
//! A producer's entry tells the number that its next record gets, and its last batch: where it is,
//! and how many records it has, 0 if that is not known.
//!
//! Example   an offsets section of 300 entries has two blocks, the first of 255 entries, the
//!           second of 45; entry 260 is number 5 of the second.
//! Damage    a section is derived from the log: a bad block costs a scan of what it covered, and
//!           never means "not there". A block at the wrong place is refused by kind and index.

use std::marker::PhantomData;

use super::bytes::{
    PAGE, epoch_at, i64_at, offset_at, put_i64, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at,
};
use super::identity::Identity;
use crate::id::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

const BLOCK_HEADER_BYTES: usize = 16;
/// What a block holds besides its header.
pub(crate) const SECTION_PAYLOAD_BYTES: usize = PAGE - BLOCK_HEADER_BYTES;

/// What a section's entries are. Never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SectionKind {
    Offsets = 1,
    Times = 2,
    Epochs = 3,
    Producers = 4,
    Dedup = 5,
    DedupFilter = 7,
}

impl SectionKind {
    /// Its number on disk.
    pub(crate) const fn code(self) -> u16 {
        self as u16
    }
}

/// A fixed-width entry of a section.
pub(crate) trait Entry: Sized {
    /// Its size; at most [`SECTION_PAYLOAD_BYTES`].
    const BYTES: usize;

    /// Writes it over `out`, which has [`Entry::BYTES`].
    fn put(&self, out: &mut [u8]);

    /// Reads it from `bytes`, which has [`Entry::BYTES`]; `None` for what is never written.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// How many entries a full block holds.
pub(crate) const fn entries_per_block<E: Entry>() -> usize {
    const { assert!(E::BYTES > 0 && E::BYTES <= SECTION_PAYLOAD_BYTES) };
    SECTION_PAYLOAD_BYTES / E::BYTES
}

/// Where a batch starts: one for every few KiB of log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OffsetEntry {
    pub(crate) offset: Offset,
    pub(crate) position: u64,
}

impl Entry for OffsetEntry {
    const BYTES: usize = 16;

    fn put(&self, out: &mut [u8]) {
        let out = out.first_chunk_mut::<16>().expect("room for an entry");
        put_u64::<0, _>(out, self.offset.get());
        put_u64::<8, _>(out, self.position);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<16>()?;
        Some(Self { offset: offset_at::<0, _>(bytes)?, position: u64_at::<8, _>(bytes) })
    }
}

/// The times at an offset: those of the batch that starts there, and the largest up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeEntry {
    pub(crate) append_time: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) offset: Offset,
}

impl Entry for TimeEntry {
    const BYTES: usize = 24;

    fn put(&self, out: &mut [u8]) {
        let out = out.first_chunk_mut::<24>().expect("room for an entry");
        put_i64::<0, _>(out, self.append_time);
        put_i64::<8, _>(out, self.max_timestamp);
        put_u64::<16, _>(out, self.offset.get());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<24>()?;
        Some(Self {
            append_time: i64_at::<0, _>(bytes),
            max_timestamp: i64_at::<8, _>(bytes),
            offset: offset_at::<16, _>(bytes)?,
        })
    }
}

/// A leader epoch and the first offset it owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EpochEntry {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) start: Offset,
}

impl Entry for EpochEntry {
    const BYTES: usize = 16;

    fn put(&self, out: &mut [u8]) {
        let out = out.first_chunk_mut::<16>().expect("room for an entry");
        put_u32::<0, _>(out, self.epoch.get());
        put_u32::<4, _>(out, 0);
        put_u64::<8, _>(out, self.start.get());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<16>()?;
        if u32_at::<4, _>(bytes) != 0 {
            return None;
        }
        Some(Self { epoch: epoch_at::<0, _>(bytes)?, start: offset_at::<8, _>(bytes)? })
    }
}

/// A producer, the number of its next record, and its last batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProducerEntry {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    /// The sequence of the record that it appends next.
    pub(crate) next_sequence: u64,
    /// Of its last batch.
    pub(crate) base_offset: Offset,
    /// Of its last batch, at most 2^32; 0 if nothing is known of that.
    pub(crate) records: u64,
}

impl Entry for ProducerEntry {
    const BYTES: usize = 32;

    fn put(&self, out: &mut [u8]) {
        let out = out.first_chunk_mut::<32>().expect("room for an entry");
        put_u64::<0, _>(out, self.id.get());
        put_u64::<8, _>(out, self.next_sequence);
        put_u64::<16, _>(out, self.base_offset.get());
        put_u32::<24, _>(out, u32::try_from(self.records).unwrap_or(u32::MAX));
        put_u32::<28, _>(out, self.epoch.get());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<32>()?;
        let entry = Self {
            id: ProducerId::new(u64_at::<0, _>(bytes)),
            epoch: ProducerEpoch::new(u32_at::<28, _>(bytes)),
            next_sequence: u64_at::<8, _>(bytes),
            base_offset: offset_at::<16, _>(bytes)?,
            records: u64::from(u32_at::<24, _>(bytes)),
        };
        let is_written = entry.id != ProducerId::NONE && entry.records <= entry.next_sequence;
        is_written.then_some(entry)
    }
}

/// Why a block was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SectionError {
    /// Not exactly 4096 bytes.
    Short,
    /// The checksum does not fit: damaged, torn, or of another partition.
    Crc,
    /// A block of another kind of section.
    Kind {
        /// The kind it carries.
        found: u16,
    },
    /// Another block of the section.
    Index {
        /// The index it carries.
        found: u32,
    },
    /// More entries than fit, or an entry that is never written.
    Entries,
}

/// A section's blocks, one after another; nothing for no entries.
pub(crate) fn encode_section<E: Entry>(
    kind: SectionKind,
    entries: &[E],
    identity: &Identity,
) -> Vec<u8> {
    let blocks = entries.len().div_ceil(entries_per_block::<E>());
    encode_blocks(kind, entries, blocks, identity)
}

/// A section of just so many blocks, the last of which may be without entries; `None` if they are
/// too few.
pub(crate) fn encode_section_in<E: Entry>(
    kind: SectionKind,
    entries: &[E],
    blocks: usize,
    identity: &Identity,
) -> Option<Vec<u8>> {
    let needed = entries.len().div_ceil(entries_per_block::<E>());
    (needed <= blocks).then(|| encode_blocks(kind, entries, blocks, identity))
}

fn encode_blocks<E: Entry>(
    kind: SectionKind,
    entries: &[E],
    blocks: usize,
    identity: &Identity,
) -> Vec<u8> {
    let mut section = Vec::with_capacity(blocks * PAGE);
    let chunks = entries.chunks(entries_per_block::<E>()).chain(std::iter::repeat(&[][..]));
    for (index, chunk) in (0..).zip(chunks.take(blocks)) {
        let mut block = [0; PAGE];
        put_u16::<4, _>(&mut block, kind.code());
        put_u16::<6, _>(&mut block, u16::try_from(chunk.len()).expect("at most 4080"));
        put_u32::<8, _>(&mut block, index);
        let places = block[BLOCK_HEADER_BYTES..].chunks_exact_mut(E::BYTES);
        for (entry, place) in chunk.iter().zip(places) {
            entry.put(place);
        }
        let crc = identity.crc(&block[4..]);
        put_u32::<0, _>(&mut block, crc);
        section.extend_from_slice(&block);
    }
    section
}

/// The entries of a verified block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a, E> {
    /// Whole entries, each of which was read once.
    bytes: &'a [u8],
    entry: PhantomData<E>,
}

impl<'a, E: Entry> Block<'a, E> {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / E::BYTES
    }

    /// Entry number `index` of the block; `None` beyond its end.
    pub(crate) fn get(&self, index: usize) -> Option<E> {
        let start = index.checked_mul(E::BYTES)?;
        let end = start.checked_add(E::BYTES)?;
        E::read(self.bytes.get(start..end)?)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = E> + use<'a, E> {
        self.bytes.chunks_exact(E::BYTES).filter_map(E::read)
    }

    /// How many entries at the start of the block fulfil `holds`, which must be true up to some
    /// entry and false from there on.
    pub(crate) fn partition_point(&self, mut holds: impl FnMut(&E) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).is_some_and(|entry| holds(&entry)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Block number `index` of a section of this kind, if it verifies.
pub(crate) fn decode_block<'a, E: Entry>(
    block: &'a [u8],
    kind: SectionKind,
    index: u32,
    identity: &Identity,
) -> Result<Block<'a, E>, SectionError> {
    let block: &[u8; PAGE] = block.try_into().map_err(|_| SectionError::Short)?;
    if identity.crc(&block[4..]) != u32_at::<0, _>(block) {
        return Err(SectionError::Crc);
    }
    let found = u16_at::<4, _>(block);
    if found != kind.code() {
        return Err(SectionError::Kind { found });
    }
    let found = u32_at::<8, _>(block);
    if found != index {
        return Err(SectionError::Index { found });
    }
    let entries = usize::from(u16_at::<6, _>(block));
    if entries > entries_per_block::<E>() || u32_at::<12, _>(block) != 0 {
        return Err(SectionError::Entries);
    }
    let end = BLOCK_HEADER_BYTES + entries * E::BYTES;
    let bytes = block.get(BLOCK_HEADER_BYTES..end).ok_or(SectionError::Entries)?;
    if bytes.chunks_exact(E::BYTES).any(|entry| E::read(entry).is_none()) {
        return Err(SectionError::Entries);
    }
    Ok(Block { bytes, entry: PhantomData })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, assert_golden, flip_every_bit, identity};
    use super::*;

    fn offsets(count: u64) -> Vec<OffsetEntry> {
        (0..count)
            .map(|n| OffsetEntry { offset: Offset::new(n * 10), position: 12288 + n * 4096 })
            .collect()
    }

    fn decode(block: &[u8], index: u32) -> Result<Block<'_, OffsetEntry>, SectionError> {
        decode_block(block, SectionKind::Offsets, index, &identity())
    }

    #[test]
    fn golden_bytes() {
        let section = encode_section(SectionKind::Offsets, &offsets(2), &identity());
        assert_golden("section", &section, include_str!("golden/section.txt"));
    }

    #[test]
    fn the_example_of_the_header_is_true() {
        let section = encode_section(SectionKind::Offsets, &offsets(300), &identity());
        assert_eq!(section.len(), 2 * PAGE);
        let first = decode(&section[..PAGE], 0).unwrap();
        let second = decode(&section[PAGE..], 1).unwrap();
        assert_eq!((first.len(), second.len()), (255, 45));
        assert_eq!(second.get(5), Some(offsets(300)[260]));
        assert_eq!(second.get(45), None);
        assert_eq!(second.get(usize::MAX), None);
        let read: Vec<_> = first.iter().chain(second.iter()).collect();
        assert_eq!(read, offsets(300));
    }

    #[test]
    fn no_entries_make_no_blocks_and_a_full_block_makes_one() {
        let blocks = |count| encode_section(SectionKind::Offsets, &offsets(count), &identity());
        assert_eq!(blocks(0).len(), 0);
        assert_eq!(blocks(255).len(), PAGE);
        assert_eq!(blocks(256).len(), 2 * PAGE);
    }

    #[test]
    fn other_entries_survive_a_round_trip() {
        let times = [TimeEntry { append_time: -1, max_timestamp: i64::MIN, offset: Offset::MAX }];
        let block = encode_section(SectionKind::Times, &times, &identity());
        let read: Block<'_, TimeEntry> =
            decode_block(&block, SectionKind::Times, 0, &identity()).unwrap();
        assert!(read.iter().eq(times));
        let epochs = [EpochEntry { epoch: LeaderEpoch::new(5), start: Offset::new(8) }];
        let block = encode_section(SectionKind::Epochs, &epochs, &identity());
        let read: Block<'_, EpochEntry> =
            decode_block(&block, SectionKind::Epochs, 0, &identity()).unwrap();
        assert!(read.iter().eq(epochs));
        assert_eq!(entries_per_block::<TimeEntry>(), 170);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let section = encode_section(SectionKind::Offsets, &offsets(3), &identity());
        flip_every_bit(&section, |block, bit| assert!(decode(block, 0).is_err(), "bit {bit}"));
    }

    #[test]
    fn a_block_at_the_wrong_place_is_refused() {
        let block = encode_section(SectionKind::Offsets, &offsets(3), &identity());
        assert_eq!(decode(&block, 1).unwrap_err(), SectionError::Index { found: 0 });
        let other = decode_block::<OffsetEntry>(&block, SectionKind::Epochs, 0, &identity());
        assert_eq!(other.unwrap_err(), SectionError::Kind { found: 1 });
        assert_eq!(decode(&block[1..], 0).unwrap_err(), SectionError::Short);
    }

    #[test]
    fn sealed_nonsense_is_refused() {
        let refused = |at: usize, byte: u8| {
            let mut block = encode_section(SectionKind::Offsets, &offsets(3), &identity());
            block[at] = byte;
            let crc = identity().crc(&block[4..]);
            block[..4].copy_from_slice(&crc.to_le_bytes());
            decode(&block, 0).unwrap_err()
        };
        assert_eq!(refused(7, 1), SectionError::Entries, "more than fit");
        assert_eq!(refused(12, 1), SectionError::Entries, "a byte that is zero");
        assert_eq!(refused(16 + 7, 0xFF), SectionError::Entries, "an offset above the largest");
    }

    #[test]
    fn the_search_agrees_with_a_linear_one() {
        let mut random = Random::new(4);
        for count in [0, 1, 2, 3, 100, 255] {
            let entries = offsets(count);
            let section = encode_section(SectionKind::Offsets, &entries, &identity());
            let Ok(block) = decode(&section, 0) else { continue };
            for _ in 0..100 {
                let target = Offset::new(random.next() % 2_600);
                let expected = entries.iter().take_while(|entry| entry.offset <= target).count();
                assert_eq!(block.partition_point(|entry| entry.offset <= target), expected);
            }
        }
    }
}
