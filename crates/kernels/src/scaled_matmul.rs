//! Products of quantised operands: sums in f32, scales applied to the sums.
//!
//! Where all of a sum has one scale, the product is one of plain matrices, which AMX computes if it can
//! (`bf16_matmul`). Where blocks of it have scales of their own, tasks take their lines past one block after another
//! (`row_tasks`).

use crate::bf16_matmul::{self, Finish, Product};
use crate::buffers::fill_one;
use crate::matmul::{self, Mat, MatMut, Update, written};
use crate::round::round_rows;
use crate::row_tasks::{Operands, RowTask, RowUnit};
use candle_core::{Device, Result, Tensor};
use numerics::{Contraction, NumericFormat, Operand, OuterScale, multiversion};

/// One factor of a product, as lines (the index that remains) by steps (the index summed over).
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    operand: &'a Operand,
    rows: usize,
    cols: usize,
    contraction: Contraction,
}

impl<'a> Factor<'a> {
    /// The operand as a row-major matrix \[rows, cols\] of which `contraction` is summed over.
    pub(crate) fn new(operand: &'a Operand, rows: usize, cols: usize, contraction: Contraction) -> Self {
        Self { operand, rows, cols, contraction }
    }

    /// Its values as lines by steps.
    pub(crate) fn mat(&self) -> Mat<'a> {
        let mat = Mat::row_major(&self.operand.values, self.rows, self.cols);
        match self.contraction {
            Contraction::Columns => mat,
            Contraction::Rows => mat.t(),
        }
    }

    /// Lines of a, steps of both, lines of b.
    pub(crate) fn product_shape(a: Self, b: Self) -> [usize; 3] {
        let (a, b) = (a.mat(), b.mat());
        [a.rows, a.cols, b.rows]
    }

    /// What the operand stands for, exactly, as an f64 tensor of lines by steps.
    pub(crate) fn decoded(&self) -> Result<Tensor> {
        let (lines, steps) = (self.mat().rows, self.mat().cols);
        let block = self.block().unwrap_or(steps);
        let at = |line: usize, step: usize| {
            let index = match self.contraction {
                Contraction::Columns => line * self.cols + step,
                Contraction::Rows => step * self.cols + line,
            };
            f64::from(self.operand.values[index]) * f64::from(self.scale(line, step / block))
        };
        let values: Vec<f64> = (0..lines)
            .flat_map(|line| (0..steps).map(move |step| (line, step)))
            .map(|(l, s)| at(l, s))
            .collect();
        Tensor::from_vec(values, (lines, steps), &Device::Cpu)
    }

    /// The scales of all lines, which have no blocks.
    pub(crate) fn line_scales(&self) -> Vec<f32> {
        (0..self.mat().rows).map(|line| self.scale(line, 0)).collect()
    }

    /// The scale of a line in a block of steps.
    fn scale(&self, line: usize, block: usize) -> f32 {
        match &self.operand.outer {
            OuterScale::Uniform(scale) => *scale,
            OuterScale::PerLine(scales) => scales[line],
            OuterScale::PerBlock { size, scales } => {
                let blocks = self.mat().cols.div_ceil(*size);
                scales[line * blocks + block]
            }
        }
    }

    /// Steps that share a scale, where not all do.
    fn block(&self) -> Option<usize> {
        match &self.operand.outer {
            OuterScale::Uniform(_) | OuterScale::PerLine(_) => None,
            OuterScale::PerBlock { size, .. } => Some(*size),
        }
    }
}

/// Lines of the first factor that a task multiplies: enough to keep the GEMM busy, few enough to share out.
const LINES_PER_TASK: usize = 64;

/// Two factors of a product.
pub(crate) type Pair<'a> = (Factor<'a>, Factor<'a>);

