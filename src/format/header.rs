//! The headers of a record: names and values beside its own value.
//!
//! Not here: where they lie in a record (`record`, whose tests cover this file too).
//!
//! ```text
//! header := name_bytes:u32 value_bytes:u32 name value          not aligned, not padded
//! ```
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 4 | `name_bytes` | |
//! | 4 | 4 | `value_bytes` | |
//! | 8 | | name | UTF-8; may be empty; several headers may share one |
//! | | | value | may be empty |
//!
//! All of it is covered by the batch's payload CRC.
//!
//! Example   `n: v` is `01000000 01000000 6e 76`.
//! Damage    a length that leads beyond the record's headers, bytes left over, or a name that is
//!           not UTF-8 refuse the record. All headers are walked once before the first is handed
//!           out, so that iterating cannot fail.

use std::fmt;
use std::slice;

use super::bytes::{narrow, put_u32, u32_at, widen};
use super::record::{RecordError, put_bytes};

/// All headers of a record, with 8 bytes for each.
pub(crate) const HEADERS_BYTES_MAX: usize = 64 << 10;
/// The lengths before a header's name.
pub(super) const HEADER_PREFIX_BYTES: usize = 8;

const _: () = assert!(HEADERS_BYTES_MAX / HEADER_PREFIX_BYTES <= u16::MAX as usize);

/// A name and a value beside a record's own value: content types, trace ids and the like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a [u8],
}

impl<'a> Header<'a> {
    /// The header's name; several headers of a record may share one.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The header's value.
    #[must_use]
    pub fn value(&self) -> &'a [u8] {
        self.value
    }
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes", self.name, self.value.len())
    }
}

/// The headers of a record, in the order in which they were given.
#[derive(Clone)]
pub struct Headers<'a> {
    source: HeaderSource<'a>,
}

#[derive(Clone)]
enum HeaderSource<'a> {
    /// Of a record still to be sent.
    Given(slice::Iter<'a, Header<'a>>),
    /// Encoded, and walked once before: see [`Headers::stored`].
    Stored { bytes: &'a [u8], left: u16 },
}

impl<'a> Headers<'a> {
    /// Of a record that is still to be sent.
    pub(super) fn given(headers: &'a [Header<'a>]) -> Self {
        Self { source: HeaderSource::Given(headers.iter()) }
    }

    /// No headers.
    #[inline]
    pub(super) fn none() -> Self {
        Self { source: HeaderSource::Stored { bytes: &[], left: 0 } }
    }

    /// Encoded headers, checked to their end so that iterating over them cannot fail.
    #[inline]
    pub(super) fn stored(bytes: &'a [u8], count: u16) -> Result<Self, RecordError> {
        let mut rest = bytes;
        for _ in 0..count {
            let (_, beyond) = split_header(rest)?;
            rest = beyond;
        }
        if !rest.is_empty() {
            return Err(RecordError::Length);
        }
        Ok(Self { source: HeaderSource::Stored { bytes, left: count } })
    }
}

/// The first of some encoded headers, and the rest.
fn split_header(bytes: &[u8]) -> Result<(Header<'_>, &[u8]), RecordError> {
    let (lengths, rest) =
        bytes.split_first_chunk::<HEADER_PREFIX_BYTES>().ok_or(RecordError::Length)?;
    let name_bytes = widen(u32_at::<0, _>(lengths));
    let value_bytes = widen(u32_at::<4, _>(lengths));
    let (name, rest) = rest.split_at_checked(name_bytes).ok_or(RecordError::Length)?;
    let (value, rest) = rest.split_at_checked(value_bytes).ok_or(RecordError::Length)?;
    let name = str::from_utf8(name).map_err(|_| RecordError::HeaderName)?;
    Ok((Header { name, value }, rest))
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        match &mut self.source {
            HeaderSource::Given(headers) => headers.next().copied(),
            HeaderSource::Stored { bytes, left } => {
                *left = left.checked_sub(1)?;
                let (header, rest) = split_header(bytes).ok()?;
                *bytes = rest;
                Some(header)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.source {
            HeaderSource::Given(headers) => headers.len(),
            HeaderSource::Stored { left, .. } => usize::from(*left),
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Headers<'_> {}
impl std::iter::FusedIterator for Headers<'_> {}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The bytes that headers take in a record.
pub(super) fn headers_bytes(headers: &[Header<'_>]) -> usize {
    headers.iter().fold(0, |bytes: usize, header| {
        bytes
            .saturating_add(HEADER_PREFIX_BYTES)
            .saturating_add(header.name.len())
            .saturating_add(header.value.len())
    })
}

/// Writes headers that were measured to the start of `out` and returns the rest.
pub(super) fn put_headers<'o>(headers: &[Header<'_>], out: &'o mut [u8]) -> &'o mut [u8] {
    let mut rest = out;
    for header in headers {
        let (lengths, beyond) =
            rest.split_first_chunk_mut::<HEADER_PREFIX_BYTES>().expect("room that was measured");
        put_u32::<0, _>(lengths, narrow(header.name.len()));
        put_u32::<4, _>(lengths, narrow(header.value.len()));
        rest = put_bytes(beyond, header.name.as_bytes());
        rest = put_bytes(rest, header.value);
    }
    rest
}
