//! `stats`: the metrics of the store, as a table or as objects.
//!
//! Not here: counting, which the library does. Beside a live process its files are looked at: they
//! tell offsets, sizes, and when something was last appended; what that process has counted stays
//! its own. A rate is the difference of two looks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use plimsoll::{Broker, Histogram, Metrics, PartitionMetrics, PinnedSegment};
use serde::Serialize;

use crate::args::StatsArgs;
use crate::interrupt::Interrupt;
use crate::output::{Ending, Output, Result, counted, with_units};
use crate::store::{Store, end_look};

pub(crate) fn run(store: &Store<'_>, args: &StatsArgs, json: bool) -> Result<Ending> {
    let mut out = Output::open()?;
    let mut before = Seen::default();
    let Some(interval) = args.interval else {
        let broker = store.open_to_look(None)?;
        let metrics = broker.metrics();
        let printed = print(&mut out, &metrics, &mut before, json);
        end_look(broker);
        return printed.map(|()| Ending::Done);
    };
    let interrupt = Interrupt::watch()?;
    // Not kept open in between: that would keep everyone else out.
    let mut broker = store.open_untouched()?;
    let mut left = args.count;
    loop {
        let metrics = broker.metrics();
        end_look(broker);
        print(&mut out, &metrics, &mut before, json)?;
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) || interrupt.sleep_for(interval) {
            return Ok(Ending::Done);
        }
        broker = reopen(store)?;
    }
}

/// Again, without a word of what was told the first time.
fn reopen(store: &Store<'_>) -> Result<Broker> {
    Ok(store.builder().read_only(true).open()?)
}

/// What the look before saw of each partition, for rates.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    ends: HashMap<(String, u32), u64>,
}

impl Seen {
    /// The time since the last look, if there was one.
    fn look(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.at.replace(now).map(|before| now.duration_since(before))
    }

    /// Records appended per second since the last look.
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
    fn rate(&mut self, partition: &PartitionMetrics, since: Option<Duration>) -> Option<f64> {
        let end = partition.seen_end_offset.get();
        let place = (partition.topic.to_string(), partition.partition.get());
        let before = self.ends.insert(place, end)?;
        let seconds = since?.as_secs_f64();
        (seconds > 0.0).then(|| end.saturating_sub(before) as f64 / seconds)
    }
}

fn print(out: &mut Output, metrics: &Metrics, before: &mut Seen, json: bool) -> Result<()> {
    let since = before.look();
    let rates: Vec<Option<f64>> =
        metrics.partitions.iter().map(|partition| before.rate(partition, since)).collect();
    if json {
        for (partition, rate) in metrics.partitions.iter().zip(&rates) {
            out.json(&PartitionLine::new(metrics.time, partition, *rate))?;
        }
        out.json(&BrokerLine::new(metrics, since.is_some().then(|| rates.iter().flatten().sum())))?;
    } else {
        table(out, metrics, &rates)?;
    }
    out.flush()
}

fn table(out: &mut Output, metrics: &Metrics, rates: &[Option<f64>]) -> Result<()> {
    let longest = metrics.partitions.iter().map(|p| p.topic.len()).max().unwrap_or(0).max(5);
    let shows_rates = rates.iter().any(Option::is_some);
    out.line(format_args!(
        "{:<longest$}  partition  log_start_offset  high_watermark  durable_offset  \
         seen_end_offset  segments     bytes  last_append{}",
        "topic",
        if shows_rates { "  records/s" } else { "" },
    ))?;
    for (p, rate) in metrics.partitions.iter().zip(rates) {
        let last = p.last_append_time.map_or_else(|| "never".into(), |at| ago(metrics.time, at));
        let rate = rate.map(|rate| format!("  {rate:>9.0}")).unwrap_or_default();
        let halted = match p.leader {
            _ if p.halted => "  halted",
            None => "  offline",
            Some(_) if p.in_sync < p.replicas => "  under-replicated",
            Some(_) => "",
        };
        out.line(format_args!(
            "{:<longest$}  {:>9}  {:>16}  {:>14}  {:>14}  {:>15}  {:>8}  {:>8}  {last:>11}{rate}\
             {halted}",
            p.topic,
            p.partition,
            p.log_start_offset,
            p.high_watermark,
            p.durable_offset,
            p.seen_end_offset,
            p.segments,
            with_units(p.bytes_on_disk),
        ))?;
    }
    let sum = |of: fn(&PartitionMetrics) -> u64| metrics.partitions.iter().map(of).sum::<u64>();
    out.line(format_args!(
        "\n{}, {}, {}, {} on disk, {} halted, {} under-replicated, {} offline",
        counted(metrics.topics, "topic"),
        counted(metrics.partitions.len() as u64, "partition"),
        counted(sum(|p| p.segments), "segment"),
        with_units(sum(|p| p.bytes_on_disk)),
        metrics.logs_halted,
        metrics.under_replicated,
        metrics.offline,
    ))
}

