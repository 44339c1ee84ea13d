//! Attention heads as matrices: a tensor [b, t, h, d] seen as b * h matrices [t, d], without moving anything.

use crate::buffers::from_first;
use crate::matmul::{Mat, MatMut};
use candle_core::{CpuStorage, Layout, Result};
use std::marker::PhantomData;

/// The sizes of \[b, t, h, d\].
#[derive(Clone, Copy)]
pub(crate) struct HeadShape {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) h: usize,
    pub(crate) d: usize,
}

impl HeadShape {
    pub(crate) fn of(layout: &Layout) -> Result<Self> {
        let (b, t, h, d) = layout.shape().dims4()?;
        Ok(Self { b, t, h, d })
    }

    /// Number of elements.
    pub(crate) fn len(self) -> usize {
        self.b * self.t * self.h * self.d
    }
}

/// A tensor [b, t, h, d], of any strides, as b * h matrices [t, d].
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    data: &'a [f32],
    shape: HeadShape,
    strides: [usize; 4],
}

impl<'a> Heads<'a> {
    pub(crate) fn new(storage: &'a CpuStorage, layout: &Layout, shape: HeadShape) -> Result<Self> {
        let strides = std::array::from_fn(|i| layout.stride()[i]);
        Ok(Self { data: from_first(storage, layout)?, shape, strides })
    }

    /// A contiguous [b, t, h, d].
    pub(crate) fn contiguous(data: &'a [f32], shape: HeadShape) -> Self {
        let HeadShape { t, h, d, .. } = shape;
        Self { data, shape, strides: [t * h * d, h * d, d, 1] }
    }

    /// Head `head % h` of sequence `head / h`.
    pub(crate) fn get(&self, head: usize) -> Mat<'a> {
        let HeadShape { t, h, d, .. } = self.shape;
        let [of_b, of_t, of_h, of_d] = self.strides;
        let start = head / h * of_b + head % h * of_h;
        Mat::new(self.data.get(start..).unwrap_or(&[]), [t, d], [of_t, of_d])
    }
}

/// A contiguous tensor [b, t, h, d] as b * h matrices [t, d], to be written by one task each.
pub(crate) struct HeadsMut<'a> {
    data: *mut f32,
    shape: HeadShape,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: `get` is unsafe and asks for disjoint use; nothing else reaches the pointer.
unsafe impl Sync for HeadsMut<'_> {}

impl<'a> HeadsMut<'a> {
    /// Over the spare capacity of `data`.
    ///
    /// # Safety
    /// What is read of a matrix has been written before. The length of `data` stays as it is: set it when all
    /// heads have been written.
    pub(crate) unsafe fn uninit(data: &'a mut Vec<f32>, shape: HeadShape) -> Self {
        assert!(data.is_empty() && data.capacity() >= shape.len());
        Self { data: data.as_mut_ptr(), shape, lifetime: PhantomData }
    }

    /// As [`Heads::get`], for writing.
    ///
    /// # Safety
    /// Only one view of each head exists at a time.
    pub(crate) unsafe fn get(&self, head: usize) -> MatMut<'a> {
        let HeadShape { b, t, h, d } = self.shape;
        assert!(head < b * h);
        let first = self.data.wrapping_add(head / h * t * h * d + head % h * d);
        // SAFETY: rows of d floats at a distance of h d floats stay within [t, h, d] of this b, and no two
        // heads share any.
        unsafe { MatMut::from_raw(first, [t, d], h * d) }
    }
}
