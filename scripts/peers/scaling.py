#!/usr/bin/env python3
"""How the time of a training step of ffnlab grows with batch, width, depth and context.

    python3 scripts/peers/scaling.py --rounds 5

Each axis is doubled on its own around configs/bench/small.toml (d_model 128, 4 layers, 4 heads, context 128, batch 8,
vocabulary 512), everything else fixed; d_ff stays 8/3 of d_model. Writes DIR/rows.jsonl as it goes and DIR/table.md: the
slope between neighbours, log2 of the ratio of their times within a round, beside the slope of the counted FLOPs. Call again
to go on after an interruption.
"""
import argparse
import math
import tomllib

from common import (CONFIGS, Rows, bench, check_arguments, common_arguments, describe, described, measured, median, outcome,
                    report, run, say, spread)

CONFIG = CONFIGS / "small.toml"
AXES = ["batch", "width", "depth", "context"]
EXPECTED = """
What to expect, with N tokens in a step, width d and context T:

- **Batch: 1 from below.** All work in forward and backward is proportional to N. What is not is AdamW with clipping, which
  passes over the weights once a step whatever the batch, and the start of parallel work; both weigh less in larger batches.
- **Width: between 1 and 2.** Products with weights and the optimizer grow with d^2; the head (vocabulary x d), attention
  scores (T x d) and everything elementwise (norms, rotation, activation, residual) grow with d. Small models are elementwise,
  wide ones are products. A product of wider matrices also comes closer to the peak of the machine, which lowers the slope.
- **Depth: 1 from below.** Layers are alike; embedding, head, loss and their optimizer do not repeat. Above the head, that is
  for the time less that of a model without layers, it is 1.
- **Context: between 1 and 2.** The batch counts sequences, so N grows with T, and all work per token with it; scores and
  values take N T d multiplications a layer, and equal the other products (12 N d^2) only at T = 12 d; in time sooner, since
  softmax costs more per FLOP than a product.

Counted FLOPs are those of products, attention and activations, forward; a step takes about three times as many. A measured
slope below theirs says that the fixed cost was still visible, one above that data fell out of a cache: the working set of a
step grows along every axis.
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(AXES), help="some of %(default)s")
    parser.add_argument("--down", type=int, default=1, help="halvings below the base [1]")
    parser.add_argument("--up", type=int, default=3, help="doublings above the base [3]")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each call [10]")
    common_arguments(parser, "scaling")
    args = parser.parse_args()
    check_arguments(args)
    args.axes = args.axes.split(",")
    if unknown := [axis for axis in args.axes if axis not in AXES]:
        parser.error(f"--axes: {', '.join(unknown)}: choose of {', '.join(AXES)}")
    args.warmup = args.warmup or 2
    return args


def base():
    config = tomllib.loads(CONFIG.read_text())
    model = config["model"]
    return {"batch": config["train"]["batch_size"], "width": model["d_model"], "depth": model["n_layer"],
            "context": model["seq_len"]}


def overrides(point):
    d_ff = -(-8 * point["width"] // 48) * 16  # 8/3 of the width, rounded up to a multiple of 16, as in the shipped configs
    return [f"train.batch_size={point['batch']}", f"model.d_model={point['width']}", f"model.n_layer={point['depth']}",
            f"model.seq_len={point['context']}", f"model.ffn.width.exact={d_ff}"]


def points(args, axis):
    """The models along an axis, in order; the base is one of them and belongs to all axes."""
    found = []
    for power in range(-args.down, args.up + 1):
        value = base()[axis] * 2.0**power
        if value < 1 or value != int(value):
            raise SystemExit(f"--down {args.down}: {axis} would be {value}")
        found.append({**base(), axis: int(value)})
    return found


def measure(args, rows):
    for round_ in range(args.rounds):
        for axis in args.axes:
            for point in points(args, axis):
                command = bench(args, CONFIG, overrides(point), args.steps, args.warmup, args.precision)
                for row in measured(rows, args, {**point, "round": round_}, command):
                    shape = ", ".join(f"{name} {value}" for name, value in point.items())
                    say(f"round {round_ + 1}, {shape}: {outcome(row)}")


def slopes(below, above, value):
    """log2 of the ratio of a value within each round that has both; neighbours are a factor of two apart."""
    below = {row["round"]: value(row["result"]) for row in below}
    return [math.log2(value(row["result"]) / below[row["round"]]) for row in above if row["round"] in below]


def flops(result):
    return result["flops_per_token"] * result["tokens_per_step"]


def table(args, rows):
    lines = ["| axis | value | parameters | step, ms | tokens/s | peak memory, MiB | slope from the value before | of FLOPs |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for axis in args.axes:
        before = []
        for point in points(args, axis):
            found = rows.results(**point)
            if found:
                first, ms = found[0]["result"], [row["result"]["step_ms"] for row in found]
                counted = median(slopes(before, found, flops))
                lines.append(
                    f"| {axis} | {point[axis]} | {first['params'] / 1e6:.2f}M | {spread(ms, 1)} "
                    f"| {first['tokens_per_step'] / median(ms) * 1e3:.0f} "
                    f"| {median(row['result']['peak_rss_mb'] for row in found):.0f} "
                    f"| {spread(slopes(before, found, lambda result: result['step_ms']), 2)} "
                    f"| {'–' if counted is None else format(counted, '.2f')} |")
            before = found
    return lines


def notes(args, rows):
    lines = ["", f"Step: median over rounds of the median of {args.steps} step(s) in {args.precision}, in brackets the smallest "
             "and largest of those; slopes are taken within a round."]
    lines += EXPECTED.splitlines() + [""] + described(rows.about, rows.results(), args)
    for row in rows.rows:
        if "error" in row:
            shape = ", ".join(f"{axis} {row[axis]}" for axis in AXES)
            lines.append(f"- Failed: {shape}, round {row['round'] + 1}: {row['error'].splitlines()[-1]}")
    return lines


def main():
    args = arguments()
    about = describe(args.bench_binary, args.threads, steps=args.steps, warmup=args.warmup, precision=args.precision)
    rows = Rows(args.out / "rows.jsonl", about)
    report(rows, args, lambda: measure(args, rows), lambda: table(args, rows), lambda: notes(args, rows))


if __name__ == "__main__":
    run(main)
