//! The command line: verbs, and the options that all of them share.

use std::env;
use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use kernels::{Kernels, Saving, UnknownKernels};
use lm_train::config::{ConfigError, Override};
use lm_train::device::DeviceChoice;
use numerics::simd::{self, ISA_VARIABLE};

use crate::verbs;

/// Which transformer feed-forward variant gives which loss at which cost, and how sure are we?
#[derive(Debug, Parser)]
#[command(name = "ffnlab", version = VERSION, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
    #[command(flatten)]
    pub common: Common,
}

/// Commit that this program was built from, as `build.rs` found it; empty where it is not known.
const COMMIT: &str = env!("FFNLAB_COMMIT");

const VERSION: &str = if COMMIT.is_empty() {
    env!("CARGO_PKG_VERSION")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("FFNLAB_COMMIT"), ")")
};

/// Commit that this program was built from, with `-dirty` behind it where its sources differed; `None` if not known.
pub fn commit() -> Option<String> {
    (!COMMIT.is_empty()).then(|| COMMIT.to_owned())
}

const EXAMPLES: &str = "\
Examples:
  ffnlab reproduce shazeer                     Shazeer's table at small scale
  ffnlab train configs/smoke.toml              train one model in seconds
  ffnlab train my.toml -o model.ffn.preset=geglu -o seed=1
  ffnlab sweep my-grid.toml --jobs 2           train every cell of a grid; call again to go on
  ffnlab tune my-grid.toml                     a learning rate for every arm, and a config with them
  ffnlab compare runs/my-grid                  the table with paired differences

Environment:
  FFNLAB_CACHE    folder of tokenizers and tokens [default: ~/.cache/ffnlab]
  FFNLAB_KERNELS  what --kernels is when it is not given
  FFNLAB_ISA      instruction set of ffnlab's own loops: baseline, avx2, avx512, or amx, which also
                  multiplies operands below fp32; other matrix products choose for themselves
                  [default: the widest that the CPU has]

Exit codes: 0 done, 1 failed, 2 wrong usage or config, 130/143 stopped by a signal after a checkpoint,
141 the reader of the output went away.";

/// Options of every verb.
#[derive(Debug, Args)]
pub struct Common {
    /// Threads of this process (0: all cores). Results do not depend on it
    #[arg(long, global = true, default_value_t = 0, value_name = "N", help_heading = "Common options")]
    pub threads: usize,
    /// Where tensors live: cpu or cuda
    #[arg(long, global = true, default_value_t, value_name = "DEVICE", help_heading = "Common options")]
    pub device: DeviceChoice,
    /// Implementation of the operations: reference (plain Candle), portable (fused, in the widest instruction set of the
    /// CPU), or auto, the fastest of them [default: $FFNLAB_KERNELS, else auto]
    #[arg(long = "kernels", global = true, value_name = "KERNELS", help_heading = "Common options")]
    kernels_choice: Option<KernelsChoice>,
    /// What [`Common::apply`] has made of it.
    #[arg(skip)]
    pub kernels: Kernels,
    /// Compute every block again in the backward pass instead of keeping its values: less memory, more time, the same
    /// bits (fp32 on the CPU)
    #[arg(long, global = true, help_heading = "Common options")]
    pub recompute: bool,
}

/// The environment variable that stands in for `--kernels`.
const KERNELS_VARIABLE: &str = "FFNLAB_KERNELS";

/// How often Candle's threads look for more work before they sleep: by default for a third of a millisecond after every
/// elementwise operation, on cores on which other threads are about to work.
const SPIN_VARIABLE: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

impl Common {
    /// What blocks keep for the backward pass.
    pub fn saving(&self) -> Saving {
        if self.recompute { Saving::Recompute } else { Saving::Keep }
    }

