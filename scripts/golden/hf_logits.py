#!/usr/bin/env python3
"""Golden logits and perplexity of exported runs, computed by Hugging Face transformers.

    python3 -m venv venv && venv/bin/pip install torch transformers numpy
    venv/bin/python scripts/golden/hf_logits.py EXPORT_DIR... > logits.json

For every folder written by `ffnlab export RUN --to hf DIR`: the class that AutoModelForCausalLM picks, the logits of a
fixed prompt, the tokens the exported tokenizer gives it, and the sliding-window loss of `text` as in the Hugging Face
perplexity guide (stride = half the context).
"""
import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "the old man said that"


def sliding_loss(model, ids, stride):
    """Mean nats per token over every token but the first, each scored once with at most the model's context."""
    context = model.config.max_position_embeddings
    total, count, end_before = 0.0, 0, 1
    start = 0
    while end_before < len(ids):
        window = ids[start : start + context + 1]
        with torch.no_grad():
            logp = model(window[:-1][None]).logits[0].double().log_softmax(-1)
        targets = window[1:]
        nats = -logp[torch.arange(len(targets)), targets]
        fresh = start + 1 + len(targets) - end_before
        total, count = total + nats[-fresh:].sum().item(), count + fresh
        end_before = start + 1 + len(targets)
        start += stride
    return total / count, count


def main():
    result = {"made_by": {"script": "scripts/golden/hf_logits.py", "torch": torch.__version__,
                          "transformers": transformers.__version__}, "exports": {}}
    for folder in sys.argv[1:]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = torch.tensor(tokenizer(PROMPT)["input_ids"])
        assert tokenizer.decode(ids) == PROMPT, tokenizer.decode(ids)
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        text = torch.tensor(tokenizer(PROMPT * 40)["input_ids"])
        loss, count = sliding_loss(model, text, model.config.max_position_embeddings // 2)
        result["exports"][folder] = {
            "class": type(model).__name__, "ids": ids.tolist(), "last_logits": logits[-1].double().tolist(),
            "text": PROMPT * 40, "loss": loss, "tokens": count,
        }
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
