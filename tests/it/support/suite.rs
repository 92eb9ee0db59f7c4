//! Runs crash explorations side by side, counts what they saw, and prints a table.
//!
//! Not here: what a workload does, and what is checked after a crash: they are given. Used by
//! the integration tests and, included by path, by the tests inside `log`.
//!
//! A failing case prints a line such as `PLIMSOLL_CRASH='append-fsync 17 keep-only:3'`. The same
//! test with that in its environment runs this one case only.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::sim::{Explorer, Failure, Report, SimDisk};

/// The environment variable with a line to replay.
pub(crate) const REPLAY: &str = "PLIMSOLL_CRASH";
/// The machine that runs the tests has at least as many.
const THREADS: usize = 2;

/// What is crashed.
pub(crate) type Workload<H> = Box<dyn Fn(&SimDisk, &mut H) + Send + Sync>;
/// Of each case: its number, what came of it, and how long it took in seconds.
type Done = Vec<(usize, Result<Report, Failure>, f64)>;

/// One workload, and how its crashes are explored.
pub(crate) struct Case<H> {
    /// `group` or `group@variant`: a table row is a group.
    pub(crate) name: String,
    pub(crate) explorer: Explorer,
    pub(crate) workload: Workload<H>,
}

/// What a suite has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) groups: usize,
    pub(crate) checked: u64,
    /// Images that differ, over all workloads.
    pub(crate) distinct: usize,
    /// True if one line was replayed, and nothing else done.
    pub(crate) replayed: bool,
}

/// Runs the cases, or the one of the line in the environment, and panics with the first failure.
pub(crate) fn run<H: Default>(
    title: &str,
    cases: &[Case<H>],
    check: impl Fn(&SimDisk, &H) -> Result<(), String> + Sync,
) -> Seen {
    run_line(title, cases, check, std::env::var(REPLAY).ok().as_deref())
        .unwrap_or_else(|failure| panic!("{failure}"))
}

/// The same with the line to replay given, and the failure returned.
pub(crate) fn run_line<H: Default>(
    title: &str,
    cases: &[Case<H>],
    check: impl Fn(&SimDisk, &H) -> Result<(), String> + Sync,
    line: Option<&str>,
) -> Result<Seen, Failure> {
    let begun = Instant::now();
    // Each with the group that saw it first.
    let distinct: Mutex<HashMap<u64, &str>> = Mutex::new(HashMap::new());
    let done: Mutex<Done> = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else { return };
            let begun = Instant::now();
            let mine = std::cell::RefCell::new(Vec::new());
            let checked = |disk: &SimDisk, history: &H| {
                // Drawn before the check, which changes the image.
                let fingerprint = disk.fingerprint();
                check(disk, history)?;
                mine.borrow_mut().push(fingerprint);
                Ok(())
            };
            let explorer = case.explorer.clone().replay(line);
            let result = explorer
                .run(|disk: &SimDisk, history: &mut H| (case.workload)(disk, history), checked);
            if result.is_err() {
                // The others would only take time.
                next.store(cases.len(), Ordering::Relaxed);
            }
            let group = group(&case.name);
            for fingerprint in mine.into_inner() {
                lock(&distinct).entry(fingerprint).or_insert(group);
            }
            lock(&done).push((at, result, begun.elapsed().as_secs_f64()));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let mut done = lock(&done).drain(..).collect::<Vec<_>>();
    done.sort_by_key(|(at, ..)| *at);
    let mut rows: BTreeMap<&str, (Report, f64)> = BTreeMap::new();
    let mut seen =
        Seen { distinct: lock(&distinct).len(), replayed: line.is_some(), ..Seen::default() };
    for (at, result, seconds) in done {
        let report = result?;
        let (row, time) = rows.entry(group(&cases[at].name)).or_default();
        row.crash_points += report.crash_points;
        row.images += report.images;
        row.checked += report.checked;
        row.nested += report.nested;
        *time += seconds;
        seen.checked += report.checked;
    }
    seen.groups = rows.len();
    for group in lock(&distinct).values() {
        rows.entry(group).or_default().0.distinct += 1;
    }
    let mut table = format!(
        "{title:40} {:>6} {:>8} {:>8} {:>8} {:>8} {:>7}\n",
        "points", "images", "nested", "checked", "new", "s"
    );
    for (group, (row, time)) in &rows {
        let Report { crash_points, images, nested, checked, distinct, .. } = row;
        let _ = writeln!(
            table,
            "{group:40} {crash_points:>6} {images:>8} {nested:>8} {checked:>8} {distinct:>8} \
             {time:>7.1}"
        );
    }
    let _ = writeln!(
        table,
        "{} workloads, {} images checked, {} of them distinct, {:.1} s",
        seen.groups,
        seen.checked,
        seen.distinct,
        begun.elapsed().as_secs_f64()
    );
    println!("{table}");
    Ok(seen)
}

/// `group` of `group@variant`.
fn group(name: &str) -> &str {
    name.split('@').next().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
