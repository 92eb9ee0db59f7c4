//! Retention: what is too old, or too much, goes, a whole sealed segment at a time.
//!
//! Not here: how a segment goes (`trim`), who looks and when (`housekeep`, and the broker's
//! timer).
//!
//! A segment goes by age once its newest append time lies more than `retention` back, and by size
//! while the log without it still holds `retention_bytes`. So that the newest segment gets its
//! turn, it is rolled once its first append lies further back than `segment_age`, or than
//! `retention` if that is less; also in a log at rest.
//!
//! Invariants
//!   1. The log start never passes the high watermark, and the newest segment never goes.
//!   2. Ages are told by append times, which never fall in a log, against the broker's clock: a
//!      clock that is set back makes records live longer, and nothing else.
//! Threads   any; a look has the log's turn. What may change while the log is open are atomics of
//!           their own, relaxed: each is valid whatever the others are.
//! Failure   of removing a file: the log start has moved all the same, the removal is tried again.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{GROWTH_BYTES_MIN, REMOVE_AGAIN_AFTER, SEGMENT_AGE_DEFAULT};
use crate::error::Result;
use crate::id::Offset;
use crate::log::core::{Log, LogOptions, Mode};
use crate::log::segment::Segment;
use crate::log::writer::WriterState;
use crate::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Nothing of this kind is due, or limited.
const NEVER: i64 = i64::MAX;
const UNLIMITED: u64 = u64::MAX;

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) retention: Option<Duration>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) segment_age: Duration,
}

impl Keep {
    /// Everything.
    pub(crate) const ALL: Keep =
        Keep { retention: None, retention_bytes: None, segment_age: SEGMENT_AGE_DEFAULT };
}

/// What may change while a log is open.
#[derive(Debug)]
pub(crate) struct Limits {
    segment_bytes: AtomicU64,
    /// Milliseconds, or [`NEVER`].
    retention_ms: AtomicI64,
    /// Or [`UNLIMITED`].
    retention_bytes: AtomicU64,
    segment_age_ms: AtomicI64,
    /// When a look at the log's age is due, by the broker's clock; [`NEVER`] while nothing in it
    /// ages. Stored by whoever looked, read by the housekeeper; it orders nothing.
    due: AtomicI64,
}

impl Limits {
    /// A log that was just opened is looked at once.
    pub(crate) fn new(options: &LogOptions, is_empty: bool) -> Self {
        let limits = Self {
            segment_bytes: AtomicU64::new(0),
            retention_ms: AtomicI64::new(NEVER),
            retention_bytes: AtomicU64::new(UNLIMITED),
            segment_age_ms: AtomicI64::new(NEVER),
            due: AtomicI64::new(NEVER),
        };
        limits.set(options.segment_bytes, options.keep);
        if limits.any() && !is_empty {
            limits.due.store(i64::MIN, Ordering::Relaxed);
        }
        limits
    }

    fn set(&self, segment_bytes: u64, keep: Keep) {
        self.segment_bytes.store(segment_bytes, Ordering::Relaxed);
        self.retention_ms.store(keep.retention.map_or(NEVER, millis), Ordering::Relaxed);
        let bytes = keep.retention_bytes.unwrap_or(UNLIMITED);
        self.retention_bytes.store(bytes, Ordering::Relaxed);
        self.segment_age_ms.store(millis(keep.segment_age), Ordering::Relaxed);
    }

    fn retention_ms(&self) -> i64 {
        self.retention_ms.load(Ordering::Relaxed)
    }

    fn retention_bytes(&self) -> u64 {
        self.retention_bytes.load(Ordering::Relaxed)
    }

    /// Something of the log is to go at some time. Where nothing ever does, there is no use in
    /// rolling by age: small files would pile up.
    fn any(&self) -> bool {
        self.retention_ms() != NEVER || self.retention_bytes() != UNLIMITED
    }

