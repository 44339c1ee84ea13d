//! What was asked: what varies between the runs, what is the same in all of them, and which runs are missing.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Serialize;
use toml::{Table as Config, Value};

use crate::compare::keys::flatten;
use crate::compare::{Collection, Comparison, ProblemKind, precision};
use crate::shazeer;

/// Missing runs that are named, at most.
const NAMED: usize = 12;

/// A key that does not have the same value in all runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Varied {
    /// Dotted key.
    pub key: String,
    /// Its values, as text.
    pub values: Vec<String>,
}

/// The question that the runs answer, as their configs tell it.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// Keys that vary, the seed last.
    pub varied: Vec<Varied>,
    /// The config that all runs share, as TOML without the keys that vary.
    pub fixed: String,
    /// Runs that finished.
    pub finished: usize,
    /// Runs that diverged.
    pub diverged: usize,
    /// Runs that have begun and not ended.
    pub unfinished: usize,
    /// Runs of all combinations of the values that vary, where most of them are there.
    pub grid: Option<usize>,
    /// Combinations of the grid without any run, by name; the first of them.
    pub missing: Vec<String>,
    /// How many combinations are missing.
    pub missing_count: usize,
    /// A config with a `[sweep]` table that makes exactly these runs, where they are a whole grid.
    #[serde(skip)]
    pub sweep: Option<String>,
}

/// A run's config, by dotted key.
type Keys = BTreeMap<String, Value>;

impl Asked {
    /// Reads the configs of all runs that have at least begun.
    pub(super) fn new(collection: &Collection, comparison: Option<&Comparison>) -> Self {
        let ended = collection.runs.iter().map(|run| run.dir.as_path());
        let begun = collection.problems.iter().filter(|problem| problem.kind == ProblemKind::Unfinished);
        let dirs: Vec<&Path> = ended.chain(begun.clone().map(|problem| problem.dir.as_path())).collect();
        let configs: Vec<Config> = dirs.iter().filter_map(|dir| config(dir)).collect();
        let flat: Vec<Keys> = configs.iter().map(keys).collect();

        let axes = axes(&flat);
        let (grid, missing) = grid(&axes, &flat);
        let diverged = collection.runs.iter().filter(|run| run.summary.validation.is_none()).count();
        let varied = axes.iter().map(|(key, values)| Varied {
            key: key.clone(),
            values: values.iter().map(|value| shown(value.as_ref())).collect(),
        });
        let sweep = (grid.is_some() && missing.is_empty() && comparison.is_some())
            .then(|| sweep(configs.first()?, &axes))
            .flatten();
        Self {
            varied: varied.collect(),
            fixed: configs.first().map_or_else(String::new, |first| fixed(first, &axes)),
            finished: collection.runs.len() - diverged,
            diverged,
            unfinished: begun.count(),
            grid,
            missing_count: missing.len(),
            missing: missing.into_iter().take(NAMED).collect(),
            sweep,
        }
    }
}

pub(super) fn config(dir: &Path) -> Option<Config> {
    // A run whose config cannot be read is among the problems.
    fs::read_to_string(dir.join("config.toml")).ok()?.parse().ok()
}

fn keys(config: &Config) -> Keys {
    let mut keys = BTreeMap::new();
    flatten(config, "", &mut keys);
    // Where precisions vary, plain full precision is one of the values.
    keys.entry(precision::PRESET.to_owned()).or_insert_with(|| precision::FULL.into());
    keys
}

const SEED: &str = "seed";

