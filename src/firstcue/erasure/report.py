"""What an edit did to some rows, as plain numbers: how far they moved, and what is left of the differences between classes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.moments import Moments


def edit_report(
    x: Any, edited: Any, z: Any, *, rank: int, optimum: Callable[[Moments], float | None]
) -> dict[str, float | None]:
    """Numbers that tell how well and how gently a concept was removed.

    Args:
        x: `(n, d)` rows before.
        edited: `(n, d)` the same rows after.
        z: `(n,)` the concept's labels, of any kind.
        rank: Number of directions the edit may change.
        optimum: From the moments by class of `x`, the smallest mean squared movement that reaches the same guarantee; None
            where it is not known.

    Returns:
        `rank`; `n`; `distortion`, `optimum` and `variance_before`, `variance_after`, all summed over features, in units of x
        squared; `variance_removed`, a fraction; `mean_gap_*`, the largest distance of a class mean from the mean, over the
        root mean variance of a feature before; `covariance_gap_*`, the largest Frobenius distance of a class covariance from
        their mean, over the norm of that mean.
    """
    before, after = Moments.of_groups(x, z), Moments.of_groups(edited, z)
    whole, rest = before.pool(), after.pool()
    total, left = float(whole.covariance.trace()), float(rest.covariance.trace())
    unit = (total / whole.mean.shape[0]) ** 0.5 or 1.0
    return {
        "n": float(whole.rows),
        "rank": float(rank),
        "distortion": mean_squared_movement(x, edited),
        "optimum": optimum(before),
        "variance_before": total,
        "variance_after": left,
        "variance_removed": (total - left) / total if total > 0 else 0.0,
        "mean_gap_before": mean_gap(before) / unit,
        "mean_gap_after": mean_gap(after) / unit,
        "covariance_gap_before": covariance_gap(before),
        "covariance_gap_after": covariance_gap(after),
    }


def mean_squared_movement(x: Any, edited: Any, chunk: int = 4096) -> float:
    """Mean over rows of the squared distance between before and after, in float64."""
    one, two = as_tensor(x), as_tensor(edited)
    moved = [(a.double() - b.double()).square().sum() for a, b in zip(one.split(chunk), two.split(chunk), strict=True)]
    return float(torch.stack(moved).sum() / len(one)) if moved else 0.0


def mean_gap(by_class: Moments) -> float:
    """Largest distance of a class mean from the mean of all rows, in the units of x."""
    present = by_class.count > 0
    return float((by_class.mean[present] - by_class.pool().mean).norm(dim=1).max())


def covariance_gap(by_class: Moments) -> float:
    """Largest Frobenius distance of a class covariance from the mean of the class covariances, over the norm of that mean."""
    covariances = by_class.covariance[by_class.rows > 1]
    if len(covariances) == 0:
        return 0.0
    centre = covariances.mean(dim=0)
    return float(_norm(covariances - centre).max() / _norm(centre).clamp(min=torch.finfo(centre.dtype).tiny))


def _norm(matrices: Tensor) -> Tensor:
    return matrices.square().sum(dim=(-2, -1)).sqrt()
