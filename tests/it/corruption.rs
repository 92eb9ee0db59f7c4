//! Whatever happens to the bytes of a store, readers never get a wrong one.
//!
//! Invariants
//!   1. No damage makes an open panic, hands a reader a record that was not written there, or
//!      takes one away that the damage did not hit. What is lost is told, offset by offset.
//!   2. The log never ends below what is known to be durable, and an open removes no file.
//!   3. Damage to the volume file or to a copy of the metadata costs nothing: the other copy tells
//!      the same.
//!   4. `verify` tells of every damage that a reader or the next open could meet.
//!
//! Every bit of a log's files is flipped in `src/log/flip_tests.rs`, where segments can be small.
//! Here it is whole stores: every bit of the volume file and of the metadata, samples of the
//! segments, and whole files cut short, lost, swapped, copied and old.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use plimsoll::sim::SimDisk;
use plimsoll::{
    Background, Broker, Compression, Error, ManualClock, Offset, Reads, Record, RecoveryReport,
    TopicConfig,
};

/// Records in a batch.
const BATCH: u64 = 4;

fn open(disk: &SimDisk) -> Result<Broker, Error> {
    let clock = ManualClock::new(1_700_000_000_000);
    let background = Background::Inline;
    Broker::builder().volumes(["v"]).disk(disk).clock(clock).background(background).seed(7).open()
}

fn open_read_only(disk: &SimDisk) -> Result<Broker, Error> {
    Broker::builder().volumes(["v"]).disk(disk).read_only(true).open()
}

fn value(topic: &str, offset: u64) -> Vec<u8> {
    let mut value = format!("{topic} {offset} ").into_bytes();
    value.resize(2_500, u8::try_from(offset % 251).unwrap());
    value
}

fn send(broker: &Broker, topic: &str, until: u64) {
    let producer = broker.producer().build().unwrap();
    let mut next = broker.admin().latest(topic, 0).unwrap().get();
    while next < until {
        let values: Vec<_> = (next..next + BATCH).map(|offset| value(topic, offset)).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        next = producer.send_batch(topic, 0, &records).unwrap().last_offset.get() + 1;
    }
}

/// A store as it was left.
struct Left {
    disk: SimDisk,
    end: u64,
    /// The first topic's segments: their paths, and their base offsets.
    segments: Vec<(PathBuf, u64)>,
}

impl Left {
    /// A store of two topics; the first has three segments and a fourth begun.
    fn behind(close: bool) -> Self {
        let left = Self::holding(36, 40, close);
        assert_eq!(left.segments.len(), 4);
        left
    }

    /// A store of two topics with a batch each.
    fn small(close: bool) -> Self {
        Self::holding(BATCH, BATCH, close)
    }

    fn holding(hit: u64, other: u64, close: bool) -> Self {
        Self::compressed(Compression::None, (hit, other), close)
    }

    fn compressed(compression: Compression, (hit, other): (u64, u64), close: bool) -> Self {
        let disk = SimDisk::new();
        let broker = open(&disk).unwrap();
        for topic in ["hit", "other"] {
            let config = TopicConfig::new().segment_bytes(64 << 10).compression(compression);
            broker.create_topic(topic, config).unwrap();
        }
        send(&broker, "hit", hit);
        send(&broker, "other", other);
        let end = broker.admin().latest("hit", 0).unwrap().get();
        if close {
            broker.close().unwrap();
        }
        let disk = disk.kill();
        let segments: Vec<_> = disk
            .files()
            .into_iter()
            .filter(|path| is_segment_of_hit(path))
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let base = name.split('-').next().unwrap().parse().unwrap();
                (path, base)
            })
            .collect();
        Left { disk, end, segments }
    }

    fn bases(&self) -> Vec<u64> {
        self.segments.iter().map(|(_, base)| *base).chain([self.end]).collect()
    }

    /// What an open must not end below: the last batch is vouched for by nothing after a kill.
    fn evidence(&self, close: bool) -> u64 {
        if close { self.end } else { self.end - BATCH }
    }
}

