//! Page-aligned zeroed memory, owned: what stands in for a file mapping.
//!
//! Not here: who may touch which bytes when. That is [`map`](super::map)'s safety argument; this
//! only owns the allocation and gives out its address.
//!
//! Threads   the address may be used from any thread; the memory lives until the drop.

#![expect(unsafe_code, reason = "an aligned, zeroed allocation has no safe interface in std")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

/// A page: what the heap's mappings are aligned to, and the simulated disk's unit.
pub(super) const PAGE_BYTES: usize = 4096;

/// Owned memory, aligned to [`PAGE_BYTES`], zero at first.
#[derive(Debug)]
pub(super) struct HeapRegion {
    /// What the allocator gave, and what it was asked for: a page more than is used.
    allocated: NonNull<u8>,
    layout: Layout,
    /// The first page boundary in it.
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the region owns its memory, which no thread's state refers to; freeing it from another
// thread is allowed by the global allocator. Access to the bytes is by raw pointer, each with an
// argument of its own.
unsafe impl Send for HeapRegion {}
// SAFETY: as above; a shared reference only gives the address away.
unsafe impl Sync for HeapRegion {}

impl HeapRegion {
    /// `bytes` zeroed bytes. `OutOfMemory` if there are none.
    pub(super) fn zeroed(bytes: usize) -> io::Result<Self> {
        // Aligned here and not by the allocator: that zeroes aligned memory by hand, also the tens
        // of MiB of a segment's mapping that nobody will touch.
        let layout = bytes
            .checked_add(PAGE_BYTES)
            .and_then(|bytes| Layout::from_size_align(bytes, 1).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: alloc_zeroed needs a layout of non-zero size: the size is at least a page.
        let allocated = unsafe { alloc_zeroed(layout) };
        let allocated = NonNull::new(allocated).ok_or(io::ErrorKind::OutOfMemory)?;
        let ahead = allocated.align_offset(PAGE_BYTES);
        assert!(ahead < PAGE_BYTES, "a page boundary lies within the first page");
        // SAFETY: `add` needs the sum inside the allocation: it is a page larger than `bytes`, and
        // `ahead` was asserted to be less than that.
        let base = unsafe { allocated.add(ahead) };
        Ok(Self { allocated, layout, base, bytes })
    }

    /// The first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// The bytes, while nobody else has the region.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: from_raw_parts_mut needs `bytes` initialised, exclusively borrowed bytes: the
        // allocation has them behind `base`, zeroed, and `&mut self` proves that the region is not
        // shared yet.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: dealloc needs a live allocation and the layout it was made with: both are kept
        // here from `zeroed` on, and drop runs once.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_and_zeroed() {
        let mut region = HeapRegion::zeroed(10_000).unwrap();
        assert_eq!(region.base().as_ptr() as usize % PAGE_BYTES, 0);
        assert!(region.bytes_mut().iter().all(|b| *b == 0));
        assert_eq!(region.len(), 10_000);
        assert_eq!(HeapRegion::zeroed(0).unwrap().bytes_mut().len(), 0);
        assert!(HeapRegion::zeroed(usize::MAX).is_err());
    }
}
