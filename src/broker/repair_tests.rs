//! What goes bad on one disk, and is good on another, simulated and exhaustive.
//!
//! Invariants
//!   1. With a good copy of a batch left, it is read right, and the bad copies of it are what they
//!      were, byte for byte.
//!   2. With none left, exactly its offsets are the typed error, and the rest is served.
//!   3. What nobody reads is found by the scrub.
//!   4. A replica that lost what has no place of its own any more is filled anew, and who leads
//!      hands over first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Durability, FETCH_BYTES, Reads, TopicConfig};
use crate::error::Error;
use crate::format::{BatchHeader, Identity, Record, find_next};
use crate::fs::sim::SimDisk;
use crate::id::{Offset, PartitionId};
use crate::log::ReadCursor;
use crate::partition::Partition;
use crate::{Background, Broker};

const ALL: [&str; 3] = ["/a", "/b", "/c"];
const SEGMENT_BYTES: u64 = 64 << 10;
const BATCHES: u64 = 24;

fn open(disk: &SimDisk, background: Background) -> Broker {
    let builder = Broker::builder().volumes(ALL).disk(disk).seed(7).background(background);
    builder.open().expect("it opens")
}

fn partition(broker: &Broker) -> Arc<Partition> {
    let topic = broker.topic("t").expect("it is there");
    Arc::clone(topic.state.partition(PartitionId::new(0)).expect("it is there"))
}

fn value(offset: u64) -> Vec<u8> {
    (0..3_000_u64).map(|at| (at ^ offset).to_le_bytes()[0]).collect()
}

/// A batch in a file.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    position: usize,
    bytes: usize,
    base: u64,
}

/// A store at rest, and where each of its batches is on each volume.
struct Store {
    disk: SimDisk,
    places: [Vec<Place>; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Closed,
    Killed,
}

impl Store {
    /// Of one partition on three volumes: a batch for each of `BATCHES` records, in two files.
    fn new(left: Left) -> Self {
        let disk = SimDisk::new();
        let broker = open(&disk, Background::Inline);
        let config = TopicConfig::new().segment_bytes(SEGMENT_BYTES).durability(Durability::Fsync);
        let topic = broker.create_topic("t", config).expect("it is made");
        let producer = broker.producer().build().expect("it is built");
        for offset in 0..BATCHES {
            producer.send(&topic, Record::new(&value(offset))).expect("it is sent");
        }
        let identity = partition(&broker).log().place.identity;
        let disk = match left {
            Left::Closed => {
                broker.close().expect("it closes");
                disk
            }
            Left::Killed => disk.kill(),
        };
        let places = ALL.map(|dir| places(&disk, dir, &identity));
        for places in &places {
            assert_eq!(places.len() as u64, BATCHES);
            assert_ne!(places[0].path, places[23].path, "one file only");
        }
        Self { disk, places }
    }

    /// The same with this batch damaged on these volumes.
    fn damaged(&self, on: &[usize], batch: usize, how: Damage) -> SimDisk {
        let disk = self.disk.snapshot();
        for volume in on {
            let Place { path, position, bytes, .. } = &self.places[*volume][batch];
            let mut file = disk.read_file(path).expect("it is there");
            let batch = &mut file[*position..*position + *bytes];
            match how {
                Damage::Payload => *batch.last_mut().expect("it has some") ^= 0x40,
                Damage::Header => batch[9] ^= 4,
                Damage::Zeros => batch.fill(0),
            }
            disk.write_file(path, &file).expect("it is written");
        }
        disk
    }

