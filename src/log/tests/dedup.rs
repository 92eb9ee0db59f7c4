//! Dedup keys in a whole log, on a simulated disk, against a naive model.
//!
//! Invariants
//!   1. What an append says of each record is what a list of all records says, in every window,
//!      exactly at its edge: after seals, closes, kills, power cuts, cuts and trims, and whatever
//!      block of an index is damaged.
//!   2. Nothing is written for a record that was written before, and nothing at all of a batch that
//!      has another value for a key.
//!   3. A hash decides nothing: the same with keys that collide.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::bench::{BEGINNING_MS, Setting, opening};
use super::sim::{Loss, SimDisk};
use crate::config::{Clock, DedupWindow, Durability, FETCH_BYTES, ManualClock, Reads};
use crate::error::{Error, Outcome};
use crate::format::testing::Random;
use crate::format::{PAGE, Record, SectionKind};
use crate::id::{Incarnation, LeaderEpoch, Offset};
use crate::log::core::{Log, Mode};
use crate::log::dedup::HASH_MASK;
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening};
use crate::log::retain::Keep;

const WINDOWS: [DedupWindow; 4] = [
    DedupWindow::Retained,
    DedupWindow::Records(40),
    DedupWindow::Time(Duration::from_millis(300)),
    DedupWindow::Off,
];

/// A record as a test gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    dedup: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Given {
    fn new(dedup: &str, value: &str) -> Self {
        Self { dedup: Some(dedup.into()), value: Some(value.into()) }
    }

    fn record(&self) -> Record<'_> {
        let record = match &self.value {
            Some(value) => Record::new(value),
            None => Record::tombstone("key"),
        };
        match &self.dedup {
            Some(key) if Some(key) == self.value.as_ref() => record.dedup_by_value(),
            Some(key) => record.dedup_key(key),
            None => record,
        }
    }
}

/// Where a record is said to be: offset, append time, whether it was there before.
type Said = (u64, i64, bool);

/// Which record of a batch has another value, and where the first one is.
type Differs = (usize, Option<u64>);

/// All there is in the log.
#[derive(Clone, Debug, Default)]
struct Model {
    records: Vec<(Given, i64)>,
    /// Where each key is, oldest first.
    keys: HashMap<Vec<u8>, Vec<usize>>,
    /// Where batches begin.
    bases: Vec<usize>,
    start: usize,
}

impl Model {
    fn holds(window: DedupWindow, age: usize, ms: i64) -> bool {
        match window {
            DedupWindow::Off => false,
            DedupWindow::Records(records) => age as u64 <= records,
            DedupWindow::Time(time) => ms < i64::try_from(time.as_millis()).unwrap(),
            _ => true,
        }
    }

    /// What an append at this time says.
    fn append(
        &mut self,
        window: DedupWindow,
        batch: &[Given],
        now: i64,
    ) -> Result<Vec<Said>, Differs> {
        let base = self.records.len();
        let mut said = Vec::new();
        for (index, given) in batch.iter().enumerate() {
            let next = self.records.len();
            let before = given.dedup.as_ref().and_then(|key| self.keys.get(key)?.last().copied());
            let before = before.filter(|&at| {
                at >= self.start && Self::holds(window, next - at, now - self.records[at].1)
            });
            if let Some(at) = before {
                if self.records[at].0.value != given.value {
                    self.cut(base);
                    return Err((index, (at < base).then_some(at as u64)));
                }
                said.push((at as u64, self.records[at].1, true));
                continue;
            }
            said.push((next as u64, now, false));
            if let Some(key) = &given.dedup {
                self.keys.entry(key.clone()).or_default().push(next);
            }
            self.records.push((given.clone(), now));
        }
        if self.records.len() > base {
            self.bases.push(base);
        }
        Ok(said)
    }

    fn cut(&mut self, end: usize) {
        self.records.truncate(end);
        self.bases.retain(|base| *base < end);
        self.keys.retain(|_, places| {
            places.retain(|at| *at < end);
            !places.is_empty()
        });
    }
}

