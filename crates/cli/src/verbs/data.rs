//! `ffnlab data`: the batches a run sees.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use clap::{Args, Subcommand};
use lm_train::data::{self, CacheDir, TokenBatches};
use lm_train::record::write_tensors;

use super::read_config;
use crate::args::Overrides;
use crate::output::{note, print};

/// Look at data as a run sees it
#[derive(Debug, Args)]
pub struct Data {
    #[command(subcommand)]
    verb: DataVerb,
}

#[derive(Debug, Subcommand)]
enum DataVerb {
    /// Write the first batches of a run to a safetensors file: `inputs` and `targets`, int64 [steps, batch, seq_len]
    ///
    /// Another implementation that trains on these batches from the same weights must see the same losses.
    Batches {
        /// Config file (TOML), or - for standard input
        config: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
        /// Number of steps
        #[arg(long, value_name = "N")]
        steps: u64,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

impl Data {
    pub fn run(&self) -> Result<ExitCode> {
        match &self.verb {
            DataVerb::Batches { config, overrides, steps, out } => {
                if *steps == 0 {
                    bail!("--steps 0 writes nothing; ask for at least one step");
                }
                let config = read_config(config, &overrides.parse()?)?.resolve()?;
                let corpus = data::load(&config.data, &config.tokenizer, &CacheDir::default(), &note)?;
                let (batch_size, seq_len) = (config.train.batch_size, config.model.seq_len);
                let batches = TokenBatches::new(corpus.train, seq_len, batch_size, config.seed)?;
                let (mut inputs, mut targets) = (Vec::new(), Vec::new());
                for step in 0..*steps {
                    let batch = batches.batch(step);
                    inputs.extend(batch.inputs.iter().map(|&id| i64::from(id)));
                    targets.extend(batch.targets.iter().map(|&id| i64::from(id)));
                }
                let shape = (*steps as usize, batch_size, seq_len);
                let tensor = |values| Tensor::from_vec(values, shape, &Device::Cpu);
                write_tensors(
                    out,
                    &[("inputs".into(), tensor(inputs)?), ("targets".into(), tensor(targets)?)],
                )?;
                print(&format!("{steps} batches of {batch_size} x {seq_len} tokens in {}", out.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
