//! Reading several partitions in turn, and sleeping until one of them moves.
//!
//! Not here: what a user calls (`consumer`, `reader`).
//!
//! Threads   single owner. [`Fetcher::event`] may be notified from anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::{Inner, TopicState};
use crate::client::records::Records;
use crate::client::start::{Reset, Start, TopicPartition};
use crate::config::{FETCH_BYTES, Reads};
use crate::error::{Error, Result};
use crate::id::Offset;
use crate::log::{Event, Mode, Presence, ReadCursor, Sleeper};
use crate::partition::Partition;

/// How often a read-only broker looks at the files for what a live one has written.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One partition being read.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) place: TopicPartition,
    topic: Arc<TopicState>,
    cursor: ReadCursor,
    /// Neither fetched nor waited for.
    pub(crate) paused: bool,
}

impl Assigned {
    pub(crate) fn position(&self) -> Offset {
        self.cursor.offset()
    }

    pub(crate) fn seek(&mut self, to: Offset) {
        self.cursor = ReadCursor::at(to);
    }

    pub(crate) fn partition(&self) -> Result<&Arc<Partition>> {
        self.topic.partition(self.place.partition)
    }

    /// How far behind the high watermark this is at `now`, in milliseconds since the Unix epoch.
    fn lag(&self, now: i64, reads: Reads) -> Result<Lag> {
        let partition = self.partition()?;
        let end = partition.high_watermark();
        let from = self.position().max(partition.log().start_offset());
        let records = from.distance_to(end);
        let mut cursor = ReadCursor::at(from);
        while cursor.offset() < end {
            // One byte: the batch that the record is in.
            match partition.read(&mut cursor, 1, reads) {
                Ok(Some(chunk)) => {
                    let since = chunk.records().next().map_or(now, |record| record.append_time);
                    let age = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
                    return Ok(Lag { records, time: Duration::from_millis(age) });
                }
                // The first record behind it that can be read tells.
                Err(Error::Corrupt(damage)) if damage.end > cursor.offset() => {
                    cursor = ReadCursor::at(damage.end);
                }
                // Or deleted meanwhile: from the new log start, the next time.
                Ok(None) | Err(Error::OffsetOutOfRange(_)) => break,
                Err(error) => return Err(explain(&self.topic, partition, error)),
            }
        }
        Ok(Lag { records, time: Duration::ZERO })
    }

    /// Nothing will ever be read of it again: its topic was deleted, or the broker is closed.
    fn is_gone(&self) -> bool {
        let gone = |p: &Arc<Partition>| matches!(p.log().check_latch(), Err(Error::Closed));
        self.partition().is_ok_and(gone)
    }

    /// Its topic was deleted.
    fn unknown(&self) -> Error {
        Error::UnknownTopic { name: Arc::clone(&self.topic.name) }
    }
}

/// How far a consumer is behind in a partition; see [`Consumer::lag`](crate::Consumer::lag).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Lag {
    /// How many offsets lie between the position and the high watermark.
    pub records: u64,
    /// For how long the next record to be read has been in the log; zero if there is none.
    pub time: Duration,
}

/// An error of a read to those who know of topics: the files of a deleted one are gone, and its log
/// is closed.
fn explain(topic: &TopicState, partition: &Partition, error: Error) -> Error {
    let gone = matches!(partition.log().check_latch(), Err(Error::Closed));
    match error {
        Error::Io(_) | Error::Closed if gone => {
            Error::UnknownTopic { name: Arc::clone(&topic.name) }
        }
        other => other,
    }
}

#[derive(Debug)]
pub(crate) struct Fetcher {
    broker: Arc<Inner>,
    pub(crate) assigned: Vec<Assigned>,
    /// Whose turn it is first.
    turn: usize,
    pub(crate) event: Arc<Event>,
    reads: Reads,
    reset: Reset,
    /// Records that a reset skipped.
    pub(crate) skipped: u64,
}

