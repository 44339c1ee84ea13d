//! `ffnlab eval`: perplexity of a trained run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use ffn_variants::{PrecisionPreset, PrecisionSection};
use lm_eval::perplexity::{perplexity, text_from, validation_text};
use lm_train::config::ConfigSource;
use lm_train::data::CacheDir;
use lm_train::loaded::LoadedRun;

use crate::args::Common;
use crate::output::{note, print, print_json};

/// Held-out loss, perplexity and bits per byte of a trained run
///
/// Scores every token of the text but the first, with a sliding window of the model's context length. A smaller stride
/// gives every token more context and costs more; at the default stride, the context length, the result equals the
/// final validation of training.
#[derive(Debug, Args)]
pub struct Eval {
    /// Run directory
    run: PathBuf,
    /// Text file or glob to score [default: the run's own validation text]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Tokens between the starts of two windows [default: the context length]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Compute in another precision than the run was trained in (post-training quantisation): a preset, such as
    /// fp8_current, or a config file (TOML) whose [precision] section counts
    #[arg(long, value_name = "PRESET|FILE")]
    precision: Option<String>,
    /// Print one JSON object: loss (nats per token), perplexity, bits_per_byte, tokens, seq_len, stride
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let precision = self.precision.as_deref().map(precision_section).transpose()?;
        let run = LoadedRun::open_in(&self.run, precision.as_ref(), &common.device.open()?, common.kernels)?;
        let text = match &self.data {
            Some(path) => text_from(&run, path)?,
            None => validation_text(&run, &CacheDir::default(), &note)?,
        };
        let bar = indicatif::ProgressBar::new(text.stream.len() as u64);
        let result = perplexity(&run, &text, self.stride, &mut |done, _| bar.set_position(done));
        bar.finish_and_clear();
        let result = result?;
        if self.json {
            print_json(&result)?;
        } else {
            let bits = result.bits_per_byte.map_or(String::new(), |b| format!(", {b:.4} bits/byte"));
            print(&format!(
                "step {}: loss {:.4} nats/token, perplexity {:.4}{bits} over {} tokens (context {}, stride {})",
                run.step, result.loss, result.perplexity, result.tokens, result.seq_len, result.stride
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What `--precision` names: a preset, or the section of a config file.
fn precision_section(name: &str) -> Result<PrecisionSection> {
    let unknown = match name.parse::<PrecisionPreset>() {
        Ok(preset) => return Ok(PrecisionSection { preset: Some(preset), ..PrecisionSection::default() }),
        Err(unknown) => unknown,
    };
    let path = Path::new(name);
    if !path.exists() {
        bail!("--precision: {unknown}, and no file has that name");
    }
    Ok(ConfigSource::read(path, &[])?.precision()?)
}
