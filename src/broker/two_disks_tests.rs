//! Two volumes, every partition on both: what is left when either disk dies.
//!
//! Invariants
//!   1. Whichever disk dies, and at whichever of its calls, with `min_insync` 1 writing and reading
//!      go on: no error, and nothing that was acknowledged is lost or comes twice.
//!   2. Once the store has gone on with one volume, that one alone is opened like any other store.
//!      Where the process ended with the disk nobody has gone on, and it takes `force_open`.
//!   3. The volume that was left behind is refused alone, and the error says which one is missing.
//!      Beside the other one it follows.
//!
//! `PLIMSOLL_SEED` runs one seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::simulation_tests::{Disks, dir};
use crate::config::{Acks, Compression, Durability, FETCH_BYTES, Reads, TopicConfig};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::format::testing::Random;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::id::{Offset, PartitionId, VolumeId};
use crate::log::ReadCursor;
use crate::partition::Wanted;
use crate::{Background, Broker, BrokerBuilder, SharedRecord, Topic, VolumeState};

const PARTITIONS: u32 = 2;
/// With several for each partition a batch is on its way whenever the disk dies.
const SENDERS: u32 = 4;
const SEEDS: u64 = 3;

fn builder(disks: &[SimDisk], there: &[usize], background: Background) -> BrokerBuilder {
    let dirs = there.iter().map(|number| dir(*number));
    let mut builder = Broker::builder().volumes(dirs).seed(7).background(background);
    builder.disk = Arc::new(Disks(disks.to_vec()));
    builder.heartbeat_interval(Duration::from_millis(10))
}

fn volume(disk: usize) -> VolumeId {
    VolumeId::new(u32::try_from(disk + 1).expect("few"))
}

fn config(durability: Durability) -> TopicConfig {
    let config = TopicConfig::new().partitions(PARTITIONS).replicas(2).min_insync(1);
    config.segment_bytes(64 << 10).durability(durability)
}

/// A store on two new disks: each leads one of the partitions.
fn new_store(background: Background, durability: Durability) -> (Vec<SimDisk>, Broker) {
    let disks = vec![SimDisk::new(), SimDisk::new()];
    let broker = builder(&disks, &[0, 1], background).open().expect("it opens");
    broker.create_topic("t", config(durability)).expect("it is made");
    let described = broker.admin().describe("t").expect("it is there");
    let leaders = [0, 1].map(|number: usize| described.partitions[number].leader);
    assert_ne!(leaders[0], leaders[1], "each disk leads and follows");
    (disks, broker)
}

/// Every way, for either disk, each seed.
fn in_all_ways(test: impl Fn(Background, Durability, usize, u64)) {
    let named = std::env::var("PLIMSOLL_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = named.map_or(0..SEEDS, |seed| seed..seed + 1);
    for background in [Background::Inline, Background::Thread] {
        for durability in [Durability::Fsync, Durability::Os] {
            for (dies, seed) in seeds.clone().flat_map(|seed| [(0, seed), (1, seed)]) {
                let ran = catch_unwind(AssertUnwindSafe(|| {
                    test(background, durability, dies, seed);
                }));
                ran.unwrap_or_else(|_| {
                    panic!("{background:?}, {durability:?}, disk {dies}: PLIMSOLL_SEED={seed}")
                });
            }
        }
    }
}

/// Waits until a condition holds that others make true.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        thread::yield_now();
    }
}

fn state_of(broker: &Broker, volume: VolumeId) -> Option<VolumeState> {
    let all = broker.admin().volumes().expect("it is open").into_iter();
    all.filter(|it| it.volume == volume).map(|it| it.state).next()
}

/// What was acknowledged, by partition: where, and the value.
type Acked = [Vec<(u64, u64)>; PARTITIONS as usize];

fn record(value: u64) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(2_000, 0);
    bytes
}

