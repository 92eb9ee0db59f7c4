//! Scrubbing: what nobody reads is read, before the last good copy of it goes bad too.
//!
//! Not here: checking a piece of a log (`log::inspect`), mending (`partition::mending`).
//!
//! The broker's thread reads every file that is no longer appended to, from the medium and not from
//! the page cache, once in a while (`Broker::builder().scrub_interval(..)`), and spreads that
//! evenly over the time: a store of a terabyte costs 1.7 MB a second, a small one next to nothing.
//! Each pass begins at a replica by chance, so that processes that live for a short time only get
//! everywhere too, in the course of many.
//!
//! `Admin::scrub` does all of it at once, also for what is appended to.
//!
//! Threads   `plimsoll-scrub`, one per broker that may write. It holds no lock while it reads.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::broker::broker::Inner;
use crate::broker::volumes::Member;
use crate::error::{Error, Result};
use crate::fs::ForkMark;
use crate::id::{Offset, PartitionId, VolumeId};
use crate::partition::{Bad, Partition};
use crate::trace;

/// What is read at once.
const PIECE_BYTES: usize = 1 << 20;
/// How long nothing is read at most: the store may have grown.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// How long a close waits for a read that is under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What `Admin::scrub` found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Bytes of batches that were read.
    pub bytes: u64,
    /// What could not be read, or is not as it was written.
    pub damage: Vec<ScrubDamage>,
}

impl ScrubReport {
    /// True if nothing is damaged any more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.iter().all(|damage| damage.mended)
    }
}

/// Records of a replica that are damaged, or were.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubDamage {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The volume that the replica is on.
    pub volume: VolumeId,
    /// The first offset.
    pub first: Offset,
    /// The offset after the last.
    pub end: Offset,
    /// What was found.
    pub what: &'static str,
    /// Another replica had the same records, and they were written again from that.
    pub mended: bool,
}

impl Inner {
    /// Reads every batch of every replica, and mends what it can.
    pub(crate) fn scrub(&self) -> Result<ScrubReport> {
        self.must_be_writable()?;
        let mut report = ScrubReport::default();
        for topic in self.topic_states() {
            for partition in topic.partitions.iter() {
                for replica in partition.replicas() {
                    // Those that do not agree with their leader are left as they are.
                    partition.follow(replica.volume);
                }
                for volume in partition.replicas().map(|replica| replica.volume) {
                    let found = self.scrub_replica(partition, volume, &mut report);
                    match found {
                        // Deleted meanwhile.
                        Err(Error::Closed) if !self.is_closed() => {}
                        found => found?,
                    }
                }
            }
        }
        Ok(report)
    }

    fn scrub_replica(
        &self,
        partition: &Arc<Partition>,
        volume: VolumeId,
        report: &mut ScrubReport,
    ) -> Result<()> {
        let is_there = self.member(volume).is_some_and(|member| !member.is_gone());
        let Some(replica) = partition.on(volume).filter(|_| is_there) else { return Ok(()) };
        let mut at = replica.log.start_offset();
        let end = replica.log.end_offset();
        while at < end {
            replica.log.check_open()?;
            let looked = partition.scrub(replica, (at, end), PIECE_BYTES)?;
            self.scrubbed(partition, &looked);
            report.bytes += looked.bytes;
            for hole in &looked.holes {
                // One that does not agree with its leader yet is mended once it does.
                let mended = partition.mend_now(replica, (hole.first, hole.end).into())?;
                report.damage.push(ScrubDamage {
                    topic: Arc::clone(&replica.log.place.topic),
                    partition: replica.log.place.partition(),
                    volume,
                    first: hole.first,
                    end: hole.end,
                    what: hole.what,
                    mended,
                });
            }
            if looked.next <= at {
                break;
            }
            at = looked.next;
        }
        Ok(())
    }

    fn scrubbed(&self, partition: &Partition, looked: &crate::log::Inspected) {
        let counts = &self.controller().counts;
        counts.bytes_scrubbed.fetch_add(looked.bytes, Ordering::Relaxed);
        if partition.is_alone() {
            counts.damage_found.fetch_add(looked.holes.len() as u64, Ordering::Relaxed);
        }
        for hole in &looked.holes {
            trace::event!(
                ERROR,
                topic = %partition.log().place.topic,
                partition = partition.log().place.partition().get(),
                offset = hole.first.get(),
                end_offset = hole.end.get(),
                "a scrub found records that are damaged"
            );
            // Without that feature.
            let _ = hole;
        }
    }
}

impl From<(Offset, Offset)> for Bad {
    fn from((first, end): (Offset, Offset)) -> Self {
        Self { first, end }
    }
}

/// The thread that scrubs.
#[derive(Debug)]
pub(crate) struct Scrubber {
    interval: Option<Duration>,
    fork: Arc<ForkMark>,
    /// Lock rank: leaf.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// The thread has ended.
    ended: bool,
    thread: Option<JoinHandle<()>>,
}

