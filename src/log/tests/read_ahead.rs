//! Batches checked ahead of a reader.
//!
//! Invariants
//!   1. A reader that goes on has checked what it will come to, and does not check that again; one
//!      that reads here and there has not.
//!   2. A fetch that catches up ends where the check is, and loses nothing.
//!   3. What is bad is told by the fetch that comes to it, as ever.
//!   4. What another reader wishes meanwhile is done too; a panic ends nothing but the work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::bench::{Setting, opening};
use super::hooks::{HookDisk, Hooks};
use super::sim::SimDisk;
use crate::config::{FETCH_BYTES, READ_AHEAD_BYTES, READ_AHEAD_PIECE_BYTES, Reads};
use crate::error::Error;
use crate::format::{Identity, Record};
use crate::id::{LeaderEpoch, Offset};
use crate::log::chunk::Chunk;
use crate::log::core::{Housekeeper, Log, LogOptions, Mode};
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening};

/// A batch is about so long.
const BATCH_BYTES: usize = 20_000;

/// Counts how often it was asked to read ahead, and does nothing.
#[derive(Debug, Default)]
struct Asked(AtomicUsize);

impl Housekeeper for Asked {
    fn due(&self, _: &Identity) {}

    fn ahead(&self, _: &Identity) {}

    fn read_ahead(&self, _: &Identity) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn sync_begins(&self, _: Duration) -> u64 {
        0
    }

    fn sync_ended(&self, _: u64) {}
}

/// A closed log of one file, opened again: none of its batches was checked yet.
struct Reading {
    disk: SimDisk,
    hooks: Hooks,
    asked: Arc<Asked>,
    log: Arc<Log>,
    cursor: ReadCursor,
    /// How many batches there are, of one record each.
    batches: u64,
}

impl Reading {
    fn new() -> Self {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let (asked, hooks) = (Arc::<Asked>::default(), Hooks::default());
        let open = |incarnation, entrance| {
            let opening = opening(&disk, Setting::default(), incarnation, Mode::ReadWrite);
            let options = LogOptions { segment_bytes: 16 << 20, ..opening.options.clone() };
            let housekeeper = Some(Arc::clone(&asked) as Arc<dyn Housekeeper>);
            let disk = Arc::new(HookDisk { disk: disk.clone(), hooks: hooks.clone() });
            let opening = Opening { disk, options, housekeeper, ..opening };
            Log::open(opening, entrance).expect("it opens").0
        };
        let log = open(1, Entrance::Unclean);
        log.lead(LeaderEpoch::new(1));
        let batches = (3 * READ_AHEAD_BYTES) / BATCH_BYTES as u64;
        for number in 0..batches {
            let value = vec![u8::try_from(number % 251).expect("it is small"); BATCH_BYTES];
            log.append(&[Record::new(&value)]).expect("nothing fails");
        }
        log.close().expect("nothing fails");
        drop(log);
        let log = open(2, Entrance::Clean { since: crate::id::Incarnation::new(1) });
        Self {
            disk: disk.clone(),
            hooks: hooks.clone(),
            asked: Arc::clone(&asked),
            log,
            cursor: ReadCursor::at(Offset::ZERO),
            batches,
        }
    }

    fn fetch(&mut self, bytes: usize) -> Result<Option<Chunk>, Error> {
        self.log.read(&mut self.cursor, self.log.end_offset(), bytes, Reads::Mapped)
    }

    /// Two fetches, one after the other: now it goes on.
    fn begin(&mut self) -> u64 {
        for _ in 0..2 {
            assert_eq!(self.asked(), 0);
            self.fetch(4 * READ_AHEAD_PIECE_BYTES).expect("it is good").expect("there is more");
        }
        assert_eq!(self.asked(), 1);
        self.cursor.offset().get()
    }

    fn asked(&self) -> usize {
        self.asked.0.load(Ordering::Relaxed)
    }

    /// What the thread does that was asked.
    fn work(&self) {
        let ends = (0..99).any(|_| !self.log.read_ahead());
        assert!(ends, "it works for ever");
    }

    /// Breaks the value of a batch.
    fn flip(&self, batch: u64) {
        let path = &self.log.segments()[0].path;
        let file = self.disk.read_file(path).expect("it is there");
        let mark = u8::try_from(batch % 251).expect("it is small");
        // In its middle, clear of its neighbours: batch 0 is the first run of its byte, and so on.
        let runs = file.windows(64).enumerate().filter(|(_, run)| run.iter().all(|b| *b == mark));
        let skip = usize::try_from(batch / 251).expect("few") * (BATCH_BYTES - 63);
        let at = runs.map(|(at, _)| at).nth(skip + BATCH_BYTES / 2).expect("it is there");
        self.disk.flip_bit(path, at as u64, 3).expect("it is there");
    }

    /// Reads to the end, and returns the values' first bytes by offset.
    fn rest(&mut self) -> Result<Vec<(u64, u8)>, Error> {
        let mut found = Vec::new();
        while let Some(chunk) = self.fetch(FETCH_BYTES)? {
            found.extend(
                chunk.records().map(|record| {
                    (record.offset.get(), record.record.value.expect("it has one")[0])
                }),
            );
        }
        Ok(found)
    }

