//! What a log does that a broker's users cannot ask for yet, or not in every setting: cuts, trims,
//! disks that cannot reserve blocks. Each crashes at every call and in every way.
//!
//! Invariants
//!   1. A cut that was confirmed voids what lay above it for good; one that was not has happened
//!      or has not. A trim likewise.
//!   2. What lies below a cut, and at or above the log start, is as safe as before it.
//!   3. And those of `bench`, after every crash.

use super::bench::{Bench, Checker, History, Setting, check};
use super::sim::{Explorer, Failure, Loss, SimDisk};
use super::suite::{self, Case};
use crate::config::Durability;
use crate::error::Result;
use crate::log::retain::Keep;
use std::time::Duration;

const FSYNC: Setting = Setting { durability: Durability::Fsync, allocates: true, keep: Keep::ALL };
const OS: Setting = Setting { durability: Durability::Os, allocates: true, keep: Keep::ALL };
const SPARSE: Setting =
    Setting { durability: Durability::Fsync, allocates: false, keep: Keep::ALL };
const SPARSE_OS: Setting =
    Setting { durability: Durability::Os, allocates: false, keep: Keep::ALL };

type Workload = fn(&mut Bench<'_>) -> Result<()>;

fn appends(bench: &mut Bench<'_>) -> Result<()> {
    bench.append(&[700])?;
    bench.append(&[100, 2000, 5])?;
    bench.append(&[8, 8])
}

fn rolls(bench: &mut Bench<'_>) -> Result<()> {
    (0..7).try_for_each(|_| bench.append(&[3000, 1000]))
}

fn cut_in_the_middle(bench: &mut Bench<'_>) -> Result<()> {
    appends(bench)?;
    bench.cut(1)?;
    bench.append(&[500])?;
    bench.append(&[50])
}

fn cut_at_the_end(bench: &mut Bench<'_>) -> Result<()> {
    appends(bench)?;
    bench.cut(6)?;
    bench.append(&[500])
}

fn cut_everything(bench: &mut Bench<'_>) -> Result<()> {
    bench.append(&[700])?;
    bench.cut(0)?;
    bench.append(&[500])?;
    bench.sync()?;
    bench.cut(0)
}

fn cut_at_a_segments_base(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    let bases: Vec<u64> = bench.log().segments().iter().map(|s| s.base.get()).collect();
    bench.cut(bases[bases.len() - 1])?;
    bench.append(&[900])?;
    bench.cut(bases[1])?;
    bench.append(&[900])
}

fn cut_then_roll(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.cut(4)?;
    rolls(bench)
}

fn cut_twice(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.cut(8)?;
    bench.append(&[600, 600])?;
    bench.cut(2)?;
    bench.append(&[600, 600])?;
    bench.cut(2)
}

fn cut_and_reopened(bench: &mut Bench<'_>) -> Result<()> {
    appends(bench)?;
    bench.close()?;
    bench.open()?;
    bench.cut(4)?;
    bench.close()?;
    bench.open()?;
    bench.append(&[400])?;
    bench.close()
}

fn cut_and_killed(bench: &mut Bench<'_>) -> Result<()> {
    appends(bench)?;
    bench.cut(4)?;
    bench.append(&[300])?;
    bench.kill();
    bench.open()?;
    bench.append(&[300])?;
    bench.cut(5)?;
    bench.kill();
    bench.open()?;
    bench.append(&[300])
}

fn trimmed(bench: &mut Bench<'_>) -> Result<()> {
    appends(bench)?;
    bench.trim(1)?;
    bench.append(&[300])?;
    bench.trim(3)?;
    bench.append(&[300])
}

fn trimmed_with_files(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.trim(7)?;
    rolls(bench)?;
    bench.trim(20)?;
    bench.append(&[300])
}

fn trimmed_to_the_end(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    let end = bench.log().end_offset().get();
    bench.trim(end)?;
    bench.append(&[300])?;
    bench.close()?;
    bench.open()?;
    rolls(bench)
}

fn trimmed_and_reopened(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.close()?;
    bench.open()?;
    bench.trim(5)?;
    bench.kill();
    bench.open()?;
    bench.trim(9)?;
    bench.append(&[300])
}

fn trimmed_and_cut(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.trim(5)?;
    bench.cut(8)?;
    bench.append(&[300])?;
    bench.trim(8)?;
    bench.cut(8)?;
    bench.append(&[300])
}

fn closed_and_reopened(bench: &mut Bench<'_>) -> Result<()> {
    for _ in 0..3 {
        bench.append(&[700, 20])?;
        bench.close()?;
        bench.open()?;
    }
    rolls(bench)?;
    bench.close()
}

fn idle(bench: &mut Bench<'_>) -> Result<()> {
    for _ in 0..3 {
        bench.append(&[700])?;
        bench.sync()?;
        for _ in 0..3 {
            bench.sleep(900);
            bench.housekeep()?;
        }
    }
    Ok(())
}

fn power_cycled(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.power_cycle(&Loss::Random(3));
    bench.open()?;
    rolls(bench)?;
    bench.power_cycle(&Loss::KeepFirst(2));
    bench.open()?;
    bench.append(&[300])?;
    bench.cut(2)?;
    bench.power_cycle(&Loss::All);
    bench.open()?;
    bench.append(&[300])
}

fn own_segment(bench: &mut Bench<'_>) -> Result<()> {
    bench.append(&[100])?;
    bench.append(&[40_000])?;
    bench.append(&[100])?;
    bench.append(&[20_000, 20_000])
}

fn by_size(bytes: u64) -> Keep {
    Keep { retention_bytes: Some(bytes), ..Keep::ALL }
}

fn by_age(ms: u64) -> Keep {
    Keep { retention: Some(Duration::from_millis(ms)), ..Keep::ALL }
}

fn retained_by_size(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    bench.keep(by_size(20_000))?;
    rolls(bench)?;
    bench.kill();
    bench.open()?;
    rolls(bench)
}

fn retained_by_age(bench: &mut Bench<'_>) -> Result<()> {
    bench.keep(by_age(1000))?;
    for _ in 0..4 {
        rolls(bench)?;
        bench.sleep(700);
        bench.housekeep()?;
    }
    bench.append(&[300])
}

fn retained_at_rest(bench: &mut Bench<'_>) -> Result<()> {
    bench.keep(by_age(1000))?;
    bench.append(&[700])?;
    for _ in 0..3 {
        bench.sleep(1001);
        bench.housekeep()?;
    }
    bench.append(&[300])?;
    bench.close()?;
    bench.open()?;
    bench.sleep(1001);
    bench.housekeep()?;
    bench.close()?;
    bench.open()?;
    bench.append(&[300])
}

fn trimmed_and_closed(bench: &mut Bench<'_>) -> Result<()> {
    rolls(bench)?;
    for to in [5, 9] {
        bench.close()?;
        bench.open()?;
        bench.trim(to)?;
    }
    bench.close()?;
    bench.open()?;
    bench.append(&[300])?;
    bench.trim(10)
}

const WORKLOADS: &[(&str, Workload)] = &[
    ("appends", appends),
    ("rolls", rolls),
    ("cut-in-the-middle", cut_in_the_middle),
    ("cut-at-the-end", cut_at_the_end),
    ("cut-everything", cut_everything),
    ("cut-at-a-segments-base", cut_at_a_segments_base),
    ("cut-then-roll", cut_then_roll),
    ("cut-twice", cut_twice),
    ("cut-and-reopened", cut_and_reopened),
    ("cut-and-killed", cut_and_killed),
    ("trimmed", trimmed),
    ("trimmed-with-files", trimmed_with_files),
    ("trimmed-to-the-end", trimmed_to_the_end),
    ("trimmed-and-reopened", trimmed_and_reopened),
    ("trimmed-and-cut", trimmed_and_cut),
    ("trimmed-and-closed", trimmed_and_closed),
    ("retained-by-size", retained_by_size),
    ("retained-by-age", retained_by_age),
    ("retained-at-rest", retained_at_rest),
    ("closed-and-reopened", closed_and_reopened),
    ("idle", idle),
    ("power-cycled", power_cycled),
    ("own-segment", own_segment),
];

const SETTINGS: [(&str, Setting); 4] =
    [("fsync", FSYNC), ("os", OS), ("sparse", SPARSE), ("sparse-os", SPARSE_OS)];

fn run(workload: Workload, setting: Setting, disk: &SimDisk, history: &mut History) {
    // The folder above the log's, which the broker makes durable.
    let made = disk.write_file("topics/.made", b"");
    assert!(made.is_ok());
    let ended = Bench::begin(disk, history, setting).and_then(|mut bench| workload(&mut bench));
    assert!(ended.is_ok() || !disk.is_on(), "the workload ended with {ended:?}");
}

fn cases() -> Vec<Case<History>> {
    let mut cases = Vec::new();
    for (setting_name, setting) in SETTINGS {
        for &(name, workload) in WORKLOADS {
            let name = format!("{name}@{setting_name}");
            cases.push(Case {
                explorer: Explorer::new(&name).random(12).losses_max(80),
                name,
                workload: Box::new(move |disk, history| run(workload, setting, disk, history)),
            });
        }
    }
    cases
}

#[test]
fn cuts_and_trims_hold_at_every_crash() {
    let checker = Checker::new();
    let seen = suite::run("crashes of a log", &cases(), |disk, h| checker.check(disk, h));
    if !seen.replayed {
        assert!(seen.distinct >= 10_000, "only {} distinct images", seen.distinct);
    }
}

#[test]
fn recovery_can_be_cut_off_anywhere() {
    let explorer = |name: &str| Explorer::new(name).random(1).losses_max(10).step(5).nested(1);
    let nested = |(name, workload): &(&str, Workload)| {
        let (name, workload) = (format!("recovery-{name}"), *workload);
        Case {
            explorer: explorer(&name),
            name,
            workload: Box::new(move |disk: &SimDisk, history: &mut History| {
                run(workload, OS, disk, history);
            }) as Box<_>,
        }
    };
    let cut = WORKLOADS.iter().filter(|(name, _)| name.contains("cut"));
    let cases: Vec<_> = cut.map(nested).collect();
    suite::run("crashes of a log's recovery", &cases, check);
}

/// The line that a failure prints brings it back, and alone.
#[test]
fn a_failure_replays_from_its_line() {
    let wrong = |disk: &SimDisk, history: &History| {
        check(disk, history)?;
        if history.partition.end() > 3 { Err("on purpose".to_owned()) } else { Ok(()) }
    };
    let failure = |line: Option<&str>| -> Failure {
        let failed = suite::run_line("replay", &cases(), wrong, line);
        failed.err().expect("it fails on purpose")
    };
    let first = failure(None);
    assert!(first.message.contains("on purpose"), "{first}");
    assert_eq!(failure(Some(&first.line)), first);
    let fine = suite::run_line("replay", &cases(), check, Some(&first.line));
    assert_eq!(fine.map(|seen| seen.checked).unwrap_or_default(), 1);
}
