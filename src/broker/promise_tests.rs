//! The promises one by one, each in its smallest form. The explorations find more; these say at
//! once
//! which promise was broken.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::broker::{Background, Broker};
use crate::client::BatchAck;
use crate::config::{Acks, Compression, DedupWindow, Durability, ManualClock, TopicConfig};
use crate::error::{Error, Outcome};
use crate::format::Record;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::id::{Offset, PartitionId};

const VALUE_BYTES: usize = 1_000;

fn open(disk: &SimDisk) -> Broker {
    Broker::builder()
        .volumes(["/v"])
        .disk(disk)
        .clock(ManualClock::new(1_700_000_000_000))
        .background(Background::Inline)
        .seed(7)
        .open()
        .expect("the store opens")
}

fn config(durability: Durability) -> TopicConfig {
    TopicConfig::new().durability(durability).segment_bytes(64 << 10)
}

fn value(number: usize) -> Vec<u8> {
    (0..VALUE_BYTES).map(|i| u8::try_from((i + number) % 251).expect("below 251")).collect()
}

fn send(broker: &Broker, number: usize) -> Result<Offset, Error> {
    let producer = broker.producer().build()?;
    producer.send("t", Record::new(&value(number))).map(|ack| ack.offset)
}

/// Every value in the topic, with what cannot be read left out.
fn read(broker: &Broker) -> Vec<Vec<u8>> {
    let reader = broker.reader("t").build().expect("the topic is there");
    reader.filter_map(Result::ok).filter_map(|record| record.value().map(<[u8]>::to_vec)).collect()
}

fn values(range: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    range.map(value).collect()
}

fn segment_files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let of_topic = |path: &std::path::PathBuf| {
        path.starts_with("/v/topics") && path.extension().is_some_and(|e| e == "log")
    };
    disk.files().into_iter().filter(of_topic).collect()
}

#[test]
fn an_acknowledged_record_is_on_the_medium() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    send(&broker, 0).expect("sent");
    let after = disk.crash(&Loss::All);
    assert_eq!(read(&open(&after)), values(0..1));
}

#[test]
fn the_name_of_an_acknowledged_records_file_is_on_the_medium() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    send(&broker, 0).expect("sent");
    for loss in disk.losses(8) {
        assert_eq!(read(&open(&disk.crash(&loss))), values(0..1), "{loss}");
    }
}

#[test]
fn a_failed_sync_is_final() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    send(&broker, 0).expect("sent");
    disk.arm(Fault {
        at: 1,
        call: Some(Call::SyncData),
        what: FaultKind::Eio,
        how_long: HowLong::Once,
    });
    let first = send(&broker, 1).expect_err("its sync failed");
    assert!(matches!(first, Error::Halted { .. }), "{first}");
    assert_eq!(first.outcome(), Outcome::Unknown);
    // The disk works again, and the kernel calls the lost pages clean: neither helps.
    let second = send(&broker, 2).expect_err("the log halted");
    assert!(matches!(second, Error::Halted { .. }), "{second}");
    assert_eq!(read(&broker), values(0..1), "nothing above the last good sync is served");
    let durable = broker.admin().durable_offset("t", 0).expect("known");
    assert_eq!(durable, Offset::new(1));
}

#[test]
fn what_a_recovery_serves_is_on_the_medium() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    send(&broker, 0).expect("sent");
    disk.arm(Fault {
        at: 1,
        call: Some(Call::SyncData),
        what: FaultKind::Eio,
        how_long: HowLong::Once,
    });
    send(&broker, 1).expect_err("its sync failed");
    disk.disarm();
    // The page cache still shows what the medium lacks, and calls it clean.
    let killed = disk.kill();
    let served = read(&open(&killed));
    let after = killed.crash(&Loss::All);
    assert_eq!(read(&open(&after)), served, "served, and then gone");
}

#[test]
fn a_high_watermark_never_passes_what_is_synced() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    let state = broker.inner().find_topic("t").expect("there");
    let partition = state.partition(PartitionId::new(0)).expect("there");
    // In the log, and nobody has synced it.
    partition.log().append(&[Record::new("unsynced")]).expect("appended");
    assert_eq!(partition.high_watermark(), Offset::ZERO);
    assert!(read(&broker).is_empty());
    partition.wait_durable(Offset::new(1)).expect("synced");
    assert_eq!(partition.high_watermark(), Offset::new(1));
}

