#!/usr/bin/env python3
"""A training step in ffnlab and in PyTorch on this CPU, side by side.

    python3 scripts/peers/compare.py --python .venv/bin/python --rounds 5

Every call is a fresh process which begins on an idle machine if the machine becomes idle at all. Within a round the two are
measured right after each other, with the order reversed in every other round; ratios are taken within a round and the median
counts. PyTorch is measured eager and compiled, each with glibc's allocator as it is and told to keep its pages (which ffnlab
does by itself); of these the fastest is quoted as PyTorch's figure.

Writes DIR/rows.jsonl as it goes and DIR/table.md at the end. Call again to go on after an interruption.
"""
import argparse
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

from common import (CONFIGS, MEASURED, Rows, bench, check_arguments, common_arguments, describe, described, measured, median,
                    outcome, output, quiet, report, run, say, spread)

Model = namedtuple("Model", "config batch steps warmup")
MODELS = {
    "small": Model("small.toml", 8, 40, 5),
    "reference": Model("reference-model.toml", 16, 10, 2),
    "gpt2-124m-b1": Model("gpt2-124m.toml", 1, 4, 1),
    "gpt2-124m-b2": Model("gpt2-124m.toml", 2, 4, 1),
}
# Each precision of ffnlab, and PyTorch's name of the same; PyTorch cannot train in FP8 on a CPU.
PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "bf16_pure": "bf16_pure", "fp8_current": None}
MALLOC = {
    "keep": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"},
    "default": {},
}
FFNLAB = {"system": "ffnlab", "mode": None, "malloc": None}


def names(known):
    """An argument that lists some of the known names."""
    def parse(text):
        found = [name for name in text.split(",") if name]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return found
    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="Python that has torch [the one that runs this]")
    lists = [("--models", MODELS, list(MODELS)), ("--precisions", PRECISIONS, ["fp32", "bf16", "fp8_current"]),
             ("--ffn", ["swiglu", "relu"], ["swiglu", "relu"]), ("--torch-modes", ["eager", "compile"], ["eager", "compile"])]
    for flag, known, default in lists:
        parser.add_argument(flag, type=names(known), default=default, metavar="A,B",
                            help=f"of {', '.join(known)} [{','.join(default)}]")
    parser.add_argument("--steps", type=int, help="timed steps of each call [by model]")
    parser.add_argument("--budget", type=float, default=60, metavar="S",
                        help="PyTorch begins no step after this, but makes one untimed and one timed [60]")
    parser.add_argument("--slow", type=float, default=5, metavar="X",
                        help="where PyTorch's step takes X times ffnlab's, one measurement of that mode has to do [5]")
    common_arguments(parser, "peers")
    args = parser.parse_args()
    check_arguments(args)
    args.precisions = [name for name in PRECISIONS if name in args.precisions]
    return args


def d_ff(ffn, shape):
    return 4 * shape["d_model"] if ffn == "relu" else shape["ffn"]["width"]["exact"]


def ffnlab_command(args, model, ffn, precision, steps, warmup):
    shape = tomllib.loads((CONFIGS / model.config).read_text())["model"]
    overrides = [f"train.batch_size={model.batch}", f"model.ffn.preset={ffn}",
                 f"model.ffn.width.exact={d_ff(ffn, shape)}"]
    return bench(args, CONFIGS / model.config, overrides, steps, warmup, precision)


def torch_command(args, model, ffn, dtype, mode, steps, warmup):
    config = tomllib.loads((CONFIGS / model.config).read_text())
    shape = config["model"]
    options = {"d-model": shape["d_model"], "layers": shape["n_layer"], "heads": shape["n_head"], "ctx": shape["seq_len"],
               "vocab": config["tokenizer"]["vocab_size"], "d-ff": d_ff(ffn, shape), "ffn": ffn, "batch": model.batch,
               "dtype": dtype, "steps": steps, "warmup": warmup, "threads": args.threads, "budget": args.budget}
    command = [args.python, str(Path(__file__).with_name("torch_step.py"))]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return command + ["--tied"] * shape["tie_embeddings"] + ["--compile"] * (mode == "compile")


def torch_variants(args, precision):
    return [{"system": "torch", "mode": mode, "malloc": malloc, "precision": precision}
            for mode in args.torch_modes for malloc in MALLOC]


