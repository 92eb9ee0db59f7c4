//! What the features `tracing` and `metrics` tell an application that listens.
//!
//! Invariants
//!   1. Opening, recovery, a new and a full segment, a failed sync, a halt, a deletion and closing
//!      are events; appends, fetches and syncs that went well are none.
//!   2. `Metrics::export` gives the recorder every value of the snapshot.
//!
//! The tests take turns: where an event is met for the first time by a thread without a subscriber,
//! `tracing` remembers it as wanted by nobody, also while another thread has one of its own.

use parking_lot::Mutex;

static TURN: Mutex<()> = Mutex::new(());

/// `tracing`.
#[cfg(feature = "tracing")]
mod events {
    use std::fmt::{Debug, Write as _};
    use std::sync::{Arc, Mutex};

    use plimsoll::sim::{Call, Fault, FaultKind, HowLong, SimDisk};
    use plimsoll::{Background, Broker, ManualClock, Record, TopicConfig};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id};
    use tracing::{Event, Metadata, Subscriber};

    /// Writes down spans and events, a line each.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Notes {
        fn note(&self, line: String) {
            self.0.lock().unwrap().push(line);
        }

        /// How many lines have all of these words.
        fn count(&self, words: &[&str]) -> usize {
            let lines = self.0.lock().unwrap();
            lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
        }

        fn all(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }

    impl Subscriber for Notes {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "plimsoll"
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let mut line = Line(format!("SPAN {}", span.metadata().name()));
            span.record(&mut line);
            self.note(line.0);
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.note(line.0);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    fn open(disk: &SimDisk) -> Broker {
        let builder = Broker::builder().volumes(["v"]).disk(disk).clock(ManualClock::new(0));
        builder.seed(3).background(Background::Inline).open().unwrap()
    }

    #[test]
    fn a_subscriber_sees_what_happens_and_no_append() {
        let _turn = super::TURN.lock();
        let notes = Notes::default();
        let disk = SimDisk::new();
        let after = tracing::subscriber::with_default(notes.clone(), || {
            let broker = open(&disk);
            assert_eq!(notes.count(&["SPAN open", "dir=v"]), 1);
            assert_eq!(notes.count(&["INFO", "the store was opened"]), 1);
            let config = TopicConfig::new().segment_bytes(64 << 10);
            broker.create_topic("t", config).unwrap();
            broker.create_topic("gone", TopicConfig::new()).unwrap();
            assert_eq!(notes.count(&["a topic was made"]), 2);
            let producer = broker.producer().build().unwrap();
            let value = vec![7; 10_000];
            producer.send("t", Record::new(&value)).unwrap();
            assert_eq!(notes.count(&["a segment was begun", "base_offset=0"]), 1);
            let before = notes.all();
            producer.send("t", Record::new("small")).unwrap();
            broker.reader("t").build().unwrap().for_each(drop);
            assert_eq!(notes.all(), before, "nothing is told of an append or a fetch");
            for _ in 0..12 {
                producer.send("t", Record::new(&value)).unwrap();
            }
            let segments = usize::try_from(broker.metrics().partitions[1].segments).unwrap();
            assert!(segments >= 3);
            assert_eq!(notes.count(&["a segment was begun", "topic=t"]), segments);
            assert_eq!(notes.count(&["a segment was sealed", "topic=t"]), segments - 1);
            broker.admin().delete_topic("gone").unwrap();
            assert_eq!(notes.count(&["INFO", "a topic was deleted", "gone"]), 1);

            let (call, what) = (Some(Call::SyncData), FaultKind::Eio);
            disk.arm(Fault { at: 1, call, what, how_long: HowLong::Once });
            producer.send("t", Record::new("lost")).unwrap_err();
            producer.send("t", Record::new("refused")).unwrap_err();
            assert_eq!(notes.count(&["ERROR", "a sync failed"]), 1);
            assert_eq!(notes.count(&["ERROR", "the log halted", "topic=t"]), 1);
            let after = disk.kill();
            broker.close().unwrap_err();
            assert_eq!(notes.count(&["SPAN close"]), 1);
            assert_eq!(notes.count(&["the store was closed", "clean=false"]), 1);
            after
        });
        let notes = Notes::default();
        tracing::subscriber::with_default(notes.clone(), || {
            let broker = open(&after);
            assert_eq!(notes.count(&["the last close was not a clean one"]), 1);
            broker.close().unwrap();
            assert_eq!(notes.count(&["the store was closed", "clean=true"]), 1);
        });
    }
}

/// `metrics`.
#[cfg(feature = "metrics")]
mod export {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };
    use plimsoll::{Background, Broker, Record, TopicConfig};

    /// Keeps the values by name and labels: counters as they are, gauges as the bits of a float.
    #[derive(Default)]
    struct Shelf(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Shelf {
        fn cell(&self, key: &Key) -> Arc<AtomicU64> {
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let name = std::iter::once(key.name().to_owned()).chain(labels).collect();
            Arc::clone(self.0.lock().unwrap().entry(name).or_default())
        }

        fn counter(&self, name: &str) -> u64 {
            let cells = self.0.lock().unwrap();
            cells.get(name).unwrap_or_else(|| panic!("no {name}")).load(Ordering::Relaxed)
        }

        fn gauge(&self, name: &str) -> f64 {
            f64::from_bits(self.counter(name))
        }
    }

    impl Recorder for Shelf {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.cell(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.cell(key))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    #[expect(clippy::float_cmp, clippy::cast_precision_loss, reason = "small whole numbers")]
    fn a_recorder_sees_the_values_of_the_snapshot() {
        let _turn = super::TURN.lock();
        let dir = tempfile::tempdir().unwrap();
        let builder = Broker::builder().volumes([dir.path()]).background(Background::Inline);
        let broker = builder.open().unwrap();
        broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
        let producer = broker.producer().build().unwrap();
        for _ in 0..5 {
            producer.send("t", Record::new("value").partition(1)).unwrap();
        }
        broker.reader("t").partition(1).build().unwrap().for_each(drop);

        let snapshot = broker.metrics();
        let shelf = Shelf::default();
        for _ in 0..2 {
            // Twice: a counter is set, not added to.
            metrics::with_local_recorder(&shelf, || snapshot.export());
        }
        let bytes = snapshot.bytes_appended;
        assert_eq!(shelf.counter("plimsoll_records_appended_all_total"), 5);
        assert_eq!(shelf.counter("plimsoll_bytes_appended_all_total"), bytes);
        assert_eq!(shelf.counter("plimsoll_records_fetched_all_total"), 5);
        assert_eq!(shelf.counter("plimsoll_records_appended_total topic=t partition=1"), 5);
        assert_eq!(shelf.counter("plimsoll_records_appended_total topic=t partition=0"), 0);
        assert_eq!(shelf.gauge("plimsoll_high_watermark topic=t partition=1"), 5.0);
        assert_eq!(shelf.gauge("plimsoll_halted topic=t partition=1"), 0.0);
        assert_eq!(shelf.gauge("plimsoll_opened_clean"), 1.0);
        assert_eq!(shelf.gauge("plimsoll_topics"), 1.0);
        assert_eq!(shelf.counter("plimsoll_batch_bytes_count"), 5);
        assert_eq!(shelf.counter("plimsoll_batch_bytes_sum"), bytes);
        let largest = shelf.gauge("plimsoll_batch_bytes quantile=1");
        assert_eq!(largest, snapshot.batch_bytes.max() as f64);
        assert_eq!(shelf.counter("plimsoll_sync_latency_us_count"), 5);
    }
}
