"""A batch: inputs, labels, and what is known about each row. Everything that loads or makes data returns one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_rows

Edit = Callable[[Tensor, int], Tensor]
"""`edit(x, value)` sets the cue of every row of `x` to attribute id `value` and keeps the core."""


@dataclass(frozen=True)
class Batch:
    """Rows of data with their labels, group, attribute and origin.

    Example:
        >>> batch = Batch.of(torch.randn(4, 2), ["cat", "dog", "cat", "dog"], background=["sea", "sea", "land", "land"])
        >>> batch.with_attribute("background").groups().tolist()
        [1, 3, 0, 2]
    """

    x: Tensor
    """`(n, ...)` inputs in the units the model expects."""

    y: Tensor
    """`(n,)` int64 class ids."""

    group: Tensor | None = None
    """`(n,)` int64 environment or group ids."""

    attribute: Tensor | None = None
    """`(n,)` int64 ids of the attribute's values."""

    index: Tensor | None = None
    """`(n,)` or `(n, m)` int64: which source rows a row was made from."""

    edit: Edit | None = None
    """Sets the cue in the input, where the data can say how."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    """Other `(n,)` columns by name, as they were read; any of them may serve as the attribute."""

    classes: tuple[str, ...] = ()
    """Name of each class id."""

    values: tuple[str, ...] = ()
    """Name of each attribute id."""

    cue: str = "attribute"
    """Name of the attribute."""

    @classmethod
    def of(
        cls, x: Any, y: Any, attribute: Any = None, *, cue: str = "attribute", edit: Edit | None = None, **columns: Any
    ) -> "Batch":
        """A batch from arrays; labels of any kind are encoded as ids and their names kept.

        Raises:
            ValueError: If lengths differ, or labels are not one class per row.
        """
        inputs = as_tensor(x)
        ids, classes = encode_labels(y)
        require_rows(inputs, ids)
        for name, column in columns.items():
            require_rows(inputs, column, y_name=name)
        batch = cls(inputs, ids, edit=edit, columns=columns, classes=classes)
        return batch if attribute is None else batch.with_attribute(attribute, cue=cue)

    def __len__(self) -> int:
        return len(self.y)

    def with_attribute(self, attribute: Any, *, cue: str | None = None) -> "Batch":
        """The same rows with `attribute` set, from a column's name or an array `(n,)`.

        Raises:
            ValueError: If no column has that name, or the length differs.
        """
        if isinstance(attribute, str):
            if attribute == self.cue and self.attribute is not None:
                return self
            if attribute not in self.columns:
                known = ", ".join(repr(c) for c in self.columns) or "none"
                raise ValueError(f"the data has no column {attribute!r}; columns found: {known}.")
            cue, attribute = attribute if cue is None else cue, self.columns[attribute]
        ids, values = encode_labels(attribute, cue or "attribute")
        require_rows(self.x, ids, y_name=cue or "attribute")
        # an editor speaks of one cue only: it goes with the attribute it was made for
        edit = self.edit if self.attribute is None or torch.equal(ids.cpu(), self.attribute.cpu()) else None
        return replace(self, attribute=ids, values=values, cue=cue or "attribute", edit=edit)

    def rows(self, index: Any) -> "Batch":
        """The rows at `index` (ids, slice or boolean mask)."""
        pick = torch.as_tensor(index) if not isinstance(index, slice) else index
        host = pick.cpu().numpy() if isinstance(pick, Tensor) else pick

        def take(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[pick]

        return replace(
            self,
            x=self.x[pick],
            y=self.y[pick],
            group=take(self.group),
            attribute=take(self.attribute),
            index=take(self.index),
            columns={name: np.asarray(column)[host] for name, column in self.columns.items()},
        )

    def groups(self) -> Tensor:
        """`(n,)` group ids `y * number of attribute values + attribute`, or `y` without an attribute."""
        return self.y if self.attribute is None else self.y * self.num_values + self.attribute

    @property
    def num_classes(self) -> int:
        """Number of classes, present or named."""
        return max(len(self.classes), int(self.y.max()) + 1 if len(self.y) else 0)

    @property
    def num_values(self) -> int:
        """Number of attribute values, present or named; 1 without an attribute."""
        if self.attribute is None:
            return 1
        return max(len(self.values), int(self.attribute.max()) + 1 if len(self.y) else 0)


def balanced_rows(group: Tensor, generator: torch.Generator, size: int | None = None) -> Tensor:
    """Row ids, shuffled, with equally many rows of every group present: that of the smallest, never more.

    Args:
        group: `(n,)` ids.
        generator: Source of randomness.
        size: Rows per group wanted; cut to the smallest group.

    Example:
        >>> rows = balanced_rows(torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0))
        >>> sorted(torch.tensor([0, 0, 0, 1])[rows].tolist())
        [0, 1]
    """
    members = [(group == g).nonzero()[:, 0] for g in group.unique()]
    smallest = min(len(m) for m in members)
    size = smallest if size is None else min(size, smallest)
    picked = torch.cat([m[torch.randperm(len(m), generator=generator)[:size].to(m.device)] for m in members])
    return picked[torch.randperm(len(picked), generator=generator).to(picked.device)]


def concatenate(parts: Iterable[Batch]) -> Batch:
    """One batch from several with the same fields; names are those of the first.

    Raises:
        ValueError: If there is nothing to concatenate.
    """
    batches = list(parts)
    if not batches:
        raise ValueError("the data yields no batch; check that the loader is not exhausted or its data set empty.")
    first = batches[0]

    def join(name: str) -> Tensor | None:
        values = [getattr(b, name) for b in batches]
        return None if any(v is None for v in values) else torch.cat(values)

    columns = {
        c: np.concatenate([np.asarray(b.columns[c]) for b in batches])
        for c in first.columns
        if all(c in b.columns for b in batches)
    }
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    return replace(
        first, x=x, y=y, group=join("group"), attribute=join("attribute"), index=join("index"), columns=columns
    )


def as_batch(data: Any, attribute: Any = None, *, name: str = "data") -> Batch:
    """A batch from a `Batch`, a pair `(x, y)`, a triple `(x, y, attribute)`, a mapping, or an iterable of those.

    Args:
        data: The rows; a DataLoader is an iterable of pairs or triples.
        attribute: Array `(n,)`, or the name of a column; replaces what the data carries.
        name: What to call `data` in an error.

    Raises:
        ValueError: If the form is not one of these, or no attribute is found where one is asked for.
    """
    batch = _read_batch(data, name)
    if attribute is None:
        return batch
    if (
        isinstance(attribute, str)
        and batch.attribute is not None
        and attribute not in batch.columns
        and not batch.columns
    ):
        return replace(batch, cue=attribute)
    return batch.with_attribute(attribute)


def _read_batch(data: Any, name: str) -> Batch:
    if isinstance(data, Batch):
        return data
    if isinstance(data, Mapping):
        missing = [key for key in ("x", "y") if key not in data]
        if missing:
            raise ValueError(
                f"`{name}` is a mapping without {missing}; keys found: {sorted(data)}. Needed: x, y and any columns."
            )
        return _named_columns(data)
    if (
        isinstance(data, tuple | list)
        and len(data) in (2, 3)
        and not isinstance(data[0], tuple | list | Batch | Mapping)
    ):
        return Batch.of(*data)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return _joined(list(data), name)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes):
        return _joined([data[i] for i in range(len(data))], name)  # a torch Dataset
    raise ValueError(
        f"`{name}` is a {type(data).__name__}; firstcue reads a Batch, (x, y), (x, y, attribute), a mapping with x and y, "
        f"an iterable of those (a DataLoader), or a path."
    )


def _named_columns(data: Mapping[str, Any]) -> Batch:
    """A batch from x, y and columns; one called "cue" or "edit" is a column too, unless it is what `Batch.of` takes."""
    rest = {name: value for name, value in data.items() if name not in ("x", "y")}
    clash = [n for n in ("cue", "edit") if n in rest and not isinstance(rest[n], str) and not callable(rest[n])]
    own: dict[str, Any] = {name: rest.pop(name) for name in clash}
    batch = Batch.of(data["x"], data["y"], **rest)
    for name, column in own.items():
        require_rows(batch.x, column, y_name=name)
    return replace(batch, columns={**batch.columns, **own})


def _joined(parts: list[Any], name: str) -> Batch:
    """Arrays are joined before labels are encoded: a class absent from one part must not shift the ids of another."""
    if not parts:
        raise ValueError(f"`{name}` yields nothing; check that the loader is not exhausted or its data set empty.")
    if all(isinstance(p, Batch) for p in parts):
        return concatenate(parts)
    if all(isinstance(p, Mapping) for p in parts):
        return _read_batch({key: _stack([p[key] for p in parts]) for key in parts[0]}, name)
    sizes = {len(p) for p in parts if isinstance(p, tuple | list)}
    if len(sizes) != 1 or sizes - {2, 3} or not all(isinstance(p, tuple | list) for p in parts):
        found = sorted({type(p).__name__ if not isinstance(p, tuple | list) else f"{len(p)}-tuple" for p in parts})
        raise ValueError(
            f"`{name}` yields {', '.join(found)}; every item has to be (x, y), (x, y, attribute) or a Batch."
        )
    single = np.ndim(parts[0][1]) == 0  # a data set of examples rather than a loader of batches
    return Batch.of(*(_stack([p[i] for p in parts], single) for i in range(sizes.pop())))


def _stack(parts: list[Any], single: bool = False) -> Any:
    """Join batches along their rows; single examples are stacked."""
    if all(isinstance(p, Tensor) for p in parts):
        return torch.stack(parts) if single else torch.cat(parts)
    return np.stack([np.asarray(p) for p in parts]) if single else np.concatenate([np.asarray(p) for p in parts])
