//! Which topics, named producers, volumes and assignments there are: a log of changes, in a copy
//! on every volume of the cluster, or in two on a single one.
//!
//! Not here: the logs of the topics; the encoding of a change (`format`); who is to lead.
//!
//! Each copy is an ordinary log: `metadata/0` of each volume, and `metadata/1` of one that is
//! alone. A change is appended to one and synced, then to the next. It counts once every volume
//! that is there has it: those are more than half of the live set, so that an open, which needs as
//! many, finds one that has it. A volume that fails is put out of that set, by a change that at
//! least half of the set has, and that counts then with the one that failed.
//!
//! At open the copy of the newest epoch that reaches furthest is followed by the others; one that
//! is damaged, or holds what that one does not, is begun anew from it. With all of them bad the
//! open fails and deletes nothing (`rebuild` is the way out); and so it does where not more than
//! half of the live set is there which that copy names.
//!
//! Invariants
//!   1. The copies that are there hold the same records at the same offsets.
//!   2. The state in memory is what the records say: it changes after all copies have a change.
//!   3. The log does not grow with opens: it is snapshotted, and trimmed to the snapshot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::config::{Clock, DedupWindow, Durability, FETCH_BYTES, Reads, SEGMENT_BYTES_MIN};
use crate::error::{Error, MissingVolumes, Result};
use crate::format::{
    Assignment, Identity, MetadataRecord, MetadataSnapshot, PRODUCERS_MAX, ProducerMeta, Record,
    TopicMeta, VolumeMeta, is_producer_name,
};
use crate::fs::Disk;
use crate::id::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId, VolumeId};
use crate::log::{
    Entrance, Handles, Keep, LiveProducers, Log, LogOptions, Mode, Opening, Place, ProducerTable,
    ReadCursor,
};

/// Topic ids begin above this one, which is the metadata's own.
const METADATA_TOPIC: TopicId = TopicId::new(0);
/// A snapshot is taken after so many changes, or more if there are many topics.
const CHANGES_BETWEEN_SNAPSHOTS: u64 = 256;

#[derive(Debug)]
pub(crate) struct Metadata {
    copies: Vec<Kept>,
    next_topic_id: u64,
    epoch_floor: LeaderEpoch,
    topics: BTreeMap<TopicId, TopicMeta>,
    next_producer: u64,
    /// By name.
    producers: BTreeMap<String, ProducerMeta>,
    next_volume: u32,
    volumes: BTreeMap<VolumeId, VolumeMeta>,
    assignments: BTreeMap<(TopicId, PartitionId), Assignment>,
    changes: u64,
    /// A change was written, and there was no room to say who failed at it.
    is_half_made: bool,
    /// A change reached one copy and perhaps not the other.
    failed: Option<Arc<Error>>,
    /// For how long a change waits for a volume; `None`: it goes to one after the other, for ever.
    timeout: Option<Duration>,
    /// Volumes that changes went on without, and why, for who looks after them.
    lost: Vec<(u64, Error)>,
}

/// A copy that changes are written to.
#[derive(Clone, Debug)]
struct Kept {
    /// Of the volume that it is on.
    unique_id: u64,
    log: Arc<Log>,
    /// Why nothing is to be written to it.
    gone: Option<Arc<Error>>,
}

/// One copy as found: its log, what is in it, and whether that is whole.
struct Copy {
    unique_id: u64,
    opening: Opening,
    log: Arc<Log>,
    /// `None` if it cannot be read from start to end.
    records: Option<Vec<(Offset, Vec<u8>)>>,
    /// What to look at if it is bad.
    path: PathBuf,
}

/// Where a copy is, and how it was left.
pub(crate) struct CopyAt {
    /// Of the volume that it is on.
    pub(crate) unique_id: u64,
    /// Its number on that volume.
    pub(crate) number: u32,
    pub(crate) disk: Arc<dyn Disk>,
    /// The folder of the volume's copies.
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) entrance: Entrance,
}

/// What the metadata is opened with.
pub(crate) struct MetadataAt<'a> {
    /// At least one.
    pub(crate) copies: &'a [CopyAt],
    pub(crate) mode: Mode,
    /// With less than half of the live set too.
    pub(crate) force: bool,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) handles: &'a Arc<Handles>,
    /// Of the broker. What is appended here is not numbered.
    pub(crate) producers: &'a Arc<LiveProducers>,
}

