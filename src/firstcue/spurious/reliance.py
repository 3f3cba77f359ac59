"""Does the model lean on the cue? The accuracy gap that goes with the label's table, and what editing the cue changes.

Three words are kept apart. A cue is *encoded* if it can be read from the representation, *associated* if it goes with
the label in the training data, and *relied on* if changing it changes decisions towards the label it goes with. Only
the last is a shortcut, and only an intervention (`edit_reliance`) shows it: a gap alone may come from harder rows.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue.spurious.association import (
    ZERO,
    Association,
    bools,
    cell_counts,
    contrast_of,
    ids,
    recentred,
    require_same_length,
    unit_contrast,
)
from firstcue.spurious.intervals import Rate, contrast_interval, rate


@dataclass(frozen=True)
class Gap:
    """Accuracy where the cue goes with the label minus accuracy where it goes against it."""

    value: float
    """In [-1, 1]; 0 for additive difficulties of classes and of values. NaN if `undroppable`."""
    ci_low: float
    ci_high: float
    n: int
    """Rows in the cells that carry weight."""
    half_width: float
    """Half the width of the 95 % interval."""
    dropped: tuple[tuple[int, int], ...]
    """Cells `(y, a)` that matter but have too few rows."""
    undroppable: bool
    """Whether too little is left without the dropped cells: then there is no number."""
    kept: float
    """Share of the association that the remaining cells carry, by summed `|r|`."""
    accuracy: Tensor
    """`(K, A)` float64 held-out accuracy; NaN in empty cells."""
    counts: Tensor
    """`(K, A)` int64 held-out rows."""
    weight: Tensor
    """`(K, A)` float64, the contrast: positive entries sum to 1, negative ones to -1."""
    conflicting: Rate
    """Pooled accuracy on rows whose cue goes against their label (r < 0), with Wilson's interval."""
    aligned: Rate
    """The same where r > 0."""
    wanted: Tensor
    """`(K, A)` float64, the contrast that all cells would have given."""


@dataclass(frozen=True)
class Reliance:
    """Change of accuracy from cues against the label to cues with it, cores unchanged: an intervention."""

    value: float
    """In [-1, 1]."""
    ci_low: float
    ci_high: float
    n: int
    """Rows whose cue was edited."""


def accuracy_gap(
    r: Association | Tensor | np.ndarray, correct: Any, y: Any, attribute: Any, *, min_count: int = 10
) -> Gap:
    """How much better the model does where the cue goes with the label, on held-out rows.

    `gap = sum of r(y, a) accuracy(y, a) / (1/2 sum of |r|)`. With two classes and two values: accuracy on aligned minus
    accuracy on conflicting rows, cells weighted equally. It does not ask which value is the commonest in a class, which
    goes wrong with many values, or when the same value is the commonest in every class. A cell with fewer than
    `min_count` rows is dropped and r replaced by the nearest contrast on the other cells: rows and columns sum to 0.

    Args:
        r: What `association` found in training rows, or its `(K, A)` array.
        correct: `(n,)` bool, held-out rows that the model has right.
        y: `(n,)` class ids.
        attribute: `(n,)` value ids.
        min_count: Rows that a cell needs.

    Returns:
        The gap with the interval of `contrast_interval`; `undroppable` if the cells left carry less than half of r.

    Raises:
        ValueError: If shapes or ids do not fit.

    Example:
        >>> from firstcue.spurious.association import association
        >>> y = torch.tensor([0, 1]).repeat(40); a = torch.tensor([0, 0, 1, 1]).repeat(20)
        >>> gap = accuracy_gap(association([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0]), y == a, y, a)
        >>> round(gap.value, 6), gap.conflicting.accuracy
        (1.0, 0.0)
    """
    table = contrast_of(r)
    classes, values = ids(y, "y", len(table)), ids(attribute, "attribute", table.shape[1])
    hits = bools(correct, "correct", 1)
    require_same_length(classes, values, "y", "attribute")
    require_same_length(classes, hits, "y", "correct")
    counts = cell_counts(classes, values, *table.shape)
    right = cell_counts(classes[hits], values[hits], *table.shape)
    matters = np.abs(table) > ZERO
    weight = recentred(table, matters & (counts >= min_count))
    kept = float(np.abs(weight).sum() / max(np.abs(table).sum(), ZERO))
    undroppable = kept < 0.5
    weight = unit_contrast(weight)
    low, high, half = contrast_interval(weight, right, counts)
    accuracy = np.where(counts > 0, right / np.maximum(counts, 1), np.nan)
    value = float(np.clip((weight * np.nan_to_num(accuracy)).sum(), -1, 1))
    return Gap(
        value=float("nan") if undroppable else value,
        ci_low=-1.0 if undroppable else max(low, -1.0),
        ci_high=1.0 if undroppable else min(high, 1.0),
        n=int(counts[weight != 0].sum()),
        half_width=1.0 if undroppable else half,
        dropped=tuple((int(k), int(a)) for k, a in np.argwhere(matters & (counts < min_count))),
        undroppable=undroppable,
        kept=kept,
        accuracy=torch.from_numpy(accuracy),
        counts=torch.from_numpy(counts),
        weight=torch.from_numpy(weight),
        conflicting=rate(hits[table[classes, values] < -ZERO]),
        aligned=rate(hits[table[classes, values] > ZERO]),
        wanted=torch.from_numpy(unit_contrast(table)),
    )


