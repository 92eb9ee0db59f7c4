//! Followers of real logs, on a simulated disk.
//!
//! Invariants
//!   1. A follower that was aligned and has copied everything holds what its leader holds, byte for
//!      byte, and knows the same of epochs and producers (I5).
//!   2. Nothing is cut off that the leader has too.

use std::sync::Arc;

use crate::config::{Compression, DedupWindow, Durability, ManualClock, Reads};
use crate::format::testing::Random;
use crate::format::{Identity, Record};
use crate::fs::sim::{Loss, SimDisk};
use crate::id::{Incarnation, LeaderEpoch, Offset, PartitionId, TopicId};
use crate::log::{
    Entrance, Keep, LiveProducers, Log, LogOptions, Mode, Opening, Origin, Place, ReadCursor,
};
use crate::partition::divergence::Alignment;
use crate::partition::follower::{Extent, Fetched, Source, align};

/// What a fetch takes at most.
const BYTES_MAX: usize = 3_000;

fn open(disk: &SimDisk, volume: usize, incarnation: u64) -> Arc<Log> {
    open_of(disk, volume, incarnation, &Arc::default())
}

/// A log of the broker that has these producers.
fn open_of(
    disk: &SimDisk,
    volume: usize,
    incarnation: u64,
    producers: &Arc<LiveProducers>,
) -> Arc<Log> {
    let topics = format!("{volume}/topics");
    disk.write_file(format!("{topics}/.made"), b"").expect("it can be made");
    let opening = Opening {
        place: Arc::new(Place {
            topic: Arc::from("t"),
            identity: Identity::new(TopicId::new(1), 7, PartitionId::new(0)),
            dir: format!("{topics}/t-1/0").into(),
        }),
        disk: Arc::new(disk.clone()),
        options: LogOptions {
            segment_bytes: 64 << 10,
            durability: Durability::Os,
            allocates: true,
            coherent: true,
            dedup: DedupWindow::Off,
            incarnation: Incarnation::new(incarnation),
            keep: Keep::ALL,
        },
        mode: Mode::ReadWrite,
        clock: Arc::new(ManualClock::new(1_000)),
        housekeeper: None,
        handles: Arc::default(),
        producers: Arc::clone(producers),
    };
    Log::open(opening, Entrance::Unclean).expect("it opens").0
}

/// Takes over some of what the leader has; false if there is nothing.
fn copy(source: &mut Source, leader: &Log, follower: &Log) -> bool {
    let fetched = source.fetch(leader, follower.end_offset(), BYTES_MAX).expect("nothing fails");
    let Fetched::Batches(chunk) = fetched else { return false };
    for batch in chunk.batches() {
        follower.append_copied(batch).expect("nothing fails");
    }
    let start = leader.start_offset();
    if start > follower.start_offset() {
        follower.trim_to(start).expect("nothing fails");
    }
    true
}

/// Appends so many records in an epoch, each in a batch of its own.
fn append(log: &Log, epoch: u32, records: u64) {
    log.lead(LeaderEpoch::new(epoch));
    for _ in 0..records {
        let value = format!("{epoch} {} {}", log.end_offset(), "v".repeat(700));
        log.append(&[Record::new(&value)]).expect("nothing fails");
    }
}

/// A log whose epochs begin where they are said to, up to an end.
fn written(disk: &SimDisk, volume: usize, (epochs, end): (&[(u32, u64)], u64)) -> Arc<Log> {
    let log = open(disk, volume, 1);
    let ends = epochs.iter().skip(1).map(|(_, start)| *start).chain([end]);
    for ((epoch, start), end) in epochs.iter().zip(ends) {
        append(&log, *epoch, end - start);
    }
    log
}

fn follow(leader: &Log, follower: &Log) -> Alignment {
    let alignment = align(leader, follower).expect("nothing fails");
    let mut source = Source::new();
    while copy(&mut source, leader, follower) {}
    alignment
}

/// Every batch, as it is stored.
fn batches(log: &Log) -> Vec<Vec<u8>> {
    let mut cursor = ReadCursor::stored_at(log.start_offset());
    let (mut batches, end) = (Vec::new(), log.end_offset());
    while let Some(chunk) = log.read(&mut cursor, end, 1 << 20, Reads::Mapped).expect("good") {
        batches.extend(chunk.batches().map(<[u8]>::to_vec));
    }
    batches
}

fn assert_same(leader: &Log, follower: &Log) {
    assert_eq!(batches(leader), batches(follower));
    assert_eq!(leader.start_offset(), follower.start_offset());
    let [its, ours] = [leader, follower].map(Extent::of);
    for offset in (its.start.get()..its.end.get()).map(Offset::new) {
        assert_eq!(its.history().epoch_of(offset), ours.history().epoch_of(offset));
    }
}

