//! Between tensors and slices: reading contiguous CPU tensors, and filling fresh buffers in parallel.

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor, WithDType};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Floats that a task writes: they are still in the L1 cache when it comes to them after they were zeroed
/// (see [`fill`]). That many tasks cost little, since rayon hands them out in runs.
const TASK_LEN: usize = 4 * 1024;

/// How many rows of `width` floats make one task: a function of shape alone.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (TASK_LEN / width.max(1)).max(1)
}

/// The elements of a contiguous tensor.
pub(crate) fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    if !layout.is_contiguous() {
        return Err(Error::RequiresContiguous { op: "kernels" }.bt());
    }
    Ok(&from_first(storage, layout)?[..layout.shape().elem_count()])
}

/// What lies in memory from a tensor's first element on, for views that step through it by the tensor's
/// strides.
pub(crate) fn from_first<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    // An empty tensor may begin anywhere.
    Ok(storage.as_slice()?.get(layout.start_offset()..).unwrap_or(&[]))
}

/// As [`elements`], for writing.
pub(crate) fn elements_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("in-place kernels need a contiguous f32 tensor"),
    }
}

/// Calls `f` with the storage and layout of CPU tensors, for backward passes, which are given tensors.
pub(crate) fn with_cpu<R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([(&CpuStorage, &Layout); N]) -> Result<R>,
) -> Result<R> {
    let locked = tensors.map(Tensor::storage_and_layout);
    let mut views = Vec::with_capacity(N);
    for (storage, layout) in &locked {
        match &**storage {
            Storage::Cpu(storage) => views.push((storage, *layout)),
            Storage::Cuda(_) | Storage::Metal(_) => {
                candle_core::bail!("portable kernels read CPU tensors only")
            }
        }
    }
    f(std::array::from_fn(|i| views[i]))
}

/// Calls `f` with the elements of contiguous CPU tensors.
pub(crate) fn with_elements<T: WithDType, R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    with_cpu(tensors, |views| {
        let mut slices = [&[][..]; N];
        for (slice, (storage, layout)) in slices.iter_mut().zip(views) {
            *slice = elements(storage, layout)?;
        }
        f(slices)
    })
}

/// sum ← sum + x, on all threads of the current rayon pool.
pub(crate) fn add_all(sum: &mut [f32], x: &[f32]) {
    const TASK: usize = 1 << 15;
    sum.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(sum, x)| crate::simd::add(sum, x));
}

/// Makes `N` buffers of `len` floats, block by block in parallel: `task(i, blocks)` writes the i-th
/// `block_len` floats of every buffer (the last block may be shorter). Also returns what the tasks returned,
/// in order.
///
/// The cut depends on `len` and `block_len` only, never on the number of threads. Each block is zeroed just
/// before its task, in the cache of the core that fills it, which spares a pass over memory that `vec![0.0;
/// len]` would take.
pub(crate) fn fill<const N: usize, R: Send>(
    len: usize,
    block_len: usize,
    task: impl Fn(usize, [&mut [f32]; N]) -> R + Sync,
) -> ([Vec<f32>; N], Vec<R>) {
    fill_with(len, block_len, std::iter::repeat(()), |i, (), blocks| task(i, blocks))
}

/// [`fill`] for as many floats as `beside` has, of which tasks may overwrite their block too.
pub(crate) fn fill_beside<const N: usize>(
    beside: &mut [f32],
    block_len: usize,
    task: impl Fn(usize, &mut [f32], [&mut [f32]; N]) + Sync,
) -> [Vec<f32>; N] {
    fill_with(beside.len(), block_len, beside.chunks_mut(block_len), task).0
}

/// A block of each buffer, before anything has been written.
type Uninit<'a, const N: usize> = [&'a mut [MaybeUninit<f32>]; N];

/// [`fill`] with something more for every block.
fn fill_with<const N: usize, T: Send, R: Send>(
    len: usize,
    block_len: usize,
    mut more: impl Iterator<Item = T>,
    task: impl Fn(usize, T, [&mut [f32]; N]) -> R + Sync,
) -> ([Vec<f32>; N], Vec<R>) {
    let mut buffers: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    let mut chunks =
        buffers.each_mut().map(|buffer| buffer.spare_capacity_mut()[..len].chunks_mut(block_len));
    let blocks: Vec<(T, Uninit<'_, N>)> = (0..len.div_ceil(block_len))
        .map(|_| {
            let blocks = chunks.each_mut().map(|chunks| chunks.next().expect("div_ceil counts the chunks"));
            (more.next().expect("something more for every block"), blocks)
        })
        .collect();
    let run = |(i, (more, blocks)): (usize, (T, Uninit<'_, N>))| task(i, more, blocks.map(zeroed));
    let results = if blocks.len() == 1 {
        blocks.into_iter().enumerate().map(run).collect() // not worth waking another thread
    } else {
        blocks.into_par_iter().enumerate().map(run).collect()
    };
    for buffer in &mut buffers {
        // SAFETY: the blocks cover `len` elements, and `zeroed` initialised every block.
        unsafe { buffer.set_len(len) };
    }
    (buffers, results)
}

/// [`fill`] for one buffer and tasks that return nothing.
pub(crate) fn fill_one(len: usize, block_len: usize, task: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let ([buffer], _) = fill(len, block_len, |i, [block]| task(i, block));
    buffer
}

fn zeroed(block: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    for element in block.iter_mut() {
        element.write(0.0);
    }
    // SAFETY: every element has just been written, and MaybeUninit<f32> has the layout of f32.
    unsafe { &mut *(std::ptr::from_mut(block) as *mut [f32]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_visits_every_block_once_in_order() {
        for (len, block_len) in [(0, 3), (2, 3), (7, 3), (9, 3), (100_000, 7)] {
            let ([a, b], starts) = fill(len, block_len, |i, [a, b]| {
                for (j, (a, b)) in a.iter_mut().zip(b).enumerate() {
                    *a += (i * block_len + j) as f32;
                    *b -= *a;
                }
                i * block_len
            });
            let expected: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(a, expected);
            assert!(a.iter().zip(&b).all(|(a, b)| *a == -b));
            assert_eq!(starts, (0..len).step_by(block_len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn strided_tensors_are_refused() -> Result<()> {
        let x = Tensor::arange(0f32, 6., &candle_core::Device::Cpu)?.reshape((2, 3))?;
        with_elements([&x], |[x]: [&[f32]; 1]| {
            assert_eq!(x, [0., 1., 2., 3., 4., 5.]);
            Ok(())
        })?;
        assert!(with_elements([&x.t()?], |[_]: [&[f32]; 1]| Ok(())).is_err());
        assert!(with_elements([&x], |[_]: [&[f64]; 1]| Ok(())).is_err());
        Ok(())
    }
}
