"""Where in an image the bits went when it was simplified, and a look at what is left that contrast does not deceive."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstcue.simplicity.density import Density, require_inputs
from firstcue.simplicity.density import bits as measure


@dataclass(frozen=True, eq=False)
class SavedMap:
    """Bits saved in each place of an image; negative where simplifying made it dearer."""

    bits: Tensor
    """`(n, h, w)` float64."""

    proxy: bool
    """False: the map sums to the bits saved. True: the density cannot say where its bits are; each tile shows what putting
    its simplified content into the original would save by itself, and tiles need not add up."""


def bits_saved_map(density: Density, x: Any, simplified: Any, *, tile: int = 4, seed: int = 0) -> SavedMap:
    """Bits of the original less those of the simplified image, place by place.

    Args:
        density: As for `fc.bits`. With a `bits_map` (autoregressive, DCT, per-pixel) the map is exact; without one (flows,
            codecs) tiles of the simplified image are put into the original one at a time, and bits measured again.
        x: Images `(n, c, h, w)` in [0, 1].
        simplified: `(n, c, h, w)` in [0, 1].
        tile: Side of a tile in pixels, for densities without a map.
        seed: Of the noise of a density over continuous values; both images get the same.

    Raises:
        ValueError: If shapes differ, or as for `fc.bits`.

    Example:
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> x = torch.rand(1, 1, 8, 8)
        >>> saved = bits_saved_map(DCTLaplace(), x, 0 * x)
        >>> saved.bits.shape, bool(saved.bits.sum() > 300), saved.proxy
        (torch.Size([1, 8, 8]), True, False)
    """
    before, after = (require_inputs(density, v, name).detach() for v, name in ((x, "x"), (simplified, "simplified")))
    if before.shape != after.shape:
        raise ValueError(
            f"`x` has shape {tuple(before.shape)}, `simplified` {tuple(after.shape)}; they must be the same."
        )
    if tile < 1:
        raise ValueError(f"`tile` is {tile}; at least one pixel is needed.")
    before, after = (v if v.dtype == torch.float64 else v.float() for v in (before, after))
    if hasattr(density, "bits_map"):
        with torch.no_grad():
            return SavedMap((density.bits_map(before) - density.bits_map(after)).double(), proxy=False)
    return SavedMap(_tile_by_tile(density, before, after, tile, seed), proxy=True)


def _tile_by_tile(density: Density, before: Tensor, after: Tensor, tile: int, seed: int) -> Tensor:
    n, _, h, w = before.shape
    whole = measure(density, before, seed=seed).double()
    found = torch.zeros(n, h, w, dtype=torch.float64, device=before.device)
    for top in range(0, h, tile):
        for left in range(0, w, tile):
            place = (..., slice(top, top + tile), slice(left, left + tile))
            mixed = before.clone()
            mixed[place] = after[place]
            saved = whole - measure(density, mixed, seed=seed).double()
            area = found[place].shape[-2] * found[place].shape[-1]
            found[place] = (saved / area)[:, None, None]
    return found


def contrast_normalised(x: Any) -> Tensor:
    """Each image stretched to the whole of [0, 1]; one without contrast becomes mid-grey.

    Bits fall fastest when contrast does, so a paler image is not one from which something was removed: look at both.

    Args:
        x: `(n, c, h, w)`.

    Example:
        >>> contrast_normalised(torch.tensor([0.4, 0.5, 0.6]).view(1, 1, 1, 3)).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    images = x.detach() if isinstance(x, Tensor) else torch.as_tensor(x)
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    flat = high - low < 1 / 255 / 2
    return torch.where(flat, 0.5, (images - low) / torch.where(flat, 1.0, high - low))
