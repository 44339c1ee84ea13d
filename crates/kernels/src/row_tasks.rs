//! Rows through several products and what lies between them, in one task: what a product leaves is still in the cache when the
//! next operation reads it, and threads meet once instead of after every operation.

#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::{self, Amx, Destination, LineScales, Parts, Strips};
use crate::f32_matmul::{Buffer, Kernel, Packed, is_small};
use crate::matmul::{self, Before, Mat, MatMut, Update};
use crate::round::round_rows;
use crate::row_operands::{Made, ToMake};
use crate::simd::add;
use numerics::NumericFormat;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;
pub(crate) use turns::{in_turn, rows_in_turn, rows_on_tiles};

/// The rows of a task are a multiple of this, which is one of the rows of every kernel's tile. What is summed over so many
/// rows so does not depend on the cut into tasks.
pub(crate) const ROW_UNIT: usize = 24;

/// Rows in a task, at most: those of a product's left operand are 96 KiB of the L2 cache.
pub(crate) const ROWS: usize = 96;

/// On tiles, rows are a multiple of the steps of a tile, and fewer at most: what lies between products is as large as for kernels
/// of f32, but waits for them a tenth of the time, and leaves more of the L2 cache to the weights.
pub(crate) const ROW_UNIT_ON_TILES: usize = 32;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]
const ROWS_ON_TILES: usize = 64;

/// Floats of right operands that are packed at a time: 64 MiB. A task's rows are enough work for what it then reads, be it from
/// memory.
const TOGETHER: usize = 16 << 20;

thread_local! {
    /// What lies between the products of a task.
    static BETWEEN: RefCell<Buffer> = const { RefCell::new(Buffer::new()) };
}

/// What the operands of products are; each kind holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operands {
    /// Numbers that bf16 holds.
    Bf16,
    /// Numbers that are the sum of two that bf16 holds, as those of fp16 and tf32.
    TwoBf16,
    /// Any numbers.
    F32,
}

impl Operands {
    /// Those of a format, without a scale: bf16 has its exponents and 8 significant bits, of which the first is not stored.
    pub(crate) fn of(format: NumericFormat) -> Self {
        match format.spec().mantissa_bits {
            0..=7 => Self::Bf16,
            8..=15 => Self::TwoBf16,
            _ => Self::F32,
        }
    }

    /// The tiles that multiply them, if there are any, and how many parts these have of each.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn on_tiles(self) -> Option<(Amx, Parts)> {
        let parts = match self {
            Self::Bf16 => Parts::One,
            Self::TwoBf16 => Parts::Two,
            Self::F32 => return None,
        };
        Some((Amx::new()?, parts))
    }

    /// The tiles that hold them as they are, if there are any.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn as_tiles(self) -> Option<Amx> {
        self.on_tiles().filter(|(_, parts)| *parts == Parts::One).map(|(unit, _)| unit)
    }

    /// a b for each pair, row-major, on all threads of the current rayon pool.
    pub(crate) fn products<'a>(self, pairs: impl IntoIterator<Item = (Mat<'a>, Mat<'a>)>) -> Vec<Vec<f32>> {
        #[cfg(target_arch = "x86_64")]
        if let Some((unit, parts)) = self.on_tiles() {
            let all: Vec<_> = pairs.into_iter().map(|(a, b)| (1.0, a, b)).collect();
            return bf16_matmul::products_on(unit, parts, &all, false, bf16_matmul::UNFINISHED)
                .unwrap_or_else(|| matmul::products(all.into_iter().map(|(_, a, b)| (a, b))));
        }
        matmul::products(pairs)
    }

    /// a b, as [`Operands::products`].
    pub(crate) fn product(self, a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        self.products([(a, b)]).pop().unwrap_or_default()
    }

    /// `sum` + a b, or a b if there is no sum, as [`Operands::products`].
    pub(crate) fn add_product(self, sum: Option<Vec<f32>>, a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        match sum {
            #[cfg(target_arch = "x86_64")]
            Some(mut sum) if self.on_tiles().is_some() => {
                crate::buffers::add_all(&mut sum, &self.product(a, b));
                sum
            }
            Some(sum) => matmul::add_matmul(sum, a, b),
            None => self.product(a, b),
        }
    }
}

