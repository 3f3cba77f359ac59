"""Intervention two: erase the cue at the penultimate layer and run the unchanged head again.

In the training distribution a cue stands in for the label, so an eraser fitted there erases the label too. The moments are
therefore balanced: every combination of class and value counts equally. The control asks how much the same eraser would
close if the cue were shuffled among the rows of each class. It is a null for a random direction of the data's covariance,
not for rows that are merely harder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from firstcue.auditing.splits import stratified_folds
from firstcue.erasure.leace import AffineEraser, leace_map
from firstcue.layers import Head
from firstcue.linalg import factor_psd
from firstcue.moments import Moments
from firstcue.shrinkage import oas
from firstcue.spurious.reliance import Gap, accuracy_gap

FOLDS = 5
_CHUNK = 20_000_000
"""Numbers held at once by the permutation control."""


@dataclass(frozen=True)
class Erasure:
    """What the head does when the cue is gone from its input, on rows the eraser was not fitted on."""

    gap_after: Gap
    closed: float
    """1 - gap after / gap before."""
    change: float
    """Gap before - gap after: what the cue's direction in the last layer does to accuracy."""
    change_low: float
    change_high: float
    p_value: float
    """Of `closed` against the permutation control, uncorrected."""
    draws: int
    group_average_before: float
    group_average_after: float
    shrunk: bool
    """Whether the covariance was shrunk because the smallest cell has fewer than 5 d rows."""
    logits: Tensor
    """`(n, K)` of the head on erased features, each row by an eraser fitted without it."""


@dataclass(frozen=True)
class BalancedFit:
    """Moments in which every cell of class and attributes weighs the same, and the cross-covariance of each attribute."""

    mean: Tensor
    """`(d,)`."""
    covariance: Tensor
    """`(d, d)`."""
    cross: tuple[Tensor, ...]
    """Per attribute `(d, V)`: columns sqrt(p_v) (mean_v - mean)."""
    shrunk: bool

    def eraser(self, which: Sequence[int] | None = None) -> AffineEraser:
        """The LEACE map for the attributes at `which`, or for all of them jointly."""
        chosen = self.cross if which is None else [self.cross[i] for i in which]
        return leace_map(torch.cat(list(chosen), dim=1), self.covariance, self.mean)


def balanced_weights(cells: Tensor, kept: Tensor) -> Tensor:
    """`(n,)` weights, zero outside `kept`, that give every cell the same total and average 1 over the kept rows."""
    counts = torch.bincount(cells[kept], minlength=int(cells.max()) + 1).double()
    occupied = int((counts > 0).sum())
    share = int(kept.sum()) / occupied / counts.clamp(min=1)
    return torch.where(kept, share[cells], 0.0)


def balanced_fit(x: Tensor, y: Tensor, attributes: Sequence[Tensor], kept: Tensor | None = None) -> BalancedFit:
    """Moments of `x` in which class and attributes are independent, as nearly as the cells present allow.

    Args:
        x: `(n, d)` features.
        y: `(n,)` class ids.
        attributes: Each `(n,)` value ids.
        kept: `(n,)` bool, the rows to fit on; all when absent.

    Returns:
        The moments and, per attribute, the cross-covariance that LEACE needs.
    """
    kept = torch.ones(len(y), dtype=torch.bool) if kept is None else kept
    joint = attributes[0]
    for attribute in attributes[1:]:
        joint = joint * (int(attribute.max()) + 1) + attribute
    num_joint = int(joint.max()) + 1
    cells = y * num_joint + joint
    by_joint = Moments.of_groups(x, joint, num_joint, weights=balanced_weights(cells, kept))
    pooled = by_joint.pool()
    counts = torch.bincount(cells[kept])
    shrunk = int(counts[counts > 0].min()) < 5 * x.shape[1]
    covariance = oas(pooled) if shrunk else pooled.covariance
    representative = torch.zeros(num_joint, dtype=torch.int64).scatter_(0, joint, torch.arange(len(joint)))
    cross = tuple(_cross(by_joint, pooled.mean, a[representative], int(a.max()) + 1) for a in attributes)
    return BalancedFit(pooled.mean, covariance, cross, shrunk)


def _cross(by_joint: Moments, mean: Tensor, value: Tensor, num_values: int) -> Tensor:
    """Columns sqrt(p_v) (mean_v - mean) of one attribute, from the moments of joint groups; `value` is theirs."""
    share = by_joint.count / by_joint.count.sum()
    weight = torch.zeros(num_values, dtype=torch.float64).index_add_(0, value, share)
    offset = torch.zeros(num_values, len(mean), dtype=torch.float64).index_add_(
        0, value, share[:, None] * (by_joint.mean - mean)
    )
    return (offset / weight.clamp(min=1e-300).sqrt()[:, None]).mT


