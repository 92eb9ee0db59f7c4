//! Who leads a partition next.
//!
//! Not here: when to elect, making the record durable, taking over (`partition`).
//!
//! | kind | who | loses |
//! | --- | --- | --- |
//! | clean | the first of the ISR in the assignment's order, less damaged ones before others; of those that lack something the one whose log goes furthest | nothing |
//! | recovered | no member is sure to have kept all it had: the one whose log goes furthest | what the durability allows |
//! | preferred, hand-over | asked for, among those that would lead cleanly | nothing |
//! | unclean | nobody of the ISR is there, and the topic allows it: whose log goes furthest | committed records |
//!
//! Invariants
//!   1. Who is blank never leads; who is catching up only uncleanly, and not with nothing.
//!   2. The new ISR is a part of the old one, or the unclean leader alone.
//!   3. Of two members that are there, one that may have lost something never goes before one that
//!      has not.
//!   4. A member that may lack what is committed, since it lost that at its last end and has not
//!      caught up since, leads only where all of them may.

use std::cmp::Reverse;

use crate::id::{LeaderEpoch, Offset, VolumeId};
use crate::partition::Term;

/// What is to become of a volume, as far as it can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Presence {
    Live,
    /// Serves, and is to be emptied: leads only where nobody else can.
    Draining,
    Gone,
}

/// What a replica can be trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// It has all that it ever said it has.
    Sure,
    /// Its last end was unclean: above its durable offset it may have lost something.
    Unsure,
    /// Its catching-up flag is set.
    CatchingUp,
    /// Wiped or replaced, and never in the ISR since.
    Blank,
}

/// One replica, as it stands for election.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) volume: VolumeId,
    pub(crate) presence: Presence,
    pub(crate) fitness: Fitness,
    /// It is not known that it holds all that is committed.
    pub(crate) may_lack: bool,
    /// It holds no record.
    pub(crate) is_empty: bool,
    /// Bytes that cannot be read.
    pub(crate) damaged_bytes: u64,
    /// The epoch of its last record.
    pub(crate) last_epoch: LeaderEpoch,
    pub(crate) end: Offset,
}

impl Candidate {
    /// It is not to take over from one that can go on.
    pub(crate) fn is_unsure(&mut self) {
        self.fitness = Fitness::Unsure;
    }
}

/// What is known of a partition when its leader is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ballot<'a> {
    /// Of the leadership that ends.
    pub(crate) epoch: LeaderEpoch,
    pub(crate) leader: Option<VolumeId>,
    /// As the metadata says.
    pub(crate) isr: &'a [VolumeId],
    /// All replicas, in the order of the assignment.
    pub(crate) candidates: &'a [Candidate],
}

/// Whether a topic would rather lose committed records than wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UncleanElection {
    Refused,
    Allowed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElectionKind {
    Clean,
    Recovered,
    Preferred,
    HandOver,
    Unclean,
}

/// To be made durable before it counts; with the leader's end, which it has when it takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Election {
    pub(crate) term: Term,
    pub(crate) kind: ElectionKind,
}

