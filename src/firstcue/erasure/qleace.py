"""QLEACE: the smallest edit after which classes share their mean and covariance, so that no quadratic probe tells them apart.

Each class is carried to the average of all class Gaussians by the shortest map, an affine one. The edit must know the
class of every row, and like any such edit it can write the class into higher moments; `firstcue.injection` measures that.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from firstcue.bures import Barycenter, full_rank_barycenter, weighted_sum
from firstcue.erasure.oracle import GroupEraser, oracle_leace
from firstcue.erasure.report import covariance_gap
from firstcue.linalg import EPS, factor_psd, range_basis
from firstcue.moments import Moments


def qleace(
    by_class: Moments,
    *,
    shrinkage: Callable[[Moments], Tensor] | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> GroupEraser:
    """Give every class the same mean and covariance, moving rows least in mean square.

    The common mean is that of all rows, the common covariance the Bures barycentre S of the class covariances, weighted by
    the shares of the classes: x -> mean + A_c (x - mean_c), with A_c the shortest map from the class covariance to S. Two
    classes have a closed form; more are iterated until the first-order condition holds to `tolerance`. However that ends,
    the means and covariances of the rows fitted agree; only how far rows move depends on it.

    Features that are constant within every class, and copies of other features, are handled by working in the directions
    in which classes vary. A class that varies in fewer of them than others cannot be given their covariance by any linear
    map: this is refused, unless a shrinkage estimator fills the gap.

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.
        shrinkage: Covariance estimator applied to all classes alike, such as `oas` or `ledoit_wolf`. What is equalised are
            then its estimates, and the covariances of the rows agree only roughly; a warning says how far they differ.
        tolerance: For the residual of the first-order condition, free of units.
        max_iterations: Passes over the classes; when they do not suffice, a warning says so and `converged` is False.

    Returns:
        The eraser, with `converged`, `residual` and `iterations`; `distortion` is the mean squared movement.

    Raises:
        ValueError: If fewer than two classes have rows, or a class varies in fewer directions than others.

    Source:
        Quirke and Belrose (2025), https://arxiv.org/abs/2502.02820; the barycentre of Gaussians from Álvarez-Esteban et al.
        (2016), https://arxiv.org/abs/1511.05355.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [0.0], [-8.0]])
        >>> eraser = qleace(Moments.of_groups(x, ["near", "near", "far", "far"]))
        >>> eraser(x, ["near", "near", "far", "far"])[:, 0]  # standard deviations 1 and 4 become 2.5
        tensor([-3.5000,  1.5000,  1.5000, -3.5000])
    """
    means_only = oracle_leace(by_class)
    names = means_only.classes
    present = [i for i, count in enumerate(by_class.count.tolist()) if count > 0]
    found = by_class if len(present) == len(names) else _only(by_class, present)
    wanted = _Covariances(found) if shrinkage is None else _estimates(shrinkage, found)
    basis = _varying(wanted, found)
    inside = wanted if basis is None else torch.stack([basis.mT @ covariance @ basis for covariance in wanted])
    _require_full_rank(inside, found, [names[i] for i in present], shrunk=shrinkage is not None)
    shares = found.count / found.count.sum()
    common = full_rank_barycenter(inside, shares, tolerance=tolerance, max_iterations=max_iterations)
    maps = _within_all(common.maps(), basis)
    if not common.converged:
        _warn_unfinished(common, tolerance)
    moved = common.objective if shrinkage is None else _movement(maps, found.covariance, shares)
    if shrinkage is not None:
        _warn_of_gap(maps, found)
    return replace(
        means_only,
        maps=maps if len(present) == len(names) else _placed(maps, present, len(names)),
        distortion=(means_only.distortion or 0.0) + moved,
        converged=common.converged,
        residual=common.residual,
        iterations=common.iterations,
    )


def _only(by_class: Moments, present: Sequence[int]) -> Moments:
    return Moments(
        by_class.count[present],
        by_class.mean[present],
        by_class.scatter[present],
        by_class.rows[present],
        cubic=None if by_class.cubic is None else by_class.cubic[present],
        quartic=None if by_class.quartic is None else by_class.quartic[present],
    )


class _Covariances(Sequence[Tensor]):
    """Class covariances computed when they are asked for: all at once they would take as much memory as the moments."""

    def __init__(self, by_class: Moments) -> None:
        self._by_class = by_class

    def __len__(self) -> int:
        return len(self._by_class.count)

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._by_class.scatter[index] / self._by_class.count[index]


def _estimates(shrinkage: Callable[[Moments], Tensor], by_class: Moments) -> Tensor:
    """One estimate per class; an estimator that knows no group axis is called class by class."""
    return torch.stack([shrinkage(by_class.group(c)) for c in range(len(by_class.count))])


def _varying(covariances: Tensor | Sequence[Tensor], by_class: Moments) -> Tensor | None:
    """Orthonormal columns `(d, r)` spanning the directions in which any class varies; None if those are all."""
    within = weighted_sum(covariances, by_class.count / by_class.count.sum())
    largest = by_class.mean.abs().amax(dim=0)
    constant = within.diagonal() <= (64 * EPS * largest).square()
    within[constant] = 0.0
    within[:, constant] = 0.0
    basis = range_basis(within, rows=int(by_class.rows.sum()))
    return None if basis.shape[1] == len(within) else basis


def _within_all(maps: Tensor, basis: Tensor | None) -> Tensor:
    """Maps of all features: in directions in which no class varies, rows keep their place."""
    if basis is None:
        return maps
    rest = torch.eye(len(basis), dtype=basis.dtype, device=basis.device) - basis @ basis.mT
    return basis @ maps @ basis.mT + rest


def _require_full_rank(
    covariances: Tensor | Sequence[Tensor], by_class: Moments, names: Sequence[str], *, shrunk: bool
) -> None:
    """Refuse a class that varies in fewer directions than the classes together do."""
    d, all_features = len(covariances[0]), by_class.mean.shape[-1]
    where = (
        f"{d} dimensions" if d == all_features else f"the {d} of {all_features} dimensions in which the classes vary"
    )
    for covariance, rows, name in zip(covariances, by_class.rows.tolist(), names, strict=True):
        if rows <= d and not shrunk:
            trouble = f"class {name!r} has {rows} sample{'s' * (rows != 1)} for {where} (at least {d + 1} are needed)"
        elif _nearly_singular(covariance, rows) and (rank := factor_psd(covariance, rows=rows).rank) < d:
            trouble = f"class {name!r} ({rows} samples) varies in only {rank} of {where}"
        else:
            continue
        more = "" if shrunk else ", or ask for regularisation with `shrinkage=oas` (or `ledoit_wolf`)"
        raise ValueError(
            f"QLEACE needs an invertible covariance in every class, but {trouble}. Reduce `x` first (a principal subspace, or "
            f"drop features that are constant in one class), merge or drop rare classes{more}."
        )


def _nearly_singular(covariance: Tensor, rows: int) -> bool:
    """Whether a Cholesky pivot, relative to the variance of its feature, comes near rounding; a cheap test before the exact."""
    triangle, failed = torch.linalg.cholesky_ex(covariance)
    pivots = triangle.diagonal().square() / covariance.diagonal()
    return bool(failed) or not bool((pivots > 100 * EPS * max(rows, len(covariance))).all())


def _movement(maps: Tensor, covariances: Tensor, shares: Tensor) -> float:
    """Mean squared movement about the class means: sum_c p_c tr (A_c - I) S_c (A_c - I)^T."""
    change = maps - torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    return float(torch.einsum("k,kij,kij->", shares, change @ covariances, change))


def _placed(maps: Tensor, present: Sequence[int], k: int) -> Tensor:
    """Maps of all classes; one without rows at the fit, which the eraser refuses to edit, has the identity."""
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    placed = identity.repeat(k, 1, 1)
    placed[present] = maps
    return placed


def _warn_unfinished(common: Barycenter, tolerance: float) -> None:
    warnings.warn(
        f"QLEACE stopped after {common.iterations} passes at residual {common.residual:.1e} (asked for {tolerance:.1e}). Class "
        f"means and covariances are equal all the same, but rows move further than they must; raise `max_iterations`.",
        stacklevel=3,
    )


def _warn_of_gap(maps: Tensor, by_class: Moments) -> None:
    scatter = maps @ by_class.scatter @ maps.mT
    gap = covariance_gap(replace(by_class, scatter=scatter))
    warnings.warn(
        f"with shrinkage, QLEACE leaves class covariances apart by up to {gap:.1%} of their mean on the rows it was fitted "
        f"on: a quadratic probe may still find the class. Without it they agree exactly.",
        stacklevel=3,
    )
