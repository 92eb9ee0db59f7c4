//! What is in one segment file, as text: for people, and for the day something is wrong.
//!
//! Not here: whether that is good or bad (`verify`). A dump goes on after damage.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, DATA_START, Footer, Identity, PAGE, SLOT_POSITIONS,
    SegmentError, SegmentHeader, Slot, find_next, parse_segment_file,
};
use crate::fs::{Disk, OpenMode, OsDisk, read_exact_at};
use crate::id::Offset;
use crate::log::check_batch;

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

/// Writes what is in a segment file to `out`: header, slots, batches, records, footer and
/// sections. Reads only, and takes no lock.
///
/// # Errors
/// `Io` if the file cannot be read or `out` not be written; `Damaged` if the file is no segment, or
/// has lost its header and there is no other of the same log beside it: without knowing whose it is
/// nothing in it can be checked.
pub fn dump_segment(path: impl AsRef<Path>, out: &mut dyn Write) -> Result<DumpSummary> {
    let path = path.as_ref();
    let failed = |e| Error::io("read", path, e);
    let file = OsDisk.open(path, OpenMode::Read).map_err(failed)?;
    let bytes = usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX);
    let mut image = vec![0; bytes];
    read_exact_at(file.as_ref(), &mut image, 0).map_err(failed)?;
    let header = match SegmentHeader::decode(image.get(..PAGE).unwrap_or_default()) {
        Ok(header) => header,
        Err(SegmentError::Incompatible { bits }) => {
            return Err(Error::Incompatible { path: Arc::from(path), bits });
        }
        Err(_) => {
            let identity = sibling_identity(path).ok_or_else(|| {
                Error::damaged(path, "not a segment, or its header is damaged and it stands alone")
            })?;
            let dump = Dump { image: &image, identity };
            return dump.write(None, out).map_err(|e| Error::io("write the dump of", path, e));
        }
    };
    let dump = Dump { image: &image, identity: header.identity() };
    dump.write(Some(&header), out).map_err(|e| Error::io("write the dump of", path, e))
}

/// Whose file this is, from another segment of the same folder: without it no checksum can be told.
fn sibling_identity(path: &Path) -> Option<Identity> {
    let dir = path.parent()?;
    let entries = OsDisk.list(dir).ok()?;
    entries.iter().filter(|e| parse_segment_file(&e.name).is_some()).find_map(|entry| {
        let file = OsDisk.open(&dir.join(&entry.name), OpenMode::Read).ok()?;
        let mut page = [0; PAGE];
        read_exact_at(file.as_ref(), &mut page, 0).ok()?;
        SegmentHeader::decode(&page).ok().map(|header| header.identity())
    })
}

struct Dump<'a> {
    image: &'a [u8],
    identity: Identity,
}

impl Dump<'_> {
    fn write(
        &self,
        header: Option<&SegmentHeader>,
        out: &mut dyn Write,
    ) -> io::Result<DumpSummary> {
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
            None => writeln!(out, "damaged position=0 bytes={PAGE}")?,
        }
        for position in SLOT_POSITIONS {
            let at = usize::try_from(position).unwrap_or(usize::MAX);
            let page = self.image.get(at..at + PAGE).unwrap_or_default();
            match Slot::decode(page, &self.identity) {
                Ok(slot) => writeln!(
                    out,
                    "slot position={position} sequence={} durable_offset={} \
                     log_start_offset={} catching_up={} clean_mark={}",
                    slot.sequence, slot.durable, slot.log_start, slot.catching_up, slot.clean_mark,
                )?,
                Err(_) => writeln!(out, "slot position={position} damaged")?,
            }
        }
        let footer = self
            .image
            .len()
            .checked_sub(PAGE)
            .and_then(|at| Footer::decode(self.image.get(at..)?, &self.identity).ok());
        let end = footer.as_ref().map_or(self.image.len() as u64, |footer| footer.data_end);
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.image.len());
        let first = header.map_or(DATA_START, |header| header.first_position.max(DATA_START));
        let mut summary = self.batches(usize::try_from(first).unwrap_or(usize::MAX), end, out)?;
        if let Some(footer) = &footer {
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
                writeln!(
                    out,
                    "section kind={} position={} blocks={} entries={}",
                    section.kind, section.position, section.blocks, section.entries,
                )?;
            }
        }
        summary.damaged += u64::from(header.is_none());
        Ok(summary)
    }

    fn batches(&self, first: usize, end: usize, out: &mut dyn Write) -> io::Result<DumpSummary> {
        let mut summary = DumpSummary::default();
        let image = self.image.get(..end).unwrap_or_default();
        let mut at = first;
        while at < end {
            let here = image.get(at..).unwrap_or_default();
            let decoded = BatchHeader::decode(here, &self.identity);
            let good = decoded.ok().filter(|h| check_batch(h, here, &self.identity).is_ok());
            if let Some(header) = good {
                Self::batch(at, &header, here, out)?;
                summary.batches += 1;
                summary.records += u64::from(header.record_count);
                at += header.batch_bytes();
                continue;
            }
            let skip = decoded.map_or(8, |header| header.batch_bytes());
            let next = find_next(image, at.saturating_add(skip), &self.identity, Offset::ZERO);
            let until = next.map_or(end, |(position, _)| position);
            let bytes = image.get(at..until).unwrap_or_default();
            if bytes.iter().all(|&byte| byte == 0) {
                writeln!(out, "zeros position={at} bytes={}", until - at)?;
            } else {
                summary.damaged += 1;
                writeln!(out, "damaged position={at} bytes={}", until - at)?;
            }
            at = until;
        }
        Ok(summary)
    }

    fn batch(at: usize, header: &BatchHeader, batch: &[u8], out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "batch position={at} bytes={} base_offset={} records={} leader_epoch={} \
             append_time={} synced={} payload_crc={:08x}",
            header.batch_bytes(),
            header.base_offset,
            header.record_count,
            header.leader_epoch,
            header.append_time,
            header.synced,
            header.payload_crc,
        )?;
        debug_assert!(header.batch_bytes() >= BATCH_HEADER_BYTES);
        for record in header.records(header.payload(batch).unwrap_or_default()).flatten() {
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
