//! What the leader of a partition promises about the high watermark and the ISR.
//!
//! Not here: these rules together with elections and losses (`broker::rules_tests`).

use std::time::Duration;

use super::divergence::History;
use super::progress::{
    Copying, Counts, Decision, Evidence, Fetch, Holding, IsrChange, NotEnoughReplicas, Position,
    Progress, Rules, Settled, Stale, Term, high_watermark_at_open,
};
use crate::config::Acks;
use crate::format::EpochEntry;
use crate::id::{Incarnation, LeaderEpoch, Offset, VolumeId};

const EPOCH: LeaderEpoch = LeaderEpoch::new(5);
const LAG_MAX: Duration = Duration::from_secs(10);

fn volume(number: u32) -> VolumeId {
    VolumeId::new(number)
}

fn volumes(numbers: &[u32]) -> Vec<VolumeId> {
    numbers.iter().copied().map(volume).collect()
}

fn offset(value: u64) -> Offset {
    Offset::new(value)
}

fn at(end: u64, durable: u64) -> Position {
    Position { end: offset(end), durable: offset(durable) }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn term(isr: &[u32]) -> Term {
    Term { epoch: EPOCH, leader: volume(1), isr: volumes(isr) }
}

/// A whole replica with all that it has synced.
fn fetch(number: u32, end: u64) -> Fetch {
    Fetch {
        volume: volume(number),
        incarnation: Incarnation::new(1),
        epoch: EPOCH,
        position: at(end, end),
        holding: Holding::Whole,
    }
}

/// Volume 1 leads three replicas from offset 100 on, of which everything is committed.
struct Bench {
    progress: Progress,
    now: Duration,
}

impl Bench {
    fn new(isr: &[u32], min_insync: usize) -> Self {
        Self::counting(Counts::Durable, isr, min_insync)
    }

    fn counting(counts: Counts, isr: &[u32], min_insync: usize) -> Self {
        let rules = Rules { counts, min_insync, replica_lag_max: LAG_MAX };
        let replicas = [1, 2, 3].map(|number| (volume(number), Incarnation::new(1)));
        let (start, committed) = (at(100, 100), (offset(100), offset(100)));
        let now = seconds(1000);
        let progress = Progress::new(rules, &replicas, &term(isr), start, committed, now);
        Self { progress, now }
    }

    fn leader_at(&mut self, end: u64) {
        self.progress.leader_at(at(end, end));
    }

    fn fetched(&mut self, number: u32, end: u64) {
        self.progress.fetched(&fetch(number, end), self.now).expect("of this epoch");
    }

    fn after(&mut self, count: u64) -> Option<Vec<u32>> {
        self.now += seconds(count);
        let change = self.progress.tick(self.now)?;
        assert_eq!(change.epoch, EPOCH);
        Some(change.isr.iter().map(|volume| volume.get()).collect())
    }

    fn decided(&mut self, decision: Decision) {
        self.progress.decided(decision);
    }

    fn committed(&self) -> u64 {
        self.progress.high_watermark().get()
    }

    fn isr(&self) -> Vec<u32> {
        self.progress.isr().map(VolumeId::get).collect()
    }
}

#[test]
fn the_high_watermark_is_the_least_of_the_isr() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.leader_at(120);
    assert_eq!(bench.committed(), 100, "2 has said nothing in this epoch");
    bench.fetched(2, 110);
    assert_eq!(bench.committed(), 110);
    bench.fetched(2, 130);
    assert_eq!(bench.committed(), 120, "not beyond the leader");
    // What is late, and was overtaken, takes nothing back.
    bench.fetched(2, 105);
    assert_eq!(bench.committed(), 120);
}

#[test]
fn it_counts_what_the_durability_demands() {
    let mut unsynced = fetch(2, 120);
    unsynced.position = at(120, 105);
    for (counts, expected) in [(Counts::Durable, 105), (Counts::End, 120)] {
        let mut bench = Bench::counting(counts, &[1, 2], 1);
        bench.leader_at(120);
        bench.progress.fetched(&unsynced, bench.now).expect("of this epoch");
        assert_eq!((bench.committed(), bench.progress.synced().get()), (expected, 105));
    }
}

