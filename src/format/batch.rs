//! One batch: records framed, checksummed, replicated and synced as a unit.
//!
//! Not here: what a record's bytes mean (`record`), compressing (its caller), deciding that a log
//! ends (`log`).
//!
//! ```text
//! batch := header payload pad8            begins at a multiple of 8 in its file
//! ```
//!
//! | offset | size | field | meaning | covered by |
//! | --- | --- | --- | --- | --- |
//! | 0 | 4 | magic | `50 42 a7 c1` | itself |
//! | 4 | 4 | `header_crc` | of bytes 8..120 | |
//! | 8 | 4 | `payload_bytes` | as stored, without padding | header |
//! | 12 | 4 | `uncompressed_bytes` | equals `payload_bytes` without a codec | header |
//! | 16 | 2 | attributes | see below | header |
//! | 18 | 2 | `producer_epoch` | | header |
//! | 20 | 4 | `leader_epoch` | of the leader that appended it | header |
//! | 24 | 8 | `base_offset` | of the first record; kept by compaction | header |
//! | 32 | 4 | `last_offset_delta` | next offset - base - 1; kept by compaction | header |
//! | 36 | 4 | `record_count` | 0 only where compacted | header |
//! | 40 | 8 | `base_timestamp` | what the records' deltas add to, ms | header |
//! | 48 | 8 | `max_timestamp` | largest of the records' own | header |
//! | 56 | 8 | `append_time` | the leader's clock | header |
//! | 64 | 8 | synced | offset below which the whole ISR had synced | header |
//! | 72 | 8 | `delete_horizon` | when its tombstones may go, ms; 0 until cleaned | header |
//! | 80 | 8 | `producer_id` | 2^64 - 1 for none | header |
//! | 88 | 8 | `base_sequence` | of the first record | header |
//! | 96 | 20 | reserved | zero; anything else is refused as unknown | header |
//! | 116 | 4 | `payload_crc` | of the payload and its zero padding to 8 | header |
//! | 120 | | payload | records | payload |
//!
//! The header's checksum covers 112 bytes in one piece, 7 steps of the carry-less multiply with
//! no remainder; with the payload's checksum in the last of them the two run side by side.
//! Together that saves a third of the time that sealing a small batch takes.
//!
//! Attributes: bits 0-2 are the codec (0 none, 1 lz4, 2 zstd), 8 transactional, 16 control, 32
//! compacted; others are refused. Both checksums are seeded with the partition's identity.
//!
//! Example   record `paid` at offset 0, epoch 5, of topic 7, salt 0x11223344, partition 3, is 160
//!           bytes long and starts `5042a7c1 72013ee9 28000000 28000000 00000600 05000000`: see
//!           `golden/batch.txt`.
//! Damage    bad header: nothing of it is believed, not even its length; the next batch is found
//!           by [`find_next`]. Bad payload: costs exactly this batch. Bytes 0..12 zero: the
//!           log ends here, or there is a hole; which of them is not decided here.

use super::bytes::{
    align8, array_at, epoch_at, i64_at, narrow, offset_at, put_array, put_i64, put_u16, put_u32,
    put_u64, u16_at, u32_at, u64_at, widen,
};
use super::identity::Identity;
use super::record::{RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, Record, RecordError};
use super::records::RecordIter;
use crate::id::{LeaderEpoch, Offset};

/// The fixed part of a batch.
pub(crate) const BATCH_HEADER_BYTES: usize = 120;
/// What a batch's records may have together, as stored: a largest record and its framing fit.
pub(crate) const PAYLOAD_BYTES_MAX: usize = RECORD_BYTES_MAX + 4096;
/// The `producer_id` of a batch that no producer numbered.
pub(crate) const NO_PRODUCER: u64 = u64::MAX;

/// The first bytes of a batch: chosen so that neither text nor zeros nor small numbers look alike.
const MAGIC: u32 = u32::from_le_bytes(*b"PB\xa7\xc1");

