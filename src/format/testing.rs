//! What the tests of this layer share: seeded random bytes, flipped bits, golden dumps.
//!
//! Not here: any test.
//!
//! Golden bytes lie in `golden/*.txt`, one line for each 16 bytes that are not all zero:
//! position, then hexadecimal digits, and the length at the end.

use std::fmt::Write;

use super::identity::Identity;
use crate::id::{PartitionId, TopicId};

/// The identity that tests use unless they are about identities.
pub(super) fn identity() -> Identity {
    Identity::new(TopicId::new(7), 0x1122_3344, PartitionId::new(3))
}

/// xorshift64*: good enough to reach the corners, and the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % end
    }

    /// A number below `end`, which may be more than 31 bits have.
    pub(crate) fn below_u64(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[7]).collect()
    }
}

/// Calls `check` with `bytes` once for each of its bits, that bit flipped.
pub(super) fn flip_every_bit(bytes: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(&flipped, bit);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Compares `bytes` with a golden dump. A difference means that old files would not be read.
pub(super) fn assert_golden(name: &str, bytes: &[u8], golden: &str) {
    let mut dump = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        if chunk.iter().any(|&byte| byte != 0) {
            write!(dump, "{:06}", line * 16).expect("writing to a string");
            for (index, byte) in chunk.iter().enumerate() {
                let gap = if index % 4 == 0 { " " } else { "" };
                write!(dump, "{gap}{byte:02x}").expect("writing to a string");
            }
            dump.push('\n');
        }
    }
    writeln!(dump, "{:06}", bytes.len()).expect("writing to a string");
    assert!(dump == golden, "GOLDEN {name}\n{dump}END");
}

/// The bytes of a golden dump: for what is only read the same in every version.
#[cfg(all(feature = "lz4", feature = "zstd"))]
pub(super) fn from_golden(golden: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in golden.lines() {
        let mut words = line.split(' ');
        let position = words.next().and_then(|word| word.parse().ok()).expect("a position");
        bytes.resize(position, 0);
        for digits in words.flat_map(|word| word.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).expect("text");
            bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
        }
    }
    bytes
}
