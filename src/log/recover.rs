//! Opening a log: what its files say, and what follows from it.
//!
//! Not here: what the bytes of a single file say (`scan`), making what was kept true (`mend`).
//!
//! After a clean close nothing is scanned: the newest file's slots carry a mark that the volume
//! vouches for, and its closing footer tells where the log ends. Otherwise every file without a
//! footer is scanned, oldest first. The first batch that does not verify ends the log if it lies
//! above the **durable evidence**; below it, it is damage, and never a reason to cut. The evidence
//! is the largest of
//!   - the slots' durable offsets,
//!   - the ends of footers (a footer is written after the data it covers was synced),
//!   - every good batch's `synced`, batches beyond a bad one included,
//!
//! each clipped where a higher generation ended its file. Of a copy that catches up only the slots
//! (`catch_up`).
//!
//! What is kept above the evidence may be in the page cache only: the sync that should have made
//! it durable may have failed, and the kernel then calls its pages clean. So it is read, written
//! again and synced before anything is served, and a slot then says so.
//!
//! Open creates and removes no segment, and its time does not grow with the log.

mod telling;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Clock;
use crate::error::{Corruption, Error, Result};
use crate::format::{DELETED_SUFFIX, KNOWN_RO_COMPAT, SegmentKind, parse_segment_file};
use crate::fs::{Disk, EntryKind, OpenMode};
use crate::id::{Generation, Incarnation, Offset};
use crate::log::commit::Commit;
use crate::log::core::{Housekeeper, Log, LogOptions, Mode};
use crate::log::counters::Counters;
use crate::log::dedup;
use crate::log::epochs::EpochTable;
use crate::log::event::Watchers;
use crate::log::handles::Handles;
use crate::log::housekeep::Watch;
use crate::log::latch::Latch;
use crate::log::mend::mend;
use crate::log::place::Place;
use crate::log::producers::{LiveProducers, ProducerTable};
use crate::log::read_ahead::ReadAhead;
use crate::log::retain::Limits;
use crate::log::role::Role;
use crate::log::scan::{Found, Stray};
use crate::log::segment::Segment;
use crate::log::turn::Turn;
use crate::log::writer::Writer;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};

use telling::tell;

/// How the volume was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// Every close since this incarnation was clean: marks of it and of later ones hold.
    Clean { since: Incarnation },
    /// No mark holds.
    Unclean,
}

/// What an open cut or found.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogReport {
    /// Where a torn tail was cut off, and how many bytes of it.
    pub(crate) cut: Option<(Offset, u64)>,
    /// Ranges that cannot be read.
    pub(crate) damage: Vec<Arc<Corruption>>,
    /// Good batches lay beyond the end: the medium did not keep the order of writes, or there
    /// is damage that looks like a torn tail.
    pub(crate) good_beyond_end: bool,
    /// Files that are not part of the log any more.
    pub(crate) voids: Vec<PathBuf>,
    /// Whole segments that do not belong where they lie.
    pub(crate) strays: Vec<PathBuf>,
    /// Every log was closed cleanly, and this one does not say so: its last file is damaged, or
    /// is not the one it had then.
    pub(crate) mark_lost: bool,
}

/// Everything a log is opened with.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) place: Arc<Place>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) mode: Mode,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) housekeeper: Option<Arc<dyn Housekeeper>>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) producers: Arc<LiveProducers>,
}

/// A file that is part of the log, and the offset from which a later cut voids it.
pub(crate) struct Covered {
    pub(crate) found: Found,
    pub(crate) clip: Offset,
}

/// The files of a log, sorted out.
pub(crate) struct Files {
    pub(crate) covered: Vec<Covered>,
    pub(crate) voids: Vec<Found>,
    pub(crate) strays: Vec<PathBuf>,
    pub(crate) generation: Generation,
    pub(crate) log_start: Offset,
    /// From the slots and footers alone.
    pub(crate) evidence: Offset,
    /// The newest slot says that what was copied may claim more than was synced: nothing but slots
    /// is evidence.
    pub(crate) catching_up: bool,
    /// A file without a footer whose header and slots the disk did not give back.
    unreadable: Option<PathBuf>,
}

impl Files {
    /// The newest file carries a clean mark that holds, and ends as a clean close ends it.
    pub(crate) fn are_marked(&self, entrance: Entrance) -> bool {
        self.covered.split_last().is_some_and(|(newest, older)| {
            let Entrance::Clean { since } = entrance else { return false };
            newest.found.footer.as_ref().is_some_and(|footer| footer.closing)
                && newest.found.header.is_some()
                && newest.found.slots.first().is_some_and(|slot| slot.clean_mark >= since)
                && newest.clip == Offset::MAX
                && older.iter().all(|file| file.found.footer.as_ref().is_some_and(|f| !f.closing))
        })
    }

