//! [`Body`]: what is appended as one batch, before it has its offsets.
//!
//! Not here: appending it (`writer`), how it is compressed (`format`).
//!
//! Compressing takes longer than everything that is done under the writer lock, so it is done
//! before. Whoever changes which records are appended once the lock is held appends them as they
//! are: [`Body::plain`].

use crate::config::{Clock, Compression};
use crate::error::{Error, Result};
use crate::format::{BatchStamp, Identity, NotBuilt, PackedBatch, Record, encode, measure};
use crate::log::writer::refused;

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a, 'r> {
    pub(crate) records: &'a [Record<'r>],
    /// The size of the whole batch, as it is stored.
    pub(crate) bytes: usize,
    packed: Option<&'a PackedBatch>,
}

impl<'a, 'r> Body<'a, 'r> {
    /// Records as they are. Checks every limit.
    #[inline]
    pub(crate) fn plain(records: &'a [Record<'r>]) -> Result<Self> {
        let bytes = measure(records).map_err(refused)?;
        Ok(Self { records, bytes, packed: None })
    }

    /// The same, as it is stored if it could be packed.
    pub(crate) fn with(self, packed: Option<&'a PackedBatch>) -> Self {
        let bytes = packed.map_or(self.bytes, PackedBatch::bytes);
        Self { bytes, packed, ..self }
    }

    /// Compresses the records; `None` if that makes the batch no smaller.
    pub(crate) fn pack(
        &self,
        compression: Compression,
        clock: &dyn Clock,
    ) -> Result<Option<PackedBatch>> {
        let packed =
            PackedBatch::new(self.records, self.bytes, compression.into(), || clock.now_ms());
        packed.map_err(|NotBuilt { feature }| Error::MissingFeature { feature })
    }

    /// Writes the batch over all of `out`, which is [`bytes`](Self::bytes) long.
    #[inline]
    pub(crate) fn encode(&self, stamp: &BatchStamp, identity: &Identity, out: &mut [u8]) {
        match self.packed {
            None => encode(self.records, stamp, identity, out),
            Some(packed) => packed.encode(stamp, identity, out),
        }
    }

    /// The largest of the records' timestamps, if they are appended at this time.
    #[inline]
    pub(crate) fn max_timestamp(&self, append_time: i64) -> i64 {
        if let Some(packed) = self.packed {
            return packed.max_timestamp(append_time);
        }
        let timestamps = self.records.iter().map(|r| r.timestamp_ms().unwrap_or(append_time));
        timestamps.max().unwrap_or(append_time)
    }

    /// How many bytes compression saves.
    #[inline]
    pub(crate) fn saved_bytes(&self) -> usize {
        self.packed.map_or(0, PackedBatch::saved_bytes)
    }
}
