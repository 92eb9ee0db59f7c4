//! Lines that wait to be sent: those of one partition, up to a batch.
//!
//! Not here: when to send (`produce`). The bytes of all lines lie behind each other in one buffer
//! that is used again for the next batch, so no line is allocated for.

use plimsoll::Record;

use crate::args::LineDedup;

/// The lines of a partition that wait, in their order.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line lies: its key, if it has one, up to `value`, its value up to the next line.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// In the input, from 1.
    number: u64,
    start: usize,
    value: usize,
    has_key: bool,
}

impl Pending {
    /// Adds a line, which is this one of the input, counted from 1.
    pub(crate) fn push(&mut self, number: u64, key: Option<&[u8]>, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.lines.push(Line { number, start, value: self.bytes.len(), has_key: key.is_some() });
        self.bytes.extend_from_slice(value);
    }

    /// How many lines wait.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// Where a line is in the input, counted from 1.
    pub(crate) fn number(&self, index: usize) -> Option<u64> {
        self.lines.get(index).map(|line| line.number)
    }

    /// Bytes of their keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The lines as records, of which a part is the dedup key too.
    pub(crate) fn records(&self, dedup: Option<LineDedup>) -> Vec<Record<'_>> {
        let ends = self.lines.iter().skip(1).map(|line| line.start);
        let ends = ends.chain([self.bytes.len()]);
        let record = |(line, end): (&Line, usize)| {
            let key = line.has_key.then(|| &self.bytes[line.start..line.value]);
            record_of(key, &self.bytes[line.value..end], dedup)
        };
        self.lines.iter().zip(ends).map(record).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
    }
}

/// A line as a record.
pub(crate) fn record_of<'a>(
    key: Option<&'a [u8]>,
    value: &'a [u8],
    dedup: Option<LineDedup>,
) -> Record<'a> {
    let record = Record::new(value);
    match (key, dedup) {
        (Some(key), Some(LineDedup::Key)) => record.key(key).dedup_by_key(),
        (Some(key), Some(LineDedup::Line)) => record.key(key).dedup_by_value(),
        (None, Some(LineDedup::Line)) => record.dedup_by_value(),
        (Some(key), None) => record.key(key),
        (None, None | Some(LineDedup::Key)) => record,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_what_was_pushed() {
        let lines: [(Option<&[u8]>, &[u8]); 6] = [
            (Some(b"k"), b"v"),
            (None, b"keyless"),
            (Some(b""), b"empty key"),
            (None, b""),
            (Some(b"key"), b""),
            (Some(b"\xff"), b"\x00\n"),
        ];
        let mut pending = Pending::default();
        assert!(pending.records(None).is_empty());
        for _ in 0..2 {
            for (key, value) in lines {
                pending.push(1, key, value);
            }
            let records = pending.records(Some(LineDedup::Key));
            assert!(records.iter().all(|record| record.dedup_key_bytes() == record.key_bytes()));
            let records = pending.records(Some(LineDedup::Line));
            assert!(records.iter().all(|record| record.dedup_key_bytes() == record.value_bytes()));
            let records = pending.records(None);
            assert!(records.iter().all(|record| record.dedup_key_bytes().is_none()));
            let found = records.iter().map(|r| (r.key_bytes(), r.value_bytes().unwrap()));
            assert!(found.eq(lines));
            assert_eq!((pending.count(), pending.bytes()), (6, 24));
            pending.clear();
        }
    }
}
