//! The model, promise by promise.
//!
//! Not here: what a crash leaves (`loss_tests`).
//!
//! 1. A failed sync loses what it was to write, whatever a later sync says.
//! 2. Mappings are coherent with reads and writes, both ways.
//! 3. After a power cut nothing changes any more.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Call, Fault, FaultKind, HowLong, Loss, SimDisk};
use crate::fs::{
    Disk, DiskFile, EntryKind, MapAccess, OpenMode, probe, read_exact_at, write_all_at,
};

/// A disk with an empty, durable file `f`.
pub(super) fn disk_with_file() -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.write_file("f", b"").unwrap();
    let file = disk.open(Path::new("f"), OpenMode::ReadWrite).unwrap();
    (disk, file)
}

pub(super) fn create(disk: &SimDisk, path: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(path), OpenMode::CreateNew).unwrap()
}

pub(super) fn fault(at: u64, call: Call, what: FaultKind) -> Fault {
    Fault { at, call: Some(call), what, how_long: HowLong::Once }
}

#[test]
fn failed_sync_then_good_sync_loses_the_data() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, &[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, &[2; 1024], 0).unwrap();
    disk.arm(fault(1, Call::SyncData, FaultKind::Eio));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync_data().unwrap();
    assert_eq!(disk.read_file("f").unwrap(), [2; 1024], "the cache still shows it");
    let after = disk.crash(&Loss::None).read_file("f").unwrap();
    assert_eq!(after, [[1; 512], [0; 512]].concat(), "the medium never gets it");
    // Written again it is dirty again.
    write_all_at(&*file, &[2; 1024], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), [2; 1024]);
}

#[test]
fn failed_sync_of_a_folder_then_a_good_one_loses_the_names() {
    let disk = SimDisk::new();
    let here = Path::new("");
    for name in ["kept", "gone", "from"] {
        create(&disk, name).sync_data().unwrap();
    }
    disk.sync_dir(here).unwrap();
    create(&disk, "new").sync_data().unwrap();
    disk.remove_file(Path::new("gone")).unwrap();
    disk.rename(Path::new("from"), Path::new("to")).unwrap();
    disk.arm(fault(1, Call::SyncDir, FaultKind::Eio));
    assert_eq!(disk.sync_dir(here).unwrap_err().raw_os_error(), Some(libc::EIO));
    create(&disk, "later").sync_data().unwrap();
    disk.sync_dir(here).unwrap();
    let names = |disk: &SimDisk| {
        disk.list(here).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&disk), ["kept", "later", "new", "to"], "calls still see them");
    assert_eq!(names(&disk.crash(&Loss::None)), ["from", "gone", "kept", "later"]);
    // Made again, a name is as any other.
    disk.rename(Path::new("to"), Path::new("again")).unwrap();
    disk.sync_dir(here).unwrap();
    assert_eq!(names(&disk.crash(&Loss::All)), ["again", "from", "gone", "kept", "later"]);
    // Another process may sync what it finds.
    let next = disk.kill();
    next.sync_dir(here).unwrap();
    assert_eq!(names(&next.crash(&Loss::All)), ["again", "kept", "later", "new"]);
}

#[test]
fn a_folder_that_cannot_be_opened_is_not_synced_and_loses_nothing() {
    let disk = SimDisk::new();
    create(&disk, "a").sync_data().unwrap();
    disk.arm(fault(1, Call::SyncDir, FaultKind::Emfile));
    assert_eq!(disk.sync_dir(Path::new("")).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(disk.crash(&Loss::All).files(), [Path::new("/a")]);
}

#[test]
fn short_sync_writes_half() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 4096).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, &[1; 512], 0).unwrap();
    write_all_at(&*file, &[2; 512], 512).unwrap();
    disk.arm(fault(1, Call::SyncData, FaultKind::Short));
    file.sync_data().unwrap_err();
    let after = disk.crash(&Loss::None).read_file("f").unwrap();
    assert_eq!(after[..1024], [[1; 512], [0; 512]].concat());
}

