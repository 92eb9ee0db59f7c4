//! Elections that somebody asks for or allows, and volumes that fail again and again, on simulated
//! disks.
//!
//! Invariants
//!   1. Nobody that is not in sync leads unless the topic allows it, and each time is counted.
//!   2. The preferred leader takes over on demand, if it lacks nothing, and nothing is lost.
//!   3. A volume that failed three times gets new replicas only where too few others are left.
//!   4. A volume that fails while it is drained is drained once it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::simulation_tests::{Disks, dir};
use crate::broker::controller::Controller;
use crate::broker::crew::Work;
use crate::config::{Durability, ManualClock, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{MetadataRecord, Record};
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::id::{LeaderEpoch, PartitionId, VolumeId};
use crate::partition::Partition;
use crate::{Background, Broker, SharedRecord, TopicChange, VolumeState};

const LAG: Duration = Duration::from_secs(1);

struct Store {
    disks: Vec<SimDisk>,
    clock: ManualClock,
    broker: Broker,
}

impl Store {
    fn new(volumes: usize, background: Background) -> Self {
        let disks: Vec<SimDisk> = (0..volumes).map(|_| SimDisk::new()).collect();
        let clock = ManualClock::new(1_000);
        let broker = Self::open(&disks, &clock, background);
        Self { disks, clock, broker }
    }

    fn open(disks: &[SimDisk], clock: &ManualClock, background: Background) -> Broker {
        let mut builder = Broker::builder().volumes((0..disks.len()).map(dir)).seed(7);
        builder.disk = Arc::new(Disks(disks.to_vec()));
        let builder = builder.clock(clock.clone()).replica_lag_max(LAG);
        builder.background(background).open().expect("it opens")
    }

    fn reopen(self, background: Background) -> Self {
        let Self { disks, clock, broker } = self;
        // Of a volume that failed the next open finds what is there.
        let _ = broker.close();
        let broker = Self::open(&disks, &clock, background);
        Self { disks, clock, broker }
    }

    fn partition(&self) -> Arc<Partition> {
        let topic = self.broker.topic("t").expect("it is there");
        Arc::clone(topic.state.partition(PartitionId::new(0)).expect("it is there"))
    }

    fn put_out(&self, volume: VolumeId) {
        let inner = self.broker.inner();
        let member = inner.member(volume).expect("it is there");
        let why = Error::TimedOut { what: "its threads" };
        inner.put_out(&[(volume, member.volume.incarnation(), why)]);
    }

    /// All that these volumes have to do.
    fn work(&self, volumes: &[VolumeId]) {
        let inner = self.broker.inner();
        let step = |volume: &VolumeId| {
            let queue = inner.member(*volume).and_then(|it| it.queue.clone()).expect("it has one");
            let controller = inner.controller().as_ref();
            [Work::Copy, Work::Sync].into_iter().any(|work| queue.step(work, controller))
        };
        while volumes.iter().any(step) {}
    }

    fn append(&self, values: std::ops::Range<u32>) -> Result<()> {
        let producer = self.broker.inner().new_producer(None)?;
        for value in values {
            let value = value.to_le_bytes();
            let record = [Record::new(&value)];
            let acks = crate::Acks::Leader;
            self.partition().begin(&producer, &record, crate::Compression::None, acks)?;
        }
        Ok(())
    }

    fn read(&self) -> Vec<u32> {
        let reader = self.broker.reader("t").partition(0).build().expect("it is built");
        let value = |record: Result<SharedRecord>| {
            let record = record.expect("it can be read");
            u32::from_le_bytes(record.value().expect("it has one").try_into().expect("four"))
        };
        reader.map(value).collect()
    }

    /// Ten records that both have, and ten that the leader alone has: the follower is out.
    fn with_one_behind(config: TopicConfig) -> (Self, VolumeId, VolumeId) {
        let store = Self::new(2, Background::Manual);
        store.broker.create_topic("t", config.replicas(2).min_insync(1)).expect("it is made");
        let partition = store.partition();
        let leads = partition.volume();
        let behind = partition.replicas().map(|it| it.volume).find(|it| *it != leads);
        let behind = behind.expect("there are two");
        store.append(0..10).expect("somebody leads");
        store.work(&[leads, behind]);
        store.work(&[leads, behind]);
        store.append(10..20).expect("somebody leads");
        store.work(&[leads]);
        store.clock.advance(LAG * 2);
        store.broker.inner().oversee(true);
        store.append(20..25).expect("somebody leads");
        store.work(&[leads]);
        assert_eq!(partition.standing().expect("somebody leads").isr, [leads]);
        store.broker.inner().oversee(true);
        assert_eq!(store.read(), (0..25).collect::<Vec<_>>());
        (store, leads, behind)
    }
}

#[test]
fn who_is_not_in_sync_leads_where_the_topic_allows_it_and_that_is_counted() {
    for durability in [Durability::Fsync, Durability::Os] {
        for allowed_before in [false, true] {
            let config = TopicConfig::new().durability(durability);
            let config = config.unclean_leader_election(allowed_before);
            let (store, leads, behind) = Store::with_one_behind(config);
            store.put_out(leads);
            if !allowed_before {
                let refused = store.append(25..26);
                assert!(matches!(refused, Err(Error::LeaderNotAvailable(_))), "{refused:?}");
                assert_eq!(store.broker.metrics().unclean_elections, 0);
                let change = TopicChange::new().unclean_leader_election(true);
                store.broker.admin().alter("t", change).expect("it is changed");
            }
            let described = store.broker.admin().describe("t").expect("it is there");
            assert!(described.unclean_leader_election);
            assert_eq!(described.partitions[0].leader, Some(behind));
            assert_eq!(store.broker.metrics().unclean_elections, 1);
            assert_eq!(store.read(), (0..10).collect::<Vec<_>>(), "the rest is lost");
            store.append(100..110).expect("it leads");
            store.work(&[behind]);
            store.broker.inner().oversee(true);
            let all: Vec<u32> = (0..10).chain(100..110).collect();
            assert_eq!(store.read(), all);

            // Who led before is back, and takes over what was gone on with.
            let store = store.reopen(Background::Inline);
            let partition = store.partition();
            assert_eq!(store.read(), all);
            while partition.standing().expect("somebody leads").isr.len() < 2 {
                partition.work_inline();
            }
            assert_eq!(store.broker.metrics().unclean_elections, 0);
            assert!(store.broker.admin().verify().expect("it reads").faults.is_empty());
        }
    }
}

#[test]
fn who_catches_up_may_be_elected_uncleanly_and_is_trusted_from_then_on() {
    let config = TopicConfig::new().durability(Durability::Fsync).unclean_leader_election(true);
    let (store, leads, behind) = Store::with_one_behind(config);
    let queue = store.broker.inner().member(behind).and_then(|it| it.queue.clone());
    let partition = store.partition();
    let log = Arc::clone(&partition.on(behind).expect("it is there").log);
    while !log.is_catching_up() {
        let queue = queue.as_ref().expect("it has one");
        assert!(queue.step(Work::Copy, store.broker.inner().controller().as_ref()), "it copies");
    }
    store.put_out(leads);
    assert_eq!(partition.volume(), behind);
    assert!(!log.is_catching_up());
    assert_eq!(log.durable_offset(), log.end_offset());
    let kept = store.read();
    assert_eq!(kept, (0..u32::try_from(kept.len()).expect("few")).collect::<Vec<_>>());
    assert!(kept.len() >= 10);
    let store = store.reopen(Background::Inline);
    assert_eq!(store.read(), kept);
    assert_eq!(store.broker.metrics().unclean_elections, 0, "it was the leader before");
}

#[test]
fn the_preferred_leader_takes_over_on_demand() {
    for background in [Background::Inline, Background::Thread] {
        let store = Store::new(3, background);
        let config = TopicConfig::new().partitions(6).replicas(3);
        let topic = store.broker.create_topic("t", config).expect("it is made");
        let producer = store.broker.producer().build().expect("it is built");
        for value in 0..60_u32 {
            let value = value.to_le_bytes();
            producer.send(&topic, Record::new(&value)).expect("it is sent");
        }
        let partitions: Vec<_> = topic.state.partitions.iter().cloned().collect();
        let leaders = || partitions.iter().map(|it| it.volume()).collect::<Vec<_>>();
        let preferred = leaders();
        let admin = store.broker.admin();
        assert_eq!(admin.elect_preferred_leaders().expect("it is decided"), 0);
        let inner = store.broker.inner();
        let first = preferred[0];
        let led: Vec<_> = partitions.iter().filter(|it| it.volume() == first).cloned().collect();
        inner.hand_over(&mut inner.metadata().lock(), &led, first);
        assert!(!leaders().contains(&first));
        // Who has not said yet how far it is in this term does not take over.
        let (mut elected, begun) = (0, Instant::now());
        while elected < led.len() {
            led.iter().for_each(Partition::work_inline);
            elected += admin.elect_preferred_leaders().expect("it is decided");
            assert!(begun.elapsed() < Duration::from_secs(30), "never elected");
        }
        assert_eq!(elected, led.len());
        assert_eq!(leaders(), preferred);
        assert_eq!(admin.elect_preferred_leaders().expect("it is decided"), 0);
        producer.send(&topic, Record::new("more")).expect("it is sent");
        let mut count = 0;
        for number in 0..6 {
            let reader = store.broker.reader(&topic).partition(number).build();
            for record in reader.expect("it is built") {
                record.expect("it is good");
                count += 1;
            }
        }
        assert_eq!(count, 61);
    }
}

#[test]
fn a_preferred_leader_that_is_behind_does_not_take_over() {
    let (store, leads, behind) = Store::with_one_behind(TopicConfig::new());
    let admin = store.broker.admin();
    assert_eq!(admin.elect_preferred_leaders().expect("it is decided"), 0);
    assert_eq!(store.partition().volume(), leads);
    store.work(&[leads, behind]);
    store.broker.inner().oversee(true);
    store.work(&[leads, behind]);
    assert_eq!(store.read(), (0..25).collect::<Vec<_>>());
}

#[test]
fn a_volume_that_failed_three_times_is_avoided() {
    let mut store = Store::new(3, Background::Inline);
    // Somebody has to go on without it.
    store.broker.create_topic("t", TopicConfig::new().replicas(3)).expect("it is made");
    let failing = VolumeId::new(2);
    for failures in 0..3 {
        let volumes = store.broker.admin().volumes().expect("it is open");
        assert_eq!(volumes.iter().map(|it| it.failures).collect::<Vec<_>>(), [0, failures, 0]);
        assert!(volumes.iter().all(|it| it.state == VolumeState::Live));
        store.put_out(failing);
        let volumes = store.broker.admin().volumes().expect("it is open");
        assert_eq!(volumes[1].state, VolumeState::Failed);
        assert_eq!(volumes[1].failures, failures + 1);
        store = store.reopen(Background::Inline);
    }
    let holders = |name: &str, replicas: u16| {
        let config = TopicConfig::new().partitions(8).replicas(replicas);
        let topic = store.broker.create_topic(name, config).expect("it is made");
        let all = topic.state.partitions.iter().flat_map(|it| it.replicas().map(|it| it.volume));
        all.collect::<Vec<_>>()
    };
    assert!(!holders("avoids", 2).contains(&failing));
    assert!(holders("needs", 3).contains(&failing));
}

#[test]
fn what_is_drained_and_fails_is_drained_once_it_is_back() {
    let store = Store::new(3, Background::Manual);
    let config = TopicConfig::new().replicas(2);
    store.broker.create_topic("t", config).expect("it is made");
    let leaves = store.partition().volume();
    store.broker.inner().begin_drain(leaves).expect("it can be");
    store.put_out(leaves);
    let state = |store: &Store| {
        let volumes = store.broker.admin().volumes().expect("it is open");
        volumes.iter().find(|it| it.volume == leaves).expect("it is there").state
    };
    assert_eq!(state(&store), VolumeState::Failed);
    let store = store.reopen(Background::Inline);
    assert_eq!(state(&store), VolumeState::Draining);
    let at = dir(leaves.get() as usize - 1);
    store.broker.admin().drain_volume(at).expect("it is drained");
    assert!(store.partition().on(leaves).is_none());
}

/// 1. The leader of two fails, and the other cannot be elected durably; 2. the leader is removed:
/// of the one that is left the metadata names no leader; 3. another volume is there to take a
/// replica.
#[test]
fn what_a_removal_left_alone_gets_company_again() {
    let store = Store::new(2, Background::Inline);
    store.broker.create_topic("t", TopicConfig::new().replicas(2)).expect("it is made");
    let partition = store.partition();
    let stays = partition.volume();
    let found = store.broker.inner().metadata().lock().assignments().next().cloned();
    let mut fewer = found.expect("there is one");
    fewer.replicas.retain(|replica| replica.volume == stays);
    fewer.leader = None;
    let change = vec![MetadataRecord::PutPartition(fewer)];
    store.broker.inner().metadata().lock().change(change).expect("it is durable");
    drop(partition);

    let store = store.reopen(Background::Inline);
    let partition = store.partition();
    let begun = Instant::now();
    while partition.standing().is_none_or(|standing| standing.isr.len() < 2) {
        store.broker.inner().oversee(true);
        partition.work_inline();
        assert!(begun.elapsed() < Duration::from_secs(30), "it stays alone");
    }
    store.append(0..5).expect("somebody leads");
    partition.work_inline();
    assert_eq!(store.read(), (0..5).collect::<Vec<_>>());
}

/// 1. Two of three leave the ISR; 2. one of them catches up, and is about to join; 3. the leader
/// fails, in an epoch above the first one. Who caught up holds all that is committed.
#[test]
fn of_those_that_are_not_in_sync_the_one_that_holds_everything_is_elected() {
    let store = Store::new(3, Background::Manual);
    let config = TopicConfig::new().replicas(3).min_insync(1).unclean_leader_election(true);
    store.broker.create_topic("t", config).expect("it is made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let all: Vec<VolumeId> = partition.replicas().map(|it| it.volume).collect();
    store.append(0..5).expect("somebody leads");
    store.work(&all);
    store.work(&all);
    let first = partition.volume();
    inner.hand_over(&mut inner.metadata().lock(), &[Arc::clone(&partition)], first);
    let leads = partition.volume();
    assert_ne!(leads, first);
    store.append(5..10).expect("somebody leads");
    store.work(&all);
    store.work(&all);
    assert_eq!(partition.standing().expect("somebody leads").isr.len(), 3);

    store.append(10..20).expect("somebody leads");
    store.work(&[leads]);
    store.clock.advance(LAG * 2);
    inner.oversee(true);
    store.work(&[leads]);
    assert_eq!(partition.standing().expect("somebody leads").isr, [leads]);
    assert_eq!(store.read(), (0..20).collect::<Vec<_>>());

    let others: Vec<VolumeId> = all.iter().copied().filter(|it| *it != leads).collect();
    let caught_up = others[1];
    store.work(&[leads, caught_up]);
    store.work(&[leads, caught_up]);
    let end = |volume: VolumeId| partition.on(volume).expect("it is there").log.end_offset().get();
    assert_eq!((end(caught_up), end(others[0])), (20, 10));
    assert_eq!(partition.standing().expect("somebody leads").isr, [leads]);
    store.put_out(leads);
    assert_eq!(store.broker.metrics().unclean_elections, 1);
    assert_eq!(partition.volume(), caught_up, "it holds all that is committed");
    assert_eq!(store.read(), (0..20).collect::<Vec<_>>());
}

/// 1. Nobody of the ISR is there when a store is opened; 2. the topic allows it, and another one
/// leads.
#[test]
fn an_unclean_election_at_an_open_is_counted() {
    let config = TopicConfig::new().unclean_leader_election(true);
    let (store, leads, behind) = Store::with_one_behind(config);
    let Store { disks, clock, broker } = store;
    let _ = broker.close();
    let there = behind.get() as usize - 1;
    let mut builder = Broker::builder().volumes([dir(there)]).seed(7).force_open(true);
    builder.disk = Arc::new(Disks(disks.clone()));
    let builder = builder.clock(clock.clone()).background(Background::Inline);
    let broker = builder.open().expect("it opens");
    let described = broker.admin().describe("t").expect("it is there");
    assert_ne!(behind, leads);
    assert_eq!(described.partitions[0].leader, Some(behind));
    assert_eq!(broker.metrics().unclean_elections, 1, "it loses what was committed");
}

/// 1. A leader fails, and another one is elected; 2. its disk fails as it takes over; 3. a third
/// one could lead.
#[test]
fn where_the_elected_cannot_take_over_another_one_does() {
    for fails_at in 1..5 {
        // Of more than three: the metadata goes on without two.
        let store = Store::new(5, Background::Manual);
        let config = TopicConfig::new().replicas(3).min_insync(1).unclean_leader_election(true);
        store.broker.create_topic("t", config).expect("it is made");
        let partition = store.partition();
        let inner = store.broker.inner();
        let all: Vec<VolumeId> = partition.replicas().map(|it| it.volume).collect();
        let leads = partition.volume();
        store.append(0..10).expect("somebody leads");
        store.work(&all);
        store.work(&all);
        store.append(10..20).expect("somebody leads");
        store.work(&[leads]);
        store.clock.advance(LAG * 2);
        inner.oversee(true);
        store.work(&[leads]);
        // One of them catches up.
        let elected = *all.iter().find(|it| **it != leads).expect("there are three");
        let queue = inner.member(elected).and_then(|it| it.queue.clone()).expect("it has one");
        store.append(20..30).expect("somebody leads");
        let log = Arc::clone(&partition.on(elected).expect("it is there").log);
        while !log.is_catching_up() {
            assert!(queue.step(Work::Copy, inner.controller().as_ref()), "it copies");
        }
        let (at, call, what) = (fails_at, Some(Call::SyncData), FaultKind::Eio);
        let fault = Fault { at, call, what, how_long: HowLong::Once };
        store.disks[elected.get() as usize - 1].arm(fault);
        store.put_out(leads);
        for _ in 0..5 {
            inner.oversee(true);
            let there: Vec<VolumeId> = all
                .iter()
                .copied()
                .filter(|it| !inner.member(*it).expect("known").is_gone())
                .collect();
            store.work(&there);
        }
        let leads = partition.volume();
        let is_there = !inner.member(leads).expect("it is known").is_gone();
        assert!(is_there, "sync {fails_at}: {leads:?} of {all:?} is gone, and leads");
        store.append(100..101).expect("somebody leads");
    }
}

/// 1. A volume that is needed falls silent, so that others are to lead what they can; 2. somebody
/// who adds a volume has the metadata locked, and is to have that one watched, too.
#[test]
fn who_waits_for_a_volume_keeps_nobody_from_being_watched() {
    let (store, leads, _) = Store::with_one_behind(TopicConfig::new());
    let inner = store.broker.inner();
    Controller::ask_all(inner);
    let waits = || inner.controller().counts.waited_for.load(Ordering::Acquire) > 0;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let metadata = inner.metadata().lock();
        scope.spawn(|| {
            while !waits() {
                store.clock.advance(Duration::from_millis(100));
                for member in inner.members().iter().filter(|it| it.id != leads) {
                    let queue = member.queue.as_ref().expect("it has one");
                    queue.answer(inner.controller().as_ref());
                }
                inner.hear();
            }
        });
        while !waits() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        let free = inner.controller().monitor.try_lock_for(Duration::from_secs(10)).is_some();
        drop(metadata);
        assert!(free, "each waits for the other");
    });
}

