//! Appending at `Durability::Os` with one thread, beside the machine's own limit:
//!
//! ```text
//! cargo bench --bench append
//! ```
//!
//! The limit is a bare loop with nothing but what is named: frame and checksum the same bytes, and
//! store them by mapping, and by `pwrite`, into fresh allocated segments; the better of the two
//! counts. Single records also have to be faster than one bare `pwrite` for each. The last row
//! times each call over several segments: what a call may take at worst is told by its quantiles.
//!
//! Exits with 1 if a row is below its bar. An argument chooses rows by name.

mod support;

use std::cell::RefCell;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plimsoll::{Broker, Durability, Producer, Record, Topic, TopicConfig};
use support::{Bar, Bench, Check, Row, Run, Show, Side, Sides, bare, float, quantile, quartiles};

/// What a round stores, about: two segments, so that rolls weigh what they weigh.
const ROUND_BYTES: u64 = 128 << 20;
/// Of a round's records, `pwrite` one by one does this share: its rate does not depend on it.
const WRITTEN_SHARE: u64 = 4;
/// How many records the row of single calls times in a round.
const TIMED: u64 = 1_200_000;
/// What the slowest call of a thousand may take, in median calls.
const TAIL_BAR: f64 = 10.0;

fn main() -> ExitCode {
    let mut bench = Bench::new();
    let row = Row {
        group: "append",
        name: "100 B one by one",
        show: Show::Rate,
        limits: &["limit, mapped", "limit, pwrite", "one bare pwrite each"],
        bars: &[Bar::Rate { of: &[0, 1], at_least: 0.60 }, Bar::Rate { of: &[2], at_least: 2.50 }],
        measured_for: Duration::from_secs(8),
    };
    bench.row(&row, || one_by_one(100, true));
    let limits = &["limit, mapped", "limit, pwrite"];
    let bars = &[Bar::Rate { of: &[0, 1], at_least: 0.70 }];
    bench.row(&Row { name: "1 KiB one by one", limits, bars, ..row }, || one_by_one(1024, false));
    let bars = &[Bar::Rate { of: &[0, 1], at_least: 0.80 }];
    bench.row(&Row { name: "100 x 100 B a batch", limits, bars, ..row }, || batches(100, 100));
    bench.row(&Row { name: "100 x 1 KiB a batch", limits, bars, ..row }, || batches(100, 1024));
    let (limits, bars, show) = (&[], &[], Show::Time);
    let row = Row { name: "each call of 100 B", show, limits, bars, ..row };
    bench.row(&row, each_call);
    bench.finish()
}

fn one_by_one(value_bytes: usize, with_write_only: bool) -> Sides {
    let dir = Rc::new(support::folder());
    let value = Rc::new(vec![b'x'; value_bytes]);
    let records = ROUND_BYTES / bare::batch_bytes(1, value_bytes) as u64;
    let written = records / WRITTEN_SHARE;
    let mut sides: Vec<Side> = Vec::new();
    let (d, v) = (Rc::clone(&dir), Rc::clone(&value));
    sides.push(Box::new(move || Run::new(records, bare::store_mapped(d.path(), records, 1, &v))));
    let (d, v) = (Rc::clone(&dir), Rc::clone(&value));
    sides.push(Box::new(move || Run::new(written, bare::store_written(d.path(), written, 1, &v))));
    if with_write_only {
        let (d, v) = (Rc::clone(&dir), Rc::clone(&value));
        sides.push(Box::new(move || Run::new(written, bare::write_only(d.path(), written, &v))));
    }
    sides.push(Box::new(move || {
        let took = with_store(dir.path(), |producer, topic| {
            let begun = Instant::now();
            for _ in 0..records {
                let record = Record::new(value.as_slice());
                black_box(producer.send(topic, record).expect("sent"));
            }
            begun.elapsed()
        });
        Run::new(records, took)
    }));
    Sides::new(sides)
}

