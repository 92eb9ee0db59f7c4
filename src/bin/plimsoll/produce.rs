//! `produce`: lines in, records out, acknowledgements counted.
//!
//! Not here: cutting lines (`lines`), keeping them until they are sent (`pending`).
//!
//! Invariants
//!   1. Lines of a partition are sent in their order, each exactly once.
//!   2. No line waits while there is nothing to read: what is pending is sent first.
//!   3. What is printed and counted was acknowledged; what was acknowledged before an error is
//!      printed and counted too.
//!   4. Memory is bounded by `PENDING_BYTES_MAX` and the longest line.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use plimsoll::{BatchAck, Broker, DedupWindow, Error, PartitionId, Producer, Topic, TopicConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::args::{LineDedup, ProduceArgs};
use crate::lines::{Lines, Separator};
use crate::output::{Ending, Fail, Output, Result, tell};
use crate::pending::{Pending, record_of};
use crate::progress::Progress;
use crate::store::Store;

/// Pending lines of all partitions together. A batch cannot be larger either, so this is the
/// format's limit of one.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Up to these sizes the library refuses no record and no key, unless a topic was made with a
/// lower limit than the default.
const RECORD_BYTES_SAFE: usize = 1 << 20;
const KEY_BYTES_SAFE: usize = 64 << 10;
/// What a record takes on disk beside its bytes, at most.
const RECORD_OVERHEAD_BYTES: usize = 48;

/// What was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    records: u64,
    bytes: u64,
    duplicates: u64,
}

pub(crate) fn run(store: &Store<'_>, args: &ProduceArgs, json: bool) -> Result<Ending> {
    let began = Instant::now();
    let mut totals = Totals::default();
    let ended = produce(store, args, json, &mut totals);
    let ended = match ended {
        // Acknowledgements that cannot be told are a failure here: not all input was sent.
        Err(fail) => {
            tell(fail);
            Err(Fail::Told)
        }
        done => done,
    };
    let Totals { records, bytes, duplicates } = totals;
    let seconds = began.elapsed().as_secs_f64();
    // The last line of standard error, without a prefix: it is for programs.
    let summary =
        format!("records={records} bytes={bytes} duplicates={duplicates} seconds={seconds:.3}\n");
    let _ = io::stderr().write_all(summary.as_bytes());
    ended
}

fn produce(
    store: &Store<'_>,
    args: &ProduceArgs,
    json: bool,
    totals: &mut Totals,
) -> Result<Ending> {
    let mut input = Input::open(args.file.as_deref())?;
    if args.create {
        // Before a store is made for it.
        Topic::check_name(&args.topic)?;
    }
    let broker = if args.create { store.open_or_create()? } else { store.open()? };
    let sent = find_topic(&broker, args).and_then(|topic| {
        let acks = match (args.print_acks, json) {
            (false, _) => Acks::Silent,
            (true, false) => Acks::Text(Output::open()?),
            (true, true) => Acks::Json(Output::open()?),
        };
        let producer = broker.producer().acks(args.acks).build()?;
        if args.dedup.is_some() && broker.admin().describe(&topic)?.dedup == DedupWindow::Off {
            tell("warning: the topic has no dedup window: what is there already is written again");
        }
        let partitions = usize::try_from(topic.partitions()).unwrap_or(usize::MAX);
        let mut sender = Sender {
            topic,
            producer,
            batch: usize::try_from(args.batch).unwrap_or(usize::MAX),
            pending: (0..partitions).map(|_| Pending::default()).collect(),
            waiting: Vec::new(),
            pending_bytes: 0,
            dedup: args.dedup,
            acks,
            totals,
        };
        sender.send_all(&mut input, args.key_separator.as_ref())
    });
    let closed = broker.close();
    sent?;
    closed?;
    Ok(Ending::Done)
}

fn find_topic(broker: &Broker, args: &ProduceArgs) -> Result<Topic> {
    match broker.topic(&args.topic) {
        Err(Error::UnknownTopic { .. }) if args.create => {
            let window = args.dedup.map_or(DedupWindow::Off, |_| DedupWindow::Retained);
            Ok(broker.create_topic(&args.topic, TopicConfig::new().dedup(window))?)
        }
        Err(Error::UnknownTopic { .. }) => Err(Fail::NoTopic(args.topic.clone())),
        found => Ok(found?),
    }
}

/// An error that names a record of a batch, with its line.
fn refused(batch: &Pending, error: Error) -> Fail {
    if let Error::DedupMismatch(mismatch) = &error
        && let Some(line) = batch.number(mismatch.index)
    {
        return Fail::OtherValue { line, mismatch: mismatch.clone() };
    }
    error.into()
}

/// A file or standard input.
struct Input {
    file: File,
    name: String,
}

