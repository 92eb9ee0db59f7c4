//! The one error type of the library, in the field's terms.
//!
//! Not here: what a pure layer finds wrong with bytes (`format` has its own small errors, which
//! become [`Error::Corrupt`] where file and position are known).
//!
//! Invariants
//!   1. `Error` is at most three words, so `Result<Offset, Error>` stays cheap: facts are boxed.
//!   2. `Display` says what happened and what to do; it never prints `Debug` output.
//!   3. [`Error::outcome`] is right on every path of a producer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::id::{Offset, PartitionId, VolumeId};

/// `std::result::Result` with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What became of the records of a failed append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing was written: sending again cannot duplicate.
    NotWritten,
    /// The records are in the log, but not committed as asked.
    Written,
    /// The records may or may not be found later.
    Unknown,
}

/// A range of a partition that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The first unreadable offset.
    pub first: Offset,
    /// The offset after the last unreadable one.
    pub end: Offset,
    /// The file.
    pub file: PathBuf,
    /// Where in the file the damage begins, in bytes.
    pub position: u64,
    /// What was found there.
    pub what: &'static str,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "topic {} partition {}: offsets {} to {} are unreadable: {} at byte {} of {}",
            self.topic,
            self.partition,
            self.first,
            // An empty range still names the offset at which something was expected.
            self.end.get().saturating_sub(1).max(self.first.get()),
            self.what,
            self.position,
            self.file.display(),
        )
    }
}

/// Why an input/output call failed: what was being done, to which file, and the cause.
#[derive(Debug)]
#[non_exhaustive]
pub struct IoFailure {
    /// What was being done, as in "sync".
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's error.
    pub source: io::Error,
}

/// Everything that can go wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a call.
    Io(Arc<IoFailure>),
    /// The volume is full. Nothing was written; appends go on by themselves once there is room.
    StorageFull(Arc<IoFailure>),
    /// Stored bytes are not what was written, and no good copy is left.
    Corrupt(Arc<Corruption>),
    /// A sync or write of this log failed earlier; it takes no more appends until the broker is
    /// opened again, which verifies and rewrites what was not known to be on the medium.
    Halted {
        /// The failure that halted the log.
        first: Arc<Error>,
    },
    /// What was to be synced could not be for the moment: the process, or the system, had no file
    /// descriptor left. Of an append: the records are in the log, and the next sync that succeeds
    /// makes them durable, unless a crash comes before it.
    NotSynced {
        /// The failure.
        cause: Arc<Error>,
    },
    /// Another process, or another broker of this one, has the volume open.
    Locked {
        /// The volume's folder.
        path: Arc<Path>,
    },
    /// There is no store in this folder.
    NoStore {
        /// The folder.
        path: Arc<Path>,
    },
    /// The volume that leads a partition is not there. Other partitions are as good as ever.
    LeaderNotAvailable(Box<NotAvailable>),
    /// Not more than half of the cluster's volumes are there that went on last: others may have
    /// gone on without these.
    MissingVolumes(Box<MissingVolumes>),
    /// A file of the store is damaged beyond what opening can mend by itself.
    Damaged(Box<Damage>),
    /// Written by a newer version of the library.
    Incompatible {
        /// The file.
        path: Arc<Path>,
        /// The feature bits that this version does not know.
        bits: u32,
    },
    /// Another replica leads the partition by now. Nothing was written. Who sends is passed on to
    /// it, and sees this only where that takes longer than `delivery_timeout`.
    NotLeader {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: PartitionId,
    },
    /// With `Acks::All`, and fewer replicas in sync than the topic's `min_insync`. Nothing was
    /// written.
    NotEnoughReplicas(Box<TooFewInSync>),
    /// The same, found after the append: it was written, and is not committed. It may be yet, once
    /// more replicas are in sync.
    NotEnoughReplicasAfterAppend(Box<TooFewInSync>),
    /// The broker was opened read-only.
    ReadOnly,
    /// The broker, or the handle, was closed.
    Closed,
    /// There is no such topic.
    UnknownTopic {
        /// The name asked for.
        name: Arc<str>,
    },
    /// The topic exists already.
    TopicExists {
        /// Its name.
        name: Arc<str>,
    },
    /// The topic exists with another configuration.
    TopicConfigMismatch(Box<ConfigMismatch>),
    /// Not a name that a topic can have: 1 to 249 of `[A-Za-z0-9._-]`, not `.` or `..`, not
    /// beginning with `__`, and not like another topic's but for case.
    InvalidTopicName(Box<InvalidTopicName>),
    /// The topic has no such partition.
    UnknownPartition {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition asked for.
        partition: PartitionId,
    },
    /// An option has a value that it cannot have.
    InvalidConfig(Box<InvalidConfig>),
    /// What was asked for of a volume cannot be done with it as it is. Nothing was changed.
    InvalidVolume {
        /// Why not.
        why: &'static str,
    },
    /// A record, or a part of one, is larger than its limit.
    RecordTooLarge {
        /// Which part.
        what: &'static str,
        /// Its size in bytes, or `u32::MAX` if that is smaller.
        bytes: u32,
    },
    /// A batch of no records, or of records of several partitions.
    InvalidBatch {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A record has the dedup key of another one, inside the window, and another value. Nothing was
    /// written.
    DedupMismatch(Box<DedupMismatch>),
    /// The offset is below the log start, or above the end.
    OffsetOutOfRange(Box<OutOfRange>),
    /// The log was cut below what was waited for: another history took its place.
    Truncated {
        /// Where the log ends now.
        at: Offset,
    },
    /// Not done in time. Of an append: written, durability unknown.
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
    /// The producer's buffer stayed full for as long as `enqueue` may block. Nothing was queued.
    BufferFull {
        /// The limit, `buffer_bytes`.
        buffer_bytes: u64,
    },
    /// Another producer was built with the same name: that one goes on, this one appends nothing
    /// any more.
    ProducerFenced(Box<Fenced>),
    /// No producer has this name.
    UnknownProducer {
        /// The name asked for.
        name: Arc<str>,
    },
    /// This process was forked from the one that opened the broker, which goes on there and cannot
    /// be used here. What the parent had queued, the parent sends.
    Forked,
    /// What was asked for needs a part of the library that this build lacks: records that are
    /// compressed, or are to be, in a way that is not built in. Nothing is wrong with them.
    MissingFeature {
        /// The feature that adds it.
        feature: &'static str,
    },
    /// The design has it, this version does not.
    NotYet {
        /// What.
        what: &'static str,
    },
}

