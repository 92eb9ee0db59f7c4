//! The rules of replication, run through random schedules from a seed: `divergence`, `Progress` and
//! `Ballot` over a model of replicas in memory, with everything between them late, lost and in
//! another order, volumes that stall, die, lose their unsynced tail or all they have, power cuts,
//! and changes of the metadata that fail.
//!
//! Checked after every step, by the numbers of the design:
//!   I2, I3  offsets are dense, epochs never decrease;
//!   I4      the high watermark lies in the leader's log and never moves back; what was readable
//!           stays, as far as the durability survives what happened;
//!   I5      every member of the ISR, and of one that could become durable, holds it;
//!   and     the high watermark stands still below `min_insync`; `synced` and durable evidence
//!           claim nothing that could be lost; what a waiter is told is true.
//! At the end, once the faults stop, everybody catches up and everything is committed.
//!
//! A failure names its seed; `PLIMSOLL_SEED=<seed>` runs that one alone, `PLIMSOLL_SEEDS=<n>` so
//! many.
//!
//! | file | what |
//! | --- | --- |
//! | `replica` | one replica's log, what of it is durable, and what a follower does |
//! | `world` | the partition, what is on its way, elections, every step |
//! | `faults` | what goes wrong, and how it ends |
//! | `check` | what has to hold |

mod check;
mod faults;
mod replica;
mod world;

use world::{Seen, World};

const SEED: &str = "PLIMSOLL_SEED";
const SEEDS: &str = "PLIMSOLL_SEEDS";
const STEPS: usize = 600;

/// Runs one seed; the trace says what happened, step by step.
fn run(seed: u64) -> (u64, Seen) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.calm_down();
    world.check_all_is_well();
    (world.trace, world.seen)
}

fn run_named(seed: u64) -> (u64, Seen) {
    let ran = std::panic::catch_unwind(|| run(seed));
    ran.unwrap_or_else(|_| panic!("replay with {SEED}={seed}"))
}

#[test]
fn no_schedule_breaks_the_rules() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number(SEED) {
        run(seed);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number(SEEDS).unwrap_or(20_000) {
        seen.add(&run_named(seed).1);
    }
    seen.check_all_happened();
}

#[test]
fn a_seed_replays_equal() {
    for seed in 0..20 {
        let (once, again, other) = (run(seed).0, run(seed).0, run(seed + 1).0);
        assert_eq!(once, again, "seed {seed}");
        assert_ne!(once, other, "seed {seed}");
    }
}
