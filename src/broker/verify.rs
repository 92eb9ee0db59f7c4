//! Looking at every byte of a store without changing one.
//!
//! Not here: how a log is looked at (`log::verify`).

use std::io::ErrorKind::NotFound;
use std::path::PathBuf;
use std::sync::Arc;

use crate::broker::Inner;
use crate::broker::metadata::read_all;
use crate::broker::volume::Volume;
use crate::error::{Error, Result};
use crate::id::{Offset, PartitionId};
use crate::log::{Closing, Entrance, Findings, Log, Opening, verify_partition};
use crate::partition::{Partition, first_difference};

/// What the metadata's logs are called.
const METADATA_NAME: &str = "__metadata";
/// How often a log is looked at in which faults seem to be, while others may be changing it.
const LOOKS_MAX: u32 = 3;

/// Something in a store that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyFault {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub position: u64,
    /// The first unreadable offset and the one after the last, if records are lost by it.
    pub offsets: Option<(Offset, Offset)>,
    /// What was found.
    pub what: &'static str,
}

/// What `Admin::verify` found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Everything that is not as it was written.
    pub faults: Vec<VerifyFault>,
    /// Half-written tails that the next open cuts off, with the file and the position. No fault.
    pub tails: Vec<(PathBuf, u64)>,
    /// Good records.
    pub records: u64,
    /// Segment files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// The first offsets at which a replica in sync does not hold what the leader does.
fn differing(topic: &Arc<str>, partition: &Partition) -> Result<Vec<VerifyFault>> {
    let committed = partition.high_watermark();
    let isr = partition.standing().map(|standing| standing.isr).unwrap_or_default();
    let mut faults = Vec::new();
    for replica in isr.iter().filter_map(|volume| partition.on(*volume)) {
        if Arc::ptr_eq(&replica.log, partition.log()) {
            continue;
        }
        if let Some(offsets) = first_difference(partition.log(), &replica.log, committed)? {
            faults.push(VerifyFault {
                topic: Arc::clone(topic),
                partition: replica.log.place.partition(),
                file: replica.log.place.dir.clone(),
                position: 0,
                offsets: Some(offsets),
                what: "a replica in sync does not hold what its leader does",
            });
        }
    }
    Ok(faults)
}

impl Inner {
    /// Reads every byte of every topic.
    pub(crate) fn verify(&self) -> Result<VerifyReport> {
        self.check_fork()?;
        let mut report = VerifyReport::default();
        for volume in self.volumes() {
            // Twice: who writes a copy at this moment does not for long.
            let damaged = match volume.look()?.damaged {
                Some(_) => volume.look()?.damaged,
                None => None,
            };
            report.faults.extend(damaged.map(|(file, position)| VerifyFault {
                topic: Arc::from("__volume"),
                partition: PartitionId::new(0),
                file,
                position,
                offsets: None,
                what: "a copy of what the volume says of itself is damaged",
            }));
        }
        for topic in self.topic_states() {
            for replica in topic.partitions.iter().flat_map(|partition| partition.replicas()) {
                let Some(member) = self.member(replica.volume).filter(|it| !it.is_gone()) else {
                    // Where it is nobody can look.
                    continue;
                };
                let opening = replica.log.opening_read_only();
                let found = verify_log(&member.volume, &opening)?;
                if !found.faults.is_empty() && self.is_deleted(&topic) {
                    // Its files were going, or are gone.
                    break;
                }
                report.add(&topic.name, opening.place.partition(), found);
            }
            for partition in topic.partitions.iter() {
                report.faults.extend(differing(&topic.name, partition)?);
            }
        }
        for (volume, log) in self.metadata_logs() {
            let opening = log.opening_read_only();
            let found = verify_log(volume, &opening)?;
            report.add(&opening.place.topic, opening.place.partition(), found);
        }
        if report.faults.iter().all(|fault| &*fault.topic != METADATA_NAME) {
            report.faults.extend(self.verify_copies()?);
        }
        Ok(report)
    }

    /// Whether the copies of the metadata, each of which is good, hold the same records. Where a
    /// live broker may be changing them, or a crash fell between the two, one may be ahead.
    fn verify_copies(&self) -> Result<Option<VerifyFault>> {
        let mut differing = None;
        for _ in 0..LOOKS_MAX {
            differing = self.differing_copies()?;
            if differing.is_none() {
                break;
            }
        }
        Ok(differing)
    }

