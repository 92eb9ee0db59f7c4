//! A round of a [`Pipeline`]: what is due is appended, then waited for, then answered.
//!
//! Not here: what is due, and who has the round (the pipeline).
//!
//! Failure   a round answers in its `Drop`. What panics is kept until it has ended.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Instant;

use super::{Batch, Pipeline, Place, State, Take, earliest, next_look};
use crate::broker::{Round, TopicState, wake_all};
use crate::config::{RETRY_BACKOFF, SPARE_BUFFER_BYTES_MAX, SPARE_BUFFERS_MAX};
use crate::error::{Error, Outcome, Result};
use crate::log::Appended;

/// A batch of a round.
pub(super) struct InFlight {
    pub(super) place: Place,
    pub(super) topic: Arc<TopicState>,
    pub(super) batch: Batch,
    pub(super) fate: Fate,
}

pub(super) enum Fate {
    Unsent,
    Appended(Appended),
    /// Nothing was written, or it could not be synced, and it may be tried again; or one before it
    /// of its partition is.
    Again,
    Done(Result<Appended>),
}

/// A round: see [`Round`].
pub(super) struct Sending {
    pipeline: Arc<Pipeline>,
    take: Take,
    /// By partition, and within each in order.
    batches: Vec<InFlight>,
    wakers: Vec<Waker>,
    ended: bool,
    /// Kept until the round has ended. Unwinding from where it was met would wake tasks while
    /// rounds of other outboxes are open on this thread, and one that closes the broker waits for
    /// those.
    panic: Option<Box<dyn Any + Send>>,
}

impl Sending {
    /// Appends the batches of a new round.
    pub(super) fn begin(pipeline: Arc<Pipeline>, take: Take) -> Self {
        let batches = pipeline.take_round(take);
        let wakers = Vec::new();
        let mut round = Self { pipeline, take, batches, wakers, ended: false, panic: None };
        round.guard(Self::append_all);
        round
    }

    /// Does a part of the round, unless one before it panicked.
    fn guard(&mut self, part: impl FnOnce(&mut Self)) {
        if self.panic.is_none() {
            self.panic = catch_unwind(AssertUnwindSafe(|| part(self))).err();
        }
    }

    fn append_all(&mut self) {
        let mut held_back: Option<Place> = None;
        for flight in &mut self.batches {
            if held_back == Some(flight.place) {
                flight.fate = Fate::Again;
                continue;
            }
            let appended = self.pipeline.append(flight);
            flight.fate = match self.pipeline.explain(&flight.topic, appended) {
                Ok(appended) => Fate::Appended(appended),
                Err(error) if self.take != Take::Last && may_retry(&flight.batch, &error) => {
                    held_back = Some(flight.place);
                    Fate::Again
                }
                Err(error) => Fate::Done(Err(error)),
            };
        }
    }

    fn acknowledge_all(&mut self) {
        let mut held_back: Option<Place> = None;
        for flight in &mut self.batches {
            if held_back == Some(flight.place) {
                // Whatever became of it: who waits for the newest batch of a partition finds the
                // older ones answered.
                match std::mem::replace(&mut flight.fate, Fate::Again) {
                    Fate::Appended(appended) => flight.batch.sent = Some(Ok(appended)),
                    Fate::Done(failed) => flight.batch.sent = Some(failed),
                    Fate::Unsent | Fate::Again => {}
                }
                continue;
            }
            let Fate::Appended(appended) = &flight.fate else { continue };
            let appended = appended.clone();
            let acknowledged = self.pipeline.acknowledge(flight, &appended);
            flight.fate = match self.pipeline.explain(&flight.topic, acknowledged) {
                Err(error) if self.take != Take::Last && may_retry(&flight.batch, &error) => {
                    held_back = Some(flight.place);
                    flight.batch.sent = Some(Ok(appended));
                    Fate::Again
                }
                acknowledged => Fate::Done(acknowledged.map(|()| appended)),
            };
        }
    }

    /// Answers, puts back what is to be tried again, and lets go of the round. In this order:
    /// failures are noted before they can be waited for, and who waits for the newest batch of a
    /// partition, or finds none, finds the older ones answered.
    fn end(&mut self) -> Option<Instant> {
        self.ended = true;
        let lost = || {
            let lost = std::io::Error::other("the thread that sent panicked");
            // What was appended may be found later.
            Error::Halted { first: Arc::new(Error::io("send to", "partition".as_ref(), lost)) }
        };
        for flight in &mut self.batches {
            if matches!(flight.fate, Fate::Unsent | Fate::Appended(_)) {
                flight.fate = Fate::Done(Err(lost()));
            }
        }
        let failures = self.batches.iter().filter_map(|flight| match &flight.fate {
            Fate::Done(Err(error)) => Some(error),
            _ => None,
        });
        if let Some(error) = failures.into_iter().next() {
            self.pipeline.state.lock().failed.get_or_insert_with(|| error.clone());
        }
        for flight in &mut self.batches {
            if let Fate::Done(result) = &flight.fate {
                flight.batch.answer.settle(result.clone(), &mut self.wakers);
            }
        }

        let mut state = self.pipeline.state.lock();
        for flight in &self.batches {
            if let Some(queue) = state.queues.get_mut(&flight.place) {
                queue.retry_at = None;
            }
        }
        let again = self.batches.iter().filter(|flight| matches!(flight.fate, Fate::Again)).count();
        self.pipeline.broker.producer_counts.tried_again(again as u64);
        let retry_at = Instant::now() + RETRY_BACKOFF;
        // From the last one on, so that those put back are in their order again.
        for InFlight { place, mut batch, fate, .. } in self.batches.drain(..).rev() {
            let State { queues, bytes, spare, .. } = &mut *state;
            let Some(queue) = queues.get_mut(&place) else { continue };
            queue.in_flight -= 1;
            if matches!(fate, Fate::Again) {
                queue.retry_at = earliest(Some(retry_at), batch.expires);
                // Part of it may be in the log: what is queued next comes behind it.
                batch.closed = true;
                queue.batches.push_front(batch);
                continue;
            }
            *bytes -= batch.bytes;
            let Batch { mut records, .. } = batch;
            let usual = self.pipeline.options.batch_bytes.saturating_mul(2);
            let kept = usual.min(SPARE_BUFFER_BYTES_MAX);
            if spare.len() < SPARE_BUFFERS_MAX && records.capacity() as u64 <= kept {
                records.clear();
                spare.push(records);
            }
            if queue.batches.is_empty() && queue.in_flight == 0 {
                queues.remove(&place);
            }
        }
        self.pipeline.busy.store(state.queues.len(), Ordering::Relaxed);
        state.sending = false;
        let next = next_look(&state);
        drop(state);
        self.pipeline.changed.notify_all();
        next
    }
}

impl Round for Sending {
    fn settle(mut self: Box<Self>, wakers: &mut Vec<Waker>) -> Option<Instant> {
        self.guard(Self::acknowledge_all);
        let next = self.end();
        wakers.append(&mut self.wakers);
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
        next
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
            wake_all(&mut self.wakers);
        }
    }
}

/// Whether a batch that failed goes back to its place.
fn may_retry(batch: &Batch, error: &Error) -> bool {
    let may_pass = match error {
        // It is in the log, and is looked for before it is appended again.
        // The same of what was cut off by an election, which is in no log.
        Error::NotSynced { .. } | Error::Truncated { .. } => true,
        _ => error.is_retriable() && error.outcome() == Outcome::NotWritten,
    };
    may_pass && batch.expires.is_none_or(|at| Instant::now() < at)
}
