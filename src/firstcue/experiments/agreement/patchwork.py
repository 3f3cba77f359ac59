"""A fit that is patched together from two environments, each of which could not care less what the other sees."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstcue.agreement.consistency import inconsistency
from firstcue.experiments.claims import Claim, Scale
from firstcue.sweeps import Trial

TITLE = "A patchwork solution fits both environments and is inconsistent without bound"
SOURCE = "arXiv 2009.00329, appendix A.1"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.2, settings={"points": 201, "steps": 60}),
    "small": Scale(minutes=0.5, settings={"points": 1001, "steps": 200}),
    "paper": Scale(minutes=2.0, settings={"points": 10001, "steps": 400}),
}
SEEDS = 5
LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


class Patchwork(nn.Module):
    """Two steep sigmoids, `t5 s(t1 x + t2) + t6 s(t3 x + t4)`, one for the rise in each environment.

    Args:
        second: The parameter t2. The paper's text says -50, its figure -45; only the latter fits.
        last: The parameter t6.
    """

    def __init__(self, second: float = -45.0, last: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([100.0, second, 100.0, -75.0, 1.0, last], dtype=torch.float64))

    def forward(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        t = self.theta
        return t[4] * torch.sigmoid(t[0] * x + t[1]) + t[5] * torch.sigmoid(t[2] * x + t[3])


def target(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Two ramps: from 0 to 1 between 0.4 and 0.5, and from 1 to 2 between 0.7 and 0.8."""
    return (10 * (x - 0.4)).clamp(0, 1) + (10 * (x - 0.7)).clamp(0, 1)


def patchwork_losses(points: int = 1001) -> Mapping[str, Callable[[nn.Module], Tensor]]:
    """Mean squared errors left of 0.5 (A) and right of it (B)."""
    x = torch.linspace(0, 1, points, dtype=torch.float64)

    def of(part: Tensor) -> Callable[[nn.Module], Tensor]:
        return lambda model: (model(part) - target(part)).square().mean()

    return {"A": of(x[x < 0.5]), "B": of(x[x >= 0.5])}


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("agreement/patchwork", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Scores of the patchwork between its environments, and between one environment and itself."""
    losses = patchwork_losses(trial.settings["points"])
    rows = []
    for name, pair in {"patchwork": losses, "same rows": {"A": losses["A"], "A again": losses["A"]}}.items():
        found = inconsistency(Patchwork(), pair, LEVELS, steps=trial.settings["steps"], seed=trial.seed)
        scores = zip(LEVELS, found.path, found.ray, found.quadratic, strict=True)  # type: ignore[arg-type]
        rows += [
            {"environments": name, "eps": e, "path": float(p), "ray": float(r), "quadratic": float(q), "gap": found.gap}
            for e, p, r, q in scores
        ]
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether a patchwork is inconsistent without bound, and equal environments are not."""
    smallest = [r for r in rows if r["eps"] == LEVELS[0] and r["environments"] == "patchwork"]
    same = [r["path"] / r["eps"] for r in rows if r["environments"] == "same rows"]
    worst = [r["path"] for r in smallest]
    return [
        Claim(
            text="Within eps = 1e-6 of its minimum for A, the loss for B rises above 1",
            published="spoiling t6 raises the loss of B and leaves that of A",
            value=min(worst),
            ci_low=min(worst),
            ci_high=max(worst),
            n=len(worst),
            unit="mean squared error, least and most over seeds",
            verdict="holds" if min(worst) >= 1.05 else "does not hold",
            note="A lower bound: the search was still gaining when its steps ran out.",
        ),
        Claim(
            text="Between an environment and itself the score is eps",
            published="equal losses give eps",
            value=max(same),
            ci_low=min(same),
            ci_high=max(same),
            n=len(same),
            unit="score / eps, least and most over seeds and levels",
            verdict="holds" if max(same) <= 1 + 1e-9 else "does not hold",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The score over eps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    for name in dict.fromkeys(r["environments"] for r in rows):
        part = [r for r in rows if r["environments"] == name and r["seed"] == rows[0]["seed"]]
        axes.loglog([r["eps"] for r in part], [r["path"] for r in part], marker="o", label=name)
    axes.set(xlabel="eps", ylabel="inconsistency (lower bound)")
    axes.legend(frameon=False)
    return {"score": figure}
