//! A feed-forward block in bf16 on tiles whose hidden state never lies in memory as rows: blocks of sums of the first products go
//! through the activation and become operands of the next ones where they are.
//!
//! The numbers are those of [`FfnRows`](super::ffn_rows::FfnRows), bit for bit. What the backward pass needs of gate and up is kept
//! as the bf16 that they are.

// Only x86-64 has such a unit.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::ffn_block::{FfnBlock, Kept, Weights};
use super::left_blocks::LeftBlocks;
use super::residual_blocks::Gradients;
use super::row_products::{RowFormats, norm_rows, past_block, width_past_block};
use super::rows_of;
use super::tiles_to_input::{add_products, back_through_norm};
use crate::bf16_matmul::{
    BLOCK, Destination, OverRows, Parts, Side, Start, Strips, Sums, Tile, TileUnit, Tiles, block_of,
    left_tiles, left_tiles_of, multiply_packed, over_lines, packed_products, round_block, round_to_tiles,
    stream, streamed,
};
use crate::matmul::{Before, Mat, Update, written};
use crate::pointwise::{product_and_gradients_into, product_into, value_and_gradient_into};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::quantized::Role;
use crate::round::round_rows;
use crate::row_tasks::{RowTask, RowUnit};
use crate::{Pointwise, rms_norm};
use numerics::NumericFormat;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// A gated or ungated block without a norm before its down projection, all of whose operands and results are of bf16.
pub(super) struct FfnTiles<'a, U> {
    pub(super) unit: U,
    /// The same, to share rows out.
    pub(super) rows: RowUnit,
    pub(super) block: &'a FfnBlock,
    pub(super) w: &'a Weights<'a>,
    pub(super) inward: &'a RowFormats<'a>,
    pub(super) outward: &'a RowFormats<'a>,
    pub(super) x: &'a [f32],
    /// Rows of x, a multiple of [`BLOCK`].
    pub(super) n: usize,
    pub(super) d: usize,
    pub(super) d_ff: usize,
}

/// Gate, if there is one, and up of a block of tokens and features after another, as tiles.
pub(super) struct KeptTiles(Vec<Tile>);

/// What a thread keeps from task to task: left operands.
#[derive(Default)]
struct Buffers {
    rows: Vec<Tile>,
    of_gate: Vec<Tile>,
    of_up: Vec<Tile>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl<U: TileUnit> FfnTiles<'_, U> {
    /// Panels of the hidden state's features.
    fn panels(&self) -> usize {
        self.d_ff.div_ceil(BLOCK)
    }

    /// Branches into the hidden state.
    fn branches(&self) -> usize {
        1 + usize::from(self.block.gate.is_some())
    }

    fn functions(&self) -> (Option<&dyn Pointwise>, &dyn Pointwise) {
        (self.block.gate.as_ref().map(|branch| &*branch.function), &*self.block.up.function)
    }

    /// Makes what lies beyond the last feature zero: it is not where a row is NaN.
    fn clear_padding(&self, panel: usize, sums: &mut Sums) {
        let features = (self.d_ff - panel * BLOCK).min(BLOCK);
        if features < BLOCK {
            sums.fill_columns(features, 0.0);
        }
    }

