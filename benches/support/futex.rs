//! Two threads that wake each other by a futex: the least that a round trip takes.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Run, quantile};

/// Times each of a round's trips; what counts is their median.
pub fn timed(trips: u32, mut trip: impl FnMut()) -> Run {
    let begun = Instant::now();
    let mut each: Vec<u64> = (0..trips)
        .map(|_| {
            let begun = Instant::now();
            trip();
            u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
        .collect();
    let took = begun.elapsed();
    each.sort_unstable();
    let median = Duration::from_nanos(quantile(&each, 0.5));
    Run { each: Some(median), ..Run::new(u64::from(trips), took) }
}

/// So many round trips.
pub fn trips(trips: u32) -> Run {
    let (there, back) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 1..=trips {
                await_value(&there, trip);
                set_value(&back, trip);
            }
        });
        let mut trip = 0;
        timed(trips, || {
            trip += 1;
            set_value(&there, trip);
            await_value(&back, trip);
        })
    })
}

fn set_value(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    futex(word, libc::FUTEX_WAKE, 1);
}

fn await_value(word: &AtomicU32, value: u32) {
    loop {
        let seen = word.load(Ordering::Acquire);
        if seen == value {
            return;
        }
        futex(word, libc::FUTEX_WAIT, seen);
    }
}

/// Waits while the word has a value, or wakes so many who wait.
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let no_timeout = ptr::null::<libc::timespec>();
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: futex(2) needs an aligned word that stays where it is during the call, which the
    // reference guarantees, and a timeout that is null or valid.
    #[expect(unsafe_code, reason = "the limit is a bare futex")]
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout);
    }
}
