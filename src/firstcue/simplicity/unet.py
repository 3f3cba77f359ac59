"""A small network from images to maps of the same size that sees both fine detail and the whole."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate


class UNet(nn.Module):
    """Convolutions down to a quarter of the size and up again, with shortcuts between equal sizes.

    ELU throughout, so that gradients with respect to the image are continuous, and nothing that mixes the rows of a batch.

    Args:
        inputs: Channels of the image.
        outputs: Channels of the maps.
        widths: Channels at each size, each half the one before.

    Source:
        Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597.

    Example:
        >>> UNet(1, 2, (4, 8))(torch.zeros(5, 1, 9, 7)).shape
        torch.Size([5, 2, 9, 7])
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.first = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairs)
        self.middle = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(a + b, a, 3, padding=1) for a, b in reversed(pairs))
        self.last = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o h w"]:
        maps = [elu(self.first(2 * x - 1))]
        for layer in self.down:
            maps.append(elu(layer(maps[-1])))
        at = elu(self.middle(maps.pop()))
        for layer in self.up:
            skip = maps.pop()
            at = elu(layer(torch.cat([interpolate(at, size=skip.shape[-2:], mode="nearest"), skip], dim=1)))
        return self.last(at)
