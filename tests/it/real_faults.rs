//! File systems die, fill up and disappear under a store that is in use, and come back empty.
//!
//! Invariants
//!   1. No acknowledged record is lost, none comes twice, and an offset has one value.
//!   2. No consumer sees an error, and no producer one that does not pass.
//!   3. Every partition goes on taking records.
//!   4. A volume that comes back empty is filled again while the store is in use, until it is in
//!      sync with every partition, and all replicas agree. One that was full does the same by
//!      itself, once it has room.
//!
//! `PLIMSOLL_FILE_SYSTEMS=/a:/b:/c` names three places where file systems in files are mounted, in
//! whose place others are mounted. `scripts/real-faults.sh` makes them, runs this, and cleans up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{
    Broker, Durability, Error, Offset, Outcome, Producer, Record, TopicConfig, TopicPartition,
    VolumeState,
};

const FILE_SYSTEMS: &str = "PLIMSOLL_FILE_SYSTEMS";
const TOPICS: [(&str, Durability); 2] = [("fsync", Durability::Fsync), ("os", Durability::Os)];
const PARTITIONS: u32 = 4;
/// As small as mkfs.xfs makes them.
const SIZE: &str = "320M";
const SEGMENT_BYTES: u64 = 1 << 20;
const VALUE_BYTES: usize = 1024;
/// So many records of a partition are on their way at a time, and may be sent between two looks.
const AHEAD: u64 = 8;
const LOOK_EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a partition may take nothing: less than what nobody looks after would take.
const GAP_MAX: Duration = Duration::from_secs(20);
const REPLICA_LAG_MAX: Duration = Duration::from_secs(40);

/// A place where file systems are mounted, each in a file of its own.
struct FileSystem {
    dir: PathBuf,
    kind: String,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} {args:?}: {told}")) }
}

