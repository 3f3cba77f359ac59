"""What can be read from a representation: the class, the cue, and when in training each became readable.

Decodable is not used. A network keeps features that its head ignores, so what stands here never says that a model
relies on a cue (see `firstcue.spurious.reliance`); it says what a new head could use.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import require_classes
from firstcue.batch import Batch
from firstcue.spurious.intervals import contrast_interval
from firstcue.spurious.permutation import permutation_p
from firstcue.spurious.readout import Fit, discriminant, logistic, scaling
from firstcue.spurious.representation import features_of


@dataclass(frozen=True)
class Decoded:
    """Held-out balanced accuracies of a simple read-out of class and cue, each with interval, baseline and p-value."""

    core: float
    """Of the class, averaged over the groups of each class: a fraction."""
    spurious: float | None
    """Of the attribute; None without one."""
    core_baseline: float
    """The same read-out where there is nothing to read, or of the baseline representation."""
    spurious_baseline: float | None
    core_ci: tuple[float, float]
    spurious_ci: tuple[float, float] | None
    core_p: float
    """Share of permutations of the class within attribute values that separate as well."""
    spurious_p: float | None
    """The same for the attribute within classes."""
    n: int
    """Rows, each predicted by a read-out that has not seen it."""
    folds: int
    baseline_kind: str
    """"shuffled labels" or "untrained network"."""
    num_classes: int
    num_values: int
    note: str = ""
    """What was done differently, if anything."""

    @property
    def core_correlation(self) -> float | None:
        """`2 accuracy - 1`, for two classes."""
        return 2 * self.core - 1 if self.num_classes == 2 else None

    @property
    def spurious_correlation(self) -> float | None:
        """`2 accuracy - 1`, for two values."""
        return 2 * self.spurious - 1 if self.spurious is not None and self.num_values == 2 else None


def decode(
    representation: Any,
    batch: Batch,
    *,
    baseline: Any = None,
    method: str = "ridge",
    ridge: float = 1e-2,
    folds: int = 5,
    seed: int = 0,
    permutations: int = 999,
) -> Decoded:
    """How well class and attribute can be read from a representation, on rows the read-out has not seen.

    Features are standardised; groups (class by attribute) weigh the same in fitting and in measuring, so that a cue
    which goes with the label cannot be read by way of the label. Every row is predicted once, by cross-fitting.

    Args:
        representation: `(n, d)` tensor or array, or a callable that makes one from `batch.x`.
        batch: Labels, and the attribute if there is one.
        baseline: The same for an untrained network; without it labels are shuffled within the other variable.
        method: "ridge" is least squares in its discriminant form, closed and fast; it gives the direction of regression
            to +-1 for two classes, and unlike regression to one-hot rows does not hide a class between two others.
            "logistic" is scikit-learn's logistic regression with its defaults.
        ridge: Added to the diagonal of the within-class correlation matrix; 0 for none.
        folds: Fewer are used when the smallest class has fewer rows.
        seed: Of folds and shuffles.
        permutations: Behind the p-values, which ask whether permuted classes lie as far apart as the true ones.

    Returns:
        Accuracies with 95 % intervals, baselines and p-values.

    Raises:
        ValueError: If rows are missing, not finite, or one class has fewer than two rows.

    Source:
        Kirichenko et al., Last layer re-training is sufficient for robustness to spurious correlations (2023),
        https://arxiv.org/abs/2204.02937; Qiu et al., Complexity matters (2024), https://arxiv.org/abs/2403.03375

    Example:
        >>> y, a = torch.tensor([0, 1]).repeat(100), torch.tensor([0, 0, 1, 1]).repeat(50)
        >>> features = torch.stack([2.0 * y, torch.zeros(200)], dim=1)   # holds the class only
        >>> found = decode(features, Batch.of(features, y, a))
        >>> found.core, found.core_p
        (1.0, 0.001)
    """
    x = features_of(representation, batch, "representation")
    untrained = None if baseline is None else features_of(baseline, batch, "baseline")
    y, a = _present(batch.y, "y"), None if batch.attribute is None else _present(batch.attribute, batch.cue)
    group = y if a is None else y * int(a.max() + 1) + a
    folds = _possible_folds(folds, [y] if a is None else [y, a])
    fold = _stratified_folds(group, folds, seed)
    fit = _fitting(method, ridge, min(int((fold != f).sum()) for f in range(folds)), x.shape[1])

    def measure(target: Tensor, other: Tensor | None) -> tuple[_Reading, float, float]:
        found = _cross_fitted(x, target, other, fold, fit)
        p = permutation_p(x, target, other, ridge, permutations, seed)
        if untrained is None:
            return found, _shuffled_baseline(x, target, other, fold, fit, seed), p
        return found, _cross_fitted(untrained, target, other, fold, fit).value, p

    core, core_baseline, core_p = measure(y, a)
    cue, cue_baseline, cue_p = (None, None, None) if a is None else measure(a, y)
    return Decoded(
        core=core.value,
        spurious=cue.value if cue else None,
        core_baseline=core_baseline,
        spurious_baseline=cue_baseline,
        core_ci=core.interval,
        spurious_ci=cue.interval if cue else None,
        core_p=core_p,
        spurious_p=cue_p,
        n=len(y),
        folds=folds,
        baseline_kind="shuffled labels" if untrained is None else "untrained network",
        num_classes=int(y.max()) + 1,
        num_values=1 if a is None else int(a.max()) + 1,
        note=_NESTED if a is not None and len(group.unique()) == int(y.max()) + 1 else "",
    )


_NESTED = "each class has one attribute value only: the attribute cannot be told from the class here."


class _Reading(NamedTuple):
    """What held-out predictions are worth, each cell of target by other weighing the same."""

    value: float
    interval: tuple[float, float]


def _cross_fitted(x: Tensor, target: Tensor, other: Tensor | None, fold: Tensor, fit: Fit) -> _Reading:
    other = torch.zeros_like(target) if other is None else other
    classes = int(target.max()) + 1
    predicted = torch.empty_like(target)
    for f in fold.unique():
        seen, held = fold != f, fold == f
        centre, scale = scaling(x[seen])
        weight = _balanced_weight(target[seen], other[seen])
        predict = fit((x[seen] - centre) / scale, target[seen], weight, classes)
        predicted[held] = predict((x[held] - centre) / scale)
    return _Reading(*_balanced_accuracy(predicted == target, target, other, len(fold.unique())))


def _balanced_accuracy(correct: Tensor, target: Tensor, other: Tensor, folds: int) -> tuple[float, tuple[float, float]]:
    """Mean over classes of the mean over the other variable's values of accuracy, and its interval.

    Read-outs of different folds share training rows, so their errors go together; Nadeau and Bengio (2003) widen by
    `sqrt(1 + folds / (folds - 1))`. Coverage .96 to 1.0 in simulations, .84 to .94 without.
    """
    weight = _balanced_weight(target, other)
    _, place = (target * int(other.max() + 1) + other).unique(return_inverse=True)
    rows = torch.bincount(place).double()
    right = torch.bincount(place, weights=correct.double())
    share = torch.bincount(place, weights=weight.double())
    low, high, half = contrast_interval(share.numpy(), right.numpy(), rows.numpy())
    centre, half = (low + high) / 2, half * (1 + folds / (folds - 1)) ** 0.5
    return min(1.0, float((share * right / rows).sum())), (max(centre - half, 0.0), min(centre + half, 1.0))


def _balanced_weight(target: Tensor, other: Tensor) -> Tensor:
    """`(n,)` float64 weights, sum 1: classes weigh the same, and so do the other variable's values within a class."""
    values = int(other.max()) + 1
    counts = torch.bincount(target * values + other, minlength=values * (int(target.max()) + 1)).reshape(-1, values)
    cells = (counts > 0).sum(dim=1)
    return 1.0 / (counts[target, other].double() * cells[target] * (cells > 0).sum())


