//! Dedup keys:
//!
//! ```text
//! cargo bench --bench dedup
//! ```
//!
//! What a window of a million live keys adds to a record, appended one by one, beside a topic whose
//! keys are stored and not looked at, in time at `Os` and in rate at `Fsync`; opening a store of 20
//! million retained keys; and what it takes there to tell that a key is new and append its record,
//! and to tell that one is not.
//!
//! Takes 6 GiB below the target folder while it runs, and exits with 1 if a row is above its bar.

mod support;

use std::cell::RefCell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plimsoll::{Broker, DedupWindow, Durability, Producer, Record, Topic, TopicConfig};
use support::{Bar, Bench, Check, Row, Run, Show, Side, Sides, float, quantile, quartiles};

/// How many keys count.
const LIVE: u64 = 1_000_000;
/// What they may add to a record, in nanoseconds.
const ADDED_BAR: f64 = 250.0;
/// What of the rate is to stay where each record is synced.
const SYNCED_BAR: f64 = 0.97;
/// How many records a round appends to either topic, and where each is synced.
const APPENDED: u64 = 200_000;
const APPENDED_SYNCED: u64 = 2_000;
/// More than the live keys take.
const KEPT_BYTES: u64 = 512 << 20;
/// How many keys the large store retains.
const RETAINED: u64 = 20_000_000;
/// An open of it is shorter.
const OPEN_MAX: Duration = Duration::from_secs(1);
/// In it, that a key is absent is told in less, at the median.
const ABSENT_MAX: Duration = Duration::from_micros(5);
/// How many calls a round times.
const TIMED: u64 = 10_000;
const VALUE: [u8; 100] = [b'x'; 100];

fn main() -> ExitCode {
    let mut bench = Bench::new();
    let row = Row {
        group: "dedup",
        name: "100 B one by one, a million live keys",
        show: Show::Time,
        limits: &["keys stored only"],
        bars: &[],
        measured_for: Duration::from_secs(8),
    };
    bench.row(&row, live);
    let bars = &[Bar::Rate { of: &[0], at_least: SYNCED_BAR }];
    let name = "100 B one by one, synced, a million live keys";
    let row = Row { name, show: Show::Rate, bars, ..row };
    bench.row(&row, synced);
    let row = Row { show: Show::Time, ..row };
    let dir = support::folder();
    let store = dir.path().join("store");
    let (limits, bars): (&[_], &[_]) = (&[], &[Bar::Within(OPEN_MAX)]);
    let row = Row { name: "open, 20 million retained", limits, bars, ..row };
    bench.row(&row, || {
        fill(&store);
        let store = store.clone();
        Sides::new(vec![Box::new(move || {
            let begun = Instant::now();
            let broker = Broker::open(&store).expect("opened");
            let took = begun.elapsed();
            broker.close().expect("closed");
            Run::new(1, took)
        })])
    });
    let bars = &[Bar::Within(ABSENT_MAX)];
    let row = Row { name: "absent, 20 million retained", bars, ..row };
    bench.row(&row, || {
        fill(&store);
        each_call(&store, |call| RETAINED + call, false)
    });
    let row = Row { name: "present, 20 million retained", bars: &[], ..row };
    bench.row(&row, || {
        fill(&store);
        each_call(&store, |call| call.wrapping_mul(0x9e37_79b9_7f4a_7c15) % RETAINED, true)
    });
    bench.finish()
}

/// A topic that is appended to, key after key.
struct Appender {
    /// Open while this is: the last clone closes.
    _broker: Broker,
    topic: Topic,
    producer: Producer,
    next: u64,
}

impl Appender {
    fn new(store: &Path, durability: Durability, window: DedupWindow) -> Self {
        let broker = Broker::open(store).expect("opened");
        let config =
            TopicConfig::new().durability(durability).retention_bytes(KEPT_BYTES).dedup(window);
        let topic = broker.create_topic("bench", config).expect("created");
        let producer = broker.producer().build().expect("built");
        Self { _broker: broker, topic, producer, next: 0 }
    }

    /// The same in batches, untimed.
    fn append_many(&mut self, records: u64) {
        let end = self.next + records;
        while self.next < end {
            let keys: Vec<_> = (self.next..self.next + 100).map(u64::to_le_bytes).collect();
            let batch: Vec<_> = keys.iter().map(|key| Record::new(&VALUE).dedup_key(key)).collect();
            self.producer.send_batch(&self.topic, 0, &batch).expect("sent");
            self.next += 100;
        }
    }

