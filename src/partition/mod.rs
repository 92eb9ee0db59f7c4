//! One truth over the replicas of a partition: what is committed, and who waits for it.
//!
//! Not here: files (`log`), topics (`broker`). With one replica the in-sync set is that replica,
//! and the high watermark is its durable offset or its end, as the durability demands.
//!
//! | file | what |
//! | --- | --- |
//! | `replica_set` | [`Partition`]: what the layers above call |
//! | `divergence` | where a follower's log leaves its leader's: a rule, as the next |
//! | `follower` | making a follower's log agree, and copying |
//! | `progress` | the ISR and the high watermark, as a leader sees them |

mod divergence;
mod follower;
#[cfg(test)]
mod follower_tests;
mod progress;
#[cfg(test)]
mod progress_tests;
mod replica_set;

#[cfg(test)]
pub(crate) use divergence::{Alignment, History, divergence};
pub(crate) use progress::Term;
#[cfg(test)]
pub(crate) use progress::{
    Copying, Counts, Decision, Evidence, Fetch, Holding, IsrChange, Position, Progress, Rules,
    Settled, high_watermark_at_open,
};
pub(crate) use replica_set::{Partition, Replica};
