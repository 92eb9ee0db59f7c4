//! What an application opens: volumes, metadata, topics, and the one thread a volume has.
//!
//! Not here: what an application holds to produce and consume (`client`).

mod background;
#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod between;
#[expect(clippy::module_inception, reason = "the broker is what this layer is about")]
mod broker;
mod builder;
#[cfg(test)]
mod damage_tests;
mod dump;
mod ids;
mod metadata;
#[cfg(test)]
mod metadata_tests;
#[cfg(test)]
mod promise_tests;
#[cfg(test)]
mod refused_tests;
mod report;
mod topic;
mod verify;
mod volume;

pub use background::Background;
pub use broker::Broker;
pub(crate) use broker::Inner;
pub use builder::BrokerBuilder;
pub use dump::{DumpSummary, dump_segment};
pub use report::{RecoveryReport, TailCut};
pub use topic::Topic;
pub(crate) use topic::TopicState;
pub use verify::{VerifyFault, VerifyReport};
