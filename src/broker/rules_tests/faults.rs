//! What goes wrong: stalls, deaths, losses, wiped volumes, ends of the process; and that it ends.
//!
//! Not here: elections (`world`).

use std::time::Duration;

use super::replica::Replica;
use super::world::{Message, World};
use crate::partition::{Counts, Decision};

impl World {
    pub(super) fn go_wrong(&mut self, at: usize) {
        let fault = self.random.below(20);
        if self.spared >> fault & 1 == 1 {
            return;
        }
        match fault {
            0..3 => self.replicas[at].stalled = true,
            3..7 => self.replicas.iter_mut().for_each(|replica| replica.stalled = false),
            7..9 => {
                let seconds = 5 + self.random.below(8) as u64;
                self.now += Duration::from_secs(seconds);
            }
            9..12 => self.die(at),
            12..16 => self.come_back(at),
            16 => self.wipe(at),
            17 => self.end_process(|_, _| 0),
            18 if self.random.chance(3) => {
                self.seen.power_cut += 1;
                self.end_process(World::loses);
            }
            _ => {}
        }
    }

    pub(super) fn lose_mail(&mut self) {
        if !self.mail.is_empty() {
            let at = self.random.below(self.mail.len());
            self.mail.remove(at);
        }
    }

    /// Its volume is expelled, for hard evidence or silence.
    fn die(&mut self, at: usize) {
        if !self.replicas[at].alive {
            return;
        }
        self.seen.died += 1;
        self.replicas[at].alive = false;
        if self.leader == Some(at) {
            self.leader = None;
        }
        if let Some(progress) = &mut self.progress {
            progress.fenced(self.replicas[at].volume);
        }
    }

    /// How much of what is not durable is gone.
    fn loses(&mut self, at: usize) -> usize {
        let replica = &self.replicas[at];
        let most = replica.log.len() - replica.durable;
        self.random.below(most + 1)
    }

    /// Registered again, with all it had, or without some of what was not durable.
    fn come_back(&mut self, at: usize) {
        if self.replicas[at].alive {
            return;
        }
        let lost = if self.random.chance(2) { self.loses(at) } else { 0 };
        let counts = self.rules.counts;
        let replica = &mut self.replicas[at];
        let left = replica.log.len() - lost;
        replica.reopen(left);
        // With `Fsync` it never said that it has what is not durable.
        replica.unsure |= lost > 0 && counts == Counts::End;
        if let Some(progress) = &mut self.progress {
            let (volume, incarnation) = (replica.volume, replica.incarnation);
            progress.registered(volume, incarnation).expect("a later incarnation");
        }
    }

    /// Replaced by an empty one, unless it is the last that holds what is committed.
    fn wipe(&mut self, at: usize) {
        let keeps = |other: &Replica| {
            let could_be_all = |isr: &[_]| isr.contains(&other.volume);
            let pending = self.pending.as_ref().is_none_or(|change| could_be_all(&change.isr));
            could_be_all(&self.isr) && pending && !other.blank && !other.unsure
        };
        let volume = self.replicas[at].volume;
        if self.replicas.iter().any(|other| other.volume != volume && keeps(other)) {
            self.die(at);
            self.seen.wiped += 1;
            self.replicas[at].wipe();
            self.come_back(at);
        }
    }

    /// Killed, or without power: what is on its way stays so, from incarnations that are no more.
    fn end_process(&mut self, loses: impl Fn(&mut World, usize) -> usize) {
        self.seen.killed += 1;
        self.decide();
        self.progress = None;
        self.leader = None;
        for at in 0..self.replicas.len() {
            let left = self.replicas[at].log.len() - loses(self, at);
            let replica = &mut self.replicas[at];
            replica.reopen(left);
            replica.unsure = true;
            // Not found at the open.
            replica.alive = !self.random.chance(8);
        }
    }

    /// The faults stop, and everybody does what there is to do, for long enough.
    pub(super) fn calm_down(&mut self) {
        for at in 0..self.replicas.len() {
            self.replicas[at].stalled = false;
            self.come_back(at);
        }
        self.append();
        for _ in 0..2_000 {
            self.now += Duration::from_millis(1);
            if self.leader.is_none() {
                self.elect();
            }
            for at in 0..self.replicas.len() {
                self.sync(at);
                self.follow(at);
                self.report(at);
            }
            while !self.mail.is_empty() {
                self.deliver_one(self.mail.len() - 1);
            }
            self.tick();
            self.decide_as(Decision::Durable);
            if self.is_calm() {
                return;
            }
        }
        let waiting = self.mail.iter().filter(|it| matches!(it, Message::Report(_))).count();
        panic!("it never ends: {:?} {waiting} {:?}", self.progress, self.replicas);
    }
}
