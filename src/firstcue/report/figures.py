"""Where the marks of each chart stand: numbers go in, positions come out, and a template draws them.

Charts are a few SVG marks coloured by the page's own style sheet, so they follow the reader's light or dark theme.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstcue.finding import Picture


@dataclass(frozen=True)
class Strip:
    """One dot with its interval on a horizontal axis; positions in percent of the strip's width."""

    dot: float
    low: float | None = None
    high: float | None = None
    reference: float | None = None


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, value: float | None) -> float | None:
        """Position of `value` in percent of the axis, kept inside it."""
        if value is None:
            return None
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 2)

    @property
    def ticks(self) -> list[tuple[float, float]]:
        """Round values on the axis, with their positions."""
        round_widths = (m * 10.0**e for e in range(-2, 13) for m in (1, 2, 2.5, 5))
        width = next(w for w in round_widths if (self.high - self.low) / w <= 5.01)
        first = math.ceil(self.low / width - 1e-9)
        values = [i * width for i in range(first, first + 7) if i * width <= self.high + 1e-9]
        return [(round(v, 6), self(v) or 0.0) for v in values]


def scale_of(values: Iterable[float | None], low: float = 0.0, high: float = 0.0, step: float = 0.1) -> Scale:
    """An axis that holds `values`, `low` and `high`, with ends on multiples of `step`.

    Example:
        >>> scale_of([0.48, 0.53, -0.02])
        Scale(low=-0.1, high=0.6)
    """
    known = [v for v in values if v is not None]
    low, high = min([low, *known]), max([high, *known])
    low, high = math.floor(low / step - 1e-9 + 2e-9) * step, math.ceil(high / step - 1e-9) * step
    return Scale(round(low, 6), round(high if high > low else low + step, 6))


def strip(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    reference: float | None = None,
    scale: Scale | None = None,
) -> Strip | None:
    """The marks of one value with its interval; None when there is no value."""
    at = scale or Scale()
    dot = at(value)
    return None if dot is None else Strip(dot, at(low), at(high), at(reference))


def picture(
    images: Sequence[object],
    title: str,
    caption: str,
    alt: str,
    *,
    columns: int = 6,
    lead: bool = False,
    finding: str = "",
) -> Picture:
    """A row or grid of example images as one figure of the page.

    Args:
        images: Up to 12 arrays or tensors `(h, w)`, `(1, h, w)` or `(3, h, w)`, values in [0, 1] or uint8, equal sizes.
        title: A few words above the figure.
        caption: What to look at.
        alt: What the figure shows, for readers who do not see it.
        columns: Images per row.
        lead: Whether it stands beside the verdict.
        finding: Id of the finding it belongs to.

    Raises:
        ValueError: If there is no image, or one is not an image.

    Example:
        >>> picture([np.zeros((8, 8)), np.ones((8, 8))], "Coats", "Two coats.", "Two grey squares.").png[:4]
        'iVBO'
    """
    if not len(images):
        raise ValueError("no image was given; a picture needs at least one array (h, w) or (channels, h, w).")
    tiles = [_pixels(image) for image in images[:12]]
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    gap = max(1, width // 14)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width, :3] = tile[:height, :width]
        sheet[top : top + height, left : left + width, 3] = 255
    return Picture(title=title, caption=caption, alt=alt, png=_png(sheet), lead=lead, finding=finding)


LEAST_HEIGHT = 84
"""Pixels below which images are enlarged, so that small ones stay sharp."""


def enlarged(images: Any, low: float | None = None, high: float | None = None) -> list[Any]:
    """Images with values in [0, 1] whose pixels are repeated until they can be looked at.

    Args:
        images: `(n, channels, h, w)` tensor in any range.
        low: Value that is black; the smallest of all when None.
        high: Value that is white; the largest when None.

    Example:
        >>> import torch
        >>> enlarged(torch.arange(8.0).reshape(1, 2, 2, 2))[0].shape
        torch.Size([2, 84, 84])
    """
    low = float(images.min()) if low is None else low
    high = float(images.max()) if high is None else high
    scale = max(1, LEAST_HEIGHT // images.shape[2])
    unit = ((images.float() - low) / max(high - low, 1e-12)).clamp(0, 1)
    return list(unit.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3))


def _pixels(image: object) -> np.ndarray:
    """`(h, w, 3)` uint8."""
    pixels = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"an image has shape {pixels.shape}; (h, w), (1, h, w) or (3, h, w) is needed.")
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * np.clip(np.nan_to_num(pixels.astype(np.float64)), 0, 1)).astype(np.uint8)
    return np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
