//! Every limit is checked where something is offered, and what is within it works.
//!
//! Invariants
//!   1. A record of exactly the largest size is stored and read back; one byte more is refused
//!      with `RecordTooLarge`, and nothing was written. So for keys, headers, dedup keys, batches.
//!   2. A batch larger than a segment gets one of its own, wherever the log stands: first of all,
//!      behind others, and first after an open that has to begin a new file.
//!   3. What is refused leaves the log as it was.
//!   4. A poll that waits uses no processor time, and ends when something comes, at its timeout,
//!      or at a wake-up.
//!   5. A store may have many more segments than its process may have open files. (And many more
//!      partitions: `src/log/tests/handles.rs`, `cargo bench --bench scale`.)

use std::io::Write as _;
use std::time::{Duration, Instant};

use plimsoll::{Broker, Durability, Error, Offset, Outcome, Producer, Record, Topic, TopicConfig};
use tempfile::TempDir;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

struct Store {
    dir: TempDir,
    broker: Broker,
    topic: Topic,
    producer: Producer,
}

fn store(config: TopicConfig) -> Store {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let topic = broker.create_topic("limits", config).unwrap();
    let producer = broker.producer().build().unwrap();
    Store { dir, broker, topic, producer }
}

/// Quick, and with the largest records that there can be.
fn os() -> TopicConfig {
    TopicConfig::new().durability(Durability::Os).record_bytes(64 << 20)
}

