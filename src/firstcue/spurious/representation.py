"""A representation as rows: an array, or what a network or a callable makes of the inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite, require_rows
from firstcue.batch import Batch


def features_of(representation: Any, batch: Batch, name: str) -> Tensor:
    """`(n, d)` float64 on the CPU."""
    if callable(representation) and not isinstance(representation, Tensor):
        representation = _called(representation, batch.x)
    x = as_tensor(representation, name).detach().cpu()
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"`{name}` has shape {tuple(x.shape)}; (n, d) is needed: pool maps and sequences, as x.mean((2, 3)) does."
        )
    require_rows(x, batch.y, name)
    require_finite(x, name)
    return x.double()


def _called(representation: Callable[[Tensor], Any], x: Tensor, rows: int = 1024) -> Tensor:
    """The representation of `x` by chunks, without gradients; a module is put in eval mode and back."""
    modes = [(m, m.training) for m in representation.modules()] if isinstance(representation, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            return torch.cat([as_tensor(representation(part), "representation") for part in x.split(rows)])
    finally:
        for module, training in modes:
            module.training = training
