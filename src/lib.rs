//! Plimsoll.
#![deny(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::dbg_macro)]
#![warn(missing_debug_implementations, clippy::pedantic)]
#![allow(dead_code, unused_imports)]

mod broker;
mod client;
mod config;
mod error;
mod format;
mod fs;
mod id;
mod log;
mod partition;

pub use broker::{
    Background, Broker, BrokerBuilder, DumpSummary, RecoveryReport, TailCut, Topic, VerifyFault,
    VerifyReport, dump_segment,
};
pub use client::*;
pub use config::*;
pub use error::*;
pub use format::{Header, Headers, Record};
#[cfg(any(test, feature = "sim"))]
pub use fs::sim;
pub use id::*;
