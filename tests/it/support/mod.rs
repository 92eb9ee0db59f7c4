//! What tests share, those of crashes and faults above all.
//!
//! | file | what |
//! | --- | --- |
//! | `history` | what a partition was told, as a naive model, and what may be found of it |
//! | `store` | a broker on a simulated disk whose every promise is written down |
//! | `check` | opens what a crash left, compares it with the history, and uses it |
//! | `looks` | remembers what was seen of an image, for when it comes again |
//! | `suite` | explores the crashes of many workloads, counts, prints, replays |
//! | `random` | numbers that are the same on every machine |

pub(crate) mod check;
pub(crate) mod history;
pub(crate) mod looks;
pub(crate) mod random;
pub(crate) mod store;
pub(crate) mod suite;

pub(crate) use plimsoll::sim;