#[test]
fn lying_sync_leaves_everything_pending() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, b"x", 0).unwrap();
    disk.arm(fault(1, Call::SyncData, FaultKind::LyingSync));
    file.sync_data().unwrap();
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), b"");
    file.sync_data().unwrap();
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), b"x");
}

#[test]
fn stalled_sync_waits_for_its_release() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, b"x", 0).unwrap();
    disk.arm(fault(1, Call::SyncData, FaultKind::StalledSync));
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        while disk.stalled() == 0 {
            std::thread::yield_now();
        }
        write_all_at(&*file, b"y", 1).unwrap();
        assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), b"");
        disk.release_stalls();
        sync.join().unwrap().unwrap();
    });
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), b"xy");
}

#[test]
fn power_cut_ends_a_stall() {
    let (disk, file) = disk_with_file();
    disk.arm(fault(1, Call::SyncData, FaultKind::StalledSync));
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        while disk.stalled() == 0 {
            std::thread::yield_now();
        }
        disk.cut_power();
        sync.join().unwrap().unwrap_err();
    });
}

#[test]
fn mapping_is_coherent_both_ways() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 8192).unwrap();
    write_all_at(&*file, b"before", 0).unwrap();
    let mut map = file.map(65_536, 0, 6, MapAccess::Write).unwrap();
    assert_eq!(map.mapping().view(0, 6).unwrap().bytes(), b"before");
    map.set_allocated(8192);
    write_all_at(&*file, b"written", 6).unwrap();
    map.publish(13);
    assert_eq!(map.mapping().view(0, 13).unwrap().bytes(), b"beforewritten");
    map.reserve(13, 6).copy_from_slice(b"stored");
    map.publish(19);
    let mut back = [0; 19];
    read_exact_at(&*file, &mut back, 0).unwrap();
    assert_eq!(&back, b"beforewrittenstored");
    let other = file.map(4096, 0, 19, MapAccess::Read).unwrap();
    assert_eq!(other.mapping().view(13, 6).unwrap().bytes(), b"stored");
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), b"");
    file.sync_data().unwrap();
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap()[..19], back);
}

#[test]
fn store_through_a_mapping_can_be_torn() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 8192).unwrap();
    file.sync_data().unwrap();
    let mut map = file.map(8192, 0, 0, MapAccess::Write).unwrap();
    map.set_allocated(8192);
    map.reserve(0, 1024).fill(5);
    assert!(disk.pending().is_empty(), "what may still be being stored is left alone");
    map.publish(1024);
    assert_eq!(disk.pending()[0].to_string(), "/f: bytes 0..1024");
    let torn = disk.crash(&Loss::Torn { op: 0, from: 0, to: 1 }).read_file("f").unwrap();
    assert_eq!(torn[..1024], [[0; 512], [5; 512]].concat());
    map.reserve(1024, 10).fill(6);
    drop(map);
    assert_eq!(disk.pending().len(), 2, "with its writer gone, a store has been made");
    assert_eq!(disk.kill().read_file("f").unwrap()[1024..1034], [6; 10]);
}

#[test]
fn views_stay_while_their_file_is_removed() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, b"bytes", 0).unwrap();
    let map = file.map(4096, 0, 5, MapAccess::Read).unwrap();
    let view = map.mapping().view(1, 3).unwrap();
    disk.remove_file(Path::new("f")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    drop((map, file));
    drop(disk);
    assert_eq!(view.bytes(), b"yte");
    assert_eq!(view.slice(1..3).unwrap().bytes(), b"te");
}

#[test]
#[should_panic(expected = "published bytes of a mapped file were changed")]
fn rewriting_published_bytes_is_a_bug() {
    let (_disk, file) = disk_with_file();
    write_all_at(&*file, b"bytes", 0).unwrap();
    let _map = file.map(4096, 0, 5, MapAccess::Read).unwrap();
    write_all_at(&*file, b"bytes", 0).unwrap();
    write_all_at(&*file, b"other", 0).unwrap();
}

