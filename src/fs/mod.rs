//! The only door to the operating system, and all of the crate's unsafe code.
//!
//! | file | what |
//! | --- | --- |
//! | `disk` | the contract: what a disk and a file must do |
//! | `folders` | syncs of folders, each final |
//! | `layer` | a disk over another one |
//! | `os` | the real disk |
//! | `map` | mappings: one writer, many views, and the safety argument |
//! | `fork` | whether this process is a fork of the one that opened |
//! | `heap` | page-aligned memory, for mappings that are copies |
//! | `probe` | what a folder's file system can do |
//! | `sim` | a disk in memory that crashes, tears, fails, fills and rots (feature `sim`) |

mod disk;
mod folders;
mod fork;
mod heap;
mod layer;
mod map;
mod os;
mod probe;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

#[cfg(test)]
pub(crate) use disk::Entry;
#[cfg(test)]
pub(crate) use disk::Stat;
pub(crate) use disk::{
    Disk, DiskFile, DiskLock, EntryKind, MapAccess, OpenMode, is_out_of_descriptors, read_exact_at,
    write_all_at,
};
pub(crate) use folders::FinalSyncs;
pub(crate) use fork::ForkMark;
#[cfg(test)]
pub(crate) use layer::{FileLayer, Layer};
pub(crate) use map::{MapWriter, Mapping, View};
pub(crate) use os::OsDisk;
pub(crate) use probe::{Capabilities, probe};
