//! What replicas do about bytes that went bad: each has what the others lost.
//!
//! Not here: what is bad, and writing over it (`log::inspect`, `log::patch`); who reads what nobody
//! asks for (`broker::scrub`).
//!
//! | the damage | what is done |
//! | --- | --- |
//! | batches in a file | the same batches of another replica are written there again |
//! | a file is missing, or its end | they are written to another file in its place |
//! | on every replica | those offsets stay unreadable; a follower that has yet to copy them goes on behind them |
//!
//! Taken is only what is committed, from a replica that agrees with the leader of this epoch: they
//! hold the same batches below the high watermark (I5).
//!
//! Threads   the one of the volume that copies; without it, and where somebody asks for a scrub,
//!           the caller's. No lock is held while bytes are read, written or synced.

use std::sync::Arc;

use super::following::{Step, is_passing};
use super::progress::Progress;
use super::replica::{Notice, Replica};
use super::replica_set::Partition;
use crate::config::FETCH_BYTES;
use crate::error::{Error, Result};
use crate::id::{LeaderEpoch, Offset, VolumeId};
use crate::log::{Hole, HolePlace, Inspected, Log, Patched, ReadCursor, Through};

/// What is read at a time where something is known to be bad.
const LOOK_BYTES: usize = 1 << 20;

/// Offsets of a replica that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) first: Offset,
    pub(crate) end: Offset,
}

/// What a try to mend came to.
#[derive(Clone, Copy, Debug)]
struct After {
    left: Option<Bad>,
    /// It may come to more in a while.
    again: bool,
}

/// What became of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    Whole,
    InPart,
    Later,
}

impl Partition {
    /// These offsets cannot be read of this replica: its volume's thread is to mend them.
    pub(super) fn is_bad(self: &Arc<Self>, replica: &Replica, bad: Bad) {
        if self.is_alone() || self.state.lock().progress.is_none() {
            return;
        }
        if !replica.damage.lock().note(bad) {
            return;
        }
        self.notice(Notice::Damaged);
        if replica.has_crew() {
            return replica.tell_to_copy(self);
        }
        // Who is asked for what one lacks may be found to lack it too.
        self.mend(replica);
        for other in self.replicas().filter(|it| it.damage.lock().is_due()) {
            self.mend(other);
        }
    }

    /// The same, of one that was asked for what another one lacks.
    fn is_bad_too(self: &Arc<Self>, source: &Replica, bad: Bad) {
        if source.damage.lock().note_unless_known(bad) {
            self.notice(Notice::Damaged);
            source.tell_to_copy(self);
        }
    }

