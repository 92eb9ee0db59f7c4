//! A single volume keeps two copies of the metadata; with both bad the open fails, deletes
//! nothing, and a rebuild makes the topics again from their segments' headers.
//!
//! Invariants
//!   1. Whatever was done to both copies, an open tells it and deletes nothing, and a look changes
//!      no byte; with a good one left there is nothing to be rebuilt.
//!   2. After a rebuild every acknowledged record is at its offset, appends go on in an epoch above
//!      all others, a dedup key is known, no id is given again.
//!   3. A rebuild that is cut short, anywhere, leaves a store that opens whole, or is told as
//!      before and rebuilt by the next one. The bad copies are there, under another name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::broker::{Background, Broker};
use crate::config::{DedupWindow, Durability, ManualClock, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{PAGE, Record};
use crate::fs::sim::{Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::fs::{Disk, EntryKind};
use crate::id::{LeaderEpoch, TopicId};

const SEGMENT_BYTES: u64 = 96 << 10;
/// More changes than are made before a snapshot is taken, so that the copies begin above offset 0.
const CHANGES: usize = 300;

fn builder(disk: &SimDisk) -> crate::BrokerBuilder {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).seed(3);
    builder.clock(ManualClock::new(1_000_000)).background(Background::Inline)
}

fn open(disk: &SimDisk) -> Result<Broker> {
    builder(disk).open()
}

fn rebuild(disk: &SimDisk) -> Result<Broker> {
    builder(disk).rebuild_metadata(true).open()
}

fn is_lost<T: std::fmt::Debug>(opened: Result<T>) -> bool {
    match opened {
        Err(Error::Damaged(damage)) if damage.can_be_rebuilt => {
            Error::Damaged(damage).to_string().contains("`plimsoll verify --repair`")
        }
        _ => false,
    }
}

/// How a store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Closed,
    Killed,
}

const BOTH_WAYS: [Left; 2] = [Left::Closed, Left::Killed];

/// A store, and what was acknowledged in it.
struct Made {
    disk: SimDisk,
    /// Of each partition, by offset.
    acknowledged: BTreeMap<(&'static str, u32), Vec<Vec<u8>>>,
    epoch: LeaderEpoch,
    ids: BTreeMap<&'static str, TopicId>,
}

const TOPICS: [(&str, u32); 2] = [("keyed", 1), ("orders", 3)];

/// A value of this number.
fn value(number: usize) -> Vec<u8> {
    let mut value = vec![u8::try_from(number % 251).expect("small"); 9_000];
    value[..8].copy_from_slice(&(number as u64).to_le_bytes());
    value
}

fn key(number: usize) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// Topics of several partitions, each of several files, written in several epochs.
fn made(left: Left, changes: usize) -> Made {
    let disk = SimDisk::new();
    let broker = open(&disk).expect("it opens");
    let orders = TopicConfig::new().partitions(3).segment_bytes(SEGMENT_BYTES);
    broker.create_topic("orders", orders).expect("it is made");
    broker.create_topic("gone", TopicConfig::new()).expect("it is made");
    let keyed = TopicConfig::new().segment_bytes(SEGMENT_BYTES).dedup(DedupWindow::Records(1_000));
    broker.create_topic("keyed", keyed).expect("it is made");
    for _ in 0..changes {
        broker.producer().name("job").build().expect("it is built");
    }
    let mut made = Made {
        disk: disk.clone(),
        acknowledged: BTreeMap::new(),
        epoch: LeaderEpoch::default(),
        ids: BTreeMap::new(),
    };
    send(&broker, &mut made, 0..20);
    broker.admin().delete_topic("gone").expect("it is deleted");
    // An unclean end raises the epoch.
    let disk = disk.kill();
    drop(broker);
    let broker = open(&disk).expect("it opens");
    send(&broker, &mut made, 20..40);
    for (topic, _) in TOPICS {
        made.ids.insert(topic, broker.topic(topic).expect("it is there").id());
    }
    made.disk = match left {
        Left::Closed => {
            broker.close().expect("it closes");
            disk
        }
        Left::Killed => {
            let left = disk.kill();
            drop(broker);
            left
        }
    };
    made
}

/// Sends values of these numbers, in turn to all partitions.
fn send(broker: &Broker, made: &mut Made, numbers: std::ops::Range<usize>) {
    let producer = broker.producer().name("job").build().expect("it is built");
    for number in numbers {
        let (value, key) = (value(number), key(number));
        for (topic, partitions) in TOPICS {
            let partition = u32::try_from(number).expect("small") % partitions;
            let mut record = Record::new(&value).partition(partition);
            if topic == "keyed" {
                record = record.dedup_key(&key);
            }
            let ack = producer.send(topic, record).expect("it is sent");
            assert!(!ack.duplicate);
            let there = made.acknowledged.entry((topic, partition)).or_default();
            assert_eq!(ack.offset.get(), there.len() as u64);
            there.push(value.clone());
        }
    }
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            made.epoch = made.epoch.max(newest_epoch(broker, topic, partition));
        }
    }
}

