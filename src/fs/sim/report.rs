//! What explorations and sweeps tell: how much they tried, or what failed and how to replay it.

use std::fmt;

/// What an exploration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The workload's name.
    pub workload: String,
    /// After how many different calls the power was cut.
    pub crash_points: u64,
    /// How many images were made.
    pub images: u64,
    /// How many images were checked: at each crash point those that differ.
    pub checked: u64,
    /// How many images differ over all crash points.
    pub distinct: u64,
    /// How many images were made by a second power cut, during the check.
    pub nested: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} crash points, {} images, {} checked, {} distinct, {} nested",
            self.workload, self.crash_points, self.images, self.checked, self.distinct, self.nested
        )
    }
}

/// A check that failed, or a panic, and the line that replays it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What [`Explorer::replay`](super::Explorer::replay) takes: the workload's name, after how
    /// many
    /// calls the power was cut and what was lost; for a second cut, the same of the check.
    pub line: String,
    /// What the check said.
    pub message: String,
    /// What was pending when the power went, in the order of the loss's numbers.
    pub pending: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        writeln!(f, "PLIMSOLL_CRASH='{}'", self.line)?;
        for (number, pending) in self.pending.iter().enumerate() {
            writeln!(f, "  pending {number}: {pending}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The workload's name.
    pub workload: String,
    /// How many runs met their fault.
    pub runs: u64,
    /// How many calls failed.
    pub fired: u64,
    /// How many checks were made.
    pub checks: u64,
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, runs, fired, checks } = self;
        write!(f, "{workload}: {runs} runs, {fired} calls failed, {checks} checks")
    }
}
