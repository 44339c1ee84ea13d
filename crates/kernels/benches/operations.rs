//! Forward and backward of every operation at the sizes of the reference model (4,096 tokens, d_model 256, 8 heads,
//! d_ff 688, 4,096 ids), plain Candle beside the portable version, and whole blocks; on CPUs with AMX also products of
//! bf16 operands, which the pin of another instruction set multiplies as f32.
//!
//!     cargo bench -p kernels
//!     cargo bench -p kernels -- attention
//!     FFNLAB_ISA=avx512 cargo bench -p kernels -- bf16

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::{
    AttentionBlock, Branch, FfnBlock, Formats, HeadLoss, Kernels, Matrix, Norm, Observer, Pointwise,
    Projection, QuantizedLinear, Role, Saving, multiversion,
};
use numerics::simd::{Isa, isa, widest};
use numerics::{NumericFormat, Operand, QuantSpec};

const BATCH: usize = 16;
const TIME: usize = 256;
const HEADS: usize = 8;
const D: usize = 256;
const D_FF: usize = 688;
const VOCAB: usize = 4096;
const EPS: f64 = 1e-5;

/// SiLU, the function of SwiGLU's gate.
#[derive(Debug)]
struct Silu;

/// x.
#[derive(Debug)]
struct Identity;

multiversion! {
    fn silu(x: &[f32], y: &mut [f32]) {
        for (&x, y) in x.iter().zip(y) {
            *y = x * kernels::math::sigmoid(x);
        }
    }

    fn silu_and_slope(x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
        for ((&x, y), slope) in x.iter().zip(y).zip(dydx) {
            let gate = kernels::math::sigmoid(x);
            (*y, *slope) = (x * gate, gate * (1.0 + x * (1.0 - gate)));
        }
    }
}

impl Pointwise for Silu {
    fn value(&self, x: &[f32], y: &mut [f32]) {
        silu(x, y);
    }

    fn value_and_derivative(&self, x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
        silu_and_slope(x, y, dydx);
    }
}

impl Pointwise for Identity {
    fn value(&self, x: &[f32], y: &mut [f32]) {
        y.copy_from_slice(x);
    }

    fn value_and_derivative(&self, x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
        y.copy_from_slice(x);
        dydx.fill(1.0);
    }
}

/// A trainable tensor of small values.
fn var(shape: &[usize]) -> Tensor {
    let value = |i: usize| (i.wrapping_mul(7919) % 2003) as f32 / 20030.0 - 0.05;
    let values = (0..shape.iter().product()).map(value).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor can be made");
    Var::from_tensor(&tensor).expect("a variable can be made").as_tensor().clone()
}

fn ids(bound: usize) -> Tensor {
    let values: Vec<u32> = (0..BATCH * TIME).map(|i| (i.wrapping_mul(7919) % bound) as u32).collect();
    Tensor::from_vec(values, BATCH * TIME, &Device::Cpu).expect("a tensor can be made")
}

/// Forward, a sum where the result is no scalar, and backward.
fn both_ways(op: impl Fn() -> Result<Tensor>) {
    let run = || op()?.sum_all()?.backward();
    black_box(run().expect("the operation runs"));
}

fn operations(c: &mut Criterion) {
    let (x, wide) = (var(&[BATCH * TIME, D]), var(&[BATCH * TIME, D_FF]));
    let (norm, weight, table) = (var(&[D]), var(&[D_FF, D]), var(&[VOCAB, D]));
    let heads = [(); 3].map(|()| var(&[BATCH, TIME, HEADS, D / HEADS]));
    let [cos, sin] = [(); 2].map(|()| var(&[TIME, D / HEADS / 2]).detach());
    let logits = var(&[BATCH * TIME, VOCAB]);
    let ids = ids(VOCAB);
    let [q, k, v] = &heads;
    for kernels in Kernels::ALL {
        let mut group = c.benchmark_group(kernels.name());
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        let mut bench = |name: &str, op: &dyn Fn() -> Result<Tensor>| {
            group.bench_function(name, |b| b.iter(|| both_ways(op)));
        };
        bench("embedding", &|| kernels::embedding(kernels, &table, &ids));
        bench("rms_norm", &|| kernels::rms_norm(kernels, &x, &norm, EPS));
        bench("linear", &|| kernels::linear(kernels, &x, &weight));
        bench("rope", &|| kernels::rope(kernels, q, &cos, &sin));
        bench("attention", &|| kernels::causal_attention(kernels, q, k, v, 0.2, NumericFormat::Fp32));
        bench("silu * up", &|| match kernels {
            Kernels::Reference => wide.silu()? * &wide,
            Kernels::Portable => kernels::gated(kernels, &wide, &wide, Arc::new(Silu), Arc::new(Identity)),
        });
        bench("cross_entropy", &|| kernels::cross_entropy(kernels, &logits, &ids));
        group.finish();
    }
}

