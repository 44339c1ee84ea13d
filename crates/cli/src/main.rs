//! `ffnlab`: which feed-forward variant gives which loss at which cost, and how sure are we?
//!
//! This binary only parses, validates, calls the libraries and prints. Exit codes: 0 done, 1 failed, 2 wrong usage or
//! config, 130 / 143 stopped by SIGINT / SIGTERM after a checkpoint, 141 the reader of the output went away.

mod args;
mod jobs;
mod output;
mod progress;
mod signals;
mod slots;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use lm_train::memory::LargeBuffers;

#[global_allocator]
static ALLOCATOR: LargeBuffers = LargeBuffers;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("ffnlab: internal error, please report it: {panic}");
    }));
    let args::Cli { verb, mut common } = args::Cli::parse();
    let ended = match common.apply() {
        Ok(()) => verb.run(&common),
        Err(error) => Err(error.into()),
    };
    ended.unwrap_or_else(|error| output::report(&error))
}