impl FileSystem {
    fn at(dir: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.rfind(|words| words[1] == dir);
        let line = line.unwrap_or_else(|| panic!("{dir} is not mounted"));
        // It is unmounted, and another one takes its place: it had better be made for this.
        assert!(line[0].starts_with("/dev/loop"), "{dir} is no loop device");
        Self { dir: dir.into(), kind: line[2].into() }
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// An empty file system in the place of what is mounted there. That is gone once nobody holds a
    /// file of it any more, and its loop device with it.
    fn make(&self) {
        let _ = run("umount", &["-l", self.dir()]);
        let image = format!("{}.image", self.dir());
        // By name: who still has the one before keeps that.
        let _ = fs::remove_file(&image);
        run("truncate", &["-s", SIZE, &image]).unwrap();
        let force = if self.kind == "xfs" { "-f" } else { "-F" };
        run(&format!("mkfs.{}", self.kind), &["-q", force, &image]).unwrap();
        run("mount", &["-t", &self.kind, "-o", "loop", &image, self.dir()]).unwrap();
    }

    /// Gone for whoever looks for a path; what is open stays so.
    fn disappear(&self) {
        run("umount", &["-l", self.dir()]).unwrap();
    }

    /// Every call that needs the device fails from now on, as if that had died. What the page cache
    /// has and the device does not is lost.
    fn shut_down(&self) {
        // EXT4_IOC_SHUTDOWN and XFS_IOC_SHUTDOWN are one number, and so is "do not flush the log".
        let program = "my ($dir, $how) = (shift, pack('L', 2));
            open(my $file, '<', $dir) or die $!;
            defined(ioctl($file, 0x8004587d, $how)) or die $!";
        run("perl", &["-e", program, self.dir()]).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Another program takes what is left, to the last block.
    fn fill_up(&self) {
        let mut file = fs::File::create(self.ballast()).unwrap();
        for bytes in [1 << 20, 4096] {
            while file.write_all(&vec![0; bytes]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

/// The three, for one test at a time, and empty. `None`, and says so, where they were not given.
fn file_systems(test: &str) -> Option<MutexGuard<'static, [FileSystem; 3]>> {
    static GIVEN: OnceLock<Mutex<[FileSystem; 3]>> = OnceLock::new();
    let Ok(dirs) = std::env::var(FILE_SYSTEMS) else {
        let why = "takes root and three file systems: scripts/real-faults.sh";
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
        return None;
    };
    let given = GIVEN.get_or_init(|| {
        let all: Vec<FileSystem> = dirs.split(':').map(FileSystem::at).collect();
        Mutex::new(all.try_into().unwrap_or_else(|_| panic!("{FILE_SYSTEMS} names three")))
    });
    let given = given.lock().unwrap_or_else(PoisonError::into_inner);
    for disk in given.iter() {
        disk.make();
    }
    Some(given)
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What a sender knows of its records.
#[derive(Default)]
struct Sent {
    /// Offsets and values.
    acked: Vec<(u64, u64)>,
    /// Values that may be there or not.
    unsure: BTreeSet<u64>,
    /// Errors after which the same value was sent again.
    refused: u64,
    /// The longest time between two acknowledgements, waits for permission left out.
    longest: Duration,
}

/// By topic and partition: offsets and values.
type Read = BTreeMap<(&'static str, u32), Vec<(u64, u64)>>;

fn value_of(number: u64) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(VALUE_BYTES, u8::try_from(number % 251).unwrap());
    value
}

fn number_of(value: &[u8]) -> u64 {
    let number = u64::from_le_bytes(value[..8].try_into().unwrap());
    assert!(value == value_of(number), "not a value that was sent");
    number
}

/// A store over the three, and what was sent to it.
struct Store<'d> {
    disks: &'d [FileSystem; 3],
    broker: Broker,
    places: Vec<(&'static str, u32)>,
    sent: Vec<Sent>,
    /// Of a consumer from the beginning.
    read: Read,
}

fn open(disks: &[FileSystem; 3]) -> Broker {
    // A sync that takes longer than that would count as a failure: the three share one device.
    let builder = Broker::builder().volumes(disks.iter().map(FileSystem::store));
    let builder = builder.heartbeat_timeout(Duration::from_secs(10));
    builder.replica_lag_max(REPLICA_LAG_MAX).open().unwrap()
}

/// Senders of each partition, which send what they are allowed to.
struct Load<'s> {
    broker: &'s Broker,
    places: &'s [(&'static str, u32)],
    /// By place: how many records were answered, and how many may have been.
    answered: Vec<AtomicU64>,
    allowed: Mutex<Vec<u64>>,
    changed: Condvar,
    stop: AtomicBool,
    /// A thread has panicked.
    failed: AtomicBool,
}

impl Load<'_> {
    /// Waits until so many more may be sent; false once none are to be.
    fn may_send(&self, place: usize, count: u64) -> bool {
        let upto = self.answered[place].load(Ordering::Acquire) + count;
        let mut allowed = self.allowed.lock().unwrap();
        while allowed[place] < upto && !self.stop.load(Ordering::Acquire) {
            allowed = self.changed.wait(allowed).unwrap();
        }
        !self.stop.load(Ordering::Acquire)
    }

    fn stop(&self) {
        let _allowed = self.allowed.lock().unwrap();
        self.stop.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Looks every few milliseconds, and lets records be sent meanwhile.
    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(!self.failed.load(Ordering::Acquire), "another thread has failed");
            assert!(Instant::now() < deadline, "{what}: {}", self.describe());
            let mut allowed = self.allowed.lock().unwrap();
            for (allowed, answered) in allowed.iter_mut().zip(&self.answered) {
                *allowed = answered.load(Ordering::Acquire) + AHEAD;
            }
            self.changed.notify_all();
            drop(self.changed.wait_timeout(allowed, LOOK_EVERY).unwrap());
        }
    }

    /// Every partition takes records, of which the first may have been on their way.
    fn until_all_go_on(&self) {
        let from: Vec<u64> = self.answered.iter().map(|it| it.load(Ordering::Acquire)).collect();
        self.until("every partition takes records", || {
            let mut all = self.answered.iter().zip(&from);
            all.all(|(now, from)| now.load(Ordering::Acquire) >= from + 3 * AHEAD)
        });
    }

    /// Every partition has more to be copied than fits in one file.
    fn until_all_have_some(&self) {
        self.until("there is something to be copied", || {
            let bytes = |records: &AtomicU64| records.load(Ordering::Acquire) * VALUE_BYTES as u64;
            self.answered.iter().all(|it| bytes(it) > SEGMENT_BYTES)
        });
    }

    /// Everything is on three volumes that are there, and in sync on each.
    fn until_all_are_in_sync(&self) {
        self.until("all replicas are in sync", || {
            let live = self.broker.admin().volumes().unwrap();
            live.iter().all(|it| it.state == VolumeState::Live) && in_sync(self.broker, |_| true)
        });
    }

    fn state_of(&self, disk: &FileSystem) -> Option<VolumeState> {
        let volumes = self.broker.admin().volumes().unwrap();
        let found = volumes.iter().find(|it| it.dir.as_deref() == Some(&*disk.store()));
        found.map(|it| it.state)
    }

    fn describe(&self) -> String {
        let admin = self.broker.admin();
        let topics = TOPICS.map(|(topic, _)| admin.describe(topic));
        format!("{:?} {topics:#?}", admin.volumes())
    }

    /// Tells the others of a panic of this thread.
    fn tell(&self) -> impl Drop {
        OnDrop(|| {
            if thread::panicking() {
                self.failed.store(true, Ordering::Release);
            }
        })
    }

    /// Reads a topic from these offsets on, until all was sent and nothing more comes.
    fn read(&self, topic: &'static str, from: &[u64], all_sent: &AtomicBool) -> Read {
        let _tell = self.tell();
        let places = (0..)
            .zip(from)
            .map(|(number, from)| (TopicPartition::new(topic, number), Offset::new(*from)));
        let places: Vec<_> = places.collect();
        let all = places.iter().map(|(place, _)| place.clone());
        let mut consumer = self.broker.consumer().assign(all).build().unwrap();
        for (place, from) in places {
            consumer.seek(place, from).unwrap();
        }
        let mut read = Read::new();
        loop {
            let last = all_sent.load(Ordering::Acquire);
            let records = consumer.poll(Duration::from_millis(20)).unwrap();
            for record in &records {
                let number = number_of(record.value().unwrap());
                let place = (topic, record.partition().get());
                read.entry(place).or_default().push((record.offset().get(), number));
            }
            if last && records.is_empty() {
                return read;
            }
        }
    }

    fn send(&self, place: usize, sent: &mut Sent) {
        let _tell = self.tell();
        let producer = self.broker.producer().build().unwrap();
        let mut next = self.answered[place].load(Ordering::Acquire);
        // One way of sending for one half, the other one for the other.
        let count = if place.is_multiple_of(2) { 1 } else { AHEAD };
        while self.may_send(place, count) {
            let mut numbers: Vec<u64> = (next..next + count).collect();
            next += count;
            let begun = Instant::now();
            while !numbers.is_empty() {
                assert!(begun.elapsed() < PATIENCE, "{:?} takes nothing", self.places[place]);
                let answers = self.send_some(&producer, place, &numbers);
                numbers.clear();
                for (number, answer) in answers {
                    match answer {
                        Ok(offset) => sent.acked.push((offset, number)),
                        Err(error) => {
                            assert!(error.is_retriable(), "{:?}: {error:?}", self.places[place]);
                            sent.refused += 1;
                            // Not at once again: it is to pass.
                            let allowed = self.allowed.lock().unwrap();
                            drop(self.changed.wait_timeout(allowed, LOOK_EVERY).unwrap());
                            if error.outcome() == Outcome::NotWritten {
                                numbers.push(number);
                            } else {
                                sent.unsure.insert(number);
                            }
                        }
                    }
                }
            }
            sent.longest = sent.longest.max(begun.elapsed());
            assert!(sent.longest < GAP_MAX, "{:?} took nothing for long", self.places[place]);
            self.answered[place].fetch_add(count, Ordering::AcqRel);
        }
    }

    fn send_some(
        &self,
        producer: &Producer,
        place: usize,
        numbers: &[u64],
    ) -> Vec<(u64, Result<u64, Error>)> {
        let (topic, partition) = self.places[place];
        let offset = |answer: plimsoll::Result<plimsoll::Ack>| answer.map(|ack| ack.offset.get());
        if let [number] = *numbers {
            let value = value_of(number);
            let answer = producer.send(topic, Record::new(&value).partition(partition));
            return vec![(number, offset(answer))];
        }
        let queued: Vec<_> = numbers
            .iter()
            .map(|number| {
                let value = value_of(*number);
                (*number, producer.enqueue(topic, Record::new(&value).partition(partition)))
            })
            .collect();
        let wait = |(number, queued): (u64, plimsoll::Result<plimsoll::Delivery>)| {
            (number, queued.and_then(|delivery| offset(delivery.wait())))
        };
        queued.into_iter().map(wait).collect()
    }
}

/// Whether each partition has three replicas, and all that `counts` names are in sync.
fn in_sync(broker: &Broker, counts: impl Fn(plimsoll::VolumeId) -> bool) -> bool {
    TOPICS.iter().all(|(topic, _)| {
        let partitions = broker.admin().describe(*topic).unwrap().partitions;
        partitions.iter().all(|partition| {
            let replicas = &partition.replicas;
            replicas.len() == 3 && replicas.iter().all(|it| it.in_sync || !counts(it.volume))
        })
    })
}

impl<'d> Store<'d> {
    fn new(disks: &'d [FileSystem; 3]) -> Self {
        let broker = open(disks);
        for (topic, durability) in TOPICS {
            let config = TopicConfig::new().partitions(PARTITIONS).replicas(3).min_insync(2);
            let config = config.durability(durability).segment_bytes(SEGMENT_BYTES);
            broker.create_topic(topic, config).unwrap();
        }
        let places = TOPICS.iter().flat_map(|(topic, _)| (0..PARTITIONS).map(|it| (*topic, it)));
        let places: Vec<_> = places.collect();
        let sent = places.iter().map(|_| Sent::default()).collect();
        Self { disks, broker, places, sent, read: Read::new() }
    }