fn value_of(bytes: Option<&[u8]>) -> u64 {
    let bytes = bytes.expect("it has a value");
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// What is sent meanwhile.
struct Load {
    begun: AtomicU64,
    acked: AtomicU64,
    /// No more than these are begun.
    limit: AtomicU64,
}

impl Load {
    fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// A few more than now.
    fn allow_more(&self) {
        let begun = self.begun.load(Ordering::Acquire);
        self.limit.store(begun + u64::from(SENDERS), Ordering::Release);
    }

    fn allow_all(&self) {
        self.limit.store(u64::MAX, Ordering::Release);
    }

    fn begin(&self) -> bool {
        let may = self.begun.load(Ordering::Acquire) < self.limit.load(Ordering::Acquire);
        may && self.begun.fetch_add(1, Ordering::AcqRel) < u64::MAX
    }
}

/// Sends and reads while `what` happens. What is read is what was acknowledged.
fn while_in_use(broker: &Broker, acked: &mut Acked, what: impl FnOnce(&Load)) {
    let (stop, all_sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let (begun, count, limit) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let load = Load { begun, acked: count, limit };
    let first = acked.iter().map(Vec::len).sum::<usize>() as u64;
    let topic = broker.topic("t").expect("it is there");
    let mut read: Acked = Default::default();
    thread::scope(|scope| {
        let sender = |number: u32| {
            let (topic, stop, load) = (&topic, &stop, &load);
            move || {
                let producer = broker.producer().build().expect("it is built");
                let mut acked = Vec::new();
                for next in first.. {
                    while !load.begin() && !stop.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let value = next << 8 | u64::from(number);
                    let bytes = record(value);
                    let partition = number % PARTITIONS;
                    let ack = producer.send(topic, Record::new(&bytes).partition(partition));
                    let ack = ack.unwrap_or_else(|e| panic!("{value:x} of {partition}: {e:?}"));
                    acked.push((ack.offset.get(), value));
                    load.acked.fetch_add(1, Ordering::AcqRel);
                }
                acked
            }
        };
        let senders: Vec<_> = (0..SENDERS).map(|number| scope.spawn(sender(number))).collect();
        let consumer = scope.spawn(|| {
            let places = (0..PARTITIONS).map(|partition| ("t", partition));
            let mut consumer = broker.consumer().assign(places).build().expect("it is built");
            let mut read: Acked = Default::default();
            loop {
                let last = all_sent.load(Ordering::Acquire);
                let records = consumer.poll(Duration::from_millis(10)).expect("no error");
                for record in &records {
                    let found = (record.offset().get(), value_of(record.value()));
                    read[record.partition().get() as usize].push(found);
                }
                if last && records.is_empty() {
                    return read;
                }
            }
        });
        let ends = Ends([&stop, &all_sent]);
        what(&load);
        stop.store(true, Ordering::Release);
        for (number, sender) in senders.into_iter().enumerate() {
            acked[number % PARTITIONS as usize].extend(sender.join().expect("no panic"));
        }
        drop(ends);
        read = consumer.join().expect("no panic");
    });
    for acked in acked.iter_mut() {
        acked.sort_unstable();
    }
    assert_eq!(count_of(&read), count_of(acked));
    assert!(read == *acked, "what was read is not what was acknowledged");
}

/// Lets the threads of a use end, also where it panics.
struct Ends<'a>([&'a AtomicBool; 2]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|end| end.store(true, Ordering::Release));
    }
}

fn count_of(records: &Acked) -> [usize; PARTITIONS as usize] {
    [0, 1].map(|partition: usize| records[partition].len())
}

/// All that can be read.
fn read(broker: &Broker) -> Acked {
    let found = |record: Result<SharedRecord>| {
        let record = record.expect("it can be read");
        (record.offset().get(), value_of(record.value()))
    };
    [0, 1].map(|partition: u32| {
        let reader = broker.reader("t").partition(partition).build().expect("it is built");
        reader.map(found).collect()
    })
}

fn assert_has(broker: &Broker, acked: &Acked) {
    let read = read(broker);
    assert_eq!(count_of(&read), count_of(acked));
    assert!(read == *acked, "what is there is not what was acknowledged");
}

