//! What ends a command early: SIGINT, SIGTERM, or nobody reading its output any more.
//!
//! Not here: what ending means. The reading loop asks [`Interrupt::is_set`] and ends by itself.
//!
//! Threads   one thread, made by [`Interrupt::watch`], sleeps in poll(2) on a pipe that the signal
//!           handlers write to and on standard output, which reports its reader's end. It sets
//!           `set`, then wakes the consumer, if one waits. A consumer is registered before the
//!           last look at `set`, both under the lock of `waiting`, so one of the two sees the
//!           other.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use plimsoll::ConsumerHandle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::output::{Fail, Result, tell};

/// How long a write of what was printed may take after a signal. Only with a reader that neither
/// reads nor goes away it takes longer.
const WRITE_MAX: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Tells whether to end.
#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Written by the watching thread, read by the reading loop. Relaxed: it orders nothing.
    set: AtomicBool,
    waiting: Mutex<Option<ConsumerHandle>>,
    /// With the lock of `waiting`.
    woken: Condvar,
    /// Writes to standard output that began or ended: odd while one is going on. Written by the
    /// reading loop, read by the watching thread. Relaxed: it orders nothing.
    writes: AtomicU64,
}

impl Interrupt {
    /// Takes over both signals for the rest of the process's life. To be called before the store is
    /// opened: a signal that comes meanwhile ends the command like any other.
    pub(crate) fn watch() -> Result<Self> {
        let failed = |error| Fail::io("watch for signals", error);
        let (signals, handler) = UnixStream::pair().map_err(failed)?;
        for signal in [SIGINT, SIGTERM] {
            let handler = handler.try_clone().map_err(failed)?;
            pipe::register(signal, handler).map_err(failed)?;
        }
        let interrupt = Self::default();
        let watched = interrupt.clone();
        thread::Builder::new()
            .name("plimsoll-signals".into())
            .spawn(move || watched.sleep(&signals))
            .map_err(failed)?;
        Ok(interrupt)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::Relaxed)
    }

    /// Wakes this consumer from now on. To be asked `is_set` before it sleeps.
    pub(crate) fn wake(&self, consumer: ConsumerHandle) {
        *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(consumer);
    }

    /// Sleeps this long, or until it is set; whether it is.
    pub(crate) fn sleep_for(&self, time: Duration) -> bool {
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = self.shared.woken.wait_timeout_while(waiting, time, |_| !self.is_set());
        drop(slept);
        self.is_set()
    }

    /// A write to standard output begins.
    pub(crate) fn write_begins(&self) {
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// It ended, well or not.
    pub(crate) fn write_ends(&self) {
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
    }

    fn sleep(&self, signals: &UnixStream) {
        let stdout = io::stdout();
        let stdout = stdout.as_fd();
        // Nothing is asked of standard output; that its reader has gone is told unasked.
        let mut fds =
            [PollFd::new(signals, PollFlags::IN), PollFd::new(&stdout, PollFlags::empty())];
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(_) => return,
                Ok(_) => break,
            }
        }
        let signalled = !fds[0].revents().is_empty();
        self.shared.set.store(true, Ordering::Relaxed);
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.woken.notify_all();
        if let Some(consumer) = waiting {
            consumer.wakeup();
        }
        if !signalled {
            return;
        }
        loop {
            match self.look_at_write(&mut fds[1..], &WRITE_MAX) {
                Looked::Stuck => {
                    tell("could not write standard output: its reader does not read");
                    process::exit(1);
                }
                Looked::Moving => {}
                // Writes fail by themselves from now on.
                Looked::ReaderGone => return,
            }
        }
    }

    /// Waits this long, and tells whether one and the same write took all of it. Whatever else
    /// takes its time, an open, a read or a close, is no matter of the reader's.
    fn look_at_write(&self, stdout: &mut [PollFd<'_>], max: &Timespec) -> Looked {
        let before = self.shared.writes.load(Ordering::Relaxed);
        match poll(stdout, Some(max)) {
            Ok(0) => {
                let stuck = before % 2 == 1 && self.shared.writes.load(Ordering::Relaxed) == before;
                if stuck { Looked::Stuck } else { Looked::Moving }
            }
            Err(Errno::INTR) => Looked::Moving,
            Ok(_) | Err(_) => Looked::ReaderGone,
        }
    }
}

/// What became of standard output in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Stuck,
    Moving,
    ReaderGone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_does_not_end_is_stuck() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let soon = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let interrupt = Interrupt::default();
        let look = || {
            let mut fds = [PollFd::new(&ours, PollFlags::empty())];
            interrupt.look_at_write(&mut fds, &soon)
        };
        assert_eq!(look(), Looked::Moving, "nothing is being written");
        interrupt.write_begins();
        assert_eq!(look(), Looked::Stuck);
        interrupt.write_ends();
        assert_eq!(look(), Looked::Moving, "it was written, and what follows takes its time");
        drop(theirs);
        assert_eq!(look(), Looked::ReaderGone);
    }
}
