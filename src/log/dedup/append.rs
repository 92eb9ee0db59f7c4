//! Appending records that have dedup keys: each is written once, or is told where it was.
//!
//! Not here: looking for keys (`look`), the append itself (`writer`).
//!
//! 1. Look for every key, without a lock. 2. Lock the writer, with room for what seems to be new.
//! 3. If a key was entered since that may be one of these, or the log was cut, begin again.
//! 4. Decide, record by record, by where each would go and when. 5. Write those that are new as one
//! batch, and enter their keys.

use std::sync::Arc;

use crate::config::Compression;
use crate::error::{DedupMismatch, Error, Result};
use crate::format::{Record, dedup_bytes};
use crate::id::Offset;
use crate::log::body::{Body, Plain};
use crate::log::core::Log;
use crate::log::dedup::hash_of;
use crate::log::dedup::keys::entry;
use crate::log::dedup::look::{Asked, Original, Sight, pair};
use crate::log::dedup::window::{Point, Window};
use crate::log::writer::{Appended, Origin, Writer};

/// Where one record of an append is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) offset: Offset,
    pub(crate) append_time: i64,
    /// It was there before.
    pub(crate) duplicate: bool,
}

/// Where the records of an append are, of which some were there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Duplicates {
    /// In the order in which the records were given.
    pub(crate) places: Box<[Placed]>,
    pub(crate) count: u64,
    /// The offset after the last one of those that were there before.
    end: Offset,
}

impl Appended {
    /// The offset below which everything is to be as durable as the append is to be: what was
    /// written, and the originals of what was not.
    #[inline]
    pub(crate) fn awaited_end(&self) -> Offset {
        let Some(duplicates) = &self.duplicates else { return self.end };
        // Where nothing was written, its end is the log's: what others append is not waited for.
        if self.base < self.end { self.end.max(duplicates.end) } else { duplicates.end }
    }

    /// Where the record of this number is.
    #[inline]
    pub(crate) fn placed(&self, index: u64) -> Placed {
        let of_many = self.duplicates.as_ref().and_then(|duplicates| {
            duplicates.places.get(usize::try_from(index).unwrap_or(usize::MAX))
        });
        of_many.copied().unwrap_or(Placed {
            offset: self.base.plus(index),
            append_time: self.append_time,
            duplicate: false,
        })
    }
}

