//! Every block against the composition of single operations that defines it.

mod case;

use self::case::{Case, Counter, Recipe};
use super::*;
use crate::bf16_matmul::tests::on_forced_tiles;
use crate::testing::*;
use crate::{Kernels, QuantizedLinear, backward};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Var};
use numerics::{QuantSpec, Scaling};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The loss of x, norm and head in f32, `Kernels::Portable` meaning the fused one.
fn head_loss(kernels: Kernels, inputs: &[Tensor], targets: &Tensor) -> Result<Tensor> {
    Case::new(Recipe::Full).head_loss(kernels == Kernels::Portable, kernels, inputs, targets)
}

/// The portable version of a block is the fused one.
fn keep(kernels: Kernels) -> Option<Saving> {
    (kernels == Kernels::Portable).then_some(Saving::Keep)
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn ffn_blocks_agree(leading in prop::collection::vec(1usize..6, 1..3), d in 1usize..40, d_ff in 1usize..60) {
        for case in Case::all(Recipe::Full) {
            let inputs = case.ffn_inputs(&leading, d, d_ff)?;
            check(|kernels, x| case.ffn(keep(kernels), kernels, x), &inputs, 1e-4)?;
        }
    }

    #[test]
    fn attention_blocks_agree(b in 1usize..3, t in 1usize..80, h in 1usize..4, half in 1usize..9) {
        for case in Case::all(Recipe::Full).filter(|case| case.gated) {
            let inputs = case.attention_inputs([b, t, h, 2 * half])?;
            check(|kernels, x| case.attention(keep(kernels), kernels, h, x), &inputs, 1e-4)?;
        }
    }

    #[test]
    fn head_losses_agree(n in 1usize..700, d in 1usize..40, v in 1usize..80) {
        let (inputs, targets) = ([random(1, (n, d))?, random(2, d)?, random(3, (v, d))?], random_ids(4, n, v)?);
        check(|kernels, x| head_loss(kernels, x, &targets), &inputs, 1e-5)?;
    }
}

/// Sizes for tasks of rows, with several tasks, and sizes whose weights are too narrow for them.
#[test]
fn blocks_agree_by_rows_and_by_operations() -> Result<()> {
    for case in Case::all(Recipe::Full) {
        for (n, d, d_ff) in [(125, 24, 40), (125, 24, 12)] {
            let inputs = case.ffn_inputs(&[n], d, d_ff)?;
            check(|kernels, x| case.ffn(keep(kernels), kernels, x), &inputs, 1e-4)?;
        }
        for (t, h, d_head) in [(65, 3, 8), (65, 2, 6)] {
            // Large scores would make a step of the softmax.
            let smaller = |x: Tensor| x * 0.2;
            let inputs = case.attention_inputs([2, t, h, d_head])?;
            let inputs = inputs.into_iter().map(smaller).collect::<Result<Vec<_>>>()?;
            check(|kernels, x| case.attention(keep(kernels), kernels, h, x), &inputs, 1e-4)?;
        }
    }
    for (n, d, v) in [(300, 20, 50), (300, 20, 12)] {
        let (inputs, targets) =
            ([random(1, (n, d))?, random(2, d)?, random(3, (v, d))?], random_ids(4, n, v)?);
        check(|kernels, x| head_loss(kernels, x, &targets), &inputs, 1e-5)?;
    }
    Ok(())
}

/// Several blocks as one operation have the bits of one operation each, values and gradients, in any number of threads.
#[test]
fn blocks_in_a_row_give_the_bits_of_one_after_another() -> Result<()> {
    let case = Case::new(Recipe::Full);
    let attention = case.attention_inputs([2, 60, 3, 8])?;
    let ffn = case.ffn_inputs(&[2, 60], 24, 40)?;
    let inputs = [&attention[..], &ffn[1..]].concat();
    let blocks = |inputs: &[Tensor]| -> Result<[ResidualBlock; 2]> {
        let (of_attention, of_ffn) = inputs.split_at(attention.len());
        let of_ffn = [&inputs[..1], of_ffn].concat();
        let attention = ResidualBlock::Attention(case.attention_block(3, of_attention)?);
        Ok([attention, ResidualBlock::Ffn(case.ffn_block(&of_ffn))])
    };
    let together =
        |saving, x: &[Tensor]| residual_blocks(&x[0], blocks(x)?.into_iter().chain(blocks(x)?), saving);
    let apart = |x: &[Tensor]| {
        let one = |y: Tensor, block| residual_blocks(&y, [block], Saving::Keep);
        blocks(x)?.into_iter().chain(blocks(x)?).try_fold(x[0].clone(), one)
    };
    let expected = value_and_gradients(apart, &inputs)?;
    for saving in [Saving::Keep, Saving::Recompute] {
        same_bits_in_every_pool(|| {
            let found = value_and_gradients(|x| together(saving, x), &inputs)?;
            // Candle adds the gradients of a weight's two places in another order.
            assert_eq!(bits(&found[0])?, bits(&expected[0])?);
            assert_eq!(bits(&found[1])?, bits(&expected[1])?);
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, 1e-6)?;
            }
            Ok(found)
        })?;
    }
    let low = Case { recipe: Recipe::Int8, ..case };
    let block = ResidualBlock::Ffn(low.ffn_block(&low.ffn_inputs(&[16], 32, 48)?));
    assert!(residual_blocks(&random(1, (16, 32))?, [block], Saving::Recompute).is_err());
    Ok(())
}

