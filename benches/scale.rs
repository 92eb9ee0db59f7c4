//! Many partitions in one process:
//!
//! ```text
//! cargo bench --bench scale
//! ```
//!
//! 1. A thousand partitions that nothing happens in: no measurable processor time, the threads of a
//!    volume and no more, at most 64 MB of memory, and next to no disk.
//! 2. Ten thousand partitions, made, appended to, read and opened again within the limits that
//!    Linux gives a process by default: 1,024 open files.
//!
//! Exits with 1 if a bar is missed. Runs itself again under `ulimit -n 1024`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{Broker, Durability, Record, TopicConfig};

/// Set in the environment of the second run.
const LIMITED: &str = "PLIMSOLL_SCALE_LIMITED";
const IDLE: u32 = 1_000;
const MANY: u32 = 10_000;
const MEMORY_KB_MAX: u64 = 64 << 10;
const DISK_BYTES_MAX: u64 = 1 << 20;
/// The threads of the one volume, and the main one.
const THREADS_MAX: u64 = 3;
const WATCHED: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if std::env::var_os(LIMITED).is_none() {
        let this = std::env::current_exe().expect("a path");
        let status = Command::new("sh")
            .args(["-c", "ulimit -Sn 1024; exec \"$0\""])
            .arg(this)
            .env(LIMITED, "1")
            .status()
            .expect("sh runs");
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut bars = Bars::default();
    idle(&mut bars);
    many(&mut bars);
    bars.end()
}

/// What was measured, and whether it is within its bar.
#[derive(Default)]
struct Bars {
    missed: u32,
}

impl Bars {
    fn at_most(&mut self, what: &str, measured: u64, most: u64, unit: &str) {
        let missed = measured > most;
        self.missed += u32::from(missed);
        let verdict = if missed { "  ABOVE THE BAR" } else { "" };
        println!("  {what:44} {measured:>10} {unit}, bar {most}{verdict}");
    }

    fn end(&self) -> ExitCode {
        if self.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn idle(bars: &mut Bars) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let before = memory_kb();
    let broker = Broker::open(dir.path()).expect("opened");
    let empty = bytes_on_disk(dir.path());
    let config = || TopicConfig::new().partitions(IDLE);
    broker.create_topic("idle", config()).expect("created");
    println!("{IDLE} partitions that nothing was ever written to");
    let more = bytes_on_disk(dir.path()).saturating_sub(empty);
    bars.at_most("disk, beside an empty store", more, DISK_BYTES_MAX, "B");
    watch(bars, before);

    println!("{IDLE} partitions with one record each, at rest");
    let config = config().durability(Durability::Os);
    let topic = broker.create_topic("rests", config).expect("created");
    let producer = broker.producer().build().expect("built");
    for partition in 0..IDLE {
        producer.send_batch(&topic, partition, &[Record::new("once")]).expect("sent");
    }
    // Their slots are written a second after the last append, and then there is nothing to do.
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(60) {
        let used = ticks();
        thread::sleep(Duration::from_secs(2));
        if ticks() == used {
            break;
        }
    }
    println!("  {:44} {:>10} B", "disk", bytes_on_disk(dir.path()));
    watch(bars, before);
    broker.close().expect("closed");
}

/// Watches the process while nothing happens.
fn watch(bars: &mut Bars, memory_before: u64) {
    let used = ticks();
    thread::sleep(WATCHED);
    bars.at_most("processor time in 10 s", (ticks() - used) * 10, 10, "ms");
    bars.at_most("threads", status("Threads"), THREADS_MAX, "");
    let memory = memory_kb().saturating_sub(memory_before);
    bars.at_most("resident memory", memory, MEMORY_KB_MAX, "kB");
}

fn many(bars: &mut Bars) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    println!("{MANY} partitions under 1,024 open files");
    let broker = Broker::open(dir.path()).expect("opened");
    let config = TopicConfig::new().partitions(MANY).durability(Durability::Os);
    let topic = broker.create_topic("many", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let begun = Instant::now();
    for round in 0..2 {
        for partition in 0..MANY {
            let value = format!("{round} of {partition}");
            producer.send_batch(&topic, partition, &[Record::new(&value)]).expect("sent");
        }
    }
    println!("  {:44} {:>10.1} s", "two records to each", begun.elapsed().as_secs_f64());
    read_all(&broker);
    let open = fs::read_dir("/proc/self/fd").expect("it is Linux").count();
    bars.at_most("open files", open as u64, 1_024, "");
    let begun = Instant::now();
    broker.close().expect("closed");
    println!("  {:44} {:>10.1} s", "close", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let broker = Broker::open(dir.path()).expect("opened again");
    println!("  {:44} {:>10.1} s", "open again", begun.elapsed().as_secs_f64());
    read_all(&broker);
    broker.close().expect("closed");
}

fn read_all(broker: &Broker) {
    let begun = Instant::now();
    let mut read: BTreeMap<u32, u32> = BTreeMap::new();
    for record in broker.reader("many").build().expect("built") {
        let record = record.expect("read");
        let partition = record.partition().get();
        let round = read.entry(partition).or_default();
        let value = format!("{round} of {partition}");
        assert_eq!(record.value(), Some(value.as_bytes()));
        *round += 1;
    }
    assert!(read.len() == MANY as usize && read.values().all(|rounds| *rounds == 2));
    println!("  {:44} {:>10.1} s", "all of them read", begun.elapsed().as_secs_f64());
}

/// Processor time of this process in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("it is Linux");
    // The fields after the name, which may hold anything, in parentheses.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    field(12) + field(13)
}

fn memory_kb() -> u64 {
    status("VmRSS")
}

/// A number in `/proc/self/status`.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it is Linux");
    let line = status.lines().find(|line| line.split(':').next() == Some(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a folder takes of the disk.
fn bytes_on_disk(dir: &Path) -> u64 {
    let used = Command::new("du").args(["-s", "-B1"]).arg(dir).output().expect("du runs");
    let text = String::from_utf8_lossy(&used.stdout);
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