const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(8));
const _: () = assert!(PAYLOAD_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(RECORD_BYTES_MAX + RECORD_PREFIX_BYTES + 16 <= PAYLOAD_BYTES_MAX);

/// How a payload is compressed. Never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Codec {
    None = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// A batch's attributes; only known bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Attributes(u16);

impl Attributes {
    const CODEC: u16 = 0b111;
    /// Part of a transaction.
    pub(crate) const TRANSACTIONAL: Attributes = Attributes(8);
    /// Of the log's own matters, never handed to a consumer.
    pub(crate) const CONTROL: Attributes = Attributes(16);
    /// Rewritten by compaction: it may have lost records.
    pub(crate) const COMPACTED: Attributes = Attributes(32);

    /// These and `others`.
    #[cfg(test)]
    pub(crate) const fn with(self, others: Attributes) -> Self {
        Self(self.0 | others.0)
    }

    /// These with another codec.
    #[cfg(test)]
    pub(crate) const fn with_codec(self, codec: Codec) -> Self {
        Self((self.0 & !Self::CODEC) | codec as u16)
    }

    /// Whether all of `others` are among these.
    pub(crate) const fn has(self, others: Attributes) -> bool {
        self.0 & others.0 == others.0
    }

    pub(crate) const fn codec(self) -> Codec {
        match self.0 & Self::CODEC {
            1 => Codec::Lz4,
            2 => Codec::Zstd,
            _ => Codec::None,
        }
    }

    fn checked(bits: u16) -> Option<Self> {
        let flags = Self::TRANSACTIONAL.0 | Self::CONTROL.0 | Self::COMPACTED.0;
        (bits & !(flags | Self::CODEC) == 0 && bits & Self::CODEC <= 2).then_some(Self(bits))
    }
}

/// Why a batch was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BatchError {
    /// Magic, checksum and length are zero: the end of the log, or a hole.
    Empty,
    /// The bytes end before the header or the batch does.
    Short {
        /// How many there would have to be.
        needed: usize,
    },
    /// It starts with something else.
    BadMagic,
    /// The header's checksum does not fit: damaged, torn, or of another partition.
    HeaderCrc,
    /// The payload's checksum does not fit.
    PayloadCrc,
    /// A length above its limit.
    Limit {
        /// The length.
        bytes: u32,
    },
    /// Attributes or reserved bytes of a newer program.
    Unknown,
    /// Fields that contradict each other.
    Inconsistent(&'static str),
}

/// What a batch says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub(crate) payload_bytes: u32,
    /// As read, or 0 until sealed.
    pub(crate) header_crc: u32,
    pub(crate) payload_crc: u32,
    pub(crate) attributes: Attributes,
    pub(crate) producer_epoch: u16,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset_delta: u32,
    pub(crate) record_count: u32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) append_time: i64,
    pub(crate) synced: Offset,
    pub(crate) uncompressed_bytes: u32,
    pub(crate) delete_horizon: i64,
    pub(crate) producer_id: u64,
    pub(crate) base_sequence: u64,
}

impl BatchHeader {
    /// The header at the start of `bytes`, if it verifies. The payload is another matter:
    /// [`BatchHeader::check_payload`].
    #[inline]
    pub(crate) fn decode(bytes: &[u8], identity: &Identity) -> Result<Self, BatchError> {
        let header = cut_header(bytes)?;
        if header_crc(header, identity) != u32_at::<4, _>(header) {
            return Err(BatchError::HeaderCrc);
        }
        Self::read(header)
    }

    /// As [`BatchHeader::decode`], without the checksum: for bytes that were verified before.
    #[inline]
    pub(crate) fn decode_trusted(bytes: &[u8]) -> Result<Self, BatchError> {
        Self::read(cut_header(bytes)?)
    }

