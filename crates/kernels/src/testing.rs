//! What the tests of all operations share: keyed random tensors, strided copies, and the comparison of an
//! operation with its reference in `f64`.

use crate::Kernels;
use crate::buffers::with_cpu;
use candle_core::{CustomOp2, CustomOp3, DType, Device, Result, Shape, Tensor, Var};
use proptest::test_runner::Config;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::OnceLock;

/// So many random cases, and no files written.
pub(crate) fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// The bits of splitmix64 (Steele, Lea & Flood 2014) at a seed and an index.
fn hash(seed: u64, index: u64) -> u64 {
    let z = (seed ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform values in (-1, 1), `f32`.
pub(crate) fn random(seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let value = |i| (hash(seed, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0 + f32::EPSILON;
    let values: Vec<f32> = (0..shape.elem_count() as u64).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Ids below `bound`.
pub(crate) fn random_ids(seed: u64, n: usize, bound: usize) -> Result<Tensor> {
    let ids: Vec<u32> = (0..n as u64).map(|i| (hash(seed, i) % bound as u64) as u32).collect();
    Tensor::from_vec(ids, n, &Device::Cpu)
}

/// The same values two floats apart: contiguous for nobody.
pub(crate) fn strided(x: &Tensor) -> Result<Tensor> {
    let rank = x.rank();
    Tensor::stack(&[x, x], rank)?.narrow(rank, 1, 1)?.squeeze(rank)
}

/// op(inputs), and the gradients of a random linear form of it by every input.
pub(crate) fn value_and_gradients(
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&tensors)?;
    let form = random(99, y.shape())?.to_dtype(y.dtype())?;
    let gradients = (&y * form)?.sum_all()?.backward()?;
    let found = vars.iter().map(|var| gradients.get(var).expect("every input gets a gradient").clone());
    Ok(std::iter::once(y.detach()).chain(found).collect())
}

/// Both implementations against the reference in `f64`, on contiguous and strided inputs: values and all
/// gradients, with `tolerance` relative to the largest magnitude of each tensor (or 1). Then the portable one
/// in pools of 1, 2 and 3 threads, bit for bit.
pub(crate) fn check(
    op: impl Fn(Kernels, &[Tensor]) -> Result<Tensor> + Sync,
    inputs: &[Tensor],
    tolerance: f64,
) -> Result<()> {
    let wide = inputs.iter().map(|x| x.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let exact = value_and_gradients(|x| op(Kernels::Reference, x), &wide)?;
    for kernels in Kernels::ALL {
        let packed = value_and_gradients(|x| op(kernels, x), inputs)?;
        let spread = |x: &[Tensor]| op(kernels, &x.iter().map(strided).collect::<Result<Vec<_>>>()?);
        let spread = value_and_gradients(spread, inputs)?;
        for ((packed, spread), exact) in packed.iter().zip(&spread).zip(&exact) {
            assert_close(packed, exact, tolerance)?;
            assert_close(spread, exact, tolerance)?;
        }
    }
    same_bits_in_every_pool(|| value_and_gradients(|x| op(Kernels::Portable, x), inputs))
}

/// `got` against `exact`: same shape, and every element within `tolerance` of the largest magnitude (or 1).
pub(crate) fn assert_close(got: &Tensor, exact: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.dims(), exact.dims());
    let flat = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (got, exact) = (flat(got)?, flat(exact)?);
    let scale = exact.iter().fold(1.0, |scale: f64, x| scale.max(x.abs()));
    for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
        assert!((got - exact).abs() <= tolerance * scale, "element {i}: {got}, exactly {exact}");
    }
    Ok(())
}

/// The bits of a tensor.
pub(crate) fn bits(x: &Tensor) -> Result<Vec<u32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// Runs `f` in pools of 1, 2 and 3 threads and compares all bits of all tensors.
pub(crate) fn same_bits_in_every_pool(f: impl Fn() -> Result<Vec<Tensor>> + Sync) -> Result<()> {
    static POOLS: OnceLock<[ThreadPool; 3]> = OnceLock::new();
    let pools = POOLS.get_or_init(|| {
        [1, 2, 3].map(|n| ThreadPoolBuilder::new().num_threads(n).build().expect("threads can be started"))
    });
    let run = |pool: &ThreadPool| pool.install(|| f()?.iter().map(bits).collect::<Result<Vec<_>>>());
    let alone = run(&pools[0])?;
    for pool in &pools[1..] {
        assert!(alone == run(pool)?, "{} threads change bits", pool.current_num_threads());
    }
    Ok(())
}

/// The gradient of the reference against central differences of it in `f64`, along one random direction of
/// all inputs.
pub(crate) fn check_finite_differences(
    op: impl Fn(Kernels, &[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
) -> Result<()> {
    const STEP: f64 = 1e-5;
    let op = |x: &[Tensor]| op(Kernels::Reference, x);
    let wide = |x: &Tensor| x.to_dtype(DType::F64);
    let inputs = inputs.iter().map(wide).collect::<Result<Vec<_>>>()?;
    let directions: Vec<Tensor> =
        (7..).zip(&inputs).map(|(seed, x)| wide(&random(seed, x.shape())?)).collect::<Result<_>>()?;
    let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum_all()?.to_scalar::<f64>();
    let at = |step: f64| {
        let moved =
            inputs.iter().zip(&directions).map(|(x, d)| x + (d * step)?).collect::<Result<Vec<_>>>()?;
        let y = op(&moved)?;
        dot(&y, &wide(&random(99, y.shape())?)?)
    };
    let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
    let mut analytic = 0.0;
    for (gradient, direction) in value_and_gradients(op, &inputs)?[1..].iter().zip(&directions) {
        analytic += dot(gradient, direction)?;
    }
    let error = (numeric - analytic).abs();
    assert!(error <= 1e-7 * numeric.abs().max(1.0), "numeric {numeric}, analytic {analytic}");
    Ok(())
}

/// Forward, then backward with a contiguous and a strided gradient of the result: the same gradients.
pub(crate) fn check_strided_gradient2(op: &impl CustomOp2, a: &Tensor, b: &Tensor) -> Result<()> {
    let y = with_cpu([a, b], |[(a, a_layout), (b, b_layout)]| op.cpu_fwd(a, a_layout, b, b_layout))?;
    let (y, dy) = result_and_gradient(y)?;
    let packed = op.bwd(a, b, &y, &dy)?;
    let spread = op.bwd(a, b, &y, &strided(&dy)?)?;
    assert_same([packed.0, packed.1], [spread.0, spread.1])
}

/// As [`check_strided_gradient2`], for three inputs.
pub(crate) fn check_strided_gradient3(op: &impl CustomOp3, [a, b, c]: [&Tensor; 3]) -> Result<()> {
    let y = with_cpu([a, b, c], |[(a, a_layout), (b, b_layout), (c, c_layout)]| {
        op.cpu_fwd(a, a_layout, b, b_layout, c, c_layout)
    })?;
    let (y, dy) = result_and_gradient(y)?;
    let packed = op.bwd(a, b, c, &y, &dy)?;
    let spread = op.bwd(a, b, c, &y, &strided(&dy)?)?;
    assert_same([packed.0, packed.1, packed.2], [spread.0, spread.1, spread.2])
}

fn result_and_gradient((storage, shape): (candle_core::CpuStorage, Shape)) -> Result<(Tensor, Tensor)> {
    let y = Tensor::from_vec(storage.as_slice::<f32>()?.to_vec(), &shape, &Device::Cpu)?;
    let dy = random(5, &shape)?;
    Ok((y, dy))
}

fn assert_same<const N: usize>(packed: [Option<Tensor>; N], spread: [Option<Tensor>; N]) -> Result<()> {
    assert!(packed.iter().any(Option::is_some));
    for (packed, spread) in packed.iter().zip(&spread) {
        assert_eq!(packed.is_some(), spread.is_some());
        if let (Some(packed), Some(spread)) = (packed, spread) {
            assert_close(packed, spread, 1e-6)?;
        }
    }
    Ok(())
}
