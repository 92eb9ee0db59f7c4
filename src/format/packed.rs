//! Batches whose payload is compressed: made before their offsets are known, and read back.
//!
//! Not here: the codecs (`codec`), the layout of a batch (`batch`).
//!
//! A batch is packed before the writer lock is taken, where neither its offsets nor the time of its
//! append are known. Offsets are deltas anyway. Where no record has a timestamp of its own, all
//! deltas are 0 and the base is stamped with the header, so that they have the time of their append
//! exactly. Where some have one, the others need theirs before: they get the time of the packing.

use super::batch::{
    BATCH_HEADER_BYTES, BatchHeader, BatchStamp, PAYLOAD_BYTES_MAX, encode_records, seal,
};
use super::bytes::{align8, narrow, widen};
use super::codec::{Codec, CodecError, Decompressor, NotBuilt, compress};
use super::identity::Identity;
use super::record::Record;

/// A batch that lacks its offsets and the time of its append.
#[derive(Debug)]
pub(crate) struct PackedBatch {
    codec: Codec,
    payload: Vec<u8>,
    uncompressed_bytes: u32,
    record_count: u32,
    timestamps: Timestamps,
}

#[derive(Clone, Copy, Debug)]
enum Timestamps {
    /// All have the time of the append.
    OfAppend,
    Given {
        base: i64,
        max: i64,
    },
}

impl PackedBatch {
    /// Compresses records that [`measure`](super::measure) found to make a batch of `bytes`; `None`
    /// if the batch, with its padding, would not be smaller. `now` is asked where some of the
    /// records have a timestamp, and others do not.
    pub(crate) fn new(
        records: &[Record<'_>],
        bytes: usize,
        codec: Codec,
        now: impl FnOnce() -> i64,
    ) -> Result<Option<Self>, NotBuilt> {
        let mut plain = vec![0; bytes - BATCH_HEADER_BYTES];
        let dated = records.iter().filter(|record| record.timestamp_ms().is_some()).count();
        let undated = if dated == 0 || dated == records.len() { 0 } else { now() };
        let (base, max) = encode_records(records, undated, &mut plain);
        // The padding counts: what is saved within the last 8 bytes is not.
        let below = plain.len().saturating_sub(7);
        let Some(payload) = compress(codec, &plain, below)? else { return Ok(None) };
        Ok(Some(Self {
            codec,
            payload,
            uncompressed_bytes: narrow(plain.len()),
            record_count: narrow(records.len()),
            timestamps: if dated == 0 {
                Timestamps::OfAppend
            } else {
                Timestamps::Given { base, max }
            },
        }))
    }

    /// How many records it has.
    pub(crate) fn records(&self) -> u64 {
        u64::from(self.record_count)
    }

    /// The length of the whole batch with its padding: a multiple of 8.
    pub(crate) fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + align8(self.payload.len())
    }

    /// How many bytes less that is than without a codec.
    pub(crate) fn saved_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + widen(self.uncompressed_bytes) - self.bytes()
    }

    fn timestamps(&self, append_time: i64) -> (i64, i64) {
        match self.timestamps {
            Timestamps::OfAppend => (append_time, append_time),
            Timestamps::Given { base, max } => (base, max),
        }
    }

    /// The largest of the records' timestamps, if they are appended at this time.
    pub(crate) fn max_timestamp(&self, append_time: i64) -> i64 {
        self.timestamps(append_time).1
    }

    /// Writes the batch over all of `out`, whatever that held before.
    ///
    /// # Panics
    /// If `out` is not exactly [`bytes`](Self::bytes) long.
    pub(crate) fn encode(&self, stamp: &BatchStamp, identity: &Identity, out: &mut [u8]) {
        let (header, padded) =
            out.split_first_chunk_mut::<BATCH_HEADER_BYTES>().expect("room for a header");
        let (payload, padding) = padded.split_at_mut(self.payload.len());
        payload.copy_from_slice(&self.payload);
        assert!(padding.len() < 8, "the batch has another size");
        padding.fill(0);
        let stamped =
            BatchHeader::stamped(stamp, self.record_count, self.timestamps(stamp.append_time));
        let stamped = BatchHeader {
            payload_bytes: narrow(self.payload.len()),
            uncompressed_bytes: self.uncompressed_bytes,
            attributes: stamped.attributes.with_codec(self.codec),
            ..stamped
        };
        seal(&stamped, header, padded, identity);
    }
}

/// Why the records of a compressed batch cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UnpackError {
    /// As [`CodecError`]: the codec's own reason.
    Codec(CodecError),
    /// What came out is not the records that the header speaks of.
    Records,
    /// The bytes end before the batch does.
    Short,
}

impl BatchHeader {
    /// True if the payload has to be decompressed to be read.
    #[inline]
    pub(crate) fn is_compressed(&self) -> bool {
        self.attributes.codec() != Codec::None
    }

    /// The length of the whole batch without its codec: a multiple of 8.
    pub(crate) fn unpacked_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + align8(widen(self.uncompressed_bytes))
    }

    /// Whether the compressed batch that `batch` starts with may be what its header says, as far as
    /// can be told before room is made for its records.
    pub(crate) fn check_claim(&self, batch: &[u8]) -> Result<(), UnpackError> {
        let payload = self.payload(batch).ok_or(UnpackError::Short)?;
        let codec = self.attributes.codec();
        debug_assert!(widen(self.uncompressed_bytes) <= PAYLOAD_BYTES_MAX, "decoded");
        codec.check_claim(payload, self.uncompressed_bytes).map_err(UnpackError::Codec)
    }

    /// Writes the compressed batch that `batch` starts with over `out` as it would be without a
    /// codec, with its records checked, and no checksums: for [`BatchHeader::decode_trusted`].
    ///
    /// # Panics
    /// If `out` is not exactly [`unpacked_bytes`](Self::unpacked_bytes) long.
    pub(crate) fn unpack(
        &self,
        batch: &[u8],
        decompressor: &mut Decompressor,
        out: &mut [u8],
    ) -> Result<(), UnpackError> {
        self.check_claim(batch)?;
        let payload = self.payload(batch).ok_or(UnpackError::Short)?;
        let (header, padded) =
            out.split_first_chunk_mut::<BATCH_HEADER_BYTES>().expect("room for a header");
        let (records, padding) = padded.split_at_mut(widen(self.uncompressed_bytes));
        assert!(padding.len() < 8, "the batch has another size");
        padding.fill(0);
        let codec = self.attributes.codec();
        decompressor.run(codec, payload, records).map_err(UnpackError::Codec)?;
        self.records(records).check().map_err(|_| UnpackError::Records)?;
        let plain = BatchHeader {
            payload_bytes: self.uncompressed_bytes,
            attributes: self.attributes.with_codec(Codec::None),
            header_crc: 0,
            payload_crc: 0,
            ..*self
        };
        plain.put(header);
        Ok(())
    }
}

#[cfg(all(test, feature = "lz4", feature = "zstd"))]
#[path = "packed_tests.rs"]
mod tests;
