//! Every single bit of a small log, flipped one at a time: it is found, or it does no harm.
//!
//! Invariants
//!   1. No flip makes an open panic or fail, and none makes a reader see a byte that was not
//!      written, through mappings or copies.
//!   2. A flip in a batch costs at most that batch; a flip anywhere else costs no record.
//!   3. The log never ends below its durable evidence, no file goes, and none is cut into its
//!      batches.
//!   4. What is appended after such an open stays, and what was readable stays so. What was not
//!      is left where it is: with its bit back as it was, it is readable again.
//!   5. `verify` reports every flip.
//!   6. No flip brings back what was deleted, but where it hits the one slot that tells the log
//!      start: then `verify` tells of the slot, and the log starts where the other one says. After
//!      a clean close both tell it.
//!
//! All files of the log are covered, byte by byte and bit by bit: a full segment, one that a later
//! cut ended early, and one that begins at the cut.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::{Compression, DedupWindow, Durability, ManualClock, Reads};
use crate::error::Error;
use crate::format::{BatchHeader, Identity, Record};
use crate::fs::Disk;
use crate::fs::sim::SimDisk;
use crate::id::{Incarnation, LeaderEpoch, Offset, PartitionId, TopicId};
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::place::Place;
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening, find};
use crate::log::retain::Keep;
use crate::log::verify::{Closing, verify_partition};
use crate::log::writer::Origin;

const DIR: &str = "topics/flips-1/0";
const CLEAN: Entrance = Entrance::Clean { since: Incarnation::new(1) };
/// Where the slots of a segment lie, which tell the log start.
const SLOTS: std::ops::Range<u64> = 4096..12_288;
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
            dedup: DedupWindow::Off,
            incarnation: Incarnation::new(1),
            keep: Keep::ALL,
        },
        mode,
        clock: Arc::new(ManualClock::new(1_700_000_000_000)),
        housekeeper: None,
        handles: Arc::default(),
        producers: Arc::default(),
    }
}

fn value(offset: u64) -> Vec<u8> {
    let mut value = format!("value of record {offset} ").into_bytes();
    let more = 40 + usize::try_from(offset * 37 % 200).unwrap();
    value.extend((0..more).map(|at| u8::try_from((at + 11) % 251).unwrap()));
    value
}

