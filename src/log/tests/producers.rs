//! What a log knows of its producers, where a part of it is damaged, cut off or deleted.
//!
//! Invariants
//!   1. A damaged section costs a longer look, and no row.
//!   2. A copy of every batch knows what the original knows, also where it was cut and copied
//!      again.
//!   3. A batch that was cut off is not held any more, whatever lies at its offsets since.
//!
//! Random histories of the same: `model` and `crash`.

use super::bench::{Bench, History, NAMED, Setting, opening, read_all};
use super::sim::SimDisk;
use crate::config::{Compression, DedupWindow, Reads};
use crate::error::Error;
use crate::format::{BatchHeader, DATA_START, PAGE, Record};
use crate::id::{LeaderEpoch, Offset};
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::recover::{Entrance, Opening};
use crate::log::scan::scan;
use crate::log::writer::Origin;

/// Enough for some files, of which the last few hold batches of other producers only.
fn rolled(bench: &mut Bench<'_>) {
    for _ in 0..8 {
        bench.append(&[9_000]).expect("nothing fails");
    }
}

fn fresh(disk: &SimDisk, test: impl FnOnce(&mut Bench<'_>)) {
    let mut history = History::default();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let mut bench = Bench::begin(disk, &mut history, Setting::default()).expect("a new log opens");
    test(&mut bench);
}

/// The segment files, oldest first.
fn files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let is_segment = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "log");
    disk.files().into_iter().filter(is_segment).collect()
}

#[test]
fn a_file_whose_beginning_is_damaged_falls_back_to_the_one_before() {
    // How many of the newest files begin with something else than they did.
    for damaged in 1..=4 {
        for (kills, footers) in [(true, false), (true, true), (false, false), (false, true)] {
            let disk = SimDisk::new();
            fresh(&disk, |bench| {
                rolled(bench);
                if kills {
                    bench.kill();
                } else {
                    bench.close().expect("it closes");
                }
                let files = files(&disk);
                assert!(files.len() > damaged);
                for path in &files[files.len() - damaged..] {
                    let mut bytes = disk.read_file(path).expect("it can be read");
                    let at = usize::try_from(DATA_START).expect("small") + 100;
                    bytes[at] ^= 1;
                    if footers && bytes.len() > 40_000 {
                        // The producers, before the footer.
                        let at = bytes.len() - 2 * PAGE + 100;
                        bytes[at] ^= 1;
                    }
                    disk.write_file(path, &bytes).expect("it can be written");
                }
                bench.open().expect("it opens");
                bench.check_producers();
                bench.append(&[100]).expect("it goes on");
                // Once more, from what was begun since.
                bench.kill();
                bench.open().expect("it opens");
                bench.check_producers();
            });
        }
    }
}

#[test]
fn a_damaged_header_of_a_file_that_begins_at_a_cut_costs_no_row_and_no_record() {
    let disk = SimDisk::new();
    fresh(&disk, |bench| {
        rolled(bench);
        bench.cut(7).expect("cut");
        bench.append(&[50, 60]).expect("appended");
        bench.kill();
        let path = files(&disk).pop().expect("there are some");
        disk.flip_bit(&path, 70, 3).expect("flipped");
        bench.open().expect("it opens");
        bench.check_producers();
        assert_eq!(bench.log().end_offset(), Offset::new(9), "both records are there");
    });
}

#[test]
fn what_was_cut_off_is_not_held_whatever_is_there_now() {
    let disk = SimDisk::new();
    fresh(&disk, |bench| {
        let log = std::sync::Arc::clone(bench.log());
        let append = |count: usize| {
            let records = vec![Record::new("r"); count];
            log.append(&records).expect("appended")
        };
        let (kept, gone) = (append(2), append(2));
        assert!(log.holds(&kept) && log.holds(&gone));
        // A cut that takes nothing takes nothing.
        log.truncate_to(log.end_offset()).expect("cut");
        assert!(log.holds(&kept) && log.holds(&gone));
        log.truncate_to(gone.base).expect("cut");
        log.lead(LeaderEpoch::new(9));
        assert!(log.holds(&kept) && !log.holds(&gone));
        // Others at the same offsets, deleted since: a look at the log would tell no difference.
        let others = append(4);
        assert!(others.base == gone.base && log.holds(&others));
        log.trim_to(others.end).expect("trimmed");
        assert!(log.holds(&kept) && log.holds(&others) && !log.holds(&gone));
    });
}

#[test]
fn the_rows_of_a_deleted_log_stay() {
    let disk = SimDisk::new();
    fresh(&disk, |bench| {
        rolled(bench);
        let known = bench.log().last_sequence(NAMED);
        assert!(known.is_some());
        let end = bench.log().end_offset().get();
        bench.trim(end).expect("trimmed");
        for _ in 0..3 {
            bench.close().expect("it closes");
            bench.open().expect("it opens");
            assert_eq!(bench.log().last_sequence(NAMED), known);
        }
    });
}

