//! Names of the cells of a grid.

use std::collections::BTreeSet;

use toml::Value;

/// How values are written in the names of cells: `relu-seed0`, `elu-lr0.001`.
///
/// A preset says by itself what it is. So does another word that no other axis has; values that two axes share, and
/// everything that is not a word, follow the last part of their key, such as in `gaterelu-upelu-seed0`. Words have no
/// hyphens, so different cells have different names.
#[derive(Debug)]
pub(super) struct CellNames {
    /// By axis: whether its values stand by themselves.
    bare: Vec<bool>,
}

impl CellNames {
    pub fn new(axes: &[(String, Vec<Value>)]) -> Self {
        let texts: Vec<BTreeSet<String>> =
            axes.iter().map(|(_, values)| values.iter().map(written).collect()).collect();
        let others =
            |i: usize| texts.iter().enumerate().filter(move |(j, _)| i != *j).map(|(_, texts)| texts);
        let is_bare = |(i, (key, values)): (usize, &(String, Vec<Value>))| {
            leaf(key) == "preset"
                || values.iter().all(is_word) && others(i).all(|theirs| texts[i].is_disjoint(theirs))
        };
        Self { bare: axes.iter().enumerate().map(is_bare).collect() }
    }

    /// The name of the cell at `point`, a key and a value for every axis in order.
    pub fn of(&self, point: &[(String, Value)]) -> String {
        let part = |((key, value), bare): (&(String, Value), &bool)| {
            let value = written(value);
            if *bare { value } else { format!("{}{value}", leaf(key)) }
        };
        point.iter().zip(&self.bare).map(part).collect::<Vec<_>>().join("-")
    }
}

/// The last part of a dotted key.
fn leaf(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// Whether a value is a name such as `elu` or `fp8_delayed`.
fn is_word(value: &Value) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    value.as_str().is_some_and(|text| text.starts_with(char::is_alphabetic) && text.chars().all(is_part))
}

/// A value as it can stand in the name of a folder.
fn written(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_alphanumeric() || ".-+_".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of all cells of a grid, given as TOML.
    fn names(grid: &str) -> Vec<String> {
        let table: toml::Table = grid.parse().unwrap();
        let axes: Vec<(String, Vec<Value>)> =
            table.into_iter().map(|(key, values)| (key, values.as_array().unwrap().clone())).collect();
        let mut points: Vec<Vec<(String, Value)>> = vec![Vec::new()];
        for (key, values) in &axes {
            let longer = |point: &Vec<(String, Value)>, value: &Value| {
                point.iter().cloned().chain([(key.clone(), value.clone())]).collect()
            };
            points = points
                .iter()
                .flat_map(|point| values.iter().map(move |value| longer(point, value)))
                .collect();
        }
        let names = CellNames::new(&axes);
        points.iter().map(|point| names.of(point)).collect()
    }

    #[test]
    fn words_stand_by_themselves_and_numbers_follow_their_key() {
        assert_eq!(
            names("'model.ffn.activation' = ['elu', 'selu']\n'optim.lr' = [1e-3]\nseed = [3]"),
            ["elu-lr0.001-seed3", "selu-lr0.001-seed3"]
        );
        assert_eq!(
            names("'schedule.kind' = ['wsd', '3-part']"),
            ["kindwsd", "kind3-part"],
            "not all are words"
        );
        assert_eq!(names("'optim.lr' = [-1]\n'data.train' = [['a b.txt']]"), ["lr-1-train__a_b.txt__"]);
    }

    #[test]
    fn values_that_two_axes_share_are_told_apart_by_their_keys() {
        assert_eq!(
            names("'model.ffn.gate' = ['relu', 'tanh']\n'model.ffn.up' = ['relu', 'elu']"),
            ["gaterelu-uprelu", "gaterelu-upelu", "gatetanh-uprelu", "gatetanh-upelu"]
        );
        // A preset keeps its name; the other axis gives way.
        assert_eq!(
            names("'precision.preset' = ['fp32', 'bf16']\n'precision.down_input.format' = ['bf16']"),
            ["fp32-formatbf16", "bf16-formatbf16"]
        );
        assert_eq!(
            names("'model.ffn.gate' = ['silu']\n'model.ffn.up' = ['identity', 'tanh']"),
            ["silu-identity", "silu-tanh"]
        );
    }
}
