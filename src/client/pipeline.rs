//! [`Pipeline`]: the records that a producer has queued, as batches of their partitions.
//!
//! Not here: the thread that sends them (`broker::sender`), what a user waits on (`delivery`), the
//! append (`partition`).
//!
//! ```text
//! enqueue -> queue of a partition: [batch][batch][open batch] -> round: append all, then wait for
//!            each -> answer
//! ```
//!
//! Invariants
//!   1. Batches of a partition are appended in the order in which they were queued: one round at a
//!      time, a batch that has to be tried again goes back to the front, and none behind it is
//!      appended before.
//!   2. A batch is appended again only if nothing of it is in the log: either nothing was written
//!      (`Outcome::NotWritten`), or the log says that what was is gone. So no record is twice
//!      there.
//!   3. Every batch is answered once, also if the broker closes or something panics.
//!   4. What is queued or in flight has `buffer_bytes` at most, as measured for the log.
//! Threads   any. `state` is held for moments: not across an append, a sync, or a waker. One thread
//!           has the round (`State::sending`); others that want it wait for its end.
//! Failure   a round answers in its `Drop`: no panic strands a delivery.

mod sending;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::broker::{Inner, Outbox, Round, TopicState, wake_all};
use crate::client::delivery::{Answer, Delivery};
use crate::config::{Acks, Compression};
use crate::error::{Error, Result};
use crate::format::{Record, RecordBuffer};
use crate::id::{PartitionId, TopicId};
use crate::log::{Appended, ProducerIdentity, refused};
use crate::partition::Wanted;

use sending::{Fate, InFlight, Sending};

/// What a producer was built with, as far as queueing goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipelineOptions {
    pub(crate) acks: Acks,
    /// Instead of the topic's.
    pub(crate) compression: Option<Compression>,
    pub(crate) batch_bytes: u64,
    pub(crate) linger: Duration,
    pub(crate) buffer_bytes: u64,
    pub(crate) max_block: Duration,
    pub(crate) delivery_timeout: Duration,
}

impl PipelineOptions {
    /// How batches for a topic are compressed.
    #[inline]
    pub(crate) fn compression(&self, topic: &TopicState) -> Compression {
        self.compression.unwrap_or_else(|| topic.compression())
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Pipeline {
    broker: Arc<Inner>,
    identity: Arc<ProducerIdentity>,
    options: PipelineOptions,
    this: Weak<Pipeline>,
    /// Lock rank: 0, above every other.
    state: Mutex<State>,
    /// A round has ended: there is room, or something to look at again.
    changed: Condvar,
    /// How many queues there are, for whoever asks without the lock. Written under it. Relaxed: it
    /// answers a thread about what that thread itself has queued.
    busy: AtomicUsize,
    /// How many rounds there were.
    #[cfg(test)]
    pub(crate) rounds: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Of the partitions that have something queued or in flight. In an order that is the same in
    /// every run.
    queues: BTreeMap<Place, Queue>,
    /// Queued or in flight.
    bytes: u64,
    /// Who waits for room, in the order in which they came.
    waiting: VecDeque<u64>,
    tickets: u64,
    /// The sender was told, and has not begun its round.
    told: bool,
    /// Somebody has the round.
    sending: bool,
    closed: bool,
    /// The first failure that no flush has returned yet.
    failed: Option<Error>,
    spare: Vec<RecordBuffer>,
}

type Place = (TopicId, PartitionId);

/// What is queued for one partition.
#[derive(Debug)]
struct Queue {
    topic: Arc<TopicState>,
    batches: VecDeque<Batch>,
    /// How many of its batches are in the round.
    in_flight: usize,
    /// Of the batch that was begun last, which may be in the round.
    newest: Option<Arc<Answer>>,
    /// Set while the front batch waits to be tried again.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Batch {
    answer: Arc<Answer>,
    records: RecordBuffer,
    bytes: u64,
    /// Takes no more records, and is due.
    closed: bool,
    /// Due from then on; `None` for never by itself.
    due_at: Option<Instant>,
    /// An error is final from then on; `None` for never.
    expires: Option<Instant>,
    /// What became of it in a round that could not answer it: appended, and not to be seen synced
    /// yet; or failed for good, behind one that is tried again.
    sent: Option<Result<Appended>>,
}

impl Batch {
    fn is_due(&self, now: Instant) -> bool {
        self.closed || self.due_at.is_some_and(|at| at <= now)
    }
}

/// Which batches a round takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    /// Those that are due.
    Due,
    /// All of them.
    All,
    /// All of them, for the last time: no error is tried again.
    Last,
}

impl Pipeline {
    /// A pipeline that closes with the broker.
    pub(crate) fn new(
        broker: &Arc<Inner>,
        identity: &Arc<ProducerIdentity>,
        options: PipelineOptions,
    ) -> Result<Arc<Self>> {
        let pipeline = Arc::new_cyclic(|this| Self {
            broker: Arc::clone(broker),
            identity: Arc::clone(identity),
            options,
            this: Weak::clone(this),
            state: Mutex::default(),
            changed: Condvar::new(),
            busy: AtomicUsize::new(0),
            #[cfg(test)]
            rounds: AtomicUsize::new(0),
        });
        let outbox: Arc<dyn Outbox> = Arc::clone(&pipeline) as Arc<dyn Outbox>;
        broker.sender().add(&outbox)?;
        Ok(pipeline)
    }

