//! `ffnlab reproduce`: published experiments at small scale, from one command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use lm_eval::compare::{Format, Options};
use lm_eval::tune::report;
use lm_train::config::{ConfigSource, Override};

use super::sweep::{plan, show, train_cells};
use super::tune::{Ended, Request, Settings, ensure_complete};
use crate::args::{Common, Overrides};
use crate::output::note;

/// Reproduce a published experiment at small scale
#[derive(Debug, Args)]
pub struct Reproduce {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    Shazeer(Shazeer),
}

/// Shazeer 2020, "GLU Variants Improve Transformer": eight feed-forward variants and squared ReLU
///
/// Trains every variant at equal parameters, three seeds each, on the built-in language, and prints the table beside the
/// published column. Runs that have ended are not repeated; after an interruption the same command goes on.
#[derive(Debug, Args)]
pub struct Shazeer {
    /// Size: smoke (seconds), small (about ten minutes on two cores), base (hours)
    #[arg(long, value_enum, default_value_t = Scale::Small)]
    scale: Scale,
    /// Train on this text file (or glob) instead of the built-in language; its last part is held out
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Number of seeds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    /// Runs trained at a time, each with its share of the cores (0: one per core, or fewer with more cores each when there
    /// are fewer runs)
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
    /// First find a learning rate for every variant, as `ffnlab tune` does with its defaults, with runs in OUT-tune;
    /// takes about three times as long
    #[arg(long)]
    tune: bool,
    #[command(flatten)]
    overrides: Overrides,
    /// Folder for the run directories [default: runs/shazeer-SCALE; with --tune, runs/shazeer-SCALE-tuned]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// table, markdown, csv, latex or json
    #[arg(long, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Same as --format json
    #[arg(long)]
    json: bool,
}

/// Sizes of the built-in experiment, each a config file.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scale {
    Smoke,
    Small,
    Base,
}

impl Scale {
    fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Small => "small",
            Self::Base => "base",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Smoke => include_str!("../../../../configs/shazeer/smoke.toml"),
            Self::Small => include_str!("../../../../configs/shazeer/small.toml"),
            Self::Base => include_str!("../../../../configs/shazeer/base.toml"),
        }
    }
}

impl Reproduce {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        match &self.experiment {
            Experiment::Shazeer(shazeer) => shazeer.run(common),
        }
    }
}

impl Shazeer {
    fn run(&self, common: &Common) -> Result<ExitCode> {
        let name = format!("configs/shazeer/{}.toml", self.scale.name());
        let mut source = ConfigSource::from_text(&name, self.scale.config(), &self.all_overrides()?)?;
        let tuned = if self.tune { "-tuned" } else { "" };
        let default = || PathBuf::from(format!("runs/shazeer-{}{tuned}", self.scale.name()));
        let out = self.out.clone().unwrap_or_else(default);
        if self.tune {
            source = match self.tuned(&source, name, &out, common)? {
                Ok(tuned) => tuned,
                Err(stopped) => return Ok(stopped),
            };
        }
        let cells = plan(&source, &out)?;
        note(&format!("{} runs in {}", cells.len(), out.display()));
        let ended = train_cells(&cells, self.jobs, common)?;
        let options = Options { published: true, ..Options::default() };
        show(&cells, &options, if self.json { Format::Json } else { self.format })?;
        Ok(ended)
    }

    /// The config with a learning rate for every variant, or the exit code of a search that was stopped.
    fn tuned(
        &self,
        source: &ConfigSource,
        name: String,
        out: &Path,
        common: &Common,
    ) -> Result<Result<ConfigSource, ExitCode>> {
        let mut folder = out.as_os_str().to_owned();
        folder.push("-tune");
        let folder = PathBuf::from(folder);
        let to = folder.join("tuned.toml");
        let settings = Settings::default();
        let request = Request { source, name, out: folder, to, settings, jobs: self.jobs };
        match request.run(common)? {
            Ended::Stopped(code) => Ok(Err(code)),
            Ended::Done(tuning) => {
                note(&report(&tuning, super::terminal_width()));
                ensure_complete(&tuning)?;
                Ok(Ok(ConfigSource::read(&request.to, &[])?))
            }
        }
    }

    /// What `--data` and `--seeds` mean in terms of the config, then the user's own overrides.
    fn all_overrides(&self) -> Result<Vec<Override>> {
        let mut overrides = self.data.as_deref().map(own_text).unwrap_or_default();
        if let Some(seeds) = self.seeds {
            let values: Vec<toml::Value> = (0..seeds as i64).map(Into::into).collect();
            let (key, typed) = ("sweep.seed".to_owned(), format!("--seeds {seeds}"));
            overrides.push(Override { key, value: values.into(), typed });
        }
        overrides.extend(self.overrides.parse()?);
        Ok(overrides)
    }
}

/// What `--data PATH` means in terms of a config: train on that text, and hold out its last part.
pub fn own_text(path: &Path) -> Vec<Override> {
    let set = |key: &str, value: toml::Value| Override {
        key: key.to_owned(),
        value,
        typed: format!("--data {}", path.display()),
    };
    vec![
        set("data.source", "text".into()),
        set("data.train", path.to_string_lossy().into_owned().into()),
        set("data.valid_fraction", 0.05.into()),
    ]
}
