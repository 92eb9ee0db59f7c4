//! A queued record is sent in its turn, once, and its delivery says what became of it.
//!
//! Invariants
//!   1. Within a partition offsets follow the order of the calls, retries and `send` included, and
//!      no record is twice in the log.
//!   2. What was queued before a flush, a close or the drop of the last producer is answered when
//!      that returns; dropping a delivery loses nothing.
//!   3. At most `buffer_bytes` are queued; beyond it `enqueue` waits for `max_block` and fails with
//!      `BufferFull`.
//!   4. What may pass is tried again for `delivery_timeout`; anything else fails at once; the
//!      outcome is true.
//!   5. Every delivery gets an answer, whatever happens to the broker, the disk or the topic, and
//!      whatever wakers and partitioners do. No wake-up is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use plimsoll::{
    Ack, Acks, Background, Broker, Delivery, Durability, Error, Outcome, Partitioner, Producer,
    Record, Result, TopicConfig,
};

/// Longer than anything here takes: reaching it is a hang.
const LONG: Duration = Duration::from_mins(1);
/// So long that nobody sends by itself.
const NEVER: Duration = Duration::from_secs(100);

fn open(disk: &SimDisk, background: Background) -> Broker {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).seed(5);
    let broker = builder.background(background).open().unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(3).segment_bytes(64 << 10)).unwrap();
    broker
}

/// A store on a simulated disk, with the topic `t` of three partitions.
fn store(background: Background) -> (SimDisk, Broker) {
    let disk = SimDisk::new();
    let broker = open(&disk, background);
    (disk, broker)
}

fn both() -> [(SimDisk, Broker); 2] {
    [store(Background::Thread), store(Background::Inline)]
}

fn queue(producer: &Producer, partition: u32, value: &str) -> Delivery {
    producer.enqueue("t", Record::new(value).partition(partition)).unwrap()
}

fn values(broker: &Broker, partition: u32) -> Vec<String> {
    let reader = broker.reader("t").partition(partition).build().unwrap();
    let read = reader.map(|record| record.unwrap().value().unwrap().to_vec());
    read.map(|value| String::from_utf8(value).unwrap()).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The disk is full for whatever needs more of it: the first record of a partition does.
fn fill(disk: &SimDisk, how_long: HowLong) {
    arm(disk, Call::Allocate, FaultKind::Enospc, how_long);
}

fn arm(disk: &SimDisk, call: Call, what: FaultKind, how_long: HowLong) {
    disk.arm(Fault { at: 1, call: Some(call), what, how_long });
}

/// Lets stalled syncs go on when it is dropped, also if an assertion fails meanwhile.
struct Stall<'a>(&'a SimDisk);

impl<'a> Stall<'a> {
    /// From now on syncs do not return.
    fn begin(disk: &'a SimDisk) -> Self {
        arm(disk, Call::SyncData, FaultKind::StalledSync, HowLong::Forever);
        Self(disk)
    }

    fn reached(&self) {
        while self.0.stalled() == 0 {
            thread::yield_now();
        }
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.0.disarm();
        self.0.release_stalls();
    }
}

#[test]
fn offsets_follow_the_order_of_the_calls_in_each_partition() {
    const COUNT: usize = 2_000;
    for durability in [Durability::Fsync, Durability::Os] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(dir.path()).unwrap();
        let config = TopicConfig::new().partitions(3).durability(durability);
        broker.create_topic("t", config.segment_bytes(64 << 10)).unwrap();
        // Small batches, and a buffer that is full most of the time.
        let producer = broker.producer().batch_bytes(700).buffer_bytes(5_000).build().unwrap();
        thread::scope(|scope| {
            for partition in 0..3 {
                let producer = &producer;
                scope.spawn(move || {
                    let deliveries: Vec<_> = numbers(0..COUNT)
                        .iter()
                        .map(|value| queue(producer, partition, value))
                        .collect();
                    for (offset, delivery) in (0..).zip(deliveries) {
                        let ack = delivery.wait().unwrap();
                        assert_eq!((ack.partition.get(), ack.offset.get()), (partition, offset));
                        assert!(!ack.duplicate && ack.timestamp > 0);
                    }
                });
            }
        });
        for partition in 0..3 {
            assert_eq!(values(&broker, partition), numbers(0..COUNT), "{durability:?}");
        }
        broker.close().unwrap();
        let broker = Broker::open(dir.path()).unwrap();
        assert!(broker.admin().verify().unwrap().faults.is_empty());
        assert_eq!(values(&broker, 1), numbers(0..COUNT));
    }
}

