#!/usr/bin/env python3
"""Golden training losses from an independent implementation (PyTorch, float64).

    python3 -m venv venv && venv/bin/pip install torch numpy
    venv/bin/python scripts/golden/losses.py > crates/lm-train/tests/data/golden_losses.json

For every named feed-forward preset: ten steps of a tiny decoder-only transformer (pre-RMSNorm, RoPE, causal attention,
no biases), cross-entropy, clipping to a global norm, AdamW with decay on matrices only. Weights and tokens come from a
32-bit integer hash that both sides compute, so nothing but this file is shared with the Rust code.
"""
import json
import math
import platform

import numpy as np
import torch
import torch.nn.functional as F

D_MODEL, N_LAYER, N_HEAD, SEQ_LEN, VOCAB, BATCH, STEPS = 16, 2, 2, 12, 29, 3, 10
EPS, THETA = 1e-5, 10000.0
LR, WARMUP, BETAS, ADAM_EPS, DECAY, CLIP = 1e-2, 3, (0.9, 0.95), 1e-8, 0.1, 0.5
D_FF_UNGATED, D_FF_GATED = 64, 43

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "gelu_erf": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x * torch.sigmoid(x),
    "hardswish": F.hardswish,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu_squared": lambda x: torch.relu(x) ** 2,
}
# preset -> (activation, None) for two matrices, (gate, up) for three
PRESETS = {
    "relu": ("relu", None), "gelu": ("gelu_erf", None), "swish": ("silu", None), "hardswish": ("hardswish", None),
    "mish": ("mish", None), "relu_squared": ("relu_squared", None),
    "glu": ("sigmoid", "identity"), "gtu": ("sigmoid", "tanh"), "bilinear": ("identity", "identity"),
    "reglu": ("relu", "identity"), "geglu": ("gelu_erf", "identity"), "swiglu": ("silu", "identity"),
    "drelu": ("relu", "relu"), "relu_squared_glu": ("relu_squared", "identity"), "mish_glu": ("mish", "identity"),
    "hardswish_glu": ("hardswish", "identity"),
}


def hash32(x):
    """The lowbias32 integer hash on a uint64 array holding 32-bit values."""
    m = np.uint64(0xFFFFFFFF)
    x = x & m
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x7FEB352D)) & m
    x ^= x >> np.uint64(15)
    x = (x * np.uint64(0x846CA68B)) & m
    return x ^ (x >> np.uint64(16))


def uniform(stream, count):
    """Values in [-1, 1) for one stream number."""
    x = hash32(np.arange(count, dtype=np.uint64) + (np.uint64(stream) << np.uint64(20)))
    return x.astype(np.float64) / 2**31 - 1.0


def build(preset):
    """Named float64 parameters, drawn in the order of the checkpoint's names."""
    gated = PRESETS[preset][1] is not None
    d_ff = D_FF_GATED if gated else D_FF_UNGATED
    shapes = {"model.embed_tokens.weight": (VOCAB, D_MODEL)}
    for n in range(N_LAYER):
        p = f"model.layers.{n}."
        shapes[p + "input_layernorm.weight"] = (D_MODEL,)
        for name in "qkvo":
            shapes[p + f"self_attn.{name}_proj.weight"] = (D_MODEL, D_MODEL)
        shapes[p + "post_attention_layernorm.weight"] = (D_MODEL,)
        if gated:
            shapes[p + "mlp.gate_proj.weight"] = (d_ff, D_MODEL)
        shapes[p + "mlp.up_proj.weight"] = (d_ff, D_MODEL)
        shapes[p + "mlp.down_proj.weight"] = (D_MODEL, d_ff)
    shapes["model.norm.weight"] = (D_MODEL,)
    shapes["lm_head.weight"] = (VOCAB, D_MODEL)
    params = {}
    for stream, name in enumerate(sorted(shapes)):
        u = uniform(stream, int(np.prod(shapes[name]))).reshape(shapes[name])
        value = 1.0 + 0.1 * u if len(shapes[name]) == 1 else 0.3 * u
        # The weights themselves are float32 numbers; only the arithmetic is float64.
        params[name] = torch.tensor(value.astype(np.float32).astype(np.float64), requires_grad=True)
    return params


def rms_norm(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def rope(x):
    d = x.shape[-1]
    inv = THETA ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), inv)
    cos, sin = angle.cos().float().double(), angle.sin().float().double()
    a, b = x[..., : d // 2], x[..., d // 2:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def forward(params, preset, ids):
    act, up_act = PRESETS[preset]
    b, t = ids.shape
    d_head = D_MODEL // N_HEAD
    x = params["model.embed_tokens.weight"][ids]
    mask = torch.ones(t, t, dtype=torch.bool).triu(1)
    for n in range(N_LAYER):
        p = f"model.layers.{n}."
        w = lambda name: params[p + name + ".weight"]
        h = rms_norm(x, w("input_layernorm"))
        heads = lambda name: (h @ w(f"self_attn.{name}_proj").T).view(b, t, N_HEAD, d_head).transpose(1, 2)
        q, k, v = rope(heads("q")), rope(heads("k")), heads("v")
        scores = (q @ k.transpose(-1, -2) / math.sqrt(d_head)).masked_fill(mask, float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, D_MODEL)
        x = x + y @ w("self_attn.o_proj").T
        h = rms_norm(x, w("post_attention_layernorm"))
        up = h @ w("mlp.up_proj").T
        if up_act is None:
            hidden = ACTIVATIONS[act](up)
        else:
            hidden = ACTIVATIONS[act](h @ w("mlp.gate_proj").T) * ACTIVATIONS[up_act](up)
        x = x + hidden @ w("mlp.down_proj").T
    return rms_norm(x, params["model.norm.weight"]) @ params["lm_head.weight"].T


def batch(step):
    raw = hash32(np.arange(2 * BATCH * SEQ_LEN, dtype=np.uint64) + np.uint64((1000 + step) << 20)) % np.uint64(VOCAB)
    ids = torch.tensor(raw.astype(np.int64))
    return ids[: BATCH * SEQ_LEN].view(BATCH, SEQ_LEN), ids[BATCH * SEQ_LEN:]


def train(preset):
    params = build(preset)
    decayed = [p for p in params.values() if p.dim() >= 2]
    others = [p for p in params.values() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=ADAM_EPS)
    losses, norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP)
        ids, targets = batch(step)
        loss = F.cross_entropy(forward(params, preset, ids).view(-1, VOCAB), targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(params.values()), CLIP)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return {"losses": losses, "grad_norms": norms}


def main():
    runs = {preset: train(preset) for preset in PRESETS}
    made_by = {"script": "scripts/golden/losses.py", "python": platform.python_version(), "torch": torch.__version__,
               "numpy": np.__version__, "dtype": "float64"}
    print(json.dumps({"made_by": made_by, "presets": runs}, indent=1))


if __name__ == "__main__":
    main()
