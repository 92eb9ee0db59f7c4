//! A snapshot handed to the recorder of the `metrics` crate, behind the feature `metrics`.
//!
//! Not here: when. The application exports as often as its recorder is read.

use ::metrics::{Label, counter, gauge};

use crate::broker::metrics::{Metrics, PartitionMetrics};
use crate::log::Histogram;

/// Which quantiles of a distribution are exported.
const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.99, "0.99"), (0.999, "0.999"), (1.0, "1")];

impl Metrics {
    /// Hands every value to the recorder of the `metrics` crate: the one of this thread, if it has
    /// one, else the process's; without either it does nothing.
    ///
    /// Names begin with `plimsoll_`, counters end in `_total`; values of a partition have the
    /// labels `topic` and `partition`. Of a distribution there are a counter `_count`, a counter
    /// `_sum`, and gauges with the label `quantile`. `docs/metrics.md` lists them.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let broker = plimsoll::Broker::open(dir.path())?;
    /// broker.metrics().export();
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn export(&self) {
        for partition in &self.partitions {
            partition.export();
        }
        counter!("plimsoll_records_appended_all_total").absolute(self.records_appended);
        counter!("plimsoll_bytes_appended_all_total").absolute(self.bytes_appended);
        counter!("plimsoll_bytes_saved_all_total").absolute(self.bytes_saved);
        counter!("plimsoll_batches_appended_all_total").absolute(self.batches_appended);
        counter!("plimsoll_fetches_all_total").absolute(self.fetches);
        counter!("plimsoll_records_fetched_all_total").absolute(self.records_fetched);
        counter!("plimsoll_bytes_fetched_all_total").absolute(self.bytes_fetched);
        counter!("plimsoll_syncs_failed_all_total").absolute(self.syncs_failed);
        counter!("plimsoll_retries_total").absolute(self.retries);
        counter!("plimsoll_fenced_total").absolute(self.fenced);
        counter!("plimsoll_duplicates_all_total").absolute(self.duplicates);
        export_histogram("plimsoll_batch_bytes", &self.batch_bytes);
        export_histogram("plimsoll_sync_latency_us", &self.sync_latency_us);
        gauge!("plimsoll_topics").set(self.topics as f64);
        gauge!("plimsoll_logs_halted").set(self.logs_halted as f64);
        gauge!("plimsoll_under_replicated").set(self.under_replicated as f64);
        gauge!("plimsoll_offline").set(self.offline as f64);
        counter!("plimsoll_volumes_put_out_total").absolute(self.volumes_put_out);
        counter!("plimsoll_volumes_waited_for_total").absolute(self.volumes_waited_for);
        counter!("plimsoll_checks_late_ms_total").absolute(self.checks_late_ms);
        counter!("plimsoll_elections_total").absolute(self.elections);
        counter!("plimsoll_unclean_elections_total").absolute(self.unclean_elections);
        counter!("plimsoll_isr_shrinks_total").absolute(self.isr_shrinks);
        counter!("plimsoll_isr_expands_total").absolute(self.isr_expands);
        counter!("plimsoll_bytes_scrubbed_total").absolute(self.bytes_scrubbed);
        counter!("plimsoll_damage_found_total").absolute(self.damage_found);
        counter!("plimsoll_damage_mended_total").absolute(self.damage_mended);
        gauge!("plimsoll_damaged_offsets").set(self.damaged_offsets as f64);
        gauge!("plimsoll_opened_clean").set(f64::from(u8::from(self.opened_clean)));
        gauge!("plimsoll_tails_cut").set(self.tails_cut as f64);
        gauge!("plimsoll_damaged_ranges").set(self.damaged_ranges as f64);
        gauge!("plimsoll_mappings").set(self.mappings as f64);
        gauge!("plimsoll_descriptors").set(self.descriptors as f64);
        gauge!("plimsoll_segments_pinned").set(self.segments_pinned as f64);
        gauge!("plimsoll_deleted_bytes_pinned").set(self.deleted_bytes_pinned as f64);
        let pinned_for_ms = self
            .oldest_pinned
            .as_ref()
            .and_then(|pinned| pinned.last_append_time)
            .map_or(0, |time| self.time.saturating_sub(time).max(0));
        gauge!("plimsoll_oldest_pinned_ms").set(pinned_for_ms as f64);
    }
}

impl PartitionMetrics {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn export(&self) {
        let labels = vec![
            Label::new("topic", self.topic.to_string()),
            Label::new("partition", self.partition.to_string()),
        ];
        let count = |name: &'static str, value| counter!(name, labels.clone()).absolute(value);
        let set = |name: &'static str, value: u64| gauge!(name, labels.clone()).set(value as f64);
        count("plimsoll_records_appended_total", self.records_appended);
        count("plimsoll_bytes_appended_total", self.bytes_appended);
        count("plimsoll_bytes_saved_total", self.bytes_saved);
        count("plimsoll_batches_appended_total", self.batches_appended);
        count("plimsoll_fetches_total", self.fetches);
        count("plimsoll_records_fetched_total", self.records_fetched);
        count("plimsoll_bytes_fetched_total", self.bytes_fetched);
        count("plimsoll_syncs_total", self.syncs);
        count("plimsoll_syncs_failed_total", self.syncs_failed);
        count("plimsoll_duplicates_total", self.duplicates);
        set("plimsoll_log_start_offset", self.log_start_offset.get());
        set("plimsoll_high_watermark", self.high_watermark.get());
        set("plimsoll_durable_offset", self.durable_offset.get());
        set("plimsoll_log_end_offset", self.log_end_offset.get());
        set("plimsoll_segments", self.segments);
        set("plimsoll_bytes_on_disk", self.bytes_on_disk);
        set("plimsoll_producers", self.producers);
        set("plimsoll_halted", u64::from(self.halted));
    }
}

fn export_histogram(name: &'static str, histogram: &Histogram) {
    counter!(format!("{name}_count")).absolute(histogram.count());
    counter!(format!("{name}_sum")).absolute(histogram.sum());
    for (q, label) in QUANTILES {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge!(name, "quantile" => label).set(histogram.quantile(q) as f64);
    }
}
