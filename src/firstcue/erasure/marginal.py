"""Erase every one-feature statistic of a concept at once: each feature of each class is carried to one common distribution.

The distribution of a feature within a class is kept as a table of quantiles. Carrying a value from one class to another
means: find its rank in its own class, take the value of that rank in the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._checks import encode_labels, require_classes, require_rows
from firstcue.erasure._apply import like, result_type
from firstcue.erasure._points import flat_rows

ROWS = 4096
"""Rows whose ranks are looked up at once."""

NUMBERS = 1 << 23
"""Values of one class sorted at once."""


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Quantiles of every feature in every class, at equally spaced probabilities from 0 to 1, linear in between.

    Example:
        >>> tables = quantile_tables(torch.tensor([[0.0], [2.0], [10.0], [14.0]]), ["a", "a", "b", "b"], bins=5)
        >>> tables.transport(torch.tensor([[2.0]]), ["a"], ["b"])
        tensor([[14.]])
    """

    tables: Float64[Tensor, "k d bins"]
    """Ascending along the last axis; in units of x."""

    count: Float64[Tensor, " k"]
    """Number of rows of each class."""

    classes: tuple[str, ...]
    """Name of each class."""

    def ranks(self, x: Any, group: Any) -> Float64[Tensor, "n d"]:
        """Share of the row's class below each value, a value that occurs often counting half of itself (mid-rank)."""
        lower, upper = self.rank_bounds(x, group)
        return (lower + upper) / 2

    def rank_bounds(self, x: Any, group: Any) -> tuple[Tensor, Tensor]:
        """Shares strictly below, and not above, each value: `lower(Q(p)) <= p <= upper(Q(p))` for the quantile function Q."""
        rows = flat_rows(x)
        return self.bounds_of(rows, self.places(group, rows))

    def bounds_of(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """As `rank_bounds`, for places `(n,)` among the classes."""
        bounds = torch.zeros(2, *rows.shape, dtype=torch.float64, device=rows.device)
        for c in ids.unique().tolist():
            mine = (ids == c).nonzero()[:, 0]
            bounds[:, mine] = torch.stack(rank_bounds(self.tables[c], rows[mine].double()))
        return bounds[0], bounds[1]

    def values(self, probability: Tensor, group: Any) -> Float64[Tensor, "n d"]:
        """The quantile functions of the rows' classes at `probability`, shape `(n, d)`, in [0, 1]."""
        return self.values_of(probability, self.places(group, probability))

    def values_of(self, probability: Tensor, ids: Tensor) -> Float64[Tensor, "n d"]:
        """As `values`, for places `(n,)` among the classes."""
        found = torch.zeros(probability.shape, dtype=torch.float64, device=probability.device)
        for c in ids.unique().tolist():
            mine = (ids == c).nonzero()[:, 0]
            found[mine] = quantiles_at(self.tables[c], probability[mine].double())
        return found

    def transport(self, x: Any, source: Any, target: Any) -> Any:
        """Rows of the classes `source` with each feature carried to its distribution in the classes `target`.

        Returns:
            As `x`: shape, type and library; integers become float32.
        """
        rows = flat_rows(x)
        ids = self.places(target, rows)
        return like(_carried(rows, self, self.places(source, rows), lambda p, some: self.values_of(p, ids[some])), x)

    def places(self, group: Any, rows: Tensor) -> Tensor:
        """The place among `classes` of each row's label.

        Raises:
            ValueError: If lengths differ or a class has no table.
        """
        require_rows(rows, group, y_name="group")
        labels, names = encode_labels(group, "group")
        place_of = {name: i for i, name in enumerate(self.classes)}
        unknown = [name for name in names if name not in place_of]
        if unknown:
            raise ValueError(
                f"`group` holds {unknown}, of which the tables have seen no rows; they have: {list(self.classes)}."
            )
        places = torch.tensor([place_of[name] for name in names], dtype=torch.int64, device=labels.device)
        return places[labels].to(rows.device)


@dataclass(frozen=True, eq=False)
class MarginalEraser:
    """The map that carries each feature of each class to one distribution, keeping the order of rows within a class."""

    quantiles: Quantiles
    """Of the rows fitted."""

    target: Float64[Tensor, "d bins"]
    """Quantiles of the common distribution."""

    distortion: float
    """Mean squared movement of the rows fitted, in units of x squared, by theory."""

    def __call__(self, x: Any, group: Any = None) -> Any:
        """Erase the concept's marginals from `x`, shape `(n, d)` or `(n, c, h, w)`, whose rows belong to classes `group`.

        Returns:
            As `x`: shape, type and library; integers become float32.

        Raises:
            ValueError: If `group` is left out, has another length, or holds a class without rows at the fit.
        """
        if group is None:
            raise ValueError("this eraser needs the class of every row: eraser(x, group). `leace` needs none.")
        rows = flat_rows(x)
        if rows.shape[1] != len(self.target):
            raise ValueError(f"`x` has {rows.shape[1]} features, but the eraser was fitted on {len(self.target)}.")
        ids = self.quantiles.places(group, rows)
        return like(_carried(rows, self.quantiles, ids, lambda p, some: quantiles_at(self.target, p)), x)

    def report(self, x: Any, z: Any) -> dict[str, Any]:
        """What the eraser does to rows `x` with labels `z`.

        Beside the keys of `firstcue.erasure.report.edit_report`: `marginal_gap_before` and `marginal_gap_after`, the
        largest Kolmogorov-Smirnov distance between a feature in one class and in all rows, and `injection`. Values that
        many rows share stay together, so the gap after does not vanish where classes differ in how often they occur.
        """
        from firstcue.erasure.injection import injection
        from firstcue.erasure.report import edit_report

        rows, erased = flat_rows(x), self(flat_rows(x), z)
        return {
            **edit_report(rows, erased, z, rank=rows.shape[1], optimum=lambda _: None),
            "marginal_gap_before": marginal_gap(rows, z),
            "marginal_gap_after": marginal_gap(erased, z),
            "injection": injection(rows, erased, z),
        }


def quantile_tables(x: Any, z: Any, *, bins: int = 256) -> Quantiles:
    """Tables of quantiles of every feature in every class; memory k d bins.

    The i-th of n sorted values has rank (i - 1/2) / n; probabilities 0 and 1 are the least and greatest value.

    Args:
        x: `(n, d)` rows or `(n, c, h, w)` images.
        z: `(n,)` labels of any kind.
        bins: Number of equally spaced probabilities, from 0 to 1.

    Raises:
        ValueError: If `bins` is below 2, or rows and labels do not fit.

    Example:
        >>> quantile_tables(torch.arange(5.0)[:, None], ["a"] * 5, bins=3).tables[0, 0]
        tensor([0., 2., 4.], dtype=torch.float64)
    """
    rows = flat_rows(x)
    require_rows(rows, z, y_name="z")
    if bins < 2:
        raise ValueError(f"`bins` is a number of quantiles, at least 2 (the least and the greatest value); got {bins}.")
    ids, names = encode_labels(z, "z")
    ids = ids.to(rows.device)
    counts = torch.bincount(ids, minlength=len(names))
    present = [c for c, count in enumerate(counts.tolist()) if count > 0]
    tables = torch.stack([_table(rows, (ids == c).nonzero()[:, 0], bins) for c in present])
    return Quantiles(tables, counts[present].double(), tuple(names[c] for c in present))


def marginal_eraser(quantiles: Quantiles, *, target: str | None = None) -> MarginalEraser:
    """Give every feature the same distribution in every class, moving rows least in mean square.

    The common distribution is the barycentre: its quantile function is the mean of the classes', weighted by their
    shares. The means of classes agree afterwards, and every other statistic of one feature; how features go together,
    their correlations above all, is hardly touched.

    Args:
        quantiles: From `quantile_tables(x, z)`.
        target: Name of a class whose distribution all others are to take; None takes the barycentre.

    Raises:
        ValueError: If there are fewer than two classes, or none of that name.

    Source:
        Agueh and Carlier (2011), Barycenters in the Wasserstein space, SIAM Journal on Mathematical Analysis 43, for
        one dimension; transport by ranks as in the erasure experiments of https://arxiv.org/abs/2502.02820.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [7.0]])
        >>> marginal_eraser(quantile_tables(x, ["a", "a", "b", "b"]))(x, ["a", "a", "b", "b"])[:, 0]
        tensor([2., 4., 2., 4.])
    """
    require_classes(quantiles.count, quantiles.classes, "z")
    if target is not None and target not in quantiles.classes:
        raise ValueError(f"there is no class {target!r} to take as target; classes: {list(quantiles.classes)}.")
    share = quantiles.count / quantiles.count.sum()
    goal = (
        torch.einsum("k,kdb->db", share, quantiles.tables)
        if target is None
        else quantiles.tables[quantiles.classes.index(target)]
    )
    return MarginalEraser(quantiles, goal, float(share @ _squared_distance(quantiles.tables, goal)))


def marginal_gap(x: Any, z: Any) -> float:
    """Largest Kolmogorov-Smirnov distance between a feature in one class and in all rows.

    Example:
        >>> marginal_gap(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), ["a", "a", "b", "b"])
        0.5
    """
    rows = flat_rows(x)
    ids, names = encode_labels(z, "z")
    ids = ids.to(rows.device)
    classes: Sequence[int] = [c for c in range(len(names)) if bool((ids == c).any())]
    return max(float(kolmogorov_smirnov(rows[ids == c], rows).max()) for c in classes)


def kolmogorov_smirnov(one: Tensor, two: Tensor) -> Float64[Tensor, " d"]:
    """Largest difference of the distribution functions of each feature in two samples, `(n, d)` and `(m, d)`."""
    distances = []
    for columns in torch.arange(one.shape[1], device=one.device).split(max(1, NUMBERS // (len(one) + len(two)))):
        a, b = (t[:, columns].double().mT.contiguous().sort(dim=1).values for t in (one, two))
        points = torch.cat([a, b], dim=1)
        below = [torch.searchsorted(s, points, right=True).double() / s.shape[1] for s in (a, b)]
        distances.append((below[0] - below[1]).abs().amax(dim=1))
    return torch.cat(distances)


def rank_bounds(table: Float64[Tensor, "d b"], values: Float64[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Shares of a distribution strictly below, and not above, each value."""
    asked, last = values.mT.contiguous(), table.shape[1] - 1
    bounds = []
    for right in (False, True):
        after = torch.searchsorted(table, asked, right=right)
        step = (after - 1).clamp(0, last - 1)
        low, high = table.gather(1, step), table.gather(1, step + 1)
        inside = ((asked - low) / (high - low)).clamp(0, 1)
        # on a flat stretch (0 / 0) the search has found its end: the next entry from below, this one from above
        inside = torch.where(high > low, inside, 0.0 if right else 1.0)
        ended = torch.where(after > last, 1.0, torch.where(after < 1, 0.0, (step + inside) / last))
        bounds.append(ended.mT)
    return bounds[0], bounds[1]


def quantiles_at(table: Float64[Tensor, "d b"], probability: Float64[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    """Values of quantile functions."""
    last = table.shape[1] - 1
    place = probability.mT.clamp(0, 1) * last
    step = place.floor().long().clamp(max=last - 1)
    return torch.lerp(table.gather(1, step), table.gather(1, step + 1), place - step).mT


def _carried(rows: Tensor, quantiles: Quantiles, ids: Tensor, values: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Each value's mid-rank in its class, turned into a value again; some rows at a time."""
    moved = torch.empty(rows.shape, dtype=result_type(rows), device=rows.device)
    for some in torch.arange(len(rows), device=rows.device).split(ROWS):
        lower, upper = quantiles.bounds_of(rows[some], ids[some])
        moved[some] = values((lower + upper) / 2, some).to(moved.dtype)
    return moved


def _table(rows: Tensor, mine: Tensor, bins: int) -> Float64[Tensor, "d bins"]:
    n = len(mine)
    place = (torch.linspace(0, 1, bins, dtype=torch.float64, device=rows.device) * n - 0.5).clamp(0, n - 1)
    below = place.floor().long()
    above, share = (below + 1).clamp(max=n - 1), (place - below)[:, None]
    parts = []
    for columns in torch.arange(rows.shape[1], device=rows.device).split(max(1, NUMBERS // n)):
        ordered = rows[mine][:, columns].double().sort(dim=0).values
        parts.append(torch.lerp(ordered[below], ordered[above], share).mT)
    return torch.cat(parts)


def _squared_distance(tables: Tensor, goal: Tensor) -> Float64[Tensor, " k"]:
    """Squared Wasserstein distance of each class to the goal, summed over features: exact for piecewise linear tables."""
    gap = tables - goal
    left, right = gap[..., :-1], gap[..., 1:]
    return ((left.square() + left * right + right.square()) / 3).mean(dim=-1).sum(dim=-1)
