//! Group commit: one thread syncs for all who wait, and a lone one never waits for company.
//!
//! Not here: what is acknowledged by it (`partition`).
//!
//! A waiter whose records are not durable yet becomes the leader if nobody is; it syncs every
//! file with unsynced bytes, oldest first, and publishes the end that the log had when it began.
//! Who arrives meanwhile waits, and one of them leads the next round. A seal leads a round that
//! ends with the file it seals, and publishes that file's end.
//!
//! Invariants
//!   1. One sync at a time per file: Linux reports a write-back error once per open file, and a
//!      second caller would see success. Files that may have unsynced bytes are synced by rounds,
//!      of which there is one at a time; what is written behind the batches of a full one, by who
//!      has the turn.
//!   2. The durable offset passes a segment's base only after the older file, the new file and the
//!      folder that names it were synced.
//!   3. A failed sync is final (I9): the log halts, every waiter gets the first cause. A file or
//!      folder that could not be opened for want of a descriptor was not synced: the round has no
//!      result, nothing latches, and each waiter leads one of its own.
//! Threads   any. `state` is held for moments, never across a sync.
//! Failure   the leader's duties end in a guard's `Drop`: neither `?` nor a panic strands a waiter.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::fs::{DiskFile, is_out_of_descriptors};
use crate::id::Offset;
use crate::log::core::{Housekeeper, Log};
use crate::log::segment::Segment;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::trace;

#[derive(Debug, Default)]
pub(crate) struct Commit {
    state: Mutex<State>,
    /// One for the rounds with an even number, one for the odd ones: who waits for the round under
    /// way is woken by its end, and of those who came too late for it only one, to lead the next.
    /// With one for all, each of them was woken twice, and on two cores that cost more than the
    /// syncs.
    ended: [Condvar; 2],
}

#[derive(Debug, Default)]
struct State {
    /// Somebody leads a sync.
    syncing: bool,
    /// Segments that may have unsynced bytes or names, oldest first; the last one is active.
    pending: VecDeque<Pending>,
    /// Of the round under way: what it makes durable.
    target: Offset,
    /// How many rounds began, and the last that covered every file and was done.
    begun: u64,
    done: u64,
    /// An empty list with room, for the next round: a sync allocates nothing.
    spare: Vec<Pending>,
    /// How often the log was cut: a sync that began before a cut does not count after it.
    cuts: u64,
}

/// A segment with something to sync.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) segment: Arc<Segment>,
    /// Folders whose entries lead to it and are not known to be on the medium.
    pub(crate) folders: Vec<PathBuf>,
}

impl Commit {
    /// Wakes everyone who waits for a sync, to see what the latch says.
    pub(crate) fn wake(&self) {
        drop(self.state.lock());
        for ended in &self.ended {
            ended.notify_all();
        }
    }

    /// The number of the last round that covered every file, of all that began.
    pub(crate) fn rounds(&self) -> u64 {
        self.state.lock().done
    }

    /// What the end of a round wakes.
    fn ended(&self, round: u64) -> &Condvar {
        &self.ended[usize::from(round % 2 == 1)]
    }

    /// The log ends at `end` now: the result of a sync that is under way does not count, and the
    /// durable offset is not above the end.
    pub(crate) fn cut(&self, durable: &AtomicU64, end: Offset) {
        let mut state = self.state.lock();
        state.cuts += 1;
        durable.fetch_min(end.get(), Ordering::AcqRel);
    }

    /// A segment begins to take bytes. Called before any of its bytes is published.
    pub(crate) fn add(&self, pending: Pending) {
        let mut state = self.state.lock();
        state.pending.retain(|other| !Arc::ptr_eq(&other.segment, &pending.segment));
        state.pending.push_back(pending);
    }
}

impl Log {
    /// Returns once everything below `end` is on the medium; leads a sync if nobody does.
    ///
    /// # Errors
    /// `Halted` once a sync failed; `Truncated` if the log was cut below `end` meanwhile; `Io`
    /// where no descriptor was left to sync with.
    pub(crate) fn sync_to(&self, end: Offset) -> Result<()> {
        let durable = || self.durable_offset() >= end;
        if durable() {
            return Ok(());
        }
        self.lead_until(Some(end), |_| durable())
    }

