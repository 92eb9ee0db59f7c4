//! What a log knows of its producers, where a part of it is damaged, cut off or deleted.
//!
//! Invariants
//!   1. A damaged section costs a longer look, and no row.
//!   2. A batch that was cut off is not held any more, whatever lies at its offsets since.
//!
//! Random histories of the same: `model` and `crash`.

use super::bench::{Bench, History, NAMED, Setting};
use super::sim::SimDisk;
use crate::format::{DATA_START, PAGE, Record};
use crate::id::{LeaderEpoch, Offset};

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
