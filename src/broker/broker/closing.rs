//! Closing a store: once, and everyone who closes it learns how that ended.
//!
//! Not here: what a log does for it (`log::seal`).
//!
//! The order: what is queued is sent; the volume's threads end; every log is closed; the volume's
//! file says that all of them were; the lock is let go of.
//!
//! Threads   any; the first one closes, the others wait for it. Not those that it waits for itself.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread::{self, ThreadId};
use std::time::Instant;

use super::Inner;
use crate::broker::background::Worker;
use crate::broker::crew::CrewThreads;
use crate::broker::volume::Volume;
use crate::broker::volumes::Member;
use crate::error::{Error, Result};
use crate::log::Mode;
use crate::partition::Replica;
use crate::trace;

impl Inner {
    /// Closes the store once; who comes later waits for the end of that.
    pub(super) fn close(&self) -> Result<()> {
        // The parent closes its store. What this drops are copies: files and maps are let go of,
        // and nothing is written, waited for or unlocked.
        self.check_fork()?;
        let here = thread::current().id();
        let mut closing = self.closing.lock();
        if let Some(by) = closing.by {
            // Wakers run on the thread that sends, which the close joins, and on the one that
            // closes.
            let waited_for = self.sender.is_here() || by == here;
            while closing.result.is_none() && !waited_for {
                self.close_ended.wait(&mut closing);
            }
            return closing.result.clone().unwrap_or(Ok(()));
        }
        closing.by = Some(here);
        self.closed.store(true, Ordering::Release);
        drop(closing);
        let lost = std::io::Error::other("the thread that closed panicked");
        let mut end =
            CloseEnd { inner: self, result: Err(Error::io("close", &self.volume().dir, lost)) };
        end.result = self.close_all();
        end.result.clone()
    }

    /// Closes every log, then says in the volume file that all of them were. The first error is
    /// returned; a log that could not be closed has no clean mark and is scanned by the next open.
    fn close_all(&self) -> Result<()> {
        self.endings.moved();
        trace::span!("close", dir = %self.volume().dir.display());
        // What is queued is sent while the logs still take appends.
        self.sender.close();
        // Who waits for replicas is given the time that a silent volume has.
        let until = Instant::now() + self.heartbeats.1;
        for state in self.topic_states() {
            state.partitions.iter().for_each(|partition| partition.let_waiters_go(until));
        }
        self.controller.stop();
        self.scrubber.stop();
        for member in self.members.iter() {
            let (worker, crew) = (member.worker.lock().take(), member.crew.lock().take());
            if let Some(queue) = &member.queue {
                queue.end();
            }
            // For one that may hang nobody waits.
            if member.is_gone() {
                worker.into_iter().for_each(Worker::leave);
                crew.into_iter().for_each(CrewThreads::leave);
            }
        }
        let mut first = Ok(());
        // Of these some log has no mark: the next open looks at each.
        let mut unmarked = BTreeSet::new();
        let metadata = self.metadata.lock();
        for state in self.topic_states() {
            for replica in state.partitions.iter().flat_map(|partition| partition.replicas()) {
                let Replica { volume, log, .. } = replica;
                let gone = self.member(*volume).is_some_and(Member::is_gone);
                if gone {
                    log.give_up();
                } else {
                    first = first.and(log.close());
                }
                if gone || !log.is_marked() {
                    unmarked.insert(*volume);
                }
            }
        }
        for state in self.topic_states() {
            state.partitions.iter().for_each(|partition| partition.end());
        }
        first = first.and(metadata.close());
        for member in self.members.iter() {
            let Member { id, volume, .. } = member;
            let has_marks = metadata.is_marked_on(volume.unique_id()) && !unmarked.contains(id);
            first = first.and(match self.mode {
                Mode::ReadOnly => Ok(()),
                Mode::ReadWrite if member.is_gone() => Ok(()),
                Mode::ReadWrite if has_marks => volume.close(),
                Mode::ReadWrite => volume.must_be_ours(),
            });
        }
        self.volumes().for_each(Volume::release);
        trace::event!(INFO, clean = first.is_ok(), "the store was closed");
        first
    }
}

/// Who closes the store, and how that ended.
#[derive(Debug, Default)]
pub(super) struct Closing {
    by: Option<ThreadId>,
    result: Option<Result<()>>,
}

/// Dropping it tells everyone who waits how the close ended, also after a panic.
struct CloseEnd<'a> {
    inner: &'a Inner,
    result: Result<()>,
}

impl Drop for CloseEnd<'_> {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.inner.closing.lock().result = Some(result);
        self.inner.close_ended.notify_all();
    }
}