impl Ballot<'_> {
    /// The next leader; `None` leaves the partition offline.
    pub(crate) fn elect(&self, unclean: UncleanElection) -> Option<Election> {
        if let Some(first) = self.first_sure(|_| true) {
            return Some(self.elected(first, ElectionKind::Clean));
        }
        let members = self.present().filter(|candidate| self.is_member(candidate));
        if let Some(furthest) = furthest(members) {
            return Some(self.elected(furthest, ElectionKind::Recovered));
        }
        let anybody = self.candidates.iter().filter(|candidate| {
            let is_there = candidate.presence != Presence::Gone;
            // One that holds nothing may be new, and would have all others drop what they hold.
            let holds_some = candidate.fitness != Fitness::Blank && !candidate.is_empty;
            is_there && holds_some && unclean == UncleanElection::Allowed
        });
        furthest(anybody).map(|furthest| self.elected(furthest, ElectionKind::Unclean))
    }

    /// The first of the assignment takes over, if it can, and does not lead already.
    pub(crate) fn prefer(&self) -> Option<Election> {
        let first = self.candidates.first()?.volume;
        let best = self.first_sure(|candidate| candidate.presence == Presence::Live)?;
        let takes_over = best.volume == first && self.leader != Some(first);
        takes_over.then(|| self.elected(best, ElectionKind::Preferred))
    }

    /// Somebody takes over from `from`, which is to be emptied. `None` if nobody can yet.
    pub(crate) fn hand_over(&self, from: VolumeId) -> Option<Election> {
        let other = |candidate: &Candidate| {
            candidate.presence == Presence::Live && candidate.volume != from
        };
        self.first_sure(other).map(|best| self.elected(best, ElectionKind::HandOver))
    }

    /// Those that are there and have a log to lead with.
    fn present(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| {
            candidate.presence != Presence::Gone
                && matches!(candidate.fitness, Fitness::Sure | Fitness::Unsure)
        })
    }

    fn is_member(&self, candidate: &Candidate) -> bool {
        self.isr.contains(&candidate.volume)
    }

    /// `min_by_key` returns the first of equals: the order of the assignment.
    fn first_sure(&self, also: impl Fn(&Candidate) -> bool) -> Option<&Candidate> {
        let sure = || {
            self.present()
                .filter(|candidate| candidate.fitness == Fitness::Sure && self.is_member(candidate))
                .filter(|candidate| also(candidate))
        };
        sure()
            .filter(|candidate| !candidate.may_lack)
            .min_by_key(|candidate| (candidate.damaged_bytes, candidate.presence))
            .or_else(|| furthest(sure()))
    }

    fn elected(&self, leader: &Candidate, kind: ElectionKind) -> Election {
        // Beside a leader that is sure, who is not has to catch up first.
        let stays = |candidate: &&Candidate| {
            let trusted = leader.fitness == Fitness::Unsure || candidate.fitness == Fitness::Sure;
            (self.is_member(candidate) && trusted) || candidate.volume == leader.volume
        };
        let isr = match kind {
            ElectionKind::Unclean => vec![leader.volume],
            _ => self.present().filter(stays).map(|candidate| candidate.volume).collect(),
        };
        let epoch = LeaderEpoch::new(self.epoch.get() + 1);
        Election { term: Term { epoch, leader: leader.volume, isr }, kind }
    }
}

/// Who is known to hold all that is committed goes first. Of logs that end in one epoch the longer
/// one holds all of the other, whatever each can vouch for: durable evidence does not count. Damage
/// comes after that, since it is mended from any replica, whoever leads.
fn furthest<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    candidates.min_by_key(|candidate| {
        let end = (Reverse(candidate.last_epoch), Reverse(candidate.end));
        let log = (candidate.may_lack, end);
        (log, candidate.damaged_bytes, candidate.presence)
    })
}

#[cfg(test)]
mod tests {
    use super::ElectionKind::{Clean, HandOver, Preferred, Recovered, Unclean};
    use super::*;

    fn volume(number: u32) -> VolumeId {
        VolumeId::new(number)
    }

    /// Live, sure, undamaged, at the end of epoch 3.
    fn candidate(number: u32) -> Candidate {
        Candidate {
            volume: volume(number),
            presence: Presence::Live,
            fitness: Fitness::Sure,
            may_lack: false,
            is_empty: false,
            damaged_bytes: 0,
            last_epoch: LeaderEpoch::new(3),
            end: Offset::new(100),
        }
    }

    fn three() -> [Candidate; 3] {
        [1, 2, 3].map(candidate)
    }

    fn ballot<'a>(isr: &'a [VolumeId], candidates: &'a [Candidate]) -> Ballot<'a> {
        Ballot { epoch: LeaderEpoch::new(5), leader: None, isr, candidates }
    }

    /// Kind, leader, ISR.
    type Summary = Option<(ElectionKind, u32, Vec<u32>)>;