    #[inline]
    fn read(header: &[u8; BATCH_HEADER_BYTES]) -> Result<Self, BatchError> {
        let payload_bytes = u32_at::<8, _>(header);
        let uncompressed_bytes = u32_at::<12, _>(header);
        for bytes in [payload_bytes, uncompressed_bytes] {
            if widen(bytes) > PAYLOAD_BYTES_MAX {
                return Err(BatchError::Limit { bytes });
            }
        }
        if array_at::<96, 20, _>(header) != [0; 20] {
            return Err(BatchError::Unknown);
        }
        let attributes = Attributes::checked(u16_at::<16, _>(header)).ok_or(BatchError::Unknown)?;
        let base_offset =
            offset_at::<24, _>(header).ok_or(BatchError::Inconsistent("base_offset"))?;
        let synced = offset_at::<64, _>(header).ok_or(BatchError::Inconsistent("synced"))?;
        let leader_epoch =
            epoch_at::<20, _>(header).ok_or(BatchError::Inconsistent("leader_epoch"))?;
        let last_offset_delta = u32_at::<32, _>(header);
        let record_count = u32_at::<36, _>(header);
        if base_offset.distance_to(Offset::MAX) <= u64::from(last_offset_delta) {
            return Err(BatchError::Inconsistent("last_offset_delta"));
        }
        if u64::from(record_count) > u64::from(last_offset_delta) + 1 {
            return Err(BatchError::Inconsistent("record_count"));
        }
        if record_count == 0 && !attributes.has(Attributes::COMPACTED) {
            return Err(BatchError::Inconsistent("record_count"));
        }
        if attributes.codec() == Codec::None && payload_bytes != uncompressed_bytes {
            return Err(BatchError::Inconsistent("uncompressed_bytes"));
        }
        let least = u64::from(record_count) * RECORD_PREFIX_BYTES as u64;
        if u64::from(uncompressed_bytes) < least {
            return Err(BatchError::Inconsistent("record_count"));
        }
        Ok(Self {
            payload_bytes,
            header_crc: u32_at::<4, _>(header),
            payload_crc: u32_at::<116, _>(header),
            attributes,
            producer_epoch: u16_at::<18, _>(header),
            leader_epoch,
            base_offset,
            last_offset_delta,
            record_count,
            base_timestamp: i64_at::<40, _>(header),
            max_timestamp: i64_at::<48, _>(header),
            append_time: i64_at::<56, _>(header),
            synced,
            uncompressed_bytes,
            delete_horizon: i64_at::<72, _>(header),
            producer_id: u64_at::<80, _>(header),
            base_sequence: u64_at::<88, _>(header),
        })
    }

    /// The offset after the batch's last, also where that record was compacted away.
    #[inline]
    pub(crate) fn next_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.last_offset_delta) + 1)
    }

    /// The length of the whole batch with its padding: a multiple of 8.
    #[inline]
    pub(crate) fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + align8(widen(self.payload_bytes))
    }

    /// The payload of the batch that `batch` starts with; `None` if that is cut short.
    #[inline]
    pub(crate) fn payload<'a>(&self, batch: &'a [u8]) -> Option<&'a [u8]> {
        let end = BATCH_HEADER_BYTES.checked_add(widen(self.payload_bytes))?;
        batch.get(BATCH_HEADER_BYTES..end)
    }

    /// The records of the batch's payload, which was decompressed if it had a codec.
    #[inline]
    pub(crate) fn records<'a>(&self, payload: &'a [u8]) -> RecordIter<'a> {
        RecordIter::bounded(payload, self.record_count, self.last_offset_delta)
    }

    /// Whether the payload of the batch that `batch` starts with is the one it was sealed with.
    #[inline]
    pub(crate) fn check_payload(
        &self,
        batch: &[u8],
        identity: &Identity,
    ) -> Result<(), BatchError> {
        let needed = self.batch_bytes();
        let padded = batch.get(BATCH_HEADER_BYTES..needed).ok_or(BatchError::Short { needed })?;
        if identity.crc(padded) == self.payload_crc { Ok(()) } else { Err(BatchError::PayloadCrc) }
    }

    /// Writes the header with its checksum to the start of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than a header.
    #[cfg(any(test, fuzzing))]
    #[inline]
    pub(crate) fn encode_header(&self, identity: &Identity, out: &mut [u8]) {
        let header = out.first_chunk_mut::<BATCH_HEADER_BYTES>().expect("room for a header");
        self.put(header);
        seal_header(header, identity);
    }

    /// Every field as it is here, the two checksums too.
    #[inline]
    fn put(&self, header: &mut [u8; BATCH_HEADER_BYTES]) {
        put_u32::<0, _>(header, MAGIC);
        put_u32::<4, _>(header, self.header_crc);
        put_u32::<8, _>(header, self.payload_bytes);
        put_u32::<12, _>(header, self.uncompressed_bytes);
        put_u16::<16, _>(header, self.attributes.0);
        put_u16::<18, _>(header, self.producer_epoch);
        put_u32::<20, _>(header, self.leader_epoch.get());
        put_u64::<24, _>(header, self.base_offset.get());
        put_u32::<32, _>(header, self.last_offset_delta);
        put_u32::<36, _>(header, self.record_count);
        put_i64::<40, _>(header, self.base_timestamp);
        put_i64::<48, _>(header, self.max_timestamp);
        put_i64::<56, _>(header, self.append_time);
        put_u64::<64, _>(header, self.synced.get());
        put_i64::<72, _>(header, self.delete_horizon);
        put_u64::<80, _>(header, self.producer_id);
        put_u64::<88, _>(header, self.base_sequence);
        put_array::<96, 20, _>(header, [0; 20]);
        put_u32::<116, _>(header, self.payload_crc);
    }
}

