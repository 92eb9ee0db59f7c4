//! Mappings: one writer appends through it, many readers view what was published.
//!
//! Not here: which file is mapped and how it grows (`log`); making the mapping (`os`, `sim`).
//!
//! ```text
//! 0          readable_from            published          allocated            len
//! | header    | published: views only  | the writer's     | beyond the file    |
//! | never     | never rewritten,       | slice, through   | never touched:     |
//! | viewed    | never cut off          | `reserve`        | it would be SIGBUS |
//! ```
//!
//! Safety argument, the one that every SAFETY comment here refers to
//!   S1  The volume's lock keeps cooperating processes out; an uncooperative one that writes to or
//!       truncates our files breaks this (README, *Assumptions*).
//!   S2  Bytes in `readable_from..published` are never rewritten nor cut off while a view lives
//!       (DESIGN I1). `published` only rises, and only `MapWriter::publish` raises it.
//!   S3  There is one `MapWriter` for a mapping and its slices borrow it mutably; they start at or
//!       above `published`, so they never overlap a view or each other.
//!   S4  Slices are made per call from the raw address over a checked range, never over the whole
//!       mapping; a `View` holds its mapping alive by an `Arc`.
//!   S5  What is published lies inside the file: the owner tells `allocated` before it writes.
//!
//! Threads   `Mapping` and `View` from any thread; `MapWriter` from the one that owns it.
//! Failure   a page that cannot be read is SIGBUS on touch; `populate_*` makes it an error.

#![expect(unsafe_code, reason = "slices of a mapping are made from its raw address")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::MmapRaw;

use super::disk::MapAccess;
use super::heap::HeapRegion;
#[cfg(any(test, feature = "sim"))]
use super::sim::SimRegion;

/// Where a mapping's memory comes from.
pub(super) enum Region {
    /// The page cache, through the operating system.
    Os(MmapRaw),
    /// A copy of our own.
    Heap(HeapRegion),
    /// The simulated disk's stand-in for the page cache.
    #[cfg(any(test, feature = "sim"))]
    Sim(SimRegion),
}

/// A mapped file, shared by its writer and its readers.
pub(crate) struct Mapping {
    /// First byte of `region`. Kept beside it so that the hot path does not look which it is.
    base: NonNull<u8>,
    bytes: usize,
    access: MapAccess,
    readable_from: usize,
    /// End of what may be viewed. Written by the one `MapWriter` with Release, after the bytes;
    /// readers load it with Acquire, which makes those bytes theirs to read.
    published: AtomicUsize,
    /// End of what may be touched. Written by the one `MapWriter` with Release, after the file has
    /// grown; the syncer loads it with Acquire in `populate_write`.
    allocated: AtomicUsize,
    /// Its one `MapWriter` lives. Stored by that, read by who counts shares; relaxed, for it
    /// guards no byte.
    written: AtomicBool,
    /// How many shares the simulated disk has of it.
    #[cfg(any(test, feature = "sim"))]
    disk_shares: AtomicUsize,
    region: Region,
}

