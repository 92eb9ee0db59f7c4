//! The command line keeps its contract: arguments, exit codes, what goes to which stream.
//!
//! Invariants
//!   1. Exit code 0: done; 1: found or failed; 2: wrong usage.
//!   2. Standard output carries only what was asked for.
//!   3. Commands that only look work beside the process that holds the lock; others say "locked".
//!
//! `produce`, `consume`, and `verify` with `dump` have files of their own. Nothing here sleeps:
//! where an order matters, a test reads a line that a child prints at that point.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a store in it, and the program to work on it.
pub(crate) struct Shell {
    folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Shell {
    /// Without a store.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    /// With a store and a topic `t`.
    pub(crate) fn with_topic(options: &[&str]) -> Self {
        let shell = Self::new();
        shell.run(&[&["topic", "create", "t"], options].concat()).done();
        shell
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// The program on this store.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = self.bare(&["--data"]);
        command.arg(self.data()).args(args);
        command
    }

    /// The program, told of no store.
    pub(crate) fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.env_remove("PLIMSOLL_DATA").current_dir(self.folder()).args(args);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Ran {
        self.command(args).output().expect("a run").into()
    }

    /// Runs with this on its standard input, a pipe.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a child");
        let mut stdin = child.stdin.take().expect("a pipe");
        thread::scope(|scope| {
            // A child that ended early does not read it all.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output().expect("an end").into()
        })
    }

    /// Appends these lines to `t`.
    pub(crate) fn produce(&self, lines: &[u8]) {
        self.feed(&["produce", "t"], lines).done();
    }

    /// Starts a child that can be talked with.
    pub(crate) fn start(&self, args: &[&str]) -> Talk {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Talk::new(command.spawn().expect("a child"))
    }

    /// A child that holds the lock, and is known to: it has acknowledged a record.
    pub(crate) fn lock(&self) -> Talk {
        let mut child = self.start(&["produce", "t", "--print-acks"]);
        child.say("held\n");
        child.hear();
        child
    }

    /// The files of records, by name.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.data().join("topics"), &mut found);
        found.sort();
        found
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).expect("text");
        assert!(!err.contains("panicked"), "{err}");
        Self { code: output.status.code().expect("an exit"), out: output.stdout, err }
    }
}

impl Ran {
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Exit code 1, and a message with these words.
    pub(crate) fn failed(self, words: &str) -> Self {
        assert!(self.code == 1 && self.err.contains(words), "{words}: {self:?}");
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &&str| serde_json::from_str(line).expect("an object");
        self.lines().iter().map(parse).collect()
    }
}

/// A child with pipes to both sides.
pub(crate) struct Talk {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Talk {
    pub(crate) fn new(mut child: Child) -> Self {
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdin, stdout }
    }