    /// The same for who has appended what is below `end`, and tells what became of it.
    ///
    /// # Errors
    /// As above, but for `NotSynced` where no descriptor was left.
    pub(crate) fn sync_appended(&self, end: Offset) -> Result<()> {
        self.sync_to(end).map_err(|error| match error {
            Error::Io(_) => Error::NotSynced { cause: Arc::new(error) },
            other => other,
        })
    }

    /// Syncs what is below the end, where the durability asks for that.
    pub(crate) fn sync_as_demanded(&self, end: Offset) -> Result<()> {
        match self.options.durability {
            Durability::Fsync => self.sync_to(end),
            Durability::Interval(_) | Durability::Os => Ok(()),
        }
    }

    /// Syncs what was written before the call also where no offset tells: a slot, for one.
    pub(crate) fn sync_now(&self) -> Result<()> {
        // A round that is under way may have passed the file already; the next one has not.
        let begun = self.commit.state.lock().begun;
        self.lead_until(None, |state| state.done > begun)
    }

    /// Syncs a segment's file once: by a round if rounds still do it, else by itself, so that
    /// there is one sync at a time per file.
    pub(crate) fn sync_segment(&self, segment: &Segment, file: &dyn DiskFile) -> Result<()> {
        if self.sync_listed(segment)? {
            return Ok(());
        }
        self.sync_file(segment, file).map_err(|e| self.halt(e))
    }

    /// Leads a round that ends with this segment, if rounds still sync it. False if they do not.
    ///
    /// A seal needs no more, and the file that follows is mapped and appended to: each of its pages
    /// that is written back is protected again, with an interrupt on the core that appends.
    pub(crate) fn sync_listed(&self, segment: &Segment) -> Result<bool> {
        let mut state = self.commit.state.lock();
        let at = loop {
            let mut pending = state.pending.iter();
            let Some(at) = pending.position(|p| std::ptr::eq(p.segment.as_ref(), segment)) else {
                return Ok(false);
            };
            if !state.syncing {
                break at;
            }
            // A round under way may have passed the file, and takes it off the list when it ends:
            // the next round would then not cover it.
            let round = state.begun;
            self.commit.ended(round).wait(&mut state);
        };
        self.latch.check()?;
        let is_newest = at + 1 == state.pending.len();
        let (target, done): (_, fn(Round) -> End) =
            if is_newest { (self.end_offset(), End::Done) } else { (segment.end(), End::Part) };
        let round = state.begin(target, at + 1);
        drop(state);
        self.run_round(round, done)?;
        // A round does not count where the log halted meanwhile.
        self.latch.check()?;
        Ok(true)
    }

    /// The sync itself, counted.
    fn sync_file(&self, segment: &Segment, file: &dyn DiskFile) -> Result<()> {
        let begun = Instant::now();
        let synced = {
            let _watched = self.watch();
            file.sync_data()
        };
        match synced {
            Ok(()) => {
                self.counters.synced(begun.elapsed());
                Ok(())
            }
            Err(e) => Err(self.sync_failed(&segment.path, e)),
        }
    }

