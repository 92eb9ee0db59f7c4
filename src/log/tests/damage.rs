//! What lies below the durable evidence is never cut away.
//!
//! Invariants
//!   1. A batch that does not verify ends the log only above the evidence; below it the batch is
//!      damage, told of, and those behind it are read.
//!   2. Zeros are no exception.
//!   3. What a crash may leave half-written is no fault, until a clean close said that it is whole.

use super::bench::{Bench, History, Setting, opening};
use super::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
use crate::config::{FETCH_BYTES, Reads};
use crate::error::Error;
use crate::format::{DATA_START, SLOT_POSITIONS};
use crate::id::{Incarnation, Offset};
use crate::log::core::Mode;
use crate::log::read::ReadCursor;
use crate::log::recover::Entrance;
use crate::log::verify::{Closing, verify_partition};

/// Five synced batches, of which the third is overwritten.
fn damaged(by: impl Fn(&mut [u8])) -> SimDisk {
    let disk = SimDisk::new();
    let mut history = History::default();
    let mut bench = Bench::begin(&disk, &mut history, Setting::default()).expect("a new log opens");
    let mut ends = Vec::new();
    for _ in 0..5 {
        bench.append(&[300]).expect("nothing fails");
        ends.push(bench.log().segments()[0].end_position());
    }
    bench.kill();
    drop(bench);
    let file = disk.files().into_iter().find(|path| path.extension().is_some_and(|e| e == "log"));
    let file = file.expect("there is a segment");
    let mut bytes = disk.read_file(&file).expect("it can be read");
    let at = |position: u64| usize::try_from(position).expect("a small file");
    assert!(ends[1] > DATA_START);
    by(&mut bytes[at(ends[1])..at(ends[2])]);
    disk.write_file(&file, &bytes).expect("it can be written");
    disk
}

fn is_kept(disk: &SimDisk) {
    let mut history = History::default();
    let mut bench = Bench::begin(disk, &mut history, Setting::default()).expect("the log opens");
    for _ in 0..2 {
        let log = bench.log();
        assert_eq!(log.end_offset(), Offset::new(5), "the log ends where it did");
        for offset in [0, 1, 3, 4] {
            let mut cursor = ReadCursor::at(Offset::new(offset));
            let read = log.read(&mut cursor, Offset::new(5), 1, Reads::Mapped);
            assert!(matches!(read, Ok(Some(_))), "offset {offset} is readable: {read:?}");
        }
        let mut cursor = ReadCursor::at(Offset::new(2));
        let read = log.read(&mut cursor, Offset::new(5), FETCH_BYTES, Reads::Mapped);
        let Err(Error::Corrupt(corruption)) = read else { panic!("not told of: {read:?}") };
        assert_eq!((corruption.first, corruption.end), (Offset::new(2), Offset::new(3)));
        bench.close_unchecked();
        bench.open().expect("the log opens again");
    }
}

#[test]
fn a_bad_batch_below_the_evidence_does_not_end_the_log() {
    is_kept(&damaged(|batch| batch[100] ^= 1));
}

#[test]
fn zeros_below_the_evidence_do_not_end_the_log() {
    is_kept(&damaged(|batch| batch.fill(0)));
}

#[test]
fn a_slot_that_a_crash_tore_is_no_fault_and_one_that_rotted_is() {
    for closed in [false, true] {
        let disk = SimDisk::new();
        let mut history = History::default();
        let mut bench = Bench::begin(&disk, &mut history, Setting::default()).expect("it opens");
        bench.append(&[300]).expect("nothing fails");
        if closed {
            bench.close_unchecked();
        }
        bench.kill();
        drop(bench);
        let file =
            disk.files().into_iter().find(|path| path.extension().is_some_and(|e| e == "log"));
        let file = file.expect("there is a segment");
        disk.flip_bit(&file, SLOT_POSITIONS[0] + 20, 3).expect("it is within the file");
        let opening = opening(&disk, Setting::default(), 1, Mode::ReadOnly);
        let left =
            if closed { Entrance::Clean { since: Incarnation::new(1) } } else { Entrance::Unclean };
        let findings =
            verify_partition(&opening, left, Closing::Checked).expect("it can be looked at");
        let told = (findings.faults.len(), findings.tails.len());
        assert_eq!(told, if closed { (1, 0) } else { (0, 1) }, "{findings:?}");
    }
}

#[test]
fn what_was_appended_is_not_served_where_the_medium_does_not_give_it_back() {
    let disk = SimDisk::new();
    let mut history = History::default();
    let bench = Bench::begin(&disk, &mut history, Setting::default());
    let mut bench = bench.expect("a new log opens");
    for _ in 0..3 {
        bench.append(&[9_000]).expect("nothing fails");
    }
    let log = bench.log();
    let read = || {
        let mut cursor = ReadCursor::at(Offset::new(1));
        let chunk = log.read(&mut cursor, Offset::new(3), 1, Reads::Copied)?;
        let chunk = chunk.expect("it is there");
        let record = chunk.records().next().expect("it has one");
        Ok::<_, Error>(record.record.value.expect("a value").to_vec())
    };
    let appended = read().expect("nothing fails");
    let mut refused = 0;
    // One read fails, and then one of a block of the same.
    for first in 1..8 {
        for second in first + 1..first + 6 {
            for at in [first, second] {
                let (call, what) = (Some(Call::Read), FaultKind::Eio);
                disk.arm(Fault { at, call, what, how_long: HowLong::Once });
            }
            match read() {
                Ok(served) => assert!(served == appended, "reads {first} and {second}"),
                Err(_) => refused += 1,
            }
            disk.disarm();
        }
    }
    assert!(refused > 0, "no read was refused");
}