impl MetadataAt<'_> {
    /// The copies are those of a volume that is alone.
    pub(crate) fn are_of_one(&self) -> bool {
        let ids = |copy: &CopyAt| copy.unique_id;
        self.copies.iter().map(ids).is_sorted_by(|one, next| one == next)
    }
}

impl Metadata {
    /// Opens the copies and makes them equal. `notes` gets a sentence for what was mended.
    ///
    /// # Errors
    /// `Damaged` if no copy is good; `MissingVolumes` if too many volumes of the live set are not
    /// there.
    pub(crate) fn open(at: &MetadataAt<'_>, notes: &mut Vec<String>) -> Result<Self> {
        let opened = at.copies.iter().map(|copy| Copy::open(at, copy));
        let mut copies = opened.collect::<Result<Vec<_>>>()?;
        // Of equal ones the first.
        let reach = |copy: &Copy| (copy.log.latest_epoch(), copy.log.end_offset());
        let bad = copies.iter().find(|copy| copy.records.is_none()).map(|copy| &copy.path);
        // An empty copy is one that nothing was ever written to, unless another one was: 1. of two
        // copies one is damaged, and the other lost or zeros; 2. taken for the good one, the empty
        // one would be copied over what is left of the damaged one.
        let is_good = |copy: &Copy| {
            copy.records.is_some() && (bad.is_none() || copy.log.end_offset() > Offset::ZERO)
        };
        let good = copies.iter().enumerate().filter(|(_, copy)| is_good(copy));
        let best = good.rev().max_by_key(|(_, copy)| reach(copy)).map(|(index, _)| index);
        let Some(best) = best else {
            let path = bad.map_or(Path::new(""), PathBuf::as_path);
            // Of several volumes nothing else tells who leads, and who is in sync.
            return Err(if at.are_of_one() {
                Error::lost(path, "both copies of the metadata are bad")
            } else {
                Error::damaged(path, "all copies of the metadata are bad")
            });
        };
        let mut state = Self {
            copies: Vec::new(),
            next_topic_id: METADATA_TOPIC.get() + 1,
            epoch_floor: LeaderEpoch::new(0),
            topics: BTreeMap::new(),
            next_producer: 0,
            producers: BTreeMap::new(),
            next_volume: 1,
            volumes: BTreeMap::new(),
            assignments: BTreeMap::new(),
            changes: 0,
            is_half_made: false,
            failed: None,
            timeout: None,
            lost: Vec::new(),
        };
        let good = copies.remove(best);
        for (_, bytes) in good.records.as_deref().unwrap_or_default() {
            let record = MetadataRecord::decode(bytes).map_err(|_| {
                Error::damaged(&at.copies[best].dir, "a metadata record cannot be decoded")
            })?;
            state.apply(record);
        }
        if !at.force {
            state.must_be_enough(at)?;
        }
        for (index, mut copy) in copies.into_iter().enumerate() {
            let number = if index < best { index } else { index + 1 };
            if at.mode == Mode::ReadWrite && copy.bring_up_to(&good)? {
                notes.push(format!(
                    "copy {number} of the metadata was brought up to date from another one"
                ));
            }
            state.copies.push(Kept { unique_id: copy.unique_id, log: copy.log, gone: None });
        }
        state.copies.insert(best, Kept { unique_id: good.unique_id, log: good.log, gone: None });
        Ok(state)
    }

    /// Writes the whole state of a store that has none.
    pub(crate) fn begin_with(&mut self, state: MetadataSnapshot) -> Result<()> {
        debug_assert!(self.is_new());
        self.apply(MetadataRecord::Snapshot(state));
        self.snapshot()
    }

    /// More than half of the live set are there: nobody else can have gone on without them.
    fn must_be_enough(&self, at: &MetadataAt<'_>) -> Result<()> {
        let live = self.volumes.values().filter(|volume| !volume.standing.is_out());
        let (found, missing): (Vec<&VolumeMeta>, Vec<&VolumeMeta>) = live
            .partition(|volume| at.copies.iter().any(|copy| copy.unique_id == volume.unique_id));
        if missing.is_empty() || found.len() > missing.len() {
            return Ok(());
        }
        Err(Error::MissingVolumes(Box::new(MissingVolumes {
            found: found.iter().map(|volume| volume.id).collect(),
            missing: missing.iter().map(|volume| volume.id).collect(),
        })))
    }

