#!/usr/bin/env python3
"""Writes the golden numbers of the statistics in lm-eval, computed by SciPy.

    python3 -m venv VENV && VENV/bin/pip install scipy
    VENV/bin/python scripts/golden/stats.py

The samples are written down next to the results, so that the test needs neither NumPy's generator nor SciPy.
Output: crates/lm-eval/tests/data/stats.json
"""

import json
import platform
from pathlib import Path

import numpy as np
import scipy
from scipy import stats

OUT = Path(__file__).resolve().parents[2] / "crates/lm-eval/tests/data/stats.json"


def samples():
    """Name and values of each sample: hand-made edge cases, then losses as runs give them."""
    yield "two values", [1.997, 2.003]
    yield "three, one far out", [1.0, 1.0, 4.0]
    yield "tiny spread on a large mean", [1e6 + x for x in (0.0, 1e-3, 2e-3, -1e-3)]
    yield "negative", [-0.055, -0.041, -0.062, -0.049]
    rng = np.random.default_rng(2002_05202)
    for n in (2, 3, 4, 5, 8, 16, 40, 200):
        yield f"losses, n = {n}", list(np.round(rng.normal(3.28, 0.004, n), 6))


def paired():
    """Name, baseline and arm of each paired comparison, from a clear effect to none."""
    yield "by hand", [2.0, 2.1, 2.4, 2.2], [1.9, 2.1, 2.3, 2.0]
    rng = np.random.default_rng(8)
    for n, effect in ((2, -0.05), (3, -0.05), (4, -0.002), (5, 0.0), (8, 0.03), (16, -0.055), (40, -0.2)):
        seed_effect = rng.normal(3.0, 0.1, n)
        baseline = np.round(seed_effect + rng.normal(0.0, 0.005, n), 6)
        arm = np.round(seed_effect + effect + rng.normal(0.0, 0.005, n), 6)
        yield f"n = {n}, effect {effect}", list(baseline), list(arm)


def main():
    estimates = []
    for name, values in samples():
        n, mean, sem = len(values), np.mean(values), stats.sem(values)
        low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=sem)
        estimates.append(
            {"name": name, "values": values, "mean": mean, "sd": np.std(values, ddof=1), "ci95": [low, high]}
        )
    pairs = []
    for name, baseline, arm in paired():
        test = stats.ttest_rel(arm, baseline)
        interval = test.confidence_interval(0.95)
        pairs.append(
            {
                "name": name,
                "baseline": baseline,
                "arm": arm,
                "mean": np.mean(np.subtract(arm, baseline)),
                "sd": np.std(np.subtract(arm, baseline), ddof=1),
                "ci95": [interval.low, interval.high],
                "p_value": test.pvalue,
            }
        )
    made_by = {
        "script": "scripts/golden/stats.py",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    golden = {"made_by": made_by, "estimates": estimates, "paired": pairs}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
