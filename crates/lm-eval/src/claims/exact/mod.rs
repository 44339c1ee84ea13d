//! Claims that computation decides, without training: identities of blocks on this program's own tensors, and properties of
//! activation functions.

mod blocks;
mod curves;
mod start;

use serde::{Deserialize, Serialize};

use crate::stats::Interval;

/// What is computed, with the bounds that the claim's file fixes. In a file it is the table `[rule.exact.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Computation {
    /// Squared ReLU against ReGLU with tied weights.
    ReluSquaredIsTiedReglu(Tolerance),
    /// Smooth-SwiGLU against SwiGLU, in f32 and in FP8.
    SmoothKeepsTheFunction(Smoothing),
    /// Share of zero derivatives in freshly drawn models.
    ZeroDerivativesAtStart(AtStart),
    /// Sign of Swish's derivative.
    SwishAlwaysRises(Reach),
    /// Least value of Mish.
    MishBoundedBelow(Bound),
}

/// A bound on a relative difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Largest difference, relative to the largest magnitude.
    pub tolerance: f64,
}

/// Bounds for smoothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smoothing {
    /// Largest difference in f32, relative to the largest magnitude.
    pub tolerance: f64,
    /// Least gain in signal to noise in FP8, decibels.
    pub gain_db: f64,
}

/// Bounds for derivatives at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtStart {
    /// Models that are drawn.
    pub draws: u64,
    /// Largest distance of ReLU's share from one half.
    pub tolerance: f64,
    /// Derivatives below this in size count as zero.
    pub floor: f64,
}

/// Where a function is looked at: from -reach to reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// The end of the range.
    pub reach: f64,
}

/// A claimed least value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The value.
    pub claimed: f64,
    /// Largest distance from it.
    pub tolerance: f64,
    /// The end of the range that is searched.
    pub reach: f64,
}

/// One thing that was computed, and whether it is as the claim has it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was computed.
    pub what: String,
    /// Its value.
    pub value: f64,
    /// Where the true value lies: a bracket of a search, or an interval over draws; `None` for a value that is what it is.
    pub interval: Option<Interval>,
    /// Unit of the value; empty for none.
    pub unit: &'static str,
    /// What the claim asks of it; empty for a figure that is only shown.
    pub asked: String,
    /// Whether it is so.
    pub holds: bool,
}

impl Check {
    /// A value that is asked to be so.
    fn asks(what: impl Into<String>, value: f64, asked: String, holds: bool) -> Self {
        Self { what: what.into(), value, interval: None, unit: "", asked, holds }
    }

    /// A value that decides nothing.
    fn shows(what: impl Into<String>, value: f64) -> Self {
        Self::asks(what, value, String::new(), true)
    }

    fn between(mut self, low: f64, high: f64, level: f64) -> Self {
        self.interval = Some(Interval { low, high, level });
        self
    }

    fn in_unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }
}

impl Computation {
    /// Computes it.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn run(&self) -> anyhow::Result<Vec<Check>> {
        match self {
            Self::ReluSquaredIsTiedReglu(bounds) => blocks::tied_reglu(bounds),
            Self::SmoothKeepsTheFunction(bounds) => blocks::smoothing(bounds),
            Self::ZeroDerivativesAtStart(bounds) => start::zero_derivatives(bounds),
            Self::SwishAlwaysRises(range) => Ok(curves::swish_slope(range)),
            Self::MishBoundedBelow(bound) => Ok(curves::mish_minimum(bound)),
        }
    }

    /// What is wrong with its numbers; `None` if nothing is.
    pub(super) fn mistake(&self) -> Option<String> {
        let above_zero = |key: &str, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| format!("{key} = {value} must be above 0"))
        };
        let reach = |reach: f64| {
            (!(1.0..=1e4).contains(&reach)).then(|| format!("reach = {reach} must lie between 1 and 10000"))
        };
        match self {
            Self::ReluSquaredIsTiedReglu(bounds) => above_zero("tolerance", bounds.tolerance),
            Self::SmoothKeepsTheFunction(bounds) => {
                above_zero("tolerance", bounds.tolerance).or(above_zero("gain_db", bounds.gain_db))
            }
            Self::ZeroDerivativesAtStart(bounds) => above_zero("tolerance", bounds.tolerance)
                .or(above_zero("floor", bounds.floor))
                .or((!(2..=1000).contains(&bounds.draws))
                    .then(|| format!("draws = {} must lie between 2 and 1000", bounds.draws))),
            Self::SwishAlwaysRises(range) => reach(range.reach),
            Self::MishBoundedBelow(bound) => above_zero("tolerance", bound.tolerance).or(reach(bound.reach)),
        }
    }
}