    /// True if nothing was ever written.
    pub(crate) fn is_new(&self) -> bool {
        self.copies.iter().all(|copy| copy.log.end_offset() == Offset::ZERO)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &TopicMeta> {
        self.topics.values()
    }

    pub(crate) fn epoch_floor(&self) -> LeaderEpoch {
        self.epoch_floor
    }

    /// The id that the next topic gets.
    pub(crate) fn next_topic_id(&self) -> TopicId {
        TopicId::new(self.next_topic_id)
    }

    /// The producers with a name.
    pub(crate) fn producers(&self) -> impl Iterator<Item = &ProducerMeta> {
        self.producers.values()
    }

    /// What the next holder of a producer's name is: a higher epoch, or the first one's of a new
    /// name.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that cannot be, and one too many.
    pub(crate) fn next_holder(&self, name: &str) -> Result<ProducerMeta> {
        let refused = |why| Err(Error::invalid_config("name", why));
        if !is_producer_name(name) {
            return refused("1 to 249 bytes");
        }
        let Some(known) = self.producers.get(name) else {
            if self.producers.len() >= PRODUCERS_MAX as usize {
                return refused("at most 65,536 names: delete those of producers that are gone");
            }
            let id = ProducerId::new(ProducerId::NAMED_BIT | self.next_producer);
            return Ok(ProducerMeta { id, epoch: ProducerEpoch::new(0), name: name.to_owned() });
        };
        // The largest one is nobody's: of a name that is gone.
        match known.epoch.get().checked_add(1).filter(|epoch| *epoch < u32::MAX) {
            Some(epoch) => Ok(ProducerMeta { epoch: ProducerEpoch::new(epoch), ..known.clone() }),
            None => refused("held 4,294,967,296 times: take another one"),
        }
    }

    /// Refuses what would change it, once a change has failed half-way.
    pub(crate) fn must_be_usable(&self) -> Result<()> {
        match &self.failed {
            Some(first) => Err(Error::Halted { first: Arc::clone(first) }),
            None => Ok(()),
        }
    }

    /// The volumes of the cluster. None in one that always had one.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &VolumeMeta> {
        self.volumes.values()
    }

    /// The number that the next volume gets.
    pub(crate) fn next_volume(&self) -> VolumeId {
        VolumeId::new(self.next_volume)
    }

    /// Where a partition's replicas are; `None` for one that is on the first volume alone.
    pub(crate) fn assignment(&self, topic: TopicId, partition: PartitionId) -> Option<&Assignment> {
        self.assignments.get(&(topic, partition))
    }

    pub(crate) fn assignments(&self) -> impl Iterator<Item = &Assignment> {
        self.assignments.values()
    }

    /// Leads with an epoch that no other open of these copies has: what another one wrote to some
    /// of them only is told apart.
    pub(crate) fn lead(&self) -> LeaderEpoch {
        let latest = self.copies.iter().map(|copy| copy.log.latest_epoch()).max();
        let epoch = LeaderEpoch::new(latest.unwrap_or_default().get() + 1);
        for copy in &self.copies {
            copy.log.lead(epoch);
        }
        epoch
    }

    /// Makes changes durable in all copies, all of them or none, then takes them over.
    ///
    /// # Errors
    /// `StorageFull`: nothing was written. `Halted`: whether they count shows the next open.
    pub(crate) fn change(&mut self, records: Vec<MetadataRecord>) -> Result<()> {
        self.write(&records)?;
        for record in records {
            self.apply(record);
        }
        let kept = self.topics.len() + self.producers.len() + self.assignments.len();
        if self.changes >= CHANGES_BETWEEN_SNAPSHOTS.max(4 * kept as u64) {
            // The change counts already. A snapshot that fails is taken after the next one; where
            // it left the copies apart, `failed` refuses that.
            let _ = self.snapshot();
        }
        Ok(())
    }

