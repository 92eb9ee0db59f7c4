//! The rules of membership under one seeded schedule: members that join, work, lose answers, say
//! things twice, are slow to let go, fall silent and leave, and topics that grow and go.
//!
//! Checked after each step: a partition goes to another member only once the one before does not
//! read it, is no member any more, or had its time to let go; a commit counts only of who owns the
//! partition. At the end, with nothing going wrong any more, each partition that somebody wants is
//! read by one member, as the assignor says.
//!
//! `PLIMSOLL_SEED` runs one seed, `PLIMSOLL_SEEDS` as many as it says.

use super::*;
use crate::format::testing::Random;
use crate::group::assignor::{range, round_robin, sticky};

const LIMITS: Limits = Limits {
    max_poll_interval: Duration::from_secs(30),
    revocation_timeout: Duration::from_secs(5),
    interval: Duration::from_secs(1),
};

/// Somebody who reads.
#[derive(Clone, Debug)]
struct Reader {
    id: MemberId,
    instance: Option<Arc<str>>,
    number: u64,
    /// What it reads, and since which epoch it was told so.
    reads: BTreeMap<Part, MemberEpoch>,
    /// What it was told to give back.
    revoked: BTreeSet<Part>,
    /// It does nothing any more.
    silent: bool,
}

struct World {
    random: Random,
    group: Group,
    now: Duration,
    topics: Vec<u32>,
    assign: fn(&[u32], &[Wants]) -> Vec<Vec<Part>>,
    readers: Vec<Reader>,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    moved: usize,
    taken: usize,
    expelled: usize,
    resync: usize,
    repeated: usize,
    stale: usize,
    committed: usize,
    replaced: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Duration::from_secs(1_000);
        let assign = [range, round_robin, sticky, sticky][random.below(4)];
        let mut group = Group::new(LIMITS, now);
        let topics = vec![3, 5];
        group.topics_are(topics.clone(), &assign);
        let readers = Vec::new();
        Self { random, group, now, topics, assign, readers, seen: Seen::default() }
    }

    fn owners(&self) -> BTreeMap<Part, MemberId> {
        self.group.owners.iter().map(|(part, owner)| (*part, owner.member)).collect()
    }

    fn some_topics(&mut self) -> Vec<usize> {
        let wanted: Vec<usize> =
            (0..self.topics.len()).filter(|_| !self.random.chance(4)).collect();
        if wanted.is_empty() { vec![0] } else { wanted }
    }

    fn join(&mut self) {
        if self.readers.len() > 6 {
            return;
        }
        let names = ["a", "b"];
        let instance = self.random.chance(3).then(|| Arc::from(names[self.random.below(2)]));
        let topics = self.some_topics();
        if let Some(name) = &instance {
            // The one before with this name does not hear of it before it asks.
            self.seen.replaced +=
                self.readers.iter().filter(|it| it.instance.as_ref() == Some(name)).count();
        }
        let number = self.random.below_u64(100);
        let (id, answer) =
            self.group.join((instance.clone(), topics), number, self.now, &self.assign);
        let mut reader = Reader {
            id,
            instance,
            number,
            reads: BTreeMap::new(),
            revoked: BTreeSet::new(),
            silent: false,
        };
        reader.takes(&answer);
        self.readers.push(reader);
    }

    fn some_reader(&mut self) -> Option<usize> {
        let there: Vec<usize> =
            (0..self.readers.len()).filter(|at| !self.readers[*at].silent).collect();
        (!there.is_empty()).then(|| there[self.random.below(there.len())])
    }

    /// One request of a reader; it lets go of what it is to give back, or is slow.
    fn ask(&mut self, at: usize, slow: bool, lost: bool) {
        let reader = &mut self.readers[at];
        if !slow {
            let revoked = std::mem::take(&mut reader.revoked);
            reader.reads.retain(|part, _| !revoked.contains(part));
        }
        let owned = reader.reads.keys().copied().collect();
        let request = Request { number: reader.number + 1, owned };
        match self.group.heartbeat(reader.id, &request, self.now) {
            Ok(answer) if lost => {
                // It asks once more, with the same number, and gets the same.
                let again = self.group.heartbeat(reader.id, &request, self.now);
                assert_eq!(again, Ok(answer), "a repeated request has another answer");
                self.seen.repeated += 1;
            }
            Ok(answer) => {
                reader.number = request.number;
                reader.takes(&answer);
            }
            Err(Refused::Resync) => {
                self.seen.resync += 1;
                reader.number += 50;
                let request = Request { number: reader.number, ..request };
                let answer = self.group.rejoin(reader.id, &request, self.now);
                reader.takes(&answer.expect("it is a member"));
            }
            Err(Refused::UnknownMember) => drop(self.readers.swap_remove(at)),
        }
    }

    fn step(&mut self) {
        let before = self.owners();
        self.now += Duration::from_millis(self.random.below_u64(400));
        let mut taken_by_time = false;
        match self.random.below(40) {
            0 | 1 => self.join(),
            2..20 => {
                let (slow, lost) = (self.random.chance(4), self.random.chance(10));
                if let Some(at) = self.some_reader() {
                    self.ask(at, slow, lost);
                }
            }
            20..28 => {
                taken_by_time = true;
                let expelled = self.group.tick(self.now, &self.assign);
                self.seen.expelled += expelled.len();
            }
            28 => {
                if let Some(at) = self.some_reader() {
                    let reader = self.readers.swap_remove(at);
                    self.group.leave(reader.id, &self.assign);
                    self.group.leave(reader.id, &self.assign);
                }
            }
            29 => {
                if let Some(at) = self.some_reader() {
                    self.readers[at].silent = true;
                }
            }
            30 => {
                // Its count went wrong.
                if let Some(at) = self.some_reader() {
                    self.readers[at].number += 2;
                }
            }
            31 => {
                let topic = self.random.below(self.topics.len());
                self.topics[topic] =
                    if self.random.chance(4) { 0 } else { self.topics[topic].min(9) + 1 };
                self.group.topics_are(self.topics.clone(), &self.assign);
            }
            32 => {
                let topics = self.some_topics();
                if let Some(at) = self.some_reader() {
                    let id = self.readers[at].id;
                    let _ = self.group.subscribe(id, topics, &self.assign);
                }
            }
            // A process that was frozen.
            33 => self.now += Duration::from_secs(self.random.below_u64(400)),
            34 => {
                // It works, and says no more than that.
                if let Some(at) = self.some_reader() {
                    let _ = self.group.is_alive(self.readers[at].id, self.now);
                }
            }
            _ => self.commit(),
        }
        self.check(&before, taken_by_time);
    }

    /// Somebody commits what it reads, or what it read once.
    fn commit(&mut self) {
        let Some(at) = self.some_reader() else { return };
        let reader = &self.readers[at];
        let topic = self.random.below(self.topics.len());
        let part = Part { topic, number: u32::try_from(self.random.below(10)).expect("small") };
        let epoch = reader.reads.get(&part).copied();
        let counts = self.group.may_commit(reader.id, epoch.unwrap_or(MemberEpoch(9_999)), part);
        let owns = self.group.owners.get(&part).is_some_and(|owner| owner.member == reader.id);
        assert!(counts.is_err() || (owns && epoch.is_some()), "a commit of a stranger counts");
        if owns && epoch.is_some() {
            // It was never anybody else's since it was told.
            assert_eq!(counts, Ok(()), "an honest commit is refused");
            self.seen.committed += 1;
        } else {
            self.seen.stale += 1;
        }
    }

    fn check(&mut self, before: &BTreeMap<Part, MemberId>, taken_by_time: bool) {
        for (part, owner) in self.owners() {
            let Some(was) = before.get(&part).filter(|was| **was != owner) else { continue };
            self.seen.moved += 1;
            let old = self.readers.iter().find(|it| it.id == *was);
            let still = old.filter(|_| self.group.members.contains_key(was));
            let reads = still.is_some_and(|it| it.reads.contains_key(&part));
            assert!(!reads, "I8: {part:?} goes to {owner:?} while {was:?} reads it");
        }
        for (part, was) in before {
            let is_free = !self.group.owners.contains_key(part);
            let still = self.readers.iter().find(|it| it.id == *was);
            let reads = still.is_some_and(|it| it.reads.contains_key(part));
            if is_free && reads && self.group.members.contains_key(was) {
                assert!(taken_by_time, "{part:?} was taken from {was:?}, which reads it");
                self.seen.taken += 1;
            }
        }
    }

    /// Nothing goes wrong any more.
    fn calm_down(&mut self) {
        self.readers.retain(|reader| !reader.silent);
        for _ in 0..100 {
            self.now += LIMITS.interval;
            self.group.tick(self.now, &self.assign);
            let mut at = 0;
            while at < self.readers.len() {
                let count = self.readers.len();
                self.ask(at, false, false);
                at += usize::from(self.readers.len() == count);
            }
        }
        let members: BTreeSet<MemberId> = self.group.members.keys().copied().collect();
        let there: BTreeSet<MemberId> = self.readers.iter().map(|it| it.id).collect();
        assert_eq!(members, there, "who is silent is no member");
        let mut all: Vec<Part> =
            self.readers.iter().flat_map(|it| it.reads.keys().copied()).collect();
        all.sort_unstable();
        let wanted = |topic: usize| {
            self.group.members.values().any(|it| it.topics.binary_search(&topic).is_ok())
        };
        let parts = self.topics.iter().enumerate().filter(|(topic, _)| wanted(*topic));
        let expected: Vec<Part> = parts
            .flat_map(|(topic, &count)| (0..count).map(move |number| Part { topic, number }))
            .collect();
        assert_eq!(all, expected, "each is read by one");
        for reader in &self.readers {
            let target = &self.group.members[&reader.id].target;
            assert!(reader.reads.keys().eq(target.iter()), "{reader:?} is to read {target:?}");
        }
    }
}

