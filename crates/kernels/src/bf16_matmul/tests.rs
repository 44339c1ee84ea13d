//! AMX's instructions, executed by the CPU or emulated (see `trap`), against sums in f64 and, bit for bit, against the
//! unit in plain Rust. Elsewhere than on Linux x86-64 the plain unit alone.

use super::unit::{Plain, common_length};
use super::*;
use crate::testing::*;
use candle_core::{Device, Result, Tensor};
use numerics::{NumericFormat, Overflow, Rounding};
use proptest::prelude::*;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn unit() -> Amx {
    trap::amx()
}

mod by_hand;

thread_local! {
    static FORCED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is to take AMX's tiles, whatever the CPU.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn is_forced() -> bool {
    FORCED.get()
}

/// Calls `f`, which takes AMX's tiles wherever it would take them on a CPU that has them; on Linux x86-64.
pub(crate) fn on_forced_tiles<R>(f: impl FnOnce() -> R) -> R {
    let before = FORCED.replace(true);
    let result = f();
    FORCED.set(before);
    result
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn unit() -> impl TileUnit {
    Plain
}

fn on_tiles(factor: f32, a: Mat<'_>, b: Mat<'_>) -> Option<Vec<f32>> {
    in_parts(Parts::One, factor, a, b)
}

fn in_parts(parts: Parts, factor: f32, a: Mat<'_>, b: Mat<'_>) -> Option<Vec<f32>> {
    products_on(unit(), parts, &[(factor, a, b)], false, UNFINISHED).map(|mut all| all.remove(0))
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug)]
enum Order {
    Rows,
    Columns,
    /// Neither rows nor columns are contiguous.
    Gaps,
}

/// A matrix and its memory.
struct Matrix {
    data: Vec<f32>,
    shape: [usize; 2],
    strides: [usize; 2],
}

impl Matrix {
    /// `value(row, col)` everywhere, NaN in the gaps.
    fn new([rows, cols]: [usize; 2], order: Order, value: impl Fn(usize, usize) -> f32) -> Self {
        let strides = match order {
            Order::Rows => [cols, 1],
            Order::Columns => [1, rows],
            Order::Gaps => [3 * cols + 2, 3],
        };
        let mut data = vec![f32::NAN; rows * strides[0] + cols * strides[1]];
        for row in 0..rows {
            for col in 0..cols {
                data[row * strides[0] + col * strides[1]] = value(row, col);
            }
        }
        Self { data, shape: [rows, cols], strides }
    }

    /// Random numbers that so many parts hold, of up to `binades` above and below 1.
    fn random(seed: u64, parts: Parts, shape: [usize; 2], order: Order, binades: f32) -> Self {
        let uniform = |seed| random(seed, (shape[0], shape[1])).and_then(|x| x.to_vec2::<f32>()).unwrap();
        let (values, exponents) = (uniform(seed), uniform(seed ^ 1));
        let mask = match parts {
            Parts::One => 0xffff_0000,
            Parts::Two => 0xffff_ff00,
        };
        Self::new(shape, order, |row, col| {
            let value = f32::from_bits(values[row][col].to_bits() & mask);
            value * (exponents[row][col] * binades).round().exp2()
        })
    }

    fn mat(&self) -> Mat<'_> {
        Mat::new(&self.data, self.shape, self.strides)
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.data[row * self.strides[0] + col * self.strides[1]])
    }
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Rows), Just(Order::Columns), Just(Order::Gaps)]
}

fn parts() -> impl Strategy<Value = Parts> {
    prop_oneof![Just(Parts::One), Just(Parts::Two)]
}

/// Bits, of which those of NaN do not matter.
fn bits_but_nan(values: &[f32]) -> Vec<Option<u32>> {
    values.iter().map(|x| (!x.is_nan()).then_some(x.to_bits())).collect()
}