/// A log with its model.
struct Rig {
    disk: SimDisk,
    clock: ManualClock,
    setting: Setting,
    window: DedupWindow,
    incarnation: u64,
    log: Arc<Log>,
    model: Model,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Kill,
    PowerCut(u64),
}

impl Rig {
    fn new(window: DedupWindow, durability: Durability) -> Self {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let clock = ManualClock::new(BEGINNING_MS);
        let setting = Setting { durability, ..Setting::default() };
        let log = Self::open(&disk, &clock, setting, window, 1, Entrance::Unclean);
        Self { disk, clock, setting, window, incarnation: 1, log, model: Model::default() }
    }

    fn open(
        disk: &SimDisk,
        clock: &ManualClock,
        setting: Setting,
        window: DedupWindow,
        incarnation: u64,
        entrance: Entrance,
    ) -> Arc<Log> {
        let mut opening = opening(disk, setting, incarnation, Mode::ReadWrite);
        opening.options.dedup = window;
        let opening = Opening { clock: Arc::new(clock.clone()), ..opening };
        let (log, _) = Log::open(opening, entrance).expect("it opens");
        log.lead(LeaderEpoch::new(u32::try_from(incarnation).unwrap()).max(log.latest_epoch()));
        log
    }

    /// Sends a batch, and compares what is said with the model.
    fn send(&mut self, batch: &[Given]) {
        let records: Vec<Record<'_>> = batch.iter().map(Given::record).collect();
        let now = self.clock.now_ms();
        let expected = self.model.append(self.window, batch, now);
        let appended = self.log.append(&records);
        match (expected, appended) {
            (Ok(said), Ok(appended)) => {
                let found: Vec<Said> = (0..batch.len() as u64)
                    .map(|index| appended.placed(index))
                    .map(|placed| (placed.offset.get(), placed.append_time, placed.duplicate))
                    .collect();
                assert_eq!(found, said, "{batch:?} at {now}");
                let last = said.iter().map(|said| said.0 + 1).max();
                assert!(appended.awaited_end().get() >= last.unwrap_or(0));
                if self.setting.durability == Durability::Fsync {
                    self.log.sync_appended(appended.awaited_end()).expect("nothing fails");
                    assert!(self.log.durable_offset().get() >= last.unwrap_or(0));
                }
            }
            (Err((index, original)), Err(Error::DedupMismatch(mismatch))) => {
                let found = (mismatch.index, mismatch.original.map(Offset::get));
                assert_eq!(found, (index, original));
                let error = Error::DedupMismatch(mismatch);
                assert!(error.outcome() == Outcome::NotWritten && !error.is_retriable());
            }
            (expected, found) => panic!("{batch:?}: {found:?} instead of {expected:?}"),
        }
        assert_eq!(self.log.end_offset().get(), self.model.records.len() as u64);
    }

    fn one(&mut self, dedup: &str, value: &str) {
        self.send(&[Given::new(dedup, value)]);
    }

    fn seal_all(&self) {
        while self.log.seal_one().expect("nothing fails") {}
    }

