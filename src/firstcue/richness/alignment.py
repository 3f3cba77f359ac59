"""The centred kernel alignment of features with the span of the outputs, from second moments: never a matrix of rows."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._blas import product
from firstcue.linalg import EPS
from firstcue.moments import Moments
from firstcue.richness.joint import cross_scatter

REFERENCES = ("raw", "centered", "softmax")
SMALLEST_OUTPUT = 1e-3
"""Share of the largest output variance below which "centered" and "softmax" drop a direction of the outputs."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the measure is a function of, whichever way it was gathered."""

    rows: int
    """n."""

    effective: float | None
    """Rows that equal weights would need for the same precision; None if unknown."""

    trace: float
    """tr S, the summed variance of the features."""

    square: float
    """||S||_F^2."""

    size: float
    """Squared length of the features' mean, to tell a constant from rounding."""

    cross: Float64[Tensor, "p k"]
    """Covariance of features and outputs."""

    outputs: Float64[Tensor, "k k"]
    """Covariance of the outputs."""

    mean: Float64[Tensor, " k"]
    """Mean of the outputs."""

    num_outputs: int
    """C; where there are fewer columns, the first is the scaled mean over outputs (see `compact`)."""

    rounding: float
    """Share of the outputs' mean square below which a direction of them is rounding."""

    noise: float = 0.0
    """Share of the outputs' largest variance below which a direction of them is noise of the products."""

    square_error: float = 0.0
    """Standard error of `square` where it was estimated by probes."""


class Numbers(NamedTuple):
    """The alignment of a kernel with a projector, in three numbers and a dimension."""

    inside: float
    """tr(P K)/n: variance of the features inside the span."""

    trace: float
    """tr S."""

    square: float
    """||S||_F^2."""

    rank: float
    """||H P H||_F^2, the dimension of the centred span; whole except where the constant is partly inside."""

    @property
    def distance(self) -> float:
        """1 - CKA."""
        return 1 - self.inside / (self.rank * self.square) ** 0.5


def statistics_of(
    joint: Moments, columns: int, count: int, *, rounding: float, noise: float = 0.0, kish: float | None = 1.0
) -> Statistics:
    """From moments of `[features, outputs]`.

    Args:
        joint: Without a group axis.
        columns: How many of the last columns are outputs.
        count: How many outputs they stand for.
        rounding: As in `Statistics`.
        noise: As in `Statistics`.
        kish: Effective rows over rows, None if unknown.
    """
    p = len(joint.mean) - columns
    covariance = joint.covariance
    inner = covariance[:p, :p]
    return Statistics(
        rows=int(joint.rows),
        effective=None if kish is None else kish * int(joint.rows),
        trace=float(inner.diagonal().sum()),
        square=float(torch.linalg.vector_norm(inner)) ** 2,
        size=float(joint.mean[:p].square().sum()),
        cross=covariance[:p, p:],
        outputs=covariance[p:, p:],
        mean=joint.mean[p:],
        num_outputs=count,
        rounding=rounding,
        noise=noise,
    )


def gram_statistics(
    features: Tensor, outputs: Tensor, count: int, weights: Tensor | None, *, rounding: float, kish: float
) -> Statistics:
    """From fewer rows than features: S and the n x n products of rows have the same norm."""
    of_outputs = Moments.of(outputs, weights, precision="float64")
    total = float(of_outputs.count)
    share = torch.full_like(features[:, 0], 1 / total, dtype=torch.float64) if weights is None else weights / total
    mean = share @ features.double()
    centred = (features.double() - mean) * share.sqrt()[:, None]
    cross = cross_scatter(features, outputs, mean, of_outputs.mean, weights) / total
    return Statistics(
        rows=int(of_outputs.rows),
        effective=kish * int(of_outputs.rows),
        trace=float(centred.square().sum()),
        square=float(product(centred, centred.mT).square().sum()),
        size=float(mean.square().sum()),
        cross=cross,
        outputs=of_outputs.covariance,
        mean=of_outputs.mean,
        num_outputs=count,
        rounding=rounding,
    )


def rounding_of(outputs: Tensor) -> float:
    """Share of the mean square of `outputs` that their type cannot resolve."""
    return (8 * torch.finfo(outputs.dtype).eps) ** 2 if outputs.is_floating_point() else 0.0


