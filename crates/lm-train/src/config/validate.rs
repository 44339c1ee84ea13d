//! Checks beyond types: ranges (declared on the fields) and values that have to fit together.

use ffn_variants::FfnKind;
use ffn_variants::precision::{RecipeError, Sizes};
use garde::Validate;

use super::error::ConfigError;
use super::layers::Layers;
use super::{DataSource, RunConfig, TokenizerKind};

/// Checks a merged config; `layers` knows where each key was set.
pub(super) fn validate(config: &RunConfig, layers: &Layers) -> Result<(), ConfigError> {
    if let Err(report) = config.validate()
        && let Some((path, error)) = report.iter().next()
    {
        let key: String = path.to_string();
        let found = layers.merged_value(&key).map_or(String::new(), |value| format!(" (found {value})"));
        return Err(layers.error(&key, format!("{}{found}", error.message())));
    }
    model(config, layers)?;
    budget(config, layers)?;
    precision(config, layers)?;
    data(config, layers)
}

/// A recipe has to make sense, and its blocks have to divide the widths of this model.
fn precision(config: &RunConfig, layers: &Layers) -> Result<(), ConfigError> {
    let at = |error: RecipeError| layers.error(&format!("precision.{}", error.key), error);
    let recipe = config.precision.resolve().map_err(at)?;
    let ffn = config.model.ffn.resolve(config.model.d_model);
    let Ok(ffn) = ffn else { return Ok(()) }; // reported by `model`
    let gated = matches!(ffn.kind, FfnKind::Gated { .. });
    let rows = config.train.batch_size / config.train.micro_batches;
    let tokens = rows * config.model.seq_len;
    // The vocabulary is known only when the tokenizer has been trained.
    let sizes = Sizes { d_model: ffn.d_model, d_ff: ffn.d_ff, vocab_size: None, tokens };
    recipe.check(sizes, gated).map_err(at)
}

fn model(config: &RunConfig, layers: &Layers) -> Result<(), ConfigError> {
    let model = &config.model;
    if !model.d_model.is_multiple_of(model.n_head) {
        return Err(layers.error(
            "model.n_head",
            format!("{} heads do not divide model.d_model = {} evenly", model.n_head, model.d_model),
        ));
    }
    if !model.d_head().is_multiple_of(2) {
        let reason = format!(
            "model.d_model / model.n_head = {} is odd; RoPE rotates pairs, so a head needs an even width",
            model.d_head()
        );
        return Err(layers.error("model.n_head", reason));
    }
    model.ffn.resolve(model.d_model).map_err(|e| layers.error(&format!("model.ffn.{}", e.key()), e))?;
    Ok(())
}

fn budget(config: &RunConfig, layers: &Layers) -> Result<(), ConfigError> {
    let train = &config.train;
    if train.steps.is_some() && train.tokens.is_some() {
        return Err(layers
            .error("train.tokens", "train.steps is set too; give the budget once, in steps or in tokens"));
    }
    for (key, budget) in [("train.steps", train.steps), ("train.tokens", train.tokens)] {
        if budget == Some(0) {
            return Err(layers.error(key, "a run needs a budget of at least 1 (found 0)"));
        }
    }
    if !train.batch_size.is_multiple_of(train.micro_batches) {
        return Err(layers.error(
            "train.micro_batches",
            format!(
                "{} parts do not divide train.batch_size = {} evenly",
                train.micro_batches, train.batch_size
            ),
        ));
    }
    Ok(())
}

fn data(config: &RunConfig, layers: &Layers) -> Result<(), ConfigError> {
    let data = &config.data;
    if data.source != DataSource::Synthetic && data.train.is_empty() {
        return Err(layers.error("data.train", "no training files; list at least one file or glob"));
    }
    match data.source {
        DataSource::Synthetic => {
            for (key, paths) in [("data.train", &data.train), ("data.valid", &data.valid)] {
                if !paths.is_empty() {
                    let reason = "files are only read with data.source = \"text\" or \"tokens\"; \
                                  the synthetic language makes its own text";
                    return Err(layers.error(key, reason));
                }
            }
            if data.valid_fraction.is_some() {
                let reason = "the synthetic language makes its own validation text; see data.synthetic.valid_documents";
                return Err(layers.error("data.valid_fraction", reason));
            }
        }
        DataSource::Text => match (data.valid.is_empty(), data.valid_fraction) {
            (true, None) => {
                return Err(
                    layers.error("data.valid", "no validation text; list files, or set data.valid_fraction")
                );
            }
            (false, Some(_)) => {
                return Err(layers.error("data.valid_fraction", "data.valid is set too; give one of them"));
            }
            (true, Some(_)) | (false, None) => {}
        },
        DataSource::Tokens => {
            if data.valid.is_empty() {
                return Err(layers.error("data.valid", "token files need a validation file named explicitly"));
            }
            if data.valid_fraction.is_some() {
                return Err(layers
                    .error("data.valid_fraction", "token files name their validation file in data.valid"));
            }
        }
    }
    if config.tokenizer.kind == TokenizerKind::File && config.tokenizer.file.is_none() {
        return Err(
            layers.error("tokenizer.file", "tokenizer.kind = \"file\" needs the path of a tokenizer.json")
        );
    }
    Ok(())
}
