"""Is a minimum the same explanation for all environments: how far can one's loss move while another's stays within eps?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, encode_labels, require_rows
from firstcue._progress import Progress, silent, within
from firstcue.agreement._landscape import EnvironmentLoss, Landscape, landscape
from firstcue.agreement._paths import climb, nearby
from firstcue.agreement._rays import Reach, probe
from firstcue.agreement._subspace import Bowl, bowl, reach, steepest_ratios

Level = float | np.ndarray
"""A number for one eps; `(k,)` for k of them."""

MEANING = {
    "path": "lower bound: reached on a path inside the band",
    "ray": "lower bound: reached on a straight line inside the band",
    "quadratic": "approximation, neither bound: quadratic model in a subspace, damped",
}
"""What each estimate may be taken for."""


@dataclass(frozen=True)
class Consistency:
    """The inconsistency of a model's parameters between environments, estimated in three ways, and its parts.

    Every estimate has the shape of `eps`. The score of the paper is the largest `|L_e'(theta) - L_e(minimum)|` over the
    region around the minimum in which `|L_e(theta) - L_e(minimum)| <= eps`, and over pairs of environments; `..._centred`
    subtracts `L_e'(minimum)` instead, so that a difference that is there already does not count. `MEANING` says which
    estimate is a bound.
    """

    eps: Level
    """How far the loss of an environment may move, in its own unit."""

    path: Level
    """Lower bound: the farthest that a path inside the band came."""

    path_centred: Level

    ray: Level
    """Lower bound: the farthest that a straight line inside the band came."""

    ray_centred: Level

    quadratic: Level
    """Approximation, neither bound: of the quadratic model in a subspace; NaN without second derivatives."""

    quadratic_centred: Level

    gap: float
    """Largest difference between the losses of two environments at the point itself."""

    losses: dict[str, float]
    """Loss of each environment at the point."""

    gradient_norms: dict[str, float]
    """Length of each environment's gradient at the point."""

    gradient_norm: float
    """Length of the gradient of their mean: large if the point is no minimum."""

    damping: float
    """Added to every curvature of the quadratic model, absolute; without it flat directions would make it infinite."""

    pair: tuple[str, str]
    """At the largest eps: stays in the band of the first, while the loss of the second moves most."""

    growing: bool
    """At the largest eps the path search was still gaining when its steps ran out: the true score is larger."""

    warnings: tuple[str, ...]

    @property
    def normalised(self) -> Level:
        """`path_centred / eps`: 1 where environments have the same loss surface, infinite at worst."""
        return self.path_centred / self.eps

    @property
    def relative_eps(self) -> Level:
        """`eps` as a share of the mean loss at the point."""
        mean = float(np.mean(list(self.losses.values())))
        return self.eps / mean if mean else self.eps * np.inf