/// How long ago something was, in the unit that says most.
fn ago(now_ms: i64, at_ms: i64) -> String {
    // A time out of a file may be any number.
    let seconds = now_ms.saturating_sub(at_ms).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7_200 => format!("{}m ago", seconds / 60),
        7_200..172_800 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[derive(Serialize)]
struct PartitionLine<'a> {
    r#type: &'static str,
    time: i64,
    topic: &'a str,
    partition: u32,
    log_start_offset: u64,
    high_watermark: u64,
    durable_offset: u64,
    log_end_offset: u64,
    seen_end_offset: u64,
    records_appended: u64,
    bytes_appended: u64,
    bytes_saved: u64,
    batches_appended: u64,
    last_append_time: Option<i64>,
    fetches: u64,
    records_fetched: u64,
    bytes_fetched: u64,
    syncs: u64,
    syncs_failed: u64,
    duplicates: u64,
    segments: u64,
    bytes_on_disk: u64,
    mappings: u64,
    descriptors: u64,
    producers: u64,
    halted: bool,
    replicas: u64,
    in_sync: u64,
    leader: Option<u32>,
    records_per_second: Option<f64>,
}

impl<'a> PartitionLine<'a> {
    fn new(time: i64, p: &'a PartitionMetrics, records_per_second: Option<f64>) -> Self {
        Self {
            r#type: "partition",
            time,
            topic: &p.topic,
            partition: p.partition.get(),
            log_start_offset: p.log_start_offset.get(),
            high_watermark: p.high_watermark.get(),
            durable_offset: p.durable_offset.get(),
            log_end_offset: p.log_end_offset.get(),
            seen_end_offset: p.seen_end_offset.get(),
            records_appended: p.records_appended,
            bytes_appended: p.bytes_appended,
            bytes_saved: p.bytes_saved,
            batches_appended: p.batches_appended,
            last_append_time: p.last_append_time,
            fetches: p.fetches,
            records_fetched: p.records_fetched,
            bytes_fetched: p.bytes_fetched,
            syncs: p.syncs,
            syncs_failed: p.syncs_failed,
            duplicates: p.duplicates,
            segments: p.segments,
            bytes_on_disk: p.bytes_on_disk,
            mappings: p.mappings,
            descriptors: p.descriptors,
            producers: p.producers,
            halted: p.halted,
            replicas: p.replicas,
            in_sync: p.in_sync,
            leader: p.leader.map(plimsoll::VolumeId::get),
            records_per_second,
        }
    }
}

#[derive(Serialize)]
struct BrokerLine<'a> {
    r#type: &'static str,
    time: i64,
    opened: i64,
    topics: u64,
    partitions: usize,
    records_appended: u64,
    bytes_appended: u64,
    bytes_saved: u64,
    batches_appended: u64,
    fetches: u64,
    records_fetched: u64,
    bytes_fetched: u64,
    batch_bytes: HistogramLine,
    sync_latency_us: HistogramLine,
    syncs_failed: u64,
    duplicates: u64,
    logs_halted: u64,
    retries: u64,
    fenced: u64,
    under_replicated: u64,
    offline: u64,
    volumes_put_out: u64,
    volumes_waited_for: u64,
    checks_late_ms: u64,
    elections: u64,
    unclean_elections: u64,
    isr_shrinks: u64,
    isr_expands: u64,
    bytes_scrubbed: u64,
    damage_found: u64,
    damage_mended: u64,
    damaged_offsets: u64,
    opened_clean: bool,
    tails_cut: u64,
    damaged_ranges: u64,
    mappings: u64,
    descriptors: u64,
    segments_pinned: u64,
    deleted_bytes_pinned: u64,
    oldest_pinned: Option<PinnedLine<'a>>,
    records_per_second: Option<f64>,
}

