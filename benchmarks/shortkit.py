"""Claim: on cues that are encoded but unused, firstcue accuses at most 5 % where ShortKit-ML's default calls them high risk.

The cases are those of `tests/auditing/planted.py`. ShortKit-ML is shown the training rows and, apart from that, the held-out
rows; firstcue is shown both and the head. ShortKit-ML pins numpy below 2 and torch below 2.3, so it has to live in a folder:

    pip install --no-deps --target peer shortkit-ml==0.1.0 statsmodels patsy seaborn plotly narwhals
    PYTHONPATH=peer python benchmarks/shortkit.py
"""

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from firstcue.batch import Batch
from firstcue.spurious.metrics import wilson

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "auditing"))

N = 60
METHODS = ["hbac", "probe", "statistical", "geometric", "equalized_odds"]
CONDITIONS = ("indicator_count", "majority_vote", "weighted_risk", "meta_classifier")


def kinds() -> dict[str, Callable]:
    """Name of a kind -> (seed -> case); the heads of those called planted rely on the cue, the others do not."""
    from planted import case, table
    from test_verdict_cases import random_attribute

    return {
        "planted, 0.8": lambda seed: case(table(0.8), seed=seed),
        "planted, 0.95": lambda seed: case(table(0.95), seed=seed),
        "encoded, associated, unused": lambda seed: case(table(0.9), seed=seed, uses=False),
        "encoded, independent, unused": lambda seed: case(table(0.5), seed=seed, uses=False),
        "clean": lambda seed: case(table(0.5), seed=seed),
        "not encoded": random_attribute,
    }


def shortkit(rows: Batch, seed: int) -> dict[str, bool]:
    """What ShortKit-ML calls high risk: by each of its conditions, and each detector of the longer list that raises a flag."""
    from shortcut_detect import ShortcutDetector
    from shortcut_detect.conditions import ConditionContext, create_condition

    assert rows.attribute is not None
    x, y, a = np.asarray(rows.x, dtype=np.float64), np.asarray(rows.y), np.asarray(rows.attribute)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        results: dict[str, Any] = ShortcutDetector(methods=METHODS, seed=seed).fit(x, y, group_labels=a).results_
        failed = [name for name, result in results.items() if not result.get("success")]
        assert not failed, f"these detectors failed: {failed}"
        default = ConditionContext(METHODS[:3], results)
        found = {"default": "HIGH" in create_condition("indicator_count").assess(default)}
        everything = ConditionContext(METHODS, results)
        found |= {name: "HIGH" in create_condition(name).assess(everything) for name in CONDITIONS}
    return found | {name: bool(results[name].get("risk_indicators")) for name in METHODS}


def judge(make: Callable, n: int) -> tuple[dict[str, int], dict[str, float]]:
    """How many of `n` cases each reader accuses, and the CPU seconds per case."""
    count: dict[str, int] = {}
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = run()
        seconds[name] = seconds.get(name, 0) + (time.process_time() - began) / n
        return result

    for seed in range(n):
        case = make(seed)
        for part, rows in (("training", case.train), ("held-out", case.held)):
            found = timed("ShortKit-ML", lambda rows=rows, seed=seed: shortkit(rows, seed))
            for name, accused in found.items():
                count[f"ShortKit-ML, {part} rows: {name}"] = count.get(f"ShortKit-ML, {part} rows: {name}", 0) + accused
        for name, edit in (("firstcue, with an edit", True), ("firstcue, by erasure alone", False)):
            found = timed("firstcue", lambda case=case, edit=edit, seed=seed: case.finding(edit=edit, seed=seed))
            count[name] = count.get(name, 0) + (found.status == "relies")
    return count, seconds


def main() -> int:
    """Print a table of accusations per kind of case; 1 if firstcue accuses more than 5 % of the unused, or ShortKit-ML as few."""
    if find_spec("shortcut_detect") is None:
        print(f"skipped: ShortKit-ML is not installed.\n{__doc__.split('folder:')[1]}")
        return 0
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N
    tables, costs = {}, []
    for name, make in kinds().items():
        tables[name], seconds = judge(make, n)
        costs.append(seconds)
    print(f"accused of {n} cases each (Wilson 95 %: 0 of {n} is below {wilson(0, n)[1]:.3f})")
    print(f"{'':48}" + "".join(f"{name:>31}" for name in tables))
    for reader in next(iter(tables.values())):
        print(f"{reader:48}" + "".join(f"{table[reader]:31}" for table in tables.values()))
    mean = {name: np.mean([cost[name] for cost in costs]) for name in costs[0]}
    print("CPU seconds per case: " + ", ".join(f"{name} {value:.2f}" for name, value in mean.items()))
    unused = [table for name, table in tables.items() if name.startswith("encoded")]
    ours = max(max(table["firstcue, with an edit"], table["firstcue, by erasure alone"]) for table in unused)
    theirs = min(table["ShortKit-ML, held-out rows: default"] for table in unused)
    return int(ours > 0.05 * n or theirs <= 0.05 * n)


if __name__ == "__main__":
    sys.exit(main())