#[test]
fn every_part_of_a_record_arrives() {
    for (_, broker) in both() {
        let producer = broker.producer().build().unwrap();
        let record = || {
            let record = Record::new("value").key("key").header("name", "one").header("", "");
            record.dedup_key("own").timestamp(77).partition(2)
        };
        let acks: Vec<_> = [record(), Record::tombstone("gone").partition(2)]
            .into_iter()
            .map(|record| producer.enqueue("t", record).unwrap())
            .collect();
        for ack in acks {
            ack.wait().unwrap();
        }
        let read: Vec<_> = broker.reader("t").build().unwrap().map(Result::unwrap).collect();
        assert_eq!(read[0].value(), Some(&b"value"[..]));
        assert_eq!(read[0].key(), Some(&b"key"[..]));
        assert_eq!(read[0].dedup_key(), Some(&b"own"[..]));
        assert_eq!((read[0].timestamp(), read[0].partition().get()), (77, 2));
        let headers: Vec<_> = read[0].headers().map(|h| (h.name(), h.value())).collect();
        assert_eq!(headers, [("name", &b"one"[..]), ("", &b""[..])]);
        assert!(read[1].is_tombstone());
        assert_eq!(read[1].timestamp(), read[1].append_time());
    }
}

#[test]
fn an_acknowledged_delivery_is_on_the_medium() {
    for (disk, broker) in both() {
        let producer = broker.producer().build().unwrap();
        let deliveries: Vec<_> = numbers(0..9).iter().map(|v| queue(&producer, 0, v)).collect();
        for delivery in deliveries {
            delivery.wait().unwrap();
        }
        let after = disk.crash(&Loss::All);
        let reopened = Broker::builder().volumes(["/v"]).disk(&after).open().unwrap();
        assert_eq!(values(&reopened, 0), numbers(0..9));
    }
}

#[test]
fn flush_waits_for_all_that_was_queued_before_it() {
    for (_, broker) in both() {
        let producer = broker.producer().linger(NEVER).batch_bytes(300).build().unwrap();
        let mut deliveries = Vec::new();
        for partition in [0, 1, 2, 1] {
            deliveries.extend(numbers(0..20).iter().map(|v| queue(&producer, partition, v)));
        }
        producer.flush().unwrap();
        for delivery in &deliveries {
            assert!(delivery.wait_timeout(Duration::ZERO).expect("flushed").is_ok());
        }
        assert_eq!(values(&broker, 1).len(), 40);
        producer.flush().unwrap();
    }
}

#[test]
fn a_batch_waits_for_its_linger_and_no_longer() {
    let (_, broker) = store(Background::Thread);
    let producer = broker.producer().linger(Duration::from_millis(200)).build().unwrap();
    let began = Instant::now();
    let deliveries: Vec<_> = numbers(0..5).iter().map(|value| queue(&producer, 0, value)).collect();
    let acks: Vec<Ack> = deliveries.iter().map(|delivery| delivery.wait().unwrap()).collect();
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(acks[4].offset.get(), 4);
    // Full is sooner.
    let producer = broker.producer().linger(NEVER).batch_bytes(100).build().unwrap();
    let full = queue(&producer, 1, &"v".repeat(100));
    assert!(full.wait_timeout(LONG).is_some());
}

#[test]
fn what_is_queued_behind_a_batch_in_flight_goes_together() {
    let (disk, broker) = store(Background::Thread);
    let producer = broker.producer().build().unwrap();
    let stall = Stall::begin(&disk);
    let first = queue(&producer, 0, "0");
    stall.reached();
    let rest: Vec<_> = numbers(1..100).iter().map(|value| queue(&producer, 0, value)).collect();
    assert!(first.wait_timeout(Duration::from_millis(1)).is_none());
    drop(stall);
    let before = disk.calls();
    for delivery in rest {
        delivery.wait().unwrap();
    }
    // 99 records one by one would take two calls each.
    assert!(disk.calls() - before < 99, "{} calls", disk.calls() - before);
    assert_eq!(values(&broker, 0), numbers(0..100));
}

