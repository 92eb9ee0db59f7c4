//! Topics that change, and stores that are copied, while they are used.
//!
//! Invariants
//!   1. Nothing above the high watermark is deleted; a consumer below the log start goes on where
//!      its reset says, and tells how many records it skipped.
//!   2. A change counts once it is durable in the metadata, then for every handle at once.
//!   3. A backup shares no file that either store may still write to, and lies outside of its
//!      original.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::between::Between;
use crate::broker::{Background, Broker};
use crate::config::{TopicChange, TopicConfig};
use crate::error::Error;
use crate::format::Record;
use crate::fs::Disk;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use crate::id::{Offset, PartitionId};
use crate::{Consumer, Reset};

fn open_in(disk: &SimDisk, dir: &str) -> Broker {
    let builder = Broker::builder().volumes([dir]).disk(disk).background(Background::Inline);
    builder.open().expect("it opens")
}

fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(64 << 10)
}

fn send(broker: &Broker, count: usize) {
    let producer = broker.producer().build().expect("it is made");
    for _ in 0..count {
        producer.send("t", Record::new(&vec![5; 20_000])).expect("nothing fails");
    }
}

fn files_under(disk: &SimDisk, dir: &str) -> Vec<PathBuf> {
    let under = Path::new(dir).join("topics");
    disk.files().into_iter().filter(|path| path.starts_with(&under)).collect()
}

#[test]
fn nothing_above_the_high_watermark_is_deleted() {
    let broker = open_in(&SimDisk::new(), "/v");
    let topic = broker.create_topic("t", small()).expect("it is made");
    send(&broker, 1);
    let partition = topic.state.partition(PartitionId::new(0)).expect("it is there");
    // In the log, and not on the medium: not committed.
    partition.log().append(&[Record::new("later")]).expect("nothing fails");
    let refused = broker.admin().delete_records(&topic, 0, Offset::new(2));
    let Err(Error::OffsetOutOfRange(range)) = refused else { panic!("{refused:?}") };
    assert_eq!((range.start.get(), range.end.get()), (0, 1));
    assert_eq!(broker.admin().earliest(&topic, 0).ok(), Some(Offset::ZERO));
    broker.admin().delete_records(&topic, 0, Offset::new(1)).expect("up to it");
    broker.admin().delete_records(&topic, 0, Offset::ZERO).expect("nothing happens");
    assert_eq!(broker.admin().earliest(&topic, 0).ok(), Some(Offset::new(1)));
}

#[test]
fn a_consumer_below_the_log_start_resets_and_counts_what_it_skipped() {
    for (reset, at, skipped) in [(Reset::Earliest, 4, 4), (Reset::Latest, 6, 6)] {
        let broker = open_in(&SimDisk::new(), "/v");
        broker.create_topic("t", small()).expect("it is made");
        send(&broker, 6);
        let mut consumer =
            broker.consumer().assign([("t", 0)]).reset(reset).build().expect("it is made");
        let position =
            |consumer: &Consumer| consumer.positions().values().next().copied().map(Offset::get);
        consumer.seek(("t", 0), Offset::ZERO).expect("it is assigned");
        broker.admin().delete_records("t", 0, Offset::new(4)).expect("nothing fails");
        let records = consumer.poll(Duration::ZERO).expect("it goes on");
        let first = records.iter().next().map(|record| record.offset().get());
        assert_eq!(first.or(position(&consumer)), Some(at));
        assert_eq!(consumer.skipped(), skipped);
    }
}

#[test]
fn partitions_count_once_they_are_durable_and_then_for_every_handle() {
    let disk = SimDisk::new();
    let broker = open_in(&disk, "/v");
    let topic = broker.create_topic("t", small()).expect("it is made");
    let producer = broker.producer().build().expect("it is made");
    let consumer = broker.consumer().assign([("t", 0)]).build().expect("it is made");
    broker.admin().add_partitions("t", 3).expect("nothing fails");
    assert_eq!(topic.partitions(), 3);
    producer.send_batch(&topic, 2, &[Record::new("a")]).expect("it is there");
    assert_eq!(consumer.positions().len(), 1, "a consumer keeps its partitions");
    broker.admin().add_partitions(&topic, 3).expect("nothing happens");
    for total in [0, 2, 65_537] {
        let refused = broker.admin().add_partitions(&topic, total);
        assert!(matches!(refused, Err(Error::InvalidConfig(_))), "{refused:?}");
    }
    let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
    disk.arm(Fault { at: 1, call: Some(Call::SyncData), what, how_long });
    broker.admin().add_partitions("t", 5).expect_err("the metadata cannot be synced");
    assert_eq!(topic.partitions(), 3);
    let refused = producer.send_batch(&topic, 4, &[Record::new("b")]);
    assert!(matches!(refused, Err(Error::UnknownPartition { .. })), "{refused:?}");
}

