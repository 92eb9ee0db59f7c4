//! Opening a store: the volume, the metadata, every partition's log, and a report of what was
//! found.
//!
//! Not here: what a log does for it (`log::recover`).
//!
//! Order of an open: lock; incarnation; metadata, made anew if it is lost and that was asked for;
//! the folders of deleted topics; every partition's log; after an unclean end a new leader epoch,
//! durable before anything is appended.
//!
//! Failure   a partition that cannot be opened is refused by itself, and told; what concerns the
//!           whole store refuses that.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Inner, change, log_options};
use crate::broker::background::{Background, Worker};
use crate::broker::builder::BrokerBuilder;
use crate::broker::controller::{Controller, assignment_of, ballot, elected, unclean_election};
use crate::broker::ids::Ids;
use crate::broker::metadata::Metadata;
use crate::broker::metrics::Retired;
use crate::broker::producers::ProducerCounts;
use crate::broker::rebuild::rebuild;
use crate::broker::report::{RecoveryReport, TailCut};
use crate::broker::scrub::Scrubber;
use crate::broker::sender::Sender;
use crate::broker::topic::{TopicState, from_meta};
use crate::broker::volume::{METADATA, Volume};
use crate::broker::volumes::{
    FIRST, Member, Shared, leave_as_found, make_the_rest, number, open_metadata, open_volumes,
    placed_on, share_a_device,
};
use crate::config::{Durability, TopicConfig};
use crate::error::{Error, NotAvailable, Result};
use crate::format::{
    Assignment, Identity, MetadataRecord, TopicMeta, parse_partition_folder, parse_topic_folder,
    partition_folder,
};
use crate::fs::{EntryKind, ForkMark};
use crate::id::{Incarnation, LeaderEpoch, PartitionId, VolumeId};
use crate::log::{Entrance, Handles, LiveProducers, Log, LogReport, Mode, Opening, Place};
use crate::partition::{Counts, Crew, Overseer, Partition, Replica, Rules, Slots, Standing, Term};
use crate::trace;

impl Inner {
    pub(super) fn open(options: BrokerBuilder) -> Result<Self> {
        let mut ids = Ids::new(options.seed);
        trace::span!("open", dir = %options.volumes.first().cloned().unwrap_or_default().display());
        let mut volumes = open_volumes(&options, &mut ids)?;
        let incarnation = volumes[0].incarnation();
        let mut report = RecoveryReport::default();
        let handles = Arc::new(Handles::default());
        let fork = Arc::new(ForkMark::new());
        let producers = Arc::new(LiveProducers::new(incarnation, Arc::clone(&fork)));
        let shared = Shared { clock: &options.clock, handles: &handles, producers: &producers };
        let opened = open_metadata(volumes.iter(), options.force, shared, &mut report.notes);
        let opened = opened.and_then(|metadata| must_be_there(&volumes, metadata));
        let mut metadata = match (opened, &options.volumes[..]) {
            (Err(Error::Damaged(lost)), [_]) if lost.can_be_rebuilt && options.rebuild => {
                rebuild(&volumes[0], shared, &mut report)?
            }
            (Err(error), _) => {
                if is_as_found(&error) {
                    // Who gives the rest of the volumes, or makes the metadata anew, finds these
                    // as they were left.
                    leave_as_found(&volumes);
                }
                return Err(error);
            }
            (Ok(metadata), _) => metadata,
        };
        if metadata.is_new() && volumes.len() < options.volumes.len() {
            make_the_rest(&options, &mut volumes, &mut ids)?;
            metadata = open_metadata(volumes.iter(), options.force, shared, &mut report.notes)?;
        }
        if !metadata.is_new() && options.volumes.len() > metadata.volumes().count().max(1) {
            leave_as_found(&volumes);
            let why = "more directories than the store has volumes";
            return Err(Error::invalid_config("volumes", why));
        }
        let is_clean = |volume: &Volume| matches!(volume.entrance, Entrance::Clean { .. });
        report.clean = volumes.iter().all(is_clean);
        for producer in metadata.producers() {
            producers.hold(producer.id, producer.epoch, &producer.name);
        }
        for volume in &volumes {
            check_folders(volume, &metadata, &mut report)?;
        }
        let mode = volumes[0].mode();
        let (members, changes) = number(volumes, &metadata, &options)?;
        let members = Slots::new(members);
        let is_there = |id: &VolumeId| members.iter().any(|member| member.id == *id);
        let known = metadata.volumes().map(|volume| volume.id);
        report.missing_volumes = known.filter(|id| !is_there(id)).collect();
        report.notes.extend(share_a_device(&members));
        if mode == Mode::ReadWrite {
            if !changes.is_empty() {
                // Of one volume it is the incarnation; of several, which may be there or not, no
                // one tells how often the store was opened.
                producers.count_from(Incarnation::new(metadata.lead().get().into()));
                change(&members, &mut metadata, changes)?;
            }
            if metadata.is_new() {
                metadata.snapshot()?;
            }
        }
        let controller = Arc::new(Controller::new(Arc::clone(&fork)));
        if mode == Mode::ReadWrite && !options.background.is_inline() {
            let threaded = options.background == Background::Thread;
            if members.count() > 1 && threaded {
                metadata.wait_at_most(options.heartbeat_timeout);
            }
            // Also where one alone is there: its replicas are still of several.
            let several = members.count() > 1 || metadata.volumes().count() > 1;
            let overseer: Arc<dyn Overseer> = Arc::clone(&controller) as _;
            for member in members.iter().filter(|_| threaded) {
                member.start(several.then_some(&overseer), &fork)?;
            }
        }
        let inner = Self {
            members,
            handles,
            producers,
            producer_counts: ProducerCounts::default(),
            opened: options.clock.now_ms(),
            clock: options.clock,
            mode,
            metadata: Mutex::new(metadata),
            topics: RwLock::new(BTreeMap::new()),
            ids: Mutex::new(ids),
            sender: Sender::new(options.background, Arc::clone(&fork)),
            controller,
            scrubber: Arc::new(Scrubber::new(options.scrub_interval, Arc::clone(&fork))),
            #[cfg(test)]
            only: Mutex::default(),
            replica_lag_max: options.replica_lag_max,
            heartbeats: (options.heartbeat_interval, options.heartbeat_timeout),
            background: options.background,
            root_disk: options.disk,
            fork,
            report,
            retired: Retired::default(),
            closed: AtomicBool::new(false),
            closing: Mutex::default(),
            close_ended: Condvar::new(),
            endings: Arc::default(),
        };
        inner.open_topics()
    }

