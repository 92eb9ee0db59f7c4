//! A folder whose sync failed: no later sync of it makes anything durable that rests on it.
//!
//! Invariants
//!   1. Nothing is told to be on the medium whose name a power cut takes, whoever met the failure.
//!   2. What would rest on the folder is refused from then on: a log's first commit, a new topic.
//!   3. Everything else goes on, and so does everything after the next open.

use crate::broker::{Background, Broker};
use crate::config::{Durability, TopicConfig};
use crate::error::Error;
use crate::format::Record;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::id::Offset;

fn open(disk: &SimDisk) -> Broker {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).seed(5);
    builder.background(Background::Inline).open().expect("the store opens")
}

fn send(broker: &Broker, topic: &str) {
    let producer = broker.producer().build().expect("it is made");
    producer.send(topic, Record::new("kept")).expect("it is sent");
}

fn count(broker: &Broker, topic: &str) -> usize {
    broker.reader(topic).build().expect("the topic is there").flatten().count()
}

/// 1. A topic's first record is in the page cache, the name of its folder too. 2. Another topic is
/// deleted, and the sync of `topics` fails: the kernel takes both names for written. 3. The first
/// topic's first sync asks for a sync of `topics` as well, and is told that all is well. 4. Power
/// cut.
#[test]
fn a_failed_sync_of_topics_is_not_made_good_by_another_logs_first_sync() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    for (topic, durability) in [("old", Durability::Fsync), ("a", Durability::Fsync)] {
        broker.create_topic(topic, TopicConfig::new().durability(durability)).expect("made");
        send(&broker, topic);
    }
    broker.create_topic("b", TopicConfig::new().durability(Durability::Os)).expect("made");
    send(&broker, "b");

    let (call, what) = (Some(Call::SyncDir), FaultKind::Eio);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    let deleted = broker.admin().delete_topic("a");
    assert!(matches!(&deleted, Err(Error::Io(io)) if io.path.ends_with("topics")), "{deleted:?}");

    let durable = broker.admin().wait_durable("b", 0, Offset::new(1));
    let after = open(&disk.crash(&Loss::All));
    let kept = after.topic("b").is_ok() && count(&after, "b") == 1;
    assert!(durable.is_err() || kept, "told to be durable, and gone");
    assert!(matches!(durable, Err(Error::Halted { .. })), "{durable:?}");
    let refused = broker.create_topic("c", TopicConfig::new());
    assert!(matches!(&refused, Err(Error::Io(io)) if io.path.ends_with("topics")), "{refused:?}");

    send(&broker, "old");
    assert_eq!(count(&broker, "old"), 2, "what rests on other folders goes on");
    drop((broker, after));
    let broker = open(&disk);
    assert_eq!(count(&broker, "b"), 1);
    broker.admin().wait_durable("b", 0, Offset::new(1)).expect("the next open syncs it anew");
    broker.create_topic("c", TopicConfig::new()).expect("and takes topics");
    send(&broker, "c");
}

/// A sync that could not even begin, as no descriptor was left, tells of nothing that was lost.
#[test]
fn a_folder_that_could_not_be_opened_is_synced_the_next_time() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("a", TopicConfig::new()).expect("made");
    send(&broker, "a");
    let (call, what) = (Some(Call::SyncDir), FaultKind::Emfile);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    broker.admin().delete_topic("a").expect_err("the folder could not be synced");
    broker.create_topic("b", TopicConfig::new()).expect("made");
    send(&broker, "b");
    drop(broker);
    assert_eq!(count(&open(&disk.crash(&Loss::All)), "b"), 1);
}