def erase_across_folds(
    features: Tensor,
    y: Tensor,
    attributes: Sequence[Tensor],
    head: Head,
    fold: Tensor,
    which: Sequence[int] | None = None,
) -> tuple[Tensor, list[BalancedFit]]:
    """Logits of the unchanged head on erased features; every row is erased by a map fitted on the other folds."""
    logits = torch.empty(len(y), head.weight.shape[0], dtype=torch.float64)
    fits = []
    for f in fold.unique().tolist():
        fit = balanced_fit(features, y, attributes, kept=fold != f)
        logits[fold == f] = head(fit.eraser(which)(features[fold == f])).double()
        fits.append(fit)
    return logits, fits


def erasure_effect(
    features: Tensor, y: Tensor, attribute: Tensor, head: Head, association: Tensor, *, draws: int = 199, seed: int = 0
) -> Erasure:
    """How much of the accuracy gap closes when the cue is erased, and how much would by chance.

    Args:
        features: `(n, d)` input of the head on held-out rows.
        y: `(n,)` class ids.
        attribute: `(n,)` value ids of the cue.
        head: The model's last layer.
        association: `(K, V)` the r(y,a) of the training rows.
        draws: Shuffles of the cue within each class.
        seed: Of folds and shuffles.

    Returns:
        The effect with its permutation p-value (1 + #{draws that close as much}) / (draws + 1).

    Source:
        Belrose et al. (2023), LEACE, https://arxiv.org/abs/2306.03819; the balanced moments and the control are this tool's.
    """
    fold = stratified_folds(y * (int(attribute.max()) + 1) + attribute, FOLDS, seed)
    before = accuracy_gap(association, head(features).argmax(dim=1) == y, y, attribute)
    logits, fits = erase_across_folds(features, y, [attribute], head, fold)
    after = accuracy_gap(association, logits.argmax(dim=1) == y, y, attribute)
    null = _shuffled_gaps(features, y, attribute, head, fold, fits, before.weight, draws, seed)
    change = _paired_change(before, head(features).argmax(dim=1) == y, logits.argmax(dim=1) == y, y, attribute)
    at_least = (
        int((null <= after.value + 1e-12).sum()) if before.value > 0 else int((null >= after.value - 1e-12).sum())
    )
    return Erasure(
        gap_after=after,
        closed=1 - after.value / before.value if before.value else 0.0,
        change=change[0],
        change_low=change[1],
        change_high=change[2],
        p_value=(1 + at_least) / (draws + 1),
        draws=draws,
        group_average_before=_group_average(before),
        group_average_after=_group_average(after),
        shrunk=any(fit.shrunk for fit in fits),
        logits=logits,
    )


def _paired_change(gap: Gap, before: Tensor, after: Tensor, y: Tensor, attribute: Tensor) -> tuple[float, float, float]:
    """Difference of two gaps over the same rows with its 95 % interval; one flip each way is added to every cell."""
    cell, shape = y * gap.weight.shape[1] + attribute, gap.weight.shape
    flips = before.double() - after.double()
    count = torch.bincount(cell, minlength=gap.weight.numel()).double()
    total = torch.zeros(gap.weight.numel(), dtype=torch.float64).index_add_(0, cell, flips)
    square = torch.zeros_like(total).index_add_(0, cell, flips.square())
    mean = total / count.clamp(min=1)
    variance = ((square + 2) / (count + 2) - (total / (count + 2)).square()) / (count + 2)
    value = float((gap.weight * mean.reshape(shape)).sum())
    half = 1.96 * float((gap.weight.square() * variance.reshape(shape)).sum().sqrt())
    return value, value - half, value + half


def _group_average(gap: Gap) -> float:
    present = gap.counts > 0
    return float(gap.accuracy[present].mean())


