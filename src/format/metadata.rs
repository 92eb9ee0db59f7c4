//! The records of the metadata log, as values of ordinary records.
//!
//! Not here: what they do to the state (`broker`), what a code stands for (`config`), framing
//! and checksums (the log's batches).
//!
//! ```text
//! metadata      := tag:u16 major:u8 minor:u8 body_bytes:u32 body
//! snapshot      := next_topic_id:u64 epoch_floor:u32 topic_count:u32 topic* producers
//!                  volumes assignments                                          tag 1
//! put_topic     := topic                                                        tag 2
//! delete_topic  := topic_id:u64                                                 tag 3
//! purged        := topic_id:u64                                                 tag 4
//! epoch_floor   := epoch:u32                                                    tag 5
//! put_producer  := producer                                                     tag 6
//! drop_producer := producer_id:u64                                              tag 7
//! put_volume    := volume                                                       tag 8
//! drop_volume   := volume_id:u32                                                tag 9
//! put_partition := assignment                                                   tag 10
//! topic         := topic_bytes:u32 fixed name segment_age_ms:u64
//! producers     := next_producer:u64 producer_count:u32 producer*
//! producer      := producer_id:u64 epoch:u32 name_bytes:u32 name
//! volumes       := next_volume:u32 volume_count:u32 volume*
//! assignments   := assignment_count:u32 assignment*
//! ```
//!
//! Volumes and assignments: `assignment`.
//!
//! | offset | size | field of a topic's fixed part | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 8 | id | at most 2^62, as `next_topic_id` |
//! | 8 | 4 | salt | |
//! | 12 | 4 | partitions | 1 to 65,536 |
//! | 16 | 2 | replicas | |
//! | 18 | 2 | `min_insync` | |
//! | 20 | 1 | durability | code |
//! | 21 | 1 | cleanup | code |
//! | 22 | 1 | dedup | code |
//! | 23 | 1 | compression | code |
//! | 24 | 4 | flags | 1 deleted, 2 has `retention_ms`, 4 has `retention_bytes`, 8 unclean elections are allowed |
//! | 28 | 4 | `name_bytes` | 1 to 249 |
//! | 32 | 8 | `interval_ms` | of durability |
//! | 40 | 8 | `retention_ms` | 0 without flag 2 |
//! | 48 | 8 | `retention_bytes` | 0 without flag 4 |
//! | 56 | 8 | `segment_bytes` | |
//! | 64 | 8 | `dedup_window` | of dedup: records or ms |
//! | 72 | 8 | created | ms since the Unix epoch |
//! | 80 | 4 | `record_bytes` | the most a record may have |
//! | 84 | 4 | zero | |
//! | 88 | | name | a topic name |
//!
//! A `put_topic` makes a topic or, with the id of one that is there, replaces what is known of it:
//! its settings were changed, or it got more partitions. `segment_age_ms` is there from minor
//! version 1 on; before, it was 7 days. A snapshot's `producers` are there from minor version 2 on,
//! `volumes` and `assignments` from 3 on; before, there were none. The ids of producers have bit 62
//! set and count from 0 below it; a name has 1 to 249 bytes of UTF-8. A `put_producer` makes a
//! name, or gives it to a new holder with a higher epoch.
//!
//! Every byte is covered by the payload CRC of its batch. A newer program of the same major
//! version may add fields after those it knows, in a body or in a topic, with a higher minor
//! version: they are skipped by the length before them. With the minor version that this program
//! writes, or a lower one, bytes beyond the known fields are an error.
//!
//! Example   deletion of topic 7: `0300 01 03 08000000 0700000000000000`.
//! Damage    the batch's CRC finds it. An unknown tag or major version comes from a newer program
//!           and must not be skipped: the store is not opened.

