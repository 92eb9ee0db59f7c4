//! Random operations on a log, against a naive model, with kills, power cuts and clean closes.
//!
//! Invariants
//!   1. Reading at any offset gives what was sent for it, at any time; below the log start and
//!      above the end it is refused.
//!   2. After a kill, everything acknowledged is there; after a power cut, what was durable; and
//!      what is there is a prefix of what was sent (`history`).
//!   3. Retention deletes nothing that is young, or needed to keep the bytes that were asked for.
//!   4. Each record of a producer has the next number, and what the log knows of producers is what
//!      they sent of what it holds, over cuts, trims, restarts and losses (I7).
//!   5. Offsets are dense, epochs never decrease, the durable offset never passes the end.
//!
//! A failure prints its seed; `PLIMSOLL_SEED=<seed>` runs that one alone.

use super::bench::{Bench, History, Setting, check};
use super::sim::{Loss, SimDisk};
use crate::config::{Compression, Durability, Reads};
use crate::error::{Error, Result};
use crate::id::Offset;
use crate::log::read::ReadCursor;
use crate::log::retain::Keep;
use std::time::Duration;

const SEED: &str = "PLIMSOLL_SEED";
const SEEDS: u64 = 160;
const OPERATIONS: u64 = 300;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn size(&mut self) -> usize {
        let bound = [40, 400, 4000, 12_000][usize::try_from(self.below(4)).unwrap_or(0)];
        usize::try_from(self.below(bound)).unwrap_or(0)
    }
}

/// A batch's base, or the end, at or above the log start: where a log may be cut.
fn place_to_cut(bench: &Bench<'_>, random: &mut Random) -> u64 {
    let (start, end) = (bench.history.partition.start(), bench.history.partition.end());
    let wanted = start + random.below(end - start + 1);
    bench.history.partition.batch_base_from(wanted)
}

/// Reads one chunk at some offset, in or out of range.
fn read_somewhere(bench: &Bench<'_>, random: &mut Random) {
    let log = bench.log();
    let (start, end) = (log.start_offset().get(), log.committed_end().get());
    let at = (start + random.below(end - start + 2)).saturating_sub(random.below(3));
    let reads = if random.below(2) == 0 { Reads::Mapped } else { Reads::Copied };
    let limit = usize::try_from(1 + random.below(20_000)).unwrap_or(1);
    let mut cursor = ReadCursor::at(Offset::new(at));
    let upto = Offset::new(end);
    match log.read(&mut cursor, upto, limit, reads) {
        Ok(None) => assert_eq!(at, end),
        Err(Error::OffsetOutOfRange(_)) => assert!(at < start || at > end, "{at} is in range"),
        Err(error) => panic!("reading at {at} in {start}..{end}: {error}"),
        Ok(Some(chunk)) => {
            let mut expected = at;
            for record in chunk.records().filter(|record| record.offset < upto) {
                assert_eq!(record.offset.get(), expected);
                let sent = bench.history.partition.value(expected);
                assert_eq!(record.record.value, sent, "at {expected}");
                expected += 1;
            }
            assert!(expected > at && cursor.offset().get() >= expected);
        }
    }
}

/// What is kept: everything, or little.
fn keep(random: &mut Random) -> Keep {
    let age = Duration::from_millis(200 + random.below(5000));
    let bytes = random.below(60_000);
    let choice = random.below(6);
    Keep {
        retention: (choice % 3 == 1).then_some(age),
        retention_bytes: (choice == 2 || choice == 4).then_some(bytes),
        segment_age: if choice == 5 { age } else { Keep::ALL.segment_age },
    }
}

/// How a batch is compressed, where this build can.
fn compression(random: &mut Random) -> Compression {
    let built = cfg!(all(feature = "lz4", feature = "zstd"));
    match random.below(4) {
        0 if built => Compression::Lz4,
        1 if built => Compression::Zstd,
        _ => Compression::None,
    }
}

fn step(bench: &mut Bench<'_>, random: &mut Random) -> Result<()> {
    match random.below(100) {
        0..45 => {
            let count = 1 + random.below(4);
            let sizes: Vec<usize> = (0..count).map(|_| random.size()).collect();
            bench.compression = compression(random);
            bench.append(&sizes)
        }
        45 => bench.append(&[40_000]),
        46..53 => bench.sync(),
        53..57 => {
            let at = place_to_cut(bench, random);
            bench.cut(at)
        }
        57..61 => {
            let (start, end) = (bench.history.partition.start(), bench.history.partition.end());
            bench.trim(start + random.below(end - start + 1))
        }
        61..64 => {
            bench.kill();
            bench.open()
        }
        64..67 => {
            let losses = bench.disk.losses(8);
            let which = usize::try_from(random.below(losses.len() as u64)).unwrap_or(0);
            let loss = match losses[which] {
                Loss::Random(_) => Loss::Random(random.next()),
                loss => loss,
            };
            bench.power_cycle(&loss);
            bench.open()
        }
        67..70 => {
            bench.close()?;
            bench.open()
        }
        70 => {
            let keep = keep(random);
            bench.keep(keep)
        }
        71..76 => {
            bench.sleep(random.below(1500));
            bench.housekeep()
        }
        _ => {
            read_somewhere(bench, random);
            Ok(())
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let durability = if random.below(2) == 0 { Durability::Fsync } else { Durability::Os };
    let setting = Setting { durability, allocates: random.below(4) != 0, keep: keep(&mut random) };
    let disk = SimDisk::new();
    let mut history = History::default();
    let made = disk.write_file("topics/.made", b"");
    assert!(made.is_ok());
    let mut bench = Bench::begin(&disk, &mut history, setting).expect("a new log opens");
    for number in 0..OPERATIONS {
        if let Err(error) = step(&mut bench, &mut random) {
            panic!("operation {number} failed with the power on: {error}");
        }
        bench.check_producers();
    }
    let loss = Loss::Random(random.next());
    bench.power_cycle(&loss);
    drop(bench);
    check(&disk, &history).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn random_operations_agree_with_a_model() {
    if let Ok(seed) = std::env::var(SEED) {
        return run(seed.parse().expect("a number"));
    }
    for seed in 0..SEEDS {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "replay with {SEED}={seed}");
    }
    println!("{} operations in {SEEDS} runs", SEEDS * OPERATIONS);
}
