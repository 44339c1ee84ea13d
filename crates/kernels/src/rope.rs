//! Rotary position embedding (Su et al. 2021), in Llama's rotate-half convention.

use crate::Kernels;
use crate::bf16_matmul::{LINES, Sums};
use crate::buffers::{elements, fill_one, rows_per_task, with_elements};
use crate::profile::{Part, Work, span};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rotates each pair (x\[i\], x\[i + d/2\]) of x \[b, t, h, d\] by the angle whose cosine and sine at time t
/// and frequency i are cos and sin \[t, d/2\], which get no gradient:
///
/// out = (x1 cos - x2 sin, x2 cos + x1 sin), with x1 and x2 the halves of the last dimension.
///
/// # Errors
/// When d is odd or the shapes do not fit.
pub fn rope(kernels: Kernels, x_bthd: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, t, _, d) = x_bthd.dims4()?;
    if d % 2 != 0 || cos.dims() != [t, d / 2] || sin.dims() != [t, d / 2] {
        candle_core::bail!(
            "rope: cos {:?} and sin {:?} do not fit x {:?}",
            cos.dims(),
            sin.dims(),
            x_bthd.dims()
        );
    }
    let (cos, sin) = (cos.detach(), sin.detach());
    match kernels.for_tensors(&[x_bthd, &cos, &sin]) {
        Kernels::Reference => reference(x_bthd, &cos, &sin),
        Kernels::Portable => span(Part::Rope, Work::floats(2 * x_bthd.elem_count()), || {
            x_bthd.contiguous()?.apply_op3(&cos.contiguous()?, &sin.contiguous()?, Rope)
        }),
    }
}

fn reference(x_bthd: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x_bthd.dim(D::Minus1)? / 2;
    let (x1, x2) = (x_bthd.narrow(D::Minus1, 0, half)?, x_bthd.narrow(D::Minus1, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let second = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

struct Rope;

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, t, h, _) = x_layout.shape().dims4()?;
        let (cos, sin) = (elements(cos, cos_layout)?, elements(sin, sin_layout)?);
        let y = rotate_all(elements(x, x_layout)?, cos, sin, [t, h], 1.0);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    /// The rotation by the opposite angle.
    fn bwd(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, t, h, _) = x.dims4()?;
        let dx = span(Part::Rope, Work::floats(2 * x.elem_count()), || {
            with_elements([&dy.contiguous()?, cos, sin], |[dy, cos, sin]| {
                Ok(rotate_all(dy, cos, sin, [t, h], -1.0))
            })
        })?;
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), None, None))
    }
}

/// Rotates x \[b, t, h, d\] by the angles times `direction`, 1 or -1.
fn rotate_all(x: &[f32], cos: &[f32], sin: &[f32], [t, h]: [usize; 2], direction: f32) -> Vec<f32> {
    let half = cos.len() / t.max(1);
    let width = (2 * half * h).max(1); // all heads of one time
    let rows = rows_per_task(width);
    fill_one(x.len(), rows * width, |task, y| {
        y.copy_from_slice(&x[task * rows * width..][..y.len()]);
        rotate_rows(y, task * rows, cos, sin, [t, width], direction);
    })
}

/// As [`rotate_all`], where x is.
pub(crate) fn rotate_in_place(x: &mut [f32], cos: &[f32], sin: &[f32], [t, h]: [usize; 2], direction: f32) {
    let width = (2 * (cos.len() / t.max(1)) * h).max(1);
    let rows = rows_per_task(width);
    x.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(task, x)| rotate_rows(x, task * rows, cos, sin, [t, width], direction));
}

/// Rotates rows of all heads, the first of which is number `first`, on the calling thread.
pub(crate) fn rotate_rows(
    x: &mut [f32],
    first: usize,
    cos: &[f32],
    sin: &[f32],
    [t, width]: [usize; 2],
    direction: f32,
) {
    let half = cos.len() / t.max(1);
    for (row, x) in (first..).zip(x.chunks_exact_mut(width)) {
        let angle = row % t * half..(row % t + 1) * half;
        rotate_heads(x, &cos[angle.clone()], &sin[angle], direction);
    }
}

/// Rotates rows of a head, of which there are a block, in blocks of features one after another. Angles are those of the rows.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]
pub(crate) fn rotate_blocks(head: &mut [Sums], angles: [&[f32]; 2], direction: f32) {
    /// 16 columns of 16 rows.
    type Square = [[f32; LINES]; LINES];
    let groups = head.len(); // of 16 pairs
    for strip in 0..2 {
        for group in 0..groups {
            let mut copies = [[[0.0; LINES]; LINES]; 2];
            let [cos, sin] = match groups {
                1 => angles.map(|table| &table[strip * LINES * LINES..][..LINES * LINES]),
                _ => {
                    for (copy, table) in copies.iter_mut().zip(angles) {
                        let table = &table.as_chunks().0[strip * LINES * groups + group..];
                        for (line, copy) in copy.iter_mut().enumerate() {
                            *copy = table[line * groups];
                        }
                    }
                    copies.each_ref().map(|copy| copy.as_flattened())
                }
            };
            let places = [group, group + groups];
            let [x1, x2]: [&mut Square; 2] = match head {
                [only] => only.0[strip].each_mut(),
                _ => match head.get_disjoint_mut(places.map(|place| place / 2)) {
                    Ok([of_x1, of_x2]) => {
                        [&mut of_x1.0[strip][places[0] % 2], &mut of_x2.0[strip][places[1] % 2]]
                    }
                    Err(_) => unreachable!("halves of a head of several blocks lie in different ones"),
                },
            };
            rotate([x1, x2].map(|x| x.as_flattened_mut()), [cos, sin], direction);
        }
    }
}

