//! [`Log`]: one replica's log, as the layers above see it.
//!
//! Not here: the steps themselves; each has its file. This one holds the state and says who may
//! touch which part of it.
//!
//! Invariants
//!   1. `log_start` ≤ `durable` ≤ `leo` (I4), each stored after the bytes it speaks of.
//!   2. The list of segments is sorted by base offset, and the newest is the only one appended to.
//! Threads   any. Appends hold `writer`; a sync is led by one thread at a time (`commit`); seal,
//!           cut, trim and close take `turn`; readers take `segments` for the time of a clone.
//! Failure   after a failed sync, or a write that could not be taken back, `latch` refuses
//!           everything but reads below the durable offset.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Clock, DedupWindow, Durability, Reads};
use crate::error::{Error, Result};
use crate::format::Identity;
use crate::fs::Disk;
use crate::id::{Incarnation, LeaderEpoch, Offset};
use crate::log::commit::Commit;
use crate::log::counters::Counters;
use crate::log::dedup;
use crate::log::event::Watchers;
use crate::log::handles::Handles;
use crate::log::housekeep::Watch;
use crate::log::latch::Latch;
use crate::log::pins::Removed;
use crate::log::place::Place;
use crate::log::producers::LiveProducers;
use crate::log::read_ahead::ReadAhead;
use crate::log::refresh::Glance;
use crate::log::retain::{Keep, Limits};
use crate::log::role::Role;
use crate::log::segment::Segment;
use crate::log::turn::Turn;
use crate::log::writer::Writer;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};

/// Whether a log may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By this broker alone: the volume's lock is held.
    ReadWrite,
    /// Never: another process may be writing to it.
    ReadOnly,
}

/// What a log needs to know of its topic and volume.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) durability: Durability,
    /// The file system reserves blocks ahead.
    pub(crate) allocates: bool,
    /// Mappings see `pwrite`, and the reverse.
    pub(crate) coherent: bool,
    /// How long dedup keys count. Fixed for a log: without a window no keys are entered.
    pub(crate) dedup: DedupWindow,
    /// Of the volume: what a clean mark written now names.
    pub(crate) incarnation: Incarnation,
    /// As of the open; [`Log::set_limits`] changes it, and the segments' size.
    pub(crate) keep: Keep,
}

impl LogOptions {
    /// The most that readers may ask for.
    pub(crate) fn reads(&self) -> Reads {
        if self.coherent { Reads::Mapped } else { Reads::Copied }
    }
}

/// Told that a log has work that should not wait for its next caller.
pub(crate) trait Housekeeper: Debug + Send + Sync {
    /// `Log::housekeep` is to be called soon, from a thread of the housekeeper's own.
    fn due(&self, log: &Identity);

    /// `Log::look_ahead` is to be called soon, from another thread of the housekeeper's own.
    fn ahead(&self, log: &Identity);

    /// `Log::read_ahead` is to be called soon, where nothing else is to be done.
    fn read_ahead(&self, log: &Identity);

    /// A sync begins, at this time of the clock; returns its number.
    fn sync_begins(&self, at: Duration) -> u64;

    /// It has ended.
    fn sync_ended(&self, number: u64);
}

#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the log start offset is called so")]
pub(crate) struct Log {
    pub(crate) place: Arc<Place>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) limits: Limits,
    pub(crate) mode: Mode,
    pub(crate) clock: Arc<dyn Clock>,
    /// `None`: callers do the housekeeping themselves, at once.
    pub(crate) housekeeper: Option<Arc<dyn Housekeeper>>,
    pub(crate) handles: Arc<Handles>,
    /// Whose rows may go.
    pub(crate) producers: Arc<LiveProducers>,
    /// True while the housekeeper knows of this log.
    pub(crate) queued: AtomicBool,
    /// True while it has been told to look at once, and has not begun to.
    pub(crate) urged: AtomicBool,
    /// True once an append has asked for a look ahead, where there is no housekeeper.
    pub(crate) ahead_due: AtomicBool,
    /// Of who looks ahead.
    pub(crate) ahead_turn: Turn,
    pub(crate) read_ahead: ReadAhead,
    /// Lock rank: 3.
    pub(crate) writer: Mutex<Writer>,
    /// Lock rank: 4.
    pub(crate) commit: Commit,
    /// Replaced whole, so that readers hold no lock while they look. Lock rank: 5.
    pub(crate) segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    /// Stored by the writer under its lock.
    pub(crate) leo: AtomicU64,
    /// Stored by whoever leads a sync.
    pub(crate) durable: AtomicU64,
    /// What is copied may claim more than is synced here: of the evidence of this log only slots
    /// count. As in the newest file's slots, or ahead of them. Stored with the turn taken.
    pub(crate) catching_up: AtomicBool,
    /// How often records were cut off: `Writer::cuts`, for whoever asks without its lock. Stored
    /// under it (Release), before anything is appended in their place.
    pub(crate) cut_count: AtomicUsize,
    /// Stored by `trim`, after it was synced.
    pub(crate) log_start: AtomicU64,
    pub(crate) dedup: dedup::Index,
    /// Where it ended when it was opened.
    pub(crate) end_at_open: Offset,
    /// What the open found that cannot be read, and so did not count, until it is mended. Lock
    /// rank: leaf.
    pub(crate) damage_at_open: Mutex<Vec<(Offset, Offset)>>,
    /// Among the replicas of its partition.
    pub(crate) role: Role,
    pub(crate) latch: Latch,
    pub(crate) turn: Turn,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) watch: Watch,
    /// Files below the log start that could not be removed yet. Lock rank: leaf.
    pub(crate) doomed: Mutex<Vec<PathBuf>>,
    /// The files carry a clean mark, or there are none. Stored with the turn taken or the writer
    /// locked; read at close, which has both.
    pub(crate) marked: AtomicBool,
    pub(crate) counters: Counters,
    /// Shared with the broker, which looks at it also when the topic is gone.
    pub(crate) removed: Arc<Removed>,
    /// Read-only, what the last look saw; held by whoever has the turn. Lock rank: leaf.
    pub(crate) seen: Mutex<Option<Glance>>,
}

