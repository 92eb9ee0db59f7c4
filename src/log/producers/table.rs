//! [`ProducerTable`]: which producers a log knows, and which number the next record of each gets.
//!
//! Not here: the bytes of a row (`format`), when a row may go (`identity` knows who lives), whether
//! a named producer was taken over by another holder of its name (`identity` too: that holds
//! everywhere at once, also in a partition that the new holder has not written to yet).
//!
//! Each record that a producer appends to a partition takes one sequence there. They rise without
//! a gap; with a new epoch an anonymous producer begins at 0 again, and a named one goes on.
//!
//! What is asked of a batch that comes with its numbers, in this order (as Kafka's
//! `ProducerAppendInfo` and `ProducerStateEntry` have it, KIP-98):
//!   1. The last batch of its producer, once more: it is there already, at a known offset.
//!   2. An epoch below the producer's: it is fenced.
//!   3. Any other number than the next one: out of order. Of a producer that is not known, or whose
//!      epoch begins, that is 0; but for a named one's, which goes on.
//!
//! Invariants
//!   1. A producer has one row at most.
//!   2. Batches noted in the order of the log leave the same rows, whoever notes them: the
//!      appender, an open, another replica. Threads single owner.

use std::collections::HashMap;

use crate::format::{BatchHeader, ProducerEntry};
use crate::id::{Offset, ProducerEpoch, ProducerId};

/// A batch's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) base_sequence: u64,
    pub(crate) records: u64,
}

impl Numbered {
    /// Those of a batch that no producer numbers.
    pub(crate) const NOT: Numbered = Numbered {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::new(0),
        base_sequence: 0,
        records: 0,
    };

    /// Those of a batch in the log; `None` if no producer numbered it. Records that compaction took
    /// away keep their numbers.
    #[inline]
    pub(crate) fn of(header: &BatchHeader) -> Option<Self> {
        (header.producer_id != ProducerId::NONE).then(|| Self {
            id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            records: u64::from(header.last_offset_delta) + 1,
        })
    }
}

/// What is to be done with a batch that comes with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// It is there already.
    Repeat {
        base_offset: Offset,
    },
}

/// Whether a row was there for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    InItsRow,
    Anew,
}

/// Another holder of the producer has appended with a higher epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fenced {
    pub(crate) by: ProducerEpoch,
}

/// Why a batch that comes with its numbers is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Fenced(Fenced),
    /// Its numbers are not the next ones.
    OutOfOrderSequence {
        expected: u64,
    },
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct ProducerTable {
    /// The row that was noted last, as most batches are of the same producer as the one before.
    /// Its place in `rows` has what it was when it was taken out of there.
    at_hand: ProducerEntry,
    rows: Vec<ProducerEntry>,
    places: HashMap<ProducerId, usize>,
}

impl Default for ProducerTable {
    fn default() -> Self {
        // Nobody's: its id is never asked for.
        let nobody = ProducerEntry {
            id: ProducerId::NONE,
            epoch: ProducerEpoch::new(0),
            next_sequence: 0,
            base_offset: Offset::ZERO,
            records: 0,
        };
        Self { at_hand: nobody, rows: Vec::new(), places: HashMap::new() }
    }
}

impl ProducerTable {
    /// The table that these rows make; of two rows of a producer the later one.
    pub(crate) fn from_rows(rows: impl IntoIterator<Item = ProducerEntry>) -> Self {
        let mut table = Self::default();
        for row in rows {
            *table.take_up(row) = row;
        }
        table
    }