/// Reads a topic to its end; returns which offsets were told to be lost.
fn lost(broker: &Broker, topic: &str, reads: Reads) -> Vec<u64> {
    let end = broker.admin().latest(topic, 0).unwrap();
    let reader = broker.reader(topic).reads(reads).build().unwrap();
    let (mut next, mut lost) = (0, Vec::new());
    for item in reader {
        match item {
            Ok(record) => {
                assert_eq!(record.offset().get(), next, "{topic}: skipped, or went back");
                assert_eq!(record.value(), Some(&*value(topic, next)), "{topic}: offset {next}");
                next += 1;
            }
            Err(Error::Corrupt(corruption)) => {
                assert_eq!(corruption.first.get(), next, "{corruption}");
                lost.extend(next..corruption.end.get());
                next = corruption.end.get();
            }
            Err(other) => panic!("{topic}: {other:?}"),
        }
    }
    assert_eq!(next, end.get(), "{topic}: the reader stopped short of the end");
    lost
}

/// What is seen of a store after damage.
struct Seen {
    lost: Vec<u64>,
    end: u64,
    report: RecoveryReport,
    /// Faults and tails that `verify` told of before the open.
    verified: usize,
}

/// Verifies, opens and reads both ways; and goes on after that, twice.
fn look(disk: &SimDisk, go_on: bool) -> Seen {
    let logs = |disk: &SimDisk| -> Vec<PathBuf> {
        let topics = |path: &PathBuf| path.starts_with("/v/topics");
        disk.files().into_iter().filter(topics).collect()
    };
    let before = logs(disk);
    let untouched = open_read_only(disk).unwrap();
    let report = untouched.admin().verify().unwrap();
    let verified = report.faults.len() + report.tails.len();
    drop(untouched);

    let broker = open(disk).unwrap();
    assert_eq!(logs(disk), before, "the open made or removed a file");
    let seen = Seen {
        lost: lost(&broker, "hit", Reads::Mapped),
        end: broker.admin().latest("hit", 0).unwrap().get(),
        report: broker.recovery().clone(),
        verified,
    };
    assert!(lost(&broker, "other", Reads::Mapped).is_empty());
    assert_eq!(lost(&broker, "hit", Reads::Copied), seen.lost);
    if go_on {
        send(&broker, "hit", seen.end + BATCH);
        assert_eq!(lost(&broker, "hit", Reads::Mapped), seen.lost);
        broker.close().unwrap();
        let broker = open(disk).unwrap();
        assert_eq!(lost(&broker, "hit", Reads::Copied), seen.lost);
        assert_eq!(broker.admin().latest("hit", 0).unwrap().get(), seen.end + BATCH);
    }
    seen
}

/// Runs a check for each number below `count`, on every core; `what` names a number that fails.
fn each(count: usize, check: impl Fn(usize) + Sync, what: impl Fn(usize) -> String + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    if let Err(cause) = catch_unwind(AssertUnwindSafe(|| check(number))) {
                        eprintln!("{}", what(number));
                        next.store(count, Ordering::Relaxed);
                        resume_unwind(cause);
                    }
                }
            });
        }
    });
}

/// Which bits of a file are flipped.
#[derive(Clone, Copy)]
enum Which {
    All,
    /// Each of every so many bytes that say something, and one of every 13th byte that is zero. All
    /// the zeros of a log are flipped in `src/log/flip_tests.rs`.
    OneIn(usize),
}

fn bits(bytes: &[u8], which: Which) -> Vec<(u64, u8)> {
    let every = match which {
        Which::All => return all_bits(bytes),
        Which::OneIn(every) => every,
    };
    let mut bits = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            0 if at.is_multiple_of(13) => bits.push((at as u64, u8::try_from(at % 8).unwrap())),
            0 => {}
            _ if at.is_multiple_of(every) => bits.extend((0..8).map(|bit| (at as u64, bit))),
            _ => {}
        }
    }
    bits
}

fn all_bits(bytes: &[u8]) -> Vec<(u64, u8)> {
    (0..bytes.len() as u64).flat_map(|at| (0..8).map(move |bit| (at, bit))).collect()
}

fn flip_each(left: &Left, flips: &[(PathBuf, u64, u8)], check: impl Fn(usize, &Seen) + Sync) {
    let one = |number: usize| {
        let (path, byte, bit) = &flips[number];
        let disk = left.disk.snapshot();
        disk.flip_bit(path, *byte, *bit).unwrap();
        check(number, &look(&disk, number.is_multiple_of(97)));
    };
    let what = |number: usize| {
        let (path, byte, bit) = &flips[number];
        format!("bit {bit} of byte {byte} of {}", path.display())
    };
    each(flips.len(), one, what);
    println!("{} bits flipped", flips.len());
}