use super::assignment::{Assignment, VOLUMES_MAX, VolumeMeta};
use super::bytes::{COUNTER_MAX, array_at, checked_epoch, counter_at, put_array, widen};
use super::bytes::{i64_at, narrow, put_i64, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use super::name::{NameError, check_topic_name};
use crate::id::{LeaderEpoch, ProducerEpoch, ProducerId, TopicId, VolumeId};

/// Partitions of a topic.
pub(crate) const PARTITIONS_MAX: u32 = 65_536;
/// Topics in a snapshot, deleted ones included.
pub(crate) const TOPICS_MAX: u32 = 500_000;
/// Producers with a name.
pub(crate) const PRODUCERS_MAX: u32 = 65_536;
/// A producer's name.
pub(crate) const PRODUCER_NAME_BYTES_MAX: usize = 249;

const MAJOR: u8 = 1;
const MINOR: u8 = 3;
/// From this minor version on a topic has `segment_age_ms`.
const MINOR_SEGMENT_AGE: u8 = 1;
/// From this minor version on a snapshot has producers.
const MINOR_PRODUCERS: u8 = 2;
/// From this minor version on a snapshot has volumes and assignments.
const MINOR_VOLUMES: u8 = 3;
/// Of topics written before there was one: 7 days.
const SEGMENT_AGE_MS_BEFORE: u64 = 7 * 24 * 60 * 60 * 1000;
const FRAME_BYTES: usize = 8;
const TOPIC_FIXED_BYTES: usize = 88;

// Never renumber.
const TAG_SNAPSHOT: u16 = 1;
const TAG_PUT_TOPIC: u16 = 2;
const TAG_DELETE_TOPIC: u16 = 3;
const TAG_PURGED: u16 = 4;
const TAG_EPOCH_FLOOR: u16 = 5;
const TAG_PUT_PRODUCER: u16 = 6;
const TAG_DROP_PRODUCER: u16 = 7;
const TAG_PUT_VOLUME: u16 = 8;
const TAG_DROP_VOLUME: u16 = 9;
const TAG_PUT_PARTITION: u16 = 10;
const DELETED: u32 = 1;
const HAS_RETENTION_MS: u32 = 2;
const HAS_RETENTION_BYTES: u32 = 4;
const UNCLEAN_ELECTION: u32 = 8;
const KNOWN_FLAGS: u32 = DELETED | HAS_RETENTION_MS | HAS_RETENTION_BYTES | UNCLEAN_ELECTION;

/// One change of the metadata, or all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MetadataRecord {
    /// The whole state; what came before it in the log no longer matters.
    Snapshot(MetadataSnapshot),
    /// A topic that is new, or as it is from now on.
    PutTopic(TopicMeta),
    DeleteTopic {
        topic: TopicId,
    },
    /// The deleted topic's folder is gone.
    Purged {
        topic: TopicId,
    },
    /// Every leader epoch from now on is at least this one.
    EpochFloor {
        epoch: LeaderEpoch,
    },
    /// A producer's name that is new, or has a new holder.
    PutProducer(ProducerMeta),
    /// The name is free, and its id is never given again.
    DropProducer {
        producer: ProducerId,
    },
    /// A volume that is new, or as it is from now on.
    PutVolume(VolumeMeta),
    /// The volume is none of the cluster's any more, and its number is never given again.
    DropVolume {
        volume: VolumeId,
    },
    /// Where a partition's replicas are from now on, who leads and who is in sync.
    PutPartition(Assignment),
}

/// The whole state of the metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct MetadataSnapshot {
    pub(crate) next_topic_id: u64,
    pub(crate) epoch_floor: LeaderEpoch,
    pub(crate) topics: Vec<TopicMeta>,
    /// How many names there ever were.
    pub(crate) next_producer: u64,
    pub(crate) producers: Vec<ProducerMeta>,
    /// The number that the next volume gets.
    pub(crate) next_volume: u32,
    /// None in a cluster that always had one volume.
    pub(crate) volumes: Vec<VolumeMeta>,
    /// Of the partitions that are not on the first volume alone.
    pub(crate) assignments: Vec<Assignment>,
}

/// A producer's name, and the epoch of its holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProducerMeta {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) name: String,
}

/// A topic and its configuration; codes are `config`'s.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TopicMeta {
    pub(crate) id: TopicId,
    pub(crate) salt: u32,
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) replicas: u16,
    pub(crate) min_insync: u16,
    pub(crate) durability: u8,
    pub(crate) interval_ms: u64,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age_ms: u64,
    pub(crate) cleanup: u8,
    pub(crate) dedup: u8,
    pub(crate) dedup_window: u64,
    pub(crate) compression: u8,
    pub(crate) created: i64,
    pub(crate) record_bytes: u32,
    pub(crate) unclean_leader_election: bool,
    pub(crate) deleted: bool,
}

/// Why a metadata record was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MetadataError {
    /// It ends within a field.
    Short,
    /// Bytes beyond its end.
    Trailing,
    /// A kind of record that this program does not know.
    UnknownTag {
        /// The tag it carries.
        tag: u16,
    },
    /// A major version that this program does not know.
    Version {
        /// The version it carries.
        major: u8,
    },
    /// A field with a value that is never written.
    Field(&'static str),
    /// A topic's name.
    Name(NameError),
}

