#!/usr/bin/env python3
"""What each precision costs in a training step, relative to fp32, by `ffnlab bench --precision`.

    python3 scripts/precision_cost.py target/release/ffnlab --rounds 3 --steps 3 > cost.json
    python3 scripts/precision_cost.py target/release/ffnlab --before old/ffnlab > cost.json     # and against another build

Model R with d_ff = 768, so that every block format fits. Rounds go through all precisions in turn, so that a machine whose
speed drifts hits all alike; a ratio is taken within a round, and the median over rounds counts. Prints the raw rows as JSON
and a Markdown table on standard error.
"""
import argparse
import json
import statistics
import subprocess
import sys

PRECISIONS = ["fp32", "tf32", "bf16", "bf16_pure", "fp16", "fp8_current", "fp8_delayed", "fp8_rowwise", "fp8_block",
              "mxfp8", "mxfp6", "mxfp4", "nvfp4", "int8", "bitnet_b158"]


def step(binary, precision, steps):
    """One call of bench."""
    command = [binary, "bench", "--precision", precision, "-o", "model.ffn.width.exact=768",
               "-o", "precision.health_every=0", "--steps", str(steps), "--warmup", "1", "--json"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {key: row[key] for key in ("step_ms", "tokens_per_s", "peak_rss_mb", "threads", "host")}


def table(rows, with_before):
    """Medians of ratios within a round."""
    now = {(row["round"], row["precision"]): row for row in rows if row["build"] == "now"}
    before = {(row["round"], row["precision"]): row for row in rows if row["build"] == "before"}
    rounds = sorted({row["round"] for row in rows})

    def ratio(precision, other):
        ratios = [now[r, precision]["step_ms"] / other(r)["step_ms"] for r in rounds]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    def median(of, precision, key):
        return f"{statistics.median(of[r, precision][key] for r in rounds):.0f}"

    head = ["precision", "step, of fp32", "step, of bf16", "step, ms", "peak memory, MiB"]
    head += ["step, of before", "before, ms", "before, MiB"] if with_before else []
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for precision in PRECISIONS:
        line = [precision, ratio(precision, lambda r: now[r, "fp32"]), ratio(precision, lambda r: now[r, "bf16"]),
                median(now, precision, "step_ms"), median(now, precision, "peak_rss_mb")]
        if with_before:
            line += [ratio(precision, lambda r: before[r, precision]), median(before, precision, "step_ms"),
                     median(before, precision, "peak_rss_mb")]
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ffnlab")
    parser.add_argument("--before", help="another build, measured in turn with the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    builds = {"now": args.ffnlab, **({"before": args.before} if args.before else {})}
    rows = []
    for round_ in range(args.rounds):
        for precision in PRECISIONS:
            for build in sorted(builds, reverse=round_ % 2 == 1):
                row = step(builds[build], precision, args.steps)
                rows.append({"round": round_, "precision": precision, "build": build, **row})
                print(f"round {round_ + 1}, {precision}, {build}: {row['step_ms']:.0f} ms", file=sys.stderr)
    print(table(rows, args.before is not None), file=sys.stderr)
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
