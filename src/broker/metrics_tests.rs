//! What metrics promise, where the inside has to be reached: files that retention removed, and a
//! disk that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::broker::{Background, Broker};
use crate::client::{Records, Start};
use crate::config::{ManualClock, TopicConfig};
use crate::format::Record;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use crate::id::Offset;

const NOW: i64 = 1_700_000_000_000;

fn open(disk: &SimDisk) -> Broker {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).clock(ManualClock::new(NOW));
    builder.background(Background::Inline).seed(7).open().expect("the store opens")
}

fn send(broker: &Broker, count: usize) {
    let producer = broker.producer().build().expect("a producer");
    let value = vec![7; 10_000];
    for _ in 0..count {
        producer.send("t", Record::new(&value)).expect("nothing fails");
    }
}

fn poll(broker: &Broker, start: Start) -> Records {
    let consumer = broker.consumer().assign([("t", 0)]).start(start).build();
    consumer.expect("a consumer").poll(Duration::ZERO).expect("nothing fails")
}

#[test]
fn a_removed_file_is_told_of_while_a_view_holds_it() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).expect("a topic");
    send(&broker, 30);
    let view = poll(&broker, Start::Earliest);
    // A consumer that holds no record holds no file either.
    let mut consumer = broker.consumer().assign([("t", 0)]).build().expect("a consumer");
    drop(consumer.poll(Duration::ZERO).expect("nothing fails"));
    let live = broker.metrics();
    let oldest = live.oldest_pinned.expect("a view holds it");
    assert_eq!(
        (live.segments_pinned, oldest.base_offset, oldest.deleted),
        (1, Offset::ZERO, false)
    );

    let state = broker.inner().find_topic("t").expect("the topic");
    state
        .partitions
        .get(0)
        .expect("there is one")
        .log()
        .trim_to(Offset::new(20))
        .expect("nothing fails");
    let metrics = broker.metrics();
    let told = metrics.oldest_pinned.expect("a view holds it");
    assert_eq!((told.base_offset, told.deleted, told.bytes), (Offset::ZERO, true, oldest.bytes));
    assert_eq!((metrics.segments_pinned, metrics.deleted_bytes_pinned), (1, oldest.bytes));
    assert!(metrics.partitions[0].segments < live.partitions[0].segments);
    assert!(view.iter().all(|record| record.value().is_some_and(|value| value.len() == 10_000)));

    drop(view);
    let metrics = broker.metrics();
    assert_eq!((metrics.segments_pinned, metrics.deleted_bytes_pinned), (0, 0));
    assert_eq!(metrics.oldest_pinned, None);
}

#[test]
fn counts_of_a_deleted_topic_stay() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    for round in 1..=3_u64 {
        broker.create_topic("t", TopicConfig::new()).expect("a topic");
        send(&broker, 5);
        assert_eq!(poll(&broker, Start::Earliest).count(), 5);
        broker.admin().delete_topic("t").expect("nothing fails");
        let metrics = broker.metrics();
        assert_eq!((metrics.topics, metrics.partitions.len()), (0, 0));
        assert_eq!((metrics.records_appended, metrics.records_fetched), (5 * round, 5 * round));
        assert_eq!(metrics.sync_latency_us.count(), 5 * round);
        assert_eq!(metrics.batch_bytes.count(), 5 * round);
    }
}

/// Whoever looks because a disk hangs must not hang too.
#[test]
fn a_snapshot_waits_for_no_disk() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new()).expect("a topic");
    send(&broker, 1);
    let (call, what) = (Some(Call::SyncData), FaultKind::StalledSync);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&broker, 1);
            over.store(true, Ordering::Release);
        });
        while disk.stalled() == 0 {
            thread::yield_now();
        }
        let metrics = broker.metrics();
        assert!(!over.load(Ordering::Acquire), "the sync hangs");
        let partition = metrics.partition("t", 0).expect("it is there");
        assert_eq!((partition.log_end_offset.get(), partition.high_watermark.get()), (2, 1));
        assert_eq!(partition.syncs, 1, "it is not over");
        disk.release_stalls();
    });
    assert_eq!(broker.metrics().sync_latency_us.count(), 2);
}

#[test]
fn counts_only_rise_also_while_a_topic_is_deleted() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new()).expect("a topic");
    send(&broker, 5);
    let state = broker.inner().find_topic("t").expect("the topic");
    let log = state.partitions.get(0).expect("there is one").log();
    let seal = log.turn.take();
    thread::scope(|scope| {
        let deletes = scope.spawn(|| broker.admin().delete_topic("t"));
        // It has begun, and waits for the end of a seal.
        while log.check_latch().is_ok() {
            thread::yield_now();
        }
        let during = broker.metrics();
        drop(seal);
        deletes.join().expect("it does not panic").expect("nothing fails");
        assert_eq!((during.records_appended, during.sync_latency_us.count()), (5, 5));
    });
    assert_eq!(broker.metrics().records_appended, 5);
}

#[test]
fn a_deleted_topics_files_are_forgotten_with_their_views_also_where_nobody_asks() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    let delete = || {
        let state = broker.inner().find_topic("t").expect("the topic");
        let removed = Arc::downgrade(&state.partitions.get(0).expect("there is one").log().removed);
        broker.admin().delete_topic("t").expect("nothing fails");
        removed
    };
    broker.create_topic("t", TopicConfig::new()).expect("a topic");
    send(&broker, 5);
    let view = poll(&broker, Start::Earliest);
    let removed = delete();
    assert!(removed.upgrade().is_some(), "a view holds its file");
    drop(view);
    broker.create_topic("t", TopicConfig::new()).expect("a topic");
    delete();
    assert!(removed.upgrade().is_none(), "nothing holds it");
}

#[test]
fn a_look_at_the_lag_is_no_fetch() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new()).expect("a topic");
    send(&broker, 5);
    let mut consumer = broker.consumer().assign([("t", 0)]).build().expect("a consumer");
    for _ in 0..3 {
        consumer.lag().expect("nothing fails");
    }
    let fetched = || {
        let metrics = broker.metrics();
        (metrics.fetches, metrics.records_fetched)
    };
    assert_eq!(fetched(), (0, 0));
    let records = consumer.poll(Duration::ZERO).expect("nothing fails").count() as u64;
    assert_eq!(fetched(), (1, records));
}
