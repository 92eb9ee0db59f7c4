//! One record: what a user appends, and its bytes inside a batch's payload.
//!
//! Not here: offsets and times as absolute numbers, checksums, compression (`batch` has all
//! three); limits that a topic or producer sets below the ones here (`config`).
//!
//! ```text
//! payload := record*                                   header: see `header`
//! record  := prefix key pad8 value header* dedup pad8      a multiple of 8 bytes
//! ```
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 4 | flags | 1 tombstone, 2 has a key; dedup key: 4 stored, 8 is the value, 16 is the key |
//! | 4 | 4 | `offset_delta` | above the batch's base offset; rises strictly within a batch |
//! | 8 | 8 | `timestamp_delta` | to the batch's base timestamp, two's complement, wrapping |
//! | 16 | 4 | `value_bytes` | 0 for a tombstone |
//! | 20 | 4 | `key_bytes` | without its padding; at most 64 KiB; 0 without a key |
//! | 24 | 4 | `headers_bytes` | all headers with their lengths; at most 64 KiB |
//! | 28 | 2 | `dedup_bytes` | of a stored dedup key; at most 16 KiB |
//! | 30 | 2 | `header_count` | |
//! | 32 | | key | padded with zeros to 8, so that the value starts at a multiple of 8 |
//! | | | value | |
//! | | | headers | names are UTF-8 |
//! | | | dedup key | only if flag 4 is set |
//!
//! All of it, padding included, is covered by the batch's payload CRC. There are no varints: a
//! field is one load. No value and an empty value differ (flag 1), as do no key and an empty key
//! (flag 2). Padding is written as zeros and not looked at by readers.
//!
//! Example   key `k`, value `paid`, first in its batch: flags 2, 48 bytes:
//!           `02000000 00000000 0000000000000000 04000000 01000000 00000000 0000 0000`
//!           `6b00000000000000 7061696400000000`
//! Damage    the batch's CRC finds it first. A record that is malformed in spite of a good CRC
//!           (a bug, or a forgery) ends the iteration with an error; what came before it stands.

use std::borrow::Cow;
use std::fmt;

use super::bytes::{align8, i64_at, narrow, put_i64, put_u16, put_u32, u16_at, u32_at, widen};
use super::header::{HEADERS_BYTES_MAX, Header, Headers, headers_bytes, put_headers};
use crate::id::PartitionId;

/// The fixed part of a record.
pub(crate) const RECORD_PREFIX_BYTES: usize = 32;
/// Key, value, headers and dedup key of a record together.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 20;
/// A record's key.
pub(crate) const KEY_BYTES_MAX: usize = 64 << 10;
/// A dedup key of its own; one that is the record's key or value has only their limits.
pub(crate) const DEDUP_KEY_BYTES_MAX: usize = 16 << 10;
// Never renumber: these bits are on disk.
const TOMBSTONE: u32 = 1;
const HAS_KEY: u32 = 2;
const DEDUP_STORED: u32 = 4;
const DEDUP_IS_VALUE: u32 = 8;
const DEDUP_IS_KEY: u32 = 16;
const KNOWN_FLAGS: u32 = TOMBSTONE | HAS_KEY | DEDUP_STORED | DEDUP_IS_VALUE | DEDUP_IS_KEY;

const _: () = assert!(RECORD_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(KEY_BYTES_MAX <= RECORD_BYTES_MAX && HEADERS_BYTES_MAX <= RECORD_BYTES_MAX);
const _: () = assert!(DEDUP_KEY_BYTES_MAX <= u16::MAX as usize);

/// Where a record's dedup key is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dedup<'a> {
    None,
    Stored(&'a [u8]),
    Value,
    Key,
}

/// A record to append. It borrows everything, so a failed send costs the caller nothing.
///
/// # Example
/// ```
/// use plimsoll::Record;
///
/// let record = Record::new("paid").key("order-42").header("trace", "7f3a").dedup_key("p-1001");
/// assert_eq!(record.value_bytes(), Some(&b"paid"[..]));
/// assert_eq!(record.key_bytes(), Some(&b"order-42"[..]));
///
/// let gone = Record::tombstone("order-42");
/// assert!(gone.is_tombstone());
/// ```
#[derive(Clone)]
pub struct Record<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// Owned where the user adds them one by one, borrowed where they are of a [`RecordBuffer`].
    ///
    /// [`RecordBuffer`]: super::buffer::RecordBuffer
    pub(super) headers: Cow<'a, [Header<'a>]>,
    pub(super) dedup: Dedup<'a>,
    pub(super) timestamp: Option<i64>,
    pub(super) partition: Option<PartitionId>,
}

