//! Why a statistic cannot be given.

use serde::Serialize;
use thiserror::Error;

/// Why there is no answer: what the data, or the question, lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No values.
    #[error("there are no values")]
    Empty,
    /// One value, or one document.
    #[error("one value has no spread")]
    OneValue,
    /// Equal values. They mean copies rather than certainty, and t is not defined for them.
    #[error("all values are equal, so there is no spread to judge by")]
    NoSpread,
    /// NaN or infinity among the values.
    #[error("a value is not finite")]
    NotFinite,
    /// Paired samples of different lengths.
    #[error("the samples cannot be paired: their lengths differ")]
    UnequalLengths,
    /// Documents that two models divide into different numbers of tokens, or one that has none.
    #[error("a document has no tokens, or not the same number in both arms")]
    Tokens,
    /// An end of a bootstrap interval would be the most extreme resample there is.
    #[error("too few values: an end of the interval would be the most extreme resample there is")]
    BeyondResamples,
    /// BCa's correction is not defined: every resample lies on one side of the estimate, or the skew is too large.
    #[error("the resamples are too lopsided for a bootstrap interval")]
    Lopsided,
    /// As many parameters as values.
    #[error("the model has as many parameters as there are values, so nothing is left to judge it by")]
    Saturated,
    /// A level, margin, power or p-value outside its range; its name.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

/// Refuses values that are not finite.
pub(super) fn finite(values: &[f64]) -> Result<(), Refusal> {
    if values.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(Refusal::NotFinite) }
}

/// Refuses a share that is not strictly between 0 and 1.
pub(super) fn share(name: &'static str, share: f64) -> Result<(), Refusal> {
    if share > 0.0 && share < 1.0 { Ok(()) } else { Err(Refusal::OutOfRange(name)) }
}
