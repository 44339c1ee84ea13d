//! Run configuration: TOML sections, how files, bases and overrides are layered, and errors that name their place.

pub mod data;
pub mod model;
pub mod stress;
pub mod tokenizer;
pub mod training;

mod cell_name;
mod error;
mod layers;
mod load;
mod place;
mod rule;
mod sweep;
mod validate;

pub use data::{DataConfig, DataSource, SyntheticConfig};
pub use error::{ConfigError, closest};
pub use load::{ConfigSource, Override, explain};
pub use model::ModelConfig;
pub use rule::Rule;
pub use stress::StressConfig;
pub use sweep::{Cell, Sweep};
pub use tokenizer::{TokenizerConfig, TokenizerKind};
pub use training::{MAX_LR, OptimConfig, ScheduleConfig, ScheduleKind, TrainConfig};

use ffn_variants::PrecisionSection;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that decides a run. What `config.toml` in a run directory holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Seed of every random draw.
    #[garde(range(max = i64::MAX as u64))]
    pub seed: u64,
    /// `[model]`.
    #[garde(dive)]
    pub model: ModelConfig,
    /// `[data]`.
    #[garde(dive)]
    pub data: DataConfig,
    /// `[tokenizer]`.
    #[garde(dive)]
    pub tokenizer: TokenizerConfig,
    /// `[optim]`.
    #[garde(dive)]
    pub optim: OptimConfig,
    /// `[schedule]`.
    #[garde(dive)]
    pub schedule: ScheduleConfig,
    /// `[train]`.
    #[garde(dive)]
    pub train: TrainConfig,
    /// `[precision]`. Not written while it says nothing, so that runs in f32 keep the identity they always had.
    #[serde(skip_serializing_if = "PrecisionSection::is_empty")]
    #[garde(skip)]
    pub precision: PrecisionSection,
    /// `[stress]`. Not written while it says nothing.
    #[serde(skip_serializing_if = "StressConfig::is_default")]
    #[garde(dive)]
    pub stress: StressConfig,
}

/// What a config *file* may hold: a [`RunConfig`] plus inheritance and a grid. Its JSON schema is the user's reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Path of a file to inherit from, relative to this one; that file may not have a base of its own.
    pub base: Option<String>,
    /// Seed of every random draw: initial weights, order of the data, dropout. Default 0.
    pub seed: u64,
    /// The transformer.
    pub model: ModelConfig,
    /// Where the text comes from.
    pub data: DataConfig,
    /// How text becomes tokens.
    pub tokenizer: TokenizerConfig,
    /// The optimizer.
    pub optim: OptimConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// Budget, batches, validation and checkpoints.
    pub train: TrainConfig,
    /// The formats in which the model is trained and evaluated.
    pub precision: PrecisionSection,
    /// A planted weakness and a batch that hits it.
    pub stress: StressConfig,
    /// Grid of a sweep: any dotted key, in quotes, with the list of its values. Only `ffnlab sweep` and `ffnlab tune` read it.
    /// Keys that only some cells set go into tables `[[sweep.where]]`, of which a later one wins:
    /// `when = { "model.ffn.preset" = "relu" }` and `set = { "optim.lr" = 4e-3 }`.
    pub sweep: Option<std::collections::BTreeMap<String, SweepValues>>,
}

/// Values of one axis of a grid (any TOML values), or a table of further keys; under `where`, the list of rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SweepValues(pub toml::Value);

impl JsonSchema for SweepValues {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SweepValues".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "the values that this key takes, one per cell", "type": ["array", "object"] })
    }
}

impl RunConfig {
    /// The config as TOML, every key present that has a value.
    ///
    /// # Errors
    /// Never for a validated config; the serializer's error otherwise.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.train.total_steps(self.model.seq_len)
    }

    /// Tokens per optimizer step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.train.batch_size * self.model.seq_len) as u64
    }

    /// Identity of a run: a hash of the config and of what the data holds. Paths do not count, contents do, so a run
    /// directory keeps its identity when it is copied to another machine.
    pub fn run_id(&self, data_fingerprint: &str) -> anyhow::Result<String> {
        let mut config = self.clone();
        config.data.train.clear();
        config.data.valid.clear();
        config.tokenizer.file = None;
        let mut hash = blake3::Hasher::new();
        hash.update(&crate::record::RUN_SCHEMA.to_le_bytes());
        hash.update(&serde_json::to_vec(&config)?);
        hash.update(data_fingerprint.as_bytes());
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }
}

/// JSON schema of a config file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(ConfigFile).to_value()
}
