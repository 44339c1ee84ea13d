//! `ffnlab sample`: text from a trained run.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lm_eval::sample::{SampleOptions, sample};
use lm_train::loaded::LoadedRun;

use crate::args::Common;
use crate::output::{print, print_json};

/// Continue a prompt with a trained run
#[derive(Debug, Args)]
pub struct Sample {
    /// Run directory
    run: PathBuf,
    /// Text to continue
    #[arg(long, default_value = "")]
    prompt: String,
    /// Tokens to draw at most
    #[arg(long, default_value_t = 100, value_name = "N")]
    tokens: usize,
    /// Divides the logits; 0 always takes the most probable token
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw among the so many most probable tokens; 0: among all
    #[arg(long, default_value_t = 50, value_name = "K")]
    top_k: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print prompt and text as JSON
    #[arg(long)]
    json: bool,
}

impl Sample {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let run = LoadedRun::open(&self.run, &common.device.open()?, common.kernels)?;
        let options = SampleOptions {
            tokens: self.tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            seed: self.seed,
        };
        let text = sample(&run, &self.prompt, options)?;
        if self.json {
            print_json(&serde_json::json!({ "prompt": self.prompt, "text": text, "step": run.step }))?;
        } else {
            print(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