    fn summary(election: Option<Election>) -> Summary {
        election.map(|Election { term, kind }| {
            assert_eq!(term.epoch, LeaderEpoch::new(6));
            assert!(term.isr.contains(&term.leader));
            (kind, term.leader.get(), term.isr.iter().map(|volume| volume.get()).collect())
        })
    }

    fn elect(isr: &[u32], candidates: &[Candidate]) -> Summary {
        let isr: Vec<VolumeId> = isr.iter().copied().map(volume).collect();
        summary(ballot(&isr, candidates).elect(UncleanElection::Refused))
    }

    fn elect_at_any_cost(isr: &[u32], candidates: &[Candidate]) -> Summary {
        let isr: Vec<VolumeId> = isr.iter().copied().map(volume).collect();
        summary(ballot(&isr, candidates).elect(UncleanElection::Allowed))
    }

    #[test]
    fn the_first_live_member_in_the_order_of_the_assignment_leads() {
        let mut replicas = three();
        assert_eq!(elect(&[3, 2, 1], &replicas), Some((Clean, 1, vec![1, 2, 3])));
        assert_eq!(elect(&[3, 2], &replicas), Some((Clean, 2, vec![2, 3])));
        replicas[1].presence = Presence::Gone;
        assert_eq!(elect(&[3, 2], &replicas), Some((Clean, 3, vec![3])));
        replicas.reverse();
        assert_eq!(elect(&[1, 2, 3], &replicas), Some((Clean, 3, vec![3, 1])));
    }

    #[test]
    fn a_damaged_one_does_not_lead_while_a_member_with_less_damage_lives() {
        let mut replicas = three();
        replicas[0].damaged_bytes = 4096;
        replicas[1].damaged_bytes = 64;
        assert_eq!(elect(&[1, 2, 3], &replicas), Some((Clean, 3, vec![1, 2, 3])));
        assert_eq!(elect(&[1, 2], &replicas), Some((Clean, 2, vec![1, 2])));
        assert_eq!(elect(&[1], &replicas), Some((Clean, 1, vec![1])));
    }

    #[test]
    fn with_nobody_of_the_isr_the_partition_is_offline() {
        let mut replicas = three();
        replicas[0].presence = Presence::Gone;
        assert_eq!(elect(&[1], &replicas), None);
        assert_eq!(elect(&[], &replicas), None);
    }

    #[test]
    fn an_unclean_leader_is_alone_in_the_isr_and_the_one_that_loses_least() {
        let mut replicas = three();
        replicas[0].presence = Presence::Gone;
        replicas[2].end = Offset::new(101);
        assert_eq!(elect_at_any_cost(&[1], &replicas), Some((Unclean, 3, vec![3])));
        replicas[1].last_epoch = LeaderEpoch::new(4);
        assert_eq!(elect_at_any_cost(&[1], &replicas), Some((Unclean, 2, vec![2])));
        assert_eq!(elect_at_any_cost(&[1, 3], &replicas), Some((Clean, 3, vec![3])));
    }

    #[test]
    fn who_is_blank_never_leads_and_who_is_catching_up_only_uncleanly() {
        for unfit in [Fitness::Blank, Fitness::CatchingUp] {
            let mut replicas = three();
            replicas[0].fitness = unfit;
            assert_eq!(elect_at_any_cost(&[1, 2], &replicas), Some((Clean, 2, vec![2])));
            replicas[1].presence = Presence::Gone;
            replicas[2].fitness = unfit;
            assert_eq!(elect(&[1, 2], &replicas), None);
            replicas[2].end = Offset::new(101);
            let unclean = (unfit == Fitness::CatchingUp).then(|| (Unclean, 3, vec![3]));
            assert_eq!(elect_at_any_cost(&[1, 2], &replicas), unclean);
        }
    }

