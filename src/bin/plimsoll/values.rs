//! What options are given as: sizes, durations, and words with a value behind a colon.
//!
//! Not here: whether the library accepts the value. Everything is pure: text in, a value or a
//! sentence out.

use std::time::Duration;

use plimsoll::{Acks, Cleanup, Compression, DedupWindow, Durability, Offset, Start};

type Parsed<T> = Result<T, String>;

/// A number of bytes: digits, then nothing or one of `k m g` in either case, powers of 1024.
pub(crate) fn size(text: &str) -> Parsed<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| "a size is a number, or one with k, m or g behind it: 64k, 1g".to_owned())
}

/// A limit that may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit<T>(pub(crate) Option<T>);

/// `none`, or what `value` reads.
fn limit<T>(text: &str, value: impl FnOnce(&str) -> Parsed<T>) -> Parsed<Limit<T>> {
    if text == "none" {
        return Ok(Limit(None));
    }
    value(text).map(|value| Limit(Some(value))).map_err(|why| format!("none, or {why}"))
}

/// A number of bytes, or `none`.
pub(crate) fn bytes_limit(text: &str) -> Parsed<Limit<u64>> {
    limit(text, size)
}

/// A duration, or `none`.
pub(crate) fn age_limit(text: &str) -> Parsed<Limit<Duration>> {
    limit(text, duration)
}

const UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
];

/// A duration: digits and one of `ms s m h d w`.
pub(crate) fn duration(text: &str) -> Parsed<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let ms = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
    ms.and_then(|ms| number(digits)?.checked_mul(ms)).map(Duration::from_millis).ok_or_else(|| {
        "a duration is a number with ms, s, m, h, d or w behind it: 100ms, 7d".into()
    })
}

/// The other way: the largest unit that is exact.
pub(crate) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let days_at_most = UNITS.iter().rev().skip(1);
    let (unit, per) =
        days_at_most.copied().find(|(_, per)| ms % per == 0 && ms > 0).unwrap_or(("ms", 1));
    format!("{}{unit}", ms / per)
}

pub(crate) fn durability(text: &str) -> Parsed<Durability> {
    match text.split_once(':') {
        None if text == "fsync" => Ok(Durability::Fsync),
        None if text == "os" => Ok(Durability::Os),
        Some(("interval", interval)) => duration(interval).map(Durability::Interval),
        _ => Err("fsync, os, or interval:100ms".into()),
    }
}

/// The other way.
pub(crate) fn show_durability(durability: Durability) -> String {
    match durability {
        Durability::Fsync => "fsync".into(),
        Durability::Os => "os".into(),
        Durability::Interval(interval) => format!("interval:{}", show_duration(interval)),
        other => format!("{other:?}").to_lowercase(),
    }
}

pub(crate) fn dedup(text: &str) -> Parsed<DedupWindow> {
    let expected = || "off, retained, records:N, or time:1h".to_owned();
    match text.split_once(':') {
        None if text == "off" => Ok(DedupWindow::Off),
        None if text == "retained" => Ok(DedupWindow::Retained),
        Some(("records", count)) => number(count).map(DedupWindow::Records).ok_or_else(expected),
        Some(("time", time)) => duration(time).map(DedupWindow::Time),
        _ => Err(expected()),
    }
}

/// The other way.
pub(crate) fn show_dedup(window: DedupWindow) -> String {
    match window {
        DedupWindow::Off => "off".into(),
        DedupWindow::Retained => "retained".into(),
        DedupWindow::Records(records) => format!("records:{records}"),
        DedupWindow::Time(time) => format!("time:{}", show_duration(time)),
        other => format!("{other:?}").to_lowercase(),
    }
}

pub(crate) fn cleanup(text: &str) -> Parsed<Cleanup> {
    match text {
        "delete" => Ok(Cleanup::Delete),
        "compact" => Ok(Cleanup::Compact),
        _ => Err("delete or compact".into()),
    }
}

/// The other way.
pub(crate) fn show_cleanup(cleanup: Cleanup) -> String {
    format!("{cleanup:?}").to_lowercase()
}

pub(crate) fn compression(text: &str) -> Parsed<Compression> {
    match text {
        "none" => Ok(Compression::None),
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd),
        _ => Err("none, lz4, or zstd".into()),
    }
}

/// The other way.
pub(crate) fn show_compression(compression: Compression) -> String {
    format!("{compression:?}").to_lowercase()
}

pub(crate) fn acks(text: &str) -> Parsed<Acks> {
    match text {
        "none" => Ok(Acks::None),
        "leader" => Ok(Acks::Leader),
        "all" => Ok(Acks::All),
        _ => Err("none, leader, or all".into()),
    }
}

/// Where to begin reading.
pub(crate) fn from(text: &str) -> Parsed<Start> {
    if text == "committed" {
        return Ok(Start::Committed);
    }
    to(text).map_err(|why| format!("committed, {why}"))
}

