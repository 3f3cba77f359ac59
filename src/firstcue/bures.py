"""Distance, shortest maps and average of covariance matrices, in the geometry of optimal transport.

Two centred clouds of points are compared by how far their points must move, at least, for one covariance to become
the other. Everything here rests on one step: of all square roots R of a matrix S (R R^T = S) choose the one nearest to
a given root F. Then R F^-1 is the shortest map from F F^T to S, and averaging nearest roots leads to the barycentre.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue._blas import product
from firstcue._procrustes import full_root, iterate, midpoint
from firstcue.linalg import range_basis, sqrt_psd


@dataclass(frozen=True)
class Barycenter:
    """The covariance nearest to several others on average."""

    matrix: Float[Tensor, "d d"]
    """`factor @ factor.T`."""

    residual: float
    """Norm of `sum_c w_c T_c - I` over the square root of the rank, T_c the map to matrix c; zero at the minimum.

    For the closed form of two: the asymmetry that rounding left in the product of the two roots."""

    iterations: int
    """Passes over all matrices; zero for the closed form of two."""

    converged: bool
    """Whether the residual came below the tolerance, or below what float64 can resolve at this conditioning."""

    objective: float
    """Weighted mean of squared Bures distances to the matrices."""

    factor: Float[Tensor, "d r"]
    """A root of `matrix`."""

    bridges: Float[Tensor, "k m r"]
    """What leads from `factor` to the maps: Y_c of A_c = factor Y_c Y_c^T factor^T, or, if `careful`, the root R_c of matrix
    c nearest to `factor`, with A_c = factor R_c^-1. NaN for a matrix without weight."""

    careful: bool
    """Which of the two; the second is for matrices too ill-conditioned for the first."""

    def maps(self) -> Float[Tensor, "k d d"]:
        """Shortest maps A_c from each matrix to the barycentre: `A_c S_c A_c^T = matrix`, even after an early stop.

        Raises:
            ValueError: If a matrix is singular where another has variance: no linear map exists then.
        """
        maps = self.factor.new_empty(len(self.bridges), len(self.factor), len(self.factor))
        for mapped, bridge in zip(maps, self.bridges, strict=True):
            mapped.copy_(self._map(bridge))
            if not bool(torch.isfinite(mapped).all()) and bool(torch.isfinite(bridge).all()):
                raise ValueError(
                    "a matrix is singular where others have variance, so no linear map takes it to the barycentre. "
                    "Shrink it towards a multiple of the identity first."
                )
        return maps

    def _map(self, bridge: Tensor) -> Tensor:
        if not self.careful:
            half = product(self.factor, bridge)
            return product(half, half.mT)
        if not bool(bridge.triu(1).any()) and bridge.shape[0] == bridge.shape[1]:  # a Cholesky factor
            return torch.linalg.solve_triangular(bridge, self.factor, upper=False, left=False)
        if bridge.shape[0] != bridge.shape[1]:
            return self.factor @ torch.linalg.pinv(bridge)
        # in units of each feature, which say nothing about rank
        size = torch.linalg.svdvals(bridge / bridge.norm(dim=1, keepdim=True).clamp(min=torch.finfo(bridge.dtype).tiny))
        if not float(size[-1]) > len(size) * torch.finfo(bridge.dtype).eps * float(size[0]):
            return torch.full_like(self.factor, torch.nan)
        return torch.linalg.solve_ex(bridge, self.factor, left=False).result


def bures_squared(a: Tensor, b: Tensor) -> float:
    """Squared Bures distance: the least mean squared move that turns covariance `a` into `b`.

    It is tr a + tr b - 2 tr (a^1/2 b a^1/2)^1/2; for matrices that commute, the squared distance of their roots.

    Args:
        a: `(d, d)`, positive semi-definite, in units of x squared; may be singular.
        b: The same.

    Returns:
        The squared distance in units of x squared, not negative.

    Raises:
        ValueError: If shapes differ or a matrix is not positive semi-definite.

    Source:
        Bhatia, Jain and Lim (2019), https://arxiv.org/abs/1712.01504.

    Example:
        >>> bures_squared(torch.eye(2), 4 * torch.eye(2))
        2.0
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    _require_same_size(a, b)
    overlap = torch.linalg.svdvals(sqrt_psd(a) @ sqrt_psd(b)).sum()
    return max(0.0, float(a.trace() + b.trace() - 2 * overlap))