#[derive(Serialize)]
struct HistogramLine {
    count: u64,
    sum: u64,
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Serialize)]
struct PinnedLine<'a> {
    topic: &'a str,
    partition: u32,
    base_offset: u64,
    bytes: u64,
    last_append_time: Option<i64>,
    deleted: bool,
}

impl<'a> BrokerLine<'a> {
    fn new(m: &'a Metrics, records_per_second: Option<f64>) -> Self {
        Self {
            r#type: "broker",
            time: m.time,
            opened: m.opened,
            topics: m.topics,
            partitions: m.partitions.len(),
            records_appended: m.records_appended,
            bytes_appended: m.bytes_appended,
            bytes_saved: m.bytes_saved,
            batches_appended: m.batches_appended,
            fetches: m.fetches,
            records_fetched: m.records_fetched,
            bytes_fetched: m.bytes_fetched,
            batch_bytes: HistogramLine::from(&m.batch_bytes),
            sync_latency_us: HistogramLine::from(&m.sync_latency_us),
            syncs_failed: m.syncs_failed,
            duplicates: m.duplicates,
            logs_halted: m.logs_halted,
            retries: m.retries,
            fenced: m.fenced,
            under_replicated: m.under_replicated,
            offline: m.offline,
            volumes_put_out: m.volumes_put_out,
            volumes_waited_for: m.volumes_waited_for,
            checks_late_ms: m.checks_late_ms,
            elections: m.elections,
            unclean_elections: m.unclean_elections,
            isr_shrinks: m.isr_shrinks,
            isr_expands: m.isr_expands,
            bytes_scrubbed: m.bytes_scrubbed,
            damage_found: m.damage_found,
            damage_mended: m.damage_mended,
            damaged_offsets: m.damaged_offsets,
            opened_clean: m.opened_clean,
            tails_cut: m.tails_cut,
            damaged_ranges: m.damaged_ranges,
            mappings: m.mappings,
            descriptors: m.descriptors,
            segments_pinned: m.segments_pinned,
            deleted_bytes_pinned: m.deleted_bytes_pinned,
            oldest_pinned: m.oldest_pinned.as_ref().map(PinnedLine::from),
            records_per_second,
        }
    }
}

impl From<&Histogram> for HistogramLine {
    fn from(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            sum: histogram.sum(),
            p50: histogram.quantile(0.5),
            p99: histogram.quantile(0.99),
            p999: histogram.quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl<'a> From<&'a PinnedSegment> for PinnedLine<'a> {
    fn from(pinned: &'a PinnedSegment) -> Self {
        Self {
            topic: &pinned.topic,
            partition: pinned.partition.get(),
            base_offset: pinned.base_offset.get(),
            bytes: pinned.bytes,
            last_append_time: pinned.last_append_time,
            deleted: pinned.deleted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_times_are_so_far_apart() {
        for (now, at) in [(i64::MAX, i64::MIN), (i64::MIN, i64::MAX)] {
            assert!(ago(now, at).ends_with(" ago"));
        }
    }

    #[test]
    fn times_are_told_in_the_unit_that_says_most() {
        let told = [
            (-5, "0s ago"),
            (119_999, "119s ago"),
            (120_000, "2m ago"),
            (7_200_000, "2h ago"),
            (400_000_000, "4d ago"),
        ];
        for (ms, text) in told {
            assert_eq!(ago(ms, 0), text);
        }
    }
}