/// Where to set a group's offsets.
pub(crate) fn to(text: &str) -> Parsed<Start> {
    let expected = || "earliest, latest, offset:N, or time:RFC3339".to_owned();
    match text.split_once(':') {
        None if text == "earliest" => Ok(Start::Earliest),
        None if text == "latest" => Ok(Start::Latest),
        Some(("offset", offset)) => {
            let offset = number(offset).and_then(Offset::checked).ok_or_else(expected)?;
            Ok(Start::Offset(offset))
        }
        Some(("time", time)) => timestamp(time).map(Start::Timestamp),
        _ => Err(expected()),
    }
}

/// Milliseconds since the Unix epoch: as RFC 3339, or, as `%T` prints it, the number.
fn timestamp(text: &str) -> Parsed<i64> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| "a time is written as in 2026-05-04T03:02:01Z (RFC 3339)".to_owned())?;
    // Rounded up: "at or after" a time between two milliseconds begins at the later one.
    let ms = -(-time.as_nanosecond()).div_euclid(1_000_000);
    i64::try_from(ms).map_err(|_| "a time out of range".to_owned())
}

/// Digits only: unlike `parse`, no sign.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_in_either_case() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("3M"), Ok(3 << 20));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(size("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        let hostile =
            ["", "k", "-1", "+1", "1.5g", "1kb", "k1", "1 k", "18446744073709551615k", "1é", "é"];
        for text in hostile {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        let hostile = ["", "7", "d", "-7d", "7 d", "1h30m", "7dd", "99999999999999999999s", "7é"];
        for text in hostile {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert!(duration("18446744073709551615w").is_err());
    }

    #[test]
    fn durations_are_shown_as_they_are_given() {
        for text in ["100ms", "30s", "5m", "36h", "7d", "0ms", "1500ms"] {
            assert_eq!(duration(text).map(show_duration).as_deref(), Ok(text));
        }
        assert_eq!(show_duration(Duration::MAX), format!("{}ms", u64::MAX));
    }

    #[test]
    fn limits_may_be_none() {
        assert_eq!(bytes_limit("none"), Ok(Limit(None)));
        assert_eq!(bytes_limit("64k"), Ok(Limit(Some(65_536))));
        assert_eq!(age_limit("none"), Ok(Limit(None)));
        assert_eq!(age_limit("7d"), Ok(Limit(Some(Duration::from_hours(7 * 24)))));
        for text in ["", "None", "none ", "7"] {
            assert!(age_limit(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn words_are_taken_as_the_contract_has_them() {
        assert_eq!(durability("fsync"), Ok(Durability::Fsync));
        assert_eq!(durability("os"), Ok(Durability::Os));
        let interval = Durability::Interval(Duration::from_millis(100));
        assert_eq!(durability("interval:100ms"), Ok(interval));
        assert_eq!(show_durability(interval), "interval:100ms");
        assert_eq!(dedup("off"), Ok(DedupWindow::Off));
        assert_eq!(dedup("retained"), Ok(DedupWindow::Retained));
        assert_eq!(dedup("records:9"), Ok(DedupWindow::Records(9)));
        assert_eq!(dedup("time:1h"), Ok(DedupWindow::Time(Duration::from_hours(1))));
        for text in ["off", "retained", "records:9", "time:1h"] {
            assert_eq!(dedup(text).map(show_dedup).as_deref(), Ok(text));
        }
        assert_eq!(cleanup("compact"), Ok(Cleanup::Compact));
        assert_eq!(show_cleanup(Cleanup::Compact), "compact");
        for text in ["none", "lz4", "zstd"] {
            assert_eq!(compression(text).map(show_compression).as_deref(), Ok(text));
        }
        assert_eq!(acks("leader"), Ok(Acks::Leader));
        for text in ["", "Fsync", "interval", "interval:", "interval:7", "fsync:", "os:1s"] {
            assert!(durability(text).is_err(), "{text:?}");
        }
        for text in ["", "records", "records:", "records:-1", "time:", "off:1"] {
            assert!(dedup(text).is_err(), "{text:?}");
        }
        assert!(cleanup("both").is_err() && acks("1").is_err() && compression("gzip").is_err());
    }

    #[test]
    fn starts_are_words_offsets_and_times() {
        assert_eq!(from("earliest"), Ok(Start::Earliest));
        assert_eq!(from("latest"), Ok(Start::Latest));
        assert_eq!(from("committed"), Ok(Start::Committed));
        assert_eq!(from("offset:12"), Ok(Start::Offset(Offset::new(12))));
        assert_eq!(from("time:1970-01-01T00:00:01.5Z"), Ok(Start::Timestamp(1_500)));
        assert_eq!(from("time:1970-01-01T01:00:00+01:00"), Ok(Start::Timestamp(0)));
        assert_eq!(from("time:1970-01-01T00:00:00.0001Z"), Ok(Start::Timestamp(1)));
        assert_eq!(from("time:1969-12-31T23:59:59.9995Z"), Ok(Start::Timestamp(0)));
        assert_eq!(from("time:1500"), Ok(Start::Timestamp(1_500)));
        let hostile = [
            "",
            "first",
            "offset:",
            "offset:-1",
            "offset:x",
            "offset:18446744073709551615",
            "time:",
            "time:yesterday",
            "time:2026-13-01T00:00:00Z",
            "earliest:",
        ];
        for text in hostile {
            assert!(from(text).is_err(), "{text:?}");
        }
        assert!(to("committed").is_err());
    }
}
