//! The products of quantised operands by tasks that quantise some rows at a time: an operand is packed where it has been made, for
//! the products that sum over its columns and for those that sum over its rows, and never lies in memory as a whole.
//!
//! That takes scales that are known before, or that rows have for themselves. The numbers are those of [`Computation`] and
//! [`BackwardPass`](super::BackwardPass), bit for bit.

use super::computation::Computation;
use super::row_passes::{RowBackward, RowForward, RowGradients};
use super::rows_as_operands::{RowOperand, Ways};
use super::{Matrix, QuantizedLinear, Role};
use crate::matmul::Mat;
use crate::profile::{Clock, Part, Shared, pass, product};
use crate::row_operands::Made;
use crate::row_tasks::{Operands, RowTask, RowUnit};
use candle_core::{Error, Result};
use numerics::{Extent, Operand, RoundingMode, Scaling};
use std::sync::Arc;

/// Maps of one x, at most.
const MOST: usize = 3;

/// Maps that share their x, whose operands are quantised by rows.
pub(crate) struct RowMaps<'a> {
    computation: Computation<'a>,
    unit: RowUnit,
}

/// What the forward pass keeps of a map.
pub(crate) struct RowKept {
    /// Shared by the maps of one x; none without a backward pass.
    pub(super) input: Option<Arc<AcrossRows<'static>>>,
    pub(super) weight: Arc<Operand>,
}

/// An operand of products that sum over its rows, and the scale of their sums.
pub(crate) struct AcrossRows<'m> {
    pub(super) made: Made<'m>,
    pub(super) scale: f32,
}

impl<'a> RowMaps<'a> {
    /// For maps of so many rows, if all of their operands can be quantised by rows, and nobody wants to see them whole.
    pub(crate) fn new(computation: &Computation<'a>, n: usize, ws: &[Matrix<'_>]) -> Option<Self> {
        let maps = &computation.maps;
        let first = maps.first()?;
        let alike = |how: &&QuantizedLinear| {
            how.with_scale(Role::Input) == first.with_scale(Role::Input)
                && (how.grad, how.output) == (first.grad, first.output)
        };
        let draws_apart = maps.len() > 1 && first.input.rounding == RoundingMode::Stochastic;
        let shapes = |w: &Matrix<'_>| [w.rows, w.cols];
        let fit = maps.iter().zip(ws).all(|(how, w)| how.goes_by_rows(n, shapes(w)));
        if maps.len() > MOST || draws_apart || !maps.iter().all(alike) || !fit {
            return None;
        }
        let right: Vec<_> = ws.iter().map(|w| Mat::row_major(w.values, w.rows, w.cols).t()).collect();
        let unit = RowUnit::new(n, &right, Operands::Bf16).filter(|unit| unit.is_on_tiles())?;
        Some(Self { computation: Computation { maps: maps.clone(), ..*computation }, unit })
    }

    /// What multiplies rows.
    pub(crate) fn unit(&self) -> RowUnit {
        self.unit
    }

    /// Whether the scales of all of their operands are known before, or rows have them for themselves.
    pub(crate) fn have_scales_of_rows(&self) -> bool {
        let of_rows = |how: &&QuantizedLinear| {
            [Role::Input, Role::Grad].into_iter().all(|role| how.has_scales_of_rows(role))
        };
        self.computation.maps.iter().all(of_rows)
    }

    /// The forward pass of tasks that make so many rows of x, which hold this, and of a backward pass if there is one to come.
    pub(crate) fn forward_rows(
        &self,
        n: usize,
        extent: Extent,
        ws: &[Matrix<'_>],
        keep: bool,
    ) -> Result<RowForward<'_>> {
        let input = RowOperand::of_rows(self.computation.maps[0], Role::Input, [n, ws[0].cols], extent, keep);
        RowForward::new(&self.computation, ws, input.ok_or_else(unfit)?, keep)
    }

    /// The backward pass of tasks that make so many rows of gradients, which hold these.
    pub(crate) fn backward_rows(
        &self,
        n: usize,
        extents: &[Extent],
        kept: &[&RowKept],
        ws: &[Matrix<'_>],
    ) -> Result<RowBackward<'_>> {
        let maps = self.computation.maps.iter().zip(ws).zip(extents);
        let grads =
            maps.map(|((how, w), extent)| RowOperand::of_rows(how, Role::Grad, [n, w.rows], *extent, true));
        let grads = grads.collect::<Option<_>>().ok_or_else(unfit)?;
        RowBackward::new(&self.computation, kept, ws, grads)
    }

    /// y = x wᵀ for each w, with `residual` added to each, and what [`RowMaps::backward`] needs, if it is to be kept.
    pub(crate) fn forward(
        &self,
        x: Matrix<'_>,
        ws: &[Matrix<'_>],
        residual: Option<&[f32]>,
        keep: bool,
    ) -> Result<(Vec<Vec<f32>>, Vec<RowKept>)> {
        let Self { computation, unit } = self;
        let (maps, n, d) = (&computation.maps, x.rows, x.cols);
        let input = RowOperand::of_whole(maps[0], Role::Input, x, keep).ok_or_else(unfit)?;
        let forward = RowForward::new(computation, ws, input, keep)?;
        let right: Vec<_> = forward.right().collect();
        let widths: [usize; MOST] = std::array::from_fn(|map| ws.get(map).map_or(0, |w| w.rows));
        let parts = Shared::new([
            pass(Part::Quantise, 2 * x.values.len()),
            product(Part::MatmulForward, [n, d, widths.iter().sum()]),
        ]);
        let scratch = [forward.own_width(), if residual.is_some() { widths[0] } else { 0 }];
        let task = |task: RowTask<'_, MOST, 2, 1>, [quantise, multiply]: &[Clock; 2]| {
            let RowTask { rows, mut results, operands: [across], scratch: [own, part], mut products } = task;
            let left = quantise.time(|| {
                let x = &x.values[rows.start * d..rows.end * d];
                forward.enter(rows.start, x, own, across)
            });
            let residual = residual.map(|residual| &residual[rows.start * widths[0]..rows.end * widths[0]]);
            let mut results: Vec<_> = results.iter_mut().take(maps.len()).collect();
            multiply.time(|| forward.multiply(&mut products, &left, 0, &mut results, residual, part));
        };
        // SAFETY: tasks write products to all rows of the results, and all rows of the operand, if there is one.
        let (ys, (_, [across])) = unsafe {
            let across = [forward.across(*unit, n)];
            unit.write_rows((n, widths), (&right, |_, _| {}), across, scratch, parts, task)
        };
        Ok((ys.into_iter().take(maps.len()).collect(), forward.kept(across)))
    }

    /// The sum of dx by each map, and the operands of the gradients of weights.
    pub(crate) fn backward(
        &self,
        kept: &[&RowKept],
        ws: &[Matrix<'_>],
        dys: &[Matrix<'_>],
    ) -> Result<(Vec<f32>, RowGradients<'static>)> {
        let Self { computation, unit } = self;
        let (n, d) = (dys[0].rows, ws[0].cols);
        let grads = computation.maps.iter().zip(dys);
        let grads = grads.map(|(how, dy)| RowOperand::of_whole(how, Role::Grad, *dy, true));
        let grads = grads.collect::<Option<_>>().ok_or_else(unfit)?;
        let backward = RowBackward::new(computation, kept, ws, grads)?;
        let right: Vec<_> = backward.right().collect();
        let all: usize = dys.iter().map(|dy| dy.cols).sum();
        let parts = Shared::new([pass(Part::Quantise, 2 * n * all), product(Part::MatmulInput, [n, all, d])]);
        let task = |task: RowTask<'_, 1, 2, MOST>, [quantise, multiply]: &[Clock; 2]| {
            let RowTask { rows, results: [mut dx], operands, scratch: [own, part], mut products } = task;
            for (map, (dy, across)) in dys.iter().zip(operands).enumerate() {
                let dy = &dy.values[rows.start * dy.cols..rows.end * dy.cols];
                let left = quantise.time(|| backward.enter(map, rows.start, dy, own, across));
                multiply.time(|| backward.add(map, &mut products, &left, map, &mut dx, part));
            }
        };
        let scratch = [backward.own_width(), d];
        // SAFETY: tasks write products to all rows of the result, and all rows of the operands.
        let ([dx], (_, across)) = unsafe {
            let across: [_; MOST] = std::array::from_fn(|map| backward.across(map, *unit, n));
            unit.write_rows((n, [d]), (&right, |_, _| {}), across, scratch, parts, task)
        };
        let across = across.into_iter().take(dys.len()).collect();
        Ok((dx, backward.gradients(across)))
    }
}

