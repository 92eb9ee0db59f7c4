//! What the end of a full file makes durable.

use super::bench::{Setting, opening};
use super::sim::{Loss, SimDisk};
use crate::config::Durability;
use crate::format::Record;
use crate::id::LeaderEpoch;
use crate::log::core::Mode;
use crate::log::recover::Entrance;
use crate::log::{Log, LogReport};

fn open(disk: &SimDisk, incarnation: u64) -> (std::sync::Arc<Log>, LogReport) {
    let setting = Setting { durability: Durability::Os, ..Setting::default() };
    let opening = opening(disk, setting, incarnation, Mode::ReadWrite);
    Log::open(opening, Entrance::Unclean).expect("it opens")
}

/// Pages that are written back while they are mapped are protected again, which interrupts the
/// thread that appends: a seal leaves the file alone that is appended to.
#[test]
fn a_seal_syncs_the_file_it_seals_and_not_the_one_that_follows() {
    let disk = SimDisk::new();
    disk.write_file("topics/.made", b"").expect("it can be made");
    let (log, _) = open(&disk, 1);
    log.lead(LeaderEpoch::new(1));
    let value = vec![7; 1_800];
    while log.segments().len() < 3 {
        log.append(&[Record::new(&value)]).expect("nothing fails");
    }
    let ends: Vec<_> = log.segments().iter().map(|segment| segment.end()).collect();
    let left = |disk: &SimDisk| open(&disk.crash(&Loss::All), 2).0.end_offset();

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