#[test]
fn dropping_the_last_producer_flushes_and_dropping_a_delivery_loses_nothing() {
    for (_, broker) in both() {
        let producer = broker.producer().linger(NEVER).build().unwrap();
        let clone = producer.clone();
        for value in numbers(0..10) {
            drop(queue(&producer, 0, &value));
        }
        let kept = queue(&clone, 0, "10");
        drop(producer);
        assert!(format!("{kept:?}").contains("settled: false"), "a clone is left: {kept:?}");
        drop(clone);
        assert_eq!(kept.wait_timeout(Duration::ZERO).unwrap().unwrap().offset.get(), 10);
        assert_eq!(values(&broker, 0), numbers(0..11));
    }
}

#[test]
fn without_a_thread_the_caller_sends_when_full_and_when_asked() {
    let (_, broker) = store(Background::Inline);
    let end = |partition: u32| broker.admin().latest("t", partition).unwrap().get();
    let producer = broker.producer().batch_bytes(150).build().unwrap();
    // 40 bytes each: three fit.
    let deliveries: Vec<_> = numbers(0..3).iter().map(|value| queue(&producer, 0, value)).collect();
    assert_eq!(end(0), 0, "the batch is not full");
    let fourth = queue(&producer, 0, "3");
    assert_eq!(end(0), 3, "full");
    assert!(deliveries[2].wait_timeout(Duration::ZERO).is_some());
    assert_eq!(fourth.wait().unwrap().offset.get(), 3);
    let polled = queue(&producer, 1, "0");
    assert_eq!(end(1), 0);
    assert!(matches!(poll_once(polled), Poll::Ready(Ok(_))));
    assert_eq!(end(1), 1);
}

#[test]
fn send_comes_after_what_was_queued_before_it() {
    for (threaded, (_, broker)) in [true, false].into_iter().zip(both()) {
        let producer = broker.producer().linger(NEVER).build().unwrap();
        for round in 0..5 {
            queue(&producer, 0, &(4 * round).to_string());
            queue(&producer, 0, &(4 * round + 1).to_string());
            queue(&producer, 1, "elsewhere");
            let value = (4 * round + 2).to_string();
            let ack = producer.send("t", Record::new(&value).partition(0)).unwrap();
            assert_eq!(ack.offset.get(), 4 * round + 2);
            queue(&producer, 0, &(4 * round + 3).to_string());
        }
        let last = [Record::new("20"), Record::new("21")];
        let batch = producer.send_batch("t", 0, &last).unwrap();
        assert_eq!(batch.base_offset.get(), 20);
        assert_eq!(values(&broker, 0), numbers(0..22));
        if threaded {
            assert_eq!(values(&broker, 1).len(), 0, "another partition is not waited for");
        }
    }
}

