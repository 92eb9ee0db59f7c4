//! How values are distributed: how many fell into each of a fixed row of buckets.
//!
//! The buckets are exact below 8, and an eighth of a power of two wide from there up to 2^40:
//!
//! ```text
//! value   0 1 2 3 4 5 6 7 | 8 9 … 15 | 16-17 18-19 … 30-31 | 32-35 … 60-63 | … | 2^40 and above
//! ```
//!
//! Not here: what is counted (`counters`).
//!
//! Threads   a [`Recorder`] is counted into by any thread, or by one at a time without a locked
//!           instruction; a [`Histogram`] is a plain value.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets for each power of two, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;
/// Values from 2 to the power of this on share the last bucket.
const BITS_MAX: u32 = 40;
const BUCKETS: usize = ((BITS_MAX - SUB_BITS + 1) << SUB_BITS) as usize + 1;

/// The bucket that a value falls into.
#[inline]
fn bucket_of(value: u64) -> usize {
    if value < SUB {
        return usize::try_from(value).unwrap_or(0);
    }
    let exponent = value.ilog2();
    let sub = (value >> (exponent - SUB_BITS)) & (SUB - 1);
    let bucket = u64::from(exponent - SUB_BITS + 1) * SUB + sub;
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    if bucket + 1 >= BUCKETS as u64 {
        return u64::MAX;
    }
    let shift = bucket / SUB - 1;
    ((SUB + bucket % SUB + 1) << shift) - 1
}

/// A distribution of whole numbers: how many there were, their sum, the largest, and quantiles.
///
/// A quantile is never below the true one, and at most an eighth (12.5 %) above it, for values
/// below 2^40; above that it is the largest value there was. Memory is fixed, about 2.4 KiB.
///
/// ```
/// use plimsoll::Histogram;
///
/// let mut latencies = Histogram::default();
/// for latency_us in 1..=1000 {
///     latencies.record(latency_us);
/// }
/// assert_eq!((latencies.count(), latencies.sum(), latencies.max()), (1000, 500_500, 1000));
/// let median = latencies.quantile(0.5);
/// assert!((500..=562).contains(&median));
/// assert_eq!(latencies.quantile(1.0), 1000);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Empty, or one for each bucket.
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.widen();
        if let Some(bucket) = self.buckets.get_mut(bucket_of(value)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Counts everything that another one has counted.
    pub fn merge(&mut self, other: &Histogram) {
        if other.count == 0 {
            return;
        }
        self.widen();
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    fn widen(&mut self) {
        if self.buckets.is_empty() {
            self.buckets.resize(BUCKETS, 0);
        }
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest of them; 0 without any.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share of `q` of all values do not exceed: 0.5 is the median, 0.99 what all
    /// but one in a hundred stay within. `q` is taken for 0 below that and for 1 above; 0 without
    /// any value. The type tells how exact it is.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is clamped to the count, which is far below 2^52"
    )]
    pub fn quantile(&self, q: f64) -> u64 {
        // 0.07 of 100 are a little more than 7 in floating point, and must not become 8.
        let rank = (q.clamp(0.0, 1.0) * self.count as f64 - 1e-6).ceil() as u64;
        let rank = rank.clamp(1, self.count.max(1));
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return upper_end(bucket).min(self.max);
            }
        }
        self.max
    }
}

/// A histogram that is counted into while others look.
///
/// All its atomics are relaxed: each is a count of its own, and a look while somebody counts may
/// miss what is being counted.
#[derive(Debug)]
pub(crate) struct Recorder {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self { buckets, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl Recorder {
    /// Counts a value. For any thread.
    pub(crate) fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// Counts a value where nobody else counts meanwhile: a load and a store each.
    #[inline]
    pub(crate) fn record_alone(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(value)) {
            add_alone(bucket, 1);
        }
        add_alone(&self.sum, value);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// What was counted so far.
    pub(crate) fn look(&self) -> Histogram {
        let buckets: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        Histogram {
            count: buckets.iter().sum(),
            buckets,
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

/// Adds to a counter that nobody else adds to meanwhile, without a locked instruction.
#[inline]
pub(crate) fn add_alone(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_in_order() {
        let mut last = 0;
        for bucket in 0..BUCKETS - 1 {
            let upper = upper_end(bucket);
            assert_eq!(bucket_of(upper), bucket, "the largest of bucket {bucket}");
            assert_eq!(bucket_of(upper + 1), bucket + 1, "the smallest of bucket {}", bucket + 1);
            let lower = if bucket == 0 { 0 } else { last + 1 };
            assert!((upper - lower) * 8 <= lower, "bucket {bucket} is wider than an eighth");
            last = upper;
        }
        assert_eq!(last + 1, 1 << BITS_MAX, "where the last bucket begins");
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    /// The value that so many in a thousand of a sorted list do not exceed.
    fn reference(sorted: &[u64], thousandths: usize) -> u64 {
        let rank = (sorted.len() * thousandths).div_ceil(1000).max(1);
        sorted[rank - 1]
    }

    #[test]
    fn a_quantile_is_within_an_eighth_above_a_sorted_reference() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..40 {
            let count = 1 + next() % 3_000;
            // Of every magnitude: from single digits to 2^39.
            let mut values: Vec<u64> = (0..count).map(|_| next() >> (25 + next() % 39)).collect();
            let recorder = Recorder::default();
            let mut plain = Histogram::default();
            for (at, value) in values.iter().enumerate() {
                plain.record(*value);
                if at % 2 == 0 { recorder.record(*value) } else { recorder.record_alone(*value) }
            }
            values.sort_unstable();
            let seen = recorder.look();
            assert_eq!(seen, plain);
            assert_eq!(seen.count(), count);
            assert_eq!(seen.sum(), values.iter().sum::<u64>());
            assert_eq!(Some(&seen.max()), values.last());
            for thousandths in [0_u16, 1, 70, 250, 500, 900, 990, 999, 1000] {
                let q = f64::from(thousandths) / 1000.0;
                let (is, exact) = (seen.quantile(q), reference(&values, thousandths.into()));
                let most = exact + exact / 8;
                assert!((exact..=most).contains(&is), "round {round}, {q}: {is} for {exact}");
            }
        }
    }

    #[test]
    fn merging_is_counting_both() {
        let (mut one, mut other, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for value in 0..1_000 {
            one.record(value * 3);
            other.record(value * 1_000_003);
            both.record(value * 3);
            both.record(value * 1_000_003);
        }
        one.merge(&other);
        one.merge(&Histogram::default());
        assert_eq!(one, both);
    }

    #[test]
    fn nothing_counted_and_huge_values_have_quantiles() {
        let mut seen = Histogram::default();
        assert_eq!((seen.quantile(0.5), seen.max(), seen.count()), (0, 0, 0));
        seen.record(u64::MAX);
        seen.record(1 << 50);
        assert_eq!((seen.quantile(0.1), seen.quantile(f64::NAN)), (u64::MAX, u64::MAX));
        assert_eq!(seen.sum(), u64::MAX);
    }
}
