"""What can be said of a picture without looking at what it shows: light, colour, sharpness, its border and its parts."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from firstcue.spurious.properties import Property

Cell = tuple[int, int, int, int]
BANDS = 4
"""Bands of spatial frequency, from the coarsest to the finest."""

CELLS = 4
"""Cells along the shorter side."""

NO_PLACE = 0.06
"""What a texture of the whole picture has to be better by than what can be pointed at."""

_TINY = 1e-8
_CHUNK = 2048


def image_properties(x: Tensor) -> tuple[Property, ...]:
    """Brightness, contrast, size of the object, colours, border, halves, cells of a grid, sharpness and frequencies.

    Args:
        x: `(n, c, h, w)` or `(n, h, w)` images on any scale.

    Returns:
        Properties, the simplest first: of equally good ones the first is named. All but sharpness and size can be carried over to another picture.

    Example:
        >>> found = image_properties(torch.rand(6, 3, 8, 8))
        >>> [p.name for p in found][:4], len(found)
        (['brightness', 'contrast', 'size of the object', 'share of red'], 64)
    """
    pictures = x[:, None] if x.ndim == 3 else x
    h, w = pictures.shape[2:]
    placed, textures = [*_whole(pictures.shape[1]), *_parts(h, w)], _textures(h, w)
    return tuple(
        Property(
            name,
            _by_chunks(x, measure),
            measure=partial(_by_chunks, measure=measure),
            carry=None if carry is None else partial(carried, carry=carry),
            cell=cell,
            handicap=handicap,
        )
        for handicap, made in ((0.0, placed), (NO_PLACE, textures))
        for name, measure, carry, cell in made
    )


def carried(x: Tensor, donors: Tensor, carry: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`carry` on images with or without an axis for channels, in any type of number."""
    grey = x.ndim == 3
    wide, given = (t[:, None] if grey else t for t in (x, donors))
    exact = x.dtype if x.dtype == torch.float64 else torch.float32
    changed = carry(wide.to(exact), given.to(wide.device, exact))
    if not x.dtype.is_floating_point:
        limits = torch.iinfo(x.dtype)
        changed = changed.round().clamp(limits.min, limits.max)
    return (changed[:, 0] if grey else changed).to(x.dtype)


Made = tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor] | None, Cell | None]


def _whole(c: int) -> list[Made]:
    made: list[Made] = [
        ("brightness", _mean, _carry_brightness, None),
        ("contrast", partial(_spread), _carry_contrast, None),
        ("size of the object", _object_size, None, None),
    ]
    names = ("red", "green", "blue") if c == 3 else tuple(f"channel {i}" for i in range(c))
    if c > 1:
        made += [(f"share of {n}", partial(_channel, channel=i), _carry_colour, None) for i, n in enumerate(names)]
    return made


def _textures(h: int, w: int) -> list[Made]:
    made: list[Made] = [("sharpness", _sharpness, None, None)]
    if min(h, w) >= 2 * BANDS:
        made += [
            (f"frequency band {b + 1} of {BANDS}", partial(_band_share, band=b), partial(_carry_band, band=b), None)
            for b in range(BANDS)
        ]
    return made


