//! Who is in a group, and what each member may read now: pure, in numbers.
//!
//! The group has a target, made by an assignor whenever a member comes or goes, wants other topics,
//! or a topic has more partitions. Members are brought to it one by one, each by its own requests:
//! there is no moment in which all of them wait for the slowest.
//!
//! Not here: assigning (`assignor`), committed offsets, threads, names of topics.
//!
//! | state of a member | it may read | goes on when |
//! | --- | --- | --- |
//! | stable | its target | the target changes |
//! | revoking | its target, and what it is to give back, until it said that it does not | it says so, or its time is over |
//! | waiting | its target without what others have not given back yet | they have |
//!
//! Requests are numbered by the member. The same number again gets the answer of before, and
//! changes nothing; any other but the next one is `Resync`: the member joins again, and says all
//! that it has. So an answer that was lost, and a request that came twice, do no harm. Only a
//! request that is accepted counts as a sign of life.
//!
//! Invariants
//!   1. A partition has one owner at most (I8): it goes to the next one after the one before said
//!      that it let go, left, or was fenced.
//!   2. A commit counts if the member owns the partition, and has since its epoch or before: one
//!      that was fenced, or let go, commits nothing (I6); an honest one during a rebalance does.
//!   3. Whoever was expelled is told so, and is never revived: it joins anew.
//!   4. A checker that wakes late moves all deadlines by its lateness: a process that was frozen
//!      expels nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::assignor::{Part, Wants};

/// A member, for as long as it is one; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub(crate) u64);

/// Grows with each change of what members are to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberEpoch(pub(crate) u32);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For how long a member may be silent.
    pub(crate) max_poll_interval: Duration,
    /// For how long it may keep what it is to give back.
    pub(crate) revocation_timeout: Duration,
    /// How often [`Group::tick`] is meant to be called.
    pub(crate) interval: Duration,
}

/// All that a member wants and has: never what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// One more than that of the request before; a join begins with any.
    pub(crate) number: u64,
    /// What it reads, of what it was given.
    pub(crate) owned: BTreeSet<Part>,
}

/// What a member is to know: all of it, each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) number: u64,
    pub(crate) epoch: MemberEpoch,
    /// What it may read from now on.
    pub(crate) assigned: BTreeSet<Part>,
    /// What it is to give back: may be read until it says that it does not.
    pub(crate) revoked: BTreeSet<Part>,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is no member, or none any more: all it has is lost, and it joins anew.
    UnknownMember,
    /// Requests were lost: it joins again as who it is.
    Resync,
}

/// A commit of somebody who does not own the partition, or did not in that epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale;

/// Who owns a partition, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    member: MemberId,
    since: MemberEpoch,
}

#[derive(Debug)]
struct Member {
    /// Its name, if it has one of its own: who joins with it takes its place.
    instance: Option<Arc<str>>,
    /// Numbers of topics, in order.
    topics: Vec<usize>,
    epoch: MemberEpoch,
    target: BTreeSet<Part>,
    /// What it was told to give back, and when its time for that is over. In checked time.
    revoking: BTreeMap<Part, Duration>,
    /// In checked time.
    heard_at: Duration,
    answered: Answer,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    limits: Limits,
    /// By number: how many partitions each topic has; none once it is deleted.
    topics: Vec<u32>,
    epoch: MemberEpoch,
    members: BTreeMap<MemberId, Member>,
    owners: BTreeMap<Part, Owner>,
    next_member: u64,
    /// When the next tick is meant to be.
    due: Duration,
    /// By how much ticks were late, all in all. Checked time is the clock less this.
    late: Duration,
}

/// How targets are made.
pub(crate) type Assign<'a> = &'a dyn Fn(&[u32], &[Wants]) -> Vec<Vec<Part>>;

impl Group {
    pub(crate) fn new(limits: Limits, now: Duration) -> Self {
        Self {
            limits,
            topics: Vec::new(),
            epoch: MemberEpoch::default(),
            members: BTreeMap::new(),
            owners: BTreeMap::new(),
            next_member: 1,
            due: now + limits.interval,
            late: Duration::ZERO,
        }
    }

