//! `ffnlab compare`: the table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lm_eval::compare::{Comparison, Format, Options, collect, export};
use lm_eval::frame::{Target, columns_help};

use crate::output::{note, print};

/// Compare runs: loss with its spread over seeds, and differences paired by seed
///
/// DIR is a run directory or a folder of them at any depth. Runs that differ only in their seed are one arm. Runs of one
/// seed share the order of the data and every weight that both have, so differences are taken seed by seed.
#[derive(Debug, Args)]
#[command(after_long_help = columns_help())]
pub struct Compare {
    /// Run directories, or folders of run directories
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Arm that the others are compared with [default: relu if it is there, else the first]
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// table, markdown, csv, latex or json
    #[arg(long, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Same as --format json
    #[arg(long)]
    json: bool,
    /// Add Shazeer's published column
    #[arg(long)]
    published: bool,
    /// Also write a table for other tools, and its number of rows to standard error: runs.parquet (one row per run) or
    /// metrics.parquet (one row per step of every run); the name of FILE ends in one of them, or in runs.csv or
    /// metrics.csv. May be repeated
    #[arg(long, value_name = "FILE")]
    export: Vec<Target>,
}

impl Compare {
    pub fn run(&self) -> Result<ExitCode> {
        let collection = collect(&self.dirs)?;
        let options =
            Options { baseline: self.baseline.as_deref(), published: self.published, ..Options::default() };
        let comparison = Comparison::new(&collection, &options)?;
        for target in &self.export {
            let rows = target.write(&comparison)?;
            note(&format!("{target}: {rows} rows"));
        }
        let format = if self.json { Format::Json } else { self.format };
        print(&export(&comparison, format, super::terminal_width()))?;
        Ok(ExitCode::SUCCESS)
    }
}
