//! The partition, what is on its way between its replicas, and every step that can be taken.
//!
//! Not here: what goes wrong (`faults`), what has to hold (`check`).

use std::time::Duration;

use super::replica::{Entry, Replica, index, offset};
use crate::broker::election::{
    Ballot, Candidate, Election, ElectionKind, Fitness, Presence, UncleanElection,
};
use crate::config::Acks;
use crate::format::testing::Random;
use crate::id::{Incarnation, LeaderEpoch, VolumeId};
use crate::partition::{
    Copying, Counts, Decision, Evidence, Fetch, IsrChange, Progress, Rules, Settled, Term,
    high_watermark_at_open,
};

const REPLICA_LAG_MAX: Duration = Duration::from_secs(10);

/// On its way, for as long as the seed likes. What one incarnation reports arrives in order.
pub(super) enum Message {
    Report(Fetch),
    Batch { to: usize, incarnation: Incarnation, epoch: LeaderEpoch, base: usize, entry: Entry },
}

impl Message {
    fn sender(&self) -> Option<(VolumeId, Incarnation)> {
        match self {
            Message::Report(fetch) => Some((fetch.volume, fetch.incarnation)),
            Message::Batch { .. } => None,
        }
    }
}

/// Somebody waits for what was appended.
pub(super) struct Waiter {
    epoch: LeaderEpoch,
    at: usize,
    value: u32,
}

macro_rules! seen {
    ($($field:ident)*) => {
        /// What happened how often: a test of what never happens tests nothing.
        #[derive(Debug, Default)]
        pub(super) struct Seen {
            $(pub(super) $field: usize,)*
        }

        impl Seen {
            pub(super) fn add(&mut self, other: &Seen) {
                $(self.$field += other.$field;)*
            }

            pub(super) fn check_all_happened(&self) {
                $(assert!(self.$field > 0, "never seen: {self:#?}");)*
            }
        }
    };
}

