//! Every single bit of a small log, flipped one at a time: it is found, or it does no harm.
//!
//! Invariants
//!   1. No flip makes an open panic or fail, and none makes a reader see a byte that was not
//!      written, through mappings or copies.
//!   2. A flip in a batch costs at most that batch; a flip anywhere else costs no record.
//!   3. The log never ends below its durable evidence, no file goes, and none is cut into its
//!      batches.
//!   4. What is appended after such an open stays, and what was readable stays so.
//!   5. `verify` reports every flip.
//!
//! All files of the log are covered, byte by byte and bit by bit: a full segment, one that a later
//! cut ended early, and one that begins at the cut.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::config::{Durability, ManualClock, Reads};
use crate::error::Error;
use crate::format::{BatchHeader, Identity, Record};
use crate::fs::sim::SimDisk;
use crate::id::{Incarnation, LeaderEpoch, Offset, PartitionId, TopicId};
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::place::Place;
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening, find};
use crate::log::scan::scan;
use crate::log::verify::verify_partition;

const DIR: &str = "topics/flips-1/0";
const CLEAN: Entrance = Entrance::Clean { since: Incarnation::new(1) };
/// One flip in so many is followed by an append, a close and another open.
const GO_ON_EVERY: usize = 199;

fn identity() -> Identity {
    Identity::new(TopicId::new(1), 0x5a17, PartitionId::new(0))
}

fn opening(disk: &SimDisk, mode: Mode) -> Opening {
    Opening {
        place: Arc::new(Place {
            topic: Arc::from("flips"),
            identity: identity(),
            dir: PathBuf::from(DIR),
        }),
        disk: Arc::new(disk.clone()),
        options: LogOptions {
            // The smallest that the layout allows: one page of batches.
            segment_bytes: 4 << 10,
            durability: Durability::Fsync,
            allocates: true,
            coherent: true,
            incarnation: Incarnation::new(1),
        },
        mode,
        clock: Arc::new(ManualClock::new(1_700_000_000_000)),
        housekeeper: None,
    }
}

fn value(offset: u64) -> Vec<u8> {
    let mut value = format!("value of record {offset} ").into_bytes();
    let more = 40 + usize::try_from(offset * 37 % 200).unwrap();
    value.extend((0..more).map(|at| u8::try_from((at + 11) % 251).unwrap()));
    value
}

/// Appends batches of three records until the log ends at or above `end`.
fn append_to(log: &Log, end: u64) {
    while log.end_offset().get() < end {
        let first = log.end_offset().get();
        let values = [value(first), value(first + 1), value(first + 2)];
        let records = values.each_ref().map(|value| Record::new(value).key("key"));
        let appended = log.append(&records).unwrap();
        log.sync_to(appended.end).unwrap();
        while log.seal_one().unwrap() {}
    }
}

/// A batch that readers can see, and where it lies.
#[derive(Debug, Clone, Copy)]
struct Batch {
    start: u64,
    end: u64,
    first: u64,
    next: u64,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    batches: Vec<Batch>,
    first_position: u64,
    /// Where the last batch ends, voided ones included.
    data_end: u64,
}

/// A log as it was left, and what is known of it.
struct Left {
    disk: SimDisk,
    entrance: Entrance,
    files: Vec<File>,
    end: u64,
    /// What an open must not end below, whichever bit is flipped.
    evidence: u64,
}