#[test]
#[should_panic(expected = "published bytes of a mapped file were cut off")]
fn cutting_published_bytes_is_a_bug() {
    let (_disk, file) = disk_with_file();
    write_all_at(&*file, b"bytes", 0).unwrap();
    let _map = file.map(4096, 0, 5, MapAccess::Read).unwrap();
    file.set_len(4).unwrap();
}

#[test]
fn lock_denies_a_second_one_until_it_is_dropped_or_killed() {
    let disk = SimDisk::new();
    let path = Path::new("LOCK");
    let held = disk.lock(path).unwrap();
    assert_eq!(disk.lock(path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(held.stat().unwrap(), disk.stat(path).unwrap());
    drop(held);
    let _held = disk.lock(path).unwrap();
    let next = disk.kill();
    next.lock(path).unwrap();
    disk.lock(path).unwrap_err();
}

#[test]
fn kill_keeps_the_page_cache_and_what_is_pending() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, b"x", 0).unwrap();
    let next = disk.kill();
    assert_eq!(next.read_file("f").unwrap(), b"x");
    assert_eq!(next.crash(&Loss::All).read_file("f").unwrap(), b"");
    write_all_at(&*file, b"y", 1).unwrap_err();
}

#[test]
fn full_disk_refuses_and_frees() {
    let (disk, file) = disk_with_file();
    disk.set_capacity(4 * 4096);
    file.allocate(0, 2 * 4096).unwrap();
    let full = |e: io::Error| assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    full(file.allocate(8192, 3 * 4096).unwrap_err());
    let other = create(&disk, "g");
    assert_eq!(other.write_at(&[1; 3 * 4096], 0).unwrap(), 8192, "a short write comes first");
    full(other.write_at(&[1; 100], 8192).unwrap_err());
    assert_eq!(file.write_at(&[1; 8192], 0).unwrap(), 8192, "reserved space is there");
    let map = other.map(4096, 0, 4096, MapAccess::Read).unwrap();
    disk.remove_file(Path::new("g")).unwrap();
    full(file.write_at(&[1], 8192).unwrap_err());
    drop(other);
    full(file.write_at(&[1], 8192).unwrap_err());
    drop(map);
    assert_eq!(file.write_at(&[1], 8192).unwrap(), 1, "freed with its last mapping");
    file.set_len(0).unwrap();
    assert_eq!(file.write_at(&[1; 4 * 4096], 0).unwrap(), 4 * 4096);
}

#[test]
fn power_cut_ignores_what_comes_later() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 4096).unwrap();
    let mut map = file.map(4096, 0, 0, MapAccess::Write).unwrap();
    map.set_allocated(4096);
    map.reserve(0, 3).copy_from_slice(b"one");
    map.publish(3);
    disk.cut_power_after(1);
    write_all_at(&*file, b"two", 512).unwrap();
    map.reserve(3, 3).copy_from_slice(b"six");
    map.publish(6);
    assert_eq!(disk.cut_at(), None);
    write_all_at(&*file, b"late", 600).unwrap_err();
    assert_eq!(disk.cut_at(), Some(Call::Write));
    map.reserve(6, 4).copy_from_slice(b"late");
    map.publish(10);
    file.sync_data().unwrap_err();
    let bytes = disk.crash(&Loss::None).read_file("f").unwrap();
    assert_eq!(&bytes[..12], b"onesix\0\0\0\0\0\0");
    assert_eq!(&bytes[512..515], b"two");
    assert_eq!(&bytes[600..604], [0; 4]);
    assert_eq!(disk.crash(&Loss::All).read_file("f").unwrap(), b"");
}

