"""Data sets by name: `builtin:fashion-slice`, `builtin:digits`, `builtin:dominoes/0.95`, `builtin:fashion-mnist`."""

from collections.abc import Callable
from pathlib import Path

from firstcue.batch import Batch
from firstcue.data.idx import read_idx
from firstcue.data.images import digits, shipped
from firstcue.spurious.compose import dominoes

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_COMMAND = "sudo apt-get install dataset-fashion-mnist"
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
PARTS = {"train": slice(0, 3600), "held-out": slice(3600, 4600), "test": slice(4600, 5800)}
"""Which of the 6,000 shipped garments are the cores of each part of the dominoes: no image is in two parts."""


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


def garment_dominoes(strength: float, part: str = "train", *, seed: int = 0) -> Batch:
    """Shipped pullovers and coats under scikit-learn's digits 0 and 1: real images with a shortcut of known strength.

    Args:
        strength: Fraction of the training rows whose digit goes with the garment.
        part: "train", or "held-out" or "test", where every group is equally large.
        seed: Seed of every draw.

    Returns:
        3,600, 1,000 or 1,200 rows of x `(n, 1, 56, 28)`; the cue is called "top digit".

    Raises:
        ValueError: If there is no such part, or `strength` is not a fraction.

    Example:
        >>> garment_dominoes(0.95, "held-out").groups().bincount().tolist()
        [250, 250, 250, 250]
    """
    if part not in PARTS:
        raise ValueError(f"the dominoes have the parts {', '.join(PARTS)}; got {part!r}.")
    own_seed = 3 * seed + list(PARTS).index(part)
    return dominoes(shipped().rows(PARTS[part]), digits((0, 1)), strength if part == "train" else 0.5, seed=own_seed)


def read_builtin(name: str) -> Batch:
    """The data set of a name such as "digits", "fashion-mnist/test" or "dominoes/0.95/held-out".

    Raises:
        ValueError: If there is none of this name, or it is not installed.

    Example:
        >>> read_builtin("digits/3,8").classes
        ('3', '8')
    """
    head, *rest = name.split("/")
    makers: dict[str, tuple[Callable[..., Batch], int]] = {
        "fashion-slice": (shipped, 0),
        "digits": (_digits, 1),
        "dominoes": (_dominoes, 2),
        "fashion-mnist": (fashion_mnist, 1),
    }
    if head not in makers or len(rest) > makers[head][1]:
        raise ValueError(
            f"there is no built-in data set {name!r}; there are fashion-slice, digits or digits/3,8, dominoes/STRENGTH or "
            f"dominoes/STRENGTH/PART with PART one of {', '.join(PARTS)}, fashion-mnist or fashion-mnist/test."
        )
    return makers[head][0](*rest)


def _digits(classes: str = "0,1,2,3,4,5,6,7,8,9") -> Batch:
    try:
        wanted = [int(digit) for digit in classes.split(",")]
    except ValueError:
        raise ValueError(f"digits are named as in builtin:digits/3,8; got {classes!r}.") from None
    return digits(wanted)


def _dominoes(strength: str = "0.95", part: str = "train") -> Batch:
    try:
        fraction = float(strength)
    except ValueError:
        raise ValueError(f"a strength is a number, as in builtin:dominoes/0.95; got {strength!r}.") from None
    return garment_dominoes(fraction, part)