/// The product against f64, against the plain unit, and in pools of 1, 2 and 3 threads.
fn check(parts: Parts, factor: f32, a: &Matrix, b: &Matrix) {
    let c = in_parts(parts, factor, a.mat(), b.mat()).expect("the parts hold all numbers");
    let plain =
        products_on(Plain, parts, &[(factor, a.mat(), b.mat())], false, UNFINISHED).unwrap().remove(0);
    assert!(bits_but_nan(&c) == bits_but_nan(&plain), "the units agree");
    let ([rows, steps], cols) = (a.shape, b.shape[1]);
    assert_eq!(c.len(), rows * cols);
    for (i, got) in c.iter().enumerate() {
        let terms = || (0..steps).map(|step| a.at(i / cols, step) * b.at(step, i % cols) * f64::from(factor));
        let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
        // Half an ulp for each addition, and for the factor; random errors come to the root of their number. Sums below
        // 2^-126 become zero, those of parts too.
        let tiny = (steps * parts.count().pow(2)) as f64 * 2f64.powi(-126);
        let most = ((steps as f64).sqrt() + 1.0) * 2f64.powi(-23) * size + tiny;
        let error = (f64::from(*got) - exact).abs();
        assert!(error <= most, "[{}, {}]: {got}, exactly {exact}", i / cols, i % cols);
    }
    let again = || -> Result<Vec<Tensor>> {
        let c = in_parts(parts, factor, a.mat(), b.mat()).unwrap();
        Ok(vec![Tensor::from_vec(c, rows * cols, &Device::Cpu)?])
    };
    same_bits_in_every_pool(again).unwrap();
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn products_of_any_shape_and_order(
        (m, k, n) in (1..=200usize, 1..=200usize, 1..=200usize),
        (a_order, b_order) in (order(), order()),
        seed in any::<u64>(),
        parts in parts(),
        binades in prop_oneof![Just(0f32), Just(8.0), Just(58.0)],
    ) {
        let a = Matrix::random(seed, parts, [m, k], a_order, binades);
        let b = Matrix::random(seed ^ 2, parts, [k, n], b_order, binades);
        check(parts, 1.0, &a, &b);
    }

    /// Subnormal numbers, infinities and NaN among them.
    #[test]
    fn the_units_agree_on_any_bits(
        (m, k, n) in (1..=40usize, 1..=70usize, 1..=40usize),
        patterns in proptest::collection::vec(any::<u16>(), 40 * 70),
    ) {
        let value = |index: usize| {
            let value = f32::from_bits(u32::from(patterns[index % patterns.len()]) << 16);
            // Payloads of NaN are not in question, and most sums would be NaN.
            if value.is_nan() && !index.is_multiple_of(64) { 1.0 } else { value }
        };
        let a = Matrix::new([m, k], Order::Rows, |row, col| value(row * k + col));
        let b = Matrix::new([k, n], Order::Columns, |row, col| value(1 + row * n + col));
        let c = on_tiles(0.5, a.mat(), b.mat()).unwrap();
        let plain = products_on(Plain, Parts::One, &[(0.5, a.mat(), b.mat())], false, UNFINISHED).unwrap();
        prop_assert_eq!(bits_but_nan(&c), bits_but_nan(&plain[0]));
    }
}

/// More steps than are summed at once, and a factor that rounds.
#[test]
fn long_sums_are_cut_and_added() {
    for parts in [Parts::One, Parts::Two] {
        let at_once = TILES_AT_ONCE / parts.count() * STEPS;
        for k in [at_once, 2 * at_once + 33] {
            let a = Matrix::random(1, parts, [35, k], Order::Rows, 3.0);
            let b = Matrix::random(2, parts, [k, 18], Order::Rows, 3.0);
            check(parts, 0.7, &a, &b);
        }
    }
}

/// Tasks of several blocks of rows, the last of them shorter.
#[test]
fn many_rows_are_cut_into_tasks() {
    for parts in [Parts::One, Parts::Two] {
        let a = Matrix::random(1, parts, [2 * 32 * BLOCK + 7, 5], Order::Columns, 3.0);
        let b = Matrix::random(2, parts, [5, 3], Order::Rows, 3.0);
        check(parts, -2.0, &a, &b);
    }
}

