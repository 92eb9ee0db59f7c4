//! `consume`: a topic's records to standard output.
//!
//! Not here: what a record looks like in print (`format`), and who ends it early (`interrupt`).
//!
//! Without `--follow` the end of each partition is its high watermark of when the command began,
//! and the partitions are read one after the other, so that a busy producer cannot keep it running
//! and the same store gives the same output. With it, all are read together.
//!
//! Failure   a damaged range is told, passed, and remembered for the exit code; any other error
//!           ends it. What was read before is printed either way.

use std::sync::Arc;
use std::time::Duration;

use plimsoll::{
    Broker, Consumer, ConsumerBuilder, Corruption, Error, Header, Offset, RecordView, Reset, Start,
    Topic, TopicPartition,
};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::args::ConsumeArgs;
use crate::bytes::Encoded;
use crate::format::Template;
use crate::interrupt::Interrupt;
use crate::output::{Ending, Fail, Output, Result, tell};
use crate::progress::Progress;
use crate::store::{Store, end_look};

pub(crate) fn run(store: &Store<'_>, args: &ConsumeArgs, json: bool) -> Result<Ending> {
    if args.from == Some(Start::Committed) && args.group.is_none() {
        return Err(Fail::Usage("--from committed needs --group"));
    }
    if json && args.format.is_some() {
        return Err(Fail::Usage("--json and --format exclude each other"));
    }
    let interrupt = Interrupt::watch()?;
    let broker = if args.group.is_some() {
        store.open()?
    } else if args.follow {
        // Nothing new could come of a store that is kept from everyone who writes.
        store.open_beside(Some(&args.topic))?
    } else {
        store.open_to_look(Some(&args.topic))?
    };
    let mut reading = Reading {
        shape: if json {
            Shape::Json
        } else {
            Shape::Text(args.format.clone().unwrap_or_default())
        },
        out: Output::open_watched(&interrupt)?,
        interrupt,
        left: args.max,
        ending: Ending::Done,
        progress: Progress::of_printed_records("consuming", args.max),
    };
    let read = reading.read(&broker, args);
    let flushed = reading.out.flush();
    let ending = reading.ending;
    drop(reading);
    end_look(broker);
    read.and(flushed)?;
    Ok(ending)
}

/// Whether there is more to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

enum Shape {
    Text(Template),
    Json,
}

/// A run of the command.
struct Reading {
    shape: Shape,
    out: Output,
    interrupt: Interrupt,
    /// How many records may still be printed.
    left: Option<u64>,
    ending: Ending,
    progress: Progress,
}

impl Reading {
    fn read(&mut self, broker: &Broker, args: &ConsumeArgs) -> Result<()> {
        let topic = broker.topic(&args.topic)?;
        let places = places(&topic, args.partition);
        let start = args.from.unwrap_or(Start::Earliest);
        let mut builder = broker.consumer().start(start).reset(Reset::Error);
        if let Some(group) = &args.group {
            builder = builder.group(group);
        }
        if args.follow || args.group.is_some() {
            let consumer = builder.assign(places).build()?;
            return self.follow(consumer);
        }
        self.read_to_end(broker, &builder, &places, start)
    }

    /// Reads each partition up to where it ends now.
    fn read_to_end(
        &mut self,
        broker: &Broker,
        builder: &ConsumerBuilder,
        places: &[TopicPartition],
        start: Start,
    ) -> Result<()> {
        let admin = broker.admin();
        let mut ends = Vec::with_capacity(places.len());
        for place in places {
            ends.push(admin.latest(&*place.topic, place.partition)?);
        }
        // An offset that is beyond the end of some partitions means that they have nothing to
        // show. Beyond the end of all of them it is a mistake, of which the library tells.
        let beyond_all =
            matches!(start, Start::Offset(offset) if ends.iter().all(|end| offset > *end));
        for (place, end) in places.iter().zip(ends) {
            let mut consumer = builder.clone().assign([place.clone()]).build()?;
            if beyond_all {
                consumer.poll(Duration::ZERO)?;
            }
            if self.read_partition(&mut consumer, place, end)? == Next::Stop {
                break;
            }
        }
        Ok(())
    }