#[test]
fn a_change_is_in_effect_at_once_and_after_a_reopen() {
    let disk = SimDisk::new();
    let broker = open_in(&disk, "/v");
    let topic = broker.create_topic("t", small()).expect("it is made");
    send(&broker, 7);
    let change = TopicChange::new().record_bytes(10).retention_bytes(0).segment_bytes(1 << 20);
    broker.admin().alter(&topic, change).expect("nothing fails");
    let producer = broker.producer().build().expect("it is made");
    let refused = producer.send(&topic, Record::new(&[1; 11]));
    assert!(matches!(refused, Err(Error::RecordTooLarge { .. })), "{refused:?}");
    producer.send(&topic, Record::new("short")).expect("it is short");
    assert!(broker.admin().earliest(&topic, 0).expect("it is there") > Offset::ZERO);
    let refused = broker.admin().alter(&topic, TopicChange::new().partitions(9).record_bytes(99));
    assert!(matches!(refused, Err(Error::InvalidConfig(_))), "{refused:?}");
    let expected = topic.config();
    let named = small().retention_bytes(0).segment_bytes(1 << 20).record_bytes(10);
    assert_eq!(expected, named.replicas(1).min_insync(1));
    broker.admin().alter(&topic, TopicChange::new().record_bytes(30_000)).expect("it can be");
    // The segment that is being written keeps its size, those after it have the new one.
    send(&broker, 20);
    let log = topic.state.partition(PartitionId::new(0)).expect("it is there").log();
    assert_eq!(log.segments().len(), 2, "the newest seal, and one of 1 MiB");
    broker.close().expect("nothing fails");
    let broker = open_in(&disk, "/v");
    let reopened = broker.topic("t").expect("it is there").config();
    assert_eq!(reopened, expected.record_bytes(30_000));
    broker.ensure_topic("t", reopened).expect("it is the same");
}

/// With a thread, and the real clock: nothing is appended, nothing is called.
#[test]
fn a_topic_at_rest_is_emptied_by_the_thread() {
    let disk = SimDisk::new();
    let broker = Broker::builder().volumes(["/v"]).disk(&disk).open().expect("it opens");
    broker.create_topic("t", small().retention(Duration::from_millis(30))).expect("it is made");
    send(&broker, 2);
    let gone_by = Instant::now() + Duration::from_mins(1);
    while broker.admin().earliest("t", 0).expect("it is there") < Offset::new(2) {
        assert!(Instant::now() < gone_by, "nothing was deleted");
        std::thread::yield_now();
    }
}

#[test]
fn a_backup_shares_no_file_that_is_still_written_to() {
    let disk = SimDisk::new();
    let broker = open_in(&disk, "/v");
    broker.create_topic("t", small()).expect("it is made");
    broker.create_topic("empty", small()).expect("it is made");
    send(&broker, 7);
    let report = broker.admin().backup("/b").expect("nothing fails");
    assert_eq!((report.linked_files, report.copied_files), (6, 1));
    let inode = |path: &PathBuf| disk.stat(path).expect("it is there").inode;
    let of_original: BTreeMap<u64, PathBuf> =
        files_under(&disk, "/v").into_iter().map(|path| (inode(&path), path)).collect();
    let newest = files_under(&disk, "/v").pop().expect("there are some");
    let shared: Vec<PathBuf> = files_under(&disk, "/b")
        .iter()
        .filter_map(|path| of_original.get(&inode(path)).cloned())
        .collect();
    assert_eq!(shared.len(), 6);
    assert!(!shared.contains(&newest), "{newest:?} is still written to");

    let copy = open_in(&disk, "/b");
    assert!(copy.recovery().damage.is_empty() && copy.recovery().tails.is_empty());
    let before: Vec<Vec<u8>> = files_under(&disk, "/v")
        .iter()
        .map(|path| disk.read_file(path).expect("it is there"))
        .collect();
    send(&copy, 5);
    copy.admin().delete_records("t", 0, Offset::new(10)).expect("nothing fails");
    copy.close().expect("nothing fails");
    let after: Vec<Vec<u8>> = files_under(&disk, "/v")
        .iter()
        .map(|path| disk.read_file(path).expect("it is there"))
        .collect();
    assert!(before == after, "using the copy changed the original");
    broker.admin().delete_topic("t").expect("nothing fails");
    let copy = open_in(&disk, "/b");
    assert_eq!(copy.admin().latest("t", 0).ok(), Some(Offset::new(12)));
    assert_eq!(copy.admin().topics().len(), 2);
    assert!(copy.admin().verify().expect("it can be read").faults.is_empty());
}

