//! Volumes that are lost while producers and consumers run.
//!
//! Invariants
//!   1. No consumer sees an error, no acknowledged record is lost or comes twice, and a producer
//!      sees at most that a call takes longer.
//!   2. Within a while every partition takes records again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::{Durability, TopicConfig};
use crate::format::Record;
use crate::fs::{Disk, DiskFile, DiskLock, Entry, MapAccess, MapWriter, OpenMode, OsDisk, Stat};
use crate::id::{PartitionId, VolumeId};
use crate::partition::Partition;
use crate::{Broker, Topic, TopicPartition, VolumeState};

const VOLUMES: u32 = 12;
const PARTITIONS: u32 = 24;
const TIMEOUT: Duration = Duration::from_millis(500);

const FAILING: u8 = 1;
const HANGING: u8 = 2;
const SYNCS_HANG: u8 = 3;

/// The cable of one volume.
#[derive(Debug, Default)]
struct Cable {
    state: AtomicU8,
    hanging: Mutex<()>,
    plugged: Condvar,
}

impl Cable {
    /// Of a call. One of the application's own threads never hangs: there is nothing that would
    /// free it.
    fn check(&self) -> io::Result<()> {
        let ours = || thread::current().name().is_some_and(|name| name.starts_with("plimsoll"));
        match self.state.load(Ordering::Acquire) {
            FAILING => Err(io::Error::from_raw_os_error(5)),
            HANGING if ours() => self.hang(),
            _ => Ok(()),
        }
    }

    /// Of a sync.
    fn check_sync(&self) -> io::Result<()> {
        match self.state.load(Ordering::Acquire) {
            SYNCS_HANG => self.hang(),
            _ => self.check(),
        }
    }

    fn hang(&self) -> io::Result<()> {
        let mut hanging = self.hanging.lock();
        let state = self.state.load(Ordering::Acquire);
        while self.state.load(Ordering::Acquire) == state {
            self.plugged.wait(&mut hanging);
        }
        drop(hanging);
        self.check()
    }

    fn set(&self, state: u8) {
        let _hanging = self.hanging.lock();
        self.state.store(state, Ordering::Release);
        self.plugged.notify_all();
    }
}

/// Real volumes, each on a cable of its own.
#[derive(Debug)]
struct Cabled {
    below: OsDisk,
    cables: Vec<(PathBuf, Arc<Cable>)>,
}

impl Cabled {
    fn cable(&self, path: &Path) -> Option<&Arc<Cable>> {
        self.cables.iter().find(|(dir, _)| path.starts_with(dir)).map(|(_, cable)| cable)
    }

    fn at(&self, path: &Path) -> io::Result<&OsDisk> {
        self.cable(path).map_or(Ok(()), |cable| cable.check())?;
        Ok(&self.below)
    }
}

impl Disk for Cabled {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.at(path)?.open(path, mode)?;
        let Some(cable) = self.cable(path) else { return Ok(file) };
        Ok(Arc::new(CabledFile { file, cable: Arc::clone(cable) }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.at(path)?.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.at(dir)?.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.at(path)?.stat(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.at(path)?.real_path(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(from)?.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(from)?.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at(path)?.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.at(path)?.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(dir)?.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.at(path)?.lock(path)
    }
}

#[derive(Debug)]
struct CabledFile {
    file: Arc<dyn DiskFile>,
    cable: Arc<Cable>,
}

impl DiskFile for CabledFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.cable.check()?;
        self.file.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.cable.check()?;
        self.file.write_at(buf, position)
    }

    fn allocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        self.cable.check()?;
        self.file.allocate(from, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.cable.check()?;
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.cable.check()?;
        self.file.len()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.cable.check_sync()?;
        self.file.sync_data()
    }

    fn links(&self) -> io::Result<u64> {
        self.cable.check()?;
        self.file.links()
    }

    fn map(
        &self,
        bytes: usize,
        readable_from: usize,
        published: usize,
        access: MapAccess,
    ) -> io::Result<MapWriter> {
        self.cable.check()?;
        self.file.map(bytes, readable_from, published, access)
    }
}

/// How a volume is taken away.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Its folder is removed.
    Removed,
    /// Every call fails.
    Fails,
    /// Its threads stand still, each in its next call.
    Stops,
    /// No sync returns.
    SyncsHang,
}