/// What is still to be read in this pass.
#[derive(Debug, Default)]
struct Pass {
    replicas: Vec<(Weak<Partition>, VolumeId)>,
    /// Of the last of them.
    at: Option<Offset>,
    /// Of all of them when the pass began.
    bytes: u64,
}

impl Scrubber {
    /// `None`: never.
    pub(crate) fn new(interval: Option<Duration>, fork: Arc<ForkMark>) -> Self {
        Self { interval, fork, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) fn start(self: &Arc<Self>, broker: &Arc<Inner>) -> Result<()> {
        let Some(interval) = self.interval else { return Ok(()) };
        let (this, broker) = (Arc::clone(self), Arc::downgrade(broker));
        let thread = std::thread::Builder::new()
            .name("plimsoll-scrub".to_owned())
            .spawn(move || {
                this.run(interval, &broker);
                this.state.lock().ended = true;
                this.changed.notify_all();
            })
            .map_err(|e| Error::io("start a thread for", "volumes".as_ref(), e))?;
        self.state.lock().thread = Some(thread);
        Ok(())
    }

    fn run(&self, interval: Duration, broker: &Weak<Inner>) {
        let mut pass = Pass::default();
        let mut read = 0;
        loop {
            let pause = pause_after(read, pass.bytes, interval);
            let mut state = self.state.lock();
            if !state.stop {
                self.changed.wait_for(&mut state, pause);
            }
            if state.stop {
                return;
            }
            drop(state);
            let Some(broker) = broker.upgrade() else { return };
            if pass.replicas.is_empty() {
                pass = broker.begin_pass();
            }
            read = broker.scrub_next(&mut pass);
        }
    }

    /// Reads nothing any more. Waits for a read that is under way, but not for a disk that hangs.
    pub(crate) fn stop(&self) {
        if self.fork.is_forked() {
            return;
        }
        let mut state = self.state.lock();
        state.stop = true;
        self.changed.notify_all();
        let Some(thread) = state.thread.take() else { return };
        // It may be the one that drops the last handle of the broker.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        let is_over = |state: &mut State| !state.ended;
        let timed_out = self.changed.wait_while_for(&mut state, is_over, PATIENCE).timed_out();
        drop(state);
        if !timed_out {
            // Its panics show as what it did not read.
            let _ = thread.join();
        }
    }
}

/// How long nothing is read after so many bytes of `all`, for all to take `interval`.
fn pause_after(read: u64, all: u64, interval: Duration) -> Duration {
    if all == 0 {
        return interval.min(PAUSE_MAX);
    }
    let nanos = interval.as_nanos() * u128::from(read.clamp(1, all)) / u128::from(all);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(PAUSE_MAX)
}

impl Inner {
    /// Every replica that there is, from one on that chance has picked.
    fn begin_pass(&self) -> Pass {
        let mut pass = Pass::default();
        for topic in self.topic_states() {
            for partition in topic.partitions.iter() {
                for replica in partition.replicas() {
                    pass.bytes += replica.log.sealed_bytes();
                    pass.replicas.push((Arc::downgrade(partition), replica.volume));
                }
            }
        }
        let count = pass.replicas.len() as u64;
        if let Some(picked) = self.ids().lock().next().checked_rem(count) {
            pass.replicas.rotate_left(usize::try_from(picked).unwrap_or(0));
        }
        pass
    }

    /// Reads the next piece of files that are complete; how many bytes that was.
    fn scrub_next(&self, pass: &mut Pass) -> u64 {
        while let Some((partition, volume)) = pass.replicas.last() {
            let is_there = |member: &&Member| !member.is_gone();
            let member = self.member(*volume).filter(is_there);
            if let (Some(partition), Some(_)) = (partition.upgrade(), member)
                && let Some(replica) = partition.on(*volume)
                && let upto = replica.log.sealed_end()
                && let at = pass.at.unwrap_or(Offset::ZERO).max(replica.log.start_offset())
                && at < upto
            {
                // A disk that fails shows where it is written to.
                if let Ok(looked) = partition.scrub(replica, (at, upto), PIECE_BYTES)
                    && looked.next > at
                {
                    self.scrubbed(&partition, &looked);
                    pass.at = Some(looked.next);
                    if looked.bytes > 0 {
                        return looked.bytes;
                    }
                    continue;
                }
            }
            pass.replicas.pop();
            pass.at = None;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_spread_evenly_over_its_interval() {
        let week = Duration::from_hours(7 * 24);
        let terabyte = 1 << 40;
        let pause = pause_after(PIECE_BYTES as u64, terabyte, week);
        assert!((Duration::from_millis(576)..Duration::from_millis(578)).contains(&pause));
        // A small store is looked at all the same, and one that grows soon after.
        assert_eq!(pause_after(1_000, 1_000, week), PAUSE_MAX);
        assert_eq!(pause_after(0, 0, week), PAUSE_MAX);
        assert_eq!(pause_after(5_000, 1_000, Duration::from_secs(9)), Duration::from_secs(9));
    }
}
