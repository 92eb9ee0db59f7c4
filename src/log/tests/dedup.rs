//! Dedup keys in a whole log, on a simulated disk, against a naive model.
//!
//! Invariants
//!   1. What an append says of each record is what a list of all records says, in every window,
//!      exactly at its edge: after seals, closes, kills, power cuts, cuts and trims, and whatever
//!      block of an index is damaged.
//!   2. Nothing is written for a record that was written before, and nothing at all of a batch that
//!      has another value for a key.
//!   3. A hash decides nothing: the same with keys that collide.

use std::sync::Arc;
use std::time::Duration;

use super::bench::BEGINNING_MS;
use super::dedup_bench::{End, Given, Rig, history};
use crate::config::{DedupWindow, Durability, ManualClock};
use crate::error::{Error, Outcome};
use crate::format::testing::Random;
use crate::format::{PAGE, Record, SectionKind};
use crate::id::{LeaderEpoch, Offset};
use crate::log::retain::Keep;

#[test]
fn every_answer_is_that_of_a_list_of_all_records() {
    const SEED: &str = "PLIMSOLL_DEDUP_SEED";
    if let Ok(seed) = std::env::var(SEED) {
        return history(seed.parse().expect("a number"), 2_500);
    }
    for seed in 0..40 {
        let ran = std::panic::catch_unwind(|| history(seed, 2_500));
        assert!(ran.is_ok(), "replay with {SEED}={seed}");
    }
}

#[test]
fn a_second_append_gets_the_place_of_the_first_and_writes_nothing() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    rig.one("a", "1");
    rig.sleep(5);
    rig.one("a", "1");
    let appended = rig.log.append(&[Given::new("a", "1").record()]).expect("nothing fails");
    assert_eq!(appended.placed(0).offset, Offset::ZERO);
    assert_eq!(appended.placed(0).append_time, BEGINNING_MS);
    assert!(appended.placed(0).duplicate);
    assert_eq!(rig.log.end_offset(), Offset::new(1));
    assert_eq!(rig.log.counters.look().duplicates, 2);
}

/// 1. A record is appended, and its sync is not waited for. 2. It is sent again, and its
/// acknowledgement waits for what the first one's would have waited for.
#[test]
fn a_duplicate_waits_for_its_original_and_for_no_more() {
    let rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    // All of it in one file: sealing one would sync it.
    rig.log.set_limits(64 << 10, Keep::ALL);
    for number in 0..3 {
        let given = Given::new(&format!("k{number}"), "value");
        rig.log.append(&[given.record()]).expect("nothing fails");
    }
    assert_eq!(rig.log.durable_offset(), Offset::ZERO);
    for (keys, awaited) in [(["k0", "k0"], 1), (["k2", "k1"], 3), (["k0", "new"], 4)] {
        let given = keys.map(|key| Given::new(key, "value"));
        let appended = rig.log.append(&[given[0].record(), given[1].record()]);
        let appended = appended.expect("nothing fails");
        assert_eq!(appended.awaited_end(), Offset::new(awaited));
        rig.log.sync_appended(appended.awaited_end()).expect("nothing fails");
        assert!(rig.log.durable_offset() >= Offset::new(awaited));
    }
}

/// At the edge of each window, by one record and by one millisecond; in memory, in a sealed file,
/// and after each way of ending.
#[test]
fn a_window_ends_exactly_where_it_says() {
    let filler = |n: usize| Given { dedup: None, value: Some(vec![b'.'; n]) };
    for end in [None, Some(End::Close), Some(End::Kill), Some(End::PowerCut(1))] {
        for (sizes, seal) in [(10, false), (9_000, true)] {
            let mut rig = Rig::new(DedupWindow::Records(10), Durability::Fsync);
            rig.one("a", "1");
            for _ in 0..9 {
                rig.send(&[filler(sizes)]);
            }
            let settle = |rig: &mut Rig| {
                if seal {
                    rig.seal_all();
                }
                if let Some(end) = end {
                    rig.restart(end);
                }
            };
            settle(&mut rig);
            let before = rig.log.end_offset();
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset(), before, "offset 0 is the last of the ten before 10");
            rig.send(&[filler(sizes)]);
            settle(&mut rig);
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset().get(), 12, "it is not of those before 11");

            let mut rig = Rig::new(DedupWindow::Time(Duration::from_secs(1)), Durability::Fsync);
            rig.one("a", "1");
            for _ in 0..9 {
                rig.send(&[filler(sizes)]);
            }
            rig.sleep(999);
            settle(&mut rig);
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset().get(), 10, "999 ms later");
            rig.sleep(1);
            rig.one("a", "1");
            assert_eq!(rig.log.end_offset().get(), 11, "a second later");
        }
    }
}

