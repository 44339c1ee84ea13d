//! Products of a few rows with an operand that has been packed.

use super::pack::{Buffer, QUAD, pitch};
use super::tile::{Kernel, LARGEST_TILE, Multiply, Operands};
use crate::matmul::{Before, Mat, MatMut, Update};
use std::marker::PhantomData;
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

/// Rows of a left operand, in whole tiles: there is something behind the last row.
struct Left<'a> {
    /// The tile for this order of the elements.
    multiply: Multiply,
    /// The first element.
    first: *const f32,
    /// Rows that can be read.
    rows: usize,
    /// Terms.
    cols: usize,
    /// What the tile asks for.
    stride: usize,
    /// Distance of the first rows of two tiles, for each row between them.
    row_step: usize,
    /// Distance of the terms that a tile may begin with, for each term between them.
    term_step: usize,
    lifetime: PhantomData<&'a [f32]>,
}

/// A copy of a left operand, made again only for another.
pub(super) struct LeftCopy<'a, 'b> {
    buffer: &'b mut Buffer,
    of: Option<Mat<'a>>,
}

impl<'b> LeftCopy<'_, 'b> {
    /// Nothing yet, in this buffer.
    pub(super) fn new(buffer: &'b mut Buffer) -> Self {
        Self { buffer, of: None }
    }
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

/// From the first term to the one after the last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Terms {
    start: usize,
    end: usize,
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
    #[inline(always)]
    fn terms(self, terms: usize, [row, col]: [usize; 2], rows: usize) -> Option<Terms> {
        let last = row + rows - 1;
        let at = |place: isize| place.clamp(0, terms.cast_signed()).cast_unsigned();
        match self {
            Self::ResultAbove(diagonal) if col.cast_signed() > last.cast_signed() + diagonal => None,
            Self::Nothing | Self::ResultAbove(_) => Some(Terms { start: 0, end: terms }),
            Self::LeftAbove(diagonal) => Some(Terms { start: 0, end: at(last.cast_signed() + diagonal + 1) }),
            // Packed terms come in quads, and more zeros do no harm.
            Self::LeftBelow(diagonal) => {
                Some(Terms { start: at(row.cast_signed() - diagonal) / QUAD * QUAD, end: terms })
            }
        }
    }
}

impl Kernel {
    /// Floats that so many rows and columns of b take when they are packed.
    pub(super) fn packed_len(self, rows: usize, cols: usize) -> usize {
        cols.div_ceil(self.cols) * pitch(rows, self.cols) * self.cols
    }

    /// So many columns and those that fill the last strip: whole tiles are quicker.
    pub(crate) fn whole_strips(self, cols: usize) -> usize {
        cols.next_multiple_of(self.cols)
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

    /// Packs a, which then is read in the order in which it lies. Where it lay, rows whose distance is a power of two would
    /// share few places in a cache, and those at the same place of a cache line one of its banks.
    fn pack_left<'a, 'c>(self, a: Mat<'a>, copy: &'c mut LeftCopy<'a, '_>) -> Left<'c> {
        let strips = a.rows.div_ceil(self.rows);
        let pitch = pitch(a.cols, self.rows);
        let floats = copy.buffer.floats(strips * pitch * self.rows);
        let (multiply, pack, from) = match a.rows_are_contiguous() {
            true => (self.packed_rows, self.pack_a_rows, a),
            false => (self.packed, self.pack_a, a.t()),
        };
        if !copy.of.is_some_and(|of| of.is(a)) {
            // SAFETY: the CPU has the instructions, or there would be no such `Kernel`.
            unsafe { pack(from, floats) };
            copy.of = Some(a);
        }
        Left {
            multiply,
            first: floats.as_ptr(),
            rows: strips * self.rows,
            cols: a.cols,
            stride: self.rows,
            row_step: pitch,
            term_step: self.rows,
            lifetime: PhantomData,
        }
    }

    /// As many rows of a as can be read in whole tiles where they lie.
    fn left_in_place(self, a: Mat<'_>) -> Left<'_> {
        let reaches = a.reaches_row(a.rows.next_multiple_of(self.rows));
        let rows = if reaches { a.rows.next_multiple_of(self.rows) } else { a.rows - a.rows % self.rows };
        let (first, cols) = (if rows > 0 { a.row_ptr(0) } else { ptr::null() }, a.cols);
        let left = |multiply, stride, row_step, term_step| Left {
            multiply,
            first,
            rows,
            cols,
            stride,
            row_step,
            term_step,
            lifetime: PhantomData,
        };
        if a.rows_are_contiguous() {
            left(self.by_row, a.row_stride(), a.row_stride(), 1)
        } else if a.t().rows_are_contiguous() {
            let stride = a.t().row_stride();
            left(self.by_column, stride, 1, stride)
        } else {
            Left { rows: 0, ..left(self.by_row, 0, 0, 0) }
        }
    }

    /// c ← before + `factor` a b for the first columns of b, as many as c has, and as many of its rows as a has columns.
    ///
    /// Reads a where it lies if its rows or its columns are contiguous: good for few of them, since a cache line then
    /// brings terms or rows that are wanted soon, and for few columns of b, for which it does not pay to pack a.
    pub(crate) fn multiply(
        self,
        c: &mut MatMut<'_>,
        update: Update<'_>,
        a: Mat<'_>,
        b: Strips<'_>,
        skip: Skip,
        spare: &mut Buffer,
    ) {
        let [rows, cols] = c.shape();
        assert_eq!(rows, a.rows);
        let left = self.left_in_place(a);
        let in_place = left.rows.min(rows);
        let shape = [in_place, cols];
        self.tiles(&mut c.window([0, 0], shape), update.window([0, 0], shape), left, b, skip);
        if in_place < rows {
            let (place, shape) = ([in_place, 0], [rows - in_place, cols]);
            let (c, update) = (&mut c.window(place, shape), update.window(place, shape));
            let rest = a.rows(in_place, rows - in_place);
            self.multiply_packed(c, update, rest, b, skip.without_rows(in_place), spare);
        }
    }

    /// The same by way of a copy of a.
    pub(crate) fn multiply_packed(
        self,
        c: &mut MatMut<'_>,
        update: Update<'_>,
        a: Mat<'_>,
        b: Strips<'_>,
        skip: Skip,
        spare: &mut Buffer,
    ) {
        self.tiles(c, update, self.pack_left(a, &mut LeftCopy::new(spare)), b, skip);
    }

    /// The same where the next product may have the same left operand.
    pub(super) fn multiply_copy<'a>(
        self,
        c: &mut MatMut<'_>,
        update: Update<'_>,
        a: Mat<'a>,
        b: Strips<'_>,
        copy: &mut LeftCopy<'a, '_>,
    ) {
        self.tiles(c, update, self.pack_left(a, copy), b, Skip::Nothing);
    }