#[test]
fn a_backup_goes_into_an_empty_folder_outside_of_the_store() {
    let disk = SimDisk::new();
    let broker = open_in(&disk, "/v");
    disk.write_file("/taken/file", b"").expect("it can be made");
    for dir in ["/taken", "/v", "/v/topics/b"] {
        let refused = broker.admin().backup(dir);
        assert!(matches!(refused, Err(Error::InvalidConfig(_))), "{dir}: {refused:?}");
    }
}

/// Wherever that folder is named from, and through whatever links.
#[test]
fn a_backup_does_not_get_into_the_store_by_another_name() {
    let refused = |refused: crate::Result<crate::BackupReport>, why: &str| {
        assert!(matches!(refused, Err(Error::InvalidConfig(_))), "{why}: {refused:?}");
    };
    // The current folder of a simulated disk is its root.
    let disk = SimDisk::new();
    let broker = open_in(&disk, "/");
    for dir in ["b", "./b", "topics/b"] {
        refused(broker.admin().backup(dir), dir);
    }
    let home = tempfile::tempdir().expect("a temporary folder");
    let (data, link) = (home.path().join("data"), home.path().join("link"));
    std::fs::create_dir(&data).expect("a folder can be made");
    std::os::unix::fs::symlink(&data, &link).expect("a link can be made");
    let broker = Broker::open(&data).expect("a new store opens");
    refused(broker.admin().backup(link.join("b")), "through a link");
    refused(broker.admin().backup(&link), "the link itself");
    broker.close().expect("it closes");
    let broker = Broker::open(&link).expect("it opens through the link");
    refused(broker.admin().backup(data.join("b")), "beside the link");
    broker.admin().backup(home.path().join("b")).expect("outside it is made");
}

/// A child that is forked while a backup is made holds the file of its lock too.
#[test]
fn a_backups_lock_is_released_and_not_only_closed() {
    let disk = SimDisk::new();
    let between = Between::new(&disk);
    let mut builder = Broker::builder().volumes(["/v"]).background(Background::Inline);
    builder.disk = Arc::new(between.clone());
    let broker = builder.open().expect("it opens");
    broker.admin().backup("/b").expect("it is made");
    assert_eq!(between.unlocked(), 1);
    disk.write_file("/taken/file", b"").expect("it can be made");
    broker.admin().backup("/taken").expect_err("it is not empty");
    assert_eq!(between.unlocked(), 1, "it was not locked");
    let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
    disk.arm(Fault { at: 1, call: Some(Call::SyncDir), what, how_long });
    broker.admin().backup("/c").expect_err("it cannot be synced");
    assert_eq!(between.unlocked(), 2);
}

/// Where nothing can be linked, as on another file system, everything is copied.
#[test]
fn what_cannot_be_linked_is_copied() {
    let disk = SimDisk::new();
    let broker = open_in(&disk, "/v");
    broker.create_topic("t", small()).expect("it is made");
    send(&broker, 7);
    let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
    disk.arm(Fault { at: 1, call: Some(Call::Link), what, how_long });
    let report = broker.admin().backup("/b").expect("it is copied");
    assert_eq!((report.linked_files, report.copied_files), (0, 7));
    let copy = open_in(&disk, "/b");
    assert_eq!(copy.reader("t").build().expect("it is made").count(), 7);
    assert!(copy.admin().verify().expect("it can be read").faults.is_empty());
}