    /// Settings of the whole process; called before any thread exists and before anything runs.
    ///
    /// # Errors
    /// An environment variable that asks for what is not there.
    pub fn apply(&mut self) -> Result<(), ConfigError> {
        simd::pinned().map_err(|error| bad_variable(ISA_VARIABLE, &error))?;
        let choice = match self.kernels_choice {
            Some(choice) => choice,
            None => kernels_from_environment()?,
        };
        self.kernels = choice.resolve();
        lm_train::memory::keep_freed_pages();
        let set = |name: &str, value: &str| {
            // SAFETY: no other thread is running yet.
            unsafe { env::set_var(name, value) };
        };
        if self.threads > 0 {
            set("RAYON_NUM_THREADS", &self.threads.to_string());
        }
        if env::var_os(SPIN_VARIABLE).is_none() {
            set(SPIN_VARIABLE, "1");
        }
        Ok(())
    }
}

fn kernels_from_environment() -> Result<KernelsChoice, ConfigError> {
    match env::var_os(KERNELS_VARIABLE) {
        Some(name) if !name.is_empty() => {
            name.to_string_lossy().parse().map_err(|error| bad_variable(KERNELS_VARIABLE, &error))
        }
        Some(_) | None => Ok(KernelsChoice::Auto),
    }
}

fn bad_variable(name: &str, error: &dyn fmt::Display) -> ConfigError {
    ConfigError::Invalid { place: format!("environment variable {name}"), message: error.to_string() }
}

/// What `--kernels` can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelsChoice {
    /// Whatever is fastest on this machine.
    Auto,
    /// This one.
    Only(Kernels),
}

impl KernelsChoice {
    fn resolve(self) -> Kernels {
        match self {
            // Its loops are compiled for several instruction sets and take the widest of the CPU at run time.
            Self::Auto => Kernels::Portable,
            Self::Only(kernels) => kernels,
        }
    }
}

impl FromStr for KernelsChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            _ => name.parse().map(Self::Only).map_err(|error: UnknownKernels| format!("{error}, auto")),
        }
    }
}

/// `-o key=value`, any number of times.
#[derive(Debug, Default, Args)]
pub struct Overrides {
    /// Set one key of the config, such as -o optim.lr=3e-4; may be repeated
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl Overrides {
    /// The parsed overrides.
    ///
    /// # Errors
    /// One that is not key=value.
    pub fn parse(&self) -> Result<Vec<Override>, ConfigError> {
        self.overrides.iter().map(|text| Override::parse(text)).collect()
    }
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Reproduce(verbs::reproduce::Reproduce),
    Train(verbs::train::Train),
    Sweep(verbs::sweep::Sweep),
    Tune(verbs::tune::Tune),
    Eval(verbs::eval::Eval),
    Compare(verbs::compare::Compare),
    Diverge(verbs::diverge::Diverge),
    Probe(verbs::probe::Probe),
    Stats(verbs::stats::Stats),
    Report(verbs::report::Report),
    Claims(verbs::claims::Claims),
    Sample(verbs::sample::Sample),
    Export(verbs::export::Export),
    Bench(verbs::bench::Bench),
    Config(verbs::config::Config),
    Data(verbs::data::Data),
    Variants(verbs::variants::Variants),
    Formats(verbs::formats::Formats),
    Quantize(verbs::quantize::Quantize),
}

impl Verb {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        match self {
            Self::Reproduce(verb) => verb.run(common),
            Self::Train(verb) => verb.run(common),
            Self::Sweep(verb) => verb.run(common),
            Self::Tune(verb) => verb.run(common),
            Self::Eval(verb) => verb.run(common),
            Self::Compare(verb) => verb.run(),
            Self::Diverge(verb) => verb.run(common),
            Self::Probe(verb) => verb.run(common),
            Self::Stats(verb) => verb.run(),
            Self::Report(verb) => verb.run(),
            Self::Claims(verb) => verb.run(common),
            Self::Sample(verb) => verb.run(common),
            Self::Export(verb) => verb.run(common),
            Self::Bench(verb) => verb.run(common),
            Self::Config(verb) => verb.run(),
            Self::Data(verb) => verb.run(),
            Self::Variants(verb) => verb.run(),
            Self::Formats(verb) => verb.run(),
            Self::Quantize(verb) => verb.run(),
        }
    }
}
