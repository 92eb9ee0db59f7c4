//! Where consuming begins, and what names a place.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Offset, PartitionId, Timestamp};

/// Where a consumer or reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// Where its group left off; without one, as [`Reset`] says.
    #[default]
    Committed,
    /// At the log start.
    Earliest,
    /// At the high watermark: only what is appended from now on.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record with this timestamp or a later one; at the end if there is none.
    Timestamp(Timestamp),
}

/// Where a consumer goes on whose position is not in the log (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reset {
    /// At the log start. The default.
    #[default]
    Earliest,
    /// At the high watermark.
    Latest,
    /// At the first record with this timestamp or a later one.
    Timestamp(Timestamp),
    /// Nowhere: `poll` returns [`Error::OffsetOutOfRange`](crate::Error::OffsetOutOfRange).
    Error,
}

/// A partition of a topic, by name and number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// A partition of a topic.
    pub fn new(topic: impl Into<Arc<str>>, partition: impl Into<PartitionId>) -> Self {
        Self { topic: topic.into(), partition: partition.into() }
    }
}

impl<T: Into<Arc<str>>, P: Into<PartitionId>> From<(T, P)> for TopicPartition {
    fn from((topic, partition): (T, P)) -> Self {
        Self::new(topic, partition)
    }
}

/// Where a consumer stands: for each partition, the next offset to read.
pub type Positions = BTreeMap<TopicPartition, Offset>;