/// What multiplies rows.
#[derive(Clone, Copy)]
pub(crate) enum RowUnit {
    /// Kernels for f32.
    F32(Kernel),
    /// Tiles of bf16, which have so many parts of every number.
    #[cfg(target_arch = "x86_64")]
    Tiles(Amx, Parts),
}

/// Some rows of the results, and what a task has to compute them.
pub(crate) struct RowTask<'a, const N: usize, const M: usize, const K: usize = 0> {
    /// Which rows.
    pub(crate) rows: Range<usize>,
    /// These rows of each result.
    pub(crate) results: [MatMut<'a>; N],
    /// These rows of each operand that is made, to be written; none of one that was given.
    pub(crate) operands: [&'a mut [f32]; K],
    /// Memory for as many rows, whatever is in it.
    pub(crate) scratch: [&'a mut [f32]; M],
    /// The right operands.
    pub(crate) products: RowProducts<'a>,
}

/// Products with right operands that all tasks share.
pub(crate) struct RowProducts<'a> {
    right: &'a RightOperands<'a>,
}

/// Right operands that are packed, for all tasks.
pub(crate) enum RightOperands<'a> {
    /// For kernels of f32.
    F32(Kernel, &'a [Packed<'a>]),
    /// For tiles, and what rounds them.
    #[cfg(target_arch = "x86_64")]
    Tiles(Amx, &'a [TileOperand<'a>], &'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

/// A right operand for tiles.
#[cfg(target_arch = "x86_64")]
pub(crate) struct TileOperand<'a> {
    of: Mat<'a>,
    /// Rounded and packed; none if its parts do not hold it: NaN may have more bits than bf16.
    strips: Option<Strips>,
    /// Rounded, as the rows of it or of its transpose, for left operands that bf16 does not hold.
    values: OnceLock<Vec<f32>>,
}

#[cfg(target_arch = "x86_64")]
impl<'a> TileOperand<'a> {
    fn new(of: Mat<'a>, parts: Parts, round: impl Fn(&mut [f32]) + Sync) -> Self {
        Self { of, strips: Strips::pack_rounded(of, parts, round), values: OnceLock::new() }
    }

    /// Rounded.
    fn mat(&self, round: impl Fn(&mut [f32])) -> Mat<'_> {
        let by_row = self.of.rows_are_contiguous();
        let from = if by_row { self.of } else { self.of.t() };
        let values = self.values.get_or_init(|| {
            let mut values = from.contiguous_rows();
            round(&mut values);
            values
        });
        let mat = Mat::row_major(values, from.rows, from.cols);
        if by_row { mat } else { mat.t() }
    }
}

