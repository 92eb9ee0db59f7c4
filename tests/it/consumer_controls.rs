//! A consumer does what it is told: paused partitions rest, handles end polls, lag is told.
//!
//! Invariants
//!   1. A paused partition is neither fetched nor wakes a poll; resumed, it goes on where it was.
//!   2. A poll that was woken returns nothing, and loses nothing. A stopped consumer's polls return
//!      at once, with nothing, from then on.
//!   3. A poll with a timeout of zero does not wait, and one at its timeout returns nothing.
//!   4. Lag is what lies between the position and the high watermark, and how long it has lain.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use plimsoll::sim::SimDisk;
use plimsoll::{
    Background, Broker, Consumer, Durability, Error, ManualClock, Offset, Record, Result, Start,
    TopicConfig, TopicPartition,
};

/// Longer than anything here takes: reaching it is a hang.
const LONG: Duration = Duration::from_mins(1);

struct Store {
    disk: SimDisk,
    clock: ManualClock,
    broker: Broker,
}

/// A topic `t` of three partitions, with `a0` in the first, `b0` in the second, and so on.
fn store() -> Store {
    let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000_000));
    let broker = Broker::builder().volumes(["/v"]).disk(&disk).clock(clock.clone()).seed(9);
    let broker = broker.background(Background::Inline).open().unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let store = Store { disk, clock, broker };
    for (partition, value) in [(0, "a0"), (1, "b0"), (2, "c0")] {
        store.send(partition, value);
    }
    store
}

impl Store {
    fn send(&self, partition: u32, value: &str) {
        let producer = self.broker.producer().build().unwrap();
        producer.send("t", Record::new(value).partition(partition)).unwrap();
    }

    fn consumer(&self) -> Consumer {
        self.broker.consumer().assign([("t", 0), ("t", 1), ("t", 2)]).build().unwrap()
    }
}

fn poll(consumer: &mut Consumer) -> Vec<String> {
    let records = consumer.poll(Duration::ZERO).unwrap();
    let values = records.iter().map(|record| record.value().unwrap().to_vec());
    let mut values: Vec<_> = values.map(|value| String::from_utf8(value).unwrap()).collect();
    values.sort();
    values
}

fn position(consumer: &Consumer, partition: u32) -> u64 {
    consumer.positions()[&TopicPartition::new("t", partition)].get()
}

#[test]
fn a_paused_partition_is_not_fetched_and_goes_on_where_it_was() {
    let store = store();
    let mut consumer = store.consumer();
    consumer.pause([("t", 1)]).unwrap();
    consumer.pause([("t", 1), ("t", 2)]).unwrap();
    assert_eq!(poll(&mut consumer), ["a0"]);
    assert_eq!(position(&consumer, 1), 0);
    for (partition, value) in [(0, "a1"), (1, "b1"), (2, "c1")] {
        store.send(partition, value);
    }
    assert_eq!(poll(&mut consumer), ["a1"]);
    // A paused one can be moved.
    consumer.seek(("t", 2), Offset::new(1)).unwrap();
    consumer.resume([("t", 1), ("t", 2)]).unwrap();
    assert_eq!(poll(&mut consumer), ["b0", "b1", "c1"]);
    consumer.resume([("t", 0)]).unwrap();
    assert!(poll(&mut consumer).is_empty());
}

#[test]
fn pausing_what_was_not_assigned_changes_nothing() {
    let store = store();
    let mut consumer = store.broker.consumer().assign([("t", 0), ("t", 1)]).build().unwrap();
    for unknown in [("t", 2), ("u", 0)] {
        let error = consumer.pause([("t", 0), unknown]).unwrap_err();
        assert!(matches!(error, Error::UnknownPartition { .. }), "{error:?}");
        assert!(consumer.resume([unknown]).is_err());
    }
    assert_eq!(poll(&mut consumer), ["a0", "b0"]);
}

#[test]
fn a_paused_partition_does_not_end_a_poll_that_waits() {
    let store = store();
    let mut consumer = store.consumer();
    poll(&mut consumer);
    consumer.pause([("t", 1)]).unwrap();
    // There already, and coming meanwhile.
    store.send(1, "b1");
    let (done, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let first = consumer.poll(LONG).map(|records| records.count());
            done.send((first, consumer)).unwrap();
        });
        store.send(1, "b2");
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "it was woken");
        store.send(0, "a1");
        let (first, mut consumer) = told.recv_timeout(LONG).expect("another one wakes it");
        assert_eq!(first.unwrap(), 1);
        consumer.resume([("t", 1)]).unwrap();
        assert_eq!(poll(&mut consumer), ["b1", "b2"]);
    });
}

#[test]
fn with_everything_paused_a_poll_ends_at_its_timeout_and_at_a_wake_up() {
    let store = store();
    let mut consumer = store.consumer();
    consumer.pause([("t", 0), ("t", 1), ("t", 2)]).unwrap();
    let began = Instant::now();
    assert!(consumer.poll(Duration::from_millis(30)).unwrap().is_empty());
    assert!(began.elapsed() >= Duration::from_millis(30));
    let handle = consumer.handle();
    std::thread::scope(|scope| {
        let (done, told) = mpsc::channel();
        scope.spawn(move || done.send(consumer.poll(LONG * 10).unwrap().count()).unwrap());
        handle.wakeup();
        assert_eq!(told.recv_timeout(LONG), Ok(0));
    });
}

