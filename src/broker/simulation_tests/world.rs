//! The broker, what was appended and what was read, and every step that can be taken.
//!
//! Not here: what goes wrong (`faults`), what has to hold (`check`).

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disks::{Disks, dir};
use super::silence::{INTERVAL, Stalls, TIMEOUT};
use crate::broker::crew::{CrewQueue, Work};
use crate::config::{Acks, Compression, Durability, FETCH_BYTES, ManualClock, Reads, TopicConfig};
use crate::error::Error;
use crate::format::Record;
use crate::format::testing::Random;
use crate::fs::sim::SimDisk;
use crate::id::{LeaderEpoch, Offset, PartitionId, VolumeId};
use crate::log::{Appended, Log, ProducerIdentity, ReadCursor};
use crate::partition::{Partition, Wanted};
use crate::{Background, Broker, VolumeDescription, VolumeState};

pub(super) const PARTITIONS: u32 = 2;
/// How many volumes may be added.
const SPARES: usize = 2;
const TOPIC: &str = "t";

/// Somebody waits for what was appended.
pub(super) struct Waiter {
    partition: u32,
    appended: Appended,
    acks: Acks,
    value: u64,
}

/// What is known of one partition.
#[derive(Default)]
pub(super) struct Known {
    /// The values that have been readable, and were not lost to what the durability does not
    /// survive, each with the epoch of its record.
    pub(super) committed: Vec<(LeaderEpoch, u64)>,
    /// The high watermark after the last step of this process.
    pub(super) high_watermark: u64,
    /// Since a power cut nobody looked what is left.
    pub(super) may_have_lost: bool,
    /// By place of a replica: up to where it was compared, and how often its log was cut then.
    pub(super) compared: Vec<(usize, u64)>,
}

macro_rules! seen {
    ($($field:ident)*) => {
        /// What happened how often: a test of what never happens tests nothing.
        #[derive(Debug, Default)]
        pub(super) struct Seen {
            $(pub(super) $field: usize,)*
        }

        impl Seen {
            pub(super) fn add(&mut self, other: &Seen) {
                $(self.$field += other.$field;)*
            }

            pub(super) fn check_all_happened(&self) {
                $(assert!(self.$field > 0, "never seen: {self:#?}");)*
            }
        }
    };
}

