//! Products by every kernel that the CPU can run against sums in f64.

use super::*;
use crate::matmul::Before;
use crate::row_tasks::{RowTask, RowUnit};
use crate::testing::*;
use candle_core::Tensor;
use proptest::prelude::*;

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug)]
enum Order {
    Rows,
    Columns,
    /// Neither the elements of a row nor those of a column are neighbours.
    Apart,
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Rows), Just(Order::Columns), Just(Order::Apart)]
}

/// Values for a matrix with a gap behind each row or column, and its strides.
fn matrix(seed: u64, [rows, cols]: [usize; 2], order: Order) -> (Vec<f32>, [usize; 2]) {
    let strides = match order {
        Order::Rows => [cols + 3, 1],
        Order::Columns => [1, rows + 1],
        Order::Apart => [2 * cols + 1, 2],
    };
    (values(seed, (rows - 1) * strides[0] + (cols - 1) * strides[1] + 1), strides)
}

fn values(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).and_then(|x| x.to_vec1()).expect("a vector on the CPU")
}

/// Floats between the rows of c.
const GAP: usize = 5;

/// The product into a matrix with gaps, which stay as they are.
fn run(kernel: Kernel, update: Update<'_>, a: Mat<'_>, b: Mat<'_>, threads: usize) -> Vec<f32> {
    run_all(kernel, &[(update, vec![(a, b)])], threads).remove(0)
}

