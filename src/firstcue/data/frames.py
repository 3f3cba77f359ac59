"""Tables in memory, of pandas or Polars: the same rules as for a CSV file, and every column that a fitted model reads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import encode_labels
from firstcue.batch import Batch
from firstcue.data.arrays import with_columns
from firstcue.data.tables import label_column, table
from firstcue.integrations.frames import Column, columns_of, encode


def read_frame(frame: Any, *, y: Any = None, label: str | None = None, attributes: Sequence[str] = ()) -> Batch:
    """A batch from a table of pandas or Polars.

    Args:
        frame: The table.
        y: Labels `(n,)`, where the table has none.
        label: Column of the label; `y` or `label` when absent.
        attributes: Numeric columns that are attributes rather than features.

    Returns:
        Columns of text and those named in `attributes` are columns of the batch; the others are x, `(n, d)` float32, in the
        order of the table.

    Raises:
        ValueError: If a column is missing, nested or has empty cells.

    Example:
        >>> import pandas
        >>> rows = pandas.DataFrame({"age": [30.0, 40.0], "sex": ["f", "m"], "y": ["no", "yes"]})
        >>> batch = read_frame(rows)
        >>> tuple(batch.x.shape), batch.classes, list(batch.columns)
        ((2, 1), ('no', 'yes'), ['sex'])
    """
    columns, label = labelled(columns_of(frame), y, label)
    return table(columns, "the table", label=label, attributes=attributes)


def labelled(
    columns: Mapping[str, np.ndarray], y: Any, label: str | None, name: str = "the table"
) -> tuple[dict[str, np.ndarray], str]:
    """The columns with the label among them, and its name."""
    if y is None:
        return dict(columns), label_column(columns, name, label)
    chosen = label or "label"
    if chosen in columns:
        raise ValueError(f"{name} has a column {chosen!r}, and labels are given apart from it; leave one of them out.")
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if len(values) != len(next(iter(columns.values()), ())):
        raise ValueError(f"{name} has {len(next(iter(columns.values()), ()))} rows but `y` has {len(values)}.")
    return {**columns, chosen: values}, chosen


def rows_for(
    columns: Mapping[str, np.ndarray],
    reads: Sequence[Column],
    *,
    label: str,
    levels: Mapping[str, np.ndarray] | None = None,
) -> Batch:
    """A batch whose x holds just the columns that a model reads, in its order; the others are columns of the batch.

    A cue that is one of them comes with its editor, which sets that column and nothing else.

    Args:
        columns: The table with its label.
        reads: What the model reads, and how each column stands in x.
        label: Column of the label.
        levels: The cues, each with its sorted values; the first that the model reads becomes the batch's attribute.

    Returns:
        x is `(n, d)` float64.

    Raises:
        ValueError: If the model reads the label, or a cue is no column.
    """
    names = [column.name for column in reads]
    levels = {} if levels is None else levels
    if label in names:
        raise ValueError(f"the model reads the column {label!r}, which is named as the label; name another label.")
    aside = [c for c in columns if c != label and (c not in names or c in levels)]
    batch = Batch.of(torch.from_numpy(encode(columns, reads)), columns[label])
    batch = with_columns(batch, {c: columns[c] for c in aside})
    read = next((cue for cue in levels if cue in names), None)
    return batch if read is None else _editable(batch, reads[names.index(read)], names.index(read), levels[read])


def _editable(batch: Batch, column: Column, place: int, levels: np.ndarray) -> Batch:
    """The batch with a column that the model reads as its attribute, and the way to set it."""
    cue = column.name
    _, values = encode_labels(levels, cue)
    ids = torch.from_numpy(np.searchsorted(levels, batch.columns[cue]))
    cells = torch.from_numpy(encode({cue: levels}, [column])[:, 0])
    return replace(batch, attribute=ids, values=values, cue=cue, edit=partial(_set_column, place=place, cells=cells))


def _set_column(x: Tensor, value: int, place: int, cells: Tensor) -> Tensor:
    edited = x.clone()
    edited[:, place] = cells[value]
    return edited
