//! Comparisons, before and after they are judged.

use serde::Serialize;

use super::judge::Claimed;
use crate::stats::{Effect, Interval, PairedDifference, Refusal, SeedsNeeded};

/// What a comparison is about, and what it is repeated over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// A difference between arms, or another weighted sum of them, within a seed.
    Difference,
    /// The value of one arm, in every seed.
    Value,
    /// A ratio of times, within a round.
    Ratio,
}

impl Quantity {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Difference => "difference",
            Self::Value => "value",
            Self::Ratio => "ratio",
        }
    }

    /// What it is repeated over.
    pub const fn repeats(self) -> &'static str {
        match self {
            Self::Difference | Self::Value => "seeds",
            Self::Ratio => "rounds",
        }
    }

    /// A number of it with four digits, differences with their sign.
    pub(super) fn show(self, x: f64) -> String {
        match self {
            Self::Difference => format!("{x:+.4}"),
            Self::Value | Self::Ratio => format!("{x:.4}"),
        }
    }
}

/// What a comparison, or all of a claim's, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The difference lies where the claim says.
    Confirmed,
    /// It does not.
    Refuted,
    /// The interval holds both.
    Undecided,
}

/// One comparison of a claim, judged.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What is compared, such as `geglu - relu`.
    pub label: String,
    /// What is measured, in words.
    pub measured: String,
    /// What of it is averaged: everything said of differences below holds for values and ratios too.
    pub quantity: Quantity,
    /// Unit of the difference; empty for shares and ratios.
    pub unit: String,
    /// Number of the differences within a seed (or a round).
    pub n: usize,
    /// The mean difference.
    pub difference: f64,
    /// Standard deviation of the differences; `None` for one seed.
    pub sd: Option<f64>,
    /// Student's interval of the difference at level 1 - alpha; `None` without spread.
    pub interval: Option<Interval>,
    /// p-value for the claim, adjusted by Holm over the claim's comparisons.
    pub p_claim: f64,
    /// p-value against it, adjusted in the same way.
    pub p_against: f64,
    /// What it came to.
    pub outcome: Outcome,
    /// Seeds in which the difference is below zero.
    pub below_zero: usize,
    /// Seeds that were compared; empty for rounds.
    pub seeds: Vec<u64>,
    /// Seeds that some of its arms lack.
    pub seeds_missing: Vec<u64>,
    /// Why there is no interval.
    pub refusal: Option<Refusal>,
    /// Whether all differences are equal, as those of a count may be, and the sign test judged them.
    pub by_sign_test: bool,
    /// Seeds (or rounds) that would decide it, where it is undecided and the spread is known.
    pub seeds_needed: Option<SeedsNeeded>,
}

/// A comparison before it is judged.
#[derive(Clone, Debug)]
pub(super) struct Contrast {
    /// What is compared.
    pub label: String,
    /// What is measured, in words.
    pub measured: String,
    /// What of it is averaged.
    pub quantity: Quantity,
    /// Its unit.
    pub unit: String,
    /// Whether it is made of counts, which may be the same in all seeds; equal losses mean copies of runs.
    pub counted: bool,
    /// Where the claim says the difference lies.
    pub claimed: Claimed,
    /// The differences.
    pub paired: PairedDifference,
    /// Arms of it in which runs diverged, whose differences are those of the runs that did not.
    pub diverged: Vec<String>,
}

impl Contrast {
    /// The mean with its standard error; `None` without spread. What rounding leaves of equal counts is none.
    pub fn effect(&self) -> Option<Effect> {
        let estimate = &self.paired.estimate;
        let rounding = if self.counted { 1e-12 * estimate.mean.abs() } else { 0.0 };
        estimate.effect().filter(|_| estimate.sd.is_some_and(|sd| sd > rounding))
    }

    /// Whether several runs have one count: no dead unit in any seed, say.
    pub fn is_constant(&self) -> bool {
        self.counted && self.paired.estimate.n > 1 && self.effect().is_none()
    }
}
