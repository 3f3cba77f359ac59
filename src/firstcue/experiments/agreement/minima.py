"""Is the minimum that the mask finds the same explanation for all environments, more than that of plain training?"""

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from firstcue.agreement.coherence import measure_agreement
from firstcue.agreement.consistency import inconsistency, losses_of
from firstcue.agreement.rules import Rule, and_mask, mean_gradient
from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.forward import predict, seeded
from firstcue.sweeps import Trial
from firstcue.training.loop import train

TITLE = "The minima of the AND-mask are more consistent between environments"
SOURCE = "arXiv 2009.00329, sections 2 and 3"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=1.0, settings={"rows": 1000, "updates": 150, "search": 10}),
    "small": Scale(minutes=3.0, settings={"rows": 2000, "updates": 300, "search": 30}),
    "paper": Scale(minutes=60.0, settings={"rows": 8000, "updates": 1000, "search": 200}),
}
SEEDS = 10
LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1)
RULES: dict[str, Rule] = {"mean": mean_gradient, "AND-mask": partial(and_mask, threshold=1.0, scale="tensor")}


def sites(rows: int, seed: int, *, count: int = 8, code: int = 4) -> Batch:
    """One column that tells the class everywhere, and four that tell it by a code of each site; noise on all."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (rows,), generator=generator)
    site = torch.arange(rows) % count
    codes = torch.randn(count, code, generator=generator)
    sign = (2 * y - 1)[:, None]
    x = torch.cat([sign * 1.0, sign * codes[site]], dim=1) + 0.5 * torch.randn(rows, 1 + code, generator=generator)
    return Batch(x, y, site)


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each rule and seed."""
    shared = SCALES[scale].settings
    return [Trial("agreement/minima", {**shared, "rule": rule}, seed) for rule in RULES for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Scores of the minimum that one rule finds, a row for each level, and accuracy on sites with new codes."""
    s = trial.settings
    data, unseen = sites(s["rows"], trial.seed), sites(2000, 1000 + trial.seed)
    with seeded(trial.seed):
        model = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    train(model, [data] * s["updates"], optimizer, rule=RULES[s["rule"]], seed=trial.seed)
    losses = losses_of(cross_entropy, data.rows(slice(0, 800)))
    found = inconsistency(model, losses, LEVELS, steps=s["search"], pairs=6, rays=2, rank=2, seed=trial.seed)
    agreement = measure_agreement(model, cross_entropy, data, seed=trial.seed)
    shared = {
        "train": _accuracy(model, data),
        "unseen": _accuracy(model, unseen),
        "gap": found.gap,
        "gradient_norm": found.gradient_norm,
        "kept": agreement.kept,
        "growing": found.growing,
    }
    scores = zip(LEVELS, found.path_centred, found.ray_centred, found.quadratic_centred, strict=True)  # type: ignore[arg-type]
    return [{"eps": e, "path": float(p), "ray": float(r), "quadratic": float(q), **shared} for e, p, r, q in scores]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether the mask's minimum is the less inconsistent, level by level."""
    logged = [{**row, "log_path": math.log10(max(row["path"], 1e-12) / row["eps"])} for row in rows]
    level = LEVELS[1]
    means = {rule: sum(r["log_path"] for r in logged if r["rule"] == rule and r["eps"] == level) for rule in RULES}
    count = max(1, sum(r["rule"] == "mean" and r["eps"] == level for r in rows))
    return [
        judged(
            f"At eps = {level:g} a path search finds less inconsistency at the mask's minimum",
            paired([r for r in logged if r["eps"] == level], "rule", "log_path", "mean", "AND-mask"),
            published="argued from the theory; not measured on a network",
            unit="orders of magnitude of the score (a lower bound)",
            note=f"Mean log10 of score / eps: mean {means['mean'] / count:.1f}, AND-mask {means['AND-mask'] / count:.1f}.",
        ),
        judged(
            "On sites with other codes the mask's network is better",
            paired([r for r in rows if r["eps"] == level], "rule", "unseen", "AND-mask", "mean"),
            published="the purpose of the mask",
            unit="difference of accuracies",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The score over eps, a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    for i, rule in enumerate(RULES):
        for j, seed in enumerate(sorted({row["seed"] for row in rows})):
            part = [row for row in rows if row["rule"] == rule and row["seed"] == seed]
            label = rule if j == 0 else None
            axes.loglog([r["eps"] for r in part], [r["path"] / r["eps"] for r in part], f"C{i}-", lw=0.9, label=label)
    axes.axhline(1, color="0.7", lw=0.8)
    axes.set(xlabel="eps", ylabel="score / eps (lower bound)")
    axes.legend(frameon=False)
    return {"score": figure}


def _accuracy(model: nn.Module, batch: Batch) -> float:
    return float((predict(model, batch.x).argmax(dim=1) == batch.y).double().mean())