/// A store whose topic has ten records, left by a kill: its file has no footer. What is durable is
/// told by each batch for those before it.
fn killed_with_ten() -> SimDisk {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    for number in 0..10 {
        send(&broker, number).expect("sent");
    }
    disk.kill()
}

#[test]
fn damage_below_the_durable_evidence_is_never_cut() {
    let disk = killed_with_ten();
    let file = segment_files(&disk).pop().expect("one file");
    // In the fourth record's value.
    disk.flip_bit(&file, 12_288 + 3 * 1_152 + 400, 3).expect("within the file");
    let broker = open(&disk);
    let kept: Vec<_> = (0..10).filter(|number| *number != 3).map(value).collect();
    assert_eq!(read(&broker), kept);
    assert_eq!(broker.recovery().damage.len(), 1);
    assert_eq!(send(&broker, 10).expect("sent"), Offset::new(10), "no offset is given again");
}

#[test]
fn zeros_below_the_durable_evidence_do_not_end_the_log() {
    let disk = killed_with_ten();
    let file = segment_files(&disk).pop().expect("one file");
    let mut bytes = disk.read_file(&file).expect("there");
    bytes[12_288 + 3 * 1_152..][..1_152].fill(0);
    disk.write_file(&file, &bytes).expect("written");
    let broker = open(&disk);
    let kept: Vec<_> = (0..10).filter(|number| *number != 3).map(value).collect();
    assert_eq!(read(&broker), kept);
}

#[test]
fn no_clean_mark_holds_after_an_unclean_end() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Os)).expect("created");
    send(&broker, 0).expect("sent");
    broker.close().expect("closed");
    let broker = open(&disk);
    assert!(broker.recovery().clean);
    send(&broker, 1).expect("sent");
    let killed = disk.kill();
    let broker = open(&killed);
    assert!(!broker.recovery().clean);
    assert_eq!(read(&broker), values(0..2));
}

#[test]
fn a_new_file_does_not_vouch_for_the_old_one() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Os)).expect("created");
    let state = broker.inner().find_topic("t").expect("there");
    let log = state.partition(PartitionId::new(0)).expect("there").log();
    // Straight into the log: nothing seals, so nothing is synced, when it rolls.
    let mut sent = 0;
    while log.segments().len() < 2 {
        log.append(&[Record::new(&value(sent))]).expect("appended");
        sent += 1;
    }
    for loss in disk.losses(64) {
        let after = open(&disk.crash(&loss));
        assert!(after.recovery().damage.is_empty(), "{loss}: {:?}", after.recovery().damage);
        let found = read(&after);
        assert_eq!(found, values(0..found.len()), "{loss}");
    }
}

/// Lets stalled syncs go on when it is dropped.
struct Release<'a>(&'a SimDisk);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.disarm();
        self.0.release_stalls();
    }
}

#[test]
fn one_sync_at_a_time_goes_to_a_file() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    send(&broker, 0).expect("sent");
    disk.arm(Fault {
        at: 1,
        call: Some(Call::SyncData),
        what: FaultKind::StalledSync,
        how_long: HowLong::Forever,
    });
    thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for its threads.
        let release = Release(&disk);
        for number in 1..4 {
            let broker = broker.clone();
            scope.spawn(move || send(&broker, number).expect("sent"));
        }
        // All three have appended; whoever is not the leader waits for it.
        let log = {
            let state = broker.inner().find_topic("t").expect("there");
            Arc::clone(state.partition(PartitionId::new(0)).expect("there").log())
        };
        while log.end_offset() < Offset::new(4) || disk.stalled() == 0 {
            thread::yield_now();
        }
        for _ in 0..1_000 {
            assert_eq!(disk.stalled(), 1, "two syncs at once");
            thread::yield_now();
        }
        drop(release);
    });
    assert_eq!(read(&broker).len(), 4);
}

