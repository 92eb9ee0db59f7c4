//! [`Table`]: the dedup keys of a file in memory, by their hashes.
//!
//! Not here: which file it is of, and who fills it (`keys`, `append`).
//!
//! Linear probing in the order of the hashes: a key's home is its hash scaled to the table's
//! length, and whoever is in the way of a smaller hash moves on. A look ends at the first larger
//! hash, so it stays short in a table that is nearly full; and walking the table gives the entries
//! sorted, as a seal writes them. Beyond so many entries the table is 256 small ones, by the hash's
//! first byte: then no insertion moves or copies more than one of them.
//!
//! Invariants
//!   1. Within a shard the entries rise by hash, those of equal hashes by offset; none lies before
//!      its home, and there is no empty slot between its home and it.
//!   2. Of the slots that are homes at most 7 in 8 are taken: 18 to 28 bytes a key.
//! Threads   single owner.

use crate::format::DedupEntry;

/// A slot without an entry: no batch is at position 0.
const EMPTY: DedupEntry = DedupEntry { hash: 0, offset_delta: 0, place: 0 };
/// Slots that are nobody's home, for the entries that the last homes have no room for.
const SPILL: usize = 8;
const HOMES_MIN: usize = 8;
/// With so many entries the table is divided.
const DIVIDED_FROM: usize = 16 << 10;
/// By this many of the hash's first bits.
const DIVIDED_BITS: u32 = 8;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// None without an entry; one; or one for each value of the hash's first bits.
    shards: Vec<Shard>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Vec<DedupEntry>,
    homes: usize,
    len: usize,
}

impl Table {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many bytes of heap it holds.
    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|shard| shard.slots.capacity()).sum();
        slots * size_of::<DedupEntry>() + self.shards.capacity() * size_of::<Shard>()
    }

    /// Which shard, and what of the hash orders within it.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        if self.shards.len() <= 1 {
            (0, hash)
        } else {
            let first = hash >> (u64::BITS - DIVIDED_BITS);
            (usize::try_from(first).unwrap_or(0), hash << DIVIDED_BITS)
        }
    }

    /// Adds an entry. Those of a hash are added in the order of their offsets.
    pub(crate) fn insert(&mut self, entry: DedupEntry) {
        debug_assert!(entry.place != EMPTY.place, "a batch lies behind the header");
        if self.shards.is_empty() {
            self.shards.push(Shard::default());
        } else if self.len == DIVIDED_FROM && self.shards.len() == 1 {
            self.divide();
        }
        let (at, order) = self.place(entry.hash);
        let divided = self.shards.len() > 1;
        if let Some(shard) = self.shards.get_mut(at) {
            shard.insert(entry, order, divided);
            self.len += 1;
        }
    }

    fn divide(&mut self) {
        let whole = std::mem::take(&mut self.shards);
        self.shards = vec![Shard::default(); 1 << DIVIDED_BITS];
        for entry in whole.iter().flat_map(Shard::entries) {
            let (at, order) = self.place(entry.hash);
            self.shards[at].insert(*entry, order, true);
        }
    }

    /// The entries of a hash, by offset.
    #[inline]
    pub(crate) fn find(&self, hash: u64) -> &[DedupEntry] {
        let (at, order) = self.place(hash);
        self.shards.get(at).map_or(&[], |shard| shard.find(hash, order))
    }

    /// Every entry, sorted by hash, those of equal hashes by offset.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &DedupEntry> {
        self.shards.iter().flat_map(Shard::entries)
    }

    /// Forgets the entries from an offset delta on.
    pub(crate) fn cut(&mut self, delta: u64) {
        if self.entries().all(|entry| u64::from(entry.offset_delta) < delta) {
            return;
        }
        let mut kept = Table::default();
        for entry in self.entries().filter(|entry| u64::from(entry.offset_delta) < delta) {
            kept.insert(*entry);
        }
        *self = kept;
    }
}

impl Shard {
    fn entries(&self) -> impl Iterator<Item = &DedupEntry> {
        self.slots.iter().filter(|slot| slot.place != EMPTY.place)
    }

