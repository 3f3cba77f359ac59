"""Simple things that can be said of every input, one number or word a row, and how to carry each over to another row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, require_finite

Kind = Literal["auto", "image", "table", "text", "tokens", "none"]
MOST_LEVELS = 50
"""Distinct values up to which a column of numbers counts as categories when it is metadata."""


@dataclass(frozen=True)
class Property:
    """One simple property of every row."""

    name: str
    values: np.ndarray
    """`(n,)` float64 numbers, or ids of `levels`."""

    levels: tuple[str, ...] = ()
    """Names of the categories; empty for a number."""

    measure: Callable[[Any], np.ndarray] | None = None
    """The same property of other inputs, `(m,)`; None for metadata, which inputs do not hold."""

    carry: Callable[[Any, Any], Any] | None = None
    """`carry(x, donors)`: each row of `x` with this property as its donor has it, all else kept; None if that cannot be done."""

    cell: tuple[int, int, int, int] | None = None
    """Top, bottom, left and right (ends excluded) of the part of the image it speaks of."""

    handicap: float = 0.0
    """Balanced accuracy by which it has to lead to be named first: what has a place or a plain name says more."""


def properties_of(x: Any, metadata: Mapping[str, Any] | None = None, *, kind: Kind = "auto") -> tuple[Property, ...]:
    """Every cheap property of the rows, the widest in meaning first.

    Args:
        x: Images `(n, c, h, w)` or `(n, h, w)`, a table `(n, columns)`, texts (a sequence of str), token ids `(n, length)`, or None.
        metadata: Columns `(n,)` that are known of the rows: file size, place, device.
        kind: What `x` is; "auto" tells by type and shape and takes integers for a table, so say "tokens" of token ids;
            "none" leaves `x` out (embeddings, whose columns mean nothing).

    Raises:
        ValueError: If `x` is of none of these forms, not finite, or a column has another length.

    Example:
        >>> [p.name for p in properties_of(torch.zeros(3, 2), {"place": ["sea", "land", "sea"]})]
        ['column 0', 'column 1', 'place']
    """
    found = () if x is None or kind == "none" else _of_inputs(x, kind)
    rows = len(found[0].values) if found else None
    return (*found, *(_column(name, column, rows) for name, column in (metadata or {}).items()))


def kind_of(x: Any) -> Kind:
    """Whether inputs are images, a table or texts, told by type and shape.

    Example:
        >>> kind_of(["a b", "c"]), kind_of(torch.zeros(2, 1, 4, 4))
        ('text', 'image')
    """
    if _is_text(x):
        return "text"
    dims = as_tensor(x).ndim
    if dims in (3, 4):
        return "image"
    if dims == 2:
        return "table"
    raise ValueError(
        f"`x` has {dims} axes; images are (n, c, h, w), tables (n, columns), texts a sequence of str. "
        f'Give kind="none" to look at metadata, embeddings and outputs only.'
    )


def _is_text(x: Any) -> bool:
    if isinstance(x, Tensor) or len(x) == 0:
        return False
    return isinstance(x[0], str) or (isinstance(x, np.ndarray) and x.dtype.kind == "U")


def _of_inputs(x: Any, kind: Kind) -> tuple[Property, ...]:
    kind = kind_of(x) if kind == "auto" else kind
    if kind == "text":
        from firstcue.spurious.text_properties import text_properties

        return text_properties(x)
    if kind == "tokens":
        from firstcue.spurious.token_properties import token_properties

        return token_properties(x)
    rows = as_tensor(x)
    require_finite(rows)
    if kind == "image":
        from firstcue.spurious.image_properties import image_properties

        return image_properties(rows)
    return _table(rows)


def _table(x: Tensor) -> tuple[Property, ...]:
    flat = x.flatten(start_dim=1)
    return tuple(
        Property(
            f"column {j}",
            column_of(flat, j),
            measure=partial(column_of, column=j),
            carry=partial(_carry_column, column=j),
        )
        for j in range(flat.shape[1])
    )


def column_of(x: Any, column: int) -> np.ndarray:
    """`(n,)` float64 values of one column."""
    return np.asarray(as_tensor(x).flatten(start_dim=1)[:, column].detach().cpu().double().numpy())


def _carry_column(x: Tensor, donors: Tensor, column: int) -> Tensor:
    changed = x.clone()
    changed.flatten(start_dim=1)[:, column] = donors.flatten(start_dim=1)[:, column].to(x)
    return changed


def _column(name: str, values: Any, rows: int | None) -> Property:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        raise ValueError(f"metadata column {name!r} has shape {array.shape}; one value per row is needed.")
    if array.dtype.kind in "iuf" and len(np.unique(array)) > MOST_LEVELS:
        numbers = array.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(f"metadata column {name!r} has NaN or infinite values; fill them or leave the column out.")
        return Property(name, numbers)
    levels, ids = np.unique(array.astype(str), return_inverse=True)
    return Property(name, ids.astype(np.float64), levels=tuple(levels.tolist()))


def take(x: Any, rows: Sequence[int] | np.ndarray | Tensor) -> Any:
    """Rows of a tensor, an array or a list of texts."""
    index = torch.as_tensor(rows)
    return x[index] if isinstance(x, Tensor) else [x[int(i)] for i in index]
