//! What one partition was told to keep, and what may be found of it afterwards.
//!
//! Not here: who tells it (`store`, or a log's own tests). Nothing of the library is used, so this
//! is a naive model: a vector of values, and a few offsets that say what was promised of them.
//!
//! What is promised, and checked by [`PartitionHistory::check`]
//!   1. Offsets are dense from the log start; the value at each is the one that was sent for it,
//!      so what is found is what was sent, in order, up to some end, and a batch is whole.
//!   2. That end is not below what was acknowledged (after a kill), or what was told to be durable
//!      (after a power cut).
//!   3. What was cut off or trimmed, once that was confirmed, is not seen again.
//!   4. Leader epochs never decrease (I3), and a record at an offset that was lost has a higher
//!      leader epoch than the lost one had.
#![allow(dead_code, reason = "two test binaries share it, and each uses a part")]

use std::collections::BTreeMap;
use std::sync::Arc;

/// Values that a check appends begin so. They follow what the workload sent.
pub(crate) const PROBE: &[u8] = b"probe";

/// Most bytes that a record takes beside its value: those of its batch's header among them.
const BYTES_A_RECORD: u64 = 300;

/// What went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The process; what it wrote is there.
    Process,
    /// The power; what was not synced may be gone.
    Power,
}

/// A record as it was sent.
#[derive(Clone, Debug)]
struct Sent {
    value: Vec<u8>,
    /// The last one of its batch.
    ends_batch: bool,
    /// Known once it was acknowledged.
    epoch: Option<u32>,
    /// Its append time.
    at_ms: i64,
}

/// A record as it was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundRecord {
    pub(crate) offset: u64,
    pub(crate) value: Arc<[u8]>,
    pub(crate) epoch: u32,
}

/// A partition as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) records: Vec<FoundRecord>,
}

/// Everything that one partition was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionHistory {
    /// By offset.
    sent: Vec<Sent>,
    /// Below it every record was acknowledged.
    acknowledged: u64,
    /// Below it every record was told to be on the medium.
    durable: u64,
    /// The log start that was confirmed, and the highest that was asked for.
    start: u64,
    start_asked: u64,
    /// A cut that was asked for and not confirmed.
    cut_asked: Option<u64>,
    /// The clock; it never goes back here.
    now_ms: i64,
    /// The highest epoch that a record had which an offset has lost.
    lost_epochs: BTreeMap<u64, u32>,
}

