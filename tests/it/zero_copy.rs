//! What a poll hands out are views that stay true, whatever happens to the log behind them.
//!
//! Invariants
//!   1. A set of records is `Send + Sync + 'static`: it outlives its consumer and its broker, and
//!      goes to other threads.
//!   2. Its bytes stay what they were while their segment is rolled, sealed, closed, opened again,
//!      and deleted with its topic. Touching them is never a signal.
//!   3. Values begin at multiples of 8, in records as they are handed out and as they are kept.
//!
//! That nothing is allocated for a record: `tests/alloc.rs`.

use std::time::Duration;

use plimsoll::{Broker, Durability, Reads, Record, Records, SharedRecord, Start, TopicConfig};

const _: () = {
    const fn outlives_everything<T: Send + Sync + 'static>() {}
    outlives_everything::<Records>();
    outlives_everything::<SharedRecord>();
};

fn value(number: u64) -> Vec<u8> {
    let length = usize::try_from(number * 31 % 300).unwrap();
    let mut value = format!("value {number} ").into_bytes();
    value.resize(value.len() + length, u8::try_from(number % 251).unwrap());
    value
}

fn send(broker: &Broker, from: u64, until: u64) {
    let producer = broker.producer().build().unwrap();
    let numbers: Vec<_> =
        (from..until).map(|number| (number.to_le_bytes(), value(number))).collect();
    for batch in numbers.chunks(20) {
        let records: Vec<_> = batch
            .iter()
            .map(|(key, value)| Record::new(value).key(&key[..value.len() % 9]).header("h", "x"))
            .collect();
        producer.send_batch("t", 0, &records).unwrap();
    }
}

/// Every view is what was sent.
fn check(held: &[Records]) -> u64 {
    let mut next = 0;
    for records in held {
        for record in records {
            assert_eq!(record.offset().get(), next);
            assert_eq!(record.value(), Some(&*value(next)), "offset {next}");
            next += 1;
        }
    }
    next
}

fn views_stay_true(durability: Durability, reads: Reads) {
    let dir = tempfile::tempdir().unwrap();
    let config = || TopicConfig::new().durability(durability).segment_bytes(64 << 10);
    let broker = Broker::open(dir.path()).unwrap();
    broker.create_topic("t", config()).unwrap();
    let mut held: Vec<Records> = Vec::new();
    let poll = |broker: &Broker, from: u64| {
        let start = Start::Offset(plimsoll::Offset::new(from));
        let consumer = broker.consumer().assign([("t", 0)]).start(start).reads(reads);
        let mut consumer = consumer.build().unwrap();
        let records = consumer.poll(Duration::ZERO).unwrap();
        drop(consumer);
        assert!(!records.is_empty());
        records
    };
    // Of the active segment, a few records at a time, while it grows, rolls and is sealed.
    let mut sent = 0;
    for more in [1, 2, 5, 40, 300, 1_000] {
        send(&broker, sent, sent + more);
        sent += more;
        while check(&held) < sent {
            let next = check(&held);
            held.push(poll(&broker, next));
        }
    }
    // Over a close and an open that goes on in the file.
    broker.close().unwrap();
    assert_eq!(check(&held), sent);
    let broker = Broker::open(dir.path()).unwrap();
    send(&broker, sent, sent + 500);
    let old = poll(&broker, 0);
    assert_eq!(check(&held), sent);
    while check(&held) < sent + 500 {
        let next = check(&held);
        held.push(poll(&broker, next));
    }
    sent += 500;
    // Over the deletion of every file, and another topic in their place.
    broker.admin().delete_topic("t").unwrap();
    broker.create_topic("t", config()).unwrap();
    send(&broker, 0, 700);
    assert_eq!(check(&held), sent);
    broker.close().unwrap();
    // Over the end of the folder, in another thread.
    drop(dir);
    std::thread::spawn(move || {
        assert_eq!(check(&held), sent);
        assert!(check(&[old]) > 0);
    })
    .join()
    .unwrap();
}

#[test]
fn views_stay_true_over_roll_seal_close_and_deletion() {
    for durability in [Durability::Fsync, Durability::Os] {
        for reads in [Reads::Mapped, Reads::Copied] {
            views_stay_true(durability, reads);
        }
    }
}

#[test]
fn values_begin_at_multiples_of_eight() {
    for reads in [Reads::Mapped, Reads::Copied] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(dir.path()).unwrap();
        broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
        send(&broker, 0, 1_000);
        for record in broker.reader("t").reads(reads).build().unwrap() {
            let record = record.unwrap();
            let value = record.value().unwrap();
            assert!(value.as_ptr().addr().is_multiple_of(8), "offset {}", record.offset());
        }
        let mut consumer = broker.consumer().assign([("t", 0)]).reads(reads).build().unwrap();
        for record in &consumer.poll(Duration::ZERO).unwrap() {
            let value = record.value().unwrap();
            assert!(value.as_ptr().addr().is_multiple_of(8), "offset {}", record.offset());
        }
    }
}

#[test]
fn a_kept_record_outlives_the_set_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    send(&broker, 0, 100);
    let mut consumer = broker.consumer().assign([("t", 0)]).build().unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    let borrowed: Vec<_> = records.iter().map(|r| r.value().unwrap().as_ptr()).collect();
    let kept: Vec<_> = records.iter().map(|record| record.to_shared()).collect();
    drop((records, consumer));
    broker.admin().delete_topic("t").unwrap();
    drop(broker);
    for (number, (record, borrowed)) in (0..).zip(kept.iter().zip(borrowed)) {
        assert_eq!(record.value(), Some(&*value(number)));
        assert_eq!(record.value().unwrap().as_ptr(), borrowed, "it was copied");
        assert_eq!(record.headers().count(), 1);
    }
}
