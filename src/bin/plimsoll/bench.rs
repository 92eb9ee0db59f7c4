//! `bench`: how fast this store, on this disk, takes records and gives them back.
//!
//! Each thread sends batches and waits for each acknowledgement; all go to one partition, where
//! concurrent appends share syncs. Then everything is read back once by a consumer.
//!
//! Not here: comparisons and graphs. The store is left as it was: the topic is one of its own, and
//! is deleted at the end, however that came.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{Acks, Broker, Compression, Error, Record, Topic, TopicConfig};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::output::{Ending, Fail, Output, Result, counted, tell};
use crate::progress::Progress;
use crate::store::Store;

/// Latencies kept of a thread: 8 MiB. Of more appends every second one is kept, or every third,
/// and so on; the largest always.
const SAMPLES_MAX: u64 = 1 << 20;
/// What a record may take beside its value.
const RECORD_ROOM_BYTES: u64 = 1 << 10;
/// How long the consumer waits before it looks whether it is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn run(store: &Store<'_>, args: &BenchArgs, json: bool) -> Result<Ending> {
    store.must_have_room_for(args.replicas)?;
    let interrupt = Interrupt::watch()?;
    let broker = store.open_or_create()?;
    let measured = with_topic(&broker, args, |topic| measure(&broker, topic, args, &interrupt));
    let closed = broker.close();
    let (produced, consumed) = measured?;
    closed?;
    if interrupt.is_set() {
        tell("note: it was interrupted; what follows is of the part that was done");
    }
    let mut out = Output::open()?;
    if json {
        out.json(&produced)?;
        out.json(&consumed)?;
    } else {
        print(&mut out, args, &produced, &consumed)?;
    }
    out.flush()?;
    Ok(Ending::Done)
}

/// Makes a topic for the time of the work.
fn with_topic<T>(
    broker: &Broker,
    args: &BenchArgs,
    work: impl FnOnce(&Topic) -> Result<T>,
) -> Result<T> {
    let mut config = TopicConfig::new();
    if let Some(durability) = args.durability {
        config = config.durability(durability);
    }
    if let Some(compression) = args.compression {
        config = config.compression(compression);
    }
    if let Some(replicas) = args.replicas {
        config = config.replicas(replicas);
    }
    // The library refuses what is too large, before anything of that size is made.
    let bytes = args.size.saturating_add(RECORD_ROOM_BYTES);
    if bytes > 1 << 20 {
        config = config.record_bytes(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
    let topic = make_topic(broker, &config)?;
    let done = work(&topic);
    let deleted = broker.admin().delete_topic(topic.name());
    let done = done?;
    deleted?;
    Ok(done)
}

fn make_topic(broker: &Broker, config: &TopicConfig) -> Result<Topic> {
    let mut number = 0_u32;
    loop {
        match broker.create_topic(&format!("bench-{}-{number}", process::id()), config.clone()) {
            // One that a killed process has left.
            Err(Error::TopicExists { .. }) => number += 1,
            made => return Ok(made?),
        }
    }
}

/// What came of one direction.
#[derive(Debug, Serialize)]
struct Direction {
    r#type: &'static str,
    records: u64,
    /// Of values.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    /// Millions of bytes.
    mb_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    append_latency_us: Option<Latency>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    count: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Direction {
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
    fn new(r#type: &'static str, records: u64, bytes: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Self {
            r#type,
            records,
            bytes,
            seconds,
            records_per_second: rate(records),
            mb_per_second: rate(bytes) / 1e6,
            append_latency_us: None,
        }
    }
}

fn measure(
    broker: &Broker,
    topic: &Topic,
    args: &BenchArgs,
    interrupt: &Interrupt,
) -> Result<(Direction, Direction)> {
    let mut produced = produce(broker, topic, args, interrupt)?;
    let latency = produced.latencies.summary();
    let records = produced.records;
    let mut written = Direction::new("produce", records, records * args.size, produced.took);
    written.append_latency_us = Some(latency);
    let (read, took) = consume(broker, topic, records, interrupt)?;
    Ok((written, Direction::new("consume", read, read * args.size, took)))
}

/// What the threads did.
struct Produced {
    records: u64,
    took: Duration,
    latencies: Latencies,
}

fn produce(
    broker: &Broker,
    topic: &Topic,
    args: &BenchArgs,
    interrupt: &Interrupt,
) -> Result<Produced> {
    let progress = Progress::records("producing", Some(args.records));
    let failed = AtomicBool::new(false);
    let stop = || interrupt.is_set() || failed.load(Ordering::Relaxed);
    let threads = u64::from(args.threads);
    let began = Instant::now();
    let ended: Vec<Result<(u64, Latencies)>> = thread::scope(|scope| {
        let (stop, progress) = (&stop, &progress);
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                // The first ones take what does not divide.
                let share = args.records / threads + u64::from(number < args.records % threads);
                scope.spawn(move || {
                    send(broker, topic, args, share, &|sent| {
                        progress.add(sent);
                        stop()
                    })
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                let ended = worker.join().unwrap_or(Err(Fail::Told));
                if ended.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                ended
            })
            .collect()
    });
    let took = began.elapsed();
    let mut all = Produced { records: 0, took, latencies: Latencies::new(args.records) };
    for thread in ended {
        let (records, latencies) = thread?;
        all.records += records;
        all.latencies.join(latencies);
    }
    Ok(all)
}

/// One thread's share.
fn send(
    broker: &Broker,
    topic: &Topic,
    args: &BenchArgs,
    share: u64,
    must_stop: &dyn Fn(u64) -> bool,
) -> Result<(u64, Latencies)> {
    let producer = broker.producer().acks(args.acks.unwrap_or(Acks::All)).build()?;
    let batch = u64::from(args.batch).min(share);
    let values = Values::new(args, batch);
    let records: Vec<Record<'_>> = (0..batch).map(|number| values.record(number)).collect();
    let mut latencies = Latencies::new(share.div_ceil(batch.max(1)));
    let mut sent = 0;
    while sent < share {
        let count = (share - sent).min(batch);
        let some = &records[..usize::try_from(count).unwrap_or(0)];
        let began = Instant::now();
        producer.send_batch(topic, 0, some)?;
        latencies.add(began.elapsed());
        sent += count;
        if must_stop(count) {
            break;
        }
    }
    Ok((sent, latencies))
}

/// What the records of a batch hold.
struct Values {
    text: Vec<u8>,
    bytes: usize,
    /// How far the next one begins behind the one before.
    stride: usize,
}

impl Values {
    /// One value for all; to be compressed, different ones: words in no order, each of six letters
    /// out of 4096, which is a third of what they take.
    fn new(args: &BenchArgs, batch: u64) -> Self {
        let bytes = usize::try_from(args.size).unwrap_or(usize::MAX);
        if args.compression.is_none_or(|compression| compression == Compression::None) {
            return Self { text: vec![b'x'; bytes], bytes, stride: 0 };
        }
        let stride = bytes.min(1 << 10);
        let batch = usize::try_from(batch).unwrap_or(usize::MAX);
        let mut text = Vec::new();
        let mut state = 1_u64;
        while text.len() < bytes.saturating_add(stride.saturating_mul(batch)) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.extend_from_slice(format!("{:05x} ", (state >> 52) * 251).as_bytes());
        }
        Self { text, bytes, stride }
    }

    fn record(&self, number: u64) -> Record<'_> {
        let from = usize::try_from(number).unwrap_or(0) * self.stride;
        Record::new(&self.text[from..from + self.bytes])
    }
}