def _shuffled_gaps(
    x: Tensor,
    y: Tensor,
    attribute: Tensor,
    head: Head,
    fold: Tensor,
    fits: list[BalancedFit],
    weight: Tensor,
    draws: int,
    seed: int,
) -> Tensor:
    """`(draws,)` gap after erasing a cue shuffled within each class; the metric stays that of the real eraser."""
    generator = torch.Generator().manual_seed(seed)
    shuffles = _shuffles_within(y, attribute, draws, generator)
    shape, num_values = weight.shape, weight.shape[1]
    correct = torch.zeros(draws, *shape, dtype=torch.float64)
    numbers = fold.unique().tolist()
    centre = x.mean(dim=0)
    # numbers that one shuffle takes: its logits in one fold, or its sums in all of them
    a_draw = max(int(torch.bincount(fold).max()) * max(shape), len(numbers) * weight.numel() * (x.shape[1] + 1))
    for block in torch.arange(draws).split(max(1, _CHUNK // a_draw)):
        by_fold = torch.stack(
            [_cell_sums(x[fold == f] - centre, y[fold == f], shuffles[block][:, fold == f], shape) for f in numbers]
        )
        for i, (f, fit) in enumerate(zip(numbers, fits, strict=True)):
            test, others = fold == f, torch.arange(len(numbers)) != i
            cross, mean = _cross_of_cells(by_fold[others].sum(dim=0))
            logits = _erased_logits(x[test], cross, mean + centre.double(), fit, head)
            right = (logits.argmax(dim=2) == y[test][:, None]).double()
            cell = y[test] * num_values + attribute[test]
            totals = torch.zeros(weight.numel(), len(block), dtype=torch.float64).index_add_(0, cell, right)
            correct[block] += totals.mT.reshape(len(block), *shape)
    counts = torch.bincount(y * num_values + attribute, minlength=weight.numel()).reshape(shape).clamp(min=1)
    return (correct / counts * weight).sum(dim=(1, 2))


def _shuffles_within(y: Tensor, attribute: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """`(draws, n)` copies of the attribute, permuted among the rows of each class."""
    shuffled = attribute.to(torch.int16).repeat(draws, 1)
    for c in y.unique():
        members = (y == c).nonzero()[:, 0]
        order = torch.rand(draws, len(members), generator=generator).argsort(dim=1)
        shuffled[:, members] = attribute.to(torch.int16)[members][order]
    return shuffled


def _erased_logits(x: Tensor, cross: Tensor, mean: Tensor, fit: BalancedFit, head: Head) -> Tensor:
    """`(n, draws, K)` logits of rows `x` after erasing each shuffled cue, in one batched LEACE."""
    draws, d, num_values = cross.shape
    flat = factor_psd(fit.covariance).solve(cross.permute(1, 0, 2).reshape(d, -1))
    solved = flat.reshape(d, draws, num_values).permute(1, 0, 2)  # covariance^+ cross, one factor for all draws
    weight, basis = torch.linalg.eigh(cross.mT @ solved)  # squared canonical correlations
    inverse = torch.where(weight > 1e-10, 1 / weight.clamp(min=1e-10), 0.0)
    middle = basis * inverse[:, None] @ basis.mT  # (b, V, V)
    effect = middle @ cross.mT @ head.weight.double().mT  # (b, V, K)
    logits, offset = head(x).float(), mean - fit.mean  # rows are read about the mean of their own shuffle
    centred = (x - fit.mean.to(x.dtype)).float()
    num_classes = effect.shape[2]
    if num_classes * d <= num_values * (d + num_classes):  # fewer products through one d x K map of each draw
        change = solved @ effect
        moved = (
            torch.einsum("nd,bdk->nbk", centred, change.float()) - torch.einsum("bd,bdk->bk", offset, change).float()
        )
    else:
        reads = torch.einsum("nd,bdv->nbv", centred, solved.float())
        reads = reads - torch.einsum("bd,bdv->bv", offset, solved).float()
        moved = torch.einsum("nbv,bvk->nbk", reads, effect.float())
    return logits[:, None] - moved


def _cell_sums(x: Tensor, y: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`(K, V, b, d + 1)` sums of the features, and counts, in cells of class and shuffled cue; `values` is `(b, n)`."""
    inside = torch.cat([x, x.new_ones(len(x), 1)], dim=1).float()
    sums = torch.zeros(*shape, len(values), inside.shape[1], dtype=torch.float64)
    for c in range(shape[0]):
        of_class = y == c
        drawn, rows = values[:, of_class], inside[of_class]
        for v in range(shape[1]):
            sums[c, v] = (drawn == v).float() @ rows
    return sums


def _cross_of_cells(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-covariance `(b, d, V)` and mean `(b, d)` of shuffled cues when every cell weighs the same, from sums of cells."""
    count = sums[..., -1:]
    there = (count > 0).double()  # (K, V, b, 1)
    cell_mean = sums[..., :-1] / count.clamp(min=1)
    cells = there.sum(dim=(0, 1))
    mean = cell_mean.sum(dim=(0, 1)) / cells
    by_value = cell_mean.sum(dim=0) / there.sum(dim=0).clamp(min=1)  # (V, b, d)
    cross = (there.sum(dim=0) / cells).sqrt() * (by_value - mean)
    return cross.permute(1, 2, 0), mean