fn newest_epoch(broker: &Broker, topic: &str, partition: u32) -> LeaderEpoch {
    let reader = broker.reader(topic).partition(partition).build().expect("it is built");
    reader.map(|record| record.expect("it is read").leader_epoch()).max().unwrap_or_default()
}

fn read(broker: &Broker, topic: &str, partition: u32) -> Vec<Vec<u8>> {
    let reader = broker.reader(topic).partition(partition).build().expect("it is built");
    let values = reader.enumerate().map(|(at, record)| {
        let record = record.expect("it is read");
        assert_eq!(record.offset().get(), at as u64);
        record.value().expect("it has one").to_vec()
    });
    values.collect()
}

/// Every file, with its bytes.
fn image(disk: &SimDisk) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    disk.files().into_iter().map(|path| (path.clone(), disk.read_file(&path))).collect()
}

fn metadata_files(disk: &SimDisk, copy: &str) -> Vec<PathBuf> {
    let folder = Path::new("/v/metadata").join(copy);
    disk.files().into_iter().filter(|path| path.starts_with(&folder)).collect()
}

/// What is done to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Unreadable,
    Flipped,
    Zeroed,
    Missing,
    /// To so many bytes.
    Truncated(usize),
    FilesGone,
}

const HARMS: [Harm; 9] = [
    Harm::Unreadable,
    Harm::Flipped,
    Harm::Zeroed,
    Harm::Missing,
    Harm::FilesGone,
    Harm::Truncated(0),
    Harm::Truncated(PAGE),
    Harm::Truncated(3 * PAGE),
    Harm::Truncated(3 * PAGE + 100),
];

fn harm(disk: &SimDisk, copy: &str, how: Harm) {
    for path in metadata_files(disk, copy) {
        let bytes = disk.read_file(&path).expect("it is there");
        match how {
            Harm::Unreadable => {
                for at in (0..bytes.len() as u64).step_by(512) {
                    disk.bad_sector(&path, at).expect("it is there");
                }
            }
            Harm::Flipped => {
                for at in (5..bytes.len() as u64).step_by(97) {
                    disk.flip_bit(&path, at, 3).expect("it is there");
                }
            }
            Harm::Zeroed => {
                disk.write_file(&path, &vec![0; bytes.len()]).expect("it can be written");
            }
            Harm::Truncated(to) => {
                disk.write_file(&path, &bytes[..to.min(bytes.len())]).expect("it can be written");
            }
            Harm::Missing | Harm::FilesGone => disk.remove_file(&path).expect("it is removed"),
        }
    }
    if how == Harm::Missing {
        disk.remove_dir(&Path::new("/v/metadata").join(copy)).expect("it is removed");
    }
    let _ = disk.sync_dir(&Path::new("/v/metadata").join(copy));
    disk.sync_dir(Path::new("/v/metadata")).expect("it is synced");
}

/// The store is as it was, but for what only the metadata knew.
fn check(broker: &Broker, made: &Made) {
    let admin = broker.admin();
    let names: Vec<String> = admin.topics().iter().map(|topic| topic.name().to_owned()).collect();
    assert_eq!(names, ["keyed", "orders"]);
    for (topic, partitions) in TOPICS {
        let topic = broker.topic(topic).expect("it is there");
        assert_eq!((topic.id(), topic.partitions()), (made.ids[topic.name()], partitions));
        assert_eq!(topic.config().segment_bytes, SEGMENT_BYTES);
    }
    assert_eq!(broker.topic("keyed").expect("it is there").config().dedup, DedupWindow::Retained);
    assert_eq!(broker.topic("orders").expect("it is there").config().dedup, DedupWindow::Off);
    for ((topic, partition), values) in &made.acknowledged {
        assert!(read(broker, topic, *partition) == *values, "{topic} {partition}");
    }
}

