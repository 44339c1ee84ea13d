//! The standard normal distribution in `f64`, for exact GELU: the standard library has no `erf`.
//!
//! `Phi(x) = (1 + erf(x / sqrt 2)) / 2` comes from two classical expansions in which all terms have
//! one sign, so that nothing cancels (numbers of Abramowitz & Stegun, *Handbook of Mathematical
//! Functions*):
//!
//! - around 0 the series `Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ...)` (26.2.11);
//! - in the tails the continued fraction
//!   `Phi(-x) = phi(x) / (x + 1/(x + 2/(x + 3/(x + ...))))` for `x > 0` (26.2.14).
//!
//! Slow and accurate: it serves the oracle, never a training step.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// Where the series hands over to the continued fraction.
const CROSSOVER: f64 = 1.25;

/// Enough terms for full precision at the crossover, where both converge worst.
const SERIES_TERMS: u32 = 24;
const FRACTION_TERMS: u32 = 400;

/// `Phi(x)`, the probability below `x`: relative error below 2e-15 while it is a normal number.
pub(crate) fn normal_cdf(x: f64) -> f64 {
    if x.abs() < CROSSOVER {
        0.5 + normal_pdf(x) * x * series(x)
    } else if x < 0.0 {
        lower_tail(-x)
    } else {
        1.0 - lower_tail(x)
    }
}

/// `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`.
pub(crate) fn normal_pdf(x: f64) -> f64 {
    let square = x * x;
    if square == f64::INFINITY {
        return 0.0;
    }
    // The rounding error of the square, which exp would magnify by the square itself.
    let lost = x.mul_add(x, -square);
    0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (-0.5 * square).exp() * (1.0 - 0.5 * lost)
}

/// `1 + x^2/3 (1 + x^2/5 (1 + ...))`, innermost first.
fn series(x: f64) -> f64 {
    (1..SERIES_TERMS).rev().fold(1.0, |sum, n| 1.0 + x * x / f64::from(2 * n + 1) * sum)
}

/// `Phi(-x)` for `x >= CROSSOVER`; NaN stays NaN.
fn lower_tail(x: f64) -> f64 {
    let fraction = (1..FRACTION_TERMS).rev().fold(x, |below, n| x + f64::from(n) / below);
    normal_pdf(x) / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(x, Phi(x))`: `ncdf` of mpmath 1.3.0 at 60 digits, rounded to f64.
    const TABLE: [(f64, f64); 20] = [
        (-38.0, 2.88542835e-316),
        (-30.0, 4.906713927148187e-198),
        (-20.0, 2.7536241186062337e-89),
        (-12.0, 1.776482112077679e-33),
        (-8.0, 6.220960574271784e-16),
        (-5.0, 2.866515718791939e-07),
        (-3.0, 0.0013498980316300946),
        (-1.5, 0.06680720126885807),
        (-1.2509765625, 0.10547151427078377),
        (-1.25, 0.10564977366685525),
        (-1.2490234375, 0.10582825079757893),
        (-1.0, 0.15865525393145705),
        (-0.5, 0.3085375387259869),
        (-0.0625, 0.47508233097075275),
        (-0.0009765625, 0.4996104079912195),
        (0.0, 0.5),
        (0.5, 0.6914624612740131),
        (1.25, 0.8943502263331448),
        (2.0, 0.9772498680518208),
        (8.5, 1.0),
    ];

    #[test]
    fn cdf_matches_the_table() {
        for (x, want) in TABLE {
            let error = (normal_cdf(x) - want).abs() / want;
            assert!(error <= 2e-15, "Phi({x}): relative error {error:e}");
        }
    }

    #[test]
    fn erf_by_way_of_the_cdf_matches_python() {
        // erf(x) = 2 (Phi(sqrt 2 x) - 1/2); Python 3.11: math.erf(0.01), .1, .5, 1, 2, 3
        for (x, want) in [
            (0.01, 0.011283415555849616),
            (0.1, 0.1124629160182849),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (3.0, 0.9999779095030014),
        ] {
            let error = (2.0 * normal_cdf(x / FRAC_1_SQRT_2) - 1.0 - want).abs();
            assert!(error <= 4e-16, "erf({x}): error {error:e}");
        }
    }

    #[test]
    fn limits_are_reached() {
        assert_eq!(normal_cdf(f64::INFINITY), 1.0);
        assert_eq!(normal_cdf(f64::NEG_INFINITY), 0.0);
        assert_eq!(normal_cdf(f64::MIN), 0.0);
        assert_eq!(normal_pdf(f64::MAX), 0.0);
        assert!(normal_cdf(f64::NAN).is_nan() && normal_pdf(f64::NAN).is_nan());
    }

    #[test]
    fn the_density_is_the_slope_of_the_distribution() {
        let h = 1e-5;
        for x in [-6.0, -1.25, -1.0, 0.0, 0.3, 1.25, 2.0] {
            let slope = (normal_cdf(x + h) - normal_cdf(x - h)) / (2.0 * h);
            assert!((slope - normal_pdf(x)).abs() < 1e-10, "at {x}");
        }
    }
}