/// Sums of products, each into a matrix of its own.
fn run_all(kernel: Kernel, sums: &[(Update<'_>, Vec<(Mat<'_>, Mat<'_>)>)], threads: usize) -> Vec<Vec<f32>> {
    let shape = |products: &[(Mat<'_>, Mat<'_>)]| [products[0].0.rows, products[0].1.cols];
    let stride = |products: &[(Mat<'_>, Mat<'_>)]| shape(products)[1] + GAP;
    let mut all: Vec<_> =
        sums.iter().map(|(_, products)| values(3, shape(products)[0] * stride(products))).collect();
    let mut targets = vec![];
    for ((update, products), c) in sums.iter().zip(&mut all) {
        let c = MatMut::strided(c, shape(products), stride(products));
        targets.push(Sum { c, update: *update, products: products.clone(), finish: None });
    }
    Products { kernel }.compute(&mut targets, threads);
    drop(targets);
    all
}

fn agrees(shape: [usize; 3], orders: [Order; 2], update: Update<'_>) {
    let [m, k, n] = shape;
    let ((a, a_strides), (b, b_strides)) = (matrix(1, [m, k], orders[0]), matrix(2, [k, n], orders[1]));
    let (a, b) = (Mat::new(&a, [m, k], a_strides), Mat::new(&b, [k, n], b_strides));
    for kernels in [Kernel::plain(), Kernel::fused()] {
        let mut of_first: Option<Vec<f32>> = None;
        for kernel in kernels {
            let c = run(kernel, update, a, b, 1);
            close_to_exact(&c, a, b, update);
            // Threads share elements, not sums.
            for threads in [2, 3, 7] {
                assert!(same_bits(&run(kernel, update, a, b, threads), &c), "{threads} threads change bits");
            }
            // Nor does the size of a tile touch them.
            assert!(same_bits(of_first.get_or_insert_with(|| c.clone()), &c), "the kernel changes bits");
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn close_to_exact(c: &[f32], a: Mat<'_>, b: Mat<'_>, update: Update<'_>) {
    let (stride, factor) = (b.cols + GAP, f64::from(update.factor));
    for (at, (&found, before)) in c.iter().zip(values(3, c.len())).enumerate() {
        let (row, col) = (at / stride, at % stride);
        if col >= b.cols {
            assert_eq!(found, before, "gap behind row {row}");
            continue;
        }
        let terms = (0..a.cols).map(|i| f64::from(a.get(row, i)) * f64::from(b.get(i, col)));
        let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), x| (sum + x, magnitude + x.abs()));
        let start = match update.before {
            Before::Nothing => 0.0,
            Before::There => f64::from(before),
            Before::Other(mat) => f64::from(mat.get(row, col)),
        };
        let exact = start + factor * sum;
        // Errors of additions add up like a random walk, at the magnitude of the terms' magnitudes.
        let additions = (a.cols as f64 + 1.0).sqrt();
        let bound = f64::from(f32::EPSILON) * additions * (magnitude * factor.abs() + start.abs());
        assert!((f64::from(found) - exact).abs() <= bound, "[{row}, {col}] is {found}, exactly {exact}");
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_shape_and_order(
        shape in [1usize..150, 1usize..600, 1usize..120],
        orders in [order(), order()],
        before in 0..3,
        factor in prop_oneof![Just(1f32), -2f32..2.0],
    ) {
        let [m, _, n] = shape;
        let other = values(4, m * (n + 2));
        let before = match before {
            0 => Before::Nothing,
            1 => Before::There,
            _ => Before::Other(Mat::new(&other, [m, n], [n + 2, 1])),
        };
        agrees(shape, orders, Update { factor, before });
    }

    /// Projections of one input, their gradients, and the gradient of the input.
    #[test]
    fn together_and_one_by_one_give_the_same_bits(
        (n, d_in) in (1usize..1200, 1usize..90),
        widths in prop::collection::vec(1usize..90, 1..4),
        others: bool,
    ) {
        let update = Update::OVERWRITE;
        let (x, residual) = (values(1, n * d_in), values(2, n * d_in));
        let x = Mat::row_major(&x, n, d_in);
        let ws: Vec<_> = widths.iter().map(|width| values(3, width * d_in)).collect();
        let dys: Vec<_> = widths.iter().map(|width| values(4, n * width)).collect();
        let w = |i: usize| Mat::row_major(&ws[i], widths[i], d_in);
        let dy = |i: usize| Mat::row_major(&dys[i], n, widths[i]);
        let all = 0..widths.len();
        let forward: Vec<_> = all.clone().map(|i| (update, vec![(x, w(i).t())])).collect();
        let mut gradients: Vec<_> = all.clone().map(|i| (update, vec![(dy(i).t(), x)])).collect();
        gradients.push((update, vec![(Mat::row_major(&residual, n, d_in).t(), dy(0))]));
        let before = if others { Before::Other(Mat::row_major(&residual, n, d_in)) } else { Before::Nothing };
        let input = vec![(Update { before, ..update }, all.map(|i| (dy(i), w(i))).collect::<Vec<_>>())];
        for kernel in Kernel::all() {
            for sums in [&forward, &gradients, &input] {
                let one_by_one: Vec<_> = sums.iter().flat_map(|sum| run_all(kernel, std::slice::from_ref(sum), 1)).collect();
                for threads in [1, 2, 3, 5] {
                    let together = run_all(kernel, sums, threads);
                    prop_assert!(together.iter().zip(&one_by_one).all(|(one, other)| same_bits(one, other)));
                }
            }
        }
    }
}

#[test]
fn a_sum_of_products_adds_to_another_matrix() {
    let (a, b, before) = (values(1, 50 * 600), values(2, 600 * 40), values(3, 50 * 40));
    let (a, b) = (Mat::row_major(&a, 50, 600), Mat::row_major(&b, 600, 40));
    let update = Update { factor: 0.5, before: Before::Other(Mat::row_major(&before, 50, 40)) };
    let halves = |cut: usize| {
        let (left, right) = (a.window([0, 0], [50, cut]), a.window([0, cut], [50, 600]));
        vec![(left, b.rows(0, cut)), (right, b.rows(cut, 600 - cut))]
    };
    for kernel in Kernel::all() {
        for threads in [1, 3] {
            let found = run_all(kernel, &[(update, halves(301))], threads);
            close_to_exact(&found[0], a, b, update);
        }
    }
}

#[test]
fn around_the_sizes_of_blocks() {
    for shape in [
        [ROWS, TERMS, 16],
        [ROWS + 1, TERMS + 1, 17],
        [2 * ROWS - 1, 2 * TERMS - 1, 15],
        [13, 3, 1000],
        [900, 5, 33],
        [12, TERMS + 3, PACKED / TERMS + 1],
        [12, PACKED / WIDE + 5, WIDE],
    ] {
        for orders in [[Order::Rows, Order::Columns], [Order::Columns, Order::Rows]] {
            agrees(shape, orders, Update::ACCUMULATE);
        }
    }
}

/// What fills up a tile must not reach the result, whatever it is multiplied by.
#[test]
fn padding_stays_apart_from_infinities() {
    let (a, b) = (vec![f32::INFINITY; 7 * 5], vec![2.0; 5 * 9]);
    let (a, b) = (Mat::row_major(&a, 7, 5), Mat::row_major(&b, 5, 9));
    for kernel in Kernel::all() {
        let c = run(kernel, Update::OVERWRITE, a, b, 1);
        assert!(c.chunks_exact(9 + GAP).all(|row| row[..9].iter().all(|&x| x == f32::INFINITY)));
        assert_eq!(c[9..9 + GAP], values(3, 9 + GAP)[9..]);
    }
}

#[test]
fn what_is_smaller_than_a_tile_or_on_an_unknown_cpu_is_left_to_others() {
    let ones = vec![1.0; 12 * 32];
    let tell = |rows, cols| {
        let (mut c, b) = (vec![0.0; rows * cols], Mat::row_major(&ones[..2 * cols], 2, cols));
        let c = MatMut::row_major(&mut c, rows, cols);
        let pair = (Mat::row_major(&ones[..rows * 2], rows, 2), b);
        products(
            &mut [Sum { c, update: Update::OVERWRITE, products: vec![pair], finish: None }],
            Parallelism::None,
        )
    };
    assert_eq!(tell(12, 32), Kernel::fast().is_some());
    assert!(!tell(11, 32) && !tell(12, 15));
}

/// Two products one after another, and a third of the same left operand.
#[test]
fn rows_through_several_products_have_the_bits_of_one_after_another() -> candle_core::Result<()> {
    let (n, d, between) = (333, TERMS + 30, 50);
    let (x, inward, outward, aside) =
        (values(1, n * d), values(2, d * between), values(4, between * d), values(5, d * 70));
    let right = [
        Mat::row_major(&inward, d, between),
        Mat::row_major(&outward, between, d),
        Mat::row_major(&aside, 70, d).t(),
    ];
    let x = Mat::row_major(&x, n, d);
    let onto = Update { before: Before::Other(x), ..Update::OVERWRITE };
    for kernel in Kernel::all() {
        let without_gaps = |c: Vec<f32>, cols: usize| -> Vec<f32> {
            c.chunks(cols + GAP).flat_map(|row| &row[..cols]).copied().collect()
        };
        let hidden = without_gaps(run(kernel, Update::OVERWRITE, x, right[0], 1), between);
        let hidden = Mat::row_major(&hidden, n, between);
        let expected = [
            without_gaps(run(kernel, onto, hidden, right[1], 1), d),
            without_gaps(run(kernel, Update::OVERWRITE, x, right[2], 1), 70),
        ];
        same_bits_in_every_pool(|| {
            // SAFETY: both products of a task write all its rows.
            let (found, starts) = unsafe {
                crate::matmul::written(n, [d, 70], |results| {
                    let task = |task: RowTask<'_, 2, 1>| {
                        let RowTask {
                            rows, results: [mut y, mut z], scratch: [hidden], mut products, ..
                        } = task;
                        let mut c = MatMut::row_major(hidden, rows.len(), between);
                        let mut both = [(0, &mut c, Update::OVERWRITE), (2, &mut z, Update::OVERWRITE)];
                        let x = x.rows(rows.start, rows.len());
                        products.multiply(x, &mut both);
                        let hidden = Mat::row_major(hidden, rows.len(), between);
                        let onto = Update { before: Before::Other(x), ..Update::OVERWRITE };
                        products.multiply(hidden, &mut [(1, &mut y, onto)]);
                        rows.start
                    };
                    RowUnit::F32(kernel).with_packed(
                        &right,
                        |_, _| {},
                        |right| right.by_rows(results, [between], task),
                    )
                })
            };
            assert!(
                starts.is_sorted() && found.iter().zip(&expected).all(|(one, other)| same_bits(one, other))
            );
            found.into_iter().map(|x| Tensor::new(x, &candle_core::Device::Cpu)).collect()
        })?;
    }
    Ok(())
}

#[test]
fn strips_from_a_row_on() {
    let (a, b) = (values(1, 30 * 20), values(2, 50 * 40));
    let (a, b) = (Mat::row_major(&a, 30, 20), Mat::row_major(&b, 50, 40));
    for kernel in Kernel::all() {
        let [mut packed, mut spare] = [Buffer::new(), Buffer::new()];
        let mut c = values(3, 30 * (40 + GAP));
        let update = Update { factor: 0.5, before: Before::There };
        let strips = kernel.pack_right(b, &mut packed).from(17);
        kernel.multiply(
            &mut MatMut::strided(&mut c, [30, 40], 40 + GAP),
            update,
            a,
            strips,
            Skip::Nothing,
            &mut spare,
        );
        close_to_exact(&c, a, b.rows(17, 20), update);
    }
}

/// Whatever is skipped changes nothing that is wanted.
#[test]
fn triangles() {
    let [rows, terms, cols] = [45, 70, 80];
    let (full, b) = (values(1, rows * terms), values(2, terms * cols));
    let stride = cols + GAP;
    for (kernel, diagonal) in Kernel::all().into_iter().flat_map(|kernel| [-9, 0, 7, 30].map(|d| (kernel, d)))
    {
        let above = |i: usize, k: usize| k.cast_signed() > i.cast_signed() + diagonal;
        let below = |i: usize, k: usize| i.cast_signed() > k.cast_signed() + diagonal;
        for skip in [Skip::ResultAbove(diagonal), Skip::LeftAbove(diagonal), Skip::LeftBelow(diagonal)] {
            let is_zero = |i: usize, k: usize| match skip {
                Skip::Nothing | Skip::ResultAbove(_) => false,
                Skip::LeftAbove(_) => above(i, k),
                Skip::LeftBelow(_) => below(i, k),
            };
            let with_zeros = |(at, a): (usize, &f32)| if is_zero(at / terms, at % terms) { 0.0 } else { *a };
            let a: Vec<_> = full.iter().enumerate().map(with_zeros).collect();
            // By rows, by columns, and by neither.
            let by_column: Vec<_> = (0..rows * terms).map(|at| a[at % rows * terms + at / rows]).collect();
            let apart: Vec<_> = a.iter().flat_map(|&a| [a, f32::NAN]).collect();
            for a in [
                Mat::row_major(&a, rows, terms),
                Mat::new(&by_column, [rows, terms], [1, rows]),
                Mat::new(&apart, [rows, terms], [2 * terms, 2]),
            ] {
                let [mut packed, mut spare] = [Buffer::new(), Buffer::new()];
                let strips = kernel.pack_right(Mat::row_major(&b, terms, cols), &mut packed);
                let [mut all, mut wanted] = [(); 2].map(|()| values(3, rows * stride));
                for (c, skip) in [(&mut all, Skip::Nothing), (&mut wanted, skip)] {
                    let c = &mut MatMut::strided(c, [rows, cols], stride);
                    kernel.multiply(c, Update::ACCUMULATE, a, strips, skip, &mut spare);
                }
                let ignored =
                    |at: usize| matches!(skip, Skip::ResultAbove(_)) && above(at / stride, at % stride);
                for (at, (one, other)) in all.iter().zip(&wanted).enumerate() {
                    assert!(
                        one.to_bits() == other.to_bits() || ignored(at),
                        "{diagonal}, {at}: {one} is not {other}"
                    );
                }
            }
        }
    }
}
