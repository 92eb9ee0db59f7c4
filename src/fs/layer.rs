//! A disk over another one, of which it changes a call or two.
//!
//! Not here: what they change (`folders`, and disks of tests).

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, DiskLock, Entry, OpenMode, Stat};
#[cfg(test)]
use super::{MapAccess, MapWriter};

/// Passes every call on that it does not change.
pub(crate) trait Layer: Debug + Send + Sync {
    /// The disk below.
    fn below(&self) -> &dyn Disk;

    /// Comes before every call.
    fn before(&self) {}

    /// A file was opened.
    fn opened(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        file
    }

    /// A lock was taken.
    fn locked(&self, lock: Box<dyn DiskLock>) -> Box<dyn DiskLock> {
        lock
    }

    /// What [`Disk::sync_dir`] does.
    fn sync_folder(&self, dir: &Path) -> io::Result<()> {
        self.below().sync_dir(dir)
    }
}

impl<L: Layer> Disk for L {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.before();
        self.below().open(path, mode).map(|file| self.opened(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.before();
        self.below().create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.before();
        self.below().list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.before();
        self.below().stat(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.before();
        self.below().real_path(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before();
        self.below().rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before();
        self.below().hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.before();
        self.below().remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.before();
        self.below().remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.before();
        self.sync_folder(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.before();
        self.below().lock(path).map(|lock| self.locked(lock))
    }
}

/// The same for a file.
#[cfg(test)]
pub(crate) trait FileLayer: Debug + Send + Sync {
    /// The file below.
    fn below(&self) -> &dyn DiskFile;

    /// Comes before every call.
    fn before(&self) {}

    /// So much was read.
    fn read(&self, _bytes: usize) {}

    /// Comes before a call that makes the file longer or shorter.
    fn before_set_len(&self) {}

    /// What [`DiskFile::sync_data`] does.
    fn sync_bytes(&self) -> io::Result<()> {
        self.below().sync_data()
    }
}

#[cfg(test)]
impl<L: FileLayer> DiskFile for L {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.before();
        let bytes = self.below().read_at(buf, position)?;
        self.read(bytes);
        Ok(bytes)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.before();
        self.below().write_at(buf, position)
    }

    fn allocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        self.before();
        self.below().allocate(from, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.before();
        self.before_set_len();
        self.below().set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.before();
        self.below().len()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.before();
        self.sync_bytes()
    }

    fn links(&self) -> io::Result<u64> {
        self.before();
        self.below().links()
    }

    fn map(
        &self,
        bytes: usize,
        readable_from: usize,
        published: usize,
        access: MapAccess,
    ) -> io::Result<MapWriter> {
        self.before();
        self.below().map(bytes, readable_from, published, access)
    }
}
