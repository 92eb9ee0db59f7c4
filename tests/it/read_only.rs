//! A store can be looked at beside its owner, and has one owner at a time.
//!
//! Invariants
//!   1. A read-only broker sees what is known to be durable, every topic included, and no more.
//!   2. It writes nothing: names, lengths, bytes and times of all files stay as they are.
//!   3. It follows what a live broker adds, and survives what that deletes.
//!   4. A second owner is refused with `Locked`, in this process and in another; a killed owner
//!      holds no lock.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use plimsoll::{Broker, Durability, Error, Record, TopicConfig};

use crate::child;

/// Every file and folder: its length, its bytes, and when it was changed.
type Image = BTreeMap<PathBuf, (SystemTime, Vec<u8>)>;

fn image(dir: &Path) -> Image {
    let mut image = Image::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let bytes = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            image.insert(path, (metadata.modified().unwrap(), bytes));
        }
    }
    image
}

fn values(broker: &Broker, topic: &str) -> Vec<Vec<u8>> {
    let reader = broker.reader(topic).build().unwrap();
    reader.map(|record| record.unwrap().value().unwrap().to_vec()).collect()
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("value {number}").into_bytes()).collect()
}

fn send(broker: &Broker, topic: &str, values: &[Vec<u8>]) {
    let producer = broker.producer().build().unwrap();
    for batch in values.chunks(10) {
        let records: Vec<_> = batch.iter().map(Record::new).collect();
        producer.send_batch(topic, 0, &records).unwrap();
    }
}

#[test]
fn a_closed_store_is_seen_whole_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).unwrap();
    send(&broker, "t", &numbered(3_000));
    broker.close().unwrap();

    let before = image(dir.path());
    let broker = Broker::open_read_only(dir.path()).unwrap();
    assert_eq!(values(&broker, "t"), numbered(3_000));
    assert!(broker.admin().verify().unwrap().faults.is_empty());
    let refused = [
        broker.create_topic("u", TopicConfig::new()).map(drop),
        broker.admin().delete_topic("t"),
        broker.producer().build().map(drop),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::ReadOnly)), "{result:?}");
    }
    broker.close().unwrap();
    assert!(image(dir.path()) == before, "a read-only open changed something");
}

#[test]
fn a_store_left_by_a_kill_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Broker::open(dir.path()).unwrap();
    owner.create_topic("t", TopicConfig::new()).unwrap();
    send(&owner, "t", &numbered(100));
    let left = tempfile::tempdir().unwrap();
    child::copy_folder(dir.path(), left.path());
    let before = image(left.path());
    let broker = Broker::open_read_only(left.path()).unwrap();
    let seen = values(&broker, "t");
    // The last batch is vouched for by nothing yet: no later one, and no slot.
    assert!(seen.len() >= 90 && numbered(100).starts_with(&seen), "{} records", seen.len());
    drop(broker);
    assert!(image(left.path()) == before, "a read-only open changed something");
    owner.close().unwrap();
}

#[test]
fn every_topic_of_a_live_broker_is_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Broker::open(dir.path()).unwrap();
    for number in 0..5 {
        let name = format!("t{number}");
        owner.create_topic(&name, TopicConfig::new()).unwrap();
        let beside = Broker::open_read_only(dir.path()).unwrap();
        assert_eq!(beside.admin().topics().len(), number + 1);
        beside.topic(&name).unwrap();
    }
    owner.admin().delete_topic("t4").unwrap();
    let beside = Broker::open_read_only(dir.path()).unwrap();
    assert!(matches!(beside.topic("t4"), Err(Error::UnknownTopic { .. })));
    owner.close().unwrap();
}

#[test]
fn it_follows_a_live_broker_and_survives_the_deletion_of_a_topic() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Broker::open(dir.path()).unwrap();
    let config = || TopicConfig::new().segment_bytes(64 << 10);
    owner.create_topic("kept", config()).unwrap();
    owner.create_topic("gone", config()).unwrap();
    send(&owner, "gone", &numbered(2_000));

    let beside = Broker::open_read_only(dir.path()).unwrap();
    let mut follower = beside.consumer().assign([("kept", 0)]).build().unwrap();
    let mut seen = Vec::new();
    let all = numbered(2_000);
    for part in all.chunks(500) {
        send(&owner, "kept", part);
        // All but the last batch, which a later one tells of, or a slot after a second.
        let records = follower.poll(Duration::from_secs(10)).unwrap();
        assert!(!records.is_empty(), "nothing came for ten seconds");
        seen.extend(records.iter().map(|record| record.value().unwrap().to_vec()));
    }
    while seen.len() < all.len() {
        let records = follower.poll(Duration::from_secs(10)).unwrap();
        assert!(!records.is_empty(), "nothing came for ten seconds");
        seen.extend(records.iter().map(|record| record.value().unwrap().to_vec()));
    }
    assert_eq!(seen, all);

    let mut doomed = beside.consumer().assign([("gone", 0)]).build().unwrap();
    let held = doomed.poll(Duration::ZERO).unwrap();
    assert!(!held.is_empty());
    owner.admin().delete_topic("gone").unwrap();
    let first: Vec<_> = held.iter().map(|record| record.value().unwrap().to_vec()).collect();
    assert!(numbered(2_000).starts_with(&first), "a view changed when its file was deleted");
    // The rest is gone, or still mapped; neither is a wrong value, a panic, or a wait for ever.
    let mut next = first.len();
    for _ in 0..10 {
        match doomed.poll(Duration::ZERO) {
            Ok(records) => {
                for record in &records {
                    assert_eq!(record.value().unwrap(), numbered(2_000)[next]);
                    next += 1;
                }
            }
            Err(error) => assert!(!error.is_corruption() || next > 0, "{error:?}"),
        }
    }
    owner.close().unwrap();
}

#[test]
fn a_second_owner_is_refused_in_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Broker::open(dir.path()).unwrap();
    for _ in 0..2 {
        let second = Broker::open(dir.path()).unwrap_err();
        assert!(matches!(second, Error::Locked { .. }), "{second:?}");
        assert!(second.to_string().contains("locked"), "{second}");
    }
    owner.create_topic("t", TopicConfig::new()).unwrap();
    owner.close().unwrap();
    Broker::open(dir.path()).unwrap().topic("t").unwrap();
}

#[test]
fn a_second_owner_is_refused_in_another_process_and_a_kill_frees_the_lock() {
    if let Some(dir) = child::task("own") {
        return own(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "read_only::a_second_owner_is_refused_in_another_process_and_a_kill_frees_the_lock";
    let mut owner = child::again(name, "own", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "owned" {}

    let second = Broker::open(dir.path()).unwrap_err();
    assert!(matches!(second, Error::Locked { .. }), "{second:?}");
    let beside = Broker::open_read_only(dir.path()).unwrap();
    assert!(numbered(10).starts_with(&values(&beside, "t")));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    assert_eq!(values(&broker, "t"), numbered(10));
}

/// In the child: owns the store, says so, and waits to be killed.
fn own(dir: &Path) {
    let broker = Broker::open(dir).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Fsync)).unwrap();
    send(&broker, "t", &numbered(10));
    println!("\nowned");
    loop {
        std::thread::park();
    }
}
