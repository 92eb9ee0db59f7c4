//! Room that is made before an append needs it.
//!
//! Invariants
//!   1. Blocks are zeroed ahead where rounds of syncs are small, and nowhere else; also where room
//!      is kept for dedup keys.
//!   2. Zeros never come over a batch, however late they are written.
//!   3. A file of ordinary size grows in a few pieces, and the one after a busy one is whole from
//!      its beginning.
//!   4. What is made ahead takes no room from what is appended: where it does not fit, less is
//!      made.
//!   5. Pages are made present a little ahead of the tail: not behind it, and not far before it.

use std::sync::Arc;

use super::bench::{Setting, opening, read_all};
use super::sim::SimDisk;
use crate::config::{DedupWindow, Durability, Reads, ZEROED_AT_ONCE, ZEROED_BYTES};
use crate::error::Error;
use crate::format::{Record, dedup_bytes};
use crate::id::LeaderEpoch;
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::recover::{Entrance, Opening};

const SEGMENT_BYTES: u64 = 64 << 20;

fn open(disk: &SimDisk, durability: Durability) -> Arc<Log> {
    open_with(disk, durability, DedupWindow::Off)
}

fn open_with(disk: &SimDisk, durability: Durability, dedup: DedupWindow) -> Arc<Log> {
    disk.write_file("topics/.made", b"").expect("it can be made");
    let opening = opening(disk, Setting { durability, ..Setting::default() }, 1, Mode::ReadWrite);
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, dedup, ..opening.options };
    let (log, _) = Log::open(Opening { options, ..opening }, Entrance::Unclean).expect("it opens");
    log.lead(LeaderEpoch::new(1));
    log
}

/// Appends and syncs so often, and looks ahead like the thread that does.
fn append(log: &Log, times: usize, bytes: usize) {
    let value = vec![7; bytes];
    for _ in 0..times {
        let appended = log.append(&[Record::new(&value)]).expect("nothing fails");
        log.sync_to(appended.end).expect("nothing fails");
        log.look_ahead_if_due();
    }
}

/// How long the active file is, and how far appends may go in it.
fn reach(log: &Log) -> (u64, u64) {
    let writer = log.writer.lock();
    let reach = writer.active.as_ref().expect("there is one").reach;
    (reach.length, reach.allocated)
}

#[test]
fn blocks_are_zeroed_ahead_where_rounds_are_small() {
    let disk = SimDisk::new();
    let log = open(&disk, Durability::Fsync);
    append(&log, 300, 4_000);
    let (length, allocated) = reach(&log);
    assert!(length > allocated, "the rest is zeroed when its turn comes: {allocated} of {length}");
    append(&log, 40, 200_000);
    let (length, allocated) = reach(&log);
    assert_eq!(length, allocated, "a large round writes as much as zeros would");
    append(&log, 4_000, 4_000);
    let (length, allocated) = reach(&log);
    assert!(length > allocated, "and small ones again: {allocated} of {length}");

    let os = open(&SimDisk::new(), Durability::Os);
    append(&os, 300, 4_000);
    let (length, allocated) = reach(&os);
    assert_eq!(length, allocated, "nobody waits for a sync");
}

#[test]
fn blocks_are_zeroed_ahead_beside_room_for_dedup_keys() {
    let log = open_with(&SimDisk::new(), Durability::Fsync, DedupWindow::Retained);
    let ahead_max = ZEROED_BYTES + ZEROED_BYTES / 2 + ZEROED_AT_ONCE as u64;
    for first in (0..40_000_u64).step_by(100) {
        let keys: Vec<_> = (first..first + 100).map(u64::to_le_bytes).collect();
        let records: Vec<_> = keys.iter().map(|key| Record::new(b"").dedup_key(key)).collect();
        let appended = log.append(&records).expect("nothing fails");
        log.sync_to(appended.end).expect("nothing fails");
        log.look_ahead_if_due();
        let (length, allocated) = reach(&log);
        let segment = log.segments().last().cloned().expect("there is one");
        let (position, keys) = (segment.end_position(), dedup_bytes(appended.end.get()));
        assert!(position + keys <= length, "their room is reserved: {position} of {length}");
        assert!(allocated - position <= ahead_max, "and not given: {position} of {allocated}");
    }
}

#[test]
fn zeros_never_come_over_a_batch() {
    let log = open(&SimDisk::new(), Durability::Fsync);
    append(&log, 1, 4_000);
    while reach(&log).0 == reach(&log).1 {
        append(&log, 1, 4_000);
    }
    // As if somebody had planned to zero this, and was late.
    let (to, from) = reach(&log);
    assert!(to > from);
    let segment = log.segments().last().cloned().expect("there is one");
    let value = vec![8; 4_000];
    while segment.end_position() < from + 20_000 {
        log.append(&[Record::new(&value)]).expect("nothing fails");
    }
    log.zero_ahead(&segment, from, to).expect("nothing fails");
    log.sync_to(log.end_offset()).expect("nothing fails");
    let found = read_all(&log, Reads::Mapped).expect("nothing is damaged");
    assert_eq!(found.records.len() as u64, log.end_offset().get());
    log.close().expect("nothing fails");
}

