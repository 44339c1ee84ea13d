//! Two one-sided tests: whether a difference is shown to be small.
//!
//! Schuirmann 1987, "A Comparison of the Two One-Sided Tests Procedure and the Power Approach for Assessing the Equivalence
//! of Average Bioavailability". A test that finds no difference has not shown that there is none; this one can.

use serde::Serialize;

use super::distributions::t_sf;
use super::refusal::{Refusal, share};
use super::{Effect, Interval};

/// The two one-sided t tests of an effect against a margin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Equivalence {
    /// Differences smaller than this are taken not to matter.
    pub margin: f64,
    /// p-value against "the effect is -margin or less".
    pub p_above_lower: f64,
    /// p-value against "the effect is margin or more".
    pub p_below_upper: f64,
    /// The larger of the two: that of the whole test.
    pub p_value: f64,
    /// Interval at level 1 - 2 alpha; it lies within the margin exactly where `p_value` < alpha.
    pub interval: Interval,
}

/// Tests whether `effect` lies within `margin` of zero, at `alpha`.
///
/// # Errors
/// A margin that is not above zero, an alpha that is not between 0 and 1/2.
pub fn two_one_sided_tests(effect: &Effect, margin: f64, alpha: f64) -> Result<Equivalence, Refusal> {
    if !(margin.is_finite() && margin > 0.0) {
        return Err(Refusal::OutOfRange("the margin"));
    }
    share("alpha", 2.0 * alpha)?;
    let beyond = |distance: f64| t_sf(distance / effect.standard_error, effect.df);
    let (above, below) = (beyond(margin + effect.estimate), beyond(margin - effect.estimate));
    Ok(Equivalence {
        margin,
        p_above_lower: above,
        p_below_upper: below,
        p_value: above.max(below),
        interval: effect.interval(1.0 - 2.0 * alpha)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_margin_must_be_above_zero() {
        let effect = Effect::of_mean(&[1.0, 2.0]).unwrap();
        for margin in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let refused = two_one_sided_tests(&effect, margin, 0.05);
            assert_eq!(refused, Err(Refusal::OutOfRange("the margin")));
        }
        assert_eq!(two_one_sided_tests(&effect, 1.0, 0.5), Err(Refusal::OutOfRange("alpha")));
    }

    proptest! {
        #[test]
        fn the_test_and_its_interval_agree(
            values in prop::collection::vec(-1.0..1.0f64, 3..12), margin in 0.01..1.5f64, alpha in 0.01..0.2f64,
        ) {
            let effect = Effect::of_mean(&values).unwrap();
            let found = two_one_sided_tests(&effect, margin, alpha).unwrap();
            let inside = found.interval.low > -margin && found.interval.high < margin;
            prop_assert!((found.p_value - alpha).abs() < 1e-9 || (found.p_value < alpha) == inside, "{found:?}");
        }
    }
}
