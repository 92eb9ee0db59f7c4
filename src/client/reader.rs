//! [`Reader`]: one topic, from a place to the end, as an iterator.
//!
//! Not here: blocking polls of several topics (`consumer`).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::{Broker, Inner, TopicState};
use crate::client::fetcher::Fetcher;
use crate::client::records::{Records, SharedRecord};
use crate::client::start::{Reset, Start, TopicPartition};
use crate::client::topic_ref::TopicRef;
use crate::config::Reads;
use crate::error::{Error, Result};
use crate::id::PartitionId;

/// How a reader is made; see `Broker::reader`.
#[derive(Debug)]
pub struct ReaderBuilder {
    broker: Arc<Inner>,
    topic: Result<Arc<TopicState>>,
    partition: Option<PartitionId>,
    start: Start,
    reads: Reads,
    follow: bool,
}

impl Broker {
    /// Makes a reader of a topic.
    #[must_use]
    pub fn reader<'t>(&self, topic: impl Into<TopicRef<'t>>) -> ReaderBuilder {
        ReaderBuilder {
            broker: Arc::clone(self.inner()),
            topic: topic.into().find(self.inner()).map(|found| Arc::clone(&found)),
            partition: None,
            start: Start::Earliest,
            reads: Reads::default(),
            follow: false,
        }
    }
}

impl ReaderBuilder {
    /// This partition only. Default: all of them, in turn.
    #[must_use]
    pub fn partition(mut self, partition: impl Into<PartitionId>) -> Self {
        self.partition = Some(partition.into());
        self
    }

    /// Where to begin. Default [`Start::Earliest`].
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// How records are handed out. Default [`Reads::Mapped`].
    #[must_use]
    pub fn reads(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// Waits for more at the end instead of ending there.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Makes the reader.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`.
    pub fn build(self) -> Result<Reader> {
        self.broker.check_fork()?;
        let topic = self.topic?;
        let partitions = match self.partition {
            Some(partition) => vec![partition],
            None => (0..topic.partitions.count()).map(PartitionId::new).collect(),
        };
        let mut fetcher = Fetcher::new(self.broker, self.reads, Reset::Error);
        for partition in partitions {
            let place = TopicPartition::new(Arc::clone(&topic.name), partition);
            fetcher.assign(&topic, place, self.start)?;
        }
        Ok(Reader { fetcher, follow: self.follow, ready: VecDeque::new(), ended: false })
    }
}

/// Iterates over a topic's records to the log's end, or on with `follow()`.
///
/// A range that cannot be read is one `Err(Error::Corrupt)`; the next item is the next good record.
/// Any other error ends it.
pub struct Reader {
    fetcher: Fetcher,
    follow: bool,
    /// Fetched and not handed out yet.
    ready: VecDeque<SharedRecord>,
    ended: bool,
}

impl Reader {
    /// The next records as one set of views, waiting up to `timeout` for some.
    ///
    /// # Errors
    /// As [`Consumer::poll`](crate::Consumer::poll); after `Corrupt` the next call goes on behind
    /// the damage.
    pub fn read(&mut self, timeout: Duration) -> Result<Records> {
        self.fetcher.check_fork()?;
        // What the iterator fetched and has not handed out is fetched again. From the last one on,
        // so that each partition ends at its first.
        while let Some(record) = self.ready.pop_back() {
            let place = TopicPartition::new(record.topic(), record.partition());
            if let Some(assigned) = self.fetcher.find(&place) {
                assigned.seek(record.offset());
            }
        }
        let mut deadline = None;
        loop {
            let ticket = self.fetcher.event.ticket();
            let records = self.fetch()?;
            if timeout.is_zero() || !records.is_empty() {
                return Ok(records);
            }
            let at = *deadline.get_or_insert_with(|| Instant::now().checked_add(timeout));
            if !self.fetcher.sleep(ticket, at)? {
                return Ok(Records::default());
            }
        }
    }

    /// Fetches, and steps over damage once it was told.
    fn fetch(&mut self) -> Result<Records> {
        let fetched = self.fetcher.fetch();
        if let Err(Error::Corrupt(corruption)) = &fetched {
            let place = TopicPartition::new(Arc::clone(&corruption.topic), corruption.partition);
            if let Some(assigned) = self.fetcher.find(&place) {
                assigned.seek(corruption.end);
            }
        }
        fetched
    }
}

impl Iterator for Reader {
    type Item = Result<SharedRecord>;

    fn next(&mut self) -> Option<Result<SharedRecord>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            if self.ended {
                return None;
            }
            let timeout = if self.follow { Duration::MAX } else { Duration::ZERO };
            match self.read(timeout) {
                Ok(records) => {
                    self.ready.extend(records.iter().map(|record| record.to_shared()));
                    self.ended = records.is_empty() && !self.follow;
                }
                Err(error) => {
                    self.ended = !matches!(error, Error::Corrupt(_));
                    return Some(Err(error));
                }
            }
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("follow", &self.follow).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicConfig;
    use crate::format::Record;
    use crate::fs::sim::SimDisk;
    use crate::id::Offset;

    #[test]
    fn a_set_begins_where_the_iterator_left_off() {
        let disk = SimDisk::new();
        let broker = Broker::builder().volumes(["/v"]).disk(&disk).open().expect("it opens");
        let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).expect("it is made");
        let producer = broker.producer().build().expect("it is made");
        for partition in [0, 1] {
            let batch = ["a", "b", "c"].map(Record::new);
            producer.send_batch(&topic, partition, &batch).expect("it is sent");
        }
        let mut reader = broker.reader(&topic).build().expect("it is made");
        let mut seen = Vec::new();
        for _ in 0..2 {
            let record = reader.next().expect("there are more").expect("nothing is damaged");
            seen.push((record.partition(), record.offset()));
        }
        let rest = reader.read(Duration::ZERO).expect("nothing is damaged");
        seen.extend(rest.iter().map(|record| (record.partition(), record.offset())));
        seen.sort();
        let all = |partition| (0..3).map(move |o| (PartitionId::new(partition), Offset::new(o)));
        assert_eq!(seen, all(0).chain(all(1)).collect::<Vec<_>>());
        assert!(reader.next().is_none());
    }
}
