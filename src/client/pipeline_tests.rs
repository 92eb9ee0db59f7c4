//! What `pipeline` promises, where it takes a look from inside to see it.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::broker::{Background, Broker};
use crate::client::{Delivery, Producer};
use crate::config::{Clock, Durability, TopicConfig};
use crate::error::{Error, Outcome};
use crate::format::Record;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use crate::id::{Offset, PartitionId};
use crate::log::Log;

/// Nobody waits as long where nothing is wrong.
const LONG: Duration = Duration::from_secs(10);
/// For longer than any test takes.
const NEVER: Duration = Duration::from_mins(1);

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

/// A waker that acts, once, on the thread that wakes.
struct Act<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for Act<F> {
    fn wake(self: Arc<Self>) {
        let act = self.0.lock().take();
        if let Some(act) = act {
            act();
        }
    }
}

fn on_wake(delivery: &mut Delivery, act: impl FnOnce() + Send + 'static) {
    let waker = Waker::from(Arc::new(Act(Mutex::new(Some(act)))));
    let polled = Pin::new(delivery).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "its sync is stalled");
}

/// Stalls the sender's thread in a sync for a record of this producer.
fn stall(disk: &SimDisk, producer: &Producer) -> Delivery {
    let (call, what) = (Some(Call::SyncData), FaultKind::StalledSync);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    let stalled = queue(producer, "stalled");
    while disk.stalled() == 0 {
        std::thread::yield_now();
    }
    stalled
}

/// Some executors poll a task where it is woken, and that is the thread that sends.
#[test]
fn a_waker_may_send_wait_flush_queue_and_drop_a_producer() {
    type Deed = fn(Producer, Delivery);
    let deeds: [(&str, Deed); 5] = [
        ("drop", |producer, _| drop(producer)),
        ("flush", |producer, _| producer.flush().expect("sent")),
        ("wait", |_producer, delivery| assert!(delivery.wait().is_ok())),
        ("send", |producer, _| {
            let ack = producer.send("t", Record::new("sent").partition(0)).expect("sent");
            assert_eq!(ack.offset, Offset::new(2), "it does not overtake what was queued");
        }),
        ("queue", |producer, _| drop(queue(&producer, &"into a full buffer".repeat(20)))),
    ];
    for (name, deed) in deeds {
        let disk = SimDisk::new();
        // Leaked where the test fails: closing it would wait for the thread that hangs.
        let broker = ManuallyDrop::new(open(&disk, Background::Thread));
        let producer = broker.producer().build().expect("built");
        let other = broker.producer().linger(NEVER).max_block(Duration::MAX);
        let other = other.buffer_bytes(500).build().expect("built");
        let lingering = queue(&other, &"lingers".repeat(20));
        let mut stalled = stall(&disk, &producer);
        let (done, told) = mpsc::channel();
        on_wake(&mut stalled, move || {
            deed(other, lingering);
            done.send(()).expect("the test waits");
        });
        disk.release_stalls();
        assert!(told.recv_timeout(LONG).is_ok(), "{name}: the thread that sends waits for itself");
        ManuallyDrop::into_inner(broker).close().expect("nothing fails");
    }
}

/// Panics at one of the next looks of the thread that sends.
#[derive(Clone, Debug, Default)]
struct Trap(Arc<AtomicU64>);

impl Clock for Trap {
    fn now_ms(&self) -> i64 {
        let one_less = |left: u64| left.checked_sub(1);
        if std::thread::current().name() == Some("plimsoll-sender")
            && self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less) == Ok(1)
        {
            panic!("this one on purpose");
        }
        1
    }
}

#[test]
fn after_a_panic_wakers_run_with_no_round_open() {
    let (disk, trap) = (SimDisk::new(), Trap::default());
    let builder = Broker::builder().volumes(["/v"]).disk(&disk).seed(7).clock(trap.clone());
    // Leaked where the test fails: closing it would wait for the thread that hangs.
    let broker = ManuallyDrop::new(builder.open().expect("the store opens"));
    broker.create_topic("t", TopicConfig::new().partitions(3)).expect("created");
    let producers = [0, 1, 2].map(|_| ManuallyDrop::new(broker.producer().build().expect("built")));
    let stalled = stall(&disk, &producers[0]);
    for partition in [1, 2] {
        let begun = Record::new("its file is begun").partition(partition);
        producers[1].send("t", begun).expect("sent");
    }
    let (done, told) = mpsc::channel();
    let deliveries = [1, 2].map(|partition| {
        let record = Record::new("in the next round").partition(partition);
        let queued = producers[partition as usize].enqueue("t", record);
        let mut delivery = queued.expect("queued");
        let (done, last) = (done.clone(), Broker::clone(&broker));
        on_wake(&mut delivery, move || {
            // It sends what is queued, so it waits for every round.
            let _ = last.close();
            done.send(()).expect("the test waits");
        });
        delivery
    });
    // The first of the two is in flight when the second one panics.
    trap.0.store(2, Ordering::Release);
    disk.release_stalls();
    for _ in &deliveries {
        assert!(told.recv_timeout(LONG).is_ok(), "the thread that sends waits for itself");
    }
    assert!(stalled.wait().is_ok());
    let results = deliveries.map(|delivery| delivery.wait());
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(failed.len(), 1, "{results:?}");
    assert_eq!(failed[0].outcome(), Outcome::Unknown, "{results:?}");
    drop(ManuallyDrop::into_inner(broker));
}

