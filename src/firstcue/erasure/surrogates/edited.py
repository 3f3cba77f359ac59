"""Real rows that were given the means, the moments or the marginals of another class, whose label they bear.

A network whose answer follows the new label reads what was edited; one that keeps to the old label reads something else.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.erasure._points import Box, flat_rows
from firstcue.erasure.marginal import quantile_tables
from firstcue.erasure.surrogates._classes import edited, generator, rows_by_class, targets
from firstcue.linalg import EPS
from firstcue.moments import Moments

SHIFT_STEPS = 60
"""Halvings at most; Newton steps end earlier."""


def shift(batch: Batch, *, seed: int = 0, target: Any = None, box: Sequence[float | int] | None = (0.0, 1.0)) -> Batch:
    """Real rows shifted so that their class takes the mean of another class, values outside the box being cut off.

    For each pair of classes one shift is found with which, after the cut, all rows of the one class have exactly the mean of
    the other; the rows edited get that shift.

    Args:
        batch: Real rows, vectors or images, inside the box.
        seed: Of the draw of other classes.
        target: `(n,)` class ids or names to edit towards; None draws another class for every row.
        box: Least and greatest value of every feature, or None for no cut.

    Returns:
        The edited rows in order, `y` the class edited towards, `columns["source"]` the class they came from.

    Raises:
        ValueError: If rows lie outside the box, there is one class only, or a target has no rows.

    Source:
        Belrose et al. (2024), https://arxiv.org/abs/2402.04362.

    Example:
        >>> real = Batch.of(torch.tensor([[0.0], [0.25], [0.5], [0.75]]), ["a", "a", "b", "b"])
        >>> shift(real).x[:, 0]
        tensor([0.5000, 0.7500, 0.0000, 0.2500])
    """
    rows, goals, walls = rows_by_class(batch), targets(batch, target, seed), None if box is None else Box.of(box)
    if walls is not None:
        walls.require(batch.x)
    x = flat_rows(batch.x).to(torch.float64, copy=True)
    for s, t, mine in _pairs(batch.y, goals):
        wanted = rows[t].mean(dim=0)
        step = wanted - rows[s].mean(dim=0) if walls is None else _cut_shift(rows[s], wanted, walls)
        x[mine] = x[mine] + step if walls is None else (x[mine] + step).clamp(walls.low, walls.high)
    return edited(batch, x, goals)


def got(batch: Batch, *, seed: int = 0, target: Any = None) -> Batch:
    """Real rows carried to the mean and covariance of another class by the shortest affine map.

    All rows of one class, carried to another, have its mean and covariance exactly. Where the other class varies in
    directions in which this one does not, no map can supply the variance: there the optimal plan is random, and normal
    noise is drawn.

    Args:
        batch: Real rows, vectors or images; at least two of each class present.
        seed: Of the draw of other classes and of the noise.
        target: `(n,)` class ids or names to edit towards; None draws another class for every row.

    Returns:
        The edited rows in order, `y` the class edited towards, `columns["source"]` the class they came from; values may
        leave the range of images.

    Raises:
        ValueError: If there is one class only, a class has one row, or a target has no rows.

    Source:
        Belrose et al. (2024), https://arxiv.org/abs/2402.04362; Gelbrich (1990) for the map.

    Example:
        >>> real = Batch.of(torch.tensor([[0.0], [2.0], [10.0], [14.0]]), ["a", "a", "b", "b"])
        >>> got(real).x[:, 0]
        tensor([10., 14.,  0.,  2.])
    """
    rows, goals, source = rows_by_class(batch, at_least=2), targets(batch, target, seed), generator(seed)
    means = {c: mine.mean(dim=0) for c, mine in rows.items()}
    roots = {c: _root(Moments.of(mine).covariance, len(mine)) for c, mine in rows.items()}
    x = flat_rows(batch.x).to(torch.float64, copy=True)
    for s, t, mine in _pairs(batch.y, goals):
        carry, rest = _coupling(roots[s], roots[t])
        noise = torch.randn(len(mine), rest.shape[1], dtype=torch.float64, generator=source).to(x.device)
        white = (x[mine] - means[s]) @ _left_inverse(roots[s])
        x[mine] = means[t] + white @ carry.mT + noise @ rest.mT
    return edited(batch, x, goals)


def cqn(batch: Batch, *, seed: int = 0, target: Any = None, bins: int = 256) -> Batch:
    """Real rows in which every feature was carried, by rank, to its distribution in another class.

    Marginals become those of the other class; how features go together stays as it was.

    Args:
        batch: Real rows, vectors or images.
        seed: Of the draw of other classes.
        target: `(n,)` class ids or names to edit towards; None draws another class for every row.
        bins: Quantiles kept of every feature.

    Returns:
        The edited rows in order, `y` the class edited towards, `columns["source"]` the class they came from.

    Raises:
        ValueError: If there is one class only, or a target has no rows.

    Source:
        Belrose et al. (2024), https://arxiv.org/abs/2402.04362.

    Example:
        >>> real = Batch.of(torch.tensor([[0.0], [1.0], [10.0], [14.0]]), ["a", "a", "b", "b"])
        >>> cqn(real).x[:, 0]
        tensor([10., 14.,  0.,  1.])
    """
    goals = targets(batch, target, seed)
    moved = quantile_tables(batch.x, batch.y, bins=bins).transport(batch.x, batch.y, goals)
    return edited(batch, moved, goals)


def _pairs(y: Tensor, goals: Tensor) -> list[tuple[int, int, Tensor]]:
    """Source, target and rows of every pair of different classes that occurs."""
    pairs = torch.stack([y, goals], dim=1).unique(dim=0).tolist()
    return [(s, t, ((y == s) & (goals == t)).nonzero()[:, 0]) for s, t in pairs if s != t]


def _cut_shift(rows: Tensor, wanted: Tensor, walls: Box) -> Tensor:
    """The shift `(d,)` with which the mean of the rows, cut to the box, is `wanted`: Newton within a shrinking bracket."""
    wide = walls.high - walls.low
    low, high = torch.full_like(wanted, -wide), torch.full_like(wanted, wide)
    step = (wanted - rows.mean(dim=0)).clamp(-wide, wide)
    for _ in range(SHIFT_STEPS):
        shifted = rows + step
        gap = wanted - shifted.clamp(walls.low, walls.high).mean(dim=0)
        if float(gap.abs().max()) < 1e-12 * wide:
            break
        low, high = torch.where(gap > 0, step, low), torch.where(gap < 0, step, high)
        free = ((shifted > walls.low) & (shifted < walls.high)).double().mean(dim=0)
        newton = step + gap / free.clamp(min=1e-300)
        inside = (newton > low) & (newton < high)
        step = torch.where(gap == 0, step, torch.where(inside, newton, (low + high) / 2))
    return step


def _root(covariance: Tensor, rows: int) -> Tensor:
    """L `(d, r)` with L L^T the covariance, its columns orthogonal, empty directions left out."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > max(rows, len(values)) * EPS * values[-1].clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()


def _left_inverse(root: Tensor) -> Tensor:
    """`(d, r)`; rows times it are coordinates of unit variance."""
    return root / root.square().sum(dim=0)


def _coupling(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What the unit coordinates of the source become, `(d, r_s)`, and a root of the covariance that is missing then."""
    u, _, v = torch.linalg.svd(target.mT @ source, full_matrices=True)
    shared = min(source.shape[1], target.shape[1])
    return target @ u[:, :shared] @ v[:shared], target @ u[:, shared:]
