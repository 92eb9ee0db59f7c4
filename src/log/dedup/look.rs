//! Looking for the dedup keys of a batch, before the writer lock is taken.
//!
//! Not here: what follows from what is found, which only the lock can tell (`append`).
//!
//! Failure   an index that leads astray is set aside, and the file's batches are walked. A batch
//!           that is damaged cannot say whether it has a key: who asks for one that may be in it
//!           gets `Corrupt`, and nothing is written.

use std::ops::Range;
use std::sync::Arc;

use crate::config::Reads;
use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, DedupEntry, Record, RecordRef};
use crate::fs::View;
use crate::id::Offset;
use crate::log::core::Log;
use crate::log::dedup::append::Placed;
use crate::log::dedup::window::{Point, Window};
use crate::log::read::{batch_damage, check_batch};
use crate::log::scan::copied_image;
use crate::log::segment::Segment;
use crate::log::unpack::{Unpackable, unpack};

/// A batch is read in a window of this size, unless it is larger.
const WINDOW_BYTES: usize = 4 << 10;

/// What a look speaks of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// How often what lies below had changed.
    pub(super) changes: u64,
    /// Offsets below this one.
    pub(super) end: Offset,
    /// No record can be appended before this time, or the look is made again. The least there is
    /// where the window asks for no time.
    pub(super) now: i64,
}

/// The newest record that has a dedup key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Original {
    pub(super) at: Point,
    /// Its value is the one that is to be appended.
    pub(super) same: bool,
}

/// What is known of one record of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) hash: u64,
    /// The record before it in the batch that has the same key.
    pub(super) earlier: Option<usize>,
    pub(super) original: Option<Original>,
    /// The newest record of the batch, up to this one, that has its key and is new.
    pub(super) newest: Option<usize>,
    /// Where it is, as far as is decided.
    pub(super) place: Placed,
}

/// What an entry leads to.
enum Lead {
    /// The key.
    Found(Original),
    /// Another key with the same hash, or one that is deleted by now.
    Other,
    /// No record: the index is wrong.
    Astray,
}

