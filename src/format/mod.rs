#![doc = include_str!("../../docs/format.md")]

mod batch;
mod bytes;
mod footer;
mod header;
mod identity;
mod metadata;
mod name;
mod record;
mod section;
mod segment;
#[cfg(test)]
mod testing;
mod volume;

pub(crate) use batch::{
    Attributes, BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchStamp, Codec, NO_PRODUCER,
    PAYLOAD_BYTES_MAX, encode, encode_records, find_next, measure,
};
pub(crate) use bytes::{PAGE, PageError};
pub(crate) use footer::{FOOTER_SECTIONS_MAX, Footer, FooterError, SectionRef};
pub(crate) use header::HEADERS_BYTES_MAX;
pub use header::{Header, Headers};
pub(crate) use identity::Identity;
pub(crate) use metadata::{
    MetadataError, MetadataRecord, MetadataSnapshot, PARTITIONS_MAX, TOPICS_MAX, TopicMeta,
};
pub(crate) use name::{
    DELETED_SUFFIX, NameError, PREPARED_SUFFIX, SEGMENT_SUFFIX, check_topic_name, is_reserved_name,
    parse_partition_folder, parse_segment_file, parse_topic_folder, partition_folder,
    same_but_for_case, segment_file, topic_folder,
};
pub use record::Record;
pub(crate) use record::{
    DEDUP_KEY_BYTES_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX, RecordError, RecordIter, RecordRef,
};
pub(crate) use section::{
    Block, Entry, EpochEntry, OffsetEntry, SECTION_PAYLOAD_BYTES, SectionError, SectionKind,
    TimeEntry, decode_block, encode_section, entries_per_block,
};
pub(crate) use segment::{
    DATA_START, KNOWN_INCOMPAT, KNOWN_RO_COMPAT, SLOT_POSITIONS, SegmentError, SegmentHeader,
    SegmentKind, Slot,
};
pub(crate) use volume::{VolumeError, VolumeRecord};
