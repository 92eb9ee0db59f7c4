//! `Broker::metrics` tells what was done, exactly, and what is held.
//!
//! Invariants
//!   1. Records, bytes and batches appended and fetched are those of the calls, whoever makes
//!      them; a refused append counts nothing.
//!   2. Offsets are those that `describe` tells; sizes and segments are those of the files.
//!   3. A sync is counted once, as done or as failed; a failed one shows its halted log.
//!   4. A file that a view holds is told of while it is held, removed or not, and no longer.
//!   5. Counts begin at 0 with an open, and those of a deleted topic stay.

use std::path::Path;
use std::thread;
use std::time::Duration;

use plimsoll::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use plimsoll::{
    Acks, Background, Broker, Durability, ManualClock, Metrics, Record, Records, Start, TopicConfig,
};

const NOW: i64 = 1_700_000_000_000;

/// A broker that makes no thread, so that every run does the same.
fn open(dir: &Path, clock: &ManualClock) -> Broker {
    let builder = Broker::builder().volumes([dir]).clock(clock.clone());
    builder.background(Background::Inline).open().unwrap()
}

fn open_sim(disk: &SimDisk) -> Broker {
    let builder = Broker::builder().volumes(["v"]).disk(disk).clock(ManualClock::new(NOW)).seed(3);
    builder.background(Background::Inline).open().unwrap()
}

/// The offsets of every partition are those of its description.
fn agrees_with_describe(broker: &Broker, metrics: &Metrics) {
    let mut told = Vec::new();
    for topic in broker.admin().topics() {
        for p in broker.admin().describe(&topic).unwrap().partitions {
            let offsets =
                (p.log_start_offset, p.high_watermark, p.durable_offset, p.log_end_offset);
            told.push((topic.name().to_owned(), p.partition, offsets));
        }
    }
    let seen = metrics.partitions.iter().map(|p| {
        let offsets = (p.log_start_offset, p.high_watermark, p.durable_offset, p.log_end_offset);
        assert_eq!(p.seen_end_offset, p.log_end_offset);
        (p.topic.to_string(), p.partition, offsets)
    });
    assert_eq!(seen.collect::<Vec<_>>(), told);
}

/// How many segment files there are below a folder, and their length together.
fn files(dir: &Path) -> (u64, u64) {
    let mut found = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let (count, bytes) = files(&entry.path());
            found = (found.0 + count, found.1 + bytes);
        } else if entry.path().extension().is_some_and(|extension| extension == "log") {
            found = (found.0 + 1, found.1 + entry.metadata().unwrap().len());
        }
    }
    found
}

fn poll(broker: &Broker, topic: &str, partition: u32, start: Start) -> Records {
    let consumer = broker.consumer().assign([(topic, partition)]).start(start);
    consumer.build().unwrap().poll(Duration::ZERO).unwrap()
}