impl<'a> Record<'a> {
    /// A record with a value, which may be empty.
    #[must_use]
    #[inline]
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            key: None,
            value: Some(value.as_ref()),
            headers: Cow::Borrowed(&[]),
            dedup: Dedup::None,
            timestamp: None,
            partition: None,
        }
    }

    /// A record without a value: compaction removes the older records of this key, and in time
    /// the tombstone too.
    #[must_use]
    #[inline]
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            key: Some(key.as_ref()),
            value: None,
            headers: Cow::Borrowed(&[]),
            dedup: Dedup::None,
            timestamp: None,
            partition: None,
        }
    }

    /// Sets the key, at most 64 KiB: records of one key go to one partition, and compaction keeps
    /// the newest of them. An empty key is a key.
    #[must_use]
    #[inline]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Adds a header. All headers together have at most 64 KiB, of which each takes 8 bytes and
    /// its name and value.
    #[must_use]
    #[inline]
    pub fn header(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.to_mut().push(Header { name, value: value.as_ref() });
        self
    }

    /// Sets the application's own name for this record, at most 16 KiB. In a topic with a dedup
    /// window, a second append of it inside the window returns the first one's offset.
    #[must_use]
    #[inline]
    pub fn dedup_key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.dedup = Dedup::Stored(key.as_ref());
        self
    }

    /// Makes the value the dedup key too, without storing it twice. A tombstone has none: it is
    /// refused when sent.
    #[must_use]
    #[inline]
    pub fn dedup_by_value(mut self) -> Self {
        self.dedup = Dedup::Value;
        self
    }

    /// Makes the key the dedup key too, without storing it twice. A record without a key is
    /// refused when sent.
    #[must_use]
    #[inline]
    pub fn dedup_by_key(mut self) -> Self {
        self.dedup = Dedup::Key;
        self
    }

    /// Sets the record's time in milliseconds since the Unix epoch. Without it the record gets
    /// the time of its append.
    #[must_use]
    #[inline]
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.timestamp = Some(ms);
        self
    }

    /// Chooses the partition, whatever the partitioner says.
    #[must_use]
    #[inline]
    pub fn partition(mut self, partition: impl Into<PartitionId>) -> Self {
        self.partition = Some(partition.into());
        self
    }

    /// The value; `None` for a tombstone.
    #[must_use]
    #[inline]
    pub fn value_bytes(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// Whether this is a tombstone: a record without a value.
    #[must_use]
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// The key, if there is one.
    #[must_use]
    #[inline]
    pub fn key_bytes(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The headers, in the order in which they were added.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers::given(&self.headers)
    }

    /// The dedup key, also where it is the value or the key.
    #[must_use]
    #[inline]
    pub fn dedup_key_bytes(&self) -> Option<&'a [u8]> {
        match self.dedup {
            Dedup::None => None,
            Dedup::Stored(key) => Some(key),
            Dedup::Value => self.value,
            Dedup::Key => self.key,
        }
    }

    /// The time given to it, in milliseconds since the Unix epoch.
    #[must_use]
    #[inline]
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp
    }

    /// The partition given to it.
    #[must_use]
    #[inline]
    pub fn partition_id(&self) -> Option<PartitionId> {
        self.partition
    }

    /// What the user gave: key, value, headers and a dedup key of its own, in bytes.
    #[inline]
    pub(crate) fn user_bytes(&self) -> usize {
        let dedup_bytes = match self.dedup {
            Dedup::Stored(key) => key.len(),
            Dedup::None | Dedup::Value | Dedup::Key => 0,
        };
        let headers: usize = self.headers.iter().map(|h| h.name().len() + h.value().len()).sum();
        let key_bytes = self.key.map_or(0, <[u8]>::len);
        key_bytes + self.value.map_or(0, <[u8]>::len) + headers + dedup_bytes
    }

    /// The size of the record on disk, a multiple of 8, if it is within every limit.
    #[inline]
    pub(super) fn measure(&self) -> Result<usize, RecordError> {
        let value_bytes = self.value.map_or(0, <[u8]>::len);
        if value_bytes > RECORD_BYTES_MAX {
            return Err(RecordError::RecordTooLarge { bytes: value_bytes });
        }
        if self.key.is_none() && self.headers.is_empty() && self.dedup == Dedup::None {
            return Ok(align8(RECORD_PREFIX_BYTES + value_bytes));
        }
        self.measure_parts(value_bytes)
    }

    fn measure_parts(&self, value_bytes: usize) -> Result<usize, RecordError> {
        let key_bytes = self.key.map_or(0, <[u8]>::len);
        if key_bytes > KEY_BYTES_MAX {
            return Err(RecordError::KeyTooLarge { bytes: key_bytes });
        }
        let headers_bytes = headers_bytes(&self.headers);
        if headers_bytes > HEADERS_BYTES_MAX {
            return Err(RecordError::HeadersTooLarge { bytes: headers_bytes });
        }
        let dedup_bytes = match self.dedup {
            Dedup::Stored(key) => key.len(),
            Dedup::Value if self.value.is_none() => return Err(RecordError::DedupWithoutSource),
            Dedup::Key if self.key.is_none() => return Err(RecordError::DedupWithoutSource),
            Dedup::None | Dedup::Value | Dedup::Key => 0,
        };
        if dedup_bytes > DEDUP_KEY_BYTES_MAX {
            return Err(RecordError::DedupKeyTooLarge { bytes: dedup_bytes });
        }
        let bytes = key_bytes + value_bytes + headers_bytes + dedup_bytes;
        if bytes > RECORD_BYTES_MAX {
            return Err(RecordError::RecordTooLarge { bytes });
        }
        let tail = value_bytes + headers_bytes + dedup_bytes;
        Ok(align8(RECORD_PREFIX_BYTES + align8(key_bytes) + tail))
    }

    /// Writes the record to the start of `out` and returns the rest. It was measured before.
    #[inline]
    pub(super) fn encode<'o>(
        &self,
        offset_delta: u32,
        timestamp_delta: i64,
        out: &'o mut [u8],
    ) -> &'o mut [u8] {
        if self.key.is_none() && self.headers.is_empty() && self.dedup == Dedup::None {
            let value = self.value.unwrap_or_default();
            let flags = if self.value.is_none() { TOMBSTONE } else { 0 };
            let bytes = align8(RECORD_PREFIX_BYTES + value.len());
            let (record, rest) = out.split_at_mut(bytes);
            // The padding lies within the last 8 bytes; what is not padding is written over.
            record[bytes - 8..].fill(0);
            let (prefix, body) = split_prefix(record);
            body[..value.len()].copy_from_slice(value);
            put_prefix(prefix, flags, offset_delta, timestamp_delta, value.len());
            return rest;
        }
        self.encode_parts(offset_delta, timestamp_delta, out)
    }

    fn encode_parts<'o>(
        &self,
        offset_delta: u32,
        timestamp_delta: i64,
        out: &'o mut [u8],
    ) -> &'o mut [u8] {
        let (prefix, body) = split_prefix(out);
        let key = self.key.unwrap_or_default();
        let value = self.value.unwrap_or_default();
        let (stored, dedup_flag) = match self.dedup {
            Dedup::None => (&[][..], 0),
            Dedup::Stored(key) => (key, DEDUP_STORED),
            Dedup::Value => (&[][..], DEDUP_IS_VALUE),
            Dedup::Key => (&[][..], DEDUP_IS_KEY),
        };
        let mut flags = dedup_flag;
        if self.value.is_none() {
            flags |= TOMBSTONE;
        }
        if self.key.is_some() {
            flags |= HAS_KEY;
        }

        let mut rest = put_bytes(body, key);
        rest = put_padding(rest, key.len());
        rest = put_bytes(rest, value);
        let headers_bytes = headers_bytes(&self.headers);
        rest = put_headers(&self.headers, rest);
        rest = put_bytes(rest, stored);
        rest = put_padding(rest, value.len() + headers_bytes + stored.len());

        put_prefix(prefix, flags, offset_delta, timestamp_delta, value.len());
        put_u32::<20, _>(prefix, narrow(key.len()));
        put_u32::<24, _>(prefix, narrow(headers_bytes));
        put_u16::<28, _>(prefix, u16::try_from(stored.len()).expect("measured"));
        put_u16::<30, _>(prefix, u16::try_from(self.headers.len()).expect("measured"));
        rest
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Record(")?;
        if let Some(key) = self.key {
            write!(f, "key {} bytes, ", key.len())?;
        }
        match self.value {
            Some(value) => write!(f, "value {} bytes", value.len())?,
            None => f.write_str("tombstone")?,
        }
        if !self.headers.is_empty() {
            write!(f, ", {} headers", self.headers.len())?;
        }
        f.write_str(")")
    }
}