    /// The error that appends get if a file has features that only readers may ignore.
    fn written_by_newer(&self) -> Option<Error> {
        self.covered.iter().find_map(|covered| {
            let bits = covered.found.header?.ro_compat & !KNOWN_RO_COMPAT;
            let path = Arc::from(covered.found.path.as_path());
            (bits != 0).then_some(Error::Incompatible { path, bits })
        })
    }
}

/// The log as the files tell it, before anything is mended.
pub(super) struct Told {
    segments: Vec<Arc<Segment>>,
    pub(super) tail: Tail,
    pub(super) next: Offset,
    pub(super) evidence: Offset,
    pub(super) catching_up: bool,
    cut_first: bool,
    clean: bool,
    /// Where the log seems to end, there is something in this file that the disk did not give back.
    unreadable: Option<PathBuf>,
    epochs: EpochTable,
    producers: ProducerTable,
    append_time: i64,
    report: LogReport,
}

/// What may have to be mended.
#[derive(Default)]
pub(super) struct Tail {
    /// The segments that were scanned, oldest first.
    pub(super) scanned: Vec<Scanned>,
    /// Bytes behind the end of the newest one are to be cut off.
    pub(super) surplus: bool,
}

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    Whole,
    /// A crash may have done that, and it can be written anew.
    Torn,
    /// Appends are to go to another file.
    Damaged,
}

/// A segment that was scanned, and which of its first pages were no good.
pub(super) struct Scanned {
    pub(super) segment: Arc<Segment>,
    pub(super) header_damaged: bool,
    pub(super) slots_damaged: [bool; 2],
    /// Of what lies between the slots and the first batch.
    pub(super) begins: Begins,
    /// What is to be written there instead, if anything.
    pub(super) opening: Vec<u8>,
}

impl Log {
    /// Opens the log in its folder, which need not exist yet.
    pub(crate) fn open(opening: Opening, entrance: Entrance) -> Result<(Arc<Log>, LogReport)> {
        let files = find(&opening)?;
        let (generation, log_start) = (files.generation, files.log_start);
        let (newer, catching_up) = (files.written_by_newer(), files.catching_up);
        let mut told = tell(&opening, files, entrance)?;
        let mut durable = told.next;
        let latch = Latch::default();
        match opening.mode {
            Mode::ReadOnly => {
                // A live broker may still take back what lies above the evidence.
                told.next = told.evidence;
                durable = told.evidence;
            }
            Mode::ReadWrite if newer.is_some() => {
                durable = told.evidence;
                latch.halt(newer.unwrap_or(Error::ReadOnly));
            }
            // What cannot be read is no torn tail: the disk may give it back another time. 1. the
            // last batches, or the slots, are in blocks that fail; 2. the log would seem to end
            // before them, and be shortened or begun anew there; 3. acknowledged records are gone
            // for good. So nothing is changed, and what is known to be durable is served.
            Mode::ReadWrite if told.unreadable.is_some() => {
                let path = told.unreadable.take().unwrap_or_default();
                durable = told.evidence;
                latch.halt(Error::io("read", &path, std::io::Error::other("a failing block")));
            }
            Mode::ReadWrite if !told.clean => {
                if let Err(error) = mend(&opening, &told, log_start) {
                    durable = told.evidence;
                    latch.halt(error);
                }
            }
            Mode::ReadWrite => {}
        }
        let Told { segments, next, cut_first, clean: marked, append_time, report, .. } = told;
        let mut writer = Writer::new(next, told.epochs, generation);
        writer.producers = told.producers;
        writer.append_time = append_time;
        writer.cut_first = cut_first;
        writer.voids.clone_from(&report.voids);
        // A file with a footer that is not a closing one is finished.
        writer.resume = segments
            .last()
            .filter(|last| !cut_first && last.footer().is_none_or(|footer| footer.closing))
            .cloned();
        let log = Log::assemble(opening, writer, segments, durable, latch);
        *log.damage_at_open.lock() = report.damage.iter().map(|it| (it.first, it.end)).collect();
        log.log_start.store(log_start.min(next).get(), Ordering::Release);
        log.catching_up.store(catching_up, Ordering::Release);
        log.marked.store(marked, Ordering::Release);
        log.counters.knows(&log.writer.lock().producers);
        Ok((Arc::new(log), report))
    }

