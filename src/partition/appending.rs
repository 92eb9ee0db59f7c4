//! Appending to a partition, and waiting until what was appended is acknowledged.
//!
//! Not here: writing it (`log`), copying it (`following`), who leads (`leading`).
//!
//! Of several replicas whoever waits for all of them waits for the high watermark, and names the
//! epoch that it appended in: after an election another record may have its offset. Then it is
//! looked for in the new leader's log. What is still there is waited for; what was cut off is
//! appended again, with the same sequence; below the log start nobody can say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, MutexGuard};

use super::follower::Extent;
use super::following::is_passing;
use super::progress::Settled;
use super::replica::Replica;
use super::replica_set::{Partition, State};
use super::waiters::Slept;
use crate::config::{Acks, Compression, Durability};
use crate::error::{Error, NotAvailable, Result, TooFewInSync};
use crate::format::Record;
use crate::id::{Offset, VolumeId};
use crate::log::{Appended, Log, Origin, ProducerIdentity};

/// Without a thread of anybody's own, how often who waits looks whether there is more to be done.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long who finds the leader's disk full waits for another one to lead.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an append is to come to, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) acks: Acks,
    /// `None`: for ever.
    pub(crate) deadline: Option<Instant>,
}

impl Partition {
    /// Appends one batch and waits for its acknowledgement.
    #[inline]
    pub(crate) fn append(
        self: &Arc<Self>,
        producer: &ProducerIdentity,
        records: &[Record<'_>],
        compression: Compression,
        (acks, timeout): (Acks, Duration),
    ) -> Result<Appended> {
        if self.is_alone() {
            let wanted = Wanted { acks, deadline: None };
            let appended = self.begin(producer, records, compression, acks)?;
            self.acknowledge(&appended, wanted)?;
            return Ok(appended);
        }
        let wanted = Wanted { acks, deadline: Instant::now().checked_add(timeout) };
        loop {
            let appended = match self.begin(producer, records, compression, acks) {
                Err(Error::NotLeader { .. }) => {
                    self.wait_for_leader(wanted.deadline)?;
                    continue;
                }
                Err(Error::StorageFull(_)) if self.passes_on(wanted.deadline) => continue,
                begun => begun?,
            };
            match self.acknowledge(&appended, wanted) {
                // Cut off: it is in no log.
                Err(Error::Truncated { .. }) if !is_over(wanted.deadline) => {}
                acknowledged => return acknowledged.map(|()| appended),
            }
        }
    }

    /// Appends one batch. It is acknowledged by [`Self::acknowledge`], which is to follow: then
    /// several partitions can be appended to before the first sync is waited for.
    #[inline]
    pub(crate) fn begin(
        self: &Arc<Self>,
        producer: &ProducerIdentity,
        records: &[Record<'_>],
        compression: Compression,
        acks: Acks,
    ) -> Result<Appended> {
        if self.is_alone() {
            return self.log().append_of(Origin::Producer(producer), records, compression);
        }
        self.begin_among_several(producer, records, compression, acks)
    }

    fn begin_among_several(
        self: &Arc<Self>,
        producer: &ProducerIdentity,
        records: &[Record<'_>],
        compression: Compression,
        acks: Acks,
    ) -> Result<Appended> {
        if acks == Acks::All && !self.enough.load(Ordering::Relaxed) {
            // No lock is held, and without a thread nobody else has those catch up that are out.
            if !self.leader().has_crew() {
                self.work_inline();
            }
            let state = self.state.lock();
            if let Some(why) = &state.offline {
                return Err(why.clone());
            }
            if let Some(progress) = &state.progress
                && progress.can_append(acks).is_err()
            {
                return Err(Error::NotEnoughReplicas(Box::new(self.too_few(&state))));
            }
        }
        let leader = self.leader();
        let origin = Origin::Producer(producer);
        match leader.log.append_of(origin, records, compression) {
            Ok(appended) => {
                if leader.log.options.durability == Durability::Fsync {
                    leader.tell_to_sync(self);
                    self.tell_followers_to_sync();
                } else if acks != Acks::All {
                    // Who waits for all copies itself, or tells them then.
                    self.tell_followers();
                }
                leader.log.touch();
                Ok(appended)
            }
            Err(error @ (Error::Halted { .. } | Error::Io(_))) if !is_passing(&error) => {
                self.failed(leader, &error);
                // No lock is held, and without a thread nobody else looks.
                if !leader.has_crew() {
                    self.work_inline();
                }
                self.not_leader_yet(error)
            }
            Err(error @ Error::StorageFull(_)) => {
                self.found_full(leader);
                Err(error)
            }
            Err(other) => self.not_leader_yet(other),
        }
    }

    /// The leader's disk is full: another one is to lead, if one may have room. Whoever sends tries
    /// again.
    pub(crate) fn found_full(self: &Arc<Self>, leader: &Replica) {
        if self.is_alone() {
            return;
        }
        leader.is_full.store(true, Ordering::Relaxed);
        let Some(overseer) = self.overseer.as_ref().filter(|_| self.some_have_room()) else {
            return;
        };
        overseer.full(self);
        // No lock is held, and without a thread nobody else looks.
        if !leader.has_crew() {
            self.work_inline();
        }
    }

    fn some_have_room(&self) -> bool {
        let in_sync = self.standing().map(|standing| standing.isr).unwrap_or_default();
        in_sync.iter().any(|volume| self.on(*volume).is_some_and(|it| !it.is_full()))
    }

    /// After the leader's disk was found full: waits until another one leads, if one may have room.
    /// False if nobody does.
    pub(crate) fn passes_on(&self, deadline: Option<Instant>) -> bool {
        if self.is_alone() || !self.some_have_room() {
            return false;
        }
        let patience = Instant::now() + PATIENCE;
        let until = deadline.map_or(patience, |at| at.min(patience));
        let mut state = self.state.lock();
        while self.leader().is_full() && Instant::now() < until {
            if state.offline.is_some() || !self.leader().has_crew() {
                break;
            }
            wait(&self.moved, &mut state, Some(until));
        }
        !self.leader().is_full()
    }

    /// An error of an append that another leader may not have.
    fn not_leader_yet(&self, error: Error) -> Result<Appended> {
        if let Some(why) = &self.state.lock().offline {
            return Err(why.clone());
        }
        match error {
            Error::Halted { .. } | Error::Io(_) => self.leader().log.not_leader(),
            other => Err(other),
        }
    }

    /// Waits until what was appended, or was there before, is as durable as it is to be. An error
    /// never says that it was not written.
    pub(crate) fn acknowledge(self: &Arc<Self>, appended: &Appended, wanted: Wanted) -> Result<()> {
        let acknowledged = if self.is_alone() {
            self.acknowledge_alone(appended, wanted.acks)
        } else {
            self.acknowledge_among_several(appended, wanted)
        };
        acknowledged.map_err(|error| match error {
            // 1. The record is in the file, and its sync is waited for; 2. a deletion of the topic
            // fails half-way, and closes the log; 3. the next open may find topic and record.
            Error::Closed => {
                let deleted = std::io::Error::other("the topic was deleted meanwhile");
                let first = Error::io("acknowledge records in", &self.log().place.dir, deleted);
                Error::Halted { first: Arc::new(first) }
            }
            other => other,
        })
    }

    fn acknowledge_alone(&self, appended: &Appended, acks: Acks) -> Result<()> {
        let log = self.log();
        acknowledge_by(log, appended, acks)?;
        log.touch();
        if log.housekeeper.is_none() {
            housekeep_inline(log);
        }
        // Others may have been given its offsets since, and be as durable as it was to be.
        if log.holds(appended) { Ok(()) } else { Err(Error::Truncated { at: appended.base }) }
    }

    fn acknowledge_among_several(
        self: &Arc<Self>,
        appended: &Appended,
        wanted: Wanted,
    ) -> Result<()> {
        let leader = self.leader();
        let leads = leader.log.role.leads_in(appended.epoch);
        let inline = !leader.has_crew();
        if inline && leads {
            if let Err(error) = leader.log.sync_as_demanded(appended.awaited_end()) {
                self.failed(leader, &error);
            }
            self.work_inline();
        }
        match wanted.acks {
            Acks::None => return Ok(()),
            Acks::Leader if leads => {
                // Every acknowledgement looks once more at who leads after the write.
                let synced = inline || self.leader_has_synced(leader, appended, wanted.deadline)?;
                if synced
                    && leader.log.role.leads_in(appended.epoch)
                    && leader.log.check_latch().is_ok()
                {
                    return Ok(());
                }
            }
            Acks::All if leads && !inline => self.help(leader),
            Acks::Leader | Acks::All => {}
        }
        self.wait_committed(appended, wanted.deadline)
    }

    /// Waits until what is below the end is committed.
    fn wait_committed(
        self: &Arc<Self>,
        appended: &Appended,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let end = appended.awaited_end();
        let mut state = self.state.lock();
        loop {
            let settled = self.settled(&state, appended, end);
            match settled {
                Some(Settled::Committed) => return Ok(()),
                Some(Settled::NotEnoughAfterAppend) => {
                    return Err(Error::NotEnoughReplicasAfterAppend(Box::new(
                        self.too_few(&state),
                    )));
                }
                Some(Settled::CutOff) => return Err(Error::Truncated { at: appended.base }),
                Some(Settled::Unknown) => {
                    let gone = std::io::Error::other("its records were deleted meanwhile");
                    let first = Error::io("acknowledge records in", &self.log().place.dir, gone);
                    return Err(Error::Halted { first: Arc::new(first) });
                }
                Some(Settled::Waiting) | None => {}
            }
            if let Some(why) = &state.offline {
                let first = Arc::new(why.clone());
                return Err(Error::Halted { first });
            }
            self.log().check_open()?;
            if is_over(deadline) {
                return Err(Error::TimedOut { what: "replicas" });
            }
            if settled.is_none() {
                let soon = Instant::now() + LOOK_AGAIN;
                wait(&self.moved, &mut state, Some(deadline.map_or(soon, |at| at.min(soon))));
            } else if self.leader().has_crew() {
                let place = state.waiters.enter(appended.epoch, end);
                drop(state);
                match place.sleep(deadline) {
                    Slept::Committed => return Ok(()),
                    Slept::LooksAgain => {}
                    Slept::Over => {
                        if !self.state.lock().waiters.leave(&place) {
                            place.sleep(None);
                        }
                    }
                }
                state = self.state.lock();
            } else {
                let soon = Instant::now() + LOOK_AGAIN;
                wait(&self.moved, &mut state, Some(deadline.map_or(soon, |at| at.min(soon))));
                drop(state);
                self.work_inline();
                state = self.state.lock();
            }
        }
    }

    /// What became of what was appended; waits where nobody leads. `None` while somebody writes to
    /// the log that tells, perhaps in a call that hangs: nobody waits for that with the state
    /// locked.
    fn settled(&self, state: &State, appended: &Appended, end: Offset) -> Option<Settled> {
        let Some(progress) = &state.progress else { return Some(Settled::Waiting) };
        if progress.epoch() == appended.epoch {
            let nothing = Extent::default();
            return Some(progress.settle(appended.epoch, end, nothing.history()));
        }
        let extent = Extent::of_if_free(self.log())?;
        Some(progress.settle(appended.epoch, end, extent.history()))
    }

    /// True once the leader has synced what was appended; false if it does not lead any more.
    fn leader_has_synced(
        &self,
        leader: &super::Replica,
        appended: &Appended,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        let log = &leader.log;
        if log.options.durability != Durability::Fsync {
            return Ok(true);
        }
        let mut state = self.state.lock();
        loop {
            if log.durable_offset() >= appended.awaited_end() {
                return Ok(true);
            }
            if !log.role.leads_in(appended.epoch) || state.offline.is_some() {
                return Ok(false);
            }
            log.check_open()?;
            if is_over(deadline) {
                return Err(Error::TimedOut { what: "a sync" });
            }
            wait(&self.leader_synced, &mut state, deadline);
        }
    }

    /// Waits until somebody leads.
    ///
    /// # Errors
    /// Why nobody does, or will.
    fn wait_for_leader(self: &Arc<Self>, deadline: Option<Instant>) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if self.log().role.may_append() && self.log().check_latch().is_ok() {
                return Ok(());
            }
            if let Some(why) = &state.offline {
                return Err(why.clone());
            }
            self.log().check_open()?;
            if is_over(deadline) {
                return self.log().not_leader();
            }
            if self.leader().has_crew() {
                wait(&self.moved, &mut state, deadline);
            } else {
                drop(state);
                self.work_inline();
                state = self.state.lock();
                let soon = Instant::now() + LOOK_AGAIN;
                wait(&self.moved, &mut state, Some(deadline.map_or(soon, |at| at.min(soon))));
            }
        }
    }

    /// True if the partition still holds what was appended to it, deleted since or not.
    pub(crate) fn holds(&self, appended: &Appended) -> bool {
        if self.is_alone() {
            return self.log().holds(appended);
        }
        let mut state = self.state.lock();
        loop {
            if let Some(settled) = self.settled(&state, appended, appended.awaited_end()) {
                return settled != Settled::CutOff;
            }
            wait(&self.moved, &mut state, Some(Instant::now() + LOOK_AGAIN));
        }
    }

    /// Waits until everything below `offset` is as durable as the topic asks.
    pub(crate) fn settle(&self, offset: Offset) -> Result<()> {
        match self.log().options.durability {
            Durability::Fsync => self.log().sync_to(offset),
            Durability::Interval(_) | Durability::Os => Ok(()),
        }
    }

    fn too_few(&self, state: &State) -> TooFewInSync {
        let in_sync = state.progress.as_ref().map_or(0, |progress| progress.isr().count());
        TooFewInSync {
            topic: Arc::clone(&self.log().place.topic),
            partition: self.number(),
            in_sync,
            min_insync: state.rules.min_insync,
        }
    }

    /// Nobody can lead: this volume would have to.
    pub(crate) fn not_available(&self, volume: VolumeId) -> Error {
        let (topic, partition) = (Arc::clone(&self.log().place.topic), self.number());
        Error::LeaderNotAvailable(Box::new(NotAvailable { topic, partition, volume }))
    }
}

fn wait(what: &Condvar, state: &mut MutexGuard<'_, State>, deadline: Option<Instant>) {
    state.waiting += 1;
    match deadline {
        None => what.wait(state),
        Some(at) => {
            what.wait_until(state, at);
        }
    }
    state.waiting -= 1;
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|at| Instant::now() >= at)
}

