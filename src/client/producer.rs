//! [`Producer`]: appends, one call at a time, one batch at a time, or pipelined.
//!
//! Not here: which partition (`partitioner`), what is queued (`pipeline`), the append itself
//! (`log`), what an acknowledgement waits for (`partition`).
//!
//! Threads   any number: every call takes `&self`. `send` waits for no other call but for what was
//!           queued before it for its partition. Concurrent calls to one partition share its syncs.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::broker::{Broker, Inner, TopicState};
use crate::client::delivery::Delivery;
use crate::client::partitioner::{Partitioner, check_placement, place};
use crate::client::pipeline::{Pipeline, PipelineOptions};
use crate::client::start::TopicPartition;
use crate::client::topic_ref::TopicRef;
use crate::config::{
    Acks, BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, BUFFER_BYTES_DEFAULT, BUFFER_BYTES_MAX,
    Compression, DELIVERY_TIMEOUT_DEFAULT, LINGER_MAX, MAX_BLOCK_DEFAULT,
};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::id::{Offset, PartitionId};
use crate::log::{Appended, Placed, ProducerIdentity};

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The partition.
    pub partition: PartitionId,
    /// The offset.
    pub offset: Offset,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// True if a record with the same dedup key was in the log already: offset and time are that
    /// one's, and nothing was written. See [`TopicConfig::dedup`](crate::TopicConfig::dedup).
    pub duplicate: bool,
}

impl Ack {
    #[inline]
    pub(crate) fn new(partition: PartitionId, appended: &Appended, index: u64) -> Self {
        let Placed { offset, append_time: timestamp, duplicate } = appended.placed(index);
        Self { partition, offset, timestamp, duplicate }
    }
}

/// Where a batch went: its records have consecutive offsets, but for those that were in the log
/// already.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchAck {
    /// The partition.
    pub partition: PartitionId,
    /// The first record's offset.
    pub base_offset: Offset,
    /// The last record's offset. With duplicates it may be below the first one's.
    pub last_offset: Offset,
    /// When it was appended, in milliseconds since the Unix epoch. If all of its records were there
    /// before, when this was found.
    pub timestamp: i64,
    /// How many of the records were in the log already, and not written again: see
    /// [`TopicConfig::dedup`](crate::TopicConfig::dedup).
    pub duplicates: u64,
    records: u64,
    appended: Appended,
}

impl fmt::Debug for BatchAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, base_offset, last_offset, timestamp, duplicates, .. } = self;
        f.debug_struct("BatchAck")
            .field("partition", partition)
            .field("base_offset", base_offset)
            .field("last_offset", last_offset)
            .field("timestamp", timestamp)
            .field("duplicates", duplicates)
            .finish_non_exhaustive()
    }
}

impl BatchAck {
    fn new(partition: PartitionId, appended: Appended, records: u64) -> Self {
        Self {
            partition,
            base_offset: appended.placed(0).offset,
            last_offset: appended.placed(records.saturating_sub(1)).offset,
            timestamp: appended.append_time,
            duplicates: appended.duplicates.as_ref().map_or(0, |duplicates| duplicates.count),
            records,
            appended,
        }
    }

    /// The offsets of the records, in the order in which they were given; of one that was in the
    /// log already, where it is.
    pub fn offsets(&self) -> impl Iterator<Item = Offset> + use<> {
        self.acks().map(|ack| ack.offset)
    }

    /// What [`Producer::send`] would have returned for each of the records, in the order in which
    /// they were given.
    pub fn acks(&self) -> impl Iterator<Item = Ack> + use<> {
        let (partition, appended) = (self.partition, self.appended.clone());
        (0..self.records).map(move |index| Ack::new(partition, &appended, index))
    }
}

/// Refuses records above the topic's limit.
#[inline]
fn check_size(records: &[Record<'_>], bytes_max: u32) -> Result<()> {
    for record in records {
        let bytes = record.user_bytes();
        if bytes > bytes_max as usize {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            return Err(Error::RecordTooLarge { what: "a record", bytes });
        }
    }
    Ok(())
}

/// How a producer is made; see `Broker::producer`.
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    broker: Arc<Inner>,
    name: Option<String>,
    acks: Acks,
    compression: Option<Compression>,
    batch_bytes: u32,
    linger: Duration,
    buffer_bytes: u64,
    max_block: Duration,
    delivery_timeout: Duration,
    partitioner: Option<Arc<dyn Partitioner>>,
}

impl Broker {
    /// Makes a producer.
    #[must_use]
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder {
            broker: Arc::clone(self.inner()),
            name: None,
            acks: Acks::default(),
            compression: None,
            batch_bytes: BATCH_BYTES_DEFAULT,
            linger: Duration::ZERO,
            buffer_bytes: BUFFER_BYTES_DEFAULT,
            max_block: MAX_BLOCK_DEFAULT,
            delivery_timeout: DELIVERY_TIMEOUT_DEFAULT,
            partitioner: None,
        }
    }
}