    /// Writes the whole state, so that what came before it can go.
    pub(crate) fn snapshot(&mut self) -> Result<()> {
        let snapshot = MetadataRecord::Snapshot(MetadataSnapshot {
            next_topic_id: self.next_topic_id,
            epoch_floor: self.epoch_floor,
            topics: self.topics.values().cloned().collect(),
            next_producer: self.next_producer,
            producers: self.producers.values().cloned().collect(),
            next_volume: self.next_volume,
            volumes: self.volumes.values().copied().collect(),
            assignments: self.assignments.values().cloned().collect(),
        });
        let at = self.write(&[snapshot])?;
        self.changes = 0;
        let trimmed = self.on_each(&Arc::default(), move |log, _| {
            while log.seal_one()? {}
            log.trim_to(at).map(|()| 0)
        });
        trimmed.into_iter().try_for_each(|(_, trimmed)| trimmed.map(drop))
    }

    /// Appends to all copies; returns the offset. A volume that fails at it is put out of the live
    /// set.
    fn write(&mut self, records: &[MetadataRecord]) -> Result<Offset> {
        self.must_be_usable()?;
        let encoded = Arc::new(records.iter().map(MetadataRecord::encode).collect());
        // Room in all before a byte is written to one: a full disk refuses the change as a whole.
        for (_, made) in self.on_each(&encoded, |log, batch| log.make_room(batch).map(|()| 0)) {
            // What else fails shows below.
            if let Err(Error::StorageFull(full)) = made {
                return Err(Error::StorageFull(full));
            }
        }
        let mut at = Offset::ZERO;
        let mut failed: Vec<(usize, Arc<Error>)> = Vec::new();
        for (index, appended) in self.on_each(&encoded, append) {
            match appended {
                Ok(base) => at = Offset::new(base),
                Err(error) => failed.push((index, Arc::new(error))),
            }
        }
        if let Some((_, first)) = failed.first() {
            let failing: Vec<usize> = failed.iter().map(|(index, _)| *index).collect();
            let set = self.volumes.values().filter(|volume| !volume.standing.is_out());
            // Of a volume that is alone one copy may be good, and is not enough.
            let fails = |copy: &Kept| {
                failing.iter().any(|index| self.copies[*index].unique_id == copy.unique_id)
            };
            let left = self.copies.iter().filter(|copy| !fails(copy)).count();
            if self.volumes.is_empty() || left * 2 < set.count() {
                // Some copies may be ahead of the others now: the next open makes them equal.
                self.failed = Some(Arc::clone(first));
                return Err(Error::Halted { first: Arc::clone(first) });
            }
            for (index, error) in failed {
                self.lost.push((self.copies[index].unique_id, error.as_ref().clone()));
            }
            if let Err(error) = self.put_out(&failing) {
                // The change itself is on the others.
                self.is_half_made |= matches!(error, Error::StorageFull(_));
                return Err(error);
            }
        }
        self.is_half_made = false;
        Ok(at)
    }

    /// There is no room for a change, also with the reserve spent. `StorageFull` says that nothing
    /// was written: where that is not so, the next open shows what counts.
    pub(crate) fn no_room(&mut self, error: Error) -> Error {
        if !self.is_half_made || !matches!(error, Error::StorageFull(_)) {
            return error;
        }
        let first = Arc::clone(self.failed.get_or_insert(Arc::new(error)));
        Error::Halted { first }
    }

