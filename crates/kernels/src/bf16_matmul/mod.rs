//! Products of matrices whose values bf16 holds, on Intel AMX: the same numbers, multiplied exactly and summed in f32,
//! in another order than f32 products are.
//!
//! Values of formats of up to 8 bits, and bf16, have at most 8 significant bits, so their products are exact in f32 and
//! only the sums round, here as there; [`unit`] says in which order, and what becomes of numbers below 2^-126. [`pack`]
//! looks at every value, and a matrix that holds any other number goes to `f32_matmul`.
//!
//! **Blocks.** The right operand is packed once, in strips of 16 columns. Tasks take rows of the left one, pack them,
//! and go through all strips, two by two, so that a strip of b serves as many rows as a task has. Sums over more than
//! [`STEPS_AT_ONCE`] are cut, so that what a task works on stays in its L2 cache.
//!
//! Neither the cut into tasks nor the number of threads touches the order of a sum.

// Only x86-64 has such a unit; elsewhere all of this is checked by its tests and used by nobody.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod over_rows;
mod pack;
mod unit;

#[cfg(target_arch = "x86_64")]
mod amx;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod trap;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Amx;

use crate::matmul::{self, Before, Mat, MatMut, Update};
use crate::round::to_bf16;
use crate::simd::padded;
use numerics::multiversion;
pub(crate) use over_rows::OverRows;
pub(crate) use pack::{LINES, STEPS, Side, Tile, pack_strips, pair_of};
use rayon::prelude::*;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use unit::{Start, Sums, TileUnit, Tiles};

/// Rows and columns of a block of sums.
pub(crate) const BLOCK: usize = 2 * LINES;

/// Blocks of rows in a task, at most.
const BLOCKS_PER_TASK: usize = 4;

/// Tiles of a sum that are added up before the next ones are packed: 2048 steps, of which a task has up to 512 KiB of
/// the left operand and 128 KiB of the right one at hand. CPUs with AMX have at least 2 MiB of L2 cache a core.
const STEPS_AT_ONCE: usize = 64;

/// Matrices to be multiplied, and a factor.
pub(crate) type Product<'a> = (f32, Mat<'a>, Mat<'a>);

/// What is done to whole rows of a product while they are in a cache: given its number, the number of the first row, and the
/// rows.
pub(crate) type Finish<'a> = &'a (dyn Fn(usize, usize, &mut [f32]) + Sync);

/// What leaves rows as they are.
pub(crate) const UNFINISHED: Finish<'_> = &|_, _, _| {};

/// `factor` a b for each, row-major and finished, on all threads of the current rayon pool; by AMX where the CPU has it and
/// bf16 holds all operands. Products that share operands gain by being computed together.
pub(crate) fn products(all: &[Product<'_>], finish: Finish<'_>) -> Vec<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(results) = Amx::new().and_then(|unit| products_on(unit, all, finish)) {
        return results;
    }
    f32_products(all, finish)
}