#[inline]
fn cut_header(bytes: &[u8]) -> Result<&[u8; BATCH_HEADER_BYTES], BatchError> {
    let short = BatchError::Short { needed: BATCH_HEADER_BYTES };
    let start = bytes.first_chunk::<12>().ok_or(short)?;
    if u32_at::<0, _>(start) != MAGIC {
        let empty = *start == [0; 12];
        return Err(if empty { BatchError::Empty } else { BatchError::BadMagic });
    }
    bytes.first_chunk().ok_or(short)
}

/// The checksum of a header: of all of it but the magic and the checksum.
#[inline]
fn header_crc(header: &[u8; BATCH_HEADER_BYTES], identity: &Identity) -> u32 {
    identity.crc(&header[8..])
}

/// Puts its checksum into a header that is whole but for that.
#[inline]
fn seal_header(header: &mut [u8; BATCH_HEADER_BYTES], identity: &Identity) {
    let crc = header_crc(header, identity);
    put_u32::<4, _>(header, crc);
}

/// What the leader adds to the records it appends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchStamp {
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) base_offset: Offset,
    pub(crate) append_time: i64,
    pub(crate) synced: Offset,
    pub(crate) producer_id: u64,
    pub(crate) producer_epoch: u16,
    pub(crate) base_sequence: u64,
}

/// The size of a batch of these records: whole, a multiple of 8. Checks every limit.
#[inline]
pub(crate) fn measure(records: &[Record<'_>]) -> Result<usize, RecordError> {
    if records.is_empty() {
        return Err(RecordError::Empty);
    }
    let mut payload_bytes = 0_usize;
    for record in records {
        payload_bytes += record.measure()?;
        // Checked each time, so that the sum cannot wrap. It bounds the count as well.
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(RecordError::BatchTooLarge { bytes: payload_bytes });
        }
    }
    Ok(BATCH_HEADER_BYTES + payload_bytes)
}