    /// Does the same with each copy, and says what came of it: all at once, where there is a
    /// timeout, and what takes longer has failed.
    fn on_each<F>(&mut self, records: &Arc<Vec<Vec<u8>>>, what: F) -> Vec<(usize, Result<u64>)>
    where
        F: Fn(&Log, &[Record<'_>]) -> Result<u64> + Clone + Send + 'static,
    {
        let ended = |copy: &Kept| copy.gone.as_ref().map(|gone| Err(gone.as_ref().clone()));
        let Some(timeout) = self.timeout else {
            let mut results = Vec::new();
            for (index, copy) in self.copies.iter().enumerate() {
                let result = ended(copy).unwrap_or_else(|| what(&copy.log, &as_records(records)));
                let failed = result.is_err();
                results.push((index, result));
                if failed && self.volumes.is_empty() {
                    break;
                }
            }
            return results;
        };
        let (told, results) = channel();
        let mut all: Vec<Option<Result<u64>>> = self.copies.iter().map(ended).collect();
        for (index, copy) in self.copies.iter().enumerate().filter(|(_, it)| it.gone.is_none()) {
            let (log, records, told) = (Arc::clone(&copy.log), Arc::clone(records), told.clone());
            let what = what.clone();
            let work = move || {
                // Nobody listens any more where this was too late.
                let _ = told.send((index, what(&log, &as_records(&records))));
            };
            let made = std::thread::Builder::new().name("plimsoll-metadata".to_owned()).spawn(work);
            if let Err(error) = made {
                all[index] = Some(Err(Error::io("start a thread for", &copy.log.place.dir, error)));
            }
        }
        drop(told);
        let mut until = Instant::now() + timeout;
        while all.iter().any(Option::is_none) {
            let left = until.saturating_duration_since(Instant::now());
            match results.recv_timeout(left) {
                Ok((index, result)) => all[index] = Some(result),
                Err(RecvTimeoutError::Timeout) if Instant::now() > until + timeout / 2 => {
                    // The process was frozen, and the others no less.
                    until = Instant::now() + timeout;
                }
                Err(_) => break,
            }
        }
        for (copy, result) in self.copies.iter_mut().zip(&mut all) {
            if result.is_none() {
                let late = Error::TimedOut { what: "a change of the metadata" };
                copy.gone = Some(Arc::new(late.clone()));
                *result = Some(Err(late));
            }
        }
        all.into_iter().flatten().enumerate().collect()
    }

    /// From now on changes go to all volumes at once, and wait for each this long.
    pub(crate) fn wait_at_most(&mut self, timeout: Duration) {
        self.timeout = Some(timeout);
    }

    /// The volumes that changes went on without since the last call, and why.
    pub(crate) fn lost(&mut self) -> Vec<(u64, Error)> {
        std::mem::take(&mut self.lost)
    }

    /// Has the others say that the volumes of these copies are not of the live set any more: what
    /// was written counts without them.
    fn put_out(&mut self, failing: &[usize]) -> Result<()> {
        let failing: Vec<u64> = failing.iter().map(|index| self.copies[*index].unique_id).collect();
        let is_failing = |unique_id: u64| failing.contains(&unique_id);
        self.copies.retain(|copy| !is_failing(copy.unique_id));
        let out = self.volumes.values().filter(|volume| is_failing(volume.unique_id));
        let out: Vec<_> = out
            .map(|volume| VolumeMeta {
                standing: volume.standing.out(),
                failures: volume.failures.saturating_add(1),
                ..*volume
            })
            .map(MetadataRecord::PutVolume)
            .collect();
        self.change(out)
    }

    /// A volume is added: its copy gets all that the others hold, before it is said to be one.
    pub(crate) fn add_copy(&mut self, at: &MetadataAt<'_>) -> Result<()> {
        let (Some(good), Some(place)) = (self.copies.first(), at.copies.first()) else {
            return Ok(());
        };
        let records = read_all(&good.log)
            .ok_or_else(|| Error::damaged(&good.log.place.dir, "the metadata cannot be read"))?;
        let copy = Copy::open(at, place)?;
        copy.log.lead(good.log.latest_epoch());
        copy.log.reset_to(good.log.start_offset(), ProducerTable::default())?;
        for (offset, bytes) in &records {
            let appended = copy.log.append(&[Record::new(bytes)])?;
            debug_assert_eq!(appended.base, *offset, "the copies hold the same offsets");
        }
        copy.log.sync_to(copy.log.end_offset())?;
        self.copies.push(Kept { unique_id: copy.unique_id, log: copy.log, gone: None });
        Ok(())
    }

    /// The volume is of the cluster no more: nothing is written to its copy.
    pub(crate) fn drop_copies(&mut self, unique_id: u64) -> Vec<Arc<Log>> {
        let (gone, kept) = std::mem::take(&mut self.copies)
            .into_iter()
            .partition(|copy: &Kept| copy.unique_id == unique_id);
        self.copies = kept;
        let gone: Vec<Kept> = gone;
        gone.into_iter().map(|copy| copy.log).collect()
    }

    /// The volume is of the cluster after all.
    pub(crate) fn take_back(&mut self, unique_id: u64, copies: Vec<Arc<Log>>) {
        let kept = |log| Kept { unique_id, log, gone: None };
        self.copies.extend(copies.into_iter().map(kept));
    }

    /// The volume is not there any more, for this reason: the next change goes on without it.
    pub(crate) fn leave_out(&mut self, unique_id: u64, why: Error) {
        let why = Arc::new(why);
        for copy in self.copies.iter_mut().filter(|copy| copy.unique_id == unique_id) {
            copy.gone.get_or_insert(Arc::clone(&why));
        }
    }

    /// Says of volumes that were left out that they failed, if no change has said so yet.
    pub(crate) fn say_who_left(&mut self) -> Result<()> {
        let has_left = |unique_id: u64| {
            self.copies.iter().any(|copy| copy.unique_id == unique_id && copy.gone.is_some())
        };
        let stays =
            self.volumes.values().find(|it| !it.standing.is_out() && !has_left(it.unique_id));
        match stays.copied() {
            // A change that changes nothing else.
            Some(stays) if self.copies.iter().any(|copy| copy.gone.is_some()) => {
                self.change(vec![MetadataRecord::PutVolume(stays)])
            }
            _ => Ok(()),
        }
    }

    /// Writes the state with these topics as the metadata of another store, in a new folder.
    pub(crate) fn copy_to(&self, at: &MetadataAt<'_>, topics: Vec<TopicMeta>) -> Result<()> {
        let mut copy = Self::open(at, &mut Vec::new())?;
        copy.next_topic_id = self.next_topic_id;
        copy.epoch_floor = self.epoch_floor;
        copy.topics = topics.into_iter().map(|topic| (topic.id, topic)).collect();
        copy.next_producer = self.next_producer;
        copy.producers = self.producers.clone();
        copy.snapshot()?;
        copy.close()
    }

    fn apply(&mut self, record: MetadataRecord) {
        self.changes += 1;
        match record {
            MetadataRecord::Snapshot(snapshot) => {
                self.next_topic_id = snapshot.next_topic_id;
                self.epoch_floor = snapshot.epoch_floor;
                self.topics = snapshot.topics.into_iter().map(|t| (t.id, t)).collect();
                self.next_producer = snapshot.next_producer;
                let producers = snapshot.producers.into_iter();
                self.producers = producers.map(|p| (p.name.clone(), p)).collect();
                self.next_volume = snapshot.next_volume.max(1);
                self.volumes = snapshot.volumes.into_iter().map(|v| (v.id, v)).collect();
                let assignments = snapshot.assignments.into_iter();
                self.assignments = assignments.map(|a| ((a.topic, a.partition), a)).collect();
                self.changes = 0;
            }
            MetadataRecord::PutTopic(topic) => {
                self.next_topic_id = self.next_topic_id.max(topic.id.get() + 1);
                self.topics.insert(topic.id, topic);
            }
            MetadataRecord::DeleteTopic { topic } => {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.deleted = true;
                }
            }
            MetadataRecord::Purged { topic } => {
                self.topics.remove(&topic);
                self.assignments.retain(|(of, _), _| *of != topic);
            }
            MetadataRecord::EpochFloor { epoch } => {
                self.epoch_floor = self.epoch_floor.max(epoch);
            }
            MetadataRecord::PutProducer(producer) => {
                let number = producer.id.get() & !ProducerId::NAMED_BIT;
                self.next_producer = self.next_producer.max(number + 1);
                self.producers.insert(producer.name.clone(), producer);
            }
            MetadataRecord::DropProducer { producer } => {
                self.producers.retain(|_, known| known.id != producer);
            }
            MetadataRecord::PutVolume(volume) => {
                self.next_volume = self.next_volume.max(volume.id.get().saturating_add(1));
                self.volumes.insert(volume.id, volume);
            }
            MetadataRecord::DropVolume { volume } => {
                self.volumes.remove(&volume);
            }
            MetadataRecord::PutPartition(assignment) => {
                let key = (assignment.topic, assignment.partition);
                self.assignments.insert(key, assignment);
            }
        }
    }

    /// True if changes are written to this volume, and its copies carry a clean mark.
    pub(crate) fn is_marked_on(&self, unique_id: u64) -> bool {
        let mut on = self.copies.iter().filter(|copy| copy.unique_id == unique_id).peekable();
        on.peek().is_some() && on.all(|copy| copy.gone.is_none() && copy.log.is_marked())
    }

    pub(crate) fn copies(&self) -> impl Iterator<Item = &Arc<Log>> {
        self.copies.iter().map(|copy| &copy.log)
    }

    /// Each with the unique id of the volume that it is on.
    pub(crate) fn copies_by_volume(&self) -> impl Iterator<Item = (u64, &Arc<Log>)> {
        self.copies.iter().map(|copy| (copy.unique_id, &copy.log))
    }

    pub(crate) fn close(&self) -> Result<()> {
        for copy in &self.copies {
            copy.log.close()?;
        }
        Ok(())
    }
}

impl Copy {
    fn open(at: &MetadataAt<'_>, copy: &CopyAt) -> Result<Self> {
        let number = PartitionId::new(copy.number);
        let opening = Opening {
            place: Arc::new(Place {
                topic: Arc::from("__metadata"),
                identity: Identity::new(METADATA_TOPIC, 0, number),
                dir: copy.dir.join(number.to_string()),
            }),
            disk: Arc::clone(&copy.disk),
            options: LogOptions {
                segment_bytes: SEGMENT_BYTES_MIN,
                durability: Durability::Fsync,
                dedup: DedupWindow::Off,
                // Trimmed to its snapshots.
                keep: Keep::ALL,
                ..copy.options.clone()
            },
            mode: at.mode,
            clock: Arc::clone(at.clock),
            housekeeper: None,
            handles: Arc::clone(at.handles),
            producers: Arc::clone(at.producers),
        };
        let (log, report) = Log::open(opening.clone(), copy.entrance)?;
        let whole = report.damage.is_empty() && log.check_latch().is_ok();
        let records = if whole { read_all(&log) } else { None };
        let path = report.damage.first().map(|damage| damage.file.clone());
        let newest = || log.segments().last().map(|segment| segment.path.clone());
        let path = path.or_else(newest).unwrap_or_else(|| opening.place.dir.clone());
        Ok(Self { unique_id: copy.unique_id, opening, log, records, path })
    }