/// It goes on: in a newer epoch, and what was written once is known.
fn check_goes_on(broker: &Broker, made: &Made) {
    let producer = broker.producer().name("job").build().expect("it is built");
    let again = producer.send("keyed", Record::new(&value(7)).dedup_key(&key(7)));
    let again = again.expect("it is sent");
    assert_eq!((again.offset.get(), again.duplicate), (7, true));
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            let sent = producer.send(topic, Record::new("more").partition(partition));
            let next = made.acknowledged[&(topic, partition)].len() as u64;
            assert_eq!(sent.expect("it is sent").offset.get(), next);
            assert!(newest_epoch(broker, topic, partition) > made.epoch);
        }
    }
    let topic = broker.create_topic("new", TopicConfig::new()).expect("it is made");
    assert!(made.ids.values().all(|id| topic.id() > *id));
}

fn faults(disk: &SimDisk) -> Vec<crate::VerifyFault> {
    let look = builder(disk).read_only(true).open().expect("it opens");
    look.admin().verify().expect("it is read").faults
}

#[test]
fn with_both_copies_bad_nothing_is_deleted_and_a_rebuild_brings_every_record_back() {
    for left in BOTH_WAYS {
        for changes in [0, CHANGES] {
            for (one, other) in HARMS.iter().flat_map(|one| HARMS.map(|other| (*one, other))) {
                let case = format!("{left:?} changes={changes} {one:?} {other:?}");
                let made = made_once(left, changes);
                let disk = &made.disk;
                harm(disk, "0", one);
                harm(disk, "1", other);
                let before = image(disk);

                // A look, as `verify` takes it.
                let look = || builder(disk).read_only(true).open();
                assert!(is_lost(look()), "{case}: {:?}", look().err());
                assert!(image(disk) == before, "{case}: a look changed something");
                // And an open tells as much, again and again.
                for _ in 0..2 {
                    let opened = open(disk);
                    assert!(is_lost(opened.clone()), "{case}: {opened:?}");
                }
                let kept: BTreeSet<PathBuf> = disk.files().into_iter().collect();
                let deleted = before.keys().filter(|path| !kept.contains(*path));
                assert_eq!(deleted.collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "{case}");

                let bad = [metadata_files(disk, "0"), metadata_files(disk, "1")].concat();
                let bad: Vec<_> = bad.iter().map(|path| disk.read_file(path)).collect();
                let broker = rebuild(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(broker.recovery().rebuilt, "{case}");
                assert!(broker.recovery().strays.is_empty(), "{case}");
                check(&broker, &made);
                check_goes_on(&broker, &made);
                broker.close().unwrap_or_else(|error| panic!("{case}: {error}"));
                let aside: Vec<_> = disk.files().into_iter().collect();
                let aside = aside.iter().filter(|path| path.starts_with("/v/metadata.bad-1"));
                let aside: Vec<_> = aside.map(|path| disk.read_file(path)).collect();
                assert!(aside == bad, "{case}: not what was there");

                assert_eq!(faults(disk), [], "{case}");
                let broker = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(broker.recovery().clean && !broker.recovery().rebuilt, "{case}");
                assert!(broker.topic("new").is_ok(), "{case}");
            }
        }
    }
}

/// The same as [`made`], which takes longer than to copy it.
fn made_once(left: Left, changes: usize) -> Made {
    use std::sync::OnceLock;
    static MADE: [OnceLock<Made>; 4] = [const { OnceLock::new() }; 4];
    let number = usize::from(left == Left::Killed) + 2 * usize::from(changes > 0);
    let first = MADE[number].get_or_init(|| made(left, changes));
    Made {
        disk: first.disk.snapshot(),
        acknowledged: first.acknowledged.clone(),
        epoch: first.epoch,
        ids: first.ids.clone(),
    }
}

#[test]
fn with_one_good_copy_there_is_nothing_to_rebuild() {
    for left in BOTH_WAYS {
        for how in HARMS {
            for copy in ["0", "1"] {
                let made = made_once(left, CHANGES);
                harm(&made.disk, copy, how);
                let broker = rebuild(&made.disk).expect("it opens");
                assert!(!broker.recovery().rebuilt, "{left:?} {how:?} {copy}");
                assert_eq!(broker.admin().producers().expect("they are told"), ["job"]);
                let aside = made.disk.stat(Path::new("/v/metadata.bad-1"));
                assert!(aside.is_err(), "{left:?} {how:?} {copy}");
            }
        }
    }
}

/// A copy that ends early is a copy of less: it must not pass for all there is.
#[test]
fn copies_cut_short_anywhere_are_told_or_tell_every_topic() {
    for left in BOTH_WAYS {
        for changes in [0, CHANGES] {
            let made = made_once(left, changes);
            let newest = metadata_files(&made.disk, "0").pop().expect("there is one");
            let length = made.disk.read_file(&newest).expect("it is there").len();
            for to in (0..length).step_by(248) {
                let disk = made.disk.snapshot();
                harm(&disk, "0", Harm::Truncated(to));
                harm(&disk, "1", Harm::Truncated(to));
                match open(&disk) {
                    Ok(broker) => {
                        let there = TOPICS.iter().all(|(topic, _)| broker.topic(topic).is_ok());
                        assert!(there, "{left:?} changes={changes} cut to {to}");
                    }
                    opened => assert!(is_lost(opened), "{left:?} changes={changes} cut to {to}"),
                }
            }
        }
    }
}

/// A store with both copies bad, each in a way of its own.
fn lost(left: Left) -> Made {
    let made = made_once(left, CHANGES);
    // On the medium, so that a power cut takes nothing of it.
    let made = Made { disk: made.disk.crash(&Loss::None), ..made };
    harm(&made.disk, "0", Harm::Flipped);
    harm(&made.disk, "1", Harm::Truncated(3 * PAGE));
    made
}

/// What a rebuild that did not get to its end has left.
fn check_second(disk: &SimDisk, made: &Made, case: &str) {
    let bad = metadata_files(&made.disk, "0")
        .iter()
        .map(|path| made.disk.read_file(path))
        .collect::<Vec<_>>();
    let broker = match open(disk) {
        Ok(broker) => broker,
        opened => {
            assert!(is_lost(opened), "{case}: {:?}", open(disk));
            rebuild(disk).unwrap_or_else(|error| panic!("{case}: {error}"))
        }
    };
    check(&broker, made);
    check_goes_on(&broker, made);
    broker.close().unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(faults(disk), [], "{case}");
    let kept: Vec<_> = disk.files().iter().map(|path| disk.read_file(path)).collect();
    assert!(bad.iter().all(|bytes| kept.contains(bytes)), "{case}: a bad copy is gone");
}

#[test]
fn a_power_cut_at_any_call_of_a_rebuild_leaves_a_store_that_the_next_one_repairs() {
    for left in BOTH_WAYS {
        let made = lost(left);
        let whole = made.disk.snapshot();
        let before = whole.calls();
        rebuild(&whole).expect("nothing goes wrong");
        let calls = whole.calls() - before;
        for at in 0..calls {
            for loss in [Loss::All, Loss::None, Loss::Random(at)] {
                let disk = made.disk.snapshot();
                disk.cut_power_after(at);
                let _ = rebuild(&disk);
                let case = format!("{left:?} power cut after call {at} of {calls}, {loss:?}");
                check_second(&disk.crash(&loss), &made, &case);
            }
        }
    }
}

#[test]
fn a_call_that_fails_in_a_rebuild_costs_nothing() {
    let made = lost(Left::Closed);
    let whole = made.disk.snapshot();
    let before = whole.calls();
    rebuild(&whole).expect("nothing goes wrong");
    for at in 0..whole.calls() - before {
        for how_long in [HowLong::Once, HowLong::Forever] {
            for what in [FaultKind::Eio, FaultKind::Enospc] {
                let disk = made.disk.snapshot();
                disk.arm(Fault { at: at + 1, call: None, what, how_long });
                let _ = rebuild(&disk);
                disk.disarm();
                let case = format!("call {at} fails with {what:?} {how_long:?}");
                check_second(&disk.kill(), &made, &case);
            }
        }
    }
}

/// An epoch that only lost records had would not tell their offsets from those that come.
#[test]
fn an_epoch_whose_records_are_lost_is_not_given_again() {
    let mut disk = SimDisk::new();
    let broker = open(&disk).expect("it opens");
    broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).expect("it is made");
    let send = |broker: &Broker, value| {
        let sent = broker.producer().build().and_then(|it| it.send("t", Record::new(value)));
        sent.expect("it is sent")
    };
    send(&broker, "kept");
    broker.close().expect("it closes");
    for _ in 0..3 {
        let broker = open(&disk).expect("it opens");
        disk = disk.kill();
        drop(broker);
    }
    let broker = open(&disk).expect("it opens");
    let lost = send(&broker, "lost");
    let epoch = newest_epoch(&broker, "t", 0);
    let left = disk.crash(&Loss::All);
    drop(broker);
    harm(&left, "0", Harm::Zeroed);
    harm(&left, "1", Harm::Zeroed);
    let broker = rebuild(&left).expect("it is rebuilt");
    assert_eq!(send(&broker, "another").offset, lost.offset);
    assert!(newest_epoch(&broker, "t", 0) > epoch);
}

