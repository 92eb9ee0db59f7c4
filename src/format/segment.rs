//! A segment file's own pages: the header that says what it is, the two slots that say how far.
//!
//! Not here: what follows them (`batch`, `section`, `footer`), which file wins where two cover an
//! offset (`log`).
//!
//! ```text
//! segment := header slot slot section? batch* ( section* footer )?
//! ```
//!
//! Header page, at position 0; written once, before the file gets its name:
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 8 | magic | `PLIMSOLL` | crc |
//! | 8 | 4 | version | 1; another one is refused | crc |
//! | 12 | 4 | incompat | features without which the file must not be read | crc |
//! | 16 | 4 | `ro_compat` | features without which it must not be written | crc |
//! | 20 | 4 | salt | of the topic | crc |
//! | 24 | 8 | topic | id | crc |
//! | 32 | 4 | partition | number | crc |
//! | 36 | 2 | kind | 1 rolled, 2 cut, 3 rewritten | crc |
//! | 38 | 2 | zero | | crc |
//! | 40 | 8 | `base_offset` | | crc |
//! | 48 | 8 | generation | | crc |
//! | 56 | 8 | `covered_end` | of a rewrite: it replaces [base, covered end); else 0 | crc |
//! | 64 | 8 | `first_position` | of the first batch; a multiple of 8, at least 12288 | crc |
//! | 72 | 8 | capacity | bytes that the file may grow to | crc |
//! | 80 | 8 | created | ms since the Unix epoch | crc |
//! | 88 | 4004 | zero | room | crc |
//! | 4092 | 4 | crc | of the page; not seeded, because it tells the identity | |
//!
//! Slot page, at 4096 and at 8192; overwritten in turn, so that one is always whole:
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 8 | magic | `PLIMSLOT` | crc |
//! | 8 | 2 | kind | as in the header | crc |
//! | 10 | 2 | flags | 1 catching up; others are refused | crc |
//! | 12 | 4 | zero | | crc |
//! | 16 | 8 | sequence | the higher one is the newer slot | crc |
//! | 24 | 8 | durable | offset below which this replica has synced | crc |
//! | 32 | 8 | `durable_position` | the same as a position in this file | crc |
//! | 40 | 8 | `log_start` | first offset still kept | crc |
//! | 48 | 8 | `clean_mark` | the volume's incarnation at a clean close, else 0 | crc |
//! | 56 | 8 | generation | as in the header | crc |
//! | 64 | 4028 | zero | room | crc |
//! | 4092 | 4 | crc | of the page, seeded with the identity | |
//!
//! Example   a slot with sequence 2, durable offset 3 at 12448, rolled, generation 1 starts
//!           `504c494d534c4f54 0100 0000 00000000 0200000000000000 0300000000000000
//!           a030000000000000`.
//! Damage    bad header: the file is not one of ours or is unreadable, and its name alone proves
//!           nothing. A bad slot is ignored; a slot is evidence of what was synced, so that with
//!           one lost the other, older one still holds. Both bad: batches and footer remain.

use super::bytes::{
    PAGE, PageError, counter_at, i64_at, offset_at, open_page, put_array, put_i64, put_u16,
    put_u32, put_u64, seal_page, u16_at, u32_at, u64_at,
};
use super::identity::Identity;
use crate::id::{Generation, Incarnation, Offset, PartitionId, TopicId};

/// The positions of the two slots.
pub(crate) const SLOT_POSITIONS: [u64; 2] = [PAGE as u64, 2 * PAGE as u64];
/// Where batches start, unless an opening section comes first.
pub(crate) const DATA_START: u64 = 3 * PAGE as u64;
/// The `incompat` bits that this program knows.
pub(crate) const KNOWN_INCOMPAT: u32 = 0;
/// The `ro_compat` bits that this program knows.
pub(crate) const KNOWN_RO_COMPAT: u32 = 0;

