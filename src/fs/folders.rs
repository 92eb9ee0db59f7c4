//! Syncs of folders that are final: once one has failed, no later one of that folder succeeds,
//! for as long as the volume is open.
//!
//! Not here: what is refused then (`log`, `broker`). Files need no such memory: only their log
//! syncs them, and it halts.
//!
//! A folder is synced by many: `topics` by the first commit of every log and by every deletion of
//! a topic. The kernel tells of names that it could not write once, to one of them, and takes them
//! for written; the next one would acknowledge records in a file whose name a power cut takes.
//!
//! Invariants
//!   1. One sync at a time of a folder, so that none comes to its end between the failure of
//!      another one and this memory of it.
//!   2. A folder that could not be opened was not synced: that may be tried again.
//! Threads   any; `folders` is held for moments, never across a sync.
//! Failure   a repeated failure carries the first one's number, or its kind. A sync that panics
//!           counts as one that failed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, was_not_opened};
use super::layer::Layer;

/// A disk whose folders remember that a sync of theirs failed.
#[derive(Debug)]
pub(crate) struct FinalSyncs {
    disk: Arc<dyn Disk>,
    /// Those that are being synced, or could not be. Lock rank: leaf.
    folders: Mutex<BTreeMap<PathBuf, Folder>>,
    /// Signalled when a sync has ended.
    ended: Condvar,
}

#[derive(Clone, Copy, Debug)]
enum Folder {
    Syncing,
    Failed(Failure),
}

/// What can be told again of an error.
#[derive(Clone, Copy, Debug)]
struct Failure {
    number: Option<i32>,
    kind: io::ErrorKind,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        Self { number: error.raw_os_error(), kind: error.kind() }
    }

    fn error(self) -> io::Error {
        self.number.map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }
}

impl FinalSyncs {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, folders: Mutex::default(), ended: Condvar::new() }
    }

    /// The failure, if a sync of this folder has failed.
    pub(crate) fn check(&self, dir: &Path) -> io::Result<()> {
        match self.folders.lock().get(dir) {
            Some(Folder::Failed(failure)) => Err(failure.error()),
            Some(Folder::Syncing) | None => Ok(()),
        }
    }

    /// Waits until nobody syncs the folder; until the guard is dropped nobody else does.
    fn begin<'a>(&'a self, dir: &'a Path) -> io::Result<Syncing<'a>> {
        let mut folders = self.folders.lock();
        loop {
            match folders.get(dir) {
                None => break,
                Some(Folder::Syncing) => self.ended.wait(&mut folders),
                Some(Folder::Failed(failure)) => return Err(failure.error()),
            }
        }
        folders.insert(dir.to_path_buf(), Folder::Syncing);
        let panicked = Failure { number: None, kind: io::ErrorKind::Other };
        Ok(Syncing { syncs: self, dir, failed: Some(panicked) })
    }
}

/// The sync of one folder.
struct Syncing<'a> {
    syncs: &'a FinalSyncs,
    dir: &'a Path,
    /// What is to be remembered of it.
    failed: Option<Failure>,
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        let mut folders = self.syncs.folders.lock();
        match self.failed {
            Some(failure) => folders.insert(self.dir.to_path_buf(), Folder::Failed(failure)),
            None => folders.remove(self.dir),
        };
        drop(folders);
        self.syncs.ended.notify_all();
    }
}

impl Layer for FinalSyncs {
    fn below(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    fn sync_folder(&self, dir: &Path) -> io::Result<()> {
        let mut syncing = self.begin(dir)?;
        let synced = self.disk.sync_dir(dir);
        syncing.failed = match &synced {
            Err(error) if !was_not_opened(error) => Some(Failure::of(error)),
            _ => None,
        };
        synced
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::fs::sim::{Call, Fault, FaultKind, HowLong, SimDisk};

    fn disk() -> (SimDisk, FinalSyncs) {
        let disk = SimDisk::new();
        for folder in ["a", "b"] {
            disk.create_dir(Path::new(folder)).unwrap();
        }
        (disk.clone(), FinalSyncs::new(Arc::new(disk)))
    }

    fn once(what: FaultKind) -> Fault {
        Fault { at: 1, call: Some(Call::SyncDir), what, how_long: HowLong::Once }
    }

    #[test]
    fn a_failed_sync_of_a_folder_is_told_to_everyone_after_it() {
        let (disk, syncs) = disk();
        let (a, b) = (Path::new("a"), Path::new("b"));
        syncs.sync_dir(a).unwrap();
        disk.arm(once(FaultKind::Eio));
        for _ in 0..3 {
            assert_eq!(syncs.sync_dir(a).unwrap_err().raw_os_error(), Some(libc::EIO));
        }
        assert_eq!(syncs.check(a).unwrap_err().raw_os_error(), Some(libc::EIO));
        syncs.check(b).unwrap();
        syncs.sync_dir(b).unwrap();
    }

    #[test]
    fn a_folder_that_could_not_be_opened_has_not_failed() {
        let (disk, syncs) = disk();
        disk.arm(once(FaultKind::Emfile));
        syncs.sync_dir(Path::new("a")).unwrap_err();
        syncs.sync_dir(Path::new("a")).unwrap();
        let missing = Path::new("c");
        assert_eq!(syncs.sync_dir(missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.create_dir(missing).unwrap();
        syncs.sync_dir(missing).unwrap();
    }

    #[test]
    fn a_folder_is_synced_by_one_at_a_time_and_others_meanwhile() {
        let (disk, syncs) = disk();
        disk.arm(once(FaultKind::StalledSync));
        thread::scope(|scope| {
            let first = scope.spawn(|| syncs.sync_dir(Path::new("a")));
            while disk.stalled() == 0 {
                thread::yield_now();
            }
            let calls = disk.calls();
            let second = scope.spawn(|| syncs.sync_dir(Path::new("a")));
            syncs.sync_dir(Path::new("b")).unwrap();
            assert_eq!(disk.calls(), calls + 1, "the second one of a folder waits");
            disk.release_stalls();
            first.join().unwrap().unwrap();
            second.join().unwrap().unwrap();
        });
    }
}
