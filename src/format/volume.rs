//! The file `volume`: which volume this is, of which cluster, and how often it was opened.
//!
//! Not here: when it is written and synced (`broker`).
//!
//! ```text
//! volume := page page          two copies, overwritten in turn; the higher sequence counts
//! ```
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 8 | magic | `PLIMVOLU` | crc |
//! | 8 | 4 | version | 1; another one is refused | crc |
//! | 12 | 4 | incompat | features without which the volume must not be opened | crc |
//! | 16 | 4 | `ro_compat` | features without which it must not be written | crc |
//! | 20 | 4 | flags | 1 closed cleanly; others are refused | crc |
//! | 24 | 8 | sequence | raised with each write | crc |
//! | 32 | 8 | `volume_id` | | crc |
//! | 40 | 8 | `cluster_id` | | crc |
//! | 48 | 8 | incarnation | raised at each open | crc |
//! | 56 | 8 | `clean_since` | since this incarnation every close was clean | crc |
//! | 64 | 4028 | zero | room | crc |
//! | 4092 | 4 | crc | of the page, not seeded | |
//!
//! Example   sequence 3, volume 0x0A, cluster 0x0B, incarnation 2, clean since 1 starts
//!           `504c494d564f4c55 01000000 00000000 00000000 00000000 0300000000000000`.
//! Damage    one bad copy: the other counts, an earlier state at worst. Both bad: the volume is
//!           not opened, nothing is made anew in its place.

use super::bytes::{
    PAGE, PageError, counter_at, open_page, put_array, put_u32, put_u64, seal_page, u32_at, u64_at,
};
use crate::id::Incarnation;

const MAGIC: [u8; 8] = *b"PLIMVOLU";
const VERSION: u32 = 1;
const KNOWN_INCOMPAT: u32 = 0;
const CLOSED_CLEANLY: u32 = 1;

/// Why a copy, or both, were refused.
pub(crate) type VolumeError = PageError;

/// One copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VolumeRecord {
    pub(crate) sequence: u64,
    pub(crate) volume_id: u64,
    pub(crate) cluster_id: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) clean_since: Incarnation,
    pub(crate) closed_cleanly: bool,
    pub(crate) incompat: u32,
    pub(crate) ro_compat: u32,
}