def rows_needed(gap: Gap, *, effect: float = 0.05) -> int:
    """Held-out rows *per cell* that would tell a gap of `effect` from none (two-sided 5 %, power 80 %).

    `n = (2.8 / effect)^2 sum of w^2 p(1 - p)`, which is `p(1 - p)(2.8 / effect)^2 / (cells / 4)` for cells of equal
    weight and accuracy p: 502 per cell, 2,007 in all, for four cells at .80. Empty cells are taken to be like others.

    Example:
        >>> y = torch.tensor([0, 1]).repeat(40); a = torch.tensor([0, 0, 1, 1]).repeat(20)
        >>> rows_needed(accuracy_gap(torch.tensor([[0.4, -0.4], [-0.4, 0.4]]), torch.arange(80) % 20 < 16, y, a))
        551
    """
    counts, weight = gap.counts.numpy(), gap.wanted.numpy()
    right = np.nan_to_num(gap.accuracy.numpy()) * counts
    smooth = (right + 1) / (counts + 2)
    typical = smooth[counts > 0].mean() if (counts > 0).any() else 0.5
    smooth = np.where(counts > 0, smooth, typical)
    return ceil((2.8 / effect) ** 2 * float((weight**2 * smooth * (1 - smooth)).sum()))


def edit_reliance(
    r: Association | Tensor | np.ndarray,
    correct_by_value: Any,
    y: Any,
    *,
    clusters: Any = None,
    seed: int = 0,
    draws: int = 1000,
) -> Reliance:
    """How much editing the cue, core kept, moves decisions towards the label the cue goes with.

    `mean over y of [sum over v of r(y, v) mean over i in y of c_iv] / (1/2 sum of |r| / K)`. Every row meets every
    value of the cue, so rows that are harder cannot feign reliance.

    The interval resamples rows within classes (whole clusters when given), after adding to each class one row that
    follows the cue and one that goes against it: without them, ten rows that no edit flips would claim certainty.

    Args:
        r: What `association` found in training rows, or its `(K, A)` array.
        correct_by_value: `(n, A)` bool; entry `(i, v)` says whether row i with its cue set to v is classified right.
        y: `(n,)` class ids.
        clusters: `(n,)` ids of the source each row was made from, when several rows share one.
        seed: Of the resampling.
        draws: Number of resamples.

    Returns:
        The reliance; classes without rows are left out and r re-centred over the others.

    Raises:
        ValueError: If shapes do not fit, or fewer than two associated classes have rows.

    Example:
        >>> right = torch.tensor([[True, False], [False, True]]).repeat(100, 1)   # follows the cue
        >>> edit_reliance(torch.tensor([[0.4, -0.4], [-0.4, 0.4]]), right, torch.tensor([0, 1]).repeat(100)).value
        1.0
    """
    table = contrast_of(r)
    classes = ids(y, "y", len(table))
    right = bools(correct_by_value, "correct_by_value", 2)
    require_same_length(classes, right, "y", "correct_by_value")
    if right.shape[1] != table.shape[1]:
        raise ValueError(
            f"`correct_by_value` has {right.shape[1]} columns but r has {table.shape[1]} values; one column per value."
        )
    present = np.bincount(classes, minlength=len(table)) > 0
    weight = recentred(table, np.repeat(present[:, None], table.shape[1], axis=1) & (np.abs(table) > ZERO))
    used = np.abs(weight).sum(axis=1) > ZERO
    if used.sum() < 2:
        associated = np.flatnonzero(np.abs(table).sum(axis=1) > ZERO).tolist()
        raise ValueError(
            f"rows of at least two classes that the cue is associated with are needed; classes with rows: "
            f"{np.flatnonzero(present).tolist()}, associated with the cue: {associated}."
        )
    contribution = (unit_contrast(weight)[classes] * right).sum(axis=1)
    sources = np.arange(len(classes)) if clusters is None else _clusters(clusters, len(classes))
    rng = np.random.default_rng(seed)
    parts = [(contribution[classes == k], sources[classes == k]) for k in np.flatnonzero(used)]
    bound = np.maximum(unit_contrast(weight), 0).sum(axis=1)[used]
    drawn = sum(_resampled_mean(t, c, m, rng, draws) for (t, c), m in zip(parts, bound, strict=True))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = min(max(sum(float(t.mean()) for t, _ in parts), -1.0), 1.0)
    return Reliance(value, max(float(low), -1.0), min(float(high), 1.0), sum(len(t) for t, _ in parts))


def _resampled_mean(
    t: np.ndarray, cluster: np.ndarray, bound: float, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """`(draws,)` means of `t` over resampled clusters; equal clusters are drawn together, so memory stays small."""
    _, place = np.unique(cluster, return_inverse=True)
    size = np.bincount(place)
    total = np.bincount(place, weights=t)
    typical = size.mean()
    pairs = np.column_stack([np.round(total, 12), size])
    kinds, many = np.unique(
        np.vstack([pairs, [[bound * typical, typical], [-bound * typical, typical]]]), axis=0, return_counts=True
    )
    picked = rng.multinomial(many.sum(), many / many.sum(), size=draws)
    return np.asarray((picked @ kinds[:, 0]) / (picked @ kinds[:, 1]))


def _clusters(clusters: Any, n: int) -> np.ndarray:
    array = np.asarray(clusters.detach().cpu().numpy() if isinstance(clusters, Tensor) else clusters)
    if array.shape != (n,):
        raise ValueError(f"`clusters` has shape {array.shape}; one source id per row is needed: ({n},).")
    return np.asarray(np.unique(array, return_inverse=True)[1]).reshape(-1)