#[inline]
fn split_prefix(out: &mut [u8]) -> (&mut [u8; RECORD_PREFIX_BYTES], &mut [u8]) {
    out.split_first_chunk_mut().expect("room for a record that was measured")
}

/// The prefix of a record that has a value at most: the other lengths are 0.
#[inline]
fn put_prefix(
    prefix: &mut [u8; RECORD_PREFIX_BYTES],
    flags: u32,
    offset_delta: u32,
    timestamp_delta: i64,
    value_bytes: usize,
) {
    put_u32::<0, _>(prefix, flags);
    put_u32::<4, _>(prefix, offset_delta);
    put_i64::<8, _>(prefix, timestamp_delta);
    put_u32::<16, _>(prefix, narrow(value_bytes));
    put_u32::<20, _>(prefix, 0);
    put_u32::<24, _>(prefix, 0);
    put_u32::<28, _>(prefix, 0);
}

pub(super) fn put_bytes<'o>(out: &'o mut [u8], bytes: &[u8]) -> &'o mut [u8] {
    let (place, rest) = out.split_at_mut(bytes.len());
    place.copy_from_slice(bytes);
    rest
}

/// Zeros from `written` bytes on to the next multiple of 8.
fn put_padding(out: &mut [u8], written: usize) -> &mut [u8] {
    let (place, rest) = out.split_at_mut(align8(written) - written);
    place.fill(0);
    rest
}