    /// What the caller does until it drops this counts as a sync for who looks after the volume.
    pub(crate) fn watch(&self) -> Watched<'_> {
        Watched::begin(self)
    }

    /// Syncs the log's folder for who is not leading a round. A failure is final, as of a file.
    pub(crate) fn sync_folder(&self, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir).map_err(|error| {
            let opened = !is_out_of_descriptors(&error);
            let error = self.folder_failed(dir, error);
            if opened { self.halt(error) } else { error }
        })
    }

    /// Why a folder's sync failed, if it was one.
    fn folder_failed(&self, dir: &Path, error: io::Error) -> Error {
        if is_out_of_descriptors(&error) {
            Error::io("open", dir, error)
        } else {
            self.sync_failed(dir, error)
        }
    }

    fn sync_failed(&self, path: &Path, error: io::Error) -> Error {
        self.counters.sync_failed();
        trace::event!(ERROR, path = %path.display(), %error, "a sync failed");
        Error::io("sync", path, error)
    }

    /// Halts the log, and wakes everyone who waits for it to move.
    pub(crate) fn halt(&self, first: Error) -> Error {
        let error = self.halt_untold(first);
        self.tell_halt();
        error
    }

    /// The same for who holds the writer lock, and calls [`Log::tell_halt`] once it does not.
    pub(crate) fn halt_untold(&self, first: Error) -> Error {
        let error = self.latch.halt(first);
        self.commit.wake();
        self.watchers.moved();
        error
    }

    /// Tells once that the log halted, if it did. Called without a lock of the log: what listens
    /// is the application's.
    #[cold]
    pub(crate) fn tell_halt(&self) {
        if self.latch.is_halted() && self.counters.first_halt() {
            trace::event!(
                ERROR,
                topic = %self.place.topic,
                partition = self.place.partition().get(),
                cause = ?self.latch.check().err(),
                "the log halted"
            );
        }
    }

    /// Leads rounds, or waits for those of others, until `done`. A round that covers the log below
    /// `end` is enough, where one is given; else it takes one that begins after the call.
    fn lead_until(&self, end: Option<Offset>, done: impl Fn(&State) -> bool) -> Result<()> {
        let mut state = self.commit.state.lock();
        let cuts = state.cuts;
        // Woken to lead: whoever does not passes that on.
        let mut candidate = false;
        loop {
            let settled = if done(&state) {
                Some(Ok(()))
            } else if let Err(error) = self.latch.check() {
                Some(Err(error))
            } else if state.cuts != cuts || end.is_some_and(|end| end > self.end_offset()) {
                // Cut meanwhile, or before the call: no round would ever reach it.
                Some(Err(Error::Truncated { at: self.end_offset() }))
            } else {
                None
            };
            if let Some(settled) = settled {
                if candidate && !state.syncing {
                    self.commit.ended(state.begun + 1).notify_one();
                }
                return settled;
            }
            if state.syncing {
                let covered = end.is_some_and(|end| end <= state.target);
                candidate |= !covered;
                let round = state.begun + u64::from(!covered);
                self.commit.ended(round).wait(&mut state);
                continue;
            }
            candidate = false;
            // Loaded before the files are listed: a segment is added before its bytes are
            // published, so the list covers everything below this end.
            let target = self.end_offset();
            let listed = state.pending.len();
            let round = state.begin(target, listed);
            drop(state);
            self.run_round(round, End::Done)?;
            state = self.commit.state.lock();
        }
    }

    /// Leads a round that was begun. It ends as `done` says, if it does not fail.
    fn run_round(&self, round: Round, done: impl Fn(Round) -> End) -> Result<()> {
        let mut lead = Lead { log: self, end: End::Died };
        match self.sync_all(&round.pending) {
            Ok(()) => {
                lead.end = done(round);
                Ok(())
            }
            Err(Error::Io(failure)) if is_out_of_descriptors(&failure.source) => {
                lead.end = End::NoResult(round);
                Err(Error::Io(failure))
            }
            Err(first) => {
                let error = self.latch.halt(first);
                drop(lead);
                self.tell_halt();
                Err(error)
            }
        }
    }

    /// Syncs files and folders in log order.
    fn sync_all(&self, pending: &[Pending]) -> Result<()> {
        for Pending { segment, folders } in pending {
            let is_void = || segment.clip() <= segment.base;
            let held = match segment.held_file(self.disk.as_ref()) {
                // A cut voided it whole, and its file may be gone.
                _ if is_void() => continue,
                held => held?,
            };
            if let Some(file) = held {
                self.sync_file(segment, file.as_ref())?;
                // A file that lost its name under us holds nothing that an open would find; one
                // that a cut voided whole loses it on purpose.
                let links = file.links().map_err(|e| Error::io("stat", &segment.path, e))?;
                if links == 0 && segment.clip() > segment.base {
                    let gone = io::ErrorKind::NotFound.into();
                    return Err(Error::io("find", &segment.path, gone));
                }
            }
            for folder in folders {
                self.disk.sync_dir(folder).map_err(|e| self.folder_failed(folder, e))?;
            }
        }
        if let Some(Pending { segment, .. }) = pending.last()
            && self.writes_mapped(1)
        {
            populate_again(segment);
        }
        Ok(())
    }
}

