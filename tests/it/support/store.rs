//! A broker on a simulated disk, with everything that it promises written down.
//!
//! Not here: what a crash may leave of it (`history`, `check`).
//!
//! A workload calls these methods with `?` and so stops at the first error. Values are unique over
//! all lives of all topics, so that a record that rose from the dead is known by its value.
#![allow(dead_code, reason = "two test binaries share it, and each uses a part")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use plimsoll::sim::{Loss, SimDisk};
use plimsoll::{
    Acks, Background, Broker, Clock, DedupWindow, Durability, Error, ManualClock, Outcome,
    PartitionId, Reads, Record, TopicChange, TopicConfig, TopicDescription,
};

use super::check::{adopt_all, check_open};
use super::history::{Lost, PartitionHistory};

/// Smallest segment that a topic may have.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// How a step of a workload ends; at the first error the workload does too.
pub(crate) type Step = Result<(), Error>;

/// How far a topic's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Creating,
    Live,
    Deleting,
    Deleted,
}

/// What a topic was told. Of several topics of a name, one after the other, the last one.
#[derive(Clone, Debug)]
pub(crate) struct TopicHistory {
    pub(crate) life: Life,
    /// Counts the topics of a workload: part of every value.
    number: u32,
    pub(crate) durability: Durability,
    /// Those that were asked for; so many are confirmed.
    pub(crate) partitions: Vec<PartitionHistory>,
    pub(crate) partitions_confirmed: usize,
    /// What can be changed, as it was confirmed, and as it was asked for last.
    pub(crate) settings: Settings,
    pub(crate) settings_asked: Settings,
}

/// What of a topic can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) retention: Option<Duration>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Duration,
    pub(crate) record_bytes: u32,
}

impl Settings {
    pub(crate) fn of(described: &TopicDescription) -> Self {
        Self {
            retention: described.retention,
            retention_bytes: described.retention_bytes,
            segment_bytes: described.segment_bytes,
            segment_age: described.segment_age,
            record_bytes: described.record_bytes,
        }
    }

    fn change(&self) -> TopicChange {
        TopicChange::new()
            .retention(self.retention)
            .retention_bytes(self.retention_bytes)
            .segment_bytes(self.segment_bytes)
            .segment_age(self.segment_age)
            .record_bytes(self.record_bytes)
    }
}

/// A backup, and what it is to hold.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) of: Box<History>,
    pub(crate) confirmed: bool,
}

/// What a store was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) topics: BTreeMap<String, TopicHistory>,
    topics_made: u32,
    values_made: u64,
    /// The last thing that happened was a clean close.
    pub(crate) closed: bool,
    /// What the next open has to check against.
    pub(crate) lost: Option<Lost>,
    /// Every error that a step returned.
    pub(crate) errors: Vec<Error>,
    /// The one in [`BACKUP`].
    pub(crate) backup: Option<Backup>,
}

impl History {
    pub(crate) fn partition(&mut self, topic: &str, partition: u32) -> &mut PartitionHistory {
        let topic = self.topics.get_mut(topic).expect("a workload knows its topics");
        &mut topic.partitions[usize::try_from(partition).expect("few partitions")]
    }
}

/// Where backups are made.
pub(crate) const BACKUP: &str = "/b";

/// See the [module](self).
pub(crate) struct Store<'a> {
    disk: SimDisk,
    clock: ManualClock,
    broker: Option<Broker>,
    pub(crate) history: &'a mut History,
}

/// A broker as tests open it: the same calls do the same I/O.
/// The topic of a workload that has a dedup window.
pub(crate) const DEDUPLICATED: &str = "deduplicated";

pub(crate) fn open_broker(disk: &SimDisk, clock: &ManualClock) -> Result<Broker, Error> {
    open_in("/v", disk, clock)
}

/// The same, of a store that is there.
pub(crate) fn open_in(dir: &str, disk: &SimDisk, clock: &ManualClock) -> Result<Broker, Error> {
    Broker::builder()
        .volumes([dir])
        .create_if_missing(dir != BACKUP)
        .disk(disk)
        .clock(clock.clone())
        .background(Background::Inline)
        .seed(1)
        .open()
}

impl<'a> Store<'a> {
    /// Nothing is open yet.
    pub(crate) fn new(disk: &SimDisk, history: &'a mut History) -> Self {
        Self { disk: disk.clone(), clock: ManualClock::new(1_000_000), broker: None, history }
    }