/// A few more records in each partition.
fn send_more(broker: &Broker, acked: &mut Acked) {
    let producer = broker.producer().delivery_timeout(Duration::from_secs(30));
    let producer = producer.build().expect("it is built");
    for partition in 0..PARTITIONS {
        let acked = &mut acked[partition as usize];
        for _ in 0..3 {
            let value = 1 << 60 | acked.len() as u64;
            let ack = producer.send("t", Record::new(&record(value)).partition(partition));
            acked.push((ack.expect("it is sent").offset.get(), value));
        }
    }
}

/// A disk fails for good at one of its next calls, and the store goes on without it.
fn let_die(broker: &Broker, disks: &[SimDisk], dies: usize, seed: u64, load: &Load) {
    let before = load.acked();
    until("records are acknowledged", || load.acked() > before + 20);
    let at = 1 + Random::new(seed).below_u64(60);
    let what = FaultKind::Eio;
    disks[dies].arm(Fault { at, call: None, what, how_long: HowLong::Forever });
    until("it is put out", || state_of(broker, volume(dies)) == Some(VolumeState::Failed));
    let before = load.acked();
    until("records are acknowledged without it", || load.acked() > before + 20);
}

/// Of each partition who is in sync.
fn isrs(broker: &Broker) -> Vec<Vec<VolumeId>> {
    let described = broker.admin().describe("t").expect("it is there");
    let isr = |partition: &crate::PartitionDescription| {
        let replicas = partition.replicas.iter().filter(|replica| replica.in_sync);
        replicas.map(|replica| replica.volume).collect()
    };
    described.partitions.iter().map(isr).collect()
}

/// Waits until both are in sync again, in each partition.
fn until_both_are_in_sync(broker: &Broker, topic: &Topic, meanwhile: impl Fn()) {
    until("both are in sync", || {
        meanwhile();
        for number in 0..PARTITIONS {
            topic.state.partition(PartitionId::new(number)).expect("there").work_inline();
        }
        isrs(broker).iter().all(|isr| isr.len() == 2)
    });
}

/// Without `other`, which was left behind or is left behind by it.
fn assert_refused_alone(disks: &[SimDisk], alone: usize, other: usize) {
    for read_only in [false, true] {
        let builder = builder(disks, &[alone], Background::Inline).read_only(read_only);
        let refused = builder.open().map(drop).expect_err("it is half of the store");
        let Error::MissingVolumes(missing) = &refused else { panic!("{refused:?}") };
        assert_eq!(
            (&missing.found[..], &missing.missing[..]),
            (&[volume(alone)][..], &[volume(other)][..])
        );
        let text = refused.to_string();
        for told in ["only 1 of the 2 volumes", &format!("v{}", other + 1), "force the open"] {
            assert!(text.contains(told), "{told:?} is not in {text:?}");
        }
    }
}

/// How the process ends that has gone on with one volume.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Killed,
    /// What the survivor has not synced is lost.
    PowerCut,
}

/// The disks as the end of the process leaves them.
fn after(disks: &[SimDisk], broker: Broker, end: End, seed: u64) -> Vec<SimDisk> {
    let image = |disk: &SimDisk| match end {
        End::Closed | End::Killed => disk.snapshot(),
        End::PowerCut if seed.is_multiple_of(2) => disk.crash(&Loss::All),
        End::PowerCut => disk.crash(&Loss::Random(seed)),
    };
    if let End::Closed = end {
        broker.close().expect("it closes: what has failed is known");
        return disks.iter().map(image).collect();
    }
    let images = disks.iter().map(image).collect();
    disks.iter().for_each(SimDisk::cut_power);
    drop(broker);
    images
}

