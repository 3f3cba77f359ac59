"""Edit the rows of a data set by gradient descent until all classes share one mean and covariance.

Unlike the closed forms this can respect a box, so that images stay images. It looks at labels, and like any such edit
it may write them into the rows; the report says what a strong probe reads before and after.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import encode_labels, require_classes, require_rows
from firstcue._progress import Progress, silent, within
from firstcue.bures import barycenter
from firstcue.erasure._apply import like, result_type, working_type
from firstcue.erasure._checkpoint import Store
from firstcue.erasure._points import Adam, Box, Lbfgs, covariance_of, flat_rows, moved
from firstcue.moments import Moments
from firstcue.shrinkage import random_matrix_shrinkage

Target = str | Moments
Walls = Sequence[float | int]


@dataclass(frozen=True)
class Recipe:
    """How rows are moved: weights of the three terms of the objective, the optimiser, and the box.

    The objective of one class of rows X is
    `mean * |mean(Y) - m| + covariance * |Cov(Y) - S|_F + movement * mean((Y - X)^2)`, in units of the box. A norm has a tip
    at zero, where a search with curvature stalls as soon as one of the two vanishes; `tip` > 0 rounds it off.
    """

    mean: float
    covariance: float
    movement: float
    optimise: Callable[..., Tensor]
    box: Walls | None = None

    tip: float = 0.0
    """|v| becomes sqrt(|v|^2 + (tip * u)^2), u the target's standard deviation or the norm of its covariance."""


PRESETS: Mapping[str, Recipe] = {
    "cifar10": Recipe(mean=0.01, covariance=0.01, movement=1.0, optimise=Lbfgs(100), box=(0.0, 1.0)),
    "cifarnet": Recipe(mean=1.0, covariance=0.5, movement=1e-9, optimise=Adam(100, 1e-2)),
    "close": Recipe(mean=1.0, covariance=1.0, movement=1e-2, optimise=Lbfgs(200), tip=1e-2),
}
"""The two published recipes (pixels kept in [0, 1] and near the original; free), and one that erases most and moves least."""


def gradient_erasure(
    x: Any,
    z: Any,
    preset: str | Recipe = "cifar10",
    *,
    target: Target = "barycenter",
    box: Walls | None = None,
    shrinkage: Callable[[Moments], Tensor] | None = random_matrix_shrinkage,
    return_report: bool = False,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> Any:
    """A copy of the data set in which all classes have nearly the same mean and covariance.

    Args:
        x: `(n, d)` rows or `(n, c, h, w)` images, tensor or array.
        z: `(n,)` the concept's labels, of any kind; at least two rows of each.
        preset: "cifar10" (L-BFGS inside [0, 1], rows stay near), "cifarnet" (Adam, no box, hardly bound to the original),
            "close" (L-BFGS, no box, gaps near zero), or a `Recipe`. All expect features of about unit size.
        target: Where to take every class: "barycenter", the mean of all rows and the covariance nearest to those of the
            classes; "global", mean and covariance of all rows, as published, which counts the spread between classes as
            spread within; or `Moments` of other rows, to edit a test split towards the target of the training split.
        box: (low, high) of every feature; None takes the preset's, (-inf, inf) lifts it.
        shrinkage: Covariance estimator of the target, the same for all classes; None takes covariances as they are.
        return_report: Return `(edited, report)`.
        checkpoint: Folder that receives each finished class; the same call after an interruption goes on from there.
        progress: Called with a stage and the fraction done.

    Returns:
        The edited rows in the shape, type and library of `x` (integers become float32). With `return_report` also a dict:
        the keys of `firstcue.erasure.report.edit_report`; `target_mean_gap` and `target_covariance_gap`, how far the
        worst class stays from the target, in the same units; `by_class`, objective before and after; and `injection`.

    Raises:
        ValueError: If rows lie outside the box, a class has one row, the preset or target is unknown, the search
            diverges, or the checkpoint belongs to other data or settings.

    Source:
        Quirke and Belrose (2025), https://arxiv.org/abs/2502.02820; the barycentre as target is ours.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> z = torch.arange(80) % 2
        >>> x = torch.randn(80, 3, generator=g) * (1 + z[:, None])
        >>> edited, report = gradient_erasure(x, z, "close", return_report=True)
        >>> report["covariance_gap_after"] < 0.02 * report["covariance_gap_before"]
        True
    """
    rows, recipe = flat_rows(x), _recipe(preset)
    require_rows(rows, z, y_name="z")
    ids, names = encode_labels(z, "z")
    ids = ids.to(rows.device)
    counts = torch.bincount(ids, minlength=len(names))
    require_classes(counts, names, "z")
    _require_two_rows(counts, names)
    walls = Box.of(recipe.box if box is None else box)
    if walls is not None:
        walls.require(rows)
    kind = working_type(rows)
    work = rows.to(kind) if walls is None else walls.unit(rows.to(kind))
    goal = _goal(target, work, ids, names, walls, shrinkage)
    store = None if checkpoint is None else Store(Path(checkpoint), repr((recipe, walls)), goal)
    edited, notes = _edit_classes(work, ids, names, goal, recipe, walls is not None, store, progress)
    out = (edited if walls is None else walls.back(edited)).to(result_type(rows))
    shaped = like(out, x)
    return (shaped, _report(rows, out, z, target, goal, edited, ids, notes)) if return_report else shaped


def _recipe(preset: str | Recipe) -> Recipe:
    if isinstance(preset, Recipe):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; known: {', '.join(PRESETS)}, or a `Recipe` of your own.")
    return PRESETS[preset]


def _require_two_rows(counts: Tensor, names: tuple[str, ...]) -> None:
    single = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 1]
    if single:
        raise ValueError(
            f"class {single[0]!r} has one row and so no covariance; drop it or join it with another class."
        )


