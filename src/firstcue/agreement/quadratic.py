"""Inconsistency of quadratic environments in closed form: how much worse another may get while one stays within eps."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue._checks import as_tensor, require_finite

_EPS = torch.finfo(torch.float64).eps


def quadratic_inconsistency(hessians: Any, eps: float | int) -> float:
    """The inconsistency score of environments with losses `theta^T H_e theta / 2`, at their common minimum.

    It is `eps` times the largest ratio of curvatures, over directions and pairs of environments: the largest generalised
    eigenvalue of `H_e' v = ratio H_e v`. Exact up to rounding; invariant to linear reparametrisation.

    Args:
        hessians: `(e, p, p)` symmetric positive semi-definite, or `(e, p)` diagonals.
        eps: How far the loss of an environment may move from its value at the minimum, in units of the loss.

    Returns:
        At least `eps`, which equal curvatures give; infinite where one environment is flat and another is not; 0 if all
        are flat everywhere.

    Raises:
        ValueError: If shapes do not fit, fewer than two environments are given, a matrix is not symmetric, or one has
            negative curvature: the point is then no minimum.

    Source:
        Parascandolo et al., Learning explanations that are hard to vary (2020), https://arxiv.org/abs/2009.00329,
        appendix A.2 for diagonal Hessians; the general form is the generalised eigenvalue.

    Example:
        >>> quadratic_inconsistency([[1.0, 1.0], [1.0, 10.0]], eps=0.5)
        5.0
    """
    h = _hessians(hessians)
    _require_eps(eps)
    if not bool(h.any()):
        return 0.0
    ratio = _diagonal_ratio(h) if h.ndim == 2 else _matrix_ratio(h)
    return float(eps) * max(1.0, ratio)


def determinant_bound(hessians: Any, eps: float | int) -> float:
    """An upper bound of `quadratic_inconsistency` from determinants: `4 eps (det arithmetic / det geometric)^E`.

    The mean Hessian against the geometric mean of determinants, over E environments. The constant printed in the paper is
    2, with exponent 2; one direction in which two environments differ tenfold already breaks it (10 eps against 6.05 eps).
    With 4 and the exponent E it always holds.

    Args:
        hessians: As for `quadratic_inconsistency`.
        eps: As there.

    Returns:
        The bound; infinite if a Hessian is singular or the number is too large.

    Raises:
        ValueError: As `quadratic_inconsistency`.

    Source:
        Proposition 3 of Parascandolo et al. (2020), https://arxiv.org/abs/2009.00329, with constant and exponent mended.

    Example:
        >>> round(determinant_bound([[1.0], [10.0]], eps=1.0), 2)
        12.1
    """
    h = _hessians(hessians)
    _require_eps(eps)
    scale = _scale(h)
    scaled = h / scale if h.ndim == 2 else h / scale / scale[:, None]
    each = scaled.log().sum(dim=1) if h.ndim == 2 else torch.linalg.slogdet(scaled).logabsdet
    mean = scaled.mean(dim=0)
    together = float(mean.log().sum()) if h.ndim == 2 else float(torch.linalg.slogdet(mean).logabsdet)
    power = len(h) * together - float(each.sum())
    if not math.isfinite(power) or power > 700:
        return math.inf
    return 4.0 * eps * math.exp(power)


def _diagonal_ratio(h: Float[Tensor, "e p"]) -> float:
    high, low = h.max(dim=0).values, h.min(dim=0).values
    return float(torch.where(high > 0, high / low, 0.0).max())


def _matrix_ratio(h: Float[Tensor, "e p p"]) -> float:
    scale = _scale(h)
    scaled = h / scale / scale[:, None]
    pairs = ((a, b) for i, a in enumerate(scaled) for j, b in enumerate(scaled) if i != j)
    return max(largest_ratio(a, b) for a, b in pairs)


def largest_ratio(a: Float[Tensor, "p p"], b: Float[Tensor, "p p"]) -> float:
    """The largest `v^T b v / v^T a v` of positive semi-definite matrices; infinite where only `a` is flat.

    Example:
        >>> largest_ratio(torch.eye(2), torch.diag(torch.tensor([2.0, 3.0])))
        3.0
    """
    values, vectors = torch.linalg.eigh(a)
    kept = values > len(a) * torch.finfo(a.dtype).eps * values[-1].clamp(min=0)
    flat = vectors[:, ~kept]
    left = float(torch.einsum("ij,ik,kj->j", flat, b, flat).abs().sum())
    if left > len(a) * 100 * torch.finfo(a.dtype).eps * float(b.diagonal().abs().max()):
        return math.inf
    if not bool(kept.any()):
        return 0.0
    half = vectors[:, kept] / values[kept].sqrt()
    return float(torch.linalg.eigvalsh(half.mT @ b @ half)[-1])


def _scale(h: Tensor) -> Tensor:
    """`(p,)` typical root curvature of each parameter: the ratio does not depend on it, its precision does."""
    curvature = (h if h.ndim == 2 else h.diagonal(dim1=1, dim2=2)).mean(dim=0)
    scale = curvature if h.ndim == 2 else curvature.sqrt()
    return torch.where(curvature > 0, scale, 1.0)


def _hessians(hessians: Any) -> Tensor:
    listed = (
        torch.stack([as_tensor(h, "hessians") for h in hessians]) if isinstance(hessians, list | tuple) else hessians
    )
    h = as_tensor(listed, "hessians").detach().to(torch.float64)
    if h.ndim not in (2, 3) or (h.ndim == 3 and h.shape[1] != h.shape[2]) or h.shape[-1] == 0:
        raise ValueError(
            f"`hessians` has shape {tuple(h.shape)}; (e, p, p) matrices or (e, p) diagonals of e environments are needed."
        )
    if len(h) < 2:
        raise ValueError("`hessians` holds one environment; inconsistency compares at least two.")
    require_finite(h, "hessians")
    if h.ndim == 3:
        h = _symmetric(h)
    lowest = h.amin(dim=1) if h.ndim == 2 else torch.linalg.eigvalsh(h)[:, 0]
    size = h.flatten(1).abs().amax(dim=1)
    bad = lowest < (0.0 if h.ndim == 2 else -1e-9) * size
    if bool(bad.any()):
        e = int(bad.nonzero()[0])
        raise ValueError(
            f"the Hessian of environment {e} has negative curvature ({float(lowest[e]):.3g}), so the point is not its "
            f"minimum and the closed form does not apply; use `inconsistency`, or damp the matrix."
        )
    return h


def _symmetric(h: Tensor) -> Tensor:
    error = (h - h.mT).flatten(1).abs().amax(dim=1)
    if bool((error > 1e-6 * h.flatten(1).abs().amax(dim=1)).any()):
        raise ValueError(
            "`hessians` holds a matrix that is not symmetric; give (h + h.T) / 2 if that is what is meant."
        )
    return (h + h.mT) / 2


def _require_eps(eps: float | int) -> None:
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"`eps` is a positive number in units of the loss; got {eps}.")
