//! Who decides for all partitions: which volumes are out, who leads, who is in sync.
//!
//! Not here: the rules (`election`, `heartbeat`, `partition::progress`); making a change durable
//! (`metadata`).
//!
//! Decisions are made one after the other, with the metadata locked: what was proposed is durable,
//! or was not made, before the next one is looked for. So no election ever meets a change of an ISR
//! that is still on its way.
//!
//! | what comes in | what follows |
//! | --- | --- |
//! | a volume failed | it is put out: no write waits for it any more; others lead what it led |
//! | a replica may join, or lags | the ISR changes |
//! | the time | the same is looked for everywhere, and volumes are asked whether they are there |
//!
//! Threads   `plimsoll-controller`, one per broker of several volumes; with `Background::Inline`
//!           whoever appends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::broker::background::Background;
use crate::broker::broker::{Inner, change};
use crate::broker::election::{
    Ballot, Candidate, Election, ElectionKind, Fitness, Presence, UncleanElection,
};
use crate::broker::heartbeat::{Action, Answer, Cause, Monitor};
use crate::broker::metadata::Metadata;
use crate::broker::topic::TopicState;
use crate::broker::volumes::Member;
use crate::error::{Error, Result};
use crate::format::{Assigned, Assignment, MetadataRecord, Standing};
use crate::fs::ForkMark;
use crate::id::{Incarnation, LeaderEpoch, Offset, VolumeId};
use crate::log::Log;
use crate::partition::{Decision, IsrChange, Notice, Overseer, Partition, Replica, Seat};
use crate::trace;

/// What was decided since the open. Relaxed: the counts order nothing.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) put_out: AtomicU64,
    pub(crate) waited_for: AtomicU64,
    /// By how much the checks came too late, all in all.
    pub(crate) late_ms: AtomicU64,
    pub(crate) elections: AtomicU64,
    pub(crate) unclean_elections: AtomicU64,
    pub(crate) isr_shrinks: AtomicU64,
    pub(crate) isr_expands: AtomicU64,
    pub(crate) damage_found: AtomicU64,
    pub(crate) damage_mended: AtomicU64,
    pub(crate) bytes_scrubbed: AtomicU64,
}

/// What is to be decided.
#[derive(Debug)]
pub(crate) struct Controller {
    broker: OnceLock<Weak<Inner>>,
    /// Lock rank: leaf.
    due: Mutex<Due>,
    changed: Condvar,
    /// Who is asked whether it is there. Lock rank: above a partition's state.
    pub(super) monitor: Mutex<Option<Monitor>>,
    /// Lock rank: leaf.
    thread: Mutex<Option<JoinHandle<()>>>,
    fork: Arc<ForkMark>,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
struct Due {
    failed: Vec<(VolumeId, Incarnation, Error)>,
    look: Vec<Arc<Partition>>,
    /// Their leaders' disks are full.
    full: Vec<Arc<Partition>>,
    /// There was no room for their elections.
    again: Vec<Arc<Partition>>,
    /// Whoever appends works it off.
    inline: bool,
    /// Somebody works it off.
    working: bool,
    stop: bool,
}

impl Overseer for Controller {
    fn failed(&self, volume: VolumeId, incarnation: Incarnation, why: &Error) {
        self.due.lock().failed.push((volume, incarnation, why.clone()));
        self.changed.notify_all();
    }

    fn look(&self, partition: &Arc<Partition>) {
        let mut due = self.due.lock();
        if !due.look.iter().any(|other| Arc::ptr_eq(other, partition)) {
            due.look.push(Arc::clone(partition));
            self.changed.notify_all();
        }
    }

    fn full(&self, partition: &Arc<Partition>) {
        let mut due = self.due.lock();
        if !due.full.iter().any(|other| Arc::ptr_eq(other, partition)) {
            due.full.push(Arc::clone(partition));
            self.changed.notify_all();
        }
    }