const MAGIC: [u8; 8] = *b"PLIMSOLL";
const SLOT_MAGIC: [u8; 8] = *b"PLIMSLOT";
const VERSION: u32 = 1;
const CATCHING_UP: u16 = 1;

const _: () = assert!(SLOT_POSITIONS[0] == 4096 && SLOT_POSITIONS[1] == 8192);
const _: () = assert!(DATA_START == 12288);

/// Why a header or a slot was refused.
pub(crate) type SegmentError = PageError;

/// How a segment came to be. Never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SegmentKind {
    /// It follows the segment before it.
    Rolled = 1,
    /// The log was truncated to its base: everything older from there on is void.
    Cut = 2,
    /// Repair or compaction made it: it replaces exactly [base, covered end).
    Rewritten = 3,
}

impl SegmentKind {
    /// The kind with this number.
    pub(crate) fn checked(code: u16) -> Option<Self> {
        match code {
            1 => Some(Self::Rolled),
            2 => Some(Self::Cut),
            3 => Some(Self::Rewritten),
            _ => None,
        }
    }

    /// Its number on disk.
    pub(crate) const fn code(self) -> u16 {
        self as u16
    }
}

/// A segment file's first page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) incompat: u32,
    pub(crate) ro_compat: u32,
    pub(crate) topic: TopicId,
    pub(crate) salt: u32,
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: Offset,
    pub(crate) generation: Generation,
    pub(crate) kind: SegmentKind,
    pub(crate) covered_end: Offset,
    pub(crate) first_position: u64,
    pub(crate) capacity: u64,
    pub(crate) created: i64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        put_array::<0, 8, _>(&mut page, MAGIC);
        put_u32::<8, _>(&mut page, VERSION);
        put_u32::<12, _>(&mut page, self.incompat);
        put_u32::<16, _>(&mut page, self.ro_compat);
        put_u32::<20, _>(&mut page, self.salt);
        put_u64::<24, _>(&mut page, self.topic.get());
        put_u32::<32, _>(&mut page, self.partition.get());
        put_u16::<36, _>(&mut page, self.kind.code());
        put_u64::<40, _>(&mut page, self.base_offset.get());
        put_u64::<48, _>(&mut page, self.generation.get());
        put_u64::<56, _>(&mut page, self.covered_end.get());
        put_u64::<64, _>(&mut page, self.first_position);
        put_u64::<72, _>(&mut page, self.capacity);
        put_i64::<80, _>(&mut page, self.created);
        seal_page(&mut page, crc32fast::hash);
        page
    }

    /// The header at the start of `bytes`. Unknown `ro_compat` bits are the caller's to judge.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let page = open_page(bytes, MAGIC, crc32fast::hash)?;
        let version = u32_at::<8, _>(page);
        if version != VERSION {
            return Err(PageError::Version { found: version });
        }
        let incompat = u32_at::<12, _>(page);
        if incompat & !KNOWN_INCOMPAT != 0 {
            return Err(PageError::Incompatible { bits: incompat & !KNOWN_INCOMPAT });
        }
        if u16_at::<38, _>(page) != 0 {
            return Err(PageError::Field("zero"));
        }
        let first_position = u64_at::<64, _>(page);
        if first_position < DATA_START || !first_position.is_multiple_of(8) {
            return Err(PageError::Field("first_position"));
        }
        let base_offset = offset_at::<40, _>(page).ok_or(PageError::Field("base_offset"))?;
        let covered_end = offset_at::<56, _>(page).ok_or(PageError::Field("covered_end"))?;
        let generation = counter_at::<48, _>(page).ok_or(PageError::Field("generation"))?;
        let kind = SegmentKind::checked(u16_at::<36, _>(page)).ok_or(PageError::Field("kind"))?;
        if kind == SegmentKind::Rewritten && covered_end < base_offset {
            return Err(PageError::Field("covered_end"));
        }
        Ok(Self {
            incompat,
            ro_compat: u32_at::<16, _>(page),
            topic: TopicId::new(u64_at::<24, _>(page)),
            salt: u32_at::<20, _>(page),
            partition: PartitionId::new(u32_at::<32, _>(page)),
            base_offset,
            generation: Generation::new(generation),
            kind,
            covered_end,
            first_position,
            capacity: u64_at::<72, _>(page),
            created: i64_at::<80, _>(page),
        })
    }

    /// Whose file it says it is.
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.topic, self.salt, self.partition)
    }
}

