"""Convolutional networks with and without batch normalisation."""

import copy
from typing import Any

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._convolutional import NETS
from firstcue.experiments.richness._judging import differs
from firstcue.experiments.richness._setting import DEFAULTS, MEASURED, bars, fitted, images, measured
from firstcue.forward import seeded
from firstcue.sweeps import Trial

TITLE = "Batch normalisation makes convolutional networks train richly"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=2, settings={"data": "builtin:digits", "train_rows": 500, "test_rows": 300, "pool": 2, "steps": 40, "widths": [8, 16], "repeats": 1}),
    "small": Scale(minutes=40, settings={"data": "builtin:fashion-mnist", "train_rows": 4000, "test_rows": 2000, "pool": 2, "steps": 500, "widths": [32, 64, 128], "repeats": 2}),
    "paper": Scale(minutes=6000, settings={"data": "cifar-10-batches-py", "train_rows": 50000, "test_rows": 10000, "pool": 1, "steps": 40000, "widths": [64, 128, 256, 512], "repeats": 3}),
}  # fmt: skip
SEEDS = 3


def trials(scale: str, seeds: int) -> list[Trial]:
    """Each network with and without batch normalisation."""
    shared = SCALES[scale].settings
    return [
        Trial("richness/batch-norm", {**shared, "net": net, "batch_norm": batch_norm}, seed)
        for net in NETS
        for batch_norm in (False, True)
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network trained with cross-entropy; rate 0.02, lowered to a fifth where that diverges."""
    given, seed = trial.settings, trial.seed
    rows, test = images(given["data"], given["train_rows"], given["test_rows"], seed, pool=given["pool"])
    make = NETS[given["net"]]
    with seeded(seed):
        start = make(rows.x.shape[1], len(rows.classes), given["widths"], given["repeats"], given["batch_norm"])
    name = f"{given['net']}, {'with' if given['batch_norm'] else 'without'} batch norm"
    for rate in (0.02, 0.004):
        setting = {**DEFAULTS, "loss": "ce", "rate": rate, "steps": given["steps"]}
        try:
            model = fitted(copy.deepcopy(start), rows, setting, seed)
        except ValueError as error:
            if "learning rate" not in str(error):
                raise
            continue
        return [{"run": name, "rate": rate, "diverged": 0, **measured(model, start, rows, test)}]
    return [{"run": name, "rate": None, "diverged": 1, **dict.fromkeys(MEASURED)}]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether batch normalisation makes each of the networks richer."""
    published = {
        "vgg": "0.66 without, 0.073 with (CIFAR-100, VGG-16; test accuracy 21.7 % and 72.0 %)",
        "resnet": "not stated without",
    }
    return [
        differs(
            [row for row in rows if row["net"] == net],
            f"Batch normalisation makes the {net} richer",
            "batch_norm",
            False,
            True,
            "dlr",
            published=published[net],
            unit="difference of D_LR",
        )
        for net in NETS
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """D_LR and used variance of the four networks."""
    return {
        "dlr": bars(rows, "run", "dlr", "D_LR of the training rows (0: rich)"),
        "used": bars(rows, "run", "used", "share of the features' variance that the head uses"),
    }
