"""Functions from signs to one sign, from easy to hard: parities, staircases, majorities, any table or callable.

How hard gradient descent finds such a function is set by one number, its degree, which makes them the cleanest way to ask
what a network learns first.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.spurious import evaluating
from firstcue.spurious.evaluating import Ties
from firstcue.spurious.packed import MOST_BITS, Words, low_bits, words_of

MOST_TABLE_BITS = 20
"""Largest number of coordinates of which all sign patterns are enumerated."""


@dataclass(frozen=True, eq=False)
class BooleanFunction:
    """A function from `size` signs to one sign.

    Called on signs `(n, size)` it gives signs `(n,)` in the same type and dtype.

    Example:
        >>> parity(2)(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([ 1., -1.])
    """

    name: str

    size: int
    """Coordinates of its block."""

    arity: int
    """How many of them it reads: the first ones."""

    negative: Callable[[Words], np.ndarray] = field(repr=False)
    """Words `(n,)` to booleans `(n,)`, true where the value is -1."""

    flip: int | None = field(default=None, repr=False)
    """Coordinates, as bits, whose change of sign always changes the value; None if none are known."""

    def __call__(self, x: Tensor | np.ndarray) -> Any:
        signs = as_tensor(x)
        if signs.ndim != 2 or signs.shape[1] != self.size:
            raise ValueError(
                f"{self.name} takes rows of {self.size} signs, (n, {self.size}); got {tuple(signs.shape)}."
            )
        if not bool((signs.abs() == 1).all()):
            raise ValueError(f"{self.name} takes signs, +1 and -1; other values were found. Map bits b to 1 - 2 b.")
        value = 1 - 2 * self.negative(words_of(signs.detach().cpu().numpy())).astype(np.int8)
        values = torch.from_numpy(value).to(signs)
        return values.numpy() if isinstance(x, np.ndarray) else values

    @cached_property
    def table(self) -> np.ndarray:
        """`(2^arity,)` int8 values for every pattern of the coordinates that are read.

        Bit j of an index is set where coordinate j is -1: index 0 is all +1.

        Raises:
            ValueError: If more than 20 coordinates are read.
        """
        if self.arity > MOST_TABLE_BITS:
            raise ValueError(
                f"{self.name} reads {self.arity} coordinates: a table of 2^{self.arity} values is too large (at most "
                f"2^{MOST_TABLE_BITS}). Estimate from samples instead, for example with `estimate_coefficient`."
            )
        return 1 - 2 * self.negative(np.arange(1 << self.arity, dtype=np.uint64)).astype(np.int8)

    @property
    def positive_share(self) -> float:
        """P(f = +1) for uniform signs, exactly.

        Raises:
            ValueError: If more than 20 coordinates are read and no closed form is known.
        """
        return 0.5 if self.flip is not None else float((self.table > 0).mean())


def parity(degree: int, *, size: int | None = None) -> BooleanFunction:
    """The product of the first `degree` signs; the constant +1 at degree 0.

    It correlates with no smaller set of coordinates, so a network learns it late and at once.

    Args:
        degree: Number of factors.
        size: Coordinates of the block, those beyond `degree` being irrelevant; `degree` by default.

    Raises:
        ValueError: If the degree is negative or the size does not hold it.

    Source:
        Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> parity(3)(np.array([[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]))
        array([ 1., -1.])
    """
    size = _block_size(degree, size, least=0)
    return BooleanFunction(
        f"parity of {degree}", size, degree, partial(evaluating.parity, mask=low_bits(degree)), 1 if degree else None
    )


def staircase(degree: int, *, ties: Ties | None = None, size: int | None = None) -> BooleanFunction:
    """The sign of x1 + x1 x2 + ... + x1 x2 ... xd: each step is a stair to the next, so it is learned step by step.

    The products are independent fair signs, which makes this the majority of `degree` coins: unbiased for odd degrees.
    For even degrees a tie has probability C(d, d/2) / 2^d and its rule decides the bias.

    Args:
        degree: Number of steps d.
        ties: Value where the sum is 0. "plus" is that of the released code of the paper and makes even degrees biased,
            "minus" its opposite; "random" gives half of the ties each value by a fixed rule (it is a function still, and
            unbiased); "odd-only" refuses even degrees. By default "plus", with a warning that says the bias.
        size: Coordinates of the block, those beyond `degree` being irrelevant; `degree` by default.

    Raises:
        ValueError: If the degree is below 1, the size does not hold it, or the rule is unknown.

    Source:
        Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> staircase(3).positive_share, staircase(4, ties="plus").positive_share
        (0.5, 0.6875)
    """
    size = _block_size(degree, size)
    if ties not in (None, "plus", "minus", "random", "odd-only"):
        raise ValueError(f"`ties` is {ties!r}; choose 'plus', 'minus', 'random' or 'odd-only'.")
    even = degree % 2 == 0
    if even and ties == "odd-only":
        raise ValueError(f"a staircase of even degree {degree} has ties; take an odd degree or another rule of `ties`.")
    if even and ties is None:
        share = 0.5 + math.comb(degree, degree // 2) / 2 ** (degree + 1)
        warnings.warn(
            f"a staircase of even degree {degree} with ties counted as +1 is biased: P(f = +1) = {share:.4f}. Say "
            f"ties='plus' if you mean it, or ties='random' for an unbiased one.",
            stacklevel=2,
        )
    rule = ties or "plus"
    negative = partial(evaluating.staircase, degree=degree, ties=rule)
    suffix = f", ties {rule}" if even else ""
    unbiased = not even or rule == "random"
    return BooleanFunction(f"staircase of {degree}{suffix}", size, degree, negative, 1 if unbiased else None)


def majority(degree: int, *, size: int | None = None) -> BooleanFunction:
    """The sign of the sum of the first `degree` signs, of which there is an odd number.

    Args:
        degree: Number of votes.
        size: Coordinates of the block, those beyond `degree` being irrelevant; `degree` by default.

    Raises:
        ValueError: If the degree is even or below 1, or the size does not hold it.

    Example:
        >>> majority(3)(torch.tensor([[1.0, -1.0, -1.0]]))
        tensor([-1.])
    """
    size = _block_size(degree, size)
    if degree % 2 == 0:
        raise ValueError(f"a majority of {degree} votes can tie; take an odd number.")
    mask = low_bits(degree)
    return BooleanFunction(f"majority of {degree}", size, degree, partial(evaluating.majority, mask=mask), int(mask))


def truth_table(values: Any, *, size: int | None = None, name: str = "table") -> BooleanFunction:
    """The function with these values.

    Args:
        values: `(2^k,)` signs, k from 0 to 20. Bit j of an index is set where coordinate j is -1: the first value is that
            of all +1.
        size: Coordinates of the block, those beyond k being irrelevant; k by default.
        name: What to call it.

    Raises:
        ValueError: If the length is no power of two up to 2^20, or a value is no sign.

    Example:
        >>> truth_table([1, -1, -1, 1])(torch.tensor([[-1.0, 1.0], [-1.0, -1.0]]))
        tensor([-1.,  1.])
    """
    table = np.array(as_tensor(values, "values").detach().cpu().numpy())
    arity = table.size.bit_length() - 1
    if table.ndim != 1 or table.size != 1 << arity or arity > MOST_TABLE_BITS:
        raise ValueError(
            f"`values` has shape {table.shape}; one sign for each of 2^k patterns is needed, k at most {MOST_TABLE_BITS}."
        )
    if not np.isin(table, (-1, 1)).all():
        raise ValueError("`values` holds other numbers than +1 and -1. Map bits b to 1 - 2 b.")
    return BooleanFunction(name, _block_size(arity, size, 0), arity, partial(evaluating.table, negatives=table < 0))


def polynomial_threshold(
    subsets: Sequence[Sequence[int]], weights: Sequence[float] | None = None, *, size: int | None = None
) -> BooleanFunction:
    """The sign of a weighted sum of parities, +1 where the sum is 0.

    Args:
        subsets: Coordinates of each parity, counted from 0; an empty one is the constant.
        weights: One per parity; all 1 by default.
        size: Coordinates of the block; up to the last one named by default.

    Raises:
        ValueError: If there are no parities, numbers differ, or a coordinate is not in the block.

    Example:
        >>> f = polynomial_threshold([[0], [0, 1], [0, 1, 2]])
        >>> bool((f.table == staircase(3).table).all())
        True
    """
    sets = [sorted({int(i) for i in subset}) for subset in subsets]
    factors = np.ones(len(sets)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not sets or factors.shape != (len(sets),) or not np.isfinite(factors).all():
        raise ValueError(f"one finite weight per parity is needed; got {factors.size} for {len(sets)} parities.")
    last = max((subset[-1] for subset in sets if subset), default=-1)
    if any(subset and subset[0] < 0 for subset in sets):
        raise ValueError("coordinates are counted from 0; a negative one was found.")
    masks = np.array([sum(1 << i for i in subset) for subset in sets], dtype=np.uint64)
    negative = partial(evaluating.threshold, masks=masks, weights=factors)
    return BooleanFunction(f"threshold of {len(sets)} parities", _block_size(last + 1, size, 0), last + 1, negative)


def merged_staircase(
    subsets: Sequence[Sequence[int]], weights: Sequence[float] | None = None, *, size: int | None = None
) -> BooleanFunction:
    """A polynomial threshold whose parities form a staircase: each adds at most one coordinate to those before.

    Args:
        subsets, weights, size: As in `polynomial_threshold`, in any order.

    Raises:
        ValueError: If no order has that property; the message says the leap needed.

    Source:
        Abbe et al. (2022), https://arxiv.org/abs/2202.08658.

    Example:
        >>> merged_staircase([[0], [0, 1], [1, 2]]).arity
        3
    """
    needed = leap(subsets)
    if needed > 1:
        raise ValueError(
            f"these parities are no merged staircase: some step adds {needed} new coordinates at once. Insert a parity that "
            f"adds one, or use `polynomial_threshold`."
        )
    return polynomial_threshold(subsets, weights, size=size)


def leap(subsets: Sequence[Sequence[int]]) -> int:
    """The most new coordinates that a step adds, in the best order of the parities: how hard the function is to learn.

    Source:
        Abbe et al. (2023), https://arxiv.org/abs/2302.11055.

    Example:
        >>> leap([[0], [0, 1]]), leap([[0], [1, 2, 3]])
        (1, 3)
    """
    waiting, known, largest = [set(subset) for subset in subsets], set[int](), 0
    while waiting:
        nearest = min(waiting, key=lambda subset: len(subset - known))
        largest = max(largest, len(nearest - known))
        known |= nearest
        waiting = [subset for subset in waiting if not subset <= known]
    return largest


def boolean_function(function: Callable[[Tensor], Any], size: int, *, name: str | None = None) -> BooleanFunction:
    """Any callable from signs to a sign.

    Args:
        function: Maps signs `(n, size)`, a float32 tensor, to signs `(n,)`.
        size: Coordinates it reads, at most 64.
        name: What to call it; its own name by default.

    Raises:
        ValueError: If the size is out of range. When it is used: if it returns something other than n signs.

    Example:
        >>> boolean_function(lambda x: -x[:, 0], 2, name="not the first").positive_share
        0.5
    """
    size = _block_size(size, None)
    called = name or str(getattr(function, "__name__", type(function).__name__))
    return BooleanFunction(called, size, size, partial(evaluating.called, function=function, size=size, name=called))


def _block_size(arity: int, size: int | None, least: int = 1) -> int:
    size = arity if size is None else size
    if not least <= arity <= size <= MOST_BITS:
        raise ValueError(
            f"a function reads between {least} and `size` coordinates, and a block has at most {MOST_BITS}; got {arity} "
            f"of {size}. More irrelevant coordinates are made by `noise`."
        )
    return size