    fn sleep(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    fn end(&mut self, how: End) {
        let log = Arc::clone(&self.log);
        let unopened = Opening { ..opening(&self.disk, self.setting, 0, Mode::ReadWrite) };
        self.log = Log::fresh(unopened);
        let leave = move || drop(log);
        let mut entrance = Entrance::Unclean;
        match how {
            End::Close => {
                let log = leave;
                entrance = Entrance::Clean { since: Incarnation::new(self.incarnation) };
                log();
            }
            End::Kill => self.disk.kill_in_place(leave),
            End::PowerCut(seed) => {
                self.disk.power_cycle(&Loss::Random(seed), leave);
            }
        }
        self.incarnation += 1;
        let Self { disk, clock, setting, window, incarnation, .. } = self;
        self.log = Self::open(disk, clock, *setting, *window, *incarnation, entrance);
        let end = usize::try_from(self.log.end_offset().get()).unwrap();
        if self.setting.durability == Durability::Fsync || !matches!(how, End::PowerCut(_)) {
            assert_eq!(end, self.model.records.len(), "{how:?}");
        }
        self.model.cut(end);
    }

    fn restart(&mut self, how: End) {
        if matches!(how, End::Close) {
            self.log.close().expect("nothing fails");
        }
        self.end(how);
    }

    fn cut(&mut self, at: usize) {
        self.log.truncate_to(Offset::new(at as u64)).expect("nothing fails");
        self.incarnation += 1;
        self.log.lead(LeaderEpoch::new(u32::try_from(self.incarnation).unwrap()));
        self.model.cut(at);
    }

    fn trim(&mut self, to: usize) {
        self.log.trim_to(Offset::new(to as u64)).expect("nothing fails");
        self.model.start = self.model.start.max(to);
    }

    /// Flips a bit of a sealed segment's dedup keys, or of their filter.
    fn spoil(&self, random: &mut Random) {
        let segments = self.log.segments();
        let Some(segment) = segments.get(random.below(segments.len().max(1))) else { return };
        let kinds = [SectionKind::Dedup, SectionKind::DedupFilter];
        let section = segment.footer().and_then(|f| f.section(kinds[random.below(2)]));
        let Some(section) = section.filter(|section| section.blocks > 0) else { return };
        let byte = section.position + random.below(section.blocks as usize * PAGE) as u64;
        self.disk.flip_bit(&segment.path, byte, 3).expect("it can be flipped");
    }

    /// What the log holds is what the model holds.
    fn check(&self) {
        let mut cursor = ReadCursor::at(self.log.start_offset());
        let end = self.log.end_offset();
        let mut at = self.model.start;
        while let Some(chunk) =
            self.log.read(&mut cursor, end, FETCH_BYTES, Reads::Mapped).expect("it can be read")
        {
            for found in chunk.records() {
                let (given, time) = &self.model.records[at];
                assert_eq!(found.offset.get(), at as u64);
                assert_eq!(found.record.value, given.value.as_deref());
                assert_eq!(found.record.dedup_key, given.dedup.as_deref());
                assert_eq!(found.append_time, *time);
                at += 1;
            }
        }
        assert_eq!(at, self.model.records.len());
    }
}

/// A record of one of so many keys, now and then without one, or with another value.
fn random_record(random: &mut Random, keys: usize) -> Given {
    let number = random.below(keys);
    let mut value = format!("v{number} ").into_bytes();
    value.resize(value.len() + number % 7 * 60, b'.');
    let dedup = match random.below(20) {
        0 => None,
        1..=5 => Some(value.clone()),
        _ => Some(format!("k{number}").into_bytes()),
    };
    let value = match random.below(200) {
        0 => None,
        1 if dedup.as_ref() != Some(&value) => Some(b"another".to_vec()),
        _ => Some(value),
    };
    let dedup = if value.is_none() { Some(format!("k{number}").into_bytes()) } else { dedup };
    Given { dedup, value }
}

fn step(rig: &mut Rig, random: &mut Random) {
    let keys = [30, 300, 3_000][random.below(3)];
    match random.below(1_000) {
        0..=799 => {
            let given = random_record(random, keys);
            rig.send(&[given]);
        }
        800..=899 => {
            let count = 1 + random.below(12);
            let batch: Vec<_> = (0..count).map(|_| random_record(random, keys)).collect();
            rig.send(&batch);
        }
        900..=939 => rig.sleep(random.next() % 40),
        940..=969 => rig.seal_all(),
        970..=975 => {
            let live = rig.model.records.len() - rig.model.start;
            rig.trim(rig.model.start + random.below(live / 2 + 1));
        }
        976..=979 => {
            let from = rig.model.start.max(rig.model.records.len().saturating_sub(150));
            let bases: Vec<_> = rig.model.bases.iter().filter(|at| **at >= from).collect();
            if let Some(&&at) = bases.get(random.below(bases.len().max(1))) {
                rig.cut(at);
            }
        }
        980..=984 => rig.spoil(random),
        985..=989 => rig.restart(End::Close),
        990..=994 => rig.restart(End::Kill),
        995..=996 => rig.restart(End::PowerCut(random.next())),
        _ => rig.sleep(400),
    }
}

fn history(seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    // Three of four keep all of a hash.
    let mask = if seed.is_multiple_of(4) { 0xe000_0000_0000_0000 } else { u64::MAX };
    HASH_MASK.set(mask);
    let durability = if seed.is_multiple_of(3) { Durability::Fsync } else { Durability::Os };
    let mut rig =
        Rig::new(WINDOWS[usize::try_from(seed).expect("small") % WINDOWS.len()], durability);
    for _ in 0..steps {
        step(&mut rig, &mut random);
    }
    rig.check();
    rig.restart(End::Close);
    rig.check();
    HASH_MASK.set(u64::MAX);
}

#[test]
fn every_answer_is_that_of_a_list_of_all_records() {
    const SEED: &str = "PLIMSOLL_DEDUP_SEED";
    if let Ok(seed) = std::env::var(SEED) {
        return history(seed.parse().expect("a number"), 2_500);
    }
    for seed in 0..40 {
        let ran = std::panic::catch_unwind(|| history(seed, 2_500));
        assert!(ran.is_ok(), "replay with {SEED}={seed}");
    }
}

#[test]
fn a_second_append_gets_the_place_of_the_first_and_writes_nothing() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    rig.one("a", "1");
    rig.sleep(5);
    rig.one("a", "1");
    let appended = rig.log.append(&[Given::new("a", "1").record()]).expect("nothing fails");
    assert_eq!(appended.placed(0).offset, Offset::ZERO);
    assert_eq!(appended.placed(0).append_time, BEGINNING_MS);
    assert!(appended.placed(0).duplicate);
    assert_eq!(rig.log.end_offset(), Offset::new(1));
    assert_eq!(rig.log.counters.look().duplicates, 2);
}

