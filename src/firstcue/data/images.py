"""The real images that every installation has: a slice of Fashion-MNIST, and the digits of scikit-learn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from firstcue.batch import Batch

SLICE_FOLDER = Path(__file__).parent / "fashion"
SLICE_CLASSES = ("pullover", "coat")
SHEETS = 2
"""Contact sheets per class."""
PER_LINE = 50
"""Images side by side on one line of a sheet."""


def shipped() -> Batch:
    """3,000 pullovers and 3,000 coats of Fashion-MNIST, alternating, so that any even run of rows is balanced.

    Returns:
        x `(6000, 1, 28, 28)` float32 in [0, 1]; y 0 for a pullover, 1 for a coat. The licence (MIT) is in
        `SLICE_FOLDER/NOTICE`.

    Source:
        Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747.

    Example:
        >>> garments = shipped()
        >>> garments.x.shape, garments.y[:4].tolist(), garments.classes
        (torch.Size([6000, 1, 28, 28]), [0, 1, 0, 1], ('pullover', 'coat'))
    """
    by_class = np.stack([_sheets(name) for name in SLICE_CLASSES], axis=1)
    pixels = torch.from_numpy(by_class).reshape(-1, 1, 28, 28)
    y = torch.arange(len(pixels)) % len(SLICE_CLASSES)
    return Batch(pixels.float() / 255, y, index=torch.arange(len(y)), classes=SLICE_CLASSES)


def _sheets(name: str) -> np.ndarray:
    """`(3000, 28, 28)` images of one class, cut from its contact sheets."""
    from PIL import Image

    sheets = []
    for number in range(1, SHEETS + 1):
        with Image.open(SLICE_FOLDER / f"{name}-{number}.png") as sheet:
            sheets.append(np.asarray(sheet).reshape(-1, 28, PER_LINE, 28).transpose(0, 2, 1, 3).reshape(-1, 28, 28))
    return np.concatenate(sheets)


def digits(classes: Sequence[int] = (0, 1), size: int = 28) -> Batch:
    """Handwritten digits of scikit-learn (8 x 8 pixels), enlarged by whole factors and centred on black.

    Args:
        classes: Which digits; the id of a class is its place in this sequence.
        size: Side of the images in pixels, at least 8; 28 shows each pixel as a block of 3 x 3.

    Returns:
        x `(n, 1, size, size)` float32 in [0, 1], about 180 images of each digit.

    Raises:
        ValueError: If a class is not one digit from 0 to 9, or `size` is below 8.

    Example:
        >>> digits((3, 8)).classes
        ('3', '8')
    """
    from sklearn.datasets import load_digits

    if not classes or len(set(classes)) != len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"`classes` has to name different digits from 0 to 9; got {tuple(classes)}.")
    if size < 8:
        raise ValueError(f"`size` is {size}, but the digits have 8 x 8 pixels; ask for 8 or more.")
    images, labels = load_digits(return_X_y=True)
    kept = np.isin(labels, classes)
    factor, before = size // 8, size % 8 // 2
    x = torch.from_numpy(images[kept].reshape(-1, 1, 8, 8) / 16).float()
    x = x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    x = torch.nn.functional.pad(x, (before, size % 8 - before, before, size % 8 - before))
    place = {digit: i for i, digit in enumerate(classes)}
    y = torch.tensor([place[int(label)] for label in labels[kept]])
    return Batch(x, y, index=torch.arange(len(y)), classes=tuple(str(c) for c in classes))
