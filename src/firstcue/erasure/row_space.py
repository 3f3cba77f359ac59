"""Fit an eraser where rows are fewer than features: in the space the rows span, without a d x d matrix."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.oracle import GroupEraser
from firstcue.linalg import EPS
from firstcue.moments import Moments


def fit_in_row_space(
    method: Callable[[Moments], Any], x: Tensor, z: Any, weights: Any = None, *, equilibrate: bool = False
) -> Any:
    """What `method(Moments.of_groups(x, z, weights=weights))` gives, with memory n d + n^2 and work n^2 d.

    Args:
        method: From moments by class to an `AffineEraser`, or to a `GroupEraser` without maps. It has to work within the span
            of the rows and to commute with rotations.
        x: `(n, d)`.
        z: `(n,)` labels of any kind.
        weights: `(n,)`, not negative.
        equilibrate: Take lengths and angles with features scaled to unit variance, as `leace` does; for methods that commute
            with every linear map.

    Example:
        >>> from firstcue import leace
        >>> x = torch.tensor([[1.0, 2.0, 0.0, 5.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 3.0, 1.0], [2.0, 0.0, 0.0, 0.0]])
        >>> eraser = fit_in_row_space(leace, x, ["in", "in", "out", "out"], equilibrate=True)
        >>> torch.allclose(eraser.projection, leace(Moments.of_groups(x, ["in", "in", "out", "out"])).projection)
        True
    """
    rows = x.double()
    share = rows.new_ones(len(rows)) if weights is None else torch.as_tensor(weights).to(rows)
    share = share / share.sum()
    mean = share @ rows
    centred = rows - mean
    spread = (share @ centred.square()).sqrt()
    spread[spread <= 64 * EPS * mean.abs()] = 0.0
    unit = spread if equilibrate else (spread > 0).double()
    standard = torch.where(unit > 0, centred / unit, 0.0)
    values, vectors = torch.linalg.eigh(standard @ standard.mT)
    kept = values > max(standard.shape) * EPS * values[-1].clamp(min=0)
    lengths = values[kept].sqrt()
    basis = standard.mT @ (vectors[:, kept] / lengths)
    fitted = method(Moments.of_groups(vectors[:, kept] * lengths, z, weights=weights))
    return _lifted(fitted, basis, unit, mean)


def _lifted(fitted: Any, basis: Tensor, unit: Tensor, mean: Tensor) -> Any:
    """The eraser of `x`, from the one of (x - mean) / unit in the coordinates of `basis`."""
    out = unit[:, None] * basis
    if isinstance(fitted, GroupEraser):
        return replace(fitted, means=mean + fitted.means @ out.mT, target=mean + out @ fitted.target)
    left = out @ fitted.left
    right = torch.where(unit[:, None] > 0, basis / unit[:, None], 0.0) @ fitted.right
    return AffineEraser(left, right, mean + out @ fitted.mean, fitted.distortion)
