//! `checkpoints/step-N/`: everything a run needs to go on as if it had never stopped.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::atomic::{sync_folder, write_atomic};
use super::summary::RUN_SCHEMA;
use crate::loss_scale::LossScaleState;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// `state.json`: what is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// [`RUN_SCHEMA`] at the time of writing.
    pub schema: u32,
    /// Identity of the run that wrote it.
    pub run_id: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Training tokens seen.
    pub tokens: u64,
    /// Updates made by the optimizer.
    pub updates: u64,
    /// Training loss of the last step, nats per token.
    pub train_loss: f64,
    /// Seconds since the run began, all sittings together.
    pub wall_s: f64,
    /// Seconds of these spent in training steps.
    pub train_s: f64,
    /// Highest resident memory so far, MiB.
    pub peak_rss_mb: f64,
    /// State of the loss scaling, under recipes that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleState>,
    /// blake3 of every file beside this one, so that a truncated or exchanged file is noticed.
    pub files: BTreeMap<String, String>,
}

/// A checkpoint folder.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Path of the folder.
    pub path: PathBuf,
    /// Its state.
    pub state: CheckpointState,
}

impl Checkpoint {
    /// Writes `checkpoints/step-N` under `run`. The folder appears whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses; older checkpoints are untouched.
    pub fn write(
        run: &Path,
        mut state: CheckpointState,
        model: &[(String, Tensor)],
        moments: &[(String, Tensor)],
    ) -> Result<Self> {
        let folder = run.join("checkpoints");
        let path = folder.join(format!("step-{}", state.step));
        let temporary = folder.join(format!(".step-{}.tmp", state.step));
        let mut write = || -> Result<()> {
            let _ = fs::remove_dir_all(&temporary);
            fs::create_dir_all(&temporary)?;
            for (name, tensors) in [(MODEL, model), (OPTIMIZER, moments)] {
                let file = temporary.join(name);
                write_tensors(&file, tensors)?;
                state.files.insert(name.to_owned(), hash_file(&file)?);
            }
            write_atomic(&temporary.join(STATE), &serde_json::to_vec_pretty(&state)?)?;
            let _ = fs::remove_dir_all(&path);
            fs::rename(&temporary, &path)?;
            Ok(sync_folder(&folder)?)
        };
        write().map_err(|error| {
            let _ = fs::remove_dir_all(&temporary);
            error.context(format!("cannot write checkpoint {}", path.display()))
        })?;
        Ok(Self { path, state })
    }

    /// Opens the newest checkpoint of a run, if it has one.
    ///
    /// # Errors
    /// A checkpoint that is damaged, or written by another version of the layout.
    pub fn newest(run: &Path) -> Result<Option<Self>> {
        match Self::steps(run)?.last() {
            Some(step) => Self::open(&run.join("checkpoints").join(format!("step-{step}"))).map(Some),
            None => Ok(None),
        }
    }

    /// Opens the checkpoint that a run wrote at a step.
    ///
    /// # Errors
    /// When the run has none of that step; as [`Checkpoint::open`].
    pub fn at(run: &Path, step: u64) -> Result<Self> {
        let steps = Self::steps(run)?;
        if !steps.contains(&step) {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            bail!(
                "{} has no checkpoint of step {step}, but of {}; train.checkpoint_every and train.keep_checkpoints \
                 decide which are kept",
                run.display(),
                if steps.is_empty() { "none".to_owned() } else { steps.join(", ") }
            );
        }
        Self::open(&run.join("checkpoints").join(format!("step-{step}")))
    }

