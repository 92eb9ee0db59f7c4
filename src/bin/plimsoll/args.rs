//! The arguments, as types: their names, defaults and help.
//!
//! Not here: what the commands do, and how values are read (`values`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll::{
    Acks, Cleanup, Compression, DedupWindow, Durability, Start, TopicChange, TopicConfig,
};

use crate::format::Template;
use crate::lines::Separator;
use crate::values::{self, Limit};

/// Kafka-like topics in a directory, without a server.
///
/// Standard output carries only what was asked for; summaries, notes and warnings go to standard
/// error. Exit code 0: done; 1: found or failed; 2: wrong usage. Sizes take k, m and g (powers of
/// 1024); durations ms, s, m, h, d and w.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The data directories, one volume each. Partitions are spread over them.
    #[arg(
        long,
        global = true,
        value_name = "DIR[,DIR…]",
        env = "PLIMSOLL_DATA",
        value_delimiter = ',',
        default_value = "./plimsoll-data"
    )]
    pub(crate) data: Vec<PathBuf>,

    /// Print objects instead of text, one a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, list, look at, change and delete topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Append the lines of a file, or of standard input, to a topic.
    Produce(Box<ProduceArgs>),
    /// Print a topic's records.
    Consume(ConsumeArgs),
    /// Not yet: list, look at, reset and delete consumer groups.
    #[command(subcommand)]
    Group(GroupCommand),
    /// List the volumes; add, drain and remove them.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Read every byte of the store; print a line for each fault, and exit with 1 if there is one.
    Verify {
        /// First write records that are damaged on one volume again, from another one that has
        /// them, and print a line for each. Where no copy of a single volume's metadata is good,
        /// rebuild the topics from their files before that, and tell what is not known any more.
        /// Takes the store's lock. Without it nothing is changed.
        #[arg(long)]
        repair: bool,
    },
    /// Print what is in a segment file. Goes on after damage; needs no lock.
    Dump {
        /// The file: <DIR>/topics/<topic>-<id>/<partition>/*.log
        file: PathBuf,
    },
    /// Produce and consume, and print rates and latencies.
    Bench(BenchArgs),
    /// Print what is in the store and what it does: offsets, sizes, counts.
    Stats(StatsArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Make a topic, and the store if there is none.
    Create {
        name: String,
        /// How many partitions.
        #[arg(long, value_name = "N", default_value_t = 1)]
        partitions: u32,
        #[command(flatten)]
        options: TopicOptions,
    },
    /// Print the topics' names.
    List,
    /// Print a topic's configuration, and where its partitions begin and end.
    Describe { name: String },
    /// Change a topic.
    Alter {
        name: String,
        /// How many partitions. There cannot be fewer than before.
        #[arg(long, value_name = "N")]
        partitions: Option<u32>,
        #[command(flatten)]
        options: TopicOptions,
    },
    /// Delete a topic and everything in it.
    Delete { name: String },
}

#[derive(Debug, Args)]
pub(crate) struct TopicOptions {
    /// How many replicas each partition has: by default 3, or as many as there are volumes.
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u16>,
    /// How many replicas must be in sync for an append with --acks all.
    #[arg(long, value_name = "N")]
    pub(crate) min_insync: Option<u16>,
    /// Whether a replica that is not in sync may lead where none that is in sync is there, and
    /// committed records may be lost: true, or false (the default).
    #[arg(long, value_name = "ALLOWED")]
    pub(crate) unclean_leader_election: Option<bool>,
    /// What acknowledged means: fsync (the default), os, or interval:100ms.
    #[arg(long, value_name = "HOW", value_parser = values::durability)]
    pub(crate) durability: Option<Durability>,
    /// Size of a segment file.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(crate) segment_bytes: Option<u64>,
    /// How old a segment's first record may become before the next segment is begun.
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) segment_age: Option<Duration>,
    /// How many bytes of a partition are kept: a size, or none (the default) for no limit.
    #[arg(long, value_name = "SIZE", value_parser = values::bytes_limit)]
    pub(crate) retention_bytes: Option<Limit<u64>>,
    /// How long records are kept: a duration, or none (the default) for ever.
    #[arg(long, value_name = "DURATION", value_parser = values::age_limit)]
    pub(crate) retention: Option<Limit<Duration>>,
    /// How long dedup keys are remembered: off (the default), retained, records:N, or time:1h.
    #[arg(long, value_name = "WINDOW", value_parser = values::dedup)]
    pub(crate) dedup: Option<DedupWindow>,
    /// What happens to old records: delete (the default). Not yet: compact.
    #[arg(long, value_name = "HOW", value_parser = values::cleanup)]
    pub(crate) cleanup: Option<Cleanup>,
    /// How batches are compressed: none (the default), lz4, or zstd. Batches that are there already
    /// stay as they are.
    #[arg(long, value_name = "HOW", value_parser = values::compression)]
    pub(crate) compression: Option<Compression>,
}

