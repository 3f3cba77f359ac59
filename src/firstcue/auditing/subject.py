"""What is audited: a model with a linear head, or embeddings with one; either way logits, features and perhaps a head."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from firstcue.auditing.edited import edited_inputs
from firstcue.batch import Batch
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
    depth: Mapping[str, Tensor] = field(default_factory=dict)
    """`(m, d)` activations by layer, in order of depth, of the held-out rows that are probed."""
    edited: Callable[[Batch, int, Tensor], Tensor] | None = None
    """Logits of rows (ids) of the held-out rows with their cue set to a value; asks `predict` anew when None."""
    embeds: bool = False
    """Whether the model looks its inputs up in a table of embeddings: integers are then ids of tokens, else numbers."""

    @property
    def decisions(self) -> Tensor:
        """`(n,)` predicted class ids."""
        return self.logits.argmax(dim=1)

    def right_by_value(self, held: Batch, rows: Tensor) -> Tensor | None:
        """`(len(rows), V)` whether rows are classified right with their cue set to each value; None if nobody can say."""
        if held.edit is None or self.predict is None:
            return None
        if self.edited is None:
            answers = [self.predict(x) for x in edited_inputs(held, rows)]
        else:
            answers = [self.edited(held, value, rows) for value in range(held.num_values)]
        return torch.stack([logits.argmax(dim=1) == held.y[rows] for logits in answers], dim=1)


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