impl RowKept {
    /// x as operand of dw.
    pub(super) fn input(&self) -> Result<Arc<AcrossRows<'static>>> {
        self.input.clone().ok_or_else(unfit)
    }
}

impl QuantizedLinear {
    /// Whether the scale of an operand is known before, or rows have it for themselves.
    pub(super) fn has_scales_of_rows(&self, role: Role) -> bool {
        match self.with_scale(role).0.scaling {
            Scaling::None | Scaling::Delayed { .. } | Scaling::Row | Scaling::Mx => true,
            Scaling::Tensor | Scaling::Nvfp4 | Scaling::Nvfp4Weight => false,
            Scaling::Block { .. } | Scaling::Block2d { .. } | Scaling::Absmean | Scaling::Absmedian => false,
        }
    }

    /// Whether its operands, for so many rows, can be quantised by rows, and nobody wants to see them whole.
    fn goes_by_rows(&self, n: usize, [d_out, d_in]: [usize; 2]) -> bool {
        let in_bf16 = |role| Operands::of(self.spec(role).format) == Operands::Bf16;
        // Both products with the weight have scales that hold for all of a sum.
        let weight = match self.weight.scaling {
            Scaling::Block { .. } | Scaling::Block2d { .. } => false,
            Scaling::Row => self.grad.scaling == Scaling::None,
            Scaling::None | Scaling::Tensor | Scaling::Delayed { .. } | Scaling::Mx => true,
            Scaling::Nvfp4 | Scaling::Nvfp4Weight | Scaling::Absmean | Scaling::Absmedian => true,
        };
        let ways = |role, cols| Ways::new(self, role, [n, cols], Extent::default, true);
        let grad = ways(Role::Grad, d_out).is_some_and(|ways| ways.along.scale().is_some());
        !self.smooth
            && !self.observer.looks()
            && Role::ALL.into_iter().all(in_bf16)
            && weight
            && grad
            && ways(Role::Input, d_in).is_some()
    }
}

fn unfit() -> Error {
    Error::Msg("internal error: operands that were to be quantised by rows cannot be".into())
}
