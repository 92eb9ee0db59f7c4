//! What goes wrong.
//!
//! Not here: what has to hold all the same (`check`).

use super::world::World;
use crate::VolumeState;
use crate::config::Durability;
use crate::error::Error;
use crate::format::DATA_START;
use crate::fs::sim::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::id::Offset;
use crate::partition::Replica;

impl World {
    pub(super) fn go_wrong(&mut self) {
        let what = self.random.below(12);
        if self.spared >> what & 1 == 1 {
            return;
        }
        let disk = self.there[self.random.below(self.there.len())];
        match what {
            0 => self.cut_power(),
            1 => self.kill(),
            2 => {
                self.seen.closed += 1;
                self.reopen_cleanly();
            }
            3 => self.leave_one_behind(disk),
            4 => self.fail(disk, FaultKind::Eio),
            5 => self.fill(disk),
            6 => self.stall(disk),
            7 => self.fail_for_ever(disk),
            8 => self.restore(disk),
            9 => self.rot(disk),
            10 => self.replace(disk),
            _ => self.put_out(disk),
        }
    }

    fn images(&mut self, mut of: impl FnMut(&mut Self, &SimDisk) -> SimDisk) -> Vec<SimDisk> {
        let disks = self.disks.clone();
        disks.iter().map(|disk| of(self, disk)).collect()
    }

    /// The process ends, and another one begins with these disks.
    pub(super) fn begin_again(&mut self, disks: Vec<SimDisk>) {
        self.disks.iter().for_each(SimDisk::cut_power);
        self.broker = None;
        self.waiters.clear();
        self.disks = disks;
        for disk in &self.disks {
            disk.set_capacity(1 << 40);
        }
        assert!(self.open(&[]), "all volumes are there");
    }

    fn cut_power(&mut self) {
        self.seen.power_cut += 1;
        let images = self.images(|world, disk| {
            let loss = match world.random.below(4) {
                0 => Loss::All,
                1 => Loss::None,
                _ => Loss::Random(world.random.next()),
            };
            disk.crash(&loss)
        });
        self.begin_again(images);
        if self.durability != Durability::Fsync {
            self.known.iter_mut().for_each(|known| known.may_have_lost = true);
        }
    }

    fn kill(&mut self) {
        self.seen.killed += 1;
        let images = self.images(|_, disk| disk.snapshot());
        self.begin_again(images);
    }

    /// Closes as well as can be, and opens with all volumes.
    pub(super) fn reopen_cleanly(&mut self) {
        self.close();
        assert!(self.open(&[]), "all volumes are there");
    }

    fn close(&mut self) {
        let broker = self.broker.take().expect("it is open");
        // Of a volume that fails the next open finds what is there.
        let _ = broker.close();
        self.waiters.clear();
        for disk in &self.disks {
            disk.disarm();
            disk.set_capacity(1 << 40);
        }
    }

    /// The store is used without one of its volumes, which then is back.
    fn leave_one_behind(&mut self, disk: usize) {
        self.close();
        if self.open(&[disk]) {
            self.seen.left_behind += 1;
        } else {
            assert!(self.open(&[]), "all volumes are there");
        }
    }

    /// A call or two fail.
    fn fail(&mut self, disk: usize, what: FaultKind) {
        self.seen.failed += 1;
        let call = [None, Some(Call::SyncData), Some(Call::Write), Some(Call::Read)];
        let call = call[self.random.below(4)];
        let at = 1 + self.random.below(6) as u64;
        self.disks[disk].arm(Fault { at, call, what, how_long: HowLong::Once });
    }

    fn fail_for_ever(&mut self, disk: usize) {
        self.seen.failed += 1;
        let at = 1 + self.random.below(6) as u64;
        let fault = Fault { at, call: None, what: FaultKind::Eio, how_long: HowLong::Forever };
        self.disks[disk].arm(fault);
    }

