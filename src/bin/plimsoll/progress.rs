//! How far a command is, on a terminal only, on standard error.
//!
//! Not here: what is done. Without a terminal nothing is drawn and nothing is asked of one.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar that nobody moves is drawn.
const TICK: Duration = Duration::from_millis(100);

/// A line that says how far it is. Taken off the terminal when dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of so many bytes; of an unknown number if there are none.
    pub(crate) fn bytes(doing: &'static str, total: Option<u64>) -> Self {
        let known = "{msg} {bytes}/{total_bytes} {bytes_per_sec}, {eta} to go";
        Self::new(doing, total, known, "{msg} {bytes} {bytes_per_sec}")
    }

    /// Of so many records; of an unknown number if there are none.
    pub(crate) fn records(doing: &'static str, total: Option<u64>) -> Self {
        let known = "{msg} {human_pos}/{human_len} records, {per_sec}, {eta} to go";
        Self::new(doing, total, known, "{msg} {human_pos} records, {per_sec}")
    }

    /// Of work that does not say how far it is.
    pub(crate) fn unknown(doing: &'static str) -> Self {
        Self::new(doing, None, "", "{spinner} {msg} {elapsed}")
    }

    /// Records that are printed to the same terminal show by themselves how far it is.
    pub(crate) fn of_printed_records(doing: &'static str, total: Option<u64>) -> Self {
        if io::stdout().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        Self::records(doing, total)
    }

    fn new(doing: &'static str, total: Option<u64>, known: &str, unknown: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let template = if total.is_some() { known } else { unknown };
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(doing);
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// It is so much further.
    pub(crate) fn add(&self, more: u64) {
        self.bar.inc(more);
    }

    /// Does something that writes to standard error, beside the bar and not through it.
    pub(crate) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.bar.suspend(work)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