impl Input {
    fn open(path: Option<&Path>) -> Result<Self> {
        if let Some(path) = path.filter(|path| *path != Path::new("-")) {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|e| Fail::io(format!("open {name}"), e))?;
            return Ok(Self { file, name });
        }
        let name = "standard input".to_owned();
        // The descriptor itself: `Stdin` would copy everything through a small buffer.
        let file = io::stdin().as_fd().try_clone_to_owned();
        let file = file.map_err(|e| Fail::io(format!("read {name}"), e))?;
        Ok(Self { file: File::from(file), name })
    }

    /// How many bytes there are, if it is a regular file.
    fn bytes(&self) -> Option<u64> {
        self.file.metadata().ok().filter(Metadata::is_file).map(|file| file.len())
    }

    /// Reads once, and tells how much; `None` at the end.
    fn fill(&mut self, lines: &mut Lines) -> Result<Option<u64>> {
        match lines.fill(&mut self.file) {
            Ok(bytes) => Ok(Some(bytes as u64).filter(|bytes| *bytes > 0)),
            Err(error) => Err(Fail::io(format!("read {}", self.name), error)),
        }
    }

    /// Whether a read would return at once. A regular file's always does.
    fn waits(&self) -> bool {
        let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut fds, Some(&at_once)) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(ready) => return ready > 0,
            }
        }
    }
}

/// Where acknowledgements are printed.
enum Acks {
    Silent,
    Text(Output),
    Json(Output),
}

#[derive(Serialize)]
struct AckLine<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
}

impl Acks {
    fn print(&mut self, topic: &Topic, ack: &BatchAck) -> Result<()> {
        let out = match self {
            Acks::Silent => return Ok(()),
            Acks::Text(out) => {
                for offset in ack.offsets() {
                    out.line(format_args!("{} {offset}", ack.partition))?;
                }
                out
            }
            Acks::Json(out) => {
                for offset in ack.offsets() {
                    out.json(&AckLine {
                        topic: topic.name(),
                        partition: ack.partition.get(),
                        offset: offset.get(),
                    })?;
                }
                out
            }
        };
        out.flush()
    }
}

/// A line's key, if it has one, and its value.
fn split<'a>(separator: Option<&Separator>, line: &'a [u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    separator.map_or((None, line), |separator| separator.split(line))
}

/// Sends lines, batch by batch.
struct Sender<'a> {
    topic: Topic,
    producer: Producer,
    /// Most records in one append.
    batch: usize,
    /// By partition.
    pending: Vec<Pending>,
    /// Partitions with pending lines, longest waiting first.
    waiting: Vec<usize>,
    pending_bytes: usize,
    dedup: Option<LineDedup>,
    acks: Acks,
    totals: &'a mut Totals,
}

impl Sender<'_> {
    fn send_all(&mut self, input: &mut Input, separator: Option<&Separator>) -> Result<()> {
        let (mut lines, mut number) = (Lines::new(), 0);
        let progress = Progress::bytes("producing", input.bytes());
        while let Some(bytes) = input.fill(&mut lines)? {
            progress.add(bytes);
            while let Some(line) = lines.next() {
                let (key, value) = split(separator, line);
                number += 1;
                self.push(number, key, value)?;
            }
            if !self.waiting.is_empty() && !input.waits() {
                self.send_pending()?;
            }
        }
        if let Some(line) = lines.last() {
            let (key, value) = split(separator, line);
            self.push(number + 1, key, value)?;
        }
        self.send_pending()
    }

    fn push(&mut self, number: u64, key: Option<&[u8]>, value: &[u8]) -> Result<()> {
        let record = record_of(key, value, self.dedup);
        let key_bytes = key.map_or(0, <[u8]>::len);
        let bytes = key_bytes + value.len() + RECORD_OVERHEAD_BYTES;
        // A line that may be refused must not take those before it down with it.
        let may_be_refused =
            key_bytes > KEY_BYTES_SAFE || key_bytes + value.len() > RECORD_BYTES_SAFE;
        if may_be_refused || self.pending_bytes + bytes > PENDING_BYTES_MAX {
            self.send_pending()?;
        }
        let partition = self.producer.partition_for(&self.topic, &record)?;
        let at = usize::try_from(partition.get()).unwrap_or(usize::MAX);
        let Some(pending) = self.pending.get_mut(at) else {
            // The library gives no partition that the topic does not have.
            return Ok(self.producer.send(&self.topic, record).map(|_| ())?);
        };
        if pending.count() == 0 {
            self.waiting.push(at);
        }
        pending.push(number, key, value);
        self.pending_bytes += bytes;
        if pending.count() >= self.batch {
            self.waiting.retain(|waiting| *waiting != at);
            self.send(at)?;
        }
        Ok(())
    }

    fn send_pending(&mut self) -> Result<()> {
        for at in std::mem::take(&mut self.waiting) {
            self.send(at)?;
        }
        Ok(())
    }

    /// Sends what is pending of one partition as one batch.
    fn send(&mut self, at: usize) -> Result<()> {
        let Some(pending) = self.pending.get_mut(at) else { return Ok(()) };
        let partition = PartitionId::new(u32::try_from(at).unwrap_or(u32::MAX));
        let sent = self.producer.send_batch(&self.topic, partition, &pending.records(self.dedup));
        let ack = sent.map_err(|error| refused(pending, error))?;
        self.totals.records += pending.count() as u64;
        self.totals.duplicates += ack.duplicates;
        self.totals.bytes += pending.bytes() as u64;
        self.pending_bytes -= pending.bytes() + pending.count() * RECORD_OVERHEAD_BYTES;
        pending.clear();
        self.acks.print(&self.topic, &ack)
    }
}
