//! `plimsoll stats` shows what is in the store, also beside the process that has it open.
//!
//! Invariants
//!   1. With `--json` there is an object for each partition and then one for the broker, with the
//!      keys that `docs/metrics.md` lists, all snake_case.
//!   2. Offsets, segments and sizes are those of the store, and follow a live process.
//!   3. It holds the lock for no longer than one look, and with `--interval` not at all.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;

use crate::cli::Shell;

/// The objects of the partitions, and that of the broker.
fn stats(shell: &Shell, args: &[&str]) -> (Vec<Value>, Value) {
    let mut objects = shell.run(&[&["stats", "--json"], args].concat()).done().json();
    let broker = objects.pop().expect("an object for the broker");
    assert_eq!(broker["type"], "broker");
    assert!(objects.iter().all(|object| object["type"] == "partition"), "{objects:?}");
    (objects, broker)
}

/// The keys in the tables below a heading of the documentation.
fn documented(heading: &str) -> BTreeSet<String> {
    let text = include_str!("../../docs/metrics.md");
    let section = text.split("\n## ").find(|section| section.starts_with(heading));
    let rows = section.expect("a section").lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next().map(str::to_owned)).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn the_objects_have_the_keys_that_are_documented() {
    let shell = Shell::with_topic(&["--partitions", "2"]);
    shell.produce(b"a\nb\n");
    let (partitions, broker) = stats(&shell, &[]);
    assert_eq!(partitions.len(), 2);
    assert_eq!(keys(&broker), documented("The broker"));
    assert_eq!(keys(&broker["batch_bytes"]), documented("Distributions"));
    assert_eq!(keys(&broker["sync_latency_us"]), documented("Distributions"));
    for (number, partition) in partitions.iter().enumerate() {
        assert_eq!(keys(partition), documented("A partition"));
        assert_eq!((&partition["topic"], &partition["partition"]), (&"t".into(), &number.into()));
    }
    let all = keys(&broker).into_iter().chain(keys(&partitions[0]));
    let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    assert!(all.into_iter().all(|key| key.chars().all(snake)));
}

#[test]
fn a_store_is_told_as_it_is() {
    let shell = Shell::with_topic(&["--segment-bytes", "64k"]);
    shell.produce("a line of the input\n".repeat(10_000).as_bytes());
    let (partitions, broker) = stats(&shell, &[]);
    let [p] = &partitions[..] else { panic!("{partitions:?}") };
    for name in ["high_watermark", "durable_offset", "log_end_offset", "seen_end_offset"] {
        assert_eq!(p[name], 10_000, "{name}");
    }
    let files = shell.segments();
    let bytes: u64 = files.iter().map(|file| file.metadata().expect("a file").len()).sum();
    assert!(files.len() > 3);
    assert_eq!((&p["segments"], &p["log_start_offset"]), (&files.len().into(), &0.into()));
    assert_eq!((&p["bytes_on_disk"], &p["halted"]), (&bytes.into(), &false.into()));
    assert!(p["last_append_time"].is_i64() && p["records_per_second"].is_null());
    assert_eq!((&broker["topics"], &broker["partitions"]), (&1.into(), &1.into()));
    assert_eq!((&broker["opened_clean"], &broker["records_appended"]), (&true.into(), &0.into()));
    assert!(broker["oldest_pinned"].is_null());

    let ran = shell.run(&["stats"]).done();
    assert_eq!(ran.err, "");
    let lines = ran.lines();
    let [header, row, "", sum] = lines[..] else { panic!("{ran:?}") };
    assert!(header.starts_with("topic  partition  log_start_offset"), "{ran:?}");
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..6], ["t", "0", "0", "10000", "10000", "10000"], "{ran:?}");
    assert!(row.ends_with("s ago"), "{ran:?}");
    assert!(sum.starts_with("1 topic, 1 partition, "), "{ran:?}");
}

#[test]
fn beside_a_live_process_its_files_tell_how_far_it_is() {
    let shell = Shell::with_topic(&[]);
    let mut holder = shell.lock();
    for sent in 1..4 {
        let (partitions, broker) = stats(&shell, &[]);
        assert_eq!(partitions[0]["seen_end_offset"], sent, "{partitions:?}");
        assert!(partitions[0]["last_append_time"].is_i64());
        assert_eq!(broker["partitions"], 1);
        holder.say("more\n");
        holder.hear();
    }
    let ran = shell.run(&["stats"]).done();
    assert!(ran.err.contains("note: ") && ran.err.contains("locked"), "{ran:?}");

    // Again and again, in one run: what came in between shows as a rate.
    let mut looking = shell.start(&["stats", "--json", "--interval", "1ms"]);
    let mut ends = Vec::new();
    while ends.last().is_none_or(|end| *end < 6) {
        let seen: Value = serde_json::from_str(&looking.hear()).expect("an object");
        let broker: Value = serde_json::from_str(&looking.hear()).expect("an object");
        let end = seen["seen_end_offset"].as_u64().expect("a number");
        let first = ends.is_empty();
        assert_eq!(seen["records_per_second"].is_null(), first, "{seen}");
        assert_eq!(broker["records_per_second"].is_null(), first, "{broker}");
        if let Some(before) = ends.last() {
            let rate = seen["records_per_second"].as_f64().expect("a number");
            assert_eq!(rate > 0.0, end > *before, "{seen} after {before}");
        } else {
            assert_eq!(end, 4);
            holder.say("more\nand more\n");
        }
        ends.push(end);
    }
    looking.signal("INT");
    looking.end().done();
    holder.end().done();
}

#[test]
fn an_interval_holds_no_lock_and_counts_its_looks() {
    let shell = Shell::with_topic(&[]);
    shell.produce(b"a\n");
    let mut command = shell.command(&["stats", "--json", "--interval", "1h"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a child");
    let mut looking = crate::cli::Talk::new(child);
    looking.hear();
    looking.hear();
    // It sleeps now, and whoever wants the store has it.
    shell.produce(b"b\n");
    looking.signal("TERM");
    assert_eq!(looking.end().done().text(), "");

    let ran = shell.run(&["stats", "--json", "--interval", "1ms", "--count", "3"]).done();
    assert_eq!((ran.lines().len(), ran.err.as_str()), (3 * 2, ""));
}
