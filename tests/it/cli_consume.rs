//! `plimsoll consume` keeps its contract.
//!
//! Invariants
//!   1. Bytes of records go out unchanged, in the form asked for, and nothing else does.
//!   2. It ends at the end, at `--max`, at a signal, and when nobody reads any more: all exit 0.
//!   3. Damage costs its own range only, a line on standard error, and exit code 1 at the end.

use std::fs::File;
use std::process::Stdio;

use plimsoll::{Broker, Record, TopicConfig};
use serde_json::Value;

use crate::cli::{Ran, Shell};

/// A topic `t` of two records with everything a record can have.
fn rich() -> Shell {
    let shell = Shell::new();
    let broker = Broker::open(shell.data()).expect("a store");
    let topic = broker.create_topic("t", TopicConfig::new()).expect("a topic");
    let producer = broker.producer().build().expect("a producer");
    let full = Record::new("value").key("key").header("a", "1").header("b", b"\xff");
    producer.send(&topic, full.timestamp(1_500)).expect("an ack");
    producer.send(&topic, Record::tombstone("gone").timestamp(-1)).expect("an ack");
    broker.close().expect("an end");
    shell
}

fn consume(shell: &Shell, args: &[&str]) -> Ran {
    shell.run(&[&["consume", "t"], args].concat())
}

#[test]
fn a_format_prints_every_field() {
    let shell = rich();
    let format = r"%t|%p|%o|%k|%v|%h|%T|%%|\t|\x41|\\|%q|\q|%";
    let out = consume(&shell, &["--format", format]).done().out;
    let expected: &[u8] = b"t|0|0|key|value|a=1,b=\xff|1500|%|\t|A|\\\\|%q|\\q|%\n\
                            t|0|1|gone|||-1|%|\t|A|\\\\|%q|\\q|%\n";
    assert_eq!(out, expected, "{}", out.escape_ascii());
    assert_eq!(consume(&shell, &["--format", ""]).done().out, b"\n\n");
    assert_eq!(consume(&shell, &["--format", r"%o\n"]).done().out, b"0\n\n1\n\n");
    assert_eq!(consume(&shell, &["--format", "-%o"]).done().out, b"-0\n-1\n");
}

#[test]
fn an_object_has_every_field_and_loses_no_byte() {
    let shell = rich();
    let records = consume(&shell, &["--json"]).done().json();
    let [full, tombstone] = &records[..] else { panic!("{records:?}") };
    assert_eq!(full["topic"], "t");
    assert_eq!((&full["partition"], &full["offset"]), (&0.into(), &0.into()));
    assert_eq!((&full["key"], &full["value"]), (&"key".into(), &"value".into()));
    assert_eq!(full["timestamp"], 1_500);
    assert!(full["append_time"].is_i64() && full["leader_epoch"].is_u64());
    assert_eq!(full["headers"][0]["value"], "1");
    assert_eq!(full["headers"][1]["name"], "b");
    assert_eq!(full["headers"][1]["value_base64"], "/w==");
    assert_eq!((&tombstone["key"], &tombstone["value"]), (&"gone".into(), &Value::Null));
}

#[test]
fn reading_begins_where_it_is_told_to() {
    let shell = Shell::with_topic(&[]);
    shell.produce(b"0\n1\n2\n3\n4\n");
    let from = |from: &str| consume(&shell, &["--from", from]).done().text().replace('\n', "");
    assert_eq!(consume(&shell, &[]).done().text(), "0\n1\n2\n3\n4\n");
    assert_eq!(from("earliest"), "01234");
    assert_eq!(from("latest"), "");
    assert_eq!(from("offset:0"), "01234");
    assert_eq!(from("offset:3"), "34");
    assert_eq!(from("offset:5"), "");
    assert_eq!(from("time:1970-01-01T00:00:00Z"), "01234");
    assert_eq!(from("time:2999-01-01T00:00:00+01:00"), "");
    let first = consume(&shell, &["--max", "1", "--format", "%T"]).done();
    assert_eq!(from(&format!("time:{}", first.text().trim())), "01234");
    consume(&shell, &["--from", "offset:6"]).failed("out of range");
}

#[test]
fn an_offset_beyond_some_partitions_leaves_them_out() {
    let shell = Shell::with_topic(&["--partitions", "2"]);
    let keyed: Vec<String> = (0..100).map(|key| format!("{key}:v\n")).collect();
    let (mut ends, args) = ([0, 0], ["produce", "t", "--key-separator", ":"]);
    for key in 0..100 {
        let partition = plimsoll::murmur2_partition(key.to_string().as_bytes(), 2);
        ends[partition as usize] += 1;
    }
    shell.feed(&args, keyed.concat().as_bytes()).done();
    let least = ends[0].min(ends[1]);
    let from = format!("offset:{}", least + 1);
    let longer = ends[0].max(ends[1]) - least;
    assert_ne!(longer, 0, "the keys are even: choose others");
    let found = consume(&shell, &["--from", &from]).done().lines().len();
    assert_eq!(found, usize::try_from(longer - 1).expect("a count"));
}

