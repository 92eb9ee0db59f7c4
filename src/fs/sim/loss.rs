//! Which unsynced changes a power cut takes.
//!
//! Not here: what is unsynced (`file`, `tree`), how an image is made (`crash`).
//!
//! Pending changes are numbered over the whole disk in the order in which they were made, as
//! [`SimDisk::pending`](super::SimDisk::pending) lists them.

use std::fmt;
use std::str::FromStr;

use super::page::mix;

/// Which of the unsynced changes a power cut takes and which it leaves.
///
/// Written and read as one word, so that a failing case fits a line:
///
/// ```
/// use plimsoll::sim::Loss;
///
/// let loss = Loss::Torn { op: 4, from: 1, to: 3 };
/// assert_eq!(loss.to_string(), "torn:4:1-3");
/// assert_eq!("torn:4:1-3".parse(), Ok(loss));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Everything unsynced is lost.
    All,
    /// Nothing is lost.
    None,
    /// Only change number `.0` is kept.
    KeepOnly(usize),
    /// Only change number `.0` is lost.
    LoseOnly(usize),
    /// The first `.0` changes are kept, the later ones lost.
    KeepFirst(usize),
    /// Of write number `op` the sectors `from..to` are lost; everything else is kept.
    Torn {
        /// Which change.
        op: usize,
        /// First sector lost, counted from the write's first.
        from: u64,
        /// First sector after those that are kept again.
        to: u64,
    },
    /// Of write number `op` the first `sectors` sectors are kept, with all changes before it; all
    /// later ones are lost.
    Tail {
        /// Which change.
        op: usize,
        /// How many of its sectors are kept.
        sectors: u64,
    },
    /// Lengths and names are kept, contents lost.
    LenWithoutData,
    /// Contents and names are kept, lengths lost.
    DataWithoutLen,
    /// Names are kept; contents and lengths are lost.
    NamesWithoutFiles,
    /// Contents and lengths are kept; names are lost.
    FilesWithoutNames,
    /// Each change, and each sector of some writes, by a coin thrown from this seed. Where a file
    /// grew without being allocated, lost sectors may hold stale bytes instead of zeros.
    Random(u64),
}

/// What kind of change is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PendingKind {
    Data { sectors: u64 },
    Len,
    Name,
}

impl Loss {
    /// Whether a sector (0 but for data) of change number `index` is kept.
    pub(super) fn keeps(&self, index: usize, kind: PendingKind, sector: u64) -> bool {
        match *self {
            Loss::All => false,
            Loss::None => true,
            Loss::KeepOnly(op) => index == op,
            Loss::LoseOnly(op) => index != op,
            Loss::KeepFirst(count) => index < count,
            Loss::Torn { op, from, to } => index != op || !(from..to).contains(&sector),
            Loss::Tail { op, sectors } => index < op || (index == op && sector < sectors),
            Loss::LenWithoutData => !matches!(kind, PendingKind::Data { .. }),
            Loss::DataWithoutLen => kind != PendingKind::Len,
            Loss::NamesWithoutFiles => kind == PendingKind::Name,
            Loss::FilesWithoutNames => kind != PendingKind::Name,
            Loss::Random(seed) => {
                let coin = coin(seed, index, 0);
                match (coin >> 8) % 4 {
                    0 => false,
                    1 => true,
                    _ if matches!(kind, PendingKind::Data { .. }) => {
                        coin.rotate_left(u32::try_from(sector % 64).unwrap_or(0)) & 1 == 1
                    }
                    other => other == 2,
                }
            }
        }
    }

    /// What a lost sector of new, unallocated space holds instead of zeros.
    pub(super) fn garbage(&self, index: usize, sector: u64) -> Option<u8> {
        let Loss::Random(seed) = *self else { return None };
        let coin = coin(seed, index, sector + 1);
        if coin.is_multiple_of(4) { Some(coin.to_le_bytes()[1]) } else { None }
    }

