"""Tables: one row per example, one column for the label, numeric columns as features, the rest as attributes."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstcue._extras import require_extra
from firstcue.batch import Batch
from firstcue.data.arrays import with_columns
from firstcue.data.files import existing, reading, refuse_empty

LABEL_NAMES = ("y", "label")
EMPTY = {"", "na", "n/a", "null", "none"}
"""What an absent value looks like in a CSV file."""


def read_csv(path: str | Path, *, label: str | None = None, attributes: Sequence[str] = ()) -> Batch:
    """A batch from a CSV file whose first line names the columns; see `table` for what each column becomes.

    Commas, semicolons and tabs are recognised as separators.

    Raises:
        ValueError: If the file is damaged, a line has too few or too many cells, or a column is missing.
    """
    return table(csv_columns(path, label, attributes), str(path), label=label, attributes=attributes)


def csv_columns(path: str | Path, label: str | None, attributes: Sequence[str]) -> dict[str, np.ndarray]:
    """Every column of a CSV file by its name: numbers where all cells are, else text.

    Raises:
        ValueError: As `read_csv`.
    """
    header, rows = read_lines(path)
    cells = list(zip(*rows, strict=True))
    ids = {label, *attributes} if label is not None else {*LABEL_NAMES, *attributes}
    return {name: _column(cells[i], name, Path(path), name in ids) for i, name in enumerate(header)}


def read_lines(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file, all cells as text.

    Raises:
        ValueError: If there is no row, or one has another number of cells than the header.
    """
    path = existing(path)
    refuse_empty(path)
    with (
        reading(path, "CSV file in UTF-8", UnicodeDecodeError, csv.Error),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        first = file.readline()
        file.seek(0)
        separator = max(",;\t", key=first.count)
        reader = csv.reader(file, delimiter=separator)
        header = [name.strip() for name in next(reader, [])]
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}, has {len(row)} cells, but the header names {len(header)} "
                    f"columns. Put text that holds a {separator!r} in double quotes."
                )
            if row:
                rows.append(row)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{path} has several columns called {', '.join(map(repr, repeated))}; every column needs its own name."
        )
    if not rows:
        raise ValueError(f"{path} has a header but no rows.")
    return header, rows


def read_parquet(path: str | Path, *, label: str | None = None, attributes: Sequence[str] = ()) -> Batch:
    """A batch from a Parquet file; see `table` for what each column becomes.

    Raises:
        MissingExtra: If pyarrow is not installed.
        ValueError: If the file is damaged, a column is missing or nested.
    """
    return table(parquet_columns(path), str(path), label=label, attributes=attributes)


def parquet_columns(path: str | Path) -> dict[str, np.ndarray]:
    """Every column of a Parquet file by its name.

    Raises:
        MissingExtra: If pyarrow is not installed.
        ValueError: If the file is damaged, or a column nested.
    """
    path = existing(path)
    refuse_empty(path)
    arrow = require_extra("pyarrow", "parquet", "reading Parquet files")
    parquet = require_extra("pyarrow.parquet", "parquet", "reading Parquet files")
    with reading(path, "Parquet file", arrow.ArrowException, OSError):
        found = parquet.read_table(path)
    return {name: _arrow_column(found.column(name), name, path, arrow) for name in _data_columns(found)}


def _data_columns(found: Any) -> list[str]:
    """Names of the columns, without the row numbers that pandas may have stored."""
    return [name for name in found.column_names if not name.startswith("__index_level_")]


def _arrow_column(column: Any, name: str, path: Path, arrow: Any) -> np.ndarray:
    kind = column.type
    if arrow.types.is_nested(kind):
        raise ValueError(
            f"column {name!r} of {path} holds {kind} values; one number or text per cell is needed. Embeddings belong "
            f"into one column per dimension, or into a .npy file."
        )
    if column.null_count:
        first = column.is_null().to_pylist().index(True)
        raise ValueError(_empty_cells(name, path, column.null_count, f"row {first}"))
    is_number = arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)
    if is_number or arrow.types.is_decimal(kind):
        return np.asarray(column.to_numpy(), dtype=None if is_number else np.float64)
    return np.asarray([str(value) for value in column.to_pylist()])


