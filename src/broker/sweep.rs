//! When the logs of a volume are looked at for what has become too old.
//!
//! Not here: what that is (`log::retain`), and the thread (`background`).
//!
//! One time for all logs of a volume: an idle one costs a load whenever that comes, which is at
//! most ten times a second, and every half a minute while nothing is due. Without anything that
//! ages there is none.

use std::time::{Duration, Instant};

use crate::config::{SWEEP_AT_LEAST, SWEEP_AT_MOST};
use crate::log::Log;

#[derive(Debug, Default)]
pub(crate) struct Sweep {
    at: Option<Instant>,
}

impl Sweep {
    /// When the next one is.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// The time has come: the next one is when some log says so.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.at = None;
        }
        due
    }

    /// Comes in time for what this log has.
    pub(crate) fn include(&mut self, log: &Log, now: Instant) {
        let Some(due) = log.retention_due() else { return };
        // The broker's clock may be set, and may be another one than the one that this waits by.
        let wait = due.saturating_sub(log.clock.now_ms());
        let wait = Duration::from_millis(u64::try_from(wait).unwrap_or(0));
        let at = now + wait.clamp(SWEEP_AT_MOST, SWEEP_AT_LEAST);
        self.at = Some(self.at.map_or(at, |other| other.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_anything_that_ages_there_is_none() {
        let mut sweep = Sweep::default();
        let now = Instant::now();
        assert!(!sweep.begin(now) && sweep.at().is_none());
        sweep.at = Some(now);
        assert!(sweep.begin(now) && !sweep.begin(now));
    }
}
