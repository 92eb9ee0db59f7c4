//! `plimsoll`: the library's command line.
//!
//! Not here: any rule of the store. Each command is a thin edge around the public API, and what a
//! user reads in an error is what the library says.
//!
//! Output    standard output carries only what was asked for; everything else goes to standard
//!           error, each line of it prefixed `plimsoll: `.
//! Exit      0 done, 1 found or failed, 2 wrong usage.
//! Failure   nothing here panics, whatever the arguments, the input and the files: what goes wrong
//!           is a [`Fail`], told once, in `main`.

#![forbid(unsafe_code)]
#![warn(clippy::pedantic)]

mod args;
mod bench;
mod bytes;
mod consume;
mod dump;
mod format;
mod interrupt;
mod lines;
mod output;
mod pending;
mod produce;
mod progress;
mod stats;
mod store;
mod topic;
mod values;
mod verify;
mod volume;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use plimsoll::Error;

use args::{Cli, Command, GroupCommand, TopicCommand, VolumeCommand};
use output::{Ending, Fail, Result, tell};
use store::Store;

const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return wrong_usage(&told),
    };
    match run(&cli) {
        // Whoever reads the output has seen enough.
        Ok(Ending::Done) | Err(Fail::PipeClosed) => ExitCode::SUCCESS,
        Ok(Ending::Found) | Err(Fail::Told) => ExitCode::FAILURE,
        Err(Fail::Usage(why)) => {
            wrong_usage(&Cli::command().error(clap::error::ErrorKind::ArgumentConflict, why))
        }
        Err(fail) => {
            tell(format_args!("{fail}"));
            // An option's value that the library refuses was given on this command line.
            match fail {
                Fail::Library(Error::InvalidConfig(_)) => ExitCode::from(WRONG_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints what clap has to say: also the help and the version, which are no errors.
fn wrong_usage(told: &clap::Error) -> ExitCode {
    // A closed pipe is nobody's loss.
    let _ = told.print();
    ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(WRONG_USAGE))
}

fn run(cli: &Cli) -> Result<Ending> {
    let store = Store::new(&cli.data);
    match &cli.command {
        Command::Topic(command) => match command {
            TopicCommand::Create { name, partitions, options } => {
                let config = options.config().partitions(*partitions);
                topic::create(&store, name, config, options.replicas)
            }
            TopicCommand::List => topic::list(&store, cli.json),
            TopicCommand::Describe { name } => topic::describe(&store, name, cli.json),
            TopicCommand::Alter { name, partitions, options } => {
                topic::alter(&store, name, *partitions, options.change())
            }
            TopicCommand::Delete { name } => topic::delete(&store, name),
        },
        Command::Produce(args) => produce::run(&store, args, cli.json),
        Command::Consume(args) => consume::run(&store, args, cli.json),
        Command::Group(command) => not_yet(match command {
            GroupCommand::List => "group list",
            GroupCommand::Describe { .. } => "group describe",
            GroupCommand::ResetOffsets { .. } => "group reset-offsets",
            GroupCommand::Delete { .. } => "group delete",
        }),
        Command::Volume(VolumeCommand::List) => volume::list(&store, cli.json),
        Command::Volume(VolumeCommand::Add { dir }) => volume::add(&store, dir),
        Command::Volume(VolumeCommand::Drain { dir }) => volume::drain(&store, dir),
        Command::Volume(VolumeCommand::Remove { dir, force }) => {
            volume::remove(&store, dir, *force)
        }
        Command::Verify { repair: true } => verify::repair(&store, cli.json),
        Command::Verify { repair: false } => verify::run(&store, cli.json),
        Command::Dump { file } => dump::run(file, cli.json),
        Command::Bench(args) => bench::run(&store, args, cli.json),
        Command::Stats(args) => stats::run(&store, args, cli.json),
    }
}

fn not_yet(what: &'static str) -> Result<Ending> {
    Err(Fail::Library(Error::NotYet { what }))
}
