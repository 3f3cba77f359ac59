"""How an image is cut into blocks, and what the means of the blocks before one make expect of its own."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Block(NamedTuple):
    """Where blocks of one size lie: the remainder of an image that is no multiple of the block has a size of its own."""

    rows: slice
    columns: slice
    height: int
    width: int


def places_of(height: int, width: int, block: int | None) -> list[Block]:
    """Row by row: whole blocks, then the remainders to the right and below; without a side, one block is the image."""
    rows = _bands(height, block or height)
    columns = _bands(width, block or width)
    return [Block(slice(r, r + rn * rs), slice(c, c + cn * cs), rs, cs) for r, rn, rs in rows for c, cn, cs in columns]


def _bands(size: int, block: int) -> list[tuple[int, int, int]]:
    """First pixel, number and side of the whole blocks along one axis, and of the remainder."""
    whole, rest = divmod(size, block)
    return [band for band in ((0, whole, block), (whole * block, 1, rest)) if band[1] * band[2] > 0]


def expected(means: Tensor) -> Tensor:
    """The grey that the blocks to the left and above make expect; zero for the first block."""
    left, above = functional.pad(means, (1, 0))[..., :-1], functional.pad(means, (0, 0, 1, 0))[..., :-1, :]
    rows = torch.arange(means.shape[-2], device=means.device)[:, None] > 0
    columns = torch.arange(means.shape[-1], device=means.device)[None, :] > 0
    return (left + above) / (rows.int() + columns.int()).clamp(min=1)


def joined(parts: list[Tensor], places: list[Block]) -> Tensor:
    """Parts that lie side by side (as `places_of` lists them) as one plane."""
    width = len({place.columns.start for place in places})
    return torch.cat([torch.cat(parts[i : i + width], dim=-1) for i in range(0, len(parts), width)], dim=-2)


def split(plane: Tensor, places: list[Block]) -> list[Tensor]:
    """The parts that `joined` put together."""
    parts, row = [], 0
    for first in sorted({place.rows.start for place in places}):
        band = [place for place in places if place.rows.start == first]
        height = (band[0].rows.stop - band[0].rows.start) // band[0].height
        column = 0
        for place in band:
            width = (place.columns.stop - place.columns.start) // place.width
            parts.append(plane[..., row : row + height, column : column + width])
            column += width
        row += height
    return parts