impl Log {
    /// Whether these records are to be looked for before they are appended.
    #[inline]
    pub(crate) fn deduplicates(&self, records: &[Record<'_>]) -> bool {
        !self.dedup.window.is_off()
            && records.iter().any(|record| record.dedup_key_bytes().is_some())
    }

    /// As [`Log::append_of`], each record that the window holds once only. Packed, if all of them
    /// are new; else what is new is appended as it is.
    ///
    /// # Errors
    /// `DedupMismatch` if a record's key was written with another value, and `Corrupt` if what may
    /// have its key is damaged: nothing was written.
    pub(crate) fn append_once(
        &self,
        origin: Origin<'_>,
        plain: &Plain<'_, '_>,
        compression: Compression,
    ) -> Result<Appended> {
        let records = plain.records;
        let (mut one, mut many) = ([Asked::default()], Vec::new());
        let asked = if records.len() == 1 {
            &mut one[..]
        } else {
            many.resize(records.len(), Asked::default());
            &mut many[..]
        };
        let mut keys = 0;
        for (record, asked) in records.iter().zip(&mut *asked) {
            if let Some(key) = record.dedup_key_bytes() {
                asked.hash = hash_of(&self.place.identity, key);
                keys += 1;
            }
        }
        pair(records, asked);
        let whole = plain.bytes() + usize::try_from(dedup_bytes(keys)).unwrap_or(0);
        // Room is made for the whole batch, unless it seems that nothing of it is new: what is
        // there already can be told on a full disk too.
        let mut surely = false;
        let (mut packed, mut to_pack) = (None, compression != Compression::None);
        loop {
            let sight = self.sight();
            self.look(records, asked, &sight)?;
            let expected = Point { offset: sight.end, append_time: sight.now };
            // What seems to be another value may be outside the window where it is appended.
            let expected = self.decide(records, asked, expected).ok();
            let seems_fresh = surely || expected != Some(0);
            if to_pack && expected == Some(records.len()) {
                packed = plain.pack(compression, self.clock.as_ref())?;
                to_pack = false;
            }
            let mut writer = self.writer_with_room(if seems_fresh { whole } else { 0 })?;
            let append_time = self.clock.now_ms().max(writer.append_time);
            if let Origin::Producer(producer) = origin {
                // Also where there is nothing to be numbered.
                producer.check()?;
            }
            if !self.is_current(&sight, asked, append_time) {
                continue;
            }
            let now = Point { offset: writer.next, append_time };
            let fresh = self.decide(records, asked, now)?;
            if fresh > 0 && !seems_fresh {
                surely = true;
                continue;
            }
            let writer_of = (&mut *writer, origin);
            let appended = match &packed {
                _ if fresh < records.len() => self.append_rest(writer_of, records, asked, now),
                None => self.append_entered(writer_of, plain, records, asked, now),
                Some(packed) => self.append_entered(writer_of, packed, records, asked, now),
            };
            drop(writer);
            if appended.is_err() {
                self.tell_halt();
            }
            return appended;
        }
    }

    /// Whether what a look found is all there is, for an append at this time. With the writer
    /// locked.
    fn is_current(&self, sight: &Sight, asked: &[Asked], append_time: i64) -> bool {
        let entered = self.dedup.entered();
        if self.dedup.changes() != sight.changes {
            return false;
        }
        // The clock was set back: what seemed to be too old may count.
        if matches!(self.dedup.window, Window::Millis(_)) && append_time < sight.now {
            return false;
        }
        if entered == sight.end {
            return true;
        }
        let segments = self.segments();
        let mut since = segments.iter().rev().take_while(|segment| segment.end() > sight.end);
        since.all(|segment| {
            let delta = segment.base.distance_to(sight.end);
            // One that was sealed since has its keys in its file.
            let is_open = || segment.footer().is_none();
            segment.keys.has_none_since(asked.iter().map(|asked| asked.hash), delta, is_open)
        })
    }

    /// Decides what becomes of each record of a batch that is appended at `now`, and tells how many
    /// are new.
    fn decide(&self, records: &[Record<'_>], asked: &mut [Asked], now: Point) -> Result<usize> {
        let start = self.start_offset();
        let mut fresh = 0;
        for (at, record) in records.iter().enumerate() {
            let here = Point { offset: now.offset.plus(fresh as u64), ..now };
            let before = asked[at].earlier.and_then(|earlier| asked[earlier].newest);
            let original = match before {
                Some(other) => {
                    let Placed { offset, append_time, .. } = asked[other].place;
                    let same = records[other].value_bytes() == record.value_bytes();
                    Some(Original { at: Point { offset, append_time }, same })
                }
                None => asked[at].original.filter(|original| original.at.offset >= start),
            };
            let counts = |original: &Original| self.dedup.window.holds(original.at, here);
            let original = original.filter(counts);
            if let Some(Original { same: false, at: original }) = original {
                return Err(self.mismatch(at, before.is_none().then_some(original.offset)));
            }
            let Point { offset, append_time } = original.map_or(here, |original| original.at);
            asked[at].place = Placed { offset, append_time, duplicate: original.is_some() };
            if original.is_some() {
                asked[at].newest = before;
            } else {
                asked[at].newest = Some(at);
                fresh += 1;
            }
        }
        Ok(fresh)
    }

    #[cold]
    fn mismatch(&self, index: usize, original: Option<Offset>) -> Error {
        Error::DedupMismatch(Box::new(DedupMismatch {
            topic: Arc::clone(&self.place.topic),
            partition: self.place.partition(),
            index,
            original,
        }))
    }

    /// Appends those of the records that are new, if there are any.
    #[cold]
    fn append_rest(
        &self,
        (writer, origin): (&mut Writer, Origin<'_>),
        records: &[Record<'_>],
        asked: &[Asked],
        now: Point,
    ) -> Result<Appended> {
        let both = records.iter().zip(asked);
        let fresh = both.filter(|(_, asked)| !asked.place.duplicate);
        let kept: Vec<_> = fresh.map(|(record, _)| record.clone()).collect();
        let mut appended = if kept.is_empty() {
            writer.nothing_appended(now)
        } else {
            self.append_entered((writer, origin), &Plain::new(&kept)?, &kept, asked, now)?
        };
        let places: Box<[Placed]> = asked.iter().map(|asked| asked.place).collect();
        let originals = places.iter().filter(|place| place.duplicate);
        let end = originals.map(|place| place.offset.next()).max().unwrap_or(Offset::ZERO);
        let count = (records.len() - kept.len()) as u64;
        appended.duplicates = Some(Arc::new(Duplicates { places, count, end }));
        self.counters.duplicates(count);
        Ok(appended)
    }

    /// Appends the records that are new, which `kept` are all of, as `body`, and enters their keys.
    fn append_entered(
        &self,
        (writer, origin): (&mut Writer, Origin<'_>),
        body: &impl Body,
        kept: &[Record<'_>],
        asked: &[Asked],
        now: Point,
    ) -> Result<Appended> {
        let position = writer.active.as_ref().map_or(0, |active| active.position);
        let appended = self.append_locked(writer, origin, body, now.append_time)?;
        debug_assert_eq!(appended.base, now.offset, "where the decision was made for");
        if let Some(active) = &writer.active {
            let base = active.segment.base;
            let fresh = asked.iter().filter(|asked| !asked.place.duplicate);
            let entries = fresh.zip(kept).filter_map(|(asked, record)| {
                record.dedup_key_bytes()?;
                entry(asked.hash, base.distance_to(asked.place.offset), position)
            });
            active.segment.keys.enter(entries);
        }
        self.dedup.enter_to(appended.end);
        Ok(appended)
    }
}
