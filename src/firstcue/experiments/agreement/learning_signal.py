"""What the mask lets through at the start: the gradient of the spiral, or that of the signatures?"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from firstcue.agreement.gradients import environment_gradients
from firstcue.batch import Batch
from firstcue.experiments.agreement._memorising import COMMON, loss, perceptron
from firstcue.experiments.agreement._spirals import PRESETS, spirals
from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.forward import seeded
from firstcue.sweeps import Trial

TITLE = "At the start the masked gradient points along the mechanism, the masked-out rest along the shortcut"
SOURCE = "arXiv 2009.00329, figure 7"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.2, settings={"rows": 128, "hidden": 64}),
    "small": Scale(minutes=1.0, settings={"rows": 1024, "hidden": 256}),
    "paper": Scale(minutes=1.0, settings={"rows": 1024, "hidden": 256}),
}
SEEDS = 10
THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("agreement/learning-signal", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Correlations of what is kept, and of what is not, with the gradients of the mechanism alone and the shortcut alone."""
    preset = replace(PRESETS["paper"], environments=16)
    batch = spirals(preset, seed=trial.seed)
    rows = torch.cat([torch.arange(trial.settings["rows"]) + e * preset.rows for e in range(preset.environments)])
    batch = batch.rows(rows)
    with seeded(trial.seed):
        model = perceptron(2 + preset.signature, {**COMMON, "hidden": trial.settings["hidden"]}, trial.seed)
    generator = torch.Generator().manual_seed(trial.seed)
    own = _flat(model, batch)
    alone = {
        "mechanism": _flat(model, shuffled(batch, slice(2, None), generator)).mean(dim=0),
        "shortcut": _flat(model, shuffled(batch, slice(0, 2), generator)).mean(dim=0),
    }
    agreement, mean = own.sign().mean(dim=0).abs(), own.mean(dim=0)
    found = []
    for threshold in THRESHOLDS:
        kept = agreement >= threshold - 1e-6
        for part, mask in {"kept": kept, "masked out": ~kept}.items():
            numbers = {name: correlation(mean[mask], other[mask]) for name, other in alone.items()}
            found.append({"threshold": threshold, "part": part, "components": int(mask.sum()), **numbers})
    return found


def shuffled(batch: Batch, columns: slice, generator: torch.Generator) -> Batch:
    """The same rows with some columns permuted over all of them: these columns tell nothing any more."""
    x = batch.x.clone()
    x[:, columns] = x[torch.randperm(len(x), generator=generator)][:, columns]
    return Batch(x, batch.y, batch.group)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of the components where both are not zero; 0 of fewer than three."""
    both = (a != 0) & (b != 0)
    if int(both.sum()) < 3:
        return 0.0
    return float(torch.corrcoef(torch.stack([a[both], b[both]]).double())[0, 1])


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """With whose gradient the kept and the dropped part of the gradient correlate."""

    def of(threshold: float, part: str, name: str) -> list[float]:
        return [r[name] for r in rows if r["threshold"] == threshold and r["part"] == part]

    def differences(a: list[float], b: list[float]) -> list[float]:
        return [x - y for x, y in zip(a, b, strict=True)]

    half = 0.5
    return [
        judged(
            "What half the agreement keeps correlates more with the mechanism's gradient than the whole does",
            differences(of(half, "kept", "mechanism"), of(0.0, "kept", "mechanism")),
            published="rises from about 0.4 as the threshold grows",
            unit="difference of correlations",
        ),
        judged(
            "And what half the agreement keeps correlates less with the shortcut's",
            differences(of(0.0, "kept", "shortcut"), of(half, "kept", "shortcut")),
            published="falls",
            unit="difference of correlations",
        ),
        judged(
            "What is masked out correlates more with the shortcut's gradient than what is kept",
            differences(of(half, "masked out", "shortcut"), of(half, "kept", "shortcut")),
            published="the complementary mask keeps the shortcut",
            unit="difference of correlations",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Both correlations over the threshold; what is kept to the right, what is masked out to the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    places = [("masked out", -1.0, THRESHOLDS[:0:-1]), ("kept", 1.0, THRESHOLDS)]
    for name in ("mechanism", "shortcut"):
        xs, ys = [], []
        for part, sign, thresholds in places:
            for threshold in thresholds:
                values = [r[name] for r in rows if r["threshold"] == threshold and r["part"] == part]
                xs.append(sign * threshold)
                ys.append(sum(values) / len(values))
        axes.plot(xs, ys, marker="o", label=name)
    axes.set(xlabel="threshold (negative: what it masks out)", ylabel="correlation of gradients")
    axes.legend(frameon=False)
    return {"signal": figure}


def _flat(model: nn.Module, batch: Batch) -> Tensor:
    """`(e, p)` gradients of all weights."""
    return torch.cat([g.flatten(1) for g in environment_gradients(model, loss, batch).values()], dim=1)
