//! Grids: every combination of the values that `[sweep]` lists for its keys, and what `[[sweep.where]]` adds to some of
//! them.

use toml::{Table, Value};

use super::cell_name::CellNames;
use super::error::ConfigError;
use super::layers::Layers;
use super::rule::{self, Rule};
use super::{ConfigSource, Override, RunConfig};

/// The axes of a grid, in the order of the file, and its rules.
#[derive(Clone, Debug)]
pub struct Sweep {
    source: ConfigSource,
    axes: Vec<(String, Vec<Value>)>,
    rules: Vec<Rule>,
}

/// One point of a grid.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Name made of the values of the axes, such as `swiglu-seed0`; unique within the grid.
    pub name: String,
    /// The values of the axes.
    pub point: Vec<(String, Value)>,
    /// What this cell sets: the values of the axes, then what rules add.
    pub overrides: Vec<Override>,
    /// The resolved config.
    pub config: RunConfig,
}

/// The key of `[sweep]` that holds rules and not values.
const RULES: &str = "where";

impl Sweep {
    pub(super) fn from_layers(source: &ConfigSource, layers: &Layers) -> Result<Option<Self>, ConfigError> {
        let grids: Vec<&Table> =
            layers.0.iter().filter_map(|layer| layer.table.get("sweep")?.as_table()).collect();
        if grids.is_empty() {
            return Ok(None);
        }
        // A later layer replaces the values of an axis, so that `-o sweep.seed=[7]` narrows a grid; and the rules.
        let mut axes: Vec<(String, Value)> = Vec::new();
        // What an axis could be in any layer: a rule for a value that was narrowed away is no mistake.
        let mut listed: Vec<(String, Value)> = Vec::new();
        let mut rules = None;
        for grid in grids {
            let mut own = Vec::new();
            flatten(grid, "", &mut own);
            for (key, value) in own {
                if key == RULES {
                    rules = Some(value);
                    continue;
                }
                listed.extend(value.as_array().into_iter().flatten().map(|item| (key.clone(), item.clone())));
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
        let rules = match rules {
            Some(rules) => {
                rule::parse(&rules, &listed).map_err(|reason| layers.error("sweep.where", reason))?
            }
            None => Vec::new(),
        };
        Ok(Some(Self { source: source.clone(), axes: checked, rules }))
    }

    /// Every cell, the last axis varying fastest, each resolved and checked.
    ///
    /// # Errors
    /// A key that does not exist or a value out of range, named with its cell.
    pub fn cells(&self) -> Result<Vec<Cell>, ConfigError> {
        let count: usize = self.axes.iter().map(|(_, values)| values.len()).product();
        let names = CellNames::new(&self.axes);
        let mut cells = Vec::with_capacity(count);
        for index in 0..count {
            let mut rest = index;
            let mut point = Vec::new();
            for (key, values) in self.axes.iter().rev() {
                point.push((key.clone(), values[rest % values.len()].clone()));
                rest /= values.len();
            }
            point.reverse();
            cells.push(self.cell(names.of(&point), point)?);
        }
        Ok(cells)
    }

    fn cell(&self, name: String, point: Vec<(String, Value)>) -> Result<Cell, ConfigError> {
        let from_axis = |(key, value): &(String, Value)| Override {
            key: key.clone(),
            typed: format!("[sweep] {key} = {value}"),
            value: value.clone(),
        };
        let from_rule = |(key, value): &(String, Value)| Override {
            key: key.clone(),
            typed: format!("[[sweep.where]] {key} = {value}"),
            value: value.clone(),
        };
        let rules = self.rules.iter().filter(|rule| rule.applies_to(&point));
        let overrides: Vec<Override> = point
            .iter()
            .map(from_axis)
            .chain(rules.flat_map(|rule| rule.set.iter().map(from_rule)))
            .collect();
        let config = self.source.with(&overrides)?.resolve()?;
        Ok(Cell { name, point, overrides, config })
    }

    /// The axes: dotted key and values.
    pub fn axes(&self) -> &[(String, Vec<Value>)] {
        &self.axes
    }

    /// The rules, of which a later one wins.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The config without its grid.
    pub fn source(&self) -> &ConfigSource {
        &self.source
    }

    /// The grid without some of its axes; without any it has a single cell, whose name is empty.
    ///
    /// # Errors
    /// When a rule depends on one of them.
    pub fn without(&self, keys: &[&str]) -> Result<Self, ConfigError> {
        for rule in &self.rules {
            if let Some((key, _)) = rule.when.iter().find(|(key, _)| keys.contains(&key.as_str())) {
                return Err(ConfigError::Invalid {
                    place: "[[sweep.where]]".to_owned(),
                    message: format!(
                        "a rule depends on `{key}`, which is not part of the grid here; remove it"
                    ),
                });
            }
        }
        let axes = self.axes.iter().filter(|(key, _)| !keys.contains(&key.as_str())).cloned().collect();
        Ok(Self { axes, ..self.clone() })
    }

    /// The grid with another axis, which varies fastest.
    pub fn with_axis(&self, key: &str, values: Vec<Value>) -> Self {
        let mut grid = self.clone();
        grid.axes.push((key.to_owned(), values));
        grid
    }

    /// The grid with these rules instead of its own.
    pub fn with_rules(&self, rules: Vec<Rule>) -> Self {
        Self { rules, ..self.clone() }
    }

    /// The config, its grid and its rules as the text of a config file, each rule below its comment; rules for values
    /// that the grid no longer has are left out. `header` becomes the comment at the top, paths of data are absolute,
    /// and `keys` are set on top of the config.
    ///
    /// # Errors
    /// A config that does not resolve.
    pub fn to_toml(&self, header: &str, keys: &[Override]) -> anyhow::Result<String> {
        // The config below the grid need not resolve by itself, since an axis may hold what it lacks; its first cell does.
        let first = self.axes.iter().filter_map(|(key, values)| Some((key.clone(), values.first()?.clone())));
        let resolved = self.cell(String::new(), first.collect())?.config;
        let mut text = comment(header);
        text += &toml::to_string(&self.source.with(keys)?.merged_with_paths_of(&resolved))?;
        text += "\n[sweep]\n";
        for (key, values) in &self.axes {
            let axis = Table::from_iter([(key.clone(), Value::Array(values.clone()))]);
            text += &toml::to_string(&axis)?;
        }
        for rule in self.rules.iter().filter(|rule| rule.can_apply(&self.axes)) {
            text += &format!("\n{}[[sweep.where]]\n", comment(&rule.comment));
            text += &format!("when = {}\nset = {}\n", inline(&rule.when), inline(&rule.set));
        }
        Ok(text)
    }
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect()
}

fn inline(pairs: &[(String, Value)]) -> String {
    Value::Table(pairs.iter().cloned().collect()).to_string()
}

/// Opens nested tables: dotted keys with their values.
pub(super) fn flatten(table: &Table, prefix: &str, pairs: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(inner, &path, pairs),
            other => pairs.push((path, other.clone())),
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

    const RULES: &str = "
[optim]
lr = 1e-3
[sweep]
\"model.ffn.preset\" = [\"relu\", \"swiglu\"]
seed = [0, 1]
[[sweep.where]]
when = { \"model.ffn.preset\" = \"swiglu\" }
set = { \"optim.lr\" = 4e-3, \"schedule.warmup_steps\" = 7 }
[[sweep.where]]
when = { model.ffn.preset = \"swiglu\", seed = 1 }
set = { optim.lr = 5e-3 }
";

    fn rates(cells: &[Cell]) -> Vec<(&str, f64)> {
        cells.iter().map(|cell| (cell.name.as_str(), cell.config.optim.lr)).collect()
    }

    #[test]
    fn rules_set_keys_in_the_cells_that_they_apply_to_and_the_later_wins() {
        let cells = sweep(RULES).unwrap();
        let expected =
            [("relu-seed0", 1e-3), ("relu-seed1", 1e-3), ("swiglu-seed0", 4e-3), ("swiglu-seed1", 5e-3)];
        assert_eq!(rates(&cells), expected);
        let warmup: Vec<u64> = cells.iter().map(|cell| cell.config.schedule.warmup_steps).collect();
        assert_eq!(warmup, [100, 100, 7, 7]);
    }

    #[test]
    fn a_cell_is_the_same_run_however_its_keys_were_set() {
        let typed = "[model.ffn]\npreset = \"swiglu\"\n[optim]\nlr = 4e-3\n[schedule]\nwarmup_steps = 7\n";
        let typed = ConfigSource::from_text("x.toml", typed, &[]).unwrap().resolve().unwrap();
        assert_eq!(sweep(RULES).unwrap()[2].config.run_id("data").unwrap(), typed.run_id("data").unwrap());
    }

    #[test]
    fn a_narrowed_grid_keeps_its_rules_and_can_drop_them() {
        let cells = |overrides: &[&str]| {
            let overrides: Vec<_> = overrides.iter().map(|text| Override::parse(text).unwrap()).collect();
            ConfigSource::from_text("x.toml", RULES, &overrides).unwrap().sweep().unwrap().unwrap().cells()
        };
        let narrowed = cells(&["sweep.model.ffn.preset=[\"relu\"]", "sweep.seed=[7]"]).unwrap();
        assert_eq!(rates(&narrowed), [("relu-seed7", 1e-3)]);
        let narrow = Override::parse("sweep.model.ffn.preset=[\"relu\"]").unwrap();
        let grid = ConfigSource::from_text("x.toml", RULES, &[narrow]).unwrap().sweep().unwrap().unwrap();
        assert_eq!(
            sweep(&grid.to_toml("", &[]).unwrap()).unwrap().len(),
            2,
            "rules that are left would be refused"
        );
        let dropped = cells(&["sweep.where=[]", "sweep.seed=[1]"]).unwrap();
        assert_eq!(rates(&dropped), [("relu-seed1", 1e-3), ("swiglu-seed1", 1e-3)]);
    }

    #[test]
    fn a_grid_survives_being_written() {
        let source = ConfigSource::from_text("x.toml", RULES, &[]).unwrap();
        let grid = source.sweep().unwrap().unwrap();
        let rules = grid.rules().iter().cloned().map(|rule| Rule { comment: "one\ntwo".to_owned(), ..rule });
        let set = Override::parse("optim.eps=1e-6").unwrap();
        let text = grid.with_rules(rules.collect()).to_toml("made by\n\na test", &[set]).unwrap();
        assert!(text.starts_with("# made by\n#\n# a test\n"), "{text}");
        assert!(text.contains("# one\n# two\n[[sweep.where]]\n"), "{text}");
        let read = sweep(&text).unwrap();
        assert_eq!(rates(&read), rates(&grid.cells().unwrap()));
        assert!(read.iter().all(|cell| cell.config.optim.eps == 1e-6));
    }

    #[test]
    fn a_grid_that_holds_what_its_config_lacks_survives_being_written() {
        let text = "model.ffn.kind = \"ungated\"\n[sweep]\n\"model.ffn.activation\" = [\"elu\", \"selu\"]\n";
        let cells = |text: &str| {
            let source = ConfigSource::from_text("x.toml", text, &[]).unwrap();
            assert!(source.resolve().is_err(), "an ungated block without an activation");
            source.sweep().unwrap().unwrap()
        };
        let written = cells(text).to_toml("", &[]).unwrap();
        assert_eq!(cells(&written).cells().unwrap().len(), 2);
    }

    #[test]
    fn axes_can_be_left_out_unless_a_rule_needs_them() {
        let source = ConfigSource::from_text("x.toml", RULES, &[]).unwrap();
        let grid = source.sweep().unwrap().unwrap();
        let error = grid.without(&["seed"]).unwrap_err().to_string();
        assert!(error.contains("depends on `seed`"), "{error}");
        let arms = grid.with_rules(grid.rules()[..1].to_vec()).without(&["seed", "optim.lr"]).unwrap();
        assert_eq!(rates(&arms.cells().unwrap()), [("relu", 1e-3), ("swiglu", 4e-3)]);
        let all = grid.with_rules(Vec::new()).without(&["seed", "model.ffn.preset"]).unwrap();
        assert_eq!(rates(&all.cells().unwrap()), [("", 1e-3)]);
        let seeds = all.with_axis("seed", vec![Value::Integer(5)]).cells().unwrap();
        assert_eq!(rates(&seeds), [("seed5", 1e-3)]);
    }
}
