//! Random ids, from one seed.
//!
//! The generator is `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014): ids must be spread, not secret.

use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Debug)]
pub(crate) struct Ids {
    state: u64,
}

impl Ids {
    /// From the given seed, or from the operating system's randomness.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let state = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Self { state }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Never 0, which stands for none.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next().max(1)
    }

    pub(crate) fn next_salt(&mut self) -> u32 {
        // The upper half, which SplitMix64 mixes best.
        u32::try_from(self.next() >> 32).unwrap_or(u32::MAX)
    }
}