    /// Checks a piece of what a replica holds, from an offset on. What is bad is to be mended by
    /// its volume's thread.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn scrub(
        self: &Arc<Self>,
        replica: &Replica,
        (from, upto): (Offset, Offset),
        bytes_max: usize,
    ) -> Result<Inspected> {
        let looked = replica.log.inspect(from, upto, bytes_max, Through::Medium)?;
        for hole in &looked.holes {
            self.is_bad(replica, Bad { first: hole.first, end: hole.end });
        }
        Ok(looked)
    }

    /// Mends what is known to be bad in this replica.
    pub(super) fn mend(self: &Arc<Self>, replica: &Replica) -> Step {
        let due = replica.damage.lock().take();
        let mut step = Step::Done;
        for bad in due {
            match self.mend_one(replica, bad) {
                Ok(after) => {
                    replica.damage.lock().is_looked_at(bad, after);
                    if after.again {
                        step = Step::Later;
                    }
                }
                Err(error) => {
                    let again = is_passing(&error);
                    replica.damage.lock().is_looked_at(bad, After { left: Some(bad), again });
                    if again {
                        step = Step::Later;
                    } else if matches!(error, Error::Io(_) | Error::Halted { .. }) {
                        self.failed(replica, &error);
                    }
                }
            }
        }
        step
    }

    /// The same at once, for who asks for it. True if nothing of it is bad any more.
    ///
    /// # Errors
    /// Of the replica's log.
    pub(crate) fn mend_now(self: &Arc<Self>, replica: &Replica, bad: Bad) -> Result<bool> {
        let after = self.mend_one(replica, bad)?;
        replica.damage.lock().is_looked_at(bad, after);
        if after.again {
            replica.tell_to_copy(self);
        }
        Ok(after.left.is_none())
    }

    /// Whether what others have is to be written to this volume's replica.
    pub(crate) fn is_being_mended(&self, volume: VolumeId) -> bool {
        self.on(volume).is_some_and(|replica| replica.damage.lock().is_pending())
    }

    /// What is left of damage after a try to mend it.
    fn mend_one(self: &Arc<Self>, replica: &Replica, bad: Bad) -> Result<After> {
        let log = &replica.log;
        let Some(epoch) = self.state.lock().progress.as_ref().map(Progress::epoch) else {
            return Ok(After { left: Some(bad), again: false });
        };
        if !agrees(replica, epoch) {
            return Ok(After { left: Some(bad), again: true });
        }
        let upto = bad.end.min(self.high_watermark());
        let mut left: Option<Bad> = None;
        let mut leave = |first: Offset, end: Offset| {
            let from = left.map_or(first, |left| left.first);
            left = Some(Bad { first: from, end });
        };
        let mut at = bad.first.max(log.start_offset());
        while at < upto {
            let looked = log.inspect(at, upto, LOOK_BYTES, Through::Cache)?;
            for mut hole in looked.holes {
                let end = hole.end;
                if hole.end <= upto {
                    match self.fill(replica, epoch, &mut hole)? {
                        Filled::Whole => {
                            self.notice(Notice::Mended);
                            continue;
                        }
                        // Somebody else may have mended it meanwhile.
                        Filled::InPart
                            if log
                                .inspect(hole.first, end, LOOK_BYTES, Through::Cache)?
                                .holes
                                .is_empty() =>
                        {
                            continue;
                        }
                        Filled::InPart => {}
                        Filled::Later => return Ok(After { left: Some(bad), again: true }),
                    }
                }
                leave(hole.first, end);
            }
            if looked.next <= at {
                break;
            }
            at = looked.next;
        }
        if upto < bad.end && upto < log.end_offset() {
            leave(upto.max(bad.first), bad.end);
        }
        Ok(After { left, again: false })
    }

    /// Takes what is missing from any replica that has it.
    fn fill(
        self: &Arc<Self>,
        replica: &Replica,
        epoch: LeaderEpoch,
        hole: &mut Hole,
    ) -> Result<Filled> {
        for source in self.others(replica, epoch) {
            while hole.first < hole.end {
                let mut bad_too = None;
                let mut next = |at: Offset| {
                    let (mut cursor, reads) =
                        (ReadCursor::stored_at(at), source.log.options.reads());
                    match source.log.read(&mut cursor, hole.end, FETCH_BYTES, reads) {
                        Ok(chunk) => chunk,
                        Err(Error::Corrupt(it)) => {
                            bad_too = Some(Bad { first: it.first, end: it.end });
                            None
                        }
                        Err(_) => None,
                    }
                };
                let patched = match hole.place {
                    HolePlace::In(_) => match next(hole.first) {
                        Some(chunk) => replica.log.patch(hole, chunk.view.bytes())?,
                        None => Patched::DoNotFit,
                    },
                    HolePlace::Nowhere => {
                        let (at, end) = (hole.first, hole.end);
                        let filled = replica.log.fill_gap((at, end), &mut next)?;
                        hole.first = filled;
                        if filled > at { Patched::Written } else { Patched::DoNotFit }
                    }
                };
                if let Some(bad) = bad_too {
                    self.is_bad_too(source, bad);
                }
                match patched {
                    Patched::Written | Patched::BelongElsewhere => {}
                    Patched::DoNotFit => break,
                    Patched::Later => return Ok(Filled::Later),
                }
            }
            if hole.first >= hole.end {
                return Ok(Filled::Whole);
            }
        }
        // One that does not agree with the leader yet may have it.
        let waits = |it: &Replica| !agrees(it, epoch) && it.log.check_latch().is_ok();
        let is_all = !self.replicas().any(waits);
        Ok(if is_all { Filled::InPart } else { Filled::Later })
    }

    /// Those that hold what is committed.
    fn others<'p>(
        &'p self,
        than: &'p Replica,
        epoch: LeaderEpoch,
    ) -> impl Iterator<Item = &'p Replica> {
        self.replicas().filter(move |other| !std::ptr::eq(*other, than) && agrees(other, epoch))
    }

    /// The leader cannot read these offsets, and nobody can give them to it: a follower that has
    /// yet to copy them goes on behind them. Not while some volume is away, which may have them;
    /// and not where they are not committed yet, and the disk may give them back, or somebody waits
    /// for them: the follower would vouch for what it never had. 1. A leader's disk does not give
    /// its last records back for a moment; 2. a follower goes on behind them, and says how far it
    /// is; 3. they are committed, and nobody else has them.
    pub(super) fn goes_on_behind(self: &Arc<Self>, replica: &Replica, bad: Bad) -> Step {
        let leader = self.leader();
        let (epoch, all) = match &self.state.lock().progress {
            Some(progress) => (Some(progress.epoch()), progress.are_all_there()),
            None => (None, false),
        };
        let is_lost = leader.damage.lock().is_lost(bad)
            && (bad.end <= self.high_watermark() || is_gone(&leader.log, bad));
        if !is_lost || !all || epoch.is_none_or(|epoch| !replica.log.role.follows_in(epoch)) {
            self.is_bad(leader, bad);
            return Step::Later;
        }
        let skipped = match leader.log.producers_at(bad.end) {
            Ok(producers) => replica.log.skip_to(bad.end, producers),
            Err(_) => return Step::Later,
        };
        match skipped {
            Ok(()) => Step::More,
            Err(error) => {
                self.failed(replica, &error);
                Step::Done
            }
        }
    }

    fn notice(&self, notice: Notice) {
        if let Some(overseer) = &self.overseer {
            overseer.notice(notice);
        }
    }
}

