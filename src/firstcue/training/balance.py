"""What rows a head is fitted on: equally many of every group, never more than the smallest has, else of every class."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows

Balance = Literal["group", "class", "none"]


@dataclass(frozen=True)
class Rows:
    """Features with class ids, and a group id if groups are known."""

    x: Float[np.ndarray, "n d"]
    y: Int[Tensor, " n"]
    group: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Cells:
    """The ids that rows are balanced on."""

    kind: Balance
    held: Int[Tensor, " n"]
    train: Tensor | None
    """`(m,)` the same ids for the training rows, if there are any."""
    names: tuple[str, ...]
    note: str = ""


def read_rows(
    features: Any,
    y: Any,
    group: Any,
    train: tuple[Any, ...] | None,
    num_classes: int | None = None,
    num_groups: int | None = None,
) -> tuple[Rows, Rows | None, int, tuple[str, ...]]:
    """Held-out and training rows with ids that mean the same in both, the number of classes, and names of the groups.

    Args:
        features: `(n, d)`.
        y: `(n,)` labels; ids from 0 where `num_classes` is given.
        group: `(n,)` labels, or None.
        train: `(features, y)` or `(features, y, group)`, or None.
        num_classes: K of the head, or None to count.
        num_groups: Group ids run from 0 to this, if given: an absent one is then noticed wherever it is.

    Raises:
        ValueError: If shapes differ, numbers are not finite, or a class has fewer than two held-out rows.
    """
    parts = [(features, y, group), *([] if train is None else [(*train, None)[:3]])]
    arrays = [_features(part[0], name) for part, name in zip(parts, ("features", "train features"), strict=False)]
    for array, part in zip(arrays, parts, strict=True):
        require_rows(array, part[1], "features")
        if part[2] is not None:
            require_rows(array, part[2], "features", "group")
    if arrays[-1].shape[1] != arrays[0].shape[1]:
        raise ValueError(
            f"held-out features have {arrays[0].shape[1]} dimensions, training features {arrays[-1].shape[1]}."
        )
    classes, _ = _encoded([part[1] for part in parts], num_classes, "y")
    groups, names = _encoded([part[2] for part in parts], num_groups, "group")
    rows = [Rows(_host(a), c, g) for a, c, g in zip(arrays, classes, groups, strict=True)]
    count = num_classes or 1 + max(int(c.max()) for c in classes)
    _require_classes(rows[0].y, count)
    return rows[0], rows[1] if train is not None else None, count, names


def cells_of(held: Rows, train: Rows | None, num_classes: int, names: tuple[str, ...], *, drawn: Rows) -> Cells:
    """The groups to balance on; the classes where a group lacks rows in `drawn`, and a note that says so.

    Groups that mix classes are crossed with the class, so that balancing them also balances the classes.

    Args:
        held: Held-out rows.
        train: Training rows; a group found there is expected in `drawn` too.
        num_classes: K.
        names: Of the group ids.
        drawn: The rows that will be resampled: `held` or `train`.
    """
    if held.group is None:
        raise ValueError(
            'this method balances groups, but `group` is None; give group ids (class by attribute), or use "class-balanced".'
        )
    members = [rows for rows in (held, train) if rows is not None and rows.group is not None]
    ids = [rows.group for rows in members if rows.group is not None]
    if _mixes_classes(members):
        width = len(names)
        ids = [rows.y * width + group for rows, group in zip(members, ids, strict=True)]
        names = tuple(f"y={y}, {name}" for y in range(num_classes) for name in names)
    cells = Cells("group", ids[0], ids[1] if len(ids) > 1 else None, names)
    counted = cells.held if drawn is held else cells.train
    if counted is None:
        return by_class(held, train, num_classes, "training rows have no groups: classes are balanced instead")
    counts = torch.bincount(counted, minlength=len(names))
    small = [f"{name} ({n} rows)" for name, n in zip(names, counts.tolist(), strict=True) if n < 2]
    if small:
        listed = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
        return by_class(
            held, train, num_classes, f"groups absent or with one row: {listed}; classes are balanced instead"
        )
    return cells


def by_class(held: Rows, train: Rows | None, num_classes: int, note: str = "") -> Cells:
    """The classes as what is balanced."""
    return Cells("class", held.y, None if train is None else train.y, tuple(str(y) for y in range(num_classes)), note)


def halves(cells: Int[Tensor, " n"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two disjoint halves of the rows, each with half of every cell: row ids for scoring and for fitting.

    Example:
        >>> score, fit = halves(torch.tensor([0, 0, 1, 1, 1]), torch.Generator().manual_seed(0))
        >>> len(score), len(fit)
        (3, 2)
    """
    shuffled = torch.randperm(len(cells), generator=generator)
    parts = [shuffled[cells[shuffled] == cell] for cell in cells.unique()]
    return torch.cat([p[len(p) // 2 :] for p in parts]), torch.cat([p[: len(p) // 2] for p in parts])


def worst_accuracy(correct: Bool[Tensor, " n"], cells: Int[Tensor, " n"]) -> float:
    """The lowest accuracy over the cells present, a fraction.

    Example:
        >>> worst_accuracy(torch.tensor([True, True, False]), torch.tensor([0, 1, 1]))
        0.5
    """
    total = torch.bincount(cells)
    right = torch.bincount(cells[correct], minlength=len(total))
    return float((right[total > 0] / total[total > 0]).min())


def _features(features: Any, name: str) -> Tensor:
    x = as_tensor(features, name).detach()
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}; (n, d) is needed, one row of features per example.")
    require_finite(x, name)
    return x


def _host(x: Tensor) -> np.ndarray:
    return (x if x.dtype == torch.float64 else x.float()).cpu().numpy()


def _encoded(labels: list[Any], count: int | None, name: str) -> tuple[list[Any], tuple[str, ...]]:
    """Ids that mean the same in every part, and their names; None stays None."""
    if count is not None:
        return [None if part is None else _ids(part, count, name) for part in labels], tuple(map(str, range(count)))
    given = [part for part in labels if part is not None]
    if not given:
        return [None] * len(labels), ()
    arrays = [part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in given]
    ids, names = encode_labels(np.concatenate(arrays), name)
    pieces = iter(ids.split([len(array) for array in arrays]))
    return [None if part is None else next(pieces) for part in labels], names


def _ids(labels: Any, count: int, name: str) -> Tensor:
    ids = as_tensor(labels, name).detach().cpu()
    if ids.ndim == 1 and len(ids) and not ids.is_floating_point() and 0 <= int(ids.min()) <= int(ids.max()) < count:
        return ids.long()
    raise ValueError(
        f"`{name}` has dtype {ids.dtype}, shape {tuple(ids.shape)}"
        f"{f' and values from {ids.min()} to {ids.max()}' if ids.numel() else ''}; ids from 0 to {count - 1} are needed, one "
        f"per row, as the head or `num_groups` counts them."
    )


def _require_classes(y: Tensor, num_classes: int) -> None:
    counts = torch.bincount(y, minlength=num_classes)
    few = [f"class {c} has {int(n)}" for c, n in enumerate(counts) if n < 2]
    if few or num_classes < 2:
        found = ", ".join(few[:5]) or f"there is {num_classes}"
        raise ValueError(
            f"retraining a head needs at least two held-out rows of each of at least two classes, but {found}. Collect more "
            f"held-out rows, or keep the head as it is."
        )


def _mixes_classes(members: list[Rows]) -> bool:
    group = torch.cat([rows.group for rows in members if rows.group is not None])
    y = torch.cat([rows.y for rows in members if rows.group is not None])
    pairs = torch.stack([group, y], dim=1).unique(dim=0)
    return len(pairs) > len(group.unique())
