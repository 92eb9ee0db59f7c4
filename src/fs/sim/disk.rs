//! The simulated disk: its handle, its calls, and what can be done to it.
//!
//! Not here: what the calls do (`state`, `file`), files that are open (`handle`).
//!
//! Invariants
//!   1. Every call of the two traits goes through `enter`, once: it counts, it can fail, and with
//!      the power off it changes nothing.
//!
//! Threads   any; one lock, held for a call's time. A stalled sync waits without it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::crash::Pending;
use super::fault::{Call, Fault, FaultKind};
use super::handle::{SimFile, SimLock};
use super::loss::Loss;
use super::state::{Power, Process, State};
use super::tree::{Child, DirNode, NodeId, names_of};
use crate::fs::disk::{Disk, DiskFile, DiskLock, Entry, EntryKind, OpenMode, Stat};
use crate::fs::heap::PAGE_BYTES;

pub(super) struct Shared {
    state: Mutex<State>,
    /// Signalled when stalled syncs are to go on.
    released: Condvar,
}

/// A disk in memory that crashes, tears, fails, fills up and rots on command.
///
/// A clone is another handle to the same disk. See the [module](super) for an example.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

/// A call that may go on, with the disk's lock.
pub(super) struct Entered<'a> {
    pub(super) state: MutexGuard<'a, State>,
    /// How it fails, where that takes more than an error.
    pub(super) fault: Option<FaultKind>,
}