/// A sync that is going on: one that hangs is noticed by who looks after the volume.
#[must_use]
pub(crate) struct Watched<'a>(Option<(&'a dyn Housekeeper, u64)>);

impl<'a> Watched<'a> {
    fn begin(log: &'a Log) -> Self {
        let watched = log.housekeeper.as_deref();
        Self(watched.map(|keeper| (keeper, keeper.sync_begins(log.clock.elapsed()))))
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some((keeper, number)) = self.0 {
            keeper.sync_ended(number);
        }
    }
}

/// A sync write-protects the pages it wrote; the writer's next store would fault. Making them
/// writable again here, outside its lock, saves it that.
fn populate_again(segment: &Segment) {
    // Not mapped anew: a segment that was rolled away meanwhile has let go of its mapping.
    if let Some(map) = segment.held_mapping().filter(|map| map.is_writable()) {
        let tail = usize::try_from(segment.end_position()).unwrap_or(usize::MAX);
        // Only a hint: an error shows where it matters, at the next populate of the writer.
        let _ = map.populate_write(tail, PAGE);
    }
}

/// What one round of syncs covers.
struct Round {
    target: Offset,
    cuts: u64,
    pending: Vec<Pending>,
}

/// Leadership of one round. Dropping it publishes what was done, frees the place and wakes
/// everyone, on every way out.
struct Lead<'a> {
    log: &'a Log,
    end: End,
}

/// How a round ended.
enum End {
    Done(Round),
    /// All of its files were rolled away before, and what is written to others is not covered.
    Part(Round),
    /// Nothing failed that says anything of the disk.
    NoResult(Round),
    /// A failure has latched, or will: the thread panicked.
    Died,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let commit = &self.log.commit;
        let mut state = commit.state.lock();
        state.syncing = false;
        let mut listed = Vec::new();
        let mut counts = false;
        let end = std::mem::replace(&mut self.end, End::Died);
        let whole = matches!(end, End::Done(_));
        match end {
            End::Done(round) | End::Part(round) => {
                // What latched meanwhile, or a cut, makes the result worthless.
                counts = !self.log.latch.is_halted() && round.cuts == state.cuts;
                if counts {
                    if whole {
                        state.done = state.begun;
                        state.settle(&round.pending);
                    } else {
                        state.forget(&round.pending);
                    }
                    self.log.durable.fetch_max(round.target.get(), Ordering::AcqRel);
                }
                listed = round.pending;
            }
            // The files that it did sync stay on the list: who syncs a file again that has nothing
            // unsynced loses nothing.
            End::NoResult(round) => listed = round.pending,
            End::Died => {
                // A failure has latched; what has not is a panic on the way.
                let lost = io::Error::other("the thread that synced panicked");
                self.log.latch.halt(Error::io("sync", &self.log.place.dir, lost));
            }
        }
        let round = state.begun;
        drop(state);
        commit.ended(round).notify_all();
        if counts {
            commit.ended(round + 1).notify_one();
        } else {
            // Everyone is to see why, or to try it in its turn.
            commit.ended(round + 1).notify_all();
        }
        self.log.watchers.moved();
        // Emptied without the lock: the last share of a segment unmaps its file.
        listed.clear();
        commit.state.lock().spare = listed;
    }
}

impl State {
    /// Begins a round of the first files on the list, which makes what is below `target` durable.
    fn begin(&mut self, target: Offset, files: usize) -> Round {
        self.syncing = true;
        self.begun += 1;
        self.target = target;
        let mut pending = std::mem::take(&mut self.spare);
        pending.extend(self.pending.iter().take(files).cloned());
        Round { target, cuts: self.cuts, pending }
    }

    /// A round has synced these. All but the newest were rolled away before it began, so they have
    /// nothing unsynced left; of the newest only the names are done.
    fn settle(&mut self, synced: &[Pending]) {
        let Some((newest, older)) = synced.split_last() else { return };
        self.forget(older);
        for pending in &mut self.pending {
            if Arc::ptr_eq(&pending.segment, &newest.segment) {
                pending.folders.clear();
            }
        }
    }

    /// These are on the medium for good.
    fn forget(&mut self, synced: &[Pending]) {
        self.pending.retain(|p| !synced.iter().any(|s| Arc::ptr_eq(&s.segment, &p.segment)));
    }
}
