//! `ffnlab tune`: a learning rate for every arm of a grid.

mod arms;
mod rounds;
mod tuned;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use lm_eval::tune::{Tuning, report};
use lm_train::config::{ConfigError, ConfigSource};
use lm_train::record::write_atomic;
use serde::Serialize;

use super::{default_out, read_config};
use crate::args::{Common, Overrides};
use crate::output::{note, print, print_json};

/// Find a learning rate for every arm of the grid in a config's [sweep] table
///
/// An arm is a cell of the grid without its seed: a variant, or a variant in a precision. Every arm gets the same
/// geometric grid of rates and the same number of seeds, others than those of the sweep. The rate chosen has the lowest
/// held-out loss of all that ran in full, both its neighbours among them; where the best one is at an end, the grid grows
/// there. The result is a config for `ffnlab sweep`. Runs are ordinary run directories; after an interruption the same
/// command goes on.
#[derive(Debug, Args)]
#[command(after_long_help = METHOD)]
pub struct Tune {
    /// Config file (TOML) with a [sweep] table, or - for standard input
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    pub settings: Settings,
    /// Folder for the run directories and tuning.json [default: runs/NAME-tune, from the config's file name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The config to write [default: NAME-tuned.toml in that folder]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Runs trained at a time, each with its share of the cores (0: one per core, or fewer with more cores each when there
    /// are fewer runs)
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
    /// Print one JSON object: tuned (path of the config written), config, seeds, sweep_seeds, factor, growth, eta, margin,
    /// arms, notes
    #[arg(long)]
    json: bool,
}

/// How to search.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Factor between neighbouring rates
    #[arg(long, value_name = "X", default_value_t = Self::default().factor, value_parser = factor)]
    pub factor: f64,
    /// Rates of the grid around the config's own; the values of optim.lr in [sweep] take its place [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99))]
    pub points: Option<u64>,
    /// Rates that the grid may grow by at either end
    #[arg(long, value_name = "N", default_value_t = Self::default().growth, value_parser = clap::value_parser!(u64).range(..=99))]
    pub growth: u64,
    /// Rungs of successive halving, the last with the full budget; 1 trains every rate in full
    #[arg(long, value_name = "N", default_value_t = Self::default().rungs, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub rungs: u64,
    /// One in so many rates goes on to the next rung, whose runs are so many times as long
    #[arg(long, value_name = "N", default_value_t = Self::default().eta, value_parser = clap::value_parser!(u64).range(2..=99))]
    pub eta: u64,
    /// Loss, nats per token, by which rates may differ and still be as good as each other; such ties go on together
    #[arg(long, value_name = "X", default_value_t = Self::default().margin, value_parser = margin)]
    pub margin: f64,
    /// Tuning seeds
    #[arg(long, value_name = "N", default_value_t = Self::default().seeds, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// First of the tuning seeds [default: the one after the sweep's last]
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..=1 << 62))]
    pub first_seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            factor: 2.0,
            points: None,
            growth: 4,
            rungs: 3,
            eta: 3,
            margin: 0.01,
            seeds: 1,
            first_seed: None,
        }
    }
}

const METHOD: &str = "\
Method:
  Successive halving (Jamieson & Talwalkar 2016; Li et al. 2018). All rates get a short run, the
  best third of them one three times as long, and so on to the whole budget. A short run is a
  whole run of fewer steps, with its warm-up and decay compressed, and not the beginning of a
  long one, whose loss before the decay says little about its end. The best rates of short runs
  are too high for long ones. Therefore the best rate of every rung, the last included, must
  have both its neighbours measured on that rung: dropped ones come back, missing ones are
  added. At least three rates per arm run in full. A run that diverges is infinitely bad.

  The search is the same for all arms. With one seed it may take a rate that suits this seed
  for a good one; --seeds averages over more, at as many times the cost.";

/// What to tune, and where.
pub struct Request<'a> {
    /// The config.
    pub source: &'a ConfigSource,
    /// What it is called.
    pub name: String,
    /// Folder for the run directories and `tuning.json`.
    pub out: PathBuf,
    /// The config to write.
    pub to: PathBuf,
    /// How to search.
    pub settings: Settings,
    /// Runs trained at a time; 0: one per core.
    pub jobs: usize,
}

/// How a search ended.
pub enum Ended {
    /// Every arm has its rate, or none that works.
    Done(Tuning),
    /// A signal, or a run that failed.
    Stopped(ExitCode),
}

