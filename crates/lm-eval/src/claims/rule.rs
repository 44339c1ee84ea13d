//! The closed set of rules by which runs decide a claim, as a claim's file states them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exact::Computation;
use super::metric::Metric;

/// How a claim is decided. In a file it is the table `[rule.KIND]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// `arms` have less of the metric than `than`.
    Less(Sides),
    /// `arms` have more of the metric than `than`.
    Greater(Sides),
    /// `arms` have at most `bound` more of the metric than `than`.
    AtMost(AtMost),
    /// `arms` and `than` are the same to within a margin (two one-sided tests).
    Equivalent(Equivalent),
    /// The metric rises or falls from each arm to the next.
    Monotone(Monotone),
    /// A difference between two arms is larger than the difference between two others.
    Interaction(Interaction),
    /// One factor accounts for more of the variance than another.
    Decomposition(Shares),
    /// The metric, or a difference of it, rises or falls with a number that the arms carry (least squares within a seed).
    Trend(Trend),
    /// Decided by computation, without training.
    Exact(Computation),
    /// Decided by a value that a probe reads from trained models.
    Probe(ProbeRule),
    /// Needs a part that ffnlab does not have.
    NotYetTestable(Missing),
}

/// Which way a metric goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Down.
    Falls,
    /// Up.
    Rises,
}

/// How groups of arms are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Every arm of the one with every arm of the other; the claim must hold for each.
    #[default]
    Each,
    /// The mean of the one with the mean of the other: a single comparison.
    Mean,
}

/// Two groups of arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sides {
    /// What is measured.
    pub metric: Metric,
    /// Arms that the claim is about.
    pub arms: Vec<String>,
    /// Arms that they are compared with.
    pub than: Vec<String>,
    /// Each with each, or means.
    #[serde(default)]
    pub over: Over,
    /// The interval must lie beyond this, on the claimed side. 0 if left out.
    #[serde(default)]
    pub threshold: f64,
    /// Smallest effect of interest: where all of the interval is smaller, the claim is refuted.
    pub smallest_effect: f64,
}

/// A bound on an excess.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtMost {
    /// What is measured.
    pub metric: Metric,
    /// Arms that the claim is about.
    pub arms: Vec<String>,
    /// Arms that they are compared with, each with each.
    pub than: Vec<String>,
    /// The largest excess that the claim allows.
    pub bound: f64,
}

/// Sameness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalent {
    /// What is measured.
    pub metric: Metric,
    /// Arms that the claim is about.
    pub arms: Vec<String>,
    /// Arms that they are compared with, each with each.
    pub than: Vec<String>,
    /// Differences smaller than this are taken not to matter.
    pub margin: f64,
}

/// An order of arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monotone {
    /// What is measured.
    pub metric: Metric,
    /// Arms, in the order in which the metric goes.
    pub order: Vec<String>,
    /// Whether it falls or rises from each to the next.
    pub direction: Direction,
    /// Smallest step of interest.
    pub smallest_effect: f64,
}

/// Differences of differences: (a - b) - (c - d), with [a, b] from `pairs` and [c, d] `against`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interaction {
    /// What is measured.
    pub metric: Metric,
    /// Pairs of arms, each a comparison.
    pub pairs: Vec<[String; 2]>,
    /// The pair whose difference is taken away.
    pub against: [String; 2],
    /// Smallest difference of differences of interest; the claim is that they are above zero.
    pub smallest_effect: f64,
}

/// Shares of the variance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// What is measured.
    pub metric: Metric,
    /// Factor that is claimed to matter more.
    pub larger: String,
    /// Factor that is claimed to matter less.
    pub smaller: String,
    /// Level of both factors, by arm.
    pub levels: BTreeMap<String, BTreeMap<String, String>>,
    /// Smallest difference of the shares of interest.
    pub smallest_effect: f64,
}

/// A line through arms that carry a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trend {
    /// What is measured.
    pub metric: Metric,
    /// What the number is.
    pub along: String,
    /// The arms and their numbers.
    pub points: Vec<Point>,
    /// Whether it falls or rises.
    pub direction: Direction,
    /// Smallest slope of interest, per unit of the number.
    pub smallest_effect: f64,
}