    fn notice(&self, notice: Notice) {
        let count = match notice {
            Notice::Damaged => &self.counts.damage_found,
            Notice::Mended => &self.counts.damage_mended,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn work_off(&self) {
        if !self.due.lock().inline {
            return;
        }
        if let Some(broker) = self.broker.get().and_then(Weak::upgrade) {
            broker.oversee(true);
        }
    }
}

impl Controller {
    pub(crate) fn new(fork: Arc<ForkMark>) -> Self {
        Self {
            broker: OnceLock::new(),
            due: Mutex::default(),
            changed: Condvar::new(),
            monitor: Mutex::default(),
            thread: Mutex::default(),
            fork,
            counts: Counts::default(),
        }
    }

    /// Decides for this broker from now on; with a thread of its own, if it is to have one.
    pub(crate) fn start(self: &Arc<Self>, broker: &Arc<Inner>) -> Result<()> {
        let (background, (interval, _)) = (broker.background(), broker.heartbeats());
        // Set once: there is one broker.
        let _ = self.broker.set(Arc::downgrade(broker));
        self.due.lock().inline = background.is_inline();
        if background != Background::Thread {
            return Ok(());
        }
        Self::ask_all(broker);
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("plimsoll-controller".to_owned())
            .spawn(move || this.run(interval))
            .map_err(|e| Error::io("start a thread for", "volumes".as_ref(), e))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Asks all volumes from now on, whenever the time for that is over.
    pub(crate) fn ask_all(broker: &Inner) {
        let ((interval, timeout), now) = (broker.heartbeats(), broker.clock().elapsed());
        let mut monitor = Monitor::new(interval, timeout, now);
        for member in broker.members().iter() {
            // Each is new.
            let _ = monitor.register(member.id, member.volume.incarnation(), now);
        }
        *broker.controller().monitor.lock() = Some(monitor);
    }

    fn run(&self, interval: Duration) {
        let mut next = Instant::now() + interval;
        loop {
            let ticks = {
                let mut due = self.due.lock();
                while !due.stop && due.is_empty() && Instant::now() < next {
                    self.changed.wait_until(&mut due, next);
                }
                if due.stop {
                    return;
                }
                Instant::now() >= next
            };
            let Some(broker) = self.broker.get().and_then(Weak::upgrade) else { return };
            broker.oversee(ticks);
            if ticks {
                next = Instant::now() + interval;
            }
        }
    }

    /// Another volume is there: the first one beside another starts the thread.
    pub(crate) fn watch(broker: &Arc<Inner>, volume: VolumeId) -> Result<()> {
        let this = broker.controller();
        if this.broker.get().is_none() {
            return this.start(broker);
        }
        let now = broker.clock().elapsed();
        if let (Some(monitor), Some(member)) = (this.monitor.lock().as_mut(), broker.member(volume))
        {
            // It is new.
            let _ = monitor.register(volume, member.volume.incarnation(), now);
        }
        Ok(())
    }

    /// A volume was removed: nobody asks it any more.
    pub(crate) fn forget(broker: &Inner, member: &Member) {
        if let Some(monitor) = broker.controller().monitor.lock().as_mut() {
            let _ = monitor.failed(member.id, member.volume.incarnation());
        }
    }

    /// Waits so long, or until something is due.
    pub(crate) fn wait(&self, at_most: Duration) {
        let mut due = self.due.lock();
        self.changed.wait_for(&mut due, at_most);
    }

    /// Decides nothing any more.
    pub(crate) fn stop(&self) {
        if self.fork.is_forked() {
            return;
        }
        self.due.lock().stop = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        // It may be the one that drops the last handle of the broker.
        let here = std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != here) {
            // Its panics show as what it did not decide.
            let _ = thread.join();
        }
        // They know this controller.
        *self.due.lock() = Due { stop: true, ..Due::default() };
    }
}

impl Due {
    fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.look.is_empty() && self.full.is_empty()
    }
}

/// One decision of an election, to be made durable.
struct Decided {
    partition: Arc<Partition>,
    seats: Vec<Seat>,
    election: Election,
    record: MetadataRecord,
}

impl Inner {
    /// Decides what is due; with `ticks` also what only the time brings.
    pub(crate) fn oversee(&self, ticks: bool) {
        {
            let mut due = self.controller().due.lock();
            if due.working || due.stop {
                return;
            }
            due.working = true;
        }
        for (unique_id, why) in self.metadata().lock().lost() {
            let is_it = |member: &&Member| member.volume.unique_id() == unique_id;
            if let Some(member) = self.members().iter().find(is_it) {
                self.controller().failed(member.id, member.volume.incarnation(), &why);
            }
        }
        if ticks {
            self.hear();
        }
        loop {
            let (failed, look, full) = {
                let mut due = self.controller().due.lock();
                let Due { failed, look, full, .. } = &mut *due;
                (std::mem::take(failed), std::mem::take(look), std::mem::take(full))
            };
            let is_idle = failed.is_empty() && look.is_empty() && full.is_empty();
            self.put_out(&failed);
            for partition in full.iter().filter(|partition| partition.leader().is_full()) {
                let (one, from) = (std::slice::from_ref(partition), partition.volume());
                self.hand_over(&mut self.metadata().lock(), one, from);
            }
            self.change_isrs(look);
            if is_idle {
                break;
            }
        }
        if ticks {
            let again = std::mem::take(&mut self.controller().due.lock().again);
            if !again.is_empty() {
                self.elect(&mut self.metadata().lock(), &again);
            }
            let all = self.topic_states();
            let several = |partition: &&Arc<Partition>| !partition.is_alone();
            let all = all.iter().flat_map(|topic| topic.partitions.iter().filter(several).cloned());
            self.change_isrs(all.collect());
            self.move_some();
        }
        self.controller().due.lock().working = false;
    }

