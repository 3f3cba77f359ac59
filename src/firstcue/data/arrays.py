"""Arrays on disk: one `.npz` with x, y and columns, or a pair of `.npy` files. Pickles inside are refused."""

import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.batch import Batch
from firstcue.data.files import existing, reading, refuse_empty


def read_npz(path: str | Path) -> Batch:
    """A batch from an `.npz` file.

    Keys: `x`, `y`, and every other one-dimensional array of the same length, which becomes a column of that name. An
    array `classes` names the ids 0, 1, ... of integer labels. Arrays of other shapes are ignored with a warning.

    Raises:
        ValueError: If the file is damaged, holds pickled objects, or has no x or y of one length.
    """
    path = existing(path)
    refuse_empty(path)
    arrays = _npz_arrays(path)
    missing = [key for key in ("x", "y") if key not in arrays]
    if missing:
        found = ", ".join(f"{k} {v.shape}" for k, v in arrays.items()) or "nothing"
        raise ValueError(
            f"{path} has no array named {' and '.join(map(repr, missing))}; found: {found}. Write inputs as x and "
            f"labels as y: np.savez(path, x=..., y=..., name_of_attribute=...)."
        )
    x, y, classes = arrays.pop("x"), arrays.pop("y"), arrays.pop("classes", None)
    _require_one_per_row(x, y, f"x of {path}", f"y of {path}")
    columns = {k: v for k, v in arrays.items() if v.ndim == 1 and len(v) == len(x)}
    ignored = [f"{k} {v.shape}" for k, v in arrays.items() if k not in columns]
    if ignored:
        warnings.warn(
            f"{path} has arrays that are not one value per row and were ignored: {', '.join(ignored)}.", stacklevel=2
        )
    return with_columns(named(as_inputs(x), y, classes), columns)


def read_npy_pair(x: str | Path, y: str | Path) -> Batch:
    """A batch from two `.npy` files, inputs and labels; the inputs are mapped rather than loaded.

    Raises:
        ValueError: If a file is damaged, holds pickled objects, or the lengths differ.
    """
    inputs, labels = read_npy(x), read_npy(y)
    _require_one_per_row(inputs, labels, str(x), str(y))
    return Batch.of(as_inputs(inputs), labels)


def read_npy(path: str | Path) -> np.ndarray:
    """The array of one `.npy` file, mapped copy-on-write: large files cost no memory until they are used.

    Raises:
        ValueError: If the file is damaged or holds pickled objects.
    """
    path = existing(path)
    refuse_empty(path)
    with path.open("rb") as file:
        magic = file.read(6)
    if magic != b"\x93NUMPY":
        raise ValueError(
            f"{path} is not a .npy file (it does not begin with its signature)"
            f"{_pickle_remark(magic)}. Write it with np.save(path, array)."
        )
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        if "Python objects" in str(error) or "Object arrays" in str(error):
            raise ValueError(_pickle_inside(path, None)) from None
        raise ValueError(
            f"{path} is not a readable .npy file: {error}. It is probably truncated; write it again."
        ) from error


def as_inputs(x: Any) -> Tensor:
    """Inputs as models take them: uint8 images become float32 in [0, 1], float64 images float32; the rest is kept.

    Images are arrays of three axes or more. Two-dimensional arrays (embeddings, tables) keep their dtype.
    """
    tensor = as_tensor(x)
    if tensor.ndim < 3:
        return tensor
    if tensor.dtype == torch.uint8:
        return tensor.to(torch.float32).div_(255)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def named(x: Tensor, y: Any, classes: Any = None) -> Batch:
    """A batch whose integer labels keep their ids when `classes` names them all, absent classes included.

    Raises:
        ValueError: If a label has no name.
    """
    if classes is None:
        return Batch.of(x, y)
    ids, names = np.asarray(y), tuple(str(c) for c in classes)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or (len(ids) and not 0 <= ids.min() <= ids.max() < len(names)):
        raise ValueError(
            f"`classes` has {len(names)} names, so labels have to be integers from 0 to {len(names) - 1}; found "
            f"{ids.dtype} values of shape {ids.shape}. Leave `classes` out to keep labels as they are."
        )
    return Batch(x, torch.from_numpy(ids.astype(np.int64)), classes=names)


def with_columns(batch: Batch, columns: dict[str, Any]) -> Batch:
    """The same batch with further columns, whatever they are called."""
    return replace(batch, columns={**batch.columns, **columns})


def _require_one_per_row(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"{x_name} has shape {x.shape} and {y_name} has shape {y.shape}; one label per row of x is needed."
        )


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            remark = _pickle_remark(file.read(6))
        raise ValueError(
            f"{path} is not a readable .npz file (no zip archive){remark}. Its {path.stat().st_size:,} bytes "
            f"may be a part only. Write it again with np.savez(path, x=..., y=...)."
        )
    arrays = {}
    with (
        reading(path, ".npz file", zipfile.BadZipFile, zlib.error, EOFError, OSError),
        np.load(path, allow_pickle=False) as archive,
    ):
        for key in archive.files:
            arrays[key] = _npz_member(archive, key, path)
    return arrays


def _npz_member(archive: Any, key: str, path: Path) -> np.ndarray:
    try:
        value = archive[key]
    except ValueError as error:
        if "Object arrays" in str(error):
            raise ValueError(_pickle_inside(path, key)) from None
        raise ValueError(f"{path} has a damaged array {key!r}: {error}. Write the file again.") from error
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"{path} has a member {key!r} that is not an array; write it with np.savez(path, x=..., y=...)."
        )
    return value


def _pickle_inside(path: Path, key: str | None) -> str:
    what, save = (
        (f"array {key!r} of {path}", f"np.savez(path, {key}={key}.astype(str))")
        if key
        else (
            str(path),
            "np.save(path, array.astype(str))",
        )
    )
    return (
        f"{what} is stored as Python objects, that is as a pickle, which can run any code when it is loaded: refused. "
        f"Store plain numbers or text instead, for example {save}."
    )


def _pickle_remark(first_bytes: bytes) -> str:
    if first_bytes[:1] == b"\x80" and first_bytes[1:2] <= b"\x05":
        return "; it looks like a pickle, which can run any code when it is loaded and is refused"
    return ""
