//! `ffnlab sweep`: every cell of a grid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lm_eval::compare::{Comparison, Format, Options, collect, export};
use lm_train::config::{ConfigError, ConfigSource, DataConfig, RunConfig, Sweep as Grid, TokenizerConfig};
use lm_train::data;
use lm_train::record::RunDir;

use super::{default_out, read_config};
use crate::args::{Common, Overrides};
use crate::jobs::{self, Job};
use crate::output::{note, print, print_json};
use crate::signals;
use crate::slots::{Machine, Slots};

/// Train every cell of the grid in a config's [sweep] table
///
/// Cells run as separate processes that share the cores; if they take all of them, each keeps to its own (Linux). A cell that has ended is skipped, one that was interrupted
/// goes on, one that fails is reported at the end while the others continue (exit code 1).
#[derive(Debug, Args)]
pub struct Sweep {
    /// Config file (TOML) with a [sweep] table, or - for standard input
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// Folder for the run directories [default: runs/NAME, from the config's file name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Cells trained at a time, each with its share of the cores (0: one per core, or fewer with more cores each when there
    /// are fewer cells)
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
    /// Only list the cells and what is left to do
    #[arg(long)]
    dry_run: bool,
    /// Print the result (with --dry-run: the cells) as JSON
    #[arg(long)]
    json: bool,
}

impl Sweep {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let source = read_config(&self.config, &self.overrides.parse()?)?;
        let out = match &self.out {
            Some(out) => out.clone(),
            None => default_out(&self.config)?,
        };
        let cells = plan(&source, &out)?;
        if self.dry_run {
            return list(&cells, self.json);
        }
        let ended = train_cells(&cells, self.jobs, common)?;
        show(&cells, &Options::default(), if self.json { Format::Json } else { Format::Table })?;
        Ok(ended)
    }
}

/// Prints the comparison of the cells, if at least one has ended.
///
/// # Errors
/// Unreadable runs, or a closed standard output.
pub fn show(cells: &[Job], options: &Options, format: Format) -> Result<()> {
    if !cells.iter().any(|cell| has_ended(&cell.out)) {
        return Ok(());
    }
    let dirs: Vec<PathBuf> = cells.iter().map(|cell| cell.out.clone()).filter(|dir| dir.exists()).collect();
    let comparison = Comparison::new(&collect(&dirs)?, options)?;
    print(&export(&comparison, format, super::terminal_width()))
}

/// The cells of a grid with their run directories: `OUT/NAME-ID`.
///
/// # Errors
/// A config without grid, a bad cell, unusable data.
pub fn plan(source: &ConfigSource, out: &Path) -> Result<Vec<Job>> {
    let mut folder = Folder::new(out);
    grid(source)?.cells()?.into_iter().map(|cell| folder.job(cell.name, cell.config)).collect()
}

/// The grid of a config that must have one.
///
/// # Errors
/// A config without grid, or with a bad one.
pub fn grid(source: &ConfigSource) -> Result<Grid> {
    let missing = || ConfigError::Invalid {
        place: "[sweep]".to_owned(),
        message:
            "this config has no grid; add a [sweep] table, such as seed = [0, 1, 2], or use `ffnlab train`"
                .to_owned(),
    };
    Ok(source.sweep()?.ok_or_else(missing)?)
}

/// A folder of run directories, `NAME-ID` each.
pub struct Folder {
    path: PathBuf,
    /// The last data and their fingerprint: most runs share them, and their files need not be hashed for each.
    known: Option<(DataConfig, TokenizerConfig, String)>,
    /// What was in the folder at first, in order; all runs that other versions named are among it.
    earlier: Vec<PathBuf>,
}

impl Folder {
    pub fn new(path: &Path) -> Self {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut earlier: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        earlier.sort();
        Self { path: path.to_owned(), known: None, earlier }
    }

    /// The run of `config` in this folder.
    ///
    /// # Errors
    /// Unusable data.
    pub fn job(&mut self, name: String, config: RunConfig) -> Result<Job> {
        let fingerprint = match &self.known {
            Some((data, tokenizer, fingerprint))
                if *data == config.data && *tokenizer == config.tokenizer =>
            {
                fingerprint.clone()
            }
            Some(_) | None => data::fingerprint(&config.data, &config.tokenizer)?,
        };
        let id = config.run_id(&fingerprint)?;
        self.known = Some((config.data.clone(), config.tokenizer.clone(), fingerprint));
        Ok(Job { out: self.directory(&name, &id[..8]), name, config, id })
    }

    /// `NAME-ID`, or the directory that holds this run under another name, which is a matter of taste and versions.
    fn directory(&self, name: &str, id: &str) -> PathBuf {
        let wanted = self.path.join(format!("{name}-{id}"));
        if wanted.exists() {
            return wanted;
        }
        let of_this_run = |entry: &&PathBuf| {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.strip_suffix(id).is_some_and(|rest| rest.ends_with('-'))
        };
        self.earlier.iter().find(of_this_run).cloned().unwrap_or(wanted)
    }
}

/// Trains what has not ended yet, `parallel` cells at a time (0: as many as there are cores), and reports what failed.
///
/// # Errors
/// When no child can be started.
pub fn train_cells(cells: &[Job], parallel: usize, common: &Common) -> Result<ExitCode> {
    let todo: Vec<Job> = cells.iter().filter(|cell| !has_ended(&cell.out)).cloned().collect();
    let skipped = cells.len() - todo.len();
    if skipped > 0 {
        note(&format!("{skipped} of {} runs had ended before", cells.len()));
    }
    Ok(train_all(&todo, parallel, common)?.unwrap_or(ExitCode::SUCCESS))
}

/// Trains all `jobs` and says what failed; the exit code, unless all of them have ended.
///
/// # Errors
/// When no child can be started.
pub fn train_all(jobs: &[Job], parallel: usize, common: &Common) -> Result<Option<ExitCode>> {
    let slots = Slots::new(&Machine::here(), common.threads, parallel, jobs.len());
    let report = jobs::run(jobs, slots, common)?;
    for (name, reason) in &report.failed {
        note(&format!("ffnlab: {name} failed: {reason}"));
    }
    if let Some(stop) = report.stopped {
        note("stopped; the same command goes on from here");
        return Ok(Some(signals::exit_code(stop)));
    }
    Ok((!report.failed.is_empty()).then_some(ExitCode::FAILURE))
}

/// Whether the run in `dir` has ended.
pub fn has_ended(dir: &Path) -> bool {
    matches!(RunDir::read_summary(dir), Ok(Some(_)))
}

#[derive(serde::Serialize)]
struct Planned<'a> {
    name: &'a str,
    out: &'a Path,
    ended: bool,
}

fn list(cells: &[Job], json: bool) -> Result<ExitCode> {
    let planned: Vec<Planned> = cells
        .iter()
        .map(|cell| Planned { name: &cell.name, out: &cell.out, ended: has_ended(&cell.out) })
        .collect();
    if json {
        print_json(&planned)?;
    } else {
        let left = planned.iter().filter(|cell| !cell.ended).count();
        let mut text: String = planned
            .iter()
            .map(|c| {
                format!("{:<7} {:<24} {}\n", if c.ended { "ended" } else { "to do" }, c.name, c.out.display())
            })
            .collect();
        text += &format!("{} cells, {left} to do", planned.len());
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
