//! Looking at every byte of a log without changing one.
//!
//! Not here: repair. What is found is told, file by file, with its position.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::format::SegmentKind::Rolled;
use crate::format::{
    BatchHeader, DedupEntry, Entry, EpochEntry, FilterLine, Footer, Identity, OffsetEntry, PAGE,
    ProducerEntry, SectionKind, SectionRef, TimeEntry, decode_block,
};
use crate::fs::{DiskFile, read_exact_at};
use crate::id::Offset;
use crate::log::core::Mode;
use crate::log::producers::{Numbered, ProducerTable, Refusal, Verdict, opening_section};
use crate::log::recover::{Covered, Entrance, Opening, find};
use crate::log::scan::{Found, Run, Scan, image, scan};
use crate::log::unpack::{Unpackable, unpack};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: PathBuf,
    pub(crate) position: u64,
    /// The offsets that cannot be read because of it, if any.
    pub(crate) offsets: Option<(Offset, Offset)>,
    pub(crate) what: &'static str,
}

/// Whether the newest file's closing footer is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Checked,
    /// A live broker cuts it off with its first append, and writes another one when it closes:
    /// what was read of it before and what is read now need not fit together.
    LeftOut,
}

/// What looking at a partition found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<Fault>,
    /// What a crash left half-written and the next open mends: torn tails, which it cuts off, and
    /// torn slots. File, position.
    pub(crate) tails: Vec<(PathBuf, u64)>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// Of the batches so far.
    producers: ProducerTable,
}

/// Reads every file of a log. Changes nothing, and needs no lock: what a live broker has not
/// made durable yet is a tail. `left` is how the volume was left, if nobody has it open. A broker
/// that changes files meanwhile can make good ones look bad: the caller looks again.
pub(crate) fn verify_partition(
    opening: &Opening,
    left: Entrance,
    closing: Closing,
) -> Result<Findings> {
    debug_assert_eq!(opening.mode, Mode::ReadOnly);
    let files = find(opening)?;
    let mut findings = Findings::default();
    for stray in &files.strays {
        findings.fault(stray, 0, None, "a whole segment that does not belong here");
    }
    let newest = files.covered.last().map(|covered| &covered.found.path);
    if left != Entrance::Unclean && !files.are_marked(left) {
        // Every log was closed, so that one with files ends in one that says so.
        if let Some(path) = newest.or(files.strays.last()) {
            findings.fault(path, 0, None, "not the end that a clean close gave the log");
        }
    }
    let mut evidence = files.evidence;
    let mut scans = Vec::new();
    for Covered { found, clip } in &files.covered {
        let first = found.first_position();
        let file = found.open(opening.disk.as_ref())?;
        let view = image(file.as_ref(), first, found.bytes, opening.mode)
            .map_err(|e| crate::error::Error::io("read", &found.path, e))?
            .view;
        let found_here = scan(view.bytes(), first, &opening.place.identity, found.base, *clip);
        for run in &found_here.runs {
            evidence = evidence.max(run.synced.min(*clip));
        }
        scans.push(found_here);
    }
    let first = files.covered.first().map_or(files.log_start, |first| first.found.base);
    let mut next = first.min(files.log_start);
    for (Covered { found, clip }, scan) in files.covered.iter().zip(&scans) {
        // Read again: the views of a whole log would be as large as it is.
        let file = found.open(opening.disk.as_ref())?;
        let view = image(file.as_ref(), found.first_position(), found.bytes, opening.mode)
            .map_err(|e| crate::error::Error::io("read", &found.path, e))?
            .view;
        findings.files += 1;
        findings.bytes += found.bytes;
        if found.base > next && next < evidence && found.base > files.log_start {
            let what = "a segment file is missing, or its end is";
            findings.fault(&found.path, 0, Some((next, found.base)), what);
        }
        let closing = if newest == Some(&found.path) { closing } else { Closing::Checked };
        let how = (opening, left, closing);
        next = findings.segment(found, *clip, scan, view.bytes(), evidence, how);
    }
    if next < evidence {
        let path = files.covered.last().map_or(&opening.place.dir, |last| &last.found.path);
        let what = "records that were durable are missing at the end";
        findings.fault(path, 0, Some((next.max(files.log_start), evidence)), what);
    }
    Ok(findings)
}

impl Findings {
    /// Of a partition that no open would use, because of this file.
    pub(crate) fn refused(path: PathBuf, what: &'static str) -> Self {
        let fault = Fault { path, position: 0, offsets: None, what };
        Self { faults: vec![fault], ..Self::default() }
    }

    /// Keeps the faults that an earlier look at the same partition found too.
    pub(crate) fn confirm(&mut self, earlier: &Findings) {
        // Offsets are told by what was durable at that moment.
        let same =
            |a: &Fault, b: &Fault| (&a.path, a.position, a.what) == (&b.path, b.position, b.what);
        self.faults.retain(|fault| earlier.faults.iter().any(|other| same(fault, other)));
    }

