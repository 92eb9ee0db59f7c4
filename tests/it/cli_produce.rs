//! `plimsoll produce` keeps its contract.
//!
//! Invariants
//!   1. A record is a line without its newline, byte for byte; a key ends at the first separator.
//!   2. Keyed lines lie where Kafka puts them; lines of a partition keep their order.
//!   3. An acknowledgement is printed after it was given, before more input is waited for.
//!   4. The last line on standard error counts what was acknowledged, after an error too.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Command;

use crate::cli::{Ran, Shell};

/// The counts of the last line on standard error.
fn summary(ran: &Ran) -> (u64, u64, u64) {
    let line = ran.err.lines().last().expect("a last line");
    let words: Vec<(&str, &str)> = line.split(' ').filter_map(|w| w.split_once('=')).collect();
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["records", "bytes", "duplicates", "seconds"], "{line}");
    assert!(words[3].1.parse::<f64>().is_ok_and(|seconds| seconds >= 0.0), "{line}");
    let count = |at: usize| words[at].1.parse().expect("a count");
    (count(0), count(1), count(2))
}

#[test]
fn lines_come_back_byte_for_byte() {
    let inputs: [(&[u8], u64); 8] = [
        (b"", 0),
        (b"\n", 1),
        (b"one\ntwo\n", 2),
        (b"one\ntwo", 2),
        (b"crlf\r\n\r\n\n\nend", 5),
        (b" \t leading and trailing \t \n", 1),
        (b"\xff\xfe\x00\x01\n\x80\n\xc3", 3),
        (b"%v \\n \"quoted\"\n", 1),
    ];
    for (input, records) in inputs {
        let shell = Shell::with_topic(&[]);
        let ran = shell.feed(&["produce", "t"], input).done();
        assert!(ran.out.is_empty(), "{ran:?}");
        let newlines = input.iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(summary(&ran), (records, (input.len() - newlines) as u64, 0));
        let mut expected = input.to_vec();
        if input.last().is_some_and(|&byte| byte != b'\n') {
            expected.push(b'\n');
        }
        assert_eq!(shell.run(&["consume", "t"]).done().out, expected);
    }
}

#[test]
fn many_lines_come_back_in_order_from_a_file_and_from_a_pipe() {
    let mut input = Vec::new();
    for number in 0..50_000_u32 {
        // Now and then a line is longer than what is read at once.
        let padding = if number % 20_000 == 19_999 { 1_000_000 } else { number as usize % 90 };
        writeln!(input, "{number}{}", "-".repeat(padding)).expect("room");
    }
    let shell = Shell::with_topic(&["--durability", "os"]);
    let file = shell.folder().join("input");
    fs::write(&file, &input).expect("a file");
    let from_file = shell.run(&["produce", "t", file.to_str().expect("text")]).done();
    let from_pipe = shell.feed(&["produce", "t", "-"], &input).done();
    assert_eq!(summary(&from_file).0, 50_000);
    assert_eq!(summary(&from_file), summary(&from_pipe));
    let out = shell.run(&["consume", "t"]).done().out;
    assert!(out == [&input[..], &input[..]].concat());
}

#[test]
fn a_key_ends_at_the_first_separator() {
    let shell = Shell::with_topic(&[]);
    let input = b"k=>v\nk=>v=>w\nkeyless=\n=>empty key\nempty value=>\n\n\xff=>\xfe\n";
    let ran = shell.feed(&["produce", "t", "--key-separator", "=>"], input).done();
    assert_eq!(summary(&ran), (7, 2 + 5 + 8 + 9 + 11 + 2, 0));
    let out = shell.run(&["consume", "t", "--format", "[%k][%v]"]).done().out;
    let expected = b"[k][v]\n[k][v=>w]\n[][keyless=]\n[][empty key]\n[empty value][]\n[][]\n\
                     [\xff][\xfe]\n";
    assert_eq!(out, expected);
    let keys = shell.run(&["consume", "t", "--json"]).done().json();
    let keys: Vec<String> = keys.iter().map(|record| record["key"].to_string()).collect();
    assert_eq!(keys, ["\"k\"", "\"k\"", "null", "\"\"", "\"empty value\"", "null", "null"]);
}