/// Nothing but the metadata had anything: after a clean close it must have been there.
#[test]
fn topics_that_were_never_written_to_do_not_vanish_untold() {
    for how in HARMS {
        let disk = SimDisk::new();
        let broker = open(&disk).expect("it opens");
        broker.create_topic("t", TopicConfig::new()).expect("it is made");
        broker.close().expect("it closes");
        harm(&disk, "0", how);
        harm(&disk, "1", how);
        assert!(is_lost(builder(&disk).read_only(true).open()), "{how:?}");
        for _ in 0..2 {
            assert!(is_lost(open(&disk)), "{how:?}");
        }
        let broker = rebuild(&disk).unwrap_or_else(|error| panic!("{how:?}: {error}"));
        assert!(broker.recovery().rebuilt && broker.admin().topics().is_empty(), "{how:?}");
        broker.create_topic("t", TopicConfig::new()).expect("it is made");
        broker.close().expect("it closes");
        assert!(open(&disk).is_ok_and(|broker| broker.topic("t").is_ok()), "{how:?}");
    }
}

/// A store of several whose making failed leaves a volume that was closed, as it was found.
#[test]
fn a_volume_of_a_store_that_was_never_made_is_no_lost_one() {
    let disk = SimDisk::new();
    disk.write_file("/b/volume", b"no volume").expect("it can be written");
    let both = Broker::builder().volumes(["/v", "/b"]).disk(&disk).background(Background::Inline);
    assert!(both.open().is_err());
    open(&disk).expect("it opens");
}

