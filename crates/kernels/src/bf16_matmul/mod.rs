//! Products of matrices whose values bf16 holds, or two of bf16, on Intel AMX: the same numbers, multiplied exactly and summed in
//! f32, in another order than f32 products are.
//!
//! Values of formats of up to 8 bits, and bf16, have at most 8 significant bits, so their products are exact in f32 and
//! only the sums round, here as there; [`unit`] says in which order, and what becomes of numbers below 2^-126. Values of
//! fp16 and tf32 have 11, so that each is the sum of two that have 8 ([`Parts`]), and a product that of four. [`pack`]
//! looks at every value, and a matrix that holds any other number goes to `f32_matmul`.
//!
//! **Blocks.** The right operand is packed once, in strips of 16 columns. Tasks take rows of the left one, pack them,
//! and go through all strips, two by two, so that a strip of b serves as many rows as a task has. Sums over more than
//! [`TILES_AT_ONCE`] tiles are cut, so that what a task works on stays in its L2 cache.
//!
//! Neither the cut into tasks nor the number of threads touches the order of a sum.

// Only x86-64 has such a unit; elsewhere all of this is checked by its tests and used by nobody.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod blocks;
mod over_rows;
mod pack;
mod strips;
mod take;
mod unit;

#[cfg(target_arch = "x86_64")]
mod amx;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod trap;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Amx;

use crate::matmul::{self, Mat, MatMut, Update};
use crate::round::round_rows;
pub(crate) use blocks::{block_of, left_tiles, left_tiles_of, over_lines, round_block, round_to_tiles};
use numerics::NumericFormat;
pub(crate) use over_rows::OverRows;
pub(crate) use pack::{
    LINES, Parts, STEPS, Side, Tile, pack_strips, pair_of, stream, streamed, to_write, transpose,
    transpose_numbers,
};
use rayon::prelude::*;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use strips::{Lines, Strips};
use take::take;
pub(crate) use take::whole_row;
pub(crate) use unit::{Start, Sums, TileUnit, Tiles};

/// Rows and columns of a block of sums.
pub(crate) const BLOCK: usize = 2 * LINES;

/// Blocks of rows in a task, at most.
const BLOCKS_PER_TASK: usize = 4;

/// Tiles of a sum that are added up before the next ones are packed: 2048 steps, or 1024 in two parts, of which a task has up to
/// 512 KiB of the left operand and 128 KiB of the right one at hand. CPUs with AMX have at least 2 MiB of L2 cache a core.
const TILES_AT_ONCE: usize = 64;

/// Matrices to be multiplied, and a factor.
pub(crate) type Product<'a> = (f32, Mat<'a>, Mat<'a>);

/// What is done to whole rows of a product while they are in a cache: given its number, the number of the first row, and the
/// rows.
pub(crate) type Finish<'a> = &'a (dyn Fn(usize, usize, &mut [f32]) + Sync);

/// What leaves rows as they are.
pub(crate) const UNFINISHED: Finish<'_> = &|_, _, _| {};

/// `factor` a b for each, row-major, rounded to bf16 if they are to be `rounded`, and finished, on all threads of the current rayon
/// pool; by AMX where the CPU has it and one or two parts hold all operands. Products that share operands gain by being computed
/// together.
pub(crate) fn products(all: &[Product<'_>], rounded: bool, finish: Finish<'_>) -> Vec<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = Amx::new() {
        let in_parts = |parts| products_on(unit, parts, all, rounded, finish);
        if let Some(results) = in_parts(Parts::One).or_else(|| in_parts(Parts::Two)) {
            return results;
        }
    }
    f32_products(all, rounded, finish)
}