#[test]
fn rot_shows_in_reads_and_new_mappings() {
    let disk = SimDisk::new();
    disk.write_file("d/f", &[0; 2000]).unwrap();
    let before = disk.fingerprint();
    disk.flip_bit("d/f", 700, 3).unwrap();
    assert_ne!(disk.fingerprint(), before);
    assert_eq!(disk.read_file("d/f").unwrap()[700], 8);
    assert_eq!(disk.crash(&Loss::All).read_file("d/f").unwrap()[700], 8);
    disk.flip_bit("d/f", 700, 3).unwrap();
    assert_eq!(disk.fingerprint(), before);
    disk.flip_bit("d/f", 2000, 0).unwrap_err();

    disk.bad_sector("d/f", 700).unwrap();
    let file = disk.open(Path::new("d/f"), OpenMode::ReadWrite).unwrap();
    let mut buf = [1; 512];
    file.read_at(&mut buf, 0).unwrap();
    let error = file.read_at(&mut buf, 511).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let map = file.map(8192, 0, 2000, MapAccess::Read).unwrap();
    map.mapping().populate_read(600, 10).unwrap_err();
    file.write_at(&[0; 512], 512).unwrap();
    file.read_at(&mut buf, 511).unwrap();
    map.mapping().populate_read(600, 10).unwrap();
    map.mapping().populate_read(4096, 10).unwrap_err();
}

#[test]
fn errors_are_those_of_a_real_disk() {
    let disk = SimDisk::new();
    disk.write_file("d/f", b"x").unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    let open = |path, mode| disk.open(Path::new(path), mode).map(drop);
    assert_eq!(kind(open("g", OpenMode::Read)), io::ErrorKind::NotFound);
    assert_eq!(kind(open("e/f", OpenMode::CreateNew)), io::ErrorKind::NotFound);
    assert_eq!(kind(open("d/f/g", OpenMode::Read)), io::ErrorKind::NotADirectory);
    assert_eq!(kind(open("d/f", OpenMode::CreateNew)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(open("d", OpenMode::ReadWrite)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.remove_dir(Path::new("d"))), io::ErrorKind::DirectoryNotEmpty);
    let read_only = disk.open(Path::new("d/f"), OpenMode::Read).unwrap();
    assert_eq!(read_only.write_at(b"y", 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(read_only.len().unwrap(), 1);
    assert_eq!(disk.stat(Path::new("d")).unwrap().kind, EntryKind::Dir);
    disk.remove_file(Path::new("d/f")).unwrap();
    disk.remove_dir(Path::new("d")).unwrap();
    assert_eq!(read_only.read_at(&mut [0], 0).unwrap(), 1);
}

#[test]
fn probe_leaves_nothing_behind_whatever_fails() {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("v")).unwrap();
    let found = probe(&disk, Path::new("v")).unwrap();
    assert!(found.allocate && found.coherent && found.sync_dir);
    let calls = disk.calls();
    for at in 1..=calls {
        // The removal itself is the one thing that it cannot do without.
        disk.arm(Fault { at, call: None, what: FaultKind::Eio, how_long: HowLong::Once });
        let failed = probe(&disk, Path::new("v")).is_err();
        disk.disarm();
        let left = disk.files();
        assert!(left.is_empty() || failed, "call {at}");
        probe(&disk, Path::new("v")).unwrap();
        assert!(disk.files().is_empty());
    }
}

#[test]
fn images_are_cheap() {
    let disk = SimDisk::new();
    for file in 0..4 {
        disk.write_file(format!("d/{file}"), &vec![3; 20_000]).unwrap();
        let file = disk.open(Path::new(&format!("d/{file}")), OpenMode::ReadWrite).unwrap();
        file.allocate(0, 100_000).unwrap();
        for write in 0..8 {
            write_all_at(&*file, &[9; 700], 20_000 + write * 700).unwrap();
        }
    }
    let start = std::time::Instant::now();
    let images = if cfg!(miri) { 10 } else { 10_000 };
    let mut distinct = std::collections::HashSet::new();
    for seed in 0..images {
        distinct.insert(disk.crash(&Loss::Random(seed)).fingerprint());
    }
    assert!(distinct.len() as u64 > images * 9 / 10);
    // 100,000 in 20 s on an idle machine is the aim; this only notices a change of order.
    assert!(start.elapsed().as_secs() < 20, "{images} images took {:?}", start.elapsed());
}

#[test]
fn one_disk_serves_many_threads() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 65_536).unwrap();
    let mut map = file.map(65_536, 0, 0, MapAccess::Write).unwrap();
    map.set_allocated(65_536);
    let mapping = Arc::clone(map.mapping());
    let rounds: u16 = if cfg!(miri) { 20 } else { 2000 };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0..rounds {
                let start = usize::from(round) * 8;
                map.reserve(start, 8).fill(round.to_le_bytes()[0]);
                map.publish(start + 8);
            }
        });
        scope.spawn(|| {
            while mapping.published() < usize::from(rounds) * 8 {
                file.sync_data().unwrap();
                let _ = disk.crash(&Loss::All).fingerprint();
            }
        });
        scope.spawn(|| {
            let mut seen = 0;
            while seen < usize::from(rounds) {
                let view = mapping.view(0, mapping.published()).unwrap();
                for (round, bytes) in view.bytes().chunks(8).enumerate().skip(seen) {
                    assert_eq!(bytes, [u8::try_from(round % 256).unwrap(); 8]);
                }
                seen = view.len() / 8;
            }
        });
    });
    file.sync_data().unwrap();
    let bytes = disk.crash(&Loss::All).read_file("f").unwrap();
    for round in 0..rounds {
        assert_eq!(bytes[usize::from(round) * 8], round.to_le_bytes()[0]);
    }
}