def bures_map(source: Tensor, target: Tensor) -> Float[Tensor, "d d"]:
    """The shortest linear map that turns covariance `source` into `target`.

    It is symmetric and positive semi-definite wherever `source` has variance, and zero where it has none.

    Args:
        source: `(d, d)`, positive semi-definite.
        target: Positive semi-definite, in the same units.

    Returns:
        A with `A @ source @ A.T = target`.

    Raises:
        ValueError: If no linear map does it, because `target` varies in more directions than `source`.

    Source:
        Gelbrich (1990), On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces.

    Example:
        >>> bures_map(torch.diag(torch.tensor([1.0, 4.0])), torch.eye(2))
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
    """
    start, end = _checked(source, "source"), _checked(target, "target")
    _require_same_size(start, end)
    inside, outside = range_basis(start), range_basis(end)
    goal = outside @ full_root(outside.mT @ end @ outside)
    mapped = shortest_map(inside, full_root(inside.mT @ start @ inside), goal)
    if float((mapped @ start @ mapped.mT - end).norm()) > 1e-6 * float(end.norm()):
        raise ValueError(
            f"no linear map turns `source` (rank {inside.shape[1]}) into `target` (rank {outside.shape[1]}), which "
            f"varies in more directions. Shrink `source` towards a multiple of the identity first."
        )
    return mapped.to(source.dtype)


def shortest_map(basis: Tensor, root: Tensor, end: Tensor) -> Float[Tensor, "d d"]:
    """The map from the covariance S = (basis root)(basis root)^T to `end end^T`, if the rank of that is no larger.

    Args:
        basis: `(d, r)`, orthonormal columns.
        root: `(r, r)`, invertible.
        end: `(d, q)`, any root of the target.
    """
    # of all roots of the target the one nearest to the source's
    left, _, right = torch.linalg.svd(end.mT @ (basis @ root), full_matrices=False)
    mapped = torch.linalg.solve_ex(root, end @ (left @ right), left=False).result
    inner = basis.mT @ mapped
    return (mapped + basis @ (inner.mT - inner) / 2) @ basis.mT


