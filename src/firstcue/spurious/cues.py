"""Ways to show a cue in an image: another image on top or in a corner, a patch, stripes, a tint.

A cue can always be set again to another value without touching the rest of the image, which makes it possible to ask
whether a model relies on it.
"""

from collections.abc import Callable
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

from firstcue.batch import Batch

Corner = Literal["top left", "top right", "bottom left", "bottom right"]
Show = Callable[[Tensor, Tensor], Tensor]
"""`show(x, value)` sets the cue of each row of `x` `(n, c, h, w)` to its id in `value` `(n,)`, whatever it was."""


@dataclass(frozen=True)
class Paint:
    """A cue drawn by a rule.

    Example:
        >>> patch(2).values
        ('0.5', '1')
    """

    name: str
    values: tuple[str, ...]
    """Name of each value."""

    show: Show
    grey_only: bool = False
    """Whether the images under the cue must have one channel."""

    def edit(self, x: Tensor, value: int) -> Tensor:
        """The same images with the cue set to `value`."""
        return self.show(x, torch.full((len(x),), require_value(value, self.values), device=x.device))


def patch(num_values: int = 2, *, size: int = 6, corner: Corner = "top left") -> Paint:
    """A grey square in a corner; value v has brightness (v + 1) / num_values of full scale 1.

    Args:
        num_values: Number of brightnesses.
        size: Side in pixels.
        corner: Where.
    """
    levels = (torch.arange(num_values) + 1) / num_values
    return Paint(
        "patch", tuple(f"{v:.3g}" for v in levels.tolist()), partial(_patch, levels=levels, size=size, corner=corner)
    )


def _patch(x: Tensor, value: Tensor, levels: Tensor, size: int, corner: Corner) -> Tensor:
    shown = x.clone()
    region(shown, size, size, corner).copy_(levels.to(x)[value][:, None, None, None])
    return shown


def stripes(num_values: int = 2, *, height: int = 6) -> Paint:
    """A band of black and white stripes along the upper edge; value v has stripes v + 1 pixels wide.

    Args:
        num_values: Number of stripe widths.
        height: Height of the band in pixels.
    """
    return Paint("stripes", tuple(f"{v + 1} pixels wide" for v in range(num_values)), partial(_stripes, height=height))


