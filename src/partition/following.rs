//! What the replicas of a partition do beside each other: a follower copies, each syncs, and says
//! how far it is.
//!
//! With `Fsync` who syncs a follower copies before. Copied by another thread, a record or two woke
//! that one, and it the one that syncs: 64 threads of producers made a fifth fewer records a
//! second.
//!
//! Not here: the logs' part of it (`follower`), what follows from a report (`progress`), whose
//! thread it is (`broker`).
//!
//! A report is read and taken with the partition's state locked, so none is ever under way: what it
//! says still holds when it counts.
//!
//! Invariants
//!   1. One copies at a time: who has the replica's course.
//!   2. What is appended was fetched before it was looked up whether it counts. A batch that was
//!      stamped while the replica counted says of it only what is true.
//!   3. A replica says that it catches up from before its flag is set until after it is cleared.
//! Failure   what a follower cannot write is told to the overseer, and so is what a leader cannot
//!           read; a full disk is no failure, but does not keep anyone waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::appending::housekeep_inline;
use super::follower::{Fetched, Source, Trouble, align, take_over};
use super::mending::Bad;
use super::progress::{Copying, Fetch, Holding, Position};
use super::replica::{Course, Replica};
use super::replica_set::{Partition, State};
use crate::config::{Durability, FETCH_BYTES};
use crate::error::Error;
use crate::id::{LeaderEpoch, Offset, VolumeId};
use crate::log::Chunk;

/// How much whoever waits copies at a time, and how often.
const HELP_BYTES: usize = 64 << 10;
const HELPS_MAX: usize = 8;

/// Whether there is more to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before the replica is told.
    Done,
    More,
    /// What it did not have then it may have in a while: room, or a descriptor.
    Later,
}

/// What a follower has to know of its leader.
struct View<'p> {
    epoch: LeaderEpoch,
    leader: &'p Replica,
    copying: Copying,
    synced: Offset,
}

impl Partition {
    /// Tells those that do not lead that there is something to copy.
    pub(super) fn tell_followers(self: &Arc<Self>) {
        let leader = self.leader();
        for replica in self.replicas().filter(|replica| !std::ptr::eq(*replica, leader)) {
            replica.tell_to_copy(self);
        }
    }

    /// The same where what is copied is to be synced: who syncs copies before.
    pub(super) fn tell_followers_to_sync(self: &Arc<Self>) {
        let leader = self.leader();
        for replica in self.replicas().filter(|replica| !std::ptr::eq(*replica, leader)) {
            replica.tell_to_sync(self);
        }
    }

    /// Takes over some of what the leader has, on this volume.
    pub(crate) fn follow(self: &Arc<Self>, volume: VolumeId) -> Step {
        let Some(replica) = self.on(volume) else { return Step::Done };
        replica.copies_now();
        // Who has it is told that there is more to be done than it may know of: another leader to
        // align with, where the two logs end alike.
        let Some(mut course) = replica.take_course_or_ask() else { return Step::Done };
        let view = self.view(replica);
        let step = view.as_ref().map(|view| self.step(replica, view, &mut course));
        let is_wanted = replica.give_course(course);
        let copied = match (step, view) {
            (Some(Err(trouble)), Some(view)) => self.in_trouble(replica, view.leader, trouble),
            (Some(Ok(step)), _) => step,
            _ => Step::Done,
        };
        let copied = if is_wanted && copied == Step::Done { Step::More } else { copied };
        if !replica.damage.lock().is_due() {
            return copied;
        }
        match (copied, self.mend(replica)) {
            (Step::Done, mended) => mended,
            (copied, _) => copied,
        }
    }