impl SimDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::from_state(State::new())
    }

    fn from_state(state: State) -> Self {
        Self::from_shared(Arc::new(Shared { state: Mutex::new(state), released: Condvar::new() }))
    }

    pub(super) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// Limits the disk to this many bytes in blocks of 4096. What is allocated or written counts,
    /// until it is cut off, or removed and neither open nor mapped any more.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity_blocks = Some(bytes / PAGE_BYTES as u64);
    }

    /// How many calls were made, on the disk and its files. Those of this interface do not count.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Makes a call to come fail, in addition to those that are armed already.
    pub fn arm(&self, fault: Fault) {
        self.state().faults.arm(fault);
    }

    /// No further call fails, but for those that stall: see
    /// [`release_stalls`](Self::release_stalls).
    pub fn disarm(&self) {
        self.state().faults.disarm();
    }

    /// How many calls were made to fail since the disk was made.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.state().faults.fired()
    }

    /// Which calls were made to fail, and how, each pair once, in the order of their first time.
    #[must_use]
    pub fn fired_at(&self) -> Vec<(Call, FaultKind)> {
        self.state().faults.fired_at().to_vec()
    }

    /// How many syncs are stalled now.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.state().stalled
    }

    /// Lets the stalled syncs go on, and do their work.
    pub fn release_stalls(&self) {
        self.state().releases += 1;
        self.shared.released.notify_all();
    }

    /// Cuts the power after this many further calls: each later one fails and changes nothing, and
    /// what is stored through a mapping after the cut never was.
    pub fn cut_power_after(&self, calls: u64) {
        let mut state = self.state();
        state.power = Power::OffAfter(state.calls.saturating_add(calls));
    }

    /// Cuts the power now. See [`cut_power_after`](Self::cut_power_after).
    pub fn cut_power(&self) {
        let mut state = self.state();
        switch_off(&mut state, Power::Off(None));
        self.shared.released.notify_all();
    }

    /// The call that met the power cut, if there was one.
    #[must_use]
    pub fn cut_at(&self) -> Option<Call> {
        match self.state().power {
            Power::Off(call) => call,
            Power::On | Power::OffAfter(_) | Power::Killed => None,
        }
    }

    /// Whether calls are answered: the power is on, and the process was not killed.
    #[must_use]
    pub fn is_on(&self) -> bool {
        check_power(&self.state()).is_ok()
    }

    /// What a crash may take: every change that no sync has confirmed, in order.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        let mut state = self.state();
        state.harvest();
        state.pending()
    }

    /// The systematic ways to lose what is pending now, and `random` coin-thrown ones: everything,
    /// nothing, each change alone lost or kept, each prefix kept, lengths without contents and the
    /// reverse, names without files and the reverse, and each larger write torn at its first,
    /// middle and last sector.
    #[must_use]
    pub fn losses(&self, random: u64) -> Vec<Loss> {
        let mut state = self.state();
        state.harvest();
        state.losses(random)
    }

    /// The disk as a power cut at this moment would leave it. This one goes on as it is.
    #[must_use]
    pub fn crash(&self, loss: &Loss) -> SimDisk {
        let mut state = self.state();
        state.harvest();
        Self::from_state(state.after_crash(loss))
    }

    /// Kills the process that uses this disk: its handles fail from now on, its locks are free, and
    /// the new disk has all that was written, synced or not.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        let killed = self.snapshot();
        switch_off(&mut self.state(), Power::Killed);
        self.shared.released.notify_all();
        killed
    }

    /// As [`kill`](Self::kill), but this disk goes on.
    #[must_use]
    pub fn snapshot(&self) -> SimDisk {
        let mut state = self.state();
        state.harvest();
        Self::from_state(state.after_kill())
    }

    /// Lets the process die after this many further calls, until [`kill_in_place`] or
    /// [`power_cycle`] has another one begin: each later call fails and changes nothing.
    ///
    /// [`kill_in_place`]: Self::kill_in_place
    /// [`power_cycle`]: Self::power_cycle
    pub fn kill_after(&self, calls: u64) {
        let mut state = self.state();
        state.process = Process::DiesAfter(state.calls.saturating_add(calls));
    }

    /// Kills the process and begins another one on this same disk: every call fails while `leave`
    /// drops what the first one held; then all that was written is there, synced or not. With the
    /// power off already, it stays off.
    ///
    /// # Panics
    /// If an open file or a lock of the first process is left.
    pub fn kill_in_place(&self, leave: impl FnOnce()) {
        self.begin_again(leave, State::after_kill);
    }

    /// Cuts the power and switches it on again, on this same disk. As
    /// [`kill_in_place`](Self::kill_in_place), but what is lost is gone.
    ///
    /// # Panics
    /// If an open file or a lock of the first process is left.
    pub fn power_cycle(&self, loss: &Loss, leave: impl FnOnce()) {
        self.begin_again(leave, |state| state.after_crash(loss));
    }

    fn begin_again(&self, leave: impl FnOnce(), next: impl FnOnce(&State) -> State) {
        die(&mut self.state());
        self.shared.released.notify_all();
        leave();
        let mut state = self.state();
        if matches!(state.power, Power::Off(_) | Power::Killed) {
            return;
        }
        let left = state.files.values().any(|file| file.opens > 0);
        assert!(!left && state.locked.is_empty(), "a dead process holds a file or a lock");
        let mut after = next(&state);
        (after.power, after.calls) = (state.power, state.calls);
        after.faults = std::mem::take(&mut state.faults);
        *state = after;
    }

    /// A hash of the names, lengths and bytes that can be seen.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut state = self.state();
        state.harvest();
        state.fingerprint()
    }

    /// How many open files the processes on it hold, locks included.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.state().files.values().map(|file| file.opens).sum()
    }

    /// How many mappings of files somebody holds.
    #[must_use]
    pub fn mappings(&self) -> usize {
        let state = self.state();
        let all = state.files.values().flat_map(|file| &file.mappings);
        // The file holds a share itself.
        all.filter(|share| Arc::strong_count(share.map()) > 1).count()
    }

    /// The paths of all files, sorted by folder.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        self.state().for_each_path(|path, child| {
            if let Child::File(_) = child {
                files.push(PathBuf::from(path));
            }
        });
        files
    }

    /// A file's bytes, synced or not; `None` if there is no such file.
    #[must_use]
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let id = state.file(path.as_ref()).ok()?;
        let (file, seq) = state.node(id);
        file.harvest(seq);
        Some(file.contents())
    }

    /// Puts a file there, or other bytes into it, as if it had been so for ever; its folders too.
    /// Mappings of a file that was there keep what they show.
    ///
    /// # Errors
    /// If the path is a folder, or leads through a file.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        self.state().put_durable(path.as_ref(), bytes)
    }

    /// Flips a bit of a file, on the medium and in the cache: rot. Mappings made before keep what
    /// they show.
    ///
    /// # Errors
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state();
        let id = state.file(path.as_ref())?;
        let (file, seq) = state.node(id);
        file.harvest(seq);
        if file.flip_bit(byte, bit) { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Makes the sector with this byte unreadable, until it is written as a whole.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn bad_sector(&self, path: impl AsRef<Path>, byte: u64) -> io::Result<()> {
        let mut state = self.state();
        let id = state.file(path.as_ref())?;
        state.node(id).0.spoil(byte);
        Ok(())
    }

    /// Counts a call, lets it fail if it is to, and stalls it if it is to.
    pub(super) fn enter(&self, call: Call) -> io::Result<Entered<'_>> {
        let mut state = self.state();
        if let Power::OffAfter(calls) = state.power
            && state.calls >= calls
        {
            switch_off(&mut state, Power::Off(Some(call)));
            self.shared.released.notify_all();
        }
        if let Process::DiesAfter(calls) = state.process
            && state.calls >= calls
        {
            die(&mut state);
            self.shared.released.notify_all();
        }
        check_power(&state)?;
        state.calls += 1;
        match state.faults.on_call(call) {
            None => Ok(Entered { state, fault: None }),
            Some(FaultKind::StalledSync) => {
                let releases = state.releases;
                state.stalled += 1;
                while state.releases == releases && check_power(&state).is_ok() {
                    self.shared.released.wait(&mut state);
                }
                state.stalled -= 1;
                check_power(&state)?;
                Ok(Entered { state, fault: None })
            }
            // These succeed in part, and a failed sync does something to the file or folder; one
            // that cannot even open the folder does not.
            fault @ Some(FaultKind::Short | FaultKind::LyingSync) => Ok(Entered { state, fault }),
            Some(FaultKind::Emfile) => Err(FaultKind::Emfile.error()),
            fault @ Some(_) if matches!(call, Call::SyncData | Call::SyncDir) => {
                Ok(Entered { state, fault })
            }
            Some(what) => Err(what.error()),
        }
    }

    /// Brings in a mapped range.
    pub(super) fn populate(&self, node: NodeId, range: Range<usize>) -> io::Result<()> {
        let entered = self.enter(Call::Populate)?;
        let Some(file) = entered.state.files.get(&node) else { return Ok(()) };
        match file.can_populate(range.start as u64..range.end as u64) {
            Some(true) => Ok(()),
            Some(false) => Err(FaultKind::Eio.error()),
            None => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }

    fn opened(&self, state: &mut State, node: NodeId, writable: bool) -> Arc<dyn DiskFile> {
        state.node(node).0.opens += 1;
        Arc::new(SimFile::new(self.clone(), node, writable))
    }
}