/// 1. A record is appended, and its sync is not waited for. 2. It is sent again, and its
/// acknowledgement waits for what the first one's would have waited for.
#[test]
fn a_duplicate_waits_for_its_original_and_for_no_more() {
    let rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    // All of it in one file: sealing one would sync it.
    rig.log.set_limits(64 << 10, Keep::ALL);
    for number in 0..3 {
        let given = Given::new(&format!("k{number}"), "value");
        rig.log.append(&[given.record()]).expect("nothing fails");
    }
    assert_eq!(rig.log.durable_offset(), Offset::ZERO);
    for (keys, awaited) in [(["k0", "k0"], 1), (["k2", "k1"], 3), (["k0", "new"], 4)] {
        let given = keys.map(|key| Given::new(key, "value"));
        let appended = rig.log.append(&[given[0].record(), given[1].record()]);
        let appended = appended.expect("nothing fails");
        assert_eq!(appended.awaited_end(), Offset::new(awaited));
        rig.log.sync_appended(appended.awaited_end()).expect("nothing fails");
        assert!(rig.log.durable_offset() >= Offset::new(awaited));
    }
}

/// At the edge of each window, by one record and by one millisecond; in memory, in a sealed file,
/// and after each way of ending.
#[test]
fn a_window_ends_exactly_where_it_says() {
    let filler = |n: usize| Given { dedup: None, value: Some(vec![b'.'; n]) };
    for end in [None, Some(End::Close), Some(End::Kill), Some(End::PowerCut(1))] {
        for (sizes, seal) in [(10, false), (9_000, true)] {
            let mut rig = Rig::new(DedupWindow::Records(10), Durability::Fsync);
            rig.one("a", "1");
            for _ in 0..9 {
                rig.send(&[filler(sizes)]);
            }
            let settle = |rig: &mut Rig| {
                if seal {
                    rig.seal_all();
                }
                if let Some(end) = end {
                    rig.restart(end);
                }
            };
            settle(&mut rig);
            let before = rig.log.end_offset();
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset(), before, "offset 0 is the last of the ten before 10");
            rig.send(&[filler(sizes)]);
            settle(&mut rig);
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset().get(), 12, "it is not of those before 11");

            let mut rig = Rig::new(DedupWindow::Time(Duration::from_secs(1)), Durability::Fsync);
            rig.one("a", "1");
            for _ in 0..9 {
                rig.send(&[filler(sizes)]);
            }
            rig.sleep(999);
            settle(&mut rig);
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset().get(), 10, "999 ms later");
            rig.sleep(1);
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset().get(), 11, "a second later");
        }
    }
}

