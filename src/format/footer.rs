//! The footer: the last page of a sealed segment file.
//!
//! Not here: the sections it points to (`section`), whether it counts (`log`: a closing one does
//! so only with the clean mark in the slots).
//!
//! ```text
//! footer := page          at the very end of the file, after the sections
//! ```
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 8 | magic | `PLIMFOOT` | crc |
//! | 8 | 4 | version | 1 | crc |
//! | 12 | 4 | flags | 1 closing: the log goes on in this file; others are refused | crc |
//! | 16 | 8 | `base_offset` | as in the header | crc |
//! | 24 | 8 | `end_offset` | after the last batch | crc |
//! | 32 | 8 | `covered_end` | offset up to which this file answers, survivors or not | crc |
//! | 40 | 8 | `record_count` | | crc |
//! | 48 | 8 | `batch_count` | | crc |
//! | 56 | 8 | `max_timestamp` | of its records, ms | crc |
//! | 64 | 8 | `max_append_time` | of its batches, ms | crc |
//! | 72 | 8 | `data_end` | position after the last batch | crc |
//! | 80 | 8 | generation | as in the header | crc |
//! | 88 | 2 | kind | as in the header | crc |
//! | 90 | 2 | `section_count` | at most 8 | crc |
//! | 92 | 4 | `last_epoch` | of its last batch | crc |
//! | 96 | 8 × 24 | sections | kind u16, zero u16, blocks u32, position u64, entries u64 | crc |
//! | 288 | 3804 | zero | room | crc |
//! | 4092 | 4 | crc | of the page, seeded with the identity | |
//!
//! Example   a footer of offsets 0 to 3, one section at 16384 of 1 block and 1 entry, has at 96:
//!           `0100 0000 01000000 0040000000000000 0100000000000000`.
//! Damage    without a good footer the file is scanned like one that was never sealed. A section
//!           of an unknown kind is skipped.

use super::bytes::{
    PAGE, PageError, counter_at, epoch_at, i64_at, offset_at, open_page, put_array, put_i64,
    put_u16, put_u32, put_u64, seal_page, u16_at, u32_at, u64_at,
};
use super::identity::Identity;
use super::segment::{DATA_START, SegmentKind};
use crate::id::{Generation, LeaderEpoch, Offset};

/// How many sections a footer has room for.
pub(crate) const FOOTER_SECTIONS_MAX: usize = 8;

const MAGIC: [u8; 8] = *b"PLIMFOOT";
const VERSION: u32 = 1;
const CLOSING: u32 = 1;
const SECTIONS_AT: usize = 96;
const SECTION_REF_BYTES: usize = 24;

const _: () = assert!(SECTIONS_AT + FOOTER_SECTIONS_MAX * SECTION_REF_BYTES == 288);

/// Why a footer was refused.
pub(crate) type FooterError = PageError;

/// Where a section lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SectionRef {
    /// A [`SectionKind`](super::SectionKind)'s number, or one of a newer program.
    pub(crate) kind: u16,
    pub(crate) position: u64,
    pub(crate) blocks: u32,
    pub(crate) entries: u64,
}

/// What a sealed file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Footer {
    pub(crate) closing: bool,
    pub(crate) base_offset: Offset,
    pub(crate) end_offset: Offset,
    pub(crate) covered_end: Offset,
    pub(crate) record_count: u64,
    pub(crate) batch_count: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) max_append_time: i64,
    pub(crate) data_end: u64,
    pub(crate) generation: Generation,
    pub(crate) kind: SegmentKind,
    pub(crate) last_epoch: LeaderEpoch,
    pub(crate) sections: Vec<SectionRef>,
}