def inconsistency(
    model: nn.Module,
    environment_losses: Sequence[EnvironmentLoss] | Mapping[Any, EnvironmentLoss],
    eps: float | int | Sequence[float | int] | np.ndarray,
    *,
    steps: int = 60,
    restarts: int = 1,
    pairs: int = 12,
    rays: int = 4,
    rank: int = 4,
    damping: float | int = 1e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> Consistency:
    """How inconsistent environments are around the model's parameters: three estimates, and the parts they are made of.

    One level of `eps` is arbitrary: give several. The model is in evaluation mode meanwhile and left as found. Rescaling a
    layer against the next does not change the score itself, but it changes rays and the damped quadratic model.

    Args:
        model: At the point to be judged, best a minimum of the mean loss; parameters that require a gradient are varied.
        environment_losses: For each environment a function from the model to its loss, always on the same rows (as made
            by `losses_of`); or a mapping from names to such functions.
        eps: How far the loss of an environment may move, in its unit; a number or several.
        steps: Of each path. A step costs about five evaluations.
        restarts: Random starts of each pair's path, besides the best point of the rays.
        pairs: Ordered pairs whose paths are searched at most, those first which the rays found farthest apart.
        rays: Random directions, besides gradients, bent directions and steepest ratios of curvature.
        rank: Bent directions of each environment in the quadratic model.
        damping: Curvature added to the quadratic model, as a share of the largest.
        seed: Of random directions.
        progress: Told how far the work is.

    Returns:
        Estimates with the shape of `eps`.

    Raises:
        ValueError: If there are fewer than two environments, a loss is no finite number or changes from call to call, or
            `eps` is not positive.

    Source:
        The score: Parascandolo et al., Learning explanations that are hard to vary (2020),
        https://arxiv.org/abs/2009.00329, equation 1. The paper computes it for quadratics only; the estimators are ours.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.0)
        >>> found = inconsistency(model, [lambda m: (m.weight**2).sum() / 2, lambda m: 5 * (m.weight**2).sum()], 0.1)
        >>> round(found.quadratic, 2), 0.97 < found.path <= 1.0
        (1.0, True)
    """
    levels, order = _levels(eps)
    generator = torch.Generator().manual_seed(seed)
    with landscape(model, environment_losses) as land:
        slopes = torch.stack([land.slope(land.origin, e)[1] for e in range(len(land.base))])
        quadratic, problem = _quadratic(land, slopes, rank, damping, generator)
        directions = [*_random(land, rays, generator), *slopes, slopes.mean(dim=0)]
        if quadratic is not None:
            directions += [
                d.to(land.origin) for d in (*quadratic.basis.mT[: 4 * rank], *steepest_ratios(quadratic, pairs))
            ]
        progress("rays", 0.0)
        straight = probe(land, directions, levels)
        curved, growing = _search(land, straight, steps, restarts, pairs, generator, within(progress, 0.3, 1.0))
        modelled = [] if quadratic is None else reach(land, quadratic, levels)
        notes = _notes(land, slopes, levels, quadratic, problem, growing)
        return _result(
            land, order, levels, (curved, straight, modelled), slopes, quadratic, growing, notes, np.ndim(eps)
        )


class EnvironmentLosses(Mapping[str, EnvironmentLoss]):
    """The losses of environments by name, each a function of the model; and all of them from one call of it."""

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, ids: Tensor, names: Sequence[str]
    ):
        order = ids.argsort(stable=True)
        self._loss, self._x, self._y = loss, x[order], y[order]
        self._sizes = torch.bincount(ids, minlength=len(names)).tolist()
        self._names = tuple(names)

    def __getitem__(self, name: str) -> EnvironmentLoss:
        e = self._names.index(name) if name in self._names else None
        if e is None:
            raise KeyError(name)
        x, y = self._x.split(self._sizes)[e], self._y.split(self._sizes)[e]
        return lambda model: self._loss(model(x), y)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def together(self, model: nn.Module) -> Tensor:
        """`(e,)` all losses from one call of the model."""
        parts = zip(model(self._x).split(self._sizes), self._y.split(self._sizes), strict=True)
        return torch.stack([self._loss(outputs, y) for outputs, y in parts])


def losses_of(loss: Callable[[Tensor, Tensor], Tensor], batch: Any, environment: Any = None) -> EnvironmentLosses:
    """The loss of each environment as a function of the model: what `inconsistency` takes.

    Args:
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)`; all its rows are used in every evaluation, so some hundreds of each environment do.
        environment: `(n,)` labels, one per row; `batch.group` when None.

    Raises:
        ValueError: If there is no environment per row.

    Example:
        >>> x, y = torch.randn(4, 2), torch.randn(4, 1)
        >>> sorted(losses_of(torch.nn.functional.mse_loss, (x, y), ["sea", "land", "sea", "land"]))
        ['land', 'sea']
    """
    x, y = (batch.x, batch.y) if hasattr(batch, "x") else (as_tensor(batch[0]), as_tensor(batch[1], "y"))
    labels = getattr(batch, "group", None) if environment is None else environment
    if labels is None:
        raise ValueError("no environment: give one label per row, or a Batch with `group`.")
    require_rows(x, y)
    require_rows(x, labels, y_name="environment")
    return EnvironmentLosses(loss, x, y, *encode_labels(labels, "environment"))


def _levels(eps: Any) -> tuple[list[float], np.ndarray]:
    """Ascending levels, and where each asked for is among them."""
    array = np.asarray(eps, dtype=np.float64)
    if array.ndim > 1 or array.size == 0 or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"`eps` is a positive number, or several, in the unit of the loss; got {eps}.")
    levels, order = np.unique(array, return_inverse=True)
    return levels.tolist(), order.reshape(-1)


def _random(land: Landscape, count: int, generator: torch.Generator) -> list[Tensor]:
    drawn = torch.randn(count, land.origin.numel(), generator=generator, dtype=torch.float64).to(land.origin)
    return [land.normalised(d) for d in drawn]


def _quadratic(
    land: Landscape, slopes: Tensor, rank: int, damping: float, generator: torch.Generator
) -> tuple[Bowl | None, str]:
    try:
        return bowl(land, slopes, rank, damping, generator), ""
    except (RuntimeError, NotImplementedError) as error:  # a layer without second derivatives
        return None, f"no quadratic estimate: the loss cannot be differentiated twice ({str(error).splitlines()[0]})."


