//! What has to hold after every step.

use std::collections::BTreeSet;

use super::world::{PARTITIONS, World};
use crate::config::{Durability, FETCH_BYTES, Reads};
use crate::id::{LeaderEpoch, Offset, VolumeId};
use crate::log::{Log, ReadCursor};
use crate::partition::Partition;

impl World {
    pub(super) fn check(&mut self) {
        for number in 0..PARTITIONS {
            let partition = self.partition(number);
            let isr = Self::isr_of(&partition);
            if isr.is_empty() {
                continue;
            }
            if self.known[number as usize].may_have_lost {
                self.account_for_losses(number);
            }
            // A leader that failed may be shown for what it cannot serve.
            let serves = !partition.is_offline() && partition.log().check_latch().is_ok();
            if serves && self.disk_works(partition.volume()) {
                self.check_high_watermark(number, &partition);
            }
            for volume in isr {
                if self.disk_works(volume) {
                    self.check_member(number, &partition, volume);
                }
            }
            self.leave_trace(number, &partition);
        }
    }

    pub(super) fn isr_of(partition: &Partition) -> Vec<VolumeId> {
        match partition.standing() {
            Some(standing) => standing.isr,
            None if partition.is_alone() => vec![partition.volume()],
            None => Vec::new(),
        }
    }

    /// Once all is calm each replica serves all that is committed.
    pub(super) fn check_all_is_read(&self) {
        for number in 0..PARTITIONS {
            let partition = self.partition(number);
            let committed = partition.high_watermark();
            for log in partition.logs() {
                let (start, values) = Self::held_from(log, Offset::ZERO, committed);
                let end = start.get() + values.len() as u64;
                assert_eq!(end, committed.get(), "not all is read: {}", self.describe());
            }
        }
    }

    /// Whether what lies there can be read.
    pub(super) fn disk_works(&self, volume: VolumeId) -> bool {
        let inner = self.broker().inner();
        inner.member(volume).is_some_and(|member| !member.is_gone())
    }

    /// What a log holds from its start, or `from` if that is later: where that is, and the values
    /// with their epochs.
    pub(super) fn held_from(
        log: &Log,
        from: Offset,
        upto: Offset,
    ) -> (Offset, Vec<(LeaderEpoch, u64)>) {
        let start = log.start_offset().max(from);
        let mut cursor = ReadCursor::at(start);
        let mut values = Vec::new();
        // A fault that hits this look is no finding.
        while let Ok(Some(chunk)) = log.read(&mut cursor, upto, FETCH_BYTES, Reads::Copied) {
            for record in chunk.records() {
                let bytes = record.record.value.expect("it has one");
                let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                let next = start.get() + values.len() as u64;
                assert_eq!(record.offset.get(), next, "I2: offsets are dense");
                values.push((record.leader_epoch, value));
            }
        }
        let epochs = || values.iter().map(|(epoch, _)| *epoch);
        assert!(epochs().zip(epochs().skip(1)).all(|(one, next)| one <= next), "I3: {values:?}");
        (start, values)
    }

    /// I4 and I7.
    fn check_high_watermark(&mut self, number: u32, partition: &Partition) {
        let now = partition.high_watermark();
        let log = partition.log();
        assert!(now <= log.end_offset(), "I4: beyond the leader's end {}", self.describe());
        let known = &mut self.known[number as usize];
        assert!(now.get() >= known.high_watermark, "I4: the high watermark moved back");
        known.high_watermark = now.get();
        let before = known.committed.len();
        let (start, values) = Self::held_from(log, Offset::new(before as u64), now);
        let mut fresh = values.into_iter();
        if start.get() > before as u64 {
            // Deleted before it was seen: nobody can say what it was.
            let unseen = usize::try_from(start.get()).expect("small") - before;
            known.committed.extend(std::iter::repeat_n((LeaderEpoch::default(), 0), unseen));
        }
        known.committed.extend(fresh.by_ref());
        self.seen.committed += known.committed.len() - before;
        let values: Vec<u64> =
            known.committed.iter().map(|(_, value)| *value).filter(|value| *value > 0).collect();
        if known.committed.len() > before {
            let distinct: BTreeSet<u64> = values.iter().copied().collect();
            assert_eq!(distinct.len(), values.len(), "I7: a value is twice in partition {number}");
        }
    }

    /// I5: it holds what is committed, on the medium if the durability says so.
    fn check_member(&mut self, number: u32, partition: &Partition, volume: VolumeId) {
        let replica = partition.on(volume);
        if replica.is_none() && partition.log().check_latch().is_err() {
            // It was dropped, and the leader is about to be replaced, who did not take note of it.
            return;
        }
        let replica = replica.unwrap_or_else(|| panic!("{volume} is there {}", self.describe()));
        let log = &replica.log;
        if log.check_latch().is_err() {
            return;
        }
        let committed = partition.high_watermark();
        let held = self.held_by(log);
        // What is deleted nobody has to hold.
        let is_held = held >= committed || committed <= partition.log().start_offset();
        // What looks torn, since it has gone bad at its end, it copies anew.
        let is_rotten = self.rotten.is_some_and(|disk| self.disk_of(volume) == Some(disk));
        assert!(is_held || is_rotten, "I5: {volume} holds {held} {}", self.describe());
        let place = partition.replicas().position(|it| std::ptr::eq(it, replica)).expect("there");
        let cuts = log.cut_count.load(std::sync::atomic::Ordering::Acquire);
        let known = &mut self.known[number as usize];
        if known.compared.len() <= place {
            known.compared.resize(place + 1, (0, 0));
        }
        let (seen_cuts, compared) = known.compared[place];
        let from = if seen_cuts == cuts { compared } else { 0 };
        let upto = committed.get().min(known.committed.len() as u64);
        let (start, values) = Self::held_from(log, Offset::new(from), Offset::new(upto));
        let first = usize::try_from(start.get()).expect("small");
        let read = known.committed.iter().skip(first);
        let differs = values.iter().zip(read).position(|(found, read)| read.1 > 0 && found != read);
        assert_eq!(differs, None, "I5: {volume} differs from {start} on: {}", self.describe());
        self.known[number as usize].compared[place] = (cuts, start.get() + values.len() as u64);
    }

    /// What counts for the high watermark.
    pub(super) fn held_by(&self, log: &Log) -> Offset {
        match self.durability {
            Durability::Fsync => log.durable_offset(),
            Durability::Os | Durability::Interval(_) => log.end_offset(),
        }
    }

    fn leave_trace(&mut self, number: u32, partition: &Partition) {
        let head = [u64::from(number), partition.high_watermark().get()];
        let bodies = partition.logs().flat_map(|log| [log.end_offset(), log.durable_offset()]);
        for number in head.into_iter().chain(bodies.map(Offset::get)) {
            self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01B3);
        }
    }
}
