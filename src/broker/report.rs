//! What an open found and did.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Corruption;
use crate::id::{Offset, PartitionId, VolumeId};

/// A torn tail that an open cut off: bytes that a crash left half-written. No acknowledged record
/// was among them, as far as the topic's durability survives the crash.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TailCut {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// Where the log ends now.
    pub at: Offset,
    /// How many bytes were cut off.
    pub bytes: u64,
}

/// What `Broker::open` found and did; see `Broker::recovery`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The last close was a clean one, so nothing was scanned.
    pub clean: bool,
    /// Torn tails that were cut off.
    pub tails: Vec<TailCut>,
    /// Ranges that cannot be read. Nothing was deleted.
    pub damage: Vec<Arc<Corruption>>,
    /// Folders and files that belong to no topic. They were left alone.
    pub strays: Vec<PathBuf>,
    /// Volumes of the store that are not there. What is on them cannot be read or written until
    /// they are back.
    pub missing_volumes: Vec<VolumeId>,
    /// The metadata was lost, and was made anew from the segments' headers: see
    /// [`BrokerBuilder::rebuild_metadata`](crate::BrokerBuilder::rebuild_metadata). The notes tell
    /// what is not known any more.
    pub rebuilt: bool,
    /// Anything else worth knowing, as sentences.
    pub notes: Vec<String>,
    /// A log that was closed cleanly does not say so any more.
    pub(crate) marks_lost: bool,
}
