//! What the leader of a partition knows in one epoch: how far each replica is, who is in sync, and
//! up to where everything is committed.
//!
//! Not here: who leads (`broker`), copying, making a change of the ISR durable, waking waiters.
//! Time and reports come in, changes that somebody has to make durable go out.
//!
//! A replica is in one of three places. Out. *Admitted*: it keeps up, so the high watermark waits
//! for it though it is no member yet; else a partition under load would outrun it for ever, and
//! what it copies could claim to be synced (`synced`) before it is. A member of the ISR.
//!
//! | from | to | when |
//! | --- | --- | --- |
//! | out | admitted | a fetch of this epoch shows that it keeps up |
//! | admitted | out | it lags, its volume is gone, or comes back as another incarnation |
//! | admitted | member | it is whole and holds all that is committed; and that is durable |
//! | member | out | it lags, is gone, or came back as another incarnation; and that is durable |
//!
//! Invariants
//!   1. The high watermark never moves back (I4), and not at all while the ISR is below
//!      `min_insync`.
//!   2. Whoever could be in the ISR holds everything below it (I5): it waits for the durable ISR,
//!      for the proposed one, and for the admitted.
//!   3. Below `synced` all of them have synced.
//!   4. A replica counts for what it said in this epoch and incarnation, and for nothing else.
//!   5. At most one change of the ISR is on its way. A member is one as an incarnation: back as
//!      another one it leaves first.
//! Threads   single owner: under the partition's lock.

use std::time::Duration;

use super::divergence::History;
use crate::config::Acks;
use crate::id::{Incarnation, LeaderEpoch, Offset, VolumeId};

/// How far one replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) end: Offset,
    /// Everything below it is synced there.
    pub(crate) durable: Offset,
}

/// Which of the two the high watermark counts, as the topic's durability demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Durable,
    End,
}

/// What does not change with the epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) counts: Counts,
    /// More than there are replicas means all of them.
    pub(crate) min_insync: usize,
    pub(crate) replica_lag_max: Duration,
}

/// One leadership, as its election says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) leader: VolumeId,
    pub(crate) isr: Vec<VolumeId>,
}

/// May a replica vouch for all it holds? Its catching-up flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Whole,
    CatchingUp,
}

/// A follower asks for what comes next, and so says what it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) volume: VolumeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) position: Position,
    pub(crate) holding: Holding,
}

/// Of another epoch or incarnation, or of no replica: refused, and nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale;

/// A change of the ISR to be made durable, if the epoch still is this one. [`Progress::decided`] is
/// to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IsrChange {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) isr: Vec<VolumeId>,
}

/// What became of a change. While nobody can say, it is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Durable,
    /// It was not made, and never will be.
    NotMade,
}

/// Below `min_insync`: nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotEnoughReplicas;

/// What somebody who waits for the high watermark learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Waiting,
    Committed,
    /// Written, and not committed: the ISR is below `min_insync`.
    NotEnoughAfterAppend,
    /// The log no longer has it: to be written again, with the same sequence.
    CutOff,
    /// Below the log start: nobody can say.
    Unknown,
}

/// What a follower may do with its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copying {
    /// The high watermark and `synced` wait for it: if its catching-up flag is set, it clears it as
    /// soon as all that it copied is synced, at least to `synced`.
    Counts,
    /// It sets the flag before it copies: what it copies may claim more than it has synced. No
    /// report may be on its way then that says otherwise.
    CatchesUp,
    /// It copies nothing yet. The ISR still names what it was, and an election takes a member whose
    /// flag is not set for one that holds all that is committed.
    LeavesFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Out,
    Admitted,
    Member,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Replica {
    volume: VolumeId,
    incarnation: Incarnation,
    live: bool,
    place: Place,
    /// In the ISR that is on its way.
    proposed: bool,
    /// Member as an incarnation that is no more.
    returned: bool,
    /// Zero until it fetched in this epoch.
    position: Position,
    holding: Holding,
    caught_up_at: Duration,
    fetched_at: Duration,
    /// What counted of the leader at the last fetch.
    leader_at_fetch: Offset,
    /// It said that it cannot copy for now.
    stuck: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    rules: Rules,
    epoch: LeaderEpoch,
    /// The leader's end when the epoch began.
    epoch_start: Offset,
    leader: usize,
    /// In the order of the assignment.
    replicas: Vec<Replica>,
    /// A change of the ISR is on its way.
    pending: bool,
    high_watermark: Offset,
    synced: Offset,
}

