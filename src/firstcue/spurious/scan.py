"""Does a simple property tell the class? Every property by itself, on rows that did not fit the rule, against chance.

Chance is one over the number of classes, because every class weighs the same: a rule that names the commonest class of
labels that are nine to one gains nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from firstcue.spurious.intervals import holm
from firstcue.spurious.properties import Property

MOST_BINS = 16
FOLDS = 5
ROWS_PER_BIN = 15
"""Rows of the rarest class for each bin of a number."""

_EXPECTED = 5
"""Expected count below which chi-square's distribution is not trusted; bins are merged or counted exactly."""


@dataclass(frozen=True)
class Rule:
    """A property read as a class: which class each of its values speaks for."""

    edges: np.ndarray
    """`(bins - 1,)` upper ends of all bins but the last; empty for categories."""

    says: np.ndarray
    """`(bins,)` class id of each bin or level."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """`(n,)` int64 class id that each value speaks for."""
        return np.asarray(self.says[self.bins(values)])

    def bins(self, values: np.ndarray) -> np.ndarray:
        """`(n,)` bin of each value; an unseen level is taken for the last one."""
        if len(self.edges):
            return np.searchsorted(self.edges, values, side="left")
        return np.clip(values.astype(np.int64), 0, len(self.says) - 1)


@dataclass(frozen=True)
class Scanned:
    """How well one property tells the class."""

    name: str
    balanced_accuracy: float
    """On rows that did not fit the rule, every class weighing the same; 1 / K is chance."""

    score: float
    """Error over that of chance, at most 1: 1 if the property says nothing of the class, 0 if it is the class."""

    bits: float
    """Mutual information with the class, corrected for its bias, never below 0."""

    p_value: float
    """Of independence, by chi-square on bins, or exactly in small tables."""

    p_adjusted: float
    """After Holm's correction over all properties scanned."""

    rule: Rule

    @property
    def strength(self) -> float:
        """`1 - score`: 0 by chance, 1 if the property is the class."""
        return 1 - self.score


class _Raw(NamedTuple):
    accuracy: float
    score: float
    bits: float
    p_value: float
    rule: Rule


def property_scan(properties: Sequence[Property], y: np.ndarray, *, seed: int = 0) -> tuple[Scanned, ...]:
    """Scan every property, in the order given.

    Args:
        properties: From `properties_of`.
        y: `(n,)` class ids; a class without rows is left out of the average.
        seed: Of the folds.

    Raises:
        ValueError: If lengths differ.

    Source:
        The idea of correlating cheap image properties with labels is cleanlab's; baseline and average are not.

    Example:
        >>> y = np.arange(9000) % 10 // 9                                  # nine to one
        >>> unrelated = Property("size", np.random.default_rng(0).normal(size=9000))
        >>> round(property_scan([unrelated], y)[0].score, 1)
        1.0
    """
    y = np.asarray(y, dtype=np.int64)
    wrong = next((p for p in properties if len(p.values) != len(y)), None)
    if wrong is not None:
        raise ValueError(f"property {wrong.name!r} has {len(wrong.values)} values for {len(y)} labels; one per row.")
    fold = folds_of(y, seed)
    found = [scanned(p.values, p.levels, y, fold) for p in properties]
    adjusted = holm([f.p_value for f in found])
    return tuple(
        Scanned(p.name, f.accuracy, f.score, f.bits, f.p_value, corrected, f.rule)
        for p, f, corrected in zip(properties, found, adjusted, strict=True)
    )


def scanned(values: np.ndarray, levels: Sequence[str], y: np.ndarray, fold: np.ndarray) -> _Raw:
    """One property: rule, held-out balanced accuracy, information and p-value."""
    edges = np.empty(0) if levels else _edges(values, y)
    bins = len(levels) if levels else len(edges) + 1
    k = int(y.max()) + 1
    # a rule must exist before its bins can be asked for; what it says is filled in below
    where = Rule(edges, np.zeros(bins, dtype=np.int64)).bins(values)
    table = np.bincount((fold * bins + where) * k + y, minlength=FOLDS * bins * k).reshape(FOLDS, bins, k)
    whole = table.sum(axis=0)
    right = np.sum([_right(whole - part, part) for part in table], axis=0)
    rows = whole.sum(axis=0)
    accuracy = float((right[rows > 0] / rows[rows > 0]).mean())
    chance = 1 / max((rows > 0).sum(), 2)
    score = float(min(1.0, (1 - accuracy) / (1 - chance)))
    return _Raw(accuracy, score, *_independence(whole), Rule(edges, _says(whole)))


def folds_of(y: np.ndarray, seed: int) -> np.ndarray:
    """`(n,)` fold ids, every class dealt out evenly."""
    order = np.random.default_rng(seed).permutation(len(y))
    fold = np.empty(len(y), dtype=np.int64)
    fold[order[np.argsort(y[order], kind="stable")]] = np.arange(len(y)) % FOLDS
    return fold


def _right(fit: np.ndarray, test: np.ndarray) -> np.ndarray:
    """`(K,)` rows of each class that the rule of other rows gets right."""
    says = _says(fit)
    right = np.zeros(fit.shape[1])
    np.add.at(right, says, test[np.arange(len(says)), says])
    return right


def _says(table: np.ndarray) -> np.ndarray:
    """`(bins,)` the class in which each bin is the likeliest, every class weighing the same."""
    share = (table + 1e-3) / (table.sum(axis=0) + 1e-3)
    share[:, table.sum(axis=0) == 0] = -1
    return np.asarray(share.argmax(axis=1))


def _edges(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Upper ends of bins of about equal size, fewer where the rarest class is small or values are tied."""
    counts = np.bincount(y)
    bins = int(np.clip(counts[counts > 0].min() // ROWS_PER_BIN, 2, MOST_BINS))
    distinct = np.unique(values)
    if len(distinct) <= bins:
        return np.asarray((distinct[1:] + distinct[:-1]) / 2)
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    return np.asarray(cuts[cuts < distinct[-1]])


def _independence(table: np.ndarray) -> tuple[float, float]:
    """Mutual information in bits and the p-value of independence of a table of counts."""
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.float64)
    if min(table.shape) < 2:
        return 0.0, 1.0
    n = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / n
    ratio = np.log2(np.where(table > 0, table, 1) / np.where(table > 0, expected, 1))
    free = (table.shape[0] - 1) * (table.shape[1] - 1)
    bits = max(float((table * ratio).sum() / n - free / (2 * n * np.log(2))), 0.0)
    return bits, _p_value(table)


def _p_value(table: np.ndarray) -> float:
    from scipy.stats import chi2, fisher_exact

    table = _merged(table)
    if len(table) < 2:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    if table.shape == (2, 2) and expected.min() < _EXPECTED:
        return float(fisher_exact(table).pvalue)
    statistic = float(((table - expected) ** 2 / expected).sum())
    return float(chi2.sf(statistic, (table.shape[0] - 1) * (table.shape[1] - 1)))


def _merged(table: np.ndarray) -> np.ndarray:
    """Rare bins joined to their neighbours until every expected count is large enough, or two bins are left."""
    least = _EXPECTED * table.sum() / table.sum(axis=0).min()
    rows = list(table)
    while len(rows) > 2 and min(r.sum() for r in rows) < least:
        at = min(range(len(rows)), key=lambda i: rows[i].sum())
        near = at - 1 if at > 0 and (at == len(rows) - 1 or rows[at - 1].sum() <= rows[at + 1].sum()) else at + 1
        rows[min(at, near)] = rows[at] + rows[near]
        del rows[max(at, near)]
    return np.array(rows)
