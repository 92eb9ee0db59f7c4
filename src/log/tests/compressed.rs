//! Compressed batches in a log.
//!
//! Invariants
//!   1. They are read as what was sent, from any offset, with any limit, in either way, also among
//!      batches that are not compressed, and after the next open.
//!   2. One that does not become its records, however good its checksums are, is damage: told for
//!      exactly its offsets by whoever reads it, and by `verify`. It is no damage to an open.
//!   3. Nothing is compressed under the writer lock.
//!   4. Without the codec they are no damage: who would read them is told what is missing.

#![cfg_attr(
    not(all(feature = "lz4", feature = "zstd")),
    allow(dead_code, unused_imports, reason = "only what needs no codec is run")
)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::bench::{Setting, opening};
use super::sim::SimDisk;
use crate::config::{Clock, Compression, Durability, FETCH_BYTES, Reads};
use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, Identity, Record};
use crate::id::{LeaderEpoch, Offset};
use crate::log::core::{Log, Mode};
use crate::log::read::ReadCursor;
use crate::log::recover::{Entrance, Opening};
use crate::log::verify::{Closing, Findings, verify_partition};
use crate::log::writer::Origin;

const KINDS: [Compression; 3] = [Compression::Lz4, Compression::None, Compression::Zstd];
const BOTH: [Reads; 2] = [Reads::Mapped, Reads::Copied];

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.write_file("topics/.made", b"").expect("it can be made");
    disk
}

fn open(disk: &SimDisk, durability: Durability) -> Arc<Log> {
    let setting = Setting { durability, ..Setting::default() };
    let opening = opening(disk, setting, 1, Mode::ReadWrite);
    let (log, report) = Log::open(opening, Entrance::Unclean).expect("it opens");
    assert!(report.damage.is_empty(), "{report:?}");
    log.lead(LeaderEpoch::new(1).max(log.latest_epoch()));
    log
}

fn verify(disk: &SimDisk) -> Findings {
    let opening = opening(disk, Setting::default(), 0, Mode::ReadOnly);
    verify_partition(&opening, Entrance::Unclean, Closing::Checked).expect("it can be read")
}

/// Long enough that three of them make a batch that can be compressed, all different.
fn value(offset: u64) -> Vec<u8> {
    let times = 1 + usize::try_from(offset % 40).expect("small");
    format!("the value of the record at offset {offset} ").repeat(times).into()
}

/// Batches of one to four records, of every kind in turn, some kinds more than once.
fn fill(log: &Log, batches: u64) -> u64 {
    let mut next = 0;
    for number in 0..batches {
        let values: Vec<_> = (next..=next + number % 4).map(value).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        let kind = KINDS[usize::try_from(number / 2 % 3).expect("small")];
        let appended = log.append_of(Origin::Own, &records, kind).expect("nothing fails");
        log.sync_to(appended.end).expect("nothing fails");
        next = appended.end.get();
    }
    next
}

/// Reads from an offset to the end; returns the bytes that the batches take.
fn read(log: &Log, from: u64, limit: usize, reads: Reads) -> usize {
    let end = log.end_offset();
    let mut cursor = ReadCursor::at(Offset::new(from));
    let (mut expected, mut stored_bytes) = (from, 0);
    while let Some(chunk) = log.read(&mut cursor, end, limit, reads).expect("it is good") {
        for record in chunk.records() {
            assert_eq!(record.offset.get(), expected);
            assert_eq!(record.record.value, Some(&*value(expected)), "offset {expected}");
            let aligned = record.record.value.map(|v| v.as_ptr().align_offset(8));
            assert_eq!(aligned, Some(0), "also what was compressed");
            expected += 1;
        }
        assert_eq!(chunk.next.get(), expected);
        stored_bytes += chunk.stored_bytes;
    }
    assert_eq!(expected, end.get());
    stored_bytes
}

#[cfg(all(feature = "lz4", feature = "zstd"))]
#[test]
fn batches_of_every_kind_are_read_as_they_were_sent() {
    for durability in [Durability::Fsync, Durability::Os] {
        let disk = disk();
        let log = open(&disk, durability);
        let end = fill(&log, 60);
        let counts = log.counters.look();
        assert!(counts.bytes_saved > counts.bytes_appended / 2, "{counts:?}");
        let again = || {
            log.sync_to(log.end_offset()).expect("nothing fails");
            open(&disk.snapshot(), durability)
        };
        for log in [Arc::clone(&log), again()] {
            for reads in BOTH {
                for limit in [1, 500, 4_000, FETCH_BYTES] {
                    let stored = read(&log, 0, limit, reads) as u64;
                    assert_eq!(stored, counts.bytes_appended, "what was appended is fetched");
                    for from in (0..=end).step_by(7) {
                        read(&log, from, limit, reads);
                    }
                }
            }
        }
        assert!(verify(&disk).faults.is_empty());
    }
}

