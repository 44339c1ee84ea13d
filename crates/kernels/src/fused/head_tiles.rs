//! The output head and the cross-entropy in bf16 on tiles: logits and their gradients are never whole, nor in memory as rows.
//!
//! The numbers are those of [`HeadLoss`](super::HeadLoss) by rows, bit for bit.

// Only x86-64 has such a unit.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::left_blocks::LeftBlocks;
use super::row_products::RowFormats;
use super::rows_of;
use crate::bf16_matmul::{
    BLOCK, Destination, LINES, OverRows, Parts, Side, Start, Strips, Sums, Tile, TileUnit, Tiles,
    add_packed_product, multiply_packed, round_to_tiles, streamed,
};
use crate::cross_entropy::{OfStrip, Strip, look_at};
use crate::matmul::{Mat, Update, written};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::quantized::Role;
use crate::row_tasks::{RowTask, RowUnit};
use std::cell::RefCell;

/// A head all of whose operands and results are of bf16.
pub(super) struct HeadTiles<'a, U> {
    unit: U,
    /// The same, to share rows out.
    rows: RowUnit,
    formats: &'a RowFormats<'a>,
    /// The head as it multiplies values, and gradients.
    forward: Strips,
    back: Strips,
    /// Classes and features.
    v: usize,
    d: usize,
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Buffers {
    normed: Vec<Tile>,
    logits: Vec<Tile>,
    largest: Vec<[OfStrip; 2]>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// What of a chunk of tokens is made to sum over them.
struct Across {
    of_logits: OverRows,
    normed: OverRows,
}

impl<'a, U: TileUnit> HeadTiles<'a, U> {
    /// Those of a head \[v, d\], if tiles hold it.
    pub(super) fn new(unit: U, rows: RowUnit, formats: &'a RowFormats<'a>, head: Mat<'_>) -> Option<Self> {
        let (forward, back) = (formats.packed_weight(head.t())?, formats.packed_weight(head)?);
        Some(Self { unit, rows, formats, forward, back, v: head.rows, d: head.cols })
    }

    /// The losses of a chunk of tokens, whole [`BLOCK`]s of them, and `factor` times the gradients of their inputs. That of the
    /// head is added to what is there.
    pub(super) fn chunk(
        &self,
        normed: &[f32],
        targets: &[u32],
        factor: f32,
        of_head: &mut Option<Vec<f32>>,
    ) -> (Vec<f32>, Vec<f32>) {
        let Self { v, d, .. } = *self;
        let n = targets.len();
        let parts = Shared::new([
            product(Part::MatmulForward, [n, d, v]),
            pass(Part::Loss, 2 * n * v),
            product(Part::MatmulInput, [n, v, d]),
        ]);
        let across = Across {
            of_logits: OverRows::new(Side::Left, Parts::One, n, v),
            normed: OverRows::new(Side::Right, Parts::One, n, d),
        };
        // SAFETY: tasks write products to all rows of the result.
        let ([of_rows], losses) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    let task = |task: RowTask<'_, 1, 0>| {
                        BUFFERS.with_borrow_mut(|buffers| {
                            self.run_rows(task, clocks, buffers, &across, normed, (targets, factor))
                        })
                    };
                    self.rows.with_packed(&[], |_, _| {}, |right| right.by_rows(results, [], task))
                })
            })
        };
        *of_head = Some(matmul_span(Part::MatmulWeight, [v, n, d], || {
            let Across { of_logits, normed } = across;
            // SAFETY: tasks have written all rows of both.
            let [of_logits, normed] = [of_logits, normed].map(|operand| unsafe { operand.packed() });
            add_packed_product(self.unit, of_head.take(), &of_logits, &normed)
        }));
        (losses.concat(), of_rows)
    }

    /// Returns the losses of the rows.
    fn run_rows(
        &self,
        RowTask { rows, results: [mut of_normed], .. }: RowTask<'_, 1, 0>,
        [forward, loss, back]: &[Clock; 3],
        Buffers { normed: normed_left, logits, largest }: &mut Buffers,
        across: &Across,
        normed: &[f32],
        (targets, factor): (&[u32], f32),
    ) -> Vec<f32> {
        let (panels, blocks) = (self.v.div_ceil(BLOCK), rows.len() / BLOCK);
        let (normed, targets) = (rows_of(normed, &rows, self.d), &targets[rows.clone()]);
        let mut logits = LeftBlocks::new(logits, blocks, panels);
        largest.clear();
        largest.resize(blocks, [[[f32::NEG_INFINITY; LINES]; LINES]; 2]);
        forward.time(|| {
            // SAFETY: these rows belong to this task.
            unsafe { across.normed.pack(rows.clone(), normed) };
            let left = LeftBlocks::packed(normed_left, normed, self.d);
            let mut tiles = self.unit.configure();
            let mut sums = Sums::ZERO;
            for panel in 0..panels {
                for (block, largest) in largest.iter_mut().enumerate() {
                    tiles.multiply(&mut sums, Start::Zero, left.block(block), self.forward.block(panel));
                    if (panel + 1) * BLOCK > self.v {
                        sums.fill_columns(self.v - panel * BLOCK, f32::NEG_INFINITY);
                    }
                    round_to_tiles(&mut sums, logits.at(block, panel));
                    look_at(&sums, largest);
                }
            }
        });
        let losses = loss.time(|| {
            let mut losses = Vec::with_capacity(rows.len());
            for (block, largest) in largest.iter().enumerate() {
                for (strip, largest) in largest.iter().enumerate() {
                    let targets = &targets[losses.len()..][..LINES];
                    let strip = Strip { tiles: logits.strip(block, strip), largest, targets };
                    let (of_strip, strange) = strip.losses_and_gradient(factor);
                    losses.extend(of_strip);
                    self.formats.add_found(0, Role::Grad, strange);
                }
                // SAFETY: these rows belong to this task.
                unsafe { across.of_logits.put_rows(rows.start / BLOCK + block, logits.block(block)) };
            }
            streamed();
            losses
        });
        back.time(|| {
            let c = of_normed.window([0, 0], of_normed.shape());
            let result =
                Destination { b: &self.back, update: Update::OVERWRITE, scales: None, rounded: true, c };
            multiply_packed(self.unit, logits.lines(), &mut [result]);
        });
        losses
    }
}
