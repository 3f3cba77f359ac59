"""What is audited: a model with a linear head, or embeddings with one; either way logits, features and perhaps a head."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from firstcue.layers import Head


@dataclass(frozen=True)
class Subject:
    """The model's answers on held-out rows, computed once and used by every measurement."""

    logits: Tensor
    """`(n, K)`."""
    features: Tensor | None = None
    """`(n, d)` what the head reads; None when no linear head was found."""
    head: Head | None = None
    predict: Callable[[Tensor], Tensor] | None = None
    """Logits of other inputs; None for embeddings."""
    own: bool = True
    """False when the head was fitted here, so that it speaks of linear models on these embeddings only."""

    @property
    def decisions(self) -> Tensor:
        """`(n,)` predicted class ids."""
        return self.logits.argmax(dim=1)


def linear_readout(features: Tensor, outputs: Tensor, *, tolerance: float = 1e-4) -> Head | None:
    """The head whose outputs these are, if they are linear in the features.

    Args:
        features: `(n, d)`.
        outputs: `(n, K)`.
        tolerance: Largest residual relative to the largest centred output.

    Returns:
        The head by least squares, or None when the residual exceeds the tolerance, or n <= d + 1, where any outputs fit.

    Example:
        >>> x = torch.arange(12.0).reshape(6, 2).sin()
        >>> linear_readout(x, x @ torch.eye(2) + 1).bias.round().tolist()
        [1.0, 1.0]
    """
    n, d = features.shape
    if n <= d + 1:
        return None
    rows = torch.arange(0, n, max(1, n // (4 * d + 1000)))  # enough rows to determine the map; all are verified below
    x, f = features[rows].double(), outputs[rows].double()
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(design, f, driver="gelsd").solution
    head = Head("embeddings", solution[:-1].mT.contiguous(), solution[-1])
    centred = outputs - outputs.mean(dim=0)
    residual = max(
        float((head(part.double()) - out).abs().max())
        for part, out in zip(features.split(4096), outputs.split(4096), strict=True)
    )
    return head if residual <= tolerance * float(centred.abs().max()) else None