#[test]
fn a_duplicate_does_not_renew_the_window() {
    let mut rig = Rig::new(DedupWindow::Time(Duration::from_secs(1)), Durability::Os);
    rig.one("a", "1");
    rig.sleep(600);
    rig.one("a", "1");
    rig.sleep(600);
    rig.one("a", "1");
    assert_eq!(rig.log.end_offset().get(), 2);
}

#[test]
fn a_batch_leaves_out_what_was_there_and_what_it_has_twice() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Os);
    rig.one("a", "1");
    let plain = Given { dedup: None, value: Some(b"1".to_vec()) };
    let batch = ["b", "a", "c", "b", "a", "d"].map(|key| Given::new(key, "1"));
    rig.send(&batch);
    assert_eq!(rig.log.end_offset().get(), 4);
    rig.send(&[plain.clone(), batch[0].clone(), plain.clone()]);
    assert_eq!(rig.log.end_offset().get(), 6, "records without a key are always written");
    rig.send(&batch);
    assert_eq!(rig.log.end_offset().get(), 6);
    let appended = rig.log.append(&[batch[5].record(), plain.record(), batch[0].record()]);
    let appended = appended.expect("nothing fails");
    let offsets: Vec<u64> = (0..3).map(|index| appended.placed(index).offset.get()).collect();
    assert_eq!(offsets, [3, 6, 1]);
}

#[test]
fn another_value_refuses_the_whole_batch() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Os);
    rig.one("a", "1");
    rig.send(&[Given::new("b", "1"), Given::new("a", "2")]);
    rig.send(&[Given::new("b", "1"), Given::new("b", "2")]);
    rig.send(&[Given::new("a", "1"), Given { dedup: Some(b"a".to_vec()), value: None }]);
    rig.send(&[Given { dedup: Some(b"t".to_vec()), value: None }]);
    rig.one("t", "");
    assert_eq!(rig.log.end_offset().get(), 2, "an empty value is not none");
    rig.check();
}

/// What was cut off is forgotten, also where its keys are in a file that goes on below the cut;
/// what lies before is not.
#[test]
fn what_is_cut_off_or_deleted_is_forgotten() {
    for sealed in [false, true] {
        let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
        // So that a file holds records on both sides of the cut.
        rig.log.set_limits(64 << 10, Keep::ALL);
        for number in 0..200 {
            rig.one(&format!("k{number}"), &format!("{number:>800}"));
        }
        assert!(rig.log.segments().len() > 3);
        if sealed {
            rig.seal_all();
        }
        let segment = rig.log.segments().iter().find(|s| s.end() > Offset::new(90)).cloned();
        let segment = segment.expect("it is there");
        assert!(segment.base < Offset::new(90) && segment.end() > Offset::new(92));
        drop(segment);
        rig.cut(90);
        rig.one("k91", &format!("{:>800}", 91));
        rig.cut(90);
        rig.one("k100", &format!("{:>800}", 100));
        assert_eq!(rig.log.end_offset().get(), 91);
        rig.one("k89", &format!("{:>800}", 89));
        assert_eq!(rig.log.end_offset().get(), 91);
        rig.seal_all();
        rig.restart(End::Kill);
        for number in [89, 90, 100, 0, 150] {
            rig.one(&format!("k{number}"), &format!("{number:>800}"));
        }
        rig.trim(60);
        for number in [59, 60, 61, 0] {
            rig.one(&format!("k{number}"), &format!("{number:>800}"));
        }
        rig.check();
    }
}

