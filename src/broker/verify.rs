//! Looking at every byte of a store without changing one.
//!
//! Not here: how a log is looked at (`log::verify`).

use std::io::ErrorKind::NotFound;
use std::path::PathBuf;
use std::sync::Arc;

use crate::broker::Inner;
use crate::broker::metadata::read_all;
use crate::error::{Error, Result};
use crate::id::{Offset, PartitionId};
use crate::log::{Closing, Entrance, Findings, Log, Opening, verify_partition};

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

impl Inner {
    /// Reads every byte of every topic.
    pub(crate) fn verify(&self) -> Result<VerifyReport> {
        self.check_fork()?;
        let mut report = VerifyReport::default();
        // Twice: who writes a copy at this moment does not for long.
        let damaged = match self.volume().look()?.damaged {
            Some(_) => self.volume().look()?.damaged,
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
        for topic in self.topic_states() {
            for partition in topic.partitions.iter() {
                let opening = partition.log().opening_read_only();
                let found = self.verify_log(&opening)?;
                if !found.faults.is_empty() && self.is_deleted(&topic) {
                    // Its files were going, or are gone.
                    break;
                }
                report.add(&topic.name, opening.place.partition(), found);
            }
        }
        for log in self.metadata_logs() {
            let opening = log.opening_read_only();
            let found = self.verify_log(&opening)?;
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
            let left = self.volume().look()?.entrance;
            differing = self.differing_copies(left)?;
            if differing.is_none() {
                break;
            }
        }
        Ok(differing)
    }

    fn differing_copies(&self, left: Entrance) -> Result<Option<VerifyFault>> {
        let logs = self.metadata_logs();
        let [first, second] = &logs[..] else { return Ok(None) };
        let mut copies = Vec::new();
        for log in [first, second] {
            let opening = log.opening_read_only();
            let dir = opening.place.dir.clone();
            let (seen, _) = Log::open_beside(&opening, left)?;
            let Some(records) = read_all(&seen) else { return Ok(None) };
            copies.push((opening.place.partition(), dir, seen, records));
        }
        let [one, other] = &copies[..] else { return Ok(None) };
        let (starts, ends) = (
            [one.2.start_offset(), other.2.start_offset()],
            [one.2.end_offset(), other.2.end_offset()],
        );
        let from = starts[0].max(starts[1]);
        let common = |copy: &(_, _, _, Vec<(Offset, Vec<u8>)>)| {
            let to = ends[0].min(ends[1]);
            let of = copy.3.iter().filter(|(offset, _)| (from..to).contains(offset));
            of.cloned().collect::<Vec<_>>()
        };
        let ahead = ends[0].get().abs_diff(ends[1].get());
        // A change is made in one copy after the other.
        let may_be_ahead = u64::from(left == Entrance::Unclean);
        let starts_differ = left != Entrance::Unclean && starts[0] != starts[1];
        if ahead <= may_be_ahead && !starts_differ && common(one) == common(other) {
            return Ok(None);
        }
        let shorter = if ends[0] < ends[1] { one } else { other };
        Ok(Some(VerifyFault {
            topic: Arc::from(METADATA_NAME),
            partition: shorter.0,
            file: shorter.1.clone(),
            position: 0,
            offsets: None,
            what: "the copies of the metadata do not hold the same",
        }))
    }

    /// Reads every byte of a log. Where a live broker may be changing it, what a look finds counts
    /// only if another one finds it too: 1. the names, the footers and the slots are read; 2. the
    /// broker's first append cuts a closing footer off, or it seals or deletes a file; 3. the
    /// bytes are read, and do not fit what was read before. Damage stays where it is.
    fn verify_log(&self, opening: &Opening) -> Result<Findings> {
        let mut before: Option<(u64, Findings)> = None;
        for look in 1..=LOOKS_MAX {
            let left = self.volume().look()?;
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
                Err(Error::Io(failure))
                    if failure.source.kind() == NotFound && look < LOOKS_MAX =>
                {
                    continue;
                }
                found => found?,
            };
            let still = self.volume().look()?.sequence == left.sequence;
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