    /// Opens the broker. What the one before left is checked, and taken for what is there now.
    pub(crate) fn open(&mut self) -> Step {
        self.history.closed = false;
        let broker = open_broker(&self.disk, &self.clock)?;
        let broker = self.broker.insert(broker);
        if let Some(lost) = self.history.lost {
            let found = check_open(broker, self.history, lost, Reads::Copied)
                .map_err(|failed| failed.error_if_off(&self.disk))?;
            adopt_all(self.history, &found);
            self.history.lost = None;
        }
        self.note_durable();
        Ok(())
    }

    /// As [`open`](Self::open), where calls may fail: then nothing is open, and what could not be
    /// compared now is compared at the end.
    pub(crate) fn open_tolerant(&mut self) -> Step {
        self.history.closed = false;
        let opened = open_broker(&self.disk, &self.clock);
        let broker = match opened {
            Ok(broker) => broker,
            Err(error) => return self.noted(Err(error)),
        };
        if let Some(lost) = self.history.lost {
            let Ok(found) = check_open(&broker, self.history, lost, Reads::Copied) else {
                // What an append would get is not known: leave it as it is.
                self.disk.kill_in_place(|| drop(broker));
                return Err(Error::Closed);
            };
            adopt_all(self.history, &found);
            self.history.lost = None;
        }
        self.broker = Some(broker);
        self.note_durable();
        Ok(())
    }

    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Whether a broker is open, and has the topic if one is named.
    pub(crate) fn has(&self, topic: Option<&str>) -> bool {
        let known = |name: &str| {
            self.history.topics.get(name).is_some_and(|topic| topic.life == Life::Live)
        };
        self.broker.is_some() && topic.is_none_or(known)
    }