def barycenter(
    matrices: Tensor,
    weights: Tensor | None = None,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> Barycenter:
    """The covariance S that minimises the weighted mean of squared Bures distances to `matrices`.

    Two matrices have a closed form. For more, F <- sum_c w_c R_c is repeated, where S = F F^T and R_c is the root of
    matrix c nearest to F: the classical fixed point without its inverses. Anderson acceleration halves the passes, and
    early ones run in float32 while that resolves the residual.

    Args:
        matrices: `(k, d, d)`, positive semi-definite, in units of x squared. The answer is unique if one of them has
            full rank in their joint range; three or more singular ones may not converge, which is reported.
        weights: `(k,)`, not negative; equal if None. They are divided by their sum.
        tolerance: For the residual, free of units.
        max_iterations: Passes over all matrices.

    Returns:
        The barycentre, with what is needed to map every matrix there.

    Raises:
        ValueError: If shapes do not fit, a weight is negative, or a matrix is not positive semi-definite.

    Source:
        Álvarez-Esteban et al. (2016), https://arxiv.org/abs/1511.05355; Walker and Ni (2011), Anderson acceleration for
        fixed-point iterations, SIAM Journal on Numerical Analysis 49.

    Example:
        >>> line = torch.tensor([1.0, 4.0, 9.0])[:, None, None]
        >>> barycenter(line).matrix  # the mean standard deviation is 2
        tensor([[4.]])
    """
    if matrices.ndim != 3:
        raise ValueError(f"`matrices` has shape {tuple(matrices.shape)}; a stack (k, d, d) is needed.")
    stack, shares = _checked_all(matrices), _shares(weights, matrices)
    used = shares > 0
    everything = bool(used.all())
    found = _within_range(stack if everything else stack[used], shares[used], tolerance, max_iterations)
    bridges = found.bridges if everything else _spread(found.bridges, used)
    return replace(found, matrix=found.matrix.to(matrices.dtype), bridges=bridges)


def _within_range(matrices: Tensor, shares: Tensor, tolerance: float, max_iterations: int) -> Barycenter:
    """Leave out the directions in which no matrix has variance; Bures geometry does not see them."""
    basis = range_basis(weighted_sum(matrices, shares))
    if basis.shape[0] == basis.shape[1]:
        return full_rank_barycenter(matrices, shares, tolerance=tolerance, max_iterations=max_iterations)
    inner = full_rank_barycenter(
        basis.mT @ matrices @ basis, shares, tolerance=tolerance, max_iterations=max_iterations
    )
    bridges = basis @ inner.bridges if inner.careful else inner.bridges
    return replace(inner, matrix=basis @ inner.matrix @ basis.mT, factor=basis @ inner.factor, bridges=bridges)


def full_rank_barycenter(
    matrices: Tensor | Sequence[Tensor], shares: Tensor, *, tolerance: float, max_iterations: int
) -> Barycenter:
    """As `barycenter`, for float64 matrices known to be covariances whose mean has full rank, and shares that sum to one.

    Each matrix is asked for when it is needed, so a sequence may compute its matrices on request.
    Features of very different size are sorted: singular vectors of a graded matrix are exact only in descending order.
    """
    mean = weighted_sum(matrices, shares)
    variance = mean.diagonal()
    if len(mean) == 0 or float(variance.max()) <= 1e6 * float(variance.min()):
        return _solve(matrices, shares, mean, tolerance, max_iterations)
    order = variance.argsort(descending=True)
    back = order.argsort()
    sorted_ones = torch.stack([matrix[order[:, None], order] for matrix in matrices])
    found = _solve(sorted_ones, shares, mean[order[:, None], order], tolerance, max_iterations)
    bridges = found.bridges[:, back] if found.careful else found.bridges
    return replace(found, matrix=found.matrix[back[:, None], back], factor=found.factor[back], bridges=bridges)


def weighted_sum(matrices: Tensor | Sequence[Tensor], shares: Tensor) -> Tensor:
    """`sum_c shares_c matrix_c`."""
    total = torch.zeros_like(matrices[0])
    for matrix, share in zip(matrices, shares.tolist(), strict=True):
        total.add_(matrix, alpha=share)
    return total


def _solve(
    matrices: Tensor | Sequence[Tensor], shares: Tensor, mean: Tensor, tolerance: float, max_iterations: int
) -> Barycenter:
    if len(mean) == 0:
        return Barycenter(mean, 0.0, 0, True, 0.0, mean, mean.new_zeros(len(matrices), 0, 0), True)
    few = len(matrices) <= 2
    found = midpoint(matrices, shares) if few else iterate(matrices, shares, mean, tolerance, max_iterations)
    matrix = product(found.factor, found.factor.mT)
    spread = float(mean.trace() + matrix.trace())
    objective = max(0.0, spread - 2 * found.overlap)
    converged = found.residual <= max(tolerance, found.floor)
    return Barycenter(
        matrix, found.residual, found.passes, converged, objective, found.factor, found.bridges, found.careful
    )


def _spread(bridges: Tensor, used: Tensor) -> Tensor:
    """Bridges to all matrices; one without weight has none (NaN)."""
    return bridges.new_full((len(used), *bridges.shape[1:]), torch.nan).index_copy_(0, used.nonzero()[:, 0], bridges)


def _shares(weights: Tensor | None, matrices: Tensor) -> Tensor:
    if weights is None:
        weights = matrices.new_ones(len(matrices))
    if len(weights) != len(matrices) or not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
        raise ValueError(
            f"`weights` has to hold {len(matrices)} numbers, none negative, not all zero; got {weights.tolist()}."
        )
    return weights.double() / weights.double().sum()


def _checked_all(matrices: Tensor) -> Tensor:
    """As `_checked`, one matrix at a time; a stack that needs no change is not copied."""
    stack = matrices.double()
    for c, matrix in enumerate(matrices):
        checked = _checked(matrix, "matrices")
        if not torch.equal(checked, stack[c]):
            stack = stack.clone() if stack is matrices else stack
            stack[c] = checked
    return stack


def _checked(matrix: Tensor, name: str) -> Tensor:
    """Symmetric float64, or an error that says what is wrong."""
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"`{name}` has shape {tuple(matrix.shape)}; square matrices are needed.")
    wide = matrix.double()
    if not bool(torch.isfinite(wide).all()):
        raise ValueError(f"`{name}` has NaN or infinite entries; a group without rows has no covariance, leave it out.")
    size = wide.abs().amax(dim=(-1, -2), keepdim=True) if wide.numel() else wide
    if bool(((wide - wide.mT).abs() > 1e-4 * size).any()):
        raise ValueError(f"`{name}` is not symmetric; covariance matrices are needed.")
    if bool((wide.diagonal() < -1e-6 * size[..., 0]).any()):
        raise ValueError(f"`{name}` has a negative variance on its diagonal; covariance matrices are needed.")
    return (wide + wide.mT) / 2


def _require_same_size(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"matrices of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared.")
