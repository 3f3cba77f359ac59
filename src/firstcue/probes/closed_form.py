"""Linear and quadratic probes in closed form: the Bayes rules for Gaussian classes, from moments alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._checks import require_classes
from firstcue._rows import feature_rows, in_parts
from firstcue.linalg import EPS, PsdFactor, equilibrate, factor_psd
from firstcue.moments import Moments

CHUNK = 1024
SEPARATED = 1e-9
"""Share of the variance within classes, along a direction, below which classes count as separated to this degree."""
FLOOR = 1e-6
"""Least variance of a class along a direction, in units of the variance of all rows, that a quadratic probe believes."""


@dataclass(frozen=True)
class Probe:
    """One quadratic polynomial per class: offset_c + weight_c y - |y root_c|^2 / 2 with y = x - centre; linear without roots.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> probe = linear_probe(Moments.of_groups(x, ["low", "low", "high", "high"]))
        >>> [probe.classes[i] for i in probe(x).argmax(dim=1)]
        ['low', 'low', 'high', 'high']
    """

    centre: Float64[Tensor, " d"]
    """Mean of the rows fitted."""

    weight: Float64[Tensor, "k d"]
    """Zero for a class without rows."""

    offset: Float64[Tensor, " k"]
    """Minus infinity for a class without rows, which is never chosen."""

    classes: tuple[str, ...]
    """Name of each class."""

    roots: Float64[Tensor, "k d r"] | None = None
    """Inverse square roots of the class covariances, of a quadratic probe."""

    note: str = ""
    """What was regularised, and by how much; empty where nothing was."""

    def __call__(self, x: Any) -> Any:
        """Logits `(n, k)` of rows `x` `(n, d)`: log-posteriors up to a constant per row.

        Returns:
            Of the library of `x`; float64 for float64 rows, else float32.

        Raises:
            ValueError: If `x` does not have the features fitted.
        """
        rows = feature_rows(x)
        if rows.shape[1] != len(self.centre):
            raise ValueError(f"`x` has {rows.shape[1]} features but the probe was fitted on {len(self.centre)}.")
        kind = torch.float64 if rows.dtype == torch.float64 else torch.float32
        # centred before it is narrowed: far from zero, float32 would round away what is read
        logits = in_parts(
            rows,
            lambda part: self._of_centred((part.double() - self.centre).to(kind)),
            len(self.offset),
            dtype=kind,
            device=rows.device,
        )
        return logits if isinstance(x, Tensor) else logits.numpy()

    def _of_centred(self, y: Tensor) -> Tensor:
        logits = y @ self.weight.mT.to(y) + self.offset.to(y)
        for c, root in enumerate(() if self.roots is None else self.roots):
            logits[:, c] -= (y @ root.to(y)).square().sum(dim=1) / 2
        return logits


def linear_probe(
    by_class: Moments, *, balanced: bool = False, shrinkage: Callable[[Moments], Tensor] | None = None
) -> Probe:
    """Linear discriminant analysis: the Bayes rule for Gaussian classes that share one covariance.

    It needs no ridge: directions without any variance are left out, by a relative criterion, and one along which classes
    are separated without any variance within them is used to the full.

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.
        balanced: Give all classes the same prior instead of their share of rows.
        shrinkage: Covariance estimator such as `oas`, applied to standardised features, for fewer than about ten rows per
            feature; None takes the covariance as it is.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7.
    """
    names = _names(by_class)
    whole = by_class.pool()
    return linear_from_means(whole, by_class.mean, by_class.count, names, balanced=balanced, shrinkage=shrinkage)


def linear_from_means(
    whole: Moments,
    means: Float64[Tensor, "k d"],
    counts: Float64[Tensor, " k"],
    names: tuple[str, ...],
    *,
    balanced: bool,
    shrinkage: Callable[[Moments], Tensor] | None = None,
) -> Probe:
    """The same from the moments of all rows and the class means: no covariance per class is needed."""
    present = counts > 0
    share = counts[present] / counts.sum()
    factor = _factor(whole, shrinkage)
    offsets = (means[present] - whole.mean).mT
    white = factor.whiten(offsets)
    # In units where all rows have unit variance, classes leave 1 - s^2 of it within them along each direction.
    directions, s, _ = torch.linalg.svd(white * share.sqrt(), full_matrices=False)
    within = (1 - s.square()).clamp(min=SEPARATED)
    reads = directions @ ((directions.mT @ white) / within[:, None])
    weight = torch.zeros_like(means)
    weight[present] = factor.unwhiten(reads).mT
    offset = _log_prior(counts, balanced)
    offset[present] -= (white * reads).sum(dim=0) / 2
    return Probe(whole.mean, weight, offset, names, note="" if shrinkage is None else "covariance shrunk")


def quadratic_probe(by_class: Moments, *, balanced: bool = False, pooled: bool | None = None) -> Probe:
    """Quadratic discriminant analysis: the Bayes rule for Gaussian classes.

    A class that varies in fewer directions than all rows do has no density of its own. The covariance of every class c is
    then mixed with the average one, which gets the share r / (n_c + r), for r directions and n_c rows of the class; the
    probe's `note` says so.

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.
        balanced: Give all classes the same prior instead of their share of rows.
        pooled: Mix always or never, instead of where it is needed. Without mixing, a variance below a millionth of that of
            all rows counts as a millionth.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        Friedman (1989), Regularized discriminant analysis, Journal of the American Statistical Association 84.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0], [-3.0], [3.0]])  # equal means, other spread
        >>> quadratic_probe(Moments.of_groups(x, ["near", "near", "far", "far"]))(x).argmax(dim=1).tolist()
        [1, 1, 0, 0]
    """
    names = _names(by_class)
    whole = by_class.pool()
    factor = _factor(whole, None)
    present = by_class.count > 0
    share = by_class.count[present] / by_class.count.sum()
    basis = factor.whiten(torch.eye(len(whole.mean), dtype=torch.float64, device=whole.mean.device))
    covariances = basis @ by_class.covariance[present] @ basis.mT
    rows, r = by_class.rows[present], len(basis)
    mix = pooled if pooled is not None else _any_deficient(covariances, rows)
    pull = r / (rows + r) if mix else torch.zeros_like(share)
    average = torch.einsum("k,kij->ij", share, covariances)
    values, vectors = torch.linalg.eigh(torch.lerp(covariances, average, pull.to(share)[:, None, None]))
    values = values.clamp(min=FLOOR)
    roots = basis.mT @ (vectors * values.rsqrt()[:, None, :])
    centres = by_class.mean[present] - whole.mean
    seen = torch.einsum("kd,kdr->kr", centres, roots)
    weight, offset = torch.zeros_like(by_class.mean), _log_prior(by_class.count, balanced)
    weight[present] = torch.einsum("kdr,kr->kd", roots, seen)
    offset[present] -= (values.log().sum(dim=1) + seen.square().sum(dim=1)) / 2
    kept = torch.zeros(len(names), *roots.shape[1:], dtype=roots.dtype, device=roots.device)
    kept[present] = roots
    note = f"class covariances mixed with their average, up to {float(pull.max()):.0%}" if mix else ""
    return Probe(whole.mean, weight, offset, names, kept, note)


def _names(by_class: Moments) -> tuple[str, ...]:
    if by_class.count.ndim != 1:
        raise ValueError(
            f"`by_class` needs one group axis, the classes; found {by_class.count.ndim}. Build it with "
            f"Moments.of_groups(x, z)."
        )
    names = by_class.classes or tuple(str(i) for i in range(len(by_class.count)))
    require_classes(by_class.count, names, "z")
    return names


def _factor(whole: Moments, shrinkage: Callable[[Moments], Tensor] | None) -> PsdFactor:
    """The covariance of all rows, factorised; shrunk in units of each feature's own spread."""
    constant_below = (64 * EPS * whole.mean).square()
    covariance = whole.covariance
    if shrinkage is not None:
        standard, scale = equilibrate(covariance, constant_below)
        finite = torch.where(torch.isfinite(scale), scale, 0.0)
        standard.diagonal().mul_(finite > 0)
        shrunk = shrinkage(replace(whole, scatter=standard * whole.count, cubic=None, quartic=None))
        covariance = shrunk * finite[:, None] * finite
    return factor_psd(covariance, rows=int(whole.rows), constant_below=constant_below)


def _any_deficient(covariances: Tensor, rows: Tensor) -> bool:
    """Whether a class varies in fewer directions than there are, in units of the variance of all rows."""
    r = covariances.shape[-1]
    cut = max(r, int(rows.sum())) * EPS
    return bool((rows <= r).any()) or bool((torch.linalg.eigvalsh(covariances)[:, :1] <= cut).any())


def _log_prior(counts: Tensor, balanced: bool) -> Tensor:
    present = counts > 0
    share = present / float(present.sum()) if balanced else counts / counts.sum()
    return torch.where(present, share.to(counts), 0.0).log()
