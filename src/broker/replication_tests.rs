//! Partitions of several replicas, on simulated disks.
//!
//! Invariants
//!   1. What was acknowledged is on every replica in sync, byte for byte (I5).
//!   2. A volume that fails costs no acknowledged record, and no consumer sees an error.
//!   3. A volume that is left behind does not lead before it has caught up.

use std::sync::Arc;
use std::time::Duration;

use super::between::Between;
use super::simulation_tests::{Disks, dir};
use crate::broker::crew::Work;
use crate::config::{Compression, Durability, FETCH_BYTES, ManualClock, Reads, TopicConfig};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::fs::sim::SimDisk;
use crate::id::{Offset, PartitionId, VolumeId};
use crate::log::{Log, ReadCursor};
use crate::partition::{Partition, Step};
use crate::{Background, Broker, BrokerBuilder, Producer, Topic};

const ALL: [&str; 3] = ["/a", "/b", "/c"];

fn builder(disk: &SimDisk, dirs: &[&str], background: Background) -> BrokerBuilder {
    Broker::builder().volumes(dirs).disk(disk).seed(7).background(background)
}

fn open(disk: &SimDisk, dirs: &[&str], background: Background) -> Broker {
    builder(disk, dirs, background).open().expect("it opens")
}

fn partition(topic: &Topic, number: u32) -> Arc<Partition> {
    Arc::clone(topic.state.partition(PartitionId::new(number)).expect("it is there"))
}

/// The batches of a log below an offset, as they are stored.
fn stored(log: &Log, upto: Offset) -> Vec<u8> {
    let mut cursor = ReadCursor::stored_at(log.start_offset());
    let mut bytes = Vec::new();
    while let Some(chunk) = log.read(&mut cursor, upto, FETCH_BYTES, Reads::Copied).expect("good") {
        chunk.batches().for_each(|batch| bytes.extend_from_slice(batch));
    }
    bytes
}

/// Every replica in sync holds what is committed, byte for byte.
fn assert_equal(partition: &Partition) {
    let standing = partition.standing().expect("somebody leads");
    let committed = partition.high_watermark();
    let leads = stored(partition.log(), committed);
    for volume in standing.isr {
        let replica = partition.on(volume).expect("it is there");
        assert_eq!(stored(&replica.log, committed), leads, "volume {volume}");
    }
}

fn send(broker: &Broker, topic: &Topic, values: std::ops::Range<u32>) -> Result<()> {
    let producer = broker.producer().build()?;
    for value in values {
        producer.send(topic, Record::new(&value.to_le_bytes()))?;
    }
    Ok(())
}

/// The values of the topic's one partition.
fn read(broker: &Broker, topic: &Topic) -> Vec<u32> {
    let reader = broker.reader(topic).partition(0).build().expect("it is built");
    let value = |record: Result<crate::SharedRecord>| {
        let record = record.expect("it can be read");
        u32::from_le_bytes(record.value().expect("it has one").try_into().expect("four bytes"))
    };
    reader.map(value).collect()
}

const BACKGROUNDS: [Background; 2] = [Background::Inline, Background::Thread];
const DURABILITIES: [Durability; 2] = [Durability::Fsync, Durability::Os];

fn in_all_ways(test: impl Fn(Background, Durability)) {
    for background in BACKGROUNDS {
        for durability in DURABILITIES {
            test(background, durability);
        }
    }
}

fn isr(partition: &Partition) -> Vec<u32> {
    let standing = partition.standing().expect("somebody leads");
    standing.isr.iter().map(|volume| volume.get()).collect()
}

