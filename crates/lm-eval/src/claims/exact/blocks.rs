//! Identities of feed-forward blocks, on the tensors and operations that training uses.

use anyhow::Context;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use ffn_variants::{Ffn, FfnConfig, FfnInit, FfnPreset, Precision, PrecisionPreset, PrecisionSection};
use kernels::Kernels;
use lm_train::model::{NamedVar, ParamStore};
use lm_train::rng::{Key, Purpose};

use super::{Check, Smoothing, Tolerance};

const D_MODEL: usize = 48;
const D_FF: usize = 96;
/// Rows of an input.
const TOKENS: usize = 64;
/// Weights of a size at which all terms of a block matter.
const INIT: FfnInit = FfnInit { std: 0.2, down_std: 0.2, norm_eps: 1e-5 };
/// Seed of weights and inputs.
const SEED: u64 = 0;

/// A block with its parameters.
struct Block {
    ffn: Ffn,
    params: ParamStore,
}

impl Block {
    fn new(preset: FfnPreset, kernels: Kernels, precision: &Precision) -> anyhow::Result<Self> {
        let params = ParamStore::new(SEED, DType::F32, &Device::Cpu);
        let config = FfnConfig { kind: preset.kind(), d_model: D_MODEL, d_ff: D_FF };
        let ffn = Ffn::new(&config, params.builder().pp("mlp"), kernels, INIT, precision)?;
        Ok(Self { ffn, params })
    }

    fn param(&self, name: &str) -> anyhow::Result<NamedVar> {
        let name = format!("mlp.{name}.weight");
        self.params.vars().into_iter().find(|var| var.name == name).with_context(|| format!("no {name}"))
    }

    fn set(&self, name: &str, value: &Tensor) -> anyhow::Result<()> {
        Ok(self.param(name)?.var.set(value)?)
    }
}

/// `rows` rows of standard normal numbers.
fn inputs(name: &str, rows: usize) -> anyhow::Result<Tensor> {
    let values = Key::new(SEED, Purpose::Init).named(name).normal_f32(rows * D_MODEL, 1.0);
    Ok(Tensor::from_vec(values, (rows, D_MODEL), &Device::Cpu)?)
}

