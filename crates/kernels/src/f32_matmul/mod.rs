//! Products of f32 matrices, where the CPU has AVX2 or AVX-512, and of rows with packed matrices, everywhere.
//!
//! The products of a training step have a short side of a few hundred and a long one of thousands of tokens. Copies of
//! operands that would be lost in a product of large matrices show there, and so does waiting for a result's memory.
//!
//! **Blocks** (Goto & van de Geijn 2008). b is packed in strips as wide as a kernel's tile, by [`TERMS`] rows: one strip
//! stays in the L1 cache while it serves [`ROWS`] rows of a, which stay in the L2 cache while they go past all strips.
//! They are packed too, once for all products that share them: where they lie, rows a power of two apart compete for the
//! same places of a cache.
//!
//! **Threads** pack b together, and then take one small task after another, since cores that are shared with others are not
//! equally fast. Long sums (the gradients of weights are sums over tokens) have a small result: there a task packs for its
//! own part of the result, just before it multiplies.
//!
//! An element of c is the sum of sums of [`TERMS`] terms, each taken in order and fused. Neither the cut into tasks nor the
//! size of a tile touches that, so neither the number of threads nor the instruction set changes a bit.

mod pack;
mod rows;
mod strips;
mod tile;

#[cfg(test)]
mod tests;

pub(crate) use pack::Buffer;
pub(crate) use strips::Skip;
pub(crate) use tile::Kernel;

use crate::matmul::{Mat, MatMut, Sum, Update};
use crate::row_tasks::{ROW_UNIT, ROWS, in_turn, rows_in_turn};
use gemm::Parallelism;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use strips::{LeftCopy, Strips};

/// Terms that are summed in registers: a strip of b has 16 KiB, half of the L1 cache.
const TERMS: usize = 256;

/// Floats of b that are packed at a time: 4 MiB, to be read from the L3 cache.
const PACKED: usize = 1 << 20;

/// Columns of b that are packed at a time where it has so many, at the cost of terms: a is packed again for others.
const WIDE: usize = 768;

/// Rows and columns of the parts that products with long sums are cut into, at most.
const LONG_PART: [usize; 2] = [352, 352];

/// Rows and columns below which there is more to pack than to multiply; the same for all kernels, so that the CPU does not
/// show.
const SMALLEST: [usize; 2] = [12, 16];

/// Multiplications that are not worth waking another thread.
const ALONE: usize = 1 << 18;

/// Whether a product of \[m, k\] and \[k, n\] is left to others.
pub(crate) fn is_small([m, k, n]: [usize; 3]) -> bool {
    m < SMALLEST[0] || n < SMALLEST[1] || k == 0
}

/// Computes sums on the calling thread or on all of the current pool, if the kernels here do that well; says whether they
/// did. Sums that share their left or their right operands gain by being computed together. Those whose rows were finished
/// meanwhile have no [`Sum::finish`] any more.
pub(crate) fn products(sums: &mut [Sum<'_>], parallelism: Parallelism) -> bool {
    let Some(kernel) = Kernel::fast() else { return false };
    let all = || sums.iter().flat_map(|sum| &sum.products);
    if all().any(|(a, b)| is_small([a.rows, a.cols, b.cols])) {
        return false;
    }
    let multiplications: usize = all().map(|(a, b)| a.rows * a.cols * b.cols).sum();
    let threads = match parallelism {
        Parallelism::None => 1,
        Parallelism::Rayon(_) if multiplications < ALONE => 1,
        Parallelism::Rayon(_) => rayon::current_num_threads(),
    };
    Products { kernel }.compute(sums, threads);
    true
}

thread_local! {
    /// b, packed by this thread or for it. Taken out while it is used: a thread that waits for others may be given
    /// another product to compute.
    static PACKED_B: Cell<Buffer> = const { Cell::new(Buffer::new()) };

    /// Rows of a, packed while this thread goes through a task.
    static PACKED_A: RefCell<Buffer> = const { RefCell::new(Buffer::new()) };
}

/// Products by the kernels of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Products {
    kernel: Kernel,
}

/// A part of a product's result, and the rows of a that it comes from.
struct Part<'a> {
    c: MatMut<'a>,
    update: Update<'a>,
    a: Mat<'a>,
}

