//! Copies that catch up, on a simulated disk.
//!
//! Invariants
//! 1. While the flag is set, what a copy claims beyond its slots is no evidence: what a crash took
//!      is a torn tail, not damage.
//!   2. Once it is cleared everything is on the medium, and what is bad below that is damage.
//!   3. The flag is kept over files, cuts, closes and crashes.

use std::sync::Arc;

use super::bench::{Setting, opening, read_all};
use super::sim::{Loss, SimDisk};
use crate::config::{Durability, FETCH_BYTES, Reads};
use crate::format::Record;
use crate::id::{Incarnation, LeaderEpoch, Offset};
use crate::log::core::{Log, Mode};
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, LogReport};

fn open(disk: &SimDisk, incarnation: u64, entrance: Entrance) -> (Arc<Log>, LogReport) {
    let setting = Setting { durability: Durability::Fsync, ..Setting::default() };
    let (log, report) = Log::open(opening(disk, setting, incarnation, Mode::ReadWrite), entrance)
        .expect("it opens");
    log.lead(LeaderEpoch::new(1));
    (log, report)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.write_file("topics/.made", b"").expect("it can be made");
    disk
}

/// Batches that each say that all before them are synced, over several files.
fn batches() -> Vec<Vec<u8>> {
    let log = open(&disk(), 1, Entrance::Unclean).0;
    for number in 0..60 {
        let value = vec![number; 2_000];
        let appended = log.append(&[Record::new(&value)]).expect("nothing fails");
        log.sync_to(appended.end).expect("nothing fails");
    }
    assert!(log.segments().len() > 3);
    let mut cursor = ReadCursor::stored_at(Offset::ZERO);
    let mut batches = Vec::new();
    let end = log.end_offset();
    while let Some(chunk) = log.read(&mut cursor, end, FETCH_BYTES, Reads::Mapped).expect("good") {
        batches.extend(chunk.batches().map(<[u8]>::to_vec));
    }
    batches
}

fn copy(log: &Log, batches: &[Vec<u8>]) {
    for batch in batches {
        log.append_copied(batch).expect("it is good, and the next one");
    }
}

#[test]
fn what_a_copy_claims_while_it_catches_up_is_no_evidence() {
    let batches = batches();
    let mut torn = 0;
    for seed in 0..200 {
        let disk = disk();
        let (log, _) = open(&disk, 1, Entrance::Unclean);
        copy(&log, &batches[..5]);
        log.sync_to(log.end_offset()).expect("nothing fails");
        log.begin_catching_up().expect("nothing fails");
        copy(&log, &batches[5..14]);
        disk.power_cycle(&Loss::Random(seed), || drop(log));
        let (log, report) = open(&disk, 2, Entrance::Unclean);
        assert_eq!(report.damage, [], "seed {seed}");
        assert!(log.is_catching_up());
        let end = log.end_offset().get();
        assert!((5..=14).contains(&end), "seed {seed}: ends at {end}");
        torn += u64::from(end < 14);
        let found = read_all(&log, Reads::Mapped).expect("nothing is damaged");
        assert_eq!(found.records.len() as u64, end);
        let rest = usize::try_from(end).expect("few");
        copy(&log, &batches[rest..]);
        log.end_catching_up().expect("nothing fails");
        disk.power_cycle(&Loss::All, || drop(log));
        let (log, report) = open(&disk, 3, Entrance::Unclean);
        assert!(report.damage.is_empty() && !log.is_catching_up());
        assert_eq!(log.end_offset().get(), batches.len() as u64, "seed {seed}");
    }
    assert!(torn > 20, "a crash took something {torn} times");
}

/// 1. The flag is cleared; 2. the power is cut before what was copied is on the medium.
#[test]
fn the_flag_goes_after_what_was_copied_is_synced() {
    let batches = batches();
    let mut ended = 0;
    for (calls, seed) in (1..12).flat_map(|calls| (0..20).map(move |seed| (calls, seed))) {
        let disk = disk();
        let (log, _) = open(&disk, 1, Entrance::Unclean);
        log.begin_catching_up().expect("nothing fails");
        copy(&log, &batches[..9]);
        disk.kill_after(calls);
        ended += usize::from(log.end_catching_up().is_ok());
        disk.power_cycle(&Loss::Random(seed), || drop(log));
        let (log, report) = open(&disk, 2, Entrance::Unclean);
        assert_eq!(report.damage, [], "{calls} calls, seed {seed}");
        assert!(log.is_catching_up() || log.end_offset().get() == 9);
    }
    assert!((20..200).contains(&ended), "{ended}");
}

#[test]
fn once_it_has_caught_up_what_is_bad_is_damage() {
    let batches = batches();
    let disk = disk();
    let (log, _) = open(&disk, 1, Entrance::Unclean);
    log.begin_catching_up().expect("nothing fails");
    copy(&log, &batches[..8]);
    log.end_catching_up().expect("nothing fails");
    let (file, last) = {
        let newest = log.segments().last().cloned().expect("there is one");
        (newest.path.clone(), newest.end_position() - 100)
    };
    disk.power_cycle(&Loss::All, || drop(log));
    disk.flip_bit(&file, last, 3).expect("it can be flipped");
    let (log, report) = open(&disk, 2, Entrance::Unclean);
    assert_eq!((report.damage.len(), log.end_offset().get()), (1, 8));
}

#[test]
fn the_flag_is_kept_until_it_is_cleared() {
    let batches = batches();
    let disk = disk();
    let (log, _) = open(&disk, 1, Entrance::Unclean);
    // Before there is a file.
    log.begin_catching_up().expect("nothing fails");
    copy(&log, &batches[..40]);
    assert!(log.segments().len() > 2);
    log.close().expect("it closes");
    drop(log);
    let (log, report) = open(&disk, 2, Entrance::Clean { since: Incarnation::new(1) });
    assert!(log.is_catching_up() && !report.mark_lost);
    log.truncate_to(Offset::new(30)).expect("nothing fails");
    disk.power_cycle(&Loss::All, || drop(log));
    let (log, _) = open(&disk, 3, Entrance::Unclean);
    assert!(log.is_catching_up());
    assert_eq!(log.end_offset().get(), 30);
    log.end_catching_up().expect("nothing fails");
    log.close().expect("it closes");
    drop(log);
    let (log, report) = open(&disk, 4, Entrance::Clean { since: Incarnation::new(3) });
    assert!(!log.is_catching_up() && !report.mark_lost);
    // Set and cleared in a file that a clean close ended, which stays that.
    log.begin_catching_up().expect("nothing fails");
    log.close().expect("it closes");
    drop(log);
    let (log, report) = open(&disk, 5, Entrance::Clean { since: Incarnation::new(3) });
    assert!(log.is_catching_up() && !report.mark_lost);
}
