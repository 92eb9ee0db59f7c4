//! The threads of a volume that copy and sync what its replicas hold.
//!
//! Not here: what copying and syncing are (`partition`), housekeeping (`background`), who counts as
//! alive (`controller`).
//!
//! One copies, in the order in which replicas were told; others sync what was copied, or appended
//! to a leader, meanwhile: a disk that takes long over one file takes others at the same time.
//! Where each record is synced they also copy what they sync, and the one copies only to replicas
//! that catch up. It answers for the volume, so it waits for no sync.
//!
//! Failure   a thread that panics is hard evidence against its volume, and so is what it reports.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::broker::volume::Claim;
use crate::config::RETRY_BACKOFF;
use crate::error::Error;
use crate::fs::ForkMark;
use crate::id::{Incarnation, VolumeId};
use crate::partition::{Crew, Overseer, Partition, Step};

/// How many threads of a volume sync.
const SYNCING: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Copy,
    Sync,
}

/// What is to be done on a volume.
#[derive(Debug)]
pub(crate) struct CrewQueue {
    volume: VolumeId,
    incarnation: Incarnation,
    claim: Arc<Claim>,
    /// Lock rank: leaf.
    state: Mutex<State>,
    copies: Condvar,
    syncs: Condvar,
    /// The number of the last question, and of the last one that was answered.
    asked: AtomicU64,
    answered: AtomicU64,
    /// Since when a sync hangs, where there is no thread that it hangs in.
    #[cfg(test)]
    hangs_since: Mutex<Option<std::time::Duration>>,
}

#[derive(Debug, Default)]
struct State {
    copies: VecDeque<Arc<Partition>>,
    syncs: VecDeque<Arc<Partition>>,
    /// To be tried again then; in order.
    later: VecDeque<(Instant, Work, Arc<Partition>)>,
    stop: bool,
}

impl Crew for CrewQueue {
    fn copy(&self, partition: &Arc<Partition>) {
        self.push(Work::Copy, Arc::clone(partition));
    }

    fn sync(&self, partition: &Arc<Partition>) {
        self.push(Work::Sync, Arc::clone(partition));
    }
}

impl CrewQueue {
    pub(crate) fn new((volume, incarnation): (VolumeId, Incarnation), claim: Arc<Claim>) -> Self {
        Self {
            volume,
            incarnation,
            claim,
            state: Mutex::default(),
            copies: Condvar::new(),
            syncs: Condvar::new(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            #[cfg(test)]
            hangs_since: Mutex::default(),
        }
    }

    fn push(&self, work: Work, partition: Arc<Partition>) {
        let mut state = self.state.lock();
        if state.stop {
            return;
        }
        match work {
            Work::Copy => {
                state.copies.push_back(partition);
                self.copies.notify_one();
            }
            Work::Sync => {
                state.syncs.push_back(partition);
                self.syncs.notify_one();
            }
        }
    }

    /// The same by the thread that takes the next one, with nobody else to wake: each of those
    /// before it was told to somebody.
    fn push_again(&self, work: Work, partition: Arc<Partition>) {
        let mut state = self.state.lock();
        match work {
            _ if state.stop => {}
            Work::Copy => state.copies.push_back(partition),
            Work::Sync => state.syncs.push_back(partition),
        }
    }

    /// Nothing is done any more: what is left holds partitions, and they this queue.
    pub(crate) fn end(&self) {
        let left = {
            let mut state = self.state.lock();
            std::mem::replace(&mut *state, State { stop: true, ..State::default() })
        };
        drop(left);
        self.copies.notify_all();
        self.syncs.notify_all();
    }

    /// Asks the thread that copies whether it is there.
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        drop(self.state.lock());
        self.copies.notify_one();
    }

    /// A sync hangs since then, or none does.
    #[cfg(test)]
    pub(crate) fn hangs(&self, since: Option<std::time::Duration>) {
        *self.hangs_since.lock() = since;
    }

    #[cfg(test)]
    pub(crate) fn hangs_since(&self) -> Option<std::time::Duration> {
        *self.hangs_since.lock()
    }

