//! Crashes at every call, in every way, and checks what is left.
//!
//! Not here: failing calls (`sweep`), what may be lost (`loss`).
//!
//! A workload runs once to count its calls. Then, for every k, it runs anew on an empty disk whose
//! power goes off after k calls; what that disk has pending is lost in each systematic way and in
//! some random ones; each image that was not seen yet is handed to the check, which opens it as
//! an application would after the power came back.
//!
//! The workload must do the same on every run: one thread, no clock, no randomness but a seed.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::disk::SimDisk;
use super::loss::Loss;
use super::report::{Failure, Report};

/// How many losses are tried at a crash point, unless told otherwise.
const LOSSES_MAX: usize = 1000;
/// How many random losses are tried at a crash point, unless told otherwise.
const RANDOM_LOSSES: u64 = 8;

/// Explores the crashes of a workload, with default settings. See [`Explorer`].
///
/// # Errors
/// The first [`Failure`].
pub fn explore<H: Default>(
    name: &str,
    workload: impl Fn(&SimDisk, &mut H),
    check: impl Fn(&SimDisk, &H) -> Result<(), String>,
) -> Result<Report, Failure> {
    Explorer::new(name).run(workload, check)
}

/// Settings of an exploration.
///
/// The workload gets an empty disk and its history, where it notes what was acknowledged; it stops
/// at the first error and must not panic. The check gets the disk after the crash, and the history
/// as it was when the power went.
///
/// ```
/// use plimsoll::sim::{Explorer, SimDisk};
///
/// // A real workload opens a broker on the disk; this one has nothing to lose.
/// let workload = |disk: &SimDisk, acknowledged: &mut u32| {
///     if disk.write_file("a", b"1").is_ok() {
///         *acknowledged += 1;
///     }
/// };
/// let check = |disk: &SimDisk, acknowledged: &u32| match disk.read_file("a") {
///     None if *acknowledged > 0 => Err("lost".to_owned()),
///     _ => Ok(()),
/// };
/// let report = Explorer::new("toy")
///     .random(2)
///     .replay(std::env::var("PLIMSOLL_CRASH").ok().as_deref())
///     .run(workload, check)?;
/// assert_eq!(report.crash_points, 1);
/// # Ok::<(), plimsoll::sim::Failure>(())
/// ```
#[derive(Clone, Debug)]
pub struct Explorer {
    name: String,
    random: u64,
    losses_max: usize,
    nested: usize,
    step: u64,
    skip: u64,
    replay: Option<String>,
}

impl Explorer {
    /// Default settings for a workload of this name, which starts its replay lines.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            random: RANDOM_LOSSES,
            losses_max: LOSSES_MAX,
            nested: 0,
            step: 1,
            skip: 0,
            replay: None,
        }
    }

    /// How many random losses are tried at each crash point, beside the systematic ones. Default 8.
    #[must_use]
    pub fn random(mut self, seeds: u64) -> Self {
        self.random = seeds;
        self
    }

    /// How many losses are tried at each crash point; of more, an even selection. Default 1000.
    #[must_use]
    pub fn losses_max(mut self, losses: usize) -> Self {
        self.losses_max = losses.max(1);
        self
    }

    /// At each crash point, for how many of its images the power is cut again, at every call of
    /// the check, before the check has to pass. Default 0.
    #[must_use]
    pub fn nested(mut self, images: usize) -> Self {
        self.nested = images;
        self
    }

    /// The power is cut after every `step`-th call only, and at the end. Default 1.
    #[must_use]
    pub fn step(mut self, step: u64) -> Self {
        self.step = step.max(1);
        self
    }

    /// The power is not cut during the first calls, which another workload has in common. Default
    /// 0.
    #[must_use]
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Runs only the case of this line, as printed with a [`Failure`]. A line of another workload
    /// leaves nothing to do, so that one line can be given to a whole test suite.
    #[must_use]
    pub fn replay(mut self, line: Option<&str>) -> Self {
        self.replay = line.map(str::to_owned);
        self
    }

    /// Explores.
    ///
    /// # Errors
    /// The first [`Failure`]: a check that returned an error, or a panic of workload or check. Also
    /// a replay line that cannot be read.
    pub fn run<H: Default>(
        &self,
        workload: impl Fn(&SimDisk, &mut H),
        check: impl Fn(&SimDisk, &H) -> Result<(), String>,
    ) -> Result<Report, Failure> {
        let mut run = Run {
            settings: self,
            workload: &workload,
            check: &check,
            report: Report { workload: self.name.clone(), ..Report::default() },
            distinct: HashSet::new(),
        };
        match self.replay.as_deref() {
            Some(line) => match parse_line(&self.name, line) {
                Some(Ok(case)) => run.replay(case)?,
                Some(Err(message)) => return Err(self.failure("", message, &SimDisk::new())),
                None => {}
            },
            None => run.explore()?,
        }
        run.report.distinct = run.distinct.len() as u64;
        Ok(run.report)
    }

    fn failure(&self, place: &str, message: String, disk: &SimDisk) -> Failure {
        let line = format!("{} {place}", self.name);
        let pending = disk.pending().iter().map(ToString::to_string).collect();
        Failure { line, message, pending }
    }
}

