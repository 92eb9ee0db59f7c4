//! A topic: its configuration, and its partitions.
//!
//! Not here: making and deleting topics (`broker`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::broker::Inner;
use crate::broker::broker::{bad_name, invalid_name};
use crate::config::{Cleanup, Compression, DedupWindow, Durability, TopicConfig};
use crate::error::{ConfigMismatch, Error, Result};
use crate::format::{TopicMeta, check_topic_name, is_reserved_name};
use crate::id::{PartitionId, TopicId};
use crate::log::Keep;
use crate::partition::{Partition, Slots};

/// What the broker keeps of a topic.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    /// As it was when the broker was opened, or the topic made: a forked child takes no lock.
    before: TopicConfig,
    /// As it is now, but for the number of partitions. Lock rank: leaf.
    config: RwLock<TopicConfig>,
    /// The most that a record may have, of `config`, for producers. Relaxed: it orders nothing.
    record_bytes: AtomicU32,
    /// How batches are compressed, of `config`, for producers: its code. Relaxed: it orders
    /// nothing.
    compression: AtomicU8,
    pub(crate) partitions: Slots<Arc<Partition>>,
    /// Bytes of keyless records so far: which partition they stick to. Relaxed: it orders nothing.
    pub(crate) keyless_bytes: AtomicU64,
}