/// Waits until a condition holds that threads of the broker make true, or whoever appends.
fn until(partition: &Arc<Partition>, what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        partition.work_inline();
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_acknowledged_is_on_every_replica() {
    in_all_ways(|background, durability| {
        let disk = SimDisk::new();
        let broker = open(&disk, &ALL, background);
        let config = TopicConfig::new().durability(durability);
        let topic = broker.create_topic("t", config).expect("it is made");
        send(&broker, &topic, 0..100).expect("it is sent");
        let partition = partition(&topic, 0);
        assert_eq!(partition.replicas().count(), 3);
        assert_eq!(isr(&partition).len(), 3);
        assert_eq!(partition.high_watermark(), Offset::new(100));
        assert_equal(&partition);
        assert_eq!(read(&broker, &topic), (0..100).collect::<Vec<_>>());
        broker.close().expect("it closes");

        let broker = open(&disk, &ALL, background);
        let topic = broker.topic("t").expect("it is there");
        assert!(broker.recovery().clean);
        assert_eq!(read(&broker, &topic), (0..100).collect::<Vec<_>>());
        send(&broker, &topic, 100..150).expect("it is sent");
        assert_eq!(read(&broker, &topic), (0..150).collect::<Vec<_>>());
    });
}

#[test]
fn a_leader_whose_sync_fails_is_replaced_and_nobody_sees_an_error() {
    in_all_ways(|background, durability| {
        let disk = SimDisk::new();
        let broker = open(&disk, &ALL, background);
        let config = TopicConfig::new().durability(durability);
        let topic = broker.create_topic("t", config).expect("it is made");
        send(&broker, &topic, 0..20).expect("it is sent");
        let partition = partition(&topic, 0);
        let leader = partition.volume();
        partition.log().halt(Error::ReadOnly);
        send(&broker, &topic, 20..40).expect("it is sent");
        assert_ne!(partition.volume(), leader);
        assert_eq!(read(&broker, &topic), (0..40).collect::<Vec<_>>());
        until(&partition, "the old leader leaves the ISR", || isr(&partition).len() == 2);
        assert_equal(&partition);
        drop(broker);

        // The one left behind has an older incarnation than the others know, and follows.
        let broker = open(&disk, &ALL, background);
        let topic = broker.topic("t").expect("it is there");
        let partition = self::partition(&topic, 0);
        assert_ne!(partition.volume(), leader);
        assert_eq!(read(&broker, &topic), (0..40).collect::<Vec<_>>());
        send(&broker, &topic, 40..60).expect("it is sent");
        until(&partition, "the old leader is back in the ISR", || isr(&partition).len() == 3);
        assert_equal(&partition);
        assert_eq!(read(&broker, &topic), (0..60).collect::<Vec<_>>());
    });
}

#[test]
fn a_follower_that_fails_leaves_and_writing_goes_on() {
    in_all_ways(|background, durability| {
        let disk = SimDisk::new();
        let broker = open(&disk, &ALL, background);
        let config = TopicConfig::new().durability(durability).min_insync(1);
        let topic = broker.create_topic("t", config).expect("it is made");
        let partition = partition(&topic, 0);
        let leader = partition.volume();
        send(&broker, &topic, 0..20).expect("it is sent");
        for volume in (1..=3).map(VolumeId::new).filter(|volume| *volume != leader) {
            partition.on(volume).expect("it is there").log.halt(Error::ReadOnly);
            let more = 20 * volume.get();
            let sent = send(&broker, &topic, 100 + more..110 + more);
            sent.expect("it is sent");
        }
        assert_eq!(partition.volume(), leader);
        assert_eq!(read(&broker, &topic).len(), 40);
    });
}

#[test]
fn a_store_of_one_volume_moves_to_another_one() {
    in_all_ways(|background, durability| {
        let disk = SimDisk::new();
        let broker = open(&disk, &["/a"], background);
        let config = TopicConfig::new().durability(durability).partitions(3);
        let topic = broker.create_topic("t", config).expect("it is made");
        send(&broker, &topic, 0..30).expect("it is sent");
        let before: Vec<Offset> = (0..3).map(|n| partition(&topic, n).high_watermark()).collect();
        let admin = broker.admin();
        admin.drain_volume("/a").expect_err("there is no other");
        admin.remove_volume("/a", true).expect_err("it is the last one");
        admin.add_volume("/b").expect("it is added");
        admin.add_volume("/b").expect_err("it is one already");
        send(&broker, &topic, 30..40).expect("it is sent");
        admin.drain_volume("/a").expect("it is drained");
        for (number, before) in (0..).zip(before) {
            let partition = partition(&topic, number);
            assert!(partition.high_watermark() >= before, "I4");
            assert_eq!(partition.replicas().count(), 1);
        }
        send(&broker, &topic, 40..50).expect("it is sent");
        admin.remove_volume("/a", false).expect("it is removed");
        send(&broker, &topic, 50..60).expect("it is sent");
        let count = |broker: &Broker| -> usize {
            let read = |number| {
                let reader = broker.reader("t").partition(number).build().expect("it is built");
                let records: Result<Vec<_>> = reader.collect();
                records.expect("it can be read").len()
            };
            (0..3_u32).map(read).sum()
        };
        assert_eq!(count(&broker), 60);
        let left = disk.files().into_iter().filter(|file| {
            file.starts_with("/a/topics") && file.extension().is_some_and(|end| end == "log")
        });
        assert_eq!(left.count(), 0, "what was moved is gone from there");
        broker.close().expect("it closes");
        let broker = open(&disk, &["/b"], background);
        assert!(broker.recovery().clean);
        assert_eq!(count(&broker), 60);
        assert_eq!(broker.admin().verify().expect("it reads").faults, []);
    });
}

#[test]
fn a_new_volume_takes_the_replicas_that_had_no_place() {
    in_all_ways(|background, durability| {
        let disk = SimDisk::new();
        let broker = open(&disk, &ALL, background);
        let config = TopicConfig::new().durability(durability);
        let topic = broker.create_topic("t", config).expect("it is made");
        send(&broker, &topic, 0..20).expect("it is sent");
        let partition = partition(&topic, 0);
        let follower = isr(&partition).pop().expect("there are three");
        let replica = partition.on(VolumeId::new(follower)).expect("it is there");
        let dir = broker.inner().member(replica.volume).expect("it is there").volume.dir.clone();
        replica.log.halt(Error::ReadOnly);
        send(&broker, &topic, 20..30).expect("it is sent");
        until(&partition, "it leaves", || isr(&partition).len() == 2);
        broker.admin().remove_volume(dir, false).expect("it has failed");
        assert_eq!(partition.replicas().count(), 2);
        broker.admin().add_volume("/d").expect("it is added");
        until(&partition, "the new one is in sync", || isr(&partition).len() == 3);
        send(&broker, &topic, 30..40).expect("it is sent");
        assert_equal(&partition);
        assert_eq!(read(&broker, &topic), (0..40).collect::<Vec<_>>());
    });
}

/// The leader's disk has no room, and with `spent` its volume has no reserve, which is to be filled
/// before anything is appended. What is sent then is sent by `send`.
fn the_leaders_disk_is_full(
    background: Background,
    spent: bool,
    send_to: fn(&Producer, &Topic, &[u8]),
) {
    let disks = [SimDisk::new(), SimDisk::new(), SimDisk::new()];
    let mut builder = Broker::builder().volumes((0..3).map(dir)).seed(7);
    builder.disk = Arc::new(Disks(disks.to_vec()));
    let broker = builder.background(background).open().expect("it opens");
    let topic = broker.create_topic("t", TopicConfig::new()).expect("it is made");
    send(&broker, &topic, 0..20).expect("it is sent");
    let partition = partition(&topic, 0);
    let full = partition.volume();
    let volume = &broker.inner().member(full).expect("it is there").volume;
    let disk = (0..3).find(|number| dir(*number) == volume.dir).expect("it is one of them");
    disks[disk].set_capacity(0);
    if spent {
        assert!(volume.reserve().spend());
    }
    let large = vec![7; 60_000];
    let producer = broker.producer().delivery_timeout(Duration::from_secs(20));
    let producer = producer.build().expect("it is built");
    for _ in 0..40 {
        send_to(&producer, &topic, &large);
    }
    assert_ne!(partition.volume(), full);
    until(&partition, "nobody waits for who has no room", || {
        !isr(&partition).contains(&full.get())
    });
    disks[disk].set_capacity(1 << 30);
    until(&partition, "it is back in the ISR", || isr(&partition).len() == 3);
    assert_equal(&partition);
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_to_one_that_has_room() {
    for background in BACKGROUNDS {
        for spent in [false, true] {
            the_leaders_disk_is_full(background, spent, |producer, topic, value| {
                producer.send(topic, Record::new(value)).expect("another one has room");
            });
        }
    }
}

/// 1. Only queued records are sent; 2. the disk of the leader is full; 3. they are tried again and
/// again, and nobody asks for another leader.
#[test]
fn a_leader_whose_disk_is_full_hands_over_for_queued_records_too() {
    for background in BACKGROUNDS {
        for spent in [false, true] {
            the_leaders_disk_is_full(background, spent, |producer, topic, value| {
                let queued = producer.enqueue(topic, Record::new(value)).expect("it is queued");
                queued.wait().expect("another one has room");
            });
        }
    }
}

#[test]
fn who_syncs_copies_to_nobody_that_is_not_in_sync() {
    let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
    let builder = builder(&disk, &ALL, Background::Manual).clock(clock.clone());
    let lag = Duration::from_secs(1);
    let broker = builder.replica_lag_max(lag).open().expect("it opens");
    let topic = broker.create_topic("t", TopicConfig::new()).expect("it is made");
    let partition = partition(&topic, 0);
    let producer = broker.inner().new_producer(None).expect("it is open");
    let append = || {
        let (record, acks) = ([Record::new("record")], crate::Acks::All);
        partition.begin(&producer, &record, Compression::None, acks).expect("appended");
    };
    let step = |volume: VolumeId, work| {
        let member = broker.inner().member(volume).expect("it is there");
        let queue = Arc::clone(member.queue.as_ref().expect("it has one"));
        while queue.step(work, broker.inner().controller().as_ref()) {}
    };
    let last = *partition.standing().expect("somebody leads").isr.last().expect("there are three");
    let all: Vec<VolumeId> = partition.replicas().map(|replica| replica.volume).collect();
    for volume in &all {
        // They are aligned.
        step(*volume, Work::Copy);
    }
    append();
    for volume in &all {
        step(*volume, Work::Sync);
    }
    let log = &partition.on(last).expect("it is there").log;
    assert_eq!((log.end_offset(), partition.high_watermark()), (Offset::new(1), Offset::new(1)));
    // One does nothing for too long.
    append();
    for volume in all.iter().filter(|volume| **volume != last) {
        step(*volume, Work::Sync);
    }
    clock.advance(lag * 2);
    broker.inner().oversee(true);
    assert_eq!(isr(&partition).len(), 2);
    append();
    step(last, Work::Sync);
    assert_eq!(log.end_offset(), Offset::new(1), "its flag is not set");
    step(last, Work::Copy);
    assert_eq!(log.end_offset(), Offset::new(3));
}

/// What happens between two calls of a follower's sync.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// The follower's other thread copies what there is; then more is appended.
    CopiedAndAppended,
    /// Another one leads, and the follower's other thread is told.
    HandedOver,
}

/// 1. Who syncs a follower is copying to it; 2. another one leads, and the thread that copies is
/// told to align with it; 3. it finds somebody copying, and leaves it to that one; 4. that one has
/// all that the old leader had, and ends. The new one has no more, and nobody says so.
#[test]
fn what_is_told_while_a_follower_is_synced_is_not_forgotten() {
    for meanwhile in [Meanwhile::CopiedAndAppended, Meanwhile::HandedOver] {
        for aligned in [true, false] {
            let mut calls = 0;
            while is_told_while_a_follower_is_synced(meanwhile, aligned, calls) {
                calls += 1;
            }
            assert!(calls > 0, "{meanwhile:?}, {aligned}: no call was made");
        }
    }
}

/// At the call of this number; false if there are not as many.
fn is_told_while_a_follower_is_synced(meanwhile: Meanwhile, aligned: bool, calls: u64) -> bool {
    let between = Between::new(&SimDisk::new());
    let mut builder = Broker::builder().volumes(ALL).seed(7).background(Background::Manual);
    builder.disk = Arc::new(between.clone());
    let broker = builder.open().expect("it opens");
    let topic = broker.create_topic("t", TopicConfig::new()).expect("it is made");
    let partition = partition(&topic, 0);
    let producer = Arc::new(broker.inner().new_producer(None).expect("it is open"));
    let append = move |partition: &Arc<Partition>| {
        let (record, acks) = ([Record::new("record")], crate::Acks::All);
        partition.begin(&producer, &record, Compression::None, acks).expect("appended");
    };
    let step = |broker: &Broker, volume: VolumeId, work| {
        let member = broker.inner().member(volume).expect("it is there");
        let queue = member.queue.as_ref().expect("it has one");
        queue.step(work, broker.inner().controller().as_ref())
    };
    let work_off = || {
        let one = |volume, work| step(&broker, volume, work);
        let all: Vec<VolumeId> = partition.replicas().map(|replica| replica.volume).collect();
        let some = |work| all.iter().filter(|volume| one(**volume, work)).count();
        while some(Work::Copy) + some(Work::Sync) > 0 {}
    };
    let hand_over = |broker: &Broker, partition: &Arc<Partition>| {
        let (one, from) = (std::slice::from_ref(partition), partition.volume());
        broker.inner().hand_over(&mut broker.inner().metadata().lock(), one, from);
    };
    append(&partition);
    work_off();
    append(&partition);
    // So that there is something to be synced already, and nothing to be cut off.
    partition
        .replicas()
        .for_each(|replica| while partition.follow(replica.volume) == Step::More {});
    if !aligned {
        hand_over(&broker, &partition);
    }
    let others = partition.replicas().map(|replica| replica.volume);
    let follower = others.filter(|it| *it != partition.volume()).last().expect("there are three");
    append(&partition);

    let (told, at, again) = (broker.clone(), Arc::clone(&partition), append.clone());
    between.after(calls, move || {
        if let Meanwhile::HandedOver = meanwhile {
            hand_over(&told, &at);
        }
        while step(&told, follower, Work::Copy) {}
        if let Meanwhile::CopiedAndAppended = meanwhile {
            again(&at);
        }
    });
    let before = between.calls();
    assert!(step(&broker, follower, Work::Sync));
    if between.calls() - before <= calls {
        return false;
    }
    work_off();
    let end = partition.log().end_offset();
    assert_eq!(partition.high_watermark(), end, "{meanwhile:?} at call {calls}, {aligned}");
    assert_equal(&partition);
    true
}

#[test]
fn beside_a_live_broker_what_is_committed_is_read_and_no_more() {
    let disk = SimDisk::new();
    let broker = open(&disk, &ALL, Background::Manual);
    let topic = broker.create_topic("t", TopicConfig::new()).expect("it is made");
    let partition = partition(&topic, 0);
    let producer = broker.inner().new_producer(None).expect("it is open");
    let step = |work| {
        for member in broker.inner().members().iter() {
            let queue = member.queue.as_ref().expect("it has one");
            while queue.step(work, broker.inner().controller().as_ref()) {}
        }
    };
    for value in 0..10_u32 {
        let value = value.to_le_bytes();
        let record = [Record::new(&value)];
        let acks = crate::Acks::All;
        partition.begin(&producer, &record, Compression::None, acks).expect("appended");
        step(Work::Copy);
        step(Work::Sync);
        step(Work::Copy);
    }
    assert_eq!(partition.high_watermark(), Offset::new(10));
    // One more is durable at the leader alone.
    let last = [Record::new("only here")];
    partition.begin(&producer, &last, Compression::None, crate::Acks::All).expect("appended");
    let log = partition.log();
    log.sync_to(log.end_offset()).expect("synced");
    for replica in partition.replicas() {
        replica.log.tell_durable();
    }
    let beside = |dirs: &[&str]| {
        let opened = builder(&disk, dirs, Background::Manual).read_only(true).open();
        let looks = opened.expect("it opens");
        let described = looks.admin().describe("t").expect("it is there").partitions.remove(0);
        let read = looks.reader("t").build().expect("it is built").collect::<Result<Vec<_>>>();
        let read = read.expect("it can be read").len() as u64;
        assert_eq!(read, described.high_watermark.get(), "{dirs:?}");
        assert_eq!(described.leader, Some(partition.volume()), "{dirs:?}");
        (read, described.replicas.len())
    };
    assert_eq!(beside(&ALL), (10, 3));
    // Without one of them only what batches say was synced everywhere is known.
    let leader = broker.inner().member(partition.volume()).expect("there").volume.dir.clone();
    let leader = leader.to_str().expect("text").to_owned();
    let other = ALL.into_iter().find(|dir| *dir != leader).expect("there is one");
    let (read, replicas) = beside(&[&leader, other]);
    assert!((1..=10).contains(&read), "{read}");
    assert_eq!(replicas, 2);
}
