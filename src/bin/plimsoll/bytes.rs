//! Bytes in JSON: as text where they are UTF-8, else as base64.
//!
//! Nothing is lost either way: a field has one of two names, and which one says what it holds.

use serde::ser::SerializeMap;

/// What a field's bytes are in JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Encoded<'a> {
    /// No bytes, which is not the same as an empty text.
    Null,
    Text(&'a str),
    Base64(String),
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(bytes: Option<&'a [u8]>) -> Self {
        match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => Self::Null,
            Some((_, Ok(text))) => Self::Text(text),
            Some((bytes, Err(_))) => Self::Base64(base64(bytes)),
        }
    }

    /// Writes the field: under `name`, or as base64 under the other one.
    pub(crate) fn put<M: SerializeMap>(
        &self,
        name: &str,
        name_base64: &str,
        map: &mut M,
    ) -> Result<(), M::Error> {
        match self {
            Self::Null => map.serialize_entry(name, &()),
            Self::Text(text) => map.serialize_entry(name, text),
            Self::Base64(text) => map.serialize_entry(name_base64, text),
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for at in 0..4 {
            let digit = usize::try_from((bits >> (18 - 6 * at)) & 63).unwrap_or(0);
            // One byte gives two digits, two give three, three give four.
            text.push(if at <= group.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648s() {
        let pairs: [(&[u8], &str); 8] = [
            (b"", ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"fooba", "Zm9vYmE="),
            (b"foobar", "Zm9vYmFy"),
            (b"\xff\xfb\xf0", "//vw"),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn text_stays_text_and_nothing_is_null() {
        assert_eq!(Encoded::new(None), Encoded::Null);
        assert_eq!(Encoded::new(Some(b"")), Encoded::Text(""));
        assert_eq!(Encoded::new(Some("é".as_bytes())), Encoded::Text("é"));
        assert_eq!(Encoded::new(Some(b"\xff")), Encoded::Base64("/w==".to_owned()));
    }
}
