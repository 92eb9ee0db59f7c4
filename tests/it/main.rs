//! The promises of the library, each with a file of its own that is named by it.

mod child;
mod cli;
mod cli_bench;
mod cli_consume;
mod cli_dedup;
mod cli_inspect;
mod cli_produce;
mod cli_stats;
mod cold_reads;
mod compression;
mod consumer_controls;
mod corruption;
mod crash;
mod enqueue;
mod failing_sync;
mod faults;
mod fork;
mod frozen;
mod full_disk;
mod kills;
mod limits;
mod metrics;
mod read_only;
mod real_input;
mod support;
mod zero_copy;
