"""Groups guessed in several ways at once: how far the ways agree, and whether each says the same twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.spurious.inference import crossed, eiil_environments, error_set, george_clusters, spare_clusters

SEEDS = 3


@dataclass(frozen=True)
class InferredGroups:
    """Groups by one method."""

    groups: Int[Tensor, " n"]
    """Class by guessed environment, ids without gaps."""

    agreement: float
    """Adjusted Rand index with the other methods, within classes, averaged: 0 is chance, 1 the same; NaN if alone."""

    stability: float
    """The same between three seeds of this method."""


@dataclass(frozen=True)
class Inference:
    """Groups by every method that had what it needs."""

    by_method: Mapping[str, InferredGroups]
    trusted: bool
    """False where early-learning inference is at chance."""

    @property
    def best(self) -> str:
        """The method that the others agree with most."""
        return max(self.by_method, key=lambda m: np.nan_to_num(self.by_method[m].agreement))

    @property
    def agreement(self) -> float:
        """Mean agreement between methods; NaN with one."""
        return float(np.mean([g.agreement for g in self.by_method.values()]))


def infer_groups(
    y: Any, *, outputs: Any = None, features: Any = None, trusted: bool = True, steps: int = 1000, seed: int = 0
) -> Inference:
    """Groups by JTT's error set, EIIL and SPARE from early outputs, and by GEORGE from features.

    Args:
        y: `(n,)` class ids.
        outputs: `(n, K)` logits early in training.
        features: `(n, d)` features in front of the last layer.
        trusted: Whether early outputs were found to fall into clusters.
        steps: Of EIIL's ascent.
        seed: The first of three.

    Raises:
        ValueError: If neither outputs nor features are given, or shapes do not fit.

    Example:
        >>> import torch
        >>> y = torch.arange(40) % 2
        >>> cue = torch.where(torch.arange(40) < 36, y, 1 - y)
        >>> found = infer_groups(y, outputs=torch.nn.functional.one_hot(cue).float() * 4 + torch.rand(40, 2) / 100)
        >>> found.agreement > 0.99, found.by_method["error set"].groups.bincount().tolist()
        (True, [18, 2, 18, 2])
    """
    labels = as_tensor(y, "y").detach().cpu().long()
    methods: dict[str, Any] = {}
    if outputs is not None:
        methods["error set"] = lambda s: error_set(outputs, labels).long()
        methods["EIIL"] = lambda s: eiil_environments(outputs, labels, steps=steps, seed=s)
        methods["SPARE"] = partial(_spare, outputs, labels)
    if features is not None:
        methods["GEORGE"] = lambda s: george_clusters(features, labels, clusters=2, projection="pca", seed=s)
    if not methods:
        raise ValueError("`outputs` or `features` are needed to infer groups from.")
    runs = {name: [crossed(method(seed + i), labels) for i in range(SEEDS)] for name, method in methods.items()}
    found = {
        name: InferredGroups(
            groups=own[0],
            agreement=_mean([rand_within(own[0], other[0], labels) for n, other in runs.items() if n != name]),
            stability=_mean([rand_within(own[i], own[j], labels) for i in range(SEEDS) for j in range(i)]),
        )
        for name, own in runs.items()
    }
    return Inference(found, trusted)


def _spare(outputs: Any, y: Tensor, seed: int) -> Tensor:
    return spare_clusters(outputs, y, seed=seed)


def rand_within(a: Tensor, b: Tensor, y: Tensor) -> float:
    """Adjusted Rand index of two partitions in each class, averaged by rows: sharing the class is no agreement.

    Example:
        >>> import torch
        >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> rand_within(torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), torch.tensor([1, 1, 0, 0, 0, 0, 1, 1]), y)
        1.0
    """
    from sklearn.metrics import adjusted_rand_score

    parts = [(float((y == k).sum()), adjusted_rand_score(a[y == k], b[y == k])) for k in y.unique()]
    return float(sum(n * r for n, r in parts) / len(y))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
