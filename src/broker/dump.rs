//! What is in one segment file, as text: for people, and for the day something is wrong.
//!
//! Not here: whether that is good or bad (`verify`). A dump goes on after damage.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::config::SEGMENT_BYTES_MAX;
use crate::error::{Error, Result};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, DATA_START, DedupEntry, Entry, EpochEntry, FilterLine, Footer,
    Identity, OffsetEntry, PAGE, ProducerEntry, SLOT_POSITIONS, SectionKind, SectionRef,
    SegmentError, SegmentHeader, Slot, TimeEntry, decode_block, parse_segment_file,
};
use crate::fs::{Disk, DiskFile, OpenMode, OsDisk, View, read_exact_at};
use crate::id::ProducerId;
use crate::log::{Image, Mode, Unpackable, check_batch, image, unpack};

/// The file is read in parts of this size; a larger batch is read whole.
const WINDOW_BYTES: u64 = 1 << 20;
/// How much longer than its header's capacity a file may be at most, beside a share of it.
const FILE_BYTES_BEYOND: u64 = 1 << 20;

/// What [`dump_segment`] came across.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DumpSummary {
    /// Good batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Places that hold something else.
    pub damaged: u64,
}

/// Writes what is in a segment file to `out`: header, slots, batches, records, footer, and sections
/// with their entries. Reads only, and takes no lock.
///
/// # Errors
/// `Io` if the file cannot be read or `out` not be written; `Damaged` if the file is no segment, or
/// has lost its header and there is no other of the same log beside it: without knowing whose it is
/// nothing in it can be checked.
pub fn dump_segment(path: impl AsRef<Path>, out: &mut dyn Write) -> Result<DumpSummary> {
    dump_on(&OsDisk, path.as_ref(), out)
}

fn dump_on(disk: &dyn Disk, path: &Path, out: &mut dyn Write) -> Result<DumpSummary> {
    let failed = |e| Error::io("read", path, e);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    let bytes = file.len().map_err(failed)?;
    let head = image(file.as_ref(), 0, bytes.min(PAGE as u64), Mode::ReadOnly).map_err(failed)?;
    let header = match SegmentHeader::decode(head.view.bytes()) {
        Ok(header) => Some(header),
        Err(SegmentError::Incompatible { bits }) => {
            return Err(Error::Incompatible { path: Arc::from(path), bits });
        }
        Err(_) => None,
    };
    let identity = header.map(|header| header.identity());
    let identity = identity.or_else(|| sibling_identity(disk, path)).ok_or_else(|| {
        Error::damaged(path, "not a segment, or its header is damaged and it stands alone")
    })?;
    let mut dump = Dump { file, bytes, identity, window: None, summary: DumpSummary::default() };
    dump.write(header.as_ref(), out).map_err(|e| Error::io("write the dump of", path, e))?;
    Ok(dump.summary)
}

/// Whose file this is, from another segment of the same folder: without it no checksum can be told.
fn sibling_identity(disk: &dyn Disk, path: &Path) -> Option<Identity> {
    let dir = path.parent()?;
    let entries = disk.list(dir).ok()?;
    entries.iter().filter(|e| parse_segment_file(&e.name).is_some()).find_map(|entry| {
        let file = disk.open(&dir.join(&entry.name), OpenMode::Read).ok()?;
        let mut page = [0; PAGE];
        read_exact_at(file.as_ref(), &mut page, 0).ok()?;
        SegmentHeader::decode(&page).ok().map(|header| header.identity())
    })
}

/// A part of the file.
struct Window {
    start: u64,
    image: Image,
}

struct Dump {
    file: Arc<dyn DiskFile>,
    /// The file's length when the dump began. Where it is shorter now, zeros are read.
    bytes: u64,
    identity: Identity,
    window: Option<Window>,
    summary: DumpSummary,
}

/// What lies between two good batches.
struct Gap {
    until: u64,
    /// Nothing but zeros, all of which could be read.
    zeros: bool,
}

