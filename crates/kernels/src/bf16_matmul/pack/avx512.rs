//! The same on AVX-512: a row of a tile is a register.

use super::{LINES, PAIRS, Parts, Rounding, STEPS, Side, Tile};
use crate::matmul::Mat;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Sixteen registers: a tile.
type Rows = [__m512i; 16];

/// As [`super::pack`], for a view whose lines or steps are neighbours in memory.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn pack(
    tiles: &mut [MaybeUninit<Tile>],
    side: Side,
    parts: Parts,
    rounding: Rounding,
    view: Mat<'_>,
) -> bool {
    const OR: i32 = 0xfe; // of three bits, whether any is set
    let mut seen = _mm512_setzero_si512();
    match parts {
        Parts::One if rounding == Rounding::ToBf16 => pack_parts(tiles, side, view, |early, late| {
            let [early, late] = [rounded(early), rounded(late)];
            seen = _mm512_ternarylogic_epi32::<OR>(seen, early, late);
            [pairs(early, late)]
        }),
        Parts::One => pack_parts(tiles, side, view, |early, late| {
            seen = _mm512_ternarylogic_epi32::<OR>(seen, early, late);
            [pairs(early, late)]
        }),
        Parts::Two => pack_parts(tiles, side, view, |early, late| {
            let ([high, low], late) = (split(early), split(late));
            seen = _mm512_ternarylogic_epi32::<OR>(seen, finite(low), finite(late[1]));
            [pairs(high, late[0]), pairs(low, late[1])]
        }),
    }
    _mm512_test_epi32_mask(seen, _mm512_set1_epi32(0xffff)) == 0
}

/// Packs a tile of each part; `parts` makes pairs of them.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn pack_parts<const PARTS: usize>(
    tiles: &mut [MaybeUninit<Tile>],
    side: Side,
    view: Mat<'_>,
    mut parts: impl FnMut(__m512i, __m512i) -> [__m512i; PARTS],
) {
    // Neighbours among the rows that are read give one of the two layouts; the other is its transpose.
    let by_line = view.rows_are_contiguous();
    for (index, tiles) in tiles.as_chunks_mut::<PARTS>().0.iter_mut().enumerate() {
        let part = view.window([0, index * STEPS], [LINES, STEPS]);
        match by_line {
            true => lines_by_pairs(part, tiles, &mut parts),
            false => pairs_by_lines(part, tiles, &mut parts),
        }
        if by_line != (side == Side::Left) {
            // SAFETY: all rows have just been written.
            tiles.iter_mut().for_each(|tile| transpose_in_place(unsafe { tile.assume_init_mut() }));
        }
    }
}

/// The first `count` of sixteen places.
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// The upper halves of the earlier steps, below those of the later ones.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn pairs(early: __m512i, late: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(early), late)
}

/// As [`super::split`].
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn split(x: __m512i) -> [__m512i; 2] {
    let high = _mm512_and_si512(_mm512_add_epi32(x, _mm512_set1_epi32(0x8000)), _mm512_set1_epi32(!0xffff));
    let low = _mm512_sub_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(high));
    [high, _mm512_castps_si512(low)]
}

/// The bits of numbers, 1 for those that are not finite.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn finite(x: __m512i) -> __m512i {
    const NAN_OR_INFINITY: i32 = 0x99; // of classes, NaN of both kinds and infinity of both signs
    let strange = _mm512_fpclass_ps_mask::<NAN_OR_INFINITY>(_mm512_castsi512_ps(x));
    _mm512_mask_blend_epi32(strange, x, _mm512_set1_epi32(1))
}

/// Writes to the tile of each part a row for each line.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn lines_by_pairs<const PARTS: usize>(
    part: Mat<'_>,
    tiles: &mut [MaybeUninit<Tile>; PARTS],
    parts: &mut impl FnMut(__m512i, __m512i) -> [__m512i; PARTS],
) {
    let (low, high) = (first(part.cols), first(part.cols.saturating_sub(16)));
    for line in 0..LINES {
        let (from, is_there) = (part.place(line, 0), if line < part.rows { !0 } else { 0 });
        // SAFETY: steps of the view are neighbours, and no more than there are of them are read.
        let [a, b] = unsafe {
            [
                _mm512_maskz_loadu_epi32(low & is_there, from.cast()),
                _mm512_maskz_loadu_epi32(high & is_there, from.wrapping_add(16).cast()),
            ]
        };
        write(tiles, line, parts(a, b));
    }
}

/// Writes this row of the tile of each part.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn write<const PARTS: usize>(tiles: &mut [MaybeUninit<Tile>; PARTS], row: usize, parts: [__m512i; PARTS]) {
    for (tile, part) in tiles.iter_mut().zip(parts) {
        // SAFETY: a tile has 16 rows of 64 bytes.
        unsafe { _mm512_storeu_si512(tile.as_mut_ptr().cast::<__m512i>().add(row), part) };
    }
}

