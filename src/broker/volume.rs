//! One data directory: its lock, its identity, how often it was opened, and its reserve.
//!
//! Not here: what is stored in it.
//!
//! The file `volume` holds two copies, and both are always written, one after the other, each
//! synced: with one of them damaged the other tells the same.
//!
//! Invariants
//!   1. The incarnation is raised, and synced, before anything else is written: every clean mark
//!      of before is void from then on, unless the file says that each close since was clean.
//!   2. A volume is made only in a folder where none is; nothing found is ever taken for less
//!      than it is because something else is missing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::broker::ids::Ids;
use crate::config::RESERVE_BYTES;
use crate::error::{Error, Result};
use crate::format::{PAGE, VolumeError, VolumeRecord};
use crate::fs::{
    Capabilities, Disk, DiskFile, DiskLock, EntryKind, FinalSyncs, OpenMode, probe, read_exact_at,
    write_all_at,
};
use crate::id::Incarnation;
use crate::log::{Entrance, Mode};

pub(crate) const TOPICS: &str = "topics";
pub(crate) const METADATA: &str = "metadata";
const VOLUME: &str = "volume";
const VOLUME_NEW: &str = "volume.new";
const LOCK: &str = "LOCK";
const RESERVE: &str = "reserve";

#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    /// The same, which remembers what syncs have failed.
    syncs: Arc<FinalSyncs>,
    pub(crate) capabilities: Capabilities,
    /// How the volume was left before this open.
    pub(crate) entrance: Entrance,
    /// Lock rank: leaf.
    record: Mutex<VolumeRecord>,
    /// Set while the reserve was given up for a metadata change. Stored by who holds `reserve`.
    pub(crate) reserve_spent: Arc<AtomicBool>,
    /// Held by who fills the reserve, or has spent it for a change until that is made. Lock rank:
    /// under the metadata's, above every log's.
    reserve: Mutex<()>,
    mode: Mode,
    claim: Arc<Claim>,
}

/// The right to a folder, as long as it is held.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// Let go of when the volume is closed, though handles may keep it in memory. Lock rank: leaf.
    lock: Mutex<Option<Arc<dyn DiskLock>>>,
}

impl Claim {
    /// The folder is still the one that was locked: not another mounted or moved over it, and not
    /// removed.
    pub(crate) fn check(&self) -> Result<()> {
        // Not locked meanwhile: a look at a disk may hang, and a close waits for nobody.
        let held = self.lock.lock().clone();
        let Some(lock) = held else { return Err(Error::ReadOnly) };
        let path = self.dir.join(LOCK);
        let held = lock.stat().map_err(|e| Error::io("look at", &path, e))?;
        match self.disk.stat(&path) {
            Ok(found) if (found.device, found.inode) == (held.device, held.inode) => Ok(()),
            Ok(_) => Err(Error::damaged(&self.dir, "another folder took its place")),
            Err(e) => Err(Error::io("look at", &path, e)),
        }
    }
}

/// What the volume's file says at a moment.
pub(crate) struct Look {
    /// How the volume is left.
    pub(crate) entrance: Entrance,
    /// Raised by every write of the file: at each open, and at each clean close.
    pub(crate) sequence: u64,
    /// Where a copy is damaged, if one is.
    pub(crate) damaged: Option<(PathBuf, u64)>,
}

/// Whether a missing volume is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    Refuse,
}

