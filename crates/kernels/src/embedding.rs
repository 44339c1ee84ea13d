//! Rows of a table by id, and the gradient of the table.

use crate::Kernels;
use crate::buffers::{elements, fill_one, rows_per_task, with_elements};
use crate::cross_entropy::check_ids;
use crate::gathered::{Gradient, gather};
use crate::profile::{Part, Work, span};
use crate::simd::add;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

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
        let rows = OfRows::new(dy.contiguous()?, ids.clone());
        Ok((gather(weight, Gradient::Rows(rows))?, None))
    }
}

/// The gradient of a table, by the rows that were looked up.
pub(crate) struct OfRows {
    /// \[n, d\].
    dy: Tensor,
    /// \[n\].
    ids: Tensor,
}

impl OfRows {
    /// From those of the rows, \[n, d\], and their ids, \[n\], both contiguous.
    pub(crate) fn new(dy: Tensor, ids: Tensor) -> Self {
        Self { dy, ids }
    }

    /// The gradient of all of a table \[v, d\].
    pub(crate) fn dense(&self, (v, d): (usize, usize)) -> Result<Vec<f32>> {
        self.read(v * d, |dy, ids| {
            let (places, rows) = (Places::of(ids, v), rows_per_task(d));
            fill_one(v * d, (rows * d).max(1), |task, gradient| {
                for (id, gradient) in (task * rows..).zip(gradient.chunks_exact_mut(d)) {
                    places.add_rows(id, dy, gradient);
                }
            })
        })
    }

    /// Adds it to another of the table.
    pub(crate) fn add_to(&self, gradient: &mut [f32], (v, d): (usize, usize)) -> Result<()> {
        self.read(2 * self.dy.elem_count(), |dy, ids| {
            let (places, rows) = (Places::of(ids, v), rows_per_task(d));
            gradient.par_chunks_mut((rows * d).max(1)).enumerate().for_each(|(task, gradient)| {
                let mut sum = vec![];
                for (id, gradient) in (task * rows..).zip(gradient.chunks_exact_mut(d)) {
                    if !places.get(id).is_empty() {
                        sum.clear();
                        sum.resize(d, 0.0);
                        places.add_rows(id, dy, &mut sum);
                        add(gradient, &sum);
                    }
                }
            });
        })
    }

    /// Calls `f`, which goes through so many more floats.
    fn read<R>(&self, floats: usize, f: impl FnOnce(&[f32], &[u32]) -> R) -> Result<R> {
        span(Part::Embedding, Work::floats(self.dy.elem_count() + floats), || {
            with_elements([&self.dy], |[dy]| with_elements([&self.ids], |[ids]| Ok(f(dy, ids))))
        })
    }
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

    /// Adds the rows at all places of an id, in order of place.
    fn add_rows(&self, id: usize, rows: &[f32], sum: &mut [f32]) {
        for &place in self.get(id) {
            add(sum, &rows[place as usize * sum.len()..][..sum.len()]);
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
