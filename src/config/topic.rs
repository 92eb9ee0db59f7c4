//! What a topic is made with, and what a producer asks of an append.
//!
//! Not here: how a configuration is stored (`format`), or compared with an existing topic's
//! (`broker`).

use std::time::Duration;

use crate::config::{
    AGE_MAX, INTERVAL_MAX, INTERVAL_MIN, PARTITIONS_MAX, RECORD_BYTES_DEFAULT, RECORD_BYTES_MAX,
    REPLICAS_USUAL, SEGMENT_AGE_DEFAULT, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
};
use crate::error::{Error, Result};

/// What each replica must have done before a record counts as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Synced to the medium; concurrent appends to a partition share one sync. Survives power
    /// loss. The default.
    #[default]
    Fsync,
    /// In the page cache, and synced at least this often (1 ms to 1 h). Survives the death of the
    /// process; power loss but for the last interval.
    Interval(Duration),
    /// In the page cache. Survives the death of the process.
    Os,
}

/// How many replicas must have a record before `send` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Acks {
    /// None: `send` returns once the record is in the leader's log, before it is as durable as
    /// the topic demands.
    None,
    /// The leader, as the topic's durability demands.
    Leader,
    /// Every in-sync replica, as the topic's durability demands: the record is committed, and
    /// readable by consumers. The default.
    #[default]
    All,
}

/// What happens to old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Cleanup {
    /// Deleted by age and size, if those are limited. The default.
    #[default]
    Delete,
    /// The newest record of each key is kept. Not yet.
    Compact,
    /// Both. Not yet.
    Both,
}

/// How long a dedup key is remembered, counted from the record that was written with it: one that
/// was found to be a duplicate does not count again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DedupWindow {
    /// Not at all: keys are stored with their records, and not looked at. The default.
    #[default]
    Off,
    /// For this many records, 1 at least: those with the last so many offsets before the one that
    /// the record would get.
    Records(u64),
    /// For less than this long, from append time to append time: 1 ms to 1000 years, in whole
    /// milliseconds.
    Time(Duration),
    /// As long as the record is retained.
    Retained,
}

/// How batches are compressed: each whole, before it is appended, and stored so only if that makes
/// it smaller. The more records a batch has, the more there is to gain: see
/// [`Producer::send_batch`](crate::Producer::send_batch), and
/// [`linger`](crate::ProducerBuilder::linger) of queued ones.
///
/// What was written with one can be read whatever is set now. Each needs the feature of its name,
/// to write and to read; without it setting it is `InvalidConfig`, and reading such records
/// [`Error::MissingFeature`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if !cfg!(feature = "lz4") { return Ok(()); }
/// # let dir = tempfile::tempdir()?;
/// use plimsoll::{Broker, Compression, Record, TopicConfig};
///
/// let broker = Broker::open(dir.path())?;
/// let config = TopicConfig::new().compression(Compression::Lz4);
/// let topic = broker.create_topic("readings", config)?;
/// let lines: Vec<String> = (0..100).map(|i| format!("sensor-7 temperature {i}")).collect();
/// let records: Vec<Record<'_>> = lines.iter().map(Record::new).collect();
/// broker.producer().build()?.send_batch(&topic, 0, &records)?;
///
/// let metrics = broker.metrics();
/// assert!(metrics.bytes_saved > metrics.bytes_appended, "less than half is stored");
/// for (record, line) in broker.reader(&topic).build()?.zip(&lines) {
///     assert_eq!(record?.value(), Some(line.as_bytes()));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all; reads are zero-copy. The default.
    #[default]
    None,
    /// LZ4: little work, both ways. Feature `lz4`.
    Lz4,
    /// Zstandard, at its default level: smaller, for more work. Feature `zstd`.
    Zstd,
}

impl Compression {
    /// The feature that it needs and this build lacks.
    pub(crate) const fn missing_feature(self) -> Option<&'static str> {
        match self {
            Compression::Lz4 if !cfg!(feature = "lz4") => Some("lz4"),
            Compression::Zstd if !cfg!(feature = "zstd") => Some("zstd"),
            Compression::None | Compression::Lz4 | Compression::Zstd => None,
        }
    }

    /// Refuses what this build lacks.
    pub(crate) fn check_built(self) -> Result<()> {
        let why = match self.missing_feature() {
            None => return Ok(()),
            Some("lz4") => "lz4 needs the feature `lz4`, which this build lacks",
            Some(_) => "zstd needs the feature `zstd`, which this build lacks",
        };
        Err(Error::invalid_config("compression", why))
    }
}

