//! The closed set of rules by which runs decide a claim, as a claim's file states them.

mod check;
mod facts;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exact::Computation;
use super::judge::Claimed;
use super::metric::Metric;
use super::timing::ActivationCost;

pub use facts::DecidedBy;

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
    /// The metric of one arm is below or above a bound.
    Value(Value),
    /// Decided by computation, without training.
    Exact(Computation),
    /// Decided by timing activation functions when a verdict is asked for.
    ActivationCost(ActivationCost),
    /// Several rules together: the claim holds if all of them do, and fails with one. Their comparisons share its alpha.
    All(Vec<Rule>),
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

/// A bound on the value itself, on one side of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// What is measured.
    pub metric: Metric,
    /// The arm that the claim is about.
    pub arm: String,
    /// The claim is that the value is below this. Give this or `above`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// The claim is that the value is above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Smallest distance from the bound of interest: where all of the interval falls short of it, the claim is refuted. If
    /// it is left out, only an interval on the other side of the bound refutes.
    #[serde(default)]
    pub smallest_effect: f64,
}

impl Value {
    /// Where the value is claimed to lie; `None` unless there is exactly one bound.
    pub(super) fn claimed(&self) -> Option<Claimed> {
        match (self.below, self.above) {
            (Some(bound), None) => {
                Some(Claimed::Below { confirm: bound, refute: bound - self.smallest_effect })
            }
            (None, Some(bound)) => {
                Some(Claimed::Above { confirm: bound, refute: bound + self.smallest_effect })
            }
            (None, None) | (Some(_), Some(_)) => None,
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