#[test]
fn a_duplicate_does_not_renew_the_window() {
    let mut rig = Rig::new(DedupWindow::Time(Duration::from_secs(1)), Durability::Os);
    rig.one("a", "1");
    rig.sleep(600);
    rig.one("a", "1");
    rig.sleep(600);
    rig.one("a", "1");
    assert_eq!(rig.log.end_offset().get(), 2);
}

#[test]
fn a_batch_leaves_out_what_was_there_and_what_it_has_twice() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Os);
    rig.one("a", "1");
    let plain = Given { dedup: None, value: Some(b"1".to_vec()) };
    let batch = ["b", "a", "c", "b", "a", "d"].map(|key| Given::new(key, "1"));
    rig.send(&batch);
    assert_eq!(rig.log.end_offset().get(), 4);
    rig.send(&[plain.clone(), batch[0].clone(), plain.clone()]);
    assert_eq!(rig.log.end_offset().get(), 6, "records without a key are always written");
    rig.send(&batch);
    assert_eq!(rig.log.end_offset().get(), 6);
    let appended = rig.log.append(&[batch[5].record(), plain.record(), batch[0].record()]);
    let appended = appended.expect("nothing fails");
    let offsets: Vec<u64> = (0..3).map(|index| appended.placed(index).offset.get()).collect();
    assert_eq!(offsets, [3, 6, 1]);
}

#[test]
fn another_value_refuses_the_whole_batch() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Os);
    rig.one("a", "1");
    rig.send(&[Given::new("b", "1"), Given::new("a", "2")]);
    rig.send(&[Given::new("b", "1"), Given::new("b", "2")]);
    rig.send(&[Given::new("a", "1"), Given { dedup: Some(b"a".to_vec()), value: None }]);
    rig.send(&[Given { dedup: Some(b"t".to_vec()), value: None }]);
    rig.one("t", "");
    assert_eq!(rig.log.end_offset().get(), 2, "an empty value is not none");
    rig.check();
}

/// What was cut off is forgotten, also where its keys are in a file that goes on below the cut;
/// what lies before is not.
#[test]
fn what_is_cut_off_or_deleted_is_forgotten() {
    for sealed in [false, true] {
        let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
        // So that a file holds records on both sides of the cut.
        rig.log.set_limits(64 << 10, Keep::ALL);
        for number in 0..200 {
            rig.one(&format!("k{number}"), &format!("{number:>800}"));
        }
        assert!(rig.log.segments().len() > 3);
        if sealed {
            rig.seal_all();
        }
        let segment = rig.log.segments().iter().find(|s| s.end() > Offset::new(90)).cloned();
        let segment = segment.expect("it is there");
        assert!(segment.base < Offset::new(90) && segment.end() > Offset::new(92));
        drop(segment);
        rig.cut(90);
        rig.one("k91", &format!("{:>800}", 91));
        rig.cut(90);
        rig.one("k100", &format!("{:>800}", 100));
        assert_eq!(rig.log.end_offset().get(), 91);
        rig.one("k89", &format!("{:>800}", 89));
        assert_eq!(rig.log.end_offset().get(), 91);
        rig.seal_all();
        rig.restart(End::Kill);
        for number in [89, 90, 100, 0, 150] {
            rig.one(&format!("k{number}"), &format!("{number:>800}"));
        }
        rig.trim(60);
        for number in [59, 60, 61, 0] {
            rig.one(&format!("k{number}"), &format!("{number:>800}"));
        }
        rig.check();
    }
}