#[test]
fn acks_none_returns_before_the_record_is_durable_and_it_becomes_so() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    let producer = broker.producer().acks(Acks::None).build().expect("built");
    producer.send("t", Record::new(&value(0))).expect("sent");
    // Without a thread in the background the appending one has synced it.
    assert_eq!(read(&open(&disk.crash(&Loss::All))), values(0..1));
}

/// Every seal fails from now on, at the call that trims its file.
fn let_seals_fail(disk: &SimDisk) {
    let call = Some(Call::SetLen);
    disk.arm(Fault { at: 1, call, what: FaultKind::Erofs, how_long: HowLong::Forever });
}

#[test]
fn a_seal_that_fails_keeps_no_interval_from_being_kept() {
    let disk = SimDisk::new();
    let clock = ManualClock::new(1_700_000_000_000);
    let builder = Broker::builder().volumes(["/v"]).disk(&disk).clock(clock.clone());
    let broker = builder.background(Background::Inline).open().expect("the store opens");
    let interval = Duration::from_millis(10);
    broker.create_topic("t", config(Durability::Interval(interval))).expect("created");
    let_seals_fail(&disk);
    let producer = broker.producer().build().expect("a producer can be made");
    for number in 1..30 {
        clock.advance(Duration::from_secs(1));
        let bytes = if number < 6 { 9_000 } else { 100 };
        producer.send("t", Record::new(&vec![7; bytes])).expect("there is room for it");
        let durable = broker.admin().durable_offset("t", 0).expect("the topic is there");
        assert!(durable.get() + 1 >= number, "{durable} of {number} are durable");
    }
    assert!(disk.fired() > 1, "no seal failed");
}

#[test]
fn a_seal_that_fails_keeps_no_record_from_being_committed() {
    let disk = SimDisk::new();
    let builder = Broker::builder().volumes(["/v"]).disk(&disk);
    let broker = builder.open().expect("the store opens");
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    let_seals_fail(&disk);
    let producer = broker.producer().acks(Acks::None).build().expect("a producer can be made");
    let mut consumer = broker.consumer().assign([("t", 0)]).build().expect("it is made");
    for number in 1..30 {
        let bytes = if number < 6 { 9_000 } else { 100 };
        producer.send("t", Record::new(&vec![7; bytes])).expect("there is room for it");
        // It comes without anybody asking for it; a minute is for ever here.
        let polled = consumer.poll(Duration::from_mins(1)).expect("it can be read");
        assert_eq!(polled.count(), 1, "record {number} was not committed");
    }
}

#[test]
fn a_topic_that_was_not_made_is_not_there() {
    for at in 1.. {
        let disk = SimDisk::new();
        let broker = open(&disk);
        disk.arm(Fault { at, call: None, what: FaultKind::Emfile, how_long: HowLong::Once });
        let created = broker.create_topic("t", config(Durability::Fsync)).map(drop);
        let fired = disk.fired() > 0;
        disk.disarm();
        match created {
            Err(error) if error.outcome() == Outcome::NotWritten => {
                assert!(broker.topic("t").is_err());
                broker.create_topic("t", config(Durability::Fsync)).expect("it can be made now");
            }
            Err(_) | Ok(()) => {}
        }
        if !fired {
            return;
        }
    }
}

#[test]
fn a_refused_delete_leaves_the_topic_alone() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    send(&broker, 0).expect("sent");
    let sync = Some(Call::SyncData);
    disk.arm(Fault { at: 1, call: sync, what: FaultKind::Eio, how_long: HowLong::Once });
    broker.create_topic("u", config(Durability::Fsync)).map(drop).expect_err("its sync fails");
    disk.disarm();
    let refused = broker.admin().delete_topic("t");
    assert!(matches!(refused, Err(Error::Halted { .. })), "{refused:?}");
    send(&broker, 1).expect("the topic is there");
    assert_eq!(read(&broker), values(0..2));
}

