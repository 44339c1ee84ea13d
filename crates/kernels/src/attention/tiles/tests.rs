//! Tiles, those of the CPU or emulated ones, against the blocks of f32.

use crate::attention::{Precision, backward, forward};
use crate::bf16_matmul::tests::on_forced_tiles;
use crate::heads::{HeadShape, Heads};
use crate::round::round_rows;
use crate::row_tasks::Operands;
use crate::testing::*;
use candle_core::{Device, Result, Tensor};
use numerics::NumericFormat;
use proptest::prelude::*;

/// Queries, keys, values, and the gradient of what comes of them.
type Inputs = [Vec<f32>; 4];

/// Of random numbers of this size.
fn inputs(shape: HeadShape, size: f32, format: NumericFormat) -> Inputs {
    [1, 2, 3, 4].map(|seed| {
        let x = random(seed, shape.len()).and_then(|x| x.to_vec1::<f32>()).expect("a vector on the CPU");
        let mut x: Vec<f32> = x.into_iter().map(|x| x * size).collect();
        round_rows(&mut x, format);
        x
    })
}

/// What comes of them, the logs of the denominators, and the gradients of queries, keys and values.
fn results([q, k, v, grad]: &Inputs, shape: HeadShape, operands: Operands) -> [Vec<f32>; 5] {
    let qkv = [q, k, v].map(|x| Heads::contiguous(x, shape));
    let precision = Precision { format: NumericFormat::Bf16, operands };
    on_forced_tiles(|| {
        let (out, log_sum_exp) = forward(qkv, shape, 0.3, precision);
        let grad = Heads::contiguous(grad, shape);
        let [dq, dk, dv] = backward(qkv, &log_sum_exp, grad, shape, 0.3, precision);
        [out, log_sum_exp, dq, dk, dv]
    })
}

fn agree(shape: HeadShape, size: f32) {
    let inputs = inputs(shape, size, NumericFormat::Bf16);
    let [found, expected] = [Operands::Bf16, Operands::F32].map(|operands| results(&inputs, shape, operands));
    for (name, (found, expected)) in
        ["out", "logs", "dq", "dk", "dv"].into_iter().zip(found.iter().zip(&expected))
    {
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Sums in another order put a few probabilities or gradients of scores on the other side of a rounding, each of
            // which is worth up to 2^-8 of what it is multiplied with.
            let error = (found - expected).abs();
            assert!(error <= 2f32.powi(-7) * largest, "{name}[{at}] is {found}, not {expected} of {largest}");
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn heads_of_any_shape_agree(
        (b, t, h, d) in (1..3usize, 1..140usize, 1..4usize, 1..70usize),
        size in prop_oneof![Just(1f32), Just(20.0)],
    ) {
        agree(HeadShape { b, t, h, d }, size);
    }
}

#[test]
fn heads_agree_around_the_size_of_a_tile() {
    for t in [31, 32, 33, 64, 65] {
        for d in [16, 31, 32, 33, 64] {
            agree(HeadShape { b: 1, t, h: 2, d }, 3.0);
        }
    }
}

/// What bf16 does not hold is computed in f32.
#[test]
fn other_numbers_go_another_way() {
    let shape = HeadShape { b: 1, t: 40, h: 2, d: 8 };
    let inputs = inputs(shape, 1.0, NumericFormat::Fp32);
    assert_eq!(results(&inputs, shape, Operands::Bf16), results(&inputs, shape, Operands::F32));
}

/// The row of a later query does not change when an earlier one's future does, and threads change no bit.
#[test]
fn the_future_is_not_seen_and_threads_change_nothing() -> Result<()> {
    let shape = HeadShape { b: 2, t: 70, h: 3, d: 12 };
    let inputs = inputs(shape, 1.0, NumericFormat::Bf16);
    let all = || results(&inputs, shape, Operands::Bf16);
    same_bits_in_every_pool(|| {
        all().into_iter().map(|x| Tensor::from_vec(x.clone(), x.len(), &Device::Cpu)).collect()
    })?;
    let mut changed = inputs.clone();
    let row = shape.h * shape.d;
    for x in &mut changed[1..3] {
        x[69 * row..70 * row].fill(5.0);
    }
    let [before, after] = [&inputs, &changed].map(|inputs| results(inputs, shape, Operands::Bf16)[0].clone());
    assert_eq!(before[..69 * row], after[..69 * row]);
    assert_ne!(before[69 * row..70 * row], after[69 * row..70 * row]);
    Ok(())
}

/// The second row has two keys, of which the second has probability e^-0.296875 before the sum of both divides it.
#[test]
fn probabilities_are_rounded_where_they_are_multiplied() {
    let shape = HeadShape { b: 1, t: 2, h: 1, d: 1 };
    let inputs = [vec![1.0, 1.0], vec![0.0, -0.296_875 / 0.3], vec![0.0, 1.0], vec![0.0, 0.0]];
    let inputs = inputs.map(|mut x| {
        round_rows(&mut x, NumericFormat::Bf16);
        x
    });
    let second = (0.3 * inputs[1][1]).exp();
    let mut rounded = [second];
    round_rows(&mut rounded, NumericFormat::Bf16);
    let expected = rounded[0] / (1.0 + second);
    assert!((expected - second / (1.0 + second)).abs() > 1e-4, "the case would show nothing");
    for operands in [Operands::Bf16, Operands::F32] {
        let found = results(&inputs, shape, operands)[0][1];
        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    }
}
