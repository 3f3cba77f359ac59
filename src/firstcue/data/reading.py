"""One function reads data of any form: it looks at the name, and hands over to the reader of that form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from firstcue._importing import SPEC, call
from firstcue.batch import Batch, as_batch
from firstcue.data.arrays import as_inputs, named, read_npy, read_npy_pair, read_npz
from firstcue.data.builtin import read_builtin
from firstcue.data.cifar import is_cifar_file, is_cifar_folder, read_cifar, read_cifar_files
from firstcue.data.cifar100 import is_cifar100_folder, read_cifar100
from firstcue.data.files import existing
from firstcue.data.folders import read_image_folder
from firstcue.data.frames import read_frame
from firstcue.data.idx import is_idx_folder, labels_beside, read_idx, read_idx_pair
from firstcue.data.metadata import is_metadata_folder, read_metadata_folder
from firstcue.data.tables import read_csv, read_parquet
from firstcue.integrations.frames import is_frame

FORMS = (
    ".npz, X.npy,Y.npy, .csv, .parquet, a folder of images with labels.csv or one subfolder per class, a folder of IDX "
    "files, a folder with metadata.csv (FOLDER?split=val&size=64), cifar-10-batches-py, cifar-100-python, module:loader, "
    "builtin:NAME"
)


def read(source: Any, *, y: Any = None, label: str | None = None, attributes: Sequence[str] = ()) -> Batch:
    """A batch from a file, a folder, the user's own loader, or a built-in data set.

    Images of 8 bits become float32 in [0, 1]; arrays of two axes keep their dtype; features of tables become float32.
    Of CIFAR and IDX folders the training part is read; name a file inside (`test_batch`, `t10k-images-idx3-ubyte`) for
    another. A folder with `metadata.csv` takes its part and size after a question mark: `waterbirds?split=val&size=64`. A built-in composed data set keeps its editor; one read from a file has none.

    Args:
        source: `.npz` (keys x, y, every other 1-D array of that length a column), `X.npy,Y.npy`, `.csv` or `.parquet`, folder,
            `module:loader` (a function in the current folder, called without arguments) or `builtin:NAME`; or a table of pandas
            or Polars.
        y: Labels of a table that has none; or those of a single `.npy` file, or the file that holds them.
        label: Column of a table or of labels.csv that holds the label; `y` or `label` when absent.
        attributes: Numeric columns of a table that are attributes rather than features.

    Raises:
        ValueError: If there is no such data, or it is damaged or inconsistent; the message says what would help.
        MissingExtra: If the form needs a library that is not installed.

    Example:
        >>> read("builtin:dominoes/0.95/test").cue
        'top digit'
    """
    if is_frame(source):
        return read_frame(source, y=y, label=label, attributes=attributes)
    name = str(source)
    if name.startswith("builtin:"):
        return read_builtin(name.removeprefix("builtin:"))
    if SPEC.fullmatch(name) and not Path(name).exists():
        return as_batch(call(name, "loader"), name=f"what {name} returned")
    if "," in name and not Path(name).exists() and name.count(",") == 1:
        return read_npy_pair(*(part.strip() for part in name.split(",")))
    name, options = _with_options(name)
    path = existing(name)
    return _read_folder(path, label, options) if path.is_dir() else _read_file(path, y, label, attributes)


def _with_options(name: str) -> tuple[str, dict[str, str]]:
    """A folder's name and what follows a question mark, as in `waterbirds?split=val&size=64`."""
    folder, mark, rest = name.partition("?")
    if not mark or Path(name).exists() or not Path(folder).is_dir():
        return name, {}
    options = dict(parse_qsl(rest, keep_blank_values=True))
    unknown = sorted(set(options) - {"split", "size", "label"})
    if unknown or not options.get("size", "1").isdigit():
        raise ValueError(
            f"{name}: after the question mark stand split=train|val|test|all, size=PIXELS and label=COLUMN, joined by &."
        )
    return folder, options


def _read_folder(path: Path, label: str | None, options: dict[str, str]) -> Batch:
    if is_metadata_folder(path):
        size = int(options["size"]) if "size" in options else None
        part = options.get("split", "train")
        return read_metadata_folder(path, split=part, label=options.get("label", label), size=size)
    if options:
        raise ValueError(f"{path} has no metadata.csv, so it knows no parts or sizes: leave out what follows the '?'.")
    if is_cifar_folder(path):
        return read_cifar(path)
    if is_cifar100_folder(path):
        return read_cifar100(path)
    if is_idx_folder(path):
        return read_idx(path)
    return read_image_folder(path, label=label)


def _read_file(path: Path, y: Any, label: str | None, attributes: Sequence[str]) -> Batch:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".npy":
        return _read_single_npy(path, y)
    if suffix in (".csv", ".tsv"):
        return read_csv(path, label=label, attributes=attributes)
    if suffix in (".parquet", ".pq"):
        return read_parquet(path, label=label, attributes=attributes)
    if "-images" in path.name and "ubyte" in path.name:
        return read_idx_pair(path, labels_beside(path))
    if is_cifar_file(path):
        return read_cifar_files([path])
    if path.name in ("train", "test") and is_cifar100_folder(path.parent):
        return read_cifar100(path.parent, "train" if path.name == "train" else "test")
    if suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise ValueError(
            f"{path} is a pickle by its name, which can run any code when it is loaded: refused. Load it yourself if you "
            f"trust its origin, and store it with np.savez('data.npz', x=..., y=...)."
        )
    raise ValueError(f"{path} has a form that firstcue does not read; it reads {FORMS}.")


def _read_single_npy(path: Path, y: Any) -> Batch:
    if y is None:
        raise ValueError(f"{path} holds inputs without labels; name both files, as in {path.name},labels.npy.")
    return read_npy_pair(path, y) if isinstance(y, str | Path) else named(as_inputs(read_npy(path)), y)
