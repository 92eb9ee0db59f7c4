//! Damage and torn tails: `plimsoll consume`, `verify` and `dump` tell of them and change nothing
//! they were not asked to.
//!
//! Invariants
//!   1. A damaged range is told once, with file and offset; what is good around it is read; exit 1.
//!   2. A torn tail is no fault: a note, exit 0, and nothing acknowledged is missing.
//!   3. `verify` and `dump` change no file.
//!   4. With both copies of the metadata bad, `verify` tells that and every command names
//!      `verify --repair`, after which everything is there again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::cli::Shell;

/// Every file below a folder, with its content.
fn image(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(image(&path));
        } else {
            files.insert(path.clone(), fs::read(path).expect("a file"));
        }
    }
    files
}

/// Flips a bit where these bytes lie in the only segment.
fn damage(shell: &Shell, bytes: &[u8]) -> PathBuf {
    let path = shell.segments().remove(0);
    let content = fs::read(&path).expect("a segment");
    let at = content.windows(bytes.len()).position(|window| window == bytes).expect("the bytes");
    let file = fs::File::options().write(true).open(&path).expect("a segment");
    file.write_all_at(&[content[at] ^ 1], at as u64).expect("a write");
    path
}

/// A topic of four batches: `value-0` to `value-3`.
fn four_batches() -> Shell {
    let shell = Shell::with_topic(&[]);
    shell.feed(&["produce", "t", "--batch", "1"], b"value-0\nvalue-1\nvalue-2\nvalue-3\n").done();
    shell
}

#[test]
fn damage_costs_its_own_records_and_is_told() {
    let shell = four_batches();
    let path = damage(&shell, b"value-1");
    let name = path.to_str().expect("text");

    let ran = shell.run(&["consume", "t"]);
    assert_eq!((ran.code, ran.text()), (1, "value-0\nvalue-2\nvalue-3\n"), "{ran:?}");
    let told: Vec<&str> = ran.err.lines().collect();
    let [line] = told[..] else { panic!("{ran:?}") };
    assert!(line.contains("unreadable") && line.contains("offsets 1 to 1"), "{line}");
    assert!(line.contains(name), "{line}");

    // Who does not come by does not hear of it.
    let ran = shell.run(&["consume", "t", "--from", "offset:2"]).done();
    assert_eq!(ran.text(), "value-2\nvalue-3\n");
    let ran = shell.run(&["consume", "t", "--max", "1"]).done();
    assert_eq!(ran.text(), "value-0\n");
}

