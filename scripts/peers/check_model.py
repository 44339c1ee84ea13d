#!/usr/bin/env python3
"""Holds the model of torch_step.py against golden logits of Hugging Face's classes, which ffnlab's own tests hold it to.

    python scripts/peers/check_model.py crates/lm-train/tests/data/golden_hf.json

Weights and tokens come from the integer hash of scripts/golden/hf_models.py. So both sides of the comparison compute the
same function, not only one with as many parameters.
"""
import json
import sys
from types import SimpleNamespace

import torch

from torch_step import Transformer


def stream(number, count):
    """lowbias32 of count consecutive numbers."""
    x = (torch.arange(count, dtype=torch.int64) + (number << 20)) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def weights(case, shapes):
    """The golden weights by Hugging Face's name, in f64."""
    found = {}
    for number, name in enumerate(case["parameters"]):
        shape = shapes[name]
        u = stream(number, shape.numel()).double() / 2.0**31 - 1.0
        values = 0.3 * u if len(shape) == 2 else 1.0 + 0.1 * u
        found[name] = values.float().double().reshape(shape)
    return found


def names_of(layers, gated):
    """Name here -> names there, whose tensors are stacked."""
    names = {"embed_tokens.weight": ["model.embed_tokens.weight"], "norm.weight": ["model.norm.weight"],
             "lm_head.weight": ["lm_head.weight"]}
    for i in range(layers):
        here, there = f"blocks.{i}", f"model.layers.{i}"
        names[f"{here}.input_norm.weight"] = [f"{there}.input_layernorm.weight"]
        names[f"{here}.ffn_norm.weight"] = [f"{there}.post_attention_layernorm.weight"]
        names[f"{here}.attention.qkv_proj.weight"] = [f"{there}.self_attn.{x}_proj.weight" for x in "qkv"]
        names[f"{here}.attention.o_proj.weight"] = [f"{there}.self_attn.o_proj.weight"]
        for x in (["gate"] if gated else []) + ["up", "down"]:
            names[f"{here}.ffn.{x}_proj.weight"] = [f"{there}.mlp.{x}_proj.weight"]
    return names


def check(case):
    c = case["config"]
    tied = c["tie_word_embeddings"]
    model = Transformer(SimpleNamespace(
        d_model=c["hidden_size"], layers=c["num_hidden_layers"], heads=c["num_attention_heads"], vocab=c["vocab_size"],
        ctx=c["max_position_embeddings"], d_ff=c["intermediate_size"], ffn=case["preset"], tied=tied)).double()
    names = names_of(c["num_hidden_layers"], case["preset"] == "swiglu")
    own = dict(model.named_parameters())
    shapes = {}
    for name, parts in names.items():
        if name in own:
            shape = list(own[name].shape)
            shapes.update({part: torch.Size([shape[0] // len(parts)] + shape[1:]) for part in parts})
    golden = weights(case, shapes)
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(torch.cat([golden[part] for part in names[name]]))
        logits = model(stream(1000, 24).remainder(29).reshape(2, 12))
    difference = (logits.flatten() - torch.tensor(case["logits"], dtype=torch.float64)).abs().max().item()
    print(f"{case['preset']}, {'tied' if tied else 'untied'}: largest difference of a logit {difference:.1e}")
    return difference < 1e-5  # the rotary table is f32


def main():
    with open(sys.argv[1]) as file:
        cases = [case for case in json.load(file)["cases"] if case["preset"] in ("swiglu", "relu")]
    if len(cases) != 2 or not all([check(case) for case in cases]):
        sys.exit("the model is another one")


if __name__ == "__main__":
    main()
