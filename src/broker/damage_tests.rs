//! What cannot be read is told of, stays where it is, and hides nothing else.
//!
//! Invariants
//!   1. A batch that does not verify, or that the disk does not give back, is never overwritten or
//!      cut off by what comes after it: appends, rolls, seals, closes. Readable again, it is read.
//!   2. Lookups by time find what is readable behind damage.
//!   3. Numbers on disk that could not be counted on from are damage, whatever their checksum says.

use std::path::PathBuf;

use crate::broker::{Background, Broker};
use crate::config::{ManualClock, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{MetadataRecord, PAGE, Record, TopicMeta, VolumeRecord};
use crate::fs::sim::SimDisk;
use crate::id::{Incarnation, Offset, TopicId};

fn try_open(disk: &SimDisk) -> Result<Broker> {
    Broker::builder()
        .volumes(["/v"])
        .disk(disk)
        .clock(ManualClock::new(1_000_000))
        .background(Background::Inline)
        .seed(3)
        .open()
}

fn open(disk: &SimDisk) -> Broker {
    try_open(disk).expect("the store opens")
}

/// A store with a record for each of the values; opened again after a clean close, and killed.
fn left(values: &[Vec<u8>]) -> (SimDisk, PathBuf) {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).expect("it is made");
    let producer = broker.producer().build().expect("it is made");
    for value in values {
        producer.send("t", Record::new(value)).expect("it is sent");
    }
    broker.close().expect("it closes");
    let broker = open(&disk);
    let left = disk.kill();
    drop(broker);
    let is_segment = |path: &PathBuf| path.starts_with("/v/topics");
    let file = left.files().into_iter().find(is_segment).expect("there is a segment");
    (left, file)
}

/// The values in the topic, by offset; `None` for those that cannot be read.
fn read(broker: &Broker) -> Vec<Option<Vec<u8>>> {
    let mut values = Vec::new();
    for item in broker.reader("t").build().expect("the topic is there") {
        match item {
            Ok(record) => values.push(record.value().map(<[u8]>::to_vec)),
            Err(Error::Corrupt(corruption)) => {
                values.extend((corruption.first.get()..corruption.end.get()).map(|_| None));
            }
            Err(other) => panic!("{other}"),
        }
    }
    values
}

fn send(broker: &Broker, values: &[&str]) {
    let producer = broker.producer().build().expect("it is made");
    for value in values {
        producer.send("t", Record::new(value)).expect("it is sent");
    }
}

fn find(disk: &SimDisk, file: &PathBuf, value: &[u8]) -> u64 {
    let bytes = disk.read_file(file).expect("it can be read");
    bytes.windows(value.len()).position(|window| window == value).expect("it is there") as u64
}

#[test]
fn a_damaged_last_batch_outlives_the_seal_of_its_file() {
    let values = [b"one".to_vec(), b"two".to_vec(), vec![b'Z'; 16_000]];
    let (disk, file) = left(&values);
    let at = find(&disk, &file, &values[2]) + 9_000;
    disk.flip_bit(&file, at, 0).expect("it is within the file");
    let broker = open(&disk);
    send(&broker, &["four", "five"]);
    let told = read(&broker);
    assert_eq!((told.len(), &told[2]), (5, &None));
    drop(broker);
    for round in 0..2 {
        // At once, and after another open and close.
        let healed = disk.snapshot();
        healed.flip_bit(&file, at, 0).expect("it is within the file");
        assert_eq!(read(&open(&healed))[2].as_ref(), Some(&values[2]), "round {round}");
        drop(open(&disk));
    }
}

#[test]
fn blocks_that_fail_at_the_end_of_an_older_file_are_left_alone() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).expect("it is made");
    let producer = broker.producer().build().expect("it is made");
    for number in 0..12_u8 {
        producer.send("t", Record::new(&vec![200 + number; 9_000])).expect("it is sent");
    }
    let disk = disk.kill();
    drop(broker);
    let mut segments = disk.files().into_iter().filter(|path| path.starts_with("/v/topics"));
    let file = segments.next().expect("there is a segment");
    let next = segments.next().expect("there is another").file_name().map(|name| {
        name.to_string_lossy().split('-').next().and_then(|base| base.parse::<usize>().ok())
    });
    let lost = next.flatten().expect("it is named after its base") - 1;
    let value = vec![200 + u8::try_from(lost).expect("small"); 9_000];
    let at = find(&disk, &file, &value);
    let end = disk.read_file(&file).expect("it can be read").len() as u64;
    // A block of the last batch, and the footer's.
    for position in [at + 1_000, end - PAGE as u64] {
        disk.bad_sector(&file, position).expect("it is within the file");
    }
    let broker = open(&disk);
    assert_eq!(read(&broker)[lost], None);
    send(&broker, &["more", "and more"]);
    broker.close().expect("it closes");
    assert_eq!(find(&disk, &file, &value), at, "it was overwritten");
    let read = read(&open(&disk));
    assert_eq!((read.len(), &read[lost]), (14, &None));
}

