//! `topic create|list|describe|alter|delete`.

use std::time::Duration;

use plimsoll::{
    PartitionDescription, ReplicaDescription, Topic, TopicChange, TopicConfig, TopicDescription,
    VolumeId,
};
use serde::Serialize;

use crate::output::{Ending, Output, Result};
use crate::store::{Store, end_change, end_look};
use crate::values::{show_cleanup, show_compression, show_dedup, show_durability, show_duration};

pub(crate) fn create(
    store: &Store<'_>,
    name: &str,
    config: TopicConfig,
    replicas: Option<u16>,
) -> Result<Ending> {
    // Before a store is made for it.
    Topic::check_name(name)?;
    config.validate()?;
    store.must_have_room_for(replicas)?;
    let broker = store.open_or_create()?;
    broker.create_topic(name, config)?;
    end_change(broker)
}

pub(crate) fn alter(
    store: &Store<'_>,
    name: &str,
    partitions: Option<u32>,
    change: TopicChange,
) -> Result<Ending> {
    let broker = store.open()?;
    let admin = broker.admin();
    // Nothing is done by halves: what would be refused of the second step is before the first.
    if let Some(total) = partitions {
        TopicConfig::new().partitions(total).validate()?;
        if total < broker.topic(name)?.partitions() {
            // Refuses it, in the library's words.
            admin.add_partitions(name, total)?;
        }
    }
    admin.alter(name, change)?;
    if let Some(total) = partitions {
        admin.add_partitions(name, total)?;
    }
    end_change(broker)
}

pub(crate) fn delete(store: &Store<'_>, name: &str) -> Result<Ending> {
    let broker = store.open()?;
    broker.admin().delete_topic(name)?;
    end_change(broker)
}

#[derive(Serialize)]
struct ListLine<'a> {
    topic: &'a str,
    id: u64,
    partition_count: u32,
}

pub(crate) fn list(store: &Store<'_>, json: bool) -> Result<Ending> {
    let broker = store.open_to_look(None)?;
    let mut out = Output::open()?;
    for topic in broker.admin().topics() {
        if json {
            out.json(&ListLine {
                topic: topic.name(),
                id: topic.id().get(),
                partition_count: topic.partitions(),
            })?;
        } else {
            out.line(topic.name())?;
        }
    }
    out.flush()?;
    end_look(broker);
    Ok(Ending::Done)
}

#[derive(Serialize)]
struct TopicLine<'a> {
    topic: &'a str,
    id: u64,
    replicas: u16,
    min_insync: u16,
    unclean_leader_election: bool,
    durability: String,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    segment_bytes: u64,
    segment_age_ms: u64,
    record_bytes: u32,
    cleanup: String,
    dedup: String,
    compression: String,
    partition_count: usize,
    partitions: Vec<PartitionLine>,
}

#[derive(Serialize)]
struct PartitionLine {
    partition: u32,
    log_start_offset: u64,
    log_end_offset: u64,
    high_watermark: u64,
    durable_offset: u64,
    leader_epoch: u32,
    leader: Option<u32>,
    in_sync: Vec<u32>,
    replicas: Vec<ReplicaLine>,
}

#[derive(Serialize)]
struct ReplicaLine {
    volume: u32,
    in_sync: bool,
    log_start_offset: u64,
    log_end_offset: u64,
    durable_offset: u64,
}