#[test]
fn what_another_epoch_or_incarnation_says_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.leader_at(120);
    let stale = [
        Fetch { epoch: LeaderEpoch::new(4), ..fetch(2, 120) },
        Fetch { epoch: LeaderEpoch::new(6), ..fetch(2, 120) },
        Fetch { incarnation: Incarnation::new(0), ..fetch(2, 120) },
        Fetch { incarnation: Incarnation::new(2), ..fetch(2, 120) },
        Fetch { volume: volume(9), ..fetch(2, 120) },
    ];
    for fetch in stale {
        assert_eq!(bench.progress.fetched(&fetch, bench.now), Err(Stale), "{fetch:?}");
        assert_eq!(bench.committed(), 100);
    }
    bench.progress.fenced(volume(2));
    assert_eq!(bench.progress.fetched(&fetch(2, 120), bench.now), Err(Stale));
    // It lags as if it had said nothing.
    assert_eq!(bench.after(11), Some(vec![1]));
}

#[test]
fn below_min_insync_nothing_is_committed_and_nothing_accepted() {
    let mut bench = Bench::new(&[1], 2);
    bench.leader_at(150);
    assert_eq!((bench.committed(), bench.progress.synced()), (100, offset(100)));
    assert_eq!(bench.progress.can_append(Acks::All), Err(NotEnoughReplicas));
    assert_eq!(bench.progress.can_append(Acks::Leader), Ok(()));
    bench.fetched(2, 150);
    assert_eq!(bench.after(0), Some(vec![1, 2]));
    assert_eq!(bench.committed(), 100, "a proposed member is none yet");
    bench.decided(Decision::Durable);
    assert_eq!((bench.committed(), bench.isr()), (150, vec![1, 2]));
    assert_eq!(bench.progress.can_append(Acks::All), Ok(()));
}

#[test]
fn more_than_all_replicas_are_all_of_them() {
    let mut bench = Bench::new(&[1, 2, 3], 9);
    bench.leader_at(120);
    bench.fetched(2, 120);
    bench.fetched(3, 120);
    assert_eq!(bench.committed(), 120);
}

#[test]
fn a_follower_that_is_not_caught_up_leaves_once_that_is_durable() {
    let mut bench = Bench::new(&[1, 2, 3], 1);
    bench.leader_at(120);
    bench.fetched(2, 100);
    bench.fetched(3, 120);
    assert_eq!(bench.after(10), None);
    bench.fetched(3, 120);
    assert_eq!(bench.after(1), Some(vec![1, 3]));
    assert_eq!(bench.committed(), 100, "while the shrink is on its way the old ISR counts");
    assert_eq!(bench.after(30), None, "one at a time");
    bench.decided(Decision::Durable);
    assert_eq!((bench.committed(), bench.isr()), (120, vec![1, 3]));
}

#[test]
fn a_change_that_was_not_made_is_taken_back_and_tried_again() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.leader_at(120);
    assert_eq!(bench.after(11), Some(vec![1]));
    bench.decided(Decision::NotMade);
    assert_eq!((bench.committed(), bench.isr()), (100, vec![1, 2]));
    assert_eq!(bench.after(1), Some(vec![1]));
    bench.decided(Decision::Durable);
    assert_eq!((bench.committed(), bench.isr()), (120, vec![1]));
}

#[test]
fn a_follower_that_reaches_where_the_leader_was_stays() {
    let mut bench = Bench::new(&[1, 2], 1);
    // Always five seconds behind, under a load that never ends.
    for round in 1..20 {
        bench.leader_at(100 + 10 * round);
        bench.fetched(2, 100 + 10 * (round - 1));
        assert_eq!(bench.after(5), None, "round {round}");
    }
    // From here on it gets nowhere.
    for _ in 0..3 {
        bench.leader_at(500);
        bench.fetched(2, 280);
        bench.now += seconds(5);
    }
    assert_eq!(bench.after(0), Some(vec![1]));
}

#[test]
fn an_idle_follower_never_lags_and_neither_does_a_leader_alone() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.fetched(2, 100);
    assert_eq!(bench.after(10_000), None);
    let mut alone = Bench::new(&[1], 1);
    alone.leader_at(200);
    assert_eq!(alone.after(10_000), None);
    assert_eq!(alone.committed(), 200);
}

#[test]
fn a_follower_joins_when_it_holds_all_that_is_committed() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.leader_at(120);
    bench.fetched(2, 120);
    assert_eq!(bench.after(0), None, "3 has said nothing in this epoch");
    bench.fetched(3, 119);
    assert_eq!(bench.after(0), None, "119 of 120");
    bench.fetched(3, 120);
    assert_eq!(bench.after(0), Some(vec![1, 2, 3]));
    bench.leader_at(130);
    bench.fetched(2, 130);
    assert_eq!(bench.committed(), 120, "while the join is on its way it is waited for");
    bench.decided(Decision::Durable);
    bench.fetched(3, 125);
    assert_eq!((bench.committed(), bench.isr()), (125, vec![1, 2, 3]));
}

