//! Room ahead of the tail: the active file grown, and the next one prepared, before an append needs
//! it.
//!
//! Not here: the same done by the append itself, where this comes too late (`writer`, `roll`).
//!
//! An append that comes near the end of what is allocated asks for more and goes on. Whoever looks
//! (a thread of the volume's) plans under the writer's lock, works without it, and gives the result
//! back under it. What changed meanwhile is found out there: the append may have grown the file
//! itself, or begun the next one.
//!
//! Invariants
//!   1. A file is not grown after it got its footer: it would seem never to have been sealed.
//!      `Segment::grow` and `Segment::end_growth` keep them apart.
//!   2. A prepared file has no header and no name ending in `.log`. A roll writes the one and gives
//!      the other; a crash leaves a file that the next preparation replaces.
//!   3. Nobody prepares once the log is closed or its topic deleted: both wait for `ahead_turn`.
//! Threads   one at a time, by `ahead_turn`.
//! Failure   none is told: the append that needs the room meets the same, or finds that it is past.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::GROWTH_BYTES_MAX;
use crate::error::{Error, Result};
use crate::format::{DATA_START, PAGE};
use crate::fs::{MapAccess, MapWriter, Mapping};
use crate::log::core::Log;
use crate::log::roll::data_limit;
use crate::log::segment::Segment;
use crate::log::writer::{Active, POPULATE_BYTES, Writer, WriterState};
use crate::sync::atomic::Ordering;

/// The name of a file that is prepared for the next roll.
const AHEAD: &str = "ahead.prepared";

/// A file that the next segment can begin in at once. It is mapped, and not held open.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) map: MapWriter,
    pub(crate) allocated: u64,
    pub(crate) populated: u64,
    pub(crate) data_limit: u64,
}

/// What is to be done next.
enum Plan {
    Nothing,
    /// The active file is to reach `to` instead of `from`.
    Grow {
        segment: Arc<Segment>,
        from: u64,
        to: u64,
    },
    /// Pages of the active file are to be made writable.
    Populate {
        segment: Arc<Segment>,
        map: Arc<Mapping>,
        from: u64,
        to: u64,
    },
    /// A file is to be prepared, of so many bytes.
    Prepare {
        bytes: u64,
    },
}

impl Active {
    /// Where the next look ahead is due: half a growth before the file's end, and three quarters
    /// into the file for the next one.
    fn look_at(&self, growth: u64, next: Next) -> u64 {
        let file_ends = if self.allocated < self.data_limit {
            self.allocated.saturating_sub(growth / 2)
        } else {
            u64::MAX
        };
        let next_begins = match next {
            Next::Wanted => self.data_limit / 4 * 3,
            Next::Prepared => u64::MAX,
        };
        file_ends.min(next_begins)
    }
}

/// Whether a next file is still to be prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Wanted,
    Prepared,
}

impl Writer {
    fn next(&self) -> Next {
        if self.prepared.is_some() { Next::Prepared } else { Next::Wanted }
    }

    /// Sets when the active file is to be looked at again.
    pub(crate) fn set_look(&mut self) {
        let next = self.next();
        if let Some(active) = &mut self.active {
            active.look_at = active.look_at(self.growth, next);
        }
    }

    fn plan(&mut self, mapped: bool) -> Plan {
        let next = self.next();
        let Some(active) = &mut self.active else { return Plan::Nothing };
        let near = |place: u64| active.position >= place;
        if active.allocated < active.data_limit
            && near(active.allocated.saturating_sub(self.growth / 2))
        {
            let to = (active.allocated + self.growth).min(active.data_limit);
            let segment = Arc::clone(&active.segment);
            return Plan::Grow { segment, from: active.allocated, to };
        }
        if mapped && active.populated < active.allocated {
            let (segment, map) = (Arc::clone(&active.segment), Arc::clone(active.map.mapping()));
            let to = active.allocated.min(active.populated + POPULATE_BYTES);
            return Plan::Populate { segment, map, from: active.populated, to };
        }
        if next == Next::Wanted && near(active.data_limit / 4 * 3) {
            return Plan::Prepare { bytes: self.growth };
        }
        self.set_look();
        Plan::Nothing
    }
}