#[cfg(all(feature = "lz4", feature = "zstd"))]
#[test]
fn a_fetch_decompresses_several_batches_and_no_more_than_it_is_to() {
    let disk = disk();
    let log = open(&disk, Durability::Os);
    let value = vec![b'a'; 1_000];
    for _ in 0..20 {
        log.append_of(Origin::Own, &[Record::new(&value)], Compression::Lz4).expect("appended");
    }
    for (limit, batches) in [(1, 1), (1_152, 1), (1_153, 2), (10_000, 9), (FETCH_BYTES, 20)] {
        let mut cursor = ReadCursor::at(Offset::ZERO);
        let read = log.read(&mut cursor, log.end_offset(), limit, Reads::Mapped);
        let chunk = read.expect("it is good").expect("there is more");
        assert_eq!(chunk.records().count(), batches, "limit {limit}");
        assert_eq!(chunk.view.len(), batches * 1_152);
        assert!(chunk.stored_bytes < chunk.view.len() / 4);
    }
    let pinned = log.pinned();
    assert!(pinned.is_empty(), "records in memory of their own hold no file: {pinned:?}");
}

/// The log's one file, with one of its batches changed and sealed again.
fn forge(disk: &SimDisk, batch: usize, change: impl FnOnce(&mut BatchHeader, &mut [u8])) -> u64 {
    let of_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let path = disk.files().into_iter().find(of_log).expect("there is one");
    let mut file = disk.read_file(&path).expect("it is there");
    let identity = identity();
    let mut at = usize::try_from(crate::format::DATA_START).expect("small");
    for _ in 0..batch {
        at += BatchHeader::decode(&file[at..], &identity).expect("a batch").batch_bytes();
    }
    let mut header = BatchHeader::decode(&file[at..], &identity).expect("a batch");
    let end = at + header.batch_bytes();
    change(&mut header, &mut file[at + BATCH_HEADER_BYTES..end]);
    header.payload_crc = identity.crc(&file[at + BATCH_HEADER_BYTES..end]);
    header.encode_header(&identity, &mut file[at..]);
    disk.write_file(&path, &file).expect("it can be written");
    at as u64
}

fn identity() -> Identity {
    opening(&SimDisk::new(), Setting::default(), 0, Mode::ReadOnly).place.identity
}

/// Reads one offset, and what follows it in its fetch.
fn at(log: &Log, offset: u64, reads: Reads) -> Result<u64> {
    let mut cursor = ReadCursor::at(Offset::new(offset));
    log.read(&mut cursor, log.end_offset(), FETCH_BYTES, reads)
        .map(|chunk| chunk.expect("there is more").next.get())
}

#[cfg(all(feature = "lz4", feature = "zstd"))]
#[test]
fn a_batch_that_does_not_become_its_records_is_damage_of_exactly_its_offsets() {
    let forgeries: [fn(&mut BatchHeader, &mut [u8]); 6] = [
        |_, payload| payload.fill(0xFF),
        |_, payload| payload.reverse(),
        // Bombs: more comes out than was said, or less.
        |header, _| header.uncompressed_bytes -= 8,
        |header, _| header.uncompressed_bytes += 8,
        |header, _| header.payload_bytes -= 1,
        // Other records than were said.
        |header, _| header.record_count -= 1,
    ];
    for compression in [Compression::Lz4, Compression::Zstd] {
        for forgery in forgeries {
            let disk = disk();
            let log = open(&disk, Durability::Fsync);
            for first in (0..15).step_by(3) {
                let values: Vec<_> = (first..first + 3).map(value).collect();
                let records: Vec<_> = values.iter().map(Record::new).collect();
                log.append_of(Origin::Own, &records, compression).expect("nothing fails");
            }
            log.sync_to(log.end_offset()).expect("nothing fails");
            let disk = disk.kill();
            let position = forge(&disk, 2, forgery);

            let findings = verify(&disk);
            assert_eq!(findings.faults.len(), 1, "{findings:?}");
            let fault = &findings.faults[0];
            let offsets = Some((Offset::new(6), Offset::new(9)));
            assert_eq!((fault.position, fault.offsets), (position, offsets));
            let log = open(&disk, Durability::Fsync);
            assert_eq!(log.end_offset(), Offset::new(15));
            for reads in BOTH {
                assert_eq!(at(&log, 0, reads).ok(), Some(6), "what lies before it is good");
                for offset in 6..9 {
                    let Err(Error::Corrupt(damage)) = at(&log, offset, reads) else {
                        panic!("not told of");
                    };
                    assert_eq!(damage.first.get()..damage.end.get(), offset..9);
                    assert_eq!(damage.position, position);
                }
                read(&log, 9, FETCH_BYTES, reads);
            }
        }
    }
}