/// The records of a batch with what is asked of each, which has its hash; each is told which one
/// before it has the same key.
pub(super) fn pair(records: &[Record<'_>], asked: &mut [Asked]) {
    if records.len() < 2 {
        return;
    }
    let keyed = |at: &usize| records[*at].dedup_key_bytes().is_some();
    let mut order: Vec<usize> = (0..records.len()).filter(keyed).collect();
    order.sort_unstable_by_key(|&at| (asked[at].hash, at));
    for (n, &at) in order.iter().enumerate() {
        let mut before = order[..n].iter().rev();
        let alike = before.by_ref().take_while(|&&other| asked[other].hash == asked[at].hash);
        let key = records[at].dedup_key_bytes();
        let earlier = alike.copied().find(|&other| records[other].dedup_key_bytes() == key);
        asked[at].earlier = earlier;
    }
}

impl Log {
    /// What a look that begins now will speak of.
    pub(super) fn sight(&self) -> Sight {
        let changes = self.dedup.changes();
        let end = self.dedup.entered();
        let timed = matches!(self.dedup.window, Window::Millis(_));
        Sight { changes, end, now: if timed { self.clock.now_ms() } else { i64::MIN } }
    }

    /// Looks for the newest record below the sight's end that has each record's dedup key, as far
    /// back as the window reaches.
    pub(super) fn look(
        &self,
        records: &[Record<'_>],
        asked: &mut [Asked],
        sight: &Sight,
    ) -> Result<()> {
        let segments = self.segments();
        let (mut entries, mut read) = (Vec::new(), None);
        for (record, asked) in records.iter().zip(asked) {
            if let Some(key) = record.dedup_key_bytes() {
                let wanted = Wanted { record, key, hash: asked.hash };
                asked.original =
                    self.newest(&segments, sight, &wanted, (&mut entries, &mut read))?;
            }
        }
        Ok(())
    }

    fn newest(
        &self,
        segments: &[Arc<Segment>],
        sight: &Sight,
        wanted: &Wanted<'_, '_>,
        (entries, read): (&mut Vec<DedupEntry>, &mut Option<Read>),
    ) -> Result<Option<Original>> {
        let window = self.dedup.window;
        let first = self.start_offset().max(window.first_offset(sight.end));
        let first_time = window.first_time(sight.now);
        for segment in segments.iter().rev() {
            let too_old = matches!(window, Window::Millis(_))
                && segment.footer().is_some_and(|footer| footer.max_append_time < first_time);
            if segment.end() <= first || too_old {
                break;
            }
            let range = (first, sight.end.min(segment.end()));
            entries.clear();
            match self.newest_in(segment, range, wanted, (entries, read)) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                // It was deleted while it was looked into, and all before it.
                Err(_) if segment.end() <= self.start_offset() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The newest record of one segment.
    fn newest_in(
        &self,
        segment: &Arc<Segment>,
        range: (Offset, Offset),
        wanted: &Wanted<'_, '_>,
        (entries, read): (&mut Vec<DedupEntry>, &mut Option<Read>),
    ) -> Result<Option<Original>> {
        self.entries_of(segment, wanted.hash, entries)?;
        match self.follow(segment, entries, range, (wanted, read))? {
            Lead::Found(original) => Ok(Some(original)),
            Lead::Other => Ok(None),
            Lead::Astray => {
                let walked = self.walk(segment)?.find(wanted.hash);
                match self.follow(segment, walked, range, (wanted, read))? {
                    Lead::Found(original) => Ok(Some(original)),
                    Lead::Other | Lead::Astray => Ok(None),
                }
            }
        }
    }

    /// The newest of these entries that lies in a range of offsets and is what is wanted.
    fn follow(
        &self,
        segment: &Arc<Segment>,
        entries: &[DedupEntry],
        (first, end): (Offset, Offset),
        (wanted, read): (&Wanted<'_, '_>, &mut Option<Read>),
    ) -> Result<Lead> {
        for entry in entries.iter().rev() {
            let offset = segment.base.plus(u64::from(entry.offset_delta));
            if offset < first || offset >= end {
                continue;
            }
            match self.read_lead(segment, entry, offset, (wanted, read)) {
                // It was deleted while it was looked for.
                Err(Error::Corrupt(_) | Error::Io(_)) if offset < self.start_offset() => {}
                Ok(Lead::Other) => {}
                lead => return lead,
            }
        }
        Ok(Lead::Other)
    }

    fn read_lead(
        &self,
        segment: &Arc<Segment>,
        entry: &DedupEntry,
        offset: Offset,
        (wanted, read): (&Wanted<'_, '_>, &mut Option<Read>),
    ) -> Result<Lead> {
        let position = entry.position();
        if position < segment.first_position || position >= segment.end_position() {
            return Ok(Lead::Astray);
        }
        // A batch that is sent again asks for the records of one batch, one after the other.
        let read = match read {
            Some(read) if read.is_of(segment, position) => read,
            read => match self.read_batch(segment, position, offset)? {
                Some(batch) => read.insert(batch),
                None => return Ok(Lead::Astray),
            },
        };
        let header = read.header;
        if offset < header.base_offset || offset >= header.next_offset() {
            return Ok(Lead::Astray);
        }
        let Some(found) = read.record(header.base_offset.distance_to(offset)) else {
            return Ok(Lead::Astray);
        };
        if found.dedup_key != Some(wanted.key) {
            return Ok(Lead::Other);
        }
        let at = Point { offset, append_time: header.append_time };
        Ok(Lead::Found(Original { at, same: found.value == wanted.record.value_bytes() }))
    }

    /// The batch at a position, checked, and decompressed if it has a codec; `None` if it is not
    /// one that holds the offset.
    fn read_batch(
        &self,
        segment: &Arc<Segment>,
        position: u64,
        offset: Offset,
    ) -> Result<Option<Read>> {
        let damaged = |first: Offset, end: Offset, what| {
            Err(self.place.corrupt(first, end, &segment.path, position, what))
        };
        let (disk, identity) = (self.disk.as_ref(), &self.place.identity);
        // What is sealed is read into memory: a page that is mapped for one key alone costs more.
        let file = segment.footer().is_some().then(|| segment.keys_file(disk)).transpose()?;
        let read = |bytes: usize| match &file {
            Some(file) => {
                let rest = segment.end_position() - position;
                let bytes = bytes.min(usize::try_from(rest).unwrap_or(usize::MAX));
                copied_image(file.as_ref(), position, bytes)
                    .map_err(|e| Error::io("read", &segment.path, e))
            }
            None => segment.window(disk, position, bytes, Reads::Mapped),
        };
        let mut view = read(WINDOW_BYTES)?;
        let header = match BatchHeader::decode(view.bytes(), identity) {
            Ok(header) => header,
            Err(error) => return damaged(offset, offset.next(), batch_damage(error)),
        };
        if offset < header.base_offset || offset >= header.next_offset() {
            return Ok(None);
        }
        let bytes = header.batch_bytes();
        if bytes > view.len() {
            view = read(bytes)?;
        }
        // Whoever wrote it, and whoever checked it before: what cannot be read is zeros here, in
        // which there is no key.
        if let Err(what) = check_batch(&header, view.bytes(), identity) {
            return damaged(header.base_offset, header.next_offset(), what);
        }
        segment.verified.insert(position, position + bytes as u64);
        let mut payload = BATCH_HEADER_BYTES..bytes;
        if header.is_compressed() {
            view = match unpack(view.bytes().get(..bytes).unwrap_or_default()) {
                Ok(unpacked) => unpacked.view,
                Err(Unpackable::NotBuilt { feature }) => {
                    return Err(Error::MissingFeature { feature });
                }
                Err(Unpackable::Damaged(what)) => {
                    return damaged(header.base_offset, header.next_offset(), what);
                }
                Err(Unpackable::OutOfMemory) => {
                    let cause = std::io::ErrorKind::OutOfMemory.into();
                    return Err(Error::io("decompress a batch of", &segment.path, cause));
                }
            };
            payload.end = view.len();
        }
        let segment = Arc::clone(segment);
        Ok(Some(Read { segment, position, header, at: payload.start, payload, view }))
    }
}

/// A batch that was read for the key of one of its records.
struct Read {
    segment: Arc<Segment>,
    position: u64,
    header: BatchHeader,
    view: View,
    /// Where its records are in the view.
    payload: Range<usize>,
    /// And where the one is that was found last.
    at: usize,
}

impl Read {
    fn is_of(&self, segment: &Arc<Segment>, position: u64) -> bool {
        Arc::ptr_eq(&self.segment, segment) && self.position == position
    }

    /// The record at an offset delta: looked for from the last one that was found on, and, if it
    /// lies before that, from the first.
    fn record(&mut self, delta: u64) -> Option<RecordRef<'_>> {
        let Self { header, view, payload, at, .. } = self;
        let bytes = view.bytes();
        for from in [*at, payload.start] {
            let mut records = header.records(bytes.get(from..payload.end)?);
            loop {
                let here = payload.end - records.rest().len();
                let Some(Ok(record)) = records.next() else { break };
                if u64::from(record.offset_delta) == delta {
                    *at = here;
                    return Some(record);
                }
                if u64::from(record.offset_delta) > delta {
                    break;
                }
            }
        }
        None
    }
}

/// A record whose key is looked for.
struct Wanted<'a, 'r> {
    record: &'a Record<'r>,
    key: &'a [u8],
    hash: u64,
}
