//! Reading a log's files for the sake of it: every batch is checked, whether this process wrote it,
//! checked it before, or has it in a cache.
//!
//! Not here: who asks for it and when (`broker::scrub`), what becomes of what is found (`patch`).
//!
//! A look goes on from an offset, a piece at a time, so that it neither holds a file nor keeps
//! anybody waiting. What a cut or retention takes meanwhile is no damage: who looks is told only
//! what is still of the log when the piece ends.
//!
//! Threads   any; no lock is held.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, PAGE, find_next};
use crate::fs::{DiskFile, OpenMode, View};
use crate::id::{LeaderEpoch, Offset};
use crate::log::core::Log;
use crate::log::read::{batch_damage, check_batch};
use crate::log::scan::copied;
use crate::log::segment::Segment;

/// What bytes are read through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// The page cache, where they are in it.
    Cache,
    /// The medium, as far as the file system lets it be asked.
    Medium,
}

/// Offsets that cannot be read, and the place of their bytes.
#[derive(Clone, Debug)]
pub(crate) struct Hole {
    pub(crate) first: Offset,
    pub(crate) end: Offset,
    pub(crate) what: &'static str,
    /// The disk may give its bytes back another time.
    pub(crate) is_unreadable: bool,
    pub(crate) place: HolePlace,
}

#[derive(Clone, Debug)]
pub(crate) enum HolePlace {
    /// Within a file.
    In(Room),
    /// There is no place for them: a file is missing, or its end.
    Nowhere,
}

/// A place for batches in a file.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(super) segment: Arc<Segment>,
    pub(super) position: u64,
    pub(super) bytes: u64,
    /// Good batches follow: all of it has to be filled.
    pub(super) exact: bool,
    /// The header of the batch there, if that is good.
    pub(super) header: Option<Vec<u8>>,
    /// Of the batch before it and the one behind it.
    pub(super) epochs: (LeaderEpoch, LeaderEpoch),
}

/// What a look at a piece of a log came to.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// Where the next look goes on.
    pub(crate) next: Offset,
    pub(crate) bytes: u64,
    pub(crate) holes: Vec<Hole>,
}

impl Log {
    /// Below it the files are not appended to any more.
    pub(crate) fn sealed_end(&self) -> Offset {
        let list = self.segments();
        let sealed = list.iter().take_while(|segment| segment.footer().is_some()).last();
        sealed.map_or(Offset::ZERO, |segment| segment.end())
    }

    /// How many bytes of batches those files hold.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        let list = self.segments();
        let sealed = list.iter().filter(|segment| segment.footer().is_some());
        sealed.map(|segment| segment.end_position() - segment.first_position).sum()
    }

    /// Checks what lies from `from` on and below `upto`, within one file and about `bytes_max` of
    /// it. Gets no further where files went meanwhile. Files that are appended to are read through
    /// the cache: what they hold may be nowhere else yet.
    ///
    /// # Errors
    /// Of the disk; a block that it does not give back is damage, and no error.
    pub(crate) fn inspect(
        &self,
        from: Offset,
        upto: Offset,
        bytes_max: usize,
        through: Through,
    ) -> Result<Inspected> {
        let from = from.max(self.start_offset());
        let upto = upto.min(self.end_offset());
        if from >= upto {
            return Ok(Inspected { next: upto.max(from), bytes: 0, holes: Vec::new() });
        }
        let list = self.segments();
        let looked = self.inspect_piece(&list, (from, upto), bytes_max, through);
        let (start, end) = (self.start_offset(), self.end_offset());
        match looked {
            // The file went while it was looked at: that is no damage.
            Err(Error::Io(_)) if !Arc::ptr_eq(&list, &self.segments()) => {
                Ok(Inspected { next: from.max(start), bytes: 0, holes: Vec::new() })
            }
            Err(error) => Err(error),
            Ok(mut looked) => {
                looked.holes.retain(|hole| hole.end > start && hole.first < end);
                Ok(looked)
            }
        }
    }

    fn inspect_piece(
        &self,
        list: &[Arc<Segment>],
        (from, upto): (Offset, Offset),
        bytes_max: usize,
        through: Through,
    ) -> Result<Inspected> {
        let after = list.partition_point(|segment| segment.base <= from);
        let segment = after.checked_sub(1).and_then(|index| list.get(index));
        let Some(segment) = segment.filter(|segment| from < segment.end()) else {
            let next = list.get(after).map_or(upto, |next| next.base.min(upto));
            let what = "the batches, or their file, are missing";
            let place = HolePlace::Nowhere;
            let hole = Hole { first: from, end: next, what, is_unreadable: false, place };
            return Ok(Inspected { next, bytes: 0, holes: vec![hole] });
        };
        let (disk, identity) = (self.disk.as_ref(), &self.place.identity);
        let position = segment.position_before(disk, identity, from)?;
        let mut look = Look::new(self, segment, through)?;
        // An index that points behind its target would hide what lies before: walk from the start.
        match look.run(position, from, upto, bytes_max)? {
            Some(looked) => Ok(looked),
            None => {
                Ok(look.run(segment.first_position, from, upto, bytes_max)?.unwrap_or(Inspected {
                    next: segment.end().min(upto),
                    bytes: 0,
                    holes: Vec::new(),
                }))
            }
        }
    }
}

