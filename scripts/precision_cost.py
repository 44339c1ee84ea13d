#!/usr/bin/env python3
"""What each precision costs in a training step, relative to fp32, by `ffnlab bench --precision`.

    python3 scripts/precision_cost.py target/release/ffnlab --rounds 3 --steps 3 > cost.json

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ffnlab")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for round_ in range(args.rounds):
        for precision in PRECISIONS:
            command = [args.ffnlab, "bench", "--precision", precision, "-o", "model.ffn.width.exact=768",
                       "-o", "precision.health_every=0", "--steps", str(args.steps), "--warmup", "1", "--json"]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append({"round": round_, "precision": precision,
                         **{k: row[k] for k in ("step_ms", "tokens_per_s", "peak_rss_mb", "threads", "host")}})
            print(f"round {round_ + 1}, {precision}: {row['step_ms']:.0f} ms", file=sys.stderr)
    base = {row["round"]: row["step_ms"] for row in rows if row["precision"] == "fp32"}
    print("| precision | step, relative to fp32 | smallest to largest | step, ms | peak memory, MiB |", file=sys.stderr)
    print("|---|---:|---:|---:|---:|", file=sys.stderr)
    for precision in PRECISIONS:
        own = [row for row in rows if row["precision"] == precision]
        ratios = [row["step_ms"] / base[row["round"]] for row in own]
        print(f"| {precision} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
              f" {statistics.median(row['step_ms'] for row in own):.0f} |"
              f" {statistics.median(row['peak_rss_mb'] for row in own):.0f} |", file=sys.stderr)
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