    /// Rounded and packed weights into the hidden state and out of it; none if tiles do not hold them.
    fn packed(&self, transposed: bool) -> Option<(Vec<Strips>, Strips)> {
        let Self { w, inward, outward, d, d_ff, .. } = self;
        let pack = |w, [rows, cols]: [usize; 2], formats: &RowFormats<'_>| {
            let mat = Mat::row_major(w, rows, cols);
            formats.packed_weight(if transposed { mat.t() } else { mat })
        };
        let into = w.branches().into_iter().map(|w| pack(w, [*d_ff, *d], inward)).collect::<Option<_>>()?;
        Some((into, pack(w.down, [*d, *d_ff], outward)?))
    }

    /// The forward pass, if tiles hold the weights.
    pub(super) fn run(&self, keep: bool) -> Option<(Vec<f32>, Kept)> {
        let Self { n, d, d_ff, .. } = *self;
        let packed = self.packed(true)?;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            product(Part::MatmulForward, [n, d, d_ff * self.branches()]),
            pass(Part::Activation, n * d_ff * (1 + self.branches())),
            product(Part::MatmulForward, [n, d_ff, d]),
        ]);
        // Of a block of tokens.
        let of_block = if keep { self.panels() * self.branches() * 2 } else { 0 };
        let mut kept = Vec::<Tile>::with_capacity(n / BLOCK * of_block);
        let places = kept.spare_capacity_mut()[..n / BLOCK * of_block].chunks_exact_mut(of_block.max(1));
        let places: Vec<_> = places.map(Mutex::new).collect();
        // SAFETY: tasks write products to all rows of the result.
        let ([y], rstd) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    let task = |task: RowTask<'_, 1, 1>| {
                        BUFFERS
                            .with_borrow_mut(|buffers| self.run_rows(task, clocks, buffers, &packed, &places))
                    };
                    self.rows.with_packed(&[], |_, _| {}, |right| right.by_rows(results, [d], task))
                })
            })
        };
        drop(places);
        // SAFETY: tasks have written those of all blocks.
        unsafe { kept.set_len(n / BLOCK * of_block) };
        self.inward.count_weights(&self.w.branches());
        self.outward.count_weights(&[self.w.down]);
        for formats in [self.inward, self.outward] {
            formats.tell(&[Role::Input, Role::Weight]);
        }
        let tiles = Some(KeptTiles(kept));
        Some((y, Kept { rstd: rstd.concat(), tiles, by_rows: true, ..Kept::default() }))
    }

    /// Returns `rstd` of the norm.
    fn run_rows(
        &self,
        task: RowTask<'_, 1, 1>,
        [norm, into_hidden, activation, out_of_hidden]: &[Clock; 4],
        Buffers { rows: left, of_up: hidden_left, .. }: &mut Buffers,
        (into, out_of): &(Vec<Strips>, Strips),
        places: &[Mutex<&mut [MaybeUninit<Tile>]>],
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut y], scratch: [normed], .. } = task;
        let Self { unit, block, w, inward, outward, d, .. } = self;
        let (panels, branches, blocks) = (self.panels(), self.branches(), rows.len() / BLOCK);
        let x = rows_of(self.x, &rows, *d);
        let format = NumericFormat::Bf16;
        let rstd = norm.time(|| {
            let enter = |normed: &mut [f32]| inward.enter(format, Role::Input, normed);
            norm_rows(&block.norm, [x, w.norm], format, normed, enter)
        });
        let left = into_hidden.time(|| LeftBlocks::packed(left, normed, *d));
        let mut hidden_left = LeftBlocks::new(hidden_left, blocks, panels);
        let mut tiles = unit.configure();
        let [mut gate, mut up, mut hidden] = [Sums::ZERO; 3];
        let mut packed = [Tile::ZERO; 2];
        for panel in 0..panels {
            for block in 0..blocks {
                into_hidden.time(|| {
                    for (sums, right) in [&mut up, &mut gate].into_iter().zip(into.iter().rev()) {
                        tiles.multiply(sums, Start::Zero, left.block(block), right.block(panel));
                    }
                });
                activation.time(|| {
                    for (branch, sums) in [&mut up, &mut gate].into_iter().take(branches).enumerate() {
                        self.clear_padding(panel, sums);
                        round_to_tiles(sums, packed.each_mut());
                        if let Some(place) = places.get(rows.start / BLOCK + block) {
                            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
                            let first = (panel * branches + branch) * 2;
                            packed
                                .iter()
                                .zip(&mut place[first..])
                                .for_each(|(tile, place)| stream(tile, place));
                        }
                    }
                    match self.functions() {
                        (Some(gate_fn), up_fn) => {
                            let inputs = [gate.numbers(), up.numbers()];
                            product_into(inputs, [gate_fn, up_fn], hidden.numbers_mut());
                        }
                        (None, up_fn) => up_fn.value(up.numbers(), hidden.numbers_mut()),
                    }
                    let largest = left_tiles_of(&hidden, hidden_left.at(block, panel));
                    outward.add_found(0, Role::Input, largest.non_finite_rounded(&hidden));
                });
            }
        }
        drop(tiles);
        streamed();
        out_of_hidden.time(|| {
            let before = Before::Other(Mat::row_major(x, rows.len(), *d));
            let update = Update { before, ..Update::OVERWRITE };
            let c = y.window([0, 0], y.shape());
            let mut results = [Destination { b: out_of, update, scales: None, rounded: true, c }];
            multiply_packed(*unit, hidden_left.lines(), &mut results);
            round_rows(y.elements(), block.formats.residual);
        });
        rstd
    }

    /// The backward pass, if tiles hold the weights.
    pub(super) fn back(&self, rstd: &[f32], kept: &KeptTiles, grad: &[f32]) -> Option<Gradients> {
        let Self { n, d, d_ff, .. } = *self;
        let packed = self.packed(false)?;
        let wide = d_ff * self.branches();
        let parts = Shared::new([
            pass(Part::Quantise, 2 * n * d),
            product(Part::MatmulInput, [n, d, d_ff]),
            pass(Part::Activation, 2 * n * (wide + d_ff)),
            product(Part::MatmulInput, [n, wide, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let across = |side, cols| OverRows::new(side, Parts::One, n, cols);
        let operands = Across {
            normed: across(Side::Right, d),
            hidden: across(Side::Right, d_ff),
            of_branches: (0..self.branches()).map(|_| across(Side::Left, d_ff)).collect(),
            of_y: across(Side::Left, d),
        };
        let past = width_past_block(self.block.formats.residual, d);
        // SAFETY: tasks write all rows of the result.
        let ([of_x], partial) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    let task = |task: RowTask<'_, 1, 4>| {
                        BUFFERS.with_borrow_mut(|buffers| {
                            self.back_rows(task, clocks, buffers, &packed, &operands, (rstd, kept, grad))
                        })
                    };
                    self.rows.with_packed(
                        &[],
                        |_, _| {},
                        |right| right.by_rows(results, [d, d, d, past], task),
                    )
                })
            })
        };
        for formats in [self.inward, self.outward] {
            formats.tell(&[Role::Grad]);
        }
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [wide + d_ff, n, d], || {
            let Across { normed, hidden, of_branches, of_y } = operands;
            // SAFETY: tasks have written all rows of all of them.
            let [normed, hidden, of_y] = [normed, hidden, of_y].map(|operand| unsafe { operand.packed() });
            // SAFETY: as above.
            let of_branches: Vec<_> = of_branches.into_iter().map(|dy| unsafe { dy.packed() }).collect();
            let pairs = of_branches.iter().map(|dy| (1.0, dy, &normed)).chain([(1.0, &of_y, &hidden)]);
            packed_products(self.unit, &pairs.collect::<Vec<_>>())
        });
        let of_norm = rms_norm::sum_partial_dw(d, partial);
        Some(Gradients { of_x, of_weights: [of_norm].into_iter().chain(of_products).collect() })
    }

    /// Returns sums for the gradient of the norm's weight.
    fn back_rows(
        &self,
        task: RowTask<'_, 1, 4>,
        [quantise, out_of_hidden, activation, into_hidden, norm]: &[Clock; 5],
        Buffers { rows: left, of_gate, of_up }: &mut Buffers,
        (into, out_of): &(Vec<Strips>, Strips),
        across: &Across,
        (rstd, kept, grad): (&[f32], &KeptTiles, &[f32]),
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut of_x], scratch: [normed, of_normed, operand, past], .. } = task;
        let Self { unit, block, w, inward, outward, d, .. } = self;
        let d = *d;
        let (panels, branches, blocks) = (self.panels(), self.branches(), rows.len() / BLOCK);
        let (x, rstd, first) = (rows_of(self.x, &rows, d), &rstd[rows.clone()], rows.start / BLOCK);
        let residual = block.formats.residual;
        let grad = past_block(rows_of(grad, &rows, d), residual, past);
        let mut turned = [Tile::ZERO; 2];
        let left = quantise.time(|| {
            operand.copy_from_slice(grad);
            outward.enter_one(0, residual, Role::Grad, operand);
            let left = LeftBlocks::packed(left, operand, d);
            for block in 0..blocks {
                // SAFETY: these rows belong to this task.
                unsafe { across.of_y.put_rows(first + block, left.block(block)) };
            }
            left
        });
        let mut of_branches = [of_gate, of_up].map(|tiles| LeftBlocks::new(tiles, blocks, panels));
        let of_branches = &mut of_branches[2 - branches..];
        let mut tiles = unit.configure();
        let [mut dy, mut gate, mut up, mut hidden, mut of_gate, mut of_up] = [Sums::ZERO; 6];
        let mut packed = [Tile::ZERO; 2];
        for panel in 0..panels {
            for block in 0..blocks {
                out_of_hidden
                    .time(|| tiles.multiply(&mut dy, Start::Zero, left.block(block), out_of.block(panel)));
                activation.time(|| {
                    self.clear_padding(panel, &mut dy);
                    round_block(&mut dy);
                    let kept = &kept.0[((first + block) * panels + panel) * branches * 2..];
                    for (sums, tiles) in
                        [&mut up, &mut gate].into_iter().zip(kept.as_chunks().0).take(branches)
                    {
                        block_of(tiles, sums);
                    }
                    match self.functions() {
                        (Some(gate_fn), up_fn) => {
                            let inputs = [gate.numbers(), up.numbers(), dy.numbers()];
                            let results = [&mut hidden, &mut of_gate, &mut of_up].map(Sums::numbers_mut);
                            product_and_gradients_into(inputs, [gate_fn, up_fn], results);
                        }
                        (None, up_fn) => {
                            let results = [&mut hidden, &mut of_up].map(Sums::numbers_mut);
                            value_and_gradient_into(up_fn, [up.numbers(), dy.numbers()], results);
                        }
                    }
                    let gradients = [&mut of_gate, &mut of_up].into_iter().skip(2 - branches);
                    let all = gradients.zip(&mut *of_branches).zip(&across.of_branches).enumerate();
                    for (branch, ((sums, left), across)) in all {
                        let [early, late] = left.at(block, panel);
                        let largest = left_tiles_of(sums, [&mut *early, &mut *late]);
                        inward.add_found(branch, Role::Grad, largest.non_finite(sums));
                        over_lines([early, late], across.side(), turned.each_mut());
                        // SAFETY: these rows belong to this task.
                        unsafe { across.put(panel, first + block, &turned) };
                    }
                    left_tiles(&hidden, packed.each_mut());
                    over_lines(packed.each_ref(), across.hidden.side(), turned.each_mut());
                    // SAFETY: these rows belong to this task.
                    unsafe { across.hidden.put(panel, first + block, &turned) };
                });
            }
        }
        drop(tiles);
        streamed();
        into_hidden.time(|| {
            let products = of_branches.iter().map(LeftBlocks::lines).zip(into);
            add_products(*unit, products, of_normed, d);
        });
        norm.time(|| {
            let (across, of_x) = ((&across.normed, rows.clone()), of_x.elements());
            // SAFETY: these rows belong to this task.
            unsafe { back_through_norm(inward, [x, w.norm, rstd], [normed, of_normed], across, grad, of_x) }
        })
    }
}

/// Operands of the weights' gradients.
struct Across {
    normed: OverRows,
    hidden: OverRows,
    of_branches: Vec<OverRows>,
    of_y: OverRows,
}
