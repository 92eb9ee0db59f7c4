//! A record of a producer is written once, whatever is tried again.
//!
//! Invariants
//!   1. A named producer goes on over restarts where it left off: a source that can be read again
//!      is in the log exactly once (I7).
//!   2. Who builds a producer of a name fences the one before, in every partition at once.
//!   3. What was written and could not be synced is tried again, and is there once; a newer batch
//!      of a partition is answered after the older ones, and every one is answered.
//!   4. Producers that are gone leave nothing behind, and none is taken for another.

use std::time::Duration;

use crate::format::testing::Random;
use crate::partition::Wanted;
use crate::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::{
    Acks, Background, Broker, Compression, Delivery, Durability, Error, Outcome, Producer, Record,
    TopicConfig, TopicPartition,
};

fn open(disk: &SimDisk, background: Background) -> Broker {
    let builder = Broker::builder().volumes(["/v"]).disk(disk).seed(5);
    builder.background(background).open().unwrap()
}

fn config() -> TopicConfig {
    TopicConfig::new().partitions(2).segment_bytes(64 << 10)
}

fn place(partition: u32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn importer(broker: &Broker) -> Producer {
    broker.producer().name("importer").build().unwrap()
}

fn send(producer: &Producer, partition: u32, value: &str) -> Result<u64, Error> {
    let sent = producer.send("t", Record::new(value).partition(partition));
    sent.map(|ack| ack.offset.get())
}

fn values(broker: &Broker, partition: u32) -> Vec<String> {
    let reader = broker.reader("t").partition(partition).build().unwrap();
    let read = reader.map(|record| record.unwrap().value().unwrap().to_vec());
    read.map(|value| String::from_utf8(value).unwrap()).collect()
}

fn arm(disk: &SimDisk, call: Call, what: FaultKind, how_long: HowLong) {
    disk.arm(Fault { at: 1, call: Some(call), what, how_long });
}

#[test]
fn a_named_producer_goes_on_where_it_left_off() {
    let disk = SimDisk::new();
    let mut expected = None;
    for life in 0..6 {
        let broker = open(&disk, Background::Thread);
        broker.ensure_topic("t", config()).unwrap();
        let producer = importer(&broker);
        assert_eq!(producer.last_sequence(&place(0)), expected, "life {life}");
        assert_eq!(producer.last_sequence(&place(1)), None);
        assert_eq!(producer.last_sequence(&TopicPartition::new("none", 0)), None);
        // Larger than a quarter of a file, so that it rolls, seals and deletes all the time.
        let value = "v".repeat(20_000);
        for more in 1..=life {
            send(&producer, 0, &value).unwrap();
            expected = Some(expected.map_or(0, |last| last + 1));
            assert_eq!(producer.last_sequence(&place(0)), expected, "life {life} record {more}");
        }
        match life {
            1 => broker.close().unwrap(),
            // What was sent is deleted, and known all the same.
            2 | 4 => {
                let end = broker.admin().latest("t", 0).unwrap();
                broker.admin().delete_records("t", 0, end).unwrap();
                assert_eq!(producer.last_sequence(&place(0)), expected);
                if life == 2 {
                    broker.close().unwrap();
                } else {
                    disk.power_cycle(&Loss::All, || drop((producer, broker)));
                }
            }
            3 => disk.kill_in_place(|| drop((producer, broker))),
            _ => disk.power_cycle(&Loss::All, || drop((producer, broker))),
        }
    }
}

/// The importer of the example: what is in the log already is left out.
fn import(broker: &Broker, source: &[String]) -> Result<(), Error> {
    broker.ensure_topic("t", config())?;
    let producer = broker.producer().name("importer").build()?;
    let done = producer.last_sequence(&place(0)).map_or(0, |last| last + 1);
    for value in &source[usize::try_from(done).unwrap()..] {
        send(&producer, 0, value)?;
    }
    Ok(())
}

#[test]
fn a_source_that_is_read_again_is_in_the_log_once() {
    let source: Vec<String> = (0..12).map(|n| format!("{n} {}", "v".repeat(9_000))).collect();
    for kind in [Loss::All, Loss::None] {
        let disk = SimDisk::new();
        let mut lives = 0;
        for calls in 1.. {
            disk.kill_after(calls * 7);
            let builder = Broker::builder().volumes(["/v"]).disk(&disk).seed(5);
            let builder = builder.background(Background::Inline);
            let opened = builder.open();
            let ended = opened.and_then(|broker| {
                let imported = import(&broker, &source);
                disk.power_cycle(&kind, || drop(broker));
                imported
            });
            if ended.is_err() && disk.is_on() {
                disk.power_cycle(&kind, || ());
            }
            lives += 1;
            if ended.is_ok() {
                break;
            }
        }
        assert!(lives > 10, "it was cut off {lives} times");
        let broker = open(&disk, Background::Inline);
        assert_eq!(values(&broker, 0), source, "each once, in order");
        assert!(broker.admin().verify().unwrap().faults.is_empty());
    }
}

#[test]
fn a_second_holder_of_a_name_fences_the_first_everywhere_at_once() {
    for background in [Background::Thread, Background::Inline] {
        let disk = SimDisk::new();
        let broker = open(&disk, background);
        broker.create_topic("t", config()).unwrap();
        let first = importer(&broker);
        send(&first, 0, "a").unwrap();
        let queued = first.enqueue("t", Record::new("queued").partition(0)).unwrap();
        first.flush().unwrap();
        queued.wait().unwrap();

        let second = importer(&broker);
        // Also where the second one has not been yet.
        for partition in [0, 1] {
            let error = send(&first, partition, "late").unwrap_err();
            let Error::ProducerFenced(fenced) = &error else { panic!("{error:?}") };
            assert_eq!((&*fenced.name, fenced.epoch, fenced.current), ("importer", 0, 1));
            assert_eq!((error.outcome(), error.is_retriable()), (Outcome::NotWritten, false));
            assert!(error.to_string().contains("importer was fenced"), "{error}");
        }
        let late = first.enqueue("t", Record::new("late").partition(1)).unwrap();
        let error = first.flush().unwrap_err();
        assert!(matches!(error, Error::ProducerFenced(_)), "{error:?}");
        assert!(matches!(late.wait(), Err(Error::ProducerFenced(_))));
        assert_eq!(broker.metrics().fenced, 3);

        assert_eq!(second.last_sequence(&place(0)), Some(1));
        assert_eq!(send(&second, 0, "b").unwrap(), 2);
        assert_eq!(second.last_sequence(&place(0)), Some(2));
        assert_eq!(values(&broker, 0), ["a", "queued", "b"]);
        assert!(values(&broker, 1).is_empty());
        // Another name is another producer.
        let other = broker.producer().name("other").build().unwrap();
        assert_eq!(other.last_sequence(&place(0)), None);
        send(&second, 0, "c").unwrap();
    }
}

#[test]
fn names_are_kept_until_they_are_deleted() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Thread);
    broker.create_topic("t", config()).unwrap();
    for name in ["b", "a", "b"] {
        broker.producer().name(name).build().unwrap();
    }
    let producer = importer(&broker);
    send(&producer, 0, "a").unwrap();
    assert_eq!(broker.admin().producers().unwrap(), ["a", "b", "importer"]);
    broker.admin().delete_producer("importer").unwrap();
    let error = send(&producer, 0, "late").unwrap_err();
    assert!(matches!(error, Error::ProducerFenced(_)));
    assert!(error.to_string().contains("its name was deleted"), "{error}");
    let error = broker.admin().delete_producer("importer").unwrap_err();
    assert!(matches!(&error, Error::UnknownProducer { name } if &**name == "importer"), "{error}");
    broker.close().unwrap();

    let broker = open(&disk, Background::Thread);
    assert_eq!(broker.admin().producers().unwrap(), ["a", "b"]);
    let anew = importer(&broker);
    assert_eq!(anew.last_sequence(&place(0)), None);
    send(&anew, 0, "b").unwrap();
    assert_eq!(anew.last_sequence(&place(0)), Some(0));
    assert!(broker.admin().verify().unwrap().faults.is_empty());
}

