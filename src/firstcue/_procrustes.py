"""Turn square roots of covariance matrices until they agree as well as they can, and average them.

The covariance S = R R^T has as many roots R as there are rotations. Given a root F of another matrix, one of them is
nearest to it: R = L Q, with L any root of S and Q the orthogonal polar factor of L^T F (the Procrustes problem).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from firstcue._blas import congruence, eigh, product
from firstcue._drafts import Draft
from firstcue.linalg import eigh_psd, equilibrate, sqrt_psd

TINY = torch.finfo(torch.float64).tiny
EXACT = 1e-8
"""Relative error, in whitened units, up to which an aligned root is taken as exact."""


GOAL = 3e-4
"""The same, of a draft, as a share of the residual before it."""

USEFUL = 0.01
"""The same, up to which a draft is worth while; first residuals are larger."""


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

    bridges: Tensor
    """`(k, d, d)`: the roots R_c themselves if `careful`, else Y_c with R_c^-1 = Y_c Y_c^T factor^T."""

    careful: bool
    overlap: float
    """Weighted mean of tr (factor^T R_c)."""

    residual: float
    """How far `factor` is from the weighted mean of the roots, relative to itself in every direction."""

    passes: int
    """Number of times all roots were aligned."""

    floor: float
    """The residual that float64 cannot go below."""


def midpoint(matrices: Tensor | Sequence[Tensor], shares: Tensor) -> Alignment:
    """Closed form for one or two matrices of any rank: average a root of one and the nearest root of the other."""
    first = some_root(matrices[0])
    roots, condition = [first], 1.0
    if len(matrices) == 2:
        found = nearest_root(matrices[1], first, Precision.FAST)
        if found.noise <= EXACT:
            roots.append(torch.linalg.solve_triangular(first.mT, found.part, upper=True))
        else:
            found = nearest_root(matrices[1], first, Precision.CAREFUL)
            roots.append(found.part)
        condition = found.condition
    factor = torch.einsum("k,kij->ij", shares, torch.stack(roots))
    overlap = float(factor.square().sum())  # the mean of the roots is the factor
    asymmetry = _asymmetry(first, roots[-1])
    return Alignment(factor, torch.stack(roots), True, overlap, asymmetry, 0, _floor(condition))


def _asymmetry(one: Tensor, two: Tensor) -> float:
    """How far one^T two is from its transpose, seen through eight random vectors."""
    seen = torch.randn(len(one), 8, generator=torch.Generator().manual_seed(0), dtype=one.dtype).to(one.device)
    forth, back = one.mT @ (two @ seen), two.mT @ (one @ seen)
    return float((forth - back).norm() / forth.norm().clamp(min=TINY))


def iterate(
    matrices: Tensor | Sequence[Tensor], shares: Tensor, mean: Tensor, tolerance: float, max_iterations: int
) -> Alignment:
    """The fixed point from a root of `mean`, each pass as exact as the residual then asks for."""
    mixing, previous = _Anderson(), 1.0
    factor, precision = _first(mean)
    bridges = factor.new_empty(len(matrices), *factor.shape)
    drafts = _Drafts(bridges)
    for passes in range(1, max_iterations + 1):
        if passes == max_iterations:
            precision = max(precision, Precision.FAST)
        mean, overlap, noise, condition = _align(
            bridges, matrices, shares, factor, precision, drafts, max(previous * GOAL, 3e-7)
        )
        floor, step = _floor(condition), mean - factor
        residual = _relative(step, factor)
        careful, drafted = precision is Precision.CAREFUL, precision is Precision.DRAFT
        exact = precision > Precision.DRAFT and noise <= EXACT
        hopeless = careful and residual == float("inf")  # the factor lost a direction
        if (exact and residual <= max(tolerance, floor)) or passes == max_iterations or hopeless:
            break
        if _too_rough(noise, residual, previous, tolerance, precision):
            precision = Precision(min(precision + 1, Precision.CAREFUL))
        if drafted and precision > Precision.DRAFT:
            factor, mixing = factor + step, _Anderson()  # drafts are too rough to be mixed with what comes now
        elif noise <= 1 and residual < float("inf"):
            factor = mixing(factor, step, residual)
        previous = residual
    if not exact:  # stopped early: what was aligned roughly must still arrive exactly
        _, overlap, _, _ = _align(bridges, matrices, shares, factor, Precision.CAREFUL, drafts, 0.0)
        careful = True
    return Alignment(factor, bridges, careful, overlap, residual, passes, floor)


def _first(mean: Tensor) -> tuple[Tensor, Precision]:
    """A root of the mean and how exactly to begin: with drafts where they are cheaper and good enough to be of use."""
    if len(mean) >= 128:
        values, vectors = eigh(mean)
        condition = float(values[-1] / values[0].clamp(min=TINY))
        if _noise(condition, Precision.DRAFT) <= USEFUL:  # longest column first, along the axes of the mean
            return (vectors * values.sqrt()).flip(1).contiguous(), Precision.DRAFT
    return full_root(mean), Precision.FAST


def _too_rough(noise: float, residual: float, previous: float, tolerance: float, precision: Precision) -> bool:
    """Whether the next pass has to be more exact than this one; after a draft, if it may well be the last."""
    if precision is Precision.DRAFT:
        shrinking = residual / previous
        return shrinking > 0.5 or residual * min(1.0, shrinking) <= tolerance / 3
    return noise > max(residual, tolerance) / 10 or residual <= tolerance


class _Drafts:
    """One draft for each matrix, in the memory in which their bridges will be kept; which decomposition starts them."""

    def __init__(self, bridges: Tensor) -> None:
        self.each = [Draft(b.view(-1).view(torch.float32).view(2, *b.shape)) for b in bridges]
        self.cold = Precision.DRAFT
        self.begun = True

    def nearest(self, c: int, matrix: Tensor, factor: Tensor, goal: float) -> "Nearest":
        """From the pass before; anew where the factor has moved too far for that."""
        found = self.each[c].root(matrix, factor, goal) if self.begun else None
        if found is not None:
            root, unit, error = found
            overlap = float(root.diagonal().sum(dtype=torch.float64)) * unit
            return Nearest(root.to(factor.dtype).mul_(unit), root, 1.0, overlap, error)
        self.begun = self.begun and c > 0  # the axes of the mean are no basis for the first, hence for none
        anew = nearest_root(matrix, factor, self.cold)
        if anew.noise > USEFUL:
            self.cold = Precision.FAST
            anew = nearest_root(matrix, factor, self.cold)
        self.each[c].adopt(anew.bridge)
        self.begun = self.begun or c == len(self.each) - 1
        return anew


def _align(
    bridges: Tensor,
    matrices: Tensor | Sequence[Tensor],
    shares: Tensor,
    factor: Tensor,
    precision: Precision,
    drafts: _Drafts,
    goal: float,
) -> tuple[Tensor, float, float, float]:
    """Write the bridges; return the mean of the nearest roots, its overlap with the factor, the worst noise and condition."""
    mean, overlap, noise, worst = torch.zeros_like(factor), 0.0, 0.0, 1.0
    for c, (matrix, share) in enumerate(zip(matrices, shares.tolist(), strict=True)):
        if precision is Precision.DRAFT:
            found = drafts.nearest(c, matrix, factor, goal)
        else:
            found = nearest_root(matrix, factor, precision)
            bridges[c] = found.bridge
        mean.add_(found.part, alpha=share)
        overlap += share * found.overlap
        noise, worst = max(noise, found.noise), max(worst, found.condition)
    if precision is not Precision.CAREFUL:
        mean = torch.linalg.solve_ex(factor.mT, mean).result
    return mean, overlap, noise, worst


class Nearest(NamedTuple):
    """The root R of a matrix S nearest to F, which makes F^T R symmetric positive semi-definite."""

    part: Tensor
    """R itself if computed with care, else F^T R, which spares a product; either may be averaged."""

    bridge: Tensor
    """As in `Alignment`."""

    condition: float
    """Condition number of F^T S F."""

    overlap: float
    """tr (F^T R)."""

    noise: float
    """Relative error of R, in its weakest direction; of a draft, in the mean of all."""


def nearest_root(matrix: Tensor, factor: Tensor, precision: Precision) -> Nearest:
    """R = L Q for any root L, with Q the orthogonal polar factor of L^T F.

    Or, where conditioning allows it, F^T R = (F^T S F)^1/2 without any L.
    """
    if precision is Precision.CAREFUL:
        some = some_root(matrix)
        some = some[:, some.any(dim=0)]
        if some.shape[1] == 0:
            return Nearest(matrix, matrix, 1.0, 0.0, 0.0)
        left, stretch, right = torch.linalg.svd(product(some.mT, factor), full_matrices=False)
        root = product(some, product(left, right))
        condition = float((stretch[0] / stretch[-1].clamp(min=TINY)).square())
        return Nearest(root, root, condition, float(stretch.sum()), _noise(condition, precision))
    dtype = torch.float32 if precision is Precision.DRAFT else torch.float64
    # scaled, so that float32 neither overflows nor underflows
    size, length = matrix.diagonal().max().clamp(min=TINY), factor.norm().clamp(min=TINY)
    near = (factor / length).to(dtype)
    aligned = congruence((matrix / size).to(dtype), near, overwrite=True)
    del near  # large matrices are let go as soon as they can be
    values, vectors = eigh(aligned, overwrite=True)
    if not float(values[-1]) > 0:
        return Nearest(matrix, matrix, float("inf"), 0.0, _noise(float("inf"), precision))
    values = values.clamp(min=torch.finfo(dtype).eps * float(values[-1]))
    unit, fourth = size.sqrt() * length, values.sqrt().sqrt()
    half = vectors * fourth  # a product with its own transpose takes half the work
    together = product(half, half.mT).to(torch.float64).mul_(unit)
    bridge = vectors.div_(fourth * unit.sqrt())
    condition, overlap = float(values[-1] / values[0]), float(values.sqrt().sum() * unit)
    return Nearest(together, bridge, condition, overlap, _noise(condition, precision))


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

    Where a mixture made things much worse, it goes back and forgets. Differences of iterates are kept in float32: what
    that rounds away is small beside the present step.
    """

    def __init__(self, memory: int = 5) -> None:
        self.memory = memory
        self.last: tuple[Tensor, Tensor] | None = None
        self.changes: list[tuple[Tensor, Tensor]] = []
        self.best = float("inf")

    def __call__(self, point: Tensor, step: Tensor, residual: float) -> Tensor:
        if self.last is not None:
            if residual > 2 * self.best:
                point, step = self.last
                self.last, self.changes, self.best = None, [], float("inf")
                return point + step
            self._remember(point - self.last[0], step - self.last[1])
        self.best, self.last = min(self.best, residual), (point, step)
        mixed = point + step
        if self.changes:
            for weight, (moved, changed) in zip(self._weights(step), self.changes, strict=True):
                mixed.sub_(moved, alpha=weight).sub_(changed, alpha=weight)
        return mixed

    def _remember(self, moved: Tensor, changed: Tensor) -> None:
        length = changed.norm().clamp(min=TINY)
        self.changes = [*self.changes, ((moved / length).float(), (changed / length).float())][-self.memory :]

    def _weights(self, step: Tensor) -> list[float]:
        """Of the changes of the step, all of unit length, so that what they leave of it is least."""
        changes = [changed.flatten() for _, changed in self.changes]
        gram = torch.tensor([[_dot(a, b) for b in changes] for a in changes], dtype=torch.float64)
        right = torch.tensor([_dot(a, step.flatten()) for a in changes], dtype=torch.float64)
        weights: list[float] = torch.linalg.solve(gram + 1e-12 * torch.eye(len(gram), dtype=gram.dtype), right).tolist()
        return weights


