//! Products by every kernel that the CPU can run against sums in f64.

use super::*;
use crate::testing::*;
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
fn run(product: Product, a: Mat<'_>, b: Mat<'_>, threads: usize) -> Vec<f32> {
    let stride = b.cols + GAP;
    let mut c = values(3, a.rows * stride);
    product.compute(&mut MatMut::strided(&mut c, [a.rows, b.cols], stride), a, b, threads);
    c
}

fn agrees(shape: [usize; 3], orders: [Order; 2], update: Update) {
    let [m, k, n] = shape;
    let ((a, a_strides), (b, b_strides)) = (matrix(1, [m, k], orders[0]), matrix(2, [k, n], orders[1]));
    let (a, b) = (Mat::new(&a, [m, k], a_strides), Mat::new(&b, [k, n], b_strides));
    for kernel in Kernel::all() {
        let product = Product { kernel, update };
        let c = run(product, a, b, 1);
        close_to_exact(&c, a, b, update);
        // Threads share elements, not sums.
        for threads in [2, 3, 7] {
            let shared = run(product, a, b, threads);
            assert!(
                shared.iter().zip(&c).all(|(d, c)| d.to_bits() == c.to_bits()),
                "{threads} threads change bits"
            );
        }
    }
}

fn close_to_exact(c: &[f32], a: Mat<'_>, b: Mat<'_>, update: Update) {
    let (stride, factor) = (b.cols + GAP, f64::from(update.factor));
    for (at, (&found, before)) in c.iter().zip(values(3, c.len())).enumerate() {
        let (row, col) = (at / stride, at % stride);
        if col >= b.cols {
            assert_eq!(found, before, "gap behind row {row}");
            continue;
        }
        let terms = (0..a.cols).map(|i| f64::from(a.get(row, i)) * f64::from(b.get(i, col)));
        let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), x| (sum + x, magnitude + x.abs()));
        let start = if update.add { f64::from(before) } else { 0.0 };
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
        add: bool,
        factor in prop_oneof![Just(1f32), -2f32..2.0],
    ) {
        agrees(shape, orders, Update { factor, add });
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
        let c = run(Product { kernel, update: Update::OVERWRITE }, a, b, 1);
        assert!(c.chunks_exact(9 + GAP).all(|row| row[..9].iter().all(|&x| x == f32::INFINITY)));
        assert_eq!(c[9..9 + GAP], values(3, 9 + GAP)[9..]);
    }
}

#[test]
fn what_is_smaller_than_a_tile_or_on_an_unknown_cpu_is_left_to_others() {
    let ones = vec![1.0; 12 * 32];
    let tell = |rows, cols| {
        let (mut c, b) = (vec![0.0; rows * cols], Mat::row_major(&ones[..2 * cols], 2, cols));
        let mut c = MatMut::row_major(&mut c, rows, cols);
        product(&mut c, Update::OVERWRITE, Mat::row_major(&ones[..rows * 2], rows, 2), b, Parallelism::None)
    };
    assert_eq!(tell(12, 32), Kernel::fast().is_some());
    assert!(!tell(11, 32) && !tell(12, 15));
}

#[test]
fn parts_are_equal_and_cover_all() {
    let update = Update::OVERWRITE;
    let product = Product { kernel: Kernel::all()[0], update };
    for (rows, cols, threads, parts) in [(688, 256, 2, 2), (256, 688, 2, 2), (768, 256, 16, 16), (6, 8, 8, 1)]
    {
        let [part_rows, part_cols] = product.share([rows, cols], threads);
        let found = rows.div_ceil(part_rows) * cols.div_ceil(part_cols);
        assert_eq!(found, parts, "{rows} x {cols}, {threads} threads");
    }
}

#[test]
fn strips_from_a_row_on() {
    let (a, b) = (values(1, 30 * 20), values(2, 50 * 40));
    let (a, b) = (Mat::row_major(&a, 30, 20), Mat::row_major(&b, 50, 40));
    for kernel in Kernel::all() {
        let [mut packed, mut spare] = [Buffer::new(), Buffer::new()];
        let mut c = values(3, 30 * (40 + GAP));
        let update = Update { factor: 0.5, add: true };
        let strips = kernel.pack_right(b, &mut packed).from(17);
        kernel.multiply(&mut MatMut::strided(&mut c, [30, 40], 40 + GAP), update, a, strips, &mut spare);
        close_to_exact(&c, a, b.rows(17, 20), update);
    }
}
