//! The whole protocol over real logs on simulated disks: every step of a broker's threads is taken
//! when a seed says so, with power cuts, kills, disks that fail, fill up, rot, fall silent, are
//! left behind, come back as they were before, or are replaced by empty ones.
//!
//! Checked after every step, by the numbers of the design:
//!   I2, I3  offsets are dense, epochs never decrease;
//!   I4      the high watermark never moves back while the store is open; what was readable stays,
//!           as far as the durability survives what happened;
//!   I5      every member of the ISR holds what is committed, byte for byte;
//!   I7      no value is twice in a log;
//!   I9      what was acknowledged is committed, and stays so.
//! At the end, once the faults stop, everybody catches up, everything is committed and mended.
//!
//! A failure names its seed; `PLIMSOLL_SEED=<seed>` runs that one alone, `PLIMSOLL_SEEDS=<n>` so
//! many.
//!
//! | file | what |
//! | --- | --- |
//! | `disks` | the disks of the volumes |
//! | `world` | the broker, its partitions, every step |
//! | `faults` | what goes wrong, and how it ends |
//! | `check` | what has to hold |
//! | `silence` | volumes that do nothing for a while, and the broker that asks |
//! | `losses` | each replica in turn loses what it had not synced |

mod check;
mod disks;
mod faults;
mod losses;
mod silence;
mod world;

pub(super) use disks::{Disks, dir};
use world::{Seen, World};

const SEED: &str = "PLIMSOLL_SEED";
const SEEDS: &str = "PLIMSOLL_SEEDS";
const STEPS: usize = 500;
/// In the test command, over all of its parts.
const SEEDS_USUAL: u64 = 4_000;

/// Runs one seed; the trace says what happened, step by step.
fn run(seed: u64) -> (u64, Seen) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.calm_down();
    (world.trace, world.seen)
}

fn run_named(seed: u64) -> (u64, Seen) {
    let ran = std::panic::catch_unwind(|| run(seed));
    ran.unwrap_or_else(|_| panic!("replay with {SEED}={seed}"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok())
}

/// One part of the seeds: tests run beside each other.
fn run_part(part: u64, parts: u64) {
    if let Some(seed) = number(SEED) {
        if seed % parts == part {
            run(seed);
        }
        return;
    }
    let mut seen = Seen::default();
    let seeds = number(SEEDS).unwrap_or(SEEDS_USUAL);
    for seed in (0..seeds).filter(|seed| seed % parts == part) {
        seen.add(&run_named(seed).1);
    }
    if seeds >= SEEDS_USUAL {
        seen.check_all_happened();
    }
}

#[test]
fn no_schedule_breaks_a_promise_of_even_seeds() {
    run_part(0, 2);
}

#[test]
fn no_schedule_breaks_a_promise_of_odd_seeds() {
    run_part(1, 2);
}

#[test]
fn a_seed_replays_equal() {
    for seed in 0..10 {
        let (once, again, other) = (run(seed).0, run(seed).0, run(seed + 1).0);
        assert_eq!(once, again, "seed {seed}");
        assert_ne!(once, other, "seed {seed}");
    }
}