    /// Opens every topic's logs, and finishes deletions.
    fn open_topics(mut self) -> Result<Self> {
        let metas: Vec<TopicMeta> = self.metadata.get_mut().topics().cloned().collect();
        let mut report = std::mem::take(&mut self.report);
        let mut opened = Vec::new();
        for meta in &metas {
            if meta.deleted {
                if self.mode == Mode::ReadWrite
                    && let Err(error) = self.purge(meta)
                {
                    report
                        .notes
                        .push(format!("topic {} is not wholly deleted: {error}", meta.name));
                }
                continue;
            }
            let on = |partition| placed_on(&self.metadata.lock(), meta.id, partition);
            let log = |volume: &_, opening| self.open_log(volume, opening, &mut report);
            let topic = self.assemble(meta, &on, log)?;
            opened.push(topic);
        }
        let marks = if report.marks_lost { Marks::SomeLost } else { Marks::AllThere };
        let epoch = self.new_epoch(&opened, marks)?;
        self.elect_at_open(&opened)?;
        for state in opened {
            self.start(state.partitions.iter(), epoch);
            self.topics.get_mut().insert(Arc::clone(&state.name), state);
        }
        self.report = report;
        #[cfg(feature = "tracing")]
        trace_report(&self.report);
        trace::event!(INFO, topics = self.topics.get_mut().len(), "the store was opened");
        Ok(self)
    }

    /// The epoch to lead with: the last one, or after an unclean end one that no batch has, lost
    /// ones included.
    fn new_epoch(&mut self, topics: &[Arc<TopicState>], marks: Marks) -> Result<LeaderEpoch> {
        let seen = topics
            .iter()
            .flat_map(|topic| topic.partitions.iter())
            .flat_map(|partition| partition.logs().map(|log| log.latest_epoch()))
            .max()
            .unwrap_or_default();
        let clean = self.members.iter().all(Member::was_clean);
        let metadata = self.metadata.get_mut();
        let led = metadata.assignments().map(|assigned| assigned.epoch).max().unwrap_or_default();
        let floor = metadata.epoch_floor().max(seen).max(led);
        if self.mode == Mode::ReadOnly || (clean && marks == Marks::AllThere) {
            return Ok(floor);
        }
        let epoch = LeaderEpoch::new(floor.get() + 1);
        change(&self.members, metadata, vec![MetadataRecord::EpochFloor { epoch }])?;
        Ok(epoch)
    }

