//! What the end of a full file makes durable.

use std::sync::Arc;

use super::bench::{Setting, opening};
use super::hooks::{HookDisk, Hooks};
use super::sim::{Loss, SimDisk};
use crate::config::Durability;
use crate::error::Error;
use crate::format::Record;
use crate::id::LeaderEpoch;
use crate::log::Log;
use crate::log::core::Mode;
use crate::log::recover::{Entrance, Opening};

fn open(disk: &SimDisk, hooks: &Hooks, incarnation: u64) -> Arc<Log> {
    let setting = Setting { durability: Durability::Os, ..Setting::default() };
    let opening = opening(disk, setting, incarnation, Mode::ReadWrite);
    let disk = Arc::new(HookDisk { disk: disk.clone(), hooks: hooks.clone() });
    let log = Log::open(Opening { disk, ..opening }, Entrance::Unclean).expect("it opens").0;
    log.lead(LeaderEpoch::new(1));
    log
}

/// A log with two full files that are not sealed.
fn filled(hooks: &Hooks) -> (SimDisk, Arc<Log>) {
    let disk = SimDisk::new();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let log = open(&disk, hooks, 1);
    let value = vec![7; 1_800];
    while log.segments().len() < 3 {
        log.append(&[Record::new(&value)]).expect("nothing fails");
    }
    (disk, log)
}

/// Pages that are written back while they are mapped are protected again, which interrupts the
/// thread that appends: a seal leaves the file alone that is appended to.
#[test]
fn a_seal_syncs_the_file_it_seals_and_not_the_one_that_follows() {
    let hooks = Hooks::default();
    let (disk, log) = filled(&hooks);
    let ends: Vec<_> = log.segments().iter().map(|segment| segment.end()).collect();
    let left = |disk: &SimDisk| open(&disk.crash(&Loss::All), &hooks, 2).end_offset();

    for end in &ends[..2] {
        assert!(log.seal_one().expect("nothing fails"));
        assert_eq!(log.durable_offset(), *end);
        assert_eq!(left(&disk), *end);
    }
    assert!(!log.seal_one().expect("nothing fails"), "the newest file is not full");
    log.sync_now().expect("nothing fails");
    assert_eq!(log.durable_offset(), ends[2]);
    assert_eq!(left(&disk), ends[2]);
}

/// 1. A seal syncs. 2. Meanwhile an append fails in a way that halts the log. 3. The result of the
/// sync counts no more, and nothing is written after it.
#[test]
fn a_seal_ends_where_the_log_halted_during_its_sync() {
    let hooks = Hooks::default();
    let (_disk, log) = filled(&hooks);
    let halts = Arc::clone(&log);
    hooks.after_sync(move || {
        halts.halt(Error::ReadOnly);
    });
    let sealed = log.seal_one();
    assert!(matches!(sealed, Err(Error::Halted { .. })), "{sealed:?}");
    assert!(log.segments()[0].footer().is_none());
}