    #[inline]
    fn home(&self, order: u64) -> usize {
        let scaled = (u128::from(order) * self.homes as u128) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    #[inline]
    fn find(&self, hash: u64, order: u64) -> &[DedupEntry] {
        let rest = self.slots.get(self.home(order)..).unwrap_or_default();
        let holds = |slot: &DedupEntry| slot.place != EMPTY.place;
        let from = rest.iter().take_while(|slot| holds(slot) && slot.hash < hash).count();
        let rest = rest.get(from..).unwrap_or_default();
        let found = rest.iter().take_while(|slot| holds(slot) && slot.hash == hash).count();
        rest.get(..found).unwrap_or_default()
    }

    fn insert(&mut self, entry: DedupEntry, order: u64, divided: bool) {
        if (self.len + 1) * 8 > self.homes * 7 {
            self.grow(divided);
        }
        let home = self.home(order);
        let before = |slot: &&DedupEntry| slot.place != EMPTY.place && slot.hash <= entry.hash;
        let at = home + self.slots[home..].iter().take_while(before).count();
        let taken = self.slots[at..].iter().take_while(|slot| slot.place != EMPTY.place).count();
        let end = at + taken;
        if end == self.slots.len() {
            self.slots.resize(end + SPILL, EMPTY);
        }
        self.slots.copy_within(at..end, at + 1);
        self.slots[at] = entry;
        self.len += 1;
    }

    /// Makes it half as large again.
    fn grow(&mut self, divided: bool) {
        let homes = (self.homes + self.homes / 2).max(HOMES_MIN);
        let mut grown = Shard { slots: Vec::with_capacity(homes + SPILL), homes, len: self.len };
        for entry in self.entries() {
            let order = if divided { entry.hash << DIVIDED_BITS } else { entry.hash };
            let at = grown.home(order).max(grown.slots.len());
            grown.slots.resize(at, EMPTY);
            grown.slots.push(*entry);
        }
        let length = (homes + SPILL).max(grown.slots.len());
        grown.slots.resize(length, EMPTY);
        *self = grown;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::format::testing::Random;

    fn entry(hash: u64, offset_delta: u32) -> DedupEntry {
        DedupEntry { hash, offset_delta, place: 1536 + offset_delta }
    }

    /// Hashes of several kinds: uniform, all alike but for a few bits, at either end.
    fn hashes(random: &mut Random, kind: usize) -> u64 {
        match kind {
            0 => random.next(),
            1 => random.next() & 0x3f,
            2 => random.next() | !0x3f,
            3 => random.next() & 0xff00_0000_0000_000f,
            _ => u64::MAX,
        }
    }

    #[test]
    fn it_finds_what_a_map_finds() {
        let mut random = Random::new(11);
        for (kind, count) in [(0, 60_000), (1, 2_000), (2, 2_000), (3, 30_000), (4, 500), (0, 9)] {
            let mut table = Table::default();
            let mut model: BTreeMap<u64, Vec<DedupEntry>> = BTreeMap::new();
            for delta in 0..count {
                let hash = hashes(&mut random, kind);
                assert_eq!(table.find(hash), model.get(&hash).map_or(&[][..], Vec::as_slice));
                table.insert(entry(hash, delta));
                model.entry(hash).or_default().push(entry(hash, delta));
            }
            for (hash, entries) in &model {
                assert_eq!(table.find(*hash), entries, "kind {kind}");
            }
            assert!(table.entries().eq(model.values().flatten()), "kind {kind}: sorted");
            assert_eq!(table.len(), count as usize);

            let kept = u64::from(count / 3);
            table.cut(kept);
            let kept: Vec<_> = model.values().flatten().copied().collect();
            let kept = kept.iter().filter(|entry| entry.offset_delta < count / 3);
            assert!(table.entries().eq(kept), "kind {kind}: cut");
        }
    }

    #[test]
    fn a_key_takes_at_most_32_bytes() {
        let mut random = Random::new(12);
        let mut table = Table::default();
        assert_eq!(table.heap_bytes(), 0);
        for delta in 0..300_000_u32 {
            table.insert(entry(random.next(), delta));
            if delta > 1_000 && delta % 97 == 0 {
                let bytes = table.heap_bytes() / table.len();
                assert!(bytes <= 32, "{bytes} at {delta}");
            }
        }
    }
}
