#!/usr/bin/env python3
"""What two single-threaded runs at once on two cores get done, relative to one alone.

    python3 scripts/two_runs.py target/release/ffnlab configs/shazeer/small.toml -o train.steps=200 > two_runs.json

A round is one run alone (A), then two at once (B), each kept to a core of its own; A takes the first and the second core in
turn. Rounds interleave A and B, so that a machine whose speed drifts hits both alike; the ratio (B's tokens per second over
A's) is taken within a round, and the median over rounds counts. Two ratios are given:

- steps: training tokens per second as the runs report them, summed over the runs that ran at once (evaluation, start and
  checkpoints excluded);
- whole: tokens of all runs over the seconds from the start of the first process to the end of the last.

Prints the raw rows as JSON, and a table on standard error. The data cache is filled by a run that does not count. Linux.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

WANTED = 1.85


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ffnlab")
    parser.add_argument("config")
    parser.add_argument("-o", action="append", default=[], metavar="KEY=VALUE", help="override, as of ffnlab train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", help="two cores, such as 0,1 [default: the first two that this process may use]")
    args = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    cores = [int(core) for core in args.cores.split(",")] if args.cores else allowed[:2]
    if len(set(cores)) != 2 or not set(cores) <= set(allowed):
        parser.error(f"two cores out of {allowed} are needed, not {cores}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run(args, pathlib.Path(folder) / "warm", cores[:1])
        for round_ in range(args.rounds):
            for setting, used in (("alone", [cores[round_ % 2]]), ("two", cores)):
                out = pathlib.Path(folder) / f"{round_}-{setting}"
                rows.append({"round": round_, "setting": setting, **run(args, out, used)})
                print(f"round {round_ + 1}, {setting}: {rows[-1]['steps_tokens_per_s']:.0f} tokens/s in steps, "
                      f"{rows[-1]['whole_tokens_per_s']:.0f} over all", file=sys.stderr)
    table(rows)
    json.dump(rows, sys.stdout, indent=1)
    print()


def run(args, out, cores):
    """Runs one process on each of the cores, all at once, and says what they got done."""
    begun = time.perf_counter()
    children = []
    for core in cores:
        command = [args.ffnlab, "train", args.config, "--threads", "1", "--out", f"{out}-{core}", "--json"]
        command += [part for override in args.o for part in ("-o", override)]
        # The preexec function binds the core of this turn of the loop.
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                         preexec_fn=lambda core=core: os.sched_setaffinity(0, {core})))
    summaries = []
    for child in children:
        text, errors = child.communicate()
        if child.returncode != 0:
            sys.exit(f"{' '.join(child.args)} ended with {child.returncode}: {errors}")
        summaries.append(json.loads(text))
    wall_s = time.perf_counter() - begun
    for summary, core in zip(summaries, cores):
        assert summary["cores"] == [core] and summary["threads"] == 1, summary
    return {
        "cores": cores,
        "wall_s": wall_s,
        "tokens": sum(summary["tokens"] for summary in summaries),
        "steps_tokens_per_s": sum(summary["tokens_per_s"] for summary in summaries),
        "whole_tokens_per_s": sum(summary["tokens"] for summary in summaries) / wall_s,
        "ffnlab": summaries[0]["ffnlab"],
        "host": summaries[0]["host"],
    }


def table(rows):
    alone, two = ([row for row in rows if row["setting"] == setting] for setting in ("alone", "two"))
    print(f"\n{rows[0]['host']}; ratio wanted: at least {WANTED}\n", file=sys.stderr)
    print("| tokens per second | one alone | two at once | ratio | smallest to largest |", file=sys.stderr)
    print("|---|---:|---:|---:|---:|", file=sys.stderr)
    for name in ("steps", "whole"):
        key = f"{name}_tokens_per_s"
        ratios = [b[key] / a[key] for a, b in zip(alone, two)]
        print(f"| {name} | {statistics.median(row[key] for row in alone):.0f} |"
              f" {statistics.median(row[key] for row in two):.0f} | {statistics.median(ratios):.3f} |"
              f" {min(ratios):.3f} to {max(ratios):.3f} |", file=sys.stderr)


if __name__ == "__main__":
    main()