/// The facts of [`Error::DedupMismatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DedupMismatch {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// Which record of the batch has another value, counted from 0.
    pub index: usize,
    /// The offset of the record that has the key; `None` if that is in the same batch.
    pub original: Option<Offset>,
}

/// The facts of [`Error::OffsetOutOfRange`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfRange {
    /// The offset asked for.
    pub asked: Offset,
    /// The log start offset.
    pub start: Offset,
    /// The end of what can be read.
    pub end: Offset,
}

/// The facts of [`Error::ProducerFenced`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fenced {
    /// The producer's name.
    pub name: Arc<str>,
    /// The epoch of the producer that was fenced.
    pub epoch: u32,
    /// The epoch of whoever holds the name now; `u32::MAX` if the name was deleted.
    pub current: u32,
}

impl Fenced {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, epoch, current } = self;
        if *current == u32::MAX {
            return write!(f, "producer {name} was fenced: its name was deleted; end this one");
        }
        write!(
            f,
            "producer {name} was fenced: another one was built with its name (epoch {current}, \
             this one has {epoch}); end this one",
        )
    }
}

/// The facts of [`Error::LeaderNotAvailable`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotAvailable {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The volume that it is on.
    pub volume: VolumeId,
}

/// The facts of [`Error::NotEnoughReplicas`] and [`Error::NotEnoughReplicasAfterAppend`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooFewInSync {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// How many replicas are in sync.
    pub in_sync: usize,
    /// How many have to be.
    pub min_insync: usize,
}

impl TooFewInSync {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, in_sync, min_insync } = self;
        write!(f, "topic {topic} partition {partition}: {in_sync} replicas are in sync, ")?;
        write!(f, "and {min_insync} have to be")
    }
}

/// The facts of [`Error::MissingVolumes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingVolumes {
    /// The volumes that are there.
    pub found: Vec<VolumeId>,
    /// Those that are not.
    pub missing: Vec<VolumeId>,
}

impl MissingVolumes {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, all) = (self.found.len(), self.found.len() + self.missing.len());
        write!(
            f,
            "only {found} of the {all} volumes are there that the store was last written on, "
        )?;
        write!(f, "without {:?}: give more of them, or force the open", self.missing)
    }
}

