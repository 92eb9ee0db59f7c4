//! What compressed batches are stored as, and what is made of them, honest or not.

use super::super::testing::{Random, flip_every_bit, from_golden, identity};
use super::*;
use crate::format::{BatchError, encode, measure};
use crate::id::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

const CODECS: [Codec; 2] = [Codec::Lz4, Codec::Zstd];
const NOW: i64 = 1_700_000_000_500;

fn stamp() -> BatchStamp {
    BatchStamp {
        leader_epoch: LeaderEpoch::new(5),
        base_offset: Offset::new(100),
        append_time: 1_700_000_000_000,
        synced: Offset::new(50),
        producer_id: ProducerId::new(42),
        producer_epoch: ProducerEpoch::new(6),
        base_sequence: 77,
    }
}

fn pack(records: &[Record<'_>], codec: Codec) -> Option<PackedBatch> {
    let bytes = measure(records).unwrap();
    PackedBatch::new(records, bytes, codec, || NOW).unwrap()
}

/// Writes a packed batch over bytes that were all ones before.
fn write(packed: &PackedBatch) -> Vec<u8> {
    let mut batch = vec![0xFF; packed.bytes()];
    packed.encode(&stamp(), &identity(), &mut batch);
    batch
}

fn plain(records: &[Record<'_>]) -> Vec<u8> {
    let mut batch = vec![0xFF; measure(records).unwrap()];
    encode(records, &stamp(), &identity(), &mut batch);
    batch
}

/// Reads a batch as a fetch does: checked, without its codec.
fn read(batch: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let header = BatchHeader::decode(batch, &identity()).expect("a good header");
    header.check_payload(batch, &identity()).expect("a good payload");
    header.check_claim(batch)?;
    let mut out = vec![0xFF; header.unpacked_bytes()];
    header.unpack(batch, &mut Decompressor::default(), &mut out)?;
    Ok(out)
}

/// A batch of this header and payload, sealed.
fn forged(codec: Codec, payload: &[u8], uncompressed_bytes: u32, record_count: u32) -> Vec<u8> {
    let mut batch = vec![0; BATCH_HEADER_BYTES + align8(payload.len())];
    batch[BATCH_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
    let stamped = BatchHeader::stamped(&stamp(), record_count, (0, 0));
    let header = BatchHeader {
        payload_bytes: narrow(payload.len()),
        uncompressed_bytes,
        payload_crc: identity().crc(&batch[BATCH_HEADER_BYTES..]),
        attributes: stamped.attributes.with_codec(codec),
        ..stamped
    };
    header.encode_header(&identity(), &mut batch);
    batch
}

const DAMAGED: Result<Vec<u8>, UnpackError> = Err(UnpackError::Codec(CodecError::Damaged));

/// Only what decoders make of these bytes is fixed: an encoder may find others for the same
/// records in its next version.
#[test]
fn golden_batches_are_decoded() {
    let records = [Record::new("paid paid paid paid paid paid paid paid paid paid").key("k")];
    let expected = plain(&records);
    for (codec, golden) in [
        (Codec::Lz4, include_str!("golden/batch_lz4.txt")),
        (Codec::Zstd, include_str!("golden/batch_zstd.txt")),
    ] {
        let golden = from_golden(golden);
        let header = BatchHeader::decode(&golden, &identity()).unwrap();
        assert_eq!(header.attributes.codec(), codec);
        assert!(header.batch_bytes() < expected.len());
        let out = read(&golden).unwrap();
        assert_eq!(out[BATCH_HEADER_BYTES..], expected[BATCH_HEADER_BYTES..]);
    }
}

#[test]
fn a_batch_that_was_packed_reads_as_one_that_was_not() {
    let text = "all work and no play makes a log compress. ".repeat(20);
    let records = [
        Record::new(&text).key("order-42").timestamp(1_000),
        Record::new("sent").header("trace", "7f3a").dedup_key("p-1").timestamp(900),
        Record::tombstone("order-41").timestamp(950),
        Record::new(&text).dedup_by_value().timestamp(i64::MIN),
    ];
    let expected = plain(&records);
    for codec in CODECS {
        let packed = pack(&records, codec).unwrap();
        let batch = write(&packed);
        assert!(batch.len() < expected.len() && batch.len().is_multiple_of(8));
        assert_eq!(packed.saved_bytes(), expected.len() - batch.len());
        let header = BatchHeader::decode(&batch, &identity()).unwrap();
        assert_eq!(header.attributes.codec(), codec);
        assert_eq!(header.unpacked_bytes(), expected.len());
        let out = read(&batch).unwrap();
        assert_eq!(out[BATCH_HEADER_BYTES..], expected[BATCH_HEADER_BYTES..]);
        // All but what tells of sizes and checksums.
        let want = BatchHeader::decode(&expected, &identity()).unwrap();
        let got = BatchHeader::decode_trusted(&out).unwrap();
        let crcs = |header| BatchHeader { header_crc: 0, payload_crc: 0, ..header };
        assert_eq!(crcs(got), crcs(want));
    }
}

#[test]
fn a_batch_is_packed_only_where_that_makes_it_smaller() {
    let mut random = Random::new(11);
    for codec in CODECS {
        let noise = random.bytes(20_000);
        assert!(pack(&[Record::new(&noise)], codec).is_none(), "{codec:?}: noise");
        let mut packed_once = false;
        for length in 0..200 {
            let value = vec![b'a'; length];
            let records = [Record::new(&value)];
            if let Some(packed) = pack(&records, codec) {
                packed_once = true;
                assert!(packed.bytes() < measure(&records).unwrap(), "{codec:?} {length}");
                assert!(packed.saved_bytes() >= 8);
            }
        }
        assert!(packed_once);
    }
}

#[test]
fn without_a_timestamp_records_have_the_time_of_their_append() {
    let text = "x".repeat(500);
    let undated = [Record::new(&text), Record::new(&text)];
    let mixed = [Record::new(&text).timestamp(7), Record::new(&text)];
    for codec in CODECS {
        let packed = pack(&undated, codec).unwrap();
        let at = stamp().append_time;
        assert_eq!(packed.max_timestamp(at), at);
        let header = BatchHeader::decode(&write(&packed), &identity()).unwrap();
        assert_eq!((header.base_timestamp, header.max_timestamp), (at, at));
        assert_eq!(times(&write(&packed)), [at, at]);

        // Where others have one, that of the packing.
        let packed = pack(&mixed, codec).unwrap();
        assert_eq!(packed.max_timestamp(at), NOW);
        assert_eq!(times(&write(&packed)), [7, NOW]);
    }
}

fn times(batch: &[u8]) -> Vec<i64> {
    let out = read(batch).unwrap();
    let header = BatchHeader::decode_trusted(&out).unwrap();
    let records = header.records(header.payload(&out).unwrap());
    records.map(|r| header.base_timestamp.wrapping_add(r.unwrap().timestamp_delta)).collect()
}

#[test]
fn every_flipped_bit_of_a_packed_batch_is_refused() {
    let text = "compress ".repeat(30);
    for codec in CODECS {
        let batch = write(&pack(&[Record::new(&text)], codec).unwrap());
        flip_every_bit(&batch, |batch, bit| {
            let good = BatchHeader::decode(batch, &identity())
                .and_then(|header| header.check_payload(batch, &identity()));
            assert!(good.is_err(), "{codec:?} bit {bit}");
        });
    }
}

/// Bombs: what comes out is not what the header said, however well it is sealed.
#[test]
fn what_becomes_longer_or_shorter_than_said_is_damage() {
    let text = "compress ".repeat(3_000);
    for codec in CODECS {
        let packed = pack(&[Record::new(&text)], codec).unwrap();
        let bytes = packed.uncompressed_bytes;
        assert!(read(&forged(codec, &packed.payload, bytes, 1)).is_ok());
        for said in [bytes - 8, bytes + 8, 40, bytes / 2] {
            assert_eq!(read(&forged(codec, &packed.payload, said, 1)), DAMAGED, "{codec:?} {said}");
        }
        let short = &packed.payload[..packed.payload.len() - 1];
        assert_eq!(read(&forged(codec, short, bytes, 1)), DAMAGED, "{codec:?}");
        assert_eq!(read(&forged(codec, b"garbage garbage!", 200, 1)), DAMAGED, "{codec:?}");
    }
}

#[test]
fn other_records_than_said_are_damage() {
    let text = "compress ".repeat(300);
    let records = [Record::new(&text), Record::new(&text)];
    for codec in CODECS {
        let packed = pack(&records, codec).unwrap();
        let bytes = packed.uncompressed_bytes;
        for count in [1, 3] {
            let batch = forged(codec, &packed.payload, bytes, count);
            assert_eq!(read(&batch), Err(UnpackError::Records), "{codec:?} {count}");
        }
        // No records at all.
        let payload = compress(codec, &[0xAA; 800], 800).unwrap().unwrap();
        assert_eq!(read(&forged(codec, &payload, 800, 1)), Err(UnpackError::Records));
    }
}

/// Nothing is allocated for them: a header that says more than its payload can become contradicts
/// itself, and a frame has its own opinion.
#[test]
fn a_few_bytes_cannot_claim_64_mib() {
    let most = u32::try_from(PAYLOAD_BYTES_MAX).unwrap();
    for codec in CODECS {
        let batch = forged(codec, b"little", most, 1);
        let refused = BatchHeader::decode(&batch, &identity());
        assert_eq!(refused, Err(BatchError::Inconsistent("uncompressed_bytes")), "{codec:?}");
    }
    assert_eq!(Codec::Lz4.output_max(4), 1_020);
    assert_eq!(Codec::Zstd.output_max(8), 256 << 10);
    let frame = compress(Codec::Zstd, &[0; 4_096], 4_096).unwrap().unwrap();
    assert_eq!(Codec::Zstd.check_claim(&frame, 4_096), Ok(()));
    assert_eq!(Codec::Zstd.check_claim(&frame, 4_097), Err(CodecError::Damaged));
}

/// The bounds are those of the codecs: what compresses best stays within them.
#[test]
fn the_largest_batch_of_zeros_is_packed_and_read() {
    let value = vec![0; crate::format::record::RECORD_BYTES_MAX];
    for codec in CODECS {
        let batch = write(&pack(&[Record::new(&value)], codec).unwrap());
        let out = read(&batch).unwrap();
        let header = BatchHeader::decode_trusted(&out).unwrap();
        let records = header.records(header.payload(&out).unwrap());
        assert_eq!(
            records.map(|record| record.unwrap().value).collect::<Vec<_>>(),
            [Some(&*value)]
        );
    }
}

/// What the fuzz target `decompress` does, over changes of real payloads.
#[test]
fn changed_payloads_are_damage_or_the_records_they_say() {
    let mut random = Random::new(12);
    let text = "all work and no play makes a log compress. ".repeat(10);
    for codec in CODECS {
        let records = [Record::new(&text).key("k"), Record::new(&text[7..]), Record::new("")];
        let packed = pack(&records, codec).unwrap();
        for _ in 0..20_000 {
            let mut payload = packed.payload.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(payload.len());
                payload[at] = random.bytes(1)[0];
            }
            if random.chance(4) {
                payload.truncate(random.below(payload.len()) + 1);
            }
            let bytes = match random.below(4) {
                0 => narrow(random.below(4_096)),
                _ => packed.uncompressed_bytes,
            };
            // The others contradict themselves.
            let least = 3 * crate::format::record::RECORD_PREFIX_BYTES;
            if widen(bytes) >= least
                && u64::from(bytes) <= codec.output_max(narrow(payload.len()))
                && let Ok(out) = read(&forged(codec, &payload, bytes, 3))
            {
                let header = BatchHeader::decode_trusted(&out).unwrap();
                let records = header.records(header.payload(&out).unwrap());
                assert_eq!(records.flatten().count(), 3);
            }
        }
    }
}
