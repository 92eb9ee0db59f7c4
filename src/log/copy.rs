//! Appending what another replica has: its batches, byte for byte.
//!
//! Not here: which batches, from where, and what is cut first (`partition`).
//!
//! A copied batch keeps its offsets, epoch, times and numbers, and its checksums are good here as
//! they were there: replicas share the identity. What the log knows besides its bytes (epochs,
//! producers, dedup keys) follows from them, as at an open.

use crate::error::{Error, Result};
use crate::format::{BatchHeader, EpochEntry, dedup_bytes};
use crate::id::{LeaderEpoch, Offset};
use crate::log::core::Log;
use crate::log::dedup::keys_in;
use crate::log::producers::Numbered;
use crate::log::read::{batch_damage, check_batch};
use crate::log::scan::scan;
use crate::log::writer::{Writer, Written};
use crate::sync::atomic::Ordering;

impl Log {
    /// Which leader epoch began where, and the end, at one moment.
    pub(crate) fn epochs_and_end(&self) -> (Vec<EpochEntry>, Offset) {
        let writer = self.writer.lock();
        (writer.epochs.entries().to_vec(), writer.next)
    }

    /// The same; `None` while somebody writes, or hangs.
    pub(crate) fn epochs_and_end_if_free(&self) -> Option<(Vec<EpochEntry>, Offset)> {
        let writer = self.writer.try_lock()?;
        Some((writer.epochs.entries().to_vec(), writer.next))
    }

    /// Appends one whole batch of the leader of this epoch, behind all that is here.
    ///
    /// # Errors
    /// `NotLeader` if it does not follow in this epoch any more.
    /// `Corrupt` if the batch is not good; `OffsetOutOfRange` if it begins below the end;
    /// `Truncated` if its epoch is older than the last one here: the histories differ.
    pub(crate) fn append_copy(&self, epoch: LeaderEpoch, batch: &[u8]) -> Result<()> {
        self.append_copy_if(batch, || self.role.follows_in(epoch))
    }

    /// The same, whatever the log's part is.
    #[cfg(test)]
    pub(crate) fn append_copied(&self, batch: &[u8]) -> Result<()> {
        self.append_copy_if(batch, || true)
    }

    fn append_copy_if(&self, batch: &[u8], follows: impl FnOnce() -> bool) -> Result<()> {
        let damaged = |first: Offset, end: Offset, what| {
            self.place.corrupt(first, end, &self.place.dir, 0, what)
        };
        let (identity, next) = (&self.place.identity, self.end_offset());
        let header = BatchHeader::decode(batch, identity)
            .map_err(|error| damaged(next, next.next(), batch_damage(error)))?;
        let (base, end) = (header.base_offset, header.next_offset());
        check_batch(&header, batch, identity).map_err(|what| damaged(base, end, what))?;
        let batch = batch
            .get(..header.batch_bytes())
            .ok_or_else(|| damaged(base, end, "a batch reaches beyond the end"))?;

        // As many keys as there are records: their entries have to fit behind the batches.
        let keys = if self.dedup.window.is_off() { 0 } else { u64::from(header.record_count) };
        let bytes = batch.len() + usize::try_from(dedup_bytes(keys)).unwrap_or(0);
        let mut writer = self.writer_with_room(bytes)?;
        let copied = if follows() {
            self.copy_locked(&mut writer, &header, batch)
        } else {
            self.not_leader()
        };
        drop(writer);
        if copied.is_err() {
            self.tell_halt();
        }
        copied
    }

    fn copy_locked(&self, writer: &mut Writer, header: &BatchHeader, batch: &[u8]) -> Result<()> {
        let Writer { active, next, append_time, epochs, producers, scratch, .. } = writer;
        let Some(active) = active.as_mut() else { return Err(Error::Closed) };
        let (base, end) = (header.base_offset, header.next_offset());
        if base < *next {
            return Err(Error::out_of_range(base, *next, *next));
        }
        if header.leader_epoch < epochs.latest() {
            return Err(Error::Truncated { at: *next });
        }
        let (position, bytes) = (active.position, batch.len());
        self.store(active, scratch, bytes, |out| out.copy_from_slice(batch))?;
        if !self.dedup.window.is_off() {
            let (identity, segment) = (&self.place.identity, &active.segment);
            let runs = scan(batch, position, identity, base, Offset::MAX).runs;
            segment.keys.enter_all(keys_in(identity, (batch, position), segment.base, &runs));
        }
        let written = Written {
            base,
            bytes: bytes as u64,
            records: u64::from(header.record_count),
            append_time: header.append_time,
            max_timestamp: header.max_timestamp,
        };
        active.publish(&written, end);
        if active.position >= active.look_at {
            active.look_at = u64::MAX;
            self.ask_ahead();
        }
        self.counters.appended(active, written.records, written.bytes, header.append_time);
        epochs.note(header.leader_epoch, base);
        if let Some(numbered) = Numbered::of(header) {
            producers.note(&numbered, base);
            self.counters.knows(producers);
        }
        *append_time = header.append_time.max(*append_time);
        *next = end;
        self.dedup.enter_to(end);
        self.leo.store(end.get(), Ordering::Release);
        Ok(())
    }
}