/// Keys with more than one value, the seed last, each with its values in order. A run without the key has `None`.
fn axes(configs: &[Keys]) -> Vec<(String, Vec<Option<Value>>)> {
    let names: BTreeSet<&String> = configs.iter().flat_map(BTreeMap::keys).collect();
    let axis = |name: &String| {
        let mut values: Vec<Option<Value>> = Vec::new();
        for config in configs {
            let value = config.get(name).cloned();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values.sort_by(|a, b| order(name, a.as_ref(), b.as_ref()));
        (name.clone(), values)
    };
    let mut axes: Vec<_> = names.into_iter().map(axis).filter(|(_, values)| values.len() > 1).collect();
    axes.sort_by_key(|(name, _)| (name == SEED, name == precision::PRESET));
    axes
}

/// Numbers by size, variants as in the paper, precisions from wide to narrow, everything else as text.
fn order(key: &str, a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let number = |value: Option<&Value>| match value {
        Some(Value::Integer(i)) => Some(*i as f64),
        Some(Value::Float(x)) => Some(*x),
        Some(_) | None => None,
    };
    let (texts, numbers) = ([a, b].map(|value| shown(value)), [a, b].map(number));
    match numbers {
        [Some(a), Some(b)] => a.total_cmp(&b),
        _ if key == precision::PRESET => precision::place(&texts[0]).cmp(&precision::place(&texts[1])),
        _ if key == "model.ffn.preset" => {
            let rank = |name: &str| shazeer::rank(name).unwrap_or(usize::MAX);
            (rank(&texts[0]), &texts[0]).cmp(&(rank(&texts[1]), &texts[1]))
        }
        _ => texts[0].cmp(&texts[1]),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "(not set)".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The size of the grid of all values that vary, and the combinations without a run. A few runs of a large grid are not
/// taken for it: settings chosen by variant would otherwise look like holes.
fn grid(axes: &[(String, Vec<Option<Value>>)], configs: &[Keys]) -> (Option<usize>, Vec<String>) {
    let size = axes.iter().try_fold(1usize, |size, (_, values)| size.checked_mul(values.len()));
    let combination = |config: &Keys| -> Vec<usize> {
        let place = |(name, values): &(String, Vec<Option<Value>>)| {
            values.iter().position(|value| value.as_ref() == config.get(name)).unwrap_or(0)
        };
        axes.iter().map(place).collect()
    };
    let present: BTreeSet<Vec<usize>> = configs.iter().map(combination).collect();
    let Some(size) = size.filter(|size| !axes.is_empty() && *size < 2 * present.len()) else {
        return (None, Vec::new());
    };
    let mut missing = Vec::new();
    for index in 0..size {
        let mut rest = index;
        let mut places: Vec<usize> = Vec::new();
        for (_, values) in axes.iter().rev() {
            places.push(rest % values.len());
            rest /= values.len();
        }
        places.reverse();
        if !present.contains(&places) {
            let part = |((key, values), place): (&(String, Vec<Option<Value>>), &usize)| {
                let text = shown(values[*place].as_ref());
                let leaf = key.rsplit('.').next().unwrap_or(key);
                if leaf == "preset" { text } else { format!("{leaf} {text}") }
            };
            missing.push(axes.iter().zip(&places).map(part).collect::<Vec<_>>().join(" "));
        }
    }
    (Some(size), missing)
}

/// A config without the keys that vary.
fn fixed(config: &Config, axes: &[(String, Vec<Option<Value>>)]) -> String {
    let mut shared = config.clone();
    for (key, _) in axes {
        remove(&mut shared, key);
    }
    // What is left of a section whose keys all vary is an empty table.
    toml::to_string_pretty(&shared).unwrap_or_default().trim().to_owned()
}

fn remove(table: &mut Config, key: &str) {
    match key.split_once('.') {
        None => {
            table.remove(key);
        }
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                remove(inner, rest);
                if inner.is_empty() {
                    table.remove(section);
                }
            }
        }
    }
}

/// A config whose grid is `axes`; `None` where a run lacks a key that others have, which no grid can say.
fn sweep(config: &Config, axes: &[(String, Vec<Option<Value>>)]) -> Option<String> {
    let line = |(key, values): &(String, Vec<Option<Value>>)| {
        let values =
            values.iter().map(|value| Some(value.as_ref()?.to_string())).collect::<Option<Vec<_>>>()?;
        let key = if key.contains('.') { format!("\"{key}\"") } else { key.clone() };
        Some(format!("{key} = [{}]\n", values.join(", ")))
    };
    let lines = axes.iter().map(line).collect::<Option<String>>()?;
    Some(format!("{}\n\n[sweep]\n{lines}", fixed(config, axes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(texts: &[&str]) -> Vec<Keys> {
        texts.iter().map(|text| keys(&text.parse().unwrap())).collect()
    }

    fn missing(texts: &[&str]) -> (Option<usize>, Vec<String>) {
        let configs = configs(texts);
        grid(&axes(&configs), &configs)
    }

    #[test]
    fn what_varies_is_listed_in_order_with_the_seed_last() {
        let run = |ffn: &str, seed: u32| format!("seed = {seed}\nmodel.ffn.preset = '{ffn}'\noptim.lr = 0.1");
        let texts = [run("swiglu", 10), run("relu", 9), run("relu", 10), run("swiglu", 9)];
        let found = axes(&configs(&texts.each_ref().map(String::as_str)));
        let text: Vec<String> = found
            .iter()
            .map(|(key, values)| {
                format!("{key}: {}", values.iter().map(|v| shown(v.as_ref())).collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(text, ["model.ffn.preset: relu swiglu", "seed: 9 10"]);
    }

    #[test]
    fn full_precision_is_a_value_where_precisions_vary() {
        let found = axes(&configs(&["seed = 0", "seed = 0\nprecision.preset = 'bf16'"]));
        assert_eq!(found, [(precision::PRESET.to_owned(), vec![Some("fp32".into()), Some("bf16".into())])]);
    }

    #[test]
    fn holes_of_a_grid_are_named_and_settings_by_variant_are_no_holes() {
        let (size, holes) = missing(&["seed = 0\na.x = 1", "seed = 1\na.x = 1", "seed = 0\na.x = 2"]);
        assert_eq!((size, &holes[..]), (Some(4), &["x 2 seed 1".to_owned()][..]));
        let tuned = ["k = 1\nlr = 1", "k = 2\nlr = 2", "k = 3\nlr = 3"];
        assert_eq!(missing(&tuned), (None, Vec::new()));
        assert_eq!(missing(&["seed = 0"]), (None, Vec::new()));
    }

    #[test]
    fn a_whole_grid_becomes_a_config_that_makes_it() {
        let texts = ["seed = 0\n[optim]\nlr = 0.1\neps = 1e-8", "seed = 1\n[optim]\nlr = 0.1\neps = 1e-8"];
        let config: Config = texts[0].parse().unwrap();
        let text = sweep(&config, &axes(&configs(&texts))).unwrap();
        let parsed: Config = text.parse().unwrap();
        assert_eq!(parsed["sweep"]["seed"], Value::Array(vec![0.into(), 1.into()]));
        assert!(parsed.get("seed").is_none() && parsed["optim"]["lr"].as_float() == Some(0.1), "{text}");
    }
}
