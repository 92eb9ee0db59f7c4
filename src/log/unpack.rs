//! Compressed batches, handed out as they would lie in the file without a codec.
//!
//! Not here: the codecs and what a batch looks like (`format`), which batches a fetch takes
//! (`read`).
//!
//! A row of them is decompressed into memory of its own, once a fetch, so that everything above
//! walks it like any other. Room is made for no more than the headers say, and that was compared
//! with their payloads before. Their checksums were checked; all the same a batch counts only once
//! it became exactly its records, each time anew.

use std::io;

use crate::format::{BatchHeader, CodecError, Decompressor, NotBuilt, UnpackError};
use crate::fs::{Mapping, View};
use crate::id::Offset;

/// Batches without their codec.
pub(crate) struct Unpacked {
    pub(crate) view: View,
    /// Where the last one ends.
    pub(crate) next: Offset,
    /// What they take in their file.
    pub(crate) stored_bytes: usize,
}

/// Why the first of some batches cannot be handed out.
pub(crate) enum Unpackable {
    Damaged(&'static str),
    /// Nothing is wrong with it.
    NotBuilt {
        feature: &'static str,
    },
    OutOfMemory,
}

impl From<UnpackError> for Unpackable {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Codec(CodecError::NotBuilt(NotBuilt { feature })) => {
                Self::NotBuilt { feature }
            }
            UnpackError::Codec(CodecError::OutOfMemory) => Self::OutOfMemory,
            UnpackError::Codec(CodecError::Damaged) => {
                Self::Damaged("a batch cannot be decompressed")
            }
            UnpackError::Records => Self::Damaged("a record cannot be decoded"),
            UnpackError::Short => Self::Damaged("a batch reaches beyond the end"),
        }
    }
}

/// Decompresses the batches that `row` consists of, up to the first that cannot be; an error only
/// if that is the very first.
pub(crate) fn unpack(row: &[u8]) -> Result<Unpacked, Unpackable> {
    let mut room = 0;
    let mut refused = None;
    for (header, batch) in batches(row) {
        if let Err(error) = header.check_claim(batch) {
            refused = Some(error);
            break;
        }
        room += header.unpacked_bytes();
    }
    let mut done = Unpacking::default();
    let map = Mapping::copied(room, |image| {
        refused = done.fill(row, image).err().or(refused);
        Ok(())
    });
    let map = map.map_err(|_: io::Error| Unpackable::OutOfMemory)?;
    if done.stored_bytes == 0 {
        return Err(refused.unwrap_or(UnpackError::Short).into());
    }
    let view = map.view(0, done.bytes).ok_or(Unpackable::OutOfMemory)?;
    Ok(Unpacked { view, next: done.next, stored_bytes: done.stored_bytes })
}

/// The batches of a row, whose headers were verified.
fn batches(row: &[u8]) -> impl Iterator<Item = (BatchHeader, &[u8])> {
    let mut rest = row;
    std::iter::from_fn(move || {
        let header = BatchHeader::decode_trusted(rest).ok()?;
        let (batch, others) = rest.split_at_checked(header.batch_bytes())?;
        rest = others;
        Some((header, batch))
    })
}

/// How far the work has come.
#[derive(Default)]
struct Unpacking {
    bytes: usize,
    stored_bytes: usize,
    next: Offset,
}

impl Unpacking {
    /// Writes as many of the batches as `image` has room for.
    fn fill(&mut self, row: &[u8], image: &mut [u8]) -> Result<(), UnpackError> {
        let mut decompressor = Decompressor::default();
        for (header, batch) in batches(row) {
            let end = self.bytes + header.unpacked_bytes();
            let Some(out) = image.get_mut(self.bytes..end) else { break };
            header.unpack(batch, &mut decompressor, out)?;
            self.bytes = end;
            self.stored_bytes += batch.len();
            self.next = header.next_offset();
        }
        Ok(())
    }
}