impl TopicState {
    pub(crate) fn new(
        id: TopicId,
        name: Arc<str>,
        config: TopicConfig,
        partitions: Vec<Arc<Partition>>,
    ) -> Self {
        Self {
            id,
            name,
            record_bytes: AtomicU32::new(config.record_bytes),
            compression: AtomicU8::new(compression_code(config.compression)),
            before: config.clone(),
            config: RwLock::new(config),
            partitions: Slots::new(partitions),
            keyless_bytes: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn partition(&self, id: PartitionId) -> Result<&Arc<Partition>> {
        self.partitions
            .get(id.get())
            .ok_or_else(|| Error::UnknownPartition { topic: Arc::clone(&self.name), partition: id })
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> TopicConfig {
        let config = self.config.read().clone();
        config.partitions(self.partitions.count())
    }

    /// The configuration without the changes of this life of the broker, and without a lock.
    fn config_before(&self) -> TopicConfig {
        self.before.clone().partitions(self.partitions.count())
    }

    #[inline]
    pub(crate) fn record_bytes(&self) -> u32 {
        self.record_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn compression(&self) -> Compression {
        // Only codes of values are stored here.
        compression_of(self.compression.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// Takes over a configuration that is durable in the metadata.
    pub(crate) fn set_config(&self, config: TopicConfig) {
        self.record_bytes.store(config.record_bytes, Ordering::Relaxed);
        self.compression.store(compression_code(config.compression), Ordering::Relaxed);
        for partition in self.partitions.iter() {
            for log in partition.logs() {
                log.set_limits(config.segment_bytes, keep(&config));
            }
        }
        *self.config.write() = config;
    }
}

/// A handle to a topic. Cheap to clone; it does not keep the broker open.
#[derive(Clone)]
pub struct Topic {
    pub(crate) broker: Arc<Inner>,
    pub(crate) state: Arc<TopicState>,
}

impl Topic {
    /// Refuses a name that no topic can have: what
    /// [`Broker::create_topic`](crate::Broker::create_topic) would refuse of it in an empty store,
    /// without one.
    ///
    /// # Errors
    /// `InvalidTopicName`.
    ///
    /// ```
    /// use plimsoll::Topic;
    ///
    /// assert!(Topic::check_name("orders").is_ok());
    /// assert!(Topic::check_name("bad/name").is_err());
    /// ```
    pub fn check_name(name: &str) -> Result<()> {
        check_topic_name(name).map_err(|e| bad_name(name, e))?;
        if is_reserved_name(name) {
            return Err(invalid_name(name, "names that begin with __ are reserved"));
        }
        Ok(())
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The topic's id, never reused.
    #[must_use]
    pub fn id(&self) -> TopicId {
        self.state.id
    }

    /// How many partitions it has now.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.state.partitions.count()
    }

    /// How it was made, with what was changed since. In a forked child without what was changed
    /// since the broker was opened.
    #[must_use]
    pub fn config(&self) -> TopicConfig {
        if self.broker.check_fork().is_err() {
            return self.state.config_before();
        }
        self.state.config()
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.state.name)
            .field("id", &self.state.id)
            .field("partitions", &self.partitions())
            .finish_non_exhaustive()
    }
}

// Codes on disk. Never renumber.
const FSYNC: u8 = 0;
const INTERVAL: u8 = 1;
const OS: u8 = 2;
const DELETE: u8 = 0;
const COMPACT: u8 = 1;
const BOTH: u8 = 2;
const DEDUP_OFF: u8 = 0;
const DEDUP_RECORDS: u8 = 1;
const DEDUP_TIME: u8 = 2;
const DEDUP_RETAINED: u8 = 3;
const UNCOMPRESSED: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;

/// The code of a way of compressing.
const fn compression_code(compression: Compression) -> u8 {
    match compression {
        Compression::None => UNCOMPRESSED,
        Compression::Lz4 => LZ4,
        Compression::Zstd => ZSTD,
    }
}

/// The other way; `None` for one that this version does not know.
const fn compression_of(code: u8) -> Option<Compression> {
    match code {
        UNCOMPRESSED => Some(Compression::None),
        LZ4 => Some(Compression::Lz4),
        ZSTD => Some(Compression::Zstd),
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What of a configuration a log is to keep.
pub(crate) fn keep(config: &TopicConfig) -> Keep {
    Keep {
        retention: config.retention,
        retention_bytes: config.retention_bytes,
        segment_age: config.segment_age,
    }
}

/// A configuration as the metadata holds it.
pub(crate) fn to_meta(
    id: TopicId,
    salt: u32,
    name: &str,
    config: &TopicConfig,
    created: i64,
) -> TopicMeta {
    let (durability, interval_ms) = match config.durability {
        Durability::Fsync => (FSYNC, 0),
        Durability::Interval(interval) => (INTERVAL, millis(interval)),
        Durability::Os => (OS, 0),
    };
    let (dedup, dedup_window) = match config.dedup {
        DedupWindow::Off => (DEDUP_OFF, 0),
        DedupWindow::Records(records) => (DEDUP_RECORDS, records),
        DedupWindow::Time(time) => (DEDUP_TIME, millis(time)),
        DedupWindow::Retained => (DEDUP_RETAINED, 0),
    };
    TopicMeta {
        id,
        salt,
        name: name.to_owned(),
        partitions: config.partitions,
        replicas: config.replicas_or_default(),
        min_insync: config.min_insync_or_default(),
        durability,
        interval_ms,
        retention_ms: config.retention.map(millis),
        retention_bytes: config.retention_bytes,
        segment_bytes: config.segment_bytes,
        segment_age_ms: millis(config.segment_age),
        cleanup: match config.cleanup {
            Cleanup::Delete => DELETE,
            Cleanup::Compact => COMPACT,
            Cleanup::Both => BOTH,
        },
        dedup,
        dedup_window,
        compression: compression_code(config.compression),
        created,
        record_bytes: config.record_bytes,
        unclean_leader_election: config.unclean_leader_election,
        deleted: false,
    }
}

/// The other way; `None` for codes that this version does not know, and for values that no topic
/// can have: they come from the disk, and are counted with.
pub(crate) fn from_meta(meta: &TopicMeta) -> Option<TopicConfig> {
    let config = TopicConfig {
        partitions: meta.partitions,
        replicas: Some(meta.replicas),
        min_insync: Some(meta.min_insync),
        unclean_leader_election: meta.unclean_leader_election,
        durability: match meta.durability {
            FSYNC => Durability::Fsync,
            INTERVAL => Durability::Interval(Duration::from_millis(meta.interval_ms)),
            OS => Durability::Os,
            _ => return None,
        },
        retention: meta.retention_ms.map(Duration::from_millis),
        retention_bytes: meta.retention_bytes,
        segment_bytes: meta.segment_bytes,
        segment_age: Duration::from_millis(meta.segment_age_ms),
        record_bytes: meta.record_bytes,
        cleanup: match meta.cleanup {
            DELETE => Cleanup::Delete,
            COMPACT => Cleanup::Compact,
            BOTH => Cleanup::Both,
            _ => return None,
        },
        dedup: match meta.dedup {
            DEDUP_OFF => DedupWindow::Off,
            DEDUP_RECORDS => DedupWindow::Records(meta.dedup_window),
            DEDUP_TIME => DedupWindow::Time(Duration::from_millis(meta.dedup_window)),
            DEDUP_RETAINED => DedupWindow::Retained,
            _ => return None,
        },
        compression: compression_of(meta.compression)?,
    };
    config.check_ranges().ok().map(|()| config)
}

/// Whether a topic that exists is the one that is asked for; an error names the first option
/// that differs.
pub(crate) fn must_match(state: &TopicState, asked: &TopicConfig) -> Result<()> {
    let has = state.config();
    let replicas = asked.replicas.or(has.replicas);
    let min_insync = asked.clone().replicas(replicas.unwrap_or(1)).min_insync_or_default();
    let differing = [
        ("partitions", has.partitions != asked.partitions),
        ("replicas", has.replicas != replicas),
        ("min_insync", has.min_insync_or_default() != min_insync),
        ("unclean_leader_election", has.unclean_leader_election != asked.unclean_leader_election),
        ("durability", has.durability != asked.durability),
        ("retention", has.retention != asked.retention),
        ("retention_bytes", has.retention_bytes != asked.retention_bytes),
        ("segment_bytes", has.segment_bytes != asked.segment_bytes),
        ("segment_age", has.segment_age != asked.segment_age),
        ("record_bytes", has.record_bytes != asked.record_bytes),
        ("cleanup", has.cleanup != asked.cleanup),
        ("dedup", has.dedup != asked.dedup),
        ("compression", has.compression != asked.compression),
    ];
    match differing.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((option, _)) => {
            let topic = Arc::clone(&state.name);
            Err(Error::TopicConfigMismatch(Box::new(ConfigMismatch { topic, option })))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another thread may have had it when the process forked.
    #[test]
    fn a_configuration_is_told_without_its_lock() {
        let made = TopicConfig::new().record_bytes(7);
        let state = TopicState::new(TopicId::new(1), Arc::from("t"), made.clone(), Vec::new());
        state.set_config(made.clone().record_bytes(8));
        let _held = state.config.write();
        assert_eq!(state.config_before(), made.partitions(0));
    }

    #[test]
    fn every_configuration_survives_the_metadata() {
        let configs = [
            TopicConfig::new().replicas(1).min_insync(1),
            TopicConfig {
                partitions: 7,
                replicas: Some(3),
                min_insync: Some(2),
                unclean_leader_election: true,
                durability: Durability::Interval(Duration::from_millis(100)),
                retention: Some(Duration::from_secs(7)),
                retention_bytes: Some(1 << 30),
                segment_bytes: 1 << 20,
                segment_age: Duration::from_secs(5),
                record_bytes: 64 << 20,
                cleanup: Cleanup::Both,
                dedup: DedupWindow::Time(Duration::from_mins(1)),
                compression: Compression::Zstd,
            },
            TopicConfig::new().replicas(1).min_insync(1).compression(Compression::Lz4),
        ];
        for config in configs {
            let meta = to_meta(TopicId::new(1), 2, "t", &config, 3);
            assert_eq!(from_meta(&meta), Some(config));
        }
        let mut newer = to_meta(TopicId::new(1), 2, "t", &TopicConfig::new(), 3);
        newer.durability = 9;
        assert_eq!(from_meta(&newer), None);
        let mut newer = to_meta(TopicId::new(1), 2, "t", &TopicConfig::new(), 3);
        newer.compression = 3;
        assert_eq!(from_meta(&newer), None);
    }
}
