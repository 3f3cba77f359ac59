"""What a network learned early, row by row, and whether its early answers fall into clusters that groups could be read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from firstcue._checks import as_tensor, require_finite, require_rows
from firstcue.spurious.inference import minority, spare_clusters

AT_CHANCE = "spurious feature not learned early; group inference is at chance"
"""What is said when early answers show no clusters."""

VALLEY = 0.6
"""Density between two clusters over that at the lower peak, above which they are one."""

SKILL = 0.1
"""Balanced accuracy beyond chance that an early network needs to have learned anything."""

MATCH = 0.5
"""Overlap (Jaccard) of the smaller clusters with the wrong rows: an early answer that is a cue is wrong where it cuts."""


@dataclass(frozen=True)
class EarlyLate:
    """When each row was learned, and what the first checkpoint says of groups."""

    steps: tuple[int, ...]
    early: int
    """The step taken to be early: the deepest valley among checkpoints that have learned something, the last left out."""

    first_learned: Int[Tensor, " n"]
    """Step from which a row stays right; -1 if it is wrong at the last one."""

    forgotten: Int[Tensor, " n"]
    """How often a row goes from right to wrong."""

    disagree: Bool[Tensor, " n"]
    """Whether the early decision differs from the last one."""

    early_loss: Tensor
    """`(n,)` cross-entropy at the early step, nats."""

    early_accuracy: float
    """Balanced accuracy at the early step."""

    valley: float
    """Depth of the valley between the two clusters of early outputs in each class, averaged: 1 is none, 0 is a clean cut."""

    match: float
    """Overlap (Jaccard) of the smaller clusters with the rows that are wrong at the early step."""

    clusters_found: bool
    """Whether the network had learned something by then, and its outputs within classes fell apart where it is wrong."""


def early_late(outputs: Sequence[tuple[int, Any]], y: Any) -> EarlyLate:
    """Follow rows over checkpoints.

    Args:
        outputs: Pairs `(step, logits (n, K))`, at least one; those of step 0 are left out, as nothing is learned there.
        y: `(n,)` class ids.

    Raises:
        ValueError: If there is no checkpoint after step 0, or shapes do not fit.

    Source:
        Toneva et al., forgetting events (2018), https://arxiv.org/abs/1812.05159; Yang et al., early clusters (2023),
        https://arxiv.org/abs/2305.18761; Qiu et al., where they fail (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> y = torch.tensor([0, 1])
        >>> seen = early_late([(1, [[2.0, 0.0], [2.0, 0.0]]), (9, [[2.0, 0.0], [0.0, 2.0]])], y)
        >>> seen.first_learned.tolist(), seen.disagree.tolist()
        ([1, 9], [False, True])
    """
    labels = as_tensor(y, "y").detach().cpu().long()
    trained = sorted(((int(s), _logits(o, labels)) for s, o in outputs if int(s) > 0), key=lambda pair: pair[0])
    if not trained:
        raise ValueError(
            "`checkpoints` hold no step after 0; give (step, outputs) of a network that has begun to learn."
        )
    steps = tuple(step for step, _ in trained)
    decisions = torch.stack([o.argmax(dim=1) for _, o in trained])
    right = decisions == labels
    stays = right.flip(0).long().cumprod(dim=0).flip(0).bool()
    since = torch.where(stays.any(dim=0), stays.long().argmax(dim=0), -1)
    first = torch.where(since >= 0, torch.tensor(steps)[since.clamp(min=0)], -1)
    accuracies = [_balanced(r, labels) for r in right]
    chance = 1 / len(labels.unique())
    skilled = [i for i, a in enumerate(accuracies[:-1] or accuracies) if a > chance + SKILL]
    valleys = {i: valley_depth(trained[i][1], labels) for i in skilled or [0]}
    at = min(valleys, key=lambda i: valleys[i])
    early, match = trained[at][1], _match(trained[at][1], ~right[at], labels)
    return EarlyLate(
        steps=steps,
        early=steps[at],
        first_learned=first,
        forgotten=(right[:-1] & ~right[1:]).sum(dim=0),
        disagree=decisions[at] != decisions[-1],
        early_loss=torch.nn.functional.cross_entropy(early, labels, reduction="none"),
        early_accuracy=accuracies[at],
        valley=valleys[at],
        match=match,
        clusters_found=bool(skilled) and valleys[at] < VALLEY and match > MATCH,
    )


def _match(outputs: Tensor, wrong: Tensor, y: Tensor) -> float:
    small = minority(spare_clusters(outputs, y), y)
    return float((small & wrong).sum() / (small | wrong).sum().clamp(min=1))


def valley_depth(outputs: Tensor, y: Tensor) -> float:
    """How much of a valley lies between the two clusters of outputs within classes, averaged over classes.

    A Gaussian cut in two has no valley (1); rows that follow two different answers have a deep one (near 0).

    Example:
        >>> two = torch.cat([torch.linspace(-5, -4, 60), torch.linspace(4, 5, 60)])
        >>> round(valley_depth(torch.stack([-two, two], dim=1), torch.zeros(120, dtype=torch.long)), 2)
        0.0
    """
    cluster = spare_clusters(outputs, y)
    depths = []
    for k in y.unique():
        own = outputs[y == k].double()
        side = cluster[y == k]
        if len(side.unique()) < 2:
            depths.append(1.0)
            continue
        side = side == side.max()
        axis = own[side].mean(dim=0) - own[~side].mean(dim=0)
        depths.append(_depth((own @ axis).numpy(), side.numpy()))
    return float(np.mean(depths))


def _depth(along: np.ndarray, side: np.ndarray, points: int = 64) -> float:
    """Lowest density between the two centres over the density at the lower of them, by a kernel of Silverman's width."""
    if min(side.sum(), (~side).sum()) < 5:
        return 1.0
    spread = np.sqrt((along[side].var() * side.mean()) + (along[~side].var() * (~side).mean()))
    width = max(1.06 * spread * len(along) ** -0.2, 1e-9 * max(np.ptp(along), 1e-12))
    low, high = sorted([float(np.median(along[side])), float(np.median(along[~side]))])
    at = np.linspace(low, high, points)
    sample = along if len(along) <= 4000 else np.quantile(along, np.linspace(0, 1, 4000))
    density = np.exp(-0.5 * ((at[:, None] - sample) / width) ** 2).sum(axis=1)
    return float(density.min() / max(min(density[0], density[-1]), 1e-300))


def _balanced(right: Tensor, y: Tensor) -> float:
    return float(torch.stack([right[y == k].double().mean() for k in y.unique()]).mean())


def _logits(outputs: Any, y: Tensor) -> Tensor:
    logits = as_tensor(outputs, "outputs").detach().cpu().double()
    logits = logits[:, None] if logits.ndim == 1 else logits
    logits = torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
    require_rows(logits, y, "outputs")
    require_finite(logits, "outputs")
    return logits
