//! What a partition's files tell of the topic that they are of, where nothing else tells it.
//!
//! Not here: making topics of it (`broker::rebuild`); opening the log, which looks at the same
//! files again.
//!
//! A segment's header says whose it is, and is not seeded with the identity: so headers come first,
//! and with the identity that they give the rest of a file can be believed.
//!
//! Threads   any; nothing is changed.
//! Failure   damage tells nothing and is no error. What the disk does not do is one.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::SEGMENT_BYTES_MAX;
use crate::error::{Error, Result};
use crate::format::{Identity, PAGE, SectionKind, SegmentHeader, parse_segment_file, segment_file};
use crate::fs::{Disk, DiskFile, EntryKind, OpenMode, read_exact_at};
use crate::id::{Generation, LeaderEpoch, Offset, ProducerId};
use crate::log::core::Mode;
use crate::log::dedup::keys_in;
use crate::log::producers::opening_section;
use crate::log::roll::segment_bytes_for;
use crate::log::scan::{Found, Stray, image, is_bad_sector, scan};

/// What the files of a partition tell, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// The newest that a batch was written in.
    pub(crate) latest_epoch: LeaderEpoch,
    /// Above the number of every producer with a name.
    pub(crate) named_end: u64,
    /// A file has a footer: it says whether there is a dedup window.
    pub(crate) has_footer: bool,
    /// A file was sealed with its dedup keys, as where there is a window.
    pub(crate) has_window: bool,
    /// A record in a file without a footer has a dedup key, or may have.
    pub(crate) has_keys: bool,
}

impl Survey {
    /// Both taken together.
    pub(crate) fn and(self, other: Survey) -> Survey {
        Survey {
            latest_epoch: self.latest_epoch.max(other.latest_epoch),
            named_end: self.named_end.max(other.named_end),
            has_footer: self.has_footer || other.has_footer,
            has_window: self.has_window || other.has_window,
            has_keys: self.has_keys || other.has_keys,
        }
    }

    fn names(&mut self, producer: ProducerId) {
        if producer.is_named() {
            let number = producer.get() & !ProducerId::NAMED_BIT;
            self.named_end = self.named_end.max(number.saturating_add(1));
        }
    }

    fn file(&mut self, found: &Found, file: &dyn DiskFile, identity: &Identity) -> Result<()> {
        let failed = |e| Error::io("read", &found.path, e);
        let first = found.first_position();
        let opening = opening_section(file, identity, first);
        self.latest_epoch =
            opening.epochs.iter().map(|entry| entry.epoch).fold(self.latest_epoch, Ord::max);
        opening.producers.iter().for_each(|row| self.names(row.id));
        // Nobody else writes to it: the lock is held.
        let image = image(file, first, found.bytes, Mode::ReadWrite).map_err(failed)?;
        let bytes = image.view.bytes();
        let found_here = scan(bytes, first, identity, found.base, Offset::MAX);
        for run in &found_here.runs {
            self.latest_epoch =
                run.epochs.iter().map(|entry| entry.epoch).fold(self.latest_epoch, Ord::max);
            run.producers.rows().iter().for_each(|row| self.names(row.id));
        }
        if let Some(footer) = &found.footer {
            self.latest_epoch = self.latest_epoch.max(footer.last_epoch);
            self.has_footer = true;
            self.has_window |= footer.section(SectionKind::Dedup).is_some();
        } else if !self.has_keys {
            let keys = keys_in(identity, (bytes, first), found.base, &found_here.runs);
            // Those of batches that cannot be decompressed are hidden: they may have some.
            self.has_keys = keys.map_or(true, |keys| keys.entries().next().is_some());
        }
        Ok(())
    }
}

/// The segments in a partition's folder whose name is one, with their headers where those are
/// good. None where there is no such folder.
pub(crate) fn headers_in(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<Vec<(PathBuf, Option<SegmentHeader>)>> {
    let mut headers = Vec::new();
    for (base, generation) in segments_in(disk, dir)? {
        let path = dir.join(segment_file(base, generation));
        let file = open(disk, &path)?;
        let mut page = [0; PAGE];
        let header = match read_exact_at(file.as_ref(), &mut page, 0) {
            Ok(()) => SegmentHeader::decode(&page).ok(),
            Err(e) if is_bad_sector(&e) || e.kind() == ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        headers.push((path, header));
    }
    Ok(headers)
}

/// Reads every batch in a partition's folder.
pub(crate) fn survey(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Survey> {
    let mut survey = Survey::default();
    for (base, generation) in segments_in(disk, dir)? {
        let path = dir.join(segment_file(base, generation));
        let file = open(disk, &path)?;
        let found = Found::read(path.clone(), base, generation, file.as_ref(), identity)
            .map_err(|e| Error::io("read", &path, e))?;
        if found.stray != Some(Stray::OfAnotherLog) {
            survey.file(&found, file.as_ref(), identity)?;
        }
    }
    Ok(survey)
}

/// The `segment_bytes` that a file was begun with; `None` if there is none that makes such a file.
pub(crate) fn segment_bytes_of(header: &SegmentHeader) -> Option<u64> {
    (header.capacity <= SEGMENT_BYTES_MAX && header.first_position <= header.capacity)
        .then(|| segment_bytes_for(header.capacity, header.first_position))
}

fn segments_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<(Offset, Generation)>> {
    let entries = match disk.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
    Ok(files.filter_map(|entry| parse_segment_file(&entry.name)).collect())
}

fn open(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>> {
    disk.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))
}
