//! Which topics and named producers there are: a log of changes, in two copies on a single volume.
//!
//! Not here: the logs of the topics; the encoding of a change (`format`).
//!
//! Each copy is an ordinary log, in `metadata/0` and `metadata/1`. A change is appended to one and
//! synced, then to the other. At open the copy that reaches further is followed by the other one;
//! a damaged copy is begun anew from the good one. With both bad the open fails and deletes
//! nothing.
//!
//! Invariants
//!   1. The copies hold the same records at the same offsets.
//!   2. The state in memory is what the records say: it changes after both copies have a change.
//!   3. The log does not grow with opens: it is snapshotted, and trimmed to the snapshot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Clock, DedupWindow, Durability, FETCH_BYTES, Reads, SEGMENT_BYTES_MIN};
use crate::error::{Error, Result};
use crate::format::{
    Identity, MetadataRecord, MetadataSnapshot, PRODUCERS_MAX, ProducerMeta, Record, TopicMeta,
    is_producer_name,
};
use crate::fs::Disk;
use crate::id::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId};
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
    copies: [Arc<Log>; 2],
    next_topic_id: u64,
    epoch_floor: LeaderEpoch,
    topics: BTreeMap<TopicId, TopicMeta>,
    next_producer: u64,
    /// By name.
    producers: BTreeMap<String, ProducerMeta>,
    changes: u64,
    /// A change reached one copy and perhaps not the other.
    failed: Option<Arc<Error>>,
}

/// One copy as found: its log, what is in it, and whether that is whole.
struct Copy {
    opening: Opening,
    log: Arc<Log>,
    /// `None` if it cannot be read from start to end.
    records: Option<Vec<(Offset, Vec<u8>)>>,
}

/// What a metadata log is opened with.
pub(crate) struct MetadataAt<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) dir: &'a Path,
    pub(crate) options: LogOptions,
    pub(crate) mode: Mode,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) entrance: Entrance,
    pub(crate) handles: &'a Arc<Handles>,
    /// Of the broker. What is appended here is not numbered.
    pub(crate) producers: &'a Arc<LiveProducers>,
}

impl Metadata {
    /// Opens both copies and makes them equal. `notes` gets a sentence for what was mended.
    pub(crate) fn open(at: &MetadataAt<'_>, notes: &mut Vec<String>) -> Result<Self> {
        let mut copies = [Copy::open(at, 0)?, Copy::open(at, 1)?];
        let best = match (&copies[0].records, &copies[1].records) {
            (None, None) => {
                return Err(Error::damaged(at.dir, "both copies of the metadata are bad"));
            }
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (Some(_), Some(_)) => {
                usize::from(copies[1].log.end_offset() > copies[0].log.end_offset())
            }
        };
        let mut state = Self {
            copies: [Arc::clone(&copies[0].log), Arc::clone(&copies[1].log)],
            next_topic_id: METADATA_TOPIC.get() + 1,
            epoch_floor: LeaderEpoch::new(0),
            topics: BTreeMap::new(),
            next_producer: 0,
            producers: BTreeMap::new(),
            changes: 0,
            failed: None,
        };
        let good = copies[best].records.as_deref().unwrap_or_default();
        for (_, bytes) in good {
            let record = MetadataRecord::decode(bytes)
                .map_err(|_| Error::damaged(at.dir, "a metadata record cannot be decoded"))?;
            state.apply(record);
        }
        if at.mode == Mode::ReadWrite {
            let [first, second] = &mut copies;
            let (good, other) = if best == 0 { (first, second) } else { (second, first) };
            if other.bring_up_to(good)? {
                notes.push(format!(
                    "copy {} of the metadata was brought up to date from the other one",
                    1 - best
                ));
            }
            state.copies = copies.map(|copy| copy.log);
        }
        Ok(state)
    }

    /// True if nothing was ever written.
    pub(crate) fn is_new(&self) -> bool {
        self.copies.iter().all(|copy| copy.end_offset() == Offset::ZERO)
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

    /// Makes one change durable in both copies, then takes it over.
    ///
    /// # Errors
    /// `StorageFull`: nothing was written. `Halted`: whether the change counts shows the next open.
    pub(crate) fn change(&mut self, record: MetadataRecord) -> Result<()> {
        self.write(&record)?;
        self.apply(record);
        let kept = self.topics.len() + self.producers.len();
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
        });
        let at = self.write(&snapshot)?;
        self.changes = 0;
        for copy in &self.copies {
            while copy.seal_one()? {}
            copy.trim_to(at)?;
        }
        Ok(())
    }

    /// Appends to both copies; returns the offset.
    fn write(&mut self, record: &MetadataRecord) -> Result<Offset> {
        self.must_be_usable()?;
        let bytes = record.encode();
        let batch = [Record::new(&bytes)];
        // Room in both before a byte is written to one: a full disk refuses the change as a whole.
        for copy in &self.copies {
            copy.make_room(&batch)?;
        }
        let mut at = Offset::ZERO;
        for copy in &self.copies {
            let written = copy
                .append(&batch)
                .and_then(|appended| copy.sync_to(appended.end).map(|()| appended.base));
            match written {
                Ok(base) => at = base,
                Err(error) => {
                    // One copy may be ahead of the other now: the next open makes them equal.
                    let first = Arc::new(error);
                    self.failed = Some(Arc::clone(&first));
                    return Err(Error::Halted { first });
                }
            }
        }
        for copy in &self.copies {
            // Whoever looks beside us reads up to what slots call durable.
            copy.tell_durable();
        }
        Ok(at)
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
        }
    }

    /// True if both copies carry a clean mark.
    pub(crate) fn is_marked(&self) -> bool {
        self.copies.iter().all(|copy| copy.is_marked())
    }

    pub(crate) fn copies(&self) -> &[Arc<Log>; 2] {
        &self.copies
    }

    pub(crate) fn close(&self) -> Result<()> {
        for copy in &self.copies {
            copy.close()?;
        }
        Ok(())
    }
}

impl Copy {
    fn open(at: &MetadataAt<'_>, copy: u32) -> Result<Self> {
        let partition = PartitionId::new(copy);
        let opening = Opening {
            place: Arc::new(Place {
                topic: Arc::from("__metadata"),
                identity: Identity::new(METADATA_TOPIC, 0, partition),
                dir: at.dir.join(copy.to_string()),
            }),
            disk: Arc::clone(at.disk),
            options: LogOptions {
                segment_bytes: SEGMENT_BYTES_MIN,
                durability: Durability::Fsync,
                dedup: DedupWindow::Off,
                // Trimmed to its snapshots.
                keep: Keep::ALL,
                ..at.options.clone()
            },
            mode: at.mode,
            clock: Arc::clone(at.clock),
            housekeeper: None,
            handles: Arc::clone(at.handles),
            producers: Arc::clone(at.producers),
        };
        let (log, report) = Log::open(opening.clone(), at.entrance)?;
        let whole = report.damage.is_empty() && log.check_latch().is_ok();
        let records = if whole { read_all(&log) } else { None };
        Ok(Self { opening, log, records })
    }

    /// Makes this copy hold what the good one does. True if it did not.
    fn bring_up_to(&mut self, good: &Copy) -> Result<bool> {
        let end = good.log.end_offset();
        let mut from = self.log.end_offset();
        if self.records.is_some() && from == end {
            return Ok(false);
        }
        if self.records.is_none() || from < good.log.start_offset() || from > end {
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
