//! Effective rank: how many directions a set of vectors really uses.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;

/// The Gram matrix HᵀH of the rows of H [n, d] that arrive in parts, in f64.
#[derive(Clone, Debug, Default)]
pub struct Gram {
    sum: Option<Tensor>,
}

impl Gram {
    /// Adds rows of width `d`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn add(&mut self, rows: &[f32], d: usize) -> candle_core::Result<()> {
        let h = Tensor::from_slice(rows, (rows.len() / d, d), &Device::Cpu)?.to_dtype(DType::F64)?;
        let product = h.t()?.matmul(&h)?;
        self.sum = Some(match self.sum.take() {
            Some(sum) => (sum + product)?,
            None => product,
        });
        Ok(())
    }

    /// The effective rank of H (Roy & Vetterli 2007, EUSIPCO): exp(-sum p_i ln p_i) with p_i the singular values over
    /// their sum. They are the roots of the eigenvalues of HᵀH, so those below about 1e-8 of the largest are lost in
    /// rounding. `None` when every row is zero.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn effective_rank(&self) -> Result<Option<f64>> {
        let Some(sum) = &self.sum else { return Ok(None) };
        let d = sum.dim(0)?;
        let gram = DMatrix::from_vec(d, d, sum.flatten_all()?.to_vec1::<f64>()?);
        let eigenvalues = gram.symmetric_eigenvalues();
        Ok(exp_entropy(eigenvalues.iter().map(|&value| value.max(0.0).sqrt())))
    }
}

/// exp of the entropy of numbers over their sum; `None` when all are zero.
fn exp_entropy(values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let sum: f64 = values.clone().sum();
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    (sum > 0.0).then(|| values.map(|value| term(value / sum)).sum::<f64>().exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rows: &[f32], d: usize) -> Option<f64> {
        let mut gram = Gram::default();
        rows.chunks(2 * d).for_each(|part| gram.add(part, d).unwrap());
        gram.effective_rank().unwrap()
    }

    #[test]
    fn orthogonal_rows_by_hand() {
        // Singular values 2, 2, 2: all three directions.
        assert!((rank(&[2.0, 0.0, 0.0, 0.0, 0.0, -2.0, 0.0, 2.0, 0.0], 3).unwrap() - 3.0).abs() < 1e-12);
        // Singular values 3 and 1: exp(H(3/4, 1/4)).
        let expected = (4f64.ln() - 0.75 * 3f64.ln()).exp();
        assert!((rank(&[3.0, 0.0, 0.0, 1.0], 2).unwrap() - expected).abs() < 1e-12);
        // Rows along one line, whatever their lengths.
        let line: Vec<f32> = (1..50).flat_map(|i| [1.0, -2.0, 0.5].map(|x| x * i as f32)).collect();
        assert!((rank(&line, 3).unwrap() - 1.0).abs() < 1e-5);
        assert_eq!((rank(&[0.0; 6], 3), rank(&[], 3)), (None, None));
    }

    #[test]
    fn agrees_with_singular_values() {
        let rows: Vec<f32> =
            (0..40 * 6).map(|i: i32| ((i * i * 31 + i * 7) % 97 - 48) as f32 / 9.0).collect();
        let matrix = DMatrix::from_row_iterator(40, 6, rows.iter().map(|&x| f64::from(x)));
        let expected = exp_entropy(matrix.singular_values().iter().copied()).unwrap();
        assert!((rank(&rows, 6).unwrap() - expected).abs() < 1e-9 && expected > 4.0);
    }
}
