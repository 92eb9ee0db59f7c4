//! Which volumes are alive: asked at an interval, expelled for silence.
//!
//! Not here: asking, what an answer carries (it passes through), what follows from a verdict.
//!
//! Invariants
//!   1. A verdict falls once an incarnation, and is final: what it answers later is declined. Who
//!      comes back is registered anew, as a later incarnation.
//!   2. Who is needed, or has nobody beside it that answers, is only said to be waited for. Its
//!      late answers count.
//!   3. A checker that wakes late moves every deadline by its lateness, so that a process that
//!      was frozen expels nobody when it thaws.
//!
//! Time here runs as the checker does: *checked time* is the clock less all lateness so far.

use std::time::Duration;

use crate::id::{Incarnation, VolumeId};

/// What a volume says of itself, and something more for whoever asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<P> {
    pub(crate) volume: VolumeId,
    pub(crate) incarnation: Incarnation,
    /// When the oldest sync began that still runs.
    pub(crate) syncing_since: Option<Duration>,
    pub(crate) payload: P,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No answer within the timeout.
    Silent,
    /// It answers, and a sync hangs.
    SyncHangs,
    /// Its thread is gone, or its disk reports an error.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Ask(VolumeId, Incarnation),
    /// Fence it, and move what it led or followed.
    Expel(VolumeId, Incarnation, Cause),
    /// Move what can move, and wait for the rest: to be counted and shown.
    WaitFor(VolumeId, Incarnation, Cause),
}

/// Of an incarnation that was expelled, replaced or never registered: it counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Declined;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    WaitedFor,
    Expelled,
}

#[derive(Debug)]
struct Watched {
    volume: VolumeId,
    incarnation: Incarnation,
    state: State,
    /// In checked time.
    heard_at: Duration,
    sync: Option<RunningSync>,
    /// All lateness when it last answered.
    late_when_heard: Duration,
}

#[derive(Clone, Copy, Debug)]
struct RunningSync {
    /// By the clock: which sync it is.
    since: Duration,
    /// In checked time, and not too early.
    began_at: Duration,
}

/// Watches all volumes of a broker.
#[derive(Debug)]
pub(crate) struct Monitor {
    interval: Duration,
    timeout: Duration,
    /// When the checker means to wake next.
    due: Duration,
    /// By how much it woke late, all in all.
    late: Duration,
    watched: Vec<Watched>,
}

impl Monitor {
    pub(crate) fn new(interval: Duration, timeout: Duration, now: Duration) -> Self {
        Self { interval, timeout, due: now, late: Duration::ZERO, watched: Vec::new() }
    }

    /// A volume is there: for the first time, or again as a later incarnation.
    ///
    /// # Errors
    /// If this incarnation, or a later one, was registered before.
    pub(crate) fn register(
        &mut self,
        volume: VolumeId,
        incarnation: Incarnation,
        now: Duration,
    ) -> Result<(), Declined> {
        let known = self.watched.iter().find(|watched| watched.volume == volume);
        if known.is_some_and(|watched| watched.incarnation >= incarnation) {
            return Err(Declined);
        }
        self.watched.retain(|watched| watched.volume != volume);
        self.watched.push(Watched {
            volume,
            incarnation,
            state: State::Live,
            heard_at: now.saturating_sub(self.late),
            sync: None,
            late_when_heard: self.late,
        });
        Ok(())
    }

    /// By how much it woke late, all in all.
    pub(crate) fn late(&self) -> Duration {
        self.late
    }

    /// When [`Self::tick`] is to be called next.
    #[cfg(test)]
    pub(crate) fn wakes_at(&self) -> Duration {
        self.due
    }

