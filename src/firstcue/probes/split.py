"""What every held-out measurement shares: which rows are read by a fit on which others, and what the answers are worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 2
"""Rows a class needs: one to learn from, one to be read."""


@dataclass(frozen=True)
class ProbeResult:
    """How well a probe reads a label from rows that it was not fitted on."""

    kind: str
    """linear, quadratic or strong."""

    accuracy: float
    """Balanced, a fraction: the mean over classes of the share of their rows that are read rightly. NaN if not measurable."""

    ci_low: float
    """Lower end of its 95 % interval."""

    ci_high: float
    """Upper end."""

    n: int
    """Rows that were read."""

    baseline: float
    """The same accuracy with shuffled labels."""

    baseline_kind: str = "shuffled labels"

    note: str = ""
    """What was reduced, regularised or left out."""


@dataclass(frozen=True)
class Split:
    """Which rows are read in which fold."""

    ids: Tensor
    """`(n,)` class ids."""

    fold: Tensor
    """`(n,)` fold in which a row is read, by a fit on the other folds; -1 for a row left out."""

    folds: int

    names: tuple[str, ...]

    note: str
    """Which classes were left out."""

    @property
    def usable(self) -> bool:
        """Whether two classes can be measured."""
        return len(self.ids[self.fold >= 0].unique()) >= 2

    def shuffled(self, seed: int) -> "Split":
        """The same folds with labels permuted among the rows in use."""
        used = (self.fold >= 0).nonzero()[:, 0]
        order = torch.randperm(len(used), generator=torch.Generator().manual_seed(seed))
        ids = self.ids.clone()
        ids[used] = self.ids[used[order]]
        return Split(ids, self.fold, self.folds, self.names, "")


def stratified(ids: Tensor, names: tuple[str, ...], folds: int, seed: int) -> Split:
    """Deal the rows of every class out to the folds in turn, in random order."""
    counts = torch.bincount(ids, minlength=len(names))
    rare = (counts > 0) & (counts < LEAST)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    order = order[ids[order].argsort(stable=True)]
    fold = torch.empty_like(ids)
    fold[order] = torch.arange(len(ids)) % folds
    fold[rare[ids]] = -1
    left_out = [name for name, out in zip(names, rare.tolist(), strict=True) if out]
    shown = ", ".join(repr(name) for name in left_out[:5]) + (" and others" if len(left_out) > 5 else "")
    note = f"classes with one row left out: {shown}" if left_out else ""
    return Split(ids, fold, folds, names, note)


def drawn(ids: Tensor, most: int, seed: int) -> Tensor:
    """At most `most` rows, in order: large classes are thinned before small ones lose any."""
    if len(ids) <= most:
        return torch.arange(len(ids))
    counts = torch.bincount(ids)
    each = _level(sorted(counts[counts > 0].tolist()), most)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    order = order[ids[order].argsort(stable=True)]
    rank = torch.arange(len(ids)) - (counts.cumsum(0) - counts)[ids[order]]
    return order[rank < each].sort().values


def _level(sizes: list[int], most: int) -> int:
    """The largest cap on every class under which the total does not exceed `most`; at least 2."""
    for i, size in enumerate(sizes):
        if size * (len(sizes) - i) > most:
            return max(LEAST, most // (len(sizes) - i))
        most -= size
    return sizes[-1]


def balanced_accuracy(answers: Tensor, split: Split) -> tuple[float, float, float, int]:
    """Balanced accuracy of answers (-1 where none was given), its 95 % interval, and the number of answers.

    Each class counts with one success and one failure more than it has, so that few rows claim no certainty. Where folds
    learn from each other's rows their errors go together, and the variance is that of Nadeau and Bengio (2003).
    """
    given = answers >= 0
    k = len(split.names)
    rows = torch.bincount(split.ids[given], minlength=k).double()
    right = torch.bincount(split.ids[given & (answers == split.ids)], minlength=k).double()
    rows, right = rows[rows > 0], right[rows > 0]
    accuracy, smooth = float((right / rows).mean()), (right + 1) / (rows + 2)
    crossed = len(split.fold[given].unique())
    widen = 1 + crossed / (crossed - 1) if crossed > 1 else 1.0
    half = 1.96 * float((widen * smooth * (1 - smooth) / (rows + 2)).sum().sqrt()) / len(rows)
    centre = float(smooth.mean())
    low, high = max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))
    return accuracy, low, high, int(given.sum())


def said(*notes: str) -> str:
    """The notes that say something, each once."""
    return "; ".join(dict.fromkeys(note for note in notes if note))
