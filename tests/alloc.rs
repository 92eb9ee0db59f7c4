//! Nothing is allocated for a record: neither to append nor to read one.
//!
//! Invariants
//!   1. A fetch allocates as often for one record as for thousands, and iterating not at all.
//!   2. An append allocates nothing, at `Fsync` and at `Os`. What does is rare, and not of its own:
//!      the in-memory index has an entry for every few KiB of log, and doubles now and then; a
//!      segment that is full is followed by another; the volume's thread looks at a busy log
//!      about once a second.
//!   3. A queued record allocates nothing beyond its share of its batch.
//!
//! A test binary of its own, because it counts with the allocator. One test, so that no other
//! thread's allocations are counted but those of the broker itself.

#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plimsoll::{Broker, Durability, Reads, Record, TopicConfig};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Those of this thread.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    // Gone at the end of a thread, whose last allocations are of no interest.
    let _ = OWN.try_with(|own| own.set(own.get() + 1));
}

// SAFETY: every call is the system's own, with the same arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; `memory` came from the system.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above; `memory` came from the system.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations were made meanwhile, by any thread.
fn allocations<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let done = work();
    (ALLOCATIONS.load(Ordering::Relaxed) - before, done)
}

/// How many allocations this thread made meanwhile: the volume's threads look at a log that was
/// just written to whenever they come to it.
fn own_allocations<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = OWN.with(Cell::get);
    let done = work();
    (OWN.with(Cell::get) - before, done)
}

#[test]
fn nothing_is_allocated_for_a_record() {
    appends(Durability::Os, 100_000, 200);
    appends(Durability::Fsync, 1_000, 50);
    queued();
    reads();
}

/// At most `most` allocations for `count` appends, one record each.
fn appends(durability: Durability, count: u64, most: u64) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(durability)).unwrap();
    let producer = broker.producer().build().unwrap();
    let value = [0x5a; 100];
    let send = || producer.send(&topic, Record::new(&value).key("key")).unwrap();
    for _ in 0..100 {
        send();
    }
    let (made, ()) = allocations(|| {
        for _ in 0..count {
            send();
        }
    });
    println!("{durability:?}: {made} allocations for {count} appends");
    assert!(made <= most, "{durability:?}: {made} allocations for {count} appends");
}

/// Some allocations for a batch, whatever the number of its records.
fn queued() {
    const COUNT: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let config = TopicConfig::new().durability(Durability::Os);
    let topic = broker.create_topic("t", config).unwrap();
    // Long enough for every batch to be filled.
    let linger = Duration::from_mins(1);
    let producer = broker.producer().linger(linger).build().unwrap();
    let value = [0x5a; 100];
    let queue = |count: u64| {
        for _ in 0..count {
            let record = Record::new(&value).key("key").timestamp(1);
            drop(producer.enqueue(&topic, record).unwrap());
        }
        producer.flush().unwrap();
    };
    queue(COUNT);
    let (made, ()) = allocations(|| queue(COUNT));
    println!("{made} allocations for {COUNT} queued records");
    assert!(made <= COUNT / 20, "{made} allocations for {COUNT} queued records");
}

fn reads() {
    const COUNT: usize = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let config = || TopicConfig::new().durability(Durability::Os);
    let producer = broker.producer().build().unwrap();
    for (name, count) in [("one", 1), ("many", COUNT)] {
        let topic = broker.create_topic(name, config()).unwrap();
        for _ in 0..count {
            let record = Record::new("a value").key("key").header("name", "value");
            producer.send(&topic, record).unwrap();
        }
    }
    for reads in [Reads::Mapped, Reads::Copied] {
        let mut fetches = Vec::new();
        for (name, count) in [("one", 1), ("many", COUNT)] {
            // A first consumer makes the mapping.
            for _ in 0..2 {
                let consumer = broker.consumer().assign([(name, 0)]).reads(reads);
                let mut consumer = consumer.build().unwrap();
                let (fetched, records) = own_allocations(|| consumer.poll(Duration::ZERO).unwrap());
                let (walked, bytes) = own_allocations(|| {
                    let mut bytes = 0;
                    for record in &records {
                        bytes += record.value().map_or(0, <[u8]>::len);
                        bytes += record.key().map_or(0, <[u8]>::len);
                        bytes += record.headers().map(|h| h.value().len()).sum::<usize>();
                    }
                    bytes
                });
                assert_eq!(bytes, count * ("a value".len() + "key".len() + "value".len()));
                assert_eq!(walked, 0, "{reads:?}: allocations to walk {count} records");
                fetches.push(fetched);
            }
        }
        println!("{reads:?}: allocations of a fetch: {fetches:?}");
        assert_eq!(fetches[1], fetches[3], "{reads:?}: a fetch of many allocates more");
        assert!(fetches.iter().all(|fetched| *fetched <= 16), "{reads:?}: {fetches:?}");
    }
}
