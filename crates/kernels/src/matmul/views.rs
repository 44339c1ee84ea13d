//! Views of matrices, to read and to write.

use std::marker::PhantomData;

/// A matrix to read: any place, any strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A view of `data`, whose first element is the matrix's first.
    ///
    /// # Panics
    /// When `data` is too short for shape and strides.
    pub(crate) fn new(data: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        let ([rows, cols], [row_stride, col_stride]) = (shape, strides);
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
            assert!(last < data.len(), "matrix view ends outside its data");
        }
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// A row-major view.
    pub(crate) fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, [rows, cols], [cols, 1])
    }

    /// The transpose, as a view.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The distance of rows in memory.
    pub(crate) fn row_stride(self) -> usize {
        self.row_stride
    }

    /// The place of a row's first element.
    pub(crate) fn row_ptr(self, row: usize) -> *const f32 {
        self.data[row * self.row_stride..].as_ptr()
    }

    /// Where an element would lie, there or not.
    #[inline(always)]
    pub(crate) fn place(self, row: usize, col: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(row * self.row_stride + col * self.col_stride)
    }

    /// Whether there is memory where so many rows would lie.
    pub(crate) fn reaches_row(self, rows: usize) -> bool {
        (rows.max(1) - 1) * self.row_stride + (self.cols.max(1) - 1) * self.col_stride < self.data.len()
    }

    /// Rows `start..start + count`, as a view.
    pub(crate) fn rows(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.rows);
        let data = self.data.get(start * self.row_stride..).unwrap_or(&[]);
        Self { data, rows: count, ..self }
    }

    /// The part from `[row, col]` on of at most this shape, as a view; empty where that lies outside.
    #[inline(always)]
    pub(crate) fn window(self, [row, col]: [usize; 2], [rows, cols]: [usize; 2]) -> Self {
        let (rows, cols) = (rows.min(self.rows.saturating_sub(row)), cols.min(self.cols.saturating_sub(col)));
        let data = self.data.get(row * self.row_stride + col * self.col_stride..).unwrap_or(&[]);
        Self { data, rows, cols, ..self }
    }

    /// Whether the elements of a row are neighbours in memory.
    #[inline(always)]
    pub(crate) fn rows_are_contiguous(self) -> bool {
        self.col_stride == 1
    }

    /// `N` elements of a row, which must be contiguous, from a column on.
    #[inline(always)]
    pub(crate) fn neighbours<const N: usize>(self, row: usize, col: usize) -> [f32; N] {
        debug_assert!(self.col_stride == 1 && row < self.rows && col + N <= self.cols);
        *self.data[row * self.row_stride + col..].first_chunk().expect("a matrix ends within its data")
    }

    /// A row of at most `N` elements, with zeros behind them; all zeros for a row beyond the last.
    #[inline(always)]
    pub(crate) fn padded_row<const N: usize>(self, row: usize) -> [f32; N] {
        let mut padded = [0.0; N];
        if row < self.rows && self.cols > 0 {
            let from = &self.data[row * self.row_stride..];
            if self.col_stride == 1 && self.cols == N {
                padded.copy_from_slice(&from[..N]);
            } else {
                for (col, x) in padded[..self.cols].iter_mut().enumerate() {
                    *x = from[col * self.col_stride];
                }
            }
        }
        padded
    }

    /// Whether both are the same view.
    pub(crate) fn is(self, other: Self) -> bool {
        let place = |mat: Self| (mat.data.as_ptr(), mat.rows, mat.cols, mat.row_stride, mat.col_stride);
        place(self) == place(other)
    }

    /// One element.
    #[inline(always)]
    pub(crate) fn get(self, row: usize, col: usize) -> f32 {
        assert!(row < self.rows && col < self.cols);
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// All rows, which must be contiguous, one after another.
    pub(crate) fn contiguous_rows(self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rows * self.cols);
        (0..self.rows).for_each(|row| values.extend_from_slice(self.row(row)));
        values
    }

    /// One row, which must be contiguous.
    pub(crate) fn row(self, row: usize) -> &'a [f32] {
        assert!(row < self.rows && (self.col_stride == 1 || self.cols <= 1));
        &self.data[row * self.row_stride..][..self.cols]
    }
}

