"""Where an optimisation over images begins, and in which coordinates it moves: pixels, or the latents of a flow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from firstcue.simplicity.density import Density
from firstcue.simplicity.quantising import quantised

DEPTH = 4
"""Scales of an image that are moved at once, each half as fine as the one before."""
EDGE = 0.25 / 255
"""Black and white, a quarter of a grey level inside, where the logistic function still has a slope."""


@dataclass(frozen=True)
class Coordinates:
    """What is optimised, and the images that it stands for."""

    free: tuple[Tensor, ...]
    """Leaves with one row per image."""

    images: Callable[[Sequence[Tensor]], Tensor]
    """`(n, c, h, w)` on the lattice of grey levels, with a gradient."""

    rate: float
    """Step size that suits these coordinates."""


def coordinates(start: str, x: Tensor, density: Density) -> Coordinates:
    """Where to begin.

    Args:
        start: "pixels" begins at the image itself, "latent" at its latents, "latent-zero" at the density's mode.
        x: `(n, c, h, w)` in [0, 1].
        density: A flow, for the latter two.

    Raises:
        ValueError: If there is no such start, or the density has no latents.
    """
    if start == "pixels":
        return _pyramid(x, density.levels)
    if start not in ("latent", "latent-zero"):
        raise ValueError(f"there is no start {start!r}; starts: 'pixels', 'latent', 'latent-zero'.")
    encode, decode = getattr(density, "encode", None), getattr(density, "decode", None)
    if not callable(encode) or not callable(decode):
        raise ValueError(
            f"start={start!r} moves in the latents of a flow, and {type(density).__name__} has none (encode, decode). "
            f'Take fc.load_density("gray28-glow"), or start="pixels".'
        )
    with torch.no_grad():
        leaves, rebuild = _flat(encode(x))
    free = tuple((z.detach().clone() if start == "latent" else torch.zeros_like(z)).requires_grad_() for z in leaves)
    return Coordinates(free, lambda now: quantised(decode(rebuild(now)), density.levels), 0.03)


def _pyramid(x: Tensor, levels: int) -> Coordinates:
    """Pixels and coarser scales of the same image, added before the logistic function.

    Areas can so become even in a few steps; pixels moved one by one stay as rough as the steps are.
    """
    base = x.detach().clamp(EDGE, 1 - EDGE).logit()
    height, width = x.shape[2:]
    sizes = [(-(-height // 2**k), -(-width // 2**k)) for k in range(DEPTH) if min(height, width) >= 2**k]
    free = tuple(torch.zeros(*x.shape[:2], *size, dtype=x.dtype, device=x.device).requires_grad_() for size in sizes)

    def images(now: Sequence[Tensor]) -> Tensor:
        moved = base + now[0]
        for coarse in now[1:]:
            moved = moved + interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        return quantised(moved.sigmoid(), levels)

    return Coordinates(free, images, 1.0)


def _flat(latents: Any) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of latents, and how to put them together again."""
    if isinstance(latents, Tensor):
        return (latents,), lambda parts: parts[0]
    if isinstance(latents, tuple | list):
        kind = type(latents)
        return tuple(latents), lambda parts: kind(parts)
    raise ValueError(f"the density's latents are a {type(latents).__name__}; a tensor or a list of tensors is needed.")