    /// Asks everybody, and judges. `is_needed` tells whether a volume is the only ISR member of a
    /// partition. Nothing happens before the interval is over.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        is_needed: impl Fn(VolumeId) -> bool,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if now < self.due {
            return actions;
        }
        self.late += now.saturating_sub(self.due);
        self.due = now + self.interval;
        let at = now.saturating_sub(self.late);
        for watched in &mut self.watched {
            watched.not_after(at);
        }
        let overdue = |watched: &Watched| watched.overdue(at, self.timeout);
        let in_time = |watched: &Watched| watched.is_watched() && overdue(watched).is_none();
        let anybody_in_time = self.watched.iter().any(in_time);
        let timeout = self.timeout;
        for watched in self.watched.iter_mut().filter(|watched| watched.is_watched()) {
            let (volume, incarnation) = (watched.volume, watched.incarnation);
            match watched.overdue(at, timeout) {
                Some(cause) if anybody_in_time && !is_needed(volume) => {
                    watched.state = State::Expelled;
                    actions.push(Action::Expel(volume, incarnation, cause));
                    continue;
                }
                Some(cause) if watched.state == State::Live => {
                    watched.state = State::WaitedFor;
                    actions.push(Action::WaitFor(volume, incarnation, cause));
                }
                Some(_) => {}
                None => watched.state = State::Live,
            }
            actions.push(Action::Ask(volume, incarnation));
        }
        actions
    }

    /// A volume answered: what it carries is handed on.
    ///
    /// # Errors
    /// If it is not, or no longer, watched as this incarnation.
    pub(crate) fn answered<P>(&mut self, answer: Answer<P>, now: Duration) -> Result<P, Declined> {
        let at = now.saturating_sub(self.late);
        let late = self.late;
        let watched = self.find(answer.volume, answer.incarnation)?;
        watched.heard_at = watched.heard_at.max(at);
        watched.sync = answer.syncing_since.map(|since| match watched.sync {
            Some(running) if running.since == since => running,
            // It began after the answer before: what the checker was late until then is not its.
            _ => RunningSync { since, began_at: since.saturating_sub(watched.late_when_heard) },
        });
        watched.late_when_heard = late;
        Ok(answer.payload)
    }

    /// There is proof that a volume is gone, needed or not. `None` if that was known.
    pub(crate) fn failed(&mut self, volume: VolumeId, incarnation: Incarnation) -> Option<Action> {
        let watched = self.find(volume, incarnation).ok()?;
        watched.state = State::Expelled;
        Some(Action::Expel(volume, incarnation, Cause::Failed))
    }

    fn find(
        &mut self,
        volume: VolumeId,
        incarnation: Incarnation,
    ) -> Result<&mut Watched, Declined> {
        let is_it = |watched: &&mut Watched| {
            watched.is_watched() && (watched.volume, watched.incarnation) == (volume, incarnation)
        };
        self.watched.iter_mut().find(is_it).ok_or(Declined)
    }
}

impl Watched {
    fn is_watched(&self) -> bool {
        self.state != State::Expelled
    }

    /// What was noted before the checker knew how late it is, is not of a time to come.
    fn not_after(&mut self, at: Duration) {
        self.heard_at = self.heard_at.min(at);
        if let Some(sync) = &mut self.sync {
            sync.began_at = sync.began_at.min(at);
        }
    }

