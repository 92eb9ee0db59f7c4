//! Compressed topics hold what was sent, in less room.
//!
//! Invariants
//!   1. What was sent is read as it was: by consumers and readers, mapped or copied, shared records
//!      that outlive their set, by time, from a backup, and after the next open.
//!   2. A producer's own compression goes before the topic's; a change concerns batches to come.
//!   3. A batch that compression would not make smaller is stored as it is.
//!   4. The metrics tell what was saved, and the command line shows and sets all of it.

use std::time::Duration;

use plimsoll::sim::SimDisk;
use plimsoll::{
    Background, Broker, Compression, ManualClock, Reads, Record, RecordView, Start, TopicChange,
    TopicConfig,
};

use crate::cli::Shell;

const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

fn open(disk: &SimDisk, clock: &ManualClock) -> Broker {
    open_in("/v", disk, clock)
}

fn open_in(dir: &str, disk: &SimDisk, clock: &ManualClock) -> Broker {
    let builder = Broker::builder().volumes([dir]).disk(disk).clock(clock.clone()).seed(1);
    builder.background(Background::Inline).open().expect("it opens")
}

fn value(number: u64) -> String {
    format!("the value of record {number} ").repeat(20)
}

fn make(broker: &Broker, compression: Compression) {
    let config = TopicConfig::new().compression(compression).segment_bytes(64 << 10);
    broker.create_topic("t", config).expect("it is made");
}

/// Sends batches of ten records of the value of their offset until there are so many records.
fn send(broker: &Broker, until: u64) {
    let producer = broker.producer().build().expect("made");
    let mut next = broker.admin().latest("t", 0).expect("it is there").get();
    while next < until {
        let values: Vec<_> = (next..next + 10).map(value).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        next = producer.send_batch("t", 0, &records).expect("sent").last_offset.get() + 1;
    }
}

fn check(broker: &Broker, records: u64) {
    for reads in [Reads::Mapped, Reads::Copied] {
        let mut next = 0;
        for record in broker.reader("t").reads(reads).build().expect("made") {
            let record = record.expect("nothing is damaged");
            assert_eq!(record.offset().get(), next);
            assert_eq!(record.value(), Some(value(next).as_bytes()));
            next += 1;
        }
        assert_eq!(next, records);
    }
}

