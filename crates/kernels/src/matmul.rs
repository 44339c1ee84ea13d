//! Matrix products over strided views, so that nothing is ever transposed or copied to be multiplied.

use crate::f32_matmul;
use gemm::Parallelism;
use std::marker::PhantomData;

/// A matrix to read: any place, any strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    row_stride: usize,
    col_stride: usize,
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
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
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

/// Threads share the elements of a product, never the sum that makes one, so their number changes no bit.
const ALL_THREADS: Parallelism = Parallelism::Rayon(0);

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Before<'a> {
    /// Nothing: it replaces what is there.
    Nothing,
    /// What is there.
    There,
    /// A matrix of the same shape, whose rows are contiguous.
    Other(Mat<'a>),
}

/// What a product does to its destination: dst ← before + `factor` a b.
#[derive(Clone, Copy)]
pub(crate) struct Update<'a> {
    /// What the product is multiplied by.
    pub(crate) factor: f32,
    /// What it is added to.
    pub(crate) before: Before<'a>,
}

impl Update<'_> {
    /// dst ← a b
    pub(crate) const OVERWRITE: Self = Self { factor: 1.0, before: Before::Nothing };
    /// dst ← dst + a b
    pub(crate) const ACCUMULATE: Self = Self { before: Before::There, ..Self::OVERWRITE };

    /// For further products that are added to the first.
    pub(crate) fn more(self) -> Self {
        Self { before: Before::There, ..self }
    }

    /// For a part of the destination.
    #[inline(always)]
    pub(crate) fn window(self, place: [usize; 2], shape: [usize; 2]) -> Self {
        match self.before {
            Before::Other(mat) => Self { before: Before::Other(mat.window(place, shape)), ..self },
            Before::Nothing | Before::There => self,
        }
    }
}

/// Products that are summed: c ← before + `factor` (a b + ..).
pub(crate) struct Sum<'a> {
    pub(crate) c: MatMut<'a>,
    pub(crate) update: Update<'a>,
    /// Pairs of a and b, at least one.
    pub(crate) products: Vec<(Mat<'a>, Mat<'a>)>,
}

/// dst ← a b, on the calling thread.
pub(crate) fn matmul_into(dst: MatMut<'_>, a: Mat<'_>, b: Mat<'_>) {
    compute(&mut [Sum { c: dst, update: Update::OVERWRITE, products: vec![(a, b)] }], Parallelism::None);
}

/// a b, row-major, on all threads of the current rayon pool.
pub(crate) fn matmul(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    matmul_with(1.0, a, b)
}

/// `factor` a b, as [`matmul`].
pub(crate) fn matmul_with(factor: f32, a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    write(Update { factor, ..Update::OVERWRITE }, vec![vec![(a, b)]]).pop().unwrap_or_default()
}

/// dst + a b, row-major, on all threads of the current rayon pool.
pub(crate) fn add_matmul(mut dst: Vec<f32>, a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    let c = MatMut::row_major(&mut dst, a.rows, b.cols);
    compute(&mut [Sum { c, update: Update::ACCUMULATE, products: vec![(a, b)] }], ALL_THREADS);
    dst
}

/// before + a b + .., row-major, for a row-major matrix or nothing before; on all threads of the current rayon pool.
pub(crate) fn sum_of_products(before: Option<&[f32]>, products: Vec<(Mat<'_>, Mat<'_>)>) -> Vec<f32> {
    let [rows, cols] = products.first().map_or([0, 0], |(a, b)| [a.rows, b.cols]);
    let before = before.map_or(Before::Nothing, |before| Before::Other(Mat::row_major(before, rows, cols)));
    write(Update { before, ..Update::OVERWRITE }, vec![products]).pop().unwrap_or_default()
}