    fn overdue(&self, at: Duration, timeout: Duration) -> Option<Cause> {
        let is_over = |since: Duration| at.saturating_sub(since) > timeout;
        if is_over(self.heard_at) {
            return Some(Cause::Silent);
        }
        self.sync.filter(|sync| is_over(sync.began_at)).map(|_| Cause::SyncHangs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(200);
    const TIMEOUT: Duration = Duration::from_secs(2);

    fn volume(number: u32) -> VolumeId {
        VolumeId::new(number)
    }

    fn first() -> Incarnation {
        Incarnation::new(1)
    }

    /// A monitor of volumes that answer each question at once, but for those said to be silent.
    struct Bench {
        monitor: Monitor,
        now: Duration,
        silent: Vec<u32>,
        needed: Vec<u32>,
        syncing_since: Option<Duration>,
    }

    impl Bench {
        fn new(volumes: u32) -> Self {
            let now = Duration::from_secs(100);
            let mut monitor = Monitor::new(INTERVAL, TIMEOUT, now);
            for number in 1..=volumes {
                monitor.register(volume(number), first(), now).expect("new");
            }
            Self { monitor, now, silent: Vec::new(), needed: Vec::new(), syncing_since: None }
        }

        fn answer(&mut self, number: u32, incarnation: u64) -> Result<&'static str, Declined> {
            let answer = Answer {
                volume: volume(number),
                incarnation: Incarnation::new(incarnation),
                syncing_since: self.syncing_since.filter(|_| number == 1),
                payload: "positions",
            };
            self.monitor.answered(answer, self.now)
        }

        /// One turn of the checker, now. What it says of those it does not only ask.
        fn tick(&mut self) -> Vec<Action> {
            let needed = |volume: VolumeId| self.needed.contains(&volume.get());
            let actions = self.monitor.tick(self.now, needed);
            for action in &actions {
                if let Action::Ask(volume, incarnation) = action
                    && !self.silent.contains(&volume.get())
                {
                    self.answer(volume.get(), incarnation.get()).expect("watched");
                }
            }
            actions.into_iter().filter(|action| !matches!(action, Action::Ask(..))).collect()
        }

        /// The checker wakes in time, for so long.
        fn run(&mut self, span: Duration) -> Vec<Action> {
            let end = self.now + span;
            let mut said = Vec::new();
            while self.monitor.wakes_at() <= end {
                self.now = self.monitor.wakes_at();
                said.extend(self.tick());
            }
            self.now = end;
            said
        }
    }

    #[test]
    fn who_answers_is_left_alone_and_asked_at_the_interval() {
        let mut bench = Bench::new(2);
        assert_eq!(bench.run(Duration::from_mins(1)), []);
        assert!(bench.monitor.wakes_at() > bench.now);
        assert_eq!(bench.monitor.tick(bench.now, |_| false), [], "not yet");
        let asked = bench.monitor.tick(bench.monitor.wakes_at(), |_| false);
        assert_eq!(asked, [1, 2].map(|number| Action::Ask(volume(number), first())));
    }

    #[test]
    fn an_answer_carries_something_for_who_asked() {
        let mut bench = Bench::new(1);
        assert_eq!(bench.answer(1, 1), Ok("positions"));
        assert_eq!(bench.answer(1, 2), Err(Declined));
        assert_eq!(bench.answer(7, 1), Err(Declined));
    }

    #[test]
    fn silence_past_the_timeout_is_a_verdict_once_and_for_ever() {
        let mut bench = Bench::new(2);
        bench.run(Duration::from_secs(1));
        bench.silent = vec![1];
        assert_eq!(bench.run(Duration::from_millis(1_900)), []);
        let expelled = Action::Expel(volume(1), first(), Cause::Silent);
        assert_eq!(bench.run(Duration::from_secs(1)), [expelled]);
        assert_eq!(bench.answer(1, 1), Err(Declined), "no revival");
        assert_eq!(bench.run(Duration::from_mins(1)), []);
        assert_eq!(bench.monitor.failed(volume(1), first()), None);
    }

    #[test]
    fn who_comes_back_is_another_incarnation() {
        let mut bench = Bench::new(2);
        bench.silent = vec![1];
        bench.run(Duration::from_secs(5));
        assert_eq!(bench.monitor.register(volume(1), first(), bench.now), Err(Declined));
        assert_eq!(bench.monitor.register(volume(1), Incarnation::new(2), bench.now), Ok(()));
        bench.silent = Vec::new();
        assert_eq!(bench.answer(1, 1), Err(Declined), "late, of the one before");
        assert_eq!(bench.answer(1, 2), Ok("positions"));
        assert_eq!(bench.run(Duration::from_mins(1)), []);
    }

    #[test]
    fn a_late_answer_of_the_one_before_does_not_keep_the_new_one_alive() {
        let mut bench = Bench::new(2);
        bench.monitor.register(volume(1), Incarnation::new(2), bench.now).expect("a later one");
        bench.silent = vec![1];
        let mut said = Vec::new();
        for _ in 0..30 {
            said.extend(bench.run(INTERVAL));
            assert_eq!(bench.answer(1, 1), Err(Declined));
        }
        assert_eq!(said, [Action::Expel(volume(1), Incarnation::new(2), Cause::Silent)]);
    }

    #[test]
    fn a_sync_that_hangs_is_as_silence() {
        let mut bench = Bench::new(2);
        bench.run(Duration::from_secs(1));
        bench.syncing_since = Some(bench.now);
        assert_eq!(bench.run(Duration::from_millis(1_900)), []);
        let expelled = Action::Expel(volume(1), first(), Cause::SyncHangs);
        assert_eq!(bench.run(Duration::from_secs(1)), [expelled]);
        // Many short ones are none that hangs.
        let mut busy = Bench::new(2);
        for _ in 0..30 {
            busy.syncing_since = Some(busy.now);
            assert_eq!(busy.run(Duration::from_secs(1)), []);
        }
    }

    #[test]
    fn who_is_needed_is_waited_for_and_its_late_answer_counts() {
        let mut bench = Bench::new(2);
        (bench.silent, bench.needed) = (vec![1], vec![1]);
        let waits = Action::WaitFor(volume(1), first(), Cause::Silent);
        assert_eq!(bench.run(Duration::from_mins(1)), [waits], "said once");
        assert_eq!(bench.answer(1, 1), Ok("positions"));
        bench.silent = Vec::new();
        assert_eq!(bench.run(Duration::from_secs(5)), []);
        // Again, and now another one holds what it holds.
        bench.silent = vec![1];
        assert_eq!(bench.run(Duration::from_secs(5)), [waits]);
        bench.needed = Vec::new();
        let expelled = Action::Expel(volume(1), first(), Cause::Silent);
        assert_eq!(bench.run(Duration::from_secs(1)), [expelled]);
    }

    #[test]
    fn the_last_live_volume_is_waited_for() {
        let mut bench = Bench::new(2);
        bench.silent = vec![2];
        assert_eq!(bench.run(Duration::from_secs(5)).len(), 1);
        bench.silent = vec![1, 2];
        let waits = Action::WaitFor(volume(1), first(), Cause::Silent);
        assert_eq!(bench.run(Duration::from_mins(1)), [waits]);
        assert_eq!(bench.answer(1, 1), Ok("positions"));
    }

    #[test]
    fn with_nobody_in_time_nobody_is_expelled() {
        let mut bench = Bench::new(3);
        bench.silent = vec![1, 2, 3];
        let said = bench.run(Duration::from_mins(1));
        assert_eq!(said, [1, 2, 3].map(|it| Action::WaitFor(volume(it), first(), Cause::Silent)));
        // One is back: now there is somebody to move to.
        bench.silent = vec![1, 2];
        let said = bench.run(Duration::from_secs(1));
        assert_eq!(said, [1, 2].map(|it| Action::Expel(volume(it), first(), Cause::Silent)));
    }

    #[test]
    fn hard_evidence_needs_no_timeout_and_no_other_volume() {
        let mut bench = Bench::new(1);
        bench.needed = vec![1];
        let expelled = Action::Expel(volume(1), first(), Cause::Failed);
        assert_eq!(bench.monitor.failed(volume(1), first()), Some(expelled));
        assert_eq!(bench.monitor.failed(volume(1), first()), None);
        assert_eq!(bench.answer(1, 1), Err(Declined));
        assert_eq!(bench.run(Duration::from_secs(5)), []);
    }

    #[test]
    fn a_process_that_was_frozen_expels_nobody_when_it_thaws() {
        for (between, thawed_first) in [(0, true), (0, false), (1_900, true), (1_900, false)] {
            let mut bench = Bench::new(3);
            bench.run(Duration::from_secs(1));
            // One has been silent for a while, and in another one a sync runs.
            bench.silent = vec![2];
            bench.syncing_since = Some(bench.now);
            assert_eq!(bench.run(Duration::from_millis(between)), []);
            bench.now += 10 * TIMEOUT;
            if thawed_first {
                bench.answer(3, 1).expect("watched");
            }
            assert_eq!(bench.tick(), [], "{between} {thawed_first}");
            (bench.silent, bench.syncing_since) = (Vec::new(), None);
            for number in 1..=3 {
                bench.answer(number, 1).expect("watched");
            }
            assert_eq!(bench.run(Duration::from_mins(1)), []);
        }
    }

    #[test]
    fn a_freeze_moves_deadlines_by_its_length_and_no_further() {
        let mut bench = Bench::new(2);
        bench.run(Duration::from_secs(1));
        bench.silent = vec![1];
        bench.run(Duration::from_secs(1));
        bench.now += 10 * TIMEOUT;
        assert_eq!(bench.tick(), []);
        assert_eq!(bench.run(Duration::from_millis(500)), []);
        let expelled = Action::Expel(volume(1), first(), Cause::Silent);
        assert_eq!(bench.run(Duration::from_secs(1)), [expelled]);
        // A sync that began after the thaw, before the checker woke, is not given the freeze.
        let mut thawed = Bench::new(2);
        thawed.run(Duration::from_secs(1));
        thawed.now += 10 * TIMEOUT;
        thawed.syncing_since = Some(thawed.now);
        thawed.answer(1, 1).expect("watched");
        assert_eq!(thawed.tick(), []);
        let hangs = Action::Expel(volume(1), first(), Cause::SyncHangs);
        assert_eq!(thawed.run(Duration::from_millis(2_500)), [hangs]);
    }

    #[test]
    fn a_checker_that_is_always_late_still_finds_who_is_silent() {
        let mut bench = Bench::new(2);
        bench.silent = vec![1];
        let mut turns = 0;
        while bench.tick().is_empty() {
            bench.now = bench.monitor.wakes_at() + Duration::from_secs(1);
            turns += 1;
        }
        assert_eq!(turns, 11, "the timeout, counted in turns");
    }
}
