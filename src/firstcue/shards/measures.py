"""What is measured on a shard: a frozen value whose fields say everything, so that results can be kept under its name."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, encode_labels, require_rows
from firstcue.forward import unwrap
from firstcue.layers import layer_moments_of
from firstcue.models import load_model
from firstcue.moments import Moments, _natural
from firstcue.pooling import Pool

CHUNK_ROWS = 16_384
"""Rows that are put beside their outputs at once."""


@runtime_checkable
class Measure(Protocol):
    """Moments by name, from the rows of one part of a shard."""

    def columns(self) -> tuple[str, ...]:
        """Columns that are read beside x."""

    def settings(self) -> dict[str, Any]:
        """Plain JSON values that decide the result, as part of the name under which it is kept."""

    def __call__(self, part: Mapping[str, Any]) -> Iterator[tuple[str, Moments]]:
        """Moments by name; those of one name are added up."""


@dataclass(frozen=True)
class Features:
    """Moments of x, or of [x, outputs] side by side, of all rows or by the values of columns.

    The result is called "x", or "joint" with outputs. Several columns in `by` give a group for every combination that
    occurs, named by the JSON list of its values (see `cell`).

    Args:
        by: Columns whose values form the groups.
        outputs: Column `(n,)` or `(n, K)` set beside x.
        precision: Of products, as in `Moments.of`. With "float64" any split of the rows gives the same moments to about
            1e-12 of their size; with None, that of the input: about twice as fast for float32 rows, and 1e-7.

    Example:
        >>> part = {"x": torch.eye(4), "y": ["a", "b", "a", "b"], "sex": [0, 0, 1, 1]}
        >>> ((name, moments),) = Features(by=("y", "sex"))(part)
        >>> name, moments.classes
        ('x', ('["a", "0"]', '["a", "1"]', '["b", "0"]', '["b", "1"]'))
    """

    by: tuple[str, ...] = ()
    outputs: str | None = None
    precision: str | None = "float64"

    def columns(self) -> tuple[str, ...]:
        """Columns that are read beside x."""
        return (*self.by, *(() if self.outputs is None else (self.outputs,)))

    def settings(self) -> dict[str, Any]:
        """All fields."""
        return {"kind": "features", **asdict(self)}

    def __call__(self, part: Mapping[str, Any]) -> Iterator[tuple[str, Moments]]:
        """Moments of the part, or of several pieces of it."""
        ids, names = (None, ()) if not self.by else group_ids(part, self.by)
        if self.outputs is None:
            yield "x", _moments(part["x"], ids, names, self.precision)
            return
        x, outputs = as_tensor(part["x"]), as_tensor(part[self.outputs], self.outputs)
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            side = outputs[rows].reshape(len(x[rows]), -1)
            kind = torch.promote_types(x.dtype, side.dtype)
            joint = torch.cat([x[rows].to(kind), side.to(kind)], dim=1)
            yield "joint", _moments(joint, None if ids is None else ids[rows], names, self.precision)


@dataclass(frozen=True)
class Layers:
    """Moments of named layers of a model that is run on the shard's inputs, one result for each layer.

    Args:
        model: `module:factory`, or a folder written by `firstcue fix`; every worker loads it once.
        layers: Names or patterns, as in `layer_moments`.
        by: Columns whose values form the groups.
        weights: A `.safetensors` file.
        pool: As in `layer_moments`.
        batch_size: Rows per call.
    """

    model: str
    layers: tuple[str, ...] = ("*",)
    by: tuple[str, ...] = ()
    weights: str | None = None
    pool: Pool = "mean"
    batch_size: int = 512

    def columns(self) -> tuple[str, ...]:
        """Columns that are read beside x."""
        return self.by

    def settings(self) -> dict[str, Any]:
        """All fields but the batch size, and when the weights were written."""
        fields = {name: value for name, value in asdict(self).items() if name != "batch_size"}
        written = None if self.weights is None else Path(self.weights).stat().st_mtime_ns
        return {"kind": "layers", **fields, "weights_written": written}

    def __call__(self, part: Mapping[str, Any]) -> Iterator[tuple[str, Moments]]:
        """Moments of every layer, over pieces of the part."""
        ids, names = (None, ()) if not self.by else group_ids(part, self.by)
        x, model = as_tensor(part["x"]), _loaded(self.model, self.weights)
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            group = None if ids is None else ids[rows]
            found = layer_moments_of(
                model,
                x[rows],
                self.layers,
                group=group,
                num_groups=None if group is None else len(names),
                pool=self.pool,
                batch_size=self.batch_size,
            )
            for layer, moments in found.items():
                yield layer, moments if group is None else _named(moments, names)


def cell(*values: Any) -> str:
    """The group's name for one value of each column: plain for one column, a JSON list for several.

    Example:
        >>> cell("cat"), cell("cat", 1)
        ('cat', '["cat", "1"]')
    """
    said = [str(value) for value in values]
    return said[0] if len(said) == 1 else json.dumps(said)


def values_of(name: str, columns: int) -> tuple[str, ...]:
    """The inverse of `cell`.

    Example:
        >>> values_of('["cat", "1"]', 2)
        ('cat', '1')
    """
    return (name,) if columns == 1 else tuple(json.loads(name))


def by_column(moments: Moments, column: int, columns: int) -> Moments:
    """Moments by the values of one column, from those by every combination of several.

    Args:
        moments: As `Features(by=...)` gives them.
        column: Which one, from 0.
        columns: How many there are.

    Example:
        >>> cells = Moments.of_groups(torch.eye(4), [cell(y, a) for y in "ab" for a in (0, 1)])
        >>> by_column(cells, 1, 2).classes
        ('0', '1')
    """
    places: dict[str, list[int]] = {}
    for i, name in enumerate(moments.classes or ()):
        places.setdefault(values_of(name, columns)[column], []).append(i)
    names = sorted(places, key=_natural)
    parts = [_rows_of(moments, places[name]).pool() for name in names]
    return Moments(
        torch.stack([part.count for part in parts]),
        torch.stack([part.mean for part in parts]),
        torch.stack([part.scatter for part in parts]),
        torch.stack([part.rows for part in parts]),
        tuple(names),
    )


def _rows_of(moments: Moments, places: list[int]) -> Moments:
    """Some of the groups."""
    return moments._map(lambda t: t[places], None)


def leading(moments: Moments, columns: int) -> Moments:
    """Moments of the first columns alone: of x, where outputs stand beside it."""
    return Moments(
        moments.count,
        moments.mean[..., :columns],
        moments.scatter[..., :columns, :columns],
        moments.rows,
        moments.classes,
    )


def group_ids(part: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """`(n,)` ids of the combinations of values that occur, and the name of each.

    Raises:
        ValueError: If a column is no label, or has another length than x.
    """
    coded = [encode_labels(part[name], name) for name in columns]
    for name, (ids, _) in zip(columns, coded, strict=True):
        require_rows(as_tensor(part["x"]), ids, y_name=name)
    joint = torch.zeros_like(coded[0][0])
    for ids, names in coded:
        joint = joint * len(names) + ids
    present, placed = joint.unique(return_inverse=True)
    values = []
    for number in present.tolist():
        parts: list[str] = []
        for _, names in reversed(coded):
            number, i = divmod(number, len(names))
            parts.append(names[i])
        values.append(cell(*reversed(parts)))
    return placed, tuple(values)


def _moments(x: Any, ids: Tensor | None, names: tuple[str, ...], precision: str | None) -> Moments:
    if ids is None:
        return Moments.of(x, precision=precision)
    return _named(Moments.of_groups(x, ids, len(names), precision=precision), names)


def _named(moments: Moments, names: tuple[str, ...]) -> Moments:
    return moments._map(lambda t: t, names)


@lru_cache(maxsize=1)
def _loaded(model: str, weights: str | None) -> nn.Module:
    return unwrap(load_model(model, weights))