/// A look at one file.
struct Look<'a> {
    log: &'a Log,
    segment: &'a Arc<Segment>,
    file: Arc<dyn DiskFile>,
    is_direct: bool,
    /// Where the last block ends that the disk did not give back.
    unreadable_to: u64,
    /// As of the beginning: no batch of offsets below `end` lies above `end_position`.
    end: Offset,
    end_position: u64,
}

impl<'a> Look<'a> {
    fn new(log: &'a Log, segment: &'a Arc<Segment>, through: Through) -> Result<Self> {
        let (end, end_position) = (segment.end(), segment.end_position());
        let is_direct = through == Through::Medium && segment.footer().is_some();
        let file = if is_direct {
            let opened = log.disk.open(&segment.path, OpenMode::ReadMedium);
            opened.map_err(|e| Error::io("open", &segment.path, e))?
        } else {
            segment.file(log.disk.as_ref())?
        };
        Ok(Self { log, segment, file, is_direct, unreadable_to: 0, end, end_position })
    }

    /// The bytes from `position` on, about `bytes` of them.
    fn window(&mut self, position: u64, bytes: usize) -> Result<View> {
        // Who asks the medium has to do so in whole pages.
        let page = PAGE as u64;
        let from = position - position % page;
        let rest = self.end_position - from;
        let wanted = (position - from + bytes.max(BATCH_HEADER_BYTES) as u64)
            .next_multiple_of(page)
            .min(if self.is_direct { rest.next_multiple_of(page) } else { rest });
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let view = match copied(self.file.as_ref(), from, wanted) {
            // The file system takes no such reads after all.
            Err(e) if self.is_direct && e.kind() == ErrorKind::InvalidInput => {
                self.is_direct = false;
                self.file = self.segment.file(self.log.disk.as_ref())?;
                return self.window(position, bytes);
            }
            read => {
                let image = read.map_err(|e| Error::io("read", &self.segment.path, e))?;
                self.unreadable_to = self.unreadable_to.max(image.unreadable_to);
                image.view
            }
        };
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let (begin, end) = (usize::try_from(position - from).unwrap_or(0), view.len().min(rest));
        let cut_short = || Error::io("read", &self.segment.path, ErrorKind::UnexpectedEof.into());
        view.slice(begin.min(end)..end).ok_or_else(cut_short)
    }

