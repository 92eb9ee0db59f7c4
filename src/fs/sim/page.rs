//! Sparse bytes in shared pages: the simulated disk's medium and page cache.
//!
//! Not here: lengths, and what was synced (`file`).
//!
//! Invariants
//!   1. A hole and a page of zeros are the same: they read alike and hash alike.
//!   2. A clone shares everything and costs nothing. The map of pages, and a page, is copied when
//!      it is written to and someone else has it too. A page's hash is remembered until then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::heap::PAGE_BYTES;

/// What is written or not as a whole.
pub(super) const SECTOR_BYTES: usize = 512;

/// Positions, in the unit of the arrays they index.
const PAGE: u64 = PAGE_BYTES as u64;

struct Page {
    bytes: [u8; PAGE_BYTES],
    /// 0 while it is not known. Written by whoever hashes first; a race writes the same value.
    hash: AtomicU64,
}

impl Page {
    fn zeroed() -> Self {
        Self { bytes: [0; PAGE_BYTES], hash: AtomicU64::new(0) }
    }

    fn hash(&self) -> u64 {
        let known = self.hash.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let (words, _) = self.bytes.as_chunks::<8>();
        let hash = if words.iter().all(|word| *word == [0; 8]) {
            ZERO_PAGE_HASH
        } else {
            // A page of this very hash would be taken for zeros: one in 2^64.
            words.iter().fold(1, |hash, word| mix(hash, u64::from_le_bytes(*word))).max(2)
        };
        self.hash.store(hash, Ordering::Relaxed);
        hash
    }
}

impl Clone for Page {
    /// For a page that is about to change: the hash is not taken over.
    fn clone(&self) -> Self {
        Self { bytes: self.bytes, hash: AtomicU64::new(0) }
    }
}

const ZERO_PAGE_HASH: u64 = 1;

/// One step of a hash: a folded 128-bit multiplication.
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    let product =
        u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word ^ 0xd6e8_feb8_6659_fd93);
    let high = u64::try_from(product >> 64).unwrap_or(0);
    let low = u64::try_from(product & u128::from(u64::MAX)).unwrap_or(0);
    (high ^ low).rotate_left(23).wrapping_add(word)
}

/// Sparse bytes without an end: what was never written reads as zeros.
#[derive(Clone, Default)]
pub(super) struct Pages {
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
}

impl Pages {
    /// Fills `buf` from `position` on.
    pub(super) fn read(&self, position: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let (number, start, bytes) = part(position + done as u64, buf.len() - done);
            let out = &mut buf[done..done + bytes];
            match self.pages.get(&number) {
                Some(page) => out.copy_from_slice(&page.bytes[start..start + bytes]),
                None => out.fill(0),
            }
            done += bytes;
        }
    }

    /// Writes at `position`.
    pub(super) fn write(&mut self, position: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        let mut done = 0;
        while done < data.len() {
            let (number, start, bytes) = part(position + done as u64, data.len() - done);
            let page = pages.entry(number).or_insert_with(|| Arc::new(Page::zeroed()));
            let page = Arc::make_mut(page);
            page.bytes[start..start + bytes].copy_from_slice(&data[done..done + bytes]);
            // `make_mut` takes a page over as it is if no one else has it.
            *page.hash.get_mut() = 0;
            done += bytes;
        }
    }

    /// Zeroes everything from `position` on.
    pub(super) fn cut(&mut self, position: u64) {
        let (number, start) = (position / PAGE, part(position, 1).1);
        if self.pages.last_key_value().is_none_or(|(last, _)| *last < number) {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        let beyond = pages.split_off(&number);
        if start > 0
            && let Some(page) = beyond.get(&number)
        {
            let mut page = Page::clone(page);
            page.bytes[start..].fill(0);
            pages.insert(number, Arc::new(page));
        }
    }

    /// Calls `each` with the position and bytes of every page that is there below `end`.
    pub(super) fn for_each_below(&self, end: u64, mut each: impl FnMut(u64, &[u8])) {
        for (number, page) in self.pages.range(..end.div_ceil(PAGE)) {
            each(number * PAGE, &page.bytes);
        }
    }

    /// Mixes the bytes into a hash.
    pub(super) fn hash_into(&self, mut hash: u64) -> u64 {
        for (number, page) in &*self.pages {
            let page = page.hash();
            if page != ZERO_PAGE_HASH {
                hash = mix(mix(hash, *number), page);
            }
        }
        hash
    }
}

/// Which page a position lies in, where in it, and how many of `bytes` it takes.
fn part(position: u64, bytes: usize) -> (u64, usize, usize) {
    let start = usize::try_from(position % PAGE).unwrap_or(0);
    (position / PAGE, start, bytes.min(PAGE_BYTES - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_across_pages() {
        let mut pages = Pages::default();
        let data: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        pages.write(4000, &data);
        let mut back = vec![9; 10_200];
        pages.read(3900, &mut back);
        assert!(back[..100].iter().all(|b| *b == 0));
        assert_eq!(back[100..10_100], data);
        assert!(back[10_100..].iter().all(|b| *b == 0));
    }

    #[test]
    fn cut_zeroes_the_rest_and_leaves_the_clone() {
        let mut pages = Pages::default();
        pages.write(0, &[7; 10_000]);
        let before = pages.clone();
        pages.cut(5000);
        let mut back = vec![9; 10_000];
        pages.read(0, &mut back);
        assert!(back[..5000].iter().all(|b| *b == 7) && back[5000..].iter().all(|b| *b == 0));
        before.read(0, &mut back);
        assert!(back.iter().all(|b| *b == 7));
    }

    #[test]
    fn holes_and_zeros_hash_alike_and_changes_show() {
        let mut pages = Pages::default();
        let empty = pages.hash_into(5);
        pages.write(100, &[0; 9000]);
        assert_eq!(pages.hash_into(5), empty);
        pages.write(100, &[1]);
        let one = pages.hash_into(5);
        assert_ne!(one, empty);
        pages.write(100, &[2]);
        assert_ne!(pages.hash_into(5), one);
        pages.write(100, &[1]);
        assert_eq!(pages.hash_into(5), one);
        pages.write(100, &[0]);
        pages.write(4196, &[1]);
        assert_ne!(pages.hash_into(5), one, "the same byte in another page");
    }
}
