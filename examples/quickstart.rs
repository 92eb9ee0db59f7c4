//! Stores the lines of a file and reads them back:
//!
//! ```text
//! cargo run --release --example quickstart -- FILE
//! ```
//!
//! Without a file it takes the repository's own `Cargo.lock`. The store is `./quickstart-data`; run
//! it again, and it goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use plimsoll::{Broker, Offset, Record, Start, TopicConfig};

const PARTITIONS: u32 = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own_lock = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let file = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(own_lock), PathBuf::from);
    let text = fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').map(trim_newline).collect();

    let broker = Broker::open("quickstart-data")?;
    let topic = broker.ensure_topic("lines", TopicConfig::new().partitions(PARTITIONS))?;

    // Where each partition ends before this run.
    let admin = broker.admin();
    let mut ends: BTreeMap<u32, Offset> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        ends.insert(partition, admin.latest(&topic, partition)?);
    }
    let before: u64 = ends.values().map(|end| end.get()).sum();

    // Line n goes to partition n mod 4, up to 100 lines in one append: each is on disk when
    // `send_batch` returns.
    let begun = Instant::now();
    let producer = broker.producer().build()?;
    for partition in 0..PARTITIONS {
        let mine: Vec<Record> = lines
            .iter()
            .skip(partition as usize)
            .step_by(PARTITIONS as usize)
            .map(|line| Record::new(*line))
            .collect();
        for batch in mine.chunks(100) {
            producer.send_batch(&topic, partition, batch)?;
        }
    }
    let wrote = begun.elapsed();

    // Read back what this run wrote, and put the lines in order again.
    let begun = Instant::now();
    let mut readers = Vec::new();
    for (partition, end) in &ends {
        let start = Start::Offset(*end);
        readers.push(broker.reader(&topic).partition(*partition).start(start).build()?);
    }
    let mut same = 0;
    for (number, line) in lines.iter().enumerate() {
        let record = readers[number % PARTITIONS as usize].next().ok_or("a line is missing")??;
        if record.value() == Some(*line) {
            same += 1;
        }
    }
    let read = begun.elapsed();

    let name = file.file_name().unwrap_or_default().display();
    println!("{name}: {} lines, {} bytes", lines.len(), text.len());
    println!("the store held {before} records, now {}", before + lines.len() as u64);
    println!("wrote {} lines to {PARTITIONS} partitions in {wrote:.1?}, all on disk", lines.len());
    println!("read  {same} lines back in {read:.1?}, equal to the file's");
    broker.close()?;
    if same == lines.len() { Ok(()) } else { Err("the lines read back differ".into()) }
}

fn trim_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}
