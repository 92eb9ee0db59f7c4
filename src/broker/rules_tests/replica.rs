//! A model of one replica: a log in memory with a durable prefix, and what lies in its slot.
//!
//! Not here: who follows whom (`world`).

use crate::format::EpochEntry;
use crate::id::{Incarnation, LeaderEpoch, Offset, VolumeId};
use crate::partition::{Alignment, Counts, Fetch, History, Holding, Position, divergence};

pub(super) fn offset(value: usize) -> Offset {
    Offset::new(value as u64)
}

pub(super) fn index(offset: Offset) -> usize {
    usize::try_from(offset.get()).expect("small")
}

/// One record, as a batch of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) epoch: LeaderEpoch,
    pub(super) value: u32,
    /// As the leader stamped it.
    pub(super) synced: usize,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Replica {
    pub(super) volume: VolumeId,
    pub(super) incarnation: Incarnation,
    pub(super) alive: bool,
    pub(super) stalled: bool,
    /// Wiped, and not in the ISR since.
    pub(super) blank: bool,
    /// Came back from what may have cost it something, and not in the ISR since.
    pub(super) unsure: bool,
    pub(super) catching_up: bool,
    pub(super) log: Vec<Entry>,
    pub(super) durable: usize,
    /// The durable offset in its slot.
    pub(super) slot: usize,
    /// The epoch that its log is aligned with.
    pub(super) following: LeaderEpoch,
    /// Where the sync that is running began.
    pub(super) syncing: Option<usize>,
    /// The table of epochs, kept for whoever asks.
    table: Vec<EpochEntry>,
}

impl Replica {
    pub(super) fn new(number: u32) -> Self {
        Self {
            volume: VolumeId::new(number),
            incarnation: Incarnation::new(1),
            alive: true,
            stalled: false,
            blank: false,
            unsure: false,
            catching_up: false,
            log: Vec::new(),
            durable: 0,
            slot: 0,
            following: LeaderEpoch::new(0),
            syncing: None,
            table: Vec::new(),
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.alive && !self.stalled
    }

    pub(super) fn position(&self) -> Position {
        Position { end: offset(self.log.len()), durable: offset(self.durable) }
    }

    pub(super) fn counted(&self, counts: Counts) -> usize {
        match counts {
            Counts::Durable => self.durable,
            Counts::End => self.log.len(),
        }
    }

    pub(super) fn history(&self) -> History<'_> {
        History { epochs: &self.table, start: Offset::ZERO, end: offset(self.log.len()) }
    }

    pub(super) fn last_epoch(&self) -> LeaderEpoch {
        self.log.last().map_or(LeaderEpoch::new(0), |entry| entry.epoch)
    }

    pub(super) fn largest_stamp(&self) -> usize {
        self.log.iter().map(|entry| entry.synced).max().unwrap_or(0)
    }

    /// While it catches up its batches say nothing of it.
    pub(super) fn evidence(&self) -> usize {
        if self.catching_up { self.slot } else { self.slot.max(self.largest_stamp()) }
    }

    pub(super) fn append(&mut self, entry: Entry) {
        if self.last_epoch() < entry.epoch {
            self.table.push(EpochEntry { epoch: entry.epoch, start: offset(self.log.len()) });
        }
        self.log.push(entry);
    }

    /// A cut is durable as such.
    pub(super) fn cut(&mut self, end: usize) {
        self.log.truncate(end);
        self.table.retain(|entry| entry.start < offset(end));
        self.durable = self.durable.min(end);
        self.slot = self.slot.min(end);
        self.syncing = None;
    }

    /// Up to where its log is as that of `leader`.
    pub(super) fn agrees_to(&self, leader: &Replica) -> usize {
        match divergence(leader.history(), self.history()) {
            Alignment::CutTo(end) => index(end),
            Alignment::StartOverAt(_) => 0,
        }
    }

    /// What a follower does first in every epoch.
    pub(super) fn align(&mut self, leader: &Replica, epoch: LeaderEpoch) {
        self.cut(self.agrees_to(leader));
        self.following = epoch;
    }

    pub(super) fn write_slot(&mut self) {
        self.slot = self.durable;
    }

    /// Starts a sync, or ends the one that runs.
    pub(super) fn sync(&mut self) {
        match self.syncing.take() {
            Some(end) => self.durable = self.durable.max(end),
            None => self.syncing = Some(self.log.len()),
        }
    }

    pub(super) fn report(&self) -> Fetch {
        Fetch {
            volume: self.volume,
            incarnation: self.incarnation,
            epoch: self.following,
            position: self.position(),
            holding: if self.catching_up { Holding::CatchingUp } else { Holding::Whole },
        }
    }

    /// Opened anew with what is left, of which an open makes everything durable.
    pub(super) fn reopen(&mut self, left: usize) {
        debug_assert!(left >= self.durable, "what is durable stays");
        self.cut(left);
        self.durable = left;
        self.incarnation = Incarnation::new(self.incarnation.get() + 1);
        self.following = LeaderEpoch::new(0);
        self.alive = true;
        self.stalled = false;
    }

    pub(super) fn wipe(&mut self) {
        self.cut(0);
        self.blank = true;
        self.catching_up = false;
    }
}