/// Below f32 every rounding sits where the single operations have it: the values are theirs bit for bit, and the
/// gradients differ by what another order of sums flips in the last place of a bf16.
#[test]
fn low_precision_blocks_agree_with_single_operations() -> Result<()> {
    let portable = Kernels::Portable;
    for case in Case::all(Recipe::Int8) {
        let inputs = case.ffn_inputs(&[2, 16], 32, 48)?;
        let fused = value_and_gradients(|x| case.ffn(Some(Saving::Keep), portable, x), &inputs)?;
        let single = value_and_gradients(|x| case.ffn(None, portable, x), &inputs)?;
        assert_eq!(bits(&fused[0])?, bits(&single[0])?, "{case:?}");
        for (fused, single) in fused.iter().zip(&single) {
            assert_close(fused, single, 2e-2)?;
        }
        let inputs = case.attention_inputs([2, 16, 2, 16])?;
        let fused = value_and_gradients(|x| case.attention(Some(Saving::Keep), portable, 2, x), &inputs)?;
        let single = value_and_gradients(|x| case.attention(None, portable, 2, x), &inputs)?;
        assert_eq!(bits(&fused[0])?, bits(&single[0])?, "{case:?}");
        for (fused, single) in fused.iter().zip(&single) {
            assert_close(fused, single, 2e-2)?;
        }
    }
    Ok(())
}

/// Recipes that round every value on its own, with sizes for tasks of rows: values and gradients of single operations, but for
/// what another order of sums flips in the last place of a bf16; bit for bit the same while somebody looks at operands whole,
/// and in any number of threads. With kernels of f32 and on tiles.
#[test]
fn rows_in_low_precision_agree_with_single_operations_and_with_being_looked_at() -> Result<()> {
    for case in [Recipe::Bf16, Recipe::Mixed, Recipe::Tf32].into_iter().flat_map(Case::all) {
        // Whole blocks of tiles, and a part of one.
        for n in [128, 130] {
            low_rows_agree(&case, n, false)?;
            low_rows_agree(&case, n, true)?;
        }
    }
    Ok(())
}

fn low_rows_agree(case: &Case, n: usize, tiles: bool) -> Result<()> {
    let (portable, keep) = (Kernels::Portable, Some(Saving::Keep));
    let (d, d_ff, v) = (48, 72, 90);
    let targets = random_ids(4, n, v)?;
    let looking = Case { counter: Arc::new(Counter { looks: true, ..Counter::default() }), ..case.clone() };
    let ffn = case.ffn_inputs(&[n], d, d_ff)?;
    let attention = case.attention_inputs([2, n / 2, 3, d / 3])?;
    let head = [random(1, (n, d))?, random(2, d)?, random(3, (v, d))?];
    let values = |case: &Case, fused: bool| -> Result<Vec<Tensor>> {
        let saving = keep.filter(|_| fused);
        let ffn = value_and_gradients(|x| case.ffn(saving, portable, x), &ffn)?;
        let attention = value_and_gradients(|x| case.attention(saving, portable, 3, x), &attention)?;
        let head = value_and_gradients(|x| case.head_loss(fused, portable, x, &targets), &head)?;
        Ok([ffn, attention, head].concat())
    };
    let all = |case: &Case, fused: bool| match tiles {
        true => on_forced_tiles(|| values(case, fused)),
        false => values(case, fused),
    };
    let (by_rows, looked_at, single) = (all(case, true)?, all(&looking, true)?, all(case, false)?);
    for ((by_rows, looked_at), single) in by_rows.iter().zip(&looked_at).zip(&single) {
        assert_eq!(bits(by_rows)?, bits(looked_at)?, "{case:?}");
        assert_close(by_rows, single, 2e-2)?;
    }
    assert!(looking.counter.shown.load(Ordering::Relaxed) > 0);
    same_bits_in_every_pool(|| all(case, true))
}

