//! A crash loses nothing that was acknowledged, at any call and in any way.
//!
//! Each workload runs with the power cut after each of its calls, and what was not synced by then
//! lost in every systematic way and in random ones; each image that this gives is opened, compared
//! with what was promised, used, closed, and opened again. See `support` for the parts: a workload
//! is a function on a [`Store`], which writes down every promise, so a new one needs no oracle.
//!
//! Invariants
//!   1. An open after a crash succeeds and tells of no damage.
//!   2. What is there is a prefix of what was sent, up to a batch's end, in order, each value at
//!      the offset it was acknowledged for; nothing that was not sent.
//!   3. `Fsync`: everything acknowledged is there after a power cut. Every durability: everything
//!      below the durable offset, or covered by `wait_durable` or a clean close, is there after a
//!      power cut, and everything acknowledged after a kill.
//!   4. Deleted topics stay deleted; a topic that was made stays.
//!   5. An offset that was lost is given again only in a higher leader epoch.
//!   6. The log start moves only as retention and deletions allow, and never back once told;
//!      changes of a topic that were confirmed stay. A backup that was confirmed is a store with
//!      all that it is to hold, one that was not is that or none, and using it does not change the
//!      original.
//!   7. The store goes on: it takes appends, closes cleanly, and opens with nothing to recover.

use std::time::Duration;

use plimsoll::sim::{Explorer, Loss, SimDisk};
use plimsoll::{Acks, Compression, Durability, TopicChange, TopicConfig};

use crate::support::check::{Checker, check};
use crate::support::history::Lost;
use crate::support::store::{DEDUPLICATED, History, SEGMENT_BYTES, Step, Store};
use crate::support::suite::{self, Case};

const FSYNC: Durability = Durability::Fsync;
const OS: Durability = Durability::Os;
const INTERVAL: Durability = Durability::Interval(Duration::from_millis(100));

type Workload = fn(&mut Store<'_>) -> Step;

/// Runs a workload; with the power on it must come to its end.
fn run(workload: Workload, disk: &SimDisk, history: &mut History) {
    let mut store = Store::new(disk, history);
    let ended = workload(&mut store);
    drop(store);
    assert!(ended.is_ok() || disk.cut_at().is_some(), "the workload ended with {ended:?}");
}

fn begin(store: &mut Store<'_>, durability: Durability) -> Step {
    store.open()?;
    store.topic("a", durability)
}

fn creation(store: &mut Store<'_>) -> Step {
    store.open()?;
    store.close()?;
    store.open()
}

fn topic_create(store: &mut Store<'_>) -> Step {
    store.open()?;
    store.topic("a", FSYNC)?;
    store.topic("b", OS)?;
    store.create("c", TopicConfig::new(), (2, FSYNC))
}

fn topic_delete(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.topic("b", FSYNC)?;
    store.send_each("a", 2, 100)?;
    store.send_each("b", 2, 100)?;
    store.delete("a")?;
    store.send("b", 100)
}

fn topic_again(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 3, 100)?;
    store.delete("a")?;
    store.topic("a", FSYNC)?;
    store.send_each("a", 2, 100)
}

fn append_fsync(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 12, 700)
}

fn append_os(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.send_each("a", 6, 700)?;
    store.wait_durable("a")?;
    store.send_each("a", 6, 300)
}

fn append_interval(store: &mut Store<'_>) -> Step {
    begin(store, INTERVAL)?;
    for _ in 0..8 {
        store.send("a", 500)?;
        store.sleep(Duration::from_millis(60));
    }
    Ok(())
}

fn batches_fsync(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.batch("a", 0, &[100, 900, 5], Acks::All)?;
    store.batch("a", 0, &[2000, 3000], Acks::Leader)?;
    store.batch("a", 0, &[10; 20], Acks::All)
}

fn batches_os(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.batch("a", 0, &[100, 900, 5], Acks::All)?;
    store.batch("a", 0, &[9000, 9000], Acks::Leader)?;
    store.batch("a", 0, &[10; 20], Acks::All)?;
    store.batch("a", 0, &[20_000], Acks::All)
}

fn acks_none(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    for _ in 0..4 {
        store.batch("a", 0, &[600, 600], Acks::None)?;
    }
    store.wait_durable("a")?;
    store.batch("a", 0, &[600], Acks::None)
}

fn enqueued(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.enqueue("a", &[700, 40_000, 700])?;
    store.send("a", 700)?;
    store.enqueue("a", &[20_000, 700])
}

fn roll_fsync(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 6, 14_000)
}

fn roll_os(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.send_each("a", 6, 14_000)?;
    store.send_each("a", 3, 900)
}

fn rolls(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 5, 30_000)
}

