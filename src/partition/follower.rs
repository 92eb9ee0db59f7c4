//! What a follower does with its log: makes it agree with the leader's, and then takes the leader's
//! batches over as they are.
//!
//! Not here: where the two differ (`divergence`), whether what it has counts (`progress`), whose
//! thread does this and when (`broker`).
//!
//! Failure   an error of the follower's log has halted it, or nothing changed; one of the leader's
//!           says nothing about the follower.
#![cfg_attr(not(test), expect(dead_code, reason = "for a partition of several replicas"))]

use crate::error::Result;
use crate::format::EpochEntry;
use crate::id::Offset;
use crate::log::{Log, ReadCursor};
use crate::partition::divergence::{Alignment, History, divergence};

/// What a log holds, at one moment.
pub(crate) struct Extent {
    epochs: Vec<EpochEntry>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

impl Extent {
    pub(crate) fn of(log: &Log) -> Self {
        let (epochs, end) = log.epochs_and_end();
        // A log start that moved meanwhile is not above what was the end then: it is committed.
        Self { epochs, start: log.start_offset().min(end), end }
    }

    pub(crate) fn history(&self) -> History<'_> {
        History { epochs: &self.epochs, start: self.start, end: self.end }
    }
}

/// Makes the log of a follower agree with the leader's: what the leader does not have is cut off.
/// To be done before anything is copied in an epoch.
///
/// # Errors
/// Of either log. Whatever the follower holds then, it holds a part of what it held before.
pub(crate) fn align(leader: &Log, follower: &Log) -> Result<Alignment> {
    let ours = Extent::of(follower);
    let alignment = divergence(Extent::of(leader).history(), ours.history());
    match alignment {
        Alignment::CutTo(at) if at < ours.end => follower.truncate_to(at)?,
        Alignment::CutTo(_) => {}
        Alignment::StartOverAt(at) => follower.reset_to(at, leader.producers_at(at)?)?,
    }
    Ok(alignment)
}

/// What one step of copying came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// The follower has all that the leader has.
    Nothing,
    /// More may follow.
    Some,
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

    /// Takes over what the leader has beyond the follower's end, about `bytes_max` of it, and its
    /// log start. The two logs agree.
    ///
    /// # Errors
    /// Of either log. Whole batches may have been taken over.
    pub(crate) fn copy(
        &mut self,
        leader: &Log,
        follower: &Log,
        bytes_max: usize,
    ) -> Result<Copied> {
        let (start, end) = (leader.start_offset(), follower.end_offset());
        if start > end {
            return Ok(Copied::LeftBehind);
        }
        if start > follower.start_offset() {
            follower.trim_to(start)?;
        }
        if self.cursor.offset() != end {
            self.cursor = ReadCursor::stored_at(end);
        }
        let reads = leader.options.reads();
        let read = leader.read(&mut self.cursor, leader.end_offset(), bytes_max, reads)?;
        let Some(chunk) = read else { return Ok(Copied::Nothing) };
        for batch in chunk.batches() {
            follower.append_copy(batch)?;
        }
        Ok(Copied::Some)
    }
}