impl Progress {
    /// The first epoch since the open, or since an election that may have lost something, with all
    /// replicas in the order of the assignment. `committed` is where the high watermark starts
    /// ([`high_watermark_at_open`]), `synced` the largest in the leader's log.
    ///
    /// # Panics
    /// If the leader is no replica.
    pub(crate) fn new(
        rules: Rules,
        replicas: &[(VolumeId, Incarnation)],
        term: &Term,
        leader_at: Position,
        (committed, synced): (Offset, Offset),
        now: Duration,
    ) -> Self {
        let mut rules = rules;
        rules.min_insync = rules.min_insync.min(replicas.len());
        let replicas = replicas.iter().map(|&(volume, incarnation)| Replica {
            volume,
            incarnation,
            live: true,
            place: Place::Out,
            proposed: false,
            returned: false,
            position: Position::default(),
            holding: Holding::CatchingUp,
            caught_up_at: now,
            fetched_at: now,
            leader_at_fetch: Offset::MAX,
            stuck: false,
        });
        let before = Self {
            rules,
            epoch: term.epoch,
            epoch_start: leader_at.end,
            leader: 0,
            replicas: replicas.collect(),
            pending: false,
            high_watermark: committed,
            synced,
        };
        before.next_term(term, leader_at, now)
    }

    /// The next leadership, by an election that lost nothing: volumes and the high watermark stay,
    /// what followers said does not. Their logs are cut to another leader's now. No change of the
    /// ISR may be on its way: the metadata decides one thing after the other.
    ///
    /// # Panics
    /// If the leader is no replica.
    pub(crate) fn next_term(&self, term: &Term, leader_at: Position, now: Duration) -> Self {
        debug_assert!(term.epoch >= self.epoch && term.isr.contains(&term.leader));
        debug_assert!(!self.pending, "a change is on its way");
        let leader = self.replicas.iter().position(|replica| replica.volume == term.leader);
        let replicas = self.replicas.iter().map(|replica| {
            let member = term.isr.contains(&replica.volume);
            Replica {
                place: if member { Place::Member } else { Place::Out },
                proposed: false,
                // Who is back is elected into the ISR only if it has all that it said it had.
                returned: false,
                position: Position::default(),
                holding: Holding::CatchingUp,
                caught_up_at: now,
                fetched_at: now,
                leader_at_fetch: Offset::MAX,
                stuck: false,
                ..replica.clone()
            }
        });
        let mut next = Self {
            rules: self.rules,
            epoch: term.epoch,
            epoch_start: leader_at.end,
            leader: leader.expect("the leader is a replica"),
            replicas: replicas.collect(),
            pending: false,
            high_watermark: self.high_watermark,
            synced: self.synced,
        };
        next.leader_at(leader_at);
        next
    }

    /// The same with these replicas, in the order of the assignment: one came, or went. Who goes is
    /// not of the next term's ISR.
    pub(crate) fn with_replicas(&self, replicas: &[(VolumeId, Incarnation)]) -> Self {
        let leader = self.replicas[self.leader].volume;
        let place = |&(volume, incarnation): &(VolumeId, Incarnation)| {
            let known = self.replicas.iter().find(|replica| replica.volume == volume);
            known.cloned().unwrap_or(Replica {
                volume,
                incarnation,
                live: true,
                place: Place::Out,
                proposed: false,
                returned: false,
                position: Position::default(),
                holding: Holding::CatchingUp,
                caught_up_at: Duration::ZERO,
                fetched_at: Duration::ZERO,
                leader_at_fetch: Offset::MAX,
                stuck: false,
            })
        };
        let replicas: Vec<Replica> = replicas.iter().map(place).collect();
        let leader = replicas.iter().position(|replica| replica.volume == leader);
        Self { leader: leader.unwrap_or(0), replicas, ..self.clone() }
    }

