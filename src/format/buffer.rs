//! [`RecordBuffer`]: records copied from their owner, to be encoded later as one batch.
//!
//! Not here: when that is (`client`), and the batch itself (`batch`).
//!
//! Everything lies in four growing arrays, so that a record costs no allocation of its own, and a
//! buffer that is cleared and filled again costs none at all.

use std::borrow::Cow;

use super::bytes::{narrow, widen};
use super::header::Header;
use super::record::{Dedup, Record, RecordError};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct RecordBuffer {
    records: Vec<Copied>,
    /// Keys, values, header values and dedup keys, in the order of the records.
    bytes: Vec<u8>,
    /// Header names, in the same order.
    names: String,
    headers: Vec<CopiedHeader>,
}

/// The lengths of a record's parts: where they lie follows from those before.
#[derive(Debug)]
struct Copied {
    key_bytes: Option<u32>,
    value_bytes: Option<u32>,
    header_count: u32,
    dedup: CopiedDedup,
    timestamp: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
enum CopiedDedup {
    None,
    Stored { bytes: u32 },
    Value,
    Key,
}

#[derive(Debug)]
struct CopiedHeader {
    name_bytes: u32,
    value_bytes: u32,
}

impl RecordBuffer {
    /// How many bytes the record takes in a batch, if it is within every limit.
    pub(crate) fn measure(record: &Record<'_>) -> Result<usize, RecordError> {
        record.measure()
    }

    /// Copies a record that was measured. The partition given to it is not kept.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        for header in record.headers.iter() {
            self.bytes.extend_from_slice(header.value);
            self.names.push_str(header.name);
            self.headers.push(CopiedHeader {
                name_bytes: narrow(header.name.len()),
                value_bytes: narrow(header.value.len()),
            });
        }
        let dedup = match record.dedup {
            Dedup::None => CopiedDedup::None,
            Dedup::Stored(key) => {
                self.bytes.extend_from_slice(key);
                CopiedDedup::Stored { bytes: narrow(key.len()) }
            }
            Dedup::Value => CopiedDedup::Value,
            Dedup::Key => CopiedDedup::Key,
        };
        self.records.push(Copied {
            key_bytes: record.key.map(|key| narrow(key.len())),
            value_bytes: record.value.map(|value| narrow(value.len())),
            header_count: narrow(record.headers.len()),
            dedup,
            timestamp: record.timestamp,
        });
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many bytes the buffer holds on to.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.names.capacity()
    }

    /// Forgets the records and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
        self.names.clear();
        self.headers.clear();
    }

    /// Gives the records as they were, in the order in which they were pushed.
    pub(crate) fn with_records<T>(&self, work: impl FnOnce(&[Record<'_>]) -> T) -> T {
        let headers = self.headers();
        let mut headers = headers.as_slice();
        let mut rest = self.bytes.as_slice();
        let mut records = Vec::with_capacity(self.records.len());
        for copied in &self.records {
            let key = copied.key_bytes.map(|bytes| take(&mut rest, bytes));
            let value = copied.value_bytes.map(|bytes| take(&mut rest, bytes));
            let (own, others) = headers.split_at(widen(copied.header_count));
            headers = others;
            for header in own {
                take(&mut rest, narrow(header.value.len()));
            }
            let dedup = match copied.dedup {
                CopiedDedup::None => Dedup::None,
                CopiedDedup::Stored { bytes } => Dedup::Stored(take(&mut rest, bytes)),
                CopiedDedup::Value => Dedup::Value,
                CopiedDedup::Key => Dedup::Key,
            };
            let headers = Cow::Borrowed(own);
            let timestamp = copied.timestamp;
            records.push(Record { key, value, headers, dedup, timestamp, partition: None });
        }
        work(&records)
    }

    /// The headers of all records, in a row.
    fn headers(&self) -> Vec<Header<'_>> {
        if self.headers.is_empty() {
            return Vec::new();
        }
        let mut headers = Vec::with_capacity(self.headers.len());
        let mut copied = self.headers.iter();
        let (mut names, mut rest) = (self.names.as_str(), self.bytes.as_slice());
        for record in &self.records {
            take(&mut rest, record.key_bytes.unwrap_or(0));
            take(&mut rest, record.value_bytes.unwrap_or(0));
            for header in copied.by_ref().take(widen(record.header_count)) {
                let (name, others) = names.split_at(widen(header.name_bytes));
                names = others;
                headers.push(Header { name, value: take(&mut rest, header.value_bytes) });
            }
            if let CopiedDedup::Stored { bytes } = record.dedup {
                take(&mut rest, bytes);
            }
        }
        headers
    }
}

/// The next bytes, which are taken off the rest.
fn take<'a>(rest: &mut &'a [u8], bytes: u32) -> &'a [u8] {
    let (taken, others) = rest.split_at(widen(bytes));
    *rest = others;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::{BATCH_HEADER_BYTES, encode_records, measure};

    fn encoded(records: &[Record<'_>]) -> Vec<u8> {
        let mut bytes = vec![0; measure(records).expect("within limits") - BATCH_HEADER_BYTES];
        encode_records(records, 1_000, &mut bytes);
        bytes
    }

    #[test]
    fn copied_records_encode_as_the_originals() {
        let originals = [
            Record::new("value"),
            Record::new(""),
            Record::tombstone("gone"),
            Record::new("v").key("").header("", "").header("name", "header value").timestamp(7),
            Record::new("v").dedup_key("own").header("n", "x"),
            Record::new("v").dedup_by_value(),
            Record::new("v").key("k").dedup_by_key().partition(3).header("é", "ü"),
            Record::new(&[0x5a; 5_000]).key(&[1; 300]),
        ];
        let mut buffer = RecordBuffer::default();
        for _ in 0..2 {
            for record in &originals {
                buffer.push(record);
            }
            assert_eq!(buffer.len(), originals.len());
            buffer.with_records(|copied| assert_eq!(encoded(copied), encoded(&originals)));
            let capacity = buffer.capacity();
            buffer.clear();
            assert_eq!((buffer.len(), buffer.capacity()), (0, capacity));
        }
        buffer.with_records(|copied| assert!(copied.is_empty()));
    }
}
