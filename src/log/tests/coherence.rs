//! Where mappings do not show what is written to a file, nobody reads through one.
//!
//! The simulated disk's mappings keep what they show when a bit of their file flips, so they are as
//! stale there as those of such a file system.

use super::bench::{SEGMENT_BYTES, Setting, opening, read_all};
use super::sim::SimDisk;
use crate::config::{Durability, Reads};
use crate::format::Record;
use crate::id::LeaderEpoch;
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::recover::{Entrance, Opening};

#[test]
fn reads_are_copies_of_the_file_where_mappings_are_not_coherent() {
    for durability in [Durability::Fsync, Durability::Os] {
        let disk = SimDisk::new();
        disk.write_file("topics/.made", b"").expect("it can be made");
        let coherent =
            opening(&disk, Setting { durability, ..Setting::default() }, 1, Mode::ReadWrite);
        let options = LogOptions { coherent: false, ..coherent.options.clone() };
        let (log, _) =
            Log::open(Opening { options, ..coherent }, Entrance::Unclean).expect("it opens");
        log.lead(LeaderEpoch::new(1));
        let values = || {
            let found = read_all(&log, Reads::Mapped).expect("it is read");
            found.records.into_iter().map(|record| record.value.to_vec()).collect::<Vec<_>>()
        };
        let mut sent: Vec<Vec<u8>> = Vec::new();
        // Several files, sealed ones among them.
        while sent.len() as u64 * 9000 < 3 * SEGMENT_BYTES {
            sent.push(vec![b'a' + u8::try_from(sent.len()).expect("few"); 9000]);
            let appended = log.append(&[Record::new(sent.last().expect("one"))]).expect("appended");
            log.sync_to(appended.end).expect("synced");
            while log.seal_one().expect("sealed") {}
        }
        assert_eq!(values(), sent);
        for segment in log.segments().iter() {
            let file = disk.read_file(&segment.path).expect("it is there");
            let run = |window: &[u8]| window.iter().all(|byte| *byte == window[0] && *byte != 0);
            let at = file.windows(64).position(run).expect("a value");
            disk.flip_bit(&segment.path, at as u64, 0).expect("it is there");
        }
        assert_ne!(values(), sent, "what a mapping shows was read, and not the file");
    }
}