fn blocks(c: &mut Criterion) {
    let x = var(&[BATCH, TIME, D]);
    let norm = Norm { weight: var(&[D]), eps: EPS };
    let projection = |d_out, d_in| Projection { weight: var(&[d_out, d_in]), low: None };
    let rotary = [(); 2].map(|()| Tensor::zeros((TIME, D / HEADS / 2), DType::F32, &Device::Cpu));
    let attention = AttentionBlock {
        norm: norm.clone(),
        qkv: [(); 3].map(|()| projection(D, D)),
        sub_norm: None,
        o: projection(D, D),
        rotary: rotary.map(|table| table.expect("a tensor can be made")),
        n_head: HEADS,
        scale: 0.2,
        formats: Formats::FULL,
    };
    let ffn = FfnBlock {
        norm: norm.clone(),
        gate: Some(Branch { projection: projection(D_FF, D), function: Arc::new(Silu) }),
        up: Branch { projection: projection(D_FF, D), function: Arc::new(Identity) },
        sub_norm: None,
        down: projection(D, D_FF),
        formats: Formats::FULL,
    };
    let head = HeadLoss { norm, head: projection(VOCAB, D), formats: Formats::FULL };
    let (flat, targets) = (var(&[BATCH * TIME, D]), ids(VOCAB));
    let mut group = c.benchmark_group("blocks");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (name, saving) in [("", Saving::Keep), (", computed again", Saving::Recompute)] {
        group.bench_function(format!("attention{name}"), |b| {
            b.iter(|| both_ways(|| attention.forward(&x, saving)));
        });
        group.bench_function(format!("feed-forward{name}"), |b| {
            b.iter(|| both_ways(|| ffn.forward(&x, saving)));
        });
    }
    group.bench_function("head and loss", |b| b.iter(|| both_ways(|| head.forward(&flat, &targets))));
    group.finish();
}

/// Nothing is kept between steps.
#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn delayed_scale(&self, _: Role, _: &QuantSpec) -> Option<f32> {
        None
    }

    fn key(&self, _: Role) -> u64 {
        0
    }

    fn looks(&self) -> bool {
        false
    }

    fn passed(&self, _: Role, _: u64) {}

    fn measured(&self, _: Role, _: &QuantSpec, _: f32) {}

    fn quantised(&self, _: Role, _: Matrix<'_>, _: &QuantSpec, _: &Operand) {}
}

/// A linear map of bf16 operands, three products forward and backward, with the roundings that belong to it.
fn bf16_products(c: &mut Criterion) {
    if widest() != Isa::Amx {
        println!("bf16 on AMX: skipped, this CPU has none");
        return;
    }
    let (x, weight) = (var(&[BATCH * TIME, D]), var(&[D_FF, D]));
    let spec = QuantSpec::unscaled(NumericFormat::Bf16);
    let mut group = c.benchmark_group("bf16");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.bench_function(format!("linear, {}", isa()), |b| {
        b.iter(|| {
            both_ways(|| {
                let (output, observer) = (NumericFormat::Bf16, Arc::new(Nobody));
                let how = QuantizedLinear {
                    input: spec,
                    weight: spec,
                    grad: spec,
                    output,
                    smooth: false,
                    observer,
                };
                kernels::quantized_linear(Kernels::Portable, &x, &weight, how)
            });
        });
    });
    group.finish();
}

criterion_group!(benches, operations, blocks, bf16_products);
criterion_main!(benches);
