//! Opening the store: to change it, or to look at it.
//!
//! Commands that only look read on, with a note, where another process holds the lock.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plimsoll::{Broker, BrokerBuilder, Error};

use crate::output::{Ending, Fail, Result, tell, tell_findings, tell_tails};

/// Where the store is.
pub(crate) struct Store<'a> {
    volumes: &'a [PathBuf],
}

impl<'a> Store<'a> {
    pub(crate) fn new(volumes: &'a [PathBuf]) -> Self {
        Self { volumes }
    }

    /// Refuses more replicas than volumes could hold, before anything is made.
    pub(crate) fn must_have_room_for(&self, replicas: Option<u16>) -> Result<()> {
        let volumes = self.volumes.len();
        match replicas {
            Some(replicas) if usize::from(replicas) > volumes => {
                Err(Fail::TooFewVolumes { replicas, volumes })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn builder(&self) -> BrokerBuilder {
        Broker::builder().volumes(self.volumes).create_if_missing(false)
    }

    /// To change it; made if there is none.
    pub(crate) fn open_or_create(&self) -> Result<Broker> {
        open_to_write(self.builder().create_if_missing(true), None)
    }

    /// To change it.
    pub(crate) fn open(&self) -> Result<Broker> {
        open_to_write(self.builder(), None)
    }

    /// To mend it: the metadata too, if no copy of it is good.
    pub(crate) fn open_to_repair(&self) -> Result<Broker> {
        open_to_write(self.builder().rebuild_metadata(true), None)
    }

    /// To look at it. Damage in the topic that is to be read is left to the reading to tell.
    pub(crate) fn open_to_look(&self, to_read: Option<&str>) -> Result<Broker> {
        match open_to_write(self.builder(), to_read) {
            Err(locked @ Fail::Library(Error::Locked { .. })) => {
                tell(format_args!("note: {locked}; reading what is known to be durable"));
                self.open_beside(to_read)
            }
            opened => opened,
        }
    }

    /// To look at it beside whoever changes it: takes no lock. What is being written may look like
    /// a torn tail, so of tails nothing is told.
    pub(crate) fn open_beside(&self, to_read: Option<&str>) -> Result<Broker> {
        let broker = self.builder().read_only(true).open()?;
        tell_findings(broker.recovery(), to_read);
        Ok(broker)
    }

    /// To look at every byte as it is: even a torn tail stays.
    pub(crate) fn open_untouched(&self) -> Result<Broker> {
        let broker = self.builder().read_only(true).open()?;
        if self.volumes.iter().any(|dir| is_held(dir)) {
            tell(
                "note: the store is locked by another process; reading what is known to be durable",
            );
        }
        Ok(broker)
    }
}

fn open_to_write(builder: BrokerBuilder, to_read: Option<&str>) -> Result<Broker> {
    let broker = builder.open()?;
    tell_tails(broker.recovery());
    tell_findings(broker.recovery(), to_read);
    Ok(broker)
}

/// Closes a store that was changed.
pub(crate) fn end_change(broker: Broker) -> Result<Ending> {
    broker.close()?;
    Ok(Ending::Done)
}

/// Closes a store that was looked at: what was asked for is done, whether this succeeds or not.
pub(crate) fn end_look(broker: Broker) {
    if let Err(error) = broker.close() {
        tell(format_args!("warning: could not close the store: {error}"));
    }
}

/// Whether another process holds a volume's lock, as the kernel lists its locks. To try the lock
/// instead would refuse whoever opens the store at that moment.
fn is_held(dir: &Path) -> bool {
    let inode = fs::metadata(dir.join("LOCK")).map(|file| file.ino());
    let locks = fs::read_to_string("/proc/locks");
    matches!((inode, locks), (Ok(inode), Ok(locks)) if lists(&locks, inode))
}

/// Whether `/proc/locks` has an exclusive flock of this inode. A line is
/// `1: FLOCK  ADVISORY  WRITE 812 08:02:131132 0 EOF`; the device is not compared, as layered file
/// systems show another one to `stat`.
fn lists(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is = |word: Option<&str>, what| word == Some(what);
        is(words.next(), "FLOCK")
            && is(words.nth(1), "WRITE")
            && words.nth(1).and_then(|place| place.rsplit(':').next())
                == Some(inode.to_string().as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let locks = "1: POSIX  ADVISORY  WRITE 700 08:02:77 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 812 08:02:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 812 08:02:79 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 813 08:02:80 0 EOF\n\
                     4: FLOCK\n\n";
        assert!(lists(locks, 79));
        for inode in [7, 9, 77, 78, 80, 812] {
            assert!(!lists(locks, inode), "{inode}");
        }
    }
}
