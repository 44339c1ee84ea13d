//! Ten training steps of every preset equal those of an independent implementation (PyTorch in f64).
//!
//! Made by `scripts/golden/losses.py`; weights and tokens come from an integer hash that both sides compute.

use candle_core::{Device, Tensor};
use kernels::Kernels;
use lm_train::config::{ConfigSource, RunConfig};
use lm_train::data::Batch;
use lm_train::session::Session;

const VOCAB: usize = 29;
const STEPS: u64 = 10;

fn config(preset: &str, d_ff: usize) -> RunConfig {
    let text = format!(
        r#"
        [model]
        d_model = 16
        n_layer = 2
        n_head = 2
        seq_len = 12
        [model.ffn]
        preset = "{preset}"
        width = {{ exact = {d_ff} }}
        [optim]
        lr = 1e-2
        beta1 = 0.9
        beta2 = 0.95
        weight_decay = 0.1
        grad_clip = 0.5
        [schedule]
        kind = "constant"
        warmup_steps = 3
        [train]
        steps = {STEPS}
        batch_size = 3
        "#
    );
    ConfigSource::from_text("golden", &text, &[]).and_then(|source| source.resolve()).expect("a config")
}

/// The lowbias32 integer hash.
fn hash32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

fn stream(number: u32, count: usize) -> impl Iterator<Item = u32> {
    (0..count as u32).map(move |i| hash32(i + (number << 20)))
}

/// Weights by the same formula as the script: streams numbered in the order of the names.
fn set_weights(session: &Session) {
    let mut params = session.params().vars();
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

fn batch(step: u64) -> Batch {
    let ids: Vec<u32> = stream(1000 + step as u32, 2 * 3 * 12).map(|x| x % VOCAB as u32).collect();
    Batch { inputs: ids[..36].to_vec(), targets: ids[36..].to_vec(), batch_size: 3, seq_len: 12 }
}

#[test]
fn losses_and_gradient_norms_agree_with_pytorch() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("data/golden_losses.json")).unwrap();
    let presets = golden["presets"].as_object().unwrap();
    let known: Vec<&str> = ffn_variants::FfnPreset::ALL.iter().map(|p| p.name()).collect();
    assert_eq!(known.len(), presets.len(), "every preset has its golden");
    for kernels in Kernels::ALL {
        for preset in &known {
            let ffn = lm_train::config::ModelConfig::default().ffn;
            assert!(ffn.resolve(16).is_ok());
            let gated = preset_is_gated(preset);
            let config = config(preset, if gated { 43 } else { 64 });
            let mut session = Session::new(&config, VOCAB, &Device::Cpu, kernels).unwrap();
            set_weights(&session);
            for step in 0..STEPS {
                let stats = session.step(step, &batch(step)).unwrap();
                let expect = |key: &str| presets[*preset][key][step as usize].as_f64().unwrap();
                let (loss, norm) = (expect("losses"), expect("grad_norms"));
                let place = format!("{preset}, {kernels}, step {step}");
                assert!(
                    (stats.loss - loss).abs() < 5e-5 * loss,
                    "{place}: loss {} is not {loss}",
                    stats.loss
                );
                assert!(
                    (stats.grad_norm - norm).abs() < 1e-3 * norm,
                    "{place}: norm {} is not {norm}",
                    stats.grad_norm
                );
            }
        }
    }
}

fn preset_is_gated(name: &str) -> bool {
    let preset = ffn_variants::FfnPreset::ALL.into_iter().find(|p| p.name() == name).expect("a preset");
    match preset.kind() {
        ffn_variants::FfnKind::Gated { .. } => true,
        ffn_variants::FfnKind::Ungated { .. } => false,
    }
}
