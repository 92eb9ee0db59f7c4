//! `verify`: every byte of the store read, and a line for each fault.
//!
//! With `--repair` the metadata is made anew first, if no copy of it is good, and what another
//! replica has is mended, under the store's lock; then the same tells what is left.
//!
//! The store is opened read-only also where nobody holds its lock: an open that may write would
//! cut a torn tail, raise the incarnation, and so change what is to be looked at.

use plimsoll::{Damage, Error, VerifyFault};
use serde::Serialize;

use crate::output::{Ending, Fail, Output, Result, tell, tell_strays};
use crate::progress::Progress;
use crate::store::{Store, end_change, end_look};

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
    let broker = match store.open_untouched() {
        Err(Fail::Library(Error::Damaged(lost))) if lost.can_be_rebuilt => {
            return without_metadata(lost, json);
        }
        opened => opened?,
    };
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

/// Nothing else can be looked at: what belongs to which topic is not known.
fn without_metadata(lost: Box<Damage>, json: bool) -> Result<Ending> {
    let mut out = Output::open()?;
    let line = FaultLine {
        topic: "__metadata",
        partition: 0,
        file: lost.path.display().to_string(),
        position: 0,
        offset: None,
        end_offset: None,
        what: lost.what,
    };
    let printed = line.print(&mut out, json).and_then(|()| out.flush());
    tell(Error::Damaged(lost));
    match printed {
        Ok(()) | Err(Fail::PipeClosed) => Ok(Ending::Found),
        Err(other) => Err(other),
    }
}

#[derive(Serialize)]
struct MendedLine<'a> {
    topic: &'a str,
    partition: u32,
    volume: u32,
    offset: u64,
    end_offset: u64,
    what: &'a str,
    mended: bool,
}

/// Mends what another replica has, and verifies the rest.
pub(crate) fn repair(store: &Store<'_>, json: bool) -> Result<Ending> {
    let broker = store.open_to_repair()?;
    let progress = Progress::unknown("repairing");
    let report = broker.admin().scrub()?;
    drop(progress);
    let mut out = Output::open()?;
    let mut printed = Ok(());
    let mended = report.damage.iter().filter(|damage| damage.mended);
    for damage in mended.clone() {
        let (partition, volume) = (damage.partition.get(), damage.volume.get());
        let (topic, what) = (&*damage.topic, damage.what);
        let (first, end) = (damage.first, damage.end);
        let line = MendedLine {
            topic,
            partition,
            volume,
            offset: first.get(),
            end_offset: end.get(),
            what,
            mended: true,
        };
        printed = printed.and_then(|()| {
            if json {
                return out.json(&line);
            }
            out.line(format_args!(
                "mended topic={topic} partition={partition} volume={volume} offset={first} \
                 end_offset={end}: {what}"
            ))
        });
    }
    let flushed = out.flush();
    tell(format_args!("repaired bytes={} mended={}", report.bytes, mended.count()));
    // A replica that is copied anew does not get far in so short a time: the next open goes on.
    end_change(broker)?;
    printed.and(flushed)?;
    run(store, json)
}

fn print(faults: &[VerifyFault], json: bool) -> Result<()> {
    let mut out = Output::open()?;
    for fault in faults {
        let line = FaultLine {
            topic: &fault.topic,
            partition: fault.partition.get(),
            file: fault.file.display().to_string(),
            position: fault.position,
            offset: fault.offsets.map(|(first, _)| first.get()),
            end_offset: fault.offsets.map(|(_, end)| end.get()),
            what: fault.what,
        };
        line.print(&mut out, json)?;
    }
    out.flush()
}

impl FaultLine<'_> {
    fn print(&self, out: &mut Output, json: bool) -> Result<()> {
        if json {
            return out.json(self);
        }
        let Self { topic, partition, file, position, what, .. } = self;
        let offsets = self.offset.zip(self.end_offset);
        let offsets = offsets.map(|(first, end)| format!(" offset={first} end_offset={end}"));
        let offsets = offsets.unwrap_or_default();
        out.line(format_args!(
            "{file}: position={position} topic={topic} partition={partition}{offsets}: {what}"
        ))
    }
}