/// Whether a replica holds what the leader of this epoch does.
fn agrees(replica: &Replica, epoch: LeaderEpoch) -> bool {
    let role = &replica.log.role;
    (role.leads_in(epoch) || role.follows_in(epoch)) && replica.log.check_latch().is_ok()
}

/// Whether these records were gone for good when the log was opened.
fn is_gone(log: &Log, bad: Bad) -> bool {
    bad.end <= log.end_at_open
        && log
            .inspect(bad.first, bad.end, LOOK_BYTES, Through::Cache)
            .is_ok_and(|looked| looked.holes.iter().all(|hole| !hole.is_unreadable))
}

/// What is known to be bad in a replica.
#[derive(Debug, Default)]
pub(super) struct KnownDamage {
    /// To be mended.
    due: Vec<Bad>,
    /// Being mended.
    trying: Vec<Bad>,
    /// Nobody could give it.
    left: Vec<Bad>,
}

impl KnownDamage {
    pub(super) fn to_be_mended(ranges: &[(Offset, Offset)]) -> Self {
        let due = ranges.iter().map(|&(first, end)| Bad { first, end }).collect();
        Self { due, ..Self::default() }
    }

    /// False if it is to be mended already.
    fn note(&mut self, bad: Bad) -> bool {
        if self.due.contains(&bad) {
            return false;
        }
        self.due.push(bad);
        true
    }

    /// False if it is known: else two that lack the same would have each other looked at for ever.
    fn note_unless_known(&mut self, bad: Bad) -> bool {
        let mut known = self.due.iter().chain(&self.trying).chain(&self.left);
        let is_known = known.any(|it| it.first < bad.end && bad.first < it.end);
        if !is_known {
            self.due.push(bad);
        }
        !is_known
    }

    /// What is to be mended now. [`Self::is_looked_at`] is to follow for each.
    fn take(&mut self) -> Vec<Bad> {
        let due = std::mem::take(&mut self.due);
        self.trying.extend(&due);
        due
    }

    fn is_looked_at(&mut self, bad: Bad, after: After) {
        let others = |it: &Bad| it.end <= bad.first || bad.end <= it.first;
        self.left.retain(others);
        self.due.retain(|due| *due != bad);
        self.trying.retain(|trying| *trying != bad);
        match after.left {
            Some(left) if after.again => self.due.push(left),
            Some(left) => self.left.push(left),
            None => {}
        }
    }

    fn is_lost(&self, bad: Bad) -> bool {
        self.left.iter().any(|left| left.first <= bad.first && bad.end <= left.end)
    }

    /// Some of it may be mended yet.
    fn is_pending(&self) -> bool {
        !self.due.is_empty() || !self.trying.is_empty()
    }

    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// How many offsets.
    pub(super) fn count(&self) -> u64 {
        let all = self.due.iter().chain(&self.trying).chain(&self.left);
        all.map(|bad| bad.first.distance_to(bad.end)).sum()
    }
}
