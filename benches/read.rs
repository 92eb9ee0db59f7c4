//! Reading, beside the machine's own limit:
//!
//! ```text
//! cargo bench --bench read
//! ```
//!
//! The limit is a bare pass over the same files and batches, mapped and present: it sums every
//! payload byte, or computes the checksums of a batch and then sums it. The library's consumer sums
//! the bytes of every value with the same function. Where it verifies, the store was closed and
//! opened before each round, so that no batch is trusted; else it was read once before. A thread of
//! the store's checks what the consumer will come to; alone (`Background::Inline`) the consumer
//! checks for itself, as the limit does.
//!
//! Exits with 1 if a row is below its bar. An argument chooses rows by name.

mod support;

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plimsoll::{Background, Broker, Consumer, Durability, Offset, Record, TopicConfig};
use support::{Bar, Bench, Row, Run, Show, Side, Sides, bare};

/// More than the caches hold.
const LOG_BYTES: u64 = 192 << 20;
const RECORDS: u32 = 100;

fn main() -> ExitCode {
    let mut bench = Bench::new();
    let verifying = Row {
        group: "read",
        name: "verifying, 100 x 100 B",
        show: Show::Rate,
        limits: &["limit, CRC and sum"],
        bars: &[Bar::Rate { of: &[0], at_least: 0.70 }],
        measured_for: Duration::from_secs(5),
    };
    bench.row(&verifying, || verifies(100, Background::Thread));
    let row = Row { name: "verifying, 100 x 1 KiB", ..verifying };
    bench.row(&row, || verifies(1024, Background::Thread));
    // The bar is of a consumer as it comes; this tells what its own thread does.
    let alone = Row { name: "verifying alone, 100 x 100 B", bars: &[], ..verifying };
    bench.row(&alone, || verifies(100, Background::Inline));
    let alone = Row { name: "verifying alone, 100 x 1 KiB", ..alone };
    bench.row(&alone, || verifies(1024, Background::Inline));
    let verified = Row {
        name: "verified before, 100 x 100 B",
        limits: &["limit, sum"],
        bars: &[Bar::Rate { of: &[0], at_least: 0.60 }],
        ..verifying
    };
    bench.row(&verified, || verified_before(100));
    bench.row(&Row { name: "verified before, 100 x 1 KiB", ..verified }, || verified_before(1024));
    bench.finish()
}

/// Fills a store, and returns how many records it has.
fn fill(store: &Path, value_bytes: usize) -> u64 {
    let broker = Broker::open(store).expect("opened");
    let config = TopicConfig::new().durability(Durability::Os);
    let topic = broker.create_topic("bench", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let value: Vec<u8> = (0..=u8::MAX).cycle().take(value_bytes).collect();
    let batch: Vec<Record<'_>> = (0..RECORDS).map(|_| Record::new(&value)).collect();
    let batches = LOG_BYTES / bare::batch_bytes(RECORDS, value_bytes) as u64;
    for _ in 0..batches {
        producer.send_batch(&topic, 0, &batch).expect("sent");
    }
    broker.close().expect("closed");
    batches * u64::from(RECORDS)
}

fn consumer(broker: &Broker) -> Consumer {
    broker.consumer().assign([("bench", 0)]).build().expect("built")
}

/// Reads every record and sums the bytes of its value.
fn consume(consumer: &mut Consumer, expected: u64) -> u64 {
    let (mut total, mut count) = (0, 0);
    while count < expected {
        let records = consumer.poll(Duration::ZERO).expect("polled");
        for record in &records {
            total += bare::sum(record.value().unwrap_or_default());
            count += 1;
        }
    }
    assert_eq!(count, expected, "every record once");
    total
}

fn verifies(value_bytes: usize, background: Background) -> Sides {
    let dir = support::folder();
    let store = dir.path().join("store");
    let records = fill(&store, value_bytes);
    let maps = Rc::new(bare::map_store(&store, records));
    let limit: Side = Box::new(move || {
        let begun = Instant::now();
        black_box(maps.iter().map(bare::Mapped::check_and_sum).sum::<u64>());
        Run::new(records, begun.elapsed())
    });
    let ours: Side = Box::new(move || {
        let builder = Broker::builder().volumes([dir.path().join("store")]);
        let broker = builder.background(background).open().expect("opened");
        let mut consumer = consumer(&broker);
        let begun = Instant::now();
        black_box(consume(&mut consumer, records));
        let took = begun.elapsed();
        drop(consumer);
        broker.close().expect("closed");
        Run::new(records, took)
    });
    Sides::new(vec![limit, ours])
}

fn verified_before(value_bytes: usize) -> Sides {
    let dir = support::folder();
    let store = dir.path().join("store");
    let records = fill(&store, value_bytes);
    let maps = bare::map_store(&store, records);
    let broker = Broker::open(&store).expect("opened");
    let mut consumer = consumer(&broker);
    let limit: Side = Box::new(move || {
        let begun = Instant::now();
        black_box(maps.iter().map(bare::Mapped::sum).sum::<u64>());
        Run::new(records, begun.elapsed())
    });
    let ours: Side = Box::new(move || {
        // Kept for as long as the store is open.
        let _ = (&dir, &broker);
        consumer.seek(("bench", 0), Offset::new(0)).expect("assigned");
        let begun = Instant::now();
        black_box(consume(&mut consumer, records));
        Run::new(records, begun.elapsed())
    });
    Sides::new(vec![limit, ours])
}
