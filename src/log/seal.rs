//! Ending a file: its sections and footer, once it is full, or when the log is closed cleanly.
//!
//! Not here: beginning the next (`roll`).
//!
//! The order: sync the batches; write the sections behind them, sync; write the footer, cut the
//! file to its length, sync. A footer's end counts as durable evidence and its sections are taken
//! for what they say, so it never goes before either. A crash in between leaves a file without a
//! footer, which is scanned.
//!
//! Threads   whoever has the log's turn. No acknowledgement waits for it; an append waits only
//!           where it would leave three files without a footer.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{
    Footer, PAGE, ProducerEntry, SectionKind, SectionRef, SegmentKind, Slot, encode_section,
};
use crate::fs::{DiskFile, write_all_at};
use crate::id::{Incarnation, Offset};
use crate::log::core::{Log, Mode, load};
use crate::log::index::MemoryIndex;
use crate::log::producers::Carried;
use crate::log::scan::scan;
use crate::log::segment::{Segment, slot_position};
use crate::log::writer::WriterState;
use crate::sync::atomic::Ordering;
use crate::trace;

/// Why a footer is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The file is full.
    Full,
    /// The log is closed; the next append cuts the footer off.
    Closing,
}

impl Log {
    /// Seals the oldest segment that is rolled away and lacks a footer. True if there was one.
    pub(crate) fn seal_one(&self) -> Result<bool> {
        let _turn = self.turn.take_while(|| !self.latch.is_set());
        self.latch.check()?;
        self.seal_oldest()
    }

    /// The same, for who has the turn.
    pub(crate) fn seal_oldest(&self) -> Result<bool> {
        let list = self.segments();
        let behind = list.split_last().map_or(&[][..], |(_, behind)| behind);
        let Some(segment) = behind.iter().find(|segment| segment.footer().is_none()) else {
            return Ok(false);
        };
        // A segment that another follows begins and ends for good; what it lacks is the sync. Its
        // file is held from here on, and unmapped first: writing back a page that is mapped to
        // write costs an interrupt on every core to protect it again. Readers map it anew; views
        // keep the old mapping alive.
        let file = segment.writable_file(self.disk.as_ref())?;
        segment.release_mapping();
        self.sync_listed(segment)?;
        self.write_footer(segment, file.as_ref(), Why::Full)?;
        self.sync_segment(segment, file.as_ref())?;
        // A later round may still list it, but finds no file, and nothing unsynced either.
        segment.release_file();
        trace::event!(
            INFO,
            topic = %self.place.topic,
            partition = self.place.partition().get(),
            base_offset = segment.base.get(),
            end_offset = segment.end().get(),
            "a segment was sealed"
        );
        Ok(true)
    }

    /// Seals a file that is not of the log yet. For who has the turn.
    pub(crate) fn seal_apart(&self, segment: &Arc<Segment>, file: &dyn DiskFile) -> Result<()> {
        self.write_footer(segment, file, Why::Full)?;
        self.sync_segment(segment, file)
    }