impl ProducerBuilder {
    /// A name, 1 to 249 bytes, under which the producer is the same over restarts: each record
    /// that it appends to a partition has the next sequence there, and
    /// [`Producer::last_sequence`] tells where it left off. So a source that can be read again from
    /// any place is in the log exactly once.
    ///
    /// Whoever builds a producer of a name fences the one that had it before: that one's calls fail
    /// with [`Error::ProducerFenced`] from then on, in every partition. A name is durable, takes a
    /// few bytes in each file of the partitions that it appends to, and is kept until
    /// `Admin::delete_producer`: give it to a job, not to a run of it. At most 65,536 of them.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What `send` waits for, and what a delivery does. Default [`Acks::All`].
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// How batches are compressed, whatever their topic's configuration says. Default: as that
    /// says.
    ///
    /// A batch is compressed on the thread that sends it, before it is appended: what is sent at
    /// the same time by others does not wait for it. A record without a timestamp has the time of
    /// its append; in a compressed batch in which others have one of their own, that of the
    /// compression, just before.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// How many bytes of queued records go into one batch, unless a single one has more; and how
    /// many bytes of records without a key go to one partition before the next one's turn: 1 byte
    /// to 64 MiB. Larger batches cost less a record. Default 64 KiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u32) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// How long a queued batch waits to be filled: up to 1 hour. It is sent earlier if it is full,
    /// flushed, or in the way of others. Default zero: it is sent as soon as the batches before it
    /// are answered, together with what was queued meanwhile. With
    /// [`Background::Inline`](crate::Background::Inline) a batch always waits until it is full or
    /// asked for.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How much may be queued or in flight, in bytes as the log stores them (each record takes 32
    /// and more beside its own): 1 byte to 1 TiB. Default 32 MiB. Beside it, up to 16 emptied
    /// buffers of 1 MiB each at most are kept for the next batches.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How long `enqueue` waits for room in the buffer before it fails with
    /// [`Error::BufferFull`]. With zero it does not wait. Default 60 seconds.
    #[must_use]
    pub fn max_block(mut self, max_block: Duration) -> Self {
        self.max_block = max_block;
        self
    }

    /// How long a queued record is tried again after failures that may pass, a full disk for one.
    /// Counted from when its batch was begun; at least `linger`, and more than zero. Each is tried
    /// once at least. Default 120 seconds.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// A partitioner of one's own, for records that do not name their partition.
    #[must_use]
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// Makes the producer.
    ///
    /// # Errors
    /// `InvalidConfig`, also with 65,536 producers without a name at a time; `ReadOnly` or `Closed`
    /// if the broker is. With a name also `StorageFull`, `Io` and `Halted`: the name stays with
    /// whoever has it, or, after `Halted`, perhaps with nobody.
    pub fn build(self) -> Result<Producer> {
        if self.batch_bytes == 0 || self.batch_bytes > BATCH_BYTES_MAX {
            return Err(Error::invalid_config("batch_bytes", "1 byte to 64 MiB"));
        }
        if self.linger > LINGER_MAX {
            return Err(Error::invalid_config("linger", "at most 1 hour"));
        }
        if self.buffer_bytes == 0 || self.buffer_bytes > BUFFER_BYTES_MAX {
            return Err(Error::invalid_config("buffer_bytes", "1 byte to 1 TiB"));
        }
        if self.delivery_timeout.is_zero() || self.delivery_timeout < self.linger {
            let why = "more than zero, and at least linger";
            return Err(Error::invalid_config("delivery_timeout", why));
        }
        self.compression.unwrap_or_default().check_built()?;
        self.broker.must_be_writable()?;
        let identity = self.broker.new_producer(self.name.as_deref())?;
        let options = PipelineOptions {
            acks: self.acks,
            compression: self.compression,
            batch_bytes: u64::from(self.batch_bytes),
            linger: self.linger,
            buffer_bytes: self.buffer_bytes,
            max_block: self.max_block,
            delivery_timeout: self.delivery_timeout,
        };
        Ok(Producer {
            core: Arc::new(Core {
                broker: self.broker,
                options,
                identity: Arc::new(identity),
                partitioner: self.partitioner,
                pipeline: OnceLock::new(),
            }),
        })
    }
}

