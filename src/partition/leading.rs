//! Who leads a partition of several replicas, and who is in sync: what is decided elsewhere is
//! taken over here.
//!
//! Not here: the decisions (`broker`), which are durable before they come here; the rules
//! (`progress`).
//!
//! The order of taking over: the log leads, so that nothing is copied to it any more; the rules of
//! the new epoch count; then it is the one that everyone asks.
//!
//! Threads   one decides at a time: who holds the broker's metadata.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::appending::LOOK_AGAIN;
use super::divergence::{Alignment, divergence};
use super::follower::Extent;
use super::progress::{
    Decision, Evidence, IsrChange, Position, Progress, Term, high_watermark_at_open,
};
use super::replica::Replica;
use super::replica_set::{Partition, State};
use crate::error::{Error, Result};
use crate::id::{Incarnation, LeaderEpoch, Offset, VolumeId};
use crate::log::{Log, ReadCursor};

/// A replica of the assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) volume: VolumeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) live: bool,
}

/// How a partition of several replicas stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) leader: VolumeId,
    pub(crate) isr: Vec<VolumeId>,
}

impl Partition {
    /// Another term begins, by an election that is durable. `seats` are all replicas, in the order
    /// of the assignment. With `loses` the high watermark begins where the logs say.
    ///
    /// # Errors
    /// Of the new leader's log; then it does not lead.
    pub(crate) fn lead(self: &Arc<Self>, term: &Term, seats: &[Seat], loses: bool) -> Result<()> {
        let Some((number, replica)) = self.replica_on(term.leader) else {
            return Err(self.not_available(term.leader));
        };
        let log = &replica.log;
        log.check_latch()?;
        let end = log.lead_in(term.epoch)?;
        if log.is_catching_up() {
            // Elected uncleanly. Nothing is copied to it any more.
            log.end_catching_up()?;
        }
        let leader_at = Position { end, durable: log.durable_offset() };
        let begins = loses || self.state.lock().progress.is_none();
        let alone_until = self.state.lock().alone_until.take();
        let start = match alone_until {
            // What was committed by the one that was alone stays so.
            Some(committed) => Some((committed, log.durable_offset())),
            None if begins => Some(self.start_of(term, log)?),
            None => None,
        };
        let now = self.now();
        let mut state = self.state.lock();
        let mut progress = match (&state.progress, start) {
            (Some(progress), None) => {
                let replicas: Vec<_> = seats.iter().map(|it| (it.volume, it.incarnation)).collect();
                progress.with_replicas(&replicas).next_term(term, leader_at, now)
            }
            (_, start) => {
                let replicas: Vec<_> = seats.iter().map(|it| (it.volume, it.incarnation)).collect();
                let start = start.unwrap_or_default();
                Progress::new(state.rules, &replicas, term, leader_at, start, now)
            }
        };
        for gone in seats.iter().filter(|seat| !seat.live) {
            progress.fenced(gone.volume);
        }
        if begins {
            self.high_watermark.store(progress.high_watermark().get(), Ordering::Release);
        }
        replica.catching_up.store(false, Ordering::Relaxed);
        state.progress = Some(progress);
        state.offline = None;
        self.leads.store(number, Ordering::Release);
        self.publish(state);
        self.wake();
        self.tell_followers();
        if replica.damage.lock().is_due() {
            replica.tell_to_copy(self);
        }
        Ok(())
    }

    /// It was alone, and gets company: from now on what is committed is said to its log. The next
    /// term is to follow.
    pub(crate) fn gets_company(&self, replica: Replica) {
        replica.log.role.wait();
        self.more.add(vec![replica]);
        if !self.is_alone() {
            return;
        }
        // Before the look at what is committed by then: nobody finds more by itself after that.
        let mut state = self.state.lock();
        self.several.store(true, Ordering::SeqCst);
        let (committed, log) = (self.own_high_watermark(), self.log());
        log.role.say(committed, log.durable_offset().min(committed));
        state.alone_until = Some(committed);
        drop(state);
        // Consumers have registered with the log alone so far.
        log.watchers.moved();
    }

    /// The replica on this volume is one no more. Its files are nobody's.
    pub(crate) fn lets_go_of(&self, volume: VolumeId) -> Option<Arc<Log>> {
        let (_, replica) = self.replica_on(volume)?;
        replica.left.store(true, Ordering::Release);
        Some(Arc::clone(&replica.log))
    }

    /// Members that end below what the others have deleted are none: they hold nothing of what is
    /// kept, and one that led would begin below what is committed.
    pub(crate) fn leave_out_the_empty(&self, term: &mut Term) {
        let starts = term.isr.iter().filter_map(|volume| self.on(*volume));
        let start = starts.map(|member| member.log.start_offset()).max().unwrap_or_default();
        let (isr, leader) = (&mut term.isr, term.leader);
        isr.retain(|volume| {
            let ends = self.on(*volume).map(|member| member.log.end_offset());
            *volume == leader || ends.is_some_and(|end| end >= start)
        });
    }

