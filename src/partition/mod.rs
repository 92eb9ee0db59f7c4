//! One truth over the replicas of a partition: what is committed, and who waits for it.
//!
//! Not here: files (`log`), topics (`broker`). With one replica the in-sync set is that replica,
//! and the high watermark is its durable offset or its end, as the durability demands.
//!
//! | file | what |
//! | --- | --- |
//! | `replica_set`, `replica` | [`Partition`] and its replicas: what the layers above call |
//! | `appending` | appends, and what they wait for |
//! | `following` | what replicas do beside each other, and say of themselves |
//! | `mending` | what they do about bytes that went bad |
//! | `leading` | taking over elections and changes of the ISR |
//! | `divergence` | where a follower's log leaves its leader's: a rule, as the next |
//! | `follower` | making a follower's log agree, and copying |
//! | `progress` | the ISR and the high watermark, as a leader sees them |
//! | `slots` | an array that only grows |
//! | `waiters` | who waits until something is committed |

mod appending;
mod divergence;
mod follower;
#[cfg(test)]
mod follower_tests;
mod following;
mod leading;
mod mending;
mod progress;
#[cfg(test)]
mod progress_tests;
mod replica;
mod replica_set;
mod slots;
mod waiters;

pub(crate) use appending::Wanted;
#[cfg(test)]
pub(crate) use divergence::{Alignment, History, divergence};
pub(crate) use follower::first_difference;
pub(crate) use following::Step;
pub(crate) use leading::{Seat, Standing};
pub(crate) use mending::Bad;
#[cfg(test)]
pub(crate) use progress::{
    Copying, Evidence, Fetch, Holding, Position, Progress, Settled, high_watermark_at_open,
};
pub(crate) use progress::{Counts, Decision, IsrChange, Rules, Term};
pub(crate) use replica::{Crew, Notice, Overseer, Replica};
pub(crate) use replica_set::Partition;
pub(crate) use slots::Slots;
