//! Rules whose numbers or arms make no sense.

use super::{Rule, Value};

impl Rule {
    /// What is wrong with its numbers, with the key; `None` if nothing is.
    pub(in crate::claims) fn mistake(&self) -> Option<String> {
        let above_zero = |key: &str, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| format!("{key} = {value} must be above 0"))
        };
        let some = |key: &str, arms: &[String], least: usize| {
            (arms.len() < least).then(|| format!("{key} needs at least {least} of [arms]"))
        };
        match self {
            Self::Less(rule) | Self::Greater(rule) => some("arms", &rule.arms, 1)
                .or(some("than", &rule.than, 1))
                .or(above_zero("smallest_effect", rule.smallest_effect))
                .or((!(0.0..=rule.smallest_effect).contains(&rule.threshold)).then(|| {
                    format!(
                        "threshold = {} must lie between 0 and smallest_effect = {}",
                        rule.threshold, rule.smallest_effect
                    )
                })),
            Self::AtMost(rule) => some("arms", &rule.arms, 1)
                .or(some("than", &rule.than, 1))
                .or(above_zero("bound", rule.bound)),
            Self::Equivalent(rule) => some("arms", &rule.arms, 1)
                .or(some("than", &rule.than, 1))
                .or(above_zero("margin", rule.margin)),
            Self::Monotone(rule) => {
                some("order", &rule.order, 2).or(above_zero("smallest_effect", rule.smallest_effect))
            }
            Self::Interaction(rule) => rule
                .pairs
                .is_empty()
                .then(|| "pairs needs at least one pair of [arms]".to_owned())
                .or(above_zero("smallest_effect", rule.smallest_effect)),
            Self::Decomposition(rule) => {
                let factors = [&rule.larger, &rule.smaller];
                let lacking = rule.levels.iter().find_map(|(arm, levels)| {
                    let factor = factors.iter().find(|factor| !levels.contains_key(**factor))?;
                    Some(format!("levels.{arm} lacks a level of \"{factor}\""))
                });
                lacking.or(above_zero("smallest_effect", rule.smallest_effect))
            }
            Self::Trend(rule) => {
                let first = rule.points.first().map(|point| point.x);
                let distinct = rule.points.iter().any(|point| Some(point.x) != first);
                (!distinct)
                    .then(|| "points needs at least two different x".to_owned())
                    .or(above_zero("smallest_effect", rule.smallest_effect))
            }
            Self::Value(rule) => rule.mistake(),
            Self::Exact(computation) => computation.mistake(),
            Self::ActivationCost(cost) => cost.mistake(),
            Self::All(parts) => mistake_of_all(parts),
            Self::NotYetTestable(_) => None,
        }
    }
}

fn mistake_of_all(parts: &[Rule]) -> Option<String> {
    if parts.len() < 2 {
        return Some("needs at least two rules".to_owned());
    }
    parts.iter().enumerate().find_map(|(i, part)| {
        let wrong = match part {
            Rule::All(_) | Rule::NotYetTestable(_) => Some("cannot be one of several rules".to_owned()),
            Rule::Less(_)
            | Rule::Greater(_)
            | Rule::AtMost(_)
            | Rule::Equivalent(_)
            | Rule::Monotone(_)
            | Rule::Interaction(_)
            | Rule::Decomposition(_)
            | Rule::Trend(_)
            | Rule::Value(_)
            | Rule::Exact(_)
            | Rule::ActivationCost(_) => part.mistake(),
        };
        wrong.map(|wrong| format!("rule {} of {}, {}: {wrong}", i + 1, parts.len(), part.kind()))
    })
}

impl Value {
    fn mistake(&self) -> Option<String> {
        let (Some(bound), Some(_)) = (self.below.or(self.above), self.claimed()) else {
            return Some("needs one bound: below or above".to_owned());
        };
        let effect = self.smallest_effect;
        if !bound.is_finite() {
            Some(format!("the bound {bound} must be a finite number"))
        } else if !(effect.is_finite() && effect >= 0.0) {
            Some(format!("smallest_effect = {effect} must not be below 0"))
        } else if bound == 0.0 && effect == 0.0 {
            Some("smallest_effect must be above 0 where the bound is 0".to_owned())
        } else {
            None
        }
    }
}