def _goal(
    target: Target,
    work: Tensor,
    ids: Tensor,
    names: tuple[str, ...],
    walls: Box | None,
    shrinkage: Callable[[Moments], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance that every class is to have, float64, in the units of `work`."""
    estimate = shrinkage or (lambda m: m.covariance)
    if isinstance(target, Moments):
        return _given(target, work, walls, estimate)
    by_class = Moments.of_groups(work, ids, len(names))
    whole = by_class.pool()
    if target == "global":
        return whole.mean, estimate(whole)
    if target != "barycenter":
        raise ValueError(f"no target {target!r}; known: 'barycenter', 'global', or Moments of the rows to resemble.")
    covariances = torch.stack([estimate(by_class.group(c)) for c in range(len(names))])
    common = barycenter(covariances, by_class.count)
    if not common.converged:
        warnings.warn(
            f"the barycentre of the class covariances stopped at residual {common.residual:.1e}; the target is the same for all "
            f"classes, but rows move further than they must. Take a `shrinkage` estimator, which makes covariances regular.",
            stacklevel=3,
        )
    return whole.mean, common.matrix


def _given(
    target: Moments, work: Tensor, walls: Box | None, estimate: Callable[[Moments], Tensor]
) -> tuple[Tensor, Tensor]:
    whole = target if target.count.ndim == 0 else target.pool()
    if whole.mean.shape[-1] != work.shape[1] or float(whole.count) == 0:
        raise ValueError(
            f"the moments given as `target` are of {whole.mean.shape[-1]} features and {float(whole.count):g} rows; they "
            f"have to describe the {work.shape[1]} features of `x` (images flattened: x.flatten(1))."
        )
    mean, covariance = whole.mean.to(work.device), estimate(whole).to(work.device)
    return (mean, covariance) if walls is None else (walls.unit(mean), covariance / (walls.high - walls.low) ** 2)


def _edit_classes(
    work: Tensor,
    ids: Tensor,
    names: tuple[str, ...],
    goal: tuple[Tensor, Tensor],
    recipe: Recipe,
    bounded: bool,
    store: Store | None,
    progress: Progress,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Each class on its own: what is finished is never done again."""
    edited, notes = work.clone(), []
    for c, name in enumerate(names):
        mine = (ids == c).nonzero()[:, 0]
        rows, loss = work[mine], objective(work[mine], goal, recipe)
        here = within(progress, c / len(names), (c + 1) / len(names))
        found = None if store is None else store.read(c, name, rows)
        if found is None:
            found = moved(rows, loss, recipe.optimise, bounded=bounded, progress=here)
            if store is not None:
                store.write(c, name, rows, found)
        edited[mine] = found.to(edited)
        with torch.no_grad():
            before, after = float(loss(rows)), float(loss(edited[mine]))
        notes.append({"class": name, "n": len(mine), "objective_before": before, "objective_after": after})
        progress(f"class {name}", (c + 1) / len(names))
    return edited, notes


def objective(rows: Tensor, goal: tuple[Tensor, Tensor], recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """What is minimised over the rows of one class."""
    mean, covariance = (t.to(rows) for t in goal)
    units = float(goal[1].trace() / len(mean)) ** 0.5, float(goal[1].norm())

    def loss(points: Tensor) -> Tensor:
        centre, spread = covariance_of(points)
        return (
            recipe.mean * _length(centre - mean, recipe.tip * units[0])
            + recipe.covariance * _length(spread - covariance, recipe.tip * units[1])
            + recipe.movement * (points - rows).square().mean()
        )

    return loss


def _length(difference: Tensor, rounding: float) -> Tensor:
    norm = difference.norm()
    return torch.hypot(norm, norm.new_tensor(rounding)) if rounding > 0 else norm


def _report(
    before: Tensor,
    after: Tensor,
    z: Any,
    target: Target,
    goal: tuple[Tensor, Tensor],
    edited: Tensor,
    ids: Tensor,
    notes: list[dict[str, Any]],
) -> dict[str, Any]:
    from firstcue.erasure.injection import injection
    from firstcue.erasure.report import edit_report

    found = Moments.of_groups(edited, ids)
    unit = (goal[1].trace() / len(goal[0])).sqrt()
    size = goal[1].norm()
    return {
        **edit_report(before, after, z, rank=before.shape[1], optimum=lambda _: None),
        "target": target if isinstance(target, str) else "given",
        "target_mean_gap": float((found.mean - goal[0]).norm(dim=1).max() / unit),
        "target_covariance_gap": float((found.covariance - goal[1]).norm(dim=(1, 2)).max() / size),
        "by_class": notes,
        "injection": injection(before, after, z),
    }