/// Each byte range of the index in turn: the answers stay the same.
#[test]
fn a_damaged_index_costs_a_walk_and_changes_no_answer() {
    for kind in [SectionKind::Dedup, SectionKind::DedupFilter] {
        for reopened in [false, true] {
            let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
            for number in 0..300 {
                rig.one(&format!("k{number}"), &format!("{number:>200}"));
            }
            rig.seal_all();
            let segment = Arc::clone(&rig.log.segments()[0]);
            let footer = segment.footer().expect("it is sealed");
            let section = *footer.section(kind).expect("it has keys");
            assert!(section.entries > 0);
            for block in 0..section.blocks {
                let byte = section.position + u64::from(block) * PAGE as u64 + 20;
                rig.disk.flip_bit(&segment.path, byte, 0).expect("it can be flipped");
            }
            if reopened {
                rig.restart(End::Close);
            }
            for number in 0..320 {
                rig.one(&format!("k{number}"), &format!("{number:>200}"));
            }
            assert_eq!(rig.log.end_offset().get(), 320);
        }
    }
}

/// A batch that cannot be read may have the key: whoever asks for it is told so, and nothing is
/// written twice.
#[test]
fn a_damaged_original_is_an_error_and_not_a_second_record() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    for number in 0..100 {
        rig.one(&format!("k{number}"), &format!("{number:>800}"));
    }
    rig.restart(End::Close);
    let segment = Arc::clone(&rig.log.segments()[0]);
    rig.disk.flip_bit(&segment.path, segment.first_position + 300, 0).expect("it can be flipped");
    let again = rig.log.append(&[Given::new("k0", &format!("{:>800}", 0)).record()]);
    assert!(
        matches!(&again, Err(error @ Error::Corrupt(_)) if
        error.outcome() == Outcome::NotWritten && !error.is_retriable()),
        "{again:?}"
    );
    rig.one("k1", &format!("{:>800}", 1));
    rig.one("new", "value");
}

#[test]
fn a_full_file_has_room_for_the_keys_of_its_records() {
    const SMALLEST: u64 = 64 << 10;
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    rig.log.set_limits(SMALLEST, Keep::ALL);
    let mut number = 0;
    while rig.log.segments().len() < 4 {
        let batch: Vec<_> =
            (0..5).map(|at| Given::new(&format!("{}", number * 5 + at), "")).collect();
        rig.send(&batch);
        number += 1;
    }
    rig.seal_all();
    for segment in rig.log.segments().iter().take(3) {
        let bytes = rig.disk.read_file(&segment.path).expect("it is there").len() as u64;
        assert!(bytes <= SMALLEST, "{bytes}");
        let footer = segment.footer().expect("it is sealed");
        let keys = footer.section(SectionKind::Dedup).expect("it has keys").entries;
        assert_eq!(keys, segment.base.distance_to(segment.end()));
    }
}

#[test]
fn a_file_without_keys_says_so_and_one_of_no_window_says_nothing() {
    for (window, said) in [(DedupWindow::Retained, Some(0)), (DedupWindow::Off, None)] {
        let mut rig = Rig::new(window, Durability::Fsync);
        for _ in 0..10 {
            rig.send(&[Given { dedup: None, value: Some(vec![1; 9_000]) }]);
        }
        rig.seal_all();
        let segments = rig.log.segments();
        let footer = segments[0].footer().expect("it is sealed");
        for kind in [SectionKind::Dedup, SectionKind::DedupFilter] {
            assert_eq!(footer.section(kind).map(|section| section.entries), said);
        }
    }
}