    fn in_trouble(self: &Arc<Self>, replica: &Replica, leader: &Replica, trouble: Trouble) -> Step {
        match trouble {
            // Another one leads, or it does itself.
            Trouble::Own(Error::NotLeader { .. }) => Step::More,
            // It was cut meanwhile, or does not fit: not at once again, whatever it is.
            Trouble::Own(Error::Truncated { .. }) => Step::Later,
            Trouble::Own(Error::Closed) | Trouble::Leader(Error::Closed) => Step::Done,
            Trouble::Own(Error::StorageFull(_)) => {
                replica.is_full.store(true, Ordering::Relaxed);
                self.is_stuck(replica.volume);
                self.look();
                Step::Later
            }
            Trouble::Own(error) if is_passing(&error) => Step::Later,
            Trouble::Leader(error) if is_passing(&error) => Step::Later,
            Trouble::Own(error) => {
                self.failed(replica, &error);
                Step::Done
            }
            Trouble::Leader(Error::Corrupt(damage)) => {
                self.goes_on_behind(replica, Bad { first: damage.first, end: damage.end })
            }
            // Deleted below it meanwhile.
            Trouble::Leader(Error::OffsetOutOfRange(_)) => Step::More,
            Trouble::Leader(error) => {
                self.failed(leader, &error);
                Step::Done
            }
        }
    }

