//! A store of several volumes whose power is cut, or whose disk fails, at any of its calls.
//!
//! Invariants
//!   1. Whatever was going on, a topic being made, changed or deleted, a volume added, drained or
//!      removed, an open finds one truth: one of the sets of volumes that were given is the
//! store's,
//!      and it opens.
//!   2. What was acknowledged is there, once, in its order.
//!   3. A disk that fails costs no acknowledged record either, whatever was asked of it.
//!
//! Everything is done by the thread of the caller, so that a call has the same number each time.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Acks, Durability, TopicChange, TopicConfig};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::fs::sim::{Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::{Background, Broker};

const OLD: [&str; 3] = ["/a", "/b", "/c"];
/// How many points of a run are tried in the test command.
const POINTS: u64 = 240;
/// Whoever waits for a disk that is dead waits in vain.
const PATIENCE: Duration = Duration::from_millis(20);

fn open(disk: &SimDisk, dirs: &[&str]) -> Result<Broker> {
    let builder = Broker::builder().volumes(dirs).disk(disk).seed(7);
    builder.background(Background::Inline).open()
}

/// What was acknowledged, and whether the topic's being there is.
#[derive(Debug, Default)]
struct Done {
    acknowledged: Vec<u32>,
    made: bool,
}

/// A life of a store; ends at the first error.
fn live(disk: &SimDisk, done: &mut Done) -> Result<()> {
    let broker = open(disk, &OLD)?;
    let config = TopicConfig::new().replicas(3).min_insync(2).durability(Durability::Fsync);
    let topic = broker.create_topic("t", config.clone())?;
    done.made = true;
    let producer = broker.producer().acks(Acks::All).delivery_timeout(PATIENCE).build()?;
    let mut next = 0_u32;
    let mut send = |count: u32| -> Result<()> {
        for _ in 0..count {
            producer.send(&topic, Record::new(&next.to_le_bytes()).partition(0))?;
            done.acknowledged.push(next);
            next += 1;
        }
        Ok(())
    };
    send(3)?;
    let admin = broker.admin();
    broker.create_topic("u", config)?;
    admin.alter("t", TopicChange::new().segment_bytes(1 << 20))?;
    admin.add_partitions("t", 2)?;
    admin.delete_topic("u")?;
    send(2)?;
    admin.add_volume("/d")?;
    send(2)?;
    admin.drain_volume("/a")?;
    send(2)?;
    admin.remove_volume("/a", false)?;
    send(2)?;
    broker.close()
}

/// Opens what is there: with the volumes that were, or were to be, the store's.
fn open_what_is_there(disk: &SimDisk, case: &str) -> Broker {
    let sets: [&[&str]; 3] = [&["/a", "/b", "/c", "/d"], &["/b", "/c", "/d"], &OLD];
    let mut refused = Vec::new();
    for set in sets {
        match open(disk, set) {
            Ok(broker) if broker.recovery().missing_volumes.is_empty() => return broker,
            Ok(broker) => drop(broker),
            Err(error @ (Error::InvalidConfig(_) | Error::MissingVolumes(_))) => {
                refused.push(error);
            }
            Err(error) => panic!("{case}: {set:?}: {error}"),
        }
    }
    panic!("{case}: none of the sets is the store's: {refused:?}");
}

fn check(disk: &SimDisk, done: &Done, case: &str) {
    let broker = open_what_is_there(disk, case);
    let topic = match broker.topic("t") {
        Ok(topic) => topic,
        Err(Error::UnknownTopic { .. }) if !done.made => return,
        Err(error) => panic!("{case}: {error}"),
    };
    // What is on its way to a replica is committed once that has it.
    let partition = Arc::clone(topic.state.partition(0.into()).expect("it is there"));
    if !partition.is_alone() {
        partition.work_inline();
    }
    let value = |record: Result<crate::SharedRecord>| {
        let record = record.unwrap_or_else(|error| panic!("{case}: {error}"));
        u32::from_le_bytes(record.value().expect("it has one").try_into().expect("four bytes"))
    };
    let reader = broker.reader(&topic).partition(0).build().expect("it is built");
    let read: Vec<u32> = reader.map(value).collect();
    // What was not acknowledged may be there too.
    let kept = read.get(..done.acknowledged.len());
    assert_eq!(kept, Some(&done.acknowledged[..]), "{case}");
    assert!(read.is_sorted_by(|one, next| one < next), "{case}: {read:?}");
    // It goes on.
    let producer = broker.producer().acks(Acks::All).build().expect("it is built");
    let sent = producer.send(&topic, Record::new("more").partition(0));
    sent.unwrap_or_else(|error| panic!("{case}: {error}"));
    broker.close().unwrap_or_else(|error| panic!("{case}: {error}"));
    let faults = open_what_is_there(disk, case).admin().verify().expect("it is read").faults;
    assert!(faults.is_empty(), "{case}: {faults:?}");
}

/// Some of the calls of a whole life, spread over all; with `PLIMSOLL_SEEDS` as many as that.
fn points() -> impl Iterator<Item = u64> {
    let disk = SimDisk::new();
    live(&disk, &mut Done::default()).expect("nothing goes wrong");
    let asked = std::env::var("PLIMSOLL_SEEDS").ok().and_then(|text| text.parse().ok());
    let step = disk.calls().div_ceil(asked.unwrap_or(POINTS));
    (0..disk.calls()).step_by(usize::try_from(step).expect("few"))
}

#[test]
fn a_power_cut_at_any_call_leaves_one_truth() {
    for at in points() {
        for loss in [Loss::All, Loss::None, Loss::Random(at)] {
            let disk = SimDisk::new();
            disk.cut_power_after(at);
            let mut done = Done::default();
            // That it ends is what is wanted.
            let _ = live(&disk, &mut done);
            let case = format!("power cut after call {at}, {loss:?}");
            check(&disk.crash(&loss), &done, &case);
        }
    }
}

#[test]
fn a_call_that_fails_costs_nothing_that_was_acknowledged() {
    for at in points() {
        for how_long in [HowLong::Once, HowLong::Forever] {
            let disk = SimDisk::new();
            disk.arm(Fault { at: at + 1, call: None, what: FaultKind::Eio, how_long });
            let mut done = Done::default();
            let _ = live(&disk, &mut done);
            disk.disarm();
            check(&disk.kill(), &done, &format!("call {at} fails {how_long:?}"));
        }
    }
}