def _search(
    land: Landscape,
    straight: list[Reach],
    steps: int,
    restarts: int,
    pairs: int,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[list[Reach], bool]:
    """Paths of every chosen pair at every level; the end of a narrower band starts the search in the wider one."""
    found: list[Reach] = []
    growing: list[bool] = []
    ends: dict[tuple[int, int], Tensor] = {}
    for i, rays in enumerate(straight):
        best = Reach.at_origin(land, rays.eps)
        growing.append(False)
        chosen = _farthest(rays, pairs)
        for j, (e, other) in enumerate(chosen):
            progress("paths", (i + j / len(chosen)) / len(straight))
            starts = [nearby(land, e, rays.eps, generator) for _ in range(restarts)]
            starts += [table[e, other] for table in (rays.where, ends) if (e, other) in table]
            for sign, start in [*((1.0, s) for s in starts), (-1.0, starts[0] if starts else land.origin)]:
                end = climb(land, e, other, sign, rays.eps, start, steps)
                growing[-1] |= end.growing and sign > 0
                best.note(e, land.values(end.point), land.base, end.point)
        if found:
            np.maximum(best.raw, found[-1].raw, out=best.raw)
            np.maximum(best.centred, found[-1].centred, out=best.centred)
        ends = best.where
        found.append(best)
    return found, growing[-1]


def _farthest(rays: Reach, count: int) -> list[tuple[int, int]]:
    environments = len(rays.centred)
    pairs = [(e, other) for e in range(environments) for other in range(environments) if other != e]
    return sorted(pairs, key=lambda pair: -rays.centred[pair])[:count]


def _notes(
    land: Landscape, slopes: Tensor, levels: list[float], quadratic: Bowl | None, problem: str, growing: bool
) -> tuple[str, ...]:
    notes = [problem] if problem else []
    mean, largest = float(slopes.mean(dim=0).norm()), max(abs(v) for v in land.base)
    if mean * 1e-2 * land.scale > max(levels):
        notes.append(
            f"the point is no minimum: the mean loss has slope {mean:.3g}, which moves it by more than eps within a "
            f"hundredth of the parameters' length."
        )
    resolution = 32 * torch.finfo(land.origin.dtype).eps * largest
    if min(levels) < resolution:
        notes.append(f"eps below {resolution:.1g} is lost in the rounding of these losses; use a float64 model.")
    if quadratic is not None and quadratic.negative > 1e-2:
        notes.append(
            f"an environment bends downwards ({quadratic.negative:.0%} of the largest curvature); the quadratic estimate "
            f"leaves that out."
        )
    if quadratic is not None and not float(quadratic.damping) > 0:
        notes.append("no environment bends upwards anywhere: the quadratic estimate says nothing.")
    if growing:
        notes.append("the path search was still gaining at its last step: the score is larger, perhaps without bound.")
    return tuple(notes)


def _result(
    land: Landscape,
    order: np.ndarray,
    levels: list[float],
    estimates: tuple[list[Reach], list[Reach], list[Reach]],
    slopes: Tensor,
    quadratic: Bowl | None,
    growing: bool,
    notes: tuple[str, ...],
    ndim: int,
) -> Consistency:
    def shaped(values: Sequence[float]) -> Level:
        array = np.array(values, dtype=np.float64)[order]
        return array if ndim else float(array[0])

    def score(found: list[Reach], name: str) -> Level:
        return shaped([float(getattr(r, name).max()) for r in found] if found else [np.nan] * len(levels))

    curved, straight, modelled = estimates
    if quadratic is not None and not quadratic.damping > 0:
        modelled = []
    e, other = np.unravel_index(int(curved[-1].centred.argmax()), curved[-1].centred.shape)
    return Consistency(
        eps=shaped(levels),
        path=score(curved, "raw"),
        path_centred=score(curved, "centred"),
        ray=score(straight, "raw"),
        ray_centred=score(straight, "centred"),
        quadratic=score(modelled, "raw"),
        quadratic_centred=score(modelled, "centred"),
        gap=max(land.base) - min(land.base),
        losses=dict(zip(land.names, land.base, strict=True)),
        gradient_norms={name: float(s.norm()) for name, s in zip(land.names, slopes, strict=True)},
        gradient_norm=float(slopes.mean(dim=0).norm()),
        damping=0.0 if quadratic is None else quadratic.damping,
        pair=(land.names[int(e)], land.names[int(other)]),
        growing=growing,
        warnings=notes,
    )
