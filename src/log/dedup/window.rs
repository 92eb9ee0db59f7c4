//! [`Window`]: which of the earlier records of a dedup key count. Pure.
//!
//! Not here: the log start and cuts, below and above which no record is.

use std::time::Duration;

use crate::config::DedupWindow;
use crate::id::Offset;

/// A [`DedupWindow`], in the log's own units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Off,
    Records(u64),
    Millis(i64),
    Retained,
}

/// What an append is measured by: where its record goes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// The offset that the record would get.
    pub(crate) offset: Offset,
    /// The append time that its batch would get.
    pub(crate) append_time: i64,
}

impl Window {
    pub(crate) fn new(window: DedupWindow) -> Self {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        match window {
            DedupWindow::Off => Window::Off,
            DedupWindow::Records(records) => Window::Records(records),
            DedupWindow::Time(time) => Window::Millis(millis(time)),
            DedupWindow::Retained => Window::Retained,
        }
    }

    #[inline]
    pub(crate) fn is_off(self) -> bool {
        matches!(self, Window::Off)
    }

    /// Whether a record that was appended at `original` counts for one that is appended at `now`.
    pub(crate) fn holds(self, original: Point, now: Point) -> bool {
        match self {
            Window::Off => false,
            Window::Records(records) => original.offset.distance_to(now.offset) <= records,
            Window::Millis(time) => now.append_time.saturating_sub(original.append_time) < time,
            Window::Retained => true,
        }
    }

    /// The first offset that can count for a record that goes to `offset` or behind it.
    pub(crate) fn first_offset(self, offset: Offset) -> Offset {
        match self {
            Window::Records(records) => Offset::new(offset.get().saturating_sub(records)),
            Window::Off | Window::Millis(_) | Window::Retained => Offset::ZERO,
        }
    }

    /// The first append time that can count at `now` or later.
    pub(crate) fn first_time(self, now: i64) -> i64 {
        match self {
            Window::Millis(time) => now.saturating_sub(time).saturating_add(1),
            Window::Off | Window::Records(_) | Window::Retained => i64::MIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(offset: u64, append_time: i64) -> Point {
        Point { offset: Offset::new(offset), append_time }
    }

    #[test]
    fn a_window_of_records_holds_the_last_n_before_the_next_one() {
        let window = Window::new(DedupWindow::Records(3));
        let holds = |offset| window.holds(point(offset, 0), point(10, 0));
        assert!(holds(9) && holds(7) && !holds(6));
        assert_eq!(window.first_offset(Offset::new(10)), Offset::new(7));
        assert_eq!(window.first_offset(Offset::new(2)), Offset::ZERO);
        assert_eq!(window.first_time(5), i64::MIN);
    }

    #[test]
    fn a_window_of_time_ends_when_it_is_over() {
        let window = Window::new(DedupWindow::Time(Duration::from_secs(1)));
        let holds = |time| window.holds(point(0, time), point(1, 5_000));
        assert!(holds(5_000) && holds(4_001) && !holds(4_000));
        assert_eq!(window.first_time(5_000), 4_001);
        let all = Window::new(DedupWindow::Time(Duration::MAX));
        assert!(all.holds(point(0, 0), point(1, i64::MAX - 1)));
        assert_eq!(window.first_time(i64::MIN), i64::MIN + 1);
    }

    #[test]
    fn the_others_hold_nothing_and_everything() {
        let (first, last) = (point(0, i64::MIN), point(Offset::MAX.get(), i64::MAX));
        assert!(!Window::new(DedupWindow::Off).holds(first, last));
        assert!(Window::new(DedupWindow::Retained).holds(first, last));
    }
}