/// Heads that stay on tiles from queries, keys and values to their gradients: bit for bit what whole operands give, in any number of
/// threads, and with or without a backward pass to come.
#[test]
fn heads_on_tiles_agree_with_being_looked_at() -> Result<()> {
    for case in Case::all(Recipe::Bf16) {
        let looking =
            Case { counter: Arc::new(Counter { looks: true, ..Counter::default() }), ..case.clone() };
        // A head is a block of features, two and three; a sequence is not a task's rows.
        for shape @ [.., h, _] in [[2, 96, 2, 32], [1, 64, 2, 64], [1, 32, 1, 96]] {
            let inputs = case.attention_inputs(shape)?;
            let attend =
                |case: &Case, x: &[Tensor]| case.attention(Some(Saving::Keep), Kernels::Portable, h, x);
            let values = |case: &Case| {
                on_forced_tiles(|| {
                    let values = value_and_gradients(|x| attend(case, x), &inputs)?;
                    assert_eq!(bits(&attend(case, &inputs)?)?, bits(&values[0])?);
                    Ok(values)
                })
            };
            for (found, expected) in values(&case)?.iter().zip(&values(&looking)?) {
                assert!(bits(found)? == bits(expected)?, "{case:?} {shape:?}");
            }
            same_bits_in_every_pool(|| values(&case))?;
        }
        assert!(looking.counter.shown.load(Ordering::Relaxed) > 0);
    }
    Ok(())
}

/// Recipes with scales that rows have for themselves, or that are known before, on tiles: values and gradients bit for bit those of
/// operands that are quantised whole, in any number of threads, and with or without a backward pass to come.
#[test]
fn rows_with_scales_agree_with_being_looked_at() -> Result<()> {
    let recipes =
        [Recipe::Int8, Recipe::Current, Recipe::Delayed, Recipe::Mx, Recipe::Nvfp4, Recipe::Ternary];
    for case in recipes.into_iter().flat_map(Case::all) {
        let looking =
            Case { counter: Arc::new(Counter { looks: true, ..Counter::default() }), ..case.clone() };
        // Blocks fit, and the last task has fewer rows.
        let (n, d, d_ff, h) = (160, 64, 96, 2);
        let ffn = case.ffn_inputs(&[n], d, d_ff)?;
        let attention = case.attention_inputs([2, n / 2, h, d / h])?;
        let fused = |case: &Case, ffn: &[Tensor]| case.ffn(Some(Saving::Keep), Kernels::Portable, ffn);
        let attend =
            |case: &Case, inputs: &[Tensor]| case.attention(Some(Saving::Keep), Kernels::Portable, h, inputs);
        let values = |case: &Case| -> Result<Vec<Tensor>> {
            let of_ffn = value_and_gradients(|x| fused(case, x), &ffn)?;
            let of_attention = value_and_gradients(|x| attend(case, x), &attention)?;
            let forward_only = [fused(case, &ffn)?, attend(case, &attention)?];
            assert_eq!(bits(&forward_only[0])?, bits(&of_ffn[0])?);
            assert_eq!(bits(&forward_only[1])?, bits(&of_attention[0])?);
            Ok([of_ffn, of_attention].concat())
        };
        let by_rows = on_forced_tiles(|| values(&case))?;
        if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            assert!(case.counter.measured.load(Ordering::Relaxed) > 0, "{case:?} goes by rows");
        }
        let whole = on_forced_tiles(|| values(&looking))?;
        assert_eq!(looking.counter.measured.load(Ordering::Relaxed), 0);
        for (by_rows, whole) in by_rows.iter().zip(&whole) {
            assert!(bits(by_rows)? == bits(whole)?, "{case:?}");
        }
        same_bits_in_every_pool(|| on_forced_tiles(|| values(&case)))?;
    }
    Ok(())
}

