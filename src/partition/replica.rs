//! [`Replica`]: a copy of a partition on one volume, and who looks after it.
//!
//! Not here: what a follower does (`following`), which replica leads (`leading`).

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use parking_lot::Mutex;

use super::follower::Source;
use super::mending::KnownDamage;
use super::replica_set::Partition;
use crate::error::Error;
use crate::id::{Incarnation, LeaderEpoch, VolumeId};
use crate::log::Log;

/// The threads of a volume, which do what its replicas have to do.
pub(crate) trait Crew: Debug + Send + Sync {
    /// [`Partition::follow`] is to be called soon for this volume.
    fn copy(&self, partition: &Arc<Partition>);

    /// [`Partition::sync`] is to be called soon for this volume.
    fn sync(&self, partition: &Arc<Partition>);
}

/// Who decides what a partition cannot by itself. Called without a lock of the partition.
pub(crate) trait Overseer: Debug + Send + Sync {
    /// This volume did not do what it was asked to: it is to be put out.
    fn failed(&self, volume: VolumeId, incarnation: Incarnation, why: &Error);

    /// The ISR may be due for a change.
    fn look(&self, partition: &Arc<Partition>);

    /// The leader's disk is full: another one is to lead, if one has room.
    fn full(&self, partition: &Arc<Partition>);

    /// To be counted.
    fn notice(&self, notice: Notice);

    /// Does what is due, where no thread of the overseer's own does.
    fn work_off(&self);
}

/// What is worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Offsets of a replica were found that cannot be read.
    Damaged,
    /// They can again.
    Mended,
}

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) volume: VolumeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) log: Arc<Log>,
    /// Of the volume: its reserve is spent, and is filled again before anything is appended.
    pub(crate) reserve_spent: Arc<AtomicBool>,
    /// `None`: whoever appends does what is to be done.
    crew: Option<Arc<dyn Crew>>,
    /// It was told to copy, and has not begun to.
    copy_due: AtomicBool,
    /// It was told to sync, and somebody is at it or about to be.
    sync_due: AtomicBool,
    /// Lock rank: leaf.
    course: Mutex<Turn>,
    /// It says that it catches up: from before the log's flag is set until after it is cleared.
    /// Stored with the partition's state locked.
    pub(super) catching_up: AtomicBool,
    /// Its disk had no room when it was last written to. Relaxed: who sees an old value tries it.
    pub(super) is_full: AtomicBool,
    /// What cannot be read of it. Lock rank: leaf.
    pub(super) damage: Mutex<KnownDamage>,
    /// It is of the partition no more.
    pub(super) left: AtomicBool,
}

/// Whose turn it is to copy.
#[derive(Debug)]
struct Turn {
    /// `None` while somebody copies.
    course: Option<Course>,
    /// Somebody else was told to copy meanwhile.
    is_wanted: bool,
}

/// How far a follower is with a leader.
#[derive(Debug)]
pub(super) struct Course {
    /// That it is aligned with.
    pub(super) epoch: Option<LeaderEpoch>,
    pub(super) source: Source,
}

impl Replica {
    pub(crate) fn new(
        (volume, incarnation): (VolumeId, Incarnation),
        log: Arc<Log>,
        reserve_spent: Arc<AtomicBool>,
        crew: Option<Arc<dyn Crew>>,
    ) -> Self {
        let catching_up = AtomicBool::new(log.is_catching_up());
        let damage = KnownDamage::to_be_mended(&log.damage_at_open.lock());
        Self {
            volume,
            incarnation,
            log,
            reserve_spent,
            crew,
            copy_due: AtomicBool::new(false),
            sync_due: AtomicBool::new(false),
            course: Mutex::new(Turn {
                course: Some(Course { epoch: None, source: Source::new() }),
                is_wanted: false,
            }),
            catching_up,
            is_full: AtomicBool::new(false),
            damage: Mutex::new(damage),
            left: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// How many of its offsets are known to be unreadable.
    pub(crate) fn damaged_offsets(&self) -> u64 {
        self.damage.lock().count()
    }

    pub(super) fn has_crew(&self) -> bool {
        self.crew.is_some()
    }

    /// Has its threads copy, unless they are about to. A Dekker pair with [`Self::copies_now`]: the
    /// caller has stored what there is to copy.
    pub(super) fn tell_to_copy(&self, partition: &Arc<Partition>) {
        let Some(crew) = &self.crew else { return };
        fence(Ordering::SeqCst);
        if !self.copy_due.load(Ordering::Relaxed) && !self.copy_due.swap(true, Ordering::AcqRel) {
            crew.copy(partition);
        }
    }

    /// Has its threads sync, unless one of them does: who syncs looks again after it. A Dekker pair
    /// with [`Self::has_synced`].
    pub(super) fn tell_to_sync(&self, partition: &Arc<Partition>) {
        let Some(crew) = &self.crew else { return };
        fence(Ordering::SeqCst);
        if !self.sync_due.load(Ordering::Relaxed) && !self.sync_due.swap(true, Ordering::AcqRel) {
            crew.sync(partition);
        }
    }

    /// What is stored from here on is told anew.
    pub(super) fn copies_now(&self) {
        self.copy_due.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// What is stored from here on is told anew; the caller looks for what was stored before.
    pub(super) fn has_synced(&self) {
        self.sync_due.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The caller syncs once more; false if its threads were told meanwhile.
    pub(super) fn syncs_again(&self) -> bool {
        !self.sync_due.swap(true, Ordering::AcqRel)
    }

    /// The right to copy; `None` if somebody has it.
    pub(super) fn take_course(&self) -> Option<Course> {
        self.course.lock().course.take()
    }

    /// The same, for who was told to copy: who has it is told when it gives it back.
    pub(super) fn take_course_or_ask(&self) -> Option<Course> {
        let mut turn = self.course.lock();
        turn.is_wanted = turn.course.is_none();
        turn.course.take()
    }

    /// True if somebody was told to copy meanwhile, and left it to the caller.
    pub(super) fn give_course(&self, course: Course) -> bool {
        let mut turn = self.course.lock();
        turn.course = Some(course);
        std::mem::take(&mut turn.is_wanted)
    }
}
