//! Everything at once: producers, consumers, retention, deletes and cuts, with the broker's
//! threads, on the real disk; and a history of all of it that is checked at the end.
//!
//! Not here: crashes (`tests/it/crash.rs`), the orders of a few steps
//! (`log::tests::interleavings`).
//!
//! What is checked
//!   1. An acknowledged record is served from its acknowledgement on, and is there at the end and
//!      after the next open, unless it lies below the log start.
//!   2. An offset has one value, a value one offset, and every offset has one. Nobody reads what
//!      was not acknowledged in the end; what a cut took back is read by nobody.
//!   3. A consumer reads each partition in order, and skips exactly what it says it skipped, all of
//!      which lies below the log start.
//!   4. The log start moves to what was asked to be deleted, or as far as retention allows. Neither
//!      it nor the high watermark moves back (I4).
//!   5. A view that was fetched stays what it was, whatever happens to its file (I1).
//!   6. A consumer that sleeps wakes for what it can read.
//!
//! A cut takes back what nobody can know of: in production only an open cuts. So while records are
//! taken back neither a producer nor a consumer is in a call; the broker's threads are, and views
//! live on. A cut at the end takes nothing back: then only the producers are kept out.
//!
//! Seeds: `PLIMSOLL_SEED` gives one, a failure prints it. `PLIMSOLL_SECONDS` says for how long all
//! of it runs, in rounds of a second at most, each with a new store.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;

use crate::broker::{Broker, Topic};
use crate::client::{Consumer, ConsumerHandle, Reset, SharedRecord, Start, TopicPartition};
use crate::config::{Acks, Compression, Durability, FETCH_BYTES, Reads, TopicConfig};
use crate::error::Error;
use crate::format::Record;
use crate::id::{LeaderEpoch, Offset, PartitionId};
use crate::log::{Appended, Chunk, ReadCursor};
use crate::partition::Wanted;

const PARTITIONS: u32 = 3;
const PRODUCERS: u64 = 8;
const CONSUMERS: u64 = 4;
const SEGMENT_BYTES: u64 = 64 << 10;
const RETENTION_BYTES: u64 = 300 << 10;
/// Most bytes that a record takes beside its value: those of its batch's header among them.
const BYTES_A_RECORD: u64 = 300;
/// How many views each consumer keeps.
const KEPT: usize = 200;
/// Acknowledged batches between two deletes, and between two cuts.
const BATCHES_A_DELETE: u64 = 60;
const BATCHES_A_CUT: u64 = 100;
/// Nobody waits longer for what is there.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who wrote a value, and its number among theirs. The cutter is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u64);

const CUTTER: u64 = PRODUCERS;

impl Id {
    fn new(writer: u64, number: u64) -> Self {
        Self(writer << 48 | number)
    }

