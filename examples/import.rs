//! Imports a file line by line, and can be killed at any moment and run again:
//!
//! ```text
//! cargo run --release --example import -- FILE        (press Ctrl-C, and run it again)
//! ```
//!
//! Each line is in the store exactly once at the end. The producer has a name: the store numbers
//! its records, and tells where it left off. Without a file it takes the repository's own
//! `Cargo.lock`. The store is `./import-data`.

use std::fs;
use std::path::PathBuf;

use plimsoll::{Broker, Record, TopicConfig, TopicPartition};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own_lock = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let file = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(own_lock), PathBuf::from);
    let text = fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    // What follows the last line's end is no line.
    lines.pop_if(|last| last.is_empty());

    let broker = Broker::open("import-data")?;
    let topic = broker.ensure_topic("lines", TopicConfig::new())?;
    // One name for the job, whichever run of it this is. A run that is still there is fenced: two
    // at once would write each line twice.
    let producer = broker.producer().name("import").build()?;
    let last = producer.last_sequence(&TopicPartition::new("lines", 0));
    let done = last.map_or(0, |last| last as usize + 1);
    println!("{done} of {} lines are there already", lines.len());

    for batch in lines.get(done..).unwrap_or_default().chunks(10) {
        let records: Vec<Record> = batch.iter().map(|line| Record::new(*line)).collect();
        // All ten are on disk when this returns, or none of them is.
        producer.send_batch(&topic, 0, &records)?;
    }

    let mut same = 0;
    for (line, record) in lines.iter().zip(broker.reader(&topic).build()?) {
        same += usize::from(record?.value() == Some(*line));
    }
    let there = broker.admin().latest(&topic, 0)?.get();
    println!("{there} lines are there, {same} of them the file's");
    broker.close()?;
    if (there, same) == (lines.len() as u64, lines.len()) {
        Ok(())
    } else {
        Err("what is there is not what the file has: was it changed since?".into())
    }
}
