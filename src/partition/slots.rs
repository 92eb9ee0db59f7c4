//! An array that only grows, under the eyes of its readers: a topic's partitions, a partition's
//! replicas.
//!
//! Not here: when it grows (`broker`).
//!
//! Chunk k has room for 2^k of them, and is made with its first one: what is there never moves, so
//! a reader needs neither a lock nor a count of references.
//!
//! Threads   any may read; whoever adds holds the broker's `metadata` lock. `count` is stored with
//!           Release after the ones below it, and loaded with Acquire.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::PARTITIONS_MAX;

/// Chunks of 1, 2, 4 and so on hold 1, 3, 7 and so on together.
const CHUNKS: usize = 17;
const _: () = assert!((1 << CHUNKS) > PARTITIONS_MAX as usize);

type Chunk<T> = OnceLock<Box<[OnceLock<T>]>>;

#[derive(Debug)]
pub(crate) struct Slots<T> {
    chunks: [Chunk<T>; CHUNKS],
    count: AtomicU32,
}

impl<T> Slots<T> {
    pub(crate) fn new(first: Vec<T>) -> Self {
        let made = Self { chunks: [const { OnceLock::new() }; CHUNKS], count: AtomicU32::new(0) };
        made.add(first);
        made
    }

    /// How many there are.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        if number >= self.count() {
            return None;
        }
        let (chunk, at) = place(number);
        self.chunks.get(chunk)?.get()?.get(at)?.get()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        (0..self.count()).filter_map(|number| self.get(number))
    }

    /// Adds these behind the last one; they are there all at once. One caller at a time.
    pub(crate) fn add(&self, more: Vec<T>) {
        let mut number = self.count();
        for one in more {
            let (chunk, at) = place(number);
            let slots = self.chunks[chunk]
                .get_or_init(|| (0..1_usize << chunk).map(|_| OnceLock::new()).collect());
            let placed = slots[at].set(one);
            debug_assert!(placed.is_ok(), "one caller at a time");
            number += 1;
        }
        self.count.store(number, Ordering::Release);
    }
}

/// The chunk of one, and its place in there.
#[inline]
fn place(number: u32) -> (usize, usize) {
    let from_one = number as usize + 1;
    let chunk = from_one.ilog2() as usize;
    (chunk, from_one - (1 << chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_place_of_its_own() {
        let all = Slots::new((0..10).collect());
        assert_eq!(all.iter().copied().collect::<Vec<u32>>(), (0..10).collect::<Vec<_>>());
        let first: *const u32 = all.get(0).expect("it is there");
        all.add((10..PARTITIONS_MAX).collect());
        assert_eq!(all.count(), PARTITIONS_MAX);
        assert!(all.iter().copied().eq(0..PARTITIONS_MAX));
        assert!(std::ptr::eq(first, all.get(0).expect("it is there")), "what is there never moves");
        assert_eq!(all.get(PARTITIONS_MAX), None);
    }

    #[test]
    fn a_reader_sees_whole_additions_only() {
        let all = Slots::new(vec![0_u32]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while all.count() < 1001 {
                    let count = all.count();
                    assert_eq!(count % 4, 1, "four are added at a time");
                    assert_eq!(all.get(count - 1), Some(&(count - 1)));
                }
            });
            for round in 0..250 {
                all.add((round * 4 + 1..round * 4 + 5).collect());
            }
        });
    }
}