struct Run<'a, W, C> {
    settings: &'a Explorer,
    workload: &'a W,
    check: &'a C,
    report: Report,
    distinct: HashSet<u64>,
}

/// A power cut, and what it takes.
type Case = (u64, Loss);

impl<W, C> Run<'_, W, C> {
    fn explore<H: Default>(&mut self) -> Result<(), Failure>
    where
        W: Fn(&SimDisk, &mut H),
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        let (whole, history) = self.work::<H>(None)?;
        let calls = whole.calls();
        drop(whole);
        drop(history);
        let mut cut = self.settings.skip.min(calls);
        loop {
            self.crash_after::<H>(cut)?;
            if cut >= calls {
                return Ok(());
            }
            cut = (cut + self.settings.step).min(calls);
        }
    }

    /// Runs the workload, with the power cut after so many calls.
    fn work<H: Default>(&self, cut: Option<u64>) -> Result<(SimDisk, H), Failure>
    where
        W: Fn(&SimDisk, &mut H),
    {
        let disk = SimDisk::new();
        if let Some(cut) = cut {
            disk.cut_power_after(cut);
        }
        let mut history = H::default();
        let ran = catch_unwind(AssertUnwindSafe(|| (self.workload)(&disk, &mut history)));
        match ran {
            Ok(()) => Ok((disk, history)),
            Err(panic) => {
                let message = format!("the workload panicked: {}", panic_text(&*panic));
                let cut = cut.unwrap_or_else(|| disk.calls());
                Err(self.settings.failure(&format!("{cut} none"), message, &disk))
            }
        }
    }

    /// Everything at one crash point.
    fn crash_after<H: Default>(&mut self, cut: u64) -> Result<(), Failure>
    where
        W: Fn(&SimDisk, &mut H),
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        let (disk, history) = self.work::<H>(Some(cut))?;
        self.report.crash_points += 1;
        // Other seeds at every crash point.
        let reseed = |loss| match loss {
            Loss::Random(seed) => Loss::Random(cut * self.settings.random + seed),
            other => other,
        };
        let losses: Vec<_> = disk.losses(self.settings.random).into_iter().map(reseed).collect();
        let stride = losses.len().div_ceil(self.settings.losses_max).max(1);
        let mut seen = HashSet::new();
        let mut fresh = Vec::new();
        for loss in losses.into_iter().step_by(stride) {
            let image = disk.crash(&loss);
            self.report.images += 1;
            let fingerprint = image.fingerprint();
            self.distinct.insert(fingerprint);
            if seen.insert(fingerprint) {
                self.report.checked += 1;
                self.check_image(&disk, &image, &history, (cut, loss))?;
                fresh.push(loss);
            }
        }
        let stride = fresh.len().div_ceil(self.settings.nested.max(1)).max(1);
        for loss in fresh.into_iter().step_by(stride).take(self.settings.nested) {
            self.crash_again(&disk, &history, (cut, loss))?;
        }
        Ok(())
    }

    fn check_image<H>(
        &self,
        disk: &SimDisk,
        image: &SimDisk,
        history: &H,
        (cut, loss): Case,
    ) -> Result<(), Failure>
    where
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        self.checked(image, history).map_err(|message| {
            let call = disk.cut_at().map_or_else(String::new, |call| format!(", before {call:?}"));
            let message = format!("{message}\npower cut after {cut} calls{call}, lost: {loss}");
            self.settings.failure(&format!("{cut} {loss}"), message, disk)
        })
    }

    /// Cuts the power again at each call of the check on an image.
    fn crash_again<H>(
        &mut self,
        disk: &SimDisk,
        history: &H,
        (cut, loss): Case,
    ) -> Result<(), Failure>
    where
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        let image = disk.crash(&loss);
        let _ = self.checked(&image, history);
        let mut seen = HashSet::new();
        for again in 0..image.calls() {
            let coin = cut ^ again;
            let image = self.cut_off(disk, history, ((cut, loss), again))?;
            for second in [Loss::None, Loss::All, Loss::Random(coin), Loss::Random(!coin)] {
                let case = ((cut, loss), (again, second));
                let after = image.crash(&second);
                self.report.nested += 1;
                if seen.insert(after.fingerprint()) {
                    self.check_again(&image, &after, history, case)?;
                }
            }
        }
        Ok(())
    }

    /// The image of a case with the check cut off on it after so many calls.
    fn cut_off<H>(
        &self,
        disk: &SimDisk,
        history: &H,
        ((cut, loss), again): (Case, u64),
    ) -> Result<SimDisk, Failure>
    where
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        let image = disk.crash(&loss);
        image.cut_power_after(again);
        // Its verdict does not count, as the power goes; but it must not panic.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.check)(&image, history))) {
            let message = format!("the check panicked: {}", panic_text(&*panic));
            let place = format!("{cut} {loss} / {again} {}", Loss::None);
            return Err(self.settings.failure(&place, message, &image));
        }
        Ok(image)
    }

    fn check_again<H>(
        &self,
        image: &SimDisk,
        after: &SimDisk,
        history: &H,
        ((cut, loss), (again, second)): (Case, Case),
    ) -> Result<(), Failure>
    where
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        self.checked(after, history).map_err(|message| {
            let place = format!("{cut} {loss} / {again} {second}");
            let message = format!("{message}\npower cut again, in the check, after {again} calls");
            self.settings.failure(&place, message, image)
        })
    }

    fn checked<H>(&self, image: &SimDisk, history: &H) -> Result<(), String>
    where
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        catch_unwind(AssertUnwindSafe(|| (self.check)(image, history)))
            .unwrap_or_else(|panic| Err(format!("the check panicked: {}", panic_text(&*panic))))
    }

    fn replay<H: Default>(
        &mut self,
        ((cut, loss), second): (Case, Option<Case>),
    ) -> Result<(), Failure>
    where
        W: Fn(&SimDisk, &mut H),
        C: Fn(&SimDisk, &H) -> Result<(), String>,
    {
        let (disk, history) = self.work::<H>(Some(cut))?;
        self.report.crash_points = 1;
        self.report.images = 1;
        self.report.checked = 1;
        match second {
            None => self.check_image(&disk, &disk.crash(&loss), &history, (cut, loss)),
            Some((again, second)) => {
                let image = self.cut_off(&disk, &history, ((cut, loss), again))?;
                self.report.nested = 1;
                let case = ((cut, loss), (again, second));
                self.check_again(&image, &image.crash(&second), &history, case)
            }
        }
    }
}

