"""Training the last layer only, the exact lazy reference, against training all layers."""

from typing import Any

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._judging import alike, differs
from firstcue.experiments.richness._setting import DEFAULTS, bars, built, images, measured, one_run
from firstcue.richness.recipes import lazy_twin
from firstcue.sweeps import Trial

TITLE = "Training all layers lowers D_LR, training the last layer leaves it"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.5, settings={"data": "builtin:digits", "train_rows": 1000, "test_rows": 500, "pool": 2, "steps": 300}),
    "small": Scale(minutes=1, settings={"data": "builtin:fashion-mnist", "train_rows": 4000, "test_rows": 2000, "pool": 2, "steps": 1500}),
    "paper": Scale(minutes=120, settings={"data": "builtin:fashion-mnist", "train_rows": 60000, "test_rows": 10000, "pool": 1, "steps": 20000}),
}  # fmt: skip
SEEDS = 5
RUNS = ("all layers", "last layer only", "closed form")


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each way to train, and seed."""
    shared = SCALES[scale].settings
    return [Trial("richness/last-layer", {**shared, "run": run}, seed) for run in RUNS for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network: trained, trained in its last layer, or given the ridge head on its initial features."""
    given = trial.settings
    rows, test = images(given["data"], given["train_rows"], given["test_rows"], trial.seed, pool=given["pool"])
    if given["run"] == "closed form":
        start = built(DEFAULTS, rows, trial.seed)
        return [measured(lazy_twin(start, rows.x, rows.y).model, start, rows, test) | {"diverged": 0}]
    frozen = given["run"] == "last layer only"
    return [one_run({"steps": given["steps"], "frozen": frozen}, trial.seed, rows, test)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How lazy, and how accurate, training the last layer only is."""
    shown = [{**row, "margin": _margin(row)} for row in rows]
    return [
        differs(
            shown, "Training the last layer only is lazier by more than 0.2", "run", "last layer only", "all layers", "margin",
            published="0.63 against 0.0087 (MNIST, a task on which rich training fails)",
            unit="difference of D_LR, minus 0.2",
        ),
        alike(
            rows, "The ridge head on initial features is as lazy as a trained last layer", "run", "closed form",
            "last layer only", "dlr", within=0.1, published="not stated", unit="difference of D_LR",
        ),
        differs(
            rows, "Training all layers is more accurate on held-out rows", "run", "all layers", "last layer only",
            "test_accuracy", published="rich is not always better", unit="difference of accuracy",
        ),
    ]  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """D_LR of the three."""
    return {"dlr": bars(rows, "run", "dlr", "D_LR of the training rows (0: rich)")}


def _margin(row: dict[str, Any]) -> float | None:
    """D_LR, with the margin of 0.2 taken off the lazy side."""
    if row["dlr"] is None:
        return None
    return row["dlr"] - 0.2 if row["run"] == "last layer only" else row["dlr"]
