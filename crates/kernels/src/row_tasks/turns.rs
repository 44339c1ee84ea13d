//! Tasks that threads take one after another.

use super::{ROW_UNIT_ON_TILES, ROWS_ON_TILES};
use rayon::prelude::*;
use std::ops::Range;

/// Cuts rows into tasks of a multiple of `unit` and at most `most` that threads are to take one after another. The last are small,
/// so that no thread waits long for another.
pub(crate) fn rows_in_turn(
    all: usize,
    threads: usize,
    unit: usize,
    most: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = all - start;
        let count = (left / (2 * threads)).clamp(1, most).next_multiple_of(unit).min(left);
        let rows = start..start + count;
        start = rows.end;
        (count > 0).then_some(rows)
    })
}

/// Shares so many rows out among all threads, as tasks on tiles have them. Returns what the tasks did, in the order of the rows.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]
pub(crate) fn rows_on_tiles<R: Send>(all: usize, task: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    let threads = rayon::current_num_threads();
    in_turn(rows_in_turn(all, threads, ROW_UNIT_ON_TILES, ROWS_ON_TILES).collect(), task)
}

/// Runs tasks on all threads, each of which takes the next when it has done one. Returns what they did, in their order.
pub(crate) fn in_turn<T: Send, R: Send>(mut tasks: Vec<T>, run: impl Fn(T) -> R + Sync) -> Vec<R> {
    if tasks.len() <= 1 {
        return tasks.pop().map(run).into_iter().collect(); // not worth waking another thread
    }
    let tasks = tasks.into_iter().enumerate().par_bridge();
    let mut done: Vec<(usize, R)> = tasks.map(|(index, task)| (index, run(task))).collect();
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, done)| done).collect()
}
