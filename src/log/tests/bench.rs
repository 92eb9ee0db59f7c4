//! A log on a simulated disk whose every promise is written down, and what is checked of it.
//!
//! Not here: what may be found after a crash (`history`).
//!
//! Beside that, after every open
//!   1. It succeeds, the log takes appends, and no damage is told of.
//!   2. Log start ≤ durable = LEO (I4): an open serves nothing that is not on the medium.
//!   3. What is read through mappings is what is read by copies.
//!   4. The named producer's last record is the last one that it has below the end, deleted or not
//!      (I7: the next one gets a number that none had).
//!   5. The log goes on: an append is read back, a clean close and open change nothing, `verify`
//!      finds no fault.

mod checker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Clock, Compression, DedupWindow, Durability, FETCH_BYTES, ManualClock, Reads};
use crate::error::{Error, Outcome, Result};
use crate::format::{Identity, Record};
use crate::fs::sim::{Loss, SimDisk};
use crate::id::{
    Incarnation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId,
};
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::place::Place;
use crate::log::producers::{LiveProducers, ProducerIdentity};
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, LogReport, Opening};
use crate::log::retain::Keep;
use crate::log::writer::Origin;

pub(super) use checker::{Checker, check};

use super::history::{Found, FoundRecord, Lost, PartitionHistory};

const DIR: &str = "topics/t-1/0";
/// Small, so that logs roll all the time.
pub(super) const SEGMENT_BYTES: u64 = 32 << 10;

/// How a log's disk and topic are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) durability: Durability,
    /// False: the file system cannot reserve blocks, files grow sparsely.
    pub(super) allocates: bool,
    pub(super) keep: Keep,
}

impl Default for Setting {
    fn default() -> Self {
        Self { durability: Durability::Fsync, allocates: true, keep: Keep::ALL }
    }
}

/// What a log was told.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) partition: PartitionHistory,
    setting: Setting,
    values_made: u64,
    epoch: u32,
    incarnation: u64,
    /// The last thing that happened was a clean close.
    pub(super) closed: bool,
    pub(super) lost: Option<Lost>,
    /// The clock, after its beginning.
    slept_ms: u64,
    /// The batches that producers sent, in the order of their offsets.
    numbered: Vec<Sent>,
}

/// A batch of a producer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    id: ProducerId,
    base: u64,
    end: u64,
    base_sequence: u64,
}

impl History {
    /// The last record that a producer has in a log that ends at `end`.
    fn last_sequence(&self, id: ProducerId, end: u64) -> Option<u64> {
        let sent = self.numbered.iter().rev().find(|sent| sent.id == id && sent.end <= end)?;
        Some(sent.base_sequence + (sent.end - sent.base) - 1)
    }

    /// The log ends at `end` now.
    fn ends_at(&mut self, end: u64) {
        self.numbered.retain(|sent| sent.end <= end);
    }

    /// The open that comes next.
    fn next_life(&self) -> Life {
        Life { setting: self.setting, incarnation: self.incarnation + 1, closed: self.closed }
    }
}

/// What an open depends on, beside the bytes and the time.
#[derive(Clone, Copy, Debug)]
struct Life {
    setting: Setting,
    incarnation: u64,
    /// The one before ended with a clean close.
    closed: bool,
}

/// See the [module](self).
pub(super) struct Bench<'a> {
    pub(super) disk: SimDisk,
    clock: ManualClock,
    producers: Producers,
    log: Option<Arc<Log>>,
    /// Of the batches that are appended from now on.
    pub(super) compression: Compression,
    pub(super) history: &'a mut History,
}

/// Higher than that of any workload.
const EPOCH_AFTER_ALL: LeaderEpoch = LeaderEpoch::new(1_000_000);

/// What the clock shows at first.
pub(super) const BEGINNING_MS: i64 = 1_000_000;