def calls(args, cell, round_):
    """What one round measures of one model: of each precision ffnlab, then PyTorch; backwards in every other round."""
    found = []
    for precision in args.precisions:
        found.append({**cell, **FFNLAB, "precision": precision, "round": round_})
        dtype = PRECISIONS[precision] or "fp32"  # what it is held against
        if dtype == precision or dtype not in args.precisions:
            found += [{**cell, **variant, "round": round_} for variant in torch_variants(args, dtype)]
    return found if round_ % 2 == 0 else found[::-1]


def step_ms(rows):
    return [row["result"]["step_ms"] for row in rows if "result" in row]


def slow(rows, args, key):
    """Whether this mode of PyTorch, whatever the allocator, is known to be so slow that repeating it says nothing."""
    cell = {name: key[name] for name in ("model", "ffn", "precision")}
    own = step_ms(rows.results(**cell, **FFNLAB))
    peer = rows.find(**cell, system="torch", mode=key["mode"])
    failed = any("error" in row for row in peer) and not args.retry
    peer = step_ms(row for row in peer if quiet(row, args))
    return failed or bool(own and peer and min(peer) > args.slow * median(own))


def same_model(rows, cell):
    """Refuses rows of one model that differ in their number of parameters, and warns where the first losses differ."""
    found = [row for row in rows.find(**cell) if "result" in row]
    counts = {row["result"]["params"] for row in found}
    if len(counts) > 1:
        raise SystemExit(f"{cell}: models with {sorted(counts)} parameters are not the same")
    losses = [row["result"]["loss_first"] for row in found]
    if losses and max(losses) - min(losses) > 0.1:
        say(f"warning, {cell}: first losses from {min(losses):.3f} to {max(losses):.3f}")


def steps_of(args, name):
    """Timed and untimed steps of a call."""
    return args.steps or MODELS[name].steps, args.warmup or MODELS[name].warmup


def measure(args, rows):
    for round_ in range(args.rounds):
        for name in args.models:
            for ffn in args.ffn:
                cell, model = {"model": name, "ffn": ffn}, MODELS[name]
                steps, warmup = steps_of(args, name)
                for key in calls(args, cell, round_):
                    if key["system"] == "torch" and slow(rows, args, key):
                        continue
                    if key["system"] == "ffnlab":
                        command, env = ffnlab_command(args, model, ffn, key["precision"], steps, warmup), {}
                    else:
                        command = torch_command(args, model, ffn, key["precision"], key["mode"], steps, warmup)
                        env = MALLOC[key["malloc"]]
                    label = " ".join(str(key[x]) for x in ("model", "ffn", "precision", "system", "mode", "malloc") if key[x])
                    for row in measured(rows, args, key, command, env):
                        say(f"round {round_ + 1}, {label}: {outcome(row)}")
                        same_model(rows, cell)


def fastest(rows, cell, precision, **which):
    """The rows of PyTorch's fastest variant by the median of its steps."""
    groups = {}
    for row in rows.results(**cell, system="torch", precision=precision, **which):
        groups.setdefault((row["mode"], row["malloc"]), []).append(row)
    return min(groups.values(), key=lambda group: median(step_ms(group)), default=[])


def ratios(own, peer, field):
    """ffnlab / PyTorch within each round that has both."""
    peer = {row["round"]: row["result"][field] for row in peer}
    return [row["result"][field] / peer[row["round"]] for row in own if row["round"] in peer]


def loud(args, rows, peer):
    """A mark on a ratio into which a call went during which others used too much of the machine."""
    return " *" if peer and not all(quiet(row, args) for row in rows) else ""


def column(peer):
    """Steps of a variant of PyTorch, and its allocator."""
    if not peer:
        return "–"
    return f"{spread(step_ms(peer), 1)} {peer[0]['malloc']}"


