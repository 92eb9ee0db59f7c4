//! [`Producer`]: appends, one call at a time or one batch at a time.
//!
//! Not here: which partition (`partitioner`), the append itself (`log`), what an acknowledgement
//! waits for (`partition`).
//!
//! Threads   any number: every call takes `&self`, and a producer has no state that a call waits
//!           for. Concurrent calls to one partition share its syncs.

use std::sync::Arc;

use crate::broker::{Broker, Inner, TopicState};
use crate::client::partitioner::{Partitioner, check_placement, place};
use crate::client::topic_ref::TopicRef;
use crate::config::Acks;
use crate::error::{Error, Result};
use crate::format::Record;
use crate::id::{Offset, PartitionId};
use crate::log::Appended;

/// Default of `batch_bytes`.
const BATCH_BYTES_DEFAULT: u32 = 64 << 10;
/// Largest `batch_bytes`.
const BATCH_BYTES_MAX: u32 = 64 << 20;

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
    /// True if the record was in the log already, under this offset. Always false so far.
    pub duplicate: bool,
}

/// Where a batch went: its records have consecutive offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchAck {
    /// The partition.
    pub partition: PartitionId,
    /// The first record's offset.
    pub base_offset: Offset,
    /// The last record's offset.
    pub last_offset: Offset,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub timestamp: i64,
}

impl BatchAck {
    /// The offsets of the records, in the order in which they were given.
    pub fn offsets(&self) -> impl Iterator<Item = Offset> + use<> {
        (self.base_offset.get()..=self.last_offset.get()).map(Offset::new)
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
    acks: Acks,
    batch_bytes: u32,
    partitioner: Option<Arc<dyn Partitioner>>,
}

impl Broker {
    /// Makes a producer.
    #[must_use]
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder {
            broker: Arc::clone(self.inner()),
            acks: Acks::default(),
            batch_bytes: BATCH_BYTES_DEFAULT,
            partitioner: None,
        }
    }
}

impl ProducerBuilder {
    /// What `send` waits for. Default [`Acks::All`].
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// How many bytes of records without a key go to one partition before the next one's turn:
    /// 1 byte to 64 MiB. Default 64 KiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u32) -> Self {
        self.batch_bytes = bytes;
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
    /// `InvalidConfig`; `ReadOnly` or `Closed` if the broker is.
    pub fn build(self) -> Result<Producer> {
        if self.batch_bytes == 0 || self.batch_bytes > BATCH_BYTES_MAX {
            return Err(Error::invalid_config("batch_bytes", "1 byte to 64 MiB"));
        }
        self.broker.must_be_writable()?;
        Ok(Producer {
            broker: self.broker,
            acks: self.acks,
            sticky_bytes: u64::from(self.batch_bytes),
            partitioner: self.partitioner,
        })
    }
}

/// Appends records. `Send + Sync`: share one among threads, or make one for each; it makes no
/// difference.
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
    broker: Arc<Inner>,
    acks: Acks,
    sticky_bytes: u64,
    partitioner: Option<Arc<dyn Partitioner>>,
}

impl Producer {
    /// Appends one record and waits until it is acknowledged.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, `RecordTooLarge`, `StorageFull`, `Io`, `Closed`: nothing
    /// was written. `Halted`: unknown, see [`Error::outcome`].
    #[expect(clippy::needless_pass_by_value, reason = "reads best, and costs the caller nothing")]
    pub fn send<'t>(&self, topic: impl Into<TopicRef<'t>>, record: Record<'_>) -> Result<Ack> {
        let topic = topic.into().find(&self.broker)?;
        let partition = self.place(&topic, &record)?;
        let appended = self.append(&topic, partition, std::slice::from_ref(&record))?;
        Ok(Ack {
            partition,
            offset: appended.base,
            timestamp: appended.append_time,
            duplicate: false,
        })
    }

    /// Appends records to one partition as one batch, all or nothing, and waits until it is
    /// acknowledged.
    ///
    /// # Errors
    /// As [`Producer::send`]; `InvalidBatch` without records, or if one names another partition.
    pub fn send_batch<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
        records: &[Record<'_>],
    ) -> Result<BatchAck> {
        let topic = topic.into().find(&self.broker)?;
        let partition = partition.into();
        check_placement(records, partition)?;
        let appended = self.append(&topic, partition, records)?;
        Ok(BatchAck {
            partition,
            base_offset: appended.base,
            last_offset: Offset::new(appended.end.get() - 1),
            timestamp: appended.append_time,
        })
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
        let topic = topic.into().find(&self.broker)?;
        self.place(&topic, record)
    }

    /// Ends the producer. Every `send` has been acknowledged, so there is nothing to wait for.
    ///
    /// # Errors
    /// None so far.
    pub fn close(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn place(&self, topic: &TopicState, record: &Record<'_>) -> Result<PartitionId> {
        place(topic, record, self.partitioner.as_deref(), self.sticky_bytes)
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
        if replicas.waits_for_reserve() {
            self.broker.fill_reserve()?;
        }
        replicas.append(records, self.acks).map_err(|error| match error {
            // The logs of a deleted topic are closed; a broker's are when it is.
            Error::Closed if !self.broker.is_closed() => {
                Error::UnknownTopic { name: Arc::clone(&topic.name) }
            }
            error => error,
        })
    }
}