/// Does for one log what the acknowledgement of an append asks for.
fn acknowledge_by(log: &Log, appended: &Appended, acks: Acks) -> Result<()> {
    match (log.options.durability, acks) {
        (Durability::Fsync, Acks::Leader | Acks::All) => log.sync_appended(appended.awaited_end()),
        // Nobody else would sync it.
        (Durability::Fsync, Acks::None) if log.housekeeper.is_none() => {
            log.sync_appended(appended.awaited_end())
        }
        (Durability::Fsync, Acks::None) => {
            // Synced at once, by the volume's thread.
            log.urge();
            Ok(())
        }
        (Durability::Interval(_) | Durability::Os, _) => {
            log.watchers.moved();
            // Every acknowledgement looks at the latch once more after the write: the log may have
            // halted under it. A close under it is none: it synced the record.
            if log.latch.is_halted() { log.check_latch() } else { Ok(()) }
        }
    }
}

/// Without a thread of its own the broker does what is due after each append. The append is
/// acknowledged already: an error here shows at the next one, or has halted the log.
pub(super) fn housekeep_inline(log: &Log) {
    let now = u64::try_from(log.clock.now_ms()).unwrap_or(0);
    let _ = log.housekeep_all(Duration::from_millis(now));
    log.look_ahead_if_due();
}