#[test]
fn the_high_watermark_waits_for_a_follower_that_keeps_up() {
    let mut bench = Bench::new(&[1], 1);
    bench.fetched(3, 50);
    bench.leader_at(120);
    assert_eq!(bench.committed(), 120);
    // It reached where the leader was, and is not outrun from here on.
    bench.fetched(3, 100);
    bench.leader_at(140);
    assert_eq!(bench.committed(), 120);
    bench.fetched(3, 130);
    assert_eq!(bench.committed(), 130);
    assert_eq!(bench.after(0), Some(vec![1, 3]));
}

#[test]
fn who_was_waited_for_and_stops_is_not_waited_for_any_more() {
    let mut bench = Bench::new(&[1], 1);
    bench.fetched(3, 100);
    bench
        .progress
        .fetched(&Fetch { holding: Holding::CatchingUp, ..fetch(3, 100) }, bench.now)
        .expect("of this epoch");
    bench.leader_at(140);
    assert_eq!(bench.committed(), 100);
    assert_eq!(bench.after(11), None);
    assert_eq!(bench.committed(), 140);
    // One that is gone is not waited for at all.
    bench.fetched(3, 140);
    bench.leader_at(150);
    bench.progress.fenced(volume(3));
    assert_eq!(bench.committed(), 150);
}

#[test]
fn a_follower_joins_only_above_the_start_of_the_epoch() {
    // The high watermark after an open is lower than what was acknowledged before.
    let rules = Rules { counts: Counts::End, min_insync: 1, replica_lag_max: LAG_MAX };
    let replicas = [1, 2].map(|number| (volume(number), Incarnation::new(1)));
    let (now, from) = (seconds(0), (offset(40), offset(0)));
    let isr = Term { isr: volumes(&[1, 3]), ..term(&[]) };
    let mut third = replicas.to_vec();
    third.push((volume(3), Incarnation::new(1)));
    let mut progress = Progress::new(rules, &third, &isr, at(100, 40), from, now);
    progress.fetched(&fetch(2, 99), now).expect("of this epoch");
    progress.fetched(&fetch(3, 50), now).expect("of this epoch");
    assert_eq!((progress.high_watermark(), progress.tick(now)), (offset(50), None));
    progress.fetched(&fetch(2, 100), now).expect("of this epoch");
    let isr = volumes(&[1, 2, 3]);
    assert_eq!(progress.tick(now), Some(IsrChange { epoch: EPOCH, isr }));
}

#[test]
fn a_follower_that_is_catching_up_does_not_join() {
    let mut bench = Bench::new(&[1], 1);
    let catching_up = Fetch { holding: Holding::CatchingUp, ..fetch(2, 100) };
    assert_eq!(bench.progress.copying(volume(2)), Copying::CatchesUp);
    bench.progress.fetched(&catching_up, bench.now).expect("of this epoch");
    assert_eq!(bench.after(0), None);
    assert_eq!(bench.progress.copying(volume(2)), Copying::Counts, "it may clear its flag");
    bench.fetched(2, 100);
    assert_eq!(bench.after(0), Some(vec![1, 2]));
}

#[test]
fn a_follower_has_to_have_synced_what_batches_say_that_all_have() {
    let mut bench = Bench::counting(Counts::End, &[1], 1);
    bench.leader_at(120);
    assert_eq!(bench.progress.synced(), offset(120));
    let unsynced = Fetch { position: at(120, 110), ..fetch(2, 120) };
    bench.progress.fetched(&unsynced, bench.now).expect("of this epoch");
    assert_eq!(bench.after(0), None);
    assert_eq!(bench.progress.copying(volume(2)), Copying::CatchesUp);
    bench.fetched(2, 120);
    assert_eq!(bench.after(0), Some(vec![1, 2]));
}

#[test]
fn a_volume_that_is_back_leaves_the_isr_before_it_copies() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.leader_at(120);
    bench.fetched(2, 120);
    assert_eq!(bench.progress.registered(volume(2), Incarnation::new(1)), Err(Stale));
    bench.progress.registered(volume(2), Incarnation::new(2)).expect("a later one");
    assert_eq!(bench.progress.copying(volume(2)), Copying::LeavesFirst);
    assert_eq!(bench.progress.fetched(&fetch(2, 120), bench.now), Err(Stale), "the old one");
    let anew = Fetch { incarnation: Incarnation::new(2), ..fetch(2, 120) };
    bench.progress.fetched(&anew, bench.now).expect("of this epoch");
    assert_eq!(bench.after(0), Some(vec![1]));
    bench.decided(Decision::Durable);
    assert_eq!(bench.progress.copying(volume(2)), Copying::CatchesUp);
    bench.progress.fetched(&anew, bench.now).expect("of this epoch");
    assert_eq!(bench.after(0), Some(vec![1, 2]));
}

