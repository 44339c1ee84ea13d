//! What probes see of a block is what the block computes.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use ffn_variants::{
    Activation, BranchName, Ffn, FfnConfig, FfnInit, FfnKind, FfnPreset, Precision, PrecisionPreset,
};
use kernels::Kernels;

const D_MODEL: usize = 128;
const D_FF: usize = 256;

/// Numbers between -1 and 1, different for every name.
fn noise(name: &str, rows: usize, cols: usize) -> Tensor {
    let seed = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let value = |i: u32| {
        let x = (i ^ seed).wrapping_mul(0x7feb_352d);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        f64::from(x ^ (x >> 16)) / 2f64.powi(31) - 1.0
    };
    let values: Vec<f32> = (0..(rows * cols) as u32).map(|i| value(i) as f32).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
}

fn block(kind: FfnKind, kernels: Kernels, precision: PrecisionPreset) -> Ffn {
    let weight = |name: &str, rows, cols| (format!("{name}.weight"), noise(name, rows, cols));
    let norm = Tensor::ones(D_FF, DType::F32, &Device::Cpu).unwrap();
    let tensors = HashMap::from([
        weight("gate_proj", D_FF, D_MODEL),
        weight("up_proj", D_FF, D_MODEL),
        weight("down_proj", D_MODEL, D_FF),
        ("ffn_sub_norm.weight".to_owned(), norm),
    ]);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let config = FfnConfig { kind, d_model: D_MODEL, d_ff: D_FF };
    let init = FfnInit { std: 1.0, down_std: 1.0, norm_eps: 1e-5 };
    let precision = Precision::new(precision.recipe(), 1).for_evaluation();
    Ffn::new(&config, vb, kernels, init, &precision).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_inside_leads_to_the_result() {
    let x = noise("x", 32, D_MODEL);
    for (preset, kernels) in FfnPreset::ALL.into_iter().flat_map(|p| Kernels::ALL.map(|k| (p, k))) {
        for precision in [PrecisionPreset::Fp32, PrecisionPreset::Bf16, PrecisionPreset::BitnetB158] {
            let ffn = block(preset.kind(), kernels, precision);
            let inside = ffn.inside(&x).unwrap();
            let result = ffn.project(&inside.hidden).unwrap();
            assert_eq!(
                values(&result),
                values(&ffn.forward(&x).unwrap()),
                "{preset:?} {kernels} {precision}"
            );
            let names: Vec<BranchName> = inside.branches.iter().map(|branch| branch.name).collect();
            match preset.kind() {
                FfnKind::Ungated { activation } => {
                    assert_eq!(names, [BranchName::Up]);
                    assert_eq!(inside.branches[0].activation, activation);
                }
                FfnKind::Gated { gate, up } => {
                    assert_eq!(names, [BranchName::Gate, BranchName::Up]);
                    assert_eq!([inside.branches[0].activation, inside.branches[1].activation], [gate, up]);
                }
            }
        }
        // The branches hold what the functions were applied to.
        let inside = block(preset.kind(), kernels, PrecisionPreset::Fp32).inside(&x).unwrap();
        let branches: Vec<Vec<f32>> =
            inside.branches.iter().map(|branch| values(&branch.preactivation)).collect();
        for (i, &h) in values(&inside.hidden).iter().enumerate() {
            let of = |(branch, x): (&ffn_variants::Branch, &Vec<f32>)| {
                branch.activation.value_f64(f64::from(x[i]))
            };
            let expected: f64 = inside.branches.iter().zip(&branches).map(of).product();
            assert!(
                (f64::from(h) - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{preset:?}: {h} {expected}"
            );
        }
    }
}

/// Hidden activations of -1, 0 and 1 have codes in every format, so what is left of a difference is the weight's.
#[test]
fn the_weight_of_a_product_is_the_one_that_is_multiplied() {
    let hidden = ((noise("hidden", 32, D_FF) * 1.5).unwrap().round().unwrap()).clamp(-1f32, 1f32).unwrap();
    for precision in PrecisionPreset::ALL {
        let ffn = block(FfnPreset::Swiglu.kind(), Kernels::Portable, precision);
        let found = ffn.project(&hidden).unwrap();
        let error = |weight: &Tensor| {
            let expected = hidden.matmul(&weight.t().unwrap()).unwrap();
            let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            norm(&(&found - &expected).unwrap()) / norm(&expected)
        };
        let seen = ffn.down_weight().unwrap();
        assert_eq!(seen.dims(), [D_MODEL, D_FF]);
        assert!(error(&seen) < 0.005, "{precision}: {}", error(&seen));
        let stored = noise("down_proj", D_MODEL, D_FF);
        match precision {
            PrecisionPreset::Fp32 => assert_eq!(values(&seen), values(&stored)),
            // Far enough from what is stored that the test tells them apart.
            PrecisionPreset::Mxfp4 | PrecisionPreset::Nvfp4 | PrecisionPreset::BitnetB158 => {
                assert!(error(&stored) > 0.05, "{precision}: {}", error(&stored));
            }
            other => assert!(error(&stored) < 0.05, "{other}: {}", error(&stored)),
        }
    }
}

#[test]
fn units_can_die_where_a_function_is_flat_and_zero() {
    for activation in Activation::ALL {
        let gone = |x: f64| activation.value_f64(x) == 0.0 && activation.derivative_f64(x) == 0.0;
        let flat = (-40..40).map(|i| f64::from(i) / 2.0).any(|x| gone(x) && gone(x + 0.5));
        assert_eq!(activation.can_die(), flat, "{activation}");
    }
}