/// The same by products of f32.
pub(crate) fn f32_products(all: &[Product<'_>], finish: Finish<'_>) -> Vec<Vec<f32>> {
    let finish_one = |number| move |first: usize, rows: &mut [f32]| finish(number, first, rows);
    let finishes: Vec<_> = (0..all.len()).map(finish_one).collect();
    let finished = |(&(factor, a, b), finish)| (factor, a, b, Some(finish as matmul::Finish<'_>));
    matmul::scaled_products(all.iter().zip(&finishes).map(finished))
}

/// The same by `unit`, if bf16 holds all operands.
pub(crate) fn products_on(
    unit: impl TileUnit,
    all: &[Product<'_>],
    finish: Finish<'_>,
) -> Option<Vec<Vec<f32>>> {
    let (mut packed, mut tasks) = (Vec::<(Mat<'_>, Strips)>::new(), Vec::<Task<'_>>::new());
    for (_, _, b) in all {
        if !packed.iter().any(|(of, _)| of.is(*b)) {
            packed.push((*b, Strips::pack(*b)?));
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
            let result = (index, Destination { b: strips, update, rounded: false, c: c.take_rows(a.rows) });
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

/// aᵀ b for each pair of packed operands, of which the first is a left one, on all threads of the current rayon pool.
pub(crate) fn packed_products(unit: impl TileUnit, all: &[(&Strips, &Strips)]) -> Vec<Vec<f32>> {
    let mut results: Vec<_> = all.iter().map(|(a, b)| Vec::with_capacity(a.cols * b.cols)).collect();
    let mut tasks = vec![];
    let blocks: usize = all.iter().map(|(a, _)| a.cols.div_ceil(BLOCK)).sum();
    let rows = BLOCK * blocks_per_task(blocks);
    for ((a, b), c) in all.iter().zip(&mut results) {
        assert_eq!(a.steps, b.steps);
        // SAFETY: the capacity is the matrix, nobody else has it, and the first thing that is done to it is to write it.
        let mut c = unsafe { MatMut::from_raw(c.as_mut_ptr(), [a.cols, b.cols], b.cols) };
        for tiles in a.tiles.chunks((rows / LINES * a.pitch).max(1)) {
            let c = c.take_rows(rows.min(c.shape()[0]));
            let result = Destination { b, update: Update::OVERWRITE, rounded: false, c };
            tasks.push((Left::Packed { tiles, steps: a.steps, pitch: a.pitch }, result));
        }
    }
    tasks.into_par_iter().for_each(|(left, result)| {
        multiply_left(unit, left, &mut [result]);
    });
    for (c, (a, b)) in results.iter_mut().zip(all) {
        match a.steps {
            0 => c.resize(a.cols * b.cols, 0.0),
            // SAFETY: all of it has been written.
            _ => unsafe { c.set_len(a.cols * b.cols) },
        }
    }
    results
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

/// A right operand, and what its product with the left one does to a matrix.
pub(crate) struct Destination<'a, 'b> {
    pub(crate) b: &'a Strips,
    pub(crate) update: Update<'a>,
    /// Whether the product is rounded to bf16 before it is added to anything.
    pub(crate) rounded: bool,
    pub(crate) c: MatMut<'b>,
}

/// An operand, packed in strips of columns, or of rows if it is a left one.
pub(crate) struct Strips {
    /// An even number of strips, one after another.
    tiles: Vec<Tile>,
    /// Columns, or rows.
    cols: usize,
    /// Tiles in a strip.
    steps: usize,
    /// Tiles from strip to strip.
    pitch: usize,
}

impl Strips {
    /// Packs b on all threads, if bf16 holds it.
    pub(crate) fn pack(b: Mat<'_>) -> Option<Self> {
        // Two strips share the cache lines of rows of b; zeros lie beyond the last column.
        Self::pack_panels(b, |panel, tiles| pack_strips(tiles, Side::Right, panel))
    }

    /// Packs what `round` makes of b on all threads, if bf16 holds that.
    pub(crate) fn pack_rounded(b: Mat<'_>, round: impl Fn(&mut [f32]) + Sync) -> Option<Self> {
        Self::pack_panels(b, |panel, tiles| {
            let by_row = panel.rows_are_contiguous();
            let from = if by_row { panel } else { panel.t() };
            let mut values = from.contiguous_rows();
            round(&mut values);
            let rounded = Mat::row_major(&values, from.rows, from.cols);
            pack_strips(tiles, Side::Right, if by_row { rounded } else { rounded.t() })
        })
    }

    /// Has `pack` pack two strips of columns at a time, given as lines by steps. It returns whether bf16 holds them.
    fn pack_panels(b: Mat<'_>, pack: impl Fn(Mat<'_>, &mut [Tile]) -> bool + Sync) -> Option<Self> {
        let steps = b.rows.div_ceil(STEPS);
        let count = b.cols.div_ceil(BLOCK) * 2 * steps;
        let mut tiles = Vec::<Tile>::with_capacity(count);
        let panels = tiles.spare_capacity_mut()[..count].par_chunks_exact_mut(2 * steps.max(1));
        let exact = panels.enumerate().all(|(panel, tiles)| {
            // Zeros first, while they are in the cache of the core that packs.
            let tiles = zeroed(tiles);
            pack(b.t().window([panel * BLOCK, 0], [BLOCK, b.rows]), tiles)
        });
        if exact {
            // SAFETY: all panels have been written.
            unsafe { tiles.set_len(count) };
        }
        exact.then_some(Self { tiles, cols: b.cols, steps, pitch: steps })
    }
}

fn zeroed(tiles: &mut [MaybeUninit<Tile>]) -> &mut [Tile] {
    for tile in tiles.iter_mut() {
        tile.write(Tile::ZERO);
    }
    // SAFETY: every tile has just been written, and MaybeUninit<Tile> has the layout of Tile.
    unsafe { &mut *(std::ptr::from_mut(tiles) as *mut [Tile]) }
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
    /// An even number of strips, with so many tiles in each, and so many from one to the next.
    Packed { tiles: &'a [Tile], steps: usize, pitch: usize },
}

/// Updates each c by a and its b, for the rows of a task, unless bf16 does not hold a.
pub(crate) fn multiply_rows(unit: impl TileUnit, a: Mat<'_>, results: &mut [Destination<'_, '_>]) -> bool {
    multiply_left(unit, Left::Rows(a), results)
}

/// [`multiply_rows`] for either left operand.
fn multiply_left(unit: impl TileUnit, a: Left<'_>, results: &mut [Destination<'_, '_>]) -> bool {
    let (blocks, steps) = match a {
        Left::Rows(a) => (a.rows.div_ceil(BLOCK), a.cols.div_ceil(STEPS)),
        Left::Packed { tiles, steps, pitch } => (tiles.len() / (2 * pitch), steps),
    };
    let mut scratch = SCRATCH.take();
    let Scratch { left: buffer, sums } = &mut scratch;
    let cut = steps > STEPS_AT_ONCE;
    let panels = |of: &Destination<'_, '_>| of.c.shape()[1].div_ceil(BLOCK);
    grow(sums, if cut { blocks * results.iter().map(panels).sum::<usize>() } else { 1 }, Sums::ZERO);
    let mut unit = unit.configure();
    let mut exact = true;
    for start in (0..steps).step_by(STEPS_AT_ONCE) {
        let count = STEPS_AT_ONCE.min(steps - start);
        let (left, distance) = match a {
            Left::Rows(a) => {
                grow(buffer, 2 * blocks * count, Tile::ZERO);
                let left = &mut buffer[..2 * blocks * count];
                exact &= pack_strips(left, Side::Left, a.window([0, start * STEPS], [a.rows, count * STEPS]));
                if !exact {
                    break;
                }
                (&*left, count)
            }
            Left::Packed { tiles, pitch, .. } => (&tiles[start..], pitch),
        };
        let first = if start == 0 { Start::Zero } else { Start::Sums };
        let mut number = 0;
        for Destination { b: Strips { tiles, steps, pitch, .. }, update, rounded, c } in &mut *results {
            for (panel, b) in tiles.chunks_exact(2 * pitch).enumerate() {
                let b = [&b[start..][..count], &b[pitch + start..][..count]];
                for block in 0..blocks {
                    let a = [0, 1].map(|strip| &left[(2 * block + strip) * distance..][..count]);
                    let sums = &mut sums[number];
                    number += usize::from(cut);
                    unit.multiply(sums, first, a, b);
                    if start + count == *steps {
                        let (place, shape) = ([block * BLOCK, panel * BLOCK], [BLOCK; 2]);
                        take(sums, update.window(place, shape), *rounded, &mut c.window(place, shape));
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

multiversion! {
    /// Updates a block of c by a block of sums, as far as c goes.
    fn take(sums: &Sums, update: Update<'_>, rounded: bool, c: &mut MatMut<'_>) {
        for row in 0..c.shape()[0] {
            let (sums, c) = (sums.row(row), c.row(row));
            let update = update.window([row, 0], [1, BLOCK]);
            match whole_row(c) {
                Some(c) => take_row(sums, update, rounded, c),
                None => {
                    let mut whole = [[0.0; LINES]; 2];
                    whole.as_flattened_mut()[..c.len()].copy_from_slice(c);
                    take_row(sums, update, rounded, &mut whole);
                    c.copy_from_slice(&whole.as_flattened()[..c.len()]);
                }
            }
        }
    }
}

/// Both halves of a row of a block, if it has all of them.
#[inline(always)]
pub(crate) fn whole_row(row: &mut [f32]) -> Option<&mut [[f32; LINES]; 2]> {
    row.as_chunks_mut().0.first_chunk_mut()
}

/// [`take`] for a row. (A function, since closures would be compiled for the oldest CPU.)
#[inline(always)]
fn take_row(sums: [[f32; LINES]; 2], update: Update<'_>, rounded: bool, c: &mut [[f32; LINES]; 2]) {
    let other = match update.before {
        Before::Other(other) => other.row(0),
        Before::Nothing | Before::There => &[],
    };
    for (half, (mut taken, c)) in sums.into_iter().zip(c).enumerate() {
        for x in &mut taken {
            *x *= update.factor;
        }
        if rounded {
            for x in &mut taken {
                *x = to_bf16(*x);
            }
        }
        match update.before {
            Before::Nothing => {}
            Before::There => add(&mut taken, c),
            Before::Other(_) => add(&mut taken, &padded(other.get(half * LINES..).unwrap_or(&[]), 0.0)),
        }
        *c = taken;
    }
}

#[inline(always)]
fn add(sum: &mut [f32; LINES], x: &[f32; LINES]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}
