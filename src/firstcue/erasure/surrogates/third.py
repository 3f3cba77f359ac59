"""Surrogates with the first three moments of every class, and the distance between third moments without a d^3 tensor."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from firstcue._progress import Progress, silent, within
from firstcue.batch import Batch
from firstcue.erasure._points import Box, Lbfgs, covariance_of, moved
from firstcue.erasure.surrogates._classes import generator, made, rows_by_class
from firstcue.erasure.surrogates.normal import TIP
from firstcue.linalg import sqrt_psd
from firstcue.moments import Moments

BLOCK = 1024
"""Rows whose products are cubed at once."""


def third_order(
    batch: Batch,
    *,
    seed: int = 0,
    box: Sequence[float | int] | None = None,
    per_class: int | None = 1000,
    steps: int = 200,
    progress: Progress = silent,
) -> Batch:
    """Rows with the mean, the covariance and the third central moments of their class, found by moving normal draws.

    The distance of all third moments at once, the norm of a d x d x d tensor, follows from inner products of rows:
    |T - T'|^2 is the mean of (a . b)^3 within each set less that between them.

    Args:
        batch: Real rows, vectors or images; at least two of each class present.
        seed: Of the draw the search starts from.
        box: Least and greatest value of every feature; None for no walls.
        per_class: Rows to make of each class; None for as many as there are, with the same labels in the same order.
        steps: Iterations of L-BFGS.
        progress: Called with a stage and the fraction done.

    Raises:
        ValueError: If a class has one row, or rows lie outside the box.

    Source:
        Belrose et al. (2024), https://arxiv.org/abs/2402.04362, which matches slices of the tensor.

    Example:
        >>> real = Batch.of(torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) ** 3, torch.zeros(200))
        >>> made = third_order(real, per_class=100)
        >>> skewness = lambda x: ((x - x.mean(dim=0)) ** 3).mean(dim=0)
        >>> bool((skewness(made.x) - skewness(real.x)).abs().max() < 1e-3)
        True
    """
    rows, source = rows_by_class(batch, at_least=2), generator(seed)
    walls = None if box is None else Box.of(box)
    if walls is not None:
        walls.require(batch.x)
    places = {c: i for i, c in enumerate(rows)}

    def make(c: int, n: int) -> Tensor:
        real = rows[c] if walls is None else walls.unit(rows[c])
        unit = float(real.var(dim=0, correction=0).mean().sqrt()) or 1.0
        if walls is None:
            real = real / unit
        moments = Moments.of(real)
        noise = torch.randn(n, real.shape[1], dtype=torch.float64, generator=source).to(real.device)
        start = (moments.mean + noise @ sqrt_psd(moments.covariance)).float()
        here = within(progress, places[c] / len(rows), (places[c] + 1) / len(rows))
        loss = _three_moments(real, moments)
        found = moved(start, loss, Lbfgs(steps), bounded=walls is not None, progress=here)
        return found.double() * unit if walls is None else walls.back(found)

    return made(batch, per_class, make)


def third_moment_gap(one: Tensor, two: Tensor) -> tuple[float, float]:
    """Frobenius distance of the third central moments of two sets of rows, `(n, d)` and `(m, d)`, and norm of the first's.

    Example:
        >>> third_moment_gap(torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([[-1.0], [1.0]]))
        (2.0, 2.0)
    """
    a, b = (rows.double() - rows.double().mean(dim=0) for rows in (one, two))
    within_one, within_two, between = (_cubes(p, q) for p, q in ((a, a), (b, b), (a, b)))
    return max(0.0, within_one + within_two - 2 * between) ** 0.5, max(0.0, within_one) ** 0.5


def _cubes(a: Tensor, b: Tensor) -> float:
    """Mean of (a_i . b_j)^3."""
    return sum(float((part @ b.mT).pow(3).sum()) for part in a.split(BLOCK)) / (len(a) * len(b))


def _three_moments(real: Tensor, moments: Moments) -> Callable[[Tensor], Tensor]:
    mean, covariance = moments.mean.float(), moments.covariance.float()
    centred = (real - moments.mean).float()
    size = _cubes(centred.double(), centred.double())
    tips = (
        TIP * float(moments.covariance.trace() / len(mean)) ** 0.5,
        TIP * float(moments.covariance.norm()),
        TIP * max(size, 1e-12) ** 0.5,
    )

    def loss(points: Tensor) -> Tensor:
        centre, spread = covariance_of(points)
        own = points - centre
        cubes = (own @ own.mT).pow(3).mean() - 2 * (own @ centred.mT).pow(3).mean() + size
        first = torch.hypot((centre - mean).norm(), centre.new_tensor(tips[0]))
        second = torch.hypot((spread - covariance).norm(), centre.new_tensor(tips[1]))
        return first + second + (cubes.clamp(min=0) + tips[2] ** 2).sqrt()

    return loss