#[test]
fn a_full_buffer_blocks_for_max_block_and_then_refuses() {
    let (disk, broker) = store(Background::Thread);
    let stall = Stall::begin(&disk);
    let builder = || broker.producer().buffer_bytes(100).linger(NEVER);
    for max_block in [Duration::ZERO, Duration::from_millis(50)] {
        let producer = builder().max_block(max_block).build().unwrap();
        let queued = [queue(&producer, 0, "a"), queue(&producer, 0, "b")];
        let began = Instant::now();
        let error = producer.enqueue("t", Record::new("c").partition(0)).unwrap_err();
        assert!(matches!(error, Error::BufferFull { buffer_bytes: 100 }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotWritten);
        assert!(error.is_retriable());
        assert!(began.elapsed() >= max_block);
        std::mem::forget((producer, queued));
    }
    // With time enough it waits until there is room, in whatever batch: a lingering one is sent.
    let producer = builder().max_block(LONG).build().unwrap();
    let (done, told) = mpsc::channel();
    thread::scope(|scope| {
        let producer = &producer;
        scope.spawn(move || {
            for value in numbers(0..20) {
                queue(producer, 1, &value);
            }
            done.send(()).unwrap();
        });
        stall.reached();
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(stall);
        told.recv_timeout(LONG).expect("there is room again");
    });
    producer.flush().unwrap();
    assert_eq!(values(&broker, 1), numbers(0..20));
}

#[test]
fn without_a_thread_a_full_buffer_is_sent_by_the_caller() {
    let (disk, broker) = store(Background::Inline);
    let builder = broker.producer().buffer_bytes(100).max_block(Duration::ZERO);
    let producer = builder.build().unwrap();
    for value in numbers(0..20) {
        queue(&producer, 1, &value);
    }
    producer.flush().unwrap();
    assert_eq!(values(&broker, 1), numbers(0..20));
    fill(&disk, HowLong::Forever);
    queue(&producer, 2, "0");
    queue(&producer, 2, "1");
    let error = producer.enqueue("t", Record::new("2").partition(2)).unwrap_err();
    assert!(matches!(error, Error::BufferFull { .. }), "{error:?}");
    disk.disarm();
    producer.close().unwrap();
    assert_eq!(values(&broker, 2), numbers(0..2));
}

#[test]
fn what_cannot_be_sent_is_refused_when_it_is_queued() {
    for (_, broker) in both() {
        let producer = broker.producer().buffer_bytes(200 << 10).build().unwrap();
        let refused = |record: Record<'_>| producer.enqueue("t", record).unwrap_err();
        let large = vec![0; (1 << 20) + 1];
        assert!(matches!(refused(Record::new(&large)), Error::RecordTooLarge { .. }));
        let error = refused(Record::new(&large[..300 << 10]));
        assert!(matches!(error, Error::RecordTooLarge { .. }), "no room in an empty buffer");
        let key = refused(Record::new("v").key(&large[..(64 << 10) + 1]));
        assert!(matches!(key, Error::RecordTooLarge { what: "a key", .. }), "{key:?}");
        let nowhere = refused(Record::new("v").partition(3));
        assert!(matches!(nowhere, Error::UnknownPartition { .. }), "{nowhere:?}");
        let unnamed = refused(Record::new("v").dedup_by_key());
        assert!(matches!(unnamed, Error::InvalidBatch { .. }), "{unnamed:?}");
        let unknown = producer.enqueue("u", Record::new("v")).unwrap_err();
        assert!(matches!(unknown, Error::UnknownTopic { .. }));
        // None of it is in the way of others.
        queue(&producer, 0, "0").wait().unwrap();
        producer.close().unwrap();
    }
}

#[test]
fn options_have_limits() {
    let (_, broker) = store(Background::Inline);
    let wrong = [
        (broker.producer().linger(Duration::from_secs(3_601)), "linger"),
        (broker.producer().buffer_bytes(0), "buffer_bytes"),
        (broker.producer().buffer_bytes((1 << 40) + 1), "buffer_bytes"),
        (broker.producer().delivery_timeout(Duration::ZERO), "delivery_timeout"),
        (broker.producer().linger(NEVER).delivery_timeout(NEVER / 2), "delivery_timeout"),
    ];
    for (builder, option) in wrong {
        let error = builder.build().unwrap_err();
        assert!(matches!(&error, Error::InvalidConfig(i) if i.option == option), "{error:?}");
    }
    let hour = Duration::from_hours(1);
    let most = broker.producer().linger(hour).delivery_timeout(hour).buffer_bytes(1 << 40);
    most.max_block(Duration::MAX).build().unwrap();
    broker.producer().delivery_timeout(Duration::MAX).buffer_bytes(1).build().unwrap();
}

/// A value of which a few fill a segment.
fn wide(number: usize) -> String {
    format!("{number:<9000}")
}

#[test]
fn what_may_pass_is_tried_again_in_order_and_never_written_twice() {
    for (disk, broker) in both() {
        let producer = broker.producer().batch_bytes(10_000).build().unwrap();
        fill(&disk, HowLong::Forever);
        let deliveries: Vec<_> = (0..9).map(|n| queue(&producer, 0, &wide(n))).collect();
        // Each is tried at once, and again when the back-off is over.
        while disk.fired() < 2 {
            assert!(deliveries[8].wait_timeout(Duration::from_millis(1)).is_none());
        }
        assert!(values(&broker, 0).is_empty());
        disk.disarm();
        for (offset, delivery) in (0..).zip(deliveries) {
            assert_eq!(delivery.wait().unwrap().offset.get(), offset);
        }
        // And where only one of several batches fails, those behind it do not overtake it: each
        // round fills a segment, and the next one needs room.
        for round in 1..6 {
            fill(&disk, HowLong::Once);
            let deliveries: Vec<_> =
                (9 * round..9 * round + 9).map(|n| queue(&producer, 0, &wide(n))).collect();
            for delivery in deliveries {
                delivery.wait().unwrap();
            }
        }
        assert_eq!(values(&broker, 0), (0..54).map(wide).collect::<Vec<_>>());
    }
}

#[test]
fn after_the_delivery_timeout_the_last_error_is_final_and_nothing_was_written() {
    const TIMEOUT: Duration = Duration::from_millis(120);
    for (disk, broker) in both() {
        let producer = broker.producer().delivery_timeout(TIMEOUT).build().unwrap();
        fill(&disk, HowLong::Forever);
        let began = Instant::now();
        let deliveries: Vec<_> = (0..5).map(|_| queue(&producer, 0, "lost")).collect();
        for delivery in &deliveries {
            let error = delivery.wait().unwrap_err();
            assert!(matches!(error, Error::StorageFull(_)), "{error:?}");
            assert_eq!(error.outcome(), Outcome::NotWritten);
        }
        assert!(began.elapsed() >= TIMEOUT, "given up after {:?}", began.elapsed());
        assert!(disk.fired() >= 2, "tried again");
        let told = producer.flush().unwrap_err();
        assert!(matches!(told, Error::StorageFull(_)), "{told:?}");
        producer.flush().expect("told once");
        disk.disarm();
        assert_eq!(queue(&producer, 0, "0").wait().unwrap().offset.get(), 0);
        assert_eq!(values(&broker, 0), numbers(0..1));
        producer.close().unwrap();
    }
}

#[test]
fn close_tells_the_first_failure() {
    for (disk, broker) in both() {
        let producer = broker.producer().linger(NEVER).build().unwrap();
        drop(queue(&producer, 0, "lost"));
        arm(&disk, Call::Write, FaultKind::Eio, HowLong::Once);
        let error = producer.close().unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotWritten);
        assert_eq!(values(&broker, 0), numbers(0..0));
    }
}