    /// The log of a topic that is being made: it has no file, nor a folder to look into.
    pub(crate) fn fresh(opening: Opening) -> Arc<Log> {
        let writer = Writer::new(Offset::ZERO, EpochTable::default(), Generation::new(0));
        let log = Log::assemble(opening, writer, Vec::new(), Offset::ZERO, Latch::default());
        log.marked.store(true, Ordering::Release);
        Arc::new(log)
    }

    /// A log whose files cannot be used: every call but the ones that look at it fails with `why`,
    /// and nothing of it is changed.
    pub(crate) fn refused(opening: Opening, why: Error) -> Arc<Log> {
        let writer = Writer::new(Offset::ZERO, EpochTable::default(), Generation::new(0));
        let latch = Latch::default();
        latch.refuse(why);
        Arc::new(Log::assemble(opening, writer, Vec::new(), Offset::ZERO, latch))
    }

    /// A log without records, whose files are all void: for a copy that is to be filled from
    /// another one, and whose own files the disk does not give back. [`Log::reset_to`] is to be
    /// called next.
    pub(crate) fn open_void(opening: Opening) -> Result<Arc<Log>> {
        let files = find(&opening)?;
        let mut writer = Writer::new(Offset::ZERO, EpochTable::default(), files.generation);
        let covered = files.covered.into_iter().map(|covered| covered.found);
        writer.voids = covered.chain(files.voids).map(|found| found.path).collect();
        let latch = Latch::default();
        Ok(Arc::new(Log::assemble(opening, writer, Vec::new(), Offset::ZERO, latch)))
    }

    /// A log at rest, from its parts. It starts where its records begin, and has no clean mark.
    fn assemble(
        opening: Opening,
        writer: Writer,
        segments: Vec<Arc<Segment>>,
        durable: Offset,
        latch: Latch,
    ) -> Log {
        let next = writer.next;
        let dedup = dedup::Index::new(opening.options.dedup, next);
        Log {
            dedup,
            place: opening.place,
            disk: opening.disk,
            limits: Limits::new(&opening.options, segments.is_empty()),
            options: opening.options,
            mode: opening.mode,
            clock: opening.clock,
            housekeeper: opening.housekeeper,
            handles: opening.handles,
            producers: opening.producers,
            queued: AtomicBool::new(false),
            urged: AtomicBool::new(false),
            ahead_due: AtomicBool::new(false),
            read_ahead: ReadAhead::default(),
            ahead_turn: Turn::default(),
            writer: Mutex::new(writer),
            commit: Commit::default(),
            segments: RwLock::new(Arc::new(segments)),
            leo: AtomicU64::new(next.get()),
            durable: AtomicU64::new(durable.get()),
            catching_up: AtomicBool::new(false),
            end_at_open: next,
            damage_at_open: Mutex::default(),
            role: Role::default(),
            cut_count: AtomicUsize::new(0),
            log_start: AtomicU64::new(0),
            latch,
            turn: Turn::default(),
            watchers: Arc::new(Watchers::default()),
            watch: Watch::new(durable),
            doomed: Mutex::new(Vec::new()),
            marked: AtomicBool::new(false),
            counters: Counters::default(),
            removed: Arc::default(),
            seen: Mutex::new(None),
        }
    }
}

/// How often a folder is listed anew because a live broker removed a file meanwhile.
const LISTINGS_MAX: u32 = 16;

/// Lists the files and sorts out which are part of the log.
pub(crate) fn find(opening: &Opening) -> Result<Files> {
    // Where a file vanished, another one that is not on the list may tell the log start by now.
    let mut listings = 1;
    loop {
        let vanished = if listings < LISTINGS_MAX { Vanished::ListAgain } else { Vanished::Skip };
        if let Some(files) = list(opening, vanished)? {
            return Ok(files);
        }
        listings += 1;
    }
}

/// What is done about a file that is listed and not there any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vanished {
    ListAgain,
    Skip,
}

