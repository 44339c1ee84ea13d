//! Derivatives of activations in a model that has just been drawn.

use anyhow::Context;
use candle_core::{DType, Device};
use ffn_variants::{Activation, Ffn, FfnConfig, FfnInit, FfnKind, FfnPreset, Precision, RmsNorm};
use kernels::Kernels;
use lm_train::config::{ConfigSource, ModelConfig};
use lm_train::model::{ParamStore, Transformer};

use super::{AtStart, Check};
use crate::stats::{Effect, mean};

/// The model of `reproduce shazeer --scale small`, and the size of its vocabulary.
const CONFIG: &str = include_str!("../../../../../configs/shazeer/small.toml");
const VOCABULARY: usize = 2048;

/// Share of zero derivatives of ReLU and of Swish, over freshly drawn models.
pub(super) fn zero_derivatives(bounds: &AtStart) -> anyhow::Result<Vec<Check>> {
    let mut config = ConfigSource::from_text("configs/shazeer/small.toml", CONFIG, &[])?.resolve()?.model;
    config.ffn.preset = Some(FfnPreset::Relu);
    let mut shares = [Vec::new(), Vec::new()];
    for seed in 0..bounds.draws {
        let inputs = pre_activations(&config, seed)?;
        for (shares, activation) in shares.iter_mut().zip([Activation::Relu, Activation::Silu]) {
            let zero = |x: &&f32| activation.derivative_f64(f64::from(**x)).abs() < bounds.floor;
            shares.push(inputs.iter().filter(zero).count() as f64 / inputs.len() as f64);
        }
    }
    let [relu, swish] = &shares;
    let [of_relu, of_swish] = [mean(relu), mean(swish)].map(Option::unwrap_or_default);
    let differences: Vec<f64> = relu.iter().zip(swish).map(|(relu, swish)| relu - swish).collect();
    // Without any spread over draws there is no interval, and nothing is shown.
    let interval = |values: &[f64]| Effect::of_mean(values).and_then(|effect| effect.interval(0.95)).ok();
    let above = interval(&differences);
    let half = (of_relu - 0.5).abs() <= bounds.tolerance;
    let asked = format!("0.5 ± {}", bounds.tolerance);
    let holds = above.is_some_and(|interval| interval.low > 0.0);
    let mut checks = vec![
        Check::asks("share of zero derivatives of ReLU", of_relu, asked, half),
        Check::shows("share of zero derivatives of Swish", of_swish),
        Check::asks("ReLU minus Swish", of_relu - of_swish, "above 0".to_owned(), holds),
    ];
    for (check, interval) in checks.iter_mut().zip([interval(relu), interval(swish), above]) {
        check.interval = interval;
    }
    Ok(checks)
}

/// norm(x) W_up of the first ReLU block, for every token of the vocabulary. What an untrained attention would add to the
/// embedding is left out.
fn pre_activations(config: &ModelConfig, seed: u64) -> anyhow::Result<Vec<f32>> {
    let params = ParamStore::new(seed, DType::F32, &Device::Cpu);
    let full = Precision::full();
    let kernels = Kernels::Portable;
    // Draws every tensor, as training would.
    Transformer::new(config, VOCABULARY, params.builder(), kernels, &full)?;
    let embedding = params.vars().into_iter().find(|var| var.name == "model.embed_tokens.weight");
    let embedding = embedding.context("the model has no embedding")?.var.as_detached_tensor();
    let first = params.detached_builder().pp("model").pp("layers").pp(0);
    let norm =
        RmsNorm::new(config.d_model, config.norm_eps, first.pp("post_attention_layernorm"), kernels, &full)?;
    let d_ff = config.ffn.resolve(config.d_model)?.d_ff;
    let linear = FfnConfig {
        kind: FfnKind::Ungated { activation: Activation::Identity },
        d_model: config.d_model,
        d_ff,
    };
    let init = FfnInit { std: config.init_std, down_std: config.init_std, norm_eps: config.norm_eps };
    let block = Ffn::new(&linear, first.pp("mlp"), kernels, init, &full)?;
    Ok(block.hidden(&norm.forward(&embedding)?)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_relu_is_zero_and_swish_is_not() {
        let checks = zero_derivatives(&AtStart { draws: 3, tolerance: 0.02, floor: 1e-6 }).unwrap();
        assert!(checks.iter().all(|check| check.holds), "{checks:#?}");
        assert!(checks[1].value < 0.001 && checks[0].value > 0.45, "{checks:#?}");
        // With a floor near its slope at zero, Swish counts as saturated too.
        let blunt = zero_derivatives(&AtStart { draws: 3, tolerance: 0.02, floor: 0.49 }).unwrap();
        assert!((0.2..0.5).contains(&blunt[1].value), "{blunt:#?}");
        let all = zero_derivatives(&AtStart { draws: 3, tolerance: 0.02, floor: 2.0 }).unwrap();
        assert!(all[1].value == 1.0 && all[1].interval.is_none() && !all[2].holds, "{all:#?}");
    }
}
