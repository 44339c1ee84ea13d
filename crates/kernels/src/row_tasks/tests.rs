//! How rows are cut, and products of rows on tiles; those of f32 are tested with its kernels.

use super::*;
use crate::testing::*;
use candle_core::{Device, Tensor};

#[test]
fn rows_are_cut_into_ever_smaller_tasks() {
    let cases = [(0, 2), (1, 2), (24, 1), (25, 16), (4096, 2), (4096, 16), (1000, 1)];
    for ((all, threads), unit) in cases.into_iter().flat_map(|case| [(case, ROW_UNIT), (case, 32)]) {
        let cut: Vec<_> = rows_in_turn(all, threads, unit, ROWS).collect();
        let ends = cut.iter().map(|rows| rows.end);
        assert!(cut.iter().map(|rows| rows.start).eq([0].into_iter().chain(ends).take(cut.len())));
        assert_eq!(cut.last().map_or(0, |rows| rows.end), all);
        assert!(cut.is_sorted_by(|rows, next| rows.len() >= next.len()));
        assert!(cut.iter().all(|rows| (1..=ROWS).contains(&rows.len())));
        assert!(cut.iter().rev().skip(1).all(|rows| rows.len().is_multiple_of(unit)));
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use super::*;
    use crate::bf16_matmul::tests::unit;
    use crate::matmul::{Before, written};

    /// Row-major numbers that bf16 holds.
    fn values(seed: u64, [rows, cols]: [usize; 2]) -> Vec<f32> {
        let mut values = random(seed, rows * cols).and_then(|x| x.to_vec1()).expect("a vector on the CPU");
        crate::round::round_rows(&mut values, NumericFormat::Bf16);
        values
    }

    fn mat(values: &[f32], [rows, cols]: [usize; 2]) -> Mat<'_> {
        Mat::row_major(values, rows, cols)
    }

    const N: usize = 130;
    const D: usize = 70;
    const WIDTHS: [usize; 2] = [45, 33];

    /// x by both right operands, of which the first is as it lies in memory and the second a transpose, each times two.
    fn by_rows(x: Mat<'_>, right: [&[f32]; 2], update: Update<'_>) -> [Vec<f32>; 2] {
        let right = [mat(right[0], [D, WIDTHS[0]]), mat(right[1], [WIDTHS[1], D]).t()];
        let task = |task: RowTask<'_, 2, 0>| {
            let RowTask { rows, results: [mut y, mut z], mut products, .. } = task;
            let x = x.rows(rows.start, rows.len());
            let mut update = update;
            if let Before::Other(before) = update.before {
                update.before = Before::Other(before.rows(rows.start, rows.len()));
            }
            products.multiply(x, &mut [(0, &mut y, update), (1, &mut z, Update::OVERWRITE)]);
        };
        let twice = |_, values: &mut [f32]| values.iter_mut().for_each(|x| *x *= 2.0);
        let unit = RowUnit::Tiles(unit(), Parts::One);
        // SAFETY: tasks write products to all rows of the results.
        let (found, _) = unsafe {
            written(N, WIDTHS, |results| {
                unit.with_packed(&right, twice, |right| right.by_rows(results, [], task))
            })
        };
        found
    }

    fn close(found: &[f32], x: Mat<'_>, b: Mat<'_>, before: f32, most: f64) {
        for (at, found) in found.iter().enumerate() {
            let (row, col) = (at / b.cols, at % b.cols);
            let term = |k| f64::from(x.get(row, k)) * f64::from(b.get(k, col));
            let exact = (0..D).map(term).sum::<f64>() + f64::from(before);
            assert!((f64::from(*found) - exact).abs() < most, "[{row}, {col}]: {found}, exactly {exact}");
        }
    }

    #[test]
    fn products_of_rows_have_the_bits_of_whole_ones() -> candle_core::Result<()> {
        let (x, a, b) = (values(1, [N, D]), values(2, [D, WIDTHS[0]]), values(3, [WIDTHS[1], D]));
        let x = mat(&x, [N, D]);
        let doubled = [&a, &b].map(|values| values.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        let all =
            [(1.0, x, mat(&doubled[0], [D, WIDTHS[0]])), (1.0, x, mat(&doubled[1], [WIDTHS[1], D]).t())];
        let expected = bf16_matmul::products_on(unit(), Parts::One, &all, false, bf16_matmul::UNFINISHED)
            .expect("bf16 holds them");
        same_bits_in_every_pool(|| {
            let found = by_rows(x, [&a, &b], Update::OVERWRITE);
            assert!(found[..] == expected);
            found.into_iter().map(|x| Tensor::new(x, &Device::Cpu)).collect()
        })
    }

    /// Rounded before it is added to anything: on tiles, and for kernels of f32 and other formats with memory for the product.
    #[test]
    fn rounded_products_are_added_to_what_is_before_them() {
        let (x, a) = (values(1, [N, D]), values(2, [D, WIDTHS[0]]));
        let (x, a) = (mat(&x, [N, D]), mat(&a, [D, WIDTHS[0]]));
        let before: Vec<f32> = (0..N * WIDTHS[0]).map(|i| (i % 7) as f32 * 0.37).collect();
        let other = mat(&before, [N, WIDTHS[0]]);
        let units = [Some(RowUnit::Tiles(unit(), Parts::One)), Kernel::fast().map(RowUnit::F32)];
        for unit in units.into_iter().flatten() {
            for format in [NumericFormat::Bf16, NumericFormat::Fp16, NumericFormat::Fp32] {
                let found = [Before::Nothing, Before::There, Before::Other(other)].map(|place| {
                    let task = |task: RowTask<'_, 1, 1>| {
                        let RowTask { rows, results: [mut y], scratch: [part], mut products, .. } = task;
                        y.elements()
                            .copy_from_slice(other.rows(rows.start, rows.len()).contiguous_rows().as_slice());
                        let place = match place {
                            Before::Other(other) => Before::Other(other.rows(rows.start, rows.len())),
                            Before::Nothing | Before::There => place,
                        };
                        let update = Update { before: place, ..Update::OVERWRITE };
                        let x = x.rows(rows.start, rows.len());
                        products.multiply_rounded(x, &mut [(0, &mut y, update)], format, part);
                    };
                    // SAFETY: tasks write all rows of the result, and before they read them.
                    let ([found], _) = unsafe {
                        written(N, [WIDTHS[0]], |results| {
                            unit.with_packed(
                                &[a],
                                |_, _| {},
                                |right| right.by_rows(results, [WIDTHS[0]], task),
                            )
                        })
                    };
                    found
                });
                let [product, there, onto] = &found;
                close(product, x, a, 0.0, if format == NumericFormat::Fp32 { 1e-4 } else { 0.2 });
                let mut rounded = product.clone();
                round_rows(&mut rounded, format);
                assert_eq!(*product, rounded, "in {format}");
                let sums: Vec<f32> = product.iter().zip(&before).map(|(y, before)| before + y).collect();
                if format != NumericFormat::Fp32 {
                    assert_eq!(*there, sums, "in {format}");
                }
                assert_eq!(there, onto);
            }
        }
    }

    /// A number that bf16 does not hold in either operand: by kernels of f32. Sums with something before them, too.
    #[test]
    fn what_tiles_cannot_do_is_done_without_them() {
        let (x, a, b) = (values(1, [N, D]), values(2, [D, WIDTHS[0]]), values(3, [WIDTHS[1], D]));
        let strange = |values: &[f32], at: usize| {
            let mut values = values.to_vec();
            values[at] = 1.0 + f32::EPSILON;
            values
        };
        let before = vec![3.0; N * WIDTHS[0]];
        let onto = Update { before: Before::Other(mat(&before, [N, WIDTHS[0]])), ..Update::OVERWRITE };
        for (x, a, update) in [
            (strange(&x, 100 * D + 3), a.clone(), Update::OVERWRITE),
            (x.clone(), strange(&a, 7), Update::OVERWRITE),
            (x.clone(), a.clone(), onto),
        ] {
            let x = mat(&x, [N, D]);
            let [y, z] = by_rows(x, [&a, &b], update);
            let [a, b] = [&a, &b].map(|values| values.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
            close(&y, x, mat(&a, [D, WIDTHS[0]]), if update.is_overwrite() { 0.0 } else { 3.0 }, 1e-4);
            close(&z, x, mat(&b, [WIDTHS[1], D]).t(), 0.0, 1e-4);
        }
    }
}
