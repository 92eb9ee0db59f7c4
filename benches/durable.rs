//! Appending at `Durability::Fsync`, beside the machine's own limit:
//!
//! ```text
//! cargo bench --bench durable
//! ```
//!
//! The limits are bare loops with nothing but what is named. One thread: `pwrite` and `fdatasync`
//! in place in an allocated file. Several threads on one partition: a group commit of one mutex,
//! one buffer, one `pwrite` and one `fdatasync` a round, and a condition variable. Several threads
//! on a partition each: as many threads with a file each. With one thread, what reaches the device
//! for an append is read from the kernel's counters, and with several on one partition the slowest
//! append is told.
//!
//! Exits with 1 if a row is below its bar. An argument chooses rows by name.

mod support;

use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use plimsoll::{Broker, Producer, Record, Topic, TopicConfig};
use support::{Bar, Bench, Check, Row, Run, Show, Side, Sides, bare, float, quantile, quartiles};

const VALUE: [u8; 100] = [b'x'; 100];
/// Appends of a round, of all threads.
const APPENDS: u64 = 256;
const GROUPED: u64 = 4096;
const SPREAD: u64 = 1024;
/// What may reach the device for an append.
const DEVICE_BYTES: f64 = 16384.0;
/// What the slowest append may take, in median ones, or else in slowest ones of the limit.
const SLOWEST_OF_MEDIAN: f64 = 20.0;
const SLOWEST_OF_LIMIT: f64 = 2.0;

fn main() -> ExitCode {
    let mut bench = Bench::new();
    let one = Row {
        group: "durable",
        name: "1 thread",
        show: Show::Rate,
        limits: &["limit, pwrite and fdatasync"],
        bars: &[Bar::Rate { of: &[0], at_least: 0.95 }],
        measured_for: Duration::from_secs(8),
    };
    bench.row(&one, one_thread);
    let group = Row { limits: &["limit, group commit"], ..one };
    bench.row(&Row { name: "8 threads, 1 partition", ..group }, || one_partition(8));
    bench.row(&Row { name: "64 threads, 1 partition", ..group }, || one_partition(64));
    let spread = Row {
        name: "64 threads, 64 partitions",
        limits: &["limit, a file each"],
        bars: &[Bar::Rate { of: &[0], at_least: 0.90 }],
        ..one
    };
    bench.row(&spread, || a_partition_each(64));
    bench.finish()
}

/// A store that lives as long as a row.
struct Store {
    _broker: Broker,
    topic: Topic,
    producer: Producer,
}

impl Store {
    fn send(&self, record: Record<'_>) {
        black_box(self.producer.send(&self.topic, record).expect("sent"));
    }
}

fn store(dir: &Path, partitions: u32) -> Store {
    let broker = Broker::open(dir.join("store")).expect("opened");
    let config = TopicConfig::new().partitions(partitions);
    let topic = broker.create_topic("bench", config).expect("created");
    let producer = broker.producer().build().expect("built");
    Store { _broker: broker, topic, producer }
}

/// Appends one batch after the other to allocated files, and syncs each.
struct Raw {
    segments: bare::Segments,
    file: File,
    at: u64,
    batch: Vec<u8>,
}

impl Raw {
    fn new(path: &Path) -> Self {
        let mut segments = bare::Segments::new(path);
        let file = segments.file();
        let mut batch = vec![0; bare::batch_bytes(1, VALUE.len())];
        bare::frame(&mut batch, 0, 1, &VALUE);
        Self { segments, file, at: 0, batch }
    }

    fn append(&mut self) {
        if self.at + self.batch.len() as u64 > bare::SEGMENT_BYTES as u64 {
            (self.file, self.at) = (self.segments.file(), 0);
        }
        self.file.write_all_at(&self.batch, self.at).expect("written");
        sync(&self.file);
        self.at += self.batch.len() as u64;
    }
}

#[expect(clippy::disallowed_methods, reason = "the limit is a bare fdatasync")]
fn sync(file: &File) {
    file.sync_data().expect("synced");
}

fn one_thread() -> Sides {
    let dir = support::folder();
    let mut raw = Raw::new(&dir.path().join("raw"));
    let store = store(dir.path(), 1);
    let device = Device::of(dir.path());
    // What reached the device for each append, by side and round.
    let reached = Rc::new(RefCell::new([Vec::new(), Vec::new()]));
    let counted = move |device: &Option<Device>, into: &mut Vec<f64>, appends: &mut dyn FnMut()| {
        let before = device.as_ref().map(Device::written);
        let begun = Instant::now();
        appends();
        let took = begun.elapsed();
        if let (Some(device), Some(before)) = (device, before) {
            into.push(float(device.written() - before) / float(APPENDS));
        }
        Run::new(APPENDS, took)
    };
    let (seen, there) = (Rc::clone(&reached), device.clone());
    let limit: Side = Box::new(move || {
        counted(&there, &mut seen.borrow_mut()[0], &mut || (0..APPENDS).for_each(|_| raw.append()))
    });
    let (seen, there) = (Rc::clone(&reached), device.clone());
    let ours: Side = Box::new(move || {
        // Removed with the side.
        let _ = &dir;
        counted(&there, &mut seen.borrow_mut()[1], &mut || {
            for _ in 0..APPENDS {
                store.send(Record::new(&VALUE));
            }
        })
    });
    let finish = move || {
        if device.is_none() {
            let text = "SKIPPED: the kernel does not tell what reaches the device".to_owned();
            return vec![Check { text, met: true }];
        }
        let [limit, ours] = reached.borrow().clone().map(quartiles);
        let text = format!(
            "reached the device: {:.0} bytes an append ({:.0} to {:.0}), limit {:.0}, \
             bar at most {DEVICE_BYTES}",
            ours[1], ours[0], ours[2], limit[1]
        );
        vec![Check { text, met: ours[1] <= DEVICE_BYTES }]
    };
    Sides { sides: vec![limit, ours], finish: Box::new(finish) }
}

