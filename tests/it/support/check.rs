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
use super::looks::{Looks, Values};
use super::store::{BACKUP, History, Life, Settings, open_broker, open_in};

/// What the partitions of each topic hold, in the order of the history's topics.
pub(crate) type FoundTopics = Vec<(String, Vec<Found>)>;

/// A topic as an open found it.
#[derive(Debug)]
struct TopicSeen {
    name: String,
    settings: Settings,
    partitions: Vec<Found>,
    /// Of each partition that took an append: what the append told.
    probes: Vec<ProbeSeen>,
}

/// An append that was read back.
#[derive(Debug)]
struct ProbeSeen {
    /// The log's end before it.
    end: u64,
    epoch: u32,
    /// Whether the log start rose with it.
    start_moved: bool,
}

/// What was seen of a store. It depends on nothing but its bytes.
#[derive(Debug, Default)]
struct StoreSeen {
    clean: bool,
    /// If it could be opened and read.
    topics: Option<Vec<TopicSeen>>,
    /// What ended the look, if it did not come to its end.
    failed: Option<Failed>,
}

/// What was seen of a disk.
#[derive(Debug)]
pub(crate) struct Seen {
    backup: Option<StoreSeen>,
    store: StoreSeen,
}

/// Checks crashes, and opens an image only once. For disks that nobody uses, with no call failing.
pub(crate) struct Checker {
    /// By whether there is a backup, and how many files are left open.
    looks: Looks<(bool, u64), Seen>,
    values: Values,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self { looks: Looks::new(), values: Values::new() }
    }

    /// The check of a crash by power cut.
    pub(crate) fn check(&self, disk: &SimDisk, history: &History) -> Result<(), String> {
        self.check_after(disk, history, Lost::Power)
    }

    /// The check of a crash of either kind.
    pub(crate) fn check_after(
        &self,
        disk: &SimDisk,
        history: &History,
        lost: Lost,
    ) -> Result<(), String> {
        assert!(disk.is_on(), "nothing can be seen of it");
        let has_backup = history.backup.is_some();
        let seen = self.looks.of(disk, (has_backup, disk.open_files()), |disk| {
            let mut seen = look(disk, has_backup);
            seen.share(&self.values);
            seen
        });
        seen.check(history, lost).map_err(|failed| failed.to_string())
    }
}

/// Why a check ended.
#[derive(Clone, Debug)]
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

/// The check of a crash by power cut. See [`Checker`] for one that remembers.
pub(crate) fn check(disk: &SimDisk, history: &History) -> Result<(), String> {
    let seen = look(disk, history.backup.is_some());
    seen.check(history, Lost::Power).map_err(|failed| failed.to_string())
}

/// Opens what is there, and uses it.
fn look(disk: &SimDisk, has_backup: bool) -> Seen {
    // First, and used: what is done to it must not change the original.
    let backup = has_backup.then(|| StoreSeen::of(|seen| seen.look_at_backup(disk)));
    Seen { backup, store: StoreSeen::of(|seen| seen.look_at_store(disk)) }
}

impl Seen {
    fn share(&mut self, values: &Values) {
        let stores = self.backup.iter_mut().chain([&mut self.store]);
        let topics = stores.flat_map(|store| store.topics.iter_mut().flatten());
        topics.flat_map(|topic| &mut topic.partitions).for_each(|found| values.share(found));
    }

    fn check(&self, history: &History, lost: Lost) -> Result<(), Failed> {
        self.check_backup(history)?;
        // After an error a log may have a file that it cannot go on in, which takes no clean mark.
        let must_be_clean = history.closed && history.errors.is_empty();
        if self.store.topics.is_some() && must_be_clean && !self.store.clean {
            return Err(broken("the open after a clean close is not clean".to_owned()));
        }
        // The power may have been cut before, too, and nobody has looked since.
        let lost = if history.lost == Some(Lost::Power) { Lost::Power } else { lost };
        self.store.check(history, lost)
    }