    /// The leader's own log is this far.
    pub(crate) fn leader_at(&mut self, position: Position) {
        self.replicas[self.leader].position.raise_to(position);
        self.advance();
    }

    /// A follower said how far it is.
    ///
    /// # Errors
    /// If it was not said in this epoch, by this incarnation, while it was there.
    pub(crate) fn fetched(&mut self, fetch: &Fetch, now: Duration) -> Result<(), Stale> {
        let leader_counted = self.counted(&self.replicas[self.leader]);
        let rules = self.rules;
        let is_it = |replica: &&mut Replica| replica.volume == fetch.volume;
        let follower = self.replicas.iter_mut().find(is_it).ok_or(Stale)?;
        if fetch.epoch != self.epoch || fetch.incarnation != follower.incarnation || !follower.live
        {
            return Err(Stale);
        }
        follower.stuck &= fetch.position.end <= follower.position.end;
        follower.position.raise_to(fetch.position);
        follower.holding = fetch.holding;
        let counted = rules.counted(follower.position);
        let is_there = counted >= leader_counted;
        if is_there || counted >= follower.leader_at_fetch {
            let since = if is_there { now } else { follower.fetched_at };
            follower.caught_up_at = follower.caught_up_at.max(since);
            let keeps_up = now.saturating_sub(since) <= rules.replica_lag_max;
            if keeps_up && follower.place == Place::Out {
                follower.place = Place::Admitted;
            }
        }
        follower.fetched_at = now;
        follower.leader_at_fetch = leader_counted;
        self.advance();
        Ok(())
    }