    /// Elects a leader for every partition of several replicas; one change of the metadata says of
    /// all of them what is not as it was.
    fn elect_at_open(&mut self, topics: &[Arc<TopicState>]) -> Result<()> {
        if self.mode == Mode::ReadOnly {
            return Ok(());
        }
        let partitions = topics.iter().flat_map(|topic| topic.partitions.iter());
        let (mut decided, mut records) = (Vec::new(), Vec::new());
        for partition in partitions.filter(|partition| !partition.is_alone()) {
            let Some(assigned) = assignment_of(self.metadata.get_mut(), partition) else {
                continue;
            };
            let (candidates, unclean) = {
                let metadata = self.metadata.lock();
                let candidates = self.candidates(&metadata, &assigned, partition, true);
                (candidates, unclean_election(&metadata, partition))
            };
            let election = ballot(&assigned, &candidates).elect(unclean);
            let Some(mut election) = election else {
                partition.go_offline(partition.not_available(partition.volume()));
                continue;
            };
            partition.leave_out_the_empty(&mut election.term);
            let members = assigned.replicas.iter().filter(|replica| replica.in_sync);
            let before: Vec<VolumeId> = members.map(|replica| replica.volume).collect();
            let as_before = assigned.leader == Some(election.term.leader);
            let same_isr = before.iter().all(|volume| election.term.isr.contains(volume));
            if as_before && same_isr {
                // An epoch that is durable as this partition's, or as everyone's. One that only
                // other partitions have been led in may be given to another leader here.
                election.term.epoch = assigned.epoch;
            } else {
                let leader = partition.on(election.term.leader);
                let start = leader.map(|replica| replica.log.end_offset()).unwrap_or_default();
                records.push(elected(&assigned, &election, start));
            }
            decided.push((partition, self.seats(&assigned), election));
        }
        if !records.is_empty() {
            change(&self.members, self.metadata.get_mut(), records)?;
        }
        for (partition, seats, election) in decided {
            self.count_if_unclean(&election);
            if let Err(error) = partition.lead(&election.term, &seats, true) {
                // Another one leads, once that one is put out.
                let volume = election.term.leader;
                if let Some(replica) = partition.on(volume) {
                    self.controller.failed(volume, replica.incarnation, &error);
                }
                partition.go_offline(error);
            }
        }
        Ok(())
    }