    /// Takes the volumes' answers, judges those that are silent, and asks anew.
    pub(super) fn hear(&self) {
        let now = self.clock().elapsed();
        let mut watched = self.controller().monitor.lock();
        let Some(monitor) = watched.as_mut() else { return };
        for member in self.members().iter().filter(|member| !member.is_gone()) {
            let answered = member.queue.as_ref().is_some_and(|queue| queue.has_answered());
            let syncing_since = member.syncing_since();
            let (volume, incarnation) = (member.id, member.volume.incarnation());
            if answered {
                let answer = Answer { volume, incarnation, syncing_since, payload: () };
                // It was put out meanwhile.
                let _ = monitor.answered(answer, now);
                member.is_silent.store(false, Ordering::Relaxed);
            }
        }
        let actions = monitor.tick(now, |volume| self.is_needed(volume));
        let late = u64::try_from(monitor.late().as_millis()).unwrap_or(u64::MAX);
        // Who adds a volume has it watched with the metadata locked, and what is to be done takes
        // that lock.
        drop(watched);
        self.controller().counts.late_ms.store(late, Ordering::Relaxed);
        for action in actions {
            match action {
                Action::Ask(volume, _) => {
                    let queue = self.member(volume).and_then(|member| member.queue.as_ref());
                    if let Some(queue) = queue {
                        queue.ask();
                    }
                }
                Action::Expel(volume, incarnation, cause) => {
                    self.controller().failed(volume, incarnation, &silence(cause));
                }
                Action::WaitFor(volume, ..) => {
                    trace::event!(WARN, volume = volume.get(), "a volume is waited for");
                    self.controller().counts.waited_for.fetch_add(1, Ordering::Relaxed);
                    if let Some(member) = self.member(volume) {
                        member.is_silent.store(true, Ordering::Relaxed);
                    }
                    self.pass_on(volume);
                }
            }
        }
    }

    /// Whether a volume is the only one in sync of some partition.
    fn is_needed(&self, volume: VolumeId) -> bool {
        let needs = |partition: &Arc<Partition>| match partition.standing() {
            None => partition.volume() == volume,
            Some(standing) => standing.isr == [volume],
        };
        self.topic_states().iter().any(|topic| topic.partitions.iter().any(needs))
    }

    /// A volume does not answer, and cannot be put out: others lead what they can, and nobody waits
    /// for it.
    fn pass_on(&self, volume: VolumeId) {
        let mut metadata = self.metadata().lock();
        let mut led = Vec::new();
        let mut followed = Vec::new();
        for topic in self.topic_states() {
            for partition in topic.partitions.iter().filter(|it| it.on(volume).is_some()) {
                match partition.standing() {
                    Some(standing) if standing.isr == [volume] => {}
                    Some(standing) if standing.leader == volume => led.push(Arc::clone(partition)),
                    Some(_) => {
                        partition.is_stuck(volume);
                        followed.push(Arc::clone(partition));
                    }
                    None => {}
                }
            }
        }
        self.hand_over(&mut metadata, &led, volume);
        self.change_isrs_with(&mut metadata, followed);
    }