/// Steps ahead of those that are read which are asked for: rows far apart are not foreseen by the CPU.
const AHEAD: usize = STEPS;

/// Writes to the tile of each part a row for each pair of steps.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn pairs_by_lines<const PARTS: usize>(
    part: Mat<'_>,
    tiles: &mut [MaybeUninit<Tile>; PARTS],
    parts: &mut impl FnMut(__m512i, __m512i) -> [__m512i; PARTS],
) {
    let lines = first(part.rows);
    let load = |step: usize| {
        if step >= part.cols {
            return _mm512_setzero_si512();
        }
        _mm_prefetch::<_MM_HINT_T0>(part.place(0, step + AHEAD).cast());
        // SAFETY: lines of the view are neighbours, and no more than there are of them are read.
        unsafe { _mm512_maskz_loadu_epi32(lines, part.place(0, step).cast()) }
    };
    for pair in 0..PAIRS {
        write(tiles, pair, parts(load(pair), load(pair + PAIRS)));
    }
}

/// The transpose of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn transpose(from: &Tile, to: &mut Tile) {
    // SAFETY: the rows of tiles.
    unsafe { transpose_rows(from.0.as_ptr().cast(), to.0.as_mut_ptr().cast()) };
}

/// Transposes a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn transpose_in_place(tile: &mut Tile) {
    let place = tile.0.as_mut_ptr().cast();
    // SAFETY: the rows of a tile.
    unsafe { transpose_rows(place, place) };
}

/// The transpose of as many numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn transpose_numbers(from: &[[f32; 16]; 16], to: &mut [[f32; 16]; 16]) {
    // SAFETY: as many rows as tiles have.
    unsafe { transpose_rows(from.as_ptr().cast(), to.as_mut_ptr().cast()) };
}

/// The transpose of 16 rows of 64 bytes, which may take their place.
///
/// # Safety
/// There are as many to be read and written.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
unsafe fn transpose_rows(from: *const __m512i, to: *mut __m512i) {
    let mut rows = [_mm512_setzero_si512(); 16];
    for (index, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.add(index)) };
    }
    for (index, row) in transposed(rows).into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.add(index), row) };
    }
}

/// Writes a tile past the caches.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn stream(tile: &Tile, to: &mut MaybeUninit<Tile>) {
    for (index, row) in tile.0.iter().enumerate() {
        // SAFETY: a tile has 16 rows of 64 bytes, and begins at a cache line.
        unsafe {
            let row = _mm512_load_si512(row.as_ptr().cast());
            _mm512_stream_si512(to.as_mut_ptr().cast::<__m512i>().add(index), row);
        }
    }
}

/// Numbers rounded to bf16 as [`crate::round::to_bf16`] does.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn rounded(x: __m512i) -> __m512i {
    let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(_mm512_castsi512_ps(x), _mm512_castsi512_ps(x));
    let is_odd = _mm512_test_epi32_mask(x, _mm512_set1_epi32(0x1_0000));
    let half = _mm512_add_epi32(x, _mm512_set1_epi32(0x7fff));
    let sum = _mm512_mask_add_epi32(half, is_odd, half, _mm512_set1_epi32(1));
    _mm512_mask_and_epi32(x, is_number, sum, _mm512_set1_epi32(!0xffff))
}

/// The transpose: pairs of neighbouring rows exchange single places, then two, four, and eight.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn transposed(rows: Rows) -> Rows {
    let mut ones = rows;
    for pair in 0..8 {
        let [a, b] = [rows[2 * pair], rows[2 * pair + 1]];
        ones[2 * pair] = _mm512_unpacklo_epi32(a, b);
        ones[2 * pair + 1] = _mm512_unpackhi_epi32(a, b);
    }
    // Row 4 i + j holds columns j, j + 4, j + 8 and j + 12 of rows 4 i to 4 i + 3.
    let mut twos = rows;
    for quad in 0..4 {
        let [a, b, c, d] = std::array::from_fn(|i| ones[4 * quad + i]);
        twos[4 * quad] = _mm512_unpacklo_epi64(a, c);
        twos[4 * quad + 1] = _mm512_unpackhi_epi64(a, c);
        twos[4 * quad + 2] = _mm512_unpacklo_epi64(b, d);
        twos[4 * quad + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Columns j and j + 8, or j + 4 and j + 12, of eight rows; then a column of all.
    let mut columns = rows;
    for j in 0..4 {
        let [a, b, c, d] = std::array::from_fn(|quad| twos[4 * quad + j]);
        let [even, odd] = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)];
        let [more_even, more_odd] = [_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even, more_even);
        columns[j + 8] = _mm512_shuffle_i32x4::<0xdd>(even, more_even);
        columns[j + 4] = _mm512_shuffle_i32x4::<0x88>(odd, more_odd);
        columns[j + 12] = _mm512_shuffle_i32x4::<0xdd>(odd, more_odd);
    }
    columns
}