#[test]
fn a_waker_that_closes_does_not_wait_for_a_close_that_waits_for_it() {
    let disk = SimDisk::new();
    // Leaked where the test fails: closing it would wait for the thread that hangs.
    let broker = ManuallyDrop::new(open(&disk, Background::Thread));
    let producer = ManuallyDrop::new(broker.producer().build().expect("built"));
    let mut stalled = stall(&disk, &producer);
    let (done, told) = mpsc::channel();
    let (last, other) = (Broker::clone(&broker), Broker::clone(&broker));
    on_wake(&mut stalled, move || done.send(last.close()).expect("the test waits"));
    let beside = std::thread::spawn(|| other.close());
    while !broker.inner().is_closed() {
        std::thread::yield_now();
    }
    disk.release_stalls();
    let closed = told.recv_timeout(LONG).expect("the thread that sends waits for itself");
    closed.expect("it does not fail");
    beside.join().expect("it does not panic").expect("nothing fails");
    drop((ManuallyDrop::into_inner(broker), ManuallyDrop::into_inner(producer)));
}

#[test]
fn what_is_in_the_way_is_sent_also_where_nobody_waits_for_room() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Thread);
    let producer = broker.producer().linger(NEVER).max_block(Duration::ZERO).buffer_bytes(500);
    let producer = producer.build().expect("built");
    let lingers = queue(&producer, &"in the way".repeat(20));
    let big = "there is no room for it".repeat(15);
    let refused = producer.enqueue("t", Record::new(&big).partition(0)).map(drop);
    assert!(matches!(refused, Err(Error::BufferFull { .. })), "{refused:?}");
    let sent = lingers.wait_timeout(LONG).expect("it is sent, and does not linger");
    assert_eq!(sent.expect("nothing fails").offset, Offset::ZERO);
}

#[test]
fn no_large_buffer_is_kept() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    let topic = broker.create_topic("os", TopicConfig::new().durability(Durability::Os));
    let topic = topic.expect("created");
    let producer = broker.producer().batch_bytes(4 << 20).build().expect("built");
    let keeps = |value: &[u8], count: usize| {
        for _ in 0..count {
            drop(producer.enqueue(&topic, Record::new(value)).expect("queued"));
        }
        producer.flush().expect("sent");
        !format!("{producer:?}").contains("failed: None, spare: []")
    };
    assert!(!keeps(&vec![7; 800_000], 3), "2.4 MB");
    assert!(keeps(b"small", 3), "it is used again");
}

#[test]
fn what_a_waker_gave_up_waiting_for_is_tried_again() {
    for how in ["wait", "queue"] {
        let disk = SimDisk::new();
        let broker = ManuallyDrop::new(open(&disk, Background::Thread));
        let producer = broker.producer().build().expect("built");
        let other = broker.producer().linger(NEVER).max_block(Duration::ZERO).buffer_bytes(500);
        let other = other.build().expect("built");
        let lingers = "lingers".repeat(20);
        let record = Record::new(&lingers).partition(1);
        let lingering = other.enqueue("t", record).expect("queued");
        let mut stalled = stall(&disk, &producer);
        let (done, told) = mpsc::channel();
        let full = disk.clone();
        on_wake(&mut stalled, move || {
            fill_once(&full);
            if how == "wait" {
                assert!(lingering.wait_timeout(Duration::ZERO).is_none());
            } else {
                let big = "there is no room for it".repeat(15);
                other.enqueue("t", Record::new(&big).partition(1)).expect_err("no room");
            }
            done.send((lingering, other)).expect("the test waits");
        });
        disk.release_stalls();
        let (lingering, other) = told.recv_timeout(LONG).expect("it does not hang");
        assert_eq!(disk.fired(), 2);
        let answer = lingering.wait_timeout(Duration::from_secs(5));
        println!("{how}: {:?}", answer.as_ref().map(Result::is_ok));
        if how == "queue" || answer.is_none() {
            assert!(answer.is_some_and(|sent| sent.is_ok()), "{how}: it is not tried again");
        }
        drop(other);
    }
}

#[test]
fn waiting_for_room_does_not_spin() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Thread);
    let other = broker.producer().max_block(Duration::from_secs(1)).buffer_bytes(500);
    let other = other.linger(Duration::ZERO).build().expect("built");
    let (call, what) = (Some(Call::Allocate), FaultKind::Enospc);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Forever });
    let first = other.enqueue("t", Record::new(&"x".repeat(400)).partition(0)).expect("queued");
    let before = other.rounds();
    let refused = other.enqueue("t", Record::new(&"y".repeat(400)).partition(0)).map(drop);
    refused.expect_err("full");
    let rounds = other.rounds() - before;
    disk.disarm();
    first.wait().expect("sent");
    assert!(rounds < 60, "{rounds} rounds in a second, where one is due each 50 ms");
}

#[test]
fn two_that_wait_do_not_wake_each_other_all_the_time() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    let producer = broker.producer().build().expect("built");
    let (call, what) = (Some(Call::Allocate), FaultKind::Enospc);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Forever });
    let deliveries = [0, 1].map(|partition| {
        producer.enqueue("t", Record::new("x").partition(partition)).expect("queued")
    });
    let before = producer.rounds();
    std::thread::scope(|scope| {
        for delivery in &deliveries {
            scope.spawn(|| drop(delivery.wait_timeout(Duration::from_secs(1))));
        }
    });
    let rounds = producer.rounds() - before;
    disk.disarm();
    assert!(rounds < 100, "{rounds} rounds in a second, where one is due each 50 ms");
}