    /// Somebody joins. With a name of its own it takes the place of whoever had that name, and what
    /// that one owned: the one before is fenced.
    pub(crate) fn join(
        &mut self,
        (instance, topics): (Option<Arc<str>>, Vec<usize>),
        number: u64,
        now: Duration,
        assign: Assign<'_>,
    ) -> (MemberId, Answer) {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let same = |member: &&MemberId| {
            instance.is_some() && self.members.get(member).is_some_and(|it| it.instance == instance)
        };
        let before = self.members.keys().find(same).copied();
        let before = before.and_then(|before| Some((before, self.members.remove(&before)?)));
        let answered = Answer {
            number,
            epoch: MemberEpoch::default(),
            assigned: BTreeSet::new(),
            revoked: BTreeSet::new(),
        };
        let heard_at = self.checked(now);
        let mut member = Member {
            instance,
            topics,
            epoch: MemberEpoch::default(),
            target: BTreeSet::new(),
            revoking: BTreeMap::new(),
            heard_at,
            answered,
        };
        let mut same_topics = false;
        if let Some((before, old)) = before {
            same_topics = old.topics == member.topics;
            member.target = old.target;
            self.epoch.0 += 1;
            for owner in self.owners.values_mut().filter(|owner| owner.member == before) {
                // The one before reads no more: what it commits from now on is stale.
                *owner = Owner { member: id, since: self.epoch };
            }
            member.epoch = self.epoch;
        }
        self.members.insert(id, member);
        if !same_topics {
            self.retarget(assign);
        }
        let owned = self.owned_by(id);
        (id, self.answer(id, number, &owned, now))
    }

    /// A member that lost track says who it is and all that it has. What it does not name it has
    /// let go.
    ///
    /// # Errors
    /// `UnknownMember`.
    pub(crate) fn rejoin(
        &mut self,
        id: MemberId,
        request: &Request,
        now: Duration,
    ) -> Result<Answer, Refused> {
        if !self.members.contains_key(&id) {
            return Err(Refused::UnknownMember);
        }
        Ok(self.answer(id, request.number, &request.owned, now))
    }

    /// A member asks what it is to do, and says what it reads.
    ///
    /// # Errors
    /// `UnknownMember`, `Resync`: it counts as no sign of life.
    pub(crate) fn heartbeat(
        &mut self,
        id: MemberId,
        request: &Request,
        now: Duration,
    ) -> Result<Answer, Refused> {
        let member = self.members.get(&id).ok_or(Refused::UnknownMember)?;
        if request.number == member.answered.number {
            return Ok(member.answered.clone());
        }
        if request.number != member.answered.number + 1 {
            return Err(Refused::Resync);
        }
        Ok(self.answer(id, request.number, &request.owned, now))
    }

    /// A member works, and says that it is alive: nothing else.
    ///
    /// # Errors
    /// `UnknownMember`.
    pub(crate) fn is_alive(&mut self, id: MemberId, now: Duration) -> Result<(), Refused> {
        let at = self.checked(now);
        let member = self.members.get_mut(&id).ok_or(Refused::UnknownMember)?;
        member.heard_at = member.heard_at.max(at);
        Ok(())
    }

    /// It wants other topics.
    ///
    /// # Errors
    /// `UnknownMember`.
    pub(crate) fn subscribe(
        &mut self,
        id: MemberId,
        topics: Vec<usize>,
        assign: Assign<'_>,
    ) -> Result<(), Refused> {
        let member = self.members.get_mut(&id).ok_or(Refused::UnknownMember)?;
        if member.topics != topics {
            member.topics = topics;
            self.retarget(assign);
        }
        Ok(())
    }

    /// It reads nothing any more. Once is enough, and twice does no harm.
    pub(crate) fn leave(&mut self, id: MemberId, assign: Assign<'_>) {
        if self.members.remove(&id).is_some() {
            self.owners.retain(|_, owner| owner.member != id);
            self.retarget(assign);
        }
    }

    /// So many partitions has each topic now.
    pub(crate) fn topics_are(&mut self, topics: Vec<u32>, assign: Assign<'_>) {
        if self.topics != topics {
            self.topics = topics;
            self.retarget(assign);
        }
    }