struct Store {
    dir: tempfile::TempDir,
    broker: Broker,
    disk: Arc<Cabled>,
    /// 24 partitions, of which none is on two of the volumes that are lost.
    places: Vec<(Topic, u32)>,
}

/// The volumes that are lost.
const LOST: [u32; 4] = [2, 5, 8, 11];

impl Store {
    fn new(durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let dirs: Vec<PathBuf> = (0..VOLUMES).map(|n| dir.path().join(n.to_string())).collect();
        let cables = dirs.iter().map(|dir| (dir.clone(), Arc::default())).collect();
        let disk = Arc::new(Cabled { below: OsDisk, cables });
        let mut builder = Broker::builder().volumes(&dirs).heartbeat_timeout(TIMEOUT);
        builder.disk = Arc::clone(&disk) as _;
        let broker = builder.heartbeat_interval(TIMEOUT / 10).open().expect("it opens");
        let mut places = Vec::new();
        for lost in LOST {
            let far = |volume: &u32| *volume == lost || !LOST.contains(volume);
            let only = (1..=VOLUMES).filter(far).map(VolumeId::new).collect();
            *broker.inner().only.lock() = only;
            let config = TopicConfig::new().partitions(PARTITIONS / 4).durability(durability);
            let topic = broker.create_topic(&format!("t{lost}"), config).expect("it is made");
            places.extend((0..PARTITIONS / 4).map(|number| (topic.clone(), number)));
        }
        broker.inner().only.lock().clear();
        let store = Self { dir, broker, disk, places };
        let led = store.partitions().filter(|it| LOST.contains(&it.volume().get())).count();
        assert!(led > 0, "the lost volumes lead something");
        for partition in store.partitions() {
            let holders = partition.replicas().map(|replica| replica.volume.get());
            assert!(holders.filter(|volume| LOST.contains(volume)).count() <= 1);
        }
        store
    }

    fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.places.iter().map(|(topic, number)| {
            topic.state.partition(PartitionId::new(*number)).expect("it is there")
        })
    }

    fn dir_of(&self, volume: u32) -> PathBuf {
        let member = self.broker.inner().member(VolumeId::new(volume)).expect("it is there");
        member.volume.dir.clone()
    }

    fn take_away(&self, volume: u32, way: Way) {
        let dir = self.dir_of(volume);
        let cable = self.disk.cable(&dir).expect("it has one");
        match way {
            Way::Removed => {
                let away = dir.with_extension("gone");
                std::fs::rename(&dir, &away).expect("it is renamed");
                // Whoever has a file open may still make one beside it.
                while std::fs::remove_dir_all(&away).is_err() {}
            }
            Way::Fails => cable.set(FAILING),
            Way::Stops => cable.set(HANGING),
            Way::SyncsHang => cable.set(SYNCS_HANG),
        }
    }
}

/// How far a producer is ahead of who reads its partition. Without a bound two dozen producers have
/// the processors to themselves, and who is to catch up never does.
const AHEAD: u64 = 8;

/// Holds producers back.
struct Rate {
    /// By place: up to where it was read.
    seen: Vec<AtomicU64>,
    turn: Mutex<()>,
    moved: Condvar,
}

impl Rate {
    /// Whether the next one may be sent; waits a moment if not.
    fn may_send(&self, place: usize, next: u64) -> bool {
        if next < self.seen[place].load(Ordering::Acquire) + AHEAD {
            return true;
        }
        self.moved.wait_for(&mut self.turn.lock(), Duration::from_millis(5));
        false
    }

    fn saw(&self, store: &Store, (topic, partition): &(String, u32), value: u64) {
        let is_it = |(it, number): &(Topic, u32)| it.name() == topic && number == partition;
        if let Some(place) = store.places.iter().position(is_it) {
            self.seen[place].fetch_max(value + 1, Ordering::AcqRel);
        }
    }

    fn tell(&self) {
        drop(self.turn.lock());
        self.moved.notify_all();
    }
}

