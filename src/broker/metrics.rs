//! [`Metrics`]: what a broker has done since it was opened, and what it holds, at one moment.
//!
//! Not here: the counters themselves, which lie beside what they count (`log::counters`), and
//! rates, which are the difference of two snapshots.
//!
//! Threads   any. A snapshot takes no lock that is held during I/O: it tells of a broker whose
//!           disk hangs, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::broker::broker::{Broker, Inner};
use crate::broker::topic::TopicState;
use crate::id::{Offset, PartitionId, VolumeId};
use crate::log::{Counts, Histogram, Pinned, Removed};
use crate::partition::{Partition, Replica};

/// A snapshot of what a broker has done and holds; see `Broker::metrics`.
///
/// Counts begin at 0 with every open and only rise. A rate is the difference of two snapshots by
/// that of their `time`. `docs/metrics.md` lists them all.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// When it was taken, in milliseconds since the Unix epoch, by the broker's clock.
    pub time: i64,
    /// When the broker was opened, by the same clock.
    pub opened: i64,
    /// Of each partition, by topic name and number.
    pub partitions: Vec<PartitionMetrics>,
    /// How many topics there are.
    pub topics: u64,
    /// Records appended since the open, those of deleted topics included.
    pub records_appended: u64,
    /// Bytes of the batches appended, with all that is stored of them.
    pub bytes_appended: u64,
    /// By how much compression has made them smaller: without it they would take this and
    /// `bytes_appended`.
    pub bytes_saved: u64,
    /// Batches appended.
    pub batches_appended: u64,
    /// Fetches that found something: each hands out batches of one partition.
    pub fetches: u64,
    /// Records that fetches handed out.
    pub records_fetched: u64,
    /// Bytes of the batches that fetches handed out, as they are stored.
    pub bytes_fetched: u64,
    /// How large the appended batches were, in bytes.
    pub batch_bytes: Histogram,
    /// How long the syncs of segment files took that went well, in microseconds. Its count is
    /// how many there were.
    pub sync_latency_us: Histogram,
    /// Syncs of segment files and their folders that failed. Each halts its log.
    pub syncs_failed: u64,
    /// Records that were not appended, since the log had them already: see
    /// [`TopicConfig::dedup`](crate::TopicConfig::dedup).
    pub duplicates: u64,
    /// Logs that take no more appends because of a failure.
    pub logs_halted: u64,
    /// How often queued batches were tried again after a failure that may pass.
    pub retries: u64,
    /// Calls of producers that were refused because somebody else has their name.
    pub fenced: u64,
    /// Partitions with fewer replicas in sync than they have.
    pub under_replicated: u64,
    /// Partitions that nobody leads: they take nothing.
    pub offline: u64,
    /// Volumes that were put out since the open, as they failed or fell silent.
    pub volumes_put_out: u64,
    /// How often a volume was waited for, as it was silent and could not be done without.
    pub volumes_waited_for: u64,
    /// By how many milliseconds the checks of volumes came too late since the open, all in all: so
    /// much longer each volume was given.
    pub checks_late_ms: u64,
    /// Elections of leaders since the open.
    pub elections: u64,
    /// Those of them in which a replica was elected that was not in sync: what was committed may
    /// be lost. See `TopicConfig::unclean_leader_election`.
    pub unclean_elections: u64,
    /// How often replicas left the in-sync sets, and joined them.
    pub isr_shrinks: u64,
    /// See `isr_shrinks`.
    pub isr_expands: u64,
    /// Bytes that scrubs read again since the open.
    pub bytes_scrubbed: u64,
    /// Damaged ranges that readers and scrubs met since the open, on any replica. One that cannot
    /// be mended is met again.
    pub damage_found: u64,
    /// How many of them were mended from another replica.
    pub damage_mended: u64,
    /// Offsets that are known to be unreadable on some replica, and are not mended.
    pub damaged_offsets: u64,
    /// The last close was a clean one, so the open had nothing to scan.
    pub opened_clean: bool,
    /// Torn tails that the open cut off.
    pub tails_cut: u64,
    /// Damaged ranges that the open found.
    pub damaged_ranges: u64,
    /// Segment files that are mapped to be read or written.
    pub mappings: u64,
    /// Segment files that are held open.
    pub descriptors: u64,
    /// Segment files that views hold: fetched records that were not dropped yet.
    pub segments_pinned: u64,
    /// Bytes of removed files that views hold: the disk gets them back when those are dropped.
    pub deleted_bytes_pinned: u64,
    /// The one of the files that views hold whose last record is oldest.
    pub oldest_pinned: Option<PinnedSegment>,
}

