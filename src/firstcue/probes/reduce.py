"""A wide table seen through its leading whitened principal directions, for probes whose cost grows with the width."""

import torch
from torch import Tensor

from firstcue._rows import in_parts
from firstcue.linalg import EPS

ROWS = 5_000
"""Rows from which directions are found."""

CHUNK = 1024


def reduced(x: Tensor, used: Tensor, most: int, seed: int) -> tuple[Tensor, str]:
    """`(n, r)` float32 coordinates of all rows of `x`, and a note where directions were left out.

    Up to `most` features are only standardised; of more, the leading principal directions of the standardised features are
    taken and whitened. No label is looked at. Few rows allow few directions: n / 8, at least 8.

    Args:
        x: `(n, d)`.
        used: `(m,)` ids of the rows that decide; at most 5,000 of them do.
        most: Directions at the most.
        seed: Of the rows drawn and the search for directions.
    """
    if len(used) > ROWS:
        pick = torch.randperm(len(used), generator=torch.Generator().manual_seed(seed))[:ROWS]
        used = used[pick.sort().values]
    some = x[used.to(x.device)].cpu()
    mean, spread = _mean_and_spread(some)
    scale = torch.where(spread > 64 * EPS * mean.abs(), spread, torch.inf)
    limit = min(most, max(8, len(used) // 8))
    if x.shape[1] <= limit:
        varies = torch.isfinite(scale)
        turn = torch.diag_embed(1 / scale)[:, varies]
        return _projected(x, mean, turn), ""
    # one float32 table is all the memory this takes: a wide input may be most of what there is
    shift = mean.to(some.dtype if some.is_floating_point() else torch.float64)
    standard = in_parts(some, lambda part: ((part - shift) / scale).float(), some.shape[1], dtype=torch.float32)
    directions = _principal(standard, limit, seed)
    note = f"{directions.shape[1]} of {x.shape[1]} directions, the leading principal ones of standardised features"
    return _projected(x, mean, directions / scale[:, None]), note


def _mean_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column in float64, part by part."""
    mean = sum((part.double().sum(dim=0) for part in x.split(CHUNK)), torch.zeros(())) / max(1, len(x))
    square = sum(((part.double() - mean).square().sum(dim=0) for part in x.split(CHUNK)), torch.zeros(()))
    return mean, (square / max(1, len(x))).sqrt()


def _principal(standard: Tensor, most: int, seed: int) -> Tensor:
    """`(d, r)` directions along which rows have unit variance."""
    from sklearn.decomposition import PCA

    found = PCA(min(most, *standard.shape), copy=False, random_state=seed).fit(standard.numpy())
    variance = torch.from_numpy(found.explained_variance_).double()
    kept = variance > 1e-6 * variance.max()
    return torch.from_numpy(found.components_).double()[kept].mT / variance[kept].sqrt()


def _projected(x: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    narrow = directions.float()
    if narrow.shape[1] == 0:  # nothing varies: one column that says so
        return torch.zeros(len(x), 1)
    return in_parts(x, lambda part: (part.cpu().double() - mean).float() @ narrow, narrow.shape[1], dtype=torch.float32)
