"""Which measures follow a lazy-to-rich ladder, and which are moved by something else: target scale and weight decay."""

import copy
from itertools import pairwise
from typing import Any

from torch import nn

from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.experiments.richness._judging import alike, differs
from firstcue.experiments.richness._setting import by_setting, images, one_run
from firstcue.richness.tangent import linearisation_error, tangent_change
from firstcue.sweeps import Trial

TITLE = "Only some measures of rich training follow it"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=2, settings={"data": "builtin:digits", "train_rows": 1000, "test_rows": 500, "pool": 2, "steps": 150, "tangent_rows": 16}),
    "small": Scale(minutes=6, settings={"data": "builtin:fashion-mnist", "train_rows": 4000, "test_rows": 2000, "pool": 2, "steps": 1500, "tangent_rows": 64}),
    "paper": Scale(minutes=600, settings={"data": "builtin:fashion-mnist", "train_rows": 60000, "test_rows": 10000, "pool": 1, "steps": 20000, "tangent_rows": 256}),
}  # fmt: skip
SEEDS = 5

RUNS: dict[str, dict[str, Any]] = {
    "targets x0.01": {"target": 0.01, "rate": 0.001},
    "targets x0.1": {"target": 0.1, "rate": 0.001},
    "targets x1": {"target": 1.0, "rate": 0.001},
    "targets x3": {"target": 3.0, "rate": 0.001},
    "targets x10": {"target": 10.0, "rate": 0.001},
    "last layer only": {"frozen": True},
    "last layer only, weight decay": {"frozen": True, "weight_decay": 1e-2},
    "all layers": {},
    "all layers, weight decay": {"weight_decay": 1e-2},
}
LADDER = ("targets x0.01", "targets x0.1", "targets x1", "targets x3", "targets x10")
"""From lazy to rich."""


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each run whose richness is known beforehand."""
    shared = SCALES[scale].settings
    return [Trial("richness/metrics", {**shared, "run": run}, seed) for run in RUNS for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """All measures of one network."""
    given = trial.settings
    rows, test = images(given["data"], given["train_rows"], given["test_rows"], trial.seed, pool=given["pool"])
    probe = test.x[: given["tangent_rows"]]

    def tangents(network: nn.Module, start: nn.Module) -> dict[str, float]:
        trained = copy.deepcopy(network).requires_grad_(True)  # frozen features count as parameters that did not move
        return {
            "tangent_change": tangent_change(trained, start, probe),
            "linearisation_error": linearisation_error(trained, start, probe),
        }

    return [one_run({"steps": given["steps"], **RUNS[given["run"]]}, trial.seed, rows, test, tangents)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Which measures follow, with the sign that richness asks for."""
    low, high, lazy, decayed = "targets x0.01", "targets x1", "last layer only", "last layer only, weight decay"
    ladder = [
        _follows(rows, name, value, sign, published)
        for name, value, sign, published in (
            ("D_LR", "dlr", 1, "follows"),
            ("1 - S_init", "feature_change", -1, "does not follow: unchanged by target downscaling"),
            ("The parameter norm", "norm_ratio", -1, "does not follow: unchanged by target downscaling"),
            ("NC1", "nc1", 1, "moves the wrong way"),
            ("Tangent-kernel change", "tangent_change", -1, "not in the published comparison"),
            ("The linearisation error", "linearisation_error", -1, "not in the published comparison"),
            ("Unused variance", "unused", 1, "not in the published comparison"),
        )
    ]
    return [
        *ladder,
        differs(
            rows, "Downscaled targets move NC1 towards collapse, the wrong way", "run", high, low, "nc1",
            published="NC1 moves the wrong way", unit="NC1 (targets x1) - NC1 (targets x0.01)",
        ),
        alike(
            rows, "Weight decay leaves D_LR of frozen features alone", "run", lazy, decayed, "dlr", within=0.02,
            published="D_LR not misled by weight decay", unit="difference of D_LR",
        ),
        differs(
            rows, "Weight decay moves the parameter norm though features are frozen", "run", lazy, decayed, "norm_ratio",
            published="parameter norm misled by weight decay", unit="difference of norm / norm at start",
        ),
        differs(
            rows, "With weight decay, training of all layers is richer by D_LR", "run", "all layers", "all layers, weight decay",
            "dlr", published="D_LR follows weight decay", unit="difference of D_LR",
        ),
        differs(
            rows, "With weight decay, training of all layers is richer by 1 - S_init", "run", "all layers, weight decay",
            "all layers", "feature_change", published="S_init misjudges weight decay", unit="difference of 1 - S_init",
        ),
    ]  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every measure along the ladder, each over its own largest value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5))
    axes = figure.subplots()
    for value in ("dlr", "feature_change", "norm_ratio", "nc1", "tangent_change", "linearisation_error"):
        means = by_setting(rows, "run", value)
        heights = [sum(means[name]) / len(means[name]) if name in means else float("nan") for name in LADDER]
        largest = max((h for h in heights if h == h), default=1.0)
        axes.plot(range(len(LADDER)), [h / largest if largest else h for h in heights], marker="o", label=value)
    axes.set_xticks(range(len(LADDER)), LADDER, rotation=20)
    axes.set_ylabel("measure / its largest")
    axes.legend(frameon=False, fontsize=8)
    return {"ladder": figure}


def _follows(rows: list[dict[str, Any]], name: str, value: str, sign: int, published: str) -> Claim:
    """That a measure falls (sign 1) or rises (sign -1) with every step up the ladder: judged by its weakest step."""
    shown = [{value: None, **row, "unused": None if row["used"] is None else 1 - row["used"]} for row in rows]
    steps = [[sign * gap for gap in paired(shown, "run", value, a, b)] for a, b in pairwise(LADDER)]
    weakest = min(steps, key=lambda gaps: sum(gaps) / len(gaps) if gaps else 0.0)
    return judged(
        f"{name} {'falls' if sign > 0 else 'rises'} with every step from small to large targets",
        weakest,
        published=published,
        unit="smallest of four steps, in its own unit",
    )
