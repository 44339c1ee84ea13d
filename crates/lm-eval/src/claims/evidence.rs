//! Which runs are which arms of a claim: by what their resolved configs say, whoever made them and wherever they lie.
//!
//! Of a config, the keys that the claim's arms set tell the arms apart, and the keys that the claim sets for all arms must
//! have its values. Everything else (data, size, budget) may be anything, but must be the same in all arms: runs are
//! grouped by it, and each group is a [`Setting`](super::Setting) of its own in which the claim is decided. The learning rate
//! alone may belong to the arm, as after a search for the best one of each.

use std::collections::{BTreeMap, BTreeSet};

use lm_train::config::{ConfigError, RunConfig};
use toml::{Table, Value};

use super::claim::{Arm, Claim};
use super::metric::Metric;
use super::plan::{Scale, leaves};
use crate::compare::keys::{DATA, Keys, LR, differing};
use crate::compare::{Collection, Run};

/// Stands for the block, however its config spells it.
const BLOCK: &str = "block";
/// Keys that say which block it is.
const BLOCK_KEYS: [&str; 5] =
    ["model.ffn.preset", "model.ffn.kind", "model.ffn.activation", "model.ffn.gate", "model.ffn.up"];

/// Runs that can be compared: equal in everything but the arm and the seed.
#[derive(Clone, Debug)]
pub(super) struct Evidence<'a> {
    /// What all of them have in common.
    pub shared: Keys,
    /// Runs by arm, by seed. An arm without runs is absent.
    pub arms: BTreeMap<String, Vec<&'a Run>>,
    /// Runs left out because their arm already has their seed.
    pub repeated: usize,
    /// Learning rates by arm, where they are the arm's own; empty where all arms share one.
    pub rates: BTreeMap<String, String>,
}

/// What a claim looks for in a run's config.
struct Wanted {
    /// Keys that tell arms apart.
    varied: BTreeSet<String>,
    /// The arms, with the values of these keys.
    arms: Vec<(String, Keys)>,
    /// Keys that all arms must have, with their values.
    fixed: Keys,
}

/// Sorts the runs of `collection` into arms; one group per setting, the largest budget first.
///
/// # Errors
/// A claim whose configs do not resolve.
pub(super) fn gather<'a>(
    claim: &Claim,
    collection: &'a Collection,
) -> Result<Vec<Evidence<'a>>, ConfigError> {
    let wanted = Wanted::of(claim)?;
    let mut groups: Vec<Evidence<'a>> = Vec::new();
    for run in &collection.runs {
        let keys = canonical(&run.keys, &run.summary.ffn);
        let Some(arm) = wanted.arm_of(&keys) else { continue };
        let shared = keys.without(|key| wanted.varied.contains(key));
        let at = groups.iter().position(|group| group.shared == shared).unwrap_or_else(|| {
            groups.push(Evidence { shared, arms: BTreeMap::new(), repeated: 0, rates: BTreeMap::new() });
            groups.len() - 1
        });
        let group = &mut groups[at];
        let runs = group.arms.entry(arm.to_owned()).or_default();
        if runs.iter().any(|kept| kept.summary.seed == run.summary.seed) {
            group.repeated += 1;
        } else {
            runs.push(run);
        }
    }
    let mut groups = with_own_rates(groups);
    for runs in groups.iter_mut().flat_map(|group| group.arms.values_mut()) {
        runs.sort_by_key(|run| run.summary.seed);
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.budget()));
    Ok(groups)
}

/// Joins settings that differ in nothing but the learning rate, where no arm is in two of them: the rates are the arms' own.
fn with_own_rates(groups: Vec<Evidence<'_>>) -> Vec<Evidence<'_>> {
    let without_rate = |group: &Evidence<'_>| group.shared.without(|key| key == LR);
    let mut joined: Vec<Evidence<'_>> = Vec::new();
    for group in &groups {
        let shared = without_rate(group);
        if joined.iter().any(|known| known.shared == shared) {
            continue;
        }
        let alike: Vec<&Evidence<'_>> = groups.iter().filter(|other| without_rate(other) == shared).collect();
        let arms: BTreeSet<&String> = alike.iter().flat_map(|group| group.arms.keys()).collect();
        if alike.len() < 2 || arms.len() < alike.iter().map(|group| group.arms.len()).sum() {
            continue;
        }
        let rates = |group: &&Evidence<'_>| {
            let rate = group.shared.show(LR);
            group.arms.keys().map(|arm| (arm.clone(), rate.clone())).collect::<Vec<_>>()
        };
        joined.push(Evidence {
            arms: alike.iter().flat_map(|group| group.arms.clone()).collect(),
            repeated: alike.iter().map(|group| group.repeated).sum(),
            rates: alike.iter().flat_map(rates).collect(),
            shared,
        });
    }
    let is_joined = |group: &Evidence<'_>| joined.iter().any(|known| known.shared == without_rate(group));
    let apart: Vec<Evidence<'_>> = groups.into_iter().filter(|group| !is_joined(group)).collect();
    joined.into_iter().chain(apart).collect()
}

