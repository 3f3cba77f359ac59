"""What every surrogate does around its formula: rows by class, labels to make or to move to, and the batch in the end."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import encode_labels, require_rows
from firstcue.batch import Batch
from firstcue.erasure._apply import result_type
from firstcue.erasure._points import flat_rows


def generator(seed: int) -> torch.Generator:
    """The one source of randomness of a surrogate."""
    return torch.Generator().manual_seed(seed)


def rows_by_class(batch: Batch, *, at_least: int = 1) -> dict[int, Tensor]:
    """Flattened float64 rows of every class that has some.

    Raises:
        ValueError: If a class has too few.
    """
    rows, y = flat_rows(batch.x), batch.y
    require_rows(rows, y)
    found = {c: rows[y == c].double() for c in y.unique().tolist()}
    small = [c for c, mine in found.items() if len(mine) < at_least]
    if small:
        name = batch.classes[small[0]] if small[0] < len(batch.classes) else str(small[0])
        raise ValueError(
            f"class {name!r} has {len(found[small[0]])} row; its covariance needs at least {at_least}. Drop the class."
        )
    return found


def made(batch: Batch, per_class: int | None, make: Callable[[int, int], Tensor]) -> Batch:
    """A batch of new rows, `make(class, how many)` for each class.

    Without `per_class` the labels are those of `batch`, row by row; else that many of every class present, in turn.

    Raises:
        ValueError: If `per_class` is not positive.
    """
    if per_class is not None and per_class < 1:
        raise ValueError(f"`per_class` is a number of rows, at least 1; got {per_class}.")
    present = batch.y.unique()
    y = batch.y if per_class is None else present.repeat_interleave(per_class)
    x = torch.empty(len(y), batch.x[0].numel(), dtype=result_type(batch.x), device=batch.x.device)
    for c in present.tolist():
        mine = (y == c).nonzero()[:, 0]
        x[mine] = make(c, len(mine)).to(x)
    return Batch(x.reshape(len(y), *batch.x.shape[1:]), y.clone(), classes=batch.classes)


def edited(batch: Batch, x: Tensor, target: Tensor) -> Batch:
    """A batch of edited rows that bear the labels they were edited towards; `index` and a column tell where from."""
    names = batch.classes or tuple(str(c) for c in range(batch.num_classes))
    source = [names[c] for c in batch.y.tolist()]
    return Batch(
        x.reshape(batch.x.shape).to(result_type(batch.x)),
        target,
        index=torch.arange(len(target), device=target.device),
        columns={"source": source},
        classes=batch.classes,
    )


def targets(batch: Batch, target: Any, seed: int) -> Tensor:
    """Class ids `(n,)` to edit each row towards: those given, as ids or names, or another class drawn for each row.

    Raises:
        ValueError: If there is one class only, or a target class has no rows.
    """
    present = batch.y.unique()
    if len(present) < 2:
        raise ValueError("rows are edited towards another class, and there is one class only; give at least two.")
    if target is None:
        place = torch.searchsorted(present, batch.y)
        steps = torch.randint(1, len(present), (len(batch.y),), generator=generator(seed)).to(place.device)
        return present[(place + steps) % len(present)]
    require_rows(batch.y, target, "batch", "target")
    labels, names = encode_labels(target, "target")
    known = batch.classes or tuple(str(c) for c in range(batch.num_classes))
    # numbers are class ids, as in batch.y; words are names
    numbers = isinstance(target, Tensor) or np.asarray(target).dtype.kind in "biuf"
    place_of = {str(c) if numbers else name: c for c, name in enumerate(known)}
    missing = [name for name in names if place_of.get(name) not in present.tolist()]
    if missing:
        here = present.tolist() if numbers else [known[c] for c in present.tolist()]
        raise ValueError(f"`target` holds {missing}, of which the batch has no rows; it has rows of {here}.")
    return torch.tensor([place_of[name] for name in names], dtype=torch.int64)[labels.cpu()].to(batch.y.device)
