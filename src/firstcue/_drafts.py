"""Roots of B = F^T S F in float32, each improved from the one before instead of computed anew.

While F still moves, roots need only be as exact as F is. In a basis in which B is nearly diagonal, with s^2 its diagonal,
X <- X + (B - X X) / (s_i + s_j), entry by entry, leads to the root at the price of one symmetric product a step; float32 then
costs the weak directions little, because products of columns of very different length keep their relative precision.
"""

import torch
from torch import Tensor

from firstcue._blas import congruence, product

TINY = torch.finfo(torch.float32).tiny
STEPS = 15
"""At most, in one pass."""

SLOW = 0.8
"""A step that leaves more of the error than this is not worth its price; a new basis is needed."""

ROUNDED = 1e-5
"""An error below this that shrinks no more is rounding."""

MOMENTUM = 0.07
"""Share of the last step added to the next where steps leave half of the error; then they leave a quarter (Chebyshev)."""


class Draft:
    """The root of one matrix in all passes, in memory lent for it.

    Args:
        memory: `(2, d, d)` float32.
    """

    def __init__(self, memory: Tensor) -> None:
        self._root, self._basis = memory
        self._turned = False
        self._unit = 0.0
        self._deviations = memory.new_empty(0)
        self._left = 0.5  # share of the error that the last step left

    def adopt(self, bridge: Tensor) -> None:
        """Work in the basis of these columns, eigenvectors of B of any length, from now on."""
        self._basis.copy_(bridge / bridge.norm(dim=0))
        self._turned, self._unit, self._left = True, 0.0, 0.5

    def root(self, matrix: Tensor, factor: Tensor, goal: float) -> tuple[Tensor, float, float] | None:
        """`(B^1/2 in float32, what to multiply it with, its error)`, or None where the basis does not lead there.

        The error is the root of the mean square of `B - X X`, relative to the geometric mean of the variances of each pair of
        directions. Steps end once it is below `goal`.
        """
        size, length = float(matrix.diagonal().max()), float(factor.norm())
        if not size > TINY or not length > TINY:
            return None
        near = (factor / length).float()
        if self._turned:
            near = product(near, self._basis)
        aligned = congruence(matrix / size, near, overwrite=True)
        del near
        unit = size**0.5 * length
        deviations = aligned.diagonal().sqrt()
        if not bool((deviations > TINY).all()):
            return None
        self._start(deviations, unit)
        error = self._improve(aligned, deviations, goal)
        if error is None:
            return None
        if not self._turned:
            return self._root, unit, error
        return product(product(self._basis, self._root), self._basis.mT), unit, error

    def _start(self, deviations: Tensor, unit: float) -> None:
        """From the root of the pass before, if there is one, with every direction as long as it is now."""
        if self._unit:
            change = (deviations / self._deviations).sqrt_()
            self._root.mul_(change * change[:, None])  # one factor, so that it stays symmetric to the last bit
        else:
            self._root.zero_().diagonal().copy_(deviations)
        self._unit, self._deviations = unit, deviations

    def _improve(self, aligned: Tensor, deviations: Tensor, goal: float) -> float | None:
        last, momentum, move = 0.0, 0.0, torch.zeros_like(aligned)
        for _ in range(STEPS):
            rest = aligned - product(self._root, self._root.mT)
            error = float((rest / deviations).div_(deviations[:, None]).norm()) / len(rest) ** 0.5
            if not error < (SLOW * last if last else 1.0):
                return error if error < ROUNDED else None
            self._left = min(0.5, error / last) if last else self._left
            if self._left > 0.3 and error < 0.03 and not self._turned:
                momentum = MOMENTUM
            move.mul_(momentum).add_(rest.div_(deviations[:, None] + deviations), alpha=1 + momentum)
            self._root.add_(move)
            last = error
            if error * self._left <= goal:
                return error * self._left
        return last * self._left
