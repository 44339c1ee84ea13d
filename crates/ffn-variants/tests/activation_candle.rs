//! The Candle reference of every activation against the f64 oracle, in every dtype.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{FLOATS, Float, activations, value_and_gradient, values};
use ffn_variants::Activation;

/// Evaluation error in units of the computing dtype's epsilon, relative to `max(1, |want|)`.
const ULPS: f64 = 2.0;

/// Largest error allowed for a value of true size `want`: the formula is evaluated in f64 or f32,
/// then rounded to the storage dtype.
fn tolerance(float: Float, want: f64) -> f64 {
    let computing = float.epsilon.min(f32::EPSILON.into());
    let rounding = 0.5 * float.epsilon * want.abs() + float.min_subnormal;
    ULPS * computing * want.abs().max(1.0) + rounding
}

fn assert_close(what: &str, float: Float, x: f64, got: f64, want: f64) {
    // Within rounding of the largest number, infinity is as good an answer as that number.
    let overflows = want.abs() >= float.max * (1.0 - 4.0 * float.epsilon);
    let close = (got - want).abs() <= tolerance(float, want)
        || (overflows && got.abs() >= float.max * 0.9 && got.signum() == want.signum());
    assert!(close, "{what} {:?} at {x:e}: {got:e}, not {want:e}", float.dtype);
}

#[test]
fn value_and_gradient_match_the_oracle_in_every_dtype() -> Result<()> {
    for float in FLOATS {
        let inputs = float.inputs()?;
        let x = float.tensor(&inputs)?;
        for activation in activations() {
            let (value, gradient) = value_and_gradient(&x, 1.0, |x| activation.forward(x))?;
            for (i, &x) in inputs.iter().enumerate() {
                let name = activation.to_string();
                assert_close(&name, float, x, value[i], activation.value_f64(x));
                let derivative = activation.derivative_f64(x);
                assert_close(&format!("{name}'"), float, x, gradient[i], derivative);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_survive_large_incoming_gradients() -> Result<()> {
    for float in FLOATS {
        let weight = 1024.0;
        let inputs = float.inputs()?;
        let x = float.tensor(&inputs)?;
        for activation in activations() {
            let (_, gradient) = value_and_gradient(&x, weight, |x| activation.forward(x))?;
            for (&x, &got) in inputs.iter().zip(&gradient) {
                let want = weight * activation.derivative_f64(x);
                let finite = got.is_finite() || want.abs() > float.max * 0.99;
                assert!(finite, "{activation}' {:?} at {x:e}: {got}", float.dtype);
            }
        }
    }
    Ok(())
}

/// Where a function decays like `exp(x)`, small results are right too, not just small.
#[test]
fn left_tails_keep_their_relative_precision() -> Result<()> {
    let inputs: Vec<f64> = (5..80).map(|i| f64::from(-i)).collect();
    for float in FLOATS.into_iter().take(2) {
        let x = float.tensor(&inputs)?;
        for activation in
            [Activation::Silu, Activation::Mish, Activation::Softplus, Activation::Sigmoid, Activation::Elu]
        {
            let (value, gradient) = value_and_gradient(&x, 1.0, |x| activation.forward(x))?;
            for (i, &x) in inputs.iter().enumerate() {
                let pairs =
                    [(value[i], activation.value_f64(x)), (gradient[i], activation.derivative_f64(x))];
                for (got, want) in pairs {
                    // Rounding x alone changes exp(x) by x epsilons.
                    let relative = ((got - want) / want).abs();
                    let bound = (4.0 + x.abs()) * float.epsilon;
                    assert!(relative < bound, "{activation} {:?} at {x}: {got:e}, not {want:e}", float.dtype);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn nan_passes_through() -> Result<()> {
    for float in FLOATS {
        let x = float.tensor(&[f64::NAN, 1.0])?;
        for activation in activations() {
            let y = values(&activation.forward(&x)?)?;
            assert!(y[0].is_nan() && y[1].is_finite(), "{activation}: {y:?}");
        }
    }
    Ok(())
}

#[test]
fn f64_gradient_matches_finite_differences_of_the_forward_pass() -> Result<()> {
    let h = 1e-5;
    let x = Tensor::arange_step(-8.01, 8.0, 0.037, &Device::Cpu)?;
    for activation in activations() {
        if matches!(activation, Activation::Swish { beta } if beta > 100.0) {
            continue; // bends within one step of the differences
        }
        let (_, gradient) = value_and_gradient(&x, 1.0, |x| activation.forward(x))?;
        let above = values(&activation.forward(&(&x + h)?)?)?;
        let below = values(&activation.forward(&(&x - h)?)?)?;
        for (i, g) in gradient.iter().enumerate() {
            let slope = (above[i] - below[i]) / (2.0 * h);
            assert!(
                (slope - g).abs() < 1e-8 * g.abs().max(1.0),
                "{activation}, element {i}: slope {slope}, gradient {g}"
            );
        }
    }
    Ok(())
}

#[test]
fn keeps_shape_and_dtype_and_accepts_strided_inputs() -> Result<()> {
    let x = Tensor::arange(-6f32, 6., &Device::Cpu)?.reshape((2, 2, 3))?;
    for activation in activations() {
        let strided = x.transpose(1, 2)?;
        let y = activation.forward(&strided)?;
        assert_eq!(y.dims(), [2, 3, 2]);
        let dense = activation.forward(&strided.contiguous()?)?;
        assert_eq!(values(&y)?, values(&dense)?, "{activation}");
        assert_eq!(activation.forward(&x.to_dtype(DType::BF16)?)?.dtype(), DType::BF16);
    }
    Ok(())
}

#[test]
fn integers_are_refused_by_name() {
    let x = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
    let error = Activation::Mish.forward(&x).unwrap_err().to_string();
    assert!(error.contains("mish") && error.contains("U32"), "{error}");
}
