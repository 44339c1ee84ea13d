//! What two run directories say about themselves, and whether they may be compared step by step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lm_train::config::RunConfig;
use lm_train::data;
use lm_train::loaded::LoadedRun;
use lm_train::record::{Checkpoint, Metric, RunDir, Summary, read_metrics};
use serde::Serialize;
use serde_json::Value;

use super::spikes::spike_score;
use super::{Divergence, Options, Side};

/// A run directory without its tensors.
pub(super) struct RunFacts {
    pub(super) path: PathBuf,
    pub(super) config: RunConfig,
    pub(super) summary: Option<Summary>,
    /// Hash of the data it was trained on.
    pub(super) fingerprint: String,
    /// Steps taken.
    pub(super) steps: u64,
    /// Training losses by ascending step, those that are finite.
    pub(super) losses: Vec<(u64, f64)>,
    pub(super) has_checkpoint: bool,
}

impl RunFacts {
    /// Reads the run in `path`.
    ///
    /// # Errors
    /// No run there, one that has not taken a step, or files that cannot be read.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let config = RunDir::read_config(path)?;
        let summary = RunDir::read_summary(path)?;
        let fingerprint = match &summary {
            Some(summary) => summary.data_fingerprint.clone(),
            None => data::fingerprint(&config.data, &config.tokenizer)?,
        };
        let mut by_step = BTreeMap::new();
        for metric in read_metrics(&path.join("metrics.jsonl"))? {
            match metric {
                Metric::Step { step, loss, .. } => by_step.insert(step, loss),
                Metric::Eval { .. }
                | Metric::Health { .. }
                | Metric::Alignment { .. }
                | Metric::Probe { .. }
                | Metric::Sparsity { .. } => continue,
            };
        }
        let Some((&steps, _)) = by_step.last_key_value() else {
            bail!("{} has not taken a step yet; train it first", path.display());
        };
        let losses = by_step.into_iter().filter_map(|(step, loss)| Some((step, loss?))).collect();
        let has_checkpoint = Checkpoint::newest(path)?.is_some();
        Ok(Self { path: path.to_owned(), config, summary, fingerprint, steps, losses, has_checkpoint })
    }

    /// What a report says about it; the checkpoint is filled in when it is opened.
    pub(super) fn side(&self, options: &Options) -> Result<Side> {
        let summary = self.summary.as_ref();
        Ok(Side {
            path: self.path.clone(),
            ffn: self.config.model.ffn.resolve(self.config.model.d_model)?.name(),
            steps: self.steps,
            status: summary.map(|summary| summary.status),
            diverged_at: summary.and_then(|summary| summary.diverged_at),
            checkpoint: None,
            val_loss: summary.and_then(|summary| Some(summary.validation.as_ref()?.loss)),
            spikes: spike_score(&self.losses, options.window),
        })
    }
}

/// Whether step n of both saw the same batch, so that losses may be subtracted step by step.
///
/// # Errors
/// When not: which setting differs.
pub(super) fn check_paired(a: &RunFacts, b: &RunFacts) -> Result<()> {
    let shown = format!("{} and {}", a.path.display(), b.path.display());
    let (ours, theirs) = (&a.config, &b.config);
    if ours.seed != theirs.seed {
        bail!(
            "{shown} have different seeds ({} and {}): the comparison is paired, step by step on the same batches; \
             train both with one seed, or average over seeds with ffnlab compare",
            ours.seed,
            theirs.seed
        );
    }
    if a.fingerprint != b.fingerprint {
        let mut differences = differences("data", &ours.data, &theirs.data)?;
        differences.extend(self::differences("tokenizer", &ours.tokenizer, &theirs.tokenizer)?);
        if differences.is_empty() {
            differences.push("same settings, other contents of the files".to_owned());
        }
        bail!(
            "{shown} were trained on different data or tokens, so their losses cannot be compared: {}",
            differences.join("; ")
        );
    }
    let shape = |config: &RunConfig| (config.train.batch_size, config.model.seq_len);
    if shape(ours) != shape(theirs) {
        let ((batch_a, len_a), (batch_b, len_b)) = (shape(ours), shape(theirs));
        bail!(
            "{shown} have batches of different shape ({batch_a} x {len_a} and {batch_b} x {len_b} tokens), so no step \
             of one saw what the other saw; train both with one train.batch_size and model.seq_len"
        );
    }
    Ok(())
}

