//! A partition whose files cannot be used, beside others that can.
//!
//! Invariants
//!   1. A file of a newer version, or one that is no file, refuses its partition with a typed error
//!      and nothing else: the other partitions take appends and are read.
//!   2. Nothing of it is changed, by the open, by a close, or by what is done to the others.
//!   3. A metadata copy that the disk does not give back costs nothing while the other one is good.

use std::path::{Path, PathBuf};

use crate::broker::Broker;
use crate::config::{ManualClock, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{PAGE, Record, SegmentHeader};
use crate::fs::sim::SimDisk;

fn open(disk: &SimDisk) -> Result<Broker> {
    let clock = ManualClock::new(0);
    Broker::builder().volumes(["/v"]).disk(disk).clock(clock).seed(1).open()
}

/// A closed store with a record in each of two partitions, and the first one's file.
fn left() -> (SimDisk, PathBuf) {
    let disk = SimDisk::new();
    let broker = open(&disk).expect("a new store opens");
    broker.create_topic("t", TopicConfig::new().partitions(2)).expect("a topic can be made");
    let producer = broker.producer().build().expect("a producer can be made");
    for partition in 0..2 {
        producer.send_batch("t", partition, &[Record::new("kept")]).expect("it can be sent to");
    }
    broker.close().expect("it closes");
    let of_first = |path: &PathBuf| path.starts_with("/v/topics/t-1/0");
    let file = disk.files().into_iter().find(of_first).expect("the partition has a file");
    (disk, file)
}

fn count(broker: &Broker, partition: u32) -> Result<usize> {
    let reader = broker.reader("t").partition(partition).build()?;
    reader.collect::<Result<Vec<_>>>().map(|records| records.len())
}

#[test]
fn a_file_of_a_newer_version_refuses_its_partition_only() {
    let (disk, file) = left();
    let mut bytes = disk.read_file(&file).expect("it can be read");
    let header = SegmentHeader::decode(&bytes[..PAGE]).expect("it is whole");
    bytes[..PAGE].copy_from_slice(&SegmentHeader { incompat: 1 << 9, ..header }.encode());
    disk.write_file(&file, &bytes).expect("it can be written");
    for round in 0..2 {
        let broker = open(&disk).expect("the store opens");
        assert_eq!(broker.recovery().notes.len(), 1, "{:?}", broker.recovery());
        let producer = broker.producer().build().expect("a producer can be made");
        let sent = producer.send_batch("t", 0, &[Record::new("no")]);
        assert!(matches!(sent, Err(Error::Incompatible { bits: 0x200, .. })), "{sent:?}");
        assert!(matches!(count(&broker, 0), Err(Error::Incompatible { .. })));
        producer.send_batch("t", 1, &[Record::new("more")]).expect("the other takes appends");
        assert_eq!(count(&broker, 1).expect("the other is read"), round + 2);
        let report = broker.admin().verify().expect("it is looked at");
        assert_eq!(report.faults.len(), 1, "{report:?}");
        assert_eq!(report.faults[0].file, file);
        broker.close().expect("it closes");
        assert_eq!(disk.read_file(&file), Some(bytes.clone()), "it was left alone");
    }
    // The newer version finds everything.
    bytes[..PAGE].copy_from_slice(&header.encode());
    disk.write_file(&file, &bytes).expect("it can be written");
    let broker = open(&disk).expect("the store opens");
    assert_eq!(count(&broker, 0).expect("it is read"), 1);
}

#[test]
fn a_folder_in_a_segments_place_refuses_its_partition_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let broker = Broker::open(dir.path()).expect("a new store opens");
    broker.create_topic("t", TopicConfig::new().partitions(2)).expect("a topic can be made");
    let producer = broker.producer().build().expect("a producer can be made");
    producer.send_batch("t", 1, &[Record::new("kept")]).expect("it can be sent to");
    broker.close().expect("it closes");
    let first = dir.path().join("topics/t-1/0/00000000000000000000-1.log");
    std::fs::create_dir_all(&first).expect("a folder can be made");
    let broker = Broker::open(dir.path()).expect("the store opens");
    assert!(matches!(count(&broker, 0), Err(Error::Damaged(_))));
    assert_eq!(count(&broker, 1).expect("the other is read"), 1);
    broker.close().expect("it closes");
    assert!(first.is_dir());
}

#[test]
fn a_copy_of_the_metadata_that_the_disk_does_not_give_back_is_made_anew() {
    const SECTOR: usize = 512;
    for (copy, close) in [("0", false), ("1", false), ("0", true), ("1", true)] {
        let disk = SimDisk::new();
        let broker = open(&disk).expect("a new store opens");
        broker.create_topic("t", TopicConfig::new()).expect("a topic can be made");
        let left = if close {
            broker.close().expect("it closes");
            disk
        } else {
            let left = disk.kill();
            drop(broker);
            left
        };
        let folder = Path::new("/v/metadata").join(copy);
        let file = left.files().into_iter().find(|path| path.starts_with(&folder));
        let file = file.expect("the copy has a file");
        let bytes = left.read_file(&file).expect("it can be read");
        for sector in (0..bytes.len()).step_by(SECTOR) {
            let left = left.snapshot();
            left.bad_sector(&file, sector as u64).expect("it is within the file");
            for name in ["u", "v"] {
                let used = open(&left).and_then(|broker| {
                    broker.topic("t")?;
                    broker.create_topic(name, TopicConfig::new())?;
                    broker.close()
                });
                used.unwrap_or_else(|e| panic!("copy {copy}, {sector}, close {close}: {e}"));
            }
            // What was made anew does without the other one.
            let other = Path::new("/v/metadata").join(if copy == "0" { "1" } else { "0" });
            for file in left.files().iter().filter(|file| file.starts_with(&other)) {
                let bytes = left.read_file(file).expect("it can be read").len();
                left.write_file(file, &vec![0; bytes]).expect("it can be written");
            }
            let broker = open(&left).unwrap_or_else(|e| panic!("copy {copy} alone, {sector}: {e}"));
            assert_eq!(broker.admin().topics().len(), 3);
        }
    }
}
