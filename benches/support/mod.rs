//! What the benches share: a row of a bench, its rounds, and how it is judged.
//!
//! A row has several *sides*: the limits, which are bare loops, and the library, which comes last.
//! A round runs each of them once, one after the other, and every other round in the opposite
//! order, so that what drifts (heat, a neighbour, the disk) drifts for all. Criterion asks for the
//! rounds and gets the library's time; the pairs are kept here, and judged here: the figure is the
//! median of the rounds' ratios, with quartiles. Criterion's own reports go below the target
//! folder.
//!
//! Not here: what a side does (each bench), the bytes and files that limits work on (`bare`), two
//! threads that wake each other (`futex`).

// Every bench uses a part of it.
#![allow(dead_code, reason = "each bench compiles this for itself and uses a part")]

pub mod bare;
#[cfg(target_os = "linux")]
pub mod futex;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use tempfile::TempDir;

/// Fewest rounds that a verdict is given for.
pub const ROUNDS_MIN: usize = 21;

/// One run of one side.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many records, round trips or opens.
    pub units: u64,
    pub took: Duration,
    /// What one of them took, where the side knows better than `took / units`: a median, say.
    pub each: Option<Duration>,
}

impl Run {
    pub fn new(units: u64, took: Duration) -> Self {
        Self { units, took, each: None }
    }

    /// Seconds for one unit.
    fn seconds(&self) -> f64 {
        self.each.map_or_else(|| self.took.as_secs_f64() / float(self.units), |e| e.as_secs_f64())
    }
}

/// A side: does its part of a round.
pub type Side = Box<dyn FnMut() -> Run>;

/// What a row runs, made when it is chosen.
pub struct Sides {
    /// As many as the row has names, the library last.
    pub sides: Vec<Side>,
    /// What else is to be said, and whether it is as it should be.
    pub finish: Box<dyn FnOnce() -> Vec<Check>>,
}

impl Sides {
    pub fn new(sides: Vec<Side>) -> Self {
        Self { sides, finish: Box::new(Vec::new) }
    }
}

/// A figure that is no ratio of two sides.
#[derive(Debug)]
pub struct Check {
    pub text: String,
    pub met: bool,
}

/// What the library has to reach.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    /// At least this share of the rate of the fastest of these sides.
    Rate { of: &'static [usize], at_least: f64 },
    /// At most this many times what one of the other side takes.
    Time { of: usize, at_most: f64 },
    /// At most this long.
    Within(Duration),
}

/// How figures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Units a second.
    Rate,
    /// What one unit takes.
    Time,
}

/// One row of a bench.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The bench.
    pub group: &'static str,
    pub name: &'static str,
    pub show: Show,
    /// The limits; the library is not named.
    pub limits: &'static [&'static str],
    pub bars: &'static [Bar],
    /// For about how long; at least 21 rounds are run.
    pub measured_for: Duration,
}

/// The rows of one bench, run as they are given, judged at the end.
pub struct Bench {
    criterion: Criterion,
    report: String,
    below: usize,
}

impl Bench {
    pub fn new() -> Self {
        let criterion = Criterion::default()
            .without_plots()
            .sample_size(ROUNDS_MIN)
            // The first round of a row warms up.
            .warm_up_time(Duration::from_nanos(1))
            .configure_from_args();
        Self { criterion, report: String::new(), below: 0 }
    }

    /// Runs a row, unless the arguments leave it out.
    pub fn row(&mut self, row: &Row, begin: impl FnOnce() -> Sides) {
        let mut begin = Some(begin);
        let mut running: Option<(Sides, Rounds)> = None;
        let mut group = self.criterion.benchmark_group(row.group);
        group.sampling_mode(SamplingMode::Flat).measurement_time(row.measured_for);
        group.bench_function(row.name, |bencher| {
            bencher.iter_custom(|iterations| {
                if let Some(begin) = begin.take() {
                    let mut sides = begin();
                    assert_eq!(sides.sides.len(), row.limits.len() + 1, "a side for each name");
                    // Dropped: it warms up.
                    Rounds::default().run(&mut sides.sides);
                    running = Some((sides, Rounds::default()));
                }
                let (sides, rounds) = running.as_mut().expect("begun above");
                (0..iterations).map(|_| rounds.run(&mut sides.sides)).sum()
            });
        });
        group.finish();
        if let Some((sides, rounds)) = running {
            drop(sides.sides);
            let checks = (sides.finish)();
            self.judge(row, &rounds, checks);
        }
    }

