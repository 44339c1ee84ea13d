//! Opening a run directory: new, to be gone on with, ended, or somebody else's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::atomic::write_atomic;
use super::checkpoint::Checkpoint;
use super::summary::{RUN_SCHEMA, Summary};
use crate::config::RunConfig;

/// What a directory already holds.
#[derive(Clone, Debug)]
pub enum Existing {
    /// Nothing of a run.
    Nothing,
    /// A run that has not ended, with its newest checkpoint if it wrote one.
    Unfinished(Option<Box<Checkpoint>>),
    /// A run that ended.
    Ended(Box<Summary>),
}

/// A run directory, locked against a second writer for as long as this value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Opens (or makes) `path` for the run `run_id` with `config`, and says what is there.
    ///
    /// # Errors
    /// When the directory belongs to another config or data, is in use, or cannot be written.
    pub fn open(path: &Path, config: &RunConfig, run_id: &str) -> Result<(Self, Existing)> {
        let place = || format!("cannot use {} as run directory", path.display());
        fs::create_dir_all(path).with_context(place)?;
        let lock = File::create(path.join(".lock")).with_context(place)?;
        if lock.try_lock().is_err() {
            bail!("{}: another process is training there", path.display());
        }
        let dir = Self { path: path.to_owned(), _lock: lock };
        let existing = dir.inspect(config, run_id)?;
        if matches!(existing, Existing::Nothing) {
            write_atomic(&dir.config_path(), config.to_toml()?.as_bytes())?;
        }
        Ok((dir, existing))
    }

    fn inspect(&self, config: &RunConfig, run_id: &str) -> Result<Existing> {
        let shown = self.path.display();
        if !self.config_path().exists() {
            let foreign = fs::read_dir(&self.path)?.filter_map(|e| e.ok()).find(|e| e.file_name() != ".lock");
            if let Some(entry) = foreign {
                bail!(
                    "{shown} is not a run directory (it holds {:?} but no config.toml); choose another --out",
                    entry.file_name()
                );
            }
            return Ok(Existing::Nothing);
        }
        let theirs = Self::read_config(&self.path)?;
        if let Some(difference) = first_difference(&theirs, config)? {
            bail!("{shown} belongs to another config ({difference}); choose another --out, or remove it");
        }
        if let Some(summary) = Self::read_summary(&self.path)? {
            if summary.run_id != run_id {
                bail!(
                    "{shown} was trained on other data (same config, other contents); choose another --out, or remove it"
                );
            }
            return Ok(Existing::Ended(Box::new(summary)));
        }
        let checkpoint = Checkpoint::newest(&self.path)?;
        if let Some(checkpoint) = &checkpoint
            && checkpoint.state.run_id != run_id
        {
            bail!(
                "{} comes from another run (other data or config); remove it, or choose another --out",
                checkpoint.path.display()
            );
        }
        Ok(Existing::Unfinished(checkpoint.map(Box::new)))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Path of `metrics.jsonl`.
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Writes `summary.json`; from then on the run has ended.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        write_atomic(&self.path.join("summary.json"), &serde_json::to_vec_pretty(summary)?)
    }

    /// Config of the run in `path`.
    ///
    /// # Errors
    /// When there is none, or it does not parse.
    pub fn read_config(path: &Path) -> Result<RunConfig> {
        let file = path.join("config.toml");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("{} is not a run directory", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a config of this version", file.display()))
    }

    /// Summary of the run in `path`, if it has ended.
    ///
    /// # Errors
    /// When the file is there but cannot be read, or has another layout.
    pub fn read_summary(path: &Path) -> Result<Option<Summary>> {
        let file = path.join("summary.json");
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let summary: Summary = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a summary of this version", file.display()))?;
        if summary.schema != RUN_SCHEMA {
            bail!("{} has layout version {}, this ffnlab reads {RUN_SCHEMA}", file.display(), summary.schema);
        }
        Ok(Some(summary))
    }
}

/// The first key in which two configs differ, paths of data aside (their contents are compared by hash).
fn first_difference(theirs: &RunConfig, ours: &RunConfig) -> Result<Option<String>> {
    fn walk(path: &str, a: &serde_json::Value, b: &serde_json::Value) -> Option<String> {
        if let (Some(a), Some(b)) = (a.as_object(), b.as_object()) {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            let null = serde_json::Value::Null;
            let mut differences = keys.filter_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
            });
            return differences.next();
        }
        let ignored = ["data.train", "data.valid", "tokenizer.file"].contains(&path);
        (a != b && !ignored).then(|| format!("{path}: {a} there, {b} here"))
    }
    Ok(walk("", &serde_json::to_value(theirs)?, &serde_json::to_value(ours)?))
}
