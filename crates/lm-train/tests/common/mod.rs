//! Weights and token ids that the golden scripts compute by the same formulas.

use candle_core::{Device, Tensor};
use lm_train::model::ParamStore;

/// The lowbias32 integer hash.
fn hash32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The first `count` numbers of a stream.
pub fn stream(number: u32, count: usize) -> impl Iterator<Item = u32> {
    (0..count as u32).map(move |i| hash32(i + (number << 20)))
}

/// Weights by the same formula as the script: streams numbered in the order of the names.
pub fn set_weights(params: &ParamStore) {
    let mut params = params.vars();
    params.sort_by(|a, b| a.name.cmp(&b.name));
    for (number, param) in params.iter().enumerate() {
        let matrix = param.var.rank() == 2;
        let value = |x: u32| {
            let u = f64::from(x) / 2f64.powi(31) - 1.0;
            (if matrix { 0.3 * u } else { 1.0 + 0.1 * u }) as f32
        };
        let values: Vec<f32> = stream(number as u32, param.var.elem_count()).map(value).collect();
        param.var.set(&Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}
