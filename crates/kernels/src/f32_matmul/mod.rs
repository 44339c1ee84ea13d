//! Products of f32 matrices, where the CPU has AVX2 or AVX-512, and of rows with packed matrices, everywhere.
//!
//! The products of a training step have a short side of a few hundred and a long one of thousands of tokens. Copies of
//! operands that would be lost in a product of large matrices show there, and so does waiting for a result's memory.
//!
//! **Blocks** (Goto & van de Geijn 2008). b is packed in strips as wide as a kernel's tile, by [`TERMS`] rows: one strip
//! stays in the L1 cache while it serves [`ROWS`] rows of a, which stay in the L2 cache while they go past all strips.
//! Rows of a whose elements are neighbours are read where they lie.
//!
//! **Threads** pack b together, and then take small tasks, since cores that are shared with others are not equally fast. Long
//! sums (the gradients of weights are sums over tokens) have a small result: there a thread packs for its own part of
//! the result, just before it multiplies.
//!
//! An element of c is the sum of sums of [`TERMS`] terms, each taken in order and fused. Neither the cut into tasks nor the
//! size of a tile touches that, so neither the number of threads nor the instruction set changes a bit.

mod pack;
mod strips;
mod tile;

#[cfg(test)]
mod tests;

pub(crate) use pack::Buffer;
pub(crate) use tile::Kernel;

use crate::matmul::{Mat, MatMut, Update};
use gemm::Parallelism;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use strips::Strips;

/// Terms that are summed in registers: a strip of b has 16 KiB, half of the L1 cache.
const TERMS: usize = 256;

/// Rows of c in a task, at most: those of a are 96 KiB of the L2 cache.
const ROWS: usize = 96;

/// Floats of b that are packed at a time: 4 MiB, to be read from the L3 cache.
const PACKED: usize = 1 << 20;

/// Rows and columns below which there is more to pack than to multiply; the same for all kernels, so that the CPU does not
/// show.
const SMALLEST: [usize; 2] = [12, 16];

/// Multiplications that are not worth waking another thread.
const ALONE: usize = 1 << 18;

/// Updates dst on the calling thread or on all of the current pool, if the kernels here do that well; says whether they
/// did.
pub(crate) fn product(
    dst: &mut MatMut<'_>,
    update: Update,
    a: Mat<'_>,
    b: Mat<'_>,
    parallelism: Parallelism,
) -> bool {
    let Some(kernel) = Kernel::fast() else { return false };
    if a.rows < SMALLEST[0] || b.cols < SMALLEST[1] || a.cols == 0 {
        return false;
    }
    let product = Product { kernel, update };
    let threads = match parallelism {
        Parallelism::None => 1,
        Parallelism::Rayon(_) if a.rows * a.cols * b.cols < ALONE => 1,
        Parallelism::Rayon(_) => rayon::current_num_threads(),
    };
    product.compute(dst, a, b, threads);
    true
}

thread_local! {
    /// b, packed by this thread or for it. Taken out while it is used: a thread that waits for others may be given
    /// another product to compute.
    static PACKED_B: Cell<Buffer> = const { Cell::new(Buffer::new()) };

    /// Rows of a, packed while this thread goes through a task.
    static PACKED_A: RefCell<Buffer> = const { RefCell::new(Buffer::new()) };
}

/// What all parts of a product have in common.
#[derive(Clone, Copy)]
struct Product {
    kernel: Kernel,
    update: Update,
}

impl Product {
    fn compute(self, c: &mut MatMut<'_>, a: Mat<'_>, b: Mat<'_>, threads: usize) {
        if threads == 1 {
            self.alone(c, a, b);
        } else if a.cols > 4 * a.rows && !a.rows_are_contiguous() {
            let [rows, cols] = self.share([a.rows, b.cols], threads);
            c.cut([rows, cols]).into_par_iter().with_max_len(1).for_each(|([row, col], mut c)| {
                let [rows, cols] = c.shape();
                self.alone(&mut c, a.window([row, 0], [rows, a.cols]), b.window([0, col], [b.rows, cols]));
            });
        } else {
            self.together(c, a, b, threads);
        }
    }

