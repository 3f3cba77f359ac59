"""A small network that codes an image pixel by pixel, each given those before it: exact bits, and where they are spent."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, logsigmoid

from firstcue.simplicity._layers import CausalWindow, MaskedConv2d
from firstcue.simplicity.quantising import grey_levels

CHUNK = 256
"""Images per pass: the activations of more would leave the cache."""
NARROWEST = 0.1
"""Smallest scale of a logistic, in grey levels: a pixel that is certain costs 0.02 bits."""
SPREAD = 64.0
"""Grey levels per unit that the network moves a mean by, of 256 levels."""
REACH = 3
"""Pixels that the first layer sees in every direction."""


class PixelAR(nn.Module):
    """Masked convolutions and a mixture of discretised logistics per pixel.

    A linear predictor and a small residual network read the pixels above and to the left (and, of the pixel itself, the
    channels before); together they give the mixture under which the pixel is coded. The lowest and the highest level take the
    tails, so the probabilities of all images sum to one. Bits are differentiable in the image, both where it is coded and
    where it is context; off the grey levels, the gradient passes straight through the rounding.

    Args:
        channels: Channels of an image; those of one pixel are coded in order, each given the ones before.
        hidden: Width of the network, at least `channels`.
        blocks: Residual blocks, each of 1 x 1, masked 3 x 3 and 1 x 1 convolutions.
        components: Logistics in the mixture of a pixel.
        levels: Grey levels.
        seed: Seed of the first weights.

    Raises:
        ValueError: If a size is not positive, or `hidden` is below `channels`.

    Source:
        van den Oord, Kalchbrenner and Kavukcuoglu (2016), https://arxiv.org/abs/1601.06759, for the masks; Salimans,
        Karpathy, Chen and Kingma (2017), https://arxiv.org/abs/1701.05517, for the mixture.

    Example:
        >>> density = PixelAR(hidden=8, blocks=1)
        >>> image = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> bool((density.bits_map(image).sum() - density.bits(image)).abs() < 1e-3)
        True
    """

    differentiable = True

    def __init__(
        self,
        channels: int = 1,
        hidden: int = 32,
        blocks: int = 3,
        components: int = 5,
        levels: int = 256,
        shape: tuple[int, int, int] | list[int] | None = None,
        *,
        seed: int = 0,
    ):
        super().__init__()
        if min(channels, blocks + 1, components, levels - 1) < 1 or hidden < channels:
            raise ValueError(
                f"a PixelAR needs at least one channel and component, two levels and as many hidden units as channels; got "
                f"channels {channels}, hidden {hidden}, blocks {blocks}, components {components}, levels {levels}."
            )
        self.channels, self.levels, self.components = channels, levels, components
        self.shape = None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]))
        self.config: dict[str, Any] = {
            "channels": channels, "hidden": hidden, "blocks": blocks, "components": components, "levels": levels,
            "shape": None if shape is None else list(shape),
        }  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        image = list(range(channels))
        wide = sorted(i % channels for i in range(hidden))
        narrow = sorted(i % channels for i in range(max(hidden // 2, channels)))
        coded = [c for c in image for _ in range(3 * components)]
        self.window = CausalWindow(channels, image + wide, REACH, generator)
        self.blocks = nn.ModuleList(_Block(wide, narrow, generator) for _ in range(blocks))
        self.last = MaskedConv2d(wide, coded, 1, generator, gain=0.1)
        self._start()

    def _start(self) -> None:
        """Predict the pixel to the left, with components at several distances and widths."""
        k = self.components
        with torch.no_grad():
            self.window.weight[: self.channels] = 0
            for channel in range(self.channels):
                self.window.weight[channel, channel, REACH, REACH - 1] = 1
            bias = self.last.bias.view(self.channels, 3, k)
            bias[:, 1] = torch.linspace(-1, 1, k) if k > 1 else torch.zeros(1)
            bias[:, 2] = math.log(self.levels / 16)

    def bits(self, x: Float[Tensor, "n c h w"], *, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
        """Exact code length of each image, rounded to its grey levels.

        Args:
            x: Values in [0, 1].
            generator: Not used: nothing is drawn.

        Returns:
            Bits per image.

        Raises:
            ValueError: If the images have another number of channels.
        """
        return self.bits_map(x).sum((1, 2))

    def bits_map(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
        """Bits that each pixel costs, given those before it; they sum to the bits of the image.

        Raises:
            ValueError: If the images have another number of channels.
        """
        if x.shape[1] != self.channels:
            raise ValueError(
                f"this density codes images of {self.channels} channel(s); got {x.shape[1]}. Convert them (a mean over "
                f"channels makes grey), or fit your own: fc.fit_density(images)."
            )
        x = x.to(self.last.weight.dtype)
        return torch.cat([self._chunk(part) for part in x.split(CHUNK)]) if len(x) > CHUNK else self._chunk(x)

    def _chunk(self, x: Tensor) -> Tensor:
        level = grey_levels(x, self.levels)
        logits, mean, scale = self._mixture(level)
        return -(logits + self._log_mass(level[:, :, None], mean, scale)).logsumexp(2).sum(1) / math.log(2)

    def _mixture(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log-scales in grey levels, each `(n, c, k, h, w)`."""
        linear, inner = self.window(2 * level / (self.levels - 1) - 1).tensor_split([self.channels], dim=1)
        for block in self.blocks:
            inner = block(inner)
        logits, move, scale = self.last(elu(inner)).unflatten(1, (self.channels, 3, self.components)).unbind(2)
        mean = (linear[:, :, None] + 1) * ((self.levels - 1) / 2) + move * (SPREAD * self.levels / 256)
        return logits.log_softmax(2), mean, math.log(NARROWEST) + nn.functional.softplus(scale - math.log(NARROWEST))

    def _log_mass(self, level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Log of what a logistic puts on a level: the difference of two sigmoids, exact in the tails.

        sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)); the lowest level has no b, the highest no a.
        """
        sharpness = (-log_scale).exp()
        from_mean = (level - mean) * sharpness
        above = logsigmoid(from_mean + sharpness / 2)
        below = logsigmoid(sharpness / 2 - from_mean)
        inside = torch.log(-torch.expm1(-sharpness))
        rounded = level.detach().round()
        lowest, highest = rounded == 0, rounded == self.levels - 1
        return torch.where(lowest, above, torch.where(highest, below, above + below + inside))


class _Block(nn.Module):
    """A narrow detour around the identity."""

    def __init__(self, wide: list[int], narrow: list[int], generator: torch.Generator):
        super().__init__()
        self.down = MaskedConv2d(wide, narrow, 1, generator)
        self.look = MaskedConv2d(narrow, narrow, 3, generator)
        self.up = MaskedConv2d(narrow, wide, 1, generator, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(elu(self.look(elu(self.down(elu(x)), inplace=True)), inplace=True))
