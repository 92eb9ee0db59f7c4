//! `dump`: what is in a segment file, as text or as JSON.
//!
//! Not here: reading the file, which the library does. It writes lines of words; [`Objects`] turns
//! each into an object.
//!
//! ```text
//! line  := type (' ' field)*             field := name '=' value | word
//! field := 'header ' name '=' value      value := number | word | '"' escaped bytes '"'
//! ```

use std::io::{self, Write};
use std::path::Path;

use plimsoll::{Error, dump_segment};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::bytes::Encoded;
use crate::output::{Ending, Fail, Output, Result};

pub(crate) fn run(file: &Path, json: bool) -> Result<Ending> {
    let mut out = Output::open()?;
    let dumped = if json {
        let mut objects = Objects { out: &mut out, line: Vec::new() };
        dump_segment(file, &mut objects)
    } else {
        dump_segment(file, out.bytes())
    };
    let flushed = out.flush();
    let summary = dumped.map_err(|error| match error {
        Error::Io(failure) if failure.source.kind() == io::ErrorKind::BrokenPipe => {
            Fail::PipeClosed
        }
        error => Fail::Library(error),
    })?;
    flushed?;
    Ok(if summary.damaged == 0 { Ending::Done } else { Ending::Found })
}

/// Takes lines and writes objects.
struct Objects<'a> {
    out: &'a mut Output,
    line: Vec<u8>,
}

impl Write for Objects<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.pop_if(|byte| *byte == b'\n').is_some() {
                let object = object(&String::from_utf8_lossy(&self.line));
                self.line.clear();
                serde_json::to_writer(self.out.bytes(), &object)?;
                self.out.bytes().write_all(b"\n")?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.bytes().flush()
    }
}

/// Fields in their order.
#[derive(Debug, Default, PartialEq)]
struct Fields(Vec<(String, Value)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Fields {
    fn push(&mut self, name: &str, value: impl Into<Value>) {
        self.0.push((name.to_owned(), value.into()));
    }

    /// Bytes under this name, or under this name and `_base64`.
    fn push_bytes(&mut self, name: &str, escaped: &str) {
        let bytes = unescape(escaped);
        match Encoded::new(Some(&bytes)) {
            Encoded::Null => self.push(name, Value::Null),
            Encoded::Text(text) => self.push(name, text),
            Encoded::Base64(text) => self.push(&format!("{name}_base64"), text),
        }
    }
}

fn object(line: &str) -> Fields {
    let mut fields = Fields::default();
    let mut headers = Vec::new();
    let (kind, mut rest) = line.split_once(' ').unwrap_or((line, ""));
    fields.push("type", kind);
    while !rest.is_empty() {
        let header = rest.strip_prefix("header ");
        let text = header.unwrap_or(rest);
        let word_end = text.find(' ').unwrap_or(text.len());
        // A header's name may have spaces in it, any other name ends with its word.
        let name_end = match header {
            Some(text) => text.find("=\"").unwrap_or(word_end),
            None => text[..word_end].find('=').unwrap_or(word_end),
        };
        let name = &text[..name_end];
        let value = &text[name_end..];
        if let Some(quoted) = value.strip_prefix("=\"") {
            let end = closing_quote(quoted);
            let bytes = &quoted[..end];
            rest = quoted[end..].trim_start_matches('"').trim_start_matches(' ');
            if header.is_some() {
                let mut header = Fields::default();
                header.push("name", name);
                header.push_bytes("value", bytes);
                headers.push(serde_json::to_value(header).unwrap_or_default());
            } else {
                fields.push_bytes(name, bytes);
            }
            continue;
        }
        let word = value.get(..word_end.saturating_sub(name_end)).unwrap_or_default();
        rest = text[name_end + word.len()..].trim_start_matches(' ');
        match word.strip_prefix('=') {
            // A checksum is no quantity, also where it has only digits.
            Some(word) if name.ends_with("crc") => fields.push(name, word),
            Some(word) => fields.push(name, plain(word)),
            None => fields.push(name, true),
        }
    }
    if !headers.is_empty() {
        fields.push("headers", headers);
    }
    fields
}

/// A number or a truth value, or else the word.
fn plain(word: &str) -> Value {
    if let Ok(number) = word.parse::<u64>() {
        return number.into();
    }
    if let Ok(number) = word.parse::<i64>() {
        return number.into();
    }
    match word {
        "true" => true.into(),
        "false" => false.into(),
        word => word.to_lowercase().into(),
    }
}

/// Where the quoted text ends: at the first quotation mark that is not escaped.
fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    let closes = |byte: u8| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    };
    text.bytes().position(closes).unwrap_or(text.len())
}

/// Undoes `escape_ascii`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let (byte, after) = match (byte, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                (u8::from_str_radix(digits, 16).unwrap_or(b'?'), after)
            }
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [other, after @ ..]) => (*other, after),
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(line: &str) -> String {
        serde_json::to_string(&object(line)).unwrap()
    }

    #[test]
    fn a_line_becomes_an_object() {
        assert_eq!(
            json("batch position=8192 closing=false kind=Rolled payload_crc=00001234"),
            concat!(
                r#"{"type":"batch","position":8192,"closing":false,"#,
                r#""kind":"rolled","payload_crc":"00001234"}"#,
            )
        );
        let damaged = r#"{"type":"slot","position":4096,"damaged":true}"#;
        assert_eq!(json("slot position=4096 damaged"), damaged);
        assert_eq!(json("zeros"), r#"{"type":"zeros"}"#);
    }

    #[test]
    fn records_keep_their_bytes() {
        assert_eq!(
            json(r#"record timestamp=-5 key="a b" value="x=\"1\" \\ \xff""#),
            r#"{"type":"record","timestamp":-5,"key":"a b","value_base64":"eD0iMSIgXCD/"}"#
        );
        assert_eq!(
            json(r#"record header a b="1" header c="" key="" tombstone"#),
            concat!(
                r#"{"type":"record","key":"","tombstone":true,"#,
                r#""headers":[{"name":"a b","value":"1"},{"name":"c","value":""}]}"#,
            )
        );
    }

    #[test]
    fn escapes_are_undone() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&all.escape_ascii().to_string()), all);
    }

    #[test]
    fn no_line_is_too_odd() {
        let odd = [
            "",
            " ",
            "=",
            "==",
            "\"",
            "a =\"",
            "a b=\"",
            "a header ",
            "a header =\"\\",
            "a \"\"\"",
            "a b=\"c\"d e",
            "a  b",
            "header",
            "a header x",
            "a é=é \u{2028}",
        ];
        for line in odd {
            assert!(!json(line).is_empty(), "{line}");
        }
    }
}