def _parts(h: int, w: int) -> list[Made]:
    edge = max(1, min(h, w) // 14)
    frame = torch.ones(h, w, dtype=torch.bool)
    frame[edge : h - edge, edge : w - edge] = False
    made: list[Made] = [("brightness of the border", partial(_mean_in, mask=frame), carry_mask(frame), None)]
    for name, cell in _halves(h, w).items():
        made.append((f"brightness of {name}", partial(_mean, cell=cell), carry_mask(mask_of([cell], h, w)), None))
    for cell in cells(h, w):
        carry, where = carry_mask(mask_of([cell], h, w)), place_name(cell, h, w)
        made.append((f"brightness of {where}", partial(_mean, cell=cell), carry, cell))
        if (cell[1] - cell[0]) * (cell[3] - cell[2]) > 1:
            made.append((f"contrast of {where}", partial(_spread, cell=cell), carry, cell))
            made.append((f"edges of {where}", partial(_edges, cell=cell), carry, cell))
    return made


def _halves(h: int, w: int) -> dict[str, Cell]:
    return {
        "the upper half": (0, h // 2, 0, w),
        "the lower half": (h // 2, h, 0, w),
        "the left half": (0, h, 0, w // 2),
        "the right half": (0, h, w // 2, w),
    }


def cells(h: int, w: int) -> list[Cell]:
    """A grid of about square cells, four along the shorter side, in reading order."""
    side = max(1, min(h, w) // CELLS)
    rows, columns = _edges_of(h, round(h / side)), _edges_of(w, round(w / side))
    return [(a, b, c, d) for a, b in pairwise(rows) for c, d in pairwise(columns)]


def _edges_of(length: int, parts: int) -> list[int]:
    return [round(length * i / parts) for i in range(parts + 1)]


def place_name(cell: Cell, h: int, w: int) -> str:
    """A part of the picture in words.

    Example:
        >>> place_name((0, 7, 0, 7), 28, 28), place_name((7, 14, 0, 28), 28, 28)
        ('the top left corner', 'rows 7-13, columns 0-27')
    """
    top, bottom, left, right = cell
    if cell in (halves := _halves(h, w)).values():
        return next(name for name, half in halves.items() if half == cell)
    small = bottom - top <= h // 2 and right - left <= w // 2
    if small and (top == 0 or bottom == h) and (left == 0 or right == w):
        return f"the {'top' if top == 0 else 'bottom'} {'left' if left == 0 else 'right'} corner"
    return f"rows {top}-{bottom - 1}, columns {left}-{right - 1}"


def mask_of(parts: list[Cell], h: int, w: int) -> Tensor:
    """`(h, w)` bool, true inside any of the cells."""
    mask = torch.zeros(h, w, dtype=torch.bool)
    for top, bottom, left, right in parts:
        mask[top:bottom, left:right] = True
    return mask


def carry_mask(mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Pastes what the donor shows inside the mask."""
    return partial(_paste, mask=mask)


def _paste(x: Tensor, donors: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.to(x.device), donors, x)


def _by_chunks(x: Tensor, measure: Callable[[Tensor], Tensor]) -> np.ndarray:
    return np.concatenate([measure(_pictures(part)).numpy() for part in x.split(_CHUNK)]).astype(np.float64)


def _pictures(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x[:, None] if x.ndim == 3 else x


def _crop(x: Tensor, cell: Cell | None) -> Tensor:
    return x if cell is None else x[:, :, cell[0] : cell[1], cell[2] : cell[3]]


def _mean(x: Tensor, cell: Cell | None = None) -> Tensor:
    return _crop(x, cell).mean(dim=(1, 2, 3))


def _mean_in(x: Tensor, mask: Tensor) -> Tensor:
    return x[:, :, mask].mean(dim=(1, 2))


def _spread(x: Tensor, cell: Cell | None = None) -> Tensor:
    return _crop(x, cell).mean(dim=1).flatten(1).std(dim=1, correction=0)


def _edges(x: Tensor, cell: Cell | None = None) -> Tensor:
    grey = _crop(x, cell).mean(dim=1)
    across, down = grey.diff(dim=2).abs().flatten(1), grey.diff(dim=1).abs().flatten(1)
    both = torch.cat([across, down], dim=1)
    return both.mean(dim=1)


def _sharpness(x: Tensor) -> Tensor:
    return _edges(x) / (_spread(x) + _TINY)


def _object_size(x: Tensor) -> Tensor:
    """Share of the pixels that differ clearly from the border's middle brightness."""
    grey = x.mean(dim=1)
    border = torch.cat([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], dim=1).median(dim=1).values
    scale = (grey.flatten(1).amax(dim=1) - grey.flatten(1).amin(dim=1)).clamp(min=_TINY)
    return ((grey - border[:, None, None]).abs() > 0.2 * scale[:, None, None]).float().mean(dim=(1, 2))


def _channel(x: Tensor, channel: int) -> Tensor:
    light = x.abs().mean(dim=(2, 3))
    return light[:, channel] / (light.sum(dim=1) + _TINY)


def _band_masks(h: int, w: int) -> Tensor:
    """`(BANDS, h, w // 2 + 1)` bool, rings of equal width on a logarithmic scale; the mean is in none."""
    ring = (torch.fft.fftfreq(h)[:, None].square() + torch.fft.rfftfreq(w)[None].square()).sqrt()
    low = 1 / min(h, w)
    place = ((ring / low).clamp(min=1e-3).log2() / np.log2(0.5 / low) * BANDS).floor().clamp(0, BANDS - 1)
    place[0, 0] = -1
    return torch.stack([place == b for b in range(BANDS)])


def _power(x: Tensor) -> tuple[Tensor, Tensor]:
    power = torch.fft.rfft2(x.mean(dim=1)).abs().square()
    power[:, :, 1:] *= 2  # the half of the plane that is not stored
    return power, _band_masks(*x.shape[2:])


def _band_share(x: Tensor, band: int) -> Tensor:
    power, masks = _power(x)
    return power[:, masks[band]].sum(dim=1) / (power[:, masks.any(dim=0)].sum(dim=1) + _TINY)


def _carry_brightness(x: Tensor, donors: Tensor) -> Tensor:
    """The donor's mean and its darkest tenth: exact for light that is added and for light that is multiplied."""
    low_x, low_d = (_per_row(t.flatten(1).quantile(0.1, dim=1), t) for t in (x, donors))
    mean_x, mean_d = (_per_row(t.flatten(1).mean(dim=1), t) for t in (x, donors))
    scale = torch.where(mean_x - low_x > _TINY, (mean_d - low_d) / (mean_x - low_x).clamp(min=_TINY), 1.0)
    return low_d + (x - low_x) * scale


def _carry_contrast(x: Tensor, donors: Tensor) -> Tensor:
    mean = _per_row(x.flatten(1).mean(dim=1), x)
    spread, wanted = (_per_row(t.flatten(1).std(dim=1, correction=0), t) for t in (x, donors))
    return mean + (x - mean) * wanted / spread.clamp(min=_TINY)


def _carry_colour(x: Tensor, donors: Tensor) -> Tensor:
    """The donor's share of every channel, the row's own light; a channel without light is drawn from the brightest one."""
    own, given = x.mean(dim=(2, 3), keepdim=True), donors.mean(dim=(2, 3), keepdim=True)
    wanted = given * own.sum(dim=1, keepdim=True) / given.sum(dim=1, keepdim=True).clamp(min=_TINY)
    brightest = x.amax(dim=1, keepdim=True)
    base = torch.where(own > 0.05 * own.amax(dim=1, keepdim=True), x, brightest.expand_as(x))
    return base * wanted / base.mean(dim=(2, 3), keepdim=True).clamp(min=_TINY)


def _carry_band(x: Tensor, donors: Tensor, band: int) -> Tensor:
    """The donor's share of power in one band, by scaling that band; the mean and all other bands stay."""
    mask = _band_masks(*x.shape[2:])[band].to(x.device)
    share, wanted = (_band_share(_pictures(t), band).clamp(_TINY, 1 - 1e-3).to(x.device) for t in (x, donors))
    gain = (wanted * (1 - share) / (share * (1 - wanted))).sqrt()
    spectrum = torch.fft.rfft2(x)
    spectrum = torch.where(mask, spectrum * gain[:, None, None, None], spectrum)
    return torch.fft.irfft2(spectrum, s=x.shape[2:])


def _per_row(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *([1] * (x.ndim - 1)))
