//! The products of quantised operands by tasks that quantise some rows at a time: an operand is packed where it has been made, for
//! the products that sum over its columns and for those that sum over its rows, and never lies in memory as a whole.
//!
//! That takes scales that are known before, or that rows have for themselves. The numbers are those of [`Computation`] and
//! [`BackwardPass`](super::BackwardPass), bit for bit.

use super::computation::{Computation, factor};
use super::rows_as_operands::{RowOperand, Ways, of_row, uniform};
use super::{Matrix, QuantizedLinear, Role};
use crate::matmul::{Before, Mat, MatMut, Update, written};
use crate::profile::{Clock, Part, Shared, pass, product};
use crate::round::round_rows;
use crate::row_operands::{Factor as Side, Made, ToMake};
use crate::row_tasks::{Operands, RowProducts, RowTask, RowUnit};
use crate::scaled_matmul::scale;
use crate::simd::add;
use candle_core::{Error, Result};
use numerics::{Contraction, Extent, NumericFormat, Operand, OuterScale, RoundingMode, Scaling};
use std::ops::Range;
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
    input: Option<Arc<AcrossRows>>,
    weight: Arc<Operand>,
}

/// An operand of products that sum over its rows, and the scale of their sums.
pub(crate) struct AcrossRows {
    made: Made<'static>,
    scale: f32,
}

/// Operands of the gradients of weights, each pair with the scale of its product.
pub(crate) struct RowGradients {
    unit: RowUnit,
    grads: Vec<AcrossRows>,
    inputs: Vec<Arc<AcrossRows>>,
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
        let weights = computation.quantise_and_tell(Role::Weight, ws)?;
        let factors: Vec<_> =
            weights.iter().zip(ws).map(|(w, of)| factor(w, *of, Contraction::Columns)).collect();
        let input = RowOperand::new(maps[0], Role::Input, x, keep).ok_or_else(unfit)?;
        let right: Vec<_> = factors.iter().map(|factor| factor.mat().t()).collect();
        let of_lines: Vec<_> = factors.iter().map(|factor| factor.line_scales()).collect();
        let widths: [usize; MOST] = std::array::from_fn(|map| ws.get(map).map_or(0, |w| w.rows));
        let finish = Finish { output: maps[0].output, residual, weights: &weights, of_lines: &of_lines };
        let parts = Shared::new([
            pass(Part::Quantise, 2 * x.values.len()),
            product(Part::MatmulForward, [n, d, widths.iter().sum()]),
        ]);
        let across = match keep {
            true => ToMake::new(*unit, Side::Second, [n, d]),
            false => ToMake::Given(Mat::row_major(&[], 0, d)),
        };
        let scratch = [input.own_width(), if residual.is_some() { widths[0] } else { 0 }];
        let task = |task: RowTask<'_, MOST, 2, 1>, [quantise, multiply]: &[Clock; 2]| {
            let RowTask { rows, mut results, operands: [across], scratch: [own, part], mut products } = task;
            let (left, extent, outer) = quantise.time(|| input.quantise(&rows, own, across));
            let left = Mat::row_major(left, rows.len(), d);
            multiply.time(|| {
                finish.multiply(&mut products, (left, &outer), &rows, &mut results[..maps.len()], part)
            });
            extent
        };
        // SAFETY: tasks write products to all rows of the results, and all rows of the operand, if there is one.
        let (ys, (extents, [across])) = unsafe {
            written(n, widths, |results| {
                parts.run(|clocks| {
                    unit.with_packed(
                        &right,
                        |_, _| {},
                        |right| right.by_rows_making(results, [across], scratch, |rows| task(rows, clocks)),
                    )
                })
            })
        };
        let extent = extents.into_iter().fold(Extent::default(), Extent::merge);
        maps.iter().for_each(|how| tell(how, Role::Input, extent));
        let input = keep.then(|| Arc::new(AcrossRows { made: across, scale: input.scale_across() }));
        let kept = weights.iter().map(|weight| RowKept { input: input.clone(), weight: weight.clone() });
        Ok((ys.into_iter().take(maps.len()).collect(), kept.collect()))
    }

    /// The sum of dx by each map, and the operands of the gradients of weights.
    pub(crate) fn backward(
        &self,
        kept: &[&RowKept],
        ws: &[Matrix<'_>],
        dys: &[Matrix<'_>],
    ) -> Result<(Vec<f32>, RowGradients)> {
        let Self { computation, unit } = self;
        let (maps, n, d) = (&computation.maps, dys[0].rows, ws[0].cols);
        let forward: Vec<_> = kept.iter().map(|kept| &kept.weight).collect();
        let weights = computation.for_backward(Role::Weight, &forward, ws, &vec![None; ws.len()])?;
        let factors: Vec<_> =
            weights.iter().zip(ws).map(|(w, of)| factor(w, *of, Contraction::Rows)).collect();
        let grads = maps.iter().zip(dys).map(|(how, dy)| RowOperand::new(how, Role::Grad, *dy, true));
        let grads: Vec<_> = grads.collect::<Option<_>>().ok_or_else(unfit)?;
        let right: Vec<_> = factors.iter().map(|factor| factor.mat().t()).collect();
        let all: usize = dys.iter().map(|dy| dy.cols).sum();
        let parts = Shared::new([pass(Part::Quantise, 2 * n * all), product(Part::MatmulInput, [n, all, d])]);
        let across: [_; MOST] = std::array::from_fn(|map| {
            ToMake::new(*unit, Side::First, [n, dys.get(map).map_or(0, |dy| dy.cols)])
        });
        let own = grads.iter().map(RowOperand::own_width).max().unwrap_or(0);
        let task = |task: RowTask<'_, 1, 2, MOST>, [quantise, multiply]: &[Clock; 2]| {
            let RowTask { rows, results: [mut dx], operands, scratch: [own, part], mut products } = task;
            let mut extents = [Extent::default(); MOST];
            for (map, (grad, across)) in grads.iter().zip(operands).enumerate() {
                let own = &mut own[..rows.len() * grad.own_width()];
                let (left, extent, outer) = quantise.time(|| grad.quantise(&rows, own, across));
                extents[map] = extent;
                let update = Update {
                    factor: uniform(&outer) * uniform(&weights[map].outer),
                    before: if map == 0 { Before::Nothing } else { Before::There },
                };
                let left = Mat::row_major(left, rows.len(), grad.cols());
                multiply.time(|| {
                    products.multiply_rounded(left, &mut [(map, &mut dx, update)], maps[map].output, part);
                });
            }
            extents
        };
        // SAFETY: tasks write products to all rows of the result, and all rows of the operands.
        let ([dx], (extents, across)) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    unit.with_packed(
                        &right,
                        |_, _| {},
                        |right| right.by_rows_making(results, across, [own, d], |rows| task(rows, clocks)),
                    )
                })
            })
        };
        for (map, how) in maps.iter().enumerate() {
            let of_map = extents.iter().map(|extents| extents[map]);
            tell(how, Role::Grad, of_map.fold(Extent::default(), Extent::merge));
        }
        let across = across.into_iter().zip(&grads);
        let grads = across.map(|(made, grad)| AcrossRows { made, scale: grad.scale_across() }).collect();
        let inputs = kept.iter().map(|kept| kept.input.clone().ok_or_else(unfit)).collect::<Result<_>>()?;
        Ok((dx, RowGradients { unit: *unit, grads, inputs }))
    }
}