crate::multiversion! {
    /// Rotates pairs, each by its own angle.
    fn rotate(x: [&mut [f32]; 2], angles: [&[f32]; 2], direction: f32) {
        let ([x1, x2], [cos, sin]) = (x, angles);
        let n = x1.len();
        let (x2, cos, sin) = (&mut x2[..n], &cos[..n], &sin[..n]);
        for i in 0..n {
            let sin = direction * sin[i];
            (x1[i], x2[i]) = (x1[i] * cos[i] - x2[i] * sin, x2[i] * cos[i] + x1[i] * sin);
        }
    }

    fn rotate_heads(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        let half = cos.len();
        let sin = &sin[..half];
        for x in x.chunks_exact_mut(2 * half) {
            let (x1, x2) = x.split_at_mut(half);
            let x2 = &mut x2[..half];
            for i in 0..half {
                let sin = direction * sin[i];
                (x1[i], x2[i]) = (x1[i] * cos[i] - x2[i] * sin, x2[i] * cos[i] + x1[i] * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    /// cos and sin of angles that grow with time and differ by frequency.
    fn angles(t: usize, half: usize, dtype: DType) -> Result<[Tensor; 2]> {
        let angle = |i: usize| (i / half) as f64 * 0.9f64.powi((i % half) as i32);
        let angles: Vec<f64> = (0..t * half).map(angle).collect();
        let angles = Tensor::from_vec(angles, (t, half), &Device::Cpu)?;
        Ok([angles.cos()?.to_dtype(dtype)?, angles.sin()?.to_dtype(dtype)?])
    }

    fn op(kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        let (_, t, _, d) = inputs[0].dims4()?;
        let [cos, sin] = angles(t, d / 2, inputs[0].dtype())?;
        rope(kernels, &inputs[0], &cos, &sin)
    }

    proptest! {
        #![proptest_config(cases(24))]

        #[test]
        fn agrees(b in 1usize..4, t in 1usize..20, h in 1usize..4, half in 1usize..20) {
            check(op, &[random(1, (b, t, h, 2 * half))?], 1e-6)?;
        }
    }

    #[test]
    fn agrees_over_many_tasks() -> Result<()> {
        check(op, &[random(1, (2, 150, 3, 74))?], 1e-6)?;
        check_finite_differences(op, &[random(1, (2, 5, 3, 4))?])
    }

    #[test]
    fn takes_strided_tables_and_gradients() -> Result<()> {
        let x = random(1, (2, 5, 3, 8))?;
        let [cos, sin] = angles(5, 4, DType::F32)?;
        check_strided_gradient3(&Rope, [&x, &cos, &sin])?;
        let spread = rope(Kernels::Portable, &x, &strided(&cos)?, &strided(&sin)?)?;
        assert_close(&spread, &rope(Kernels::Portable, &x, &cos, &sin)?, 0.0)
    }

    /// A quarter turn at time 1 takes (x1, x2) to (-x2, x1); time 0 is left alone.
    #[test]
    fn rotates_halves() -> Result<()> {
        let x = Tensor::new(&[1f32, 2., 3., 4., 1., 2., 3., 4.], &Device::Cpu)?.reshape((1, 2, 1, 4))?;
        let cos = Tensor::new(&[[1f32, 1.], [0., 0.]], &Device::Cpu)?;
        let sin = Tensor::new(&[[0f32, 0.], [1., 1.]], &Device::Cpu)?;
        for kernels in Kernels::ALL {
            let y = rope(kernels, &x, &cos, &sin)?.flatten_all()?.to_vec1::<f32>()?;
            assert_eq!(y, [1., 2., 3., 4., -3., -4., 1., 2.]);
        }
        Ok(())
    }

    #[test]
    fn shapes_must_fit() -> Result<()> {
        let [cos, sin] = angles(5, 2, DType::F32)?;
        for kernels in Kernels::ALL {
            assert!(rope(kernels, &random(1, (1, 5, 1, 5))?, &cos, &sin).is_err());
            assert!(rope(kernels, &random(1, (1, 4, 1, 4))?, &cos, &sin).is_err());
            assert!(rope(kernels, &random(1, (1, 5, 1, 4))?, &cos, &sin).is_ok());
        }
        Ok(())
    }
}
