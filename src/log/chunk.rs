//! What a fetch hands out: whole batches as they lie in the file, or would without their codec, and
//! a walk over their records.
//!
//! Not here: fetching and verifying (`read`). The bytes of a chunk were verified.
//!
//! Walking a chunk allocates nothing, copies nothing and takes no lock.

use crate::format::{BATCH_HEADER_BYTES, BatchHeader, RecordIter, RecordRef};
use crate::fs::View;
use crate::id::{LeaderEpoch, Offset};

/// Verified batches of one segment, in a row.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) view: View,
    /// What they take in their file: less than the view has, if they are compressed there.
    pub(crate) stored_bytes: usize,
    /// Records below it are not meant: they share a batch with the first that is.
    pub(crate) from: Offset,
    /// Where the next fetch goes on.
    pub(crate) next: Offset,
}

/// One record with what its batch says of it.
#[derive(Clone, Debug)]
pub(crate) struct ChunkRecord<'a> {
    pub(crate) offset: Offset,
    pub(crate) timestamp: i64,
    pub(crate) append_time: i64,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) record: RecordRef<'a>,
    /// Where the record begins in the chunk's view.
    pub(crate) position: usize,
}

impl Chunk {
    /// The base offset of the first batch.
    pub(crate) fn first_batch_offset(&self) -> Option<Offset> {
        BatchHeader::decode_trusted(self.view.bytes()).ok().map(|header| header.base_offset)
    }

    /// What the first batch says is synced everywhere.
    pub(crate) fn synced(&self) -> Option<Offset> {
        BatchHeader::decode_trusted(self.view.bytes()).ok().map(|header| header.synced)
    }

    pub(crate) fn records(&self) -> ChunkRecords<'_> {
        ChunkRecords::new(self.view.bytes(), self.from)
    }

    /// Each batch, whole.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.view.bytes();
        std::iter::from_fn(move || {
            let header = BatchHeader::decode_trusted(rest).ok()?;
            let (batch, behind) = rest.split_at_checked(header.batch_bytes())?;
            rest = behind;
            Some(batch)
        })
    }
}

/// See [`Chunk::records`].
#[derive(Clone, Debug)]
pub(crate) struct ChunkRecords<'a> {
    bytes: &'a [u8],
    /// Where the next batch begins.
    at: usize,
    from: Offset,
    batch: Stamp,
    records: RecordIter<'a>,
}

/// What the records of a batch share.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    base: Offset,
    base_timestamp: i64,
    append_time: i64,
    epoch: LeaderEpoch,
    /// Where its payload ends in the view.
    payload_end: usize,
}

impl<'a> ChunkRecords<'a> {
    fn new(bytes: &'a [u8], from: Offset) -> Self {
        let batch = Stamp {
            base: Offset::ZERO,
            base_timestamp: 0,
            append_time: 0,
            epoch: LeaderEpoch::default(),
            payload_end: 0,
        };
        Self { bytes, at: 0, from, batch, records: RecordIter::new(&[], 0) }
    }

    /// The next record of the batch at hand.
    // As `RecordIter::next_checked`.
    #[expect(clippy::inline_always, reason = "measured: iterating takes twice as long without")]
    #[inline(always)]
    fn next_of_batch(&mut self) -> Option<ChunkRecord<'a>> {
        let position = self.batch.payload_end - self.records.rest().len();
        let record = self.records.next_checked()?;
        Some(ChunkRecord {
            offset: self.batch.base.plus(u64::from(record.offset_delta)),
            timestamp: self.batch.base_timestamp.wrapping_add(record.timestamp_delta),
            append_time: self.batch.append_time,
            leader_epoch: self.batch.epoch,
            record,
            position,
        })
    }

    /// Goes on to the next batch, and in the first one to the first record that is meant.
    #[cold]
    fn next_batch(&mut self) -> Option<()> {
        loop {
            // The fetch verified the batches, so an undecodable one only means the end.
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let header = BatchHeader::decode_trusted(rest).ok()?;
            let payload = header.payload(rest)?;
            self.batch = Stamp {
                base: header.base_offset,
                base_timestamp: header.base_timestamp,
                append_time: header.append_time,
                epoch: header.leader_epoch,
                payload_end: self.at + BATCH_HEADER_BYTES + payload.len(),
            };
            self.records = header.records(payload);
            self.at += header.batch_bytes();
            loop {
                let before = self.records.clone();
                match self.next_of_batch() {
                    Some(record) if record.offset < self.from => {}
                    Some(_) => {
                        self.records = before;
                        return Some(());
                    }
                    None => break,
                }
            }
        }
    }
}

impl<'a> Iterator for ChunkRecords<'a> {
    type Item = ChunkRecord<'a>;

    #[inline]
    fn next(&mut self) -> Option<ChunkRecord<'a>> {
        loop {
            if let Some(record) = self.next_of_batch() {
                return Some(record);
            }
            self.next_batch()?;
        }
    }
}
