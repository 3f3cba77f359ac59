"""Hard inputs: unequal classes, constant and copied features, few rows, large means, extreme units."""

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(
    n: int = 600, d: int = 8, k: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Correlated features and classes of unequal size, all present, whose means and covariances differ."""
    g = generator(seed)
    share = torch.arange(1, k + 1, dtype=torch.float64)
    z = torch.multinomial(share, n, replacement=True, generator=g)
    z[:k] = torch.arange(k)
    mix = torch.randn(k, d, d, generator=g, dtype=torch.float64) / d**0.5 + torch.eye(d, dtype=torch.float64)
    noise = torch.randn(n, d, generator=g, dtype=torch.float64)
    x = torch.randn(k, d, generator=g, dtype=torch.float64)[z]
    for c in range(k):
        x[z == c] += noise[z == c] @ mix[c]
    return x.to(dtype), z


def hard() -> dict[str, tuple[Tensor, Tensor]]:
    """Named pairs (x, z) that break careless code."""
    x, z = labelled()
    constant, copied, mixed = x.clone(), x.clone(), x.clone()
    constant[:, 2] = 0.1
    copied[:, 1] = copied[:, 0]
    mixed *= torch.logspace(-6, 6, x.shape[1], dtype=x.dtype)
    wide, wide_z = labelled(n=20, d=50)
    rare = torch.zeros(600, dtype=torch.int64)
    rare[:3] = 1
    return {
        "plain": (x, z),
        "constant feature": (constant, z),
        "copied feature": (copied, z),
        "units from 1e-6 to 1e6": (mixed, z),
        "mean 1e6 times the spread": (x + 1e6, z),
        "tiny": (x * 1e-6, z),
        "fewer rows than features": (wide, wide_z),
        "rare class": (x + 3.0 * rare[:, None], rare),
        "one feature": (x[:, :1], z),
        "float32": (x.float(), z),
        "float16": (x.half(), z),
        "a class of one row": (x, torch.where(torch.arange(len(x)) == 5, 3, z)),
    }
