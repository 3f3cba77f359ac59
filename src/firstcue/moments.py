"""First and second moments that merge exactly, so any split of the data gives the same answer.

Everything closed-form in this package is a function of these tensors and never touches the samples again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from firstcue._checks import encode_labels, require_rows
from firstcue._rows import feature_rows, numbered_groups, row_weights
from firstcue._scatter import CHUNK_ROWS, Buffers, Sums, fourth_order, move_fourth, symmetrise, wide_products


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of vectors; leading axes, if any, index groups.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
        >>> halves = Moments.of(x[:1]).merge(Moments.of(x[1:]))
        >>> halves.mean
        tensor([2., 2.], dtype=torch.float64)
        >>> Moments.of_groups(x, ["cat", "dog", "dog"]).classes
        ('cat', 'dog')
    """

    count: Float64[Tensor, "*groups"]
    """Total weight; the number of rows where no weights were given."""

    mean: Float64[Tensor, "*groups d"]
    """In the units of x; zero where the count is zero."""

    scatter: Float64[Tensor, "*groups d d"]
    """Weighted sum of outer products about the mean, in units of x squared; symmetric."""

    rows: Int64[Tensor, "*groups"]
    """Number of rows of positive weight, which intervals and refusals need."""

    classes: tuple[str, ...] | None = None
    """Name of each group along the first axis."""

    cubic: Float64[Tensor, "*groups d"] | None = None
    """Sum of |y|^2 y about the mean, if asked for with `fourth=True`."""

    quartic: Float64[Tensor, "*groups"] | None = None
    """Sum of |y|^4 about the mean, if asked for with `fourth=True`."""

    @classmethod
    def of(cls, x: Any, weights: Any = None, *, precision: str | None = None, fourth: bool = False) -> "Moments":
        """Moments of the rows of `x`; no rows give the identity of `merge`.

        Args:
            x: `(n, d)` tensor or array of any real type. Rows are read in chunks: extra memory is one chunk plus d x d.
            weights: `(n,)`, not negative; a row of weight 2 counts as two rows, one of weight 0 is skipped.
            precision: Of the products within a chunk: "float32", "float64", or None for that of the input. Sums over
                chunks are always float64.
            fourth: Keep the fourth-order sums that `ledoit_wolf` needs.

        Raises:
            ValueError: If `x` is not `(n, d)`, holds NaN or infinity, or a weight is negative.
        """
        rows = feature_rows(x)
        groups = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        whole = _of_ids(rows, groups, 1, row_weights(weights, rows), precision, fourth)
        return whole.group(0)

    @classmethod
    def of_groups(
        cls,
        x: Any,
        group: Any,
        num_groups: int | None = None,
        weights: Any = None,
        *,
        precision: str | None = None,
        fourth: bool = False,
    ) -> "Moments":
        """Moments of each group of rows; the first axis of the result is the group.

        Args:
            x: `(n, d)`, as for `of`.
            group: `(n,)` labels of any kind, or one-hot `(n, k)`.
            num_groups: With it, `group` holds ids from 0 to `num_groups - 1` which keep their place, and an
                absent one has count zero; without it, the sorted distinct labels are the groups, named in `classes`.
            weights: `(n,)`, as for `of`.
            precision: As for `of`.
            fourth: As for `of`.

        Raises:
            ValueError: As for `of`; also if lengths differ, a label is missing or real-valued, or an id out of range.
        """
        rows = feature_rows(x)
        require_rows(rows, group, y_name="group")
        ids, classes = encode_labels(group, "group") if num_groups is None else numbered_groups(group, num_groups)
        found = _of_ids(rows, ids.to(rows.device), len(classes), row_weights(weights, rows), precision, fourth)
        return replace(found, classes=classes)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both samples together; groups are matched by name where they have names.

        Raises:
            ValueError: If dimensions differ, or the groups cannot be matched.

        Source:
            Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The American Statistician 37.
        """
        one, two = _aligned(self, other)
        count = one.count + two.count
        weight = torch.where(two.count > 0, two.count / count, 0.0)
        gap = two.mean - one.mean
        between = (one.count * weight)[..., None, None] * gap[..., :, None] * gap[..., None, :]
        step = weight[..., None] * gap
        cubic, quartic = _merge_fourth(one, two, step, step - gap)
        scatter = between.add_(one.scatter).add_(two.scatter)
        return Moments(count, one.mean + step, scatter, one.rows + two.rows, one.classes, cubic, quartic)

    def pool(self) -> "Moments":
        """Forget the first group axis: the law of total covariance."""
        if self.count.ndim == 0:
            raise ValueError("these moments have no group axis to pool; they describe all rows already.")
        count = self.count.sum(dim=0)
        share = torch.where(count > 0, self.count / count, 0.0)
        mean = (share[..., None] * self.mean).sum(dim=0)
        gap = self.mean - mean
        weighted = self.count[..., None] * gap
        between = torch.einsum("g...i,g...j->...ij", weighted, gap)
        cubic, quartic = None, None
        if self.cubic is not None and self.quartic is not None:
            cubic, quartic = (
                t.sum(dim=0) for t in move_fourth(self.cubic, self.quartic, self.count, self.scatter, -gap)
            )
        return Moments(count, mean, between.add_(self.scatter.sum(dim=0)), self.rows.sum(dim=0), None, cubic, quartic)

    def group(self, index: int) -> "Moments":
        """Moments of one group, without its axis."""
        return self._map(lambda t: t[index], None)

    def to(self, device: Any) -> "Moments":
        """The same moments on another device."""
        return self._map(lambda t: t.to(device), self.classes)

    @property
    def covariance(self) -> Tensor:
        """`(..., d, d)` with divisor `count`: the population value of this very sample; NaN for an empty group."""
        return self.scatter / self.count[..., None, None]

    def _map(self, change: Callable[[Tensor], Tensor], classes: tuple[str, ...] | None) -> "Moments":
        cubic = None if self.cubic is None else change(self.cubic)
        quartic = None if self.quartic is None else change(self.quartic)
        return Moments(
            change(self.count), change(self.mean), change(self.scatter), change(self.rows), classes, cubic, quartic
        )


def jackknife(statistic: Callable[[Moments], Any], chunks: Sequence[Moments]) -> tuple[Any, Any]:
    """A statistic of all rows and its standard error, from moments of separate chunks of the rows.

    Each chunk is left out once; the merges that takes grow linearly with the number of chunks. Chunks may differ
    in size, and have to be independent of each other (shuffle rows before cutting them).

    Args:
        statistic: Smooth function of moments, returning a number or a tensor.
        chunks: Moments of at least two disjoint sets of rows; empty ones are ignored.

    Returns:
        `statistic` of all chunks merged, and its standard error, of the same type and shape.

    Raises:
        ValueError: If fewer than two chunks hold rows.

    Source:
        Busing, Meijer and van der Leeden (1999), Delete-m jackknife for unequal m, Statistics and Computing 9.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> jackknife(lambda m: float(m.mean), [Moments.of(row[None]) for row in x])
        (3.5, 0.866...)
    """
    blocks = [chunk for chunk in chunks if float(chunk.count.sum()) > 0]
    if len(blocks) < 2:
        raise ValueError(
            f"the jackknife leaves out one chunk at a time and needs two with rows; got {len(blocks)}. "
            f"Cut the rows into more."
        )
    value = statistic(reduce(Moments.merge, blocks))
    whole = torch.as_tensor(value, dtype=torch.float64)
    left_out = torch.stack([torch.as_tensor(statistic(rest), dtype=torch.float64) for rest in _each_left_out(blocks)])
    sizes = torch.stack([block.count.sum() for block in blocks]).to(left_out.device)
    ratio = (sizes.sum() / sizes).reshape(-1, *[1] * whole.ndim)
    pseudo = ratio * whole - (ratio - 1) * left_out
    centre = (left_out * (1 - 1 / ratio)).sum(dim=0)
    error = ((pseudo - len(blocks) * whole + centre) ** 2 / (ratio - 1)).mean(dim=0).sqrt()
    return (value, error.to(value.dtype)) if isinstance(value, Tensor) else (float(value), float(error))


def _each_left_out(blocks: list[Moments]) -> list[Moments]:
    """All blocks but the i-th, for every i, by merging what comes before with what comes after."""
    before, after = [blocks[0]], [blocks[-1]]
    for ahead, behind in zip(blocks[1:-1], blocks[-2:0:-1], strict=True):
        before.append(before[-1].merge(ahead))
        after.append(behind.merge(after[-1]))
    after.reverse()
    middle = [left.merge(right) for left, right in zip(before[:-1], after[1:], strict=True)]
    return [after[0], *middle, before[-1]]


def _of_ids(
    x: Tensor, ids: Tensor, num_groups: int, weights: Tensor | None, precision: str | None, fourth: bool
) -> Moments:
    """One pass over the rows, in which only one chunk of `x` is ever copied."""
    wide = wide_products(x, precision)
    kept = None if weights is None else (weights > 0).nonzero()[:, 0]
    ids = ids if kept is None else ids[kept]
    mean = torch.zeros(num_groups, x.shape[1], dtype=torch.float64, device=x.device)
    count, scatter, buffers = torch.zeros_like(mean[:, 0]), mean.new_empty(*mean.shape, x.shape[1]), Buffers()
    sums = [Sums(x, weights, scatter[g], buffers, wide=wide) for g in range(num_groups)]
    for g, mine in _by_group(ids, kept, num_groups):
        sums[g].add(mine)
    for g, total in enumerate(sums):
        count[g], mean[g] = total.finish()
    cubic, quartic = (torch.zeros_like(mean), torch.zeros_like(count)) if fourth else (None, None)
    if cubic is not None and quartic is not None:
        for g, mine in _by_group(ids, kept, num_groups):
            more = fourth_order(x, mine, weights, mean[g])
            cubic[g], quartic[g] = cubic[g] + more[0], quartic[g] + more[1]
    sizes = torch.bincount(ids, minlength=num_groups)
    return Moments(count, mean, symmetrise(scatter), sizes, None, cubic, quartic)


def _by_group(ids: Tensor, kept: Tensor | None, num_groups: int) -> Iterator[tuple[int, Tensor | None]]:
    """A group and which rows belong to it, for spans of rows in the order in which they are stored.

    Rows in a file are so read once from its beginning to its end, however groups are mixed. None means all rows.
    """
    if num_groups == 1:
        yield 0, kept
        return
    span = CHUNK_ROWS * 7 // 8 * max(num_groups, 1)  # so that a group of usual size fits into one chunk
    for start in range(0, len(ids), span):
        here = ids[start : start + span]
        order = torch.argsort(here, stable=True) + start
        order = order if kept is None else kept[order]
        for g, mine in enumerate(order.split(torch.bincount(here, minlength=num_groups).tolist())):
            if len(mine):
                yield g, mine


def _aligned(one: Moments, two: Moments) -> tuple[Moments, Moments]:
    """The two with the same groups in the same places."""
    if one.mean.shape[-1] != two.mean.shape[-1]:
        raise ValueError(
            f"moments of {one.mean.shape[-1]} and of {two.mean.shape[-1]} features cannot be merged; "
            f"compute both from the same columns."
        )
    if one.classes is not None and two.classes is not None and one.classes != two.classes:
        names = tuple(sorted(set(one.classes) | set(two.classes), key=_natural))
        return _spread(one, names), _spread(two, names)
    if one.count.shape != two.count.shape:
        raise ValueError(
            f"moments with group axes {tuple(one.count.shape)} and {tuple(two.count.shape)} cannot be merged; "
            f"build both with `Moments.of_groups(x, group, num_groups)` and the same `num_groups`, or pool them first."
        )
    return replace(one, classes=one.classes or two.classes), two


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers by value, ahead of other names."""
    number = name.lstrip("-").isdigit()
    return not number, int(name) if number else 0, name


def _spread(moments: Moments, names: tuple[str, ...]) -> Moments:
    """The same groups placed among more names, the others empty."""
    place_of = {name: i for i, name in enumerate(names)}
    places = torch.tensor(
        [place_of[name] for name in moments.classes or ()], dtype=torch.int64, device=moments.count.device
    )

    def place(t: Tensor) -> Tensor:
        return t.new_zeros(len(names), *t.shape[1:]).index_copy_(0, places, t)

    return moments._map(place, names)


def _merge_fourth(one: Moments, two: Moments, step: Tensor, back: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Fourth-order sums about the common mean, if both sides keep them."""
    if one.cubic is None or one.quartic is None or two.cubic is None or two.quartic is None:
        return None, None
    first = move_fourth(one.cubic, one.quartic, one.count, one.scatter, step)
    second = move_fourth(two.cubic, two.quartic, two.count, two.scatter, back)
    return first[0] + second[0], first[1] + second[1]
