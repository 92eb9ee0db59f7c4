//! Who numbered which batch: so that a batch that is sent again is found, and never written twice.
//!
//! Not here: who may make a producer, and which names there are (`broker`).
//!
//! | file | what |
//! | --- | --- |
//! | `table` | [`ProducerTable`]: the number that each producer's next record gets. Pure |
//! | `identity` | [`ProducerIdentity`]: who appends, and whether it still may |
//! | `carried` | the table as the files of a log tell it, at any offset |

mod carried;
mod identity;
mod table;

pub(crate) use carried::{Carried, opening_section};
pub(crate) use identity::{LiveProducers, ProducerIdentity};
pub(crate) use table::{Noted, Numbered, ProducerTable, Refusal, Verdict};
