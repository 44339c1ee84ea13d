//! No parameter of any variant is left without a gradient, and the gradient is the right one.

use candle_core::{DType, Device, Tensor, Var};
use ffn_variants::{Activation, FfnPreset, Precision, PrecisionPreset};
use kernels::Kernels;
use lm_train::config::{ConfigSource, ModelConfig};
use lm_train::model::{Dropout, ParamStore, Transformer, count_params};

const VOCAB: usize = 11;

fn model_config(ffn: &str, tied: bool) -> ModelConfig {
    let text = format!(
        "[model]\nd_model = 8\nn_layer = 2\nn_head = 2\nseq_len = 6\ninit_std = 0.3\ntie_embeddings = {tied}\n\
         [model.ffn]\n{ffn}\nwidth = {{ exact = 10 }}\n"
    );
    ConfigSource::from_text("test", &text, &[]).and_then(|s| s.resolve()).expect("a config").model
}

fn tokens() -> (Tensor, Tensor) {
    let ids: Vec<u32> = (0..12u32).map(|i| (i * 7 + i * i) % VOCAB as u32).collect();
    let targets: Vec<u32> = (0..12u32).map(|i| (i * 5 + 3) % VOCAB as u32).collect();
    let ids = Tensor::from_vec(ids, (2, 6), &Device::Cpu).unwrap();
    (ids, Tensor::from_vec(targets, 12, &Device::Cpu).unwrap())
}

/// Every way to spell a feed-forward block: the presets, and every activation alone, as gate and as up branch.
fn all_blocks() -> Vec<String> {
    let mut blocks: Vec<String> =
        FfnPreset::ALL.iter().map(|p| format!("preset = \"{}\"", p.name())).collect();
    for activation in Activation::ALL {
        let name = match activation {
            Activation::Swish { .. } => "{ swish = { beta = 1.5 } }".to_owned(),
            other => format!("\"{}\"", other.name()),
        };
        blocks.push(format!("kind = \"ungated\"\nactivation = {name}"));
        blocks.push(format!("kind = \"gated\"\ngate = {name}"));
        blocks.push(format!("kind = \"gated\"\ngate = \"silu\"\nup = {name}"));
    }
    blocks
}

#[test]
fn every_parameter_of_every_variant_receives_a_gradient() {
    let (ids, targets) = tokens();
    for kernels in Kernels::ALL {
        for block in all_blocks() {
            let config = model_config(&block, false);
            let params = ParamStore::new(0, DType::F32, &Device::Cpu);
            let model =
                Transformer::new(&config, VOCAB, params.builder(), kernels, &Precision::full()).unwrap();
            let loss = model.loss(&ids, &targets, &Dropout::OFF).unwrap();
            let grads = kernels::backward(&loss).unwrap();
            let vars = params.vars();
            let ffn = config.ffn.resolve(config.d_model).unwrap();
            assert_eq!(vars.len(), 3 + 2 * (6 + ffn.parameters().len()));
            for param in &vars {
                let grad = grads
                    .get(&param.var)
                    .unwrap_or_else(|| panic!("{} has no gradient: {block}", param.name));
                let square = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(square.is_finite() && square > 0.0, "{}: {square} ({block}, {kernels})", param.name);
            }
        }
    }
}

#[test]
fn every_parameter_receives_a_gradient_in_every_precision() {
    let text = "[model]\nd_model = 128\nn_layer = 1\nn_head = 2\nseq_len = 16\ninit_std = 0.1\n\
                [model.ffn]\npreset = \"PRESET\"\nwidth = { exact = 128 }\n";
    let ids: Vec<u32> = (0..128u32).map(|i| (i * 7 + i * i) % VOCAB as u32).collect();
    let targets: Vec<u32> = (0..128u32).map(|i| (i * 5 + 3) % VOCAB as u32).collect();
    let ids = Tensor::from_vec(ids, (8, 16), &Device::Cpu).unwrap();
    let targets = Tensor::from_vec(targets, 128, &Device::Cpu).unwrap();
    for precision in PrecisionPreset::ALL {
        for (ffn, kernels) in
            ["relu_squared", "swiglu"].into_iter().flat_map(|f| Kernels::ALL.map(|k| (f, k)))
        {
            let text = text.replace("PRESET", ffn);
            let config = ConfigSource::from_text("test", &text, &[]).and_then(|s| s.resolve()).unwrap().model;
            let params = ParamStore::new(0, DType::F32, &Device::Cpu);
            let recipe = precision.recipe();
            let promised =
                count_params(&config, &config.ffn.resolve(128).unwrap(), VOCAB, recipe.sub_norm).total;
            let state = Precision::new(recipe, 1);
            let model = Transformer::new(&config, VOCAB, params.builder(), kernels, &state).unwrap();
            let loss = model.loss(&ids, &targets, &Dropout::OFF).unwrap();
            let grads = kernels::backward(&loss).unwrap();
            for param in params.vars() {
                let place = format!("{} ({ffn}, {precision}, {kernels})", param.name);
                let grad = grads.get(&param.var).unwrap_or_else(|| panic!("{place} has no gradient"));
                let square = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(square.is_finite() && square > 0.0, "{place}: {square}");
            }
            let real: usize = params.vars().iter().map(|param| param.var.elem_count()).sum();
            assert_eq!(real, promised, "{precision}");
        }
    }
}

