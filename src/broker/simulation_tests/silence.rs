//! Volumes that do nothing, or whose sync does not end, and the broker that asks all of them at an
//! interval, as it does with threads.
//!
//! Checked here: who answers in time is not put out for silence, however late the broker asks.
//!
//! Not here: whom it is to put out and whom to wait for (`heartbeat`).

use std::sync::Arc;
use std::time::Duration;

use super::world::World;
use crate::broker::controller::Controller;
use crate::error::Error;

pub(super) const INTERVAL: Duration = Duration::from_millis(100);
pub(super) const TIMEOUT: Duration = Duration::from_millis(400);

/// What a volume does not do for a while.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stalled {
    All,
    /// It copies and answers, and its sync does not end.
    Syncs,
}

/// Those that stall, and since when anything of them may be held against them.
#[derive(Default)]
pub(super) struct Stalls {
    now: Vec<(usize, Stalled)>,
    /// The broker has not heard since of these that they go on.
    over: Vec<usize>,
}

impl Stalls {
    fn of(&self, disk: usize) -> Option<Stalled> {
        self.now.iter().find(|(it, _)| *it == disk).map(|(_, stalled)| *stalled)
    }

    pub(super) fn copies(&self, disk: usize) -> bool {
        self.of(disk) != Some(Stalled::All)
    }

    pub(super) fn syncs(&self, disk: usize) -> bool {
        self.of(disk).is_none()
    }
}

impl World {
    /// The broker that was just opened asks its volumes from now on.
    pub(super) fn begin_to_ask(&mut self) {
        self.stalls = Stalls::default();
        if self.asks {
            let inner = Arc::clone(self.broker().inner());
            Controller::ask_all(&inner);
        }
    }

    pub(super) fn stall(&mut self, disk: usize) {
        if let Some((ended, _)) = self.stalls.now.pop() {
            self.stalls.over.push(ended);
            self.hangs(ended, false);
            return;
        }
        let stalled = if self.random.chance(2) { Stalled::All } else { Stalled::Syncs };
        self.stalls.now.push((disk, stalled));
        self.hangs(disk, stalled == Stalled::Syncs);
    }

    fn hangs(&self, disk: usize, hangs: bool) {
        let since = hangs.then(|| self.clock.elapsed_now());
        for (_, queue) in self.queues().iter().filter(|(of, _)| *of == disk) {
            queue.hangs(since);
        }
    }

    /// What the time brings, after everyone that can has answered.
    pub(super) fn oversee(&mut self) {
        let inner = Arc::clone(self.broker().inner());
        for (_, queue) in self.queues().iter().filter(|(disk, _)| self.stalls.copies(*disk)) {
            queue.answer(inner.controller().as_ref());
        }
        let there: Vec<usize> = self.queues().into_iter().map(|(disk, _)| disk).collect();
        inner.oversee(true);
        for member in inner.members().iter() {
            let Some(disk) = self.disk_of(member.id).filter(|disk| there.contains(disk)) else {
                continue;
            };
            match member.why_gone() {
                Some(Error::TimedOut { what }) => {
                    let excused = self.stalls.over.contains(&disk);
                    assert!(excused || self.stalls.of(disk).is_some(), "{disk} answered: {what}");
                    match self.stalls.of(disk) {
                        Some(Stalled::Syncs) => self.seen.hung += 1,
                        _ => self.seen.silent += 1,
                    }
                }
                Some(_) => {}
                None => {
                    let waits = member.is_silent.load(std::sync::atomic::Ordering::Relaxed);
                    self.seen.waited_for += usize::from(waits);
                }
            }
        }
        self.stalls.over.clear();
    }
}