    /// Every batch is where it was, as it was.
    fn assert_mended(&self, disk: &SimDisk, case: &str) {
        for place in self.places.iter().flatten() {
            let range = place.position..place.position + place.bytes;
            let (was, is) = (self.disk.read_file(&place.path), disk.read_file(&place.path));
            let (was, is) = (was.expect("it is there"), is.expect("it is there"));
            assert_eq!(is.get(range.clone()), was.get(range), "{case}: {place:?}");
        }
    }
}

fn places(disk: &SimDisk, dir: &str, identity: &Identity) -> Vec<Place> {
    let is_segment = |path: &PathBuf| {
        path.starts_with(Path::new(dir).join("topics"))
            && path.extension().is_some_and(|it| it == "log")
    };
    let mut files: Vec<_> = disk.files().into_iter().filter(is_segment).collect();
    files.sort();
    let mut places = Vec::new();
    for path in files {
        let bytes = disk.read_file(&path).expect("it is there");
        let mut at = 0;
        while let Some((position, header)) = find_next(&bytes, at, identity, Offset::ZERO) {
            let (bytes, base) = (header.batch_bytes(), header.base_offset.get());
            places.push(Place { path: path.clone(), position, bytes, base });
            at = position + bytes;
        }
    }
    places
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Payload,
    Header,
    Zeros,
}

const DAMAGES: [Damage; 3] = [Damage::Payload, Damage::Header, Damage::Zeros];

/// Offsets with their values.
type Records = Vec<(u64, Vec<u8>)>;

/// What a reader of the whole partition gets: offsets with their values, and offsets that cannot be
/// read.
fn read_all(partition: &Arc<Partition>) -> (Records, Vec<(u64, u64)>) {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    let mut cursor = ReadCursor::at(Offset::ZERO);
    loop {
        match partition.fetch(&mut cursor, FETCH_BYTES, Reads::Mapped) {
            Ok(Some(chunk)) => {
                for record in chunk.records() {
                    let value = record.record.value.expect("it has one").to_vec();
                    records.push((record.offset.get(), value));
                }
            }
            Ok(None) => return (records, unreadable),
            Err(Error::Corrupt(it)) => {
                unreadable.push((it.first.get(), it.end.get()));
                cursor = ReadCursor::at(it.end);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn all_but(missing: Option<u64>) -> Records {
    let kept = (0..BATCHES).filter(|offset| Some(*offset) != missing);
    kept.map(|offset| (offset, value(offset))).collect()
}

/// For each batch, each way to damage it and each of these sets of volumes.
fn for_each_damage(left: Left, sets: &[&[usize]], check: impl Fn(&Store, &SimDisk, u64, &str)) {
    let store = Store::new(left);
    for on in sets {
        // The last batch of a process that was killed looks as if it had not been whole yet where
        // no replica has it whole.
        let looks_torn = left == Left::Killed && on.len() == 3;
        for batch in 0..usize::try_from(BATCHES).expect("few") - usize::from(looks_torn) {
            for how in DAMAGES {
                let disk = store.damaged(on, batch, how);
                let offset = store.places[0][batch].base;
                let case = format!("{left:?}, {how:?} of batch {batch} on volumes {on:?}");
                check(&store, &disk, offset, &case);
            }
        }
    }
}

#[test]
fn a_batch_that_is_bad_on_one_or_two_of_three_is_read_right_and_mended() {
    let sets: [&[usize]; 6] = [&[0], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]];
    for left in [Left::Closed, Left::Killed] {
        for_each_damage(left, &sets, |store, disk, offset, case| {
            let broker = open(disk, Background::Inline);
            let partition = partition(&broker);
            // One that lost its tail has the high watermark wait until it has copied that.
            partition.work_inline();
            assert!(read_all(&partition) == (all_but(None), Vec::new()), "{case}");
            // What nobody reads: the copies on followers.
            let report = broker.admin().scrub().expect("it is read");
            assert!(report.is_whole(), "{case}: {:?}", report.damage);
            let metrics = broker.metrics();
            // A lost tail is a shorter log, and no damage.
            let is_tail = left == Left::Killed && offset + 1 == BATCHES;
            assert!(metrics.damage_mended > 0 || is_tail, "{case}");
            assert_eq!(metrics.damaged_offsets, 0, "{case}");
            assert!(broker.admin().scrub().expect("it is read").damage.is_empty(), "{case}");
            broker.close().expect("it closes");
            store.assert_mended(disk, case);
            let broker = open(disk, Background::Inline);
            assert!(broker.admin().verify().expect("it is read").faults.is_empty(), "{case}");
        });
    }
}

#[test]
fn a_batch_that_is_bad_everywhere_is_an_error_for_its_offsets_and_no_others() {
    for left in [Left::Closed, Left::Killed] {
        for_each_damage(left, &[&[0, 1, 2]], |_, disk, offset, case| {
            let broker = open(disk, Background::Inline);
            for _ in 0..2 {
                let (records, unreadable) = read_all(&partition(&broker));
                assert_eq!(unreadable, [(offset, offset + 1)], "{case}");
                assert_eq!(records, all_but(Some(offset)), "{case}");
                let report = broker.admin().scrub().expect("it is read");
                assert_eq!(report.damage.len(), 3, "{case}: {:?}", report.damage);
                assert!(report.damage.iter().all(|it| !it.mended), "{case}");
            }
            assert_eq!(broker.metrics().damaged_offsets, 3, "{case}");
            // It stops nothing else.
            let topic = broker.topic("t").expect("it is there");
            let producer = broker.producer().build().expect("it is built");
            let ack = producer.send(&topic, Record::new("more")).expect("it is sent");
            assert_eq!(ack.offset.get(), BATCHES, "{case}");
        });
    }
}

#[test]
fn the_scrub_of_the_broker_finds_what_nobody_reads() {
    let store = Store::new(Left::Closed);
    // In a file that is finished, on a follower.
    let disk = store.damaged(&[2], 3, Damage::Payload);
    let builder = Broker::builder().volumes(ALL).disk(&disk).seed(7);
    let broker = builder.scrub_interval(Duration::from_millis(1)).open().expect("it opens");
    let begun = Instant::now();
    while broker.metrics().damage_mended == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "never found");
        std::thread::yield_now();
    }
    assert!(broker.metrics().bytes_scrubbed > 0);
    broker.close().expect("it closes");
    store.assert_mended(&disk, "scrubbed");
}

#[test]
fn threads_mend_what_a_reader_meets() {
    let store = Store::new(Left::Closed);
    for on in [&[0][..], &[1, 2], &[0, 2]] {
        let disk = store.damaged(on, 5, Damage::Header);
        let broker = open(&disk, Background::Thread);
        let partition = partition(&broker);
        // Each of them leads in turn for who reads of it.
        assert_eq!(read_all(&partition).0, all_but(None));
        let begun = Instant::now();
        while !broker.admin().scrub().expect("it is read").damage.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "never mended");
        }
        broker.close().expect("it closes");
        store.assert_mended(&disk, "by threads");
    }
}