/// How records are handed to a consumer or reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Reads {
    /// As views into memory maps: nothing is copied. The pages are made present when the records
    /// are fetched, so that a bad sector is an error; a page that the kernel evicts afterwards
    /// and then cannot read back kills the process with SIGBUS. The default.
    #[default]
    Mapped,
    /// Read into memory of their own, for hosts that cannot accept that.
    Copied,
}

/// How a topic is made.
///
/// ```
/// use plimsoll::{Durability, TopicConfig};
///
/// let config = TopicConfig::new().partitions(4).durability(Durability::Os);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    pub(crate) partitions: u32,
    pub(crate) replicas: Option<u16>,
    pub(crate) min_insync: Option<u16>,
    pub(crate) unclean_leader_election: bool,
    pub(crate) durability: Durability,
    pub(crate) retention: Option<Duration>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Duration,
    pub(crate) record_bytes: u32,
    pub(crate) cleanup: Cleanup,
    pub(crate) dedup: DedupWindow,
    pub(crate) compression: Compression,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            replicas: None,
            min_insync: None,
            unclean_leader_election: false,
            durability: Durability::default(),
            retention: None,
            retention_bytes: None,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            segment_age: SEGMENT_AGE_DEFAULT,
            record_bytes: RECORD_BYTES_DEFAULT,
            cleanup: Cleanup::default(),
            dedup: DedupWindow::default(),
            compression: Compression::default(),
        }
    }
}

impl TopicConfig {
    /// One partition, `Durability::Fsync`, segments of 64 MiB, everything kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many partitions: 1 to 65,536. Default 1. More of them let more consumers share a
    /// topic; order holds within one.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// How many replicas of each partition, on as many volumes. Default: 3, or as many as there are
    /// volumes when the topic is made.
    #[must_use]
    pub fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// How many replicas must be in sync for an append with `Acks::All`. Default: half of
    /// `replicas`, rounded up.
    #[must_use]
    pub fn min_insync(mut self, min_insync: u16) -> Self {
        self.min_insync = Some(min_insync);
        self
    }

    /// Whether a replica that is not in sync may lead where none that is in sync is there: rather
    /// lose committed records than wait until one is back. Default: no. Each time is counted, as
    /// `unclean_elections` in [`Metrics`](crate::Metrics). Who is back then loses what the others
    /// went on without.
    #[must_use]
    pub fn unclean_leader_election(mut self, allowed: bool) -> Self {
        self.unclean_leader_election = allowed;
        self
    }

