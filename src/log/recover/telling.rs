//! Putting a log together from its files: which offsets are there, which are damaged, and where it
//! ends.
//!
//! Not here: which files there are, and which of them counts where two cover an offset (the opening
//! itself).

use std::sync::Arc;

use super::{Begins, Covered, Entrance, Files, LogReport, Opening, Scanned, Tail, Told};
use crate::config::DedupWindow;
use crate::error::{Error, Result};
use crate::format::{
    BatchHeader, DATA_START, EpochEntry, PAGE, SectionKind, SegmentKind, encode_section_in,
};
use crate::id::Offset;
use crate::log::core::Mode;
use crate::log::dedup::keys_in;
use crate::log::epochs::EpochTable;
use crate::log::index::MemoryIndex;
use crate::log::producers::{Carried, ProducerTable, opening_section};
use crate::log::scan::{Found, Image, Run, Scan, image, is_bad_sector, scan, written_bytes};
use crate::log::segment::{Parts, Segment, Totals};

/// Where the section ends at most that a file begins with, and that an open may write anew: far
/// more than all the producers and epochs take that a log may know.
const OPENING_END_MAX: u64 = DATA_START + (16 << 20);

/// Puts the log together from its files.
pub(super) fn tell(opening: &Opening, files: Files, entrance: Entrance) -> Result<Told> {
    let empty = files.covered.is_empty() && files.voids.is_empty() && files.strays.is_empty();
    let clean = files.are_marked(entrance) || empty;
    let mut builder = Builder {
        opening,
        log_start: files.log_start,
        // What lies below the log start is gone on purpose; what is not, should be there.
        next: files.covered.first().map_or(files.log_start, |f| f.found.base.min(files.log_start)),
        evidence: files.evidence,
        told: Told {
            segments: Vec::new(),
            tail: Tail::default(),
            next: Offset::ZERO,
            evidence: Offset::ZERO,
            catching_up: files.catching_up,
            cut_first: false,
            clean,
            unreadable: files.unreadable,
            epochs: EpochTable::default(),
            producers: ProducerTable::default(),
            append_time: 0,
            report: LogReport {
                voids: files.voids.iter().map(|file| file.path.clone()).collect(),
                strays: files.strays,
                mark_lost: entrance != Entrance::Unclean && !clean,
                ..LogReport::default()
            },
        },
        last_scanned: None,
        tail_producers: ProducerTable::default(),
        ended: false,
    };
    // Scanned first, all of them: a batch in a later file is evidence for an earlier one.
    let mut scans = Vec::new();
    for Covered { found, clip } in &files.covered {
        let sealed = found.footer.as_ref().is_some_and(|footer| clean || !footer.closing);
        let scanned = if sealed { None } else { Some(scan_file(opening, found, *clip)?) };
        if let Some((_, scan)) = &scanned
            && !files.catching_up
        {
            let synced = scan.runs.iter().map(|run| run.synced.min(*clip)).max();
            builder.evidence = builder.evidence.max(synced.unwrap_or(Offset::ZERO));
        }
        scans.push(scanned);
    }
    for (covered, scanned) in files.covered.into_iter().zip(scans) {
        match scanned {
            _ if builder.ended => builder.told.report.voids.push(covered.found.path),
            None => builder.take_sealed(covered)?,
            Some((image, scan)) => builder.take_scanned(covered, image, &scan)?,
        }
    }
    builder.finish()
}

/// The bytes of a file without a footer, and its batches.
fn scan_file(opening: &Opening, found: &Found, clip: Offset) -> Result<(Image, Scan)> {
    let first = found.first_position();
    let file = found.open(opening.disk.as_ref())?;
    let image = image(file.as_ref(), first, found.bytes, opening.mode)
        .map_err(|e| Error::io("read", &found.path, e))?;
    let scan = scan(image.view.bytes(), first, &opening.place.identity, found.base, clip);
    Ok((image, scan))
}

struct Builder<'a> {
    opening: &'a Opening,
    log_start: Offset,
    /// The end of what was put together so far.
    next: Offset,
    evidence: Offset,
    told: Told,
    /// The scanned segment that the log ends in so far, and its file's bytes.
    last_scanned: Option<(Arc<Segment>, Found, Image)>,
    /// Of its batches.
    tail_producers: ProducerTable,
    /// The log ended before the files did.
    ended: bool,
}

