"""Surrogates with the mean and covariance of every class, free or inside a box."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from firstcue._progress import Progress, silent, within
from firstcue.batch import Batch
from firstcue.erasure._points import Box, Lbfgs, covariance_of, moved
from firstcue.erasure.surrogates._classes import generator, made, rows_by_class
from firstcue.linalg import sqrt_psd
from firstcue.moments import Moments

TIP = 1e-2
"""How far a norm's tip is rounded off, relative to the target: with the tip a search stalls where one term vanishes."""


def gaussian(
    batch: Batch,
    *,
    seed: int = 0,
    shrinkage: Callable[[Moments], Tensor] | None = None,
    per_class: int | None = None,
) -> Batch:
    """Rows drawn from a normal distribution with the mean and covariance of their class: nothing of higher order is left.

    Args:
        batch: Real rows, vectors or images; at least two of each class present.
        seed: Of the draw.
        shrinkage: Covariance estimator, such as `random_matrix_shrinkage`; None takes the covariance of the rows.
        per_class: Rows to make of each class; None for as many as there are, with the same labels in the same order.

    Returns:
        A batch with `x` in the shape of the real one; values may leave the range of images.

    Raises:
        ValueError: If a class has one row.

    Source:
        Belrose et al. (2024), Neural networks learn statistics of increasing complexity, https://arxiv.org/abs/2402.04362.

    Example:
        >>> real = Batch.of(torch.tensor([[0.0], [2.0], [8.0], [12.0]]), ["a", "a", "b", "b"])
        >>> made = gaussian(real, per_class=1000)
        >>> round(float(made.x[made.y == 1].mean())), round(float(made.x[made.y == 1].std()))
        (10, 2)
    """
    rows, source = rows_by_class(batch, at_least=2), generator(seed)

    def make(c: int, n: int) -> Tensor:
        mean, covariance = _moments(rows[c], shrinkage)
        noise = torch.randn(n, len(mean), dtype=torch.float64, generator=source).to(mean.device)
        return mean + noise @ sqrt_psd(covariance)

    return made(batch, per_class, make)


def truncated_normal(
    batch: Batch,
    *,
    seed: int = 0,
    box: Sequence[float | int] = (0.0, 1.0),
    shrinkage: Callable[[Moments], Tensor] | None = None,
    per_class: int | None = None,
    steps: int = 100,
    entropy: float = 1e-3,
    progress: Progress = silent,
) -> Batch:
    """Rows inside a box with the mean and covariance of their class, and otherwise as spread out as a search makes them.

    Normal draws are clipped into the box and moved by L-BFGS until mean and covariance fit, with a reward for the mean log
    distance to the nearest neighbour, an estimate of entropy.

    Args:
        batch: Real rows inside the box; at least two of each class present.
        seed: Of the draw the search starts from.
        box: Least and greatest value of every feature.
        shrinkage: As for `gaussian`.
        per_class: As for `gaussian`; cost grows with its square.
        steps: Iterations of the search.
        entropy: Weight of the reward.
        progress: Called with a stage and the fraction done.

    Raises:
        ValueError: If rows lie outside the box, or a class has one row.

    Source:
        Belrose et al. (2024), https://arxiv.org/abs/2402.04362; the reward from Sablayrolles et al. (2019),
        https://arxiv.org/abs/1806.03198.

    Example:
        >>> real = Batch.of(torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) ** 2, torch.arange(60) % 2)
        >>> made = truncated_normal(real)
        >>> bool(made.x.min() >= 0), bool((made.x.mean(dim=0) - real.x.mean(dim=0)).abs().max() < 0.01)
        (True, True)
    """
    rows, source, walls = rows_by_class(batch, at_least=2), generator(seed), Box.of(box)
    if walls is None:
        raise ValueError("`box` needs two finite walls; without them the answer is `gaussian`.")
    walls.require(batch.x)
    places = {c: i for i, c in enumerate(rows)}

    def make(c: int, n: int) -> Tensor:
        mean, covariance = _moments(walls.unit(rows[c]), shrinkage)
        noise = torch.randn(n, len(mean), dtype=torch.float64, generator=source).to(mean.device)
        start = (mean + noise @ sqrt_psd(covariance)).clamp(0, 1).float()
        here = within(progress, places[c] / len(rows), (places[c] + 1) / len(rows))
        loss = _moment_loss(mean, covariance, entropy)
        return walls.back(moved(start, loss, Lbfgs(steps), bounded=True, progress=here))

    return made(batch, per_class, make)


def log_nearest_distance(points: Tensor) -> Tensor:
    """Mean log distance to the nearest other point, through which gradients pass; n^2 d work, some rows at a time."""
    nearest = []
    with torch.no_grad():
        for start in range(0, len(points), 1024):
            distance = torch.cdist(points[start : start + 1024], points)
            some = torch.arange(len(distance), device=points.device)
            distance[some, start + some] = torch.inf
            nearest.append(distance.argmin(dim=1))
    squared = (points - points[torch.cat(nearest)]).square().sum(dim=1)
    return (squared + torch.finfo(points.dtype).eps).log().mean() / 2


def _moment_loss(mean: Tensor, covariance: Tensor, entropy: float) -> Callable[[Tensor], Tensor]:
    goal, spread = mean.float(), covariance.float()
    units = TIP * float(covariance.trace() / len(mean)) ** 0.5, TIP * float(covariance.norm())

    def loss(points: Tensor) -> Tensor:
        centre, found = covariance_of(points)
        off = torch.hypot((centre - goal).norm(), centre.new_tensor(units[0]))
        off = off + torch.hypot((found - spread).norm(), centre.new_tensor(units[1]))
        return off - entropy * log_nearest_distance(points) if entropy > 0 and len(points) > 1 else off

    return loss


def _moments(rows: Tensor, shrinkage: Callable[[Moments], Tensor] | None) -> tuple[Tensor, Tensor]:
    moments = Moments.of(rows)
    return moments.mean, moments.covariance if shrinkage is None else shrinkage(moments)
