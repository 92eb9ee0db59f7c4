//! [`Sender`]: sends what producers have queued, from one thread for all of them.
//!
//! Not here: queues, batches and answers (`client`), which this knows as [`Outbox`]es.
//!
//! A round appends the due batches of every outbox that has some before it waits for the first
//! sync: batches of one partition then share one, whoever queued them. What is queued meanwhile
//! goes with the next round, so that the batches are the larger the slower the disk.
//!
//! Threads   one per broker, made here when the first record is queued, ended by `close`. With
//!           `Background::Inline` there is none, and outboxes are emptied by their callers.
//!           Wakers run on it after the round, and may call into the broker, as executors do that
//!           poll where they are woken: nothing waits there for this thread, whoever waits sends
//!           itself ([`Sender::is_here`]).
//! Failure   a panic in a round answers what was in flight (see [`Round`]), and the thread goes on.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::broker::background::Background;
use crate::error::{Error, Result};
use crate::fs::ForkMark;

/// What a producer has queued.
pub(crate) trait Outbox: Debug + Send + Sync {
    /// Appends the batches that are due, and waits for no sync.
    fn append_due(self: Arc<Self>) -> Box<dyn Round>;

    /// Takes no more records, sends what there is, each batch once, and answers everything. Who is
    /// to be told is added to `wakers`.
    fn close(self: Arc<Self>, wakers: &mut Vec<Waker>);
}

/// Batches on their way. Dropping it answers them, whatever happened.
pub(crate) trait Round {
    /// Waits until they are as durable as asked, and answers them. Who is to be told is added to
    /// `wakers`. Returns when the outbox has something to send again, if that is known.
    fn settle(self: Box<Self>, wakers: &mut Vec<Waker>) -> Option<Instant>;
}

/// The outboxes of a broker, and the thread that empties them.
#[derive(Debug)]
pub(crate) struct Sender {
    background: Background,
    fork: Arc<ForkMark>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Lock rank: leaf.
    state: Mutex<State>,
    changed: Condvar,
    /// Of the thread, before anything is sent by it.
    thread_id: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    outboxes: Vec<Weak<dyn Outbox>>,
    due: Vec<Arc<dyn Outbox>>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

impl Sender {
    pub(crate) fn new(background: Background, fork: Arc<ForkMark>) -> Self {
        Self { background, fork, shared: Arc::default() }
    }

    /// True if callers send themselves.
    pub(crate) fn is_inline(&self) -> bool {
        self.background == Background::Inline
    }

    /// True on the thread that sends: a waker runs there. Who waits for an answer sends itself.
    pub(crate) fn is_here(&self) -> bool {
        self.shared.thread_id.get() == Some(&thread::current().id())
    }

    /// Has an outbox closed with the broker; the first one starts the thread.
    pub(crate) fn add(&self, outbox: &Arc<dyn Outbox>) -> Result<()> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if state.thread.is_none() && !self.is_inline() {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new()
                .name("plimsoll-sender".to_owned())
                .spawn(move || run(&shared))
                .map_err(|e| Error::io("start a thread to send from", "producer".as_ref(), e))?;
            // There is one at most: none is made after the close.
            let _ = self.shared.thread_id.set(thread.thread().id());
            state.thread = Some(thread);
        }
        state.outboxes.retain(|other| other.strong_count() > 0);
        state.outboxes.push(Arc::downgrade(outbox));
        Ok(())
    }

    /// Has the thread look at an outbox now.
    pub(crate) fn tell(&self, outbox: Arc<dyn Outbox>) {
        let mut state = self.shared.state.lock();
        if state.thread.is_some() {
            state.due.push(outbox);
            self.shared.changed.notify_one();
        }
    }

    /// Ends the thread after its round, then closes every outbox.
    pub(crate) fn close(&self) {
        // The child's copy of the lock may be locked for ever, and its thread is not there.
        if self.fork.is_forked() {
            return;
        }
        let mut state = self.shared.state.lock();
        state.closed = true;
        let thread = state.thread.take();
        let outboxes = std::mem::take(&mut state.outboxes);
        let due = std::mem::take(&mut state.due);
        drop(state);
        self.shared.changed.notify_one();
        drop(due);
        // A task that the thread wakes may drop the last handle of the broker, right there.
        if let Some(thread) = thread.filter(|_| !self.is_here()) {
            // Its panics were caught; there is nothing to learn here.
            let _ = thread.join();
        }
        // Woken once every outbox is closed: what is queued in one has nobody else to send it.
        let mut wakers = Vec::new();
        for outbox in outboxes.iter().filter_map(Weak::upgrade) {
            // Everything is answered also where it panics.
            let _ = catch_unwind(AssertUnwindSafe(|| outbox.close(&mut wakers)));
        }
        wake_all(&mut wakers);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.close();
    }
}

/// Wakes tasks. Called with no lock held and nothing in flight: what a waker does is its owner's
/// choice, a panic included.
pub(crate) fn wake_all(wakers: &mut Vec<Waker>) {
    for waker in wakers.drain(..) {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

fn run(shared: &Shared) {
    let mut timers: Vec<(Instant, Arc<dyn Outbox>)> = Vec::new();
    let mut wakers = Vec::new();
    loop {
        let Some(mut due) = wait(shared, &timers) else { return };
        let now = Instant::now();
        due.extend(timers.iter().filter(|(at, _)| *at <= now).map(|(_, outbox)| outbox.clone()));
        due.sort_unstable_by_key(|outbox| Arc::as_ptr(outbox).cast::<()>());
        due.dedup_by_key(|outbox| Arc::as_ptr(outbox).cast::<()>());
        timers.retain(|(_, outbox)| !due.iter().any(|other| is_same(other, outbox)));

        let mut rounds = Vec::with_capacity(due.len());
        for outbox in due {
            let round = || Arc::clone(&outbox).append_due();
            if let Ok(round) = catch_unwind(AssertUnwindSafe(round)) {
                rounds.push((outbox, round));
            }
        }
        for (outbox, round) in rounds {
            let settled = catch_unwind(AssertUnwindSafe(|| round.settle(&mut wakers)));
            // After a panic what is left queued is looked at again at once.
            if let Some(at) = settled.unwrap_or(Some(now)) {
                timers.push((at, outbox));
            }
        }
        wake_all(&mut wakers);
    }
}

/// Sleeps until something is due; `None` once the sender was closed.
fn wait(shared: &Shared, timers: &[(Instant, Arc<dyn Outbox>)]) -> Option<Vec<Arc<dyn Outbox>>> {
    let earliest = timers.iter().map(|(at, _)| *at).min();
    let mut state = shared.state.lock();
    loop {
        if state.closed {
            return None;
        }
        if !state.due.is_empty() || earliest.is_some_and(|at| at <= Instant::now()) {
            return Some(std::mem::take(&mut state.due));
        }
        match earliest {
            None => shared.changed.wait(&mut state),
            Some(at) => {
                shared.changed.wait_until(&mut state, at);
            }
        }
    }
}

fn is_same(one: &Arc<dyn Outbox>, other: &Arc<dyn Outbox>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}