/// The part of a record that was refused, and its size.
fn refused(store: &Store, record: &Record<'_>) -> (&'static str, usize) {
    let end = store.broker.admin().latest(&store.topic, 0).unwrap();
    let error = store.producer.send(&store.topic, record.clone()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotWritten);
    assert_eq!(store.broker.admin().latest(&store.topic, 0).unwrap(), end);
    match error {
        Error::RecordTooLarge { what, bytes } => (what, usize::try_from(bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn accepted(store: &Store, record: &Record<'_>) {
    let ack = store.producer.send(&store.topic, record.clone()).unwrap();
    let mut reader = store
        .broker
        .reader(&store.topic)
        .start(plimsoll::Start::Offset(ack.offset))
        .build()
        .unwrap();
    let read = reader.next().unwrap().unwrap();
    assert!(read.value() == record.value_bytes());
    assert!(read.key() == record.key_bytes());
    assert!(read.dedup_key() == record.dedup_key_bytes());
}

#[test]
fn a_record_has_as_many_bytes_as_its_topic_allows_and_1_mib_by_default() {
    let bytes = vec![0x5a; MIB + 1];
    for (config, most) in [(TopicConfig::new(), MIB), (TopicConfig::new().record_bytes(100), 100)] {
        let store = store(config);
        accepted(&store, &Record::new(&bytes[..most]));
        assert_eq!(refused(&store, &Record::new(&bytes[..=most])), ("a record", most + 1));
    }
}

#[test]
fn a_record_has_64_mib_at_most() {
    let store = store(os());
    let bytes = vec![0x5a; 64 * MIB + 1];
    accepted(&store, &Record::new(&bytes[..64 * MIB]));
    assert_eq!(refused(&store, &Record::new(&bytes)), ("a record", 64 * MIB + 1));
    // All its parts count together.
    let record = Record::new(&bytes[..64 * MIB]).key("k");
    assert_eq!(refused(&store, &record), ("a record", 64 * MIB + 1));
    accepted(&store, &Record::new(&bytes[..64 * MIB - 1]).key("k"));
}

#[test]
fn a_key_has_64_kib_at_most() {
    let store = store(os());
    let bytes = vec![0x6b; 64 * KIB + 1];
    accepted(&store, &Record::new("v").key(&bytes[..64 * KIB]));
    assert_eq!(refused(&store, &Record::new("v").key(&bytes)), ("a key", 64 * KIB + 1));
    assert_eq!(refused(&store, &Record::tombstone(&bytes)), ("a key", 64 * KIB + 1));
    accepted(&store, &Record::tombstone(""));
}

#[test]
fn the_headers_of_a_record_have_64_kib_at_most() {
    let store = store(os());
    let bytes = vec![0x68; 64 * KIB];
    // Each header takes 8 bytes beside its name and value.
    let most = 64 * KIB - 8 - "name".len();
    accepted(&store, &Record::new("v").header("name", &bytes[..most]));
    let what = "the headers of a record";
    let above = Record::new("v").header("name", &bytes[..=most]);
    assert_eq!(refused(&store, &above), (what, 64 * KIB + 1));
    let many = (0..64 * KIB / 8 + 1).fold(Record::new("v"), |record, _| record.header("", ""));
    assert_eq!(refused(&store, &many), (what, 64 * KIB + 8));
}

#[test]
fn a_dedup_key_of_its_own_has_16_kib_at_most() {
    let store = store(os());
    let bytes = vec![0x64; 16 * KIB + 1];
    accepted(&store, &Record::new("v").dedup_key(&bytes[..16 * KIB]));
    let above = Record::new("v").dedup_key(&bytes);
    assert_eq!(refused(&store, &above), ("a dedup key", 16 * KIB + 1));
}

#[test]
fn a_batch_has_64_mib_at_most_and_is_refused_as_a_whole() {
    let store = store(os());
    let bytes = vec![0x62; 16 * MIB];
    let records: Vec<_> = (0..4).map(|_| Record::new(&bytes)).collect();
    store.producer.send_batch(&store.topic, 0, &records).unwrap();
    let records: Vec<_> = (0..5).map(|_| Record::new(&bytes)).collect();
    let error = store.producer.send_batch(&store.topic, 0, &records).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { what: "a batch", .. }), "{error:?}");
    assert_eq!(store.broker.admin().latest(&store.topic, 0).unwrap(), Offset::new(4));
}

#[test]
fn an_empty_batch_is_refused_and_an_empty_value_is_not() {
    let store = store(TopicConfig::new());
    let error = store.producer.send_batch(&store.topic, 0, &[]).unwrap_err();
    assert!(matches!(error, Error::InvalidBatch { .. }), "{error:?}");
    accepted(&store, &Record::new(""));
}

/// Small segments, and a batch three times as large.
fn large_batches_fit(config: TopicConfig) {
    let store = store(config.segment_bytes(64 << 10));
    let large = vec![0x4c; 200 * KIB];
    let mut sent = Vec::new();
    let mut send = |store: &Store, value: &[u8]| {
        let ack = store.producer.send(&store.topic, Record::new(value)).unwrap();
        assert_eq!(ack.offset.get(), sent.len() as u64);
        sent.push(value.to_vec());
    };
    for value in [&large[..], b"small", b"small too", &large, &large, b"small again"] {
        send(&store, value);
    }
    let Store { dir, broker, .. } = store;
    broker.close().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let read: Vec<_> = broker.reader("limits").build().unwrap().map(Result::unwrap).collect();
    assert_eq!(read.len(), sent.len());
    for (record, value) in read.iter().zip(&sent) {
        assert!(record.value() == Some(value), "offset {}", record.offset());
    }
    assert!(broker.admin().verify().unwrap().faults.is_empty());
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    large_batches_fit(TopicConfig::new());
    large_batches_fit(os());
}

/// The story: the first append after such an open began a file at the log's end, found it too
/// small for the batch, and began another one: of the same base, of the same generation, and so
/// of the same name. The log halted, and what the first file had declared void came back.
#[test]
fn a_large_batch_may_be_the_first_after_an_open_that_has_to_begin_a_new_file() {
    let disk = plimsoll::sim::SimDisk::new();
    let open = |disk: &plimsoll::sim::SimDisk| {
        let background = plimsoll::Background::Inline;
        Broker::builder().volumes(["v"]).disk(disk).background(background).open().unwrap()
    };
    let broker = open(&disk);
    broker.create_topic("limits", TopicConfig::new().segment_bytes(64 << 10)).unwrap();
    let producer = broker.producer().build().unwrap();
    for value in ["one", "two", "three"] {
        producer.send("limits", Record::new(value)).unwrap();
    }
    broker.close().unwrap();
    let log = disk.files().into_iter().find(|path| {
        path.to_string_lossy().contains("topics/limits") && path.extension().is_some()
    });
    let log = log.unwrap();
    let bytes = disk.read_file(&log).unwrap();
    let third = bytes.windows(5).position(|at| at == b"three").unwrap();
    disk.flip_bit(&log, third as u64, 0).unwrap();
    // This open voids the clean mark, so that the next one looks at the batches. It finds damage
    // at the end, and below what the slots say was durable: no torn tail.
    drop(open(&disk));
    let disk = {
        let broker = open(&disk);
        let killed = disk.kill();
        drop(broker);
        killed
    };

    let broker = open(&disk);
    assert_eq!(broker.admin().latest("limits", 0).unwrap(), Offset::new(3));
    let large = vec![0x4c; 200 * KIB];
    let producer = broker.producer().build().unwrap();
    let ack = producer.send("limits", Record::new(&large)).unwrap();
    assert_eq!(ack.offset, Offset::new(3));
    producer.send("limits", Record::new("small")).unwrap();
    let disk = disk.kill();
    drop(broker);
    let broker = open(&disk);
    let read: Vec<_> = broker.reader("limits").build().unwrap().collect();
    let values: Vec<_> = read.iter().flatten().map(|r| r.value().unwrap().to_vec()).collect();
    assert!(values == [b"one".to_vec(), b"two".to_vec(), large, b"small".to_vec()], "{read:?}");
    assert!(matches!(&read[2], Err(Error::Corrupt(c)) if c.first.get() == 2 && c.end.get() == 3));
}

#[test]
fn topic_names_are_checked() {
    let store = store(TopicConfig::new());
    let long = "n".repeat(250);
    for name in ["", ".", "..", "a/b", "a b", "é", "__own", "LIMITS", &long] {
        let error = store.broker.create_topic(name, TopicConfig::new()).unwrap_err();
        assert!(matches!(error, Error::InvalidTopicName(_)), "{name:?}: {error:?}");
    }
    for name in ["a", "A.b_c-9", "_own", "...", "-"] {
        store.broker.create_topic(name, TopicConfig::new()).unwrap();
        store.producer.send(name, Record::new("v")).unwrap();
    }
}

/// A topic's folder is named by its name and its id, and file systems allow 255 bytes.
#[test]
fn the_longest_topic_name_has_a_folder() {
    let store = store(TopicConfig::new());
    let name = "n".repeat(249);
    store.broker.create_topic(&name, TopicConfig::new()).unwrap();
    store.producer.send(&name, Record::new("v")).unwrap();
    let Store { dir, broker, .. } = store;
    broker.close().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    assert_eq!(broker.reader(&name).build().unwrap().count(), 1);
}

#[test]
fn partitions_and_segments_have_limits() {
    let store = store(TopicConfig::new());
    let refuse = |config: TopicConfig, which: &str| match store
        .broker
        .create_topic("other", config)
        .unwrap_err()
    {
        Error::InvalidConfig(invalid) => assert_eq!(invalid.option, which),
        other => panic!("{other:?}"),
    };
    refuse(TopicConfig::new().partitions(0), "partitions");
    refuse(TopicConfig::new().partitions(65_537), "partitions");
    refuse(TopicConfig::new().record_bytes(0), "record_bytes");
    refuse(TopicConfig::new().record_bytes((64 << 20) + 1), "record_bytes");
    refuse(TopicConfig::new().segment_bytes((64 << 10) - 1), "segment_bytes");
    refuse(TopicConfig::new().segment_bytes((1 << 30) + 1), "segment_bytes");
    let hour = Duration::from_secs(3_600);
    refuse(TopicConfig::new().durability(Durability::Interval(Duration::ZERO)), "durability");
    refuse(TopicConfig::new().durability(Durability::Interval(hour * 2)), "durability");
    let most = TopicConfig::new().partitions(65_536).durability(Durability::Interval(hour));
    let topic = store.broker.create_topic("other", most).unwrap();
    let ack = store.producer.send(&topic, Record::new("v").partition(65_535)).unwrap();
    assert_eq!(ack.partition.get(), 65_535);
    let beyond = store.producer.send(&topic, Record::new("v").partition(65_536)).unwrap_err();
    assert!(matches!(beyond, Error::UnknownPartition { .. }), "{beyond:?}");
}

#[test]
fn batch_bytes_has_limits() {
    let store = store(TopicConfig::new());
    for bytes in [0, (64 << 20) + 1] {
        let error = store.broker.producer().batch_bytes(bytes).build().unwrap_err();
        assert!(
            matches!(&error, Error::InvalidConfig(i) if i.option == "batch_bytes"),
            "{error:?}"
        );
    }
    for bytes in [1, 64 << 20] {
        store.broker.producer().batch_bytes(bytes).build().unwrap();
    }
}

/// Nanoseconds that this thread has run on a processor, where the system tells.
fn thread_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[test]
fn a_poll_that_waits_does_not_spin() {
    let store = store(TopicConfig::new());
    let mut consumer = store.broker.consumer().assign([("limits", 0)]).build().unwrap();
    let Some(before) = thread_time() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: a_poll_that_waits_does_not_spin: no /proc/thread-self/schedstat"
        );
        return;
    };
    let began = Instant::now();
    assert!(consumer.poll(Duration::from_millis(500)).unwrap().is_empty());
    assert!(began.elapsed() >= Duration::from_millis(500));
    let used = thread_time().unwrap() - before;
    assert!(used < Duration::from_millis(10), "{used:?} of processor time for a wait");
}

