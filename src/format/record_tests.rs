//! What a record's bytes say, read back or damaged.

use super::super::header::HEADER_PREFIX_BYTES;
use super::super::records::{RecordIter, RecordRef};
use super::super::testing::Random;
use super::*;

/// What is compared: everything that a record says.
type Facts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, Option<Vec<u8>>);

fn given(record: &Record<'_>) -> Facts {
    facts(record.key, record.value, record.headers(), record.dedup_key_bytes())
}

fn read_back(record: &RecordRef<'_>) -> Facts {
    facts(record.key, record.value, record.headers.clone(), record.dedup_key)
}

fn facts(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Headers<'_>,
    dedup: Option<&[u8]>,
) -> Facts {
    assert_eq!(headers.len(), headers.clone().count());
    let headers = headers.map(|h| (h.name().to_owned(), h.value().to_vec())).collect();
    (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec), headers, dedup.map(<[u8]>::to_vec))
}

/// Writes records with offset deltas 0, 1, … over bytes that were all ones before.
fn write(records: &[Record<'_>]) -> Vec<u8> {
    let bytes = records.iter().map(|record| record.measure().unwrap()).sum();
    let mut payload = vec![0xFF; bytes];
    let mut rest = &mut payload[..];
    for (delta, record) in (0..).zip(records) {
        rest = record.encode(delta, -i64::from(delta), rest);
    }
    assert!(rest.is_empty());
    payload
}

fn first_error(payload: &[u8], count: u32) -> RecordError {
    let mut records = RecordIter::new(payload, count);
    let error = records.find_map(Result::err).expect("an error");
    assert_eq!(RecordIter::new(payload, count).check(), Err(error), "a check says the same");
    assert!(records.next().is_none(), "goes on after an error");
    error
}

#[test]
fn every_shape_survives_a_round_trip() {
    let shapes = [
        Record::new(""),
        Record::new("paid"),
        Record::new("12345678"),
        Record::new("paid").key(""),
        Record::new("").key("k"),
        Record::tombstone("k"),
        Record::tombstone("").header("", "").header("名", "値"),
        Record::new("v").dedup_key(""),
        Record::new("v").dedup_key("d").key("k").header("a", "b").header("a", "c"),
        Record::new("v").dedup_by_value(),
        Record::new("").key("k").dedup_by_key(),
        Record::tombstone("k").dedup_by_key(),
    ];
    let payload = write(&shapes);
    let read: Vec<_> = RecordIter::new(&payload, 12).map(Result::unwrap).collect();
    assert_eq!(read.len(), shapes.len());
    for (index, (read, shape)) in read.iter().zip(&shapes).enumerate() {
        assert_eq!(read_back(read), given(shape), "shape {index}");
        assert_eq!(usize::try_from(read.offset_delta).unwrap(), index);
        assert_eq!(read.timestamp_delta, -i64::try_from(index).unwrap());
    }
}

#[test]
fn the_example_of_the_header_is_true() {
    let mut expected = [0; 48];
    put_u32::<0, _>(&mut expected, 2);
    put_u32::<16, _>(&mut expected, 4);
    put_u32::<20, _>(&mut expected, 1);
    expected[32] = b'k';
    expected[40..44].copy_from_slice(b"paid");
    assert_eq!(write(&[Record::new("paid").key("k")]), expected);
}

#[test]
fn a_missing_part_differs_from_an_empty_one() {
    let payload = write(&[Record::new(""), Record::tombstone("")]);
    let read: Vec<_> = RecordIter::new(&payload, 2).map(Result::unwrap).collect();
    assert_eq!((read[0].key, read[0].value), (None, Some(&b""[..])));
    assert_eq!((read[1].key, read[1].value), (Some(&b""[..]), None));
}

#[test]
fn values_start_at_a_multiple_of_eight() {
    for key_bytes in 0..20 {
        let key = vec![b'k'; key_bytes];
        let payload = write(&[Record::new("12345678").key(&key), Record::new("12345678")]);
        for record in RecordIter::new(&payload, 2) {
            let value = record.unwrap().value.unwrap();
            let at = value.as_ptr().addr() - payload.as_ptr().addr();
            assert!(at.is_multiple_of(8), "key of {key_bytes}");
        }
    }
}

#[test]
fn dedup_keys_that_are_the_value_or_key_are_not_stored_twice() {
    let plain = Record::new("a value").key("a key").measure().unwrap();
    assert_eq!(Record::new("a value").key("a key").dedup_by_value().measure(), Ok(plain));
    assert_eq!(Record::new("a value").key("a key").dedup_by_key().measure(), Ok(plain));
    assert_eq!(Record::new("a value").key("a key").dedup_key("dd").measure(), Ok(plain + 8));
}

#[test]
fn limits_are_exact() {
    let largest = vec![0; RECORD_BYTES_MAX + 1];
    let (max, over) = (&largest[..RECORD_BYTES_MAX], &largest);
    assert!(Record::new(max).measure().is_ok());
    assert!(matches!(Record::new(over).measure(), Err(RecordError::RecordTooLarge { .. })));
    assert!(matches!(Record::new(max).key("k").measure(), Err(RecordError::RecordTooLarge { .. })));
    let key = &largest[..KEY_BYTES_MAX];
    assert!(Record::tombstone(key).measure().is_ok());
    let key = &largest[..=KEY_BYTES_MAX];
    assert_eq!(
        Record::tombstone(key).measure(),
        Err(RecordError::KeyTooLarge { bytes: KEY_BYTES_MAX + 1 })
    );
    let dedup = &largest[..DEDUP_KEY_BYTES_MAX];
    assert!(Record::new("").dedup_key(dedup).measure().is_ok());
    let dedup = &largest[..=DEDUP_KEY_BYTES_MAX];
    assert_eq!(
        Record::new("").dedup_key(dedup).measure(),
        Err(RecordError::DedupKeyTooLarge { bytes: DEDUP_KEY_BYTES_MAX + 1 })
    );
    let header = &largest[..HEADERS_BYTES_MAX - HEADER_PREFIX_BYTES - 1];
    assert!(Record::new("").header("n", header).measure().is_ok());
    assert_eq!(
        Record::new("").header("n1", header).measure(),
        Err(RecordError::HeadersTooLarge { bytes: HEADERS_BYTES_MAX + 1 })
    );
}

#[test]
fn the_most_headers_survive() {
    let mut record = Record::new("v");
    for _ in 0..HEADERS_BYTES_MAX / HEADER_PREFIX_BYTES {
        record = record.header("", "");
    }
    let payload = write(&[record.clone()]);
    let read = RecordIter::new(&payload, 1).next().unwrap().unwrap();
    assert_eq!(read.headers.len(), 8192);
    assert!(record.header("", "").measure().is_err());
}

#[test]
fn a_dedup_key_without_its_source_is_refused() {
    let error = Err(RecordError::DedupWithoutSource);
    assert_eq!(Record::tombstone("k").dedup_by_value().measure(), error);
    assert_eq!(Record::new("v").dedup_by_key().measure(), error);
}

#[test]
fn malformed_records_are_refused_by_name() {
    let good = write(&[Record::new("value").key("k").header("n", "v").dedup_key("d")]);
    let patched = |at: usize, byte: u8| {
        let mut payload = good.clone();
        payload[at] = byte;
        first_error(&payload, 1)
    };
    assert_eq!(patched(0, 0x20), RecordError::UnknownFlags { bits: 0x20 });
    assert_eq!(patched(0, 1 | 2 | 4), RecordError::Length, "a tombstone with a value");
    assert_eq!(patched(0, 4), RecordError::Length, "a key without its flag");
    assert_eq!(patched(0, 2), RecordError::Length, "a dedup key without its flag");
    assert_eq!(patched(0, 2 | 4 | 8), RecordError::Length, "two dedup keys");
    assert_eq!(patched(19, 0xFF), RecordError::Length, "a value above its limit");
    assert_eq!(patched(22, 2), RecordError::Length, "a key above its limit");
    assert_eq!(patched(26, 2), RecordError::Length, "headers above their limit");
    assert_eq!(patched(29, 0x80), RecordError::Length, "a dedup key above its limit");
    assert_eq!(patched(18, 1), RecordError::Short, "a value beyond the end");
    assert_eq!(patched(30, 0), RecordError::Length, "fewer headers than bytes for them");
    assert_eq!(patched(30, 2), RecordError::Length, "more headers than bytes for them");
    let name = 32 + 8 + 5 + 8;
    assert_eq!(patched(name, 0xFF), RecordError::HeaderName);
    assert_eq!(first_error(&good, 2), RecordError::Short);
    assert_eq!(first_error(&good, 0), RecordError::Trailing);
    assert_eq!(first_error(&[good.clone(), vec![0; 8]].concat(), 1), RecordError::Trailing);
}

#[test]
fn offsets_must_rise_and_stay_within_the_batch() {
    let mut payload = write(&[Record::new("a"), Record::new("b")]);
    assert_eq!(RecordIter::bounded(&payload, 2, 1).flatten().count(), 2);
    assert_eq!(
        RecordIter::bounded(&payload, 2, 0).last().unwrap().unwrap_err(),
        RecordError::OffsetDelta
    );
    payload[40 + 4] = 0;
    assert_eq!(first_error(&payload, 2), RecordError::OffsetDelta);
    payload[40 + 4] = 9;
    assert!(RecordIter::new(&payload, 2).all(|record| record.is_ok()), "gaps may be");
    payload[4..8].fill(0xFF);
    assert_eq!(first_error(&payload, 2), RecordError::OffsetDelta);
}

#[test]
fn every_cut_of_a_payload_is_an_error() {
    let payload = write(&[Record::new("value").key("k").header("n", "v").dedup_key("d")]);
    for end in 0..payload.len() {
        first_error(&payload[..end], 1);
    }
}

/// Where all records are of one size, none is read to find the next one.
#[test]
fn a_check_of_even_records_says_what_iterating_does() {
    for (count, value) in [(1, "v"), (2, ""), (16, "eight by"), (17, "five!"), (40, "nine byte")] {
        let good = write(&vec![Record::new(value); count]);
        let count = u32::try_from(count).unwrap();
        let agrees = |payload: &[u8], count, last| {
            let records = RecordIter::bounded(payload, count, last);
            let found = records.clone().find_map(Result::err);
            assert_eq!(records.check().err(), found, "{count} records up to delta {last}");
            found
        };
        assert_eq!(agrees(&good, count, count - 1), None);
        assert!(agrees(&good, count, count.wrapping_sub(2)).is_some() || count == 1);
        assert!(agrees(&good, count + 1, u32::MAX).is_some());
        assert!(agrees(&good, count - 1, u32::MAX).is_some());
        let mut flipped = good.clone();
        for bit in 0..good.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            agrees(&flipped, count, count - 1);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn random_and_mutated_payloads_never_panic() {
    let mut random = Random::new(1);
    let good = write(&[
        Record::new("value").key("k").header("n", "v").dedup_key("d"),
        Record::tombstone("k2"),
        Record::new("a longer value than the others"),
    ]);
    for round in 0..100_000 {
        let mut payload = if round % 2 == 0 {
            let count = random.below(128);
            random.bytes(count)
        } else {
            good.clone()
        };
        for _ in 0..random.below(4) {
            if !payload.is_empty() {
                let at = random.below(payload.len());
                payload[at] = random.bytes(1)[0];
            }
        }
        let records = RecordIter::new(&payload, 3);
        for record in records.clone().flatten() {
            assert_eq!(record.headers.len(), record.headers.clone().count());
        }
        let found = records.clone().find_map(Result::err);
        assert_eq!(records.check().err(), found, "a check says what iterating does");
    }
}

#[test]
fn debug_shows_sizes_and_no_contents() {
    let record = Record::new("secret").key("k").header("n", "v");
    assert_eq!(format!("{record:?}"), "Record(key 1 bytes, value 6 bytes, 1 headers)");
    assert_eq!(format!("{:?}", Record::tombstone("k")), "Record(key 1 bytes, tombstone)");
    assert_eq!(format!("{:?}", record.headers()), "[n: 1 bytes]");
}
