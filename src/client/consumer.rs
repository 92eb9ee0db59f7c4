//! [`Consumer`]: polls the partitions it was assigned.
//!
//! Not here: groups, which this version does not have yet.
//!
//! Threads   one at a time: the calls that move it take `&mut self`. Its handle may be used from
//!           any other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::broker::{Broker, Inner};
use crate::client::fetcher::{Assigned, Fetcher, Lag};
use crate::client::records::Records;
use crate::client::start::{Positions, Reset, Start, TopicPartition};
use crate::config::Reads;
use crate::error::{Corruption, Error, Result};
use crate::fs::ForkMark;
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
        self.broker.check_fork()?;
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
        Ok(Consumer { fetcher, told: Arc::default() })
    }
}

/// Reads the partitions it was assigned, in offset order within each.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use plimsoll::{Broker, Record, TopicConfig};
/// # use std::time::Duration;
/// # let dir = tempfile::tempdir()?;
/// # let broker = Broker::open(dir.path())?;
/// # broker.create_topic("orders", TopicConfig::new().partitions(2))?;
/// # let producer = broker.producer().build()?;
/// # producer.send("orders", Record::new("paid").partition(0))?;
/// # producer.send("orders", Record::new("sent").partition(1))?;
/// let mut consumer = broker.consumer().assign([("orders", 0), ("orders", 1)]).build()?;
/// consumer.pause([("orders", 1)])?;
/// assert_eq!(consumer.poll(Duration::ZERO)?.count(), 1);
/// assert_eq!(consumer.lag()?[&("orders", 1).into()].records, 1);
/// consumer.resume([("orders", 1)])?;
/// assert_eq!(consumer.poll(Duration::ZERO)?.count(), 1);
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    fetcher: Fetcher,
    told: Arc<Told>,
}

/// What handles have told a consumer. Each flag is set by a handle with Release, before it raises
/// the event, and looked at by the poll after it drew its ticket.
#[derive(Debug, Default)]
struct Told {
    /// Taken by the next poll.
    wakeup: AtomicBool,
    /// Never cleared.
    stop: AtomicBool,
}

impl Consumer {
    /// The next records, waiting up to `timeout` for some. None at the timeout, after
    /// [`ConsumerHandle::wakeup`], and from [`ConsumerHandle::stop`] on. With `Duration::ZERO` it
    /// does not wait.
    ///
    /// # Errors
    /// `Corrupt` where the next offset of a partition cannot be read and no other has records:
    /// the position stays, [`Consumer::skip`] passes it. `OffsetOutOfRange` with `Reset::Error`.
    /// `UnknownTopic` once the topic was deleted, `Closed` once the broker was. `Forked` in a
    /// forked child.
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        self.fetcher.check_fork()?;
        let mut deadline = None;
        loop {
            // Drawn before the look: whatever is published or told after it ends the sleep.
            let ticket = self.fetcher.event.ticket();
            if self.told.wakeup.swap(false, Ordering::AcqRel) || self.is_stopped() {
                return Ok(Records::default());
            }
            let records = self.fetcher.fetch()?;
            if timeout.is_zero() || !records.is_empty() {
                return Ok(records);
            }
            // A timeout beyond what the clock can tell is none.
            let at = *deadline.get_or_insert_with(|| Instant::now().checked_add(timeout));
            if !self.fetcher.sleep(ticket, at)? {
                return Ok(Records::default());
            }
        }
    }

    /// Reads no more of these partitions, and does not wait for them, until they are resumed. Their
    /// positions stay, and can be moved. Pausing one twice changes nothing. That its topic was
    /// deleted is told of a paused one too.
    ///
    /// # Errors
    /// `UnknownPartition` if one was not assigned; then none was paused.
    pub fn pause<T: Into<TopicPartition>>(
        &mut self,
        partitions: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let places: Vec<_> = partitions.into_iter().map(Into::into).collect();
        self.change(&places, |assigned| assigned.paused = true)
    }

    /// Reads these partitions again, from where they are.
    ///
    /// # Errors
    /// `UnknownPartition` if one was not assigned; then none was resumed.
    pub fn resume<T: Into<TopicPartition>>(
        &mut self,
        partitions: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let places: Vec<_> = partitions.into_iter().map(Into::into).collect();
        self.change(&places, |assigned| assigned.paused = false)
    }

    /// Changes these partitions, or none if one was not assigned.
    fn change(&mut self, places: &[TopicPartition], change: impl Fn(&mut Assigned)) -> Result<()> {
        self.must_be_assigned(places)?;
        for place in places {
            if let Some(assigned) = self.fetcher.find(place) {
                change(assigned);
            }
        }
        Ok(())
    }

    fn must_be_assigned<'p>(
        &mut self,
        places: impl IntoIterator<Item = &'p TopicPartition>,
    ) -> Result<()> {
        self.fetcher.check_fork()?;
        for place in places {
            if self.fetcher.find(place).is_none() {
                return Err(Error::UnknownPartition {
                    topic: Arc::clone(&place.topic),
                    partition: place.partition,
                });
            }
        }
        Ok(())
    }

    /// How far behind the high watermark each partition's position is, paused ones included: in
    /// records, and in how long the next record to be read has been in the log, by the broker's
    /// clock. Offsets below the log start do not count, those of unreadable records do.
    ///
    /// # Errors
    /// `UnknownTopic` once a topic was deleted, `Closed` once the broker was, `Io`, `Forked`.
    pub fn lag(&self) -> Result<BTreeMap<TopicPartition, Lag>> {
        if !self.fetcher.broker().fork_mark().is_forked() && self.fetcher.broker().is_closed() {
            return Err(Error::Closed);
        }
        self.fetcher.lag()
    }

    /// True once a handle has stopped this consumer.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.told.stop.load(Ordering::Acquire)
    }

    /// Goes on at `offset` in one partition.
    ///
    /// # Errors
    /// `UnknownPartition` if it was not assigned.
    pub fn seek(&mut self, place: impl Into<TopicPartition>, offset: Offset) -> Result<()> {
        let place = place.into();
        self.must_be_assigned([&place])?;
        if let Some(assigned) = self.fetcher.find(&place) {
            assigned.seek(offset);
        }
        Ok(())
    }

    /// Goes on at these positions.
    ///
    /// # Errors
    /// `UnknownPartition` if one was not assigned; then nothing was moved.
    pub fn seek_all(&mut self, positions: &Positions) -> Result<()> {
        self.must_be_assigned(positions.keys())?;
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
        ConsumerHandle {
            told: Arc::clone(&self.told),
            event: Arc::clone(&self.fetcher.event),
            fork: Arc::clone(self.fetcher.broker().fork_mark()),
        }
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
    told: Arc<Told>,
    event: Arc<Event>,
    fork: Arc<ForkMark>,
}

