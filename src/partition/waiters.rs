//! Threads that wait until what they appended to several replicas is committed: each is woken once,
//! when that is so.
//!
//! Not here: what is committed (`progress`), what else may become of it (`appending`).
//!
//! With a condition variable for all, each move of the high watermark woke all of them, also those
//! that it did not reach; and one after the other, as each takes the lock that it waited with. Here
//! who moves it picks those that it reached, under that lock, and wakes them without it; they need
//! it no more. Nor does that one wake all of them, one after the other, while its next sync waits:
//! who is woken wakes half of those that whoever woke it was to wake. Of 64 threads that waited for
//! syncs each change made a fifth more records a second.
//!
//! Threads   [`Waiters`] is of the partition's state, and guarded with it. A [`Place`] belongs to
//!           the thread that waits. Who is taken off the list is woken, and does not go before.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};
use std::time::Instant;

use parking_lot::Mutex;

use crate::id::{LeaderEpoch, Offset};

/// What a place's word says.
const WAITS: u8 = 0;
const COMMITTED: u8 = 1;
const LOOKS_AGAIN: u8 = 2;

thread_local! {
    /// A thread waits for one thing at a time.
    static OWN: Arc<Place> = Place::new();
}

/// Where a thread waits.
#[derive(Debug)]
pub(super) struct Place {
    thread: Thread,
    /// Set to `WAITS` by its thread, before it is listed; away from that by whoever wakes it, with
    /// Release, after `wakes`. Loaded with Acquire by its thread.
    word: AtomicU8,
    /// Whom it wakes in its turn. Lock rank: leaf.
    wakes: Mutex<Woken>,
}

#[derive(Debug)]
struct Waiter {
    epoch: LeaderEpoch,
    end: Offset,
    place: Arc<Place>,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slept {
    /// What was waited for is committed.
    Committed,
    /// Something else has changed.
    LooksAgain,
    /// The deadline has passed: [`Waiters::leave`] is to follow.
    Over,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waiter>);

/// Those that are to be woken, with no lock held. They are off the list.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Woken {
    all: Arc<[(Arc<Place>, u8)]>,
    these: Range<usize>,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The calling thread waits for what it appended below `end` in this epoch, with
    /// [`Place::sleep`].
    pub(super) fn enter(&mut self, epoch: LeaderEpoch, end: Offset) -> Arc<Place> {
        // Gone at the end of a thread, which may still send something.
        let place = OWN.try_with(Arc::clone).unwrap_or_else(|_| Place::new());
        place.word.store(WAITS, Ordering::Relaxed);
        self.0.push(Waiter { epoch, end, place: Arc::clone(&place) });
        place
    }

    /// It waits no more. False if it was taken off the list before: then it is woken, maybe to wake
    /// others, and sleeps until then.
    pub(super) fn leave(&mut self, place: &Arc<Place>) -> bool {
        let at = self.0.iter().position(|waiter| Arc::ptr_eq(&waiter.place, place));
        at.map(|at| self.0.swap_remove(at)).is_some()
    }

    /// What is below `upto` is committed. Who appended in this epoch knows what that means; who did
    /// before has to look whose records those are.
    pub(super) fn committed(&mut self, epoch: LeaderEpoch, upto: Offset) -> Woken {
        self.take(upto, |waiter| if waiter.epoch == epoch { COMMITTED } else { LOOKS_AGAIN })
    }

    /// Everyone is to look for itself.
    pub(super) fn look_again(&mut self) -> Woken {
        self.take(Offset::MAX, |_| LOOKS_AGAIN)
    }

    fn take(&mut self, upto: Offset, word: impl Fn(&Waiter) -> u8) -> Woken {
        if !self.0.iter().any(|waiter| waiter.end <= upto) {
            return Woken::default();
        }
        let taken = self.0.extract_if(.., |waiter| waiter.end <= upto);
        let all: Vec<_> = taken.map(|waiter| (Arc::clone(&waiter.place), word(&waiter))).collect();
        Woken { these: 0..all.len(), all: all.into() }
    }
}

impl Woken {
    /// Wakes them: the first one, which is to wake half of the others; and so on with the rest.
    pub(super) fn wake(self) {
        let Self { all, mut these } = self;
        while let Some((place, word)) = all.get(these.clone()).and_then(<[_]>::first) {
            let middle = (these.start + 1).midpoint(these.end);
            let others = these.start + 1..middle;
            if !others.is_empty() {
                *place.wakes.lock() = Self { all: Arc::clone(&all), these: others };
            }
            place.word.store(*word, Ordering::Release);
            place.thread.unpark();
            these.start = middle;
        }
    }
}

impl Place {
    fn new() -> Arc<Self> {
        let (word, wakes) = (AtomicU8::new(WAITS), Mutex::default());
        Arc::new(Self { thread: thread::current(), word, wakes })
    }

