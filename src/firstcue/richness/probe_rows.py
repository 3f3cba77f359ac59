"""The rows on which a network is watched: taken from arrays or a loader, once."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_rows
from firstcue.batch import Batch

FEWEST_ROWS = 2000


def collected(data: Any, y: Any, max_rows: int | None) -> tuple[Tensor, Tensor | None]:
    """All rows of arrays, or as many as needed of an iterable; labels as the ids of the model's outputs."""
    if isinstance(data, Batch):
        return data.x, data.y.cpu()
    if isinstance(data, tuple) and len(data) == 2 and y is None:
        data, y = data
    if isinstance(data, Tensor | np.ndarray):
        x = as_tensor(data, "data")
        if y is None:
            return x, None
        require_rows(x, y, "data")
        return x, _ids(y)
    if not isinstance(data, Iterable):
        raise ValueError(f"`data` is a {type(data).__name__}; give inputs, a Batch, (x, y), or an iterable of (x, y).")
    return _from_parts(data, max_rows)


def _from_parts(data: Iterable[Any], max_rows: int | None) -> tuple[Tensor, Tensor | None]:
    enough = max_rows or 10 * FEWEST_ROWS
    inputs, labels, count = [], [], 0
    for item in data:
        x, y = (item.x, item.y) if isinstance(item, Batch) else (item[0], item[1]) if isinstance(item, tuple | list) else (item, None)  # fmt: skip
        inputs.append(as_tensor(x))
        labels.append(None if y is None else torch.as_tensor(y).cpu())
        count += len(inputs[-1])
        if count >= enough:
            break
    if not inputs:
        raise ValueError("`data` yields nothing; give it rows to probe.")
    known = [label for label in labels if label is not None]
    return torch.cat(inputs), torch.cat(known).long() if len(known) == len(labels) else None


def _ids(y: Any) -> Tensor:
    """Whole numbers are the ids of outputs already; other labels are numbered in sorted order."""
    ids, names = encode_labels(y)
    numbers = torch.tensor([int(name) if name.isdigit() else -1 for name in names])
    return ids.cpu() if bool((numbers < 0).any()) else numbers[ids.cpu()]