#[test]
fn what_one_thread_does_is_counted_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOW);
    let broker = open(dir.path(), &clock);
    broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let producer = broker.producer().build().unwrap();
    let before = broker.metrics();
    assert_eq!((before.records_appended, before.sync_latency_us.count(), before.topics), (0, 0, 1));
    assert!(before.partitions.iter().all(|p| p.last_append_time.is_none() && p.segments == 0));

    for _ in 0..10 {
        producer.send("t", Record::new("one").partition(0)).unwrap();
    }
    clock.advance(Duration::from_millis(7));
    let records: Vec<_> = (0..7).map(|_| Record::new("several")).collect();
    producer.send_batch("t", 1, &records).unwrap();
    producer.send_batch("t", 1, &[]).unwrap_err();
    producer.send("nope", Record::new("lost")).unwrap_err();
    let too_large = vec![0; 2 << 20];
    producer.send("t", Record::new(&too_large).partition(0)).unwrap_err();

    let metrics = broker.metrics();
    agrees_with_describe(&broker, &metrics);
    assert_eq!((metrics.records_appended, metrics.batches_appended), (17, 11));
    assert_eq!(metrics.batch_bytes.count(), 11);
    assert_eq!(metrics.batch_bytes.sum(), metrics.bytes_appended);
    assert_eq!(metrics.sync_latency_us.count(), 11, "one sync for each append of a lone writer");
    assert_eq!((metrics.time, metrics.opened), (NOW + 7, NOW));
    let (one, two) = (metrics.partition("t", 0).unwrap(), metrics.partition("t", 1).unwrap());
    assert_eq!((one.records_appended, one.batches_appended, one.syncs), (10, 10, 10));
    assert_eq!((two.records_appended, two.batches_appended, two.syncs), (7, 1, 1));
    assert_eq!((one.last_append_time, two.last_append_time), (Some(NOW), Some(NOW + 7)));
    assert_eq!(one.bytes_appended + two.bytes_appended, metrics.bytes_appended);
    assert_eq!(metrics.batch_bytes.max(), two.bytes_appended);
    assert_eq!((metrics.fetches, metrics.mappings, metrics.descriptors), (0, 2, 2));

    assert_eq!(poll(&broker, "t", 0, Start::Earliest).count(), 10);
    assert_eq!(poll(&broker, "t", 1, Start::Offset(4.into())).count(), 3);
    assert!(poll(&broker, "t", 1, Start::Latest).is_empty());
    let metrics = broker.metrics();
    assert_eq!((metrics.fetches, metrics.records_fetched), (2, 13));
    assert_eq!(metrics.bytes_fetched, metrics.bytes_appended, "batches are fetched whole");
    let two = metrics.partition("t", 1).unwrap();
    assert_eq!((two.fetches, two.records_fetched, two.bytes_fetched), (1, 3, two.bytes_appended));
    assert!(metrics.partition("t", 2).is_none() && metrics.partition("u", 0).is_none());
}

#[test]
fn what_four_threads_do_is_counted_exactly() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 500;
    for durability in [Durability::Os, Durability::Fsync] {
        let rounds = if durability == Durability::Os { ROUNDS } else { ROUNDS / 10 };
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(dir.path()).unwrap();
        let config = TopicConfig::new().partitions(2).durability(durability);
        broker.create_topic("t", config.segment_bytes(64 << 10)).unwrap();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let broker = &broker;
                scope.spawn(move || {
                    let producer = broker.producer().acks(Acks::All).build().unwrap();
                    for round in 0..rounds {
                        let records: Vec<_> = (0..=thread).map(|_| Record::new("value")).collect();
                        let partition = u32::try_from(round % 2).unwrap();
                        producer.send_batch("t", partition, &records).unwrap();
                        // A snapshot in between keeps the order of the offsets (I4).
                        let metrics = broker.metrics();
                        for p in &metrics.partitions {
                            assert!(p.log_start_offset <= p.high_watermark, "{p:?}");
                            assert!(p.high_watermark <= p.log_end_offset, "{p:?}");
                            assert!(p.durable_offset <= p.log_end_offset, "{p:?}");
                        }
                    }
                });
            }
        });
        thread::scope(|scope| {
            for partition in 0..2 {
                for _ in 0..2 {
                    let mut consumer =
                        broker.consumer().assign([("t", partition)]).build().unwrap();
                    scope.spawn(move || {
                        let mut seen = 0;
                        while seen < (1 + 2 + 3 + 4) * rounds / 2 {
                            seen += consumer.poll(Duration::MAX).unwrap().count() as u64;
                        }
                    });
                }
            }
        });
        let metrics = broker.metrics();
        agrees_with_describe(&broker, &metrics);
        assert_eq!(metrics.records_appended, (1 + 2 + 3 + 4) * rounds);
        assert_eq!(metrics.batches_appended, THREADS * rounds);
        assert_eq!(metrics.batch_bytes.count(), THREADS * rounds);
        assert_eq!(metrics.batch_bytes.sum(), metrics.bytes_appended);
        assert_eq!(metrics.records_fetched, 2 * metrics.records_appended);
        assert_eq!(metrics.bytes_fetched, 2 * metrics.bytes_appended);
        for p in &metrics.partitions {
            assert_eq!(p.records_appended, p.log_end_offset.get());
            assert_eq!(p.records_fetched, 2 * p.records_appended);
        }
        assert_eq!((metrics.syncs_failed, metrics.logs_halted), (0, 0));
    }
}