/// What [`Metrics`] tells of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionMetrics {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The first offset still kept.
    pub log_start_offset: Offset,
    /// Everything below it is committed; consumers read only below it.
    pub high_watermark: Offset,
    /// Everything below it is on the medium.
    pub durable_offset: Offset,
    /// The next offset to be written. Of a broker opened read-only: the end of what is known to be
    /// durable.
    pub log_end_offset: Offset,
    /// The offset after the last whole batch in the files: the log end offset, but of a broker
    /// opened read-only, beside a live one, also what is not known to be durable yet.
    pub seen_end_offset: Offset,
    /// Records appended since the open.
    pub records_appended: u64,
    /// Bytes of the batches appended, with all that is stored of them.
    pub bytes_appended: u64,
    /// By how much compression has made them smaller.
    pub bytes_saved: u64,
    /// Batches appended.
    pub batches_appended: u64,
    /// When the last batch was appended, before the open too, in milliseconds since the Unix epoch;
    /// `None` if the log is empty.
    pub last_append_time: Option<i64>,
    /// Fetches that found something.
    pub fetches: u64,
    /// Records that they handed out.
    pub records_fetched: u64,
    /// Bytes of the batches that they handed out.
    pub bytes_fetched: u64,
    /// Syncs of its segment files that went well.
    pub syncs: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Records that were not appended, since the log had them already: see
    /// [`TopicConfig::dedup`](crate::TopicConfig::dedup).
    pub duplicates: u64,
    /// Segment files.
    pub segments: u64,
    /// Length of the segment files together. What is allocated ahead counts, indexes too.
    pub bytes_on_disk: u64,
    /// Segment files that are mapped.
    pub mappings: u64,
    /// Segment files that are held open.
    pub descriptors: u64,
    /// Producers that the log knows: their rows are in each of its files. Those without a name go
    /// some time after they were dropped.
    pub producers: u64,
    /// It takes no more appends because of a failure.
    pub halted: bool,
    /// How many replicas it has.
    pub replicas: u64,
    /// How many of them are in sync.
    pub in_sync: u64,
    /// The volume whose replica leads; `None` while none can.
    pub leader: Option<VolumeId>,
}

/// A segment file that views hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedSegment {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The first offset of the file.
    pub base_offset: Offset,
    /// Its length.
    pub bytes: u64,
    /// When its last batch was appended, in milliseconds since the Unix epoch, as far as known: of
    /// the file being written, as of when it was begun or opened.
    pub last_append_time: Option<i64>,
    /// It was removed: its bytes are free once no view holds it.
    pub deleted: bool,
}

/// What is remembered of deleted topics.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    /// Held while a topic goes from those that are there to the retired ones, and while both are
    /// counted, so that a snapshot has each of them once. Lock rank: 2.
    state: Mutex<RetiredState>,
}

#[derive(Debug, Default)]
struct RetiredState {
    counts: Counts,
    /// Logs with removed files that views may hold.
    pinned: Vec<(Arc<str>, PartitionId, Arc<Removed>)>,
}