#[test]
fn who_holds_a_deleted_topic_and_who_a_closed_broker_are_told_apart() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("t", config(Durability::Fsync)).expect("created");
    let producer = broker.producer().build().expect("a producer can be made");
    let mut consumer = broker.consumer().assign([("t", 0)]).build().expect("it is made");
    broker.admin().delete_topic("t").expect("deleted");
    let sent = producer.send(&topic, Record::new("no")).map(drop);
    let polled = consumer.poll(Duration::ZERO).map(drop);
    let other = broker.create_topic("u", config(Durability::Os)).expect("created");
    producer.send(&other, Record::new("not durable")).expect("sent");
    broker.admin().delete_topic("u").expect("deleted");
    let deleted = broker.admin().delete_records(&other, 0, Offset::new(1));
    let waited = broker.admin().wait_durable(&other, 0, Offset::new(1));
    for told in [sent, polled, deleted, waited] {
        assert!(matches!(told, Err(Error::UnknownTopic { .. })), "{told:?}");
    }
    broker.close().expect("closed");
    let sent = producer.send(&topic, Record::new("no")).map(drop);
    let polled = consumer.poll(Duration::ZERO).map(drop);
    for told in [sent, polled] {
        assert!(matches!(told, Err(Error::Closed)), "{told:?}");
    }
}

#[test]
fn a_record_whose_topic_is_deleted_while_it_is_waited_for_may_be_found_later() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Fsync)).expect("created");
    let state = broker.inner().find_topic("t").expect("it is there");
    let log = state.partition(PartitionId::new(0)).expect("it is there").log();
    let (call, what) = (Some(Call::SyncData), FaultKind::StalledSync);
    disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
    let (behind, ahead) = thread::scope(|scope| {
        let leader = scope.spawn(|| send(&broker, 0));
        while disk.stalled() == 0 {
            thread::yield_now();
        }
        // Its record is in the file, and a round to come is to sync it.
        let waiter = scope.spawn(|| send(&broker, 1));
        while log.end_offset() < Offset::new(2) {
            thread::yield_now();
        }
        broker.admin().delete_topic("t").expect("deleted");
        let behind = waiter.join().expect("it does not panic");
        disk.release_stalls();
        (behind, leader.join().expect("it does not panic"))
    });
    for told in [behind, ahead] {
        let error = told.expect_err("its file is removed");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    }
}

#[test]
fn who_closes_at_the_same_time_learns_how_it_ended() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    broker.create_topic("t", config(Durability::Os)).expect("created");
    send(&broker, 0).expect("sent");
    let sync = Some(Call::SyncData);
    let arm = |what| disk.arm(Fault { at: 1, call: sync, what, how_long: HowLong::Once });
    arm(FaultKind::StalledSync);
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| broker.clone().close());
        while disk.stalled() == 0 {
            thread::yield_now();
        }
        // It has not failed yet, and will.
        arm(FaultKind::Eio);
        let second = scope.spawn(|| broker.clone().close());
        disk.release_stalls();
        (first.join().expect("it does not panic"), second.join().expect("it does not panic"))
    });
    assert!(first.is_err(), "a sync failed");
    assert_eq!(format!("{second:?}"), format!("{first:?}"));
    assert_eq!(format!("{:?}", broker.close()), format!("{first:?}"));
}

/// 1. A record is appended, and its sync is not waited for. 2. Another producer sends it again, and
/// is told that it is there. 3. The power is cut: it has to be.
#[test]
fn a_duplicate_is_acknowledged_once_the_original_is_on_the_medium() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    let config = config(Durability::Fsync).dedup(DedupWindow::Retained);
    let topic = broker.create_topic("t", config).expect("created");
    let (first, second) = (value(0), value(1));
    let records = [&first, &second].map(|value| Record::new(value).dedup_by_value());
    let state = topic.state.partition(PartitionId::new(0)).expect("there");
    let other = broker.inner().new_producer(None).expect("there are few");
    state.begin(&other, &records, Compression::None, Acks::All).expect("appended");
    assert_eq!(broker.admin().durable_offset("t", 0).expect("known"), Offset::ZERO);
    let producer = broker.producer().build().expect("built");
    let ack = producer.send("t", records[0].clone()).expect("sent");
    assert!(ack.duplicate && ack.offset == Offset::ZERO);
    let after = open(&disk.crash(&Loss::All));
    assert!(!read(&after).is_empty() && read(&after)[0] == first);
}

