#!/usr/bin/env python3
"""Tables of the stress experiment (configs/precision/fp8-swiglu-stress*.toml) and of weight alignment, from run directories.

    python3 scripts/stress.py runs/fp8-swiglu-stress
    python3 scripts/stress.py --alignment runs/alignment

Prints Markdown. Per arm, mean over seeds: training loss in the step before the outlier batch, in the outlier step, the
largest in the 10 steps after it, the held-out loss at the end and its difference from the same variant in fp32, paired by
seed; and of the input of the down projection in the outlier step, worst layer: share of elements that saturate and signal to
quantisation noise. Only the standard library is used.
"""
import argparse
import json
import statistics
import tomllib
from collections import defaultdict
from pathlib import Path


def metrics(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [m for m in map(json.loads, lines) if m["kind"] == kind]


def runs(folder):
    for summary in sorted(Path(folder).glob("*/summary.json")):
        config = tomllib.loads((summary.parent / "config.toml").read_text())
        yield summary.parent, json.loads(summary.read_text()), config


def arm_name(summary, config):
    precision = config.get("precision", {})
    name = summary["precision"].removesuffix(" (changed)")
    if precision.get("smooth"):
        name += ", smooth"
    if "down_input" in precision:
        name += ", down input " + precision["down_input"]["format"]
    return name


def mean(values):
    values = [v for v in values if v is not None]
    return statistics.fmean(values) if values else None


def show(value, digits=4, sign=""):
    return "–" if value is None else f"{value:{sign}.{digits}f}"


def stress(folder):
    arms = defaultdict(dict)
    for run, summary, config in runs(folder):
        at = config["stress"]["outlier_at"]
        loss = {m["step"]: m["loss"] for m in metrics(run, "step")}
        hit = [m["tensor"] for m in metrics(run, "health")
               if m["step"] == at and m["tensor"]["operand"] == "input" and m["tensor"]["layer"].endswith("down_proj")]
        after = [loss[s] for s in range(at + 1, at + 11) if loss.get(s) is not None]
        arms[summary["ffn"], arm_name(summary, config)][summary["seed"]] = {
            "before": loss.get(at - 1), "outlier": loss.get(at), "after": max(after) if after else None,
            "final": summary["validation"]["loss"] if summary["validation"] else None,
            "saturated": max((t["saturated"] for t in hit), default=None),
            "sqnr": min((t["sqnr_db"] for t in hit if t["sqnr_db"] is not None), default=None),
        }
    print("| FFN | precision | seeds | loss before | in the outlier step | largest in 10 steps after | held-out at the end |"
          " Δ fp32 (sd) | down input: saturated | SQNR dB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (ffn, precision), seeds in arms.items():
        full = arms.get((ffn, "fp32"), {})
        gaps = [row["final"] - full[s]["final"] for s, row in seeds.items()
                if s in full and row["final"] is not None and full[s]["final"] is not None]
        spread = f" ({statistics.stdev(gaps):.4f})" if len(gaps) > 1 and precision != "fp32" else ""
        gap = show(mean(gaps), sign="+") + spread if precision != "fp32" else "–"
        column = {key: mean([row[key] for row in seeds.values()]) for key in next(iter(seeds.values()))}
        saturated = column["saturated"]
        print(f"| {ffn} | {precision} | {len(seeds)} | {show(column['before'])} | {show(column['outlier'])} |"
              f" {show(column['after'])} | {show(column['final'])} | {gap} |"
              f" {'–' if saturated is None else f'{100 * saturated:.3f} %'} | {show(column['sqnr'], 1)} |")


def alignment(folder):
    rows = defaultdict(lambda: defaultdict(list))
    for run, _, config in runs(folder):
        for m in metrics(run, "alignment"):
            cosines = sorted(m["cosines"])
            rows[config["optim"]["weight_decay"]][m["step"]].append(
                (statistics.fmean(cosines), cosines[int(0.99 * (len(cosines) - 1))], cosines[-1]))
    decays = sorted(rows)
    steps = sorted(rows[decays[0]])
    shown = [s for i, s in enumerate(steps) if i in (0, len(steps) // 4, len(steps) // 2, len(steps) - 1)]
    print("| weight decay | step | mean | 99th percentile | largest |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for decay in decays:
        for step in shown:
            means = [statistics.fmean(column) for column in zip(*rows[decay][step])]
            print(f"| {decay} | {step} | " + " | ".join(f"{value:.4f}" for value in means) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--alignment", action="store_true", help="tabulate |cos(w_gate, w_up)| instead")
    args = parser.parse_args()
    alignment(args.folder) if args.alignment else stress(args.folder)


if __name__ == "__main__":
    main()
