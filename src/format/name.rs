//! Names on disk: topics, their folders, partitions' folders, segments' files.
//!
//! Not here: listing or making them (`log`, `broker`).
//!
//! ```text
//! topic_name       := [A-Za-z0-9._-]{1,249}          but not "." or ".."; "__…" is ours
//! topic_folder     := topic_name "-" decimal         the topic's id; at most 255 bytes
//! partition_folder := decimal
//! segment_file     := digit{20} "-" decimal ".log"   base offset, generation
//! decimal          := "0" | [1-9][0-9]*
//! ```
//!
//! Example   topic `orders`, id 7, partition 0, base offset 1200, generation 3:
//!           `orders-7/0/00000000000000001200-3.log`. A file still being prepared has `.prepared`
//!           after that, one being deleted `.deleted`, so that neither ends in `.log`.
//! Damage    a name that is not exactly what this file would write is not one of ours: such a
//!           file or folder is reported and left alone. Names are checked again when read back.

use crate::id::{Generation, Offset, PartitionId, TopicId};

/// The end of every segment's name.
pub(crate) const SEGMENT_SUFFIX: &str = ".log";
/// Added to the name of a file that no longer is.
pub(crate) const DELETED_SUFFIX: &str = ".deleted";

const TOPIC_NAME_BYTES_MAX: usize = 249;
/// What file systems allow.
const FOLDER_NAME_BYTES_MAX: usize = 255;
const BASE_OFFSET_DIGITS: usize = 20;
/// As offsets have: far above what there can be, and far from wrapping.
const GENERATION_MAX: u64 = super::bytes::COUNTER_MAX;
const RESERVED_PREFIX: &str = "__";

/// Why a name was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NameError {
    /// No bytes.
    Empty,
    /// More than 249 bytes, or a folder's name of more than 255.
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// `.` or `..`.
    Dots,
    /// A character that is not one of `[A-Za-z0-9._-]`.
    Character {
        /// The first such one.
        found: char,
    },
}

impl NameError {
    /// What is wrong, for a person.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::TooLong { .. } => "it is longer than 249 bytes",
            Self::Dots => "it is . or ..",
            Self::Character { .. } => "only letters, digits, '.', '_' and '-' are allowed",
        }
    }
}

/// Whether a topic may have this name. Reserved names pass: see [`is_reserved_name`].
pub(crate) fn check_topic_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(NameError::TooLong { bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|&c| !allowed(c)) {
        Some(found) => Err(NameError::Character { found }),
        None => Ok(()),
    }
}