#[test]
fn sizes_and_segments_are_those_of_the_files() {
    for durability in [Durability::Os, Durability::Fsync] {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(NOW);
        let config = TopicConfig::new().durability(durability).segment_bytes(64 << 10);
        let topics = dir.path().join("topics");
        let value = vec![7; 10_000];
        let mut sent = 0;
        for opens in 0..3 {
            let broker = open(dir.path(), &clock);
            broker.ensure_topic("t", config.clone()).unwrap();
            let metrics = broker.metrics();
            assert_eq!(metrics.records_appended, 0, "counts begin at 0");
            assert!(metrics.opened_clean && metrics.tails_cut == 0);
            let p = metrics.partition("t", 0).unwrap();
            assert_eq!((p.segments, p.bytes_on_disk), files(&topics), "at open {opens}");
            assert_eq!(p.last_append_time, (opens > 0).then_some(NOW));
            let producer = broker.producer().build().unwrap();
            for _ in 0..40 {
                producer.send("t", Record::new(&value)).unwrap();
                sent += 1;
                let metrics = broker.metrics();
                let p = metrics.partition("t", 0).unwrap();
                assert_eq!((p.segments, p.bytes_on_disk), files(&topics), "after {sent}");
            }
            assert!(broker.metrics().partition("t", 0).unwrap().segments > 3);
            broker.close().unwrap();
        }
    }
}

#[test]
fn a_failed_sync_is_counted_and_shows_its_halted_log() {
    let disk = SimDisk::new();
    let broker = open_sim(&disk);
    broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let producer = broker.producer().build().unwrap();
    producer.send("t", Record::new("good").partition(0)).unwrap();
    let (call, what) = (Some(Call::SyncData), FaultKind::Eio);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    producer.send("t", Record::new("lost").partition(0)).unwrap_err();
    producer.send("t", Record::new("refused").partition(0)).unwrap_err();
    producer.send("t", Record::new("good").partition(1)).unwrap();

    let metrics = broker.metrics();
    agrees_with_describe(&broker, &metrics);
    assert_eq!((metrics.syncs_failed, metrics.logs_halted), (1, 1));
    assert_eq!(metrics.sync_latency_us.count(), 2, "the failed one is none that was done");
    let (one, two) = (metrics.partition("t", 0).unwrap(), metrics.partition("t", 1).unwrap());
    assert_eq!((one.syncs, one.syncs_failed, one.halted), (1, 1, true));
    assert_eq!((two.syncs, two.syncs_failed, two.halted), (1, 0, false));
    // The second one was in the log, and was not acknowledged.
    assert_eq!((one.records_appended, one.high_watermark.get()), (2, 1));
}

