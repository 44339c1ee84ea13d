//! `ffnlab train`: one run.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lm_train::data::{self, CacheDir};
use lm_train::record::{RunStatus, Summary};
use lm_train::trainer::{Outcome, TrainRequest, train};

use super::{default_out, read_config};
use crate::args::{Common, Overrides};
use crate::output::{note, print, print_json};
use crate::progress::{Events, Progress};
use crate::signals;

/// Train one model from a TOML config
///
/// Writes a run directory: config.toml (resolved), metrics.jsonl, summary.json, tokenizer.json, checkpoints/. A
/// non-finite loss ends the run as `diverged`, which is a result. Ctrl-C and SIGTERM write a checkpoint and exit with
/// 130 / 143; call again with --resume to go on, bit for bit as if there had been no pause.
#[derive(Debug, Args)]
pub struct Train {
    /// Config file (TOML), or - for standard input
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// Run directory [default: runs/NAME-ID, from the config's file name and the hash of config and data]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the unfinished run in the run directory
    #[arg(long)]
    resume: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Report progress as JSON lines on standard output, for a parent process
    #[arg(long, hide = true)]
    events: bool,
}

impl Train {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let config = read_config(&self.config, &self.overrides.parse()?)?.resolve()?;
        let device = common.device.open()?;
        let data = data::find(&config.data, &config.tokenizer)?;
        let out = match &self.out {
            Some(out) => out.clone(),
            None => {
                let stem = default_out(&self.config)?;
                PathBuf::from(format!("{}-{}", stem.display(), &config.run_id(data.fingerprint())?[..8]))
            }
        };
        signals::listen()?;
        let request = TrainRequest {
            config,
            out: out.clone(),
            resume: self.resume,
            device,
            kernels: common.kernels,
            saving: common.saving(),
            cache: CacheDir::default(),
            commit: crate::args::commit(),
        };
        let mut progress = if self.events { Progress::json_lines() } else { Progress::for_one_run() };
        let outcome = train(&request, data, &mut |event| progress.show(&event), &signals::asked)?;
        progress.finish();
        match outcome {
            Outcome::Ended(summary) | Outcome::AlreadyEnded(summary) if self.events => {
                Events::ended(&summary)?;
                Ok(ExitCode::SUCCESS)
            }
            Outcome::Ended(summary) => self.show(&summary, &out),
            Outcome::AlreadyEnded(summary) => {
                note(&format!("{} had ended before; nothing to do", out.display()));
                self.show(&summary, &out)
            }
            Outcome::Interrupted { stop, step } => {
                note(&format!(
                    "stopped at step {step}, checkpoint written; go on with --resume --out {}",
                    out.display()
                ));
                Ok(signals::exit_code(stop))
            }
        }
    }

    fn show(&self, summary: &Summary, out: &std::path::Path) -> Result<ExitCode> {
        if self.json {
            print_json(summary)?;
        } else {
            print(&format!("{}\nrun directory: {}", describe(summary), out.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A run in a few lines.
fn describe(summary: &Summary) -> String {
    let head = format!(
        "{} (d_ff {}) in {}, seed {}: {} parameters, {} steps, {} tokens, {:.0} tokens/s, peak {:.0} MiB",
        summary.ffn,
        summary.d_ff,
        summary.precision,
        summary.seed,
        summary.params.total,
        summary.steps,
        summary.tokens,
        summary.tokens_per_s,
        summary.peak_rss_mb
    );
    let result = match (summary.status, &summary.validation) {
        (RunStatus::Diverged, _) | (RunStatus::Finished, None) => {
            format!("diverged at step {}", summary.diverged_at.unwrap_or(summary.steps))
        }
        (RunStatus::Finished, Some(result)) => {
            let mut text =
                format!("held-out loss {:.4} nats/token, perplexity {:.3}", result.loss, result.perplexity);
            if let Some(bits) = result.bits_per_byte {
                text += &format!(", {bits:.4} bits/byte");
            }
            if let Some(floor) = summary.floor {
                text += &format!(", {:.4} nats above the language's floor", result.loss - floor);
            }
            text
        }
    };
    let mut text = format!("{head}\n{result}");
    if summary.skipped_steps > 0 {
        text += &format!(
            "\n{} steps were left out because the scaled gradient overflowed",
            summary.skipped_steps
        );
    }
    if summary.non_finite > 0 {
        text += &format!("\n{} operands of weight products were NaN or infinite", summary.non_finite);
    }
    text
}
