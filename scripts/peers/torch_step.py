#!/usr/bin/env python3
"""Time of one training step in PyTorch on a CPU, of the model that `ffnlab bench` times.

    python scripts/peers/torch_step.py --d-model 256 --layers 6 --heads 8 --ctx 256 --vocab 4096 --d-ff 688 --batch 16

Llama's layout: RMSNorm before each block, rotary positions, causal attention, a SwiGLU or ReLU block, no biases, head tied
or not. A step is forward, cross-entropy, backward, clipping to a global norm of 1 and AdamW, on uniformly random tokens which
are drawn before the clock starts. Prints one JSON line. What PyTorch has to offer is used: one product for q, k and v,
`scaled_dot_product_attention`, `rms_norm`, fused AdamW, and `torch.compile` if asked.
"""
import argparse
import json
import math
import os
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [("d-model", 256), ("layers", 6), ("heads", 8), ("ctx", 256), ("vocab", 4096), ("batch", 16)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ffn", choices=["swiglu", "relu"], default="swiglu")
    parser.add_argument("--d-ff", type=int, default=0,
                        help="0: 4 d_model for relu; 8/3 d_model, rounded up to a multiple of 16, for swiglu")
    parser.add_argument("--tied", action="store_true", help="the token embedding is the output head too")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "bf16_pure"], default="fp32",
                        help="bf16: f32 weights under autocast; bf16_pure: weights, gradients and moments in bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile of forward and backward")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first timed one, at least 1")
    parser.add_argument("--budget", type=float, default=math.inf,
                        help="seconds after which no further step begins, except one timed step after one untimed")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def default_d_ff(ffn, d_model):
    return 4 * d_model if ffn == "relu" else -(-8 * d_model // 48) * 16


class Attention(nn.Module):
    def __init__(self, d_model, heads):
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        q, k, v = self.qkv_proj(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, d))


def rotate(x, cos, sin):
    """Rotary positions; the two halves of a head's dimensions are the two coordinates."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Ffn(nn.Module):
    def __init__(self, kind, d_model, d_ff):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False) if kind == "swiglu" else None
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x):
        if self.gate_proj is None:
            return self.down_proj(F.relu(self.up_proj(x)))
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.input_norm = nn.RMSNorm(a.d_model, eps=1e-5)
        self.attention = Attention(a.d_model, a.heads)
        self.ffn_norm = nn.RMSNorm(a.d_model, eps=1e-5)
        self.ffn = Ffn(a.ffn, a.d_model, a.d_ff)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.input_norm(x), cos, sin)
        return x + self.ffn(self.ffn_norm(x))


class Transformer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.embed_tokens = nn.Embedding(a.vocab, a.d_model)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.layers))
        self.norm = nn.RMSNorm(a.d_model, eps=1e-5)
        self.lm_head = nn.Linear(a.d_model, a.vocab, bias=False)
        residual_std = 0.02 / math.sqrt(2 * a.layers)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=residual_std if writes else 0.02)
        if a.tied:
            self.lm_head.weight = self.embed_tokens.weight
        half = a.d_model // a.heads // 2
        rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.outer(torch.arange(a.ctx, dtype=torch.float64), rates)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.lm_head(self.norm(x))


def loss_of(model, ids, targets):
    return F.cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten())


def peak_rss_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # as `ffnlab bench` takes it; KiB on Linux


def main(a):
    a.d_ff = a.d_ff or default_d_ff(a.ffn, a.d_model)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rss_loaded = peak_rss_mib()
    model = Transformer(a)
    if a.dtype == "bf16_pure":
        model = model.to(torch.bfloat16)
    weights = list(model.parameters())
    groups = [{"params": [w for w in weights if w.dim() >= 2], "weight_decay": 0.1},
              {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)
    forward = torch.compile(loss_of) if a.compile else loss_of

    def step(ids, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = forward(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    begun = time.perf_counter()
    warmup, untimed, timed, losses = max(1, a.warmup), [], [], []
    while len(timed) < max(1, a.steps):
        late = time.perf_counter() - begun > a.budget
        if timed and late:
            break
        ids, targets = torch.randint(a.vocab, (2, a.batch, a.ctx))
        started = time.perf_counter()
        losses.append(step(ids, targets))
        seconds = time.perf_counter() - started
        (timed if untimed and (late or len(untimed) >= warmup) else untimed).append(seconds)
    tokens, median = a.batch * a.ctx, statistics.median(timed)
    print(json.dumps({
        "tokens_per_s": tokens / median, "step_ms": 1e3 * median, "steps_ms": [round(1e3 * s, 3) for s in timed],
        "untimed_ms": [round(1e3 * s, 3) for s in untimed], "peak_rss_mb": peak_rss_mib(), "rss_loaded_mb": rss_loaded,
        "params": sum(w.numel() for w in weights), "loss_first": losses[0], "loss_last": losses[-1], "losses": losses,
        "tokens_per_step": tokens, "steps": len(timed), "d_ff": a.d_ff, "threads": torch.get_num_threads(),
        "dtype": a.dtype, "mode": "compile" if a.compile else "eager", "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }))


if __name__ == "__main__":
    main(arguments())