    /// Writes sections and footer behind the batches of a segment, cuts the file there, and
    /// remembers the footer unless it is a closing one.
    fn write_footer(&self, segment: &Arc<Segment>, file: &dyn DiskFile, why: Why) -> Result<()> {
        let failed = |doing, e| Error::io(doing, &segment.path, e);
        segment.end_growth();
        let identity = &self.place.identity;
        let index = self.index_of(segment)?;
        let end = segment.end();
        let mut epochs = self.writer.lock().epochs.clone();
        epochs.cut(end);

        let start = segment.end_position().next_multiple_of(PAGE as u64);
        let mut body = Vec::new();
        let mut sections = Vec::new();
        let mut add = |kind: SectionKind, entries: usize, blocks: Vec<u8>| {
            sections.push(SectionRef {
                kind: kind.code(),
                position: start + body.len() as u64,
                blocks: u32::try_from(blocks.len() / PAGE).unwrap_or(u32::MAX),
                entries: entries as u64,
            });
            body.extend_from_slice(&blocks);
        };
        let (offsets, times, table) = (index.offsets(), index.times(), epochs.entries());
        let kind = SectionKind::Offsets;
        add(kind, offsets.len(), encode_section(kind, offsets, identity));
        let kind = SectionKind::Times;
        add(kind, times.len(), encode_section(kind, times, identity));
        let kind = SectionKind::Epochs;
        add(kind, table.len(), encode_section(kind, table, identity));
        let kind = SectionKind::Producers;
        let rows = self.producers_after(segment)?;
        add(kind, rows.len(), encode_section(kind, &rows, identity));

        // Without sections the next one who asks walks the batches, perhaps with their codec.
        if !self.dedup.window.is_off() && segment.keys.are_known() {
            let (keys, filter) = segment.keys.entries(segment.base.distance_to(end));
            let kind = SectionKind::Dedup;
            add(kind, keys.len(), encode_section(kind, &keys, identity));
            let kind = SectionKind::DedupFilter;
            add(kind, filter.len(), encode_section(kind, &filter, identity));
        }

        let totals = *segment.totals.lock();
        let footer = Footer {
            closing: why == Why::Closing,
            base_offset: segment.base,
            end_offset: end,
            covered_end: end,
            record_count: totals.records,
            batch_count: totals.batches,
            max_timestamp: totals.max_timestamp,
            max_append_time: totals.append_time,
            data_end: segment.end_position(),
            generation: segment.generation,
            kind: segment.kind,
            last_epoch: epochs.latest(),
            sections,
        };
        let page = footer.encode(identity);
        let footer_at = start + body.len() as u64;
        write_all_at(file, &body, start).map_err(|e| failed("write the sections of", e))?;
        if why == Why::Full {
            // 1. sections and footer are written; 2. power cut: the footer reached the medium, a
            // block of the epochs did not; 3. the open trusts the footer and misses epochs. A
            // closing footer needs no sync in between: alone it counts for nothing.
            self.sync_segment(segment, file)?;
        }
        write_all_at(file, &page, footer_at).map_err(|e| failed("write the footer of", e))?;
        file.set_len(footer_at + PAGE as u64).map_err(|e| failed("trim", e))?;
        if why == Why::Full {
            segment.sealed(footer);
        }
        Ok(())
    }

    /// The rows of the producers known at the end of a segment. They are the same each time: a seal
    /// that failed half-way is tried again.
    fn producers_after(&self, segment: &Arc<Segment>) -> Result<Vec<ProducerEntry>> {
        let segments = self.segments();
        let next = segments.iter().position(|other| other.base > segment.base);
        match next {
            None => Ok(self.writer.lock().producers.rows()),
            Some(index) => {
                let (disk, identity) = (self.disk.as_ref(), &self.place.identity);
                let carried = Carried { segments: &segments, disk, identity };
                Ok(carried.at_base_of(index)?.rows())
            }
        }
    }

    /// The sparse index of a segment: from memory, from its sections, or by walking its batches.
    pub(crate) fn index_of(&self, segment: &Arc<Segment>) -> Result<MemoryIndex> {
        if segment.footer().is_none() {
            return Ok(segment.index.read().clone());
        }
        if let Some(index) = segment.sealed_index(self.disk.as_ref(), &self.place.identity)? {
            return Ok(index);
        }
        let bytes = usize::try_from(segment.end_position()).unwrap_or(usize::MAX);
        let view = segment.window(
            self.disk.as_ref(),
            segment.first_position,
            bytes,
            crate::config::Reads::Mapped,
        )?;
        let found = scan(
            view.bytes(),
            segment.first_position,
            &self.place.identity,
            segment.base,
            segment.clip(),
        );
        let mut index = MemoryIndex::default();
        let mut max_timestamp = i64::MIN;
        for run in &found.runs {
            index.extend(&run.index, max_timestamp);
            max_timestamp = max_timestamp.max(run.max_timestamp);
        }
        Ok(index)
    }