/// Contents of `tuning.json`.
#[derive(Serialize)]
struct Record<'a> {
    /// Path of the config written; null when an arm has no rate.
    tuned: Option<&'a Path>,
    #[serde(flatten)]
    tuning: &'a Tuning,
}

impl Request<'_> {
    /// Searches rates for all arms, and writes the config with them unless an arm has none.
    ///
    /// # Errors
    /// A config without grid, an impossible grid of rates, a run that fails.
    pub fn run(&self, common: &Common) -> Result<Ended> {
        let (arms, seeds) = arms::plan(self.source, &self.settings)?;
        let ended = rounds::train(self, &arms, &seeds, common)?;
        if let Ended::Done(tuning) = &ended {
            if complete(tuning) {
                let text = tuned::config(self.source, tuning, &self.settings)?;
                write_atomic(&self.to, text.as_bytes())?;
            }
            write_atomic(&self.out.join("tuning.json"), &serde_json::to_vec_pretty(&self.record(tuning))?)?;
        }
        Ok(ended)
    }

    fn record<'a>(&'a self, tuning: &'a Tuning) -> Record<'a> {
        Record { tuned: complete(tuning).then_some(&self.to), tuning }
    }
}

/// Whether every arm has a rate.
fn complete(tuning: &Tuning) -> bool {
    tuning.arms.iter().all(|arm| arm.choice.is_some())
}

/// Refuses a tuning that leaves an arm without rate.
///
/// # Errors
/// When there is such an arm.
pub fn ensure_complete(tuning: &Tuning) -> Result<()> {
    ensure!(
        complete(tuning),
        "no config was written, since every rate of an arm diverged; set a lower optim.lr, or a larger --growth"
    );
    Ok(())
}

impl Tune {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let source = read_config(&self.config, &self.overrides.parse()?)?;
        let (out, to) = self.places()?;
        refuse_foreign(&to, &self.config)?;
        let request = Request {
            source: &source,
            name: self.config.display().to_string(),
            out,
            to,
            settings: self.settings.clone(),
            jobs: self.jobs,
        };
        let tuning = match request.run(common)? {
            Ended::Done(tuning) => tuning,
            Ended::Stopped(code) => return Ok(code),
        };
        if self.json {
            print_json(&request.record(&tuning))?;
        } else {
            print(&report(&tuning, super::terminal_width()))?;
        }
        ensure_complete(&tuning)?;
        let to = request.to.display();
        note(&format!("written: {to}\ntrain with it: ffnlab sweep {to}"));
        Ok(ExitCode::SUCCESS)
    }

    /// Folder of the runs, and the file to write.
    fn places(&self) -> Result<(PathBuf, PathBuf)> {
        let with = |path: &Path, end: &str| {
            let mut name = path.file_name().unwrap_or_default().to_os_string();
            name.push(end);
            path.with_file_name(name)
        };
        let out = match &self.out {
            Some(out) => out.clone(),
            None => with(&default_out(&self.config)?, "-tune"),
        };
        let stem = self.config.file_stem().filter(|_| self.config != Path::new("-"));
        let stem = Path::new(stem.unwrap_or("stdin".as_ref()));
        let to = self.to.clone().unwrap_or_else(|| out.join(with(stem, "-tuned.toml")));
        Ok((out, to))
    }
}

/// A file that this verb did not write is somebody's work.
fn refuse_foreign(to: &Path, config: &Path) -> Result<()> {
    if !to.exists() {
        return Ok(());
    }
    let text = std::fs::read(to).with_context(|| format!("cannot read {}", to.display()))?;
    let same = std::fs::canonicalize(to).ok() == std::fs::canonicalize(config).ok();
    ensure!(
        text.starts_with(tuned::SIGNATURE.as_bytes()) && !same,
        ConfigError::Invalid {
            place: to.display().to_string(),
            message: "this file is there and was not written by `ffnlab tune`, or is the config to tune; \
                      choose another --to"
                .to_owned(),
        }
    );
    Ok(())
}

/// A step between rates that is wide enough to tell them apart.
fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (1.1..=100.0).contains(&factor) => Ok(factor),
        Ok(_) | Err(_) => Err("not a number from 1.1 to 100".to_owned()),
    }
}

/// A difference in loss, or none.
fn margin(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(margin) if margin.is_finite() && margin >= 0.0 => Ok(margin),
        Ok(_) | Err(_) => Err("not a number of 0 or more".to_owned()),
    }
}
