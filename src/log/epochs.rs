//! Which leader epoch began at which offset, as the batches of one replica say.
//!
//! Not here: what follows from it when two replicas differ (`partition`).
//!
//! Invariant
//!   1. Epochs and start offsets both rise strictly from one entry to the next (I3).

use crate::format::EpochEntry;
use crate::id::{LeaderEpoch, Offset};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochTable {
    entries: Vec<EpochEntry>,
}

impl EpochTable {
    /// The newest epoch that a batch was written in; 0 if there is no batch.
    pub(crate) fn latest(&self) -> LeaderEpoch {
        self.entries.last().map_or(LeaderEpoch::new(0), |entry| entry.epoch)
    }

    /// A batch of `epoch` begins at `start`. Nothing happens unless the epoch is new.
    #[inline]
    pub(crate) fn note(&mut self, epoch: LeaderEpoch, start: Offset) {
        match self.entries.last() {
            Some(last) if last.epoch >= epoch => {}
            _ => self.entries.push(EpochEntry { epoch, start }),
        }
    }

    /// A batch of `epoch` at `start` was not known before, and is not the newest. Nothing happens
    /// where that would break the invariant.
    pub(crate) fn learn(&mut self, epoch: LeaderEpoch, start: Offset) {
        let at = self.entries.partition_point(|entry| entry.epoch < epoch);
        if at.checked_sub(1).is_some_and(|before| self.entries[before].start >= start) {
            return;
        }
        match self.entries.get_mut(at) {
            Some(known) if known.epoch == epoch => known.start = known.start.min(start),
            Some(after) if after.start <= start => {}
            _ => self.entries.insert(at, EpochEntry { epoch, start }),
        }
    }

    /// Entries read from a file; those that would break the invariant are left out.
    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = EpochEntry>) {
        for entry in entries {
            let rises = self
                .entries
                .last()
                .is_none_or(|last| last.epoch < entry.epoch && last.start < entry.start);
            if rises {
                self.entries.push(entry);
            }
        }
    }

    /// The log now ends at `end`: epochs that began there or later never were.
    pub(crate) fn cut(&mut self, end: Offset) {
        self.entries.retain(|entry| entry.start < end);
    }

    /// The log now starts at `start`: the epoch that owns it begins there.
    pub(crate) fn trim(&mut self, start: Offset) {
        let before = self.entries.partition_point(|entry| entry.start <= start);
        if before > 1 {
            self.entries.drain(..before - 1);
        }
        if let Some(first) = self.entries.first_mut() {
            first.start = first.start.max(start);
        }
    }

    pub(crate) fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u32, u64)]) -> EpochTable {
        let mut table = EpochTable::default();
        for &(epoch, start) in entries {
            table.note(LeaderEpoch::new(epoch), Offset::new(start));
        }
        table
    }

    #[test]
    fn notes_only_new_epochs() {
        assert_eq!(table(&[(1, 0), (1, 5), (3, 9), (2, 12)]), table(&[(1, 0), (3, 9)]));
        assert_eq!(table(&[(1, 0), (3, 9)]).latest(), LeaderEpoch::new(3));
        assert_eq!(EpochTable::default().latest(), LeaderEpoch::new(0));
    }

    #[test]
    fn cut_and_trim_keep_what_owns_the_ends() {
        let mut cut = table(&[(1, 0), (3, 9), (4, 20)]);
        cut.cut(Offset::new(9));
        assert_eq!(cut, table(&[(1, 0)]));
        let mut trimmed = table(&[(1, 0), (3, 9), (4, 20)]);
        trimmed.trim(Offset::new(12));
        assert_eq!(trimmed, table(&[(3, 12), (4, 20)]));
    }

    #[test]
    fn what_is_learned_later_goes_where_it_belongs() {
        let mut known = table(&[(1, 0), (4, 20)]);
        let learn = |known: &mut EpochTable, epoch, start| {
            known.learn(LeaderEpoch::new(epoch), Offset::new(start));
        };
        learn(&mut known, 2, 7);
        learn(&mut known, 4, 18);
        learn(&mut known, 6, 30);
        let right = table(&[(1, 0), (2, 7), (4, 18), (6, 30)]);
        assert_eq!(known, right);
        for (epoch, start) in [(1, 3), (2, 0), (3, 18), (3, 5), (7, 30)] {
            learn(&mut known, epoch, start);
            assert_eq!(known, right, "epoch {epoch} at {start}");
        }
    }

    #[test]
    fn entries_that_do_not_rise_are_left_out() {
        let mut read = table(&[(2, 5)]);
        read.extend([
            EpochEntry { epoch: LeaderEpoch::new(1), start: Offset::new(9) },
            EpochEntry { epoch: LeaderEpoch::new(3), start: Offset::new(5) },
            EpochEntry { epoch: LeaderEpoch::new(3), start: Offset::new(6) },
        ]);
        assert_eq!(read, table(&[(2, 5), (3, 6)]));
    }
}