/// Everything is read, and each replica gets back what it lost.
fn assert_filled(disk: &SimDisk, background: Background, case: &str) {
    let broker = open(disk, background);
    let partition = partition(&broker);
    partition.work_inline();
    let begun = Instant::now();
    loop {
        let (records, unreadable) = read_all(&partition);
        assert_eq!(unreadable, [], "{case}");
        let whole = broker.admin().scrub().expect("it is read").damage.is_empty();
        let metrics = broker.metrics();
        if whole && metrics.under_replicated == 0 && metrics.damaged_offsets == 0 {
            assert!(records == all_but(None), "{case}");
            break;
        }
        partition.work_inline();
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "never filled: {case}, {:?}, {metrics:?}",
            partition.standing()
        );
    }
    let committed = partition.high_watermark();
    for replica in partition.replicas() {
        let mut cursor = ReadCursor::at(Offset::ZERO);
        while cursor.offset() < committed {
            let read = replica.log.read(&mut cursor, committed, FETCH_BYTES, Reads::Mapped);
            read.expect("it is whole").expect("there is more");
        }
    }
    broker.close().expect("it closes");
    let broker = open(disk, background);
    assert!(read_all(&self::partition(&broker)) == (all_but(None), Vec::new()), "{case}");
    assert_eq!(broker.admin().verify().expect("it is read").faults, [], "{case}");
}

#[test]
fn a_replica_that_lost_a_file_is_filled_anew() {
    let store = Store::new(Left::Closed);
    for volume in 0..3 {
        for background in [Background::Inline, Background::Thread] {
            let disk = store.disk.snapshot();
            let lost = store.places[volume][0].path.clone();
            crate::fs::Disk::remove_file(&disk, &lost).expect("it is removed");
            assert_filled(&disk, background, &format!("volume {volume}, {background:?}"));
        }
    }
}

#[test]
fn a_replica_whose_file_lost_its_end_is_filled_anew() {
    for left in [Left::Closed, Left::Killed] {
        let store = Store::new(left);
        for volume in 0..3 {
            for Place { path, position, bytes, base } in &store.places[volume] {
                for kept in [0, 100, bytes - 8] {
                    let disk = store.disk.snapshot();
                    let file = disk.read_file(path).expect("it is there");
                    disk.write_file(path, &file[..position + kept]).expect("it is written");
                    let case = format!("{left:?}, volume {volume}, {kept} bytes of {base}");
                    assert_filled(&disk, Background::Inline, &case);
                }
            }
        }
    }
}

#[test]
fn a_new_replica_goes_on_behind_what_nobody_has() {
    let store = Store::new(Left::Closed);
    let disk = store.damaged(&[0, 1, 2], 7, Damage::Zeros);
    let broker = open(&disk, Background::Inline);
    let partition = partition(&broker);
    let volume = partition.volume();
    let admin = broker.admin();
    let added = admin.add_volume("/d").expect("it is added");
    let leaver = partition.replicas().map(|it| it.volume).find(|it| *it != volume);
    let leaver = leaver.and_then(|it| it.get().checked_sub(1)).expect("there are three");
    admin.drain_volume(ALL[leaver as usize]).expect("it is begun");
    let begun = Instant::now();
    let is_there = || {
        let standing = partition.standing().expect("somebody leads");
        standing.isr.contains(&added)
    };
    while !is_there() {
        partition.work_inline();
        assert!(begun.elapsed() < Duration::from_secs(30), "never in sync");
    }
    let replica = partition.on(added).expect("it is there");
    let end = partition.high_watermark();
    assert_eq!(replica.log.end_offset(), end);
    // What it lacks is what the others lack, and it says so.
    let mut cursor = ReadCursor::at(Offset::new(7));
    let read = replica.log.read(&mut cursor, end, FETCH_BYTES, Reads::Mapped);
    assert!(matches!(read, Err(Error::Corrupt(it)) if (it.first.get(), it.end.get()) == (7, 8)));
    assert_eq!(read_all(&partition), (all_but(Some(7)), vec![(7, 8)]));
}

/// Only batches are damaged here: their headers begin with what tells them from anything else.
#[test]
fn the_places_of_batches_are_right() {
    let store = Store::new(Left::Closed);
    for place in store.places.iter().flatten() {
        let bytes = store.disk.read_file(&place.path).expect("it is there");
        let header = BatchHeader::decode_trusted(&bytes[place.position..]).expect("it is good");
        assert_eq!((header.base_offset.get(), header.batch_bytes()), (place.base, place.bytes));
    }
}
