"""Tables of pandas and Polars as plain columns, and plain rows as tables again, for models that were fitted on names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Column:
    """How one column of a table stands in an array: as numbers, or as the place of each text among its categories."""

    name: str
    dtype: np.dtype
    categories: np.ndarray | None = None
    """Sorted texts; None for numbers."""


def is_frame(value: Any) -> bool:
    """Whether a value is a table of pandas or Polars; neither is imported.

    Raises:
        ValueError: If it is one of Polars that has not been collected.
    """
    if hasattr(value, "collect_schema") and hasattr(value, "collect"):
        raise ValueError("the table is a lazy one of Polars; hand over `table.collect()`.")
    return hasattr(value, "columns") and hasattr(value, "to_numpy") and hasattr(value, "__getitem__")


def library_of(frame: Any) -> str:
    """`pandas` or `polars`."""
    return type(frame).__module__.partition(".")[0]


def columns_of(frame: Any) -> dict[str, np.ndarray]:
    """Every column by its name: numbers and bools as they are, everything else as text.

    Raises:
        ValueError: If two columns share a name, a column is nested, or one has empty cells.

    Example:
        >>> import pandas
        >>> columns_of(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}))["b"].tolist()
        ['x', 'y']
    """
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"the table has several columns called {', '.join(map(repr, twice))}; every column needs its own name."
        )
    return {str(name): _values(frame[name], str(name)) for name in frame.columns}


def _values(series: Any, name: str) -> np.ndarray:
    absent = np.asarray(series.isna() if hasattr(series, "isna") else series.is_null(), dtype=bool)
    values = series.to_numpy()
    if absent.any():
        raise ValueError(
            f"column {name!r} has {int(absent.sum())} empty cells (first: row {int(absent.argmax())}). Fill them or drop those "
            f"rows; an attribute may name the absence, for example 'unknown'."
        )
    if values.dtype.kind in "biuf":
        return values
    if values.dtype.kind == "O" and len(values) and isinstance(values[0], list | tuple | dict | np.ndarray):
        raise ValueError(
            f"column {name!r} holds {type(values[0]).__name__} values; one number or text per cell is needed. Embeddings belong "
            f"into one column per dimension, or into an array."
        )
    return _numbers_or_text(values)


def _numbers_or_text(values: np.ndarray) -> np.ndarray:
    """Objects that are all numbers (nullable integers, decimals) as numbers, others as text."""
    if values.dtype.kind == "O" and all(isinstance(v, int | float | np.number) for v in values):
        return np.asarray(values.tolist())
    return np.asarray([str(v) for v in values])


def schema(tables: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> tuple[Column, ...]:
    """How the columns `names` stand in an array, alike for all tables.

    Raises:
        ValueError: If a table lacks a column, or has text where another has numbers.

    Example:
        >>> schema([{"a": np.array(["x"])}, {"a": np.array(["y"])}], ["a"])[0].categories.tolist()
        ['x', 'y']
    """
    return tuple(_column(name, [_found(table, name) for table in tables]) for name in names)


def _found(table: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in table:
        known = ", ".join(map(repr, table)) or "none"
        raise ValueError(f"the model was fitted on a column {name!r} that the data lacks; columns found: {known}.")
    return table[name]


def _column(name: str, parts: list[np.ndarray]) -> Column:
    numeric = {part.dtype.kind in "biuf" for part in parts}
    if len(numeric) > 1:
        raise ValueError(f"column {name!r} holds numbers in one table and text in another; write both alike.")
    if numeric == {True}:
        return Column(name, np.result_type(*parts))
    return Column(name, np.dtype(object), np.unique(np.concatenate(parts)))


def encode(table: Mapping[str, np.ndarray], columns: Sequence[Column]) -> np.ndarray:
    """`(n, d)` float64: numbers as they are, texts as places among their categories.

    Example:
        >>> table = {"a": np.array([3, 4]), "b": np.array(["y", "x"])}
        >>> encode(table, schema([table], ["a", "b"])).tolist()
        [[3.0, 1.0], [4.0, 0.0]]
    """
    cells = [table[c.name] if c.categories is None else np.searchsorted(c.categories, table[c.name]) for c in columns]
    return np.stack([np.asarray(cell, dtype=np.float64) for cell in cells], axis=1)


def decode(x: np.ndarray, columns: Sequence[Column], library: str = "") -> Any:
    """The table whose rows `encode` made into `x`, of the library named; of one that is installed if none is.

    Example:
        >>> table = {"a": np.array([3, 4]), "b": np.array(["y", "x"])}
        >>> found = schema([table], ["a", "b"])
        >>> decode(encode(table, found), found, "pandas")["b"].tolist()
        ['y', 'x']
    """
    table = {c.name: _decoded(x[:, i], c) for i, c in enumerate(columns)}
    library = library or ("pandas" if find_spec("pandas") else "polars")
    if library == "polars":
        import polars

        return polars.DataFrame({name: cell.tolist() if cell.dtype == object else cell for name, cell in table.items()})
    import pandas

    return pandas.DataFrame(table)


def _decoded(cells: np.ndarray, column: Column) -> np.ndarray:
    if column.categories is not None:
        return column.categories.astype(object)[cells.astype(np.int64)]
    return cells.astype(column.dtype)
