//! Opening a store: the volume, the metadata, every partition's log, and a report of what was
//! found.
//!
//! Not here: what a log does for it (`log::recover`).
//!
//! Order of an open: lock; incarnation; metadata; the folders of deleted topics; every partition's
//! log; after an unclean end a new leader epoch, durable before anything is appended.
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
use crate::broker::ids::Ids;
use crate::broker::metadata::Metadata;
use crate::broker::metrics::Retired;
use crate::broker::producers::ProducerCounts;
use crate::broker::report::{RecoveryReport, TailCut};
use crate::broker::sender::Sender;
use crate::broker::topic::{TopicState, from_meta};
use crate::broker::volume::{METADATA, Volume};
use crate::broker::volumes::{
    Member, Shared, leave_as_found, make_the_rest, number, open_metadata, open_volumes, placed_on,
    share_a_device,
};
use crate::config::TopicConfig;
use crate::error::{Error, NotAvailable, Result};
use crate::format::{
    Identity, MetadataRecord, TopicMeta, parse_partition_folder, parse_topic_folder,
    partition_folder,
};
use crate::fs::{EntryKind, ForkMark};
use crate::id::{Incarnation, LeaderEpoch, PartitionId, VolumeId};
use crate::log::{Entrance, Handles, LiveProducers, Log, LogReport, Mode, Opening, Place};
use crate::partition::{Partition, Replica};
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
        let notes = &mut report.notes;
        let opened = open_metadata(volumes.iter(), options.force, shared, notes);
        if let Err(Error::MissingVolumes(_)) = &opened {
            // Nothing was changed: who gives the rest of them finds these as they were left.
            leave_as_found(&volumes);
        }
        let mut metadata = opened?;
        if metadata.is_new() && volumes.len() < options.volumes.len() {
            make_the_rest(&options, &mut volumes, &mut ids)?;
            metadata = open_metadata(volumes.iter(), options.force, shared, notes)?;
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
        let (members, changes) = number(volumes, &metadata, options.force)?;
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
        if (options.background, mode) == (Background::Thread, Mode::ReadWrite) {
            for member in &members {
                let failed = |e| Error::io("start the thread of", &member.volume.dir, e);
                *member.worker.lock() = Some(Worker::start(Arc::clone(&fork)).map_err(failed)?);
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
        let is_clean = |member: &Member| matches!(member.volume.entrance, Entrance::Clean { .. });
        let clean = self.members.iter().all(is_clean);
        let metadata = self.metadata.get_mut();
        let floor = metadata.epoch_floor().max(seen);
        if self.mode == Mode::ReadOnly || (clean && marks == Marks::AllThere) {
            return Ok(floor);
        }
        let epoch = LeaderEpoch::new(floor.get() + 1);
        change(&self.members, metadata, vec![MetadataRecord::EpochFloor { epoch }])?;
        Ok(epoch)
    }

    /// A topic with the logs that `log` makes of each opening, on the volume that it is on.
    pub(super) fn assemble(
        &self,
        meta: &TopicMeta,
        on: &dyn Fn(PartitionId) -> VolumeId,
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
        on: &dyn Fn(PartitionId) -> VolumeId,
        log: &mut impl FnMut(&Volume, Opening) -> Result<Arc<Log>>,
    ) -> Result<Vec<Partition>> {
        let name: Arc<str> = Arc::from(meta.name.as_str());
        let mut partitions = Vec::new();
        for number in numbers {
            let partition = PartitionId::new(number);
            let on_volume = on(partition);
            let member = self.member(on_volume);
            // Nothing is ever done with the log of a partition whose volume is not there.
            let Member { volume, worker, .. } = member.unwrap_or(&self.members()[0]);
            let opening = Opening {
                place: Arc::new(Place {
                    topic: Arc::clone(&name),
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
            };
            let log = if member.is_some() {
                log(volume, opening)?
            } else {
                let why = NotAvailable { topic: Arc::clone(&name), partition, volume: on_volume };
                Log::refused(opening, Error::LeaderNotAvailable(Box::new(why)))
            };
            let reserve_spent = Arc::clone(&volume.reserve_spent);
            partitions.push(Partition::new(Replica { volume: on_volume, log, reserve_spent }));
        }
        Ok(partitions)
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
        partitions: impl Iterator<Item = &'p Partition>,
        epoch: LeaderEpoch,
    ) {
        for partition in partitions {
            partition.log().lead(epoch);
            let Some(member) = self.member(partition.volume()) else { continue };
            if let Some(worker) = member.worker.lock().as_ref() {
                worker.add(partition.log());
            }
        }
    }
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

/// Reports folders that belong to no topic. With topics on disk and no metadata, refuses.
fn check_folders(volume: &Volume, metadata: &Metadata, report: &mut RecoveryReport) -> Result<()> {
    let dir = volume.topics_dir();
    let entries = match volume.disk.list(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", &dir, e)),
    };
    if !entries.is_empty() && metadata.is_new() {
        return Err(Error::damaged(&volume.dir.join(METADATA), "the metadata is missing"));
    }
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
