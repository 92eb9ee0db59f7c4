//! Lines that wait to be sent: those of one partition, up to a batch.
//!
//! Not here: when to send (`produce`). The bytes of all lines lie behind each other in one buffer
//! that is used again for the next batch, so no line is allocated for.

use plimsoll::Record;

/// The lines of a partition that wait, in their order.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line lies: its key, if it has one, up to `value`, its value up to the next line.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: usize,
    value: usize,
    has_key: bool,
}

impl Pending {
    pub(crate) fn push(&mut self, key: Option<&[u8]>, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.lines.push(Line { start, value: self.bytes.len(), has_key: key.is_some() });
        self.bytes.extend_from_slice(value);
    }

    /// How many lines wait.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// Bytes of their keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn records(&self) -> Vec<Record<'_>> {
        let ends = self.lines.iter().skip(1).map(|line| line.start);
        let ends = ends.chain([self.bytes.len()]);
        let record = |(line, end): (&Line, usize)| {
            let record = Record::new(&self.bytes[line.value..end]);
            if line.has_key { record.key(&self.bytes[line.start..line.value]) } else { record }
        };
        self.lines.iter().zip(ends).map(record).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
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
        assert!(pending.records().is_empty());
        for _ in 0..2 {
            for (key, value) in lines {
                pending.push(key, value);
            }
            let records = pending.records();
            let found = records.iter().map(|r| (r.key_bytes(), r.value_bytes().unwrap()));
            assert!(found.eq(lines));
            assert_eq!((pending.count(), pending.bytes()), (6, 24));
            pending.clear();
        }
    }
}
