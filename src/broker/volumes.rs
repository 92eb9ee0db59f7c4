//! The volumes of a cluster: which are there, which are new, and which is which.
//!
//! Not here: one volume (`volume`), what the cluster knows of them (`metadata`).
//!
//! A directory without a volume is made one only where none of the cluster exists yet: a known
//! cluster and an empty directory is a missing volume, a disk that is not mounted for one, and not
//! a new one. Where the making of a cluster was cut short, the metadata is empty, and the next open
//! makes the rest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::broker::Inner;
use crate::broker::background::{Background, Worker};
use crate::broker::broker::log_options;
use crate::broker::builder::BrokerBuilder;
use crate::broker::crew::{CrewQueue, CrewThreads};
use crate::broker::ids::Ids;
use crate::broker::metadata::{CopyAt, Metadata, MetadataAt};
use crate::broker::placement::{self, Load};
use crate::broker::volume::{METADATA, Volume};
use crate::config::{Clock, REPLICAS_USUAL, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{Assigned, Assignment, MetadataRecord, Standing, VolumeMeta};
use crate::fs::{Disk, ForkMark};
use crate::id::{Incarnation, Offset, PartitionId, TopicId, VolumeId};
use crate::log::{Entrance, Handles, LiveProducers, Mode};
use crate::partition::{Overseer, Slots};

/// A volume of the cluster that is there.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: VolumeId,
    pub(crate) volume: Volume,
    /// A copy of an earlier time: it vouches for nothing of what it holds.
    pub(crate) is_restored: bool,
    /// The others went on without it before this open. What a partition's ISR still has of it
    /// nobody went on without.
    pub(crate) was_out: bool,
    /// Why it is out until the store is opened again.
    gone: OnceLock<Error>,
    /// It does not answer, and cannot be done without. Relaxed: shown only.
    pub(crate) is_silent: AtomicBool,
    /// It is of the store no more. Stored with the metadata locked.
    pub(crate) is_removed: AtomicBool,
    /// Its threads. Lock rank: leaf.
    pub(crate) worker: Mutex<Option<Worker>>,
    /// What its replicas have to do; `None` where whoever appends does it.
    pub(crate) queue: Option<Arc<CrewQueue>>,
    /// Who does that. Lock rank: leaf.
    pub(crate) crew: Mutex<Option<CrewThreads>>,
}

impl Member {
    /// As the cluster knew it, if it did.
    pub(crate) fn new(
        id: VolumeId,
        volume: Volume,
        known: Option<&VolumeMeta>,
        background: Background,
    ) -> Self {
        let incarnation = volume.incarnation();
        let queue = CrewQueue::new((id, incarnation), volume.claim());
        Self {
            id,
            volume,
            is_restored: known.is_some_and(|known| incarnation <= known.incarnation),
            was_out: known.is_some_and(|known| known.standing.is_out()),
            gone: OnceLock::new(),
            is_silent: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            worker: Mutex::default(),
            queue: (!background.is_inline()).then(|| Arc::new(queue)),
            crew: Mutex::default(),
        }
    }

    /// Starts its threads; with an overseer also those that copy and sync.
    pub(crate) fn start(
        &self,
        overseer: Option<&Arc<dyn Overseer>>,
        fork: &Arc<ForkMark>,
    ) -> Result<()> {
        let failed = |e| Error::io("start the threads of", &self.volume.dir, e);
        let mut worker = self.worker.lock();
        if worker.is_none() {
            *worker = Some(Worker::start(Arc::clone(fork)).map_err(failed)?);
        }
        let mut crew = self.crew.lock();
        if let (None, Some(overseer), Some(queue)) = (crew.as_ref(), overseer, &self.queue) {
            let started = CrewThreads::start(queue, overseer, Arc::clone(fork));
            *crew = Some(started.map_err(failed)?);
        }
        Ok(())
    }

    /// When the oldest of its syncs began that has not ended.
    pub(crate) fn syncing_since(&self) -> Option<Duration> {
        #[cfg(test)]
        if let Some(since) = self.queue.as_ref().and_then(|queue| queue.hangs_since()) {
            return Some(since);
        }
        self.worker.lock().as_ref().and_then(Worker::syncing_since)
    }

    #[cfg(test)]
    pub(crate) fn why_gone(&self) -> Option<&Error> {
        self.gone.get()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get().is_some()
    }

    /// It is out, for this reason. False if it was already.
    pub(crate) fn leave(&self, why: &Error) -> bool {
        self.gone.set(why.clone()).is_ok()
    }

