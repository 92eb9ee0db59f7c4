//! The dedup keys of a sealed segment: where each was written, and a filter that tells most of
//! those which were not.
//!
//! Not here: blocks and their checksums (`section`), the hash of a key (`identity`), searching and
//! what a hit means (`log`: a hash only finds candidates, the record's own bytes decide).
//!
//! ```text
//! dedup section  := entry*         sorted by hash, of equal hashes the earlier record first
//! filter section := line*          as many as `filter_lines` says for that number of entries
//! ```
//!
//! | entry | offset | size | field | meaning |
//! | --- | --- | --- | --- | --- |
//! | dedup key (kind 5) | 0 | 8 | hash | of the key, seeded with the identity |
//! | | 8 | 4 | `offset_delta` | of the record, above the segment's base offset |
//! | | 12 | 4 | place | position of its batch, divided by 8 |
//! | filter line (kind 7) | 0 | 64 | words | 8 words of 64 bits |
//!
//! The filter is a blocked Bloom filter: a key sets 7 bits of one line, so that looking for one
//! costs one cache line. With 14 bits a key it lets 1 of about 300 absent keys through. The line of
//! a hash is `hash * lines / 2^64`; its bits are `mixed >> 9 * i & 511` for `i` from 0 to 6, where
//! `mixed` is `(hash ^ hash >> 32) * 0x9E3779B97F4A7C15`, and bit `b` is bit `b % 64` of word
//! `b / 64`. Never change them.
//!
//! A file that was sealed in a topic without a dedup window has neither section, whether or not its
//! records have keys. One that has no keys, in a topic with a window, has both, without an entry.
//!
//! Example   the key of hash `0x0123456789ABCDEF` at offset 3 of a segment, in the batch at 12288:
//!           `efcdab8967452301 03000000 00060000`.
//! Damage    of either section costs a walk over the file's batches; it never means that a key is
//!           not there.

use super::bytes::{PAGE, put_u32, put_u64, u32_at, u64_at};
use super::section::{Entry, entries_per_block};
use super::segment::DATA_START;

/// How many bits of the filter a key takes on average.
const FILTER_BITS_PER_KEY: u64 = 14;
/// How many bits a key sets.
const FILTER_BITS_SET: u32 = 7;
const LINE_BITS: u64 = 512;

const _: () = assert!(FILTER_BITS_SET * LINE_BITS.trailing_zeros() <= u64::BITS);
const _: () = assert!(entries_per_block::<DedupEntry>() == 255);
const _: () = assert!(entries_per_block::<FilterLine>() == 63);

/// Where a record with a dedup key is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DedupEntry {
    pub(crate) hash: u64,
    /// Above the segment's base offset.
    pub(crate) offset_delta: u32,
    /// The position of its batch, divided by 8; never 0.
    pub(crate) place: u32,
}

impl DedupEntry {
    /// The position of the record's batch.
    pub(crate) fn position(&self) -> u64 {
        u64::from(self.place) * 8
    }
}

impl Entry for DedupEntry {
    const BYTES: usize = 16;

    fn put(&self, out: &mut [u8]) {
        let out = out.first_chunk_mut::<16>().expect("room for an entry");
        put_u64::<0, _>(out, self.hash);
        put_u32::<8, _>(out, self.offset_delta);
        put_u32::<12, _>(out, self.place);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<16>()?;
        let entry = Self {
            hash: u64_at::<0, _>(bytes),
            offset_delta: u32_at::<8, _>(bytes),
            place: u32_at::<12, _>(bytes),
        };
        (entry.position() >= DATA_START).then_some(entry)
    }
}

/// A part of the filter that lies in one cache line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(align(64))]
pub(crate) struct FilterLine([u64; 8]);