impl MetadataRecord {
    /// # Panics
    /// With more than [`TOPICS_MAX`] topics, or a name or a partition count beyond its limit:
    /// both are checked where topics are made.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; FRAME_BYTES];
        let tag = match self {
            Self::Snapshot(snapshot) => {
                assert!(snapshot.topics.len() <= widen(TOPICS_MAX), "too many topics");
                out.extend_from_slice(&snapshot.next_topic_id.to_le_bytes());
                out.extend_from_slice(&snapshot.epoch_floor.get().to_le_bytes());
                out.extend_from_slice(&narrow(snapshot.topics.len()).to_le_bytes());
                for topic in &snapshot.topics {
                    topic.encode(&mut out);
                }
                assert!(snapshot.producers.len() <= widen(PRODUCERS_MAX), "too many producers");
                out.extend_from_slice(&snapshot.next_producer.to_le_bytes());
                out.extend_from_slice(&narrow(snapshot.producers.len()).to_le_bytes());
                for producer in &snapshot.producers {
                    producer.encode(&mut out);
                }
                assert!(snapshot.volumes.len() <= widen(VOLUMES_MAX), "too many volumes");
                out.extend_from_slice(&snapshot.next_volume.to_le_bytes());
                out.extend_from_slice(&narrow(snapshot.volumes.len()).to_le_bytes());
                for volume in &snapshot.volumes {
                    volume.encode(&mut out);
                }
                out.extend_from_slice(&narrow(snapshot.assignments.len()).to_le_bytes());
                for assignment in &snapshot.assignments {
                    assignment.encode(&mut out);
                }
                TAG_SNAPSHOT
            }
            Self::PutTopic(topic) => {
                topic.encode(&mut out);
                TAG_PUT_TOPIC
            }
            Self::DeleteTopic { topic } => {
                out.extend_from_slice(&topic.get().to_le_bytes());
                TAG_DELETE_TOPIC
            }
            Self::Purged { topic } => {
                out.extend_from_slice(&topic.get().to_le_bytes());
                TAG_PURGED
            }
            Self::EpochFloor { epoch } => {
                out.extend_from_slice(&epoch.get().to_le_bytes());
                TAG_EPOCH_FLOOR
            }
            Self::PutProducer(producer) => {
                producer.encode(&mut out);
                TAG_PUT_PRODUCER
            }
            Self::DropProducer { producer } => {
                out.extend_from_slice(&producer.get().to_le_bytes());
                TAG_DROP_PRODUCER
            }
            Self::PutVolume(volume) => {
                volume.encode(&mut out);
                TAG_PUT_VOLUME
            }
            Self::DropVolume { volume } => {
                out.extend_from_slice(&volume.get().to_le_bytes());
                TAG_DROP_VOLUME
            }
            Self::PutPartition(assignment) => {
                assignment.encode(&mut out);
                TAG_PUT_PARTITION
            }
        };
        let body_bytes = narrow(out.len() - FRAME_BYTES);
        let frame = out.first_chunk_mut::<FRAME_BYTES>().expect("made with a frame");
        put_u16::<0, _>(frame, tag);
        put_array::<2, 2, _>(frame, [MAJOR, MINOR]);
        put_u32::<4, _>(frame, body_bytes);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        let (frame, body) = bytes.split_first_chunk::<FRAME_BYTES>().ok_or(MetadataError::Short)?;
        let tag = u16_at::<0, _>(frame);
        let [major, minor] = array_at::<2, 2, _>(frame);
        if major != MAJOR {
            return Err(MetadataError::Version { major });
        }
        let body_bytes = widen(u32_at::<4, _>(frame));
        if body.len() > body_bytes {
            return Err(MetadataError::Trailing);
        }
        if body.len() < body_bytes {
            return Err(MetadataError::Short);
        }
        let mut body = Body { rest: body, minor };
        let record = match tag {
            TAG_SNAPSHOT => Self::Snapshot(body.snapshot()?),
            TAG_PUT_TOPIC => Self::PutTopic(body.topic()?),
            TAG_DELETE_TOPIC => Self::DeleteTopic { topic: TopicId::new(body.u64()?) },
            TAG_PURGED => Self::Purged { topic: TopicId::new(body.u64()?) },
            TAG_EPOCH_FLOOR => Self::EpochFloor { epoch: body.epoch()? },
            TAG_PUT_PRODUCER => Self::PutProducer(body.producer()?),
            TAG_DROP_PRODUCER => Self::DropProducer { producer: ProducerId::new(body.u64()?) },
            TAG_PUT_VOLUME => Self::PutVolume(body.volume()?),
            TAG_DROP_VOLUME => Self::DropVolume { volume: body.volume_id()? },
            TAG_PUT_PARTITION => Self::PutPartition(body.assignment()?),
            tag => return Err(MetadataError::UnknownTag { tag }),
        };
        body.end()?;
        Ok(record)
    }
}