    /// It was closed cleanly before this open.
    pub(crate) fn was_clean(&self) -> bool {
        matches!(self.volume.entrance, Entrance::Clean { .. })
    }
}

/// The number of a volume that is alone and always was.
pub(crate) const FIRST: VolumeId = VolumeId::new(1);

/// What the logs of a broker share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) handles: &'a Arc<Handles>,
    pub(crate) producers: &'a Arc<LiveProducers>,
}

/// Opens the volumes that are there, or makes all of them.
pub(crate) fn open_volumes(options: &BrokerBuilder, ids: &mut Ids) -> Result<Vec<Volume>> {
    let disk = &options.disk;
    let mut there = Vec::new();
    for dir in &options.volumes {
        if Volume::exists(disk.as_ref(), dir)? {
            there.push(dir.clone());
        }
    }
    if there.is_empty() {
        there.clone_from(&options.volumes);
    }
    let mut opened: Vec<Volume> = Vec::new();
    for dir in there {
        let volume = open_one(options, &dir, opened.first(), ids).and_then(|volume| {
            let is_same = |other: &Volume| other.unique_id() == volume.unique_id();
            if opened.iter().any(is_same) {
                return Err(Error::damaged(&dir, "the volume is a copy of another one"));
            }
            Ok(volume)
        });
        match volume {
            Ok(volume) => opened.push(volume),
            Err(error) => {
                leave_as_found(&opened);
                return Err(error);
            }
        }
    }
    Ok(opened)
}

/// Says again of volumes that were closed cleanly that they were. What cannot be said costs a scan.
/// Not of one that this open has made: there is nothing in it yet.
pub(crate) fn leave_as_found(volumes: &[Volume]) {
    for volume in volumes {
        if volume.mode() == Mode::ReadWrite && volume.was_closed() {
            let _ = volume.close();
        }
    }
}

/// Makes those that an interrupted making of the cluster has left out.
pub(crate) fn make_the_rest(
    options: &BrokerBuilder,
    opened: &mut Vec<Volume>,
    ids: &mut Ids,
) -> Result<()> {
    let is_there = |dir: &PathBuf, opened: &[Volume]| opened.iter().any(|v| v.dir == *dir);
    for dir in &options.volumes {
        if !is_there(dir, opened) {
            let volume = open_one(options, dir, opened.first(), ids)?;
            opened.push(volume);
        }
    }
    Ok(())
}

fn open_one(
    options: &BrokerBuilder,
    dir: &Path,
    of: Option<&Volume>,
    ids: &mut Ids,
) -> Result<Volume> {
    let disk: Arc<dyn Disk> = Arc::clone(&options.disk);
    if options.read_only {
        return Volume::open_read_only(disk, dir);
    }
    Volume::open(disk, dir, (options.missing, of.map(Volume::cluster_id)), ids)
}

/// Opens the metadata of these volumes: two copies if there is one, else a copy on each.
pub(crate) fn open_metadata<'v>(
    volumes: impl Iterator<Item = &'v Volume>,
    force: bool,
    shared: Shared<'_>,
    notes: &mut Vec<String>,
) -> Result<Metadata> {
    let volumes: Vec<&Volume> = volumes.collect();
    let mode = volumes.first().map_or(Mode::ReadOnly, |volume| volume.mode());
    let mut copies: Vec<CopyAt> = volumes.iter().map(|volume| copy_on(volume, 0)).collect();
    if let [alone] = volumes[..] {
        copies.push(copy_on(alone, 1));
    }
    let Shared { clock, handles, producers } = shared;
    Metadata::open(&MetadataAt { copies: &copies, mode, force, clock, handles, producers }, notes)
}

pub(crate) fn copy_on(volume: &Volume, number: u32) -> CopyAt {
    CopyAt {
        unique_id: volume.unique_id(),
        number,
        disk: Arc::clone(&volume.disk),
        dir: volume.dir.join(METADATA),
        options: log_options(volume, &TopicConfig::new()),
        entrance: volume.entrance,
    }
}

