"""IDX files, the form of MNIST and Fashion-MNIST: `train-images-idx3-ubyte` and its like, with or without .gz."""

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from firstcue.batch import Batch
from firstcue.data.arrays import as_inputs, named
from firstcue.data.files import existing, reading, refuse_empty

Part = Literal["train", "test"]
PREFIX = {"train": "train", "test": "t10k"}
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Types by the third byte of the file."""


def read_idx(folder: str | Path, part: Part = "train", *, classes: tuple[str, ...] | None = None) -> Batch:
    """A batch from a folder with MNIST's file names.

    Args:
        folder: Holds the image and the label file of the part wanted.
        part: "train", or "test" for the files called t10k.
        classes: Name of each label id; the ids themselves when absent.

    Returns:
        x `(n, 1, h, w)` float32 in [0, 1].

    Raises:
        ValueError: If a file is absent, damaged, or the lengths differ.
    """
    folder = existing(folder)
    return read_idx_pair(_find(folder, part, "images"), _find(folder, part, "labels"), classes=classes)


def read_idx_pair(images: Path, labels: Path, *, classes: tuple[str, ...] | None = None) -> Batch:
    """A batch from one image file and one label file.

    Raises:
        ValueError: If a file is damaged or the lengths differ.
    """
    x, y = read_idx_file(images), read_idx_file(labels)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
        raise ValueError(f"{images} has shape {x.shape} and {labels} {y.shape}; one label per image is needed.")
    if x.ndim == 3:
        x = x[:, None]
    names = (
        tuple(str(k) for k in range(int(y.max(initial=0)) + 1)) if classes is None and y.dtype == np.uint8 else classes
    )
    return named(as_inputs(x), y, names)


def labels_beside(images: Path) -> Path:
    """The label file that belongs to an image file.

    Raises:
        ValueError: If it is absent.
    """
    stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for name in (stem, f"{stem}.gz"):
        if (images.parent / name).is_file():
            return images.parent / name
    raise ValueError(f"the labels of {images} are missing: no {stem} or {stem}.gz beside it.")


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds at least one image file by MNIST's names."""
    return any(_candidates(folder, part, "images") for part in PREFIX)


def read_idx_file(path: Path) -> np.ndarray:
    """The array of one IDX file; its header says type and shape.

    Raises:
        ValueError: If the file is damaged, truncated, or too long.
    """
    path = existing(path)
    refuse_empty(path)
    with reading(path, "IDX file", EOFError, OSError, zlib.error):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in DTYPES:
        raise ValueError(
            f"{path} is not an IDX file: it begins with {raw[:4].hex(' ')} instead of 00 00 08 03 or its like."
        )
    dtype, start = np.dtype(DTYPES[raw[2]]), 4 + 4 * raw[3]
    shape = tuple(int(size) for size in np.frombuffer(raw[4:start].ljust(4 * raw[3], b"\0"), ">u4"))
    wanted = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(raw) != wanted:
        raise ValueError(
            f"{path} has {len(raw):,} bytes, but its header of shape {shape} promises {wanted:,}: it is truncated or "
            f"damaged. Fetch or copy it again."
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _find(folder: Path, part: Part, kind: str) -> Path:
    found = _candidates(folder, part, kind)
    if not found:
        raise ValueError(
            f"{folder} has no file of {part} {kind}; expected {PREFIX[part]}-{kind}-idx*-ubyte, or the same with .gz."
        )
    return found[0]


def _candidates(folder: Path, part: str, kind: str) -> list[Path]:
    return sorted(p for p in folder.glob(f"{PREFIX[part]}-{kind}[-.]idx*") if p.is_file())
