//! Crashes and failures in a row, each of which once lost something.
//!
//! Invariants
//!   1. What one process left unsynced in the page cache, a file's name included, is on the medium
//!      before the next process acknowledges anything that rests on it.
//!   2. What a disk does not give back now is not taken for something that never was.
//!   3. After a failed sync of a log's folder nothing in it is acknowledged any more, whoever asked
//!      for that sync (I9).

use super::bench::{Bench, History, Setting, check, opening, read_all};
use super::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::config::{Durability, Reads};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::id::Offset;
use crate::log::core::{Log, Mode};
use crate::log::recover::Entrance;
use crate::log::retain::Keep;

const OS: Setting = Setting { durability: Durability::Os, allocates: true, keep: Keep::ALL };

fn rolls(bench: &mut Bench<'_>) -> Result<()> {
    (0..4).try_for_each(|_| bench.append(&[9000]))
}

/// 1. A roll renames the new file, and the process is killed before it syncs the folder. 2. The
/// next one finds the name in the page cache, appends to that file, syncs it and acknowledges.
/// 3. The power is cut: without a sync of the folder by the second process the file has no name.
#[test]
fn what_a_killed_process_left_unsynced_is_synced_by_the_next() {
    for setting in [Setting::default(), OS] {
        for calls in 0.. {
            let disk = SimDisk::new();
            let mut history = History::default();
            disk.write_file("topics/.made", b"").expect("it can be made");
            disk.kill_after(calls);
            let ended =
                Bench::begin(&disk, &mut history, setting).and_then(|mut bench| rolls(&mut bench));
            let over = ended.is_ok();
            let mut bench = Bench::resume(&disk, &mut history, setting);
            let went_on =
                bench.open().and_then(|()| bench.append(&[100])).and_then(|()| bench.sync());
            assert!(went_on.is_ok(), "{went_on:?}");
            bench.power_cycle(&Loss::All);
            drop(bench);
            check(&disk, &history).unwrap_or_else(|why| panic!("killed after {calls}: {why}"));
            if over {
                break;
            }
        }
    }
}

/// 1. The disk gives back a file's name and length and no block of it. 2. The open takes that for
/// a file that never was, or a torn tail, and the next append begins anew in its place. 3. The disk
/// reads again: what was acknowledged is gone. Instead the log halts, and changes nothing.
#[test]
fn what_cannot_be_read_is_not_taken_for_a_torn_tail() {
    for at in 1.. {
        let disk = SimDisk::new();
        let mut history = History::default();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let mut bench =
            Bench::begin(&disk, &mut history, Setting::default()).expect("a new log opens");
        rolls(&mut bench).expect("nothing fails");
        bench.kill();
        let fired = disk.fired();
        for (call, at) in [(Call::Populate, 1), (Call::Read, at)] {
            let (what, how_long) = (FaultKind::Eio, HowLong::Forever);
            disk.arm(Fault { at, call: Some(call), what, how_long });
        }
        if let Ok(log) = bench.open_unchecked() {
            let appended = log.append(&[crate::format::Record::new("more")]);
            if appended.is_err() {
                assert!(
                    matches!(appended, Err(Error::Halted { .. } | Error::Io(_))),
                    "{appended:?}"
                );
                let found = read_all(&log, Reads::Mapped);
                assert!(found.is_err() || found.is_ok_and(|found| found.end <= 4));
            }
        }
        let met = disk.fired_at().contains(&(Call::Read, FaultKind::Eio));
        assert!(disk.fired() > fired);
        disk.disarm();
        bench.kill();
        drop(bench);
        if !met {
            break;
        }
        check(&disk, &history).unwrap_or_else(|why| panic!("unreadable from {at}: {why}"));
    }
}

fn once(call: Call, what: FaultKind, at: u64) -> Fault {
    Fault { at, call: Some(call), what, how_long: HowLong::Once }
}

/// 1. A file below the log start could not be removed. 2. A roll renames a new file; its name is
/// not synced yet. 3. The file is removed after all, and the sync of the folder fails. 4. The next
/// round syncs the folder again, is told that all is well, and acknowledges. 5. Power cut: the new
/// file's name is gone.
#[test]
fn a_removal_whose_folder_sync_failed_ends_the_acknowledgements() {
    let disk = SimDisk::new();
    let mut history = History::default();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let mut bench = Bench::begin(&disk, &mut history, Setting::default()).expect("it opens");
    (0..12).try_for_each(|_| bench.append(&[9000])).expect("nothing fails");
    let log = std::sync::Arc::clone(bench.log());
    let start = log.end_offset();
    disk.arm(once(Call::Rename, FaultKind::Erofs, 1));
    log.trim_to(start).expect_err("a file could not be removed");
    let files = log.segments().len();
    while log.segments().len() == files {
        log.append(&[Record::new(&vec![7; 9000])]).expect("nothing fails");
    }
    let end = log.end_offset();
    disk.arm(once(Call::SyncDir, FaultKind::Eio, 1));
    log.trim_to(start).expect_err("the folder could not be synced");
    let synced = log.sync_to(end);
    let left = disk.crash(&Loss::All);
    let opened =
        Log::open(opening(&left, Setting::default(), 9, Mode::ReadWrite), Entrance::Unclean);
    let found = opened.expect("it opens").0.end_offset();
    assert!(synced.is_err() || found == end, "acknowledged to {end:?}, found to {found:?}");
    assert!(matches!(synced, Err(Error::Halted { .. })), "{synced:?}");
}

/// The same of files that a cut voided.
#[test]
fn voided_files_whose_folder_sync_failed_end_the_acknowledgements() {
    let disk = SimDisk::new();
    let mut history = History::default();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let mut bench = Bench::begin(&disk, &mut history, Setting::default()).expect("it opens");
    (0..12).try_for_each(|_| bench.append(&[9000])).expect("nothing fails");
    let log = bench.log();
    // The three folders of the cut's own file come first.
    disk.arm(once(Call::SyncDir, FaultKind::Eio, 4));
    log.truncate_to(Offset::new(1)).expect("the cut itself was made");
    assert_eq!(disk.fired(), 1);
    let halted = log.append(&[Record::new("more")]);
    assert!(matches!(halted, Err(Error::Halted { .. })), "{halted:?}");
}