    #[test]
    fn a_member_that_may_lack_what_is_committed_leads_only_where_all_of_them_may() {
        let mut three = three();
        three[0].may_lack = true;
        three[0].end = Offset::new(200);
        three[2].damaged_bytes = 1;
        let isr = [1, 2, 3];
        assert_eq!(elect(&isr, &three), Some((Clean, 2, vec![1, 2, 3])));
        three[1].may_lack = true;
        assert_eq!(elect(&isr, &three), Some((Clean, 3, vec![1, 2, 3])));
        three[2].may_lack = true;
        assert_eq!(elect(&isr, &three), Some((Clean, 1, vec![1, 2, 3])), "its log goes furthest");
        three[1].last_epoch = LeaderEpoch::new(4);
        assert_eq!(elect(&isr, &three), Some((Clean, 2, vec![1, 2, 3])), "of the newest epoch");
    }

    #[test]
    fn after_an_unclean_end_the_member_whose_log_goes_furthest_leads() {
        let mut replicas = three().map(|it| Candidate { fitness: Fitness::Unsure, ..it });
        assert_eq!(elect(&[1, 2, 3], &replicas), Some((Recovered, 1, vec![1, 2, 3])));
        replicas[1].end = Offset::new(120);
        assert_eq!(elect(&[1, 2, 3], &replicas), Some((Recovered, 2, vec![1, 2, 3])));
        replicas[2].last_epoch = LeaderEpoch::new(4);
        replicas[2].end = Offset::new(90);
        assert_eq!(elect(&[1, 2, 3], &replicas), Some((Recovered, 3, vec![1, 2, 3])));
        // Outside of the ISR how far it goes is of no matter.
        assert_eq!(elect(&[1], &replicas), Some((Recovered, 1, vec![1])));
    }

    #[test]
    fn of_logs_that_go_as_far_the_less_damaged_leads() {
        let mut replicas = three().map(|it| Candidate { fitness: Fitness::Unsure, ..it });
        replicas[0].damaged_bytes = 1;
        assert_eq!(elect(&[1, 2], &replicas), Some((Recovered, 2, vec![1, 2])));
    }

    #[test]
    fn a_member_that_may_have_lost_something_goes_behind_one_that_has_not() {
        let mut replicas = three();
        replicas[0].fitness = Fitness::Unsure;
        replicas[0].end = Offset::new(500);
        assert_eq!(elect(&[1, 2], &replicas), Some((Clean, 2, vec![2])));
    }

    #[test]
    fn the_preferred_leader_takes_over_if_it_would_be_elected() {
        let (members, mut replicas) = ([1, 2, 3].map(volume), three());
        let prefer = |replicas: &[Candidate], leader, isr: &[VolumeId]| {
            let leader = Some(volume(leader));
            summary(Ballot { leader, ..ballot(isr, replicas) }.prefer())
        };
        assert_eq!(prefer(&replicas, 2, &members), Some((Preferred, 1, vec![1, 2, 3])));
        assert_eq!(prefer(&replicas, 1, &members), None);
        assert_eq!(prefer(&replicas, 2, &members[1..]), None);
        replicas[0].damaged_bytes = 1;
        assert_eq!(prefer(&replicas, 2, &members), None);
        replicas[0] = Candidate { presence: Presence::Draining, ..candidate(1) };
        assert_eq!(prefer(&replicas, 2, &members), None);
    }

    #[test]
    fn a_draining_volume_hands_over_to_a_member_that_stays() {
        let (members, mut replicas) = ([1, 2, 3].map(volume), three());
        let hand_over = |replicas: &[Candidate], isr: &[VolumeId]| {
            summary(ballot(isr, replicas).hand_over(volume(1)))
        };
        assert_eq!(hand_over(&replicas, &members), Some((HandOver, 2, vec![1, 2, 3])));
        replicas[1].presence = Presence::Draining;
        assert_eq!(hand_over(&replicas, &members), Some((HandOver, 3, vec![1, 2, 3])));
        assert_eq!(hand_over(&replicas, &members[..2]), None);
        // Who drains still leads, where nobody else can.
        replicas[0].presence = Presence::Gone;
        assert_eq!(elect(&[1, 2], &replicas), Some((Clean, 2, vec![2])));
    }
}
