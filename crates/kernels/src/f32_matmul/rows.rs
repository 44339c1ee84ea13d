//! Products of the rows of a task with right operands that all tasks share.

use super::strips::LeftCopy;
use super::{Kernel, PACKED_A, PACKED_B, Packed, Products, block_len};
use crate::matmul::{Mat, MatMut, Update};

impl Kernel {
    /// Calls `f` with right operands, packed on all threads and each changed by `round`, which is given its number and packed
    /// values.
    pub(crate) fn with_packed<R>(
        self,
        right: &[Mat<'_>],
        round: &(impl Fn(usize, &mut [f32]) + Sync),
        f: impl FnOnce(&[Packed<'_>]) -> R,
    ) -> R {
        let right: Vec<_> = right.iter().map(|b| (*b, block_len(b.rows))).collect();
        let mut buffer = PACKED_B.take();
        let result = f(&Products { kernel: self }.pack(&right, round, &mut buffer));
        PACKED_B.set(buffer);
        result
    }

    /// c ← before + `factor` a b for each c and the right operand b of that number, all of which have as many rows; on the
    /// calling thread.
    pub(crate) fn multiply_rows(
        self,
        a: Mat<'_>,
        right: &[Packed<'_>],
        results: &mut [(usize, &mut MatMut<'_>, Update<'_>)],
    ) {
        let Some(Packed { terms, blocks }) = results.first().map(|(index, ..)| &right[*index]) else {
            return;
        };
        PACKED_A.with_borrow_mut(|spare| {
            let mut copy = LeftCopy::new(spare);
            for block in 0..blocks.len() {
                let a = a.window([0, block * terms], [a.rows, *terms]);
                for (index, c, update) in &mut *results {
                    let update = if block == 0 { *update } else { update.more() };
                    self.multiply_copy(c, update, a, right[*index].blocks[block], &mut copy);
                }
            }
        });
    }
}