    /// The value, which the id and the seed tell whole.
    fn value(self, seed: u64) -> Vec<u8> {
        let mut dice = Dice(seed ^ self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Some by the mapping, some by a write.
        let bytes = if dice.one_in(40) { 14 << 10 } else { 16 + dice.below(900) };
        let mut value = self.0.to_le_bytes().to_vec();
        while (value.len() as u64) < bytes {
            value.extend_from_slice(&dice.next().to_le_bytes());
        }
        value
    }

    /// The id of a value; it has to be that value to the last byte.
    fn of(value: &[u8], seed: u64) -> Self {
        let id = value.first_chunk().map(|head| Self(u64::from_le_bytes(*head)));
        let id = id.expect("every value begins with its id");
        assert!(value == id.value(seed), "what was read is not what {id:?} is");
        id
    }
}

/// Where they are built in, batches of every kind follow one another.
fn compression_of(number: u64) -> Compression {
    let built = cfg!(all(feature = "lz4", feature = "zstd"));
    match number % 3 {
        1 if built => Compression::Lz4,
        2 if built => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The generator of `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// A record and where it is.
type Placed = (u32, u64, Id);

/// Told by everyone who writes: what was acknowledged, and what was taken back.
#[derive(Default)]
struct Told {
    acknowledged: Vec<Placed>,
    taken_back: Vec<Id>,
}

/// What one consumer saw: the records in the order of reading, and how far it came.
struct Seen {
    records: Vec<Placed>,
    kept: Vec<(Id, SharedRecord)>,
}

/// What the threads of a round share.
struct Round<'a> {
    seed: u64,
    broker: &'a Broker,
    topic: &'a Topic,
    until: Instant,
    /// Shared by who appends, taken whole by a cut.
    appends: RwLock<()>,
    /// Shared by who looks at high watermarks, taken whole by a cut that takes something back.
    looks: RwLock<()>,
    /// Somebody waits for `looks`: nobody sleeps in a poll.
    pausing: AtomicBool,
    /// Nothing more will come.
    done: AtomicBool,
    batches: AtomicU64,
    /// The highest log start that was asked for, by partition.
    asked: Vec<AtomicU64>,
}

impl Round<'_> {
    fn latest(&self, partition: u32) -> u64 {
        let latest = self.broker.admin().latest(self.topic, PartitionId::new(partition));
        latest.expect("the topic is there").get()
    }

    fn earliest(&self, partition: u32) -> u64 {
        let earliest = self.broker.admin().earliest(self.topic, PartitionId::new(partition));
        earliest.expect("the topic is there").get()
    }

    /// 1: what was acknowledged is served, and is on the medium where that was promised.
    fn must_be_served(&self, partition: u32, last: u64) {
        assert!(self.latest(partition) > last, "offset {last} is acknowledged, and not served");
        if self.topic.config().durability == Durability::Fsync {
            let durable = self.broker.admin().durable_offset(self.topic, partition);
            let durable = durable.expect("the topic is there").get();
            assert!(durable > last, "offset {last} is acknowledged, and not durable");
        }
    }

    /// Half of the producers send batches, the others queue records.
    fn produce(&self, who: u64, deletes: &SyncSender<()>, cuts: &SyncSender<()>) -> Told {
        let mut dice = Dice(self.seed ^ who << 32);
        let producer = self.broker.producer().linger(Duration::ZERO);
        let producer = producer.compression(compression_of(who / 2)).build().expect("made");
        let mut told = Told::default();
        let mut number = 0;
        while Instant::now() < self.until {
            let ids: Vec<Id> = (0..=dice.below(5)).map(|i| Id::new(who, number + i)).collect();
            number += ids.len() as u64;
            let values: Vec<Vec<u8>> = ids.iter().map(|id| id.value(self.seed)).collect();
            let appending = self.appends.read();
            let mut acknowledged = Vec::new();
            if who.is_multiple_of(2) {
                let partition = u32::try_from(dice.below(PARTITIONS.into())).expect("small");
                let records: Vec<Record<'_>> = values.iter().map(Record::new).collect();
                let ack = producer.send_batch(self.topic, partition, &records).expect("sent");
                acknowledged.extend(ack.offsets().map(|offset| (partition, offset.get())));
            } else {
                let queue = |value| producer.enqueue(self.topic, Record::new(value));
                let queued: Vec<_> = values.iter().map(|v| queue(v).expect("queued")).collect();
                for delivery in queued {
                    let ack = delivery.wait().expect("delivered");
                    acknowledged.push((ack.partition.get(), ack.offset.get()));
                }
            }
            for (&(partition, offset), id) in acknowledged.iter().zip(ids) {
                self.must_be_served(partition, offset);
                told.acknowledged.push((partition, offset, id));
            }
            drop(appending);
            let batches = self.batches.fetch_add(1, Ordering::Relaxed);
            // Full: there is one to come already.
            if batches.is_multiple_of(BATCHES_A_DELETE) {
                let _ = deletes.try_send(());
            }
            if batches.is_multiple_of(BATCHES_A_CUT) {
                let _ = cuts.try_send(());
            }
        }
        told
    }

    fn delete(&self, due: &Receiver<()>) {
        let mut dice = Dice(self.seed ^ 0x00de_1e7e);
        let mut known = vec![(0, 0); PARTITIONS as usize];
        for () in due {
            let _looking = self.looks.read();
            for (partition, known) in (0..).zip(&mut known) {
                let (start, end) = (self.earliest(partition), self.latest(partition));
                assert!(start <= end, "the log starts at {start}, above {end} (I4)");
                assert!(start >= known.0 && end >= known.1, "{known:?}, then {start}..{end} (I4)");
                *known = (start, end);
            }
            let partition = u32::try_from(dice.below(PARTITIONS.into())).expect("small");
            let (start, end) = known[partition as usize];
            let before = start + dice.below(end - start + 1);
            self.asked[partition as usize].fetch_max(before, Ordering::AcqRel);
            let admin = self.broker.admin();
            admin.delete_records(self.topic, partition, Offset::new(before)).expect("deleted");
            let now = self.earliest(partition);
            assert!(now >= before, "deleted below {before}, and the log starts at {now}");
        }
    }

    /// Cuts, and gives back the views that it took of what it cut.
    fn cut(
        &self,
        due: &Receiver<()>,
        sleepers: &[ConsumerHandle],
    ) -> (Told, Vec<(Chunk, Vec<u8>)>) {
        let mut dice = Dice(self.seed ^ 0xc07);
        let mut told = Told::default();
        let mut views = Vec::new();
        let mut number = 0;
        let producer = self.topic.broker.new_producer(None).expect("there are few");
        for () in due {
            let partition = u32::try_from(dice.below(PARTITIONS.into())).expect("small");
            let state = self.topic.state.partition(PartitionId::new(partition)).expect("there");
            let log = state.log();
            let appending = self.appends.write();
            let end = log.end_offset();
            if dice.one_in(3) {
                log.truncate_to(end).expect("cut");
                continue;
            }
            self.pausing.store(true, Ordering::SeqCst);
            for sleeper in sleepers {
                sleeper.wakeup();
            }
            let looking = self.looks.write();
            let mut batches: Vec<(Appended, Vec<Id>)> = Vec::new();
            for _ in 0..=dice.below(40) {
                let ids: Vec<Id> =
                    (0..=dice.below(3)).map(|i| Id::new(CUTTER, number + i)).collect();
                number += ids.len() as u64;
                let values: Vec<Vec<u8>> = ids.iter().map(|id| id.value(self.seed)).collect();
                let records: Vec<Record<'_>> = values.iter().map(Record::new).collect();
                let appended = state.begin(&producer, &records, compression_of(number), Acks::All);
                batches.push((appended.expect("appended"), ids));
            }
            if dice.one_in(3) {
                log.sync_to(log.end_offset()).expect("synced");
            }
            let mut cursor = ReadCursor::at(end);
            let read = log.read(&mut cursor, log.end_offset(), FETCH_BYTES, Reads::Mapped);
            let view = read.expect("read").expect("it was just appended");
            views.push((view.clone(), view.view.bytes().to_vec()));

            let keep = usize::try_from(dice.below(batches.len() as u64)).expect("few");
            let (at, epoch) = (batches[keep].0.base, batches[keep].0.epoch);
            log.truncate_to(at).expect("cut");
            log.lead(LeaderEpoch::new(epoch.get() + 1));
            assert_eq!(log.end_offset(), at);
            // Retention may have counted what is void now.
            let start = self.earliest(partition);
            self.asked[partition as usize].fetch_max(start, Ordering::AcqRel);
            let taken_back = batches.split_off(keep);
            assert!(batches.iter().all(|(kept, _)| log.holds(kept)));
            assert!(!taken_back.iter().any(|(gone, _)| log.holds(gone)));
            told.taken_back.extend(taken_back.into_iter().flat_map(|(_, ids)| ids));
            for (appended, ids) in batches {
                state
                    .acknowledge(&appended, Wanted { acks: Acks::All, deadline: None })
                    .expect("acknowledged");
                self.must_be_served(partition, appended.end.get() - 1);
                let offsets = appended.base.get()..appended.end.get();
                let placed = offsets.zip(ids).map(|(offset, id)| (partition, offset, id));
                told.acknowledged.extend(placed);
            }
            self.pausing.store(false, Ordering::SeqCst);
            drop((looking, appending));
        }
        (told, views)
    }

    fn consume(&self, mut consumer: Consumer) -> Seen {
        let mut seen = Seen { records: Vec::new(), kept: Vec::new() };
        let mut expected = vec![0; PARTITIONS as usize];
        let mut jumped = 0;
        let mut ended = None;
        loop {
            let looking = self.looks.read();
            let done = self.done.load(Ordering::SeqCst);
            // Who sets one of the flags wakes this one up after it.
            let hasty = done || self.pausing.load(Ordering::SeqCst);
            let began = Instant::now();
            let timeout = if hasty { Duration::ZERO } else { PATIENCE };
            let records = consumer.poll(timeout).expect("polled");
            for record in &records {
                let (partition, offset) = (record.partition().get(), record.offset().get());
                let expected: &mut u64 = &mut expected[partition as usize];
                assert!(offset >= *expected, "{offset} read after {expected}");
                if offset > *expected {
                    let start = self.earliest(partition);
                    assert!(offset <= start, "{expected}..{offset} skipped above {start}");
                    jumped += offset - *expected;
                }
                *expected = offset + 1;
                let id = Id::of(record.value().expect("it has one"), self.seed);
                seen.records.push((partition, offset, id));
                if seen.records.len().is_multiple_of(50) && seen.kept.len() < KEPT {
                    seen.kept.push((id, record.to_shared()));
                }
            }
            // A reset may have moved it to where nothing is yet.
            let positions = consumer.positions();
            let ahead = |(place, at): (&TopicPartition, &Offset)| {
                at.get() - expected[place.partition.get() as usize]
            };
            let to_come: u64 = positions.iter().map(ahead).sum();
            assert_eq!(jumped + to_come, consumer.skipped(), "skipped, and not said so");
            let behind = (0..).zip(positions.values()).any(|(p, at)| at.get() < self.latest(p));
            if records.is_empty() && !hasty && began.elapsed() >= PATIENCE {
                assert!(!behind, "a wake-up was missed");
            }
            if done {
                if !behind {
                    return seen;
                }
                let since = *ended.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < PATIENCE, "the end is not reached");
            }
            drop(looking);
        }
    }
}

fn consumer(broker: &Broker) -> Consumer {
    let places = (0..PARTITIONS).map(|p| TopicPartition::new("t", PartitionId::new(p)));
    let builder = broker.consumer().assign(places).start(Start::Offset(Offset::ZERO));
    builder.reset(Reset::Earliest).build().expect("a consumer can be made")
}

/// All that a store holds. Retention goes on: where it overtakes the reader, that begins anew.
fn read_all(broker: &Broker, seed: u64) -> BTreeMap<(u32, u64), Id> {
    let read = |partition| {
        let mut found = BTreeMap::new();
        let reader = broker.reader("t").partition(partition).build().expect("it is there");
        for record in reader {
            let record = match record {
                Err(Error::OffsetOutOfRange(_)) => return None,
                record => record.expect("read"),
            };
            let id = Id::of(record.value().expect("it has one"), seed);
            let before = found.insert((partition, record.offset().get()), id);
            assert_eq!(before, None, "an offset was read twice");
        }
        Some(found)
    };
    let kept = |partition| std::iter::repeat_with(|| read(partition)).flatten().next();
    (0..PARTITIONS).filter_map(kept).flatten().collect()
}

/// Checks everything against everything; 1 to 3, and what is left of 4.
fn check(round: &Round<'_>, told: &[Told], seen: &[Seen]) -> BTreeMap<(u32, u64), Id> {
    let mut history = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for &(partition, offset, id) in told.iter().flat_map(|told| &told.acknowledged) {
        let other = history.insert((partition, offset), id);
        assert_eq!(other, None, "{partition}: {offset} has two values, one is {id:?}");
        assert!(ids.insert(id), "{id:?} has two offsets, one is {offset}");
    }
    for told in told {
        assert!(told.taken_back.iter().all(|id| !ids.contains(id)), "taken back and kept");
        let mut ends = BTreeMap::new();
        for (partition, offset, _) in &told.acknowledged {
            let end = ends.insert(partition, *offset);
            assert!(end.is_none_or(|end| end < *offset), "acknowledged {offset} after {end:?}");
        }
    }
    for (partition, offset, id) in seen.iter().flat_map(|seen| &seen.records) {
        let has = history.get(&(*partition, *offset));
        assert_eq!(has, Some(id), "{partition}: {offset} was read as {id:?}");
    }
    let left = read_all(round.broker, round.seed);
    for partition in 0..PARTITIONS {
        let (start, end) = (round.earliest(partition), round.latest(partition));
        let count = history.range((partition, 0)..=(partition, u64::MAX)).count() as u64;
        assert_eq!(count, end, "{partition}: as many offsets as acknowledged records");
        let kept = history.range((partition, start)..=(partition, u64::MAX));
        // Retention goes on: what was read may begin below.
        let found = left.range((partition, start)..=(partition, u64::MAX));
        assert!(
            found.eq(kept.clone()),
            "{partition}: what is left is not what was acknowledged from {start} on"
        );
        let size = |id: &Id| id.value(round.seed).len() as u64 + BYTES_A_RECORD;
        let bytes: u64 = kept.map(|(_, id)| size(id)).sum();
        let asked = round.asked[partition as usize].load(Ordering::Acquire);
        assert!(
            start <= asked || bytes >= RETENTION_BYTES,
            "{partition}: starts at {start}, asked was {asked}, and only {bytes} bytes are left"
        );
    }
    left
}

fn run(durability: Durability, seed: u64, until: Instant) -> Happened {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let open = || Broker::open(dir.path()).expect("the store opens");
    let broker = open();
    let config = TopicConfig::new()
        .partitions(PARTITIONS)
        .durability(durability)
        .segment_bytes(SEGMENT_BYTES)
        .retention_bytes(RETENTION_BYTES);
    let topic = broker.create_topic("t", config).expect("a topic can be made");
    let round = Round {
        seed,
        broker: &broker,
        topic: &topic,
        until,
        appends: RwLock::default(),
        looks: RwLock::default(),
        pausing: AtomicBool::new(false),
        done: AtomicBool::new(false),
        batches: AtomicU64::new(0),
        asked: (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
    };
    let consumers: Vec<_> = (0..CONSUMERS).map(|_| consumer(&broker)).collect();
    let sleepers: Vec<_> = consumers.iter().map(Consumer::handle).collect();
    let sleepers = sleepers.as_slice();
    let (told, found, views) = thread::scope(|scope| {
        let round = &round;
        let readers: Vec<_> =
            consumers.into_iter().map(|c| scope.spawn(move || round.consume(c))).collect();
        let (deletes, deletes_due) = sync_channel(1);
        let (cuts, cuts_due) = sync_channel(1);
        let remover = scope.spawn(move || round.delete(&deletes_due));
        let cutter = scope.spawn(move || round.cut(&cuts_due, sleepers));
        let writers: Vec<_> = (0..PRODUCERS)
            .map(|who| {
                let (deletes, cuts) = (deletes.clone(), cuts.clone());
                scope.spawn(move || round.produce(who, &deletes, &cuts))
            })
            .collect();
        drop((deletes, cuts));
        let told: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let (cut_ended, removal) = (cutter.join(), remover.join());
        // The consumers end whatever became of the others.
        round.done.store(true, Ordering::SeqCst);
        for sleeper in sleepers {
            sleeper.wakeup();
        }
        let read: Vec<_> = readers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let good = "no thread panics";
        removal.expect(good);
        let (cut, views) = cut_ended.expect(good);
        let mut told: Vec<Told> = told.into_iter().map(|told| told.expect(good)).collect();
        told.push(cut);
        (told, read.into_iter().map(|read| read.expect(good)).collect::<Vec<_>>(), views)
    });
    let mut left = check(&round, &told, &found);
    let batches = round.batches.load(Ordering::Relaxed);
    broker.close().expect("it closes");
    let broker = open();
    let mut again = read_all(&broker, seed);
    // Retention went on until the close, and may after the open.
    let earliest = |partition| broker.admin().earliest("t", partition).expect("it is there").get();
    let starts: Vec<u64> = (0..PARTITIONS).map(earliest).collect();
    for read in [&mut left, &mut again] {
        read.retain(|(partition, offset), _| *offset >= starts[*partition as usize]);
    }
    assert!(again == left, "an open changed what is read");
    drop((broker, dir));
    // 5, last of all: files removed, cut, and closed.
    for (id, record) in found.iter().flat_map(|seen| &seen.kept) {
        assert!(record.value() == Some(&id.value(seed)[..]), "the view of {id:?} changed");
    }
    for (view, bytes) in &views {
        assert!(view.view.bytes() == bytes, "a view of what was cut changed");
    }
    Happened { batches, views: views.len(), deleted: starts.iter().sum() }
}

/// What a round came to.
struct Happened {
    batches: u64,
    views: usize,
    deleted: u64,
}

/// Prints the seed if a round panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to begin with the same: PLIMSOLL_SEED={}", self.0);
        }
    }
}

fn run_for_the_time_given(durability: Durability) {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    // Two tests share the time.
    let time = Duration::from_secs(number("PLIMSOLL_SECONDS").unwrap_or(2)) / 2;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::from(now.subsec_nanos()));
    let mut seed = number("PLIMSOLL_SEED").unwrap_or(now);
    let end = Instant::now() + time;
    let mut views = 0;
    let mut batches = 0;
    let mut deleted = 0;
    while Instant::now() < end {
        let _told = Seed(seed);
        let happened = run(durability, seed, end.min(Instant::now() + Duration::from_secs(1)));
        batches += happened.batches;
        views += happened.views;
        deleted += happened.deleted;
        seed += 1;
    }
    // None of it was for nothing.
    assert!(views > 0 && deleted > 0, "too little happened in {batches} batches");
}

#[test]
fn everything_at_once_keeps_every_promise_at_os() {
    run_for_the_time_given(Durability::Os);
}

#[test]
fn everything_at_once_keeps_every_promise_at_fsync() {
    run_for_the_time_given(Durability::Fsync);
}