pub(super) fn opening(disk: &SimDisk, setting: Setting, incarnation: u64, mode: Mode) -> Opening {
    Opening {
        place: Arc::new(Place {
            topic: Arc::from("t"),
            identity: Identity::new(TopicId::new(1), 0x5a17, PartitionId::new(0)),
            dir: PathBuf::from(DIR),
        }),
        disk: Arc::new(disk.clone()),
        options: LogOptions {
            segment_bytes: SEGMENT_BYTES,
            durability: setting.durability,
            allocates: setting.allocates,
            coherent: true,
            dedup: DedupWindow::Off,
            incarnation: Incarnation::new(incarnation),
            keep: setting.keep,
        },
        mode,
        clock: Arc::new(ManualClock::new(BEGINNING_MS)),
        housekeeper: None,
        handles: Arc::default(),
        producers: Arc::default(),
    }
}

/// The producer with a name.
pub(super) const NAMED: ProducerId = ProducerId::new(ProducerId::NAMED_BIT | 5);

/// Who appends in one life of the log.
#[derive(Debug)]
struct Producers {
    live: Arc<LiveProducers>,
    named: ProducerIdentity,
    anonymous: ProducerIdentity,
}

impl Producers {
    fn of(incarnation: u64) -> Self {
        let (live, named) = live_producers(incarnation);
        let anonymous = live.make().expect("there are few");
        Self { live, named, anonymous }
    }
}

/// Those of a broker in some life: the holder of the name is of that one.
fn live_producers(incarnation: u64) -> (Arc<LiveProducers>, ProducerIdentity) {
    let live = Arc::new(LiveProducers::of_tests(Incarnation::new(incarnation)));
    let epoch = ProducerEpoch::new(u32::try_from(incarnation).expect("few"));
    let named = live.hold(NAMED, epoch, "importer");
    (live, named)
}

/// Opens as a volume would after a clean close, or after anything else.
fn open(
    disk: &SimDisk,
    life: Life,
    clock: ManualClock,
    producers: Arc<LiveProducers>,
) -> Result<(Arc<Log>, LogReport)> {
    let Life { setting, incarnation, closed } = life;
    let entrance = if closed {
        Entrance::Clean { since: Incarnation::new(incarnation - 1) }
    } else {
        Entrance::Unclean
    };
    let opening = opening(disk, setting, incarnation, Mode::ReadWrite);
    Log::open(Opening { clock: Arc::new(clock), producers, ..opening }, entrance)
}

fn clock_after(slept_ms: u64) -> ManualClock {
    let clock = ManualClock::new(BEGINNING_MS);
    clock.advance(Duration::from_millis(slept_ms));
    clock
}

/// What a log holds, read in either way.
pub(super) fn read_all(log: &Log, reads: Reads) -> Result<Found> {
    let end = log.committed_end();
    let mut cursor = ReadCursor::at(log.start_offset());
    let mut records = Vec::new();
    while let Some(chunk) = log.read(&mut cursor, end, FETCH_BYTES, reads)? {
        records.extend(chunk.records().map(|found| FoundRecord {
            offset: found.offset.get(),
            value: found.record.value.unwrap_or_default().into(),
            epoch: found.leader_epoch.get(),
        }));
    }
    Ok(Found { start: log.start_offset().get(), end: end.get(), records })
}