#[test]
fn verify_prints_a_line_for_each_fault() {
    let shell = four_batches();
    let ran = shell.run(&["verify"]).done();
    assert!(ran.out.is_empty() && ran.err.contains("faults=0"), "{ran:?}");

    let path = damage(&shell, b"value-1");
    let before = image(&shell.data());
    let ran = shell.run(&["verify"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let lines = ran.lines();
    let [line] = lines[..] else { panic!("{ran:?}") };
    assert!(line.starts_with(path.to_str().expect("text")), "{line}");
    assert!(line.contains("offset=1 ") && line.contains("position="), "{line}");
    assert!(ran.err.contains("faults=1"), "{ran:?}");

    let faults = shell.run(&["verify", "--json"]).json();
    let [fault] = &faults[..] else { panic!("{faults:?}") };
    assert_eq!((&fault["topic"], &fault["partition"]), (&"t".into(), &0.into()));
    assert_eq!((&fault["offset"], &fault["end_offset"]), (&1.into(), &2.into()));
    assert_eq!(fault["file"], path.to_str().expect("text"));
    assert!(fault["position"].is_u64() && fault["what"].is_string());
    assert!(image(&shell.data()) == before, "verify changed a file");
}

#[test]
fn a_store_without_metadata_is_told_and_rebuilt() {
    let shell = Shell::new();
    let options = ["--partitions", "2", "--segment-bytes", "128k", "--dedup", "retained"];
    shell.run(&[&["topic", "create", "t"], &options[..]].concat()).done();
    shell.feed(&["produce", "t", "--dedup", "line"], b"one\ntwo\nthree\n").done();
    let before = shell.run(&["consume", "t", "--format", "%p %o %v"]).done();
    let folder = shell.data().join("metadata");
    for path in image(&folder).keys() {
        let bytes = fs::metadata(path).expect("a file").len();
        let zeros = vec![0; usize::try_from(bytes).expect("small")];
        fs::write(path, zeros).expect("a write");
    }
    let bad = image(&folder);

    let untouched = image(&shell.data());
    let ran = shell.run(&["verify"]);
    let lines = ran.lines();
    let [line] = lines[..] else { panic!("{ran:?}") };
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(line.starts_with(folder.to_str().expect("text")), "{line}");
    assert!(line.contains("topic=__metadata"), "{line}");
    let faults = shell.run(&["verify", "--json"]).json();
    assert_eq!((faults.len(), &faults[0]["topic"]), (1, &"__metadata".into()));
    assert!(image(&shell.data()) == untouched, "verify changed a file");
    for command in [&["topic", "list"][..], &["consume", "t"], &["verify"]] {
        let ran = shell.run(command);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("plimsoll verify --repair"), "{ran:?}");
    }

    let ran = shell.run(&["verify", "--repair"]).done();
    assert!(ran.out.is_empty(), "{ran:?}");
    for told in ["files of 1 topic", "metadata.bad-1", "topic t: partitions=2", "131072"] {
        assert!(ran.err.lines().any(|line| line.contains(told)), "{told}: {ran:?}");
    }
    let after: Vec<Vec<u8>> = image(&shell.data().join("metadata.bad-1")).into_values().collect();
    assert_eq!(after, bad.into_values().collect::<Vec<_>>());

    assert_eq!(shell.run(&["consume", "t", "--format", "%p %o %v"]).done().text(), before.text());
    let ran = shell.feed(&["produce", "t", "--dedup", "line"], b"two\nfour\n").done();
    assert!(ran.err.contains("duplicates=1"), "{ran:?}");
    // Nothing is left to be done.
    let ran = shell.run(&["verify", "--repair"]).done();
    assert!(!ran.err.contains("rebuilt") && !ran.err.contains("lost"), "{ran:?}");
}

/// Kills a producer after one acknowledged record and leaves half a batch behind it.
fn torn() -> Shell {
    let shell = Shell::with_topic(&[]);
    let mut child = shell.lock();
    child.child.kill().expect("a kill");
    child.child.wait().expect("an end");
    let path = shell.segments().remove(0);
    let dump = shell.run(&["dump", path.to_str().expect("text"), "--json"]).done().json();
    let zeros = dump.iter().find(|line| line["type"] == "zeros").expect("room at the end");
    let file = fs::File::options().write(true).open(&path).expect("a segment");
    file.write_all_at(b"half a batch", zeros["position"].as_u64().expect("a number"))
        .expect("room");
    shell
}

#[test]
fn a_torn_tail_is_a_note() {
    let shell = torn();
    let before = image(&shell.data());
    let ran = shell.run(&["verify"]).done();
    assert!(ran.out.is_empty() && ran.err.contains("note: "), "{ran:?}");
    assert!(ran.err.contains("torn tail") && ran.err.contains("faults=0"), "{ran:?}");
    assert!(image(&shell.data()) == before, "verify changed a file");

    let ran = shell.run(&["consume", "t"]).done();
    assert_eq!(ran.text(), "held\n");
    assert!(ran.err.contains("note: ") && ran.err.contains("torn tail"), "{ran:?}");
    // It was cut off, so the next one has nothing to tell.
    let ran = shell.run(&["consume", "t"]).done();
    assert_eq!((ran.text(), ran.err.as_str()), ("held\n", ""));
    assert!(!shell.run(&["verify"]).done().err.contains("torn"));
}

#[test]
fn a_dump_shows_what_is_in_the_file() {
    let shell = Shell::with_topic(&[]);
    shell.feed(&["produce", "t", "--key-separator", ":"], b"k:one\n\xff\x00\n").done();
    let path = shell.segments().remove(0);
    let name = path.to_str().expect("text");
    let before = image(&shell.data());

    let ran = shell.run(&["dump", name]).done();
    assert_eq!(ran.err, "");
    assert!(ran.text().contains(r#"key="k" value="one""#), "{ran:?}");
    assert!(ran.text().contains(r#"value="\xff\x00""#), "{ran:?}");
    let objects = shell.run(&["--json", "dump", name]).done().json();
    assert_eq!(objects.len(), ran.lines().len());
    assert_eq!(objects[0]["type"], "segment");
    let records: Vec<_> = objects.iter().filter(|o| o["type"] == "record").collect();
    assert_eq!((&records[0]["key"], &records[0]["value"]), (&"k".into(), &"one".into()));
    assert_eq!((&records[1]["offset"], &records[1]["value_base64"]), (&1.into(), &"/wA=".into()));
    assert!(image(&shell.data()) == before, "dump changed a file");
}

#[test]
fn a_dump_needs_no_lock_and_goes_on_after_damage() {
    let shell = four_batches();
    let path = damage(&shell, b"value-1");
    let name = path.to_str().expect("text");
    let holder = shell.lock();
    let ran = shell.run(&["dump", name]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.text().contains("damaged position="), "{ran:?}");
    assert!(ran.text().contains("value-0") && ran.text().contains("value-3"), "{ran:?}");
    holder.end().done();
}

#[test]
fn what_is_no_segment_is_not_dumped() {
    let shell = Shell::with_topic(&[]);
    let file = shell.folder().join("file");
    fs::write(&file, "no segment").expect("a file");
    shell.run(&["dump", "file"]).failed("damaged");
    shell.run(&["dump", "."]).failed("could not read .");
    shell.run(&["dump", "nowhere"]).failed("could not read nowhere");
}

#[test]
fn a_closed_pipe_ends_a_dump_quietly() {
    let shell = Shell::with_topic(&["--durability", "os"]);
    shell.produce("line\n".repeat(20_000).as_bytes());
    let path = shell.segments().remove(0);
    let path = path.to_str().expect("text");
    for args in [&["dump", path][..], &["dump", path, "--json"]] {
        let mut child = shell.start(args);
        child.hear();
        child.hang_up();
        assert_eq!(child.end().done().err, "");
    }
}