#[test]
fn producers_that_cannot_be_are_refused() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    let option = |error: Error| match error {
        Error::InvalidConfig(invalid) => invalid.option,
        other => panic!("{other:?}"),
    };
    for name in [String::new(), "n".repeat(250)] {
        assert_eq!(option(broker.producer().name(name).build().unwrap_err()), "name");
    }
    broker.producer().name("n".repeat(249)).build().unwrap();
    let mut live: Vec<_> = (0..65_536).map(|_| broker.producer().build().unwrap()).collect();
    assert_eq!(option(broker.producer().build().unwrap_err()), "producers");
    live.pop();
    live.push(broker.producer().build().unwrap());
    broker.producer().name("as many as one likes").build().unwrap();
    let looking = Broker::builder().volumes(["/v"]).disk(&disk).read_only(true).open().unwrap();
    for producer in [looking.producer(), looking.producer().name("n")] {
        assert!(matches!(producer.build(), Err(Error::ReadOnly)));
    }
}

#[test]
fn producers_that_are_gone_leave_no_rows() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    broker.create_topic("t", config()).unwrap();
    let known = |broker: &Broker| broker.metrics().partition("t", 0).unwrap().producers;
    let kept = broker.producer().build().unwrap();
    send(&kept, 0, "first").unwrap();
    send(&importer(&broker), 0, "named").unwrap();
    for number in 0..1_000 {
        let producer = broker.producer().build().unwrap();
        send(&producer, 0, &format!("{number} {}", "v".repeat(500))).unwrap();
    }
    // Those of the newest file at most.
    assert!((2..300).contains(&known(&broker)), "{} are known", known(&broker));
    // One that lives is known, however long it has been idle.
    assert_eq!(kept.last_sequence(&place(0)), Some(0));
    drop(broker);
    let broker = open(&disk, Background::Inline);
    assert_eq!(known(&broker), 1, "the one with a name");
}