impl<'a> Bench<'a> {
    /// Opens the first time.
    pub(super) fn begin(
        disk: &SimDisk,
        history: &'a mut History,
        setting: Setting,
    ) -> Result<Bench<'a>> {
        history.setting = setting;
        let clock = clock_after(history.slept_ms);
        let (producers, compression) = (Producers::of(0), Compression::None);
        let disk = disk.clone();
        let mut bench = Bench { disk, clock, producers, log: None, compression, history };
        bench.open()?;
        Ok(bench)
    }

    /// A log that a process before this one has begun, not open yet.
    pub(super) fn resume(disk: &SimDisk, history: &'a mut History, setting: Setting) -> Bench<'a> {
        history.setting = setting;
        let clock = clock_after(history.slept_ms);
        let (producers, compression) = (Producers::of(0), Compression::None);
        let disk = disk.clone();
        let mut bench = Bench { disk, clock, producers, log: None, compression, history };
        bench.kill();
        bench
    }

    /// Opens with calls that fail: what it gives is looked at by the test alone.
    pub(super) fn open_unchecked(&mut self) -> Result<Arc<Log>> {
        let life = self.history.next_life();
        self.history.incarnation += 1;
        self.producers = Producers::of(life.incarnation);
        let producers = Arc::clone(&self.producers.live);
        let (log, _) = open(&self.disk, life, self.clock.clone(), producers)?;
        self.history.epoch += 1;
        log.lead(LeaderEpoch::new(self.history.epoch).max(log.latest_epoch()));
        Ok(log)
    }

    /// Opens what is there; what the process before left is checked, and taken over.
    pub(super) fn open(&mut self) -> Result<()> {
        let life = self.history.next_life();
        self.history.incarnation += 1;
        self.producers = Producers::of(life.incarnation);
        let producers = Arc::clone(&self.producers.live);
        let opened = open(&self.disk, life, self.clock.clone(), producers);
        self.history.closed = false;
        let (log, report) = opened?;
        if let Some(lost) = self.history.lost {
            match check_open(&log, &report, self.history, lost, Reads::Copied) {
                Ok(found) => {
                    self.history.ends_at(found.end);
                    self.history.partition.adopt(&found);
                }
                Err(_) if !self.disk.is_on() => return Err(Error::Closed),
                Err(why) => panic!("{why}"),
            }
            self.history.lost = None;
        }
        self.history.epoch += 1;
        log.lead(LeaderEpoch::new(self.history.epoch));
        self.log = Some(log);
        self.note_durable();
        self.check_producers();
        Ok(())
    }

    /// What the log knows of the producers is what they sent of what it holds.
    pub(super) fn check_producers(&self) {
        let (log, end) = (self.log(), self.log().end_offset().get());
        if end != self.history.partition.end() {
            // A log that another history is of.
            return;
        }
        for id in [NAMED, self.producers.anonymous.id] {
            let known = log.last_sequence(id).map(|(sequence, _)| sequence);
            assert_eq!(known, self.history.last_sequence(id, end), "{id:?} at the end {end}");
        }
    }

    /// The producers of this life.
    pub(super) fn live(&self) -> Arc<LiveProducers> {
        Arc::clone(&self.producers.live)
    }

    pub(super) fn log(&self) -> &Arc<Log> {
        self.log.as_ref().expect("the workload opened it")
    }

    fn alive<T>(&self, result: Result<T>) -> Result<T> {
        if self.disk.is_on() { result } else { result.and(Err(Error::Closed)) }
    }

    fn note_durable(&mut self) {
        if self.disk.is_on() && self.history.values_made > 0 {
            let durable = self.log().durable_offset().get();
            self.history.partition.tell_durable(durable);
        }
    }

    /// Appends one batch of records of these sizes, and has it synced if the durability says so.
    pub(super) fn append(&mut self, sizes: &[usize]) -> Result<()> {
        let values: Vec<Vec<u8>> = sizes
            .iter()
            .map(|bytes| {
                self.history.values_made += 1;
                let mut value = format!("v{} ", self.history.values_made).into_bytes();
                let filler = self.history.values_made.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                value.resize((*bytes).max(value.len()), filler.to_le_bytes()[7]);
                value
            })
            .collect();
        let records: Vec<Record<'_>> = values.iter().map(Record::new).collect();
        self.history.partition.sending(values.clone());
        let log = Arc::clone(self.log());
        let fsync = self.history.setting.durability == Durability::Fsync;
        let base = log.end_offset().get();
        let producer = match self.history.values_made % 4 {
            0 => None,
            1 => Some(&self.producers.anonymous),
            _ => Some(&self.producers.named),
        };
        let next = |id| self.history.last_sequence(id, base).map_or(0, |last| last + 1);
        let base_sequence = producer.map_or(0, |producer| next(producer.id));
        if let Some(ProducerIdentity { id, .. }) = producer {
            let sent = Sent { id: *id, base, end: base + sizes.len() as u64, base_sequence };
            self.history.numbered.push(sent);
        }
        let origin = producer.map_or(Origin::Own, Origin::Producer);
        let appended = log.append_of(origin, &records, self.compression).and_then(|appended| {
            if fsync { log.sync_appended(appended.end).map(|()| appended) } else { Ok(appended) }
        });
        match self.alive(appended) {
            Ok(appended) => {
                let (base, end) = (appended.base.get(), appended.end.get());
                self.history.partition.acknowledge(base, end, appended.epoch.get());
                if fsync {
                    self.history.partition.tell_durable(end);
                }
            }
            Err(error) => {
                if error.outcome() == Outcome::NotWritten && self.disk.is_on() {
                    self.history.partition.take_back(sizes.len());
                    self.history.ends_at(base);
                }
                return Err(error);
            }
        }
        self.housekeep()
    }

    /// Does what is due, as the volume's thread would.
    pub(super) fn housekeep(&mut self) -> Result<()> {
        let now = u64::try_from(self.clock.now_ms()).unwrap_or(0);
        let keep = self.history.setting.keep;
        let age = keep.retention.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        if age.is_some() || keep.retention_bytes.is_some() {
            self.history.partition.retaining(age, keep.retention_bytes);
        }
        let (_, done) = self.log().housekeep_all(Duration::from_millis(now));
        self.log().look_ahead_if_due();
        self.alive(done)?;
        let start = self.log().start_offset().get();
        self.history.partition.tell_start(start);
        self.note_durable();
        Ok(())
    }

    pub(super) fn sleep(&mut self, ms: u64) {
        self.history.slept_ms += ms;
        self.clock.advance(Duration::from_millis(ms));
        self.history.partition.tell_time(self.clock.now_ms());
    }

    /// Another configuration from now on.
    pub(super) fn keep(&mut self, keep: Keep) -> Result<()> {
        self.history.setting.keep = keep;
        self.log().set_limits(SEGMENT_BYTES, keep);
        self.housekeep()
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        let log = Arc::clone(self.log());
        let end = log.end_offset();
        let synced = log.sync_to(end);
        self.alive(synced)?;
        self.history.partition.tell_durable(end.get());
        Ok(())
    }

    /// Cuts at an offset that is a batch's base or the end; appends are in a new epoch then.
    pub(super) fn cut(&mut self, at: u64) -> Result<()> {
        self.history.partition.cutting(at);
        let cut = self.log().truncate_to(Offset::new(at));
        self.alive(cut)?;
        self.history.partition.cut();
        self.history.ends_at(at);
        self.check_producers();
        self.history.epoch += 1;
        self.log().lead(LeaderEpoch::new(self.history.epoch));
        Ok(())
    }

    pub(super) fn trim(&mut self, to: u64) -> Result<()> {
        self.history.partition.trimming(to);
        let trimmed = self.log().trim_to(Offset::new(to));
        self.alive(trimmed)?;
        self.history.partition.trimmed(to);
        self.check_producers();
        self.note_durable();
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<()> {
        let log = self.log.take().expect("the workload opened it");
        self.history.lost = Some(Lost::Process);
        let closed = log.close();
        drop(log);
        self.alive(closed)?;
        self.history.closed = true;
        let end = self.history.partition.end();
        self.history.partition.tell_durable(end);
        Ok(())
    }

    /// Closes a log whose contents are not those of the history.
    pub(super) fn close_unchecked(&mut self) {
        let log = self.log.take().expect("the workload opened it");
        assert!(log.close().is_ok());
        self.history.closed = true;
    }

    pub(super) fn kill(&mut self) {
        let log = self.log.take();
        self.disk.kill_in_place(|| drop(log));
        self.history.lost = Some(self.history.lost.unwrap_or(Lost::Process));
    }

    pub(super) fn power_cycle(&mut self, loss: &Loss) {
        let log = self.log.take();
        self.disk.power_cycle(loss, || drop(log));
        self.history.lost = Some(Lost::Power);
    }
}

/// Compares an open log with its history.
fn check_open(
    log: &Log,
    report: &LogReport,
    history: &History,
    lost: Lost,
    reads: Reads,
) -> std::result::Result<Found, String> {
    let found = look_open(log, report, reads)?;
    history.partition.check(&found, lost)?;
    Ok(found)
}

/// Reads all that an open log has.
fn look_open(log: &Log, report: &LogReport, reads: Reads) -> std::result::Result<Found, String> {
    let told = |e: Error| format!("{e} ({e:?})");
    log.check_latch().map_err(told)?;
    if !report.damage.is_empty() || !report.strays.is_empty() {
        return Err(format!("the open of a mere crash tells of {report:?}"));
    }
    let (start, durable, end) = (log.start_offset(), log.durable_offset(), log.end_offset());
    if start > durable || durable != end {
        return Err(format!("opened to {start:?} {durable:?} {end:?}"));
    }
    read_all(log, reads).map_err(told)
}
