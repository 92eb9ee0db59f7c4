//! An I/O error loses nothing that was acknowledged, and says what became of a record.
//!
//! Every call of the file system fails in every way it can, once and for ever, during creation,
//! appends, rolls, deletions, closes and recoveries. The workloads go on after an error, as an
//! application would; afterwards the fault ends, and the store is checked as after a crash (see
//! `support::check`): as it is, with the process killed, and with the power cut.
//!
//! Invariants
//!   1. No panic and no hang, whatever fails.
//!   2. What was acknowledged is there afterwards. A record whose error said `NotWritten` is not.
//!   3. `ENOSPC` is `StorageFull`; a failed sync halts its log, with the cause as the source, and
//!      nothing above the last good sync is acknowledged or served (I9); other errors are `Io`.
//!   4. On a full disk reads and deletions go on, and appends do once there is room.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use plimsoll::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk, sweep_calls, sweep_faults};
use plimsoll::{Acks, Compression, Durability, Error, Outcome, TopicConfig};

use crate::support::check::{Checker, check};
use crate::support::store::{DEDUPLICATED, History, SEGMENT_BYTES, Step, Store};

/// What a call can be made to fail with. A sync that lies breaks every promise; one that stalls
/// is not an error.
const KINDS: [FaultKind; 5] =
    [FaultKind::Eio, FaultKind::Enospc, FaultKind::Short, FaultKind::Erofs, FaultKind::Emfile];

/// Every call that a disk has.
const CALLS: [Call; 20] = [
    Call::Open,
    Call::CreateFile,
    Call::CreateDir,
    Call::List,
    Call::Stat,
    Call::Rename,
    Call::Link,
    Call::RemoveFile,
    Call::RemoveDir,
    Call::SyncDir,
    Call::Lock,
    Call::Read,
    Call::Write,
    Call::Allocate,
    Call::SetLen,
    Call::Len,
    Call::SyncData,
    Call::Links,
    Call::Map,
    Call::Populate,
];

/// More than all the tests here take together, by far.
const HANGS_AFTER: Duration = Duration::from_secs(900);

type Workload = fn(&mut Store<'_>);
/// Which call met which fault.
type Pairs = BTreeSet<String>;

/// A step of a workload that goes on after errors: skipped where an earlier error has taken what
/// it needs.
fn step(store: &mut Store<'_>, topic: Option<&str>, step: impl FnOnce(&mut Store<'_>) -> Step) {
    if store.has(topic) {
        // It is in the history.
        let _ = step(store);
    }
}

fn open(store: &mut Store<'_>) {
    // Once more if it fails, as a user would.
    let _ = store.open_tolerant().or_else(|_| store.open_tolerant());
}

fn topic(store: &mut Store<'_>, name: &str, durability: Durability) {
    if !store.knows(name) {
        step(store, None, |store| store.topic(name, durability));
    }
}

fn send(store: &mut Store<'_>, topic: &str, bytes: usize) {
    step(store, Some(topic), |store| store.send(topic, bytes));
}

fn consume(store: &mut Store<'_>, topic: &str) {
    step(store, Some(topic), |store| store.consume(topic));
}

fn wait_durable(store: &mut Store<'_>, topic: &str) {
    step(store, Some(topic), |store| store.wait_durable(topic));
}

fn delete(store: &mut Store<'_>, topic: &str) {
    step(store, Some(topic), |store| store.delete(topic));
}

fn close(store: &mut Store<'_>) {
    step(store, None, |store| store.close());
}

fn fsync(store: &mut Store<'_>) {
    open(store);
    topic(store, "a", Durability::Fsync);
    for bytes in [700, 700, 25_000, 25_000, 25_000, 25_000] {
        send(store, "a", bytes);
        consume(store, "a");
    }
    close(store);
}

