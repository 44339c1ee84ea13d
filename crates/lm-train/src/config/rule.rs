//! `[[sweep.where]]`: keys that only some cells of a grid set.

use serde::Deserialize;
use toml::{Table, Value};

use super::error::{closest, with_suggestion};
use super::sweep::flatten;

/// One table of `[[sweep.where]]`: in the cells that are at `when`, also `set`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Axes and the value that each must have; never empty.
    pub when: Vec<(String, Value)>,
    /// Keys, none of them an axis, and their values; never empty.
    pub set: Vec<(String, Value)>,
    /// What a file says above the rule; empty for a rule that was read.
    pub comment: String,
}

impl Rule {
    /// Whether a cell with these values of the axes meets all conditions.
    pub fn applies_to(&self, point: &[(String, Value)]) -> bool {
        self.when
            .iter()
            .all(|(key, wanted)| point.iter().any(|(axis, value)| axis == key && same(value, wanted)))
    }

    /// Whether any cell of a grid with these axes can meet all conditions.
    pub(super) fn can_apply(&self, axes: &[(String, Vec<Value>)]) -> bool {
        self.when.iter().all(|(key, wanted)| {
            axes.iter().any(|(axis, values)| axis == key && values.iter().any(|value| same(value, wanted)))
        })
    }
}

/// Equality of TOML values in which 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Integer(i), Value::Float(f)) | (Value::Float(f), Value::Integer(i)) => *i as f64 == *f,
        (a, b) => a == b,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    when: Table,
    set: Table,
}

/// Reads the value of `sweep.where`. `listed` holds every axis with every value that any layer gives it.
///
/// # Errors
/// The reason, without its place: not a list of tables, a condition that no cell can meet, nothing to set.
pub(super) fn parse(rules: &Value, listed: &[(String, Value)]) -> Result<Vec<Rule>, String> {
    const SHAPE: &str =
        "a rule looks like { when = { \"model.ffn.preset\" = \"relu\" }, set = { \"optim.lr\" = 4e-3 } }";
    let Some(rules) = rules.as_array() else {
        return Err(format!("expected a list of rules, written [[sweep.where]]; {SHAPE}"));
    };
    let parse = |(i, rule): (usize, &Value)| {
        let at = |reason: String| format!("rule {}: {reason}", i + 1);
        let table: RuleTable = rule
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| at(format!("{}; {SHAPE}", with_suggestion(error.message()))))?;
        let (mut when, mut set) = (Vec::new(), Vec::new());
        flatten(&table.when, "", &mut when);
        flatten(&table.set, "", &mut set);
        check(&when, &set, listed).map_err(at)?;
        Ok(Rule { when, set, comment: String::new() })
    };
    rules.iter().enumerate().map(parse).collect()
}

fn check(
    when: &[(String, Value)],
    set: &[(String, Value)],
    listed: &[(String, Value)],
) -> Result<(), String> {
    if when.is_empty() {
        return Err("`when` has no condition; a key that all cells share is set outside [sweep]".to_owned());
    }
    if set.is_empty() {
        return Err("`set` sets nothing".to_owned());
    }
    let mut axes: Vec<&str> = Vec::new();
    for (key, _) in listed {
        if !axes.contains(&key.as_str()) {
            axes.push(key);
        }
    }
    for (key, wanted) in when {
        let values: Vec<&Value> =
            listed.iter().filter(|(axis, _)| axis == key).map(|(_, value)| value).collect();
        if values.is_empty() {
            let hint = closest(key, &axes).map_or(String::new(), |best| format!("did you mean `{best}`? "));
            let axes = axes.join(", ");
            return Err(format!(
                "`when` names `{key}`, which the grid does not vary; {hint}it varies {axes}"
            ));
        }
        if !values.iter().any(|value| same(value, wanted)) {
            let values = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!("no cell has {key} = {wanted}; its values are {values}"));
        }
    }
    match set.iter().find(|(key, _)| axes.contains(&key.as_str()) || key.starts_with("sweep.")) {
        Some((key, _)) if axes.contains(&key.as_str()) => {
            Err(format!("`set` names `{key}`, which the grid varies already; take it out of one of them"))
        }
        Some((key, _)) => Err(format!("`set` names `{key}`; a cell has no grid of its own")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConfigSource;
    use super::*;

    fn refused(rule: &str) -> String {
        let text = format!("[sweep]\n\"model.ffn.preset\" = [\"relu\"]\nseed = [0, 1]\n{rule}\n");
        let source = ConfigSource::from_text("x.toml", &text, &[]).unwrap();
        let cells = source.sweep().and_then(|grid| grid.expect("a grid").cells());
        cells.expect_err("it makes no sense").to_string()
    }

    #[test]
    fn rules_that_can_never_apply_are_refused_with_their_place() {
        let unknown =
            refused("[[sweep.where]]\nwhen = { \"model.ffn.prest\" = \"relu\" }\nset = { \"optim.lr\" = 1 }");
        assert!(unknown.starts_with("x.toml:4:9: sweep.where: rule 1: "), "{unknown}");
        assert!(unknown.contains("did you mean `model.ffn.preset`?"), "{unknown}");
        let value = refused("[[sweep.where]]\nwhen = { seed = 2 }\nset = { \"optim.lr\" = 1 }");
        assert!(value.ends_with("rule 1: no cell has seed = 2; its values are 0, 1"), "{value}");
        let all = refused("[[sweep.where]]\nwhen = {}\nset = { \"optim.lr\" = 1 }");
        assert!(all.contains("`when` has no condition"), "{all}");
    }

    #[test]
    fn rules_that_set_nothing_sensible_are_refused() {
        let rule = |set: &str| refused(&format!("[[sweep.where]]\nwhen = {{ seed = 1 }}\nset = {set}"));
        assert!(rule("{}").ends_with("`set` sets nothing"));
        assert!(rule("{ seed = 3 }").contains("which the grid varies already"));
        assert!(rule("{ \"sweep.seed\" = 3 }").contains("no grid of its own"));
        let unknown = rule("{ \"optim.lrr\" = 3 }");
        assert!(
            unknown.starts_with("[[sweep.where]] optim.lrr = 3: unknown field `lrr`, did you mean `lr`?")
        );
        assert!(rule("{ \"optim.lr\" = -1 }").contains("optim.lr: "));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        assert!(refused("where = 3").contains("expected a list of rules"));
        let misspelt = refused("[[sweep.where]]\nwhen = { seed = 1 }\nsets = { \"optim.lr\" = 1 }");
        assert!(misspelt.contains("unknown field `sets`, did you mean `set`?"), "{misspelt}");
        assert!(refused("[[sweep.where]]\nwhen = { seed = 1 }").contains("missing field `set`"));
    }

    #[test]
    fn numbers_match_by_size() {
        let rule = Rule {
            when: vec![("a".to_owned(), Value::Integer(1))],
            set: vec![("b".to_owned(), Value::Integer(1))],
            comment: String::new(),
        };
        assert!(rule.applies_to(&[("a".to_owned(), Value::Float(1.0))]));
        assert!(!rule.applies_to(&[("a".to_owned(), Value::Float(1.5))]));
        assert!(!rule.applies_to(&[("b".to_owned(), Value::Integer(1))]));
    }
}