    /// The first leaders of new partitions, as they were placed.
    pub(super) fn begin<'p>(
        &self,
        metadata: &Metadata,
        partitions: impl Iterator<Item = &'p Arc<Partition>>,
    ) {
        for partition in partitions.filter(|partition| !partition.is_alone()) {
            let Some(assigned) = assignment_of(metadata, partition) else { continue };
            let Some(leader) = assigned.leader else { continue };
            let isr = assigned.replicas.iter().map(|replica| replica.volume).collect();
            let term = Term { epoch: assigned.epoch, leader, isr };
            if let Err(error) = partition.lead(&term, &self.seats(&assigned), true) {
                partition.go_offline(error);
            }
        }
    }

    /// A topic with the logs that `log` makes of each opening, on the volumes that it is on.
    pub(super) fn assemble(
        &self,
        meta: &TopicMeta,
        on: &dyn Fn(PartitionId) -> Vec<VolumeId>,
        mut log: impl FnMut(&Volume, Opening) -> Result<Arc<Log>>,
    ) -> Result<Arc<TopicState>> {
        let name: Arc<str> = Arc::from(meta.name.as_str());
        let config = from_meta(meta).ok_or_else(|| {
            Error::damaged(
                &self.volume().dir.join(METADATA),
                "a topic has a setting that is unknown or out of range",
            )
        })?;
        let partitions = self.partitions(meta, &config, 0..config.partitions, on, &mut log)?;
        Ok(Arc::new(TopicState::new(meta.id, name, config, partitions)))
    }

    /// Some of a topic's partitions.
    pub(super) fn partitions(
        &self,
        meta: &TopicMeta,
        config: &TopicConfig,
        numbers: Range<u32>,
        on: &dyn Fn(PartitionId) -> Vec<VolumeId>,
        log: &mut impl FnMut(&Volume, Opening) -> Result<Arc<Log>>,
    ) -> Result<Vec<Arc<Partition>>> {
        let name: Arc<str> = Arc::from(meta.name.as_str());
        let rules = Rules {
            counts: match config.durability {
                Durability::Fsync => Counts::Durable,
                Durability::Interval(_) | Durability::Os => Counts::End,
            },
            min_insync: config.min_insync_or_default().into(),
            replica_lag_max: self.replica_lag_max,
        };
        let mut partitions = Vec::new();
        for number in numbers {
            let partition = PartitionId::new(number);
            let holders = on(partition);
            let mut replicas = Vec::new();
            for holder in &holders {
                let Some(member) = self.member(*holder) else { continue };
                let opening = self.opening_of((meta, &name), config, partition, member)?;
                let log = log(&member.volume, opening)?;
                let reserve_spent = Arc::clone(&member.volume.reserve_spent);
                let crew = member.queue.as_ref().map(|queue| Arc::clone(queue) as Arc<dyn Crew>);
                let place = (*holder, member.volume.incarnation());
                replicas.push(Replica::new(place, log, reserve_spent, crew));
            }
            if replicas.is_empty() {
                // Nothing is ever done with the log of a partition whose volumes are not there.
                let missing = holders.first().copied().unwrap_or(FIRST);
                let why = NotAvailable { topic: Arc::clone(&name), partition, volume: missing };
                let member = self.first();
                let opening = self.opening_of((meta, &name), config, partition, member)?;
                let log = Log::refused(opening, Error::LeaderNotAvailable(Box::new(why)));
                let reserve_spent = Arc::clone(&member.volume.reserve_spent);
                let place = (missing, member.volume.incarnation());
                replicas.push(Replica::new(place, log, reserve_spent, None));
                partitions.push(Arc::new(Partition::alone(replicas.remove(0), rules)));
            } else if holders.len() > 1 && self.mode == Mode::ReadOnly {
                let metadata = self.metadata.lock();
                let Some(assigned) = metadata.assignment(meta.id, partition) else { continue };
                let seen = standing(assigned);
                // One of the ISR at least: another one may hold what never was committed.
                replicas.sort_by_key(|replica| {
                    (replica.volume != seen.leader, !seen.isr.contains(&replica.volume))
                });
                partitions.push(Arc::new(Partition::beside(replicas, rules, seen)));
            } else if holders.len() == 1 {
                let overseer: Arc<dyn Overseer> = Arc::clone(&self.controller) as _;
                let partition = Partition::alone(replicas.remove(0), rules);
                partitions.push(Arc::new(partition.with(overseer)));
            } else {
                let overseer: Arc<dyn Overseer> = Arc::clone(&self.controller) as _;
                partitions.push(Arc::new(Partition::of_several(replicas, rules, overseer)));
            }
        }
        Ok(partitions)
    }

    /// What the log of a partition is opened with, on a volume.
    pub(crate) fn opening_of(
        &self,
        (meta, name): (&TopicMeta, &Arc<str>),
        config: &TopicConfig,
        partition: PartitionId,
        member: &Member,
    ) -> Result<Opening> {
        let Member { volume, worker, .. } = member;
        Ok(Opening {
            place: Arc::new(Place {
                topic: Arc::clone(name),
                identity: Identity::new(meta.id, meta.salt, partition),
                dir: Self::topic_dir(volume, meta)?.join(partition_folder(partition)),
            }),
            disk: Arc::clone(&volume.disk),
            options: log_options(volume, config),
            mode: self.mode,
            clock: Arc::clone(&self.clock),
            housekeeper: worker.lock().as_ref().map(Worker::housekeeper),
            handles: Arc::clone(&self.handles),
            producers: Arc::clone(&self.producers),
        })
    }

    /// The log of a topic that was there before.
    pub(super) fn open_log(
        &self,
        volume: &Volume,
        opening: Opening,
        report: &mut RecoveryReport,
    ) -> Result<Arc<Log>> {
        let place = Arc::clone(&opening.place);
        let (log, mut found) = match Log::open_beside(&opening, volume.entrance) {
            // This partition only: the others are as good as ever.
            Err(refusal @ (Error::Incompatible { .. } | Error::Damaged(_))) => {
                (Log::refused(opening, refusal), LogReport::default())
            }
            opened => opened?,
        };
        if self.mode == Mode::ReadOnly {
            // A tail that is being written, or that a later open cuts: nothing was.
            found.cut = None;
        }
        tell(report, &place.topic, place.partition(), found);
        if let Err(error) = log.check_latch() {
            let (topic, partition) = (&place.topic, place.partition());
            report.notes.push(format!("topic {topic} partition {partition}: {error}"));
        }
        Ok(log)
    }

    /// Lets logs take appends.
    pub(super) fn start<'p>(
        &self,
        partitions: impl Iterator<Item = &'p Arc<Partition>>,
        epoch: LeaderEpoch,
    ) {
        for partition in partitions {
            if partition.is_alone() {
                partition.log().lead(epoch);
            }
            for replica in partition.replicas() {
                let Some(member) = self.member(replica.volume) else { continue };
                if let Some(worker) = member.worker.lock().as_ref() {
                    worker.add(&replica.log);
                }
            }
        }
    }
}

