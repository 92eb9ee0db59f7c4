//! Room ahead of the tail: the active file grown, its blocks zeroed, and the next one prepared,
//! before an append needs it.
//!
//! Not here: the same done by the append itself, where this comes too late (`writer`, `roll`).
//!
//! An append that comes near the end of what is allocated asks for more and goes on. Whoever looks
//! (a thread of the volume's) plans under the writer's lock, works without it, and gives the result
//! back under it. What changed meanwhile is found out there: the append may have grown the file
//! itself, or begun the next one.
//!
//! Zeros are written where small rounds of syncs follow one another. A block that was only
//! allocated reads as zeros because its extent says that it was never written: the first sync of a
//! block has to change that, in the file system's journal, which a sync of written blocks does not
//! touch (ext4; `docs/architecture.md` has what it saves). Large rounds take as long to write as to
//! zero.
//!
//! Invariants
//!   1. A file is not grown after it got its footer: it would seem never to have been sealed.
//!      `Segment::grow` and `Segment::end_growth` keep them apart.
//!   2. A prepared file has no header and no name ending in `.log`. A roll writes the one and gives
//!      the other; a crash leaves a file that the next preparation replaces.
//!   3. Zeros are only written to bytes that appends were not given yet: [`Segment::give`].
//!   4. Nobody prepares once the log is closed or its topic deleted: both wait for `ahead_turn`.
//! Threads   one at a time, by `ahead_turn`.
//! Failure   none is told: the append that needs the room meets the same, or finds that it is past.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Durability, ZEROED_AT_ONCE, ZEROED_BYTES, ZEROED_ROUND_BYTES_MAX};
use crate::error::{Error, Result};
use crate::format::{DATA_START, PAGE};
use crate::fs::{DiskFile, MapAccess, MapWriter, Mapping, write_all_at};
use crate::log::core::Log;
use crate::log::roll::data_limit;
use crate::log::room::next_growth;
use crate::log::segment::{Given, Segment};
use crate::log::writer::{Active, Reach, Writer, WriterState};
use crate::sync::atomic::Ordering;

/// So much is done for a log at a time.
const STEPS_MAX: u32 = 16;
/// What the processor maps at once where it can (x86-64, and ARM with pages of 4 KiB).
const LARGE_PAGE: u64 = 2 << 20;
/// Pages are populated so many bytes at a time.
const POPULATE_BYTES: u64 = 4 << 20;
/// And so far ahead of the tail. Farther ahead they would be gone from the processor's caches when
/// they are stored to, and take memory of a log that is not appended to any more.
const POPULATED_AHEAD_BYTES: u64 = 8 << 20;
/// The name of a file that is prepared for the next roll.
const AHEAD: &str = "ahead.prepared";

/// A file that the next segment can begin in at once. It is mapped, and not held open.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) map: MapWriter,
    pub(crate) reach: Reach,
}

/// How much the rounds of syncs cover, as seen from one look ahead to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    position: u64,
    rounds: u64,
    /// They are small, or there were none yet.
    pub(super) small: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { position: 0, rounds: 0, small: true }
    }
}

impl Pace {
    /// The active file is filled up to `position`, after so many rounds of this log.
    fn note(&mut self, position: u64, rounds: u64) {
        // In another file than last time: from its beginning.
        let bytes = position.checked_sub(self.position).unwrap_or(position);
        if bytes >= ZEROED_BYTES / 2 {
            let rounds_since = rounds.saturating_sub(self.rounds);
            self.small = bytes <= rounds_since.saturating_mul(ZEROED_ROUND_BYTES_MAX);
            (self.position, self.rounds) = (position, rounds);
        }
    }
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
    /// Of the active file this is to be zeroed and given to appends.
    Zero {
        segment: Arc<Segment>,
        from: u64,
        to: u64,
    },
    /// Pages of the active file are to be made writable.
    Populate {
        segment: Arc<Segment>,
        map: Arc<Mapping>,
        /// How long the file is.
        length: u64,
        from: u64,
        to: u64,
    },
    /// A file is to be prepared, of so many bytes, and so many of them zeroed.
    Prepare {
        bytes: u64,
        zeroed: u64,
    },
}

/// Where `bytes` more end, or not far before, where a large page begins: one that the file ends in
/// is made of small ones.
pub(crate) fn in_large_pages(from: u64, bytes: u64) -> u64 {
    let to = from + bytes;
    let whole = to - to % LARGE_PAGE;
    if whole >= from + bytes / 2 { whole } else { to }
}

