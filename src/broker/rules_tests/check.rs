//! What has to hold after every step, and at the end.

use super::replica::{Replica, index};
use super::world::World;
use crate::partition::Counts;

impl World {
    pub(super) fn check(&mut self) {
        self.check_high_watermark();
        for at in 0..self.replicas.len() {
            self.check_log(at);
            if self.could_be_member(at) && !self.replicas[at].blank {
                self.check_member(at);
            }
        }
        self.leave_trace();
    }

    /// I4, and nothing is committed by too few.
    fn check_high_watermark(&mut self) {
        let (Some(progress), Some(leader)) = (&self.progress, self.leader) else { return };
        let now = index(progress.high_watermark());
        let log = &self.replicas[leader].log;
        assert!(now <= log.len(), "I4: beyond the leader's end");
        assert!(now >= self.high_watermark, "I4: the high watermark moved back");
        for entry in log.iter().take(now).skip(self.committed.len()) {
            let enough = self.isr.len() >= self.rules.min_insync;
            assert!(enough, "committed below min_insync");
            self.committed.push((entry.epoch, entry.value));
            self.seen.committed += 1;
        }
        let readable = log.iter().zip(&self.committed).take(now);
        for (entry, read) in readable {
            assert_eq!((entry.epoch, entry.value), *read, "I4: read before, and other now");
        }
        self.high_watermark = now;
    }

    /// I3, and durable evidence is durable.
    fn check_log(&self, at: usize) {
        let replica = &self.replicas[at];
        let epochs = || replica.log.iter().map(|entry| entry.epoch);
        assert!(epochs().zip(epochs().skip(1)).all(|(one, next)| one <= next), "I3");
        assert!(replica.durable <= replica.log.len());
        let catches_up_outside = !(replica.catching_up && self.is_member(replica));
        assert!(catches_up_outside, "a member catches up: {replica:?}");
        assert!(replica.evidence() <= replica.durable, "evidence of what may be lost: {replica:?}");
    }

    fn is_member(&self, replica: &Replica) -> bool {
        self.isr.contains(&replica.volume)
    }

    fn could_be_member(&self, at: usize) -> bool {
        let volume = self.replicas[at].volume;
        let proposed = self.pending.as_ref().is_some_and(|change| change.isr.contains(&volume));
        proposed || self.isr.contains(&volume)
    }

    /// I5. A member that lost something to what the durability does not survive is about to leave.
    fn check_member(&self, at: usize) {
        let member = &self.replicas[at];
        let fsync = self.rules.counts == Counts::Durable;
        if member.unsure && !fsync {
            return;
        }
        let holds = if fsync { member.durable } else { member.log.len() };
        assert!(holds >= self.committed.len(), "I5: {member:?} of {}", self.committed.len());
        let same = member.log.iter().zip(&self.committed);
        for (entry, read) in same {
            assert_eq!((entry.epoch, entry.value), *read, "I5: {:?}", member.volume);
        }
        if let Some(progress) = &self.progress {
            assert!(member.durable >= index(progress.synced()), "synced: {member:?}");
        }
    }

    pub(super) fn is_calm(&self) -> bool {
        let (Some(progress), Some(leader)) = (&self.progress, self.leader) else { return false };
        let end = self.replicas[leader].log.len();
        let is_level = |replica: &Replica| replica.log.len() == end && !replica.blank;
        let level = self.replicas.iter().all(is_level);
        level && self.isr.len() == self.replicas.len() && index(progress.high_watermark()) == end
    }

    pub(super) fn check_all_is_well(&self) {
        let first = &self.replicas[0];
        for other in &self.replicas {
            assert_eq!(other.log, first.log, "{:?} and {:?}", other.volume, first.volume);
            assert!(!other.blank);
        }
        assert_eq!(self.committed.len(), first.log.len());
    }

    fn leave_trace(&mut self) {
        let leader = self.leader.map_or(0, |at| at + 1);
        let head = [self.epoch.get() as usize, leader, self.isr.len(), self.high_watermark];
        let bodies = self.replicas.iter().flat_map(|it| [it.log.len(), it.durable]);
        for number in head.into_iter().chain(bodies) {
            self.trace = (self.trace ^ number as u64).wrapping_mul(0x0100_0000_01B3);
        }
    }
}
