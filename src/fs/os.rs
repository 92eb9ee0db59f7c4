//! The real disk.
//!
//! Not here: retries, and what an error means. Each method is one system call, or the few that it
//! takes to refuse what must not be opened.
//!
//! Invariants
//!   1. No symbolic link is followed at a path's last name, and every descriptor is closed on exec.
//!   2. Dropping a lock closes its file and calls no unlock: in a forked child that call would
//!      release the parent's lock. Whoever knows that it is no such child unlocks.
//!
//! Threads   any; there is no state but the descriptors.
//! Failure   the system's error as it is, but for what `disk` promises by kind.

#![expect(clippy::disallowed_methods, reason = "this is the door that they are kept behind")]
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "std has no fallocate: it is called through libc")
)]

use std::fs::{self, DirBuilder, File, FileType, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::MmapOptions;

use super::disk::{Disk, DiskFile, DiskLock, Entry, EntryKind, MapAccess, OpenMode, Stat};
use super::map::{MapWriter, Region};

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadMedium => {
                if let Some(file) = open_direct(path)? {
                    return Ok(Arc::new(OsFile { file }));
                }
            }
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(OsFile { file: open_regular(&mut options, path)? }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        sys::private_dir(&mut builder);
        builder.create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = fs::read_dir(dir)?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok(Entry { name, kind: entry_kind(entry.file_type()?) })
            })
            .collect::<io::Result<Vec<_>>>()?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        fs::symlink_metadata(path).map(|metadata| stat_of(&metadata))
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(or_current(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sys::sync_dir(or_current(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_regular(&mut options, path)?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Box::new(OsLock { file })),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, e))
            }
            Err(e) => Err(e),
        }
    }
}

/// A lock file, locked while it is open (invariant 2).
#[derive(Debug)]
struct OsLock {
    file: File,
}

impl DiskLock for OsLock {
    fn stat(&self) -> io::Result<Stat> {
        self.file.metadata().map(|metadata| stat_of(&metadata))
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(&self.file)
    }
}

#[derive(Debug)]
struct OsFile {
    file: File,
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        sys::read_at(&self.file, buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        sys::write_at(&self.file, buf, position)
    }