impl PartitionHistory {
    /// The offset that the next record gets.
    pub(crate) fn end(&self) -> u64 {
        self.sent.len() as u64
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn durable_end(&self) -> u64 {
        self.durable
    }

    /// The value at an offset.
    pub(crate) fn value(&self, offset: u64) -> Option<&[u8]> {
        self.sent.get(index(offset)).map(|sent| sent.value.as_slice())
    }

    /// The first offset from `offset` on that begins a batch, or the end.
    pub(crate) fn batch_base_from(&self, offset: u64) -> u64 {
        let begins =
            |at: &u64| at.checked_sub(1).is_none_or(|before| self.sent[index(before)].ends_batch);
        (offset..self.end()).find(begins).unwrap_or(self.end())
    }

    /// A batch is about to be sent. Its offset is known before: the end.
    pub(crate) fn sending(&mut self, values: Vec<Vec<u8>>) {
        let count = values.len();
        for (i, value) in values.into_iter().enumerate() {
            self.sent.push(Sent {
                value,
                ends_batch: i + 1 == count,
                epoch: None,
                at_ms: self.now_ms,
            });
        }
    }

    /// The batch sent last was acknowledged at these offsets.
    pub(crate) fn acknowledge(&mut self, base: u64, end: u64, epoch: u32) {
        assert_eq!(end, self.end(), "the offset after a batch is the one that was expected (I2)");
        assert!(base >= self.acknowledged, "offsets rise");
        for offset in base..end {
            if let Some(lost) = self.lost_epochs.get(&offset) {
                assert!(
                    epoch > *lost,
                    "offset {offset} was lost in epoch {lost}, reused in {epoch}"
                );
            }
            self.sent[index(offset)].epoch = Some(epoch);
        }
        self.acknowledged = end;
    }

    /// The batch of so many records that was sent last was not written.
    pub(crate) fn take_back(&mut self, records: usize) {
        self.sent.truncate(self.sent.len() - records);
    }

    /// Everything below `end` is on the medium, it was told.
    pub(crate) fn tell_durable(&mut self, end: u64) {
        assert!(end <= self.end(), "nothing durable was never sent");
        self.durable = self.durable.max(end);
    }

    pub(crate) fn trimming(&mut self, to: u64) {
        self.start_asked = self.start_asked.max(to);
    }

    /// The trim was confirmed.
    pub(crate) fn trimmed(&mut self, to: u64) {
        self.start = self.start.max(to);
    }

    /// What time it is.
    pub(crate) fn tell_time(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Retention may have deleted what is older than an age, and what lies below so many bytes.
    pub(crate) fn retaining(&mut self, retention_ms: Option<i64>, retention_bytes: Option<u64>) {
        let young = |sent: &Sent| retention_ms.is_none_or(|age| sent.at_ms + age >= self.now_ms);
        let by_age = self.sent.iter().position(young).unwrap_or(self.sent.len()) as u64;
        let mut held = 0;
        let mut by_size = self.end();
        while by_size > 0 && retention_bytes.is_none_or(|bytes| held < bytes) {
            by_size -= 1;
            held += self.sent[index(by_size)].value.len() as u64 + BYTES_A_RECORD;
        }
        self.trimming(by_age.max(by_size));
    }

    /// The log start is told to be this: it moved no further than it was to, and stays.
    pub(crate) fn tell_start(&mut self, start: u64) {
        let (low, high) = (self.start, self.start_asked);
        assert!((low..=high).contains(&start), "the log starts at {start}, not in {low}..={high}");
        self.start = start;
    }

    pub(crate) fn cutting(&mut self, at: u64) {
        self.cut_asked = Some(at);
    }

    /// The cut was confirmed: what lay above it is void.
    pub(crate) fn cut(&mut self) {
        if let Some(at) = self.cut_asked.take() {
            self.forget_from(at);
        }
    }

    fn forget_from(&mut self, at: u64) {
        self.sent.truncate(index(at));
        self.acknowledged = self.acknowledged.min(at);
        self.durable = self.durable.min(at);
    }

    /// Whether what was found is what the promises allow.
    pub(crate) fn check(&self, found: &Found, lost: Lost) -> Result<(), String> {
        let whole = self.check_against(found, lost, None);
        match (whole, self.cut_asked) {
            (Err(why), Some(at)) => self
                .check_against(found, lost, Some(at))
                .map_err(|other| format!("as if not cut: {why}; as if cut at {at}: {other}")),
            (whole, _) => whole,
        }
    }

    fn check_against(&self, found: &Found, lost: Lost, cut: Option<u64>) -> Result<(), String> {
        let cut = cut.unwrap_or(u64::MAX);
        let sent_end = self.end().min(cut);
        let promised = match lost {
            Lost::Process => self.acknowledged.max(self.durable),
            Lost::Power => self.durable,
        };
        let promised = promised.min(cut);
        if !(self.start..=self.start_asked).contains(&found.start) {
            let (low, high) = (self.start, self.start_asked);
            return Err(format!("the log starts at {}, not in {low}..={high}", found.start));
        }
        let mut expected = found.start;
        let mut epoch = 0;
        let mut probes_from = None;
        for record in &found.records {
            let offset = record.offset;
            if offset != expected {
                return Err(format!("offset {offset} follows where {expected} should"));
            }
            expected += 1;
            if record.epoch < epoch {
                return Err(format!("offset {offset} has epoch {} after {epoch}", record.epoch));
            }
            epoch = record.epoch;
            if record.value.starts_with(PROBE) {
                probes_from.get_or_insert(offset);
                continue;
            }
            if let Some(from) = probes_from {
                return Err(format!("offset {offset} was sent, but {from} before it was not"));
            }
            match self.value(offset) {
                Some(value) if offset < sent_end && *value == *record.value => {}
                Some(value) if offset < sent_end => {
                    let (has, sent) = (label(&record.value), label(value));
                    return Err(format!("offset {offset} holds {has} where {sent} was sent"));
                }
                _ => {
                    let has = label(&record.value);
                    return Err(format!("offset {offset} holds {has}, which never was there"));
                }
            }
        }
        if expected != found.end {
            return Err(format!("reading ends at {expected}, the log at {}", found.end));
        }
        let end = probes_from.unwrap_or(found.end);
        if end < promised {
            let records = format!("{end}..{promised}");
            return Err(format!("records {records} are lost, though promised ({lost:?} lost)"));
        }
        let torn = end
            .checked_sub(1)
            .and_then(|last| self.sent.get(index(last)))
            .is_some_and(|last| !last.ends_batch && end < sent_end);
        if torn && end > found.start && end != cut {
            return Err(format!("a batch was torn at offset {end}"));
        }
        Ok(())
    }

    /// The epoch that a record appended now at `offset` must be above, if there is one: that of
    /// the records which were lost there or behind.
    pub(crate) fn epoch_lost_from(&self, offset: u64) -> Option<u32> {
        let sent = self.sent.iter().skip(index(offset)).filter_map(|sent| sent.epoch);
        sent.chain(self.lost_epochs.range(offset..).map(|(_, epoch)| *epoch)).max()
    }

    /// What was found, and passed the check, is what the partition is from now on.
    pub(crate) fn adopt(&mut self, found: &Found) {
        for (offset, sent) in (0..).zip(&self.sent) {
            if let Some(epoch) = sent.epoch
                && offset >= found.end
            {
                let lost = self.lost_epochs.entry(offset).or_default();
                *lost = epoch.max(*lost);
            }
        }
        self.cut_asked = None;
        self.forget_from(found.end);
        for record in &found.records {
            if let Some(sent) = self.sent.get_mut(index(record.offset)) {
                sent.epoch = Some(record.epoch);
            }
        }
        (self.start, self.start_asked) = (found.start, found.start);
        self.acknowledged = found.end;
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets of tests are small")
}

/// The readable beginning of a value.
fn label(value: &[u8]) -> String {
    let text: Vec<u8> = value.iter().copied().take_while(|byte| *byte != b' ').take(40).collect();
    format!("{:?}", String::from_utf8_lossy(&text))
}
