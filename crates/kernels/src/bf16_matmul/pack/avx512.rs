//! The same on AVX-512: a row of a tile is a register.

use super::{LINES, PAIRS, STEPS, Side, Tile};
use crate::matmul::Mat;
use std::arch::x86_64::*;

/// Sixteen registers: a tile.
type Rows = [__m512i; 16];

/// As [`super::pack`], for a view whose lines or steps are neighbours in memory.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn pack(tiles: &mut [Tile], side: Side, view: Mat<'_>) -> bool {
    // Neighbours among the rows that are read give one of the two layouts; the other is its transpose.
    let by_line = view.rows_are_contiguous();
    let mut seen = _mm512_setzero_si512();
    for (index, tile) in tiles.iter_mut().enumerate() {
        let part = view.window([0, index * STEPS], [LINES, STEPS]);
        let rows = if by_line { lines_by_pairs(part, &mut seen) } else { pairs_by_lines(part, &mut seen) };
        let rows = if by_line == (side == Side::Left) { rows } else { transposed(rows) };
        for (row, to) in rows.into_iter().zip(&mut tile.0) {
            // SAFETY: a row of a tile is 64 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
        }
    }
    _mm512_test_epi32_mask(seen, _mm512_set1_epi32(0xffff)) == 0
}

/// The first `count` of sixteen places.
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// The upper halves of the earlier steps, below those of the later ones. All bits are collected in `seen`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn pairs(early: __m512i, late: __m512i, seen: &mut __m512i) -> __m512i {
    const OR: i32 = 0xfe; // of three bits, whether any is set
    *seen = _mm512_ternarylogic_epi32::<OR>(*seen, early, late);
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(early), late)
}

/// A row for each line. All bits are collected in `seen`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn lines_by_pairs(part: Mat<'_>, seen: &mut __m512i) -> Rows {
    let (low, high) = (first(part.cols), first(part.cols.saturating_sub(16)));
    let mut rows = [_mm512_setzero_si512(); 16];
    for (line, row) in rows.iter_mut().enumerate().take(part.rows) {
        let from = part.place(line, 0);
        // SAFETY: steps of the view are neighbours, and no more than there are of them are read.
        let [a, b] = unsafe {
            [
                _mm512_maskz_loadu_epi32(low, from.cast()),
                _mm512_maskz_loadu_epi32(high, from.wrapping_add(16).cast()),
            ]
        };
        *row = pairs(a, b, seen);
    }
    rows
}

/// Steps ahead of those that are read which are asked for: rows far apart are not foreseen by the CPU.
const AHEAD: usize = STEPS;

/// A row for each pair of steps. All bits are collected in `seen`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn pairs_by_lines(part: Mat<'_>, seen: &mut __m512i) -> Rows {
    let lines = first(part.rows);
    let load = |step: usize| {
        if step >= part.cols {
            return _mm512_setzero_si512();
        }
        _mm_prefetch::<_MM_HINT_T0>(part.place(0, step + AHEAD).cast());
        // SAFETY: lines of the view are neighbours, and no more than there are of them are read.
        unsafe { _mm512_maskz_loadu_epi32(lines, part.place(0, step).cast()) }
    };
    let mut rows = [_mm512_setzero_si512(); PAIRS];
    for (pair, row) in rows.iter_mut().enumerate() {
        *row = pairs(load(pair), load(pair + PAIRS), seen);
    }
    rows
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
