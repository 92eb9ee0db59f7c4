//! Deleting: old segments when the log start moves, all of them when a topic goes.
//!
//! Not here: when (`broker`).
//!
//! The order: the new log start is written to a slot and synced; then it counts; then a file
//! below it loses its name ending in `.log`, then its name, then the folder is synced. A crash in
//! between leaves a file that the next open finishes removing, or one whose records lie below the
//! log start and are never handed out again.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::format::DELETED_SUFFIX;
use crate::fs::Disk;
use crate::id::{Incarnation, Offset};
use crate::log::core::Log;
use crate::trace;

impl Log {
    /// Moves the log start up to `start` and removes the files that then hold nothing readable.
    /// The newest sealed one stays: its seal speaks for what was before it.
    pub(crate) fn trim_to(&self, start: Offset) -> Result<()> {
        self.must_be_writable()?;
        let _turn = self.turn.take();
        let end = self.end_offset();
        if start > end {
            return Err(Error::out_of_range(start, self.start_offset(), end));
        }
        let list = self.segments();
        let (Some(newest), true) = (list.last(), start > self.start_offset()) else {
            return Ok(());
        };
        // What lies below the log start must not be what the durable offset still waits for.
        self.sync_to(start)?;
        let file = newest.writable_file(self.disk.as_ref())?;
        self.write_slot(newest, file.as_ref(), start, Incarnation::new(0))?;
        self.sync_segment(newest, file.as_ref())?;
        // The name of a file that was only just begun may be as unsynced as the slot was.
        let dir = &self.place.dir;
        self.disk.sync_dir(dir).map_err(|e| self.halt(Error::io("sync", dir, e)))?;
        self.log_start.fetch_max(start.get(), Ordering::AcqRel);
        self.writer.lock().epochs.trim(start);

        let newest_seal = list.iter().rposition(|segment| segment.footer().is_some());
        let goes = |i: usize| {
            list.get(i + 1).is_some_and(|next| next.base <= start) && Some(i) != newest_seal
        };
        let gone = (0..list.len()).take_while(|&i| goes(i)).count();
        if gone == 0 {
            return Ok(());
        }
        self.change_segments(|list| drop(list.drain(..gone)));
        for segment in list.iter().take(gone) {
            self.remove_segment(&segment.path)?;
            self.removed.note(segment);
            trace::event!(
                INFO,
                topic = %self.place.topic,
                partition = self.place.partition().get(),
                base_offset = segment.base.get(),
                "a segment was deleted"
            );
        }
        self.disk.sync_dir(&self.place.dir).map_err(|e| Error::io("sync", &self.place.dir, e))?;
        self.watchers.moved();
        Ok(())
    }

    /// Renames a file away from `.log`, then removes it. Its mappings stay good.
    pub(crate) fn remove_segment(&self, path: &Path) -> Result<()> {
        remove_file(self.disk.as_ref(), path)
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
/// that looks whole among others that are gone.
pub(crate) fn remove_file(disk: &dyn Disk, path: &Path) -> Result<()> {
    let is_segment = path.extension().is_some_and(|extension| extension == "log");
    if !is_segment {
        return disk.remove_file(path).map_err(|e| Error::io("remove", path, e));
    }
    let mut away = path.as_os_str().to_owned();
    away.push(DELETED_SUFFIX);
    let away = Path::new(&away);
    disk.rename(path, away).map_err(|e| Error::io("rename", path, e))?;
    disk.remove_file(away).map_err(|e| Error::io("remove", away, e))
}
