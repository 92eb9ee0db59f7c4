//! Opening a store:
//!
//! ```text
//! cargo bench --bench open
//! ```
//!
//! A clean open of 4 GiB of log is short. An open after a kill reads the newest segment and no
//! more, so that with equally full ones it takes as long at 4 GiB as at 64 MiB; the two alternate.
//! A killed store is a copy of a live one's files: sealed segments, which nobody writes to any
//! more, are linked, the others copied and synced.
//!
//! Takes 5 GiB below the target folder while it runs, and exits with 1 if a row is above its bar.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{Broker, Durability, Producer, Record, Topic, TopicConfig};
use support::{Bar, Bench, Row, Run, Show, Side, Sides, bare};

/// A clean open is shorter.
const CLEAN_MAX: Duration = Duration::from_millis(10);
/// The sealed segments of the large store: with the newest one, 4 GiB.
const SEALED: usize = 64;
/// Each batch has one record of so many bytes.
const VALUE_BYTES: usize = (1 << 20) - 256;
/// How many batches the newest segment has.
const NEWEST: usize = 56;

fn main() -> ExitCode {
    let mut bench = Bench::new();
    let clean = Row {
        group: "open",
        name: "clean, 4 GiB",
        show: Show::Time,
        limits: &[],
        bars: &[Bar::Within(CLEAN_MAX)],
        measured_for: Duration::from_secs(1),
    };
    let unclean = Row {
        name: "unclean, 4 GiB beside 64 MiB",
        limits: &["64 MiB"],
        bars: &[Bar::Time { of: 0, at_most: 1.5 }],
        measured_for: Duration::from_secs(8),
        ..clean
    };
    let dir = support::folder();
    // Made by the first row that needs them.
    let (large, small) = (Killed::new(&dir, "large"), Killed::new(&dir, "small"));
    bench.row(&clean, || {
        large.make(SEALED);
        let store = large.store.clone();
        Sides::new(vec![Box::new(move || opened(&store))])
    });
    bench.row(&unclean, || {
        large.make(SEALED);
        small.make(0);
        let after_a_kill = |killed: &Killed| -> Side {
            let killed = killed.clone();
            Box::new(move || {
                killed.restore();
                let run = opened(&killed.copy);
                fs::remove_dir_all(&killed.copy).expect("removed");
                run
            })
        };
        Sides::new(vec![after_a_kill(&small), after_a_kill(&large)])
    });
    bench.finish()
}

/// Times an open, and closes again.
fn opened(store: &Path) -> Run {
    let begun = Instant::now();
    let broker = Broker::open(store).expect("opened");
    let took = begun.elapsed();
    broker.close().expect("closed");
    Run::new(1, took)
}

/// A store, and what a kill would have left of it.
#[derive(Clone)]
struct Killed {
    store: PathBuf,
    image: PathBuf,
    copy: PathBuf,
}

impl Killed {
    fn new(dir: &tempfile::TempDir, name: &str) -> Self {
        let path = |what: &str| dir.path().join(format!("{name}-{what}"));
        Self { store: path("store"), image: path("image"), copy: path("copy") }
    }

    /// Makes both, unless they are there.
    fn make(&self, sealed: usize) {
        if self.image.exists() {
            return;
        }
        let broker = Broker::open(&self.store).expect("opened");
        let config = TopicConfig::new().durability(Durability::Os);
        let topic = broker.create_topic("bench", config).expect("created");
        let producer = broker.producer().build().expect("built");
        append(&producer, &topic);
        while bare::segment_files(&self.store).len() <= sealed {
            append(&producer, &topic);
        }
        while bare::segment_files(&self.store).iter().filter(|path| is_sealed(path)).count()
            < sealed
        {
            thread::sleep(Duration::from_millis(10));
        }
        for _ in 1..NEWEST {
            append(&producer, &topic);
        }
        assert_eq!(bare::segment_files(&self.store).len(), sealed + 1, "the newest has room");
        copy(&self.store, &self.image);
        broker.close().expect("closed");
    }

    /// Makes another copy of what a kill left.
    fn restore(&self) {
        copy(&self.image, &self.copy);
    }
}

fn append(producer: &Producer, topic: &Topic) {
    let value = [b'x'; VALUE_BYTES];
    producer.send(topic, Record::new(&value)).expect("sent");
}

/// Links what is written to no more, copies and syncs the rest.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("created");
    for entry in fs::read_dir(from).expect("a folder") {
        let from = entry.expect("an entry").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else if is_sealed(&from) {
            fs::hard_link(&from, &to).expect("linked");
        } else {
            fs::copy(&from, &to).expect("copied");
            #[expect(clippy::disallowed_methods, reason = "not a file of an open store")]
            File::open(&to).and_then(|file| file.sync_all()).expect("synced");
        }
    }
}

/// True if a segment file ends with a footer.
fn is_sealed(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    if path.extension().is_none_or(|extension| extension != "log") {
        return false;
    }
    let file = File::open(path).expect("a file");
    let length = file.metadata().expect("its length").len();
    let mut magic = [0; 8];
    let read = file.read_at(&mut magic, length.saturating_sub(4096)).expect("read");
    read == magic.len() && magic == *b"PLIMFOOT"
}
