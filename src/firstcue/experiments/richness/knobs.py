"""Every knob that theory says moves training between lazy and rich, turned one at a time, with D_LR beside it."""

from typing import Any

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._judging import differs
from firstcue.experiments.richness._setting import bars, images, one_run
from firstcue.sweeps import Trial

TITLE = "D_LR follows the knobs that make training lazy or rich"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=2, settings={"data": "builtin:digits", "train_rows": 1000, "test_rows": 500, "pool": 2, "steps": 150}),
    "small": Scale(
        minutes=25,
        settings={"data": "builtin:fashion-mnist", "train_rows": 4000, "test_rows": 2000, "pool": 2, "steps": 1500},
    ),
    "paper": Scale(
        minutes=600,
        settings={"data": "builtin:fashion-mnist", "train_rows": 60000, "test_rows": 10000, "pool": 1, "steps": 20000},
    ),
}  # fmt: skip
SEEDS = 5

RUNS: dict[str, dict[str, Any]] = {
    "last layer only": {"frozen": True},
    "all layers": {},
    "targets x0.01": {"target": 0.01, "rate": 0.001},
    "targets x0.1": {"target": 0.1, "rate": 0.001},
    "targets x1": {"target": 1.0, "rate": 0.001},
    "targets x10": {"target": 10.0, "rate": 0.001},
    "alpha 0.1": {"alpha": 0.1, "rate": 0.0002},
    "alpha 0.3": {"alpha": 0.3, "rate": 0.001},
    "alpha 1": {"alpha": 1.0, "rate": 0.001},
    "alpha 10": {"alpha": 10.0, "rate": 0.001},
    "rate 0.001": {"loss": "ce", "rate": 0.001},
    "rate 0.01": {"loss": "ce", "rate": 0.01},
    "rate 0.1": {"loss": "ce", "rate": 0.1},
    "initial weights x0.5": {"loss": "ce", "init": 0.5},
    "initial weights x2": {"loss": "ce", "init": 2.0, "rate": 0.0025},
    "weight decay 5e-3": {"loss": "ce", "weight_decay": 5e-3},
    "batch norm": {"loss": "ce", "batch_norm": True},
    "width 50": {"loss": "ce", "width": 50},
    "width 800": {"loss": "ce", "width": 800},
}
"""What each run changes; `rate 0.01` is what the later ones are compared with."""


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each way to turn a knob, and seed."""
    shared = SCALES[scale].settings
    return [Trial("richness/knobs", {**shared, "run": run}, seed) for run in RUNS for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network, trained under one run's setting."""
    given = trial.settings
    rows, test = images(given["data"], given["train_rows"], given["test_rows"], trial.seed, pool=given["pool"])
    return [one_run({"steps": given["steps"], **RUNS[given["run"]]}, trial.seed, rows, test)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Which setting of each knob is the lazier."""

    def lazier(text: str, a: str, b: str, published: str, value: str = "dlr", note: str = "") -> Claim:
        shown = [{**row, "relative": _relative(row)} for row in rows]
        unit = "difference of D_LR" if value == "dlr" else "difference of D_LR over D_LR at the start"
        return differs(shown, text, "run", a, b, value, published=published, unit=unit, note=note)

    return [
        lazier("Training the last layer only is lazier than training all", "last layer only", "all layers", "0.63 and 0.0087 on MNIST"),
        lazier("Small targets are lazier than large ones", "targets x0.1", "targets x10", "D_LR follows target downscaling"),
        lazier("A large output scale is lazier than a small one", "alpha 10", "alpha 0.1", "as target downscaling"),
        lazier(
            "A small learning rate is lazier than a large one", "rate 0.001", "rate 0.1",
            "0.053 / 0.025 / 0.039 for 0.005 / 0.05 / 0.2 (CIFAR-100, ResNet18)",
        ),
        lazier("Large initial weights are lazier than small ones", "initial weights x2", "initial weights x0.5", "lazy by theory"),
        lazier("Weight decay is richer than none", "rate 0.01", "weight decay 5e-3", "D_LR follows weight decay"),
        lazier(
            "Batch normalisation is richer than none", "rate 0.01", "batch norm", "0.66 without, 0.073 with (CIFAR-100, VGG-16)"
        ),
        lazier(
            "A wide network is lazier than a narrow one", "width 800", "width 50", "lazy by theory", "relative",
            "Compared as D_LR / D_LR(start), since D_LR at the start grows with width.",
        ),
    ]  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """D_LR and used variance of every run."""
    return {
        "dlr": bars(rows, "run", "dlr", "D_LR of the training rows (0: rich)"),
        "used": bars(rows, "run", "used", "share of the features' variance that the head uses"),
    }


def _relative(row: dict[str, Any]) -> float | None:
    return None if row["dlr"] is None or not row["dlr_start"] else row["dlr"] / row["dlr_start"]
