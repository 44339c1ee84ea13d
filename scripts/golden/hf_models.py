#!/usr/bin/env python3
"""Golden logits of Hugging Face's own classes, for the models that ffnlab exports.

    python3 -m venv venv && venv/bin/pip install torch transformers numpy
    venv/bin/python scripts/golden/hf_models.py > crates/lm-train/tests/data/golden_hf.json

For every case: the stock class is built from a config in the form of an exported `config.json`, its weights and the token
ids come from a 32-bit integer hash that both sides compute, and it computes the logits of two sequences in f64. The test in
Rust builds the same model from a TOML config, checks that its export writes this `config.json`, and compares the logits.
"""
import json
import sys

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = dict(vocab_size=29, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
             max_position_embeddings=12, rms_norm_eps=1e-5, rope_theta=10000.0, attention_bias=False, mlp_bias=False)
# preset, class, model_type, hidden_act, intermediate_size, tied
CASES = [
    ("swiglu", "LlamaForCausalLM", "llama", "silu", 43, False),
    ("geglu", "LlamaForCausalLM", "llama", "gelu", 43, True),
    ("reglu", "LlamaForCausalLM", "llama", "relu", 43, False),
    ("glu", "LlamaForCausalLM", "llama", "sigmoid", 43, False),
    ("bilinear", "LlamaForCausalLM", "llama", "linear", 43, False),
    ("mish_glu", "LlamaForCausalLM", "llama", "mish", 43, False),
    ("relu_squared_glu", "LlamaForCausalLM", "llama", "relu2", 43, False),
    ("relu_squared", "ArceeForCausalLM", "arcee", "relu2", 64, False),
    ("relu", "ArceeForCausalLM", "arcee", "relu", 64, True),
    ("gelu", "ArceeForCausalLM", "arcee", "gelu", 64, False),
    ("swish", "ArceeForCausalLM", "arcee", "silu", 64, False),
    ("mish", "ArceeForCausalLM", "arcee", "mish", 64, False),
]


def hash32(x):
    """lowbias32, on uint32 arrays."""
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def stream(number, count):
    return hash32(np.arange(count, dtype=np.uint32) + np.uint32(number << 20))


def set_weights(model):
    """Streams numbered in the order of the names; matrices in +-0.3, norm gains in 1 +- 0.1, rounded to f32."""
    params = sorted(model.named_parameters())
    for number, (_, param) in enumerate(params):
        u = stream(number, param.numel()).astype(np.float64) / 2.0**31 - 1.0
        values = 0.3 * u if param.dim() == 2 else 1.0 + 0.1 * u
        values = torch.from_numpy(values.astype(np.float32).astype(np.float64))
        param.data.copy_(values.reshape(param.shape))
    return [name for name, _ in params]


def main():
    ids = torch.from_numpy((stream(1000, 24) % 29).astype(np.int64)).reshape(2, 12)
    cases = []
    for preset, architecture, model_type, hidden_act, width, tied in CASES:
        config = dict(SHAPE, architectures=[architecture], model_type=model_type, hidden_act=hidden_act,
                      intermediate_size=width, tie_word_embeddings=tied)
        options = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "rope_theta")}
        options["rope_parameters"] = {"rope_type": "default", "rope_theta": SHAPE["rope_theta"]}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(model_type, **options), attn_implementation="eager", dtype=torch.float64).eval()
        assert type(model).__name__ == architecture
        names = set_weights(model.double())
        with torch.no_grad():
            logits = model(ids).logits
        assert logits.dtype == torch.float64
        cases.append({"preset": preset, "config": config, "parameters": names,
                      "logits": [round(x, 9) for x in logits.flatten().tolist()]})
    json.dump({"made_by": {"script": "scripts/golden/hf_models.py", "torch": torch.__version__,
                           "transformers": transformers.__version__}, "cases": cases}, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