#[test]
fn a_halted_log_fails_at_once_and_only_its_own_records() {
    for (disk, broker) in both() {
        let producer = broker.producer().linger(NEVER).batch_bytes(100).build().unwrap();
        arm(&disk, Call::SyncData, FaultKind::Eio, HowLong::Once);
        let halted = queue(&producer, 0, "0");
        let behind = queue(&producer, 0, &"v".repeat(200));
        let elsewhere = queue(&producer, 1, "0");
        let told = producer.flush().unwrap_err();
        assert!(matches!(told, Error::Halted { .. }), "{told:?}");
        for delivery in [halted, behind] {
            let error = delivery.wait().unwrap_err();
            assert!(matches!(error, Error::Halted { .. }), "{error:?}");
            assert_eq!(error.outcome(), Outcome::Unknown);
        }
        elsewhere.wait().unwrap();
        disk.disarm();
        let later = queue(&producer, 0, "1");
        let _ = producer.flush();
        assert!(matches!(later.wait(), Err(Error::Halted { .. })));
    }
}

#[test]
fn a_deleted_topic_fails_what_was_queued_for_it_and_nothing_else() {
    for (_, broker) in both() {
        broker.create_topic("u", TopicConfig::new()).unwrap();
        let producer = broker.producer().linger(NEVER).build().unwrap();
        let gone = queue(&producer, 0, "0");
        let kept = producer.enqueue("u", Record::new("0")).unwrap();
        broker.admin().delete_topic("t").unwrap();
        let told = producer.flush().unwrap_err();
        assert!(matches!(told, Error::UnknownTopic { .. }), "{told:?}");
        assert!(matches!(gone.wait(), Err(Error::UnknownTopic { .. })));
        kept.wait().unwrap();
    }
}