    /// The same for a left operand as it lies.
    fn tiles(self, c: &mut MatMut<'_>, update: Update<'_>, a: Left<'_>, b: Strips<'_>, skip: Skip) {
        let ([c_rows, c_cols], c_stride, c_ptr) = (c.shape(), c.row_stride(), c.as_mut_ptr());
        let (before, before_stride) = match update.before {
            Before::Nothing => (ptr::null(), 0),
            Before::There => (c_ptr.cast_const(), c_stride),
            Before::Other(mat) => {
                assert!([mat.rows, mat.cols] == [c_rows, c_cols] && mat.rows_are_contiguous());
                (if c_rows > 0 { mat.row_ptr(0) } else { ptr::null() }, mat.row_stride())
            }
        };
        let strips = b.floats.chunks_exact(pitch(b.rows, self.cols) * self.cols);
        assert!(b.first + a.cols <= b.rows && c_cols <= strips.len() * self.cols);
        assert!(c_rows <= a.rows && a.rows.is_multiple_of(self.rows));
        for (strip, col) in strips.zip((0..c_cols).step_by(self.cols)) {
            let strip = &strip[b.first * self.cols..][..a.cols * self.cols];
            let whole_rows = if col + self.cols <= c_cols { c_rows - c_rows % self.rows } else { 0 };
            let mut row = 0;
            while row < c_rows {
                let first = row;
                row += self.rows;
                let Some(terms) = skip.terms(a.cols, [first, col], self.rows) else { continue };
                // Whole tiles with the same terms are taken together.
                while row < whole_rows && skip.terms(a.cols, [row, col], self.rows) == Some(terms) {
                    row += self.rows;
                }
                let operands = Operands {
                    tiles: (row - first) / self.rows,
                    terms: terms.end - terms.start,
                    a: a.first.wrapping_add(first * a.row_step + terms.start * a.term_step),
                    a_step: self.rows * a.row_step,
                    a_stride: a.stride,
                    b: strip[terms.start * self.cols..].as_ptr(),
                    c: c_ptr.wrapping_add(first * c_stride + col),
                    c_stride,
                    factor: update.factor,
                    before: if before.is_null() {
                        before
                    } else {
                        before.wrapping_add(first * before_stride + col)
                    },
                    before_stride,
                };
                // SAFETY, here and below: the CPU has the instructions, or there would be no such `Kernel`. All terms of
                // these tiles are there: of a, whose rows end with a whole tile, and of b by its slice. The tiles of c and
                // of what is before are whole, and c is borrowed.
                if row <= whole_rows {
                    unsafe { (a.multiply)(&operands) };
                } else {
                    // By way of a whole tile, so that an element's bits do not depend on where tiles end.
                    let mut tile = [0.0; LARGEST_TILE];
                    let (place, shape) = ([first, col], [self.rows, self.cols]);
                    let mut c = c.window(place, shape);
                    let [rows, cols] = c.shape();
                    let before = update.window(place, shape).before;
                    for (row, tile) in (0..rows).zip(tile.chunks_exact_mut(self.cols)) {
                        match before {
                            Before::Nothing => {}
                            Before::There => tile[..cols].copy_from_slice(c.row(row)),
                            Before::Other(mat) => tile[..cols].copy_from_slice(mat.row(row)),
                        }
                    }
                    let (c_ptr, stride) = (tile.as_mut_ptr(), self.cols);
                    let before = if update.is_overwrite() { ptr::null() } else { c_ptr.cast_const() };
                    // `tile` holds a tile of any kernel.
                    unsafe {
                        (a.multiply)(&Operands {
                            c: c_ptr,
                            c_stride: stride,
                            before,
                            before_stride: stride,
                            ..operands
                        })
                    };
                    for (row, tile) in (0..rows).zip(tile.chunks_exact(self.cols)) {
                        c.row(row).copy_from_slice(&tile[..cols]);
                    }
                }
            }
        }
    }
}
