//! Matrix products over strided views, so that nothing is ever transposed or copied to be multiplied.

mod views;

pub(crate) use views::{Mat, MatMut};

use crate::f32_matmul;
use gemm::Parallelism;
use rayon::prelude::*;

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

    /// Whether nothing is read of the destination, nor of another matrix.
    pub(crate) fn is_overwrite(self) -> bool {
        matches!(self.before, Before::Nothing)
    }

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
    /// What is done to whole rows of c in the end; none is left once that has been done.
    pub(crate) finish: Option<Finish<'a>>,
}

/// Changes whole rows of a product, given the number of the first one. It must not wait for other threads.
pub(crate) type Finish<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// c ← before + `factor` a b, on the calling thread.
pub(crate) fn update(c: &mut MatMut<'_>, update: Update<'_>, a: Mat<'_>, b: Mat<'_>) {
    let c = c.window([0, 0], c.shape());
    compute(&mut [Sum { c, update, products: vec![(a, b)], finish: None }], Parallelism::None);
}

/// a b, row-major, on all threads of the current rayon pool.
pub(crate) fn matmul(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    products([(a, b)]).pop().unwrap_or_default()
}

/// dst + a b, row-major, on all threads of the current rayon pool.
pub(crate) fn add_matmul(mut dst: Vec<f32>, a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    let c = MatMut::row_major(&mut dst, a.rows, b.cols);
    compute(&mut [Sum { c, update: Update::ACCUMULATE, products: vec![(a, b)], finish: None }], ALL_THREADS);
    dst
}

/// before + a b + .., row-major, for a row-major matrix or nothing before; on all threads of the current rayon pool.
pub(crate) fn sum_of_products(before: Option<&[f32]>, products: Vec<(Mat<'_>, Mat<'_>)>) -> Vec<f32> {
    let [rows, cols] = products.first().map_or([0, 0], |(a, b)| [a.rows, b.cols]);
    let before = before.map_or(Before::Nothing, |before| Before::Other(Mat::row_major(before, rows, cols)));
    write(vec![(Update { before, ..Update::OVERWRITE }, products, None)]).pop().unwrap_or_default()
}

/// a b for each pair, row-major, on all threads of the current rayon pool: quicker than one after another if the pairs share
/// a or b.
pub(crate) fn products<'a>(pairs: impl IntoIterator<Item = (Mat<'a>, Mat<'a>)>) -> Vec<Vec<f32>> {
    scaled_products(pairs.into_iter().map(|(a, b)| (1.0, a, b, None)))
}

/// `factor` a b for each, finished, as [`products`].
pub(crate) fn scaled_products<'a>(
    all: impl IntoIterator<Item = (f32, Mat<'a>, Mat<'a>, Option<Finish<'a>>)>,
) -> Vec<Vec<f32>> {
    let one = |(factor, a, b, finish)| (Update { factor, ..Update::OVERWRITE }, vec![(a, b)], finish);
    write(all.into_iter().map(one).collect())
}

/// A sum without the place where it goes.
type ToWrite<'a> = (Update<'a>, Vec<(Mat<'a>, Mat<'a>)>, Option<Finish<'a>>);

/// Sums of products, in new memory. No update reads what is there.
fn write(all: Vec<ToWrite<'_>>) -> Vec<Vec<f32>> {
    debug_assert!(!all.iter().any(|(update, ..)| matches!(update.before, Before::There)));
    let shape = |products: &[(Mat<'_>, Mat<'_>)]| products.first().map_or([0, 0], |(a, b)| [a.rows, b.cols]);
    let mut results: Vec<Vec<f32>> =
        all.iter().map(|(_, products, _)| Vec::with_capacity(shape(products).iter().product())).collect();
    let mut sums = Vec::with_capacity(all.len());
    for ((update, products, finish), c) in all.into_iter().zip(&mut results) {
        let [rows, cols] = shape(&products);
        // SAFETY: the capacity is the matrix, nobody else has it, and it is not read.
        let c = unsafe { MatMut::from_raw(c.as_mut_ptr(), [rows, cols], cols) };
        sums.push(Sum { c, update, products, finish });
    }
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
    if !f32_matmul::products(sums, parallelism) {
        for Sum { c, update, products, .. } in &mut *sums {
            let mut update = *update;
            for (a, b) in products {
                gemm(c, update, *a, *b, parallelism);
                update = update.more();
            }
        }
    }
    for Sum { c, finish, .. } in sums {
        if let Some(finish) = finish.take() {
            let cols = c.cols.max(1);
            let parts = c.cut([(FINISHED_AT_ONCE / cols).max(1), cols]);
            parts.into_par_iter().for_each(|([first, _], mut c)| finish(first, c.elements()));
        }
    }
}

/// Floats of a result that a task finishes.
const FINISHED_AT_ONCE: usize = 1 << 14;

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