fn batches(count: u32, value_bytes: usize) -> Sides {
    let dir = Rc::new(support::folder());
    let value = Rc::new(vec![b'x'; value_bytes]);
    let batches = ROUND_BYTES / bare::batch_bytes(count, value_bytes) as u64;
    let records = batches * u64::from(count);
    let mut sides: Vec<Side> = Vec::new();
    for store in [bare::store_mapped, bare::store_written] {
        let (d, v) = (Rc::clone(&dir), Rc::clone(&value));
        sides.push(Box::new(move || Run::new(records, store(d.path(), batches, count, &v))));
    }
    sides.push(Box::new(move || {
        let batch: Vec<Record<'_>> = (0..count).map(|_| Record::new(value.as_slice())).collect();
        let took = with_store(dir.path(), |producer, topic| {
            let begun = Instant::now();
            for _ in 0..batches {
                black_box(producer.send_batch(topic, 0, &batch).expect("sent"));
            }
            begun.elapsed()
        });
        Run::new(records, took)
    }));
    Sides::new(sides)
}

/// Quantiles of single calls.
#[derive(Default)]
struct Calls {
    /// Of each round: p50, p99, p99.9 and the slowest, in nanoseconds.
    rounds: Vec<[u64; 4]>,
}

fn each_call() -> Sides {
    let dir = support::folder();
    let value = [b'x'; 100];
    let calls = Rc::new(RefCell::new(Calls::default()));
    let seen = Rc::clone(&calls);
    let clock = clock_cost();
    let mut each: Vec<u64> = Vec::new();
    let side: Side = Box::new(move || {
        each.clear();
        each.reserve(usize::try_from(TIMED).expect("a few"));
        let took = with_store(dir.path(), |producer, topic| {
            let begun = Instant::now();
            let mut last = begun;
            for _ in 0..TIMED {
                black_box(producer.send(topic, Record::new(&value)).expect("sent"));
                // One reading a call, which ends it and begins the next one.
                let now = Instant::now();
                each.push(nanoseconds(now - last).saturating_sub(clock));
                last = now;
            }
            begun.elapsed()
        });
        each.sort_unstable();
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| quantile(&each, share));
        seen.borrow_mut().rounds.push([p50, p99, p999, each[each.len() - 1]]);
        Run { each: Some(Duration::from_nanos(p50)), ..Run::new(TIMED, took) }
    });
    let finish = move || {
        let rounds = &calls.borrow().rounds;
        let median = |at: usize| quartiles(rounds.iter().map(|r| float(r[at])))[1];
        let [low, tail, high] = quartiles(rounds.iter().map(|r| float(r[2]) / float(r[0].max(1))));
        let slowest = rounds.iter().map(|r| r[3]).max().unwrap_or_default();
        let text = format!(
            "p50 {:.0} ns, p99 {:.0} ns, p99.9 {:.0} ns, slowest of a round {:.0} µs, of all {} µs \
             (less {clock} ns, what the clock takes)",
            median(0),
            median(1),
            median(2),
            median(3) / 1e3,
            slowest / 1000,
        );
        let ratio =
            format!("p99.9 / p50: {tail:.2} ({low:.2} to {high:.2}), bar at most {TAIL_BAR}");
        vec![Check { text, met: true }, Check { text: ratio, met: tail <= TAIL_BAR }]
    };
    Sides { sides: vec![side], finish: Box::new(finish) }
}

/// What reading the clock takes, in nanoseconds.
fn clock_cost() -> u64 {
    let mut costs: Vec<u64> = Vec::new();
    let mut last = Instant::now();
    for _ in 0..100_000 {
        let now = Instant::now();
        costs.push(nanoseconds(now - last));
        last = now;
    }
    costs.sort_unstable();
    quantile(&costs, 0.5)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A new store for a round; making, closing and removing it are not timed.
fn with_store(dir: &Path, run: impl FnOnce(&Producer, &Topic) -> Duration) -> Duration {
    let store = dir.join("store");
    let broker = Broker::open(&store).expect("opened");
    let config = TopicConfig::new().durability(Durability::Os);
    let topic = broker.create_topic("bench", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let took = run(&producer, &topic);
    broker.close().expect("closed");
    std::fs::remove_dir_all(&store).expect("removed");
    took
}
