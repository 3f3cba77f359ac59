"""CIFAR-10 as its authors distribute it: a folder `cifar-10-batches-py` of pickled batches."""

from pathlib import Path
from typing import Any

import numpy as np

from firstcue.batch import Batch
from firstcue.data.arrays import as_inputs, named
from firstcue.data.files import existing
from firstcue.data.idx import Part
from firstcue.data.unpickle import read_plain_pickle

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32


def read_cifar(folder: str | Path, part: Part = "train") -> Batch:
    """A batch from the folder `cifar-10-batches-py`.

    Its pickles are read by a reader that can make plain arrays, lists and text only (`firstcue.data.unpickle`).

    Args:
        folder: Holds data_batch_1 ... data_batch_5 and test_batch; those data batches that are there are read.
        part: "train" or "test".

    Returns:
        x `(n, 3, 32, 32)` float32 in [0, 1].

    Raises:
        ValueError: If no batch is there, or one is damaged or asks for anything but plain data.
    """
    folder = existing(folder)
    files = (
        sorted(folder.glob("data_batch_?")) if part == "train" else [p for p in [folder / "test_batch"] if p.exists()]
    )
    if not files:
        wanted = "data_batch_1 to data_batch_5" if part == "train" else "test_batch"
        raise ValueError(f"{folder} has no {wanted}; unpack cifar-10-python.tar.gz again and name its folder.")
    return read_cifar_files(files)


def read_cifar_files(files: list[Path]) -> Batch:
    """A batch from some of the files.

    Raises:
        ValueError: If one is damaged or asks for anything but plain data.
    """
    parts = [_images_and_labels(path) for path in files]
    x = np.concatenate([images for images, _ in parts])
    y = np.concatenate([labels for _, labels in parts])
    return named(as_inputs(x), y, _class_names(files[0].parent))


def is_cifar_folder(folder: Path) -> bool:
    """Whether a folder holds at least one batch by CIFAR's names."""
    return any(is_cifar_file(path) for path in folder.glob("*_batch*"))


def is_cifar_file(path: Path) -> bool:
    """Whether a file bears the name of a CIFAR batch."""
    return path.name == "test_batch" or (path.name.startswith("data_batch_") and "." not in path.name)


def _images_and_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = read_plain_pickle(path)
    data = pixels(content, path)
    return data, label_list(content, "labels", len(data), path)


def pixels(content: Any, path: Path) -> np.ndarray:
    """`(n, 3, 32, 32)` uint8 of an unpickled part."""
    data = _entry(content, "data", path)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * SIDE * SIDE:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: 'data' is {found}; uint8 rows of {3 * SIDE * SIDE} pixel values are needed.")
    return data.reshape(-1, 3, SIDE, SIDE)


def label_list(content: Any, key: str, rows: int, path: Path) -> np.ndarray:
    """`(n,)` int64 of an unpickled part."""
    labels = _entry(content, key, path)
    # numpy would unfold a list of shared lists without end, so its entries are looked at first
    if not isinstance(labels, list) or len(labels) != rows or not all(type(label) is int for label in labels):
        found = f"{len(labels)} entries" if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"{path} has {rows} images, but {key!r} has {found}; a list of one integer each is needed.")
    return np.asarray(labels, dtype=np.int64)


def _entry(content: Any, key: str, path: Path) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a dictionary with 'data' and 'labels' is needed.")
    for name in (key.encode(), key):
        if name in content:
            return content[name]
    keys = ", ".join(k.decode("latin1") if isinstance(k, bytes) else str(k) for k in content)
    raise ValueError(f"{path} has no {key!r}; keys found: {keys}.")


def _class_names(folder: Path) -> tuple[str, ...]:
    meta = folder / "batches.meta"
    if not meta.is_file():
        return CLASSES
    names = _entry(read_plain_pickle(meta), "label_names", meta)
    return tuple(n.decode("utf-8") if isinstance(n, bytes) else str(n) for n in names)
