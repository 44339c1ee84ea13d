//! Products of quantised operands against sums in `f64` of what the codes stand for.

use super::computation::contraction_key;
use super::*;
use crate::testing::*;
use candle_core::Var;
use numerics::{Contraction, Overflow, Rounding, ScaleKind};
use std::sync::Mutex;

/// An observer that remembers what it was told, and gives fixed keys and scales.
#[derive(Debug, Default)]
struct Listener {
    scale: Option<f32>,
    heard: Mutex<Vec<(Role, usize, usize, f32)>>,
}

impl Observer for Listener {
    fn delayed_scale(&self, _: Role, _: &QuantSpec) -> Option<f32> {
        self.scale
    }

    fn key(&self, role: Role) -> u64 {
        1000 + role as u64
    }

    fn looks(&self) -> bool {
        true
    }

    fn passed(&self, _: Role, _: u64) {}

    fn measured(&self, _: Role, _: &QuantSpec, _: f32) {}

    fn quantised(&self, role: Role, matrix: Matrix<'_>, _: &QuantSpec, operand: &Operand) {
        self.heard.lock().unwrap().push((role, matrix.rows, matrix.cols, operand.amax));
    }
}

fn spec(format: NumericFormat, scaling: Scaling) -> QuantSpec {
    QuantSpec { scaling, overflow: Overflow::Saturate, ..QuantSpec::unscaled(format) }
}

/// Input, weight and gradient of every kind of recipe, by name.
fn recipes() -> Vec<(&'static str, [QuantSpec; 3])> {
    use NumericFormat::*;
    let same = |format, scaling| [spec(format, scaling); 3];
    let stochastic = |spec: QuantSpec| QuantSpec { rounding: RoundingMode::Stochastic, ..spec };
    let row = QuantSpec { scale: ScaleKind::PowerOfTwo, ..spec(E4m3, Scaling::Row) };
    let plain = QuantSpec::unscaled;
    let hybrid = |scaling| [spec(E4m3, scaling), spec(E4m3, scaling), spec(E5m2, scaling)];
    let block = spec(E4m3, Scaling::Block { size: 16 });
    let nvfp4 = spec(E2m1, Scaling::Nvfp4);
    vec![
        ("tf32", [plain(Tf32); 3]),
        ("bf16", [plain(Bf16); 3]),
        ("fp16", [plain(Fp16); 3]),
        ("fp8_current", hybrid(Scaling::Tensor)),
        ("fp8_delayed", hybrid(Scaling::Delayed { history: 4, margin: 0 })),
        ("fp8_rowwise", [row; 3]),
        ("fp8_block", [block, spec(E4m3, Scaling::Block2d { rows: 16, cols: 16 }), block]),
        ("mxfp8", same(E4m3, Scaling::Mx)),
        ("mxfp6", [spec(E2m3, Scaling::Mx), spec(E2m3, Scaling::Mx), spec(E3m2, Scaling::Mx)]),
        ("mxfp4", [spec(E2m1, Scaling::Mx), spec(E2m1, Scaling::Mx), stochastic(spec(E2m1, Scaling::Mx))]),
        ("nvfp4", [nvfp4, spec(E2m1, Scaling::Nvfp4Weight), stochastic(nvfp4)]),
        ("int8", [spec(Int8, Scaling::Row), spec(Int8, Scaling::Row), plain(Bf16)]),
        ("int4", [spec(Int4, Scaling::Row), spec(Int4, Scaling::Tensor), plain(Bf16)]),
        ("bitnet_b158", [spec(Int8, Scaling::Row), spec(Ternary, Scaling::Absmean), plain(Bf16)]),
        ("absmedian", [spec(Int8, Scaling::Row), spec(Ternary, Scaling::Absmedian), plain(Bf16)]),
    ]
}

/// All three products sum over 32 terms.
const N: usize = 32;
const D_IN: usize = 32;
const D_OUT: usize = 32;

fn how([input, weight, grad]: [QuantSpec; 3], observer: Arc<Listener>) -> QuantizedLinear {
    QuantizedLinear { input, weight, grad, output: NumericFormat::Fp32, smooth: false, observer }
}

/// Values spread over some binades, so that scales matter.
fn values(seed: u64, shape: (usize, usize)) -> Result<Tensor> {
    let wide = (random(seed, shape)? * 3.0)?.exp()?;
    wide * random(seed + 100, shape)?
}

