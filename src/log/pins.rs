//! Which files views still hold, those that were removed included: their room on the disk comes
//! back only when the last view goes.
//!
//! A view holds a share of its mapping, so views are counted where they are: by the mapping's
//! shares, less those of the log itself. Nothing is done when a view is made or dropped.
//!
//! Not here: removing files (`trim`).
//!
//! Threads   any. A fetch that is under way, or a sync that makes pages ready, may count as a view.

use std::sync::{Arc, Weak};

use crate::fs::Mapping;
use crate::id::Offset;
use crate::log::core::Log;
use crate::log::segment::Segment;
use crate::sync::Mutex;

/// The mappings of a segment: the one to read by, and those that it let go of while views held
/// them.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    held: Option<(Arc<Mapping>, Maker)>,
    shed: Vec<Weak<Mapping>>,
}

/// Who made a mapping: the writer, who appends through it, or a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Writer,
    Reader,
}

impl Maps {
    pub(crate) fn held(&self) -> Option<&Arc<Mapping>> {
        self.held.as_ref().map(|(map, _)| map)
    }

    pub(crate) fn hold(&mut self, map: Arc<Mapping>, maker: Maker) {
        drop(self.shed());
        self.held = Some((map, maker));
    }

    /// As [`Maps::shed`], if the mapping was made by this one.
    pub(crate) fn shed_of(&mut self, maker: Maker) -> Option<Arc<Mapping>> {
        let made = self.held.as_ref().is_some_and(|(_, by)| *by == maker);
        if made { self.shed() } else { None }
    }

    /// Lets go of the mapping, but remembers it while others have shares. The caller drops it
    /// without the lock: unmapping takes time for a large file.
    pub(crate) fn shed(&mut self) -> Option<Arc<Mapping>> {
        let (map, _) = self.held.take()?;
        self.shed.retain(|shed| shed.strong_count() > 0);
        if Arc::strong_count(&map) > 1 {
            self.shed.push(Arc::downgrade(&map));
        }
        Some(map)
    }

    /// Takes over what another segment of the same file has let go of.
    pub(crate) fn inherit(&mut self, other: &mut Maps) {
        self.shed.append(&mut other.shed);
    }

    pub(crate) fn take_shed(&mut self) -> Vec<Weak<Mapping>> {
        self.shed.retain(|shed| shed.strong_count() > 0);
        std::mem::take(&mut self.shed)
    }

    /// Whether a view looks into any of them.
    pub(crate) fn are_viewed(&self) -> bool {
        self.held().is_some_and(Mapping::is_viewed) || self.shed.iter().any(is_viewed)
    }
}

/// Whether anyone but the one share taken here, and a writer, has one.
fn is_viewed(map: &Weak<Mapping>) -> bool {
    map.upgrade().is_some_and(|map| map.is_viewed())
}

/// A file that a view holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) base: Offset,
    /// Its length on disk.
    pub(crate) bytes: u64,
    /// When its last batch was appended.
    pub(crate) append_time: Option<i64>,
    /// It has no name any more.
    pub(crate) deleted: bool,
}

/// The removed files of a log that views hold.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// Lock rank: leaf.
    files: Mutex<Vec<(Pinned, Vec<Weak<Mapping>>)>>,
}

impl Removed {
    /// A segment's file was, or is about to be, removed. What is left of its mappings is what
    /// views hold.
    pub(crate) fn note(&self, segment: &Segment) {
        segment.release_mapping();
        let maps = segment.take_shed();
        let mut files = self.files.lock();
        files.retain(|(_, maps)| maps.iter().any(is_viewed));
        if maps.is_empty() {
            return;
        }
        files.push((Pinned { deleted: true, ..segment.pinned() }, maps));
    }

    /// What is still held, oldest first; the rest is forgotten.
    pub(crate) fn look(&self) -> Vec<Pinned> {
        let mut files = self.files.lock();
        files.retain(|(_, maps)| maps.iter().any(is_viewed));
        files.iter().map(|(pinned, _)| pinned.clone()).collect()
    }
}

impl Segment {
    /// What is told of it while a view holds it.
    pub(crate) fn pinned(&self) -> Pinned {
        Pinned {
            base: self.base,
            bytes: self.known_bytes().unwrap_or_else(|| self.end_position()),
            append_time: self.append_time(),
            deleted: false,
        }
    }
}

impl Log {
    /// The files that views hold, oldest first, those that were removed included.
    pub(crate) fn pinned(&self) -> Vec<Pinned> {
        let mut pinned = self.removed.look();
        let viewed = |segment: &&Arc<Segment>| segment.with_maps(Maps::are_viewed);
        pinned.extend(self.segments().iter().filter(viewed).map(|segment| segment.pinned()));
        pinned
    }
}