fn switch_off(state: &mut State, power: Power) {
    if check_power(state).is_err() {
        return;
    }
    forget_mappings(state);
    state.power = power;
}

fn die(state: &mut State) {
    if check_power(state).is_err() {
        return;
    }
    forget_mappings(state);
    state.process = Process::Dead;
}

/// What is stored from here on is not seen any more.
fn forget_mappings(state: &mut State) {
    state.harvest();
    for file in state.files.values_mut() {
        file.mappings.clear();
    }
}

fn check_power(state: &State) -> io::Result<()> {
    let killed = || Err(io::Error::other("the simulated disk's process was killed"));
    match state.power {
        Power::On | Power::OffAfter(_) if state.process == Process::Dead => killed(),
        Power::On | Power::OffAfter(_) => Ok(()),
        Power::Off(_) => Err(io::Error::other("the simulated disk's power is off")),
        Power::Killed => killed(),
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shared.state.try_lock() {
            Some(state) => f
                .debug_struct("SimDisk")
                .field("files", &state.files.len())
                .field("calls", &state.calls)
                .field("power", &state.power)
                .finish_non_exhaustive(),
            None => f.write_str("SimDisk(busy)"),
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let call = if mode == OpenMode::CreateNew { Call::CreateFile } else { Call::Open };
        let mut state = self.enter(call)?.state;
        let node = match mode {
            OpenMode::CreateNew => state.create_file(path)?,
            OpenMode::Read | OpenMode::ReadMedium | OpenMode::ReadWrite => state.file(path)?,
        };
        Ok(self.opened(&mut state, node, matches!(mode, OpenMode::ReadWrite | OpenMode::CreateNew)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::CreateDir)?.state.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.enter(Call::List)?.state;
        let id = state.dir(dir)?;
        let entry = |(name, child): (&String, &Child)| Entry {
            name: name.clone(),
            kind: match child {
                Child::File(_) => EntryKind::File,
                Child::Dir(_) => EntryKind::Dir,
            },
        };
        Ok(state.dirs[&id].names.iter().map(entry).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.enter(Call::Stat)?.state;
        if let Ok(id) = state.dir(path) {
            return Ok(state.stat(Child::Dir(id)));
        }
        let child = state.find(path)?.2.ok_or(io::ErrorKind::NotFound)?;
        Ok(state.stat(child))
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        let state = self.enter(Call::Stat)?.state;
        if state.dir(path).is_err() {
            state.find(path)?.2.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(Path::new("/").join(names_of(path).iter().map(|name| &**name).collect::<PathBuf>()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Call::Rename)?.state.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Call::Link)?.state.link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::RemoveFile)?.state.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(Call::RemoveDir)?.state.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let Entered { mut state, fault } = self.enter(Call::SyncDir)?;
        let id = state.dir(dir)?;
        let Some(node) = state.dirs.get_mut(&id) else { return Ok(()) };
        match fault {
            None => node.sync(),
            Some(FaultKind::LyingSync) => {}
            Some(what) => {
                node.fail_sync();
                return Err(what.error());
            }
        }
        state.collect();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.enter(Call::Lock)?.state;
        let node = match state.file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => state.create_file(path)?,
            found => found?,
        };
        if !state.locked.insert(node) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.node(node).0.opens += 1;
        state.dirs.values_mut().for_each(DirNode::change_owner);
        Ok(Box::new(SimLock::new(self.clone(), node)))
    }
}
