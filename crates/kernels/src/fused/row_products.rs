//! What a task does with its rows around a product: rounds operands and results where a recipe below f32 says so.
//!
//! That takes recipes which round every value on its own. A scale that rows share is known only when all of them are.

use super::Norm;
use super::projection::Projection;
use crate::bf16_matmul::{Parts, Strips};
use crate::matmul::Mat;
use crate::profile::{Part, Work, span};
use crate::quantized::{Matrix, QuantizedLinear, Role};
use crate::rms_norm;
use crate::round::round_rows;
use crate::row_tasks::Operands;
use candle_core::{Error, Result};
use numerics::{Contraction, NumericFormat, Overflow};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// The formats of projections of one input.
pub(super) struct RowFormats<'a> {
    /// In their order; none in f32.
    all: Vec<&'a QuantizedLinear>,
    /// Values that are not finite, of every operand of each.
    non_finite: Vec<[AtomicU64; 3]>,
}

impl<'a> RowFormats<'a> {
    /// The formats of projections that all are computed in f32, or all alike and by value.
    pub(super) fn new(projections: &[&'a Projection]) -> Option<Self> {
        let all: Vec<_> = projections.iter().filter_map(|projection| projection.low.as_ref()).collect();
        if let Some(first) = all.first() {
            let alike = |how: &&QuantizedLinear| {
                Role::ALL.into_iter().all(|role| how.spec(role) == first.spec(role))
                    && how.output == first.output
            };
            if all.len() < projections.len() || !first.is_by_value() || !all.iter().all(alike) {
                return None;
            }
        }
        let non_finite = all.iter().map(|_| Default::default()).collect();
        Some(Self { all, non_finite })
    }

    /// Whether nothing is rounded.
    pub(super) fn is_full(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether operands have to be shown whole.
    pub(super) fn are_looked_at(&self) -> bool {
        self.all.iter().any(|how| how.observer.looks())
    }

    /// What the products are of.
    pub(super) fn operands(&self) -> Operands {
        let formats = self.all.iter().flat_map(|how| Role::ALL.map(|role| how.spec(role).format));
        formats.map(Operands::of).max().unwrap_or(Operands::F32)
    }

    /// Whether all of them have the exponents of f32, so that a factor which is a power of two changes no rounding.
    pub(super) fn have_exponents_of_f32(&self) -> bool {
        let wide = |format: NumericFormat| format.spec().min_exponent == f32::MIN_EXP - 1;
        self.all
            .iter()
            .all(|how| wide(how.output) && Role::ALL.into_iter().all(|role| wide(how.spec(role).format)))
    }

    /// `width`, or nothing where operands are not rounded.
    pub(super) fn width_if_low(&self, width: usize) -> usize {
        if self.is_full() { 0 } else { width }
    }

    /// Rounds an operand.
    pub(super) fn round(&self, role: Role, values: &mut [f32]) {
        if let Some(how) = self.all.first() {
            let spec = how.spec(role);
            if spec.format != NumericFormat::Fp32 {
                numerics::round_rows(values, spec.format, spec.overflow);
            }
        }
    }

    /// A weight, or its transpose, as right operand of bf16, if that holds it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]
    pub(super) fn packed_weight(&self, w: Mat<'_>) -> Option<Strips> {
        span(Part::Quantise, Work::floats(2 * w.rows * w.cols), || {
            match self.holds(Role::Weight, NumericFormat::Bf16) {
                true => Strips::pack_in_bf16(w),
                false => Strips::pack_rounded(w, Parts::One, |values| self.round(Role::Weight, values)),
            }
        })
    }

    /// Whether numbers of `format` are an operand as they are.
    pub(super) fn holds(&self, role: Role, format: NumericFormat) -> bool {
        let is_held = |how: &&QuantizedLinear| {
            let spec = how.spec(role);
            spec.format == format && spec.overflow == Overflow::Propagate
        };
        self.all.first().is_none_or(is_held)
    }

    /// [`RowFormats::round`] of numbers of `format`.
    pub(super) fn round_from(&self, format: NumericFormat, role: Role, values: &mut [f32]) {
        if !self.holds(role, format) {
            self.round(role, values);
        }
    }

    /// Rounds an operand of numbers of `format` that all of the projections have, and counts.
    pub(super) fn enter(&self, format: NumericFormat, role: Role, values: &mut [f32]) {
        for values in values.chunks_mut(AT_ONCE) {
            self.count(role, values);
            self.round_from(format, role, values);
        }
    }

    /// Rounds an operand of numbers of `format` that one of the projections has, and counts.
    pub(super) fn enter_one(&self, index: usize, format: NumericFormat, role: Role, values: &mut [f32]) {
        for values in values.chunks_mut(AT_ONCE) {
            if let Some(counts) = self.non_finite.get(index) {
                counts[role as usize].fetch_add(numerics::count_non_finite(values), Ordering::Relaxed);
            }
            self.round_from(format, role, values);
        }
    }

    /// Counts in an operand that all of the projections have.
    pub(super) fn count(&self, role: Role, values: &[f32]) {
        if self.is_full() {
            return;
        }
        let found = numerics::count_non_finite(values);
        for counts in &self.non_finite {
            counts[role as usize].fetch_add(found, Ordering::Relaxed);
        }
    }

    /// Adds to what was counted in an operand of one of the projections.
    pub(super) fn add_found(&self, index: usize, role: Role, found: u64) {
        if let (Some(counts), true) = (self.non_finite.get(index), found > 0) {
            counts[role as usize].fetch_add(found, Ordering::Relaxed);
        }
    }

    /// Whether all operands and results are of bf16, and beyond its largest number infinite.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn are_bf16(&self) -> bool {
        !self.is_full()
            && self.output() == NumericFormat::Bf16
            && Role::ALL.into_iter().all(|role| self.holds(role, NumericFormat::Bf16))
    }

    /// Counts in the weights, which are rounded where they are packed.
    pub(super) fn count_weights(&self, weights: &[&[f32]]) {
        const TASK: usize = 1 << 15;
        for (counts, w) in self.non_finite.iter().zip(weights) {
            let found: u64 = w.par_chunks(TASK).map(numerics::count_non_finite).sum();
            counts[Role::Weight as usize].fetch_add(found, Ordering::Relaxed);
        }
    }

    /// Tells the keepers of the projections what was counted of operands.
    pub(super) fn tell(&self, roles: &[Role]) {
        for (how, counts) in self.all.iter().zip(&self.non_finite) {
            for role in roles {
                how.observer.passed(*role, counts[*role as usize].swap(0, Ordering::Relaxed));
            }
        }
    }

    /// Rounds a whole operand on all threads, and shows it or tells what was counted in it.
    pub(super) fn enter_whole<'v>(
        &self,
        role: Role,
        values: Cow<'v, [f32]>,
        cols: usize,
    ) -> Result<Cow<'v, [f32]>> {
        const TASK: usize = 1 << 14;
        let Some(how) = self.all.first() else { return Ok(values) };
        span(Part::Quantise, Work::floats(2 * values.len()), || {
            if !self.are_looked_at() {
                let mut values = values.into_owned();
                values.par_chunks_mut(TASK).for_each(|values| self.enter(NumericFormat::Fp32, role, values));
                self.tell(&[role]);
                return Ok(values.into());
            }
            let (rows, spec) = (values.len() / cols.max(1), how.spec(role));
            let operand = numerics::quantize(&values, rows, cols, Contraction::Columns, spec, 0, None)
                .map_err(Error::wrap)?;
            for how in &self.all {
                how.observer.quantised(role, Matrix { values: &values, rows, cols }, spec, &operand);
            }
            Ok(operand.values.into())
        })
    }

    /// Rounds the result of one product to `format`, which may have been done.
    pub(super) fn round_output(&self, format: NumericFormat, values: &mut [f32]) {
        if self.output() != format {
            round_rows(values, format);
        }
    }

    /// The format of results of products.
    pub(super) fn output(&self) -> NumericFormat {
        self.all.first().map_or(NumericFormat::Fp32, |how| how.output)
    }
}

