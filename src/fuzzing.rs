//! What the fuzz targets in `fuzz/` drive. Compiled only under `cfg(fuzzing)`.
//!
//! Each function takes any bytes and must not panic, and what a decoder accepts must come back the
//! same when it is encoded again. Most bytes fail a checksum at once, so every input is tried
//! twice: as it is, and with its checksums put right.

use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, DATA_START, Decompressor, DedupEntry, EpochEntry, FilterLine,
    Footer, Identity, MetadataRecord, OffsetEntry, PAGE, ProducerEntry, SectionKind, SegmentHeader,
    Slot, TimeEntry, VolumeRecord, decode_block, encode_section, find_next, has_key, put_key,
};
use crate::id::{Offset, PartitionId, TopicId};

fn identity() -> Identity {
    Identity::new(TopicId::new(1), 7, PartitionId::new(2))
}

/// Batches and their records.
pub fn batch(bytes: &[u8]) {
    walk(bytes);
    let mut sealed = bytes.to_vec();
    let mut at = 0;
    // Seals every batch that the lengths lead to.
    while let Some(here) = sealed.get_mut(at..).filter(|here| here.len() >= BATCH_HEADER_BYTES) {
        let Some(bytes) = seal_batch(here) else { break };
        at += bytes;
    }
    walk(&sealed);
}

fn walk(bytes: &[u8]) {
    let identity = identity();
    let mut at = 0;
    while let Ok(header) = BatchHeader::decode(bytes.get(at..).unwrap_or_default(), &identity) {
        let batch = &bytes[at..];
        if header.check_payload(batch, &identity).is_ok() && header.is_compressed() {
            unpack(&header, batch);
        } else if header.check_payload(batch, &identity).is_ok() {
            let payload = header.payload(batch).expect("checked");
            let mut last = None;
            for record in header.records(payload).map_while(Result::ok) {
                assert!(last < Some(record.offset_delta), "offsets rise");
                last = Some(record.offset_delta);
                assert_eq!(record.headers.clone().len(), record.headers.count());
            }
        }
        let mut again = batch[..BATCH_HEADER_BYTES].to_vec();
        header.encode_header(&identity, &mut again);
        assert_eq!(again, batch[..BATCH_HEADER_BYTES]);
        at = at.saturating_add(header.batch_bytes());
    }
    if let Some((position, header)) = find_next(bytes, 0, &identity, Offset::ZERO) {
        assert!(position % 8 == 0 && position + header.batch_bytes() <= bytes.len());
    }
}

/// What a compressed batch becomes is what its header says, or refused.
fn unpack(header: &BatchHeader, batch: &[u8]) {
    if header.check_claim(batch).is_err() {
        return;
    }
    // As much as is allocated for a payload of this length, however hostile.
    let mut out = vec![0xFF; header.unpacked_bytes()];
    if header.unpack(batch, &mut Decompressor::default(), &mut out).is_ok() {
        let plain = BatchHeader::decode_trusted(&out).expect("it was just written");
        assert_eq!(plain.batch_bytes(), out.len());
        let payload = plain.payload(&out).expect("it is whole");
        let records = plain.records(payload).map(|record| record.expect("it was checked"));
        assert_eq!(records.count(), plain.record_count as usize);
    }
}

