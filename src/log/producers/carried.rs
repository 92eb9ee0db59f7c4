//! What the files of a log tell of its producers, at the base of a file and at any offset.
//!
//! Not here: writing it (`roll` and `cut` begin files with it, `seal` ends them with it).
//!
//! A file begins with the table as of its base, if that has rows: so retention takes none away. A
//! sealed one ends with the table as of its end. The one of a file's base is, in this order
//!   1. what the file begins with,
//!   2. where that is damaged, what the file before ends with,
//!   3. what the file before begins with, and its batches.
//! Where all of that is damaged or gone the table begins empty, and its rows come from batches.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{
    DATA_START, Entry, EpochEntry, Identity, PAGE, ProducerEntry, SectionKind, decode_block,
};
use crate::fs::{Disk, DiskFile, read_exact_at};
use crate::id::Offset;
use crate::log::core::Mode;
use crate::log::scan::{bad_sector, image, scan};
use crate::log::segment::Segment;

use super::table::ProducerTable;

/// What a file carries over from before its base.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OpeningSection {
    pub(crate) epochs: Vec<EpochEntry>,
    pub(crate) producers: Vec<ProducerEntry>,
    /// Where the first block is that is none, or the end.
    pub(crate) end_position: u64,
    /// The disk did not give that one back.
    pub(crate) unreadable: bool,
}

/// The blocks that a file begins with, up to `first_position` or the first that is not a good one.
pub(crate) fn opening_section(
    file: &dyn DiskFile,
    identity: &Identity,
    first_position: u64,
) -> OpeningSection {
    let mut opening = OpeningSection { end_position: DATA_START, ..OpeningSection::default() };
    let mut page = [0; PAGE];
    let mut index = 0;
    let mut kind = SectionKind::Epochs;
    while opening.end_position + PAGE as u64 <= first_position {
        if let Err(error) = read_exact_at(file, &mut page, opening.end_position) {
            opening.unreadable = error.kind() != ErrorKind::UnexpectedEof;
            break;
        }
        let epochs = entries::<EpochEntry>(&page, SectionKind::Epochs, index, identity);
        if let (SectionKind::Epochs, Some(epochs)) = (kind, epochs) {
            opening.epochs.extend(epochs);
        } else {
            if kind == SectionKind::Epochs {
                (kind, index) = (SectionKind::Producers, 0);
            }
            let Some(rows) = entries::<ProducerEntry>(&page, kind, index, identity) else { break };
            opening.producers.extend(rows);
        }
        index += 1;
        opening.end_position += PAGE as u64;
    }
    opening
}

fn entries<E: Entry>(
    page: &[u8; PAGE],
    kind: SectionKind,
    index: u32,
    identity: &Identity,
) -> Option<Vec<E>> {
    decode_block::<E>(page, kind, index, identity).ok().map(|block| block.iter().collect())
}

/// The files of a log, asked for the producers.
pub(crate) struct Carried<'a> {
    pub(crate) segments: &'a [Arc<Segment>],
    pub(crate) disk: &'a dyn Disk,
    pub(crate) identity: &'a Identity,
}

impl Carried<'_> {
    /// The table as of `at`, which is below no record that is gone.
    pub(crate) fn at(&self, at: Offset) -> Result<ProducerTable> {
        let after = self.segments.partition_point(|segment| segment.base <= at);
        let Some(index) = after.checked_sub(1) else { return Ok(ProducerTable::default()) };
        let mut table = self.at_base_of(index)?;
        table.follow_with(&self.within(&self.segments[index], at)?);
        Ok(table)
    }

    /// The table as of the base of a file.
    pub(crate) fn at_base_of(&self, index: usize) -> Result<ProducerTable> {
        // The files whose batches are to be added, as what they begin with is damaged.
        let mut added = Vec::new();
        let mut unreadable = Ok(());
        let mut at = index;
        let mut table = loop {
            let Some(segment) = self.segments.get(at) else { break ProducerTable::default() };
            match self.begins_with(segment)? {
                Begins::With(rows) => break ProducerTable::from_rows(rows),
                Begins::Damaged => {}
                Begins::Unreadable => unreadable = Err(bad_sector(&segment.path)),
            }
            let Some(before) = at.checked_sub(1) else {
                // Damage stays, and ends the search. What cannot be read now may be another time.
                unreadable?;
                break ProducerTable::default();
            };
            if let Some(rows) = self.ends_with(&self.segments[before])? {
                break ProducerTable::from_rows(rows);
            }
            added.push(before);
            at = before;
        };
        for before in added.into_iter().rev() {
            let segment = &self.segments[before];
            table.follow_with(&self.within(segment, segment.end())?);
        }
        Ok(table)
    }

    fn begins_with(&self, segment: &Segment) -> Result<Begins> {
        if segment.first_position == DATA_START {
            return Ok(Begins::With(Vec::new()));
        }
        let file = segment.file(self.disk)?;
        let opening = opening_section(file.as_ref(), self.identity, segment.first_position);
        Ok(if opening.end_position == segment.first_position {
            Begins::With(opening.producers)
        } else if opening.unreadable {
            Begins::Unreadable
        } else {
            Begins::Damaged
        })
    }

    /// The rows that a file ends with; `None` if they are damaged, or not of its end.
    pub(crate) fn ends_with(&self, segment: &Segment) -> Result<Option<Vec<ProducerEntry>>> {
        if segment.clip() < Offset::MAX {
            return Ok(None);
        }
        segment.sealed_producers(self.disk, self.identity)
    }

    /// The rows of the batches of a file below `at`.
    fn within(&self, segment: &Segment, at: Offset) -> Result<ProducerTable> {
        let first = segment.first_position;
        let file = segment.file(self.disk)?;
        let image = image(file.as_ref(), first, segment.end_position(), Mode::ReadOnly)
            .map_err(|e| Error::io("read", &segment.path, e))?;
        if image.unreadable_to > 0 {
            return Err(bad_sector(&segment.path));
        }
        let clip = segment.clip().min(at);
        let mut table = ProducerTable::default();
        for run in &scan(image.view.bytes(), first, self.identity, segment.base, clip).runs {
            table.follow_with(&run.producers);
        }
        Ok(table)
    }
}

/// What a file begins with.
enum Begins {
    With(Vec<ProducerEntry>),
    Damaged,
    /// The disk does not give it back.
    Unreadable,
}
