"""Which sets of coordinates a function of signs goes with: its Fourier (Walsh) coefficients, exactly or from samples.

A coefficient is the mean of the function times a parity over uniform signs. What a network can pick up at the start of
training, and from which coordinates, is read off them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.spurious.functions import MOST_TABLE_BITS, BooleanFunction


def walsh_hadamard(values: Tensor | np.ndarray) -> Any:
    """All Fourier coefficients of functions given by their values, in O(k 2^k).

    Bit j of an index stands for coordinate j: of a value, that the coordinate is -1; of a coefficient, that it is in the
    set. Twice the transform is the identity divided by 2^k.

    Args:
        values: `(..., 2^k)` values for every pattern of k signs.

    Returns:
        `(..., 2^k)` in the same type; float64 of integers.

    Raises:
        ValueError: If the last length is no power of two.

    Example:
        >>> walsh_hadamard(torch.tensor([1.0, -1.0, -1.0, 1.0]))      # the parity of two signs
        tensor([0., 0., 0., 1.])
    """
    whole = as_tensor(values, "values")
    length = whole.shape[-1] if whole.ndim else 0
    if length < 1 or length & (length - 1):
        raise ValueError(f"`values` has {length} values along its last axis; one per pattern, 2^k, is needed.")
    result = whole.double()
    half = 1
    while half < length:
        pairs = result.unflatten(-1, (-1, 2, half))
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        result = torch.stack([low + high, low - high], dim=-2).flatten(-3)
        half *= 2
    result = (result / length).to(whole.dtype if whole.dtype.is_floating_point else torch.float64)
    return result.numpy() if isinstance(values, np.ndarray) else result


def fourier_coefficients(function: BooleanFunction) -> Float64[Tensor, " m"]:
    """`(2^arity,)` coefficients of a function; bit j of an index is set where coordinate j is in the set.

    Raises:
        ValueError: If the function reads more than 20 coordinates.

    Example:
        >>> from firstcue.spurious.functions import majority
        >>> fourier_coefficients(majority(3)).tolist()
        [0.0, 0.5, 0.5, 0.0, 0.5, 0.0, 0.0, -0.5]
    """
    return walsh_hadamard(torch.from_numpy(function.table.astype(np.float64)))


def fourier_coefficient(function: BooleanFunction, subset: Sequence[int]) -> float:
    """The mean of the function times the parity of `subset` (coordinates counted from 0), exactly.

    Raises:
        ValueError: If the function reads more than 20 coordinates, or a coordinate is not in its block.

    Example:
        >>> from firstcue.spurious.functions import staircase
        >>> fourier_coefficient(staircase(5), [0, 2, 4])
        0.375
    """
    _require_coordinates(subset, function.size)
    if any(i >= function.arity for i in subset):
        return 0.0
    return float(fourier_coefficients(function)[sum(1 << i for i in set(subset))])


def estimate_coefficient(
    function: Callable[[Tensor], Any], subset: Sequence[int], size: int, *, samples: int = 100_000, seed: int = 0
) -> tuple[float, float]:
    """A Fourier coefficient of any function of signs from random rows, and its standard error.

    Args:
        function: Maps signs `(n, size)` to numbers `(n,)`: a Boolean function, a network's output, a neuron.
        subset: Coordinates of the parity, counted from 0.
        size: Number of coordinates.
        samples: Rows; the error is at most the function's spread over their root.
        seed: Of the rows.

    Raises:
        ValueError: If a coordinate is out of range, there are fewer than two samples, or values are not one per row.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> estimate_coefficient(parity(3), [0, 1, 2], 3)
        (1.0, 0.0)
    """
    _require_coordinates(subset, size)
    if samples < 2:
        raise ValueError(f"`samples` is at least 2; got {samples}.")
    generator, parts = torch.Generator().manual_seed(seed), []
    for start in range(0, samples, 1 << 16):
        rows = min(1 << 16, samples - start)
        x = 1 - 2 * torch.randint(0, 2, (rows, size), generator=generator).float()
        with torch.no_grad():
            values = as_tensor(function(x), "function").double()
        if values.shape != (rows,):
            raise ValueError(f"the function has to return one number per row; for {rows} rows: {tuple(values.shape)}.")
        parts.append(values * x[:, sorted(set(subset))].double().prod(dim=1))
    products = torch.cat(parts)
    return float(products.mean()), float(products.std() / samples**0.5)


def all_signs(size: int) -> Tensor:
    """`(2^size, size)` float32, every pattern; bit j of a row's number is set where coordinate j is -1.

    Raises:
        ValueError: If there are more than 20 coordinates.

    Example:
        >>> all_signs(1)
        tensor([[ 1.],
                [-1.]])
    """
    if not 0 <= size <= MOST_TABLE_BITS:
        raise ValueError(f"all patterns of {size} signs are too many; at most 2^{MOST_TABLE_BITS} are enumerated.")
    rows = torch.arange(1 << size)
    return 1.0 - 2.0 * ((rows[:, None] >> torch.arange(size)) & 1).float()


def _require_coordinates(subset: Sequence[int], size: int) -> None:
    if any(not 0 <= i < size for i in subset):
        raise ValueError(f"`subset` names coordinates from 0 to {size - 1}; got {list(subset)}.")