    /// A disk is full for a while.
    fn fill(&mut self, disk: usize) {
        let room = if self.random.chance(2) { 0 } else { 1 << 40 };
        self.disks[disk].set_capacity(room);
    }

    /// Whether some partition has nobody else in sync.
    fn is_needed(&self, disk: usize) -> bool {
        (0..super::world::PARTITIONS).any(|number| {
            let standing = self.partition(number).standing();
            let is_it = |volume| self.disk_of(volume) == Some(disk) || !self.disk_works(volume);
            standing.is_none_or(|it| it.isr.into_iter().all(is_it))
        })
    }

    /// Whether others hold all that a volume does, also what is not committed yet.
    fn is_held(&self, disk: usize) -> bool {
        (0..super::world::PARTITIONS).all(|number| {
            let partition = self.partition(number);
            let isr = Self::isr_of(&partition);
            let on = |volume| self.disk_of(volume) == Some(disk);
            let ends = |it: &Replica| it.log.end_offset();
            let others = partition.replicas().filter(|it| {
                isr.contains(&it.volume) && !on(it.volume) && self.disk_works(it.volume)
            });
            let held = others.map(ends).max().unwrap_or_default();
            partition.replicas().filter(|it| on(it.volume)).all(|it| ends(it) <= held)
        })
    }

    /// A volume is found as it was a while before.
    fn restore(&mut self, disk: usize) {
        self.close();
        let before = self.disks[disk].snapshot();
        assert!(self.open(&[]), "all volumes are there");
        for _ in 0..30 {
            self.step_calmly();
        }
        if self.is_needed(disk) {
            return;
        }
        self.close();
        self.disks[disk] = before;
        assert!(self.open(&[]), "all volumes are there");
        self.seen.restored += 1;
    }

    /// A bit of a volume's files flips while nobody looks: others have what it lost.
    fn rot(&mut self, disk: usize) {
        if self.is_needed(disk) || !self.scrub() || self.is_needed(disk) || !self.is_held(disk) {
            return;
        }
        // Who has what it loses stays.
        let volumes = self.broker().inner().describe_volumes().expect("it is open");
        if volumes.iter().any(|it| it.state == VolumeState::Draining) {
            return;
        }
        // What is not synced is not promised to survive it.
        let is_killed = self.durability == Durability::Fsync && self.random.chance(2);
        if is_killed {
            let images = self.images(|_, disk| disk.snapshot());
            self.disks.iter().for_each(SimDisk::cut_power);
            self.broker = None;
            self.waiters.clear();
            self.disks = images;
            self.disks.iter().for_each(|disk| disk.set_capacity(1 << 40));
        } else {
            self.close();
        }
        let topics = super::disks::dir(disk).join("topics");
        let is_segment = |path: &std::path::PathBuf| {
            path.starts_with(&topics) && path.extension().is_some_and(|it| it == "log")
        };
        let mut files = self.disks[disk].files();
        files.retain(is_segment);
        files.sort();
        if !files.is_empty() {
            let file = files.swap_remove(self.random.below(files.len()));
            let bytes = self.disks[disk].read_file(&file).map_or(0, |it| it.len());
            // What a file begins with is there twice, and is not written again: it would go bad
            // altogether in the course of time.
            let begins = usize::try_from(DATA_START).expect("small");
            if bytes > begins {
                let byte = begins + self.random.below(bytes - begins);
                let bit = u8::try_from(self.random.below(8)).expect("small");
                self.disks[disk].flip_bit(&file, byte as u64, bit).expect("it is there");
                self.seen.rotten += 1;
            }
        }
        self.rotten = Some(disk);
        assert!(self.open(&[]), "all volumes are there");
        // Until that is mended nothing else goes wrong.
        for _ in 0..10 {
            for _ in 0..20 {
                self.step_calmly();
            }
            self.oversee();
            if self.scrub() && !self.is_behind(disk) {
                self.rotten = None;
                return;
            }
        }
    }

