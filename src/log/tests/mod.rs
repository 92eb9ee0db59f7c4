//! The log as a whole, on a simulated disk: crashes at every call, and random operations against a
//! naive model.
//!
//! Not here: what a broker adds (`tests/it/crash.rs`, `tests/it/faults.rs`, which share the model
//! and the runner with these), single flipped bits (`flip_tests`).

mod ahead;
mod bench;
mod catch_up;
mod coherence;
mod compressed;
mod crash;
mod damage;
mod dedup;
mod dedup_bench;
mod handles;
mod hooks;
#[cfg(plimsoll_model)]
mod interleavings;
mod model;
mod producers;
mod read_ahead;
mod retain;
mod seal;
mod stories;

#[path = "../../../tests/it/support/history.rs"]
mod history;
#[path = "../../../tests/it/support/looks.rs"]
mod looks;
#[path = "../../../tests/it/support/suite.rs"]
mod suite;

use crate::fs::sim;