    /// True if callers send themselves.
    pub(crate) fn is_inline(&self) -> bool {
        self.broker.sender().is_inline()
    }

    /// True if waiting for somebody else to send would be for ever: callers send themselves, or
    /// this is the thread that sends, in a waker.
    pub(crate) fn sends_here(&self) -> bool {
        let sender = self.broker.sender();
        sender.is_inline() || sender.is_here()
    }

    /// Copies a record to the end of its partition's queue.
    pub(crate) fn enqueue(
        &self,
        topic: &Arc<TopicState>,
        partition: PartitionId,
        record: &Record<'_>,
    ) -> Result<Delivery> {
        self.broker.check_fork()?;
        let bytes = RecordBuffer::measure(record).map_err(refused)? as u64;
        let mut state = self.room_for(bytes)?;
        let State { queues, spare, .. } = &mut *state;
        let queue = queues.entry((topic.id, partition)).or_insert_with(|| Queue {
            topic: Arc::clone(topic),
            batches: VecDeque::new(),
            in_flight: 0,
            newest: None,
            retry_at: None,
        });
        let batch_bytes = self.options.batch_bytes;
        let fits = |batch: &Batch| !batch.closed && batch.bytes + bytes <= batch_bytes;
        let mut news = false;
        if !queue.batches.back().is_some_and(fits) {
            news = true;
            if let Some(full) = queue.batches.back_mut() {
                full.closed = true;
            }
            let answer = self.new_answer();
            queue.newest = Some(Arc::clone(&answer));
            queue.batches.push_back(self.new_batch(answer, spare.pop().unwrap_or_default()));
        }
        // One was begun above if there was none.
        let Some(batch) = queue.batches.back_mut() else { return Err(Error::Closed) };
        let index = batch.records.len() as u64;
        batch.records.push(record);
        batch.bytes += bytes;
        if batch.bytes >= batch_bytes {
            batch.closed = true;
            news = true;
        }
        let delivery = Delivery::new(Arc::clone(&batch.answer), partition, index);
        let full = queue.batches.front().is_some_and(|batch| batch.closed);
        state.bytes += bytes;
        self.busy.store(state.queues.len(), Ordering::Relaxed);
        if self.is_inline() {
            drop(state);
            if full {
                self.send(Take::Due);
            }
        } else if news {
            self.tell(&mut state);
        }
        Ok(delivery)
    }

    /// Sends everything that is queued now, and waits until it is answered. The first failure that
    /// no flush has returned before, of these records or of earlier ones.
    pub(crate) fn flush(&self) -> Result<()> {
        self.broker.check_fork()?;
        let mut state = self.state.lock();
        let newest: Vec<_> =
            state.queues.values().filter_map(|queue| queue.newest.clone()).collect();
        self.close_open(&mut state, None);
        drop(state);
        for answer in newest {
            answer.wait(None);
        }
        self.state.lock().failed.take().map_or(Ok(()), Err)
    }

    /// Waits until what is queued for this partition is answered, so that what is appended next
    /// comes after it.
    #[inline]
    pub(crate) fn go_ahead_of(&self, topic: TopicId, partition: PartitionId) {
        if self.busy.load(Ordering::Relaxed) > 0 {
            self.wait_for(&(topic, partition));
        }
    }

