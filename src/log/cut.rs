//! Cutting: everything from an offset on is void, and a new file begins there.
//!
//! Not here: where to cut. A log that recovered to a file it cannot go on in cuts at its end; a
//! follower that diverged from its leader cuts at the point of divergence (`partition`).
//!
//! No published byte is touched (I1). The commit point is one file: segment X of the next
//! generation, synced, renamed, its folder synced. Crash before: nothing happened. After: whatever
//! an older generation holds from X on is void, for every later open.

use std::sync::Arc;

use crate::config::{GROWTH_BYTES_MIN, Reads};
use crate::error::{Error, Result};
use crate::format::{SectionKind, SegmentKind, encode_section, segment_file};
use crate::id::Offset;
use crate::log::commit::Pending;
use crate::log::core::{Log, load};
use crate::log::epochs::EpochTable;
use crate::log::producers::{Carried, ProducerTable};
use crate::log::read::ReadCursor;
use crate::log::roll::{Beginning, PREPARED};
use crate::log::writer::WriterState;
use crate::sync::atomic::Ordering;

impl Log {
    /// Begins the first append after a recovery that could not go on in the newest file.
    pub(crate) fn cut_first(&self) -> Result<()> {
        let _turn = self.turn.take();
        let at = {
            let writer = self.writer.lock();
            if !writer.cut_first {
                return Ok(());
            }
            writer.next
        };
        let producers = self.producers_at(at)?;
        self.cut_to(at, producers, Before::Kept)
    }

    /// Voids the offsets from `at` on; `at` is the base offset of a batch, or the end. The epochs
    /// that began there are forgotten too, also when no record is cut.
    pub(crate) fn truncate_to(&self, at: Offset) -> Result<()> {
        self.must_be_writable()?;
        let _turn = self.turn.take();
        let (end, start) = (self.end_offset(), self.start_offset());
        if at > end || at < start {
            return Err(Error::out_of_range(at, start, end));
        }
        debug_assert!(self.begins_batch(at), "a cut at {at:?}, within a batch");
        let producers = self.producers_at(at)?;
        self.cut_to(at, producers, Before::Kept)
    }

    /// The producers as they were when the log ended at `at`.
    pub(crate) fn producers_at(&self, at: Offset) -> Result<ProducerTable> {
        {
            let writer = self.writer.lock();
            if writer.next == at {
                return Ok(writer.producers.clone());
            }
        }
        let segments = self.segments();
        let (disk, identity) = (self.disk.as_ref(), &self.place.identity);
        Carried { segments: &segments, disk, identity }.at(at)
    }

    /// True if no batch reaches over this offset, or none that can be read.
    fn begins_batch(&self, at: Offset) -> bool {
        let mut cursor = ReadCursor::at(at);
        match self.read(&mut cursor, self.end_offset(), 1, Reads::Mapped) {
            Ok(Some(chunk)) => chunk.first_batch_offset().is_none_or(|base| base >= at),
            Ok(None) | Err(_) => true,
        }
    }

    /// Drops everything and begins anew at `at`, which is then the log start too, with the
    /// producers that the other copy knows there: for one that is to be filled from that.
    pub(crate) fn reset_to(&self, at: Offset, producers: ProducerTable) -> Result<()> {
        self.must_be_writable()?;
        let _turn = self.turn.take();
        self.log_start.store(at.get(), Ordering::Release);
        self.cut_to(at, producers, Before::Dropped)
    }

    /// Goes on at `at`, above the end, with the producers that the other copy knows there: it has
    /// nothing that could be read in between. Those offsets are damage here from now on, as they
    /// are there.
    pub(crate) fn skip_to(&self, at: Offset, producers: ProducerTable) -> Result<()> {
        self.must_be_writable()?;
        self.sync_to(self.end_offset())?;
        let _turn = self.turn.take();
        if at <= self.end_offset() {
            return Ok(());
        }
        self.cut_to(at, producers, Before::Skipped)
    }