def _shuffled_baseline(
    x: Tensor,
    target: Tensor,
    other: Tensor | None,
    fold: Tensor,
    fit: Fit,
    seed: int,
) -> float:
    """The read-out fitted to labels shuffled within the other variable; a mean over draws where one would be noisy."""
    generator = torch.Generator().manual_seed(seed + 1)  # not the stream of the folds
    strata = torch.zeros_like(target) if other is None else other
    values = []
    for _ in range(5 if len(x) < 1000 else 1):
        shuffled = target.clone()
        for v in strata.unique():
            rows = (strata == v).nonzero()[:, 0]
            shuffled[rows] = target[rows[torch.randperm(len(rows), generator=generator)]]
        values.append(_cross_fitted(x, shuffled, other, fold, fit).value)
    return float(np.mean(values))


def _fitting(method: str, ridge: float, rows: int, d: int) -> Fit:
    if method == "logistic":
        return logistic
    if method != "ridge":
        raise ValueError(f"`method` is {method!r}; choose 'ridge' or 'logistic'.")
    if ridge < 0 or (ridge == 0 and rows <= d):
        raise ValueError(f"`ridge` is {ridge} with {rows} rows to fit {d} features; give a positive one, such as 0.01.")
    return lambda x, target, weight, k: discriminant(x, target, weight, k, ridge)


def _stratified_folds(group: Tensor, folds: int, seed: int) -> Tensor:
    """`(n,)` fold ids; consecutive rows of a group, then of the next, go to consecutive folds."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(group), generator=generator)
    order = shuffled[group[shuffled].argsort(stable=True)]
    fold = torch.empty_like(group)
    fold[order] = torch.arange(len(group)) % folds
    return fold


def _possible_folds(folds: int, targets: list[Tensor]) -> int:
    smallest = min(int(torch.bincount(t).min()) for t in targets)
    if smallest < 2 or folds < 2:
        raise ValueError(
            f"the smallest class or attribute value has {smallest} row(s), folds asked for: {folds}; at least two "
            f"of each are needed to fit on one part and measure on another."
        )
    return min(folds, smallest)


def _present(ids: Tensor, name: str) -> Tensor:
    """Ids of the classes present, without holes."""
    classes, place, counts = ids.cpu().unique(return_inverse=True, return_counts=True)
    require_classes(counts, [str(c) for c in classes.tolist()], name)
    return place
