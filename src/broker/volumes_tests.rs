//! Stores of several volumes.
//!
//! Invariants
//!   1. Each volume is found wherever it lies, and nothing is made anew because it is missing.
//!   2. What was acknowledged of the metadata is there with any more than half of the volumes that
//!      were live, and with fewer nothing is opened.
//!   3. A volume that is missing, or fails, costs what is on it and nothing else.

use std::path::Path;

use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::format::Record;
use crate::fs::Disk;
use crate::fs::sim::{Loss, SimDisk};
use crate::id::VolumeId;
use crate::{Background, Broker, BrokerBuilder, Outcome, VolumeState};

const ALL: [&str; 3] = ["/a", "/b", "/c"];

fn builder(disk: &SimDisk, dirs: &[&str]) -> BrokerBuilder {
    Broker::builder().volumes(dirs).disk(disk).seed(7).background(Background::Inline)
}

fn open(disk: &SimDisk, dirs: &[&str]) -> Result<Broker> {
    builder(disk, dirs).open()
}

/// A topic with a partition on each volume, and a record in each partition.
fn filled(disk: &SimDisk) -> Broker {
    let broker = open(disk, &ALL).expect("it opens");
    let topic =
        broker.create_topic("t", TopicConfig::new().replicas(1).partitions(3)).expect("it is made");
    let producer = broker.producer().build().expect("it is built");
    for partition in 0..3 {
        let record = Record::new(b"kept").partition(partition);
        producer.send(&topic, record).expect("it is sent");
    }
    broker
}

/// What can be read of each partition of the topic: its records, or the error.
fn read(broker: &Broker) -> Vec<Result<usize>> {
    let read = |partition: u32| {
        let reader = broker.reader("t").partition(partition).build()?;
        let records: Result<Vec<_>> = reader.collect();
        records.map(|records| records.len())
    };
    (0..3).map(read).collect()
}

fn topics(broker: &Broker) -> Vec<String> {
    broker.admin().topics().iter().map(|topic| topic.name().to_owned()).collect()
}

/// The volumes, and whether they are live.
fn standing(broker: &Broker) -> Vec<(u32, bool)> {
    let volumes = broker.admin().volumes().expect("it is open").into_iter();
    volumes.map(|volume| (volume.volume.get(), volume.state == VolumeState::Live)).collect()
}

fn numbers(numbers: &[u32]) -> Vec<VolumeId> {
    numbers.iter().map(|number| VolumeId::new(*number)).collect()
}

/// The volumes that have a file of records.
fn used(disk: &SimDisk) -> Vec<&'static str> {
    let holds = |dir: &&str| {
        let topics = Path::new(dir).join("topics");
        disk.files().iter().any(|file| {
            file.starts_with(&topics) && file.extension().is_some_and(|end| end == "log")
        })
    };
    ALL.into_iter().filter(holds).collect()
}

#[test]
fn a_topic_is_spread_over_the_volumes_and_found_again_in_any_order() {
    let disk = SimDisk::new();
    let broker = filled(&disk);
    assert_eq!(used(&disk), ALL);
    assert_eq!(standing(&broker), [(1, true), (2, true), (3, true)]);
    assert_eq!(broker.admin().verify().expect("it reads").faults, []);
    broker.close().expect("it closes");
    for dirs in [["/c", "/a", "/b"], ["/b", "/c", "/a"]] {
        let broker = open(&disk, &dirs).expect("it opens");
        assert!(broker.recovery().clean);
        for found in read(&broker) {
            assert_eq!(found.expect("it is there"), 1);
        }
        broker.add_more_topics();
        broker.close().expect("it closes");
    }
    disk.power_cycle(&Loss::All, || ());
    let broker = Broker::builder().volumes(ALL).disk(&disk).read_only(true).open().expect("opens");
    assert!(read(&broker).into_iter().all(|found| found.is_ok_and(|found| found == 1)));
    assert_eq!(broker.admin().verify().expect("it reads").faults, []);
}

impl Broker {
    fn add_more_topics(&self) {
        let made = format!("u{}", topics(self).len());
        self.create_topic(&made, TopicConfig::new().replicas(1).partitions(4)).expect("it is made");
        self.admin().delete_topic(&made).expect("it is deleted");
    }
}

