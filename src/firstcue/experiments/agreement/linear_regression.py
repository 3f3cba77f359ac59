"""Four rows, each an environment: every one can be fitted by a weight of its own, or all by one weight that they share."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from firstcue.agreement.rules import Rule, and_mask, geometric_mean, mean_gradient
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.sweeps import Trial

TITLE = "In a linear regression the mask finds the weight that all environments share"
SOURCE = "arXiv 2009.00329, notebook of its code"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.2, settings={"steps": 1000}),
    "small": Scale(minutes=0.5, settings={"steps": 1000}),
    "paper": Scale(minutes=0.5, settings={"steps": 1000}),
}
SEEDS = 20
RULES: Mapping[str, Rule] = {
    "mean": mean_gradient,
    "AND-mask": partial(and_mask, threshold=1.0),
    "geometric mean": partial(geometric_mean, threshold=1.0),
}


def rows_of_four() -> tuple[Tensor, Tensor]:
    """Inputs `(4, 5)`, a weight for each row and a weak one for all, and targets of one."""
    x = 3 * torch.cat([torch.eye(4), torch.full((4, 1), 0.1)], dim=1)
    return x, torch.ones(4)


def fit(rule: Rule, steps: int, seed: int, *, rate: float = 0.3, decay: float = 0.01) -> Tensor:
    """The `(5,)` weights of gradient descent on the first two rows, each its own environment, with half squared errors.

    The learning rate falls by 0.05 % before every step. Weight decay is a step of its own, so that masked weights shrink.
    """
    x, y = rows_of_four()
    weight = 0.1 * torch.randn(5, generator=torch.Generator().manual_seed(seed))
    for _ in range(steps):
        rate *= 0.9995
        gradients = (x[:2] @ weight - y[:2])[:, None] * x[:2]
        weight = (weight - rate * rule(gradients)) * (1 - decay * rate)
    return weight


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each rule and seed."""
    shared = SCALES[scale].settings
    return [
        Trial("agreement/linear-regression", {**shared, "rule": rule}, seed) for rule in RULES for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Weights and test loss of one rule."""
    weight = fit(RULES[trial.settings["rule"]], trial.settings["steps"], trial.seed)
    x, y = rows_of_four()
    loss = (x @ weight - y).square() / 2
    weights = {f"weight_{i}": float(w) for i, w in enumerate(weight)}
    return [{"train_loss": float(loss[:2].mean()), "test_loss": float(loss[2:].mean()), **weights}]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Which rule lets the shared weight carry everything."""

    def of(rule: str, name: str) -> list[float]:
        return [row[name] for row in rows if row["rule"] == rule]

    return [
        judged(
            "With the AND-mask the shared weight carries everything: above 2.75",
            [w - 2.75 for w in of("AND-mask", "weight_4")],
            published="2.99 and 3.04",
            unit="weight minus 2.75",
        ),
        judged(
            "With the mean it hardly grows: below 0.1",
            [0.1 - w for w in of("mean", "weight_4")],
            published="0.065",
            unit="0.1 minus weight",
        ),
        *(
            judged(
                f"On the two unseen environments the {rule} has a lower loss than the mean",
                paired(rows, "rule", "test_loss", "mean", rule),
                published="solves them",
                unit="difference of losses",
            )
            for rule in ("AND-mask", "geometric mean")
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The five weights that each rule finds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4))
    for axes, rule in zip(figure.subplots(1, len(RULES), sharey=True), RULES, strict=True):
        part = [row for row in rows if row["rule"] == rule]
        for row in part:
            axes.plot(range(5), [row[f"weight_{i}"] for i in range(5)], "o", color="C0", ms=3, alpha=0.4)
        axes.set(title=rule, xlabel="weight (4: shared)")
    return {"weights": figure}