fn rolls_os(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.send_each("a", 7, 20_000)?;
    store.wait_durable("a")?;
    store.send_each("a", 2, 9_000)
}

fn rolls_interval(store: &mut Store<'_>) -> Step {
    begin(store, INTERVAL)?;
    for _ in 0..8 {
        store.send("a", 11_000)?;
        store.sleep(Duration::from_millis(45));
    }
    Ok(())
}

fn own_segment(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send("a", 100)?;
    store.send("a", 90_000)?;
    store.send("a", 100)
}

fn reopen(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 3, 700)?;
    store.close()?;
    store.open()?;
    store.send_each("a", 2, 300)?;
    store.close()?;
    store.open()?;
    store.send("a", 5000)
}

fn reopen_os(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.send_each("a", 3, 700)?;
    store.close()?;
    store.open()?;
    store.send_each("a", 3, 300)?;
    store.close()?;
    store.open()?;
    store.send("a", 5000)
}

fn reopen_after_roll(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 3, 25_000)?;
    store.close()?;
    store.open()?;
    store.send("a", 25_000)
}

fn reopen_idle(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send("a", 100)?;
    store.close()?;
    for _ in 0..2 {
        store.open()?;
        store.close()?;
    }
    store.open()?;
    store.send("a", 100)
}

fn idle_slots(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    for _ in 0..4 {
        store.send("a", 500)?;
        store.wait_durable("a")?;
        store.sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn two_partitions(store: &mut Store<'_>) -> Step {
    store.open()?;
    store.create("a", TopicConfig::new().segment_bytes(SEGMENT_BYTES), (2, FSYNC))?;
    store.topic("b", OS)?;
    for _ in 0..2 {
        store.batch("a", 0, &[400, 400], Acks::All)?;
        store.batch("a", 1, &[20_000], Acks::All)?;
        store.send("b", 700)?;
    }
    store.batch("a", 1, &[30_000], Acks::All)
}

fn consumed(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    for _ in 0..3 {
        store.batch("a", 0, &[300; 4], Acks::None)?;
        store.consume("a")?;
    }
    Ok(())
}

fn metadata_snapshot(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    for _ in 0..86 {
        store.topic("b", FSYNC)?;
        store.delete("b")?;
    }
    store.send("a", 100)
}

fn killed(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.send_each("a", 3, 700)?;
    store.kill();
    store.open()?;
    store.send_each("a", 2, 700)?;
    store.kill();
    store.open()?;
    store.send("a", 20_000)
}

fn cut_twice(store: &mut Store<'_>) -> Step {
    begin(store, OS)?;
    store.send_each("a", 4, 700)?;
    store.power_cycle(&Loss::Random(7));
    store.open()?;
    store.send_each("a", 3, 700)?;
    store.wait_durable("a")?;
    store.send_each("a", 2, 700)?;
    store.power_cycle(&Loss::All);
    store.open()?;
    store.send_each("a", 3, 20_000)
}

fn kept(retention_bytes: u64) -> TopicConfig {
    TopicConfig::new().segment_bytes(SEGMENT_BYTES).retention_bytes(retention_bytes)
}

fn retained_by_size(store: &mut Store<'_>) -> Step {
    store.open()?;
    store.create("a", kept(30_000), (1, FSYNC))?;
    store.send_each("a", 9, 20_000)
}

fn retained_by_age(store: &mut Store<'_>) -> Step {
    store.open()?;
    let config = TopicConfig::new().segment_bytes(SEGMENT_BYTES);
    store.create("a", config.retention(Duration::from_secs(5)), (1, OS))?;
    for _ in 0..4 {
        store.send_each("a", 2, 700)?;
        store.sleep(Duration::from_secs(4));
    }
    store.close()?;
    store.open()?;
    store.sleep(Duration::from_secs(6));
    store.send("a", 700)
}

fn records_deleted(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 5, 20_000)?;
    store.delete_records("a", 3)?;
    store.send("a", 20_000)?;
    store.delete_records("a", 6)?;
    store.close()?;
    store.open()?;
    store.send("a", 700)?;
    store.delete_records("a", 7)
}

fn altered(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send_each("a", 5, 20_000)?;
    store.alter("a", |settings| settings.retention_bytes = Some(20_000))?;
    store.send("a", 700)?;
    store.alter("a", |settings| {
        settings.retention_bytes = None;
        settings.record_bytes = 70_000;
    })?;
    store.send_each("a", 4, 20_000)
}

fn partitions_added(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.send("a", 700)?;
    store.add_partitions("a", 3)?;
    store.batch("a", 2, &[700], Acks::All)?;
    store.add_partitions("a", 4)?;
    store.batch("a", 3, &[700], Acks::All)?;
    store.send("a", 700)
}

fn backed_up(store: &mut Store<'_>) -> Step {
    begin(store, FSYNC)?;
    store.topic("b", OS)?;
    store.send_each("a", 6, 20_000)?;
    store.send("b", 700)?;
    store.backup()?;
    store.send_each("a", 4, 20_000)?;
    store.delete_records("a", 9)?;
    store.send_each("b", 2, 700)
}

/// Batches of many small records: what is said of each is what can be compressed.
fn compressed(store: &mut Store<'_>, durability: Durability) -> Step {
    store.open()?;
    let config = TopicConfig::new().segment_bytes(SEGMENT_BYTES).compression(Compression::Lz4);
    store.create("a", config, (1, durability))?;
    store.batch("a", 0, &[5; 30], Acks::All)?;
    // Alone it cannot be compressed.
    store.send("a", 700)?;
    // Some go into the next segment.
    for _ in 0..4 {
        store.batch("a", 0, &[10; 600], Acks::All)?;
    }
    store.enqueue("a", &[700, 20, 20])?;
    store.broker().admin().alter("a", TopicChange::new().compression(Compression::Zstd))?;
    store.batch("a", 0, &[5; 30], Acks::All)?;
    store.consume("a")
}

fn compressed_fsync(store: &mut Store<'_>) -> Step {
    compressed(store, FSYNC)
}

fn compressed_os(store: &mut Store<'_>) -> Step {
    compressed(store, OS)?;
    store.wait_durable("a")?;
    store.kill();
    store.open()?;
    store.batch("a", 0, &[5; 30], Acks::All)
}

/// Keys in memory, in a closing footer, in a sealed file, and after a kill and a power cut.
fn deduplicated(store: &mut Store<'_>, durability: Durability) -> Step {
    store.open()?;
    store.topic(DEDUPLICATED, durability)?;
    store.send_each(DEDUPLICATED, 3, 300)?;
    store.resend(DEDUPLICATED, 2)?;
    store.close()?;
    store.open()?;
    store.resend(DEDUPLICATED, 3)?;
    store.batch(DEDUPLICATED, 0, &[25_000, 300], Acks::All)?;
    store.send_each(DEDUPLICATED, 2, 25_000)?;
    store.resend(DEDUPLICATED, 6)?;
    store.kill();
    store.open()?;
    store.resend(DEDUPLICATED, 7)?;
    store.send(DEDUPLICATED, 300)?;
    store.wait_durable(DEDUPLICATED)?;
    store.power_cycle(&Loss::All);
    store.open()?;
    store.resend(DEDUPLICATED, 8)
}

fn deduplicated_fsync(store: &mut Store<'_>) -> Step {
    deduplicated(store, FSYNC)
}

fn deduplicated_os(store: &mut Store<'_>) -> Step {
    deduplicated(store, OS)
}

const WORKLOADS: &[(&str, Workload)] = &[
    ("creation", creation),
    ("topic-create", topic_create),
    ("topic-delete", topic_delete),
    ("topic-again", topic_again),
    ("append-fsync", append_fsync),
    ("append-os", append_os),
    ("append-interval", append_interval),
    ("batches-fsync", batches_fsync),
    ("batches-os", batches_os),
    ("acks-none", acks_none),
    ("enqueued", enqueued),
    ("roll-fsync", roll_fsync),
    ("roll-os", roll_os),
    ("rolls", rolls),
    ("rolls-os", rolls_os),
    ("rolls-interval", rolls_interval),
    ("own-segment", own_segment),
    ("reopen", reopen),
    ("reopen-os", reopen_os),
    ("reopen-after-roll", reopen_after_roll),
    ("reopen-idle", reopen_idle),
    ("idle-slots", idle_slots),
    ("two-partitions", two_partitions),
    ("consumed", consumed),
    ("metadata-snapshot", metadata_snapshot),
    ("retained-by-size", retained_by_size),
    ("retained-by-age", retained_by_age),
    ("records-deleted", records_deleted),
    ("altered", altered),
    ("partitions-added", partitions_added),
    ("backed-up", backed_up),
    ("compressed-fsync", compressed_fsync),
    ("compressed-os", compressed_os),
    ("deduplicated-fsync", deduplicated_fsync),
    ("deduplicated-os", deduplicated_os),
    ("killed", killed),
    ("cut-twice", cut_twice),
];

/// Workloads that are also killed at their calls, and gone on with by another process.
const KILLED: &[(&str, Workload)] = &[
    ("append-os", append_os),
    ("batches-fsync", batches_fsync),
    ("roll-fsync", roll_fsync),
    ("rolls-os", rolls_os),
    ("topic-again", topic_again),
    ("reopen", reopen),
];

/// Workloads whose recovery is cut off, too.
const RECOVERED: &[(&str, Workload)] = &[
    ("append-os", append_os),
    ("roll-fsync", roll_fsync),
    ("topic-again", topic_again),
    ("reopen", reopen),
];

/// Workloads that are about the store's creation; the others leave that to them.
const FROM_THE_BEGINNING: &[&str] = &["creation", "topic-create"];

fn case(name: &str, workload: Workload, calls_to_begin: u64) -> Case<History> {
    let explorer = Explorer::new(name).random(150);
    let explorer = match name {
        name if FROM_THE_BEGINNING.contains(&name) => explorer.random(20),
        // Long, and much the same again and again.
        "backed-up" | "compressed-fsync" | "compressed-os" => {
            explorer.random(20).losses_max(60).skip(calls_to_begin)
        }
        "metadata-snapshot" => explorer.step(13).losses_max(8),
        _ => explorer.skip(calls_to_begin),
    };
    Case {
        name: name.to_owned(),
        explorer,
        workload: Box::new(move |disk, history| run(workload, disk, history)),
    }
}

/// A workload whose process is killed after so many calls, what it wrote staying unsynced in the
/// page cache; another one opens that, goes on, and then the power is cut.
fn killed_case(name: &str, workload: Workload, calls: u64) -> Case<History> {
    let name = format!("killed-{name}@{calls}");
    let explorer = Explorer::new(&name).random(45).skip(calls).step(5);
    let workload = move |disk: &SimDisk, history: &mut History| {
        disk.kill_after(calls);
        let mut store = Store::new(disk, history);
        let _ = workload(&mut store);
        store.kill();
        let ended = go_on(&mut store);
        drop(store);
        assert!(ended.is_ok() || disk.cut_at().is_some(), "the workload ended with {ended:?}");
    };
    Case { name, explorer, workload: Box::new(workload) }
}

/// What the process after a killed one does.
fn go_on(store: &mut Store<'_>) -> Step {
    store.open()?;
    for name in store.live() {
        store.send(&name, 700)?;
        store.send(&name, 25_000)?;
        store.wait_durable(&name)?;
    }
    store.close()
}

/// A workload whose recovery is cut off too: at some crash points the power goes again at every
/// call of the check.
fn recovery_case(name: &str, workload: Workload, calls_to_begin: u64) -> Case<History> {
    let name = format!("recovery-{name}");
    Case {
        explorer: Explorer::new(&name)
            .random(1)
            .losses_max(12)
            .skip(calls_to_begin)
            .step(19)
            .nested(1),
        name,
        workload: Box::new(move |disk, history| run(workload, disk, history)),
    }
}

/// How many calls a workload makes.
fn calls_of(workload: Workload) -> u64 {
    let disk = SimDisk::new();
    run(workload, &disk, &mut History::default());
    disk.calls()
}

#[test]
fn nothing_acknowledged_is_lost_by_a_crash_anywhere() {
    let calls_to_begin = calls_of(|store| begin(store, FSYNC));
    let mut cases: Vec<_> =
        WORKLOADS.iter().map(|(name, workload)| case(name, *workload, calls_to_begin)).collect();
    for (name, workload) in KILLED {
        let calls = calls_to_begin..calls_of(*workload);
        cases.extend(calls.step_by(7).map(|calls| killed_case(name, *workload, calls)));
    }
    let checker = Checker::new();
    let seen = suite::run("crashes", &cases, |disk, history| checker.check(disk, history));
    if !seen.replayed {
        assert!(seen.groups >= 20, "only {} workloads", seen.groups);
        assert!(seen.distinct >= 100_000, "only {} distinct images", seen.distinct);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_crash_within_a_recovery() {
    let calls_to_begin = calls_of(|store| begin(store, FSYNC));
    let cases: Vec<_> = RECOVERED
        .iter()
        .map(|(name, workload)| recovery_case(name, *workload, calls_to_begin))
        .collect();
    // The checks that are cut off are to make their calls: nothing is remembered.
    let seen = suite::run("crashes within recoveries", &cases, check);
    if !seen.replayed {
        assert!(seen.distinct >= 1_000, "only {} distinct images", seen.distinct);
    }
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let checker = Checker::new();
    for (name, workload) in WORKLOADS.iter().filter(|(name, _)| *name != "metadata-snapshot") {
        let disk = SimDisk::new();
        run(*workload, &disk, &mut History::default());
        for calls in 0..disk.calls() {
            let disk = SimDisk::new();
            disk.cut_power_after(calls);
            let mut history = History::default();
            run(*workload, &disk, &mut history);
            checker
                .check_after(&disk.snapshot(), &history, Lost::Process)
                .unwrap_or_else(|why| panic!("{name}, killed after {calls} calls: {why}"));
        }
    }
}
