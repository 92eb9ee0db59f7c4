//! The threads of a volume: what logs need done that no caller waits for.
//!
//! Not here: what that is (`log::housekeep`, `log::ahead`, `log::read_ahead`).
//!
//! Threads   two per volume, made here and nowhere else: one syncs and seals, which takes long, the
//!           other makes room for appends to come, which cannot wait for that, and else checks what
//!           readers will come to. They sleep until a log is due, or for ever while all are idle.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::broker::sweep::Sweep;
use crate::error::Error;
use crate::format::Identity;
use crate::fs::ForkMark;
use crate::id::{PartitionId, TopicId};
use crate::log::{Housekeeper, Log, Next};

/// Who does a broker's background work: syncing by interval, finishing full segments, room ahead of
/// appends, checks ahead of readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Background {
    /// Two threads for each volume. The default.
    #[default]
    Thread,
    /// The threads that append, right after their append; the broker makes none of its own. Every
    /// run with the same calls then does the same I/O. `Durability::Interval` syncs at the first
    /// append after the interval. Nothing is checked ahead of readers.
    Inline,
    /// Nobody, before a test says so: what is to be copied and synced is queued by volume, what is
    /// to be decided by the broker.
    #[cfg(test)]
    #[doc(hidden)]
    Manual,
}

impl Background {
    /// Whoever appends does what is to be done.
    pub(crate) fn is_inline(self) -> bool {
        self == Background::Inline
    }

    /// Threads of the broker's own do.
    pub(crate) fn is_threaded(self) -> bool {
        self == Background::Thread
    }
}

type Key = (TopicId, PartitionId);

/// What the thread and the logs share.
#[derive(Debug, Default)]
struct Queue {
    /// Lock rank: leaf.
    state: Mutex<State>,
    changed: Condvar,
    ahead_changed: Condvar,
    /// The syncs that are going on, each with when it began; and how many there have been. Lock
    /// rank: leaf.
    syncs: Mutex<(BTreeMap<u64, Duration>, u64)>,
}

#[derive(Debug, Default)]
struct State {
    logs: HashMap<Key, Weak<Log>>,
    due: Vec<Key>,
    /// To be looked ahead for.
    ahead: VecDeque<Key>,
    /// To be read ahead of, once nobody is to be looked ahead for.
    reading: VecDeque<Key>,
    /// Logs that were just opened, with something in them that ages.
    aging: Vec<Weak<Log>>,
    stop: bool,
}

impl Housekeeper for Queue {
    fn due(&self, log: &Identity) {
        let mut state = self.state.lock();
        state.due.push((log.topic(), log.partition()));
        self.changed.notify_one();
    }

    fn ahead(&self, log: &Identity) {
        let mut state = self.state.lock();
        state.ahead.push_back((log.topic(), log.partition()));
        self.ahead_changed.notify_one();
    }

    fn read_ahead(&self, log: &Identity) {
        let mut state = self.state.lock();
        state.reading.push_back((log.topic(), log.partition()));
        self.ahead_changed.notify_one();
    }

    fn sync_begins(&self, at: Duration) -> u64 {
        let mut syncs = self.syncs.lock();
        syncs.1 += 1;
        let number = syncs.1;
        syncs.0.insert(number, at);
        number
    }

    fn sync_ended(&self, number: u64) {
        self.syncs.lock().0.remove(&number);
    }
}

/// The running threads; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    fork: Arc<ForkMark>,
}

impl Worker {
    pub(crate) fn start(fork: Arc<ForkMark>) -> std::io::Result<Self> {
        // Complete from the beginning: with the second thread refused, the first one is stopped.
        let mut worker = Self { queue: Arc::default(), threads: Vec::new(), fork };
        worker.spawn("plimsoll-volume", run)?;
        worker.spawn("plimsoll-ahead", run_ahead)?;
        Ok(worker)
    }