/// Writes an uncompressed batch over all of `out`, whatever that held before.
///
/// # Panics
/// If `out` is not exactly as long as [`measure`] said.
#[inline]
pub(crate) fn encode(
    records: &[Record<'_>],
    stamp: &BatchStamp,
    identity: &Identity,
    out: &mut [u8],
) {
    let (header, payload) =
        out.split_first_chunk_mut::<BATCH_HEADER_BYTES>().expect("room for a header");
    let (base_timestamp, max_timestamp) = encode_records(records, stamp.append_time, payload);
    let payload_bytes = narrow(payload.len());
    let record_count = narrow(records.len());
    BatchHeader {
        payload_bytes,
        header_crc: 0,
        payload_crc: 0,
        attributes: Attributes::default(),
        producer_epoch: stamp.producer_epoch,
        leader_epoch: stamp.leader_epoch,
        base_offset: stamp.base_offset,
        last_offset_delta: record_count - 1,
        record_count,
        base_timestamp,
        max_timestamp,
        append_time: stamp.append_time,
        synced: stamp.synced,
        uncompressed_bytes: payload_bytes,
        delete_horizon: 0,
        producer_id: stamp.producer_id,
        base_sequence: stamp.base_sequence,
    }
    .put(header);
    // Last, so that the header's other fields have left the store buffer when its checksum reads
    // them: it loads wider pieces than were stored, which otherwise waits.
    put_u32::<116, _>(header, identity.crc(payload));
    seal_header(header, identity);
}

/// Writes records over all of `payload` and returns their base and their largest timestamp.
///
/// # Panics
/// If `payload` is not exactly as long as [`measure`] said, less a header.
#[inline]
pub(crate) fn encode_records(
    records: &[Record<'_>],
    append_time: i64,
    payload: &mut [u8],
) -> (i64, i64) {
    let first = records.first().expect("a batch of at least one record");
    let base = first.timestamp_ms().unwrap_or(append_time);
    let mut max = base;
    let mut rest = payload;
    for (offset_delta, record) in (0..).zip(records) {
        let timestamp = record.timestamp_ms().unwrap_or(append_time);
        max = max.max(timestamp);
        rest = record.encode(offset_delta, timestamp.wrapping_sub(base), rest);
    }
    assert!(rest.is_empty(), "the batch was measured with other records");
    (base, max)
}

/// The first good batch at a multiple of 8 from `from` on: header and payload verify, all of it
/// lies within `bytes`, and its base offset is at least `at_least`.
pub(crate) fn find_next(
    bytes: &[u8],
    from: usize,
    identity: &Identity,
    at_least: Offset,
) -> Option<(usize, BatchHeader)> {
    let mut at = from.checked_next_multiple_of(8)?;
    loop {
        let rest = bytes.get(at..)?;
        let skipped = rest
            .chunks_exact(8)
            .position(|step| step.first_chunk() == Some(&MAGIC.to_le_bytes()))?;
        at += skipped * 8;
        let batch = bytes.get(at..)?;
        if let Ok(header) = BatchHeader::decode(batch, identity)
            && header.base_offset >= at_least
            && header.check_payload(batch, identity).is_ok()
        {
            return Some((at, header));
        }
        at += 8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, assert_golden, flip_every_bit, identity};
    use super::*;
    use crate::id::{PartitionId, TopicId};

    fn stamp(base: u64) -> BatchStamp {
        BatchStamp {
            leader_epoch: LeaderEpoch::new(5),
            base_offset: Offset::new(base),
            append_time: 1_700_000_000_000,
            synced: Offset::new(base / 2),
            producer_id: 42,
            producer_epoch: 6,
            base_sequence: 77,
        }
    }

    /// Writes a batch over bytes that were all ones before.
    fn write(records: &[Record<'_>], base: u64) -> Vec<u8> {
        let mut batch = vec![0xFF; measure(records).unwrap()];
        encode(records, &stamp(base), &identity(), &mut batch);
        batch
    }

    fn check(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let header = BatchHeader::decode(bytes, &identity())?;
        header.check_payload(bytes, &identity())?;
        Ok(header)
    }

    fn full() -> Vec<u8> {
        write(
            &[
                Record::new("paid").key("order-42").timestamp(1_000),
                Record::new("sent").header("trace", "7f3a").dedup_key("p-1").timestamp(900),
                Record::tombstone("order-41"),
            ],
            100,
        )
    }

    /// Changes a header and seals it again.
    fn reseal(batch: &mut [u8], change: impl FnOnce(&mut [u8])) {
        change(batch);
        let crc = identity().crc(&batch[8..BATCH_HEADER_BYTES]);
        batch[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn golden_bytes() {
        assert_golden("batch", &write(&[Record::new("paid")], 0), include_str!("golden/batch.txt"));
        assert_golden("batch_full", &full(), include_str!("golden/batch_full.txt"));
    }

    #[test]
    fn a_batch_says_what_was_stamped_on_it() {
        let batch = full();
        let header = check(&batch).unwrap();
        assert_eq!(header.base_offset, Offset::new(100));
        assert_eq!(header.next_offset(), Offset::new(103));
        assert_eq!((header.record_count, header.last_offset_delta), (3, 2));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 1_700_000_000_000));
        assert_eq!(header.append_time, 1_700_000_000_000);
        assert_eq!(header.leader_epoch, LeaderEpoch::new(5));
        assert_eq!(header.synced, Offset::new(50));
        assert_eq!((header.producer_id, header.producer_epoch), (42, 6));
        assert_eq!((header.base_sequence, header.delete_horizon), (77, 0));
        assert_eq!(header.attributes, Attributes::default());
        assert_eq!(header.batch_bytes(), batch.len());
        assert_eq!(BatchHeader::decode_trusted(&batch), Ok(header));
        let payload = header.payload(&batch).unwrap();
        let times: Vec<i64> = header
            .records(payload)
            .map(|record| header.base_timestamp.wrapping_add(record.unwrap().timestamp_delta))
            .collect();
        assert_eq!(times, [1_000, 900, 1_700_000_000_000]);
    }

    #[test]
    fn timestamps_at_both_ends_of_their_range_survive() {
        let records = [Record::new("a").timestamp(i64::MAX), Record::new("b").timestamp(i64::MIN)];
        let batch = write(&records, 0);
        let header = check(&batch).unwrap();
        let last = header.records(header.payload(&batch).unwrap()).last().unwrap().unwrap();
        assert_eq!(header.base_timestamp.wrapping_add(last.timestamp_delta), i64::MIN);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        flip_every_bit(&full(), |batch, bit| {
            assert!(check(batch).is_err(), "bit {bit}");
        });
    }

    #[test]
    fn a_bad_payload_leaves_the_header_good() {
        let mut batch = full();
        *batch.last_mut().unwrap() ^= 1;
        let header = BatchHeader::decode(&batch, &identity()).unwrap();
        assert_eq!(header.check_payload(&batch, &identity()), Err(BatchError::PayloadCrc));
    }

    #[test]
    fn a_batch_of_another_partition_is_refused() {
        let batch = full();
        let other = Identity::new(TopicId::new(7), 0x1122_3344, PartitionId::new(4));
        assert_eq!(BatchHeader::decode(&batch, &other), Err(BatchError::HeaderCrc));
        let header = BatchHeader::decode_trusted(&batch).unwrap();
        assert_eq!(header.check_payload(&batch, &other), Err(BatchError::PayloadCrc));
    }

    #[test]
    fn every_cut_of_a_batch_is_short() {
        let batch = full();
        for end in 0..batch.len() {
            let error = check(&batch[..end]).unwrap_err();
            assert!(matches!(error, BatchError::Short { .. }), "cut at {end}: {error:?}");
        }
    }

    #[test]
    fn zeros_are_empty_and_text_is_not_a_batch() {
        assert_eq!(check(&[0; 120]), Err(BatchError::Empty));
        assert_eq!(check(&[0; 12]), Err(BatchError::Empty));
        assert_eq!(check(&[b'x'; 120]), Err(BatchError::BadMagic));
        let mut zero_magic = full();
        zero_magic[..4].fill(0);
        assert_eq!(check(&zero_magic), Err(BatchError::BadMagic));
    }

    #[test]
    fn sealed_nonsense_is_refused_by_name() {
        let refused = |at: usize, bytes: &[u8]| {
            let mut batch = full();
            reseal(&mut batch, |batch| batch[at..at + bytes.len()].copy_from_slice(bytes));
            let error = BatchHeader::decode(&batch, &identity()).unwrap_err();
            assert_eq!(BatchHeader::decode_trusted(&batch), Err(error));
            error
        };
        let above = u32::try_from(PAYLOAD_BYTES_MAX + 1).unwrap();
        let number = u64::to_le_bytes;
        assert_eq!(refused(8, &above.to_le_bytes()), BatchError::Limit { bytes: above });
        assert_eq!(refused(12, &above.to_le_bytes()), BatchError::Limit { bytes: above });
        assert_eq!(refused(12, &[0; 4]), BatchError::Inconsistent("uncompressed_bytes"));
        assert_eq!(refused(20, &[0xFF; 4]), BatchError::Inconsistent("leader_epoch"));
        for bits in [3, 4, 7, 64, 128] {
            assert_eq!(refused(16, &[bits]), BatchError::Unknown, "attribute {bits}");
        }
        assert_eq!(refused(17, &[1]), BatchError::Unknown);
        for at in 96..116 {
            assert_eq!(refused(at, &[1]), BatchError::Unknown, "reserved byte {at}");
        }
        let beyond = number(Offset::MAX.get() + 1);
        assert_eq!(refused(24, &beyond), BatchError::Inconsistent("base_offset"));
        assert_eq!(refused(64, &beyond), BatchError::Inconsistent("synced"));
        let last = number(Offset::MAX.get() - 2);
        assert_eq!(refused(24, &last), BatchError::Inconsistent("last_offset_delta"));
        assert_eq!(refused(32, &[1, 0, 0, 0]), BatchError::Inconsistent("record_count"));
        assert_eq!(refused(36, &[0; 4]), BatchError::Inconsistent("record_count"));
    }

    #[test]
    fn a_batch_may_end_at_the_largest_offset() {
        let mut batch = full();
        let base = Offset::MAX.get() - 3;
        reseal(&mut batch, |batch| batch[24..32].copy_from_slice(&base.to_le_bytes()));
        assert_eq!(check(&batch).unwrap().next_offset(), Offset::MAX);
    }

    #[test]
    fn a_compacted_batch_may_have_lost_every_record() {
        let header = BatchHeader {
            payload_bytes: 0,
            uncompressed_bytes: 0,
            record_count: 0,
            payload_crc: identity().crc(&[]),
            attributes: Attributes::COMPACTED,
            ..check(&full()).unwrap()
        };
        let mut batch = [0xFF; BATCH_HEADER_BYTES];
        header.encode_header(&identity(), &mut batch);
        let read = check(&batch).unwrap();
        assert_eq!((read.next_offset(), read.batch_bytes()), (Offset::new(103), 120));
        assert_eq!(read.records(&[]).count(), 0);
    }

    #[test]
    fn a_compressed_payload_of_any_length_is_padded() {
        for payload_bytes in 0..20 {
            let mut batch = vec![0; BATCH_HEADER_BYTES + align8(payload_bytes)];
            batch[BATCH_HEADER_BYTES..][..payload_bytes].fill(9);
            let header = BatchHeader {
                payload_bytes: narrow(payload_bytes),
                payload_crc: identity().crc(&batch[BATCH_HEADER_BYTES..]),
                attributes: Attributes::CONTROL.with_codec(Codec::Zstd),
                ..check(&full()).unwrap()
            };
            header.encode_header(&identity(), &mut batch);
            let read = check(&batch).unwrap();
            assert_eq!(read.attributes.codec(), Codec::Zstd);
            assert!(read.attributes.has(Attributes::CONTROL));
            assert_eq!(read.payload(&batch).unwrap().len(), payload_bytes);
        }
    }

    #[test]
    fn attributes_keep_their_bits() {
        let both = Attributes::CONTROL.with(Attributes::COMPACTED).with_codec(Codec::Lz4);
        assert_eq!(both.0, 16 | 32 | 1);
        assert!(both.has(Attributes::COMPACTED) && !both.has(Attributes::TRANSACTIONAL));
        assert_eq!(both.with_codec(Codec::None).codec(), Codec::None);
    }

    #[test]
    fn measure_refuses_no_records_and_too_many_bytes() {
        assert_eq!(measure(&[]), Err(RecordError::Empty));
        let largest = vec![0; RECORD_BYTES_MAX];
        let bytes = measure(&[Record::new(&largest)]).unwrap();
        assert_eq!(bytes, BATCH_HEADER_BYTES + RECORD_PREFIX_BYTES + RECORD_BYTES_MAX);
        let two = [Record::new(&largest), Record::new(&largest[..4096])];
        assert!(matches!(measure(&two), Err(RecordError::BatchTooLarge { .. })));
        let batch = write(&[Record::new(&largest)], 0);
        assert_eq!(check(&batch).unwrap().batch_bytes(), batch.len());
    }

    #[test]
    fn find_next_passes_damage_and_stops_at_good_batches() {
        let (first, second, third) = (full(), write(&[Record::new("b")], 200), full());
        let mut log = [first.clone(), second.clone(), third].concat();
        let (identity, zero) = (identity(), Offset::ZERO);
        let find = |log: &[u8], from, at_least: Offset| {
            find_next(log, from, &identity, at_least).map(|(at, header)| (at, header.base_offset))
        };
        let second_at = first.len();
        assert_eq!(find(&log, 0, zero), Some((0, Offset::new(100))));
        assert_eq!(find(&log, 1, zero), Some((second_at, Offset::new(200))));
        assert_eq!(find(&log, 0, Offset::new(101)), Some((second_at, Offset::new(200))));
        assert_eq!(find(&log, 0, Offset::new(201)), None, "offsets rise");
        log[second_at + 130] ^= 1;
        let third_at = second_at + second.len();
        assert_eq!(find(&log, 8, zero), Some((third_at, Offset::new(100))), "a bad payload");
        log.pop();
        assert_eq!(find(&log, 8, zero), None, "a batch that is cut short");
        assert_eq!(find(&log, log.len() + 9, zero), None);
        assert_eq!(find(&log, usize::MAX, zero), None);
        assert_eq!(find(&[0; 4096], 0, zero), None);
    }

    #[test]
    fn random_batches_survive_a_round_trip_and_mutations_are_refused() {
        let mut random = Random::new(2);
        for _ in 0..2_000 {
            let pool = random.bytes(64);
            let records: Vec<Record<'_>> =
                (0..=random.below(6)).map(|_| random_record(&mut random, &pool)).collect();
            let batch = write(&records, 10);
            let header = check(&batch).unwrap();
            let read: Vec<_> =
                header.records(header.payload(&batch).unwrap()).map(Result::unwrap).collect();
            assert_eq!(read.len(), records.len());
            for (read, record) in read.iter().zip(&records) {
                assert_eq!(read.key, record.key_bytes());
                assert_eq!(read.value, record.value_bytes());
                assert_eq!(read.dedup_key, record.dedup_key_bytes());
                assert!(read.headers.clone().eq(record.headers()));
            }
            let mut mutated = batch.clone();
            for _ in 0..=random.below(8) {
                let at = random.below(mutated.len());
                mutated[at] = random.bytes(1)[0];
            }
            assert!(mutated == batch || check(&mutated).is_err());
        }
    }

    fn random_record<'a>(random: &mut Random, pool: &'a [u8]) -> Record<'a> {
        let mut part = || &pool[..random.below(pool.len() + 1)];
        let (value, key, dedup, header) = (part(), part(), part(), part());
        let mut record = if random.chance(5) { Record::tombstone(key) } else { Record::new(value) };
        if random.chance(2) {
            record = record.key(key);
        }
        if random.chance(3) {
            record = record.header("name", header).header("", value);
        }
        if random.chance(3) {
            record = record.dedup_key(dedup);
        }
        record
    }

    #[test]
    fn resealed_random_headers_never_panic() {
        let mut random = Random::new(3);
        for _ in 0..100_000 {
            let mut batch = full();
            reseal(&mut batch, |batch| {
                for _ in 0..=random.below(6) {
                    let at = 8 + random.below(BATCH_HEADER_BYTES - 8);
                    batch[at] = random.bytes(1)[0];
                }
            });
            if let Ok(header) = BatchHeader::decode(&batch, &identity()) {
                let _ = header.check_payload(&batch, &identity());
                assert!(header.next_offset() > header.base_offset);
                if let Some(payload) = header.payload(&batch) {
                    assert!(header.records(payload).count() <= 4);
                }
            }
        }
    }
}
