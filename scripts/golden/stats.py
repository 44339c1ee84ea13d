#!/usr/bin/env python3
"""Writes the golden numbers of the statistics in lm-eval, computed by SciPy and statsmodels.

    python3 -m venv VENV && VENV/bin/pip install scipy statsmodels
    VENV/bin/python scripts/golden/stats.py

The samples are written down next to the results, so that the test needs neither NumPy's generator nor these packages.
Output: crates/lm-eval/tests/data/stats.json
"""

import itertools
import json
import platform
import re
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
import statsmodels
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

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


def losses(rng, n, sd=0.01):
    return np.round(rng.normal(3.0, sd, n), 6)


def t_levels():
    for n, level in ((2, 0.9), (3, 0.99), (5, 0.8), (40, 0.999)):
        x = losses(np.random.default_rng(n), n)
        low, high = stats.t.interval(level, n - 1, loc=np.mean(x), scale=stats.sem(x))
        yield {"values": list(x), "level": level, "interval": [low, high]}


def sd_factors():
    for n, level in ((2, 0.95), (3, 0.95), (10, 0.9), (100, 0.99)):
        tail = (1 - level) / 2
        yield {"n": n, "level": level, "factors": list(np.sqrt((n - 1) / stats.chi2.ppf([1 - tail, tail], n - 1)))}


def bca_formula():
    """Intervals of given resamples. So many values are never drawn once each, so that nothing ties with the estimate."""
    rng = np.random.default_rng(11)
    for name, x in (("normal", losses(rng, 20)), ("skewed", np.round(rng.lognormal(0, 1, 25), 6))):
        for level in (0.8, 0.95):
            found = stats.bootstrap((x,), np.mean, n_resamples=999, confidence_level=level, method="BCa", rng=rng)
            resampled = found.bootstrap_distribution
            assert np.min(np.abs(resampled - np.mean(x))) > 1e-9
            yield {"name": name, "values": list(x), "level": level, "resampled": list(resampled),
                   "interval": list(found.confidence_interval), "standard_error": found.standard_error}


def bca_whole():
    """Intervals from resamples of SciPy's own, to be met up to chance."""
    rng = np.random.default_rng(12)
    for name, x in (
        ("normal, 8", losses(rng, 8)),
        ("normal, 20", losses(rng, 20)),
        ("skewed, 30", np.round(rng.lognormal(0, 0.8, 30), 6)),
    ):
        found = stats.bootstrap((x,), np.mean, n_resamples=200_000, method="BCa", rng=rng, batch=10_000)
        yield {"name": name, "values": list(x), "level": 0.95, "interval": list(found.confidence_interval)}


def documents():
    rng = np.random.default_rng(13)
    for n in (12, 60):
        tokens = rng.integers(20, 900, n)
        loss = np.round(tokens * rng.normal(3.0, 0.3, n), 3)
        ratio = lambda loss, tokens, axis: np.sum(loss, axis=axis) / np.sum(tokens, axis=axis)  # noqa: E731
        found = stats.bootstrap(
            (loss, tokens), ratio, paired=True, n_resamples=200_000, method="BCa", rng=rng, batch=10_000
        )
        yield {"loss_sums": list(loss), "tokens": [int(t) for t in tokens], "level": 0.95,
               "loss": np.sum(loss) / np.sum(tokens), "interval": list(found.confidence_interval)}


