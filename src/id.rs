//! Offsets and ids: one newtype for each of the words of the design.
//!
//! Not here: positions and lengths, which stay integers with a unit in their name.
//!
//! | word | type | meaning |
//! | --- | --- | --- |
//! | offset | [`Offset`] | a record's place in its partition, from 0 |
//! | partition | [`PartitionId`] | an ordered, append-only part of a topic |
//! | topic id | [`TopicId`] | never reused, also when a topic of the same name is made again |
//! | leader epoch | [`LeaderEpoch`] | grows with every change of leader and every unclean open |
//! | generation | [`Generation`] | raised whenever a log is cut or one of its files rewritten |
//! | volume id | [`VolumeId`] | which of a cluster's data directories; never given twice |
//! | incarnation | [`Incarnation`] | raised at each open of a volume |
//! | producer id | [`ProducerId`] | whose sequences a batch's numbers are of |
//! | producer epoch | [`ProducerEpoch`] | grows each time somebody takes a producer's name over |

use std::fmt;

/// A record's place in its partition, counted from 0.
///
/// Also used for ends: the log end offset is the offset that the next record will get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);
    /// The largest offset there can be: 2^62, far above what a disk can hold.
    pub const MAX: Offset = Offset(1 << 62);

    /// An offset from a number.
    ///
    /// # Panics
    /// Above [`Offset::MAX`].
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(value <= Self::MAX.0, "offset above Offset::MAX");
        Self(value)
    }

    /// An offset from untrusted input; `None` above [`Offset::MAX`].
    #[must_use]
    pub const fn checked(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The offset `count` records further on, at most [`Offset::MAX`].
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        let sum = self.0.saturating_add(count);
        if sum > Self::MAX.0 { Self::MAX } else { Self(sum) }
    }

    /// How many offsets lie between this one and `later`; 0 if `later` is not later.
    #[must_use]
    pub const fn distance_to(self, later: Offset) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// A point in time: milliseconds since the Unix epoch.
pub type Timestamp = i64;

macro_rules! display_as_number {
    ($type:ident, $prefix:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $type($inner);

        impl $type {
            /// From a number.
            #[must_use]
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        display_as_number!($type, $prefix);
    };
}

display_as_number!(Offset, "o");

id!(
    /// A partition's number within its topic, from 0.
    PartitionId(u32),
    "p"
);
id!(
    /// A topic's number in its cluster. Never reused: a topic that is deleted and made again
    /// under its old name is another topic.
    TopicId(u64),
    "t"
);
id!(
    /// Stamped in every batch: which leadership of the partition wrote it.
    LeaderEpoch(u32),
    "e"
);
id!(
    /// Of a segment file: raised whenever the log is cut or one of its files rewritten.
    Generation(u64),
    "g"
);
id!(
    /// A volume's number in its cluster, from 1. Never given twice: a volume that replaces another
    /// one is another one.
    VolumeId(u32),
    "v"
);
id!(
    /// Of a volume: raised each time it is opened.
    Incarnation(u64),
    "i"
);

id!(
    /// Of a producer in its cluster, never given twice: which one numbered a batch.
    ProducerId(u64),
    "pr"
);
id!(
    /// Of a producer: of two holders of its name the one with the lower epoch is fenced.
    ProducerEpoch(u32),
    "pe"
);

impl ProducerId {
    /// Of a batch that no producer numbered.
    pub(crate) const NONE: ProducerId = ProducerId(u64::MAX);
    /// The ids of named producers have this bit set, those of anonymous ones have not: who reads
    /// a log knows which rows outlive the process.
    pub(crate) const NAMED_BIT: u64 = 1 << 62;

    /// True for a producer with a name, which keeps its identity over restarts.
    pub(crate) const fn is_named(self) -> bool {
        self.0 & Self::NAMED_BIT != 0 && self.0 != Self::NONE.0
    }
}

impl Generation {
    /// The generation after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl From<u32> for PartitionId {
    fn from(value: u32) -> Self {
        Self(value)
    }
}

impl From<u64> for Offset {
    /// # Panics
    /// Above [`Offset::MAX`].
    fn from(value: u64) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_short_and_display_is_a_number() {
        assert_eq!(format!("{:?} {}", Offset::new(42), Offset::new(42)), "o42 42");
        assert_eq!(format!("{:?}", PartitionId::new(3)), "p3");
        assert_eq!(format!("{:?}", LeaderEpoch::new(7)), "e7");
    }

    #[test]
    fn offsets_saturate_at_their_limit() {
        assert_eq!(Offset::MAX.next(), Offset::MAX);
        assert_eq!(Offset::checked(u64::MAX), None);
        assert_eq!(Offset::new(5).distance_to(Offset::new(3)), 0);
        assert_eq!(Offset::new(3).distance_to(Offset::new(5)), 2);
    }
}
