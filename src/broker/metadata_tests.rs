//! The metadata's two copies, and power cuts.
//!
//! Invariants
//!   1. Each copy alone holds every change that was confirmed, on the medium.

use std::path::Path;

use crate::broker::Broker;
use crate::config::{ManualClock, TopicConfig};
use crate::error::Result;
use crate::format::Record;
use crate::fs::sim::{Loss, SimDisk};

fn open(disk: &SimDisk) -> Result<Broker> {
    let clock = ManualClock::new(0);
    Broker::builder().volumes(["/v"]).disk(disk).clock(clock).seed(1).open()
}

#[test]
fn each_copy_of_the_metadata_survives_a_power_cut() {
    for bad in ["0", "1"] {
        let disk = SimDisk::new();
        let broker = open(&disk).expect("a new store opens");
        for name in ["a", "b"] {
            broker.create_topic(name, TopicConfig::new()).expect("a topic can be made");
        }
        let producer = broker.producer().build().expect("a producer can be made");
        producer.send("a", Record::new("kept")).expect("it can be sent to");
        let left = disk.crash(&Loss::All);
        let folder = Path::new("/v/metadata").join(bad);
        for file in left.files().iter().filter(|file| file.starts_with(&folder)) {
            let bytes = left.read_file(file).expect("it is there").len();
            left.write_file(file, &vec![0; bytes]).expect("it can be written");
        }
        let broker = open(&left).unwrap_or_else(|e| panic!("without copy {bad}: {e}"));
        let topics: Vec<_> = broker.admin().topics().iter().map(|t| t.name().to_owned()).collect();
        assert_eq!(topics, ["a", "b"], "without copy {bad}");
    }
}
