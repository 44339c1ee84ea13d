//! Whole residual blocks as one operation each, with a backward pass written by hand.
//!
//! Candle's graph costs as much as the matrix products: its backward pass makes a tensor of zeros for every
//! edge and adds to it, every operation writes a fresh tensor, and what the forward pass made lives until the
//! loss is dropped. Here one edge enters a block and one leaves it. Inside, sums of the residual stream and of
//! input gradients happen in the matrix products, cheap values are made again in the backward pass instead of
//! being kept, and the logits of all tokens never exist at once.
//!
//! What a block computes is defined by the single operations of this crate; the tests compare the two. All of
//! them run `f32` on the CPU; products and the values between them may be rounded as a recipe below f32 says.
//!
//! A custom operation of Candle has three arguments at most, a block alone has up to six weights. They enter through
//! a [`Relay`](relay::Relay): one scalar that depends on all of them. [`backward`](crate::backward) takes their gradients from there.

mod attention_block;
mod attention_rows;
mod attention_tiles;
mod backward_rows;
mod ffn_block;
mod ffn_rows;
mod ffn_rows_back;
mod ffn_tiles;
mod forward_rows;
mod head_loss;
mod head_tiles;
mod left_blocks;
mod projection;
mod relay;
mod residual_blocks;
mod row_products;
mod row_projections;
mod tiles_to_input;

pub use attention_block::AttentionBlock;
pub use ffn_block::{Branch, FfnBlock};
pub use head_loss::HeadLoss;
pub use projection::Projection;
pub use residual_blocks::{ResidualBlock, residual_blocks};

use crate::profile::{Part, Work, span};
use crate::rms_norm;
use crate::round::{round_in_place, round_rows};
use crate::row_tasks::ROW_UNIT;
use candle_core::Tensor;
use numerics::NumericFormat;
use std::borrow::Cow;
use std::ops::Range;

// A norm's sums over rows are not cut by the cut into tasks.
const _: () = assert!(ROW_UNIT.is_multiple_of(rms_norm::ROWS_PER_SUM));
#[cfg(target_arch = "x86_64")]
const _: () = assert!(crate::row_tasks::ROW_UNIT_ON_TILES.is_multiple_of(rms_norm::ROWS_PER_SUM));

/// An RMSNorm: its weight \[d\] and what is added to the mean square.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Weight \[d\].
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f64,
}

impl Norm {
    fn forward(&self, x: &[f32], w: &[f32], format: NumericFormat) -> (Vec<f32>, Vec<f32>) {
        span(Part::Norm, Work::floats(2 * x.len()), || {
            rms_norm::forward(x, w, self.eps as f32, |y| round_rows(y, format))
        })
    }
}

/// The output of a norm again, from the `rstd` that its forward pass kept.
fn norm_again(x: &[f32], w: &[f32], rstd: &[f32], format: NumericFormat) -> Vec<f32> {
    span(Part::Norm, Work::floats(2 * x.len()), || rms_norm::again(x, w, rstd, |y| round_rows(y, format)))
}

/// dx (plus `residual`) and dw of a norm. dy is rounded as its y was.
fn norm_backward(
    [x, w, rstd]: [&[f32]; 3],
    mut dy: Vec<f32>,
    residual: Option<&[f32]>,
    format: NumericFormat,
) -> (Vec<f32>, Vec<f32>) {
    span(Part::Norm, Work::floats(4 * x.len()), || {
        round_in_place(&mut dy, format);
        rms_norm::backward(x, w, rstd, &dy, residual)
    })
}

/// Some rows of a matrix with so many columns.
fn rows_of<'a>(x: &'a [f32], rows: &Range<usize>, cols: usize) -> &'a [f32] {
    &x[rows.start * cols..rows.end * cols]
}

/// Types to which values between operations are rounded, and their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Results of norms, products, rotations, attention and activations.
    pub compute: NumericFormat,
    /// The residual stream.
    pub residual: NumericFormat,
}

impl Formats {
    /// f32 throughout.
    pub const FULL: Self = Self { compute: NumericFormat::Fp32, residual: NumericFormat::Fp32 };
}

/// [`round_in_place`] in a copy, where anything changes.
fn rounded(x: &[f32], format: NumericFormat) -> Cow<'_, [f32]> {
    if format == NumericFormat::Fp32 {
        return Cow::Borrowed(x);
    }
    let mut x = x.to_vec();
    round_in_place(&mut x, format);
    Cow::Owned(x)
}

/// What a block does with the values that its backward pass needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Saving {
    /// Keeps the larger ones, makes the cheap ones again.
    #[default]
    Keep,
    /// Keeps nothing but its input and runs its forward pass again (Chen et al. 2016, arXiv 1604.06174): the same bits
    /// for less memory and more time. Only for products in f32, since others report what they see, once.
    Recompute,
}

/// A custom operation keeps what its backward pass needs only when there will be one.
fn will_go_back(inputs: &[&Tensor]) -> bool {
    inputs.iter().any(|input| input.track_op())
}

#[cfg(test)]
mod tests;