impl Volume {
    /// Takes the lock, reads or makes the volume, and raises its incarnation. Of this cluster, if
    /// it is given, or of one of its own.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        (missing, cluster): (Missing, Option<u64>),
        ids: &mut Ids,
    ) -> Result<Self> {
        let syncs = Arc::new(FinalSyncs::new(disk));
        let disk: Arc<dyn Disk> = Arc::clone(&syncs) as _;
        let file = dir.join(VOLUME);
        if missing == Missing::Refuse && !exists(disk.as_ref(), &file)? {
            return Err(Error::NoStore { path: Arc::from(dir) });
        }
        make_folders(disk.as_ref(), dir)?;
        let lock = lock(disk.as_ref(), dir)?;
        let created = !exists(disk.as_ref(), &file)?;
        let found = if created {
            create(disk.as_ref(), dir, cluster, ids)?
        } else {
            read(disk.as_ref(), &file)?
        };
        if cluster.is_some_and(|cluster| cluster != found.cluster_id) {
            return Err(Error::damaged(&file, "the volume is another store's"));
        }
        if found.ro_compat != 0 {
            return Err(Error::Incompatible { path: Arc::from(file), bits: found.ro_compat });
        }
        let entrance = entrance_of(&found);
        let incarnation = Incarnation::new(found.incarnation.get() + 1);
        let record = VolumeRecord {
            sequence: found.sequence,
            incarnation,
            clean_since: if found.closed_cleanly { found.clean_since } else { incarnation },
            closed_cleanly: false,
            ..found
        };
        // Before the probe, which syncs the folder at every open: a log's first sync makes the
        // names below `topics` durable, and this one has to be by then. 1. a topic's first record
        // is synced, with every folder up to `topics`; 2. acknowledged; 3. power cut: without this
        // the name `topics` is lost, and all below it.
        let topics = dir.join(TOPICS);
        match disk.create_dir(&topics) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &topics, e));
            }
            _ => {}
        }
        let probed = match probe(disk.as_ref(), dir) {
            Err(e) if is_full(&e) && spend(disk.as_ref(), dir) => probe(disk.as_ref(), dir),
            probed => probed,
        };
        let capabilities = match probed {
            // A full disk must not keep anyone from opening, and from freeing space: what it can do
            // is not known, so the least is taken.
            Err(e) if is_full(&e) => Capabilities::LEAST,
            probed => probed.map_err(|e| Error::io("probe", dir, e))?,
        };
        let claimed = Arc::clone(&disk);
        let volume = Self {
            dir: dir.to_path_buf(),
            disk,
            syncs,
            capabilities,
            entrance,
            record: Mutex::new(record),
            reserve_spent: Arc::new(AtomicBool::new(false)),
            reserve: Mutex::new(()),
            mode: Mode::ReadWrite,
            claim: Arc::new(Claim {
                dir: dir.to_path_buf(),
                disk: claimed,
                lock: Mutex::new(Some(Arc::from(lock))),
            }),
        };
        volume.write()?;
        if volume.fill_reserve().is_err() {
            // A full disk must not keep anyone from opening, and from freeing space.
            volume.reserve_spent.store(true, Ordering::Relaxed);
        }
        Ok(volume)
    }

    /// Reads the volume without a lock, and writes nothing.
    pub(crate) fn open_read_only(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self> {
        let syncs = Arc::new(FinalSyncs::new(disk));
        let disk: Arc<dyn Disk> = Arc::clone(&syncs) as _;
        let file = dir.join(VOLUME);
        if !exists(disk.as_ref(), &file)? {
            return Err(Error::NoStore { path: Arc::from(dir) });
        }
        let record = read(disk.as_ref(), &file)?;
        let claimed = Arc::clone(&disk);
        Ok(Self {
            dir: dir.to_path_buf(),
            disk,
            syncs,
            capabilities: Capabilities { allocate: false, coherent: true, sync_dir: false },
            entrance: Entrance::Unclean,
            record: Mutex::new(record),
            reserve_spent: Arc::new(AtomicBool::new(false)),
            reserve: Mutex::new(()),
            mode: Mode::ReadOnly,
            claim: Arc::new(Claim {
                dir: dir.to_path_buf(),
                disk: claimed,
                lock: Mutex::new(None),
            }),
        })
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.record.lock().incarnation
    }

    /// Which volume this is, wherever it lies.
    pub(crate) fn unique_id(&self) -> u64 {
        self.record.lock().volume_id
    }

    /// Whose volume this is.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.record.lock().cluster_id
    }

    /// Whether there is a volume in a folder.
    pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool> {
        exists(disk, &dir.join(VOLUME))
    }

    pub(crate) fn topics_dir(&self) -> PathBuf {
        self.dir.join(TOPICS)
    }

    /// Refuses a new topic once a sync of `topics` has failed: no log's first sync would succeed.
    pub(crate) fn must_take_topics(&self) -> Result<()> {
        let topics = self.topics_dir();
        self.syncs.check(&topics).map_err(|e| Error::io("sync", &topics, e))
    }

    /// What the volume's file says at this moment, also if another broker writes it.
    pub(crate) fn look(&self) -> Result<Look> {
        let path = self.dir.join(VOLUME);
        let copies = read_copies(self.disk.as_ref(), &path)?;
        let record = newest(&copies, &path)?;
        let damaged = [0, PAGE].into_iter().find(|&at| {
            VolumeRecord::newest(copies.get(at..at + PAGE).unwrap_or_default()).is_err()
        });
        Ok(Look {
            entrance: entrance_of(&record),
            sequence: record.sequence,
            damaged: damaged.map(|at| (path, at as u64)),
        })
    }

    /// It was closed cleanly before this open: so everything was made that a store consists of.
    pub(crate) fn was_closed(&self) -> bool {
        let record = self.record.lock();
        match self.mode {
            Mode::ReadWrite => {
                // The first open finds a file that says so, and nothing was ever closed.
                matches!(self.entrance, Entrance::Clean { .. })
                    && record.incarnation > Incarnation::new(1)
            }
            Mode::ReadOnly => record.closed_cleanly && record.incarnation > Incarnation::new(0),
        }
    }

    /// Says that everything was closed cleanly.
    pub(crate) fn close(&self) -> Result<()> {
        self.must_be_ours()?;
        self.record.lock().closed_cleanly = true;
        self.write()
    }

    /// The folder is still the one that was locked: see [`Claim::check`].
    pub(crate) fn must_be_ours(&self) -> Result<()> {
        self.claim.check()
    }

    /// The right to its folder, for who looks whether it holds.
    pub(crate) fn claim(&self) -> Arc<Claim> {
        Arc::clone(&self.claim)
    }

    /// Lets the next owner in. Nothing is written after it. Not in a forked child.
    ///
    /// Unlocked and not only closed: a child that another thread has just forked, to run a program
    /// for one, holds the lock's file too until it has begun that, and the store would seem locked
    /// to the next open for as long.
    pub(crate) fn release(&self) {
        let lock = self.claim.lock.lock().take();
        if let Some(lock) = lock {
            // Closing it, which follows, is as good where nobody has inherited it.
            let _ = lock.unlock();
        }
    }

    /// Writes both copies, each synced before the next is touched, beginning with the one that the
    /// medium may lack: see [`first_to_write`].
    fn write(&self) -> Result<()> {
        let path = self.dir.join(VOLUME);
        let failed = |doing, e| Error::io(doing, &path, e);
        let file = self.disk.open(&path, OpenMode::ReadWrite).map_err(|e| failed("open", e))?;
        let mut record = *self.record.lock();
        record.sequence += 1;
        let first = record.sequence % 2 * PAGE as u64;
        for position in [first, PAGE as u64 - first] {
            write_all_at(file.as_ref(), &record.encode(), position)
                .map_err(|e| failed("write", e))?;
            file.sync_data().map_err(|e| failed("sync", e))?;
        }
        *self.record.lock() = record;
        Ok(())
    }

    /// The reserve, for a change of the metadata that finds the disk full: nobody else fills it
    /// until this is dropped.
    pub(crate) fn reserve(&self) -> Reserve<'_> {
        Reserve { volume: self, _held: self.reserve.lock() }
    }

    /// Sets space aside again. Appends wait for it, but not for who has it.
    ///
    /// # Errors
    /// `StorageFull` if there is no room, or a change of the metadata needs what there is.
    pub(crate) fn fill_reserve(&self) -> Result<()> {
        match self.reserve.try_lock() {
            Some(held) => Reserve { volume: self, _held: held }.fill(),
            None => Err(Error::io("fill", &self.dir.join(RESERVE), ErrorKind::StorageFull.into())),
        }
    }
}

