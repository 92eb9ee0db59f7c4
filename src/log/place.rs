//! Whose log this is: the identity in every checksum, and the names in every error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Corruption, Error};
use crate::format::Identity;
use crate::id::{Offset, PartitionId};

/// The topic, partition and folder of a log.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) topic: Arc<str>,
    pub(crate) identity: Identity,
    /// `<volume>/topics/<topic>-<id>/<partition>`.
    pub(crate) dir: PathBuf,
}

impl Place {
    pub(crate) fn partition(&self) -> PartitionId {
        self.identity.partition()
    }

    pub(crate) fn corrupt(
        &self,
        first: Offset,
        end: Offset,
        file: &Path,
        position: u64,
        what: &'static str,
    ) -> Error {
        Error::Corrupt(Arc::new(Corruption {
            topic: Arc::clone(&self.topic),
            partition: self.partition(),
            first,
            end,
            file: file.to_path_buf(),
            position,
            what,
        }))
    }
}
