//! A trained run opened for use: its config, tokenizer and newest weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use ffn_variants::precision::Sizes;
use ffn_variants::{FfnKind, Precision, PrecisionSection};
use kernels::Kernels;

use crate::config::RunConfig;
use crate::device::check_recipe;
use crate::model::{ParamStore, Transformer};
use crate::record::{Checkpoint, RunDir, Summary};
use crate::session::{load_weights, take_histories};
use crate::tokenizer::TextTokenizer;

/// A run with its model in evaluation mode.
pub struct LoadedRun {
    /// Run directory.
    pub path: PathBuf,
    /// Its resolved config.
    pub config: RunConfig,
    /// The tokenizer it was trained with; absent when it was trained on token files without one.
    pub tokenizer: Option<TextTokenizer>,
    /// Size of the vocabulary, as the embedding has it.
    pub vocab_size: usize,
    /// Step of the weights.
    pub step: u64,
    /// The weights.
    pub params: ParamStore,
    /// The model without gradients.
    pub model: Transformer,
    /// What it is computed in.
    pub precision: Precision,
    /// What its recipe multiplies the loss with before a backward pass; 1 without loss scaling.
    pub loss_scale: f64,
    /// What the run came to, if it has ended.
    pub summary: Option<Summary>,
    /// Where the tensors live.
    pub device: Device,
}

impl LoadedRun {
    /// Opens the newest checkpoint of the run in `path`, to be computed in the precision it was trained in.
    ///
    /// # Errors
    /// No run there, no checkpoint yet, or a damaged or foreign one.
    pub fn open(path: &Path, device: &Device, kernels: Kernels) -> Result<Self> {
        Self::open_in(path, None, device, kernels)
    }

    /// As [`LoadedRun::open`], to be computed in another precision: what is called post-training quantisation.
    ///
    /// # Errors
    /// As [`LoadedRun::open`]; also a recipe that does not fit the model, or that needs scales from training that this
    /// run does not have.
    pub fn open_in(
        path: &Path,
        precision: Option<&PrecisionSection>,
        device: &Device,
        kernels: Kernels,
    ) -> Result<Self> {
        let config = RunDir::read_config(path)?;
        let checkpoint = Checkpoint::newest(path)?
            .with_context(|| format!("{} has no checkpoint yet; train it first", path.display()))?;
        Self::from_checkpoint(path, config, &checkpoint, precision, device, kernels)
    }

    /// As [`LoadedRun::open`], but with the checkpoint of a step; a run keeps as many as its config says.
    ///
    /// # Errors
    /// As [`LoadedRun::open`]; no checkpoint of that step.
    pub fn open_at(path: &Path, step: u64, device: &Device, kernels: Kernels) -> Result<Self> {
        let config = RunDir::read_config(path)?;
        Self::from_checkpoint(path, config, &Checkpoint::at(path, step)?, None, device, kernels)
    }

    fn from_checkpoint(
        path: &Path,
        config: RunConfig,
        checkpoint: &Checkpoint,
        precision: Option<&PrecisionSection>,
        device: &Device,
        kernels: Kernels,
    ) -> Result<Self> {
        let summary = RunDir::read_summary(path)?;
        if let Some(summary) = &summary
            && summary.run_id != checkpoint.state.run_id
        {
            bail!("{} does not belong to the run beside it", checkpoint.path.display());
        }
        let weights = checkpoint.model(device)?;
        let embedding = "model.embed_tokens.weight";
        let vocab_size = weights
            .get(embedding)
            .with_context(|| format!("{} has no {embedding}", checkpoint.path.display()))?
            .dim(0)?;
        drop(weights);
        let precision = precision_of(&config, vocab_size, precision, checkpoint)?;
        check_recipe(device, precision.recipe())?;
        let params = ParamStore::new(config.seed, DType::F32, device);
        Transformer::new(&config.model, vocab_size, params.builder(), kernels, &precision)?;
        load_weights(&params, checkpoint)?;
        let model =
            Transformer::new(&config.model, vocab_size, params.detached_builder(), kernels, &precision)?;
        let file = path.join("tokenizer.json");
        let tokenizer = if file.exists() { Some(TextTokenizer::from_file(&file)?) } else { None };
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size() > vocab_size
        {
            bail!(
                "{} has {} tokens, the model's vocabulary {vocab_size}: it is not the tokenizer of this run",
                file.display(),
                tokenizer.vocab_size()
            );
        }
        Ok(Self {
            path: path.to_owned(),
            config,
            tokenizer,
            vocab_size,
            step: checkpoint.state.step,
            params,
            model,
            precision,
            loss_scale: checkpoint.state.loss_scale.map_or(1.0, |state| state.factor),
            summary,
            device: device.clone(),
        })
    }

    /// The tokenizer, for work that needs text.
    ///
    /// # Errors
    /// When the run was trained on token files without a tokenizer.
    pub fn text_tokenizer(&self) -> Result<&TextTokenizer> {
        self.tokenizer.as_ref().with_context(|| {
            format!(
                "{} was trained on token files without a tokenizer, so it cannot read text",
                self.path.display()
            )
        })
    }
}

/// The recipe of a run, or another one, ready to evaluate with.
fn precision_of(
    config: &RunConfig,
    vocab_size: usize,
    other: Option<&PrecisionSection>,
    checkpoint: &Checkpoint,
) -> Result<Precision> {
    let own = config.precision.resolve()?;
    let recipe = match other {
        None => own.clone(),
        Some(section) => section.resolve().map_err(|error| error.in_section())?,
    };
    if recipe.sub_norm != own.sub_norm {
        bail!(
            "{} {} the norms of SubLN, which {} {}; train a model with that recipe instead",
            own.name,
            if own.sub_norm { "has" } else { "lacks" },
            recipe.name,
            if recipe.sub_norm { "needs" } else { "does not have" }
        );
    }
    let ffn = config.model.ffn.resolve(config.model.d_model)?;
    let sizes = Sizes { d_model: ffn.d_model, d_ff: ffn.d_ff, vocab_size: Some(vocab_size), tokens: 0 };
    recipe
        .check(sizes, matches!(ffn.kind, FfnKind::Gated { .. }))
        .with_context(|| format!("{} does not fit this model", recipe.name))?;
    let needs_history = recipe.needs_history();
    let precision = Precision::new(recipe, 0);
    if needs_history {
        let mut tensors = checkpoint.moments(&Device::Cpu)?;
        precision.restore(take_histories(&mut tensors)?);
        if !precision.has_history() {
            bail!(
                "{} takes its scales from earlier training steps, and this run was not trained with it; evaluate with \
                 fp8_current, or train with fp8_delayed",
                precision.recipe().name
            );
        }
    }
    Ok(precision.for_evaluation())
}