fn flips_of(left: &Left, which: Which, wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, u64, u8)> {
    let mut flips = Vec::new();
    for path in left.disk.files().into_iter().filter(|path| wanted(path)) {
        let bytes = left.disk.read_file(&path).unwrap();
        flips.extend(bits(&bytes, which).into_iter().map(|(at, bit)| (path.clone(), at, bit)));
    }
    flips
}

/// Flips in the volume file and in both copies of the metadata cost nothing and are told.
fn broker_files(close: bool, which: Which) {
    let left = Left::small(close);
    let of_broker = |path: &Path| path == "/v/volume" || path.starts_with("/v/metadata");
    let flips = flips_of(&left, which, of_broker);
    assert!(flips.len() > 7_000, "only {} flips", flips.len());
    flip_each(&left, &flips, |_, seen| {
        assert_eq!((seen.lost.len(), seen.end), (0, left.end));
        assert!(seen.verified > 0, "verify did not tell of it");
    });
}

#[test]
fn flips_in_the_volume_file_and_the_metadata_cost_nothing_after_a_clean_close() {
    broker_files(true, Which::All);
}

#[test]
fn flips_in_the_volume_file_and_the_metadata_cost_nothing_after_a_kill() {
    broker_files(false, Which::OneIn(1));
}

#[test]
fn every_file_of_a_store_is_one_whose_bits_are_flipped_or_holds_nothing() {
    let left = Left::behind(true);
    let flipped = |path: &Path| {
        path == "/v/volume" || path.starts_with("/v/metadata") || path.starts_with("/v/topics")
    };
    let others: Vec<_> = left.disk.files().into_iter().filter(|path| !flipped(path)).collect();
    assert_eq!(others, [Path::new("/v/LOCK"), Path::new("/v/reserve")]);
    // Whatever is in those: all bits at once, as none of them is looked at.
    let changed = others.into_iter().map(|path| {
        let bytes = left.disk.read_file(&path).unwrap().len();
        (path, Some(vec![0xff; bytes]))
    });
    let seen = look(&with(&left.disk, &changed.collect()), true);
    assert_eq!((seen.lost.len(), seen.end, seen.verified), (0, left.end, 0));
    assert!(seen.report.clean);
}

fn is_a_batch_at_most(lost: &[u64]) -> bool {
    lost.first().is_none_or(|first| {
        let batch = first / BATCH * BATCH;
        lost == (batch..batch + BATCH).collect::<Vec<_>>()
    })
}

/// A file that is prepared for the next segment holds nothing.
fn is_segment_of_hit(path: &Path) -> bool {
    let is_log = path.extension().is_some_and(|extension| extension == "log");
    is_log && path.to_string_lossy().contains("topics/hit-")
}

/// Flips in a topic's segments cost the batch they hit, at most. Bytes are sampled.
fn segment_files(close: bool) {
    segment_files_of(&Left::behind(close), close, 97);
}

fn segment_files_of(left: &Left, close: bool, every: usize) {
    let flips = flips_of(left, Which::OneIn(every), is_segment_of_hit);
    flip_each(left, &flips, |_, seen| {
        assert!(is_a_batch_at_most(&seen.lost), "{:?}", seen.lost);
        assert!(seen.end == left.end || seen.end == left.evidence(close), "{}", seen.end);
        assert!(seen.verified > 0, "verify did not tell of it");
    });
}

#[test]
fn flips_in_segments_cost_the_batch_they_hit_after_a_clean_close() {
    segment_files(true);
}

#[test]
fn flips_in_segments_cost_the_batch_they_hit_after_a_kill() {
    segment_files(false);
}

/// Every second byte of what is compressed: there is little of it.
#[test]
fn flips_in_compressed_segments_cost_the_batch_they_hit() {
    for (compression, close) in [(Compression::Lz4, true), (Compression::Zstd, false)] {
        let left = Left::compressed(compression, (44, 40), close);
        let bytes = left.disk.read_file(&left.segments[0].0).unwrap();
        let stored = bytes.iter().filter(|byte| **byte != 0).count();
        assert!(stored < 44 * 2_500 / 10, "{stored} bytes are no compressed ones");
        segment_files_of(&left, close, 2);
    }
}