/// Products that share a left operand, a right one, or nothing, and of f32 also those with long sums: each as if it were alone,
/// and finished with its own number.
#[test]
fn several_products_at_once() {
    let [a, other] = [1, 2].map(|seed| Matrix::random(seed, Parts::One, [300, 40], Order::Rows, 3.0));
    let [b, wide] =
        [(3, 20), (4, 50)].map(|(seed, cols)| Matrix::random(seed, Parts::One, [40, cols], Order::Rows, 3.0));
    let all = [
        (1.0, a.mat(), b.mat()),
        (0.5, a.mat(), wide.mat()),
        (2.0, other.mat(), b.mat()),
        (1.0, b.mat().t(), wide.mat()),
    ];
    let finish = |number: usize, first: usize, cols: usize, rows: &mut [f32]| {
        for (row, values) in rows.chunks_exact_mut(cols).enumerate() {
            values.iter_mut().for_each(|x| *x += ((first + row) * 10 + number) as f32);
        }
    };
    let cols = |number: usize| all[number].2.cols;
    let finish_rows =
        |number: usize, first: usize, rows: &mut [f32]| finish(number, first, cols(number), rows);
    for rounded in [false, true] {
        let together = products_on(unit(), Parts::One, &all, rounded, &finish_rows).unwrap();
        for (number, ((factor, a, b), found)) in all.into_iter().zip(together).enumerate() {
            let mut alone = on_tiles(factor, a, b).unwrap();
            if rounded {
                round_rows(&mut alone, NumericFormat::Bf16);
            }
            finish(number, 0, b.cols, &mut alone);
            assert!(found == alone, "product {number}");
        }
    }
    let [tall, taller] = [(5, 300), (6, 40)]
        .map(|(seed, cols)| Matrix::random(seed, Parts::One, [400, cols], Order::Rows, 3.0));
    let long = [(1.0, taller.mat().t(), tall.mat()), (0.5, taller.mat().t(), taller.mat())];
    let empty = [(1.0, Mat::row_major(&[], 3, 0), Mat::row_major(&[], 0, 0))];
    for all in [&all[..], &long, &empty] {
        let finish_rows = |number: usize, first: usize, rows: &mut [f32]| {
            finish(number, first, all[number].2.cols, rows);
        };
        for (number, found) in f32_products(all, true, &finish_rows).iter().enumerate() {
            let mut alone = f32_products(&all[number..=number], false, UNFINISHED).remove(0);
            round_rows(&mut alone, NumericFormat::Bf16);
            finish(number, 0, all[number].2.cols.max(1), &mut alone);
            assert!(*found == alone, "product {number} of {}", all.len());
        }
    }
}

/// Operands that tasks pack some rows of at a time, the last ones fewer than a tile has.
#[test]
fn products_over_rows_are_those_of_transposed_operands() {
    for (rows, parts) in [1, 96, 100, 2200].into_iter().flat_map(|n| [(n, Parts::One), (n, Parts::Two)]) {
        let [a, other, b] = [(1, 50), (2, 7), (3, 33)]
            .map(|(seed, cols)| Matrix::random(seed, parts, [rows, cols], Order::Rows, 3.0));
        let [a_strips, other_strips, b_strips] = [(&a, Side::Left), (&other, Side::Left), (&b, Side::Right)]
            .map(|(matrix, side)| {
                let [rows, cols] = matrix.shape;
                let packed = OverRows::new(side, parts, rows, cols);
                let starts: Vec<_> = (0..rows).step_by(96).collect();
                starts.into_par_iter().rev().for_each(|start| {
                    let part = start..rows.min(start + 96);
                    let values = &matrix.data[part.start * cols..part.end * cols];
                    // SAFETY: every row is in one part.
                    unsafe { packed.pack(part, values) };
                });
                // SAFETY: all rows are in some part.
                unsafe { packed.packed() }
            });
        let found = packed_products(unit(), &[(1.0, &a_strips, &b_strips), (1.0, &other_strips, &b_strips)]);
        for (found, a) in found.iter().zip([&a, &other]) {
            let expected = in_parts(parts, 1.0, a.mat().t(), b.mat()).unwrap();
            assert!(*found == expected, "{rows} rows");
        }
    }
}

