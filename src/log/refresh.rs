//! Looking again, read-only, at a log that a live broker is writing.
//!
//! Not here: a log of our own, which knows its end.
//!
//! A look reads the names, the newest file's slots, and what lies behind the last batch known; only
//! where that does not tell everything are the files read as an open does.

use std::io::ErrorKind::NotFound;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, PAGE, SLOT_POSITIONS, Slot, TimeEntry, parse_segment_file,
};
use crate::fs::{DiskFile, OpenMode, read_exact_at};
use crate::id::Offset;
use crate::log::core::{Log, Mode};
use crate::log::index::MemoryIndex;
use crate::log::recover::{Entrance, LogReport, Opening};
use crate::log::scan::{copied_image, scan};
use crate::log::segment::{Parts, Segment};
use crate::sync::atomic::Ordering;

/// How often a log is opened anew of which a live broker deletes files meanwhile.
const OPENS_MAX: u32 = 3;

/// The windows that a file's new batches are read in; a larger batch gets one of its own.
const WINDOW_BYTES_MIN: usize = 16 << 10;
const WINDOW_BYTES_MAX: usize = 1 << 20;

/// Whether a log has files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Files,
    /// Nothing was appended yet, or its topic was deleted.
    Nothing,
}

/// What a look at a log saw besides batches.
#[derive(Debug)]
pub(crate) struct Glance {
    /// Of its segment files.
    names: Vec<String>,
    /// The length of the file before the newest one, which changes when it is sealed.
    before: Option<u64>,
    /// The newest file's slot pages.
    slots: Vec<u8>,
    /// That file, if it could be read.
    newest: Option<Arc<dyn DiskFile>>,
}

/// Whether reading on told everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakenUp {
    All,
    NotAll,
}

/// The newest file, read on.
struct Tail {
    next: Offset,
    end_position: u64,
    /// The largest `synced` of the batches read.
    synced: Offset,
    index: MemoryIndex,
}

impl Log {
    /// As [`Log::open`]; read-only also where a live broker deletes a file after it was listed.
    pub(crate) fn open_beside(
        opening: &Opening,
        entrance: Entrance,
    ) -> Result<(Arc<Log>, LogReport)> {
        for _ in 1..OPENS_MAX {
            match Log::open(opening.clone(), entrance) {
                Err(Error::Io(failure))
                    if opening.mode == Mode::ReadOnly && failure.source.kind() == NotFound => {}
                opened => return opened,
            }
        }
        Log::open(opening.clone(), entrance)
    }

    /// Reads again what may have changed: takes up what has become durable since, and forgets
    /// what was deleted. Does nothing to a log of our own.
    pub(crate) fn refresh(&self) -> Result<Presence> {
        if self.mode == Mode::ReadWrite {
            return Ok(Presence::Files);
        }
        // One at a time: an older look must not replace a newer one.
        let _turn = self.turn.take();
        // Taken before what it tells of is read: what changes in between is seen the next time.
        let mut glance = self.glance()?;
        let presence = if glance.names.is_empty() { Presence::Nothing } else { Presence::Files };
        let seen = self.seen.lock().take();
        let taken_up = match &seen {
            Some(seen) if (&seen.names, seen.before) == (&glance.names, glance.before) => {
                self.take_up(seen, &glance)?
            }
            _ => TakenUp::NotAll,
        };
        if taken_up == TakenUp::NotAll {
            let opening = self.opening_read_only();
            let (log, _) = Log::open_beside(&opening, Entrance::Unclean)?;
            self.change_segments(|list| *list = log.segments().to_vec());
            self.advance(log.end_offset(), log.start_offset());
        }
        // Nothing is held open between looks.
        glance.newest = None;
        *self.seen.lock() = Some(glance);
        Ok(presence)
    }

    fn advance(&self, end: Offset, start: Offset) {
        self.leo.fetch_max(end.get(), Ordering::AcqRel);
        self.durable.fetch_max(end.get(), Ordering::AcqRel);
        self.log_start.fetch_max(start.get(), Ordering::AcqRel);
    }

    /// What tells at little cost whether anything changed but the newest file's batches.
    fn glance(&self) -> Result<Glance> {
        let dir = &self.place.dir;
        let entries = match self.disk.list(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == NotFound => Vec::new(),
            Err(e) => return Err(Error::io("list", dir, e)),
        };
        let names = entries.into_iter().map(|entry| entry.name);
        let names: Vec<_> = names.filter(|name| parse_segment_file(name).is_some()).collect();
        let path = |from_end: usize| names.iter().rev().nth(from_end).map(|name| dir.join(name));
        let before = path(1).and_then(|path| self.disk.stat(&path).ok()).map(|stat| stat.bytes);
        let mut slots = vec![0; SLOT_POSITIONS.len() * PAGE];
        let newest = path(0)
            .and_then(|path| self.disk.open(&path, OpenMode::Read).ok())
            .filter(|file| read_exact_at(file.as_ref(), &mut slots, SLOT_POSITIONS[0]).is_ok());
        Ok(Glance { names, before, slots, newest })
    }