impl Wanted {
    fn of(claim: &Claim) -> Result<Self, ConfigError> {
        let names = |table: &Table| -> Vec<String> {
            leaves(table).into_iter().map(|(key, _)| block_key(&key).to_owned()).collect()
        };
        let varied: BTreeSet<String> = claim.arms.iter().flat_map(|arm| names(&arm.keys)).collect();
        let fixed: BTreeSet<String> = names(&claim.config).into_iter().collect();
        let mut arms = Vec::new();
        let mut common = None;
        for arm in &claim.arms {
            let keys = resolved(claim, arm)?;
            arms.push((arm.name.clone(), keys.without(|key| !within(&varied, key))));
            common.get_or_insert(keys.without(|key| !within(&fixed, key) || within(&varied, key)));
        }
        // What a key is spelled as in the file may open into several in the resolved config.
        let opened = arms.iter().flat_map(|(_, keys)| keys.names().map(str::to_owned).collect::<Vec<_>>());
        let varied = varied.iter().cloned().chain(opened).collect();
        Ok(Self { varied, arms, fixed: common.unwrap_or_default() })
    }

    /// The arm whose keys these are; `None` for a run of something else.
    fn arm_of(&self, keys: &Keys) -> Option<&str> {
        let fits = self.fixed.names().all(|key| keys.get(key) == self.fixed.get(key));
        let same = |arm: &Keys| self.varied.iter().all(|key| keys.get(key) == arm.get(key));
        self.arms.iter().find(|(_, arm)| fits && same(arm)).map(|(name, _)| name.as_str())
    }
}

impl Evidence<'_> {
    /// Values of a metric by arm and seed; runs that do not have it are left out.
    ///
    /// # Errors
    /// Files of a run that cannot be read.
    pub fn values(&self, metric: Metric) -> anyhow::Result<Values> {
        let mut values = Values::new();
        for (arm, runs) in &self.arms {
            let of_arm = values.entry(arm.clone()).or_default();
            for run in runs {
                if let Some(value) = metric.read(run)? {
                    of_arm.push((run.summary.seed, value));
                }
            }
        }
        Ok(values)
    }

    /// All its runs.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.arms.values().flatten().copied()
    }

    /// Training tokens of its longest run.
    pub fn budget(&self) -> u64 {
        self.runs().map(|run| run.summary.tokens).max().unwrap_or(0)
    }

    /// The arms of `claim` that have no run.
    pub fn missing<'c>(&self, claim: &'c Claim) -> Vec<&'c str> {
        let names = claim.arms.iter().map(|arm| arm.name.as_str());
        names.filter(|name| !self.arms.contains_key(*name)).collect()
    }
}

/// (seed, value) by arm.
pub(super) type Values = BTreeMap<String, Vec<(u64, f64)>>;

/// Keys in which settings differ, each with its values: `train.steps (40, 800)`.
pub(super) fn differences<'a>(settings: impl IntoIterator<Item = &'a Keys> + Clone) -> Vec<String> {
    differing(settings.clone())
        .into_iter()
        .map(|key| {
            let values: BTreeSet<String> = settings.clone().into_iter().map(|keys| keys.show(&key)).collect();
            let name = if key == DATA { "data" } else { &key };
            format!("{name} ({})", values.into_iter().collect::<Vec<_>>().join(", "))
        })
        .collect()
}

/// Keys in which `own` differs from the other settings, with its values: `train.steps = 800`.
pub(super) fn apart<'a>(own: &Keys, settings: impl IntoIterator<Item = &'a Keys> + Clone) -> Vec<String> {
    let named = |key: String| format!("{} = {}", if key == DATA { "data" } else { &key }, own.show(&key));
    differing(settings).into_iter().map(named).collect()
}

/// Whether `key` is one of `keys` or lies in one that is a table.
fn within(keys: &BTreeSet<String>, key: &str) -> bool {
    keys.iter().any(|known| key == known || key.strip_prefix(known).is_some_and(|rest| rest.starts_with('.')))
}

fn block_key(key: &str) -> &str {
    if BLOCK_KEYS.iter().any(|block| key == *block || key.starts_with(&format!("{block}."))) {
        BLOCK
    } else {
        key
    }
}

/// The block under one name, however it was written.
fn canonical(keys: &Keys, block: &str) -> Keys {
    keys.without(|key| block_key(key) == BLOCK).with(BLOCK, Value::String(block.to_owned()))
}

/// An arm's config by dotted key, as a run directory would hold it.
fn resolved(claim: &Claim, arm: &Arm) -> Result<Keys, ConfigError> {
    // What the scale says is not looked at; the small one accepts whatever a claim fixes.
    let config = claim.resolve(arm, Scale::Small, 0, &[])?;
    let invalid = |error: &dyn std::fmt::Display| ConfigError::Invalid {
        place: format!("{}: arms.{}", claim.file, arm.name),
        message: error.to_string(),
    };
    let block = config.model.ffn.resolve(config.model.d_model).map_err(|error| invalid(&error))?.name();
    Ok(canonical(&Keys::new(&table(&config).map_err(|error| invalid(&error))?, ""), &block))
}

fn table(config: &RunConfig) -> anyhow::Result<Table> {
    Ok(config.to_toml()?.parse()?)
}
