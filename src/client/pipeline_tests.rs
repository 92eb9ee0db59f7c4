//! What `pipeline` promises, where it takes a look from inside to see it.

use std::time::Duration;

use crate::broker::{Background, Broker};
use crate::client::{Delivery, Producer};
use crate::config::{Durability, TopicConfig};
use crate::format::Record;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use crate::id::{Offset, PartitionId};
use crate::log::Log;

fn open(disk: &SimDisk, background: Background) -> Broker {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).seed(7).background(background);
    let broker = builder.open().expect("the store opens");
    let config = TopicConfig::new().partitions(2).segment_bytes(64 << 10);
    broker.create_topic("t", config).expect("created");
    broker
}

/// The disk is full for the next call that needs more of it.
fn fill_once(disk: &SimDisk) {
    let (call, what) = (Some(Call::Allocate), FaultKind::Enospc);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
}

fn queue(producer: &Producer, value: &str) -> Delivery {
    producer.enqueue("t", Record::new(value).partition(0)).expect("queued")
}

fn with_log<T>(broker: &Broker, look: impl FnOnce(&Log) -> T) -> T {
    let state = broker.inner().find_topic("t").expect("there");
    look(state.partition(PartitionId::new(0)).expect("there").log())
}

/// How many batches the partition has, and how many records.
fn counts(broker: &Broker) -> (u64, u64) {
    let mut batches = std::collections::BTreeSet::new();
    let reader = broker.reader("t").partition(0).build().expect("there");
    let mut records = 0;
    for record in reader {
        let record = record.expect("good");
        records += 1;
        let at = with_log(broker, |log| {
            let mut cursor = crate::log::ReadCursor::at(record.offset());
            let upto = log.end_offset();
            let chunk = log.read(&mut cursor, upto, 1, crate::config::Reads::Mapped);
            chunk.expect("good").and_then(|chunk| chunk.first_batch_offset())
        });
        batches.insert(at);
    }
    (batches.len() as u64, records)
}

#[test]
fn a_batch_that_is_tried_again_is_not_overtaken() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    let producer = broker.producer().batch_bytes(1).build().expect("built");
    // 1. The first batch fails and waits; the others queue up behind it.
    fill_once(&disk);
    let deliveries = ["a", "b", "c"].map(|value| queue(&producer, value));
    assert_eq!(disk.fired(), 1);
    // 2. One round takes all three, and the first one fails once more.
    fill_once(&disk);
    producer.flush().expect("it passes");
    assert_eq!(disk.fired(), 2);
    for (offset, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.wait().expect("sent").offset, Offset::new(offset), "overtaken");
    }
    assert_eq!(counts(&broker), (3, 3), "each once");
}

#[test]
fn a_batch_has_what_fits_and_a_large_record_one_of_its_own() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    let producer = broker.producer().batch_bytes(200).build().expect("built");
    // 40 bytes each: five a batch.
    for _ in 0..11 {
        drop(queue(&producer, "small"));
    }
    drop(queue(&producer, &"l".repeat(300)));
    drop(queue(&producer, "small"));
    producer.close().expect("sent");
    assert_eq!(counts(&broker), (5, 13));
}

#[test]
fn one_sync_serves_the_batches_of_a_round() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Thread);
    let producer = broker.producer().batch_bytes(1).build().expect("built");
    queue(&producer, "first").wait().expect("sent");
    let (call, what) = (Some(Call::SyncData), FaultKind::StalledSync);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    let stalled = queue(&producer, "stalled");
    while disk.stalled() == 0 {
        std::thread::yield_now();
    }
    let rest: Vec<_> = (0..50).map(|_| queue(&producer, "behind")).collect();
    let before = disk.calls();
    disk.release_stalls();
    stalled.wait().expect("sent");
    for delivery in rest {
        delivery.wait().expect("sent");
    }
    // A write for each batch, and few for all: a sync with its look at the file.
    let calls = disk.calls() - before;
    assert!((50..75).contains(&calls), "{calls} calls for 50 batches");
    assert_eq!(counts(&broker), (52, 52));
}

#[test]
fn buffers_are_used_again_and_nothing_stays_behind() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    let topic = broker.create_topic("os", TopicConfig::new().durability(Durability::Os));
    let topic = topic.expect("created");
    let producer = broker.producer().batch_bytes(1_000).build().expect("built");
    for round in 0..200 {
        let value = vec![u8::try_from(round % 251).expect("below 251"); 300];
        let delivery = producer.enqueue(&topic, Record::new(&value)).expect("queued");
        if round % 7 == 0 {
            assert!(delivery.wait_timeout(Duration::from_mins(1)).expect("an answer").is_ok());
        }
    }
    producer.flush().expect("sent");
    let pipeline = format!("{producer:?}");
    assert!(pipeline.contains("queues: {}") && pipeline.contains("bytes: 0"), "{pipeline}");
}
