//! Copying a log to another folder while it goes on.
//!
//! Not here: the volume around it (`broker`).
//!
//! A sealed segment is never written to again, unless it is the newest file of its log, whose slots
//! are: so it is linked, or copied where that cannot be. Everything else is copied, each file up to
//! the batch that was its last when the copy began, which is durable by then, with slots that say
//! so.
//!
//! The order: the newest file is opened first, then the others are linked from the newest to the
//! oldest. Retention meanwhile takes files from the other end: where one has vanished, all before
//! it have, and the copy starts where the last one found does.
//!
//! Invariants
//!   1. No file that either log may still write to is shared by both. Removing one removes a name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{SLOT_POSITIONS, Slot, segment_file};
use crate::fs::{Disk, DiskFile, OpenMode, read_exact_at, write_all_at};
use crate::id::{Incarnation, Offset};
use crate::log::core::Log;
use crate::log::segment::Segment;

/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;
/// How often a copy begins anew because retention took even the newest file.
const TRIES_MAX: u32 = 16;

/// What was put into a copy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BackedUp {
    pub(crate) linked_files: u64,
    pub(crate) copied_files: u64,
    pub(crate) bytes: u64,
}

impl Log {
    /// Puts a copy of everything that is in the log now into a folder, which is there and empty,
    /// and syncs it. Nothing is put there of a log without files.
    pub(crate) fn backup_to(&self, dir: &Path, copied: &mut BackedUp) -> Result<()> {
        self.must_be_writable()?;
        // Those that lack only their footers can be linked afterwards. No more than there are now:
        // of a busy log there would always be another one.
        for _ in 0..self.segments().len() {
            if !self.seal_one()? {
                break;
            }
        }
        for _ in 0..TRIES_MAX {
            // Together, so that the newest file ends where the log does.
            let (list, end_position, end) = {
                let _writer = self.writer.lock();
                let list = self.segments();
                let end_position = list.last().map_or(0, |newest| newest.end_position());
                (list, end_position, self.end_offset())
            };
            self.sync_to(end)?;
            let Some((newest, older)) = list.split_last() else { return Ok(()) };
            let log_start = self.start_offset().min(end);
            let source = match newest.file(self.disk.as_ref()) {
                Err(error) if is_missing(&error) => continue,
                source => source?,
            };
            let mut start = newest.base;
            for segment in older.iter().rev() {
                if !self.share(segment, dir, copied)? {
                    break;
                }
                start = segment.base;
            }
            let target = self.copy(newest, source.as_ref(), dir, end_position, copied)?;
            self.write_slots(
                newest,
                target.as_ref(),
                dir,
                (end, end_position),
                log_start.max(start),
            )?;
            return self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e));
        }
        Err(Error::TimedOut { what: "a log that retention leaves alone" })
    }

    /// Puts a segment that is not the newest into the folder; false if it has vanished.
    fn share(&self, segment: &Arc<Segment>, dir: &Path, copied: &mut BackedUp) -> Result<bool> {
        let name = dir.join(segment_file(segment.base, segment.generation));
        // While a file is sealed it seems to have its footer, and the medium may not have it yet:
        // the backup and the log would then both write it, to the one file that they share.
        let turn = self.turn.take();
        self.latch.check()?;
        if segment.footer().is_some_and(|footer| !footer.closing) {
            match self.disk.hard_link(&segment.path, &name) {
                Ok(()) => {
                    copied.linked_files += 1;
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                // Another file system, one without links, or too many of them: copied.
                Err(_) => {}
            }
        }
        drop(turn);
        let source = match segment.file(self.disk.as_ref()) {
            Err(error) if is_missing(&error) => return Ok(false),
            source => source?,
        };
        let failed = |e| Error::io("look at", &segment.path, e);
        let sealed = segment.footer().is_some();
        let bytes = if sealed { source.len().map_err(failed)? } else { segment.end_position() };
        let target = self.copy(segment, source.as_ref(), dir, bytes, copied)?;
        if !sealed {
            let at = (segment.end(), segment.end_position());
            self.write_slots(segment, target.as_ref(), dir, at, self.start_offset().min(at.0))?;
        }
        Ok(true)
    }

    /// Copies the first bytes of a segment's file, and syncs them.
    fn copy(
        &self,
        segment: &Segment,
        source: &dyn DiskFile,
        dir: &Path,
        bytes: u64,
        copied: &mut BackedUp,
    ) -> Result<Arc<dyn DiskFile>> {
        let path = dir.join(segment_file(segment.base, segment.generation));
        let target = self
            .disk
            .open(&path, OpenMode::CreateNew)
            .map_err(|e| Error::io("create", &path, e))?;
        let size = usize::try_from(COPY_BYTES.min(bytes)).unwrap_or(0);
        let mut buffer = vec![0; size];
        let mut position = 0;
        while position < bytes {
            let part = usize::try_from(bytes - position).unwrap_or(usize::MAX).min(size);
            let part = &mut buffer[..part];
            read_exact_at(source, part, position)
                .map_err(|e| Error::io("read", &segment.path, e))?;
            write_all_at(target.as_ref(), part, position)
                .map_err(|e| Error::io("write", &path, e))?;
            position += part.len() as u64;
        }
        target.sync_data().map_err(|e| Error::io("sync", &path, e))?;
        copied.copied_files += 1;
        copied.bytes += bytes;
        Ok(target)
    }

    /// Says in a copied file what is durable there, which is all of it, and where the log starts.
    fn write_slots(
        &self,
        segment: &Segment,
        file: &dyn DiskFile,
        dir: &Path,
        (durable, durable_position): (Offset, u64),
        log_start: Offset,
    ) -> Result<()> {
        let path = dir.join(segment_file(segment.base, segment.generation));
        let identity = &self.place.identity;
        for (sequence, position) in (0..).zip(SLOT_POSITIONS) {
            let slot = Slot {
                sequence,
                durable,
                durable_position,
                log_start,
                catching_up: false,
                clean_mark: Incarnation::new(0),
                generation: segment.generation,
                kind: segment.kind,
            };
            write_all_at(file, &slot.encode(identity), position)
                .map_err(|e| Error::io("write a slot of", &path, e))?;
        }
        file.sync_data().map_err(|e| Error::io("sync", &path, e))
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io(failure) if failure.source.kind() == io::ErrorKind::NotFound)
}

/// Removes a copy of a log whose topic was deleted meanwhile.
pub(crate) fn remove_copy(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let path = dir.join(&entry.name);
        disk.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    disk.remove_dir(dir).map_err(|e| Error::io("remove", dir, e))
}