#[test]
fn gradients_equal_finite_differences_in_f64() {
    let (ids, targets) = tokens();
    for (block, tied) in
        [("preset = \"swiglu\"", false), ("preset = \"gelu\"", true), ("preset = \"gtu\"", false)]
    {
        let config = model_config(block, tied);
        let params = ParamStore::new(3, DType::F64, &Device::Cpu);
        let model =
            Transformer::new(&config, VOCAB, params.builder(), Kernels::Reference, &Precision::full())
                .unwrap();
        let loss = || model.loss(&ids, &targets, &Dropout::OFF).unwrap();
        let grads = kernels::backward(&loss()).unwrap();
        for param in params.vars() {
            let grad = grads.get(&param.var).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let values = param.var.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for index in [0, values.len() / 2, values.len() - 1] {
                let at = |delta: f64| {
                    let mut moved = values.clone();
                    moved[index] += delta;
                    set(&param.var, &moved);
                    let value = loss().to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                    set(&param.var, &values);
                    value
                };
                let h = 1e-5;
                let difference = (at(h) - at(-h)) / (2.0 * h);
                let error = (difference - grad[index]).abs();
                assert!(
                    error < 1e-7 + 1e-5 * difference.abs(),
                    "{} [{index}]: {} is not {difference}",
                    param.name,
                    grad[index]
                );
            }
        }
    }
}

fn set(var: &Var, values: &[f64]) {
    var.set(&Tensor::from_slice(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
}

#[test]
fn counts_equal_the_tensors() {
    for block in all_blocks() {
        for tied in [false, true] {
            let config = model_config(&block, tied);
            let params = ParamStore::new(0, DType::F32, &Device::Cpu);
            Transformer::new(&config, VOCAB, params.builder(), Kernels::Reference, &Precision::full())
                .unwrap();
            let ffn = config.ffn.resolve(config.d_model).unwrap();
            let promised = count_params(&config, &ffn, VOCAB, false);
            let count = |part: &str| -> usize {
                params.vars().iter().filter(|p| p.name.contains(part)).map(|p| p.var.elem_count()).sum()
            };
            assert_eq!(promised.total, count(""));
            assert_eq!(promised.ffn, count(".mlp."));
            assert_eq!(promised.attention, count(".self_attn."));
            assert_eq!(promised.embedding, count("embed_tokens") + count("lm_head"));
            assert_eq!(promised.norm, count("norm"));
        }
    }
}

#[test]
fn variants_of_one_seed_share_every_weight_that_both_have() {
    let params = |block: &str, seed: u64| {
        let store = ParamStore::new(seed, DType::F32, &Device::Cpu);
        Transformer::new(
            &model_config(block, false),
            VOCAB,
            store.builder(),
            Kernels::Reference,
            &Precision::full(),
        )
        .unwrap();
        store.vars()
    };
    let values = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (relu, swiglu) = (params("preset = \"relu\"", 5), params("preset = \"swiglu\"", 5));
    let mut shared = 0;
    for param in &relu {
        let twin = swiglu.iter().find(|p| p.name == param.name).expect("relu has no tensor of its own");
        assert_eq!(values(&param.var), values(&twin.var), "{}", param.name);
        shared += 1;
    }
    assert_eq!(shared, relu.len());
    assert_ne!(values(&relu[0].var), values(&params("preset = \"relu\"", 6)[0].var));
}

#[test]
fn a_token_is_predicted_from_its_past_alone() {
    for kernels in Kernels::ALL {
        let store = ParamStore::new(0, DType::F32, &Device::Cpu);
        let config = model_config("preset = \"swiglu\"", false);
        let model =
            Transformer::new(&config, VOCAB, store.detached_builder(), kernels, &Precision::full()).unwrap();
        let logits = |ids: &[u32]| {
            let ids = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
            model.forward(&ids, &Dropout::OFF).unwrap().to_vec2::<f32>().unwrap()
        };
        let (a, b) = (logits(&[1, 2, 3, 4, 5, 6]), logits(&[1, 2, 3, 9, 0, 1]));
        assert_eq!(a[..3], b[..3]);
        assert_ne!(a[3], b[3]);
        let error = model.forward(&Tensor::zeros((1, 7), DType::U32, &Device::Cpu).unwrap(), &Dropout::OFF);
        assert!(error.unwrap_err().to_string().contains('7'));
    }
}