#[test]
fn no_producer_of_a_copy_is_taken_for_one_of_the_original() {
    let disk = SimDisk::new();
    let mut broker = open(&disk, Background::Inline);
    broker.create_topic("t", config()).unwrap();
    send(&broker.producer().build().unwrap(), 0, "a").unwrap();
    send(&importer(&broker), 0, "b").unwrap();
    broker.admin().backup("/copy").unwrap();
    for life in 0..3 {
        drop(broker);
        broker = Broker::builder().volumes(["/copy"]).disk(&disk).seed(5).open().unwrap();
        send(&broker.producer().build().unwrap(), 0, "c").unwrap();
        let producer = importer(&broker);
        assert_eq!(producer.last_sequence(&place(0)), Some(life));
        send(&producer, 0, "d").unwrap();
        let report = broker.admin().verify().unwrap();
        assert!(report.faults.is_empty(), "numbers were given twice: {:?}", report.faults);
    }
}

fn queue(producer: &Producer, value: &str) -> Delivery {
    producer.enqueue("t", Record::new(value).partition(0)).unwrap()
}

#[test]
fn what_could_not_be_synced_is_tried_again_and_is_there_once() {
    for background in [Background::Thread, Background::Inline] {
        let disk = SimDisk::new();
        let broker = open(&disk, background);
        broker.create_topic("t", config()).unwrap();
        let linger = Duration::from_secs(100);
        let producer = broker.producer().batch_bytes(1).linger(linger).build().unwrap();
        // The first file's folders are synced with its first batch, and cannot be opened.
        arm(&disk, Call::SyncDir, FaultKind::Emfile, HowLong::Once);
        let deliveries = ["a", "b", "c"].map(|value| queue(&producer, value));
        producer.flush().unwrap();
        assert!(disk.fired() == 1 && broker.metrics().retries > 0);
        for (offset, delivery) in (0..).zip(deliveries) {
            assert_eq!(delivery.wait().unwrap().offset.get(), offset);
        }
        assert_eq!(values(&broker, 0), ["a", "b", "c"], "each once");
    }
}

#[test]
fn a_newer_batch_is_not_answered_before_an_older_one() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    broker.create_topic("t", config()).unwrap();
    let producer = broker.producer().batch_bytes(1).build().unwrap();
    // 1. The first batch finds no room and waits; the second one queues up behind it.
    arm(&disk, Call::Allocate, FaultKind::Enospc, HowLong::Once);
    let [older, newer] = ["older", "newer"].map(|value| queue(&producer, value));
    assert_eq!(disk.fired(), 1);
    // 2. One round appends both. The first one's sync finds no descriptor, the second one's would
    // be done. 3. Its answer waits for that of the first.
    arm(&disk, Call::SyncDir, FaultKind::Emfile, HowLong::Once);
    newer.wait().unwrap();
    assert_eq!(disk.fired(), 2);
    let answer = older.wait_timeout(Duration::ZERO);
    assert!(matches!(answer, Some(Ok(_))), "the older one is answered: {answer:?}");
    assert_eq!(values(&broker, 0), ["older", "newer"]);
}

#[test]
fn a_batch_that_failed_is_not_written_after_a_newer_one() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    broker.create_topic("t", config()).unwrap();
    let producer = broker.producer().batch_bytes(1).build().unwrap();
    // 1. The first batch finds no room and waits; the others queue up behind it.
    arm(&disk, Call::Allocate, FaultKind::Enospc, HowLong::Once);
    let [first, second] = ["f", "s"].map(|value| queue(&producer, &value.repeat(40_000)));
    let third = queue(&producer, "third");
    assert_eq!(disk.fired(), 1);
    // 2. One round: the first is appended, the second would begin a file and fails for good, the
    // third is appended. 3. The first one's sync finds no descriptor: all are looked at again.
    let rename = FaultKind::Erofs;
    disk.arm(Fault { at: 2, call: Some(Call::Rename), what: rename, how_long: HowLong::Once });
    arm(&disk, Call::SyncDir, FaultKind::Emfile, HowLong::Once);
    third.wait().unwrap();
    assert_eq!(disk.fired(), 3);
    let [first, second] = [first, second].map(|batch| batch.wait_timeout(Duration::ZERO).unwrap());
    first.unwrap();
    assert_eq!(second.unwrap_err().outcome(), Outcome::NotWritten);
    assert_eq!(values(&broker, 0)[1..], ["third"]);
}