/// Each byte range of the index in turn: the answers stay the same.
#[test]
fn a_damaged_index_costs_a_walk_and_changes_no_answer() {
    for kind in [SectionKind::Dedup, SectionKind::DedupFilter] {
        for reopened in [false, true] {
            let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
            for number in 0..300 {
                rig.one(&format!("k{number}"), &format!("{number:>200}"));
            }
            rig.seal_all();
            let segment = Arc::clone(&rig.log.segments()[0]);
            let footer = segment.footer().expect("it is sealed");
            let section = *footer.section(kind).expect("it has keys");
            assert!(section.entries > 0);
            for block in 0..section.blocks {
                let byte = section.position + u64::from(block) * PAGE as u64 + 20;
                rig.disk.flip_bit(&segment.path, byte, 0).expect("it can be flipped");
            }
            if reopened {
                rig.restart(End::Close);
            }
            for number in 0..320 {
                rig.one(&format!("k{number}"), &format!("{number:>200}"));
            }
            assert_eq!(rig.log.end_offset().get(), 320);
        }
    }
}

/// A batch that cannot be read may have the key: whoever asks for it is told so, and nothing is
/// written twice.
#[test]
fn a_damaged_original_is_an_error_and_not_a_second_record() {
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    for number in 0..100 {
        rig.one(&format!("k{number}"), &format!("{number:>800}"));
    }
    rig.restart(End::Close);
    let segment = Arc::clone(&rig.log.segments()[0]);
    rig.disk.flip_bit(&segment.path, segment.first_position + 300, 0).expect("it can be flipped");
    let again = rig.log.append(&[Given::new("k0", &format!("{:>800}", 0)).record()]);
    assert!(
        matches!(&again, Err(error @ Error::Corrupt(_)) if
        error.outcome() == Outcome::NotWritten && !error.is_retriable()),
        "{again:?}"
    );
    rig.one("k1", &format!("{:>800}", 1));
    rig.one("new", "value");
}

#[test]
fn a_full_file_has_room_for_the_keys_of_its_records() {
    const SMALLEST: u64 = 64 << 10;
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    rig.log.set_limits(SMALLEST, Keep::ALL);
    let mut number = 0;
    while rig.log.segments().len() < 4 {
        let batch: Vec<_> =
            (0..5).map(|at| Given::new(&format!("{}", number * 5 + at), "")).collect();
        rig.send(&batch);
        number += 1;
    }
    rig.seal_all();
    for segment in rig.log.segments().iter().take(3) {
        let bytes = rig.disk.read_file(&segment.path).expect("it is there").len() as u64;
        assert!(bytes <= SMALLEST, "{bytes}");
        let footer = segment.footer().expect("it is sealed");
        let keys = footer.section(SectionKind::Dedup).expect("it has keys").entries;
        assert_eq!(keys, segment.base.distance_to(segment.end()));
    }
}

#[test]
fn a_file_without_keys_says_so_and_one_of_no_window_says_nothing() {
    for (window, said) in [(DedupWindow::Retained, Some(0)), (DedupWindow::Off, None)] {
        let mut rig = Rig::new(window, Durability::Fsync);
        for _ in 0..10 {
            rig.send(&[Given { dedup: None, value: Some(vec![1; 9_000]) }]);
        }
        rig.seal_all();
        let segments = rig.log.segments();
        let footer = segments[0].footer().expect("it is sealed");
        for kind in [SectionKind::Dedup, SectionKind::DedupFilter] {
            assert_eq!(footer.section(kind).map(|section| section.entries), said);
        }
    }
}