impl Builder<'_> {
    fn damage(&mut self, first: Offset, end: Offset, path: &std::path::Path, position: u64) {
        let what = "damaged below what was durable";
        let error = self.opening.place.corrupt(first, end, path, position, what);
        if let Error::Corrupt(corruption) = error {
            self.told.report.damage.push(corruption);
        }
    }

    fn missing(&mut self, first: Offset, end: Offset) {
        let what = "a segment file is missing";
        let dir = &self.opening.place.dir;
        if let Error::Corrupt(corruption) = self.opening.place.corrupt(first, end, dir, 0, what) {
            self.told.report.damage.push(corruption);
        }
    }

    /// Something is missing between the end so far and `base`. False if the log ends there.
    fn bridge(&mut self, base: Offset) -> bool {
        if base > self.next {
            if self.next >= self.evidence {
                return false;
            }
            self.keep_damage(base);
            if base > self.log_start {
                self.missing(self.next.max(self.log_start), base);
            }
        }
        true
    }

    /// The newest segment so far holds the offsets up to `end`, though some cannot be read. What
    /// lies behind its last good batch stays where it is, and may be readable another time: 1. its
    /// last batch has a flipped bit, or is in a block that fails; 2. a seal writes the sections
    /// behind the last good batch; 3. the record is gone for good.
    ///
    /// A batch may end in zeros: room is kept for all that it may have taken.
    fn keep_damage(&self, end: Offset) {
        if let Some((segment, _, image)) = &self.last_scanned
            && self.told.segments.last().is_some_and(|last| Arc::ptr_eq(last, segment))
            && let position = segment.end_position()
            && image.kept_to(segment.first_position) > position
        {
            let bytes = image.view.bytes();
            let file_end = segment.first_position + (bytes.len() / 8 * 8) as u64;
            let from = usize::try_from(position - segment.first_position).unwrap_or(usize::MAX);
            let there = BatchHeader::decode(
                bytes.get(from..).unwrap_or_default(),
                &self.opening.place.identity,
            );
            let kept_to = match there {
                Ok(header) if header.next_offset() == end => {
                    (position + header.batch_bytes() as u64).min(file_end)
                }
                _ => file_end,
            };
            segment.publish(end, kept_to);
        }
    }

    fn take_sealed(&mut self, covered: Covered) -> Result<()> {
        let Covered { found, clip } = covered;
        let Some(footer) = found.footer.clone() else { return Ok(()) };
        if !self.bridge(found.base) || found.base < self.next {
            self.end_before(found);
            return Ok(());
        }
        let end = footer.end_offset.min(clip);
        let segment = Segment::new(Parts {
            base: found.base,
            generation: found.generation,
            kind: footer.kind,
            first_position: found.first_position(),
            path: found.path,
            end: footer.end_offset,
            end_position: footer.data_end,
            trusted_from: footer.data_end,
            index: MemoryIndex::default(),
            totals: Totals {
                records: footer.record_count,
                batches: footer.batch_count,
                max_timestamp: footer.max_timestamp,
                append_time: footer.max_append_time,
            },
            slot_sequence: found.slots.first().map_or(0, |slot| slot.sequence),
            handles: Arc::clone(&self.opening.handles),
            reads: self.opening.options.reads(),
            footer: Some(footer.clone()),
        });
        if clip < Offset::MAX {
            segment.cut(clip);
        }
        let table =
            segment.sealed_epochs(self.opening.disk.as_ref(), &self.opening.place.identity)?;
        match table {
            Some(entries) => self.told.epochs.extend(entries),
            None => self.told.epochs.note(footer.last_epoch, found.base),
        }
        self.told.epochs.cut(end);
        self.told.append_time = self.told.append_time.max(footer.max_append_time);
        self.next = self.next.max(end).max(footer.covered_end.min(clip));
        self.told.segments.push(Arc::new(segment));
        Ok(())
    }

    /// Where a file's first batch is, and what is known of what lies before that.
    fn beginning(&mut self, found: &Found, scan: &Scan) -> Result<(u64, Begins)> {
        let said = found.header.map(|header| header.first_position);
        let first_position = match (said, scan.runs.first()) {
            // The header is gone, and some of what follows it may be. The first batch tells.
            (None, Some(run)) if run.first == found.base && run.position % PAGE as u64 == 0 => {
                run.position
            }
            // What the file was to begin with may have been cut off.
            (Some(said), None) if said <= OPENING_END_MAX => said,
            _ => found.first_position(),
        };
        if first_position == DATA_START && said.is_none_or(|said| said == first_position) {
            return Ok((first_position, Begins::Whole));
        }
        let file = found.open(self.opening.disk.as_ref())?;
        let identity = &self.opening.place.identity;
        let section = opening_section(file.as_ref(), identity, first_position);
        if section.unreadable {
            self.told.unreadable = Some(found.path.clone());
        }
        let whole = section.end_position == first_position;
        let begins = match found.kind().unwrap_or(SegmentKind::Rolled) {
            _ if whole && said.is_none_or(|said| said == first_position) => Begins::Whole,
            SegmentKind::Rolled if first_position <= OPENING_END_MAX => Begins::Torn,
            _ => Begins::Damaged,
        };
        Ok((first_position, begins))
    }

    fn take_scanned(&mut self, covered: Covered, image: Image, scan: &Scan) -> Result<()> {
        let Covered { found, clip } = covered;
        // A file whose header never reached the medium, and that holds nothing from its base on,
        // never was.
        let never_was =
            found.header.is_none() && scan.runs.first().is_none_or(|run| run.first != found.base);
        if (never_was && found.base >= self.evidence)
            || !self.bridge(found.base)
            || found.base < self.next
        {
            if image.unreadable_to > 0 {
                self.told.unreadable = Some(found.path.clone());
            }
            self.end_before(found);
            return Ok(());
        }
        self.next = found.base;
        let (first_position, begins) = self.beginning(&found, scan)?;
        let image = image.without(first_position - found.first_position());
        if found.kind() == Some(SegmentKind::Cut) {
            self.told.epochs.extend(carried_epochs(self.opening, &found));
        }
        let mut end_position = first_position;
        let mut index = MemoryIndex::default();
        let mut totals = Totals::NONE;
        let mut verified = Vec::new();
        let runs = scan.runs.len();
        let mut taken = 0;
        self.tail_producers = ProducerTable::default();
        for run in &scan.runs {
            if run.position != end_position {
                if self.next >= self.evidence {
                    self.told.report.good_beyond_end = true;
                    break;
                }
                self.damage(self.next, run.first, &found.path, end_position);
            }
            end_position = run.end_position;
            self.next = run.next.min(clip);
            index.extend(&run.index, totals.max_timestamp);
            totals.add(run);
            self.told.epochs.extend(run.epochs.iter().copied());
            self.tail_producers.follow_with(&run.producers);
            verified.push((run.position, run.end_position));
            taken += 1;
        }
        self.told.append_time = self.told.append_time.max(totals.append_time);
        let segment = Arc::new(Segment::new(Parts {
            base: found.base,
            generation: found.generation,
            kind: found.kind().unwrap_or(SegmentKind::Rolled),
            first_position,
            path: found.path.clone(),
            end: self.next,
            end_position,
            trusted_from: image.kept_to(first_position).max(end_position),
            footer: None,
            index,
            totals,
            slot_sequence: found.slots.first().map_or(0, |slot| slot.sequence),
            handles: Arc::clone(&self.opening.handles),
            reads: self.opening.options.reads(),
        }));
        for (start, end) in verified {
            segment.verified.insert(start, end);
        }
        if self.opening.mode == Mode::ReadWrite && self.opening.options.dedup != DedupWindow::Off {
            let runs = scan.runs.get(..taken).unwrap_or_default();
            let bytes = (image.view.bytes(), first_position);
            segment.keys.fill(keys_in(&self.opening.place.identity, bytes, found.base, runs));
        }
        if clip < Offset::MAX {
            segment.cut(clip);
        }
        // A rolled file gets its header back; appends to another go to a new file.
        self.told.cut_first = found.header.is_none() && segment.kind != SegmentKind::Rolled;
        self.told.segments.push(Arc::clone(&segment));
        self.told.tail.scanned.push(Scanned {
            segment: Arc::clone(&segment),
            header_damaged: found.header.is_none(),
            slots_damaged: found.damaged_slots,
            begins,
            opening: Vec::new(),
        });
        self.last_scanned = Some((segment, found, image));
        if taken < runs {
            self.ended = true;
        }
        Ok(())
    }

    /// The log ended before this file: it is void from now on.
    fn end_before(&mut self, found: Found) {
        self.ended = true;
        self.told.cut_first = true;
        self.told.report.voids.push(found.path);
    }

    fn finish(mut self) -> Result<Told> {
        if let Some((segment, found, image)) = &self.last_scanned
            && self.told.segments.last().is_some_and(|last| Arc::ptr_eq(last, segment))
            && image.unreadable_to > segment.end_position()
        {
            self.told.unreadable = Some(found.path.clone());
        }
        // A stray keeps its name: what follows begins a generation whose names are free.
        self.told.cut_first |= !self.told.report.strays.is_empty();
        if self.ended {
            // Files beyond the end, or a file that ends early: what follows is void.
            self.told.cut_first |= !self.told.report.voids.is_empty();
        }
        if self.next < self.evidence {
            // Damage at the end: what was durable was there, so its offsets are not given again.
            let (path, position) = match self.told.segments.last() {
                Some(last) => (last.path.clone(), last.end_position()),
                None => (self.opening.place.dir.clone(), 0),
            };
            let (first, end) = (self.next.max(self.log_start), self.evidence);
            if first < end {
                self.damage(first, end, &path, position);
            }
            self.keep_damage(self.evidence);
            self.next = self.evidence;
            self.told.cut_first = true;
        } else if let Some((segment, found, image)) = &self.last_scanned {
            let end = segment.end_position();
            let is_newest =
                self.told.segments.last().is_some_and(|last| Arc::ptr_eq(last, segment));
            if found.bytes > end && is_newest {
                self.told.tail.surplus = true;
                let start = usize::try_from(end - segment.first_position).unwrap_or(usize::MAX);
                let behind = image.view.bytes().get(start..).unwrap_or_default();
                let closed_here = found.footer.as_ref().is_some_and(|f| f.data_end == end);
                // Zeros are what was allocated ahead; anything else is a torn tail.
                let torn = written_bytes(behind);
                if torn > 0 && !closed_here {
                    self.told.report.cut = Some((self.next, torn as u64));
                }
            }
        }
        self.told.next = self.next.max(self.log_start);
        self.told.evidence = self.evidence.min(self.told.next).max(self.log_start);
        if self.opening.mode == Mode::ReadWrite {
            let segments = self.told.segments.clone();
            let (disk, identity) = (self.opening.disk.as_ref(), &self.opening.place.identity);
            let carried = Carried { segments: &segments, disk, identity };
            let known = self.producers(&carried).and_then(|producers| {
                self.told.producers = producers;
                self.begin_anew(&carried)
            });
            match (known, segments.last()) {
                // As where batches cannot be read: nothing is changed, nothing appended.
                (Err(Error::Io(failure)), Some(newest)) if is_bad_sector(&failure.source) => {
                    self.told.unreadable.get_or_insert_with(|| newest.path.clone());
                }
                (known, _) => known?,
            }
        }
        Ok(self.told)
    }

    /// What the files are to begin with whose own beginning is torn. A crash does that to a rolled
    /// file, whose batches count all the same. To another one only damage does.
    fn begin_anew(&mut self, carried: &Carried<'_>) -> Result<()> {
        for found in &mut self.told.tail.scanned {
            if found.begins == Begins::Whole {
                continue;
            }
            let segment = &found.segment;
            let is_it = |other: &Arc<Segment>| Arc::ptr_eq(other, segment);
            let Some(index) = carried.segments.iter().position(is_it) else { continue };
            let mut rows = carried.at_base_of(index)?;
            rows.retain(|id| self.opening.producers.may_append(id));
            let blocks = (segment.first_position - DATA_START) / PAGE as u64;
            let blocks = usize::try_from(blocks).unwrap_or(0);
            let kind = SectionKind::Producers;
            let section = encode_section_in(kind, &rows.rows(), blocks, carried.identity);
            match section.filter(|_| found.begins == Begins::Torn) {
                Some(section) => found.opening = section,
                // Appends go to a new one, which begins with what is known now: what this one does
                // would be unknown for good once the file before is gone.
                None => self.told.cut_first |= index + 1 == carried.segments.len(),
            }
        }
        Ok(())
    }

    /// The producers that may append again, as of the end.
    fn producers(&self, carried: &Carried<'_>) -> Result<ProducerTable> {
        let Some((newest, older)) = carried.segments.split_last() else {
            return Ok(ProducerTable::default());
        };
        let scanned = self.last_scanned.as_ref();
        let mut table = if let Some(rows) = carried.ends_with(newest)? {
            ProducerTable::from_rows(rows)
        } else if scanned.is_some_and(|(segment, ..)| Arc::ptr_eq(segment, newest)) {
            let mut table = carried.at_base_of(older.len())?;
            table.follow_with(&self.tail_producers);
            table
        } else {
            carried.at(newest.end())?
        };
        // Nobody is left of those without a name.
        table.retain(|id| self.opening.producers.may_append(id));
        Ok(table)
    }
}

/// The leader epochs that a cut file carries over.
fn carried_epochs(opening: &Opening, found: &Found) -> Vec<EpochEntry> {
    // What cannot be read is not known, as where it is damaged.
    let Ok(file) = found.open(opening.disk.as_ref()) else { return Vec::new() };
    opening_section(file.as_ref(), &opening.place.identity, found.first_position()).epochs
}

impl Totals {
    fn add(&mut self, run: &Run) {
        self.records += run.records;
        self.batches += run.batches;
        self.max_timestamp = self.max_timestamp.max(run.max_timestamp);
        self.append_time = self.append_time.max(run.append_time);
    }
}