/// The same by products of f32.
pub(crate) fn f32_products(all: &[Product<'_>], rounded: bool, finish: Finish<'_>) -> Vec<Vec<f32>> {
    let finish_one = |number| {
        move |first: usize, rows: &mut [f32]| {
            if rounded {
                round_rows(rows, NumericFormat::Bf16);
            }
            finish(number, first, rows);
        }
    };
    let finishes: Vec<_> = (0..all.len()).map(finish_one).collect();
    let finished = |(&(factor, a, b), finish)| (factor, a, b, Some(finish as matmul::Finish<'_>));
    matmul::scaled_products(all.iter().zip(&finishes).map(finished))
}

/// The same by `unit`, if so many parts hold all operands.
pub(crate) fn products_on(
    unit: impl TileUnit,
    parts: Parts,
    all: &[Product<'_>],
    rounded: bool,
    finish: Finish<'_>,
) -> Option<Vec<Vec<f32>>> {
    let (mut packed, mut tasks) = (Vec::<(Mat<'_>, Strips)>::new(), Vec::<Task<'_>>::new());
    for (_, _, b) in all {
        if !packed.iter().any(|(of, _)| of.is(*b)) {
            packed.push((*b, Strips::pack(*b, parts)?));
        }
    }
    let len = |(_, a, b): &Product<'_>| a.rows * b.cols;
    let mut results: Vec<_> = all.iter().map(|product| Vec::<f32>::with_capacity(len(product))).collect();
    let blocks: usize = all.iter().map(|(_, a, _)| a.rows.div_ceil(BLOCK)).sum();
    let rows = BLOCK * blocks_per_task(blocks);
    for (index, ((factor, a, b), c)) in all.iter().zip(&mut results).enumerate() {
        assert_eq!(a.cols, b.rows);
        if a.cols == 0 || b.cols == 0 {
            c.resize(a.rows * b.cols, 0.0);
            continue;
        }
        let strips = packed.iter().find(|(of, _)| of.is(*b)).map(|(_, strips)| strips)?;
        // SAFETY: the capacity is the matrix, nobody else has it, and the first thing that is done to it is to write it.
        let mut c = unsafe { MatMut::from_raw(c.as_mut_ptr(), [a.rows, b.cols], b.cols) };
        let update = Update { factor: *factor, ..Update::OVERWRITE };
        for first in (0..a.rows).step_by(rows) {
            let a = a.window([first, 0], [rows, a.cols]);
            let result =
                (index, Destination { b: strips, update, scales: None, rounded, c: c.take_rows(a.rows) });
            match tasks.iter_mut().find(|task| task.a.is(a)) {
                Some(task) => task.results.push(result),
                None => tasks.push(Task { a, first, results: vec![result] }),
            }
        }
    }
    let exact = AtomicBool::new(true);
    tasks.into_par_iter().for_each(|Task { a, first, results }| {
        if exact.load(Ordering::Relaxed) {
            let (numbers, mut results): (Vec<_>, Vec<_>) = results.into_iter().unzip();
            match multiply_rows(unit, a, &mut results) {
                true => numbers.iter().zip(results).for_each(|(number, mut result)| {
                    finish(*number, first, result.c.elements());
                }),
                false => exact.store(false, Ordering::Relaxed),
            }
        }
    });
    for (c, product) in results.iter_mut().zip(all) {
        // SAFETY: unless some task gave up, all of it has been written.
        unsafe { c.set_len(if exact.load(Ordering::Relaxed) { len(product) } else { 0 }) };
    }
    exact.into_inner().then_some(results)
}

/// `factor` aᵀ b for each pair of packed operands, of which the first is a left one, on all threads of the current rayon pool.
pub(crate) fn packed_products(unit: impl TileUnit, all: &[(f32, &Strips, &Strips)]) -> Vec<Vec<f32>> {
    let mut results: Vec<_> = all.iter().map(|(_, a, b)| Vec::with_capacity(a.cols * b.cols)).collect();
    let mut tasks = vec![];
    let blocks: usize = all.iter().map(|(_, a, _)| a.cols.div_ceil(BLOCK)).sum();
    for ((factor, a, b), c) in all.iter().zip(&mut results) {
        // SAFETY: the capacity is the matrix, nobody else has it, and the first thing that is done to it is to write it.
        let c = unsafe { MatMut::from_raw(c.as_mut_ptr(), [a.cols, b.cols], b.cols) };
        let update = Update { factor: *factor, ..Update::OVERWRITE };
        tasks.extend(packed_tasks(blocks_per_task(blocks), (a, b), update, c));
    }
    run_packed(unit, tasks);
    for (c, (_, a, b)) in results.iter_mut().zip(all) {
        match a.len {
            0 => c.resize(a.cols * b.cols, 0.0),
            // SAFETY: all of it has been written.
            _ => unsafe { c.set_len(a.cols * b.cols) },
        }
    }
    results
}

/// `sum` + aᵀ b, or aᵀ b if there is no sum, as [`packed_products`].
pub(crate) fn add_packed_product(
    unit: impl TileUnit,
    sum: Option<Vec<f32>>,
    a: &Strips,
    b: &Strips,
) -> Vec<f32> {
    let Some(mut sum) = sum else {
        return packed_products(unit, &[(1.0, a, b)]).pop().unwrap_or_default();
    };
    let c = MatMut::row_major(&mut sum, a.cols, b.cols);
    let blocks = blocks_per_task(a.cols.div_ceil(BLOCK));
    run_packed(unit, packed_tasks(blocks, (a, b), Update::ACCUMULATE, c).collect());
    sum
}

/// Tasks of so many blocks that update c by aᵀ b.
fn packed_tasks<'a>(
    blocks: usize,
    (a, b): (&'a Strips, &'a Strips),
    update: Update<'a>,
    mut c: MatMut<'a>,
) -> impl Iterator<Item = (Lines<'a>, Destination<'a, 'a>)> {
    assert_eq!((a.len, a.parts), (b.len, b.parts));
    let all = a.cols.div_ceil(BLOCK);
    (0..all).step_by(blocks).map(move |first| {
        let rows = (blocks * BLOCK).min(c.shape()[0]);
        let result = Destination { b, update, scales: None, rounded: false, c: c.take_rows(rows) };
        (a.lines(first..(first + blocks).min(all)), result)
    })
}

fn run_packed(unit: impl TileUnit, tasks: Vec<(Lines<'_>, Destination<'_, '_>)>) {
    tasks.into_par_iter().for_each(|(a, result)| multiply_packed(unit, a, &mut [result]));
}

/// Every task reads all of b, so there are not more of them than it takes to share so many blocks of rows out.
fn blocks_per_task(blocks: usize) -> usize {
    (blocks / (2 * rayon::current_num_threads())).clamp(1, BLOCKS_PER_TASK)
}

/// Rows of a left operand, and those of the results that come of them.
struct Task<'a> {
    a: Mat<'a>,
    /// The number of the first row.
    first: usize,
    /// Each with its number.
    results: Vec<(usize, Destination<'a, 'a>)>,
}

/// Scales that rows and columns of a product have: it is multiplied by the product of both.
#[derive(Clone, Copy)]
pub(crate) struct LineScales<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) cols: &'a [f32],
}

impl LineScales<'_> {
    /// Those of a part.
    fn from(self, [row, col]: [usize; 2]) -> Self {
        Self { rows: &self.rows[row..], cols: &self.cols[col..] }
    }
}

/// A right operand, and what its product with the left one does to a matrix.
pub(crate) struct Destination<'a, 'b> {
    pub(crate) b: &'a Strips,
    pub(crate) update: Update<'a>,
    /// In place of the update's factor.
    pub(crate) scales: Option<LineScales<'a>>,
    /// Whether the product is rounded to bf16 before it is added to anything.
    pub(crate) rounded: bool,
    pub(crate) c: MatMut<'b>,
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Scratch {
    /// Rows of a.
    left: Vec<Tile>,
    /// Blocks of sums that are cut.
    sums: Vec<Sums>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch { left: Vec::new(), sums: Vec::new() }) };
}