/// Why records were refused, when written or when read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordError {
    /// A batch of no records.
    Empty,
    /// Key, value, headers and dedup key have more than [`RECORD_BYTES_MAX`] together.
    RecordTooLarge {
        /// How many they have.
        bytes: usize,
    },
    /// More than [`KEY_BYTES_MAX`].
    KeyTooLarge {
        /// How many.
        bytes: usize,
    },
    /// More than [`DEDUP_KEY_BYTES_MAX`].
    DedupKeyTooLarge {
        /// How many.
        bytes: usize,
    },
    /// More than [`HEADERS_BYTES_MAX`].
    HeadersTooLarge {
        /// How many, with 8 for each header.
        bytes: usize,
    },
    /// The records have more than [`PAYLOAD_BYTES_MAX`](super::PAYLOAD_BYTES_MAX) together.
    BatchTooLarge {
        /// How many, as stored.
        bytes: usize,
    },
    /// The dedup key is to be the value or the key, and there is none.
    DedupWithoutSource,
    /// The payload ends within a record.
    Short,
    /// Flags that this program does not know.
    UnknownFlags {
        /// The unknown ones.
        bits: u32,
    },
    /// Flags or lengths that contradict each other or pass their limit.
    Length,
    /// An offset that does not rise, or lies beyond the batch.
    OffsetDelta,
    /// A header's name is not UTF-8.
    HeaderName,
    /// Bytes after the last record.
    Trailing,
}

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

    #[inline]
    fn read(&mut self) -> Result<RecordRef<'a>, RecordError> {
        let (prefix, body) =
            self.rest.split_first_chunk::<RECORD_PREFIX_BYTES>().ok_or(RecordError::Short)?;
        let flags = u32_at::<0, _>(prefix);
        let offset_delta = u32_at::<4, _>(prefix);
        let timestamp_delta = i64_at::<8, _>(prefix);
        let value_bytes = widen(u32_at::<16, _>(prefix));
        if u64::from(offset_delta) < self.lowest || offset_delta > self.last {
            return Err(RecordError::OffsetDelta);
        }
        if value_bytes > RECORD_BYTES_MAX {
            return Err(RecordError::Length);
        }
        let record = if flags == 0 && has_a_value_only(prefix) {
            let (value, rest) = body.split_at_checked(value_bytes).ok_or(RecordError::Short)?;
            self.rest = skip_padding(rest, value_bytes)?;
            RecordRef {
                offset_delta,
                timestamp_delta,
                key: None,
                value: Some(value),
                headers: Headers::none(),
                dedup_key: None,
            }
        } else {
            self.read_parts(prefix, body)?
        };
        self.lowest = u64::from(offset_delta) + 1;
        Ok(record)
    }

    fn read_parts(
        &mut self,
        prefix: &[u8; RECORD_PREFIX_BYTES],
        body: &'a [u8],
    ) -> Result<RecordRef<'a>, RecordError> {
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
        let beyond_limit = key_bytes > KEY_BYTES_MAX
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
pub(crate) struct Plain<'a> {
    pub(crate) offset_delta: u32,
    pub(crate) timestamp_delta: i64,
    pub(crate) value: &'a [u8],
    /// What follows it.
    pub(crate) rest: &'a [u8],
}