/// The facts of [`Error::Damaged`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file or folder.
    pub path: PathBuf,
    /// What was found.
    pub what: &'static str,
    /// It says what else is said in other files:
    /// [`BrokerBuilder::rebuild_metadata`](crate::BrokerBuilder::rebuild_metadata), or
    /// `plimsoll verify --repair`, makes it anew from those.
    pub can_be_rebuilt: bool,
}

impl Damage {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, what, can_be_rebuilt } = self;
        write!(f, "{} is damaged: {what}; ", path.display())?;
        f.write_str(if *can_be_rebuilt {
            "nothing was deleted; run `plimsoll verify --repair`, which rebuilds the topics from \
             their files"
        } else {
            "run verify"
        })
    }
}

/// The facts of [`Error::TopicConfigMismatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigMismatch {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The option that differs.
    pub option: &'static str,
}

/// The facts of [`Error::InvalidTopicName`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidTopicName {
    /// The name.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The facts of [`Error::InvalidConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The option.
    pub option: &'static str,
    /// What it may be.
    pub why: &'static str,
}

const _: () = assert!(size_of::<Error>() <= 3 * size_of::<usize>());

impl Error {
    /// True if the same call may succeed later without the caller changing anything.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(
            self,
            Error::StorageFull(_)
                | Error::TimedOut { .. }
                | Error::Locked { .. }
                | Error::BufferFull { .. }
                | Error::LeaderNotAvailable(_)
                | Error::NotLeader { .. }
                | Error::NotEnoughReplicas(_)
                | Error::NotEnoughReplicasAfterAppend(_)
        )
    }

    /// True if stored bytes are damaged.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        match self {
            Error::Corrupt(_) | Error::Damaged(_) => true,
            Error::Halted { first } => first.is_corruption(),
            _ => false,
        }
    }

    /// Of an append that failed with this error: what became of its records.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::TimedOut { .. } | Error::NotEnoughReplicasAfterAppend(_) => Outcome::Written,
            // A write that failed was taken back, or halted the log.
            // Of what was queued before a fork the child cannot know.
            Error::Halted { .. }
            | Error::NotSynced { .. }
            | Error::Truncated { .. }
            | Error::Forked => Outcome::Unknown,
            _ => Outcome::NotWritten,
        }
    }

    /// The damage, if this error tells of some.
    #[must_use]
    pub fn corruption(&self) -> Option<&Corruption> {
        match self {
            Error::Corrupt(corruption) => Some(corruption),
            _ => None,
        }
    }

    pub(crate) fn damaged(path: &Path, what: &'static str) -> Self {
        Error::Damaged(Box::new(Damage { path: path.to_path_buf(), what, can_be_rebuilt: false }))
    }

    /// The same of what can be made anew from other files.
    pub(crate) fn lost(path: &Path, what: &'static str) -> Self {
        Error::Damaged(Box::new(Damage { path: path.to_path_buf(), what, can_be_rebuilt: true }))
    }

    pub(crate) fn invalid_config(option: &'static str, why: &'static str) -> Self {
        Error::InvalidConfig(Box::new(InvalidConfig { option, why }))
    }

    pub(crate) fn out_of_range(asked: Offset, start: Offset, end: Offset) -> Self {
        Error::OffsetOutOfRange(Box::new(OutOfRange { asked, start, end }))
    }

    /// An I/O error in its place: `StorageFull` for a full disk or quota, else `Io`.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let failure = Arc::new(IoFailure { doing, path: path.to_path_buf(), source });
        if full { Error::StorageFull(failure) } else { Error::Io(failure) }
    }
}

