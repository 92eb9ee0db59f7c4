//! One replica's files: segments, indexes, appends, reads, group commit, roll, cut, recovery.
//!
//! Not here: what is committed, and who leads (`partition`); which topics there are (`broker`);
//! threads (`broker` too: this layer starts none). One writer at a time, many readers.
//!
//! | file | what |
//! | --- | --- |
//! | `place` | whose log this is, for checksums and for errors |
//! | `core` | [`Log`]: what the layers above call |
//! | `segment`, `index`, `verified` | one file, its sparse index, which of its bytes were checked |
//! | `writer` | appending: three write paths behind one writer |
//! | `commit` | group commit: who syncs, and who waits |
//! | `roll`, `seal`, `cut`, `trim` | the life of a file: begun, closed, voided from, deleted |
//! | `ahead` | room for appends to come |
//! | `handles` | how many descriptors and mappings are held |
//! | `scan`, `recover`, `mend` | what the bytes say; what an open makes of it, and makes true |
//! | `read`, `chunk` | fetching, and the bytes that a fetch hands out |
//! | `epochs` | which leader epoch began where |
//! | `latch`, `event` | the first failure, remembered; waking whoever waits |
//!
//! Locks, in the order in which they may be taken: the turns (flags), `writer`, `commit`,
//! `segments`, then leaves (a segment's file, mapping, index; the latch; watchers). None is held
//! across a sync.

mod ahead;
mod chunk;
mod commit;
mod core;
mod cut;
mod epochs;
mod event;
mod handles;
mod housekeep;
mod index;
mod latch;
mod mend;
mod place;
mod read;
mod recover;
mod refresh;
mod roll;
mod scan;
mod seal;
mod seek;
mod segment;
mod trim;
mod turn;
mod verified;
mod verify;
mod writer;

#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod tests;

pub(crate) use chunk::{Chunk, ChunkRecord, ChunkRecords};
pub(crate) use core::{Housekeeper, Log, LogOptions, Mode};
pub(crate) use event::{Event, Sleeper};
pub(crate) use handles::Handles;
pub(crate) use housekeep::Next;
pub(crate) use place::Place;
pub(crate) use read::{ReadCursor, check_batch};
pub(crate) use recover::{Entrance, LogReport, Opening};
pub(crate) use refresh::Presence;
pub(crate) use scan::{Image, image};
pub(crate) use trim::remove_file;
pub(crate) use verify::{Closing, Findings, verify_partition};
pub(crate) use writer::Appended;
