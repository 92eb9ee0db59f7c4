//! A log under retention stays as large as it is:
//!
//! ```text
//! cargo bench --bench flat
//! ```
//!
//! 20 GB go through a log of which 1 GB is kept, beside a reader that follows it and one that holds
//! its first records to the end. Private memory, mappings, open files and the disk are looked at
//! after every GB; after the first four, none grows beyond its bar. The reader that holds the
//! oldest records is seen in the metrics, and what it holds stays true. Exits with 1 if a bar is
//! missed.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{Broker, Durability, Record, TopicConfig};

const GB: u64 = 1_000_000_000;
const TOTAL: u64 = 20 * GB;
const KEPT: u64 = GB;
const SETTLED: u64 = 4 * GB;
const VALUE_BYTES: usize = 1_000;
const BATCH: usize = 100;
/// Beyond what there was when it had settled.
const MEMORY_KB_MAX: u64 = 16 << 10;
const MAPPINGS_MAX: u64 = 24;
const FILES_MAX: u64 = 24;
/// What is kept, a segment that may not go yet, and full ones whose footers are still to be
/// written.
const DISK_BYTES_MAX: u64 = KEPT + (1 << 30) + 3 * (64 << 20);

struct Look {
    memory_kb: u64,
    mappings: u64,
    files: u64,
    disk: u64,
}

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let broker = Broker::open(dir.path()).expect("opened");
    let config = TopicConfig::new().durability(Durability::Os).retention_bytes(KEPT);
    let topic = broker.create_topic("flat", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let value = vec![b'x'; VALUE_BYTES];
    let batch: Vec<Record<'_>> = (0..BATCH).map(|_| Record::new(&value)).collect();

    producer.send_batch(&topic, 0, &batch).expect("sent");
    let mut consumer = broker.consumer().assign([("flat", 0)]).build().expect("built");
    let held = consumer.poll(Duration::ZERO).expect("read");
    let (ended, followed) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut looks: Vec<(u64, Look)> = Vec::new();
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                let records = consumer.poll(Duration::from_millis(50)).expect("read");
                followed.fetch_add(records.count() as u64, Ordering::Relaxed);
            }
        });
        let mut sent = 0;
        let mut next = GB;
        while sent < TOTAL {
            producer.send_batch(&topic, 0, &batch).expect("sent");
            sent += (BATCH * VALUE_BYTES) as u64;
            if sent >= next {
                looks.push((sent, look(dir.path())));
                next += GB;
            }
        }
        ended.store(true, Ordering::Release);
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} GB in {seconds:.1} s, {} records followed", TOTAL / GB, followed.into_inner());
    println!(
        "  {:>4} {:>14} {:>9} {:>6} {:>14}",
        "GB", "private kB", "mappings", "files", "disk B"
    );
    for (sent, look) in &looks {
        let Look { memory_kb, mappings, files, disk } = look;
        println!("  {:>4} {memory_kb:>14} {mappings:>9} {files:>6} {disk:>14}", sent / GB);
    }
    let settled = looks.iter().rposition(|(sent, _)| *sent <= SETTLED).unwrap_or(0);
    let most =
        |of: fn(&Look) -> u64| looks[settled..].iter().map(|(_, l)| of(l)).max().unwrap_or(0);
    let grown = |of: fn(&Look) -> u64| most(of) - looks.get(settled).map_or(0, |(_, l)| of(l));
    let mut missed = 0;
    for (what, measured, bar) in [
        ("private memory grown by, kB", grown(|l| l.memory_kb), MEMORY_KB_MAX),
        ("mappings grown by", grown(|l| l.mappings), MAPPINGS_MAX),
        ("open files grown by", grown(|l| l.files), FILES_MAX),
        ("disk at most, B", most(|l| l.disk), DISK_BYTES_MAX),
    ] {
        let verdict = if measured > bar { "  ABOVE THE BAR" } else { "" };
        missed += u32::from(measured > bar);
        println!("  {what:30} {measured:>14}, bar {bar}{verdict}");
    }
    let pinned = broker.metrics().oldest_pinned;
    let seen =
        pinned.as_ref().is_some_and(|pinned| pinned.deleted && pinned.base_offset.get() == 0);
    println!("  the oldest view is seen in the metrics: {seen}");
    let whole = held.iter().all(|record| record.value() == Some(&value)) && held.count() == BATCH;
    println!("  what it holds is as it was: {whole}");
    if missed == 0 && seen && whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn look(dir: &Path) -> Look {
    let maps = fs::read_to_string("/proc/self/maps").expect("it is Linux");
    let status = fs::read_to_string("/proc/self/status").expect("it is Linux");
    let private = status.lines().find(|line| line.starts_with("RssAnon"));
    let memory_kb = private.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let used = Command::new("du").args(["-s", "-B1"]).arg(dir).output().expect("du runs");
    let used = String::from_utf8_lossy(&used.stdout);
    Look {
        memory_kb: memory_kb.unwrap_or(0),
        mappings: maps
            .lines()
            .filter(|line| line.contains(".log") || line.contains("prepared"))
            .count() as u64,
        files: fs::read_dir("/proc/self/fd").expect("it is Linux").count() as u64,
        disk: used.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
    }
}
