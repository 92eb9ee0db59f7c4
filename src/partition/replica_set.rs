//! [`Partition`]: appends with their acknowledgement, and reads below the high watermark.
//!
//! Invariants
//!   1. The high watermark never moves back (I4): it is the largest committed end ever seen.
//!   2. An append is acknowledged only after what `Acks` and `Durability` ask for has happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{Acks, Compression, Durability, Reads};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::id::{Offset, VolumeId};
use crate::log::{Appended, Chunk, Log, Origin, ProducerIdentity, ReadCursor};

#[derive(Debug)]
pub(crate) struct Partition {
    /// The one that leads.
    leader: Replica,
    /// Raised by whoever looks; never lowered.
    high_watermark: AtomicU64,
}

/// A copy of a partition, on one volume.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) volume: VolumeId,
    pub(crate) log: Arc<Log>,
    /// Of the volume: its reserve is spent, and is filled again before anything is appended.
    pub(crate) reserve_spent: Arc<AtomicBool>,
}

impl Partition {
    pub(crate) fn new(leader: Replica) -> Self {
        let high_watermark = AtomicU64::new(leader.log.committed_end().get());
        Self { leader, high_watermark }
    }

    /// The leader's log.
    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.leader.log
    }

    /// The leader's log, of which something is known.
    ///
    /// # Errors
    /// Why it could not be opened, if it could not.
    pub(crate) fn known(&self) -> Result<&Arc<Log>> {
        if self.log().latch.is_refused() {
            self.log().check_latch()?;
        }
        Ok(self.log())
    }

    /// The volume that its leader is on.
    pub(crate) fn volume(&self) -> VolumeId {
        self.leader.volume
    }

    /// Every log that there is of it.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &Arc<Log>> {
        std::iter::once(&self.leader.log)
    }

    /// Everything below it is committed; consumers read only below it.
    pub(crate) fn high_watermark(&self) -> Offset {
        let now = self.log().committed_end();
        let before = self.high_watermark.fetch_max(now.get(), Ordering::AcqRel);
        Offset::checked(before).map_or(now, |before| before.max(now))
    }

    /// True while the volume's reserve has to be filled before an append.
    pub(crate) fn waits_for_reserve(&self) -> bool {
        self.leader.reserve_spent.load(Ordering::Relaxed)
    }

    /// Appends one batch and waits for its acknowledgement.
    #[inline]
    pub(crate) fn append(
        &self,
        producer: &ProducerIdentity,
        records: &[Record<'_>],
        compression: Compression,
        acks: Acks,
    ) -> Result<Appended> {
        let appended = self.begin(producer, records, compression)?;
        self.acknowledge(&appended, acks)?;
        Ok(appended)
    }

    /// Appends one batch. It is acknowledged by [`Self::acknowledge`], which is to follow: then
    /// several partitions can be appended to before the first sync is waited for.
    #[inline]
    pub(crate) fn begin(
        &self,
        producer: &ProducerIdentity,
        records: &[Record<'_>],
        compression: Compression,
    ) -> Result<Appended> {
        self.log().append_of(Origin::Producer(producer), records, compression)
    }

    /// Waits until what was appended, or was there before, is as durable as it is to be. An error
    /// never says that it was not written.
    pub(crate) fn acknowledge(&self, appended: &Appended, acks: Acks) -> Result<()> {
        let acknowledged = self.acknowledge_open(appended, acks).and_then(|()| {
            // Others may have been given its offsets since, and be as durable as it was to be.
            if self.log().holds(appended) {
                Ok(())
            } else {
                Err(Error::Truncated { at: appended.base })
            }
        });
        acknowledged.map_err(|error| match error {
            // 1. The record is in the file, and its sync is waited for; 2. a deletion of the topic
            // fails half-way, and closes the log; 3. the next open may find topic and record.
            Error::Closed => {
                let deleted = std::io::Error::other("the topic was deleted meanwhile");
                let first = Error::io("acknowledge records in", &self.log().place.dir, deleted);
                Error::Halted { first: Arc::new(first) }
            }
            other => other,
        })
    }

    fn acknowledge_open(&self, appended: &Appended, acks: Acks) -> Result<()> {
        match (self.log().options.durability, acks) {
            (Durability::Fsync, Acks::Leader | Acks::All) => {
                self.log().sync_appended(appended.awaited_end())?;
            }
            (Durability::Fsync, Acks::None) if self.log().housekeeper.is_none() => {
                // Nobody else would sync it.
                self.log().sync_appended(appended.awaited_end())?;
            }
            // Synced at once, by the volume's thread.
            (Durability::Fsync, Acks::None) => self.log().urge(),
            (Durability::Interval(_) | Durability::Os, _) => {
                self.log().watchers.moved();
                // Every acknowledgement looks at the latch once more after the write: the log may
                // have halted under it.
                // A close under it is none: it synced the record.
                if self.log().latch.is_halted() {
                    self.log().check_latch()?;
                }
            }
        }
        self.log().touch();
        if self.log().housekeeper.is_none() {
            self.housekeep_inline();
        }
        Ok(())
    }

    /// Without a thread of its own the broker does what is due after each append. The append
    /// is acknowledged already: an error here shows at the next one, or has halted the log.
    fn housekeep_inline(&self) {
        let now = u64::try_from(self.log().clock.now_ms()).unwrap_or(0);
        let _ = self.log().housekeep_all(Duration::from_millis(now));
        self.log().look_ahead_if_due();
    }

    /// The next committed batches from the cursor on, to be handed out; `None` if there are none
    /// yet.
    pub(crate) fn fetch(
        &self,
        cursor: &mut ReadCursor,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<Option<Chunk>> {
        let read = self.read(cursor, bytes_max, reads);
        if let Ok(Some(chunk)) = &read {
            self.log().counters.fetched(chunk.from, chunk.next, chunk.stored_bytes);
        }
        read
    }

    /// The same, to be looked at only: it is no fetch.
    pub(crate) fn read(
        &self,
        cursor: &mut ReadCursor,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<Option<Chunk>> {
        let upto = self.high_watermark();
        match self.log().read(cursor, upto, bytes_max, reads) {
            Err(Error::Io(failure)) if failure.source.kind() == std::io::ErrorKind::NotFound => {
                // Beside a live broker a file may have been deleted: list again.
                self.log().refresh()?;
                self.log().read(cursor, upto, bytes_max, reads)
            }
            other => other,
        }
    }

    /// The first committed offset with a timestamp of `timestamp` or later.
    pub(crate) fn offset_at(&self, timestamp: i64, reads: Reads) -> Result<Option<Offset>> {
        self.log().offset_at(timestamp, self.high_watermark(), reads)
    }

    /// Deletes the records below `before`, which is at most the high watermark.
    pub(crate) fn delete_records(&self, before: Offset) -> Result<()> {
        let committed = self.high_watermark();
        if before > committed {
            return Err(Error::out_of_range(before, self.log().start_offset(), committed));
        }
        self.log().trim_to(before)
    }

    /// Waits until everything below `offset` is as durable as the topic asks.
    pub(crate) fn settle(&self, offset: Offset) -> Result<()> {
        match self.log().options.durability {
            Durability::Fsync => self.log().sync_to(offset),
            Durability::Interval(_) | Durability::Os => Ok(()),
        }
    }

    /// Waits until everything below `offset` is on the medium.
    pub(crate) fn wait_durable(&self, offset: Offset) -> Result<()> {
        let end = self.log().end_offset();
        if offset > end {
            return Err(Error::out_of_range(offset, self.log().start_offset(), end));
        }
        self.log().sync_to(offset)
    }
}