fn consume(
    broker: &Broker,
    topic: &Topic,
    records: u64,
    interrupt: &Interrupt,
) -> Result<(u64, Duration)> {
    let progress = Progress::records("consuming", Some(records));
    let mut consumer = broker.consumer().assign([(topic.name(), 0)]).build()?;
    let began = Instant::now();
    let mut read = 0;
    while read < records && !interrupt.is_set() {
        let before = read;
        let mut bytes = 0;
        for record in &consumer.poll(LOOK_AGAIN)? {
            bytes += record.value().map_or(0, <[u8]>::len);
            read += 1;
        }
        // What nobody looks at need not be read.
        std::hint::black_box(bytes);
        progress.add(read - before);
    }
    Ok((read, began.elapsed()))
}

/// How long appends took.
struct Latencies {
    /// In nanoseconds; one of every `stride`.
    samples: Vec<u64>,
    stride: u64,
    count: u64,
    max: u64,
}

impl Latencies {
    /// Of so many appends.
    fn new(appends: u64) -> Self {
        Self { samples: Vec::new(), stride: appends.div_ceil(SAMPLES_MAX).max(1), count: 0, max: 0 }
    }

    fn add(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if self.count.is_multiple_of(self.stride) {
            self.samples.push(ns);
        }
        self.count += 1;
        self.max = self.max.max(ns);
    }

    fn join(&mut self, other: Latencies) {
        self.samples.extend(other.samples);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds with a fraction")]
    fn summary(&mut self) -> Latency {
        self.samples.sort_unstable();
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |thousandths: usize| {
            // The nearest rank: the smallest that so many in a thousand do not exceed.
            let rank = (self.samples.len() * thousandths).div_ceil(1000).max(1);
            us(self.samples.get(rank - 1).copied().unwrap_or(0))
        };
        Latency { count: self.count, p50: at(500), p99: at(990), p999: at(999), max: us(self.max) }
    }
}

fn print(
    out: &mut Output,
    args: &BenchArgs,
    produced: &Direction,
    consumed: &Direction,
) -> Result<()> {
    out.line(format_args!(
        "{} of {}, {}, {} to a batch",
        counted(args.records, "record"),
        counted(args.size, "byte"),
        counted(u64::from(args.threads), "thread"),
        args.batch,
    ))?;
    for direction in [produced, consumed] {
        out.line(format_args!(
            "{:<8} {:>12.0} records/s {:>10.1} MB/s {:>9.3} s",
            direction.r#type,
            direction.records_per_second,
            direction.mb_per_second,
            direction.seconds,
        ))?;
    }
    if let Some(latency) = produced.append_latency_us {
        out.line(format_args!(
            "append   p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us, of {}",
            latency.p50,
            latency.p99,
            latency.p999,
            latency.max,
            counted(latency.count, "append"),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut latencies = Latencies::new(1_000);
        for us in (1..=1_000).rev() {
            latencies.add(Duration::from_micros(us));
        }
        let expected = Latency { count: 1_000, p50: 500.0, p99: 990.0, p999: 999.0, max: 1_000.0 };
        assert_eq!(latencies.summary(), expected);
        let mut one = Latencies::new(1);
        one.add(Duration::from_micros(7));
        assert_eq!(one.summary(), Latency { count: 1, p50: 7.0, p99: 7.0, p999: 7.0, max: 7.0 });
        let none = Latency { count: 0, p50: 0.0, p99: 0.0, p999: 0.0, max: 0.0 };
        assert_eq!(Latencies::new(0).summary(), none);
    }

    #[test]
    fn memory_is_bounded_and_the_largest_is_kept() {
        let mut latencies = Latencies::new(SAMPLES_MAX * 3);
        for ns in 0..SAMPLES_MAX * 3 {
            latencies.add(Duration::from_nanos(ns));
        }
        assert_eq!(latencies.samples.len() as u64, SAMPLES_MAX);
        assert_eq!(latencies.max, SAMPLES_MAX * 3 - 1);
    }
}