    fn expected(&self, from: u64) -> Vec<(u64, u8)> {
        let mark = |number: u64| u8::try_from(number % 251).expect("it is small");
        (from..self.batches).map(|number| (number, mark(number))).collect()
    }
}

#[test]
fn what_was_checked_ahead_is_not_checked_again() {
    let mut reading = Reading::new();
    let next = reading.begin();
    reading.work();
    // A fetch that checked would find it: mapped anew, the file shows it.
    reading.flip(next + 3);
    reading.log.segments()[0].release_mapping();
    reading.fetch(FETCH_BYTES).expect("it was checked").expect("there is more");
    assert!(reading.cursor.offset().get() > next + 3);

    // Far behind what was checked ahead, it is found.
    let mut reading = Reading::new();
    reading.begin();
    reading.work();
    reading.flip(reading.batches - 1);
    reading.log.segments()[0].release_mapping();
    let error = reading.rest().expect_err("it is damaged");
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
}

#[test]
fn who_reads_here_and_there_has_nothing_checked_ahead() {
    let mut reading = Reading::new();
    for offset in [7, 40, 12, 100, 90] {
        reading.cursor = ReadCursor::at(Offset::new(offset));
        reading.fetch(FETCH_BYTES).expect("it is good").expect("there is more");
    }
    // Nor who goes on in small steps.
    for _ in 0..9 {
        reading.fetch(1).expect("it is good").expect("there is more");
    }
    assert_eq!(reading.asked(), 0);
}

#[test]
fn a_fetch_that_catches_up_ends_there_and_loses_nothing() {
    let mut reading = Reading::new();
    let next = reading.begin();
    // Nobody works yet: a fetch gets a little, and not a whole one.
    let chunk = reading.fetch(FETCH_BYTES).expect("it is good").expect("there is more");
    let bytes = chunk.view.len();
    assert!((READ_AHEAD_PIECE_BYTES / 2..=READ_AHEAD_PIECE_BYTES).contains(&bytes), "{bytes}");
    assert_eq!(chunk.records().next().map(|record| record.offset.get()), Some(next));
    // A part is checked: it gets that.
    assert!(reading.log.read_ahead());
    let chunk = reading.fetch(FETCH_BYTES).expect("it is good").expect("there is more");
    assert!(chunk.view.len() > 4 * READ_AHEAD_PIECE_BYTES, "{}", chunk.view.len());
    let from = reading.cursor.offset().get();
    assert_eq!(reading.rest().expect("it is good"), reading.expected(from));
    reading.work();
    assert!(!reading.log.read_ahead(), "the work ends");
}

#[test]
fn what_is_bad_ahead_is_told_by_the_fetch_that_comes_to_it() {
    let mut reading = Reading::new();
    let next = reading.begin();
    let bad = next + 20;
    reading.flip(bad);
    reading.log.segments()[0].release_mapping();
    reading.work();
    let mut found = Vec::new();
    let error = loop {
        match reading.fetch(FETCH_BYTES) {
            Ok(chunk) => found.extend(chunk.expect("there is more").records().map(|r| r.offset)),
            Err(error) => break error,
        }
    };
    assert_eq!(found.last(), Some(&Offset::new(bad - 1)), "all before it");
    let Error::Corrupt(damage) = error else { panic!("{error}") };
    assert_eq!((damage.first, damage.end), (Offset::new(bad), Offset::new(bad + 1)));
    reading.cursor = ReadCursor::at(Offset::new(bad + 1));
    assert_eq!(reading.rest().expect("it is good"), reading.expected(bad + 1));
}

#[test]
fn what_one_reader_wishes_outlives_the_work_for_another() {
    let mut reading = Reading::new();
    reading.cursor = ReadCursor::at(Offset::new(150));
    reading.begin();
    let segment = Arc::clone(&reading.log.segments()[0]);
    segment.release_mapping();
    let (log, of) = (Arc::clone(&reading.log), Arc::clone(&segment));
    let other = segment.first_position;
    // Another reader goes on in the same file, before this one, while the thread works.
    reading.hooks.at_open(move || log.wish_ahead(&of, other));
    assert!(reading.log.read_ahead());
    reading.work();
    assert!(segment.verified.checked_until(other) > other, "what it wished for was dropped");
}

#[test]
fn after_a_panic_fetches_are_whole_again_and_the_next_one_asks() {
    let mut reading = Reading::new();
    reading.begin();
    reading.log.segments()[0].release_mapping();
    reading.hooks.at_open(|| panic!("once"));
    let log = Arc::clone(&reading.log);
    catch_unwind(AssertUnwindSafe(|| log.read_ahead())).unwrap_err();
    let chunk = reading.fetch(4 * READ_AHEAD_PIECE_BYTES).expect("good").expect("there is more");
    assert!(chunk.view.len() > READ_AHEAD_PIECE_BYTES, "{}", chunk.view.len());
    assert_eq!(reading.asked(), 2);
}
