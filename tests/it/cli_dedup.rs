//! Dedup keys on the command line: what is sent again is there once.
//!
//! Invariants
//!   1. `produce --dedup line` of an input that was sent before, in whole or in part, leaves every
//!      distinct line once, in the order of first appearance, however often it was killed.
//!   2. Duplicates are counted in the summary, by `stats`, and acknowledged with the place of the
//!      first one.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::cli::{Ran, Shell};
use crate::support::random::Random;

fn summary(ran: &Ran) -> (u64, u64) {
    let line = ran.err.lines().last().expect("a last line");
    let count = |name: &str| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
    };
    (count("records"), count("duplicates"))
}

#[test]
fn every_window_can_be_made_and_is_described() {
    for window in ["off", "retained", "records:9", "time:1h"] {
        let shell = Shell::with_topic(&["--dedup", window]);
        let told = shell.run(&["topic", "describe", "t", "--json"]).done().json();
        assert_eq!(told[0]["dedup"], window);
    }
    for window in ["records:0", "time:0s"] {
        let shell = Shell::new();
        let ran = shell.run(&["topic", "create", "t", "--dedup", window]);
        assert!(ran.code == 2 && ran.err.contains("invalid dedup"), "{ran:?}");
    }
}

#[test]
fn lines_that_are_there_are_counted_and_acknowledged_where_they_are() {
    let shell = Shell::with_topic(&["--dedup", "retained"]);
    let args = ["produce", "t", "--dedup", "line", "--print-acks"];
    let first = shell.feed(&args, b"a\nb\na\nc\n").done();
    assert_eq!((first.text(), summary(&first)), ("0 0\n0 1\n0 0\n0 2\n", (4, 1)));
    let second = shell.feed(&args, b"b\nd\nc\n").done();
    assert_eq!((second.text(), summary(&second)), ("0 1\n0 3\n0 2\n", (3, 2)));
    shell.produce(b"a\n");
    assert_eq!(shell.run(&["consume", "t"]).done().text(), "a\nb\nc\nd\na\n");
    let dump = shell.run(&["dump", shell.segments()[0].to_str().expect("text")]).done();
    assert!(dump.text().contains("section kind=5 ") && dump.text().contains("entry hash="));
    assert!(
        dump.text()
            .lines()
            .any(|line| line.starts_with("section kind=5 ") && line.ends_with(" entries=4")),
        "{}",
        dump.text()
    );
    shell.run(&["verify"]).done();
}

#[test]
fn a_line_is_known_by_its_key_and_has_to_be_the_same() {
    let shell = Shell::with_topic(&["--dedup", "records:100"]);
    let args = ["produce", "t", "--dedup", "key", "--key-separator", "="];
    let ran = shell.feed(&args, b"k=1\nl=1\nk=1\nkeyless\nkeyless\n").done();
    assert_eq!(summary(&ran), (5, 1));
    let ran = shell.feed(&args, b"m=1\nk=2\n").failed("another value");
    let told = "line 2 has the dedup key of t partition 0 offset 0";
    assert!(ran.err.contains(told), "{}", ran.err);
    assert_eq!(shell.run(&["consume", "t"]).done().text(), "1\n1\nkeyless\nkeyless\n");
}

#[test]
fn a_topic_that_is_made_on_the_way_remembers_and_one_without_a_window_is_warned_of() {
    let shell = Shell::new();
    let args = ["produce", "t", "--create", "--dedup", "line"];
    shell.feed(&args, b"a\n").done();
    assert_eq!(summary(&shell.feed(&args, b"a\n").done()), (1, 1));

    let shell = Shell::with_topic(&[]);
    let ran = shell.feed(&["produce", "t", "--dedup", "line"], b"a\na\n").done();
    assert!(ran.err.contains("no dedup window"), "{}", ran.err);
    assert_eq!(summary(&ran), (2, 0));
}

/// A log of lines of which many come again, near and far.
fn generated(random: &mut Random, lines: u64) -> String {
    let mut log = String::new();
    for number in 0..lines {
        let number = match random.below(4) {
            0 => random.below(number + 1),
            1 => number.saturating_sub(random.below(5)),
            _ => number,
        };
        let filler = "-".repeat(usize::try_from(number % 71).expect("small"));
        writeln!(log, "request {number} {filler}").expect("a string");
    }
    log
}

fn replayed(seed: u64, durability: &str) {
    const LINES: u64 = 4_000;
    const KILLS: u64 = 10;
    println!("seed {seed}, durability {durability}");
    let mut random = Random(seed);
    let log = generated(&mut random, LINES);
    let options = ["--dedup", "retained", "--segment-bytes", "64k", "--durability", durability];
    let shell = Shell::with_topic(&options);
    let file = shell.folder().join("log");
    std::fs::write(&file, &log).expect("a file");
    let file = file.to_str().expect("text");
    let args = ["produce", "t", file, "--dedup", "line", "--batch", "7", "--print-acks"];
    for kill in 0..KILLS {
        // Of all that it is to acknowledge, or of little more than was before.
        let acks = random.below(LINES * (kill + 1) / KILLS);
        let mut command = shell.command(&args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a child");
        let heard = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        for line in heard.take(usize::try_from(acks).expect("small")) {
            line.expect("a line");
        }
        child.kill().expect("a child");
        child.wait().expect("an end");
    }
    let ran = shell.run(&args).done();
    let mut seen = BTreeSet::new();
    let distinct: Vec<&str> = log.lines().filter(|line| seen.insert(*line)).collect();
    assert_eq!(shell.run(&["consume", "t"]).done().lines(), distinct);
    let (records, duplicates) = summary(&ran);
    assert!(records == LINES && duplicates >= LINES - distinct.len() as u64);
    let ran = shell.run(&args).done();
    assert_eq!(summary(&ran), (LINES, LINES), "now everything is there");
    shell.run(&["verify"]).done();
}

#[test]
fn a_log_that_is_replayed_from_the_top_after_every_kill_is_there_once() {
    replayed(0x5eed_0001, "os");
    replayed(0x5eed_0002, "fsync");
}
