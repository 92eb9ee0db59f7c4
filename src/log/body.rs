//! [`Body`]: what is appended as one batch, before it has its offsets.
//!
//! Not here: appending it (`writer`), how it is compressed (`format`).
//!
//! Compressing takes longer than everything that is done under the writer lock, so it is done
//! before. Whoever changes which records are appended once the lock is held appends them as they
//! are: [`Plain`].
//!
//! The append is compiled for each kind of body: records as they are go through code that knows
//! nothing of the other kind.

use crate::config::{Clock, Compression};
use crate::error::{Error, Result};
use crate::format::{BatchStamp, Identity, NotBuilt, PackedBatch, Record, encode, measure};
use crate::log::writer::refused;

/// See the [module](self).
pub(crate) trait Body {
    /// The size of the whole batch, as it is stored.
    fn bytes(&self) -> usize;

    /// How many records there are.
    fn records(&self) -> u64;

    /// Writes the batch over all of `out`, which is [`bytes`](Self::bytes) long.
    fn encode(&self, stamp: &BatchStamp, identity: &Identity, out: &mut [u8]);

    /// The largest of the records' timestamps, if they are appended at this time.
    fn max_timestamp(&self, append_time: i64) -> i64;

    /// How many bytes compression saves.
    fn saved_bytes(&self) -> u64;
}

/// Records as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<'a, 'r> {
    pub(crate) records: &'a [Record<'r>],
    bytes: usize,
}

impl<'a, 'r> Plain<'a, 'r> {
    /// Checks every limit.
    #[inline]
    pub(crate) fn new(records: &'a [Record<'r>]) -> Result<Self> {
        let bytes = measure(records).map_err(refused)?;
        Ok(Self { records, bytes })
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
}

impl Body for Plain<'_, '_> {
    #[inline]
    fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    fn records(&self) -> u64 {
        self.records.len() as u64
    }

    #[inline]
    fn encode(&self, stamp: &BatchStamp, identity: &Identity, out: &mut [u8]) {
        encode(self.records, stamp, identity, out);
    }

    #[inline]
    fn max_timestamp(&self, append_time: i64) -> i64 {
        let timestamps = self.records.iter().map(|r| r.timestamp_ms().unwrap_or(append_time));
        timestamps.max().unwrap_or(append_time)
    }

    #[inline]
    fn saved_bytes(&self) -> u64 {
        0
    }
}

impl Body for PackedBatch {
    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn records(&self) -> u64 {
        self.records()
    }

    fn encode(&self, stamp: &BatchStamp, identity: &Identity, out: &mut [u8]) {
        self.encode(stamp, identity, out);
    }

    fn max_timestamp(&self, append_time: i64) -> i64 {
        self.max_timestamp(append_time)
    }

    fn saved_bytes(&self) -> u64 {
        self.saved_bytes() as u64
    }
}
