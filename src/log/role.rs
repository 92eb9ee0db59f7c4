//! What a log is among the replicas of its partition: the only one, the leader, or a follower.
//!
//! Not here: who is to be what (`broker`), what is committed (`partition`).
//!
//! | part | appends | copies | follows |
//! | --- | --- | --- | --- |
//! | alone | yes | no | its own end, as the durability demands, is committed |
//! | leads | yes | no | what is committed, and synced everywhere, is said to it |
//! | aligns | no | no | it may hold what the leader does not |
//! | follows | no | of its epoch | it holds nothing else |
//! | fenced | no | no | another one leads by now, or will |
//! | waits | no | no | nobody has led since the open |
//!
//! The part is one word with the epoch that it is played in, and epochs only rise: who still means
//! an older one changes nothing. Whoever appends or copies looks at it with the writer locked; so
//! once it was changed, and the writer was locked after that, nobody goes on in the old part.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::id::{LeaderEpoch, Offset};
use crate::log::core::Log;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock_while;

// The lower bits of the word; the epoch lies above them.
const ALONE: u64 = 0;
const LEADS: u64 = 1;
const ALIGNS: u64 = 2;
const FOLLOWS: u64 = 3;
const FENCED: u64 = 4;
const WAITS: u64 = 5;
const PART_BITS: u32 = 3;

/// For how long somebody may write to a log that is to lead.
const HANGS_AFTER: Duration = Duration::from_secs(1);

/// Said by nobody.
const UNSAID: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Role {
    word: AtomicU64,
    /// What is committed, or [`UNSAID`] while that is the log's own matter.
    committed: AtomicU64,
    /// Below it every replica that counts has synced, or [`UNSAID`].
    synced: AtomicU64,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            word: AtomicU64::new(ALONE),
            committed: AtomicU64::new(UNSAID),
            synced: AtomicU64::new(UNSAID),
        }
    }
}

fn word(part: u64, epoch: LeaderEpoch) -> u64 {
    u64::from(epoch.get()) << PART_BITS | part
}

fn part_of(word: u64) -> u64 {
    word & ((1 << PART_BITS) - 1)
}

impl Role {
    #[inline]
    pub(crate) fn may_append(&self) -> bool {
        part_of(self.word.load(Ordering::Acquire)) <= LEADS
    }

    pub(crate) fn leads_in(&self, epoch: LeaderEpoch) -> bool {
        self.word.load(Ordering::Acquire) == word(LEADS, epoch)
    }

    /// True if it holds nothing that the leader of this epoch does not.
    pub(crate) fn follows_in(&self, epoch: LeaderEpoch) -> bool {
        self.word.load(Ordering::Acquire) == word(FOLLOWS, epoch)
    }

    /// What it may let go of is another one's to say.
    pub(crate) fn is_led(&self) -> bool {
        part_of(self.word.load(Ordering::Acquire)) > LEADS
    }

    pub(crate) fn committed(&self) -> Option<Offset> {
        said(&self.committed)
    }

    /// No offset is above it that a batch may call synced.
    #[inline]
    pub(crate) fn synced(&self) -> Offset {
        said(&self.synced).unwrap_or(Offset::MAX)
    }

    /// What its partition says is committed, and synced everywhere.
    pub(crate) fn say(&self, committed: Offset, synced: Offset) {
        self.committed.store(committed.get(), Ordering::Release);
        self.synced.store(synced.get(), Ordering::Release);
    }

