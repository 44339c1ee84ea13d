//! Rows of a table by id, and the gradient of the table.

use crate::Kernels;
use crate::buffers::{elements, fill_one, rows_per_task, with_elements};
use crate::cross_entropy::check_ids;
use crate::profile::{Part, Work, span};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

/// out_n = weight\[id_n\]: weight \[v, d\], ids \[n\] of u32, out \[n, d\].
///
/// # Errors
/// When an id is not below v.
pub fn embedding(kernels: Kernels, weight_vd: &Tensor, ids_n: &Tensor) -> Result<Tensor> {
    let ((v, d), n) = (weight_vd.dims2()?, ids_n.dims1()?);
    if ids_n.dtype() != DType::U32 {
        candle_core::bail!("embedding: ids are {:?}, not u32", ids_n.dtype());
    }
    match kernels.for_tensors(&[weight_vd]) {
        Kernels::Reference => {
            if n > 0 {
                check_ids(&[ids_n.max_all()?.to_scalar()?], v)?;
            }
            weight_vd.contiguous()?.index_select(&ids_n.contiguous()?, 0)
        }
        Kernels::Portable => span(Part::Embedding, Work::floats(2 * n * d), || {
            weight_vd.contiguous()?.apply_op2(&ids_n.contiguous()?, Embedding)
        }),
    }
}

struct Embedding;

impl CustomOp2 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        weight_layout: &Layout,
        ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weight, ids) = (elements::<f32>(weight, weight_layout)?, elements::<u32>(ids, ids_layout)?);
        let (v, d) = weight_layout.shape().dims2()?;
        check_ids(ids, v)?;
        let rows = rows_per_task(d);
        let out = fill_one(ids.len() * d, (rows * d).max(1), |task, out| {
            for (&id, out) in ids[task * rows..].iter().zip(out.chunks_exact_mut(d)) {
                out.copy_from_slice(&weight[id as usize * d..][..d]);
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((ids.len(), d))))
    }

    /// dweight\[id\] = Σ of dy over the places of id, in order of place.
    fn bwd(
        &self,
        weight: &Tensor,
        ids: &Tensor,
        _out: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (v, d) = weight.dims2()?;
        let work = Work::floats(dy.elem_count() + v * d);
        let gradient = span(Part::Embedding, work, || {
            with_elements([&dy.contiguous()?], |[dy]| {
                with_elements([ids], |[ids]| Ok(summed(dy, ids, [v, d])))
            })
        })?;
        Ok((Some(Tensor::from_vec(gradient, (v, d), weight.device())?), None))
    }
}

/// The gradient \[v, d\] of the table.
fn summed(dy: &[f32], ids: &[u32], [v, d]: [usize; 2]) -> Vec<f32> {
    let places = Places::of(ids, v);
    let rows = rows_per_task(d);
    fill_one(v * d, (rows * d).max(1), |task, gradient| {
        for (id, gradient) in (task * rows..).zip(gradient.chunks_exact_mut(d)) {
            for &place in places.get(id) {
                add(gradient, &dy[place as usize * d..][..d]);
            }
        }
    })
}

/// The places of every id, ascending, by counting sort: tasks can then own rows of the table instead of
/// places.
struct Places {
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Places {
    fn of(ids: &[u32], v: usize) -> Self {
        let mut starts = vec![0; v + 1];
        for &id in ids {
            starts[id as usize + 1] += 1;
        }
        for id in 0..v {
            starts[id + 1] += starts[id];
        }
        let mut next = starts.clone();
        let mut places = vec![0; ids.len()];
        for (place, &id) in (0..).zip(ids) {
            let slot = &mut next[id as usize];
            places[*slot as usize] = place;
            *slot += 1;
        }
        Self { starts, places }
    }

    fn get(&self, id: usize) -> &[u32] {
        &self.places[self.starts[id] as usize..self.starts[id + 1] as usize]
    }
}

crate::multiversion! {
    fn add(sum: &mut [f32], x: &[f32]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::Device;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(cases(24))]

        #[test]
        fn agrees(v in 1usize..50, d in 1usize..40, n in 1usize..200) {
            let ids = random_ids(3, n, v)?;
            check(|kernels, x| embedding(kernels, &x[0], &ids), &[random(1, (v, d))?], 1e-6)?;
        }
    }

    #[test]
    fn small_numbers() -> Result<()> {
        let weight = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
        let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu)?;
        for kernels in Kernels::ALL {
            let rows = embedding(kernels, &weight, &ids)?.to_vec2::<f32>()?;
            assert_eq!(rows, [[5., 6.], [1., 2.], [5., 6.]]);
        }
        Ok(())
    }

    #[test]
    fn agrees_over_many_tasks() -> Result<()> {
        let ids = random_ids(3, 3000, 700)?;
        check(|kernels, x| embedding(kernels, &x[0], &ids), &[random(1, (700, 65))?], 1e-6)?;
        let ids = random_ids(3, 6, 4)?;
        check_finite_differences(|kernels, x| embedding(kernels, &x[0], &ids), &[random(1, (4, 3))?])
    }

    #[test]
    fn takes_strided_gradients_and_ids() -> Result<()> {
        let (weight, ids) = (random(1, (7, 5))?, random_ids(3, 20, 7)?);
        check_strided_gradient2(&Embedding, &weight, &ids)?;
        let spread = embedding(Kernels::Portable, &weight, &strided(&ids)?)?;
        assert_close(&spread, &embedding(Kernels::Portable, &weight, &ids)?, 0.0)
    }

    #[test]
    fn bad_ids_are_errors() -> Result<()> {
        let weight = random(1, (3, 2))?;
        let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu);
        for kernels in Kernels::ALL {
            assert!(embedding(kernels, &weight, &ids(&[2, 3])?).is_err());
            assert!(embedding(kernels, &weight, &ids(&[2])?.to_dtype(DType::I64)?).is_err());
            assert_eq!(embedding(kernels, &weight, &ids(&[])?)?.dims(), [0, 2]);
        }
        Ok(())
    }
}
