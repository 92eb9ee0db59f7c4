//! What a crash of the model leaves, promise by promise.
//!
//! 1. What was synced survives every loss; what was not is kept, lost or torn by sectors.
//! 2. Names and contents are durable apart; a rename is atomic.

use std::io;
use std::path::Path;

use super::tests::{create, disk_with_file};
use super::{Loss, SimDisk};
use crate::fs::{Disk, OpenMode, write_all_at};

#[test]
fn unsynced_write_is_kept_lost_or_torn() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, &[1; 2048], 0).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, &[2; 2048], 0).unwrap();
    let after = |loss: &str| disk.crash(&loss.parse().unwrap()).read_file("f").unwrap();
    assert_eq!(after("all"), [1; 2048]);
    assert_eq!(after("none"), [2; 2048]);
    assert_eq!(after("torn:0:1-3"), [[2; 512], [1; 512], [1; 512], [2; 512]].concat());
    assert_eq!(after("tail:0:1"), [[2; 512], [1; 512], [1; 512], [1; 512]].concat());
    file.sync_data().unwrap();
    assert_eq!(disk.losses(5), [Loss::None]);
    assert_eq!(after("all"), [2; 2048]);
}

#[test]
fn a_sector_is_as_it_was_at_some_moment() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, &[0; 512], 0).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, b"one", 0).unwrap();
    write_all_at(&*file, b"two", 3).unwrap();
    for loss in disk.losses(20) {
        let bytes = disk.crash(&loss).read_file("f").unwrap();
        let start = &bytes[..6];
        assert!([&b"\0\0\0\0\0\0"[..], b"one\0\0\0", b"onetwo"].contains(&start), "{loss}");
    }
}

#[test]
fn length_and_data_are_lost_apart() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, &[7; 600], 0).unwrap();
    assert_eq!(disk.crash(&Loss::LenWithoutData).read_file("f").unwrap(), [0; 600]);
    let without_len = disk.crash(&Loss::DataWithoutLen);
    assert!(without_len.read_file("f").unwrap().is_empty());
    let again = without_len.open(Path::new("f"), OpenMode::ReadWrite).unwrap();
    again.set_len(600).unwrap();
    assert_eq!(without_len.read_file("f").unwrap(), [0; 600], "what was beyond the end is gone");
    let stale = |seed| disk.crash(&Loss::Random(seed)).read_file("f").unwrap();
    assert!(
        (0..50).any(|seed| stale(seed).iter().any(|b| *b != 0 && *b != 7)),
        "some seed shows stale bytes"
    );
}

#[test]
fn allocated_space_reads_as_zeros_when_its_data_is_lost() {
    let (disk, file) = disk_with_file();
    file.allocate(0, 8192).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, &[7; 4096], 0).unwrap();
    for seed in 0..50 {
        let bytes = disk.crash(&Loss::Random(seed)).read_file("f").unwrap();
        assert_eq!(bytes.len(), 8192);
        assert!(bytes.iter().all(|b| [0, 7].contains(b)), "seed {seed}");
    }
}

#[test]
fn bytes_that_were_cut_off_do_not_come_back() {
    let (disk, file) = disk_with_file();
    write_all_at(&*file, &[7; 1000], 0).unwrap();
    file.sync_data().unwrap();
    file.set_len(100).unwrap();
    file.set_len(1000).unwrap();
    let cut = [vec![7; 100], vec![0; 900]].concat();
    assert_eq!(disk.read_file("f").unwrap(), cut);
    for loss in disk.losses(20) {
        let bytes = disk.crash(&loss).read_file("f").unwrap();
        assert!(bytes == cut || bytes == [7; 1000] || bytes == [7; 100], "{loss}");
    }
}

#[test]
fn name_is_lost_without_sync_dir() {
    let disk = SimDisk::new();
    let file = create(&disk, "a");
    write_all_at(&*file, b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.crash(&Loss::All).files(), [] as [&Path; 0]);
    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(disk.crash(&Loss::All).read_file("a").unwrap(), b"x");
    disk.remove_file(Path::new("a")).unwrap();
    assert_eq!(file.links().unwrap(), 0);
    assert_eq!(disk.crash(&Loss::All).read_file("a").unwrap(), b"x", "the removal is lost");
    assert_eq!(disk.crash(&Loss::None).read_file("a"), None);
}

#[test]
fn a_linked_file_has_two_names_each_lost_without_its_own_sync_dir() {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("d")).unwrap();
    let file = create(&disk, "a");
    write_all_at(&*file, b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk.hard_link(Path::new("a"), Path::new("d/b")).unwrap();
    assert_eq!(file.links().unwrap(), 2);
    let again = disk.hard_link(Path::new("a"), Path::new("d/b"));
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.crash(&Loss::All).read_file("d/b"), None, "the name is lost");
    disk.sync_dir(Path::new("d")).unwrap();
    disk.remove_file(Path::new("a")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    let after = disk.crash(&Loss::All);
    assert_eq!((after.read_file("a"), after.read_file("d/b").unwrap()), (None, b"x".to_vec()));
    let opened = after.open(Path::new("d/b"), OpenMode::ReadWrite).unwrap();
    assert_eq!(opened.links().unwrap(), 1);
    write_all_at(&*file, b"y", 0).unwrap();
    assert_eq!(disk.read_file("d/b").unwrap(), b"y", "it is one file");
}

#[test]
fn folder_that_is_lost_takes_what_is_in_it() {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("d")).unwrap();
    let file = create(&disk, "d/a");
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    let after = disk.crash(&Loss::All);
    assert_eq!(after.list(Path::new("")).unwrap(), []);
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(disk.crash(&Loss::All).files(), [Path::new("/d/a")]);
}

#[test]
fn rename_is_atomic() {
    let disk = SimDisk::new();
    disk.write_file("name", b"old").unwrap();
    let file = create(&disk, "temporary");
    write_all_at(&*file, b"new", 0).unwrap();
    file.sync_data().unwrap();
    disk.rename(Path::new("temporary"), Path::new("name")).unwrap();
    let mut seen = Vec::new();
    for loss in disk.losses(20) {
        let bytes = disk.crash(&loss).read_file("name").unwrap();
        assert!(bytes == b"old" || bytes == b"new", "{loss}");
        seen.push(bytes);
    }
    assert!(seen.contains(&b"old".to_vec()) && seen.contains(&b"new".to_vec()));
}