    /// Writes the next slot of a segment. It reaches the medium with the file's next sync.
    pub(crate) fn write_slot(
        &self,
        segment: &Segment,
        file: &dyn DiskFile,
        log_start: Offset,
        clean_mark: Incarnation,
    ) -> Result<()> {
        // Another file may be the newest by now: a slot speaks of its own.
        let durable = load(&self.durable).min(segment.end());
        let slot = segment.next_slot(durable, log_start, clean_mark, self.is_catching_up());
        write_all_at(file, &slot.encode(&self.place.identity), slot_position(slot.sequence))
            .map_err(|e| Error::io("write a slot of", &segment.path, e))
    }

    /// The slot that the newest file gets next, as of now: with the writer locked. A file that ends
    /// as a clean close left it stays one that says so.
    pub(crate) fn newest_slot(&self, log_start: Offset) -> Option<(Arc<Segment>, Slot)> {
        let newest = self.segments().last().cloned()?;
        let closed = newest.footer().is_some_and(|footer| footer.closing);
        let keeps_mark = closed && self.is_marked();
        let mark = if keeps_mark { self.options.incarnation } else { Incarnation::new(0) };
        let durable = self.durable_offset();
        let slot = newest.next_slot(durable, log_start, mark, self.is_catching_up());
        Some((newest, slot))
    }

    /// Writes a slot and syncs its file.
    pub(crate) fn write_synced(&self, segment: &Arc<Segment>, slot: &Slot) -> Result<()> {
        let file = segment.writable_file(self.disk.as_ref())?;
        let page = slot.encode(&self.place.identity);
        write_all_at(file.as_ref(), &page, slot_position(slot.sequence))
            .map_err(|e| Error::io("write a slot of", &segment.path, e))?;
        self.sync_segment(segment, file.as_ref())
    }

    /// Writes what is durable into the newest file's slot, without a sync of its own. A failure is
    /// no loss: a slot only spares others a look.
    pub(crate) fn tell_durable(&self) {
        let list = self.segments();
        let Some(newest) = list.last() else { return };
        let Ok(Some(file)) = newest.held_file(self.disk.as_ref()) else { return };
        let _ = self.write_slot(newest, file.as_ref(), self.start_offset(), Incarnation::new(0));
    }

    /// Takes no more appends, makes everything durable, and leaves the clean mark, unless the log
    /// has not changed since it got one.
    pub(crate) fn close(&self) -> Result<()> {
        if self.mode == Mode::ReadOnly || self.latch.is_refused() {
            self.latch.close();
            return Ok(());
        }
        let turn = self.turn.take();
        self.writer.lock().state = WriterState::Closing;
        self.end_ahead();
        let closed = self.finish();
        // However it went: nothing of this log is written once the turn is given back, and whoever
        // waits for it is told.
        self.latch.close();
        drop(turn);
        self.commit.wake();
        self.watchers.moved();
        closed
    }

    fn finish(&self) -> Result<()> {
        self.latch.check()?;
        self.sync_to(self.end_offset())?;
        while self.seal_oldest()? {}
        self.mark_clean()
    }

    /// The closing footer and the clean mark of a log that changed.
    fn mark_clean(&self) -> Result<()> {
        let newest = {
            let mut writer = self.writer.lock();
            if writer.cut_first {
                // The newest file cannot be gone on in, so it gets no mark, and the volume is not
                // called closed cleanly: the next open scans.
                return Ok(());
            }
            match writer.active.take() {
                Some(active) => {
                    *active.segment.totals.lock() = active.totals;
                    Some(Arc::clone(&active.segment))
                }
                None => writer.resume.take().filter(|segment| segment.footer().is_none()),
            }
        };
        let Some(segment) = newest else { return Ok(()) };
        let file = segment.writable_file(self.disk.as_ref())?;
        self.write_footer(&segment, file.as_ref(), Why::Closing)?;
        let (mark, start) = (self.options.incarnation, self.start_offset());
        // Both slots say it, one synced before the other is touched: with both torn by a power cut
        // nothing would tell the log start, and what was trimmed would be back.
        for _ in 0..2 {
            self.write_slot(&segment, file.as_ref(), start, mark)?;
            self.sync_segment(&segment, file.as_ref())?;
        }
        self.marked.store(true, Ordering::Release);
        segment.release_file();
        debug_assert!(segment.kind != SegmentKind::Rewritten, "the newest file is never rewritten");
        Ok(())
    }
}
