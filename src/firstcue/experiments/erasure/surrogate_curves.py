"""Do networks use class means first, then covariances, then the rest?"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from math import ceil, log2
from typing import Any

import numpy as np
import torch

from firstcue.batch import Batch
from firstcue.erasure import surrogates
from firstcue.erasure.statistics_order import order_of_statistics
from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.erasure._data import POOL_SEED, images
from firstcue.experiments.erasure._nets import NAMES, build
from firstcue.forward import seeded
from firstcue.sweeps import Trial
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import Step

TITLE = "Networks are right on low-order surrogates early in training, and lose it later"
SOURCE = (
    "Belrose et al. (2024), Neural networks learn statistics of increasing complexity, https://arxiv.org/abs/2402.04362; "
    "on which Quirke and Belrose (2025), https://arxiv.org/abs/2502.02820, build"
)
VERSION = 1
SEEDS = 5

MADE = ("maxent", "independent", "gaussian")
EDITED = ("shift", "got", "cqn")
RATES = {"mlp": 1e-3, "res-mlp": 1e-3, "lenet": 1e-3, "convnext": 2e-3, "swin": 2e-3}
WIDTHS = {"mlp": [128, 2], "res-mlp": [128, 2], "lenet": [128, 2], "convnext": [16, 1], "swin": [16, 1]}
SHARED = {"batch": 64, "rates": RATES, "sizes": WIDTHS}
SCALES = {
    "tiny": Scale(
        minutes=1.0,
        settings=SHARED
        | {"data": [["builtin:digits", 8]], "rows": 1200, "held_out": 597, "steps": 512, "nets": ["mlp", "lenet"]},
    ),
    "small": Scale(
        minutes=35.0,
        settings=SHARED
        | {"data": [["builtin:fashion-mnist", 16]], "rows": 20000, "held_out": 4000, "steps": 4096}
        | {"nets": ["mlp", "lenet", "convnext", "swin"]},
    ),
    "paper": Scale(
        minutes=30_000.0,
        settings=SHARED
        | {"data": [["cifar-10-batches-py", 32], ["svhn", 32], ["builtin:fashion-mnist", 28]], "rows": 45000}
        | {"held_out": 5000, "steps": 65536, "nets": list(NAMES), "batch": 128},
    ),
}


def trials(scale: str, seeds: int) -> list[Trial]:
    """One per data set, network and seed."""
    given = SCALES[scale].settings
    own = {name: given[name] for name in ("rows", "held_out", "steps", "batch")}
    return [
        Trial(
            "erasure/surrogate-curves",
            own
            | {"data": source, "side": side, "net": net, "rate": given["rates"][net]}
            | {"width": given["sizes"][net][0], "depth": given["sizes"][net][1]},
            seed,
        )
        for source, side in given["data"]
        for net in given["nets"]
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracy on real held-out rows and on every surrogate, at steps 0, 1, 2, 4, ..."""
    s = trial.settings
    pool, sets = _prepared(s["data"], s["side"], s["rows"], s["held_out"])
    model = _network(s, pool, trial.seed)
    steps = {0, *(2**i for i in range(int(log2(s["steps"])) + 1))}
    rows: list[dict[str, Any]] = []

    def record(step: Step) -> None:
        if step.number in steps:
            found = order_of_statistics([(step.number, step.model)], sets).rows
            rows.extend({"surrogate" if key == "data" else key: value for key, value in row.items()} for row in found)

    epochs = ceil(s["steps"] * s["batch"] / len(pool))
    parts = islice(minibatches(pool, s["batch"], epochs, seed=trial.seed), s["steps"])
    train(
        model, parts, torch.optim.AdamW(model.parameters(), lr=s["rate"], foreach=True),
        recorders=[record], seed=trial.seed,
    )  # fmt: skip
    return rows


def _network(settings: Any, pool: Batch, seed: int) -> torch.nn.Module:
    c, h, w = pool.x.shape[1:]
    with seeded(seed):
        return build(settings["net"], (c, h, w), pool.num_classes, settings["width"], settings["depth"])


