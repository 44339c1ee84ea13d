//! `ffnlab export`: a run in another program's format.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use lm_train::hf_export::export_hf;
use lm_train::loaded::LoadedRun;

use crate::args::Common;
use crate::output::print;

/// Formats a run can be exported to.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    /// Hugging Face: LlamaForCausalLM or ArceeForCausalLM
    Hf,
}

/// Export a trained run for another program
///
/// `--to hf` writes config.json, model.safetensors and the tokenizer for Hugging Face transformers: gated variants with a
/// linear up branch as LlamaForCausalLM, ungated ones as ArceeForCausalLM. A variant that no stock class computes (GTU,
/// say) is refused.
#[derive(Debug, Args)]
pub struct Export {
    /// Run directory
    run: PathBuf,
    /// Format
    #[arg(long, value_enum)]
    to: Target,
    /// New folder for the export
    dir: PathBuf,
}

impl Export {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let run = LoadedRun::open(&self.run, &common.device.open()?, common.kernels)?;
        match self.to {
            Target::Hf => export_hf(&run, &self.dir)?,
        }
        print(&format!("exported step {} to {}", run.step, self.dir.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
