//! The races of a log under a model checker: the real code on the simulated disk, with `shuttle`
//! choosing at every lock, condition variable and atomic who goes on.
//!
//! Not here: memory orderings. The checker runs one thread at a time and shows every store at once:
//! what it finds is a wrong order of steps, not a missing fence.
//!
//! What is modelled
//!   1. A sleeper never misses what was published.
//!   2. Who appends at `Fsync` goes on only when a power cut would leave the record; one sync at a
//!      time; a sync that fails reaches everyone who waits.
//!   3. Appends that roll, seals, looks ahead (which zero blocks at `Fsync`), and a reader, all at
//!      once: nothing is lost, nothing is read twice, and the next open finds the same.
//!
//! Only with `--cfg plimsoll_model`: `scripts/models.sh`. Half of the iterations choose at random,
//! half by priorities that change a few times. `PLIMSOLL_ITERATIONS` says how many. A failure
//! prints the schedule.

use std::env;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use shuttle::{Config, Runner};

use crate::config::{Durability, FETCH_BYTES, Reads};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::fs::{Disk, DiskFile, FileLayer, Layer};
use crate::id::{LeaderEpoch, Offset};
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::event::{Event, Watchers};
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening};
use crate::log::retain::Keep;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::bench::{Setting, opening, read_all};

/// How many changes of priority find what there is to be found: most races need two or three.
const CHANGES: usize = 3;

fn explore(model: fn()) {
    let given = env::var("PLIMSOLL_ITERATIONS").ok().and_then(|given| given.parse().ok());
    let iterations: usize = given.unwrap_or(300);
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(iterations.div_ceil(2)), config.clone()).run(model);
    Runner::new(PctScheduler::new(CHANGES, iterations / 2), config).run(model);
}

/// The simulated disk, but every call to a file lets others go on before it, and no two syncs go to
/// one file at a time.
#[derive(Clone, Debug)]
struct SlowDisk {
    disk: SimDisk,
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn DiskFile>,
    syncing: AtomicBool,
}

impl SlowDisk {
    fn new(disk: &SimDisk) -> Self {
        Self { disk: disk.clone() }
    }
}

impl Layer for SlowDisk {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn opened(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SlowFile { file, syncing: AtomicBool::new(false) })
    }
}

impl FileLayer for SlowFile {
    fn below(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    fn before(&self) {
        thread::yield_now();
    }

    fn before_set_len(&self) {
        // For so long that others get far.
        for _ in 0..shuttle::rand::thread_rng().gen_range(0..200) {
            thread::yield_now();
        }
    }

    fn sync_bytes(&self) -> io::Result<()> {
        assert!(!self.syncing.swap(true, Ordering::SeqCst), "two syncs of a file at a time");
        thread::yield_now();
        let synced = self.file.sync_data();
        self.syncing.store(false, Ordering::SeqCst);
        synced
    }
}

/// A disk with the volume's folder for logs, whose own name a volume has synced.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("topics")).expect("made");
    disk.sync_dir(Path::new("")).expect("synced");
    disk
}

fn open(disk: &SimDisk, durability: Durability, incarnation: u64) -> Arc<Log> {
    open_as(disk, Setting { durability, ..Setting::default() }, incarnation)
}

fn open_as(disk: &SimDisk, setting: Setting, incarnation: u64) -> Arc<Log> {
    let opening = opening(disk, setting, incarnation, Mode::ReadWrite);
    let opening = Opening { disk: Arc::new(SlowDisk::new(disk)), ..opening };
    let (log, _) = Log::open(opening, Entrance::Unclean).expect("it opens");
    log.lead(LeaderEpoch::new(u32::try_from(incarnation).expect("small")));
    log
}

fn append(log: &Log, value: &[u8]) -> Result<Offset> {
    let appended = log.append(&[Record::new(value)])?;
    if log.options.durability == Durability::Fsync {
        log.sync_to(appended.end)?;
    } else {
        log.watchers.moved();
    }
    Ok(appended.end)
}

/// The first byte of each value.
fn labels(log: &Log) -> Vec<u8> {
    let found = read_all(log, Reads::Mapped).expect("it can be read");
    found.records.iter().map(|record| record.value[0]).collect()
}

#[test]
fn a_sleeper_never_misses_what_was_published() {
    explore(|| {
        let watchers = Arc::new(Watchers::default());
        let end = Arc::new(AtomicU64::new(0));
        let publisher = {
            let (watchers, end) = (Arc::clone(&watchers), Arc::clone(&end));
            thread::spawn(move || {
                for round in 1..=2 {
                    end.store(round, Ordering::Release);
                    watchers.moved();
                }
            })
        };
        let event = Arc::new(Event::default());
        let mut seen = 0;
        while seen < 2 {
            let ticket = event.ticket();
            let _sleeper = watchers.sleep(&event);
            if end.load(Ordering::Acquire) == seen {
                // A wake-up that is lost leaves nobody to go on: the checker tells.
                event.wait(ticket, None);
            }
            seen = end.load(Ordering::Acquire);
        }
        publisher.join().expect("it does not panic");
    });
}

#[test]
fn a_reader_of_a_log_wakes_for_every_append() {
    explore(|| {
        let log = open(&disk(), Durability::Fsync, 1);
        let writer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for i in 0..2 {
                    append(&log, &[i]).expect("appended");
                }
            })
        };
        let event = Arc::new(Event::default());
        let mut cursor = ReadCursor::at(Offset::ZERO);
        while cursor.offset() < Offset::new(2) {
            let ticket = event.ticket();
            let end = log.committed_end();
            let read = log.read(&mut cursor, end, FETCH_BYTES, Reads::Mapped).expect("read");
            if read.is_none() {
                let _sleeper = log.watchers.sleep(&event);
                if log.committed_end() == cursor.offset() {
                    event.wait(ticket, None);
                }
            }
        }
        writer.join().expect("it does not panic");
    });
}

