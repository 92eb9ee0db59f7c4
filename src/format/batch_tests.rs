//! What a batch's bytes say, read back, cut or damaged.

use super::super::testing::{Random, assert_golden, flip_every_bit, identity};
use super::*;
use crate::id::{PartitionId, TopicId};

fn stamp(base: u64) -> BatchStamp {
    BatchStamp {
        leader_epoch: LeaderEpoch::new(5),
        base_offset: Offset::new(base),
        append_time: 1_700_000_000_000,
        synced: Offset::new(base / 2),
        producer_id: ProducerId::new(42),
        producer_epoch: ProducerEpoch::new(6),
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
    assert_eq!((header.producer_id.get(), header.producer_epoch.get()), (42, 6));
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
    for at in [18, 19].into_iter().chain(100..116) {
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
    // Fewer cannot become as many as the header says.
    for payload_bytes in 4..24 {
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