/// Whether a topic of this name is one of the library's own.
pub(crate) fn is_reserved_name(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

/// Whether two names are the same on a file system that does not tell `a` from `A`.
pub(crate) fn same_but_for_case(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// The folder of a topic.
pub(crate) fn topic_folder(name: &str, topic: TopicId) -> Result<String, NameError> {
    check_topic_name(name)?;
    let folder = format!("{name}-{topic}");
    if folder.len() > FOLDER_NAME_BYTES_MAX {
        return Err(NameError::TooLong { bytes: folder.len() });
    }
    Ok(folder)
}

/// The topic whose folder has this name; `None` if it is not exactly one that
/// [`topic_folder`] gives.
pub(crate) fn parse_topic_folder(folder: &str) -> Option<(&str, TopicId)> {
    if folder.len() > FOLDER_NAME_BYTES_MAX {
        return None;
    }
    let (name, id) = folder.rsplit_once('-')?;
    check_topic_name(name).ok()?;
    Some((name, TopicId::new(parse_decimal(id)?)))
}

/// The folder of a partition, in its topic's.
pub(crate) fn partition_folder(partition: PartitionId) -> String {
    partition.to_string()
}

/// The partition whose folder has this name.
pub(crate) fn parse_partition_folder(folder: &str) -> Option<PartitionId> {
    u32::try_from(parse_decimal(folder)?).ok().map(PartitionId::new)
}

/// The file of a segment, in its partition's folder.
pub(crate) fn segment_file(base: Offset, generation: Generation) -> String {
    format!("{:020}-{}{SEGMENT_SUFFIX}", base.get(), generation.get())
}

/// The base offset and generation of the segment whose file has this name; `None` if it is not
/// exactly one that [`segment_file`] gives.
pub(crate) fn parse_segment_file(file: &str) -> Option<(Offset, Generation)> {
    let (base, generation) = file.strip_suffix(SEGMENT_SUFFIX)?.split_once('-')?;
    if base.len() != BASE_OFFSET_DIGITS || !base.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let base = Offset::checked(base.parse().ok()?)?;
    let generation =
        parse_decimal(generation).filter(|&generation| generation <= GENERATION_MAX)?;
    Some((base, Generation::new(generation)))
}

/// A number as it is written: digits only, no zero in front.
fn parse_decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    if !canonical || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_are_checked() {
        let longest = "a".repeat(249);
        for name in ["a", "orders", "A.b_c-9", "...", "-", "__offsets", longest.as_str()] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(250);
        assert_eq!(check_topic_name(""), Err(NameError::Empty));
        assert_eq!(check_topic_name("."), Err(NameError::Dots));
        assert_eq!(check_topic_name(".."), Err(NameError::Dots));
        assert_eq!(check_topic_name(&long), Err(NameError::TooLong { bytes: 250 }));
        for (name, found) in [("a/b", '/'), ("a b", ' '), ("a\0", '\0'), ("é", 'é'), ("a\\", '\\')]
        {
            assert_eq!(check_topic_name(name), Err(NameError::Character { found }), "{name}");
        }
        assert!(is_reserved_name("__offsets") && !is_reserved_name("_offsets"));
        assert!(same_but_for_case("Orders", "oRDERS") && !same_but_for_case("a", "ab"));
    }

    #[test]
    fn topic_folders_are_parsed_back() {
        for (name, id) in [("orders", 7), ("a-1", 2), ("-", 0), ("x-", u64::MAX)] {
            let folder = topic_folder(name, TopicId::new(id)).unwrap();
            assert_eq!(parse_topic_folder(&folder), Some((name, TopicId::new(id))));
        }
        assert_eq!(topic_folder("orders", TopicId::new(7)).unwrap(), "orders-7");
        assert_eq!(topic_folder("a/b", TopicId::new(7)), Err(NameError::Character { found: '/' }));
    }

    #[test]
    fn topic_folders_have_at_most_255_bytes() {
        let name = "a".repeat(249);
        assert_eq!(topic_folder(&name, TopicId::new(99_999)).unwrap().len(), 255);
        let error = Err(NameError::TooLong { bytes: 256 });
        assert_eq!(topic_folder(&name, TopicId::new(100_000)), error);
        assert_eq!(parse_topic_folder(&format!("{name}-100000")), None);
    }

    #[test]
    fn what_we_would_not_write_is_not_parsed() {
        let folders =
            ["", "orders", "orders-", "orders-07", "orders-+7", "orders-7 ", "-7", ".-7", "a b-7"];
        for folder in folders {
            assert_eq!(parse_topic_folder(folder), None, "{folder}");
        }
        assert_eq!(parse_topic_folder("orders-18446744073709551616"), None);
        for folder in ["", "00", "01", "+1", "-1", "1 ", "4294967296", "x"] {
            assert_eq!(parse_partition_folder(folder), None, "{folder}");
        }
        for file in [
            "00000000000000000000-0",
            "00000000000000000000-0.log.prepared",
            "00000000000000000000-0.log.deleted",
            "00000000000000000000-00.log",
            "00000000000000000000-.log",
            "00000000000000000000.log",
            "0000000000000000000-0.log",
            "000000000000000000000-0.log",
            "+0000000000000000000-0.log",
            "00000000000000000000--1.log",
            "00000000000000000000-0.LOG",
            "04611686018427387905-0.log",
            "99999999999999999999-0.log",
        ] {
            assert_eq!(parse_segment_file(file), None, "{file}");
        }
    }

    #[test]
    fn partitions_and_segments_are_parsed_back() {
        for number in [0, 1, 10, u32::MAX] {
            let folder = partition_folder(PartitionId::new(number));
            assert_eq!(parse_partition_folder(&folder), Some(PartitionId::new(number)));
        }
        let file = segment_file(Offset::new(1200), Generation::new(3));
        assert_eq!(file, "00000000000000001200-3.log");
        for (base, generation) in [(0, 0), (1200, 3), (Offset::MAX.get(), 1 << 62)] {
            let (base, generation) = (Offset::new(base), Generation::new(generation));
            let file = segment_file(base, generation);
            assert_eq!(parse_segment_file(&file), Some((base, generation)));
        }
    }
}
