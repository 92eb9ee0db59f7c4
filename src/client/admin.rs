//! [`Admin`]: looking at topics, changing them, and deleting them or what is in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{
    BackupReport, Broker, Inner, ScrubReport, Topic, VerifyReport, VolumeDescription,
};
use crate::client::topic_ref::TopicRef;
use crate::config::{Cleanup, Compression, DedupWindow, Durability, Reads, TopicChange};
use crate::error::Result;
use crate::id::{LeaderEpoch, Offset, PartitionId, TopicId, VolumeId};

/// Administration; see `Broker::admin`.
#[derive(Clone, Debug)]
pub struct Admin {
    broker: Arc<Inner>,
}

/// What [`Admin::describe`] tells of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub topic: Arc<str>,
    /// Its id.
    pub id: TopicId,
    /// How many replicas each partition has.
    pub replicas: u16,
    /// How many must be in sync for an append with `Acks::All`.
    pub min_insync: u16,
    /// Whether a replica that is not in sync may lead where none that is in sync is there.
    pub unclean_leader_election: bool,
    /// What acknowledged means.
    pub durability: Durability,
    /// How long records are kept; `None` for ever.
    pub retention: Option<Duration>,
    /// How many bytes of a partition are kept; `None` for all.
    pub retention_bytes: Option<u64>,
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// How old a segment's first record may become before the segment is rolled.
    pub segment_age: Duration,
    /// The most that a record may have.
    pub record_bytes: u32,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// How long dedup keys are remembered.
    pub dedup: DedupWindow,
    /// How batches are compressed.
    pub compression: Compression,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// What [`Admin::describe`] tells of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// The first offset still kept.
    pub log_start_offset: Offset,
    /// The next offset to be written.
    pub log_end_offset: Offset,
    /// Everything below it is committed; consumers read only below it.
    pub high_watermark: Offset,
    /// Everything below it is on the medium.
    pub durable_offset: Offset,
    /// The epoch of its leader.
    pub leader_epoch: LeaderEpoch,
    /// The volume whose replica leads; `None` while none can.
    pub leader: Option<VolumeId>,
    /// Of each replica that is there.
    pub replicas: Vec<ReplicaDescription>,
}

/// What `Admin::describe` tells of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaDescription {
    /// The volume that it is on.
    pub volume: VolumeId,
    /// It counts for what is committed.
    pub in_sync: bool,
    /// The first offset that it keeps.
    pub log_start_offset: Offset,
    /// The next offset to be written to it.
    pub log_end_offset: Offset,
    /// Everything below it is on its medium.
    pub durable_offset: Offset,
}

impl Broker {
    /// Administration.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { broker: Arc::clone(self.inner()) }
    }
}

