//! What an application opens: volumes, metadata, topics, and every thread there is.
//!
//! Not here: what an application holds to produce and consume (`client`).

mod background;
mod backup;
#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod between;
#[expect(clippy::module_inception, reason = "the broker is what this layer is about")]
mod broker;
mod builder;
#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod concurrency_tests;
mod controller;
mod crew;
#[cfg(test)]
mod damage_tests;
mod dump;
mod election;
#[cfg(test)]
mod elections_tests;
#[cfg(test)]
mod folder_tests;
mod heartbeat;
mod ids;
#[cfg(test)]
mod losing_tests;
mod metadata;
#[cfg(test)]
mod metadata_tests;
mod metrics;
#[cfg(feature = "metrics")]
mod metrics_export;
#[cfg(test)]
mod metrics_tests;
mod moving;
mod placement;
mod producers;
#[cfg(test)]
mod promise_tests;
mod rebuild;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod replication_tests;
mod report;
#[cfg(test)]
mod reserve_tests;
#[cfg(test)]
mod rules_tests;
mod scrub;
mod sender;
#[cfg(test)]
mod simulation_tests;
mod sweep;
mod topic;
#[cfg(test)]
mod two_disks_tests;
mod verify;
mod volume;
mod volumes;
#[cfg(test)]
mod volumes_crash_tests;
#[cfg(test)]
mod volumes_tests;

pub use crate::log::Histogram;
pub use background::Background;
pub use backup::BackupReport;
pub use broker::Broker;
pub(crate) use broker::Inner;
pub use builder::BrokerBuilder;
pub use dump::{DumpSummary, dump_segment};
pub use metrics::{Metrics, PartitionMetrics, PinnedSegment};
pub use report::{RecoveryReport, TailCut};
pub use scrub::{ScrubDamage, ScrubReport};
pub(crate) use sender::{Outbox, Round, wake_all};
pub use topic::Topic;
pub(crate) use topic::TopicState;
pub use verify::{VerifyFault, VerifyReport};
pub use volumes::{VolumeDescription, VolumeState};
