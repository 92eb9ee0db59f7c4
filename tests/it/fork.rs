//! A forked child of the process that has a broker open gets typed errors, and touches nothing.
//!
//! Invariants
//!   1. In the child every call on the broker and on what was made with it fails with `Forked`, at
//!      once, whatever the parent's other threads held at the fork.
//!   2. Dropping any of it there writes nothing, waits for nothing, and sends nothing.
//!   3. The parent goes on, and its store is whole.
//!   4. What was fetched before stays readable in the child.
//!
//! A process of its own forks, so that no other test's threads are in the way. Its children end by
//! an alarm if they hang.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "fork(2) has no safe form")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll::{
    Background, Broker, Consumer, Delivery, Durability, Error, Offset, Producer, Reader, Record,
    Records, Result, Topic, TopicChange, TopicConfig,
};

use crate::child;

const FORKS: u64 = 25;
/// So long that nobody sends by itself.
const NEVER: Duration = Duration::from_secs(100);
/// A child that is not done by then hangs.
const ALARM_SECONDS: u32 = 30;

/// A broker with one of everything.
struct Held {
    broker: Broker,
    topic: Topic,
    producer: Producer,
    delivery: Delivery,
    consumer: Consumer,
    reader: Reader,
    fetched: Records,
}

fn config(durability: Durability) -> TopicConfig {
    TopicConfig::new().partitions(2).durability(durability).segment_bytes(64 << 10)
}

impl Held {
    /// A store whose topic has a record, with another one queued.
    fn new(broker: Broker) -> Self {
        let topic = broker.ensure_topic("t", config(Durability::Fsync)).unwrap();
        let producer = broker.producer().linger(NEVER).build().unwrap();
        producer.send(&topic, Record::new("sent").partition(0)).unwrap();
        let delivery = producer.enqueue(&topic, Record::new("queued").partition(0)).unwrap();
        let mut consumer = broker.consumer().assign([("t", 0)]).build().unwrap();
        let fetched = consumer.poll(Duration::ZERO).unwrap();
        let reader = broker.reader(&topic).build().unwrap();
        Self { broker, topic, producer, delivery, consumer, reader, fetched }
    }

    /// In the child: everything fails with `Forked`, and is dropped.
    fn use_and_drop(self) {
        let Self { broker, topic, producer, delivery, mut consumer, mut reader, fetched } = self;
        let first = fetched.iter().next().unwrap();
        assert_eq!(first.value(), Some(&b"sent"[..]));
        let kept = first.to_shared();
        refused(broker.create_topic("u", TopicConfig::new()));
        refused(broker.ensure_topic("t", TopicConfig::new()));
        refused(broker.topic("t"));
        refused(broker.producer().build());
        refused(broker.consumer().assign([("t", 0)]).build());
        refused(broker.reader("t").build());
        refused(broker.reader(&topic).build());
        let admin = broker.admin();
        assert!(admin.topics().is_empty());
        refused(admin.describe(&topic));
        refused(admin.earliest(&topic, 0));
        refused(admin.latest("t", 0));
        refused(admin.offset_at("t", 0, 0));
        refused(admin.durable_offset("t", 0));
        refused(admin.wait_durable("t", 0, Offset::ZERO));
        refused(admin.delete_topic("t"));
        refused(admin.verify());
        refused(admin.alter("t", TopicChange::new()));
        refused(admin.add_partitions(&topic, 3));
        refused(admin.delete_records(&topic, 0, Offset::ZERO));
        refused(admin.backup("nowhere"));
        assert!(broker.metrics().partitions.is_empty());
        refused(producer.send(&topic, Record::new("v")));
        refused(producer.send_batch("t", 0, &[Record::new("v")]));
        refused(producer.enqueue(&topic, Record::new("v")));
        refused(producer.partition_for(&topic, &Record::new("v")));
        refused(producer.flush());
        refused(delivery.wait());
        refused(delivery.wait_timeout(NEVER).expect("at once"));
        let mut polled = std::pin::pin!(delivery);
        let waker = std::task::Waker::noop();
        match polled.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Ready(result) => refused(result),
            std::task::Poll::Pending => panic!("it would never be woken"),
        }
        let handle = consumer.handle();
        handle.wakeup();
        handle.stop();
        refused(consumer.poll(NEVER));
        refused(consumer.seek(("t", 0), Offset::ZERO));
        refused(consumer.seek_all(&consumer.positions()));
        refused(consumer.pause([("t", 0)]));
        refused(consumer.resume([("t", 0)]));
        refused(consumer.lag());
        refused(reader.read(NEVER));
        refused(reader.next().expect("an error"));
        refused(producer.clone().close());
        refused(broker.clone().close());
        assert!(!topic.name().is_empty() && topic.partitions() == 2);
        drop((producer, consumer, reader, topic, admin, broker, fetched));
        assert_eq!(kept.value(), Some(&b"sent"[..]));
    }
}

fn refused<T>(result: Result<T>) {
    match result {
        Err(Error::Forked) => {}
        Err(other) => panic!("{other:?} instead of Forked"),
        Ok(_) => panic!("done, in a forked child"),
    }
}