impl TopicMeta {
    fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(check_topic_name(&self.name).is_ok());
        assert!((1..=PARTITIONS_MAX).contains(&self.partitions), "partitions beyond their limit");
        let mut fixed = [0; TOPIC_FIXED_BYTES];
        let mut flags = 0;
        if self.deleted {
            flags |= DELETED;
        }
        if self.retention_ms.is_some() {
            flags |= HAS_RETENTION_MS;
        }
        if self.retention_bytes.is_some() {
            flags |= HAS_RETENTION_BYTES;
        }
        if self.unclean_leader_election {
            flags |= UNCLEAN_ELECTION;
        }
        let codes = [self.durability, self.cleanup, self.dedup, self.compression];
        put_u64::<0, _>(&mut fixed, self.id.get());
        put_u32::<8, _>(&mut fixed, self.salt);
        put_u32::<12, _>(&mut fixed, self.partitions);
        put_u16::<16, _>(&mut fixed, self.replicas);
        put_u16::<18, _>(&mut fixed, self.min_insync);
        put_array::<20, 4, _>(&mut fixed, codes);
        put_u32::<24, _>(&mut fixed, flags);
        put_u32::<28, _>(&mut fixed, narrow(self.name.len()));
        put_u64::<32, _>(&mut fixed, self.interval_ms);
        put_u64::<40, _>(&mut fixed, self.retention_ms.unwrap_or(0));
        put_u64::<48, _>(&mut fixed, self.retention_bytes.unwrap_or(0));
        put_u64::<56, _>(&mut fixed, self.segment_bytes);
        put_u64::<64, _>(&mut fixed, self.dedup_window);
        put_i64::<72, _>(&mut fixed, self.created);
        put_u32::<80, _>(&mut fixed, self.record_bytes);
        let age = self.segment_age_ms.to_le_bytes();
        let topic_bytes = TOPIC_FIXED_BYTES + self.name.len() + age.len();
        out.extend_from_slice(&narrow(topic_bytes).to_le_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&age);
    }
}

impl ProducerMeta {
    fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.id.is_named() && is_producer_name(&self.name));
        out.extend_from_slice(&self.id.get().to_le_bytes());
        out.extend_from_slice(&self.epoch.get().to_le_bytes());
        out.extend_from_slice(&narrow(self.name.len()).to_le_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }
}

/// Whether a producer may be called so.
pub(crate) fn is_producer_name(name: &str) -> bool {
    (1..=PRODUCER_NAME_BYTES_MAX).contains(&name.len())
}

/// A body that is read from its front.
pub(super) struct Body<'a> {
    rest: &'a [u8],
    minor: u8,
}