    pub(crate) fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("the workload opened it")
    }

    /// Closes cleanly: everything is promised from then on.
    pub(crate) fn close(&mut self) -> Step {
        let broker = self.broker.take().expect("the workload opened it");
        self.history.lost.get_or_insert(Lost::Process);
        let closed = broker.close();
        self.noted(closed)?;
        self.history.closed = true;
        for topic in self.history.topics.values_mut() {
            for partition in &mut topic.partitions {
                partition.tell_durable(partition.end());
            }
        }
        Ok(())
    }

    /// Kills the process: the page cache stays.
    pub(crate) fn kill(&mut self) {
        let broker = self.broker.take();
        self.disk.kill_in_place(|| drop(broker));
        self.history.lost.get_or_insert(Lost::Process);
    }

    /// Cuts the power, and switches it on again.
    pub(crate) fn power_cycle(&mut self, loss: &Loss) {
        let broker = self.broker.take();
        self.disk.power_cycle(loss, || drop(broker));
        self.history.lost = Some(Lost::Power);
    }

    /// Lets time pass.
    pub(crate) fn sleep(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    pub(crate) fn create(
        &mut self,
        name: &str,
        config: TopicConfig,
        of: (u32, Durability),
    ) -> Step {
        let (partitions, durability) = of;
        self.history.topics_made += 1;
        let config = config.partitions(partitions).durability(durability);
        let settings = settings_of(&config);
        let topic = TopicHistory {
            partitions_confirmed: usize::try_from(partitions).expect("few"),
            settings,
            settings_asked: settings,
            life: Life::Creating,
            number: self.history.topics_made,
            durability,
            partitions: vec![
                PartitionHistory::default();
                usize::try_from(partitions).expect("few")
            ],
        };
        let before = self.history.topics.insert(name.to_owned(), topic);
        assert!(before.is_none_or(|old| old.life == Life::Deleted), "one topic of a name");
        let created = self.broker().create_topic(name, config).map(drop);
        self.noted(created)?;
        self.life(name, Life::Live);
        Ok(())
    }

    /// A topic of one partition with the smallest segments; that of the name [`DEDUPLICATED`]
    /// remembers all.
    pub(crate) fn topic(&mut self, name: &str, durability: Durability) -> Step {
        let config = TopicConfig::new().segment_bytes(SEGMENT_BYTES);
        let config =
            if name == DEDUPLICATED { config.dedup(DedupWindow::Retained) } else { config };
        self.create(name, config, (1, durability))
    }

    pub(crate) fn delete(&mut self, name: &str) -> Step {
        self.life(name, Life::Deleting);
        let deleted = self.broker().admin().delete_topic(name);
        self.noted(deleted)?;
        self.life(name, Life::Deleted);
        Ok(())
    }

    /// Whether a topic of this name may be there.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.history.topics.get(name).is_some_and(|topic| topic.life != Life::Deleted)
    }

    /// The topics that are there.
    pub(crate) fn live(&self) -> Vec<String> {
        let topics = self.history.topics.iter();
        topics.filter(|(_, t)| t.life == Life::Live).map(|(name, _)| name.clone()).collect()
    }

    fn life(&mut self, name: &str, life: Life) {
        self.history.topics.get_mut(name).expect("a workload knows its topics").life = life;
    }

    /// Sends one record of so many bytes.
    pub(crate) fn send(&mut self, topic: &str, bytes: usize) -> Step {
        self.batch(topic, 0, &[bytes], Acks::All)
    }

    /// Sends so many records one by one.
    pub(crate) fn send_each(&mut self, topic: &str, count: usize, bytes: usize) -> Step {
        (0..count).try_for_each(|_| self.send(topic, bytes))
    }

    /// Sends a batch of records of these sizes.
    pub(crate) fn batch(
        &mut self,
        topic: &str,
        partition: u32,
        sizes: &[usize],
        acks: Acks,
    ) -> Step {
        let number = self.history.topics[topic].number;
        let durability = self.history.topics[topic].durability;
        let values: Vec<Vec<u8>> = sizes
            .iter()
            .map(|bytes| {
                self.history.values_made += 1;
                value(number, partition, self.history.values_made, *bytes)
            })
            .collect();
        let record = |value| {
            let record = Record::new(value);
            if topic == DEDUPLICATED { record.dedup_by_value() } else { record }
        };
        let records: Vec<Record<'_>> = values.iter().map(record).collect();
        let now = self.clock.now_ms();
        self.history.partition(topic, partition).tell_time(now);
        self.history.partition(topic, partition).sending(values.clone());
        self.retaining(topic, partition);
        let producer = self.broker().producer().acks(acks).build();
        let sent = producer
            .and_then(|producer| producer.send_batch(topic, partition, &records))
            .and_then(|ack| Ok((ack, self.broker().admin().describe(topic)?)));
        // A process that died with a call does not see how it went.
        let sent = if self.disk.is_on() { sent } else { sent.and(Err(Error::Closed)) };
        let history = self.history.partition(topic, partition);
        let (ack, described) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                if error.outcome() == Outcome::NotWritten && self.disk.is_on() {
                    history.take_back(sizes.len());
                }
                return self.noted(Err(error));
            }
        };
        let now = &described.partitions[usize::try_from(partition).expect("few")];
        let end = ack.last_offset.get() + 1;
        history.acknowledge(ack.base_offset.get(), end, now.leader_epoch.get());
        if durability == Durability::Fsync && acks != Acks::None {
            assert!(now.durable_offset.get() >= end, "acknowledged before it was durable");
            history.tell_durable(end);
        }
        history.tell_start(now.log_start_offset.get());
        // I4, and the watermark is what the durability says.
        assert!(now.log_start_offset <= now.high_watermark);
        assert!(now.high_watermark <= now.log_end_offset);
        self.note_durable();
        Ok(())
    }

    /// Sends the last records of partition 0 again, so many of them: each is where it was.
    pub(crate) fn resend(&mut self, topic: &str, count: u64) -> Step {
        assert_eq!(topic, DEDUPLICATED, "the others forget");
        let durability = self.history.topics[topic].durability;
        let history = self.history.partition(topic, 0);
        let end = history.end();
        let from = history.start().max(end.saturating_sub(count));
        if from == end {
            // What there was to be was refused.
            return Ok(());
        }
        let value = |offset| history.value(offset).expect("it was sent").to_vec();
        let values: Vec<Vec<u8>> = (from..end).map(value).collect();
        let records: Vec<_> = values.iter().map(|v| Record::new(v).dedup_by_value()).collect();
        let sent = self
            .broker()
            .producer()
            .build()
            .and_then(|producer| producer.send_batch(topic, 0, &records))
            .and_then(|ack| Ok((ack, self.broker().admin().durable_offset(topic, 0)?)));
        let sent = if self.disk.is_on() { sent } else { sent.and(Err(Error::Closed)) };
        match sent {
            Ok((ack, durable)) => {
                assert!(ack.offsets().map(|offset| offset.get()).eq(from..end), "{ack:?}");
                assert_eq!(ack.duplicates, end - from, "each was there");
                if durability == Durability::Fsync {
                    assert!(durable.get() >= end, "acknowledged before it was durable");
                    self.history.partition(topic, 0).tell_durable(end);
                }
                Ok(())
            }
            Err(error) => self.noted(Err(error)),
        }
    }

    /// Queues records of these sizes for partition 0, each a batch of its own, and waits for all.
    pub(crate) fn enqueue(&mut self, topic: &str, sizes: &[usize]) -> Step {
        let number = self.history.topics[topic].number;
        let durability = self.history.topics[topic].durability;
        let values: Vec<Vec<u8>> = sizes
            .iter()
            .map(|bytes| {
                self.history.values_made += 1;
                value(number, 0, self.history.values_made, *bytes)
            })
            .collect();
        for value in &values {
            self.history.partition(topic, 0).sending(vec![value.clone()]);
        }
        let timeout = Duration::from_millis(2);
        let producer = self.broker().producer().batch_bytes(1).delivery_timeout(timeout).build();
        let queued = producer.map(|producer| {
            let queue = |value: &Vec<u8>| producer.enqueue(topic, Record::new(value).partition(0));
            let queued: Vec<_> = values.iter().map(queue).collect();
            // By its drop.
            drop(producer);
            queued
        });
        let answers: Vec<_> = match queued {
            Ok(queued) => queued.into_iter().map(|d| d.and_then(|d| d.wait())).collect(),
            Err(error) => values.iter().map(|_| Err(error.clone())).collect(),
        };
        if !self.disk.is_on() {
            return self.noted(Err(Error::Closed));
        }
        let epoch = self
            .broker()
            .admin()
            .describe(topic)
            .map(|described| described.partitions[0].leader_epoch.get())?;
        // Now that it is known: what was not written leaves no gap.
        let history = self.history.partition(topic, 0);
        history.take_back(values.len());
        let mut step = Ok(());
        for (value, answer) in values.into_iter().zip(answers) {
            match answer {
                Ok(ack) => {
                    let end = ack.offset.get() + 1;
                    history.sending(vec![value]);
                    history.acknowledge(ack.offset.get(), end, epoch);
                    if durability == Durability::Fsync {
                        history.tell_durable(end);
                    }
                }
                Err(error) => {
                    if error.outcome() != Outcome::NotWritten {
                        history.sending(vec![value]);
                    }
                    step = Err(error);
                }
            }
        }
        self.note_durable();
        self.noted(step)
    }

    /// What retention may delete of a partition from now on.
    fn retaining(&mut self, topic: &str, partition: u32) {
        let topic_history = &self.history.topics[topic];
        for settings in [topic_history.settings, topic_history.settings_asked] {
            let age = settings.retention.map(|age| i64::try_from(age.as_millis()).expect("short"));
            if age.is_some() || settings.retention_bytes.is_some() {
                self.history.partition(topic, partition).retaining(age, settings.retention_bytes);
            }
        }
    }

    /// Deletes the records below an offset.
    pub(crate) fn delete_records(&mut self, topic: &str, before: u64) -> Step {
        self.history.partition(topic, 0).trimming(before);
        let deleted = self.broker().admin().delete_records(topic, 0, before.into());
        self.noted(deleted)?;
        self.history.partition(topic, 0).trimmed(before);
        self.note_durable();
        Ok(())
    }

    /// Changes a topic.
    pub(crate) fn alter(&mut self, topic: &str, change: impl FnOnce(&mut Settings)) -> Step {
        let told = self.history.topics.get_mut(topic).expect("a workload knows its topics");
        let mut settings = told.settings;
        change(&mut settings);
        told.settings_asked = settings;
        let altered = self.broker().admin().alter(topic, settings.change());
        self.noted(altered)?;
        let described = self.broker().admin().describe(topic);
        let now = described.as_ref().map(Settings::of);
        assert_eq!(now.ok(), Some(settings), "it is in effect at once");
        self.history.topics.get_mut(topic).expect("it is there").settings = settings;
        Ok(())
    }

    /// Adds partitions.
    pub(crate) fn add_partitions(&mut self, topic: &str, total: u32) -> Step {
        let told = self.history.topics.get_mut(topic).expect("a workload knows its topics");
        let count = usize::try_from(total).expect("few");
        told.partitions.resize(count, PartitionHistory::default());
        let handle = self.broker().topic(topic);
        let added = self.broker().admin().add_partitions(topic, total);
        self.noted(added)?;
        assert_eq!(handle.map(|topic| topic.partitions()).ok(), Some(total), "for every handle");
        self.history.topics.get_mut(topic).expect("it is there").partitions_confirmed = count;
        Ok(())
    }

    /// Makes a backup.
    pub(crate) fn backup(&mut self) -> Step {
        let mut of = self.history.clone();
        for partition in of.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            // All of it is made durable first.
            partition.tell_durable(partition.end());
        }
        (of.closed, of.lost, of.backup) = (false, None, None);
        of.errors.clear();
        self.history.backup = Some(Backup { of: Box::new(of), confirmed: false });
        let made = self.broker().admin().backup(BACKUP).map(drop);
        self.noted(made)?;
        if let Some(backup) = &mut self.history.backup {
            backup.confirmed = true;
        }
        self.note_durable();
        Ok(())
    }

    /// Waits until all of a topic's partition 0 is durable.
    pub(crate) fn wait_durable(&mut self, topic: &str) -> Step {
        let described = self.broker().admin().describe(topic);
        let end = match described {
            Ok(described) => described.partitions[0].log_end_offset.get(),
            Err(error) => return self.noted(Err(error)),
        };
        let waited = self.broker().admin().wait_durable(topic, 0, end.into());
        self.noted(waited)?;
        self.history.partition(topic, 0).tell_durable(end);
        Ok(())
    }

    /// Reads everything that a consumer can see. With `Fsync` it is promised from then on.
    pub(crate) fn consume(&mut self, topic: &str) -> Step {
        let consumer = self.broker().consumer().assign([(topic, 0)]).build();
        let polled = consumer.and_then(|mut consumer| {
            loop {
                let records = consumer.poll(Duration::ZERO)?;
                for record in &records {
                    let sent =
                        self.history.topics[topic].partitions[0].value(record.offset().get());
                    assert_eq!(record.value(), sent, "what is read is what was sent");
                }
                if records.is_empty() {
                    return Ok(consumer.positions());
                }
            }
        });
        let positions = match polled {
            Ok(positions) => positions,
            Err(error) => return self.noted(Err(error)),
        };
        let read = positions.values().next().expect("one partition is assigned").get();
        if self.history.topics[topic].durability == Durability::Fsync {
            self.history.partition(topic, 0).tell_durable(read);
        }
        Ok(())
    }

    /// Whatever the broker tells to be durable is promised.
    fn note_durable(&mut self) {
        let admin = self.broker().admin();
        let on = self.disk.is_on();
        for (name, topic) in self.history.topics.iter_mut().filter(|_| on) {
            for (number, partition) in (0..).zip(&mut topic.partitions) {
                if topic.life == Life::Live
                    && let Ok(durable) =
                        admin.durable_offset(name.as_str(), PartitionId::new(number))
                {
                    partition.tell_durable(durable.get());
                }
            }
        }
    }

    fn noted(&mut self, step: Step) -> Step {
        let step = if self.disk.is_on() { step } else { step.and(Err(Error::Closed)) };
        if let Err(error) = &step {
            self.history.errors.push(error.clone());
        }
        step
    }
}

fn settings_of(config: &TopicConfig) -> Settings {
    static KNOWN: Mutex<BTreeMap<String, Settings>> = Mutex::new(BTreeMap::new());
    let text = format!("{config:?}");
    let mut known = KNOWN.lock().expect("no panic while it is held");
    *known.entry(text).or_insert_with(|| ask_settings_of(config))
}

fn ask_settings_of(config: &TopicConfig) -> Settings {
    // A topic of this configuration tells.
    let broker = open_broker(&SimDisk::new(), &ManualClock::new(0)).expect("a new disk");
    broker.create_topic("t", config.clone()).expect("it is a configuration");
    Settings::of(&broker.admin().describe("t").expect("it is there"))
}

/// A value that no other record has: its name, then filler that depends on it.
fn value(topic: u32, partition: u32, number: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("t{topic}/{partition}/{number} ").into_bytes();
    let named = value.len();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while value.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend(state.to_le_bytes());
    }
    value.truncate(bytes.max(named));
    value
}
