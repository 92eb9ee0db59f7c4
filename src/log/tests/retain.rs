//! What retention deletes, and what it does not.
//!
//! Invariants
//!   1. By age a sealed segment goes once its newest append time lies more than the retention back,
//!      not before; by size while the log without it holds enough. In order, and never the newest.
//!   2. A log at rest is rolled when its first append is old enough, and then goes too.
//!   3. Ages are told by append times: a clock that goes back deletes nothing.
//!   4. A file that cannot be removed is told, costs nothing, and is tried again.
//!   5. Views stay good; a time is found as if what is deleted had never been.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::bench::{Bench, History, Setting, opening, read_all};
use super::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use crate::config::{Clock, Durability, FETCH_BYTES, ManualClock, Reads};
use crate::error::Error;
use crate::format::Record;
use crate::fs::Disk;
use crate::id::{LeaderEpoch, Offset};
use crate::log::backup::BackedUp;
use crate::log::core::{Log, Mode};
use crate::log::housekeep::Next;
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening};
use crate::log::retain::Keep;

const HOUR: Duration = Duration::from_hours(1);

fn by_age(retention: Duration) -> Keep {
    Keep { retention: Some(retention), ..Keep::ALL }
}

fn by_size(bytes: u64) -> Keep {
    Keep { retention_bytes: Some(bytes), ..Keep::ALL }
}

/// A log with a clock of its own.
struct Aging {
    disk: SimDisk,
    clock: ManualClock,
    log: Arc<Log>,
}

impl Aging {
    fn new(keep: Keep) -> Self {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let clock = ManualClock::new(1_000_000);
        let log = open(&disk, &clock, keep, 1);
        Self { disk, clock, log }
    }

    /// Appends a batch that fills most of a segment.
    fn append(&self) {
        let value = vec![7; 1_800];
        self.append_batch(&[Record::new(&value)]);
    }

