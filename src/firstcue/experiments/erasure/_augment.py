"""Random crops and flips of whole batches."""

import torch
from torch import Tensor
from torch.nn.functional import pad

KINDS = ("none", "crop", "crop and flip")


def augmented(maps: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Each image `(n, c, h, w)` cut out of itself padded by an eighth of its side, and flipped left to right or not.

    Example:
        >>> augmented(torch.ones(2, 1, 8, 8), "crop", torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """
    if kind not in KINDS:
        raise ValueError(f"`augment` is one of {', '.join(KINDS)}; got {kind!r}.")
    if kind == "none":
        return maps
    n, _, h, w = maps.shape
    edge = round(h / 8)
    wide = pad(maps, (edge,) * 4)
    down, right = torch.randint(2 * edge + 1, (2, n), generator=generator)
    rows, columns = down[:, None] + torch.arange(h), right[:, None] + torch.arange(w)
    if kind == "crop and flip":
        flip = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    return wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