impl Active {
    /// Where the file is to be grown: half a growth before its end, or half of what it holds if
    /// that is less.
    fn grow_at(&self, growth: u64) -> u64 {
        let holds = self.reach.length.saturating_sub(self.segment.first_position);
        if self.reach.length < self.reach.data_limit {
            self.reach.length - growth.min(holds) / 2
        } else {
            u64::MAX
        }
    }

    /// Where more of the file is to be given to appends.
    fn give_at(&self) -> u64 {
        if self.reach.allocated < self.reach.length {
            self.reach.allocated.saturating_sub(ZEROED_BYTES / 2)
        } else {
            u64::MAX
        }
    }

    /// Where pages are to be populated from: those behind the tail are not stored to any more.
    pub(crate) fn populate_from(&self) -> u64 {
        self.reach.populated.max(self.position - self.position % PAGE as u64)
    }

    /// Where more pages are to be populated, if appends are `mapped`.
    fn populate_at(&self, mapped: bool) -> u64 {
        if mapped && self.reach.populated < self.reach.allocated {
            self.reach.populated.saturating_sub(POPULATED_AHEAD_BYTES)
        } else {
            u64::MAX
        }
    }

    /// Where the next look ahead is due: where the file is to be grown, or more of it given or
    /// populated, and three quarters into the file for the next one.
    fn look_at(&self, growth: u64, mapped: bool, next: Next) -> u64 {
        let next_begins = match next {
            Next::Wanted => self.reach.data_limit / 4 * 3,
            Next::Prepared => u64::MAX,
        };
        let pages = self.populate_at(mapped);
        self.grow_at(growth).min(self.give_at()).min(pages).min(next_begins)
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
    pub(crate) fn set_look(&mut self, mapped: bool) {
        let next = self.next();
        if let Some(active) = &mut self.active {
            active.look_at = active.look_at(self.growth, mapped, next);
        }
    }

    /// Appends go through the mapping, or blocks may be zeroed before they come, or neither.
    fn plan(&mut self, mapped: bool, may_zero: bool, rounds: u64) -> Plan {
        let next = self.next();
        let Some(active) = &mut self.active else { return Plan::Nothing };
        self.pace.note(active.position, rounds);
        let to_zero = may_zero && self.pace.small;
        let position = active.position;
        let near = |place: u64| position >= place;
        if near(active.grow_at(self.growth)) {
            let to = in_large_pages(active.reach.length, self.growth).min(active.reach.data_limit);
            let segment = Arc::clone(&active.segment);
            return Plan::Grow { segment, from: active.reach.length, to };
        }
        if to_zero && near(active.give_at()) {
            let (segment, from) = (Arc::clone(&active.segment), active.reach.allocated);
            let to = active.reach.length.min(from + ZEROED_BYTES);
            return Plan::Zero { segment, from, to };
        }
        if !to_zero && active.reach.allocated < active.reach.length {
            let length = active.reach.length;
            active.segment.set_given(length);
            active.set_allocated(length);
        }
        if near(active.populate_at(mapped)) {
            let (segment, map) = (Arc::clone(&active.segment), Arc::clone(active.map.mapping()));
            let from = active.populate_from();
            let to = (from + POPULATE_BYTES).min(active.reach.allocated);
            let length = active.reach.length;
            return Plan::Populate { segment, map, length, from, to };
        }
        if next == Next::Wanted && near(active.reach.data_limit / 4 * 3) {
            let zeroed = if to_zero { ZEROED_BYTES } else { 0 };
            return Plan::Prepare { bytes: self.growth, zeroed };
        }
        self.set_look(mapped);
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
        for _ in 0..STEPS_MAX {
            let plan = {
                let mut writer = self.writer.lock();
                if writer.state != WriterState::Open || self.latch.check().is_err() {
                    return;
                }
                let rounds = self.commit.rounds();
                writer.plan(self.writes_mapped(1), self.may_zero(), rounds)
            };
            let done = match plan {
                Plan::Nothing => return,
                Plan::Grow { segment, from, to } => self.grow_ahead(&segment, from, to),
                Plan::Zero { segment, from, to } => self.zero_ahead(&segment, from, to),
                Plan::Populate { segment, map, length, from, to } => {
                    self.populate_ahead(&segment, &map, (from, to), length)
                }
                Plan::Prepare { bytes, zeroed } => self.prepare(bytes, zeroed).inspect_err(|_| {
                    // What it got of a full disk is for what is appended.
                    let _ = self.disk.remove_file(&self.ahead_path());
                }),
            };
            if done.is_err() {
                // A full disk, for one: the append that needs the room will say so.
                return;
            }
        }
        // Others have their turn first: of a log that is appended to all the time there may be more
        // to be done for ever.
        self.ask_ahead();
    }

    fn grow_ahead(&self, of: &Arc<Segment>, from: u64, to: u64) -> Result<()> {
        let file = of.writable_file(self.disk.as_ref())?;
        of.grow(|| !self.latch.is_set(), || self.lengthen(file.as_ref(), (from, to)))
            .map_err(|e| Error::io("grow", &of.path, e))?;
        let mut writer = self.writer.lock();
        let growth = writer.growth;
        let active = writer.active.as_mut().filter(|a| Arc::ptr_eq(&a.segment, of));
        // Not if an append has grown it meanwhile, or cut it.
        if let Some(active) = active.filter(|active| active.reach.length == from) {
            active.reach.length = to;
            writer.growth = next_growth(growth);
        }
        Ok(())
    }

    /// Makes a file that reaches up to `from`, or further, reach up to `to`; what is new reads as
    /// zeros.
    pub(crate) fn lengthen(
        &self,
        file: &dyn DiskFile,
        (from, to): (u64, u64),
    ) -> std::io::Result<()> {
        if self.options.allocates {
            file.allocate(from, to - from)
        } else if file.len()? < to {
            // Sparse: nothing is reserved, so a write itself may find the disk full.
            file.set_len(to)
        } else {
            Ok(())
        }
    }

    /// Blocks may be written with zeros before batches are: an append waits for its sync.
    pub(crate) fn may_zero(&self) -> bool {
        self.options.durability == Durability::Fsync && self.options.allocates
    }

    pub(crate) fn zero_ahead(&self, of: &Arc<Segment>, from: u64, to: u64) -> Result<()> {
        let file = of.writable_file(self.disk.as_ref())?;
        for (from, to) in pieces((from, to)) {
            let given = of.give((from, to), || zero(file.as_ref(), from, to));
            match given.map_err(|e| Error::io("zero blocks of", &of.path, e))? {
                Given::Now => {}
                Given::Elsewhere => break,
            }
        }
        let mut writer = self.writer.lock();
        if let Some(active) = writer.active.as_mut().filter(|a| Arc::ptr_eq(&a.segment, of)) {
            // As it is now: an append that was short of room may have taken more, or cut the file.
            active.set_allocated(of.given());
        }
        Ok(())
    }

    fn populate_ahead(
        &self,
        of: &Segment,
        map: &Mapping,
        (from, to): (u64, u64),
        length: u64,
    ) -> Result<()> {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        map.populate_write(size(from), size(to - from))
            .map_err(|e| Error::io("populate", &of.path, e))?;
        let mut writer = self.writer.lock();
        if let Some(active) =
            writer.active.as_mut().filter(|a| std::ptr::eq(a.segment.as_ref(), of))
            // Pages that were cut off meanwhile are not present any more.
            && active.reach.length == length
        {
            active.reach.populated = active.reach.populated.max(to);
        }
        Ok(())
    }

    fn prepare(&self, bytes: u64, zeroed: u64) -> Result<()> {
        let path = self.ahead_path();
        let data_limit = data_limit(self.segment_bytes(), DATA_START, 0);
        let length = bytes.next_multiple_of(PAGE as u64).min(data_limit);
        let file = self.create_prepared(&path)?;
        let failed = |doing, e| Error::io(doing, &path, e);
        self.lengthen(file.as_ref(), (0, length)).map_err(|e| failed("grow", e))?;
        let allocated = if zeroed > 0 { zeroed.min(length) } else { length };
        for (from, to) in pieces((0, zeroed.min(allocated))) {
            zero(file.as_ref(), from, to).map_err(|e| failed("zero blocks of", e))?;
        }
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (access, start) = (self.map_access(), size(DATA_START));
        let mut map =
            file.map(size(data_limit), start, start, access).map_err(|e| failed("map", e))?;
        map.set_allocated(size(allocated));
        let mut populated = DATA_START;
        if access == MapAccess::Write {
            populated = allocated.min(DATA_START + POPULATED_AHEAD_BYTES);
            map.populate_write(start, size(populated - DATA_START))
                .map_err(|e| failed("populate", e))?;
        }
        let mut writer = self.writer.lock();
        let reach = Reach { length, allocated, populated, data_limit };
        writer.prepared = Some(Prepared { map, reach });
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

/// What is zeroed at once, of what is to be.
fn pieces((from, to): (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    (from..to).step_by(ZEROED_AT_ONCE).map(move |at| (at, to.min(at + ZEROED_AT_ONCE as u64)))
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    static ZEROS: [u8; ZEROED_AT_ONCE] = [0; ZEROED_AT_ONCE];
    let bytes = usize::try_from(to - from).unwrap_or(ZEROED_AT_ONCE);
    write_all_at(file, ZEROS.get(..bytes).unwrap_or(&ZEROS), from)
}