    pub(crate) fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).expect("a reader");
    }

    /// Waits for a line.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("open").read_line(&mut line).expect("a line");
        assert_eq!(line.pop(), Some('\n'), "the child ended");
        line
    }

    /// Stops listening.
    pub(crate) fn hang_up(&mut self) {
        self.stdout = None;
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(sent.success());
    }

    /// Ends the input and waits for the child; its output is what was not heard yet.
    pub(crate) fn end(mut self) -> Ran {
        drop(self.stdin.take());
        let mut out = Vec::new();
        if let Some(mut stdout) = self.stdout.take() {
            std::io::Read::read_to_end(&mut stdout, &mut out).expect("output");
        }
        let mut ran = Ran::from(self.child.wait_with_output().expect("an end"));
        ran.out = out;
        ran
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let shell = Shell::with_topic(&[]);
    let wrong: [&[&str]; 30] = [
        &[],
        &["nothing"],
        &["topic"],
        &["topic", "create"],
        &["topic", "list", "extra"],
        &["topic", "create", "u", "--partitions", "many"],
        &["topic", "create", "u", "--partitions", "0"],
        &["topic", "create", "u", "--durability", "maybe"],
        &["topic", "create", "u", "--durability", "interval:0ms"],
        &["topic", "create", "u", "--segment-bytes", "1x"],
        &["topic", "create", "u", "--segment-bytes", "1"],
        &["topic", "create", "u", "--retention", "7"],
        &["topic", "create", "u", "--dedup", "always"],
        &["topic", "create", "u", "--cleanup", "both"],
        &["produce"],
        &["produce", "t", "--batch", "0"],
        &["produce", "t", "--acks", "most"],
        &["produce", "t", "--key-separator", ""],
        &["produce", "t", "--dedup", "value"],
        &["produce", "t", "--dedup", "key"],
        &["consume", "t", "--from", "yesterday"],
        &["consume", "t", "--from", "committed"],
        &["consume", "t", "--max", "-1"],
        &["consume", "t", "--json", "--format", "%v"],
        &["dump"],
        &["bench", "--threads", "0"],
        &["bench", "--batch", "0"],
        &["bench", "--size", "1x"],
        &["stats", "--count", "3"],
        &["stats", "--interval", "1"],
    ];
    for args in wrong {
        let ran = shell.run(args);
        assert_eq!((ran.code, ran.text()), (2, ""), "{args:?}: {ran:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_what_was_asked_for() {
    let shell = Shell::new();
    for args in [&["--help"][..], &["consume", "--help"], &["--version"]] {
        let ran = shell.run(args).done();
        assert!(!ran.out.is_empty() && ran.err.is_empty(), "{ran:?}");
    }
    assert!(!shell.data().exists());
}

#[test]
fn arguments_that_are_not_utf_8_do_no_harm() {
    use std::os::unix::ffi::OsStrExt;
    let shell = Shell::with_topic(&[]);
    let odd = OsStr::from_bytes(b"\xff\xfe");
    let plain = OsStr::new;
    let ran = shell.run(&[plain("topic"), plain("create"), odd]);
    assert_eq!(ran.code, 2, "{ran:?}");
    shell.run(&[plain("topic"), plain("list"), plain("--data"), odd]).failed("no store");
    shell.run(&[plain("dump"), odd]).failed("could not");
}

#[test]
fn the_store_is_named_before_or_after_the_command_or_in_the_environment() {
    let shell = Shell::with_topic(&[]);
    let is = |ran: Output| assert_eq!(Ran::from(ran).done().text(), "t\n");
    is(shell.bare(&["--data", "data", "topic", "list"]).output().expect("a run"));
    is(shell.bare(&["topic", "--data", "data", "list"]).output().expect("a run"));
    is(shell.bare(&["topic", "list", "--data=data"]).output().expect("a run"));
    is(shell.bare(&["topic", "list"]).env("PLIMSOLL_DATA", "data").output().expect("a run"));
    // What is said on the command line wins.
    let mut command = shell.bare(&["topic", "list", "--data", "data"]);
    is(command.env("PLIMSOLL_DATA", "elsewhere").output().expect("a run"));

    Ran::from(shell.bare(&["topic", "list"]).output().expect("a run")).failed("no store");
    Ran::from(shell.bare(&["topic", "create", "u"]).output().expect("a run")).done();
    assert!(shell.folder().join("plimsoll-data").is_dir());
}

#[test]
fn only_making_a_topic_makes_a_store() {
    let shell = Shell::new();
    let others: [&[&str]; 10] = [
        &["topic", "list"],
        &["topic", "describe", "t"],
        &["topic", "delete", "t"],
        &["produce", "t"],
        &["consume", "t"],
        &["consume", "t", "--follow"],
        &["consume", "t", "--group", "g"],
        &["verify"],
        &["stats"],
        &["stats", "--interval", "1s"],
    ];
    for args in others {
        let ran = shell.run(args).failed("no store");
        assert_eq!(ran.text(), "");
        assert!(!shell.data().exists(), "{args:?}");
    }
    shell.run(&["topic", "create", "t", "--data", "deep/down/data"]).done();
    assert!(shell.folder().join("deep/down/data/topics").is_dir());
    shell.feed(&["produce", "t", "--create"], b"a\n").done();
    assert_eq!(shell.run(&["topic", "list"]).done().text(), "t\n");
}

#[test]
fn a_topic_that_cannot_be_leaves_no_store_behind() {
    let shell = Shell::new();
    shell.run(&["topic", "create", "bad/name"]).failed("invalid topic name");
    shell.run(&["topic", "create", "t", "--replicas", "3"]).failed("need as many volumes");
    let ran = shell.run(&["topic", "create", "t", "--segment-bytes", "1"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    shell.feed(&["produce", "__mine", "--create"], b"a\n").failed("reserved");
    assert!(!shell.data().exists());
}

#[test]
fn topics_are_made_listed_and_deleted_once() {
    let shell = Shell::new();
    for name in ["orders", "a.b_c-D"] {
        let ran = shell.run(&["topic", "create", name]).done();
        assert_eq!((ran.text(), ran.err.as_str()), ("", ""));
    }
    assert_eq!(shell.run(&["topic", "list"]).done().text(), "a.b_c-D\norders\n");
    shell.run(&["topic", "create", "orders"]).failed("exists already");
    shell.run(&["topic", "create", "../up"]).failed("invalid topic name");
    shell.run(&["topic", "describe", "nope"]).failed("unknown topic nope");
    shell.run(&["topic", "delete", "nope"]).failed("unknown topic nope");
    shell.run(&["consume", "nope"]).failed("unknown topic nope");
    shell.feed(&["produce", "nope"], b"a\n").failed("unknown topic nope");
    shell.run(&["topic", "delete", "orders"]).done();
    assert_eq!(shell.run(&["topic", "list"]).done().lines(), ["a.b_c-D"]);
    let listed = shell.run(&["topic", "list", "--json"]).done().json();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["topic"], "a.b_c-D");
}

#[test]
fn a_description_tells_the_configuration_and_every_partition() {
    let shell = Shell::with_topic(&["--partitions", "3", "--durability", "interval:100ms"]);
    shell.feed(&["produce", "t", "--key-separator", ":"], b"a:1\na:2\n").done();
    let described = shell.run(&["--json", "topic", "describe", "t"]).done().json();
    let [topic] = &described[..] else { panic!("{described:?}") };
    assert_eq!(topic["topic"], "t");
    assert_eq!(topic["durability"], "interval:100ms");
    assert_eq!(topic["segment_bytes"], 64 << 20);
    assert_eq!(
        (&topic["record_bytes"], &topic["compression"]),
        (&(1 << 20).into(), &"none".into())
    );
    assert_eq!((&topic["cleanup"], &topic["dedup"]), (&"delete".into(), &"off".into()));
    assert!(topic["retention_ms"].is_null() && topic["retention_bytes"].is_null());
    assert_eq!((&topic["replicas"], &topic["min_insync"]), (&1.into(), &1.into()));
    let partitions = topic["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 3);
    let keyed = plimsoll::murmur2_partition(b"a", 3);
    for partition in partitions {
        let end = if partition["partition"] == keyed { 2 } else { 0 };
        assert_eq!(partition["log_start_offset"], 0);
        for name in ["log_end_offset", "high_watermark", "durable_offset"] {
            assert_eq!(partition[name], end, "{name}");
        }
        assert!(partition["leader_epoch"].is_u64());
    }
    let ran = shell.run(&["topic", "describe", "t"]).done();
    assert!(ran.text().contains("durability       interval:100ms\n"), "{ran:?}");
    assert!(ran.text().contains("unclean_election false\n"), "{ran:?}");
    // Thirteen facts, an empty line, the names of the columns, and a row for each partition.
    assert_eq!(ran.lines().len(), 13 + 2 + 3, "{ran:?}");
}

#[test]
fn beside_a_held_lock_one_can_look_and_nothing_else() {
    let shell = Shell::with_topic(&[]);
    shell.produce(b"before\n");
    let holder = shell.lock();

    let changing: [&[&str]; 5] = [
        &["topic", "create", "u"],
        &["topic", "delete", "t"],
        &["produce", "t"],
        &["consume", "t", "--group", "g"],
        &["bench"],
    ];
    for args in changing {
        shell.run(args).failed("locked");
    }
    let looking: [&[&str]; 7] = [
        &["topic", "list"],
        &["topic", "describe", "t"],
        &["topic", "describe", "t", "--json"],
        &["consume", "t"],
        &["verify"],
        &["stats"],
        &["stats", "--interval", "1ms", "--count", "2"],
    ];
    for args in looking {
        let ran = shell.run(args).done();
        assert!(ran.err.contains("note: ") && ran.err.contains("locked"), "{args:?}: {ran:?}");
    }
    assert_eq!(shell.run(&["topic", "list"]).text(), "t\n");
    assert_eq!(shell.run(&["consume", "t"]).lines()[0], "before");

    holder.end().done();
    let ran = shell.run(&["consume", "t"]).done();
    assert_eq!((ran.text(), ran.err.as_str()), ("before\nheld\n", ""));
}

#[test]
fn what_is_to_come_says_so() {
    let shell = Shell::with_topic(&[]);
    let later: [&[&str]; 6] = [
        &["topic", "create", "u", "--cleanup", "compact"],
        &["consume", "t", "--group", "g"],
        &["group", "list"],
        &["group", "describe", "g"],
        &["group", "reset-offsets", "g", "--topic", "t", "--to", "offset:0", "--dry-run"],
        &["group", "delete", "g"],
    ];
    for args in later {
        let ran = shell.run(args).failed("not yet supported in this version");
        assert_eq!(ran.text(), "", "{args:?}");
    }
}

#[test]
fn damage_on_one_volume_is_mended_from_another_one() {
    let shell = Shell::new();
    let run = |args: &[&str]| shell.run(&[args, &["--data", "a,b,c"]].concat());
    run(&["topic", "create", "t", "--partitions", "1", "--replicas", "3"]).done();
    let lines: String = (0..300).map(|n| format!("line {n}\n")).collect();
    shell.feed(&["produce", "t", "--batch", "10", "--data", "a,b,c"], lines.as_bytes()).done();
    let whole = run(&["consume", "t"]).done();

    // A needle that only one batch has, on two of the volumes.
    for volume in ["a", "b"] {
        let topics = shell.folder().join(volume).join("topics");
        let topic = std::fs::read_dir(topics).expect("listed").next().expect("one").expect("read");
        let folder = std::fs::read_dir(topic.path().join("0")).expect("listed");
        let is_log = |path: &std::path::PathBuf| path.extension().is_some_and(|it| it == "log");
        let mut files = folder.map(|entry| entry.expect("read").path()).filter(is_log);
        let file = files.next().expect("one");
        let mut bytes = std::fs::read(&file).expect("read");
        let at = bytes.windows(8).position(|some| some == b"line 123").expect("it is there");
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).expect("written");
    }
    let found = run(&["verify"]);
    assert_eq!((found.code, found.lines().len()), (1, 2), "{found:?}");
    assert_eq!(run(&["consume", "t"]).done().text(), whole.text());
    let mended = run(&["verify", "--repair"]).done();
    assert!(mended.err.contains("faults=0"), "{mended:?}");
    for line in mended.lines() {
        assert!(line.starts_with("mended topic=t partition=0 volume="), "{line}");
        assert!(line.contains(" offset=120 end_offset=130: a batch fails its checksum"), "{line}");
    }
    assert!(run(&["verify"]).done().text().is_empty());
    assert_eq!(run(&["consume", "t"]).done().text(), whole.text());
}

#[test]
fn a_store_of_several_volumes_goes_on_without_one_of_them() {
    let shell = Shell::new();
    let run = |data: &str, args: &[&str]| shell.run(&[args, &["--data", data]].concat());
    let (all, two) = ("a,b,c", "c,b");
    run(all, &["topic", "create", "t", "--partitions", "3", "--replicas", "1"]).done();
    let lines: String = (0..300).map(|n| format!("k{n}:{n}\n")).collect();
    let produce = ["produce", "t", "--key-separator", ":", "--data", all];
    shell.feed(&produce, lines.as_bytes()).done();
    run(all, &["verify"]).done();
    let count = |ran: Ran| ran.text().lines().count();
    assert_eq!(count(run(all, &["consume", "t"]).done()), 300);

    std::fs::rename(shell.folder().join("a"), shell.folder().join("elsewhere")).expect("moved");
    run(two, &["topic", "create", "u"]).done();
    let consume = |partition| run(two, &["consume", "t", "--partition", partition]);
    let (there, lost): (Vec<Ran>, Vec<Ran>) =
        ["0", "1", "2"].map(consume).into_iter().partition(|ran| ran.code == 0);
    assert!(there.len() == 2 && there.into_iter().all(|ran| count(ran) > 0));
    for ran in lost {
        ran.failed("volume 1 is not there");
    }
    let volumes = run(two, &["volume", "list", "--json"]).done();
    let volumes = volumes.text();
    for told in [r#"{"volume":1,"directory":null,"state":"missing""#, r#""state":"live""#] {
        assert!(volumes.contains(told), "{volumes}");
    }
    assert_eq!(count(run(all, &["volume", "list"]).done()), 4);
    run("b", &["topic", "list"]).failed("only 1 of the 3 volumes");
    let moved = "elsewhere,b,c";
    assert_eq!(count(run(moved, &["consume", "t"]).done()), 300);
    assert_eq!(run(moved, &["topic", "list"]).done().text().lines().count(), 2);
}

#[test]
fn a_volume_comes_and_goes() {
    let shell = Shell::new();
    let run = |data: &str, args: &[&str]| shell.run(&[args, &["--data", data]].concat());
    run("a,b", &["topic", "create", "t"]).done();
    let lines: String = (0..300).map(|n| format!("{n}\n")).collect();
    shell.feed(&["produce", "t", "--data", "a,b"], lines.as_bytes()).done();
    run("a,b", &["volume", "remove", "a"]).failed("drain it first");
    run("a,b", &["volume", "add", "c"]).done();
    run("a,b", &["volume", "add", "c"]).failed("there is a volume in the folder already");
    run("a,b,c", &["volume", "drain", "a"]).done();
    let drained = run("a,b,c", &["volume", "list", "--json"]).done();
    assert!(drained.text().contains(r#""state":"draining""#), "{drained:?}");
    run("a,b,c", &["volume", "remove", "a"]).done();
    run("b,c", &["volume", "remove", "nowhere"]).failed("no volume of the store is there");
    let topic = run("b,c", &["topic", "describe", "t", "--json"]).done().json();
    assert_eq!(topic[0]["partitions"][0]["in_sync"].as_array().map(Vec::len), Some(2));
    assert_eq!(run("b,c", &["consume", "t"]).done().text(), lines);
    run("b,c", &["verify"]).done();
}

#[test]
fn a_topic_is_altered() {
    let shell = Shell::with_topic(&[]);
    let args = ["--retention", "7d", "--retention-bytes", "1m", "--segment-bytes", "64k"];
    shell.run(&[&["topic", "alter", "t", "--partitions", "3"], &args[..]].concat()).done();
    let described = shell.run(&["topic", "describe", "t", "--json"]).done();
    let described = described.text();
    for told in [
        "\"retention_ms\":604800000",
        "\"retention_bytes\":1048576",
        "\"segment_bytes\":65536",
        "\"partition_count\":3",
    ] {
        assert!(described.contains(told), "{told} in {described}");
    }
    // What cannot be changed is named, and what cannot be is no change.
    for (args, named) in
        [(["--durability", "os"], "durability"), (["--partitions", "2"], "partitions")]
    {
        let ran = shell.run(&[&["topic", "alter", "t"], &args[..]].concat());
        assert!(ran.code == 2 && ran.err.contains(named), "{ran:?}");
    }
    // Nothing is done by halves, whichever half it is that cannot be.
    for args in [
        ["--retention", "1d", "--partitions", "2"],
        ["--retention", "1d", "--partitions", "65537"],
        ["--retention", "0s", "--partitions", "4"],
        ["--durability", "os", "--partitions", "4"],
    ] {
        let ran = shell.run(&[&["topic", "alter", "t"], &args[..]].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
    }
    shell.run(&["topic", "alter", "nobody", "--retention", "7d"]).failed("nobody");
    shell.run(&["topic", "alter", "nobody", "--partitions", "7"]).failed("nobody");
    assert_eq!(shell.run(&["topic", "describe", "t", "--json"]).done().text(), described);
}

#[test]
fn retention_is_taken_off_again_and_a_segments_age_is_set() {
    let shell = Shell::with_topic(&["--retention", "7d", "--retention-bytes", "1m"]);
    let described = shell.run(&["topic", "describe", "t"]).done();
    assert!(described.lines().contains(&"segment_age      7d"), "{described:?}");
    let off = ["--retention", "none", "--retention-bytes", "none", "--segment-age", "36h"];
    shell.run(&[&["topic", "alter", "t"], &off[..]].concat()).done();
    let described = shell.run(&["topic", "describe", "t"]).done();
    for fact in ["retention        all", "retention_bytes  all", "segment_age      36h"] {
        assert!(described.lines().contains(&fact), "{fact} in {described:?}");
    }
    let json = shell.run(&["topic", "describe", "t", "--json"]).done().json();
    assert_eq!(json[0]["segment_age_ms"], 36 * 3_600_000);
    assert!(json[0]["retention_ms"].is_null() && json[0]["retention_bytes"].is_null());
    let kept_for_ever = ["topic", "create", "u", "--retention", "none", "--segment-age", "1h"];
    shell.run(&kept_for_ever).done();
    assert_eq!(shell.run(&["topic", "alter", "t", "--retention", "ever"]).code, 2);
}

#[test]
fn errors_advise_what_this_program_can_do() {
    let shell = Shell::with_topic(&[]);
    for args in [&["topic", "delete", "nope"][..], &["consume", "nope"]] {
        let ran = shell.run(args).failed("unknown topic nope");
        assert!(!ran.err.contains("create"), "{ran:?}");
    }
    shell.feed(&["produce", "nope"], b"a\n").failed("make it with `topic create`");
    let holder = shell.lock();
    let ran = shell.run(&["topic", "delete", "t"]).failed("locked");
    assert!(!ran.err.contains("read-only"), "{ran:?}");
    let ran = shell.run(&["topic", "list"]).done();
    assert!(ran.err.contains("locked") && !ran.err.contains("read-only"), "{ran:?}");
    holder.end().done();
}