/// Appends batches of three records until the log ends at or above `end`.
fn append_to(log: &Log, end: u64, compression: Compression) {
    while log.end_offset().get() < end {
        let first = log.end_offset().get();
        let values = [value(first), value(first + 1), value(first + 2)];
        let records = values.each_ref().map(|value| Record::new(value).key("key"));
        let appended = log.append_of(Origin::Own, &records, compression).unwrap();
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

impl File {
    /// Where the last batch ends that readers can see.
    fn live_end(&self) -> u64 {
        self.batches.last().map_or(self.first_position, |batch| batch.end)
    }
}

/// A log as it was left, and what is known of it.
struct Left {
    disk: SimDisk,
    entrance: Entrance,
    files: Vec<File>,
    values: Vec<Vec<u8>>,
    end: u64,
    /// What an open must not end below, whichever bit is flipped.
    evidence: u64,
    compression: Compression,
    /// The log start, and what it was before it moved the last time.
    start: u64,
    start_before: u64,
}

/// Whether records were deleted, by retention and on request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deleted {
    Nothing,
    TheOldest,
}

impl Left {
    /// Three files; the middle one was cut, by the third. If the oldest is deleted, a file that
    /// was before them is gone by retention, and half of a batch in the first.
    fn behind(close: bool, deleted: Deleted) -> Left {
        Self::compressed(close, deleted, Compression::None)
    }

    fn compressed(close: bool, deleted: Deleted, compression: Compression) -> Left {
        let full = if deleted == Deleted::TheOldest { 2 } else { 1 };
        let disk = SimDisk::new();
        let (log, _) = Log::open(opening(&disk, Mode::ReadWrite), Entrance::Unclean).unwrap();
        log.lead(LeaderEpoch::new(1));
        append_to(&log, 1, compression);
        while log.segments().len() <= full {
            append_to(&log, log.end_offset().get() + 1, compression);
        }
        let begun = log.segments()[full].base.get();
        append_to(&log, begun + 9, compression);
        assert_eq!(log.segments().len(), full + 1, "full segments, and part of another");
        let cut = log.end_offset().get() - 3;
        assert!(begun < cut, "the cut ends the second segment early");
        log.truncate_to(Offset::new(cut)).unwrap();
        log.lead(LeaderEpoch::new(2));
        append_to(&log, cut + 12, compression);
        let end = log.end_offset().get();
        let (start, start_before) =
            if deleted == Deleted::TheOldest { delete_the_oldest(&log) } else { (0, 0) };
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
        // After an unclean end nothing vouches for the last batch: it may be the last sync's.
        let evidence = if close { end } else { files[2].batches.last().unwrap().first };
        let values = (0..end + 12).map(value).collect();
        Left { disk, entrance, files, values, end, evidence, compression, start, start_before }
    }

    fn newest(&self) -> &File {
        &self.files[2]
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

/// Deletes a file by retention, and a batch and part of the next on request. Returns the log start,
/// and what it was before that request.
fn delete_the_oldest(log: &Log) -> (u64, u64) {
    let bases: Vec<_> = log.segments().iter().map(|segment| segment.base.get()).collect();
    // What the cut left of its file and the one after it hold less than this.
    log.set_limits(4 << 10, Keep { retention_bytes: Some(8_000), ..Keep::ALL });
    log.housekeep(Duration::from_secs(1_700_000_000)).1.unwrap();
    log.set_limits(4 << 10, Keep::ALL);
    assert_eq!(log.start_offset().get(), bases[1], "the first file is gone, and no other");
    log.trim_to(Offset::new(bases[1] + 4)).unwrap();
    (bases[1] + 4, bases[1])
}

/// What a reader got: which offsets, and which it was told that it cannot get.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    read: Vec<bool>,
    told: Vec<bool>,
}

/// Reads everything, goes on behind damage, and compares each value with what was written.
fn read_all(left: &Left, log: &Log, reads: Reads) -> Seen {
    let end = log.end_offset();
    let offsets = usize::try_from(end.get()).unwrap();
    let mut seen = Seen { read: vec![false; offsets], told: vec![false; offsets] };
    let mut cursor = ReadCursor::at(log.start_offset());
    loop {
        match log.read(&mut cursor, end, 1 << 20, reads) {
            Ok(Some(chunk)) => {
                for record in chunk.records() {
                    let offset = usize::try_from(record.offset.get()).unwrap();
                    assert!(!seen.read[offset], "offset {offset} was handed out twice");
                    seen.read[offset] = true;
                    let value = record.record.value;
                    assert_eq!(value, Some(&*left.values[offset]), "offset {offset}");
                }
            }
            Ok(None) => break,
            Err(Error::Corrupt(corruption)) => {
                let (first, end) = (corruption.first.get(), corruption.end.get());
                assert!(first < end, "{corruption}");
                (first..end).for_each(|at| seen.told[usize::try_from(at).unwrap()] = true);
                cursor = ReadCursor::at(corruption.end);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(cursor.offset(), end, "a read stopped short of the end");
    seen
}

impl Seen {
    /// Every offset from the log start on was read or told of, and only those of the batch that was
    /// hit were lost; none below.
    fn check(&self, hit: Option<Batch>, start: u64) {
        for (offset, (read, told)) in (0_u64..).zip(self.read.iter().zip(&self.told)) {
            if offset < start {
                assert!(!read, "offset {offset} is back, below the log start {start}");
                continue;
            }
            assert!(read != told, "offset {offset} was neither read nor told of, or both");
            let may_go = hit.is_some_and(|batch| (batch.first..batch.next).contains(&offset));
            assert!(*read || may_go, "offset {offset} was lost to a flip elsewhere");
        }
    }
}

/// Flips one bit and looks at everything. True if `verify` told of it.
fn flip(left: &Left, number: usize) -> bool {
    let (file, byte, bit) = left.bit(number);
    let disk = left.disk.snapshot();
    disk.flip_bit(&file.path, byte, bit).unwrap();
    let hit = file.batches.iter().find(|b| (b.start..b.end).contains(&byte)).copied();

    let findings =
        verify_partition(&opening(&disk, Mode::ReadOnly), Entrance::Unclean, Closing::Checked)
            .unwrap();
    if bit == 0 {
        let (log, _) = Log::open(opening(&disk, Mode::ReadOnly), Entrance::Unclean).unwrap();
        read_all(left, &log, Reads::Copied).check(hit, log.start_offset().get());
    }
    let (log, _) = Log::open(opening(&disk, Mode::ReadWrite), left.entrance).unwrap();
    log.check_latch().unwrap();
    let end = log.end_offset().get();
    assert!(end == left.end || (end >= left.evidence && hit.is_some()), "ends at {end}");
    // Who reads first verifies: both ways have their turns.
    let (first, second) = match number % 2 {
        0 => (Reads::Mapped, Reads::Copied),
        _ => (Reads::Copied, Reads::Mapped),
    };
    let start = log.start_offset().get();
    let in_slots = *file.path == *left.newest().path && SLOTS.contains(&byte);
    let may_fall_back = in_slots && left.entrance == Entrance::Unclean;
    assert!(
        start == left.start || (may_fall_back && (left.start_before..left.start).contains(&start)),
        "starts at {start}"
    );
    let seen = read_all(left, &log, first);
    seen.check(hit, start);
    assert_eq!(seen, read_all(left, &log, second), "the two ways to read differ");
    assert_eq!(disk.files().len(), left.files.len(), "files came or went");
    for file in &left.files {
        let kept = disk.stat(&file.path).unwrap().bytes;
        let torn = end < left.end && hit.is_some_and(|batch| batch.end == file.data_end);
        let least = if torn { hit.map_or(0, |batch| batch.start) } else { file.data_end };
        assert!(kept >= least, "{} was cut into its batches", file.path.display());
    }
    if number.is_multiple_of(GO_ON_EVERY) {
        go_on(left, (&disk, number), &log, hit, &seen);
    }
    !findings.faults.is_empty() || !findings.tails.is_empty()
}

/// Appends behind the damage, closes and opens again: what was readable stays so.
fn go_on(
    left: &Left,
    (disk, number): (&SimDisk, usize),
    log: &Log,
    hit: Option<Batch>,
    before: &Seen,
) {
    let (start, end) = (log.start_offset(), log.end_offset().get());
    log.lead(LeaderEpoch::new(3));
    append_to(log, end + 6, left.compression);
    log.close().unwrap();
    let (log, _) = Log::open(opening(disk, Mode::ReadWrite), CLEAN).unwrap();
    assert_eq!((log.start_offset(), log.end_offset().get()), (start, end + 6));
    let after = read_all(left, &log, Reads::Mapped);
    after.check(hit, start.get());
    assert!(after.read.starts_with(&before.read), "what was readable is not any more");
    if end == left.end {
        is_healed(left, disk, number);
    }
}

/// Nothing was cut, so that what could not be read is still there: with the bit back as it was,
/// everything is readable.
fn is_healed(left: &Left, disk: &SimDisk, number: usize) {
    let (file, byte, bit) = left.bit(number);
    disk.flip_bit(&file.path, byte, bit).unwrap();
    let (log, _) = Log::open(opening(disk, Mode::ReadOnly), Entrance::Unclean).unwrap();
    let seen = read_all(left, &log, Reads::Mapped);
    let offset = |offset: u64| usize::try_from(offset).unwrap();
    assert!(
        seen.read[offset(left.start)..offset(left.end)].iter().all(|read| *read),
        "what was damaged was destroyed"
    );
}

/// What went wrong with a flip.
#[derive(Debug)]
enum Wrong {
    /// `verify` did not tell of it.
    Silent,
    /// Something was lost, wrong, or panicked.
    Failed(String),
}

/// Which bits are flipped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// One of each byte, each of the eight in turn.
    OneOfEachByte,
}

/// Flips the bits, on every core.
fn flip_all(left: &Left, which: Which) -> Vec<(usize, Wrong)> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut wrong = Vec::new();
        loop {
            let number = match (which, next.fetch_add(1, Ordering::Relaxed)) {
                (Which::All, number) => number,
                (Which::OneOfEachByte, byte) => byte * 8 + byte % 8,
            };
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

fn every_flip(left: &Left, which: Which) {
    let mut silent = 0;
    for (number, what) in flip_all(left, which) {
        let (file, byte, bit) = left.bit(number);
        // With what fills its page up.
        let was_cut = file.live_end() < file.data_end;
        let void_end = file.data_end.next_multiple_of(4096);
        let void = was_cut && (file.live_end()..void_end).contains(&byte);
        match what {
            // What a cut voided is nobody's any more, and not looked at.
            Wrong::Silent if void => silent += 1,
            Wrong::Silent => panic!("bit {bit} of byte {byte} of {}: silent", file.path.display()),
            Wrong::Failed(why) => {
                panic!("bit {bit} of byte {byte} of {}: {why}", file.path.display())
            }
        }
    }
    println!("of {} bits, {silent} that were flipped are in void batches", left.bits());
}

#[test]
fn every_flip_after_a_clean_close_is_found_and_costs_one_batch_at_most() {
    every_flip(&Left::behind(true, Deleted::Nothing), Which::All);
}

#[test]
fn every_flip_after_a_kill_is_found_and_costs_one_batch_at_most() {
    every_flip(&Left::behind(false, Deleted::Nothing), Which::All);
}

#[test]
fn no_flip_brings_back_what_was_deleted_or_takes_what_was_not_after_a_clean_close() {
    every_flip(&Left::behind(true, Deleted::TheOldest), Which::OneOfEachByte);
}

#[test]
fn no_flip_brings_back_what_was_deleted_or_takes_what_was_not_after_a_kill() {
    every_flip(&Left::behind(false, Deleted::TheOldest), Which::OneOfEachByte);
}

#[cfg(feature = "lz4")]
#[test]
fn a_flip_in_a_log_of_compressed_batches_is_found_and_costs_one_batch_at_most() {
    let left = Left::compressed(true, Deleted::Nothing, Compression::Lz4);
    let records = left.files.iter().flat_map(|file| &file.batches).map(|b| b.next - b.first);
    let stored: u64 = left.files.iter().flat_map(|f| &f.batches).map(|b| b.end - b.start).sum();
    assert!(stored < records.sum::<u64>() * 150, "{stored} bytes are no compressed ones");
    every_flip(&left, Which::OneOfEachByte);
}
