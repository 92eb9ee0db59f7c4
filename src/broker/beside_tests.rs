//! Looking at a store while another broker opens, changes and closes it.
//!
//! Invariants
//!   1. `verify` tells no fault of a store that is good, whatever step of a live broker falls
//!      between two calls of it; and what is damaged it tells all the same.
//!      That the copies of the metadata differ is a fault.
//!   2. Who reads read-only gets `UnknownTopic` once the topic is deleted, whether it is at the end
//!      or before it: it neither waits for ever nor hears of damage.
//!   3. A look at what a live broker has added sees what an open sees, and reads no more than what
//!      changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::broker::between::Between;
use crate::broker::{Background, Broker, VerifyReport};
use crate::config::{Durability, ManualClock, TopicConfig};
use crate::error::Error;
use crate::format::Record;
use crate::fs::Disk;
use crate::fs::sim::SimDisk;

fn owner(disk: &SimDisk) -> Broker {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).clock(ManualClock::new(0)).seed(1);
    builder.background(Background::Inline).open().expect("the store opens")
}

fn beside(disk: &Between) -> Broker {
    let mut builder = Broker::builder().volumes(["/v"]).clock(ManualClock::new(0)).read_only(true);
    builder.disk = Arc::new(disk.clone());
    builder.open().expect("it can be looked at")
}

fn send(broker: &Broker, topic: &str, value: &str) {
    let producer = broker.producer().build().expect("a producer can be made");
    producer.send_batch(topic, 0, &[Record::new(value)]).expect("it is acknowledged");
}

/// A closed store with records in `t`, in two files, and in `u`.
fn closed() -> SimDisk {
    let disk = SimDisk::new();
    let broker = owner(&disk);
    for topic in ["t", "u"] {
        let config = TopicConfig::new().segment_bytes(64 << 10);
        broker.create_topic(topic, config).expect("a topic can be made");
        for value in ["a".repeat(40 << 10), "b".repeat(20 << 10)] {
            send(&broker, topic, &value);
        }
    }
    broker.close().expect("it closes");
    disk
}

fn verify(disk: &Between) -> VerifyReport {
    beside(disk).admin().verify().expect("it can be looked at")
}

/// The files of `t`, oldest first.
fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let of_topic = |path: &PathBuf| path.starts_with("/v/topics/t-1");
    disk.files().into_iter().filter(of_topic).collect()
}

/// Opens the store as another process would, and appends to both topics.
fn append(disk: &SimDisk) -> Broker {
    let broker = owner(disk);
    for topic in ["t", "u"] {
        send(&broker, topic, "more");
    }
    broker
}

/// Verifies copies of `store` with `step` before each call in turn; the report goes to `check`.
fn verify_with(
    store: &SimDisk,
    step: impl Fn(&SimDisk) -> Option<Broker> + Copy + Send + 'static,
    check: impl Fn(u64, &VerifyReport),
) {
    let alone = Between::new(store);
    verify(&alone);
    for k in 0..=alone.calls() {
        let disk = store.snapshot();
        let between = Between::new(&disk);
        let open = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&open);
        between.after(k, move || *kept.lock() = step(&disk));
        check(k, &verify(&between));
        drop(open);
    }
}

#[test]
fn verify_tells_no_fault_beside_a_broker_that_starts() {
    let good = |k, report: &VerifyReport| assert_eq!(report.faults, [], "at call {k}");
    let store = closed();
    // It stays, closes, deletes, or fills a file.
    verify_with(&store, |disk| Some(append(disk)), good);
    verify_with(
        &store,
        |disk| {
            append(disk).close().expect("it closes");
            None
        },
        good,
    );
    verify_with(
        &store,
        |disk| {
            let broker = append(disk);
            broker.admin().delete_topic("t").expect("it is deleted");
            Some(broker)
        },
        good,
    );
    verify_with(
        &store,
        |disk| {
            let broker = append(disk);
            send(&broker, "t", &"c".repeat(60 << 10));
            Some(broker)
        },
        good,
    );
}

#[test]
fn verify_tells_no_fault_beside_brokers_that_come_and_go() {
    let store = closed();
    for calls in [1, 2, 3, 5, 8, 13, 21, 34] {
        let disk = store.snapshot();
        let between = Between::new(&disk);
        between.every(calls, move || append(&disk).close().expect("it closes"));
        let report = verify(&between);
        between.alone();
        assert_eq!(report.faults, [], "every {calls} calls");
    }
}