#[test]
fn damage_in_a_paused_partition_is_not_told() {
    let store = store();
    store.broker.clone().close().unwrap();
    let place = |path: &std::path::PathBuf| {
        let bytes = store.disk.read_file(path)?;
        bytes.windows(2).position(|at| at == b"b0").map(|at| (path.clone(), at as u64))
    };
    let is_log = |path: &std::path::PathBuf| path.starts_with("/v/topics");
    let (log, at) = store.disk.files().iter().filter(|p| is_log(p)).find_map(place).unwrap();
    store.disk.flip_bit(&log, at, 0).unwrap();
    let broker = Broker::builder().volumes(["/v"]).disk(&store.disk).open().unwrap();
    let mut consumer = broker.consumer().assign([("t", 1)]).build().unwrap();
    consumer.pause([("t", 1)]).unwrap();
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    // The lag passes what cannot be read.
    assert_eq!(consumer.lag().unwrap()[&TopicPartition::new("t", 1)].records, 1);
    consumer.resume([("t", 1)]).unwrap();
    let error = consumer.poll(Duration::ZERO).unwrap_err();
    consumer.skip(error.corruption().expect("damage"));
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
}

#[test]
fn a_poll_that_was_woken_returns_nothing_and_loses_nothing() {
    let store = store();
    let mut consumer = store.consumer();
    consumer.handle().wakeup();
    assert!(poll(&mut consumer).is_empty(), "woken");
    assert_eq!(poll(&mut consumer), ["a0", "b0", "c0"]);
    // One wake-up ends one poll.
    consumer.handle().wakeup();
    consumer.handle().wakeup();
    assert!(consumer.poll(LONG).unwrap().is_empty());
    let began = Instant::now();
    assert!(consumer.poll(Duration::from_millis(20)).unwrap().is_empty());
    assert!(began.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_stopped_consumer_returns_at_once_with_nothing_from_then_on() {
    let store = store();
    let mut consumer = store.consumer();
    let handle = consumer.handle();
    assert!(!consumer.is_stopped());
    std::thread::scope(|scope| {
        let (polling, polls) = mpsc::channel();
        let polled = scope.spawn(move || {
            let mut counts = Vec::new();
            while !consumer.is_stopped() {
                counts.push(consumer.poll(LONG * 10).unwrap().count());
                polling.send(()).unwrap();
            }
            (counts, consumer)
        });
        polls.recv_timeout(LONG).expect("the first poll has records");
        handle.stop();
        let (counts, mut consumer) = polled.join().unwrap();
        assert_eq!(counts.iter().sum::<usize>(), 3);
        store.send(0, "a1");
        for timeout in [Duration::ZERO, LONG * 10, Duration::MAX] {
            assert!(consumer.poll(timeout).unwrap().is_empty());
        }
        assert_eq!(position(&consumer, 0), 1, "nothing was passed");
        handle.stop();
    });
}

#[test]
fn a_poll_of_zero_does_not_wait() {
    let store = store();
    let mut consumer = store.consumer();
    let began = Instant::now();
    for _ in 0..1_000 {
        consumer.poll(Duration::ZERO).unwrap();
    }
    assert!(began.elapsed() < LONG / 4);
}

#[test]
fn lag_is_told_in_records_and_in_time() {
    let store = store();
    let lag = |consumer: &Consumer, partition: u32| {
        let lag = consumer.lag().unwrap()[&TopicPartition::new("t", partition)];
        (lag.records, lag.time)
    };
    let seconds = Duration::from_secs;
    let mut consumer = store.consumer();
    assert_eq!(lag(&consumer, 0), (1, Duration::ZERO));
    store.clock.advance(seconds(5));
    store.send(0, "a1");
    store.clock.advance(seconds(2));
    assert_eq!(lag(&consumer, 0), (2, seconds(7)));
    consumer.seek(("t", 0), Offset::new(1)).unwrap();
    assert_eq!(lag(&consumer, 0), (1, seconds(2)));
    assert_eq!(lag(&consumer, 1), (1, seconds(7)));
    poll(&mut consumer);
    store.clock.advance(seconds(3));
    assert_eq!(lag(&consumer, 0), (0, Duration::ZERO));
    // Beyond the end there is none, and a closed broker tells nothing.
    consumer.seek(("t", 0), Offset::new(9)).unwrap();
    assert_eq!(lag(&consumer, 0), (0, Duration::ZERO));
    store.broker.clone().close().unwrap();
    assert!(matches!(consumer.lag(), Err(Error::Closed)));
}

#[test]
fn lag_counts_only_what_is_committed_and_reads_within_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let config = TopicConfig::new().durability(Durability::Os);
    let topic = broker.create_topic("t", config).unwrap();
    let producer = broker.producer().build().unwrap();
    let values: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let records: Vec<_> = values.iter().map(Record::new).collect();
    producer.send_batch(&topic, 0, &records).unwrap();
    let start = Start::Offset(Offset::new(40));
    let consumer = broker.consumer().assign([("t", 0)]).start(start).build().unwrap();
    let lag: Result<_> = consumer.lag();
    assert_eq!(lag.unwrap().values().map(|lag| lag.records).collect::<Vec<_>>(), [60]);
}