impl Log {
    /// The next offset to be written.
    pub(crate) fn end_offset(&self) -> Offset {
        load(&self.leo)
    }

    /// Everything below it is on the medium.
    pub(crate) fn durable_offset(&self) -> Offset {
        load(&self.durable)
    }

    /// The first offset still kept.
    pub(crate) fn start_offset(&self) -> Offset {
        load(&self.log_start)
    }

    /// What consumers may read up to: the end as the topic's durability demands.
    pub(crate) fn committed_end(&self) -> Offset {
        if let Some(said) = self.role.committed() {
            return said;
        }
        let own = self.own_end();
        // It has got company meanwhile: what it holds by itself may be more than is committed.
        self.role.committed().unwrap_or(own)
    }

    fn own_end(&self) -> Offset {
        match self.options.durability {
            Durability::Fsync => self.durable_offset(),
            Durability::Interval(_) | Durability::Os if self.latch.is_halted() => {
                self.durable_offset()
            }
            Durability::Interval(_) | Durability::Os => self.end_offset(),
        }
    }

    /// The epoch that appends are stamped with from now on.
    pub(crate) fn lead(&self, epoch: LeaderEpoch) {
        let mut writer = self.writer.lock();
        debug_assert!(epoch >= writer.epochs.latest(), "I3: leader epochs never decrease");
        writer.epoch = epoch;
    }

    /// The newest epoch that a batch was written in, or the next one will be.
    pub(crate) fn epoch_now(&self) -> LeaderEpoch {
        let writer = self.writer.lock();
        writer.epoch.max(writer.epochs.latest())
    }

    /// The newest epoch that a batch was written in.
    pub(crate) fn latest_epoch(&self) -> LeaderEpoch {
        self.writer.lock().epochs.latest()
    }

    /// The newest epoch that a batch was written in; `None` while somebody writes, or hangs.
    pub(crate) fn latest_epoch_if_free(&self) -> Option<LeaderEpoch> {
        self.writer.try_lock().map(|writer| writer.epochs.latest())
    }

    /// The segments as they are now, oldest first.
    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.segments.read())
    }

    /// Changes the list of segments. Called with the writer locked, or the turn taken.
    pub(crate) fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut list = self.segments.write();
        let mut changed = list.as_ref().clone();
        change(&mut changed);
        debug_assert!(changed.is_sorted_by_key(|segment| segment.base));
        *list = Arc::new(changed);
    }

    /// Has the housekeeper look at this log; with none, the caller does what is due itself.
    #[inline]
    pub(crate) fn touch(&self) {
        if !self.queued.load(Ordering::Relaxed) {
            self.queue();
        }
    }

    #[cold]
    fn queue(&self) {
        if let Some(housekeeper) = &self.housekeeper
            && !self.queued.swap(true, Ordering::AcqRel)
        {
            housekeeper.due(&self.place.identity);
        }
    }

    /// Has the housekeeper look at this log now, also if it already meant to later.
    pub(crate) fn urge(&self) {
        if let Some(housekeeper) = &self.housekeeper
            && !self.urged.swap(true, Ordering::AcqRel)
        {
            self.queued.store(true, Ordering::Release);
            housekeeper.due(&self.place.identity);
        }
    }

    /// The folders whose entries lead to a segment: the partition's, the topic's, `topics`.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        self.place.dir.ancestors().take(3).map(PathBuf::from).collect()
    }

    /// True if the next open finds a clean mark, or no file.
    pub(crate) fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Acquire)
    }

    /// The cause, once the log takes no more appends.
    pub(crate) fn check_latch(&self) -> Result<()> {
        self.latch.check()
    }

    /// Refuses once the log was closed; not if it has halted.
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.check_latch() {
            Err(Error::Closed) => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    pub(crate) fn must_be_writable(&self) -> Result<()> {
        match self.mode {
            Mode::ReadWrite => self.latch.check(),
            Mode::ReadOnly => Err(Error::ReadOnly),
        }
    }
}

/// An offset that only ever was stored from one.
pub(crate) fn load(cell: &AtomicU64) -> Offset {
    Offset::checked(cell.load(Ordering::Acquire)).unwrap_or(Offset::MAX)
}