    /// Takes a part in an epoch, unless it has one in a later one, or another one in this. True if
    /// it has it then.
    fn take(&self, part: u64, epoch: LeaderEpoch) -> bool {
        let wanted = word(part, epoch);
        let rises = |now: u64| {
            let later = now >> PART_BITS < u64::from(epoch.get());
            // In one epoch: aligns, then follows.
            let next = (now, part) == (word(ALIGNS, epoch), FOLLOWS);
            let first = [word(ALONE, epoch), word(WAITS, epoch)].contains(&now);
            (later || next || first).then_some(wanted)
        };
        match self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, rises) {
            Ok(_) => true,
            Err(now) => now == wanted,
        }
    }

    /// Among others, of which none leads yet: nothing is committed.
    pub(crate) fn wait(&self) {
        self.word.store(word(WAITS, LeaderEpoch::new(0)), Ordering::Release);
        self.say(Offset::ZERO, Offset::ZERO);
    }

    /// Begins to align with the leader of an epoch; true also if it does already. Not once it
    /// follows.
    pub(crate) fn align_in(&self, epoch: LeaderEpoch) -> bool {
        self.take(ALIGNS, epoch)
    }

    /// It is aligned.
    pub(crate) fn follow_in(&self, epoch: LeaderEpoch) -> bool {
        self.take(FOLLOWS, epoch)
    }

    /// It has to align once more in the epoch in which it follows.
    pub(crate) fn align_again(&self, epoch: LeaderEpoch) -> bool {
        let (follows, aligns) = (word(FOLLOWS, epoch), word(ALIGNS, epoch));
        self.word.compare_exchange(follows, aligns, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes appends again in the epoch in which it was fenced; true also if it does.
    pub(crate) fn leads_on(&self, epoch: LeaderEpoch) -> bool {
        let (fenced, leads) = (word(FENCED, epoch), word(LEADS, epoch));
        match self.word.compare_exchange(fenced, leads, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == leads,
        }
    }

    /// Takes no more appends in its epoch. Takes no lock: its writer may hang.
    pub(crate) fn fence(&self) {
        let fenced = |now: u64| Some(now >> PART_BITS << PART_BITS | FENCED);
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, fenced);
    }
}

fn said(cell: &AtomicU64) -> Option<Offset> {
    match cell.load(Ordering::Acquire) {
        UNSAID => None,
        value => Offset::checked(value),
    }
}

impl Log {
    /// Leads from now on, in this epoch, beside others. Nothing is copied to it any more.
    ///
    /// # Errors
    /// `NotLeader` if it has a part in a later epoch; `TimedOut` if whoever writes to it hangs: who
    /// decides waits for no disk.
    pub(crate) fn lead_in(&self, epoch: LeaderEpoch) -> Result<Offset> {
        if !self.role.take(LEADS, epoch) {
            return self.not_leader();
        }
        let begun = Instant::now();
        let in_time = || begun.elapsed() < HANGS_AFTER && !self.latch.is_set();
        let Some(mut writer) = lock_while(&self.writer, in_time) else {
            return Err(Error::TimedOut { what: "a write that hangs" });
        };
        debug_assert!(epoch >= writer.epochs.latest(), "I3: leader epochs never decrease");
        writer.epoch = epoch;
        Ok(writer.next)
    }

    /// Refuses an append where another replica leads.
    #[cold]
    pub(crate) fn not_leader<T>(&self) -> Result<T> {
        let (topic, partition) = (self.place.topic.clone(), self.place.partition());
        Err(Error::NotLeader { topic, partition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u32) -> LeaderEpoch {
        LeaderEpoch::new(number)
    }

    #[test]
    fn a_part_of_an_older_epoch_is_not_taken() {
        let role = Role::default();
        assert!(role.may_append() && role.committed().is_none());
        assert!(role.take(LEADS, epoch(3)) && role.leads_in(epoch(3)));
        assert!(!role.align_in(epoch(2)) && !role.align_in(epoch(3)));
        assert!(role.may_append());
        role.fence();
        assert!(!role.may_append() && !role.take(LEADS, epoch(3)));
        assert!(role.align_in(epoch(4)) && role.align_in(epoch(4)));
        assert!(!role.follows_in(epoch(4)) && !role.may_append());
        assert!(role.follow_in(epoch(4)) && role.follows_in(epoch(4)));
        assert!(!role.align_in(epoch(4)), "it follows already");
        assert!(role.align_again(epoch(4)) && role.follow_in(epoch(4)));
        assert!(role.take(LEADS, epoch(5)) && !role.follow_in(epoch(4)));
    }

    #[test]
    fn who_was_alone_leads_in_the_same_epoch() {
        let role = Role::default();
        assert!(role.take(LEADS, epoch(0)) && role.leads_in(epoch(0)));
        role.say(Offset::new(7), Offset::new(5));
        assert_eq!((role.committed(), role.synced()), (Some(Offset::new(7)), Offset::new(5)));
    }
}