/// What was given, set on something whose setters have the options' names; but for the limits,
/// which may be none.
macro_rules! set_given {
    ($given:expr, $on:expr) => {
        set_given!(
            $given,
            $on,
            replicas,
            min_insync,
            unclean_leader_election,
            durability,
            segment_bytes,
            segment_age,
            dedup,
            cleanup,
            compression
        )
    };
    ($given:expr, $on:expr, $($option:ident),*) => {{
        let mut on = $on;
        $(if let Some(value) = $given.$option {
            on = on.$option(value);
        })*
        on
    }};
}

impl TopicOptions {
    /// What was given, as a change of a topic that exists.
    pub(crate) fn change(&self) -> TopicChange {
        let mut change = set_given!(self, TopicChange::new());
        if let Some(Limit(bytes)) = self.retention_bytes {
            change = change.retention_bytes(bytes);
        }
        if let Some(Limit(age)) = self.retention {
            change = change.retention(age);
        }
        change
    }

    /// The library's defaults, which limit nothing, with what was given set.
    pub(crate) fn config(&self) -> TopicConfig {
        let mut config = set_given!(self, TopicConfig::new());
        if let Some(Limit(Some(bytes))) = self.retention_bytes {
            config = config.retention_bytes(bytes);
        }
        if let Some(Limit(Some(age))) = self.retention {
            config = config.retention(age);
        }
        config
    }
}

/// Where a line's dedup key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LineDedup {
    /// The line's value.
    Line,
    /// The line's key; a line without one is always written.
    Key,
}

#[derive(Debug, Args)]
#[command(long_about = "Append the lines of a file, or of standard input, to a topic.\n\n\
    A record is a line without its newline; a last line without one counts. Carriage returns and \
    empty lines are kept, and any bytes may be in a line. The last line on standard error is\n\n  \
    records=N bytes=N duplicates=N seconds=S\n\n\
    which counts what was acknowledged; bytes are those of keys and values. The first error stops \
    it.")]
pub(crate) struct ProduceArgs {
    pub(crate) topic: String,
    /// The file; without it, or with -, standard input.
    pub(crate) file: Option<PathBuf>,
    /// The key ends at the first S; a line without it has none.
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = separator())]
    pub(crate) key_separator: Option<Separator>,
    /// Make the line's value, or its key, the record's dedup key too: in a topic with a dedup
    /// window it is written once to its partition. A topic that --create makes has one, retained.
    /// With --key-separator the value is what follows the key: lines that differ in their keys
    /// alone count as one where they share a partition.
    #[arg(long, requires_if("key", "key_separator"))]
    pub(crate) dedup: Option<LineDedup>,
    /// Who must have a record before it counts as acknowledged: none, leader, or all.
    #[arg(long, value_name = "WHO", default_value = "all", value_parser = values::acks)]
    pub(crate) acks: Acks,
    /// At most this many records of a partition in one all-or-nothing append. Fewer are sent at
    /// the end of the input, and as soon as no more input waits.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) batch: u32,
    /// Print a line `PARTITION OFFSET` for each record once it is acknowledged.
    #[arg(long)]
    pub(crate) print_acks: bool,
    /// Make the topic, and the store, if there is none.
    #[arg(long)]
    pub(crate) create: bool,
}