#[test]
fn the_oldest_pinned_segment_appears_and_disappears() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOW);
    let broker = open(dir.path(), &clock);
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).unwrap();
    let producer = broker.producer().build().unwrap();
    let value = vec![7; 10_000];
    for _ in 0..30 {
        producer.send("t", Record::new(&value)).unwrap();
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!((broker.metrics().segments_pinned, broker.metrics().oldest_pinned), (0, None));

    let late = poll(&broker, "t", 0, Start::Offset(20.into()));
    let told = broker.metrics().oldest_pinned.unwrap();
    assert!((10..=20).contains(&told.base_offset.get()) && !told.deleted, "{told:?}");
    let early = poll(&broker, "t", 0, Start::Earliest);
    let early_too = early.clone();
    let metrics = broker.metrics();
    let told = metrics.oldest_pinned.unwrap();
    assert_eq!((metrics.segments_pinned, told.base_offset.get()), (2, 0));
    assert_eq!(metrics.deleted_bytes_pinned, 0);
    assert!((NOW..NOW + 10_000).contains(&told.last_append_time.unwrap()), "{told:?}");

    // The topic goes; what was fetched of it stays.
    let of_file = told.bytes;
    broker.admin().delete_topic("t").unwrap();
    let metrics = broker.metrics();
    let told = metrics.oldest_pinned.unwrap();
    assert_eq!((metrics.segments_pinned, told.base_offset.get(), told.deleted), (2, 0, true));
    assert_eq!((&*told.topic, told.partition.get(), told.bytes), ("t", 0, of_file));
    assert!(metrics.deleted_bytes_pinned > of_file);
    assert_eq!((metrics.records_appended, metrics.topics), (30, 0), "counts never fall");
    assert!(early.iter().all(|record| record.value() == Some(&value)));

    drop(early);
    assert_eq!(broker.metrics().segments_pinned, 2, "a clone holds it");
    drop(early_too);
    let told = broker.metrics().oldest_pinned.unwrap();
    assert!(told.base_offset.get() >= 10 && told.deleted, "{told:?}");
    drop(late);
    let metrics = broker.metrics();
    assert_eq!((metrics.segments_pinned, metrics.deleted_bytes_pinned), (0, 0));
    assert_eq!(metrics.oldest_pinned, None);
}

#[test]
fn a_view_is_told_of_over_the_life_of_its_file() {
    for durability in [Durability::Os, Durability::Fsync] {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(NOW);
        let config = TopicConfig::new().durability(durability).segment_bytes(64 << 10);
        let broker = open(dir.path(), &clock);
        broker.create_topic("t", config).unwrap();
        let send = |broker: &Broker, count| {
            let producer = broker.producer().build().unwrap();
            for _ in 0..count {
                producer.send("t", Record::new(vec![7; 10_000].as_slice())).unwrap();
            }
        };
        let pinned = |broker: &Broker| broker.metrics().oldest_pinned.map(|p| p.base_offset.get());
        // Of a file being written to, which is then rolled away and sealed.
        send(&broker, 1);
        let view = poll(&broker, "t", 0, Start::Earliest);
        assert_eq!(pinned(&broker), Some(0));
        send(&broker, 20);
        assert_eq!(pinned(&broker), Some(0), "{durability:?}: sealed under the view");
        drop(view);
        assert_eq!(pinned(&broker), None);
        // Of the newest file of before an open, which appends then go on in.
        broker.close().unwrap();
        let broker = open(dir.path(), &clock);
        let end = broker.admin().latest("t", 0).unwrap().get();
        let view = poll(&broker, "t", 0, Start::Offset((end - 1).into()));
        let base = pinned(&broker);
        assert!(base.is_some_and(|base| base > 0));
        send(&broker, 1);
        assert_eq!(pinned(&broker), base, "{durability:?}: gone on in under the view");
        drop(view);
        assert_eq!(pinned(&broker), None);
    }
}

#[test]
fn beside_a_live_broker_the_files_tell() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOW);
    let owner = open(dir.path(), &clock);
    owner.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    let producer = owner.producer().build().unwrap();
    for round in 1..=3_u64 {
        for _ in 0..100 {
            producer.send("t", Record::new("value")).unwrap();
        }
        let beside = Broker::open_read_only(dir.path()).unwrap().metrics();
        let (seen, own) = (beside.partition("t", 0).unwrap(), owner.metrics());
        let own = own.partition("t", 0).unwrap();
        assert_eq!(seen.seen_end_offset.get(), round * 100, "what is written shows");
        assert!(seen.log_end_offset <= own.durable_offset, "nothing is called durable that is not");
        assert_eq!((seen.segments, seen.bytes_on_disk), (own.segments, own.bytes_on_disk));
        assert_eq!((seen.last_append_time, seen.records_appended), (Some(NOW), 0));
    }
    owner.admin().wait_durable("t", 0, 300.into()).unwrap();
    owner.close().unwrap();
    let beside = Broker::open_read_only(dir.path()).unwrap();
    assert_eq!(beside.metrics().partition("t", 0).unwrap().log_end_offset.get(), 300);
}
