"""A flow: an image becomes independent Gaussian numbers and comes back exactly, and the stretching on the way is its density."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, elu, linear, pixel_shuffle, pixel_unshuffle

from firstcue.simplicity._layers import convolution
from firstcue.simplicity.quantising import dequantised

CHUNK = 256
"""Images per pass: the activations of more would leave the cache."""
STRETCH = 2.0
"""A coupling scales by at most e to this, so that it can be undone within an optimisation."""
SMALLEST_DEVIATION = 1e-3
"""Floor of what is divided by at the start: the borders of digits never change."""
WIDEST_PRIOR = 6.0
"""The log-deviation of a prior stays within plus and minus this."""


class ImageGlow(nn.Module):
    """A multi-scale Glow: `scales` times, pixels become channels, `depth` steps mix them, and half of them are set aside.

    A step is a scale and shift per channel and an invertible mixing of channels (one matrix product), then an affine coupling:
    a small network reads one half of the channels and scales and shifts the other. What is set aside has a Gaussian law whose
    mean and deviation are read from what goes on. Bits are those of the dequantised image, an upper bound on the code length
    of its grey levels.

    Args:
        shape: `(c, h, w)`; height and width are multiples of `2 ** scales`.
        depth: Steps per scale.
        scales: How often the image is halved.
        hidden: Width of the networks in the couplings.
        levels: Grey levels.
        seed: Seed of the first weights.

    Raises:
        ValueError: If the size cannot be halved that often.

    Source:
        Kingma and Dhariwal (2018), https://arxiv.org/abs/1807.03039.

    Example:
        >>> density = ImageGlow((1, 8, 8), depth=2, hidden=8)
        >>> image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> bool((density.decode(density.encode(image)) - image).abs().max() < 1e-5)
        True
    """

    differentiable = True

    def __init__(
        self,
        shape: tuple[int, int, int] | list[int] = (1, 28, 28),
        depth: int = 8,
        scales: int = 2,
        hidden: int = 64,
        levels: int = 256,
        *,
        seed: int = 0,
    ):
        super().__init__()
        channels, height, width = (int(size) for size in shape)
        if (
            min(channels, depth, scales, hidden, levels - 1) < 1
            or height % 2**scales
            or width % 2**scales
            or not height * width
        ):
            raise ValueError(
                f"an ImageGlow of {scales} scales needs a height and a width that are multiples of {2**scales}, and positive sizes; "
                f"got shape {tuple(shape)}, depth {depth}, hidden {hidden}, levels {levels}. Pad the images, or take fewer scales."
            )
        self.shape, self.levels = (channels, height, width), levels
        self.config: dict[str, Any] = {
            "shape": [channels, height, width], "depth": depth, "scales": scales, "hidden": hidden, "levels": levels,
        }  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        stages, priors = [], []
        for scale in range(scales):
            channels *= 4
            stages.append(_Stage(channels, hidden, depth, generator))
            if scale < scales - 1:
                channels //= 2
                priors.append(_Prior(channels, hidden, generator))
        self.stages, self.priors = nn.ModuleList(stages), nn.ModuleList(priors)
        self.last = nn.Parameter(torch.zeros(2, channels))

    def bits(self, x: Float[Tensor, "n c h w"], *, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
        """Bits of each image with one draw of dequantisation noise, an upper bound in the mean over draws.

        Args:
            x: Values in [0, 1].
            generator: Source of the noise.

        Returns:
            Bits per image.

        Raises:
            ValueError: If the images have another shape.
        """
        v = dequantised(self._fitting(x), generator, self.levels).to(self.last.dtype)
        return x[0].numel() * math.log2(self.levels) - self.log_prob(v) / math.log(2)

    def log_prob(self, v: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Natural logarithm of the density at continuous images in [0, 1], as `from_log_prob` would take it."""
        if len(v) > CHUNK:
            return torch.cat([self.log_prob(part) for part in v.split(CHUNK)])
        z, log_det = self._forward(v)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Latents of images, a standard Gaussian under the density; zero is the most typical image.

        The image is taken in the middle of each grey level's cell, with neither noise nor rounding.

        Raises:
            ValueError: If the images have another shape.
        """
        x = self._fitting(x).to(self.last.dtype)
        return self._forward((x * (self.levels - 1) + 0.5) / self.levels)[0]

    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """The images that `encode` maps to the latents; those far from an image's may leave [0, 1]."""
        v = self._backward(latents.to(self.last.dtype))
        return (v * self.levels - 0.5) / (self.levels - 1)

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "n c h w"], generator: torch.Generator | None = None) -> None:
        """Set every scale and shift so that, on these images, channels start with mean 0 and deviation 1."""
        z = _unshuffled(dequantised(self._fitting(x), generator, self.levels).to(self.last.dtype) - 0.5)
        for scale, stage in enumerate(cast("Sequence[_Stage]", self.stages)):
            z = stage.initialise(z)
            if scale < len(self.priors):
                z = _unshuffled(_images(z.chunk(2, dim=3)[0]))

    def _fitting(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"this density knows images of shape {self.shape}; got {tuple(x.shape[1:])}. Resize them, or fit your own: "
                f'fc.fit_density(images, "glow").'
            )
        return x

    def _forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, d)` standard latents and the log-determinant of the whole map from v."""
        z, log_det, aside = _unshuffled(v - 0.5), v.new_zeros(len(v)), []
        for scale, stage in enumerate(self.stages):
            z, gained = stage(z)
            log_det = log_det + gained
            if scale == len(self.priors):
                break
            kept, leaving = z.chunk(2, dim=3)
            mean, log_deviation = self.priors[scale](kept)
            aside.append(((leaving - mean) * (-log_deviation).exp()).flatten(1))
            log_det = log_det - log_deviation.sum((1, 2, 3))
            z = _unshuffled(_images(kept))
        mean, log_deviation = self.last[0], _bounded(self.last[1])
        aside.append(((z - mean) * (-log_deviation).exp()).flatten(1))
        return torch.cat(aside, dim=1), log_det - log_deviation.sum() * (z.shape[1] * z.shape[2])

    def _backward(self, latents: Tensor) -> Tensor:
        parts = list(latents.split(self._sizes(), dim=1))
        stages, priors = list(cast("Sequence[_Stage]", self.stages)), list(self.priors)
        h, w = (side >> len(stages) for side in self.shape[1:])
        z = parts.pop().unflatten(1, (h, w, -1)) * _bounded(self.last[1]).exp() + self.last[0]
        z = stages.pop().inverse(z)
        while stages:
            kept = _rows(pixel_shuffle(_images(z), 2))
            mean, log_deviation = priors.pop()(kept)
            leaving = parts.pop().view_as(mean) * log_deviation.exp() + mean
            z = stages.pop().inverse(torch.cat([kept, leaving], dim=3))
        return pixel_shuffle(_images(z), 2) + 0.5

    def _sizes(self) -> list[int]:
        """How many latents are set aside at each scale, the last taking the rest."""
        left = math.prod(self.shape)
        sizes = []
        for _ in self.priors:
            left //= 2
            sizes.append(left)
        return [*sizes, left]


class _Stage(nn.Module):
    """The steps at one scale, on images with their channels last `(n, h, w, c)`: every 1 x 1 convolution is a matrix product."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, hidden: int, depth: int, generator: torch.Generator):
        super().__init__()
        draws = torch.randn(depth, channels, channels, generator=generator, dtype=torch.float64)
        permutation, lower, upper = (t.float() for t in torch.linalg.lu(torch.linalg.qr(draws)[0]))
        diagonal = upper.diagonal(dim1=1, dim2=2)
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.log_scale = nn.Parameter(torch.zeros(depth, channels))
        self.shift = nn.Parameter(torch.zeros(depth, channels))
        self.couplings = nn.ModuleList(_Coupling(channels, hidden, generator) for _ in range(depth))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self._mixing()
        log_dets = []
        for step, coupling in enumerate(self.couplings):
            z, log_det = coupling(linear(z, weight[step], bias[step]))
            log_dets.append(log_det)
        everywhere = (self.log_scale.sum() + self.log_diagonal.sum()) * (z.shape[1] * z.shape[2])
        return z, torch.stack(log_dets).sum(0) + everywhere

    def inverse(self, z: Tensor) -> Tensor:
        weight, bias = self._mixing()
        back = torch.linalg.inv(weight)
        for step, coupling in reversed(list(enumerate(cast("Sequence[_Coupling]", self.couplings)))):
            z = linear(coupling.inverse(z) - bias[step], back[step])
        return z

    def initialise(self, z: Tensor) -> Tensor:
        """Standardise what enters each step; returns what leaves the last."""
        for step, coupling in enumerate(self.couplings):
            deviation = z.std((0, 1, 2)).clamp(min=SMALLEST_DEVIATION)
            self.log_scale[step] = -deviation.log()
            self.shift[step] = -z.mean((0, 1, 2)) / deviation
            weight, bias = self._mixing()
            z = coupling(linear(z, weight[step], bias[step]))[0]
        return z

    def _mixing(self) -> tuple[Tensor, Tensor]:
        """Weight `(depth, c, c)` and bias of all scales, shifts and mixings at once, from P L U."""
        eye = torch.eye(self.lower.shape[-1], dtype=self.lower.dtype, device=self.lower.device)
        upper = self.upper.triu(1) + torch.diag_embed(self.sign * self.log_diagonal.exp())
        mixing = self.permutation @ (self.lower.tril(-1) + eye) @ upper
        return mixing * self.log_scale.exp()[:, None, :], (mixing @ self.shift[:, :, None])[..., 0]


class _Coupling(nn.Module):
    """Scales and shifts the second half of the channels by what a network reads in the first."""

    def __init__(self, channels: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.net = _Reader(channels // 2, channels, hidden, generator)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first, second = z.chunk(2, dim=3)
        shift, log_scale = self._moves(first)
        return torch.cat([first, (second + shift) * log_scale.exp()], dim=3), log_scale.sum((1, 2, 3))

    def inverse(self, z: Tensor) -> Tensor:
        first, second = z.chunk(2, dim=3)
        shift, log_scale = self._moves(first)
        return torch.cat([first, second * (-log_scale).exp() - shift], dim=3)

    def _moves(self, first: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(first).chunk(2, dim=3)
        return shift, STRETCH * (raw / 2).tanh()


class _Prior(nn.Module):
    """Mean and log-deviation of the channels set aside, read from those that go on."""

    def __init__(self, channels: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.net = _Reader(channels, 2 * channels, hidden, generator)

    def forward(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_deviation = self.net(kept).chunk(2, dim=3)
        return mean, _bounded(log_deviation)


class _Reader(nn.Module):
    """3 x 3, 1 x 1 and 3 x 3 convolutions, and a linear 3 x 3 one beside them for what is smooth; zero at the start."""

    def __init__(self, inputs: int, outputs: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.enter = convolution(inputs, hidden, 3, generator)
        self.within = convolution(hidden, hidden, 1, generator)
        self.leave = convolution(hidden, outputs, 3, generator, gain=0.0)
        self.beside = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))

    def forward(self, z: Tensor) -> Tensor:
        z = _images(z)
        inner = elu(self.enter(z), inplace=True)
        inner = elu(self.within(inner), inplace=True)
        return _rows(self.leave(inner) + conv2d(z, self.beside, padding=1))


def _bounded(log_deviation: Tensor) -> Tensor:
    return log_deviation.clamp(-WIDEST_PRIOR, WIDEST_PRIOR)


def _images(z: Tensor) -> Tensor:
    """`(n, c, h, w)` of the same memory as `(n, h, w, c)`."""
    return z.permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _unshuffled(x: Tensor) -> Tensor:
    """`(n, h / 2, w / 2, 4 c)`: the four pixels of a square become channels."""
    return _rows(pixel_unshuffle(x, 2)).contiguous()