    fn fault(
        &mut self,
        path: &Path,
        position: u64,
        offsets: Option<(Offset, Offset)>,
        what: &'static str,
    ) {
        let offsets = offsets.filter(|(first, end)| first < end);
        self.faults.push(Fault { path: path.to_path_buf(), position, offsets, what });
    }

    fn open_again(&mut self, found: &Found, opening: &Opening) -> Option<Arc<dyn DiskFile>> {
        let file = found.open(opening.disk.as_ref()).ok();
        if file.is_none() {
            self.fault(&found.path, 0, None, "the file cannot be opened any more");
        }
        file
    }

    /// One file; returns where its records end.
    fn segment(
        &mut self,
        found: &Found,
        clip: Offset,
        scan: &Scan,
        bytes: &[u8],
        evidence: Offset,
        (opening, left, closing): (&Opening, Entrance, Closing),
    ) -> Offset {
        let path = &found.path;
        let first = found.first_position();
        let sealed = found.footer.as_ref().filter(|footer| !footer.closing);
        if found.header.is_none() && (found.base < evidence || !scan.runs.is_empty()) {
            self.fault(path, 0, None, "the header is damaged");
        }
        // A crash may tear the slot that was being written, or what a file begins with, and the
        // next open mends it.
        let may_be_mended = left == Entrance::Unclean && sealed.is_none();
        let may_be_torn = may_be_mended && found.damaged_slots[0] != found.damaged_slots[1];
        for (index, damaged) in found.damaged_slots.iter().enumerate() {
            let position = crate::format::SLOT_POSITIONS[index];
            match (*damaged, found.header.is_some()) {
                (true, true) if may_be_torn => self.tails.push((path.clone(), position)),
                (true, true) => self.fault(path, position, None, "a slot is damaged"),
                _ => {}
            }
        }
        let mut position = first;
        let mut next = found.base;
        for run in &scan.runs {
            if run.position != position {
                if next >= evidence && sealed.is_none() {
                    break;
                }
                self.fault(path, position, Some((next, run.first)), "a batch is damaged");
            }
            position = run.end_position;
            next = run.next.min(clip);
            self.records += run.records;
            self.numbers(path, first, run, bytes);
            if run.compressed > 0 {
                self.compressed(found, run, bytes);
            }
        }
        self.opening_section(found, opening, may_be_mended);
        if closing == Closing::LeftOut && sealed.is_none() {
            return next;
        }
        if let Some(footer) = &found.footer {
            let end = footer.end_offset.min(clip);
            if next < end && (sealed.is_some() || next < evidence) {
                self.fault(path, position, Some((next, end)), "a batch is damaged");
            }
            // What a cut voided is still counted, and not scanned.
            let records = (clip > footer.end_offset).then_some(scan);
            self.footer(found, footer, records, opening);
            if records.is_some() {
                // What a cut voided may lie there.
                self.padding(found, footer, bytes);
            }
            return if sealed.is_some() { end } else { next };
        }
        let behind = usize::try_from(position - first)
            .ok()
            .and_then(|from| bytes.get(from..))
            .unwrap_or_default();
        if has_footer_page(behind)
            && section_in(behind, position, &opening.place.identity).is_some()
        {
            let at = found.bytes.saturating_sub(PAGE as u64);
            self.fault(path, at, None, "the footer is damaged");
        } else if behind.iter().any(|&byte| byte != 0) && next >= evidence && clip == Offset::MAX {
            self.tails.push((path.clone(), position));
        }
        next
    }

    /// Whether the compressed batches of a run have the records that they are to have, where their
    /// codec is built in.
    fn compressed(&mut self, found: &Found, run: &Run, bytes: &[u8]) {
        let at = |position: u64| usize::try_from(position - found.first_position()).ok();
        let row = at(run.position).zip(at(run.end_position));
        let mut rest = row.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default();
        while let Ok(header) = BatchHeader::decode_trusted(rest) {
            let Some((batch, others)) = rest.split_at_checked(header.batch_bytes()) else { break };
            let damage = header.is_compressed().then(|| unpack(batch));
            if let Some(Err(Unpackable::Damaged(what))) = damage {
                let position = run.end_position - rest.len() as u64;
                let offsets = Some((header.base_offset, header.next_offset()));
                self.fault(&found.path, position, offsets, what);
            }
            rest = others;
        }
    }

    /// Whether the batches of a run have numbers that no batch before them had (I7). What lies
    /// between runs, or was deleted, may have had those that are left out.
    fn numbers(&mut self, path: &Path, first: u64, run: &Run, bytes: &[u8]) {
        let mut position = run.position;
        while position < run.end_position {
            let here = usize::try_from(position - first).ok().and_then(|at| bytes.get(at..));
            let Ok(header) = BatchHeader::decode_trusted(here.unwrap_or_default()) else { break };
            if let Some(numbered) = Numbered::of(&header) {
                let twice = match self.producers.judge(&numbered) {
                    Ok(Verdict::Append) => false,
                    Err(Refusal::OutOfOrderSequence { expected }) => {
                        numbered.base_sequence < expected
                    }
                    Ok(Verdict::Repeat { .. }) | Err(Refusal::Fenced(_)) => true,
                };
                if twice {
                    let offsets = Some((header.base_offset, header.next_offset()));
                    self.fault(
                        path,
                        position,
                        offsets,
                        "a batch whose numbers its producer had before",
                    );
                }
                self.producers.note(&numbered, header.base_offset);
            }
            position += header.batch_bytes() as u64;
        }
    }

