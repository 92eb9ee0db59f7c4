//! Appending at `Durability::Os` beside the machine's own limit, alternating in one run:
//!
//! ```text
//! cargo bench --bench append
//! ```
//!
//! The limit is a bare loop with nothing but what is named: frame and checksum the same bytes, and
//! store them by mapping into fresh allocated segments. Each round measures the limit and the
//! library one after the other; the figure is the median of the rounds' ratios, with quartiles.
//! Exits with 1 if a ratio is below its bar.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use memmap2::{MmapMut, MmapOptions};
use plimsoll::{Broker, Durability, Record, TopicConfig};

const SEGMENT_BYTES: usize = 64 << 20;
/// As the format has it: a batch header, and what comes before a record's value.
const HEADER_BYTES: usize = 120;
const PREFIX_BYTES: usize = 32;
const ROUNDS: usize = 21;
const RECORDS: u64 = 1_000_000;
/// What the library has to reach of the limit, one record of 100 bytes at a time.
const BAR: f64 = 0.40;

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let value = [b'x'; 100];
    let mut ratios = Vec::new();
    let (mut limits, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let limit = rate(RECORDS, bare(dir.path(), &value, RECORDS));
        let library = rate(RECORDS, plimsoll(dir.path(), &value, RECORDS));
        // The first round warms up.
        if round > 0 {
            ratios.push(library / limit);
            limits.push(limit);
            ours.push(library);
        }
    }
    let [low, median, high] = quartiles(&mut ratios);
    let [_, limit, _] = quartiles(&mut limits);
    let [_, library, _] = quartiles(&mut ours);
    println!("100 B one by one, Os, one thread, {ROUNDS} rounds of {RECORDS} records");
    println!("  limit    {:>6.2} M/s   plimsoll {:>6.2} M/s", limit / 1e6, library / 1e6);
    println!("  ratio    {median:.2} (quartiles {low:.2} to {high:.2}), bar {BAR:.2}");
    if median < BAR {
        println!("BELOW THE BAR");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn rate(records: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a million is exact")]
    let records = records as f64;
    records / took.as_secs_f64()
}

fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    [at(1), at(2), at(3)]
}

/// Frames, checksums and stores, and nothing else.
fn bare(dir: &Path, value: &[u8], records: u64) -> Duration {
    let batch_bytes = HEADER_BYTES + PREFIX_BYTES + value.len().next_multiple_of(8);
    let path = dir.join("bare");
    let mut made = 0;
    let mut segment = fresh(&path, &mut made);
    let mut at = 0;
    let begun = Instant::now();
    for offset in 0..records {
        if at + batch_bytes > SEGMENT_BYTES {
            segment = fresh(&path, &mut made);
            at = 0;
        }
        let batch = &mut segment[at..at + batch_bytes];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let (header, payload) = batch.split_at_mut(HEADER_BYTES);
        payload[..PREFIX_BYTES].fill(0);
        payload[16..20].copy_from_slice(&100_u32.to_le_bytes());
        payload[PREFIX_BYTES..PREFIX_BYTES + value.len()].copy_from_slice(value);
        payload[PREFIX_BYTES + value.len()..].fill(0);
        header[8..HEADER_BYTES].fill(0);
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[36..40].copy_from_slice(&1_u32.to_le_bytes());
        for field in [40, 48, 56] {
            header[field..field + 16].copy_from_slice(&now.to_le_bytes());
        }
        let payload_crc = crc32fast::hash(payload);
        header[116..120].copy_from_slice(&payload_crc.to_le_bytes());
        let header_crc = crc32fast::hash(&header[8..HEADER_BYTES]);
        header[..4].copy_from_slice(b"PLIM");
        header[4..8].copy_from_slice(&header_crc.to_le_bytes());
        at += batch_bytes;
    }
    let took = begun.elapsed();
    black_box(&segment[..at]);
    drop(segment);
    for number in 0..made {
        std::fs::remove_file(path.with_extension(number.to_string())).expect("removed");
    }
    took
}

/// A new file, allocated, mapped and populated.
fn fresh(path: &Path, made: &mut u32) -> MmapMut {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path.with_extension(made.to_string()))
        .expect("a file");
    *made += 1;
    fs2::FileExt::allocate(&file, SEGMENT_BYTES as u64).expect("allocated");
    // SAFETY: `map_mut` needs that nobody else changes the file: it was made just now, in a
    // temporary folder, and only this loop writes to it.
    #[expect(unsafe_code, reason = "the limit maps a file as the library does")]
    let map = unsafe { MmapOptions::new().len(SEGMENT_BYTES).map_mut(&file) }.expect("mapped");
    #[cfg(target_os = "linux")]
    {
        // Without large pages the limit is lower.
        let _ = map.advise(memmap2::Advice::HugePage);
        map.advise(memmap2::Advice::PopulateWrite).expect("populated");
    }
    map
}

fn plimsoll(dir: &Path, value: &[u8], records: u64) -> Duration {
    let store = dir.join("store");
    let broker = Broker::open(&store).expect("opened");
    let config = TopicConfig::new().durability(Durability::Os);
    let topic = broker.create_topic("bench", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let begun = Instant::now();
    for _ in 0..records {
        black_box(producer.send(&topic, Record::new(value)).expect("sent"));
    }
    let took = begun.elapsed();
    broker.close().expect("closed");
    std::fs::remove_dir_all(&store).expect("removed");
    took
}
