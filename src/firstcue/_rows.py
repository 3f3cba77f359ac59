"""What statistics accept as rows, weights and group ids, what they answer to the rest, and work on a part at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_rows


def feature_rows(x: Any, name: str = "x") -> Tensor:
    """`(n, d)` real features, d >= 1, sharing memory with `x` where possible."""
    rows = as_tensor(x, name).detach()
    if rows.is_complex():
        raise ValueError(
            f"`{name}` is complex; real numbers are needed. Put real and imaginary parts in columns of their own."
        )
    if rows.ndim != 2 or rows.shape[1] == 0:
        column, flat = (
            f"{name}[:, None] for one feature",
            f"{name}.reshape(len({name}), -1), or pool maps and sequences first",
        )
        raise ValueError(
            f"`{name}` has shape {tuple(rows.shape)}; rows of features (n, d) with d >= 1 are needed: "
            f"{column if rows.ndim == 1 else flat}."
        )
    return rows


def row_weights(weights: Any, rows: Tensor) -> Tensor | None:
    """`(n,)` float64 on the rows' device, or None."""
    if weights is None:
        return None
    found = as_tensor(weights, "weights").detach().to(device=rows.device, dtype=torch.float64)
    require_rows(rows, found, y_name="weights")
    if found.ndim != 1 or not bool((found >= 0).all() and torch.isfinite(found).all()):
        bad = int((~(found >= 0) | found.isinf()).sum())
        raise ValueError(
            f"`weights` needs shape (n,), finite and not negative; got {tuple(found.shape)} with {bad} other values."
        )
    return found


def numbered_groups(group: Any, num_groups: int) -> tuple[Tensor, tuple[str, ...]]:
    """Ids that keep their place among `num_groups`, and the names 0, 1, ..."""
    labels, names = encode_labels(group, "group")
    one_hot = np.ndim(group) == 2 and np.shape(group)[1] > 1
    ids = labels if one_hot else _as_ids(labels, names)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_groups:
        wrong = ids.max() if int(ids.max()) >= num_groups else ids.min()
        raise ValueError(
            f"`group` has the id {int(wrong)} but `num_groups` is {num_groups}; ids run from 0 to {num_groups - 1}. "
            f"Leave `num_groups` out to have labels numbered for you."
        )
    return ids, tuple(str(i) for i in range(num_groups))


def _as_ids(labels: Tensor, names: tuple[str, ...]) -> Tensor:
    known = {"False": 0, "True": 1}
    values = [known.get(name, int(name) if name.lstrip("-").isdigit() else None) for name in names]
    if None in values:
        raise ValueError(
            f"`group` holds the label {names[values.index(None)]!r}, which is not an id, while `num_groups` is given; "
            f"leave `num_groups` out to have labels numbered for you."
        )
    return torch.tensor(values, dtype=torch.int64, device=labels.device)[labels] if values else labels


def in_parts(
    x: Tensor,
    work: Callable[[Tensor], Tensor],
    width: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    rows: int = 1024,
) -> Tensor:
    """`work` on so many rows at once, into one table `(n, width)` on `device`.

    Small results kept in a list between large temporary ones would leave holes in memory that nothing large fits into.
    """
    out = torch.empty(len(x), width, dtype=dtype, device=device)
    for start in range(0, len(x), rows):
        out[start : start + rows] = work(x[start : start + rows])
    return out