fn either_of_two_disks_dies(
    end: End,
    (background, durability): (Background, Durability),
    dies: usize,
    seed: u64,
) {
    let survives = 1 - dies;
    let (disks, broker) = new_store(background, durability);
    let mut acked = Acked::default();
    while_in_use(&broker, &mut acked, |load| let_die(&broker, &disks, dies, seed, load));
    assert!(isrs(&broker).iter().all(|isr| *isr == [volume(survives)]), "{:?}", isrs(&broker));
    let disks = after(&disks, broker, end, seed);

    assert_refused_alone(&disks, dies, survives);
    let broker = builder(&disks, &[survives], background).open().expect("it went on alone");
    assert_eq!(broker.recovery().missing_volumes, [volume(dies)]);
    assert_has(&broker, &acked);
    send_more(&broker, &mut acked);
    assert_has(&broker, &acked);
    assert_eq!(broker.admin().verify().expect("it reads").faults, []);
    broker.close().expect("it closes");

    // It comes back: behind, and whatever it holds, it follows.
    assert_refused_alone(&disks, dies, survives);
    let broker = builder(&disks, &[0, 1], background).open().expect("both are there");
    assert_eq!(broker.recovery().missing_volumes, []);
    let topic = broker.topic("t").expect("it is there");
    assert_has(&broker, &acked);
    until_both_are_in_sync(&broker, &topic, || ());
    send_more(&broker, &mut acked);
    broker.close().expect("it closes");
    // So now it is as good as the other one.
    assert_refused_alone(&disks, survives, dies);
    let forced = builder(&disks, &[dies], background).force_open(true).open();
    assert_has(&forced.expect("it is forced"), &acked);
}

#[test]
fn either_of_two_disks_dies_and_the_other_alone_is_opened_after_a_close() {
    in_all_ways(|background, durability, dies, seed| {
        either_of_two_disks_dies(End::Closed, (background, durability), dies, seed);
    });
}

#[test]
fn either_of_two_disks_dies_and_the_other_alone_is_opened_after_a_kill() {
    in_all_ways(|background, durability, dies, seed| {
        either_of_two_disks_dies(End::Killed, (background, durability), dies, seed);
    });
}

#[test]
fn either_of_two_disks_dies_and_the_other_alone_is_opened_after_a_power_cut() {
    in_all_ways(|background, durability, dies, seed| {
        // Only then does what was acknowledged survive it.
        if durability == Durability::Fsync {
            either_of_two_disks_dies(End::PowerCut, (background, durability), dies, seed);
        }
    });
}

/// 1. Both are in sync; 2. the process ends, and with it a disk: no change of the metadata says
/// that the other one goes on.
#[test]
fn a_disk_that_dies_with_the_process_takes_a_forced_open_and_nothing_that_was_acknowledged() {
    in_all_ways(|background, durability, dies, seed| {
        let survives = 1 - dies;
        let (disks, broker) = new_store(background, durability);
        let mut acked = Acked::default();
        while_in_use(&broker, &mut acked, |load| {
            until("records are acknowledged", || load.acked() > 40 + seed);
        });
        let disks = after(&disks, broker, End::Killed, seed);

        assert_refused_alone(&disks, survives, dies);
        let forced = builder(&disks, &[survives], background).force_open(true).open();
        let broker = forced.expect("it is forced");
        assert_eq!(broker.recovery().missing_volumes, [volume(dies)]);
        assert_has(&broker, &acked);
        send_more(&broker, &mut acked);
        broker.close().expect("it closes");

        // It has gone on: no force is needed any more, and the other one follows.
        let broker = builder(&disks, &[survives], background).open().expect("it went on alone");
        assert_has(&broker, &acked);
        send_more(&broker, &mut acked);
        broker.close().expect("it closes");
        assert_refused_alone(&disks, dies, survives);
        let broker = builder(&disks, &[0, 1], background).open().expect("both are there");
        let topic = broker.topic("t").expect("it is there");
        until_both_are_in_sync(&broker, &topic, || ());
        assert_has(&broker, &acked);
    });
}

