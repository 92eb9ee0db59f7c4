//! After a sync that failed nothing is acknowledged, and nothing served that a power cut takes.
//!
//! Invariants
//!   1. No record is acknowledged from the failed sync on; every later call gets `Halted`, with
//!      the first cause. `produce` prints no acknowledgement after it and ends with 1.
//!   2. Readers get what the last good sync covered, and no more (I9).
//!   3. The next open writes again, and syncs, whatever it serves above that: a failed sync leaves
//!      bytes in the page cache that the medium lacks.
//!
//! On the real disk `strace` makes `fdatasync` fail. It counts calls by thread.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plimsoll::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use plimsoll::{Background, Broker, Error, Outcome, Record, TopicConfig};

const PLIMSOLL: &str = env!("CARGO_BIN_EXE_plimsoll");
const LINES: u64 = 40;

fn line(number: u64) -> String {
    format!("line {number}")
}

/// True if there is a strace that may trace; says so aloud if not.
fn has_strace(test: &str) -> bool {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    let works = works.is_ok_and(|output| output.status.success());
    if !works {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no strace here, or it may not trace");
    }
    works
}

/// A store with a topic that has a segment of one record; and the segment.
fn store(dir: &Path) -> PathBuf {
    let broker = Broker::open(dir).unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.producer().build().unwrap().send("t", Record::new("line 0")).unwrap();
    broker.close().unwrap();
    let folder = |dir: &Path| std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    folder(&folder(&folder(&dir.join("topics"))))
}

/// Runs the command line under `strace`, which fails syncs of one file as `when` says.
fn produce(dir: &Path, segment: &Path, when: &str) -> Output {
    let mut input = String::new();
    for number in 1..LINES {
        writeln!(input, "{}", line(number)).unwrap();
    }
    let file = dir.with_extension("input");
    std::fs::write(&file, input).unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-P"]).arg(segment);
    strace.args(["-e", &format!("inject=fdatasync:error=EIO:when={when}")]);
    strace.arg(PLIMSOLL).arg("--data").arg(dir);
    strace.args(["produce", "t", "--batch", "1", "--print-acks"]).arg(&file);
    strace.output().unwrap()
}

fn values(broker: &Broker) -> Vec<String> {
    let reader = broker.reader("t").build().unwrap();
    reader.map(|r| String::from_utf8(r.unwrap().value().unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn produce_acknowledges_nothing_after_a_failed_sync() {
    if !has_strace("produce_acknowledges_nothing_after_a_failed_sync") {
        return;
    }
    for when in ["1", "2", "3", "7", "20", "1+", "5+"] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        let segment = store(&dir);
        let output = produce(&dir, &segment, when);
        let (told, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "when={when}: {told}{errors}");
        let acknowledged: Vec<_> = told.lines().collect();
        let expected: Vec<_> = (1..).take(acknowledged.len()).map(|n| format!("0 {n}")).collect();
        assert_eq!(acknowledged, expected, "when={when}");
        let first_failure: usize = when.trim_end_matches('+').parse().unwrap();
        assert!(acknowledged.len() < first_failure, "when={when}: {told}");
        assert!(errors.contains("halted"), "when={when}: {errors}");

        // What the next open serves it has written again and synced.
        served_only_after_a_sync(&dir, &segment);
        let broker = Broker::open(&dir).unwrap();
        let seen = values(&broker);
        assert!(seen.len() > acknowledged.len(), "when={when}: an acknowledged line is gone");
        assert_eq!(seen, (0..seen.len() as u64).map(line).collect::<Vec<_>>(), "when={when}");
    }
}

/// Consumes under `strace`: before the first byte of output come a write to the segment and a
/// sync of it.
fn served_only_after_a_sync(dir: &Path, segment: &Path) {
    let log = dir.with_extension("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", "trace=pwrite64,fdatasync,write,writev", "-o"]);
    let output = strace.arg(&log).arg(PLIMSOLL).arg("--data").arg(dir).args(["consume", "t"]);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = std::fs::read_to_string(&log).unwrap();
    let name = segment.file_name().unwrap().to_string_lossy().into_owned();
    let place = |found: &dyn Fn(&str) -> bool| calls.lines().position(found);
    let wrote = place(&|call| call.contains("pwrite64(") && call.contains(&name));
    let synced = place(&|call| call.contains("fdatasync(") && call.contains(&name));
    // Its output is a pipe here, and nothing else is.
    let served = place(&|call| call.contains("<pipe:") && call.contains("line 0"));
    assert!(wrote.is_some() && wrote < synced && synced < served, "{calls}");
}

fn open(disk: &SimDisk) -> Broker {
    let builder = Broker::builder().volumes(["v"]).disk(disk).seed(3);
    builder.background(Background::Inline).open().unwrap()
}

#[test]
fn nothing_is_acknowledged_after_a_failed_sync_nor_served_that_a_power_cut_takes() {
    for kind in [FaultKind::Eio, FaultKind::Enospc, FaultKind::Short] {
        for how_long in [HowLong::Once, HowLong::Forever] {
            for nth in 1..12 {
                one_failed_sync(kind, how_long, nth);
            }
        }
    }
}

fn one_failed_sync(kind: FaultKind, how_long: HowLong, nth: u64) {
    let context = format!("{kind:?} {how_long:?} at sync {nth}");
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new().segment_bytes(64 << 10)).unwrap();
    let producer = broker.producer().build().unwrap();
    disk.arm(Fault { at: nth, call: Some(Call::SyncData), what: kind, how_long });
    let (mut acknowledged, mut failed) = (0, None);
    // Some syncs are of sealing, which an append does not wait for.
    for number in 0..LINES {
        // Large enough to roll every few records.
        let value = format!("{:<9000}", line(number));
        match producer.send("t", Record::new(&value)) {
            Ok(ack) => {
                assert!(failed.is_none(), "{context}: acknowledged after a failure");
                assert_eq!(ack.offset.get(), number);
                acknowledged += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::Halted { .. }), "{context}: {error:?}");
                assert_eq!(error.outcome(), Outcome::Unknown);
                let cause = failed.get_or_insert_with(|| error.to_string());
                assert_eq!(*cause, error.to_string(), "{context}: another cause");
            }
        }
    }
    assert!(failed.is_some() && disk.fired() > 0, "{context}: nothing failed");
    let served = |broker: &Broker| -> u64 {
        let mut served = 0;
        for record in broker.reader("t").build().unwrap() {
            // At the end the reader is told that the log halted.
            let Ok(record) = record else { break };
            let value = format!("{:<9000}", line(served));
            assert_eq!(record.value(), Some(value.as_bytes()), "{context}");
            served += 1;
        }
        served
    };
    let before = served(&broker);
    assert!(before >= acknowledged, "{context}: {before} of {acknowledged}");
    let survives = |disk: &SimDisk, least: u64| {
        let broker = open(disk);
        let after = served(&broker);
        assert!(after >= least, "{context}: {least} were served, {after} are there");
        after
    };
    // The power goes: what was served is still there.
    disk.disarm();
    survives(&disk.crash(&Loss::All), before);
    // The process goes: the page cache stays, and shows more than the medium has.
    let killed = disk.kill();
    let broker = open(&killed);
    let shown = served(&broker);
    assert!(shown >= before, "{context}");
    survives(&killed.crash(&Loss::All), shown);
}