impl Footer {
    /// # Panics
    /// With more than [`FOOTER_SECTIONS_MAX`] sections.
    pub(crate) fn encode(&self, identity: &Identity) -> [u8; PAGE] {
        assert!(self.sections.len() <= FOOTER_SECTIONS_MAX, "too many sections");
        let mut page = [0; PAGE];
        put_array::<0, 8, _>(&mut page, MAGIC);
        put_u32::<8, _>(&mut page, VERSION);
        put_u32::<12, _>(&mut page, if self.closing { CLOSING } else { 0 });
        put_u64::<16, _>(&mut page, self.base_offset.get());
        put_u64::<24, _>(&mut page, self.end_offset.get());
        put_u64::<32, _>(&mut page, self.covered_end.get());
        put_u64::<40, _>(&mut page, self.record_count);
        put_u64::<48, _>(&mut page, self.batch_count);
        put_i64::<56, _>(&mut page, self.max_timestamp);
        put_i64::<64, _>(&mut page, self.max_append_time);
        put_u64::<72, _>(&mut page, self.data_end);
        put_u64::<80, _>(&mut page, self.generation.get());
        put_u16::<88, _>(&mut page, self.kind.code());
        put_u16::<90, _>(&mut page, u16::try_from(self.sections.len()).expect("at most 8"));
        put_u32::<92, _>(&mut page, self.last_epoch.get());
        let (places, _) = page[SECTIONS_AT..].as_chunks_mut::<SECTION_REF_BYTES>();
        for (section, place) in self.sections.iter().zip(places) {
            put_u16::<0, _>(place, section.kind);
            put_u32::<4, _>(place, section.blocks);
            put_u64::<8, _>(place, section.position);
            put_u64::<16, _>(place, section.entries);
        }
        seal_page(&mut page, |content| identity.crc(content));
        page
    }

    pub(crate) fn decode(bytes: &[u8], identity: &Identity) -> Result<Self, FooterError> {
        let page = open_page(bytes, MAGIC, |content| identity.crc(content))?;
        let version = u32_at::<8, _>(page);
        if version != VERSION {
            return Err(PageError::Version { found: version });
        }
        let flags = u32_at::<12, _>(page);
        if flags & !CLOSING != 0 {
            return Err(PageError::Incompatible { bits: flags & !CLOSING });
        }
        let base_offset = offset_at::<16, _>(page).ok_or(PageError::Field("base_offset"))?;
        let end_offset = offset_at::<24, _>(page).ok_or(PageError::Field("end_offset"))?;
        let covered_end = offset_at::<32, _>(page).ok_or(PageError::Field("covered_end"))?;
        if end_offset < base_offset {
            return Err(PageError::Field("end_offset"));
        }
        if covered_end < end_offset {
            return Err(PageError::Field("covered_end"));
        }
        let data_end = u64_at::<72, _>(page);
        if data_end < DATA_START || !data_end.is_multiple_of(8) {
            return Err(PageError::Field("data_end"));
        }
        let generation = counter_at::<80, _>(page).ok_or(PageError::Field("generation"))?;
        let last_epoch = epoch_at::<92, _>(page).ok_or(PageError::Field("last_epoch"))?;
        let section_count = usize::from(u16_at::<90, _>(page));
        if section_count > FOOTER_SECTIONS_MAX {
            return Err(PageError::Field("section_count"));
        }
        let (places, _) = page[SECTIONS_AT..].as_chunks::<SECTION_REF_BYTES>();
        let sections = places.iter().take(section_count).map(read_section).collect();
        Ok(Self {
            closing: flags & CLOSING != 0,
            base_offset,
            end_offset,
            covered_end,
            record_count: u64_at::<40, _>(page),
            batch_count: u64_at::<48, _>(page),
            max_timestamp: i64_at::<56, _>(page),
            max_append_time: i64_at::<64, _>(page),
            data_end,
            generation: Generation::new(generation),
            kind: SegmentKind::checked(u16_at::<88, _>(page)).ok_or(PageError::Field("kind"))?,
            last_epoch,
            sections,
        })
    }

