//! Many logs on few descriptors and mappings.
//!
//! Invariants
//!   1. However many logs are appended to, and segments read, no more files stay open and no more
//!      of them mapped for readers than was agreed.
//!   2. Nothing else is noticed of it: what is acknowledged is durable, and all of it is read.
//!   3. Where a file cannot be opened again for the moment, who waits for a sync is told that, and
//!      the log goes on.

use std::path::PathBuf;
use std::sync::Arc;

use super::bench::{Setting, opening};
use super::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::config::{Durability, FETCH_BYTES, Reads};
use crate::error::Outcome;
use crate::format::{Identity, Record};
use crate::id::{LeaderEpoch, Offset, PartitionId, TopicId};
use crate::log::core::{Log, Mode};
use crate::log::handles::Handles;
use crate::log::place::Place;
use crate::log::read::ReadCursor;
use crate::log::recover::Entrance;

const LOGS: u32 = 20;
const FILES: usize = 4;
const ROUNDS: usize = 9;
const MAPPINGS: usize = 5;

fn open(disk: &SimDisk, handles: &Arc<Handles>, durability: Durability) -> Vec<Arc<Log>> {
    let setting = Setting { durability, ..Setting::default() };
    let open = |number| {
        let mut opening = opening(disk, setting, 1, Mode::ReadWrite);
        opening.place = Arc::new(Place {
            topic: Arc::from("t"),
            identity: Identity::new(TopicId::new(1), 0x5a17, PartitionId::new(number)),
            dir: PathBuf::from(format!("topics/t-1/{number}")),
        });
        opening.handles = Arc::clone(handles);
        let (log, _) = Log::open(opening, Entrance::Unclean).expect("a new log opens");
        log.lead(LeaderEpoch::new(1));
        log
    };
    (0..LOGS).map(open).collect()
}

fn value(log: usize, round: usize) -> Vec<u8> {
    vec![u8::try_from(log * 7 + round).expect("small"); 9_000]
}

fn read(log: &Log) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut cursor = ReadCursor::at(Offset::ZERO);
    let end = log.end_offset();
    while let Some(chunk) =
        log.read(&mut cursor, end, FETCH_BYTES, Reads::Mapped).expect("it can be read")
    {
        values.extend(chunk.records().filter_map(|r| r.record.value.map(<[u8]>::to_vec)));
    }
    values
}

#[test]
fn many_logs_hold_few_files_and_mappings() {
    for durability in [Durability::Fsync, Durability::Os] {
        let disk = SimDisk::new();
        // A volume makes this folder's name durable; a log those below it.
        disk.write_file("topics/.made", b"").expect("it can be made");
        let handles = Arc::new(Handles::new(FILES, MAPPINGS));
        let logs = open(&disk, &handles, durability);
        for round in 0..ROUNDS {
            for (number, log) in logs.iter().enumerate() {
                let value = value(number, round);
                let appended = log.append(&[Record::new(&value)]).expect("nothing fails");
                if durability == Durability::Fsync {
                    log.sync_to(appended.end).expect("nothing fails");
                }
                while log.seal_one().expect("nothing fails") {}
                log.look_ahead_if_due();
                assert!(disk.open_files() <= FILES as u64, "{} are open", disk.open_files());
            }
        }
        let rolled = logs.iter().filter(|log| log.segments().len() > 2).count();
        assert_eq!(rolled, logs.len(), "each log has several segments");
        for (number, log) in logs.iter().enumerate() {
            let sent: Vec<_> = (0..ROUNDS).map(|round| value(number, round)).collect();
            assert_eq!(read(log), sent, "log {number}");
            assert!(disk.open_files() <= FILES as u64);
        }
        // Every log has its active file mapped, and perhaps one that is prepared.
        assert!(disk.mappings() <= 2 * logs.len() + MAPPINGS, "{}", disk.mappings());
        for log in &logs {
            log.sync_to(log.end_offset()).expect("nothing fails");
        }
        let left = disk.crash(&Loss::All);
        for (number, log) in open(&left, &Arc::default(), durability).iter().enumerate() {
            assert_eq!(read(log).len(), ROUNDS, "log {number} at {durability:?}");
        }
    }
}

/// 1. More logs are written to than files may be open, so one is closed with unsynced bytes. 2. Its
/// sync opens it again, and the process is out of descriptors for a moment.
#[test]
fn a_sync_that_finds_no_descriptor_is_made_up_for_later() {
    for (call, files) in [(Call::Open, 1), (Call::SyncDir, 9)] {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let logs = open(&disk, &Arc::new(Handles::new(files, MAPPINGS)), Durability::Os);
        for (number, log) in logs.iter().enumerate().take(2) {
            log.append(&[Record::new(&value(number, 0))]).expect("nothing fails");
        }
        let log = &logs[0];
        let (what, how_long) = (FaultKind::Emfile, HowLong::Forever);
        disk.arm(Fault { at: 1, call: Some(call), what, how_long });
        for _ in 0..2 {
            let error = log.sync_appended(log.end_offset()).expect_err("it cannot be synced");
            assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            assert_eq!(log.durable_offset(), Offset::ZERO);
            log.sync_now().expect_err("nor otherwise");
        }
        assert!(disk.fired() > 0);
        disk.disarm();
        log.check_latch().expect("the log has not halted");
        log.append(&[Record::new(&value(0, 1))]).expect("appends go on");
        log.sync_now().expect("so do syncs");
        log.sync_to(log.end_offset()).expect("and they cover everything");
        let left = disk.crash(&Loss::All);
        let found = read(&open(&left, &Arc::default(), Durability::Os)[0]);
        assert_eq!(found, [value(0, 0), value(0, 1)], "{call:?}");
    }
}

/// 1. A file's descriptor is given up; 2. a cut voids the file whole, and removes it; 3. the next
/// sync would open it again.
#[test]
fn a_voided_file_without_a_descriptor_does_not_halt_the_log() {
    let disk = SimDisk::new();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let setting = Setting { durability: Durability::Fsync, ..Setting::default() };
    let opening = opening(&disk, setting, 1, Mode::ReadWrite);
    let (log, _) = Log::open(opening, Entrance::Unclean).expect("it opens");
    log.lead(LeaderEpoch::new(1));
    log.append(&[Record::new("lost")]).expect("nothing fails");
    let voided = log.segments().last().cloned().expect("there is one");
    voided.park_file();
    assert!(!voided.has_open_file());
    log.truncate_to(Offset::ZERO).expect("nothing fails");
    let appended = log.append(&[Record::new("kept")]).expect("nothing fails");
    log.sync_to(appended.end).expect("the file was to go");
}
