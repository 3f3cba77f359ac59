"""Turn square roots of covariance matrices until they agree as well as they can, and average them.

The covariance S = R R^T has as many roots R as there are rotations. Given a root F of another matrix, one of them is
nearest to it: R = L Q, with L any root of S and Q the orthogonal polar factor of L^T F (the Procrustes problem).
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from firstcue._blas import eigh, product
from firstcue.linalg import sqrt_psd

TINY = torch.finfo(torch.float64).tiny
EXACT = 1e-8
"""Relative error, in whitened units, up to which an aligned root is taken as exact."""


class Precision(IntEnum):
    """How an aligned root is computed, from the cheapest to the most exact."""

    DRAFT = 0  # eigenvectors in float32: errors of 6e-8 times the condition of F^T S F
    FAST = 1  # eigenvectors in float64: 1e-16 times that condition
    CAREFUL = 2  # singular vectors in float64: the condition enters by its square root


@dataclass(frozen=True)
class Alignment:
    """Roots of several matrices, each nearest to one common factor."""

    factor: Tensor
    """`(d, d)`."""

    aligned: Tensor
    """`(k, d, d)`."""

    residual: float
    """How far `factor` is from their weighted mean, relative to itself in every direction."""

    passes: int
    """Number of times all roots were aligned."""

    floor: float
    """The residual that float64 cannot go below."""


def midpoint(matrices: Tensor, shares: Tensor) -> Alignment:
    """Closed form for one or two matrices of any rank: average a root of one and the nearest root of the other."""
    root = some_root(matrices[0])
    aligned = root.expand(len(matrices), -1, -1).clone()
    condition = 1.0
    if len(matrices) == 2:
        aligned[1], condition = nearest_root(matrices[1], root, Precision.FAST)
        if _noise(condition, Precision.FAST) > EXACT:
            aligned[1], condition = nearest_root(matrices[1], root, Precision.CAREFUL)
    cross = product(root.mT, aligned[-1])
    asymmetry = (cross - cross.mT).norm() / cross.norm().clamp(min=TINY)
    return Alignment(torch.einsum("k,kij->ij", shares, aligned), aligned, float(asymmetry), 0, _floor(condition))


def iterate(matrices: Tensor, shares: Tensor, factor: Tensor, tolerance: float, max_iterations: int) -> Alignment:
    """The fixed point, each pass as exact as the residual then asks for."""
    mixing = _Anderson()
    precision = Precision.DRAFT if len(factor) >= 128 else Precision.FAST
    aligned = torch.empty_like(matrices)
    residual, floor, passes, exact = float("inf"), 0.0, 0, True
    for passes in range(1, max_iterations + 1):
        if passes == max_iterations:
            precision = max(precision, Precision.FAST)
        noise, floor = _align(aligned, matrices, factor, precision)
        step = torch.einsum("k,kij->ij", shares, aligned) - factor
        residual = _relative(step, factor)
        exact = precision > Precision.DRAFT and noise <= EXACT
        if (exact and residual <= max(tolerance, floor)) or passes == max_iterations:
            break
        if noise > max(residual, tolerance) / 10 or residual <= tolerance:
            precision = Precision(min(precision + 1, Precision.CAREFUL))
        if noise <= 1:
            factor = mixing(factor, step, residual)
    if not exact:  # stopped early: what was aligned roughly must still arrive exactly
        _align(aligned, matrices, factor, Precision.CAREFUL)
    return Alignment(factor, aligned, residual, passes, floor)


def _align(out: Tensor, matrices: Tensor, factor: Tensor, precision: Precision) -> tuple[float, float]:
    """Write the nearest roots of all matrices; return their rounding error and the residual it cannot go below."""
    worst = 1.0
    for c, matrix in enumerate(matrices):
        out[c], condition = nearest_root(matrix, factor, precision)
        worst = max(worst, condition)
    return _noise(worst, precision), _floor(worst)


def nearest_root(matrix: Tensor, factor: Tensor, precision: Precision) -> tuple[Tensor, float]:
    """The root R of `matrix` nearest to `factor`: F^T R is symmetric positive semi-definite.

    R = L Q for any root L, with Q the orthogonal polar factor of L^T F; or, where conditioning allows it,
    R = S F (F^T S F)^-1/2 without any L. Returned with the condition number of F^T S F.
    """
    if precision is Precision.CAREFUL:
        root = some_root(matrix)
        left, stretch, right = torch.linalg.svd(product(root.mT, factor))
        return product(root, product(left, right)), float((stretch[0] / stretch[-1].clamp(min=TINY)).square())
    dtype = torch.float32 if precision is Precision.DRAFT else torch.float64
    size = matrix.diagonal().max().clamp(min=TINY)  # scaled, so that float32 neither overflows nor underflows
    near = (factor / factor.norm().clamp(min=TINY)).to(dtype)
    pushed = product((matrix / size).to(dtype), near)
    values, vectors = eigh(product(near.mT, pushed))
    if not float(values[-1]) > 0:
        return matrix, float("inf")
    values = values.clamp(min=torch.finfo(dtype).eps * float(values[-1]))
    half = vectors * values.rsqrt().sqrt()  # half half^T is symmetric, which the product turns to account
    root = product(pushed, product(half, half.mT))
    return root.mul_(size.sqrt()), float(values[-1] / values[0])


def _noise(condition: float, precision: Precision) -> float:
    """Relative rounding error of an aligned root, in its weakest direction."""
    if precision is Precision.CAREFUL:
        return 0.0  # there is nothing better to turn to
    return condition * torch.finfo(torch.float32 if precision is Precision.DRAFT else torch.float64).eps


def _floor(condition: float) -> float:
    """Residual that float64 cannot go below; a singular matrix is no excuse for any residual."""
    return min(10 * torch.finfo(torch.float64).eps * condition**0.5, 1e-5)


def _relative(step: Tensor, factor: Tensor) -> float:
    """Norm of `step factor^-1` per direction: how far the mean map is from the identity."""
    change, failed = torch.linalg.solve_ex(factor, step, left=False)
    size = float(change.norm()) / len(factor) ** 0.5
    return float("inf") if bool(failed) or size != size else size


class _Anderson:
    """Mix the last steps of a fixed-point iteration so that their combined residual is least.

    Where a mixture made things much worse, it goes back and forgets.
    """

    def __init__(self, memory: int = 5) -> None:
        self.memory = memory
        self.points: list[Tensor] = []
        self.steps: list[Tensor] = []
        self.best = float("inf")

    def __call__(self, point: Tensor, step: Tensor, residual: float) -> Tensor:
        if residual > 2 * self.best and self.points:
            point, step = self.points[-1], self.steps[-1]
            self.points, self.steps, self.best = [], [], float("inf")
            return point + step
        self.best = min(self.best, residual)
        self.points, self.steps = [*self.points, point][-self.memory - 1 :], [*self.steps, step][-self.memory - 1 :]
        if len(self.steps) == 1:
            return point + step
        return point + step - self._correction(point, step)

    def _correction(self, point: Tensor, step: Tensor) -> Tensor:
        changes = torch.stack([(step - s).flatten() for s in self.steps[:-1]])
        gram, right = changes @ changes.mT, changes @ step.flatten()
        scale = gram.diagonal().clamp(min=TINY).rsqrt()
        ridge = 1e-12 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = scale * torch.linalg.solve(scale[:, None] * gram * scale + ridge, scale * right)
        moved = sum(w * (point - p) for w, p in zip(weight, self.points[:-1], strict=True))
        return moved + (weight @ changes).reshape(step.shape)


def some_root(matrix: Tensor) -> Tensor:
    """Some square root: a Cholesky factor, or the symmetric root of a singular matrix."""
    triangle, failed = torch.linalg.cholesky_ex(matrix)
    return sqrt_psd(matrix) if bool(failed) else triangle
