//! The runs that a claim asks for.

use lm_train::config::{ConfigError, ConfigSource, Override, RunConfig};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::claim::{Arm, Claim};

/// How large the experiments are. Both are the configs of `reproduce shazeer`, so that its runs decide claims too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Seconds; shows that everything works, decides nothing.
    Smoke,
    /// Minutes to tens of minutes on two cores.
    Small,
}

impl Scale {
    /// Every scale, smaller first.
    pub const ALL: [Self; 2] = [Self::Smoke, Self::Small];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Small => "small",
        }
    }

    const fn config(self) -> &'static str {
        match self {
            Self::Smoke => include_str!("../../../../configs/shazeer/smoke.toml"),
            Self::Small => include_str!("../../../../configs/shazeer/small.toml"),
        }
    }
}

/// A run of a claim.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Name made of the config, the same for whichever claim asks for it: `swiglu-bf16-seed0`.
    pub name: String,
    /// Resolved config.
    pub config: RunConfig,
}

impl Claim {
    /// The runs of all arms at `scale`, `seeds` of each, seed by seed so that what an interruption leaves is paired.
    /// `overrides` come on top of everything but the arms' own keys.
    ///
    /// # Errors
    /// Keys that do not exist, values out of range: with the file and the key.
    pub fn plan(
        &self,
        scale: Scale,
        seeds: u64,
        overrides: &[Override],
    ) -> Result<Vec<Planned>, ConfigError> {
        let mut planned = Vec::new();
        for seed in 0..seeds {
            for arm in &self.arms {
                let config = self.resolve(arm, scale, seed, overrides)?;
                planned.push(Planned { name: name(&config), config });
            }
        }
        Ok(planned)
    }

    /// Optimizer steps of one run of the first arm at `scale`.
    ///
    /// # Errors
    /// As [`Claim::plan`].
    pub fn steps(&self, scale: Scale) -> Result<u64, ConfigError> {
        let first = self.arms.first().map(|arm| self.resolve(arm, scale, 0, &[])).transpose()?;
        Ok(first.map_or(0, |config| config.total_steps()))
    }

    pub(super) fn resolve(
        &self,
        arm: &Arm,
        scale: Scale,
        seed: u64,
        overrides: &[Override],
    ) -> Result<RunConfig, ConfigError> {
        let base = format!("configs/shazeer/{}.toml", scale.name());
        let mut all = self.overrides("config", &self.config);
        if let Some(keys) = self.scale.get(&scale) {
            all.extend(self.overrides(&format!("scale.{}", scale.name()), keys));
        }
        all.extend_from_slice(overrides);
        all.extend(self.overrides(&format!("arms.{}", arm.name), &arm.keys));
        let typed = format!("seed {seed}");
        all.push(Override { key: "seed".to_owned(), value: Value::Integer(seed as i64), typed });
        ConfigSource::from_text(&base, scale.config(), &all)?.resolve()
    }

    fn overrides(&self, table: &str, keys: &Table) -> Vec<Override> {
        let leaves = leaves(keys);
        let typed = |key: &str| format!("{}: {table}.{key}", self.file);
        leaves.into_iter().map(|(key, value)| Override { typed: typed(&key), key, value }).collect()
    }
}

/// The keys of a table, dotted, with their values.
pub(super) fn leaves(table: &Table) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                found.extend(leaves(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            other => found.push((key.clone(), other.clone())),
        }
    }
    found
}

/// Variant, precision and seed; the hash that a run directory's name ends with tells apart what else differs.
fn name(config: &RunConfig) -> String {
    let block = config.model.ffn.resolve(config.model.d_model).map(|ffn| ffn.name());
    let recipe = config.precision.resolve().map(|recipe| recipe.name);
    let parts = [block.ok(), recipe.ok().filter(|name| name != "fp32"), Some(format!("seed{}", config.seed))];
    let plain = |c: char| if c.is_alphanumeric() || ".-+_".contains(c) { c } else { '_' };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let name: String = parts.join("-").chars().map(plain).collect();
    name.replace("__", "_").replace("_-", "-")
}