/// The batches of a log as they lie in its files.
fn batches(log: &Log) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    for segment in log.segments().iter() {
        let first = segment.first_position;
        let length = usize::try_from(segment.end_position() - first).expect("small");
        let view = segment.window(log.disk.as_ref(), first, length, Reads::Copied);
        let view = view.expect("nothing fails");
        let identity = &log.place.identity;
        for run in &scan(view.bytes(), first, identity, segment.base, segment.clip()).runs {
            let mut at = usize::try_from(run.position - first).expect("small");
            let end = usize::try_from(run.end_position - first).expect("small");
            while at < end {
                let header = BatchHeader::decode_trusted(&view.bytes()[at..]).expect("scanned");
                batches.push(view.bytes()[at..at + header.batch_bytes()].to_vec());
                at += header.batch_bytes();
            }
        }
    }
    batches
}

/// An empty log in the place of the bench's, on another disk.
fn follower(disk: &SimDisk, bench: &Bench<'_>, dedup: DedupWindow) -> std::sync::Arc<Log> {
    disk.write_file("topics/.made", b"").expect("it can be made");
    let opening = opening(disk, Setting::default(), 1, Mode::ReadWrite);
    let options = LogOptions { dedup, ..opening.options };
    let opening = Opening { producers: bench.live(), options, ..opening };
    Log::open(opening, Entrance::Unclean).expect("it opens").0
}

fn is_a_copy(copy: &Log, original: &Log) {
    let known = |log: &Log| {
        let writer = log.writer.lock();
        (writer.producers.rows(), writer.epochs.entries().to_vec(), writer.next)
    };
    assert_eq!(known(copy), known(original));
    assert_eq!(batches(copy), batches(original), "byte for byte");
    copy.sync_to(copy.end_offset()).expect("nothing fails");
    let found = read_all(copy, Reads::Mapped).expect("it can be read");
    assert_eq!(found.end, copy.end_offset().get());
}

#[test]
fn a_copy_of_every_batch_knows_what_the_original_knows() {
    let (disk, other) = (SimDisk::new(), SimDisk::new());
    fresh(&disk, |bench| {
        bench.compression = Compression::None;
        for size in [100, 9_000, 300, 12_000, 50, 60, 7_000, 9_000] {
            bench.append(&[size, 20]).expect("nothing fails");
        }
        bench.cut(10).expect("cut");
        for size in [400, 9_000, 80] {
            bench.append(&[size]).expect("nothing fails");
        }
        let original = std::sync::Arc::clone(bench.log());
        let copy = follower(&other, bench, DedupWindow::Off);
        let batches = batches(&original);
        for batch in &batches {
            copy.append_copied(batch).expect("it is good, and the next one");
        }
        is_a_copy(&copy, &original);

        let again = copy.append_copied(batches.last().expect("there are some"));
        assert!(matches!(again, Err(Error::OffsetOutOfRange(_))), "{again:?}");
        copy.truncate_to(Offset::new(4)).expect("cut");
        for batch in &batches {
            let header = BatchHeader::decode_trusted(batch).expect("good");
            if header.base_offset >= Offset::new(4) {
                let mut damaged = batch.clone();
                *damaged.last_mut().expect("not empty") ^= 1;
                let refused = copy.append_copied(&damaged);
                assert!(refused.is_err_and(|error| error.is_corruption()));
                copy.append_copied(batch).expect("it is good, and the next one");
            }
        }
        is_a_copy(&copy, &original);
        copy.close().expect("it closes");
    });
}

#[test]
fn a_batch_of_an_older_epoch_is_not_copied_behind_a_newer_one() {
    let (disk, other) = (SimDisk::new(), SimDisk::new());
    fresh(&disk, |bench| {
        bench.append(&[10]).expect("nothing fails");
        let old = batches(bench.log());
        let copy = follower(&other, bench, DedupWindow::Off);
        copy.append_copied(&old[0]).expect("it is good");
        copy.lead(LeaderEpoch::new(5));
        copy.append(&[Record::new("of a newer epoch")]).expect("appended");
        bench.append(&[10, 10]).expect("nothing fails");
        bench.append(&[10]).expect("nothing fails");
        let old = batches(bench.log());
        let refused = copy.append_copied(&old[2]);
        assert!(matches!(refused, Err(Error::Truncated { .. })), "{refused:?}");
    });
}

#[test]
fn a_copy_tells_the_same_duplicates() {
    let (disk, leading, following) = (SimDisk::new(), SimDisk::new(), SimDisk::new());
    fresh(&disk, |bench| {
        let original = follower(&leading, bench, DedupWindow::Retained);
        let keys: Vec<String> = (0..40).map(|n| format!("key {n} {}", "k".repeat(400))).collect();
        let append = |log: &Log, key: &String, compression| {
            let records = [Record::new(key).dedup_by_value()];
            log.append_of(Origin::Own, &records, compression).expect("nothing fails")
        };
        for (n, key) in keys.iter().enumerate() {
            let kind = if n % 2 == 0 { Compression::None } else { Compression::default() };
            append(&original, key, kind);
        }
        let copy = follower(&following, bench, DedupWindow::Retained);
        for batch in batches(&original) {
            copy.append_copied(&batch).expect("it is good, and the next one");
        }
        let end = copy.end_offset();
        for (offset, key) in (0..).zip(&keys) {
            let there = append(&copy, key, Compression::None).placed(0);
            assert!(there.duplicate && there.offset == Offset::new(offset), "{there:?}");
        }
        assert_eq!(copy.end_offset(), end, "nothing was written");
    });
}