    /// What the time brings: members that were silent for too long are expelled, and what was not
    /// given back in time is taken. Returns the expelled.
    pub(crate) fn tick(&mut self, now: Duration, assign: Assign<'_>) -> Vec<MemberId> {
        if now < self.due {
            return Vec::new();
        }
        self.late += now.saturating_sub(self.due);
        self.due = now + self.limits.interval;
        let at = self.checked(now);
        for member in self.members.values_mut() {
            // What was noted before the checker knew how late it is, is not of a time to come.
            member.heard_at = member.heard_at.min(at);
            let owners = &mut self.owners;
            let limit = self.limits.revocation_timeout;
            member.revoking.retain(|part, since| {
                *since = (*since).min(at);
                let is_over = at.saturating_sub(*since) > limit;
                if is_over {
                    owners.remove(part);
                }
                !is_over
            });
        }
        let max = self.limits.max_poll_interval;
        let is_silent = |member: &Member| at.saturating_sub(member.heard_at) > max;
        let silent = self.members.iter().filter(|(_, member)| is_silent(member));
        let silent: Vec<MemberId> = silent.map(|(id, _)| *id).collect();
        for id in &silent {
            self.members.remove(id);
            self.owners.retain(|_, owner| owner.member != *id);
        }
        if !silent.is_empty() {
            self.retarget(assign);
        }
        silent
    }

    /// Whether this member may commit an offset of a partition that it says it was given in `epoch`
    /// or before.
    ///
    /// # Errors
    /// `Stale`.
    pub(crate) fn may_commit(
        &self,
        id: MemberId,
        epoch: MemberEpoch,
        part: Part,
    ) -> Result<(), Stale> {
        let owner = self.owners.get(&part).ok_or(Stale)?;
        if owner.member == id && owner.since <= epoch && epoch <= self.epoch {
            Ok(())
        } else {
            Err(Stale)
        }
    }

    fn checked(&self, now: Duration) -> Duration {
        now.saturating_sub(self.late)
    }

    fn owned_by(&self, id: MemberId) -> BTreeSet<Part> {
        let owned = self.owners.iter().filter(|(_, owner)| owner.member == id);
        owned.map(|(part, _)| *part).collect()
    }

    /// A new target: the epoch grows, and what each is to have is as the assignor says.
    fn retarget(&mut self, assign: Assign<'_>) {
        self.epoch.0 += 1;
        let wants: Vec<Wants> = self
            .members
            .iter()
            .map(|(id, member)| {
                // What it is to have counts as what it has: it may be on its way.
                let mut owned: BTreeSet<Part> = member.target.clone();
                owned.extend(self.owned_by(*id));
                Wants { topics: member.topics.clone(), owned: owned.into_iter().collect() }
            })
            .collect();
        let targets = assign(&self.topics, &wants);
        for (member, target) in self.members.values_mut().zip(targets) {
            member.target = target.into_iter().collect();
            // Withdrawn: it may keep what it was told to give back.
            member.revoking.retain(|part, _| !member.target.contains(part));
        }
    }

    /// Takes note of what a member reads, and says what it may read from now on.
    fn answer(
        &mut self,
        id: MemberId,
        number: u64,
        reads: &BTreeSet<Part>,
        now: Duration,
    ) -> Answer {
        let (at, epoch) = (self.checked(now), self.epoch);
        let Some(member) = self.members.get_mut(&id) else { unreachable!("looked up before") };
        member.heard_at = member.heard_at.max(at);
        // What it does not read it has let go, if it was told to.
        let (owners, target) = (&mut self.owners, &member.target);
        owners.retain(|part, owner| {
            owner.member != id || reads.contains(part) || target.contains(part)
        });
        member.revoking.retain(|part, _| owners.get(part).is_some_and(|it| it.member == id));
        let owned = owners.iter().filter(|(_, owner)| owner.member == id).map(|(part, _)| *part);
        let revoked: BTreeSet<Part> = owned.filter(|part| !target.contains(part)).collect();
        for part in &revoked {
            member.revoking.entry(*part).or_insert(at);
        }
        if revoked.is_empty() {
            // Only now it goes on: what it gets is of the new epoch.
            member.epoch = epoch;
            for part in target {
                owners.entry(*part).or_insert(Owner { member: id, since: epoch });
            }
        }
        let owned = owners.iter().filter(|(_, owner)| owner.member == id).map(|(part, _)| *part);
        let assigned = owned.filter(|part| !revoked.contains(part)).collect();
        let answer = Answer { number, epoch: member.epoch, assigned, revoked };
        member.answered = answer.clone();
        answer
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