#[test]
fn a_time_is_found_across_damage() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new()).expect("it is made");
    let producer = broker.producer().build().expect("it is made");
    let value = vec![b'x'; 5_000];
    for timestamp in [1_000, 10, 20, 30, 40, 50, 60, 70] {
        producer.send("t", Record::new(&value).timestamp(timestamp)).expect("it is sent");
    }
    let sought = || Some(Offset::new(0));
    assert_eq!(broker.admin().offset_at("t", 0, 500).expect("it is sought"), sought());
    let left = disk.kill();
    drop(broker);
    let mut segments = left.files().into_iter().filter(|path| path.starts_with("/v/topics"));
    let file = segments.next().expect("there is a segment");
    // In the second batch's value.
    left.flip_bit(&file, 12_288 + 5_152 + 300, 0).expect("it is within the file");
    for round in 0..2 {
        let broker = open(&left);
        // Told at the open that scans; the other one follows a clean close.
        assert_eq!(broker.recovery().damage.len(), 1 - round);
        assert_eq!(broker.admin().offset_at("t", 0, 500).expect("it is sought"), sought());
    }
}

#[test]
fn an_incarnation_that_cannot_be_raised_is_damage() {
    let disk = SimDisk::new();
    open(&disk).close().expect("it closes");
    let bytes = disk.read_file("/v/volume").expect("it can be read");
    let record = VolumeRecord::decode(&bytes[..PAGE]).expect("it is whole");
    let last = VolumeRecord { incarnation: Incarnation::new(u64::MAX), ..record }.encode();
    disk.write_file("/v/volume", &[last, last].concat()).expect("it can be written");
    assert!(matches!(try_open(&disk), Err(Error::Damaged(_))));
}

/// A store whose metadata says this of a topic, in both copies and under good checksums.
fn told(of_topic: impl FnOnce(TopicMeta) -> TopicMeta) -> SimDisk {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new()).expect("it is made");
    let metadata = broker.inner().metadata().lock();
    let meta = metadata.topics().next().cloned().expect("there is one");
    let bytes = MetadataRecord::PutTopic(of_topic(meta)).encode();
    for copy in metadata.copies() {
        let appended = copy.append(&[Record::new(&bytes)]).expect("it is appended");
        copy.sync_to(appended.end).expect("it is synced");
    }
    drop(metadata);
    broker.close().expect("it closes");
    disk
}

#[test]
fn settings_and_ids_that_no_topic_can_have_are_damage() {
    type Change = fn(TopicMeta) -> TopicMeta;
    let impossible: [(&str, Change); 9] = [
        ("no segment", |meta| TopicMeta { segment_bytes: 0, ..meta }),
        ("endless segments", |meta| TopicMeta { segment_bytes: u64::MAX, ..meta }),
        ("no record", |meta| TopicMeta { record_bytes: 0, ..meta }),
        ("no age", |meta| TopicMeta { segment_age_ms: 0, ..meta }),
        ("endless ages", |meta| TopicMeta { segment_age_ms: u64::MAX, ..meta }),
        ("endless retention", |meta| TopicMeta { retention_ms: Some(u64::MAX), ..meta }),
        ("no interval", |meta| TopicMeta { durability: 1, interval_ms: 0, ..meta }),
        ("no replica", |meta| TopicMeta { replicas: 0, min_insync: 0, ..meta }),
        ("the last id", |meta| TopicMeta { id: TopicId::new(u64::MAX), ..meta }),
    ];
    for (what, change) in impossible {
        let disk = told(change);
        let opened = try_open(&disk);
        assert!(matches!(opened, Err(Error::Damaged(_))), "{what}: {opened:?}");
        let look = Broker::builder().volumes(["/v"]).disk(&disk).read_only(true).open();
        assert!(matches!(look, Err(Error::Damaged(_))), "{what}: {look:?}");
    }
    try_open(&told(|meta| TopicMeta { segment_bytes: 1 << 20, ..meta })).expect("it is possible");
}
