//! What randomisation tests share: how the arrangements were gone through, and when two of them tie.

use serde::Serialize;

/// Up to so many arrangements are enumerated; beyond, they are drawn.
pub const MOST_ARRANGEMENTS: u64 = 1 << 16;

/// Arrangements drawn where there are too many to enumerate.
pub const DRAWS: u64 = 99_999;

/// Statistics this close, relative to their largest possible size, count as equal. Losses printed with a few digits tie
/// often, and their differences only up to rounding; without this, such ties would fall either way.
pub const TIE: f64 = 1e-10;

/// How the distribution under the null hypothesis was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Every arrangement.
    Exact,
    /// So many keyed random arrangements; the p-value is (1 + hits) / (1 + draws), which keeps the test valid (Phipson &
    /// Smyth 2010, "Permutation P-values Should Never Be Zero").
    MonteCarlo {
        /// Number of draws.
        draws: u64,
    },
    /// The normal approximation with continuity correction.
    Normal,
}

/// A two-sided randomisation or rank test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RandomisationTest {
    /// What was compared with its distribution: a mean, or a sum of ranks.
    pub statistic: f64,
    /// Two-sided p-value.
    pub p_value: f64,
    /// The smallest p-value that so many values can give, however far apart. Where it is above alpha, the test cannot
    /// find a difference.
    pub smallest_p: f64,
    /// How it was found.
    pub distribution: Distribution,
}
