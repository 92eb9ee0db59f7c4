//! What is checked of a log after a crash: that it opens to what it may hold, and goes on.

use super::{
    EPOCH_AFTER_ALL, History, Life, NAMED, clock_after, live_producers, look_open, open, opening,
    read_all,
};
use crate::config::Reads;
use crate::error::Error;
use crate::format::Record;
use crate::fs::sim::SimDisk;
use crate::log::core::Mode;
use crate::log::recover::Entrance;
use crate::log::tests::history::{Found, FoundRecord, Lost, PROBE};
use crate::log::tests::looks::{Looks, Values};
use crate::log::verify::{Closing, verify_partition};

/// What was seen of a log. It depends on its bytes, the next life and the time.
#[derive(Debug, Default)]
pub(super) struct LogSeen {
    /// What it held, if it could be opened and read.
    found: Option<Found>,
    /// The last record of the named producer.
    last_sequence: Option<u64>,
    /// What ended the look, if it did not come to its end.
    failed: Option<String>,
}

/// Checks crashes, and opens an image only once.
pub(in crate::log::tests) struct Checker {
    /// By the next life, as a text, and the time.
    looks: Looks<(String, u64), LogSeen>,
    values: Values,
}

impl Checker {
    pub(in crate::log::tests) fn new() -> Self {
        Self { looks: Looks::new(), values: Values::new() }
    }

    /// The check after a power cut.
    pub(in crate::log::tests) fn check(
        &self,
        disk: &SimDisk,
        history: &History,
    ) -> std::result::Result<(), String> {
        let (life, slept_ms) = (history.next_life(), history.slept_ms);
        let seen = self.looks.of(disk, (format!("{life:?}"), slept_ms), |disk| {
            let mut seen = LogSeen::of(disk, life, slept_ms);
            seen.found.iter_mut().for_each(|found| self.values.share(found));
            seen
        });
        seen.check(history)
    }
}

/// The check after a power cut. See [`Checker`] for one that remembers.
pub(in crate::log::tests) fn check(
    disk: &SimDisk,
    history: &History,
) -> std::result::Result<(), String> {
    LogSeen::of(disk, history.next_life(), history.slept_ms).check(history)
}

impl LogSeen {
    fn of(disk: &SimDisk, life: Life, slept_ms: u64) -> Self {
        let mut seen = Self::default();
        seen.failed = seen.look(disk, life, slept_ms).err();
        seen
    }

    fn check(&self, history: &History) -> std::result::Result<(), String> {
        if let Some(found) = &self.found {
            history.partition.check(found, Lost::Power)?;
            // A look before this one, which a power cut ended, may have left its record.
            let probe = found.records.iter().find(|record| record.value.starts_with(PROBE));
            let end = probe.map_or(found.end, |probe| probe.offset);
            let expected = history.last_sequence(NAMED, end);
            if self.last_sequence != expected {
                let told = self.last_sequence;
                return Err(format!("the producer's last record is {expected:?}, told {told:?}"));
            }
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Opens what is there, and uses it.
    fn look(
        &mut self,
        disk: &SimDisk,
        life: Life,
        slept_ms: u64,
    ) -> std::result::Result<(), String> {
        let told = |e: Error| format!("{e} ({e:?})");
        let producers = || live_producers(life.incarnation).0;
        let (log, report) = open(disk, life, clock_after(slept_ms), producers()).map_err(told)?;
        self.last_sequence = log.last_sequence(NAMED).map(|(sequence, _)| sequence);
        let found = self.found.insert(look_open(&log, &report, Reads::Mapped)?);
        log.lead(EPOCH_AFTER_ALL.max(log.latest_epoch()));

        let value = [PROBE, b" ", &found.end.to_le_bytes()].concat();
        let appended = log.append(&[Record::new(&value)]).map_err(told)?;
        log.sync_to(appended.end).map_err(told)?;
        if appended.base.get() != found.end {
            return Err(format!("appends at {}, not at {}", appended.base, found.end));
        }
        let (offset, epoch) = (found.end, appended.epoch.get());
        let probe = FoundRecord { offset, value: value.into(), epoch };
        log.close().map_err(told)?;
        drop(log);

        let clean = Life { closed: true, incarnation: life.incarnation + 1, ..life };
        let (log, report) = open(disk, clean, clock_after(slept_ms), producers()).map_err(told)?;
        if log.last_sequence(NAMED).map(|(sequence, _)| sequence) != self.last_sequence {
            return Err("the producer's last record changed over a clean close".to_owned());
        }
        if report.mark_lost || !report.damage.is_empty() || report.cut.is_some() {
            return Err(format!("the open after a clean close tells of {report:?}"));
        }
        let again = read_all(&log, Reads::Copied).map_err(told)?;
        let same = |(a, b): (&FoundRecord, &FoundRecord)| {
            (a.offset, &a.value, a.epoch) == (b.offset, &b.value, b.epoch)
        };
        let before = found.records.iter().chain([&probe]);
        if again.records.len() != found.records.len() + 1 || !before.zip(&again.records).all(same) {
            return Err("what is read changed over a clean close".to_owned());
        }
        drop(log);
        let looking = opening(disk, life.setting, 0, Mode::ReadOnly);
        let findings =
            verify_partition(&looking, Entrance::Unclean, Closing::Checked).map_err(told)?;
        if !findings.faults.is_empty() || !findings.tails.is_empty() {
            return Err(format!("verify finds faults after a mere crash: {findings:?}"));
        }
        Ok(())
    }
}
