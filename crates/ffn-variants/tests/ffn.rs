//! The block as a module: counts, gradients, both kernel paths, and an identity from the literature.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{D, DType, Device, Result, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use common::{activations, values};
use ffn_variants::precision::LinearRole;
use ffn_variants::{Activation, Ffn, FfnConfig, FfnInit, FfnKind, FfnPreset, Linear, Precision};
use kernels::Kernels;

const INIT: FfnInit = FfnInit { std: 0.4, down_std: 0.1, norm_eps: 1e-5 };

/// Parameters by name, with the initialisation that was asked for.
type Parameters = BTreeMap<String, (Var, Init)>;

/// Supplies variables whose values depend on their name and shape alone.
#[derive(Clone, Default)]
struct KeyedParameters(Arc<Mutex<Parameters>>);

impl SimpleBackend for KeyedParameters {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> Result<Tensor> {
        let Init::Randn { mean: _, stdev } = init else {
            candle_core::bail!("{name} should be drawn from a normal distribution");
        };
        let var = Var::from_tensor(&(noise(name, shape)? * stdev)?.to_dtype(dtype)?)?;
        let tensor = var.as_tensor().clone();
        self.0.lock().unwrap().insert(name.into(), (var, init));
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Uniform numbers with variance 1 from the name (FNV-1a) and the index (splitmix64).
fn noise(name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let shape = shape.into();
    let numbers = (0..shape.elem_count() as u64).map(|i| {
        let z = key.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = (z ^ (z >> 31)) as f64 / 2f64.powi(64);
        (unit - 0.5) * 12f64.sqrt()
    });
    Tensor::from_vec(numbers.collect(), shape, &Device::Cpu)
}

fn config(kind: FfnKind) -> FfnConfig {
    FfnConfig { kind, d_model: 12, d_ff: 20 }
}

fn build(config: &FfnConfig, kernels: Kernels, dtype: DType) -> Result<(Ffn, Parameters)> {
    let backend = KeyedParameters::default();
    let vb = VarBuilder::from_backend(Box::new(backend.clone()), dtype, Device::Cpu);
    let ffn = Ffn::new(config, vb, kernels, INIT, &Precision::full())?;
    let parameters = backend.0.lock().unwrap().clone();
    Ok((ffn, parameters))
}

fn input(dtype: DType) -> Result<Tensor> {
    noise("x", (2, 5, 12))?.to_dtype(dtype)
}

/// Every preset, and every activation both ungated and as a gate.
fn kinds() -> Vec<FfnKind> {
    let presets = FfnPreset::ALL.into_iter().map(|preset| preset.kind());
    let plain = activations().into_iter().flat_map(|activation| {
        let up = Activation::Identity;
        let gate = activation;
        [FfnKind::Ungated { activation }, FfnKind::Gated { gate, up }]
    });
    presets.chain(plain).collect()
}

/// Gradients by the name of what they belong to; `x` is one of the names.
type Gradients = BTreeMap<String, Vec<f64>>;

/// The output, and the gradients of a fixed weighted sum of it.
fn output_and_gradients(kind: FfnKind, kernels: Kernels, dtype: DType) -> Result<(Vec<f64>, Gradients)> {
    let (ffn, parameters) = build(&config(kind), kernels, dtype)?;
    let x = Var::from_tensor(&input(dtype)?)?;
    let y = ffn.forward(&x)?;
    let weights = noise("loss", y.shape())?.to_dtype(dtype)?;
    let gradients = (&y * weights)?.sum_all()?.backward()?;
    let inputs = [("x".to_owned(), x)].into_iter();
    let vars = parameters.into_iter().map(|(name, (var, _))| (name, var));
    let by_name = inputs.chain(vars).map(|(name, var)| {
        let Some(gradient) = gradients.get(&var) else {
            candle_core::bail!("{kind}: no gradient for {name}");
        };
        assert_eq!(gradient.dims(), var.dims(), "{kind}: {name}");
        Ok((name, values(gradient)?))
    });
    Ok((values(&y)?, by_name.collect::<Result<_>>()?))
}

#[test]
fn every_parameter_gets_a_finite_nonzero_gradient_on_both_paths() -> Result<()> {
    for kind in kinds() {
        for kernels in Kernels::ALL {
            for dtype in [DType::F32, DType::BF16] {
                let (output, gradients) = output_and_gradients(kind, kernels, dtype)?;
                assert!(output.iter().all(|y| y.is_finite()), "{kind} {kernels}");
                assert_eq!(gradients.len(), kind.num_matrices() + 1);
                for (name, gradient) in gradients {
                    let finite = gradient.iter().all(|g| g.is_finite());
                    let nonzero = gradient.iter().any(|g| *g != 0.0);
                    assert!(finite && nonzero, "{kind} {kernels} {dtype:?}: {name}");
                }
            }
        }
    }
    Ok(())
}

/// Largest difference relative to the largest entry of `b`.
fn relative_gap(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0, |m: f64, b| m.max(b.abs()));
    let gap = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gap.fold(0.0, f64::max) / scale
}

#[test]
fn both_paths_agree_with_f64_in_value_and_gradient() -> Result<()> {
    for kind in kinds() {
        // A steep Swish magnifies the rounding of its f32 input by beta.
        let tolerance = if kind.to_string().contains("beta=1000") { 5e-4 } else { 1e-6 };
        let (exact, exact_gradients) = output_and_gradients(kind, Kernels::Reference, DType::F64)?;
        for kernels in Kernels::ALL {
            let (output, gradients) = output_and_gradients(kind, kernels, DType::F32)?;
            let gap = relative_gap(&output, &exact);
            assert!(gap < tolerance, "{kind} {kernels}: output off by {gap:e}");
            for (name, want) in &exact_gradients {
                let gap = relative_gap(&gradients[name], want);
                assert!(gap < tolerance, "{kind} {kernels}: {name} off by {gap:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_formula_is_what_is_computed() -> Result<()> {
    let (ffn, parameters) = build(&config(FfnPreset::Gtu.kind()), Kernels::Portable, DType::F32)?;
    let x = input(DType::F32)?.reshape((10, 12))?;
    let times = |name: &str| x.matmul(&parameters[name].0.t()?);
    let gate = candle_nn::ops::sigmoid(&times("gate_proj.weight")?)?;
    let hidden = (gate * times("up_proj.weight")?.tanh()?)?;
    assert!(relative_gap(&values(&ffn.hidden(&x)?)?, &values(&hidden)?) < 1e-6);
    let y = hidden.matmul(&parameters["down_proj.weight"].0.t()?)?;
    assert!(relative_gap(&values(&ffn.forward(&x)?)?, &values(&y)?) < 1e-6);
    Ok(())
}

#[test]
fn counts_and_shapes_are_those_of_the_real_tensors() -> Result<()> {
    for preset in FfnPreset::ALL {
        let config = config(preset.kind());
        let (ffn, parameters) = build(&config, Kernels::Portable, DType::F32)?;
        let real = parameters.iter().map(|(name, (var, _))| (name.as_str(), var.shape().clone()));
        let claimed: BTreeMap<&str, Shape> = config.parameters().into_iter().collect();
        assert_eq!(real.collect::<BTreeMap<_, _>>(), claimed, "{preset}");
        let elements: usize = parameters.values().map(|(var, _)| var.elem_count()).sum();
        assert_eq!(config.num_params(), elements, "{preset}");
        assert_eq!(config.flops_per_token().matmul, 2 * elements as u64, "{preset}");
        let x = input(DType::F32)?;
        assert_eq!(ffn.forward(&x)?.dims(), x.dims());
        assert_eq!(ffn.hidden(&x)?.dim(D::Minus1)?, config.d_ff);
        assert_eq!(config.name(), preset.name());
    }
    Ok(())
}

#[test]
fn elementwise_operations_are_counted_apart() {
    let flops = config(FfnPreset::Swiglu.kind()).flops_per_token();
    // Three 12 x 20 matrices; four operations of SiLU and one product per hidden unit.
    assert_eq!((flops.matmul, flops.elementwise), (2 * 3 * 240, 5 * 20));
    assert_eq!(flops.total(), 1540);
    let flops = config(FfnPreset::Relu.kind()).flops_per_token();
    assert_eq!((flops.matmul, flops.elementwise), (2 * 2 * 240, 20));
}

#[test]
fn initialisation_hints_reach_each_parameter() -> Result<()> {
    let (_, parameters) = build(&config(FfnPreset::Swiglu.kind()), Kernels::Portable, DType::F32)?;
    for (name, want) in
        [("gate_proj.weight", INIT.std), ("up_proj.weight", INIT.std), ("down_proj.weight", INIT.down_std)]
    {
        let init = parameters[name].1;
        let Init::Randn { mean, stdev } = init else {
            panic!("{name}: {init:?}");
        };
        assert_eq!((mean, stdev), (0.0, want), "{name}");
    }
    Ok(())
}

/// So et al. 2021 (arXiv 2109.08668, section 3): squared ReLU is ReGLU with W_gate = W_up.
#[test]
fn relu_squared_is_reglu_with_tied_weights() -> Result<()> {
    for kernels in Kernels::ALL {
        let (squared, squared_parameters) =
            build(&config(FfnPreset::ReluSquared.kind()), kernels, DType::F32)?;
        let (reglu, reglu_parameters) = build(&config(FfnPreset::Reglu.kind()), kernels, DType::F32)?;
        let up = &squared_parameters["up_proj.weight"].0;
        reglu_parameters["gate_proj.weight"].0.set(up)?;

        let x = Var::from_tensor(&input(DType::F32)?)?;
        let (y_squared, y_reglu) = (squared.forward(&x)?, reglu.forward(&x)?);
        assert!(relative_gap(&values(&y_reglu)?, &values(&y_squared)?) < 1e-6);

        let weights = noise("loss", y_squared.shape())?.to_dtype(DType::F32)?;
        let gradients = |y: Tensor| (y * &weights)?.sum_all()?.backward();
        let (of_squared, of_reglu) = (gradients(y_squared)?, gradients(y_reglu)?);
        let gap =
            |a: &Tensor, b: &Tensor| Ok::<_, candle_core::Error>(relative_gap(&values(a)?, &values(b)?));
        let get =
            |store: &candle_core::backprop::GradStore, var: &Var| store.get(var).expect("a gradient").clone();
        assert!(gap(&get(&of_reglu, &x), &get(&of_squared, &x))? < 2e-6);
        let down = "down_proj.weight";
        let (down_reglu, down_squared) = (&reglu_parameters[down].0, &squared_parameters[down].0);
        assert!(gap(&get(&of_reglu, down_reglu), &get(&of_squared, down_squared))? < 2e-6);
        // The tied weight's gradient is the sum over both of its places.
        let gate = get(&of_reglu, &reglu_parameters["gate_proj.weight"].0);
        let tied = (gate + get(&of_reglu, &reglu_parameters["up_proj.weight"].0))?;
        assert!(gap(&tied, &get(&of_squared, up))? < 2e-6);
    }
    Ok(())
}

#[test]
fn a_linear_layer_can_share_a_weight() -> Result<()> {
    let weight = noise("shared", (7, 12))?.to_dtype(DType::F32)?;
    for kernels in Kernels::ALL {
        let linear =
            Linear::from_weight(weight.clone(), "linear", kernels, &Precision::full(), LinearRole::Head);
        let y = linear.forward(&input(DType::F32)?)?;
        let want = input(DType::F32)?.reshape((10, 12))?.matmul(&linear.weight().t()?)?;
        assert_eq!(y.dims(), [2, 5, 7]);
        assert!(relative_gap(&values(&y)?, &values(&want)?) < 1e-6);
    }
    Ok(())
}

#[test]
fn a_wrong_width_is_an_error() -> Result<()> {
    let (ffn, _) = build(&config(FfnPreset::Swiglu.kind()), Kernels::Portable, DType::F32)?;
    assert!(ffn.forward(&noise("x", (2, 13))?.to_dtype(DType::F32)?).is_err());
    Ok(())
}