/// Whether an open that ends with this has changed nothing of the logs.
fn is_as_found(error: &Error) -> bool {
    match error {
        Error::MissingVolumes(_) => true,
        Error::Damaged(damage) => damage.can_be_rebuilt,
        _ => false,
    }
}

/// Refuses metadata that was never written to where it must have been.
fn must_be_there(volumes: &[Volume], metadata: Metadata) -> Result<Metadata> {
    for volume in volumes.iter().filter(|_| metadata.is_new()) {
        let topics = volume.topics_dir();
        let holds_topics = match volume.disk.list(&topics) {
            Ok(entries) => !entries.is_empty(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io("list", &topics, e)),
        };
        let (path, what) = (volume.dir.join(METADATA), "the metadata is missing");
        match volumes {
            [_] if holds_topics || volume.was_closed() => return Err(Error::lost(&path, what)),
            [_, _, ..] if holds_topics => return Err(Error::damaged(&path, what)),
            _ => {}
        }
    }
    Ok(metadata)
}

/// As the metadata says.
fn standing(assigned: &Assignment) -> Standing {
    let isr = assigned.replicas.iter().filter(|replica| replica.in_sync);
    let isr: Vec<VolumeId> = isr.map(|replica| replica.volume).collect();
    let leader = assigned.leader.or(isr.first().copied()).unwrap_or(FIRST);
    Standing { epoch: assigned.epoch, leader, isr }
}

/// Whether every log that a clean close marked still says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    AllThere,
    SomeLost,
}

/// What was found and done.
#[cfg(feature = "tracing")]
fn trace_report(report: &RecoveryReport) {
    if !report.clean {
        trace::event!(INFO, "the last close was not a clean one: the logs' ends were scanned");
    }
    for tail in &report.tails {
        trace::event!(
            WARN,
            topic = %tail.topic,
            partition = tail.partition.get(),
            offset = tail.at.get(),
            bytes = tail.bytes,
            "a torn tail was cut off"
        );
    }
    for damage in &report.damage {
        trace::event!(ERROR, %damage, "records cannot be read");
    }
    for stray in &report.strays {
        trace::event!(WARN, path = %stray.display(), "it belongs to no topic");
    }
    for note in &report.notes {
        trace::event!(WARN, %note, "found at open");
    }
}

fn tell(report: &mut RecoveryReport, topic: &Arc<str>, partition: PartitionId, found: LogReport) {
    if let Some((at, bytes)) = found.cut {
        report.tails.push(TailCut { topic: Arc::clone(topic), partition, at, bytes });
    }
    if found.good_beyond_end {
        report.notes.push(format!(
            "topic {topic} partition {partition}: good batches lay beyond the end; \
             they had never been acknowledged as durable"
        ));
    }
    if found.mark_lost {
        report.marks_lost = true;
        report.notes.push(format!(
            "topic {topic} partition {partition}: it was closed cleanly, and its last file does \
             not say so: that is damaged, or another one"
        ));
    }
    report.damage.extend(found.damage);
    report.strays.extend(found.strays);
}

/// Reports folders that belong to no topic.
fn check_folders(volume: &Volume, metadata: &Metadata, report: &mut RecoveryReport) -> Result<()> {
    let dir = volume.topics_dir();
    let entries = match volume.disk.list(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", &dir, e)),
    };
    for entry in entries {
        let known = parse_topic_folder(&entry.name)
            .is_some_and(|(name, id)| metadata.topics().any(|t| t.id == id && t.name == name));
        let path = dir.join(&entry.name);
        if !known || entry.kind != EntryKind::Dir {
            report.strays.push(path);
            continue;
        }
        let partitions = match volume.disk.list(&path) {
            // Deleted meanwhile by a live broker.
            Err(e)
                if volume.mode() == Mode::ReadOnly && e.kind() == std::io::ErrorKind::NotFound =>
            {
                continue;
            }
            listed => listed.map_err(|e| Error::io("list", &path, e))?,
        };
        let unknown = partitions.iter().filter(|p| parse_partition_folder(&p.name).is_none());
        report.strays.extend(unknown.map(|p| path.join(&p.name)));
    }
    Ok(())
}