#[test]
fn a_making_that_was_cut_short_is_finished_by_the_next_open() {
    for calls in 1.. {
        let disk = SimDisk::new();
        disk.kill_after(calls);
        let made = open(&disk, &ALL).map(drop);
        disk.power_cycle(&Loss::Random(calls), || ());
        let broker = open(&disk, &ALL).unwrap_or_else(|e| panic!("after {calls} calls: {e}"));
        broker.create_topic("t", TopicConfig::new().replicas(1).partitions(3)).expect("it is made");
        assert_eq!(broker.recovery().missing_volumes, []);
        drop(broker);
        if made.is_ok() {
            assert!(calls > 50, "it was killed {calls} times");
            return;
        }
    }
}

#[test]
fn a_missing_volume_costs_what_is_on_it_and_is_not_made_anew() {
    let disk = SimDisk::new();
    filled(&disk).close().expect("it closes");
    let files = disk.files();
    for dirs in [&["/a", "/b"][..], &["/a", "/b", "/empty"]] {
        let broker = open(&disk, dirs).expect("two of three are enough");
        assert!(broker.recovery().clean, "what is missing makes no clean close unclean");
        assert_eq!(broker.recovery().missing_volumes, numbers(&[3]));
        assert_eq!(standing(&broker), [(1, true), (2, true), (3, false)]);
        let found = read(&broker);
        let number = |is: bool| found.iter().position(|found| found.is_ok() == is).expect("one");
        let (there, lost) = (number(true), number(false));
        assert_eq!(found.iter().filter(|found| found.is_err()).count(), 1, "{found:?}");
        let Err(Error::LeaderNotAvailable(not)) = &found[lost] else { panic!("{found:?}") };
        assert_eq!((not.volume, &*not.topic), (VolumeId::new(3), "t"));
        let [there, lost] = [there, lost].map(|number| u32::try_from(number).expect("three"));
        let latest = [there, lost].map(|partition| broker.admin().latest("t", partition));
        assert!(matches!(latest, [Ok(_), Err(Error::LeaderNotAvailable(_))]), "{latest:?}");
        let producer = broker.producer().build().expect("it is built");
        producer.send("t", Record::new("more").partition(there)).expect("it is sent");
        let lost = producer.send("t", Record::new("more").partition(lost)).unwrap_err();
        assert!(matches!(lost, Error::LeaderNotAvailable(_)), "{lost}");
        assert_eq!(lost.outcome(), Outcome::NotWritten);
        broker
            .create_topic(&format!("u{}", dirs.len()), TopicConfig::new().replicas(1))
            .expect("it is made");
        broker.close().expect("it closes");
    }
    assert!(disk.files().iter().all(|file| !file.starts_with("/empty")));
    assert!(files.iter().filter(|file| file.starts_with("/c")).all(|f| disk.files().contains(f)));

    // It comes back, and learns what it missed.
    let broker = open(&disk, &ALL).expect("it opens");
    assert_eq!(broker.recovery().missing_volumes, []);
    assert!(read(&broker).into_iter().all(|found| found.is_ok()));
    assert_eq!(topics(&broker), ["t", "u2", "u3"]);
    broker.close().expect("it closes");
    let broker = open(&disk, &["/b", "/c"]).expect("it opens");
    assert_eq!(topics(&broker), ["t", "u2", "u3"]);
}

#[test]
fn half_of_the_volumes_are_not_enough_unless_it_is_forced() {
    let disk = SimDisk::new();
    filled(&disk).close().expect("it closes");
    let Err(Error::MissingVolumes(missing)) = open(&disk, &["/b"]) else {
        panic!("it opened");
    };
    assert_eq!((missing.found, missing.missing), (numbers(&[2]), numbers(&[1, 3])));
    let broker = open(&disk, &ALL).expect("it opens");
    assert!(broker.recovery().clean, "who was refused has changed nothing");
    broker.close().expect("it closes");
    let broker = builder(&disk, &["/b"]).force_open(true).open().expect("it is forced");
    assert_eq!(broker.recovery().missing_volumes, numbers(&[1, 3]));
    assert_eq!(read(&broker).iter().filter(|found| found.is_ok()).count(), 1);
    broker.create_topic("forced", TopicConfig::new().replicas(1)).expect("it is made");
    broker.close().expect("it closes");
    open(&disk, &["/b"]).expect("the others are out").close().expect("it closes");
    let broker = open(&disk, &ALL).expect("they follow");
    assert_eq!(topics(&broker), ["forced", "t"]);
    assert_eq!(read(&broker).iter().filter(|found| found.is_ok()).count(), 3);
}