/// Largest difference of two tensors, relative to the largest magnitude of the first.
fn relative(a: &Tensor, b: &Tensor) -> anyhow::Result<f64> {
    let largest = |x: &Tensor| -> anyhow::Result<f64> {
        Ok(f64::from(x.detach().abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
    };
    Ok(largest(&(a - b)?)? / largest(a)?)
}

fn gradient(grads: &GradStore, of: &Tensor, name: &str) -> anyhow::Result<Tensor> {
    grads.get(of).cloned().with_context(|| format!("no gradient reaches {name}"))
}

/// Values and gradients of squared ReLU beside those of ReGLU with W_gate = W_up.
pub(super) fn tied_reglu(bounds: &Tolerance) -> anyhow::Result<Vec<Check>> {
    let mut checks = Vec::new();
    for kernels in Kernels::ALL {
        let squared = Block::new(FfnPreset::ReluSquared, kernels, &Precision::full())?;
        let reglu = Block::new(FfnPreset::Reglu, kernels, &Precision::full())?;
        let up = squared.param("up_proj")?.var.as_tensor().copy()?;
        let down = squared.param("down_proj")?.var.as_tensor().copy()?;
        for (name, weight) in [("gate_proj", &up), ("up_proj", &up), ("down_proj", &down)] {
            reglu.set(name, weight)?;
        }
        let x = candle_core::Var::from_tensor(&inputs("x", TOKENS)?)?;
        let pull = inputs("gradient", TOKENS)?;
        let both = [&squared, &reglu].map(|block| -> anyhow::Result<(Tensor, GradStore)> {
            let y = block.ffn.forward(&x)?;
            let grads = (&y * &pull)?.sum_all()?.backward()?;
            Ok((y, grads))
        });
        let [squared_result, reglu_result] = both;
        let ((y, grads), (y_reglu, grads_reglu)) = (squared_result?, reglu_result?);
        let of = |block: &Block, grads: &GradStore, name: &str| -> anyhow::Result<Tensor> {
            gradient(grads, block.param(name)?.var.as_tensor(), name)
        };
        let tied = (of(&reglu, &grads_reglu, "gate_proj")? + of(&reglu, &grads_reglu, "up_proj")?)?;
        let differences = [
            ("output", relative(&y, &y_reglu)?),
            (
                "gradient of the input",
                relative(&gradient(&grads, &x, "x")?, &gradient(&grads_reglu, &x, "x")?)?,
            ),
            ("gradient of the tied weight", relative(&of(&squared, &grads, "up_proj")?, &tied)?),
            (
                "gradient of the down projection",
                relative(&of(&squared, &grads, "down_proj")?, &of(&reglu, &grads_reglu, "down_proj")?)?,
            ),
        ];
        for (what, difference) in differences {
            let asked = format!("at most {:e}", bounds.tolerance);
            let what = format!("relative difference of the {what} ({kernels})");
            checks.push(Check::asks(what, difference, asked, difference <= bounds.tolerance));
        }
    }
    Ok(checks)
}

/// Channels whose gate and up weights are parallel, and how much longer the gate's are.
const ALIGNED: usize = 4;
const GAIN: f64 = 4.0;
/// Ordinary batches before it.
const BEFORE: u64 = 8;

/// Smooth-SwiGLU in f32, and what it does for FP8 on a batch of outliers.
pub(super) fn smoothing(bounds: &Smoothing) -> anyhow::Result<Vec<Check>> {
    let exact = planted(PrecisionPreset::Fp32, false)?;
    let outliers = outliers(&exact)?;
    let hidden = exact.ffn.hidden(&outliers)?.detach();
    let down = exact.param("down_proj")?.var.as_detached_tensor();
    let wanted = exact.ffn.forward(&outliers)?.detach();
    // s_i = 1 / the channel's maximum, folded into the down projection.
    let largest = (hidden.abs()?.max_keepdim(0)? + 1e-12)?;
    let smoothed = hidden.broadcast_div(&largest)?.matmul(&down.broadcast_mul(&largest)?.t()?)?;
    let difference = relative(&wanted, &smoothed)?;
    let asked = format!("at most {:e}", bounds.tolerance);
    let identity = "relative difference of the output in f32, smoothed and not";
    let mut checks = vec![Check::asks(identity, difference, asked, difference <= bounds.tolerance)];

    let noise = |preset: PrecisionPreset, smooth: bool| -> anyhow::Result<f64> {
        let block = planted(preset, smooth)?;
        for step in 0..BEFORE {
            block.precision.begin_step(step, false);
            block.ffn.forward(&normed(&inputs(&format!("before {step}"), TOKENS)?)?)?;
        }
        block.precision.begin_step(BEFORE, false);
        signal_to_noise(&wanted, &block.ffn.forward(&outliers)?.detach())
    };
    let mut shown = |preset: PrecisionPreset, name: &str| -> anyhow::Result<[f64; 2]> {
        let [plain, smooth] = [noise(preset, false)?, noise(preset, true)?];
        for (db, how) in [(plain, "not smoothed"), (smooth, "smoothed")] {
            checks.push(
                Check::shows(format!("signal to noise of the output, {name} scaling, {how}"), db)
                    .in_unit("dB"),
            );
        }
        Ok([plain, smooth])
    };
    let [plain, smooth] = shown(PrecisionPreset::Fp8Delayed, "delayed")?;
    shown(PrecisionPreset::Fp8Current, "current")?;
    let gain = smooth - plain;
    let asked = format!("at least {} dB", bounds.gain_db);
    checks.push(
        Check::asks("gain by smoothing under delayed scaling", gain, asked, gain >= bounds.gain_db)
            .in_unit("dB"),
    );
    Ok(checks)
}

/// A SwiGLU block with aligned channels, in a precision.
struct Planted {
    block: Block,
    precision: Precision,
}

impl std::ops::Deref for Planted {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.block
    }
}

fn planted(preset: PrecisionPreset, smooth: bool) -> anyhow::Result<Planted> {
    let section =
        PrecisionSection { preset: Some(preset), smooth: smooth.then_some(true), ..Default::default() };
    let recipe = section.resolve().map_err(|error| error.in_section())?;
    let precision = Precision::new(recipe, SEED);
    let block = Block::new(FfnPreset::Swiglu, Kernels::Portable, &precision)?;
    let mut up: Vec<Vec<f32>> = block.param("up_proj")?.var.to_vec2()?;
    let mut gate: Vec<Vec<f32>> = block.param("gate_proj")?.var.to_vec2()?;
    let direction = up[0].clone();
    for channel in 0..ALIGNED {
        let sign = if channel % 2 == 0 { GAIN } else { -GAIN };
        gate[channel] = direction.iter().map(|x| (f64::from(*x) * sign) as f32).collect();
        up[channel].clone_from(&direction);
    }
    for (name, rows) in [("up_proj", up), ("gate_proj", gate)] {
        block.set(name, &Tensor::new(rows, &Device::Cpu)?)?;
    }
    Ok(Planted { block, precision })
}

/// Ordinary inputs, of which every other one lies along the direction of the aligned channels, either way. All have the
/// length that the norm before a block gives, so that what is out of the ordinary is the product of the branches alone.
fn outliers(block: &Block) -> anyhow::Result<Tensor> {
    let up: Vec<Vec<f32>> = block.param("up_proj")?.var.to_vec2()?;
    let mut rows: Vec<Vec<f32>> = inputs("outliers", TOKENS)?.to_vec2()?;
    for (i, row) in rows.iter_mut().enumerate().filter(|(i, _)| i % 2 == 0) {
        let sign = if i % 4 == 0 { 1.0 } else { -1.0 };
        *row = up[0].iter().map(|x| sign * x).collect();
    }
    normed(&Tensor::new(rows, &Device::Cpu)?)
}

/// Every row divided by its root mean square.
fn normed(x: &Tensor) -> anyhow::Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.mean_keepdim(1)?.sqrt()?)?)
}