    /// `None` if the first batch lies behind `from`, though it is not the first of its file.
    fn run(
        &mut self,
        position: u64,
        from: Offset,
        upto: Offset,
        bytes_max: usize,
    ) -> Result<Option<Inspected>> {
        let identity = &self.log.place.identity;
        let limit = upto.min(self.end);
        let mut unsure = position != self.segment.first_position;
        let mut looked = Inspected { next: from, bytes: 0, holes: Vec::new() };
        let mut expected = self.segment.base;
        let mut epoch = LeaderEpoch::default();
        let mut here = position;
        let (mut window, mut start) = (self.window(here, bytes_max)?, here);
        while expected < limit && here < self.end_position {
            let at = usize::try_from(here - start).unwrap_or(usize::MAX);
            let bytes = window.bytes().get(at..).unwrap_or_default();
            let in_file = self.end_position - here;
            if bytes.len() < BATCH_HEADER_BYTES && (bytes.len() as u64) < in_file {
                if looked.next > from && looked.bytes >= bytes_max as u64 {
                    break;
                }
                (window, start) = (self.window(here, bytes_max)?, here);
                continue;
            }
            let header = BatchHeader::decode(bytes, identity);
            let good = match &header {
                Ok(header) if header.batch_bytes() as u64 > in_file => {
                    Err("a batch reaches beyond the end")
                }
                Ok(header) if header.batch_bytes() > bytes.len() => {
                    (window, start) = (self.window(here, header.batch_bytes())?, here);
                    continue;
                }
                Ok(header) if header.base_offset < expected => Err("a batch that was there before"),
                // On the way there only.
                Ok(header) if header.next_offset() <= from => Ok(header),
                Ok(header) => check_batch(header, bytes, identity).map(|()| header),
                Err(error) => Err(batch_damage(*error)),
            };
            match good {
                Ok(header) => {
                    if unsure && header.base_offset > from {
                        return Ok(None);
                    }
                    if header.base_offset >= limit {
                        break;
                    }
                    unsure = false;
                    expected = header.next_offset();
                    epoch = header.leader_epoch;
                    here += header.batch_bytes() as u64;
                    looked.bytes += header.batch_bytes() as u64;
                    looked.next = looked.next.max(expected);
                }
                Err(_) if unsure => return Ok(None),
                Err(what) => {
                    self.segment.suspect();
                    let damage = Damage { position: here, expected, epoch, what };
                    let own = header.ok().filter(|own| own.base_offset >= expected);
                    let hole = self.hole(&damage, own.as_ref())?;
                    expected = hole.end;
                    if let HolePlace::In(room) = &hole.place {
                        here += room.bytes;
                        looked.bytes += room.bytes;
                    }
                    looked.next = looked.next.max(expected);
                    if hole.end > from {
                        looked.holes.push(hole);
                    }
                    (window, start) = (self.window(here.min(self.end_position), bytes_max)?, here);
                }
            }
            if looked.bytes >= bytes_max as u64 && looked.next > from {
                return Ok(Some(looked));
            }
        }
        looked.next = looked.next.max(limit.min(expected.max(from)));
        if here >= self.end_position && expected < limit {
            // The bytes end before the offsets do.
            let what = "the batches are damaged or missing";
            let first = expected.max(from);
            let place = HolePlace::Nowhere;
            looked.holes.push(Hole { first, end: limit, what, is_unreadable: false, place });
            looked.next = limit;
        }
        Ok(Some(looked))
    }

    /// How far damage reaches.
    fn hole(&mut self, damage: &Damage, own: Option<&BatchHeader>) -> Result<Hole> {
        let identity = &self.log.place.identity;
        let &Damage { position, expected, epoch, what } = damage;
        let rest = self.end_position - position;
        let all = usize::try_from(rest).unwrap_or(usize::MAX);
        let window = self.window(position, all)?;
        // A batch with a good header tells its own length: the search goes on behind it, not
        // inside, where a record may hold bytes that look like a batch.
        let skip = own.map_or(8, BatchHeader::batch_bytes);
        let at_least = own.map_or(expected, BatchHeader::next_offset);
        let next = find_next(window.bytes(), skip, identity, at_least);
        let is_next = own.is_some_and(|own| own.base_offset == expected)
            && (skip as u64 == rest || next.as_ref().is_some_and(|(at, _)| *at == skip));
        let header = own.filter(|_| is_next);
        let (bytes, end, after) = match (&next, header) {
            (Some((at, found)), _) => (*at as u64, found.base_offset, found.leader_epoch),
            (None, Some(header)) => (rest, header.next_offset(), header.leader_epoch),
            (None, None) => (rest, self.end, LeaderEpoch::new(u32::MAX)),
        };
        let room = Room {
            segment: Arc::clone(self.segment),
            position,
            bytes,
            exact: end < self.end,
            header: header
                .and_then(|_| window.bytes().get(..BATCH_HEADER_BYTES))
                .map(<[u8]>::to_vec),
            epochs: (epoch, after),
        };
        let (end, is_unreadable) = (end.min(self.end), self.unreadable_to > position);
        let place = HolePlace::In(room);
        Ok(Hole { first: expected, end, what, is_unreadable, place })
    }
}

/// Where a batch should be.
struct Damage {
    position: u64,
    /// The end of the batch before.
    expected: Offset,
    epoch: LeaderEpoch,
    what: &'static str,
}
