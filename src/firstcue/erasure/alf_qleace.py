"""ALF-QLEACE: nearly what QLEACE does, without labels: take out the few directions in which class covariances differ most.

The result is one affine map for all rows, a projection. A function of the features alone, it cannot write the class into
the data as `qleace` can; the price is that it removes more.
"""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from firstcue._blas import product
from firstcue.erasure._deflation import Deflation, costs_least, largest
from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.leace import leace
from firstcue.erasure.oracle import oracle_leace
from firstcue.linalg import EPS
from firstcue.moments import Moments

SELECTIONS = {"frobenius": largest, "least-squares": costs_least}
ROUNDING = 1e-10
"""Difference of class covariances, relative to the largest of them, that is taken for rounding."""


def alf_qleace(
    by_class: Moments,
    target: float = 0.9,
    max_rank: int | None = None,
    selection: Literal["frobenius", "least-squares"] = "frobenius",
    *,
    means: Callable[[Moments], AffineEraser] | None = leace,
) -> AffineEraser:
    """An affine map after which class means are equal and class covariances nearly so.

    First the means are made equal. Then, of what is left, the direction in which the covariance of any class differs most
    from their (unweighted) mean is projected out, again and again, until the largest Frobenius norm of such a difference has
    fallen by the fraction `target`. Each direction takes O(k d^2).

    With few rows per class covariances differ by chance, and those differences are removed as well: `eraser.report` says how
    much variance that cost (`variance_removed`), and on held-out rows what it brought (`covariance_gap_after`).

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.
        target: Fraction of the largest difference that has to go, above 0 and at most 1. At 1 no difference is left, and often
            nothing else either, which a warning says.
        max_rank: Most directions to remove beyond those of the means; None for as many as `target` takes.
        selection: "frobenius" removes the eigenvector of the largest eigenvalue, by magnitude, of any class;
            "least-squares" the direction in which the most different class loses most per variance removed, which costs
            O(d^3) per direction.
        means: What makes means equal: `leace`, `orthogonal_eraser` from `firstcue.erasure.leace`, or None to leave them.

    Returns:
        The eraser; its `rank` counts the directions of both steps, `distortion` is the mean squared movement.

    Raises:
        ValueError: If fewer than two classes have rows, a class has a single one, or `target`, `max_rank` or `selection` are
            out of range.

    Source:
        Quirke and Belrose (2025), Slowing Learning by Erasing Simple Features, https://arxiv.org/abs/2502.02820.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [3.0, 1.0], [-3.0, -1.0], [3.0, -1.0], [-3.0, 1.0]])
        >>> eraser = alf_qleace(Moments.of_groups(x, ["thin"] * 4 + ["wide"] * 4))
        >>> eraser(x)[0].abs()  # the spread of the first feature told the classes apart
        tensor([0., 1.])
    """
    _require_settings(target, max_rank, selection)
    first = _nothing(by_class) if means is None else means(by_class)
    whole = by_class.pool()
    covariances = _after(first, _covariances(by_class))
    total = _after(first, [whole.covariance])[0]
    rounding = (64 * EPS * by_class.mean.norm(dim=1).max()).square()  # of a covariance that should be zero
    directions = _directions(covariances, total, target, max_rank, selection, float(rounding))
    kept = float(total.trace() - (directions * (total @ directions)).sum())
    if directions.shape[1] and kept <= ROUNDING * float(whole.covariance.trace()):
        _warn_that_everything_goes(first.rank + directions.shape[1], target)
    # (I - V V^T)(I - L R^T) = I - [(I - V V^T) L, V] [R, V]^T, for V is found in the range of I - L R^T, where R^T V = 0
    left = torch.cat([first.left - directions @ (directions.mT @ first.left), directions], dim=1)
    right = torch.cat([first.right, directions], dim=1)
    moved = float(((right.mT @ whole.covariance @ right) * (left.mT @ left)).sum())
    return AffineEraser(left, right, first.mean, moved)


def _require_settings(target: float, max_rank: int | None, selection: str) -> None:
    if not 0 < target <= 1:
        raise ValueError(
            f"`target` is the fraction of covariance differences to remove, above 0 and at most 1; got {target!r}. "
            f"For means alone use `leace`."
        )
    if max_rank is not None and max_rank < 0:
        raise ValueError(f"`max_rank` counts directions and cannot be {max_rank}; leave it out for no limit.")
    if selection not in SELECTIONS:
        raise ValueError(f"`selection` is one of {sorted(SELECTIONS)}; got {selection!r}.")


def _nothing(by_class: Moments) -> AffineEraser:
    """Leaves every row as it is; refuses what has no classes."""
    centre = oracle_leace(by_class).target
    return AffineEraser(centre.new_zeros(len(centre), 0), centre.new_zeros(len(centre), 0), centre, 0.0)


def _covariances(by_class: Moments) -> list[Tensor]:
    """Of every class that has rows."""
    names = by_class.classes or [str(i) for i in range(len(by_class.count))]
    alone = [name for name, rows in zip(names, by_class.rows.tolist(), strict=True) if rows == 1]
    if alone:
        raise ValueError(
            f"a single row has no covariance, and that is all there is of {alone[:5]}. Drop or merge rare classes, or use "
            f"`leace`, which compares means alone."
        )
    return [s / n for s, n in zip(by_class.scatter, by_class.count.tolist(), strict=True) if n > 0]


def _after(eraser: AffineEraser, covariances: list[Tensor]) -> list[Tensor]:
    """P S P^T with P = I - left right^T, in O(d^2 r)."""
    return [_project(s, eraser.left, eraser.right) for s in covariances]


def _project(covariance: Tensor, left: Tensor, right: Tensor) -> Tensor:
    read = product(covariance, right)
    cross = product(read - left @ (right.mT @ read) / 2, left.mT)
    return covariance - cross - cross.mT


def _directions(
    covariances: list[Tensor], total: Tensor, target: float, max_rank: int | None, selection: str, rounding: float
) -> Tensor:
    """`(d, m)`, orthonormal; differences no larger than `rounding` are none."""
    centre = torch.stack(covariances).mean(dim=0)
    noise = max(rounding, ROUNDING * max(float(s.norm()) for s in covariances))
    state = Deflation([s - centre for s in covariances], total)
    limit = max((1 - target) * state.worst, noise)
    most = len(total) if max_rank is None else min(max_rank, len(total))
    while state.worst > limit and state.rank < most:
        state.remove(SELECTIONS[selection](state))
    return state.directions


def _warn_that_everything_goes(rank: int, target: float) -> None:
    warnings.warn(
        f"ALF-QLEACE at target {target} removes {rank} directions and with them all variance of x: class covariances differ "
        f"everywhere, and a constant is left. Lower `target`, or set `max_rank`.",
        stacklevel=3,
    )