#[test]
fn acknowledgements_say_where_each_record_of_a_batch_is() {
    let broker = open(&SimDisk::new());
    let config = config(Durability::Os).dedup(DedupWindow::Retained);
    broker.create_topic("t", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let record = |key| Record::new("value").dedup_key(key);
    let offsets = |ack: &BatchAck| ack.offsets().map(Offset::get).collect::<Vec<_>>();

    let ack = producer.send_batch("t", 0, &["a", "b"].map(record)).expect("sent");
    assert_eq!((offsets(&ack), ack.duplicates), (vec![0, 1], 0));
    let ack = producer.send_batch("t", 0, &["c", "a", "d", "c", "b"].map(record)).expect("sent");
    assert_eq!((offsets(&ack), ack.duplicates), (vec![2, 0, 3, 2, 1], 3));
    assert_eq!((ack.base_offset.get(), ack.last_offset.get()), (2, 1));
    let duplicates: Vec<_> = ack.acks().map(|ack| ack.duplicate).collect();
    assert_eq!(duplicates, [false, true, false, true, true]);
    let ack = producer.send_batch("t", 0, &["d", "a"].map(record)).expect("sent");
    assert_eq!((offsets(&ack), ack.duplicates), (vec![3, 0], 2));
    assert_eq!(broker.admin().latest("t", 0).expect("known"), Offset::new(4));

    let queued = ["b", "e", "e", "a"].map(|key| producer.enqueue("t", record(key)));
    producer.flush().expect("sent");
    let acks = queued.map(|queued| queued.and_then(|delivery| delivery.wait()).expect("sent"));
    assert_eq!(
        acks.map(|ack| (ack.offset.get(), ack.duplicate)),
        [(1, true), (4, false), (4, true), (0, true),]
    );
    let metrics = broker.metrics();
    assert_eq!((metrics.duplicates, metrics.partitions[0].duplicates), (8, 8));

    let refused = producer.send("t", Record::new("another").dedup_key("b")).expect_err("refused");
    assert_eq!(refused.outcome(), Outcome::NotWritten);
    let Error::DedupMismatch(mismatch) = &refused else { panic!("{refused:?}") };
    assert_eq!(mismatch.original, Some(Offset::new(1)));
    let text = refused.to_string();
    assert!(text.contains("the dedup key of the record at offset 1"), "{text}");
}

/// Keys belong to a partition: a record without a key goes where its dedup key says, so that it
/// comes to the same one again.
#[test]
fn a_record_without_a_key_goes_where_its_dedup_key_says() {
    let broker = open(&SimDisk::new());
    let config = config(Durability::Os).partitions(5).dedup(DedupWindow::Retained);
    broker.create_topic("t", config).expect("created");
    let producer = broker.producer().build().expect("built");
    for again in [false, true] {
        for number in 0..100 {
            let key = format!("key {number}");
            let ack = producer.send("t", Record::new("value").dedup_key(&key)).expect("sent");
            assert_eq!(ack.duplicate, again);
            assert_eq!(ack.partition.get(), crate::murmur2_partition(key.as_bytes(), 5));
        }
    }
}

#[test]
fn what_is_there_is_told_on_a_full_disk_too() {
    let disk = SimDisk::new();
    let broker = open(&disk);
    let config = config(Durability::Fsync).dedup(DedupWindow::Retained);
    broker.create_topic("t", config).expect("created");
    let producer = broker.producer().build().expect("built");
    let send = |number: usize| producer.send("t", Record::new(&value(number)).dedup_by_value());
    let accepted = (0..).take_while(|&number| {
        if number == 20 {
            disk.arm(Fault {
                at: 1,
                call: Some(Call::Allocate),
                what: FaultKind::Enospc,
                how_long: HowLong::Forever,
            });
        }
        send(number).is_ok()
    });
    let count = accepted.count();
    assert!(count >= 20);
    for number in 0..count {
        assert!(send(number).expect("it is there").duplicate);
    }
    assert!(matches!(send(count), Err(Error::StorageFull(_))));
}