/// Decibels of `wanted` over what `found` differs from it.
fn signal_to_noise(wanted: &Tensor, found: &Tensor) -> anyhow::Result<f64> {
    let power = |x: &Tensor| -> anyhow::Result<f64> {
        Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?)
    };
    Ok(10.0 * (power(wanted)? / power(&(wanted - found)?)?).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tied_reglu_is_squared_relu_and_untied_is_not() {
        let checks = tied_reglu(&Tolerance { tolerance: 2e-6 }).unwrap();
        assert_eq!(checks.len(), 4 * Kernels::ALL.len());
        assert!(checks.iter().all(|check| check.holds), "{checks:#?}");
        let squared = Block::new(FfnPreset::ReluSquared, Kernels::Portable, &Precision::full()).unwrap();
        let reglu = Block::new(FfnPreset::Reglu, Kernels::Portable, &Precision::full()).unwrap();
        let x = inputs("x", TOKENS).unwrap();
        let apart = relative(&squared.ffn.forward(&x).unwrap(), &reglu.ffn.forward(&x).unwrap()).unwrap();
        assert!(apart > 0.1, "weights that are not tied: {apart}");
    }

    #[test]
    fn smoothing_is_an_identity_and_helps_delayed_scaling() {
        let checks = smoothing(&Smoothing { tolerance: 2e-6, gain_db: 3.0 }).unwrap();
        assert!(checks.iter().all(|check| check.holds && check.value.is_finite()), "{checks:#?}");
        let strict = smoothing(&Smoothing { tolerance: 2e-6, gain_db: 200.0 }).unwrap();
        assert!(strict.iter().any(|check| !check.holds));
    }

    #[test]
    fn decibels_by_hand() {
        let one = Tensor::new(&[1f32, 2.0, 2.0], &Device::Cpu).unwrap();
        let other = Tensor::new(&[1f32, 2.0, 2.3], &Device::Cpu).unwrap();
        assert!((signal_to_noise(&one, &other).unwrap() - 20.0).abs() < 1e-4);
    }
}