#[test]
fn keys_lie_where_kafka_puts_them() {
    let shell = Shell::with_topic(&["--partitions", "8"]);
    // Kafka's own test vectors of murmur2.
    let vectors: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let lines: Vec<String> = vectors.iter().map(|(key, _)| format!("{key}:v")).collect();
    shell.feed(&["produce", "t", "--key-separator", ":"], lines.join("\n").as_bytes()).done();
    let ran = shell.run(&["consume", "t", "--format", "%k %p"]).done();
    let mut found = ran.lines();
    let mut expected: Vec<String> =
        vectors.iter().map(|(key, hash)| format!("{key} {}", (hash & 0x7fff_ffff) % 8)).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn order_holds_within_each_partition_and_acknowledgements_tell_it() {
    let shell = Shell::with_topic(&["--partitions", "8"]);
    let mut input = String::new();
    let mut expected: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for number in 0..2_000_u32 {
        let key = format!("key-{}", number * 7 % 50);
        input.push_str(&format!("{key}:{number}\n"));
        let partition = plimsoll::murmur2_partition(key.as_bytes(), 8);
        expected.entry(partition).or_default().push(number.to_string());
    }
    let args = ["produce", "t", "--key-separator", ":", "--print-acks", "--batch", "7"];
    let ran = shell.feed(&args, input.as_bytes()).done();
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for line in ran.lines() {
        let (partition, offset) = line.split_once(' ').expect("two words");
        let next = next.entry(partition.parse().expect("a partition")).or_default();
        assert_eq!(offset.parse(), Ok(*next));
        *next += 1;
    }
    let counts = |(partition, values): (&u32, &Vec<String>)| (*partition, values.len() as u64);
    assert_eq!(next, expected.iter().map(counts).collect());
    let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for line in shell.run(&["consume", "t", "--format", "%p %v"]).done().lines() {
        let (partition, value) = line.split_once(' ').expect("two words");
        found.entry(partition.parse().expect("a partition")).or_default().push(value.into());
    }
    assert_eq!(found, expected);
}

#[test]
fn a_line_does_not_wait_for_a_full_batch_while_no_input_comes() {
    let shell = Shell::with_topic(&[]);
    for batch in ["1", "100"] {
        let mut child = shell.start(&["produce", "t", "--print-acks", "--batch", batch]);
        child.say("first\n");
        let first = child.hear();
        child.say("second\nthird\nunfinished");
        let (second, third) = (child.hear(), child.hear());
        child.say(" line");
        let ran = child.end().done();
        let mut heard = vec![first.as_str(), &second, &third];
        heard.extend(ran.lines());
        let offsets: Vec<u64> = heard
            .iter()
            .map(|line| line.strip_prefix("0 ").expect("partition 0").parse().expect("an offset"))
            .collect();
        assert!(offsets.is_sorted_by(|a, b| a + 1 == *b) && offsets.len() == 4, "{offsets:?}");
        assert_eq!(summary(&ran).0, 4);
    }
    let values = shell.run(&["consume", "t", "--max", "4"]).done();
    assert_eq!(values.lines(), ["first", "second", "third", "unfinished line"]);
}

#[test]
fn a_file_is_sent_in_full_batches() {
    let shell = Shell::with_topic(&[]);
    let file = shell.folder().join("input");
    fs::write(&file, "line\n".repeat(250)).expect("a file");
    let file = file.to_str().expect("text");
    shell.run(&["produce", "t", file]).done();
    shell.run(&["produce", "t", file, "--batch", "200"]).done();
    let segment = shell.segments().remove(0);
    let dump = shell.run(&["dump", segment.to_str().expect("text"), "--json"]).done().json();
    let batches: Vec<u64> = dump
        .iter()
        .filter(|o| o["type"] == "batch")
        .filter_map(|o| o["records"].as_u64())
        .collect();
    assert_eq!(batches, [100, 100, 50, 200, 50]);
}

#[test]
fn acknowledgements_can_be_objects() {
    let shell = Shell::with_topic(&[]);
    let ran = shell.feed(&["produce", "t", "--print-acks", "--json"], b"a\nb\n").done();
    let acks = ran.json();
    assert_eq!(acks.len(), 2);
    assert_eq!((&acks[1]["partition"], &acks[1]["offset"]), (&0.into(), &1.into()));
    assert_eq!(summary(&ran).0, 2);
}

#[test]
fn every_kind_of_acknowledgement_is_taken() {
    let shell = Shell::with_topic(&[]);
    for acks in ["none", "leader", "all"] {
        let ran = shell.feed(&["produce", "t", "--acks", acks, "--print-acks"], b"a\n").done();
        assert_eq!(ran.lines().len(), 1);
    }
    assert_eq!(shell.run(&["consume", "t"]).done().text(), "a\na\na\n");
}

#[test]
fn create_makes_what_is_missing_and_nothing_else() {
    let shell = Shell::new();
    shell.feed(&["produce", "t"], b"a\n").failed("no store");
    shell.feed(&["produce", "t", "--create"], b"a\n").done();
    shell.feed(&["produce", "u"], b"a\n").failed("unknown topic");
    shell.run(&["topic", "create", "p", "--partitions", "4"]).done();
    shell.feed(&["produce", "p", "--create"], b"a\n").done();
    let described = shell.run(&["topic", "describe", "p", "--json"]).done().json();
    assert_eq!(described[0]["partition_count"], 4);
}

#[test]
fn the_first_error_stops_it_and_what_was_acknowledged_counts() {
    let shell = Shell::with_topic(&[]);
    let mut input = b"small\nalso small\n".to_vec();
    input.resize(input.len() + (2 << 20), b'x');
    input.extend_from_slice(b"\nnever reached\n");
    let ran = shell.feed(&["produce", "t", "--print-acks"], &input).failed("above its limit");
    assert_eq!(summary(&ran), (2, 15, 0));
    assert_eq!(ran.text(), "0 0\n0 1\n");
    // A line that never ends is refused while it is read.
    let input = vec![b'x'; 200 << 20];
    let ran = shell.feed(&["produce", "t"], &input).failed("above its limit");
    assert_eq!(summary(&ran), (0, 0, 0));
    // So is a key that is longer than any.
    let mut input = b"last\n".to_vec();
    input.resize(input.len() + (65 << 10), b'k');
    input.extend_from_slice(b":v\n");
    shell.feed(&["produce", "t", "--key-separator", ":"], &input).failed("above its limit");
    assert_eq!(shell.run(&["consume", "t"]).done().text(), "small\nalso small\nlast\n");
}

#[test]
fn an_input_that_cannot_be_read_is_an_error() {
    let shell = Shell::with_topic(&[]);
    let ran = shell.run(&["produce", "t", "no-such-file"]).failed("could not open no-such-file");
    assert_eq!(summary(&ran), (0, 0, 0));
    // A folder can be opened and not be read.
    shell.run(&["produce", "t", "."]).failed("could not read .");
}

#[test]
fn acknowledgements_that_nobody_can_read_end_it() {
    let shell = Shell::with_topic(&[]);
    let mut child = shell.start(&["produce", "t", "--print-acks"]);
    child.say("a\n");
    child.hear();
    child.hang_up();
    child.say("b\n");
    let ran = child.end().failed("standard output");
    // The record is there all the same, and counted.
    assert_eq!(summary(&ran).0, 2);
    assert_eq!(shell.run(&["consume", "t"]).done().text(), "a\nb\n");
}

/// Sandboxes of containers refuse `statx`, and some say so with an error of their own choice.
#[test]
fn a_sandbox_that_refuses_statx_is_no_failure() {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no strace here, or it may not trace");
        return;
    }
    for error in ["EPERM", "ENOSYS", "EACCES"] {
        let shell = Shell::with_topic(&[]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=statx"]);
        strace.args(["-e", &format!("inject=statx:error={error}")]);
        strace.arg(env!("CARGO_BIN_EXE_plimsoll")).arg("--data").arg(shell.data());
        let file = shell.folder().join("input");
        std::fs::write(&file, "a\nb\n").expect("a file");
        let ran = strace.args(["produce", "t", "--print-acks"]).arg(&file).output();
        let ran = Ran::from(ran.expect("a run")).done();
        assert_eq!(ran.lines(), ["0 0", "0 1"], "{error}: {ran:?}");
    }
}