    fn spawn(&mut self, name: &str, run: fn(&Queue)) -> std::io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let builder = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(builder.spawn(move || run(&queue))?);
        Ok(())
    }

    pub(crate) fn housekeeper(&self) -> Arc<dyn Housekeeper> {
        Arc::clone(&self.queue) as Arc<dyn Housekeeper>
    }

    /// When the oldest sync of the volume began that is still going on.
    pub(crate) fn syncing_since(&self) -> Option<Duration> {
        self.queue.syncs.lock().0.values().copied().min()
    }

    /// Does not wait for the threads: of a volume whose disk hangs.
    pub(crate) fn leave(mut self) {
        self.threads.clear();
        self.queue.state.lock().stop = true;
        self.queue.changed.notify_all();
        self.queue.ahead_changed.notify_all();
    }

    pub(crate) fn add(&self, log: &Arc<Log>) {
        let identity = &log.place.identity;
        let key = (identity.topic(), identity.partition());
        let mut state = self.queue.state.lock();
        state.logs.insert(key, Arc::downgrade(log));
        if log.retention_due().is_some() {
            state.aging.push(Arc::downgrade(log));
            self.queue.changed.notify_one();
        }
    }

    pub(crate) fn remove_log(&self, topic: TopicId, partition: PartitionId) {
        self.queue.state.lock().logs.remove(&(topic, partition));
    }

    pub(crate) fn remove(&self, topic: TopicId) {
        self.queue.state.lock().logs.retain(|(of, _), _| *of != topic);
    }

    /// Ends the threads after what they are doing.
    pub(crate) fn stop(&mut self) {
        // The threads are the parent's, and the lock may be held for ever.
        if self.fork.is_forked() {
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        self.queue.state.lock().stop = true;
        self.queue.changed.notify_all();
        self.queue.ahead_changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of its own has halted the log it was at; there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run_ahead(queue: &Queue) {
    loop {
        let mut state = queue.state.lock();
        let (key, appends) = loop {
            if state.stop {
                return;
            }
            // Appends first: they wait for it where it comes too late.
            if let Some(key) = state.ahead.pop_front() {
                break (key, true);
            }
            match state.reading.pop_front() {
                Some(key) => break (key, false),
                None => queue.ahead_changed.wait(&mut state),
            }
        };
        let log = state.logs.get(&key).and_then(Weak::upgrade);
        drop(state);
        let Some(log) = log else { continue };
        // Without it appends make their own room, and fetches check for themselves. What panics
        // here panics there too, if it was not this thread's own fault.
        let more = catch_unwind(AssertUnwindSafe(|| {
            if appends {
                log.look_ahead();
                false
            } else {
                log.read_ahead()
            }
        }));
        if more.is_ok_and(|more| more) {
            queue.read_ahead(&log.place.identity);
        }
    }
}

fn run(queue: &Queue) {
    let begun = Instant::now();
    let mut timers: HashMap<Key, Instant> = HashMap::new();
    let mut sweep = Sweep::default();
    loop {
        let mut state = queue.state.lock();
        while !state.stop && state.due.is_empty() && state.aging.is_empty() {
            let earliest = timers.values().copied().chain(sweep.at()).min();
            match earliest {
                None => queue.changed.wait(&mut state),
                Some(at) if at <= Instant::now() => break,
                Some(at) => {
                    queue.changed.wait_until(&mut state, at);
                }
            }
        }
        if state.stop {
            return;
        }
        let now = Instant::now();
        let mut keys: Vec<Key> = std::mem::take(&mut state.due);
        keys.extend(timers.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key));
        keys.sort_unstable();
        keys.dedup();
        let logs: Vec<(Key, Option<Arc<Log>>)> = keys
            .into_iter()
            .map(|key| (key, state.logs.get(&key).and_then(Weak::upgrade)))
            .collect();
        for log in state.aging.drain(..).filter_map(|log| log.upgrade()) {
            sweep.include(&log, now);
        }
        let swept: Vec<Arc<Log>> = if sweep.begin(now) {
            state.logs.values().filter_map(Weak::upgrade).collect()
        } else {
            Vec::new()
        };
        drop(state);
        for log in swept {
            look(&log, || {
                // What fails is tried again at a time that the log says, or has halted it.
                let _ = log.retain_if_due();
                sweep.include(&log, now);
            });
        }
        for (key, log) in logs {
            timers.remove(&key);
            let Some(log) = log else { continue };
            // An error has halted the log, or is tried again at the time it gives.
            let next = look(&log, || log.housekeep(begun.elapsed()).0);
            match next {
                Some(Next::Within(within)) => {
                    timers.insert(key, now + within.max(Duration::from_millis(1)));
                }
                Some(Next::AtOnce) => {
                    timers.insert(key, now);
                }
                Some(Next::WhenTold) | None => {}
            }
            look(&log, || sweep.include(&log, now));
        }
    }
}

/// Does something with a log. After a panic the others are still looked after; this one takes no
/// more appends.
fn look<T>(log: &Log, what: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(what));
    if done.is_err() {
        let lost = std::io::Error::other("the background thread panicked");
        log.halt(Error::io("look after", &log.place.dir, lost));
    }
    done.ok()
}