/// A backup, in the place of its store.
fn backed_up() -> Left {
    let left = Left::behind(true);
    let broker = open(&left.disk).unwrap();
    broker.admin().backup("/b").unwrap();
    drop(broker);
    let disk = SimDisk::new();
    for path in left.disk.files() {
        if let Ok(inside) = path.strip_prefix("/b") {
            let bytes = left.disk.read_file(&path).unwrap();
            disk.write_file(Path::new("/v").join(inside), &bytes).unwrap();
        }
    }
    Left { disk, ..left }
}

#[test]
fn flips_in_a_backup_cost_the_batch_they_hit() {
    let left = backed_up();
    let of_broker = |path: &Path| path == "/v/volume" || path.starts_with("/v/metadata");
    let mut flips = flips_of(&left, Which::OneIn(3), of_broker);
    let of_broker = flips.len();
    let of_hit = |path: &Path| path.to_string_lossy().contains("topics/hit-");
    flips.extend(flips_of(&left, Which::OneIn(397), of_hit));
    assert!(of_broker > 2_000 && flips.len() > of_broker + 2_000, "{of_broker} {}", flips.len());
    flip_each(&left, &flips, |number, seen| {
        assert!(seen.lost.is_empty() || number >= of_broker, "{:?}", seen.lost);
        assert!(is_a_batch_at_most(&seen.lost), "{:?}", seen.lost);
        assert_eq!(seen.end, left.end);
        assert!(seen.verified > 0, "verify did not tell of it");
    });
}

#[test]
fn a_missing_segment_is_a_hole_and_nothing_else() {
    for close in [true, false] {
        let left = Left::behind(close);
        let bases = left.bases();
        for gone in 0..left.segments.len() - 1 {
            let disk = without(&left.disk, &left.segments[gone].0);
            let seen = look(&disk, true);
            assert_eq!(seen.lost, (bases[gone]..bases[gone + 1]).collect::<Vec<_>>());
            assert_eq!(seen.end, left.end);
            assert!(!seen.report.damage.is_empty() && seen.verified > 0);
        }
    }
}

/// The same disk without a file.
fn without(disk: &SimDisk, gone: &Path) -> SimDisk {
    with(disk, &BTreeMap::from([(gone.to_path_buf(), None)]))
}

/// The same disk with other files: with these bytes, or gone.
fn with(disk: &SimDisk, changed: &BTreeMap<PathBuf, Option<Vec<u8>>>) -> SimDisk {
    let made = SimDisk::new();
    for path in disk.files() {
        if !changed.contains_key(&path) {
            made.write_file(&path, &disk.read_file(&path).unwrap()).unwrap();
        }
    }
    for (path, bytes) in changed {
        if let Some(bytes) = bytes {
            made.write_file(path, bytes).unwrap();
        }
    }
    made
}

#[test]
fn segments_cut_short_lose_what_was_cut_off() {
    for close in [true, false] {
        let left = Left::behind(close);
        let bases = left.bases();
        for (number, (path, base)) in left.segments.iter().enumerate() {
            let bytes = left.disk.read_file(path).unwrap();
            for keep in [0, 1, 4_095, 4_096, 12_288, 12_500, 23_000, bytes.len() - 1] {
                let disk =
                    with(&left.disk, &BTreeMap::from([(path.clone(), Some(bytes[..keep].into()))]));
                let seen = look(&disk, true);
                let context = format!("{} cut to {keep}: lost {:?}", path.display(), seen.lost);
                assert!(
                    seen.lost.iter().all(|l| (*base..bases[number + 1]).contains(l)),
                    "{context}"
                );
                if number + 1 < left.segments.len() {
                    assert_eq!(seen.end, left.end, "{context}");
                } else {
                    assert!(seen.end >= *base, "{context}");
                }
                // After a kill a last file without a batch looks like one that was just begun: what
                // only it vouched for, nobody can miss.
                let vouched = close || number + 1 < left.segments.len() || keep > 12_288;
                // And what was cut off may have been allocated ahead, and empty.
                let harmless = !close && seen.lost.is_empty() && seen.end == left.end;
                let told = seen.verified > 0 || harmless;
                assert!(told || !vouched, "{context}: verify did not tell");
            }
        }
    }
}

