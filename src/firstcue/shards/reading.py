"""Shards: files that each hold some of the rows, read by mapping or in parts, never all at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from firstcue._checks import as_tensor, require_rows
from firstcue._extras import require_extra
from firstcue.data.files import existing, reading, refuse_empty

PART_ROWS = 65_536
"""Rows of a Parquet shard in memory at once."""


@dataclass(frozen=True)
class Shard:
    """A file of rows, as it is now.

    A shard `NAME.npy` holds x, `(n, ...)`; each `NAME.COLUMN.npy` beside it is one of its columns. The other formats hold x
    and the columns in one file.
    """

    path: Path
    columns: tuple[Path, ...] = ()

    def fingerprint(self) -> dict[str, Any]:
        """Place, size and time of change: a shard that was written again counts as another one."""
        files = (self.path, *self.columns)
        stamps = [file.stat() for file in files]
        return {
            "shard": str(self.path.resolve()),
            "files": [[file.name, stamp.st_size, stamp.st_mtime_ns] for file, stamp in zip(files, stamps, strict=True)],
        }


Shards = str | Path | Sequence[str | Path]
"""A pattern such as "shards/*.npy", a folder's file, or a list of files."""


def find_shards(shards: Shards) -> list[Shard]:
    """The shards that a pattern or a list names, in the order of their names.

    Args:
        shards: A glob pattern, one file, or a list of files. Columns beside `.npy` shards are found by their names.

    Raises:
        ValueError: If there is none, one does not exist, or its format is unknown.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("0.npy", "0.y.npy", "1.npy", "1.y.npy"):
        ...     np.save(folder / name, np.zeros(3))
        >>> [(s.path.name, [c.name for c in s.columns]) for s in find_shards(str(folder / "*.npy"))]
        [('0.npy', ['0.y.npy']), ('1.npy', ['1.y.npy'])]
    """
    named = sorted(glob(str(shards))) if isinstance(shards, str | Path) else [str(path) for path in shards]
    if not named:
        raise ValueError(f"no file matches {str(shards)!r}; quote the pattern, and look at the folder it names.")
    paths = [existing(path) for path in dict.fromkeys(named)]
    unknown = [path for path in paths if path.suffix not in READERS]
    if unknown:
        raise ValueError(f"{unknown[0]} is no shard; these are read: {', '.join(READERS)}.")
    return [Shard(path, _columns_of(path)) for path in paths if not _is_column(path)]


def read_parts(shard: Shard, columns: Sequence[str] = ()) -> Iterator[dict[str, Tensor | np.ndarray]]:
    """The rows of a shard, `{"x": ..., column: ...}`, in one or several parts.

    Args:
        shard: From `find_shards`. `.npy` and `.safetensors` are mapped, so that rows count as cached file pages and not as
            memory of the process; Parquet comes in parts of `PART_ROWS`; `.npz` is read whole, so keep such shards small.
        columns: Names of those wanted beside x.

    Raises:
        ValueError: If the file is damaged, a column is missing, or lengths differ.
    """
    refuse_empty(shard.path)
    for part in READERS[shard.path.suffix](shard, columns):
        missing = [name for name in ("x", *columns) if name not in part]
        if missing:
            raise ValueError(f"{shard.path} has no column {missing[0]!r}; found: {', '.join(part)}.")
        x = as_tensor(part["x"], f"x of {shard.path}")
        for name in columns:
            require_rows(x, part[name], f"x of {shard.path}", name)
        yield {"x": x} | {name: part[name] for name in columns}


def _is_column(path: Path) -> bool:
    """`0.y.npy` beside `0.npy`."""
    return path.suffix == ".npy" and "." in path.stem and path.with_name(f"{path.stem.rsplit('.', 1)[0]}.npy").exists()


def _columns_of(path: Path) -> tuple[Path, ...]:
    if path.suffix != ".npy":
        return ()
    beside = (Path(name) for name in glob(f"{glob_escaped(path.with_suffix(''))}.*.npy"))
    return tuple(sorted(file for file in beside if "." not in _column(file, path)))


def glob_escaped(path: Path) -> str:
    """A path whose brackets and stars mean themselves."""
    from glob import escape

    return escape(str(path))


def _column(file: Path, shard: Path) -> str:
    return file.name[len(shard.stem) + 1 : -len(".npy")]


def _read_npy(shard: Shard, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    files = {"x": shard.path} | {_column(file, shard.path): file for file in shard.columns}
    yield {name: _mapped(file) for name, file in files.items() if name == "x" or name in columns}


def _mapped(file: Path) -> np.ndarray:
    with reading(file, ".npy array", ValueError, OSError):
        found: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return found


def _read_npz(shard: Shard, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import zipfile
    import zlib

    errors = (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError)
    with reading(shard.path, ".npz archive", *errors), np.load(shard.path, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files if name in ("x", *columns)}
    yield found


def _read_safetensors(shard: Shard, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    errors = (SafetensorError, OSError)
    with reading(shard.path, "safetensors file", *errors), safe_open(shard.path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys() if name in ("x", *columns)}  # noqa: SIM118
    yield found


def _read_parquet(shard: Shard, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    parquet = require_extra("pyarrow.parquet", "parquet", "reading Parquet shards")
    arrow = require_extra("pyarrow", "parquet", "reading Parquet shards")
    with reading(shard.path, "Parquet file", arrow.ArrowInvalid, OSError), parquet.ParquetFile(shard.path) as file:
        names = file.schema_arrow.names
        features = ["x"] if "x" in names else [name for name in names if name not in columns]
        for batch in file.iter_batches(batch_size=PART_ROWS, columns=[*features, *(c for c in columns if c in names)]):
            yield {"x": _features(batch, features, shard.path)} | {
                name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns if name in names
            }


def _features(batch: Any, names: Sequence[str], path: Path) -> np.ndarray:
    """`(n, d)` from one column of lists of equal length, or from one numeric column per feature."""
    arrays = [batch.column(name) for name in names]
    if names == ["x"]:
        flat = arrays[0].flatten().to_numpy(zero_copy_only=False)
        if arrays[0].null_count or len(arrays[0]) == 0 or len(flat) % len(arrays[0]):
            raise ValueError(f"x of {path} is missing in some rows, or its rows differ in length.")
        wide: np.ndarray = flat.reshape(len(arrays[0]), -1)
        return wide
    plain = [array.to_numpy(zero_copy_only=False) for array in arrays]
    text = [name for name, array in zip(names, plain, strict=True) if array.dtype.kind not in "biuf"]
    if text or not plain:
        raise ValueError(
            f"{path} has no column x and the column {text[0] if text else 'x'!r} holds no numbers; name it as the label or an "
            f"attribute, or write the inputs as a column x of lists."
        )
    return np.stack(plain, axis=1)


READERS: Mapping[str, Callable[[Shard, Sequence[str]], Iterator[dict[str, Any]]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}
