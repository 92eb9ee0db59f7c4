//! [`Consumer`]: polls the partitions it was assigned.
//!
//! Not here: groups, which this version does not have yet.
//!
//! Threads   one at a time: the calls that move it take `&mut self`. Its handle may be used from
//!           any other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::broker::{Broker, Inner};
use crate::client::fetcher::Fetcher;
use crate::client::records::Records;
use crate::client::start::{Positions, Reset, Start, TopicPartition};
use crate::config::Reads;
use crate::error::{Corruption, Error, Result};
use crate::id::Offset;
use crate::log::Event;

/// How a consumer is made; see `Broker::consumer`.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    broker: Arc<Inner>,
    assigned: Vec<TopicPartition>,
    start: Start,
    reset: Reset,
    reads: Reads,
    group: Option<String>,
}

impl Broker {
    /// Makes a consumer.
    #[must_use]
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder {
            broker: Arc::clone(self.inner()),
            assigned: Vec::new(),
            start: Start::default(),
            reset: Reset::default(),
            reads: Reads::default(),
            group: None,
        }
    }
}

impl ConsumerBuilder {
    /// The partitions to read: pairs of a topic's name and a partition's number.
    #[must_use]
    pub fn assign<T: Into<TopicPartition>>(
        mut self,
        partitions: impl IntoIterator<Item = T>,
    ) -> Self {
        self.assigned.extend(partitions.into_iter().map(Into::into));
        self
    }

    /// The group to be a member of. Not yet: `build` refuses.
    #[must_use]
    pub fn group(mut self, group: &str) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    /// Where to begin. Default: where the group left off, which without one is where
    /// [`reset`](Self::reset) says.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Where to go on when the position is not in the log. Default [`Reset::Earliest`].
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// How records are handed out. Default [`Reads::Mapped`].
    #[must_use]
    pub fn reads(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// Makes the consumer.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; `InvalidConfig` with nothing assigned, or something
    /// twice; `NotYet` with a group.
    pub fn build(self) -> Result<Consumer> {
        if self.group.is_some() {
            return Err(Error::NotYet { what: "consumer groups" });
        }
        if self.assigned.is_empty() {
            return Err(Error::invalid_config("assign", "at least one partition"));
        }
        let mut fetcher = Fetcher::new(Arc::clone(&self.broker), self.reads, self.reset);
        for place in self.assigned {
            if fetcher.find(&place).is_some() {
                return Err(Error::invalid_config("assign", "each partition once"));
            }
            let topic = self.broker.find_topic(&place.topic);
            let topic =
                topic.ok_or_else(|| Error::UnknownTopic { name: Arc::clone(&place.topic) })?;
            // The topic's own name, so that it is shared and not stored once more.
            let place = TopicPartition::new(Arc::clone(&topic.name), place.partition);
            fetcher.assign(&topic, place, self.start)?;
        }
        let wakeup = Arc::new(AtomicBool::new(false));
        Ok(Consumer { fetcher, wakeup })
    }
}

/// Reads the partitions it was assigned, in offset order within each.
pub struct Consumer {
    fetcher: Fetcher,
    /// Set by a handle's `wakeup`, taken by the next poll.
    wakeup: Arc<AtomicBool>,
}

impl Consumer {
    /// The next records, waiting up to `timeout` for some; none at the timeout, or after
    /// [`ConsumerHandle::wakeup`]. With `Duration::ZERO` it does not wait.
    ///
    /// # Errors
    /// `Corrupt` where the next offset of a partition cannot be read and no other has records:
    /// the position stays, [`Consumer::skip`] passes it. `OffsetOutOfRange` with `Reset::Error`.
    /// `UnknownTopic` once the topic was deleted, `Closed` once the broker was.
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        let mut deadline = None;
        loop {
            // Drawn before the look: whatever is published after it ends the sleep.
            let ticket = self.fetcher.event.ticket();
            let woken = self.wakeup.swap(false, Ordering::AcqRel);
            let records = self.fetcher.fetch()?;
            if woken || timeout.is_zero() || !records.is_empty() {
                return Ok(records);
            }
            // A timeout beyond what the clock can tell is none.
            let at = *deadline.get_or_insert_with(|| Instant::now().checked_add(timeout));
            if !self.fetcher.sleep(ticket, at)? {
                return Ok(Records::default());
            }
        }
    }

    /// Goes on at `offset` in one partition.
    ///
    /// # Errors
    /// `UnknownPartition` if it was not assigned.
    pub fn seek(&mut self, place: impl Into<TopicPartition>, offset: Offset) -> Result<()> {
        let place = place.into();
        let unknown = || Error::UnknownPartition {
            topic: Arc::clone(&place.topic),
            partition: place.partition,
        };
        self.fetcher.find(&place).ok_or_else(unknown)?.seek(offset);
        Ok(())
    }

    /// Goes on at these positions.
    ///
    /// # Errors
    /// `UnknownPartition` if one was not assigned; then nothing was moved.
    pub fn seek_all(&mut self, positions: &Positions) -> Result<()> {
        for place in positions.keys() {
            if self.fetcher.find(place).is_none() {
                return Err(Error::UnknownPartition {
                    topic: Arc::clone(&place.topic),
                    partition: place.partition,
                });
            }
        }
        for (place, offset) in positions {
            self.seek(place.clone(), *offset)?;
        }
        Ok(())
    }

    /// For each partition, the next offset to be read.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.fetcher.assigned.iter().map(|a| (a.place.clone(), a.position())).collect()
    }

    /// Passes a range that cannot be read. Nothing happens if the position is not within it.
    pub fn skip(&mut self, corruption: &Corruption) {
        let place = TopicPartition::new(Arc::clone(&corruption.topic), corruption.partition);
        if let Some(assigned) = self.fetcher.find(&place)
            && (corruption.first..corruption.end).contains(&assigned.position())
        {
            assigned.seek(corruption.end);
        }
    }

    /// How many records resets have skipped.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.fetcher.skipped
    }

    /// What other threads can use.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle { wakeup: Arc::clone(&self.wakeup), event: Arc::clone(&self.fetcher.event) }
    }

    /// Ends the consumer.
    ///
    /// # Errors
    /// None so far.
    pub fn close(self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("positions", &self.positions()).finish()
    }
}

/// Reaches a consumer from other threads.
#[derive(Clone, Debug)]
pub struct ConsumerHandle {
    wakeup: Arc<AtomicBool>,
    event: Arc<Event>,
}

impl ConsumerHandle {
    /// Ends the poll that is waiting, or else the next one, without records to wait for.
    pub fn wakeup(&self) {
        self.wakeup.store(true, Ordering::Release);
        self.event.notify();
    }
}