/// A matrix to write, its rows contiguous and at a fixed distance.
///
/// # Invariant
/// Its elements are valid for writes by this view only.
pub(crate) struct MatMut<'a> {
    pub(super) data: *mut f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    lifetime: PhantomData<&'a mut f32>,
}

// SAFETY: the elements are this view's alone, as those of a mutable slice would be.
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// All of `data`, row-major.
    pub(crate) fn row_major(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols);
        // SAFETY: the slice is exactly as long, and borrowed for as long as the view lives.
        unsafe { Self::from_raw(data.as_mut_ptr(), [rows, cols], cols) }
    }

    /// Rows at this distance.
    ///
    /// # Panics
    /// When `data` is too short for shape and stride, or rows would overlap.
    pub(crate) fn strided(data: &'a mut [f32], shape: [usize; 2], row_stride: usize) -> Self {
        let [rows, cols] = shape;
        assert!(cols <= row_stride && (rows == 0 || (rows - 1) * row_stride + cols <= data.len()));
        // SAFETY: the rows lie in the slice, which is borrowed for as long as the view lives.
        unsafe { Self::from_raw(data.as_mut_ptr(), shape, row_stride) }
    }

    /// # Safety
    /// For the lifetime of the view, each of its rows is valid for writes, by this view only, and, wherever
    /// it is accumulated into or read, initialised.
    pub(crate) unsafe fn from_raw(data: *mut f32, shape: [usize; 2], row_stride: usize) -> Self {
        let [rows, cols] = shape;
        Self { data, rows, cols, row_stride, lifetime: PhantomData }
    }

    /// Rows `start..start + count`.
    pub(crate) fn rows(&mut self, start: usize, count: usize) -> MatMut<'_> {
        assert!(start + count <= self.rows);
        MatMut { data: self.data.wrapping_add(start * self.row_stride), rows: count, ..*self }
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The distance of rows in memory.
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The place of the first element.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }

    /// The part from `[row, col]` on of at most this shape; empty where that lies outside.
    #[inline(always)]
    pub(crate) fn window(&mut self, [row, col]: [usize; 2], [rows, cols]: [usize; 2]) -> MatMut<'_> {
        let (rows, cols) = (rows.min(self.rows.saturating_sub(row)), cols.min(self.cols.saturating_sub(col)));
        MatMut { data: self.data.wrapping_add(row * self.row_stride + col), rows, cols, ..*self }
    }

    /// The first rows, which are no longer part of this matrix.
    pub(crate) fn take_rows(&mut self, count: usize) -> MatMut<'a> {
        assert!(count <= self.rows);
        let first = MatMut { rows: count, ..*self };
        self.data = self.data.wrapping_add(count * self.row_stride);
        self.rows -= count;
        first
    }

    /// Windows of this shape, less at the lower and right edges, that cover the matrix, with the place of each.
    pub(crate) fn cut(&mut self, [rows, cols]: [usize; 2]) -> Vec<([usize; 2], MatMut<'_>)> {
        let [all_rows, all_cols] = self.shape();
        let mut windows = Vec::with_capacity(all_rows.div_ceil(rows) * all_cols.div_ceil(cols));
        for row in (0..all_rows).step_by(rows) {
            for col in (0..all_cols).step_by(cols) {
                let window = self.window([row, col], [rows, cols]);
                // They share no element, so each may live as long as the matrix is borrowed.
                windows.push(([row, col], MatMut { lifetime: PhantomData, ..window }));
            }
        }
        windows
    }

    /// All rows, which must be neighbours in memory.
    pub(crate) fn elements(&mut self) -> &mut [f32] {
        assert!(self.cols == self.row_stride || self.rows <= 1);
        // SAFETY: the rows are valid and exclusively ours by the contract of `from_raw`.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.rows * self.cols) }
    }

    /// One row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: the row is valid and exclusively ours by the contract of `from_raw`.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride), self.cols) }
    }
}