/// Some send the same records at the same time, while files are rolled and sealed: each key has one
/// record and one offset.
#[test]
fn racing_senders_of_a_key_get_one_record_and_one_offset() {
    const KEYS: usize = 1_500;
    for window in [DedupWindow::Retained, DedupWindow::Time(Duration::from_mins(1))] {
        let rig = Rig::new(window, Durability::Os);
        let log = &rig.log;
        let offsets: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4_u64)
                .map(|sender| {
                    scope.spawn(move || {
                        let mut random = Random::new(sender + 1);
                        let mut offsets = vec![u64::MAX; KEYS];
                        let mut at = 0;
                        while at < KEYS {
                            let count = (1 + random.below(3)).min(KEYS - at);
                            let given: Vec<_> = (at..at + count)
                                .map(|n| Given::new(&format!("k{n}"), &format!("{n:>100}")))
                                .collect();
                            let records: Vec<_> = given.iter().map(Given::record).collect();
                            let appended = log.append(&records).expect("nothing fails");
                            for index in 0..count {
                                let placed = appended.placed(index as u64);
                                offsets[at + index] = placed.offset.get();
                            }
                            at += count;
                        }
                        offsets
                    })
                })
                .collect();
            while senders.iter().any(|sender| !sender.is_finished()) {
                log.seal_one().expect("nothing fails");
                std::thread::yield_now();
            }
            senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
        });
        assert_eq!(log.end_offset().get(), KEYS as u64);
        assert!(log.segments().len() > 3);
        let mut seen = offsets[0].clone();
        assert!(offsets.iter().all(|of_one| *of_one == seen));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), KEYS);
        assert_eq!(log.counters.look().duplicates, 3 * KEYS as u64);
    }
}

/// The window is measured from where the record would go: records without keys count.
#[test]
fn another_value_is_written_once_the_window_of_records_is_over() {
    let mut rig = Rig::new(DedupWindow::Records(3), Durability::Fsync);
    rig.one("a", "first");
    for _ in 0..10 {
        rig.send(&[Given { dedup: None, value: Some(vec![1]) }]);
    }
    // The last three offsets before 11 are 8, 9 and 10: "a" at 0 is forgotten.
    rig.one("a", "second");
}

/// A clock that was set back: append times never fall, so the window is over all the same.
#[test]
fn another_value_is_written_once_the_window_of_time_is_over() {
    let mut rig = Rig::new(DedupWindow::Time(Duration::from_millis(300)), Durability::Fsync);
    rig.one("a", "first");
    rig.sleep(10_000);
    rig.send(&[Given { dedup: None, value: Some(vec![1]) }]);
    // The log was opened anew after the clock went back to soon after "a".
    rig.log.close().expect("nothing fails");
    rig.clock = ManualClock::new(BEGINNING_MS + 100);
    rig.end(End::Close);
    let record = Given::new("a", "second");
    let appended = rig.log.append(&[record.record()]).expect("it is outside of the window");
    assert_eq!(appended.append_time, BEGINNING_MS + 10_000);
    assert!(!appended.placed(0).duplicate);
}

/// Files are deleted while keys are looked for: no append fails for that.
#[test]
fn a_deletion_beside_a_look_fails_no_append() {
    let rig = Rig::new(DedupWindow::Retained, Durability::Os);
    rig.log.set_limits(64 << 10, Keep::ALL);
    let log = &rig.log;
    let done = std::sync::atomic::AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let done = &done;
                scope.spawn(move || {
                    let mut failed = Vec::new();
                    for n in 0..40_000 {
                        let given = Given::new(&format!("{sender} {n}"), &format!("{n:>500}"));
                        if let Err(error) = log.append(&[given.record()]) {
                            failed.push(format!("{n}: {error}"));
                        }
                        if done.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                    failed
                })
            })
            .collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            while log.seal_one().expect("nothing fails") {}
            let end = log.end_offset().get();
            let _ = log.sync_to(log.end_offset());
            let _ = log.trim_to(Offset::new(end.saturating_sub(120).max(log.start_offset().get())));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        senders.into_iter().flat_map(|s| s.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(log.start_offset().get() > 0);
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
}