def table(columns: Mapping[str, np.ndarray], name: str, *, label: str | None, attributes: Sequence[str]) -> Batch:
    """A batch from columns.

    The label is the column `label`, by default `y` or `label`. Columns named in `attributes` and all that hold text
    become columns of the batch; every other column is numeric and becomes a feature of x, `(n, d)` float32, in
    the order of the file.

    Raises:
        ValueError: If the label or an attribute is missing, or no feature is left.
    """
    label = label_column(columns, name, label)
    for attribute in attributes:
        if attribute not in columns:
            raise ValueError(f"{name} has no column {attribute!r}; columns found: {_quoted(columns)}.")
    others = [c for c in columns if c != label]
    aside = [c for c in others if c in attributes or columns[c].dtype.kind not in "biuf"]
    features = [c for c in others if c not in aside]
    if not features:
        raise ValueError(
            f"{name} has no numeric column to serve as a feature, beside the label {label!r} and {_quoted(aside)}. "
            f"Write inputs as numbers, one column per dimension."
        )
    x = np.stack([columns[c].astype(np.float32) for c in features], axis=1)
    return with_columns(Batch.of(torch.from_numpy(x), columns[label]), {c: columns[c] for c in aside})


def label_column(columns: Mapping[str, Any], name: str, label: str | None) -> str:
    """The name of the column that holds the label: `label`, or the one called `y` or `label`.

    Raises:
        ValueError: If there is none, or both.
    """
    if label is not None and label in columns:
        return label
    candidates = [c for c in LABEL_NAMES if c in columns]
    if label is not None or not candidates:
        wanted = repr(label) if label is not None else "'y' or 'label'"
        raise ValueError(
            f"{name} has no column {wanted} for the label; columns found: {_quoted(columns)}. The first line has to "
            f"name the columns; rename one, or say which with label= (--label)."
        )
    if len(candidates) > 1:
        raise ValueError(f"{name} has both a column 'y' and a column 'label': say which one is the label with label=.")
    return candidates[0]


def _column(cells: Sequence[str], name: str, path: Path, is_id: bool) -> np.ndarray:
    """Numbers where every cell is one, else text; a column of numbers with a few other cells is refused.

    Labels and attributes (`is_id`) may hold any text, such as "none", but no empty cell.
    """
    absent = [i for i, cell in enumerate(cells) if cell.strip().lower() in ({""} if is_id else EMPTY)]
    others = [i for i, cell in enumerate(cells) if not _is_number(cell)]
    if absent and (is_id or len(absent) == len(others) < len(cells)):
        raise ValueError(_empty_cells(name, path, len(absent), f"row {absent[0]}, the first row being 0"))
    if others and not is_id and len(others) <= 0.1 * len(cells):
        raise ValueError(
            f"column {name!r} of {path} has numbers in all but {len(others)} of {len(cells)} cells; row {others[0]} "
            f"(the first being 0) has {cells[others[0]]!r}. Mend it, or name the column as label or attribute."
        )
    return np.asarray(cells) if others else _numbers(cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str]) -> np.ndarray:
    """int64 where all are whole, so that labels 0 and 1 are not called "0.0" and "1.0"; else float64."""
    values = np.asarray([float(cell) for cell in cells])
    whole = np.isfinite(values).all() and (values == np.round(values)).all() and (np.abs(values) < 2**53).all()
    return values.astype(np.int64) if whole else values


def _empty_cells(name: str, path: Path, count: int, where: str) -> str:
    return (
        f"column {name!r} of {path} has {count} empty cells (first: {where}). Fill them or drop those rows; an "
        f"attribute may name the absence, for example 'unknown'."
    )


def _quoted(names: Any) -> str:
    shown = [repr(str(n)) for n in names]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "") or "none"