fn os(store: &mut Store<'_>) {
    open(store);
    topic(store, "a", Durability::Os);
    for bytes in [700, 700, 20_000, 20_000, 20_000, 20_000, 20_000] {
        send(store, "a", bytes);
        send(store, "a", 300);
        consume(store, "a");
    }
    wait_durable(store, "a");
    send(store, "a", 700);
    close(store);
}

fn reopened(store: &mut Store<'_>) {
    for _ in 0..3 {
        open(store);
        topic(store, "a", Durability::Fsync);
        send(store, "a", 700);
        send(store, "a", 30_000);
        consume(store, "a");
        close(store);
    }
}

fn recovered(store: &mut Store<'_>) {
    for (name, durability) in [("a", Durability::Fsync), ("b", Durability::Os)] {
        open(store);
        topic(store, name, durability);
        for bytes in [700, 40_000, 700] {
            send(store, name, bytes);
        }
        store.kill();
    }
    open(store);
    for name in store.live() {
        send(store, &name, 700);
        consume(store, &name);
    }
    close(store);
}

fn topics(store: &mut Store<'_>) {
    open(store);
    for _ in 0..2 {
        topic(store, "a", Durability::Fsync);
        topic(store, "b", Durability::Os);
        send(store, "a", 700);
        send(store, "b", 700);
        delete(store, "a");
        send(store, "b", 700);
    }
    close(store);
    open(store);
    delete(store, "b");
    close(store);
}

fn enqueued(store: &mut Store<'_>) {
    open(store);
    topic(store, "a", Durability::Fsync);
    for sizes in [[700, 30_000, 700], [30_000, 700, 30_000]] {
        step(store, Some("a"), |store| store.enqueue("a", &sizes));
        consume(store, "a");
    }
    close(store);
}

fn retained(store: &mut Store<'_>) {
    open(store);
    topic(store, "a", Durability::Fsync);
    let a = Some("a");
    step(store, a, |store| store.alter("a", |settings| settings.retention_bytes = Some(30_000)));
    for _ in 0..6 {
        send(store, "a", 20_000);
        // What could not be removed is tried again.
        store.sleep(Duration::from_secs(11));
    }
    let end = store.has(a).then(|| store.broker().admin().latest("a", 0).ok()).flatten();
    if let Some(end) = end {
        step(store, a, |store| store.delete_records("a", end.get()));
    }
    send(store, "a", 700);
    close(store);
}

fn deduplicated(store: &mut Store<'_>) {
    let topic_of = DEDUPLICATED;
    for _ in 0..2 {
        open(store);
        topic(store, topic_of, Durability::Fsync);
        for bytes in [700, 30_000, 700, 30_000] {
            send(store, topic_of, bytes);
            step(store, Some(topic_of), |store| store.resend(topic_of, 9));
        }
        close(store);
    }
}

fn changed(store: &mut Store<'_>) {
    open(store);
    topic(store, "a", Durability::Fsync);
    let a = Some("a");
    for bytes in [700, 40_000, 40_000] {
        send(store, "a", bytes);
    }
    step(store, a, |store| store.add_partitions("a", 2));
    step(store, None, |store| store.backup());
    send(store, "a", 700);
    close(store);
}

/// Retention by age, rolls by age, and a deletion, over several lives.
fn aged(store: &mut Store<'_>) {
    open(store);
    topic(store, "a", Durability::Os);
    let a = Some("a");
    step(store, a, |store| {
        store.alter("a", |settings| {
            settings.retention = Some(Duration::from_secs(5));
            settings.segment_age = Duration::from_secs(2);
        })
    });
    for _ in 0..3 {
        send(store, "a", 700);
        send(store, "a", 700);
        store.sleep(Duration::from_secs(3));
    }
    close(store);
    open(store);
    send(store, "a", 700);
    let end = store.has(a).then(|| store.broker().admin().latest("a", 0).ok()).flatten();
    if let Some(end) = end {
        step(store, a, |store| store.delete_records("a", end.get().saturating_sub(1)));
    }
    step(store, a, |store| store.add_partitions("a", 3));
    step(store, None, |store| store.backup());
    close(store);
    open(store);
    send(store, "a", 700);
    close(store);
}

