//! The thread of a volume: what logs need done that no caller waits for.
//!
//! Not here: what that is (`log::housekeep`).
//!
//! Threads   one per volume, made here and nowhere else. It sleeps until a log is due, or for ever
//!           while all are idle.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::format::Identity;
use crate::id::{PartitionId, TopicId};
use crate::log::{Housekeeper, Log, Next};

/// Who does a broker's background work: syncing by interval, finishing full segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Background {
    /// A thread for each volume. The default.
    #[default]
    Thread,
    /// The threads that append, right after their append; the broker makes none of its own. Every
    /// run with the same calls then does the same I/O. `Durability::Interval` syncs at the first
    /// append after the interval.
    Inline,
}

type Key = (TopicId, PartitionId);

/// What the thread and the logs share.
#[derive(Debug, Default)]
struct Queue {
    /// Lock rank: leaf.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    logs: HashMap<Key, Weak<Log>>,
    due: Vec<Key>,
    stop: bool,
}

impl Housekeeper for Queue {
    fn due(&self, log: &Identity) {
        let mut state = self.state.lock();
        state.due.push((log.topic(), log.partition()));
        self.changed.notify_one();
    }
}

/// The running thread; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start() -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let theirs = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("plimsoll-volume".to_owned())
            .spawn(move || run(&theirs))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    pub(crate) fn housekeeper(&self) -> Arc<dyn Housekeeper> {
        Arc::clone(&self.queue) as Arc<dyn Housekeeper>
    }

    pub(crate) fn add(&self, log: &Arc<Log>) {
        let identity = &log.place.identity;
        let key = (identity.topic(), identity.partition());
        self.queue.state.lock().logs.insert(key, Arc::downgrade(log));
    }

    pub(crate) fn remove(&self, topic: TopicId) {
        self.queue.state.lock().logs.retain(|(of, _), _| *of != topic);
    }

    /// Ends the thread after what it is doing.
    pub(crate) fn stop(&mut self) {
        self.queue.state.lock().stop = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
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

fn run(queue: &Queue) {
    let begun = Instant::now();
    let mut timers: HashMap<Key, Instant> = HashMap::new();
    loop {
        let mut state = queue.state.lock();
        while !state.stop && state.due.is_empty() {
            let earliest = timers.values().min().copied();
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
        drop(state);
        for (key, log) in logs {
            timers.remove(&key);
            let Some(log) = log else { continue };
            // An error has halted the log, or is tried again at the time it gives.
            let look = AssertUnwindSafe(|| log.housekeep(begun.elapsed()).0);
            let next = catch_unwind(look).unwrap_or_else(|_| {
                // The other logs are still looked after; this one takes no more appends.
                let lost = std::io::Error::other("the background thread panicked");
                log.halt(Error::io("look after", &log.place.dir, lost));
                Next::WhenTold
            });
            if let Next::Within(within) = next {
                timers.insert(key, now + within.max(Duration::from_millis(1)));
            }
        }
    }
}