#[test]
fn a_file_grows_in_a_few_pieces() {
    let disk = SimDisk::new();
    let log = open(&disk, Durability::Fsync);
    let mut lengths = Vec::new();
    for _ in 0..6_000 {
        append(&log, 1, 4_000);
        lengths.push(reach(&log).0);
    }
    assert_eq!(log.segments().len(), 1);
    lengths.dedup();
    assert!(lengths.len() <= 8, "{lengths:?}");
}

#[test]
fn pages_are_made_present_ahead_of_the_tail_and_not_far() {
    let log = open(&SimDisk::new(), Durability::Os);
    let mut farthest = 0;
    // Small batches are stored through the mapping. Large ones are written, and leave pages behind
    // that nobody stores to.
    for (bytes, mapped) in [(10_000, true), (300_000, false), (10_000, true)] {
        for _ in 0..(18 << 20) / bytes {
            append(&log, 1, bytes);
            let writer = log.writer.lock();
            let active = writer.active.as_ref().expect("there is one");
            if mapped && active.reach.allocated > active.position {
                assert!(active.reach.populated > active.position, "{:?}", active.reach);
            }
            farthest = farthest.max(active.reach.populated.saturating_sub(active.position));
        }
    }
    assert_eq!(log.segments().len(), 1);
    assert!((4 << 20..=12 << 20).contains(&farthest), "{farthest} bytes ahead");
}

#[test]
fn pages_behind_the_tail_are_left_alone() {
    let log = open(&SimDisk::new(), Durability::Os);
    // Written, not stored, and nobody looks ahead meanwhile.
    let value = vec![7; 300_000];
    for _ in 0..60 {
        log.append(&[Record::new(&value)]).expect("nothing fails");
    }
    let writer = log.writer.lock();
    let active = writer.active.as_ref().expect("there is one");
    assert!(active.reach.populated < active.position, "{:?}", active.reach);
    assert!(active.populate_from() + 4096 > active.position, "{:?}", active.reach);
}

#[test]
fn the_file_after_a_busy_one_is_whole_from_its_beginning() {
    let log = open(&SimDisk::new(), Durability::Os);
    append(&log, 900, 60_000);
    let ahead = log.writer.lock().prepared.as_ref().expect("the next one is prepared").reach;
    assert_eq!(ahead.length, ahead.data_limit, "it does not grow while the full one is sealed");
    assert!(ahead.populated <= 9 << 20, "{ahead:?}");
    while log.segments().len() == 1 {
        append(&log, 1, 60_000);
    }
    assert_eq!(reach(&log).0, ahead.length);
}

/// Appends until the disk is full, and says how many bytes went in.
fn fill(log: &Log, bytes: usize) -> u64 {
    let value = vec![7; bytes];
    let mut filled = 0;
    loop {
        match log.append(&[Record::new(&value)]) {
            Ok(_) => filled += bytes as u64,
            Err(Error::StorageFull(_)) => return filled,
            Err(error) => panic!("{error}"),
        }
        log.look_ahead_if_due();
    }
}

#[test]
fn room_that_is_there_is_used() {
    // Full while the first file grows, while the second is prepared or begun, and later.
    for mib in [24, 40, 63, 80, 112, 130, 150] {
        for durability in [Durability::Os, Durability::Fsync] {
            let disk = SimDisk::new();
            disk.set_capacity(mib << 20);
            let log = open(&disk, durability);
            let filled = fill(&log, 60_000);
            assert!(filled + (1 << 20) > mib << 20, "{} KiB of {mib} MiB", filled >> 10);
        }
    }
}

#[test]
fn zeros_never_come_over_what_a_file_begins_with() {
    use super::sim::{Call, Fault, FaultKind, HowLong};
    use crate::config::Compression;
    use crate::log::producers::opening_section;
    use crate::log::writer::Origin;
    let disk = SimDisk::new();
    let log = open(&disk, Durability::Fsync);
    log.set_limits(512 << 10, crate::log::retain::Keep::ALL);
    let live: Vec<_> = (0..2_500).map(|_| log.producers.make().unwrap()).collect();
    let send = |producer, bytes: usize| {
        let value = vec![b'v'; bytes];
        let records = [Record::new(&value)];
        let appended = log.append_of(Origin::Producer(producer), &records, Compression::None)?;
        log.sync_to(appended.end)
    };
    for producer in &live {
        send(producer, 1).unwrap();
    }
    let state = |log: &Log| {
        let writer = log.writer.lock();
        let active = writer.active.as_ref().unwrap();
        (active.position, active.reach.data_limit, writer.prepared.is_some())
    };
    while state(&log).0 + 9_000 <= state(&log).1 {
        send(&live[0], 8_000).unwrap();
    }
    // A disk that was full lets files grow by little.
    log.writer.lock().growth = crate::config::GROWTH_BYTES_MIN;
    log.look_ahead();
    assert!(state(&log).2, "the next one is prepared");
    let (call, what) = (Some(Call::Allocate), FaultKind::Enospc);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Forever });
    let full = send(&live[0], 12_000);
    assert!(matches!(full, Err(crate::error::Error::StorageFull(_))), "{full:?}");
    assert_eq!(log.segments().len(), 2, "it was begun");
    disk.disarm();
    log.look_ahead();
    let segment = log.segments().last().cloned().unwrap();
    let file = segment.file(log.disk.as_ref()).unwrap();
    let first = segment.first_position;
    let opening = opening_section(file.as_ref(), &log.place.identity, first);
    assert_eq!(opening.end_position, first, "it is damaged");
    assert_eq!(opening.producers.len(), 2_500);
}