    /// The section of this kind, if there is one.
    pub(crate) fn section(&self, kind: super::SectionKind) -> Option<&SectionRef> {
        self.sections.iter().find(|section| section.kind == kind.code())
    }
}

fn read_section(bytes: &[u8; SECTION_REF_BYTES]) -> SectionRef {
    SectionRef {
        kind: u16_at::<0, _>(bytes),
        position: u64_at::<8, _>(bytes),
        blocks: u32_at::<4, _>(bytes),
        entries: u64_at::<16, _>(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::SectionKind;
    use super::super::testing::{Random, assert_golden, flip_every_bit, identity};
    use super::*;

    fn footer() -> Footer {
        Footer {
            closing: true,
            base_offset: Offset::ZERO,
            end_offset: Offset::new(3),
            covered_end: Offset::new(4),
            record_count: 3,
            batch_count: 2,
            max_timestamp: 1_000,
            max_append_time: 1_001,
            data_end: 16384,
            generation: Generation::new(1),
            kind: SegmentKind::Rewritten,
            last_epoch: LeaderEpoch::new(5),
            sections: vec![SectionRef {
                kind: SectionKind::Offsets.code(),
                position: 16384,
                blocks: 1,
                entries: 1,
            }],
        }
    }

    #[test]
    fn golden_bytes() {
        let page = footer().encode(&identity());
        assert_golden("footer", &page, include_str!("golden/footer.txt"));
    }

    #[test]
    fn footers_survive_a_round_trip() {
        let section = footer().sections[0];
        for count in 0..=FOOTER_SECTIONS_MAX {
            let sections = (0..count)
                .map(|n| SectionRef { kind: 900 + u16::try_from(n).unwrap(), ..section })
                .collect();
            let footer = Footer { sections, closing: count % 2 == 0, ..footer() };
            assert_eq!(Footer::decode(&footer.encode(&identity()), &identity()), Ok(footer));
        }
        assert_eq!(footer().section(SectionKind::Offsets), Some(&section));
        assert_eq!(footer().section(SectionKind::Dedup), None);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        flip_every_bit(&footer().encode(&identity()), |page, bit| {
            assert!(Footer::decode(page, &identity()).is_err(), "bit {bit}");
        });
    }

    #[test]
    fn sealed_nonsense_is_refused_by_name() {
        let refused = |at: usize, byte: u8| {
            let mut page = footer().encode(&identity());
            page[at] = byte;
            seal_page(&mut page, |content| identity().crc(content));
            Footer::decode(&page, &identity()).unwrap_err()
        };
        assert_eq!(refused(8, 2), FooterError::Version { found: 2 });
        assert_eq!(refused(12, 3), FooterError::Incompatible { bits: 2 });
        assert_eq!(refused(16, 4), FooterError::Field("end_offset"));
        assert_eq!(refused(31, 0xFF), FooterError::Field("end_offset"));
        assert_eq!(refused(32, 2), FooterError::Field("covered_end"));
        assert_eq!(refused(72, 4), FooterError::Field("data_end"));
        assert_eq!(refused(73, 0), FooterError::Field("data_end"));
        assert_eq!(refused(87, 0x80), FooterError::Field("generation"));
        assert_eq!(refused(88, 9), FooterError::Field("kind"));
        assert_eq!(refused(95, 0x80), FooterError::Field("last_epoch"));
        assert_eq!(refused(90, 9), FooterError::Field("section_count"));
    }

    #[test]
    fn resealed_random_footers_never_panic() {
        let mut random = Random::new(5);
        for _ in 0..20_000 {
            let mut page = footer().encode(&identity());
            for _ in 0..=random.below(6) {
                page[8 + random.below(280)] = random.bytes(1)[0];
            }
            seal_page(&mut page, |content| identity().crc(content));
            if let Ok(footer) = Footer::decode(&page, &identity()) {
                assert_eq!(Footer::decode(&footer.encode(&identity()), &identity()), Ok(footer));
            }
        }
    }
}
