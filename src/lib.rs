//! **Plimsoll is an embedded streaming log: Kafka's model as a library inside one process, the way
//! `SQLite` is a database inside one process.** No server, no network. An application links it,
//! opens a directory, and has a durable, replayable queue.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//! use plimsoll::{Broker, Record, TopicConfig};
//!
//! let broker = Broker::open("data")?;
//! let orders = broker.ensure_topic("orders", TopicConfig::new())?;
//! broker.producer().build()?.send(&orders, Record::new("paid").key("order-42"))?;
//! for record in broker.reader(&orders).build()? {
//!     println!("{:?}", record?.value());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! By default an acknowledged record is on disk; it is never lost, changed or reordered within its
//! partition; and reading it copies nothing.
//!
//! # The model
//!
//! A **topic** is a named stream, split into **partitions**: ordered, append-only logs, in which
//! every record has an **offset**. A **producer** appends records, one by one or as a batch that is
//! written all or not at all, and queued ones with a [`Delivery`] each. A **consumer** or
//! **reader** goes through a partition from an offset on, as often as it likes: reading removes
//! nothing. What can be read lies below the **high watermark**, the line under which every record
//! is as durable as its topic demands. A partition is a row of **segment** files, which are
//! memory-mapped to be read.
//!
//! # Guarantees
//!
//! What an acknowledged record survives:
//!
//! | [`Durability`] of the topic | panic | `kill -9` | power cut |
//! | --- | --- | --- | --- |
//! | `Fsync`, the default | yes | yes | yes |
//! | `Interval(d)` | yes | yes | but for the last `d` |
//! | `Os` | yes | yes | no |
//!
//! The same holds for each [`Acks`] but `None`, which returns before the record is durable. In
//! every case what is found again is a prefix of what was appended, in order, each record whole.
//! After a failed sync nothing more is acknowledged until the broker was opened again, and nothing
//! above the last good sync is served before it was written and synced again. Damaged bytes are
//! never handed out: the reader gets [`Error::Corrupt`] for exactly those offsets, the records
//! around them stay readable, and nothing is deleted. `docs/guarantees.md` has the conditions.
//!
//! # Exactly once
//!
//! Nothing that the library tries again is in the log twice. For what an application sends again,
//! after a crash of its own, there are two ways: a producer with a [name](ProducerBuilder::name)
//! tells by [`Producer::last_sequence`] where to go on in a source that can be read again; and in a
//! topic with a [`DedupWindow`] a record whose [dedup key](Record::dedup_key) is there already is
//! not written, but acknowledged with the place of the first one.
//!
//! # Not provided
//!
//! Consumer groups and compaction are not there yet; what asks for them gets [`Error::NotYet`].
//! There is no network protocol, and no transaction over several partitions.
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `cli` | the command line, `plimsoll`; with it `lz4` and `zstd` |
//! | `lz4` | [`Compression::Lz4`], in safe Rust |
//! | `metrics` | `Metrics::export`, which hands a snapshot to the `metrics` crate's recorder |
//! | `sim` | [`sim`], a disk in memory that crashes, tears, fails, fills up and rots on command |
//! | `tracing` | spans and events of the `tracing` crate: open, recovery, a new and a full segment, failures, deletions, close. A subscriber must not call into the broker from an event |
//! | `zstd` | [`Compression::Zstd`]; compiles C |
//!
//! # More
//!
//! In the repository: `docs/architecture.md` (how it works, and where to change what),
//! `docs/format.md` (the files, byte by byte), `docs/guarantees.md`, `docs/testing.md`.

#![deny(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::dbg_macro)]
#![warn(missing_debug_implementations, clippy::pedantic)]
#![allow(
    clippy::doc_lazy_continuation,
    clippy::doc_overindented_list_items,
    reason = "module headers align their numbered invariants as text"
)]

// Open.
pub use broker::{Background, Broker, BrokerBuilder, RecoveryReport, TailCut, Topic};
pub use config::{
    Acks, Cleanup, Clock, Compression, DedupWindow, Durability, ManualClock, Reads, TopicChange,
    TopicConfig,
};
// Produce.
pub use client::{
    Ack, BatchAck, Delivery, Partitioner, Producer, ProducerBuilder, TopicRef, murmur2_partition,
};
pub use format::{Header, Headers, Record};
// Consume.
pub use client::{
    Consumer, ConsumerBuilder, ConsumerHandle, Lag, Positions, Reader, ReaderBuilder, RecordView,
    Records, RecordsIter, Reset, SharedRecord, Start, TopicPartition,
};
// Inspect.
pub use broker::{
    BackupReport, DumpSummary, Histogram, Metrics, PartitionMetrics, PinnedSegment, ScrubDamage,
    ScrubReport, VerifyFault, VerifyReport, VolumeDescription, VolumeState, dump_segment,
};
pub use client::{Admin, PartitionDescription, ReplicaDescription, TopicDescription};
// Words and errors.
pub use error::{
    ConfigMismatch, Corruption, Damage, DedupMismatch, Error, Fenced, InvalidConfig,
    InvalidTopicName, IoFailure, MissingVolumes, NotAvailable, OutOfRange, Outcome, Result,
    TooFewInSync,
};
pub use id::{
    Generation, Incarnation, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, VolumeId,
};
// Try it on a failing disk.
#[cfg(any(test, feature = "sim"))]
pub use fs::sim;

mod broker;
mod client;
mod config;
mod error;
mod format;
mod fs;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group;
mod id;
mod log;
mod partition;
mod sync;
mod trace;