/// `None` if the folder is to be listed again.
fn list(opening: &Opening, vanished: Vanished) -> Result<Option<Files>> {
    let dir = &opening.place.dir;
    let entries = match opening.disk.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    let (mut found, mut strays) = (Vec::new(), Vec::new());
    let mut newest = Generation::new(0);
    for entry in entries {
        let path = dir.join(&entry.name);
        if let Some((base, generation)) = parse_segment_file(&entry.name) {
            if entry.kind != EntryKind::File {
                return Err(Error::damaged(&path, "not a regular file"));
            }
            let file = match opening.disk.open(&path, OpenMode::Read) {
                Ok(file) => file,
                // Beside a live broker, which deleted it meanwhile.
                Err(e)
                    if opening.mode == Mode::ReadOnly
                        && e.kind() == std::io::ErrorKind::NotFound =>
                {
                    match vanished {
                        Vanished::ListAgain => return Ok(None),
                        Vanished::Skip => continue,
                    }
                }
                Err(e) => return Err(Error::io("open", &path, e)),
            };
            let identity = &opening.place.identity;
            let read = Found::read(path.clone(), base, generation, file.as_ref(), identity)
                .map_err(|e| Error::io("read", &path, e))?;
            if let Some(bits) = read.incompatible {
                return Err(Error::Incompatible { path: Arc::from(path.as_path()), bits });
            }
            newest = newest.max(generation);
            if read.stray == Some(Stray::OfAnotherLog) {
                strays.push(path);
            } else {
                found.push(read);
            }
        } else if entry.name.ends_with(DELETED_SUFFIX) && opening.mode == Mode::ReadWrite {
            // A crash between the two steps of a removal. Failing is harmless: it is not a segment.
            let _ = opening.disk.remove_file(&path);
        }
    }
    let mut files = sort_out(found, strays);
    // Strays keep their names: a new file must not take one.
    files.generation = files.generation.max(newest);
    Ok(Some(files))
}

/// Which files are part of the log: a cut voids everything of an older generation from its base
/// on, a rewritten file replaces what it covers.
fn sort_out(mut found: Vec<Found>, strays: Vec<PathBuf>) -> Files {
    found.sort_by_key(|file| std::cmp::Reverse((file.generation, file.base)));
    let mut files = Files {
        covered: Vec::new(),
        voids: Vec::new(),
        strays,
        generation: found.first().map_or(Generation::new(0), |newest| newest.generation),
        log_start: Offset::ZERO,
        evidence: Offset::ZERO,
        // 1. A copy that catches up fills a gap with a file, which says so for ever; 2. it has
        // caught up, and its newest file says so; 3. the other one, of a newer generation, is no
        // evidence.
        catching_up: found
            .iter()
            .filter(|file| file.kind() != Some(SegmentKind::Rewritten))
            .find_map(|file| file.slots.first())
            .is_some_and(|slot| slot.catching_up),
        unreadable: found
            .iter()
            .find(|file| !file.head_readable && file.footer.is_none())
            .map(|file| file.path.clone()),
    };
    // Of the generations above the one being looked at.
    let mut voided_from = Offset::MAX;
    let mut replaced: Vec<(Offset, Offset)> = Vec::new();
    let mut at = 0;
    while at < found.len() {
        let generation = found[at].generation;
        let of_same = found[at..].iter().take_while(|f| f.generation == generation).count();
        let clip = voided_from;
        for file in &found[at..at + of_same] {
            match (file.kind(), &file.footer) {
                (Some(SegmentKind::Cut), _) => voided_from = voided_from.min(file.base),
                (Some(SegmentKind::Rewritten), Some(footer)) => {
                    replaced.push((file.base, footer.covered_end));
                }
                _ => {}
            }
        }
        for file in found.drain(at..at + of_same).collect::<Vec<_>>() {
            for slot in &file.slots {
                files.log_start = files.log_start.max(slot.log_start);
                files.evidence = files.evidence.max(slot.durable.min(clip));
            }
            let is_replaced = file.kind() != Some(SegmentKind::Rewritten)
                && replaced.iter().any(|&(from, to)| from <= file.base && file.base < to);
            if file.stray.is_none() && (file.base >= clip || is_replaced) {
                files.voids.push(file);
                continue;
            }
            if let Some(footer) = &file.footer
                && !footer.closing
                && !files.catching_up
            {
                files.evidence = files.evidence.max(footer.covered_end.min(clip));
            }
            if file.stray.is_some() {
                files.strays.push(file.path);
                continue;
            }
            files.covered.push(Covered { found: file, clip });
        }
        at = 0;
    }
    files.covered.sort_by_key(|covered| (covered.found.base, covered.found.generation));
    // One that was written in place of the end of the file before it.
    for at in 1..files.covered.len() {
        let (before, here) = files.covered.split_at_mut(at);
        if let (Some(before), Some(here)) = (before.last_mut(), here.first())
            && here.found.kind() == Some(SegmentKind::Rewritten)
        {
            before.clip = before.clip.min(here.found.base);
        }
    }
    files
}