impl Admin {
    /// The topics, by name. None in a forked child.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        if self.broker.check_fork().is_err() {
            return Vec::new();
        }
        self.broker.topic_states().into_iter().map(|state| self.broker.topic(state)).collect()
    }

    /// A topic and its partitions.
    ///
    /// # Errors
    /// `UnknownTopic`.
    pub fn describe<'t>(&self, topic: impl Into<TopicRef<'t>>) -> Result<TopicDescription> {
        let state = topic.into().find(&self.broker)?;
        let partitions = (0..).zip(state.partitions.iter()).map(|(number, partition)| {
            let log = partition.log();
            let standing = partition.standing();
            let epoch = standing.as_ref().map_or_else(|| log.latest_epoch(), |it| it.epoch);
            let in_sync = |volume| standing.as_ref().is_none_or(|it| it.isr.contains(&volume));
            let replicas = partition.replicas().map(|replica| ReplicaDescription {
                volume: replica.volume,
                in_sync: in_sync(replica.volume),
                log_start_offset: replica.log.start_offset(),
                log_end_offset: replica.log.end_offset(),
                durable_offset: replica.log.durable_offset(),
            });
            PartitionDescription {
                partition: PartitionId::new(number),
                log_start_offset: log.start_offset(),
                log_end_offset: log.end_offset(),
                high_watermark: partition.high_watermark(),
                durable_offset: log.durable_offset(),
                leader_epoch: epoch,
                leader: (!partition.is_offline()).then(|| partition.volume()),
                replicas: replicas.collect(),
            }
        });
        let config = state.config();
        Ok(TopicDescription {
            topic: Arc::clone(&state.name),
            id: state.id,
            replicas: config.replicas_or_default(),
            min_insync: config.min_insync_or_default(),
            unclean_leader_election: config.unclean_leader_election,
            durability: config.durability,
            retention: config.retention,
            retention_bytes: config.retention_bytes,
            segment_bytes: config.segment_bytes,
            segment_age: config.segment_age,
            record_bytes: config.record_bytes,
            cleanup: config.cleanup,
            dedup: config.dedup,
            compression: config.compression,
            partitions: partitions.collect(),
        })
    }

    /// Makes a volume in a folder, and adds it to the store while that is in use. New partitions
    /// are placed on it, and replicas that have no place yet. From then on it is to be given to
    /// every open.
    ///
    /// # Errors
    /// `InvalidVolume` if there is a volume in the folder already; `Io`, `StorageFull`, `ReadOnly`.
    pub fn add_volume(&self, dir: impl AsRef<Path>) -> Result<VolumeId> {
        self.broker.add_volume(dir.as_ref())
    }

    /// Moves everything off the volume in a folder, while the store is in use: leaders first, then
    /// replicas. Returns once nothing is on it; then it can be removed. What is cut short goes on
    /// with the next open.
    ///
    /// # Errors
    /// `InvalidVolume` if no volume of the store is there, or no other one can take what it holds,
    /// or too few would be left for the `min_insync` of some topic;
    /// `Closed`, `ReadOnly`, and those of a change of the metadata.
    pub fn drain_volume(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.broker.drain_volume(self.broker.volume_in(dir.as_ref())?)
    }

    /// Takes the volume in a folder out of the store: it is not to be given to an open any more.
    /// One that failed may hold replicas of partitions that others have too; with `force` any.
    /// Its files stay where they are.
    ///
    /// # Errors
    /// `InvalidVolume` if no volume of the store is there, it is the last one, or holds what it may
    /// not; `Closed`, `ReadOnly`, and those of a change of the metadata.
    pub fn remove_volume(&self, dir: impl AsRef<Path>, force: bool) -> Result<()> {
        self.broker.remove_volume(self.broker.volume_in(dir.as_ref())?, force)
    }

    /// Has every partition led by the replica that comes first in its assignment, where that is in
    /// sync, and does not lead already: leaders are spread again as evenly as when the partitions
    /// were placed. Returns how many partitions another one leads now. Who sends meanwhile may be
    /// asked to try again, which a producer does by itself.
    ///
    /// Every open does the same by itself.
    ///
    /// # Errors
    /// `Closed`, `ReadOnly`, `Forked`.
    pub fn elect_preferred_leaders(&self) -> Result<usize> {
        self.broker.elect_preferred_leaders()
    }

    /// The names of producers, in their order; see `ProducerBuilder::name`.
    ///
    /// # Errors
    /// `Forked`.
    pub fn producers(&self) -> Result<Vec<String>> {
        self.broker.producer_names()
    }

    /// Forgets the name of a producer. Whoever holds it is fenced, and whoever takes the name next
    /// begins anew, at sequence 0. What it has appended stays.
    ///
    /// # Errors
    /// `UnknownProducer`; `StorageFull`, `Io`, `Halted`, `ReadOnly`, `Closed`, `Forked`.
    pub fn delete_producer(&self, name: &str) -> Result<()> {
        self.broker.delete_producer(name)
    }

    /// Deletes a topic and every record in it. Records that were fetched stay readable.
    ///
    /// # Errors
    /// `UnknownTopic`, `ReadOnly`; `Io` if a file could not be removed: the topic is gone all the
    /// same, and the next open removes the rest.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.broker.delete_topic(name)
    }

    /// Changes a topic's configuration. It is durable when this returns, and in effect for every
    /// handle: what a shorter retention lets go goes within seconds.
    ///
    /// # Errors
    /// `InvalidConfig` names the option that has a value it cannot have, or cannot be changed;
    /// nothing was changed then. `UnknownTopic`, `ReadOnly`, `StorageFull`. `Halted`: whether the
    /// change counts shows the next open.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use plimsoll::{Broker, TopicChange, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.admin().alter(&orders, TopicChange::new().retention(Duration::from_secs(3600)))?;
    /// assert_eq!(broker.admin().describe("orders")?.retention, Some(Duration::from_secs(3600)));
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "reads best, and costs the caller nothing")]
    pub fn alter<'t>(&self, topic: impl Into<TopicRef<'t>>, change: TopicChange) -> Result<()> {
        let state = topic.into().find(&self.broker)?;
        self.broker.alter(&state, &change)
    }

    /// Adds partitions to a topic, so that it has `total`. They count once they are durable in the
    /// metadata, and for every handle at once; a consumer or reader made before keeps those it
    /// has. With as many as there are nothing happens.
    ///
    /// **Keys move**: a key's partition is its hash modulo their number. What is sent with a key
    /// from now on may go to another partition than what was sent with it before, and is then not
    /// read in order with it. What is there stays where it is.
    ///
    /// # Errors
    /// `InvalidConfig` for fewer than there are, or more than 65,536. `UnknownTopic`, `ReadOnly`,
    /// `StorageFull`. `Halted`: whether the change counts shows the next open.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// use plimsoll::{Broker, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.admin().add_partitions(&orders, 4)?;
    /// assert_eq!(orders.partitions(), 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_partitions<'t>(&self, topic: impl Into<TopicRef<'t>>, total: u32) -> Result<()> {
        let state = topic.into().find(&self.broker)?;
        self.broker.add_partitions(&state, total)
    }

    /// Deletes the records of a partition below an offset: the log start moves up to it, and the
    /// files that hold nothing else are removed. That is durable when this returns. What was
    /// fetched stays readable; a consumer whose position is deleted goes on where its `Reset`
    /// says. Below the log start, or at it, nothing happens.
    ///
    /// # Errors
    /// `OffsetOutOfRange` above the high watermark: nothing is deleted. `UnknownTopic`,
    /// `UnknownPartition`, `ReadOnly`, `Halted`. `Io` if a file could not be removed: the records
    /// are deleted if the log start says so, and the removal is tried again.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// use plimsoll::{Broker, Offset, Record, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.producer().build()?.send_batch(&orders, 0, &["a", "b"].map(Record::new))?;
    /// broker.admin().delete_records(&orders, 0, Offset::new(1))?;
    /// let left = broker.reader(&orders).build()?.next().ok_or("nothing is left")??;
    /// assert_eq!(left.value(), Some(&b"b"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_records<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
        before: Offset,
    ) -> Result<()> {
        self.broker.must_be_writable()?;
        let state = topic.into().find(&self.broker)?;
        let deleted = state.partition(partition.into())?.delete_records(before);
        deleted.map_err(|error| self.broker.explain(&state, error))
    }

    /// The log start offset of a partition.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; and why the partition could not be opened, if it could
    /// not.
    pub fn earliest<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
    ) -> Result<Offset> {
        let state = topic.into().find(&self.broker)?;
        Ok(state.partition(partition.into())?.known()?.start_offset())
    }

    /// The high watermark of a partition: where consumers can read up to.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; and why the partition could not be opened, if it could
    /// not.
    pub fn latest<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
    ) -> Result<Offset> {
        let state = topic.into().find(&self.broker)?;
        let partition = state.partition(partition.into())?;
        partition.known()?;
        Ok(partition.high_watermark())
    }

    /// The first offset whose record has this timestamp (milliseconds since the Unix epoch) or a
    /// later one; `None` if there is none.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, `Io`.
    pub fn offset_at<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
        timestamp: i64,
    ) -> Result<Option<Offset>> {
        let state = topic.into().find(&self.broker)?;
        // Nothing is handed out, so there is nothing that a mapping would save.
        state.partition(partition.into())?.offset_at(timestamp, Reads::Copied)
    }

    /// Everything below it is on the medium, whatever the topic's durability.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; and why the partition could not be opened, if it could
    /// not.
    pub fn durable_offset<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
    ) -> Result<Offset> {
        let state = topic.into().find(&self.broker)?;
        Ok(state.partition(partition.into())?.known()?.durable_offset())
    }

    /// Waits until everything below `offset` is on the medium, syncing if need be.
    ///
    /// # Errors
    /// `OffsetOutOfRange` above the log end; `Halted` if a sync failed; `UnknownTopic`, also if the
    /// topic was deleted before they were; `UnknownPartition`; `Closed`.
    pub fn wait_durable<'t>(
        &self,
        topic: impl Into<TopicRef<'t>>,
        partition: impl Into<PartitionId>,
        offset: Offset,
    ) -> Result<()> {
        let state = topic.into().find(&self.broker)?;
        let waited = state.partition(partition.into())?.wait_durable(offset);
        waited.map_err(|error| self.broker.explain(&state, error))
    }

    /// The volumes of the store, by number, those that are not there included.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// use plimsoll::{Broker, TopicConfig, VolumeState};
    ///
    /// let broker = Broker::builder().volumes([one.path(), other.path()]).open()?;
    /// broker.create_topic("orders", TopicConfig::new().partitions(6))?;
    /// for volume in broker.admin().volumes()? {
    ///     assert_eq!((volume.state, volume.partitions), (VolumeState::Live, 6));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Closed`, `Forked`.
    pub fn volumes(&self) -> Result<Vec<VolumeDescription>> {
        self.broker.describe_volumes()
    }

    /// Makes a copy of the whole store in a new or an empty directory, on this file system or
    /// another, while the store goes on. It is an ordinary store, with ids of its own, and holds
    /// the topics and the records that were there when this was called, and may hold later ones.
    /// Changing one of the two never changes the other.
    ///
    /// What is sealed is linked where the file system allows it, and takes no room then until the
    /// original deletes it; the rest is copied. The directory is a store once this returns: after
    /// an error, or a crash, it is none, and is to be removed.
    ///
    /// # Errors
    /// `InvalidConfig` if the directory is not empty, or lies within the store; `Io`,
    /// `StorageFull`; `Halted` if a log of the store has halted; `ReadOnly`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (dir, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// use plimsoll::{Broker, Record, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.producer().build()?.send(&orders, Record::new("paid"))?;
    /// broker.admin().backup(elsewhere.path().join("copy"))?;
    ///
    /// let copy = Broker::open(elsewhere.path().join("copy"))?;
    /// let kept = copy.reader("orders").build()?.next().ok_or("nothing is there")??;
    /// assert_eq!(kept.value(), Some(&b"paid"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        self.broker.backup(dir.as_ref())
    }

    /// Reads every batch of every replica, from the medium where that can be asked, and mends what
    /// is damaged: a partition of several replicas has the same records elsewhere. Records that no
    /// replica has stay as they are. May be called while the store is in use; the broker does the
    /// same by itself over time: see
    /// [`BrokerBuilder::scrub_interval`](crate::BrokerBuilder::scrub_interval).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// use plimsoll::{Broker, Record, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.producer().build()?.send(&orders, Record::new("paid"))?;
    /// let report = broker.admin().scrub()?;
    /// assert!(report.bytes > 0 && report.is_whole());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `ReadOnly`; `Closed`; `Io` if a file cannot be read or written at all; `Halted` if a log has
    /// halted on which something was to be mended.
    pub fn scrub(&self) -> Result<ScrubReport> {
        self.broker.scrub()
    }

    /// Reads every byte of the store and tells what is not as it was written. Changes nothing; what
    /// is being appended meanwhile is left out.
    ///
    /// # Errors
    /// `Io` if a file cannot be read at all.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.broker.verify()
    }
}