impl<'a> Body<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], MetadataError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(MetadataError::Short)?;
        self.rest = rest;
        Ok(array)
    }

    fn bytes(&mut self, bytes: u32) -> Result<&'a [u8], MetadataError> {
        let (taken, rest) = self.rest.split_at_checked(widen(bytes)).ok_or(MetadataError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MetadataError> {
        Ok(u16::from_le_bytes(*self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, MetadataError> {
        Ok(u32::from_le_bytes(*self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, MetadataError> {
        Ok(u64::from_le_bytes(*self.array()?))
    }

    /// Nothing may be left but the fields of a newer minor version.
    fn end(&self) -> Result<(), MetadataError> {
        if self.rest.is_empty() || self.minor > MINOR {
            Ok(())
        } else {
            Err(MetadataError::Trailing)
        }
    }

    pub(super) fn epoch(&mut self) -> Result<LeaderEpoch, MetadataError> {
        checked_epoch(self.u32()?).ok_or(MetadataError::Field("epoch"))
    }

    fn snapshot(&mut self) -> Result<MetadataSnapshot, MetadataError> {
        let next_topic_id = self.u64()?;
        if next_topic_id > COUNTER_MAX {
            return Err(MetadataError::Field("next_topic_id"));
        }
        let epoch_floor = self.epoch()?;
        let count = self.u32()?;
        // Also bounds what the vector below may grow to; it grows only with bytes that are there.
        if count > TOPICS_MAX {
            return Err(MetadataError::Field("topic_count"));
        }
        let mut topics = Vec::new();
        for _ in 0..count {
            topics.push(self.topic()?);
        }
        let mut snapshot =
            MetadataSnapshot { next_topic_id, epoch_floor, topics, ..MetadataSnapshot::default() };
        if self.minor >= MINOR_PRODUCERS {
            snapshot.next_producer = self.u64()?;
            if snapshot.next_producer >= ProducerId::NAMED_BIT {
                return Err(MetadataError::Field("next_producer"));
            }
            let count = self.u32()?;
            if count > PRODUCERS_MAX {
                return Err(MetadataError::Field("producer_count"));
            }
            for _ in 0..count {
                snapshot.producers.push(self.producer()?);
            }
        }
        if self.minor >= MINOR_VOLUMES {
            snapshot.next_volume = self.u32()?;
            let count = self.u32()?;
            if count > VOLUMES_MAX {
                return Err(MetadataError::Field("volume_count"));
            }
            for _ in 0..count {
                snapshot.volumes.push(self.volume()?);
            }
            for _ in 0..self.u32()? {
                snapshot.assignments.push(self.assignment()?);
            }
        }
        Ok(snapshot)
    }

    fn producer(&mut self) -> Result<ProducerMeta, MetadataError> {
        let id = ProducerId::new(self.u64()?);
        let epoch = ProducerEpoch::new(self.u32()?);
        let name_bytes = self.u32()?;
        let name = str::from_utf8(self.bytes(name_bytes)?);
        let name = name.ok().filter(|name| is_producer_name(name));
        let name = name.ok_or(MetadataError::Field("producer_name"))?.to_owned();
        // Not the bits above that one either.
        if !id.is_named() || id.get() >= 2 * ProducerId::NAMED_BIT {
            return Err(MetadataError::Field("producer_id"));
        }
        Ok(ProducerMeta { id, epoch, name })
    }

    fn topic(&mut self) -> Result<TopicMeta, MetadataError> {
        let topic_bytes = self.u32()?;
        let mut body = Body { rest: self.bytes(topic_bytes)?, minor: self.minor };
        let fixed = body.array::<TOPIC_FIXED_BYTES>()?;
        let name = body.bytes(u32_at::<28, _>(fixed))?;
        let segment_age_ms =
            if self.minor >= MINOR_SEGMENT_AGE { body.u64()? } else { SEGMENT_AGE_MS_BEFORE };
        body.end()?;
        let name = str::from_utf8(name).map_err(|_| MetadataError::Field("name"))?;
        check_topic_name(name).map_err(MetadataError::Name)?;
        let partitions = u32_at::<12, _>(fixed);
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(MetadataError::Field("partitions"));
        }
        if u32_at::<84, _>(fixed) != 0 {
            return Err(MetadataError::Field("zero"));
        }
        let flags = u32_at::<24, _>(fixed);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(MetadataError::Field("flags"));
        }
        let optional = |flag: u32, value: u64| match (flags & flag != 0, value) {
            (true, value) => Ok(Some(value)),
            (false, 0) => Ok(None),
            (false, _) => Err(MetadataError::Field("retention")),
        };
        let [durability, cleanup, dedup, compression] = array_at::<20, 4, _>(fixed);
        Ok(TopicMeta {
            id: counter_at::<0, _>(fixed).map(TopicId::new).ok_or(MetadataError::Field("id"))?,
            salt: u32_at::<8, _>(fixed),
            name: name.to_owned(),
            partitions,
            replicas: u16_at::<16, _>(fixed),
            min_insync: u16_at::<18, _>(fixed),
            durability,
            interval_ms: u64_at::<32, _>(fixed),
            retention_ms: optional(HAS_RETENTION_MS, u64_at::<40, _>(fixed))?,
            retention_bytes: optional(HAS_RETENTION_BYTES, u64_at::<48, _>(fixed))?,
            segment_bytes: u64_at::<56, _>(fixed),
            segment_age_ms,
            cleanup,
            dedup,
            dedup_window: u64_at::<64, _>(fixed),
            compression,
            created: i64_at::<72, _>(fixed),
            record_bytes: u32_at::<80, _>(fixed),
            unclean_leader_election: flags & UNCLEAN_ELECTION != 0,
            deleted: flags & DELETED != 0,
        })
    }
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;