#[test]
fn who_appends_goes_on_when_it_is_durable() {
    explore(|| {
        let disk = disk();
        let log = open(&disk, Durability::Fsync, 1);
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let writers: Vec<_> = (0..3)
            .map(|i| {
                let (disk, log, cuts) = (disk.clone(), Arc::clone(&log), Arc::clone(&cuts));
                thread::spawn(move || {
                    let end = append(&log, &[i]).expect("appended");
                    cuts.lock().push((i, end, disk.crash(&Loss::All)));
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("it does not panic");
        }
        let cuts = std::mem::take(&mut *cuts.lock());
        assert_eq!(cuts.len(), 3);
        for (i, end, disk) in cuts {
            let log = open(&disk, Durability::Fsync, 2);
            let at = usize::try_from(end.get()).expect("small") - 1;
            assert_eq!(labels(&log).get(at), Some(&i), "acknowledged, and not on the medium");
        }
    });
}

#[test]
fn a_sync_that_fails_reaches_everyone_who_waits() {
    explore(|| {
        let disk = disk();
        let log = open(&disk, Durability::Fsync, 1);
        append(&log, &[9]).expect("appended");
        disk.arm(Fault {
            at: 1,
            call: Some(Call::SyncData),
            what: FaultKind::Eio,
            how_long: HowLong::Once,
        });
        let writers: Vec<_> = (0..3)
            .map(|i| {
                let log = Arc::clone(&log);
                thread::spawn(move || append(&log, &[i]))
            })
            .collect();
        for writer in writers {
            let appended = writer.join().expect("it does not panic");
            assert!(matches!(appended, Err(Error::Halted { .. })), "{appended:?}");
        }
        assert_eq!(log.durable_offset(), Offset::new(1));
        assert_eq!(labels(&log), [9]);
    });
}

#[test]
fn nothing_is_lost_while_files_begin_and_end() {
    explore(|| everything_at_once(OS));
}

#[test]
fn nothing_is_lost_while_blocks_are_zeroed() {
    explore(|| everything_at_once(Setting::default()));
}

#[test]
fn nothing_is_lost_where_blocks_cannot_be_reserved() {
    explore(|| everything_at_once(Setting { allocates: false, ..OS }));
}

/// 1. Who looks ahead finds a file short. 2. Appends make it longer, twice, and write there. 3. The
/// length that was to be set cuts it.
#[test]
fn who_looks_ahead_cuts_no_batch_off() {
    const RECORDS: u8 = 6;
    explore(|| {
        let opening = opening(&disk(), Setting { allocates: false, ..OS }, 1, Mode::ReadWrite);
        let disk = SlowDisk::new(&disk());
        let options = LogOptions { segment_bytes: 1 << 20, ..opening.options };
        let opening = Opening { disk: Arc::new(disk), options, ..opening };
        let (log, _) = Log::open(opening, Entrance::Unclean).expect("it opens");
        log.lead(LeaderEpoch::new(1));
        append(&log, &[0; 1000]).expect("appended");
        let looks = {
            let log = Arc::clone(&log);
            thread::spawn(move || (0..2).for_each(|_| log.look_ahead()))
        };
        for i in 1..RECORDS {
            append(&log, &vec![i; 30_000]).expect("appended");
        }
        looks.join().expect("it does not panic");
        assert_eq!(labels(&log), (0..RECORDS).collect::<Vec<_>>());
    });
}

const OS: Setting = Setting { durability: Durability::Os, allocates: true, keep: Keep::ALL };

fn everything_at_once(setting: Setting) {
    const RECORDS: u8 = 5;
    let disk = disk();
    let log = open_as(&disk, setting, 1);
    let spawn = |work: fn(&Log)| {
        let log = Arc::clone(&log);
        thread::spawn(move || work(&log))
    };
    let threads = [
        // Two fill a file.
        spawn(|log| {
            for i in 0..RECORDS {
                append(log, &vec![i; 1_500]).expect("appended");
            }
        }),
        spawn(|log| {
            for _ in 0..3 {
                log.housekeep(Duration::ZERO).1.expect("done");
            }
        }),
        spawn(|log| (0..3).for_each(|_| log.look_ahead())),
        spawn(|log| {
            let mut cursor = ReadCursor::at(Offset::ZERO);
            let mut expected = 0;
            while expected < RECORDS {
                let end = log.committed_end();
                let read = log.read(&mut cursor, end, FETCH_BYTES, Reads::Mapped);
                for record in read.expect("read").iter().flat_map(|chunk| chunk.records()) {
                    assert_eq!(record.offset, Offset::new(u64::from(expected)));
                    let value = record.record.value.expect("it has one");
                    assert!(value == vec![expected; 1_500], "not what was appended");
                    expected += 1;
                }
                thread::yield_now();
            }
        }),
    ];
    for thread in threads {
        thread.join().expect("it does not panic");
    }
    assert!(log.segments().len() > 1, "no file began");
    log.close().expect("closed");
    drop(log);
    let log = open_as(&disk, setting, 2);
    assert_eq!(labels(&log), (0..RECORDS).collect::<Vec<_>>());
}
