//! [`Partition`]: its replicas, which of them leads, and reads below the high watermark.
//!
//! Not here: appends and their acknowledgement (`appending`), copying (`following`), elections and
//! changes of the ISR (`leading`).
//!
//! A partition of one replica needs no `state`: what its log holds, as the durability demands, is
//! committed. Of several, the state's `progress` says what is, and that is told to the leader's
//! log, where everyone looks.
//!
//! Invariants
//!   1. The high watermark never moves back (I4): it is the largest committed end ever seen.
//!   2. An append is acknowledged only after what `Acks` and `Durability` ask for has happened.
//! Threads   any. `state` is held for moments, never across a sync, and above every log's locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::leading::{Standing, largest_stamp};
use super::progress::{Progress, Rules};
use super::replica::{Overseer, Replica};
use super::slots::Slots;
use super::waiters::Waiters;
use crate::config::Reads;
use crate::error::{Error, Result};
use crate::id::{Offset, PartitionId, VolumeId};
use crate::log::{Chunk, Log, ReadCursor, Watchers};

#[derive(Debug)]
pub(crate) struct Partition {
    /// The replica that was made with it. The others follow in `more`. What goes leaves its place:
    /// whoever reads may hold on to it.
    first: Replica,
    pub(super) more: Slots<Replica>,
    /// The one that leads, or did last: 0 is the first one. Stored with `state` locked.
    pub(super) leads: AtomicU32,
    /// There are others to be waited for. Stored with `state` locked.
    pub(super) several: AtomicBool,
    /// Of several, the ISR is not below `min_insync`. Stored with `state` locked; who sees an old
    /// value finds out when it waits.
    pub(super) enough: AtomicBool,
    /// Raised by whoever looks; never lowered, but by an election that lost something.
    pub(super) high_watermark: AtomicU64,
    /// Lock rank: above every log's.
    pub(super) state: Mutex<State>,
    /// Told when another one leads, and when none can; and, to those without a thread of anybody's,
    /// when the high watermark of several moves.
    pub(super) moved: Condvar,
    /// Told when the leader has synced, and with the other one when another one leads.
    pub(super) leader_synced: Condvar,
    /// Of consumers, where there are several replicas.
    pub(super) watchers: Arc<Watchers>,
    pub(super) overseer: Option<Arc<dyn Overseer>>,
    /// Somebody else may have it open: there are several replicas, and nothing is known but what
    /// their files say.
    is_beside: bool,
}

#[derive(Debug)]
pub(super) struct State {
    /// Of the replica that leads, among several.
    pub(super) progress: Option<Progress>,
    /// What the metadata said, beside who has the partition open.
    pub(super) seen: Option<Standing>,
    /// What was committed when the one that was alone got company, until the next term begins.
    pub(super) alone_until: Option<Offset>,
    /// Why nobody leads, nor will before something changes.
    pub(super) offline: Option<Error>,
    pub(super) rules: Rules,
    /// The high watermark that waiters and consumers were told of.
    pub(super) told: Offset,
    /// How many wait for either condition variable.
    pub(super) waiting: usize,
    /// Who waits for the high watermark.
    pub(super) waiters: Waiters,
}

impl Partition {
    /// Of one replica.
    pub(crate) fn alone(replica: Replica, rules: Rules) -> Self {
        let high_watermark = AtomicU64::new(replica.log.committed_end().get());
        Self {
            first: replica,
            more: Slots::new(Vec::new()),
            leads: AtomicU32::new(0),
            several: AtomicBool::new(false),
            enough: AtomicBool::new(true),
            high_watermark,
            state: Mutex::new(State {
                progress: None,
                seen: None,
                alone_until: None,
                offline: None,
                rules,
                told: Offset::ZERO,
                waiting: 0,
                waiters: Waiters::default(),
            }),
            moved: Condvar::new(),
            leader_synced: Condvar::new(),
            watchers: Arc::default(),
            overseer: None,
            is_beside: false,
        }
    }

    /// The same, which may be moved: then it has several for a while.
    pub(crate) fn with(self, overseer: Arc<dyn Overseer>) -> Self {
        Self { overseer: Some(overseer), ..self }
    }