    /// Sleeps until it is woken, or the deadline has passed (`None`: for ever).
    pub(super) fn sleep(&self, deadline: Option<Instant>) -> Slept {
        // A wake-up may come late, of an earlier wait, or be another one's: only the word counts.
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word != WAITS {
                std::mem::take(&mut *self.wakes.lock()).wake();
                return if word == COMMITTED { Slept::Committed } else { Slept::LooksAgain };
            }
            match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left.is_zero() => return Slept::Over,
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EPOCH: LeaderEpoch = LeaderEpoch::new(3);

    fn sleeps(place: &Place) -> bool {
        place.word.load(Ordering::Acquire) == WAITS
    }

    #[test]
    fn those_that_are_reached_are_woken_and_no_others() {
        let mut waiters = Waiters::default();
        let places = [Place::new(), Place::new(), Place::new()];
        let waits = [(EPOCH, 5), (EPOCH, 6), (LeaderEpoch::new(2), 5)];
        for (place, (epoch, end)) in places.iter().zip(waits) {
            waiters.0.push(Waiter { epoch, end: Offset::new(end), place: Arc::clone(place) });
        }
        let [reached, beyond, earlier] = &places;
        waiters.committed(EPOCH, Offset::new(4)).wake();
        assert!(places.iter().all(|place| sleeps(place)));
        waiters.committed(EPOCH, Offset::new(5)).wake();
        assert_eq!(reached.sleep(None), Slept::Committed);
        assert!(!sleeps(earlier));
        assert_eq!(earlier.sleep(None), Slept::LooksAgain, "the offsets may be another leader's");
        assert!(sleeps(beyond));
        waiters.look_again().wake();
        assert_eq!(beyond.sleep(None), Slept::LooksAgain);
        assert!(waiters.is_empty());
    }

    #[test]
    fn who_is_woken_wakes_others() {
        for count in 0..40 {
            let mut waiters = Waiters::default();
            let places: Vec<_> = (0..count).map(|_| Place::new()).collect();
            for place in &places {
                let (epoch, end, place) = (EPOCH, Offset::ZERO, Arc::clone(place));
                waiters.0.push(Waiter { epoch, end, place });
            }
            waiters.look_again().wake();
            let woken = places.iter().filter(|place| !sleeps(place)).count();
            assert!(woken < 7 && (woken > 0 || count == 0), "{woken} of {count}");
            for place in &places {
                place.sleep(None);
            }
        }
    }

    #[test]
    fn a_deadline_that_passed_ends_the_wait() {
        let mut waiters = Waiters::default();
        let place = waiters.enter(EPOCH, Offset::new(1));
        // Of somebody else: it only looks.
        place.thread.unpark();
        let soon = Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(place.sleep(soon), Slept::Over);
        assert!(waiters.leave(&place) && waiters.is_empty());
    }

    #[test]
    fn who_leaves_too_late_still_wakes_others() {
        let mut waiters = Waiters::default();
        let late = waiters.enter(EPOCH, Offset::new(1));
        let others: Vec<_> = (0..8).map(|_| Place::new()).collect();
        for place in &others {
            let (epoch, end, place) = (EPOCH, Offset::new(1), Arc::clone(place));
            waiters.0.push(Waiter { epoch, end, place });
        }
        assert_eq!(late.sleep(Some(Instant::now())), Slept::Over);
        let woken = waiters.committed(EPOCH, Offset::new(1));
        assert!(!waiters.leave(&late));
        woken.wake();
        assert_eq!(late.sleep(None), Slept::Committed);
        for place in &others {
            assert_eq!(place.sleep(None), Slept::Committed);
        }
    }

    #[test]
    fn nobody_sleeps_on() {
        const ROUNDS: u64 = 5_000;
        let state = Mutex::new((Waiters::default(), Offset::ZERO));
        thread::scope(|scope| {
            for number in 0..4 {
                let state = &state;
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        let end = Offset::new(round);
                        let mut locked = state.lock();
                        while locked.1 < end {
                            let place = locked.0.enter(EPOCH, end);
                            drop(locked);
                            // A lost wake-up would hang here for ever. Half of them are impatient.
                            let soon = Instant::now() + Duration::from_micros(round % 50);
                            let slept = place.sleep((number % 2 == 0).then_some(soon));
                            if slept == Slept::Over && !state.lock().0.leave(&place) {
                                place.sleep(None);
                            }
                            locked = state.lock();
                        }
                    }
                });
            }
            for round in 1..=ROUNDS {
                let mut locked = state.lock();
                locked.1 = Offset::new(round);
                let woken = locked.0.committed(EPOCH, Offset::new(round));
                drop(locked);
                woken.wake();
            }
        });
        assert!(state.lock().0.is_empty());
    }
}