// SAFETY: `base` points into `region`, which is owned, Send and Sync. All access through `base` is
// by the argument in the header: views of bytes that nobody writes (S2), and one writer (S3).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A copy in memory of what `fill` writes, fully published: for readers that cannot accept
    /// that a mapped page may fault.
    pub(crate) fn copied(
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Arc<Mapping>> {
        let mut region = HeapRegion::zeroed(bytes)?;
        fill(region.bytes_mut())?;
        let base = region.base();
        Ok(Arc::new(Mapping {
            base,
            bytes,
            access: MapAccess::Read,
            readable_from: 0,
            published: AtomicUsize::new(bytes),
            allocated: AtomicUsize::new(bytes),
            written: AtomicBool::new(false),
            #[cfg(any(test, feature = "sim"))]
            disk_shares: AtomicUsize::new(0),
            region: Region::Heap(region),
        }))
    }

    /// How many bytes are mapped, whether the file has them or not.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it was made to write.
    pub(crate) fn is_writable(&self) -> bool {
        self.access == MapAccess::Write
    }

    /// The end of what may be viewed.
    pub(crate) fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// Whether a share is held by a view: by anyone but the caller, who has one, and the writer.
    /// A share that somebody has for a moment counts too.
    pub(crate) fn is_viewed(self: &Arc<Self>) -> bool {
        let ours = 1 + usize::from(self.written.load(Ordering::Relaxed));
        #[cfg(any(test, feature = "sim"))]
        let ours = ours + self.disk_shares.load(Ordering::Relaxed);
        Arc::strong_count(self) > ours
    }

    /// How far the file reaches, while it has a writer.
    pub(crate) fn growing_to(&self) -> Option<u64> {
        let written = self.written.load(Ordering::Relaxed);
        written.then(|| self.allocated.load(Ordering::Acquire) as u64)
    }

    /// A view of published bytes; `None` unless all of them are.
    #[inline]
    pub(crate) fn view(self: &Arc<Self>, start: usize, bytes: usize) -> Option<View> {
        let end = start.checked_add(bytes)?;
        if start < self.readable_from || end > self.published() {
            return None;
        }
        Some(View { map: Arc::clone(self), start, bytes })
    }

    /// Brings a range's pages into memory, so that one which cannot be read is an error here and
    /// not a signal later. Does nothing where the system has no such call.
    pub(crate) fn populate_read(&self, start: usize, bytes: usize) -> io::Result<()> {
        let Some(range) = clip(start, bytes, self.bytes) else { return Ok(()) };
        match &self.region {
            Region::Os(map) => advise(map, Populate::Read, range),
            Region::Heap(_) => Ok(()),
            #[cfg(any(test, feature = "sim"))]
            Region::Sim(region) => region.populate(range),
        }
    }

    /// Makes the pages of a range ready for stores, so that a file system which cannot is an error
    /// here and not a signal later. Changes no byte. Clipped to what is allocated.
    ///
    /// For the syncer, which writes pages back and so write-protects them, as well as the writer.
    pub(crate) fn populate_write(&self, start: usize, bytes: usize) -> io::Result<()> {
        debug_assert_eq!(self.access, MapAccess::Write, "populating a read-only mapping");
        let allocated = self.allocated.load(Ordering::Acquire);
        let Some(range) = clip(start, bytes, allocated) else { return Ok(()) };
        match &self.region {
            Region::Os(map) => advise(map, Populate::Write, range),
            Region::Heap(_) => Ok(()),
            #[cfg(any(test, feature = "sim"))]
            Region::Sim(region) => region.populate(range),
        }
    }

    /// The simulated disk's side of the mapping, if it is one of its mappings.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sim(&self) -> Option<&SimRegion> {
        match &self.region {
            Region::Sim(region) => Some(region),
            Region::Os(_) | Region::Heap(_) => None,
        }
    }

    /// What may be viewed now.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn readable(&self) -> Range<usize> {
        self.readable_from..self.published()
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("bytes", &self.bytes)
            .field("access", &self.access)
            .field("readable_from", &self.readable_from)
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}

/// The simulated disk's share of a mapping, which is no view.
#[cfg(any(test, feature = "sim"))]
#[derive(Debug)]
pub(super) struct DiskShare(Arc<Mapping>);

#[cfg(any(test, feature = "sim"))]
impl DiskShare {
    pub(super) fn new(map: &Arc<Mapping>) -> Self {
        map.disk_shares.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(map))
    }

    pub(super) fn map(&self) -> &Arc<Mapping> {
        &self.0
    }
}