/// Some send the same records at the same time, while files are rolled and sealed: each key has one
/// record and one offset.
#[test]
fn racing_senders_of_a_key_get_one_record_and_one_offset() {
    const KEYS: usize = 1_500;
    for window in [DedupWindow::Retained, DedupWindow::Time(Duration::from_mins(1))] {
        let rig = Rig::new(window, Durability::Os);
        let log = &rig.log;
        let offsets: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4_u64)
                .map(|sender| {
                    scope.spawn(move || {
                        let mut random = Random::new(sender + 1);
                        let mut offsets = vec![u64::MAX; KEYS];
                        let mut at = 0;
                        while at < KEYS {
                            let count = (1 + random.below(3)).min(KEYS - at);
                            let given: Vec<_> = (at..at + count)
                                .map(|n| Given::new(&format!("k{n}"), &format!("{n:>100}")))
                                .collect();
                            let records: Vec<_> = given.iter().map(Given::record).collect();
                            let appended = log.append(&records).expect("nothing fails");
                            for index in 0..count {
                                let placed = appended.placed(index as u64);
                                offsets[at + index] = placed.offset.get();
                            }
                            at += count;
                        }
                        offsets
                    })
                })
                .collect();
            while senders.iter().any(|sender| !sender.is_finished()) {
                log.seal_one().expect("nothing fails");
                std::thread::yield_now();
            }
            senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
        });
        assert_eq!(log.end_offset().get(), KEYS as u64);
        assert!(log.segments().len() > 3);
        let mut seen = offsets[0].clone();
        assert!(offsets.iter().all(|of_one| *of_one == seen));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), KEYS);
        assert_eq!(log.counters.look().duplicates, 3 * KEYS as u64);
    }
}

/// The window is measured from where the record would go: records without keys count.
#[test]
fn another_value_is_written_once_the_window_of_records_is_over() {
    let mut rig = Rig::new(DedupWindow::Records(3), Durability::Fsync);
    rig.one("a", "first");
    for _ in 0..10 {
        rig.send(&[Given { dedup: None, value: Some(vec![1]) }]);
    }
    // The last three offsets before 11 are 8, 9 and 10: "a" at 0 is forgotten.
    rig.one("a", "second");
}

/// A clock that was set back: append times never fall, so the window is over all the same.
#[test]
fn another_value_is_written_once_the_window_of_time_is_over() {
    let mut rig = Rig::new(DedupWindow::Time(Duration::from_millis(300)), Durability::Fsync);
    rig.one("a", "first");
    rig.sleep(10_000);
    rig.send(&[Given { dedup: None, value: Some(vec![1]) }]);
    // The log was opened anew after the clock went back to soon after "a".
    rig.log.close().expect("nothing fails");
    rig.clock = ManualClock::new(BEGINNING_MS + 100);
    rig.end(End::Close);
    let record = Given::new("a", "second");
    let appended = rig.log.append(&[record.record()]).expect("it is outside of the window");
    assert_eq!(appended.append_time, BEGINNING_MS + 10_000);
    assert!(!appended.placed(0).duplicate);
}

/// Files are deleted while keys are looked for: no append fails for that.
#[test]
fn a_deletion_beside_a_look_fails_no_append() {
    let rig = Rig::new(DedupWindow::Retained, Durability::Os);
    rig.log.set_limits(64 << 10, Keep::ALL);
    let log = &rig.log;
    let done = std::sync::atomic::AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let done = &done;
                scope.spawn(move || {
                    let mut failed = Vec::new();
                    for n in 0..40_000 {
                        let given = Given::new(&format!("{sender} {n}"), &format!("{n:>500}"));
                        if let Err(error) = log.append(&[given.record()]) {
                            failed.push(format!("{n}: {error}"));
                        }
                        if done.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                    failed
                })
            })
            .collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            while log.seal_one().expect("nothing fails") {}
            let end = log.end_offset().get();
            let _ = log.sync_to(log.end_offset());
            let _ = log.trim_to(Offset::new(end.saturating_sub(120).max(log.start_offset().get())));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        senders.into_iter().flat_map(|s| s.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(log.start_offset().get() > 0);
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
}

