//! A killed process loses nothing that it had acknowledged, at every durability.
//!
//! Invariants
//!   1. After a SIGKILL at any moment every acknowledged record is there, once, in order, with the
//!      value that was sent; what was sent and not acknowledged is there whole or not at all.
//!   2. So it stays over any number of kills, with and without a clean close between them.
//!
//! A child sends and prints what was acknowledged; the parent kills it after a random number of
//! those lines, at whatever the child is then doing: opening, appending, rolling, sealing. What
//! the child had still printed counts too.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use plimsoll::{Broker, Durability, Record, TopicConfig};

use crate::child;
use crate::support::random::Random;

/// For each of three durabilities.
const KILLS: u64 = 34;

fn config(durability: &str) -> TopicConfig {
    let durability = match durability {
        "fsync" => Durability::Fsync,
        "interval" => Durability::Interval(std::time::Duration::from_millis(5)),
        _ => Durability::Os,
    };
    TopicConfig::new().durability(durability).segment_bytes(64 << 10)
}

/// What is sent at an offset: its length and its bytes follow from it.
fn value(offset: u64) -> Vec<u8> {
    let mut random = Random(offset.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let length = match random.below(40) {
        // Beyond what goes through a mapping.
        0 => 13_000 + random.below(2_000),
        _ => random.below(700),
    };
    (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

/// In the child: sends batches from the log's end on, and prints each acknowledgement.
fn produce(dir: &Path, durability: &str) {
    let broker = Broker::open(dir).unwrap();
    let topic = broker.ensure_topic("kills", config(durability)).unwrap();
    let producer = broker.producer().build().unwrap();
    let mut next = broker.admin().latest(&topic, 0).unwrap().get();
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    loop {
        let values: Vec<_> = (next..next + 1 + next % 4).map(value).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        let ack = producer.send_batch(&topic, 0, &records).unwrap();
        assert_eq!(ack.base_offset.get(), next);
        next = ack.last_offset.get() + 1;
        // Long lines, so that the pipe soon is full and the child not far ahead of its parent.
        writeln!(out, "acknowledged {next:<500}").unwrap();
        out.flush().unwrap();
    }
}

/// Lets a child send, and kills it. Returns the offset below which it had acknowledged.
fn kill_one(name: &str, durability: &str, dir: &Path, acks: u64) -> u64 {
    let mut child = child::again(name, durability, dir).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut seen, mut acknowledged) = (0, 0);
    if acks == 0 {
        child.kill().unwrap();
    }
    for line in lines {
        let Ok(line) = line else { break };
        // A line that the kill cut short is taken for none, or for a smaller number.
        if let Some(next) = line.strip_prefix("acknowledged ") {
            acknowledged = acknowledged.max(next.trim_end().parse().unwrap_or(0));
            seen += 1;
            if seen == acks {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    acknowledged
}

/// Everything is there, below `acknowledged` at least.
fn check(broker: &Broker, acknowledged: u64) {
    assert!(broker.recovery().damage.is_empty(), "{:?}", broker.recovery());
    let Ok(topic) = broker.topic("kills") else {
        assert_eq!(acknowledged, 0, "the topic is gone");
        return;
    };
    let mut next = 0;
    for record in broker.reader(&topic).build().unwrap() {
        let record = record.unwrap();
        assert_eq!(record.offset().get(), next);
        assert!(record.value() == Some(&*value(next)), "offset {next} has another value");
        next += 1;
    }
    assert!(next >= acknowledged, "{next} of {acknowledged} acknowledged records are there");
    let faults = broker.admin().verify().unwrap().faults;
    assert!(faults.is_empty(), "{faults:?}");
}

fn survives(name: &str, durability: &str, acks_max: u64) {
    if let Some(dir) = child::task(durability) {
        return produce(&dir, durability);
    }
    let seed = 0x5eed_0000 + durability.len() as u64;
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..KILLS {
        println!("seed {seed:#x}, kill {round} at durability {durability}");
        let acks = random.below(acks_max);
        acknowledged = kill_one(name, durability, dir.path(), acks).max(acknowledged);
        match round % 3 {
            // The next child opens what the kill left.
            0 => {}
            // Closed by dropping it.
            1 => check(&Broker::open(dir.path()).unwrap(), acknowledged),
            _ => {
                let broker = Broker::open(dir.path()).unwrap();
                check(&broker, acknowledged);
                broker.close().unwrap();
            }
        }
    }
    check(&Broker::open(dir.path()).unwrap(), acknowledged);
    println!("{KILLS} kills, {acknowledged} records acknowledged");
}

#[test]
fn acknowledged_records_survive_kills_at_fsync() {
    survives("kills::acknowledged_records_survive_kills_at_fsync", "fsync", 30);
}

#[test]
fn acknowledged_records_survive_kills_at_an_interval() {
    survives("kills::acknowledged_records_survive_kills_at_an_interval", "interval", 300);
}

#[test]
fn acknowledged_records_survive_kills_at_os() {
    survives("kills::acknowledged_records_survive_kills_at_os", "os", 300);
}