    /// A backup that was confirmed is a store with everything that it is to hold; any other is
    /// that, or none.
    fn check_backup(&self, history: &History) -> Result<(), Failed> {
        let (Some(backup), Some(seen)) = (&history.backup, &self.backup) else { return Ok(()) };
        match &seen.failed {
            Some(Failed::Error(Error::NoStore { .. })) if !backup.confirmed => Ok(()),
            _ => seen
                .check(&backup.of, Lost::Power)
                .map_err(|failed| broken(format!("the backup: {failed}"))),
        }
    }
}

impl StoreSeen {
    fn of(look: impl FnOnce(&mut Self) -> Result<(), Failed>) -> Self {
        let mut seen = Self::default();
        seen.failed = look(&mut seen).err();
        seen
    }

    fn look_at_backup(&mut self, disk: &SimDisk) -> Result<(), Failed> {
        let broker = open_in(BACKUP, disk, &ManualClock::new(9_000_000))?;
        let topics = self.topics.insert(look_open(&broker, Reads::Copied)?);
        for (name, partitions) in probe(&broker, topics)? {
            for (number, partition) in (0..).zip(&partitions) {
                let number = PartitionId::new(number);
                broker.admin().delete_records(&name, number, partition.end.into())?;
            }
        }
        let report = broker.admin().verify()?;
        if !report.faults.is_empty() {
            return Err(broken(format!("verify finds faults in a backup: {report:?}")));
        }
        broker.close()?;
        Ok(())
    }