/// Reads a replay line; `None` if it is of another workload.
fn parse_line(name: &str, line: &str) -> Option<Result<(Case, Option<Case>), String>> {
    let rest = line.trim().strip_prefix(name)?.strip_prefix(' ')?;
    let case = |text: &str| -> Option<Case> {
        let (cut, loss) = text.trim().split_once(' ')?;
        Some((cut.parse().ok()?, loss.parse().ok()?))
    };
    let cases = match rest.split_once('/') {
        None => case(rest).map(|first| (first, None)),
        Some((first, second)) => {
            case(first).zip(case(second)).map(|(first, second)| (first, Some(second)))
        }
    };
    Some(cases.ok_or_else(|| format!("cannot read the replay line {line:?}")))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::{Disk, OpenMode, read_exact_at, write_all_at};

    /// When a toy log tells that a record is safe.
    #[derive(Clone, Copy)]
    enum Acknowledge {
        AfterSync,
        BeforeSync,
    }

    /// Appends five records, each a sector, to a file; counts those it acknowledged.
    fn append(disk: &SimDisk, acknowledged: &mut u64, acknowledge: Acknowledge) -> Option<()> {
        let file = disk.open(Path::new("log"), OpenMode::CreateNew).ok()?;
        disk.sync_dir(Path::new("")).ok()?;
        for record in 0..5 {
            write_all_at(&*file, &[7; 512], record * 512).ok()?;
            if let Acknowledge::BeforeSync = acknowledge {
                *acknowledged = record + 1;
            }
            file.sync_data().ok()?;
            *acknowledged = record + 1;
        }
        Some(())
    }

    fn right(disk: &SimDisk, acknowledged: &mut u64) {
        append(disk, acknowledged, Acknowledge::AfterSync);
    }

    fn wrong(disk: &SimDisk, acknowledged: &mut u64) {
        append(disk, acknowledged, Acknowledge::BeforeSync);
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "a history is passed by reference")]
    fn check(disk: &SimDisk, acknowledged: &u64) -> Result<(), String> {
        let missing = |e: std::io::Error| format!("{acknowledged} records acknowledged: {e}");
        if *acknowledged == 0 {
            return Ok(());
        }
        let file = disk.open(Path::new("log"), OpenMode::ReadWrite).map_err(missing)?;
        for record in 0..*acknowledged {
            let mut bytes = [0; 512];
            read_exact_at(&*file, &mut bytes, record * 512).map_err(missing)?;
            if bytes != [7; 512] {
                return Err(format!("record {record} of {acknowledged} is lost"));
            }
        }
        Ok(())
    }

    #[test]
    fn a_right_workload_passes() {
        let report = Explorer::new("right").nested(3).run(right, check).unwrap();
        assert_eq!(report.crash_points, 13, "{report}");
        assert!(report.images > 50 && report.nested > 20 && report.distinct >= 10, "{report}");
    }

    #[test]
    fn an_early_acknowledgement_is_found_and_replays() {
        let failure = explore("wrong", wrong, check).unwrap_err();
        assert!(failure.message.contains("acknowledged"), "{failure}");
        assert!(failure.line.starts_with("wrong 3 "), "{failure}");
        assert!(!failure.pending.is_empty(), "{failure}");
        let replay = |line: &str| Explorer::new("wrong").replay(Some(line)).run(wrong, check);
        assert_eq!(replay(&failure.line).unwrap_err(), failure);
        assert_eq!(replay("wrong 3 none").unwrap().checked, 1);
        assert_eq!(replay("another 3 all").unwrap().checked, 0, "not ours");
        replay("wrong 3 rubbish").unwrap_err();
    }

    #[test]
    fn a_bug_of_the_recovery_is_found_by_the_second_cut() {
        // Recovery copies a file over itself in two steps, without a rename.
        let workload = |disk: &SimDisk, acknowledged: &mut bool| {
            *acknowledged = disk.write_file("a", &[1; 1024]).is_ok();
            let _ = disk.stat(Path::new("a"));
        };
        let check = |disk: &SimDisk, acknowledged: &bool| {
            if !acknowledged {
                return Ok(());
            }
            let open = || disk.open(Path::new("a"), OpenMode::ReadWrite);
            let file = open().map_err(|e| e.to_string())?;
            let bytes = disk.read_file("a").unwrap_or_default();
            if bytes != [1; 1024] {
                return Err(format!("{} bytes are left", bytes.len()));
            }
            let _ = file.set_len(0);
            let _ = write_all_at(&*file, &bytes, 0);
            let _ = file.sync_data();
            Ok(())
        };
        explore("copy", workload, check).unwrap();
        let explorer = Explorer::new("copy").nested(1);
        let failure = explorer.run(workload, check).unwrap_err();
        assert!(failure.line.contains(" / "), "{failure}");
        let replayed = Explorer::new("copy").replay(Some(&failure.line)).run(workload, check);
        assert_eq!(replayed.unwrap_err(), failure);
    }

    #[test]
    fn panics_are_failures() {
        let panics = |_: &SimDisk, (): &()| panic!("on purpose");
        let failure = explore("panics", |_, ()| (), panics).unwrap_err();
        assert!(failure.message.contains("on purpose"), "{failure}");
        let workload = |_: &SimDisk, (): &mut ()| panic!("in the workload");
        let failure = explore("panics", workload, |_, ()| Ok(())).unwrap_err();
        assert!(failure.message.contains("in the workload"), "{failure}");
    }
}