/// Numbers the volumes as the metadata has them, or anew in a new cluster of several, and says
/// which changes of the metadata tell of this open.
///
/// # Errors
/// `InvalidConfig` if one of them is none of the cluster's.
pub(crate) fn number(
    volumes: Vec<Volume>,
    metadata: &Metadata,
    options: &BrokerBuilder,
) -> Result<(Vec<Member>, Vec<MetadataRecord>)> {
    let background = options.background;
    let known: Vec<VolumeMeta> = metadata.volumes().copied().collect();
    if known.is_empty() && volumes.len() == 1 {
        let alone = volumes.into_iter().map(|volume| Member::new(FIRST, volume, None, background));
        return Ok((alone.collect(), Vec::new()));
    }
    let (mut members, mut changes) = (Vec::new(), Vec::new());
    let mut next = metadata.next_volume();
    for volume in volumes {
        let found = known.iter().find(|known| known.unique_id == volume.unique_id());
        let id = match found {
            Some(known) => known.id,
            None if metadata.is_new() => {
                let id = next;
                next = VolumeId::new(id.get() + 1);
                id
            }
            None => {
                let why = "one of them is none of the store's: add it to an open one";
                return Err(Error::invalid_config("volumes", why));
            }
        };
        changes.push(MetadataRecord::PutVolume(VolumeMeta {
            id,
            standing: found.map_or(Standing::Live, |known| known.standing.back()),
            failures: found.map_or(0, |known| known.failures),
            unique_id: volume.unique_id(),
            incarnation: volume.incarnation(),
        }));
        members.push(Member::new(id, volume, found, background));
    }
    if options.force {
        // It goes on without them, also next time.
        let is_there = |id: VolumeId| members.iter().any(|member| member.id == id);
        let missing = known.into_iter().filter(|volume| !is_there(volume.id));
        let out = missing.map(|volume| VolumeMeta { standing: volume.standing.out(), ..volume });
        changes.extend(out.map(MetadataRecord::PutVolume));
    }
    Ok((members, changes))
}

/// The volumes that a partition is on.
pub(crate) fn placed_on(
    metadata: &Metadata,
    topic: TopicId,
    partition: PartitionId,
) -> Vec<VolumeId> {
    metadata.assignment(topic, partition).map_or_else(|| vec![FIRST], holders)
}

pub(crate) fn holders(assigned: &Assignment) -> Vec<VolumeId> {
    assigned.replicas.iter().map(|replica| replica.volume).collect()
}

/// Where new partitions are to be.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// None in a cluster that always had one volume.
    assignments: Vec<Assignment>,
}

impl Placed {
    pub(crate) fn assignment(&self, partition: PartitionId) -> Option<&Assignment> {
        // Sorted, as they were placed.
        let number = self.assignments.binary_search_by_key(&partition, |placed| placed.partition);
        number.ok().and_then(|index| self.assignments.get(index))
    }

    pub(crate) fn volumes(&self, partition: PartitionId) -> Vec<VolumeId> {
        self.assignment(partition).map_or_else(|| vec![FIRST], holders)
    }

    /// What makes these durable, with the change of the topic that they are of.
    pub(crate) fn changes(self, topic: MetadataRecord) -> Vec<MetadataRecord> {
        let assignments = self.assignments.into_iter().map(MetadataRecord::PutPartition);
        std::iter::once(topic).chain(assignments).collect()
    }
}

/// What `Admin::volumes` tells of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeDescription {
    /// Its number.
    pub volume: VolumeId,
    /// Where it lies; `None` if it is not there.
    pub dir: Option<PathBuf>,
    /// How it stands.
    pub state: VolumeState,
    /// How often it was opened, as far as the store knows.
    pub incarnation: Incarnation,
    /// How often it failed, and the others went on without it. One that did so three times gets new
    /// replicas only where too few others are left.
    pub failures: u16,
    /// How many partitions are on it.
    pub partitions: usize,
}

/// How a volume stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeState {
    /// It is there, and takes part.
    Live,
    /// It was not there when the store was opened.
    Missing,
    /// It is there, and what it holds is moved to others.
    Draining,
    /// It does not answer, or not in time, and some partition has no other replica in sync: it is
    /// waited for.
    Silent,
    /// It failed while the store was open: everything goes on without it.
    Failed,
}