/// The left operand of a task.
#[derive(Clone, Copy)]
enum Left<'a> {
    /// To be packed.
    Rows(Mat<'a>),
    /// Packed.
    Packed(Lines<'a>),
}

/// Updates each c by a and its b, for the rows of a task, unless the parts of b do not hold a. All b have as many.
pub(crate) fn multiply_rows(unit: impl TileUnit, a: Mat<'_>, results: &mut [Destination<'_, '_>]) -> bool {
    multiply_left(unit, Left::Rows(a), results)
}

/// The same for a left operand that is packed.
pub(crate) fn multiply_packed(unit: impl TileUnit, a: Lines<'_>, results: &mut [Destination<'_, '_>]) {
    multiply_left(unit, Left::Packed(a), results);
}

/// [`multiply_rows`] for either left operand.
fn multiply_left(unit: impl TileUnit, a: Left<'_>, results: &mut [Destination<'_, '_>]) -> bool {
    let Some(parts) = results.first().map(|of| of.b.parts) else { return true };
    assert!(results.iter().all(|of| of.b.parts == parts));
    let (blocks, len) = match a {
        Left::Rows(a) => (a.rows.div_ceil(BLOCK), parts.tiles(a.cols)),
        Left::Packed(lines) => (lines.blocks(), lines.len()),
    };
    let mut scratch = SCRATCH.take();
    let Scratch { left: buffer, sums } = &mut scratch;
    let cut = len > TILES_AT_ONCE;
    let panels = |of: &Destination<'_, '_>| of.c.shape()[1].div_ceil(BLOCK);
    grow(sums, if cut { blocks * results.iter().map(panels).sum::<usize>() } else { 1 }, Sums::ZERO);
    let mut unit = unit.configure();
    let mut exact = true;
    for start in (0..len).step_by(TILES_AT_ONCE) {
        let count = TILES_AT_ONCE.min(len - start);
        let left = match a {
            Left::Rows(a) => {
                grow(buffer, 2 * blocks * count, Tile::ZERO);
                let left = &mut buffer[..2 * blocks * count];
                let [start, steps] = [start, count].map(|tiles| tiles / parts.count() * STEPS);
                let view = a.window([0, start], [a.rows, steps]);
                // SAFETY: the packers write tiles.
                exact &= pack_strips(unsafe { to_write(left) }, Side::Left, parts, view);
                if !exact {
                    break;
                }
                Lines::new(left, count)
            }
            Left::Packed(lines) => lines.steps(start..start + count),
        };
        let first = if start == 0 { Start::Zero } else { Start::Sums };
        let mut number = 0;
        for Destination { b: Strips { tiles, pitch, .. }, update, scales, rounded, c } in &mut *results {
            for (panel, b) in tiles.chunks_exact(2 * pitch).enumerate() {
                let b = [&b[start..][..count], &b[pitch + start..][..count]];
                for block in 0..blocks {
                    let a = left.block(block);
                    let sums = &mut sums[number];
                    number += usize::from(cut);
                    match parts {
                        Parts::One => unit.multiply(sums, first, a, b),
                        Parts::Two => unit.multiply_split(sums, first, a, b),
                    }
                    if start + count == len {
                        let (place, shape) = ([block * BLOCK, panel * BLOCK], [BLOCK; 2]);
                        let scales = scales.map(|scales| scales.from(place));
                        take(
                            sums,
                            update.window(place, shape),
                            scales,
                            *rounded,
                            &mut c.window(place, shape),
                        );
                    }
                }
            }
        }
    }
    SCRATCH.set(scratch);
    exact
}

/// At least so many, and never fewer than there are.
fn grow<T: Copy>(buffer: &mut Vec<T>, len: usize, fill: T) {
    buffer.resize(buffer.len().max(len), fill);
}