    #[cold]
    fn wait_for(&self, place: &Place) {
        let mut state = self.state.lock();
        let newest = state.queues.get(place).and_then(|queue| queue.newest.clone());
        let Some(newest) = newest else { return };
        self.close_open(&mut state, Some(place));
        drop(state);
        newest.wait(None);
    }

    /// Makes what is queued due: in one place, or everywhere.
    fn close_open(&self, state: &mut State, place: Option<&Place>) {
        for (at, queue) in &mut state.queues {
            if place.is_none_or(|place| place == at)
                && let Some(open) = queue.batches.back_mut()
            {
                open.closed = true;
            }
        }
        self.tell(state);
    }

    /// Sends until `answer` is given; false at the deadline. Where [`Self::sends_here`].
    pub(crate) fn drive(&self, answer: &Answer, deadline: Option<Instant>) -> bool {
        loop {
            if answer.is_settled() {
                return true;
            }
            if has_some(&self.state.lock()) {
                self.send(Take::All);
            }
            let mut state = self.state.lock();
            if answer.is_settled() {
                return true;
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return false;
            }
            let until = earliest(next_look(&state), deadline);
            self.wait_until(&mut state, until);
        }
    }

    /// The state, with room for a record.
    fn room_for(&self, bytes: u64) -> Result<MutexGuard<'_, State>> {
        let buffer_bytes = self.options.buffer_bytes;
        if bytes > buffer_bytes {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            return Err(Error::RecordTooLarge {
                what: "a record for the producer's buffer",
                bytes,
            });
        }
        let state = self.state.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if state.waiting.is_empty() && state.bytes + bytes <= buffer_bytes {
            return Ok(state);
        }
        if self.sends_here() {
            self.make_room(state, bytes)
        } else {
            self.wait_for_room(state, bytes)
        }
    }