impl Retired {
    /// A topic was deleted, and its logs take nothing more: `remove` takes it from those that are
    /// there.
    pub(crate) fn add(&self, topic: &TopicState, remove: impl FnOnce()) {
        let mut state = self.state.lock();
        remove();
        // Nobody may ever ask what is pinned.
        state.pinned.retain(|(_, _, removed)| !removed.look().is_empty());
        for partition in topic.partitions.iter() {
            let log = partition.log();
            state.counts.add(&log.counters.look());
            if !log.removed.look().is_empty() {
                let place = (Arc::clone(&topic.name), log.place.partition());
                state.pinned.push((place.0, place.1, Arc::clone(&log.removed)));
            }
        }
    }

    /// The topics that are there, the counts of those and of the retired ones, and what is still
    /// pinned of the latter.
    fn look(
        &self,
        live: impl FnOnce() -> Vec<Arc<TopicState>>,
        pins: &mut Pins,
    ) -> (Vec<Arc<TopicState>>, Counts) {
        let mut state = self.state.lock();
        state.pinned.retain(|(topic, partition, removed)| {
            let pinned = removed.look();
            pins.add(topic, *partition, &pinned);
            !pinned.is_empty()
        });
        let (topics, mut counts) = (live(), state.counts.clone());
        for partition in topics.iter().flat_map(|topic| topic.partitions.iter()) {
            counts.add(&partition.log().counters.look());
        }
        (topics, counts)
    }
}

/// What views hold, added up.
#[derive(Debug, Default)]
struct Pins {
    segments: u64,
    deleted_bytes: u64,
    oldest: Option<PinnedSegment>,
}

impl Pins {
    fn add(&mut self, topic: &Arc<str>, partition: PartitionId, pinned: &[Pinned]) {
        for file in pinned {
            self.segments += 1;
            if file.deleted {
                self.deleted_bytes += file.bytes;
            }
            // What nothing is known of is being written: the newest.
            let age = |time: Option<i64>| time.unwrap_or(i64::MAX);
            let older =
                |oldest: &PinnedSegment| age(file.append_time) < age(oldest.last_append_time);
            if self.oldest.as_ref().is_none_or(older) {
                self.oldest = Some(PinnedSegment {
                    topic: Arc::clone(topic),
                    partition,
                    base_offset: file.base,
                    bytes: file.bytes,
                    last_append_time: file.append_time,
                    deleted: file.deleted,
                });
            }
        }
    }
}

impl Broker {
    /// What the broker has done since it was opened, and what it holds. All zero in a forked child.
    ///
    /// Always on: what is counted costs an append a few nanoseconds. The snapshot itself looks at
    /// every partition and every segment, and waits for no append, sync or fetch.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// use plimsoll::{Broker, Record, TopicConfig};
    ///
    /// let broker = Broker::open(dir.path())?;
    /// let orders = broker.ensure_topic("orders", TopicConfig::new())?;
    /// broker.producer().build()?.send(&orders, Record::new("paid"))?;
    ///
    /// let metrics = broker.metrics();
    /// assert_eq!((metrics.records_appended, metrics.batches_appended), (1, 1));
    /// assert!(metrics.sync_latency_us.count() >= 1, "an acknowledged record is on disk");
    /// let partition = metrics.partition("orders", 0).expect("it has one");
    /// assert_eq!(partition.high_watermark, partition.log_end_offset);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.inner().metrics()
    }
}

impl Metrics {
    /// What is told of one partition; `None` if there is no such.
    #[must_use]
    pub fn partition(
        &self,
        topic: &str,
        partition: impl Into<PartitionId>,
    ) -> Option<&PartitionMetrics> {
        let partition = partition.into();
        self.partitions.iter().find(|p| *p.topic == *topic && p.partition == partition)
    }
}