/// a bᵀ over the steps that both have, for each pair: \[lines of a, lines of b\], row-major, on all threads of the current
/// pool, rounded to the format that `output` gives for the pair's number. Pairs that share a factor gain by being multiplied
/// together.
///
/// # Errors
/// When the blocks of the two factors have different sizes.
pub(crate) fn scaled_products(
    pairs: &[Pair<'_>],
    output: impl Fn(usize) -> NumericFormat + Sync,
) -> Result<Vec<Vec<f32>>> {
    scaled_products_by(bf16_matmul::products, pairs, output)
}

/// [`scaled_products`], with `products` to multiply plain matrices, as [`bf16_matmul::products`].
fn scaled_products_by(
    products: impl Fn(&[Product<'_>], bool, Finish<'_>) -> Vec<Vec<f32>>,
    pairs: &[Pair<'_>],
    output: impl Fn(usize) -> NumericFormat + Sync,
) -> Result<Vec<Vec<f32>>> {
    if !pairs.iter().any(|(a, b)| a.block().is_some() || b.block().is_some()) {
        return Ok(unblocked(products, pairs, output));
    }
    let one = |(number, pair): (usize, &Pair<'_>)| {
        let format = output(number);
        match (pair.0.block(), pair.1.block()) {
            (None, None) => Ok(unblocked(&products, &[*pair], |_| format).swap_remove(0)),
            (Some(size), None) | (None, Some(size)) => Ok(blocked(*pair, size, format)),
            (Some(size), Some(other)) if size == other => Ok(blocked(*pair, size, format)),
            (Some(size), Some(other)) => {
                candle_core::bail!("blocks of {size} and of {other} in one product")
            }
        }
    };
    pairs.iter().enumerate().map(one).collect()
}

/// The product in `output` when every line has a scale for each block of steps.
fn blocked((a, b): Pair<'_>, block: usize, output: NumericFormat) -> Vec<f32> {
    let (left, right) = (a.mat(), b.mat().t());
    let (cols, steps) = (right.cols, left.cols);
    if steps == 0 || cols == 0 {
        return vec![0.0; left.rows * cols];
    }
    let blocks: Vec<_> = (0..steps).step_by(block).map(|start| start..steps.min(start + block)).collect();
    let of_b = |block| (0..cols).map(|line| b.scale(line, block)).collect();
    let of_b: Vec<Vec<f32>> = (0..blocks.len()).map(of_b).collect();
    let sum_blocks = |first: usize, c: &mut [f32], sums: &mut [f32], multiply: &mut Multiply<'_>| {
        for (block, of_b) in of_b.iter().enumerate() {
            let steps = &blocks[block];
            let part = left.window([first, steps.start], [c.len() / cols, steps.len()]);
            multiply(block, part, &mut MatMut::row_major(sums, part.rows, cols));
            for (line, (c, sums)) in c.chunks_exact_mut(cols).zip(sums.chunks_exact(cols)).enumerate() {
                let of_a = a.scale(first + line, block);
                if block == 0 {
                    write_scaled(c, sums, of_a, of_b);
                } else {
                    add_scaled(c, sums, of_a, of_b);
                }
            }
        }
        round_rows(c, output);
    };
    let parts: Vec<_> = blocks.iter().map(|steps| right.rows(steps.start, steps.len())).collect();
    // What bf16 does not hold is found while it is packed.
    let Some(unit) = RowUnit::new(left.rows, &parts, Operands::Bf16) else {
        return fill_one(left.rows * cols, LINES_PER_TASK * cols, |task, c| {
            let mut sums = vec![0.0; c.len()];
            sum_blocks(task * LINES_PER_TASK, c, &mut sums, &mut |block, part, sums| {
                matmul::update(sums, Update::OVERWRITE, part, parts[block]);
            });
        });
    };
    let task = |task: RowTask<'_, 1, 1>| {
        let RowTask { rows, results: [mut c], scratch: [sums], mut products, .. } = task;
        sum_blocks(rows.start, c.elements(), sums, &mut |block, part, sums| {
            products.multiply(part, &mut [(block, sums, Update::OVERWRITE)]);
        });
    };
    // SAFETY: tasks write all rows of the result.
    let ([c], _) = unsafe {
        written(left.rows, [cols], |results| {
            unit.with_packed(&parts, |_, _| {}, |right| right.by_rows(results, [cols], task))
        })
    };
    c
}

/// Multiplies some lines of a block of steps of the left factor with that block of the right one.
type Multiply<'a> = dyn FnMut(usize, Mat<'_>, &mut MatMut<'_>) + 'a;

multiversion! {
    /// c ← c of_a of_b, of a line and each of b.
    pub(crate) fn scale(c: &mut [f32], of_a: f32, of_b: &[f32]) {
        for (c, of_b) in c.iter_mut().zip(of_b) {
            *c *= of_a * of_b;
        }
    }

    /// c ← sum of_a of_b, of a line and each of b.
    fn write_scaled(c: &mut [f32], sums: &[f32], of_a: f32, of_b: &[f32]) {
        for ((c, sum), of_b) in c.iter_mut().zip(sums).zip(of_b) {
            *c = sum * (of_a * of_b);
        }
    }

    /// c ← c + sum of_a of_b, of a line and each of b.
    fn add_scaled(c: &mut [f32], sums: &[f32], of_a: f32, of_b: &[f32]) {
        for ((c, sum), of_b) in c.iter_mut().zip(sums).zip(of_b) {
            *c += sum * (of_a * of_b);
        }
    }
}

/// The products in their outputs when every line has one scale.
fn unblocked(
    products: impl Fn(&[Product<'_>], bool, Finish<'_>) -> Vec<Vec<f32>>,
    pairs: &[Pair<'_>],
    output: impl Fn(usize) -> NumericFormat + Sync,
) -> Vec<Vec<f32>> {
    // One scale for each line of a product is that of its result; others are left to the end.
    let factor = |(a, b): &Pair<'_>| match (&a.operand.outer, &b.operand.outer) {
        (OuterScale::Uniform(of_a), OuterScale::Uniform(of_b)) => Some(of_a * of_b),
        _ => None,
    };
    let of_lines =
        |pair: &Pair<'_>| -> Vec<f32> { if factor(pair).is_some() { vec![] } else { pair.1.line_scales() } };
    let of_lines: Vec<_> = pairs.iter().map(of_lines).collect();
    let all: Vec<Product<'_>> =
        pairs.iter().map(|pair| (factor(pair).unwrap_or(1.0), pair.0.mat(), pair.1.mat().t())).collect();
    let rounded = of_lines
        .iter()
        .enumerate()
        .all(|(number, of_b)| of_b.is_empty() && output(number) == NumericFormat::Bf16);
    products(&all, rounded, &|number, first, rows| {
        let of_b = &of_lines[number];
        if !of_b.is_empty() {
            for (line, row) in rows.chunks_exact_mut(of_b.len()).enumerate() {
                scale(row, pairs[number].0.scale(first + line, 0), of_b);
            }
        }
        if !rounded {
            round_rows(rows, output(number));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16_matmul::tests::unit;
    use crate::bf16_matmul::{Parts, f32_products, products_on};
    use crate::testing::*;
    use numerics::{Overflow, QuantSpec, Scaling};
    use proptest::prelude::*;

    /// What operands of recipes are, and whether bf16 holds it.
    const OPERANDS: [(NumericFormat, Scaling, bool); 12] = [
        (NumericFormat::Bf16, Scaling::None, true),
        (NumericFormat::E4m3, Scaling::Tensor, true),
        (NumericFormat::E5m2, Scaling::Row, true),
        (NumericFormat::E4m3, Scaling::Mx, true),
        (NumericFormat::E3m2, Scaling::Mx, true),
        (NumericFormat::Int8, Scaling::Mx, true),
        (NumericFormat::E2m1, Scaling::Nvfp4, true),
        (NumericFormat::Int8, Scaling::Row, true),
        (NumericFormat::Int4, Scaling::Tensor, true),
        (NumericFormat::Ternary, Scaling::Absmean, true),
        (NumericFormat::Fp16, Scaling::None, false),
        (NumericFormat::Tf32, Scaling::None, false),
    ];

    /// A matrix of so many lines by steps, laid out as `contraction` says, and quantised.
    fn operand(seed: u64, lines: usize, steps: usize, contraction: Contraction, index: usize) -> Operand {
        let (format, scaling, _) = OPERANDS[index];
        let (rows, cols) = shape(lines, steps, contraction);
        let values = random(seed, rows * cols).and_then(|x| x.to_vec1::<f32>()).unwrap();
        let spec = QuantSpec { scaling, overflow: Overflow::Saturate, ..QuantSpec::unscaled(format) };
        numerics::quantize(&values, rows, cols, contraction, &spec, 0, None).unwrap()
    }

    fn shape(lines: usize, steps: usize, contraction: Contraction) -> (usize, usize) {
        match contraction {
            Contraction::Columns => (lines, steps),
            Contraction::Rows => (steps, lines),
        }
    }

    fn contraction() -> impl Strategy<Value = Contraction> {
        prop_oneof![Just(Contraction::Columns), Just(Contraction::Rows)]
    }

    /// Scales for blocks of steps on one side or both, with enough lines for tasks of rows and with fewer, and more columns
    /// than are packed together.
    #[test]
    fn products_with_scales_for_blocks() {
        let spec = |scaling| QuantSpec {
            scaling,
            overflow: Overflow::Saturate,
            ..QuantSpec::unscaled(NumericFormat::E4m3)
        };
        let line = spec(Scaling::Block { size: 32 });
        for (m, n, steps) in [(70, 64, 96), (5, 32, 64), (32, 12, 64), (13, 9000, 256)] {
            for (specs, along) in [
                ([line, spec(Scaling::Block2d { rows: 1, cols: 32 })], Contraction::Columns),
                ([line, spec(Scaling::Tensor)], Contraction::Columns),
                ([spec(Scaling::Tensor), line], Contraction::Rows),
            ] {
                let [(a, a_shape), (b, b_shape)] = [(1, m), (2, n)].map(|(seed, lines)| {
                    let (rows, cols) = shape(lines, steps, along);
                    let values = random(seed, rows * cols).and_then(|x| x.to_vec1::<f32>()).unwrap();
                    let spec = &specs[seed as usize - 1];
                    (numerics::quantize(&values, rows, cols, along, spec, 0, None).unwrap(), (rows, cols))
                });
                let factor = |operand, (rows, cols)| Factor::new(operand, rows, cols, along);
                let (a, b) = (factor(&a, a_shape), factor(&b, b_shape));
                let in_format = |format| scaled_products(&[(a, b)], |_| format).unwrap().concat();
                let found = in_format(NumericFormat::Fp32);
                let mut rounded = found.clone();
                round_rows(&mut rounded, NumericFormat::Bf16);
                assert_eq!(in_format(NumericFormat::Bf16), rounded);
                let [a, b] = [a, b].map(|factor| factor.decoded().unwrap());
                let exact =
                    a.matmul(&b.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert_eq!(found.len(), m * n);
                for (found, exact) in found.iter().zip(&exact) {
                    assert!((f64::from(*found) - exact).abs() < 5e-5, "{found}, exactly {exact}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(cases(48))]

        /// Sums differ in their order only: each loses about the root of their number of ulp, at the magnitude of the
        /// sum of magnitudes.
        #[test]
        fn tiles_give_the_product_that_gemm_gives(
            (m, n, blocks) in (1..80usize, 1..80usize, 1..4usize),
            (a_index, b_index) in (0..OPERANDS.len(), 0..OPERANDS.len()),
            (a_contraction, b_contraction) in (contraction(), contraction()),
            seed in any::<u64>(),
        ) {
            let steps = 32 * blocks;
            let a = operand(seed, m, steps, a_contraction, a_index);
            let b = operand(seed + 1, n, steps, b_contraction, b_index);
            let factor = |operand, lines, contraction| {
                let (rows, cols) = shape(lines, steps, contraction);
                Factor::new(operand, rows, cols, contraction)
            };
            let (a, b) = (factor(&a, m, a_contraction), factor(&b, n, b_contraction));
            let on_tiles = |all: &[Product<'_>], rounded: bool, finish: Finish<'_>| {
                let products = products_on(unit(), Parts::One, all, rounded, finish);
                assert_eq!(products.is_some(), OPERANDS[a_index].2 && OPERANDS[b_index].2);
                products.unwrap_or_else(|| f32_products(all, rounded, finish))
            };
            let [tiles, rounded] = [NumericFormat::Fp32, NumericFormat::Bf16]
                .map(|output| scaled_products_by(on_tiles, &[(a, b)], |_| output).unwrap().concat());
            let gemm = scaled_products_by(f32_products, &[(a, b)], |_| NumericFormat::Fp32).unwrap().concat();
            prop_assert_eq!(tiles.len(), m * n);
            let mut expected = tiles.clone();
            round_rows(&mut expected, NumericFormat::Bf16);
            prop_assert_eq!(rounded, expected);
            let [a, b] = [a, b].map(|factor| factor.decoded().and_then(|x| x.abs()?.to_vec2::<f64>()).unwrap());
            for (i, (tiles, gemm)) in tiles.iter().zip(&gemm).enumerate() {
                let size: f64 = a[i / n].iter().zip(&b[i % n]).map(|(a, b)| a * b).sum();
                let most = 2.0 * (steps as f64).sqrt() * 2f64.powi(-23) * size + f64::from(f32::MIN_POSITIVE);
                let error = (f64::from(*tiles) - f64::from(*gemm)).abs();
                prop_assert!(error <= most, "{tiles} and {gemm}, {error:e} > {most:e}");
            }
        }
    }
}