#[test]
fn a_topic_that_is_deleted_without_a_volume_goes_from_it_when_it_comes_back() {
    let disk = SimDisk::new();
    filled(&disk).close().expect("it closes");
    let broker = open(&disk, &["/a", "/b"]).expect("two of three are enough");
    broker.admin().delete_topic("t").expect("it is deleted");
    broker.close().expect("it closes");
    assert_eq!(used(&disk), ["/c"]);
    let broker = open(&disk, &ALL).expect("it opens");
    assert!(broker.recovery().strays.is_empty());
    assert!(used(&disk).is_empty());
}

/// The first volume was opened less often than the store.
#[test]
fn a_backup_gives_no_id_of_a_producer_again() {
    let disk = SimDisk::new();
    filled(&disk).close().expect("it closes");
    for _ in 0..3 {
        open(&disk, &["/b", "/c"]).expect("two of three").close().expect("it closes");
    }
    let broker = open(&disk, &ALL).expect("it opens");
    broker.admin().backup("/copy").expect("it is made");
    for dir in ["/b/copy", "/c/topics/copy"] {
        let within = broker.admin().backup(dir).unwrap_err();
        assert!(matches!(within, Error::InvalidConfig(_)), "{within}");
    }
    let copy = open(&disk, &["/copy"]).expect("it is a store");
    assert_eq!(read(&copy).iter().flatten().count(), 3);
    let incarnation = |broker: &Broker| broker.inner().producers().incarnation();
    assert!(incarnation(&copy) > incarnation(&broker));
}

/// 1. A volume goes while the store is open; 2. topics are made without it; 3. it comes back alone.
#[test]
fn a_volume_that_was_left_behind_is_refused_alone_and_follows_the_others() {
    for dirs in [&["/a", "/b"][..], &ALL] {
        let disk = SimDisk::new();
        let broker = open(&disk, dirs).expect("it opens");
        broker.create_topic("before", TopicConfig::new().replicas(1)).expect("it is made");
        broker
            .create_topic("doomed", TopicConfig::new().replicas(1).partitions(6))
            .expect("it is made");
        let producer = broker.producer().build().expect("it is built");
        for partition in 0..6 {
            producer.send("doomed", Record::new("x").partition(partition)).expect("it is sent");
        }
        // As where another disk is mounted over it.
        disk.remove_file(Path::new("/b/LOCK")).expect("it is there");
        broker
            .create_topic("after", TopicConfig::new().replicas(1))
            .expect("the others are enough");
        let volumes = broker.admin().volumes().expect("it is open");
        assert_eq!((volumes[0].state, volumes[1].state), (VolumeState::Live, VolumeState::Failed));
        broker
            .create_topic("spread", TopicConfig::new().replicas(1).partitions(6))
            .expect("it is made");
        let spread = broker.admin().describe("spread").expect("it is there");
        assert!(
            spread.partitions.iter().all(|partition| partition.leader != Some(VolumeId::new(2)))
        );
        broker.admin().delete_topic("spread").expect("it is deleted");
        broker.admin().delete_topic("doomed").expect("it is deleted");
        let closed = broker.close().expect_err("it is not there any more");
        assert!(closed.to_string().contains("/b"), "{closed}");

        let alone = open(&disk, &["/b"]).unwrap_err();
        assert!(matches!(alone, Error::MissingVolumes(_)), "{alone}");
        let rest: Vec<_> = dirs.iter().copied().filter(|dir| *dir != "/b").collect();
        let broker = open(&disk, &rest).expect("they went on");
        assert_eq!(topics(&broker), ["after", "before"]);
        broker.close().expect("it closes");
        let broker = open(&disk, dirs).expect("it follows");
        assert_eq!(topics(&broker), ["after", "before"]);
        assert!(broker.recovery().strays.is_empty());
        broker.create_topic("again", TopicConfig::new().replicas(1)).expect("it is made");
        broker.close().expect("it closes");
        if dirs.len() == 3 {
            let broker = open(&disk, &["/b", "/c"]).expect("it is one of the others again");
            assert_eq!(topics(&broker), ["after", "again", "before"]);
        }
    }
}

/// 1. One of three volumes is missing; 2. another one goes: what is left is less than half, and
/// may not decide alone.
#[test]
fn less_than_half_of_the_live_set_decides_nothing() {
    let disk = SimDisk::new();
    filled(&disk).close().expect("it closes");
    let broker = open(&disk, &["/a", "/b"]).expect("two of three are enough");
    disk.remove_file(Path::new("/b/LOCK")).expect("it is there");
    let refused =
        broker.create_topic("u", TopicConfig::new().replicas(1)).expect_err("one of three");
    assert!(matches!(refused, Error::Halted { .. }), "{refused}");
    drop(broker);
    let broker = open(&disk, &["/b", "/c"]).expect("two of three");
    broker.create_topic("u", TopicConfig::new().replicas(1)).expect("it is made");
    assert_eq!(topics(&broker), ["t", "u"]);
}