#[test]
fn a_reservation_given_up_can_be_written_over() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 4096).unwrap();
    let mut map = file.map(4096, 0, 0, MapAccess::Write).unwrap();
    map.set_allocated(4096);
    map.reserve(0, 8).fill(1);
    map.publish(0);
    write_all_at(&*file, b"instead", 0).unwrap();
    map.publish(7);
    assert_eq!(map.mapping().view(0, 7).unwrap().bytes(), b"instead");
    assert_eq!(&disk.read_file("f").unwrap()[..8], b"instead\x01");
}

/// A file with one sector synced and another one not.
fn half_synced(disk: &SimDisk) -> std::io::Result<()> {
    let file = disk.open(Path::new("a"), OpenMode::CreateNew)?;
    disk.sync_dir(Path::new(""))?;
    write_all_at(&*file, &[1; 512], 0)?;
    file.sync_data()?;
    write_all_at(&*file, &[2; 512], 512)
}

#[test]
fn a_process_that_dies_in_place_leaves_its_page_cache() {
    let disk = SimDisk::new();
    disk.kill_after(5);
    half_synced(&disk).unwrap();
    assert!(disk.is_on());
    assert!(disk.list(Path::new("")).is_err(), "the sixth call");
    assert!(!disk.is_on());
    disk.kill_in_place(|| assert!(disk.list(Path::new("")).is_err()));
    assert!(disk.is_on());
    assert_eq!(disk.calls(), 5, "calls of the dead do not count");
    assert_eq!(disk.read_file("a"), Some([[1; 512], [2; 512]].concat()));
    assert!(!disk.pending().is_empty(), "what was not synced still is not");
}

#[test]
fn a_power_cycle_takes_what_was_not_synced() {
    let disk = SimDisk::new();
    half_synced(&disk).unwrap();
    disk.power_cycle(&Loss::All, || assert!(!disk.is_on()));
    assert_eq!(disk.read_file("a"), Some(vec![1; 512]));
    assert!(disk.pending().is_empty());
    disk.cut_power();
    disk.power_cycle(&Loss::None, || ());
    assert!(!disk.is_on(), "a power cut from outside stays");
}

#[test]
#[should_panic(expected = "holds a file")]
fn a_dead_process_holds_no_file() {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    disk.kill_in_place(|| ());
    drop(file);
}

#[test]
fn faults_that_were_met_are_told_once_each() {
    let disk = SimDisk::new();
    let call = Some(Call::List);
    disk.arm(Fault { at: 1, call, what: FaultKind::Eio, how_long: HowLong::Forever });
    for _ in 0..3 {
        disk.list(Path::new("")).unwrap_err();
    }
    assert_eq!(disk.fired(), 3);
    assert_eq!(disk.fired_at(), [(Call::List, FaultKind::Eio)]);
}