impl VolumeRecord {
    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        put_array::<0, 8, _>(&mut page, MAGIC);
        put_u32::<8, _>(&mut page, VERSION);
        put_u32::<12, _>(&mut page, self.incompat);
        put_u32::<16, _>(&mut page, self.ro_compat);
        put_u32::<20, _>(&mut page, if self.closed_cleanly { CLOSED_CLEANLY } else { 0 });
        put_u64::<24, _>(&mut page, self.sequence);
        put_u64::<32, _>(&mut page, self.volume_id);
        put_u64::<40, _>(&mut page, self.cluster_id);
        put_u64::<48, _>(&mut page, self.incarnation.get());
        put_u64::<56, _>(&mut page, self.clean_since.get());
        seal_page(&mut page, crc32fast::hash);
        page
    }

    /// The copy at the start of `bytes`.
    #[cfg(test)]
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, VolumeError> {
        Self::read(bytes)?.known()
    }

    /// The newer good copy of the two in `bytes`, and which it is (0 or 1). The file may be
    /// shorter than two pages: a missing copy is a bad one.
    pub(crate) fn newest(bytes: &[u8]) -> Result<(Self, usize), VolumeError> {
        let first = Self::read(bytes);
        let second = Self::read(bytes.get(PAGE..).unwrap_or_default());
        let (record, copy) = match (first, second) {
            // A whole copy of a newer program: what the other one says may be long out of date.
            (Err(error @ PageError::Version { .. }), _)
            | (_, Err(error @ PageError::Version { .. }))
            | (Err(error), Err(_)) => return Err(error),
            (Ok(first), Ok(second)) if second.sequence > first.sequence => (second, 1),
            (Ok(first), _) => (first, 0),
            (Err(_), Ok(second)) => (second, 1),
        };
        Ok((record.known()?, copy))
    }

    /// Refuses a record of features that this program does not know.
    fn known(self) -> Result<Self, VolumeError> {
        let bits = self.incompat & !KNOWN_INCOMPAT;
        if bits == 0 { Ok(self) } else { Err(PageError::Incompatible { bits }) }
    }

    fn read(bytes: &[u8]) -> Result<Self, VolumeError> {
        let page = open_page(bytes, MAGIC, crc32fast::hash)?;
        let version = u32_at::<8, _>(page);
        if version != VERSION {
            return Err(PageError::Version { found: version });
        }
        let flags = u32_at::<20, _>(page);
        let incompat = u32_at::<12, _>(page);
        if flags & !CLOSED_CLEANLY != 0 && incompat & !KNOWN_INCOMPAT == 0 {
            return Err(PageError::Field("flags"));
        }
        let sequence = counter_at::<24, _>(page).ok_or(PageError::Field("sequence"))?;
        let incarnation = counter_at::<48, _>(page).ok_or(PageError::Field("incarnation"))?;
        let incarnation = Incarnation::new(incarnation);
        let clean_since = Incarnation::new(u64_at::<56, _>(page));
        if clean_since > incarnation {
            return Err(PageError::Field("clean_since"));
        }
        Ok(Self {
            sequence,
            volume_id: u64_at::<32, _>(page),
            cluster_id: u64_at::<40, _>(page),
            incarnation,
            clean_since,
            closed_cleanly: flags & CLOSED_CLEANLY != 0,
            incompat,
            ro_compat: u32_at::<16, _>(page),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_golden, flip_every_bit};
    use super::*;

    fn record(sequence: u64) -> VolumeRecord {
        VolumeRecord {
            sequence,
            volume_id: 0x0A,
            cluster_id: 0x0B,
            incarnation: Incarnation::new(2),
            clean_since: Incarnation::new(1),
            closed_cleanly: true,
            incompat: 0,
            ro_compat: 0,
        }
    }

    fn file(first: &VolumeRecord, second: &VolumeRecord) -> Vec<u8> {
        [first.encode(), second.encode()].concat()
    }

    #[test]
    fn golden_bytes() {
        assert_golden("volume", &record(3).encode(), include_str!("golden/volume.txt"));
    }

    #[test]
    fn records_survive_a_round_trip() {
        let open = VolumeRecord { closed_cleanly: false, ro_compat: 0x40, ..record(1) };
        assert_eq!(VolumeRecord::decode(&record(1).encode()), Ok(record(1)));
        assert_eq!(VolumeRecord::decode(&open.encode()), Ok(open));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        flip_every_bit(&record(3).encode(), |page, bit| {
            assert!(VolumeRecord::decode(page).is_err(), "bit {bit}");
        });
    }

    #[test]
    fn the_higher_sequence_counts_wherever_it_lies() {
        let newest = |file: &[u8]| VolumeRecord::newest(file).map(|(r, copy)| (r.sequence, copy));
        assert_eq!(newest(&file(&record(3), &record(4))), Ok((4, 1)));
        assert_eq!(newest(&file(&record(5), &record(4))), Ok((5, 0)));
        assert_eq!(newest(&file(&record(4), &record(4))), Ok((4, 0)));
    }

    #[test]
    fn one_bad_copy_leaves_the_other() {
        let newest = |file: &[u8]| VolumeRecord::newest(file).map(|(r, copy)| (r.sequence, copy));
        let good = file(&record(3), &record(4));
        let mut bad = good.clone();
        bad[PAGE + 30] ^= 1;
        assert_eq!(newest(&bad), Ok((3, 0)));
        bad[30] ^= 1;
        assert_eq!(newest(&bad), Err(VolumeError::Crc));
        bad[PAGE + 30] ^= 1;
        assert_eq!(newest(&bad), Ok((4, 1)));
        assert_eq!(newest(&good[..PAGE]), Ok((3, 0)));
        assert_eq!(newest(&good[..PAGE + 100]), Ok((3, 0)));
        assert_eq!(newest(&[]), Err(VolumeError::Short));
        assert_eq!(newest(&[0; 2 * PAGE]), Err(VolumeError::Empty));
    }

    #[test]
    fn a_newer_copy_of_a_newer_program_is_not_passed_over() {
        let newer = VolumeRecord { incompat: 4, ..record(4) };
        let error = Err(VolumeError::Incompatible { bits: 4 });
        assert_eq!(VolumeRecord::newest(&file(&record(3), &newer)), error);
        assert_eq!(VolumeRecord::newest(&file(&newer, &record(5))), Ok((record(5), 1)));
        let mut version = file(&record(3), &record(4));
        version[PAGE + 8] = 2;
        let page = version[PAGE..].first_chunk_mut().unwrap();
        seal_page(page, crc32fast::hash);
        let error = Err(VolumeError::Version { found: 2 });
        assert_eq!(VolumeRecord::newest(&version), error);
    }

    #[test]
    fn sealed_nonsense_is_refused() {
        let mut page = record(3).encode();
        page[20] = 2;
        seal_page(&mut page, crc32fast::hash);
        assert_eq!(VolumeRecord::decode(&page), Err(VolumeError::Field("flags")));
        let page = VolumeRecord { clean_since: Incarnation::new(3), ..record(3) }.encode();
        assert_eq!(VolumeRecord::decode(&page), Err(VolumeError::Field("clean_since")));
        let page = record(1 << 63).encode();
        assert_eq!(VolumeRecord::decode(&page), Err(VolumeError::Field("sequence")));
        let page = VolumeRecord { incarnation: Incarnation::new(u64::MAX), ..record(3) }.encode();
        assert_eq!(VolumeRecord::decode(&page), Err(VolumeError::Field("incarnation")));
    }
}