    fn look_at_store(&mut self, disk: &SimDisk) -> Result<(), Failed> {
        let clock = ManualClock::new(9_000_000);
        let broker = open_broker(disk, &clock)?;
        self.clean = broker.recovery().clean;
        let topics = self.topics.insert(look_open(&broker, Reads::Mapped)?);
        let found = probe(&broker, topics)?;
        broker.close()?;

        let broker = open_broker(disk, &clock)?;
        let report = broker.recovery();
        if !report.clean || !report.notes.is_empty() || !report.tails.is_empty() {
            let why = format!("the open after the check's clean close tells of {report:?}");
            return Err(broken(why));
        }
        for (name, partitions) in &found {
            for (number, before) in (0..).zip(partitions) {
                let after = read_partition(&broker, name, number, Reads::Copied)?;
                let same =
                    before.records.iter().zip(&after.records).all(|(b, a)| {
                        (b.offset, &b.value, b.epoch) == (a.offset, &a.value, a.epoch)
                    });
                let same = same && before.records.len() == after.records.len();
                if !same || before.start != after.start {
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

    fn check(&self, history: &History, lost: Lost) -> Result<(), Failed> {
        if let Some(topics) = &self.topics {
            check_topics(topics, history, lost)?;
            check_probes(topics, history)?;
        }
        self.failed.clone().map_or(Ok(()), Err)
    }
}

/// Compares an opened store with its history.
pub(crate) fn check_open(
    broker: &Broker,
    history: &History,
    lost: Lost,
    reads: Reads,
) -> Result<FoundTopics, Failed> {
    let topics = look_open(broker, reads)?;
    check_topics(&topics, history, lost)?;
    Ok(topics.into_iter().map(|topic| (topic.name, topic.partitions)).collect())
}

/// Reads all that an opened store has.
fn look_open(broker: &Broker, reads: Reads) -> Result<Vec<TopicSeen>, Failed> {
    let report = broker.recovery();
    let failed_note = report.notes.iter().any(|note| {
        note.contains("could not") || note.contains("halted") || note.contains("not wholly")
    });
    if !report.damage.is_empty() || !report.strays.is_empty() || failed_note {
        return Err(broken(format!("the open of a mere crash tells of {report:?}")));
    }
    let admin = broker.admin();
    let mut topics = Vec::new();
    for topic in admin.topics() {
        let name = topic.name().to_owned();
        let described = admin.describe(&name)?;
        let mut partitions = Vec::new();
        for (number, now) in (0..).zip(&described.partitions) {
            let (start, end) = (now.log_start_offset, now.log_end_offset);
            let (hw, durable) = (now.high_watermark, now.durable_offset);
            if start > hw || hw != end || durable != end {
                return Err(broken(format!("{name}/{number} opened to {now:?}")));
            }
            partitions.push(read_partition(broker, &name, number, reads)?);
        }
        let settings = Settings::of(&described);
        topics.push(TopicSeen { name, settings, partitions, probes: Vec::new() });
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

/// Compares what was found with what was promised.
fn check_topics(topics: &[TopicSeen], history: &History, lost: Lost) -> Result<(), Failed> {
    for TopicSeen { name, .. } in topics {
        let life = history.topics.get(name).map(|topic| topic.life);
        if !matches!(life, Some(Life::Creating | Life::Live | Life::Deleting)) {
            return Err(broken(format!("topic {name} is there, though {life:?}")));
        }
    }
    for (name, topic) in &history.topics {
        let Some(seen) = topics.iter().find(|seen| seen.name == *name) else {
            if topic.life == Life::Live {
                return Err(broken(format!("topic {name} is gone")));
            }
            continue;
        };
        let count = seen.partitions.len();
        if !(topic.partitions_confirmed..=topic.partitions.len()).contains(&count) {
            return Err(broken(format!("topic {name} has {count} partitions")));
        }
        for (number, (told, found)) in topic.partitions.iter().zip(&seen.partitions).enumerate() {
            let checked = told.check(found, lost);
            checked.map_err(|why| broken(format!("{name}/{number}: {why}")))?;
        }
        if seen.settings != topic.settings && seen.settings != topic.settings_asked {
            return Err(broken(format!("topic {name} has {:?}", seen.settings)));
        }
    }
    Ok(())
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

/// Appends a record to each partition, which must be read back where it should be. Returns what the
/// partitions hold then.
fn probe(broker: &Broker, topics: &mut [TopicSeen]) -> Result<FoundTopics, Failed> {
    let producer = broker.producer().acks(Acks::All).build()?;
    let mut all = Vec::new();
    for TopicSeen { name, partitions, probes, .. } in topics {
        let mut found = Vec::new();
        for (number, before) in (0..).zip(&*partitions) {
            let end = before.end;
            let value = [PROBE, b" ", &end.to_le_bytes()].concat();
            let ack = producer.send_batch(name.as_str(), number, &[Record::new(&value)])?;
            if ack.base_offset.get() != end {
                let at = ack.base_offset;
                return Err(broken(format!("{name}/{number} appends at {at}, not at {end}")));
            }
            let after = read_partition(broker, name, number, Reads::Mapped)?;
            let (read, epoch) = match after.records.last() {
                Some(last) => (*last.value == *value, last.epoch),
                None => (false, 0),
            };
            if after.start < before.start {
                return Err(broken(format!("{name}/{number}: an append moved the log start back")));
            }
            // The append may have let retention delete what was there.
            let kept = before.records.iter().filter(|record| record.offset >= after.start).count();
            if !read || after.records.len() != kept + 1 {
                return Err(broken(format!("{name}/{number}: an append is not read back")));
            }
            probes.push(ProbeSeen { end, epoch, start_moved: after.start > before.start });
            found.push(after);
        }
        all.push((name.clone(), found));
    }
    Ok(all)
}

/// Compares what the appends told with the history.
fn check_probes(topics: &[TopicSeen], history: &History) -> Result<(), Failed> {
    for TopicSeen { name, probes, .. } in topics {
        let topic = &history.topics[name];
        let settings = topic.settings_asked;
        let retains = settings.retention.is_some()
            || settings.retention_bytes.is_some()
            || topic.settings != settings;
        for (number, probe) in probes.iter().enumerate() {
            let ProbeSeen { end, epoch, start_moved } = *probe;
            if start_moved && !retains {
                return Err(broken(format!("{name}/{number}: an append moved the log start")));
            }
            let lost = topic.partitions[number].epoch_lost_from(end);
            if let Some(lost) = lost
                && epoch <= lost
            {
                return Err(broken(format!(
                    "{name}/{number}: offset {end} was lost in epoch {lost}, reused in {epoch}"
                )));
            }
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
            value: record.value().unwrap_or_default().into(),
            epoch: record.leader_epoch().get(),
        });
    }
    let start = broker.admin().earliest(topic, number)?.get();
    let end = broker.admin().latest(topic, number)?.get();
    Ok(Found { start, end, records })
}