#[test]
fn two_segments_that_changed_places_are_found() {
    for close in [true, false] {
        let left = Left::behind(close);
        for one in 0..left.segments.len() {
            for other in 0..one {
                let (a, b) = (&left.segments[one].0, &left.segments[other].0);
                let swapped = BTreeMap::from([
                    (a.clone(), left.disk.read_file(b)),
                    (b.clone(), left.disk.read_file(a)),
                ]);
                let seen = look(&with(&left.disk, &swapped), true);
                assert!(seen.end >= left.segments[3].1, "{one} and {other}: ends at {}", seen.end);
                assert!(seen.verified > 0, "{one} and {other}: verify did not tell");
            }
        }
    }
}

#[test]
fn a_segment_of_another_partition_is_not_taken_for_ones_own() {
    for close in [true, false] {
        let left = Left::behind(close);
        let foreign = left
            .disk
            .files()
            .into_iter()
            .find(|path| path.to_string_lossy().contains("topics/other-"))
            .unwrap();
        let bytes = left.disk.read_file(foreign).unwrap();
        let bases = left.bases();
        for (number, (path, base)) in left.segments.iter().enumerate() {
            // In the place of one of ours.
            let disk = with(&left.disk, &BTreeMap::from([(path.clone(), Some(bytes.clone()))]));
            let seen = look(&disk, true);
            if number < 3 {
                assert_eq!(seen.lost, (*base..bases[number + 1]).collect::<Vec<_>>());
                assert_eq!(seen.end, left.end);
            }
            assert!(seen.verified > 0, "{}: verify did not tell", path.display());
        }
        // Beside ours, within them and behind them.
        for name in ["00000000000000000003-0.log", "00000000000000009999-0.log"] {
            let path = left.segments[0].0.with_file_name(name);
            let seen =
                look(&with(&left.disk, &BTreeMap::from([(path, Some(bytes.clone()))])), true);
            assert_eq!((seen.lost.len(), seen.end), (0, left.end), "beside ours as {name}");
        }
    }
}

#[test]
fn a_copy_of_a_segment_under_another_name_changes_nothing() {
    for close in [true, false] {
        let left = Left::behind(close);
        for (path, _) in &left.segments {
            let bytes = left.disk.read_file(path).unwrap();
            for name in [
                "00000000000000000003-0.log",
                "00000000000000000000-1.log",
                "00000000000000000099-0.log",
                "00000000000000000099-7.log",
            ] {
                let copy = path.with_file_name(name);
                let disk = with(&left.disk, &BTreeMap::from([(copy, Some(bytes.clone()))]));
                let seen = look(&disk, true);
                let context = format!("{} as {name}", path.display());
                assert_eq!((seen.lost.len(), seen.end), (0, left.end), "{context}");
            }
        }
    }
}

#[test]
fn an_old_copy_of_a_segment_is_found_once_the_log_went_on_behind_it() {
    let disk = SimDisk::new();
    let broker = open(&disk).unwrap();
    for topic in ["hit", "other"] {
        broker.create_topic(topic, TopicConfig::new().segment_bytes(64 << 10)).unwrap();
    }
    send(&broker, "hit", 8);
    broker.close().unwrap();
    let path = disk.files().into_iter().find(|p| p.to_string_lossy().contains("topics/hit-"));
    let path = path.unwrap();
    let old = disk.read_file(&path).unwrap();
    let broker = open(&disk).unwrap();
    send(&broker, "hit", 64);
    broker.close().unwrap();
    let second: u64 = disk
        .files()
        .into_iter()
        .filter(|p| p.to_string_lossy().contains("topics/hit-"))
        .filter_map(|p| p.file_name()?.to_str()?.split('-').next()?.parse().ok())
        .find(|base| *base > 0)
        .unwrap();
    let seen = look(&with(&disk, &BTreeMap::from([(path, Some(old))])), true);
    assert_eq!(seen.lost, (8..second).collect::<Vec<_>>());
    assert_eq!(Offset::new(seen.end), Offset::new(64));
    assert!(seen.verified > 0);
}