/// The keys in which two sections differ, with both values.
fn differences<T: Serialize>(section: &str, a: &T, b: &T) -> Result<Vec<String>> {
    let (mut found, mut pending) =
        (Vec::new(), vec![(section.to_owned(), serde_json::to_value(a)?, serde_json::to_value(b)?)]);
    while let Some((key, a, b)) = pending.pop() {
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
                let side =
                    |map: &serde_json::Map<String, Value>, key| map.get(key).cloned().unwrap_or_default();
                let below: Vec<_> =
                    keys.map(|name| (format!("{key}.{name}"), side(&a, name), side(&b, name))).collect();
                pending.extend(below.into_iter().rev());
            }
            (a, b) if a != b => found.push(format!("{key} is {a} and {b}")),
            (_, _) => {}
        }
    }
    Ok(found)
}

/// Whether two models speak of the same tokens.
///
/// # Errors
/// When not. Data of one fingerprint have one tokenizer, so this takes a folder put together by hand.
pub(super) fn check_vocabulary(a: &LoadedRun, b: &LoadedRun) -> Result<()> {
    let shown = || format!("{} and {}", a.path.display(), b.path.display());
    if a.vocab_size != b.vocab_size {
        bail!("{} have vocabularies of {} and {} tokens", shown(), a.vocab_size, b.vocab_size);
    }
    if let (Some(ours), Some(theirs)) = (&a.tokenizer, &b.tokenizer)
        && ours.json() != theirs.json()
    {
        bail!("{} have different tokenizers (tokenizer.json)", shown());
    }
    Ok(())
}

/// Whether the text and the batches of a run can still be had.
///
/// # Errors
/// When its data are gone or have changed.
pub(super) fn check_data_unchanged(run: &RunFacts) -> Result<()> {
    if data::fingerprint(&run.config.data, &run.config.tokenizer)? != run.fingerprint {
        bail!(
            "the data of {} have changed since it was trained, so its batches and its held-out text cannot be had; put \
             the files back that it was trained on",
            run.path.display()
        );
    }
    Ok(())
}

/// What a reader of the figures must know.
pub(super) fn notes(divergence: &Divergence) -> Vec<String> {
    let Divergence { a, b, .. } = divergence;
    let mut notes = Vec::new();
    for side in [a, b] {
        if let Some(step) = side.diverged_at {
            notes.push(format!(
                "{} ended at step {step}: its loss or gradient stopped being finite",
                side.path.display()
            ));
        } else if side.status.is_none() {
            notes.push(format!("{} has not ended; figures are as of now", side.path.display()));
        }
    }
    if divergence.loss.is_none() {
        notes.push("the runs have no step in common with a finite loss, so there is no loss gap".to_owned());
    }
    match (a.checkpoint, b.checkpoint) {
        (Some(step_a), Some(step_b)) if step_a != step_b => notes.push(format!(
            "the checkpoints are of different steps ({step_a} and {step_b}): predictions, gradients and weights differ \
             by that too"
        )),
        (Some(_), Some(_)) => {}
        (None, _) | (_, None) => notes.push(
            "predictions, gradients and weights are not compared: that takes a checkpoint of both runs".to_owned(),
        ),
    }
    if let Some(tensors) = divergence.tensors.as_ref().filter(|tensors| !tensors.is_complete()) {
        // A deep model has dozens; all of them are in the JSON object.
        const NAMED: usize = 3;
        let part = |what: &str, names: &[String]| {
            let rest = names.len().saturating_sub(NAMED);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            (!names.is_empty()).then(|| format!("{} {what} ({named}{more})", names.len()))
        };
        let parts = [
            part("only in A", &tensors.only_a),
            part("only in B", &tensors.only_b),
            part("of another shape", &tensors.other_shape),
        ];
        notes.push(format!(
            "cosines and distances are over the {} tensors that both have; left out: {}",
            tensors.shared,
            parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use lm_train::config::{DataConfig, TokenizerConfig};

    use super::*;

    #[test]
    fn differences_name_their_keys() {
        let (a, mut b) = (DataConfig::default(), DataConfig::default());
        assert_eq!(differences("data", &a, &b).unwrap(), Vec::<String>::new());
        b.synthetic.train_documents = 7;
        let expected = format!("data.synthetic.train_documents is {} and 7", a.synthetic.train_documents);
        assert_eq!(differences("data", &a, &b).unwrap(), [expected]);
        let file = TokenizerConfig { file: Some("t.json".to_owned()), ..TokenizerConfig::default() };
        assert_eq!(
            differences("tokenizer", &TokenizerConfig::default(), &file).unwrap(),
            ["tokenizer.file is null and \"t.json\""]
        );
    }
}