/// 1. A disk dies; 2. an empty one takes its place; 3. the other of the first two dies too.
#[test]
fn what_is_acknowledged_moves_from_two_disks_to_two_others() {
    in_all_ways(|background, durability, dies, seed| {
        let mut disks = vec![SimDisk::new(), SimDisk::new(), SimDisk::new(), SimDisk::new()];
        let broker = builder(&disks, &[0, 1], background).open().expect("it opens");
        let topic = broker.create_topic("t", config(durability)).expect("it is made");
        let admin = broker.admin();
        let mut acked = Acked::default();
        for (dies, new) in [(dies, 2), (1 - dies, 3)] {
            while_in_use(&broker, &mut acked, |load| {
                let_die(&broker, &disks, dies, seed, load);
                admin.remove_volume(dir(dies), false).expect("it has failed");
                admin.add_volume(dir(new)).expect("it is added");
                // What is written meanwhile is no more than is copied.
                until_both_are_in_sync(&broker, &topic, || load.allow_more());
                load.allow_all();
            });
            assert!(isrs(&broker).iter().all(|isr| isr.contains(&volume(new))));
        }
        broker.close().expect("it closes");
        disks[..2].fill(SimDisk::new());
        let broker = builder(&disks, &[2, 3], background).open().expect("it opens");
        assert!(broker.recovery().clean && broker.recovery().missing_volumes.is_empty());
        assert_has(&broker, &acked);
        assert_eq!(broker.admin().verify().expect("it reads").faults, []);
    });
}

/// 1. A consumer asks the leader, whose disk has died; 2. another one is elected; 3. the answer
/// comes: it is no evidence against that one.
#[test]
fn a_read_that_fails_is_held_against_who_was_asked() {
    for durability in [Durability::Fsync, Durability::Os] {
        let (_disks, broker) = new_store(Background::Inline, durability);
        let mut acked = Acked::default();
        send_more(&broker, &mut acked);
        let topic = broker.topic("t").expect("it is there");
        let partition = topic.state.partition(PartitionId::new(0)).expect("it is there");
        let led = partition.leader();
        let died = Error::io("read", &led.log.place.dir, std::io::Error::from_raw_os_error(5));
        broker.inner().put_out(&[(led.volume, led.incarnation, died.clone())]);
        let leads = partition.volume();
        assert_ne!(leads, led.volume);

        let (mut cursor, upto) = (ReadCursor::at(Offset::ZERO), partition.high_watermark());
        let at = (&mut cursor, upto);
        let found = partition.read_elsewhere((led, died), at, FETCH_BYTES, Reads::Copied);
        assert!(found.expect("another one has it").is_some());
        broker.inner().oversee(true);
        assert_eq!(state_of(&broker, leads), Some(VolumeState::Live));
        send_more(&broker, &mut acked);
        assert_has(&broker, &acked);
    }
}

/// The one that is left has two copies of the metadata. 1. A write of one of them fails; 2. what is
/// changed after that counts; 3. the process is killed.
#[test]
fn what_the_survivor_says_was_changed_is_there_whichever_of_its_calls_failed() {
    let (mut disks, broker) = new_store(Background::Inline, Durability::Fsync);
    drop(broker);
    let forced = builder(&disks, &[0], Background::Inline).force_open(true).open();
    forced.expect("it is forced").close().expect("it closes");
    for (at, call) in (1..).flat_map(|at| [(at, Call::SyncData), (at, Call::Write)]) {
        let broker = builder(&disks, &[0], Background::Inline).open().expect("it opens");
        let what = FaultKind::Eio;
        disks[0].arm(Fault { at, call: Some(call), what, how_long: HowLong::Once });
        let fired = disks[0].fired();
        let made: Vec<String> = (0..4)
            .map(|number| format!("{call:?}{at}-{number}"))
            .filter(|name| broker.create_topic(name, TopicConfig::new().replicas(1)).is_ok())
            .collect();
        let fired = disks[0].fired() > fired;
        disks = after(&disks, broker, End::Killed, 0);
        let broker = builder(&disks, &[0], Background::Inline).open().expect("it opens");
        for name in &made {
            let found = broker.topic(name);
            assert!(found.is_ok(), "{name} of {made:?} was made, and is not there");
        }
        if !fired {
            assert!(at > 5, "only {at} calls were made");
            return;
        }
    }
}