impl RowGradients {
    /// What multiplies the operands.
    pub(crate) fn unit(&self) -> RowUnit {
        self.unit
    }

    /// Scale and operands of dw for each map.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (f32, &Made<'_>, &Made<'_>)> {
        let pairs = self.grads.iter().zip(&self.inputs);
        pairs.map(|(grad, input)| (grad.scale * input.scale, &grad.made, &input.made))
    }
}

impl QuantizedLinear {
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

/// What becomes of the products of a forward pass.
struct Finish<'a> {
    output: NumericFormat,
    /// Added to rounded products.
    residual: Option<&'a [f32]>,
    weights: &'a [Arc<Operand>],
    /// Of the weights' lines, where they have scales of their own.
    of_lines: &'a [Vec<f32>],
}

impl Finish<'_> {
    /// Multiplies rows of the left operand, which has these scales, by all weights. `part` is memory for a product.
    fn multiply(
        &self,
        products: &mut RowProducts<'_>,
        (left, outer): (Mat<'_>, &OuterScale),
        rows: &Range<usize>,
        results: &mut [MatMut<'_>],
        part: &mut [f32],
    ) {
        let Self { output, residual, weights, of_lines } = *self;
        let before = |c: &MatMut<'_>| {
            let [count, cols] = c.shape();
            residual
                .map(|residual| Mat::row_major(&residual[rows.start * cols..rows.end * cols], count, cols))
        };
        let one_scale = |weight: &Arc<Operand>| matches!(weight.outer, OuterScale::Uniform(_));
        if matches!(outer, OuterScale::Uniform(_)) && weights.iter().all(one_scale) {
            let all = results.iter_mut().zip(weights).enumerate().map(|(map, (c, weight))| {
                let before = before(c).map_or(Before::Nothing, Before::Other);
                (map, c, Update { factor: uniform(outer) * uniform(&weight.outer), before })
            });
            return products.multiply_rounded(left, &mut all.collect::<Vec<_>>(), output, part);
        }
        let all = results.iter_mut().enumerate().map(|(map, c)| (map, c, Update::OVERWRITE));
        products.multiply(left, &mut all.collect::<Vec<_>>());
        for (c, of_lines) in results.iter_mut().zip(of_lines) {
            let before = before(c);
            for row in 0..rows.len() {
                let c = c.row(row);
                scale(c, of_row(outer, row), of_lines);
                round_rows(c, output);
                if let Some(before) = before {
                    add(c, before.row(row));
                }
            }
        }
    }
}

fn tell(how: &QuantizedLinear, role: Role, extent: Extent) {
    how.observer.passed(role, extent.non_finite());
    how.observer.measured(role, how.spec(role), extent.amax());
}

fn unfit() -> Error {
    Error::Msg("internal error: operands that were to be quantised by rows cannot be".into())
}