    /// Somebody else than `from` leads these, where anybody can who has all that it has had since
    /// before this term. 1. A store is opened after a kill, and the last batch of a member has gone
    /// bad meanwhile: it looks torn, and its log is shorter; 2. the leader, which has it, is
    /// drained;
    /// 3. the shorter one leads, and an acknowledged record is gone. Where a leader fails nobody
    /// can wait for that.
    pub(crate) fn hand_over(
        &self,
        metadata: &mut Metadata,
        partitions: &[Arc<Partition>],
        from: VolumeId,
    ) {
        let mut decided = Vec::new();
        for partition in partitions {
            let Some(assigned) = assignment_of(metadata, partition) else { continue };
            let mut candidates = self.candidates(metadata, &assigned, partition, false);
            candidates.iter_mut().filter(|it| it.may_lack).for_each(Candidate::is_unsure);
            if let Some(election) = ballot(&assigned, &candidates).hand_over(from) {
                // No append of before comes after what the next leader begins with.
                partition.stop_leading();
                decided.push(self.decide(partition, &assigned, election));
            }
        }
        // Told where the partitions are.
        let _ = self.make(metadata, decided);
    }

    /// Has each partition led by its preferred leader where that can. How many another one leads
    /// now.
    pub(crate) fn elect_preferred_leaders(&self) -> Result<usize> {
        self.must_be_writable()?;
        let mut metadata = self.metadata().lock();
        let mut decided = Vec::new();
        let mut changing = Vec::new();
        for topic in self.topic_states() {
            for partition in topic.partitions.iter().filter(|it| !it.is_alone()) {
                let Some(assigned) = assignment_of(&metadata, partition) else { continue };
                let mut candidates = self.candidates(&metadata, &assigned, partition, false);
                candidates.iter_mut().filter(|it| it.may_lack).for_each(Candidate::is_unsure);
                let Some(election) = ballot(&assigned, &candidates).prefer() else { continue };
                partition.stop_leading();
                changing.push((Arc::clone(partition), election.term.leader));
                decided.push(self.decide(partition, &assigned, election));
            }
        }
        self.make(&mut metadata, decided)?;
        let is_done = |(partition, leader): &&(Arc<Partition>, VolumeId)| {
            !partition.is_offline() && partition.volume() == *leader
        };
        Ok(changing.iter().filter(is_done).count())
    }

    /// Has somebody lead what nobody does, where that is allowed by now.
    pub(crate) fn elect_uncleanly(&self, metadata: &mut Metadata, topic: &TopicState) {
        let all = topic.partitions.iter().filter(|it| !it.is_alone() && it.is_offline());
        let leaderless: Vec<_> = all.map(Arc::clone).collect();
        self.elect(metadata, &leaderless);
    }

