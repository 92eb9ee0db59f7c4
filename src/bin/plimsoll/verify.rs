//! `verify`: every byte of the store read, and a line for each fault.
//!
//! The store is opened read-only also where nobody holds its lock: an open that may write would
//! cut a torn tail, raise the incarnation, and so change what is to be looked at.

use plimsoll::VerifyFault;
use serde::Serialize;

use crate::output::{Ending, Fail, Output, Result, tell, tell_strays};
use crate::progress::Progress;
use crate::store::{Store, end_look};

#[derive(Serialize)]
struct FaultLine<'a> {
    topic: &'a str,
    partition: u32,
    file: String,
    position: u64,
    /// The first offset that cannot be read, and the one after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_offset: Option<u64>,
    what: &'a str,
}

pub(crate) fn run(store: &Store<'_>, json: bool) -> Result<Ending> {
    let broker = store.open_untouched()?;
    // Damage and tails are what verifying finds by itself.
    tell_strays(broker.recovery());
    let progress = Progress::unknown("verifying");
    let report = broker.admin().verify()?;
    drop(progress);
    let printed = print(&report.faults, json);
    for (file, position) in &report.tails {
        tell(format_args!(
            "note: {}: position={position}: a torn tail, or a torn slot: the next open mends it",
            file.display(),
        ));
    }
    tell(format_args!(
        "verified files={} bytes={} records={} faults={}",
        report.files,
        report.bytes,
        report.records,
        report.faults.len(),
    ));
    end_look(broker);
    match printed {
        // Whoever has read enough still learns from the exit code that there are faults.
        Ok(()) | Err(Fail::PipeClosed) if !report.faults.is_empty() => Ok(Ending::Found),
        other => other.map(|()| Ending::Done),
    }
}

fn print(faults: &[VerifyFault], json: bool) -> Result<()> {
    let mut out = Output::open()?;
    for fault in faults {
        if json {
            out.json(&FaultLine {
                topic: &fault.topic,
                partition: fault.partition.get(),
                file: fault.file.display().to_string(),
                position: fault.position,
                offset: fault.offsets.map(|(first, _)| first.get()),
                end_offset: fault.offsets.map(|(_, end)| end.get()),
                what: fault.what,
            })?;
            continue;
        }
        let VerifyFault { topic, partition, position, what, .. } = fault;
        let offsets = fault.offsets.map(|(first, end)| format!(" offset={first} end_offset={end}"));
        let offsets = offsets.unwrap_or_default();
        let file = fault.file.display();
        out.line(format_args!(
            "{file}: position={position} topic={topic} partition={partition}{offsets}: {what}"
        ))?;
    }
    out.flush()
}