/// The counters of the device that holds a folder.
#[derive(Clone)]
struct Device(PathBuf);

impl Device {
    /// None if they cannot be read: not Linux, or a file system without a device of its own.
    fn of(dir: &Path) -> Option<Self> {
        let number = dir.metadata().ok()?.dev();
        let major = (number >> 8 & 0xfff) | (number >> 32 & !0xfff);
        let minor = (number & 0xff) | (number >> 12 & 0xfff_ff00);
        let device = Self(PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat")));
        device.read().map(|_| device)
    }

    fn read(&self) -> Option<u64> {
        let counters = std::fs::read_to_string(&self.0).ok()?;
        // Sectors written, of 512 bytes whatever the device's own are.
        let sectors: u64 = counters.split_whitespace().nth(6)?.parse().ok()?;
        Some(sectors * 512)
    }

    /// How many bytes were written to it since it was attached.
    fn written(&self) -> u64 {
        self.read().expect("read before")
    }
}

/// A bare group commit.
struct Group {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Used in turn with the buffer.
    spare: Vec<u8>,
    /// Bytes appended, and bytes synced.
    end: u64,
    synced: u64,
    syncing: bool,
}

impl Group {
    fn append(&self, batch: &[u8]) {
        let mut state = self.state.lock();
        state.buffer.extend_from_slice(batch);
        state.end += batch.len() as u64;
        let end = state.end;
        while state.synced < end {
            if state.syncing {
                self.changed.wait(&mut state);
                continue;
            }
            state.syncing = true;
            let spare = std::mem::take(&mut state.spare);
            let mut buffer = std::mem::replace(&mut state.buffer, spare);
            let (from, upto) = (state.synced, state.end);
            drop(state);
            self.file.write_all_at(&buffer, from % bare::SEGMENT_BYTES as u64).expect("written");
            sync(&self.file);
            buffer.clear();
            state = self.state.lock();
            state.spare = buffer;
            state.synced = upto;
            state.syncing = false;
            self.changed.notify_all();
        }
    }
}

fn one_partition(count: u64) -> Sides {
    let dir = support::folder();
    let mut segments = bare::Segments::new(&dir.path().join("group"));
    let file = segments.file();
    let group = Group { file, state: Mutex::default(), changed: Condvar::new() };
    let mut batch = vec![0; bare::batch_bytes(1, VALUE.len())];
    bare::frame(&mut batch, 0, 1, &VALUE);
    let store = store(dir.path(), 1);
    let latencies = Rc::new(RefCell::new([Vec::new(), Vec::new()]));
    let seen = Rc::clone(&latencies);
    let limit: Side = Box::new(move || {
        // Removed with the side.
        let _ = &segments;
        let (run, each) = support::threads(count, GROUPED, |_| group.append(&batch));
        seen.borrow_mut()[0].extend(each);
        run
    });
    let seen = Rc::clone(&latencies);
    let ours: Side = Box::new(move || {
        let _ = &dir;
        let (run, each) = support::threads(count, GROUPED, |_| {
            store.send(Record::new(&VALUE));
        });
        seen.borrow_mut()[1].extend(each);
        run
    });
    let finish = move || {
        let [limit, ours] = latencies.take().map(|mut each| {
            each.sort_unstable();
            [0.5, 0.99, 1.0].map(|share| float(quantile(&each, share)))
        });
        let told = |name, [p50, p99, slowest]: [f64; 3]| {
            let [p50, p99, slowest] = [p50, p99, slowest].map(|ns| support::time(ns / 1e9));
            Check { text: format!("{name}: median {p50}, p99 {p99}, slowest {slowest}"), met: true }
        };
        let (of_median, of_limit) = (ours[2] / ours[0], ours[2] / limit[2]);
        let text = format!(
            "slowest append: {of_median:.1} x the median (bar {SLOWEST_OF_MEDIAN}) or \
             {of_limit:.2} x the limit's slowest (bar {SLOWEST_OF_LIMIT})"
        );
        let met = of_median <= SLOWEST_OF_MEDIAN || of_limit <= SLOWEST_OF_LIMIT;
        vec![told("limit's appends", limit), told("appends", ours), Check { text, met }]
    };
    Sides { sides: vec![limit, ours], finish: Box::new(finish) }
}

fn a_partition_each(count: u32) -> Sides {
    let dir = support::folder();
    let raw: Vec<Mutex<Raw>> = (0..count)
        .map(|number| Mutex::new(Raw::new(&dir.path().join(format!("raw-{number}")))))
        .collect();
    let store = store(dir.path(), count);
    let limit: Side = Box::new(move || {
        let append = |number: u64| raw[usize::try_from(number).expect("a few")].lock().append();
        support::threads(u64::from(count), SPREAD, append).0
    });
    let ours: Side = Box::new(move || {
        let _ = &dir;
        let append = |number: u64| {
            let partition = u32::try_from(number).expect("a few");
            store.send(Record::new(&VALUE).partition(partition));
        };
        support::threads(u64::from(count), SPREAD, append).0
    });
    Sides::new(vec![limit, ours])
}
