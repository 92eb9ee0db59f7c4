//! Looking at every byte of a store without changing one.
//!
//! Not here: how a log is looked at (`log::verify`).

use std::io::ErrorKind::NotFound;
use std::path::PathBuf;
use std::sync::Arc;

use crate::broker::Inner;
use crate::error::{Error, Result};
use crate::id::{Offset, PartitionId};
use crate::log::{Closing, Entrance, Findings, Opening, verify_partition};

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
            for partition in &topic.partitions {
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
        Ok(report)
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