#[test]
fn a_poll_that_waits_ends_when_a_record_comes_and_at_a_wake_up() {
    const LONG: Duration = Duration::from_secs(600);
    let store = store(TopicConfig::new());
    let mut consumer = store.broker.consumer().assign([("limits", 0)]).build().unwrap();
    let handle = consumer.handle();
    let (polled, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..200 {
                polled.send(consumer.poll(LONG).unwrap().count()).unwrap();
            }
        });
        for round in 0..100 {
            store.producer.send("limits", Record::new(&[round])).unwrap();
            assert_eq!(told.recv_timeout(LONG / 20), Ok(1), "a poll slept through a record");
            handle.wakeup();
            assert_eq!(told.recv_timeout(LONG / 20), Ok(0), "a poll slept through a wake-up");
        }
    });
}

#[test]
fn a_poll_that_waits_ends_when_the_broker_is_closed_or_the_topic_deleted() {
    const LONG: Duration = Duration::from_secs(600);
    for delete in [false, true] {
        let store = store(TopicConfig::new());
        let mut consumer = store.broker.consumer().assign([("limits", 0)]).build().unwrap();
        let (polled, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || polled.send(consumer.poll(LONG).map(drop)).unwrap());
            if delete {
                store.broker.admin().delete_topic("limits").unwrap();
            } else {
                store.broker.clone().close().unwrap();
            }
            let ended = told.recv_timeout(LONG / 20).expect("the poll goes on");
            let error = ended.unwrap_err();
            let right = match error {
                Error::UnknownTopic { .. } => delete,
                Error::Closed => !delete,
                _ => false,
            };
            assert!(right, "{error:?}");
        });
    }
}

/// Runs commands of the command line, one after the other, each with so many open files at most;
/// returns what they print.
fn with_open_files(most: u32, data: &std::path::Path, commands: &[&str]) -> Vec<String> {
    let run = |command: &&str| {
        let line = format!("ulimit -n {most}; exec \"$0\" --data \"$1\" {command}");
        let ran = std::process::Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_plimsoll")])
            .arg(data)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    commands.iter().map(run).collect()
}

#[test]
fn a_store_may_have_more_segments_than_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    let lines: String = (0..150).map(|number| format!("{number:030000}\n")).collect();
    std::fs::write(&input, &lines).unwrap();
    let data = dir.path().join("data");
    let produce = format!("produce t {} --batch 1", input.display());
    let create = "topic create t --segment-bytes 64k --durability os";
    let printed = with_open_files(80, &data, &[create, &produce, "consume t", "verify"]);
    assert_eq!(printed[2], lines);
    let segments = std::fs::read_dir(data.join("topics/t-1/0")).unwrap().count();
    assert!(segments >= 150, "only {segments} segments");
}