impl Dump {
    fn write(&mut self, header: Option<&SegmentHeader>, out: &mut dyn Write) -> io::Result<()> {
        match header {
            Some(header) => writeln!(
                out,
                "segment topic_id={} partition={} base_offset={} generation={} kind={:?} \
                 first_position={} capacity={} created={}",
                header.topic,
                header.partition,
                header.base_offset,
                header.generation,
                header.kind,
                header.first_position,
                header.capacity,
                header.created,
            )?,
            None => self.damaged(0, PAGE as u64, out)?,
        }
        for position in SLOT_POSITIONS {
            let page = self.page(position)?;
            if let Ok(slot) = Slot::decode(page.bytes(), &self.identity) {
                writeln!(
                    out,
                    "slot position={position} sequence={} durable_offset={} \
                     log_start_offset={} catching_up={} clean_mark={}",
                    slot.sequence, slot.durable, slot.log_start, slot.catching_up, slot.clean_mark,
                )?;
            } else {
                self.summary.damaged += 1;
                writeln!(out, "slot position={position} damaged")?;
            }
        }
        let first = header.map_or(DATA_START, |header| header.first_position.max(DATA_START));
        let first = first.min(self.bytes);
        let opening = first.saturating_sub(DATA_START) / PAGE as u64;
        if opening > 0 {
            writeln!(out, "opening_section position={DATA_START} blocks={opening}")?;
            let epochs = self.leading_blocks::<EpochEntry>(SectionKind::Epochs, opening)?;
            self.blocks(SectionKind::Epochs, DATA_START, epochs, show_epoch, out)?;
            let (at, rest) = (DATA_START + epochs * PAGE as u64, opening - epochs);
            self.blocks(SectionKind::Producers, at, rest, show_producer, out)?;
        }
        let footer_at = self.bytes.saturating_sub(PAGE as u64);
        let page = self.page(footer_at)?;
        let footer = Footer::decode(page.bytes(), &self.identity).ok();
        // No file of ours is much longer than its header says; what is behind that is not read.
        let capacity = header.map_or(SEGMENT_BYTES_MAX, |header| header.capacity);
        let reach = capacity.saturating_add(capacity / 64).saturating_add(FILE_BYTES_BEYOND);
        let end = footer.as_ref().map_or(reach, |footer| footer.data_end).min(self.bytes);
        self.batches(first, end, out)?;
        match &footer {
            Some(footer) => self.footer(footer, out)?,
            None if end < self.bytes => self.damaged(end, self.bytes - end, out)?,
            None => {}
        }
        Ok(())
    }

    fn damaged(&mut self, position: u64, bytes: u64, out: &mut dyn Write) -> io::Result<()> {
        self.summary.damaged += 1;
        writeln!(out, "damaged position={position} bytes={bytes}")
    }

