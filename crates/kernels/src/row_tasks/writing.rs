//! New matrices, of which tasks write some rows at a time.

use super::{RowTask, RowUnit};
use crate::matmul::{Mat, written};
use crate::profile::{Clock, Shared};
use crate::row_operands::{Made, ToMake};

/// New matrices, and what tasks did and made besides.
type Written<'m, R, const N: usize, const K: usize> = ([Vec<f32>; N], (Vec<R>, [Made<'m>; K]));

impl RowUnit {
    /// Matrices of so many rows and these widths, and operands, made by tasks that share right operands, each rounded as
    /// [`RowUnit::with_packed`] says. `scratch` has the widths of a task's memory, `parts` what all tasks have to do. Returns what
    /// the tasks did, too, in the order of the rows.
    ///
    /// # Safety
    /// Tasks write all rows of the matrices and of the operands before they read any.
    pub(crate) unsafe fn write_rows<
        'm,
        const N: usize,
        const M: usize,
        const K: usize,
        const P: usize,
        R: Send,
    >(
        self,
        (n, widths): (usize, [usize; N]),
        (right, round): (&[Mat<'_>], impl Fn(usize, &mut [f32]) + Sync),
        operands: [ToMake<'m>; K],
        scratch: [usize; M],
        parts: Shared<P>,
        task: impl Fn(RowTask<'_, N, M, K>, &[Clock; P]) -> R + Sync,
    ) -> Written<'m, R, N, K> {
        // SAFETY: the caller's promise.
        unsafe {
            written(n, widths, |results| {
                parts.run(|clocks| {
                    self.with_packed(right, round, |right| {
                        right.by_rows_making(results, operands, scratch, |rows| task(rows, clocks))
                    })
                })
            })
        }
    }
}