/// The reserve, which nobody else touches meanwhile.
pub(crate) struct Reserve<'a> {
    volume: &'a Volume,
    _held: MutexGuard<'a, ()>,
}

impl Reserve<'_> {
    /// Gives it up, so that a metadata change finds room. True if there was one.
    pub(crate) fn spend(&self) -> bool {
        let freed = spend(self.volume.disk.as_ref(), &self.volume.dir);
        self.volume.reserve_spent.store(true, Ordering::Relaxed);
        freed
    }

    /// Sets space aside again.
    pub(crate) fn fill(&self) -> Result<()> {
        let disk = &self.volume.disk;
        let path = self.volume.dir.join(RESERVE);
        let failed = |e| Error::io("fill", &path, e);
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Err(e) if e.kind() == ErrorKind::NotFound => disk.open(&path, OpenMode::CreateNew),
            other => other,
        }
        .map_err(failed)?;
        if file.len().map_err(failed)? < RESERVE_BYTES {
            fill(file.as_ref(), self.volume.capabilities).map_err(failed)?;
        }
        self.volume.reserve_spent.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Frees what the reserve takes; true if it took something.
fn spend(disk: &dyn Disk, dir: &Path) -> bool {
    let freed = disk
        .open(&dir.join(RESERVE), OpenMode::ReadWrite)
        .and_then(|file| file.len().map(|bytes| (file, bytes)))
        .and_then(|(file, bytes)| file.set_len(0).map(|()| bytes > 0));
    freed.unwrap_or(false)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn fill(file: &dyn DiskFile, capabilities: Capabilities) -> std::io::Result<()> {
    if capabilities.allocate {
        return file.allocate(0, RESERVE_BYTES);
    }
    // Zeros that are written take room too, where nothing compresses them.
    let block = vec![0; PAGE];
    for position in (0..RESERVE_BYTES).step_by(PAGE) {
        write_all_at(file, &block, position)?;
    }
    Ok(())
}

fn exists(disk: &dyn Disk, path: &Path) -> Result<bool> {
    match disk.stat(path) {
        Ok(stat) if stat.kind == EntryKind::File => Ok(true),
        Ok(_) => Err(Error::damaged(path, "not a regular file")),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look for", path, e)),
    }
}

/// Takes the lock of the volume in a folder.
pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>> {
    let path = dir.join(LOCK);
    match disk.lock(&path) {
        Ok(lock) => Ok(lock),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
            Err(Error::Locked { path: Arc::from(dir) })
        }
        Err(e) => Err(Error::io("lock", &path, e)),
    }
}