/// Runs producers and consumers while `what` happens; then checks what came of it. Returns the
/// longest time for which a partition took nothing.
fn while_in_use(store: &Store, what: impl FnOnce()) -> Duration {
    let (stop, all_sent, begun) = (AtomicBool::new(false), AtomicBool::new(false), Barrier::new(3));
    // Another use goes on where the one before has ended.
    let ends = store.partitions().map(|partition| partition.high_watermark().get());
    let acked: Vec<AtomicU64> = ends.map(AtomicU64::new).collect();
    let seen = acked.iter().map(|end| end.load(Ordering::Acquire).into()).collect();
    let rate = Rate { seen, turn: Mutex::new(()), moved: Condvar::new() };
    let mut longest = Duration::ZERO;
    let mut read: BTreeMap<(String, u32), Vec<u64>> = BTreeMap::new();
    thread::scope(|scope| {
        // One sender a partition and half: each knows what it has sent.
        let senders: Vec<_> = (0..store.places.len())
            .map(|place| {
                let (stop, acked, store, rate) = (&stop, &acked, &store, &rate);
                scope.spawn(move || {
                    let producer = store.broker.producer().build().expect("it is built");
                    let mut longest = Duration::ZERO;
                    let mut next = acked[place].load(Ordering::Acquire);
                    while !stop.load(Ordering::Acquire) {
                        if !rate.may_send(place, next) {
                            continue;
                        }
                        let sent_at = Instant::now();
                        let value = next.to_le_bytes();
                        let (topic, partition) = &store.places[place];
                        let record = Record::new(&value).partition(*partition);
                        let sent = producer.send(topic, record);
                        sent.unwrap_or_else(|e| panic!("{topic:?} {partition}: {e:?}"));
                        longest = longest.max(sent_at.elapsed());
                        next += 1;
                        acked[place].store(next, Ordering::Release);
                    }
                    longest
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|half| {
                let (all_sent, begun, store, rate) = (&all_sent, &begun, &store, &rate);
                scope.spawn(move || {
                    let ours = store.places.iter().filter(|(_, number)| number % 2 == half);
                    let all = ours.map(|(topic, it)| TopicPartition::new(topic.name(), *it));
                    let mut consumer =
                        store.broker.consumer().assign(all).build().expect("it is built");
                    let mut read: BTreeMap<(String, u32), Vec<u64>> = BTreeMap::new();
                    begun.wait();
                    loop {
                        let last = all_sent.load(Ordering::Acquire);
                        let records = consumer.poll(Duration::from_millis(20)).expect("no error");
                        for record in &records {
                            let value = record.value().expect("it has one");
                            let value = u64::from_le_bytes(value.try_into().expect("eight bytes"));
                            let place = (record.topic().to_owned(), record.partition().get());
                            rate.saw(store, &place, value);
                            read.entry(place).or_default().push(value);
                        }
                        rate.tell();
                        if last && records.is_empty() {
                            return read;
                        }
                    }
                })
            })
            .collect();
        begun.wait();
        what();
        // Every partition takes records again, each twice: the first may have been on its way.
        let from: Vec<u64> = acked.iter().map(|acked| acked.load(Ordering::Acquire)).collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        while acked.iter().zip(&from).any(|(now, from)| now.load(Ordering::Acquire) < from + 3) {
            if Instant::now() > deadline {
                for (partition, (now, from)) in store.partitions().zip(acked.iter().zip(&from)) {
                    let now = now.load(Ordering::Acquire);
                    if now < from + 3 {
                        println!("stands at {now}: {:?} {partition:?}", partition.standing());
                    }
                }
                panic!("some partition takes nothing: {:?}", states(&store.broker));
            }
            assert!(!senders.iter().any(ScopedJoinHandle::is_finished), "a sender has failed");
            thread::yield_now();
        }
        stop.store(true, Ordering::Release);
        for sender in senders {
            longest = longest.max(sender.join().expect("no panic"));
        }
        all_sent.store(true, Ordering::Release);
        for reader in readers {
            read.extend(reader.join().expect("no panic"));
        }
    });
    for ((topic, partition), acked) in store.places.iter().zip(&acked) {
        let acked = acked.load(Ordering::Acquire);
        let found = read.remove(&(topic.name().to_owned(), *partition)).unwrap_or_default();
        let (count, wrong) = (found.len(), (0..).zip(&found).find(|(at, value)| at != *value));
        assert!(
            count as u64 == acked && wrong.is_none(),
            "{topic:?} {partition}: {count} of {acked} read, wrong: {wrong:?}"
        );
    }
    longest
}

fn states(broker: &Broker) -> BTreeMap<u32, VolumeState> {
    let all = broker.admin().volumes().expect("it is open").into_iter();
    all.map(|volume| (volume.volume.get(), volume.state)).collect()
}

fn four_of_twelve_go(way: Way, durability: Durability) {
    let store = Store::new(durability);
    let longest = while_in_use(&store, || {
        for volume in LOST {
            store.take_away(volume, way);
        }
    });
    println!("{way:?}, {durability:?}: {} ms at most without a record", longest.as_millis());
    for (volume, state) in states(&store.broker) {
        let expected = LOST.contains(&volume);
        assert_eq!(state == VolumeState::Failed, expected, "volume {volume}: {state:?}");
    }
    let Store { broker, disk, dir, .. } = store;
    // What could not be closed is said of those that are there.
    broker.close().expect("it closes");
    disk.cables.iter().for_each(|(_, cable)| cable.set(FAILING));
    drop(dir);
}

#[test]
fn four_of_twelve_volumes_whose_folders_are_removed() {
    four_of_twelve_go(Way::Removed, Durability::Fsync);
}

#[test]
fn four_of_twelve_volumes_that_fail() {
    four_of_twelve_go(Way::Fails, Durability::Fsync);
    four_of_twelve_go(Way::Fails, Durability::Os);
}

#[test]
fn four_of_twelve_volumes_whose_threads_stand_still() {
    four_of_twelve_go(Way::Stops, Durability::Os);
    four_of_twelve_go(Way::Stops, Durability::Fsync);
}

#[test]
fn four_of_twelve_volumes_whose_syncs_hang() {
    four_of_twelve_go(Way::SyncsHang, Durability::Fsync);
}

/// Not one error: those that were lost are removed, and four others drained and removed.
#[test]
fn the_lost_ones_are_removed_and_others_drained_while_in_use() {
    for durability in [Durability::Os, Durability::Fsync] {
        let store = Store::new(durability);
        let admin = store.broker.admin();
        while_in_use(&store, || {
            for volume in LOST {
                store.take_away(volume, Way::Fails);
            }
            let failed = |volume: &u32| states(&store.broker)[volume] == VolumeState::Failed;
            while !LOST.iter().all(failed) {
                thread::yield_now();
            }
        });
        while_in_use(&store, || {
            for lost in LOST {
                admin.remove_volume(store.dir_of(lost), false).expect("it is removed");
            }
            for drained in [1, 4, 7, 10] {
                let dir = store.dir_of(drained);
                admin.remove_volume(&dir, false).expect_err("it holds something");
                admin.drain_volume(&dir).expect("it is drained");
                admin.remove_volume(&dir, false).expect("it is removed");
                admin.drain_volume(&dir).expect_err("it is gone");
            }
        });
        let left: Vec<u32> = states(&store.broker).into_keys().collect();
        assert_eq!(left, [3, 6, 9, 12]);
        let dirs: Vec<PathBuf> = left.iter().map(|volume| store.dir_of(*volume)).collect();
        for partition in store.partitions() {
            assert_eq!(partition.replicas().count(), 3, "{:?}", partition.standing());
        }
        let topics: Vec<String> =
            store.places.iter().map(|(topic, _)| topic.name().to_owned()).collect();
        let Store { broker, dir: folder, places, .. } = store;
        drop(places);
        broker.close().expect("it closes");
        let broker = Broker::builder().volumes(&dirs).open().expect("it opens with what is left");
        assert!(broker.recovery().clean && broker.recovery().missing_volumes.is_empty());
        for topic in topics {
            assert_eq!(
                broker.admin().describe(&topic).expect("there").partitions[0].replicas.len(),
                3
            );
        }
        assert_eq!(broker.admin().verify().expect("it reads").faults, []);
        drop((broker, folder));
    }
}