/// What an operand of a matrix stands for, in f64, by line and step of its product.
fn decoded(x: &Tensor, contraction: Contraction, spec: &QuantSpec, role: Role) -> Result<Vec<Vec<f64>>> {
    let (rows, cols) = x.dims2()?;
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let delayed = matches!(spec.scaling, Scaling::Delayed { .. });
    let spec = if delayed { QuantSpec { scaling: Scaling::Tensor, ..*spec } } else { *spec };
    let key = Listener::default().key(role) ^ contraction_key(contraction);
    let operand = numerics::encode_matrix(&values, rows, cols, contraction, &spec, key, None)
        .map_err(candle_core::Error::wrap)?
        .operand;
    let (lines, steps) = (contraction.lines(rows, cols), contraction.length(rows, cols));
    let at = |line: usize, step: usize| {
        let index = match contraction {
            Contraction::Columns => line * cols + step,
            Contraction::Rows => step * cols + line,
        };
        let scale = match &operand.outer {
            OuterScale::Uniform(scale) => *scale,
            OuterScale::PerLine(scales) => scales[line],
            OuterScale::PerBlock { size, scales } => scales[line * (steps / size) + step / size],
        };
        f64::from(operand.values[index]) * f64::from(scale)
    };
    Ok((0..lines).map(|line| (0..steps).map(|step| at(line, step)).collect()).collect())
}

fn transposed(matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    (0..matrix[0].len()).map(|j| matrix.iter().map(|row| row[j]).collect()).collect()
}

/// What a backward product sees of an operand, by line and step: quantised again along its sum when the gradient is
/// scaled, else what the forward operand stands for in the gradient's format.
fn for_backward(x: &Tensor, [operand, grad]: [&QuantSpec; 2], role: Role) -> Result<Vec<Vec<f64>>> {
    if grad.scaling != Scaling::None {
        return decoded(x, Contraction::Rows, operand, role);
    }
    let forward = decoded(x, Contraction::Columns, operand, role)?;
    let round = |x: f64| {
        let mut value = [x as f32];
        numerics::reference::round_slice(
            &mut value,
            grad.format,
            Rounding::NEAREST_EVEN,
            Overflow::Propagate,
        );
        f64::from(value[0])
    };
    // A scale common to all stays outside of the product, and is not rounded.
    let outside = operand.scaling != Scaling::Row;
    let rounded = |x: f64| if outside { x } else { round(x) };
    Ok(transposed(forward.into_iter().map(|row| row.into_iter().map(rounded).collect()).collect()))
}

/// `got` against a bᵀ in f64: within one ulp (2^-23) where sums are not rounded, which is everywhere in the reference and
/// for integers in f32 (only the scales are rounded). Elsewhere each of n additions loses up to half an ulp of what has
/// been summed so far, which for random errors comes to about the root of n: within that many ulp at the magnitude of the
/// sum of the terms' magnitudes.
fn assert_product(name: &str, got: &Tensor, [a, b]: [&[Vec<f64>]; 2], sums_are_exact: bool) -> Result<()> {
    let got = got.to_vec2::<f32>()?;
    assert_eq!((got.len(), got[0].len()), (a.len(), b.len()), "{name}");
    let most = (a[0].len() as f64).sqrt();
    for (i, row) in got.iter().enumerate() {
        for (j, got) in row.iter().enumerate() {
            let terms = || a[i].iter().zip(&b[j]).map(|(a, b)| a * b);
            let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let ulp = size.max(f64::from(f32::MIN_POSITIVE)).log2().floor().exp2() * 2f64.powi(-23);
            let error = (f64::from(*got) - exact).abs();
            if sums_are_exact {
                // The sum in f64 has errors of its own.
                let most = exact.abs() * 2f64.powi(-23) + size * 2f64.powi(-48);
                assert!(error <= most, "{name} [{i}, {j}]: {got}, exactly {exact}");
            }
            assert!(error <= most * ulp, "{name} [{i}, {j}]: {got}, exactly {exact}: {} ulp", error / ulp);
        }
    }
    Ok(())
}

#[test]
fn products_are_those_of_the_decoded_codes() -> Result<()> {
    for [n, d_in, d_out] in [[N, D_IN, D_OUT], [64, 96, 32]] {
        check_products(values(1, (n, d_in))?, values(2, (d_out, d_in))?, values(3, (n, d_out))?)?;
    }
    Ok(())
}

