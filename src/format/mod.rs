#![doc = include_str!("../../docs/format.md")]

mod assignment;
mod batch;
mod buffer;
mod bytes;
mod codec;
mod dedup;
mod footer;
mod header;
mod identity;
mod metadata;
mod name;
mod packed;
mod record;
mod records;
mod section;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
mod volume;

pub(crate) use assignment::{Assigned, Assignment, Standing, VOLUMES_MAX, VolumeMeta};
pub(crate) use batch::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchStamp, encode, find_next, measure,
};
pub(crate) use buffer::RecordBuffer;
pub(crate) use bytes::PAGE;
pub(crate) use codec::{CodecError, Decompressor, NotBuilt};
pub(crate) use dedup::{DedupEntry, FilterLine, dedup_bytes, filter_lines, has_key, put_key};
pub(crate) use footer::{Footer, SectionRef};
pub use header::{Header, Headers};
pub(crate) use identity::Identity;
pub(crate) use metadata::{
    MetadataRecord, MetadataSnapshot, PRODUCERS_MAX, ProducerMeta, TOPICS_MAX, TopicMeta,
    is_producer_name,
};
pub(crate) use name::{
    DELETED_SUFFIX, NameError, check_topic_name, is_reserved_name, parse_partition_folder,
    parse_segment_file, parse_topic_folder, partition_folder, same_but_for_case, segment_file,
    topic_folder,
};
pub(crate) use packed::{PackedBatch, UnpackError};
pub use record::Record;
pub(crate) use record::RecordError;
pub(crate) use records::{RecordIter, RecordRef};
pub(crate) use section::{
    Block, Entry, EpochEntry, OffsetEntry, ProducerEntry, SectionKind, TimeEntry, decode_block,
    encode_section, encode_section_in, entries_per_block,
};
pub(crate) use segment::{
    DATA_START, KNOWN_RO_COMPAT, SLOT_POSITIONS, SegmentError, SegmentHeader, SegmentKind, Slot,
};
pub(crate) use volume::{VolumeError, VolumeRecord};