    fn append_batch(&self, records: &[Record<'_>]) {
        let appended = self.log.append(records).expect("nothing fails");
        self.log.sync_to(appended.end).expect("nothing fails");
        self.housekeep();
    }

    fn housekeep(&self) {
        let now = u64::try_from(self.clock.now_ms()).expect("it is after 1970");
        self.log.housekeep_all(Duration::from_millis(now)).1.expect("nothing fails");
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.housekeep();
    }

    fn start(&self) -> u64 {
        self.log.start_offset().get()
    }

    /// The files of segments.
    fn files(&self) -> Vec<String> {
        let all = self.disk.files().into_iter().map(|path| path.display().to_string());
        all.filter(|path| path.contains("/0/") && !path.ends_with(".prepared")).collect()
    }
}

fn open(disk: &SimDisk, clock: &ManualClock, keep: Keep, incarnation: u64) -> Arc<Log> {
    let setting = Setting { keep, ..Setting::default() };
    let opening = opening(disk, setting, incarnation, Mode::ReadWrite);
    let opening = Opening { clock: Arc::new(clock.clone()), ..opening };
    let entrance = if incarnation > 1 {
        Entrance::Clean { since: crate::id::Incarnation::new(1) }
    } else {
        Entrance::Unclean
    };
    let (log, report) = Log::open(opening, entrance).expect("it opens");
    assert!(!report.mark_lost, "a log that was closed says so");
    log.lead(LeaderEpoch::new(1));
    log
}

#[test]
fn by_age_a_segment_goes_once_its_newest_record_is_older_than_the_retention() {
    let aging = Aging::new(by_age(HOUR));
    // Two batches a segment; a batch every ten minutes.
    for _ in 0..6 {
        aging.append();
        aging.clock.advance(HOUR / 6);
    }
    let bases: Vec<u64> = aging.log.segments().iter().map(|s| s.base.get()).collect();
    assert_eq!(bases, [0, 2, 4]);
    // It is an hour since the first append. The newest record of the first segment is 50 minutes
    // old.
    aging.housekeep();
    assert_eq!(aging.start(), 0);
    aging.pass(HOUR / 6);
    assert_eq!(aging.start(), 0, "exactly as old as the retention is not older");
    aging.pass(Duration::from_millis(1));
    assert_eq!(aging.start(), 2);
    let refused =
        aging.log.read(&mut ReadCursor::at(Offset::ZERO), Offset::new(6), 1, Reads::Mapped);
    assert!(matches!(refused, Err(Error::OffsetOutOfRange(_))), "{refused:?}");
    let found = read_all(&aging.log, Reads::Mapped).expect("nothing is damaged");
    assert_eq!((found.start, found.records.len()), (2, 4));
}

#[test]
fn a_log_at_rest_is_emptied_too_and_then_costs_nothing() {
    let aging = Aging::new(by_age(HOUR));
    assert_eq!(aging.log.retention_due(), None, "an empty log has nothing that ages");
    aging.append_batch(&[Record::new("a")]);
    aging.clock.advance(HOUR / 2);
    aging.append_batch(&[Record::new("b")]);
    aging.pass(HOUR / 2 + Duration::from_millis(1));
    assert_eq!(aging.log.segments().len(), 2, "the first record is old: rolled");
    assert_eq!(aging.start(), 0, "the second is not");
    aging.pass(HOUR / 2);
    assert_eq!(aging.start(), 2);
    assert_eq!(aging.log.end_offset().get(), 2);
    assert_eq!(aging.log.retention_due(), None, "nothing is left that ages");
    // The newest seal stays until there is a later one.
    let sealed = aging.files();
    for _ in 0..4 {
        aging.append();
    }
    assert!(!aging.files().contains(&sealed[0]), "{sealed:?} is still there");
}

#[test]
fn where_nothing_is_deleted_nothing_is_rolled_by_age() {
    let aging = Aging::new(Keep { segment_age: HOUR, ..Keep::ALL });
    aging.append_batch(&[Record::new("a")]);
    aging.pass(HOUR * 10_000);
    assert_eq!(aging.log.segments().len(), 1);
    assert_eq!(aging.log.retention_due(), None);
}

#[test]
fn a_segment_is_rolled_at_its_age_so_that_it_can_go_by_size() {
    let aging = Aging::new(Keep { segment_age: HOUR, ..by_size(0) });
    aging.append_batch(&[Record::new("a")]);
    aging.pass(HOUR);
    assert_eq!(aging.start(), 0);
    aging.pass(Duration::from_millis(1));
    assert_eq!(aging.start(), 1);
}

#[test]
fn by_size_the_oldest_goes_while_the_others_hold_enough() {
    // What a log of so many segments holds, the newest one with one batch.
    let full = {
        let aging = Aging::new(Keep::ALL);
        (0..7).for_each(|_| aging.append());
        let sizes: Vec<u64> =
            aging.log.segments().iter().map(|s| s.end_position() - s.first_position).collect();
        assert_eq!(sizes.len(), 4);
        sizes
    };
    for kept in 0..4 {
        let held: u64 = full[kept..].iter().sum();
        for (bytes, start) in [(held, kept), (held + 1, kept.saturating_sub(1))] {
            let aging = Aging::new(by_size(bytes));
            (0..7).for_each(|_| aging.append());
            assert_eq!(aging.start(), 2 * start as u64, "{bytes} bytes of {full:?}");
        }
    }
}

#[test]
fn a_clock_that_goes_back_deletes_nothing() {
    let aging = Aging::new(by_age(HOUR));
    // A log that was written an hour and a day from now, as this clock will see it.
    aging.clock.advance(HOUR * 25);
    aging.append();
    let back = ManualClock::new(1_000_000);
    aging.log.close().expect("nothing fails");
    let log = open(&aging.disk, &back, by_age(HOUR), 2);
    let aging = Aging { log, clock: back, disk: aging.disk.clone() };
    for _ in 0..4 {
        aging.append();
        aging.pass(HOUR * 6);
    }
    assert_eq!(aging.start(), 0, "no append time is more than an hour back");
    // All were given the first one's append time.
    aging.pass(HOUR * 2 + Duration::from_millis(1));
    assert_eq!(aging.start(), 5);
}

#[test]
fn what_was_due_before_a_close_is_done_after_the_open() {
    let aging = Aging::new(by_age(HOUR));
    for _ in 0..3 {
        aging.append();
    }
    aging.log.close().expect("nothing fails");
    aging.clock.advance(HOUR * 2);
    let log = open(&aging.disk, &aging.clock, by_age(HOUR), 2);
    assert_eq!(log.retention_due(), Some(i64::MIN));
    log.retain_if_due().expect("nothing fails");
    assert_eq!(log.start_offset(), log.end_offset());
    log.close().expect("nothing fails");
    let log = open(&aging.disk, &aging.clock, by_age(HOUR), 3);
    assert_eq!(log.start_offset().get(), 3);
    log.retain_if_due().expect("nothing fails");
    assert_eq!(log.retention_due(), None);
}

#[test]
fn what_was_handed_out_stays_readable() {
    let aging = Aging::new(by_size(0));
    aging.append();
    let mut cursor = ReadCursor::at(Offset::ZERO);
    let upto = aging.log.end_offset();
    let read = aging.log.read(&mut cursor, upto, FETCH_BYTES, Reads::Mapped);
    let chunk = read.expect("nothing is damaged").expect("there is one");
    (0..5).for_each(|_| aging.append());
    assert!(aging.start() > 0);
    let first = chunk.records().next().expect("there is one");
    assert_eq!(first.record.value, Some(&vec![7; 1_800][..]));
}

/// A busy log has always another segment to be sealed: were it looked at only after the last one,
/// nothing of it would ever go.
#[test]
fn what_is_too_much_goes_after_each_seal() {
    let starts = (1..).map(|at| {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let setting =
            Setting { durability: Durability::Os, keep: by_size(0), ..Setting::default() };
        let opening = opening(&disk, setting, 1, Mode::ReadWrite);
        let (log, _) = Log::open(opening, Entrance::Unclean).expect("it opens");
        log.lead(LeaderEpoch::new(1));
        let value = vec![7; 18_000];
        for _ in 0..8 {
            log.append(&[Record::new(&value)]).expect("nothing fails");
        }
        assert_eq!(log.segments().len(), 8);
        let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
        disk.arm(Fault { at, call: Some(Call::SyncData), what, how_long });
        let kept = log.housekeep_all(Duration::ZERO).1;
        (kept.is_err(), log.start_offset().get())
    });
    let mut failed = starts.take_while(|(failed, _)| *failed).map(|(_, start)| start);
    assert!(failed.any(|start| start > 0 && start < 6), "some went before the last seal failed");
}

#[test]
fn a_look_seals_one_file_so_that_other_logs_are_looked_at_too() {
    let aging = Aging::new(Keep::ALL);
    (0..4).for_each(|_| aging.append());
    let log = &aging.log;
    let unsealed = || log.segments().iter().filter(|s| s.footer().is_none()).count();
    let value = vec![7; 1_800];
    while unsealed() < 2 {
        let appended = log.append(&[Record::new(&value)]).expect("there is room");
        log.sync_to(appended.end).expect("nothing fails");
    }
    let (next, kept) = log.housekeep(Duration::ZERO);
    assert!(next == Next::AtOnce && kept.is_ok() && unsealed() == 1, "{next:?}, {kept:?}");
    let (next, kept) = log.housekeep(Duration::ZERO);
    assert!(next != Next::AtOnce && kept.is_ok(), "{next:?}, {kept:?}");
}

/// 1. The disk fills up. 2. A full segment finds no room for its sections, again and again. 3. What
/// retention lets go would make that room.
#[test]
fn a_full_disk_keeps_nothing_that_is_too_much() {
    let aging = Aging::new(by_size(20 << 10));
    (0..40).for_each(|_| aging.append());
    let value = vec![7; 1_800];
    let append = || {
        let appended = aging.log.append(&[Record::new(&value)])?;
        aging.log.sync_to(appended.end)
    };
    let unsealed = || aging.log.segments().iter().filter(|s| s.footer().is_none()).count();
    while unsealed() < 2 {
        append().expect("there is room");
    }
    aging.disk.set_capacity(0);
    while append().is_ok() {}
    let before = aging.start();
    let done = aging.log.housekeep(Duration::ZERO).1;
    assert!(matches!(done, Err(Error::StorageFull(_))), "{done:?}");
    assert!(aging.start() > before, "nothing was let go");
}

/// 1. `delete_records` waits until a seal is done. 2. So does a close, which came before. 3. The
/// close says in the newest file how it was left; nothing may change that.
#[test]
fn a_trim_that_waited_for_a_close_writes_nothing() {
    let aging = Aging::new(Keep::ALL);
    (0..7).for_each(|_| aging.append());
    let seal = aging.log.turn.take();
    let (closed, trimmed) = thread::scope(|scope| {
        let wait_for = |queued| {
            while aging.log.turn.queued() < queued {
                thread::yield_now();
            }
        };
        let closing = scope.spawn(|| aging.log.close());
        wait_for(2);
        let trimming = scope.spawn(|| aging.log.trim_to(Offset::new(4)));
        wait_for(3);
        drop(seal);
        (closing.join().expect("no panic"), trimming.join().expect("no panic"))
    });
    closed.expect("nothing fails");
    assert!(matches!(trimmed, Err(Error::Closed)), "{trimmed:?}");
    // Tells if the mark is lost.
    let log = open(&aging.disk, &aging.clock, Keep::ALL, 2);
    assert_eq!(log.start_offset(), Offset::ZERO);
}

#[test]
fn a_backup_waits_for_a_seal_that_is_under_way() {
    let aging = Aging::new(Keep::ALL);
    (0..7).for_each(|_| aging.append());
    let dir = Path::new("backup");
    aging.disk.create_dir(dir).expect("it can be made");
    // What is sealed seems to have its footer before the medium has it.
    let seal = aging.log.turn.take();
    let linked = || aging.disk.files().iter().any(|path| path.starts_with("/backup"));
    let ended = AtomicBool::new(false);
    let wait_for = |queued| {
        while aging.log.turn.queued() < queued && !ended.load(Ordering::Acquire) {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let backup = scope.spawn(|| {
            let done = aging.log.backup_to(dir, &mut BackedUp::default());
            ended.store(true, Ordering::Release);
            done
        });
        wait_for(2);
        // Comes between its own seals and the first file: turns are taken in the order of arrival.
        let second = scope.spawn(|| {
            let _seal = aging.log.turn.take();
            wait_for(2);
            assert!(!linked(), "it did not wait");
        });
        wait_for(3);
        drop(seal);
        second.join().expect("it waited");
        backup.join().expect("no panic").expect("nothing fails");
    });
    assert!(linked(), "{:?}", aging.disk.files());
}

#[test]
fn a_file_that_cannot_be_removed_is_tried_again() {
    for call in [Call::Rename, Call::RemoveFile] {
        let aging = Aging::new(Keep::ALL);
        (0..7).for_each(|_| aging.append());
        let before = aging.files().len();
        let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
        aging.disk.arm(Fault { at: 1, call: Some(call), what, how_long });
        let trimmed = aging.log.trim_to(Offset::new(4));
        assert!(matches!(trimmed, Err(Error::Io(_))), "it is told: {trimmed:?}");
        assert_eq!(aging.start(), 4, "and the log start has moved");
        assert_eq!(aging.files().len(), before);
        aging.append_batch(&[Record::new("appends go on")]);
        assert!(aging.log.retain().is_err(), "again in vain");
        aging.disk.disarm();
        aging.housekeep();
        assert_eq!(aging.files().len(), before, "not at once");
        aging.pass(Duration::from_secs(10));
        assert_eq!(aging.files().len(), before - 2);
        assert_eq!(aging.log.retention_due(), None);
    }
}

#[test]
fn a_trim_leaves_a_closed_log_closed() {
    let mut history = History::default();
    let disk = SimDisk::new();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let mut bench = Bench::begin(&disk, &mut history, Setting::default()).expect("it opens");
    bench.append(&[100, 100, 100]).expect("nothing fails");
    for to in [1, 2] {
        bench.close().expect("nothing fails");
        // Tells if the mark is lost.
        bench.open().expect("nothing fails");
        bench.trim(to).expect("nothing fails");
        assert!(bench.log().is_marked());
    }
}

/// Times need not rise; what is deleted is not found, and nothing waits for anything.
#[test]
fn a_time_is_found_as_a_naive_search_finds_it() {
    let aging = Aging::new(Keep::ALL);
    let mut times: Vec<i64> = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let value = vec![3; 2000];
    for round in 0..120_i64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Mostly rising, with some far ahead and some far behind.
        let jitter = i64::try_from(random % 4000).expect("it is small") - 2000;
        let time = 10_000 + round * 100 + if round % 9 == 0 { jitter * 3 } else { jitter / 20 };
        times.push(time);
        aging.append_batch(&[Record::new(&value).timestamp(time)]);
    }
    assert!(aging.log.segments().len() > 5);
    for start in [0, 1, 40, 41, 77, 119, 120] {
        aging.log.trim_to(Offset::new(start)).expect("nothing fails");
        for upto in [start, (start + 10).min(120), 120] {
            let range =
                usize::try_from(start).expect("small")..usize::try_from(upto).expect("small");
            let mut asked: Vec<i64> = times.iter().flat_map(|t| [t - 1, *t, t + 1]).collect();
            asked.extend([i64::MIN, 0, i64::MAX]);
            for time in asked {
                let naive = range.clone().find(|&at| times[at] >= time).map(|at| at as u64);
                let found = aging.log.offset_at(time, Offset::new(upto), Reads::Mapped);
                let found = found.expect("it is readable");
                assert_eq!(found.map(Offset::get), naive, "{time} in {start}..{upto}");
            }
        }
    }
}