def table(args, rows):
    heads = ["model", "FFN", "precision", "parameters", "ffnlab, ms", "ffnlab, tokens/s", "torch eager, ms", "torch compile, ms",
             "step, ffnlab / torch", "step, ffnlab / torch fp32", "ffnlab, MiB", "torch, MiB", "torch, MiB once loaded",
             "least torch, MiB", "memory, ffnlab / torch"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---|" + "---:|" * (len(heads) - 3)]
    for name in MODELS:
        for ffn in ["swiglu", "relu"]:
            for precision in PRECISIONS:
                cell = {"model": name, "ffn": ffn}
                own = rows.results(**cell, **FFNLAB, precision=precision)
                dtype = PRECISIONS[precision]
                everything = rows.results(**cell, system="torch", precision=dtype)
                if not own:
                    continue
                peer, fp32 = fastest(rows, cell, dtype), fastest(rows, cell, "fp32")
                result = own[0]["result"]
                memory = [row["result"]["peak_rss_mb"] for row in own]
                cells = [
                    name, ffn, precision, f"{result['params'] / 1e6:.2f}M", spread(step_ms(own), 1),
                    f"{result['tokens_per_step'] / median(step_ms(own)) * 1e3:.0f}",
                    column(fastest(rows, cell, dtype, mode="eager")), column(fastest(rows, cell, dtype, mode="compile")),
                    spread(ratios(own, peer, "step_ms"), 2) + loud(args, own + peer, peer),
                    spread(ratios(own, fp32, "step_ms"), 2) + loud(args, own + fp32, fp32),
                    f"{median(memory):.0f}",
                    *(f"{median(v):.0f}" if v else "–" for v in (
                        [row["result"]["peak_rss_mb"] for row in peer], [row["result"]["rss_loaded_mb"] for row in peer])),
                    f"{min(row['result']['peak_rss_mb'] for row in everything):.0f}" if everything else "–",
                    spread(ratios(own, peer, "peak_rss_mb"), 2),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def notes(args, rows):
    failed = [row for row in rows.rows
              if "error" in row and not rows.results(**{k: v for k, v in row.items() if k not in MEASURED})]
    lines = [
        "", "How to read it. Steps: median over rounds of the median step of a call, in brackets the smallest and largest of "
        "those. A ratio below 1 means that ffnlab takes less time or memory; ratios are taken within a round, against the "
        "fastest variant of PyTorch in the same precision, and against its fastest in fp32; * marks one into which a call went "
        "that others disturbed. keep and default: glibc's allocator "
        "told to keep its pages, or as it is. Peak memory is that of the process; PyTorch's is that of the quoted, fastest "
        "variant, with what the process took once torch was loaded, and the least of any variant beside it. ffnlab emulates "
        "precisions below fp32; PyTorch's bf16 is native where the processor has it and slow where it has not. A mode of "
        f"PyTorch that takes {args.slow:g} times ffnlab's step was measured once, one that failed not again. Untimed and timed "
        f"steps of a call: {rows.about['same']['steps']}; fewer of a PyTorch that would take more than {args.budget:g} s.", ""]
    lines += described(rows.about, rows.results(), args)
    pairs = {}
    for row in rows.results():
        pairs.setdefault((row["model"], row["ffn"]), []).append(row["result"]["loss_first"])
    gap = max((max(losses) - min(losses) for losses in pairs.values()), default=0.0)
    lines.append(f"- Models have the same number of parameters on both sides; first losses of a model differ by at most "
                 f"{gap:.3f} nats, since initial weights and tokens are drawn by each on its own.")
    for row in failed:
        lines.append(f"- Failed: {row['model']} {row['ffn']} {row['precision']} {row['system']} {row['mode']} {row['malloc']}, "
                     f"round {row['round'] + 1}: {row['error'].splitlines()[-1]}")
    return lines


def main():
    args = arguments()
    # Torch is asked by a process of its own, which has none of this one's packages.
    version = output(args.python, "-c", "import torch; print(torch.__version__)") if args.torch_modes else "none"
    if version is None:
        raise SystemExit(f"{args.python} cannot import torch: name a Python that can: --python PATH (see README.md)")
    steps = ", ".join("{} {}+{}".format(name, *steps_of(args, name)[::-1]) for name in MODELS)
    about = describe(args.bench_binary, args.threads, torch=version, steps=steps)
    rows = Rows(args.out / "rows.jsonl", about)
    report(rows, args, lambda: measure(args, rows), lambda: table(args, rows), lambda: notes(args, rows))


if __name__ == "__main__":
    run(main)
