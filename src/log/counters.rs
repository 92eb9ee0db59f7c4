//! What a log has done since it was opened, counted beside what does it.
//!
//! Not here: what is made of it (`broker::metrics`), and what its files hold now (`figures`).
//!
//! Threads   appends are counted by who holds the log's writer lock: a relaxed load and store
//!           each, no locked instruction. The rest is counted by any thread. Everything is
//!           relaxed: the counts order nothing, and a look may miss what is under way.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::id::Offset;
use crate::log::histogram::{Histogram, Recorder, add_alone};
use crate::log::producers::ProducerTable;
use crate::log::writer::Active;

/// Nothing was appended yet.
const NEVER: i64 = i64::MIN;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    appends: Appends,
    fetches: Fetches,
    syncs_failed: AtomicU64,
    duplicates: AtomicU64,
    halt_told: AtomicBool,
    /// Made by the first sync: of ten thousand partitions most may be idle.
    sync_latency_us: OnceLock<Box<Recorder>>,
}

/// In cache lines of their own: a consumer that counts must not slow an append down.
#[derive(Debug)]
#[repr(align(64))]
struct Appends {
    records: AtomicU64,
    saved_bytes: AtomicU64,
    time: AtomicI64,
    /// How many producers the log knows.
    producers: AtomicUsize,
    /// Its count and sum are the batches and bytes appended. Made by the first append.
    batch_bytes: OnceLock<Box<Recorder>>,
}

impl Default for Appends {
    fn default() -> Self {
        Self {
            records: AtomicU64::new(0),
            saved_bytes: AtomicU64::new(0),
            time: AtomicI64::new(NEVER),
            producers: AtomicUsize::new(0),
            batch_bytes: OnceLock::new(),
        }
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Fetches {
    found: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
}

/// The counts of a log, or of several together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) records_appended: u64,
    pub(crate) bytes_appended: u64,
    pub(crate) bytes_saved: u64,
    pub(crate) batches_appended: u64,
    pub(crate) fetches: u64,
    pub(crate) records_fetched: u64,
    pub(crate) bytes_fetched: u64,
    pub(crate) syncs_failed: u64,
    pub(crate) duplicates: u64,
    pub(crate) batch_bytes: Histogram,
    pub(crate) sync_latency_us: Histogram,
}

impl Counters {
    /// A batch was appended. The active file stands for the writer lock.
    #[inline]
    pub(crate) fn appended(&self, _locked: &mut Active, records: u64, bytes: u64, time: i64) {
        let appends = &self.appends;
        add_alone(&appends.records, records);
        appends.time.store(time, Ordering::Relaxed);
        appends.batch_bytes.get_or_init(Box::default).record_alone(bytes);
    }

    /// The log knows so many producers: told by who holds the writer lock.
    #[inline]
    pub(crate) fn knows(&self, producers: &ProducerTable) {
        self.appends.producers.store(producers.len(), Ordering::Relaxed);
    }

    /// How many producers the log knows.
    pub(crate) fn known_producers(&self) -> u64 {
        self.appends.producers.load(Ordering::Relaxed) as u64
    }

    /// The batch was compressed, and is so much smaller. The active file stands for the writer
    /// lock.
    pub(crate) fn saved(&self, _locked: &mut Active, bytes: u64) {
        add_alone(&self.appends.saved_bytes, bytes);
    }

    /// Batches were handed out: the records from one offset up to another.
    #[inline]
    pub(crate) fn fetched(&self, from: Offset, next: Offset, bytes: usize) {
        let fetches = &self.fetches;
        fetches.found.fetch_add(1, Ordering::Relaxed);
        fetches.records.fetch_add(from.distance_to(next), Ordering::Relaxed);
        fetches.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A file was synced.
    pub(crate) fn synced(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sync_latency_us.get_or_init(Box::default).record(took_us);
    }

    /// A sync of a file or folder failed.
    pub(crate) fn sync_failed(&self) {
        self.syncs_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// So many records of an append were there before.
    pub(crate) fn duplicates(&self, count: u64) {
        self.duplicates.fetch_add(count, Ordering::Relaxed);
    }

    /// True for the first who asks.
    pub(crate) fn first_halt(&self) -> bool {
        !self.halt_told.swap(true, Ordering::Relaxed)
    }

    /// When the last batch was appended, if one was since the open.
    pub(crate) fn append_time(&self) -> Option<i64> {
        Some(self.appends.time.load(Ordering::Relaxed)).filter(|time| *time != NEVER)
    }

    /// What was counted so far.
    pub(crate) fn look(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let histogram = |cell: &OnceLock<Box<Recorder>>| {
            cell.get().map_or_else(Histogram::default, |recorder| recorder.look())
        };
        let batch_bytes = histogram(&self.appends.batch_bytes);
        Counts {
            records_appended: load(&self.appends.records),
            bytes_appended: batch_bytes.sum(),
            bytes_saved: load(&self.appends.saved_bytes),
            batches_appended: batch_bytes.count(),
            fetches: load(&self.fetches.found),
            records_fetched: load(&self.fetches.records),
            bytes_fetched: load(&self.fetches.bytes),
            syncs_failed: load(&self.syncs_failed),
            duplicates: load(&self.duplicates),
            batch_bytes,
            sync_latency_us: histogram(&self.sync_latency_us),
        }
    }
}

impl Counts {
    /// Counts another log's too.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.records_appended += other.records_appended;
        self.bytes_appended += other.bytes_appended;
        self.bytes_saved += other.bytes_saved;
        self.batches_appended += other.batches_appended;
        self.fetches += other.fetches;
        self.records_fetched += other.records_fetched;
        self.bytes_fetched += other.bytes_fetched;
        self.syncs_failed += other.syncs_failed;
        self.duplicates += other.duplicates;
        self.batch_bytes.merge(&other.batch_bytes);
        self.sync_latency_us.merge(&other.sync_latency_us);
    }
}