def reading(stats: Statistics, reference: str) -> Float64[Tensor, "k r"]:
    """Coefficients that turn outputs into orthonormal functions spanning them.

    Args:
        stats: Moments of the sample.
        reference: "raw" spans the outputs as they are, "centered" the outputs minus their means, and "softmax" these
            minus their mean over outputs, which softmax cannot see; a single output stands for the logits [0, f].
    """
    outputs, mean = stats.outputs, stats.mean
    unseen = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    if reference == "softmax" and stats.num_outputs > 1:
        if len(mean) == stats.num_outputs:
            unseen = unseen - 1 / len(mean)
        else:
            unseen[0, 0] = 0
        outputs = unseen @ outputs @ unseen
    about_zero = outputs + mean[:, None] * mean if reference == "raw" else outputs
    values, vectors = torch.linalg.eigh(about_zero)
    largest = float(values[-1])
    cut = max(
        10 * max(stats.rows, len(mean)) * EPS * largest,
        stats.rounding * float(stats.outputs.diagonal().sum() + mean.square().sum()),
        stats.noise * float(stats.outputs.diagonal().max()),
        0.0 if reference == "raw" else SMALLEST_OUTPUT * largest,
    )
    kept = values > cut
    return unseen @ (vectors[:, kept] / values[kept].sqrt())


def overlap(stats: Statistics, reference: str) -> tuple[Numbers, float]:
    """Of the features' variance with the centred span of the outputs; and tr(H P H)."""
    functions = reading(stats, reference)
    rank = caught = float(functions.shape[1])
    if reference == "raw":
        inner = functions.mT @ stats.outputs @ functions
        rank, caught = float(inner.square().sum()), float(inner.diagonal().sum())
    inside = float((stats.cross @ functions).square().sum())
    return Numbers(inside, stats.trace, stats.square, rank), caught


def debiased(found: Numbers, stats: Statistics, caught: float) -> Numbers | None:
    """Without the bias of a finite sample, exactly for Gaussian features; None if there are too few rows for that.

    A sample covariance spreads its variance over chance directions, which makes its square too large by about
    (tr S)^2 / n, and a span of r functions catches r / n of any variance by chance.

    Args:
        found: As computed, moments divided by n.
        stats: Where it came from.
        caught: tr(H P H), how many directions the span has.
    """
    if stats.effective is None:
        return None
    free = stats.effective - 1
    if free <= caught + 1 or free <= 1:
        return None
    scale = stats.effective / free
    trace, inside = found.trace * scale, found.inside * scale
    square = free**2 / ((free - 1) * (free + 2)) * (found.square * scale**2 - trace**2 / free)
    inside -= (trace - inside) * caught / (free - caught)
    return Numbers(inside, trace, square, found.rank) if square > 0 else None


def unbiased(features: Float64[Tensor, "n p"], functions: Float64[Tensor, "n r"]) -> Numbers | None:
    """All four as U-statistics, unbiased whatever the distribution; None if there are too few rows for that.

    Source:
        Song, Smola, Gretton, Bedo and Borgwardt (2012), Feature selection via dependence maximization, JMLR 13.
    """
    n = len(features)
    if n < 4:
        return None
    x, q = features - features.mean(dim=0), functions - functions.mean(dim=0)
    square, rank = _off_diagonal(x, x), _off_diagonal(q, q)
    if square <= 0 or rank <= 0:
        return None
    return Numbers(_off_diagonal(x, q), float(x.square().sum()) / (n - 1), square, rank)


def _off_diagonal(x: Tensor, q: Tensor) -> float:
    """Unbiased <K, L> of the linear kernels of centred rows, without any n x n matrix."""
    n, own_x, own_q = len(x), x.square().sum(dim=1), q.square().sum(dim=1)
    # rows are centred, so the sum of row i of K without its diagonal is -own_x[i]
    both = float((x.mT @ q).square().sum() - own_x @ own_q)
    alone = float(own_x.sum() * own_q.sum()) / ((n - 1) * (n - 2))
    return (both + alone - 2 / (n - 2) * float(own_x @ own_q)) / (n * (n - 3))
