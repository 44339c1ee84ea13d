//! What tasks need to take rows through products of quantised operands: the weights, and how their own rows become operands.

use super::by_rows::{AcrossRows, RowKept};
use super::computation::{Computation, factor};
use super::rows_as_operands::{Left, RowOperand, of_row, uniform};
use super::{Matrix, QuantizedLinear, Role};
use crate::matmul::{Before, Mat, MatMut, Update};
use crate::round::round_rows;
use crate::row_operands::{Factor as Side, Made, ToMake};
use crate::row_tasks::{RowProducts, RowUnit};
use crate::scaled_matmul::scale;
use crate::simd::add;
use candle_core::Result;
use numerics::{Contraction, NumericFormat, Operand, OuterScale};
use std::sync::Arc;

/// y = x wᵀ of maps that share their x.
pub(crate) struct RowForward<'a> {
    maps: &'a [&'a QuantizedLinear],
    weights: Weights,
    /// Of the weights' lines, where they have scales of their own.
    of_lines: Vec<Vec<f32>>,
    input: RowOperand,
    /// Whether there is a backward pass to come.
    keep: bool,
}

/// dx = Σ dy w of the same maps, and the operands of dw = dyᵀ x.
pub(crate) struct RowBackward<'a> {
    maps: &'a [&'a QuantizedLinear],
    weights: Weights,
    grads: Vec<RowOperand>,
    inputs: Vec<Arc<AcrossRows<'static>>>,
}

/// Quantised weights, and their shapes.
struct Weights(Vec<(Arc<Operand>, [usize; 2])>);

impl Weights {
    fn new(operands: Vec<Arc<Operand>>, of: &[Matrix<'_>]) -> Self {
        Self(operands.into_iter().zip(of).map(|(w, of)| (w, [of.rows, of.cols])).collect())
    }

    fn mats(&self) -> impl Iterator<Item = Mat<'_>> {
        self.0.iter().map(|(w, [rows, cols])| Mat::row_major(&w.values, *rows, *cols))
    }
}

impl<'a> RowForward<'a> {
    /// Quantises the weights.
    pub(super) fn new(
        computation: &'a Computation<'a>,
        ws: &[Matrix<'_>],
        input: RowOperand,
        keep: bool,
    ) -> Result<Self> {
        let weights = computation.quantise_and_tell(Role::Weight, ws)?;
        let lines =
            |(w, of): (&Arc<Operand>, &Matrix<'_>)| factor(w, *of, Contraction::Columns).line_scales();
        let of_lines = weights.iter().zip(ws).map(lines).collect();
        Ok(Self { maps: &computation.maps, weights: Weights::new(weights, ws), of_lines, input, keep })
    }

    /// The right operands of products, one of each map.
    pub(crate) fn right(&self) -> impl Iterator<Item = Mat<'_>> {
        self.weights.mats().map(Mat::t)
    }

    /// Columns of memory that a task needs for an operand of its own.
    pub(crate) fn own_width(&self) -> usize {
        self.input.own_width()
    }

    /// Room for the operand that the backward pass needs, of so many rows.
    pub(crate) fn across(&self, unit: RowUnit, n: usize) -> ToMake<'static> {
        if self.keep { ToMake::new(unit, Side::Second, [n, self.input.cols()]) } else { ToMake::nothing() }
    }

    /// The rows x from number `first` on as operands, in `own` memory and in that of what is kept.
    pub(crate) fn enter<'t>(
        &self,
        first: usize,
        x: &[f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        self.input.quantise(first, x, own, across)
    }

