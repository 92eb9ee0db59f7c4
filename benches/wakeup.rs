//! Waking a consumer, beside the machine's own limit:
//!
//! ```text
//! cargo bench --bench wakeup
//! ```
//!
//! Two threads send one record to and fro over two topics (`Durability::Os`): each polls one and
//! sends to the other. The limit is two threads that wake each other by a futex. What counts is the
//! median of a round's trips.
//!
//! Exits with 1 if it is above its bar. Linux only: elsewhere it says so and measures nothing.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("SKIPPED: the limit is a futex, which only Linux has");
}

#[cfg(target_os = "linux")]
mod support;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;
    use std::ptr;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use plimsoll::{Broker, Durability, Record, Topic, TopicConfig};

    use crate::support::{self, Bar, Bench, Row, Run, Show, Side, Sides, quantile};

    /// Round trips of a round.
    const TRIPS: u32 = 2_000;

    pub fn main() -> ExitCode {
        let mut bench = Bench::new();
        let row = Row {
            group: "wakeup",
            name: "round trip over two topics",
            show: Show::Time,
            limits: &["limit, futex"],
            bars: &[Bar::Time { of: 0, at_most: 2.0 }],
            measured_for: Duration::from_secs(8),
        };
        bench.row(&row, round_trips);
        bench.finish()
    }

    fn round_trips() -> Sides {
        let dir = support::folder();
        let broker = Broker::open(dir.path().join("store")).expect("opened");
        let config = TopicConfig::new().durability(Durability::Os);
        let there = broker.create_topic("there", config.clone()).expect("created");
        let back = broker.create_topic("back", config).expect("created");
        let limit: Side = Box::new(futex_trips);
        let ours: Side = Box::new(move || {
            // Removed with the side.
            let _ = &dir;
            record_trips(&broker, &there, &back)
        });
        Sides::new(vec![limit, ours])
    }

    /// Times each of a round's trips.
    fn timed(mut trip: impl FnMut()) -> Run {
        let begun = Instant::now();
        let mut trips: Vec<u64> = (0..TRIPS)
            .map(|_| {
                let begun = Instant::now();
                trip();
                u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
            })
            .collect();
        let took = begun.elapsed();
        trips.sort_unstable();
        let median = Duration::from_nanos(quantile(&trips, 0.5));
        Run { each: Some(median), ..Run::new(u64::from(TRIPS), took) }
    }

    fn futex_trips() -> Run {
        let (there, back) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for trip in 1..=TRIPS {
                    await_value(&there, trip);
                    set_value(&back, trip);
                }
            });
            let mut trip = 0;
            timed(|| {
                trip += 1;
                set_value(&there, trip);
                await_value(&back, trip);
            })
        })
    }

    fn set_value(word: &AtomicU32, value: u32) {
        word.store(value, Ordering::Release);
        futex(word, libc::FUTEX_WAKE, 1);
    }

    fn await_value(word: &AtomicU32, value: u32) {
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen == value {
                return;
            }
            futex(word, libc::FUTEX_WAIT, seen);
        }
    }

    /// Waits while the word has a value, or wakes so many who wait.
    fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
        let no_timeout = ptr::null::<libc::timespec>();
        let operation = operation | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: futex(2) needs an aligned word that stays where it is during the call, which the
        // reference guarantees, and a timeout that is null or valid.
        #[expect(unsafe_code, reason = "the limit is a bare futex")]
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout);
        }
    }

    fn record_trips(broker: &Broker, there: &Topic, back: &Topic) -> Run {
        let follow = |topic: &Topic| {
            let consumer = broker.consumer().assign([(topic.name(), 0)]);
            consumer.start(plimsoll::Start::Latest).build().expect("built")
        };
        let (mut arriving, mut returning) = (follow(there), follow(back));
        thread::scope(|scope| {
            let answering = broker.producer().build().expect("built");
            scope.spawn(move || {
                for _ in 0..TRIPS {
                    let records = arriving.poll(Duration::from_secs(10)).expect("polled");
                    assert_eq!(records.count(), 1, "the record that was sent");
                    answering.send(back, Record::new("pong")).expect("sent");
                }
            });
            let asking = broker.producer().build().expect("built");
            timed(|| {
                asking.send(there, Record::new("ping")).expect("sent");
                let records = returning.poll(Duration::from_secs(10)).expect("polled");
                assert_eq!(records.count(), 1, "the answer");
            })
        })
    }
}
