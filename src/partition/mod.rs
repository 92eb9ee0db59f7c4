//! One truth over the replicas of a partition: what is committed, and who waits for it.
//!
//! Not here: files (`log`), topics (`broker`). With one replica the in-sync set is that replica,
//! and the high watermark is its durable offset or its end, as the durability demands.

mod replica_set;

pub(crate) use replica_set::{Partition, Replica};
