//! Makes every call fail in every way, and checks what is left.
//!
//! Not here: crashes at every call (`explore`), what a fault does (`fault`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::disk::SimDisk;
use super::explore::panic_text;
use super::fault::{Call, Fault, FaultKind, HowLong};
use super::loss::Loss;
use super::report::SweepReport;

/// Runs a workload with its first, second, ... call failing, in each of the ways, once and for
/// ever, until a run ends without meeting its fault. After each run the faults end and the check is
/// made three times: with the process killed, with the power cut and everything unsynced lost, and
/// with neither, so the history must not hold what the check opens. After a sync that lied the
/// power is not cut: nothing could pass that.
///
/// [`FaultKind::StalledSync`] needs a workload that releases it from another thread.
///
/// # Errors
/// The first check that failed, or panic, with the fault that it met.
pub fn sweep_faults<H: Default>(
    name: &str,
    kinds: &[FaultKind],
    workload: impl Fn(&SimDisk, &mut H),
    check: impl Fn(&SimDisk, &H) -> Result<(), String>,
) -> Result<SweepReport, String> {
    sweep(name, None, &[HowLong::Once, HowLong::Forever], kinds, &workload, &check)
}

/// As [`sweep_faults`], with calls of one kind failing for ever from the first, second, ... on,
/// while all others go on: a disk that can be written and not read, for one, or read and not
/// synced.
///
/// # Errors
/// As [`sweep_faults`].
pub fn sweep_calls<H: Default>(
    name: &str,
    call: Call,
    kinds: &[FaultKind],
    workload: impl Fn(&SimDisk, &mut H),
    check: impl Fn(&SimDisk, &H) -> Result<(), String>,
) -> Result<SweepReport, String> {
    sweep(name, Some(call), &[HowLong::Forever], kinds, &workload, &check)
}

fn sweep<H: Default>(
    name: &str,
    call: Option<Call>,
    lengths: &[HowLong],
    kinds: &[FaultKind],
    workload: &impl Fn(&SimDisk, &mut H),
    check: &impl Fn(&SimDisk, &H) -> Result<(), String>,
) -> Result<SweepReport, String> {
    let mut report = SweepReport { workload: name.to_owned(), ..SweepReport::default() };
    for &what in kinds {
        for &how_long in lengths {
            for at in 1.. {
                let fault = Fault { at, call, what, how_long };
                let failed = |when: &str, message: &str| {
                    format!("{name}: {message}\nafter {fault:?}, {when}")
                };
                let disk = SimDisk::new();
                disk.arm(fault);
                let mut history = H::default();
                catch_unwind(AssertUnwindSafe(|| workload(&disk, &mut history)))
                    .map_err(|panic| failed("in the workload", panic_text(&*panic)))?;
                if disk.fired() == 0 {
                    break;
                }
                report.runs += 1;
                report.fired += disk.fired();
                disk.disarm();
                let killed = disk.snapshot();
                let crashed = disk.crash(&Loss::All);
                let lied = what == FaultKind::LyingSync;
                let cut = (!lied).then_some((&crashed, "with the power cut"));
                let kept = [(&killed, "with the process killed"), (&disk, "going on")];
                for (disk, when) in kept.into_iter().chain(cut) {
                    report.checks += 1;
                    catch_unwind(AssertUnwindSafe(|| check(disk, &history)))
                        .unwrap_or_else(|panic| Err(panic_text(&*panic).to_owned()))
                        .map_err(|message| failed(when, &message))?;
                }
            }
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::{Disk, OpenMode, write_all_at};

    /// Writes two records; counts those it acknowledged.
    fn append(disk: &SimDisk, acknowledged: &mut usize, syncs_max: usize) -> Option<()> {
        let file = disk.open(Path::new("log"), OpenMode::CreateNew).ok()?;
        disk.sync_dir(Path::new("")).ok()?;
        for record in 1..=2 {
            write_all_at(&*file, &[7; 512], (record as u64 - 1) * 512).ok()?;
            (0..syncs_max).find(|_| file.sync_data().is_ok())?;
            *acknowledged = record;
        }
        Some(())
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "a history is passed by reference")]
    fn check(disk: &SimDisk, acknowledged: &usize) -> Result<(), String> {
        let bytes = disk.read_file("log").unwrap_or_default();
        let wanted = vec![7; acknowledged * 512];
        if bytes.starts_with(&wanted) { Ok(()) } else { Err("a record is lost".to_owned()) }
    }

    #[test]
    fn a_right_workload_passes_every_fault() {
        let workload = |disk: &SimDisk, acknowledged: &mut usize| {
            append(disk, acknowledged, 1);
        };
        let report = sweep_faults("right", &FaultKind::UNSTALLED, workload, check).unwrap();
        assert!(report.runs > 40 && report.fired > report.runs, "{report}");
    }

    #[test]
    fn a_retried_sync_is_found() {
        let workload = |disk: &SimDisk, acknowledged: &mut usize| {
            append(disk, acknowledged, 2);
        };
        let message = sweep_faults("retry", &[FaultKind::Eio], workload, check).unwrap_err();
        assert!(message.contains("with the power cut"), "{message}");
    }

    #[test]
    fn one_kind_of_call_fails_and_the_others_go_on() {
        let workload = |disk: &SimDisk, acknowledged: &mut usize| {
            append(disk, acknowledged, 1);
        };
        let eio = [FaultKind::Eio];
        let report = sweep_calls("syncs", Call::SyncData, &eio, workload, check).unwrap();
        assert_eq!((report.runs, report.checks), (2, 6), "{report}");
    }
}
