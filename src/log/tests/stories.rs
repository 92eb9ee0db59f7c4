//! Crashes and failures in a row, each of which once lost something.
//!
//! Invariants
//!   1. What one process left unsynced in the page cache, a file's name included, is on the medium
//!      before the next process acknowledges anything that rests on it.
//!   2. What a disk does not give back now is not taken for something that never was.

use super::bench::{Bench, History, Setting, check, read_all};
use super::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::config::{Durability, Reads};
use crate::error::{Error, Result};
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