    /// Runs producers and consumers while `what` happens.
    fn while_in_use(&mut self, what: impl FnOnce(&Load<'_>)) {
        let Self { broker, places, sent, read, .. } = self;
        let answered = |sent: &Sent| AtomicU64::new((sent.acked.len() + sent.unsure.len()) as u64);
        let load = Load {
            broker,
            places,
            answered: sent.iter().map(answered).collect(),
            allowed: Mutex::new(vec![0; places.len()]),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        let all_sent = AtomicBool::new(false);
        thread::scope(|scope| {
            // Also where this thread panics: the scope waits for the others.
            let _stop = OnDrop(|| load.stop());
            let _all_sent = OnDrop(|| all_sent.store(true, Ordering::Release));
            let (load, all_sent) = (&load, &all_sent);
            let readers = TOPICS.map(|(topic, _)| {
                let from: Vec<u64> = (0..PARTITIONS)
                    .map(|number| read.get(&(topic, number)).map_or(0, Vec::len) as u64)
                    .collect();
                scope.spawn(move || load.read(topic, &from, all_sent))
            });
            let senders: Vec<_> = (0..)
                .zip(sent)
                .map(|(place, sent)| scope.spawn(move || load.send(place, sent)))
                .collect();
            load.until_all_go_on();
            load.until_all_have_some();
            what(load);
            load.until_all_go_on();
            load.stop();
            senders.into_iter().for_each(|sender| sender.join().unwrap());
            all_sent.store(true, Ordering::Release);
            for reader in readers {
                for (place, records) in reader.join().unwrap() {
                    read.entry(place).or_default().extend(records);
                }
            }
        });
    }
    /// Takes a volume away, and has an empty one take its place.
    fn replace(&mut self, lost: &FileSystem, take_away: fn(&FileSystem)) {
        self.while_in_use(|load| {
            let admin = load.broker.admin();
            take_away(lost);
            let begun = Instant::now();
            load.until("it is put out", || load.state_of(lost) == Some(VolumeState::Failed));
            let put_out = begun.elapsed();
            load.until_all_go_on();
            let goes_on = begun.elapsed();
            admin.remove_volume(lost.store(), false).unwrap();
            lost.make();
            let begun = Instant::now();
            admin.add_volume(lost.store()).unwrap();
            load.until_all_are_in_sync();
            let [put_out, goes_on, filled] =
                [put_out, goes_on, begun.elapsed()].map(|it| it.as_millis());
            println!(
                "{} {}: put out after {put_out} ms, all go on after {goes_on} ms; \
                 empty, it was in sync after {filled} ms",
                lost.kind,
                lost.dir(),
            );
        });
        self.check();
    }

    /// Everything is there, and on all three.
    fn check(&self) {
        assert!(in_sync(&self.broker, |_| true));
        check_history(&self.places, &self.sent, &self.read);
        self.check_again(&self.broker);
        let report = self.broker.admin().verify().unwrap();
        assert!(report.faults.is_empty() && report.records > 0, "{report:?}");
    }

    /// What a broker has is what was read before, and what was acknowledged.
    fn check_again(&self, broker: &Broker) {
        let mut found = Read::new();
        for (topic, _) in TOPICS {
            for record in broker.reader(topic).build().unwrap() {
                let record = record.unwrap();
                let number = number_of(record.value().unwrap());
                let place = (topic, record.partition().get());
                found.entry(place).or_default().push((record.offset().get(), number));
            }
        }
        check_history(&self.places, &self.sent, &found);
        for (place, read) in &self.read {
            assert!(found[place].starts_with(read), "{place:?} was read otherwise before");
        }
    }

    /// Closes it, and opens it again.
    fn end(self) {
        let acked: usize = self.sent.iter().map(|sent| sent.acked.len()).sum();
        let unsure: usize = self.sent.iter().map(|sent| sent.unsure.len()).sum();
        let refused: u64 = self.sent.iter().map(|sent| sent.refused).sum();
        let longest = self.sent.iter().map(|sent| sent.longest).max().unwrap_or_default();
        let metrics = self.broker.metrics();
        println!(
            "{acked} acknowledged, {unsure} unsure, {refused} refused; at most {} ms for one; \
             {} volumes put out, {} elections, ISR {} times smaller and {} times larger",
            longest.as_millis(),
            metrics.volumes_put_out,
            metrics.elections,
            metrics.isr_shrinks,
            metrics.isr_expands,
        );
        self.broker.clone().close().unwrap();
        let broker = open(self.disks);
        assert!(broker.recovery().missing_volumes.is_empty() && broker.recovery().clean);
        self.check_again(&broker);
        let report = broker.admin().verify().unwrap();
        assert!(report.faults.is_empty(), "{report:?}");
        broker.close().unwrap();
    }
}

/// Compares what was read of each partition with what was sent to it.
fn check_history(places: &[(&'static str, u32)], sent: &[Sent], read: &Read) {
    for (place, sent) in places.iter().zip(sent) {
        let read = read.get(place).map_or(&[][..], Vec::as_slice);
        let wrong = (0..).zip(read).find(|(offset, (read, _))| offset != read);
        assert!(wrong.is_none(), "{place:?}: {wrong:?} was read out of turn");
        for (offset, number) in &sent.acked {
            let found = usize::try_from(*offset).ok().and_then(|offset| read.get(offset));
            assert_eq!(found, Some(&(*offset, *number)), "{place:?}: it was acknowledged");
        }
        let once: BTreeSet<u64> = read.iter().map(|(_, number)| *number).collect();
        assert_eq!(once.len(), read.len(), "{place:?}: a value is there twice");
        let acked: BTreeSet<u64> = sent.acked.iter().map(|(_, number)| *number).collect();
        let odd = once.difference(&acked).find(|number| !sent.unsure.contains(number));
        assert_eq!(odd, None, "{place:?}: nobody sent it, or it was refused");
        let in_order = read.is_sorted_by_key(|(_, number)| *number);
        assert!(in_order || sent.refused > 0, "{place:?}: not in the order they were sent in");
    }
}

fn is_replaced_by_an_empty_one(test: &str, take_away: fn(&FileSystem)) {
    let Some(disks) = file_systems(test) else { return };
    let mut store = Store::new(&disks);
    for lost in disks.iter() {
        store.replace(lost, take_away);
    }
    store.end();
}

#[test]
fn a_file_system_that_is_shut_down_is_replaced_by_an_empty_one() {
    let test = "a_file_system_that_is_shut_down_is_replaced_by_an_empty_one";
    is_replaced_by_an_empty_one(test, FileSystem::shut_down);
}

#[test]
fn a_file_system_that_disappears_is_replaced_by_an_empty_one() {
    let test = "a_file_system_that_disappears_is_replaced_by_an_empty_one";
    is_replaced_by_an_empty_one(test, FileSystem::disappear);
}

#[test]
fn a_file_system_that_is_full_catches_up_once_it_has_room() {
    let test = "a_file_system_that_is_full_catches_up_once_it_has_room";
    let Some(disks) = file_systems(test) else { return };
    let mut store = Store::new(&disks);
    for full in disks.iter() {
        store.while_in_use(|load| {
            let volumes = load.broker.admin().volumes().unwrap();
            let volume = volumes.iter().find(|it| it.dir.as_deref() == Some(&*full.store()));
            let volume = volume.unwrap().volume;
            full.fill_up();
            let begun = Instant::now();
            load.until("it is out of every ISR", || {
                let partitions = TOPICS
                    .map(|(topic, _)| load.broker.admin().describe(topic).unwrap().partitions);
                let mut replicas = partitions.iter().flatten().flat_map(|it| &it.replicas);
                !replicas.any(|it| it.volume == volume && it.in_sync)
            });
            let out = begun.elapsed();
            load.until_all_go_on();
            full.make_room();
            let begun = Instant::now();
            load.until_all_are_in_sync();
            println!(
                "{} {}: out of every ISR after {} ms; with room in all of them after {} ms",
                full.kind,
                full.dir(),
                out.as_millis(),
                begun.elapsed().as_millis(),
            );
        });
        store.check();
    }
    store.end();
}
