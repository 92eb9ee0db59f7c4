//! Where the log of a follower leaves that of its leader.
//!
//! Not here: cutting there (`log`), and when (a follower does it first in every epoch, under the
//! partition's lock, before it fetches).
//!
//! An epoch has one leader, who appends in order. So two logs that both hold a record of an epoch
//! are equal up to where the first of them ends that epoch: the newest epoch that both own records
//! of tells all. An epoch without a record is passed over. There is no network between replicas, so
//! both tables are at hand, and one round is enough.
//!
//! What the caller owes
//!   1. Tables name where an epoch truly began, also after compaction took its first records.
//!   2. A leader first raises its log start to that of a follower, where that is committed.
//!   3. The follower's table is cut too, also where no byte is: it may end in epochs without
//!      records that the leader never saw. What it says of offsets below the log start is trimmed.

use std::cmp::Ordering;

use crate::format::EpochEntry;
use crate::id::{LeaderEpoch, Offset};

/// What the log of one replica says of itself: which epochs own the offsets from `start` to `end`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History<'a> {
    pub(crate) epochs: &'a [EpochEntry],
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

/// What a follower has to do before it fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// Cut to this offset, at most its end: what lies below is as the leader has it.
    CutTo(Offset),
    /// Drop everything and begin at this offset, the leader's log start: nothing here is of use.
    StartOverAt(Offset),
}

/// Where `follower` differs from `leader`. The high watermark plays no part: a follower may end
/// below it, and differ below it.
pub(crate) fn divergence(leader: History<'_>, follower: History<'_>) -> Alignment {
    let start = leader.start;
    // What a follower lacks above the leader's log start it could never fetch.
    let reaches = follower.start <= start;
    match agreed_end(leader, follower) {
        Some(end) if reaches && end > start => Alignment::CutTo(end),
        // Empty where the leader's log starts: there already, unless it was in an epoch that what
        // follows does not come after (I3).
        _ if follower.start == start && follower.end == start && !is_later(leader, follower) => {
            Alignment::CutTo(start)
        }
        // What is kept below `start` might be of a later epoch than what follows (I3).
        _ => Alignment::StartOverAt(start),
    }
}

/// Whether the follower was in a later epoch than that of the leader's first record.
fn is_later(leader: History<'_>, follower: History<'_>) -> bool {
    let ours = follower.epochs.last();
    let its = leader.epoch_of(leader.start);
    ours.zip(its).is_some_and(|(ours, its)| ours.epoch > its)
}

/// The end of what both hold of the newest epoch that both own records of.
fn agreed_end(leader: History<'_>, follower: History<'_>) -> Option<Offset> {
    let (mut leaders, mut followers) = (leader.spans(), follower.spans());
    let (mut its, mut ours) = (leaders.next()?, followers.next()?);
    loop {
        match its.epoch.cmp(&ours.epoch) {
            Ordering::Equal => return Some(its.end.min(ours.end)),
            Ordering::Greater => its = leaders.next()?,
            Ordering::Less => ours = followers.next()?,
        }
    }
}

/// An epoch that owns records, and where the next one takes over.
struct Span {
    epoch: LeaderEpoch,
    end: Offset,
}

