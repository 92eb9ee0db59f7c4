//! [`Delivery`]: what became of a queued record, to be waited for by a thread or a task.
//!
//! Not here: sending (`pipeline`).
//!
//! The records of a batch share one answer, which is given once. Waiting and answering meet under
//! the answer's lock: who registers looks first, who answers takes everyone registered, so no
//! wake-up is lost. Wakers are cloned, woken and dropped without the lock: what they do is not
//! ours.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::client::pipeline::Pipeline;
use crate::client::producer::Ack;
use crate::error::{Error, Result};
use crate::fs::ForkMark;
use crate::id::PartitionId;
use crate::log::Appended;

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Answer {
    fork: Arc<ForkMark>,
    /// Where it is queued until it is answered.
    pipeline: Weak<Pipeline>,
    /// Set after the result, with Release; who sees it (Acquire) finds the result.
    settled: AtomicBool,
    /// Lock rank: leaf.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<Appended>>,
    /// One place for each delivery that was polled.
    wakers: Vec<Option<Waker>>,
}

impl Answer {
    pub(crate) fn new(pipeline: Weak<Pipeline>, fork: Arc<ForkMark>) -> Self {
        Self {
            fork,
            pipeline,
            settled: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Gives the answer. The tasks that wait are added to `wakers`, to be woken later.
    pub(crate) fn settle(&self, result: Result<Appended>, wakers: &mut Vec<Waker>) {
        let mut state = self.state.lock();
        debug_assert!(state.result.is_none(), "a batch is answered once");
        state.result = Some(result);
        self.settled.store(true, Ordering::Release);
        wakers.extend(state.wakers.drain(..).flatten());
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the answer; false at the deadline. Where nobody else would send, this does: with
    /// `Background::Inline`, and in a waker on the thread that sends.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        // Without its producer everything was flushed.
        if let Some(pipeline) = self.pipeline.upgrade()
            && pipeline.sends_here()
        {
            return pipeline.drive(self, deadline);
        }
        let mut state = self.state.lock();
        while state.result.is_none() {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(at) => {
                    if self.changed.wait_until(&mut state, at).timed_out() {
                        return state.result.is_some();
                    }
                }
            }
        }
        true
    }

    fn result(&self) -> Option<Result<Appended>> {
        if self.is_settled() { self.state.lock().result.clone() } else { None }
    }

    /// Keeps `waker` at `place` until the answer is given. False if it was already.
    fn register(&self, place: &mut Option<usize>, waker: Waker) -> bool {
        let mut state = self.state.lock();
        if state.result.is_some() {
            drop(state);
            drop(waker);
            return false;
        }
        let before = if let Some(at) = *place {
            state.wakers.get_mut(at).and_then(|kept| kept.replace(waker))
        } else {
            *place = Some(state.wakers.len());
            state.wakers.push(Some(waker));
            None
        };
        drop(state);
        drop(before);
        true
    }

    /// Forgets the waker at `place`.
    fn deregister(&self, place: usize) {
        let waker = self.state.lock().wakers.get_mut(place).and_then(Option::take);
        drop(waker);
    }
}

/// What becomes of a record that was given to [`Producer::enqueue`](crate::Producer::enqueue).
///
/// Wait for it with [`wait`](Self::wait) or [`wait_timeout`](Self::wait_timeout), or `.await` it:
/// it is a future that needs no particular runtime. The record is sent whether or not anybody
/// waits, and dropping the delivery changes nothing.
///
/// With [`Background::Inline`](crate::Background::Inline) nobody else sends: waiting and polling
/// send the batch, and block until it is acknowledged or has failed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use plimsoll::{Broker, Record, TopicConfig};
/// # let dir = tempfile::tempdir()?;
/// # let broker = Broker::open(dir.path())?;
/// # let topic = broker.create_topic("orders", TopicConfig::new())?;
/// let producer = broker.producer().build()?;
/// let deliveries = ["packed", "sent", "paid"].map(|value| {
///     producer.enqueue(&topic, Record::new(value))
/// });
/// for (offset, delivery) in (0..).zip(deliveries) {
///     assert_eq!(delivery?.wait()?.offset.get(), offset);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Delivery {
    answer: Arc<Answer>,
    partition: PartitionId,
    /// Which record of the batch it is.
    index: u64,
    /// Where the answer keeps the waker.
    waker: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(answer: Arc<Answer>, partition: PartitionId, index: u64) -> Self {
        Self { answer, partition, index, waker: None }
    }