/// 1. A consumer polls; 2. another one is elected uncleanly, and holds less than was committed;
/// 3. what the first leader's log says is committed was looked up before that.
#[test]
fn who_polls_does_not_raise_the_high_watermark_of_before_an_unclean_election() {
    for _ in 0..200 {
        let config = TopicConfig::new().durability(Durability::Os).unclean_leader_election(true);
        let (store, leads, _) = Store::with_one_behind(config);
        let partition = store.partition();
        let (polled, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    partition.high_watermark();
                    polled.store(true, Ordering::Release);
                }
            });
            while !polled.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            store.put_out(leads);
            done.store(true, Ordering::Release);
        });
        let (high_watermark, end) = (partition.high_watermark(), partition.log().end_offset());
        assert!(high_watermark <= end, "I4: {high_watermark:?} above the end, {end:?}");
    }
}

/// 1. Disks are full, and their reserves spent; 2. somebody asks for the preferred leader, which
/// cannot be made durable: nothing was written; 3. there is room again.
#[test]
fn an_election_for_which_there_was_no_room_takes_no_leader_away() {
    let store = Store::new(2, Background::Inline);
    let config = TopicConfig::new().replicas(2).min_insync(1);
    store.broker.create_topic("t", config).expect("it is made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let preferred = partition.volume();
    store.append(0..5).expect("somebody leads");
    partition.work_inline();
    inner.hand_over(&mut inner.metadata().lock(), &[Arc::clone(&partition)], preferred);
    assert_ne!(partition.volume(), preferred);
    store.append(5..10).expect("somebody leads");
    partition.work_inline();

    store.disks.iter().for_each(|disk| disk.set_capacity(0));
    let mut days = 1;
    let refused = loop {
        let change = TopicChange::new().retention(Duration::from_hours(24 * days));
        match store.broker.admin().alter("t", change) {
            Ok(()) => days += 1,
            Err(error) => break error,
        }
        assert!(days < 100_000, "it is never full");
    };
    assert!(matches!(refused, Error::StorageFull(_)), "{refused:?}");
    let before = partition.volume();
    let elected = store.broker.admin().elect_preferred_leaders();
    store.disks.iter().for_each(|disk| disk.set_capacity(1 << 30));
    for _ in 0..10 {
        inner.oversee(true);
        partition.work_inline();
    }
    let appended = store.append(10..15);
    assert!(appended.is_ok(), "{before:?} led, and there is room: {appended:?}; {elected:?}");
}

/// 1. A follower that keeps up hangs in a call of its disk, with its log's writer locked; 2. before
/// that shows, the leader fails; 3. the follower is elected, as the first of the ISR. Who decides
/// is the only one who could find out that it hangs.
#[test]
fn who_decides_waits_for_no_disk_that_hangs() {
    let store = Store::new(3, Background::Manual);
    let config = TopicConfig::new().replicas(3).min_insync(1);
    store.broker.create_topic("t", config).expect("it is made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let all: Vec<VolumeId> = partition.replicas().map(|it| it.volume).collect();
    let leads = partition.volume();
    store.append(0..10).expect("somebody leads");
    store.work(&all);
    store.work(&all);
    let hangs = *all.iter().find(|it| **it != leads).expect("there are three");
    let log = Arc::clone(&partition.on(hangs).expect("it is there").log);
    let free = std::thread::scope(|scope| {
        let hanging = log.writer.lock();
        let decides = scope.spawn(|| store.put_out(leads));
        while inner.metadata().try_lock().is_some() && !decides.is_finished() {
            std::thread::yield_now();
        }
        let free = inner.metadata().try_lock_for(Duration::from_secs(10)).is_some();
        drop(hanging);
        decides.join().expect("it ends");
        free
    });
    assert!(free, "no decision is made while the disk of {hangs:?} hangs");
}

/// The same of one who waits for a record of the term before, and looks for it in the next
/// leader's log.
#[test]
fn who_waits_holds_no_lock_of_the_partition_while_a_disk_hangs() {
    let store = Store::new(2, Background::Manual);
    let config = TopicConfig::new().replicas(2).min_insync(1);
    store.broker.create_topic("t", config).expect("it is made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let all: Vec<VolumeId> = partition.replicas().map(|it| it.volume).collect();
    let leads = partition.volume();
    store.append(0..10).expect("somebody leads");
    store.work(&all);
    store.work(&all);
    let producer = inner.new_producer(None).expect("it is made");
    let record = [Record::new(b"waits")];
    let acks = crate::Acks::All;
    let appended = partition.begin(&producer, &record, crate::Compression::None, acks);
    let appended = appended.expect("somebody leads");
    let next = *all.iter().find(|it| **it != leads).expect("there are two");
    store.put_out(leads);
    assert_eq!(partition.volume(), next);
    let log = Arc::clone(&partition.on(next).expect("it is there").log);
    let told = std::thread::scope(|scope| {
        let hanging = log.writer.lock();
        let deadline = Instant::now().checked_add(Duration::from_millis(200));
        let (of, what) = (&partition, &appended);
        let waits = scope.spawn(move || {
            let wanted = crate::partition::Wanted { acks, deadline };
            drop(of.acknowledge(what, wanted));
        });
        let begun = Instant::now();
        while !waits.is_finished() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let told = waits.is_finished();
        drop(hanging);
        told
    });
    assert!(told, "nobody is told at its deadline, nor can look how the partition stands");
}

/// Has changes made until there is no room for another one, nor a reserve. How many were.
fn fill_up(store: &Store, at_most: u64) -> u64 {
    store.disks.iter().for_each(|disk| disk.set_capacity(0));
    for made in 0..at_most {
        let change = TopicChange::new().retention(Duration::from_hours(24 * (made + 1)));
        match store.broker.admin().alter("t", change) {
            Ok(()) => {}
            Err(Error::StorageFull(_)) => return made,
            Err(error) => panic!("{error}"),
        }
    }
    at_most
}

/// 1. A volume is removed, and there is no room to say so; 2. it still is of the live set.
#[test]
fn a_volume_that_could_not_be_removed_still_gets_what_changes() {
    let store = Store::new(3, Background::Inline);
    store.broker.create_topic("t", TopicConfig::new().replicas(2)).expect("it is made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let is_empty = |it: &VolumeId| partition.on(*it).is_none();
    let empty = (1..4).map(VolumeId::new).find(is_empty).expect("two of three have one");
    fill_up(&store, 100_000);
    let removed = inner.remove_volume(empty, false);
    assert!(matches!(removed, Err(Error::StorageFull(_))), "{removed:?}");
    store.disks.iter().for_each(|disk| disk.set_capacity(1 << 30));
    let metadata = inner.metadata().lock();
    let known = metadata.volumes().find(|it| it.id == empty).copied().expect("it is known");
    assert!(!known.standing.is_out(), "it is of the live set");
    let gets = metadata.copies_by_volume().any(|(unique_id, _)| unique_id == known.unique_id);
    assert!(gets, "nothing is written to its copy any more");
}

/// 1. A change is synced by two of three volumes; 2. there is no room to say that the third one
/// failed; 3. the change is said not to have been made, and the next open finds it.
#[test]
fn a_change_that_was_written_is_not_said_to_be_none() {
    let begin = || {
        let store = Store::new(3, Background::Inline);
        store.broker.create_topic("t", TopicConfig::new().replicas(2)).expect("it is made");
        store
    };
    let fits = fill_up(&begin(), 100_000);
    let store = begin();
    assert_eq!(fill_up(&store, fits - 1), fits - 1);
    let fault =
        Fault { at: 1, call: Some(Call::SyncData), what: FaultKind::Eio, how_long: HowLong::Once };
    store.disks[2].arm(fault);
    let wanted = Duration::from_hours(24 * 100_000);
    let changed = store.broker.admin().alter("t", TopicChange::new().retention(wanted));
    store.disks.iter().for_each(|disk| disk.set_capacity(1 << 30));
    let store = store.reopen(Background::Inline);
    let found = store.broker.admin().describe("t").expect("it is there").retention;
    if matches!(changed, Err(Error::StorageFull(_))) {
        assert_ne!(found, Some(wanted), "`StorageFull` says that nothing was written");
    }
}

/// 1. A partition of one replica is given another one, which has copied nothing yet; 2. the first
/// one fails. Only who was in sync once may be elected uncleanly.
#[test]
fn who_never_was_in_sync_is_not_elected() {
    let store = Store::new(2, Background::Manual);
    let config = TopicConfig::new().replicas(1).min_insync(1).unclean_leader_election(true);
    store.broker.create_topic("t", config).expect("it is made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let leads = partition.volume();
    store.append(0..10).expect("it leads");
    inner.begin_drain(leads).expect("it can be");
    inner.move_some();
    let new = partition.replicas().map(|it| it.volume).find(|it| *it != leads);
    let new = new.expect("it gets company");
    assert_eq!(partition.on(new).expect("it is there").log.end_offset().get(), 0);
    store.put_out(leads);
    let elected = partition.volume();
    let store = store.reopen(Background::Inline);
    for _ in 0..10 {
        store.broker.inner().oversee(true);
        store.partition().work_inline();
    }
    let kept = store.read();
    assert_eq!(elected, leads, "{new:?} holds nothing; kept after the open: {kept:?}");
}

/// A volume that is to be emptied leads only where nobody else can.
#[test]
fn the_preferred_leader_does_not_take_over_while_it_is_drained() {
    let store = Store::new(3, Background::Inline);
    store.broker.create_topic("t", TopicConfig::new().replicas(3).min_insync(1)).expect("made");
    let partition = store.partition();
    let inner = store.broker.inner();
    let preferred = partition.volume();
    store.append(0..10).expect("it leads");
    partition.work_inline();
    inner.hand_over(&mut inner.metadata().lock(), &[Arc::clone(&partition)], preferred);
    store.append(10..20).expect("it leads");
    partition.work_inline();
    inner.begin_drain(preferred).expect("it can be");
    let elected = store.broker.admin().elect_preferred_leaders().expect("it is decided");
    assert_eq!(elected, 0, "{preferred:?} is drained, and leads again: {:?}", partition.volume());
}

/// 1. A member of the ISR lost its last records with the process; 2. the leader is to hand over;
/// 3. the shorter one leads, and what was acknowledged is gone.
#[test]
fn nobody_hands_over_to_a_member_that_lost_its_tail_before_that_has_it_again() {
    let store = Store::new(2, Background::Manual);
    let config = TopicConfig::new().replicas(2).min_insync(1).durability(Durability::Os);
    store.broker.create_topic("t", config).expect("it is made");
    let partition = store.partition();
    let all: Vec<VolumeId> = partition.replicas().map(|it| it.volume).collect();
    let leads = partition.volume();
    let loses = *all.iter().find(|it| **it != leads).expect("there are two");
    store.append(0..10).expect("somebody leads");
    for _ in 0..3 {
        store.work(&all);
        store.broker.inner().oversee(true);
    }
    assert_eq!(store.read(), (0..10).collect::<Vec<_>>());
    drop(partition);
    let Store { disks, clock, broker } = store;
    let after = |(number, disk): (usize, &SimDisk)| {
        let is_it = number + 1 == loses.get() as usize;
        if is_it { disk.crash(&Loss::All) } else { disk.snapshot() }
    };
    let disks: Vec<SimDisk> = disks.iter().enumerate().map(after).collect();
    drop(broker);

    let broker = Store::open(&disks, &clock, Background::Manual);
    let store = Store { disks, clock, broker };
    let partition = store.partition();
    let end = |volume: VolumeId| partition.on(volume).expect("it is there").log.end_offset().get();
    assert_eq!((end(leads), partition.volume()), (10, leads));
    assert!(end(loses) < 10, "it lost nothing");
    let inner = store.broker.inner();
    let hand_over = || inner.hand_over(&mut inner.metadata().lock(), &[store.partition()], leads);
    hand_over();
    assert_eq!(partition.volume(), leads, "the other one lacks what is acknowledged");
    for _ in 0..3 {
        store.work(&all);
        inner.oversee(true);
    }
    hand_over();
    assert_eq!(partition.volume(), loses);
    for _ in 0..3 {
        store.work(&all);
        inner.oversee(true);
    }
    assert_eq!(store.read(), (0..10).collect::<Vec<_>>());
}

/// 1. A partition of one replica is led in an epoch that only its log knows; 2. it gets company,
/// and another term begins.
#[test]
fn who_gets_company_is_led_in_an_epoch_above_all_of_its_own() {
    let store = Store::new(2, Background::Manual);
    store.broker.create_topic("t", TopicConfig::new().replicas(1)).expect("it is made");
    let partition = store.partition();
    partition.log().lead(LeaderEpoch::new(5));
    store.append(0..10).expect("it leads");
    let inner = store.broker.inner();
    inner.begin_drain(partition.volume()).expect("it can be");
    inner.move_some();
    let standing = partition.standing().expect("there are two");
    assert!(standing.epoch > LeaderEpoch::new(5), "{standing:?}");
    store.append(10..20).expect("somebody leads");
}
