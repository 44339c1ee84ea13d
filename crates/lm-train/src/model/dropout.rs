//! Dropout whose masks are keyed, so that a resumed run draws what an uninterrupted one would have drawn.

use candle_core::{Result, Tensor};
use rand::Rng;

use crate::rng::Key;

/// Dropout of one forward pass; `Dropout::OFF` in evaluation.
#[derive(Clone, Debug)]
pub struct Dropout {
    rate: f64,
    key: Option<Key>,
}

impl Dropout {
    /// Leaves everything as it is.
    pub const OFF: Self = Self { rate: 0.0, key: None };

    /// Drops a share `rate`; `key` must differ between steps and micro-batches.
    pub fn new(rate: f64, key: Key) -> Self {
        Self { rate, key: Some(key) }
    }

    /// Whether it leaves everything as it is.
    pub fn is_off(&self) -> bool {
        self.key.is_none() || self.rate <= 0.0
    }

    /// x with a share of its elements zeroed and the rest scaled by 1 / (1 - rate). `site` names the place in the model.
    ///
    /// # Errors
    /// When the device refuses the mask.
    pub fn apply(&self, x: &Tensor, site: &str) -> Result<Tensor> {
        let Some(key) = self.key.as_ref().filter(|_| self.rate > 0.0) else { return Ok(x.clone()) };
        let mut rng = key.named(site).rng();
        let keep = (1.0 / (1.0 - self.rate)) as f32;
        let mask: Vec<f32> = (0..x.elem_count())
            .map(|_| if rng.random::<f32>() < self.rate as f32 { 0.0 } else { keep })
            .collect();
        x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn drops_the_stated_share_and_keeps_the_mean() {
        let x = Tensor::ones((100, 100), candle_core::DType::F32, &Device::Cpu).unwrap();
        let dropout = Dropout::new(0.25, Key::new(1, Purpose::Dropout).index(7));
        let y = dropout.apply(&x, "site").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64 / 1e4;
        assert!((dropped - 0.25).abs() < 0.02, "{dropped}");
        assert!(y.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
        let again = dropout.apply(&x, "site").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y, again);
        let elsewhere = dropout.apply(&x, "other").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_ne!(y, elsewhere);
    }

    #[test]
    fn off_is_the_identity() {
        let x = Tensor::ones(3, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(Dropout::OFF.apply(&x, "s").unwrap().to_vec1::<f32>().unwrap(), [1.0; 3]);
    }
}
