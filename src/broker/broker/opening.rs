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
use crate::broker::metadata::{Metadata, MetadataAt};
use crate::broker::metrics::Retired;
use crate::broker::producers::ProducerCounts;
use crate::broker::report::{RecoveryReport, TailCut};
use crate::broker::sender::Sender;
use crate::broker::topic::{TopicState, from_meta};
use crate::broker::volume::{METADATA, Volume};
use crate::config::{Clock, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{
    Identity, MetadataRecord, TopicMeta, parse_partition_folder, parse_topic_folder,
    partition_folder,
};
use crate::fs::{EntryKind, ForkMark};
use crate::id::{LeaderEpoch, PartitionId};
use crate::log::{Entrance, Handles, LiveProducers, Log, LogReport, Mode, Opening, Place};
use crate::partition::Partition;
use crate::trace;

impl Inner {
    pub(super) fn open(options: BrokerBuilder) -> Result<Self> {
        let mut ids = Ids::new(options.seed);
        let dir = options.volumes.first().cloned().unwrap_or_default();
        trace::span!("open", dir = %dir.display());
        let volume = if options.read_only {
            Volume::open_read_only(options.disk, &dir)?
        } else {
            Volume::open(options.disk, &dir, options.missing, &mut ids)?
        };
        let mode = volume.mode();
        let mut report = RecoveryReport {
            clean: matches!(volume.entrance, Entrance::Clean { .. }),
            ..RecoveryReport::default()
        };
        let handles = Arc::new(Handles::default());
        let fork = Arc::new(ForkMark::new());
        let producers = Arc::new(LiveProducers::new(volume.incarnation(), Arc::clone(&fork)));
        let shared = Shared { clock: &options.clock, handles: &handles, producers: &producers };
        let mut metadata = open_metadata(&volume, shared, &mut report.notes)?;
        for producer in metadata.producers() {
            producers.hold(producer.id, producer.epoch, &producer.name);
        }
        check_folders(&volume, &metadata, &mut report)?;
        if mode == Mode::ReadWrite && metadata.is_new() {
            metadata.snapshot()?;
        }
        let worker = match (options.background, mode) {
            (Background::Thread, Mode::ReadWrite) => {
                let failed = |e| Error::io("start the thread of", &volume.dir, e);
                Some(Worker::start(Arc::clone(&fork)).map_err(failed)?)
            }
            _ => None,
        };
        let inner = Self {
            volume,
            handles,
            producers,
            producer_counts: ProducerCounts::default(),
            opened: options.clock.now_ms(),
            clock: options.clock,
            mode,
            metadata: Mutex::new(metadata),
            topics: RwLock::new(BTreeMap::new()),
            ids: Mutex::new(ids),
            worker: Mutex::new(worker),
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
            let topic = self.assemble(meta, |opening| self.open_log(opening, &mut report))?;
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
            .map(|partition| partition.log().latest_epoch())
            .max()
            .unwrap_or_default();
        let metadata = self.metadata.get_mut();
        let floor = metadata.epoch_floor().max(seen);
        let clean = matches!(self.volume.entrance, Entrance::Clean { .. });
        if self.mode == Mode::ReadOnly || (clean && marks == Marks::AllThere) {
            return Ok(floor);
        }
        let epoch = LeaderEpoch::new(floor.get() + 1);
        change(&self.volume, metadata, MetadataRecord::EpochFloor { epoch })?;
        Ok(epoch)
    }

    /// A topic with the logs that `log` makes of each opening.
    pub(super) fn assemble(
        &self,
        meta: &TopicMeta,
        mut log: impl FnMut(Opening) -> Result<Arc<Log>>,
    ) -> Result<Arc<TopicState>> {
        let name: Arc<str> = Arc::from(meta.name.as_str());
        let config = from_meta(meta).ok_or_else(|| {
            Error::damaged(
                &self.volume.dir.join(METADATA),
                "a topic has a setting that is unknown or out of range",
            )
        })?;
        let partitions = self.partitions(meta, &config, 0..config.partitions, &mut log)?;
        Ok(Arc::new(TopicState::new(meta.id, name, config, partitions)))
    }

    /// Some of a topic's partitions.
    pub(super) fn partitions(
        &self,
        meta: &TopicMeta,
        config: &TopicConfig,
        numbers: Range<u32>,
        log: &mut impl FnMut(Opening) -> Result<Arc<Log>>,
    ) -> Result<Vec<Partition>> {
        let name: Arc<str> = Arc::from(meta.name.as_str());
        let housekeeper = self.worker.lock().as_ref().map(Worker::housekeeper);
        let mut partitions = Vec::new();
        for number in numbers {
            let partition = PartitionId::new(number);
            let log = log(Opening {
                place: Arc::new(Place {
                    topic: Arc::clone(&name),
                    identity: Identity::new(meta.id, meta.salt, partition),
                    dir: self.topic_dir(meta)?.join(partition_folder(partition)),
                }),
                disk: Arc::clone(&self.volume.disk),
                options: log_options(&self.volume, config),
                mode: self.mode,
                clock: Arc::clone(&self.clock),
                housekeeper: housekeeper.clone(),
                handles: Arc::clone(&self.handles),
                producers: Arc::clone(&self.producers),
            })?;
            partitions.push(Partition::new(log, Arc::clone(&self.volume.reserve_spent)));
        }
        Ok(partitions)
    }

    /// The log of a topic that was there before.
    pub(super) fn open_log(
        &self,
        opening: Opening,
        report: &mut RecoveryReport,
    ) -> Result<Arc<Log>> {
        let place = Arc::clone(&opening.place);
        let (log, mut found) = match Log::open_beside(&opening, self.volume.entrance) {
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
        partitions: impl Iterator<Item = &'p Partition> + Clone,
        epoch: LeaderEpoch,
    ) {
        for partition in partitions.clone() {
            partition.log().lead(epoch);
        }
        if let Some(worker) = self.worker.lock().as_ref() {
            for partition in partitions {
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

/// What the logs of a broker share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) handles: &'a Arc<Handles>,
    pub(super) producers: &'a Arc<LiveProducers>,
}

pub(super) fn open_metadata(
    volume: &Volume,
    shared: Shared<'_>,
    notes: &mut Vec<String>,
) -> Result<Metadata> {
    let Shared { clock, handles, producers } = shared;
    let at = MetadataAt {
        disk: &volume.disk,
        dir: &volume.dir.join(METADATA),
        options: log_options(volume, &TopicConfig::new()),
        mode: volume.mode(),
        clock,
        entrance: volume.entrance,
        handles,
        producers,
    };
    Metadata::open(&at, notes)
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
