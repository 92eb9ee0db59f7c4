//! A log with dedup keys on a simulated disk, the list of records that tells what it should say,
//! and random histories of both.
//!
//! Not here: stories of a few steps (`dedup`).

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

pub(super) const WINDOWS: [DedupWindow; 4] = [
    DedupWindow::Retained,
    DedupWindow::Records(40),
    DedupWindow::Time(Duration::from_millis(300)),
    DedupWindow::Off,
];

/// A record as a test gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) dedup: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
}

impl Given {
    pub(super) fn new(dedup: &str, value: &str) -> Self {
        Self { dedup: Some(dedup.into()), value: Some(value.into()) }
    }

    pub(super) fn record(&self) -> Record<'_> {
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
pub(super) type Said = (u64, i64, bool);

/// Which record of a batch has another value, and where the first one is.
pub(super) type Differs = (usize, Option<u64>);

/// All there is in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) records: Vec<(Given, i64)>,
    /// Where each key is, oldest first.
    pub(super) keys: HashMap<Vec<u8>, Vec<usize>>,
    /// Where batches begin.
    pub(super) bases: Vec<usize>,
    pub(super) start: usize,
}

impl Model {
    pub(super) fn holds(window: DedupWindow, age: usize, ms: i64) -> bool {
        match window {
            DedupWindow::Off => false,
            DedupWindow::Records(records) => age as u64 <= records,
            DedupWindow::Time(time) => ms < i64::try_from(time.as_millis()).unwrap(),
            _ => true,
        }
    }

    /// What an append at this time says.
    pub(super) fn append(
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

    pub(super) fn cut(&mut self, end: usize) {
        self.records.truncate(end);
        self.bases.retain(|base| *base < end);
        self.keys.retain(|_, places| {
            places.retain(|at| *at < end);
            !places.is_empty()
        });
    }
}

/// A log with its model.
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) clock: ManualClock,
    pub(super) setting: Setting,
    pub(super) window: DedupWindow,
    pub(super) incarnation: u64,
    pub(super) log: Arc<Log>,
    pub(super) model: Model,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Close,
    Kill,
    PowerCut(u64),
}

impl Rig {
    pub(super) fn new(window: DedupWindow, durability: Durability) -> Self {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let clock = ManualClock::new(BEGINNING_MS);
        let setting = Setting { durability, ..Setting::default() };
        let log = Self::open(&disk, &clock, setting, window, 1, Entrance::Unclean);
        Self { disk, clock, setting, window, incarnation: 1, log, model: Model::default() }
    }

    pub(super) fn open(
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
    pub(super) fn send(&mut self, batch: &[Given]) {
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

    pub(super) fn one(&mut self, dedup: &str, value: &str) {
        self.send(&[Given::new(dedup, value)]);
    }

    pub(super) fn seal_all(&self) {
        while self.log.seal_one().expect("nothing fails") {}
    }

    pub(super) fn sleep(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    pub(super) fn end(&mut self, how: End) {
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

    pub(super) fn restart(&mut self, how: End) {
        if matches!(how, End::Close) {
            self.log.close().expect("nothing fails");
        }
        self.end(how);
    }

    pub(super) fn cut(&mut self, at: usize) {
        self.log.truncate_to(Offset::new(at as u64)).expect("nothing fails");
        self.incarnation += 1;
        self.log.lead(LeaderEpoch::new(u32::try_from(self.incarnation).unwrap()));
        self.model.cut(at);
    }

    pub(super) fn trim(&mut self, to: usize) {
        self.log.trim_to(Offset::new(to as u64)).expect("nothing fails");
        self.model.start = self.model.start.max(to);
    }

    /// Flips a bit of a sealed segment's dedup keys, or of their filter.
    pub(super) fn spoil(&self, random: &mut Random) {
        let segments = self.log.segments();
        let Some(segment) = segments.get(random.below(segments.len().max(1))) else { return };
        let kinds = [SectionKind::Dedup, SectionKind::DedupFilter];
        let section = segment.footer().and_then(|f| f.section(kinds[random.below(2)]));
        let Some(section) = section.filter(|section| section.blocks > 0) else { return };
        let byte = section.position + random.below(section.blocks as usize * PAGE) as u64;
        self.disk.flip_bit(&segment.path, byte, 3).expect("it can be flipped");
    }

    /// What the log holds is what the model holds.
    pub(super) fn check(&self) {
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
pub(super) fn random_record(random: &mut Random, keys: usize) -> Given {
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

pub(super) fn step(rig: &mut Rig, random: &mut Random) {
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

pub(super) fn history(seed: u64, steps: usize) {
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
