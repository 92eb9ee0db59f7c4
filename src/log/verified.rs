//! Which bytes of a file were checked against their checksums, so that each is checked once.
//!
//! Not here: the checking. What this process appended, and what a scan at open verified, is
//! trusted from the start and never asked about here.
//!
//! Threads   any reader; one short lock a fetch, never one a record.

use crate::sync::Mutex;

/// Disjoint, sorted ranges of positions, adjacent ones merged.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Lock rank: leaf.
    ranges: Mutex<Vec<(u64, u64)>>,
}

impl Verified {
    /// What another object for the same file knows.
    pub(crate) fn take_over(&self, other: &Verified) {
        self.ranges.lock().clone_from(&other.ranges.lock());
    }

    /// The end of the checked range that holds `position`, or `position` itself if none does.
    pub(crate) fn checked_until(&self, position: u64) -> u64 {
        let ranges = self.ranges.lock();
        let after = ranges.partition_point(|&(start, _)| start <= position);
        match after.checked_sub(1).map(|i| ranges[i]) {
            Some((_, end)) if end > position => end,
            _ => position,
        }
    }

    /// Remembers that `start..end` was checked.
    pub(crate) fn insert(&self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let mut ranges = self.ranges.lock();
        // Everything that touches the new range is merged into it.
        let from = ranges.partition_point(|&(_, e)| e < start);
        let to = ranges.partition_point(|&(s, _)| s <= end);
        let merged =
            ranges[from..to].iter().fold((start, end), |(s, e), &(rs, re)| (s.min(rs), e.max(re)));
        ranges.splice(from..to, [merged]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_ranges_merge() {
        let verified = Verified::default();
        verified.insert(8, 16);
        verified.insert(24, 32);
        verified.insert(16, 24);
        verified.insert(40, 40);
        assert_eq!(*verified.ranges.lock(), [(8, 32)]);
        assert_eq!(verified.checked_until(8), 32);
        assert_eq!(verified.checked_until(31), 32);
        assert_eq!(verified.checked_until(32), 32);
        assert_eq!(verified.checked_until(0), 0);
    }

    #[test]
    fn agrees_with_a_bitmap() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let verified = Verified::default();
        let mut bitmap = [false; 256];
        for _ in 0..200 {
            let start = next(256);
            let end = (start + next(24)).min(256);
            verified.insert(start, end);
            for bit in start..end {
                bitmap[usize::try_from(bit).unwrap()] = true;
            }
            for position in 0..256_u64 {
                let at = usize::try_from(position).unwrap();
                let run = bitmap[at..].iter().take_while(|&&bit| bit).count() as u64;
                assert_eq!(verified.checked_until(position), position + run);
            }
        }
    }
}