/// Floats that go through several passes at a time, within a cache of the first level.
pub(super) const AT_ONCE: usize = 1024;

/// So many as whole rows have.
fn at_once(width: usize) -> usize {
    (AT_ONCE / width).max(1) * width
}

/// The width of a gradient's copy in the format of the residual stream, where it needs one.
pub(super) fn width_past_block(residual: NumericFormat, width: usize) -> usize {
    if residual == NumericFormat::Fp32 { 0 } else { width }
}

/// The gradient of a block's rows as it goes past the block, in `memory` if that has the width of [`width_past_block`].
pub(super) fn past_block<'g>(grad: &'g [f32], residual: NumericFormat, memory: &'g mut [f32]) -> &'g [f32] {
    if memory.is_empty() {
        return grad;
    }
    memory.copy_from_slice(grad);
    round_rows(memory, residual);
    memory
}

/// The norm of rows x, rounded to `format` and passed to `enter` while in a cache; returns `rstd`.
pub(super) fn norm_rows(
    norm: &Norm,
    [x, w]: [&[f32]; 2],
    format: NumericFormat,
    normed: &mut [f32],
    enter: impl Fn(&mut [f32]),
) -> Vec<f32> {
    let at_once = at_once(w.len());
    let mut rstd = Vec::with_capacity(x.len() / w.len());
    for (x, normed) in x.chunks(at_once).zip(normed.chunks_mut(at_once)) {
        rstd.extend(rms_norm::forward_rows(x, w, norm.eps as f32, normed));
        round_rows(normed, format);
        enter(normed);
    }
    rstd
}

/// What [`norm_rows`] gave again, from the `rstd` that it returned.
pub(super) fn norm_rows_again(
    [x, w, rstd]: [&[f32]; 3],
    format: NumericFormat,
    normed: &mut [f32],
    enter: impl Fn(&mut [f32]),
) {
    let at_once = at_once(w.len());
    let of_rows = x.chunks(at_once).zip(normed.chunks_mut(at_once)).zip(rstd.chunks(at_once / w.len()));
    for ((x, normed), rstd) in of_rows {
        rms_norm::again_rows(x, w, rstd, normed);
        round_rows(normed, format);
        enter(normed);
    }
}
