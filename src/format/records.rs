//! The records of a payload, read back.
//!
//! Not here: how a record is laid out, and writing it (`record`); the checksum that finds damage
//! first (`batch`).
//!
//! Most records have nothing but a value. They are read with a few loads; the others go through
//! everything that a record may have.

use super::bytes::{align8, i64_at, u16_at, u32_at, u64_at, widen};
use super::header::{HEADERS_BYTES_MAX, Headers};
use super::record::{
    DEDUP_IS_KEY, DEDUP_IS_VALUE, DEDUP_KEY_BYTES_MAX, DEDUP_STORED, HAS_KEY, KEY_BYTES_MAX,
    KNOWN_FLAGS, RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, RecordError, TOMBSTONE,
};

/// How many records of one size are looked at between two branches.
const LOOK_AT: usize = 16;

/// A record in a payload, its bytes borrowed from there.
#[derive(Clone, Debug)]
pub(crate) struct RecordRef<'a> {
    pub(crate) offset_delta: u32,
    pub(crate) timestamp_delta: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    pub(crate) dedup_key: Option<&'a [u8]>,
}

/// The records of an uncompressed payload, in offset order.
#[derive(Clone, Debug)]
pub(crate) struct RecordIter<'a> {
    rest: &'a [u8],
    left: u32,
    /// The smallest offset delta that the next record may have.
    lowest: u64,
    /// The largest that any may have.
    last: u32,
}

impl<'a> RecordIter<'a> {
    /// Over `count` records, which must fill `payload`.
    #[inline]
    pub(crate) fn new(payload: &'a [u8], count: u32) -> Self {
        Self::bounded(payload, count, u32::MAX)
    }

    /// As [`RecordIter::new`], with the batch's last offset delta as a limit.
    #[inline]
    pub(crate) fn bounded(payload: &'a [u8], count: u32, last_offset_delta: u32) -> Self {
        Self { rest: payload, left: count, lowest: 0, last: last_offset_delta }
    }

    /// The payload from the next record on.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all of them can be read, and fill the payload: what iterating would find out, for
    /// who does not want the records.
    pub(crate) fn check(mut self) -> Result<(), RecordError> {
        if self.are_even() {
            return Ok(());
        }
        loop {
            self.check_plain();
            if self.left == 0 {
                break;
            }
            // Not a plain one, or not a good one.
            self.left -= 1;
            self.read()?;
        }
        if self.rest.is_empty() { Ok(()) } else { Err(RecordError::Trailing) }
    }

    /// Whether all have nothing but a value, are of one size, and follow one another without a gap
    /// in their offsets. Then they lie at multiples of that size: none has to be read to find the
    /// next one, and the processor looks at several at a time.
    fn are_even(&self) -> bool {
        let Some(first) = self.rest.first_chunk::<RECORD_PREFIX_BYTES>() else { return false };
        let value_bytes = widen(u32_at::<16, _>(first));
        if value_bytes > RECORD_BYTES_MAX || !has_a_value_only(first) {
            return false;
        }
        let even_bytes = RECORD_PREFIX_BYTES + align8(value_bytes);
        let deltas_fit = self.lowest == 0 && self.left.wrapping_sub(1) <= self.last;
        if even_bytes.checked_mul(widen(self.left)) != Some(self.rest.len()) || !deltas_fit {
            return false;
        }
        let lengths = u64_at::<16, _>(first);
        let mut delta = 0;
        self.rest.chunks(even_bytes * LOOK_AT).all(|some| {
            let mut differs = 0;
            for record in some.chunks_exact(even_bytes) {
                let Some(prefix) = record.first_chunk::<RECORD_PREFIX_BYTES>() else {
                    return false;
                };
                // No flags, and the offset delta; the lengths of value and key; those of the rest.
                differs |= u64_at::<0, _>(prefix) ^ (delta << 32);
                differs |= u64_at::<16, _>(prefix) ^ lengths;
                differs |= u64_at::<24, _>(prefix);
                delta += 1;
            }
            differs == 0
        })
    }

    /// Goes past the plain records that follow, as far as they can be read. Every record that is
    /// read for the first time comes through here: its state is in registers.
    fn check_plain(&mut self) {
        let Self { mut rest, mut left, mut lowest, last } = *self;
        while left > 0
            && let Some(plain) = Plain::first_of(rest)
            && let delta = u64::from(plain.offset_delta)
            && delta >= lowest
            && plain.offset_delta <= last
        {
            lowest = delta + 1;
            rest = plain.rest;
            left -= 1;
        }
        *self = Self { rest, left, lowest, last };
    }

    /// The record that `bytes` begins with, whatever follows it: for one whose place is known.
    #[inline]
    pub(crate) fn first_of(bytes: &'a [u8]) -> Option<RecordRef<'a>> {
        Self::new(bytes, u32::MAX).read().ok()
    }

    /// The next one of records that were checked before. One that cannot be read all the same ends
    /// them.
    // Else the whole record is built in memory, for who looks at its value alone.
    #[expect(clippy::inline_always, reason = "measured: iterating takes twice as long without")]
    #[inline(always)]
    pub(crate) fn next_checked(&mut self) -> Option<RecordRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        if let Some(plain) = Plain::first_of(self.rest) {
            self.rest = plain.rest;
            return Some(plain.record());
        }
        let record = self.read_parts();
        if record.is_err() {
            self.left = 0;
        }
        record.ok()
    }

