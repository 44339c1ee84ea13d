//! An attention block in bf16 on tiles whose queries, keys, values and heads' results never lie in memory as rows: blocks of sums
//! of one product become operands of the next where they are.
//!
//! The numbers are those of [`AttentionRows`](super::attention_rows::AttentionRows), bit for bit.

// Only x86-64 has such a unit.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::attention_block::{Kept, Shaped, Weights};
use super::left_blocks::LeftBlocks;
use super::residual_blocks::Gradients;
use super::row_products::{RowFormats, norm_rows, past_block, width_past_block};
use super::rows_of;
use super::tiles_to_input::{add_products, back_through_norm};
use crate::attention::{Head, Of, PackedHeads, backward_heads, forward_heads};
use crate::bf16_matmul::{
    BLOCK, Destination, OverRows, Parts, Side, Start, Strips, Sums, Tile, TileUnit, Tiles, left_tiles,
    left_tiles_of, multiply_packed, over_lines, packed_products, round_block, streamed,
};
use crate::buffers::with_elements;
use crate::matmul::{Before, Mat, Update, written};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product, span};
use crate::quantized::Role;
use crate::rms_norm;
use crate::rope::rotate_blocks;
use crate::round::round_rows;
use crate::row_tasks::{RowTask, RowUnit, rows_on_tiles};
use candle_core::Result;
use numerics::NumericFormat;
use std::cell::RefCell;
use std::ops::Range;

/// A block without a norm before its output projection, all of whose operands and results are of bf16, with whole [`BLOCK`]s of
/// positions in a sequence and of features in a head.
pub(super) struct AttentionTiles<'a, U> {
    pub(super) unit: U,
    /// The same, to share rows out.
    pub(super) rows: RowUnit,
    pub(super) shaped: &'a Shaped,
    pub(super) w: &'a Weights<'a>,
    pub(super) inward: &'a RowFormats<'a>,
    pub(super) outward: &'a RowFormats<'a>,
    pub(super) x: &'a [f32],
    /// Rows of x.
    pub(super) n: usize,
    pub(super) d: usize,
}

/// Rotated queries and keys, values, and what heads gave, \[n, d\], as left operands.
pub(super) struct KeptTiles {
    qkv: [Strips; 3],
    out: Strips,
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Buffers {
    rows: Vec<f32>,
    past: Vec<f32>,
    left: Vec<Tile>,
    /// Blocks of a head's features.
    sums: Vec<Sums>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Room for so many floats.
fn room(floats: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if floats.len() < count {
        floats.resize(count, 0.0);
    }
    &mut floats[..count]
}

/// What is made of rows in the backward pass to sum over them.
struct Across {
    of_qkv: [OverRows; 3],
    of_y: OverRows,
    out: OverRows,
    normed: OverRows,
}

impl<U: TileUnit> AttentionTiles<'_, U> {
    /// Blocks of all features.
    fn panels(&self) -> usize {
        self.d / BLOCK
    }

    /// Room for a left operand \[n, d\].
    fn lines(&self) -> OverRows {
        OverRows::new(Side::Left, Parts::One, self.d, self.n)
    }

    /// Room for the same where rows are what is summed over.
    fn across(&self, side: Side) -> OverRows {
        OverRows::new(side, Parts::One, self.n, self.d)
    }

    /// Rounded and packed weights to queries, keys and values, and of the output; none if tiles do not hold them.
    fn packed(&self, transposed: bool) -> Option<([Strips; 3], Strips)> {
        let pack = |formats: &RowFormats<'_>, w| {
            let w = Mat::row_major(w, self.d, self.d);
            formats.packed_weight(if transposed { w.t() } else { w })
        };
        let [q, k, v] = self.w.qkv.map(|w| pack(self.inward, w));
        Some(([q?, k?, v?], pack(self.outward, self.w.o)?))
    }

