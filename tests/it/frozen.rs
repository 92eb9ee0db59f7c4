//! A process that is frozen puts no volume out when it thaws.
//!
//! Invariants
//!   1. All threads stand still for ten times the timeout: then no volume is out, no other leader
//!      was elected, and how late it was is counted.
//!
//! A child sends and prints what was acknowledged; the parent stops it, waits until it has been
//! silent for long enough, and lets it go on.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use plimsoll::{Broker, Record, TopicConfig};

use crate::child;

const TASK: &str = "freeze";
const NAME: &str = "frozen::a_process_that_was_frozen_goes_on_with_all_volumes";
const TIMEOUT: Duration = Duration::from_millis(200);

/// In the child: sends, and prints each acknowledgement, until it is told to stop.
fn produce(dir: &Path) {
    let volumes = ["a", "b", "c"].map(|name| dir.join(name));
    let builder = Broker::builder().volumes(volumes).heartbeat_interval(TIMEOUT / 10);
    let broker = builder.heartbeat_timeout(TIMEOUT).open().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
    let producer = broker.producer().build().unwrap();
    let mut out = std::io::stdout();
    while !dir.join("stop").exists() {
        for partition in 0..4 {
            producer.send(&topic, Record::new("value").partition(partition)).unwrap();
        }
        writeln!(out, "sent").unwrap();
        out.flush().unwrap();
    }
    let metrics = broker.metrics();
    let out = (metrics.volumes_put_out, metrics.elections, metrics.isr_shrinks);
    println!("counted {} {} {} {}", out.0, out.1, out.2, metrics.checks_late_ms);
    broker.close().unwrap();
}

#[test]
#[cfg_attr(not(unix), ignore = "there is no SIGSTOP")]
fn a_process_that_was_frozen_goes_on_with_all_volumes() {
    if let Some(dir) = child::task(TASK) {
        return produce(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = child::again(NAME, TASK, dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (told, heard) = channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = told.send(line);
        }
    });
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "{name}");
    };
    let sent = |count: usize| {
        let lines = heard.iter().filter(|line| line.starts_with("sent"));
        assert_eq!(lines.take(count).count(), count);
    };
    sent(50);
    signal("-STOP");
    // What it had printed before; then nothing, for as long as that.
    while heard.recv_timeout(TIMEOUT * 10).is_ok() {}
    signal("-CONT");
    sent(50);
    std::fs::write(dir.path().join("stop"), b"").unwrap();
    let counted = heard.iter().find(|line| line.starts_with("counted")).unwrap();
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
    let counted: Vec<u64> =
        counted.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
    let [put_out, elections, shrinks, late_ms] = counted[..] else { panic!("{counted:?}") };
    assert_eq!((put_out, elections, shrinks), (0, 0, 0), "{counted:?}");
    assert!(u128::from(late_ms) >= TIMEOUT.as_millis() * 5, "{counted:?}");
}