/// Batches that are compressed, and a reader that decompresses them, over two lives.
fn compressed(store: &mut Store<'_>) {
    for _ in 0..2 {
        open(store);
        if !store.knows("a") {
            let config = TopicConfig::new().compression(Compression::Zstd);
            let config = config.segment_bytes(SEGMENT_BYTES);
            step(store, None, |store| store.create("a", config, (1, Durability::Fsync)));
        }
        for count in [30, 600, 600] {
            step(store, Some("a"), |store| store.batch("a", 0, &vec![5; count], Acks::All));
            consume(store, "a");
        }
        close(store);
    }
}

const WORKLOADS: [(&str, Workload); 11] = [
    ("fsync", fsync),
    ("os", os),
    ("reopened", reopened),
    ("recovered", recovered),
    ("topics", topics),
    ("enqueued", enqueued),
    ("retained", retained),
    ("deduplicated", deduplicated),
    ("changed", changed),
    ("aged", aged),
    ("compressed", compressed),
];

/// Runs a test, and ends the process with a message if it hangs.
fn without_hanging(name: &'static str, test: impl FnOnce()) {
    let (done, waiting) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waiting.recv_timeout(HANGS_AFTER) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs");
            std::process::abort();
        }
    });
    test();
    drop(done);
    watchdog.join().expect("the watchdog does not panic");
}

/// The error that stands behind the others.
fn root(error: &Error) -> &Error {
    match error {
        Error::Halted { first: cause } | Error::NotSynced { cause } => root(cause),
        other => other,
    }
}

/// Invariant 3, of an error that some step of a workload has got.
fn check_error(error: &Error, kinds: &[(Call, FaultKind)]) {
    let full = kinds.iter().any(|(_, kind)| *kind == FaultKind::Enospc);
    match root(error) {
        Error::StorageFull(_) => assert!(full, "{error:?} without ENOSPC"),
        Error::Io(failure) => {
            let is_full = failure.source.kind() == std::io::ErrorKind::StorageFull;
            assert!(!is_full, "ENOSPC as {error:?}");
        }
        // Steps on what an earlier error kept from being there.
        Error::Closed | Error::UnknownTopic { .. } | Error::TopicExists { .. } => return,
        // A page that cannot be read may be a damaged one.
        Error::Damaged(_) | Error::Corrupt(_) => return,
        other => panic!("an I/O error became {other:?}"),
    }
    assert!(error.source().is_some(), "{error:?} has no source");
}

/// Runs jobs on as many threads as the tests may use.
fn side_by_side<J: Sync>(jobs: &[J], run: impl Fn(&J) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(job);
                }
            });
        }
    });
}

/// Runs a workload that meets faults; notes which it met.
fn meet(workload: Workload, disk: &SimDisk, history: &mut History, pairs: &Mutex<Pairs>) {
    workload(&mut Store::new(disk, history));
    let fired = disk.fired_at();
    for error in &history.errors {
        check_error(error, &fired);
    }
    let mut pairs = pairs.lock().expect("no panic while it is held");
    pairs.extend(fired.iter().map(|pair| format!("{pair:?}")));
}

#[test]
fn no_call_that_fails_costs_an_acknowledged_record() {
    without_hanging("the sweep of faults", || {
        let (pairs, checker) = (Mutex::new(Pairs::new()), Checker::new());
        side_by_side(&WORKLOADS, |(name, workload)| {
            let work = |disk: &SimDisk, h: &mut History| meet(*workload, disk, h, &pairs);
            let check = |disk: &SimDisk, h: &History| checker.check(disk, h);
            let swept = sweep_faults(name, &KINDS, work, check);
            println!("{}", swept.unwrap_or_else(|why| panic!("{why}")));
        });
        let pairs = pairs.into_inner().expect("no panic while it was held");
        println!("{} pairs of a call and a fault", pairs.len());
        for call in CALLS {
            for kind in KINDS.into_iter().filter(|kind| kind.applies_to(call)) {
                let pair = format!("{:?}", (call, kind));
                assert!(pairs.contains(&pair), "{pair} was never met");
            }
        }
    });
}

