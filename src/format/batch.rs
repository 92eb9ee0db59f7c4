//! One batch: records framed, checksummed, replicated and synced as a unit.
//!
//! Not here: what a record's bytes mean (`record`), what a compressed payload's do (`codec`),
//! deciding that a log ends (`log`).
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
//! | 12 | 4 | `uncompressed_bytes` | equals `payload_bytes` without a codec; never more than those can become | header |
//! | 16 | 2 | attributes | see below | header |
//! | 18 | 2 | reserved | zero, as below | header |
//! | 20 | 4 | `leader_epoch` | of the leader that appended it | header |
//! | 24 | 8 | `base_offset` | of the first record; kept by compaction | header |
//! | 32 | 4 | `last_offset_delta` | next offset - base - 1; kept by compaction | header |
//! | 36 | 4 | `record_count` | 0 only where compacted | header |
//! | 40 | 8 | `base_timestamp` | what the records' deltas add to, ms | header |
//! | 48 | 8 | `max_timestamp` | largest of the records' own | header |
//! | 56 | 8 | `append_time` | the leader's clock | header |
//! | 64 | 8 | synced | offset below which the whole ISR had synced | header |
//! | 72 | 8 | `delete_horizon` | when its tombstones may go, ms; 0 until cleaned | header |
//! | 80 | 8 | `producer_id` | 2^64 - 1 for none; bit 62 is set for one with a name | header |
//! | 88 | 8 | `base_sequence` | of the first record | header |
//! | 96 | 4 | `producer_epoch` | | header |
//! | 100 | 16 | reserved | zero; anything else is refused as unknown | header |
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
//!           bytes long and starts `5042a7c1 0e0a9359 28000000 28000000 00000000 05000000`: see
//!           `golden/batch.txt`.
//! Damage    bad header: nothing of it is believed, not even its length; the next batch is found
//!           by [`find_next`]. Bad payload: costs exactly this batch. Bytes 0..12 zero: the
//!           log ends here, or there is a hole; which of them is not decided here.

use super::bytes::{
    align8, array_at, epoch_at, i64_at, narrow, offset_at, put_array, put_i64, put_u32, put_u64,
    u32_at, u64_at, widen,
};
use super::codec::Codec;
use super::identity::Identity;
use super::record::{RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, Record, RecordError};
use super::records::RecordIter;
use crate::id::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// The fixed part of a batch.
pub(crate) const BATCH_HEADER_BYTES: usize = 120;
/// What a batch's records may have together, as stored: a largest record and its framing fit.
pub(crate) const PAYLOAD_BYTES_MAX: usize = RECORD_BYTES_MAX + 4096;

/// The first bytes of a batch: chosen so that neither text nor zeros nor small numbers look alike.
const MAGIC: u32 = u32::from_le_bytes(*b"PB\xa7\xc1");

const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(8));
const _: () = assert!(PAYLOAD_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(RECORD_BYTES_MAX + RECORD_PREFIX_BYTES + 16 <= PAYLOAD_BYTES_MAX);

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

    /// What the bytes 16 to 20 of a header say: those behind the attributes are reserved.
    #[inline]
    fn checked(bytes: u32) -> Option<Self> {
        let bits = u16::try_from(bytes).ok()?;
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
    pub(crate) producer_epoch: ProducerEpoch,
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
    pub(crate) producer_id: ProducerId,
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
        if array_at::<100, 16, _>(header) != [0; 16] {
            return Err(BatchError::Unknown);
        }
        let attributes = Attributes::checked(u32_at::<16, _>(header)).ok_or(BatchError::Unknown)?;
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
        let fits = match attributes.codec() {
            Codec::None => payload_bytes == uncompressed_bytes,
            codec => u64::from(uncompressed_bytes) <= codec.output_max(payload_bytes),
        };
        if !fits {
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
            producer_epoch: ProducerEpoch::new(u32_at::<96, _>(header)),
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
            producer_id: ProducerId::new(u64_at::<80, _>(header)),
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

    /// What a stamp says of a batch without gaps in its offsets; its payload's sizes are left 0.
    // Else the whole header is built in memory, field by field, and then copied.
    #[expect(
        clippy::inline_always,
        reason = "measured: an append takes 44 instructions more without"
    )]
    #[inline(always)]
    pub(super) fn stamped(
        stamp: &BatchStamp,
        record_count: u32,
        (base_timestamp, max_timestamp): (i64, i64),
    ) -> Self {
        Self {
            payload_bytes: 0,
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
            uncompressed_bytes: 0,
            delete_horizon: 0,
            producer_id: stamp.producer_id,
            base_sequence: stamp.base_sequence,
        }
    }

    /// Every field as it is here, the two checksums too.
    #[inline]
    pub(super) fn put(&self, header: &mut [u8; BATCH_HEADER_BYTES]) {
        put_u32::<0, _>(header, MAGIC);
        put_u32::<4, _>(header, self.header_crc);
        put_u32::<8, _>(header, self.payload_bytes);
        put_u32::<12, _>(header, self.uncompressed_bytes);
        put_u32::<16, _>(header, u32::from(self.attributes.0));
        put_u32::<20, _>(header, self.leader_epoch.get());
        put_u64::<24, _>(header, self.base_offset.get());
        put_u32::<32, _>(header, self.last_offset_delta);
        put_u32::<36, _>(header, self.record_count);
        put_i64::<40, _>(header, self.base_timestamp);
        put_i64::<48, _>(header, self.max_timestamp);
        put_i64::<56, _>(header, self.append_time);
        put_u64::<64, _>(header, self.synced.get());
        put_i64::<72, _>(header, self.delete_horizon);
        put_u64::<80, _>(header, self.producer_id.get());
        put_u64::<88, _>(header, self.base_sequence);
        put_u32::<96, _>(header, self.producer_epoch.get());
        put_array::<100, 16, _>(header, [0; 16]);
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
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
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
    let timestamps = encode_records(records, stamp.append_time, payload);
    let payload_bytes = narrow(payload.len());
    let stamped = BatchHeader::stamped(stamp, narrow(records.len()), timestamps);
    let stamped = BatchHeader { payload_bytes, uncompressed_bytes: payload_bytes, ..stamped };
    seal(&stamped, header, payload, identity);
}

/// Writes a header, and the checksums of it and of the padded payload that follows it.
#[expect(clippy::inline_always, reason = "measured, as `BatchHeader::stamped`")]
#[inline(always)]
pub(super) fn seal(
    fields: &BatchHeader,
    header: &mut [u8; BATCH_HEADER_BYTES],
    padded: &[u8],
    identity: &Identity,
) {
    fields.put(header);
    // Last, so that the header's other fields have left the store buffer when its checksum reads
    // them: it loads wider pieces than were stored, which otherwise waits.
    put_u32::<116, _>(header, identity.crc(padded));
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
#[path = "batch_tests.rs"]
mod tests;