#[cfg(any(test, feature = "sim"))]
impl Clone for DiskShare {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

#[cfg(any(test, feature = "sim"))]
impl Drop for DiskShare {
    fn drop(&mut self) {
        self.0.disk_shares.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Published bytes, kept alive by it also when their file is removed.
#[derive(Clone)]
pub(crate) struct View {
    map: Arc<Mapping>,
    start: usize,
    bytes: usize,
}

impl View {
    /// The bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        debug_assert!(self.start >= self.map.readable_from);
        debug_assert!(self.start + self.bytes <= self.map.published());
        // SAFETY: `add` needs the sum inside the allocation: a view is made by `Mapping::view` or
        // `View::slice` only, within `published <= len`, and `published` never falls (S2).
        let first = unsafe { self.map.base.as_ptr().add(self.start) };
        // SAFETY: from_raw_parts needs initialised bytes that nobody writes for the borrow's time
        // and that stay mapped: they are published (S2), apart from the writer's (S3), and the
        // `Arc` in `self` keeps the mapping (S4). Their initialisation happened before the Release
        // store that `view` has seen with Acquire.
        unsafe { std::slice::from_raw_parts(first, self.bytes) }
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// A part of it; `None` unless inside.
    pub(crate) fn slice(&self, range: Range<usize>) -> Option<View> {
        if range.start > range.end || range.end > self.bytes {
            return None;
        }
        Some(View {
            map: Arc::clone(&self.map),
            start: self.start + range.start,
            bytes: range.end - range.start,
        })
    }

    /// Where in the mapped file it starts.
    #[cfg(test)]
    pub(crate) fn position(&self) -> usize {
        self.start
    }

    /// The mapping it holds.
    #[cfg(test)]
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({}..{})", self.start, self.start + self.bytes)
    }
}

/// The one writer of a mapping.
pub(crate) struct MapWriter {
    map: Arc<Mapping>,
}

impl MapWriter {
    /// The writer of a new mapping.
    ///
    /// # Panics
    /// If `readable_from..published` is no range within the region.
    pub(super) fn new(
        region: Region,
        readable_from: usize,
        published: usize,
        access: MapAccess,
    ) -> Self {
        let (base, bytes) = match &region {
            Region::Os(map) => (NonNull::new(map.as_mut_ptr()), map.len()),
            Region::Heap(heap) => (Some(heap.base()), heap.len()),
            #[cfg(any(test, feature = "sim"))]
            Region::Sim(sim) => (Some(sim.base()), sim.len()),
        };
        assert!(readable_from <= published && published <= bytes, "published beyond the mapping");
        let base = base.expect("a mapping has an address");
        let published_mark = AtomicUsize::new(published);
        let allocated = AtomicUsize::new(published);
        MapWriter {
            map: Arc::new(Mapping {
                base,
                bytes,
                access,
                readable_from,
                published: published_mark,
                allocated,
                written: AtomicBool::new(true),
                #[cfg(any(test, feature = "sim"))]
                disk_shares: AtomicUsize::new(0),
                region,
            }),
        }
    }

    /// What readers hold.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }

    /// Says how far the file reaches: nothing beyond is handed out by [`reserve`](Self::reserve).
    /// Lower it before the file is cut.
    ///
    /// # Panics
    /// Below `published`, whose bytes must stay.
    pub(crate) fn set_allocated(&mut self, end: usize) {
        // Relaxed: this writer is the only one that stores it.
        let published = self.map.published.load(Ordering::Relaxed);
        assert!(end >= published, "published bytes {published} cut off at {end}");
        self.map.allocated.store(end.min(self.map.bytes), Ordering::Release);
        #[cfg(any(test, feature = "sim"))]
        if let Region::Sim(region) = &self.map.region {
            region.settle(|| ());
        }
    }

    /// The bytes at `start` to write to, not published yet.
    ///
    /// A reservation ends with the next call that takes `&mut self`. Whoever gives one up and then
    /// writes there by `write_at` makes such a call before, as `publish` of what already is.
    ///
    /// # Panics
    /// Below `published`, beyond what is allocated, or in a mapping made to read.
    #[inline]
    pub(crate) fn reserve(&mut self, start: usize, bytes: usize) -> &mut [u8] {
        let map = &*self.map;
        // Relaxed, both: this writer is the only one that stores them.
        let published = map.published.load(Ordering::Relaxed);
        let allocated = map.allocated.load(Ordering::Relaxed);
        assert!(
            map.access == MapAccess::Write
                && start >= published
                && start <= allocated
                && bytes <= allocated - start,
            "reserving {bytes} at {start} outside {published}..{allocated}"
        );
        #[cfg(any(test, feature = "sim"))]
        if let Region::Sim(region) = &map.region {
            region.reserve(start..start + bytes);
        }
        // SAFETY: `add` needs the sum inside the allocation: start <= allocated <= len, and
        // `set_allocated` keeps the latter true.
        let first = unsafe { map.base.as_ptr().add(start) };
        // SAFETY: from_raw_parts_mut needs initialised bytes that nobody else reads or writes for
        // the borrow's time: a mapping's bytes are initialised, the range lies inside the file (S5)
        // at or above `published`, where there are no views (S2), and this is the one writer,
        // borrowed mutably (S3).
        unsafe { std::slice::from_raw_parts_mut(first, bytes) }
    }

    /// Lets readers view everything below `end`.
    ///
    /// # Panics
    /// Backwards, or beyond what is allocated.
    #[inline]
    pub(crate) fn publish(&mut self, end: usize) {
        let map = &*self.map;
        // Relaxed, both: this writer is the only one that stores them.
        let published = map.published.load(Ordering::Relaxed);
        let allocated = map.allocated.load(Ordering::Relaxed);
        assert!(
            end >= published && end <= allocated,
            "publishing {end} outside {published}..{allocated}"
        );
        #[cfg(any(test, feature = "sim"))]
        if let Region::Sim(region) = &map.region {
            region.settle(|| map.published.store(end, Ordering::Release));
            return;
        }
        map.published.store(end, Ordering::Release);
    }