    /// The number that the producer's next record gets.
    #[inline]
    pub(crate) fn next_sequence(
        &self,
        id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<u64, Fenced> {
        if self.at_hand.id == id && self.at_hand.epoch == epoch {
            Ok(self.at_hand.next_sequence)
        } else {
            self.next_of_another(id, epoch)
        }
    }

    #[cold]
    fn next_of_another(&self, id: ProducerId, epoch: ProducerEpoch) -> Result<u64, Fenced> {
        match self.row(id) {
            Some(row) if row.epoch == epoch => Ok(row.next_sequence),
            Some(row) if row.epoch > epoch => Err(Fenced { by: row.epoch }),
            Some(row) if id.is_named() => Ok(row.next_sequence),
            _ => Ok(0),
        }
    }

    /// What is to be done with a batch that comes with its numbers.
    pub(crate) fn judge(&self, batch: &Numbered) -> Result<Verdict, Refusal> {
        if let Some(row) = self.row(batch.id)
            && (row.epoch, row.records) == (batch.epoch, batch.records)
            && row.records > 0
            && row.next_sequence - row.records == batch.base_sequence
        {
            return Ok(Verdict::Repeat { base_offset: row.base_offset });
        }
        let expected = self.next_sequence(batch.id, batch.epoch).map_err(Refusal::Fenced)?;
        if batch.base_sequence == expected {
            Ok(Verdict::Append)
        } else {
            Err(Refusal::OutOfOrderSequence { expected })
        }
    }

    /// A batch of the log has these numbers. What is in the log counts, whatever was noted before.
    #[inline]
    pub(crate) fn note(&mut self, batch: &Numbered, base_offset: Offset) -> Noted {
        let row = &mut self.at_hand;
        if row.id == batch.id && row.epoch == batch.epoch {
            row.next_sequence = batch.base_sequence.saturating_add(batch.records);
            row.base_offset = base_offset;
            row.records = batch.records;
            Noted::InItsRow
        } else {
            self.note_another(*batch, base_offset)
        }
    }

    /// The same of a batch that is of another producer, or epoch, than the one before.
    #[cold]
    fn note_another(&mut self, batch: Numbered, base_offset: Offset) -> Noted {
        let known = self.len();
        let noted = ProducerEntry {
            id: batch.id,
            epoch: batch.epoch,
            next_sequence: batch.base_sequence.saturating_add(batch.records),
            base_offset,
            records: batch.records,
        };
        let row = self.take_up(noted);
        if row.epoch <= noted.epoch {
            *row = noted;
        }
        if self.len() == known { Noted::InItsRow } else { Noted::Anew }
    }

    /// The sequence of the last record that the producer has in the log.
    pub(crate) fn last_sequence(&self, id: ProducerId) -> Option<u64> {
        self.row(id)?.next_sequence.checked_sub(1)
    }

    /// The end of the last batch that the producer has in the log.
    pub(crate) fn last_end(&self, id: ProducerId) -> Option<Offset> {
        self.row(id).map(|row| row.base_offset.plus(row.records))
    }

    /// Takes over the rows of a later part of the log.
    pub(crate) fn follow_with(&mut self, later: &ProducerTable) {
        for row in later.iter() {
            let mine = self.take_up(row);
            if mine.epoch <= row.epoch {
                *mine = row;
            }
        }
    }

    /// Keeps the rows of those producers only.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(ProducerId) -> bool) {
        if !self.iter().all(|row| keep(row.id)) {
            *self = Self::from_rows(self.iter().filter(|row| keep(row.id)));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows, in the order of their ids.
    pub(crate) fn rows(&self) -> Vec<ProducerEntry> {
        let mut rows: Vec<_> = self.iter().collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    fn iter(&self) -> impl Iterator<Item = ProducerEntry> {
        let current = |row: &ProducerEntry| {
            if row.id == self.at_hand.id { self.at_hand } else { *row }
        };
        self.rows.iter().map(current)
    }

    fn row(&self, id: ProducerId) -> Option<&ProducerEntry> {
        if self.at_hand.id == id {
            return Some(&self.at_hand);
        }
        self.rows.get(*self.places.get(&id)?)
    }

    /// The producer's row, to be at hand from now on; `new` if there was none.
    fn take_up(&mut self, new: ProducerEntry) -> &mut ProducerEntry {
        if self.at_hand.id != new.id {
            if let Some(&place) = self.places.get(&self.at_hand.id) {
                self.rows[place] = self.at_hand;
            }
            let place = *self.places.entry(new.id).or_insert(self.rows.len());
            if place == self.rows.len() {
                self.rows.push(new);
            }
            self.at_hand = self.rows[place];
        }
        &mut self.at_hand
    }
}

impl PartialEq for ProducerTable {
    fn eq(&self, other: &Self) -> bool {
        self.rows() == other.rows()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
