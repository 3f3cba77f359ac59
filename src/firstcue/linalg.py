"""Square roots and inverses of covariance matrices that stay right when features are constant, copied or tiny.

No statistics here. Every decision about rank is made after equilibration (each feature scaled to unit variance), so
that the unit in which a feature happens to be measured never decides whether it counts.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class PsdFactor:
    """A covariance matrix S factorised once, to whiten and to solve many times.

    Either by Cholesky, or, where S is singular to working precision, by its eigenvectors within its range.
    """

    scale: Float[Tensor, " d"]
    """Standard deviation of each feature; infinite for a constant one, which drops it."""

    triangle: Float[Tensor, "d d"] | None
    """Lower Cholesky factor of the equilibrated matrix, or None."""

    half: Float[Tensor, "d r"] | None
    """Where there is no triangle: eigenvectors of the equilibrated matrix within its range, over root eigenvalues."""

    cut: float
    """Eigenvalue of the equilibrated matrix below which a direction counts as empty."""

    @property
    def rank(self) -> int:
        """Number of directions in which there is any variance."""
        return int(torch.isfinite(self.scale).sum()) if self.half is None else self.half.shape[1]

    def whiten(self, b: Float[Tensor, "d k"]) -> Float[Tensor, "r k"]:
        """Y such that Y^T Y = b^T S^+ b."""
        scaled = b / self.scale[:, None]
        if self.half is not None:
            return self.half.mT @ scaled
        return torch.linalg.solve_triangular(cast(Tensor, self.triangle), scaled, upper=False)

    def unwhiten(self, y: Float[Tensor, "r k"]) -> Float[Tensor, "d k"]:
        """S^+ b, from the Y that `whiten(b)` gave."""
        if self.half is not None:
            return self.half @ y / self.scale[:, None]
        return torch.linalg.solve_triangular(cast(Tensor, self.triangle).mT, y, upper=True) / self.scale[:, None]

    def solve(self, b: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
        """S^+ b."""
        return self.unwhiten(self.whiten(b))

    def outside(self, b: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
        """The part of `b` in directions without variance, each feature in units of its standard deviation."""
        scaled = b / self.scale[:, None]
        if self.half is None:
            return torch.zeros_like(scaled)
        basis = self.half / self.half.norm(dim=0)
        return scaled - basis @ (basis.mT @ scaled)


def factor_psd(covariance: Float[Tensor, "d d"], *, rows: int = 0, constant_below: Tensor | float = 0.0) -> PsdFactor:
    """Factorise a covariance matrix, by Cholesky if it is well conditioned and by eigenvectors of its range if not.

    Args:
        covariance: Symmetric and positive semi-definite up to rounding; only the lower triangle is read. float64.
        rows: Number of rows it came from; directions below `max(d, rows)` times the machine epsilon, relative to the
            largest eigenvalue, count as empty.
        constant_below: `(d,)` or a number; a feature with no more variance than this counts as constant.

    Example:
        >>> twice = torch.ones(2, 2, dtype=torch.float64)  # one feature, stored twice
        >>> factor_psd(twice).rank
        1
    """
    equilibrated, scale = equilibrate(covariance, constant_below)
    cut = max(len(scale), rows) * EPS
    triangle, failed = torch.linalg.cholesky_ex(equilibrated)
    if not bool(failed) and float(triangle.diagonal().min()) ** 2 > 10 * cut:
        return PsdFactor(scale, triangle, None, cut)
    equilibrated.diagonal()[~torch.isfinite(scale)] = 0.0
    values, vectors = torch.linalg.eigh(equilibrated)
    # a negative eigenvalue shows how large the rounding error of the matrix itself is
    cut = max(cut * float(values[-1]), -2 * float(values[0]))
    kept = values > cut
    return PsdFactor(scale, None, vectors[:, kept] / values[kept].sqrt(), cut)


def factor_rows(centred: Float[Tensor, "n d"], *, constant_below: Tensor | float = 0.0) -> PsdFactor:
    """Factorise the covariance `centred.T @ centred / n` through the n x n products of rows: for fewer rows than features.

    Args:
        centred: Rows minus their mean, float64.
        constant_below: As for `factor_psd`.
    """
    n, d = centred.shape
    variance = centred.square().mean(dim=0)
    scale = torch.where(variance > constant_below, variance.sqrt(), torch.inf)
    standard = centred / (scale * n**0.5)
    values, vectors = torch.linalg.eigh(standard @ standard.mT)
    cut = max(n, d) * EPS * float(values[-1])
    kept = values > cut
    return PsdFactor(scale, None, standard.mT @ (vectors[:, kept] / values[kept]), cut)


def equilibrate(covariance: Float[Tensor, "d d"], constant_below: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """The matrix with each feature scaled to unit variance, and the scales.

    A constant feature has infinite scale and is made a feature of its own, uncorrelated with the others.
    """
    variance = covariance.diagonal()
    scale = torch.where(variance > constant_below, variance.clamp(min=0).sqrt(), torch.inf)
    scaled = covariance / scale[:, None]
    scaled /= scale
    scaled.diagonal()[~torch.isfinite(scale)] = 1.0
    return scaled, scale


def eigh_psd(a: Float[Tensor, "*batch d d"], *, rows: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues clipped at zero, eigenvectors, and which eigenvalues are above rounding.

    Args:
        a: Symmetric positive semi-definite up to rounding; leading axes are a batch.
        rows: Number of rows it came from; the cut is `max(d, rows)` times the machine epsilon, relative to the largest.

    Returns:
        `(..., d)` ascending, `(..., d, d)` in columns, `(..., d)` bool.
    """
    values, vectors = torch.linalg.eigh(a)
    cut = max(a.shape[-1], rows) * torch.finfo(a.dtype).eps * values[..., -1:]
    return values.clamp(min=0), vectors, values > cut


def sqrt_psd(a: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """The symmetric square root.

    Example:
        >>> sqrt_psd(torch.diag(torch.tensor([4.0, 9.0])))
        tensor([[2., 0.],
                [0., 3.]])
    """
    values, vectors, _ = eigh_psd(a)
    return (vectors * values.sqrt()[..., None, :]) @ vectors.mT


def inverse_sqrt_psd(a: Float[Tensor, "*batch d d"], *, rows: int = 0) -> Float[Tensor, "*batch d d"]:
    """The pseudo-inverse of the symmetric square root: zero in directions without variance."""
    values, vectors, kept = eigh_psd(a, rows=rows)
    inverse = torch.where(kept, values, torch.inf).rsqrt()
    return (vectors * inverse[..., None, :]) @ vectors.mT


def roots_psd(a: Float[Tensor, "*batch d d"], *, rows: int = 0) -> tuple[Tensor, Tensor]:
    """Symmetric square root and its pseudo-inverse from one eigendecomposition."""
    values, vectors, kept = eigh_psd(a, rows=rows)
    inverse = torch.where(kept, values, torch.inf).rsqrt()
    return (vectors * values.sqrt()[..., None, :]) @ vectors.mT, (vectors * inverse[..., None, :]) @ vectors.mT


def range_basis(a: Float[Tensor, "d d"], *, rows: int = 0) -> Float[Tensor, "d r"]:
    """Orthonormal columns that span the directions in which `a` has variance, judged after equilibration."""
    factor = factor_psd(a, rows=rows)
    if factor.half is None:
        kept = torch.isfinite(factor.scale)
        return torch.eye(len(a), dtype=a.dtype, device=a.device)[:, kept]
    scale = torch.where(torch.isfinite(factor.scale), factor.scale, 0.0)
    return torch.linalg.qr(factor.half * scale[:, None]).Q
