//! Mending: what an open kept is made true on the medium, before anything of it is served.
//!
//! Not here: what is kept (`recover`).
//!
//! The torn tail is cut off. What lies above the durable evidence is read, written again in whole
//! blocks, and synced: 1. a sync fails, the kernel takes the pages for clean; 2. the process ends,
//! the next open reads a good batch from the page cache; 3. it is served; 4. a power cut takes it,
//! as the medium never had it. Where nothing in a file is known to be durable, that holds for its
//! header and slots too.
//!
//! Failure   the log halts: reads end at the evidence.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{DATA_START, PAGE, SegmentKind};
use crate::fs::{DiskFile, OpenMode, read_exact_at, write_all_at};
use crate::id::{Incarnation, Offset};
use crate::log::recover::{Opening, Scanned, Told};
use crate::log::roll::{Beginning, data_limit};
use crate::log::segment::{Segment, slot_position};
use crate::sync::atomic::Ordering;

pub(super) fn mend(opening: &Opening, told: &Told, log_start: Offset) -> Result<()> {
    let scanned = &told.tail.scanned;
    for (index, found) in scanned.iter().enumerate() {
        let segment = found.segment.as_ref();
        let rewrite = segment.end() > told.evidence;
        let headless = found.needs_head();
        let opens_anew = !found.opening.is_empty();
        let newest = index + 1 == scanned.len();
        if !newest && !rewrite && !headless && !opens_anew {
            continue;
        }
        let failed = |doing, e| Error::io(doing, &segment.path, e);
        let file = open(opening, segment)?;
        if headless {
            write_head(
                opening,
                found,
                file.as_ref(),
                (told.evidence, told.catching_up),
                log_start,
            )?;
        }
        if opens_anew {
            write_all_at(file.as_ref(), &found.opening, DATA_START)
                .map_err(|e| failed("write the opening section of", e))?;
        }
        if rewrite {
            write_again(segment, file.as_ref(), told.evidence)?;
        }
        if newest {
            write_slot_again(found, file.as_ref())?;
        }
        if newest && told.tail.surplus {
            file.set_len(segment.end_position()).map_err(|e| failed("shorten", e))?;
        }
        file.sync_data().map_err(|e| failed("sync", e))?;
    }
    let raised = told.next > told.evidence;
    if raised {
        // Names may be as unsynced as the bytes were.
        for folder in opening.place.dir.ancestors().take(3) {
            opening.disk.sync_dir(folder).map_err(|e| Error::io("sync", folder, e))?;
        }
    }
    for (index, found) in scanned.iter().enumerate() {
        let speaks = raised && index + 1 == scanned.len();
        if speaks || found.has_torn_slot() {
            let durable = (told.next, told.catching_up);
            say_durable(opening, &found.segment, durable, log_start)?;
        }
    }
    Ok(())
}

impl Scanned {
    /// Only a rolled file: the head of a cut one is synced before it gets its name, so what is
    /// missing there is damage, and says something that is not known any more.
    fn needs_head(&self) -> bool {
        let both_slots = self.slots_damaged == [true, true];
        self.segment.kind == SegmentKind::Rolled && (self.header_damaged || both_slots)
    }

    /// The page that is written next is the torn one: the other holds the newest slot.
    fn has_torn_slot(&self) -> bool {
        self.slots_damaged[0] != self.slots_damaged[1]
    }
}

fn open(opening: &Opening, segment: &Segment) -> Result<Arc<dyn DiskFile>> {
    let opened = opening.disk.open(&segment.path, OpenMode::ReadWrite);
    opened.map_err(|e| Error::io("open", &segment.path, e))
}

/// Writes those first pages of a rolled file that are no good. A good slot stays: with both being
/// written a power cut could take what it says.
fn write_head(
    opening: &Opening,
    found: &Scanned,
    file: &dyn DiskFile,
    (evidence, catching_up): (Offset, bool),
    log_start: Offset,
) -> Result<()> {
    let segment = &found.segment;
    let beginning = Beginning {
        base: segment.base,
        generation: segment.generation,
        kind: segment.kind,
        durable: evidence.min(segment.base),
        catching_up,
        growth: 0,
    };
    let limit = data_limit(opening.options.segment_bytes, segment.first_position, 0);
    let capacity = limit.max(segment.end_position().next_multiple_of(PAGE as u64));
    let at = (segment.first_position, capacity);
    let created = opening.clock.now_ms();
    let head = beginning.head(&opening.place.identity, at, log_start, created);
    let both_slots = found.slots_damaged == [true, true];
    let pages = [found.header_damaged, both_slots, both_slots];
    let places = (0..).step_by(PAGE).zip(head.chunks_exact(PAGE)).zip(pages);
    for ((position, page), _) in places.filter(|(_, damaged)| *damaged) {
        write_all_at(file, page, position)
            .map_err(|e| Error::io("write the header of", &segment.path, e))?;
    }
    Ok(())
}

/// Reads what lies above the evidence and writes it again.
fn write_again(segment: &Segment, file: &dyn DiskFile, evidence: Offset) -> Result<()> {
    let failed = |doing, e| Error::io(doing, &segment.path, e);
    let end = segment.end_position();
    let from = if segment.base >= evidence {
        0
    } else {
        let indexed = segment.index.read().position_before(evidence);
        let from = indexed.unwrap_or(segment.first_position);
        (from - from % PAGE as u64).max(segment.first_position)
    };
    let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(0)];
    read_exact_at(file, &mut bytes, from).map_err(|e| failed("read", e))?;
    write_all_at(file, &bytes, from).map_err(|e| failed("write again", e))
}

/// The newest slot may be in the page cache only, like the batches. The next slot takes the place
/// of the one before it, which is then the only one that the medium has: torn, it would leave none.
fn write_slot_again(found: &Scanned, file: &dyn DiskFile) -> Result<()> {
    let segment = &found.segment;
    if found.slots_damaged == [true, true] {
        return Ok(());
    }
    let failed = |doing, e| Error::io(doing, &segment.path, e);
    let position = slot_position(segment.slot_sequence.load(Ordering::Acquire));
    let mut page = [0; PAGE];
    read_exact_at(file, &mut page, position).map_err(|e| failed("read a slot of", e))?;
    write_all_at(file, &page, position).map_err(|e| failed("write a slot of", e))
}

/// A slot that tells the next open that everything kept is on the medium now.
fn say_durable(
    opening: &Opening,
    segment: &Segment,
    (durable, catching_up): (Offset, bool),
    log_start: Offset,
) -> Result<()> {
    let file = open(opening, segment)?;
    let slot = segment.next_slot(durable, log_start, Incarnation::new(0), catching_up);
    let page = slot.encode(&opening.place.identity);
    write_all_at(file.as_ref(), &page, slot_position(slot.sequence))
        .map_err(|e| Error::io("write a slot of", &segment.path, e))?;
    file.sync_data().map_err(|e| Error::io("sync", &segment.path, e))
}
