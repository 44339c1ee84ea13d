//! The noncentral t distribution, which the power of a t test needs.
//!
//! T = (Z + delta) / S, where Z is standard normal and S^2 is a chi-square over its degrees of freedom, so that
//! P(T <= t) is the integral of Phi(t s - delta) over the density of S (Johnson, Kotz & Balakrishnan 1995, "Continuous
//! Univariate Distributions", volume 2, chapter 31). Phi is 0 or 1 to the last bit but for s within 9 / t of delta / t; only
//! that window is integrated, by the double-exponential rule (Takahasi & Mori 1974, "Double Exponential Formulas for
//! Numerical Integration"), which does not mind the density's behaviour at s = 0.

use std::f64::consts::FRAC_PI_2;

use statrs::function::gamma::{gamma_ur, ln_gamma};

use super::distributions::normal_cdf;

/// Where the normal distribution ends for a 64-bit float.
const FAR: f64 = 9.0;

/// Pieces of the window, each integrated by itself.
const PIECES: usize = 8;

/// P(T <= t) with noncentrality `delta` and `df` >= 1 degrees of freedom, to about 1e-11.
pub fn noncentral_t_cdf(t: f64, df: f64, delta: f64) -> f64 {
    debug_assert!(df >= 1.0, "{df} degrees of freedom");
    if t == 0.0 {
        return normal_cdf(-delta);
    }
    if t < 0.0 {
        return 1.0 - noncentral_t_cdf(-t, df, -delta);
    }
    // S is sure to lie here, and Phi to leave its window here.
    let reach = 10.0 / (2.0 * df).sqrt();
    let low = ((delta - FAR) / t).max(1.0 - reach).max(0.0);
    let high = ((delta + FAR) / t).min(1.0 + reach);
    let certain = s_above(((delta + FAR) / t).max(0.0), df);
    if high <= low {
        return certain;
    }
    let constant = std::f64::consts::LN_2 + df / 2.0 * ((df / 2.0).ln() - 1.0) - ln_gamma(df / 2.0);
    let density = |s: f64| {
        if s <= 0.0 {
            return if df > 1.0 { 0.0 } else { (constant + df / 2.0).exp() };
        }
        (constant - s.ln() - df * ((s * s - 1.0) / 2.0 - s.ln())).exp()
    };
    let step = (high - low) / PIECES as f64;
    let piece = |i: usize| {
        let from = low + step * i as f64;
        double_exponential(from, from + step, |s| normal_cdf(t * s - delta) * density(s))
    };
    (certain + (0..PIECES).map(piece).sum::<f64>()).clamp(0.0, 1.0)
}

/// P(S > s).
fn s_above(s: f64, df: f64) -> f64 {
    if s <= 0.0 { 1.0 } else { gamma_ur(df / 2.0, df * s * s / 2.0) }
}

/// Integral of `f` from `a` to `b`: x = centre + half * tanh(pi/2 sinh u), by the trapezoidal rule in u.
fn double_exponential(a: f64, b: f64, f: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 1.0 / 16.0;
    const STEPS: i32 = 52; // u up to 3.25, where weights fall below 1e-16
    let (centre, half) = ((a + b) / 2.0, (b - a) / 2.0);
    let at = |i: i32| {
        let u = STEP * f64::from(i);
        let inner = FRAC_PI_2 * u.sinh();
        FRAC_PI_2 * u.cosh() / inner.cosh().powi(2) * f(centre + half * inner.tanh())
    };
    half * STEP * (-STEPS..=STEPS).map(at).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::distributions::t_sf;
    use super::*;

    #[test]
    fn without_noncentrality_it_is_students() {
        for df in [1.0, 1.3, 2.0, 4.0, 7.5, 30.0, 400.0, 9_999.0] {
            for t in [-60.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.7, 2.0, 12.7, 636.6] {
                let (ours, student) = (noncentral_t_cdf(t, df, 0.0), t_sf(-t, df));
                assert!((ours - student).abs() < 1e-10, "df {df}, t {t}: {ours} and {student}");
            }
        }
    }

    #[test]
    fn it_rises_with_t_and_falls_with_delta() {
        for df in [1.0, 3.0, 19.0] {
            let along = |delta: f64| (-40..80).map(move |i| noncentral_t_cdf(f64::from(i) / 4.0, df, delta));
            for delta in [-2.0, 0.0, 1.0, 8.0] {
                let values: Vec<f64> = along(delta).collect();
                assert!(values.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12), "df {df}, delta {delta}");
                assert!(along(delta + 0.5).zip(&values).all(|(higher, lower)| higher <= lower + 1e-12));
            }
        }
    }

    #[test]
    fn far_out_it_is_zero_or_one() {
        assert!(noncentral_t_cdf(2.0, 5.0, 60.0) < 1e-12);
        assert!(noncentral_t_cdf(2.0, 5.0, -60.0) > 1.0 - 1e-12);
        assert!(noncentral_t_cdf(1e6, 5.0, 3.0) > 1.0 - 1e-12);
    }
}