    /// These volumes are out until the store is opened again: what they led others lead.
    ///
    /// All of them at once: a decision is never waited for by a volume that is known to be gone.
    pub(crate) fn put_out(&self, failed: &[(VolumeId, Incarnation, Error)]) {
        let mut out = Vec::new();
        for (volume, incarnation, why) in failed {
            let Some(member) = self.member(*volume) else { continue };
            if member.volume.incarnation() != *incarnation || !member.leave(why) {
                continue;
            }
            if let Some(monitor) = self.controller().monitor.lock().as_mut() {
                // Known already where the monitor said so.
                let _ = monitor.failed(*volume, *incarnation);
            }
            self.controller().counts.put_out.fetch_add(1, Ordering::Relaxed);
            trace::event!(ERROR, volume = volume.get(), cause = %why, "a volume was put out");
            out.push((member, why));
        }
        if out.is_empty() {
            return;
        }
        let mut metadata = self.metadata().lock();
        for (member, why) in &out {
            metadata.leave_out(member.volume.unique_id(), (*why).clone());
        }
        let (mut leaderless, mut left, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for topic in self.topic_states() {
            for partition in topic.partitions.iter().filter(|it| !it.is_alone()) {
                let mut is_left = false;
                let mut led = false;
                for (member, why) in &out {
                    let Some(replica) = partition.on(member.id) else { continue };
                    is_left = true;
                    // Elected, and it could not take over: who led before is gone, too.
                    let was_to_lead = self.member(partition.volume()).is_none_or(Member::is_gone);
                    led |= partition.fence(member.id) || was_to_lead;
                    logs.push((Arc::clone(&replica.log), *why));
                }
                if led {
                    leaderless.push(Arc::clone(partition));
                }
                if is_left {
                    left.push(Arc::clone(partition));
                }
            }
        }
        self.elect(&mut metadata, &leaderless);
        self.change_isrs_with(&mut metadata, left);
        // Where that cannot be made durable the next change says it.
        let _ = metadata.say_who_left();
        drop(metadata);
        for (log, why) in logs {
            // Who waits for a sync of it is told, also where that hangs.
            log.halt(why.clone());
        }
    }

    /// Another leader for each of these, where there is one.
    pub(crate) fn elect(&self, metadata: &mut Metadata, partitions: &[Arc<Partition>]) {
        let mut decided = Vec::new();
        for partition in partitions {
            let Some(assigned) = assignment_of(metadata, partition) else { continue };
            let candidates = self.candidates(metadata, &assigned, partition, false);
            let unclean = unclean_election(metadata, partition);
            let elected = ballot(&assigned, &candidates).elect(unclean);
            match elected {
                Some(election) => {
                    decided.push(self.decide(partition, &assigned, election));
                }
                None => partition.go_offline(offline(partition)),
            }
        }
        // Told where the partitions are.
        let _ = self.make(metadata, decided);
    }

    /// Makes elections durable, and has the elected lead.
    ///
    /// # Errors
    /// Of a change of the metadata. With `StorageFull` nothing was written: who led before goes on,
    /// and where that one is gone the next ticks try again.
    fn make(&self, metadata: &mut Metadata, decided: Vec<Decided>) -> Result<()> {
        if decided.is_empty() {
            return Ok(());
        }
        let records = decided.iter().map(|it| it.record.clone()).collect();
        if let Err(error) = change(self.members(), metadata, records) {
            trace::event!(ERROR, %error, "elections could not be made durable");
            let is_none = matches!(error, Error::StorageFull(_));
            for Decided { partition, .. } in decided {
                let is_there = self.member(partition.volume()).is_some_and(|it| !it.is_gone());
                if is_none && is_there && partition.leads_on() {
                    continue;
                }
                partition.go_offline(error.clone());
                if is_none {
                    self.controller().due.lock().again.push(partition);
                }
            }
            return Err(error);
        }
        for Decided { partition, seats, election, .. } in decided {
            self.controller().counts.elections.fetch_add(1, Ordering::Relaxed);
            self.count_if_unclean(&election);
            if let Err(error) = partition.lead(&election.term, &seats, election.loses()) {
                let volume = election.term.leader;
                if let Some(replica) = partition.on(volume) {
                    self.controller().failed(volume, replica.incarnation, &error);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn count_if_unclean(&self, election: &Election) {
        if election.kind == ElectionKind::Unclean {
            trace::event!(
                WARN,
                volume = election.term.leader.get(),
                "a replica that was not in sync leads"
            );
            self.controller().counts.unclean_elections.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn decide(
        &self,
        partition: &Arc<Partition>,
        assigned: &Assignment,
        election: Election,
    ) -> Decided {
        let start = partition.on(election.term.leader).map(|replica| replica.log.end_offset());
        let record = elected(assigned, &election, start.unwrap_or_default());
        let seats = self.seats(assigned);
        Decided { partition: Arc::clone(partition), seats, election, record }
    }

    /// All replicas of an assignment.
    pub(crate) fn seats(&self, assigned: &Assignment) -> Vec<Seat> {
        let seat = |replica: &Assigned| {
            let member = self.member(replica.volume);
            Seat {
                volume: replica.volume,
                incarnation: member
                    .map_or(Incarnation::new(0), |member| member.volume.incarnation()),
                live: member.is_some_and(|member| !member.is_gone()),
            }
        };
        assigned.replicas.iter().map(seat).collect()
    }

    /// All replicas of an assignment, as they stand for election; at an open by how their volumes
    /// were left.
    pub(crate) fn candidates(
        &self,
        metadata: &Metadata,
        assigned: &Assignment,
        partition: &Partition,
        at_open: bool,
    ) -> Vec<Candidate> {
        let drains = |volume: VolumeId| {
            let mut known = metadata.volumes();
            known.any(|it| it.id == volume && it.standing == Standing::Draining)
        };
        let candidate = |replica: &Assigned| {
            let volume = replica.volume;
            let gone = Candidate {
                volume,
                presence: Presence::Gone,
                fitness: Fitness::Blank,
                may_lack: true,
                is_empty: true,
                damaged_bytes: 0,
                last_epoch: LeaderEpoch::default(),
                end: Offset::ZERO,
            };
            let (Some(member), Some(replica)) = (self.member(volume), partition.on(volume)) else {
                return gone;
            };
            if member.is_gone() || replica.log.check_latch().is_err() {
                return gone;
            }
            // 1. A store is opened after an unclean end, and a member of the ISR has lost what it
            // had not synced; 2. before it has caught up the leader fails; 3. it leads, though
            // another member has all.
            let may_lack = at_open || !partition.has_caught_up(volume);
            let last_epoch = if at_open {
                Some(replica.log.latest_epoch())
            } else {
                // Who hangs may hold the lock of a log.
                replica.log.latest_epoch_if_free()
            };
            Candidate {
                may_lack,
                is_empty: replica.log.start_offset() >= replica.log.end_offset(),
                // Where another one can, it is better led by that.
                presence: if replica.is_full() || drains(volume) {
                    Presence::Draining
                } else {
                    Presence::Live
                },
                fitness: fitness(member, replica, at_open),
                last_epoch: last_epoch.unwrap_or(gone.last_epoch),
                end: replica.log.end_offset(),
                damaged_bytes: replica.damaged_offsets(),
                ..gone
            }
        };
        let mut candidates: Vec<Candidate> = assigned.replicas.iter().map(candidate).collect();
        if at_open {
            // Of members that are sure those lack nothing that go as far as any of them.
            let reach = |it: &Candidate| (it.last_epoch, it.end);
            let is_sure = |it: &&Candidate| {
                let in_sync = |of: &Assigned| of.volume == it.volume && of.in_sync;
                it.fitness == Fitness::Sure && assigned.replicas.iter().any(in_sync)
            };
            let furthest = candidates.iter().filter(is_sure).map(reach).max();
            for candidate in &mut candidates {
                candidate.may_lack = furthest.is_none_or(|furthest| reach(candidate) < furthest);
            }
        }
        candidates
    }

    /// Changes the ISRs of these where that is due.
    fn change_isrs(&self, partitions: Vec<Arc<Partition>>) {
        if !partitions.is_empty() {
            self.change_isrs_with(&mut self.metadata().lock(), partitions);
        }
    }

    fn change_isrs_with(&self, metadata: &mut Metadata, partitions: Vec<Arc<Partition>>) {
        let now = self.clock().elapsed();
        let mut changes = Vec::new();
        let mut records = Vec::new();
        for partition in partitions {
            let Some(change) = partition.tick(now) else { continue };
            let Some(assigned) = assignment_of(metadata, &partition) else {
                // Deleted meanwhile.
                partition.decided(Decision::NotMade);
                continue;
            };
            records.push(with_isr(&assigned, &change));
            let before = assigned.replicas.iter().filter(|replica| replica.in_sync).count();
            changes.push((partition, change.isr.len() > before));
        }
        if changes.is_empty() {
            return;
        }
        let decision = match change(self.members(), metadata, records) {
            Ok(()) => Decision::Durable,
            Err(Error::StorageFull(_)) => Decision::NotMade,
            // Whether it counts shows the next open. Until then nothing else is decided.
            Err(_) => return,
        };
        let counts = &self.controller().counts;
        for (partition, expands) in changes {
            if decision == Decision::Durable {
                let count = if expands { &counts.isr_expands } else { &counts.isr_shrinks };
                count.fetch_add(1, Ordering::Relaxed);
            }
            partition.decided(decision);
        }
    }
}

impl Election {
    /// What was committed may not be any more.
    pub(crate) fn loses(&self) -> bool {
        matches!(self.kind, ElectionKind::Recovered | ElectionKind::Unclean)
    }
}

/// Whether the topic of a partition would rather lose committed records than wait.
pub(crate) fn unclean_election(metadata: &Metadata, partition: &Partition) -> UncleanElection {
    let topic = partition.log().place.identity.topic();
    match metadata.topics().find(|meta| meta.id == topic) {
        Some(meta) if meta.unclean_leader_election => UncleanElection::Allowed,
        _ => UncleanElection::Refused,
    }
}

fn fitness(member: &Member, replica: &Replica, at_open: bool) -> Fitness {
    let is_sure = member.was_clean() && !member.was_out && was_marked(&replica.log);
    if member.is_restored {
        Fitness::Blank
    } else if replica.log.is_catching_up() {
        Fitness::CatchingUp
    } else if at_open && !is_sure {
        Fitness::Unsure
    } else {
        Fitness::Sure
    }
}

/// A clean close left its mark in it, or it has no files.
fn was_marked(log: &Log) -> bool {
    log.is_marked()
}

/// As the metadata says, and in the epoch of now: an open raises that of all partitions at once,
/// and may raise that of a log that nobody else has by itself.
pub(crate) fn assignment_of(metadata: &Metadata, partition: &Partition) -> Option<Assignment> {
    let identity = &partition.log().place.identity;
    let assigned = metadata.assignment(identity.topic(), identity.partition())?;
    let now = match partition.standing() {
        Some(standing) => standing.epoch,
        None if partition.is_alone() => metadata.epoch_floor().max(partition.log().epoch_now()),
        None => metadata.epoch_floor(),
    };
    Some(Assignment { epoch: assigned.epoch.max(now), ..assigned.clone() })
}

/// What its replicas vote on.
pub(crate) fn ballot<'a>(assigned: &'a Assignment, candidates: &'a [Candidate]) -> OwnBallot<'a> {
    let isr = assigned.replicas.iter().filter(|replica| replica.in_sync);
    let isr = isr.map(|replica| replica.volume).collect();
    OwnBallot { epoch: assigned.epoch, leader: assigned.leader, isr, candidates }
}

/// A [`Ballot`] with the ISR in it.
pub(crate) struct OwnBallot<'a> {
    epoch: LeaderEpoch,
    leader: Option<VolumeId>,
    isr: Vec<VolumeId>,
    candidates: &'a [Candidate],
}

impl OwnBallot<'_> {
    fn prefer(&self) -> Option<Election> {
        let Self { epoch, leader, ref isr, candidates } = *self;
        Ballot { epoch, leader, isr, candidates }.prefer()
    }

    fn hand_over(&self, from: VolumeId) -> Option<Election> {
        let Self { epoch, leader, ref isr, candidates } = *self;
        Ballot { epoch, leader, isr, candidates }.hand_over(from)
    }

    pub(crate) fn elect(&self, unclean: UncleanElection) -> Option<Election> {
        let Self { epoch, leader, ref isr, candidates } = *self;
        Ballot { epoch, leader, isr, candidates }.elect(unclean)
    }
}

/// The record of an election.
pub(crate) fn elected(assigned: &Assignment, election: &Election, start: Offset) -> MetadataRecord {
    let term = &election.term;
    let in_sync = |volume: VolumeId| term.isr.contains(&volume);
    let replicas = assigned
        .replicas
        .iter()
        .map(|&Assigned { volume, .. }| Assigned { volume, in_sync: in_sync(volume) });
    MetadataRecord::PutPartition(Assignment {
        epoch: term.epoch,
        start,
        leader: Some(term.leader),
        replicas: replicas.collect(),
        ..assigned.clone()
    })
}

fn with_isr(assigned: &Assignment, change: &IsrChange) -> MetadataRecord {
    let replicas = assigned
        .replicas
        .iter()
        .map(|&Assigned { volume, .. }| Assigned { volume, in_sync: change.isr.contains(&volume) });
    let (epoch, replicas) = (change.epoch, replicas.collect());
    MetadataRecord::PutPartition(Assignment { epoch, replicas, ..assigned.clone() })
}

/// What becomes of a volume that is silent.
fn silence(cause: Cause) -> Error {
    Error::TimedOut {
        what: match cause {
            Cause::Silent => "a volume's threads",
            Cause::SyncHangs => "a sync that hangs",
            Cause::Failed => "a volume that failed",
        },
    }
}

/// Why nobody leads a partition.
fn offline(partition: &Partition) -> Error {
    match partition.log().check_latch() {
        Err(error) => error,
        Ok(()) => partition.not_available(partition.volume()),
    }
}