#[test]
fn what_is_queued_behind_a_batch_that_was_appended_is_appended_too() {
    let disk = SimDisk::new();
    let broker = open(&disk, Background::Inline);
    broker.create_topic("t", config()).unwrap();
    let producer = broker.producer().batch_bytes(1 << 20).build().unwrap();
    let first = queue(&producer, "first");
    // The open batch is sent because somebody waits for it, and is to be synced again.
    arm(&disk, Call::SyncDir, FaultKind::Emfile, HowLong::Once);
    assert!(first.wait_timeout(Duration::ZERO).is_none());
    assert_eq!(disk.fired(), 1);
    let second = queue(&producer, "second");
    assert_eq!([first, second].map(|batch| batch.wait().unwrap().offset.get()), [0, 1]);
    assert_eq!(values(&broker, 0), ["first", "second"]);
}

#[test]
fn what_was_cut_off_is_not_acknowledged_by_what_came_after() {
    for durability in [Durability::Fsync, Durability::Os] {
        let disk = SimDisk::new();
        let broker = open(&disk, Background::Inline);
        let topic = broker.create_topic("t", config().durability(durability)).unwrap();
        let partition = topic.state.partition(0.into()).unwrap();
        let [lost, other] = [(); 2].map(|()| broker.inner().producers().make().unwrap());
        let append = |producer, value| {
            partition.begin(producer, &[Record::new(value)], Compression::None, Acks::All).unwrap()
        };
        let first = append(&lost, "lost");
        partition.log().truncate_to(first.base).unwrap();
        let second = append(&other, "other");
        assert_eq!(second.base, first.base);
        let wanted = Wanted { acks: Acks::All, deadline: None };
        partition.acknowledge(&second, wanted).unwrap();
        let error = partition.acknowledge(&first, wanted).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{durability:?}: {error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert_eq!(values(&broker, 0), ["other"]);
    }
}

#[test]
fn every_batch_of_a_crowd_is_answered_in_order_whatever_fails() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new();
        let background = if seed % 2 == 0 { Background::Inline } else { Background::Thread };
        let broker = open(&disk, background);
        let durability = if random.below_u64(3) == 0 { Durability::Os } else { Durability::Fsync };
        broker.create_topic("t", config().durability(durability)).unwrap();
        let acks = if random.below_u64(4) == 0 { Acks::None } else { Acks::All };
        let timeout = Duration::from_millis(1 + random.below_u64(100));
        let producer = broker.producer().acks(acks).batch_bytes(1).delivery_timeout(timeout);
        let mut producer = Some(producer.build().unwrap());
        let mut deliveries = Vec::new();
        for number in 0..30 {
            if random.below_u64(5) == 0 {
                let (call, what) = match random.below_u64(4) {
                    0 => (Call::Allocate, FaultKind::Enospc),
                    1 => (Call::Rename, FaultKind::Erofs),
                    _ => (Call::SyncDir, FaultKind::Emfile),
                };
                let at = 1 + random.below_u64(2);
                disk.arm(Fault { at, call: Some(call), what, how_long: HowLong::Once });
            }
            let value = format!("{number} {}", "v".repeat(15_000));
            let sender = producer.as_ref().unwrap();
            deliveries.push((number, sender.enqueue("t", Record::new(&value).partition(0))));
            if random.below_u64(6) == 0 {
                let _ = sender.flush();
            }
        }
        match random.below_u64(3) {
            0 => drop(producer.as_ref().map(Producer::flush)),
            1 => drop(producer.take()),
            _ => drop(broker.clone().close()),
        }
        let mut written = Vec::new();
        for (number, delivery) in deliveries {
            let Ok(delivery) = delivery else { continue };
            let answer = delivery.wait_timeout(Duration::ZERO);
            match answer.unwrap_or_else(|| panic!("seed {seed}: no answer for {number}")) {
                Ok(ack) => written.push((ack.offset.get(), number, true)),
                Err(error) if error.outcome() == Outcome::NotWritten => {}
                Err(_) => written.push((0, number, false)),
            }
        }
        disk.disarm();
        disk.kill_in_place(|| drop((producer, broker)));
        let broker = open(&disk, Background::Inline);
        let found = values(&broker, 0);
        let numbers: Vec<u64> =
            found.iter().map(|value| value.split(' ').next().unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}: once, and in order: {numbers:?}");
        for (offset, number, acknowledged) in written {
            let at = numbers.iter().position(|found| *found == number);
            if acknowledged {
                let offset = usize::try_from(offset).unwrap();
                assert_eq!(at, Some(offset), "seed {seed}: {number} of {numbers:?}");
            }
        }
    }
}
