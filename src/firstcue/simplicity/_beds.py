"""The ways of putting a distraction into images, each with both parts in the clean."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

HALF_TURNS = 11
"""Of the stripes, across an image; half its side if that is fewer, so that pixels can show them."""
PATCH = 7
"""A patch has a seventh of the side of an image."""


@dataclass(frozen=True)
class Made:
    """What one way of distracting gives back."""

    images: Tensor
    core: Tensor
    distractor: Tensor
    value: Tensor | None = None
    names: tuple[str, ...] = ()


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Images of another size, in [0, 1]."""
    size = (height, width)
    return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def side_by_side(core: Tensor, other: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each in its half, the other half black."""
    h, w = core.shape[2:]
    if w < 2:
        raise ValueError(f"images of width {w} cannot be put side by side; at least 2 pixels are needed.")
    core_first = (torch.rand(len(core), generator=generator) < 0.5)[:, None, None, None].to(core.device)
    black = core.new_zeros(*core.shape[:3], 1)

    def placed(images: Tensor, first: bool) -> Tensor:
        size = w // 2 if first else w - w // 2
        half, rest = resized(images, h, size), black.expand(-1, -1, -1, w - size)
        return torch.cat([half, rest] if first else [rest, half], dim=-1)

    return (
        torch.where(core_first, placed(core, True), placed(core, False)),
        torch.where(core_first, placed(other, False), placed(other, True)),
    )


def _stripes(core: Tensor, s: float, generator: torch.Generator) -> Made:
    n, _, h, w = core.shape
    down = (torch.rand(n, generator=generator) < 0.5).to(core.device)

    def wave(size: int) -> Tensor:
        turns = min(HALF_TURNS, max(1, size // 2)) * torch.pi
        return 0.5 + 0.5 * torch.sin(torch.linspace(0, turns, size, dtype=core.dtype, device=core.device))

    pattern = torch.where(down[:, None, None, None], wave(h)[:, None], wave(w)[None, :]).expand_as(core).contiguous()
    return Made((1 - s) * core + s * pattern, core, pattern, down.long(), ("varies across", "varies down"))


def _noise(core: Tensor, s: float, generator: torch.Generator) -> Made:
    u = torch.rand(core.shape, generator=generator, dtype=core.dtype).to(core.device)
    grain = core * (u - 0.5)
    return Made((1 - s / 2) * core + s * grain, core, grain)


def _uniform(core: Tensor, s: float, generator: torch.Generator) -> Made:
    level = torch.rand(len(core), 1, 1, 1, generator=generator, dtype=core.dtype).to(core.device)
    grey = level.expand_as(core).contiguous()
    return Made((1 - s) * core + s * grey, core, grey)


DRAWN: dict[str, Callable[[Tensor, float, torch.Generator], Made]] = {
    "stripes": _stripes,
    "noise": _noise,
    "uniform": _uniform,
}


def patch(core: Tensor, ids: Tensor | None, classes: tuple[str, ...], s: float, generator: torch.Generator) -> Made:
    """A white square whose place goes with the label in a share `s` of the rows."""
    if ids is None or len(classes) < 2:
        raise ValueError('"patch" needs `labels` with at least two classes: the place of the patch goes with them.')
    h, w = core.shape[2:]
    size = max(1, min(h, w) // PATCH)
    per_row = w // size
    if len(classes) > per_row * (h // size):
        raise ValueError(
            f"{len(classes)} classes need as many places, but images of {h} x {w} have {per_row * (h // size)}."
        )
    agrees = torch.rand(len(core), generator=generator) < s
    step = torch.randint(1, len(classes), (len(core),), generator=generator)
    value = torch.where(agrees.to(ids.device), ids, (ids + step.to(ids.device)) % len(classes))
    rows, columns = torch.arange(h)[None, :, None] // size, torch.arange(w)[None, None, :] // size
    place = value.cpu()[:, None, None]
    mask = ((rows == place // per_row) & (columns == place % per_row))[:, None].to(core)
    return Made(core * (1 - mask) + mask, core * (1 - mask), mask.expand_as(core).contiguous(), value, classes)
