//! The reserve is there for changes of the metadata, whoever else wants it.
//!
//! Invariants
//!   1. On a full disk changes succeed as long as there is a reserve, though producers try again
//!      and again meanwhile.
//!   2. Once there is room the reserve is filled again, and appends go on.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::between::Between;
use crate::broker::{Background, Broker};
use crate::config::{RESERVE_BYTES, TopicChange, TopicConfig};
use crate::error::Error;
use crate::format::Record;
use crate::fs::sim::SimDisk;

/// 1. A change finds the disk full and gives the reserve up. 2. A producer that tries again sees
/// that it is to be filled, and takes the room for it. 3. The change finds the disk full again.
#[test]
fn a_producer_that_tries_again_does_not_take_the_reserve_from_a_change() {
    let disk = SimDisk::new();
    disk.set_capacity(3 << 20);
    let between = Between::new(&disk);
    let mut builder = Broker::builder().volumes(["/v"]).background(Background::Inline).seed(2);
    builder.disk = Arc::new(between.clone());
    let broker = builder.open().expect("the store opens");
    for topic in ["a", "b"] {
        broker.create_topic(topic, TopicConfig::new().segment_bytes(64 << 10)).expect("made");
    }
    let producer = broker.producer().build().expect("it is made");
    let fill = |bytes: usize| while producer.send("b", Record::new(&vec![1; bytes])).is_ok() {};
    // The last ones are as long as what is tried again: no room is left for that in a file either.
    [30_000, 4_000, 100, "again".len()].into_iter().for_each(fill);

    let retry = producer.clone();
    between.every(1, move || {
        let sent = retry.send("b", Record::new("again"));
        // Closed: a failed test drops the broker.
        assert!(matches!(sent, Err(Error::StorageFull(_) | Error::Closed)), "{sent:?}");
    });
    for round in 1..200 {
        let change = TopicChange::new().retention(Duration::from_hours(24 * round));
        broker.admin().alter("a", change).unwrap_or_else(|e| panic!("change {round}: {e}"));
    }
    let volume = broker.inner().volume();
    let spent = || volume.reserve_spent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(spent(), "no change needed the reserve");
    between.alone();
    broker.admin().delete_topic("b").expect("a topic can be deleted");
    producer.send("a", Record::new("more")).expect("appends go on");
    assert!(!spent());
    let reserve = disk.read_file("/v/reserve").expect("it is there");
    assert_eq!(reserve.len() as u64, RESERVE_BYTES);
}
