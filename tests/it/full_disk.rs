//! A full disk stops appends and nothing else, and they go on by themselves when there is room.
//!
//! Invariants
//!   1. On a full disk an append fails with `StorageFull`; nothing was written by it.
//!   2. Reads go on, and so do opening, closing, and deleting a topic.
//!   3. After a deletion, or when the disk has grown, appends go on without a new open.
//!   4. What was acknowledged is there, before and after.
//!
//! The disk is a tmpfs of 16 MiB, which takes root to mount.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use plimsoll::{Broker, Durability, Error, Outcome, Record, TopicConfig};
use tempfile::TempDir;

/// A file system of its own, gone when dropped.
struct Mounted {
    dir: TempDir,
}

impl Mounted {
    /// `None`, and says so, where this process may not mount.
    fn new(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "plimsoll-test"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Mounted { dir });
        }
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: mounting a tmpfs takes root");
        None
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn foreign(&self) -> PathBuf {
        self.dir.path().join("foreign")
    }

    /// Another program takes what is left, to the last byte.
    fn fill_up(&self) {
        let mut file = std::fs::File::create(self.foreign()).unwrap();
        for bytes in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; bytes]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.foreign()).unwrap();
    }

    fn grow(&self) {
        let status = Command::new("mount")
            .args(["-o", "remount,size=32m"])
            .arg(self.dir.path())
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, in case a failed test still holds a file.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn value(topic: &str, offset: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("{topic} {offset} ").into_bytes();
    value.resize(bytes, u8::try_from(offset % 251).unwrap());
    value
}

/// Sends until the disk is full, or `limit` were sent; returns how many the topic has.
fn fill(broker: &Broker, topic: &str, bytes: usize, limit: u64) -> u64 {
    let producer = broker.producer().build().unwrap();
    let begin = broker.admin().latest(topic, 0).unwrap().get();
    for next in begin..begin + limit {
        match producer.send(topic, Record::new(&value(topic, next, bytes))) {
            Ok(ack) => assert_eq!(ack.offset.get(), next),
            Err(error) => {
                assert!(matches!(error, Error::StorageFull(_)), "{error:?}");
                assert_eq!(error.outcome(), Outcome::NotWritten);
                assert!(error.is_retriable());
                assert_eq!(broker.admin().latest(topic, 0).unwrap().get(), next);
                return next;
            }
        }
    }
    begin + limit
}

fn check(broker: &Broker, topic: &str, count: u64, bytes: usize) {
    let mut next = 0;
    for record in broker.reader(topic).build().unwrap() {
        let record = record.unwrap();
        assert_eq!(record.offset().get(), next);
        assert!(record.value() == Some(&*value(topic, next, bytes)), "{topic} {next}");
        next += 1;
    }
    assert_eq!(next, count, "{topic}");
}

fn stops_appends_only(test: &str, durability: Durability, bytes: usize) {
    const MANY: u64 = 1_000_000;
    let Some(mounted) = Mounted::new(test) else { return };
    let config = || TopicConfig::new().durability(durability).segment_bytes(1 << 20);
    let open = |dir: &Path| Broker::open(dir).unwrap();
    let broker = open(&mounted.data());
    for topic in ["first", "second", "third"] {
        broker.create_topic(topic, config()).unwrap();
    }
    let first = fill(&broker, "first", bytes, 4_000_000 / bytes as u64);
    let second = fill(&broker, "second", bytes, MANY);
    assert!(second * (bytes as u64) > 4_000_000, "only {second} records fit");
    // Full stays full, for everybody.
    assert_eq!(fill(&broker, "second", bytes, MANY), second);
    let largest = vec![0; 1 << 20];
    let error = broker.producer().build().unwrap().send("third", Record::new(&largest));
    assert!(matches!(error, Err(Error::StorageFull(_))), "{error:?}");
    check(&broker, "first", first, bytes);
    check(&broker, "second", second, bytes);

    // Opening a full disk works, after a close that could not write all it wanted as well; and
    // where not a byte is left, for reading and for deleting.
    let _ = broker.close();
    mounted.fill_up();
    let broker = open(&mounted.data());
    check(&broker, "first", first, bytes);
    check(&broker, "second", second, bytes);
    let sent = broker.producer().build().unwrap().send("third", Record::new(&largest));
    assert!(matches!(sent, Err(Error::StorageFull(_))), "{sent:?}");
    broker.admin().delete_topic("third").unwrap();
    let _ = broker.close();
    mounted.make_room();
    let broker = open(&mounted.data());
    check(&broker, "first", first, bytes);
    check(&broker, "second", second, bytes);
    let second = fill(&broker, "second", bytes, MANY);

    // A deletion makes room.
    broker.admin().delete_topic("first").unwrap();
    let more = fill(&broker, "second", bytes, MANY);
    assert!((more - second) * bytes as u64 > 1_000_000, "{second} to {more}");
    check(&broker, "second", more, bytes);

    // And so does a larger disk.
    mounted.grow();
    let most = fill(&broker, "second", bytes, MANY);
    assert!((most - more) * bytes as u64 > 8_000_000, "{more} to {most}");
    check(&broker, "second", most, bytes);
    let _ = broker.close();
    let broker = open(&mounted.data());
    check(&broker, "second", most, bytes);
    assert!(broker.recovery().damage.is_empty());
}

#[test]
fn a_full_disk_stops_appends_only_at_fsync() {
    let test = "a_full_disk_stops_appends_only_at_fsync";
    stops_appends_only(test, Durability::Fsync, 7_000);
}

#[test]
fn a_full_disk_stops_appends_only_at_os_through_mappings() {
    let test = "a_full_disk_stops_appends_only_at_os_through_mappings";
    stops_appends_only(test, Durability::Os, 7_000);
}

#[test]
fn a_full_disk_stops_appends_only_at_os_through_writes() {
    let test = "a_full_disk_stops_appends_only_at_os_through_writes";
    stops_appends_only(test, Durability::Os, 50_000);
}
