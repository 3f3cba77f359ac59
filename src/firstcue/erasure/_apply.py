"""What every eraser does around its formula: any shape, type and library in, the same out, a cache-sized block at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor

BLOCK_NUMBERS = 1 << 18
"""Numbers per block: a block and its copies stay in a core's cache."""


def as_rows(x: Any, d: int) -> Tensor:
    """`x` of shape `(..., d)` as a tensor `(n, d)`.

    Raises:
        ValueError: If the last axis is not `d` long.
    """
    tensor = as_tensor(x)
    if tensor.ndim == 0 or tensor.shape[-1] != d:
        raise ValueError(
            f"`x` has shape {tuple(tensor.shape)} but the eraser was fitted on {d} features; the last axis has to be those "
            f"{d}. For feature maps move the channels last: x.movedim(1, -1)."
        )
    return tensor.reshape(-1, d)


def like(rows: Tensor, x: Any) -> Any:
    """`rows` in the shape and library of `x`."""
    shaped = rows.reshape(tuple(np.shape(x)))
    return shaped if isinstance(x, Tensor) else shaped.numpy()


def result_type(rows: Tensor) -> torch.dtype:
    """That of the input; integers become float32, since an edit of integers is not an integer."""
    return rows.dtype if rows.dtype.is_floating_point else torch.float32


def working_type(rows: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def in_blocks(edit: Callable[..., Tensor], rows: Tensor, *beside: Tensor) -> Tensor:
    """`edit(rows, *beside)` for an edit that treats each row on its own, a block of rows at a time."""
    edited = torch.empty(rows.shape, dtype=result_type(rows), device=rows.device)
    size = max(16, BLOCK_NUMBERS // rows.shape[1])
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        edited[block] = edit(rows[block], *(b[block] for b in beside))
    return edited
