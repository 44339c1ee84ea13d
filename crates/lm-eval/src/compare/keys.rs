//! A resolved config as a flat list of dotted keys: what makes two runs the same experiment, and how to say how they
//! differ.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::precision;

/// Keys that never make two runs different experiments: the seed, paths (the fingerprint of the data stands for what
/// they hold), and when to look and to save.
const IGNORED: [&str; 11] = [
    "seed",
    "data.train",
    "data.valid",
    "tokenizer.file",
    "train.eval_every",
    "train.eval_sequences",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.alignment_every",
    "train.probe_every",
    "train.sparsity_every",
];

/// The peak learning rate.
pub(crate) const LR: &str = "optim.lr";

/// Stands for the contents of the data, which the config names only by path.
pub(crate) const DATA: &str = "data_fingerprint";

/// What a config says about an experiment, by dotted key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys(BTreeMap<String, Value>);

impl Keys {
    /// Flattens a resolved config; tables are opened, arrays are values.
    pub(crate) fn new(config: &Table, data_fingerprint: &str) -> Self {
        let mut keys = BTreeMap::new();
        flatten(config, "", &mut keys);
        keys.retain(|key, _| !IGNORED.contains(&key.as_str()));
        keys.insert(DATA.to_owned(), Value::String(data_fingerprint.to_owned()));
        Self(keys)
    }