fn check_products(x: Tensor, w: Tensor, dy: Tensor) -> Result<()> {
    for (name, specs) in recipes() {
        let [input, weight, grad] = &specs;
        for kernels in Kernels::ALL {
            let (x_var, w_var) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);
            let y = quantized_linear(kernels, &x_var, &w_var, how(specs, Arc::default()))?;
            let gradients = (&y * &dy)?.sum_all()?.backward()?;
            let name = format!("{name}, {kernels}");
            let x_by_line = decoded(&x, Contraction::Columns, input, Role::Input)?;
            let w_by_line = decoded(&w, Contraction::Columns, weight, Role::Weight)?;
            let integers = [input, weight].iter().all(|spec| !spec.format.has_negative_zero());
            let reference = kernels == Kernels::Reference;
            let exact = integers || reference;
            assert_product(&format!("y, {name}"), &y.detach(), [&x_by_line, &w_by_line], exact)?;
            let dy_by_line = decoded(&dy, Contraction::Columns, grad, Role::Grad)?;
            let w_by_column = for_backward(&w, [weight, grad], Role::Weight)?;
            let dx = gradients.get(&x_var).expect("x gets a gradient");
            assert_product(&format!("dx, {name}"), dx, [&dy_by_line, &w_by_column], reference)?;
            let dy_by_column = for_backward(&dy, [grad, grad], Role::Grad)?;
            let x_by_column = for_backward(&x, [input, grad], Role::Input)?;
            let dw = gradients.get(&w_var).expect("w gets a gradient");
            assert_product(&format!("dw, {name}"), dw, [&dy_by_column, &x_by_column], reference)?;
        }
    }
    Ok(())
}

#[test]
fn threads_change_no_bit() -> Result<()> {
    for (_, specs) in recipes() {
        let op = |x: &[Tensor]| quantized_linear(Kernels::Portable, &x[0], &x[1], how(specs, Arc::default()));
        for (n, d_out) in [(192, D_OUT), (384, 256)] {
            let inputs = [values(1, (n, D_IN))?, values(2, (d_out, D_IN))?];
            same_bits_in_every_pool(|| value_and_gradients(op, &inputs))?;
        }
    }
    Ok(())
}

#[test]
fn f32_operands_give_the_plain_product() -> Result<()> {
    let full = [QuantSpec::unscaled(NumericFormat::Fp32); 3];
    let inputs = [values(1, (N, D_IN))?, values(2, (D_OUT, D_IN))?];
    let quantised =
        |x: &[Tensor]| quantized_linear(Kernels::Portable, &x[0], &x[1], how(full, Arc::default()));
    let plain = |x: &[Tensor]| crate::linear(Kernels::Portable, &x[0], &x[1]);
    let (quantised, plain) = (value_and_gradients(quantised, &inputs)?, value_and_gradients(plain, &inputs)?);
    for (quantised, plain) in quantised.iter().zip(&plain) {
        assert_eq!(bits(quantised)?, bits(plain)?);
    }
    Ok(())
}

/// In exact arithmetic smoothing does not change the function; with powers of two f32 is exact enough to show it.
#[test]
fn smoothing_changes_no_bit_of_an_f32_product() -> Result<()> {
    let full = [QuantSpec::unscaled(NumericFormat::Fp32); 3];
    let inputs = [values(1, (N, D_IN))?, values(2, (D_OUT, D_IN))?];
    let with = |smooth| {
        let op = move |x: &[Tensor]| {
            let how = QuantizedLinear { smooth, ..how(full, Arc::default()) };
            quantized_linear(Kernels::Portable, &x[0], &x[1], how)
        };
        value_and_gradients(op, &inputs)
    };
    for (smooth, plain) in with(true)?.iter().zip(&with(false)?) {
        assert_eq!(bits(smooth)?, bits(plain)?);
    }
    Ok(())
}