/// The bad copies keep their room: new ones take what is set aside for changes.
#[test]
fn a_full_disk_keeps_nobody_from_a_rebuild() {
    let disk = SimDisk::new();
    disk.set_capacity(3 << 20);
    let broker = open(&disk).expect("it opens");
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).expect("it is made");
    let producer = broker.producer().build().expect("it is built");
    let mut sent = 0;
    for bytes in [30_000, 4_000, 100] {
        while producer.send("t", Record::new(&vec![1; bytes])).is_ok() {
            sent += 1;
        }
    }
    // With no room for a footer.
    assert!(broker.close().is_err());
    harm(&disk, "0", Harm::Flipped);
    harm(&disk, "1", Harm::Flipped);
    let broker = rebuild(&disk).expect("it is rebuilt");
    assert_eq!(read(&broker, "t", 0).len(), sent);
}

/// Only the folder of a topic tells its name, and only a file its salt.
#[test]
fn what_no_file_tells_is_left_alone_and_told() {
    let made = lost(Left::Closed);
    let disk = &made.disk;
    // A partition without any file, and a topic without a good header.
    for path in disk.files() {
        if path.starts_with("/v/topics/orders-1/1") {
            disk.remove_file(&path).expect("it is removed");
        }
        if path.starts_with("/v/topics/keyed-3") {
            disk.flip_bit(&path, 100, 0).expect("it is there");
        }
    }
    disk.create_dir(Path::new("/v/topics/old-18446744073709551615")).expect("it is made");
    // Deleted, but for its folder, before another one got its name.
    disk.create_dir(Path::new("/v/topics/Orders-0")).expect("it is made");
    let broker = rebuild(disk).expect("it is rebuilt");
    let notes = broker.recovery().notes.join("\n");
    assert!(notes.contains("orders: no file of partition 1:"), "{notes}");
    assert!(notes.contains("/v/topics/keyed-3: no file in it says which topic"), "{notes}");
    assert!(notes.contains("names of producers"), "{notes}");
    let strays: Vec<PathBuf> = broker.recovery().strays.clone();
    for stray in ["Orders-0", "keyed-3", "old-18446744073709551615"] {
        assert!(strays.contains(&Path::new("/v/topics").join(stray)), "{strays:?}");
    }
    assert_eq!(read(&broker, "orders", 0), made.acknowledged[&("orders", 0)]);
    assert_eq!(read(&broker, "orders", 1), Vec::<Vec<u8>>::new());
    // A new topic of the name has a folder of its own.
    let keyed = broker.create_topic("keyed", TopicConfig::new()).expect("it is made");
    assert!(keyed.id() > made.ids["keyed"]);
    assert!(disk.stat(Path::new("/v/topics/keyed-3")).is_ok_and(|it| it.kind == EntryKind::Dir));
}

