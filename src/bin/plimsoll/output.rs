//! What goes to standard output and standard error, and how a command ends.
//!
//! Not here: exit codes (`main`).
//!
//! Writing goes to the descriptor itself, through a buffer of ours: `std::io::stdout` looks for
//! line ends in everything, and the macros panic when their stream is gone.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use plimsoll::{DedupMismatch, Error, RecoveryReport};
use serde::Serialize;

use crate::interrupt::Interrupt;

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    /// It found what it was looking for and nobody wants: damage.
    Found,
}

/// Why a command did not.
#[derive(Debug)]
pub(crate) enum Fail {
    Library(Error),
    /// Not a file of the store: input, output, a thread.
    Io {
        /// What was being done, as in "read standard input".
        doing: String,
        source: io::Error,
    },
    /// Nobody reads standard output any more.
    PipeClosed,
    /// The arguments contradict each other.
    Usage(&'static str),
    /// A line has the dedup key of a record, and another value.
    OtherValue {
        /// Counted from 1.
        line: u64,
        mismatch: Box<DedupMismatch>,
    },
    /// There is no topic of this name to send to.
    NoTopic(String),
    /// More replicas than the volumes that were given could hold.
    TooFewVolumes {
        replicas: u16,
        volumes: usize,
    },
    /// It was told already.
    Told,
}

pub(crate) type Result<T> = std::result::Result<T, Fail>;

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Fail::Library(error)
    }
}

impl Fail {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Fail::Io { doing: doing.into(), source }
    }

    /// Of a write to standard output.
    pub(crate) fn output(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            Fail::PipeClosed
        } else {
            Fail::io("write standard output", source)
        }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What the library advises is not for this program's user.
            Fail::Library(Error::Locked { path }) => {
                write!(f, "{} is locked: another process has it open", path.display())
            }
            Fail::Library(Error::UnknownTopic { name }) => write!(f, "unknown topic {name}"),
            Fail::Library(error) => f.write_str(&with_causes(error)),
            Fail::OtherValue { line, mismatch } => {
                let DedupMismatch { topic, partition, original, .. } = mismatch.as_ref();
                write!(f, "line {line} has the dedup key of ")?;
                match original {
                    Some(offset) => write!(f, "{topic} partition {partition} offset {offset}")?,
                    None => f.write_str("a line of the same batch")?,
                }
                f.write_str(", and another value; nothing of its batch was written")
            }
            Fail::NoTopic(name) => {
                write!(f, "unknown topic {name}; make it with `topic create`, or with --create")
            }
            Fail::Io { doing, source } => write!(f, "could not {doing}: {source}"),
            Fail::PipeClosed => f.write_str("could not write standard output: it was closed"),
            Fail::Usage(why) => f.write_str(why),
            Fail::TooFewVolumes { replicas, volumes } => {
                write!(f, "{replicas} replicas need as many volumes: {volumes} given")
            }
            Fail::Told => Ok(()),
        }
    }
}

/// An error and, behind colons, what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        // Some errors name their cause themselves.
        if !text.ends_with(&why) {
            text.push_str(": ");
            text.push_str(&why);
        }
        cause = error.source();
    }
    text
}

/// A line on standard error.
pub(crate) fn tell(what: impl fmt::Display) {
    // With standard error gone there is nobody to be told so.
    let _ = io::stderr().write_all(format!("plimsoll: {what}\n").as_bytes());
}

/// What an open for writing cut off.
pub(crate) fn tell_tails(report: &RecoveryReport) {
    for tail in &report.tails {
        tell(format_args!(
            "note: topic {} partition {}: a torn tail of {} bytes was cut off; the log ends at \
             offset {}",
            tail.topic, tail.partition, tail.bytes, tail.at,
        ));
    }
}

/// What an open found. Ranges of the topic `elsewhere` are left out: who reads them tells.
pub(crate) fn tell_findings(report: &RecoveryReport, elsewhere: Option<&str>) {
    for damage in report.damage.iter().filter(|d| Some(d.topic.as_ref()) != elsewhere) {
        tell(format_args!("warning: {damage}"));
    }
    tell_strays(report);
}

/// The part of the report that says nothing of records.
pub(crate) fn tell_strays(report: &RecoveryReport) {
    for stray in &report.strays {
        tell(format_args!("warning: {} belongs to no topic; it was left alone", stray.display()));
    }
    for note in &report.notes {
        tell(format_args!("note: {note}"));
    }
}

/// A number of bytes for a person: at most four digits and a unit, powers of 1024.
pub(crate) fn with_units(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut shift = 0;
    while bytes >> shift >= 10_000 && shift < 40 {
        shift += 10;
    }
    format!("{} {}", bytes >> shift, units.get(shift / 10).unwrap_or(&""))
}

/// A number of things, each called so.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Standard output, buffered.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
}

/// The descriptor, and who is told while something is being written to it.
pub(crate) struct Stdout {
    file: File,
    watcher: Option<Interrupt>,
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(watcher) = &self.watcher else { return self.file.write(bytes) };
        watcher.write_begins();
        let written = self.file.write(bytes);
        watcher.write_ends();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Output {
    pub(crate) fn open() -> Result<Self> {
        Self::open_for(None)
    }

    /// Tells `watcher` while it writes.
    pub(crate) fn open_watched(watcher: &Interrupt) -> Result<Self> {
        Self::open_for(Some(watcher.clone()))
    }

    fn open_for(watcher: Option<Interrupt>) -> Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned().map_err(Fail::output)?;
        let out = Stdout { file: File::from(out), watcher };
        Ok(Self { out: BufWriter::with_capacity(64 << 10, out) })
    }

    /// Where bytes go.
    pub(crate) fn bytes(&mut self) -> &mut BufWriter<Stdout> {
        &mut self.out
    }

    /// A line of text.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Result<()> {
        writeln!(self.out, "{line}").map_err(Fail::output)
    }

    /// An object in a line of its own.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.out, object).map_err(|error| Fail::output(error.into()))?;
        self.out.write_all(b"\n").map_err(Fail::output)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(Fail::output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|layer| layer as _)
        }
    }

    #[test]
    fn causes_follow_behind_colons_and_none_twice() {
        let inner = Layer("disk on fire", None);
        let outer = Layer("could not sync", Some(Box::new(inner)));
        assert_eq!(with_causes(&outer), "could not sync: disk on fire");
        let telling = Layer("halted: could not sync", Some(Box::new(outer)));
        assert_eq!(with_causes(&telling), "halted: could not sync: disk on fire");
    }

    #[test]
    fn bytes_are_shown_with_a_unit() {
        let shown = [
            (0, "0 B"),
            (9_999, "9999 B"),
            (10_240, "10 KiB"),
            (64 << 20, "64 MiB"),
            (3 << 50, "3072 TiB"),
        ];
        for (bytes, text) in shown {
            assert_eq!(with_units(bytes), text);
        }
    }

    #[test]
    fn a_closed_pipe_is_told_apart() {
        assert!(matches!(Fail::output(io::ErrorKind::BrokenPipe.into()), Fail::PipeClosed));
        assert!(matches!(Fail::output(io::ErrorKind::StorageFull.into()), Fail::Io { .. }));
    }
}