#[test]
fn what_was_sent_is_read_as_it_was_whatever_it_has() {
    for compression in BOTH {
        let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
        let broker = open(&disk, &clock);
        make(&broker, compression);
        let producer = broker.producer().build().expect("made");
        let long = "a value that goes on and on ".repeat(30);
        let send = |record: Record<'_>| producer.send("t", record).expect("sent");
        send(Record::new(&long).key("k").header("h", "1").header("", &long).dedup_key("d"));
        send(Record::new(&long).timestamp(-7).dedup_by_value());
        send(Record::tombstone(&long));
        for _ in 0..3 {
            producer.enqueue("t", Record::new(&long)).expect("queued");
        }
        producer.flush().expect("sent");

        let mut consumer = broker.consumer().assign([("t", 0)]).build().expect("made");
        let mut shared = Vec::new();
        loop {
            let records = consumer.poll(Duration::ZERO).expect("nothing is damaged");
            if records.is_empty() {
                break;
            }
            shared.extend(records.iter().map(|record: RecordView<'_>| record.to_shared()));
        }
        broker.admin().delete_topic("t").expect("deleted");
        drop((consumer, producer, broker));
        let [first, second, third, queued @ ..] = &shared[..] else { panic!("{shared:?}") };
        assert_eq!((first.key(), first.value()), (Some(&b"k"[..]), Some(long.as_bytes())));
        let headers: Vec<_> = first.headers().map(|h| (h.name(), h.value())).collect();
        assert_eq!(headers, [("h", &b"1"[..]), ("", long.as_bytes())]);
        assert_eq!((first.dedup_key(), first.timestamp()), (Some(&b"d"[..]), 1_000));
        assert_eq!((second.dedup_key(), second.timestamp()), (Some(long.as_bytes()), -7));
        assert!(third.is_tombstone() && third.key() == Some(long.as_bytes()));
        assert_eq!(queued.len(), 3);
        assert!(queued.iter().all(|record| record.value() == Some(long.as_bytes())));
    }
}

#[test]
fn compressed_records_are_there_after_the_next_open_and_in_a_backup() {
    for compression in BOTH {
        let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
        let broker = open(&disk, &clock);
        make(&broker, compression);
        // Several segments, though compressed.
        send(&broker, 12_000);
        check(&broker, 12_000);
        let metrics = broker.metrics();
        let partition = metrics.partition("t", 0).expect("it is there");
        assert!(partition.segments > 1);
        assert!(partition.bytes_saved > 3 * partition.bytes_appended, "{partition:?}");
        assert_eq!(metrics.bytes_saved, partition.bytes_saved);
        // Twice: mapped and copied.
        assert_eq!(partition.bytes_fetched, 2 * partition.bytes_appended);
        assert_eq!(partition.records_fetched, 24_000);
        broker.admin().backup("/b").expect("made");
        assert!(broker.admin().verify().expect("read").faults.is_empty());
        broker.close().expect("closed");

        for dir in ["/v", "/b"] {
            let broker = open_in(dir, &disk, &clock);
            let topic = broker.topic("t").expect("it is there");
            assert_eq!(topic.config(), topic.config().compression(compression));
            check(&broker, 12_000);
            send(&broker, 12_010);
            check(&broker, 12_010);
        }
    }
}

#[test]
fn offsets_by_time_and_lags_are_those_of_the_records() {
    let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
    let broker = open(&disk, &clock);
    make(&broker, Compression::Lz4);
    for _ in 0..50 {
        send(&broker, broker.admin().latest("t", 0).expect("it is there").get() + 10);
        clock.advance(Duration::from_millis(100));
    }
    for batch in [0, 1, 30, 49] {
        let time = 1_000 + 100 * i64::try_from(batch).expect("small");
        let found = broker.admin().offset_at("t", 0, time).expect("read");
        assert_eq!(found.map(|offset| offset.get()), Some(batch * 10));
    }
    let start = Start::Offset(105.into());
    let consumer = broker.consumer().assign([("t", 0)]).start(start).build().expect("made");
    let lag = consumer.lag().expect("read").into_values().next().expect("of one partition");
    assert_eq!(lag.records, 500 - 105);
    assert_eq!(lag.time, Duration::from_millis(100 * (50 - 10)));
    broker.admin().delete_records("t", 0, 203.into()).expect("deleted");
    let first = broker.reader("t").build().expect("made").next().expect("one").expect("good");
    assert_eq!((first.offset().get(), first.value()), (203, Some(value(203).as_bytes())));
}

#[test]
fn a_producers_own_compression_goes_before_the_topics() {
    let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
    let broker = open(&disk, &clock);
    let plain = broker.create_topic("plain", TopicConfig::new()).expect("made");
    let config = TopicConfig::new().compression(Compression::Zstd);
    let packed = broker.create_topic("packed", config).expect("made");
    let saves = |own: Option<Compression>, topic, queued: bool| {
        let builder = broker.producer();
        let builder = own.into_iter().fold(builder, |builder, own| builder.compression(own));
        let producer = builder.build().expect("made");
        let before = broker.metrics().bytes_saved;
        let text = value(1);
        if queued {
            producer.enqueue(topic, Record::new(&text)).expect("queued").wait().expect("sent");
        } else {
            producer.send(topic, Record::new(&text)).expect("sent");
        }
        broker.metrics().bytes_saved > before
    };
    for queued in [false, true] {
        assert!(!saves(None, &plain, queued) && saves(None, &packed, queued));
        assert!(saves(Some(Compression::Lz4), &plain, queued));
        assert!(!saves(Some(Compression::None), &packed, queued));
    }
}

#[test]
fn a_change_concerns_the_batches_to_come() {
    let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
    let broker = open(&disk, &clock);
    make(&broker, Compression::None);
    let mut until = 0;
    for (compression, saves) in
        [(Compression::Lz4, true), (Compression::None, false), (Compression::Zstd, true)]
    {
        broker.admin().alter("t", TopicChange::new().compression(compression)).expect("altered");
        let described = broker.admin().describe("t").expect("it is there");
        assert_eq!(described.compression, compression);
        let before = broker.metrics().bytes_saved;
        until += 20;
        send(&broker, until);
        assert_eq!(broker.metrics().bytes_saved > before, saves);
        check(&broker, until);
    }
    broker.close().expect("closed");
    let broker = open(&disk, &clock);
    let described = broker.admin().describe("t").expect("it is there");
    assert_eq!(described.compression, Compression::Zstd);
    check(&broker, until);
}

#[test]
fn a_batch_that_would_not_be_smaller_is_stored_as_it_is() {
    let (disk, clock) = (SimDisk::new(), ManualClock::new(1_000));
    let broker = open(&disk, &clock);
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(10_000)
    .collect();
    let kinds = [Compression::None, Compression::Lz4, Compression::Zstd];
    for (topic, compression) in ["a", "b", "c"].into_iter().zip(kinds) {
        broker.create_topic(topic, TopicConfig::new().compression(compression)).expect("made");
        broker.producer().build().expect("made").send(topic, Record::new(&noise)).expect("sent");
    }
    let metrics = broker.metrics();
    assert_eq!(metrics.bytes_saved, 0);
    let bytes: Vec<_> = metrics.partitions.iter().map(|p| p.bytes_appended).collect();
    assert!(bytes.iter().all(|other| *other == bytes[0]), "{bytes:?}");
}

#[test]
fn the_command_line_sets_it_and_shows_it() {
    let shell = Shell::with_topic(&["--compression", "zstd"]);
    let lines: String =
        (0..300).map(|i| format!("line {i} of those that repeat themselves\n")).collect();
    shell.feed(&["produce", "t"], lines.as_bytes()).done();
    shell.run(&["topic", "alter", "t", "--compression", "lz4"]).done();
    shell.feed(&["produce", "t"], lines.as_bytes()).done();
    let described = shell.run(&["topic", "describe", "t"]).done();
    assert!(described.text().contains("compression      lz4\n"), "{described:?}");
    let read = shell.run(&["consume", "t"]).done();
    assert_eq!(read.text(), lines.repeat(2));
    shell.run(&["verify"]).done();

    let segment = shell.segments().remove(0);
    let segment = segment.to_str().expect("text");
    let dumped = shell.run(&["dump", segment, "--json"]).done().json();
    let of = |kind: &str| dumped.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let batches = of("batch");
    let codecs: Vec<_> = batches.iter().map(|batch| batch["codec"].as_str()).collect();
    assert_eq!(codecs, [[Some("zstd"); 3], [Some("lz4"); 3]].concat());
    for batch in &batches {
        let bytes = |name: &str| batch[name].as_u64().expect("a number");
        assert!(bytes("payload_bytes") < bytes("uncompressed_bytes") / 2, "{batch}");
        assert!(bytes("bytes") >= bytes("payload_bytes"));
    }
    let records = of("record");
    assert_eq!(records.len(), 600);
    assert_eq!(records[299]["value"], "line 299 of those that repeat themselves");

    let refused = shell.run(&["topic", "create", "u", "--compression", "gzip"]);
    assert!(refused.code == 2 && refused.err.contains("none, lz4, or zstd"), "{refused:?}");
    let bench = ["bench", "--records", "1000", "--durability", "os", "--compression", "lz4"];
    shell.run(&bench).done();
}
