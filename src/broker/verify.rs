//! Looking at every byte of a store without changing one.
//!
//! Not here: how a log is looked at (`log::verify`).

use std::path::PathBuf;
use std::sync::Arc;

use crate::broker::Inner;
use crate::error::{Error, Result};
use crate::id::{Offset, PartitionId};
use crate::log::{Findings, verify_partition};

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
        let (left, damaged) = self.volume().look()?;
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
                let found = match verify_partition(&opening, left) {
                    Err(Error::Incompatible { path, .. }) => {
                        Findings::refused(path.to_path_buf(), "written by a newer version")
                    }
                    Err(Error::Damaged(damage)) => Findings::refused(damage.path, damage.what),
                    found => found?,
                };
                report.add(&topic.name, opening.place.partition(), found);
            }
        }
        for log in self.metadata_logs() {
            let opening = log.opening_read_only();
            let found = verify_partition(&opening, left)?;
            report.add(&opening.place.topic, opening.place.partition(), found);
        }
        Ok(report)
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