@lru_cache(maxsize=2)
def _prepared(source: str, side: int, rows: int, held_out: int) -> tuple[Batch, dict[str, Batch]]:
    """Rows to train on, and held-out rows, real and surrogate; all centred and scaled alike."""
    batch = images(source, side)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(POOL_SEED))
    pool, rest = batch.rows(order[:rows]), batch.rows(order[rows : rows + held_out])
    mean, spread = float(pool.x.mean()), float(pool.x.std())

    def scaled(b: Batch) -> Batch:
        return Batch((b.x - mean) / spread, b.y)

    sets = {"real": rest} | {name: getattr(surrogates, name)(rest) for name in (*MADE, *EDITED)}
    return scaled(pool), {name: scaled(b) for name, b in sets.items()}


def claims(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """Early success, later loss, and the order of the two, network by network."""
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for net in dict.fromkeys(row["net"] for row in rows if row["data"] == data):
            here = [row for row in rows if (row["data"], row["net"]) == (data, net)]
            runs = [_curves([r for r in here if r["seed"] == seed]) for seed in dict.fromkeys(r["seed"] for r in here)]
            where = f"the {net} on {data.removeprefix('builtin:')}"
            found += [_early(runs, where, "maxent"), _lost(runs, where, "maxent"), _lost(runs, where, "gaussian")]
            found += [_lost(runs, where, "shift"), _order(runs, where)]
    return found


Curves = dict[str, dict[int, float]]


def _curves(rows: Sequence[dict[str, Any]]) -> Curves:
    """Accuracy by step for every surrogate of one run; "chance" holds the baseline."""
    found: Curves = {}
    for row in rows:
        found.setdefault(row["surrogate"], {})[row["step"]] = row["accuracy"]
    return found


def _half_way(curves: Curves) -> int:
    """The first step at which accuracy on real rows has come half of its way: chosen without a look at surrogates."""
    real = curves["real"]
    first, last = real[min(real)], real[max(real)]
    return next(step for step in sorted(real) if real[step] >= (first + last) / 2)


def _lead(curves: Curves, name: str, step: int) -> float:
    return curves[name][step] - curves["real"][step]


def _early(runs: Sequence[Curves], where: str, name: str) -> Claim:
    return judged(
        f"Half-way, {where} is more often right on {name} than on real rows",
        [_lead(c, name, _half_way(c)) for c in runs],
        published="networks do well early on distributions that share low-order statistics only",
        unit=f"accuracy on {name} minus real, when real accuracy is half-way",
    )


def _lost(runs: Sequence[Curves], where: str, name: str) -> Claim:
    return judged(
        f"From half-way to the end, {where} loses on {name} what it gains on real rows",
        [_lead(c, name, _half_way(c)) - _lead(c, name, max(c["real"])) for c in runs],
        published="and lose this ability later",
        unit=f"accuracy on {name} minus real, half-way minus end",
    )


def _order(runs: Sequence[Curves], where: str) -> Claim:
    return judged(
        f"The lead on means (maxent) comes before that on two moments (gaussian) in {where}",
        [log2(1 + _best_lead(c, "gaussian")) - log2(1 + _best_lead(c, "maxent")) for c in runs],
        published="lower orders are learned before higher ones",
        unit="doublings of the step between the greatest leads over real rows",
    )


def _best_lead(curves: Curves, name: str) -> int:
    return max(sorted(curves["real"]), key=lambda step: _lead(curves, name, step))


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy over seeds, one panel per data set and network."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["data"], row["net"]) for row in rows))
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, (data, net) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        here = [row for row in rows if (row["data"], row["net"]) == (data, net)]
        for name in dict.fromkeys(row["surrogate"] for row in here):
            mine = [row for row in here if row["surrogate"] == name]
            steps = sorted({row["step"] for row in mine})
            means = [np.mean([row["accuracy"] for row in mine if row["step"] == step]) for step in steps]
            axes.plot(steps, means, marker=".", label=name, color="black" if name == "real" else None)
        axes.set_xscale("symlog", linthresh=1)
        axes.set(
            xlabel="training step", ylabel="accuracy", title=f"{data.removeprefix('builtin:')}, {net}", ylim=(0, 1)
        )
    figure.axes[-1].legend(frameon=False, fontsize="small")
    return {"curves": figure}
