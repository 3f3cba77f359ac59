"""Cues with two dials, how large they are and how much they vary from row to row: a background, a texture, a watermark.

Where a cue varies, its place is drawn from the content of the image under it, so that setting the cue again changes its
value and nothing else: neither the core nor the place.
"""

from colorsys import hsv_to_rgb
from functools import partial
from math import pi
from typing import Literal

import torch
from torch import Tensor

from firstcue.spurious.cues import Corner, Paint, digests, region

Variance = Literal["low", "medium", "high"]
CORNER_SHARE = 4
"""A quarter of the image is its corner."""


def background(
    num_values: int = 2, *, magnitude: float = 1.0, variance: Variance = "low", saturation: float = 1.0, seed: int = 0
) -> Paint:
    """A coloured background behind grey objects: value v has the hue v / num_values of the colour circle.

    Only pixels that are exactly black are painted, so that the object keeps every grey value; the result has three
    channels.

    Args:
        num_values: Number of hues.
        magnitude: Share of the image's pixels that may be painted, in (0, 1]; 1 is the whole background, 1/16 the 49
            pixels of an image of 28 x 28.
        variance: Which pixels: "low" a square block in the upper left corner, the same in every image; "medium" pixels
            drawn for each image within that quarter; "high" drawn within the whole image.
        saturation: Of the colour, in (0, 1].
        seed: Of the pixels drawn.

    Raises:
        ValueError: If a share is outside (0, 1], or more than a quarter is to be painted within the corner.

    Source:
        The dials of SpuCoMNIST, https://arxiv.org/abs/2306.11957.

    Example:
        >>> black = torch.zeros(1, 1, 4, 4)
        >>> background(magnitude=0.25).edit(black, 0)[0, 0].sum().item()
        4.0
    """
    _require_share(magnitude, "magnitude")
    _require_share(saturation, "saturation")
    if variance == "medium" and magnitude > 1 / CORNER_SHARE:
        raise ValueError(
            f"a cue that varies within the corner covers at most a quarter of the image; `magnitude` is {magnitude}. "
            f"Ask for 0.25 or less, or for variance='high'."
        )
    hues = torch.tensor([hsv_to_rgb(v / num_values, saturation, 1.0) for v in range(num_values)])
    show = partial(_background, hues=hues, magnitude=magnitude, variance=variance, seed=seed)
    return Paint("background", tuple(f"hue {360 * v // num_values}" for v in range(num_values)), show, grey_only=True)


def texture(
    num_values: int = 2, *, width: int = 4, magnitude: float = 1.0, variance: float = 0.0, seed: int = 0
) -> Paint:
    """A grating on a frame around the image: value v has the direction 180 v / num_values degrees.

    Args:
        num_values: Number of directions.
        width: Of the frame, in pixels.
        magnitude: Contrast of the grating, in (0, 1].
        variance: How far the phase wanders from image to image, 0 (never) to 1 (a whole period).
        seed: Of the phases.

    Raises:
        ValueError: If a dial is outside its range.

    Example:
        >>> texture(3).values
        ('0 degrees', '60 degrees', '120 degrees')
    """
    _require_share(magnitude, "magnitude")
    if not 0 <= variance <= 1:
        raise ValueError(f"`variance` is the share of a period by which the phase wanders, 0 to 1; got {variance}.")
    show = partial(_texture, num_values=num_values, width=width, magnitude=magnitude, variance=variance, seed=seed)
    return Paint("texture", tuple(f"{180 * v // num_values} degrees" for v in range(num_values)), show)


def watermark(
    num_values: int = 2,
    *,
    size: int = 7,
    corner: Corner = "bottom right",
    magnitude: float = 1.0,
    jitter: int = 0,
    seed: int = 0,
) -> Paint:
    """A small mark in a corner that is kept free for it: a cross, a ring, a bar, a square.

    Args:
        num_values: Number of marks, 2 to 4.
        size: Side of a mark in pixels, at least 5.
        corner: Where.
        magnitude: Brightness of the mark, in (0, 1].
        jitter: The mark moves by up to this many pixels from image to image.
        seed: Of the movement.

    Raises:
        ValueError: If there are too many values, or a dial is outside its range.

    Example:
        >>> watermark(3).values
        ('cross', 'ring', 'bar')
    """
    _require_share(magnitude, "magnitude")
    marks = _marks(size)
    if not 2 <= num_values <= len(marks) or size < 5 or jitter < 0:
        raise ValueError(
            f"a watermark has 2 to {len(marks)} values, a side of at least 5 pixels and a jitter of at least 0; got "
            f"{num_values}, {size} and {jitter}."
        )
    drawn = torch.stack(list(marks.values())[:num_values]) * magnitude
    show = partial(_watermark, marks=drawn, corner=corner, jitter=jitter, seed=seed)
    return Paint("watermark", tuple(marks)[:num_values], show)


