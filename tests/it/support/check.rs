//! Opens what a crash left, compares it with what was promised, and uses it.
//!
//! Not here: what is promised of a partition (`history`).
//!
//! Beside those promises, for a store
//!   1. It opens, and tells of no damage, no strays and nothing that it could not do.
//!   2. Topics are those that were made and not deleted; one whose making or deleting was not
//!      confirmed may be there or not.
//!   3. Log start ≤ HW ≤ LEO (I4), and an open leaves nothing that is not durable.
//!   4. It takes appends, in a higher epoch than what was lost, closes cleanly, opens cleanly, and
//!      all is there again.

use std::fmt;

use plimsoll::sim::SimDisk;
use plimsoll::{Acks, Broker, Error, ManualClock, PartitionId, Reads, Record};

use super::history::{Found, FoundRecord, Lost, PROBE};
use super::store::{BACKUP, History, Life, Settings, open_broker, open_in};

/// What the partitions of each topic hold, in the order of the history's topics.
pub(crate) type FoundTopics = Vec<(String, Vec<Found>)>;

/// Why a check ended.
#[derive(Debug)]
pub(crate) enum Failed {
    /// A promise was broken.
    Broken(String),
    /// A call returned an error.
    Error(Error),
}

impl Failed {
    /// A workload's power may go while it looks; then it stops, and the explorer's check looks.
    ///
    /// # Panics
    /// If the power is on.
    pub(crate) fn error_if_off(self, disk: &SimDisk) -> Error {
        match self {
            Failed::Error(error) if !disk.is_on() => error,
            failed => panic!("{failed}"),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Error(error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Broken(why) => f.write_str(why),
            Failed::Error(error) => write!(f, "{error} ({error:?})"),
        }
    }
}

fn broken(why: String) -> Failed {
    Failed::Broken(why)
}

/// The check of a crash by power cut.
pub(crate) fn check(disk: &SimDisk, history: &History) -> Result<(), String> {
    check_after(disk, history, Lost::Power)
}

/// The check of a crash of either kind.
pub(crate) fn check_after(disk: &SimDisk, history: &History, lost: Lost) -> Result<(), String> {
    whole_check(disk, history, lost).map_err(|failed| failed.to_string())
}

fn whole_check(disk: &SimDisk, history: &History, lost: Lost) -> Result<(), Failed> {
    // First, and used: what is done to it must not change the original.
    check_backup(disk, history)?;
    check_store(disk, history, lost)
}

/// A backup that was confirmed is a store with everything that it is to hold; any other is that, or
/// none.
fn check_backup(disk: &SimDisk, history: &History) -> Result<(), Failed> {
    let Some(backup) = &history.backup else { return Ok(()) };
    let broker = match open_in(BACKUP, disk, &ManualClock::new(9_000_000)) {
        Ok(broker) => broker,
        Err(Error::NoStore { .. }) if !backup.confirmed => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let told = &backup.of;
    let of_backup = |failed| broken(format!("the backup: {failed}"));
    let mut found = check_open(&broker, told, Lost::Power, Reads::Copied).map_err(of_backup)?;
    probe(&broker, told, &mut found).map_err(of_backup)?;
    for (name, partitions) in &found {
        for (number, partition) in (0..).zip(partitions) {
            broker.admin().delete_records(name, PartitionId::new(number), partition.end.into())?;
        }
    }
    let report = broker.admin().verify()?;
    if !report.faults.is_empty() {
        return Err(broken(format!("verify finds faults in a backup: {report:?}")));
    }
    broker.close()?;
    Ok(())
}

fn check_store(disk: &SimDisk, history: &History, lost: Lost) -> Result<(), Failed> {
    let clock = ManualClock::new(9_000_000);
    let broker = open_broker(disk, &clock)?;
    // After an error a log may have a file that it cannot go on in, which takes no clean mark.
    if history.closed && history.errors.is_empty() && !broker.recovery().clean {
        return Err(broken("the open after a clean close is not clean".to_owned()));
    }
    // The power may have been cut before, too, and nobody has looked since.
    let lost = if history.lost == Some(Lost::Power) { Lost::Power } else { lost };
    let mut found = check_open(&broker, history, lost, Reads::Mapped)?;
    probe(&broker, history, &mut found)?;
    broker.close()?;

    let broker = open_broker(disk, &clock)?;
    let report = broker.recovery();
    if !report.clean || !report.notes.is_empty() || !report.tails.is_empty() {
        return Err(broken(format!("the open after the check's clean close tells of {report:?}")));
    }
    for (name, partitions) in &found {
        for (number, before) in (0..).zip(partitions) {
            let after = read_partition(&broker, name, number, Reads::Copied)?;
            let same = before
                .records
                .iter()
                .zip(&after.records)
                .all(|(b, a)| (b.offset, &b.value, b.epoch) == (a.offset, &a.value, a.epoch));
            if !same || before.records.len() != after.records.len() || before.start != after.start {
                return Err(broken(format!("{name}/{number} changed over a clean close")));
            }
        }
    }
    let report = broker.admin().verify()?;
    if !report.faults.is_empty() || !report.tails.is_empty() {
        return Err(broken(format!("verify finds faults after a mere crash: {report:?}")));
    }
    Ok(())
}

/// Compares an opened store with its history.
pub(crate) fn check_open(
    broker: &Broker,
    history: &History,
    lost: Lost,
    reads: Reads,
) -> Result<FoundTopics, Failed> {
    let report = broker.recovery();
    let failed_note = report.notes.iter().any(|note| {
        note.contains("could not") || note.contains("halted") || note.contains("not wholly")
    });
    if !report.damage.is_empty() || !report.strays.is_empty() || failed_note {
        return Err(broken(format!("the open of a mere crash tells of {report:?}")));
    }
    let admin = broker.admin();
    let there: Vec<String> = admin.topics().iter().map(|topic| topic.name().to_owned()).collect();
    for name in &there {
        let life = history.topics.get(name).map(|topic| topic.life);
        if !matches!(life, Some(Life::Creating | Life::Live | Life::Deleting)) {
            return Err(broken(format!("topic {name} is there, though {life:?}")));
        }
    }
    let mut all = Vec::new();
    for (name, topic) in &history.topics {
        if !there.contains(name) {
            if topic.life == Life::Live {
                return Err(broken(format!("topic {name} is gone")));
            }
            continue;
        }
        let described = admin.describe(name)?;
        let mut partitions = Vec::new();
        for (number, (told, now)) in (0..).zip(topic.partitions.iter().zip(&described.partitions)) {
            let (start, end) = (now.log_start_offset, now.log_end_offset);
            let (hw, durable) = (now.high_watermark, now.durable_offset);
            if start > hw || hw != end || durable != end {
                return Err(broken(format!("{name}/{number} opened to {now:?}")));
            }
            let found = read_partition(broker, name, number, reads)?;
            let checked = told.check(&found, lost);
            checked.map_err(|why| broken(format!("{name}/{number}: {why}")))?;
            partitions.push(found);
        }
        let count = described.partitions.len();
        if !(topic.partitions_confirmed..=topic.partitions.len()).contains(&count) {
            return Err(broken(format!("topic {name} has {count} partitions")));
        }
        let settings = Settings::of(&described);
        if settings != topic.settings && settings != topic.settings_asked {
            return Err(broken(format!("topic {name} has {settings:?}")));
        }
        all.push((name.clone(), partitions));
    }
    Ok(all)
}

/// What an open found is what the topics are from now on.
pub(crate) fn adopt_all(history: &mut History, found: &FoundTopics) {
    for (name, topic) in &mut history.topics {
        match found.iter().find(|(other, _)| other == name) {
            None => topic.life = Life::Deleted,
            Some((_, partitions)) => {
                topic.life = Life::Live;
                topic.partitions.truncate(partitions.len());
                topic.partitions_confirmed = partitions.len();
                for (told, found) in topic.partitions.iter_mut().zip(partitions) {
                    told.adopt(found);
                }
            }
        }
    }
}

/// Appends a record to each partition, which must be read back where it should be.
fn probe(broker: &Broker, history: &History, found: &mut FoundTopics) -> Result<(), Failed> {
    let producer = broker.producer().acks(Acks::All).build()?;
    for (name, partitions) in found {
        for (number, before) in (0..).zip(partitions) {
            let value = [PROBE, b" ", &before.end.to_le_bytes()].concat();
            let ack = producer.send_batch(name.as_str(), number, &[Record::new(&value)])?;
            if ack.base_offset.get() != before.end {
                let (at, end) = (ack.base_offset, before.end);
                return Err(broken(format!("{name}/{number} appends at {at}, not at {end}")));
            }
            let after = read_partition(broker, name, number, Reads::Mapped)?;
            let (read, epoch) = match after.records.last() {
                Some(last) => (last.value == value, last.epoch),
                None => (false, 0),
            };
            // The append may have let retention delete what was there.
            before.records.retain(|record| record.offset >= after.start);
            let settings = history.topics[name].settings_asked;
            let retains = settings.retention.is_some()
                || settings.retention_bytes.is_some()
                || history.topics[name].settings != settings;
            if after.start < before.start || (after.start > before.start && !retains) {
                return Err(broken(format!("{name}/{number}: an append moved the log start")));
            }
            if !read || after.records.len() != before.records.len() + 1 {
                return Err(broken(format!("{name}/{number}: an append is not read back")));
            }
            let at = usize::try_from(number).expect("few partitions");
            let lost = history.topics[name].partitions[at].epoch_lost_from(before.end);
            if let Some(lost) = lost
                && epoch <= lost
            {
                let end = before.end;
                return Err(broken(format!(
                    "{name}/{number}: offset {end} was lost in epoch {lost}, reused in {epoch}"
                )));
            }
            *before = after;
        }
    }
    Ok(())
}

/// Reads a partition from its start to its end through the public path.
pub(crate) fn read_partition(
    broker: &Broker,
    topic: &str,
    partition: u32,
    reads: Reads,
) -> Result<Found, Error> {
    let number = PartitionId::new(partition);
    let mut records = Vec::new();
    let reader = broker.reader(topic).partition(number).reads(reads).build()?;
    for record in reader {
        let record = record?;
        records.push(FoundRecord {
            offset: record.offset().get(),
            value: record.value().unwrap_or_default().to_vec(),
            epoch: record.leader_epoch().get(),
        });
    }
    let start = broker.admin().earliest(topic, number)?.get();
    let end = broker.admin().latest(topic, number)?.get();
    Ok(Found { start, end, records })
}
