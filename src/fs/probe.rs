//! What a folder's file system can do, found out by trying.
//!
//! Not here: what follows from it. Without allocation or coherence a log writes with `pwrite` only
//! and reads copies (`log`); without directory sync a volume is refused or warned of (`broker`).
//!
//! Failure   whatever happens, the trial file is removed again, unless removing it fails.

use std::io;
use std::path::Path;

use super::disk::{Disk, DiskFile, MapAccess, OpenMode, read_exact_at, write_all_at};

/// The trial file's name.
const PROBE_NAME: &str = ".probe";
const PROBE_BYTES: usize = 8192;

/// What a file system can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Blocks can be reserved ahead.
    pub(crate) allocate: bool,
    /// A mapping and `pread`/`pwrite` see the same bytes at once.
    pub(crate) coherent: bool,
    /// A folder's names can be made durable.
    pub(crate) sync_dir: bool,
}

impl Capabilities {
    /// What every file system can do that anything is stored on.
    pub(crate) const LEAST: Capabilities =
        Capabilities { allocate: false, coherent: false, sync_dir: true };
}

/// Tries a folder's file system.
///
/// What it cannot do is in the answer; an error is a disk that fails at what every disk does:
/// making, writing, reading and removing a file.
pub(crate) fn probe(disk: &dyn Disk, dir: &Path) -> io::Result<Capabilities> {
    let path = dir.join(PROBE_NAME);
    // Left by a process that died while it probed.
    match disk.remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let file = disk.open(&path, OpenMode::CreateNew)?;
    let tried = try_file(&*file);
    drop(file);
    // The removal comes before the trial's own error is looked at.
    let removed = disk.remove_file(&path);
    let (allocate, coherent) = tried?;
    removed?;
    // Last, so that where it works the trial file is gone from the medium too.
    let sync_dir = match disk.sync_dir(dir) {
        Ok(()) => true,
        Err(e) if is_unsupported(&e) => false,
        Err(e) => return Err(e),
    };
    Ok(Capabilities { allocate, coherent, sync_dir })
}

fn try_file(file: &dyn DiskFile) -> io::Result<(bool, bool)> {
    let allocate = match file.allocate(0, PROBE_BYTES as u64) {
        Ok(()) => true,
        Err(e) if is_unsupported(&e) => {
            file.set_len(PROBE_BYTES as u64)?;
            false
        }
        Err(e) => return Err(e),
    };
    // Real blocks under the mapping: on a full disk this is an error here, not a signal below.
    write_all_at(file, &[1; PROBE_BYTES], 0)?;
    let coherent = try_coherence(file)?;
    Ok((allocate, coherent))
}

/// Whether stores and views through a mapping meet `pwrite` and `pread`.
fn try_coherence(file: &dyn DiskFile) -> io::Result<bool> {
    let mut map = match file.map(PROBE_BYTES, 0, 0, MapAccess::Write) {
        Ok(map) => map,
        Err(e) if is_unsupported(&e) => return Ok(false),
        Err(e) => return Err(e),
    };
    map.set_allocated(PROBE_BYTES);
    map.populate_write(0, PROBE_BYTES)?;
    write_all_at(file, b"by pwrite", 100)?;
    map.reserve(4196, 9).copy_from_slice(b"by stores");
    map.publish(PROBE_BYTES);
    let seen = map.mapping().view(100, 9).is_some_and(|view| view.bytes() == b"by pwrite");
    let mut stored = [0; 9];
    read_exact_at(file, &mut stored, 4196)?;
    Ok(seen && &stored == b"by stores")
}

/// Whether an error says that the file system has no such thing, and not that it failed at it.
fn is_unsupported(error: &io::Error) -> bool {
    // EINVAL: fsync of a folder, or a shared mapping, where there is none.
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || error.raw_os_error() == Some(19) // ENODEV: mmap on a file system without it
}
