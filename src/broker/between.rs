//! A simulated disk on which another one's step falls between two calls of ours, and that counts
//! what we read.
//!
//! Not here: the step. Tests of what looks beside a live broker try one at each call, without a
//! thread.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::fs::sim::SimDisk;
use crate::fs::{Disk, DiskFile, DiskLock, FileLayer, Layer, Stat};

/// The simulated disk, as one process sees it. What the others do goes to the disk itself.
#[derive(Clone, Debug)]
pub(super) struct Between {
    disk: SimDisk,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    calls: AtomicU64,
    bytes_read: AtomicU64,
    unlocked: AtomicU64,
    plan: Mutex<Option<Plan>>,
}

struct Plan {
    /// Before which call.
    due: u64,
    /// Once more after so many.
    every: Option<u64>,
    step: Box<dyn FnMut() + Send>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Between {
    pub(super) fn new(disk: &SimDisk) -> Self {
        Self { disk: disk.clone(), shared: Arc::default() }
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.shared.bytes_read.load(Ordering::Relaxed)
    }

    /// How many locks were released, and not only dropped.
    pub(super) fn unlocked(&self) -> u64 {
        self.shared.unlocked.load(Ordering::Relaxed)
    }

    /// Has `step` done after this many calls more.
    pub(super) fn after(&self, calls: u64, step: impl FnMut() + Send + 'static) {
        self.plan(calls, None, Box::new(step));
    }

    /// Has `step` done after this many calls more, and then again and again.
    pub(super) fn every(&self, calls: u64, step: impl FnMut() + Send + 'static) {
        self.plan(calls, Some(calls), Box::new(step));
    }

    fn plan(&self, calls: u64, every: Option<u64>, step: Box<dyn FnMut() + Send>) {
        *self.shared.plan.lock() = Some(Plan { due: self.calls() + calls, every, step });
    }

    /// Has nothing more done.
    pub(super) fn alone(&self) {
        *self.shared.plan.lock() = None;
    }
}

impl Shared {
    fn count(&self) {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let due = self.plan.lock().take_if(|plan| plan.due <= calls);
        if let Some(mut plan) = due {
            (plan.step)();
            if let Some(every) = plan.every {
                plan.due = calls + every;
                *self.plan.lock() = Some(plan);
            }
        }
    }
}

impl Layer for Between {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn before(&self) {
        self.shared.count();
    }

    fn opened(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(BetweenFile { file, shared: Arc::clone(&self.shared) })
    }

    fn locked(&self, lock: Box<dyn DiskLock>) -> Box<dyn DiskLock> {
        Box::new(BetweenLock { lock, shared: Arc::clone(&self.shared) })
    }
}

#[derive(Debug)]
struct BetweenLock {
    lock: Box<dyn DiskLock>,
    shared: Arc<Shared>,
}

impl DiskLock for BetweenLock {
    fn stat(&self) -> io::Result<Stat> {
        self.shared.count();
        self.lock.stat()
    }

    fn unlock(&self) -> io::Result<()> {
        self.shared.unlocked.fetch_add(1, Ordering::Relaxed);
        self.lock.unlock()
    }
}

#[derive(Debug)]
struct BetweenFile {
    file: Arc<dyn DiskFile>,
    shared: Arc<Shared>,
}

impl FileLayer for BetweenFile {
    fn below(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    fn before(&self) {
        self.shared.count();
    }

    fn read(&self, bytes: usize) {
        self.shared.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
