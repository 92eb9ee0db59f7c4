//! How `consume` prints a record: a template of fields and bytes.
//!
//! Every text is a template: what begins no field and no escape stands for itself. Bytes of
//! records go out as they are.
//!
//! | in the template | prints |
//! | --- | --- |
//! | `%t` `%p` `%o` | topic, partition, offset |
//! | `%k` `%v` | key, value; nothing where there is none |
//! | `%h` | headers: `name=value`, joined by `,` |
//! | `%T` | timestamp, in milliseconds since the Unix epoch |
//! | `%%` | `%` |
//! | `\n` `\t` `\xNN` | newline, tab, the byte of two hexadecimal digits |

use std::io::{self, Write};

use plimsoll::RecordView;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    Headers,
    Timestamp,
}

/// What is printed of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

impl Default for Template {
    /// The value.
    fn default() -> Self {
        Self::parse(b"%v")
    }
}

impl Template {
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut template = Self { pieces: Vec::new() };
        let mut rest = text;
        loop {
            rest = match rest {
                [b'%', letter, after @ ..] if template.field(*letter) => after,
                [b'%', b'%', after @ ..] => template.byte(b'%', after),
                [b'\\', b'n', after @ ..] => template.byte(b'\n', after),
                [b'\\', b't', after @ ..] => template.byte(b'\t', after),
                [b'\\', b'x', high, low, after @ ..]
                    if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                {
                    template.byte(hex(*high) << 4 | hex(*low), after)
                }
                [byte, after @ ..] => template.byte(*byte, after),
                [] => break,
            };
        }
        // The newline that is added.
        template.byte(b'\n', &[]);
        template
    }

    /// Adds the field of this letter, if it is one.
    fn field(&mut self, letter: u8) -> bool {
        self.pieces.push(match letter {
            b't' => Piece::Topic,
            b'p' => Piece::Partition,
            b'o' => Piece::Offset,
            b'k' => Piece::Key,
            b'v' => Piece::Value,
            b'h' => Piece::Headers,
            b'T' => Piece::Timestamp,
            _ => return false,
        });
        true
    }

    /// Adds a byte that stands for itself, and goes on with what is `after` it.
    fn byte<'a>(&mut self, byte: u8, after: &'a [u8]) -> &'a [u8] {
        if let Some(Piece::Bytes(bytes)) = self.pieces.last_mut() {
            bytes.push(byte);
        } else {
            self.pieces.push(Piece::Bytes(vec![byte]));
        }
        after
    }

    /// Prints a record.
    pub(crate) fn print(&self, record: &RecordView<'_>, out: &mut impl Write) -> io::Result<()> {
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => out.write_all(bytes)?,
                Piece::Topic => out.write_all(record.topic().as_bytes())?,
                Piece::Partition => write!(out, "{}", record.partition())?,
                Piece::Offset => write!(out, "{}", record.offset())?,
                Piece::Key => out.write_all(record.key().unwrap_or_default())?,
                Piece::Value => out.write_all(record.value().unwrap_or_default())?,
                Piece::Timestamp => write!(out, "{}", record.timestamp())?,
                Piece::Headers => {
                    for (index, header) in record.headers().enumerate() {
                        let comma: &[u8] = if index == 0 { b"" } else { b"," };
                        out.write_all(comma)?;
                        out.write_all(header.name().as_bytes())?;
                        out.write_all(b"=")?;
                        out.write_all(header.value())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: &[u8]) -> Piece {
        Piece::Bytes(bytes.to_vec())
    }

    fn parse(text: &[u8]) -> Vec<Piece> {
        Template::parse(text).pieces
    }

    #[test]
    fn fields_and_bytes_alternate() {
        let expected = [Piece::Topic, bytes(b"["), Piece::Partition, bytes(b"]@"), Piece::Offset];
        assert_eq!(parse(b"%t[%p]@%o")[..5], expected);
        let expected = [Piece::Key, Piece::Value, Piece::Headers, Piece::Timestamp, bytes(b"%\n")];
        assert_eq!(parse(b"%k%v%h%T%%"), expected);
    }

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(parse(br"a\tb\nc\x00\xfF\\"), [bytes(b"a\tb\nc\x00\xff\\\\\n")]);
        // A backslash does not escape another.
        assert_eq!(parse(br"\\n"), [bytes(b"\\\n\n")]);
    }

    #[test]
    fn everything_else_stands_for_itself() {
        let literal: [&[u8]; 12] = [
            b"",
            b"%",
            b"\\",
            b"%z",
            b"\\q",
            b"\\x",
            b"\\x1",
            b"\\xg0",
            b"\\x0g",
            b"100%!",
            b"\xff\xfe",
            b"%\xff",
        ];
        for text in literal {
            let mut expected = text.to_vec();
            expected.push(b'\n');
            assert_eq!(parse(text), [bytes(&expected)], "{text:?}");
        }
        assert_eq!(parse(b"%%v"), [bytes(b"%v\n")]);
        assert_eq!(parse(b"%%%v"), [bytes(b"%"), Piece::Value, bytes(b"\n")]);
    }

    #[test]
    fn every_pair_of_bytes_is_a_template() {
        for first in 0..=255 {
            for second in 0..=255 {
                assert!(!parse(&[first, second]).is_empty());
                assert!(!parse(&[b'\\', b'x', first, second]).is_empty());
            }
        }
    }
}
