//! Which volumes a cluster has, and which of them hold a partition's replicas: parts of the
//! metadata's records.
//!
//! Not here: the records themselves (`metadata`), who is to lead (`broker`).
//!
//! ```text
//! volume     := volume_id:u32 standing:u16 failures:u16 unique_id:u64 incarnation:u64
//! assignment := topic_id:u64 partition:u32 epoch:u32 start:u64 leader:u32 replica_count:u32
//!               replica*
//! replica    := volume_id:u32 flags:u32
//! ```
//!
//! | field | meaning |
//! | --- | --- |
//! | `volume_id` | from 1 |
//! | `standing` | 0 live, 1 out of the live set, 2 live and being drained, 3 out, and to be drained |
//! | `failures` | how often it was put out of the live set, up to 65,535 |
//! | `unique_id` | what the volume's own file says: a number tells which, this one that it is it |
//! | `incarnation` | the last one that the cluster has seen of it |
//! | `epoch`, `start` | of the leader: its epoch, and the end of its log when that began |
//! | `leader` | 0 if nobody leads |
//! | `replica*` | in the order of preference, each volume once, at least one |
//! | `flags` | 1 in sync |
//!
//! Damage    as of any metadata record: the batch's CRC finds it.

use super::bytes::narrow;
use super::metadata::{Body, MetadataError};
use crate::id::{Incarnation, LeaderEpoch, Offset, PartitionId, TopicId, VolumeId};

/// Volumes of a cluster, and replicas of a partition.
pub(crate) const VOLUMES_MAX: u32 = 1_024;

// Never renumber.
const LIVE: u16 = 0;
const OUT: u16 = 1;
const DRAINING: u16 = 2;
const OUT_DRAINING: u16 = 3;
const IN_SYNC: u32 = 1;

/// How a volume stands in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Every change of the metadata is on it.
    Live,
    /// It failed, or is missing: it lacks changes.
    Out,
    /// As live, and what it holds is being moved to others.
    Draining,
    /// Out; once it is back, as draining.
    OutDraining,
}

impl Standing {
    pub(crate) fn is_out(self) -> bool {
        matches!(self, Standing::Out | Standing::OutDraining)
    }

    /// The same of one that has failed, or is missing.
    pub(crate) fn out(self) -> Self {
        match self {
            Standing::Live | Standing::Out => Standing::Out,
            Standing::Draining | Standing::OutDraining => Standing::OutDraining,
        }
    }

    /// The same of one that is there.
    pub(crate) fn back(self) -> Self {
        match self {
            Standing::Live | Standing::Out => Standing::Live,
            Standing::Draining | Standing::OutDraining => Standing::Draining,
        }
    }
}

/// A volume as the cluster knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VolumeMeta {
    pub(crate) id: VolumeId,
    pub(crate) standing: Standing,
    /// How often it failed, and the others went on without it.
    pub(crate) failures: u16,
    pub(crate) unique_id: u64,
    pub(crate) incarnation: Incarnation,
}

/// Where a partition's replicas are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Assignment {
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) start: Offset,
    pub(crate) leader: Option<VolumeId>,
    pub(crate) replicas: Vec<Assigned>,
}

/// A replica of an assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Assigned {
    pub(crate) volume: VolumeId,
    pub(crate) in_sync: bool,
}

impl VolumeMeta {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let standing = match self.standing {
            Standing::Live => LIVE,
            Standing::Out => OUT,
            Standing::Draining => DRAINING,
            Standing::OutDraining => OUT_DRAINING,
        };
        out.extend_from_slice(&self.id.get().to_le_bytes());
        out.extend_from_slice(&standing.to_le_bytes());
        out.extend_from_slice(&self.failures.to_le_bytes());
        out.extend_from_slice(&self.unique_id.to_le_bytes());
        out.extend_from_slice(&self.incarnation.get().to_le_bytes());
    }
}

impl Assignment {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        // What is written has to be read again, or the store never opens.
        let is_replica = |leader| self.replicas.iter().any(|it| it.volume == leader);
        assert!(self.leader.is_none_or(is_replica), "a leader that is no replica");
        out.extend_from_slice(&self.topic.get().to_le_bytes());
        out.extend_from_slice(&self.partition.get().to_le_bytes());
        out.extend_from_slice(&self.epoch.get().to_le_bytes());
        out.extend_from_slice(&self.start.get().to_le_bytes());
        out.extend_from_slice(&self.leader.map_or(0, VolumeId::get).to_le_bytes());
        out.extend_from_slice(&narrow(self.replicas.len()).to_le_bytes());
        for Assigned { volume, in_sync } in &self.replicas {
            out.extend_from_slice(&volume.get().to_le_bytes());
            out.extend_from_slice(&(if *in_sync { IN_SYNC } else { 0 }).to_le_bytes());
        }
    }
}

impl Body<'_> {
    pub(super) fn volume_id(&mut self) -> Result<VolumeId, MetadataError> {
        match self.u32()? {
            0 => Err(MetadataError::Field("volume_id")),
            id => Ok(VolumeId::new(id)),
        }
    }

    pub(super) fn volume(&mut self) -> Result<VolumeMeta, MetadataError> {
        let id = self.volume_id()?;
        let standing = match self.u16()? {
            LIVE => Standing::Live,
            OUT => Standing::Out,
            DRAINING => Standing::Draining,
            OUT_DRAINING => Standing::OutDraining,
            _ => return Err(MetadataError::Field("standing")),
        };
        let (failures, unique_id) = (self.u16()?, self.u64()?);
        let incarnation = Incarnation::new(self.u64()?);
        Ok(VolumeMeta { id, standing, failures, unique_id, incarnation })
    }

    pub(super) fn assignment(&mut self) -> Result<Assignment, MetadataError> {
        let (topic, partition) = (TopicId::new(self.u64()?), PartitionId::new(self.u32()?));
        let epoch = self.epoch()?;
        let start = Offset::checked(self.u64()?).ok_or(MetadataError::Field("start"))?;
        let leader = Some(self.u32()?).filter(|id| *id != 0).map(VolumeId::new);
        let count = self.u32()?;
        if count == 0 || count > VOLUMES_MAX {
            return Err(MetadataError::Field("replica_count"));
        }
        let mut replicas: Vec<Assigned> = Vec::new();
        for _ in 0..count {
            let volume = self.volume_id()?;
            let in_sync = match self.u32()? {
                0 => false,
                IN_SYNC => true,
                _ => return Err(MetadataError::Field("flags")),
            };
            if replicas.iter().any(|other| other.volume == volume) {
                return Err(MetadataError::Field("replica"));
            }
            replicas.push(Assigned { volume, in_sync });
        }
        if leader.is_some_and(|leader| replicas.iter().all(|replica| replica.volume != leader)) {
            return Err(MetadataError::Field("leader"));
        }
        Ok(Assignment { topic, partition, epoch, start, leader, replicas })
    }
}