    /// A key's value as a label shows it; `none` for a key that this config lacks, `fp32` for a precision left out.
    pub(crate) fn show(&self, key: &str) -> String {
        match self.0.get(key) {
            None if key == precision::PRESET => precision::FULL.to_owned(),
            None => "none".to_owned(),
            Some(Value::String(text)) if key == DATA => text.chars().take(8).collect(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }

    /// The value of a key; `None` for a key that this config lacks.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The same without the keys that `dropped` names.
    pub(crate) fn without(&self, dropped: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(key, _)| !dropped(key)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// The same with another value for one key.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.0.insert(key.to_owned(), value);
        self
    }

    /// Whether two configs say the same about everything but `sections`, prefixes such as `optim.`.
    pub(super) fn equal_outside(&self, other: &Self, sections: &[&str]) -> bool {
        let outside = |(key, _): &(&String, &Value)| !sections.iter().any(|section| key.starts_with(section));
        self.0.iter().filter(outside).eq(other.0.iter().filter(outside))
    }

    /// The peak learning rate; `None` for a config that does not say it.
    pub(super) fn learning_rate(&self) -> Option<f64> {
        let rate = self.0.get(LR)?;
        rate.as_float().or(rate.as_integer().map(|rate| rate as f64))
    }

    /// Orders two configs by the values of `key`: numbers by size, everything else as text.
    pub(super) fn compare_by(&self, other: &Self, key: &str) -> Ordering {
        let number = |keys: &Self| match keys.0.get(key) {
            Some(Value::Integer(i)) => Some(*i as f64),
            Some(Value::Float(f)) => Some(*f),
            Some(_) | None => None,
        };
        match (number(self), number(other)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (Some(_), None) | (None, Some(_)) | (None, None) => self.show(key).cmp(&other.show(key)),
        }
    }
}

/// Keys that do not have the same value in all `configs`, sorted.
pub(crate) fn differing<'a>(configs: impl IntoIterator<Item = &'a Keys> + Clone) -> Vec<String> {
    let all: BTreeSet<&String> = configs.clone().into_iter().flat_map(|keys| keys.0.keys()).collect();
    let differs = |key: &&String| {
        let mut values = configs.clone().into_iter().map(|keys| keys.0.get(*key));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    all.into_iter().filter(differs).cloned().collect()
}

/// The shortest end of the dotted `key`, cut at a dot, that no other key of `configs` ends in.
pub(super) fn short<'k, 'a>(key: &'k str, configs: impl IntoIterator<Item = &'a Keys>) -> &'k str {
    let all: BTreeSet<&str> =
        configs.into_iter().flat_map(|keys| keys.0.keys().map(String::as_str)).chain(IGNORED).collect();
    let ends_in = |other: &str, suffix: &str| {
        other.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    let cuts = key.rmatch_indices('.').map(|(dot, _)| &key[dot + 1..]);
    cuts.into_iter()
        .find(|suffix| all.iter().filter(|other| ends_in(other, suffix)).count() == 1)
        .unwrap_or(key)
}

/// Writes the values of `table` by dotted key, each with `prefix` before it; tables are opened, arrays are values.
pub(crate) fn flatten(table: &Table, prefix: &str, into: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(inner, &path, into),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                into.insert(path, value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(toml: &str) -> Keys {
        Keys::new(&toml.parse().unwrap(), "0123456789abcdef")
    }

    #[test]
    fn seed_paths_and_saving_do_not_count() {
        let a = keys("seed = 1\ndata.train = ['a.txt']\ntrain.eval_every = 5\noptim.lr = 1e-3");
        let b = keys("seed = 2\ndata.train = ['b.txt']\ntrain.checkpoint_every = 7\noptim.lr = 1e-3");
        assert_eq!(a, b);
        assert_ne!(a, keys("optim.lr = 2e-3"));
        assert_ne!(a, Keys::new(&"optim.lr = 1e-3".parse().unwrap(), "other data"));
    }

    #[test]
    fn differing_keys_include_those_only_one_config_has() {
        let (a, b) =
            (keys("optim = { lr = 1, eps = 2 }"), keys("optim = { lr = 3, eps = 2 }\ntrain.steps = 4"));
        assert_eq!(differing([&a, &b]), ["optim.lr", "train.steps"]);
        assert_eq!((a.show("train.steps"), b.show("train.steps")), ("none".to_owned(), "4".to_owned()));
        assert_eq!(a.show(precision::PRESET), "fp32");
        assert_eq!(a.show(DATA), "01234567");
    }

    #[test]
    fn a_section_can_be_left_out_of_account() {
        let plain = keys("optim.lr = 1\nprecisions = 2");
        assert!(
            plain.equal_outside(
                &keys("optim.lr = 1\nprecisions = 2\nprecision.preset = 'x'"),
                &["precision."]
            )
        );
        assert!(!plain.equal_outside(&keys("optim.lr = 2\nprecisions = 2"), &["precision."]));
        assert!(plain.equal_outside(&keys("optim.lr = 2\nprecisions = 2"), &["precision.", LR]));
        assert_eq!((plain.learning_rate(), keys("seed = 1").learning_rate()), (Some(1.0), None));
        assert!(
            !plain.equal_outside(&keys("optim.lr = 1"), &["precision."]),
            "another key with that beginning"
        );
    }

    #[test]
    fn short_names_stay_unambiguous() {
        let config = keys(
            "schedule.kind = 'x'\ntokenizer.kind = 'y'\nschedule.warmup_steps = 1\ntrain.steps = 2\ndata.synthetic.seed = 3",
        );
        let short = |key| short(key, [&config]);
        assert_eq!(short("schedule.kind"), "schedule.kind");
        assert_eq!(short("train.steps"), "steps");
        assert_eq!(short("schedule.warmup_steps"), "warmup_steps");
        assert_eq!(short("data.synthetic.seed"), "synthetic.seed", "the run's own seed is called seed");
    }

    #[test]
    fn numbers_are_ordered_by_size() {
        let (a, b) = (keys("lr = 1e-4"), keys("lr = 0.01"));
        assert_eq!(a.compare_by(&b, "lr"), Ordering::Less);
        let (a, b) = (keys("n = 9"), keys("n = 10"));
        assert_eq!(a.compare_by(&b, "n"), Ordering::Less);
        assert_eq!(a.compare_by(&b, "missing"), Ordering::Equal);
    }
}