/// Runs `work` in a forked child, and returns once that is over. The child must not panic.
fn in_a_child(work: impl FnOnce()) {
    // SAFETY: fork asks that the child of a process with threads takes no lock that another thread
    // may hold. The C library's allocator is safe to use after a fork; the locks of the library
    // under test are what is tested; and an alarm ends a child that hangs.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: it only sets a timer, whose signal ends the process.
        unsafe { libc::alarm(ALARM_SECONDS) };
        let done = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: it does not return, and runs no destructor of the parent's.
        unsafe { libc::_exit(i32::from(done.is_err())) }
    }
    assert!(child > 0, "fork failed");
    let mut status = 0;
    // SAFETY: it needs a child of this process and a place for its status; it has both.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(ended, child);
    assert!(!libc::WIFSIGNALED(status), "the child hung: signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0, "the child panicked");
}

/// Every file below a folder, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// The store, opened again, has these values in partition 0, and nothing is wrong with it.
fn check(dir: &Path, expected: &[&str]) {
    let broker = Broker::open(dir).unwrap();
    assert!(broker.recovery().clean && broker.recovery().damage.is_empty());
    assert!(broker.admin().verify().unwrap().faults.is_empty());
    let read = broker.reader("t").partition(0).build().unwrap();
    let values: Vec<_> = read.map(|record| record.unwrap().value().unwrap().to_vec()).collect();
    assert_eq!(values, expected.iter().map(|value| value.as_bytes()).collect::<Vec<_>>());
}

fn run(name: &str, task: &str, in_parent: impl FnOnce(&Path)) {
    if let Some(dir) = child::task(task) {
        return in_parent(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let status = child::again(name, task, dir.path()).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_childs_calls_and_drops_touch_nothing() {
    run("fork::a_childs_calls_and_drops_touch_nothing", "fork-quiet", |dir| {
        for background in [Background::Inline, Background::Thread] {
            let dir = dir.join(format!("{background:?}"));
            let broker = Broker::builder().volumes([&dir]).background(background).open().unwrap();
            let mut held = Some(Held::new(broker));
            // Nothing but the child would write meanwhile, and a second later the idle slot.
            let before = (background == Background::Inline).then(|| files(&dir));
            in_a_child(|| held.take().unwrap().use_and_drop());
            if let Some(before) = before {
                assert!(files(&dir) == before, "the child has written");
            }
            let Held { broker, producer, delivery, .. } = held.unwrap();
            assert_eq!(broker.admin().latest("t", 0).unwrap().get(), 1, "still queued");
            producer.flush().unwrap();
            assert_eq!(delivery.wait().unwrap().offset.get(), 1);
            // The parent's lock is its own still.
            assert!(matches!(Broker::open(&dir), Err(Error::Locked { .. })));
            broker.close().unwrap();
            check(&dir, &["sent", "queued"]);
        }
    });
}

#[test]
fn a_child_hangs_at_no_lock_that_a_thread_of_its_parent_held() {
    let name = "fork::a_child_hangs_at_no_lock_that_a_thread_of_its_parent_held";
    run(name, "fork-busy", |dir| {
        let broker = Broker::open(dir).unwrap();
        let topic = broker.ensure_topic("t", config(Durability::Fsync)).unwrap();
        let busy = broker.ensure_topic("busy", config(Durability::Os)).unwrap();
        let mut held = Some(Held::new(broker.clone()));
        let over = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (over, sent, broker, busy) = (&over, &sent, &broker, &busy);
            let producer = held.as_ref().unwrap().producer.clone();
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    producer.send(busy, Record::new("v").partition(0)).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            let queueing = broker.producer().build().unwrap();
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    queueing.enqueue(busy, Record::new("v").partition(1)).unwrap();
                }
            });
            let handle = held.as_ref().unwrap().consumer.handle();
            scope.spawn(move || {
                let mut consumer = broker.consumer().assign([("busy", 1)]).build().unwrap();
                while !over.load(Ordering::Relaxed) {
                    consumer.poll(Duration::from_millis(1)).unwrap();
                    handle.wakeup();
                    broker.admin().describe("busy").unwrap();
                    broker.create_topic("busy", TopicConfig::new()).unwrap_err();
                }
            });
            for round in 1..=FORKS {
                while sent.load(Ordering::Relaxed) < 20 * round {
                    std::thread::yield_now();
                }
                in_a_child(|| held.take().unwrap().use_and_drop());
            }
            over.store(true, Ordering::Relaxed);
        });
        let Held { producer, delivery, .. } = held.unwrap();
        producer.flush().unwrap();
        assert_eq!(delivery.wait().unwrap().offset.get(), 1);
        let end = broker.admin().latest(&busy, 0).unwrap().get();
        assert_eq!(end, sent.load(Ordering::Relaxed), "each record once");
        drop((topic, producer));
        broker.close().unwrap();
        check(dir, &["sent", "queued"]);
        let broker = Broker::open(dir).unwrap();
        let read = broker.reader("busy").partition(0).build().unwrap();
        assert_eq!(read.map(Result::unwrap).count() as u64, end);
    });
}