    fn append(&mut self, records: u64) -> Run {
        let begun = Instant::now();
        for number in self.next..self.next + records {
            let key = number.to_le_bytes();
            let record = Record::new(&VALUE).dedup_key(&key);
            let ack = self.producer.send(&self.topic, record).expect("sent");
            assert!(!black_box(ack).duplicate);
        }
        self.next += records;
        Run::new(records, begun.elapsed())
    }
}

fn live() -> Sides {
    let dir = support::folder();
    let rounds: Rc<RefCell<Vec<[f64; 2]>>> = Rc::default();
    let side = |at: usize, window: DedupWindow| -> Side {
        let store = dir.path().join(at.to_string());
        let mut appender = Appender::new(&store, Durability::Os, window);
        appender.append(LIVE);
        let rounds = Rc::clone(&rounds);
        Box::new(move || {
            let run = appender.append(APPENDED);
            let each = run.took.as_secs_f64() / float(run.units) * 1e9;
            let mut rounds = rounds.borrow_mut();
            match rounds.last_mut() {
                Some(round) if round[at] == 0.0 => round[at] = each,
                _ => {
                    let mut round = [0.0; 2];
                    round[at] = each;
                    rounds.push(round);
                }
            }
            run
        })
    };
    let sides = vec![side(0, DedupWindow::Off), side(1, DedupWindow::Records(LIVE))];
    let finish = move || {
        drop(dir);
        // The first one warms up.
        let rounds = rounds.borrow();
        let added = rounds.iter().skip(1).map(|[without, with]| with - without);
        let [low, median, high] = quartiles(added);
        let text =
            format!("added: {median:.0} ns ({low:.0} to {high:.0}), bar at most {ADDED_BAR} ns");
        vec![Check { text, met: median <= ADDED_BAR }]
    };
    Sides { sides, finish: Box::new(finish) }
}

/// The same where each record is synced.
fn synced() -> Sides {
    let dir = support::folder();
    let side = |at: usize, window: DedupWindow| -> Side {
        let store = dir.path().join(at.to_string());
        let mut appender = Appender::new(&store, Durability::Fsync, window);
        appender.append_many(LIVE);
        Box::new(move || appender.append(APPENDED_SYNCED))
    };
    let sides = vec![side(0, DedupWindow::Off), side(1, DedupWindow::Records(LIVE))];
    let finish = move || {
        drop(dir);
        Vec::new()
    };
    Sides { sides, finish: Box::new(finish) }
}

/// A store of so many keys, unless it is there.
fn fill(store: &PathBuf) {
    if store.exists() {
        return;
    }
    let broker = Broker::open(store).expect("opened");
    let config = TopicConfig::new().durability(Durability::Os).dedup(DedupWindow::Retained);
    let topic = broker.create_topic("bench", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let mut number = 0_u64;
    while number < RETAINED {
        let keys: Vec<_> = (number..number + 100).map(u64::to_le_bytes).collect();
        let batch: Vec<_> = keys.iter().map(|key| Record::new(&VALUE).dedup_key(key)).collect();
        producer.send_batch(&topic, 0, &batch).expect("sent");
        number += 100;
    }
    broker.close().expect("closed");
}

/// Times calls one by one; a round's time is their median.
fn each_call(store: &Path, key: impl Fn(u64) -> u64 + 'static, duplicates: bool) -> Sides {
    let broker = Broker::open(store).expect("opened");
    let topic = broker.topic("bench").expect("it is there");
    let producer = broker.producer().build().expect("built");
    let seen: Rc<RefCell<Vec<u64>>> = Rc::default();
    let all = Rc::clone(&seen);
    let mut calls = 0;
    let side: Side = Box::new(move || {
        // Held while its topic is.
        let _ = &broker;
        let mut each = Vec::new();
        let begun = Instant::now();
        for _ in 0..TIMED {
            // Keys that an earlier run of the row has appended are none that are absent.
            let key = loop {
                let key = key(calls).to_le_bytes();
                calls += 1;
                let record = Record::new(&VALUE).dedup_key(&key);
                let begun = Instant::now();
                let ack = producer.send(&topic, record).expect("sent");
                let took = begun.elapsed();
                if ack.duplicate == duplicates {
                    break u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                }
            };
            each.push(key);
        }
        let took = begun.elapsed();
        each.sort_unstable();
        let median = Duration::from_nanos(quantile(&each, 0.5));
        all.borrow_mut().extend(each);
        Run { each: Some(median), ..Run::new(TIMED, took) }
    });
    let finish = move || {
        let mut all = seen.take();
        all.sort_unstable();
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| quantile(&all, share));
        let text = format!("of all calls: p50 {p50} ns, p99 {p99} ns, p99.9 {p999} ns");
        vec![Check { text, met: true }]
    };
    Sides { sides: vec![side], finish: Box::new(finish) }
}
