//! A disk in memory that crashes, tears, fails, fills up and rots on command.
//!
//! Power-cut your own application with it: give a [`SimDisk`] to the broker's builder, do
//! something, and look what a crash leaves. [`explore`] does so at every call and in every way.
//!
//! ```
//! use plimsoll::sim::{Loss, SimDisk};
//!
//! let disk = SimDisk::new();
//! disk.write_file("data/notes", b"kept")?;
//! let after = disk.crash(&Loss::All);
//! assert_eq!(after.read_file("data/notes").as_deref(), Some(&b"kept"[..]));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The model
//!   1. A file's page cache and its medium are apart. A write, a length and a name are pending
//!      until a sync of the file, or of the folder for names, has succeeded.
//!   2. A power cut keeps or loses each pending change, in any combination; a write may be torn
//!      at sectors of 512 bytes. A rename happens or does not. Syncing a file does not make its
//!      name durable. Cuts of a file are never undone by keeping a later length.
//!   3. A failed sync marks everything clean: reads still show what the medium will never get, and
//!      the next sync succeeds without writing it. Lengths, and the names of a folder whose sync
//!      failed, stay pending.
//!   4. The process may be killed instead: the page cache stays, locks are freed.
//!   5. What is stored through a mapping is part of the page cache once it is published, and at
//!      the latest when the mapping's writer is gone.
//!
//! Not modelled: metadata that takes space, symbolic links, and time.

mod blocks;
mod crash;
mod disk;
mod explore;
mod fault;
mod file;
mod handle;
mod loss;
mod page;
mod region;
mod report;
mod state;
mod sweep;
mod tree;

pub use crash::Pending;
pub use disk::SimDisk;
pub use explore::{Explorer, explore};
pub use fault::{Call, Fault, FaultKind, HowLong};
pub use loss::{Loss, NotALoss};
pub use report::{Failure, Report, SweepReport};
pub use sweep::{sweep_calls, sweep_faults};

pub(in crate::fs) use region::SimRegion;

#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod tests;