#[test]
fn verify_tells_of_damage_beside_a_broker_that_starts() {
    let store = closed();
    let path = segments(&store).remove(0);
    let bytes = store.read_file(&path).expect("it can be read");
    let at = bytes.windows(4).position(|four| four == b"aaaa").expect("it is there");
    store.flip_bit(&path, at as u64, 0).expect("it can be flipped");
    let tells = |k, report: &VerifyReport| {
        let faults = &report.faults;
        assert!(faults.iter().all(|fault| fault.file == path), "at call {k}: {faults:?}");
        let told = faults.iter().any(|fault| fault.what == "a batch is damaged");
        assert!(told, "at call {k}: {faults:?}");
    };
    verify_with(&store, |disk| Some(append(disk)), tells);
}

#[test]
fn a_reader_at_the_end_of_a_topic_that_is_deleted_is_told() {
    let disk = closed();
    let owner = owner(&disk);
    let beside = beside(&Between::new(&disk));
    let mut consumer = beside.consumer().assign([("t", 0)]).build().expect("it can be made");
    while !consumer.poll(Duration::ZERO).expect("it reads").is_empty() {}
    owner.admin().delete_topic("t").expect("it is deleted");
    let told = consumer.poll(Duration::from_secs(10));
    assert!(matches!(told, Err(Error::UnknownTopic { .. })), "{told:?}");
}

#[test]
fn a_reader_before_the_end_of_a_topic_that_is_deleted_hears_of_no_damage() {
    let disk = closed();
    let owner = owner(&disk);
    for number in 0..20 {
        send(&owner, "t", &format!("{number}").repeat(30 << 10));
    }
    let beside = beside(&Between::new(&disk));
    let mut consumer = beside.consumer().assign([("t", 0)]).build().expect("it can be made");
    let first = consumer.poll(Duration::ZERO).expect("it reads");
    assert!(first.iter().count() < 20, "there is more to read");
    owner.admin().delete_topic("t").expect("it is deleted");
    let told = loop {
        match consumer.poll(Duration::from_secs(10)) {
            Ok(records) => assert!(!records.is_empty(), "it waits"),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, Error::UnknownTopic { .. }), "{told:?}");
}

#[test]
fn a_look_reads_no_more_than_what_changed() {
    let disk = SimDisk::new();
    let owner = owner(&disk);
    let config = TopicConfig::new().durability(Durability::Os);
    owner.create_topic("t", config).expect("a topic can be made");
    for _ in 0..8 {
        send(&owner, "t", &"x".repeat(1 << 20));
    }
    let between = Between::new(&disk);
    let beside = beside(&between);
    let topic = beside.inner().topic_states().remove(0);
    let log = topic.partitions.get(0).expect("there is one").log();
    log.refresh().expect("it is looked at");
    for round in 0..10_u8 {
        if round % 2 == 1 {
            send(&owner, "t", "little");
        }
        let before = between.bytes_read();
        log.refresh().expect("it is looked at");
        let read = between.bytes_read() - before;
        assert!(read <= 64 << 10, "{read} bytes in round {round}");
    }
}

#[test]
fn looks_see_what_an_open_sees() {
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    for durability in [Durability::Fsync, Durability::Os] {
        let disk = SimDisk::new();
        let mut live = owner(&disk);
        let config = TopicConfig::new().segment_bytes(64 << 10).durability(durability);
        live.create_topic("t", config).expect("a topic can be made");
        let watching = beside(&Between::new(&disk));
        let topic = watching.inner().topic_states().remove(0);
        let log = topic.partitions.get(0).expect("there is one").log();
        for step in 0..150 {
            match below(12) {
                0 => {
                    live.close().expect("it closes");
                    live = owner(&disk);
                }
                1 => live.admin().wait_durable("t", 0, log.end_offset()).expect("it is synced"),
                2 => send(&live, "t", &"large".repeat(8 << 10)),
                small => send(&live, "t", &format!("{small:0>40}")),
            }
            log.refresh().expect("it is looked at");
            let fresh = beside(&Between::new(&disk));
            let opened = &fresh.admin().describe("t").expect("it is there").partitions[0];
            assert_eq!(
                (log.start_offset(), log.end_offset()),
                (opened.log_start_offset, opened.log_end_offset),
                "{durability:?}, step {step}",
            );
        }
        let read = watching.reader("t").build().expect("a reader");
        let read: Result<Vec<_>, _> = read.collect();
        assert_eq!(read.expect("it is good").len() as u64, log.end_offset().get());
        live.close().expect("it closes");
    }
}

#[test]
fn verify_tells_that_a_copy_of_the_metadata_is_gone_or_holds_something_else() {
    for copy in ["0", "1"] {
        let disk = closed();
        let of_copy = Path::new("/v/metadata").join(copy);
        for path in disk.files().into_iter().filter(|path| path.starts_with(&of_copy)) {
            disk.remove_file(&path).expect("it can be removed");
        }
        let report = verify(&Between::new(&disk));
        let [fault] = &report.faults[..] else { panic!("copy {copy}: {:?}", report.faults) };
        assert_eq!((&*fault.topic, &fault.file), ("__metadata", &of_copy));
    }
}
