"""A folder of images: with a file `labels.csv` beside them, or sorted into one subfolder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.data.arrays import named, with_columns
from firstcue.data.files import existing, reading
from firstcue.data.tables import LABEL_NAMES, read_lines

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
GREY, COLOUR = {"1", "L"}, {"P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"}
"""Modes of PIL that 8 bits per channel can hold."""


def read_image_folder(folder: str | Path, *, label: str | None = None) -> Batch:
    """A batch from a folder of images of one size.

    With `labels.csv`: its column `file` names each image (relative to the folder), `label` or `y` its class, and every
    further column is an attribute. Without: each subfolder is a class and holds its images.

    Returns:
        x `(n, 1 or 3, h, w)` float32 in [0, 1]: one channel if all images are grey, else three; the column `file`.

    Raises:
        ValueError: If an image is absent, damaged or of another size, or a column is missing.
    """
    folder = existing(folder)
    if (folder / "labels.csv").is_file():
        return _labelled(folder, label)
    return _sorted_into_classes(folder)


def is_image_folder(folder: Path) -> bool:
    """Whether a folder has labels.csv, or images in subfolders."""
    return (folder / "labels.csv").is_file() or any(_images_in(sub) for sub in _subfolders(folder))


def load_images(paths: Sequence[Path]) -> Tensor:
    """`(n, 1 or 3, h, w)` float32 in [0, 1].

    Raises:
        ValueError: If an image is damaged, has more than 8 bits per channel, or another size than the first.
    """
    loaded = [_pixels(path) for path in paths]
    first = loaded[0]
    for path, image in zip(paths, loaded, strict=True):
        if image.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"{path} is {image.shape[1]} x {image.shape[0]} pixels, but {paths[0]} is {first.shape[1]} x {first.shape[0]}; "
                f"models take images of one size: resize or crop them first."
            )
    channels = max(image.shape[2] for image in loaded)
    x = np.empty((len(loaded), channels, *first.shape[:2]), dtype=np.float32)
    for row, image in zip(x, loaded, strict=True):
        np.divide(image.transpose(2, 0, 1), 255, out=row, dtype=np.float32)  # grey fills all three channels
    return torch.from_numpy(x)


def _pixels(path: Path) -> np.ndarray:
    """`(h, w, 1 or 3)` uint8."""
    from PIL import Image

    bomb = Image.DecompressionBombError
    with reading(path, "image", OSError, SyntaxError, EOFError, bomb), Image.open(path) as image:
        if image.mode not in GREY | COLOUR:
            raise ValueError(
                f"{path} has pixels of mode {image.mode!r}; 8 bits per channel are read, grey or colour. Convert it, or "
                f"hand the values over as an array in .npz."
            )
        return np.asarray(image.convert("L"))[:, :, None] if image.mode in GREY else np.asarray(image.convert("RGB"))


def _labelled(folder: Path, label: str | None) -> Batch:
    header, rows = read_lines(folder / "labels.csv")
    columns = {name: np.asarray(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}
    labels = [label] if label is not None else [name for name in LABEL_NAMES if name in columns]
    if "file" not in columns or len(labels) != 1 or labels[0] not in columns:
        raise ValueError(
            f"{folder / 'labels.csv'} needs a column 'file' and one column {label or 'label'!r}; columns found: "
            f"{', '.join(map(repr, header))}. The first line has to name them."
        )
    paths = [_inside(folder, name) for name in columns["file"]]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise ValueError(f"{folder / 'labels.csv'} names {len(absent)} images that are not there (first: {absent[0]}).")
    y = columns.pop(labels[0])
    empty = int((y == "").sum())
    if empty:
        raise ValueError(
            f"column {labels[0]!r} of {folder / 'labels.csv'} has {empty} empty cells; every image needs a label."
        )
    return with_columns(Batch.of(load_images(paths), _numbers_if_whole(y)), columns)


def _sorted_into_classes(folder: Path) -> Batch:
    classes = [sub for sub in _subfolders(folder) if _images_in(sub)]
    if not classes:
        raise ValueError(
            f"{folder} is not a folder that firstcue reads: it has neither labels.csv (columns file, label) nor metadata.csv, "
            f"nor images in one subfolder per class, nor the files of MNIST (train-images-idx3-ubyte), CIFAR-10 "
            f"(data_batch_1) or CIFAR-100 (meta, train, test)."
        )
    paths = [path for sub in classes for path in _images_in(sub)]
    y = np.repeat(np.arange(len(classes)), [len(_images_in(sub)) for sub in classes])
    batch = named(load_images(paths), y, [sub.name for sub in classes])
    return with_columns(batch, {"file": np.asarray([str(path.relative_to(folder)) for path in paths])})


def _numbers_if_whole(y: np.ndarray) -> np.ndarray:
    """Labels "10" and "9" sort as numbers when all of them are."""
    return y.astype(np.int64) if all(cell.isascii() and cell.isdigit() for cell in y.tolist()) else y


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{folder / 'labels.csv'} names {name!r}, which lies outside the folder; name files inside it."
        )
    return path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