/// Payloads in each codec, and what their batch says of them: the first bytes are the codec, the
/// number of records and the size, the others the payload.
pub fn decompress(bytes: &[u8]) {
    let Some((&[codec, records, low, high], payload)) = bytes.split_first_chunk() else { return };
    let mut batch = vec![0; (BATCH_HEADER_BYTES + payload.len()).next_multiple_of(8)];
    batch[BATCH_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
    let Ok(payload_bytes) = u32::try_from(payload.len()) else { return };
    // Small sizes, and with the highest bit such as only few payloads can have.
    let scale = if high & 0x80 == 0 { 8 } else { 2_048 };
    let uncompressed_bytes = u32::from(u16::from_le_bytes([low, high & 0x7F])) * scale;
    let last = u32::from(records.saturating_sub(1));
    batch[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
    batch[12..16].copy_from_slice(&uncompressed_bytes.to_le_bytes());
    batch[16] = 1 + codec % 2;
    batch[32..36].copy_from_slice(&last.to_le_bytes());
    batch[36..40].copy_from_slice(&(last + 1).to_le_bytes());
    seal_batch(&mut batch).expect("its length fits");
    walk(&batch);
}

/// Puts a batch's magic and checksums right; returns its length.
fn seal_batch(here: &mut [u8]) -> Option<usize> {
    let payload_bytes = u32::from_le_bytes(here.get(8..12)?.try_into().ok()?);
    let length = usize::try_from(payload_bytes).ok()?.checked_next_multiple_of(8)?;
    let end = BATCH_HEADER_BYTES.checked_add(length)?;
    let payload_crc = identity().crc(here.get(BATCH_HEADER_BYTES..end)?);
    here.get_mut(116..120)?.copy_from_slice(&payload_crc.to_le_bytes());
    here.get_mut(..4)?.copy_from_slice(b"PB\xa7\xc1");
    let header_crc = identity().crc(here.get(8..BATCH_HEADER_BYTES)?);
    here.get_mut(4..8)?.copy_from_slice(&header_crc.to_le_bytes());
    Some(end)
}

/// A segment's pages: header, slots, footer, index blocks.
pub fn segment(bytes: &[u8]) {
    let mut page = [0; PAGE];
    let length = bytes.len().min(PAGE);
    page[..length].copy_from_slice(&bytes[..length]);
    pages(&page);
    let identity = identity();
    for magic in [b"PLIMSOLL", b"PLIMSLOT", b"PLIMFOOT"] {
        page[..8].copy_from_slice(magic);
        for crc in [identity.crc(&page[..PAGE - 4]), crc32fast::hash(&page[..PAGE - 4])] {
            page[PAGE - 4..].copy_from_slice(&crc.to_le_bytes());
            pages(&page);
        }
    }
    let crc = identity.crc(&page[4..]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
    pages(&page);
}

fn pages(page: &[u8; PAGE]) {
    let identity = identity();
    if let Ok(header) = SegmentHeader::decode(page) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
    if let Ok(slot) = Slot::decode(page, &identity) {
        assert_eq!(Slot::decode(&slot.encode(&identity), &identity), Ok(slot));
    }
    if let Ok(footer) = Footer::decode(page, &identity) {
        assert_eq!(Footer::decode(&footer.encode(&identity), &identity), Ok(footer));
    }
    if let Ok(block) = decode_block::<OffsetEntry>(page, SectionKind::Offsets, 0, &identity) {
        assert_eq!(block.iter().count(), block.len());
    }
    if let Ok(block) = decode_block::<TimeEntry>(page, SectionKind::Times, 0, &identity) {
        assert_eq!(block.iter().count(), block.len());
    }
    let kind = SectionKind::Producers;
    if let Ok(block) = decode_block::<ProducerEntry>(page, kind, 0, &identity) {
        let rows: Vec<_> = block.iter().collect();
        assert_eq!(rows.len(), block.len());
        if !rows.is_empty() {
            let again = encode_section(kind, &rows, &identity);
            let again = decode_block::<ProducerEntry>(&again, kind, 0, &identity);
            assert!(again.is_ok_and(|block| block.iter().eq(rows)));
        }
    }
    if let Ok(block) = decode_block::<EpochEntry>(page, SectionKind::Epochs, 0, &identity) {
        assert_eq!(block.iter().count(), block.len());
    }
    if let Ok(block) = decode_block::<DedupEntry>(page, SectionKind::Dedup, 0, &identity) {
        assert!(block.iter().all(|entry| entry.position() >= DATA_START));
        let again: Vec<_> = block.iter().collect();
        assert_eq!(again.len(), block.len());
        let again = encode_section(SectionKind::Dedup, &again, &identity);
        assert_eq!(
            decode_block::<DedupEntry>(&again, SectionKind::Dedup, 0, &identity).is_ok(),
            block.len() > 0
        );
    }
    let filter = decode_block::<FilterLine>(page, SectionKind::DedupFilter, 0, &identity);
    if let Ok(block) = filter {
        let mut lines: Vec<_> = block.iter().collect();
        assert_eq!(lines.len(), block.len());
        for hash in page.as_chunks::<8>().0 {
            let hash = u64::from_le_bytes(*hash);
            put_key(&mut lines, hash);
            assert_eq!(has_key(&lines, hash), !lines.is_empty());
        }
    }
}

/// Metadata records and the volume file.
pub fn metadata(bytes: &[u8]) {
    if let Ok(record) = MetadataRecord::decode(bytes) {
        assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
    }
    let _ = VolumeRecord::newest(bytes);
    let mut copies = [0; 2 * PAGE];
    let length = bytes.len().min(copies.len());
    copies[..length].copy_from_slice(&bytes[..length]);
    for copy in copies.chunks_exact_mut(PAGE) {
        copy[..8].copy_from_slice(b"PLIMVOLU");
        let crc = crc32fast::hash(&copy[..PAGE - 4]);
        copy[PAGE - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok((record, _)) = VolumeRecord::newest(&copies) {
        assert_eq!(VolumeRecord::newest(&record.encode()), Ok((record, 0)));
    }
}
