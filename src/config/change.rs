//! What is to be different about a topic that exists.
//!
//! Not here: making it so (`broker`).

use std::time::Duration;

use crate::config::{Cleanup, Compression, DedupWindow, Durability, TopicConfig};
use crate::error::{Error, Result};

/// A change of a topic's configuration, for `Admin::alter`. What is not named stays.
///
/// ```
/// use std::time::Duration;
/// use plimsoll::TopicChange;
///
/// // A day, and no limit of size.
/// let day = Duration::from_secs(24 * 60 * 60);
/// let change = TopicChange::new().retention(day).retention_bytes(None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    retention: Change<Option<Duration>>,
    retention_bytes: Change<Option<u64>>,
    segment_bytes: Option<u64>,
    segment_age: Option<Duration>,
    record_bytes: Option<u32>,
    compression: Option<Compression>,
    unclean_leader_election: Option<bool>,
    /// The first option named that cannot be changed.
    fixed: Option<&'static str>,
}

/// What becomes of an option that may be none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Change<T> {
    #[default]
    Keep,
    Set(T),
}

impl<T> Change<T> {
    fn or(self, before: T) -> T {
        match self {
            Change::Keep => before,
            Change::Set(now) => now,
        }
    }
}

impl TopicChange {
    /// Nothing is different.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`TopicConfig::retention`]; `None` keeps records for ever.
    #[must_use]
    pub fn retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.retention = Change::Set(retention.into());
        self
    }

    /// See [`TopicConfig::retention_bytes`]; `None` keeps all.
    #[must_use]
    pub fn retention_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.retention_bytes = Change::Set(bytes.into());
        self
    }

    /// See [`TopicConfig::segment_bytes`]. Of the segments that are begun from then on.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// See [`TopicConfig::segment_age`].
    #[must_use]
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.segment_age = Some(age);
        self
    }

    /// See [`TopicConfig::record_bytes`]. Of the records that are sent from then on.
    #[must_use]
    pub fn record_bytes(mut self, bytes: u32) -> Self {
        self.record_bytes = Some(bytes);
        self
    }

    /// Refused: `Admin::add_partitions` adds some.
    #[must_use]
    pub fn partitions(self, _: u32) -> Self {
        self.fixed("partitions")
    }

    /// Not yet: refused.
    #[must_use]
    pub fn replicas(self, _: u16) -> Self {
        self.fixed("replicas")
    }

    /// Not yet: refused.
    #[must_use]
    pub fn min_insync(self, _: u16) -> Self {
        self.fixed("min_insync")
    }

    /// Not yet: refused.
    #[must_use]
    pub fn durability(self, _: Durability) -> Self {
        self.fixed("durability")
    }

    /// Not yet: refused.
    #[must_use]
    pub fn cleanup(self, _: Cleanup) -> Self {
        self.fixed("cleanup")
    }

    /// Refused: the keys of a topic without a window are not kept track of.
    #[must_use]
    pub fn dedup(self, _: DedupWindow) -> Self {
        self.fixed("dedup")
    }

    /// See [`TopicConfig::compression`]. Of the batches that are sent from then on; the others stay
    /// as they are, and can be read.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// See [`TopicConfig::unclean_leader_election`]. Partitions that nobody leads at this moment
    /// are led at once, where a replica is there.
    #[must_use]
    pub fn unclean_leader_election(mut self, allowed: bool) -> Self {
        self.unclean_leader_election = Some(allowed);
        self
    }

    fn fixed(mut self, option: &'static str) -> Self {
        self.fixed.get_or_insert(option);
        self
    }

    /// The configuration with this change made.
    pub(crate) fn apply(&self, config: &TopicConfig) -> Result<TopicConfig> {
        match self.fixed {
            Some("partitions") => {
                return Err(Error::invalid_config("partitions", "changed by add_partitions alone"));
            }
            Some(option) => {
                return Err(Error::invalid_config(option, "cannot be changed yet"));
            }
            None => {}
        }
        let changed = TopicConfig {
            retention: self.retention.or(config.retention),
            retention_bytes: self.retention_bytes.or(config.retention_bytes),
            segment_bytes: self.segment_bytes.unwrap_or(config.segment_bytes),
            segment_age: self.segment_age.unwrap_or(config.segment_age),
            record_bytes: self.record_bytes.unwrap_or(config.record_bytes),
            compression: self.compression.unwrap_or(config.compression),
            unclean_leader_election: self
                .unclean_leader_election
                .unwrap_or(config.unclean_leader_election),
            ..config.clone()
        };
        changed.validate()?;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_changed_is_refused_by_name() {
        let config = TopicConfig::new();
        let refused = |change: TopicChange| match change.apply(&config) {
            Err(Error::InvalidConfig(invalid)) => invalid.option,
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!(refused(TopicChange::new().partitions(2)), "partitions");
        assert_eq!(refused(TopicChange::new().replicas(1)), "replicas");
        assert_eq!(refused(TopicChange::new().min_insync(1)), "min_insync");
        assert_eq!(refused(TopicChange::new().durability(Durability::Os)), "durability");
        assert_eq!(refused(TopicChange::new().cleanup(Cleanup::Delete)), "cleanup");
        assert_eq!(refused(TopicChange::new().dedup(DedupWindow::Off)), "dedup");
        assert_eq!(refused(TopicChange::new().segment_bytes(1)), "segment_bytes");
        assert_eq!(refused(TopicChange::new().record_bytes(0)), "record_bytes");
        assert_eq!(refused(TopicChange::new().retention(Duration::ZERO)), "retention");
        assert_eq!(refused(TopicChange::new().segment_age(Duration::ZERO)), "segment_age");
    }

    #[test]
    fn what_is_not_named_stays() {
        let config = TopicConfig::new().retention(Duration::from_secs(1)).retention_bytes(5);
        assert_eq!(TopicChange::new().apply(&config).ok(), Some(config.clone()));
        assert_eq!(
            TopicChange::new().compression(Compression::None).apply(&config).ok(),
            Some(config.clone())
        );
        let change = TopicChange::new().retention(None).record_bytes(7);
        let expected = TopicConfig::new().retention_bytes(5).record_bytes(7);
        assert_eq!(change.apply(&config).ok(), Some(expected));
    }
}