    /// The cut itself, for who has the turn.
    fn cut_to(&self, at: Offset, mut producers: ProducerTable, before: Before) -> Result<()> {
        // Until it ends, and however it does, appends wait for the turn.
        let reopen = Reopen { log: self };
        let (generation, epochs) = {
            let mut writer = self.writer.lock();
            if writer.state == WriterState::Closing {
                return Err(Error::Closed);
            }
            self.latch.check()?;
            writer.state = WriterState::Cutting;
            // Of what is dropped no epoch counts: what is copied next may be of an earlier one.
            let mut epochs = match before {
                Before::Kept | Before::Skipped => writer.epochs.clone(),
                Before::Dropped => EpochTable::default(),
            };
            epochs.cut(at);
            (writer.generation.next(), epochs)
        };

        let beginning = Beginning {
            base: at,
            generation,
            kind: SegmentKind::Cut,
            // All before what is skipped is synced. Were it not said, an open would take the gap
            // for the end of the log.
            durable: match before {
                Before::Skipped if load(&self.durable) == self.end_offset() => at,
                _ => load(&self.durable).min(at),
            },
            catching_up: self.is_catching_up(),
            growth: GROWTH_BYTES_MIN,
        };
        producers.retain(|id| self.producers.may_append(id));
        let identity = &self.place.identity;
        let mut opening = encode_section(SectionKind::Epochs, epochs.entries(), identity);
        opening.extend(encode_section(SectionKind::Producers, &producers.rows(), identity));
        if self.segments().is_empty() {
            self.make_folders()?;
        }
        let active = self.begin(&beginning, 0, &opening)?;
        let prepared = self.place.dir.join(PREPARED);
        let name = self.place.dir.join(segment_file(at, generation));
        let halt = |doing, path: &std::path::Path, e| self.halt(Error::io(doing, path, e));
        let file = active.segment.writable_file(self.disk.as_ref())?;
        // A sync that fails says nothing about what reached the medium: the log halts.
        file.sync_data().map_err(|e| halt("sync", &prepared, e))?;
        self.disk.rename(&prepared, &name).map_err(|e| Error::io("rename", &prepared, e))?;
        // All of them: where nothing was ever synced, the folders' own names may be as new.
        for folder in &self.folders() {
            self.disk.sync_dir(folder).map_err(|e| halt("sync", folder, e))?;
        }

        let mut writer = self.writer.lock();
        self.commit.cut(&self.durable, at);
        self.durable.fetch_max(beginning.durable.get(), Ordering::AcqRel);
        if let Some(old) = writer.active.take() {
            *old.segment.totals.lock() = old.totals;
        }
        let segment = Arc::clone(&active.segment);
        self.change_segments(|list| {
            let kept = list.partition_point(|old| old.base < at);
            for old in list.drain(kept..) {
                old.cut(at);
                writer.voids.push(old.path.clone());
            }
            if let Some(last) = list.last() {
                last.cut(at);
                last.keys.cut(last.base.distance_to(at));
            }
            list.push(Arc::clone(&segment));
        });
        self.commit.add(Pending { segment, folders: Vec::new() });
        self.marked.store(false, Ordering::Release);
        writer.active = Some(active);
        writer.set_look(self.writes_mapped(1));
        writer.resume = None;
        writer.cut_first = false;
        writer.generation = generation;
        writer.epochs = epochs;
        self.counters.knows(&producers);
        writer.producers = producers;
        if at < writer.next {
            writer.cuts.push(at);
            self.cut_count.store(writer.cuts.len(), Ordering::Release);
        }
        writer.next = at;
        self.leo.store(at.get(), Ordering::Release);
        self.dedup.cut(at);
        drop(writer);
        drop(reopen);
        self.remove_voids();
        Ok(())
    }

    /// Removes the files that a cut voided whole. What fails is tried again by the next open's
    /// first cut, or goes with the topic: a void file is never read.
    fn remove_voids(&self) {
        let voids = std::mem::take(&mut self.writer.lock().voids);
        if voids.is_empty() {
            return;
        }
        for path in &voids {
            let _ = self.remove_segment(path);
        }
        // The cut itself counts. Where this fails the log has halted: who appended meanwhile may
        // have begun a file whose name was among those that it was to write.
        let _ = self.sync_folder(&self.place.dir);
    }
}

/// What becomes of what lies before a cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Kept,
    Dropped,
    /// Nothing is cut: what lies between the end and there cannot be had.
    Skipped,
}

/// Lets appends go on when a cut is over, however it ended.
struct Reopen<'a> {
    log: &'a Log,
}

impl Drop for Reopen<'_> {
    fn drop(&mut self) {
        let mut writer = self.log.writer.lock();
        if writer.state == WriterState::Cutting {
            writer.state = WriterState::Open;
        }
    }
}
