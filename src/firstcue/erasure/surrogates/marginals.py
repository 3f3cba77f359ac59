"""Surrogates whose features are independent within a class: with its means only, or with all of its marginals."""

from collections.abc import Sequence

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.erasure._points import Box
from firstcue.erasure.marginal import quantile_tables, quantiles_at
from firstcue.erasure.surrogates._classes import generator, made, rows_by_class

NEWTON_STEPS = 60
"""Never reached: from its start the iteration needs fewer than ten."""


def maxent(
    batch: Batch, *, seed: int = 0, box: Sequence[float | int] = (0.0, 1.0), per_class: int | None = None
) -> Batch:
    """Rows of largest entropy inside a box with the class means as they are: only the means of the classes differ.

    Features are independent, each with density exp(-b x) up to a constant, b fitted to its mean.

    Args:
        batch: Real rows inside the box, vectors or images.
        seed: Of the draw.
        box: Least and greatest value of every feature.
        per_class: Rows to make of each class; None for as many as there are, with the same labels in the same order.

    Raises:
        ValueError: If rows lie outside the box.

    Source:
        Conrad, Probability distributions and maximum entropy; as a probe Belrose et al. (2024),
        https://arxiv.org/abs/2402.04362.

    Example:
        >>> made = maxent(Batch.of(torch.tensor([[0.0], [0.2]]), ["a", "a"]), per_class=10_000)
        >>> round(float(made.x.mean()), 2), float(made.x.max()) > 0.9
        (0.1, False)
    """
    rows, source, walls = rows_by_class(batch), generator(seed), Box.of(box)
    if walls is None:
        raise ValueError("`box` needs two finite walls; without them no distribution of largest entropy exists.")
    walls.require(batch.x)

    def make(c: int, n: int) -> Tensor:
        mean = walls.unit(rows[c].mean(dim=0)).clamp(0, 1)
        u = torch.rand(n, len(mean), dtype=torch.float64, generator=source).to(mean.device)
        return walls.back(truncated_exponential(u, mean))

    return made(batch, per_class, make)


def independent(batch: Batch, *, seed: int = 0, bins: int = 256, per_class: int | None = None) -> Batch:
    """Rows whose features have the distribution they have in the class, each drawn on its own: marginals without correlations.

    Args:
        batch: Real rows, vectors or images.
        seed: Of the draw.
        bins: Quantiles kept of every feature.
        per_class: Rows to make of each class; None for as many as there are, with the same labels in the same order.

    Source:
        Belrose et al. (2024), https://arxiv.org/abs/2402.04362.

    Example:
        >>> real = Batch.of(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), ["a", "a"])
        >>> independent(real, per_class=1000).x.mT.corrcoef()[0, 1].abs() < 0.1
        tensor(True)
    """
    source, tables = generator(seed), quantile_tables(batch.x, batch.y, bins=bins)
    place = {c: i for i, c in enumerate(batch.y.unique().tolist())}

    def make(c: int, n: int) -> Tensor:
        table = tables.tables[place[c]]
        u = torch.rand(n, len(table), dtype=torch.float64, generator=source).to(table.device)
        return quantiles_at(table, u)

    return made(batch, per_class, make)


def truncated_exponential(u: Tensor, mean: Tensor) -> Tensor:
    """Uniform numbers `(n, d)` as draws from the density exp(-b x) on [0, 1] with these means `(d,)`, in [0, 1].

    A mean of 0 or 1 gives that constant.

    Example:
        >>> truncated_exponential(torch.tensor([[0.0], [0.5], [1.0]]).double(), torch.tensor([0.5]).double())[:, 0]
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    mirrored = mean > 0.5
    b = decay_of_mean(torch.where(mirrored, 1 - mean, mean))
    flat, constant = b < 1e-12, torch.isinf(b)
    safe = torch.where(flat | constant, 1.0, b)
    # log1p and expm1 keep the digits that 1 - u (1 - e^-b) loses at both ends
    drawn = torch.where(flat, u, -torch.log1p(u * torch.expm1(-safe)) / safe).clamp(0, 1)
    drawn = torch.where(constant, 0.0, drawn)
    return torch.where(mirrored, 1 - drawn, drawn)


def decay_of_mean(mean: Tensor) -> Tensor:
    """The b >= 0 for which the density exp(-b x) on [0, 1] has this mean, in [0, 1/2]; infinite for 0.

    The mean 1/b - 1/(e^b - 1) is convex and falling in b, so Newton's method climbs to b from any start below it; two
    bounds on the mean give such a start within a factor of two.

    Example:
        >>> decay_of_mean(torch.tensor([0.5, 0.1, 1e-9, 0.0], dtype=torch.float64))
        tensor([0.0000e+00, 9.9954e+00, 1.0000e+09, inf], dtype=torch.float64)
    """
    b = torch.maximum(6 * (1 - 2 * mean), 1 / mean - 2).clamp(min=0)
    for _ in range(NEWTON_STEPS):
        value, slope = _mean_and_slope(b)
        step = torch.where(torch.isfinite(b), (mean - value) / slope, 0.0).clamp(min=0)
        b = b + step
        if bool((step <= 4e-16 * b).all()):
            break
    return b


def _mean_and_slope(b: Tensor) -> tuple[Tensor, Tensor]:
    """1/b - 1/(e^b - 1) and its derivative, by their series where the difference would cancel."""
    small = b < 0.3
    safe = torch.where(small | ~torch.isfinite(b), 1.0, b)
    even = torch.where(small, b, 0.0).square()
    series = 0.5 - torch.where(small, b, 0.0) * (
        1 / 12 - even * (1 / 720 - even * (1 / 30240 - even * (1 / 1209600 - even / 47900160)))
    )
    slope = -(1 / 12 - even * (3 / 720 - even * (5 / 30240 - even * (7 / 1209600 - even * 9 / 47900160))))
    value = 1 / safe - 1 / torch.expm1(safe)
    steep = 1 / (4 * torch.sinh(safe.clamp(max=700) / 2).square()) - safe.reciprocal().square()
    return torch.where(small, series, value), torch.where(small, slope, steep)