#[derive(Debug, Args)]
#[command(
    long_about = "Print a topic's records: their values, one a line, up to what was committed \
    when it began.\n\n\
    SIGINT and SIGTERM end it in good order. Where records are damaged, a line on standard error \
    names the range; it goes on with the next good record and exits with 1 at the end.\n\n\
    With --json a record is an object with topic, partition, offset, leader_epoch, timestamp and \
    append_time (milliseconds since the Unix epoch), key, value (null for none) and headers. \
    Bytes that are not UTF-8 are in key_base64 and value_base64 instead."
)]
pub(crate) struct ConsumeArgs {
    pub(crate) topic: String,
    /// Not yet: the consumer group to be a member of.
    #[arg(long, value_name = "G")]
    pub(crate) group: Option<String>,
    /// Where to begin: earliest (the default), latest, offset:N, or time:RFC3339 (or milliseconds
    /// since the Unix epoch). With a group, which is not yet: committed.
    #[arg(long, value_name = "WHERE", value_parser = values::from)]
    pub(crate) from: Option<Start>,
    /// This partition only.
    #[arg(long, value_name = "P")]
    pub(crate) partition: Option<u32>,
    /// At most this many records.
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
    /// Wait for more at the end. The store stays open to others: it is read beside whoever
    /// writes it, up to what is known to be durable.
    #[arg(long)]
    pub(crate) follow: bool,
    /// How to print a record: %t topic, %p partition, %o offset, %k key, %v value, %h headers as
    /// name=value joined by commas, %T timestamp in milliseconds since the Unix epoch, %% a
    /// percent sign, \n \t \xNN (hexadecimal). Any other byte stands for itself; a newline is
    /// added.
    #[arg(long, value_name = "FMT", allow_hyphen_values = true, value_parser = template())]
    pub(crate) format: Option<Template>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Print the groups' names.
    List,
    /// Print a group's members, committed offsets and lag.
    Describe { group: String },
    /// Set where a group goes on.
    ResetOffsets {
        group: String,
        #[arg(long, value_name = "T")]
        topic: String,
        /// Where to: earliest, latest, offset:N, or time:RFC3339.
        #[arg(long, value_name = "WHERE", value_parser = values::to)]
        to: Start,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a group and its committed offsets.
    Delete { group: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Print the volumes, also those that are not there.
    List,
    /// Make a volume in a directory, and add it to the store: give it with --data from then on.
    Add { dir: PathBuf },
    /// Move everything off a volume, leaders first; ends once nothing is on it.
    Drain { dir: PathBuf },
    /// Take a volume out of the store, on which nothing is left. Its files stay.
    Remove {
        dir: PathBuf,
        /// Also if it holds the only copy of something.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
#[command(long_about = "Produce and consume, and print rates and latencies.\n\n\
    Makes a topic of its own, and deletes it at the end; makes the store if there is none. All \
    threads append to one partition, where concurrent appends share syncs. Rates are of values: MB \
    are millions of bytes. A latency is that of one append of --batch records, until its \
    acknowledgement.\n\n\
    With --json there is an object for each direction, with type (produce, consume), records, \
    bytes, seconds, records_per_second, mb_per_second and, of produce, append_latency_us with \
    count, p50, p99, p999 and max.")]
pub(crate) struct BenchArgs {
    /// How many records.
    #[arg(long, value_name = "N", default_value = "100000", value_parser = values::size)]
    pub(crate) records: u64,
    /// Size of a record's value.
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = values::size)]
    pub(crate) size: u64,
    /// How many producing threads.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub(crate) threads: u32,
    /// How many records in one append.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(crate) batch: u32,
    /// Who must have a record: none, leader, or all (the default).
    #[arg(long, value_name = "WHO", value_parser = values::acks)]
    pub(crate) acks: Option<Acks>,
    /// Whether a replica that is not in sync may lead where none that is in sync is there, and
    /// committed records may be lost: true, or false (the default).
    #[arg(long, value_name = "ALLOWED")]
    pub(crate) unclean_leader_election: Option<bool>,
    /// What acknowledged means: fsync (the default), os, or interval:100ms.
    #[arg(long, value_name = "HOW", value_parser = values::durability)]
    pub(crate) durability: Option<Durability>,
    /// How many replicas: by default 3, or as many as there are volumes.
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u16>,
    /// How batches are compressed: none (the default), lz4, or zstd. Values are then made of what
    /// compresses to about a third.
    #[arg(long, value_name = "HOW", value_parser = values::compression)]
    pub(crate) compression: Option<Compression>,
}

#[derive(Debug, Args)]
#[command(long_about = "Print what is in the store and what it does: offsets, sizes, counts.\n\n\
    Beside a process that has the store open its files are looked at, which tell offsets, sizes \
    and when something was last appended; the counts are those of this command then, not of that \
    process. --interval looks again and again, never holds the lock, and adds rates.\n\n\
    With --json there is an object with type partition for each partition, then one with type \
    broker; docs/metrics.md has the keys.")]
pub(crate) struct StatsArgs {
    /// Look again after this long, until it is interrupted or --count is reached.
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) interval: Option<Duration>,
    /// How many looks.
    #[arg(
        long,
        value_name = "N",
        requires = "interval",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) count: Option<u64>,
}

