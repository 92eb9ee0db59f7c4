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
    use std::thread;
    use std::time::Duration;

    use plimsoll::{Broker, Durability, Record, Topic, TopicConfig};

    use crate::support::futex::{self, timed};
    use crate::support::{self, Bar, Bench, Row, Run, Show, Side, Sides};

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
        let limit: Side = Box::new(|| futex::trips(TRIPS));
        let ours: Side = Box::new(move || {
            // Removed with the side.
            let _ = &dir;
            record_trips(&broker, &there, &back)
        });
        Sides::new(vec![limit, ours])
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
            timed(TRIPS, || {
                asking.send(there, Record::new("ping")).expect("sent");
                let records = returning.poll(Duration::from_secs(10)).expect("polled");
                assert_eq!(records.count(), 1, "the answer");
            })
        })
    }
}
