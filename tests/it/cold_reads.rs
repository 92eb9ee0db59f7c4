//! A store that was closed and opened is read as it was written, though a thread of the store's
//! checks its batches while consumers read them.

use std::thread;
use std::time::Duration;

use plimsoll::{Background, Broker, Durability, Error, Offset, Reads, Record, Start, TopicConfig};

/// Several times what is checked ahead.
const BATCHES: u64 = 400;
const RECORDS: u64 = 50;

fn value(number: u64) -> Vec<u8> {
    // Batches of even and of uneven records.
    let length = if (number / RECORDS).is_multiple_of(2) { 400 } else { 200 + number % 397 };
    let mut value = number.to_le_bytes().to_vec();
    value.resize(usize::try_from(length).unwrap(), u8::try_from(number % 251).unwrap());
    value
}

fn fill(dir: &std::path::Path) {
    let broker = Broker::open(dir).unwrap();
    let config = TopicConfig::new().durability(Durability::Os).segment_bytes(5 << 20);
    broker.create_topic("t", config).unwrap();
    let producer = broker.producer().build().unwrap();
    for batch in 0..BATCHES {
        let values: Vec<_> = (batch * RECORDS..(batch + 1) * RECORDS).map(value).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        producer.send_batch("t", 0, &records).unwrap();
    }
    broker.close().unwrap();
}

/// Reads to the end, and jumps over what cannot be read; returns how many records were jumped over.
fn read(broker: &Broker, reads: Reads) -> u64 {
    let end = BATCHES * RECORDS;
    let builder = broker.consumer().assign([("t", 0)]).start(Start::Earliest).reads(reads);
    let mut consumer = builder.build().unwrap();
    let (mut next, mut lost) = (0, 0);
    while next < end {
        match consumer.poll(Duration::ZERO) {
            Ok(records) => {
                for record in &records {
                    assert_eq!(record.offset(), Offset::new(next));
                    assert_eq!(record.value(), Some(&value(next)[..]), "record {next}");
                    next += 1;
                }
            }
            Err(Error::Corrupt(damage)) => {
                assert_eq!(damage.first, Offset::new(next));
                lost += damage.first.distance_to(damage.end);
                next = damage.end.get();
                consumer.seek(("t", 0), damage.end).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    lost
}

#[test]
fn consumers_that_read_beside_each_other_get_every_record_in_order() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for background in [Background::Thread, Background::Inline] {
        let builder = Broker::builder().volumes([dir.path()]).background(background);
        let broker = builder.open().unwrap();
        thread::scope(|scope| {
            for reads in [Reads::Mapped, Reads::Mapped, Reads::Copied] {
                let broker = &broker;
                scope.spawn(move || assert_eq!(read(broker, reads), 0));
            }
        });
        assert_eq!(read(&broker, Reads::Mapped), 0, "once more, over what was checked");
        broker.close().unwrap();
    }
}

#[test]
fn a_damaged_batch_is_told_and_no_other_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let partition = dir.path().join("topics/t-1/0");
    let mut files: Vec<_> =
        std::fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    for _ in 0..3 {
        assert_eq!(read(&broker, Reads::Mapped), RECORDS, "one batch");
    }
}
