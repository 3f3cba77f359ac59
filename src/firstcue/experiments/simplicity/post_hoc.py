"""Decisions explained after the fact: how many bits go at the same answer, and would any model have done?"""

from typing import Any

import torch

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.simplicity._beds import density_of, makers, plain
from firstcue.forward import seeded
from firstcue.simplicity.explain import explain_simplify
from firstcue.sweeps import Trial
from firstcue.training.loop import minibatches, train

TITLE = "A quarter of the bits goes at the same answer, and what stays depends on the model"
SOURCE = "arXiv 2201.05610"
VERSION = 1
_COMMON = {"channels": 16, "kl_budget": 0.1}
SCALES = {
    "tiny": Scale(
        minutes=2.0,
        settings=_COMMON
        | {
            "data": ["digits"], "densities": ["dct"], "size": 16, "train_rows": 1000, "test_rows": 300, "epochs": 8,
            "explained": 16, "steps": 60,
        },
    ),
    "small": Scale(
        minutes=8.0,
        settings=_COMMON
        | {
            "data": ["digits", "garments"], "densities": ["dct", "gray28"], "size": 28, "train_rows": 6000,
            "test_rows": 1000, "epochs": 5, "explained": 48, "steps": 100,
        },
    ),
}  # fmt: skip
SEEDS = 3


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each data set, density and seed."""
    settings = dict(SCALES[scale].settings)
    data, densities = settings.pop("data"), settings.pop("densities")
    return [
        Trial("simplicity/post-hoc", {**settings, "core": core, "density": density}, seed)
        for core in data
        for density in densities
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """A network trained on images as they are; some of its test decisions explained, with all controls."""
    s, seed = trial.settings, trial.seed
    learn, test = plain(s, "train", seed), plain(s, "test", seed)
    with seeded(seed):
        network = makers(s, 10)["convolutional"]()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    train(network, minibatches(learn, 64, epochs=s["epochs"], seed=seed), optimizer)
    density, images = density_of(s["density"], learn.x), test.x[: s["explained"]]
    found = explain_simplify(network, images, density, kl_budget=s["kl_budget"], steps=s["steps"], seed=seed)
    before = float(found.bits_before.mean())
    row = {
        "share_saved": float(found.share_saved.mean()),
        "saved_a_quarter": float((found.share_saved >= 0.25).double().mean()),
        "same_decision": float((found.decision_before == found.decision_after).double().mean()),
        "largest_kl": float(found.kl.max()),
    }
    for name, control in found.controls.items():
        key = name.replace(" ", "_")
        row |= {
            f"{key}_share_saved": 1 - float(control.bits.mean()) / before,
            f"{key}_kl": float(control.kl.mean()),
            f"{key}_same_decision": control.same_decision,
            f"{key}_correlation": control.correlation,
        }
    return [row]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How much goes at the same answers, and whether any model would have done."""
    found = []
    for core, density in sorted({(row["core"], row["density"]) for row in rows}):
        part, where = [r for r in rows if (r["core"], r["density"]) == (core, density)], f"{core}, {density}"
        found += [
            _claim(where, "a quarter of the bits goes on at least 90 % of the images", part, "saved_a_quarter", 0.9),
            _claim(where, "at least 95 % of the decisions stay", part, "same_decision", 0.95),
            _claim(where, "shuffled weights lead to other images (correlation below 0.9)", part, "random_weights_correlation", 0.9, -1),
            _claim(where, "without the model, the same bits change the answer by more than the budget", part, "no_task_kl", 0.1),
        ]  # fmt: skip
    return found


def _claim(where: str, text: str, rows: list[dict[str, Any]], key: str, limit: float, sign: int = 1) -> Claim:
    return judged(
        f"{where}: {text}",
        [sign * (row[key] - limit) for row in rows],
        published="not published in numbers; our acceptance",
        unit="distance from the limit",
        note="An interval of no width means that all seeds agree." if len({row[key] for row in rows}) == 1 else "",
    )


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bits saved by the explanation and by its controls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3))
    axes, names = figure.subplots(), ("", "no_bits_", "no_task_", "random_weights_")
    for i, name in enumerate(names):
        axes.plot([i] * len(rows), [row[f"{name}share_saved"] for row in rows], "o", ms=4)
    axes.set(ylabel="share of bits saved", xticks=range(len(names)))
    axes.set_xticklabels(["explanation", "no bits term", "no task term", "shuffled weights"], fontsize=7)
    figure.tight_layout()
    return {"bits-saved": figure}
