//! Deleting: old segments when the log start moves, all of them when a topic goes.
//!
//! Not here: when (`retain`, `broker`).
//!
//! The order: the new log start is written to a slot and synced; then it counts; then a file
//! below it loses its name ending in `.log`, then its name, then the folder is synced. A crash in
//! between leaves a file that the next open finishes removing, or one whose records lie below the
//! log start and are never handed out again.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::DELETED_SUFFIX;
use crate::fs::Disk;
use crate::id::Offset;
use crate::log::core::Log;
use crate::sync::atomic::Ordering;
use crate::trace;

impl Log {
    /// Moves the log start up to `start` and removes the files that then hold nothing readable.
    /// The newest sealed one stays: its seal speaks for what was before it.
    ///
    /// # Errors
    /// `OffsetOutOfRange` above the end. `Io` if a file could not be removed: the log start has
    /// moved all the same, and the housekeeping tries again.
    pub(crate) fn trim_to(&self, start: Offset) -> Result<()> {
        let _turn = self.turn.take();
        // Not before: it may have waited for a close, after which nothing is written.
        self.must_be_writable()?;
        let end = self.end_offset();
        if start > end {
            return Err(Error::out_of_range(start, self.start_offset(), end));
        }
        self.let_go(start)
    }

    /// The same, for who has the turn.
    pub(crate) fn let_go(&self, start: Offset) -> Result<()> {
        let start = start.max(self.start_offset());
        // What lies below the log start must not be what the durable offset still waits for.
        self.sync_to(start)?;
        let list = self.segments();
        let newest_seal = list.iter().rposition(|segment| segment.footer().is_some());
        let goes = |i: usize| {
            list.get(i + 1).is_some_and(|next| next.base <= start) && Some(i) != newest_seal
        };
        let gone = (0..list.len()).take_while(|&i| goes(i)).count();
        if start > self.start_offset() || gone > 0 {
            self.tell_start(start)?;
            // 1. a seal writes sections and footer, and fails to cut the file behind them, which
            //    may
            // end there already; 2. the trim takes epochs off the table; 3. the seal is tried
            // again, is shorter by a block, and spoils what the first footer calls whole. An epoch
            // too many does no harm.
            let behind = list.split_last().map_or(&[][..], |(_, behind)| behind);
            if behind.iter().all(|segment| segment.footer().is_some()) {
                self.writer.lock().epochs.trim(start);
            }
            self.watchers.moved();
        }
        if gone > 0 {
            self.change_segments(|list| drop(list.drain(..gone)));
            for segment in list.iter().take(gone) {
                self.removed.note(segment);
            }
            self.doomed.lock().extend(list.iter().take(gone).map(|gone| gone.path.clone()));
        }
        self.remove_doomed()
    }

    /// Writes the log start to a slot of the newest file and syncs it; then it counts.
    fn tell_start(&self, start: Offset) -> Result<()> {
        loop {
            // With the writer locked, so that an append which goes on in this file takes the slots'
            // count from here: the next slot would else overwrite this one.
            let said = {
                let _writer = self.writer.lock();
                self.newest_slot(start)
            };
            let Some((newest, slot)) = said else { return Ok(()) };
            self.write_synced(&newest, &slot)?;
            // The name of a file that was only just begun may be as unsynced as the slot was.
            let dir = &self.place.dir;
            self.disk.sync_dir(dir).map_err(|e| self.halt(Error::io("sync", dir, e)))?;
            let _writer = self.writer.lock();
            self.log_start.fetch_max(start.get(), Ordering::AcqRel);
            // A file that was begun meanwhile says the log start of before, and may be the only one
            // that is left when this one goes. Those to come say this one.
            if self.segments().last().is_some_and(|last| Arc::ptr_eq(last, &newest)) {
                return Ok(());
            }
        }
    }

    /// Removes the files that are on no list any more. What fails is tried again later.
    fn remove_doomed(&self) -> Result<()> {
        let doomed = std::mem::take(&mut *self.doomed.lock());
        if doomed.is_empty() {
            return Ok(());
        }
        let mut first = Ok(());
        for path in doomed {
            if let Err(error) = self.remove_segment(&path) {
                self.doomed.lock().push(path);
                first = first.and(Err(error));
            } else {
                trace::event!(INFO, file = %path.display(), "a segment was deleted");
            }
        }
        // The names of newer files may be among those that it was to write.
        let removed = first.and(self.sync_folder(&self.place.dir));
        if removed.is_err() {
            self.look_again();
        }
        removed
    }

    /// Renames a file away from `.log`, then removes it. Its mappings stay good.
    pub(crate) fn remove_segment(&self, path: &Path) -> Result<()> {
        remove_file(self.disk.as_ref(), path)
    }

    /// As [`Log::abandon`], of a log whose disk may hang: it waits for nobody.
    pub(crate) fn give_up(&self) {
        self.latch.close();
        self.commit.wake();
        self.watchers.moved();
    }

    /// Of a replica that is one no more: its files are closed, so that the room of those that were
    /// removed is free, and the file system can be unmounted. Views that were handed out keep
    /// theirs, and whoever hangs in a call of the disk keeps what it holds.
    pub(crate) fn let_go_of_files(&self) {
        if let Some(mut writer) = self.writer.try_lock() {
            let held = (writer.active.take(), writer.resume.take(), writer.prepared.take());
            drop(writer);
            // Not under the lock: unmapping takes time for a large file.
            drop(held);
        }
        for segment in self.segments().iter() {
            segment.release_file();
            segment.release_mapping();
        }
    }

    /// Takes no more appends and wakes every waiter: the topic was deleted, or the broker died.
    pub(crate) fn abandon(&self) {
        self.latch.close();
        // An append, a roll or a seal that passed the latch before is waited for: nothing makes or
        // writes a file of this log after this.
        drop(self.writer.lock());
        drop(self.turn.take());
        self.end_ahead();
        for segment in self.segments().iter() {
            self.removed.note(segment);
        }
        self.commit.wake();
        self.watchers.moved();
    }
}

/// Removes a file; a segment loses its name ending in `.log` first, so that no crash leaves one
/// that looks whole among others that are gone. What an earlier try has done is not missed.
pub(crate) fn remove_file(disk: &dyn Disk, path: &Path) -> Result<()> {
    let is_segment = path.extension().is_some_and(|extension| extension == "log");
    if !is_segment {
        return disk.remove_file(path).map_err(|e| Error::io("remove", path, e));
    }
    let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let mut away = path.as_os_str().to_owned();
    away.push(DELETED_SUFFIX);
    let away = Path::new(&away);
    match disk.rename(path, away) {
        Err(e) if !missing(&e) => return Err(Error::io("rename", path, e)),
        _ => {}
    }
    match disk.remove_file(away) {
        Err(e) if !missing(&e) => Err(Error::io("remove", away, e)),
        _ => Ok(()),
    }
}