impl ConsumerHandle {
    /// Ends the poll that is waiting, or else the next one, without records. What it would have
    /// returned comes with the poll after it.
    pub fn wakeup(&self) {
        self.told.wakeup.store(true, Ordering::Release);
        self.notify();
    }

    /// Ends the poll that is waiting, and has every later one return at once, without records. The
    /// positions stay. For good: a stopped consumer is not started again.
    pub fn stop(&self) {
        self.told.stop.store(true, Ordering::Release);
        self.notify();
    }

    fn notify(&self) {
        // In a forked child nobody waits, and the lock may be held for ever.
        if !self.fork.is_forked() {
            self.event.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;
    use crate::config::TopicConfig;
    use crate::format::Record;
    use crate::fs::sim::{Call, Fault, FaultKind, HowLong, SimDisk};

    /// Nobody waits as long where nothing is wrong.
    const LONG: Duration = Duration::from_secs(10);

    fn open(disk: &SimDisk) -> Broker {
        Broker::builder().volumes(["/v"]).disk(disk).seed(7).open().expect("the store opens")
    }

    /// A consumer with everything paused, in a poll that waits for ever; and what that returns.
    fn asleep(broker: &Broker) -> Receiver<Result<()>> {
        broker.ensure_topic("t", TopicConfig::new().partitions(2)).expect("it is made");
        let all = [("t", 0), ("t", 1)];
        let mut consumer = broker.consumer().assign(all).build().expect("it is made");
        consumer.pause(all).expect("they are assigned");
        let event = Arc::clone(&consumer.fetcher.event);
        let (done, told) = channel();
        thread::spawn(move || done.send(consumer.poll(Duration::MAX).map(drop)));
        // Who sleeps has registered its event with those who end the sleep.
        let until = Instant::now() + LONG;
        while Arc::strong_count(&event) < 3 && Instant::now() < until {
            thread::yield_now();
        }
        told
    }

    #[test]
    fn with_everything_paused_a_close_ends_a_poll() {
        let broker = open(&SimDisk::new());
        let told = asleep(&broker);
        broker.close().expect("nothing fails");
        let polled = told.recv_timeout(LONG).expect("it ends");
        assert!(matches!(polled, Err(Error::Closed)), "{polled:?}");
    }

    #[test]
    fn with_everything_paused_the_deletion_of_a_topic_ends_a_poll() {
        let broker = open(&SimDisk::new());
        let told = asleep(&broker);
        broker.admin().delete_topic("t").expect("nothing fails");
        let polled = told.recv_timeout(LONG).expect("it ends");
        assert!(matches!(polled, Err(Error::UnknownTopic { .. })), "{polled:?}");
    }

    /// A page that is mapped may be one that the disk does not give back later.
    #[test]
    fn who_asks_for_copies_maps_nothing() {
        let disk = SimDisk::new();
        let broker = open(&disk);
        broker.create_topic("t", TopicConfig::new()).expect("it is made");
        let producer = broker.producer().build().expect("it is made");
        for timestamp in 0..5 {
            producer.send("t", Record::new("r").timestamp(timestamp)).expect("it is sent");
        }
        broker.close().expect("nothing fails");

        let broker = open(&disk);
        let (call, what) = (Some(Call::Map), FaultKind::Eio);
        disk.arm(Fault { at: 1, call, what, how_long: HowLong::Forever });
        let consumer = broker.consumer().assign([("t", 0)]).reads(Reads::Copied);
        let built = consumer.clone().start(Start::Timestamp(2)).build();
        let mut consumer = built.expect("it is sought in a copy");
        assert_eq!(consumer.lag().expect("it is read from a copy")[&("t", 0).into()].records, 3);
        assert_eq!(consumer.poll(Duration::ZERO).expect("it is copied").count(), 3);
        let found = broker.admin().offset_at("t", 0, 2).expect("it is sought in a copy");
        assert_eq!(found, Some(Offset::new(2)));
        disk.disarm();
    }
}
