"""Does an edit that looks at the label write it into the data, where a flexible probe finds it?"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue.erasure.alf_qleace import alf_qleace
from firstcue.erasure.free_form import free_form_leace
from firstcue.erasure.gradient import gradient_erasure
from firstcue.erasure.leace import leace
from firstcue.erasure.marginal import marginal_eraser, quantile_tables
from firstcue.erasure.oracle import oracle_leace
from firstcue.erasure.qleace import qleace
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.experiments.erasure._data import images
from firstcue.moments import Moments
from firstcue.shrinkage import random_matrix_shrinkage
from firstcue.sweeps import Trial

TITLE = "Edits that look at labels write them into the data; label-free ones cannot"
SOURCE = (
    "Quirke and Belrose (2025), Slowing Learning by Erasing Simple Features, https://arxiv.org/abs/2502.02820; "
    "EleutherAI (2023), Oracle LEACE, https://blog.eleuther.ai/oracle-leace/"
)
VERSION = 1
SEEDS = 5

LATTICE = "lattice"
SCALES = {
    "tiny": Scale(minutes=1.0, settings={"data": [[LATTICE, 4, 2000]]}),
    "small": Scale(minutes=15.0, settings={"data": [[LATTICE, 4, 8000], ["builtin:fashion-mnist", 8, 6000]]}),
    "paper": Scale(
        minutes=600.0, settings={"data": [[LATTICE, 4, 8000], ["builtin:fashion-mnist", 28, 60000], ["cifar-10-batches-py", 32, 50000]]}
    ),
}  # fmt: skip
"""Data set, size (features of the lattice, pixels per side of images) and rows."""

LABEL_FREE = ("leace", "alf-qleace", "free-form")
LABEL_DEPENDENT = ("oracle", "qleace", "gradient", "gradient-close", "marginal")
"""Of the two by gradient the first is as published, the second comes close to equal moments."""

METHODS = (*LABEL_FREE, *LABEL_DEPENDENT)


def trials(scale: str, seeds: int) -> list[Trial]:
    """One per data set and seed."""
    return [
        Trial("erasure/injection", {"data": source, "size": size, "rows": rows}, seed)
        for source, size, rows in SCALES[scale].settings["data"]
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """A row for the raw data and one for each method: what a linear and a flexible probe read, on half the rows each."""
    s = trial.settings
    x, z = lattice(s["rows"], s["size"], trial.seed) if s["data"] == LATTICE else pictures(s, trial.seed)
    return [
        {"method": name, "distortion": float((edited - x).square().sum(dim=1).mean())} | _read(edited, z, trial.seed)
        for name, edited in _edits(x, z, image=s["data"] != LATTICE)
    ]


def lattice(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian features, the first rounded to multiples of one half, and a label that is likelier where it is large.

    A shift by anything but a multiple of one half, that depends on the label, tells it exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 0] = (2 * x[:, 0]).round() / 2
    return x, (torch.rand(n, generator=generator) < torch.sigmoid(2 * x[:, 0])).long()


def pictures(settings: Mapping[str, Any], seed: int) -> tuple[Tensor, Tensor]:
    """Some images of a data set as vectors, and their classes."""
    batch = images(settings["data"], settings["size"])
    chosen = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))[: settings["rows"]]
    return batch.x[chosen].flatten(1).double(), batch.y[chosen]


def _edits(x: Tensor, z: Tensor, image: bool) -> list[tuple[str, Tensor]]:
    from sklearn.linear_model import LogisticRegression

    moments = Moments.of_groups(x, z)
    box = (0.0, 1.0) if image else None
    methods: dict[str, Callable[[], Tensor]] = {
        "leace": lambda: leace(moments)(x),
        "alf-qleace": lambda: alf_qleace(moments, 0.9)(x),
        "free-form": lambda: free_form_leace(x, z, LogisticRegression(max_iter=300))(x),
        "oracle": lambda: oracle_leace(moments)(x, z),
        "qleace": lambda: qleace(moments, shrinkage=random_matrix_shrinkage if image else None)(x, z),
        "gradient": lambda: gradient_erasure(x, z, "cifar10" if image else "cifarnet", target="global"),
        "gradient-close": lambda: gradient_erasure(x, z, "close", box=box),
        "marginal": lambda: marginal_eraser(quantile_tables(x, z))(x, z),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shrinkage leaves a gap, and an eraser takes much, is measured here
        return [("raw", x), *((name, methods[name]()) for name in METHODS)]


def _read(x: Tensor, z: Tensor, seed: int) -> dict[str, Any]:
    """Held-out accuracy of logistic regression and of boosted trees, and the share of the commonest class."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed + 1)).numpy()
    fit, test = np.array_split(order, 2)
    rows, labels = x.numpy(), z.numpy()
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    trees = HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    return {
        "linear": float(linear.fit(rows[fit], labels[fit]).score(rows[test], labels[test])),
        "strong": float(trees.fit(rows[fit], labels[fit]).score(rows[test], labels[test])),
        "baseline": float(np.bincount(labels[test]).max() / len(test)),
        "n": len(test),
    }


def claims(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """For every data set and method: is more to be read afterwards than before?"""
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        here = [row for row in rows if row["data"] == data]
        name = data.removeprefix("builtin:")
        found += [_takes(here, name, method) for method in LABEL_FREE]
        found += [_writes(here, name, method) for method in ("oracle", "qleace")]
        found += [_takes(here, name, method) for method in ("gradient", "gradient-close", "marginal")]
    return found


def _takes(rows: Sequence[dict[str, Any]], data: str, method: str) -> Claim:
    published = {
        "gradient": "does not inject, by observation",
        "gradient-close": "not examined: ours",
        "marginal": "not examined",
        "free-form": "a function of x alone cannot add information",
    }.get(method, "a function of x alone cannot add information")
    return judged(
        f"After {method} boosted trees read the label no better than before on {data}",
        paired(rows, "method", "strong", method, "raw"),
        published=published,
        unit="accuracy of boosted trees, after minus before",
        wants="negative",
    )


def _writes(rows: Sequence[dict[str, Any]], data: str, method: str) -> Claim:
    return judged(
        f"{'Oracle LEACE' if method == 'oracle' else 'QLEACE'} writes the label into {data}",
        paired(rows, "method", "strong", method, "raw"),
        published="flexible models learn the label better than from clean data",
        unit="accuracy of boosted trees, after minus before",
    )


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of both probes after every method, one panel per data set."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row["data"] for row in rows))
    names = ("raw", *METHODS)
    figure = Figure(figsize=(5.5 * len(sets), 3.4), layout="constrained")
    for axes, data in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for offset, probe in ((-0.18, "linear"), (0.18, "strong")):
            groups = [[r[probe] for r in rows if r["data"] == data and r["method"] == name] for name in names]
            heights = [float(np.mean(group)) if group else math.nan for group in groups]
            axes.bar(np.arange(len(names)) + offset, heights, width=0.36, label=probe)
        axes.axhline(np.mean([r["baseline"] for r in rows if r["data"] == data]), color="grey", linestyle=":")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set(ylim=(0, 1.05), ylabel="held-out accuracy", title=data.removeprefix("builtin:"))
    figure.axes[0].legend(frameon=False)
    return {"accuracy": figure}
