//! Room for what is appended: in the file that is written, in a longer one, or in the next.
//!
//! Not here: making it before an append needs it (`ahead`), beginning and ending files (`roll`,
//! `seal`).
//!
//! The dedup keys of what a file holds go behind it when it is sealed. Their room is reserved with
//! every append, so that a full disk does not keep a file from being sealed; appends are not given
//! it: they go on in blocks that were zeroed.
//!
//! Threads   under the log's `writer` lock.

use crate::config::{GROWTH_BYTES_MAX, GROWTH_BYTES_MIN, GROWTH_FACTOR, ZEROED_AT_ONCE};
use crate::error::{Error, Result};
use crate::format::{PAGE, Record, measure};
use crate::log::ahead::in_large_pages;
use crate::log::core::{Log, Mode};
use crate::log::writer::{Active, Reach, Writer, WriterState, refused};
use crate::sync::{MutexGuard, lock_while};

/// An append that comes to a page which is not there yet populates so many bytes. Half of what is
/// populated ahead: it soon is where somebody else does the same, and both wait for each other.
const POPULATE_BYTES: u64 = 2 << 20;

/// Whether a batch can be written now.
enum Room {
    Here,
    /// As many segments lack a footer as may: one is to be sealed first.
    SealFirst,
    /// The log goes on in a new generation.
    CutFirst,
}

impl Writer {
    /// Beside the batch, and those before it, there is to be room for their dedup keys.
    #[inline]
    fn needed(&self, log: &Log, bytes: u64) -> u64 {
        if log.dedup.window.is_off() {
            return bytes;
        }
        self.active.as_ref().map_or(bytes, |active| {
            let segment = &active.segment;
            bytes + segment.keys.room(segment.base.distance_to(self.next))
        })
    }

    fn room(&mut self, log: &Log, bytes: u64) -> Result<Room> {
        if self.cut_first {
            return Ok(Room::CutFirst);
        }
        if self.active.is_none()
            && let Some(segment) = self.resume.take()
        {
            match log.resume(&segment) {
                Ok(active) => self.active = Some(active),
                Err(error) => {
                    self.resume = Some(segment);
                    return Err(error);
                }
            }
        }
        let mut needed = self.needed(log, bytes);
        let fits = |active: &Active| active.position + needed <= active.reach.data_limit;
        if let Some(active) = &mut self.active
            && !fits(active)
            && active.position == active.segment.first_position
        {
            // A batch larger than a segment gets one of its own, and an empty one becomes that: a
            // file begun at the same base in the same generation would take the name of this one.
            log.widen(active, bytes)?;
        }
        if !self.active.as_ref().is_some_and(fits) {
            if log.unsealed_behind(self) >= log.unsealed_max() {
                return Ok(Room::SealFirst);
            }
            log.roll(self, bytes)?;
            needed = self.needed(log, bytes);
        }
        if let Some(Active { position, reach, .. }) = &self.active
            && (position + bytes > reach.allocated || position + needed > reach.length)
        {
            self.grow(log, bytes, needed)?;
        }
        Ok(Room::Here)
    }

    /// Makes the active file `needed` bytes longer than what it holds, and lets appends use as many
    /// as `bytes` of them; what is new reads as zeros.
    #[cold]
    fn grow(&mut self, log: &Log, bytes: u64, needed: u64) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let zeroed = log.may_zero() && self.pace.small;
        let (to_use, needed) = (active.position + bytes, active.position + needed);
        if needed > active.reach.length {
            let file = active.segment.writable_file(log.disk.as_ref())?;
            by_less_if_full(&mut self.growth, |growth| {
                let grown = in_large_pages(active.reach.length, growth);
                let wanted = needed.max(grown).next_multiple_of(PAGE as u64);
                let end = wanted.min(active.reach.data_limit.max(needed));
                let from = active.reach.length;
                let is_of_use = || !log.latch.is_set();
                let longer = || log.lengthen(file.as_ref(), (from, end));
                let grown = active.segment.grow(is_of_use, longer);
                grown.map_err(|e| Error::io("grow", &active.segment.path, e))?;
                active.reach.length = end;
                Ok(())
            })?;
            self.growth = next_growth(self.growth);
        }
        if to_use > active.reach.allocated {
            // Whoever looks ahead was too late.
            let more = if zeroed { ZEROED_AT_ONCE as u64 } else { active.reach.length };
            let wanted = (to_use, active.reach.length.min(to_use + more));
            let given = active.segment.take_given(|| !log.latch.is_set(), wanted);
            let given = given.map_err(|e| Error::io("grow", &active.segment.path, e))?;
            active.set_allocated(given);
        }
        Ok(())
    }
}