impl Error {
    fn tell_of_replicas(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::LeaderNotAvailable(not) => {
                let NotAvailable { topic, partition, volume } = not.as_ref();
                write!(f, "volume {volume} is not there, with topic {topic} partition {partition}")
            }
            Error::NotLeader { topic, partition } => {
                write!(f, "another replica leads topic {topic} partition {partition} by now")
            }
            Error::NotEnoughReplicas(few) => {
                few.tell(f)?;
                f.write_str("; nothing was written")
            }
            Error::NotEnoughReplicasAfterAppend(few) => {
                few.tell(f)?;
                f.write_str("; it was written, and is not committed")
            }
            Error::InvalidVolume { why } => write!(f, "the volume: {why}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(failure) => {
                write!(f, "could not {} {}", failure.doing, failure.path.display())
            }
            Error::StorageFull(failure) => write!(
                f,
                "storage full: could not {} {}; make room, appends then go on by themselves",
                failure.doing,
                failure.path.display(),
            ),
            Error::Corrupt(corruption) => corruption.fmt(f),
            Error::Halted { first } => write!(
                f,
                "the log halted after a failure and takes no appends until it is opened again: \
                 {first}",
            ),
            Error::NotSynced { cause } => {
                write!(f, "written, but not synced yet, which a later sync makes up for: {cause}")
            }
            Error::Locked { path } => write!(
                f,
                "{} is locked: another process or broker has it open; close that one, or open \
                 this one read-only",
                path.display(),
            ),
            Error::NoStore { path } => {
                write!(f, "there is no store in {}; create one first", path.display())
            }
            Error::MissingVolumes(missing) => missing.tell(f),
            Error::LeaderNotAvailable(_)
            | Error::NotLeader { .. }
            | Error::NotEnoughReplicas(_)
            | Error::NotEnoughReplicasAfterAppend(_)
            | Error::InvalidVolume { .. } => self.tell_of_replicas(f),
            Error::Damaged(damage) => damage.tell(f),
            Error::Incompatible { path, bits } => write!(
                f,
                "{} was written by a newer version (feature bits {bits:#x}); upgrade to open it",
                path.display(),
            ),
            Error::ReadOnly => f.write_str("the broker was opened read-only"),
            Error::Closed => f.write_str("closed: the broker or handle is no longer open"),
            Error::UnknownTopic { name } => {
                write!(f, "unknown topic {name}; create it first")
            }
            Error::TopicExists { name } => write!(f, "topic {name} exists already"),
            Error::TopicConfigMismatch(mismatch) => {
                write!(f, "topic {} exists with another {}", mismatch.topic, mismatch.option)
            }
            Error::InvalidTopicName(invalid) => {
                write!(f, "invalid topic name {:?}: {}", invalid.name, invalid.why)
            }
            Error::UnknownPartition { topic, partition } => {
                write!(f, "topic {topic} has no partition {partition}")
            }
            Error::InvalidConfig(invalid) => {
                write!(f, "invalid {}: {}", invalid.option, invalid.why)
            }
            Error::RecordTooLarge { what, bytes } => {
                write!(f, "{what} of {bytes} bytes is above its limit")
            }
            Error::InvalidBatch { why } => write!(f, "invalid batch: {why}"),
            Error::DedupMismatch(mismatch) => {
                let DedupMismatch { topic, partition, index, original } = mismatch.as_ref();
                write!(f, "topic {topic} partition {partition}: record {index} of the batch has ")?;
                match original {
                    Some(offset) => write!(f, "the dedup key of the record at offset {offset}")?,
                    None => f.write_str("the dedup key of an earlier one")?,
                }
                f.write_str(", and another value; nothing was written")
            }
            Error::OffsetOutOfRange(range) => write!(
                f,
                "offset {} is out of range: the log holds {} to {} (exclusive)",
                range.asked, range.start, range.end,
            ),
            Error::Truncated { at } => {
                write!(f, "the log was cut at offset {at}; what was waited for is gone")
            }
            Error::TimedOut { what } => write!(f, "timed out waiting for {what}"),
            Error::BufferFull { buffer_bytes } => write!(
                f,
                "the producer's buffer of {buffer_bytes} bytes is full; wait for deliveries, or \
                 give it a larger one",
            ),
            Error::ProducerFenced(fenced) => fenced.tell(f),
            Error::UnknownProducer { name } => write!(f, "no producer has the name {name}"),
            Error::Forked => f.write_str(
                "this process was forked from the one that opened the broker; open one of its own \
                 after the parent's is closed",
            ),
            Error::MissingFeature { feature } => write!(
                f,
                "compressed with {feature}, which this build of plimsoll lacks; build it with the \
                 feature `{feature}`",
            ),
            Error::NotYet { what } => write!(f, "{what}: not yet supported in this version"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(failure) | Error::StorageFull(failure) => Some(&failure.source),
            Error::Halted { first: cause } | Error::NotSynced { cause } => Some(cause.as_ref()),
            _ => None,
        }
    }
}