    fn allocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        let before = self.len()?;
        sys::allocate(&self.file, from, bytes).inspect_err(|_| {
            // ext4 keeps what it found before the disk was full, at the end of a longer file.
            if self.len().is_ok_and(|now| now > before) {
                let _ = self.file.set_len(before);
            }
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn links(&self) -> io::Result<u64> {
        sys::links(&self.file)
    }

    fn map(
        &self,
        bytes: usize,
        readable_from: usize,
        published: usize,
        access: MapAccess,
    ) -> io::Result<MapWriter> {
        if readable_from > published || published > bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut options = MmapOptions::new();
        options.len(bytes);
        let map = match access {
            MapAccess::Read => options.map_raw_read_only(&self.file)?,
            MapAccess::Write => {
                let map = options.map_raw(&self.file)?;
                // Large pages in the cache: populating 64 MiB ahead of the tail took 10 ms instead
                // of 60 (Linux 6.18, ext4, file grown by 4 MiB at a time). Only advice.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                map
            }
        };
        Ok(MapWriter::new(Region::Os(map), readable_from, published, access))
    }
}

/// An empty path is what `Path::parent` gives for a name in the current folder.
fn or_current(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Opens a file without following a symbolic link, and only if it is a regular one.
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    sys::open_safely(options);
    open_prepared(options, path)
}

/// The same past the page cache; `None` where the file system has no such thing.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true);
    if !sys::pass_cache(&mut options) {
        return Ok(None);
    }
    match open_prepared(&options, path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(e) => Err(e),
    }
}

fn open_prepared(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.open(path).map_err(|e| {
        let refused = sys::is_refused_link(&e) || e.kind() == io::ErrorKind::IsADirectory;
        if refused { io::Error::new(io::ErrorKind::InvalidInput, e) } else { e }
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

fn entry_kind(file_type: FileType) -> EntryKind {
    if file_type.is_file() {
        EntryKind::File
    } else if file_type.is_dir() {
        EntryKind::Dir
    } else {
        EntryKind::Other
    }
}

fn stat_of(metadata: &Metadata) -> Stat {
    let (device, inode) = sys::identity(metadata);
    Stat { kind: entry_kind(metadata.file_type()), bytes: metadata.len(), device, inode }
}

#[cfg(unix)]
mod sys {
    //! What std offers on Unix only, and `fallocate`.

    use std::fs::{DirBuilder, File, Metadata, OpenOptions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
    use std::path::Path;

    pub(super) fn open_safely(options: &mut OpenOptions) {
        // O_NONBLOCK: opening a pipe that lies where a file should must not wait for its writer.
        // It means nothing for a regular file.
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    }

    /// [`open_safely`], past the page cache. False where there is no such thing.
    pub(super) fn pass_cache(options: &mut OpenOptions) -> bool {
        open_safely(options);
        #[cfg(target_os = "linux")]
        options
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT);
        cfg!(target_os = "linux")
    }

    pub(super) fn is_refused_link(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::ELOOP)
    }

    pub(super) fn private_dir(builder: &mut DirBuilder) {
        builder.mode(0o700);
    }

    pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC);
        options.open(dir)?.sync_all()
    }

    pub(super) fn read_at(file: &File, buf: &mut [u8], position: u64) -> io::Result<usize> {
        file.read_at(buf, position)
    }

    pub(super) fn write_at(file: &File, buf: &[u8], position: u64) -> io::Result<usize> {
        file.write_at(buf, position)
    }

    /// Asks for nothing but the number of links. Who asks for the times as well makes the next
    /// write take a time of its own, so that each sync writes the inode too: with it, a sync of 100
    /// bytes sent 8.2 KiB to the device instead of 4.3, and took half as long again (Linux 6.18,
    /// ext4; the kernel's Documentation/filesystems/multigrain-ts.rst).
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    pub(super) fn links(file: &File) -> io::Result<u64> {
        use std::os::fd::AsRawFd;

        let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: statx needs an open descriptor, which `file` holds for the call's time; a path
        // that ends in a zero, which the literal does; and room for the answer, which `found` is.
        let result = unsafe {
            libc::statx(
                file.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_NLINK,
                found.as_mut_ptr(),
            )
        };
        if result != 0 {
            // A kernel before 4.11 does not have the call, and a sandbox may refuse it with any
            // error (those of containers say EPERM, or ENOSYS). Where it is the file that fails,
            // this fails too.
            return file.metadata().map(|metadata| metadata.nlink());
        }
        // SAFETY: assume_init needs an initialised value: zeros are one for its integers, and the
        // kernel has filled it in.
        let found = unsafe { found.assume_init() };
        Ok(u64::from(found.stx_nlink))
    }

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    pub(super) fn links(file: &File) -> io::Result<u64> {
        file.metadata().map(|metadata| metadata.nlink())
    }

    pub(super) fn identity(metadata: &Metadata) -> (u64, u64) {
        (metadata.dev(), metadata.ino())
    }

    #[cfg(target_os = "linux")]
    pub(super) fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let too_big = |_| io::Error::from_raw_os_error(libc::EFBIG);
        let from = libc::off64_t::try_from(from).map_err(too_big)?;
        let bytes = libc::off64_t::try_from(bytes).map_err(too_big)?;
        loop {
            // SAFETY: fallocate64 needs an open descriptor, which `file` holds for the call's
            // time; it touches no memory of ours.
            let result = unsafe { libc::fallocate64(file.as_raw_fd(), 0, from, bytes) };
            if result == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // EOPNOTSUPP and ENOSYS already are of the kind `Unsupported`, number included.
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(windows)]
mod sys {
    //! The nearest that Windows has. Folders cannot be synced there: `Unsupported`.

    use std::fs::{DirBuilder, File, Metadata, OpenOptions};
    use std::io;
    use std::os::windows::fs::{FileExt, OpenOptionsExt};
    use std::path::Path;

    /// `FILE_FLAG_OPEN_REPARSE_POINT`: a link is opened itself, and then refused as no file.
    const OPEN_LINK_ITSELF: u32 = 0x0020_0000;

    pub(super) fn open_safely(options: &mut OpenOptions) {
        options.custom_flags(OPEN_LINK_ITSELF);
    }

    pub(super) fn pass_cache(_: &mut OpenOptions) -> bool {
        false
    }

    pub(super) fn is_refused_link(_: &io::Error) -> bool {
        false
    }

    pub(super) fn private_dir(_: &mut DirBuilder) {}

    pub(super) fn sync_dir(_: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn read_at(file: &File, buf: &mut [u8], position: u64) -> io::Result<usize> {
        match file.seek_read(buf, position) {
            // ERROR_HANDLE_EOF
            Err(e) if e.raw_os_error() == Some(38) => Ok(0),
            result => result,
        }
    }

    pub(super) fn write_at(file: &File, buf: &[u8], position: u64) -> io::Result<usize> {
        file.seek_write(buf, position)
    }

    /// Not told by stable std: a file counts as linked.
    pub(super) fn links(_: &File) -> io::Result<u64> {
        Ok(1)
    }

    /// Not told by stable std: all files look the same, so a moved lock file is not noticed.
    pub(super) fn identity(_: &Metadata) -> (u64, u64) {
        (0, 0)
    }

    pub(super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::disk::{read_exact_at, write_all_at};
    use super::super::probe::probe;
    use super::*;

    #[test]
    fn a_file_goes_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = OsDisk.open(&path, OpenMode::CreateNew).unwrap();
        write_all_at(&*file, b"hello", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!((file.len().unwrap(), file.links().unwrap()), (8, 1));
        let mut bytes = [9; 8];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0\0hello");
        assert_eq!(file.read_at(&mut bytes, 8).unwrap(), 0);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let renamed = dir.path().join("g");
        OsDisk.rename(&path, &renamed).unwrap();
        OsDisk.create_dir(&dir.path().join("d")).unwrap();
        OsDisk.sync_dir(dir.path()).unwrap();
        let names: Vec<_> = OsDisk.list(dir.path()).unwrap();
        let names: Vec<_> = names.iter().map(|entry| (&*entry.name, entry.kind)).collect();
        assert_eq!(names, [("d", EntryKind::Dir), ("g", EntryKind::File)]);
        assert_eq!(OsDisk.stat(&renamed).unwrap().bytes, 8);
        OsDisk.remove_file(&renamed).unwrap();
        OsDisk.remove_dir(&dir.path().join("d")).unwrap();
        assert_eq!(file.links().unwrap(), 0);
        let kind = OsDisk.open(&renamed, OpenMode::Read).map(drop).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::NotFound);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("f"), dir.path().join("l"));
        OsDisk.open(&file, OpenMode::CreateNew).unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(OsDisk.stat(&link).unwrap().kind, EntryKind::Other);
        for path in [link.as_path(), dir.path(), Path::new("/dev/null")] {
            for mode in [OpenMode::Read, OpenMode::ReadWrite] {
                let kind = OsDisk.open(path, mode).map(drop).unwrap_err().kind();
                assert_eq!(kind, io::ErrorKind::InvalidInput, "{} {mode:?}", path.display());
            }
        }
        OsDisk.lock(&link).unwrap_err();
        let kind = OsDisk.open(&link, OpenMode::CreateNew).map(drop).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn lock_denies_a_second_one_in_the_same_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = OsDisk.lock(&path).unwrap();
        assert_eq!(OsDisk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(held.stat().unwrap(), OsDisk.stat(&path).unwrap());
        OsDisk.remove_file(&path).unwrap();
        let other = OsDisk.lock(&path).unwrap();
        assert_ne!(held.stat().unwrap().inode, other.stat().unwrap().inode);
        drop((held, other));
        OsDisk.lock(&path).unwrap();
    }

    #[test]
    fn unlocking_releases_a_lock_that_another_descriptor_shares() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_regular(&mut options, &path).unwrap();
        fs2::FileExt::try_lock_exclusive(&file).unwrap();
        // As a forked child would have it.
        let inherited = file.try_clone().unwrap();
        let held = OsLock { file };
        assert_eq!(OsDisk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        held.unlock().unwrap();
        drop(held);
        OsDisk.lock(&path).unwrap();
        drop(inherited);
    }

    #[test]
    fn allocation_grows_the_file_by_the_new_range() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        match file.allocate(4096, 8192) {
            Ok(()) => assert_eq!(file.len().unwrap(), 12_288),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::Unsupported),
        }
        file.allocate(u64::MAX, 1).unwrap_err();
    }

    #[test]
    fn mapping_reads_and_writes_a_growing_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        file.set_len(8192).unwrap();
        let mut map = file.map(1 << 20, 4096, 4096, MapAccess::Write).unwrap();
        map.set_allocated(8192);
        map.populate_write(4096, 1 << 20).unwrap();
        map.reserve(4096, 5).copy_from_slice(b"store");
        assert!(map.mapping().view(4096, 5).is_none(), "not published yet");
        map.publish(4101);
        write_all_at(&*file, b"write", 4101).unwrap();
        map.publish(4106);
        let view = map.mapping().view(4096, 10).unwrap();
        assert_eq!(view.bytes(), b"storewrite");
        view.mapping().populate_read(4096, 10).unwrap();
        let mut bytes = [0; 10];
        read_exact_at(&*file, &mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"storewrite");
        drop((map, file));
        drop(dir);
        assert_eq!(view.bytes(), b"storewrite", "its file is gone");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn populating_beyond_the_end_is_an_error_and_no_signal() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        file.set_len(4096).unwrap();
        let map = file.map(1 << 20, 0, 0, MapAccess::Read).unwrap();
        map.mapping().populate_read(0, 4096).unwrap();
        map.mapping().populate_read(8192, 4096).unwrap_err();
    }

    #[test]
    fn probe_finds_a_real_disk_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".probe"), b"left by another").unwrap();
        let found = probe(&OsDisk, dir.path()).unwrap();
        assert!(found.coherent && found.sync_dir, "{found:?}");
        assert_eq!(OsDisk.list(dir.path()).unwrap(), []);
    }
}