/// The folder and what leads to it.
pub(crate) fn make_folders(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let mut missing = Vec::new();
    for folder in dir.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        match disk.stat(folder) {
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::NotFound => missing.push(folder),
            Err(e) => return Err(Error::io("look for", folder, e)),
        }
    }
    for folder in missing.into_iter().rev() {
        match disk.create_dir(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io("create", folder, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the names durable that lead to a folder in which a volume is about to be made. All of
/// them, whoever made them: 1. an open makes the folder and dies, or its sync fails; 2. the next
/// one finds it, makes the volume in it and acknowledges; 3. a power cut takes the folder's name.
fn sync_folders_above(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for folder in dir.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        let Some(parent) = folder.parent() else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // What we may not open we have not made a name in.
            Err(e) if e.kind() != ErrorKind::PermissionDenied => {
                return Err(Error::io("sync", parent, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the volume file, whole or not at all.
fn create(
    disk: &dyn Disk,
    dir: &Path,
    cluster: Option<u64>,
    ids: &mut Ids,
) -> Result<VolumeRecord> {
    sync_folders_above(disk, dir)?;
    let entries = disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
    for entry in entries {
        let path = dir.join(&entry.name);
        let holds_something = matches!(entry.name.as_str(), TOPICS | METADATA)
            && disk.list(&path).map_err(|e| Error::io("list", &path, e))?.iter().any(|_| true);
        if holds_something {
            // There was a volume here: a new identity would orphan what it holds.
            return Err(Error::damaged(&dir.join(VOLUME), "the file is missing"));
        }
    }
    let mut record = VolumeRecord { closed_cleanly: true, ..new_record(ids) };
    record.cluster_id = cluster.unwrap_or(record.cluster_id);
    write_new(disk, dir, &record)?;
    Ok(record)
}

/// Makes the file of a volume whose other files are all there, with ids of its own. As none of them
/// says that it was closed cleanly, the first open looks at each.
pub(crate) fn make_volume_file(
    disk: &dyn Disk,
    dir: &Path,
    incarnation: Incarnation,
    ids: &mut Ids,
) -> Result<()> {
    sync_folders_above(disk, dir)?;
    // Of the store whose files it has: producers take their ids from it, and theirs are in these.
    write_new(disk, dir, &VolumeRecord { incarnation, ..new_record(ids) })
}

fn new_record(ids: &mut Ids) -> VolumeRecord {
    VolumeRecord {
        sequence: 0,
        volume_id: ids.next_id(),
        cluster_id: ids.next_id(),
        incarnation: Incarnation::new(0),
        clean_since: Incarnation::new(0),
        closed_cleanly: false,
        incompat: 0,
        ro_compat: 0,
    }
}

fn write_new(disk: &dyn Disk, dir: &Path, record: &VolumeRecord) -> Result<()> {
    let (new, path) = (dir.join(VOLUME_NEW), dir.join(VOLUME));
    let failed = |doing, e| Error::io(doing, &new, e);
    let file = match disk.open(&new, OpenMode::CreateNew) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => disk.open(&new, OpenMode::ReadWrite),
        other => other,
    }
    .map_err(|e| failed("create", e))?;
    let mut both = record.encode().to_vec();
    both.extend_from_slice(&record.encode());
    write_all_at(file.as_ref(), &both, 0).map_err(|e| failed("write", e))?;
    file.sync_data().map_err(|e| failed("sync", e))?;
    disk.rename(&new, &path).map_err(|e| failed("rename", e))?;
    disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
}

/// Which of the two copies is to be written first: the one that may not be on the medium, although
/// it can be read. A write of sequence s begins with copy s % 2. 1. its second sync fails: the page
/// cache shows both copies, the medium has one whole; 2. the process ends, the next open raises the
/// sequence; 3. were the whole one written first, a power cut could leave none.
fn first_to_write(copies: &[u8; 2 * PAGE]) -> u64 {
    let sequence = |copy: &[u8]| VolumeRecord::newest(copy).ok().map(|(record, _)| record.sequence);
    match (sequence(&copies[..PAGE]), sequence(&copies[PAGE..])) {
        // Both written, copy s % 2 synced before the other.
        (Some(first), Some(second)) if first == second => (first + 1) % 2,
        // Only the first sync of the newer one was tried.
        (Some(first), Some(second)) => u64::from(second > first),
        (Some(_), None) => 1,
        (None, _) => 0,
    }
}

fn entrance_of(record: &VolumeRecord) -> Entrance {
    if record.closed_cleanly {
        Entrance::Clean { since: record.clean_since }
    } else {
        Entrance::Unclean
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<VolumeRecord> {
    let copies = read_copies(disk, path)?;
    let record = newest(&copies, path)?;
    // The next write raises it by one, and its parity says which copy is written first.
    let raise = u64::from(record.sequence % 2 == first_to_write(&copies));
    Ok(VolumeRecord { sequence: record.sequence + raise, ..record })
}

fn read_copies(disk: &dyn Disk, path: &Path) -> Result<Box<[u8; 2 * PAGE]>> {
    let failed = |e| Error::io("read", path, e);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    let mut copies = Box::new([0; 2 * PAGE]);
    for copy in copies.chunks_exact_mut(PAGE).zip([0, PAGE as u64]) {
        let (bytes, position) = copy;
        // A copy that cannot be read is a bad one; the other may do.
        if read_exact_at(file.as_ref(), bytes, position).is_err() {
            bytes.fill(0);
        }
    }
    Ok(copies)
}

fn newest(copies: &[u8; 2 * PAGE], path: &Path) -> Result<VolumeRecord> {
    match VolumeRecord::newest(copies) {
        Ok((record, _)) => Ok(record),
        Err(VolumeError::Incompatible { bits } | VolumeError::Version { found: bits }) => {
            Err(Error::Incompatible { path: Arc::from(path), bits })
        }
        Err(_) => Err(Error::damaged(path, "both copies are bad")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> VolumeRecord {
        VolumeRecord {
            sequence,
            volume_id: 1,
            cluster_id: 2,
            incarnation: Incarnation::new(0),
            clean_since: Incarnation::new(0),
            closed_cleanly: false,
            incompat: 0,
            ro_compat: 0,
        }
    }

    #[test]
    fn the_copy_that_may_not_be_on_the_medium_is_written_first() {
        let both = |first: u64, second: u64| {
            let mut copies = [0; 2 * PAGE];
            copies[..PAGE].copy_from_slice(&record(first).encode());
            copies[PAGE..].copy_from_slice(&record(second).encode());
            copies
        };
        // Sequence 4 began with copy 0, so copy 1 was synced last; 5 the other way round.
        assert_eq!(first_to_write(&both(4, 4)), 1);
        assert_eq!(first_to_write(&both(5, 5)), 0);
        // A first sync that failed.
        assert_eq!(first_to_write(&both(4, 3)), 0);
        assert_eq!(first_to_write(&both(4, 5)), 1);
        // A bad copy.
        let mut torn = both(4, 4);
        torn[100] ^= 1;
        assert_eq!(first_to_write(&torn), 0);
        let mut torn = both(4, 4);
        torn[PAGE + 100] ^= 1;
        assert_eq!(first_to_write(&torn), 1);
    }
}