    /// The systematic losses of these changes, and `random` coin-thrown ones.
    pub(super) fn systematic(kinds: &[PendingKind], random: u64) -> Vec<Loss> {
        let count = kinds.len();
        let mut losses = vec![Loss::None];
        if count == 0 {
            return losses;
        }
        losses.push(Loss::All);
        losses.extend([Loss::LenWithoutData, Loss::DataWithoutLen]);
        losses.extend([Loss::NamesWithoutFiles, Loss::FilesWithoutNames]);
        losses.extend((1..count).map(Loss::KeepFirst));
        losses.extend((0..count).map(Loss::LoseOnly));
        losses.extend((0..count).map(Loss::KeepOnly));
        for (op, kind) in kinds.iter().enumerate() {
            let PendingKind::Data { sectors } = *kind else { continue };
            if sectors < 2 {
                continue;
            }
            let middle = sectors / 2;
            losses.extend([
                Loss::Torn { op, from: 0, to: 1 },
                Loss::Torn { op, from: middle, to: middle + 1 },
                Loss::Torn { op, from: sectors - 1, to: sectors },
                Loss::Tail { op, sectors: 1 },
                Loss::Tail { op, sectors: middle },
                Loss::Tail { op, sectors: sectors - 1 },
            ]);
        }
        losses.extend((0..random).map(Loss::Random));
        let mut seen = std::collections::HashSet::new();
        losses.retain(|loss| seen.insert(*loss));
        losses
    }
}

fn coin(seed: u64, index: usize, sector: u64) -> u64 {
    mix(mix(mix(0x5eed, seed), index as u64), sector)
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::All => f.write_str("all"),
            Loss::None => f.write_str("none"),
            Loss::KeepOnly(op) => write!(f, "keep-only:{op}"),
            Loss::LoseOnly(op) => write!(f, "lose-only:{op}"),
            Loss::KeepFirst(count) => write!(f, "keep-first:{count}"),
            Loss::Torn { op, from, to } => write!(f, "torn:{op}:{from}-{to}"),
            Loss::Tail { op, sectors } => write!(f, "tail:{op}:{sectors}"),
            Loss::LenWithoutData => f.write_str("len-without-data"),
            Loss::DataWithoutLen => f.write_str("data-without-len"),
            Loss::NamesWithoutFiles => f.write_str("names-without-files"),
            Loss::FilesWithoutNames => f.write_str("files-without-names"),
            Loss::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

/// A text that is no [`Loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotALoss;

impl fmt::Display for NotALoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a loss: expected a word such as all, none, keep-first:3 or torn:4:1-3")
    }
}

impl std::error::Error for NotALoss {}

impl FromStr for Loss {
    type Err = NotALoss;

    fn from_str(text: &str) -> Result<Self, NotALoss> {
        fn number<T: FromStr>(text: &str) -> Result<T, NotALoss> {
            text.parse().map_err(|_| NotALoss)
        }
        let (word, rest) = text.split_once(':').unwrap_or((text, ""));
        Ok(match (word, rest) {
            ("all", "") => Loss::All,
            ("none", "") => Loss::None,
            ("len-without-data", "") => Loss::LenWithoutData,
            ("data-without-len", "") => Loss::DataWithoutLen,
            ("names-without-files", "") => Loss::NamesWithoutFiles,
            ("files-without-names", "") => Loss::FilesWithoutNames,
            ("keep-only", op) => Loss::KeepOnly(number(op)?),
            ("lose-only", op) => Loss::LoseOnly(number(op)?),
            ("keep-first", count) => Loss::KeepFirst(number(count)?),
            ("random", seed) => Loss::Random(number(seed)?),
            ("torn", rest) => {
                let (op, range) = rest.split_once(':').ok_or(NotALoss)?;
                let (from, to) = range.split_once('-').ok_or(NotALoss)?;
                Loss::Torn { op: number(op)?, from: number(from)?, to: number(to)? }
            }
            ("tail", rest) => {
                let (op, sectors) = rest.split_once(':').ok_or(NotALoss)?;
                Loss::Tail { op: number(op)?, sectors: number(sectors)? }
            }
            _ => return Err(NotALoss),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_comes_back_from_its_text() {
        let kinds = [PendingKind::Name, PendingKind::Data { sectors: 9 }, PendingKind::Len];
        let losses = Loss::systematic(&kinds, 3);
        assert!(losses.len() > 20, "{losses:?}");
        for loss in losses {
            assert_eq!(loss.to_string().parse(), Ok(loss));
        }
        for text in ["", "al", "torn:4", "torn:4:1", "keep-only:", "random:x", "all:1"] {
            assert_eq!(text.parse::<Loss>(), Err(NotALoss), "{text}");
        }
    }

    #[test]
    fn with_nothing_pending_there_is_one_image() {
        assert_eq!(Loss::systematic(&[], 100), [Loss::None]);
    }
}
