//! Which blocks a simulated file takes: what makes a disk full.

use std::ops::Range;

use crate::fs::heap::PAGE_BYTES;

const PAGE: u64 = PAGE_BYTES as u64;

/// Which of a file's blocks of a page each take space, as a bit set.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    words: Vec<u64>,
}

impl Blocks {
    pub(super) fn take(&mut self, range: Range<u64>) {
        for block in Self::numbers(range) {
            let (word, bit) = Self::place(block);
            if word >= self.words.len() {
                self.words.resize(word + 1, 0);
            }
            self.words[word] |= bit;
        }
    }

    /// How many new ones a range of bytes would take.
    pub(super) fn missing(&self, range: Range<u64>) -> u64 {
        let mut missing = 0;
        for block in Self::numbers(range) {
            let (word, bit) = Self::place(block);
            missing += u64::from(self.words.get(word).is_none_or(|w| w & bit == 0));
        }
        missing
    }

    pub(super) fn taken(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Gives back what lies wholly beyond `position`.
    pub(super) fn cut(&mut self, position: u64) {
        let (word, bit) = Self::place(position.div_ceil(PAGE));
        self.words.truncate(word + 1);
        if let Some(last) = self.words.get_mut(word) {
            *last &= bit - 1;
        }
    }

    fn numbers(range: Range<u64>) -> Range<u64> {
        if range.is_empty() { 0..0 } else { range.start / PAGE..range.end.div_ceil(PAGE) }
    }

    fn place(block: u64) -> (usize, u64) {
        (usize::try_from(block / 64).unwrap_or(usize::MAX), 1 << (block % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_once() {
        let mut blocks = Blocks::default();
        blocks.take(5000..5001);
        blocks.take(0..8192);
        blocks.take(70 * PAGE..70 * PAGE);
        assert_eq!(blocks.taken(), 2);
        assert_eq!(blocks.missing(4096..12_289), 2);
        blocks.take(100 * PAGE..101 * PAGE);
        assert_eq!(blocks.taken(), 3);
        blocks.cut(4097);
        assert_eq!(blocks.taken(), 2);
        blocks.cut(4096);
        assert_eq!(blocks.taken(), 1);
        blocks.cut(0);
        assert_eq!((blocks.taken(), blocks.missing(0..1)), (0, 1));
    }
}