/// One channel a million times larger than the others: with one scale per tensor the others drown, smoothed they do not.
#[test]
fn smoothing_saves_small_channels_from_a_large_one() -> Result<()> {
    let spike: Vec<f32> = (0..D_IN).map(|j| if j == 7 { 3e6 } else { 1.0 }).collect();
    let spike = Tensor::from_vec(spike, (1, D_IN), &candle_core::Device::Cpu)?;
    let x = random(1, (N, D_IN))?.broadcast_mul(&spike)?;
    let w = random(2, (D_OUT, D_IN))?.broadcast_div(&spike)?;
    let exact = crate::linear(Kernels::Portable, &x, &w)?;
    let specs = [spec(NumericFormat::E4m3, Scaling::Tensor), QuantSpec::unscaled(NumericFormat::Bf16)];
    let noise = |smooth| -> Result<f32> {
        let how = QuantizedLinear { smooth, ..how([specs[0], specs[1], specs[1]], Arc::default()) };
        let y = quantized_linear(Kernels::Portable, &x, &w, how)?;
        (y - &exact)?.sqr()?.sum_all()?.to_scalar::<f32>()
    };
    let (smooth, plain) = (noise(true)?, noise(false)?);
    assert!(smooth * 4.0 < plain, "noise {smooth} smoothed, {plain} not");
    Ok(())
}

#[test]
fn the_observer_hears_of_every_operand_once_and_its_scale_is_used() -> Result<()> {
    let delayed = spec(NumericFormat::E4m3, Scaling::Delayed { history: 4, margin: 0 });
    let observer = Arc::new(Listener { scale: Some(0.5), ..Listener::default() });
    let x = Var::new(&[[1000f32, 1.0, -3.1]], &candle_core::Device::Cpu)?;
    let w = Var::new(&[[1f32, 1.0, 1.0]], &candle_core::Device::Cpu)?;
    let y = quantized_linear(Kernels::Portable, &x, &w, how([delayed; 3], observer.clone()))?;
    // 1000 / 0.5 saturates at 448; 3.1 / 0.5 = 6.2 rounds to 6.
    assert_eq!(y.to_vec2::<f32>()?, [[224.0 + 1.0 - 3.0]]);
    y.sum_all()?.backward()?;
    let heard = observer.heard.lock().unwrap().clone();
    assert_eq!(heard, [(Role::Input, 1, 3, 1000.0), (Role::Weight, 1, 3, 1.0), (Role::Grad, 1, 1, 1.0)]);
    Ok(())
}

#[test]
fn results_are_rounded_to_the_type_between_operations() -> Result<()> {
    let bf16 = [QuantSpec::unscaled(NumericFormat::Bf16); 3];
    let op = |x: &[Tensor]| {
        let how = QuantizedLinear { output: NumericFormat::Bf16, ..how(bf16, Arc::default()) };
        quantized_linear(Kernels::Portable, &x[0], &x[1], how)
    };
    let found = value_and_gradients(op, &[values(1, (N, D_IN))?, values(2, (D_OUT, D_IN))?])?;
    let rounded = |x: &Tensor| Ok::<_, candle_core::Error>(bits(x)?.iter().all(|bits| bits & 0xffff == 0));
    assert!(rounded(&found[0])? && rounded(&found[1])?, "y and dx are bf16");
    assert!(!rounded(&found[2])?, "dw stays in f32");
    Ok(())
}

#[test]
fn nan_and_infinity_are_seen() -> Result<()> {
    let x = Tensor::new(&[[f32::NAN, 1.0], [2.0, 3.0]], &candle_core::Device::Cpu)?;
    let w = Tensor::new(&[[1f32, 1.0]], &candle_core::Device::Cpu)?;
    for (name, specs) in recipes() {
        if specs.iter().any(|spec| spec.check(2, 2, Contraction::Columns).is_err()) {
            continue; // blocks longer than two
        }
        let y = quantized_linear(Kernels::Portable, &x, &w, how(specs, Arc::default()))?;
        let y = y.flatten_all()?.to_vec1::<f32>()?;
        assert!(y[0].is_nan() && y[1].is_finite(), "{name}: {y:?}");
    }
    Ok(())
}

#[test]
fn blocks_that_do_not_divide_are_an_error() -> Result<()> {
    let mx = [spec(NumericFormat::E4m3, Scaling::Mx); 3];
    let (x, w) = (random(1, (4, 33))?, random(2, (32, 33))?);
    for kernels in Kernels::ALL {
        let error = quantized_linear(kernels, &x, &w, how(mx, Arc::default())).unwrap_err().to_string();
        assert!(error.contains("32") && error.contains("33"), "{error}");
        assert!(quantized_linear(kernels, &x, &random(2, (4, 5))?, how(mx, Arc::default())).is_err());
    }
    Ok(())
}
