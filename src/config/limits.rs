//! Limits and built-in defaults, in one place.
//!
//! Not here: limits of the format (`format` checks them where it encodes and decodes).

use std::time::Duration;

/// Smallest segment: below it headers and sections outweigh records.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Default segment.
pub(crate) const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Largest segment.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Default of the most that a record may have.
pub(crate) const RECORD_BYTES_DEFAULT: u32 = 1 << 20;
/// The most that it may be set to.
pub(crate) const RECORD_BYTES_MAX: u32 = 64 << 20;
/// Most partitions of a topic.
pub(crate) const PARTITIONS_MAX: u32 = 65_536;

/// How far apart the entries of the sparse index lie, in bytes of log.
pub(crate) const INDEX_INTERVAL_BYTES: u64 = 4 << 10;
/// From this size of a batch on, `pwrite` stores it and not the mapping. Into pages that were made
/// present beforehand the mapping is the faster way as far as was measured: 22.7 against 10.0
/// million records a second in batches of 13.7 KiB, 2.80 against 2.61 in batches of 105 KiB (`cargo
/// bench --bench append`). Beyond, a batch is a good part of what is made present at a time.
pub(crate) const MAPPED_BATCH_BYTES_MAX: usize = 256 << 10;
/// Bytes of full files of a log that may wait for their footer, beside one that always may, where
/// an acknowledgement does not wait for a sync. A footer takes a sync, so without it appends are as
/// fast as the disk; with it, what an open after a kill has to scan is so much more.
pub(crate) const UNSEALED_BYTES_MAX: u64 = 1 << 30;
/// First growth of a segment's file.
pub(crate) const GROWTH_BYTES_MIN: u64 = 16 << 10;
/// Every growth is so many times the one before, up to `GROWTH_BYTES_MAX`. Little files stay
/// little, and a large one consists of few pieces: ext4 keeps four in the inode, and with more of
/// them every sync of new blocks writes a block of the tree that holds them. With more than this,
/// appends through the mapping outrun who makes pages present.
pub(crate) const GROWTH_FACTOR: u64 = 4;
/// Largest growth of a segment's file. Half of it lies ahead of the tail when the next one begins.
/// The file after a busy one is made of as much at once: what is allocated while the full one is
/// written back waits behind those writes, if a bitmap of the file system has to be read for it.
pub(crate) const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// Blocks are zeroed ahead of appends by so many bytes at a time, where rounds of syncs are small.
pub(crate) const ZEROED_BYTES: u64 = 256 << 10;
/// In writes of so many: larger ones leave large pieces in the page cache, and a sync of a few
/// bytes looks at all of such a piece.
pub(crate) const ZEROED_AT_ONCE: usize = 64 << 10;
/// Beyond so many bytes a sync, writing zeros first costs more than it saves.
pub(crate) const ZEROED_ROUND_BYTES_MAX: u64 = 64 << 10;
/// A log that was appended to and then left alone this long gets its slot written.
pub(crate) const IDLE_SLOT_AFTER: Duration = Duration::from_secs(1);
/// How old a segment's first append may be before the segment is rolled: Kafka's `segment.ms`.
pub(crate) const SEGMENT_AGE_DEFAULT: Duration = Duration::from_hours(7 * 24);
/// The longest that a retention or a segment's age may be.
pub(crate) const AGE_MAX: Duration = Duration::from_hours(1000 * 365 * 24);
/// A file that could not be removed is tried again after this long.
pub(crate) const REMOVE_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Logs with something that ages are looked at this often at least, whatever they said: a clock
/// may be set, and a machine may sleep.
pub(crate) const SWEEP_AT_LEAST: Duration = Duration::from_secs(30);
/// And no more often than this, however many there are.
pub(crate) const SWEEP_AT_MOST: Duration = Duration::from_millis(100);
/// Most bytes a single fetch hands out of one partition, unless one batch is larger.
pub(crate) const FETCH_BYTES: usize = 1 << 20;
/// So far before a reader batches are checked that nobody has checked yet.
pub(crate) const READ_AHEAD_BYTES: u64 = 2 << 20;
/// So many bytes at a time; a fetch that has as many does not check for itself what is being
/// checked.
pub(crate) const READ_AHEAD_PIECE_BYTES: usize = 64 << 10;
/// Most files of segments that a broker holds open: half of what a process may by default.
pub(crate) const FILES_HELD_MAX: usize = 512;
/// Most sealed files that a broker holds open to look for dedup keys in.
pub(crate) const KEYS_FILES_HELD_MAX: usize = 128;
/// Most mappings of segments that a broker keeps for readers; views that users hold keep theirs.
pub(crate) const MAPPINGS_HELD_MAX: usize = 4_096;
/// And so many of them: each holds its file open.
pub(crate) const UNSEALED_MAX: usize = 16;
/// Kept free on a volume so that metadata changes, deletions among them, go on when it is full.
pub(crate) const RESERVE_BYTES: u64 = 256 << 10;
/// Shortest interval of `Durability::Interval`.
pub(crate) const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Longest interval of `Durability::Interval`.
pub(crate) const INTERVAL_MAX: Duration = Duration::from_hours(1);
/// Default of a producer's `batch_bytes`.
pub(crate) const BATCH_BYTES_DEFAULT: u32 = 64 << 10;
/// Largest `batch_bytes`.
pub(crate) const BATCH_BYTES_MAX: u32 = 64 << 20;
/// Default of a producer's `buffer_bytes`.
pub(crate) const BUFFER_BYTES_DEFAULT: u64 = 32 << 20;
/// Largest `buffer_bytes`.
pub(crate) const BUFFER_BYTES_MAX: u64 = 1 << 40;
/// Longest `linger`.
pub(crate) const LINGER_MAX: Duration = Duration::from_hours(1);
/// Default of a producer's `max_block`.
pub(crate) const MAX_BLOCK_DEFAULT: Duration = Duration::from_mins(1);
/// Default of a producer's `delivery_timeout`.
pub(crate) const DELIVERY_TIMEOUT_DEFAULT: Duration = Duration::from_mins(2);
/// How long a batch that failed for now is left alone before it is tried again.
pub(crate) const RETRY_BACKOFF: Duration = Duration::from_millis(50);
/// How many cleared buffers a producer keeps for its next batches.
pub(crate) const SPARE_BUFFERS_MAX: usize = 16;
/// Larger ones are given back: to allocate one costs little beside filling it.
pub(crate) const SPARE_BUFFER_BYTES_MAX: u64 = 1 << 20;

/// How many replicas partitions have of a topic that does not say, where there are as many volumes.
pub(crate) const REPLICAS_USUAL: usize = 3;
/// Default of `Broker::builder().replica_lag_max(..)`.
pub(crate) const REPLICA_LAG_MAX: Duration = Duration::from_secs(10);
/// Default of `Broker::builder().heartbeat_interval(..)`.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
/// Default of `Broker::builder().scrub_interval(..)`.
pub(crate) const SCRUB_INTERVAL: Duration = Duration::from_hours(7 * 24);

/// Default of `Broker::builder().heartbeat_timeout(..)`.
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