impl Left {
    /// Three files; the middle one was cut, by the third.
    fn behind(close: bool) -> Left {
        let disk = SimDisk::new();
        let (log, _) = Log::open(opening(&disk, Mode::ReadWrite), Entrance::Unclean).unwrap();
        log.lead(LeaderEpoch::new(1));
        append_to(&log, 1);
        while log.segments().len() < 2 {
            append_to(&log, log.end_offset().get() + 1);
        }
        let begun = log.segments()[1].base.get();
        append_to(&log, begun + 9);
        assert_eq!(log.segments().len(), 2, "a full segment, and part of another");
        let cut = log.end_offset().get() - 3;
        assert!(begun < cut, "the cut ends the second segment early");
        log.truncate_to(Offset::new(cut)).unwrap();
        log.lead(LeaderEpoch::new(2));
        append_to(&log, cut + 12);
        let end = log.end_offset().get();
        let entrance = if close {
            log.close().unwrap();
            CLEAN
        } else {
            Entrance::Unclean
        };
        let disk = disk.kill();
        let found = find(&opening(&disk, Mode::ReadOnly)).unwrap();
        let files: Vec<File> = found
            .covered
            .iter()
            .map(|covered| {
                let bytes = disk.read_file(&covered.found.path).unwrap();
                let first_position = covered.found.first_position();
                let image = &bytes[usize::try_from(first_position).unwrap()..];
                let mut batches = Vec::new();
                let mut at = 0;
                while let Ok(header) = BatchHeader::decode(&image[at..], &identity()) {
                    let start = first_position + at as u64;
                    at += header.batch_bytes();
                    batches.push(Batch {
                        start,
                        end: first_position + at as u64,
                        first: header.base_offset.get(),
                        next: header.next_offset().get(),
                    });
                }
                let data_end = first_position + at as u64;
                batches.retain(|batch| batch.first < covered.clip.get());
                File { path: covered.found.path.clone(), bytes, batches, first_position, data_end }
            })
            .collect();
        assert_eq!(files.len(), 3);
        assert_eq!(disk.files().len(), 3, "and no file else");
        // After an unclean end the last batch may have been the last sync's: nothing vouches for it.
        let evidence = if close { end } else { files[2].batches.last().unwrap().first };
        Left { disk, entrance, files, end, evidence }
    }

    fn bits(&self) -> usize {
        self.files.iter().map(|file| file.bytes.len() * 8).sum()
    }

    /// The file, byte and bit with this number.
    fn bit(&self, mut number: usize) -> (&File, u64, u8) {
        for file in &self.files {
            let bits = file.bytes.len() * 8;
            if number < bits {
                return (file, (number / 8) as u64, u8::try_from(number % 8).unwrap());
            }
            number -= bits;
        }
        unreachable!("no such bit")
    }
}

/// What readers get: records, and ranges that cannot be read.
type Seen = (BTreeMap<u64, Vec<u8>>, Vec<(u64, u64)>);