    /// c ← `residual` + left wᵀ for each c and map; the right operands are those from number `first` on. Products are rounded
    /// before they are added to anything, for which `part` is memory.
    pub(crate) fn multiply(
        &self,
        products: &mut RowProducts<'_>,
        left: &Left<'_>,
        first: usize,
        results: &mut [&mut MatMut<'_>],
        residual: Option<&[f32]>,
        part: &mut [f32],
    ) {
        let (cols, output) = (self.input.cols(), self.maps[0].output);
        let (rows, values) = (left.values.len() / cols, left.values);
        let left_mat = Mat::row_major(values, rows, cols);
        let before = |c: &MatMut<'_>| residual.map(|residual| Mat::row_major(residual, rows, c.shape()[1]));
        let weights = self.weights.0.iter().map(|(weight, _)| weight);
        let one_scale = |weight: &Arc<Operand>| matches!(weight.outer, OuterScale::Uniform(_));
        if matches!(left.outer, OuterScale::Uniform(_)) && weights.clone().all(one_scale) {
            let all = results.iter_mut().zip(weights).zip(first..).map(|((c, weight), index)| {
                let before = before(c).map_or(Before::Nothing, Before::Other);
                (index, &mut **c, Update { factor: uniform(&left.outer) * uniform(&weight.outer), before })
            });
            return products.multiply_rounded(left_mat, &mut all.collect::<Vec<_>>(), output, part);
        }
        let of_rows: Vec<_> = (0..rows).map(|row| of_row(&left.outer, row)).collect();
        let all = results.iter_mut().zip(first..).map(|(c, index)| {
            let before = before(c).map_or(Before::Nothing, Before::Other);
            (index, &mut **c, Update { before, ..Update::OVERWRITE })
        });
        let mut all: Vec<_> = all.collect();
        if products.multiply_by_lines(left_mat, &mut all, &of_rows, &self.of_lines, output) {
            return;
        }
        all.iter_mut().for_each(|(.., update)| *update = Update::OVERWRITE);
        products.multiply(left_mat, &mut all);
        for (c, of_lines) in results.iter_mut().zip(&self.of_lines) {
            let before = before(c);
            for (row, of_row) in of_rows.iter().enumerate() {
                let c = c.row(row);
                scale(c, *of_row, of_lines);
                round_rows(c, output);
                if let Some(before) = before {
                    add(c, before.row(row));
                }
            }
        }
    }

    /// Tells the keepers of the maps what has come by. What the backward pass needs, if there is one.
    pub(crate) fn kept(self, across: Made<'static>) -> Vec<RowKept> {
        self.maps.iter().for_each(|how| self.input.tell(how, Role::Input));
        let scale = self.input.scale_across();
        let input = self.keep.then(|| Arc::new(AcrossRows { made: across, scale }));
        let weights = self.weights.0.into_iter();
        weights.map(|(weight, _)| RowKept { input: input.clone(), weight }).collect()
    }
}

impl<'a> RowBackward<'a> {
    /// Quantises the weights along the other sum, where they have to be.
    pub(super) fn new(
        computation: &'a Computation<'a>,
        kept: &[&RowKept],
        ws: &[Matrix<'_>],
        grads: Vec<RowOperand>,
    ) -> Result<Self> {
        let forward: Vec<_> = kept.iter().map(|kept| &kept.weight).collect();
        let weights = computation.for_backward(Role::Weight, &forward, ws, &vec![None; ws.len()])?;
        let inputs = kept.iter().map(|kept| kept.input()).collect::<Result<_>>()?;
        Ok(Self { maps: &computation.maps, weights: Weights::new(weights, ws), grads, inputs })
    }

    /// The right operands of products, one of each map.
    pub(crate) fn right(&self) -> impl Iterator<Item = Mat<'_>> {
        self.weights.mats()
    }

    /// Columns of memory that a task needs for an operand of its own.
    pub(crate) fn own_width(&self) -> usize {
        self.grads.iter().map(RowOperand::own_width).max().unwrap_or(0)
    }

    /// Room for the gradient of this map's result as operand of dw, of so many rows; nothing for a map that there is not.
    pub(crate) fn across(&self, map: usize, unit: RowUnit, n: usize) -> ToMake<'static> {
        match self.grads.get(map) {
            Some(grad) => ToMake::new(unit, Side::First, [n, grad.cols()]),
            None => ToMake::nothing(),
        }
    }

    /// The rows dy of this map from number `first` on as operands, in `own` memory and in that of what dw needs.
    pub(crate) fn enter<'t>(
        &self,
        map: usize,
        first: usize,
        dy: &[f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        self.grads[map].quantise(first, dy, own, across)
    }

    /// dx ← left w of this map, and what is in dx already unless it is the first. The right operand is number `index`; `part` is
    /// memory for a product.
    pub(crate) fn add(
        &self,
        map: usize,
        products: &mut RowProducts<'_>,
        left: &Left<'_>,
        index: usize,
        dx: &mut MatMut<'_>,
        part: &mut [f32],
    ) {
        let cols = self.grads[map].cols();
        let update = Update {
            factor: uniform(&left.outer) * uniform(&self.weights.0[map].0.outer),
            before: if map == 0 { Before::Nothing } else { Before::There },
        };
        let left = Mat::row_major(left.values, left.values.len() / cols, cols);
        products.multiply_rounded(left, &mut [(index, dx, update)], self.maps[map].output, part);
    }

    /// The format of dx.
    pub(crate) fn output(&self) -> NumericFormat {
        self.maps[0].output
    }

    /// Tells the keepers of the maps what has come by. The operands of every dw, dy from `across`.
    pub(crate) fn gradients<'m>(self, across: Vec<Made<'m>>) -> RowGradients<'m> {
        let Self { maps, grads, inputs, .. } = self;
        maps.iter().zip(&grads).for_each(|(how, grad)| grad.tell(how, Role::Grad));
        let grads = across.into_iter().zip(&grads);
        let grads = grads.map(|(made, grad)| AcrossRows { made, scale: grad.scale_across() }).collect();
        RowGradients { grads, inputs }
    }
}

/// Operands of the gradients of weights, each pair with the scale of its product.
pub(crate) struct RowGradients<'m> {
    grads: Vec<AcrossRows<'m>>,
    inputs: Vec<Arc<AcrossRows<'static>>>,
}

impl<'m> RowGradients<'m> {
    /// Scale and operands of dw for each map.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (f32, &Made<'m>, &Made<'m>)> {
        let pairs = self.grads.iter().zip(&self.inputs);
        pairs.map(|(grad, input)| (grad.scale * input.scale, &grad.made, &input.made))
    }
}
