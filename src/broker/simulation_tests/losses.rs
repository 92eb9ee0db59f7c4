//! Three replicas, each of which in turn loses what it had not synced, as the process ends: what is
//! committed on another one stays, whatever the durability.
//!
//! Checked beside what always is: right after such an end somebody leads, and its log holds all
//! that was readable before, also if whoever led fails at once; at the end all of that is readable
//! again.
//!
//! Who lost something stays in the ISR. So between such an end and what else goes wrong, those in
//! sync catch up.
//!
//! Not here: a power cut that all of them meet (`faults`).

use super::world::{PARTITIONS, World};
use super::{SEED, number};
use crate::fs::sim::{Loss, SimDisk};
use crate::id::Offset;
use crate::log::Log;

/// How often one of them loses something.
const ROUNDS: usize = 9;
const STEPS: usize = 80;
const SEEDS: u64 = 400;

/// How often it happened, and how often nobody else had all that is committed.
#[derive(Debug, Default)]
struct Losses {
    made: usize,
    spared: usize,
    acknowledged: usize,
    /// How often the one that led failed next.
    failed: usize,
    /// Records that were lost on one, and are there.
    records: u64,
}

impl World {
    /// Whether in each partition somebody else is in sync, and has all that is committed: who lost
    /// something itself a while ago may lack it still.
    fn is_held_without(&self, disk: usize) -> bool {
        (0..PARTITIONS).all(|number| {
            let partition = self.partition(number);
            let isr = partition.standing().map(|standing| standing.isr).unwrap_or_default();
            isr.iter().filter(|volume| self.disk_of(**volume) != Some(disk)).any(|volume| {
                let member = self.broker().inner().member(*volume);
                let is_there = member.is_some_and(|member| !member.is_gone());
                is_there
                    && partition.on(*volume).is_some_and(|it| self.has_committed(number, &it.log))
            })
        })
    }

    /// What was readable is in the log, but for what it deleted.
    fn has_committed(&self, number: u32, log: &Log) -> bool {
        let committed = &self.known[number as usize].committed;
        let (start, held) = Self::held_from(log, Offset::ZERO, Offset::MAX);
        let start = usize::try_from(start.get()).expect("small");
        let mut both = held.iter().zip(committed.iter().skip(start));
        start + held.len() >= committed.len() && both.all(|(it, read)| read.1 == 0 || it == read)
    }

    /// The process ends, and of one disk what it had not synced is lost. False if nobody else had
    /// all that is committed.
    fn lose_on(&mut self, disk: usize, losses: &mut Losses) -> bool {
        let may_have_lost = |world: &Self| world.known.iter().any(|known| known.may_have_lost);
        if may_have_lost(self) || !self.is_held_without(disk) {
            losses.spared += 1;
            return false;
        }
        let loss = match self.random.below(4) {
            0 | 1 => Loss::All,
            2 => Loss::KeepFirst(self.random.below(30)),
            _ => Loss::Random(self.random.next()),
        };
        let disks = self.disks.clone();
        let image = |(number, of): (usize, &SimDisk)| {
            if number == disk { of.crash(&loss) } else { of.snapshot() }
        };
        self.begin_again(disks.iter().enumerate().map(image).collect());
        for number in 0..PARTITIONS {
            let partition = self.partition(number);
            assert!(!partition.is_offline(), "somebody leads {}", self.describe());
            let committed = self.known[number as usize].committed.len();
            assert!(
                self.has_committed(number, partition.log()),
                "partition {number}: {committed} were committed, {loss} on disk {disk}: {}",
                self.describe()
            );
            let ends = partition.replicas().filter(|it| self.disk_of(it.volume) == Some(disk));
            let end = ends.map(|it| it.log.end_offset().get()).next().unwrap_or_default();
            losses.records += (committed as u64).saturating_sub(end);
        }
        losses.made += 1;
        true
    }

    /// Whoever leads the first partition fails, where others have all that is committed: one of
    /// them leads.
    fn fail_a_leader(&mut self, losses: &mut Losses) {
        let leader = self.partition(0).volume();
        let Some(disk) = self.disk_of(leader).filter(|disk| self.is_held_without(*disk)) else {
            return;
        };
        self.put_out(disk);
        for number in 0..PARTITIONS {
            let partition = self.partition(number);
            let led = partition.volume();
            assert!(led != leader, "it leads no more {}", self.describe());
            assert!(
                self.has_committed(number, partition.log()),
                "partition {number}: {led} leads and {leader} has failed {}",
                self.describe()
            );
        }
        losses.failed += 1;
    }

    /// Until all of those in sync have what was readable.
    fn catch_up(&mut self) {
        let lacks = |world: &Self| {
            (0..PARTITIONS).any(|number| {
                let partition = world.partition(number);
                let isr = partition.standing().map(|standing| standing.isr).unwrap_or_default();
                let mut members = isr.iter().filter_map(|volume| partition.on(*volume));
                members.any(|member| !world.has_committed(number, &member.log))
            })
        };
        for round in 0.. {
            if !lacks(self) {
                return;
            }
            assert!(round < 200, "they do not catch up {}", self.describe());
            self.work_off();
            self.check();
            self.scrub();
        }
    }
}

fn run(seed: u64, losses: &mut Losses) {
    let is_calm = seed.is_multiple_of(2);
    let mut world = World::of_three(seed, is_calm);
    for round in 0..ROUNDS {
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        (0..20).for_each(|_| world.settle());
        if world.lose_on(round % 3, losses) {
            world.check();
            if world.random.chance(3) {
                world.fail_a_leader(losses);
            }
            if !is_calm || round + 1 == ROUNDS {
                world.catch_up();
            }
        }
    }
    world.calm_down();
    for number in 0..PARTITIONS {
        let committed = world.known[number as usize].committed.len() as u64;
        let end = world.partition(number).high_watermark().get();
        assert!(end >= committed, "{end} of {committed} are committed {}", world.describe());
    }
    losses.acknowledged += world.seen.acknowledged;
}

#[test]
fn what_is_acknowledged_stays_though_each_replica_in_turn_loses_what_it_had_not_synced() {
    let mut losses = Losses::default();
    let named = number(SEED);
    let seeds = number(super::SEEDS).unwrap_or(SEEDS);
    for seed in named.map_or(0..seeds, |seed| seed..seed + 1) {
        let ran = std::panic::AssertUnwindSafe(|| run(seed, &mut losses));
        std::panic::catch_unwind(ran).unwrap_or_else(|_| panic!("replay with {SEED}={seed}"));
    }
    if named.is_none() {
        assert!(losses.made > 4 * losses.spared, "{losses:?}");
        assert!(losses.failed > 20, "{losses:?}");
        assert!(losses.records > 100 && losses.acknowledged > 100, "{losses:?}");
    }
}