/// a b for each pair, row-major, on all threads of the current rayon pool: quicker than one after another if the pairs share
/// a or b.
pub(crate) fn products<'a>(pairs: impl IntoIterator<Item = (Mat<'a>, Mat<'a>)>) -> Vec<Vec<f32>> {
    write(Update::OVERWRITE, pairs.into_iter().map(|pair| vec![pair]).collect())
}

/// The sums of some products, in new memory. `update` does not read what is there.
fn write<'a>(update: Update<'a>, all: Vec<Vec<(Mat<'a>, Mat<'a>)>>) -> Vec<Vec<f32>> {
    debug_assert!(!matches!(update.before, Before::There));
    let shape = |products: &[(Mat<'_>, Mat<'_>)]| products.first().map_or([0, 0], |(a, b)| [a.rows, b.cols]);
    let mut results: Vec<Vec<f32>> =
        all.iter().map(|products| Vec::with_capacity(shape(products).iter().product())).collect();
    let sum = |(products, c): (Vec<_>, &mut Vec<f32>)| {
        let [rows, cols] = shape(&products);
        // SAFETY: the capacity is the matrix, nobody else has it, and it is not read.
        let c = unsafe { MatMut::from_raw(c.as_mut_ptr(), [rows, cols], cols) };
        Sum { c, update, products }
    };
    let mut sums: Vec<_> = all.into_iter().zip(&mut results).map(sum).collect();
    compute(&mut sums, ALL_THREADS);
    let lengths: Vec<usize> = sums.iter().map(|sum| sum.c.shape().iter().product()).collect();
    for (result, len) in results.iter_mut().zip(lengths) {
        // SAFETY: all of it has been written.
        unsafe { result.set_len(len) };
    }
    results
}

/// New memory for matrices of so many rows, which `f` writes.
///
/// # Safety
/// `f` writes every element, and reads none before.
pub(crate) unsafe fn written<const N: usize, R>(
    rows: usize,
    widths: [usize; N],
    f: impl FnOnce([MatMut<'_>; N]) -> R,
) -> ([Vec<f32>; N], R) {
    let mut all = widths.map(|width| Vec::<f32>::with_capacity(rows * width));
    let places = all.each_mut().map(|matrix| matrix.as_mut_ptr());
    let matrices = std::array::from_fn(|i| {
        // SAFETY: the capacity is the matrix, nobody else has it, and the caller promises not to read it.
        unsafe { MatMut::from_raw(places[i], [rows, widths[i]], widths[i]) }
    });
    let result = f(matrices);
    for (matrix, width) in all.iter_mut().zip(widths) {
        // SAFETY: the caller promises that all of it has been written.
        unsafe { matrix.set_len(rows * width) };
    }
    (all, result)
}

fn compute(sums: &mut [Sum<'_>], parallelism: Parallelism) {
    for Sum { c, products, .. } in &*sums {
        for (a, b) in products {
            assert_eq!((a.cols, c.rows, c.cols), (b.rows, a.rows, b.cols));
        }
    }
    if f32_matmul::products(sums, parallelism) {
        return;
    }
    for Sum { c, update, products } in sums {
        let mut update = *update;
        for (a, b) in products {
            gemm(c, update, *a, *b, parallelism);
            update = update.more();
        }
    }
}

/// A product by the `gemm` crate.
fn gemm(c: &mut MatMut<'_>, update: Update<'_>, a: Mat<'_>, b: Mat<'_>, parallelism: Parallelism) {
    let Update { factor, before } = update;
    if let Before::Other(before) = before {
        for row in 0..c.rows {
            // SAFETY: rows of c are valid for writes and those of `before` for reads; they do not overlap, since c is
            // exclusive.
            unsafe {
                c.data.add(row * c.row_stride).copy_from_nonoverlapping(before.row(row).as_ptr(), c.cols)
            };
        }
    }
    let add = !matches!(before, Before::Nothing);
    // SAFETY: the views are in bounds by their constructors, and the shapes agree. With `read_dst` false and
    // a zero factor for it, the destination is only written.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data,
            1,
            c.row_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
