//! Lines of an input, and the key of a line.
//!
//! Not here: when to read, and what becomes of a line (`produce`). No I/O but the one `read` that
//! [`Lines::fill`] is given.
//!
//! A line is what lies before a `\n`, which is not part of it; a last line without one is a line
//! too, unless it is empty. All other bytes are kept.

use std::io::{self, Read};

use memchr::{memchr, memmem};

/// How much is read at once, unless a line needs more.
const CHUNK_BYTES: usize = 1 << 20;
/// No record is as large: its value has at most 64 MiB and its key 64 KiB. What is longer is handed
/// on unfinished, so that memory stays bounded and the library can say what it thinks of it.
const LINE_BYTES_MAX: usize = (64 << 20) + (128 << 10);

/// Cuts an input into lines, across the borders of what each `read` returns.
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// Of what was not handed out yet.
    start: usize,
    /// From `start` up to here there is no `\n`.
    searched: usize,
    /// Of what was read.
    end: usize,
    line_bytes_max: usize,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self::with_limits(CHUNK_BYTES, LINE_BYTES_MAX)
    }

    fn with_limits(chunk_bytes: usize, line_bytes_max: usize) -> Self {
        let buffer = vec![0; chunk_bytes];
        Self { buffer, start: 0, searched: 0, end: 0, line_bytes_max }
    }

    /// Reads once, after every whole line was taken; 0 at the end of the input.
    pub(crate) fn fill(&mut self, input: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.searched -= self.start;
        self.start = 0;
        if self.end * 2 > self.buffer.len() {
            // Less than half is free: a long line is being gathered.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match input.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(bytes) => {
                    self.end += bytes;
                    return Ok(bytes);
                }
            }
        }
    }

    /// The next whole line, or the beginning of one that is longer than any record.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let Some(bytes) = memchr(b'\n', &self.buffer[self.searched..self.end]) else {
            self.searched = self.end;
            if self.end - self.start > self.line_bytes_max {
                return self.last();
            }
            return None;
        };
        let line = self.start..self.searched + bytes;
        self.start = line.end + 1;
        self.searched = self.start;
        Some(&self.buffer[line])
    }

    /// What is left at the end of the input.
    pub(crate) fn last(&mut self) -> Option<&[u8]> {
        let line = self.start..self.end;
        self.start = self.end;
        self.searched = self.end;
        if line.is_empty() { None } else { Some(&self.buffer[line]) }
    }
}

/// What stands between a line's key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Separator(memmem::Finder<'static>);

impl Separator {
    /// `None` without a byte: every line would have an empty key.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty()).then(|| Self(memmem::Finder::new(bytes).into_owned()))
    }

    /// The key, if there is one, and the value.
    pub(crate) fn split<'a>(&self, line: &'a [u8]) -> (Option<&'a [u8]>, &'a [u8]) {
        let needle = self.0.needle();
        let at = if let [byte] = needle { memchr(*byte, line) } else { self.0.find(line) };
        match at {
            Some(at) => (Some(&line[..at]), &line[at + needle.len()..]),
            None => (None, line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out its bytes in portions.
    struct Portions<'a> {
        rest: &'a [u8],
        bytes: usize,
    }

    impl Read for Portions<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = self.bytes.min(buffer.len()).min(self.rest.len());
            buffer[..bytes].copy_from_slice(&self.rest[..bytes]);
            self.rest = &self.rest[bytes..];
            Ok(bytes)
        }
    }

    fn split(input: &[u8], portion: usize, mut lines: Lines) -> Vec<Vec<u8>> {
        let mut portions = Portions { rest: input, bytes: portion };
        let mut found = Vec::new();
        while lines.fill(&mut portions).unwrap() > 0 {
            while let Some(line) = lines.next() {
                found.push(line.to_vec());
            }
        }
        found.extend(lines.last().map(<[u8]>::to_vec));
        found
    }

    /// The contract, in the plainest words.
    fn model(input: &[u8]) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = input.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines
    }

    #[test]
    fn lines_are_the_same_wherever_the_input_is_cut() {
        let inputs: [&[u8]; 9] = [
            b"",
            b"\n",
            b"\n\n",
            b"a",
            b"a\n",
            b"a\r\n\r\n\nb",
            b"one\ntwo\nthree",
            b"a line that is longer than the whole buffer, by far\nshort\n",
            b"\xff\xfe\x00\n\x00\n\x80",
        ];
        for input in inputs {
            for portion in 1..20 {
                for chunk_bytes in 1..12 {
                    let lines = Lines::with_limits(chunk_bytes, 1 << 20);
                    assert_eq!(split(input, portion, lines), model(input), "{input:?} {portion}");
                }
            }
        }
    }

    #[test]
    fn a_line_without_end_is_handed_on_at_its_limit() {
        let input = [b'x'; 1000];
        let found = split(&input, 7, Lines::with_limits(8, 100));
        assert!(found.iter().all(|line| line.len() <= 100 + 7), "{found:?}");
        assert_eq!(found.concat(), input);
    }

    #[test]
    fn the_key_ends_at_the_first_separator() {
        let split = |separator: &str, line: &str| {
            let separator = Separator::new(separator.as_bytes()).unwrap();
            let (key, value) = separator.split(line.as_bytes());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (key.map(text), text(value))
        };
        let is = |key: Option<&str>, value: &str| (key.map(str::to_owned), value.to_owned());
        assert_eq!(split(":", "k:v"), is(Some("k"), "v"));
        assert_eq!(split(":", "k:v:w"), is(Some("k"), "v:w"));
        assert_eq!(split(":", "line"), is(None, "line"));
        assert_eq!(split(":", ":v"), is(Some(""), "v"));
        assert_eq!(split(":", "k:"), is(Some("k"), ""));
        assert_eq!(split(":", ""), is(None, ""));
        assert_eq!(split("=>", "a=b=>c=>d"), is(Some("a=b"), "c=>d"));
        assert_eq!(split("=>", "a="), is(None, "a="));
        assert_eq!(split("::", "a:::b"), is(Some("a"), ":b"));
        assert!(Separator::new(b"").is_none());
    }
}