    fn view(&self, replica: &Replica) -> Option<View<'_>> {
        let state = self.state.lock();
        let progress = state.progress.as_ref()?;
        let leader = self.leader();
        (!std::ptr::eq(leader, replica)).then(|| View {
            epoch: progress.epoch(),
            leader,
            copying: progress.copying(replica.volume),
            synced: progress.synced(),
        })
    }

    fn step(
        self: &Arc<Self>,
        replica: &Replica,
        view: &View<'_>,
        course: &mut Course,
    ) -> Result<Step, Trouble> {
        let (log, leads) = (&replica.log, &view.leader.log);
        if course.epoch != Some(view.epoch) && !self.align(replica, view, course)? {
            return Ok(Step::Done);
        }
        match view.copying {
            Copying::LeavesFirst => {
                self.look();
                return Ok(Step::Done);
            }
            Copying::Counts if replica.catching_up.load(Ordering::Relaxed) => {
                if log.end_offset() >= view.synced {
                    log.end_catching_up().map_err(Trouble::Own)?;
                    replica.catching_up.store(false, Ordering::Relaxed);
                    self.report(replica);
                }
            }
            Copying::CatchesUp => self.catch_up(replica)?,
            Copying::Counts => {}
        }
        let fetched = match course
            .source
            .fetch(leads, log.end_offset(), FETCH_BYTES)
            .map_err(Trouble::Leader)?
        {
            Fetched::Batches(chunk) => Some(chunk),
            Fetched::Nothing => None,
            Fetched::LeftBehind => {
                log.role.align_again(view.epoch);
                course.epoch = None;
                return Ok(Step::More);
            }
        };
        // Looked up after the fetch: see the second invariant.
        match self.view(replica) {
            Some(now) if now.epoch == view.epoch => match now.copying {
                Copying::LeavesFirst => return Ok(Step::More),
                Copying::CatchesUp => self.catch_up(replica)?,
                Copying::Counts => {}
            },
            _ => return Ok(Step::More),
        }
        take_over(leads, log, view.epoch, fetched.as_ref()).map_err(Trouble::Own)?;
        if fetched.is_some() {
            replica.is_full.store(false, Ordering::Relaxed);
        }
        log.touch();
        let catches_up = replica.catching_up.load(Ordering::Relaxed);
        let is_to_sync = log.options.durability == Durability::Fsync
            || (catches_up && fetched.is_none())
            || !replica.has_crew();
        if is_to_sync && log.durable_offset() < log.end_offset() {
            self.sync_follower(replica, catches_up)?;
        } else {
            self.report(replica);
        }
        let is_behind = log.end_offset() < leads.end_offset();
        // Admitted by what it has just said: its flag is to be cleared.
        let is_admitted = || self.view(replica).is_some_and(|now| now.copying == Copying::Counts);
        let goes_on = is_behind || (catches_up && (fetched.is_some() || is_admitted()));
        Ok(if goes_on { Step::More } else { Step::Done })
    }

    /// By the volume's threads that sync, beside what is copied next; at once where it is waited
    /// for.
    fn sync_follower(self: &Arc<Self>, replica: &Replica, at_once: bool) -> Result<(), Trouble> {
        if replica.has_crew() && !at_once {
            replica.tell_to_sync(self);
            return Ok(());
        }
        let log = &replica.log;
        if replica.has_crew() || log.options.durability == Durability::Fsync || at_once {
            log.sync_to(log.end_offset()).map_err(Trouble::Own)?;
        }
        self.report(replica);
        if !replica.has_crew() {
            housekeep_inline(log);
        }
        Ok(())
    }

    /// Makes the replica's log agree with the leader's. False if it has nothing to do with that.
    fn align(
        self: &Arc<Self>,
        replica: &Replica,
        view: &View<'_>,
        course: &mut Course,
    ) -> Result<bool, Trouble> {
        let (log, leads) = (&replica.log, &view.leader.log);
        if !log.role.align_in(view.epoch) {
            return Ok(false);
        }
        // The log start is the partition's: the leader may not have heard of it yet.
        let start = log.start_offset();
        if start > leads.start_offset() && start <= self.high_watermark() {
            leads.trim_to(start).map_err(Trouble::Leader)?;
        }
        align(leads, log)?;
        if !log.role.follow_in(view.epoch) {
            return Ok(false);
        }
        *course = Course { epoch: Some(view.epoch), source: Source::new() };
        self.report(replica);
        Ok(true)
    }

    /// Sets the flag, unless it is set.
    fn catch_up(&self, replica: &Replica) -> Result<(), Trouble> {
        if replica.catching_up.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut state = self.state.lock();
        replica.catching_up.store(true, Ordering::Relaxed);
        self.take_report(&mut state, replica);
        self.publish(state);
        replica.log.begin_catching_up().map_err(Trouble::Own)
    }

    /// Syncs what the log on this volume holds, a follower's with what its leader has by then.
    pub(crate) fn sync(self: &Arc<Self>, volume: VolumeId) -> Step {
        let Some(replica) = self.on(volume) else { return Step::Done };
        let keeps_up = self.take_along(replica);
        let log = &replica.log;
        let synced = log.sync_to(log.end_offset()).map(|()| {
            // Read before it is said: what is durable beyond it, a seal may have synced.
            let said = log.durable_offset();
            self.report(replica);
            said
        });
        replica.has_synced();
        let goes_on = match synced {
            Ok(said) => {
                let end = log.end_offset();
                let is_behind = end < self.log().end_offset();
                if is_behind && !keeps_up {
                    // 1. The thread that copies has been told, and is done; 2. more is appended,
                    // and this one is told, before it says that it has synced; 3. nobody copies it.
                    replica.tell_to_copy(self);
                }
                said < end || (keeps_up && is_behind)
            }
            // Cut meanwhile.
            Err(Error::Truncated { .. }) => true,
            Err(Error::Closed) => false,
            Err(error) if is_passing(&error) => return Step::Later,
            Err(error) => {
                self.failed(replica, &error);
                false
            }
        };
        if goes_on && replica.syncs_again() { Step::More } else { Step::Done }
    }

    /// Before a follower's sync: copies what there is, so that all that came in during the last one
    /// goes with this one. False if that is not for it to do: the thread that copies is told then,
    /// and tells to sync what it has copied.
    fn take_along(self: &Arc<Self>, replica: &Replica) -> bool {
        let leader = self.leader();
        if std::ptr::eq(leader, replica) || replica.log.options.durability != Durability::Fsync {
            return false;
        }
        let is_behind = || replica.log.end_offset() < leader.log.end_offset();
        // The thread that answers for the volume is another one.
        let _watched = replica.log.watch();
        for _ in 0..HELPS_MAX {
            if !is_behind() {
                return true;
            }
            if !self.copy_some(replica, FETCH_BYTES, false) {
                replica.tell_to_copy(self);
                return false;
            }
        }
        true
    }

    /// A replica says how far it is.
    pub(super) fn report(self: &Arc<Self>, replica: &Replica) {
        let mut state = self.state.lock();
        self.take_report(&mut state, replica);
        let joins = state.progress.as_ref().is_some_and(|it| it.may_join(replica.volume));
        self.publish(state);
        if joins {
            self.look();
        }
    }

    fn take_report(&self, state: &mut State, replica: &Replica) {
        self.refresh(state);
        let Some(progress) = &mut state.progress else { return };
        let (epoch, log) = (progress.epoch(), &replica.log);
        if !log.role.follows_in(epoch) {
            return;
        }
        // In this order: what is durable is not above the end.
        let durable = log.durable_offset();
        let catches_up = replica.catching_up.load(Ordering::Relaxed);
        let fetch = Fetch {
            volume: replica.volume,
            incarnation: replica.incarnation,
            epoch,
            position: Position { end: log.end_offset(), durable },
            holding: if catches_up { Holding::CatchingUp } else { Holding::Whole },
        };
        // Of a volume that was put out: it counts for nothing.
        let _ = progress.fetched(&fetch, self.now());
    }

    /// Takes over how far the leader is.
    pub(super) fn refresh(&self, state: &mut State) {
        let Some(progress) = &mut state.progress else { return };
        let log = self.log();
        if log.role.leads_in(progress.epoch()) {
            let durable = log.durable_offset();
            progress.leader_at(Position { end: log.end_offset(), durable });
        }
    }

    /// Says everywhere what is committed now, and unlocks. True if that is more than before.
    ///
    /// Told is what was not told before, and not what moved: whoever looks raises the high
    /// watermark too, as soon as the log knows.
    pub(super) fn publish(&self, mut state: MutexGuard<'_, State>) -> bool {
        let Some(progress) = &state.progress else { return false };
        let (committed, synced) = (progress.high_watermark(), progress.synced());
        let epoch = progress.epoch();
        self.log().role.say(committed, synced);
        let is_enough = progress.can_append(crate::config::Acks::All).is_ok();
        self.enough.store(is_enough, Ordering::Relaxed);
        self.high_watermark.fetch_max(committed.get(), Ordering::AcqRel);
        let moved = committed > std::mem::replace(&mut state.told, committed);
        let woken = state.waiters.committed(epoch, committed);
        if state.waiting > 0 {
            self.leader_synced.notify_all();
            if moved {
                self.moved.notify_all();
            }
        }
        drop(state);
        woken.wake();
        if moved {
            self.watchers.moved();
        }
        moved
    }

    /// What the leader has by itself may be committed now.
    pub(super) fn advance(&self) {
        let mut state = self.state.lock();
        self.refresh(&mut state);
        self.publish(state);
    }

    /// Whoever waits for all does the followers' copies itself, where that is quick: without a
    /// roll, growth or system call, into memory that is there. Else the followers are told.
    pub(super) fn help(self: &Arc<Self>, leader: &Replica) {
        let others = || self.replicas().filter(|replica| !std::ptr::eq(*replica, leader));
        // Whoever syncs was told, and says how far the replica is then.
        if leader.log.options.durability == Durability::Fsync {
            return;
        }
        for replica in others() {
            let is_behind = || replica.log.end_offset() < leader.log.end_offset();
            // Somebody else may have the course: who has it looks again after it gave it back.
            for _ in 0..HELPS_MAX {
                if !is_behind() || !self.copy_some(replica, HELP_BYTES, true) {
                    break;
                }
                self.report(replica);
            }
            if is_behind() {
                replica.tell_to_copy(self);
            }
        }
        // With nobody else in sync no report says how far the leader is.
        if self.high_watermark() < leader.log.end_offset() {
            self.advance();
        }
    }

    /// One copy of a replica that counts; with `at_once` if nothing keeps the caller waiting. False
    /// if something does, or nothing came of it.
    fn copy_some(self: &Arc<Self>, replica: &Replica, bytes_max: usize, at_once: bool) -> bool {
        let Some(mut course) = replica.take_course() else { return false };
        let copied = self.view(replica).is_some_and(|view| {
            let counts = view.copying == Copying::Counts && course.epoch == Some(view.epoch);
            counts
                && !replica.catching_up.load(Ordering::Relaxed)
                && self.copy_fetched(replica, &view, &mut course, (bytes_max, at_once))
        });
        if replica.give_course(course) {
            replica.tell_to_copy(self);
        }
        if copied {
            replica.is_full.store(false, Ordering::Relaxed);
            replica.log.touch();
        }
        copied
    }

    fn copy_fetched(
        &self,
        replica: &Replica,
        view: &View<'_>,
        course: &mut Course,
        (bytes_max, at_once): (usize, bool),
    ) -> bool {
        let (log, leads) = (&replica.log, &view.leader.log);
        let fetched = course.source.fetch(leads, log.end_offset(), bytes_max);
        let Ok(Fetched::Batches(chunk)) = fetched else { return false };
        let counts = |now: View<'_>| now.epoch == view.epoch && now.copying == Copying::Counts;
        // What is refused here its own thread finds out, and says.
        (!at_once || log.takes_at_once(chunk.view.len()))
            && leads.start_offset() <= log.start_offset()
            && self.view(replica).is_some_and(counts)
            && take_over(leads, log, view.epoch, Some(&chunk)).is_ok()
    }

    /// Without threads: everything that the replicas have to do.
    pub(crate) fn work_inline(self: &Arc<Self>) {
        let leader = self.leader();
        self.advance();
        for replica in self.replicas().filter(|replica| !std::ptr::eq(*replica, leader)) {
            while self.follow(replica.volume) == Step::More {}
        }
        housekeep_inline(&leader.log);
        if leader.damage.lock().is_due() {
            self.mend(leader);
        }
        if let Some(overseer) = &self.overseer {
            overseer.work_off();
        }
    }

    pub(super) fn look(self: &Arc<Self>) {
        if let Some(overseer) = &self.overseer {
            overseer.look(self);
        }
    }

    /// Tells the overseer that this replica's volume fails.
    pub(super) fn failed(&self, replica: &Replica, error: &Error) {
        if let Some(overseer) = &self.overseer {
            overseer.failed(replica.volume, replica.incarnation, error);
        }
    }

    /// Reads of the partition that `asked` could not serve, which led then: any replica in sync has
    /// what is committed. Another one may lead by now, against which that is no evidence.
    pub(crate) fn read_elsewhere(
        self: &Arc<Self>,
        (asked, error): (&Replica, Error),
        (cursor, upto): (&mut crate::log::ReadCursor, Offset),
        bytes_max: usize,
        reads: crate::config::Reads,
    ) -> crate::error::Result<Option<Chunk>> {
        let in_sync: Vec<VolumeId> = match &self.state.lock().progress {
            Some(progress) => progress.isr().collect(),
            None => Vec::new(),
        };
        let is_bad = |replica: &Replica, error: &Error| match error {
            Error::Corrupt(it) => self.is_bad(replica, Bad { first: it.first, end: it.end }),
            error if is_passing(error) => {}
            error => self.failed(replica, error),
        };
        is_bad(asked, &error);
        for volume in in_sync.into_iter().filter(|volume| *volume != asked.volume) {
            let Some(replica) = self.on(volume) else { continue };
            let mut there = crate::log::ReadCursor::at(cursor.offset());
            match replica.log.read(&mut there, upto, bytes_max, reads) {
                Ok(Some(chunk)) => {
                    *cursor = there;
                    return Ok(Some(chunk));
                }
                Err(other @ Error::Corrupt(_)) => is_bad(replica, &other),
                Ok(None) | Err(_) => {}
            }
        }
        Err(error)
    }
}

/// It may be otherwise in a while, and nothing has failed.
pub(super) fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Io(failure) if crate::fs::is_out_of_descriptors(&failure.source))
}