#[test]
fn a_follower_holds_what_its_leader_holds_however_the_two_lay() {
    use Alignment::{CutTo, StartOverAt};

    type Side<'a> = (&'a [(u32, u64)], u64);
    let cut = |to| CutTo(Offset::new(to));
    let ways: [(Side<'_>, Side<'_>, Alignment); 9] = [
        ((&[(1, 0)], 10), (&[(1, 0)], 6), cut(6)),
        ((&[(1, 0), (2, 6)], 10), (&[(1, 0)], 4), cut(4)),
        ((&[(1, 0)], 6), (&[(1, 0)], 10), cut(6)),
        ((&[(1, 0)], 6), (&[(1, 0), (2, 6)], 10), cut(6)),
        ((&[(1, 0), (3, 6)], 10), (&[(1, 0), (2, 6)], 10), cut(6)),
        ((&[(1, 0), (3, 8)], 8), (&[(1, 0), (2, 6)], 10), cut(6)),
        ((&[(2, 0)], 10), (&[(1, 0)], 10), StartOverAt(Offset::ZERO)),
        // In the middle of a file, after several.
        ((&[(1, 0), (4, 120)], 200), (&[(1, 0), (2, 100), (3, 150)], 180), cut(100)),
        ((&[(1, 0)], 150), (&[], 0), cut(0)),
    ];
    for (number, (leader, follower, expected)) in ways.into_iter().enumerate() {
        let disk = SimDisk::new();
        let [leader, follower] = [written(&disk, 1, leader), written(&disk, 2, follower)];
        let alignment = follow(&leader, &follower);
        assert_eq!(alignment, expected, "{number}");
        assert_same(&leader, &follower);
        // As it lies on the disk, too.
        let end = leader.end_offset();
        follower.sync_to(end).expect("nothing fails");
        disk.power_cycle(&Loss::All, || drop((leader, follower)));
        assert_eq!(open(&disk, 2, 2).end_offset(), end, "{number}");
    }
}

#[test]
fn a_follower_that_ends_below_the_leaders_start_starts_over_with_its_producers() {
    let disk = SimDisk::new();
    let producers = Arc::default();
    let [leader, follower] = [1, 2].map(|volume| open_of(&disk, volume, 1, &producers));
    let producer = producers.make().expect("there are few");
    let numbered = [Record::new("numbered"), Record::new("too")];
    leader
        .append_of(Origin::Producer(&producer), &numbered, Compression::None)
        .expect("nothing fails");
    append(&leader, 1, 3);
    follow(&leader, &follower);
    assert_eq!(follower.last_sequence(producer.id), leader.last_sequence(producer.id));
    follower.truncate_to(Offset::ZERO).expect("nothing fails");
    assert_eq!(follower.last_sequence(producer.id), None);
    append(&leader, 1, 300);
    leader.trim_to(Offset::new(200)).expect("nothing fails");
    let mut source = Source::new();
    let fetched = source.fetch(&leader, follower.end_offset(), BYTES_MAX).expect("nothing fails");
    assert!(matches!(fetched, Fetched::LeftBehind), "{fetched:?}");
    let alignment = follow(&leader, &follower);
    assert_eq!(alignment, Alignment::StartOverAt(Offset::new(200)));
    assert_same(&leader, &follower);
    let sequence = |log: &Log| log.last_sequence(producer.id).map(|(sequence, _)| sequence);
    assert_eq!((sequence(&leader), sequence(&follower)), (Some(1), Some(1)));
    // And where it only starts lower.
    append(&leader, 1, 10);
    leader.trim_to(Offset::new(250)).expect("nothing fails");
    assert_eq!(follow(&leader, &follower), Alignment::CutTo(Offset::new(305)));
    assert_same(&leader, &follower);
}

/// Three logs, of which now one and now another leads, whatever it holds.
#[test]
fn three_logs_agree_with_whoever_leads_last() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new();
        let logs: Vec<_> = (0..3).map(|volume| open(&disk, volume, 1)).collect();
        let mut leader = 0;
        for epoch in 1..12 {
            leader = random.below(3);
            append(&logs[leader], epoch, random.below_u64(12));
            for follower in (0..3).filter(|other| *other != leader) {
                if random.chance(3) {
                    continue;
                }
                let before = batches(&logs[follower]);
                let its = batches(&logs[leader]);
                let common = its.iter().zip(&before).take_while(|(a, b)| a == b).count() as u64;
                let alignment = align(&logs[leader], &logs[follower]).expect("nothing fails");
                let kept = match alignment {
                    Alignment::CutTo(at) => at.get(),
                    Alignment::StartOverAt(_) => 0,
                };
                assert_eq!(kept, common, "seed {seed}: nothing is cut that the leader has");
                let mut source = Source::new();
                for _ in 0..random.below(6) {
                    copy(&mut source, &logs[leader], &logs[follower]);
                }
            }
        }
        for follower in (0..3).filter(|other| *other != leader) {
            follow(&logs[leader], &logs[follower]);
            assert_same(&logs[leader], &logs[follower]);
        }
    }
}

#[test]
fn a_follower_that_starts_over_takes_what_is_of_an_epoch_before_its_own() {
    let disk = SimDisk::new();
    let leader = written(&disk, 0, (&[(1, 0), (3, 4)], 9));
    let follower = written(&disk, 1, (&[(1, 0), (4, 4)], 6));
    let producers = leader.producers_at(Offset::new(6)).expect("nothing fails");
    follower.reset_to(Offset::new(6), producers).expect("it begins anew");
    let mut source = Source::new();
    while copy(&mut source, &leader, &follower) {}
    assert_eq!(follower.end_offset(), leader.end_offset());
}