    /// The product on the calling thread.
    fn alone(self, c: &mut MatMut<'_>, a: Mat<'_>, b: Mat<'_>) {
        let terms = even_part(a.cols, TERMS, 4);
        let rows = even_part(a.rows, ROWS, self.kernel.rows);
        let cols = even_part(b.cols, PACKED / terms, self.kernel.cols);
        let mut buffer = PACKED_B.take();
        for col in (0..b.cols).step_by(cols) {
            for term in (0..a.cols).step_by(terms) {
                let strips = self.kernel.pack_right(b.window([term, col], [terms, cols]), &mut buffer);
                let mut c = c.window([0, col], [a.rows, cols]);
                for ([row, _], mut c) in c.cut([rows, cols]) {
                    self.multiply(&mut c, term > 0, a.window([row, term], [rows, terms]), strips);
                }
            }
        }
        PACKED_B.set(buffer);
    }

    /// The product on all threads, which share packed b.
    fn together(self, c: &mut MatMut<'_>, a: Mat<'_>, b: Mat<'_>, threads: usize) {
        let terms = even_part(a.cols, TERMS, 4);
        let most_rows = (a.rows / (4 * threads)).clamp(2 * self.kernel.rows, ROWS);
        let rows = even_part(a.rows, most_rows, self.kernel.rows);
        let cols = even_part(b.cols, PACKED / a.cols.next_multiple_of(terms), self.kernel.cols);
        let mut buffer = PACKED_B.take();
        for col in (0..b.cols).step_by(cols) {
            let blocks = self.pack(b.window([0, col], [b.rows, cols]), terms, &mut buffer);
            c.window([0, col], [a.rows, cols]).cut([rows, cols]).into_par_iter().with_max_len(1).for_each(
                |(place, mut c)| {
                    for (term, strips) in (0..a.cols).step_by(terms).zip(&blocks) {
                        self.multiply(&mut c, term > 0, a.window([place[0], term], [rows, terms]), *strips);
                    }
                },
            );
        }
        PACKED_B.set(buffer);
    }

    /// Packs b in blocks of so many terms, on all threads.
    fn pack<'a>(self, b: Mat<'_>, terms: usize, buffer: &'a mut Buffer) -> Vec<Strips<'a>> {
        /// Strips that are packed together.
        const STRIPS: usize = 4;
        let kernel = self.kernel;
        let rows = |block: usize| terms.min(b.rows - block * terms);
        let len = |block: usize| kernel.packed_len(rows(block), b.cols);
        let floats = buffer.floats((0..b.rows.div_ceil(terms)).map(len).sum());
        // All but the last are as long as the first.
        let mut parts = vec![];
        for (block, floats) in floats.chunks_mut(len(0)).enumerate() {
            let (rows, cols) = (rows(block), STRIPS * kernel.cols);
            for (part, floats) in floats.chunks_mut(kernel.packed_len(rows, cols)).enumerate() {
                parts.push((b.window([block * terms, part * cols], [rows, cols]), floats));
            }
        }
        parts.into_par_iter().for_each(|(b, floats)| kernel.pack_strips(b, floats));
        floats.chunks(len(0)).enumerate().map(|(block, floats)| Strips::new(floats, rows(block))).collect()
    }

    /// A few rows of c. `more`: sums so far are there.
    fn multiply(self, c: &mut MatMut<'_>, more: bool, a: Mat<'_>, b: Strips<'_>) {
        let update = Update { add: self.update.add || more, ..self.update };
        PACKED_A.with_borrow_mut(|spare| {
            if a.rows_are_contiguous() {
                self.kernel.multiply(c, update, a, b, spare);
            } else {
                self.kernel.multiply_packed(c, update, a, b, spare);
            }
        });
    }

    /// The shape of parts of c that threads compute alone: the same for all, and little is packed twice.
    fn share(self, [rows, cols]: [usize; 2], threads: usize) -> [usize; 2] {
        /// Rows that are worth packing b, about.
        const ENOUGH: usize = 320;
        // A part of the rows packs all of b, a part of the columns all of a.
        let cost = |by_rows: usize| by_rows * cols + threads / by_rows * rows;
        let ways = (1..=threads).filter(|by_rows| threads.is_multiple_of(*by_rows));
        let by_rows = ways.min_by_key(|by_rows| cost(*by_rows)).unwrap_or(1);
        let by_cols = threads / by_rows;
        let by_rows = by_rows * (rows as f64 / (by_rows * ENOUGH) as f64).round().max(1.0) as usize;
        [
            rows.div_ceil(by_rows).next_multiple_of(self.kernel.rows),
            cols.div_ceil(by_cols).next_multiple_of(self.kernel.cols),
        ]
    }
}

/// The length of equal parts of `len` that are at most `most` long, but for rounding up to multiples of `unit`.
fn even_part(len: usize, most: usize, unit: usize) -> usize {
    len.div_ceil(len.div_ceil(most)).next_multiple_of(unit)
}
