//! What a follower does with its log: makes it agree with the leader's, and then takes the leader's
//! batches over as they are.
//!
//! Not here: where the two differ (`divergence`), whether what it has counts (`progress`), whose
//! thread does this and when (`broker`).
//!
//! Failure   an error of the follower's log has halted it, or nothing changed; one of the leader's
//!           says nothing about the follower.

use crate::error::Error;
use crate::format::EpochEntry;
use crate::id::{LeaderEpoch, Offset};
use crate::log::{Chunk, Log, ReadCursor};
use crate::partition::divergence::{Alignment, History, divergence};

/// What a log holds, at one moment.
#[derive(Default)]
pub(crate) struct Extent {
    epochs: Vec<EpochEntry>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

impl Extent {
    pub(crate) fn of(log: &Log) -> Self {
        Self::new(log, log.epochs_and_end())
    }

    /// `None` while somebody writes to it.
    pub(super) fn of_if_free(log: &Log) -> Option<Self> {
        Some(Self::new(log, log.epochs_and_end_if_free()?))
    }

    fn new(log: &Log, (epochs, end): (Vec<EpochEntry>, Offset)) -> Self {
        // A log start that moved meanwhile is not above what was the end then: it is committed.
        Self { epochs, start: log.start_offset().min(end), end }
    }

    pub(crate) fn history(&self) -> History<'_> {
        History { epochs: &self.epochs, start: self.start, end: self.end }
    }
}

/// Whose an error is.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The follower's.
    Own(Error),
    /// The leader's, of which the follower learns nothing.
    Leader(Error),
}

/// Makes the log of a follower agree with the leader's: what the leader does not have is cut off.
/// To be done before anything is copied in an epoch.
///
/// # Errors
/// Of either log. Whatever the follower holds then, it holds a part of what it held before.
pub(crate) fn align(leader: &Log, follower: &Log) -> Result<Alignment, Trouble> {
    let ours = Extent::of(follower);
    let alignment = divergence(Extent::of(leader).history(), ours.history());
    match alignment {
        Alignment::CutTo(at) if at < ours.end => follower.truncate_to(at).map_err(Trouble::Own)?,
        Alignment::CutTo(_) => {}
        Alignment::StartOverAt(at) => {
            let producers = leader.producers_at(at).map_err(Trouble::Leader)?;
            follower.reset_to(at, producers).map_err(Trouble::Own)?;
        }
    }
    Ok(alignment)
}

/// What the leader has for a follower.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The follower has all that the leader has.
    Nothing,
    /// More may follow.
    Batches(Chunk),
    /// The leader's log begins above the follower's end by now: they are to be aligned.
    LeftBehind,
}

/// Where a follower reads in the log of its leader.
#[derive(Debug)]
pub(crate) struct Source {
    cursor: ReadCursor,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self { cursor: ReadCursor::stored_at(Offset::ZERO) }
    }

    /// What the leader has beyond the follower's end, about `bytes_max` of it. The two logs agree.
    ///
    /// # Errors
    /// Of the leader's log.
    pub(crate) fn fetch(
        &mut self,
        leader: &Log,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Fetched, Error> {
        if leader.start_offset() > end {
            return Ok(Fetched::LeftBehind);
        }
        if self.cursor.offset() != end {
            self.cursor = ReadCursor::stored_at(end);
        }
        let (upto, reads) = (leader.end_offset(), leader.options.reads());
        let read = leader.read(&mut self.cursor, upto, bytes_max, reads)?;
        Ok(read.map_or(Fetched::Nothing, Fetched::Batches))
    }
}

/// Appends what was fetched, and takes over the leader's log start.
///
/// # Errors
/// Of the follower's log. Whole batches may have been taken over.
pub(crate) fn take_over(
    leader: &Log,
    follower: &Log,
    epoch: LeaderEpoch,
    fetched: Option<&Chunk>,
) -> Result<(), Error> {
    for batch in fetched.into_iter().flat_map(Chunk::batches) {
        follower.append_copy(epoch, batch)?;
    }
    let start = leader.start_offset().min(follower.end_offset());
    if start > follower.start_offset() { follower.trim_to(start) } else { Ok(()) }
}

/// The first offsets below `upto`, where both logs have something, at which they hold different
/// batches. What one of them cannot read is no difference.
///
/// # Errors
/// Of reading either.
pub(crate) fn first_difference(
    one: &Log,
    other: &Log,
    upto: Offset,
) -> Result<Option<(Offset, Offset)>, Error> {
    let start = one.start_offset().max(other.start_offset());
    let upto = upto.min(one.end_offset()).min(other.end_offset());
    let mut cursors = [ReadCursor::stored_at(start), ReadCursor::stored_at(start)];
    let mut at = start;
    while at < upto {
        let [ours, theirs] = &mut cursors;
        // One batch of each: what a fetch ends with need not be the same.
        match (batch_at(one, ours, upto)?, batch_at(other, theirs, upto)?) {
            (Some(a), Some(b)) if a.bytes() != b.bytes() => {
                return Ok(Some((at, a.next.max(b.next))));
            }
            (Some(a), _) => at = a.next,
            (None, Some(b)) => at = b.next,
            (None, None) => at = at.next(),
        }
        for cursor in &mut cursors {
            if cursor.offset() != at {
                *cursor = ReadCursor::stored_at(at);
            }
        }
    }
    Ok(None)
}

/// One batch, as it is stored.
struct Stored {
    chunk: Chunk,
    next: Offset,
}

impl Stored {
    fn bytes(&self) -> &[u8] {
        self.chunk.batches().next().unwrap_or_default()
    }
}

/// The batch at a cursor; `None` where it cannot be read.
fn batch_at(log: &Log, cursor: &mut ReadCursor, upto: Offset) -> Result<Option<Stored>, Error> {
    match log.read(cursor, upto, 1, log.options.reads()) {
        Ok(Some(chunk)) => {
            let next = chunk.next;
            Ok(Some(Stored { chunk, next }))
        }
        Ok(None) | Err(Error::Corrupt(_) | Error::OffsetOutOfRange(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