#[test]
fn closing_the_broker_sends_what_is_queued() {
    for dropped in [false, true] {
        for (disk, broker) in both() {
            let producer = broker.producer().linger(NEVER).build().unwrap();
            let deliveries: Vec<_> = numbers(0..9).iter().map(|v| queue(&producer, 0, v)).collect();
            if dropped {
                drop(broker);
            } else {
                broker.close().unwrap();
            }
            for delivery in deliveries {
                delivery.wait().unwrap();
            }
            let late = producer.enqueue("t", Record::new("late")).unwrap_err();
            assert!(matches!(late, Error::Closed | Error::UnknownTopic { .. }), "{late:?}");
            producer.close().unwrap();
            let broker = Broker::builder().volumes(["/v"]).disk(&disk).open().unwrap();
            assert!(broker.recovery().clean);
            assert_eq!(values(&broker, 0), numbers(0..9));
        }
    }
}

#[test]
fn closing_the_broker_answers_what_cannot_be_sent_and_whoever_waits_for_room() {
    for (disk, broker) in both() {
        let producer = broker.producer().linger(NEVER).buffer_bytes(100).build().unwrap();
        let topic = broker.topic("t").unwrap();
        fill(&disk, HowLong::Forever);
        let queued = [queue(&producer, 0, "0"), queue(&producer, 0, "1")];
        let (done, told) = mpsc::channel();
        thread::scope(|scope| {
            let (producer, topic) = (&producer, &topic);
            scope.spawn(move || {
                let more = producer.enqueue(topic, Record::new("2").partition(0));
                done.send(more.map(drop)).unwrap();
            });
            while disk.fired() == 0 {
                thread::yield_now();
            }
            let _ = broker.close();
            let blocked = told.recv_timeout(LONG).expect("nobody hangs");
            assert!(matches!(blocked, Err(Error::Closed)), "{blocked:?}");
        });
        for delivery in queued {
            let error = delivery.wait_timeout(LONG).expect("an answer").unwrap_err();
            assert!(matches!(error, Error::StorageFull(_)), "{error:?}");
            assert_eq!(error.outcome(), Outcome::NotWritten);
        }
    }
}

/// A partitioner that does not know what to do with some records.
#[derive(Debug)]
struct Picky;

impl Partitioner for Picky {
    fn partition(&self, _: &str, record: &Record<'_>, partitions: u32) -> u32 {
        match record.value_bytes() {
            Some(b"panic") => panic!("this one on purpose"),
            Some(b"beyond") => partitions,
            _ => 1,
        }
    }
}

#[test]
fn a_partitioner_that_panics_harms_nobody_else() {
    for (_, broker) in both() {
        let producer = broker.producer().partitioner(Picky).build().unwrap();
        let first = producer.enqueue("t", Record::new("0")).unwrap();
        let panicking = || producer.enqueue("t", Record::new("panic")).map(drop);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
        let beyond = producer.enqueue("t", Record::new("beyond")).unwrap_err();
        assert!(matches!(beyond, Error::UnknownPartition { .. }), "{beyond:?}");
        let second = producer.enqueue("t", Record::new("1")).unwrap();
        assert_eq!(first.wait().unwrap().offset.get(), 0);
        assert_eq!(second.wait().unwrap().offset.get(), 1);
        assert_eq!(values(&broker, 1), numbers(0..2));
    }
}

#[test]
fn acks_none_are_answered_too() {
    for (_, broker) in both() {
        let producer = broker.producer().acks(Acks::None).build().unwrap();
        let deliveries: Vec<_> = numbers(0..9).iter().map(|v| queue(&producer, 0, v)).collect();
        for (offset, delivery) in (0..).zip(deliveries) {
            assert_eq!(delivery.wait().unwrap().offset.get(), offset);
        }
        broker.admin().wait_durable("t", 0, 9.into()).unwrap();
        assert_eq!(values(&broker, 0), numbers(0..9));
    }
}