    fn differing_copies(&self) -> Result<Option<VerifyFault>> {
        let mut left = Vec::new();
        for volume in self.volumes() {
            left.push(volume.look()?.entrance);
        }
        let unclean = left.contains(&Entrance::Unclean);
        let mut copies: Vec<SeenCopy> = Vec::new();
        for (volume, log) in self.metadata_logs() {
            let opening = log.opening_read_only();
            let (seen, _) = Log::open_beside(&opening, volume.look()?.entrance)?;
            let Some(records) = read_all(&seen) else { return Ok(None) };
            copies.push(SeenCopy { opening, seen, records });
        }
        let Some((first, others)) = copies.split_first() else { return Ok(None) };
        // A change is made in one copy after the other.
        let shorter = others.iter().find_map(|other| first.differing(other, unclean));
        Ok(shorter.map(|copy| VerifyFault {
            topic: Arc::from(METADATA_NAME),
            partition: copy.opening.place.partition(),
            file: copy.opening.place.dir.clone(),
            position: 0,
            offsets: None,
            what: "the copies of the metadata do not hold the same",
        }))
    }
}

/// A copy of the metadata as it is on the disk.
struct SeenCopy {
    opening: Opening,
    seen: Arc<Log>,
    records: Vec<(Offset, Vec<u8>)>,
}

impl SeenCopy {
    /// The shorter one, if this and another one do not hold the same; the last change may be in one
    /// only where a live broker, or a crash, is in between.
    fn differing<'c>(&'c self, other: &'c Self, unclean: bool) -> Option<&'c Self> {
        let starts = [self, other].map(|copy| copy.seen.start_offset());
        let ends = [self, other].map(|copy| copy.seen.end_offset());
        let (from, to) = (starts[0].max(starts[1]), ends[0].min(ends[1]));
        let common = |copy: &'c Self| {
            copy.records.iter().filter(move |(offset, _)| (from..to).contains(offset))
        };
        let ahead = ends[0].get().abs_diff(ends[1].get());
        let starts_differ = !unclean && starts[0] != starts[1];
        if ahead <= u64::from(unclean) && !starts_differ && common(self).eq(common(other)) {
            return None;
        }
        Some(if ends[0] < ends[1] { self } else { other })
    }
}

/// Reads every byte of a log. Where a live broker may be changing it, what a look finds counts
/// only if another one finds it too: 1. the names, the footers and the slots are read; 2. the
/// broker's first append cuts a closing footer off, or it seals or deletes a file; 3. the
/// bytes are read, and do not fit what was read before. Damage stays where it is.
fn verify_log(volume: &Volume, opening: &Opening) -> Result<Findings> {
    let mut before: Option<(u64, Findings)> = None;
    for look in 1..=LOOKS_MAX {
        let left = volume.look()?;
        let (entrance, closing) = if look == LOOKS_MAX {
            // Brokers come and go all the time.
            (Entrance::Unclean, Closing::LeftOut)
        } else {
            (left.entrance, Closing::Checked)
        };
        let mut found = match verify_partition(opening, entrance, closing) {
            Err(Error::Incompatible { path, .. }) => {
                Findings::refused(path.to_path_buf(), "written by a newer version")
            }
            Err(Error::Damaged(damage)) => Findings::refused(damage.path, damage.what),
            // Deleted after it was listed.
            Err(Error::Io(failure)) if failure.source.kind() == NotFound && look < LOOKS_MAX => {
                continue;
            }
            found => found?,
        };
        let still = volume.look()?.sequence == left.sequence;
        if found.faults.is_empty() || (still && left.entrance != Entrance::Unclean) {
            // Nothing to confirm, or nobody had the store open.
            return Ok(found);
        }
        if let Some((sequence, earlier)) = &before
            && (look == LOOKS_MAX || (still && *sequence == left.sequence))
        {
            found.confirm(earlier);
            return Ok(found);
        }
        before = Some((left.sequence, found));
    }
    Ok(before.map(|(_, found)| found).unwrap_or_default())
}

impl VerifyReport {
    fn add(&mut self, topic: &Arc<str>, partition: PartitionId, found: Findings) {
        self.faults.extend(found.faults.into_iter().map(|fault| VerifyFault {
            topic: Arc::clone(topic),
            partition,
            file: fault.path,
            position: fault.position,
            offsets: fault.offsets,
            what: fault.what,
        }));
        self.tails.extend(found.tails);
        self.records += found.records;
        self.files += found.files;
        self.bytes += found.bytes;
    }
}
