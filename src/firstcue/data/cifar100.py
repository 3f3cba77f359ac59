"""CIFAR-100 as its authors distribute it: a folder `cifar-100-python` with two pickled parts."""

from pathlib import Path

import numpy as np

from firstcue.batch import Batch
from firstcue.data.arrays import as_inputs, named, with_columns
from firstcue.data.cifar import label_list, pixels
from firstcue.data.files import existing
from firstcue.data.idx import Part
from firstcue.data.unpickle import read_plain_pickle


def read_cifar100(folder: str | Path, part: Part = "train") -> Batch:
    """A batch from the folder `cifar-100-python`, by a reader that can make plain arrays, lists and text only.

    Args:
        folder: Holds `train`, `test` and `meta`.
        part: "train" (50,000 images) or "test" (10,000).

    Returns:
        x `(n, 3, 32, 32)` float32 in [0, 1]; y the fine label, one of 100; the column `coarse`, one of 20.

    Raises:
        ValueError: If the part is absent, or damaged, or asks for anything but plain data.

    Source:
        Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    path = existing(Path(folder) / part)
    content = read_plain_pickle(path)
    x = pixels(content, path)
    fine, coarse = (label_list(content, f"{kind}_labels", len(x), path) for kind in ("fine", "coarse"))
    names = _names(Path(folder) / "meta")
    batch = named(as_inputs(x), fine, names.get("fine"))
    shown = np.asarray(names["coarse"])[coarse] if "coarse" in names else coarse
    return with_columns(batch, {"coarse": shown})


def is_cifar100_folder(folder: Path) -> bool:
    """Whether a folder has the files of CIFAR-100, and nothing of CIFAR-10."""
    return folder.name == "cifar-100-python" or all((folder / name).is_file() for name in ("train", "test", "meta"))


def _names(meta: Path) -> dict[str, tuple[str, ...]]:
    """Names of the labels of either kind, where the file has them."""
    if not meta.is_file():
        return {}
    content = read_plain_pickle(meta)
    keys = {kind: f"{kind}_label_names" for kind in ("fine", "coarse")}
    found = {kind: content.get(key.encode(), content.get(key)) for kind, key in keys.items()}
    return {
        kind: tuple(n.decode("utf-8") if isinstance(n, bytes) else str(n) for n in names)
        for kind, names in found.items()
        if isinstance(names, list)
    }