/// Polls a future once, with a waker that does nothing.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = std::pin::pin!(future);
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Unparks the thread that waits.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread. A lost wake-up is a hang, which it tells.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let began = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park_timeout(LONG);
        assert!(began.elapsed() < LONG, "a wake-up was lost");
    }
}

#[test]
fn a_delivery_is_a_future_and_no_wake_up_is_lost() {
    const ROUNDS: usize = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    let producer = broker.producer().build().unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let delivery = producer.enqueue("t", Record::new("v")).unwrap();
                    block_on(delivery).unwrap();
                }
            });
        }
    });
    assert_eq!(values(&broker, 0).len(), 2 * ROUNDS);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_last_waker_given_is_woken_and_a_dropped_deliverys_is_let_go() {
    let (disk, broker) = store(Background::Thread);
    let producer = broker.producer().build().unwrap();
    let stall = Stall::begin(&disk);
    let mut kept = queue(&producer, 0, "0");
    let mut dropped = queue(&producer, 0, "1");
    let counts = [(); 3].map(|()| Arc::new(Count::default()));
    let [old, new, gone] = &counts;
    let poll = |delivery: &mut Delivery, count: &Arc<Count>| {
        let waker = Waker::from(Arc::clone(count));
        let polled = std::pin::Pin::new(delivery).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    };
    poll(&mut kept, old);
    poll(&mut kept, new);
    poll(&mut dropped, gone);
    assert_eq!(Arc::strong_count(old), 1, "replaced");
    drop(dropped);
    assert_eq!(Arc::strong_count(gone), 1, "let go");
    drop(stall);
    kept.wait().unwrap();
    while new.0.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    assert_eq!(values(&broker, 0), numbers(0..2));
    assert!(matches!(poll_once(kept), Poll::Ready(Ok(_))));
    let woken = counts.each_ref().map(|count| count.0.load(Ordering::SeqCst));
    assert_eq!(woken, [0, 1, 0]);
}

/// Does something when it is woken.
struct Act<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for Act<F> {
    fn wake(self: Arc<Self>) {
        if let Some(act) = self.0.lock().unwrap().take() {
            act();
        }
    }
}

fn on_wake(delivery: &mut Delivery, act: impl FnOnce() + Send + 'static) -> bool {
    let waker = Waker::from(Arc::new(Act(Mutex::new(Some(act)))));
    std::pin::Pin::new(delivery).poll(&mut Context::from_waker(&waker)).is_pending()
}

#[test]
fn wakers_may_panic_queue_more_and_close_the_broker() {
    let (disk, broker) = store(Background::Thread);
    let producer = broker.producer().build().unwrap();
    let mut stall = Some(Stall::begin(&disk));
    let mut deliveries: Vec<_> = numbers(0..3).iter().map(|v| queue(&producer, 0, v)).collect();
    let (done, told) = mpsc::channel();
    let barrier = Arc::new(Barrier::new(2));
    assert!(on_wake(&mut deliveries[0], || panic!("this one on purpose")));
    let again = producer.clone();
    assert!(on_wake(&mut deliveries[1], move || drop(queue(&again, 1, "more"))));
    // Another producer's records are in flight in the same round, or queued.
    let other = broker.producer().linger(NEVER).build().unwrap();
    let lingering = queue(&other, 2, "lingering");
    let (last, wait) = (broker.clone(), Arc::clone(&barrier));
    assert!(on_wake(&mut deliveries[2], move || {
        wait.wait();
        drop(last);
        done.send(()).unwrap();
    }));
    stall.take();
    deliveries[2].wait().unwrap();
    drop(broker);
    barrier.wait();
    told.recv_timeout(LONG).expect("the thread that sends closes the broker and goes on");
    assert!(lingering.wait_timeout(LONG).expect("an answer").is_ok());
    drop((producer, other));
    let broker = Broker::builder().volumes(["/v"]).disk(&disk).open().unwrap();
    assert_eq!(values(&broker, 0), numbers(0..3));
    assert_eq!(values(&broker, 1), ["more"]);
    assert_eq!(values(&broker, 2), ["lingering"]);
}