seen! {
    appended committed acknowledged cut_off not_enough not_leader offline power_cut killed closed
    lost failed put_out silent hung waited_for filled shrunk left_behind restored trimmed rotten
    mended replaced drained
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) clock: ManualClock,
    /// Those of the store's volumes, of volumes that were removed, and of such as may be added.
    pub(super) disks: Vec<SimDisk>,
    /// Which are the store's volumes.
    pub(super) there: Vec<usize>,
    /// One of which it is not known whether it is of the store: adding or removing it failed.
    pub(super) doubtful: Option<usize>,
    /// One that everything is moved off, to be replaced by an empty one then.
    pub(super) leaving: Option<usize>,
    /// `None` while it is closed.
    pub(super) broker: Option<Broker>,
    pub(super) durability: Durability,
    pub(super) known: Vec<Known>,
    pub(super) waiters: Vec<Waiter>,
    producer: Option<ProducerIdentity>,
    pub(super) values: u64,
    /// Volumes whose disk is given nothing to do for a while.
    pub(super) stalls: Stalls,
    /// One on which something has gone bad that is not mended yet.
    pub(super) rotten: Option<usize>,
    /// Whether the broker asks its volumes if they are there.
    pub(super) asks: bool,
    /// Which faults this seed leaves out: each combination finds something else.
    pub(super) spared: u64,
    pub(super) trace: u64,
    pub(super) seen: Seen,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let volumes = [2, 3, 3, 4][random.below(4)];
        let mut world = Self::on(volumes, random, seed);
        let replicas = u16::try_from(2 + world.random.below(2)).expect("small");
        let replicas = replicas.min(u16::try_from(volumes).expect("small"));
        let min_insync = 1 + u16::try_from(world.random.below(2)).expect("small");
        world.begin(replicas, min_insync);
        world
    }

    /// Three replicas, of which two at least have what is acknowledged. In a calm one nothing goes
    /// wrong by itself.
    pub(super) fn of_three(seed: u64, is_calm: bool) -> Self {
        let mut world = Self::on(3, Random::new(seed), seed);
        if is_calm {
            world.spared = u64::MAX;
        }
        world.begin(3, 2);
        world
    }

    fn on(volumes: usize, mut random: Random, seed: u64) -> Self {
        let spared = random.next() & random.next();
        let asks = random.chance(2);
        let durability = match random.below(4) {
            0 | 1 => Durability::Fsync,
            2 => Durability::Os,
            _ => Durability::Interval(Duration::from_millis(100)),
        };
        let mut world = Self {
            random,
            clock: ManualClock::new(1_000_000),
            disks: (0..volumes + SPARES).map(|_| SimDisk::new()).collect(),
            there: (0..volumes).collect(),
            doubtful: None,
            leaving: None,
            broker: None,
            durability,
            known: (0..PARTITIONS).map(|_| Known::default()).collect(),
            waiters: Vec::new(),
            producer: None,
            values: 0,
            stalls: Stalls::default(),
            rotten: None,
            asks,
            spared,
            trace: seed,
            seen: Seen::default(),
        };
        world.open(&[]);
        world
    }

    fn begin(&mut self, replicas: u16, min_insync: u16) {
        let config = TopicConfig::new()
            .partitions(PARTITIONS)
            .replicas(replicas)
            .min_insync(min_insync)
            .segment_bytes(64 << 10)
            .durability(self.durability);
        self.broker().create_topic(TOPIC, config).expect("it is made");
    }

    pub(super) fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("it is open")
    }

    /// Opens the store without these volumes. False if they are too many.
    pub(super) fn open(&mut self, without: &[usize]) -> bool {
        if let Some(doubtful) = self.doubtful.take() {
            self.there.push(doubtful);
            match self.open_those(without) {
                Err(Error::InvalidConfig(_)) => self.there.retain(|it| *it != doubtful),
                Err(Error::MissingVolumes(_)) if !without.is_empty() => {
                    self.there.retain(|it| *it != doubtful);
                    self.doubtful = Some(doubtful);
                    return false;
                }
                opened => {
                    let is_open = self.is_open(opened, without);
                    let volumes = self.broker().inner().describe_volumes().expect("it is open");
                    let is_known = volumes.iter().any(|it| it.dir.as_ref() == Some(&dir(doubtful)));
                    if !is_known {
                        // There is no volume in the folder.
                        self.there.retain(|it| *it != doubtful);
                    }
                    return is_open;
                }
            }
        }
        let opened = self.open_those(without);
        self.is_open(opened, without)
    }

    fn open_those(&mut self, without: &[usize]) -> Result<Broker, Error> {
        let there = self.there.iter().filter(|volume| !without.contains(volume));
        let mut builder =
            Broker::builder().volumes(there.map(|volume| dir(*volume))).seed(self.random.next());
        builder.disk = Arc::new(Disks(self.disks.clone()));
        let builder = builder.clock(self.clock.clone()).background(Background::Manual);
        builder.heartbeat_interval(INTERVAL).heartbeat_timeout(TIMEOUT).open()
    }

    fn is_open(&mut self, opened: Result<Broker, Error>, without: &[usize]) -> bool {
        match opened {
            Ok(broker) => self.broker = Some(broker),
            Err(Error::MissingVolumes(_)) if !without.is_empty() => return false,
            Err(error) => panic!("it opens: {error:?}"),
        }
        // One that was put out for a while stays, once it is back.
        let volumes = self.broker().inner().describe_volumes().expect("it is open");
        let drains = |at: &usize| {
            let is_it = |it: &VolumeDescription| it.dir.as_ref() == Some(&dir(*at));
            volumes.iter().any(|it| is_it(it) && it.state == VolumeState::Draining)
        };
        self.leaving = self.there.iter().copied().find(drains);
        self.producer = None;
        self.begin_to_ask();
        for known in &mut self.known {
            known.compared.clear();
            known.high_watermark = 0;
        }
        true
    }

    pub(super) fn partition(&self, number: u32) -> Arc<Partition> {
        let topic = self.broker().topic(TOPIC).expect("it is there");
        Arc::clone(topic.state.partition(PartitionId::new(number)).expect("it is there"))
    }

    /// The place of a volume among the disks.
    pub(super) fn disk_of(&self, volume: VolumeId) -> Option<usize> {
        let member = self.broker().inner().member(volume)?;
        (0..self.disks.len()).find(|disk| member.volume.dir == dir(*disk))
    }

    pub(super) fn step(&mut self) {
        self.clock.advance(Duration::from_millis(self.random.below(40) as u64));
        match self.random.below(200) {
            0..45 => self.append(),
            45..95 => self.work(Work::Copy),
            95..140 => self.work(Work::Sync),
            140..155 => self.settle(),
            155..163 => self.broker().inner().oversee(false),
            163..173 => self.oversee(),
            173..175 => self.read(),
            175..183 => self.housekeep(),
            183 => self.trim(),
            184 => self.clock.advance(Duration::from_secs(4)),
            _ => self.go_wrong(),
        }
    }

    fn append(&mut self) {
        let number = u32::try_from(self.random.below(PARTITIONS as usize)).expect("small");
        let partition = self.partition(number);
        let acks = [Acks::None, Acks::Leader, Acks::All, Acks::All][self.random.below(4)];
        if self.producer.is_none() {
            self.producer = self.broker().inner().new_producer(None).ok();
        }
        let Some(producer) = &self.producer else { return };
        if partition.waits_for_reserve() && self.broker().inner().fill_reserve(&partition).is_err()
        {
            return;
        }
        self.values += 1;
        let value = self.values;
        let padding = [8, 100, 1_000, 9_000][self.random.below(4)];
        let mut bytes = value.to_le_bytes().to_vec();
        bytes.resize(padding, 0);
        match partition.begin(producer, &[Record::new(&bytes)], Compression::None, acks) {
            Ok(appended) => {
                self.seen.appended += 1;
                self.waiters.push(Waiter { partition: number, appended, acks, value });
            }
            Err(Error::NotEnoughReplicas(_)) => self.seen.not_enough += 1,
            Err(Error::NotLeader { .. }) => self.seen.not_leader += 1,
            Err(_) if partition.is_offline() => self.seen.offline += 1,
            Err(Error::StorageFull(_)) => self.seen.filled += 1,
            // Of one replica, whose disk fails.
            Err(_) if partition.is_alone() => {}
            Err(error) => panic!("an append failed: {error:?}"),
        }
    }

    /// Of volumes that are out, or of the others.
    fn queues_of(&self, out: bool) -> Vec<(usize, Arc<CrewQueue>)> {
        let members = self.broker().inner().members().iter();
        let of = |volume| self.disk_of(volume).expect("it has a disk");
        members
            .filter(|member| member.is_gone() == out)
            .filter_map(|member| Some((of(member.id), Arc::clone(member.queue.as_ref()?))))
            .collect()
    }

    pub(super) fn queues(&self) -> Vec<(usize, Arc<CrewQueue>)> {
        self.queues_of(false)
    }

    fn work(&mut self, work: Work) {
        let queues = self.queues();
        if queues.is_empty() {
            // All of them have failed.
            self.reopen_cleanly();
            return;
        }
        // What a volume was at when it was put out, it may still do.
        let late = self.queues_of(true);
        if self.random.chance(8) && !late.is_empty() {
            let (_, queue) = &late[self.random.below(late.len())];
            queue.step(work, self.broker().inner().controller().as_ref());
            return;
        }
        let (disk, queue) = &queues[self.random.below(queues.len())];
        let goes_on = match work {
            Work::Copy => self.stalls.copies(*disk),
            Work::Sync => self.stalls.syncs(*disk),
        };
        if goes_on {
            queue.step(work, self.broker().inner().controller().as_ref());
        }
    }

    /// Whoever waits looks whether it may go.
    pub(super) fn settle(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let chosen = self.random.below(self.waiters.len());
        self.settle_one(chosen);
    }

    fn settle_one(&mut self, chosen: usize) {
        let Waiter { partition, appended, acks, value } = &self.waiters[chosen];
        let (number, at) = (*partition as usize, appended.base.get());
        let partition = self.partition(*partition);
        let wanted = Wanted { acks: *acks, deadline: Some(Instant::now()) };
        match partition.acknowledge(appended, wanted) {
            Ok(()) if *acks == Acks::All => {
                let committed = &self.known[number].committed;
                let at = usize::try_from(at).expect("small");
                let found = committed.get(at).map(|(_, found)| *found);
                let hw = partition.high_watermark();
                // What is read at this moment is as good.
                let is_there = found == Some(*value) || (found.is_none() && hw.get() > at as u64);
                assert!(is_there, "I9: {value} at {at} was acknowledged, and {found:?} is there");
                self.seen.acknowledged += 1;
            }
            Err(Error::TimedOut { .. }) => return,
            Err(Error::Truncated { .. }) => self.seen.cut_off += 1,
            Err(Error::NotEnoughReplicasAfterAppend(_)) => self.seen.shrunk += 1,
            Ok(())
            | Err(Error::Halted { .. } | Error::LeaderNotAvailable(_) | Error::StorageFull(_)) => {}
            Err(error) => panic!("an acknowledgement failed: {error:?}"),
        }
        self.waiters.swap_remove(chosen);
    }

    /// Somebody reads from anywhere: what is bad where it is read is noticed.
    fn read(&mut self) {
        let number = u32::try_from(self.random.below(PARTITIONS as usize)).expect("small");
        let partition = self.partition(number);
        let start = partition.log().start_offset().get();
        let below = usize::try_from(partition.high_watermark().get().saturating_sub(start));
        let Ok(below @ 1..) = below else { return };
        let at = Offset::new(start + self.random.below(below) as u64);
        // What comes of it shows elsewhere: another disk may fail at this moment.
        let _ = partition.read(&mut ReadCursor::at(at), FETCH_BYTES, Reads::Copied);
    }

    /// Reads everything everywhere, and mends it. True if nothing is damaged any more.
    pub(super) fn scrub(&mut self) -> bool {
        let Ok(report) = self.broker().inner().scrub() else { return false };
        self.seen.mended += report.damage.iter().filter(|damage| damage.mended).count();
        report.is_whole()
    }

    fn housekeep(&mut self) {
        let number = u32::try_from(self.random.below(PARTITIONS as usize)).expect("small");
        let partition = self.partition(number);
        let now = self.clock.elapsed_now();
        for replica in partition.replicas() {
            let Some(disk) = self.disk_of(replica.volume) else { continue };
            if self.stalls.copies(disk) {
                let _ = replica.log.housekeep(now);
            }
        }
    }

    fn trim(&mut self) {
        let number = u32::try_from(self.random.below(PARTITIONS as usize)).expect("small");
        let partition = self.partition(number);
        let (start, end) = (partition.log().start_offset(), partition.high_watermark());
        if end > start
            && partition.delete_records(Offset::new(start.get().midpoint(end.get()))).is_ok()
        {
            self.seen.trimmed += 1;
        }
    }

    /// The faults stop: everybody catches up, and everything is committed.
    pub(super) fn calm_down(&mut self) {
        for disk in &self.disks {
            disk.disarm();
            disk.set_capacity(1 << 40);
        }
        self.reopen_cleanly();
        for round in 0.. {
            self.work_off();
            self.check();
            if self.is_calm() && self.scrub() {
                break;
            }
            if round == 200 {
                let damage = self.broker().inner().scrub().map(|report| report.damage);
                let volumes = self.broker().inner().describe_volumes();
                panic!("not calm: {volumes:#?} {damage:?} {}", self.describe());
            }
        }
        self.check_all_is_read();
        self.producer = None;
        for number in 0..PARTITIONS {
            let partition = self.partition(number);
            let producer = self.broker().inner().new_producer(None).expect("it is open");
            self.values += 1;
            let record = self.values.to_le_bytes();
            let appended =
                partition.begin(&producer, &[Record::new(&record)], Compression::None, Acks::All);
            appended.unwrap_or_else(|e| panic!("it is appended: {e:?} {}", self.describe()));
        }
    }

    /// Some time, and most of what there is to be done.
    pub(super) fn work_off(&mut self) {
        self.clock.advance(Duration::from_millis(300));
        for (_, queue) in self.queues() {
            for work in [Work::Copy, Work::Sync] {
                while queue.step(work, self.broker().inner().controller().as_ref()) {
                    if self.random.chance(20) {
                        break;
                    }
                }
            }
        }
        self.oversee();
    }

    fn is_calm(&self) -> bool {
        let volumes = self.broker().inner().describe_volumes().expect("it is open");
        let stay = volumes.iter().filter(|it| it.state == VolumeState::Live).count();
        (0..PARTITIONS).all(|number| {
            let partition = self.partition(number);
            let in_sync = match partition.standing() {
                Some(standing) => standing.isr.len(),
                None => usize::from(partition.is_alone()),
            };
            let end = partition.log().end_offset();
            let assigned = self.broker().topic(TOPIC).expect("there").config();
            in_sync == usize::from(assigned.replicas_or_default()).min(stay)
                && partition.high_watermark() == end
                && partition.logs().all(|log| log.end_offset() == end)
                && partition.standing().is_none_or(|standing| {
                    let is_aligned = |log: &Log| {
                        let (role, epoch) = (&log.role, standing.epoch);
                        role.leads_in(epoch) || (role.follows_in(epoch) && !log.is_catching_up())
                    };
                    partition.logs().all(|log| is_aligned(log))
                })
        })
    }

    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for number in 0..PARTITIONS {
            let partition = self.partition(number);
            let _ = write!(
                text,
                "\npartition {number}: {:?} hw {:?}",
                partition.standing(),
                partition.high_watermark(),
            );
            for replica in partition.replicas() {
                let _ = write!(
                    text,
                    "\n  {} start {} end {} durable {} catching up {} {:?} {:?}",
                    replica.volume,
                    replica.log.start_offset(),
                    replica.log.end_offset(),
                    replica.log.durable_offset(),
                    replica.log.is_catching_up(),
                    replica.log.role,
                    replica.log.check_latch().err(),
                );
            }
        }
        text
    }
}

impl ManualClock {
    pub(super) fn elapsed_now(&self) -> Duration {
        crate::Clock::elapsed(self)
    }
}
