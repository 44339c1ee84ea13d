//! `ffnlab bench`: how fast a training step is here, and where its time goes.

mod machine;
mod profile;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use ffn_variants::PrecisionPreset;
use kernels::Kernels;
use kernels::profile::record;
use lm_train::config::{ConfigError, ConfigSource, Override, RunConfig};
use lm_train::data::Batch;
use lm_train::device::DeviceChoice;
use lm_train::memory::peak_rss_mb;
use lm_train::rng::{Key, Purpose};
use lm_train::session::Session;
use lm_train::{host, model};
use rand::Rng;
use serde::Serialize;

use self::machine::Machine;
use self::profile::{Profile, Recording};
use super::read_config;
use crate::args::{Common, Overrides};
use crate::output::{print, print_json};

/// Reference model R: the size at which implementations are compared.
const REFERENCE_MODEL: &str = include_str!("../../../../../configs/bench/reference-model.toml");

/// Tokens per second and peak memory of a training step
///
/// Without CONFIG: the reference model R (d_model 256, 6 layers, 8 heads, context 256, vocabulary 4096 untied, SwiGLU
/// d_ff 688, batch 16). A step is forward, backward, clipping and AdamW on uniformly random tokens; every step is timed
/// on its own, the median counts.
#[derive(Debug, Args)]
pub struct Bench {
    /// Config file (TOML) whose model and batch are timed [default: reference model R]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Compute in this precision; same as -o precision.preset=PRESET
    #[arg(long, value_name = "PRESET")]
    precision: Option<PrecisionPreset>,
    /// Timed steps
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps before the first timed one
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: u64,
    /// Also print where the time of a step goes, beside a floor: the least time that the rate of matrix products and the
    /// memory bandwidth measured here allow
    #[arg(long)]
    profile: bool,
    /// Print one JSON object: tokens_per_s (median), tokens_per_s_min, tokens_per_s_max, step_ms, peak_rss_mb, ...; with
    /// --profile also profile, in means of a step
    #[arg(long)]
    json: bool,
}

/// What `bench` measured.
#[derive(Debug, Serialize)]
struct Measured {
    tokens_per_s: f64,
    tokens_per_s_min: f64,
    tokens_per_s_max: f64,
    step_ms: f64,
    peak_rss_mb: f64,
    steps: u64,
    tokens_per_step: u64,
    params: usize,
    flops_per_token: u64,
    threads: usize,
    precision: String,
    kernels: String,
    device: String,
    loss_first: f64,
    loss_last: f64,
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

impl Bench {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let mut overrides = self.overrides.parse()?;
        if let Some(preset) = self.precision {
            overrides.push(Override::parse(&format!("precision.preset={preset}"))?);
        }
        let config = match &self.config {
            Some(path) => read_config(path, &overrides)?,
            None => ConfigSource::from_text("reference-model.toml", REFERENCE_MODEL, &overrides)?,
        }
        .resolve()?;
        self.check_profile(common)?;
        let measured = self.measure(&config, common)?;
        if self.json {
            print_json(&measured)?;
        } else {
            print(&format!(
                "{:.0} tokens/s (median of {} steps; {:.0} to {:.0}), {:.1} ms per step of {} tokens, peak memory {:.0} MiB\n\
                 {} parameters, {:.1} MFLOP/token forward, {}, {} thread(s), {} kernels on {}, {}",
                measured.tokens_per_s,
                measured.steps,
                measured.tokens_per_s_min,
                measured.tokens_per_s_max,
                measured.step_ms,
                measured.tokens_per_step,
                measured.peak_rss_mb,
                measured.params,
                measured.flops_per_token as f64 / 1e6,
                measured.precision,
                measured.threads,
                measured.kernels,
                measured.device,
                measured.host
            ))?;
            if let Some(profile) = &measured.profile {
                print(&format!("\n{}", profile.text(measured.threads)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Plain Candle operations report nothing, and those on a GPU end after the call that starts them.
    fn check_profile(&self, common: &Common) -> Result<()> {
        if self.profile && (common.kernels, common.device) != (Kernels::Portable, DeviceChoice::Cpu) {
            bail!(ConfigError::Invalid {
                place: "--profile".to_owned(),
                message: format!(
                    "{} kernels on {} do not report their time; use --kernels portable --device cpu",
                    common.kernels, common.device
                ),
            });
        }
        Ok(())
    }

    fn measure(&self, config: &RunConfig, common: &Common) -> Result<Measured> {
        let vocab_size = config.tokenizer.vocab_size;
        let mut session = Session::new(config, vocab_size, &common.device.open()?, common.kernels)?;
        session.set_saving(common.saving(), common.kernels)?;
        let bar = indicatif::ProgressBar::new(self.warmup + self.steps);
        let (mut seconds, mut losses, mut recording) = (Vec::new(), Vec::new(), Recording::default());
        for step in 0..self.warmup + self.steps {
            let started = Instant::now();
            let batch = random_batch(config, vocab_size, step);
            let data_time = started.elapsed();
            let started = Instant::now();
            let (stats, spans) = if self.profile {
                record(|| session.step(step, &batch))
            } else {
                (session.step(step, &batch), Vec::new())
            };
            let step_time = started.elapsed();
            losses.push(stats?.loss);
            if step >= self.warmup {
                seconds.push(step_time.as_secs_f64());
                recording.add(data_time, step_time, spans);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        seconds.sort_by(f64::total_cmp);
        let (fastest, slowest) = (seconds[0], seconds[seconds.len() - 1]);
        let median = (seconds[(seconds.len() - 1) / 2] + seconds[seconds.len() / 2]) / 2.0;
        let tokens = config.tokens_per_step();
        let ffn = config.model.ffn.resolve(config.model.d_model)?;
        let peak_rss_mb = peak_rss_mb(); // before the machine is measured, which takes memory of its own
        let machine = self.profile.then(Machine::measure).transpose()?;
        Ok(Measured {
            tokens_per_s: tokens as f64 / median,
            tokens_per_s_min: tokens as f64 / slowest,
            tokens_per_s_max: tokens as f64 / fastest,
            step_ms: median * 1e3,
            peak_rss_mb,
            steps: self.steps,
            tokens_per_step: tokens,
            params: session.param_counts(vocab_size)?.total,
            flops_per_token: model::flops_per_token(&config.model, &ffn, vocab_size),
            threads: candle_core::utils::get_num_threads(),
            precision: session.precision().recipe().name.clone(),
            kernels: common.kernels.to_string(),
            device: common.device.to_string(),
            loss_first: losses[0],
            loss_last: losses[losses.len() - 1],
            host: host::describe(),
            profile: machine.map(|machine| recording.profile(machine)),
        })
    }
}

/// Uniformly random tokens, keyed by the step.
fn random_batch(config: &RunConfig, vocab_size: usize, step: u64) -> Batch {
    let (batch_size, seq_len) = (config.train.batch_size, config.model.seq_len);
    let mut rng = Key::new(config.seed, Purpose::Sampling).index(step).rng();
    let mut draw = || (0..batch_size * seq_len).map(|_| rng.random_range(0..vocab_size as u32)).collect();
    Batch { inputs: draw(), targets: draw(), batch_size, seq_len }
}
