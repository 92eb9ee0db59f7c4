//! Looking at every byte of a log without changing one.
//!
//! Not here: repair. What is found is told, file by file, with its position.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::format::{
    Entry, EpochEntry, Footer, Identity, OffsetEntry, PAGE, SectionKind, SectionRef, TimeEntry,
    decode_block,
};
use crate::fs::{DiskFile, read_exact_at};
use crate::id::Offset;
use crate::log::core::Mode;
use crate::log::recover::{Covered, Opening, find};
use crate::log::scan::{Found, Scan, image, scan};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: PathBuf,
    pub(crate) position: u64,
    /// The offsets that cannot be read because of it, if any.
    pub(crate) offsets: Option<(Offset, Offset)>,
    pub(crate) what: &'static str,
}

/// What looking at a partition found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<Fault>,
    /// Torn tails that the next open would cut off: file, position.
    pub(crate) tails: Vec<(PathBuf, u64)>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// Reads every file of a log. Changes nothing, and needs no lock: what a live broker has not
/// made durable yet is a tail.
pub(crate) fn verify_partition(opening: &Opening) -> Result<Findings> {
    debug_assert_eq!(opening.mode, Mode::ReadOnly);
    let files = find(opening)?;
    let mut findings = Findings::default();
    let mut evidence = files.evidence;
    let mut scans = Vec::new();
    for Covered { found, clip } in &files.covered {
        let first = found.first_position();
        let view = image(found.file.as_ref(), first, found.bytes, opening.mode)
            .map_err(|e| crate::error::Error::io("read", &found.path, e))?;
        let found_here = scan(view.bytes(), first, &opening.place.identity, found.base, *clip);
        for run in &found_here.runs {
            evidence = evidence.max(run.synced.min(*clip));
        }
        scans.push((found_here, view));
    }
    let mut next = files.covered.first().map_or(files.log_start, |first| first.found.base);
    if next > files.log_start {
        let what = "a segment file is missing";
        findings.fault(&opening.place.dir, 0, Some((files.log_start, next)), what);
    }
    for (Covered { found, clip }, (scan, view)) in files.covered.iter().zip(&scans) {
        findings.files += 1;
        findings.bytes += found.bytes;
        if found.base > next && next < evidence && found.base > files.log_start {
            let what = "a segment file is missing, or its end is";
            findings.fault(&found.path, 0, Some((next, found.base)), what);
        }
        next = findings.segment(found, *clip, scan, view.bytes(), evidence, opening);
    }
    if next < evidence {
        let path = files.covered.last().map_or(&opening.place.dir, |last| &last.found.path);
        let what = "records that were durable are missing at the end";
        findings.fault(path, 0, Some((next.max(files.log_start), evidence)), what);
    }
    Ok(findings)
}

impl Findings {
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

    /// One file; returns where its records end.
    fn segment(
        &mut self,
        found: &Found,
        clip: Offset,
        scan: &Scan,
        bytes: &[u8],
        evidence: Offset,
        opening: &Opening,
    ) -> Offset {
        let path = &found.path;
        let first = found.first_position();
        let sealed = found.footer.as_ref().filter(|footer| !footer.closing);
        if found.header.is_none() && (found.base < evidence || !scan.runs.is_empty()) {
            self.fault(path, 0, None, "the header is damaged");
        }
        for (index, damaged) in found.damaged_slots.iter().enumerate() {
            if *damaged && found.header.is_some() {
                let position = crate::format::SLOT_POSITIONS[index];
                self.fault(path, position, None, "a slot is damaged");
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
        }
        match &found.footer {
            Some(footer) if clip == Offset::MAX => {
                if next < footer.end_offset && (sealed.is_some() || next < evidence) {
                    let lost = Some((next, footer.end_offset));
                    self.fault(path, position, lost, "a batch is damaged");
                }
                self.footer(found, footer, scan, &opening.place.identity);
                if sealed.is_some() { footer.end_offset } else { next }
            }
            Some(_) => next,
            None => {
                let behind = usize::try_from(position - first)
                    .ok()
                    .and_then(|from| bytes.get(from..))
                    .unwrap_or_default();
                let torn = behind.iter().any(|&byte| byte != 0);
                if torn && next >= evidence && clip == Offset::MAX {
                    self.tails.push((path.clone(), position));
                }
                next
            }
        }
    }

    /// A footer's counts, and the sections it names.
    fn footer(&mut self, found: &Found, footer: &Footer, scan: &Scan, identity: &Identity) {
        let at = found.bytes.saturating_sub(PAGE as u64);
        let records: u64 = scan.runs.iter().map(|run| run.records).sum();
        let whole = scan.runs.len() <= 1;
        if whole && records != footer.record_count {
            self.fault(&found.path, at, None, "the footer counts other records");
        }
        let file = found.file.as_ref();
        for section in &footer.sections {
            let (offsets, times) = (SectionKind::Offsets, SectionKind::Times);
            let bad = if section.kind == offsets.code() {
                bad_block::<OffsetEntry>(file, offsets, section, identity)
            } else if section.kind == times.code() {
                bad_block::<TimeEntry>(file, times, section, identity)
            } else if section.kind == SectionKind::Epochs.code() {
                bad_block::<EpochEntry>(file, SectionKind::Epochs, section, identity)
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