impl<'a> Plain<'a> {
    /// What `bytes` begin with; `None` if it is another one, or bad.
    #[inline]
    pub(crate) fn first_of(bytes: &'a [u8]) -> Option<Self> {
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
    pub(crate) fn record(&self) -> RecordRef<'a> {
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

#[cfg(test)]
mod tests {
    use super::super::header::HEADER_PREFIX_BYTES;
    use super::super::testing::Random;
    use super::*;

    /// What is compared: everything that a record says.
    type Facts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, Option<Vec<u8>>);

    fn given(record: &Record<'_>) -> Facts {
        facts(record.key, record.value, record.headers(), record.dedup_key_bytes())
    }

    fn read_back(record: &RecordRef<'_>) -> Facts {
        facts(record.key, record.value, record.headers.clone(), record.dedup_key)
    }

    fn facts(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers<'_>,
        dedup: Option<&[u8]>,
    ) -> Facts {
        assert_eq!(headers.len(), headers.clone().count());
        let headers = headers.map(|h| (h.name().to_owned(), h.value().to_vec())).collect();
        (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec), headers, dedup.map(<[u8]>::to_vec))
    }

    /// Writes records with offset deltas 0, 1, … over bytes that were all ones before.
    fn write(records: &[Record<'_>]) -> Vec<u8> {
        let bytes = records.iter().map(|record| record.measure().unwrap()).sum();
        let mut payload = vec![0xFF; bytes];
        let mut rest = &mut payload[..];
        for (delta, record) in (0..).zip(records) {
            rest = record.encode(delta, -i64::from(delta), rest);
        }
        assert!(rest.is_empty());
        payload
    }

    fn first_error(payload: &[u8], count: u32) -> RecordError {
        let mut records = RecordIter::new(payload, count);
        let error = records.find_map(Result::err).expect("an error");
        assert_eq!(RecordIter::new(payload, count).check(), Err(error), "a check says the same");
        assert!(records.next().is_none(), "goes on after an error");
        error
    }

    #[test]
    fn every_shape_survives_a_round_trip() {
        let shapes = [
            Record::new(""),
            Record::new("paid"),
            Record::new("12345678"),
            Record::new("paid").key(""),
            Record::new("").key("k"),
            Record::tombstone("k"),
            Record::tombstone("").header("", "").header("名", "値"),
            Record::new("v").dedup_key(""),
            Record::new("v").dedup_key("d").key("k").header("a", "b").header("a", "c"),
            Record::new("v").dedup_by_value(),
            Record::new("").key("k").dedup_by_key(),
            Record::tombstone("k").dedup_by_key(),
        ];
        let payload = write(&shapes);
        let read: Vec<_> = RecordIter::new(&payload, 12).map(Result::unwrap).collect();
        assert_eq!(read.len(), shapes.len());
        for (index, (read, shape)) in read.iter().zip(&shapes).enumerate() {
            assert_eq!(read_back(read), given(shape), "shape {index}");
            assert_eq!(usize::try_from(read.offset_delta).unwrap(), index);
            assert_eq!(read.timestamp_delta, -i64::try_from(index).unwrap());
        }
    }

    #[test]
    fn the_example_of_the_header_is_true() {
        let mut expected = [0; 48];
        put_u32::<0, _>(&mut expected, 2);
        put_u32::<16, _>(&mut expected, 4);
        put_u32::<20, _>(&mut expected, 1);
        expected[32] = b'k';
        expected[40..44].copy_from_slice(b"paid");
        assert_eq!(write(&[Record::new("paid").key("k")]), expected);
    }

    #[test]
    fn a_missing_part_differs_from_an_empty_one() {
        let payload = write(&[Record::new(""), Record::tombstone("")]);
        let read: Vec<_> = RecordIter::new(&payload, 2).map(Result::unwrap).collect();
        assert_eq!((read[0].key, read[0].value), (None, Some(&b""[..])));
        assert_eq!((read[1].key, read[1].value), (Some(&b""[..]), None));
    }

    #[test]
    fn values_start_at_a_multiple_of_eight() {
        for key_bytes in 0..20 {
            let key = vec![b'k'; key_bytes];
            let payload = write(&[Record::new("12345678").key(&key), Record::new("12345678")]);
            for record in RecordIter::new(&payload, 2) {
                let value = record.unwrap().value.unwrap();
                let at = value.as_ptr().addr() - payload.as_ptr().addr();
                assert!(at.is_multiple_of(8), "key of {key_bytes}");
            }
        }
    }

    #[test]
    fn dedup_keys_that_are_the_value_or_key_are_not_stored_twice() {
        let plain = Record::new("a value").key("a key").measure().unwrap();
        assert_eq!(Record::new("a value").key("a key").dedup_by_value().measure(), Ok(plain));
        assert_eq!(Record::new("a value").key("a key").dedup_by_key().measure(), Ok(plain));
        assert_eq!(Record::new("a value").key("a key").dedup_key("dd").measure(), Ok(plain + 8));
    }

    #[test]
    fn limits_are_exact() {
        let largest = vec![0; RECORD_BYTES_MAX + 1];
        let (max, over) = (&largest[..RECORD_BYTES_MAX], &largest);
        assert!(Record::new(max).measure().is_ok());
        assert!(matches!(Record::new(over).measure(), Err(RecordError::RecordTooLarge { .. })));
        assert!(matches!(
            Record::new(max).key("k").measure(),
            Err(RecordError::RecordTooLarge { .. })
        ));
        let key = &largest[..KEY_BYTES_MAX];
        assert!(Record::tombstone(key).measure().is_ok());
        let key = &largest[..=KEY_BYTES_MAX];
        assert_eq!(
            Record::tombstone(key).measure(),
            Err(RecordError::KeyTooLarge { bytes: KEY_BYTES_MAX + 1 })
        );
        let dedup = &largest[..DEDUP_KEY_BYTES_MAX];
        assert!(Record::new("").dedup_key(dedup).measure().is_ok());
        let dedup = &largest[..=DEDUP_KEY_BYTES_MAX];
        assert_eq!(
            Record::new("").dedup_key(dedup).measure(),
            Err(RecordError::DedupKeyTooLarge { bytes: DEDUP_KEY_BYTES_MAX + 1 })
        );
        let header = &largest[..HEADERS_BYTES_MAX - HEADER_PREFIX_BYTES - 1];
        assert!(Record::new("").header("n", header).measure().is_ok());
        assert_eq!(
            Record::new("").header("n1", header).measure(),
            Err(RecordError::HeadersTooLarge { bytes: HEADERS_BYTES_MAX + 1 })
        );
    }

    #[test]
    fn the_most_headers_survive() {
        let mut record = Record::new("v");
        for _ in 0..HEADERS_BYTES_MAX / HEADER_PREFIX_BYTES {
            record = record.header("", "");
        }
        let payload = write(&[record.clone()]);
        let read = RecordIter::new(&payload, 1).next().unwrap().unwrap();
        assert_eq!(read.headers.len(), 8192);
        assert!(record.header("", "").measure().is_err());
    }

    #[test]
    fn a_dedup_key_without_its_source_is_refused() {
        let error = Err(RecordError::DedupWithoutSource);
        assert_eq!(Record::tombstone("k").dedup_by_value().measure(), error);
        assert_eq!(Record::new("v").dedup_by_key().measure(), error);
    }

    #[test]
    fn malformed_records_are_refused_by_name() {
        let good = write(&[Record::new("value").key("k").header("n", "v").dedup_key("d")]);
        let patched = |at: usize, byte: u8| {
            let mut payload = good.clone();
            payload[at] = byte;
            first_error(&payload, 1)
        };
        assert_eq!(patched(0, 0x20), RecordError::UnknownFlags { bits: 0x20 });
        assert_eq!(patched(0, 1 | 2 | 4), RecordError::Length, "a tombstone with a value");
        assert_eq!(patched(0, 4), RecordError::Length, "a key without its flag");
        assert_eq!(patched(0, 2), RecordError::Length, "a dedup key without its flag");
        assert_eq!(patched(0, 2 | 4 | 8), RecordError::Length, "two dedup keys");
        assert_eq!(patched(19, 0xFF), RecordError::Length, "a value above its limit");
        assert_eq!(patched(22, 2), RecordError::Length, "a key above its limit");
        assert_eq!(patched(26, 2), RecordError::Length, "headers above their limit");
        assert_eq!(patched(29, 0x80), RecordError::Length, "a dedup key above its limit");
        assert_eq!(patched(18, 1), RecordError::Short, "a value beyond the end");
        assert_eq!(patched(30, 0), RecordError::Length, "fewer headers than bytes for them");
        assert_eq!(patched(30, 2), RecordError::Length, "more headers than bytes for them");
        let name = 32 + 8 + 5 + 8;
        assert_eq!(patched(name, 0xFF), RecordError::HeaderName);
        assert_eq!(first_error(&good, 2), RecordError::Short);
        assert_eq!(first_error(&good, 0), RecordError::Trailing);
        assert_eq!(first_error(&[good.clone(), vec![0; 8]].concat(), 1), RecordError::Trailing);
    }

    #[test]
    fn offsets_must_rise_and_stay_within_the_batch() {
        let mut payload = write(&[Record::new("a"), Record::new("b")]);
        assert_eq!(RecordIter::bounded(&payload, 2, 1).flatten().count(), 2);
        assert_eq!(
            RecordIter::bounded(&payload, 2, 0).last().unwrap().unwrap_err(),
            RecordError::OffsetDelta
        );
        payload[40 + 4] = 0;
        assert_eq!(first_error(&payload, 2), RecordError::OffsetDelta);
        payload[40 + 4] = 9;
        assert!(RecordIter::new(&payload, 2).all(|record| record.is_ok()), "gaps may be");
        payload[4..8].fill(0xFF);
        assert_eq!(first_error(&payload, 2), RecordError::OffsetDelta);
    }

    #[test]
    fn every_cut_of_a_payload_is_an_error() {
        let payload = write(&[Record::new("value").key("k").header("n", "v").dedup_key("d")]);
        for end in 0..payload.len() {
            first_error(&payload[..end], 1);
        }
    }

    #[test]
    fn random_and_mutated_payloads_never_panic() {
        let mut random = Random::new(1);
        let good = write(&[
            Record::new("value").key("k").header("n", "v").dedup_key("d"),
            Record::tombstone("k2"),
            Record::new("a longer value than the others"),
        ]);
        for round in 0..100_000 {
            let mut payload = if round % 2 == 0 {
                let count = random.below(128);
                random.bytes(count)
            } else {
                good.clone()
            };
            for _ in 0..random.below(4) {
                if !payload.is_empty() {
                    let at = random.below(payload.len());
                    payload[at] = random.bytes(1)[0];
                }
            }
            let records = RecordIter::new(&payload, 3);
            for record in records.clone().flatten() {
                assert_eq!(record.headers.len(), record.headers.clone().count());
            }
            let found = records.clone().find_map(Result::err);
            assert_eq!(records.check().err(), found, "a check says what iterating does");
        }
    }

    #[test]
    fn debug_shows_sizes_and_no_contents() {
        let record = Record::new("secret").key("k").header("n", "v");
        assert_eq!(format!("{record:?}"), "Record(key 1 bytes, value 6 bytes, 1 headers)");
        assert_eq!(format!("{:?}", Record::tombstone("k")), "Record(key 1 bytes, tombstone)");
        assert_eq!(format!("{:?}", record.headers()), "[n: 1 bytes]");
    }
}
