"""Folders of images with a table of metadata and a split, as Waterbirds and CelebA are handed around."""

from pathlib import Path

import numpy as np
import torch

from firstcue.batch import Batch
from firstcue.data.arrays import with_columns
from firstcue.data.files import existing
from firstcue.data.folders import load_images
from firstcue.data.tables import LABEL_NAMES, read_lines

TABLES = ("metadata.csv", "list_attr_celeba.csv")
FILE_NAMES = ("img_filename", "image_id", "filename", "file_name", "file", "path")
SPLIT_NAMES = ("split", "partition")
SPLITS = {"train": ("0", "train", "training"), "val": ("1", "val", "valid", "validation"), "test": ("2", "test")}


def read_metadata_folder(
    folder: str | Path, *, split: str = "train", label: str | None = None, size: int | None = None
) -> Batch:
    """A batch from a folder with `metadata.csv` (or `list_attr_celeba.csv`) and images below it.

    Args:
        folder: Holds the table; its column of file names is one of img_filename, image_id, filename, file_name, file, path.
        split: "train", "val" or "test", by a column `split` or `partition` of those words or of 0, 1, 2; "all" for every row.
        label: Column of the label; `y` or `label` when absent.
        size: Side in pixels to which images are resized (shorter side) and then cropped at the centre; needed when
            they differ in size.

    Returns:
        x `(n, 1 or 3, h, w)` float32 in [0, 1]; every other column of the table is a column.

    Raises:
        ValueError: If a column is missing, an image is absent or damaged, or no row is in the split.
    """
    folder = existing(folder)
    name = next((table for table in TABLES if (folder / table).is_file()), TABLES[0])
    header, rows = read_lines(folder / name)
    columns = {key: np.asarray(cells) for key, cells in zip(header, zip(*rows, strict=True), strict=True)}
    files = columns[_found(columns, FILE_NAMES, name, "file names")]
    wanted = [label] if label is not None else list(LABEL_NAMES)
    y_name = _found(columns, tuple(wanted), name, "labels (say which with ?label=NAME)")
    chosen = _chosen(columns, split, name)
    paths = [_path(folder, file) for file in files[chosen]]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise ValueError(f"{folder / name} names {len(absent)} images that are not there (first: {absent[0]}).")
    y = columns.pop(y_name)[chosen]
    x = load_images(paths) if size is None else torch.cat([_square(path, size) for path in paths])
    return with_columns(Batch.of(x, y), {key: cells[chosen] for key, cells in columns.items()})


def is_metadata_folder(folder: Path) -> bool:
    """Whether a folder has one of the tables."""
    return any((folder / table).is_file() for table in TABLES)


def _found(columns: dict[str, np.ndarray], names: tuple[str, ...], table: str, what: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise ValueError(
        f"{table} has no column of {what}: one of {', '.join(names)} is needed; columns found: {', '.join(columns)}."
    )


def _chosen(columns: dict[str, np.ndarray], split: str, table: str) -> np.ndarray:
    """Ids of the rows in the split."""
    number = len(next(iter(columns.values())))
    column = next((name for name in SPLIT_NAMES if name in columns), None)
    if split == "all" or column is None:
        if split not in ("all", "train"):
            raise ValueError(f"{table} has no column split or partition, so it has no part {split!r}; ask for 'all'.")
        return np.arange(number)
    if split not in SPLITS:
        raise ValueError(f"there is no part {split!r}; parts: {', '.join(SPLITS)}, all.")
    chosen = np.flatnonzero(np.isin(np.char.lower(columns[column]), SPLITS[split]))
    if not len(chosen):
        known = ", ".join(np.unique(columns[column])[:10])
        raise ValueError(f"no row of {table} is in {split!r}; values of {column!r}: {known}.")
    return chosen


def _path(folder: Path, file: str) -> Path:
    """The image, beside the table or in the one folder beside it."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the table in {folder} names {file!r}, which lies outside that folder; only images inside are read."
        )
    below = [sub / file for sub in sorted(folder.iterdir()) if sub.is_dir()] if not path.is_file() else []
    return next((candidate for candidate in below if candidate.is_file()), path)


def _square(path: Path, size: int) -> torch.Tensor:
    """`(1, 3, size, size)`."""
    from PIL import Image, ImageOps

    from firstcue.data.files import reading

    with reading(path, "image", OSError, SyntaxError, EOFError), Image.open(path) as image:
        pixels = np.asarray(ImageOps.fit(image.convert("RGB"), (size, size)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
