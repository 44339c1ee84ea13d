//! `ffnlab eval`: perplexity of a trained run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use ffn_variants::{PrecisionPreset, PrecisionSection};
use lm_eval::perplexity::{EvalText, perplexity, text_from, validation_text};
use lm_eval::text_interval::{TextInterval, TextLosses, Unit, text_losses};
use lm_train::config::{ConfigError, ConfigSource};
use lm_train::data::CacheDir;
use lm_train::loaded::LoadedRun;
use lm_train::record::EvalResult;
use serde::Serialize;

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
    /// Also how much the loss depends on the text: a 95 % interval by the bootstrap (BCa) over its documents, or over
    /// pieces of N tokens. It holds this trained run fixed and says nothing about other seeds
    #[arg(long, value_name = "documents|N")]
    over: Option<Unit>,
    /// With --over, also the difference of this run's loss from that of another run on the same text, with its interval:
    /// one draw of the text serves both
    #[arg(long, value_name = "RUN")]
    against: Option<PathBuf>,
    /// Print one JSON object: loss (nats per token), perplexity, bits_per_byte, tokens, seq_len, stride; with --over also
    /// over_text and difference
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    result: EvalResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    over_text: Option<TextInterval>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<TextInterval>,
}

impl Eval {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        if self.against.is_some() && self.over.is_none() {
            bail!(ConfigError::Invalid {
                place: "--against".to_owned(),
                message:
                    "needs --over, which says what the text is made of: documents, or a number of tokens"
                        .to_owned()
            });
        }
        let precision = self.precision.as_deref().map(precision_section).transpose()?;
        let device = common.device.open()?;
        let run = LoadedRun::open_in(&self.run, precision.as_ref(), &device, common.kernels)?;
        let found = match self.over {
            Some(unit) => {
                let (result, own) = self.losses(&run, unit)?;
                let difference = match &self.against {
                    Some(path) => {
                        let other = LoadedRun::open_in(path, precision.as_ref(), &device, common.kernels)?;
                        Some(own.difference_from(&self.losses(&other, unit)?.1))
                    }
                    None => None,
                };
                Found { result, over_text: Some(own.loss()), difference }
            }
            None => Found { result: self.loss(&run)?, over_text: None, difference: None },
        };
        if self.json {
            print_json(&found)?
        } else {
            print(&self.sentences(&run, &found))?
        }
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self, run: &LoadedRun) -> Result<EvalText> {
        match &self.data {
            Some(path) => text_from(run, path),
            None => validation_text(run, &CacheDir::default(), &note),
        }
    }

    fn loss(&self, run: &LoadedRun) -> Result<EvalResult> {
        let text = self.text(run)?;
        let bar = indicatif::ProgressBar::new(text.stream.len() as u64);
        let result = perplexity(run, &text, self.stride, &mut |done, _| bar.set_position(done));
        bar.finish_and_clear();
        result
    }

    fn losses(&self, run: &LoadedRun, unit: Unit) -> Result<(EvalResult, TextLosses)> {
        let text = self.text(run)?;
        let bar = indicatif::ProgressBar::new(text.stream.len() as u64);
        let losses = text_losses(run, &text, self.stride, unit, &mut |done| bar.set_position(done));
        bar.finish_and_clear();
        losses
    }

    fn sentences(&self, run: &LoadedRun, found: &Found) -> String {
        let result = &found.result;
        let bits = result.bits_per_byte.map_or(String::new(), |b| format!(", {b:.4} bits/byte"));
        let mut lines = vec![format!(
            "step {}: loss {:.4} nats/token, perplexity {:.4}{bits} over {} tokens (context {}, stride {})",
            run.step, result.loss, result.perplexity, result.tokens, result.seq_len, result.stride
        )];
        if let (Some(unit), Some(over_text)) = (self.over, &found.over_text) {
            lines.push(interval_line("loss", over_text, unit, false));
        }
        if let (Some(unit), Some(against), Some(difference)) = (self.over, &self.against, &found.difference) {
            let what = format!("difference from {}", against.display());
            lines.push(interval_line(&what, difference, unit, true));
        }
        lines.join("\n")
    }
}

/// One line about an interval over the text.
fn interval_line(what: &str, found: &TextInterval, unit: Unit, signed: bool) -> String {
    let number = |x: f64| if signed { format!("{x:+.4}") } else { format!("{x:.4}") };
    match found {
        TextInterval::Interval(found) => {
            let interval = found.bca.interval;
            format!(
                "{what}: {} nats/token, 95 % interval {} to {} over {} {} (other text, the same trained weights)",
                number(found.bca.estimate),
                number(interval.low),
                number(interval.high),
                found.documents,
                unit.noun()
            )
        }
        TextInterval::Refused(why) => format!("{what}: no interval over the text: {why}"),
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