    fn read_partition(
        &mut self,
        consumer: &mut Consumer,
        place: &TopicPartition,
        end: Offset,
    ) -> Result<Next> {
        loop {
            let position = position(consumer, place);
            if position >= end {
                return Ok(Next::GoOn);
            }
            if self.must_stop() {
                return Ok(Next::Stop);
            }
            let records = match consumer.poll(Duration::ZERO) {
                Err(Error::Corrupt(damage)) => {
                    self.pass(consumer, &damage)?;
                    continue;
                }
                polled => polled?,
            };
            for record in records.iter().take_while(|record| record.offset() < end) {
                if self.print(&record)? == Next::Stop {
                    return Ok(Next::Stop);
                }
            }
            self.progress.add(position.distance_to(self::position(consumer, place).min(end)));
            if self::position(consumer, place) <= position {
                // Below the watermark there is always something, unless it is being deleted.
                return Ok(Next::GoOn);
            }
        }
    }

    /// Reads until it is told to end.
    fn follow(&mut self, mut consumer: Consumer) -> Result<()> {
        self.interrupt.wake(consumer.handle());
        let mut wait = Duration::ZERO;
        while !self.must_stop() {
            let records = match consumer.poll(wait) {
                Err(Error::Corrupt(damage)) => {
                    self.pass(&mut consumer, &damage)?;
                    continue;
                }
                polled => polled?,
            };
            let mut printed = 0;
            for record in &records {
                if self.print(&record)? == Next::Stop {
                    return Ok(());
                }
                printed += 1;
            }
            self.progress.add(printed);
            // What is there is printed and flushed before anything is waited for.
            wait = if records.is_empty() { Duration::MAX } else { Duration::ZERO };
            if records.is_empty() {
                self.out.flush()?;
            }
        }
        Ok(())
    }

    fn must_stop(&self) -> bool {
        self.left == Some(0) || self.interrupt.is_set()
    }

    fn print(&mut self, record: &RecordView<'_>) -> Result<Next> {
        if self.must_stop() {
            return Ok(Next::Stop);
        }
        match &self.shape {
            Shape::Text(template) => {
                template.print(record, self.out.bytes()).map_err(Fail::output)?;
            }
            Shape::Json => self.out.json(&RecordLine(record))?,
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(Next::GoOn)
    }

    /// Goes on behind a range that cannot be read.
    fn pass(&mut self, consumer: &mut Consumer, damage: &Corruption) -> Result<()> {
        self.progress.aside(|| tell(format_args!("warning: {damage}")));
        self.ending = Ending::Found;
        let place = TopicPartition::new(Arc::clone(&damage.topic), damage.partition);
        if position(consumer, &place) >= damage.end {
            // Nothing would be passed: the same error would come for ever.
            return Err(Error::Corrupt(Arc::new(damage.clone())).into());
        }
        Ok(consumer.seek(place, damage.end)?)
    }
}

fn places(topic: &Topic, partition: Option<u32>) -> Vec<TopicPartition> {
    let name: Arc<str> = Arc::from(topic.name());
    let place = |partition: u32| TopicPartition::new(Arc::clone(&name), partition);
    match partition {
        Some(partition) => vec![place(partition)],
        None => (0..topic.partitions()).map(place).collect(),
    }
}

fn position(consumer: &Consumer, place: &TopicPartition) -> Offset {
    consumer.positions().get(place).copied().unwrap_or(Offset::MAX)
}

/// A record as an object.
struct RecordLine<'r, 'a>(&'r RecordView<'a>);

impl Serialize for RecordLine<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let record = self.0;
        let headers: Vec<HeaderLine<'_>> = record.headers().map(HeaderLine).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", record.topic())?;
        map.serialize_entry("partition", &record.partition().get())?;
        map.serialize_entry("offset", &record.offset().get())?;
        map.serialize_entry("leader_epoch", &record.leader_epoch().get())?;
        map.serialize_entry("timestamp", &record.timestamp())?;
        map.serialize_entry("append_time", &record.append_time())?;
        Encoded::new(record.key()).put("key", "key_base64", &mut map)?;
        Encoded::new(record.value()).put("value", "value_base64", &mut map)?;
        map.serialize_entry("headers", &headers)?;
        map.end()
    }
}

struct HeaderLine<'a>(Header<'a>);

impl Serialize for HeaderLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", self.0.name())?;
        Encoded::new(Some(self.0.value())).put("value", "value_base64", &mut map)?;
        map.end()
    }
}
