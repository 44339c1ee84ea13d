//! The fused f32 loops of every activation against the f64 oracle.

mod common;

use candle_core::{DType, Result};
use common::{FLOATS, activations};
use ffn_variants::Activation;
use kernels::Pointwise;

/// The bound stated in `pointwise`.
fn within_bound(activation: Activation, x: f32, got: f32, want: f64) -> bool {
    let rounding_of_beta_x = match activation {
        Activation::Swish { beta } => (beta * f64::from(x)).abs().min(40.0),
        _ => 0.0,
    };
    let epsilons = (3.0 + rounding_of_beta_x) * f64::from(f32::EPSILON);
    let overflows = want.abs() >= f64::from(f32::MAX) * (1.0 - 1e-6);
    (f64::from(got) - want).abs() <= epsilons * want.abs().max(1.0)
        || (overflows && got.abs() >= 0.99 * f32::MAX && f64::from(got).signum() == want.signum())
}

fn value_and_derivative(activation: Activation, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut y, mut dydx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    activation.value_and_derivative(x, &mut y, &mut dydx);
    (y, dydx)
}

/// Corners and a grid, then a prime stride through all finite bit patterns of f32.
fn inputs() -> Result<Vec<f32>> {
    let float = FLOATS.into_iter().find(|float| float.dtype == DType::F32);
    let corners = float.expect("f32 is one of them").inputs()?;
    let corners = corners.into_iter().map(|x| x as f32);
    let sweep = (0..u32::MAX).step_by(131_071).map(f32::from_bits);
    Ok(corners.chain(sweep.filter(|x| x.is_finite())).collect())
}

#[test]
fn value_and_derivative_match_the_oracle() -> Result<()> {
    let x = inputs()?;
    for activation in activations() {
        let (y, dydx) = value_and_derivative(activation, &x);
        for (i, &x) in x.iter().enumerate() {
            let exact = f64::from(x);
            let want = activation.value_f64(exact);
            assert!(
                within_bound(activation, x, y[i], want),
                "{activation}({x:e}) = {:e}, not {want:e}",
                y[i]
            );
            let want = activation.derivative_f64(exact);
            assert!(
                within_bound(activation, x, dydx[i], want),
                "{activation}'({x:e}) = {:e}, not {want:e}",
                dydx[i]
            );
        }
    }
    Ok(())
}

#[test]
fn the_value_alone_has_the_same_bits_at_every_length() -> Result<()> {
    let x = &inputs()?[..77];
    for activation in activations() {
        let (with_derivative, _) = value_and_derivative(activation, x);
        for length in [0, 1, 7, 16, 33, x.len()] {
            let mut y = vec![0.0; length];
            activation.value(&x[..length], &mut y);
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&y), bits(&with_derivative[..length]), "{activation}");
        }
    }
    Ok(())
}

#[test]
fn nan_passes_through() {
    for activation in activations() {
        let (y, _) = value_and_derivative(activation, &[f32::NAN]);
        assert!(y[0].is_nan(), "{activation}");
    }
}
