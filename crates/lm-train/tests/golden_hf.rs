//! What is exported is what Hugging Face's own classes compute.
//!
//! Goldens made by `scripts/golden/hf_models.py`: logits of stock `transformers` classes, in f64, with weights and token
//! ids from an integer hash that both sides compute.

mod common;

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use common::{set_weights, stream};
use ffn_variants::{Precision, PrecisionPreset};
use kernels::Kernels;
use lm_train::config::{ConfigSource, RunConfig};
use lm_train::hf_export::export_hf;
use lm_train::loaded::LoadedRun;
use lm_train::model::{Dropout, ParamStore, Transformer};
use serde_json::Value;

const VOCAB: usize = 29;

fn config(preset: &str, d_ff: u64, tied: bool) -> RunConfig {
    let text = format!(
        "[model]\nd_model = 16\nn_layer = 2\nn_head = 2\nseq_len = 12\ntie_embeddings = {tied}\n\
         [model.ffn]\npreset = \"{preset}\"\nwidth = {{ exact = {d_ff} }}\n"
    );
    ConfigSource::from_text("golden", &text, &[]).and_then(|source| source.resolve()).expect("a config")
}

fn run(config: RunConfig, kernels: Kernels) -> LoadedRun {
    let params = ParamStore::new(0, DType::F32, &Device::Cpu);
    let precision = Precision::full();
    Transformer::new(&config.model, VOCAB, params.builder(), kernels, &precision).unwrap();
    set_weights(&params);
    let model =
        Transformer::new(&config.model, VOCAB, params.detached_builder(), kernels, &precision).unwrap();
    LoadedRun {
        path: "golden".into(),
        config,
        tokenizer: None,
        vocab_size: VOCAB,
        step: 0,
        params,
        model,
        precision,
        loss_scale: 1.0,
        summary: None,
        device: Device::Cpu,
    }
}

fn cases() -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("data/golden_hf.json")).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn run_of(case: &Value, kernels: Kernels) -> LoadedRun {
    let expected = &case["config"];
    let tied = expected["tie_word_embeddings"].as_bool().unwrap();
    let width = expected["intermediate_size"].as_u64().unwrap();
    run(config(case["preset"].as_str().unwrap(), width, tied), kernels)
}

#[test]
fn logits_are_those_of_transformers() {
    let ids: Vec<u32> = stream(1000, 24).map(|x| x % VOCAB as u32).collect();
    let ids = Tensor::from_vec(ids, (2, 12), &Device::Cpu).unwrap();
    for case in cases() {
        for kernels in Kernels::ALL {
            let logits = run_of(&case, kernels).model.forward(&ids, &Dropout::OFF).unwrap();
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            let expected = case["logits"].as_array().unwrap();
            assert_eq!(logits.len(), expected.len());
            for (i, (ours, theirs)) in logits.iter().zip(expected).enumerate() {
                let (ours, theirs) = (f64::from(*ours), theirs.as_f64().unwrap());
                let place = format!("{}, {kernels}, logit {i}", case["preset"]);
                assert!((ours - theirs).abs() < 2e-5, "{place}: {ours} is not {theirs}");
            }
        }
    }
}

#[test]
fn exports_describe_the_classes_that_computed_these_logits() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let out = folder.path().join(case["preset"].as_str().unwrap());
        let run = run_of(&case, Kernels::Portable);
        export_hf(&run, &out).unwrap();
        let written: Value =
            serde_json::from_str(&std::fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
        for (key, expected) in case["config"].as_object().unwrap() {
            assert_eq!(&written[key], expected, "{}: {key}", case["preset"]);
        }
        let tensors = candle_core::safetensors::load(out.join("model.safetensors"), &Device::Cpu).unwrap();
        let names: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        let expected = case["parameters"].as_array().unwrap();
        assert_eq!(names, expected.iter().map(|name| name.as_str().unwrap()).collect());
        for param in run.params.vars() {
            let difference = (&tensors[&param.name] - param.var.as_tensor()).unwrap().abs().unwrap();
            assert_eq!(difference.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0, "{}", param.name);
        }
    }
}

#[test]
fn what_no_stock_class_computes_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (preset, reason) in [
        ("gtu", "Llama's up branch is linear, this one applies tanh"),
        ("drelu", "Llama's up branch is linear, this one applies relu"),
        ("hardswish", "transformers has no activation equal to hardswish"),
    ] {
        let out = folder.path().join(preset);
        let error = export_hf(&run(config(preset, 43, false), Kernels::Portable), &out).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!out.exists(), "nothing is written for {preset}");
    }
    let mut bitnet = run(config("swiglu", 43, false), Kernels::Portable);
    bitnet.config.precision.preset = Some(PrecisionPreset::BitnetB158);
    let error = export_hf(&bitnet, &folder.path().join("bitnet")).unwrap_err().to_string();
    assert!(error.contains("bitnet_b158") && error.contains("SubLN"), "{error}");
}