/// 1. A producer appends two records, and could not have them synced. 2. Another replica leads, and
/// cuts them off. 3. Somebody else writes one of their keys. 4. The producer tries again: that one
/// is there, and the other gets the producer's next number, which nobody has any more.
#[test]
fn a_retry_of_a_batch_that_was_cut_off_is_looked_for_and_numbered_anew() {
    use crate::config::Compression;
    use crate::log::writer::Origin;
    let rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    let live = &rig.log.producers;
    let (first, other) = (live.make().expect("few"), live.make().expect("few"));
    let given = [Given::new("a", "1"), Given::new("b", "2")];
    let records = given.each_ref().map(Given::record);
    let append = |producer, records: &[Record<'_>]| {
        let appended = rig.log.append_of(Origin::Producer(producer), records, Compression::None);
        appended.expect("nothing fails")
    };
    append(&first, &[Given::new("c", "0").record()]);
    let lost = append(&first, &records);
    assert!(rig.log.holds(&lost));
    rig.log.truncate_to(lost.base).expect("nothing fails");
    rig.log.lead(LeaderEpoch::new(99));
    let others = append(&other, &records[1..]);
    assert_eq!(others.base, lost.base);
    assert!(!rig.log.holds(&lost));
    let again = append(&first, &records);
    let placed = [0, 1].map(|index| again.placed(index));
    assert_eq!(placed.map(|placed| placed.offset.get()), [2, 1]);
    assert_eq!(placed.map(|placed| placed.duplicate), [false, true]);
    let known = rig.log.last_sequence(first.id).expect("it has some");
    assert_eq!(known, (1, again.end), "one of its records went to somebody else");
}

/// The records of a batch that is sent again lie in one batch, which is read once.
#[test]
fn a_batch_that_is_sent_again_is_read_once() {
    const COUNT: usize = 200;
    let rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    let given: Vec<_> =
        (0..COUNT).map(|n| Given::new(&format!("k{n}"), &format!("v{n:>20}"))).collect();
    let records: Vec<_> = given.iter().map(Given::record).collect();
    rig.log.append(&records).expect("nothing fails");
    while rig.log.segments().len() < 2 {
        rig.log.append(&[Record::new(&[0; 3_000])]).expect("nothing fails");
    }
    while rig.log.seal_one().expect("nothing fails") {}
    let before = rig.disk.calls();
    let again = rig.log.append(&records).expect("nothing fails");
    assert_eq!(again.duplicates.map(|d| d.count), Some(COUNT as u64));
    // For each key one block of the index at most, beside the filter, the file and the batch.
    let calls = rig.disk.calls() - before;
    assert!(calls <= COUNT as u64 + 20, "{calls} calls");
}

/// A partition with batches whose codec is not built in takes records without a dedup key, after a
/// kill as after a clean close.
#[cfg(not(feature = "zstd"))]
#[test]
fn without_its_codec_a_log_takes_records_without_a_key() {
    use crate::format::BatchHeader;
    let mut rig = Rig::new(DedupWindow::Retained, Durability::Fsync);
    rig.log.set_limits(1 << 20, Keep::ALL);
    rig.one("a", "first");
    rig.restart(End::Kill);
    // The batch becomes one of a codec that is not there.
    let segment = Arc::clone(&rig.log.segments()[0]);
    let mut bytes = rig.disk.read_file(&segment.path).expect("it is there");
    let at = usize::try_from(segment.first_position).unwrap();
    bytes[at + 16] = 2;
    let header = BatchHeader::decode_trusted(&bytes[at..]).expect("a batch");
    header.encode_header(&rig.log.place.identity, &mut bytes[at..]);
    rig.disk.write_file(&segment.path, &bytes).expect("it can be written");
    drop(segment);
    rig.restart(End::Kill);
    let without_key = || [Record::new("no key")];
    rig.log.append(&without_key()).expect("after a kill");
    rig.log.close().expect("nothing fails");
    rig.model.records.push((Given { dedup: None, value: Some(b"no key".to_vec()) }, 0));
    rig.end(End::Close);
    rig.log.append(&without_key()).expect("after a clean close");
}