/// Appends records. `Send + Sync`: share one among threads, or make one for each. Clones are the
/// same producer: they share its buffer, and what is queued is flushed when the last one is
/// dropped.
///
/// Records of one thread for one partition get their offsets in the order of its calls, `send` and
/// `enqueue` mixed or not: a `send` waits for what was queued before it for that partition.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use plimsoll::{Broker, Record, TopicConfig};
///
/// let broker = Broker::open(dir.path())?;
/// let topic = broker.create_topic("orders", TopicConfig::new().partitions(4))?;
/// let producer = broker.producer().build()?;
///
/// let ack = producer.send(&topic, Record::new("paid").key("order-42"))?;
/// let batch = [Record::new("packed"), Record::new("sent")];
/// let acks = producer.send_batch(&topic, ack.partition, &batch)?;
/// assert_eq!(acks.base_offset, ack.offset.next());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    core: Arc<Core>,
}

/// What the clones of a producer share; flushes when the last one goes.
#[derive(Debug)]
struct Core {
    broker: Arc<Inner>,
    options: PipelineOptions,
    identity: Arc<ProducerIdentity>,
    partitioner: Option<Arc<dyn Partitioner>>,
    /// Made by the first `enqueue`: a producer that only sends has none.
    pipeline: OnceLock<Arc<Pipeline>>,
}

#[cfg(test)]
impl Producer {
    /// How many rounds of what was queued there were.
    pub(crate) fn rounds(&self) -> usize {
        use std::sync::atomic::Ordering::Relaxed;

        self.core.pipeline.get().map_or(0, |pipeline| pipeline.rounds.load(Relaxed))
    }
}

impl Core {
    fn pipeline(&self) -> Result<&Arc<Pipeline>> {
        if let Some(pipeline) = self.pipeline.get() {
            return Ok(pipeline);
        }
        let pipeline = Pipeline::new(&self.broker, &self.identity, self.options)?;
        // Another thread may have been first; then this one goes as it came.
        Ok(self.pipeline.get_or_init(|| pipeline))
    }

    fn flush(&self) -> Result<()> {
        self.broker.check_fork()?;
        self.pipeline.get().map_or(Ok(()), |pipeline| pipeline.flush())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Every delivery has its answer; who has none kept calls `close`.
        let _ = self.flush();
    }
}