    /// What acknowledged means. Default [`Durability::Fsync`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Keep records this long, counted from their append: 1 ms to 1000 years, in whole
    /// milliseconds. Default: for ever.
    ///
    /// Records go a segment at a time, once the newest one in it is older than this. A segment
    /// takes appends until it is full, or its first record is [`segment_age`](Self::segment_age)
    /// old, or as old as this: so a record can be read for at most twice this long, and about half
    /// a minute more where nothing is appended. Its bytes may stay in one file a while longer,
    /// unreadable: the newest sealed segment of a partition is removed once the next one is sealed.
    /// With [`Background::Inline`](crate::Background::Inline) there is nobody who would look where
    /// nothing is appended: records age there until the next append.
    ///
    /// Ages are told by the broker's clock, which is believed: setting it forward makes records
    /// old, setting it back makes them live longer.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Keep at least this many bytes of each partition, if there are as many; batches are counted,
    /// with their headers. Default: all.
    ///
    /// Consumers are not waited for: one that is overtaken goes on as its [`Reset`](crate::Reset)
    /// says, and [`Consumer::skipped`](crate::Consumer::skipped) counts what it missed.
    ///
    /// The oldest segment goes while the log without it still has this many: a partition takes up
    /// to this and about two segments more. With 0 only what has not been sealed yet stays.
    #[must_use]
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.retention_bytes = Some(bytes);
        self
    }

    /// Size of a segment file: 64 KiB to 1 GiB. Default 64 MiB. Space is freed, and a log that
    /// was not closed is scanned, by the segment. A batch larger than it gets one of its own.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// How old the first record of a segment may become before the segment is rolled, so that it
    /// can be deleted: 1 ms to 1000 years, in whole milliseconds. Default 7 days. Also in a
    /// partition where nothing is appended, but with
    /// [`Background::Inline`](crate::Background::Inline). Where no retention is set nothing is
    /// deleted, and nothing rolled for that.
    #[must_use]
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.segment_age = age;
        self
    }

    /// How many bytes a record may have at most, key, value, headers and dedup key together: 1 byte
    /// to 64 MiB. Default 1 MiB. A larger one is [`Error::RecordTooLarge`].
    #[must_use]
    pub fn record_bytes(mut self, bytes: u32) -> Self {
        self.record_bytes = bytes;
        self
    }

    /// What happens to old records. Default [`Cleanup::Delete`].
    #[must_use]
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = cleanup;
        self
    }

    /// How long dedup keys are remembered, in each partition for itself. Default
    /// [`DedupWindow::Off`]; it cannot be changed later.
    ///
    /// A record whose [dedup key](crate::Record::dedup_key) was written inside the window is not
    /// written again, whoever sends it: the acknowledgement says
    /// [`duplicate`](crate::Ack::duplicate), and where the first one is. With another value it is
    /// [`Error::DedupMismatch`]. A record without a dedup key is always written. Records that were
    /// deleted are forgotten. Not together with compaction.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// use plimsoll::{Broker, DedupWindow, Record, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let config = TopicConfig::new().dedup(DedupWindow::Retained);
    /// let topic = broker.create_topic("payments", config)?;
    /// let producer = broker.producer().build()?;
    ///
    /// let first = producer.send(&topic, Record::new("10 EUR").dedup_key("p-1001"))?;
    /// let again = producer.send(&topic, Record::new("10 EUR").dedup_key("p-1001"))?;
    /// assert_eq!((again.offset, again.duplicate), (first.offset, true));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dedup(mut self, window: DedupWindow) -> Self {
        self.dedup = window;
        self
    }

    /// How batches are compressed, unless a producer says otherwise
    /// ([`ProducerBuilder::compression`](crate::ProducerBuilder::compression)). Default
    /// [`Compression::None`].
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Replicas with the default of one volume filled in.
    pub(crate) fn replicas_or_default(&self) -> u16 {
        self.replicas.unwrap_or(1)
    }

    /// `min_insync` with the default filled in.
    pub(crate) fn min_insync_or_default(&self) -> u16 {
        self.min_insync.unwrap_or_else(|| self.replicas_or_default().div_ceil(2))
    }

    /// Refuses what cannot be, naming the option: what [`Broker::create_topic`] would refuse of it,
    /// without a store.
    ///
    /// # Errors
    /// `InvalidConfig`; `NotYet` for what this version does not have.
    ///
    /// ```
    /// use plimsoll::{Error, TopicConfig};
    ///
    /// TopicConfig::new().segment_bytes(1 << 20).validate()?;
    /// let tiny = TopicConfig::new().segment_bytes(1).validate();
    /// assert!(matches!(tiny, Err(Error::InvalidConfig(_))));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// [`Broker::create_topic`]: crate::Broker::create_topic
    pub fn validate(&self) -> Result<()> {
        self.check_ranges()?;
        if self.dedup != DedupWindow::Off && self.cleanup != Cleanup::Delete {
            return Err(Error::invalid_config("dedup", "no window together with compaction"));
        }
        if self.cleanup != Cleanup::Delete {
            return Err(Error::NotYet { what: "compaction" });
        }
        self.compression.check_built()
    }

    /// Refuses values that no version can do anything with.
    pub(crate) fn check_ranges(&self) -> Result<()> {
        let invalid = |option, why| Err(Error::invalid_config(option, why));
        if self.partitions == 0 || self.partitions > PARTITIONS_MAX {
            return invalid("partitions", "1 to 65536");
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return invalid("segment_bytes", "64 KiB to 1 GiB");
        }
        if self.record_bytes == 0 || self.record_bytes > RECORD_BYTES_MAX {
            return invalid("record_bytes", "1 byte to 64 MiB");
        }
        let is_age = |age: Duration| {
            (Duration::from_millis(1)..=AGE_MAX).contains(&age)
                && age.subsec_nanos().is_multiple_of(1_000_000)
        };
        if self.retention.is_some_and(|retention| !is_age(retention)) {
            return invalid("retention", "1 ms to 1000 years, in whole milliseconds");
        }
        if !is_age(self.segment_age) {
            return invalid("segment_age", "1 ms to 1000 years, in whole milliseconds");
        }
        if let Durability::Interval(interval) = self.durability
            && (!(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval)
                || !interval.subsec_nanos().is_multiple_of(1_000_000))
        {
            return invalid("durability", "an interval of 1 ms to 1 h, in whole milliseconds");
        }
        match self.dedup {
            DedupWindow::Records(0) => return invalid("dedup", "a window of 1 record at least"),
            DedupWindow::Time(time) if !is_age(time) => {
                return invalid("dedup", "a window of 1 ms to 1000 years, in whole milliseconds");
            }
            _ => {}
        }
        let replicas = self.replicas_or_default();
        if replicas == 0 {
            return invalid("replicas", "at least 1");
        }
        // Of a topic that does not say how many replicas it has, that shows when it is made.
        let most = self.replicas.map_or(REPLICAS_USUAL, usize::from);
        let min_insync = usize::from(self.min_insync_or_default());
        if min_insync == 0 || min_insync > most {
            return invalid("min_insync", "1 to the number of replicas");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &TopicConfig) -> &'static str {
        match config.validate() {
            Err(Error::InvalidConfig(invalid)) => invalid.option,
            Err(Error::NotYet { what }) => what,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn each_limit_is_checked_and_named() {
        assert!(TopicConfig::new().validate().is_ok());
        assert_eq!(refused(&TopicConfig::new().partitions(0)), "partitions");
        assert_eq!(refused(&TopicConfig::new().partitions(65_537)), "partitions");
        assert_eq!(refused(&TopicConfig::new().segment_bytes(65_535)), "segment_bytes");
        assert_eq!(refused(&TopicConfig::new().segment_bytes((1 << 30) + 1)), "segment_bytes");
        assert_eq!(refused(&TopicConfig::new().record_bytes(0)), "record_bytes");
        assert_eq!(refused(&TopicConfig::new().record_bytes((64 << 20) + 1)), "record_bytes");
        assert_eq!(refused(&TopicConfig::new().replicas(0)), "replicas");
        assert_eq!(refused(&TopicConfig::new().min_insync(4)), "min_insync");
        assert_eq!(refused(&TopicConfig::new().replicas(1).min_insync(2)), "min_insync");
        assert!(TopicConfig::new().replicas(2).validate().is_ok());
        assert!(TopicConfig::new().retention(AGE_MAX).retention_bytes(0).validate().is_ok());
        for age in [Duration::ZERO, Duration::from_micros(1_500), Duration::MAX] {
            assert_eq!(refused(&TopicConfig::new().retention(age)), "retention");
            assert_eq!(refused(&TopicConfig::new().segment_age(age)), "segment_age");
        }
        for (codec, built) in
            [(Compression::Lz4, cfg!(feature = "lz4")), (Compression::Zstd, cfg!(feature = "zstd"))]
        {
            let config = TopicConfig::new().compression(codec);
            assert!(config.check_ranges().is_ok(), "a stored one can be read");
            if built {
                assert!(config.validate().is_ok());
            } else {
                assert_eq!(refused(&config), "compression");
            }
        }
        for window in [
            DedupWindow::Records(0),
            DedupWindow::Time(Duration::ZERO),
            DedupWindow::Time(Duration::from_micros(1_500)),
        ] {
            assert_eq!(refused(&TopicConfig::new().dedup(window)), "dedup");
        }
        for window in [DedupWindow::Records(1), DedupWindow::Time(AGE_MAX), DedupWindow::Retained] {
            assert!(TopicConfig::new().dedup(window).validate().is_ok());
            let both = TopicConfig::new().dedup(window).cleanup(Cleanup::Compact);
            assert_eq!(refused(&both), "dedup");
        }
        let never = Durability::Interval(Duration::ZERO);
        assert_eq!(refused(&TopicConfig::new().durability(never)), "durability");
        let uneven = Durability::Interval(Duration::from_micros(1_500));
        assert_eq!(refused(&TopicConfig::new().durability(uneven)), "durability");
    }
}