/// What is not finite is counted as often where rows go by as where operands are shown.
#[test]
fn what_is_not_finite_is_counted_in_rows_too() -> Result<()> {
    let counted = |recipe: Recipe, n: usize, looks: bool, fused: bool| -> Result<[u64; 3]> {
        let counter = Arc::new(Counter { looks, ..Counter::default() });
        let case = Case { counter: counter.clone(), ..Case::new(recipe) };
        let mut ffn = case.ffn_inputs(&[n], 48, 72)?;
        ffn[0] = ffn[0].slice_assign(&[3..4, 5..6], &Tensor::full(f32::NAN, (1, 1), ffn[0].device())?)?;
        ffn[3] =
            ffn[3].slice_assign(&[7..8, 5..6], &Tensor::full(f32::INFINITY, (1, 1), ffn[0].device())?)?;
        value_and_gradients(|x| case.ffn(fused.then_some(Saving::Keep), Kernels::Portable, x), &ffn)?;
        // Heads that stay on tiles where the rows are whole blocks.
        let (h, d_head) = if n.is_multiple_of(32) { (2, 32) } else { (3, 16) };
        let attention = case.attention_inputs([1, n, h, d_head])?;
        let nan = Tensor::full(f32::NAN, (1, 1), ffn[0].device())?;
        let spoilt =
            [&attention[..3], &[attention[3].slice_assign(&[3..4, 5..6], &nan)?], &attention[4..]].concat();
        value_and_gradients(
            |x| case.attention(fused.then_some(Saving::Keep), Kernels::Portable, h, x),
            &spoilt,
        )?;
        Ok(counter.non_finite.each_ref().map(|count| count.load(Ordering::Relaxed)))
    };
    for (recipe, n) in [(Recipe::Bf16, 50), (Recipe::Bf16, 64), (Recipe::Current, 50), (Recipe::Int8, 50)] {
        let expected = counted(recipe, n, false, false)?;
        assert!(expected.iter().all(|count| *count > 0), "{expected:?}");
        for looks in [false, true] {
            assert_eq!(counted(recipe, n, looks, true)?, expected);
            assert_eq!(on_forced_tiles(|| counted(recipe, n, looks, true))?, expected);
        }
    }
    Ok(())
}

/// A head whose gradients would underflow before the gradient of the loss scales them, or whose scales rows share.
#[test]
fn other_heads_are_refused() -> Result<()> {
    let weight = random(1, (4, 5))?;
    let head = |format, scaling| -> Projection {
        let spec = QuantSpec { scaling, ..QuantSpec::unscaled(format) };
        let how = QuantizedLinear {
            input: spec,
            weight: spec,
            grad: spec,
            output: NumericFormat::Bf16,
            smooth: false,
            observer: Arc::new(Counter::default()),
        };
        Projection { weight: weight.clone(), low: Some(how) }
    };
    assert!(HeadLoss::takes(&head(NumericFormat::Bf16, Scaling::None)));
    for (format, scaling) in [(NumericFormat::Fp16, Scaling::None), (NumericFormat::Bf16, Scaling::Row)] {
        let (head, norm) = (head(format, scaling), Norm { weight: random(2, 5)?, eps: 1e-5 });
        assert!(!HeadLoss::takes(&head));
        let loss = HeadLoss { norm, head, formats: Formats::FULL };
        assert!(loss.forward(&random(3, (2, 5))?, &random_ids(4, 2, 4)?).is_err());
    }
    Ok(())
}

#[test]
fn blocks_computed_again_give_the_same_bits() -> Result<()> {
    let portable = Kernels::Portable;
    let case = Case { sub_norm: true, ..Case::new(Recipe::Full) };
    let (ffn, attention) = (case.ffn_inputs(&[70], 12, 20)?, case.attention_inputs([2, 70, 2, 6])?);
    let all = |saving| -> Result<Vec<Tensor>> {
        let of_ffn = value_and_gradients(|x| case.ffn(Some(saving), portable, x), &ffn)?;
        let of_attention = value_and_gradients(|x| case.attention(Some(saving), portable, 2, x), &attention)?;
        Ok([of_ffn, of_attention].concat())
    };
    for (kept, again) in all(Saving::Keep)?.iter().zip(&all(Saving::Recompute)?) {
        assert_eq!(bits(kept)?, bits(again)?);
    }
    let low = Case { recipe: Recipe::Int8, ..case };
    assert!(low.ffn(Some(Saving::Recompute), portable, &low.ffn_inputs(&[16], 32, 48)?).is_err());
    Ok(())
}