    #[inline]
    fn read(&mut self) -> Result<RecordRef<'a>, RecordError> {
        let record = if let Some(plain) = Plain::first_of(self.rest) {
            self.rest = plain.rest;
            plain.record()
        } else {
            self.read_parts()?
        };
        let offset_delta = u64::from(record.offset_delta);
        if offset_delta < self.lowest || record.offset_delta > self.last {
            return Err(RecordError::OffsetDelta);
        }
        self.lowest = offset_delta + 1;
        Ok(record)
    }

    /// A record that is not a plain one.
    fn read_parts(&mut self) -> Result<RecordRef<'a>, RecordError> {
        let (prefix, body) =
            self.rest.split_first_chunk::<RECORD_PREFIX_BYTES>().ok_or(RecordError::Short)?;
        let flags = u32_at::<0, _>(prefix);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(RecordError::UnknownFlags { bits: flags & !KNOWN_FLAGS });
        }
        let value_bytes = widen(u32_at::<16, _>(prefix));
        let key_bytes = widen(u32_at::<20, _>(prefix));
        let headers_bytes = widen(u32_at::<24, _>(prefix));
        let dedup_bytes = usize::from(u16_at::<28, _>(prefix));
        let header_count = u16_at::<30, _>(prefix);
        let has = |flag: u32| flags & flag != 0;
        let dedup_flags = flags & (DEDUP_STORED | DEDUP_IS_VALUE | DEDUP_IS_KEY);
        let contradiction = (has(TOMBSTONE) && value_bytes != 0)
            || (!has(HAS_KEY) && key_bytes != 0)
            || (!has(DEDUP_STORED) && dedup_bytes != 0)
            || (has(DEDUP_IS_VALUE) && has(TOMBSTONE))
            || (has(DEDUP_IS_KEY) && !has(HAS_KEY))
            || dedup_flags.count_ones() > 1;
        let beyond_limit = value_bytes > RECORD_BYTES_MAX
            || key_bytes > KEY_BYTES_MAX
            || headers_bytes > HEADERS_BYTES_MAX
            || dedup_bytes > DEDUP_KEY_BYTES_MAX
            // Each is below its limit of at most 64 MiB here, so that the sum cannot wrap.
            || key_bytes + value_bytes + headers_bytes + dedup_bytes > RECORD_BYTES_MAX;
        if contradiction || beyond_limit {
            return Err(RecordError::Length);
        }

        let (key, rest) = body.split_at_checked(key_bytes).ok_or(RecordError::Short)?;
        let rest = skip_padding(rest, key_bytes)?;
        let (value, rest) = rest.split_at_checked(value_bytes).ok_or(RecordError::Short)?;
        let (headers, rest) = rest.split_at_checked(headers_bytes).ok_or(RecordError::Short)?;
        let (dedup, rest) = rest.split_at_checked(dedup_bytes).ok_or(RecordError::Short)?;
        let rest = skip_padding(rest, value_bytes + headers_bytes + dedup_bytes)?;
        let headers = Headers::stored(headers, header_count)?;

        self.rest = rest;
        let dedup_key = match dedup_flags {
            DEDUP_STORED => Some(dedup),
            DEDUP_IS_VALUE => Some(value),
            DEDUP_IS_KEY => Some(key),
            _ => None,
        };
        Ok(RecordRef {
            offset_delta: u32_at::<4, _>(prefix),
            timestamp_delta: i64_at::<8, _>(prefix),
            key: has(HAS_KEY).then_some(key),
            value: (!has(TOMBSTONE)).then_some(value),
            headers,
            dedup_key,
        })
    }
}

/// A record that has nothing but a value, as most have: read with a few loads.
#[derive(Clone, Copy)]
struct Plain<'a> {
    offset_delta: u32,
    timestamp_delta: i64,
    value: &'a [u8],
    /// What follows it.
    rest: &'a [u8],
}

impl<'a> Plain<'a> {
    /// What `bytes` begin with; `None` if it is another one, or bad.
    #[inline]
    fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let (prefix, body) = bytes.split_first_chunk::<RECORD_PREFIX_BYTES>()?;
        let value_bytes = widen(u32_at::<16, _>(prefix));
        if u32_at::<0, _>(prefix) != 0
            || !has_a_value_only(prefix)
            || value_bytes > RECORD_BYTES_MAX
        {
            return None;
        }
        let (padded, rest) = body.split_at_checked(align8(value_bytes))?;
        Some(Self {
            offset_delta: u32_at::<4, _>(prefix),
            timestamp_delta: i64_at::<8, _>(prefix),
            value: padded.get(..value_bytes)?,
            rest,
        })
    }

    /// The record in full.
    #[inline]
    fn record(&self) -> RecordRef<'a> {
        RecordRef {
            offset_delta: self.offset_delta,
            timestamp_delta: self.timestamp_delta,
            key: None,
            value: Some(self.value),
            headers: Headers::none(),
            dedup_key: None,
        }
    }
}

/// Whether a prefix has no length but the value's.
#[inline]
fn has_a_value_only(prefix: &[u8; RECORD_PREFIX_BYTES]) -> bool {
    // One load for two of them.
    u32_at::<20, _>(prefix) == 0 && i64_at::<24, _>(prefix) == 0
}

#[inline]
fn skip_padding(bytes: &[u8], read: usize) -> Result<&[u8], RecordError> {
    bytes.get(align8(read) - read..).ok_or(RecordError::Short)
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.rest.is_empty() {
                return None;
            }
            self.rest = &[];
            return Some(Err(RecordError::Trailing));
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
            self.rest = &[];
        }
        Some(record)
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}