    /// Opens one checkpoint folder and checks that its files are what was written.
    ///
    /// # Errors
    /// A missing, truncated or exchanged file; another version of the layout.
    pub fn open(path: &Path) -> Result<Self> {
        let place = || format!("checkpoint {} is damaged", path.display());
        let text = fs::read_to_string(path.join(STATE)).with_context(place)?;
        let state: CheckpointState = serde_json::from_str(&text).with_context(place)?;
        if state.schema != RUN_SCHEMA {
            bail!(
                "checkpoint {} has layout version {}, this ffnlab reads {RUN_SCHEMA}",
                path.display(),
                state.schema
            );
        }
        for (name, expected) in &state.files {
            if hash_file(&path.join(name)).with_context(place)? != *expected {
                bail!(
                    "{}: {name} is not the file that was written (truncated or exchanged); delete the folder to go on \
                     from an older checkpoint or from the start",
                    place()
                );
            }
        }
        Ok(Self { path: path.to_owned(), state })
    }

    /// Weights by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn model(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        read_tensors(&self.path.join(MODEL), device)
    }

    /// Moments of the optimizer by name of the tensor, and what delayed scaling remembers.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn moments(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        read_tensors(&self.path.join(OPTIMIZER), device)
    }

    /// Removes all but the newest `keep` checkpoints.
    ///
    /// # Errors
    /// When a folder cannot be listed or removed.
    pub fn prune(run: &Path, keep: usize) -> Result<()> {
        let steps = Self::steps(run)?;
        for step in &steps[..steps.len().saturating_sub(keep)] {
            let path = run.join("checkpoints").join(format!("step-{step}"));
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Steps of which a run has a checkpoint, ascending.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn steps(run: &Path) -> Result<Vec<u64>> {
        let folder = run.join("checkpoints");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut steps: Vec<u64> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }
}

fn hash_file(path: &Path) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    hash.update_reader(file).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hash.finalize().to_hex().to_string())
}

/// Writes tensors as safetensors and makes the file durable. The file carries `format = pt`, which Hugging Face asks for.
///
/// # Errors
/// When the disk refuses.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::serialize_to_file(views, Some(metadata), path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    File::open(path)?.sync_all().with_context(|| format!("cannot sync {}", path.display()))
}

/// Reads all tensors of a safetensors file.
///
/// # Errors
/// When it cannot be read or is not safetensors.
pub fn read_tensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, device)
        .with_context(|| format!("cannot read tensors from {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> CheckpointState {
        CheckpointState {
            schema: RUN_SCHEMA,
            run_id: "id".into(),
            step,
            tokens: 0,
            updates: step,
            train_loss: 0.1 + 0.2,
            wall_s: 1.0,
            train_s: 1.0,
            peak_rss_mb: 1.0,
            loss_scale: None,
            files: BTreeMap::new(),
        }
    }

    fn tensors() -> Vec<(String, Tensor)> {
        vec![("a".into(), Tensor::new(&[1f32, f32::MIN_POSITIVE, -0.0], &Device::Cpu).unwrap())]
    }

    #[test]
    fn round_trip_and_pruning() {
        let run = tempfile::tempdir().unwrap();
        for step in [5, 10, 100] {
            Checkpoint::write(run.path(), state(step), &tensors(), &tensors()).unwrap();
        }
        Checkpoint::prune(run.path(), 2).unwrap();
        assert_eq!(Checkpoint::steps(run.path()).unwrap(), [10, 100]);
        assert_eq!(Checkpoint::at(run.path(), 10).unwrap().state.step, 10);
        let error = Checkpoint::at(run.path(), 5).unwrap_err().to_string();
        assert!(error.contains("step 5, but of 10, 100"), "{error}");
        let newest = Checkpoint::newest(run.path()).unwrap().unwrap();
        assert_eq!((newest.state.step, newest.state.train_loss), (100, 0.1 + 0.2));
        let back = newest.model(&Device::Cpu).unwrap()["a"].to_vec1::<f32>().unwrap();
        assert_eq!(
            back.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            [0x3f80_0000, 0x0080_0000, 0x8000_0000]
        );
    }

    #[test]
    fn damage_is_noticed() {
        let run = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::write(run.path(), state(1), &tensors(), &tensors()).unwrap();
        let file = checkpoint.path.join(MODEL);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        let error = format!("{:#}", Checkpoint::newest(run.path()).unwrap_err());
        assert!(error.contains("step-1") && error.contains("truncated"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(Checkpoint::newest(run.path()).is_err());
    }
}
