//! Export of a run to Hugging Face: `config.json`, `model.safetensors`, tokenizer files.
//!
//! A gated feed-forward block whose up branch is linear is Llama's (`LlamaForCausalLM`), an ungated one is Arcee's
//! (`ArceeForCausalLM`, which has squared ReLU). The checkpoint already has their names and layouts, so export writes a
//! description and copies tensors. A block that no stock class computes is refused. What is exported are the stored
//! weights; the precision in which a run was computed is not part of a Hugging Face model.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ffn_variants::{Activation, FfnKind};
use serde_json::json;

use crate::loaded::LoadedRun;
use crate::record::{write_atomic, write_atomic_with, write_tensors};

/// Stock class and its name for the activation.
struct Target {
    architecture: &'static str,
    model_type: &'static str,
    hidden_act: &'static str,
}

/// Writes the run to `out`, which must not exist or be empty.
///
/// # Errors
/// A variant that no stock class computes, a folder that is not empty, a full disk.
pub fn export_hf(run: &LoadedRun, out: &Path) -> Result<()> {
    let model = &run.config.model;
    let ffn = model.ffn.resolve(model.d_model)?;
    let target = target(&ffn.kind, &ffn.name())?;
    let recipe = run.config.precision.resolve()?;
    if recipe.sub_norm {
        bail!(
            "no stock Hugging Face class computes a run in {}: its norms before the output projections (SubLN) are not \
             in Llama or Arcee",
            recipe.name
        );
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; export into a new folder", out.display());
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let eos = run.tokenizer.as_ref().and_then(|t| t.eos());
    let config = json!({
        "architectures": [target.architecture],
        "model_type": target.model_type,
        "hidden_act": target.hidden_act,
        "vocab_size": run.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": ffn.d_ff,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_head,
        "head_dim": model.d_head(),
        "max_position_embeddings": model.seq_len,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": { "rope_type": "default", "rope_theta": model.rope_theta },
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": null,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    let weights: Vec<_> =
        run.params.vars().into_iter().map(|p| (p.name, p.var.as_detached_tensor())).collect();
    write_atomic_with(&out.join("model.safetensors"), |file| write_tensors(file, &weights))?;
    if let Some(tokenizer) = &run.tokenizer {
        write_atomic(&out.join("tokenizer.json"), tokenizer.json().as_bytes())?;
        let eos = eos.and_then(|id| tokenizer.name_of(id));
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": eos,
            "eos_token": eos,
            "model_max_length": model.seq_len,
            "clean_up_tokenization_spaces": false,
        });
        write_json(&out.join("tokenizer_config.json"), &tokenizer_config)?;
    }
    let generation = json!({ "bos_token_id": eos, "eos_token_id": eos, "do_sample": true });
    write_json(&out.join("generation_config.json"), &generation)?;
    // Last: a folder with a config.json is a complete export.
    write_json(&out.join("config.json"), &config)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    write_atomic(path, &serde_json::to_vec_pretty(value)?)
}

fn target(kind: &FfnKind, name: &str) -> Result<Target> {
    let (architecture, model_type, activation) = match kind {
        FfnKind::Gated { gate, up: Activation::Identity } => ("LlamaForCausalLM", "llama", gate),
        FfnKind::Gated { up, .. } => bail!(
            "no stock Hugging Face class computes {name}: Llama's up branch is linear, this one applies {}",
            up.name()
        ),
        FfnKind::Ungated { activation } => ("ArceeForCausalLM", "arcee", activation),
    };
    match hidden_act(activation) {
        Some(hidden_act) => Ok(Target { architecture, model_type, hidden_act }),
        None => bail!(
            "no stock Hugging Face class computes {name}: transformers has no activation equal to {} ({})",
            activation.name(),
            activation.formula()
        ),
    }
}

/// Name of an activation in `transformers.activations.ACT2FN`, where the function is the same.
fn hidden_act(activation: &Activation) -> Option<&'static str> {
    match activation {
        Activation::Identity => Some("linear"),
        Activation::Relu => Some("relu"),
        Activation::LeakyRelu => Some("leaky_relu"),
        Activation::Relu6 => Some("relu6"),
        Activation::GeluErf => Some("gelu"),
        Activation::GeluTanh => Some("gelu_pytorch_tanh"),
        Activation::Silu => Some("silu"),
        Activation::Swish { beta } if *beta == 1.0 => Some("silu"),
        Activation::Mish => Some("mish"),
        Activation::Sigmoid => Some("sigmoid"),
        Activation::Tanh => Some("tanh"),
        Activation::ReluSquared => Some("relu2"),
        Activation::Swish { .. }
        | Activation::Elu
        | Activation::Selu
        | Activation::Hardswish
        | Activation::Softplus
        | Activation::LeakyReluSquared => None,
    }
}