    /// Waits for room in turn, for `max_block` at most. While somebody waits everything is due.
    #[cold]
    fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        bytes: u64,
    ) -> Result<MutexGuard<'a, State>> {
        let buffer_bytes = self.options.buffer_bytes;
        // A time beyond what the clock can tell is for ever.
        let deadline = Instant::now().checked_add(self.options.max_block);
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting.push_back(ticket);
        let room = loop {
            if state.closed {
                break Err(Error::Closed);
            }
            if state.waiting.front() == Some(&ticket) && state.bytes + bytes <= buffer_bytes {
                break Ok(());
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                // What takes the room is sent also where nobody stays to wait for it.
                self.close_open(&mut state, None);
                break Err(Error::BufferFull { buffer_bytes });
            }
            if has_some(&state) {
                self.tell(&mut state);
            }
            self.wait_until(&mut state, deadline);
        };
        state.waiting.retain(|other| *other != ticket);
        // The next in turn may have room as well.
        self.changed.notify_all();
        room.map(|()| state)
    }

    /// Sends until there is room, for `max_block` at most. Where [`Self::sends_here`].
    #[cold]
    fn make_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        bytes: u64,
    ) -> Result<MutexGuard<'a, State>> {
        let buffer_bytes = self.options.buffer_bytes;
        let deadline = Instant::now().checked_add(self.options.max_block);
        loop {
            if has_some(&state) {
                MutexGuard::unlocked(&mut state, || self.send(Take::All));
            }
            if state.closed {
                return Err(Error::Closed);
            }
            if state.bytes + bytes <= buffer_bytes {
                return Ok(state);
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Err(Error::BufferFull { buffer_bytes });
            }
            let until = earliest(next_look(&state), deadline);
            self.wait_until(&mut state, until);
        }
    }

    fn wait_until(&self, state: &mut MutexGuard<'_, State>, at: Option<Instant>) {
        match at {
            None => self.changed.wait(state),
            Some(at) => {
                self.changed.wait_until(state, at);
            }
        }
    }

    /// Has the sender's thread look, unless it is about to.
    fn tell(&self, state: &mut State) {
        if !state.told
            && let Some(this) = self.this.upgrade()
        {
            state.told = true;
            self.broker.sender().tell(this);
        }
    }

    /// One round, by the caller.
    fn send(&self, take: Take) {
        if let Some(this) = self.this.upgrade() {
            let mut wakers = Vec::new();
            let round = Box::new(Sending::begin(this, take));
            let settled = catch_unwind(AssertUnwindSafe(|| round.settle(&mut wakers)));
            if !self.is_inline() {
                // The thread that sends does not know when this is to be looked at again.
                self.tell(&mut self.state.lock());
            }
            wake_all(&mut wakers);
            if let Err(panic) = settled {
                resume_unwind(panic);
            }
        }
    }

    fn new_answer(&self) -> Arc<Answer> {
        Arc::new(Answer::new(Weak::clone(&self.this), Arc::clone(self.broker.fork_mark())))
    }

    fn new_batch(&self, answer: Arc<Answer>, records: RecordBuffer) -> Batch {
        let now = Instant::now();
        // Without a thread nobody would come when the time is over: full, or asked for.
        let due_at = if self.is_inline() { None } else { now.checked_add(self.options.linger) };
        let expires = now.checked_add(self.options.delivery_timeout);
        Batch { answer, records, bytes: 0, closed: false, due_at, expires, sent: None }
    }

    /// Takes the round, waiting for the one that is going on, and its batches.
    fn take_round(&self, take: Take) -> Vec<InFlight> {
        #[cfg(test)]
        self.rounds.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        while state.sending {
            self.changed.wait(&mut state);
        }
        state.sending = true;
        state.told = false;
        let now = Instant::now();
        let all = take != Take::Due || !state.waiting.is_empty();
        let mut taken = Vec::new();
        for (place, queue) in &mut state.queues {
            if take != Take::Last && queue.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            while queue.batches.front().is_some_and(|batch| all || batch.is_due(now)) {
                let Some(batch) = queue.batches.pop_front() else { break };
                queue.in_flight += 1;
                let topic = Arc::clone(&queue.topic);
                taken.push(InFlight { place: *place, topic, batch, fate: Fate::Unsent });
            }
        }
        taken
    }

    /// What became of an append, in the words of a producer.
    fn explain<T>(&self, topic: &TopicState, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.broker.explain(topic, error))
    }

    /// Appends a batch, unless an earlier round has, and the log still holds it, or it has failed
    /// there: what was queued behind it may be in the log.
    fn append(&self, flight: &InFlight) -> Result<Appended> {
        let partition = flight.topic.partition(flight.place.1)?;
        match &flight.batch.sent {
            Some(Ok(appended)) if !partition.holds(appended) => {}
            Some(sent) => return sent.clone(),
            None => {}
        }
        if partition.waits_for_reserve() {
            self.broker.fill_reserve(partition)?;
        }
        let compression = self.options.compression(&flight.topic);
        flight.batch.records.with_records(|records| {
            partition.begin(&self.identity, records, compression, self.options.acks)
        })
    }

    fn acknowledge(&self, flight: &InFlight, appended: &Appended) -> Result<()> {
        let wanted = Wanted { acks: self.options.acks, deadline: flight.batch.expires };
        flight.topic.partition(flight.place.1)?.acknowledge(appended, wanted)
    }
}

impl Outbox for Pipeline {
    fn append_due(self: Arc<Self>) -> Box<dyn Round> {
        Box::new(Sending::begin(self, Take::Due))
    }

    fn close(self: Arc<Self>, wakers: &mut Vec<Waker>) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        Box::new(Sending::begin(self, Take::Last)).settle(wakers);
    }
}

/// When a round may find something to send, if nobody queues anything before.
fn next_look(state: &State) -> Option<Instant> {
    let mut next = None;
    for queue in state.queues.values() {
        let Some(batch) = queue.batches.front() else { continue };
        let at = match queue.retry_at {
            Some(at) => Some(at),
            None if batch.closed => Some(Instant::now()),
            None => batch.due_at,
        };
        next = earliest(next, at);
    }
    next
}

/// Whether a round that takes all would find something.
fn has_some(state: &State) -> bool {
    let now = Instant::now();
    let waits = |queue: &Queue| queue.retry_at.is_some_and(|at| at > now);
    state.queues.values().any(|queue| !queue.batches.is_empty() && !waits(queue))
}

/// The earlier of two times, either of which may never come.
fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
