//! Partitions of three replicas, all of them on one disk, beside what they are to be measured by:
//!
//! ```text
//! cargo bench --bench replication
//! ```
//!
//! Queued records and threads that wait for their syncs, both with `Acks::All`: the same of one
//! replica, in a store of its own. One record after the other with `Acks::All`: two threads that
//! wake each other by a futex, there and back. An empty follower that catches up with what is in
//! the page cache: a bare loop that checks both checksums of each batch, as a follower does, and
//! copies it into fresh allocated segments, by mapping, and by `pwrite` of 1 MiB; the better of the
//! two counts. The follower's time begins with the drain of the volume that has the only replica,
//! with a step of the metadata in it and what finds out that it is there, and ends once it has
//! every record; nothing is synced in either.
//!
//! Exits with 1 if a row is below its bar. An argument chooses rows by name. Linux only, as the
//! futex is: elsewhere it says so and measures nothing.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("SKIPPED: a limit is a futex, which only Linux has");
}

#[cfg(target_os = "linux")]
mod support;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::RefCell;
    use std::hint::black_box;
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::rc::Rc;
    use std::thread;
    use std::time::{Duration, Instant};

    use plimsoll::{Acks, Broker, Durability, Producer, Record, Topic, TopicConfig};

    use crate::support::{self, Bar, Bench, Row, Run, Show, Side, Sides, bare, futex};

    const VALUE: [u8; 100] = [b'x'; 100];
    const REPLICAS: u16 = 3;
    /// Queued in a round, by each side: two segments of each replica.
    const QUEUED: u64 = 900_000;
    /// Sent one after the other in a round.
    const TRIPS: u32 = 2_000;
    const THREADS: u64 = 64;
    /// Appends of a round, of all threads.
    const GROUPED: u64 = 4096;
    /// What there is to catch up with.
    const LOG_BYTES: u64 = 512 << 20;
    /// Records of a batch of that.
    const BATCH: u32 = 100;
    /// How often is looked whether the follower has everything.
    const LOOK_AGAIN: Duration = Duration::from_micros(200);

    pub fn main() -> ExitCode {
        let mut bench = Bench::new();
        let row = Row {
            group: "replication",
            name: "Os, queued",
            show: Show::Rate,
            limits: &["one replica"],
            bars: &[Bar::Rate { of: &[0], at_least: 0.30 }],
            measured_for: Duration::from_secs(8),
        };
        bench.row(&row, queued);
        let trips = Row {
            name: "Os, one by one",
            show: Show::Time,
            limits: &["futex round trip"],
            bars: &[Bar::Time { of: 0, at_most: 3.0 }],
            ..row
        };
        bench.row(&trips, one_by_one);
        let bars = &[Bar::Rate { of: &[0], at_least: 0.60 }];
        bench.row(&Row { name: "Fsync, 64 threads", bars, ..row }, synced);
        let row = Row {
            limits: &["limit, mapped", "limit, pwrite"],
            bars: &[Bar::Rate { of: &[0, 1], at_least: 0.50 }],
            ..row
        };
        bench.row(&Row { name: "catch-up, 100 x 100 B a batch", ..row }, || catch_up(100));
        bench.row(&Row { name: "catch-up, 100 x 1 KiB a batch", ..row }, || catch_up(1024));
        bench.finish()
    }

    /// A store with a volume for each replica of its topic.
    struct Store {
        broker: Broker,
        topic: Topic,
        producer: Producer,
    }

    impl Store {
        fn new(dir: &Path, replicas: u16, durability: Durability) -> Self {
            let volumes = (0..replicas).map(|number| dir.join(number.to_string()));
            let broker = Broker::builder().volumes(volumes).open().expect("opened");
            let config = TopicConfig::new().replicas(replicas).durability(durability);
            let topic = broker.create_topic("bench", config).expect("created");
            let producer = broker.producer().acks(Acks::All).build().expect("built");
            Self { broker, topic, producer }
        }

        fn send(&self, value: &[u8]) {
            black_box(self.producer.send(&self.topic, Record::new(value)).expect("sent"));
        }
    }

    fn queued() -> Sides {
        let dir = Rc::new(support::folder());
        let side = |replicas: u16| -> Side {
            let dir = Rc::clone(&dir);
            Box::new(move || {
                let dir = dir.path().join("store");
                let store = Store::new(&dir, replicas, Durability::Os);
                let begun = Instant::now();
                for _ in 0..QUEUED {
                    let delivery = store.producer.enqueue(&store.topic, Record::new(&VALUE));
                    black_box(delivery.expect("queued"));
                }
                store.producer.flush().expect("acknowledged");
                let run = Run::new(QUEUED, begun.elapsed());
                store.broker.close().expect("closed");
                std::fs::remove_dir_all(&dir).expect("removed");
                run
            })
        };
        Sides::new(vec![side(1), side(REPLICAS)])
    }

    fn one_by_one() -> Sides {
        let dir = support::folder();
        let store = Store::new(dir.path(), REPLICAS, Durability::Os);
        let limit: Side = Box::new(|| futex::trips(TRIPS));
        let ours: Side = Box::new(move || {
            // Removed with the side.
            let _ = &dir;
            futex::timed(TRIPS, || store.send(&VALUE))
        });
        Sides::new(vec![limit, ours])
    }

    fn synced() -> Sides {
        let dir = Rc::new(support::folder());
        let side = |replicas: u16| -> Side {
            let dir = Rc::clone(&dir);
            let store =
                Store::new(&dir.path().join(format!("of-{replicas}")), replicas, Durability::Fsync);
            Box::new(move || {
                // Removed with the last side.
                let _ = &dir;
                support::threads(THREADS, GROUPED, |_| store.send(&VALUE)).0
            })
        };
        Sides::new(vec![side(1), side(REPLICAS)])
    }

    /// A store whose only replica goes from one volume to the next.
    struct Moving {
        store: Store,
        dir: PathBuf,
        /// Of the volume that the replica is on.
        at: u32,
        records: u64,
    }

    impl Moving {
        fn new(dir: &Path, value_bytes: usize) -> Self {
            let store = Store::new(dir, 1, Durability::Os);
            let value = vec![b'x'; value_bytes];
            let batch: Vec<Record<'_>> = (0..BATCH).map(|_| Record::new(&value)).collect();
            let batches = LOG_BYTES / bare::batch_bytes(BATCH, value_bytes) as u64;
            for _ in 0..batches {
                store.producer.send_batch(&store.topic, 0, &batch).expect("sent");
            }
            let (dir, records) = (dir.to_path_buf(), batches * u64::from(BATCH));
            Self { store, dir, at: 0, records }
        }

        fn volume(&self, number: u32) -> PathBuf {
            self.dir.join(number.to_string())
        }

        /// Moves it on, and returns how long its follower took to have everything.
        fn go_on(&mut self) -> Duration {
            let (from, to) = (self.volume(self.at), self.volume(self.at + 1));
            let admin = self.store.broker.admin();
            let volume = admin.add_volume(&to).expect("added");
            let took = thread::scope(|scope| {
                let begun = Instant::now();
                scope.spawn(|| admin.drain_volume(&from).expect("drained"));
                let has_all = || {
                    let topic = admin.describe(&self.store.topic).expect("described");
                    let mut replicas = topic.partitions[0].replicas.iter();
                    replicas
                        .any(|it| it.volume == volume && it.log_end_offset.get() == self.records)
                };
                while !has_all() {
                    thread::sleep(LOOK_AGAIN);
                }
                begun.elapsed()
            });
            admin.remove_volume(&from, false).expect("removed");
            std::fs::remove_dir_all(&from).expect("removed");
            self.at += 1;
            took
        }
    }

    fn catch_up(value_bytes: usize) -> Sides {
        let dir = Rc::new(support::folder());
        let moving = Rc::new(RefCell::new(Moving::new(&dir.path().join("store"), value_bytes)));
        let limit = |copy: fn(&Path, &[bare::Mapped]) -> Duration| -> Side {
            let (dir, moving) = (Rc::clone(&dir), Rc::clone(&moving));
            Box::new(move || {
                let moving = moving.borrow();
                let maps = bare::map_store(&moving.volume(moving.at), moving.records);
                Run::new(moving.records, copy(dir.path(), &maps))
            })
        };
        let mut sides = vec![limit(bare::copy_mapped), limit(bare::copy_written)];
        sides.push(Box::new(move || {
            let mut moving = moving.borrow_mut();
            Run::new(moving.records, moving.go_on())
        }));
        Sides::new(sides)
    }
}
