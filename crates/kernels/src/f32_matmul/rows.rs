//! Rows through several products and what lies between them, in one task: what a product leaves is still in the cache when the
//! next operation reads it, and threads meet once instead of after every operation.

use super::pack::Buffer;
use super::strips::LeftCopy;
use super::{Kernel, PACKED_A, PACKED_B, Packed, Products, in_turn, is_small, rows_in_turn};
use crate::matmul::{Mat, MatMut, Update};
use std::cell::RefCell;
use std::ops::Range;

/// The rows of a task are a multiple of this, which is one of the rows of every kernel's tile. What is summed over so many
/// rows so does not depend on the cut into tasks.
pub(crate) const ROW_UNIT: usize = 24;

/// Floats of right operands that are packed at a time: 8 MiB, to be read from the L3 cache.
const TOGETHER: usize = 2 << 20;

thread_local! {
    /// What lies between the products of a task.
    static BETWEEN: RefCell<Buffer> = const { RefCell::new(Buffer::new()) };
}

/// Some rows of the results, and what a task has to compute them.
pub(crate) struct RowTask<'a, const N: usize, const M: usize> {
    /// Which rows.
    pub(crate) rows: Range<usize>,
    /// These rows of each result.
    pub(crate) results: [MatMut<'a>; N],
    /// Memory for as many rows, whatever is in it.
    pub(crate) scratch: [&'a mut [f32]; M],
    /// The right operands.
    pub(crate) products: RowProducts<'a>,
}

/// Products with right operands that all tasks share.
pub(crate) struct RowProducts<'a> {
    kernel: Kernel,
    right: &'a [Packed<'a>],
    spare: &'a mut Buffer,
}

impl RowProducts<'_> {
    /// c ← before + `factor` a b for each c and the right operand b of that number, all of which have as many rows.
    pub(crate) fn multiply(&mut self, a: Mat<'_>, results: &mut [(usize, &mut MatMut<'_>, Update<'_>)]) {
        let mut copy = LeftCopy::new(self.spare);
        let Some(Packed { terms, blocks }) = results.first().map(|(index, ..)| &self.right[*index]) else {
            return;
        };
        for block in 0..blocks.len() {
            let a = a.window([0, block * terms], [a.rows, *terms]);
            for (index, c, update) in &mut *results {
                let update = if block == 0 { *update } else { update.more() };
                self.kernel.multiply_copy(c, update, a, self.right[*index].blocks[block], &mut copy);
            }
        }
    }
}

/// Right operands that are packed, for all tasks.
pub(crate) struct RightOperands<'a> {
    kernel: Kernel,
    packed: Vec<Packed<'a>>,
}

impl Products {
    /// The kernels for products of so many rows with all of these right operands, if there are any, and the operands are large
    /// enough for them and small enough to be packed at a time.
    pub(crate) fn of_rows(rows: usize, right: &[Mat<'_>]) -> Option<Self> {
        let kernel = Kernel::fast()?;
        let fit = right.iter().map(|b| b.rows * b.cols).sum::<usize>() <= TOGETHER;
        let large = !right.iter().any(|b| is_small([rows, b.rows, b.cols]));
        (fit && large).then_some(Self { kernel })
    }

    /// Calls `f` with right operands, packed on all threads.
    pub(crate) fn with_packed<R>(self, right: &[Mat<'_>], f: impl FnOnce(&RightOperands<'_>) -> R) -> R {
        let mut buffer = PACKED_B.take();
        let result = f(&RightOperands { kernel: self.kernel, packed: self.pack(right, &mut buffer) });
        PACKED_B.set(buffer);
        result
    }
}

impl RightOperands<'_> {
    /// Shares the rows of the results out among all threads. Returns what the tasks did, in the order of the rows. `widths` are
    /// those of the scratch memory.
    ///
    /// A task must not wait for other threads.
    pub(crate) fn by_rows<const N: usize, const M: usize, R: Send>(
        &self,
        mut results: [MatMut<'_>; N],
        widths: [usize; M],
        task: impl Fn(RowTask<'_, N, M>) -> R + Sync,
    ) -> Vec<R> {
        let all = results.first().map_or(0, |c| c.shape()[0]);
        let tasks = rows_in_turn(all, rayon::current_num_threads());
        let tasks = tasks.map(|rows| (results.each_mut().map(|c| c.take_rows(rows.len())), rows)).collect();
        in_turn(tasks, |(results, rows): (_, Range<usize>)| {
            BETWEEN.with_borrow_mut(|between| {
                PACKED_A.with_borrow_mut(|spare| {
                    let mut free = between.floats(widths.iter().map(|width| rows.len() * width).sum());
                    let scratch = widths.map(|width| {
                        let (part, rest) = std::mem::take(&mut free).split_at_mut(rows.len() * width);
                        free = rest;
                        part
                    });
                    let products = RowProducts { kernel: self.kernel, right: &self.packed, spare };
                    task(RowTask { rows, results, scratch, products })
                })
            })
        })
    }
}