impl Fetcher {
    pub(crate) fn new(broker: Arc<Inner>, reads: Reads, reset: Reset) -> Self {
        Self {
            broker,
            assigned: Vec::new(),
            turn: 0,
            event: Arc::new(Event::default()),
            reads,
            reset,
            skipped: 0,
        }
    }

    /// Adds a partition.
    pub(crate) fn assign(
        &mut self,
        topic: &Arc<TopicState>,
        place: TopicPartition,
        start: Start,
    ) -> Result<()> {
        let partition = topic.partition(place.partition)?;
        let at = match start {
            Start::Committed => {
                reset_position(partition, self.reset, self.reads)?.unwrap_or_default()
            }
            Start::Earliest => partition.log().start_offset(),
            Start::Latest => partition.high_watermark(),
            Start::Offset(offset) => offset,
            Start::Timestamp(timestamp) => {
                let found = partition.offset_at(timestamp, self.reads)?;
                found.unwrap_or_else(|| partition.high_watermark())
            }
        };
        let at = match start {
            Start::Committed => at.max(partition.log().start_offset()),
            _ => at,
        };
        let cursor = ReadCursor::at(at);
        self.assigned.push(Assigned { place, topic: Arc::clone(topic), cursor, paused: false });
        Ok(())
    }

    pub(crate) fn find(&mut self, place: &TopicPartition) -> Option<&mut Assigned> {
        self.assigned.iter_mut().find(|assigned| assigned.place == *place)
    }

    /// Those that are not paused.
    fn active(&self) -> impl Iterator<Item = &Assigned> {
        self.assigned.iter().filter(|assigned| !assigned.paused)
    }

    /// Refuses in a forked child, before any lock is taken.
    pub(crate) fn check_fork(&self) -> Result<()> {
        self.broker.check_fork()
    }

    pub(crate) fn broker(&self) -> &Arc<Inner> {
        &self.broker
    }

    /// How far each partition's reader is behind.
    pub(crate) fn lag(&self) -> Result<BTreeMap<TopicPartition, Lag>> {
        self.check_fork()?;
        let now = self.broker.now_ms();
        let lag = |assigned: &Assigned| assigned.lag(now, self.reads);
        self.assigned.iter().map(|a| Ok((a.place.clone(), lag(a)?))).collect()
    }

