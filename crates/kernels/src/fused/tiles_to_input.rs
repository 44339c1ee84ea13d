//! Rows of a task on tiles back from the products with its input, and through the norm before them.

// Only x86-64 has such a unit.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::row_products::{RowFormats, norm_rows_again};
use crate::bf16_matmul::{Destination, Lines, OverRows, Strips, TileUnit, multiply_packed};
use crate::matmul::{MatMut, Update};
use crate::quantized::Role;
use crate::rms_norm;
use crate::round::round_rows;
use numerics::NumericFormat;
use std::ops::Range;

/// The gradient of a norm's result: the sum of the products of gradients and weights, each rounded to bf16.
pub(super) fn add_products<'a>(
    unit: impl TileUnit,
    products: impl Iterator<Item = (Lines<'a>, &'a Strips)>,
    of_normed: &mut [f32],
    d: usize,
) {
    let mut update = Update::OVERWRITE;
    for (dy, b) in products {
        let c = MatMut::row_major(of_normed, of_normed.len() / d, d);
        multiply_packed(unit, dy, &mut [Destination { b, update, scales: None, rounded: true, c }]);
        update = update.more();
    }
}

/// From there to the gradient of x, to which that past the block is added; makes the norm's result again as operand `across`.
/// Returns sums for the gradient of the norm's weight.
///
/// # Safety
/// No other task packs any of these rows.
pub(super) unsafe fn back_through_norm(
    formats: &RowFormats<'_>,
    [x, w, rstd]: [&[f32]; 3],
    [normed, of_normed]: [&mut [f32]; 2],
    (across, rows): (&OverRows, Range<usize>),
    past: &[f32],
    of_x: &mut [f32],
) -> Vec<f32> {
    let format = NumericFormat::Bf16;
    round_rows(of_normed, format);
    let enter = |normed: &mut [f32]| formats.round_from(format, Role::Input, normed);
    norm_rows_again([x, w, rstd], format, normed, enter);
    // SAFETY: the caller's promise.
    unsafe { across.pack(rows, normed) };
    rms_norm::backward_rows(x, w, rstd, of_normed, Some(past), of_x)
}