    /// Whether it holds at some offset what the good one does not: written by an open that the
    /// others of the live set went on without.
    fn differs(&self, good: &Copy) -> bool {
        let both = [self, good].map(|copy| copy.records.as_deref().unwrap_or_default());
        let from = self.log.start_offset().max(good.log.start_offset());
        let to = self.log.end_offset().min(good.log.end_offset());
        let [ours, theirs] =
            both.map(|records| records.iter().filter(|(offset, _)| (from..to).contains(offset)));
        !ours.eq(theirs)
    }

    /// Makes this copy hold what the good one does. True if it did not.
    fn bring_up_to(&mut self, good: &Copy) -> Result<bool> {
        let end = good.log.end_offset();
        let mut from = self.log.end_offset();
        let differs = self.differs(good);
        if self.records.is_some() && from == end && !differs {
            return Ok(false);
        }
        if differs || self.records.is_none() || from < good.log.start_offset() || from > end {
            if self.log.check_latch().is_err() {
                // Where it ends is in blocks that the disk does not give back.
                self.log = Log::open_void(self.opening.clone())?;
            }
            from = good.log.start_offset();
            self.log.reset_to(from, ProducerTable::default())?;
        }
        let records = good.records.as_deref().unwrap_or_default();
        for (offset, bytes) in records.iter().filter(|(offset, _)| *offset >= from) {
            let appended = self.log.append(&[Record::new(bytes)])?;
            debug_assert_eq!(appended.base, *offset, "the copies hold the same offsets");
        }
        self.log.sync_to(self.log.end_offset())?;
        Ok(true)
    }
}

fn as_records(encoded: &[Vec<u8>]) -> Vec<Record<'_>> {
    encoded.iter().map(Record::new).collect()
}

/// Appends to a copy, and syncs it; returns the offset.
fn append(copy: &Log, batch: &[Record<'_>]) -> Result<u64> {
    let appended = copy.append(batch)?;
    copy.sync_to(appended.end)?;
    // Whoever looks beside us reads up to what slots call durable.
    copy.tell_durable();
    Ok(appended.base.get())
}

/// Every record of a log; `None` if one cannot be read.
pub(crate) fn read_all(log: &Log) -> Option<Vec<(Offset, Vec<u8>)>> {
    let mut cursor = ReadCursor::at(log.start_offset());
    let mut records = Vec::new();
    let end = log.end_offset();
    while let Some(chunk) = log.read(&mut cursor, end, FETCH_BYTES, Reads::Copied).ok()? {
        for record in chunk.records() {
            records.push((record.offset, record.record.value?.to_vec()));
        }
    }
    (cursor.offset() == end).then_some(records)
}