    /// How old a segment's first append may become before it is rolled.
    fn roll_age_ms(&self) -> i64 {
        let age = self.segment_age_ms.load(Ordering::Relaxed).min(self.retention_ms());
        if self.any() { age } else { NEVER }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// When something that happened at `time` is more than `age` old.
fn older_at(time: i64, age: i64) -> i64 {
    if age == NEVER { NEVER } else { time.saturating_add(age).saturating_add(1) }
}

/// What a segment holds; its own pages are not what anyone wants to keep.
fn batch_bytes(segment: &Segment) -> u64 {
    segment.end_position().saturating_sub(segment.first_position)
}

impl Log {
    /// Size of the segments that are begun from now on.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.limits.segment_bytes.load(Ordering::Relaxed)
    }

    /// Takes over another configuration; what it lets go goes with the next look.
    pub(crate) fn set_limits(&self, segment_bytes: u64, keep: Keep) {
        self.limits.set(segment_bytes, keep);
        self.limits.due.store(i64::MIN, Ordering::Relaxed);
        self.urge();
    }

    /// When [`Log::retain_if_due`] has something to do, by the broker's clock; `None`: not before
    /// the log is appended to.
    pub(crate) fn retention_due(&self) -> Option<i64> {
        Some(self.limits.due.load(Ordering::Relaxed)).filter(|due| *due != NEVER)
    }

    /// Looks at the log if the time for that has come. Costs a load if not.
    pub(crate) fn retain_if_due(&self) -> Result<()> {
        match self.retention_due() {
            Some(due) if due <= self.clock.now_ms() => self.retain(),
            _ => Ok(()),
        }
    }

    /// After appends: the time for the next look, if nothing in the log aged before.
    pub(crate) fn plan_retention(&self) {
        if self.limits.any() && self.retention_due().is_none() {
            self.limits.due.store(self.next_due(), Ordering::Relaxed);
        }
    }

    /// Something is left to be done: the housekeeper is told, and comes back to it after a while.
    pub(crate) fn look_again(&self) {
        let again = self.clock.now_ms().saturating_add(millis(REMOVE_AGAIN_AFTER));
        self.limits.due.store(again, Ordering::Relaxed);
        self.urge();
    }

    /// Rolls what is old enough, and lets go of what is to go.
    pub(crate) fn retain(&self) -> Result<()> {
        if self.mode == Mode::ReadOnly || self.role.is_led() {
            return Ok(());
        }
        let _turn = self.turn.take();
        if let Err(error) = self.latch.check() {
            self.limits.due.store(NEVER, Ordering::Relaxed);
            return Err(error);
        }
        let now = self.clock.now_ms();
        // In any case not at once again: what fails is tried again after a while.
        let again = now.saturating_add(millis(REMOVE_AGAIN_AFTER));
        self.limits.due.store(again, Ordering::Relaxed);
        // Only what was rolled here: of a busy log there would always be another one.
        let rolled = self
            .roll_if_old(now)
            .and_then(|rolled| if rolled { self.seal_oldest().map(drop) } else { Ok(()) });
        // Also where nothing could be rolled or sealed: on a full disk this is what makes room.
        self.let_go(self.retained_from(now))?;
        rolled?;
        let due = self.next_due();
        // What was due and could not be done, as the age of a damaged segment is not known or the
        // log has to be cut first, is not due at once again.
        self.limits.due.store(if due <= now { again } else { due }, Ordering::Relaxed);
        Ok(())
    }

    /// The base of the first segment that stays, or the log start if that is higher.
    fn retained_from(&self, now: i64) -> Offset {
        let (retention, bytes_kept) = (self.limits.retention_ms(), self.limits.retention_bytes());
        let (start, list) = (self.start_offset(), self.segments());
        // The newest seal may be there although nothing of it can be read.
        let first = list.partition_point(|segment| segment.end() <= start);
        let live = list.get(first..).unwrap_or_default();
        let mut held: u64 = live.iter().map(|segment| batch_bytes(segment)).sum();
        let mut from = start;
        for (segment, next) in live.iter().zip(live.iter().skip(1)) {
            let Some(footer) = segment.footer() else { break };
            held = held.saturating_sub(batch_bytes(segment));
            // Of a segment without a readable batch the time is not known: it goes with the next.
            let unknown = footer.max_append_time == i64::MIN;
            let too_old = !unknown && older_at(footer.max_append_time, retention) <= now;
            let too_much = bytes_kept != UNLIMITED && held >= bytes_kept;
            if too_old || too_much {
                from = from.max(next.base);
            } else if !unknown {
                break;
            }
        }
        from.min(self.committed_end())
    }

    /// Begins a new segment if the newest one's first append is old enough, with none behind it
    /// that lacks a footer; true if it did. For who has the turn.
    fn roll_if_old(&self, now: i64) -> Result<bool> {
        let age = self.limits.roll_age_ms();
        loop {
            let Some(newest) = self.segments().last().cloned() else { return Ok(false) };
            let first = self.first_append_time(&newest);
            if first.is_none_or(|first| older_at(first, age) > now) {
                return Ok(false);
            }
            // At most two segments lack a footer.
            while self.seal_oldest()? {}
            let mut writer = self.writer.lock();
            if writer.state != WriterState::Open || writer.cut_first {
                return Ok(false);
            }
            self.latch.check()?;
            if self.segments().last().is_some_and(|last| !Arc::ptr_eq(last, &newest)) {
                continue;
            }
            if let Some(segment) = writer.resume.take() {
                // Its closing footer goes: it is sealed like any other.
                match self.resume(&segment) {
                    Ok(active) => writer.active = Some(active),
                    Err(error) => {
                        writer.resume = Some(segment);
                        return Err(error);
                    }
                }
            }
            if self.unsealed_behind(&writer) > 0 {
                continue;
            }
            // A log that rolls by age is not a busy one.
            writer.growth = GROWTH_BYTES_MIN;
            return self.roll(&mut writer, 0).map(|()| true);
        }
    }

    /// The append time of a segment's first batch; `None` without one.
    fn first_append_time(&self, segment: &Segment) -> Option<i64> {
        if segment.end() <= segment.base {
            return None;
        }
        if segment.footer().is_none() {
            return segment.index.read().times().first().map(|entry| entry.append_time);
        }
        let indexed = segment.sealed_first_append_time(self.disk.as_ref(), &self.place.identity);
        // A damaged index: the last one's time is known, and not too early.
        indexed.or_else(|| segment.footer().map(|footer| footer.max_append_time))
    }

    /// When something in the log will be old enough to go, or to be rolled so that it can.
    fn next_due(&self) -> i64 {
        if !self.doomed.lock().is_empty() {
            return self.clock.now_ms().saturating_add(millis(REMOVE_AGAIN_AFTER));
        }
        let (start, list) = (self.start_offset(), self.segments());
        let Some((newest, sealed)) = list.split_last() else { return NEVER };
        let mut oldest = sealed.iter().filter(|segment| segment.end() > start);
        let oldest = oldest.find_map(|segment| segment.footer());
        let goes = oldest
            .map_or(NEVER, |footer| older_at(footer.max_append_time, self.limits.retention_ms()));
        let first = self.first_append_time(newest);
        goes.min(first.map_or(NEVER, |first| older_at(first, self.limits.roll_age_ms())))
    }
}