    fn heads<'o>(&self, qkv: &'o [Strips; 3]) -> PackedHeads<'o> {
        let scale = self.shaped.block.scale as f32;
        PackedHeads { qkv: qkv.each_ref(), shape: self.shaped.shape, scale }
    }

    /// Those of a block of positions.
    fn angles<'o>(&self, block: usize, tables: [&'o [f32]; 2]) -> [&'o [f32]; 2] {
        let of_block = self.shaped.shape.d / 2 * BLOCK;
        tables.map(|table| &table[block % (self.shaped.shape.t / BLOCK) * of_block..][..of_block])
    }

    /// The forward pass, if tiles hold the weights.
    pub(super) fn run(&self) -> Result<Option<(Vec<f32>, Kept)>> {
        let Some((into, out_of)) = self.packed(true) else { return Ok(None) };
        let Self { n, d, unit, inward, outward, .. } = *self;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            product(Part::MatmulForward, [n, d, 3 * d]),
            pass(Part::Rope, 4 * n * d),
        ]);
        let qkv = [(); 3].map(|()| self.lines());
        let rstd = with_elements(self.shaped.block.rotary.each_ref(), |tables| {
            Ok(parts.run(|clocks| {
                rows_on_tiles(n, |rows| {
                    BUFFERS.with_borrow_mut(|buffers| {
                        self.rows_before_heads(rows, clocks, buffers, (&into, &qkv), tables)
                    })
                })
            }))
        })?;
        // SAFETY: tasks have written all rows of all of them.
        let qkv = qkv.map(|operand| unsafe { operand.packed() });
        let out = self.lines();
        let log_sum_exp = span(Part::Attention, self.shaped.attention_work(2.0, 4), || {
            forward_heads(unit, &self.heads(&qkv), |[block, panel], sums| {
                let mut tiles = [Tile::ZERO; 2];
                let largest = left_tiles_of(sums, tiles.each_mut());
                outward.add_found(0, Role::Input, largest.non_finite_rounded(sums));
                // SAFETY: each block belongs to one head, and each head to one task.
                unsafe { out.put(block, panel, &tiles) };
            })
        });
        // SAFETY: heads have written all of it.
        let out = unsafe { out.packed() };
        // SAFETY: tasks write products to all rows of the result.
        let ([y], _) = unsafe {
            written(n, [d], |results| {
                let task = |RowTask { rows, results: [mut y], .. }: RowTask<'_, 1, 0>| {
                    let before = Before::Other(Mat::row_major(rows_of(self.x, &rows, d), rows.len(), d));
                    let update = Update { before, ..Update::OVERWRITE };
                    let c = y.window([0, 0], y.shape());
                    let result = Destination { b: &out_of, update, scales: None, rounded: true, c };
                    multiply_packed(unit, out.lines(blocks(&rows)), &mut [result]);
                    round_rows(y.elements(), self.shaped.block.formats.residual);
                };
                matmul_span(Part::MatmulForward, [n, d, d], || {
                    self.rows.with_packed(&[], |_, _| {}, |right| right.by_rows(results, [], task))
                })
            })
        };
        inward.count_weights(&self.w.qkv);
        outward.count_weights(&[self.w.o]);
        for formats in [inward, outward] {
            formats.tell(&[Role::Input, Role::Weight]);
        }
        let tiles = Some(KeptTiles { qkv, out });
        let rstd = rstd.concat();
        Ok(Some((y, Kept { rstd, tiles, log_sum_exp, by_rows: true, ..Kept::default() })))
    }

    /// Returns `rstd` of the norm.
    fn rows_before_heads(
        &self,
        rows: Range<usize>,
        [norm, projections, rope]: &[Clock; 3],
        Buffers { rows: normed, left, sums, .. }: &mut Buffers,
        (into, qkv): (&[Strips; 3], &[OverRows; 3]),
        tables: [&[f32]; 2],
    ) -> Vec<f32> {
        let format = NumericFormat::Bf16;
        let normed = room(normed, rows.len() * self.d);
        let rstd = norm.time(|| {
            let x = rows_of(self.x, &rows, self.d);
            let enter = |normed: &mut [f32]| self.inward.enter(format, Role::Input, normed);
            norm_rows(&self.shaped.block.norm, [x, self.w.norm], format, normed, enter)
        });
        let left = projections.time(|| LeftBlocks::packed(left, normed, self.d));
        let of_head = self.shaped.shape.d / BLOCK;
        sums.resize(of_head, Sums::ZERO);
        let mut tiles = self.unit.configure();
        let mut packed = [Tile::ZERO; 2];
        for (of, (right, operand)) in Of::ALL.into_iter().zip(into.iter().zip(qkv)) {
            for first in (0..self.panels()).step_by(of_head) {
                for (index, block) in blocks(&rows).enumerate() {
                    projections.time(|| {
                        for (sums, panel) in sums.iter_mut().zip(first..) {
                            tiles.multiply(sums, Start::Zero, left.block(index), right.block(panel));
                        }
                    });
                    rope.time(|| {
                        if of.is_rotated() {
                            sums.iter_mut().for_each(round_block);
                            rotate_blocks(sums, self.angles(block, tables), 1.0);
                        }
                        for (sums, panel) in sums.iter().zip(first..) {
                            left_tiles(sums, packed.each_mut());
                            // SAFETY: these rows belong to this task.
                            unsafe { operand.put(block, panel, &packed) };
                        }
                    });
                }
            }
        }
        streamed();
        rstd
    }

    /// The backward pass, if tiles hold the weights.
    pub(super) fn back(&self, kept: &Kept, tiles: &KeptTiles, grad: &[f32]) -> Result<Option<Gradients>> {
        let Some((into, out_of)) = self.packed(false) else { return Ok(None) };
        let Self { n, d, unit, inward, .. } = *self;
        let across = Across {
            of_qkv: [(); 3].map(|()| self.across(Side::Left)),
            of_y: self.across(Side::Left),
            out: self.across(Side::Right),
            normed: self.across(Side::Right),
        };
        let parts = Shared::new([pass(Part::Quantise, 2 * n * d), product(Part::MatmulInput, [n, d, d])]);
        let of_out = self.lines();
        parts.run(|clocks| {
            rows_on_tiles(n, |rows| {
                BUFFERS.with_borrow_mut(|buffers| {
                    self.rows_back_to_heads(
                        rows,
                        clocks,
                        buffers,
                        &out_of,
                        (grad, &tiles.out),
                        &of_out,
                        &across,
                    );
                });
            })
        });
        // SAFETY: tasks have written all rows of it.
        let of_out = unsafe { of_out.packed() };
        let of_heads = [(); 3].map(|()| self.lines());
        with_elements(self.shaped.block.rotary.each_ref(), |tables| {
            span(Part::Attention, self.shaped.attention_work(4.0, 7), || {
                let of_out = (&of_out, &kept.log_sum_exp[..]);
                backward_heads(unit, &self.heads(&tiles.qkv), of_out, |of, head, block, sums| {
                    self.back_from_head((of, head, block), sums, &of_heads[of as usize], &across, tables);
                });
            });
            Ok(())
        })?;
        // SAFETY: heads have written all of them.
        let of_heads = of_heads.map(|operand| unsafe { operand.packed() });
        let parts = Shared::new([product(Part::MatmulInput, [n, 3 * d, d]), pass(Part::Norm, 6 * n * d)]);
        let past = width_past_block(self.shaped.block.formats.residual, d);
        // SAFETY: tasks write all rows of the result.
        let ([of_x], partial) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    let task = |task: RowTask<'_, 1, 3>| {
                        self.rows_back_from_heads(task, clocks, (&into, &of_heads), kept, grad, &across)
                    };
                    self.rows.with_packed(&[], |_, _| {}, |right| right.by_rows(results, [d, d, past], task))
                })
            })
        };
        for formats in [inward, self.outward] {
            formats.tell(&[Role::Grad]);
        }
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [4 * d, n, d], || {
            let Across { of_qkv, of_y, out, normed } = across;
            // SAFETY: tasks have written all rows of all of them.
            let [of_y, out, normed] = [of_y, out, normed].map(|operand| unsafe { operand.packed() });
            // SAFETY: as above.
            let of_qkv = of_qkv.map(|dy| unsafe { dy.packed() });
            let pairs = of_qkv.iter().map(|dy| (1.0, dy, &normed)).chain([(1.0, &of_y, &out)]);
            packed_products(unit, &pairs.collect::<Vec<_>>())
        });
        let of_norm = rms_norm::sum_partial_dw(d, partial);
        Ok(Some(Gradients { of_x, of_weights: [of_norm].into_iter().chain(of_products).collect() }))
    }

    /// From the gradient of rows to that of what the heads gave.
    #[expect(clippy::too_many_arguments, reason = "what tasks read and what they write")]
    fn rows_back_to_heads(
        &self,
        rows: Range<usize>,
        [quantise, projection]: &[Clock; 2],
        Buffers { rows: operand, past, left, .. }: &mut Buffers,
        out_of: &Strips,
        (grad, out): (&[f32], &Strips),
        of_out: &OverRows,
        across: &Across,
    ) {
        let residual = self.shaped.block.formats.residual;
        let past = room(past, rows.len() * width_past_block(residual, self.d));
        let grad = past_block(rows_of(grad, &rows, self.d), residual, past);
        let mut packed = [Tile::ZERO; 2];
        let left = quantise.time(|| {
            let operand = room(operand, grad.len());
            operand.copy_from_slice(grad);
            self.outward.enter_one(0, residual, Role::Grad, operand);
            let left = LeftBlocks::packed(left, operand, self.d);
            for (index, block) in blocks(&rows).enumerate() {
                // SAFETY: these rows belong to this task.
                unsafe {
                    across.of_y.put_rows(block, left.block(index));
                    across.out.put_rows(block, out.block(block));
                }
            }
            left
        });
        projection.time(|| {
            let mut tiles = self.unit.configure();
            let mut sums = Sums::ZERO;
            for panel in 0..self.panels() {
                for (index, block) in blocks(&rows).enumerate() {
                    tiles.multiply(&mut sums, Start::Zero, left.block(index), out_of.block(panel));
                    left_tiles(&sums, packed.each_mut());
                    // SAFETY: these rows belong to this task.
                    unsafe { of_out.put(block, panel, &packed) };
                }
            }
        });
        streamed();
    }

    /// What becomes of the gradient of a block of positions of a head.
    fn back_from_head(
        &self,
        (of, head, block): (Of, Head, usize),
        sums: &mut [Sums],
        of_head: &OverRows,
        across: &Across,
        tables: [&[f32]; 2],
    ) {
        let index = of as usize;
        if of.is_rotated() {
            sums.iter_mut().for_each(round_block);
            rotate_blocks(sums, self.angles(block, tables), -1.0);
        }
        let [mut packed, mut turned] = [[Tile::ZERO; 2]; 2];
        for (features, sums) in sums.iter().enumerate() {
            let largest = left_tiles_of(sums, packed.each_mut());
            self.inward.add_found(index, Role::Grad, largest.non_finite(sums));
            let [block, panel] = head.place(block, features);
            over_lines(packed.each_ref(), Side::Left, turned.each_mut());
            // SAFETY: each block belongs to one head, and each head to one task.
            unsafe {
                of_head.put(block, panel, &packed);
                across.of_qkv[index].put(panel, block, &turned);
            }
        }
    }

    /// From the gradients of queries, keys and values to that of rows. Returns sums for the gradient of the norm's weight.
    fn rows_back_from_heads(
        &self,
        RowTask { rows, results: [mut of_x], scratch: [normed, of_normed, past], .. }: RowTask<'_, 1, 3>,
        [projections, norm]: &[Clock; 2],
        (into, of_heads): (&[Strips; 3], &[Strips; 3]),
        kept: &Kept,
        grad: &[f32],
        across: &Across,
    ) -> Vec<f32> {
        projections.time(|| {
            let products = of_heads.iter().map(|dy| dy.lines(blocks(&rows))).zip(into);
            add_products(self.unit, products, of_normed, self.d);
        });
        norm.time(|| {
            let inputs = [rows_of(self.x, &rows, self.d), self.w.norm, &kept.rstd[rows.clone()]];
            let residual = self.shaped.block.formats.residual;
            let past = past_block(rows_of(grad, &rows, self.d), residual, past);
            let (across, of_x) = ((&across.normed, rows.clone()), of_x.elements());
            // SAFETY: these rows belong to this task.
            unsafe { back_through_norm(self.inward, inputs, [normed, of_normed], across, past, of_x) }
        })
    }
}

/// Numbers of the blocks that rows are.
fn blocks(rows: &Range<usize>) -> Range<usize> {
    rows.start / BLOCK..rows.end / BLOCK
}
