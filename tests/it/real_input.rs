//! Logs as they are found in the world go in and come out, byte for byte.
//!
//! Invariants
//!   1. What is produced into one partition is consumed in the same order, equal byte for byte.
//!   2. Keyed lines over several partitions are each there once; those of a key are in one
//!      partition, the one Kafka's murmur2 gives, in the order in which they were sent.
//!
//! The lines are made here, after three real ones: an access log of 8,000 lines and 1,423 keys of
//! uneven weight, whose times go back now and then; a state log with stack traces, whose lines are
//! not events; a controller log with lines of 100 to 13,000 bytes.

use std::collections::HashMap;

use plimsoll::{Broker, Durability, Offset, Record, Start, TopicConfig, murmur2_partition};

use crate::support::random::Random;

const SEED: u64 = 0x001f_2e3d;
const KEYS: u64 = 1_423;
const PARTITIONS: u32 = 8;

fn access_log() -> Vec<String> {
    let mut random = Random(SEED);
    let mut lines = Vec::new();
    for number in 0..8_000 {
        // Each key once, the rest by weight: the square root favours few.
        let key =
            if number < KEYS { number } else { random.below(KEYS) * random.below(KEYS) / KEYS };
        let (a, b) = (key / 256, key % 256);
        let second = (number * 30).saturating_sub(random.below(60));
        let (hour, minute) = (second / 3_600, second / 60 % 60);
        let status =
            [200, 200, 200, 304, 404, 301, 206, 500][usize::try_from(random.below(8)).unwrap()];
        let path = "x".repeat(usize::try_from(random.below(40) * random.below(20)).unwrap());
        lines.push(format!(
            "10.83.{a}.{b} - - [17/May/2015:{hour:02}:{minute:02}:{:02} +0000] \
             \"GET /{path} HTTP/1.1\" {status} {} \"-\" \"Mozilla/5.0\"",
            second % 60,
            random.below(1 << 20),
        ));
    }
    lines
}

fn state_log() -> Vec<String> {
    let mut random = Random(SEED);
    let mut lines = Vec::new();
    while lines.len() < 5_300 {
        let event = lines.len();
        lines.push(format!("[2016-12-19 16:{:02}:00,000] TRACE Broker 0: {event}", event / 90));
        for frame in 0..random.below(10) / 7 * random.below(30) {
            lines.push(format!(
                "\tat state.Machine.step{frame}(Machine.scala:{})",
                random.below(900)
            ));
        }
    }
    lines
}

fn controller_log() -> Vec<String> {
    let mut random = Random(SEED);
    (0..570)
        .map(|event| {
            let partitions = random.below(24) * random.below(24);
            let parts: Vec<_> = (0..partitions).map(|p| format!("[logs,{p}] -> (0)")).collect();
            format!("[2016-12-19 16:00:{:02},{event:03}] DEBUG {}", event / 10, parts.join(", "))
        })
        .collect()
}

fn broker() -> (tempfile::TempDir, Broker) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    (dir, broker)
}

#[test]
fn a_log_comes_out_of_one_partition_byte_for_byte() {
    let (dir, broker) = broker();
    for (name, lines) in
        [("access", access_log()), ("state", state_log()), ("controller", controller_log())]
    {
        let config = TopicConfig::new().segment_bytes(256 << 10);
        let topic = broker.create_topic(name, config).unwrap();
        let producer = broker.producer().build().unwrap();
        for chunk in lines.chunks(100) {
            let records: Vec<_> = chunk.iter().map(Record::new).collect();
            producer.send_batch(&topic, 0, &records).unwrap();
        }
    }
    broker.close().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    for (name, lines) in
        [("access", access_log()), ("state", state_log()), ("controller", controller_log())]
    {
        let mut consumed = Vec::new();
        for record in broker.reader(name).build().unwrap() {
            consumed.extend_from_slice(record.unwrap().value().unwrap());
            consumed.push(b'\n');
        }
        let produced: Vec<u8> = lines.iter().flat_map(|line| line.bytes().chain([b'\n'])).collect();
        assert!(consumed == produced, "{name}: {} bytes, {}", consumed.len(), produced.len());
    }
}

#[test]
fn keyed_lines_keep_their_order_where_murmur2_puts_them() {
    let lines = access_log();
    let key = |line: &str| line.split(' ').next().unwrap().to_owned();
    let mut sent: HashMap<String, Vec<String>> = HashMap::new();
    let (dir, broker) = broker();
    let config = TopicConfig::new()
        .partitions(PARTITIONS)
        .durability(Durability::Os)
        .segment_bytes(64 << 10);
    let topic = broker.create_topic("access", config).unwrap();
    let producer = broker.producer().build().unwrap();
    for line in &lines {
        let key = key(line);
        let ack = producer.send(&topic, Record::new(line).key(&key)).unwrap();
        assert_eq!(ack.partition.get(), murmur2_partition(key.as_bytes(), PARTITIONS));
        sent.entry(key).or_default().push(line.clone());
    }
    assert_eq!(sent.len() as u64, KEYS);
    broker.close().unwrap();

    let broker = Broker::open(dir.path()).unwrap();
    let mut read: HashMap<String, Vec<String>> = HashMap::new();
    for partition in 0..PARTITIONS {
        let mut next = Offset::ZERO;
        let reader = broker.reader("access").partition(partition).start(Start::Earliest);
        for record in reader.build().unwrap() {
            let record = record.unwrap();
            assert_eq!(record.offset(), next);
            next = next.next();
            let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
            assert_eq!(partition, murmur2_partition(key.as_bytes(), PARTITIONS), "{key}");
            let line = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
            read.entry(key).or_default().push(line);
        }
    }
    assert!(read == sent, "seed {SEED:#x}");
}