/// Tells for each of its readings whether the log's writer lock was free.
#[derive(Debug, Default)]
struct Watching {
    log: OnceLock<Weak<Log>>,
    free: Mutex<Vec<bool>>,
}

impl Clock for Watching {
    fn now_ms(&self) -> i64 {
        let log = self.log.get().and_then(Weak::upgrade);
        if let Some(log) = log {
            let free = log.writer.try_lock().is_some();
            self.free.lock().expect("no panic while it is held").push(free);
        }
        1_000_000
    }
}

/// The time of the packing is asked for while the batch is packed.
#[cfg(all(feature = "lz4", feature = "zstd"))]
/// Who copies a log need not know what is in its batches.
#[test]
fn a_copy_is_the_same_byte_for_byte_and_nothing_is_decompressed_for_it() {
    let log = open(&disk(), Durability::Os);
    let end = fill(&log, 300);
    let stored = |log: &Log| {
        let mut cursor = ReadCursor::stored_at(Offset::ZERO);
        let (mut batches, mut fetches) = (Vec::new(), 0);
        let end = log.end_offset();
        while let Some(chunk) = log.read(&mut cursor, end, 64 << 10, Reads::Mapped).expect("good") {
            assert_eq!(chunk.stored_bytes, chunk.view.len());
            batches.extend(chunk.batches().map(<[u8]>::to_vec));
            fetches += 1;
        }
        (batches, fetches)
    };
    let (batches, fetches) = stored(&log);
    assert_eq!(batches.len(), 300);
    assert!(fetches < 150, "a fetch does not end where the codec changes: {fetches}");
    let copy = open(&disk(), Durability::Os);
    for batch in &batches {
        copy.append_copied(batch).expect("it is good, and the next one");
    }
    assert_eq!(copy.end_offset(), Offset::new(end));
    assert_eq!(stored(&copy).0, batches);
    let all = |log: &Log| read(log, 0, 64 << 10, Reads::Mapped);
    assert_eq!(all(&copy), all(&log));
}

#[test]
fn a_batch_is_compressed_before_the_writer_is_locked() {
    let disk = disk();
    let clock = Arc::new(Watching::default());
    let opening = opening(&disk, Setting::default(), 1, Mode::ReadWrite);
    let shared: Arc<dyn Clock> = Arc::<Watching>::clone(&clock);
    let (log, _) = Log::open(Opening { clock: shared, ..opening }, Entrance::Unclean).unwrap();
    log.append(&[Record::new("the first one makes the file")]).expect("nothing fails");
    clock.log.set(Arc::downgrade(&log)).expect("once");
    let text = "x".repeat(500);
    let records = [Record::new(&text).timestamp(7), Record::new(&text)];
    log.append_of(Origin::Own, &records, Compression::Lz4).expect("nothing fails");
    let readings = clock.free.lock().expect("no panic while it is held").clone();
    assert_eq!(readings, [true, false], "free at the packing, and taken at the append");
}

/// A batch that says it is compressed with what this build lacks.
#[cfg(not(feature = "lz4"))]
#[test]
fn without_its_codec_a_batch_is_no_damage_and_what_is_missing_is_told() {
    let disk = disk();
    let log = open(&disk, Durability::Fsync);
    for offset in 0..3 {
        log.append(&[Record::new(&value(offset))]).expect("nothing fails");
    }
    let refused = log.append_of(Origin::Own, &[Record::new("x")], Compression::Lz4);
    assert!(matches!(refused, Err(Error::MissingFeature { feature: "lz4" })), "{refused:?}");
    log.sync_to(log.end_offset()).expect("nothing fails");
    let disk = disk.kill();
    forge(&disk, 1, |header, _| {
        header.attributes = header.attributes.with_codec(Compression::Lz4.into());
    });
    let findings = verify(&disk);
    assert!(findings.faults.is_empty() && findings.records == 3, "{findings:?}");
    let log = open(&disk, Durability::Fsync);
    assert_eq!(log.end_offset(), Offset::new(3));
    for reads in BOTH {
        assert_eq!(at(&log, 0, reads).ok(), Some(1));
        let missing = at(&log, 1, reads);
        assert!(matches!(missing, Err(Error::MissingFeature { feature: "lz4" })), "{missing:?}");
        read(&log, 2, FETCH_BYTES, reads);
    }
}