impl RowUnit {
    /// What multiplies so many rows with all of these right operands, if there is anything, and the operands are large enough
    /// for it and small enough to be packed at a time.
    pub(crate) fn new(rows: usize, right: &[Mat<'_>], operands: Operands) -> Option<Self> {
        let fit = right.iter().map(|b| b.rows * b.cols).sum::<usize>() <= TOGETHER;
        if !fit || right.iter().any(|b| is_small([rows, b.rows, b.cols])) {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some((unit, parts)) = operands.on_tiles() {
            return Some(Self::Tiles(unit, parts));
        }
        Kernel::fast().map(Self::F32)
    }

    /// Whether it is tiles.
    pub(crate) fn is_on_tiles(self) -> bool {
        match self {
            Self::F32(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(..) => true,
        }
    }

    /// Its tiles, if numbers have one part there.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles_of_bf16(self) -> Option<Amx> {
        match self {
            Self::Tiles(unit, Parts::One) => Some(unit),
            Self::Tiles(_, Parts::Two) | Self::F32(_) => None,
        }
    }

    /// Calls `f` with right operands, packed on all threads and each rounded by `round`, which is given its number and some of
    /// its values.
    pub(crate) fn with_packed<R>(
        self,
        right: &[Mat<'_>],
        round: impl Fn(usize, &mut [f32]) + Sync,
        f: impl FnOnce(&RightOperands<'_>) -> R,
    ) -> R {
        match self {
            Self::F32(kernel) => {
                kernel.with_packed(right, &round, |packed| f(&RightOperands::F32(kernel, packed)))
            }
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(unit, parts) => {
                let right: Vec<_> = (0..)
                    .zip(right)
                    .map(|(index, b)| TileOperand::new(*b, parts, |values: &mut [f32]| round(index, values)))
                    .collect();
                f(&RightOperands::Tiles(unit, &right, &round))
            }
        }
    }
}

impl RowProducts<'_> {
    /// c ← before + `factor` a b for each c and the right operand b of that number, all of which have as many rows.
    pub(crate) fn multiply(&mut self, a: Mat<'_>, results: &mut [(usize, &mut MatMut<'_>, Update<'_>)]) {
        match self.right {
            RightOperands::F32(kernel, packed) => kernel.multiply_rows(a, packed, results),
            #[cfg(target_arch = "x86_64")]
            RightOperands::Tiles(_, right, round) => {
                if !self.multiply_on_tiles(a, results, &[], false) {
                    for (index, c, update) in results {
                        let b = right[*index].mat(|values| round(*index, values));
                        matmul::update(c, *update, a, b);
                    }
                }
            }
        }
    }

    /// The same with products that are rounded to `format` before they are added to anything. `part` is memory for the largest
    /// product that is.
    pub(crate) fn multiply_rounded(
        &mut self,
        a: Mat<'_>,
        results: &mut [(usize, &mut MatMut<'_>, Update<'_>)],
        format: NumericFormat,
        part: &mut [f32],
    ) {
        if format == NumericFormat::Fp32 {
            return self.multiply(a, results);
        }
        #[cfg(target_arch = "x86_64")]
        if format == NumericFormat::Bf16 && self.multiply_on_tiles(a, results, &[], true) {
            return;
        }
        if results.iter().all(|(.., update)| update.is_overwrite()) {
            // Together, so that a is packed once.
            self.multiply(a, results);
            for (_, c, _) in results {
                (0..c.shape()[0]).for_each(|row| round_rows(c.row(row), format));
            }
            return;
        }
        for (index, c, update) in results {
            let [rows, cols] = c.shape();
            let part = &mut part[..rows * cols];
            let mut product = MatMut::row_major(part, rows, cols);
            self.multiply(a, &mut [(*index, &mut product, Update { before: Before::Nothing, ..*update })]);
            round_rows(part, format);
            for (row, part) in part.chunks_exact(cols).enumerate() {
                match update.before {
                    Before::Nothing => c.row(row).fill(0.0),
                    Before::There => {}
                    Before::Other(other) => c.row(row).copy_from_slice(other.row(row)),
                }
                add(c.row(row), part);
            }
        }
    }

    /// The same with products that are multiplied by the scales of their rows and by those of each one's columns before they are
    /// rounded. Whether that is done: to bf16, by tiles.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there are no tiles"))]
    pub(crate) fn multiply_by_lines(
        &mut self,
        a: Mat<'_>,
        results: &mut [(usize, &mut MatMut<'_>, Update<'_>)],
        of_rows: &[f32],
        of_cols: &[Vec<f32>],
        format: NumericFormat,
    ) -> bool {
        #[cfg(target_arch = "x86_64")]
        if format == NumericFormat::Bf16 {
            let scales: Vec<_> = of_cols.iter().map(|cols| LineScales { rows: of_rows, cols }).collect();
            return self.multiply_on_tiles(a, results, &scales, true);
        }
        false
    }

    /// Whether there are tiles, and operands that they hold.
    #[cfg(target_arch = "x86_64")]
    fn multiply_on_tiles(
        &self,
        a: Mat<'_>,
        results: &mut [(usize, &mut MatMut<'_>, Update<'_>)],
        scales: &[LineScales<'_>],
        rounded: bool,
    ) -> bool {
        let RightOperands::Tiles(unit, right, _) = self.right else { return false };
        let mut destinations = Vec::with_capacity(results.len());
        for (number, (index, c, update)) in results.iter_mut().enumerate() {
            let Some(b) = &right[*index].strips else { return false };
            let (shape, scales) = (c.shape(), scales.get(number).copied());
            let c = c.window([0, 0], shape);
            destinations.push(Destination { b, update: *update, scales, rounded, c });
        }
        bf16_matmul::multiply_rows(*unit, a, &mut destinations)
    }
}

impl RightOperands<'_> {
    /// Shares the rows of the results out among all threads. Returns what the tasks did, in the order of the rows. `widths` are
    /// those of the scratch memory.
    ///
    /// A task must not wait for other threads.
    pub(crate) fn by_rows<const N: usize, const M: usize, R: Send>(
        &self,
        results: [MatMut<'_>; N],
        widths: [usize; M],
        task: impl Fn(RowTask<'_, N, M>) -> R + Sync,
    ) -> Vec<R> {
        // SAFETY: there is no operand.
        unsafe { self.by_rows_making(results, [], widths, task) }.0
    }

    /// The same with operands of products over rows, which it returns.
    ///
    /// # Safety
    /// Tasks write all rows of what is to be made before they read any.
    pub(crate) unsafe fn by_rows_making<'m, const N: usize, const M: usize, const K: usize, R: Send>(
        &self,
        mut results: [MatMut<'_>; N],
        mut operands: [ToMake<'m>; K],
        widths: [usize; M],
        task: impl Fn(RowTask<'_, N, M, K>) -> R + Sync,
    ) -> (Vec<R>, [Made<'m>; K]) {
        let all = results.first().map_or(0, |c| c.shape()[0]);
        let mut places = operands.each_mut().map(ToMake::place);
        let own = operands.each_ref().map(ToMake::scratch);
        let mut tasks = vec![];
        let [unit, most] = self.rows_of_tasks();
        for rows in rows_in_turn(all, rayon::current_num_threads(), unit, most) {
            let results = results.each_mut().map(|c| c.take_rows(rows.len()));
            let places = places.each_mut().map(|c| c.take_rows(rows.len().min(c.shape()[0])));
            tasks.push((results, places, rows));
        }
        let done = in_turn(tasks, |(results, mut places, rows): (_, [MatMut<'_>; K], Range<usize>)| {
            BETWEEN.with_borrow_mut(|between| {
                let width: usize = own.iter().chain(&widths).sum();
                let mut free = between.floats(rows.len() * width);
                let mut next = |width: usize| {
                    let (part, rest) = std::mem::take(&mut free).split_at_mut(rows.len() * width);
                    free = rest;
                    part
                };
                let (mut own, scratch) = (own.map(&mut next), widths.map(next));
                let mut made = places.each_mut().map(MatMut::elements);
                for (made, own) in made.iter_mut().zip(&mut own) {
                    if !own.is_empty() {
                        *made = &mut **own;
                    }
                }
                let products = RowProducts { right: self };
                let lent = made.each_mut().map(|rows| &mut **rows);
                let done = task(RowTask { rows: rows.clone(), results, operands: lent, scratch, products });
                for (operand, values) in operands.iter().zip(made) {
                    // SAFETY: every row belongs to one task.
                    unsafe { operand.take(rows.clone(), values) };
                }
                done
            })
        });
        // SAFETY: the caller's promise.
        (done, operands.map(|operand| unsafe { operand.made() }))
    }

    /// What the rows of a task are a multiple of, and how many there are at most.
    fn rows_of_tasks(&self) -> [usize; 2] {
        match self {
            Self::F32(..) => [ROW_UNIT, ROWS],
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(..) => [ROW_UNIT_ON_TILES, ROWS_ON_TILES],
        }
    }
}

mod turns;
mod writing;

#[cfg(test)]
mod tests;