    /// It has no room for what it would copy: while that is so nobody waits for it.
    pub(crate) fn stuck(&mut self, volume: VolumeId) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.volume == volume) {
            replica.stuck = true;
        }
    }

    /// Whether all but a change of the ISR is done for the replica to be in it.
    pub(crate) fn may_join(&self, volume: VolumeId) -> bool {
        let mut replicas = self.replicas.iter();
        replicas.any(|it| {
            it.volume == volume && it.place == Place::Admitted && it.holding == Holding::Whole
        })
    }

    /// Its volume is gone: it leaves what it may leave. A leader is replaced by an election.
    pub(crate) fn fenced(&mut self, volume: VolumeId) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.volume == volume) {
            replica.live = false;
            replica.leave_if_admitted();
        }
        self.advance();
    }

    /// Its volume is there again, or anew. What it was before no longer speaks for it.
    ///
    /// # Errors
    /// If the incarnation is not a later one.
    #[cfg_attr(not(test), expect(dead_code, reason = "volumes come back at the next open so far"))]
    pub(crate) fn registered(
        &mut self,
        volume: VolumeId,
        incarnation: Incarnation,
    ) -> Result<(), Stale> {
        let is_it = |replica: &&mut Replica| replica.volume == volume;
        let replica = self.replicas.iter_mut().find(is_it).ok_or(Stale)?;
        if incarnation <= replica.incarnation {
            return Err(Stale);
        }
        replica.leave_if_admitted();
        replica.incarnation = incarnation;
        replica.live = true;
        replica.returned = replica.place == Place::Member || replica.proposed;
        replica.position = Position::default();
        replica.holding = Holding::CatchingUp;
        replica.leader_at_fetch = Offset::MAX;
        replica.stuck = false;
        self.advance();
        Ok(())
    }

    /// Whether it holds all that the leader did when the term began, and all that is committed.
    pub(crate) fn has_caught_up(&self, volume: VolumeId) -> bool {
        let from = self.epoch_start.max(self.high_watermark);
        self.replicas.iter().any(|it| it.volume == volume && self.counted(it) >= from)
    }

    /// No volume is away that may come back with what it holds.
    pub(crate) fn are_all_there(&self) -> bool {
        self.replicas.iter().all(|replica| replica.live)
    }

    /// What the time brings: a change of the ISR, if one is due and none is on its way. None
    /// without a leader: who is in sync with one that is gone the next election decides, by what is
    /// durable.
    pub(crate) fn tick(&mut self, now: Duration) -> Option<IsrChange> {
        for at in 0..self.replicas.len() {
            if self.lags(&self.replicas[at], now) {
                self.replicas[at].leave_if_admitted();
            }
        }
        self.advance();
        if self.pending || !self.replicas[self.leader].live {
            return None;
        }
        for at in 0..self.replicas.len() {
            self.replicas[at].proposed = self.belongs(at, now);
        }
        let differs = |replica: &Replica| replica.proposed != (replica.place == Place::Member);
        self.pending = self.replicas.iter().any(differs);
        if !self.pending {
            self.forget_proposal();
            return None;
        }
        let proposed = self.replicas.iter().filter(|replica| replica.proposed);
        Some(IsrChange { epoch: self.epoch, isr: proposed.map(|replica| replica.volume).collect() })
    }

    /// What became of the change that is on its way.
    pub(crate) fn decided(&mut self, decision: Decision) {
        debug_assert!(self.pending, "nothing was proposed");
        for replica in &mut self.replicas {
            match (decision, replica.proposed, replica.place) {
                (Decision::Durable, true, _) => replica.place = Place::Member,
                (Decision::Durable, false, Place::Member) => replica.place = Place::Out,
                _ => {}
            }
            replica.returned &= replica.place == Place::Member;
        }
        self.pending = false;
        self.forget_proposal();
        self.advance();
    }

    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Everything below it is committed.
    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// What the leader stamps in its batches: below it every replica that counts has synced.
    pub(crate) fn synced(&self) -> Offset {
        self.synced
    }

    /// The durable ISR.
    pub(crate) fn isr(&self) -> impl Iterator<Item = VolumeId> {
        let members = self.replicas.iter().filter(|replica| replica.place == Place::Member);
        members.map(|replica| replica.volume)
    }

    /// What a follower has to know before it appends what it copied.
    pub(crate) fn copying(&self, volume: VolumeId) -> Copying {
        let replica = self.replicas.iter().find(|replica| replica.volume == volume);
        match replica {
            Some(replica) if replica.returned => Copying::LeavesFirst,
            Some(replica) if replica.place == Place::Member => Copying::Counts,
            Some(replica) if replica.is_waited_for() && self.has_what_is_synced(replica) => {
                Copying::Counts
            }
            _ => Copying::CatchesUp,
        }
    }

    /// Whether an append can be acknowledged as asked.
    ///
    /// # Errors
    /// If it cannot, for want of replicas.
    pub(crate) fn can_append(&self, acks: Acks) -> Result<(), NotEnoughReplicas> {
        match acks {
            Acks::All if !self.is_enough() => Err(NotEnoughReplicas),
            _ => Ok(()),
        }
    }

    /// What became of the records below `end` that were appended in `epoch`, by what the leader's
    /// log says now.
    pub(crate) fn settle(&self, epoch: LeaderEpoch, end: Offset, log: History<'_>) -> Settled {
        if epoch != self.epoch {
            let last = Offset::new(end.get().saturating_sub(1));
            match log.epoch_of(last) {
                Some(owner) if owner == epoch => {}
                None if last < log.start => return Settled::Unknown,
                _ => return Settled::CutOff,
            }
        }
        if end <= self.high_watermark {
            Settled::Committed
        } else if self.is_enough() {
            Settled::Waiting
        } else {
            Settled::NotEnoughAfterAppend
        }
    }

    fn is_enough(&self) -> bool {
        self.isr().count() >= self.rules.min_insync
    }

    fn counted(&self, replica: &Replica) -> Offset {
        self.rules.counted(replica.position)
    }

    /// Moves what waits for the slowest. Nothing moves while the leader is gone.
    fn advance(&mut self) {
        let leader = &self.replicas[self.leader];
        if !self.is_enough() || !leader.live || leader.returned {
            return;
        }
        let waited_for = || self.replicas.iter().filter(|replica| replica.is_waited_for());
        let counted = waited_for().map(|replica| self.counted(replica)).min();
        let durable = waited_for().map(|replica| replica.position.durable).min();
        self.high_watermark = self.high_watermark.max(counted.unwrap_or_default());
        self.synced = self.synced.max(durable.unwrap_or_default());
    }

    /// It has not been where the leader was for too long. Who is where the leader is never lags.
    fn lags(&self, replica: &Replica, now: Duration) -> bool {
        let behind = self.counted(replica) < self.counted(&self.replicas[self.leader]);
        let late = now.saturating_sub(replica.caught_up_at) > self.rules.replica_lag_max;
        behind && (late || replica.stuck)
    }

    /// Else it would make `synced` a lie, in what it copies from now on.
    fn has_what_is_synced(&self, replica: &Replica) -> bool {
        replica.position.durable >= self.synced
    }

    /// Whether the replica should be a member now.
    fn belongs(&self, at: usize, now: Duration) -> bool {
        let replica = &self.replicas[at];
        match replica.place {
            // By lag or silence a leader is never put out: it has nobody to compare with.
            Place::Member if at == self.leader => true,
            Place::Member => replica.live && !replica.returned && !self.lags(replica, now),
            // At the start of an epoch after an open the high watermark may be lower than it was:
            // whoever joins has to hold all that the leader began with. To have kept up in this
            // epoch says as much, as long as that is what admits.
            Place::Admitted => {
                replica.holding == Holding::Whole
                    && self.counted(replica) >= self.high_watermark.max(self.epoch_start)
                    && self.has_what_is_synced(replica)
            }
            Place::Out => false,
        }
    }

    fn forget_proposal(&mut self) {
        self.replicas.iter_mut().for_each(|replica| replica.proposed = false);
    }
}

