//! Ten training steps of every preset equal those of an independent implementation (PyTorch in f64).
//!
//! Made by `scripts/golden/losses.py`; weights and tokens come from an integer hash that both sides compute.

mod common;

use candle_core::Device;
use common::{set_weights, stream};
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
            set_weights(session.params());
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