    /// Whether the last question was answered.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked.load(Ordering::Acquire)
    }

    /// Looks whether the folder is still the volume's, and says that this thread is there.
    pub(crate) fn answer(&self, overseer: &dyn Overseer) {
        let asked = self.asked.load(Ordering::Acquire);
        if asked == self.answered.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.claim.check() {
            overseer.failed(self.volume, self.incarnation, &error);
        }
        self.answered.store(asked, Ordering::Release);
    }

    /// The next partition to do this work for; `None` at the end.
    fn next(&self, work: Work, overseer: &dyn Overseer) -> Option<Arc<Partition>> {
        let mut state = self.state.lock();
        loop {
            if work == Work::Copy && !state.stop && !self.has_answered() {
                MutexGuard::unlocked(&mut state, || self.answer(overseer));
                continue;
            }
            if state.stop {
                return None;
            }
            let due = match work {
                Work::Copy => state.copies.pop_front(),
                Work::Sync => state.syncs.pop_front(),
            };
            if due.is_some() {
                return due;
            }
            if work == Work::Sync {
                self.syncs.wait(&mut state);
                continue;
            }
            match state.later.front().map(|(at, ..)| *at) {
                None => self.copies.wait(&mut state),
                Some(at) if at > Instant::now() => {
                    self.copies.wait_until(&mut state, at);
                }
                Some(_) => match state.later.pop_front() {
                    Some((_, Work::Copy, partition)) => state.copies.push_back(partition),
                    Some((_, Work::Sync, partition)) => {
                        state.syncs.push_back(partition);
                        self.syncs.notify_one();
                    }
                    None => {}
                },
            }
        }
    }

    fn run(&self, work: Work, overseer: &dyn Overseer) {
        while let Some(partition) = self.next(work, overseer) {
            self.work(work, partition, overseer);
        }
    }

    /// The next step of this kind, if one is due: for who has no threads.
    #[cfg(test)]
    pub(crate) fn step(&self, work: Work, overseer: &dyn Overseer) -> bool {
        let mut state = self.state.lock();
        let State { copies, syncs, later, .. } = &mut *state;
        let queue = if work == Work::Copy { copies } else { syncs };
        let again = later.iter().position(|(_, other, _)| *other == work);
        let again = || again.and_then(|at| later.remove(at)).map(|(_, _, partition)| partition);
        let Some(partition) = queue.pop_front().or_else(again) else { return false };
        drop(state);
        self.work(work, partition, overseer);
        true
    }

    fn work(&self, work: Work, partition: Arc<Partition>, overseer: &dyn Overseer) {
        let step = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Copy => partition.follow(self.volume),
            Work::Sync => partition.sync(self.volume),
        }));
        match step {
            Ok(Step::Done) => {}
            Ok(Step::More) => self.push_again(work, partition),
            Ok(Step::Later) => {
                let at = Instant::now() + RETRY_BACKOFF;
                self.state.lock().later.push_back((at, work, partition));
                self.copies.notify_one();
            }
            Err(_) => {
                let lost = std::io::Error::other("a thread of the volume panicked");
                let error = Error::io("copy to", "volume".as_ref(), lost);
                overseer.failed(self.volume, self.incarnation, &error);
            }
        }
    }
}

/// The running threads; dropping them stops them.
#[derive(Debug)]
pub(crate) struct CrewThreads {
    queue: Arc<CrewQueue>,
    threads: Vec<JoinHandle<()>>,
    fork: Arc<ForkMark>,
}

impl CrewThreads {
    pub(crate) fn start(
        queue: &Arc<CrewQueue>,
        overseer: &Arc<dyn Overseer>,
        fork: Arc<ForkMark>,
    ) -> std::io::Result<Self> {
        // Complete from the beginning: with a later thread refused, the first ones are stopped.
        let mut crew = Self { queue: Arc::clone(queue), threads: Vec::new(), fork };
        crew.spawn("plimsoll-copy", Work::Copy, overseer)?;
        for _ in 0..SYNCING {
            crew.spawn("plimsoll-sync", Work::Sync, overseer)?;
        }
        Ok(crew)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: Work,
        overseer: &Arc<dyn Overseer>,
    ) -> std::io::Result<()> {
        let (queue, overseer) = (Arc::clone(&self.queue), Arc::clone(overseer));
        let builder = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(builder.spawn(move || queue.run(work, overseer.as_ref()))?);
        Ok(())
    }

    /// Tells the threads to end after what they are doing.
    pub(crate) fn stop(&self) {
        if self.fork.is_forked() {
            return;
        }
        self.queue.end();
    }

    /// Does not wait for the threads: of a volume whose disk hangs.
    pub(crate) fn leave(mut self) {
        self.stop();
        self.threads.clear();
    }
}

impl Drop for CrewThreads {
    fn drop(&mut self) {
        // The threads are the parent's, and the lock may be held for ever.
        if self.fork.is_forked() {
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        self.stop();
        for thread in self.threads.drain(..) {
            // Its panics were caught; there is nothing to learn here.
            let _ = thread.join();
        }
    }
}
