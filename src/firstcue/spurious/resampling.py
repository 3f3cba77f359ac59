"""Real rows chosen so that an attribute they have goes with the label exactly as often as asked for."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.spurious.counts import partners, require_strength
from firstcue.spurious.cues import digests, require_value


def confounded(
    batch: Batch, strength: float, *, n: int | None = None, goes_with: Sequence[int] | None = None, seed: int = 0
) -> Batch:
    """Some of the rows, none twice: equally many of each class, a fraction `strength` with the value that goes with it.

    Rows that conflict are spread as evenly as possible over the other values.

    Args:
        batch: Rows with an attribute.
        strength: Fraction of each class whose attribute agrees with its label; 1 over the number of values is independence.
        n: Rows; as many as there can be when absent.
        goes_with: Value that goes with each class; class id modulo their number when absent.
        seed: Seed of the choice.

    Raises:
        ValueError: If there is no attribute, or too few rows of a group.

    Example:
        >>> from firstcue.data import read
        >>> rows = column_attribute(read("builtin:breast-cancer"), 1)
        >>> confounded(rows, 0.9, n=200, goes_with=(1, 0)).groups().bincount().tolist()
        [10, 90, 90, 10]
    """
    require_strength(strength)
    if batch.attribute is None:
        raise ValueError("the rows have no attribute to go with the label; set one with batch.with_attribute(...).")
    partner = partners(batch, goes_with, batch.num_values)
    members = _members(batch)
    largest = _largest(members, partner, strength)
    per_class = largest if n is None else n // batch.num_classes
    if per_class < 1 or per_class > largest:
        counts = {f"{label},{value}": len(rows) for (label, value), rows in members.items()}
        raise ValueError(
            f"{per_class} rows of each class were asked for, but at strength {strength} there are enough for {largest}; rows "
            f"by class and value: {counts}. Ask for fewer, or for a strength nearer to that of the data."
        )
    generator = torch.Generator().manual_seed(seed)
    picked = [
        rows[torch.randperm(len(rows), generator=generator)[: wanted[value]]]
        for label, agrees in enumerate(partner)
        for wanted in [_wanted(per_class, agrees, batch.num_values, strength)]
        for value in range(batch.num_values)
        for rows in [members[label, value]]
    ]
    return batch.rows(torch.cat(picked).sort().values.to(batch.y.device))


def _members(batch: Batch) -> dict[tuple[int, int], Tensor]:
    group = batch.groups().cpu()
    values = batch.num_values
    return {
        (label, value): (group == label * values + value).nonzero()[:, 0]
        for label in range(batch.num_classes)
        for value in range(values)
    }


def _wanted(rows: int, agrees: int, num_values: int, strength: float) -> list[int]:
    """Rows of each value among `rows` of one class."""
    conflicts = round(rows * (1 - strength))
    others = [value for value in range(num_values) if value != agrees]
    counts = [0] * num_values
    counts[agrees] = rows - conflicts
    for place, value in enumerate(others):
        counts[value] = conflicts // len(others) + (place < conflicts % len(others))
    return counts


def _largest(members: dict[tuple[int, int], Tensor], partner: list[int], strength: float) -> int:
    """Rows per class for which every group has enough: found by bisection, since counts only grow."""
    num_values = 1 + max(value for _, value in members)

    def enough(rows: int) -> bool:
        return all(
            count <= len(members[label, value])
            for label, agrees in enumerate(partner)
            for value, count in enumerate(_wanted(rows, agrees, num_values, strength))
        )

    low, high = 0, sum(map(len, members.values())) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def column_attribute(batch: Batch, column: int, *, name: str | None = None, at: float | None = None) -> Batch:
    """The same rows with an attribute: whether a column of the table is above a threshold.

    The editor puts into that column the value of another row from the wanted side, drawn by the content of the row's
    other columns, so that it changes nothing else.

    Args:
        batch: x `(n, d)`.
        column: Which.
        name: Of the attribute.
        at: Threshold; the median when absent.

    Raises:
        ValueError: If x is no table, or all rows are on one side.

    Example:
        >>> rows = column_attribute(Batch.of(torch.tensor([[1.0], [2.0], [3.0]]), [0, 1, 0]), 0)
        >>> rows.values, rows.attribute.tolist()
        (('up to 2', 'above 2'), [0, 0, 1])
    """
    if batch.x.ndim != 2 or not 0 <= column < batch.x.shape[1]:
        raise ValueError(f"there is no column {column} in x of shape {tuple(batch.x.shape)}; a table (n, d) is needed.")
    cells = batch.x[:, column]
    threshold = float(cells.median()) if at is None else at
    side = (cells > threshold).long()
    if len(side.unique()) < 2:
        raise ValueError(
            f"all rows are on one side of {threshold:g} in column {column}; name a threshold between "
            f"{float(cells.min()):g} and {float(cells.max()):g}."
        )
    values = (f"up to {threshold:.4g}", f"above {threshold:.4g}")
    pools = tuple(cells[side == v].clone() for v in (0, 1))
    edit = partial(_set_column, column=column, pools=pools, values=values)
    return replace(batch, attribute=side, values=values, cue=name or f"column {column}", edit=edit)


def _set_column(x: Tensor, value: int, column: int, pools: tuple[Tensor, ...], values: tuple[str, ...]) -> Tensor:
    pool = pools[require_value(value, values)]
    rest = x.clone()
    rest[:, column] = 0
    drawn = torch.tensor([digest % len(pool) for digest in digests(rest, 0)], dtype=torch.int64)
    rest[:, column] = pool[drawn.to(pool.device)].to(rest)
    return rest
