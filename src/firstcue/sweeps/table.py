"""Rows as a table that is whole at every moment: CSV or Parquet, written again as results arrive."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstcue._extras import require_extra
from firstcue._whole import written_whole
from firstcue.sweeps.store import Result
from firstcue.sweeps.trial import Trial

SHARE = 0.05
"""Of the time, at most, that goes into writing the table while a sweep runs."""


class Table:
    """The rows of a sweep in a file, in the order of its trials; what has not arrived is left out.

    Every version takes the place of the one before in one step, so that the file can be read at any moment. It is written
    again when a result arrives, but never for more than a twentieth of the time.

    Args:
        path: Ends in `.csv` or `.parquet`.
        trials: In the order in which their rows are to stand.

    Raises:
        ValueError: If the name ends otherwise, or its folder cannot be written.
        MissingExtra: For Parquet without pyarrow.
    """

    def __init__(self, path: str | Path, trials: Sequence[Trial]) -> None:
        self.path = Path(path)
        require_format(self.path)
        self._trials = {trial.key: trial for trial in trials}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._cost, self._written = 0.0, time.perf_counter() - 1

    def add(self, key: str, result: Result) -> None:
        """Take in the result of the trial of that key, and write if it is time."""
        self._rows[key] = self._trials[key].label(result.rows)
        if time.perf_counter() - self._written > max(1.0, self._cost / SHARE):
            self.write()

    def write(self) -> None:
        """Write all that has arrived."""
        begun = time.perf_counter()
        write_rows([row for key in self._trials for row in self._rows.get(key, ())], self.path)
        self._written = time.perf_counter()
        self._cost = self._written - begun


def require_format(path: Path) -> None:
    """Refuse a table that is neither CSV nor Parquet, and Parquet where pyarrow is missing."""
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"a table is written as .csv or .parquet; got {path.name!r}.")
    if path.suffix == ".parquet":
        require_extra("pyarrow", "parquet", "writing Parquet tables")


def write_rows(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Rows as CSV or Parquet, by the file's name; a column for every name that occurs, whole or not at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.csv"
        >>> write_rows([{"x": 1, "y": 2.5}, {"x": 2, "note": "late"}], path)
        >>> path.read_text().split()
        ['x,y,note', '1,2.5,', '2,,late']
    """
    path = Path(path)
    require_format(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with written_whole(path) as temporary:
            (_write_csv if path.suffix == ".csv" else _write_parquet)(rows, columns, temporary)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); make room, or name another folder.") from None


def to_frame(rows: Sequence[dict[str, Any]]) -> Any:
    """Rows, as from `sweep` or `Store.rows`, as a pandas DataFrame.

    Raises:
        MissingExtra: If pandas is not installed.

    Example:
        >>> to_frame([{"x": 1, "y": 2.5}, {"x": 2, "y": 3.5}]).y.mean()
        np.float64(3.0)
    """
    return require_extra("pandas", "frames", "tables of rows").DataFrame(list(rows))


def _write_csv(rows: Sequence[dict[str, Any]], columns: list[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: Sequence[dict[str, Any]], columns: list[str], path: Path) -> None:
    arrow = require_extra("pyarrow", "parquet", "writing Parquet tables")
    parquet = require_extra("pyarrow.parquet", "parquet", "writing Parquet tables")
    parquet.write_table(arrow.table({name: _arrow([row.get(name) for row in rows], arrow) for name in columns}), path)


def _arrow(values: list[Any], arrow: Any) -> Any:
    """A column of one type; values of several become text."""
    try:
        return arrow.array(values)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        return arrow.array([None if value is None else str(value) for value in values])