/// Files of another store, of the same topic and partition but for the salt.
#[test]
fn files_of_another_store_make_no_topic() {
    let made = lost(Left::Closed);
    let other = SimDisk::new();
    let broker = Broker::builder().volumes(["/v"]).disk(&other).seed(77);
    let broker = broker.background(Background::Inline).open().expect("it opens");
    broker.create_topic("orders", TopicConfig::new().partitions(3)).expect("it is made");
    broker
        .producer()
        .build()
        .and_then(|p| p.send("orders", Record::new("x").partition(0)))
        .expect("it is sent");
    broker.close().expect("it closes");
    let foreign = other.files().into_iter().find(|path| path.starts_with("/v/topics"));
    let bytes = other.read_file(foreign.expect("there is one")).expect("it is there");
    let name = "/v/topics/orders-1/0/00000000000000000500-9.log";
    made.disk.write_file(name, &bytes).expect("it can be written");
    let broker = rebuild(&made.disk).expect("it is rebuilt");
    assert!(broker.recovery().strays.contains(&PathBuf::from(name)));
    for ((topic, partition), values) in &made.acknowledged {
        assert!(read(&broker, topic, *partition) == *values, "{topic} {partition}");
    }
    drop(broker);

    // Where as many are of either nobody can tell.
    let made = lost(Left::Closed);
    for path in made.disk.files() {
        if path.starts_with("/v/topics/orders-1") {
            made.disk.remove_file(&path).expect("it is removed");
        }
    }
    let own = "/v/topics/orders-1/0/00000000000000000000-0.log";
    let first = made_once(Left::Closed, CHANGES).disk.read_file(own).expect("it is there");
    made.disk.write_file(own, &first).expect("it can be written");
    made.disk.write_file(name, &bytes).expect("it can be written");
    let before = image(&made.disk);
    assert!(matches!(rebuild(&made.disk), Err(Error::Damaged(_))));
    let after = image(&made.disk);
    let is_volume = |path: &Path| path == Path::new("/v/volume");
    assert!(before.iter().all(|(path, bytes)| is_volume(path) || after.get(path) == Some(bytes)));
}

#[test]
fn a_store_of_several_volumes_is_not_rebuilt() {
    let disk = SimDisk::new();
    let several = |rebuild: bool| {
        let builder = Broker::builder().volumes(["/a", "/b"]).disk(&disk).seed(3);
        builder.background(Background::Inline).rebuild_metadata(rebuild).open()
    };
    let broker = several(false).expect("it opens");
    broker.create_topic("t", TopicConfig::new().replicas(2)).expect("it is made");
    broker.producer().build().and_then(|p| p.send("t", Record::new("x"))).expect("it is sent");
    broker.close().expect("it closes");
    for path in disk.files() {
        if path.to_string_lossy().contains("/metadata/") {
            disk.remove_file(&path).expect("it is removed");
        }
    }
    for rebuild in [false, true] {
        match several(rebuild) {
            Err(Error::Damaged(damage)) => assert!(!damage.can_be_rebuilt),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn it_is_not_rebuilt_by_a_look() {
    let made = lost(Left::Closed);
    let before = image(&made.disk);
    let opened = builder(&made.disk).read_only(true).rebuild_metadata(true).open();
    assert!(matches!(opened, Err(Error::InvalidConfig(_))));
    assert!(image(&made.disk) == before);
}