seen! {
    committed acknowledged cut_off not_enough not_enough_after_append refused cut joined left
    not_made clean preferred recovered unclean handed_over died wiped lost power_cut killed
    overtaken
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) rules: Rules,
    pub(super) unclean: UncleanElection,
    pub(super) now: Duration,
    pub(super) replicas: Vec<Replica>,
    /// As the metadata says.
    pub(super) epoch: LeaderEpoch,
    pub(super) isr: Vec<VolumeId>,
    pub(super) leader: Option<usize>,
    /// `None` between an end of the process and the next election.
    pub(super) progress: Option<Progress>,
    pub(super) pending: Option<IsrChange>,
    pub(super) mail: Vec<Message>,
    pub(super) waiters: Vec<Waiter>,
    /// What has been readable, and not been lost to what the durability does not survive.
    pub(super) committed: Vec<(LeaderEpoch, u32)>,
    /// The high watermark after the last step of this process.
    pub(super) high_watermark: usize,
    pub(super) values: u32,
    /// Which faults this seed leaves out: each combination finds something else.
    pub(super) spared: u64,
    pub(super) trace: u64,
    pub(super) seen: Seen,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count: u32 = [2, 3, 3, 3, 4][random.below(5)];
        let counts = if random.chance(2) { Counts::Durable } else { Counts::End };
        let min_insync = 1 + random.below(2);
        let spared = random.next() & random.next();
        let unclean =
            if random.chance(8) { UncleanElection::Allowed } else { UncleanElection::Refused };
        let replicas: Vec<Replica> = (1..=count).map(Replica::new).collect();
        let isr = replicas.iter().map(|replica| replica.volume).collect();
        let mut world = Self {
            random,
            rules: Rules { counts, min_insync, replica_lag_max: REPLICA_LAG_MAX },
            unclean,
            now: Duration::ZERO,
            replicas,
            epoch: LeaderEpoch::new(0),
            isr,
            leader: None,
            progress: None,
            pending: None,
            mail: Vec::new(),
            waiters: Vec::new(),
            committed: Vec::new(),
            high_watermark: 0,
            values: 0,
            spared,
            trace: seed,
            seen: Seen::default(),
        };
        world.elect();
        world
    }

    pub(super) fn step(&mut self) {
        self.now += Duration::from_millis(self.random.below(40) as u64);
        let at = self.random.below(self.replicas.len());
        match self.random.below(200) {
            0..30 => self.append(),
            30..70 => self.sync(at),
            70..110 => self.follow(at),
            110..140 => self.report(at),
            140..176 => self.deliver(),
            176..182 => self.tick(),
            182..185 => self.decide(),
            185..187 => self.settle(),
            187..191 => self.replicas[at].write_slot(),
            191..193 if self.leader.is_none() => self.elect(),
            191 => self.elect_on_demand(),
            192 => self.lose_mail(),
            _ => self.go_wrong(at),
        }
    }

    pub(super) fn append(&mut self) {
        let Some(leader) = self.leader.filter(|&at| self.replicas[at].runs()) else { return };
        let progress = self.progress.as_mut().expect("a leader has its progress");
        let acks = if self.random.chance(4) { Acks::Leader } else { Acks::All };
        if progress.can_append(acks).is_err() {
            self.seen.not_enough += 1;
            return;
        }
        self.values += 1;
        let (epoch, value) = (self.epoch, self.values);
        let entry = Entry { epoch, value, synced: index(progress.synced()) };
        let replica = &mut self.replicas[leader];
        self.waiters.push(Waiter { epoch, at: replica.log.len(), value });
        replica.append(entry);
        progress.leader_at(replica.position());
    }

    pub(super) fn sync(&mut self, at: usize) {
        if !self.replicas[at].runs() {
            return;
        }
        self.replicas[at].sync();
        if let (true, Some(progress)) = (self.leader == Some(at), &mut self.progress) {
            progress.leader_at(self.replicas[at].position());
        }
    }

    /// What a follower's thread does next: cut, clear its flag, or ask for a record.
    pub(super) fn follow(&mut self, at: usize) {
        let Some(leader) = self.leader.filter(|&leader| leader != at) else { return };
        if !self.replicas[at].runs() || !self.replicas[leader].alive {
            return;
        }
        let [follower, leads] = self.replicas.get_disjoint_mut([at, leader]).expect("two replicas");
        if follower.following != self.epoch {
            let before = follower.log.len();
            follower.align(leads, self.epoch);
            self.seen.cut += usize::from(follower.log.len() < before);
            return;
        }
        let progress = self.progress.as_ref().expect("a leader has its progress");
        let (base, synced) = (follower.log.len(), index(progress.synced()));
        let all_durable = follower.durable == base && base >= synced;
        let copying = progress.copying(follower.volume);
        if follower.catching_up && all_durable && copying == Copying::Counts {
            follower.catching_up = false;
            follower.write_slot();
        } else if let Some(&entry) = leads.log.get(base) {
            let (incarnation, epoch) = (follower.incarnation, self.epoch);
            self.mail.push(Message::Batch { to: at, incarnation, epoch, base, entry });
        }
    }

    pub(super) fn report(&mut self, at: usize) {
        let replica = &self.replicas[at];
        if replica.runs() && self.leader != Some(at) && replica.following.get() > 0 {
            self.mail.push(Message::Report(replica.report()));
        }
    }

    pub(super) fn deliver(&mut self) {
        if self.mail.is_empty() {
            return;
        }
        let chosen = self.random.below(self.mail.len());
        self.deliver_one(chosen);
    }

    pub(super) fn deliver_one(&mut self, chosen: usize) {
        let sender = self.mail[chosen].sender();
        let first = self.mail.iter().position(|other| other.sender() == sender);
        let at = if sender.is_some() { first.expect("itself at least") } else { chosen };
        match self.mail.remove(at) {
            Message::Report(fetch) => {
                let progress = self.progress.as_mut().filter(|_| self.leader.is_some());
                let taken = progress.is_some_and(|it| it.fetched(&fetch, self.now).is_ok());
                self.seen.refused += usize::from(!taken);
            }
            Message::Batch { to, incarnation, epoch, base, entry } => {
                let follower = &mut self.replicas[to];
                let is_asked_for = follower.runs()
                    && (follower.incarnation, follower.following) == (incarnation, epoch)
                    && (self.epoch, follower.log.len()) == (epoch, base)
                    && self.leader.is_some();
                if !is_asked_for {
                    self.seen.overtaken += 1;
                    return;
                }
                let progress = self.progress.as_ref().expect("a leader has its progress");
                let sender = Some((follower.volume, incarnation));
                let reports = self.mail.iter().any(|other| other.sender() == sender);
                match progress.copying(follower.volume) {
                    Copying::LeavesFirst => return,
                    Copying::CatchesUp if !follower.catching_up && reports => return,
                    Copying::CatchesUp if !follower.catching_up => {
                        follower.catching_up = true;
                        follower.write_slot();
                    }
                    Copying::CatchesUp | Copying::Counts => {}
                }
                follower.append(entry);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        if self.leader.is_some() {
            let progress = self.progress.as_mut().expect("a leader has its progress");
            if let Some(change) = progress.tick(self.now) {
                let before = self.pending.replace(change);
                assert_eq!(before, None, "two changes on their way");
            }
        }
    }

    /// The change that is on its way is durable, or was not made.
    pub(super) fn decide(&mut self) {
        let made = !self.random.chance(6);
        self.decide_as(if made { Decision::Durable } else { Decision::NotMade });
    }

    pub(super) fn decide_as(&mut self, decision: Decision) {
        self.check();
        let Some(change) = self.pending.take() else { return };
        let mut progress = self.progress.as_mut();
        if let Some(progress) = &mut progress {
            progress.decided(decision);
        }
        if decision == Decision::NotMade {
            self.seen.not_made += 1;
            return;
        }
        for replica in &mut self.replicas {
            let volume = replica.volume;
            match (self.isr.contains(&volume), change.isr.contains(&volume)) {
                (false, true) => {
                    self.seen.joined += 1;
                    // It may have come back as another one meanwhile.
                    if progress.as_ref().is_some_and(|it| it.copying(volume) == Copying::Counts) {
                        (replica.blank, replica.unsure) = (false, false);
                    }
                }
                (true, false) => self.seen.left += 1,
                _ => {}
            }
        }
        self.isr = change.isr;
        self.check();
    }

    pub(super) fn settle(&mut self) {
        let Some(leader) = self.leader else { return };
        if self.waiters.is_empty() {
            return;
        }
        let chosen = self.random.below(self.waiters.len());
        let Waiter { epoch, at, value } = self.waiters[chosen];
        let progress = self.progress.as_ref().expect("a leader has its progress");
        let log = &self.replicas[leader];
        let is_there = log.log.get(at).is_some_and(|it| (it.epoch, it.value) == (epoch, value));
        match progress.settle(epoch, offset(at + 1), log.history()) {
            Settled::Waiting => return assert!(is_there, "waits for what is not there"),
            Settled::Committed => {
                assert_eq!(self.committed.get(at), Some(&(epoch, value)), "acknowledged");
                self.seen.acknowledged += 1;
            }
            Settled::NotEnoughAfterAppend => {
                assert!(self.isr.len() < self.rules.min_insync && is_there);
                self.seen.not_enough_after_append += 1;
            }
            Settled::CutOff => {
                assert!(!is_there, "said to be cut off, and is not");
                self.seen.cut_off += 1;
            }
            Settled::Unknown => panic!("nothing is ever deleted"),
        }
        self.waiters.swap_remove(chosen);
    }

    fn candidates(&self) -> Vec<Candidate> {
        let progress = self.progress.as_ref();
        let candidate = |replica: &Replica| Candidate {
            volume: replica.volume,
            presence: if replica.alive { Presence::Live } else { Presence::Gone },
            fitness: match replica {
                Replica { blank: true, .. } => Fitness::Blank,
                Replica { catching_up: true, .. } => Fitness::CatchingUp,
                Replica { unsure: true, .. } => Fitness::Unsure,
                _ => Fitness::Sure,
            },
            may_lack: !progress.is_some_and(|progress| progress.has_caught_up(replica.volume)),
            is_empty: replica.log.is_empty(),
            damaged_bytes: 0,
            last_epoch: replica.last_epoch(),
            end: offset(replica.log.len()),
        };
        self.replicas.iter().map(candidate).collect()
    }

    pub(super) fn elect(&mut self) {
        self.decide();
        let unclean = self.unclean;
        self.hold_election(|ballot| ballot.elect(unclean));
    }

    fn elect_on_demand(&mut self) {
        self.decide();
        let (choice, unclean) = (self.random.below(3), self.unclean);
        self.hold_election(|ballot| match choice {
            0 => ballot.prefer(),
            1 => ballot.leader.and_then(|from| ballot.hand_over(from)),
            // The same leader once more, in a new epoch.
            _ => ballot.elect(unclean),
        });
    }

    fn hold_election(&mut self, choose: impl Fn(&Ballot<'_>) -> Option<Election>) {
        let candidates = self.candidates();
        let leader = self.leader.map(|at| self.replicas[at].volume);
        let ballot = Ballot { epoch: self.epoch, leader, isr: &self.isr, candidates: &candidates };
        let Some(election) = choose(&ballot) else { return };
        // A record that could not be made durable never was.
        if !self.random.chance(8) {
            self.take_over(&election);
        }
    }

    fn take_over(&mut self, Election { term, kind }: &Election) {
        let by_volume = |volume| self.replicas.iter().position(|it| it.volume == volume);
        let leader = by_volume(term.leader).expect("a replica");
        match kind {
            ElectionKind::Clean => self.seen.clean += 1,
            ElectionKind::Recovered => self.seen.recovered += 1,
            ElectionKind::Preferred => self.seen.preferred += 1,
            ElectionKind::HandOver => self.seen.handed_over += 1,
            ElectionKind::Unclean => self.seen.unclean += 1,
        }
        self.epoch = term.epoch;
        self.isr.clone_from(&term.isr);
        self.leader = Some(leader);
        let leads = &mut self.replicas[leader];
        leads.following = term.epoch;
        if leads.catching_up {
            // Elected uncleanly: what it has is synced, and it is trusted.
            (leads.catching_up, leads.durable) = (false, leads.log.len());
            leads.slot = leads.durable;
        }
        let may_lose = matches!(kind, ElectionKind::Recovered | ElectionKind::Unclean);
        let leader_at = self.replicas[leader].position();
        self.progress = Some(match &self.progress {
            Some(progress) if !may_lose => progress.next_term(term, leader_at, self.now),
            _ => self.first_term(term, leader),
        });
        self.account_for_losses(leader, *kind);
    }

    /// After an open, or a loss: from what the logs say, and nothing else.
    fn first_term(&mut self, term: &Term, leader: usize) -> Progress {
        let leads = &self.replicas[leader];
        let members = self.replicas.iter().filter(|it| term.isr.contains(&it.volume));
        let evidence: Vec<Evidence> = members
            .map(|member| Evidence {
                durable: offset(member.evidence()),
                agrees_to: offset(member.agrees_to(leads)),
            })
            .collect();
        let synced = offset(leads.largest_stamp());
        let min_insync = self.rules.min_insync;
        let start = high_watermark_at_open(evidence.into_iter(), min_insync, synced);
        let volumes: Vec<(VolumeId, Incarnation)> =
            self.replicas.iter().map(|it| (it.volume, it.incarnation)).collect();
        let (at, now) = (leads.position(), self.now);
        let mut progress = Progress::new(self.rules, &volumes, term, at, (start, synced), now);
        for gone in self.replicas.iter().filter(|it| !it.alive) {
            progress.fenced(gone.volume);
        }
        self.high_watermark = 0;
        progress
    }

    /// What was readable and is no longer in the leader's log is lost, where it may be.
    fn account_for_losses(&mut self, leader: usize, kind: ElectionKind) {
        let os = self.rules.counts == Counts::End;
        let may_lose = match kind {
            ElectionKind::Unclean => true,
            ElectionKind::Recovered => os && self.replicas[leader].unsure,
            _ => false,
        };
        let holds = |at: usize| {
            let counted = self.replicas[at].counted(self.rules.counts);
            let both = self.replicas[at].log.iter().zip(&self.committed).take(counted);
            both.take_while(|(entry, read)| (entry.epoch, entry.value) == **read).count()
        };
        let members = (0..self.replicas.len()).filter(|&at| {
            at == leader || (may_lose && self.isr.contains(&self.replicas[at].volume))
        });
        let kept = members.map(holds).min().expect("the leader");
        let lost = self.committed.len() - kept;
        assert!(lost == 0 || may_lose, "{kind:?}: {lost} of {} lost", self.committed.len());
        self.seen.lost += lost;
        self.committed.truncate(kept);
        if kind == ElectionKind::Unclean {
            // What an earlier unclean leader had lost may be back.
            let progress = self.progress.as_ref().expect("a leader has its progress");
            let back = self.replicas[leader].log.iter().take(index(progress.high_watermark()));
            self.committed.extend(back.skip(kept).map(|entry| (entry.epoch, entry.value)));
        }
        for replica in &mut self.replicas {
            replica.unsure &= !self.isr.contains(&replica.volume);
        }
    }
}