#[test]
fn empty_products_are_zeros() {
    for [m, k, n] in [[0, 3, 2], [2, 3, 0], [2, 0, 3], [0, 0, 0]] {
        let (a, b) = (vec![1.0; m * k], vec![1.0; k * n]);
        let c = on_tiles(1.0, Mat::row_major(&a, m, k), Mat::row_major(&b, k, n));
        assert_eq!(c, Some(vec![0.0; m * n]));
    }
}

/// One number anywhere that the parts do not hold, in either operand.
#[test]
fn other_numbers_are_refused() {
    let [m, k, n] = [33, 40, 35];
    let refused = |parts, strange: f32, [row, col]: [usize; 2], order| {
        let with = |shape, at: [usize; 2], value| {
            Matrix::new(shape, order, move |i, j| if [i, j] == at { value } else { 1.0 })
        };
        let [a, b] = [with([m, k], [row, col], 1.0), with([k, n], [col, row], 1.0)];
        assert!(in_parts(parts, 1.0, a.mat(), b.mat()).is_some());
        let [strange_a, strange_b] = [with([m, k], [row, col], strange), with([k, n], [col, row], strange)];
        for (a, b) in [(&strange_a, &b), (&a, &strange_b)] {
            let found = in_parts(parts, 1.0, a.mat(), b.mat());
            assert!(found.is_none(), "{strange} at {row}, {col}, {order:?}, {parts:?}");
        }
    };
    let after_one = |bits: [u32; 2]| f32::from_bits(1f32.to_bits() | 1 << bits[0] | 1 << bits[1]);
    for place in [[0, 0], [32, 0], [0, 39], [32, 39], [17, 31], [15, 32]] {
        for order in [Order::Rows, Order::Columns, Order::Gaps] {
            refused(Parts::One, after_one([0, 0]), place, order);
            refused(Parts::One, after_one([15, 15]), place, order);
            // What is left of them has nine bits and more.
            refused(Parts::Two, after_one([14, 6]), place, order);
            refused(Parts::Two, after_one([14, 0]), place, order);
            // The last rounds to infinity.
            for strange in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7f7f_8000)] {
                refused(Parts::Two, strange, place, order);
            }
        }
    }
}

/// In one part all formats but those of more than 8 significant bits, in two all but that of more than 16.
#[test]
fn formats_are_held_by_their_significant_bits() {
    let values = random(1, 64 * 64).and_then(|x| (x * 100.0)?.to_vec1::<f32>()).unwrap();
    for format in NumericFormat::ALL {
        let expected = match format {
            NumericFormat::Fp32 => [false, false],
            NumericFormat::Tf32 | NumericFormat::Fp16 => [false, true],
            NumericFormat::Bf16 | NumericFormat::E4m3 | NumericFormat::E5m2 => [true; 2],
            NumericFormat::E3m2 | NumericFormat::E2m3 | NumericFormat::E2m1 => [true; 2],
            // Negative numbers are NaN in it.
            NumericFormat::E8m0 => [true, false],
            NumericFormat::Int8 | NumericFormat::Int4 | NumericFormat::Ternary => [true; 2],
        };
        let mut values = values.clone();
        numerics::round_slice(&mut values, format, Rounding::NEAREST_EVEN, Overflow::Saturate);
        let matrix = Mat::row_major(&values, 64, 64);
        let held = |parts| in_parts(parts, 1.0, matrix, matrix.t()).is_some();
        assert_eq!([Parts::One, Parts::Two].map(held), expected, "{format}");
    }
}