    fn judge(&mut self, row: &Row, rounds: &Rounds, checks: Vec<Check>) {
        let out = &mut self.report;
        let count = rounds.0.len();
        if count < ROUNDS_MIN {
            let _ = writeln!(out, "{}/{}: {count} rounds are no measurement", row.group, row.name);
            return;
        }
        let _ = writeln!(out, "{}/{}, {count} rounds", row.group, row.name);
        let ours = row.limits.len();
        let mut verdict = |out: &mut String, text: &str, met: bool| {
            self.below += usize::from(!met);
            let _ = writeln!(out, "  {text}{}", if met { "" } else { "  BELOW THE BAR" });
        };
        for (side, name) in row.limits.iter().copied().chain(["plimsoll"]).enumerate() {
            let [low, median, high] = quartiles(rounds.0.iter().map(|round| round[side].seconds()));
            let text = match row.show {
                Show::Rate => {
                    let shown = [high, median, low].map(|seconds| rate(1.0 / seconds));
                    format!("{} ({} to {})", shown[1], shown[0], shown[2])
                }
                Show::Time => format!("{} ({} to {})", time(median), time(low), time(high)),
            };
            let _ = writeln!(out, "  {name:<28} {text}");
        }
        for bar in row.bars {
            let against = |of: usize| {
                quartiles(rounds.0.iter().map(|round| round[of].seconds() / round[ours].seconds()))
            };
            match *bar {
                Bar::Rate { of, at_least } => {
                    // The fastest limit is the one that leaves the smallest share.
                    let shares = of.iter().map(|&of| (of, against(of)));
                    let (of, [low, median, high]) = shares
                        .min_by(|(_, a), (_, b)| a[1].total_cmp(&b[1]))
                        .expect("a bar has a limit");
                    let name = row.limits[of];
                    let text = format!(
                        "ratio to {name}: {median:.3} ({low:.3} to {high:.3}), bar {at_least:.2}"
                    );
                    verdict(out, &text, median >= at_least);
                }
                Bar::Time { of, at_most } => {
                    let [high, median, low] = against(of).map(|share| 1.0 / share);
                    let name = row.limits[of];
                    let text = format!(
                        "times {name}: {median:.3} ({low:.3} to {high:.3}), bar <= {at_most:.2}"
                    );
                    verdict(out, &text, median <= at_most);
                }
                Bar::Within(limit) => {
                    let [_, median, _] = quartiles(rounds.0.iter().map(|r| r[ours].seconds()));
                    let text = format!("bar: within {}", time(limit.as_secs_f64()));
                    verdict(out, &text, median < limit.as_secs_f64());
                }
            }
        }
        for check in checks {
            verdict(out, &check.text, check.met);
        }
    }

    /// Prints what was found; a failure if something is below its bar.
    pub fn finish(self) -> ExitCode {
        self.criterion.final_summary();
        print!("{}", self.report);
        if self.below > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// What the sides did in each round.
#[derive(Debug, Default)]
struct Rounds(Vec<Vec<Run>>);

impl Rounds {
    /// One round; returns the library's time.
    fn run(&mut self, sides: &mut [Side]) -> Duration {
        let runs = if self.0.len().is_multiple_of(2) {
            sides.iter_mut().map(|side| side()).collect()
        } else {
            let mut runs: Vec<Run> = sides.iter_mut().rev().map(|side| side()).collect();
            runs.reverse();
            runs
        };
        let took = runs.last().map_or(Duration::ZERO, |ours: &Run| ours.took);
        self.0.push(runs);
        took
    }
}

/// A quarter of the values lies below the first, half below the second, three quarters below the
/// third.
pub fn quartiles(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// The value that this share of the sorted `values` does not pass.
pub fn quantile(sorted: &[u64], share: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = (float(sorted.len() as u64 - 1) * share).round() as usize;
    sorted[at]
}

#[expect(clippy::cast_precision_loss, reason = "counts and times of a bench are below 2^52")]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// Lets each of the threads append its share, and returns how long each append took.
pub fn threads(count: u64, appends: u64, append: impl Fn(u64) + Sync) -> (Run, Vec<u64>) {
    let barrier = Barrier::new(usize::try_from(count).expect("a few") + 1);
    let share = appends / count;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let (barrier, append) = (&barrier, &append);
                scope.spawn(move || {
                    let mut each = Vec::with_capacity(usize::try_from(share).expect("a few"));
                    barrier.wait();
                    for _ in 0..share {
                        let begun = Instant::now();
                        append(number);
                        each.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
                    }
                    barrier.wait();
                    each
                })
            })
            .collect();
        barrier.wait();
        let begun = Instant::now();
        barrier.wait();
        let took = begun.elapsed();
        let each = threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect();
        (Run::new(share * count, took), each)
    })
}

/// A rate for people.
pub fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.2} M/s", r / 1e6),
        r if r >= 1e4 => format!("{:.1} k/s", r / 1e3),
        r => format!("{r:.0} /s"),
    }
}

/// A time for people, of seconds.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} µs", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    }
}

/// A folder on the disk that holds the build: the system's own temporary one may be in memory.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")
}