def sign_flip():
    rng = np.random.default_rng(14)
    cases = [[1.0, 2.0, 4.0], [0.5, 0.5, -0.5, 1.5, 1.0, 2.0], [0.0, 0.25, 0.5, -0.125, 1.0]]
    cases += [list(np.round(rng.normal(0.005, 0.01, n), 6)) for n in (2, 5, 8, 12, 15)]
    for d in cases:
        found = stats.permutation_test(
            (np.array(d),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
        )
        yield {"differences": d, "statistic": np.mean(d), "p_value": found.pvalue}


def signed_rank():
    rng = np.random.default_rng(15)
    exhaustive = stats.PermutationMethod(n_resamples=np.inf)
    plain = [list(np.round(rng.normal(0.005, 0.01, n), 6)) for n in (3, 5, 10, 25, 50)]
    tied = [[1.0, 1.0, -1.0, 2.0, 3.0], [0.0, 0.0, 1.0, -2.0, 2.0, 3.0, 3.0, 4.0], [0.0, 1.0, 2.0, -2.0, -5.0, 5.0, 5.0, 7.0, 9.0]]
    tied += [list(np.round(rng.normal(0.005, 0.01, 12), 2))]
    large = [list(np.round(rng.normal(0.001, 0.01, n), digits)) for n, digits in ((250, 6), (300, 3))]
    for kind, cases, method in (("exact", plain, "exact"), ("tied", tied, exhaustive), ("large", large, "asymptotic")):
        for d in cases:
            found = stats.wilcoxon(d, zero_method="pratt", correction=True, method=method)
            positive = stats.wilcoxon(d, zero_method="pratt", alternative="greater", method="asymptotic").statistic
            yield {"kind": kind, "differences": d, "statistic": positive, "p_value": found.pvalue}


def two_samples():
    """Welch's test, the permutation of labels and the rank-sum test of independent samples."""
    rng = np.random.default_rng(16)
    exhaustive = stats.PermutationMethod(n_resamples=np.inf)
    cases = [([1.0, 2.0, 3.0], [2.0, 3.0, 3.0, 5.0]), ([0.5, 0.5, 1.0, 2.0, 2.0], [0.5, 2.0, 3.0, 3.0, 4.0])]
    cases += [(list(losses(rng, n)), list(losses(rng, m, 0.02) + shift))
              for n, m, shift in ((2, 2, 0.0), (3, 3, 0.05), (5, 5, 0.01), (4, 8, -0.01), (8, 8, 0.0), (70, 60, 0.003))]
    for baseline, arm in cases:
        welch = stats.ttest_ind(arm, baseline, equal_var=False)
        interval = welch.confidence_interval(0.95)
        small = len(arm) + len(baseline) <= 16
        case = {"baseline": baseline, "arm": arm, "t": welch.statistic, "df": welch.df, "t_p_value": welch.pvalue,
                "ci95": [interval.low, interval.high]}
        if small:
            apart = lambda x, y: abs(np.mean(x) - np.mean(y))  # noqa: E731
            found = stats.permutation_test(
                (arm, baseline), apart, permutation_type="independent", alternative="greater", n_resamples=np.inf,
                vectorized=False,
            )
            case["permutation_p_value"] = found.pvalue
        ranks = stats.mannwhitneyu(arm, baseline, method=exhaustive if small else "asymptotic")
        case["rank_sum"] = ranks.statistic + len(arm) * (len(arm) + 1) / 2
        case["rank_p_value"] = ranks.pvalue
        yield case


def equivalence():
    rng = np.random.default_rng(17)
    for n, shift, margin in ((3, 0.0, 0.02), (5, 0.004, 0.01), (10, 0.02, 0.01), (8, -0.003, 0.005)):
        baseline, arm = losses(rng, n), np.round(losses(rng, n) + shift, 6)
        paired, above, below = ttost_paired(arm, baseline, -margin, margin)[:3]
        independent = ttost_ind(arm, baseline, -margin, margin, usevar="unequal")[0]
        yield {"baseline": list(baseline), "arm": list(arm), "margin": margin, "paired": paired,
               "paired_one_sided": [above[1], below[1]], "independent": independent}


def families():
    rng = np.random.default_rng(18)
    cases = [[0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.01], [0.001, 0.002, 0.9, 0.04, 0.04, 0.012]]
    cases.append(list(np.round(rng.uniform(0, 0.2, 20), 6)))
    for p in cases:
        yield {"p_values": p, "adjusted": list(multipletests(p, method="holm")[1])}


def noncentral_t():
    """Points at which SciPy gives NaN, in the far tail of one degree of freedom, are left out."""
    grid = itertools.product((1, 2, 2.7, 4, 9, 49, 999), (-6.0, -1.0, 0.0, 0.5, 2.0, 2.776, 12.7), (-2.0, 0.0, 0.3, 2.8, 9.0))
    for df, t, delta in grid:
        cdf = stats.nct.cdf(t, df, delta) if delta else stats.t.cdf(t, df)
        if not np.isnan(cdf):
            yield {"t": t, "df": df, "delta": delta, "cdf": cdf}


def power():
    paired, independent = TTestPower(), TTestIndPower()
    for effect, n, alpha in ((0.5, 5, 0.05), (1.0, 3, 0.05), (1.5, 5, 0.01), (0.2, 100, 0.05), (0.8, 16, 0.1)):
        yield {
            "effect": effect, "n": n, "alpha": alpha,
            "paired": paired.power(effect, n, alpha), "independent": independent.power(effect, n, alpha),
            "detectable": paired.solve_power(nobs=n, alpha=alpha, power=0.8),
            "detectable_independent": independent.solve_power(nobs1=n, alpha=alpha, power=0.8),
            "needed": paired.solve_power(effect_size=effect, alpha=alpha, power=0.8),
            "needed_independent": independent.solve_power(effect_size=effect, alpha=alpha, power=0.8),
        }


def variance():
    rng = np.random.default_rng(19)
    grid = list(itertools.product(("no", "yes"), ("relu", "gelu", "swish"), ("fp32", "bf16", "fp8"), range(3)))
    frame = pd.DataFrame(grid, columns=["gate", "activation", "precision", "seed"])
    value = 2.5 - 0.05 * (frame.gate == "yes") + 0.01 * (frame.activation == "gelu") + 0.004 * frame.seed
    value += 0.01 * ((frame.gate == "yes") & (frame.activation == "swish")) + rng.normal(0, 0.006, len(frame))
    frame["value"] = np.round(value, 6)
    mains = "C(gate) + C(activation) + C(precision) + C(seed)"
    interaction = mains + " + C(gate):C(activation)"
    unbalanced = frame.drop(index=[0, 7, 8, 22, 23, 40, 53])
    for name, data, formula in (
        ("balanced", frame, mains),
        ("balanced, interaction", frame, interaction),
        ("unbalanced", unbalanced, mains),
        ("unbalanced, interaction", unbalanced, interaction),
    ):
        found = anova_lm(ols(f"value ~ {formula}", data).fit(), typ=2)
        rows = {re.sub(r"C\((\w+)\)", r"\1", term): row for term, row in found.iterrows()}
        residual = rows.pop("Residual")
        yield {
            "name": name,
            "columns": {column: [str(label) for label in data[column]] for column in data.columns[:4]},
            "values": list(data["value"]),
            "sources": [{"term": term, "df": int(row.df), "sum_sq": row.sum_sq, "f": row.F, "p_value": row["PR(>F)"]}
                        for term, row in rows.items()],
            "residual_df": int(residual.df), "residual_sum_sq": residual.sum_sq,
        }


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
        "statsmodels": statsmodels.__version__,
    }
    golden = {"made_by": made_by, "estimates": estimates, "paired": pairs}
    makers = [t_levels, sd_factors, bca_formula, bca_whole, documents, sign_flip, signed_rank, two_samples, equivalence,
              families, noncentral_t, power, variance]
    golden |= {maker.__name__: list(maker()) for maker in makers}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, indent=1, default=float, allow_nan=False)
    # Lists of numbers or words on one line.
    text = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s+", " ", found.group()), text)
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    main()