/// 1. A change is written to the first volume only; 2. the others go on without that one; 3. it
/// comes back, with a change that they do not have.
#[test]
fn a_change_that_never_counted_is_forgotten() {
    for calls in 1.. {
        let disk = SimDisk::new();
        filled(&disk).close().expect("it closes");
        let broker = open(&disk, &ALL).expect("it opens");
        disk.kill_after(calls);
        let made =
            broker.create_topic("lost", TopicConfig::new().replicas(1).partitions(3)).is_ok();
        disk.power_cycle(&Loss::None, || drop(broker));
        let broker = open(&disk, &["/b", "/c"]).expect("two of three are enough");
        let went_on = topics(&broker);
        assert!(!made || went_on == ["lost", "t"], "after {calls} calls: {went_on:?}");
        broker.create_topic("u", TopicConfig::new().replicas(1)).expect("it is made");
        let went_on = topics(&broker);
        broker.close().expect("it closes");
        let broker = open(&disk, &ALL).expect("it opens");
        assert_eq!(topics(&broker), went_on, "after {calls} calls");
        assert_eq!(broker.admin().verify().expect("it reads").faults, []);
        if made {
            assert!(calls > 5, "it was killed {calls} times");
            return;
        }
    }
}

#[test]
fn a_folder_that_is_not_of_the_store_is_refused() {
    let disk = SimDisk::new();
    open(&disk, &["/a"]).expect("it opens").close().expect("it closes");
    let other = builder(&disk, &["/x"]).seed(8).open().expect("it opens");
    other.close().expect("it closes");
    let refused = open(&disk, &["/a", "/x"]).unwrap_err();
    assert!(matches!(refused, Error::Damaged(_)), "{refused}");
    // As if its folder had been copied.
    open(&disk, &["/z"]).expect("it opens").close().expect("it closes");
    let copy = open(&disk, &["/a", "/z"]).unwrap_err();
    assert!(matches!(copy, Error::Damaged(_)), "{copy}");
    let twice = open(&disk, &["/a", "/a"]).unwrap_err();
    assert!(matches!(twice, Error::Locked { .. }), "{twice}");
    let more = open(&disk, &["/a", "/y"]).unwrap_err();
    assert!(matches!(more, Error::InvalidConfig(_)), "{more}");
    assert!(open(&disk, &["/a"]).expect("it opens").recovery().clean);
    assert!(disk.files().iter().all(|file| !file.starts_with("/y")));
}

/// What of these folders is open or mapped in this process.
#[cfg(target_os = "linux")]
fn held_in(dirs: &[std::path::PathBuf]) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("it is there");
    let open = std::fs::read_dir("/proc/self/fd").expect("it is there");
    let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let all = maps.lines().map(str::to_owned).chain(open.map(|path| path.display().to_string()));
    let is_in = |held: &String| dirs.iter().any(|dir| held.contains(&*dir.to_string_lossy()));
    all.filter(is_in).collect()
}

/// So that its file system can be unmounted, and the room of what was moved away is free.
#[cfg(target_os = "linux")]
#[test]
fn nothing_of_a_volume_is_open_once_it_was_drained_and_removed() {
    for background in [Background::Thread, Background::Inline] {
        let root = tempfile::tempdir().expect("it is made");
        let dirs: Vec<_> = (0..3).map(|number| root.path().join(number.to_string())).collect();
        let broker = Broker::builder().volumes(&dirs).background(background);
        let broker = broker.open().expect("it opens");
        let config = TopicConfig::new().partitions(4).replicas(2).segment_bytes(64 << 10);
        let topic = broker.create_topic("t", config).expect("it is made");
        let producer = broker.producer().build().expect("it is built");
        for value in 0..400_u32 {
            let value = [value.to_le_bytes().as_slice(), &[7; 1_000]].concat();
            producer.send(&topic, Record::new(&value)).expect("it is sent");
        }
        let goes = &dirs[..1];
        assert!(!held_in(goes).is_empty());
        broker.admin().drain_volume(&goes[0]).expect("it is drained");
        broker.admin().remove_volume(&goes[0], false).expect("it is removed");
        let begun = std::time::Instant::now();
        // What a thread is at it ends with.
        while !held_in(goes).is_empty() && begun.elapsed().as_secs() < 20 {
            std::thread::yield_now();
        }
        assert_eq!(held_in(goes), Vec::<String>::new(), "{background:?}");
    }
}
