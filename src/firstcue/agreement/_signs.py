"""Sums of products of signs: how many rows agree, for every pair of an output and an input of a linear layer.

Such sums are whole numbers no larger than the number of rows, so that one float holds two of them, s + base * t, exactly:
a matrix product of half the size gives all of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1 << 22
"""Products below which packing takes longer than it saves."""


def sum_of_signs(d: Float[Tensor, "n out"], a: Float[Tensor, "n in"]) -> Float[Tensor, "out in"]:
    """`d^T a` of signs (-1, 0, 1; NaN where unknown), exactly.

    Example:
        >>> sum_of_signs(torch.tensor([[1.0, -1.0], [1.0, 0.0]]), torch.ones(2, 1)).tolist()
        [[2.0], [-1.0]]
    """
    base = 1 << (2 * len(d)).bit_length()
    largest = len(d) * (1 + base)
    if d.shape[1] % 2 or d.numel() * a.shape[1] < LEAST or largest * torch.finfo(d.dtype).eps > 1 or not _exact(d):
        return d.mT @ a
    half = d.shape[1] // 2
    both = torch.add(d[:, :half], d[:, half:], alpha=base).mT @ a
    sums = d.new_empty(d.shape[1], a.shape[1])
    high = torch.mul(both, 1 / base, out=sums[half:]).round_()
    torch.sub(both, high, alpha=base, out=sums[:half])
    return sums


def _exact(t: Tensor) -> bool:
    """Whether matrix products are computed in the precision of their factors."""
    if t.dtype == torch.float64:
        return True
    products = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    precision = torch.get_float32_matmul_precision() if products is None else products.fp32_precision
    return t.device.type == "cpu" and precision in ("highest", "none", "ieee")
