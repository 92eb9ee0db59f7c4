//! `plimsoll bench` measures, and leaves the store as it was.
//!
//! Invariants
//!   1. It appends and reads exactly as many records as were asked for, and says so.
//!   2. Its topic is gone at the end: after success, an error and a signal.
//!   3. It makes a store where there is none.

use serde_json::Value;

use crate::cli::Shell;

fn leaves_nothing(shell: &Shell) {
    assert_eq!(shell.run(&["topic", "list"]).done().text(), "t\n");
    let folders = std::fs::read_dir(shell.data().join("topics")).expect("a folder");
    let names: Vec<_> = folders.flatten().map(|entry| entry.file_name()).collect();
    let of_bench = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("bench");
    assert_eq!(names.iter().find(of_bench), None);
    assert_eq!(shell.run(&["consume", "t"]).done().text(), "kept\n");
}

fn with_a_record() -> Shell {
    let shell = Shell::with_topic(&["--segment-bytes", "64k"]);
    shell.produce(b"kept\n");
    shell
}

/// The objects of the two directions.
fn measured(shell: &Shell, args: &[&str]) -> (Value, Value) {
    let mut objects = shell.run(&[&["bench", "--json"], args].concat()).done().json();
    let consume = objects.pop().expect("an object");
    let produce = objects.pop().expect("an object");
    assert!(objects.is_empty(), "{objects:?}");
    assert_eq!((&produce["type"], &consume["type"]), (&"produce".into(), &"consume".into()));
    (produce, consume)
}

#[test]
fn it_counts_what_was_asked_for() {
    let shell = with_a_record();
    let cases: [(&[&str], u64, u64, u64); 5] = [
        // Records, bytes of their values, appends: the last one of a thread may be smaller.
        (&["--records", "1k", "--size", "1k", "--batch", "100"], 1024, 1 << 20, 11),
        (
            &["--records", "1000", "--threads", "3", "--batch", "10", "--durability", "os"],
            1000,
            100_000,
            102,
        ),
        (&["--records", "5", "--batch", "1", "--acks", "leader"], 5, 500, 5),
        (&["--records", "300", "--acks", "none"], 300, 30_000, 3),
        (&["--records", "3", "--size", "2m", "--durability", "interval:10ms"], 3, 6 << 20, 1),
    ];
    for (args, records, bytes, appends) in cases {
        let (produce, consume) = measured(&shell, args);
        for direction in [&produce, &consume] {
            assert_eq!(
                (&direction["records"], &direction["bytes"]),
                (&records.into(), &bytes.into())
            );
            for name in ["seconds", "records_per_second", "mb_per_second"] {
                assert!(direction[name].as_f64().is_some_and(|number| number > 0.0), "{direction}");
            }
        }
        let latency = &produce["append_latency_us"];
        assert_eq!(latency["count"], appends, "{args:?}");
        let us = |name: &str| latency[name].as_f64().expect("a number");
        assert!(us("p50") > 0.0 && us("p50") <= us("p99") && us("p99") <= us("p999"), "{latency}");
        assert!(us("p999") <= us("max"), "{latency}");
        assert!(consume["append_latency_us"].is_null());
    }
    leaves_nothing(&shell);
}

#[test]
fn it_prints_for_people_too_and_makes_a_store() {
    let shell = Shell::new();
    let ran = shell.run(&["bench", "--records", "200", "--durability", "os"]).done();
    assert_eq!(ran.err, "");
    let lines = ran.lines();
    let [what, produce, consume, append] = lines[..] else { panic!("{ran:?}") };
    assert_eq!(what, "200 records of 100 bytes, 1 thread, 100 to a batch");
    assert!(produce.starts_with("produce ") && produce.contains(" records/s "), "{produce}");
    assert!(consume.starts_with("consume ") && consume.contains(" MB/s "), "{consume}");
    for word in ["p50 ", "p99 ", "p99.9 ", "max ", "of 2 appends"] {
        assert!(append.contains(word), "{append}");
    }
    assert_eq!(shell.run(&["topic", "list"]).done().text(), "");
}

#[test]
fn after_an_error_its_topic_is_gone() {
    let shell = with_a_record();
    shell.run(&["bench", "--replicas", "2"]).failed("need as many volumes");
    leaves_nothing(&shell);
    // No batch can be that large.
    let ran = shell.run(&["bench", "--size", "1m", "--batch", "100"]).failed("a batch");
    assert_eq!(ran.text(), "");
    leaves_nothing(&shell);
    for size in ["1g", "18446744073709551615"] {
        let ran = shell.run(&["bench", "--size", size]);
        assert_eq!(ran.code, 2, "{ran:?}");
        leaves_nothing(&shell);
    }
}

#[test]
fn after_a_signal_its_topic_is_gone() {
    let shell = with_a_record();
    for (signal, records) in [("INT", "100g"), ("TERM", "100g")] {
        let bench = shell.start(&["bench", "--json", "--records", records, "--threads", "2"]);
        // Its topic is there once it is at work.
        let begun = || {
            let folders = std::fs::read_dir(shell.data().join("topics")).expect("a folder");
            folders.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("bench"))
        };
        while !begun() {
            std::thread::yield_now();
        }
        bench.signal(signal);
        let ran = bench.end().done();
        assert!(ran.err.contains("note: it was interrupted"), "{ran:?}");
        let [produce, _] = &ran.json()[..] else { panic!("{ran:?}") };
        assert!(produce["records"].as_u64().is_some_and(|done| done < 100 << 30), "{produce}");
        leaves_nothing(&shell);
    }
}
