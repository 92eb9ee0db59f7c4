//! Fields at fixed places: little-endian numbers in arrays, and the page they are sealed in.
//!
//! Not here: what any field means.
//!
//! A structure is first cut out as an array (`first_chunk`, one bounds check); reading a field
//! at a place known to the compiler then cannot fail, and a field that does not fit is a
//! compile error. Numbers that came from a file are widened here and never narrowed.
//!
//! ```text
//! page := byte[4092] crc        any header, slot, footer or volume record; 4096 bytes
//! ```
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 4092 | content | as its own file says; the rest zero | crc |
//! | 4092 | 4 | crc | CRC-32 of the content, seeded with the identity where there is one | |
//!
//! Damage    a flipped bit anywhere in a page, also in its unused part, fails its CRC.

use crate::id::{LeaderEpoch, Offset};

/// The size of every structure that is rewritten in place or read alone: one block of the disk.
pub(crate) const PAGE: usize = 4096;
/// Where a page's checksum lies.
const PAGE_CRC: usize = PAGE - 4;

// Lengths on disk are `u32` and are widened to `usize` without a check.
const _: () = assert!(usize::BITS >= 32);

/// A length from a file, widened.
#[inline]
pub(super) const fn widen(bytes: u32) -> usize {
    bytes as usize
}

/// The next multiple of 8. No length here comes near the end of `usize`.
#[inline]
pub(super) const fn align8(bytes: usize) -> usize {
    (bytes + 7) & !7
}

/// A length that was checked against its limit before.
#[inline]
pub(super) fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a length that was checked against its limit")
}

/// `LEN` bytes at `AT`.
#[inline]
pub(super) fn array_at<const AT: usize, const LEN: usize, const N: usize>(
    bytes: &[u8; N],
) -> [u8; LEN] {
    const { assert!(AT + LEN <= N, "a field lies beyond its structure") };
    let mut array = [0; LEN];
    array.copy_from_slice(&bytes[AT..AT + LEN]);
    array
}

/// Puts `LEN` bytes at `AT`.
#[inline]
pub(super) fn put_array<const AT: usize, const LEN: usize, const N: usize>(
    out: &mut [u8; N],
    array: [u8; LEN],
) {
    const { assert!(AT + LEN <= N, "a field lies beyond its structure") };
    out[AT..AT + LEN].copy_from_slice(&array);
}

macro_rules! number {
    ($type:ty, $at:ident, $put:ident) => {
        #[inline]
        pub(super) fn $at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> $type {
            <$type>::from_le_bytes(array_at::<AT, { size_of::<$type>() }, N>(bytes))
        }

        #[inline]
        pub(super) fn $put<const AT: usize, const N: usize>(out: &mut [u8; N], value: $type) {
            put_array::<AT, { size_of::<$type>() }, N>(out, value.to_le_bytes());
        }
    };
}

number!(u16, u16_at, put_u16);
number!(u32, u32_at, put_u32);
number!(u64, u64_at, put_u64);
number!(i64, i64_at, put_i64);

/// An offset at `AT`; `None` above [`Offset::MAX`].
#[inline]
pub(super) fn offset_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> Option<Offset> {
    Offset::checked(u64_at::<AT, N>(bytes))
}

/// Counters (generations, incarnations, slots' sequences) stay below what can be counted to, so
/// that the next one always is a number.
pub(super) const COUNTER_MAX: u64 = 1 << 62;
/// The largest leader epoch there can be. Likewise.
pub(super) const EPOCH_MAX: u32 = i32::MAX.cast_unsigned();

/// A counter at `AT`; `None` above [`COUNTER_MAX`].
#[inline]
pub(super) fn counter_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> Option<u64> {
    Some(u64_at::<AT, N>(bytes)).filter(|&count| count <= COUNTER_MAX)
}

/// A leader epoch from untrusted bytes; `None` above [`EPOCH_MAX`].
#[inline]
pub(super) fn checked_epoch(epoch: u32) -> Option<LeaderEpoch> {
    (epoch <= EPOCH_MAX).then(|| LeaderEpoch::new(epoch))
}

/// A leader epoch at `AT`.
#[inline]
pub(super) fn epoch_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> Option<LeaderEpoch> {
    checked_epoch(u32_at::<AT, N>(bytes))
}

/// Why a page was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageError {
    /// Fewer than 4096 bytes.
    Short,
    /// Nothing but zeros: never written.
    Empty,
    /// It starts with something else.
    Magic,
    /// The checksum does not fit: damaged, torn, or of another partition.
    Crc,
    /// A format version that this program does not know.
    Version {
        /// The version it carries.
        found: u32,
    },
    /// Feature bits without which the data must not be touched, unknown to this program.
    Incompatible {
        /// The unknown bits.
        bits: u32,
    },
    /// The checksum fits but a field has a value that is never written.
    Field(&'static str),
}

/// Puts the checksum at the end of a page.
pub(super) fn seal_page(page: &mut [u8; PAGE], crc: impl FnOnce(&[u8]) -> u32) {
    let sum = crc(&page[..PAGE_CRC]);
    put_u32::<PAGE_CRC, PAGE>(page, sum);
}

/// The page at the start of `bytes`, if it starts with `magic` and its checksum fits.
pub(super) fn open_page(
    bytes: &[u8],
    magic: [u8; 8],
    crc: impl FnOnce(&[u8]) -> u32,
) -> Result<&[u8; PAGE], PageError> {
    let page = bytes.first_chunk::<PAGE>().ok_or(PageError::Short)?;
    if array_at::<0, 8, PAGE>(page) != magic {
        let empty = page.iter().all(|&byte| byte == 0);
        return Err(if empty { PageError::Empty } else { PageError::Magic });
    }
    if crc(&page[..PAGE_CRC]) != u32_at::<PAGE_CRC, PAGE>(page) {
        return Err(PageError::Crc);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian_at_their_place() {
        let mut bytes = [0; 16];
        put_u16::<1, _>(&mut bytes, 0x0201);
        put_u32::<3, _>(&mut bytes, 0x0605_0403);
        put_u64::<7, _>(&mut bytes, 0x0E0D_0C0B_0A09_0807);
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0]);
        assert_eq!(u16_at::<1, _>(&bytes), 0x0201);
        assert_eq!(u32_at::<3, _>(&bytes), 0x0605_0403);
        assert_eq!(u64_at::<7, _>(&bytes), 0x0E0D_0C0B_0A09_0807);
        put_i64::<8, _>(&mut bytes, -2);
        assert_eq!(i64_at::<8, _>(&bytes), -2);
        assert_eq!(offset_at::<8, _>(&bytes), None);
    }

    #[test]
    fn alignment_rounds_up_to_eight() {
        let aligned: Vec<usize> = (0..10).map(align8).collect();
        assert_eq!(aligned, [0, 8, 8, 8, 8, 8, 8, 8, 8, 16]);
    }

    #[test]
    fn a_page_tells_why_it_is_refused() {
        let mut page = [0; PAGE];
        let open = |bytes: &[u8]| open_page(bytes, *b"MAGICAL!", crc32fast::hash).map(|_| ());
        assert_eq!(open(&page), Err(PageError::Empty));
        assert_eq!(open(&page[1..]), Err(PageError::Short));
        page[9] = 1;
        assert_eq!(open(&page), Err(PageError::Magic));
        put_array::<0, 8, _>(&mut page, *b"MAGICAL!");
        assert_eq!(open(&page), Err(PageError::Crc));
        seal_page(&mut page, crc32fast::hash);
        assert_eq!(open(&page), Ok(()));
    }
}