#[test]
fn no_kind_of_call_that_fails_for_ever_costs_an_acknowledged_record() {
    without_hanging("the sweep of calls", || {
        let (pairs, checker) = (Mutex::new(Pairs::new()), Checker::new());
        let jobs: Vec<_> =
            CALLS.iter().flat_map(|call| WORKLOADS.iter().map(move |job| (call, job))).collect();
        side_by_side(&jobs, |(call, (name, workload))| {
            let kinds: Vec<_> = KINDS.into_iter().filter(|kind| kind.applies_to(**call)).collect();
            let work = |disk: &SimDisk, h: &mut History| meet(*workload, disk, h, &pairs);
            let check = |disk: &SimDisk, h: &History| checker.check(disk, h);
            let swept = sweep_calls(&format!("{name} {call:?}"), **call, &kinds, work, check);
            println!("{}", swept.unwrap_or_else(|why| panic!("{why}")));
        });
    });
}

/// A disk that can be written and not read. Mappings are not populated either, so every byte that
/// an open looks at goes through a read, and each read is the first of those that fail.
#[test]
fn what_cannot_be_read_at_an_open_is_not_taken_for_a_torn_tail() {
    for durability in [Durability::Fsync, Durability::Os] {
        for at in 1.. {
            let disk = SimDisk::new();
            let mut history = History::default();
            let mut store = Store::new(&disk, &mut history);
            open(&mut store);
            topic(&mut store, "a", durability);
            for bytes in [700, 40_000, 700] {
                send(&mut store, "a", bytes);
            }
            wait_durable(&mut store, "a");
            store.kill();
            for (call, at) in [(Call::Populate, 1), (Call::Read, at)] {
                let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
                disk.arm(Fault { at, call: Some(call), what, how_long });
            }
            for _ in 0..2 {
                open(&mut store);
                send(&mut store, "a", 700);
                close(&mut store);
            }
            store.kill();
            drop(store);
            if !disk.fired_at().contains(&(Call::Read, FaultKind::Eio)) {
                break;
            }
            disk.disarm();
            for disk in [disk.snapshot(), disk.crash(&Loss::All), disk] {
                check(&disk, &history)
                    .unwrap_or_else(|why| panic!("{durability:?}, unreadable from {at}: {why}"));
            }
        }
    }
}

/// Invariant 4, with a disk that is really full.
#[test]
fn on_a_full_disk_reads_and_deletions_go_on_and_appends_do_once_there_is_room() {
    for durability in [Durability::Fsync, Durability::Os] {
        let disk = SimDisk::new();
        disk.set_capacity(2 << 20);
        let mut history = History::default();
        let mut store = Store::new(&disk, &mut history);
        open(&mut store);
        topic(&mut store, "a", durability);
        topic(&mut store, "b", durability);
        let filled = (0..200).find_map(|_| store.send("b", 30_000).err());
        let full = filled.expect("the disk is full at last");
        assert!(matches!(full, Error::StorageFull(_)), "{full:?}");
        assert!(full.is_retriable() && full.outcome() == Outcome::NotWritten);
        for _ in 0..3 {
            let refused = store.send("a", 30_000);
            assert!(matches!(refused, Err(Error::StorageFull(_))), "{refused:?}");
            store.consume("b").expect("reads go on");
        }
        store.delete("b").expect("a topic can be deleted");
        store.send("a", 30_000).expect("appends go on by themselves");
        store.consume("a").expect("and are read");
        close(&mut store);
        drop(store);
        for disk in [disk.crash(&Loss::All), disk] {
            check(&disk, &history).unwrap_or_else(|why| panic!("{durability:?}: {why}"));
        }
    }
}
