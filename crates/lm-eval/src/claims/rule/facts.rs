//! What a rule is about: its name, its parts, what decides it, its arms and what it measures.

use std::collections::BTreeSet;

use super::Rule;
use crate::claims::metric::Metric;

impl Rule {
    /// Its name in a file: `[rule.NAME]`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Less(_) => "less",
            Self::Greater(_) => "greater",
            Self::AtMost(_) => "at_most",
            Self::Equivalent(_) => "equivalent",
            Self::Monotone(_) => "monotone",
            Self::Interaction(_) => "interaction",
            Self::Decomposition(_) => "decomposition",
            Self::Trend(_) => "trend",
            Self::Value(_) => "value",
            Self::Exact(_) => "exact",
            Self::ActivationCost(_) => "activation_cost",
            Self::All(_) => "all",
            Self::NotYetTestable(_) => "not_yet_testable",
        }
    }

    /// The kinds of its parts, each once, in words.
    pub fn kinds(&self) -> String {
        let mut kinds: Vec<String> = Vec::new();
        for kind in self.parts().iter().map(|part| part.kind().replace('_', " ")) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds.join(", ")
    }

    /// The rules that it combines, or itself.
    pub const fn parts(&self) -> &[Self] {
        match self {
            Self::All(parts) => parts.as_slice(),
            Self::Less(_)
            | Self::Greater(_)
            | Self::AtMost(_)
            | Self::Equivalent(_)
            | Self::Monotone(_)
            | Self::Interaction(_)
            | Self::Decomposition(_)
            | Self::Trend(_)
            | Self::Value(_)
            | Self::Exact(_)
            | Self::ActivationCost(_)
            | Self::NotYetTestable(_) => std::slice::from_ref(self),
        }
    }

    /// What its parts are decided by, each kind once.
    pub fn decided_by(&self) -> BTreeSet<DecidedBy<'_>> {
        match self {
            Self::Less(_)
            | Self::Greater(_)
            | Self::AtMost(_)
            | Self::Equivalent(_)
            | Self::Monotone(_)
            | Self::Interaction(_)
            | Self::Decomposition(_)
            | Self::Trend(_)
            | Self::Value(_) => BTreeSet::from([DecidedBy::Runs]),
            Self::Exact(_) => BTreeSet::from([DecidedBy::Computation]),
            Self::ActivationCost(_) => BTreeSet::from([DecidedBy::Timing]),
            Self::All(parts) => parts.iter().flat_map(Self::decided_by).collect(),
            Self::NotYetTestable(rule) => BTreeSet::from([DecidedBy::Nothing { missing: &rule.missing }]),
        }
    }

    /// Whether runs decide it, alone or with something else.
    pub fn decided_by_runs(&self) -> bool {
        self.decided_by().contains(&DecidedBy::Runs)
    }

    /// What ffnlab lacks to test it; `None` if nothing.
    pub fn missing(&self) -> Option<&str> {
        self.decided_by().into_iter().find_map(|by| match by {
            DecidedBy::Nothing { missing } => Some(missing),
            DecidedBy::Runs | DecidedBy::Timing | DecidedBy::Computation => None,
        })
    }

    /// The arms that it names, each once or more.
    pub fn arms(&self) -> Vec<&str> {
        match self {
            Self::Less(sides) | Self::Greater(sides) => names(sides.arms.iter().chain(&sides.than)),
            Self::AtMost(rule) => names(rule.arms.iter().chain(&rule.than)),
            Self::Equivalent(rule) => names(rule.arms.iter().chain(&rule.than)),
            Self::Monotone(rule) => names(&rule.order),
            Self::Interaction(rule) => names(rule.pairs.iter().flatten().chain(&rule.against)),
            Self::Decomposition(rule) => names(rule.levels.keys()),
            Self::Trend(rule) => names(rule.points.iter().flat_map(|p| [&p.arm].into_iter().chain(&p.minus))),
            Self::Value(rule) => vec![rule.arm.as_str()],
            Self::All(parts) => parts.iter().flat_map(Self::arms).collect(),
            Self::Exact(_) | Self::ActivationCost(_) | Self::NotYetTestable(_) => Vec::new(),
        }
    }

    /// What one rule measures in runs; `None` where nothing is, and for several rules, which may differ.
    pub const fn metric(&self) -> Option<Metric> {
        match self {
            Self::Less(rule) | Self::Greater(rule) => Some(rule.metric),
            Self::AtMost(rule) => Some(rule.metric),
            Self::Equivalent(rule) => Some(rule.metric),
            Self::Monotone(rule) => Some(rule.metric),
            Self::Interaction(rule) => Some(rule.metric),
            Self::Decomposition(rule) => Some(rule.metric),
            Self::Trend(rule) => Some(rule.metric),
            Self::Value(rule) => Some(rule.metric),
            Self::Exact(_) | Self::ActivationCost(_) | Self::All(_) | Self::NotYetTestable(_) => None,
        }
    }

    /// The unit of one rule's comparisons; empty for shares and ratios.
    pub fn unit(&self) -> String {
        match self {
            Self::Trend(rule) => {
                format!("{} per unit of {}", rule.metric.unit(), rule.along).trim().to_owned()
            }
            Self::Less(_)
            | Self::Greater(_)
            | Self::AtMost(_)
            | Self::Equivalent(_)
            | Self::Monotone(_)
            | Self::Interaction(_)
            | Self::Value(_) => self.metric().map_or("", Metric::unit).to_owned(),
            Self::Decomposition(_)
            | Self::Exact(_)
            | Self::ActivationCost(_)
            | Self::All(_)
            | Self::NotYetTestable(_) => String::new(),
        }
    }
}

/// What a rule is decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DecidedBy<'a> {
    /// Runs.
    Runs,
    /// Computation: the same answer whenever it is asked for, within seconds.
    Computation,
    /// Timing on this machine, anew whenever a verdict is asked for.
    Timing,
    /// Nothing that ffnlab has.
    Nothing {
        /// The parts that are missing.
        missing: &'a str,
    },
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    names.into_iter().map(String::as_str).collect()
}
