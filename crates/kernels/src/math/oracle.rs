//! Measures the functions of this module against `f64`.

use super::*;
use std::f64::consts::PI;

type Scalar = fn(f32) -> f32;
type Slices = fn(&[f32], &mut [f32]);

/// The error of `got` in units in the last place of the exact result; of subnormal results, in the smallest
/// subnormal.
fn ulps(got: f32, exact: f64) -> f64 {
    if got == exact as f32 {
        return 0.0; // also infinities, and overflow that f32 rounds to infinity
    }
    let exponent = exact.abs().log2().floor().max(-126.0);
    (f64::from(got) - exact).abs() / (exponent - 23.0).exp2()
}

/// The largest error in ulp over `f32` values from every binade, of both signs, with its place.
fn worst(f: Scalar, exact: fn(f64) -> f64) -> (f64, f32) {
    // A prime stride through all bit patterns; finite values that the exact function maps to NaN are out of
    // its domain.
    (0..u32::MAX)
        .step_by(4099)
        .map(f32::from_bits)
        .filter(|x| x.is_finite() && !exact(f64::from(*x)).is_nan())
        .map(|x| (ulps(f(x), exact(f64::from(x))), x))
        .fold((0.0, 0.0), |worst, at| if at.0 > worst.0 || at.0.is_nan() { at } else { worst })
}

fn assert_within(bound: f64, f: Scalar, exact: fn(f64) -> f64) {
    let (error, x) = worst(f, exact);
    assert!(error <= bound, "{error} ulp at {x:e}");
}

/// erf by its Taylor series up to 2.5, beyond by the continued fraction of erfc (Abramowitz & Stegun 7.1.6,
/// 7.1.14).
fn erf_f64(x: f64) -> f64 {
    let t = x.abs();
    let value = if t < 2.5 {
        let (mut term, mut sum) = (t, t);
        for n in 1..80 {
            term *= 2.0 * t * t / f64::from(2 * n + 1);
            sum += term;
        }
        2.0 / PI.sqrt() * (-t * t).exp() * sum
    } else {
        let fraction = (1..120).rev().fold(t, |below, n| t + f64::from(n) / 2.0 / below);
        1.0 - (-t * t).exp() / (PI.sqrt() * fraction)
    };
    value.copysign(x)
}

fn sigmoid_f64(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus_f64(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[test]
fn the_erf_oracle_knows_the_tables() {
    // Abramowitz & Stegun, table 7.1, and both branches where they meet.
    for (x, y) in
        [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (1.5, 0.966_105_146_5), (2.0, 0.995_322_265_0)]
    {
        assert!((erf_f64(x) - y).abs() < 6e-11, "erf({x})");
        assert_eq!(erf_f64(-x), -erf_f64(x));
    }
    assert!((erf_f64(2.5 - 1e-15) - erf_f64(2.5)).abs() < 1e-14);
}

#[test]
fn errors_stay_within_the_stated_bounds() {
    assert_within(1.0, exp, f64::exp);
    assert_within(2.5, sigmoid, sigmoid_f64);
    assert_within(1.5, tanh, f64::tanh);
    assert_within(1.5, erf, erf_f64);
    assert_within(2.5, ln_1p, f64::ln_1p);
    assert_within(3.0, softplus, softplus_f64);
}

#[test]
fn extremes() {
    const INF: f32 = f32::INFINITY;
    const SUBNORMAL: f32 = f32::from_bits(1);
    let cases: [(Scalar, &[(f32, f32)]); 6] = [
        (
            exp,
            &[
                (0.0, 1.0),
                (-0.0, 1.0),
                (-INF, 0.0),
                (INF, INF),
                (100.0, INF),
                (-200.0, 0.0),
                (-103.9, SUBNORMAL),
            ],
        ),
        (
            sigmoid,
            &[
                (0.0, 0.5),
                (-0.0, 0.5),
                (-INF, 0.0),
                (INF, 1.0),
                (1e30, 1.0),
                (-1e30, 0.0),
                (-103.9, SUBNORMAL),
            ],
        ),
        (tanh, &[(0.0, 0.0), (-0.0, -0.0), (-INF, -1.0), (INF, 1.0), (1e30, 1.0), (SUBNORMAL, SUBNORMAL)]),
        (
            erf,
            &[
                (0.0, 0.0),
                (-0.0, -0.0),
                (-INF, -1.0),
                (INF, 1.0),
                (1e30, 1.0),
                (-4.5, -1.0),
                (SUBNORMAL, SUBNORMAL),
            ],
        ),
        (
            ln_1p,
            &[
                (0.0, 0.0),
                (-0.0, -0.0),
                (-1.0, -INF),
                (INF, INF),
                (SUBNORMAL, SUBNORMAL),
                (f32::MAX, 88.722_84),
            ],
        ),
        (
            softplus,
            &[
                (0.0, std::f32::consts::LN_2),
                (-INF, 0.0),
                (INF, INF),
                (1e30, 1e30),
                (-200.0, 0.0),
                (-103.9, SUBNORMAL),
            ],
        ),
    ];
    for (f, points) in cases {
        for &(x, y) in points {
            assert_eq!(f(x).to_bits(), y.to_bits(), "f({x:e}) = {:e}, not {y:e}", f(x));
        }
        assert!(f(f32::NAN).is_nan() && f(-f32::NAN).is_nan());
    }
    assert!(ln_1p(-1.5).is_nan() && ln_1p(-INF).is_nan());
}

/// Up to where e^x is no longer subnormal, 0, from there on the bits of `exp`.
#[test]
fn exp_or_zero_is_exp_but_for_subnormal_results() {
    let from_bits = (0..u32::MAX).step_by(4099).map(f32::from_bits);
    for x in from_bits.chain([0.0, -0.0, -87.336, f32::NEG_INFINITY]).filter(|x| *x <= 88.0) {
        let (found, exact) = (exp_or_zero(x), exp(x));
        let flushed = found == 0.0 && exact < f32::MIN_POSITIVE;
        assert!(flushed || found.to_bits() == exact.to_bits(), "{found:e}, not {exact:e} at {x:e}");
    }
    assert!(exp_or_zero(f32::NAN).is_nan() && exp_or_zero(-f32::NAN).is_nan());
    assert_eq!(exp_or_zero(-88.1), 0.0);
}

#[test]
fn slices_give_the_bits_of_scalars() {
    let x: Vec<f32> = (-40..40).map(|i| i as f32 * 0.37).chain([f32::NAN, f32::INFINITY]).collect();
    let pairs: [(Slices, Scalar); 6] = [
        (exp_into, exp),
        (sigmoid_into, sigmoid),
        (tanh_into, tanh),
        (erf_into, erf),
        (ln_1p_into, ln_1p),
        (softplus_into, softplus),
    ];
    for (slice, scalar) in pairs {
        for n in [0, 1, 7, 8, 33, x.len()] {
            let mut y = vec![0.0; n];
            slice(&x[..n], &mut y);
            for (&x, y) in x.iter().zip(y) {
                assert!(y.to_bits() == scalar(x).to_bits() || (y.is_nan() && scalar(x).is_nan()));
            }
        }
    }
}