/// A loss that is multiplied before the backward pass, as loss scaling and micro-batches do.
#[test]
fn gradients_of_the_head_follow_the_gradient_of_the_loss() -> Result<()> {
    let targets = random_ids(4, 300, 9)?;
    let gradient = |factor: f64| -> Result<Tensor> {
        let head = Var::from_tensor(&random(3, (9, 8))?)?;
        let inputs = [random(1, (300, 8))?, random(2, 8)?, head.as_tensor().clone()];
        let loss = (head_loss(Kernels::Portable, &inputs, &targets)? * factor)?;
        Ok(loss.backward()?.get(&head).expect("the head has a gradient").clone())
    };
    assert_close(&gradient(1024.0)?, &(gradient(1.0)? * 1024.0)?, 1e-6)
}

/// What the first backward pass handed out is computed again.
#[test]
fn the_head_goes_back_more_than_once() -> Result<()> {
    let head = Var::from_tensor(&random(3, (9, 8))?)?;
    let inputs = [random(1, (300, 8))?, random(2, 8)?, head.as_tensor().clone()];
    let loss = head_loss(Kernels::Portable, &inputs, &random_ids(4, 300, 9)?)?;
    let [first, second] = [(); 2].map(|()| loss.backward());
    let [first, second] = [first?, second?].map(|store| store.get(&head).expect("a gradient").clone());
    assert_eq!(bits(&first)?, bits(&second)?);
    Ok(())
}

/// One weight in two places gets the sum of both gradients, as a tied embedding does.
#[test]
fn a_shared_weight_gets_both_gradients() -> Result<()> {
    let case = Case::new(Recipe::Full);
    let mut inputs = case.ffn_inputs(&[7], 6, 10)?;
    inputs[3] = inputs[2].clone();
    let apart = value_and_gradients(|x| case.ffn(Some(Saving::Keep), Kernels::Portable, x), &inputs)?;
    let shared = |x: &[Tensor]| {
        let [x, norm, w, down] = x else { panic!("four inputs") };
        let tied = [x, norm, w, w, down].map(Tensor::clone);
        case.ffn(Some(Saving::Keep), Kernels::Portable, &tied)
    };
    inputs.remove(3);
    let together = value_and_gradients(shared, &inputs)?;
    assert_close(&together[3], &(&apart[3] + &apart[4])?, 1e-5)
}

/// Gradients that are gathered are those of Candle, bit for bit: of weights that are variables, that stand in two places,
/// and that are computed from others.
#[test]
fn gathered_gradients_are_those_of_candle() -> Result<()> {
    let case = Case::new(Recipe::Full);
    let inputs = case.ffn_inputs(&[7], 6, 10)?.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let loss = || {
        let mut x: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
        x[3] = x[2].clone();
        x[4] = (&x[4] * 2.0)?;
        case.ffn(Some(Saving::Keep), Kernels::Portable, &x)?.sqr()?.sum_all()
    };
    let (gathered, plain) = (backward(&loss()?)?, loss()?.backward()?);
    for (index, var) in inputs.iter().enumerate().filter(|(index, _)| *index != 3) {
        let [gathered, plain] = [&gathered, &plain].map(|store| store.get(var).expect("a gradient"));
        assert_eq!(bits(gathered)?, bits(plain)?, "input {index}");
    }
    Ok(())
}

/// Has no backward pass.
struct OneWay;

impl CustomOp1 for OneWay {
    fn name(&self) -> &'static str {
        "one-way"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((x.clone(), layout.shape().clone()))
    }
}

/// A backward pass that fails leaves nothing behind that would take gradients away from the next.
#[test]
fn after_a_failure_gradients_are_candles_again() -> Result<()> {
    let x = Var::from_tensor(&random(1, 3)?)?;
    assert!(backward(&x.apply_op1(OneWay)?.sum_all()?).is_err());
    let head = Var::from_tensor(&random(3, (9, 8))?)?;
    let inputs = [random(1, (30, 8))?, random(2, 8)?, head.as_tensor().clone()];
    let loss = head_loss(Kernels::Portable, &inputs, &random_ids(4, 30, 9)?)?;
    assert!(loss.backward()?.get(&head).is_some());
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let case = Case::new(Recipe::Full);
    let inputs = case.attention_inputs([1, 4, 2, 6])?;
    assert!(case.attention(Some(Saving::Keep), Kernels::Portable, 5, &inputs).is_err());
    let inputs = [random(1, (3, 4))?, random(2, 4)?, random(3, (5, 4))?];
    for targets in [random_ids(4, 2, 5)?, Tensor::new(&[0u32, 1, 5], inputs[0].device())?] {
        assert!(head_loss(Kernels::Portable, &inputs, &targets).is_err());
    }
    Ok(())
}