impl Producer {
    /// Appends one record and waits until it is acknowledged. What this producer has queued for the
    /// same partition goes first.
    ///
    /// In a topic with a dedup window, a record whose dedup key is in the log already is not
    /// written again: the [`Ack`] says where it is, once that record is as durable as this call
    /// asks for. A record without a dedup key is always written.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, `RecordTooLarge`, `DedupMismatch`, `ProducerFenced`,
    /// `StorageFull`, `Io`, `Closed`, and `MissingFeature` if the topic's compression is not built
    /// in: nothing was written. `Corrupt`: neither, as what may have the record's dedup key cannot
    /// be read. `Halted`: unknown, see [`Error::outcome`].
    #[expect(clippy::needless_pass_by_value, reason = "reads best, and costs the caller nothing")]
    pub fn send<'t>(&self, topic: impl Into<TopicRef<'t>>, record: Record<'_>) -> Result<Ack> {
        let topic = topic.into().find(&self.core.broker)?;
        let partition = self.place(&topic, &record)?;
        let appended = self.append(&topic, partition, std::slice::from_ref(&record))?;
        Ok(Ack::new(partition, &appended, 0))
    }

    /// Appends records to one partition as one batch, all or nothing, and waits until it is
    /// acknowledged. Records whose dedup keys are in the log already, or are those of earlier ones
    /// of the batch, are left out of it.
    ///
    /// # Errors
    /// As [`Producer::send`]; `InvalidBatch` without records, or if one names another partition.
    pub fn send_batch<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
        records: &[Record<'_>],
    ) -> Result<BatchAck> {
        let topic = topic.into().find(&self.core.broker)?;
        let partition = partition.into();
        check_placement(records, partition)?;
        let appended = self.append(&topic, partition, records)?;
        Ok(BatchAck::new(partition, appended, records.len() as u64))
    }

    /// The sequence of the last record that this producer has in a partition; `None` if there is
    /// none, and also if there is no such topic or partition: make the topic first, or a name that
    /// was mistyped looks like a source of which nothing was sent.
    ///
    /// Sequences count from 0 the records that were written: a record that was a duplicate of
    /// another one by its dedup key has none. With a name they go on over restarts, so this is how
    /// many records of a source need not be sent again, less one.
    ///
    /// What it tells is on disk, or in the page cache, as the topic's durability asks.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use plimsoll::{Broker, Record, TopicConfig, TopicPartition};
    /// # let dir = tempfile::tempdir()?;
    /// # let broker = Broker::open(dir.path())?;
    /// # let topic = broker.create_topic("lines", TopicConfig::new())?;
    /// let source = ["a", "b", "c"];
    /// for crash_after in [2, 3] {
    ///     let producer = broker.producer().name("importer").build()?;
    ///     let last = producer.last_sequence(&TopicPartition::new("lines", 0));
    ///     let done = last.map_or(0, |last| last as usize + 1);
    ///     for line in &source[done..crash_after] {
    ///         producer.send(&topic, Record::new(line))?;
    ///     }
    /// }
    /// assert_eq!(broker.admin().latest(&topic, 0)?.get(), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn last_sequence(&self, place: &TopicPartition) -> Option<u64> {
        self.core.broker.check_fork().ok()?;
        let topic = self.core.broker.find_topic(&place.topic)?;
        let partition = topic.partition(place.partition).ok()?;
        let (sequence, end) = partition.log().last_sequence(self.core.identity.id)?;
        // 1. the holder of before has appended, and waits for its sync; 2. this one takes the name,
        // and goes on behind that record; 3. a power cut takes it. Where it cannot be made durable
        // the log has halted, and nobody goes on.
        let _ = partition.settle(end);
        Some(sequence)
    }

    /// The partition that `send` would put this record in. For a record without a key that is where
    /// keyless records stick at present, and the record's bytes are counted as sent there.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`.
    pub fn partition_for<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        record: &Record<'_>,
    ) -> Result<PartitionId> {
        let topic = topic.into().find(&self.core.broker)?;
        self.place(&topic, record)
    }

    /// Queues a copy of the record, and returns before it is written: by its [`Delivery`] one may
    /// wait for the acknowledgement, but need not. Queued records are sent as batches, in the order
    /// in which they were queued within each partition, by a thread that the broker makes when it
    /// is first needed.
    ///
    /// A record without a timestamp gets the time at which its batch is appended. What fails for
    /// now (the disk is full) is tried again for `delivery_timeout`; a record is never twice in the
    /// log. One panics where the partitioner does, and then nothing is queued.
    ///
    /// Records share the fate of their batch. With dedup keys that differ in value where they are
    /// alike, that means `DedupMismatch` for those that were queued along: who cannot rule that out
    /// sends such records by themselves.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use plimsoll::{Broker, Record, TopicConfig};
    /// # let dir = tempfile::tempdir()?;
    /// # let broker = Broker::open(dir.path())?;
    /// let topic = broker.create_topic("readings", TopicConfig::new())?;
    /// let producer = broker.producer().build()?;
    /// for reading in 0..1_000_u32 {
    ///     producer.enqueue(&topic, Record::new(&reading.to_le_bytes()))?;
    /// }
    /// producer.close()?;
    /// assert_eq!(broker.admin().latest(&topic, 0)?.get(), 1_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `BufferFull` if there was no room for the record for as long as `max_block`;
    /// `RecordTooLarge`, also of one that has no room in an empty buffer; `UnknownTopic`,
    /// `UnknownPartition`, `InvalidBatch`, `Closed`, `Forked`; `Io` if there could be no thread.
    /// Nothing was queued.
    #[expect(clippy::needless_pass_by_value, reason = "reads best, and costs the caller nothing")]
    pub fn enqueue<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        record: Record<'_>,
    ) -> Result<Delivery> {
        let topic = topic.into().find(&self.core.broker)?;
        // Before anything is locked: a partitioner is the user's code.
        let partition = self.place(&topic, &record)?;
        topic.partition(partition)?;
        check_size(std::slice::from_ref(&record), topic.record_bytes())?;
        self.core.pipeline()?.enqueue(&topic, partition, &record)
    }

    /// Sends what was queued before this call, by any clone, and waits until all of it is
    /// acknowledged or has failed: `delivery_timeout` and the time of an append at most.
    ///
    /// # Errors
    /// The first failure of a queued record that no earlier `flush` has returned. Each delivery has
    /// its own answer, also where this returns an error.
    pub fn flush(&self) -> Result<()> {
        self.core.flush()
    }

    /// Flushes, and ends this clone of the producer.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub fn close(self) -> Result<()> {
        self.core.flush()
    }

    #[inline]
    fn place(&self, topic: &TopicState, record: &Record<'_>) -> Result<PartitionId> {
        let own = self.core.partitioner.as_deref();
        place(topic, record, own, self.core.options.batch_bytes)
    }

    #[inline]
    fn append(
        &self,
        topic: &TopicState,
        partition: PartitionId,
        records: &[Record<'_>],
    ) -> Result<Appended> {
        let replicas = topic.partition(partition)?;
        check_size(records, topic.record_bytes())?;
        if let Some(pipeline) = self.core.pipeline.get() {
            pipeline.go_ahead_of(topic.id, partition);
        }
        while replicas.waits_for_reserve() {
            self.core.broker.must_be_writable()?;
            match self.core.broker.fill_reserve(replicas) {
                Err(Error::StorageFull(_)) if replicas.passes_on(None) => {}
                filled => filled?,
            }
        }
        replicas
            .append(
                &self.core.identity,
                records,
                self.core.options.compression(topic),
                (self.core.options.acks, self.core.options.delivery_timeout),
            )
            .map_err(|error| self.core.broker.explain(topic, error))
    }
}