    /// Reads on in the newest file.
    fn take_up(&self, seen: &Glance, glance: &Glance) -> Result<TakenUp> {
        let list = self.segments();
        let (Some(newest), Some(file)) = (list.last(), &glance.newest) else {
            return Ok(if glance.names.is_empty() { TakenUp::All } else { TakenUp::NotAll });
        };
        let is_last = glance.names.last().is_some_and(|name| newest.path.ends_with(name));
        if !is_last || newest.footer().is_some() || newest.clip() < Offset::MAX {
            return Ok(TakenUp::NotAll);
        }
        let mut evidence = self.end_offset();
        let mut log_start = self.start_offset();
        for page in glance.slots.chunks_exact(PAGE) {
            if let Ok(slot) = Slot::decode(page, &self.place.identity)
                && slot.generation == newest.generation
            {
                evidence = evidence.max(slot.durable);
                log_start = log_start.max(slot.log_start);
            }
        }
        let from = if seen.slots == glance.slots {
            newest.end_position()
        } else {
            // An open may have put other batches in place of those that nothing vouched for, and
            // writes a slot when it has.
            let known = newest.index.read().position_before(self.end_offset());
            known.unwrap_or(newest.first_position)
        };
        let tail = self
            .tail(newest, file.as_ref(), from)
            .map_err(|e| Error::io("read", &newest.path, e))?;
        evidence = evidence.max(tail.synced);
        if evidence > tail.next {
            // Vouched for, and not there: the whole file tells what is damaged.
            return Ok(TakenUp::NotAll);
        }
        if tail.end_position != newest.end_position() || tail.next != newest.end() {
            let segment = Segment::new(Parts {
                base: newest.base,
                generation: newest.generation,
                kind: newest.kind,
                first_position: newest.first_position,
                path: newest.path.clone(),
                end: tail.next,
                end_position: tail.end_position,
                trusted_from: tail.end_position,
                footer: None,
                index: tail.index,
                totals: *newest.totals.lock(),
                slot_sequence: 0,
                handles: Arc::clone(&self.handles),
                reads: self.options.reads(),
            });
            segment.verified.take_over(&newest.verified);
            segment.verified.insert(from, tail.end_position);
            let segment = Arc::new(segment);
            self.change_segments(|list| {
                if let Some(last) = list.last_mut() {
                    *last = segment;
                }
            });
        }
        self.advance(evidence, log_start);
        Ok(TakenUp::All)
    }

    /// The good batches in a row from `from` on, which is one's position or the end.
    fn tail(&self, newest: &Segment, file: &dyn DiskFile, from: u64) -> std::io::Result<Tail> {
        let identity = &self.place.identity;
        let index = newest.index.read();
        let kept = index.offsets().partition_point(|entry| entry.position < from);
        let mut offsets = index.offsets()[..kept].to_vec();
        let mut times = index.times()[..kept].to_vec();
        drop(index);
        // A lower bound, where the row begins within what is known.
        let next = if from == newest.end_position() { newest.end() } else { newest.base };
        let mut tail =
            Tail { next, end_position: from, synced: Offset::ZERO, index: MemoryIndex::default() };
        let mut window_bytes = WINDOW_BYTES_MIN;
        loop {
            let at = tail.end_position;
            let rest = file.len()?.saturating_sub(at);
            let bytes = usize::try_from(rest).unwrap_or(usize::MAX).min(window_bytes);
            let window = copied_image(file, at, bytes)?;
            let Ok(header) = BatchHeader::decode(window.bytes(), identity) else { break };
            if header.batch_bytes() > bytes && bytes == window_bytes {
                window_bytes = header.batch_bytes();
                continue;
            }
            let found = scan(window.bytes(), at, identity, tail.next, Offset::MAX);
            let Some(run) = found.runs.first().filter(|run| run.position == at) else {
                break;
            };
            (tail.next, tail.end_position) = (run.next, run.end_position);
            tail.synced = tail.synced.max(run.synced);
            offsets.extend_from_slice(run.index.offsets());
            // Times rise within a segment, and a run knows its own only.
            let highest = times.last().map_or(i64::MIN, |last| last.max_timestamp);
            times.extend(
                run.index.times().iter().map(|time| TimeEntry {
                    max_timestamp: time.max_timestamp.max(highest),
                    ..*time
                }),
            );
            let read = usize::try_from(run.end_position - at).unwrap_or(usize::MAX);
            let behind = window.bytes().get(read..).unwrap_or_default();
            if behind.len() >= BATCH_HEADER_BYTES && BatchHeader::decode(behind, identity).is_err()
            {
                break;
            }
            window_bytes = WINDOW_BYTES_MAX;
        }
        tail.index = MemoryIndex::from_entries(offsets, times);
        Ok(tail)
    }

    /// The same log, to be looked at and not touched.
    pub(crate) fn opening_read_only(&self) -> Opening {
        Opening {
            place: Arc::clone(&self.place),
            disk: Arc::clone(&self.disk),
            options: self.options.clone(),
            mode: Mode::ReadOnly,
            clock: Arc::clone(&self.clock),
            housekeeper: None,
            handles: Arc::clone(&self.handles),
            producers: Arc::clone(&self.producers),
        }
    }
}
