//! The memory behind a simulated file's mapping, and what was stored through it.
//!
//! Not here: views and the writer (`fs::map`); what a store means for the file (`file`).
//!
//! Invariants
//!   1. Every store goes through a range that `MapWriter::reserve` named here, so the disk finds
//!      stores without comparing whole regions.
//!   2. Bytes outside the readable range are touched by the writer within the reserved range, and
//!      by the disk outside of it, under `track`. A range stops being reserved at the writer's
//!      next `reserve`, `publish`, `set_allocated` or its end, which all take `track` too.
//!
//! Threads   the writer's thread and any that calls the disk. Lock order: the disk's, then `track`.

#![expect(unsafe_code, reason = "the disk and the mapping's writer share memory by raw address")]

use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Weak;

use parking_lot::Mutex;

use super::disk::{Shared, SimDisk};
use super::tree::NodeId;
use crate::fs::heap::HeapRegion;

/// From how many stores on neighbours are joined, so that a file that is never synced does not
/// grow its list without end.
const STORES_APART_MAX: usize = 256;

/// A simulated file's mapping.
pub(in crate::fs) struct SimRegion {
    heap: HeapRegion,
    /// Weak, since the disk holds its files' mappings.
    disk: Weak<Shared>,
    node: NodeId,
    track: Mutex<Track>,
}

#[derive(Default)]
struct Track {
    /// What the writer may be storing to at this moment.
    reserved: Range<usize>,
    /// What it has reserved since the disk last looked, in order.
    stores: Vec<Range<usize>>,
}

impl SimRegion {
    pub(super) fn new(heap: HeapRegion, disk: Weak<Shared>, node: NodeId) -> Self {
        Self { heap, disk, node, track: Mutex::new(Track::default()) }
    }

    /// The first byte.
    pub(in crate::fs) fn base(&self) -> NonNull<u8> {
        self.heap.base()
    }

    /// How many bytes.
    pub(in crate::fs) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The writer is about to store here.
    pub(in crate::fs) fn reserve(&self, range: Range<usize>) {
        let mut track = self.track.lock();
        track.reserved = range.clone();
        if range.is_empty() {
            return;
        }
        let join = track.stores.len() >= STORES_APART_MAX;
        match track.stores.last_mut() {
            Some(last) if *last == range => {}
            Some(last) if join && last.end == range.start => last.end = range.end,
            _ => track.stores.push(range),
        }
    }

    /// The writer no longer stores to what it reserved; `publish` may make it readable.
    pub(in crate::fs) fn settle(&self, publish: impl FnOnce()) {
        let mut track = self.track.lock();
        publish();
        track.reserved = 0..0;
    }

    /// Whether these bytes can be read and stored to, as the disk sees it.
    pub(in crate::fs) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        match self.disk.upgrade() {
            Some(shared) => SimDisk::from_shared(shared).populate(self.node, range),
            None => Ok(()),
        }
    }

    /// Gives `each` what was stored since the last time, but for what may still be being stored.
    pub(super) fn take_stores(&self, mut each: impl FnMut(usize, &[u8])) {
        let mut track = self.track.lock();
        if track.stores.is_empty() {
            return;
        }
        let reserved = track.reserved.clone();
        for range in mem::take(&mut track.stores) {
            if overlap(&range, &reserved).is_some() {
                track.stores.push(range);
                continue;
            }
            let mut bytes = vec![0; range.len()];
            self.read(range.start, &mut bytes);
            each(range.start, &bytes);
        }
    }

    /// Shows in the mapping what `write_at` and `set_len` did to the file.
    ///
    /// # Panics
    /// If published bytes would change, or bytes that are being stored to: the caller broke the
    /// rule that views rest on.
    pub(super) fn mirror(
        &self,
        readable: impl FnOnce() -> Range<usize>,
        start: usize,
        data: &[u8],
    ) {
        let end = start.saturating_add(data.len()).min(self.len());
        if start >= end {
            return;
        }
        let data = &data[..end - start];
        let track = self.track.lock();
        assert!(
            overlap(&(start..end), &track.reserved).is_none(),
            "write_at into a reserved range"
        );
        // Read under the lock: `publish` moves it under the lock only.
        let readable = readable();
        let Some(viewed) = overlap(&(start..end), &readable) else {
            self.write(start, data);
            return;
        };
        let mut old = vec![0; viewed.len()];
        self.read(viewed.start, &mut old);
        let same = data[viewed.start - start..viewed.end - start] == old[..];
        assert!(same, "published bytes of a mapped file were changed, at {viewed:?}");
        self.write(start, &data[..viewed.start - start]);
        self.write(viewed.end, &data[viewed.end - start..]);
    }

    /// Copies bytes out. The caller holds `track` and stays out of the reserved range.
    fn read(&self, start: usize, out: &mut [u8]) {
        assert!(start <= self.len() && out.len() <= self.len() - start);
        // SAFETY: `add` needs the sum inside the allocation: asserted above.
        let from = unsafe { self.heap.base().as_ptr().add(start) };
        // SAFETY: copy_nonoverlapping needs both ranges valid and apart, and no concurrent writer.
        // `out` is another allocation; the region's bytes are initialised, the range was asserted,
        // and by invariant 2 only the disk writes outside the reserved range, under `track`.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
    }

    /// Copies bytes in. The caller holds `track` and stays out of the reserved and readable ranges.
    fn write(&self, start: usize, data: &[u8]) {
        assert!(start <= self.len() && data.len() <= self.len() - start);
        // SAFETY: `add` needs the sum inside the allocation: asserted above.
        let to = unsafe { self.heap.base().as_ptr().add(start) };
        // SAFETY: copy_nonoverlapping needs both ranges valid and apart, and nobody else at the
        // target. `data` is another allocation, the range was asserted, and by invariant 2 outside
        // the readable and the reserved range only the disk reads and writes, under `track`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }
}

impl fmt::Debug for SimRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRegion").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

/// What two ranges have in common; `None` if nothing.
fn overlap(a: &Range<usize>, b: &Range<usize>) -> Option<Range<usize>> {
    let common = a.start.max(b.start)..a.end.min(b.end);
    if common.is_empty() { None } else { Some(common) }
}