    fn footer(&mut self, footer: &Footer, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "footer closing={} base_offset={} end_offset={} records={} batches={} \
             max_timestamp={} data_end={} last_leader_epoch={}",
            footer.closing,
            footer.base_offset,
            footer.end_offset,
            footer.record_count,
            footer.batch_count,
            footer.max_timestamp,
            footer.data_end,
            footer.last_epoch,
        )?;
        for section in &footer.sections {
            let SectionRef { kind, position, entries, .. } = *section;
            let blocks = u64::from(section.blocks);
            writeln!(
                out,
                "section kind={kind} position={position} blocks={blocks} entries={entries}"
            )?;
            if kind == SectionKind::Offsets.code() {
                self.blocks(SectionKind::Offsets, position, blocks, show_offset, out)?;
            } else if kind == SectionKind::Times.code() {
                self.blocks(SectionKind::Times, position, blocks, show_time, out)?;
            } else if kind == SectionKind::Epochs.code() {
                self.blocks(SectionKind::Epochs, position, blocks, show_epoch, out)?;
            } else if kind == SectionKind::Producers.code() {
                self.blocks(SectionKind::Producers, position, blocks, show_producer, out)?;
            } else if kind == SectionKind::Dedup.code() {
                self.blocks(SectionKind::Dedup, position, blocks, show_dedup, out)?;
            } else if kind == SectionKind::DedupFilter.code() {
                self.blocks(SectionKind::DedupFilter, position, blocks, show_filter, out)?;
            }
            // Another kind is of a newer version, which can show it.
        }
        Ok(())
    }

    /// How many of the blocks that the file begins with are of a kind, at most `blocks`.
    fn leading_blocks<E: Entry>(&mut self, kind: SectionKind, blocks: u64) -> io::Result<u64> {
        for index in 0..blocks {
            let page = self.page(DATA_START + index * PAGE as u64)?;
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if decode_block::<E>(page.bytes(), kind, number, &self.identity).is_err() {
                return Ok(index);
            }
        }
        Ok(blocks)
    }

    /// The blocks of a section with their entries.
    fn blocks<E: Entry>(
        &mut self,
        kind: SectionKind,
        position: u64,
        blocks: u64,
        show: fn(&E) -> String,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        for index in 0..blocks {
            let at = position.saturating_add(index.saturating_mul(PAGE as u64));
            if at >= self.bytes {
                self.summary.damaged += 1;
                return writeln!(out, "block position={at} damaged");
            }
            let page = self.page(at)?;
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let block = decode_block::<E>(page.bytes(), kind, number, &self.identity);
            if let Ok(block) = block {
                writeln!(out, "block position={at} entries={}", block.len())?;
                for entry in block.iter() {
                    writeln!(out, "entry {}", show(&entry))?;
                }
            } else {
                self.summary.damaged += 1;
                writeln!(out, "block position={at} damaged")?;
            }
        }
        Ok(())
    }

    /// The bytes from `position` on, at least `bytes` of them unless the file ends, and whether all
    /// of the window they are from could be read.
    fn part(&mut self, position: u64, bytes: u64) -> io::Result<(View, bool)> {
        if let Some(window) = &self.window
            && let Some(from) = position.checked_sub(window.start)
        {
            let length = window.image.view.len() as u64;
            let reaches_end = window.start + length >= self.bytes;
            if from < length && (from + bytes <= length || reaches_end) {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let part = window.image.view.slice(from..window.image.view.len());
                let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
                return Ok((part, window.image.unreadable_to == 0));
            }
        }
        let end = position.saturating_add(bytes.max(WINDOW_BYTES)).min(self.bytes);
        let image = image(self.file.as_ref(), position.min(end), end, Mode::ReadOnly)?;
        let part = (image.view.clone(), image.unreadable_to == 0);
        self.window = Some(Window { start: position, image });
        Ok(part)
    }

    /// The page at `position`; less where the file ends.
    fn page(&mut self, position: u64) -> io::Result<View> {
        let (part, _) = self.part(position, PAGE as u64)?;
        let bytes = part.len().min(PAGE);
        Ok(part.slice(0..bytes).ok_or(io::ErrorKind::UnexpectedEof)?)
    }

    fn batches(&mut self, first: u64, end: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut at = first;
        while at < end {
            let (here, _) = self.part(at, BATCH_HEADER_BYTES as u64)?;
            let decoded = BatchHeader::decode(here.bytes(), &self.identity).ok();
            if let Some(header) = &decoded
                && let Some(batch) = self.good_batch(at, header, end)?
            {
                self.batch(at, header, batch.bytes(), out)?;
                self.summary.batches += 1;
                self.summary.records += u64::from(header.record_count);
                at += header.batch_bytes() as u64;
                continue;
            }
            let skip = decoded.map_or(8, |header| header.batch_bytes() as u64);
            let gap = self.gap(at, at.saturating_add(skip), end)?;
            if gap.zeros {
                writeln!(out, "zeros position={at} bytes={}", gap.until - at)?;
            } else {
                self.damaged(at, gap.until - at, out)?;
            }
            at = gap.until;
        }
        Ok(())
    }

    /// The batch of this header, if it is good and ends within the data.
    fn good_batch(&mut self, at: u64, header: &BatchHeader, end: u64) -> io::Result<Option<View>> {
        let bytes = header.batch_bytes() as u64;
        if bytes > end - at {
            return Ok(None);
        }
        let (batch, _) = self.part(at, bytes)?;
        let good = check_batch(header, batch.bytes(), &self.identity).is_ok();
        Ok(good.then_some(batch))
    }

    /// From `at` to the next good batch that begins at `from` or behind it, or to the end.
    fn gap(&mut self, at: u64, from: u64, end: u64) -> io::Result<Gap> {
        let mut zeros = true;
        let mut position = at;
        while position < end {
            let (part, readable) = self.part(position, 1)?;
            let length = part.len().min(usize::try_from(end - position).unwrap_or(usize::MAX));
            let bytes = part.bytes().get(..length).unwrap_or_default();
            zeros &= readable;
            let mut step = if bytes.iter().all(|&byte| byte == 0) { length } else { 0 };
            while step < length {
                let here = position + step as u64;
                let rest = bytes.get(step..).unwrap_or_default();
                if step > 0 && rest.len() < BATCH_HEADER_BYTES && here + (rest.len() as u64) < end {
                    // The header goes on in the next window.
                    break;
                }
                if here >= from
                    && let Ok(header) = BatchHeader::decode(rest, &self.identity)
                    && self.good_batch(here, &header, end)?.is_some()
                {
                    return Ok(Gap { until: here, zeros });
                }
                zeros &= rest.iter().take(8).all(|&byte| byte == 0);
                step += 8;
            }
            if step == 0 {
                break;
            }
            position += step as u64;
        }
        Ok(Gap { until: end, zeros })
    }

    fn batch(
        &mut self,
        at: u64,
        header: &BatchHeader,
        batch: &[u8],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        writeln!(
            out,
            "batch position={at} bytes={} base_offset={} records={} leader_epoch={} \
             append_time={} synced={} codec={} payload_bytes={} uncompressed_bytes={} \
             payload_crc={:08x}{}",
            header.batch_bytes(),
            header.base_offset,
            header.record_count,
            header.leader_epoch,
            header.append_time,
            header.synced,
            header.attributes.codec().name(),
            header.payload_bytes,
            header.uncompressed_bytes,
            header.payload_crc,
            show_numbers(header),
        )?;
        debug_assert!(header.batch_bytes() >= BATCH_HEADER_BYTES);
        if !header.is_compressed() {
            return Self::records(header, header.payload(batch).unwrap_or_default(), out);
        }
        match unpack(batch) {
            Ok(unpacked) => {
                let payload = unpacked.view.bytes().get(BATCH_HEADER_BYTES..);
                Self::records(header, payload.unwrap_or_default(), out)
            }
            Err(Unpackable::NotBuilt { feature }) => {
                writeln!(out, "hidden records={} feature={feature}", header.record_count)
            }
            Err(Unpackable::Damaged(_)) => self.damaged(at, header.batch_bytes() as u64, out),
            Err(Unpackable::OutOfMemory) => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// The records of a batch's payload, which was decompressed.
    fn records(header: &BatchHeader, payload: &[u8], out: &mut dyn Write) -> io::Result<()> {
        for record in header.records(payload).flatten() {
            write!(
                out,
                "record offset={} timestamp={}",
                header.base_offset.plus(u64::from(record.offset_delta)),
                header.base_timestamp.wrapping_add(record.timestamp_delta),
            )?;
            if let Some(key) = record.key {
                write!(out, " key=\"{}\"", key.escape_ascii())?;
            }
            for header in record.headers.clone() {
                let name = header.name().escape_default();
                write!(out, " header {name}=\"{}\"", header.value().escape_ascii())?;
            }
            if let Some(key) = record.dedup_key {
                write!(out, " dedup_key=\"{}\"", key.escape_ascii())?;
            }
            match record.value {
                Some(value) => writeln!(out, " value=\"{}\"", value.escape_ascii())?,
                None => writeln!(out, " tombstone")?,
            }
        }
        Ok(())
    }
}

fn show_offset(entry: &OffsetEntry) -> String {
    format!("offset={} position={}", entry.offset, entry.position)
}

fn show_time(entry: &TimeEntry) -> String {
    let TimeEntry { append_time, max_timestamp, offset } = entry;
    format!("append_time={append_time} max_timestamp={max_timestamp} offset={offset}")
}

fn show_dedup(entry: &DedupEntry) -> String {
    let (hash, delta, position) = (entry.hash, entry.offset_delta, entry.position());
    format!("hash={hash:016x} offset_delta={delta} position={position}")
}

fn show_filter(line: &FilterLine) -> String {
    format!("bits_set={}", line.bits_set())
}

fn show_epoch(entry: &EpochEntry) -> String {
    format!("leader_epoch={} start_offset={}", entry.epoch, entry.start)
}

fn show_producer(entry: &ProducerEntry) -> String {
    let ProducerEntry { id, epoch, next_sequence, base_offset, records } = entry;
    format!(
        "producer_id={id} producer_epoch={epoch} next_sequence={next_sequence} \
         last_batch={base_offset} records={records}"
    )
}

fn show_numbers(header: &BatchHeader) -> String {
    if header.producer_id == ProducerId::NONE {
        return String::new();
    }
    format!(
        " producer_id={} producer_epoch={} base_sequence={}",
        header.producer_id, header.producer_epoch, header.base_sequence
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;
    use crate::config::TopicConfig;
    use crate::format::Record;
    use crate::fs::sim::SimDisk;
    use std::path::PathBuf;

    /// A closed log of three batches, the middle one of 1 MiB.
    fn three_batches(broker: &Broker) {
        broker.create_topic("t", TopicConfig::new()).expect("a topic can be made");
        let producer = broker.producer().build().expect("a producer can be made");
        let records = ["first".to_owned(), "m".repeat(1 << 20), "last".to_owned()];
        for value in &records {
            producer.send_batch("t", 0, &[Record::new(value)]).expect("it is acknowledged");
        }
    }

    fn closed() -> (SimDisk, PathBuf) {
        let disk = SimDisk::new();
        let broker = Broker::builder().volumes(["/v"]).disk(&disk).seed(1).open().expect("open");
        three_batches(&broker);
        broker.close().expect("it closes");
        let of_topic = |path: &PathBuf| path.starts_with("/v/topics");
        let path = disk.files().into_iter().find(of_topic).expect("a file");
        (disk, path)
    }

    fn dump(disk: &dyn Disk, path: &Path) -> (DumpSummary, String) {
        let mut out = Vec::new();
        let summary = dump_on(disk, path, &mut out).expect("it can be dumped");
        (summary, String::from_utf8(out).expect("text"))
    }

    fn summary(batches: u64, damaged: u64) -> DumpSummary {
        DumpSummary { batches, records: batches, damaged }
    }

    /// A batch that says it is compressed with what this build lacks.
    #[cfg(not(feature = "lz4"))]
    #[test]
    fn without_its_codec_a_batch_is_shown_and_its_records_are_not() {
        let (disk, path) = closed();
        let mut file = disk.read_file(&path).expect("it is there");
        let identity = SegmentHeader::decode(&file[..PAGE]).expect("it is good").identity();
        let batch = &mut file[usize::try_from(DATA_START).expect("small")..];
        let mut header = BatchHeader::decode(batch, &identity).expect("it is good");
        header.attributes = header.attributes.with_codec(crate::config::Compression::Lz4.into());
        header.encode_header(&identity, batch);
        disk.write_file(&path, &file).expect("it can be written");
        let (dumped, text) = dump(&disk, &path);
        assert_eq!(dumped, summary(3, 0));
        assert!(text.contains("codec=lz4"), "{text:.400}");
        assert!(text.contains("\nhidden records=1 feature=lz4\n"), "{text:.400}");
        assert_eq!(text.matches("\nrecord ").count(), 2);
    }

    #[test]
    fn a_dump_shows_the_entries_of_the_sections() {
        let (disk, path) = closed();
        let (found, text) = dump(&disk, &path);
        assert_eq!(found, summary(3, 0));
        assert!(text.contains("entry offset=0 position=12288\n"));
        assert!(text.contains("entry leader_epoch=") && text.contains("max_timestamp="));
    }

    #[test]
    fn a_dump_counts_damage_of_slots_and_of_sections() {
        let (disk, path) = closed();
        let bytes = disk.read_file(&path).expect("it can be read").len() as u64;
        let sections = [bytes - 2 * PAGE as u64, bytes - 3 * PAGE as u64, bytes - 4 * PAGE as u64];
        for at in SLOT_POSITIONS.into_iter().chain(sections) {
            let (disk, path) = closed();
            disk.flip_bit(&path, at + 20, 0).expect("it can be flipped");
            let (found, text) = dump(&disk, &path);
            assert_eq!(found, summary(3, 1), "at {at}");
            assert!(text.contains(&format!("position={at} damaged")), "at {at}");
        }
    }

    #[test]
    fn a_dump_goes_on_behind_what_the_disk_does_not_give_back() {
        let (disk, path) = closed();
        disk.bad_sector(&path, 600 << 10).expect("it can go bad");
        let (found, text) = dump(&disk, &path);
        assert_eq!(found, summary(2, 1));
        assert!(text.contains("\"first\"") && text.contains("\"last\""));
    }

    #[test]
    fn a_dump_of_a_file_that_is_far_too_long_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let broker = Broker::open(dir.path()).expect("it opens");
        three_batches(&broker);
        broker.close().expect("it closes");
        let folder = dir.path().join("topics/t-1/0");
        let path = folder.join(&OsDisk.list(&folder).expect("a folder")[0].name);
        let file = OsDisk.open(&path, OpenMode::ReadWrite).expect("it opens");
        file.set_len(1 << 42).expect("it can be sparse");
        let (found, _) = dump(&OsDisk, &path);
        assert_eq!((found.batches, found.records), (3, 3));
        assert!(found.damaged > 0);
    }
}