impl Inner {
    pub(crate) fn metrics(&self) -> Metrics {
        // Nothing is locked in a forked child, and nothing is counted there.
        if self.check_fork().is_err() {
            return Metrics::default();
        }
        let mut pins = Pins::default();
        let (topics, counts) = self.retired.look(|| self.topic_states(), &mut pins);
        let mut partitions = Vec::new();
        let mut damaged_offsets = 0;
        for topic in &topics {
            for partition in topic.partitions.iter() {
                damaged_offsets += partition.replicas().map(Replica::damaged_offsets).sum::<u64>();
                let counted = partition.log().counters.look();
                for log in partition.logs() {
                    pins.add(&topic.name, log.place.partition(), &log.pinned());
                }
                let replicas = topic.config().replicas_or_default();
                partitions.push(look(&topic.name, partition, &counted, replicas.into()));
            }
        }
        let report = self.report();
        let decided = &self.controller().counts;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let (retries, fenced) = self.producer_counts.look();
        let sum = |of: fn(&PartitionMetrics) -> u64| partitions.iter().map(of).sum();
        Metrics {
            time: self.clock().now_ms(),
            opened: self.opened,
            topics: topics.len() as u64,
            records_appended: counts.records_appended,
            bytes_appended: counts.bytes_appended,
            bytes_saved: counts.bytes_saved,
            batches_appended: counts.batches_appended,
            fetches: counts.fetches,
            records_fetched: counts.records_fetched,
            bytes_fetched: counts.bytes_fetched,
            batch_bytes: counts.batch_bytes,
            sync_latency_us: counts.sync_latency_us,
            syncs_failed: counts.syncs_failed,
            duplicates: counts.duplicates,
            logs_halted: sum(|p| u64::from(p.halted)),
            retries,
            fenced,
            under_replicated: sum(|p| u64::from(p.in_sync < p.replicas)),
            offline: sum(|p| u64::from(p.leader.is_none())),
            volumes_put_out: count(&decided.put_out),
            volumes_waited_for: count(&decided.waited_for),
            checks_late_ms: count(&decided.late_ms),
            elections: count(&decided.elections),
            unclean_elections: count(&decided.unclean_elections),
            isr_shrinks: count(&decided.isr_shrinks),
            isr_expands: count(&decided.isr_expands),
            bytes_scrubbed: count(&decided.bytes_scrubbed),
            damage_found: count(&decided.damage_found),
            damage_mended: count(&decided.damage_mended),
            damaged_offsets,
            opened_clean: report.clean,
            tails_cut: report.tails.len() as u64,
            damaged_ranges: report.damage.len() as u64,
            mappings: sum(|p| p.mappings),
            descriptors: sum(|p| p.descriptors),
            segments_pinned: pins.segments,
            deleted_bytes_pinned: pins.deleted_bytes,
            oldest_pinned: pins.oldest,
            partitions,
        }
    }
}

/// The offsets are looked at in the order in which they lie, so that a snapshot keeps it (I4).
fn look(
    topic: &Arc<str>,
    partition: &Partition,
    counted: &Counts,
    replicas: u64,
) -> PartitionMetrics {
    let log = partition.log();
    let log_start_offset = log.start_offset();
    let high_watermark = partition.high_watermark();
    let durable_offset = log.durable_offset();
    let log_end_offset = log.end_offset();
    let figures = log.figures();
    PartitionMetrics {
        topic: Arc::clone(topic),
        partition: log.place.partition(),
        log_start_offset,
        high_watermark,
        durable_offset,
        log_end_offset,
        seen_end_offset: figures.seen_end.max(log_end_offset),
        records_appended: counted.records_appended,
        bytes_appended: counted.bytes_appended,
        bytes_saved: counted.bytes_saved,
        batches_appended: counted.batches_appended,
        last_append_time: figures.append_time,
        fetches: counted.fetches,
        records_fetched: counted.records_fetched,
        bytes_fetched: counted.bytes_fetched,
        syncs: counted.sync_latency_us.count(),
        syncs_failed: counted.syncs_failed,
        duplicates: counted.duplicates,
        segments: figures.segments,
        bytes_on_disk: figures.bytes_on_disk,
        mappings: figures.mappings,
        descriptors: figures.descriptors,
        producers: figures.producers,
        halted: figures.halted,
        replicas: if partition.standing().is_some() { replicas } else { 1 },
        in_sync: partition.standing().map_or(1, |standing| standing.isr.len() as u64),
        leader: (!partition.is_offline()).then(|| partition.volume()),
    }
}
