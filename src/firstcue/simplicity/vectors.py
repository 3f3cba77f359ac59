"""Bits of vectors: embeddings and table rows under one Gaussian, or one per group, made from their moments.

A real number takes endlessly many bits; only relative to a resolution, the width of the cells it is told apart by, is its
length finite. The resolution is therefore always stated.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.moments import Moments


class GaussianVectors:
    """A Gaussian, or a mixture of them, over vectors `(n, d)`.

    Half a cell's worth of variance, `resolution^2 / (2 pi)`, is added to every direction: then no vector takes fewer than
    zero bits, and constant features cost nothing.

    Args:
        mean: `(k, d)`, one row per Gaussian.
        covariance: `(k, d, d)`, symmetric and positive semi-definite.
        weights: `(k,)`, positive; divided by their sum.
        resolution: `(d,)` width of a cell of each feature, in its units.

    Raises:
        ValueError: If a resolution is not positive, or a covariance is not positive semi-definite.

    Example:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> density = GaussianVectors.of(Moments.of(x), resolution=0.1)
        >>> density.bits(torch.tensor([[0.0, 0.0], [3.0, 3.0]])).round()
        tensor([ 9., 21.])
    """

    levels = 0
    """Vectors have no grey levels."""
    differentiable = True

    def __init__(self, mean: Tensor, covariance: Tensor, weights: Tensor, resolution: Tensor) -> None:
        _require_cells(resolution)
        widened = covariance.double() + torch.diag(resolution.double().square() / (2 * math.pi))
        factor, failed = torch.linalg.cholesky_ex(widened)
        if bool(failed.any()) or not bool(factor.isfinite().all()):
            raise ValueError(
                "a covariance is not positive definite to working precision: the resolution "
                f"({float(resolution.min()):.3g}) is too fine for features of this size. State a coarser one, or shrink: "
                "covariance=fc.oas."
            )
        self._set(mean.double(), factor, weights.double() / weights.double().sum(), resolution.double())

    def _set(self, mean: Tensor, factor: Tensor, weights: Tensor, resolution: Tensor) -> None:
        self.mean, self.factor, self.weights, self.resolution = mean, factor, weights, resolution
        self.shape: tuple[int, ...] | None = (mean.shape[1],)

    @classmethod
    def of(
        cls, moments: Moments, resolution: Any, *, covariance: Callable[[Moments], Tensor] | None = None
    ) -> "GaussianVectors":
        """From moments: one Gaussian, or for moments of groups one per group, weighted by its count.

        Args:
            moments: Of the vectors; groups without rows are left out.
            resolution: Width of the cells vectors are told apart by, in the units of the features: a number, or `(d,)`.
            covariance: An estimate from moments, such as `fc.oas`; the sample covariance when absent, which needs more
                rows than features.

        Raises:
            ValueError: If a group has too few rows, or `resolution` is not positive.
        """
        groups = _as_groups(moments)
        d = groups.mean.shape[-1]
        present = groups.count > 0
        few = groups.rows[present] <= d
        if covariance is None and (bool(few.any()) or not bool(present.any())):
            raise ValueError(
                f"{int(few.sum())} of {int(present.sum())} groups have at most {d} rows, too few for a covariance of {d} "
                f"features: every new vector would look endlessly complex. Give more rows, or covariance=fc.oas."
            )
        estimate = groups.covariance if covariance is None else covariance(groups)
        cells = as_tensor(resolution, "resolution").double().to(groups.mean.device)
        if cells.ndim > 1 or (cells.ndim == 1 and len(cells) != d):
            raise ValueError(f"`resolution` has shape {tuple(cells.shape)}; one number or {d} of them are needed.")
        return cls(groups.mean[present], estimate[present], groups.count[present], cells.expand(d).clone())

    @property
    def config(self) -> dict[str, Any]:
        """Nothing: the tensors say it all."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Means, factors of the widened covariances, weights and resolution."""
        names = ("mean", "factor", "weights", "resolution")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_stored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "GaussianVectors":
        """From what `config` and `state_dict` said."""
        made = cls.__new__(cls)
        made._set(tensors["mean"], tensors["factor"], tensors["weights"], tensors["resolution"])
        return made

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """`(n,)` bits that tell each vector apart down to a cell of the resolution."""
        return (self._log2(x) + self.resolution.to(x.device).log2().sum()).neg().to(x.dtype)

    def differential_bits(self, x: Tensor) -> Tensor:
        """`(n,)` `-log2` of the density itself: free of the resolution, negative where it exceeds 1, and no code length.

        Only differences between vectors in the same units mean something.
        """
        return self._log2(x).neg().to(x.dtype)

    def _log2(self, x: Tensor) -> Tensor:
        """`(n,)` float64 log2 densities."""
        mean, factor, weights = (t.to(x.device) for t in (self.mean, self.factor, self.weights))
        gap = (x.double()[None] - mean[:, None]).mT  # (k, d, n)
        distance = torch.linalg.solve_triangular(factor, gap, upper=False).square().sum(dim=1)
        size = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=1) + 0.5 * mean.shape[1] * math.log(2 * math.pi)
        return torch.logsumexp(weights.log()[:, None] - 0.5 * distance - size[:, None], dim=0) / math.log(2)


def _as_groups(moments: Moments) -> Moments:
    """Moments with one group axis."""
    if moments.count.ndim > 1:
        raise ValueError(f"moments with {moments.count.ndim} group axes; pool them to one: moments.pool().")
    if moments.count.ndim == 1:
        return moments
    parts = (moments.count, moments.mean, moments.scatter, moments.rows, moments.cubic, moments.quartic)
    count, mean, scatter, rows, cubic, quartic = (None if part is None else part[None] for part in parts)
    assert count is not None and mean is not None and scatter is not None and rows is not None
    return Moments(count, mean, scatter, rows, None, cubic, quartic)


def _require_cells(resolution: Tensor) -> None:
    if not bool((resolution > 0).all() and resolution.isfinite().all()):
        raise ValueError("`resolution` must be positive and finite: the width of the cells vectors are told apart by.")
