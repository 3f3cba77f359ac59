"""Images as densities know them, in [0, 1], and back as a model wants them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from firstcue.simplicity.density import Density
from firstcue.simplicity.loading import load_density


@dataclass(frozen=True)
class UnitImages:
    """Images in [0, 1] and the way back."""

    images: Float[Tensor, "n c h w"]
    to_inputs: Callable[[Tensor], Tensor]
    """Makes the model's inputs of images in [0, 1]."""

    from_inputs: Callable[[Tensor], Tensor]
    """Makes images in [0, 1] of other inputs of the same kind."""

    note: str
    """How they were rescaled; empty if they were not."""


def unit_images(x: Tensor) -> UnitImages | None:
    """Inputs as images in [0, 1]; None where they are no images with one to four channels.

    Args:
        x: `(n, c, h, w)` in whatever range the model expects. Values that leave [0, 1] are rescaled by the smallest and the
            largest value of all images, which is said in `note`.

    Example:
        >>> import torch
        >>> found = unit_images(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2))
        >>> found.images.flatten().tolist(), found.to_inputs(found.images).flatten().tolist()
        ([0.0, 1.0], [-1.0, 1.0])
    """
    if x.ndim != 4 or x.shape[1] > 4 or len(x) == 0:
        return None
    values = x.detach().float()
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return UnitImages(values, _same, _same, "")
    if low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    note = f"Images were rescaled from [{low:.4g}, {high:.4g}] to [0, 1] to be measured in bits."
    back = partial(_unscaled, low=low, high=high)
    return UnitImages(back(values), partial(_scaled, low=low, high=high), back, note)


def fitting_density(images: Float[Tensor, "n c h w"], name: str | None = None) -> tuple[Density, str]:
    """The density by that name, or the shipped one that knows such images: gray28 for grey 28 x 28, else dct; and its name."""
    chosen = name or ("gray28" if tuple(images.shape[1:]) == (1, 28, 28) else "dct")
    density: Any = load_density(chosen)
    return density, chosen


def _same(x: Tensor) -> Tensor:
    return x


def _scaled(x: Tensor, low: float, high: float) -> Tensor:
    return x * (high - low) + low


def _unscaled(x: Tensor, low: float, high: float) -> Tensor:
    return ((x.float() - low) / (high - low)).clamp(0, 1)