def _dot(a: Tensor, b: Tensor) -> float:
    return float(
        sum(torch.dot(x.double(), y.double()) for x, y in zip(a.split(1 << 20), b.split(1 << 20), strict=True))
    )


def some_root(matrix: Tensor) -> Tensor:
    """Some square root, `(d, d)`: a Cholesky factor, or one with columns of zeros, as many as directions without variance."""
    triangle, failed = torch.linalg.cholesky_ex(matrix)
    # pivots far above rounding; small ones may hide an eigenvalue that is much smaller
    if not bool(failed) and bool((triangle.diagonal().square() > EXACT * matrix.diagonal()).all()):
        return triangle
    equilibrated, scale = equilibrate(matrix)
    values, vectors, kept = eigh_psd(equilibrated)
    if not bool(failed) and bool(kept.all()):
        return triangle
    root, size = torch.zeros_like(matrix), torch.where(torch.isfinite(scale), scale, 0.0)
    root[:, : int(kept.sum())] = size[:, None] * vectors[:, kept] * values[kept].sqrt()
    return root


def full_root(matrix: Tensor) -> Tensor:
    """An invertible root of a matrix that is known to have one."""
    triangle, failed = torch.linalg.cholesky_ex(matrix)
    return sqrt_psd(matrix) if bool(failed) else triangle
