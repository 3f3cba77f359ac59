"""Layers whose first weights come from a generator of their own, so that building a density leaves the global one alone."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, unfold
from torch.nn.utils import skip_init


def drawn(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill a parameter with uniform numbers between minus and plus `bound`."""
    with torch.no_grad():
        parameter.uniform_(-bound, bound, generator=generator)


def convolution(inputs: int, outputs: int, size: int, generator: torch.Generator, gain: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps height and width; a gain of zero makes it answer zero at first."""
    layer: nn.Conv2d = skip_init(nn.Conv2d, inputs, outputs, size, padding=size // 2)
    drawn(layer.weight, gain * math.sqrt(3 / (inputs * size * size)), generator)
    drawn(layer.get_parameter("bias"), 0.0, generator)
    return layer


class MaskedConv2d(nn.Module):
    """A convolution that sees, of each pixel, only what was coded before it, and the pixel's own features up to its channel.

    Pixels are coded line by line, and the channels of one pixel in their order.

    Args:
        before: The channel of the image that each input knows up to.
        after: The channel that each output may know up to.
        size: Side of the kernel, odd.
        generator: Source of the first weights.
        gain: Factor of the first weights.
    """

    mask: Tensor

    def __init__(
        self, before: list[int], after: list[int], size: int, generator: torch.Generator, *, gain: float = 1.0
    ):
        super().__init__()
        mask = causal(before, after, size, strict=False)
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.empty_like(mask))
        self.bias = nn.Parameter(torch.zeros(len(after)))
        drawn(self.weight, gain * _bound(mask), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, h, w)`."""
        return conv2d(x, self.weight * self.mask, self.bias, padding=self.mask.shape[-1] // 2)


class CausalWindow(nn.Module):
    """What a pixel's coder reads of the image: the lines above within reach and the pixels to the left, strictly before it.

    Pixels beyond the border read as 0, and a second set of weights tells where the border is.

    Args:
        channels: Channels of the image.
        after: The channel that each output speaks about: it is blind to that one at its own pixel, and to later ones.
        reach: Pixels in every direction.
        generator: Source of the first weights.
    """

    mask: Tensor

    def __init__(self, channels: int, after: list[int], reach: int, generator: torch.Generator):
        super().__init__()
        self.reach = reach
        mask = causal(list(range(channels)), after, 2 * reach + 1, strict=True)[:, :, : reach + 1].contiguous()
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.empty_like(mask))
        self.border = nn.Parameter(torch.zeros_like(mask[:, 0]))
        drawn(self.weight, _bound(mask), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, channels, h, w)` to `(n, outputs, h, w)`."""
        inside = torch.ones_like(x[:1, :1])
        there = self.border.flatten(1) @ self._windows(inside)
        seen = (self.weight * self.mask).flatten(1) @ self._windows(x)
        return (seen + there).unflatten(2, x.shape[2:])

    def _windows(self, x: Tensor) -> Tensor:
        """`(n, channels (reach + 1) (2 reach + 1), h w)`"""
        r = self.reach
        return unfold(pad(x, (r, r, r, 0)), (r + 1, 2 * r + 1))


def causal(before: list[int], after: list[int], size: int, *, strict: bool) -> Tensor:
    """`(outputs, inputs, size, size)` of ones where an output may look; at its own pixel up to its channel, or strictly below."""
    mask = torch.zeros(len(after), len(before), size, size)
    middle = size // 2
    mask[:, :, :middle] = 1
    mask[:, :, middle, :middle] = 1
    mine, theirs = torch.tensor(after)[:, None], torch.tensor(before)[None, :]
    mask[:, :, middle, middle] = (theirs < mine if strict else theirs <= mine).float()
    return mask


def _bound(mask: Tensor) -> float:
    """Half-width of uniform weights that keep the variance of what they add up."""
    return math.sqrt(3 / max(1.0, float(mask.flatten(1).sum(1).mean())))
