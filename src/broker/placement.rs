//! Which volumes hold the replicas of a partition, and which of them is to lead it.
//!
//! Not here: copying what moves, elections, volumes that are gone (they are not offered).
//!
//! The holders of a partition come in order: the first one is the preferred leader.
//!
//! Invariants
//!   1. No two replicas of a partition lie on one volume.
//!   2. Volumes that drain or fail are used only where too few others are left.

#![cfg_attr(not(test), expect(dead_code, reason = "for a broker of several volumes"))]

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use crate::id::VolumeId;

/// A volume that failed so often is not used for new replicas.
pub(crate) const FAILURES_MAX: u32 = 3;

/// A volume that is there, and how much lies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) volume: VolumeId,
    pub(crate) replicas: usize,
    /// Of partitions that it is the preferred leader of.
    pub(crate) leaders: usize,
    pub(crate) failures: u32,
    pub(crate) draining: bool,
}

/// Which volumes hold a partition; the first one is to lead.
pub(crate) type Holders = Vec<VolumeId>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFewVolumes;

/// One replica goes to another volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Which of the partitions.
    pub(crate) partition: usize,
    pub(crate) from: VolumeId,
    pub(crate) to: VolumeId,
}

impl Load {
    pub(crate) fn new(volume: VolumeId) -> Self {
        Self { volume, replicas: 0, leaders: 0, failures: 0, draining: false }
    }

    /// Lower is better.
    pub(crate) fn reluctance(&self) -> (bool, u32) {
        let failures = if self.failures < FAILURES_MAX { 0 } else { self.failures };
        (self.draining, failures)
    }
}

/// Places so many partitions, and adds them to the loads.
///
/// # Errors
/// If there are fewer volumes than replicas.
pub(crate) fn place(
    loads: &mut [Load],
    partitions: usize,
    replicas: usize,
) -> Result<Vec<Holders>, TooFewVolumes> {
    let mut usable: Vec<usize> = (0..loads.len()).collect();
    usable.sort_by_key(|&at| loads[at].reluctance());
    let willing = usable.iter().filter(|&&at| loads[at].reluctance() == (false, 0)).count();
    usable.truncate(willing.max(replicas));
    if usable.len() < replicas || replicas == 0 {
        return Err(TooFewVolumes);
    }
    Ok((0..partitions).map(|_| place_one(loads, &usable, replicas)).collect())
}

/// The volumes with the fewest replicas. Among equals: one with the fewest leaders, which is to
/// lead, and then those with most, so that one with few stays for the next partition. What is still
/// equal is shuffled, so that a volume has all the others as partners.
fn place_one(loads: &mut [Load], usable: &[usize], replicas: usize) -> Holders {
    let turn: usize = loads.iter().map(|load| load.leaders).sum();
    let mut chosen: Vec<usize> = usable.to_vec();
    chosen.sort_by_key(|&at| (loads[at].replicas, loads[at].leaders, shuffled(turn, at)));
    chosen[1..]
        .sort_by_key(|&at| (loads[at].replicas, Reverse(loads[at].leaders), shuffled(turn, at)));
    chosen.truncate(replicas);
    chosen.sort_by_key(|&at| (loads[at].leaders, Reverse(loads[at].replicas)));
    loads[chosen[0]].leaders += 1;
    for &at in &chosen {
        loads[at].replicas += 1;
    }
    chosen.iter().map(|&at| loads[at].volume).collect()
}