impl FilterLine {
    /// How many of its 512 bits are set.
    pub(crate) fn bits_set(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

impl Entry for FilterLine {
    const BYTES: usize = 64;

    fn put(&self, out: &mut [u8]) {
        let (places, _) = out.as_chunks_mut::<8>();
        for (word, place) in self.0.iter().zip(places) {
            *place = word.to_le_bytes();
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.first_chunk::<64>()?.as_chunks::<8>();
        let mut line = Self::default();
        for (word, bytes) in line.0.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(line)
    }
}

/// How many lines the filter of so many keys has.
pub(crate) const fn filter_lines(keys: u64) -> u64 {
    keys.saturating_mul(FILTER_BITS_PER_KEY).div_ceil(LINE_BITS)
}

/// How many bytes of a file the two sections of so many keys take.
pub(crate) const fn dedup_bytes(keys: u64) -> u64 {
    let blocks = keys.div_ceil(entries_per_block::<DedupEntry>() as u64);
    let of_filter = filter_lines(keys).div_ceil(entries_per_block::<FilterLine>() as u64);
    (blocks + of_filter).saturating_mul(PAGE as u64)
}

/// Enters a key in a filter that has a line at least.
pub(crate) fn put_key(filter: &mut [FilterLine], hash: u64) {
    if let Some(line) = filter.get_mut(line_of(filter.len(), hash)) {
        for (word, bit) in bits(hash) {
            line.0[word] |= bit;
        }
    }
}

/// Whether a key may have been entered. Of an empty filter: no.
// Without a branch for each bit: one that is guessed wrong would wait for the line, and with it
// whoever looks into several filters in a row.
#[inline]
pub(crate) fn has_key(filter: &[FilterLine], hash: u64) -> bool {
    filter.get(line_of(filter.len(), hash)).is_some_and(|line| {
        bits(hash).fold(0, |missing, (word, bit)| missing | (!line.0[word] & bit)) == 0
    })
}

#[inline]
fn line_of(lines: usize, hash: u64) -> usize {
    let scaled = (u128::from(hash) * lines as u128) >> 64;
    usize::try_from(scaled).unwrap_or(usize::MAX)
}

/// The words and the bits in them that a hash sets.
#[inline]
fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let mixed = (hash ^ hash >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..FILTER_BITS_SET).map(move |i| {
        let bit = mixed >> (9 * i) & (LINE_BITS - 1);
        (usize::try_from(bit >> 6).unwrap_or(0), 1 << (bit & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::super::section::{SectionKind, decode_block, encode_section};
    use super::super::testing::{Random, assert_golden, flip_every_bit, identity};
    use super::*;

    fn entry(hash: u64, offset_delta: u32) -> DedupEntry {
        DedupEntry { hash, offset_delta, place: 1536 }
    }

    fn filter_of(hashes: &[u64]) -> Vec<FilterLine> {
        let lines = usize::try_from(filter_lines(hashes.len() as u64)).expect("few");
        let mut filter = vec![FilterLine::default(); lines];
        for hash in hashes {
            put_key(&mut filter, *hash);
        }
        filter
    }

    #[test]
    fn golden_bytes() {
        let hashes = [0x0123_4567_89AB_CDEF, u64::MAX];
        let entries = [entry(hashes[0], 3), entry(hashes[1], 0)];
        let mut bytes = encode_section(SectionKind::Dedup, &entries, &identity());
        let filter = filter_of(&hashes);
        bytes.extend(encode_section(SectionKind::DedupFilter, &filter, &identity()));
        assert_golden("dedup", &bytes, include_str!("golden/dedup.txt"));
    }

    #[test]
    fn the_example_of_the_header_is_true() {
        let mut bytes = [0; 16];
        entry(0x0123_4567_89AB_CDEF, 3).put(&mut bytes);
        let expected = 0xefcd_ab89_6745_2301_0300_0000_0006_0000_u128.to_be_bytes();
        assert_eq!(bytes, expected);
        assert_eq!(entry(0, 0).position(), 12288);
    }

    #[test]
    fn entries_and_lines_survive_a_round_trip() {
        let mut random = Random::new(6);
        let entries: Vec<_> =
            (0..300).map(|n| DedupEntry { place: 1536 + n, ..entry(random.next(), n) }).collect();
        let section = encode_section(SectionKind::Dedup, &entries, &identity());
        let mut read = Vec::new();
        for (index, block) in (0..).zip(section.chunks(PAGE)) {
            let block = decode_block::<DedupEntry>(block, SectionKind::Dedup, index, &identity());
            read.extend(block.expect("it verifies").iter());
        }
        assert_eq!(read, entries);
        let hashes: Vec<u64> = entries.iter().map(|entry| entry.hash).collect();
        let filter = filter_of(&hashes);
        let section = encode_section(SectionKind::DedupFilter, &filter, &identity());
        let block = decode_block::<FilterLine>(&section, SectionKind::DedupFilter, 0, &identity());
        assert!(block.expect("it verifies").iter().eq(filter));
        assert_eq!(dedup_bytes(300), 3 * PAGE as u64);
        assert_eq!(dedup_bytes(0), 0);
    }

    #[test]
    fn a_batch_before_the_first_position_is_refused() {
        let entries = [DedupEntry { place: 1535, ..entry(1, 2) }];
        let block = encode_section(SectionKind::Dedup, &entries, &identity());
        assert!(decode_block::<DedupEntry>(&block, SectionKind::Dedup, 0, &identity()).is_err());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let block = encode_section(SectionKind::DedupFilter, &filter_of(&[1, 2]), &identity());
        flip_every_bit(&block, |block, bit| {
            let kind = SectionKind::DedupFilter;
            let decoded = decode_block::<FilterLine>(block, kind, 0, &identity());
            assert!(decoded.is_err(), "bit {bit}");
        });
    }

    #[test]
    fn the_filter_lets_every_key_through_and_few_others() {
        let mut random = Random::new(7);
        for keys in [1, 10, 42, 43, 1_000, 50_000] {
            let hashes: Vec<u64> = (0..keys).map(|_| random.next()).collect();
            let filter = filter_of(&hashes);
            assert!(filter.len() * 64 <= 2 * keys + 64, "{} lines for {keys}", filter.len());
            assert!(hashes.iter().all(|hash| has_key(&filter, *hash)));
            let others = (0..100_000).filter(|_| has_key(&filter, random.next())).count();
            if keys >= 1_000 {
                assert!(others < 500, "{others} of 100000 at {keys} keys");
            }
        }
        assert!(!has_key(&[], 5));
    }
}
