"""SliceLine: the slices of a table, "place = sea and camera = old", in which errors are high and rows are many. Exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from firstcue.spurious.properties import Property, properties_of

WEIGHT = 0.95
"""Weight of the error against the size of a slice."""


@dataclass(frozen=True)
class Slice:
    """A conjunction of column values."""

    terms: tuple[tuple[str, str], ...]
    """Column and value of each condition."""

    score: float
    """`weight (error / mean error - 1) - (1 - weight) (n / size - 1)`; above 0 is worth a look."""

    size: int
    error: float
    """Mean error of its rows."""

    rows: np.ndarray
    """`(n,)` bool."""

    @property
    def name(self) -> str:
        """The conditions in words."""
        return " and ".join(f"{column} = {value}" for column, value in self.terms)


def slice_line(
    table: Mapping[str, Any],
    errors: Any,
    *,
    most: int = 5,
    depth: int = 2,
    weight: int | float = WEIGHT,
    support: int | None = None,
) -> tuple[Slice, ...]:
    """The best slices of up to `depth` conditions, found level by level; what cannot beat the best ones is not looked at.

    Exact: no slice of enough rows has a higher score than those returned. Every condition is on another column; a column of
    many numbers is cut into four bins of equal size.

    Args:
        table: Columns `(n,)` by name, categories or numbers.
        errors: `(n,)` nonnegative, such as 0 and 1 or a loss.
        most: Slices returned at the most; only those with a score above 0.
        depth: Conditions at the most.
        weight: Of the error against the size, in (0, 1].
        support: Rows a slice needs; `max(32, n / 100)` when absent.

    Raises:
        ValueError: If errors are negative or not finite, lengths differ, or `weight` is not in (0, 1].

    Source:
        Sagadeeva and Boehm, "SliceLine" (2021), SIGMOD, https://doi.org/10.1145/3448016.3457323.

    Example:
        >>> place = np.array(["sea"] * 100 + ["land"] * 300)
        >>> slice_line({"place": place}, np.arange(400) < 60)[0].name
        'place = sea'
    """
    wrong = np.asarray(errors, dtype=np.float64)
    if wrong.ndim != 1 or not np.isfinite(wrong).all() or (wrong < 0).any():
        raise ValueError(
            "`errors` has to be one finite number per row, none below 0: 1 where the model is wrong, or its loss."
        )
    if not 0 < weight <= 1:
        raise ValueError(f"`weight` has to be in (0, 1]; got {weight}.")
    if wrong.sum() == 0 or not table:
        return ()
    columns = properties_of(None, table)
    bad = next((c.name for c in columns if len(c.values) != len(wrong)), None)
    if bad is not None:
        raise ValueError(f"column {bad!r} has another number of rows than `errors` ({len(wrong)}).")
    least = max(32, len(wrong) // 100) if support is None else support
    terms = [(j, name, rows) for j, c in enumerate(columns) for name, rows in literals(c)]
    found = _search([(j, rows) for j, _, rows in terms], wrong, most, depth, float(weight), max(least, 1))
    return tuple(
        Slice(
            tuple((columns[terms[i][0]].name, terms[i][1]) for i in ids),
            score,
            int(rows.sum()),
            float(wrong[rows].mean()),
            rows,
        )
        for score, ids, rows in found
    )


def literals(column: Property) -> list[tuple[str, np.ndarray]]:
    """Conditions on one column: each value, or each of four bins of equal size."""
    if column.levels:
        return [(name, column.values == i) for i, name in enumerate(column.levels)]
    cuts = np.unique(np.quantile(column.values, [0.25, 0.5, 0.75]))
    where = np.searchsorted(cuts, column.values, side="left")
    ends = ["-inf", *(f"{c:.3g}" for c in cuts), "inf"]
    return [(f"({ends[b]}, {ends[b + 1]}]", where == b) for b in range(len(cuts) + 1) if (where == b).any()]


Found = tuple[float, tuple[int, ...], np.ndarray]


def _search(
    terms: list[tuple[int, np.ndarray]], errors: np.ndarray, most: int, depth: int, weight: float, support: int
) -> list[Found]:
    n, mean = len(errors), errors.mean()
    top: list[Found] = []
    level: dict[tuple[int, ...], tuple[np.ndarray, float]] = {}

    def look(ids: tuple[int, ...], rows: np.ndarray) -> None:
        size = int(rows.sum())
        if size < support:
            return
        own = errors[rows]
        score = weight * (own.mean() / mean - 1) - (1 - weight) * (n / size - 1)
        if score > 0:
            top.append((float(score), ids, rows))
            top.sort(key=lambda found: (-found[0], len(found[1]), found[1]))
            del top[most:]
        bound = _bound(size, float(own.sum()), float(own.max()), n, mean, weight, support)
        if bound > (top[-1][0] if len(top) == most else 0.0):
            level[ids] = rows, bound

    for i, (_, rows) in enumerate(terms):
        look((i,), rows)
    for _ in range(1, depth):
        parents, level = level, {}
        threshold = top[-1][0] if len(top) == most else 0.0
        for ids in _joined(parents, terms):
            subsets = [parents.get(s) for s in combinations(ids, len(ids) - 1)]
            # a slice is inside all of its parents: one that cannot reach the threshold rules it out
            if all(p is not None and p[1] > threshold for p in subsets):
                look(ids, subsets[0][0] & terms[ids[-1]][1])  # type: ignore[index]
    return top


def _joined(parents: Mapping[tuple[int, ...], Any], terms: list[tuple[int, np.ndarray]]) -> list[tuple[int, ...]]:
    """Pairs of slices that share all but their last condition, on different columns."""
    ids = sorted(parents)
    return [
        (*a, b[-1])
        for i, a in enumerate(ids)
        for b in ids[i + 1 :]
        if a[:-1] == b[:-1] and terms[a[-1]][0] != terms[b[-1]][0]
    ]


def _bound(size: int, total: float, largest: float, n: int, mean: float, weight: float, support: int) -> float:
    """The highest score that any slice inside this one can have.

    Of s of its rows the error adds up to at most min(total, s * largest). The score rises in s as long as s * largest is
    the smaller, and is monotone afterwards: one of three sizes is the best.
    """
    sizes = {support, size, int(min(max(total / largest, support), size))} if largest > 0 else {size}
    sizes |= {min(s + 1, size) for s in sizes}
    return max(weight * (min(total, s * largest) / s / mean - 1) - (1 - weight) * (n / s - 1) for s in sizes if s >= 1)
