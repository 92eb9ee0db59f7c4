//! A script of operations on the simulated disk, against a model: appends, kills, power cuts,
//! clean closes, rot. Each byte or two of the input is one operation.
//!
//! Checked after every open: what is read is a prefix of what was sent, in order and whole; after a
//! power cut nothing acknowledged is missing (the topic's durability is `Fsync`); after rot a
//! record
//! that cannot be read is an error, and those that can are right.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use plimsoll::sim::SimDisk;
use plimsoll::{
    Background, Broker, Compression, Error, ManualClock, Record, Topic, TopicConfig,
};

const OPERATIONS_MAX: usize = 200;

fn open(disk: &SimDisk, clock: &ManualClock) -> (Broker, Topic) {
    let broker = Broker::builder()
        .volumes(["/v"])
        .disk(disk)
        .clock(clock.clone())
        .background(Background::Inline)
        .seed(1)
        .open()
        .expect("a store that was not damaged opens");
    let topic = broker
        .ensure_topic("t", TopicConfig::new().segment_bytes(64 << 10))
        .expect("the topic is there, or is made");
    (broker, topic)
}

/// The value of the record with this number: its own length tells it apart.
fn value(number: usize) -> Vec<u8> {
    let length = 16 + (number * 7919) % 3000;
    (0..length).map(|i| u8::try_from((i * 31 + number) % 251).unwrap_or(0)).collect()
}

/// What is in the topic is the first `acknowledged` values at least, and nothing but values sent.
fn check(broker: &Broker, topic: &Topic, acknowledged: usize, sent: usize) -> usize {
    let mut count = 0;
    for record in broker.reader(topic).build().expect("the topic is known") {
        let record = record.expect("nothing was damaged");
        assert_eq!(record.offset().get(), count as u64);
        assert_eq!(record.value(), Some(value(count).as_slice()));
        count += 1;
    }
    assert!(count >= acknowledged, "{count} records found of {acknowledged} acknowledged");
    assert!(count <= sent, "{count} records found of {sent} sent");
    count
}

fuzz_target!(|bytes: &[u8]| {
    let clock = ManualClock::new(1_000_000);
    let mut disk = SimDisk::new();
    let (mut broker, mut topic) = open(&disk, &clock);
    let mut acknowledged = 0;
    for pair in bytes.chunks(2).take(OPERATIONS_MAX) {
        let (operation, argument) = (pair[0], pair.get(1).copied().unwrap_or(0));
        match operation % 8 {
            0..=3 => {
                let values: Vec<Vec<u8>> =
                    (0..=usize::from(argument % 24)).map(|i| value(acknowledged + i)).collect();
                let records: Vec<Record> = values.iter().map(Record::new).collect();
                let producer = broker.producer().compression(match operation % 8 {
                    2 => Compression::Lz4,
                    3 => Compression::Zstd,
                    _ => Compression::None,
                });
                let producer = producer.build().expect("the broker is open");
                producer.send_batch(&topic, 0, &records).expect("the disk is fine");
                acknowledged += records.len();
            }
            4 => clock.advance(Duration::from_millis(u64::from(argument))),
            5 => {
                let next = disk.kill();
                drop((broker, topic));
                disk = next;
                (broker, topic) = open(&disk, &clock);
            }
            6 => {
                let losses = disk.losses(4);
                let loss = &losses[usize::from(argument) % losses.len()];
                let next = disk.crash(loss);
                drop((broker, topic));
                disk = next;
                (broker, topic) = open(&disk, &clock);
            }
            _ => {
                broker.close().expect("the disk is fine");
                (broker, topic) = open(&disk, &clock);
                assert!(broker.recovery().clean);
            }
        }
        assert!(broker.recovery().damage.is_empty(), "a crash is not damage");
    }
    check(&broker, &topic, acknowledged, acknowledged);
    broker.close().expect("the disk is fine");

    // Rot: one bit of one file of a closed store.
    let files = disk.files();
    let pick = bytes.iter().fold(7_usize, |h, &b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
    let file = &files[pick % files.len()];
    let length = disk.read_file(file).map_or(0, |bytes| bytes.len());
    if length == 0 {
        return;
    }
    disk.flip_bit(file, (pick / 7 % length) as u64, (pick % 8) as u8).expect("within the file");
    let broker = Broker::builder()
        .volumes(["/v"])
        .disk(&disk)
        .background(Background::Inline)
        .open()
        .expect("every file that opening needs has a second copy");
    for record in broker.reader("t").build().expect("the topic is known") {
        match record {
            Ok(record) => {
                let number = usize::try_from(record.offset().get()).expect("small");
                assert_eq!(record.value(), Some(value(number).as_slice()));
            }
            Err(Error::Corrupt(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
});
