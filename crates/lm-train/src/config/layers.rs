//! A config as a stack of layers (base file, file, overrides) in which the later wins.
//!
//! Merging happens on TOML tables; which layer set a key is asked again only when an error has to name its place.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::{ConfigError, with_suggestion};
use super::place::{line_column, span_of};
use super::{ConfigFile, RunConfig};

/// Where a layer comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A file and its text.
    File { path: PathBuf, text: String },
    /// `-o key=value`, or a cell of a sweep, as typed.
    Override(String),
}

/// One layer: its place and what it sets.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub origin: Origin,
    pub table: Table,
}

/// Keys of which one layer may set only those of one group, and whose upper layer displaces the other groups below.
const EXCLUSIVE: [&[&[&str]]; 4] = [
    &[&["model.ffn.preset"], &["model.ffn.kind", "model.ffn.activation", "model.ffn.gate", "model.ffn.up"]],
    &[&["model.ffn.width.exact"], &["model.ffn.width.param_matched", "model.ffn.width.multiple_of"]],
    &[&["train.steps"], &["train.tokens"]],
    &[&["data.valid"], &["data.valid_fraction"]],
];

impl Layer {
    /// Checks that every key of the layer exists and has the right type.
    pub fn check(&self) -> Result<(), ConfigError> {
        let result = match &self.origin {
            Origin::File { text, .. } => toml::from_str::<ConfigFile>(text).map(|_| ()),
            Origin::Override(_) => ConfigFile::deserialize_table(&self.table),
        };
        result
            .map_err(|error| self.error_at(error.span().map(|s| s.start), &with_suggestion(error.message())))
    }

    /// An error at a byte offset of the layer's text.
    pub fn error_at(&self, offset: Option<usize>, message: &str) -> ConfigError {
        match &self.origin {
            Origin::File { path, text } => {
                ConfigError::at_offset(&path.display().to_string(), text, offset, message)
            }
            Origin::Override(typed) => {
                ConfigError::Invalid { place: typed.clone(), message: message.to_owned() }
            }
        }
    }

    fn place_of(&self, path: &[&str]) -> Option<String> {
        let mut value = self.table.get(path[0])?;
        for part in &path[1..] {
            match value.as_table().and_then(|t| t.get(*part)) {
                Some(inner) => value = inner,
                None => return None,
            }
        }
        match &self.origin {
            Origin::File { path: file, text } => {
                let (line, column) = line_column(text, span_of(text, path)?.start);
                Some(format!("{}:{line}:{column}", file.display()))
            }
            Origin::Override(typed) => Some(typed.clone()),
        }
    }

    /// Folder against which the layer's relative paths are resolved.
    fn folder(&self) -> Option<&Path> {
        match &self.origin {
            Origin::File { path, .. } => path.parent(),
            Origin::Override(_) => None,
        }
    }
}

impl ConfigFile {
    fn deserialize_table(table: &Table) -> Result<(), toml::de::Error> {
        table.clone().try_into::<ConfigFile>().map(|_| ())
    }
}

/// The stack, lowest layer first.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers(pub Vec<Layer>);

impl Layers {
    /// All layers as one table.
    pub fn merged(&self) -> Table {
        let mut merged = Table::new();
        for layer in &self.0 {
            for groups in EXCLUSIVE {
                let sets = |group: &[&str]| group.iter().any(|key| get(&layer.table, key).is_some());
                for (i, _) in groups.iter().enumerate().filter(|(_, group)| sets(group)) {
                    for other in groups.iter().enumerate().filter(|(j, _)| *j != i) {
                        other.1.iter().for_each(|key| remove(&mut merged, key));
                    }
                }
            }
            merge(&mut merged, &layer.table);
        }
        merged.remove("base");
        merged.remove("sweep");
        merged
    }

    /// The merged, typed config (ranges not yet checked).
    pub fn resolve(&self) -> Result<RunConfig, ConfigError> {
        self.merged().try_into::<RunConfig>().map_err(|error| {
            let top = self.0.last().map_or_else(
                || "config".to_owned(),
                |layer| match &layer.origin {
                    Origin::File { path, .. } => path.display().to_string(),
                    Origin::Override(typed) => typed.clone(),
                },
            );
            ConfigError::Invalid { place: top, message: with_suggestion(error.message()) }
        })
    }

    /// Place of the topmost layer that sets the dotted `key`; for keys nobody set, of the nearest parent.
    pub fn place_of(&self, key: &str) -> String {
        let path: Vec<&str> = key.split('.').collect();
        for depth in (1..=path.len()).rev() {
            if let Some(place) = self.0.iter().rev().find_map(|layer| layer.place_of(&path[..depth])) {
                return place;
            }
        }
        match self
            .0
            .iter()
            .rev()
            .find_map(|l| if let Origin::File { path, .. } = &l.origin { Some(path) } else { None })
        {
            Some(path) => format!("{} (default of {key})", path.display()),
            None => format!("default of {key}"),
        }
    }

    /// Value of `key` after merging, when a layer sets it.
    pub fn merged_value(&self, key: &str) -> Option<Value> {
        get(&self.merged(), key).cloned()
    }

    /// Folder of the topmost layer that sets `key`.
    pub fn folder_of(&self, key: &str) -> Option<&Path> {
        self.0.iter().rev().find(|layer| get(&layer.table, key).is_some()).and_then(Layer::folder)
    }

    /// An error at the place of `key`.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> ConfigError {
        ConfigError::Invalid { place: self.place_of(key), message: format!("{key}: {message}") }
    }
}

pub(super) fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (parents, leaf) = key.rsplit_once('.').map_or((None, key), |(p, l)| (Some(p), l));
    let parent = match parents {
        None => table,
        Some(parents) => parents.split('.').try_fold(table, |t, part| t.get(part)?.as_table())?,
    };
    parent.get(leaf)
}

/// The value of a dotted key, to be replaced.
pub(super) fn get_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((head, rest)) => get_mut(table.get_mut(head)?.as_table_mut()?, rest),
    }
}

fn remove(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => {
            table.remove(key);
        }
        Some((head, rest)) => {
            if let Some(inner) = table.get_mut(head).and_then(Value::as_table_mut) {
                remove(inner, rest);
            }
        }
    }
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A table that sets one dotted key.
pub(super) fn nested(key: &str, value: Value) -> Table {
    let mut table = Table::new();
    match key.split_once('.') {
        None => table.insert(key.to_owned(), value),
        Some((head, rest)) => table.insert(head.to_owned(), Value::Table(nested(rest, value))),
    };
    table
}