fn read_all(log: &Log, reads: Reads) -> Seen {
    let (mut records, mut lost) = (BTreeMap::new(), Vec::new());
    let mut cursor = ReadCursor::at(log.start_offset());
    loop {
        match log.read(&mut cursor, log.end_offset(), 1 << 20, reads) {
            Ok(Some(chunk)) => {
                for record in chunk.records() {
                    let value = record.record.value.unwrap().to_vec();
                    assert!(records.insert(record.offset.get(), value).is_none(), "handed out twice");
                }
            }
            Ok(None) => break,
            Err(Error::Corrupt(corruption)) => {
                assert!(corruption.first < corruption.end, "{corruption}");
                lost.push((corruption.first.get(), corruption.end.get()));
                cursor = ReadCursor::at(corruption.end);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(cursor.offset(), log.end_offset(), "a read stopped short of the end");
    (records, lost)
}

/// What was seen is what was written, but for what lies in `hit` or behind `end`.
fn check(seen: &Seen, end: u64, hit: Option<Batch>) {
    let (records, lost) = seen;
    for (offset, seen) in records {
        assert_eq!(*seen, value(*offset), "offset {offset}");
    }
    let may_go = |offset| hit.is_some_and(|batch| (batch.first..batch.next).contains(&offset));
    for offset in 0..end {
        let told = lost.iter().any(|(first, end)| (*first..*end).contains(&offset));
        assert!(records.contains_key(&offset) != told, "offset {offset} is lost or told, not both");
        assert!(!told || may_go(offset), "offset {offset} was lost to a flip elsewhere");
    }
}

/// Flips one bit and looks at everything. True if `verify` told of it.
fn flip(left: &Left, number: usize) -> bool {
    let (file, byte, bit) = left.bit(number);
    let disk = left.disk.snapshot();
    disk.flip_bit(&file.path, byte, bit).unwrap();
    let hit = file.batches.iter().find(|b| (b.start..b.end).contains(&byte)).copied();

    let (log, _) = Log::open(opening(&disk, Mode::ReadOnly), Entrance::Unclean).unwrap();
    assert!(log.end_offset().get() >= left.evidence || left.entrance == Entrance::Unclean);
    check(&read_all(&log, Reads::Copied), log.end_offset().get(), hit);
    let findings = verify_partition(&opening(&disk, Mode::ReadOnly)).unwrap();

    let (log, _) = Log::open(opening(&disk, Mode::ReadWrite), left.entrance).unwrap();
    log.check_latch().unwrap();
    let end = log.end_offset().get();
    assert!(end == left.end || (end >= left.evidence && hit.is_some()), "ends at {end}");
    let seen = read_all(&log, Reads::Mapped);
    check(&seen, end, hit);
    assert_eq!(disk.files().len(), left.files.len(), "files came or went");
    for file in &left.files {
        let kept = disk.read_file(&file.path).unwrap().len() as u64;
        let may_end_at = if end == left.end { file.data_end } else { file.batches.last().unwrap().start };
        assert!(kept >= may_end_at, "{} was cut into its batches", file.path.display());
    }
    if number % GO_ON_EVERY == 0 {
        go_on(&disk, &log, hit, &seen);
    }
    !findings.faults.is_empty() || !findings.tails.is_empty()
}

/// Appends behind the damage, closes and opens again: what was readable stays so.
fn go_on(disk: &SimDisk, log: &Log, hit: Option<Batch>, before: &Seen) {
    let end = log.end_offset().get();
    log.lead(LeaderEpoch::new(3));
    append_to(log, end + 6);
    log.close().unwrap();
    let (log, _) = Log::open(opening(disk, Mode::ReadWrite), CLEAN).unwrap();
    assert_eq!(log.end_offset().get(), end + 6);
    let after = read_all(&log, Reads::Mapped);
    check(&after, end + 6, hit);
    for (offset, value) in &before.0 {
        assert_eq!(after.0.get(offset), Some(value), "offset {offset} was readable before");
    }
}

/// What went wrong with a flip.
#[derive(Debug, Clone)]
enum Wrong {
    /// `verify` did not tell of it.
    Silent,
    /// Something was lost, wrong, or panicked.
    Failed(String),
}

/// Flips every bit, on every core.
fn flip_all(left: &Left) -> Vec<(usize, Wrong)> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut wrong = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= left.bits() {
                return wrong;
            }
            match catch_unwind(AssertUnwindSafe(|| flip(left, number))) {
                Ok(true) => {}
                Ok(false) => wrong.push((number, Wrong::Silent)),
                Err(cause) => wrong.push((number, Wrong::Failed(message(cause.as_ref())))),
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn message(cause: &(dyn Any + Send)) -> String {
    match (cause.downcast_ref::<String>(), cause.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "a panic without words".to_owned(),
    }
}

fn every_flip(close: bool) {
    let left = Left::behind(close);
    let started = Instant::now();
    let wrong = flip_all(&left);
    println!("{} flips in {:?}, {} of them wrong", left.bits(), started.elapsed(), wrong.len());
    for file in &left.files {
        println!("{} {} bytes, {} to {} {:?}", file.path.display(), file.bytes.len(), file.first_position, file.data_end, file.batches.last());
    }
    let mut places: BTreeMap<(PathBuf, u64, String), usize> = BTreeMap::new();
    for (number, what) in &wrong {
        let (file, byte, _) = left.bit(*number);
        *places.entry((file.path.clone(), byte / 256 * 256, format!("{what:?}"))).or_default() += 1;
    }
    for ((path, at, what), count) in places.iter().take(60) {
        println!("{} at {at}: {count} x {what}", path.display());
    }
    assert!(wrong.is_empty());
}

#[test]
fn every_flip_after_a_clean_close_is_found_and_costs_one_batch_at_most() {
    every_flip(true);
}

#[test]
fn every_flip_after_a_kill_is_found_and_costs_one_batch_at_most() {
    every_flip(false);
}
