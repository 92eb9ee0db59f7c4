//! What users hold: producer, consumer, reader, admin.
//!
//! Not here: topics themselves, and opening and closing (`broker`).

mod admin;
mod consumer;
mod delivery;
mod fetcher;
mod partitioner;
mod pipeline;
#[cfg(test)]
mod pipeline_tests;
mod producer;
#[cfg(test)]
mod producer_tests;
mod reader;
mod records;
mod start;
mod topic_ref;

pub use admin::{Admin, PartitionDescription, ReplicaDescription, TopicDescription};
pub use consumer::{Consumer, ConsumerBuilder, ConsumerHandle};
pub use delivery::Delivery;
pub use fetcher::Lag;
pub use partitioner::{Partitioner, murmur2_partition};
pub use producer::{Ack, BatchAck, Producer, ProducerBuilder};
pub use reader::{Reader, ReaderBuilder};
pub use records::{RecordView, Records, RecordsIter, SharedRecord};
pub use start::{Positions, Reset, Start, TopicPartition};
pub use topic_ref::TopicRef;
