//! Products of a few rows with an operand that has been packed.

use super::pack::{Buffer, pitch};
use super::tile::{Kernel, LARGEST_TILE, Operands};
use crate::matmul::{Before, Mat, MatMut, Update};
use std::ops::Range;
use std::ptr;

/// A right operand, packed in strips of columns.
#[derive(Clone, Copy)]
pub(crate) struct Strips<'a> {
    floats: &'a [f32],
    /// Rows that are packed.
    rows: usize,
    /// The first row that takes part.
    first: usize,
}

impl<'a> Strips<'a> {
    /// So many packed rows.
    pub(super) fn new(floats: &'a [f32], rows: usize) -> Self {
        Self { floats, rows, first: 0 }
    }

    /// Without the first rows.
    pub(crate) fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }
}

/// Rows of a left operand, the last of which need not fill a tile.
#[derive(Clone, Copy)]
enum Left<'a> {
    /// Where they lie, and something behind the last.
    InPlace(Mat<'a>),
    /// In strips, with zeros behind the last.
    Packed(&'a [f32]),
}

/// What of a product is not computed, since it is known to be zero or not wanted, by the side of a diagonal it lies on.
#[derive(Clone, Copy)]
pub(crate) enum Skip {
    /// Everything is computed.
    Nothing,
    /// Elements \[i, j\] of c with j > i + this are not wanted, and may become anything.
    ResultAbove(isize),
    /// Elements \[i, k\] of a with k > i + this are zero.
    LeftAbove(isize),
    /// Elements \[i, k\] of a with i > k + this are zero.
    LeftBelow(isize),
}

impl Skip {
    /// The same for the product without its first rows.
    fn without_rows(self, row: usize) -> Self {
        let row = row.cast_signed();
        match self {
            Self::Nothing => self,
            Self::ResultAbove(diagonal) => Self::ResultAbove(diagonal + row),
            Self::LeftAbove(diagonal) => Self::LeftAbove(diagonal + row),
            Self::LeftBelow(diagonal) => Self::LeftBelow(diagonal - row),
        }
    }

    /// Which of so many terms make up a tile of so many rows, or nothing where none of it is wanted.
    fn terms(self, terms: usize, [row, col]: [usize; 2], rows: usize) -> Option<Range<usize>> {
        let last = row + rows - 1;
        let at = |place: isize| place.clamp(0, terms.cast_signed()).cast_unsigned();
        match self {
            Self::ResultAbove(diagonal) if col.cast_signed() > last.cast_signed() + diagonal => None,
            Self::Nothing | Self::ResultAbove(_) => Some(0..terms),
            Self::LeftAbove(diagonal) => Some(0..at(last.cast_signed() + diagonal + 1)),
            Self::LeftBelow(diagonal) => Some(at(row.cast_signed() - diagonal)..terms),
        }
    }
}

impl Kernel {
    /// Floats that so many rows and columns of b take when they are packed.
    pub(super) fn packed_len(self, rows: usize, cols: usize) -> usize {
        cols.div_ceil(self.cols) * pitch(rows, self.cols) * self.cols
    }

    /// Packs b.
    pub(crate) fn pack_right<'a>(self, b: Mat<'_>, buffer: &'a mut Buffer) -> Strips<'a> {
        let floats = buffer.floats(self.packed_len(b.rows, b.cols));
        self.pack_strips(b, floats);
        Strips::new(floats, b.rows)
    }

    /// Packs columns of b.
    pub(super) fn pack_strips(self, b: Mat<'_>, to: &mut [f32]) {
        // SAFETY: the CPU has the instructions, or there would be no such `Kernel`.
        unsafe { (self.pack_b)(b, to) };
    }

    /// Packs a.
    fn pack_left<'a>(self, a: Mat<'_>, buffer: &'a mut Buffer) -> Left<'a> {
        let floats = buffer.floats(a.rows.div_ceil(self.rows) * pitch(a.cols, self.rows) * self.rows);
        // SAFETY: as above.
        unsafe { (self.pack_a)(a.t(), floats) };
        Left::Packed(floats)
    }

    /// c ← before + `factor` a b for the first columns of b, as many as c has, and as many of its rows as a has columns.
    ///
    /// Reads a where it lies if its rows or its columns are contiguous: good for few of them, since a cache line then
    /// brings terms or rows that are wanted soon.
    pub(crate) fn multiply(
        self,
        c: &mut MatMut<'_>,
        update: Update<'_>,
        a: Mat<'_>,
        b: Strips<'_>,
        skip: Skip,
        spare: &mut Buffer,
    ) {
        let whole = a.rows - a.rows % self.rows;
        let in_place = match a.rows_are_contiguous() || a.t().rows_are_contiguous() {
            true if a.reaches_row(a.rows.next_multiple_of(self.rows)) => a.rows,
            true => whole,
            false => 0,
        };
        let [rows, cols] = c.shape();
        assert_eq!(rows, a.rows);
        let (upper, rest) = (a.rows(0, in_place), a.rows(in_place, rows - in_place));
        let shape = [in_place, cols];
        self.tiles(
            &mut c.window([0, 0], shape),
            update.window([0, 0], shape),
            Left::InPlace(upper),
            a.cols,
            b,
            skip,
        );
        let (place, shape) = ([in_place, 0], [rest.rows, cols]);
        let (c, update) = (&mut c.window(place, shape), update.window(place, shape));
        self.multiply_packed(c, update, rest, b, skip.without_rows(in_place), spare);
    }

    /// The same by way of a copy of a.
    pub(super) fn multiply_packed(
        self,
        c: &mut MatMut<'_>,
        update: Update<'_>,
        a: Mat<'_>,
        b: Strips<'_>,
        skip: Skip,
        spare: &mut Buffer,
    ) {
        if a.rows > 0 {
            self.tiles(c, update, self.pack_left(a, spare), a.cols, b, skip);
        }
    }

    fn tiles(
        self,
        c: &mut MatMut<'_>,
        update: Update<'_>,
        a: Left<'_>,
        terms: usize,
        b: Strips<'_>,
        skip: Skip,
    ) {
        let [c_rows, c_cols] = c.shape();
        if let Before::Other(mat) = update.before {
            assert!([mat.rows, mat.cols] == [c_rows, c_cols] && mat.rows_are_contiguous());
        }
        let strips = b.floats.chunks_exact(pitch(b.rows, self.cols) * self.cols);
        assert!(b.first + terms <= b.rows && c_cols <= strips.len() * self.cols);
        if let Left::InPlace(a) = a {
            assert!(c_rows == 0 || (a.rows == c_rows && a.reaches_row(c_rows.next_multiple_of(self.rows))));
        }
        let pitch_a = pitch(terms, self.rows);
        for (strip, col) in strips.zip((0..c_cols).step_by(self.cols)) {
            let strip = &strip[b.first * self.cols..][..terms * self.cols];
            for row in (0..c_rows).step_by(self.rows) {
                let Some(Range { start, end }) = skip.terms(terms, [row, col], self.rows) else { continue };
                let terms = end - start;
                let (multiply, a, a_stride, a_step) = match a {
                    Left::InPlace(a) if a.rows_are_contiguous() => {
                        (self.by_row, a.row_ptr(row), a.row_stride(), 1)
                    }
                    Left::InPlace(a) => {
                        let stride = a.t().row_stride();
                        (self.by_column, a.row_ptr(row), stride, stride)
                    }
                    Left::Packed(a) => {
                        let strip = &a[row * pitch_a..][..self.rows * end];
                        (self.packed, strip.as_ptr(), self.rows, self.rows)
                    }
                };
                let a = a.wrapping_add(start * a_step);
                let (place, shape) = ([row, col], [self.rows, self.cols]);
                let (mut tile, update) = (c.window(place, shape), update.window(place, shape));
                let (c, c_stride) = (tile.as_mut_ptr(), tile.row_stride());
                let (before, before_stride) = match update.before {
                    Before::Nothing => (ptr::null(), 0),
                    Before::There => (c.cast_const(), c_stride),
                    Before::Other(mat) => (mat.row_ptr(0), mat.row_stride()),
                };
                let b = strip[start * self.cols..].as_ptr();
                let operands = Operands {
                    terms,
                    a,
                    a_stride,
                    b,
                    c,
                    c_stride,
                    factor: update.factor,
                    before,
                    before_stride,
                };
                if row + self.rows <= c_rows && col + self.cols <= c_cols {
                    // SAFETY: the CPU has the instructions, or there would be no such `Kernel`. All terms of a tile are
                    // there: of a in place by the assertion above and packed by the slice, of b by its slice. The tiles of
                    // c and of what is before are whole, and c is borrowed.
                    unsafe { multiply(&operands) };
                } else {
                    let mut sums = [0.0; LARGEST_TILE];
                    let (c, c_stride) = (sums.as_mut_ptr(), self.cols);
                    // SAFETY: as above; `sums` holds a tile of any kernel, and nothing before it is read.
                    unsafe { multiply(&Operands { c, c_stride, before: ptr::null(), ..operands }) };
                    take_part(&mut tile, update.before, sums.chunks_exact(self.cols));
                }
            }
        }
    }
}

/// Moves as many sums as a tile at the edge has.
fn take_part<'a>(tile: &mut MatMut<'_>, before: Before<'_>, sums: impl Iterator<Item = &'a [f32]>) {
    let [rows, _] = tile.shape();
    for (row, sums) in (0..rows).zip(sums) {
        for (col, (c, sum)) in tile.row(row).iter_mut().zip(sums).enumerate() {
            *c = match before {
                Before::Nothing => *sum,
                Before::There => *c + sum,
                Before::Other(mat) => mat.get(row, col) + sum,
            };
        }
    }
}