def _stripes(x: Tensor, value: Tensor, height: int) -> Tensor:
    column = torch.arange(x.shape[-1], device=x.device)
    bright = (column // (value[:, None] + 1)) % 2 == 0
    shown = x.clone()
    region(shown, height, x.shape[-1], "top left").copy_(bright[:, None, None, :].to(x.dtype))
    return shown


def tint(num_values: int = 2) -> Paint:
    """A colour for grey images: value v has the hue v / num_values of the colour circle (0 is red).

    The result has three channels. The strongest one of every hue keeps the grey value exactly, so that a tint can be
    changed without loss.
    """
    hues = torch.tensor([hsv_to_rgb(v / num_values, 1.0, 1.0) for v in range(num_values)])
    names = tuple(f"hue {360 * v // num_values}" for v in range(num_values))
    return Paint("tint", names, partial(_tint, hues=hues), grey_only=True)


def _tint(x: Tensor, value: Tensor, hues: Tensor) -> Tensor:
    return x.amax(dim=1, keepdim=True) * hues.to(x)[value][:, :, None, None]


@dataclass(frozen=True)
class ImagePool:
    """A cue shown by images: the value is the class of the image, placed above the core or over one of its corners."""

    name: str
    values: tuple[str, ...]
    images: Tensor
    """`(m, c, h, w)`."""

    members: tuple[Tensor, ...]
    """Ids of the images of each value."""

    place: Literal["above"] | Corner
    seed: int = 0

    @classmethod
    def of(cls, spurious: Batch, name: str, place: Literal["above"] | Corner, seed: int) -> "ImagePool":
        """The images of a batch, by class.

        Raises:
            ValueError: If there are fewer than two classes, or one has no image.
        """
        members = tuple((spurious.y == v).nonzero()[:, 0] for v in range(spurious.num_classes))
        values = spurious.classes or tuple(str(v) for v in range(len(members)))
        empty = [values[v] for v, rows in enumerate(members) if len(rows) == 0]
        if len(members) < 2 or empty:
            raise ValueError(
                f"`spurious` needs images of at least two classes, and of each; it has {len(spurious)} images of "
                f"{len(members)} classes, none of: {', '.join(empty) or '-'}."
            )
        return cls(name, values, spurious.x, members, place, seed)

    def draw(self, value: Tensor, generator: torch.Generator, unique: bool) -> Tensor:
        """`(n,)` ids of images of the values wanted, with replacement unless `unique`."""
        drawn = torch.empty_like(value)
        for v, rows in enumerate(self.members):
            wanted = (value == v).nonzero()[:, 0]
            if unique and len(wanted) > len(rows):
                raise ValueError(
                    f"{len(wanted)} different spurious images of class {self.values[v]!r} are needed, but there are "
                    f"{len(rows)}; leave out `unique=True` to draw with replacement, or give more images."
                )
            order = (
                torch.randperm(len(rows), generator=generator)[: len(wanted)]
                if unique
                else torch.randint(len(rows), (len(wanted),), generator=generator)
            )
            drawn[wanted] = rows[order]
        return drawn

    def put(self, core: Tensor, images: Tensor) -> Tensor:
        """The core `(n, c, h, w)` with one image each above it or over its corner."""
        if self.place == "above":
            return torch.cat([images.to(core), core], dim=2)
        shown = core.clone()
        region(shown, images.shape[2], images.shape[3], self.place).copy_(images.to(core))
        return shown

    def edit(self, x: Tensor, value: int) -> Tensor:
        """The same cores, bit for bit, under images of class `value`.

        Which image a row gets depends on the content of its core, on the value and on the seed: neither the other rows
        nor the present cue matter. Setting a cue twice is setting it once.
        """
        rows = self.members[require_value(value, self.values)]
        height, width = self.images.shape[2:]
        if x.ndim != 4 or x.shape[1] != self.images.shape[1] or x.shape[2] <= height - (self.place != "above"):
            raise ValueError(
                f"the editor of {self.name!r} needs images as they were composed; got shape {tuple(x.shape)}."
            )
        if self.place == "above":
            core = content = x[:, :, height:]
        else:
            core, content = x, x.clone()
            region(content, height, width, self.place).zero_()
        picked = torch.tensor([digest % len(rows) for digest in digests(content, self.seed)], dtype=torch.int64)
        return self.put(core, self.images[rows[picked]])


def digests(x: Tensor, seed: int) -> list[int]:
    """A number below 2^64 from the content of each row of `x` and the seed."""
    salt = (seed % 2**64).to_bytes(8, "little")
    rows = x.detach().float().cpu().flatten(start_dim=1).contiguous().numpy()
    return [int.from_bytes(blake2b(row, digest_size=8, salt=salt).digest(), "little") for row in rows]


def region(x: Tensor, height: int, width: int, corner: Corner) -> Tensor:
    """The view of `x` `(n, c, h, w)` in one of its corners."""
    if height > x.shape[2] or width > x.shape[3]:
        raise ValueError(f"the cue takes {height} x {width} pixels, but the images have {x.shape[2]} x {x.shape[3]}.")
    vertical, horizontal = corner.split()
    rows = slice(0, height) if vertical == "top" else slice(x.shape[2] - height, None)
    columns = slice(0, width) if horizontal == "left" else slice(x.shape[3] - width, None)
    return x[:, :, rows, columns]


def require_value(value: int, values: tuple[str, ...]) -> int:
    """Refuse an id that names no value of the cue."""
    if not 0 <= int(value) < len(values):
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(values))
        raise ValueError(f"the cue has no value {value}; values: {known}.")
    return int(value)
