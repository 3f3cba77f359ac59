"""A task on which rich training fails and lazy training does not: training images that carry their label as a code.

The code is one bright pixel among ten. Training all layers concentrates the features on it; at test time, when the code
is drawn at random, they have nothing else. Random features see the code weakly and keep the image.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._judging import differs
from firstcue.experiments.richness._setting import accuracy, by_setting, images, one_run
from firstcue.heads import features_and_outputs
from firstcue.richness.low_rank import low_rank_measure
from firstcue.sweeps import Trial

TITLE = "Rich training fails where labels are written into the training images"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=1, settings={"data": "builtin:digits", "train_rows": 1000, "test_rows": 500, "pool": 2, "steps": 200, "amplitudes": [3.0]}),
    "small": Scale(minutes=10, settings={"data": "builtin:fashion-mnist", "train_rows": 4000, "test_rows": 2000, "pool": 2, "steps": 1500, "amplitudes": [1.0, 2.0, 3.0, 4.0, 6.0, 10.0]}),
    "paper": Scale(minutes=300, settings={"data": "builtin:fashion-mnist", "train_rows": 60000, "test_rows": 10000, "pool": 1, "steps": 20000, "amplitudes": [1.0, 2.0, 3.0, 4.0, 6.0, 10.0]}),
}  # fmt: skip
SEEDS = 5
JUDGED = 3.0
"""Amplitude, in standard deviations of a pixel, at which claims are judged; fixed beforehand."""


def coded(rows: Batch, codes: Tensor | None, amplitude: float) -> Batch:
    """The same images with their first pixels holding a code; without codes the pixels hold nothing.

    Args:
        rows: Images, of at least as many pixels as classes.
        codes: `(n,)` ids.
        amplitude: Of the pixel that is on.
    """
    classes = len(rows.classes)
    x = rows.x.flatten(1).clone()
    x[:, :classes] = 0 if codes is None else amplitude * one_hot(codes, classes).to(x)
    return replace(rows, x=x.reshape(rows.x.shape))


def trials(scale: str, seeds: int) -> list[Trial]:
    """All layers and the last one only, at every amplitude of the code."""
    shared = {name: value for name, value in SCALES[scale].settings.items() if name != "amplitudes"}
    return [
        Trial("richness/label-code", {**shared, "amplitude": amplitude, "run": run}, seed)
        for amplitude in SCALES[scale].settings["amplitudes"]
        for run in ("all layers", "last layer only")
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network, trained on coded images, tested with true, random and absent codes."""
    given, seed = trial.settings, trial.seed
    rows, test = images(given["data"], given["train_rows"], given["test_rows"], seed, pool=given["pool"])
    amplitude = given["amplitude"]
    drawn = torch.randint(len(rows.classes), (len(test),), generator=torch.Generator().manual_seed(seed))
    broken, absent = coded(test, drawn, amplitude), coded(test, None, amplitude)

    def tested(network: Any, start: Any) -> dict[str, float]:
        return {
            "accuracy_random_code": accuracy(network, broken),
            "accuracy_no_code": accuracy(network, absent),
            "dlr_random_code": low_rank_measure(*features_and_outputs(network, broken.x)).dlr,
        }

    setting = {"steps": given["steps"], "frozen": given["run"] == "last layer only"}
    return [one_run(setting, seed, coded(rows, rows.y, amplitude), coded(test, test.y, amplitude), tested)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Who trusts the code of the label that the images carry."""
    judged_at = [row for row in rows if row["amplitude"] == JUDGED]
    alarm = [
        {"seed": row["seed"], "code": code, "dlr": row[name]}
        for row in judged_at
        if row["run"] == "all layers"
        for code, name in (("random", "dlr_random_code"), ("true", "dlr_test"))
    ]
    note = f"Amplitude {JUDGED:g}; the published task is not described in what we could read, and this is a stand-in for it."
    return [
        differs(
            judged_at, "With random codes at test time, lazy training is more accurate than rich training", "run",
            "last layer only", "all layers", "accuracy_random_code", published="74.4 % (lazy) against 10.0 % (rich) on MNIST",
            unit="difference of accuracy", note=note,
        ),
        differs(
            judged_at, "The more accurate network has the larger D_LR", "run", "last layer only", "all layers", "dlr",
            published="0.63 (lazy) against 0.0087 (rich)", unit="difference of D_LR", note=note,
        ),
        differs(
            alarm, "D_LR of the rich network rises when codes are broken", "code", "random", "true", "dlr",
            published="not stated", unit="difference of D_LR", note="Held-out rows; no labels are needed to see it.",
        ),
    ]  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy with random codes over the amplitude of the code."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    for name in dict.fromkeys(row["run"] for row in rows):
        means = by_setting([row for row in rows if row["run"] == name], "amplitude", "accuracy_random_code")
        axes.plot(list(means), [sum(v) / len(v) for v in means.values()], marker="o", label=name)
    axes.set(xlabel="amplitude of the code (standard deviations)", ylabel="accuracy with random codes", ylim=(0, 1))
    axes.legend(frameon=False)
    return {"accuracy": figure}
