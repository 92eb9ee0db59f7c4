//! One simulated disk for each volume, behind the one that a broker is given.
//!
//! Not here: what happens to them (`faults`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::sim::SimDisk;
use crate::fs::{Disk, DiskFile, DiskLock, Entry, OpenMode, Stat};

/// The folder of a volume.
pub(in crate::broker) fn dir(volume: usize) -> PathBuf {
    PathBuf::from(format!("/{volume}"))
}

/// The disks by the folders that they are mounted at.
#[derive(Debug)]
pub(in crate::broker) struct Disks(pub(in crate::broker) Vec<SimDisk>);

impl Disks {
    fn at(&self, path: &Path) -> io::Result<&SimDisk> {
        let found = (0..self.0.len()).find(|volume| path.starts_with(dir(*volume)));
        found.and_then(|volume| self.0.get(volume)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Of the folder that they are all mounted in: a dead disk has no say in it.
    fn of_any<T>(&self, ask: impl Fn(&SimDisk) -> io::Result<T>) -> io::Result<T> {
        // All of them: each has the names of its own folder.
        let mut answers: Vec<_> = self.0.iter().map(ask).collect();
        let good = answers.iter().position(Result::is_ok);
        answers.swap_remove(good.unwrap_or(0))
    }
}

impl Disk for Disks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.at(path)?.open(path, mode)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.at(path)?.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.at(dir)?.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if path == Path::new("/") {
            return self.of_any(|disk| disk.stat(path));
        }
        self.at(path)?.stat(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.at(path)?.real_path(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(from)?.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(from)?.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at(path)?.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.at(path)?.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if dir == Path::new("/") {
            return self.of_any(|disk| disk.sync_dir(dir));
        }
        self.at(dir)?.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.at(path)?.lock(path)
    }
}