    /// What a file carries over from before its base.
    fn opening_section(&mut self, found: &Found, opening: &Opening, may_be_mended: bool) {
        let Some(file) = self.open_again(found, opening) else { return };
        let first = found.first_position();
        let section = opening_section(file.as_ref(), &opening.place.identity, first);
        if section.end_position < first && may_be_mended && found.kind() == Some(Rolled) {
            self.tails.push((found.path.clone(), section.end_position));
        } else if section.end_position < first {
            let what = "the opening section is damaged";
            self.fault(&found.path, section.end_position, None, what);
        }
    }

    /// Zeros fill the page between the last batch and the sections.
    fn padding(&mut self, found: &Found, footer: &Footer, bytes: &[u8]) {
        let first = found.first_position();
        let sections = footer.sections.iter().map(|section| section.position).min();
        let end = sections.unwrap_or(found.bytes.saturating_sub(PAGE as u64));
        let at = |position: u64| usize::try_from(position.checked_sub(first)?).ok();
        let between = at(footer.data_end)
            .zip(at(end))
            .and_then(|(from, to)| bytes.get(from..to))
            .unwrap_or_default();
        if let Some(changed) = between.iter().position(|&byte| byte != 0) {
            let position = footer.data_end + changed as u64;
            self.fault(&found.path, position, None, "something lies between batches and sections");
        }
    }

    /// A footer's counts, where `records` are all that it counts, and the sections it names.
    fn footer(
        &mut self,
        found: &Found,
        footer: &Footer,
        records: Option<&Scan>,
        opening: &Opening,
    ) {
        let identity = &opening.place.identity;
        if let Some(scan) = records.filter(|scan| scan.runs.len() <= 1)
            && scan.runs.iter().map(|run| run.records).sum::<u64>() != footer.record_count
        {
            let at = found.bytes.saturating_sub(PAGE as u64);
            self.fault(&found.path, at, None, "the footer counts other records");
        }
        let Some(file) = self.open_again(found, opening) else { return };
        let file = file.as_ref();
        for section in &footer.sections {
            let (offsets, times) = (SectionKind::Offsets, SectionKind::Times);
            let bad = if section.kind == offsets.code() {
                bad_block::<OffsetEntry>(file, offsets, section, identity)
            } else if section.kind == times.code() {
                bad_block::<TimeEntry>(file, times, section, identity)
            } else if section.kind == SectionKind::Epochs.code() {
                bad_block::<EpochEntry>(file, SectionKind::Epochs, section, identity)
            } else if section.kind == SectionKind::Producers.code() {
                bad_block::<ProducerEntry>(file, SectionKind::Producers, section, identity)
            } else if section.kind == SectionKind::Dedup.code() {
                bad_block::<DedupEntry>(file, SectionKind::Dedup, section, identity)
            } else if section.kind == SectionKind::DedupFilter.code() {
                bad_block::<FilterLine>(file, SectionKind::DedupFilter, section, identity)
            } else {
                // Written by a newer version, which checks it.
                None
            };
            if let Some(position) = bad {
                self.fault(&found.path, position, None, "an index block is damaged");
            }
        }
    }
}

/// Whether a file that ends in `bytes` was given a footer, although it does not verify. A crash on
/// the way to one leaves a file that was not cut to its length yet, and so ends in zeros, or a torn
/// page, of which the first sector or the last is still zero: both hold something in a footer.
fn has_footer_page(bytes: &[u8]) -> bool {
    let something = |sector: Option<&[u8; 512]>| sector.is_some_and(|s| *s != [0; 512]);
    let page = bytes.last_chunk::<PAGE>().map_or(&[][..], |page| page);
    something(page.first_chunk()) && something(page.last_chunk())
}

/// Where in `bytes`, which begin at `position` of their file, a sealed segment's sections begin.
fn section_in(bytes: &[u8], position: u64, identity: &Identity) -> Option<u64> {
    let mut at = position.next_multiple_of(PAGE as u64);
    loop {
        let page = bytes.get(usize::try_from(at - position).ok()?..)?.get(..PAGE)?;
        if decode_block::<OffsetEntry>(page, SectionKind::Offsets, 0, identity).is_ok() {
            return Some(at);
        }
        at += PAGE as u64;
    }
}

/// The position of the first block of a section that does not verify.
fn bad_block<E: Entry>(
    file: &dyn DiskFile,
    kind: SectionKind,
    section: &SectionRef,
    identity: &Identity,
) -> Option<u64> {
    (0..section.blocks)
        .map(|index| (index, section.position.saturating_add(u64::from(index) * PAGE as u64)))
        .find(|&(index, position)| {
            let mut block = [0; PAGE];
            read_exact_at(file, &mut block, position).is_err()
                || decode_block::<E>(&block, kind, index, identity).is_err()
        })
        .map(|(_, position)| position)
}