def _background(x: Tensor, value: Tensor, hues: Tensor, magnitude: float, variance: Variance, seed: int) -> Tensor:
    core = _grey(x)
    where = _pixels(core, magnitude, variance, seed) & (core == 0)
    return torch.where(where, hues.to(core)[value][:, :, None, None], core)


def _grey(x: Tensor) -> Tensor:
    """`(n, 1, h, w)` what is under the paint: painted pixels are those whose channels differ, and they were black."""
    return torch.where((x == x[:, :1]).all(dim=1, keepdim=True), x[:, :1], torch.zeros_like(x[:, :1]))


def _pixels(core: Tensor, magnitude: float, variance: Variance, seed: int) -> Tensor:
    """`(n or 1, 1, h, w)` which pixels may be painted."""
    height, width = core.shape[-2:]
    count = max(1, round(magnitude * height * width))
    if variance == "low":
        where = torch.zeros(1, 1, height, width, dtype=torch.bool, device=core.device)
        tall = min(height, max(1, round(magnitude**0.5 * height)))
        where[..., :tall, : min(width, max(1, round(count / tall)))] = True
        return where
    tall, wide = (height // 2, width // 2) if variance == "medium" else (height, width)
    where = torch.zeros(len(core), 1, height, width, dtype=torch.bool)
    for row, digest in zip(where, digests(core, seed), strict=True):
        order = torch.randperm(tall * wide, generator=torch.Generator().manual_seed(digest % 2**63))[:count]
        row[0, order // wide, order % wide] = True
    return where.to(core.device)


def _texture(
    x: Tensor, value: Tensor, num_values: int, width: int, magnitude: float, variance: float, seed: int
) -> Tensor:
    height, wide = x.shape[-2:]
    if 2 * width >= min(height, wide):
        raise ValueError(f"a frame of {width} pixels leaves nothing of an image of {height} x {wide}.")
    inside = x[:, :, width:-width, width:-width]
    phase = torch.tensor([digest % 1024 / 1024 for digest in digests(inside, seed)], device=x.device) * variance
    angle = value * pi / num_values
    rows = torch.arange(height, device=x.device)[None, :, None]
    columns = torch.arange(wide, device=x.device)[None, None, :]
    along = columns * angle.cos()[:, None, None] + rows * angle.sin()[:, None, None]
    grating = 0.5 + 0.5 * magnitude * torch.sin(2 * pi * (along / 4 + phase[:, None, None]))
    shown = grating[:, None].to(x.dtype).expand_as(x).clone()
    shown[:, :, width:-width, width:-width] = inside
    return shown


def _marks(size: int) -> dict[str, Tensor]:
    """`(size, size)` drawings by name."""
    at = torch.arange(size)
    row, column = at[:, None].expand(size, size), at[None, :].expand(size, size)
    edge = torch.minimum(torch.minimum(row, column), size - 1 - torch.maximum(row, column))
    middle = size // 2
    drawings = {
        "cross": (row == column) | (row + column == size - 1),
        "ring": edge == 0,
        "bar": (column - middle).abs() <= size // 6,
        "square": edge >= size // 4,
    }
    return {name: drawing.float() for name, drawing in drawings.items()}


def _watermark(x: Tensor, value: Tensor, marks: Tensor, corner: Corner, jitter: int, seed: int) -> Tensor:
    size = marks.shape[-1]
    shown = x.clone()
    free = region(shown, size + jitter, size + jitter, corner)
    free.zero_()
    moved = [divmod(digest % (jitter + 1) ** 2, jitter + 1) for digest in digests(shown, seed)]
    drawn = marks.to(x)[value]
    for down in range(jitter + 1):
        for right in range(jitter + 1):
            rows = torch.tensor([place == (down, right) for place in moved], device=x.device)
            free[rows, :, down : down + size, right : right + size] = drawn[rows][:, None]
    return shown


def _require_share(value: float, name: str) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"`{name}` is above 0 and at most 1; got {value}.")
