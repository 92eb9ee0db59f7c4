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
//! | `writer`, `body` | appending: three write paths behind one writer; what goes through them |
//! | `role`, `copy`, `catch_up` | its part among replicas; appending the batches of another replica; saying that they are more than synced |
//! | `commit` | group commit: who syncs, and who waits |
//! | `roll`, `seal`, `cut`, `trim` | the life of a file: begun, closed, voided from, deleted |
//! | `room`, `ahead` | room for an append, and for appends to come |
//! | `handles` | how many descriptors and mappings are held |
//! | `retain`, `housekeep` | what is too old or too much; what is due without a caller |
//! | `backup` | a copy in another folder |
//! | `scan`, `recover`, `mend` | what the bytes say; what an open makes of it, and makes true |
//! | `inspect`, `patch` | reading every batch again, and writing over those that went bad |
//! | `read`, `chunk`, `unpack` | fetching, and the bytes that a fetch hands out; without their codec |
//! | `dedup` | which records were written before |
//! | `epochs` | which leader epoch began where |
//! | `producers` | who numbered which batch |
//! | `counters`, `histogram` | what the log has done since the open |
//! | `figures`, `pins` | what its files are now, and which of them views hold |
//! | `survey` | what files tell of their topic where the metadata does not |
//! | `latch`, `event` | the first failure, remembered; waking whoever waits |
//!
//! Locks, in the order in which they may be taken: the turns (flags), `writer`, `commit`,
//! `segments`, then leaves (a segment's file, mapping, index; the latch; watchers). None is held
//! across a sync.

mod ahead;
mod backup;
mod body;
mod catch_up;
mod chunk;
mod commit;
mod copy;
mod core;
mod counters;
mod cut;
mod dedup;
mod epochs;
mod event;
mod figures;
mod handles;
mod histogram;
mod housekeep;
mod index;
mod inspect;
mod latch;
mod mend;
mod patch;
mod pins;
mod place;
mod producers;
mod read;
mod read_ahead;
mod recover;
mod refresh;
mod retain;
mod role;
mod roll;
mod room;
mod scan;
mod seal;
mod seek;
mod segment;
mod survey;
mod trim;
mod turn;
mod unpack;
mod verified;
mod verify;
mod writer;

#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod tests;

pub(crate) use backup::{BackedUp, remove_copy};
pub(crate) use chunk::{Chunk, ChunkRecord, ChunkRecords};
pub(crate) use core::{Housekeeper, Log, LogOptions, Mode};
pub(crate) use counters::Counts;
pub(crate) use dedup::Placed;
pub(crate) use event::{Event, Sleeper, Watchers};
pub(crate) use handles::Handles;
pub use histogram::Histogram;
pub(crate) use housekeep::Next;
pub(crate) use inspect::{Hole, HolePlace, Inspected, Through};
pub(crate) use patch::Patched;
pub(crate) use pins::{Pinned, Removed};
pub(crate) use place::Place;
pub(crate) use producers::{LiveProducers, ProducerIdentity, ProducerTable};
pub(crate) use read::{ReadCursor, check_batch};
pub(crate) use recover::{Entrance, LogReport, Opening};
pub(crate) use refresh::Presence;
pub(crate) use retain::Keep;
pub(crate) use scan::{Image, image};
pub(crate) use survey::{Survey, headers_in, segment_bytes_of, survey};
pub(crate) use trim::remove_file;
pub(crate) use unpack::{Unpackable, unpack};
pub(crate) use verify::{Closing, Findings, verify_partition};
pub(crate) use writer::{Appended, Origin, refused};