/// Another order at each turn, and the same one in each run.
fn shuffled(turn: usize, at: usize) -> u64 {
    let mixed = (turn as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (at as u64 + 1);
    mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(32).wrapping_mul(0x94D0_49BB_1331_11EB)
}

/// Where the replicas on `from` go, so that it can be removed: to the volume with the fewest that
/// holds none of the partition. A partition that nobody else can take stays where it is.
pub(crate) fn drain(from: VolumeId, partitions: &[Holders], loads: &mut [Load]) -> Vec<Move> {
    let mut moves = Vec::new();
    for (partition, holders) in partitions.iter().enumerate() {
        if !holders.contains(&from) {
            continue;
        }
        let takes = |load: &&mut Load| !load.draining && !holders.contains(&load.volume);
        let target = loads.iter_mut().filter(takes);
        let Some(target) = target.min_by_key(|load| (load.reluctance(), load.replicas)) else {
            continue;
        };
        target.replicas += 1;
        moves.push(Move { partition, from, to: target.volume });
        if let Some(load) = loads.iter_mut().find(|load| load.volume == from) {
            load.replicas = load.replicas.saturating_sub(1);
        }
    }
    moves
}

/// Puts another volume first where that makes the preferred leaderships more even. Volumes that
/// drain come last.
pub(crate) fn spread_leaders(partitions: &mut [Holders], loads: &[Load]) {
    let draining =
        |volume: &VolumeId| loads.iter().any(|load| load.draining && load.volume == *volume);
    let mut leaders: HashMap<VolumeId, usize> = HashMap::new();
    for holders in partitions.iter_mut() {
        holders.sort_by_key(draining);
        let able = holders.iter().filter(|volume| !draining(volume));
        let count = |volume: &&VolumeId| leaders.get(volume).copied().unwrap_or(0);
        if let Some(&least) = able.min_by_key(count) {
            lead(holders, least);
        }
        if let Some(first) = holders.first() {
            *leaders.entry(*first).or_default() += 1;
        }
    }
    while let Some(steps) = shift(partitions, &leaders, &draining) {
        for (partition, to) in steps {
            let from = partitions[partition][0];
            *leaders.entry(from).or_default() -= 1;
            *leaders.entry(to).or_default() += 1;
            lead(&mut partitions[partition], to);
        }
    }
}

/// Puts `volume` first and leaves the others in their order.
fn lead(holders: &mut Holders, volume: VolumeId) {
    holders.sort_by_key(|other| *other != volume);
}

/// Partitions that change their leader so that one of the volumes that lead most leads one less,
/// and one that leads at least two less leads one more.
fn shift(
    partitions: &[Holders],
    leaders: &HashMap<VolumeId, usize>,
    draining: &impl Fn(&VolumeId) -> bool,
) -> Option<Vec<(usize, VolumeId)>> {
    let count = |volume: &VolumeId| leaders.get(volume).copied().unwrap_or(0);
    let mut came: HashMap<VolumeId, Option<(usize, VolumeId)>> = HashMap::new();
    let mut queue: VecDeque<VolumeId> = VecDeque::new();
    let able = || partitions.iter().flatten().filter(|volume| !draining(volume));
    let most = able().map(count).max()?;
    for &volume in able().filter(|volume| count(volume) == most) {
        if came.insert(volume, None).is_none() {
            queue.push_back(volume);
        }
    }
    while let Some(from) = queue.pop_front() {
        if count(&from) + 2 <= most {
            let mut steps = Vec::new();
            let mut at = from;
            while let Some((partition, before)) = came[&at] {
                steps.push((partition, at));
                at = before;
            }
            return Some(steps);
        }
        for (partition, holders) in partitions.iter().enumerate() {
            if holders.first() != Some(&from) {
                continue;
            }
            for &to in holders[1..].iter().filter(|volume| !draining(volume)) {
                came.entry(to).or_insert_with(|| {
                    queue.push_back(to);
                    Some((partition, from))
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::format::testing::Random;

    fn volumes(count: usize) -> Vec<Load> {
        (1..).take(count).map(|number| Load::new(VolumeId::new(number))).collect()
    }

    fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    fn replicas_of(loads: &[Load]) -> impl Iterator<Item = usize> + Clone {
        loads.iter().map(|load| load.replicas)
    }

    fn leaders_of(loads: &[Load]) -> impl Iterator<Item = usize> + Clone {
        loads.iter().map(|load| load.leaders)
    }

    fn check_apart(partitions: &[Holders]) {
        for holders in partitions {
            let apart: HashSet<&VolumeId> = holders.iter().collect();
            assert_eq!(apart.len(), holders.len(), "two replicas on one volume");
        }
    }

    #[test]
    fn replicas_and_leaders_lie_within_one_whatever_came_before() {
        for seed in 0..3_000 {
            let mut random = Random::new(seed);
            let mut loads = volumes(1 + random.below(8));
            for topic in 0..20 {
                let replicas = 1 + random.below(loads.len().min(4));
                let placed = place(&mut loads, 1 + random.below(6), replicas).expect("enough");
                check_apart(&placed);
                assert!(spread(replicas_of(&loads)) <= 1, "seed {seed} topic {topic} {loads:?}");
                assert!(spread(leaders_of(&loads)) <= 1, "seed {seed} topic {topic} {loads:?}");
            }
        }
    }

    #[test]
    fn what_is_uneven_is_evened_out_by_what_comes() {
        let mut loads = volumes(3);
        (loads[0].replicas, loads[0].leaders) = (10, 10);
        let placed = place(&mut loads, 10, 1).expect("enough");
        assert!(!placed.iter().flatten().any(|volume| volume.get() == 1));
    }

    #[test]
    fn a_volume_has_many_partners() {
        let mut loads = volumes(6);
        let placed = place(&mut loads, 60, 2).expect("enough");
        for load in &loads {
            let with = |holders: &&Holders| holders.contains(&load.volume);
            let partners: HashSet<&VolumeId> = placed.iter().filter(with).flatten().collect();
            assert!(partners.len() >= 4, "{:?} with {partners:?}", load.volume);
        }
    }

    #[test]
    fn volumes_that_drain_or_fail_are_used_only_where_too_few_are_left() {
        let mut loads = volumes(4);
        loads[0].draining = true;
        loads[1].failures = FAILURES_MAX;
        loads[2].failures = FAILURES_MAX - 1;
        let used = |loads: &mut [Load], replicas| {
            let placed = place(loads, 8, replicas).expect("enough");
            check_apart(&placed);
            let used: HashSet<u32> = placed.iter().flatten().map(|volume| volume.get()).collect();
            let mut used: Vec<u32> = used.into_iter().collect();
            used.sort_unstable();
            used
        };
        assert_eq!(used(&mut loads, 2), [3, 4]);
        assert_eq!(used(&mut loads, 3), [2, 3, 4]);
        assert_eq!(used(&mut loads, 4), [1, 2, 3, 4]);
        assert_eq!(place(&mut loads, 1, 5), Err(TooFewVolumes));
        assert_eq!(place(&mut loads, 1, 0), Err(TooFewVolumes));
    }

    #[test]
    fn a_drained_volume_is_left_empty_and_the_others_even() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut loads = volumes(3 + random.below(4));
            let mut placed = place(&mut loads, 1 + random.below(40), 2).expect("enough");
            loads[0].draining = true;
            let from = loads[0].volume;
            for Move { partition, from, to } in drain(from, &placed, &mut loads) {
                let replica = placed[partition].iter_mut().find(|volume| **volume == from);
                *replica.expect("there") = to;
            }
            check_apart(&placed);
            assert!(!placed.iter().flatten().any(|volume| *volume == from));
            assert_eq!(loads[0].replicas, 0);
            assert!(spread(replicas_of(&loads[1..])) <= 3, "seed {seed} {loads:?}");
        }
    }

    #[test]
    fn what_nobody_else_can_take_stays() {
        let mut loads = volumes(2);
        let placed = place(&mut loads, 3, 2).expect("enough");
        loads[0].draining = true;
        assert_eq!(drain(loads[0].volume, &placed, &mut loads), []);
    }

    #[test]
    fn preferred_leaders_are_spread_as_evenly_as_the_replicas_allow() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut loads = volumes(5);
            let mut placed = place(&mut loads, 1 + random.below(40), 3).expect("enough");
            for holders in &mut placed {
                holders.sort();
            }
            spread_leaders(&mut placed, &loads);
            check_apart(&placed);
            let led =
                |load: &Load| placed.iter().filter(|holders| holders[0] == load.volume).count();
            assert!(spread(loads.iter().map(led)) <= 1, "seed {seed} {placed:?}");
        }
    }

    #[test]
    fn a_draining_volume_is_nobodys_preferred_leader_unless_alone() {
        let mut loads = volumes(3);
        loads[0].draining = true;
        let [one, two, three] = [1, 2, 3].map(VolumeId::new);
        let mut partitions = vec![vec![one, two], vec![one], vec![one, three], vec![two, one]];
        spread_leaders(&mut partitions, &loads);
        let first: Vec<VolumeId> = partitions.iter().map(|holders| holders[0]).collect();
        assert_eq!(first, [two, one, three, two]);
    }
}