impl Log {
    /// Has somebody look ahead. Called with the writer locked.
    #[cold]
    pub(crate) fn ask_ahead(&self) {
        match &self.housekeeper {
            Some(housekeeper) => housekeeper.ahead(&self.place.identity),
            None => self.ahead_due.store(true, Ordering::Release),
        }
    }

    /// Looks ahead if an append has asked for it: where there is no thread for it.
    pub(crate) fn look_ahead_if_due(&self) {
        if self.ahead_due.swap(false, Ordering::AcqRel) {
            self.look_ahead();
        }
    }

    /// Makes the room that appends will need next.
    pub(crate) fn look_ahead(&self) {
        let _turn = self.ahead_turn.take();
        loop {
            let plan = {
                let mut writer = self.writer.lock();
                if writer.state != WriterState::Open || self.latch.check().is_err() {
                    return;
                }
                writer.plan(self.writes_mapped(1))
            };
            let done = match plan {
                Plan::Nothing => return,
                Plan::Grow { segment, from, to } => self.grow_ahead(&segment, from, to),
                Plan::Populate { segment, map, from, to } => {
                    self.populate_ahead(&segment, &map, from, to)
                }
                Plan::Prepare { bytes } => self.prepare(bytes),
            };
            if done.is_err() {
                // A full disk, for one: the append that needs the room will say so.
                return;
            }
        }
    }

    fn grow_ahead(&self, of: &Arc<Segment>, from: u64, to: u64) -> Result<()> {
        let file = of.writable_file(self.disk.as_ref())?;
        let grown = of.grow(|| {
            if self.options.allocates {
                file.allocate(from, to - from)
            } else if file.len()? < to {
                file.set_len(to)
            } else {
                Ok(())
            }
        });
        grown.map_err(|e| Error::io("grow", &of.path, e))?;
        let mut writer = self.writer.lock();
        let growth = writer.growth;
        if let Some(active) = writer.active.as_mut().filter(|a| Arc::ptr_eq(&a.segment, of))
            && active.allocated < to
        {
            active.set_allocated(to);
            writer.growth = (growth * 2).min(GROWTH_BYTES_MAX);
        }
        Ok(())
    }

    fn populate_ahead(&self, of: &Segment, map: &Mapping, from: u64, to: u64) -> Result<()> {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        map.populate_write(size(from), size(to - from))
            .map_err(|e| Error::io("populate", &of.path, e))?;
        let mut writer = self.writer.lock();
        if let Some(active) =
            writer.active.as_mut().filter(|a| std::ptr::eq(a.segment.as_ref(), of))
        {
            active.populated = active.populated.max(to);
        }
        Ok(())
    }

    fn prepare(&self, bytes: u64) -> Result<()> {
        let path = self.ahead_path();
        let data_limit = data_limit(self.segment_bytes(), DATA_START, 0);
        let allocated = bytes.next_multiple_of(PAGE as u64).min(data_limit);
        let file = self.create_prepared(&path)?;
        let failed = |doing, e| Error::io(doing, &path, e);
        if self.options.allocates {
            file.allocate(0, allocated).map_err(|e| failed("allocate", e))?;
        } else {
            file.set_len(allocated).map_err(|e| failed("grow", e))?;
        }
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (access, start) = (self.map_access(), size(DATA_START));
        let mut map =
            file.map(size(data_limit), start, start, access).map_err(|e| failed("map", e))?;
        map.set_allocated(size(allocated));
        let mut populated = DATA_START;
        if access == MapAccess::Write {
            map.populate_write(start, size(allocated - DATA_START))
                .map_err(|e| failed("populate", e))?;
            populated = allocated;
        }
        let mut writer = self.writer.lock();
        writer.prepared = Some(Prepared { map, allocated, populated, data_limit });
        Ok(())
    }

    pub(crate) fn ahead_path(&self) -> PathBuf {
        self.place.dir.join(AHEAD)
    }

    /// Waits for a look that is under way, and gives up what it prepared. There is none after it,
    /// if the log takes no appends.
    pub(crate) fn end_ahead(&self) {
        let turn = self.ahead_turn.take();
        let prepared = self.writer.lock().prepared.take();
        drop(turn);
        if prepared.is_some() {
            // Left behind it takes room until the next one is prepared, and does no harm.
            let _ = self.disk.remove_file(&self.ahead_path());
        }
    }
}
