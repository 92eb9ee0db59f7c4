//! What a fetch hands out: records as views into the log, and records that can be kept.
//!
//! Nothing is copied, but that compressed batches are decompressed when they are fetched. A set
//! holds the memory it looks into, a file's map or its own: it outlives its consumer, and stays
//! valid and unchanged when the segment behind it is deleted. Iterating allocates, copies and locks
//! nothing.

use std::fmt;

use crate::client::start::{Positions, TopicPartition};
use crate::format::{Headers, RecordIter};
use crate::fs::View;
use crate::id::{LeaderEpoch, Offset, PartitionId};
use crate::log::{Chunk, ChunkRecord, ChunkRecords};

/// A set of fetched records.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use plimsoll::{Broker, Record, TopicConfig};
/// # use std::time::Duration;
/// # let dir = tempfile::tempdir()?;
/// # let broker = Broker::open(dir.path())?;
/// # broker.create_topic("orders", TopicConfig::new())?;
/// # broker.producer().build()?.send("orders", Record::new("paid"))?;
/// let mut consumer = broker.consumer().assign([("orders", 0)]).build()?;
/// let records = consumer.poll(Duration::from_secs(1))?;
/// for record in &records {
///     assert_eq!(record.value(), Some(b"paid".as_slice()));
/// }
/// # Ok(())
/// # }
/// ```
///
/// A view cannot outlive the set it was borrowed from:
///
/// ```compile_fail,E0505
/// # use plimsoll::Records;
/// fn keep(records: Records) -> usize {
///     let first = records.iter().next();
///     drop(records);
///     first.map_or(0, |record| record.value().map_or(0, <[u8]>::len))
/// }
/// ```
#[derive(Clone, Default)]
pub struct Records {
    fetched: Vec<Fetched>,
}

/// What was fetched of one partition in one go.
#[derive(Clone)]
pub(crate) struct Fetched {
    pub(crate) place: TopicPartition,
    pub(crate) chunk: Chunk,
}

impl Records {
    pub(crate) fn push(&mut self, place: TopicPartition, chunk: Chunk) {
        self.fetched.push(Fetched { place, chunk });
    }

    /// True if nothing was fetched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fetched.is_empty()
    }

    /// How many records there are. Counts them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// The records: those of a partition in offset order.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        let mut rest = self.fetched.iter();
        let current = rest.next().map(|fetched| (fetched, fetched.chunk.records()));
        RecordsIter { rest, current }
    }

    /// The partitions that the records are of, in the order of the fetch.
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.fetched.iter().map(|fetched| &fetched.place)
    }

    /// Where to go on after these records: for each partition, the offset after its last one here.
    #[must_use]
    pub fn next_positions(&self) -> Positions {
        self.fetched.iter().map(|f| (f.place.clone(), f.chunk.next)).collect()
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("next_positions", &self.next_positions()).finish()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = RecordView<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// The records of a fetched set; see [`Records::iter`].
#[derive(Clone)]
pub struct RecordsIter<'a> {
    rest: std::slice::Iter<'a, Fetched>,
    current: Option<(&'a Fetched, ChunkRecords<'a>)>,
}

impl RecordsIter<'_> {
    /// Goes on to the next partition.
    #[cold]
    fn next_fetched(&mut self) -> Option<()> {
        let fetched = self.rest.next()?;
        self.current = Some((fetched, fetched.chunk.records()));
        Some(())
    }
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        loop {
            let (fetched, records) = self.current.as_mut()?;
            if let Some(record) = records.next() {
                return Some(RecordView { fetched, record });
            }
            self.next_fetched()?;
        }
    }
}

impl fmt::Debug for RecordsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsIter").finish_non_exhaustive()
    }
}

/// One record, borrowed from the set it was fetched in.
#[derive(Clone)]
pub struct RecordView<'a> {
    fetched: &'a Fetched,
    record: ChunkRecord<'a>,
}

impl<'a> RecordView<'a> {
    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        &self.fetched.place.topic
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.fetched.place.partition
    }

    /// The offset.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.record.offset
    }

    /// The record's own timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.record.timestamp
    }

    /// When it was appended, in milliseconds since the Unix epoch. Never goes back in a partition.
    #[must_use]
    pub fn append_time(&self) -> i64 {
        self.record.append_time
    }

    /// The leader epoch that it was appended in.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.record.leader_epoch
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.record.key
    }

    /// The value; `None` for a tombstone. It begins at a multiple of 8 in memory.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.record.record.value
    }

    /// The headers, in the order in which they were given.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.record.record.headers.clone()
    }

    /// The dedup key, if it has one.
    #[must_use]
    pub fn dedup_key(&self) -> Option<&'a [u8]> {
        self.record.record.dedup_key
    }

    /// True if the record deletes its key: it has no value.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.record.record.value.is_none()
    }

    /// The same record, to keep. Copies nothing: it holds the memory map it lies in.
    #[must_use]
    pub fn to_shared(&self) -> SharedRecord {
        SharedRecord::new(self.fetched.place.clone(), &self.fetched.chunk, &self.record)
    }
}

impl fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordView")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

/// One record that owns what it needs to stay readable: a share of the memory map it lies in.
#[derive(Clone)]
pub struct SharedRecord {
    place: TopicPartition,
    offset: Offset,
    timestamp: i64,
    append_time: i64,
    leader_epoch: LeaderEpoch,
    /// From the record on.
    bytes: View,
}

impl SharedRecord {
    pub(crate) fn new(place: TopicPartition, chunk: &Chunk, record: &ChunkRecord<'_>) -> Self {
        let all = chunk.view.len();
        // The record was just decoded at this position, so it lies within the view.
        let bytes = chunk.view.slice(record.position.min(all)..all);
        Self {
            place,
            offset: record.offset,
            timestamp: record.timestamp,
            append_time: record.append_time,
            leader_epoch: record.leader_epoch,
            bytes: bytes.unwrap_or_else(|| chunk.view.clone()),
        }
    }

    fn record(&self) -> Option<crate::format::RecordRef<'_>> {
        RecordIter::first_of(self.bytes.bytes())
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.place.topic
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.place.partition
    }

    /// The offset.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The record's own timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// When it was appended, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn append_time(&self) -> i64 {
        self.append_time
    }

    /// The leader epoch that it was appended in.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.record()?.key
    }

    /// The value; `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.record()?.value
    }

    /// The headers, in the order in which they were given.
    pub fn headers(&self) -> impl Iterator<Item = crate::format::Header<'_>> {
        self.record().into_iter().flat_map(|record| record.headers)
    }

    /// The dedup key, if it has one.
    #[must_use]
    pub fn dedup_key(&self) -> Option<&[u8]> {
        self.record()?.dedup_key
    }

    /// True if the record deletes its key: it has no value.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.value().is_none()
    }
}

impl fmt::Debug for SharedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRecord")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}
