"""Several densities as one: whichever of them describes an image in the fewest bits decides, up to a small fee."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstcue.simplicity.density import Density


class Mixture(nn.Module):
    """A mixture in probability: `-log2 sum_i w_i 2^(-bits_i)`, at most `log2(1 / w_i)` bits above the cheapest.

    Args:
        parts: Two densities or more, for images of one shape and number of grey levels.
        weights: One per part, positive; shared equally when absent. They are divided by their sum.

    Raises:
        ValueError: If parts do not fit together, or weights are not positive.

    Example:
        >>> from firstcue.simplicity.density import Uniform
        >>> Mixture([Uniform(), Uniform()]).bits(torch.zeros(1, 1, 2, 2))
        tensor([32.])
    """

    def __init__(self, parts: Sequence[Density], weights: Sequence[int | float] | None = None) -> None:
        given = [1.0] * len(parts) if weights is None else [float(w) for w in weights]
        if len(parts) == 0 or len(given) != len(parts) or not all(0 < w < math.inf for w in given):
            raise ValueError(
                f"a mixture needs parts and a positive weight for each; got {len(parts)} parts and {given}."
            )
        if len({part.levels for part in parts}) > 1:
            raise ValueError(f"the parts have different numbers of grey levels: {[part.levels for part in parts]}.")
        shapes = {tuple(part.shape) for part in parts if part.shape is not None}
        if len(shapes) > 1:
            raise ValueError(f"the parts know images of different shapes: {sorted(shapes)}.")
        super().__init__()
        self.networks = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self.training = any(network.training for network in self.networks)
        self.parts = tuple(parts)
        self.weights = tuple(w / sum(given) for w in given)
        self.levels = parts[0].levels
        self.shape: tuple[int, ...] | None = shapes.pop() if shapes else None
        self.differentiable = all(part.differentiable for part in parts)

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits of each image; parts over continuous values draw their noise one after another."""
        each = self.bits_of_parts(x, generator=generator)
        share = torch.tensor(self.weights, dtype=each.dtype, device=each.device).log2()
        return -torch.logsumexp((share[:, None] - each) * math.log(2), dim=0) / math.log(2)

    def bits_of_parts(self, x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """`(parts, n)` bits under each part."""
        return torch.stack([part.bits(x, generator=generator) for part in self.parts])