#[test]
fn one_partition_and_a_number_of_records_can_be_asked_for() {
    let shell = Shell::with_topic(&["--partitions", "4"]);
    let lines: Vec<String> = (0..40).map(|key| format!("{key}:v\n")).collect();
    shell.feed(&["produce", "t", "--key-separator", ":"], lines.concat().as_bytes()).done();
    let ran = consume(&shell, &["--partition", "2", "--format", "%p"]).done();
    assert!(!ran.out.is_empty() && ran.lines().iter().all(|line| *line == "2"));
    for max in [0, 1, 39, 40, 41] {
        let ran = consume(&shell, &["--max", &max.to_string()]).done();
        assert_eq!(ran.lines().len(), max.min(40));
    }
    consume(&shell, &["--partition", "4"]).failed("no partition 4");
}

#[test]
fn following_waits_for_more_and_locks_nobody_out() {
    let shell = Shell::with_topic(&["--partitions", "2"]);
    shell.produce(b"before\n");
    let mut child = shell.start(&["consume", "t", "--follow", "--max", "3"]);
    assert_eq!(child.hear(), "before");
    shell.produce(b"while\n");
    assert_eq!(child.hear(), "while");
    shell.produce(b"after\nbeyond\n");
    let ran = child.end().done();
    assert_eq!((ran.text(), ran.err.as_str()), ("after\n", ""));
}

#[test]
fn a_follower_reads_beside_a_producer() {
    let shell = Shell::with_topic(&[]);
    let mut producer = shell.lock();
    let mut follower = shell.start(&["consume", "t", "--follow"]);
    // Seen as soon as it is known to be durable: a second after the producer paused.
    assert_eq!(follower.hear(), "held");
    producer.say("more\n");
    producer.hear();
    assert_eq!(follower.hear(), "more");
    follower.signal("TERM");
    follower.end().done();
    producer.end().done();
}

#[test]
fn signals_end_it_in_good_order() {
    let shell = Shell::with_topic(&[]);
    shell.produce(b"one\n");
    for signal in ["TERM", "INT"] {
        let mut child = shell.start(&["consume", "t", "--follow"]);
        assert_eq!(child.hear(), "one");
        child.signal(signal);
        let ran = child.end().done();
        assert_eq!((ran.text(), ran.err.as_str()), ("", ""));
    }
}

#[test]
fn a_signal_while_the_store_is_opened_ends_it_in_good_order() {
    let shell = Shell::with_topic(&["--durability", "os"]);
    let lines: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    shell.produce(lines.as_bytes());
    // The lock is taken at the beginning of the open. By then the signal has to be watched for.
    let child = shell.start(&["consume", "t"]);
    let process = format!("/proc/{}", child.child.id());
    let holds_the_lock = || {
        let files = std::fs::read_dir(format!("{process}/fd")).expect("a process").flatten();
        let mut paths = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        paths.any(|path| path.ends_with("LOCK"))
    };
    while !holds_the_lock() {
        std::thread::yield_now();
    }
    let status = std::fs::read_to_string(format!("{process}/status")).expect("a process");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    assert_ne!(caught & (1 << (15 - 1)), 0, "SIGTERM would kill it");
    child.signal("TERM");
    child.end().done();
}

#[test]
fn a_signal_while_nobody_reads_loses_nothing_that_was_printed() {
    let shell = Shell::with_topic(&["--durability", "os"]);
    let lines: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    shell.produce(lines.as_bytes());
    // More than a pipe holds: the child is writing when the signal comes.
    let mut child = shell.start(&["consume", "t"]);
    assert_eq!(child.hear(), "0");
    child.signal("TERM");
    let ran = child.end().done();
    let found = ran.lines();
    assert!(found.iter().zip(1..).all(|(line, number)| *line == number.to_string()));
    assert!(ran.out.ends_with(b"\n"));
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let shell = Shell::with_topic(&["--durability", "os"]);
    let lines: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    shell.produce(lines.as_bytes());
    for args in [&["consume", "t"][..], &["consume", "t", "--json"], &["consume", "t", "--follow"]]
    {
        let mut child = shell.start(args);
        child.hear();
        child.hang_up();
        let ran = child.end().done();
        assert_eq!(ran.err, "");
    }
    // Also while it waits for records and writes nothing.
    let mut child = shell.start(&["consume", "t", "--follow", "--from", "offset:199999"]);
    assert_eq!(child.hear(), "199999");
    child.hang_up();
    assert_eq!(child.end().done().err, "");
}

#[test]
fn an_output_that_takes_nothing_is_an_error() {
    let shell = Shell::with_topic(&[]);
    shell.produce(b"a\n");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("a device"));
    for args in [&["consume", "t"][..], &["topic", "list"], &["topic", "describe", "t"]] {
        let ran = shell.command(args).stdout(full()).output().expect("a run");
        Ran::from(ran).failed("could not write standard output");
    }
}
