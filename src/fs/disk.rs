//! The door to the operating system: what the library asks of a disk, as two traits.
//!
//! Not here: how it is done. [`os`](super::os) is the real disk, [`sim`](super::sim) one in
//! memory that crashes, tears, fails, fills and rots on command. What is stored is `format`'s
//! matter; what an error means is `log`'s and `broker`'s.
//!
//! Contract
//!   1. A write is in the page cache when `write_at` returns and on the medium when a later
//!      `sync_data` of the same file has returned `Ok`. The same holds for lengths.
//!   2. A created, linked, renamed or removed name is on the medium when a later `sync_dir` of its
//!      folder has returned `Ok`.
//!   3. A failed sync says nothing about which writes reached the medium, and a second sync that
//!      succeeds says nothing about them either: callers never retry one. Of a folder, which
//!      several callers sync, [`folders`](super::folders) sees to that.
//!   4. Reads and mappings of a file see its page cache: they are coherent with `write_at`.
//!
//! Threads   every method may be called from any thread.
//! Failure   errors are the operating system's, with `raw_os_error` where there is one.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::MapWriter;

/// How a file is opened. Symbolic links are never followed, and what is not a regular file is
/// refused with `InvalidInput`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// An existing file, to read only.
    Read,
    /// The same from the medium, past the page cache, where the file system can: then reads are of
    /// whole pages into page-aligned memory, and others are `InvalidInput`.
    ReadMedium,
    /// An existing file, to read and write.
    ReadWrite,
    /// A new file, to read and write; `AlreadyExists` if the name is taken. Mode 0600.
    CreateNew,
}

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// Anything else, symbolic links included.
    Other,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name, without its folder. Names that are not UTF-8 come with replacement characters,
    /// which no name of ours has.
    pub(crate) name: String,
    /// What it stands for.
    pub(crate) kind: EntryKind,
}

/// What `stat` tells of a name, symbolic links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: EntryKind,
    pub(crate) bytes: u64,
    /// Device and inode: the same file has the same pair.
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapAccess {
    /// To read published bytes only; writes go through `write_at`.
    Read,
    /// To write through [`MapWriter::reserve`] too.
    Write,
}

/// A held lock. Dropping it releases it; so does the end of the process.
pub(crate) trait DiskLock: Debug + Send + Sync {
    /// Device and inode of the locked file, to see whether its path still leads to it.
    fn stat(&self) -> io::Result<Stat>;
    /// Releases it at once, also where a child process has inherited the file. Not for such a
    /// child: it would release its parent's lock.
    fn unlock(&self) -> io::Result<()>;
}

/// A file system.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a folder, mode 0700; `AlreadyExists` if the name is taken.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// What a name stands for.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// The absolute path, without symbolic links, of what a name stands for; the current folder's
    /// if the path is empty.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf>;
    /// Gives a file another name in the same folder, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file one more name, in any folder of its file system; `AlreadyExists` if it is
    /// taken. An error that is not `NotFound` may mean that the file system has no such names.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Open files and mappings of it stay good.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file, made if absent; `WouldBlock` while another open holds
    /// it, in this process or any other.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Reads at `position`; like `pread`, fewer bytes than asked for at the file's end, 0 past it.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes at `position`; like `pwrite`, may write fewer bytes than given.
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize>;
    /// Reserves blocks for `bytes` from `from` on and grows the file to cover them; what is new
    /// reads as zeros. `Unsupported` where the file system cannot.
    fn allocate(&self, from: u64, bytes: u64) -> io::Result<()>;
    /// Cuts or (sparsely) grows the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Makes the file's bytes, and the length needed to read them, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// How many names the file has: 0 once it was removed.
    fn links(&self) -> io::Result<u64>;
    /// Maps `bytes` from the file's start, also beyond its end (what lies beyond must be allocated
    /// before it is touched). Only `readable_from..published` may be viewed at first; the writer
    /// moves the end on.
    fn map(
        &self,
        bytes: usize,
        readable_from: usize,
        published: usize,
        access: MapAccess,
    ) -> io::Result<MapWriter>;
}

/// Whether an error says that the process, or the system, has no descriptor left: nothing is wrong
/// with the disk, and the same call may succeed in a moment. Only what opens something fails so.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    // ERROR_TOO_MANY_OPEN_FILES
    const WINDOWS: i32 = 4;
    match error.raw_os_error() {
        Some(ENFILE | EMFILE) => cfg!(unix),
        Some(WINDOWS) => cfg!(windows),
        _ => false,
    }
}

/// Whether a `sync_dir` that failed never came to the sync, as the folder could not be opened.
pub(super) fn was_not_opened(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    is_out_of_descriptors(error)
        || matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// Reads exactly `buf.len()` bytes; `UnexpectedEof` if the file ends before.
pub(crate) fn read_exact_at(file: &dyn DiskFile, buf: &mut [u8], position: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], position + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of `buf`, going on after short writes. A write of nothing is `WriteZero`.
///
/// After an error any part of the range may have been written.
pub(crate) fn write_all_at(file: &dyn DiskFile, buf: &[u8], position: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.write_at(&buf[done..], position + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