    /// What can be read now, of every partition in turn, without waiting.
    ///
    /// # Errors
    /// What the first partition with nothing good before it has met; the others wait.
    pub(crate) fn fetch(&mut self) -> Result<Records> {
        self.check_fork()?;
        if self.broker.is_closed() {
            return Err(Error::Closed);
        }
        let mut records = Records::default();
        let mut failed = None;
        let count = self.assigned.len();
        let mut budget = FETCH_BYTES;
        for i in 0..count {
            let at = (self.turn + i) % count;
            let Some(assigned) = self.assigned.get_mut(at) else { break };
            if assigned.paused {
                if assigned.is_gone() {
                    failed.get_or_insert(closed_or(&self.broker, assigned.unknown()));
                }
                continue;
            }
            let fetched = fetch_one(assigned, budget, self.reads, self.reset, &mut self.skipped);
            match fetched.map_err(|error| closed_or(&self.broker, error)) {
                Ok(Some(chunk)) => {
                    budget = budget.saturating_sub(chunk.view.len());
                    records.push(assigned.place.clone(), chunk);
                }
                Ok(None) => {}
                // Files that are gone with their topic are no damage.
                Err(Error::Corrupt(_) | Error::Io(_))
                    if self.broker.mode() == Mode::ReadOnly
                        && self.broker.is_deleted(&assigned.topic) =>
                {
                    failed.get_or_insert(assigned.unknown());
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
            if budget == 0 {
                // The next fetch begins behind the one that filled this one.
                self.turn = (at + 1) % count;
                return Ok(records);
            }
        }
        match failed {
            // Good records first; the failing partition stays where it is and fails again.
            Some(error) if records.is_empty() => Err(error),
            _ => Ok(records),
        }
    }

    /// Sleeps until something can be read, the deadline passes, or the event is notified after
    /// `ticket` was drawn. False at the deadline.
    pub(crate) fn sleep(&self, ticket: u64, deadline: Option<Instant>) -> Result<bool> {
        if self.broker.mode() == Mode::ReadOnly {
            // Nobody tells us: look at the files now and then.
            let soon = Instant::now() + LOOK_AGAIN;
            let until = deadline.map_or(soon, |at| at.min(soon));
            let notified = self.event.wait(ticket, Some(until));
            for assigned in &self.assigned {
                let seen = assigned.partition()?.log().refresh();
                if !matches!(seen, Ok(Presence::Files)) && self.broker.is_deleted(&assigned.topic) {
                    return Err(assigned.unknown());
                }
                if !assigned.paused {
                    seen?;
                }
            }
            return Ok(notified || deadline.is_none_or(|at| Instant::now() < at));
        }
        let mut sleepers: Vec<Sleeper> = Vec::with_capacity(self.assigned.len());
        for assigned in self.active() {
            sleepers.push(assigned.partition()?.watchers().sleep(&self.event));
        }
        // Of paused ones only the end counts: what is appended to them wakes nobody.
        if self.assigned.iter().any(|assigned| assigned.paused) {
            sleepers.push(self.broker.endings.sleep(&self.event));
        }
        // The last look, after everyone who publishes can see the sleeper.
        for assigned in self.active() {
            let partition = assigned.partition()?;
            if partition.high_watermark() > assigned.position() || partition.check().is_err() {
                return Ok(true);
            }
        }
        let gone = |assigned: &Assigned| assigned.paused && assigned.is_gone();
        if self.broker.is_closed() || self.assigned.iter().any(gone) {
            return Ok(true);
        }
        Ok(self.event.wait(ticket, deadline))
    }
}

fn fetch_one(
    assigned: &mut Assigned,
    bytes_max: usize,
    reads: Reads,
    reset: Reset,
    skipped: &mut u64,
) -> Result<Option<crate::log::Chunk>> {
    let partition = assigned.topic.partition(assigned.place.partition)?;
    loop {
        match partition.fetch(&mut assigned.cursor, bytes_max, reads) {
            Ok(Some(chunk)) => return Ok(Some(chunk)),
            Ok(None) => {
                // Nothing more will come of a log that takes no appends.
                return match partition.check() {
                    Err(Error::Closed) => Err(assigned.unknown()),
                    Err(error) => Err(error),
                    Ok(()) => Ok(None),
                };
            }
            Err(Error::OffsetOutOfRange(range)) => {
                let Some(to) = reset_position(partition, reset, reads)? else {
                    return Err(Error::OffsetOutOfRange(range));
                };
                *skipped += assigned.cursor.offset().distance_to(to);
                assigned.cursor = ReadCursor::at(to);
                if to == range.asked {
                    return Ok(None);
                }
            }
            Err(error) => return Err(explain(&assigned.topic, partition, error)),
        }
    }
}

/// A topic's logs are closed when it is deleted, and when the broker is.
fn closed_or(broker: &Inner, error: Error) -> Error {
    match error {
        Error::UnknownTopic { .. } if broker.is_closed() => Error::Closed,
        error => error,
    }
}

/// Where a reset leads; `None` if it leads nowhere.
fn reset_position(partition: &Partition, reset: Reset, reads: Reads) -> Result<Option<Offset>> {
    Ok(match reset {
        Reset::Earliest => Some(partition.log().start_offset()),
        Reset::Latest => Some(partition.high_watermark()),
        Reset::Timestamp(timestamp) => {
            let found = partition.offset_at(timestamp, reads)?;
            Some(found.unwrap_or_else(|| partition.high_watermark()))
        }
        Reset::Error => None,
    })
}