    /// Whether some partition waits for what this volume is to copy: what it lost of a tail that
    /// was not synced, another one still has.
    fn is_behind(&self, disk: usize) -> bool {
        (0..super::world::PARTITIONS).any(|number| {
            let partition = self.partition(number);
            let on = |volume| self.disk_of(volume) == Some(disk);
            let mut logs = partition.replicas().filter(|replica| on(replica.volume));
            let read = self.known[number as usize].committed.len() as u64;
            logs.any(|replica| self.held_by(&replica.log).get() < read)
        })
    }

    /// A volume goes for good, moved off first or not, and an empty one comes.
    fn replace(&mut self, disk: usize) {
        let inner = std::sync::Arc::clone(self.broker().inner());
        let fresh = (0..self.disks.len()).find(|it| self.disks[*it].files().is_empty());
        let Some(fresh) = fresh.filter(|it| !self.there.contains(it)) else { return };
        if self.doubtful.is_some() {
            return;
        }
        if let Some(leaving) = self.leaving {
            let Ok(volume) = inner.volume_in(&super::disks::dir(leaving)) else { return };
            if !inner.is_drained(volume) {
                return;
            }
            self.there.retain(|it| *it != leaving);
            self.leaving = None;
            if inner.remove_volume(volume, false).is_err() {
                self.doubtful = Some(leaving);
                return;
            }
            self.seen.drained += 1;
        } else if self.random.chance(2) && self.there.len() > 2 {
            let Ok(volume) = inner.volume_in(&super::disks::dir(disk)) else { return };
            if inner.begin_drain(volume).is_ok() {
                self.leaving = Some(disk);
            }
            return;
        } else {
            // Nothing is lost with it that others do not have.
            if self.is_needed(disk) || self.there.len() < 3 {
                return;
            }
            let Ok(volume) = inner.volume_in(&super::disks::dir(disk)) else { return };
            self.put_out(disk);
            self.there.retain(|it| *it != disk);
            if inner.remove_volume(volume, false).is_err() {
                self.doubtful = Some(disk);
                return;
            }
        }
        if inner.add_volume(&super::disks::dir(fresh)).is_ok() {
            self.there.push(fresh);
            self.seen.replaced += 1;
        } else {
            self.doubtful = Some(fresh);
        }
    }

    fn step_calmly(&mut self) {
        let spared = std::mem::replace(&mut self.spared, u64::MAX);
        self.step();
        self.check();
        self.spared = spared;
    }

    /// A volume falls silent for good.
    pub(super) fn put_out(&mut self, disk: usize) {
        let inner = std::sync::Arc::clone(self.broker().inner());
        let is_it =
            |member: &&crate::broker::volumes::Member| member.volume.dir == super::disks::dir(disk);
        let Some(member) = inner.members().iter().find(is_it) else { return };
        let silent = Error::TimedOut { what: "a volume's threads" };
        inner.put_out(&[(member.id, member.volume.incarnation(), silent)]);
        self.seen.put_out += 1;
    }

    /// What was readable and is no longer on every replica in sync is lost, where it may be.
    pub(super) fn account_for_losses(&mut self, number: u32) {
        let partition = self.partition(number);
        let isr = Self::isr_of(&partition);
        let known = &mut self.known[number as usize];
        known.may_have_lost = false;
        for replica in isr.iter().filter_map(|volume| partition.on(*volume)) {
            let (start, held) = Self::held_from(&replica.log, Offset::ZERO, Offset::MAX);
            let start = usize::try_from(start.get()).expect("small");
            let kept = held.iter().zip(known.committed.iter().skip(start));
            let kept = start + kept.take_while(|(found, read)| found == read).count();
            if kept < known.committed.len() {
                self.seen.lost += known.committed.len() - kept;
                known.committed.truncate(kept);
            }
        }
    }
}
