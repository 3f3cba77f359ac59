"""Bits of an image from its cosine waves alone: no weights, no training, any size, any number of channels.

The image is cut into blocks, each block is written as a sum of cosine waves, and the amplitude of each wave is described
under a Laplace law that narrows with its frequency. What holds under this density and under a trained one is about the
image, not about one of them.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from firstcue.simplicity._blocks import Block, expected, joined, places_of, split
from firstcue.simplicity.density import Uniform, require_inputs
from firstcue.simplicity.quantising import grey_levels

BASE = 64.0
"""Scale of the lowest frequency at full contrast, in grey levels of an orthonormal transform."""

CONTRASTS = tuple(4.0**-step for step in range(-1, 6))
TILTS = (0.0, 1.0, 2.0)
"""How fast amplitudes fall with frequency: noise (0), edges and natural images (1), smooth shades (2)."""

DIRECTED = ((0.0, 2.0), (2.0, 0.0), (1.0, 4.0), (4.0, 1.0))
"""How fast they fall down and across, for textures and shades that have a direction."""


NARROWEST = 2.0**-6
"""Grey levels; a narrower law costs the same to the last digit."""


class DCTLaplace:
    """Discretised Laplace laws for the cosine amplitudes of blocks.

    A block's contrast is not fixed: its bits are `-log2` of the mean probability over a few scales and over ways in which
    amplitudes fall with frequency: as `1 / (1 + |k|)^t`, t = 0, 1, 2, along one axis more than along the other, and as in the
    images that scales were fitted to, if any. The mean grey of a block is described relative to the blocks to the left
    and above, so a flat image costs next to nothing, whatever its grey. It is an idealised code length: amplitudes are
    taken as the real numbers they are, each in a cell of width 1.

    Args:
        block: Side of the blocks in pixels; None takes the whole image as one block.
        scales: `(c, block, block)` mean absolute amplitudes, from `DCTLaplace.fit`; fixed laws alone when absent. For whole
            images `(c, h, w)`, and only images of that size are measured.

    Raises:
        ValueError: If `block` is less than 2, or `scales` are not positive or of another size.

    Source:
        Lam and Goodman (2000), A mathematical analysis of the DCT coefficient distributions for images, IEEE
        Transactions on Image Processing 9.

    Example:
        >>> ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
        >>> noise = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> DCTLaplace().bits(torch.cat([0 * ramp + 0.5, ramp, noise])).div(256).round(decimals=1)
        tensor([0.1000, 1.4000, 8.4000])
    """

    levels = 256
    differentiable = True

    def __init__(self, block: int | None = 8, scales: Tensor | None = None) -> None:
        if block is not None and block < 2:
            raise ValueError(f"`block` is {block}; at least 2 pixels, or None for the whole image, are needed.")
        if scales is not None and (scales.ndim != 3 or not bool((scales > 0).all() and scales.isfinite().all())):
            raise ValueError("`scales` must be (c, block, block), finite and positive; let `DCTLaplace.fit` make them.")
        if scales is not None and block is not None and tuple(scales.shape[1:]) != (block, block):
            raise ValueError(f"`scales` has shape {tuple(scales.shape)}, but the block is {block} x {block}.")
        self.block, self.scales = block, scales
        whole = scales is not None and block is None
        self.shape: tuple[int, ...] | None = tuple(scales.shape) if whole and scales is not None else None

    @classmethod
    def fit(cls, images: Any, block: int | None = 8) -> "DCTLaplace":
        """Mean absolute amplitude of each frequency, the likeliest scale of its Laplace law.

        Args:
            images: `(n, c, h, w)` in [0, 1], at least one, and no smaller than the block.
            block: Side of the blocks in pixels, or None for whole images.

        Raises:
            ValueError: If there is no image, or images are smaller than a block.
        """
        known = require_inputs(Uniform(), images, "images").double()
        if len(known) == 0 or (block is not None and min(known.shape[2:]) < block):
            raise ValueError(
                f"`images` has shape {tuple(known.shape)}; at least one image of {block or 1} x {block or 1} pixels is needed."
            )
        unfitted = cls(block)
        first = next(iter(unfitted._amplitudes(known)))
        return cls(block, first[1].abs().mean(dim=(0, 2, 3)).clamp(min=NARROWEST).float())

    @property
    def config(self) -> dict[str, Any]:
        """What builds it again, beside the scales."""
        return {"block": self.block}

    def state_dict(self) -> dict[str, Tensor]:
        """The scales, if they were fitted."""
        return {} if self.scales is None else {"scales": self.scales}

    @classmethod
    def from_stored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "DCTLaplace":
        """From what `config` and `state_dict` said."""
        return cls(config["block"], tensors.get("scales"))

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits of each image; differentiable and without noise."""
        return torch.stack([cost.sum(dim=(1, 2)) for _, cost in self._costs(x)]).sum(dim=0)

    def bits_map(self, x: Tensor) -> Tensor:
        """`(n, h, w)`: the bits of a block, spread evenly over its pixels."""
        found = x.new_zeros(len(x), *x.shape[2:])
        for place, cost in self._costs(x):
            each = cost / (place.height * place.width)
            spread = each.repeat_interleave(place.height, dim=1).repeat_interleave(place.width, dim=2)
            found[:, place.rows, place.columns] = spread
        return found

    def _costs(self, x: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """`(n, rows, columns)` bits of the blocks of each size."""
        if self.scales is not None and x.shape[1] != len(self.scales):
            raise ValueError(f"images have {x.shape[1]} channels, but the scales were fitted on {len(self.scales)}.")
        for place, amplitudes, first in self._amplitudes(x):
            nats = nats_of(amplitudes, self._laws(place, x))
            mixed = math.log(nats.shape[-1]) - torch.logsumexp(-nats, dim=-1)
            yield place, (mixed / math.log(2) + first).sum(dim=1)

    def _amplitudes(self, x: Tensor) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """For each size of block its place, `(n, c, rows, columns, height, width)` amplitudes, bits of the first mean."""
        q = _rotated(grey_levels(x, self.levels))
        places = places_of(q.shape[2], q.shape[3], self.block)
        waves = [_transformed(q[:, :, place.rows, place.columns], place) for place in places]
        means = joined(
            [wave[..., 0, 0] / math.sqrt(p.height * p.width) for p, wave in zip(places, waves, strict=True)], places
        )
        steps = split(means - expected(means), places)
        for index, (place, wave, step) in enumerate(zip(places, waves, steps, strict=True)):
            lowest = functional.one_hot(torch.tensor(0), place.height * place.width).view(place.height, place.width)
            size = math.sqrt(place.height * place.width)
            relative = torch.where(lowest.bool().to(wave.device), step[..., None, None] * size, wave)
            first = torch.zeros(relative.shape[1:4], dtype=x.dtype, device=x.device)
            if index == 0:
                relative = relative.clone()
                relative[:, :, 0, 0, 0, 0] = 0.0
                first[:, 0, 0] = _spread(x.shape[1]).to(x).mul(size * (self.levels - 1)).add(1).log2()
            yield place, relative, first

    def _laws(self, place: Block, x: Tensor) -> Tensor:
        """Scales `(laws, c or 1, height, width)` of the laws in the mixture."""
        unit = self.block or 8
        down = torch.arange(place.height, dtype=x.dtype, device=x.device) * (unit / place.height)
        across = torch.arange(place.width, dtype=x.dtype, device=x.device) * (unit / place.width)
        rows, columns = down[:, None], across[None, :]
        falls = [BASE * (1 + torch.hypot(rows, columns)) ** -tilt for tilt in TILTS]
        falls += [BASE * (1 + rows) ** -vertical * (1 + columns) ** -horizontal for vertical, horizontal in DIRECTED]
        shapes = torch.stack(falls)[:, None]
        if self.scales is not None:
            fitted = self.scales.to(x)
            known = tuple(fitted.shape[1:]) == (place.height, place.width)
            read = fitted if known else _read_off(fitted, down, across)
            shapes = torch.cat([shapes.expand(-1, len(read), -1, -1), read[None]])
        contrasts = torch.tensor(CONTRASTS, dtype=x.dtype, device=x.device)
        return (contrasts[:, None, None, None, None] * shapes).flatten(0, 1).clamp(min=NARROWEST)


def nats_of(amplitudes: Tensor, scales: Tensor) -> Tensor:
    """`-ln` of the mass that each law puts on the cells of width 1 around the amplitudes of each block.

    A Laplace law of scale b puts `1 - exp(-a)` on the cell around zero and `exp(-|k| / b) sinh(a)` on that around k, with
    a = 1 / (2 b). Between zero and one half, where the cell holds the peak, the logarithm is interpolated by a parabola:
    so all laws together are two matrix products.

    Args:
        amplitudes: `(n, c, rows, columns, height, width)`.
        scales: `(laws, c or 1, height, width)`.

    Returns:
        `(n, c, rows, columns, laws)`.
    """
    size = amplitudes.abs().flatten(start_dim=4).movedim(1, 0)  # (c, n, rows, columns, pixels)
    b = scales.flatten(start_dim=2).movedim(1, 0).mT  # (c or 1, pixels, laws)
    half = 0.5 / b
    at_zero = -torch.log(-torch.expm1(-half))
    to_the_edge = math.log(2) - torch.log1p(torch.exp(-half))
    near = (2 * size).clamp(max=1).square().flatten(1, 3) @ to_the_edge
    far = (size - 0.5).clamp(min=0).flatten(1, 3) @ (1 / b)
    nats = near + far + at_zero.sum(dim=1, keepdim=True)
    return nats.unflatten(1, size.shape[1:4]).movedim(0, 1)


def _cosines(size: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform as a matrix: row k is the wave of k half turns."""
    k = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.to(like)


def _rotated(q: Tensor) -> Tensor:
    """Colours as brightness and two differences, by a rotation; other numbers of channels as they are."""
    return torch.einsum("kc,nchw->nkhw", _cosines(3, q), q) if q.shape[1] == 3 else q


def _spread(channels: int) -> Tensor:
    """Width of the range of each channel after the rotation, relative to that of a channel before."""
    return _cosines(3, torch.zeros(())).abs().sum(dim=1) if channels == 3 else torch.ones(channels)


def _transformed(part: Tensor, place: Block) -> Tensor:
    n, c, h, w = part.shape
    blocks = part.reshape(n, c, h // place.height, place.height, w // place.width, place.width).transpose(3, 4)
    return _cosines(place.height, part) @ blocks @ _cosines(place.width, part).T


def _read_off(fitted: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Scales between the fitted frequencies, by linear interpolation."""
    size = fitted.shape[-1]
    rows, columns = down.clamp(max=size - 1), across.clamp(max=size - 1)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1) / (size - 1) * 2 - 1
    return functional.grid_sample(fitted[None], grid[None], align_corners=True)[0]