    /// Where the high watermark begins, and what batches say is synced everywhere.
    fn start_of(&self, term: &Term, leads: &Arc<Log>) -> Result<(Offset, Offset)> {
        let members = || term.isr.iter().filter_map(|volume| self.on(*volume));
        // What a member has deleted was committed. 1. The leader deletes records; 2. the store is
        // opened anew, and another one leads, which has not heard of that; 3. the high watermark
        // begins below what the first one kept, and it would have to start over.
        let highest = members().map(|member| member.log.start_offset()).max();
        let start = highest.unwrap_or_default().min(leads.end_offset());
        if start > leads.start_offset() {
            leads.trim_to(start)?;
        }
        let synced = largest_stamp(leads)?;
        let leader = Extent::of(leads);
        let evidence: Vec<Evidence> = members()
            .map(|member| {
                let ours = Extent::of(&member.log);
                let agrees_to = match divergence(leader.history(), ours.history()) {
                    Alignment::CutTo(end) => end,
                    Alignment::StartOverAt(start) => start,
                };
                Evidence { durable: member.log.durable_offset(), agrees_to }
            })
            .collect();
        let min_insync = self.state.lock().rules.min_insync;
        let start = high_watermark_at_open(evidence.into_iter(), min_insync, synced);
        Ok((start.max(leads.start_offset()), synced))
    }

    /// Nobody can lead, for this reason.
    pub(crate) fn go_offline(&self, why: Error) {
        self.state.lock().offline = Some(why);
        self.wake();
    }

    /// Waits until nobody waits for replicas, or the time is over: nothing is copied after it.
    pub(crate) fn let_waiters_go(&self, until: Instant) {
        let mut state = self.state.lock();
        let waits = |state: &State| state.waiting > 0 || !state.waiters.is_empty();
        while waits(&state) && self.leader().has_crew() && Instant::now() < until {
            // They tell nobody that they go; what lets them go is told.
            self.moved.wait_until(&mut state, until.min(Instant::now() + LOOK_AGAIN));
        }
    }

    /// Its logs are closed: whoever waits is told.
    pub(crate) fn end(&self) {
        // One that had halted before does not say that it was closed.
        if self.log().check_open().is_ok() {
            self.state.lock().offline.get_or_insert(Error::Closed);
        }
        self.wake();
    }

    fn wake(&self) {
        let woken = self.state.lock().waiters.look_again();
        woken.wake();
        self.moved.notify_all();
        self.leader_synced.notify_all();
        self.watchers.moved();
    }

    /// A volume is gone. True if the partition has to elect another leader.
    pub(crate) fn fence(&self, volume: VolumeId) -> bool {
        let mut state = self.state.lock();
        if let Some(progress) = &mut state.progress {
            progress.fenced(volume);
        }
        let leader = self.leader();
        let led = leader.volume == volume;
        if led {
            leader.log.role.fence();
        }
        let moved = self.publish(state);
        if moved || led {
            self.wake();
        }
        led
    }

    /// The volume does not take what it is to copy: nobody waits for it while that is so.
    pub(crate) fn is_stuck(&self, volume: VolumeId) {
        if let Some(progress) = &mut self.state.lock().progress {
            progress.stuck(volume);
        }
    }

    /// Whether a member holds all that the leader did when this term began.
    pub(crate) fn has_caught_up(&self, volume: VolumeId) -> bool {
        let state = self.state.lock();
        state.progress.as_ref().is_some_and(|progress| progress.has_caught_up(volume))
    }

    /// Takes no more appends before the next term.
    pub(crate) fn stop_leading(&self) {
        self.log().role.fence();
        self.wake();
    }

    /// The election that it was to stop for did not come about. True if it leads as before.
    pub(crate) fn leads_on(&self) -> bool {
        let state = self.state.lock();
        let epoch = state.progress.as_ref().map(Progress::epoch);
        let log = self.log();
        let leads = epoch.is_some_and(|epoch| log.role.leads_on(epoch));
        drop(state);
        self.wake();
        leads && log.check_latch().is_ok()
    }

    /// What the time brings: a change of the ISR that is to be made durable. [`Self::decided`] is
    /// to follow.
    pub(crate) fn tick(&self, now: Duration) -> Option<IsrChange> {
        let mut state = self.state.lock();
        self.refresh(&mut state);
        let change = state.progress.as_mut()?.tick(now);
        self.publish(state);
        change
    }

    /// What became of the change of the ISR.
    pub(crate) fn decided(self: &Arc<Self>, decision: Decision) {
        let mut state = self.state.lock();
        if let Some(progress) = &mut state.progress {
            progress.decided(decision);
        }
        self.publish(state);
        self.wake();
        // Who had to leave first may copy now.
        self.tell_followers();
    }

    /// How it stands; `None` for one replica alone, and before one leads.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let state = self.state.lock();
        let Some(progress) = &state.progress else { return state.seen.clone() };
        let isr = progress.isr().collect();
        Some(Standing { epoch: progress.epoch(), leader: self.leader().volume, isr })
    }

    /// Nobody leads, nor will before something changes.
    pub(crate) fn is_offline(&self) -> bool {
        self.log().latch.is_refused() || self.state.lock().offline.is_some()
    }
}

/// What the last batch of a log says is synced everywhere: no other says more.
pub(super) fn largest_stamp(log: &Log) -> Result<Offset> {
    let (start, end) = (log.start_offset(), log.end_offset());
    let Some(last) = end.get().checked_sub(1).map(Offset::new).filter(|last| *last >= start) else {
        return Ok(start);
    };
    let mut cursor = ReadCursor::stored_at(last);
    match log.read(&mut cursor, end, 1, log.options.reads()) {
        Ok(Some(chunk)) => Ok(chunk.synced().unwrap_or(start).max(start)),
        // What cannot be read says nothing; the log itself was synced up to its end.
        Ok(None) | Err(Error::Corrupt(_)) => Ok(start),
        Err(error) => Err(error),
    }
}