impl<'a> History<'a> {
    /// The epoch that `offset` was written in; `None` outside of the log.
    pub(crate) fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        if offset < self.start || offset >= self.end {
            return None;
        }
        let begun = self.epochs.partition_point(|entry| entry.start <= offset);
        self.epochs[..begun].last().map(|entry| entry.epoch)
    }

    /// Newest first.
    fn spans(&self) -> impl Iterator<Item = Span> + use<'a> {
        let (start, mut end) = (self.start, self.end);
        self.epochs.iter().rev().filter_map(move |entry| {
            let span = Span { epoch: entry.epoch, end };
            let owns_records = entry.start.max(start) < end;
            end = end.min(entry.start);
            owns_records.then_some(span)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Alignment::{CutTo, StartOverAt};
    use super::*;
    use crate::format::testing::Random;

    fn offset(value: usize) -> Offset {
        Offset::new(value as u64)
    }

    fn table(entries: &[(u32, usize)]) -> Vec<EpochEntry> {
        let entry = |&(epoch, start): &(u32, usize)| EpochEntry {
            epoch: LeaderEpoch::new(epoch),
            start: offset(start),
        };
        entries.iter().map(entry).collect()
    }

    /// Each side as its epochs with their first offsets, and its end.
    type Side<'a> = (&'a [(u32, usize)], usize);

    fn between(leader: Side<'_>, follower: Side<'_>) -> Alignment {
        from(0, leader, 0, follower)
    }

    fn from(start: usize, leader: Side<'_>, own: usize, follower: Side<'_>) -> Alignment {
        let (its, ours) = (table(leader.0), table(follower.0));
        divergence(
            History { epochs: &its, start: offset(start), end: offset(leader.1) },
            History { epochs: &ours, start: offset(own), end: offset(follower.1) },
        )
    }

    #[test]
    fn the_seven_ways_in_which_two_logs_lie() {
        let cut = |to| CutTo(offset(to));
        // A, B: behind, in the leader's epoch or in one before it. Nothing is cut.
        assert_eq!(between((&[(1, 0)], 10), (&[(1, 0)], 6)), cut(6));
        assert_eq!(between((&[(1, 0), (2, 6)], 10), (&[(1, 0)], 4)), cut(4));
        // C: ahead in the same epoch: the leader lost them, or never had them.
        assert_eq!(between((&[(1, 0)], 6), (&[(1, 0)], 10)), cut(6));
        // D: ahead, in an epoch that the leader never saw.
        assert_eq!(between((&[(1, 0)], 6), (&[(1, 0), (2, 6)], 10)), cut(6));
        // E: from 6 on each has an epoch of its own, at the same offsets.
        assert_eq!(between((&[(1, 0), (3, 6)], 10), (&[(1, 0), (2, 6)], 10)), cut(6));
        // F: the same, and the leader has not appended yet.
        assert_eq!(between((&[(1, 0), (3, 8)], 8), (&[(1, 0), (2, 6)], 10)), cut(6));
        // G: no epoch in common.
        assert_eq!(between((&[(2, 0)], 10), (&[(1, 0)], 10)), StartOverAt(Offset::ZERO));
    }

    #[test]
    fn an_end_of_an_epoch_that_the_other_passed_is_not_trusted() {
        // KIP-279: the leader knows epochs 1 and 4, the follower 1, 2 and 3.
        let leader: Side<'_> = (&[(1, 0), (4, 12)], 20);
        assert_eq!(between(leader, (&[(1, 0), (2, 10), (3, 15)], 18)), CutTo(offset(10)));
        // KIP-101, both ends equal and the last records not.
        let (leader, follower): (Side<'_>, Side<'_>) =
            ((&[(1, 0), (3, 9)], 10), (&[(1, 0), (2, 9)], 10));
        assert_eq!(between(leader, follower), CutTo(offset(9)));
    }

    #[test]
    fn elections_without_records_change_nothing() {
        let empty = [(1, 0), (2, 10), (3, 10), (4, 10)];
        assert_eq!(between((&empty, 10), (&[(1, 0)], 10)), CutTo(offset(10)));
        assert_eq!(between((&[(1, 0), (5, 10)], 12), (&empty, 10)), CutTo(offset(10)));
        assert_eq!(between((&empty, 10), (&[(1, 0), (3, 10)], 12)), CutTo(offset(10)));
        // Where the follower's epoch began the leader has nothing.
        assert_eq!(between((&[(1, 0), (3, 14)], 8), (&[(1, 0), (3, 14)], 16)), CutTo(offset(8)));
    }

    #[test]
    fn a_cut_need_not_lie_where_an_epoch_or_a_file_begins() {
        let leader: Side<'_> = (&[(1, 0), (2, 100), (5, 133)], 400);
        assert_eq!(between(leader, (&[(1, 0), (2, 100), (4, 180)], 300)), CutTo(offset(133)));
    }

    #[test]
    fn a_follower_below_the_leaders_log_start_starts_over_there() {
        let leader: Side<'_> = (&[(3, 50)], 60);
        let over = StartOverAt(offset(50));
        assert_eq!(from(50, leader, 0, (&[(1, 0), (3, 40)], 45)), over);
        assert_eq!(from(50, leader, 0, (&[(1, 0), (3, 40)], 50)), over);
        assert_eq!(from(50, leader, 0, (&[(1, 0), (3, 40)], 51)), CutTo(offset(51)));
        // They part below it.
        assert_eq!(from(50, (&[(1, 50), (3, 55)], 60), 0, (&[(1, 0), (2, 30)], 58)), over);
        // An empty log is where its start is.
        assert_eq!(from(50, leader, 50, (&[], 50)), CutTo(offset(50)));
        assert_eq!(from(50, leader, 0, (&[], 0)), over);
        // What it held, and deleted, was of an epoch that the leader's first record is before.
        assert_eq!(from(50, leader, 50, (&[(1, 0), (4, 40)], 50)), over);
        assert_eq!(from(50, leader, 50, (&[(1, 0), (3, 40)], 50)), CutTo(offset(50)));
        assert_eq!(between((&[], 0), (&[], 0)), CutTo(Offset::ZERO));
    }

    #[test]
    fn a_follower_that_begins_above_the_leader_starts_over() {
        let over = StartOverAt(offset(10));
        assert_eq!(from(10, (&[(1, 10)], 30), 20, (&[(1, 20)], 30)), over);
        assert_eq!(from(10, (&[(1, 10)], 30), 40, (&[(1, 40)], 50)), over);
        assert_eq!(from(10, (&[(1, 10)], 30), 20, (&[], 20)), over);
    }

    #[test]
    fn an_offset_is_of_the_epoch_that_owns_it() {
        let epochs = table(&[(1, 0), (2, 10), (3, 10), (5, 20)]);
        let history = History { epochs: &epochs, start: offset(4), end: offset(20) };
        let epoch_of = |at| history.epoch_of(offset(at)).map(LeaderEpoch::get);
        assert_eq!([3, 4, 9, 10, 19].map(epoch_of), [None, Some(1), Some(1), Some(3), Some(3)]);
        assert_eq!(epoch_of(20), None);
    }

    /// A replica as the epoch of each offset, and beside it the table that its log would keep.
    #[derive(Clone, Default)]
    struct Naive {
        log: Vec<u32>,
        start: usize,
        table: Vec<EpochEntry>,
    }

    impl Naive {
        fn history(&self) -> History<'_> {
            let (start, end) = (offset(self.start), offset(self.log.len()));
            History { epochs: &self.table, start, end }
        }

        fn note(&mut self, epoch: u32) {
            let epoch = LeaderEpoch::new(epoch);
            if self.table.last().is_none_or(|last| last.epoch < epoch) {
                self.table.push(EpochEntry { epoch, start: offset(self.log.len()) });
            }
        }

        fn append(&mut self, epoch: u32) {
            self.note(epoch);
            self.log.push(epoch);
        }

        fn cut(&mut self, end: usize) {
            self.log.truncate(end);
            self.start = self.start.min(end);
            self.table.retain(|entry| entry.start < offset(end));
        }

        fn trim(&mut self, start: usize) {
            self.start = start;
            let before = self.table.partition_point(|entry| entry.start <= offset(start));
            self.table.drain(..before.saturating_sub(1));
            if let Some(first) = self.table.first_mut() {
                first.start = first.start.max(offset(start));
            }
        }

        /// Offset by offset.
        fn aligns_with(&self, leader: &Naive) -> Alignment {
            let start = offset(leader.start);
            if self.start > leader.start {
                return StartOverAt(start);
            }
            let both = leader.log.iter().zip(&self.log).skip(leader.start);
            let end = leader.start + both.take_while(|(its, ours)| its == ours).count();
            let first = leader.log.get(leader.start).map(|epoch| LeaderEpoch::new(*epoch));
            let ours = self.table.last().map(|entry| entry.epoch);
            let is_later = first.zip(ours).is_some_and(|(first, ours)| ours > first);
            let here = self.start == leader.start && self.log.len() == leader.start && !is_later;
            if end > leader.start || here { CutTo(offset(end)) } else { StartOverAt(start) }
        }

        /// Follows `leader`, and copies some of what it lacks.
        fn follow(&mut self, leader: &Naive, random: &mut Random) {
            match self.aligns_with(leader) {
                CutTo(end) => self.cut(usize::try_from(end.get()).expect("small")),
                StartOverAt(_) => {
                    let log = vec![0; leader.start];
                    *self = Naive { log, start: leader.start, table: Vec::new() };
                }
            }
            let lacking = leader.log.len() - self.log.len();
            for _ in 0..random.below(lacking + 1) {
                self.append(leader.log[self.log.len()]);
            }
        }
    }

    #[test]
    fn random_elections_and_losses_agree_with_a_walk_over_every_offset() {
        let (mut cases, mut cut, mut over) = (0, 0, 0);
        for seed in 0..5_000 {
            let mut random = Random::new(seed);
            let mut replicas = vec![Naive::default(); 4];
            for epoch in 1..20 {
                let leads = random.below(4);
                // A leader may take over and append nothing.
                replicas[leads].note(epoch);
                for _ in 0..random.below(5) {
                    replicas[leads].append(epoch);
                }
                let leader = replicas[leads].clone();
                for (at, follower) in replicas.iter_mut().enumerate() {
                    let found = divergence(leader.history(), follower.history());
                    let case = format!("seed {seed} epoch {epoch} replica {at}");
                    assert_eq!(found, follower.aligns_with(&leader), "{case}");
                    cases += 1;
                    match found {
                        CutTo(end) if end < follower.history().end => cut += 1,
                        CutTo(_) => {}
                        StartOverAt(_) => over += 1,
                    }
                    if at != leads && random.chance(2) {
                        follower.follow(&leader, &mut random);
                    }
                }
                let hit = &mut replicas[random.below(4)];
                match random.below(8) {
                    0 | 1 => hit.cut(random.below(hit.log.len() + 1)),
                    2 => hit.trim(hit.start + random.below(hit.log.len() - hit.start + 1)),
                    _ => {}
                }
            }
        }
        assert!(cases >= 100_000 && cut > 20_000 && over > 5_000, "{cases} {cut} {over}");
    }
}
