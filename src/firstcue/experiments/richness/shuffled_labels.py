"""Labels that mean nothing: does a network that must memorise them train less richly?"""

from dataclasses import replace
from typing import Any

import torch

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.richness._judging import alike, differs
from firstcue.experiments.richness._setting import bars, images, one_run
from firstcue.sweeps import Trial

TITLE = "Fully shuffled labels are trained as richly as true ones"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=1, settings={"data": "builtin:digits", "train_rows": 500, "test_rows": 500, "pool": 2, "steps": 1500}),
    "small": Scale(minutes=9, settings={"data": "builtin:fashion-mnist", "train_rows": 2000, "test_rows": 2000, "pool": 2, "steps": 6000}),
    "paper": Scale(minutes=900, settings={"data": "cifar-10-batches-py", "train_rows": 50000, "test_rows": 10000, "pool": 1, "steps": 100000}),
}  # fmt: skip
SEEDS = 5
SHARES = (0.0, 0.5, 1.0)


def shuffled(rows: Batch, share: float, seed: int) -> Batch:
    """A share of the rows, chosen at random, with their labels permuted among them."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=generator)[: round(share * len(rows))]
    y = rows.y.clone()
    y[chosen] = rows.y[chosen[torch.randperm(len(chosen), generator=generator)]]
    return replace(rows, y=y)


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each share of shuffled labels, and seed."""
    shared = SCALES[scale].settings
    return [Trial("richness/shuffled-labels", {**shared, "share": s}, seed) for s in SHARES for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network trained until the steps are used up."""
    given = trial.settings
    rows, test = images(given["data"], given["train_rows"], given["test_rows"], trial.seed, pool=given["pool"])
    setting = {"loss": "ce", "rate": 0.03, "steps": given["steps"]}
    return [one_run(setting, trial.seed, shuffled(rows, given["share"], trial.seed), test)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether richness tells memorising from learning."""
    memorised = [
        row["train_accuracy"] - 0.9 for row in rows if row["share"] == 1.0 and row["train_accuracy"] is not None
    ]
    return [
        judged(
            "Shuffled labels are memorised (training accuracy above 90 %)", memorised,
            published="CIFAR-10 by ResNet-18", unit="training accuracy minus 0.9",
        ),
        alike(
            rows, "D_LR is about the same with shuffled labels as with true ones", "share", 1.0, 0.0, "dlr", within=0.05,
            published="0.034 (shuffled) against 0.031 (true), CIFAR-10", unit="difference of D_LR",
        ),
        differs(
            rows, "Accuracy on held-out rows is not", "share", 0.0, 1.0, "test_accuracy",
            published="95.0 % against 9.5 %", unit="difference of accuracy",
        ),
    ]  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """D_LR by the share of shuffled labels."""
    return {"dlr": bars(rows, "share", "dlr", "D_LR of the training rows (0: rich)")}
