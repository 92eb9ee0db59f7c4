//! One record: what a user appends, and its bytes inside a batch's payload.
//!
//! Not here: reading it back (`records`); offsets and times as absolute numbers, checksums,
//! compression (`batch` has all three); limits that a topic or producer sets below the ones here
//! (`config`).
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

use super::bytes::{align8, narrow, put_i64, put_u16, put_u32};
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
pub(super) const TOMBSTONE: u32 = 1;
pub(super) const HAS_KEY: u32 = 2;
pub(super) const DEDUP_STORED: u32 = 4;
pub(super) const DEDUP_IS_VALUE: u32 = 8;
pub(super) const DEDUP_IS_KEY: u32 = 16;
pub(super) const KNOWN_FLAGS: u32 =
    TOMBSTONE | HAS_KEY | DEDUP_STORED | DEDUP_IS_VALUE | DEDUP_IS_KEY;

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

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
