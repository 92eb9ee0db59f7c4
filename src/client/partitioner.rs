//! Which partition a record goes to.
//!
//! In this order: the partition the record names; else, with a key, where Kafka's default
//! partitioner puts it; else, with a dedup key and no key, where that would be put as a key; else
//! the partition that keyless records stick to, which changes after every `batch_bytes`.

use std::fmt::Debug;
use std::sync::atomic::Ordering;

use crate::broker::TopicState;
use crate::error::{Error, Result};
use crate::format::Record;
use crate::id::PartitionId;

/// A partitioner of one's own:
/// [`ProducerBuilder::partitioner`](crate::ProducerBuilder::partitioner).
///
/// It is not asked for records that name their partition.
pub trait Partitioner: Debug + Send + Sync {
    /// The partition, below `partitions`, for a record of `topic`.
    fn partition(&self, topic: &str, record: &Record<'_>, partitions: u32) -> u32;
}

/// The partition of `partitions` that Kafka's default partitioner gives a key: murmur2 with its
/// sign bit cleared, modulo the number of partitions. 0 if there are none.
///
/// The hash is Austin Appleby's `MurmurHash2` with the seed `0x9747b28c`, as in Kafka's
/// `org.apache.kafka.common.utils.Utils.murmur2`.
///
/// ```
/// // `positive(murmur2("foobar")) % 8`, with murmur2("foobar") = -790332482.
/// let positive = (-790_332_482_i32) & 0x7fff_ffff;
/// assert_eq!(plimsoll::murmur2_partition(b"foobar", 8), positive.cast_unsigned() % 8);
/// ```
#[must_use]
pub fn murmur2_partition(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Kafka's lengths are 32 bits wide; so is every key's that is within its limit.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (byte, shift) in tail.iter().zip([0, 8, 16]) {
            hash ^= u32::from(*byte) << shift;
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a record; `sticky_bytes` is how many bytes of keyless records stick together.
#[inline]
pub(crate) fn place(
    topic: &TopicState,
    record: &Record<'_>,
    own: Option<&dyn Partitioner>,
    sticky_bytes: u64,
) -> Result<PartitionId> {
    let partitions = topic.partitions.count();
    if let Some(named) = record.partition_id() {
        topic.partition(named)?;
        return Ok(named);
    }
    if let Some(own) = own {
        let chosen = PartitionId::new(own.partition(&topic.name, record, partitions));
        topic.partition(chosen)?;
        return Ok(chosen);
    }
    if partitions == 1 {
        return Ok(PartitionId::new(0));
    }
    if let Some(key) = record.key_bytes().or_else(|| record.dedup_key_bytes()) {
        return Ok(PartitionId::new(murmur2_partition(key, partitions)));
    }
    let bytes = record.value_bytes().map_or(0, <[u8]>::len) as u64;
    let before = topic.keyless_bytes.fetch_add(bytes.max(1), Ordering::Relaxed);
    let turn = (before / sticky_bytes.max(1)) % u64::from(partitions);
    Ok(PartitionId::new(u32::try_from(turn).unwrap_or(0)))
}

/// A batch goes to one partition: a record that names another one is a mistake.
pub(crate) fn check_placement(records: &[Record<'_>], partition: PartitionId) -> Result<()> {
    if records.iter().any(|record| record.partition_id().is_some_and(|named| named != partition)) {
        return Err(Error::InvalidBatch { why: "a record names another partition" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_kafkas() {
        // The pairs of Kafka's UtilsTest.testMurmur2.
        let pairs: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, hash) in pairs {
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", key.escape_ascii());
        }
    }

    /// Computed apart, by code that gives the pairs above: every length of the rest, with and
    /// without whole words before it.
    #[test]
    fn murmur2_is_kafkas_at_every_length() {
        let hashes: [i32; 17] = [
            275_646_681,
            -1_563_381_124,
            316_155_434,
            479_470_107,
            -1_323_649_548,
            461_995_741,
            1_870_650_108,
            -346_467_175,
            -955_427_363,
            -619_679_810,
            8_205_847,
            -232_389_549,
            -535_286_937,
            387_415_655,
            1_842_055_212,
            1_680_674_526,
            -253_887_988,
        ];
        for (length, hash) in hashes.into_iter().enumerate() {
            let key = &b"abcdefghijklmnop"[..length];
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn no_partitions_is_no_panic() {
        assert_eq!(murmur2_partition(b"key", 0), 0);
        assert_eq!(murmur2_partition(b"key", 1), 0);
    }
}
