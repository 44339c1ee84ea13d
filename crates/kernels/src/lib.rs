//! Candle operations with backward that decide how fast a training step is on a CPU.
//!
//! Each operation exists twice. The *reference* is a few differentiable Candle calls: it says what the
//! operation means, runs on every device and in every floating-point type, and is what the tests compare
//! with. The *portable* version is a custom operation for `f32` on the CPU: one pass over memory, parallel
//! over rows, blocks or heads, in plain Rust loops that the compiler vectorises for the CPU at hand. Which
//! one runs is a value, [`Kernels`], passed to every call.
//!
//! Invariants:
//! - Every operation passes gradients on. Candle's fused norm, softmax and RoPE do not, and are not used.
//! - Results do not depend on the number of threads: work is cut by shape alone and partial sums are added in
//!   a fixed order.
//! - The last bits of matrix products differ between kinds of CPU, but not with the pinned instruction set: on
//!   x86-64 with FMA they come from `f32_matmul`, small ones and those of other CPUs from the `gemm` crate, and those of
//!   operands below f32 from AMX, where there is one. All other arithmetic gives the same bits on every CPU.
//!
//! Shape suffixes: `b` batch, `t` time, `h` head, `d` feature, `n` token (batch and time flattened), `v`
//! vocabulary.

mod selection;
pub mod simd;

pub mod math;

mod buffers;
mod f32_matmul;
mod matmul;

mod bf16_matmul;
mod row_operands;
mod row_tasks;

mod linear;
mod quantized;
mod round;
mod scaled_matmul;

mod pointwise;
mod rms_norm;
mod rope;

mod attention;
mod cross_entropy;
mod embedding;
mod gathered;
mod heads;

pub mod profile;

mod fused;

mod adamw;
mod grad_norm;

#[cfg(test)]
mod testing;

pub use adamw::{AdamWStep, AdamWTensor, adamw_step};
pub use attention::causal_attention;
pub use cross_entropy::{cross_entropy, token_losses};
pub use embedding::embedding;
pub use fused::{
    AttentionBlock, Branch, FfnBlock, Formats, HeadLoss, Norm, Projection, ResidualBlock, Saving,
    residual_blocks,
};
pub use gathered::backward;
pub use grad_norm::grad_sq_norm;
pub use linear::linear;
pub use numerics::multiversion;
pub use pointwise::{Pointwise, gated, ungated};
pub use quantized::{Matrix, Observer, QuantizedLinear, Role, quantized_linear};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use round::{quantize_in_place, round};
pub use selection::{Kernels, UnknownKernels};