impl Inner {
    pub(crate) fn describe_volumes(&self) -> Result<Vec<VolumeDescription>> {
        self.check_fork()?;
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let metadata = self.metadata().lock();
        let mut partitions: BTreeMap<VolumeId, usize> = BTreeMap::new();
        for topic in self.topic_states() {
            for number in 0..topic.partitions.count() {
                for volume in placed_on(&metadata, topic.id, PartitionId::new(number)) {
                    *partitions.entry(volume).or_default() += 1;
                }
            }
        }
        let describe = |it: &VolumeMeta| {
            let VolumeMeta { id: volume, incarnation, standing, failures, .. } = *it;
            let failed = standing.is_out();
            let member = self.member(volume);
            let dir = member.map(|member| member.volume.dir.clone());
            let failed = failed || member.is_some_and(Member::is_gone);
            let state = match &dir {
                None => VolumeState::Missing,
                Some(_) if failed => VolumeState::Failed,
                Some(_) if member.is_some_and(|it| it.is_silent.load(Ordering::Relaxed)) => {
                    VolumeState::Silent
                }
                Some(_) if standing == Standing::Draining => VolumeState::Draining,
                Some(_) => VolumeState::Live,
            };
            let partitions = partitions.get(&volume).copied().unwrap_or(0);
            VolumeDescription { volume, dir, state, incarnation, failures, partitions }
        };
        let mut all: Vec<_> = metadata.volumes().map(describe).collect();
        if all.is_empty() {
            all.push(describe(&self.first_volume()));
        }
        Ok(all)
    }

    /// What the metadata would say of the volume of a store that always had one.
    pub(crate) fn first_volume(&self) -> VolumeMeta {
        let volume = self.volume();
        VolumeMeta {
            id: FIRST,
            standing: Standing::Live,
            failures: 0,
            unique_id: volume.unique_id(),
            incarnation: volume.incarnation(),
        }
    }

    /// Places new partitions of a topic.
    ///
    /// # Errors
    /// `InvalidConfig` if there are fewer volumes than replicas.
    pub(super) fn place(
        &self,
        metadata: &Metadata,
        topic: TopicId,
        numbers: Range<u32>,
        replicas: u16,
    ) -> Result<Placed> {
        let takes = |volume: &&VolumeMeta| {
            let is_there = self.member(volume.id).is_some_and(|member| !member.is_gone());
            !volume.standing.is_out() && is_there
        };
        let mut loads: Vec<Load> = metadata.volumes().filter(takes).map(load_of).collect();
        #[cfg(test)]
        {
            let only = self.only.lock();
            loads.retain(|load| only.is_empty() || only.contains(&load.volume));
        }
        for assigned in metadata.assignments() {
            for (order, replica) in assigned.replicas.iter().enumerate() {
                if let Some(load) = loads.iter_mut().find(|load| load.volume == replica.volume) {
                    load.replicas += 1;
                    load.leaders += usize::from(order == 0);
                }
            }
        }
        let placed = match placement::place(&mut loads, numbers.len(), replicas.into()) {
            Ok(placed) => placed,
            // With no volume in the metadata there is one, and nothing to be chosen.
            Err(_) if loads.is_empty() && replicas == 1 => return Ok(Placed::default()),
            Err(_) => {
                let why = "at most as many as there are volumes";
                return Err(Error::invalid_config("replicas", why));
            }
        };
        let assignments = numbers.zip(placed).map(|(number, holders)| Assignment {
            topic,
            partition: PartitionId::new(number),
            epoch: metadata.epoch_floor(),
            start: Offset::ZERO,
            leader: holders.first().copied(),
            replicas: holders.iter().map(|&volume| Assigned { volume, in_sync: true }).collect(),
        });
        Ok(Placed { assignments: assignments.collect() })
    }

    /// How many replicas partitions have of a topic that does not say.
    pub(super) fn usual_replicas(&self, metadata: &Metadata) -> u16 {
        let is_there = |id| self.member(id).is_some_and(|member| !member.is_gone());
        let takes = |it: &&VolumeMeta| it.standing == Standing::Live && is_there(it.id);
        let volumes = metadata.volumes().filter(takes).count();
        u16::try_from(volumes.clamp(1, REPLICAS_USUAL)).unwrap_or(1)
    }
}

pub(crate) fn load_of(volume: &VolumeMeta) -> Load {
    let (draining, failures) = (volume.standing == Standing::Draining, volume.failures);
    Load { draining, failures: failures.into(), ..Load::new(volume.id) }
}

/// A sentence for each two volumes that are on one device: it takes both with it.
pub(crate) fn share_a_device(members: &Slots<Member>) -> Vec<String> {
    let device = |volume: &Volume| volume.disk.stat(&volume.dir).ok().map(|stat| stat.device);
    let mut seen: BTreeMap<u64, &Path> = BTreeMap::new();
    let mut notes = Vec::new();
    for Member { volume, .. } in members.iter() {
        let Some(device) = device(volume) else { continue };
        if let Some(other) = seen.get(&device) {
            let (other, dir) = (other.display(), volume.dir.display());
            notes.push(format!("{other} and {dir} are on one device: it takes both with it"));
        } else {
            seen.insert(device, &volume.dir);
        }
    }
    notes
}
