//! Perplexity of a trained run over a whole text.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail};
use lm_train::data::{self, CacheDir, TokenStream};
use lm_train::evaluate::evaluate;
use lm_train::loaded::LoadedRun;
use lm_train::record::EvalResult;

/// Text to score: tokens, and the size of the text behind them.
pub struct EvalText {
    /// The tokens.
    pub stream: TokenStream,
    /// UTF-8 bytes of the text, where they are known.
    pub bytes: Option<u64>,
}

/// The validation text the run was trained with.
///
/// # Errors
/// When the data is gone, or is no longer what the run saw.
pub fn validation_text(run: &LoadedRun, cache: &CacheDir, progress: &dyn Fn(&str)) -> Result<EvalText> {
    let config = &run.config;
    let found = data::find(&config.data, &config.tokenizer)?;
    if let Some(summary) = &run.summary
        && summary.data_fingerprint != found.fingerprint()
    {
        bail!("the data of {} has changed since it was trained; name a text with --data", run.path.display());
    }
    let corpus = found.load(cache, progress)?;
    Ok(EvalText { stream: corpus.valid, bytes: corpus.valid_bytes })
}

/// A text file (or glob), tokenised as the run's own text was. For a run on token files without a tokenizer, a token
/// file.
///
/// # Errors
/// An unreadable or empty file.
pub fn text_from(run: &LoadedRun, path: &Path) -> Result<EvalText> {
    let pattern = path.to_string_lossy();
    match &run.tokenizer {
        Some(tokenizer) => {
            let (stream, bytes) = data::given_text(&pattern, &run.config.data.document_separator, tokenizer)?;
            Ok(EvalText { stream, bytes: Some(bytes) })
        }
        None => Ok(EvalText { stream: data::given_tokens(&pattern, run.vocab_size)?, bytes: None }),
    }
}

/// Scores every token of `text` but the first, with windows `stride` tokens apart (default: the context length).
///
/// # Errors
/// A text too short, or a stride outside 1..=context length.
pub fn perplexity(
    run: &LoadedRun,
    text: &EvalText,
    stride: Option<usize>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<EvalResult> {
    let stride = stride.unwrap_or(run.model.seq_len());
    let result = evaluate(&run.model, &text.stream, text.bytes, stride, &run.device, &mut |done, total| {
        progress(done, total);
        ControlFlow::Continue(())
    })?;
    match result {
        Some(result) => Ok(result),
        None => bail!("internal error: the evaluation stopped without being asked to"),
    }
}