impl Rules {
    fn counted(&self, position: Position) -> Offset {
        match self.counts {
            Counts::Durable => position.durable,
            Counts::End => position.end,
        }
    }
}

impl Position {
    /// Reports may overtake each other; a log is never cut within an epoch.
    fn raise_to(&mut self, other: Position) {
        self.end = self.end.max(other.end);
        self.durable = self.durable.max(other.durable);
    }
}

impl Replica {
    fn is_waited_for(&self) -> bool {
        self.place != Place::Out || self.proposed
    }

    fn leave_if_admitted(&mut self) {
        if self.place == Place::Admitted {
            self.place = Place::Out;
        }
    }
}

/// What one replica of the ISR can vouch for at an open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// The log's durable evidence.
    pub(crate) durable: Offset,
    /// Up to where its log is as the leader's; the leader's own end for itself.
    pub(crate) agrees_to: Offset,
}

/// Where the high watermark starts at an open: at the smallest evidence in the ISR, and never below
/// `synced`, the largest in the leader's log, which is all there is while the ISR is too small.
///
/// Evidence counts only as far as the logs agree. 1. The leader of epoch 3 has synced what nobody
/// else has; 2. the lead is handed over, both stay in the ISR; 3. the new leader appends and syncs
/// at the same offsets; 4. the power fails, before the old one was cut. Both have evidence for an
/// offset at which their records differ.
pub(crate) fn high_watermark_at_open(
    isr: impl ExactSizeIterator<Item = Evidence>,
    min_insync: usize,
    synced: Offset,
) -> Offset {
    let is_enough = isr.len() >= min_insync;
    let smallest = isr.map(|member| member.durable.min(member.agrees_to)).min();
    if is_enough { synced.max(smallest.unwrap_or_default()) } else { synced }
}