/// How far a replica has synced, as of the slot's writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) sequence: u64,
    pub(crate) durable: Offset,
    pub(crate) durable_position: u64,
    pub(crate) log_start: Offset,
    pub(crate) catching_up: bool,
    /// The incarnation that closed the log cleanly; 0 for none.
    pub(crate) clean_mark: Incarnation,
    pub(crate) generation: Generation,
    pub(crate) kind: SegmentKind,
}

impl Slot {
    pub(crate) fn encode(&self, identity: &Identity) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        put_array::<0, 8, _>(&mut page, SLOT_MAGIC);
        put_u16::<8, _>(&mut page, self.kind.code());
        put_u16::<10, _>(&mut page, if self.catching_up { CATCHING_UP } else { 0 });
        put_u64::<16, _>(&mut page, self.sequence);
        put_u64::<24, _>(&mut page, self.durable.get());
        put_u64::<32, _>(&mut page, self.durable_position);
        put_u64::<40, _>(&mut page, self.log_start.get());
        put_u64::<48, _>(&mut page, self.clean_mark.get());
        put_u64::<56, _>(&mut page, self.generation.get());
        seal_page(&mut page, |content| identity.crc(content));
        page
    }

    pub(crate) fn decode(bytes: &[u8], identity: &Identity) -> Result<Self, SegmentError> {
        let page = open_page(bytes, SLOT_MAGIC, |content| identity.crc(content))?;
        let flags = u16_at::<10, _>(page);
        if flags & !CATCHING_UP != 0 {
            return Err(PageError::Incompatible { bits: u32::from(flags & !CATCHING_UP) });
        }
        let clean_mark = counter_at::<48, _>(page).ok_or(PageError::Field("clean_mark"))?;
        let generation = counter_at::<56, _>(page).ok_or(PageError::Field("generation"))?;
        Ok(Self {
            sequence: counter_at::<16, _>(page).ok_or(PageError::Field("sequence"))?,
            durable: offset_at::<24, _>(page).ok_or(PageError::Field("durable"))?,
            durable_position: u64_at::<32, _>(page),
            log_start: offset_at::<40, _>(page).ok_or(PageError::Field("log_start"))?,
            catching_up: flags & CATCHING_UP != 0,
            clean_mark: Incarnation::new(clean_mark),
            generation: Generation::new(generation),
            kind: SegmentKind::checked(u16_at::<8, _>(page)).ok_or(PageError::Field("kind"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_golden, flip_every_bit, identity};
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            incompat: 0,
            ro_compat: 0,
            topic: TopicId::new(7),
            salt: 0x1122_3344,
            partition: PartitionId::new(3),
            base_offset: Offset::new(1200),
            generation: Generation::new(4),
            kind: SegmentKind::Rewritten,
            covered_end: Offset::new(2400),
            first_position: DATA_START,
            capacity: 64 << 20,
            created: 1_700_000_000_000,
        }
    }

    fn slot() -> Slot {
        Slot {
            sequence: 2,
            durable: Offset::new(3),
            durable_position: 12448,
            log_start: Offset::new(1),
            catching_up: true,
            clean_mark: Incarnation::new(9),
            generation: Generation::new(1),
            kind: SegmentKind::Rolled,
        }
    }

    fn reseal(page: &mut [u8; PAGE]) {
        seal_page(page, crc32fast::hash);
    }

    #[test]
    fn golden_bytes() {
        let golden = include_str!("golden/segment_header.txt");
        assert_golden("segment_header", &header().encode(), golden);
        assert_golden("slot", &slot().encode(&identity()), include_str!("golden/slot.txt"));
    }

    #[test]
    fn pages_survive_a_round_trip() {
        for kind in [SegmentKind::Rolled, SegmentKind::Cut, SegmentKind::Rewritten] {
            let header = SegmentHeader { kind, ro_compat: 0x80, ..header() };
            assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
            for catching_up in [false, true] {
                let slot = Slot { catching_up, kind, ..slot() };
                assert_eq!(Slot::decode(&slot.encode(&identity()), &identity()), Ok(slot));
            }
        }
        assert_eq!(header().identity(), identity());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        flip_every_bit(&header().encode(), |page, bit| {
            assert!(SegmentHeader::decode(page).is_err(), "bit {bit}");
        });
        flip_every_bit(&slot().encode(&identity()), |page, bit| {
            assert!(Slot::decode(page, &identity()).is_err(), "bit {bit}");
        });
    }

    #[test]
    fn every_torn_sector_is_refused() {
        let (old, new) = (Slot { sequence: 1, durable: Offset::ZERO, ..slot() }, slot());
        let (old, new) = (old.encode(&identity()), new.encode(&identity()));
        for mask in 1..255_u32 {
            let mut page = old;
            for sector in (0..8).filter(|sector| mask >> sector & 1 != 0) {
                let range = sector * 512..(sector + 1) * 512;
                page[range.clone()].copy_from_slice(&new[range]);
            }
            let whole = page == old || page == new;
            assert_eq!(Slot::decode(&page, &identity()).is_ok(), whole, "sectors {mask:08b}");
        }
    }

    #[test]
    fn a_slot_of_another_partition_is_refused() {
        let other = Identity::new(TopicId::new(7), 0x1122_3344, PartitionId::new(4));
        assert_eq!(Slot::decode(&slot().encode(&identity()), &other), Err(SegmentError::Crc));
    }

    #[test]
    fn unknown_features_are_told_apart_from_damage() {
        let page = SegmentHeader { incompat: 0x8001, ..header() }.encode();
        let error = SegmentError::Incompatible { bits: 0x8001 };
        assert_eq!(SegmentHeader::decode(&page), Err(error));
        let mut page = header().encode();
        page[8] = 2;
        reseal(&mut page);
        assert_eq!(SegmentHeader::decode(&page), Err(SegmentError::Version { found: 2 }));
    }

    #[test]
    fn sealed_nonsense_is_refused_by_name() {
        let refused = |at: usize, byte: u8| {
            let mut page = header().encode();
            page[at] = byte;
            reseal(&mut page);
            SegmentHeader::decode(&page).unwrap_err()
        };
        assert_eq!(refused(36, 0), SegmentError::Field("kind"));
        assert_eq!(refused(36, 4), SegmentError::Field("kind"));
        assert_eq!(refused(47, 0xFF), SegmentError::Field("base_offset"));
        assert_eq!(refused(63, 0xFF), SegmentError::Field("covered_end"));
        assert_eq!(refused(57, 0), SegmentError::Field("covered_end"));
        assert_eq!(refused(64, 1), SegmentError::Field("first_position"));
        assert_eq!(refused(65, 0), SegmentError::Field("first_position"));
        assert_eq!(refused(38, 1), SegmentError::Field("zero"));
        assert_eq!(refused(55, 0x80), SegmentError::Field("generation"));
    }

    #[test]
    fn a_slot_with_a_counter_that_could_not_be_raised_is_refused() {
        for (at, field) in [(23, "sequence"), (55, "clean_mark"), (63, "generation")] {
            let mut page = slot().encode(&identity());
            page[at] = 0x80;
            seal_page(&mut page, |content| identity().crc(content));
            assert_eq!(Slot::decode(&page, &identity()), Err(SegmentError::Field(field)));
        }
    }

    #[test]
    fn an_unwritten_slot_is_empty() {
        assert_eq!(Slot::decode(&[0; PAGE], &identity()), Err(SegmentError::Empty));
        assert_eq!(Slot::decode(&[], &identity()), Err(SegmentError::Short));
    }
}
