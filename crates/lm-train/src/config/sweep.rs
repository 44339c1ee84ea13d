//! Grids: every combination of the values that `[sweep]` lists for its keys.

use toml::{Table, Value};

use super::error::ConfigError;
use super::layers::Layers;
use super::{ConfigSource, Override, RunConfig};

/// The axes of a grid, in the order of the file.
#[derive(Clone, Debug)]
pub struct Sweep {
    source: ConfigSource,
    axes: Vec<(String, Vec<Value>)>,
}

/// One point of a grid.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Name made of the values, such as `swiglu-seed0`; unique within the grid.
    pub name: String,
    /// What this cell sets.
    pub overrides: Vec<Override>,
    /// The resolved config.
    pub config: RunConfig,
}

impl Sweep {
    pub(super) fn from_layers(source: &ConfigSource, layers: &Layers) -> Result<Option<Self>, ConfigError> {
        let grids: Vec<&Table> =
            layers.0.iter().filter_map(|layer| layer.table.get("sweep")?.as_table()).collect();
        if grids.is_empty() {
            return Ok(None);
        }
        // A later layer replaces the values of an axis, so that `-o sweep.seed=[7]` narrows a grid.
        let mut axes: Vec<(String, Value)> = Vec::new();
        for grid in grids {
            let mut own = Vec::new();
            flatten(grid, "", &mut own);
            for (key, value) in own {
                match axes.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, old)) => *old = value,
                    None => axes.push((key, value)),
                }
            }
        }
        if axes.is_empty() {
            return Err(
                layers.error("sweep", "the grid is empty; list values, such as \"optim.lr\" = [1e-3, 3e-3]")
            );
        }
        let mut checked = Vec::new();
        for (key, value) in axes {
            match value {
                Value::Array(values) if !values.is_empty() => checked.push((key, values)),
                Value::Array(_) => return Err(layers.error("sweep", format!("`{key}` has no values"))),
                other => {
                    let reason = format!("`{key}` must list its values, such as [{other}]");
                    return Err(layers.error("sweep", reason));
                }
            }
        }
        Ok(Some(Self { source: source.clone(), axes: checked }))
    }

    /// Every cell, the last axis varying fastest, each resolved and checked.
    ///
    /// # Errors
    /// A key that does not exist or a value out of range, named with its cell.
    pub fn cells(&self) -> Result<Vec<Cell>, ConfigError> {
        let count: usize = self.axes.iter().map(|(_, values)| values.len()).product();
        let mut cells = Vec::with_capacity(count);
        for index in 0..count {
            let mut rest = index;
            let mut overrides = Vec::new();
            for (key, values) in self.axes.iter().rev() {
                let value = values[rest % values.len()].clone();
                rest /= values.len();
                overrides.push(Override {
                    key: key.clone(),
                    typed: format!("[sweep] {key} = {value}"),
                    value,
                });
            }
            overrides.reverse();
            let config = self.source.with(&overrides)?.resolve()?;
            let name = overrides.iter().map(cell_part).collect::<Vec<_>>().join("-");
            cells.push(Cell { name, overrides, config });
        }
        Ok(cells)
    }

    /// The axes: dotted key and values.
    pub fn axes(&self) -> &[(String, Vec<Value>)] {
        &self.axes
    }
}

/// `model.ffn.preset = "swiglu"` reads best as `swiglu`; other keys keep their last part: `seed0`, `lr0.001`.
fn cell_part(item: &Override) -> String {
    let leaf = item.key.rsplit('.').next().unwrap_or(&item.key);
    let value = match &item.value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let value: String =
        value.chars().map(|c| if c.is_alphanumeric() || ".-+_".contains(c) { c } else { '_' }).collect();
    if leaf == "preset" { value } else { format!("{leaf}{value}") }
}

fn flatten(table: &Table, prefix: &str, axes: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(inner, &path, axes),
            other => axes.push((path, other.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(text: &str) -> Result<Vec<Cell>, ConfigError> {
        let source = ConfigSource::from_text("x.toml", text, &[])?;
        source.resolve()?;
        source.sweep()?.expect("a grid").cells()
    }

    #[test]
    fn expands_every_combination_in_order() {
        let cells =
            sweep("[sweep]\n\"model.ffn.preset\" = [\"relu\", \"swiglu\"]\nseed = [0, 1, 2]\n").unwrap();
        let names: Vec<&str> = cells.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            names,
            ["relu-seed0", "relu-seed1", "relu-seed2", "swiglu-seed0", "swiglu-seed1", "swiglu-seed2"]
        );
        assert_eq!(cells[5].config.seed, 2);
        assert_ne!(cells[0].config.model.ffn, cells[3].config.model.ffn);
    }

    #[test]
    fn bad_grids_are_refused_with_the_reason() {
        assert!(
            sweep("[sweep]\n\"optim.lrr\" = [1]\n").unwrap_err().to_string().contains("did you mean `lr`")
        );
        assert!(sweep("[sweep]\nseed = 3\n").unwrap_err().to_string().contains("[3]"));
        assert!(sweep("[sweep]\n").unwrap_err().to_string().contains("empty"));
        assert!(sweep("[sweep]\noptim.lr = [1e-3, -1.0]\n").unwrap_err().to_string().contains("optim.lr"));
    }
}