    /// Of several, of which none leads yet.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn of_several(
        mut replicas: Vec<Replica>,
        rules: Rules,
        overseer: Arc<dyn Overseer>,
    ) -> Self {
        let more = replicas.split_off(1);
        let first = replicas.pop().expect("there is one");
        for replica in std::iter::once(&first).chain(&more) {
            replica.log.role.wait();
        }
        let partition = Self::alone(first, rules);
        partition.more.add(more);
        partition.several.store(true, Ordering::Release);
        partition.enough.store(false, Ordering::Relaxed);
        Self { overseer: Some(overseer), ..partition }
    }

    /// Of several, beside who has them open, as the metadata says: the leader first, if it is
    /// there. Nothing is appended.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn beside(mut replicas: Vec<Replica>, rules: Rules, seen: Standing) -> Self {
        let more = replicas.split_off(1);
        let partition = Self::alone(replicas.pop().expect("there is one"), rules);
        partition.more.add(more);
        partition.state.lock().seen = Some(seen);
        // What one of them holds by itself says nothing.
        let high_watermark = AtomicU64::new(0);
        Self { is_beside: true, high_watermark, ..partition }
    }

    /// What is known to be committed, beside who has it open: what every replica in sync holds.
    /// With one of them missing, what the leader once said of all.
    fn seen_end(&self) -> Offset {
        let seen = self.state.lock().seen.clone();
        let isr = seen.map(|seen| seen.isr).unwrap_or_default();
        let there: Vec<_> = isr.iter().filter_map(|volume| self.on(*volume)).collect();
        let held = there.iter().map(|replica| replica.log.committed_end()).min();
        if there.len() == isr.len() {
            return held.unwrap_or_default();
        }
        let said = largest_stamp(self.log()).unwrap_or_default();
        held.map_or(said, |held| held.min(said))
    }

    #[inline]
    pub(super) fn at(&self, number: u32) -> &Replica {
        match number.checked_sub(1).and_then(|number| self.more.get(number)) {
            Some(replica) => replica,
            None => &self.first,
        }
    }

    /// Every replica that there is.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Replica> {
        let all = std::iter::once(&self.first).chain(self.more.iter());
        all.filter(|replica| !replica.left.load(Ordering::Acquire))
    }

    /// The latest on this volume, with its place.
    pub(super) fn replica_on(&self, volume: VolumeId) -> Option<(u32, &Replica)> {
        let numbered = (0..=self.more.count()).rev().map(|number| (number, self.at(number)));
        let is_it =
            |replica: &Replica| replica.volume == volume && !replica.left.load(Ordering::Acquire);
        numbered.into_iter().find(|(_, replica)| is_it(replica))
    }

    pub(crate) fn on(&self, volume: VolumeId) -> Option<&Replica> {
        self.replica_on(volume).map(|(_, replica)| replica)
    }

    /// The one that leads, or did last.
    #[inline]
    pub(crate) fn leader(&self) -> &Replica {
        match self.leads.load(Ordering::Acquire) {
            0 => &self.first,
            number => self.at(number),
        }
    }

    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        !self.several.load(Ordering::Acquire)
    }

    /// The leader's log.
    #[inline]
    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.leader().log
    }

    /// The leader's log, of which something is known.
    ///
    /// # Errors
    /// Why it could not be opened, if it could not; why nobody leads.
    pub(crate) fn known(&self) -> Result<&Arc<Log>> {
        if self.log().latch.is_refused() {
            self.log().check_latch()?;
        }
        Ok(self.log())
    }

    /// Whether more may be read of it some time.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self) -> Result<()> {
        match self.log().check_latch() {
            // Another one is to lead.
            Err(Error::Halted { .. }) if !self.is_alone() => {
                self.state.lock().offline.clone().map_or(Ok(()), Err)
            }
            checked => checked,
        }
    }

    /// The volume that its leader is on.
    pub(crate) fn volume(&self) -> VolumeId {
        self.leader().volume
    }

    /// Every log that there is of it.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &Arc<Log>> {
        self.replicas().map(|replica| &replica.log)
    }

    /// Who wants to know when there is more to be read.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        if self.is_alone() { &self.log().watchers } else { &self.watchers }
    }

    /// Everything below it is committed; consumers read only below it.
    pub(crate) fn high_watermark(&self) -> Offset {
        if self.is_alone() || self.is_beside {
            return self.own_high_watermark();
        }
        // Of several it moves with the state locked alone. 1. A reader looks up what a leader says
        // is committed; 2. another one is elected uncleanly, and has less; 3. the reader would
        // raise it again.
        Offset::checked(self.high_watermark.load(Ordering::Acquire)).unwrap_or(Offset::MAX)
    }

    /// The same by what the log says.
    pub(super) fn own_high_watermark(&self) -> Offset {
        let now = if self.is_beside { self.seen_end() } else { self.log().committed_end() };
        let before = self.high_watermark.fetch_max(now.get(), Ordering::AcqRel);
        Offset::checked(before).map_or(now, |before| before.max(now))
    }

    /// True while the volume's reserve has to be filled before an append.
    pub(crate) fn waits_for_reserve(&self) -> bool {
        self.leader().reserve_spent.load(Ordering::Relaxed)
    }

    /// The next committed batches from the cursor on, to be handed out; `None` if there are none
    /// yet.
    pub(crate) fn fetch(
        self: &Arc<Self>,
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
        self: &Arc<Self>,
        cursor: &mut ReadCursor,
        bytes_max: usize,
        reads: Reads,
    ) -> Result<Option<Chunk>> {
        let upto = self.high_watermark();
        let leader = self.leader();
        match leader.log.read(cursor, upto, bytes_max, reads) {
            Err(error @ (Error::Io(_) | Error::Corrupt(_) | Error::Halted { .. }))
                if !self.is_alone() =>
            {
                self.read_elsewhere((leader, error), (cursor, upto), bytes_max, reads)
            }
            Err(Error::Io(failure)) if failure.source.kind() == std::io::ErrorKind::NotFound => {
                // Beside a live broker a file may have been deleted: list again.
                leader.log.refresh()?;
                leader.log.read(cursor, upto, bytes_max, reads)
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

    /// Waits until everything below `offset` is on the medium.
    pub(crate) fn wait_durable(&self, offset: Offset) -> Result<()> {
        let end = self.log().end_offset();
        if offset > end {
            return Err(Error::out_of_range(offset, self.log().start_offset(), end));
        }
        self.log().sync_to(offset)
    }

    pub(super) fn now(&self) -> Duration {
        self.first.log.clock.elapsed()
    }

    pub(super) fn number(&self) -> PartitionId {
        self.first.log.place.partition()
    }
}
