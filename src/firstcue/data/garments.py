"""All of Fashion-MNIST, from Debian's package."""

from pathlib import Path

from firstcue.batch import Batch
from firstcue.data.idx import read_idx

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_COMMAND = "sudo apt-get install dataset-fashion-mnist"
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def fashion_mnist(part: str = "train") -> Batch:
    """All of Fashion-MNIST, when Debian's package is installed.

    Args:
        part: "train" (60,000 images) or "test" (10,000).

    Raises:
        ValueError: If it is not installed, or there is no such part.

    Source:
        Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747.
    """
    if part not in ("train", "test"):
        raise ValueError(f"Fashion-MNIST has the parts train and test; got {part!r}.")
    if not DEBIAN_FOLDER.is_dir():
        raise ValueError(
            f"Fashion-MNIST is not at {DEBIAN_FOLDER}: {DEBIAN_COMMAND}, or name a folder that holds its IDX files. "
            f"builtin:fashion-slice needs no installation."
        )
    return read_idx(DEBIAN_FOLDER, "train" if part == "train" else "test", classes=FASHION_CLASSES)
