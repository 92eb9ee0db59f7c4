//! Whose bytes these are: the seed of every checksum of a partition.
//!
//! Not here: where the identity is read from (`segment`, its header), or decided (`metadata`).
//!
//! ```text
//! seed     := crc32(topic u64 ‖ salt u32 ‖ partition u32)          16 bytes, little-endian
//! crc(x)   := crc32(topic ‖ salt ‖ partition ‖ x)                  = crc32 of x started with seed
//! ```
//!
//! CRC-32 is the one of IEEE 802.3 (polynomial `0x04C11DB7`, reflected, as in zlib and gzip). The
//! salt is drawn when a topic is made, so that topic 1 of one cluster is not topic 1 of another.
//!
//! A dedup key is hashed with XXH3 (64 bits) whose seed has the salt in its upper 32 bits and the
//! seed above in its lower ones: keys that collide in one partition do not in another one.
//!
//! Example   topic 7, salt `0x11223344`, partition 3: the seed is `0x204F7519`, the crc of
//!           `"plimsoll"` is `0x9E1B4D80`, its hash as a dedup key
//!           `0xB5958C9961F146E8`.
//! Damage    bytes of another partition, topic or cluster (a misdirected write, a file copied to
//!           the wrong folder) fail their checksum like rotten ones.

use crc32fast::Hasher;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{PartitionId, TopicId};

/// The partition that bytes belong to, with the seed of its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    topic: TopicId,
    salt: u32,
    partition: PartitionId,
    seed: u32,
}

impl Identity {
    pub(crate) fn new(topic: TopicId, salt: u32, partition: PartitionId) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&topic.get().to_le_bytes());
        hasher.update(&salt.to_le_bytes());
        hasher.update(&partition.get().to_le_bytes());
        Self { topic, salt, partition, seed: hasher.finalize() }
    }

    /// The checksum of `bytes` as this partition's.
    #[inline]
    pub(crate) fn crc(&self, bytes: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.seed);
        hasher.update(bytes);
        hasher.finalize()
    }

    /// The hash of a dedup key in this partition. On disk: never to be changed.
    #[inline]
    pub(crate) fn key_hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, u64::from(self.salt) << 32 | u64::from(self.seed))
    }

    pub(crate) fn topic(&self) -> TopicId {
        self.topic
    }

    pub(crate) fn salt(&self) -> u32 {
        self.salt
    }

    pub(crate) fn partition(&self) -> PartitionId {
        self.partition
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::identity;
    use super::*;

    #[test]
    fn the_seed_is_the_crc_of_the_identity() {
        let mut whole = Vec::new();
        whole.extend_from_slice(&7_u64.to_le_bytes());
        whole.extend_from_slice(&0x1122_3344_u32.to_le_bytes());
        whole.extend_from_slice(&3_u32.to_le_bytes());
        assert_eq!(identity().seed, crc32fast::hash(&whole));
        whole.extend_from_slice(b"plimsoll");
        assert_eq!(identity().crc(b"plimsoll"), crc32fast::hash(&whole));
    }

    #[test]
    fn the_example_of_the_header_is_true() {
        assert_eq!(identity().seed, 0x204F_7519);
        assert_eq!(identity().crc(b"plimsoll"), 0x9E1B_4D80);
        assert_eq!(identity().key_hash(b"plimsoll"), 0xB595_8C99_61F1_46E8);
    }

    #[test]
    fn every_part_of_the_identity_counts() {
        let crc = |topic, salt, partition| {
            Identity::new(TopicId::new(topic), salt, PartitionId::new(partition)).crc(b"x")
        };
        let ours = crc(7, 0x1122_3344, 3);
        assert_ne!(crc(8, 0x1122_3344, 3), ours);
        assert_ne!(crc(7, 0x1122_3345, 3), ours);
        assert_ne!(crc(7, 0x1122_3344, 4), ours);
        let hash = |topic, salt, partition| {
            Identity::new(TopicId::new(topic), salt, PartitionId::new(partition)).key_hash(b"x")
        };
        let ours = hash(7, 0x1122_3344, 3);
        assert_ne!(hash(8, 0x1122_3344, 3), ours);
        assert_ne!(hash(7, 0x1122_3345, 3), ours);
        assert_ne!(hash(7, 0x1122_3344, 4), ours);
        assert_eq!(identity().topic(), TopicId::new(7));
        assert_eq!(identity().salt(), 0x1122_3344);
        assert_eq!(identity().partition(), PartitionId::new(3));
    }
}