impl Products {
    fn compute(self, sums: &mut [Sum<'_>], threads: usize) {
        if threads == 1 {
            sums.iter_mut().for_each(|sum| self.one_by_one(sum, threads));
        } else if sums.iter().all(is_long) {
            self.long(sums, threads);
        } else if packed_floats(sums) <= PACKED
            && sums.iter().all(|sum| sum.c.shape()[0] == sums[0].c.shape()[0])
        {
            self.together(sums, |b| block_len(b.rows), threads);
        } else if let [sum] = sums {
            self.one_by_one(sum, threads);
        } else {
            sums.iter_mut().for_each(|sum| self.compute(std::slice::from_mut(sum), threads));
        }
    }

    /// The products of a sum, one after another, each in as many parts as fit the packed b.
    fn one_by_one(self, sum: &mut Sum<'_>, threads: usize) {
        for (index, &(a, b)) in sum.products.iter().enumerate() {
            let update = if index == 0 { sum.update } else { sum.update.more() };
            if threads == 1 {
                self.alone(Part { c: sum.c.window([0, 0], [a.rows, b.cols]), update, a }, b);
                continue;
            }
            let block = block_len(a.cols);
            let all_terms = a.cols.next_multiple_of(block);
            let cols = even_part(b.cols, (PACKED / all_terms).max(WIDE), self.kernel.cols);
            let terms = (block * (PACKED / (block * cols)).max(1)).min(all_terms);
            for col in (0..b.cols).step_by(cols) {
                let shape = [a.rows, cols];
                let mut update = update.window([0, col], shape);
                for term in (0..a.cols).step_by(terms) {
                    let c = sum.c.window([0, col], shape);
                    let a = a.window([0, term], [a.rows, terms]);
                    let products = vec![(a, b.window([term, col], [terms, cols]))];
                    self.together(&mut [Sum { c, update, products, finish: None }], |_| block, threads);
                    update = update.more();
                }
            }
        }
    }

    /// Products with long sums on all threads. A task goes through all terms of a part of a result that stays in the L2 cache,
    /// and packs what it multiplies with, which then is there too.
    fn long(self, sums: &mut [Sum<'_>], threads: usize) {
        let all: usize = sums.iter().map(|sum| sum.c.shape().iter().product::<usize>()).sum();
        let mut tasks = vec![];
        for Sum { c, update, products, .. } in sums {
            let ([rows, cols], (a, b)) = (c.shape(), products[0]);
            let part_cols = even_part(cols, LONG_PART[1], self.kernel.cols);
            // At least two tasks for each thread.
            let most_rows = (all / (2 * threads * part_cols)).clamp(ROWS, LONG_PART[0]);
            let part_rows = even_part(rows, most_rows, self.kernel.rows);
            for (place, c) in c.cut([part_rows, part_cols]) {
                let [rows, cols] = c.shape();
                let part = Part { update: update.window(place, [rows, cols]), c, a: a.rows(place[0], rows) };
                tasks.push((part, b.window([0, place[1]], [b.rows, cols])));
            }
        }
        in_turn(tasks, |(part, b)| self.alone(part, b));
    }

    /// A product on the calling thread.
    fn alone(self, Part { mut c, update, a }: Part<'_>, b: Mat<'_>) {
        let terms = block_len(b.rows);
        let cols = even_part(b.cols, PACKED / terms, self.kernel.cols);
        let mut buffer = PACKED_B.take();
        for col in (0..b.cols).step_by(cols) {
            for term in (0..b.rows).step_by(terms) {
                let strips = self.kernel.pack_right(b.window([term, col], [terms, cols]), &mut buffer);
                let update = if term == 0 { update } else { update.more() };
                let rows = even_part(a.rows, ROWS, self.kernel.rows);
                for ([row, _], mut c) in c.window([0, col], [a.rows, cols]).cut([rows, cols]) {
                    let update = update.window([row, col], c.shape());
                    let a = a.window([row, term], [rows, terms]);
                    PACKED_A.with_borrow_mut(|spare| {
                        self.kernel.multiply_packed(&mut c, update, a, strips, Skip::Nothing, spare);
                    });
                }
            }
        }
        PACKED_B.set(buffer);
    }

    /// Sums of as many rows on all threads, which share right operands that are packed in blocks of so many terms. A task takes
    /// some rows through all products.
    fn together(self, sums: &mut [Sum<'_>], block: impl Fn(Mat<'_>) -> usize, threads: usize) {
        let Some(all_rows) = sums.first().map(|sum| sum.c.shape()[0]) else { return };
        let mut buffer = PACKED_B.take();
        let right = sums.iter().flat_map(|sum| sum.products.iter().map(|(_, b)| (*b, block(*b))));
        let right = right.collect::<Vec<_>>();
        let packed = self.pack(&right, &|_, _| {}, &mut buffer);
        let mut packed = &packed[..];
        let mut tasks: Vec<_> =
            rows_in_turn(all_rows, threads, ROW_UNIT, ROWS).map(|rows| (rows, vec![])).collect();
        for Sum { c, update, products, finish } in sums {
            let finish = finish.take();
            let (of_sum, others) = packed.split_at(products.len());
            packed = others;
            let mut c = c.window([0, 0], c.shape());
            for (rows, task) in &mut tasks {
                task.push((c.take_rows(rows.len()), *update, &*products, of_sum, finish));
            }
        }
        in_turn(tasks, |(rows, sums)| {
            PACKED_A.with_borrow_mut(|spare| {
                let mut copy = LeftCopy::new(spare);
                for (mut c, update, products, packed, finish) in sums {
                    let mut update = update.window([rows.start, 0], c.shape());
                    for ((a, _), Packed { terms, blocks }) in products.iter().zip(packed) {
                        for (block, strips) in blocks.iter().enumerate() {
                            let a = a.window([rows.start, block * terms], [rows.len(), *terms]);
                            self.kernel.multiply_copy(&mut c, update, a, *strips, &mut copy);
                            update = update.more();
                        }
                    }
                    if let Some(finish) = finish {
                        finish(rows.start, c.elements());
                    }
                }
            });
        });
        PACKED_B.set(buffer);
    }

    /// Packs right operands in blocks of so many terms, on all threads, each changed by `round`, which is given its number and
    /// packed values.
    fn pack<'a>(
        self,
        right: &[(Mat<'_>, usize)],
        round: &(impl Fn(usize, &mut [f32]) + Sync),
        buffer: &'a mut Buffer,
    ) -> Vec<Packed<'a>> {
        /// Strips that are packed together.
        const STRIPS: usize = 4;
        let kernel = self.kernel;
        let blocks = |(b, terms): (Mat<'_>, usize)| {
            (0..b.rows).step_by(terms).map(move |term| terms.min(b.rows - term))
        };
        let all = || right.iter().flat_map(|&(b, terms)| blocks((b, terms)).map(move |rows| (b, rows)));
        let mut free = buffer.floats(all().map(|(b, rows)| kernel.packed_len(rows, b.cols)).sum());
        let (mut parts, mut packed) = (vec![], vec![]);
        let mut place = 0;
        for (index, &(b, terms)) in right.iter().enumerate() {
            let mut term = 0;
            let mut of_b = vec![];
            for rows in blocks((b, terms)) {
                let floats;
                (floats, free) = free.split_at_mut(kernel.packed_len(rows, b.cols));
                of_b.push((place, floats.len(), rows));
                place += floats.len();
                let cols = STRIPS * kernel.cols;
                for (part, floats) in floats.chunks_mut(kernel.packed_len(rows, cols)).enumerate() {
                    parts.push((index, b.window([term, part * cols], [rows, cols]), floats));
                }
                term += rows;
            }
            packed.push(of_b);
        }
        parts.into_par_iter().for_each(|(index, b, floats)| {
            kernel.pack_strips(b, floats);
            round(index, floats);
        });
        let floats: &[f32] = buffer.floats(place);
        let strips = |&(place, len, rows): &(usize, usize, usize)| Strips::new(&floats[place..][..len], rows);
        let of_one = |blocks: Vec<(usize, usize, usize)>| Packed {
            terms: blocks.first().map_or(0, |(_, _, rows)| *rows),
            blocks: blocks.iter().map(strips).collect(),
        };
        packed.into_iter().map(of_one).collect()
    }
}

/// A right operand, packed.
pub(crate) struct Packed<'a> {
    /// Terms of every block but the last.
    terms: usize,
    blocks: Vec<Strips<'a>>,
}

/// Whether this is one product with long sums: the gradient of a weight, a sum over tokens.
fn is_long(sum: &Sum<'_>) -> bool {
    matches!(&sum.products[..], [(a, _)] if a.cols > 4 * a.rows && !a.rows_are_contiguous())
}

/// About how many floats the right operands take when they are packed.
fn packed_floats(sums: &[Sum<'_>]) -> usize {
    sums.iter().flat_map(|sum| &sum.products).map(|(_, b)| b.rows * b.cols).sum()
}

/// Terms that are summed in registers, of so many. Sums depend on it.
fn block_len(terms: usize) -> usize {
    even_part(terms, TERMS, 4)
}

/// The length of equal parts of `len` that are at most `most` long, but for rounding up to multiples of `unit`.
fn even_part(len: usize, most: usize, unit: usize) -> usize {
    len.div_ceil(len.div_ceil(most.max(1))).next_multiple_of(unit)
}