/// Any bytes, also what is not UTF-8.
fn separator() -> ValueParser {
    let parse = |text: OsString| Separator::new(&text.into_vec()).ok_or("a separator has a byte");
    OsStringValueParser::new().try_map(parse).into()
}

/// Any bytes, also what is not UTF-8.
fn template() -> ValueParser {
    OsStringValueParser::new().map(|text: OsString| Template::parse(&text.into_vec())).into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    /// Parses `plimsoll <line>`, split at spaces.
    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("plimsoll").chain(line.split(' ')))
    }

    #[test]
    fn every_command_of_the_contract_is_understood() {
        let lines = [
            "topic create t",
            "topic create t --partitions 8 --replicas 3 --min-insync 2 --durability os \
             --segment-bytes 1m --retention-bytes 1g --retention 7d --dedup records:9 \
             --cleanup compact --compression zstd",
            "topic create t --durability interval:100ms --dedup time:1h --cleanup delete",
            "topic list --json",
            "topic describe t",
            "topic alter t --retention 7d --compression none",
            "topic alter t --retention none --retention-bytes none --segment-age 1h",
            "topic delete t",
            "produce t",
            "produce t - --key-separator - --dedup line --acks none --batch 1 --print-acks",
            "produce t file --dedup key --key-separator : --acks leader --create",
            "consume t --group g --from committed --partition 0 --max 9 --follow",
            "consume t --from offset:9 --format %k=%v",
            "consume t --from time:2026-01-01T00:00:00Z",
            "group list",
            "group describe g",
            "group reset-offsets g --topic t --to earliest --dry-run",
            "group delete g",
            "volume list",
            "volume add d",
            "volume drain d",
            "volume remove d --force",
            "verify --repair",
            "dump file",
            "bench --records 1 --size 1 --threads 1 --batch 1 --acks all --durability os \
             --replicas 1 --compression lz4",
            "bench",
            "stats",
            "stats --interval 1s --count 3",
            "--data a,b stats",
            "stats --data a,b --json",
        ];
        for line in lines {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    /// The help of a command, or of the one below it.
    fn help(path: &[&str]) -> String {
        let mut command = Cli::command();
        for name in path {
            command = command.find_subcommand(name).expect("a command").clone();
        }
        command.render_long_help().to_string()
    }

    #[test]
    fn the_help_marks_what_is_not_there_yet() {
        let marked = |path: &[&str], option: &str| {
            let help = help(path);
            let from = help.find(option).unwrap_or_else(|| panic!("{option} in {help}"));
            let after = &help[from + option.len()..];
            let entry = after.find("\n  -").map_or(after, |end| &after[..end]);
            assert!(entry.to_lowercase().contains("not yet"), "{option} in {path:?}: {entry}");
        };
        assert!(help(&["group"]).starts_with("Not yet: "));
        marked(&["consume"], "--group");
        marked(&["topic", "create"], "--cleanup");
    }

    #[test]
    fn data_is_a_list_before_or_after_the_command() {
        let dirs = [PathBuf::from("a"), PathBuf::from("b/c")];
        for line in ["--data a,b/c topic list", "topic list --data a,b/c"] {
            assert_eq!(parse(line).map(|cli| cli.data).ok().as_deref(), Some(&dirs[..]));
        }
    }
}