    /// Waits until the record is acknowledged, or has failed. May be called again.
    ///
    /// # Errors
    /// What the record failed with, with its true [`outcome`](Error::outcome): an error that is
    /// retriable after `delivery_timeout`, any other at once. `Closed` or `UnknownTopic` if the
    /// broker was closed or the topic deleted before it was sent. `Forked` in a forked child, where
    /// what became of the record is not known.
    pub fn wait(&self) -> Result<Ack> {
        loop {
            if let Some(result) = self.result() {
                return result;
            }
            self.answer.wait(None);
        }
    }

    /// As [`wait`](Self::wait), for `timeout` at most: `None` if there is no answer by then. The
    /// record is sent all the same.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), inside the option.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Ack>> {
        if let Some(result) = self.result() {
            return Some(result);
        }
        // A timeout beyond what the clock can tell is none.
        self.answer.wait(Instant::now().checked_add(timeout));
        self.result()
    }

    fn result(&self) -> Option<Result<Ack>> {
        if self.answer.fork.is_forked() {
            return Some(Err(Error::Forked));
        }
        let ack = |appended: Appended| Ack::new(self.partition, &appended, self.index);
        self.answer.result().map(|result| result.map(ack))
    }
}

impl Future for Delivery {
    type Output = Result<Ack>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Ack>> {
        if let Some(result) = self.result() {
            return Poll::Ready(result);
        }
        let inline = self.answer.pipeline.upgrade().is_some_and(|pipeline| pipeline.is_inline());
        if inline {
            return Poll::Ready(self.wait());
        }
        let delivery = &mut *self;
        if delivery.answer.register(&mut delivery.waker, context.waker().clone()) {
            return Poll::Pending;
        }
        Poll::Ready(self.wait())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // A forked child takes no lock. An answer that was given has let go of the waker.
        if let Some(place) = self.waker
            && !self.answer.fork.is_forked()
            && !self.answer.is_settled()
        {
            self.answer.deregister(place);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("partition", &self.partition)
            .field("settled", &self.answer.is_settled())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{LeaderEpoch, Offset};

    fn answer() -> Answer {
        Answer::new(Weak::new(), Arc::new(ForkMark::new()))
    }

    fn appended() -> Appended {
        let (base, end) = (Offset::new(7), Offset::new(9));
        let epoch = LeaderEpoch::new(0);
        Appended { base, end, append_time: 5, epoch, cuts: 0, duplicates: None }
    }

    #[test]
    fn an_answer_between_the_look_and_the_registration_is_not_missed() {
        let answer = answer();
        let mut wakers = Vec::new();
        answer.settle(Ok(appended()), &mut wakers);
        let mut place = None;
        assert!(!answer.register(&mut place, Waker::noop().clone()), "it would never be woken");
        assert!(wakers.is_empty() && place.is_none());
    }

    #[test]
    fn everyone_registered_is_woken_once() {
        let answer = answer();
        let mut places = [None, None, None];
        for place in &mut places {
            assert!(answer.register(place, Waker::noop().clone()));
        }
        assert!(answer.register(&mut places[1], Waker::noop().clone()));
        assert_eq!(places, [Some(0), Some(1), Some(2)]);
        answer.deregister(0);
        let mut wakers = Vec::new();
        answer.settle(Ok(appended()), &mut wakers);
        assert_eq!(wakers.len(), 2);
        assert!(answer.wait(Some(Instant::now())) && answer.is_settled());
    }

    #[test]
    fn a_record_of_a_batch_has_its_own_offset() {
        let answer = Arc::new(answer());
        let delivery = Delivery::new(Arc::clone(&answer), PartitionId::new(3), 1);
        assert!(delivery.wait_timeout(Duration::ZERO).is_none());
        answer.settle(Ok(appended()), &mut Vec::new());
        let ack = delivery.wait().expect("it was appended");
        assert_eq!((ack.partition.get(), ack.offset.get(), ack.timestamp), (3, 8, 5));
    }
}