/// The volumes of the replicas that are in sync.
fn in_sync(partition: &PartitionDescription) -> Vec<u32> {
    let replicas = partition.replicas.iter().filter(|replica| replica.in_sync);
    replicas.map(|replica| replica.volume.get()).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> From<&'a TopicDescription> for TopicLine<'a> {
    fn from(topic: &'a TopicDescription) -> Self {
        Self {
            topic: &topic.topic,
            id: topic.id.get(),
            replicas: topic.replicas,
            min_insync: topic.min_insync,
            unclean_leader_election: topic.unclean_leader_election,
            durability: show_durability(topic.durability),
            retention_ms: topic.retention.map(millis),
            retention_bytes: topic.retention_bytes,
            segment_bytes: topic.segment_bytes,
            segment_age_ms: millis(topic.segment_age),
            record_bytes: topic.record_bytes,
            cleanup: show_cleanup(topic.cleanup),
            dedup: show_dedup(topic.dedup),
            compression: show_compression(topic.compression),
            partition_count: topic.partitions.len(),
            partitions: topic.partitions.iter().map(PartitionLine::from).collect(),
        }
    }
}

impl From<&PartitionDescription> for PartitionLine {
    fn from(partition: &PartitionDescription) -> Self {
        Self {
            partition: partition.partition.get(),
            log_start_offset: partition.log_start_offset.get(),
            log_end_offset: partition.log_end_offset.get(),
            high_watermark: partition.high_watermark.get(),
            durable_offset: partition.durable_offset.get(),
            leader_epoch: partition.leader_epoch.get(),
            leader: partition.leader.map(VolumeId::get),
            in_sync: in_sync(partition),
            replicas: partition.replicas.iter().map(ReplicaLine::from).collect(),
        }
    }
}

impl From<&ReplicaDescription> for ReplicaLine {
    fn from(replica: &ReplicaDescription) -> Self {
        Self {
            volume: replica.volume.get(),
            in_sync: replica.in_sync,
            log_start_offset: replica.log_start_offset.get(),
            log_end_offset: replica.log_end_offset.get(),
            durable_offset: replica.durable_offset.get(),
        }
    }
}

pub(crate) fn describe(store: &Store<'_>, name: &str, json: bool) -> Result<Ending> {
    let broker = store.open_to_look(None)?;
    let topic = broker.admin().describe(name)?;
    let mut out = Output::open()?;
    if json {
        out.json(&TopicLine::from(&topic))?;
    } else {
        print(&topic, &mut out)?;
    }
    out.flush()?;
    end_look(broker);
    Ok(Ending::Done)
}

fn print(topic: &TopicDescription, out: &mut Output) -> Result<()> {
    let all = || "all".to_owned();
    let facts = [
        ("topic", topic.topic.to_string()),
        ("id", topic.id.to_string()),
        ("partitions", topic.partitions.len().to_string()),
        ("replicas", topic.replicas.to_string()),
        ("min_insync", topic.min_insync.to_string()),
        ("unclean_election", topic.unclean_leader_election.to_string()),
        ("durability", show_durability(topic.durability)),
        ("retention", topic.retention.map_or_else(all, show_duration)),
        ("retention_bytes", topic.retention_bytes.map_or_else(all, |bytes| bytes.to_string())),
        ("segment_bytes", topic.segment_bytes.to_string()),
        ("segment_age", show_duration(topic.segment_age)),
        ("dedup", show_dedup(topic.dedup)),
        ("compression", show_compression(topic.compression)),
    ];
    for (name, value) in facts {
        out.line(format_args!("{name:<17}{value}"))?;
    }
    out.line("")?;
    out.line(
        "partition  log_start_offset  log_end_offset  high_watermark  durable_offset  \
         leader_epoch  leader  in_sync  ends",
    )?;
    for p in &topic.partitions {
        out.line(format_args!(
            "{:>9}  {:>16}  {:>14}  {:>14}  {:>14}  {:>12}  {:>6}  {:<7}  {}",
            p.partition,
            p.log_start_offset,
            p.log_end_offset,
            p.high_watermark,
            p.durable_offset,
            p.leader_epoch,
            p.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
            joined(in_sync(p).iter()),
            joined(p.replicas.iter().map(|it| format!("{}:{}", it.volume, it.log_end_offset))),
        ))?;
    }
    Ok(())
}

fn joined(all: impl Iterator<Item = impl ToString>) -> String {
    all.map(|one| one.to_string()).collect::<Vec<_>>().join(",")
}
