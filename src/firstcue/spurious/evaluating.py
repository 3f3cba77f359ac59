"""Boolean functions evaluated on packed rows: each maps words to a bool per row, True where the function is -1."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.spurious.packed import Words, count_negative, low_bits, running_products, signs_of

Ties = Literal["plus", "minus", "random", "odd-only"]
"""What a staircase of even degree answers when as many products are -1 as +1."""


def parity(words: Words, mask: np.uint64) -> np.ndarray:
    """Whether an odd number of the bits in `mask` is negative."""
    return (count_negative(words, mask) & 1).astype(bool)


def majority(words: Words, mask: np.uint64) -> np.ndarray:
    """Whether more than half of the bits in `mask` are negative."""
    return 2 * count_negative(words, mask) > int(mask).bit_count()


def staircase(words: Words, degree: int, ties: Ties) -> np.ndarray:
    """Whether most products of leading bits are negative; an even degree needs a rule for ties."""
    products = running_products(words, degree) & low_bits(degree)
    twice = 2 * np.bitwise_count(products)
    if degree % 2:
        return twice > degree
    if ties != "random":
        return twice > degree if ties == "plus" else twice >= degree
    return (twice > degree) | ((twice == degree) & _fair(products, low_bits(degree)))


def _fair(products: Words, mask: np.uint64) -> np.ndarray:
    """A fixed choice, opposite for opposite patterns: a mixed-up bit of the one whose first sign is +1, times that sign."""
    first = (products & np.uint64(1)).astype(bool)
    mixed = np.where(first, products ^ mask, products)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # the finaliser of MurmurHash3
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(63)).astype(bool) ^ first


def table(words: Words, negatives: np.ndarray) -> np.ndarray:
    """The answers of a truth table."""
    return negatives[words & np.uint64(len(negatives) - 1)]


def threshold(words: Words, masks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Whether a weighted sum of parities is negative."""
    total = np.zeros(len(words))
    for mask, weight in zip(masks, weights, strict=True):
        total += weight * (1.0 - 2.0 * (count_negative(words, mask) & 1))
    return total < 0


def called(words: Words, function: Callable[[Tensor], Any], size: int, name: str) -> np.ndarray:
    """The answers of a user's function, one sign a row."""
    values = as_tensor(function(torch.from_numpy(signs_of(words, size))), name).detach().cpu().numpy()
    if values.shape != (len(words),) or not np.isin(values, (-1, 1)).all():
        raise ValueError(
            f"{name} has to return one sign, +1 or -1, per row; for {len(words)} rows it returned shape {values.shape}"
            + (
                f" with values such as {values[~np.isin(values, (-1, 1))][0]}."
                if values.shape == (len(words),)
                else "."
            )
        )
    return values < 0