#[test]
fn who_joins_as_what_it_no_longer_is_leaves_again() {
    // KIP-903: the report of before a restart must not bring in the log of after it.
    let mut bench = Bench::new(&[1], 1);
    bench.fetched(2, 100);
    assert_eq!(bench.after(0), Some(vec![1, 2]));
    bench.progress.fenced(volume(2));
    bench.progress.registered(volume(2), Incarnation::new(2)).expect("a later one");
    bench.leader_at(120);
    assert_eq!(bench.committed(), 100, "it could be in the ISR already");
    bench.decided(Decision::Durable);
    assert_eq!((bench.committed(), bench.isr()), (100, vec![1, 2]));
    assert_eq!(bench.after(0), Some(vec![1]));
    bench.decided(Decision::Durable);
    assert_eq!(bench.committed(), 120);
}

#[test]
fn a_new_epoch_forgets_what_followers_said() {
    let mut bench = Bench::new(&[1, 2], 1);
    bench.leader_at(120);
    bench.fetched(2, 120);
    bench.fetched(3, 120);
    let next = Term { epoch: LeaderEpoch::new(6), leader: volume(2), isr: volumes(&[1, 2]) };
    let mut progress = bench.progress.next_term(&next, at(120, 120), bench.now);
    progress.leader_at(at(140, 140));
    assert_eq!((progress.high_watermark(), progress.epoch()), (offset(120), next.epoch));
    assert_eq!(progress.tick(bench.now), None, "3 has not fetched in this epoch");
    let late = Fetch { position: at(140, 140), ..fetch(1, 140) };
    assert_eq!(progress.fetched(&late, bench.now), Err(Stale));
    progress.fetched(&Fetch { epoch: next.epoch, ..late }, bench.now).expect("of this epoch");
    assert_eq!(progress.high_watermark(), offset(140));
}

#[test]
fn a_waiter_learns_what_became_of_its_record() {
    let mut bench = Bench::new(&[1, 2], 2);
    let (old, older) = (LeaderEpoch::new(4), LeaderEpoch::new(3));
    let epochs = [(older, 10), (old, 90), (EPOCH, 100)];
    let epochs = epochs.map(|(epoch, start)| EpochEntry { epoch, start: offset(start) });
    let log = History { epochs: &epochs, start: offset(10), end: offset(120) };
    let settle = |progress: &Progress, epoch, end| progress.settle(epoch, offset(end), log);

    bench.leader_at(120);
    assert_eq!(settle(&bench.progress, EPOCH, 120), Settled::Waiting);
    bench.fetched(2, 110);
    assert_eq!(settle(&bench.progress, EPOCH, 110), Settled::Committed);
    assert_eq!(settle(&bench.progress, EPOCH, 111), Settled::Waiting);
    // Of the epoch before, and still there, or not.
    assert_eq!(settle(&bench.progress, old, 100), Settled::Committed);
    assert_eq!(settle(&bench.progress, old, 101), Settled::CutOff);
    assert_eq!(settle(&bench.progress, older, 95), Settled::CutOff);
    assert_eq!(settle(&bench.progress, old, 130), Settled::CutOff);
    assert_eq!(settle(&bench.progress, older, 10), Settled::Unknown);

    assert_eq!(bench.after(11), Some(vec![1]));
    bench.decided(Decision::Durable);
    assert_eq!(settle(&bench.progress, EPOCH, 120), Settled::NotEnoughAfterAppend);
    assert_eq!(settle(&bench.progress, EPOCH, 110), Settled::Committed);
}

#[test]
fn at_an_open_the_least_evidence_of_the_isr_is_committed() {
    let member =
        |durable, agrees_to| Evidence { durable: offset(durable), agrees_to: offset(agrees_to) };
    let start = |members: &[Evidence], min_insync, synced| {
        high_watermark_at_open(members.iter().copied(), min_insync, offset(synced)).get()
    };
    assert_eq!(start(&[member(50, 60), member(40, 55)], 1, 30), 40);
    assert_eq!(start(&[member(50, 60)], 2, 30), 30, "too few: what all had synced");
    // Evidence of records that the leader has not is no evidence.
    assert_eq!(start(&[member(50, 60), member(50, 45)], 2, 30), 45);
}