#[test]
fn who_sends_is_told_when_the_survivor_dies_too() {
    for background in [Background::Inline, Background::Thread] {
        for durability in [Durability::Fsync, Durability::Os] {
            let (disks, broker) = new_store(background, durability);
            let mut acked = Acked::default();
            send_more(&broker, &mut acked);
            let disks = after(&disks, broker, End::Killed, 0);
            let forced = builder(&disks, &[1], background).force_open(true).open();
            let broker = forced.expect("it is forced");
            send_more(&broker, &mut acked);
            let what = FaultKind::Eio;
            disks[1].arm(Fault { at: 1, call: None, what, how_long: HowLong::Forever });
            let producer = broker.producer().delivery_timeout(Duration::from_secs(20));
            let producer = producer.build().expect("it is built");
            // What is stored in memory that is there fails only with the next file.
            let mut sent = (0..100).map(|value| producer.send("t", Record::new(&record(value))));
            let failed = sent.find_map(Result::err).expect("nobody is left");
            let is_told = matches!(
                failed,
                Error::Halted { .. } | Error::Io(_) | Error::LeaderNotAvailable(_)
            );
            assert!(is_told, "{background:?} {durability:?}: {failed:?}");
        }
    }
}

/// `min_insync` 2: 1. a disk dies, and nothing is taken any more; 2. it is back at the next open,
/// out of the ISR; 3. whoever tries to send has it catch up, where nobody else does.
#[test]
fn where_both_have_to_have_it_writing_goes_on_once_both_are_back() {
    in_all_ways(|background, durability, dies, seed| {
        let disks = vec![SimDisk::new(), SimDisk::new()];
        let broker = builder(&disks, &[0, 1], background).open().expect("it opens");
        broker.create_topic("t", config(durability).min_insync(2)).expect("it is made");
        let mut acked = Acked::default();
        send_more(&broker, &mut acked);
        let member = broker.inner().member(volume(dies)).expect("it is there");
        let died = Error::TimedOut { what: "its threads" };
        broker.inner().put_out(&[(member.id, member.volume.incarnation(), died)]);
        let producer = broker.producer().build().expect("it is built");
        let refused = producer.send("t", Record::new("no").partition(0)).map(drop);
        assert!(matches!(refused, Err(Error::NotEnoughReplicas(_))), "{refused:?}");
        let disks = after(&disks, broker, End::Killed, seed);

        let broker = builder(&disks, &[0, 1], background).open().expect("both are there");
        let producer = broker.producer().build().expect("it is built");
        let value = record(1 << 50);
        for partition in [0, 1] {
            until("it is taken", || {
                match producer.send("t", Record::new(&value).partition(partition)) {
                    Ok(ack) => acked[partition as usize].push((ack.offset.get(), 1 << 50)),
                    Err(Error::NotEnoughReplicas(_)) => return false,
                    Err(error) => panic!("{error:?}"),
                }
                true
            });
        }
        assert_has(&broker, &acked);
    });
}

/// 1. The leader's log halts, and nothing can be decided any more; 2. the broker is closed: there
/// is nothing left to wait for.
#[test]
fn who_waits_is_let_go_by_the_close_also_where_the_log_had_halted() {
    for background in [Background::Inline, Background::Thread, Background::Manual] {
        let (_disks, broker) = new_store(background, Durability::Fsync);
        let topic = broker.topic("t").expect("it is there");
        let partition = Arc::clone(topic.state.partition(PartitionId::new(0)).expect("there"));
        let producer = broker.inner().new_producer(None).expect("it is open");
        broker.inner().controller().stop();
        let value = [Record::new("waited for")];
        let appended = partition.begin(&producer, &value, Compression::None, Acks::All);
        let appended = appended.expect("it is appended");
        partition.log().halt(Error::TimedOut { what: "its disk" });
        let waiter = thread::spawn(move || {
            let deadline = Instant::now().checked_add(Duration::from_mins(1));
            partition.acknowledge(&appended, Wanted { acks: Acks::All, deadline })
        });
        let _ = broker.close();
        let told = waiter.join().expect("it does not panic");
        assert!(!matches!(told, Err(Error::TimedOut { .. })), "{background:?}: {told:?}");
    }
}