/// A point of a trend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The number.
    pub x: f64,
    /// The arm.
    pub arm: String,
    /// The arm that is taken away from it, where the trend is one of differences.
    #[serde(default)]
    pub minus: Option<String>,
}

/// A value of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRule {
    /// The probe.
    pub probe: Probe,
    /// What is compared with what, in words.
    pub compares: String,
}

/// A reading of a trained model that is not in its run directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Share of neurons that are needed at a given CETT, at several checkpoints.
    ActiveRatio,
    /// Share of units that are zero for every one of N evaluation tokens.
    DeadShare,
}

impl Probe {
    /// Every probe.
    pub const ALL: [Self; 2] = [Self::ActiveRatio, Self::DeadShare];

    /// What a verdict by this probe still needs.
    pub const fn missing(self) -> &'static str {
        match self {
            Self::ActiveRatio => {
                "the active ratio by CETT at several checkpoints of a run, beside its losses in the run directory"
            }
            Self::DeadShare => {
                "the share of units that are zero for all of N evaluation tokens, beside the losses in the run directory"
            }
        }
    }
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// The parts, in words.
    pub missing: String,
}

/// What must have occurred in the runs for the claim to be decided by them. The mean over seeds is looked at, in every arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// What is measured.
    pub metric: Metric,
    /// In which arms; all of them if left out.
    #[serde(default)]
    pub arms: Vec<String>,
    /// The level that must be reached.
    pub at_least: f64,
    /// Why the claim says nothing below it.
    pub because: String,
}

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
            Self::Exact(_) => "exact",
            Self::Probe(_) => "probe",
            Self::NotYetTestable(_) => "not_yet_testable",
        }
    }

    /// Whether runs decide it.
    pub const fn needs_runs(&self) -> bool {
        match self {
            Self::Less(_)
            | Self::Greater(_)
            | Self::AtMost(_)
            | Self::Equivalent(_)
            | Self::Monotone(_)
            | Self::Interaction(_)
            | Self::Decomposition(_)
            | Self::Trend(_) => true,
            Self::Exact(_) | Self::Probe(_) | Self::NotYetTestable(_) => false,
        }
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
            Self::Exact(_) | Self::Probe(_) | Self::NotYetTestable(_) => Vec::new(),
        }
    }

    /// What is measured in runs; `None` where nothing is.
    pub const fn metric(&self) -> Option<Metric> {
        match self {
            Self::Less(rule) | Self::Greater(rule) => Some(rule.metric),
            Self::AtMost(rule) => Some(rule.metric),
            Self::Equivalent(rule) => Some(rule.metric),
            Self::Monotone(rule) => Some(rule.metric),
            Self::Interaction(rule) => Some(rule.metric),
            Self::Decomposition(rule) => Some(rule.metric),
            Self::Trend(rule) => Some(rule.metric),
            Self::Exact(_) | Self::Probe(_) | Self::NotYetTestable(_) => None,
        }
    }

    /// The unit of its differences; empty for shares.
    pub fn unit(&self) -> String {
        match self {
            Self::Trend(rule) => {
                format!("{} per unit of {}", rule.metric.unit(), rule.along).trim().to_owned()
            }
            Self::Decomposition(_) | Self::Exact(_) | Self::Probe(_) | Self::NotYetTestable(_) => {
                String::new()
            }
            Self::Less(_)
            | Self::Greater(_)
            | Self::AtMost(_)
            | Self::Equivalent(_)
            | Self::Monotone(_)
            | Self::Interaction(_) => self.metric().map_or("", Metric::unit).to_owned(),
        }
    }

    /// What is wrong with its numbers, with the key; `None` if nothing is.
    pub(super) fn mistake(&self) -> Option<String> {
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
            Self::Exact(computation) => computation.mistake(),
            Self::Probe(_) | Self::NotYetTestable(_) => None,
        }
    }
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    names.into_iter().map(String::as_str).collect()
}