/// 1. A producer appends two records, and could not have them synced. 2. Another replica leads, and
/// cuts them off. 3. Somebody else writes one of their keys. 4. The producer tries again: that one
/// is there, and the other gets the producer's next number, which nobody has any more.
#[test]
fn a_retry_of_a_batch_that_was_cut_off_is_looked_for_and_numbered_anew() {
    use crate::config::Compression;
    use crate::log::writer::Origin;
    let rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    let live = &rig.log.producers;
    let (first, other) = (live.make().expect("few"), live.make().expect("few"));
    let given = [Given::new("a", "1"), Given::new("b", "2")];
    let records = given.each_ref().map(Given::record);
    let append = |producer, records: &[Record<'_>]| {
        let appended = rig.log.append_of(Origin::Producer(producer), records, Compression::None);
        appended.expect("nothing fails")
    };
    append(&first, &[Given::new("c", "0").record()]);
    let lost = append(&first, &records);
    assert!(rig.log.holds(&lost));
    rig.log.truncate_to(lost.base).expect("nothing fails");
    rig.log.lead(LeaderEpoch::new(99));
    let others = append(&other, &records[1..]);
    assert_eq!(others.base, lost.base);
    assert!(!rig.log.holds(&lost));
    let again = append(&first, &records);
    let placed = [0, 1].map(|index| again.placed(index));
    assert_eq!(placed.map(|placed| placed.offset.get()), [2, 1]);
    assert_eq!(placed.map(|placed| placed.duplicate), [false, true]);
    let known = rig.log.last_sequence(first.id).expect("it has some");
    assert_eq!(known, (1, again.end), "one of its records went to somebody else");
}

/// The records of a batch that is sent again lie in one batch, which is read once.
#[test]
fn a_batch_that_is_sent_again_is_read_once() {
    const COUNT: usize = 200;
    let rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    let given: Vec<_> =
        (0..COUNT).map(|n| Given::new(&format!("k{n}"), &format!("v{n:>20}"))).collect();
    let records: Vec<_> = given.iter().map(Given::record).collect();
    rig.log.append(&records).expect("nothing fails");
    while rig.log.segments().len() < 2 {
        rig.log.append(&[Record::new(&[0; 3_000])]).expect("nothing fails");
    }
    while rig.log.seal_one().expect("nothing fails") {}
    let before = rig.disk.calls();
    let again = rig.log.append(&records).expect("nothing fails");
    assert_eq!(again.duplicates.map(|d| d.count), Some(COUNT as u64));
    // For each key one block of the index at most, beside the filter, the file and the batch.
    let calls = rig.disk.calls() - before;
    assert!(calls <= COUNT as u64 + 20, "{calls} calls");
}

/// A partition with batches whose codec is not built in takes records without a dedup key, after a
/// kill as after a clean close.
#[cfg(not(feature = "zstd"))]
#[test]
fn without_its_codec_a_log_takes_records_without_a_key() {
    use crate::format::BatchHeader;
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    rig.log.set_limits(1 << 20, Keep::ALL);
    rig.one("a", "first");
    rig.restart(End::Kill);
    // The batch becomes one of a codec that is not there.
    let segment = Arc::clone(&rig.log.segments()[0]);
    let mut bytes = rig.disk.read_file(&segment.path).expect("it is there");
    let at = usize::try_from(segment.first_position).unwrap();
    bytes[at + 16] = 2;
    let header = BatchHeader::decode_trusted(&bytes[at..]).expect("a batch");
    header.encode_header(&rig.log.place.identity, &mut bytes[at..]);
    rig.disk.write_file(&segment.path, &bytes).expect("it can be written");
    drop(segment);
    rig.restart(End::Kill);
    let without_key = || [Record::new("no key")];
    rig.log.append(&without_key()).expect("after a kill");
    rig.log.close().expect("nothing fails");
    rig.model.records.push((Given { dedup: None, value: Some(b"no key".to_vec()) }, 0));
    rig.end(End::Close);
    rig.log.append(&without_key()).expect("after a clean close");
}