impl Active {
    /// The file is `end` long, and appends may use all of it.
    pub(super) fn reaches(&mut self, end: u64) {
        self.reach.length = end;
        // What was cut off is not there any more.
        self.reach.populated = self.reach.populated.min(end);
        self.segment.set_given(end);
        self.set_allocated(end);
    }

    /// Appends may go that far now.
    pub(crate) fn set_allocated(&mut self, end: u64) {
        self.reach.allocated = end;
        self.map.set_allocated(usize::try_from(end).unwrap_or(usize::MAX));
    }

    /// Makes the pages of the next `bytes` present and writable; an error here is an error, where
    /// a store to an absent page would be a signal.
    #[cold]
    pub(super) fn populate(&mut self, bytes: u64) -> Result<()> {
        let from = self.populate_from();
        let end = (self.position + bytes).max(from + POPULATE_BYTES).min(self.reach.allocated);
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let length = usize::try_from(end - from).unwrap_or(0);
        self.map
            .populate_write(start, length)
            .map_err(|e| Error::io("populate", &self.segment.path, e))?;
        self.reach.populated = end;
        Ok(())
    }
}

impl Log {
    /// Makes sure that a batch of these records can be written where blocks are reserved ahead.
    pub(crate) fn make_room(&self, records: &[Record<'_>]) -> Result<()> {
        let bytes = measure(records).map_err(refused)?;
        self.writer_with_room(bytes).map(drop)
    }

    /// Whether so many bytes can be copied without waiting for anything: its lock, the disk, or
    /// memory.
    pub(crate) fn takes_at_once(&self, bytes: usize) -> bool {
        self.writes_mapped(bytes)
            && self.dedup.window.is_off()
            && self.writer.try_lock().is_some_and(|writer| {
                let end = |active: &Active| active.position + bytes as u64;
                let Reach { allocated, populated, data_limit, .. } = match &writer.active {
                    Some(active) => active.reach,
                    None => return false,
                };
                let room = allocated.min(populated).min(data_limit);
                writer.state == WriterState::Open
                    && writer.active.as_ref().is_some_and(|active| end(active) <= room)
            })
    }

    /// The writer, locked, with room for a batch of so many bytes; 0 if nothing is to be written.
    #[inline]
    pub(crate) fn writer_with_room(&self, bytes: usize) -> Result<MutexGuard<'_, Writer>> {
        if self.mode == Mode::ReadOnly {
            return Err(Error::ReadOnly);
        }
        loop {
            let Some(mut writer) = lock_while(&self.writer, || !self.latch.is_set()) else {
                self.latch.check()?;
                continue;
            };
            match writer.state {
                WriterState::Open => {}
                WriterState::Closing => return Err(Error::Closed),
                WriterState::Cutting => {
                    drop(writer);
                    drop(self.turn.take_while(|| !self.latch.is_set()));
                    continue;
                }
            }
            self.latch.check()?;
            if bytes == 0 {
                return Ok(writer);
            }
            match writer.room(self, bytes as u64)? {
                Room::Here => return Ok(writer),
                Room::SealFirst => {
                    drop(writer);
                    self.seal_one()?;
                }
                Room::CutFirst => {
                    drop(writer);
                    self.cut_first()?;
                }
            }
        }
    }
}

/// Grows a file, or begins one, by `growth`; by the least where the disk has not as much: its last
/// room is for what is appended.
pub(crate) fn by_less_if_full<T>(
    growth: &mut u64,
    mut grow: impl FnMut(u64) -> Result<T>,
) -> Result<T> {
    match grow(*growth) {
        Err(Error::StorageFull(_)) if *growth > GROWTH_BYTES_MIN => {
            *growth = GROWTH_BYTES_MIN;
            grow(*growth)
        }
        grown => grown,
    }
}

/// By how much a file grows that has grown by so much.
pub(crate) fn next_growth(growth: u64) -> u64 {
    growth.saturating_mul(GROWTH_FACTOR).min(GROWTH_BYTES_MAX)
}