impl Reader {
    fn takes(&mut self, answer: &Answer) {
        // What is not named any more is lost.
        self.reads
            .retain(|part, _| answer.assigned.contains(part) || answer.revoked.contains(part));
        for part in &answer.assigned {
            self.reads.entry(*part).or_insert(answer.epoch);
        }
        self.revoked.clone_from(&answer.revoked);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok())
}

#[test]
fn no_schedule_gives_a_partition_two_owners_or_none() {
    let mut seen = Seen::default();
    let named = number("PLIMSOLL_SEED");
    let seeds = number("PLIMSOLL_SEEDS").unwrap_or(4_000);
    for seed in named.map_or(0..seeds, |seed| seed..seed + 1) {
        let ran = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..400).for_each(|_| world.step());
            world.calm_down();
            world.seen
        });
        let one = ran.unwrap_or_else(|_| panic!("replay with PLIMSOLL_SEED={seed}"));
        seen.moved += one.moved;
        seen.taken += one.taken;
        seen.expelled += one.expelled;
        seen.resync += one.resync;
        seen.repeated += one.repeated;
        seen.stale += one.stale;
        seen.committed += one.committed;
        seen.replaced += one.replaced;
    }
    if named.is_none() {
        let all = [seen.moved, seen.taken, seen.expelled, seen.resync, seen.repeated];
        let more = [seen.stale, seen.committed, seen.replaced];
        assert!(all.iter().chain(&more).all(|count| *count > 0), "never seen: {seen:?}");
    }
}

#[test]
fn a_process_that_was_frozen_expels_nobody_when_it_thaws() {
    let start = Duration::from_secs(1_000);
    let mut group = Group::new(LIMITS, start);
    group.topics_are(vec![4], &sticky);
    let (one, _) = group.join((None, vec![0]), 1, start, &sticky);
    let thawed = start + LIMITS.max_poll_interval * 10;
    assert_eq!(group.tick(thawed, &sticky), []);
    let mut now = thawed;
    let mut expelled = Vec::new();
    while expelled.is_empty() {
        now += LIMITS.interval;
        expelled = group.tick(now, &sticky);
    }
    assert_eq!(expelled, [one]);
    let silent = now.saturating_sub(thawed) + LIMITS.interval * 2;
    assert!(silent > LIMITS.max_poll_interval, "its time is its own");
    let gone = Request { number: 2, owned: BTreeSet::new() };
    assert_eq!(group.heartbeat(one, &gone, now), Err(Refused::UnknownMember), "no revival");
}