    /// As [`Mapping::populate_write`].
    pub(crate) fn populate_write(&self, start: usize, bytes: usize) -> io::Result<()> {
        self.map.populate_write(start, bytes)
    }
}

impl Drop for MapWriter {
    fn drop(&mut self) {
        self.map.written.store(false, Ordering::Relaxed);
        #[cfg(any(test, feature = "sim"))]
        if let Region::Sim(region) = &self.map.region {
            region.settle(|| ());
        }
    }
}

impl fmt::Debug for MapWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapWriter").field(&self.map).finish()
    }
}

/// What pages are made ready for.
#[derive(Clone, Copy)]
enum Populate {
    Read,
    Write,
}

/// The part of a range below `end`; `None` if it is empty.
fn clip(start: usize, bytes: usize, end: usize) -> Option<Range<usize>> {
    let range = start..start.saturating_add(bytes).min(end);
    if range.is_empty() { None } else { Some(range) }
}

#[cfg(target_os = "linux")]
fn advise(map: &MmapRaw, populate: Populate, range: Range<usize>) -> io::Result<()> {
    let advice = match populate {
        Populate::Read => memmap2::Advice::PopulateRead,
        Populate::Write => memmap2::Advice::PopulateWrite,
    };
    // memmap2 rounds the start down to its page, the kernel the end up.
    match map.advise_range(advice, range.start, range.len()) {
        // A kernel before 5.14 does not know the advice: the pages fault in on touch, as ever.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on Linux")]
fn advise(_: &MmapRaw, _: Populate, _: Range<usize>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(bytes: usize, allocated: usize) -> MapWriter {
        let region = Region::Heap(HeapRegion::zeroed(bytes).unwrap());
        let mut writer = MapWriter::new(region, 64, 64, MapAccess::Write);
        writer.set_allocated(allocated);
        writer
    }

    #[test]
    fn only_published_bytes_are_viewed() {
        let mut writer = writer(4096, 4096);
        writer.reserve(64, 8).copy_from_slice(b"appended");
        let map = Arc::clone(writer.mapping());
        assert!(map.view(64, 8).is_none());
        writer.publish(72);
        assert_eq!(map.view(64, 8).unwrap().bytes(), b"appended");
        assert_eq!(map.view(64, 0).unwrap().len(), 0);
        for (start, bytes) in [(63, 8), (64, 9), (73, 0), (64, usize::MAX), (usize::MAX, 2)] {
            assert!(map.view(start, bytes).is_none(), "{start} {bytes}");
        }
    }

    #[test]
    fn views_are_sliced_and_outlive_their_writer() {
        let mut writer = writer(4096, 4096);
        writer.reserve(64, 8).copy_from_slice(b"appended");
        writer.publish(72);
        let view = writer.mapping().view(64, 8).unwrap();
        writer.reserve(72, 4).fill(1);
        drop(writer);
        let part = view.slice(2..6).unwrap();
        drop(view);
        assert_eq!((part.bytes(), part.position()), (&b"pend"[..], 66));
        assert!(part.slice(0..5).is_none());
        assert!(part.slice(4..4).unwrap().bytes().is_empty());
        assert_eq!(format!("{part:?}"), "View(66..70)");
    }

    #[test]
    #[should_panic(expected = "reserving 1 at 1024 outside")]
    fn nothing_is_reserved_beyond_the_file() {
        writer(4096, 1024).reserve(1024, 1);
    }

    #[test]
    #[should_panic(expected = "outside 100..4096")]
    fn nothing_published_is_reserved() {
        let mut writer = writer(4096, 4096);
        writer.publish(100);
        writer.reserve(99, 1);
    }

    #[test]
    #[should_panic(expected = "published bytes 100 cut off at 99")]
    fn nothing_published_is_cut_off() {
        let mut writer = writer(4096, 4096);
        writer.publish(100);
        writer.set_allocated(99);
    }

    #[test]
    fn copies_are_wholly_published() {
        let fill = |bytes: &mut [u8]| {
            bytes.copy_from_slice(b"copy");
            Ok(())
        };
        let map = Mapping::copied(4, fill).unwrap();
        map.populate_read(0, 4).unwrap();
        assert_eq!(map.view(0, 4).unwrap().bytes(), b"copy");
        Mapping::copied(4, |_| Err(io::ErrorKind::Other.into())).unwrap_err();
    }
}
