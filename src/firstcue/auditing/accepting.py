"""Models and tables of other libraries, taken as they are: what an audit and a repair do first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from firstcue.batch import Batch, as_batch
from firstcue.data.frames import labelled, read_frame, rows_for
from firstcue.data.tables import csv_columns, parquet_columns
from firstcue.integrations.estimators import Estimated, Table
from firstcue.integrations.frames import columns_of, is_frame, library_of, schema
from firstcue.integrations.modules import as_module

TABLES = (".csv", ".tsv", ".parquet", ".pq")


@dataclass(frozen=True)
class Columns:
    """A table with its label, not yet cut to what a model reads."""

    columns: dict[str, np.ndarray]
    label: str
    library: str = ""
    attribute: Any = None
    """Values of the attribute, where they were given beside the table."""


def accepted(model: Any, data: Any, held_out: Any = None, attribute: Any = None) -> tuple[nn.Module, Any, Any]:
    """Model and rows as an audit takes them.

    Tables of pandas and Polars become batches; a model that was fitted on names gets just the columns that it reads, and a
    cue among them its editor. Labels of an estimator are those that it was fitted on.

    Raises:
        ValueError: If model or data cannot be used.
    """
    module = as_module(model)
    cues = [attribute] if isinstance(attribute, str) else _names(attribute)
    if not isinstance(module, Estimated):
        return module, _plain(data, cues), _plain(held_out, cues)
    if module.names is not None:
        data, held_out = _as_table(data, cues), _as_table(held_out, cues)
        if isinstance(data, Columns) and isinstance(held_out, Columns | None):
            return _bound(module, data, held_out, cues)
    return module, _with_classes(_plain(data, cues), module), _with_classes(_plain(held_out, cues), module)


def read_table(path: str | Path, label: str | None = None, attributes: Sequence[str] = ()) -> Columns:
    """A CSV or Parquet file with all its columns.

    Raises:
        ValueError: If the file is damaged or has no label.
    """
    is_csv = Path(path).suffix.lower() in TABLES[:2]
    columns = csv_columns(path, label, attributes) if is_csv else parquet_columns(path)
    return Columns(*labelled(columns, None, label, str(path)))


def _names(attribute: Any) -> list[str]:
    if isinstance(attribute, list | tuple) and all(isinstance(name, str) for name in attribute):
        return list(attribute)
    return []


def _framed(data: Any) -> bool:
    """Whether data is a table, or a table with labels and perhaps an attribute."""
    return is_frame(data) or (isinstance(data, tuple | list) and len(data) in (2, 3) and is_frame(data[0]))


def _plain(data: Any, cues: Sequence[str]) -> Any:
    """Data with tables read as a file would be; other forms as they are."""
    if data is None or not _framed(data):
        return data
    frame, *rest = data if isinstance(data, tuple | list) else (data,)
    known = [cue for cue in cues if cue in [str(name) for name in frame.columns]]
    batch = read_frame(frame, y=rest[0] if rest else None, attributes=known)
    return batch.with_attribute(rest[1]) if len(rest) > 1 else batch


def _as_table(data: Any, cues: Sequence[str]) -> Any:
    if isinstance(data, str | Path) and Path(data).suffix.lower() in TABLES and Path(data).is_file():
        return read_table(data, attributes=cues)
    if data is None or not _framed(data):
        return data
    frame, y, given = (*data, None)[:3] if isinstance(data, tuple | list) else (data, None, None)
    return Columns(*labelled(columns_of(frame), y, None), library_of(frame), given)


def _bound(model: Estimated, data: Columns, held: Columns | None, cues: Sequence[str]) -> tuple[nn.Module, Any, Any]:
    """The model told what the columns of x are, and the rows in those columns."""
    assert model.names is not None
    parts = [data] if held is None else [data, held]
    reads = schema([part.columns for part in parts], model.names)
    levels = {}
    for cue in cues:
        absent = [part for part in parts if cue not in part.columns]
        if absent:
            known = ", ".join(map(repr, absent[0].columns))
            raise ValueError(f"the data has no attribute {cue!r}; columns found: {known}.")
        levels[cue] = np.unique(np.concatenate([part.columns[cue] for part in parts]))
    model.table = Table(reads, data.library)
    batches = []
    for part in parts:
        batch = rows_for(part.columns, reads, label=part.label, levels=levels)
        batch = batch if part.attribute is None else batch.with_attribute(part.attribute)
        batches.append(_with_classes(batch, model))
    return model, batches[0], batches[1] if held is not None else None


def _with_classes(data: Any, model: Estimated) -> Any:
    """Rows whose class ids are the places of their labels among those that the estimator was fitted on."""
    if data is None:
        return None
    batch = _read(data)
    known, found = model.classes, batch.classes
    if not found or found == known:
        return batch
    strange = [name for name in found if name not in known]
    are_places = all(name.isdigit() and int(name) < len(known) for name in found)
    if strange and not (are_places and not any(name.isdigit() for name in known)):
        raise ValueError(
            f"the data has the label {strange[0]!r}, but the {type(model.estimator).__name__} was fitted on "
            f"{', '.join(known[:6])}{', ...' if len(known) > 6 else ''}; give labels as they were at the fit."
        )
    place = torch.tensor([int(name) if strange else known.index(name) for name in found])
    return replace(batch, y=place[batch.y.cpu()], classes=known)


def _read(data: Any) -> Batch:
    if isinstance(data, str | Path):
        from firstcue.data import read

        return read(str(data))
    return as_batch(data)
